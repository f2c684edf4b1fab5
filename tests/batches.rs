//! Several messages in one call: rows of an `SpscQueue` that are written and read in place, and runs of a `Queue`. What a kill
//! leaves of them: `sweep.rs`.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use gimmal::spsc::{Receiver, Sender};
use gimmal::{Departure, Queue, RecvError, Segment, SendError, SpscQueue, TryRecvError, TrySendError};
use support::{LONG, state_of_thread, until};

// --- rows of an SPSC queue ---

/// A queue and both of its ends.
struct Ring {
    queue: SpscQueue<u64>,
    sender: Sender<u64>,
    receiver: Receiver<u64>,
}

impl Ring {
    fn new(capacity: usize) -> Self {
        let segment = Segment::anonymous().unwrap();
        let options = SpscQueue::<u64>::options().capacity(capacity);
        let queue = options.create_spsc::<u64>(&segment, "queue").unwrap();
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        Self { queue, sender, receiver }
    }

    /// One through which `passed` messages have gone.
    fn used(capacity: usize, passed: u64) -> Self {
        let mut ring = Self::new(capacity);
        for n in 0..passed {
            ring.sender.try_send(n).unwrap();
            assert_eq!(ring.receiver.try_recv(), Ok(n));
        }
        ring
    }

    /// What is there, which is then gone.
    fn drain(&mut self) -> Vec<u64> {
        self.receiver.try_iter().collect()
    }
}

/// What a call that must panic has to say.
fn panic_of(act: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(act)).expect_err("no panic");
    payload.downcast_ref::<String>().expect("a message with numbers").clone()
}

#[test]
fn a_row_is_sent_as_far_as_commit_says_and_by_nothing_else() {
    let mut ring = Ring::new(8);
    let mut slots = ring.sender.try_reserve_slice(5).unwrap();
    assert_eq!(slots.len(), 5);
    slots.copy_from_slice(&[1, 2, 3, 4, 5]);
    assert_eq!((ring.queue.len(), ring.receiver.try_recv()), (0, Err(TryRecvError::Empty)));
    slots.commit(3);
    assert_eq!(ring.queue.len(), 3);
    let mut slots = ring.sender.reserve_slice(5).unwrap();
    slots.fill(99);
    drop(slots);
    ring.sender.reserve_slice(5).unwrap().commit(0);
    assert_eq!(ring.queue.len(), 3);
    // What was written and not committed has not been used up either.
    let mut slots = ring.sender.reserve_slice(5).unwrap();
    assert_eq!(slots.len(), 5);
    slots.copy_from_slice(&[4, 5, 6, 7, 8]);
    slots.commit(5);
    assert!(ring.queue.is_full());
    assert_eq!(ring.drain(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_row_that_is_released_in_part_leaves_the_others_as_the_next() {
    let mut ring = Ring::new(8);
    ring.sender.send_slice(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    let guard = ring.receiver.recv_slice(4).unwrap();
    assert_eq!((&guard[..], format!("{guard:?}")), (&[1, 2, 3, 4][..], "[1, 2, 3, 4]".to_owned()));
    assert_eq!(ring.queue.len(), 8, "nothing was received yet");
    assert_eq!(ring.sender.try_send(9), Err(TrySendError::Full(9)), "and no slot is free");
    guard.release(1);
    assert_eq!(ring.queue.len(), 7);
    ring.sender.try_send(9).unwrap();
    ring.receiver.try_recv_slice(3).unwrap().release(3);
    assert_eq!(ring.receiver.try_recv(), Ok(5));
    ring.receiver.try_recv_slice(2).unwrap().give_back();
    assert_eq!(ring.queue.len(), 4);
    // Dropped: all of them. The row ends with the memory, of which 9 begins a new lap.
    assert_eq!(ring.receiver.recv_slice(9).unwrap()[..], [6, 7, 8]);
    assert_eq!(ring.receiver.recv_slice(9).unwrap()[..], [9]);
    assert!(matches!(ring.receiver.try_recv_slice(1), Err(TryRecvError::Empty)));
    // Every slot has come back.
    assert_eq!(ring.sender.try_send_slice(&[0; 9]), Ok(8));
}

#[test]
fn a_row_ends_where_the_memory_does_and_the_next_one_goes_on() {
    let mut ring = Ring::used(8, 6);
    let mut slots = ring.sender.try_reserve_slice(8).unwrap();
    assert_eq!(slots.len(), 2);
    slots.copy_from_slice(&[1, 2]);
    slots.commit(2);
    let mut slots = ring.sender.reserve_slice(8).unwrap();
    assert_eq!(slots.len(), 6);
    slots.copy_from_slice(&[3, 4, 5, 6, 7, 8]);
    slots.commit(6);
    assert!(ring.queue.is_full());
    assert_eq!(ring.receiver.try_recv_slice(8).unwrap()[..], [1, 2]);
    assert_eq!(ring.receiver.recv_slice(8).unwrap()[..], [3, 4, 5, 6, 7, 8]);
    assert!(ring.queue.is_empty());
}

/// Whatever the sizes and wherever the ring is, rows are a stream without holes.
#[test]
fn rows_of_all_sizes_at_all_places_bring_each_message_once_and_in_order() {
    for capacity in [1, 2, 8] {
        let mut ring = Ring::new(capacity);
        let (mut sent, mut received) = (0..2_000_u64, 0..2_000_u64);
        for step in 0..1_000_000 {
            let most = step % (capacity + 2);
            if let Ok(mut slots) = ring.sender.try_reserve_slice(most) {
                let count = slots.iter_mut().zip(sent.by_ref()).map(|(slot, n)| *slot = n).count();
                slots.commit(count);
            }
            if let Ok(guard) = ring.receiver.try_recv_slice(step % 5) {
                let count = guard.len().min(step % 4);
                assert!(guard[..count].iter().copied().eq(received.by_ref().take(count)));
                guard.release(count);
            }
            if received.is_empty() {
                break;
            }
        }
        assert!(received.is_empty() && ring.queue.is_empty());
    }
}

#[test]
fn more_than_there_are_panics_with_both_numbers_and_nothing_is_sent_or_received() {
    let mut ring = Ring::new(8);
    let told = panic_of(|| ring.sender.try_reserve_slice(3).unwrap().commit(4));
    assert!(told.contains("4 messages committed of 3"), "{told}");
    assert_eq!((ring.queue.len(), ring.receiver.try_recv()), (0, Err(TryRecvError::Empty)));
    ring.sender.send_slice(&[1, 2]).unwrap();
    let told = panic_of(|| ring.receiver.try_recv_slice(8).unwrap().release(3));
    assert!(told.contains("3 messages released of 2"), "{told}");
    assert_eq!(ring.drain(), [1, 2]);
}

/// At the end of the memory there are fewer than were asked for and than there is room for.
#[test]
fn a_cut_row_is_not_committed_or_released_beyond_its_cut() {
    let mut ring = Ring::used(8, 6);
    panic_of(|| ring.sender.try_reserve_slice(4).unwrap().commit(3));
    assert!(ring.queue.is_empty());
    ring.sender.send_slice(&[1, 2, 3, 4]).unwrap();
    panic_of(|| ring.receiver.try_recv_slice(4).unwrap().release(3));
    assert_eq!(ring.drain(), [1, 2, 3, 4]);
}

#[test]
fn the_row_of_a_thread_that_panics_stays() {
    let mut ring = Ring::new(8);
    ring.sender.send_slice(&[1, 2, 3]).unwrap();
    panic_of(|| {
        let guard = ring.receiver.recv_slice(2).unwrap();
        panic!("cannot process {}", guard[1]);
    });
    panic_of(|| {
        let mut slots = ring.sender.reserve_slice(2).unwrap();
        slots.fill(99);
        panic!("cannot write {}", slots.len());
    });
    assert_eq!(ring.queue.len(), 3);
    assert_eq!(ring.drain(), [1, 2, 3]);
}

#[test]
fn a_row_of_none_is_empty_and_never_waits() {
    let mut ring = Ring::new(2);
    let check = |ring: &mut Ring| {
        assert!(ring.sender.reserve_slice(0).unwrap().is_empty());
        assert!(ring.receiver.recv_slice(0).unwrap().is_empty());
        ring.sender.try_reserve_slice(0).unwrap().commit(0);
        ring.receiver.try_recv_slice(0).unwrap().release(0);
    };
    check(&mut ring);
    ring.sender.send_slice(&[1, 2]).unwrap();
    check(&mut ring);
    ring.sender.close();
    check(&mut ring);
    assert_eq!(ring.drain(), [1, 2]);
    check(&mut ring);
}

#[test]
fn a_row_that_cannot_be_says_why() {
    let mut ring = Ring::new(2);
    assert!(matches!(ring.receiver.try_recv_slice(2), Err(TryRecvError::Empty)));
    ring.sender.send_slice(&[1, 2]).unwrap();
    assert!(matches!(ring.sender.try_reserve_slice(2), Err(TrySendError::Full(()))));
    ring.sender.close();
    assert!(matches!(ring.sender.try_reserve_slice(2), Err(TrySendError::Closed(()))));
    assert!(matches!(ring.sender.reserve_slice(2), Err(SendError::Closed(()))));
    assert_eq!(ring.receiver.recv_slice(2).unwrap()[..], [1, 2], "the reason comes after the last message");
    assert!(matches!(ring.receiver.try_recv_slice(2), Err(TryRecvError::Closed)));
    assert!(matches!(ring.receiver.recv_slice(2), Err(RecvError::Closed)));
}

#[test]
fn a_row_is_refused_when_the_other_end_has_gone() {
    let peer = Departure::Closed;
    let Ring { mut sender, receiver, .. } = Ring::new(2);
    sender.try_send(1).unwrap();
    drop(receiver);
    assert!(
        matches!(sender.try_reserve_slice(2), Err(TrySendError::Disconnected { message: (), peer: p }) if p == peer)
    );
    assert!(matches!(sender.reserve_slice(2), Err(SendError::Disconnected { message: (), peer: p }) if p == peer));
    let Ring { mut sender, mut receiver, .. } = Ring::new(2);
    sender.try_send(1).unwrap();
    drop(sender);
    assert_eq!(receiver.try_recv_slice(2).unwrap()[..], [1]);
    assert!(matches!(receiver.try_recv_slice(2), Err(TryRecvError::Disconnected { peer: p }) if p == peer));
    assert!(matches!(receiver.recv_slice(2), Err(RecvError::Disconnected { peer: p }) if p == peer));
}

/// A thread that does `act`, which waits; returns when it does.
fn asleep<R: Send + 'static>(act: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        tell.send(nix::unistd::gettid()).unwrap();
        act()
    });
    let id = told.recv().unwrap().as_raw();
    until("it sleeps", || state_of_thread(id) == Some('S'));
    thread
}

#[track_caller]
fn woken<R>(thread: JoinHandle<R>) -> R {
    until("it is woken", || thread.is_finished());
    thread.join().unwrap()
}

#[test]
fn one_who_waits_for_a_row_of_slots_gets_those_that_are_released() {
    let Ring { mut sender, mut receiver, queue } = Ring::new(4);
    sender.send_slice(&[1, 2, 3, 4]).unwrap();
    let sleeper = asleep(move || {
        let mut slots = sender.reserve_slice(4).unwrap();
        let count = slots.len();
        slots.fill(5);
        slots.commit(count);
        (count, sender)
    });
    receiver.recv_slice(3).unwrap().release(2);
    let (count, mut sender) = woken(sleeper);
    assert_eq!((count, queue.len()), (2, 4));
    let sleeper = asleep(move || matches!(sender.reserve_slice(1), Err(SendError::Disconnected { .. })));
    drop(receiver);
    assert!(woken(sleeper), "disconnected");
    assert!(queue.receiver().unwrap().try_iter().eq([3, 4, 5, 5]));
}

#[test]
fn one_who_waits_for_a_row_of_messages_gets_those_that_are_committed() {
    let Ring { mut sender, mut receiver, queue } = Ring::new(4);
    let sleeper = asleep(move || {
        let row = receiver.recv_slice(4).unwrap().to_vec();
        (row, receiver)
    });
    let mut slots = sender.reserve_slice(4).unwrap();
    slots.copy_from_slice(&[1, 2, 3, 4]);
    slots.commit(2);
    let (row, mut receiver) = woken(sleeper);
    assert_eq!(row, [1, 2], "all that was committed, at once");
    assert!(queue.is_empty());
    let sleeper = asleep(move || matches!(receiver.recv_slice(1), Err(RecvError::Closed)));
    sender.close();
    assert!(woken(sleeper), "closed");
}

/// A successor finds what its predecessor has left, on both sides.
#[test]
fn a_forgotten_row_never_happened_for_the_next_who_sits_there() {
    let Ring { mut sender, mut receiver, queue } = Ring::new(4);
    sender.send_slice(&[1, 2]).unwrap();
    sender.reserve_slice(2).unwrap().fill(99);
    std::mem::forget(receiver.recv_slice(2).unwrap());
    sender.release();
    receiver.release();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(3).unwrap();
    assert_eq!(receiver.recv_slice(4).unwrap()[..], [1, 2, 3]);
}

// --- runs of an MPMC queue ---

fn queue(capacity: usize) -> Queue<u64> {
    Queue::create(&Segment::anonymous().unwrap(), "queue", capacity).unwrap()
}

/// Receives in all the ways there are, in turn, until nothing more will come.
fn receive_in_all_ways(receiver: &gimmal::Receiver<u64>, first_way: usize) -> Vec<u64> {
    let mut received = Vec::new();
    for way in first_way.. {
        let before = received.len();
        let ended = match way % 4 {
            0 => receiver.recv().map(|message| received.push(message)),
            1 => receiver
                .recv_many(&mut received, 3)
                .map(|count| assert!(count <= 3 && received.len() == before + count)),
            2 => receiver.recv_many(&mut received, 64).map(|count| assert_eq!(received.len(), before + count)),
            _ => receiver.recv_guard().map(|guard| received.push(*guard)),
        };
        match ended {
            Ok(()) => assert!(received.len() > before, "a receive that waits came back with nothing"),
            Err(RecvError::Closed | RecvError::Disconnected { .. }) => return received,
            Err(e) => panic!("{e}"),
        }
    }
    received
}

#[test]
fn runs_and_single_messages_arrive_once_and_in_each_senders_order() {
    const EACH: u64 = 20_000;
    for capacity in [2, 16, 256] {
        let queue = queue(capacity);
        let received: Vec<Vec<u64>> = thread::scope(|scope| {
            let senders = [0, 1].map(|number| {
                let sender = queue.sender().unwrap();
                scope.spawn(move || {
                    let mut messages: Vec<u64> = (0..EACH).map(|n| number << 32 | n).collect();
                    // The lengths differ between the two, so that they do not march in step.
                    for length in [64, 1, 1, 7, 100 + number as usize].into_iter().cycle() {
                        let rest = messages.split_off(length.min(messages.len()));
                        match messages[..] {
                            [] => return,
                            [message] => sender.send(message).unwrap(),
                            _ => sender.send_slice(&messages).unwrap(),
                        }
                        messages = rest;
                    }
                })
            });
            let receivers = [0, 1, 2].map(|way| {
                let receiver = queue.receiver().unwrap();
                scope.spawn(move || receive_in_all_ways(&receiver, way))
            });
            let ended = senders.map(|sender| sender.join());
            queue.close();
            assert!(ended.iter().all(Result::is_ok));
            receivers.map(|receiver| receiver.join().unwrap()).into()
        });
        for received in &received {
            for number in [0, 1] {
                assert!(received.iter().filter(|&message| message >> 32 == number).is_sorted(), "capacity {capacity}");
            }
        }
        let mut all = received.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq((0..EACH).chain((0..EACH).map(|n| 1 << 32 | n))), "capacity {capacity}");
    }
}

/// As soon as its first message is there, all are. They take long to write and no time to receive, so that a receiver would catch
/// up with a sender that showed them one by one.
#[test]
fn a_run_arrives_at_once() {
    type Large = [u64; 2048];
    let segment = Segment::options().size(2 << 20).anonymous().unwrap();
    let queue = Queue::<Large>::create(&segment, "queue", 64).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    // The length of the next run; 0 when it is on its way, `usize::MAX` when there is none.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let sends = thread::spawn(move || {
        let run: Vec<Large> = (0..64).map(|n| [n; 2048]).collect();
        loop {
            match NEXT.swap(0, Acquire) {
                0 => thread::yield_now(),
                usize::MAX => return,
                // With the ring empty, all of a run fits wherever it begins.
                length => sender.send_slice(&run[..length]).unwrap(),
            }
        }
    });
    for length in (2..=64).cycle().take(400) {
        NEXT.store(length, Release);
        let start = Instant::now();
        while receiver.try_recv_guard().is_err() {
            assert!(start.elapsed() < LONG, "nothing arrives");
        }
        for n in 1..length {
            assert!(receiver.try_recv_guard().is_ok_and(|message| message[7] == n as u64), "{n} of {length}");
        }
    }
    NEXT.store(usize::MAX, Release);
    sends.join().unwrap();
    assert!(receiver.try_recv_guard().is_err_and(|e| e.is_disconnected()));
}

#[test]
fn what_is_left_of_a_run_comes_next_wherever_it_is_cut() {
    let queue = queue(16);
    let (sender, receiver, other) = (queue.sender().unwrap(), queue.receiver().unwrap(), queue.receiver().unwrap());
    for cut in 0..14 {
        let run: Vec<u64> = (0..14).collect();
        sender.send_slice(&run).unwrap();
        let mut received = Vec::new();
        assert_eq!(receiver.try_recv_many(&mut received, cut), Ok(cut));
        assert_eq!(received, run[..cut]);
        assert_eq!(queue.len(), 14 - cut);
        // The one that is next, by another receiver, which gives it back and takes it again.
        let guard = other.try_recv_guard().unwrap();
        assert_eq!(*guard, run[cut]);
        guard.give_back();
        assert_eq!(other.try_recv(), Ok(run[cut]));
        received.clear();
        let rest = &run[cut + 1..];
        assert!(rest.is_empty() || receiver.try_recv_many(&mut received, 64) == Ok(rest.len()));
        assert_eq!(received, rest);
        // 15 positions further in each round, so that the cuts fall everywhere in the memory.
        sender.send(99).unwrap();
        assert_eq!((other.try_recv(), receiver.try_recv()), (Ok(99), Err(TryRecvError::Empty)));
    }
    assert_eq!(sender.try_send_slice(&[7; 20]), Ok(16), "a slot has not come back");
}

/// Others go on around it, and it is not lost.
#[test]
fn what_is_given_back_out_of_a_run_comes_before_the_rest_of_it() {
    let queue = queue(8);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send_slice(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    let (first, second) = (receiver.recv_guard().unwrap(), receiver.recv_guard().unwrap());
    let mut received = Vec::new();
    receiver.recv_many(&mut received, 2).unwrap();
    second.give_back();
    first.give_back();
    receiver.recv_many(&mut received, 64).unwrap();
    assert_eq!(received, [3, 4, 1, 2, 5, 6, 7, 8]);
}

#[test]
fn a_slice_sends_what_fits_and_says_how_many() {
    let queue = queue(8);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send_slice(&[1, 2, 3, 4, 5]).unwrap();
    assert_eq!(sender.try_send_slice(&[6, 7, 8, 9, 10, 11]), Ok(3));
    assert_eq!((sender.try_send_slice(&[9]), sender.try_send_slice(&[9, 10])), (Ok(0), Ok(0)));
    // A slot that is still being read is where the room ends, whatever is free behind it.
    let guards: [_; 4] = std::array::from_fn(|_| receiver.recv_guard().unwrap());
    let [first, second, third, fourth] = guards;
    drop((first, second, fourth));
    assert_eq!(sender.try_send_slice(&[9, 10, 11, 12]), Ok(2));
    drop(third);
    assert_eq!(sender.try_send_slice(&[11, 12, 13]), Ok(2));
    assert!(receiver.try_iter().eq(5..13));
    assert_eq!(sender.try_send_slice(&[]), Ok(0));
}

#[test]
fn a_slice_longer_than_a_run_goes_in_one_call_and_comes_in_batches() {
    let queue = queue(128);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let messages: Vec<u64> = (0..200).collect();
    assert_eq!(sender.try_send_slice(&messages), Ok(128));
    let mut received = Vec::new();
    assert_eq!(receiver.try_recv_many(&mut received, 10), Ok(10));
    while receiver.try_recv_many(&mut received, 1_000).is_ok_and(|count| (1..=64).contains(&count)) {}
    assert_eq!(received, messages[..128]);
}

#[test]
fn a_slice_that_is_cut_by_close_says_how_many_were_sent() {
    let queue = queue(8);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let sleeper = asleep(move || sender.send_slice(&(0..20).collect::<Vec<u64>>()));
    assert_eq!(receiver.recv(), Ok(0));
    until("its place is taken", || queue.is_full());
    queue.close();
    let cut = woken(sleeper).unwrap_err();
    assert_eq!((cut.sent, cut.reason), (9, SendError::Closed(())));
    assert!(receiver.iter().eq(1..9));
    assert_eq!(queue.sender().unwrap().try_send_slice(&[1, 2]), Err(SendError::Closed(())));
}

/// Wherever in a run it comes.
#[test]
fn close_amid_runs_loses_nothing_that_was_said_to_be_sent() {
    for round in 0..300 {
        let queue = queue(32);
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        thread::scope(|scope| {
            let sends = scope.spawn(move || {
                let mut sent = 0;
                loop {
                    let run: Vec<u64> = (sent..sent + 24).collect();
                    match sender.send_slice(&run) {
                        Ok(()) => sent += 24,
                        Err(cut) => return sent + cut.sent as u64,
                    }
                }
            });
            let mut received = Vec::new();
            while received.len() < round {
                receiver.recv_many(&mut received, 5).unwrap();
            }
            queue.close();
            while receiver.recv_many(&mut received, 64).is_ok() {}
            let sent = sends.join().unwrap();
            assert!(received.into_iter().eq(0..sent), "closed after {round}");
        });
    }
}
