//! Guards that are made and dropped in a destructor while the thread unwinds from a panic over something else: they end
//! what they stand for, as in calm. Only a panic that began while a guard lived leaves its message or its lock to others.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use gimmal::{Lock, Queue, Segment, SpscQueue};

/// Calls `act` in a destructor while this thread unwinds. It must not panic: a second panic would end the program.
fn while_unwinding<R>(act: impl FnOnce() -> R) -> R {
    struct Last<F: FnOnce()>(Option<F>);
    impl<F: FnOnce()> Drop for Last<F> {
        fn drop(&mut self) {
            self.0.take().expect("dropped once")();
        }
    }
    let mut result = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _last = Last(Some(|| {
            assert!(std::thread::panicking());
            result = Some(act());
        }));
        resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    result.expect("the destructor has run")
}

/// Panics while `guard` lives, and drops it in that.
fn panic_with<G>(guard: G) {
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _guard = guard;
        resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
}

fn segment() -> Segment {
    Segment::anonymous().unwrap()
}

/// What a loop over `next` in a destructor gets; three times as many at most as there are.
fn drained(next: impl FnMut() -> Option<u64>) -> Vec<u64> {
    let mut next = next;
    while_unwinding(|| (0..6).map_while(|_| next()).collect())
}

#[test]
fn a_guard_of_a_queue_receives_in_a_destructor() {
    let segment = segment();
    let queue = Queue::<u64>::create(&segment, "queue", 8).unwrap();
    queue.sender().unwrap().send_slice(&[1, 2]).unwrap();
    let receiver = queue.receiver().unwrap();
    assert_eq!(drained(|| receiver.try_recv_guard().ok().map(|guard| *guard)), [1, 2]);
    queue.sender().unwrap().send(3).unwrap();
    panic_with(receiver.recv_guard().unwrap());
    assert_eq!(receiver.try_recv(), Ok(3));
}

#[test]
fn a_frame_of_a_queue_receives_in_a_destructor() {
    let segment = segment();
    let queue = Queue::<[u8]>::create(&segment, "queue", 512).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send(&[1]).unwrap();
    sender.send(&[2]).unwrap();
    assert_eq!(drained(|| receiver.try_recv().ok().map(|frame| frame[0].into())), [1, 2]);
    sender.send(&[3]).unwrap();
    panic_with(receiver.recv().unwrap());
    assert_eq!(receiver.try_recv().unwrap()[..], [3]);
}

#[test]
fn a_guard_of_an_spsc_queue_receives_in_a_destructor() {
    let segment = segment();
    let queue = SpscQueue::<u64>::create(&segment, "queue", 8).unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send_slice(&[1, 2]).unwrap();
    assert_eq!(drained(|| receiver.try_recv_guard().ok().map(|guard| *guard)), [1, 2]);
    sender.send(3).unwrap();
    panic_with(receiver.recv_guard().unwrap());
    assert_eq!(receiver.try_recv(), Ok(3));
}

#[test]
fn a_row_of_an_spsc_queue_is_received_in_a_destructor() {
    let segment = segment();
    let queue = SpscQueue::<u64>::create(&segment, "queue", 8).unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send_slice(&[1, 2]).unwrap();
    assert_eq!(drained(|| receiver.try_recv_slice(1).ok().map(|guard| guard[0])), [1, 2]);
    sender.send(3).unwrap();
    panic_with(receiver.recv_slice(1).unwrap());
    assert_eq!(receiver.try_recv(), Ok(3));
}

#[test]
fn a_frame_of_an_spsc_queue_receives_in_a_destructor() {
    let segment = segment();
    let queue = SpscQueue::<[u8]>::create(&segment, "queue", 512).unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send(&[1]).unwrap();
    sender.send(&[2]).unwrap();
    assert_eq!(drained(|| receiver.try_recv().ok().map(|frame| frame[0].into())), [1, 2]);
    sender.send(&[3]).unwrap();
    panic_with(receiver.recv().unwrap());
    assert_eq!(receiver.try_recv().unwrap()[..], [3]);
}

#[test]
fn a_lock_that_is_taken_in_a_destructor_is_given_back_without_news() {
    let segment = segment();
    let lock = Lock::<u64>::create(&segment, "lock", 0).unwrap();
    while_unwinding(|| lock.lock().map(|mut guard| *guard += 1).is_ok());
    assert_eq!(*lock.lock().expect("no news of anybody's death"), 1);
    panic_with(lock.lock().unwrap());
    assert!(lock.lock().is_err_and(|e| e.is_owner_died()));
}
