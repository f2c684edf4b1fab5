//! Several messages in one call: rows of an `SpscQueue` that are written and read in place, and runs of a `Queue`. What a kill
//! leaves of them: `sweep.rs`.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use gimmal::spsc::{Receiver, Sender};
use gimmal::{Departure, RecvError, Segment, SendError, SpscQueue, TryRecvError, TrySendError};
use support::{state_of_thread, until};

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
        let options = SpscQueue::<u64>::options().capacity(capacity).disconnect(true);
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
    let mut slots = sender.reserve_slice(2).unwrap();
    slots.fill(99);
    std::mem::forget(slots);
    std::mem::forget(receiver.recv_slice(2).unwrap());
    sender.release();
    receiver.release();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(3).unwrap();
    assert_eq!(receiver.recv_slice(4).unwrap()[..], [1, 2, 3]);
}
