//! Taps beside honest senders and receivers, and over whatever hostile ones may leave.

use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{Departure, Receiver, Segment, Sender, TrySendError};

type Ends = (Queue<[u8]>, Sender<[u8]>, Receiver<[u8]>);

fn queue(bytes: usize) -> Ends {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<[u8]>::options().capacity(bytes).create(&segment, "queue").unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    (queue, sender, receiver)
}

/// Bytes that tell their number and length, all of them.
fn message(number: u64, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|i| (number * 31 + i as u64) as u8).collect();
    bytes.extend((number << 20 | length as u64).to_le_bytes());
    bytes
}

/// The number of a message, if it is one.
fn number(bytes: &[u8]) -> Option<u64> {
    let last = u64::from_le_bytes(*bytes.last_chunk()?);
    (bytes == message(last >> 20, (last & 0xf_ffff) as usize)).then_some(last >> 20)
}

#[test]
fn messages_are_seen_once_in_every_state_until_their_slots_are_used_again() {
    let (queue, sender, receiver) = queue(4096);
    let mut tap = queue.tap();
    // Long ones, too, over the end of the ring and many laps.
    for (number, length) in (0..500).zip([0, 100, 63, 900, 64, 2000].into_iter().cycle()) {
        let expected = Some(message(number, length));
        sender.send(&message(number, length)).unwrap();
        match number % 4 {
            0 => assert_eq!(tap.try_next(), expected, "FULL"),
            1 => {
                let frame = receiver.recv().unwrap();
                assert_eq!(tap.try_next(), expected, "READING");
                drop(frame);
            }
            2 => {
                receiver.recv().unwrap().give_back();
                assert_eq!(tap.try_next(), expected, "ORPHAN");
            }
            _ => {
                while receiver.try_recv().is_ok() {}
                assert_eq!(tap.try_next(), expected, "received");
            }
        }
        assert_eq!(tap.try_next(), None);
    }
    assert_eq!(tap.missed(), 0);
}

#[test]
fn beside_a_word_are_the_length_and_the_lap_counted_from_1() {
    let (queue, sender, receiver) = queue(4096);
    let first = queue.channel.slots().cast::<[AtomicU64; 2]>();
    for lap in 1..4 {
        sender.send(b"five!").unwrap();
        // SAFETY: the first slot, two words.
        let payload = unsafe { first.as_ref() }[1].load(Ordering::Relaxed);
        assert_eq!(payload, lap << 41 | 5);
        receiver.recv_vec().unwrap();
        for _ in 1..queue.ring.capacity() {
            sender.send(b"").unwrap();
            receiver.recv_vec().unwrap();
        }
    }
}

#[test]
fn it_begins_with_what_is_there_and_takes_nothing() {
    let (queue, sender, receiver) = queue(4096);
    for number in 0..50 {
        sender.send(&message(number, 40)).unwrap();
    }
    for _ in 0..7 {
        receiver.recv_vec().unwrap();
    }
    for mut tap in [queue.tap(), queue.tap()] {
        assert!((7..50).all(|number| tap.try_next() == Some(message(number, 40))));
        assert_eq!(tap.try_next(), None);
    }
    assert!((7..50).all(|number| receiver.recv_vec() == Ok(message(number, 40))));
}

#[test]
fn what_was_not_sent_is_not_seen() {
    let (queue, sender, receiver) = queue(4096);
    let mut tap = queue.tap();
    for number in 0..300 {
        // What is left there looks like a message of an earlier lap.
        let mut room = sender.reserve(500).unwrap();
        room[..48].copy_from_slice(&message(99, 40));
        drop(room);
        // More was reserved than is used; behind the message lies what others have left.
        let mut room = sender.reserve(900).unwrap();
        room[..48].copy_from_slice(&message(number, 40));
        room.commit(48);
        if number % 2 == 0 {
            receiver.recv_vec().unwrap();
        }
        assert_eq!(tap.try_next(), Some(message(number, 40)));
        assert_eq!(tap.try_next(), None);
        while receiver.try_recv().is_ok() {}
    }
    assert_eq!(tap.missed(), 0);
}

#[test]
fn one_that_is_being_written_is_waited_for() {
    let (queue, sender, _receiver) = queue(4096);
    let mut tap = queue.tap();
    let mut room = sender.reserve(48).unwrap();
    sender.send(&message(1, 40)).unwrap();
    assert_eq!(tap.try_next(), None);
    room.copy_from_slice(&message(0, 40));
    room.commit(48);
    assert_eq!([tap.try_next(), tap.try_next()], [Some(message(0, 40)), Some(message(1, 40))]);
}

#[test]
fn what_was_written_over_is_missed_and_the_rest_is_seen() {
    let (queue, sender, receiver) = queue(4096);
    let mut tap = queue.tap();
    for number in 0..1000 {
        sender.send(&message(number, 40)).unwrap();
        receiver.recv_vec().unwrap();
    }
    let seen: Vec<u64> = core::iter::from_fn(|| tap.try_next()).map(|bytes| number(&bytes).unwrap()).collect();
    assert_eq!(seen.last(), Some(&999));
    assert!(seen.is_sorted() && seen.len() as u64 + tap.missed() == 1000, "{} and {}", seen.len(), tap.missed());

    // A run that begins in front of a slot covers it, and its word does not change.
    sender.send(&message(0, 40)).unwrap();
    receiver.recv_vec().unwrap();
    let behind = queue.ring.capacity();
    for _ in 0..behind - 5 {
        sender.send(b"").unwrap();
        receiver.recv_vec().unwrap();
    }
    let mut room = sender.reserve(640).unwrap();
    room.fill(0xee);
    let seen = tap.try_next();
    assert!(seen.is_none_or(|bytes| bytes.is_empty()), "it was being written over");
    drop(room);
}

#[test]
fn a_message_was_there_until_its_first_slot_is_claimed_again() {
    let (queue, sender, receiver) = queue(4096);
    for _ in 0..queue.ring.capacity() {
        sender.send(b"").unwrap();
        receiver.recv_vec().unwrap();
    }
    let was_there = || queue.ring.was_there(0, queue.channel.mode());
    assert!(was_there());
    let room = sender.reserve(1).unwrap();
    assert!(!was_there());
    drop(room);
    assert!(!was_there());
}

#[test]
fn beside_senders_and_receivers_at_full_speed_all_that_is_seen_was_sent() {
    const EACH: u64 = if cfg!(debug_assertions) { 20_000 } else { 500_000 };
    let (queue, sender, receiver) = queue(4096);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let senders = [0, 1].map(|odd| {
            let sender = sender.clone();
            scope.spawn(move || {
                for number in 0..EACH {
                    let number = 2 * number + odd;
                    sender.send(&message(number, [0, 300, 40, 1000, 7][number as usize % 5])).unwrap();
                }
            })
        });
        for _ in 0..2 {
            let receiver = receiver.clone();
            scope.spawn(move || while receiver.recv().is_ok() {});
        }
        let tapping = scope.spawn(|| {
            let mut tap = queue.tap();
            let (mut last, mut seen) = ([None, None], 0_u64);
            while let Ok(bytes) = tap.next() {
                let number = number(&bytes).expect("a whole message");
                let last = &mut last[number as usize % 2];
                assert!(*last < Some(number), "{number} after {last:?}");
                *last = Some(number);
                seen += 1;
            }
            over.store(true, Ordering::Relaxed);
            assert!(seen > 0 && seen + tap.missed() >= 2 * EACH, "{seen} seen, {} missed", tap.missed());
        });
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        drop(sender);
        tapping.join().unwrap();
    });
    assert!(over.load(Ordering::Relaxed));
}

#[test]
fn it_waits_and_ends_as_a_receive_does() {
    let (queue, sender, receiver) = queue(4096);
    let mut tap = queue.tap();
    let timeout = Err(RecvTimeoutError::Timeout);
    assert_eq!(tap.next_timeout(Duration::from_millis(1)), timeout);
    thread::scope(|scope| {
        scope.spawn(|| sender.send(b"late").unwrap());
        assert_eq!(tap.next().unwrap(), b"late");
    });
    sender.send(b"last").unwrap();
    drop(sender);
    assert_eq!(tap.next().unwrap(), b"last");
    assert_eq!(tap.next(), Err(RecvError::Disconnected { peer: Departure::Closed }));
    queue.close();
    assert_eq!(tap.next(), Err(RecvError::Closed));
    assert!(receiver.recv().is_ok());
}

#[test]
fn taps_take_no_wake_from_receivers_and_receivers_none_from_taps() {
    let (queue, sender, receiver) = queue(4096);
    let header = queue.channel.header();
    // How often somebody has gone to sleep there: see `Event`.
    let slept_on = |event: &crate::event::Event| {
        // SAFETY: an event is two words, of which the second is atomic and has this number in its upper half.
        let tickets = unsafe { &*core::ptr::from_ref(event).cast::<AtomicU64>().wrapping_add(1) };
        tickets.load(Ordering::Relaxed) >> 32
    };
    let (not_empty, not_full) = (|| slept_on(&header.not_empty), || slept_on(&header.not_full));
    for _ in 0..20 {
        let slept = [not_empty(), not_full()];
        thread::scope(|scope| {
            let taps = [0; 3].map(|_| {
                let mut tap = queue.tap();
                scope.spawn(move || tap.next())
            });
            let received = scope.spawn(|| receiver.recv_vec());
            // All of them are asleep, or about to be.
            while not_empty() == slept[0] || not_empty() + not_full() < slept[0] + slept[1] + 4 {
                thread::yield_now();
            }
            sender.send(b"for everybody").unwrap();
            assert_eq!(received.join().unwrap().unwrap(), b"for everybody");
            for tap in taps {
                assert_eq!(tap.join().unwrap().unwrap(), b"for everybody");
            }
        });
    }
    assert_eq!(sender.try_send(&[0; 4097]), Err(TrySendError::TooLarge { message: (), len: 4097, max: 4096 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any words, any numbers beside them, any hints: every call ends, and no message is longer than the queue.
    #[test]
    fn hostile_words_cannot_lead_it_astray(
        words in vec((0..5_u64, 0..70_u64, 0..8_u64, any::<u64>(), any::<bool>()), 64),
        hints in [prop_oneof![0..300_u64, any::<u64>()], prop_oneof![0..300_u64, any::<u64>()]],
    ) {
        let (queue, _sender, _receiver) = queue(4096);
        let header = queue.channel.header();
        header.head.store(hints[0], Ordering::Relaxed);
        header.tail.store(hints[1], Ordering::Relaxed);
        for (index, (lap, extra, state, payload, wild)) in words.into_iter().enumerate() {
            let slot = queue.channel.slots().cast::<[AtomicU64; 2]>().as_ptr().wrapping_add(index);
            let word = if wild { payload.rotate_left(7) } else { ((lap * 64 + extra) << 12) | (state << 9) };
            // SAFETY: 64 slots of two words, all atomics.
            let [first, second] = unsafe { &*slot };
            first.store(word, Ordering::Relaxed);
            // As long as it can be, or about as long as what there is.
            let length = if payload % 3 == 0 { payload >> 23 } else { payload % 5000 };
            second.store(if wild { payload } else { (lap << 41) | length }, Ordering::Relaxed);
        }
        let mut tap = queue.tap();
        for _ in 0..200 {
            if let Some(message) = tap.try_next() {
                prop_assert!(message.len() <= 4096);
            }
        }
    }
}
