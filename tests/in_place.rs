//! Messages written and read in place: `reserve`, `recv_guard`, and who gets a message whose reader does not finish.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{
    Array, Lock, LockError, Queue, RecvError, RecvTimeoutError, Segment, SendError, SpscQueue, TryRecvError,
    TrySendError, Value,
};
use support::{LONG, die_with_parent, join_well, kill_and_reap, resume, state_of_thread, stop, until};

const ENTRIES: [Entry; 4] = gimmal::entries![hold_guard, hold_reservation, hold_spsc_guard, panic_with_guard];

#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment) -> Child {
    process::init(&ENTRIES);
    let child = support::process(entry).segment(segment).spawn().expect("start a process");
    let holding = Value::<u32>::open(segment, "holding").unwrap();
    assert_eq!(holding.wait_while_timeout(LONG, |pid| pid != child.pid()), Ok(child.pid()));
    child
}

/// A segment with a queue of numbers and what the processes below wait for.
fn stage(capacity: usize) -> (Segment, Queue<u64>) {
    let segment = Segment::anonymous().unwrap();
    Value::<u32>::create(&segment, "holding", 0).unwrap();
    Value::<bool>::create(&segment, "over", false).unwrap();
    let queue = Queue::create(&segment, "queue", capacity).unwrap();
    (segment, queue)
}

/// Says that we hold what we are to hold, and waits until the test says otherwise.
fn hold(segment: &Segment) -> Outcome {
    let holding = Value::<u32>::open(segment, "holding")?;
    holding.store(std::process::id(), Release);
    holding.notify_all();
    Value::<bool>::open(segment, "over")?.wait_while(|over| !over);
    Ok(())
}

fn let_go(segment: &Segment) {
    let over = Value::<bool>::open(segment, "over").unwrap();
    over.store(true, Release);
    over.notify_all();
}

// --- one process ---

#[test]
fn a_reservation_is_sent_by_commit_and_by_nothing_else() {
    let (_segment, queue) = stage(4);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut slot = sender.reserve().unwrap();
    *slot = 1;
    assert_eq!((queue.len(), receiver.try_recv()), (0, Err(TryRecvError::Empty)));
    slot.commit();
    let mut slot = sender.try_reserve().unwrap();
    *slot = 2;
    drop(slot);
    let mut slot = sender.reserve_timeout(LONG).unwrap();
    *slot = 3;
    assert_eq!(*slot, 3);
    slot.commit();
    assert!(receiver.try_iter().eq([1, 3]));
    // Nothing has leaked: the ring holds as many as before.
    sender.send_slice(&[4, 5, 6, 7]).unwrap();
    assert!(matches!(sender.try_reserve(), Err(TrySendError::Full(()))));
    assert!(sender.reserve_timeout(Duration::ZERO).is_err_and(|e| e.is_timeout()));
    queue.close();
    assert!(matches!(sender.reserve(), Err(SendError::Closed(()))));
}

#[test]
fn receivers_step_around_a_reservation_and_find_it_when_it_is_committed() {
    let (_segment, queue) = stage(4);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut slow = sender.reserve().unwrap();
    sender.send(2).unwrap();
    assert_eq!(receiver.recv(), Ok(2));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    *slow = 1;
    slow.commit();
    assert_eq!(receiver.recv(), Ok(1));
}

#[test]
fn a_guard_ends_the_receive_when_it_is_dropped() {
    let (_segment, queue) = stage(1);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send(7).unwrap();
    let guard = receiver.recv_guard().unwrap();
    assert_eq!((*guard, format!("{guard:?}")), (7, "7".to_owned()));
    assert_eq!(queue.len(), 0, "somebody is receiving it");
    assert!(matches!(sender.try_send(8), Err(TrySendError::Full(8))), "and its slot is not free");
    drop(guard);
    sender.try_send(8).unwrap();
    assert_eq!(*receiver.try_recv_guard().unwrap(), 8);
    assert!(matches!(receiver.try_recv_guard(), Err(TryRecvError::Empty)));
    assert!(matches!(receiver.recv_guard_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout)));
}

#[test]
fn a_message_that_is_given_back_comes_before_newer_ones_and_once() {
    let (_segment, queue) = stage(4);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send_slice(&[1, 2, 3]).unwrap();
    let (first, second) = (receiver.recv_guard().unwrap(), receiver.recv_guard().unwrap());
    second.give_back();
    first.give_back();
    assert_eq!(queue.len(), 3);
    assert!(receiver.clone().try_iter().eq([1, 2, 3]));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn one_who_sleeps_gets_what_is_given_back() {
    let (_segment, queue) = stage(4);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send(1).unwrap();
    let guard = receiver.recv_guard().unwrap();
    thread::scope(|scope| {
        let other = queue.receiver().unwrap();
        let sleeper = scope.spawn(move || other.recv_timeout(LONG));
        guard.give_back();
        assert_eq!(sleeper.join().unwrap(), Ok(1));
    });
}

#[test]
fn the_message_of_a_thread_that_panics_goes_to_another() {
    let (_segment, queue) = stage(4);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send_slice(&[1, 2]).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let guard = receiver.recv_guard().unwrap();
        panic!("cannot process {}", *guard);
    }));
    assert!(panicked.is_err());
    assert_eq!((receiver.recv(), receiver.recv()), (Ok(1), Ok(2)));
}

#[test]
fn the_lock_of_a_thread_that_panics_comes_with_the_news() {
    let segment = Segment::anonymous().unwrap();
    let lock = Lock::<u64>::create(&segment, "lock", 0).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = lock.lock().unwrap();
        *guard = 1;
        panic!("in the middle");
    }));
    assert!(panicked.is_err());
    match lock.lock() {
        Err(LockError::OwnerDied { guard, pid }) => assert_eq!((*guard, pid), (1, std::process::id())),
        other => panic!("{other:?}"),
    };
    assert!(lock.lock().is_ok(), "told once");
}

/// What another participant is reading may come back, so the queue has not ended for the others.
#[test]
fn a_closed_queue_ends_when_all_that_was_taken_is_settled() {
    for gives_back in [false, true] {
        let (segment, queue) = stage(4);
        let other = Segment::from_fd(&segment).unwrap();
        let there = Queue::<u64>::open(&other, "queue").unwrap().receiver().unwrap();
        let here = queue.receiver().unwrap();
        queue.sender().unwrap().send(5).unwrap();
        let guard = there.recv_guard().unwrap();
        queue.close();
        assert_eq!(here.try_recv(), Err(TryRecvError::Empty));
        thread::scope(|scope| {
            let waits = scope.spawn(|| (here.recv_timeout(LONG), here.try_recv()));
            if gives_back {
                guard.give_back()
            } else {
                drop(guard)
            }
            let closed = Err(TryRecvError::Closed);
            let expected = if gives_back { Ok(5) } else { Err(RecvTimeoutError::Closed) };
            assert_eq!(waits.join().unwrap(), (expected, closed));
        });
        assert_eq!(there.recv(), Err(RecvError::Closed));
    }
}

/// The same between two receivers of one process.
#[test]
fn what_another_thread_holds_may_come_back_too() {
    let (_segment, queue) = stage(4);
    let (here, there) = (queue.receiver().unwrap(), queue.receiver().unwrap());
    queue.sender().unwrap().send(5).unwrap();
    let guard = there.recv_guard().unwrap();
    queue.close();
    assert_eq!(here.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(there.try_recv(), Err(TryRecvError::Closed), "one does not wait for oneself");
    thread::scope(|scope| {
        let waits = scope.spawn(|| here.recv_timeout(LONG));
        guard.give_back();
        assert_eq!(waits.join().unwrap(), Ok(5));
    });
    assert_eq!(here.try_recv(), Err(TryRecvError::Closed));
}

/// They are given back when their participant leaves.
#[test]
fn forgotten_guards_and_reservations_do_not_outlive_their_participant() {
    let (segment, queue) = stage(2);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send(1).unwrap();
    let other = Segment::from_fd(&segment).unwrap();
    let there = Queue::<u64>::open(&other, "queue").unwrap();
    std::mem::forget(there.receiver().unwrap().recv_guard().unwrap());
    std::mem::forget(there.sender().unwrap().reserve().unwrap());
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    drop((there, other));
    assert_eq!(receiver.try_recv(), Ok(1));
    sender.try_send(2).unwrap();
    sender.try_send(3).unwrap();
    assert!(receiver.try_iter().eq([2, 3]));
}

/// Slots are released in any order and filled in one: one release may make room for two.
#[test]
fn a_sender_that_was_woken_wakes_the_next_if_there_is_still_room() {
    let (_segment, queue) = stage(2);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send_slice(&[1, 2]).unwrap();
    let (first, second) = (receiver.recv_guard().unwrap(), receiver.recv_guard().unwrap());
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let senders: Vec<_> = (3..5)
            .map(|n| {
                let (sender, tell) = (sender.clone(), tell.clone());
                scope.spawn(move || {
                    tell.send(nix::unistd::gettid()).unwrap();
                    // Longer than the test waits: at its deadline a send looks once more.
                    sender.send_timeout(n, LONG * 2)
                })
            })
            .collect();
        let threads = [told.recv().unwrap(), told.recv().unwrap()];
        let both_asleep = || threads.iter().all(|id| state_of_thread(id.as_raw()) == Some('S'));
        until("both senders sleep", both_asleep);
        // The slot behind the one that is needed next: whoever is woken finds no room.
        drop(second);
        until("both senders sleep again", both_asleep);
        drop(first);
        until("both have sent", || queue.len() == 2);
        for sender in senders {
            assert_eq!(sender.join().unwrap(), Ok(()));
        }
    });
}

#[test]
fn exclusive_ends_write_and_read_in_place() {
    let segment = Segment::anonymous().unwrap();
    let queue = SpscQueue::<u64>::create(&segment, "queue", 2).unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for n in 0..5 {
        let mut slot = sender.reserve().unwrap();
        *slot = n;
        drop(slot);
        assert_eq!(queue.len(), 0, "nothing was sent");
        let mut slot = sender.reserve_timeout(LONG).unwrap();
        *slot = n;
        slot.commit();
        let guard = receiver.recv_guard().unwrap();
        assert_eq!(*guard, n);
        guard.give_back();
        assert_eq!(queue.len(), 1, "it is still there");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _guard = receiver.recv_guard().unwrap();
            panic!("in the middle");
        }));
        assert!(panicked.is_err() && queue.len() == 1);
        drop(receiver.recv_guard_timeout(LONG).unwrap());
        assert_eq!(queue.len(), 0);
    }
    assert!(matches!(receiver.try_recv_guard(), Err(TryRecvError::Empty)));
    sender.send_slice(&[1, 2]).unwrap();
    assert!(matches!(sender.try_reserve(), Err(TrySendError::Full(()))));
}

// --- processes that are killed and stopped ---

fn hold_guard(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let receiver = Queue::<u64>::open(segment, "queue")?.receiver()?;
    let guard = receiver.recv_guard()?;
    hold(segment)?;
    drop(guard);
    Ok(())
}

#[test]
fn the_message_of_a_killed_guard_is_delivered_again() {
    let (segment, queue) = stage(4);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send_slice(&[1, 2]).unwrap();
    let mut child = start("hold_guard", &segment);
    assert_eq!(receiver.recv(), Ok(2), "others go on around it");
    thread::scope(|scope| {
        let waits = scope.spawn(|| receiver.recv_timeout(LONG));
        assert!(kill_and_reap(&mut child));
        assert_eq!(waits.join().unwrap(), Ok(1));
    });
    sender.send_slice(&[3, 4, 5, 6]).unwrap();
    assert!(receiver.try_iter().eq(3..7));
}

/// Alive for as long as it takes: nobody takes its slot, and it gives it back when it goes on.
#[test]
fn a_stopped_guard_keeps_its_slot_and_no_more() {
    let (segment, queue) = stage(4);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send(1).unwrap();
    let mut child = start("hold_guard", &segment);
    assert!(stop(&child));
    for n in 2..5 {
        sender.send_timeout(n, LONG).unwrap();
        assert_eq!(receiver.recv_timeout(LONG), Ok(n));
    }
    // One round later its slot is the next.
    assert!(matches!(sender.try_send(5), Err(TrySendError::Full(5))));
    assert_eq!(segment.recover().unwrap().redelivered, 0);
    let_go(&segment);
    resume(&child);
    sender.send_timeout(5, LONG).unwrap();
    assert_eq!(receiver.recv_timeout(LONG), Ok(5));
    join_well(&mut child);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
}

fn hold_reservation(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let sender = Queue::<u64>::open(segment, "queue")?.sender()?;
    let mut slot = sender.reserve()?;
    *slot = 99;
    hold(segment)?;
    slot.commit();
    Ok(())
}

#[test]
fn a_stopped_reservation_arrives_when_its_process_goes_on() {
    let (segment, queue) = stage(4);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut child = start("hold_reservation", &segment);
    assert!(stop(&child));
    for n in 0..3 {
        sender.send_timeout(n, LONG).unwrap();
        assert_eq!(receiver.recv_timeout(LONG), Ok(n));
    }
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    let_go(&segment);
    resume(&child);
    assert_eq!(receiver.recv_timeout(LONG), Ok(99));
    join_well(&mut child);
}

#[test]
fn a_killed_reservation_never_happened() {
    let (segment, queue) = stage(2);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut child = start("hold_reservation", &segment);
    sender.send(1).unwrap();
    assert_eq!(receiver.recv(), Ok(1));
    thread::scope(|scope| {
        let waits = scope.spawn(|| sender.send_timeout(2, LONG));
        assert!(kill_and_reap(&mut child));
        assert_eq!(waits.join().unwrap(), Ok(()));
    });
    sender.send(3).unwrap();
    assert!(receiver.try_iter().eq([2, 3]));
}

fn hold_spsc_guard(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let mut receiver = SpscQueue::<u64>::open(segment, "spsc")?.receiver()?;
    let guard = receiver.recv_guard()?;
    hold(segment)?;
    drop(guard);
    Ok(())
}

#[test]
fn a_successor_gets_what_a_killed_exclusive_receiver_was_reading() {
    let (segment, _) = stage(1);
    let queue = SpscQueue::<u64>::create(&segment, "spsc", 4).unwrap();
    let mut sender = queue.sender().unwrap();
    sender.send_slice(&[1, 2]).unwrap();
    let mut child = start("hold_spsc_guard", &segment);
    assert!(kill_and_reap(&mut child));
    let mut receiver = queue.receiver().unwrap();
    assert!(receiver.try_iter().eq([1, 2]));
}

fn panic_with_guard(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let receiver = Queue::<u64>::open(segment, "queue")?.receiver()?;
    let numbers = Array::<u64>::open(segment, "numbers")?;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _guard = receiver.recv_guard();
        numbers[0].update(Acquire, |_| panic!("inside a closure"));
    }));
    assert!(panicked.is_err());
    hold(segment)
}

#[test]
fn a_panic_inside_a_closure_leaves_nothing_stuck() {
    let (segment, queue) = stage(4);
    let numbers = Array::<u64>::create(&segment, "numbers", 1).unwrap();
    queue.sender().unwrap().send(1).unwrap();
    let mut child = start("panic_with_guard", &segment);
    assert_eq!(queue.receiver().unwrap().recv_timeout(LONG), Ok(1));
    assert_eq!(numbers[0].load(Acquire), 0);
    let_go(&segment);
    join_well(&mut child);
}
