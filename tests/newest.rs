//! Queues in which the newest messages matter: `Sender::force_send`, `LossyQueue`.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{
    Departure, Error, LossyQueue, Queue, QueueOptions, RecvError, RecvTimeoutError, Segment, SendError, SpscQueue,
    TryRecvError, TrySendError,
};
use support::{die_with_parent, kill_and_reap, until};

const ENTRIES: [Entry; 2] = gimmal::entries![send_for_ever, force_for_ever];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment) -> Child {
    process::init(&ENTRIES);
    support::process(entry).segment(segment).spawn().expect("start a process")
}

/// Five words, so that a message can be torn.
type Sample = [u64; 5];

fn sample(n: u64) -> Sample {
    [n, !n, n << 32, n ^ 0x5555, n.wrapping_mul(3)]
}

// --- force_send ---

#[test]
fn a_full_queue_gives_its_oldest_message_for_a_new_one() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<Sample>::create(&segment, "queue", 4).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for n in 0..100 {
        let displaced = sender.force_send(sample(n)).unwrap();
        assert_eq!(displaced, n.checked_sub(4).map(sample));
    }
    assert_eq!(receiver.try_recv(), Ok(sample(96)));
    assert_eq!(sender.force_send(sample(100)).unwrap(), None);
    sender.send_slice(&[]).unwrap();
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [97, 98, 99, 100].map(sample));
    // Batches are displaced one message at a time.
    assert_eq!(sender.try_send_slice(&[1, 2, 3, 4].map(sample)), Ok(4));
    assert_eq!(sender.force_send(sample(5)).unwrap(), Some(sample(1)));
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [2, 3, 4, 5].map(sample));
}

#[test]
fn a_message_in_somebodys_hands_is_not_displaced() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<u64>::create(&segment, "queue", 2).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send(1).unwrap();
    sender.send(2).unwrap();
    let guard = receiver.recv_guard().unwrap();
    assert!(matches!(sender.force_send(3), Err(TrySendError::Full(3))));
    guard.give_back();
    assert_eq!(sender.force_send(3).unwrap(), Some(1));
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [2, 3]);
    queue.close();
    assert!(matches!(sender.force_send(4), Err(TrySendError::Closed(4))));
}

#[test]
fn every_message_is_received_or_displaced_once_and_in_order() {
    const SENDERS: usize = 3;
    const MESSAGES: u64 = 30_000;
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().capacity(8).create::<Sample>(&segment, "queue").unwrap();
    let senders: Vec<_> = (0..SENDERS).map(|_| queue.sender().unwrap()).collect();
    let receivers: Vec<_> = (0..2).map(|_| queue.receiver().unwrap()).collect();
    let number = |id: usize, n: u64| n * SENDERS as u64 + id as u64;
    let mut all: Vec<u64> = thread::scope(|scope| {
        let senders: Vec<_> = senders
            .into_iter()
            .enumerate()
            .map(|(id, sender)| {
                scope.spawn(move || {
                    let mut displaced = Vec::new();
                    for n in 0..MESSAGES {
                        let mut message = sample(number(id, n));
                        loop {
                            match sender.force_send(message) {
                                Ok(old) => break displaced.extend(old),
                                Err(TrySendError::Full(back)) => message = back,
                                Err(e) => panic!("{e}"),
                            }
                        }
                    }
                    displaced
                })
            })
            .collect();
        let receivers: Vec<_> = receivers
            .into_iter()
            .map(|receiver| {
                scope.spawn(move || {
                    let received: Vec<Sample> = receiver.iter().collect();
                    for id in 0..SENDERS as u64 {
                        let of = received.iter().filter(|message| message[0] % SENDERS as u64 == id);
                        assert!(of.map(|message| message[0]).is_sorted());
                    }
                    received
                })
            })
            .collect();
        let displaced = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<Vec<_>>();
        let received = receivers.into_iter().flat_map(|receiver| receiver.join().unwrap());
        let check = |message: Sample| {
            assert_eq!(message, sample(message[0]));
            message[0]
        };
        received.chain(displaced).map(check).collect()
    });
    all.sort_unstable();
    assert!(all.into_iter().eq(0..MESSAGES * SENDERS as u64));
}

fn force_for_ever(context: &Context) -> Outcome {
    die_with_parent();
    let sender = Queue::<Sample>::open(context.segment(0)?, "queue")?.sender()?;
    for n in 0.. {
        let _ = sender.force_send(sample(n));
    }
    Ok(())
}

#[test]
fn a_killed_sender_leaves_whole_messages_and_a_whole_queue() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().capacity(4).keep_waiting(true).create::<Sample>(&segment, "queue").unwrap();
    let receiver = queue.receiver().unwrap();
    for _ in 0..10 {
        let mut child = start("force_for_ever", &segment);
        let mut last = None;
        for _ in 0..1000 {
            let message = receiver.recv().unwrap();
            assert_eq!(message, sample(message[0]));
            assert!(last < Some(message[0]));
            last = Some(message[0]);
        }
        kill_and_reap(&mut child);
        until("it is repaired after", || segment.peers().len() == 1);
        segment.recover().unwrap();
        let rest: Vec<Sample> = receiver.try_iter().collect();
        assert!(rest.len() <= 4 && rest.iter().all(|message| *message == sample(message[0])));
        let sender = queue.sender().unwrap();
        (0..4).for_each(|n| sender.try_send(sample(n)).unwrap());
        assert_eq!(receiver.try_iter().count(), 4);
    }
}

// --- LossyQueue ---

#[test]
fn a_lossy_queue_keeps_the_newest_and_counts_the_rest() {
    let segment = Segment::anonymous().unwrap();
    let queue = LossyQueue::<[u8; 13]>::create(&segment, "samples", 5).unwrap();
    assert_eq!(queue.capacity(), 8);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    assert!(matches!(queue.sender(), Err(Error::SeatTaken { .. })));
    for n in 0..100 {
        sender.send([n; 13]).unwrap();
    }
    assert_eq!(queue.len(), 8);
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), core::array::from_fn::<_, 8, _>(|n| [92 + n as u8; 13]));
    assert_eq!((receiver.lost(), receiver.try_recv()), (92, Err(TryRecvError::Empty)));
    let short = Duration::from_millis(1);
    assert_eq!(receiver.recv_timeout(short), Err(RecvTimeoutError::Timeout));
    assert!(!receiver.poll(Duration::ZERO));
    sender.send([7; 13]).unwrap();
    assert!(receiver.poll(Duration::ZERO));
    assert_eq!((receiver.recv(), receiver.lost()), (Ok([7; 13]), 92));
    // A successor goes on.
    sender.send([8; 13]).unwrap();
    receiver.release();
    let mut receiver = queue.receiver().unwrap();
    sender.close();
    assert_eq!(sender.send([9; 13]), Err(SendError::Closed([9; 13])));
    assert_eq!((receiver.recv(), receiver.recv()), (Ok([8; 13]), Err(RecvError::Closed)));
    assert_eq!(receiver.lost(), 0);
    assert!(matches!(SpscQueue::<[u8; 13]>::open(&segment, "samples"), Err(Error::KindMismatch { .. })));
    assert!(matches!(LossyQueue::<u8>::open(&segment, "samples"), Err(Error::TypeMismatch { .. })));
    assert_eq!(segment.snapshot().unwrap().objects[0].kind.to_string(), "LossyQueue");
}

#[test]
fn whatever_is_received_is_whole_in_order_and_accounted_for() {
    const MESSAGES: u64 = 200_000;
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().capacity(4).create_lossy::<Sample>(&segment, "samples").unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..MESSAGES {
                sender.send(sample(n)).unwrap();
            }
            done.store(true, Relaxed);
            drop(sender);
        });
        let mut received = 0;
        let mut last = None;
        loop {
            match receiver.recv() {
                Ok(message) => {
                    assert_eq!(message, sample(message[0]), "torn");
                    assert!(last < Some(message[0]));
                    assert_eq!(message[0], received + receiver.lost());
                    last = Some(message[0]);
                    received += 1;
                }
                Err(e) => {
                    assert_eq!(e, RecvError::Disconnected { peer: Departure::Closed });
                    break;
                }
            }
        }
        assert!(done.load(Relaxed));
        assert_eq!(received + receiver.lost(), MESSAGES);
        assert_eq!(last, Some(MESSAGES - 1));
    });
}

fn send_for_ever(context: &Context) -> Outcome {
    die_with_parent();
    let mut sender = LossyQueue::<Sample>::open(context.segment(0)?, "samples")?.sender()?;
    for n in 0.. {
        sender.send(sample(n))?;
    }
    Ok(())
}

#[test]
fn a_killed_sender_leaves_whole_messages_for_the_receiver_and_a_seat_for_the_next() {
    let segment = Segment::anonymous().unwrap();
    let queue = LossyQueue::<Sample>::create(&segment, "samples", 8).unwrap();
    let mut receiver = queue.receiver().unwrap();
    for _ in 0..10 {
        let mut child = start("send_for_ever", &segment);
        for _ in 0..2000 {
            let message = receiver.recv().unwrap();
            assert_eq!(message, sample(message[0]));
        }
        kill_and_reap(&mut child);
        until("the seat is free", || queue.sender().map(gimmal::LossySender::release).is_ok());
        let rest: Vec<Sample> = receiver.try_iter().collect();
        assert!(rest.len() <= 8 && rest.iter().all(|message| *message == sample(message[0])));
    }
}
