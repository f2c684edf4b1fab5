//! What `fork` does to participants. No test harness: a forked child of a process with other threads could not go on safely.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::process::exit;

use gimmal::{
    Array, Doorbell, Error, Latest, Lock, LockError, Queue, QueueOptions, RecvError, Segment, Share, SpscQueue,
    TryRecvError, TrySendError, Value,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe, read, write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A step of one process that another waits for.
struct Step(OwnedFd, OwnedFd);

impl Step {
    fn new() -> Self {
        let (read, write) = pipe().unwrap();
        Self(read, write)
    }

    fn done(&self) {
        assert_eq!(write(&self.1, b"x"), Ok(1));
    }

    fn wait(&self) {
        assert_eq!(read(&self.0, &mut [0]), Ok(1));
    }
}

/// Runs `child` in a forked process, which ends without leaving its segments, as if it had been killed.
fn in_child(child: impl FnOnce()) -> Pid {
    // SAFETY: this program has one thread, or others that hold nothing but what the C library and gimmal free in a child.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // A child that waits for a step of a test that has failed must not stay for ever.
            nix::unistd::alarm::set(30);
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).is_ok();
            // SAFETY: ends the process, without destructors.
            unsafe { nix::libc::_exit(i32::from(!ok)) }
        }
    }
}

fn reap(child: Pid) {
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "the child failed");
}

fn a_child_is_a_participant_of_its_own() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<u64>::create(&segment, "queue", 8).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let value = Value::<u64>::create(&segment, "value", 0).unwrap();
    let array = Array::<u64>::create(&segment, "array", 4).unwrap();
    let lock = Lock::<u64>::create(&segment, "lock", 0).unwrap();
    let latest = Latest::<[u64; 9]>::create(&segment, "latest", [4; 9]).unwrap();
    let own = segment.peers()[0].id;
    reap(in_child(|| {
        sender.send(1).unwrap();
        value.fetch_add(2, Relaxed);
        array[3].store(3, Relaxed);
        *lock.lock().unwrap() += 4;
        assert_eq!(latest.store([5; 9]).unwrap(), 1);
        let peers = segment.peers();
        assert_eq!(peers.len(), 2, "{peers:?}");
        assert!(peers.iter().any(|peer| peer.is_self && peer.id != own && peer.pid == std::process::id()));
    }));
    assert_eq!(receiver.recv(), Ok(1));
    assert_eq!((value.load(Relaxed), array[3].load(Relaxed), *lock.lock().unwrap()), (2, 3, 4));
    assert_eq!((latest.load(), latest.version()), ([5; 9], 1));
}

/// Both come out of the change: each stores as itself.
fn a_fork_in_the_middle_of_a_change_is_two_changes() {
    let segment = Segment::anonymous().unwrap();
    let latest = Latest::<[u64; 9]>::create(&segment, "latest", [0; 9]).unwrap();
    let mut forked = None;
    let stored = latest.update(|value| {
        *value = value.map(|word| word + 1);
        // SAFETY: this program has one thread.
        forked.get_or_insert_with(|| unsafe { fork() }.unwrap());
    });
    match forked {
        Some(ForkResult::Parent { child }) => reap(child),
        // SAFETY: ends the process, without destructors.
        _ => unsafe { nix::libc::_exit(i32::from(stored.is_err())) },
    }
    assert!(stored.is_ok());
    assert_eq!((latest.load(), latest.version()), ([2; 9], 2));
}

fn a_child_that_does_nothing_does_not_keep_its_parents_lease() {
    let segment = Segment::anonymous().unwrap();
    let (idle, over) = (Step::new(), Step::new());
    let parent = in_child(|| {
        let _own = Segment::from_fd(&segment).unwrap();
        // Never touches a handle; outlives its parent.
        in_child(|| {
            idle.done();
            over.wait();
        });
        std::mem::forget(_own);
    });
    // It has run, and with it the handler that closes its copy of the lease.
    idle.wait();
    reap(parent);
    // Some sentinel may have been faster, or be about it.
    segment.recover().unwrap();
    let peers = segment.peers();
    over.done();
    assert!(!peers.iter().any(|peer| peer.pid == parent.as_raw() as u32), "{peers:?}");
}

fn a_childs_copy_of_an_exclusive_end_is_detached_while_the_parent_sits() {
    let segment = Segment::anonymous().unwrap();
    let queue = SpscQueue::<u64>::create(&segment, "queue", 8).unwrap();
    let mut sender = Some(queue.sender().unwrap());
    reap(in_child(|| {
        let mut copy = sender.take().unwrap();
        assert_eq!(copy.try_send(1), Err(TrySendError::Detached(1)));
        assert!(matches!(queue.sender(), Err(Error::SeatTaken { pid }) if pid == std::os::unix::process::parent_id()));
        // Dropping the copy does not close the parent's end.
        drop(copy);
    }));
    let mut receiver = queue.receiver().unwrap();
    assert!(receiver.try_recv().is_err_and(|e| e.is_empty()), "the parent's end is closed");
    sender.unwrap().send(2).unwrap();
    assert_eq!(receiver.recv(), Ok(2));
}

fn a_child_with_its_dead_parents_id_does_not_sit_in_its_parents_seat() {
    let segment = Segment::anonymous().unwrap();
    let queue = SpscQueue::<u64>::create(&segment, "queue", 64).unwrap();
    let mut receiver = queue.receiver().unwrap();
    let (joined, go, end) = (Step::new(), Step::new(), Step::new());
    reap(in_child(|| {
        let mut sender = queue.sender().unwrap();
        sender.send(1).unwrap();
        in_child(|| {
            go.wait();
            // The parent is dead: this joins anew, and may be given its id.
            assert!(!segment.peers().is_empty());
            joined.done();
            go.wait();
            assert_eq!(sender.try_send(999), Err(TrySendError::Detached(999)));
            end.done();
        });
    }));
    go.done();
    joined.wait();
    let mut sender = queue.sender().expect("the seat of the dead");
    sender.send(2).unwrap();
    go.done();
    end.wait();
    sender.send(3).unwrap();
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
}

fn a_childs_copy_of_a_guard_does_not_unlock() {
    let segment = Segment::anonymous().unwrap();
    let lock = Lock::<u64>::create(&segment, "lock", 0).unwrap();
    let (joined, go, end) = (Step::new(), Step::new(), Step::new());
    let parent = in_child(|| {
        let mut guard = Some(lock.lock().unwrap());
        in_child(|| {
            go.wait();
            assert!(!segment.peers().is_empty());
            joined.done();
            go.wait();
            drop(guard.take());
            end.done();
        });
        // Dies with the lock.
        std::mem::forget(guard);
    });
    reap(parent);
    go.done();
    joined.wait();
    let pid = parent.as_raw() as u32;
    let guard = match lock.lock() {
        Err(LockError::OwnerDied { guard, pid: died }) if died == pid => guard,
        other => panic!("{other:?} instead of OwnerDied by {pid}"),
    };
    go.done();
    end.wait();
    assert!(lock.try_lock().is_err_and(|e| e.is_would_block()), "unlocked by somebody else");
    drop(guard);
}

fn a_childs_copy_of_a_row_in_place_sends_and_receives_nothing() {
    let segment = Segment::anonymous().unwrap();
    let queue = SpscQueue::<u64>::create(&segment, "queue", 8).unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send_slice(&[1, 2]).unwrap();
    let (mut slots, mut guard) = (Some(sender.reserve_slice(4).unwrap()), Some(receiver.recv_slice(2).unwrap()));
    slots.as_mut().unwrap().copy_from_slice(&[3, 4, 5, 6]);
    for drops in [false, true] {
        reap(in_child(|| {
            let (slots, guard) = (slots.take().unwrap(), guard.take().unwrap());
            assert_eq!((slots.len(), &guard[..]), (4, &[1, 2][..]));
            slots.commit(4);
            if drops { drop(guard) } else { guard.release(1) }
        }));
        assert_eq!(queue.len(), 2, "the child has sent or received");
    }
    slots.unwrap().commit(1);
    guard.unwrap().release(1);
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [2, 3]);
}

fn a_child_goes_on_after_the_name_is_removed() {
    let name = format!("t-fork-{}-unlinked", std::process::id());
    let segment = Segment::create(&name).unwrap();
    let value = Queue::<u64>::create(&segment, "queue", 2).unwrap();
    Segment::unlink(&name).unwrap();
    reap(in_child(|| value.sender().unwrap().send(5).unwrap()));
    assert_eq!(value.receiver().unwrap().recv(), Ok(5));
}

/// Opens, forks and leaves, as a program does that becomes a daemon. The parent leaves in peace or ends as it is.
fn become_a_daemon(name: &str, leaves: bool, there: impl Fn(&Queue<u64>, &Segment)) {
    let (gone, over) = (Step::new(), Step::new());
    let parent = in_child(|| {
        let segment = Segment::create(name).unwrap();
        let queue = Queue::<u64>::create(&segment, "queue", 8).unwrap();
        queue.sender().unwrap().send(3).unwrap();
        in_child(|| {
            gone.wait();
            there(&queue, &segment);
            over.done();
        });
        if leaves { drop((queue, segment)) } else { std::mem::forget((queue, segment)) }
    });
    reap(parent);
    gone.done();
    over.wait();
}

fn a_child_whose_segment_has_ended_is_told_so() {
    let name = format!("t-fork-{}-ended", std::process::id());
    become_a_daemon(&name, true, |queue, segment| {
        assert!(matches!(Segment::open(&name), Err(Error::NotFound { .. })), "the name went with the last");
        let another = Segment::create(&name).unwrap();
        for error in [
            queue.receiver().map(drop),
            queue.sender().map(drop),
            Queue::<u64>::open(segment, "queue").map(drop),
            Value::<u8>::create(segment, "value", 0).map(drop),
            segment.recover().map(drop),
        ] {
            let error = error.expect_err("what nobody can find any more");
            assert!(matches!(error, Error::Ended) && error.to_string().contains("ended"), "{error:?}");
        }
        assert_eq!(another.peers().len(), 1);
    });
    // All are dead, and the next one who comes by that name removes it before the child has acted.
    become_a_daemon(&name, false, |queue, _| {
        let another = Segment::open_or_create(&name).unwrap();
        assert!(matches!(queue.receiver(), Err(Error::Ended)));
        assert!(another.snapshot().unwrap().objects.is_empty());
    });
}

fn a_child_of_the_dead_goes_on_if_it_is_the_first_to_come() {
    let name = format!("t-fork-{}-daemon", std::process::id());
    become_a_daemon(&name, false, |queue, segment| {
        assert_eq!(queue.receiver().unwrap().recv(), Ok(3));
        let same = Segment::open(&name).expect("its name is there");
        assert_eq!(same.peers().len(), 2);
        assert!(segment.is_linked() && same.is_linked());
        Segment::unlink(&name).unwrap();
    });
}

fn a_child_forgets_what_its_parent_had_in_hand() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().capacity(4096).keep_waiting(true).create_spsc::<[u8]>(&segment, "queue").unwrap();
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n / 7) as u8).collect();
    let mut receiver = queue.receiver().unwrap();
    let sender = in_child(|| queue.sender().unwrap().send(&bytes).unwrap());
    while receiver.peek_len().is_err() {}
    assert!(receiver.try_recv().is_err(), "not all of it fits");
    let dropped = Step::new();
    let child = in_child(|| {
        dropped.wait();
        assert!(receiver.poll(std::time::Duration::from_secs(20)));
        assert!(*receiver.try_recv().unwrap() == *bytes);
        assert!(receiver.try_recv().is_err());
    });
    // The parent goes on with it, and leaves it.
    while queue.is_empty() {}
    assert!(receiver.try_recv().is_err());
    drop(receiver);
    dropped.done();
    reap(child);
    reap(sender);
}

/// A stream may not go on in the middle of another message.
fn a_child_reads_a_stream_from_where_the_message_in_front_begins() {
    let segment = Segment::anonymous().unwrap();
    let queue = SpscQueue::<[u8]>::create(&segment, "queue", 4096).unwrap();
    let mut sender = queue.sender().unwrap();
    let mut reader = queue.receiver().unwrap().into_reader();
    sender.send(&[1; 1000]).unwrap();
    sender.send(&[2; 1000]).unwrap();
    let mut buffer = [0; 600];
    reader.read_exact(&mut buffer).unwrap();
    let gone = Step::new();
    let mut copy = Some(reader);
    let child = in_child(|| {
        let mut reader = copy.take().unwrap();
        gone.wait();
        let mut rest = vec![0; 2000];
        assert_eq!(reader.read(&mut rest).unwrap(), 1000, "bytes of the message are missing");
        assert!(rest[..1000] == [2; 1000]);
    });
    let mut reader = copy.unwrap();
    reader.read_exact(&mut buffer[..400]).unwrap();
    drop(reader);
    gone.done();
    reap(child);
}

/// System calls of this process's threads, by their number.
fn calls_in_progress() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let call = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
    tasks.map(|task| call(task).split(' ').next().unwrap_or_default().to_owned()).collect()
}

fn threads_of_a_child_sleep_while_one_of_them_joins() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<u32>::create(&segment, "queue", 8).unwrap();
    reap(in_child(|| {
        // Whoever has this byte keeps others from joining.
        let path = format!("/proc/self/fd/{}", segment.as_fd().as_raw_fd());
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        // SAFETY: zeros are a `flock`.
        let mut byte: nix::libc::flock = unsafe { std::mem::zeroed() };
        (byte.l_type, byte.l_start, byte.l_len) = (nix::libc::F_WRLCK as i16, 1 << 62, 1);
        fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)).unwrap();
        let joiners: Vec<_> = (0..3)
            .map(|n| {
                let queue = queue.clone();
                std::thread::spawn(move || queue.sender().unwrap().send(n).unwrap())
            })
            .collect();
        // One asks for the byte again and again, the others wait for that one.
        let futex = nix::libc::SYS_futex.to_string();
        while calls_in_progress().iter().filter(|call| **call == futex).count() < 2 {}
        drop(file);
        joiners.into_iter().for_each(|joiner| joiner.join().unwrap());
    }));
    assert_eq!(queue.len(), 3);
}

/// What its parent reads in place is no message of its own.
fn a_child_does_not_count_its_parents_guards() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<u32>::create(&segment, "queue", 8).unwrap();
    let receiver = queue.receiver().unwrap();
    queue.sender().unwrap().send_slice(&[1, 2]).unwrap();
    queue.close();
    let mut guard = Some(receiver.recv_guard().unwrap());
    let received = Step::new();
    let child = in_child(|| {
        let copy = guard.take();
        received.wait();
        let second = queue.receiver().unwrap();
        let job = second.recv_guard().unwrap();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "the other end may give the message back");
        drop(copy);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        job.give_back();
        let own = receiver.recv_guard().unwrap();
        assert_eq!((*own, receiver.try_recv()), (2, Err(TryRecvError::Closed)));
    });
    drop(guard);
    received.done();
    reap(child);
}

fn a_child_opens_handles_although_a_thread_of_its_parent_was_opening_one() {
    let segment = Segment::anonymous().unwrap();
    let handle = segment.handle();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                handle.open().unwrap();
            }
        });
        // Each fork is somewhere in there.
        let children: Vec<Pid> = (0..500).map(|_| in_child(|| drop(handle.open().unwrap()))).collect();
        over.store(true, Relaxed);
        children.into_iter().for_each(reap);
    });
}

/// Ends the other threads of a test, also of one that fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What a child has of its parent's doorbell never rings, hushes nobody, and holds nothing up, wherever the parent's threads are.
fn a_childs_copy_of_a_doorbell_does_nothing() {
    let is_rung =
        |bell: &Doorbell| poll(&mut [PollFd::new(bell.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1);
    let wait = |bell: &Doorbell| poll(&mut [PollFd::new(bell.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<u64>::create(&segment, "queue", 16).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let (bell, still) = (receiver.doorbell().unwrap(), receiver.doorbell().unwrap());
    // There is always something: it rings again whenever it is cleared.
    sender.send(1).unwrap();
    wait(&still);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(Relaxed) {
                bell.clear();
            }
        });
        // Each fork is somewhere in there.
        for n in 0..300 {
            reap(in_child(|| {
                assert!(!is_rung(&bell) && !is_rung(&still));
                bell.clear();
                still.clear();
                if n % 10 == 0 {
                    let own = receiver.doorbell().unwrap();
                    wait(&own);
                    own.clear();
                    wait(&own);
                }
                // SAFETY: this process has no other thread that drops it, and ends without destructors.
                drop(unsafe { std::ptr::read(&still) });
            }));
            assert!(is_rung(&still), "a child has cleared its parent's");
        }
    });
    wait(&bell);
    assert_eq!(receiver.try_recv(), Ok(1));
    bell.clear();
    sender.send(2).unwrap();
    wait(&bell);
}

/// Nobody would repair after it if it died while it looks at memory that comes and goes.
fn a_child_that_is_nobody_sees_nothing_of_an_unbounded_queue() {
    let segment = Segment::options().max_participants(1).anonymous().unwrap();
    let queue = Queue::<[u8]>::options().unbounded(8 << 20).create::<[u8]>(&segment, "queue").unwrap();
    queue.sender().unwrap().send(b"x").unwrap();
    let mut before = queue.tap();
    reap(in_child(|| {
        assert_eq!(before.try_next(), None);
        let mut tap = queue.tap();
        assert_eq!(tap.try_next(), None);
        assert_eq!(tap.next(), Err(RecvError::Detached));
    }));
    assert_eq!(before.try_next().as_deref(), Some(&b"x"[..]));
}

fn main() {
    let tests: &[(&str, fn())] = &[
        ("a_childs_copy_of_a_doorbell_does_nothing", a_childs_copy_of_a_doorbell_does_nothing),
        (
            "a_child_that_is_nobody_sees_nothing_of_an_unbounded_queue",
            a_child_that_is_nobody_sees_nothing_of_an_unbounded_queue,
        ),
        ("a_child_whose_segment_has_ended_is_told_so", a_child_whose_segment_has_ended_is_told_so),
        (
            "a_child_of_the_dead_goes_on_if_it_is_the_first_to_come",
            a_child_of_the_dead_goes_on_if_it_is_the_first_to_come,
        ),
        ("a_child_is_a_participant_of_its_own", a_child_is_a_participant_of_its_own),
        ("a_fork_in_the_middle_of_a_change_is_two_changes", a_fork_in_the_middle_of_a_change_is_two_changes),
        (
            "a_child_that_does_nothing_does_not_keep_its_parents_lease",
            a_child_that_does_nothing_does_not_keep_its_parents_lease,
        ),
        (
            "a_childs_copy_of_an_exclusive_end_is_detached_while_the_parent_sits",
            a_childs_copy_of_an_exclusive_end_is_detached_while_the_parent_sits,
        ),
        (
            "a_child_with_its_dead_parents_id_does_not_sit_in_its_parents_seat",
            a_child_with_its_dead_parents_id_does_not_sit_in_its_parents_seat,
        ),
        ("a_childs_copy_of_a_guard_does_not_unlock", a_childs_copy_of_a_guard_does_not_unlock),
        (
            "a_childs_copy_of_a_row_in_place_sends_and_receives_nothing",
            a_childs_copy_of_a_row_in_place_sends_and_receives_nothing,
        ),
        ("a_child_forgets_what_its_parent_had_in_hand", a_child_forgets_what_its_parent_had_in_hand),
        ("a_child_goes_on_after_the_name_is_removed", a_child_goes_on_after_the_name_is_removed),
        (
            "a_child_reads_a_stream_from_where_the_message_in_front_begins",
            a_child_reads_a_stream_from_where_the_message_in_front_begins,
        ),
        ("threads_of_a_child_sleep_while_one_of_them_joins", threads_of_a_child_sleep_while_one_of_them_joins),
        ("a_child_does_not_count_its_parents_guards", a_child_does_not_count_its_parents_guards),
        (
            "a_child_opens_handles_although_a_thread_of_its_parent_was_opening_one",
            a_child_opens_handles_although_a_thread_of_its_parent_was_opening_one,
        ),
    ];
    println!("\nrunning {} tests", tests.len());
    let mut failed = 0;
    for &(name, test) in tests {
        let ok = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        failed += usize::from(!ok);
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n",
        tests.len() - failed
    );
    exit(i32::from(failed > 0));
}
