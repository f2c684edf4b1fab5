//! Messages of bytes, of any length, through both kinds of rings. See also `multiprocess.rs`, `storm.rs` and `sweep.rs`.

mod support;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::Duration;

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{
    Departure, Error, Pipe, Queue, QueueOptions, Receiver, RecvBytesError, RecvError, RecvTimeoutError, Segment,
    SendError, SendTimeoutError, Sender, SpscQueue, TryRecvError, TrySendError, Value, spsc,
};
use proptest::prelude::*;
use support::{LONG, die_with_parent, join_well, kill_and_reap, stop, until};

const ENTRIES: [Entry; 5] = gimmal::entries![send_some, send_long, receive_long, receive_a_part, send_parts_forever];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment, arguments: &[&str]) -> Child {
    process::init(&ENTRIES);
    support::process(entry).segment(segment).args(arguments).spawn().expect("start a process")
}

/// Bytes that tell their number and length, and every one its place.
fn message(number: u64, len: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ len as u64;
    let mut bytes: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()
        })
        .collect();
    bytes.truncate(len);
    bytes
}

fn queue(capacity: usize) -> (Sender<[u8]>, Receiver<[u8]>) {
    let segment = Segment::options().size(1 << 20).anonymous().unwrap();
    let queue = Queue::<[u8]>::create(&segment, "queue", capacity).unwrap();
    (queue.sender().unwrap(), queue.receiver().unwrap())
}

fn pipe(capacity: usize) -> (spsc::Sender<[u8]>, spsc::Receiver<[u8]>) {
    let segment = Segment::options().size(1 << 20).anonymous().unwrap();
    Pipe::simplex(&segment, "pipe", capacity).unwrap()
}

/// Lengths around every border there is in a ring of so many bytes.
fn lengths(capacity: usize) -> impl Iterator<Item = usize> + Clone {
    let borders = [0, 8, 64, 128, 4096 / 2, capacity / 2, capacity];
    borders.into_iter().flat_map(|border| (0..6).map(move |near| (border + near).saturating_sub(3)))
}

// --- one thread: every length, every call ---

#[test]
fn a_queue_passes_messages_of_every_length_up_to_its_capacity() {
    let (sender, receiver) = queue(4096);
    assert_eq!((sender.queue().capacity(), sender.max_len()), (4096, 4096));
    for (number, len) in lengths(4096).cycle().take(500).enumerate() {
        let message = message(number as u64, len);
        if len > 4096 {
            let too_large = SendError::TooLarge { message: (), len, max: 4096 };
            assert_eq!(sender.send(&message), Err(too_large));
            assert_eq!(sender.try_send(&message), Err(too_large.into()));
            assert!(sender.reserve(len).is_err());
            continue;
        }
        sender.send(&message).unwrap();
        assert_eq!(receiver.queue().len(), 1);
        assert_eq!(*receiver.recv().unwrap(), *message);
    }
    assert_eq!(receiver.try_recv().map(|frame| frame.len()), Err(TryRecvError::Empty));
}

#[test]
fn a_pipe_passes_messages_of_every_length_up_to_its_capacity() {
    let (mut sender, mut receiver) = pipe(4096);
    assert_eq!(sender.max_len(), 4088);
    for (number, len) in lengths(4096).cycle().take(500).enumerate() {
        let message = message(number as u64, len);
        if len > 4088 {
            let too_large = TrySendError::TooLarge { message: (), len, max: 4088 };
            assert_eq!(sender.try_send(&message), Err(too_large));
            assert!(sender.reserve(len).is_err());
            continue;
        }
        sender.send(&message).unwrap();
        assert_eq!(receiver.peek_len(), Ok(len));
        assert_eq!(*receiver.recv().unwrap(), *message);
    }
    assert_eq!(receiver.try_recv().map(|frame| frame.len()), Err(TryRecvError::Empty));
}

#[test]
fn a_full_queue_says_so_and_takes_the_message_when_there_is_room() {
    let (sender, receiver) = queue(4096);
    sender.send(&[1; 3000]).unwrap();
    assert_eq!(sender.try_send(&[2; 1100]), Err(TrySendError::Full(())));
    assert_eq!(sender.send_timeout(&[2; 1100], Duration::from_millis(1)), Err(SendTimeoutError::Timeout(())));
    sender.try_send(&[2; 1000]).unwrap();
    assert_eq!(receiver.recv_vec(), Ok(vec![1; 3000]));
    sender.try_send(&[3; 1100]).unwrap();
    assert_eq!(receiver.iter().take(2).collect::<Vec<_>>(), [vec![2; 1000], vec![3; 1100]]);
}

#[test]
fn a_full_pipe_says_so_and_takes_the_message_when_there_is_room() {
    let (mut sender, mut receiver) = pipe(4096);
    sender.send(&[1; 3000]).unwrap();
    assert_eq!(sender.try_send(&[2; 1100]), Err(TrySendError::Full(())));
    assert_eq!(sender.send_timeout(&[2; 1100], Duration::from_millis(1)), Err(SendTimeoutError::Timeout(())));
    sender.try_send(&[2; 1000]).unwrap();
    assert_eq!(receiver.recv_vec(), Ok(vec![1; 3000]));
    sender.try_send(&[3; 1100]).unwrap();
    assert_eq!(receiver.iter().take(2).collect::<Vec<_>>(), [vec![2; 1000], vec![3; 1100]]);
}

#[test]
fn what_does_not_fit_the_buffer_is_kept() {
    let (sender, receiver) = queue(4096);
    sender.send(b"0123456789").unwrap();
    sender.send(b"next").unwrap();
    let mut buffer = [0; 12];
    assert_eq!(receiver.recv_into(&mut buffer[..9]), Err(RecvBytesError::TooShort { needed: 10 }));
    assert_eq!(receiver.try_recv_into(&mut buffer[..9]), Err(RecvBytesError::TooShort { needed: 10 }));
    assert_eq!(receiver.recv_max(9).unwrap_err(), RecvBytesError::TooLong { len: 10, max: 9 });
    assert_eq!(receiver.peek_len(), Ok(10));
    assert_eq!(receiver.recv_into(&mut buffer[1..]), Ok(10));
    assert_eq!(&buffer, b"\x000123456789\0");
    assert_eq!(*receiver.recv_max(4).unwrap(), *b"next");
    assert_eq!(receiver.try_recv_into(&mut buffer), Err(RecvBytesError::Recv(TryRecvError::Empty)));
    assert_eq!(receiver.peek_len(), Err(TryRecvError::Empty));

    let (mut sender, mut receiver) = pipe(4096);
    sender.send(b"0123456789").unwrap();
    sender.send(b"next").unwrap();
    let mut buffer = [0; 12];
    assert_eq!(receiver.recv_into(&mut buffer[..9]), Err(RecvBytesError::TooShort { needed: 10 }));
    assert_eq!(receiver.try_recv_into(&mut buffer[..9]), Err(RecvBytesError::TooShort { needed: 10 }));
    assert_eq!(receiver.recv_max(9).unwrap_err(), RecvBytesError::TooLong { len: 10, max: 9 });
    assert_eq!(receiver.recv_into(&mut buffer[1..]), Ok(10));
    assert_eq!(&buffer, b"\x000123456789\0");
    assert_eq!(*receiver.recv_max(4).unwrap(), *b"next");
    assert_eq!(receiver.peek_len(), Err(TryRecvError::Empty));
}

#[test]
fn a_message_is_written_in_place_and_cut_and_one_that_is_dropped_is_not_sent() {
    let (sender, receiver) = queue(4096);
    for round in 0..100_u8 {
        let mut grant = sender.reserve(1000).unwrap();
        assert_eq!(grant.len(), 1000);
        grant.fill(round);
        if round % 3 == 0 {
            drop(grant);
            assert!(receiver.try_recv().is_err());
        } else {
            grant.commit(usize::from(round) * 10);
            assert_eq!(*receiver.recv().unwrap(), *vec![round; usize::from(round) * 10]);
        }
    }
    let (mut sender, mut receiver) = pipe(4096);
    for round in 0..100_u8 {
        let mut grant = sender.try_reserve(1000).unwrap();
        assert_eq!(grant.len(), 1000);
        grant.fill(round);
        if round % 3 == 0 {
            drop(grant);
            assert!(receiver.try_recv().is_err());
        } else {
            grant.commit(usize::from(round) * 10);
            assert_eq!(*receiver.recv().unwrap(), *vec![round; usize::from(round) * 10]);
        }
    }
}

#[test]
#[should_panic(expected = "6 bytes committed of 5 reserved")]
fn no_more_is_committed_than_was_reserved() {
    let (sender, _receiver) = queue(4096);
    sender.reserve(5).unwrap().commit(6);
}

#[test]
fn parts_are_put_together() {
    let parts: Vec<Vec<u8>> = [3, 0, 500, 70].into_iter().map(|len| message(9, len)).collect();
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let (sender, receiver) = queue(4096);
    sender.send_vectored(&slices).unwrap();
    sender.try_send_vectored(&[]).unwrap();
    assert_eq!(receiver.iter().take(2).collect::<Vec<_>>(), [parts.concat(), vec![]]);
    let (mut sender, mut receiver) = pipe(4096);
    sender.send_vectored(&slices).unwrap();
    sender.try_send_vectored(&[]).unwrap();
    assert_eq!(receiver.iter().take(2).collect::<Vec<_>>(), [parts.concat(), vec![]]);
    let long = [&slices[..], &slices, &slices, &slices, &slices, &slices, &slices, &slices, &slices].concat();
    let reader = thread::spawn(move || receiver.recv_vec().unwrap());
    sender.send_vectored(&long).unwrap();
    assert_eq!(reader.join().unwrap(), parts.concat().repeat(9));
}

#[test]
fn a_message_that_is_given_back_comes_again_first() {
    let (sender, receiver) = queue(4096);
    for len in [700, 10, 0] {
        sender.send(&message(1, len)).unwrap();
    }
    receiver.recv().unwrap().give_back();
    let (first, second) = (receiver.recv().unwrap(), receiver.recv().unwrap());
    assert_eq!((first.len(), second.len()), (700, 10));
    first.give_back();
    drop(second);
    assert_eq!(receiver.recv_vec(), Ok(message(1, 700)));
    assert_eq!(receiver.recv_vec(), Ok(vec![]));
    // All of the room is there again.
    sender.send(&[0; 4096]).unwrap();
}

#[test]
fn a_queue_of_bytes_is_opened_as_one() {
    let segment = Segment::anonymous().unwrap();
    QueueOptions::new().capacity(100_000).block(500).create::<[u8]>(&segment, "queue").unwrap();
    assert_eq!(Queue::<[u8]>::open(&segment, "queue").unwrap().capacity(), 131_072);
    assert!(Queue::<[u8]>::open_or_create(&segment, "queue", 100_000).is_err(), "other blocks");
    assert!(matches!(Queue::<u8>::open(&segment, "queue"), Err(Error::TypeMismatch { .. })));
    assert!(matches!(SpscQueue::<[u8]>::open(&segment, "queue"), Err(Error::KindMismatch { .. })));
    let info = &segment.snapshot().unwrap().objects[0];
    assert_eq!((&*info.element, &info.depth), ("[u8]", &vec![0]));
    assert!(Queue::<[u8]>::bytes(100_000) > 131_072);
}

#[test]
fn closing_and_leaving_are_told_after_the_drain() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().create::<[u8]>(&segment, "queue").unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send(b"last").unwrap();
    assert!(receiver.poll(Duration::ZERO));
    drop(sender);
    assert_eq!(receiver.recv_vec(), Ok(b"last".to_vec()));
    let gone = RecvError::Disconnected { peer: Departure::Closed };
    assert_eq!(receiver.recv_vec(), Err(gone));
    assert!(receiver.poll(Duration::ZERO));
    assert_eq!(receiver.recv_into(&mut []), Err(RecvBytesError::Recv(gone)));
    let sender = queue.sender().unwrap();
    assert!(!receiver.poll(Duration::ZERO));
    queue.close();
    assert_eq!(sender.send(b"x"), Err(SendError::Closed(())));
    assert_eq!(receiver.recv_vec(), Err(RecvError::Closed));
}

// --- several threads ---

#[test]
fn every_message_of_many_senders_arrives_once_whole_and_in_their_order() {
    const SENDERS: usize = 3;
    const MESSAGES: u64 = 3_000;
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().capacity(8192).create::<[u8]>(&segment, "queue").unwrap();
    let length = |sender: usize, number: u64| match number % 50 {
        0 => 5000 + sender * 100,
        _ => (number as usize * 37 + sender * 11) % 300,
    };
    let receivers: Vec<_> = (0..2).map(|_| queue.receiver().unwrap()).collect();
    let senders: Vec<_> = (0..SENDERS).map(|_| queue.sender().unwrap()).collect();
    let received: Vec<Vec<(usize, u64)>> = thread::scope(|scope| {
        for (id, sender) in senders.into_iter().enumerate() {
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    let mut bytes = message(number, 16 + length(id, number));
                    bytes[..8].copy_from_slice(&(id as u64).to_le_bytes());
                    bytes[8..16].copy_from_slice(&number.to_le_bytes());
                    sender.send(&bytes).unwrap();
                }
            });
        }
        let receive = |receiver: Receiver<[u8]>| {
            move || {
                let mut received = Vec::new();
                while let Ok(frame) = receiver.recv() {
                    let word = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap());
                    let (id, number) = (word(0) as usize, word(8));
                    assert_eq!(frame.len(), 16 + length(id, number));
                    assert!(frame[16..] == message(number, frame.len())[16..], "a torn message");
                    received.push((id, number));
                }
                received
            }
        };
        let receivers: Vec<_> = receivers.into_iter().map(|receiver| scope.spawn(receive(receiver))).collect();
        receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect()
    });
    for received in &received {
        for id in 0..SENDERS {
            assert!(received.iter().filter(|(of, _)| *of == id).is_sorted());
        }
    }
    let mut all: Vec<_> = received.concat();
    all.sort_unstable();
    let sent: Vec<_> = (0..SENDERS).flat_map(|id| (0..MESSAGES).map(move |number| (id, number))).collect();
    assert_eq!(all, sent);
}

#[test]
fn whoever_waits_for_room_gets_it_however_much_it_needs() {
    let (sender, receiver) = queue(4096);
    for _ in 0..64 {
        sender.send(b"one block").unwrap();
    }
    thread::scope(|scope| {
        let large = sender.clone();
        scope.spawn(move || large.send(&[1; 4000]).unwrap());
        for _ in 0..3 {
            let small = sender.clone();
            scope.spawn(move || small.send(b"small").unwrap());
        }
        let mut lens: Vec<_> = (0..68).map(|_| receiver.recv().unwrap().len()).collect();
        lens.sort_unstable();
        assert_eq!(lens[64..], [9, 9, 9, 4000]);
    });
}

// --- messages longer than the ring ---

#[test]
fn a_pipe_passes_a_message_of_any_length() {
    let (mut sender, mut receiver) = pipe(4096);
    let lengths = [4089, 4096, 5000, 8192, 100_000, 1 << 20, (1 << 20) + 5];
    thread::scope(|scope| {
        scope.spawn(move || {
            for (number, len) in lengths.into_iter().enumerate() {
                sender.send(&message(number as u64, len)).unwrap();
                sender.send(b"between").unwrap();
            }
        });
        for (number, len) in lengths.into_iter().enumerate() {
            let expected = message(number as u64, len);
            match number % 3 {
                0 => assert!(*receiver.recv().unwrap() == *expected),
                1 => assert!(receiver.recv_vec().unwrap() == expected),
                _ => {
                    let mut buffer = vec![0; len];
                    let needed = RecvBytesError::TooShort { needed: len };
                    assert_eq!(receiver.recv_into(&mut buffer[1..]), Err(needed));
                    assert_eq!(receiver.recv_max(len - 1).unwrap_err(), RecvBytesError::TooLong { len, max: len - 1 });
                    assert_eq!(receiver.recv_into(&mut buffer), Ok(len));
                    assert!(buffer == expected);
                }
            }
            assert_eq!(*receiver.recv().unwrap(), *b"between");
        }
        assert_eq!(receiver.recv().map(|frame| frame.len()), Err(RecvError::Disconnected { peer: Departure::Closed }));
    });
}

#[test]
fn a_gibibyte_goes_through_a_ring_of_64_kib() {
    const LEN: usize = if cfg!(debug_assertions) { 64 << 20 } else { 1 << 30 };
    let (mut sender, mut receiver) = pipe(64 << 10);
    let sent = vec![0x5a; LEN];
    thread::scope(|scope| {
        scope.spawn(|| sender.send(&sent).unwrap());
        let received = receiver.recv_vec().unwrap();
        assert!(received == sent);
    });
}

#[test]
fn a_send_in_parts_whose_time_is_up_was_not_sent() {
    let (mut sender, mut receiver) = pipe(4096);
    sender.send(b"before").unwrap();
    let short = Duration::from_millis(5);
    assert_eq!(sender.send_timeout(&message(1, 9000), short), Err(SendTimeoutError::Timeout(())));
    assert_eq!(*receiver.recv().unwrap(), *b"before");
    // A part of it is there, and is nothing.
    assert_eq!(receiver.try_recv().map(|frame| frame.len()), Err(TryRecvError::Empty));
    sender.send(b"between").unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"between");
    assert_eq!(sender.send_timeout(&message(1, 9000), short), Err(SendTimeoutError::Timeout(())));
    assert_eq!(receiver.recv_timeout(short).map(|frame| frame.len()), Err(RecvTimeoutError::Timeout));
    thread::scope(|scope| {
        scope.spawn(|| sender.send(&message(2, 9000)).unwrap());
        let mut times = 0;
        let received = loop {
            match receiver.recv_timeout(Duration::from_micros(20)) {
                Ok(frame) => break frame.into_vec(),
                Err(e) => assert_eq!(e, RecvTimeoutError::Timeout),
            }
            times += 1;
            assert!(times < 1_000_000);
        };
        assert!(received == message(2, 9000));
    });
}

#[test]
fn a_message_in_hand_can_be_given_back() {
    let (mut sender, mut receiver) = pipe(4096);
    thread::scope(|scope| {
        scope.spawn(|| sender.send(&message(2, 9000)).unwrap());
        let frame = receiver.recv().unwrap();
        assert!(format!("{frame:?}").len() > 9000);
        frame.give_back();
        assert_eq!(receiver.peek_len(), Ok(9000));
        assert!(receiver.poll(Duration::ZERO));
        assert!(*receiver.recv().unwrap() == *message(2, 9000));
        assert!(receiver.try_recv().is_err());
    });
}

#[test]
fn a_successor_gets_the_whole_message_that_its_predecessor_had_begun() {
    let segment = Segment::anonymous().unwrap();
    let options = QueueOptions::new().capacity(4096).keep_waiting(true);
    let queue = options.create_spsc::<[u8]>(&segment, "queue").unwrap();
    let (mut sender, mut first) = (queue.sender().unwrap(), queue.receiver().unwrap());
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..3 {
                sender.send(&message(number, 9000)).unwrap();
                sender.send(b"between").unwrap();
            }
        });
        // The length is there, so that a part is.
        while first.peek_len().is_err() {}
        assert!(first.try_recv().is_err(), "not all of it fits");
        first.release();
        let mut second = queue.receiver().unwrap();
        assert!(second.recv_vec().unwrap() == message(0, 9000));
        assert_eq!(*second.recv().unwrap(), *b"between");
        while second.peek_len().is_err() {}
        drop(second);
        let mut third = queue.receiver().unwrap();
        for number in 1..3 {
            assert!(third.recv_vec().unwrap() == message(number, 9000));
            assert_eq!(*third.recv().unwrap(), *b"between");
        }
    });
}

// --- several processes ---

fn send_some(context: &Context) -> Outcome {
    die_with_parent();
    let mut sender = Pipe::simplex_sender::<[u8]>(context.segment(0)?, "pipe", 4096)?;
    for number in 0..2_000_u64 {
        sender.send(&message(number, number as usize * 7 % 6000))?;
    }
    Ok(())
}

#[test]
fn a_pipe_passes_messages_between_processes() {
    let segment = Segment::anonymous().unwrap();
    let mut receiver = Pipe::simplex_receiver::<[u8]>(&segment, "pipe", 4096).unwrap();
    let mut child = start("send_some", &segment, &[]);
    for number in 0..2_000_u64 {
        assert!(*receiver.recv().unwrap() == *message(number, number as usize * 7 % 6000), "{number}");
    }
    assert_eq!(receiver.recv_vec(), Err(RecvError::Disconnected { peer: Departure::Closed }));
    join_well(&mut child);
}

/// Sends a message that nobody receives.
fn send_long(context: &Context) -> Outcome {
    die_with_parent();
    let mut sender = Pipe::simplex_sender::<[u8]>(context.segment(0)?, "pipe", 4096)?;
    sender.send(b"before")?;
    sender.send(&message(1, context.parse(0).unwrap_or(9000)))?;
    Ok(())
}

#[test]
fn what_a_dead_sender_had_begun_is_no_message() {
    let segment = Segment::anonymous().unwrap();
    let mut receiver = Pipe::simplex_receiver::<[u8]>(&segment, "pipe", 4096).unwrap();
    let mut child = start("send_long", &segment, &[]);
    assert_eq!(*receiver.recv().unwrap(), *b"before");
    until("a part of the long one is there", || receiver.peek_len() == Ok(9000));
    let pid = child.pid();
    kill_and_reap(&mut child);
    let gone = RecvError::Disconnected { peer: Departure::Died { pid } };
    assert_eq!(receiver.recv().map(|frame| frame.len()), Err(gone));
    assert_eq!(receiver.recv().map(|frame| frame.len()), Err(gone));
    // A successor goes on.
    let mut sender = Pipe::simplex_sender::<[u8]>(&segment, "pipe", 4096).unwrap();
    sender.send(b"after").unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"after");
}

#[test]
fn a_sender_that_dies_after_its_receiver_has_begun_leaves_nothing_of_its_message() {
    let segment = Segment::anonymous().unwrap();
    let mut receiver = Pipe::simplex_receiver::<[u8]>(&segment, "pipe", 4096).unwrap();
    let mut child = start("send_long", &segment, &[]);
    assert_eq!(*receiver.recv().unwrap(), *b"before");
    until("a part of the long one is there", || receiver.peek_len() == Ok(9000));
    stop(&child);
    assert_eq!(receiver.try_recv().map(|frame| frame.len()), Err(TryRecvError::Empty));
    kill_and_reap(&mut child);
    until("its seat is free", || {
        Pipe::simplex_sender::<[u8]>(&segment, "pipe", 4096).map(spsc::Sender::release).is_ok()
    });
    let mut sender = Pipe::simplex_sender::<[u8]>(&segment, "pipe", 4096).unwrap();
    sender.send(b"after").unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"after");
}

/// Takes a part of the first message and sits still.
fn receive_a_part(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let mut receiver = SpscQueue::<[u8]>::open(segment, "queue")?.receiver()?;
    while receiver.peek_len().is_err() {}
    assert!(receiver.try_recv().is_err());
    let begun = Value::<bool>::open(segment, "begun")?;
    begun.store(true, Release);
    begun.notify_all();
    loop {
        thread::park();
    }
}

fn receive_long(context: &Context) -> Outcome {
    die_with_parent();
    let mut receiver = SpscQueue::<[u8]>::open(context.segment(0)?, "queue")?.receiver()?;
    assert!(receiver.recv_vec()? == message(5, 20_000));
    Ok(())
}

#[test]
fn what_a_dead_receiver_had_begun_goes_to_its_successor() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().capacity(4096).keep_waiting(true).create_spsc::<[u8]>(&segment, "queue").unwrap();
    let begun = Value::<bool>::create(&segment, "begun", false).unwrap();
    let mut first = start("receive_a_part", &segment, &[]);
    thread::scope(|scope| {
        scope.spawn(|| queue.sender().unwrap().send(&message(5, 20_000)).unwrap());
        begun.wait_while_timeout(LONG, |begun| !begun).unwrap();
        assert!(begun.load(Acquire));
        kill_and_reap(&mut first);
        join_well(&mut start("receive_long", &segment, &[]));
    });
}

fn send_parts_forever(context: &Context) -> Outcome {
    die_with_parent();
    let mut sender = SpscQueue::<[u8]>::open(context.segment(0)?, "queue")?.sender()?;
    for number in 0.. {
        let len = [9000, 10, 4096, 0, 30_000][number as usize % 5];
        sender.send(&message(number, 8 + len))?;
    }
    Ok(())
}

#[test]
fn whenever_senders_are_killed_no_half_message_comes() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().capacity(4096).keep_waiting(true).create_spsc::<[u8]>(&segment, "queue").unwrap();
    let mut receiver = queue.receiver().unwrap();
    for round in 0..10 {
        let mut child = start("send_parts_forever", &segment, &[]);
        let mut next = None;
        for _ in 0..30 + round {
            let bytes = receiver.recv_vec().unwrap();
            let number = next.unwrap_or(0);
            // The first message of a sender may be the last one that its predecessor has sent before it died.
            let is = |number: u64| bytes == message(number, 8 + [9000, 10, 4096, 0, 30_000][number as usize % 5]);
            match next {
                None if !is(0) => assert!((0..200).any(is), "a message of a predecessor"),
                _ => {
                    assert!(is(number), "message {number}");
                    next = Some(number + 1);
                }
            }
        }
        kill_and_reap(&mut child);
    }
}

// --- against a model ---

#[derive(Clone, Debug)]
enum Op {
    Send(usize),
    Reserve(usize, usize),
    Drop(usize),
    Recv,
    Into(usize),
    GiveBack,
}

fn op(most: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..most).prop_map(Op::Send),
        1 => (0..most, 0..most).prop_map(|(a, b)| Op::Reserve(a.max(b), a.min(b))),
        1 => (0..most).prop_map(Op::Drop),
        4 => Just(Op::Recv),
        1 => (0..most).prop_map(Op::Into),
        1 => Just(Op::GiveBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_is_a_queue(ops in prop::collection::vec(op(1500), 1..200)) {
        let (sender, receiver) = queue(4096);
        let mut model = VecDeque::new();
        let (mut blocks, mut number) = (0, 0);
        let of = |len: usize| len.div_ceil(64).max(1);
        let mut held: VecDeque<usize> = VecDeque::new();
        for op in ops {
            number += 1;
            match op {
                Op::Send(len) => {
                    let fits = blocks + of(len) <= 64;
                    prop_assert_eq!(sender.try_send(&message(number, len)).is_ok(), fits);
                    if fits {
                        model.push_back(message(number, len));
                        held.push_back(of(len));
                        blocks += of(len);
                    }
                }
                Op::Reserve(room, len) => {
                    let fits = blocks + of(room) <= 64;
                    let grant = sender.try_reserve(room);
                    prop_assert_eq!(grant.is_ok(), fits);
                    if let Ok(mut grant) = grant {
                        grant[..len].copy_from_slice(&message(number, len));
                        grant.commit(len);
                        model.push_back(message(number, len));
                        held.push_back(of(room));
                        blocks += of(room);
                    }
                }
                // What is given up in front of a message stays free until the ring has gone round: leave it out when full.
                Op::Drop(_) => {}
                Op::Recv => {
                    prop_assert_eq!(receiver.try_recv().ok().map(|frame| frame.to_vec()), model.pop_front());
                    blocks -= held.pop_front().unwrap_or(0);
                }
                Op::Into(room) => {
                    let mut buffer = vec![0; room];
                    match (receiver.try_recv_into(&mut buffer), model.front()) {
                        (Ok(len), Some(expected)) => {
                            prop_assert_eq!(&buffer[..len], &expected[..]);
                            model.pop_front();
                            blocks -= held.pop_front().unwrap();
                        }
                        (Err(RecvBytesError::TooShort { needed }), Some(expected)) => {
                            prop_assert!(needed == expected.len() && needed > room);
                        }
                        (result, expected) => prop_assert!(result.is_err() && expected.is_none()),
                    }
                }
                Op::GiveBack => {
                    if let Ok(frame) = receiver.try_recv() {
                        prop_assert_eq!(Some(&*frame), model.front().map(|front| &**front));
                        frame.give_back();
                    }
                }
            }
            prop_assert_eq!(receiver.queue().len(), model.len());
        }
    }

    #[test]
    fn a_pipe_is_a_queue(ops in prop::collection::vec(op(1500), 1..200)) {
        let (mut sender, mut receiver) = pipe(4096);
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        let mut number = 0;
        let of = |len: usize| 8 + len.next_multiple_of(8);
        for op in ops {
            number += 1;
            let used: usize = model.iter().map(|message| of(message.len())).sum();
            match op {
                Op::Send(len) => {
                    let fits = used + of(len) <= 4096;
                    prop_assert_eq!(sender.try_send(&message(number, len)).is_ok(), fits);
                    if fits {
                        model.push_back(message(number, len));
                    }
                }
                Op::Reserve(room, len) => {
                    let grant = sender.try_reserve(room);
                    prop_assert_eq!(grant.is_ok(), used + of(room) <= 4096);
                    if let Ok(mut grant) = grant {
                        grant[..len].copy_from_slice(&message(number, len));
                        grant.commit(len);
                        model.push_back(message(number, len));
                    }
                }
                Op::Drop(room) => drop(sender.try_reserve(room)),
                Op::Recv => {
                    prop_assert_eq!(receiver.try_recv().ok().map(|frame| frame.to_vec()), model.pop_front());
                }
                Op::Into(room) => {
                    let mut buffer = vec![0; room];
                    match (receiver.try_recv_into(&mut buffer), model.front()) {
                        (Ok(len), Some(expected)) => {
                            prop_assert_eq!(&buffer[..len], &expected[..]);
                            model.pop_front();
                        }
                        (Err(RecvBytesError::TooShort { needed }), Some(expected)) => {
                            prop_assert!(needed == expected.len() && needed > room);
                        }
                        (result, expected) => prop_assert!(result.is_err() && expected.is_none()),
                    }
                }
                Op::GiveBack => {
                    if let Ok(frame) = receiver.try_recv() {
                        prop_assert_eq!(Some(&*frame), model.front().map(|front| &**front));
                        frame.give_back();
                    }
                }
            }
        }
    }
}

#[test]
fn a_buffer_is_not_overrun_if_a_longer_message_comes_instead() {
    let (mut sender, mut receiver) = pipe(4096);
    let short = Duration::from_millis(20);
    assert_eq!(sender.send_timeout(&message(1, 5000), short), Err(SendTimeoutError::Timeout(())));
    assert_eq!(receiver.peek_len(), Ok(5000));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2 {
                thread::sleep(short);
                sender.send(&message(2, 6000)).unwrap();
            }
        });
        let mut buffer = vec![0; 5000];
        assert_eq!(receiver.recv_into(&mut buffer), Err(RecvBytesError::TooShort { needed: 6000 }));
        assert_eq!(receiver.recv_vec(), Ok(message(2, 6000)));
        assert_eq!(receiver.recv_max(5000).unwrap_err(), RecvBytesError::TooLong { len: 6000, max: 5000 });
        assert_eq!(receiver.recv_vec(), Ok(message(2, 6000)));
    });
}

/// A pipe whose sender has died in the middle of a message of `len` bytes, of which the receiver has all in hand that was there.
fn with_a_part_in_hand(len: usize) -> (Segment, spsc::Receiver<[u8]>) {
    let segment = Segment::anonymous().unwrap();
    let mut receiver = Pipe::simplex_receiver::<[u8]>(&segment, "pipe", 4096).unwrap();
    let mut child = start("send_long", &segment, &[&len.to_string()]);
    assert_eq!(*receiver.recv().unwrap(), *b"before");
    until("a part of the long one is there", || receiver.peek_len() == Ok(len));
    stop(&child);
    assert_eq!(receiver.try_recv().map(|frame| frame.len()), Err(TryRecvError::Empty));
    kill_and_reap(&mut child);
    (segment, receiver)
}

#[test]
fn what_was_sent_between_two_sends_in_vain_arrives() {
    for len in [4200, 9000, 100_000] {
        let (segment, mut receiver) = with_a_part_in_hand(len);
        until("its seat is free", || {
            Pipe::simplex_sender::<[u8]>(&segment, "pipe", 4096).map(spsc::Sender::release).is_ok()
        });
        let mut sender = Pipe::simplex_sender::<[u8]>(&segment, "pipe", 4096).unwrap();
        sender.send(b"between").unwrap();
        let short = Duration::from_millis(5);
        assert_eq!(sender.send_timeout(&message(2, 9000), short), Err(SendTimeoutError::Timeout(())));
        assert_eq!(receiver.try_recv().map(|frame| frame.to_vec()), Ok(b"between".to_vec()));
        assert_eq!(receiver.try_recv().map(|frame| frame.len()), Err(TryRecvError::Empty));
    }
}

#[test]
fn what_is_left_of_two_sends_in_vain_is_no_message() {
    for len in [4200, 4500, 5000, 9000] {
        let (segment, mut receiver) = with_a_part_in_hand(len);
        until("its seat is free", || {
            Pipe::simplex_sender::<[u8]>(&segment, "pipe", 4096).map(spsc::Sender::release).is_ok()
        });
        let mut sender = Pipe::simplex_sender::<[u8]>(&segment, "pipe", 4096).unwrap();
        let short = Duration::from_millis(5);
        assert_eq!(sender.send_timeout(&message(2, 20_000), short), Err(SendTimeoutError::Timeout(())));
        let mut nothing =
            || assert_eq!(receiver.try_recv().map(|frame| frame.len()), Err(TryRecvError::Empty), "{len}");
        nothing();
        nothing();
        sender.send_timeout(b"after", LONG).unwrap();
        assert_eq!(receiver.try_recv().map(|frame| frame.to_vec()), Ok(b"after".to_vec()));
    }
}

#[test]
fn a_backlog_is_what_had_been_sent_and_only_that() {
    let (sender, receiver) = queue(4096);
    // In every lap, and with messages of several blocks.
    for lap in 0..40 {
        sender.send(&message(1, 700)).unwrap();
        sender.send(b"second").unwrap();
        let backlog = sender.queue().backlog();
        sender.send(b"later").unwrap();
        let grant = sender.reserve(100).unwrap();
        assert_eq!(backlog.len(), 2, "lap {lap}");
        grant.commit(100);
        assert_eq!(backlog.len(), 2, "lap {lap}");

        receiver.recv().unwrap().give_back();
        let first = receiver.recv().unwrap();
        assert_eq!((first.len(), backlog.len()), (700, 2));
        assert!(!backlog.wait(Duration::ZERO));
        drop(first);
        // As many messages are there as before.
        sender.send(b"more").unwrap();
        assert_eq!(backlog.len(), 1);
        assert_eq!(*receiver.recv().unwrap(), *b"second");
        assert!(backlog.is_empty() && backlog.wait(Duration::ZERO));
        assert!(!sender.queue().wait_drained(Duration::ZERO));
        assert_eq!(receiver.try_iter().count(), 3);
        assert!(sender.queue().wait_drained(Duration::ZERO));
    }
}

#[test]
fn waiting_for_a_backlog_ends_with_its_last_message() {
    let (sender, receiver) = queue(4096);
    for number in 0..100 {
        sender.send(&message(number, 100)).unwrap();
        let backlog = sender.queue().backlog();
        sender.send(b"later").unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| backlog.wait(LONG));
            drop(receiver.recv().unwrap());
            assert!(waiter.join().unwrap());
        });
        drop(receiver.recv().unwrap());
    }
}
