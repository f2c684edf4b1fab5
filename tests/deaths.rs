//! The sentinel and the watcher: who learns of a death, and that nobody has to look for it.

mod support;

use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{Change, Departure, Lock, LockError, Pipe, RecvTimeoutError, Segment, Timeout, Value, Watcher};
use support::{LONG, die_with_parent, join_well, kill_and_reap, resume, stop, until_asleep};

const ENTRIES: [Entry; 2] = gimmal::entries![attend, hold_everything];

#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment) -> Child {
    process::init(&ENTRIES);
    support::process(entry).segment(segment).spawn().expect("start a process")
}

fn attend(context: &Context) -> Outcome {
    die_with_parent();
    Value::<bool>::open(context.segment(0)?, "over")?.wait_while(|over| !over);
    Ok(())
}

fn stage() -> (Segment, Value<bool>) {
    let segment = Segment::anonymous().unwrap();
    let over = Value::create(&segment, "over", false).unwrap();
    (segment, over)
}

fn next(watcher: &mut Watcher) -> Change {
    watcher.recv_timeout(LONG).expect("a change")
}

// --- the watcher ---

#[test]
fn a_watcher_tells_who_joins_leaves_and_dies() {
    let (segment, over) = stage();
    let mut first = start("attend", &segment);
    let mut watcher = segment.watch();
    assert!(matches!(next(&mut watcher), Change::Joined(peer) if peer.pid == first.pid() && !peer.is_self));
    let mut second = start("attend", &segment);
    assert!(matches!(next(&mut watcher), Change::Joined(peer) if peer.pid == second.pid()));
    assert!(watcher.try_recv().is_none());
    assert!(kill_and_reap(&mut first));
    assert!(matches!(next(&mut watcher), Change::Died(peer) if peer.pid == first.pid()));
    over.store(true, Release);
    over.notify_all();
    join_well(&mut second);
    assert!(matches!(next(&mut watcher), Change::Left(peer) if peer.pid == second.pid()));
    assert_eq!(watcher.recv_timeout(std::time::Duration::ZERO).err(), Some(Timeout));
}

#[test]
fn everybody_who_came_and_stayed_a_while_is_told_of_once() {
    let (segment, _over) = stage();
    let mut watcher = segment.watch();
    for round in 0..30 {
        let mut child = start("attend", &segment);
        let joined = next(&mut watcher);
        assert!(matches!(&joined, Change::Joined(peer) if peer.pid == child.pid()), "{round}: {joined:?}");
        assert!(kill_and_reap(&mut child));
        let died = next(&mut watcher);
        assert!(matches!(&died, Change::Died(peer) if peer.pid == child.pid()), "{round}: {died:?}");
    }
    let other = Segment::from_fd(&segment).unwrap();
    drop(other);
    // It came and went between two looks.
    assert!(watcher.try_recv().is_none());
}

#[test]
fn a_watcher_without_a_sentinel_looks_itself() {
    let segment = Segment::options().sentinel(false).anonymous().unwrap();
    Value::<bool>::create(&segment, "over", false).unwrap();
    let mut watcher = segment.watch();
    process::init(&ENTRIES);
    let process = support::process("attend").segment(&segment).env("GIMMAL_SENTINEL", "off");
    let mut child = process.spawn().unwrap();
    assert!(matches!(next(&mut watcher), Change::Joined(peer) if peer.pid == child.pid()));
    assert!(kill_and_reap(&mut child));
    assert!(matches!(next(&mut watcher), Change::Died(peer) if peer.pid == child.pid()));
}

// --- the sentinel ---

fn hold_everything(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let _end = Pipe::connect::<u64, u64>(segment, "pipe")?;
    let _guard = Lock::<()>::open(segment, "lock")?.lock()?;
    let held = Value::<u32>::open(segment, "held")?;
    held.store(std::process::id(), Release);
    held.notify_all();
    Value::<bool>::open(segment, "over")?.wait_while(|over| !over);
    Ok(())
}

/// A process that holds a lock and an end of a pipe, and the other end.
fn holder(segment: &Segment) -> (Child, gimmal::End<u64, u64>, Lock) {
    let held = Value::<u32>::open_or_create(segment, "held", 0).unwrap();
    let end = Pipe::create::<u64, u64>(segment, "pipe", 4).unwrap();
    let lock = Lock::open_or_create(segment, "lock", ()).unwrap();
    let child = start("hold_everything", segment);
    assert_eq!(held.wait_while_timeout(LONG, |pid| pid != child.pid()), Ok(child.pid()));
    (child, end, lock)
}

/// Kills the holder while a thread waits for each of what it holds.
fn killed_while_others_wait(segment: &Segment) {
    let (mut child, mut end, lock) = holder(segment);
    let died = child.pid();
    thread::scope(|scope| {
        let receives = scope.spawn(move || end.recv_timeout(LONG));
        let locks = scope.spawn(move || match lock.lock_timeout(LONG) {
            Err(LockError::OwnerDied { pid, .. }) => Ok(pid),
            other => Err(format!("{other:?}")),
        });
        assert!(kill_and_reap(&mut child));
        let peer = Departure::Died { pid: died };
        assert_eq!(receives.join().unwrap(), Err(RecvTimeoutError::Disconnected { peer }));
        assert_eq!(locks.join().unwrap(), Ok(died));
    });
}

/// With a sentinel nobody looks, so that what comes here was told.
#[test]
fn whoever_waits_is_told_of_the_death() {
    let (segment, _over) = stage();
    for _ in 0..20 {
        killed_while_others_wait(&segment);
    }
}

/// More than one `futex_waitv` takes: each sentinel sleeps on a part of the circle.
#[test]
fn a_death_among_more_participants_than_one_can_sleep_on_is_told() {
    let segment = Segment::options().max_participants(300).size(1 << 20).anonymous().unwrap();
    Value::<bool>::create(&segment, "over", false).unwrap();
    let crowd: Vec<_> = (0..200).map(|_| Segment::from_fd(&segment).unwrap()).collect();
    killed_while_others_wait(&segment);
    drop(crowd);
    killed_while_others_wait(&segment);
}

/// More segments in one process than one `futex_waitv` takes.
#[test]
fn a_death_in_one_of_many_segments_is_told() {
    let segments: Vec<_> = (0..150).map(|_| Segment::options().size(64 << 10).anonymous().unwrap()).collect();
    let others: Vec<_> = segments.iter().map(|segment| Segment::from_fd(segment).unwrap()).collect();
    for segment in [&segments[0], &segments[149]] {
        Value::<bool>::create(segment, "over", false).unwrap();
        killed_while_others_wait(segment);
    }
    drop(others);
}

/// Its sentinel cannot help, and nobody needs it.
#[test]
fn a_death_is_told_while_another_participant_is_stopped() {
    let (segment, over) = stage();
    let mut bystanders: Vec<_> = (0..3).map(|_| start("attend", &segment)).collect();
    let mut watcher = segment.watch();
    (0..3).for_each(|_| assert!(matches!(next(&mut watcher), Change::Joined(_))));
    // Behind the moment in which they join, which keeps others from joining.
    bystanders.iter_mut().for_each(until_asleep);
    bystanders.iter().for_each(|child| assert!(stop(child)));
    killed_while_others_wait(&segment);
    bystanders.iter().for_each(resume);
    over.store(true, Release);
    over.notify_all();
    bystanders.iter_mut().for_each(join_well);
}

/// All at once, so that whoever was to be woken may be dead as well.
#[test]
fn many_deaths_at_once_are_all_told() {
    let (segment, over) = stage();
    for _ in 0..5 {
        let mut watcher = segment.watch();
        let mut children: Vec<_> = (0..8).map(|_| start("attend", &segment)).collect();
        (0..8).for_each(|_| assert!(matches!(next(&mut watcher), Change::Joined(_))));
        for child in &mut children {
            child.kill().unwrap();
        }
        let mut died: Vec<_> = (0..8).map(|_| next(&mut watcher)).map(|change| change.peer().pid).collect();
        let mut expected: Vec<_> = children.iter().map(Child::pid).collect();
        died.sort_unstable();
        expected.sort_unstable();
        assert_eq!(died, expected);
        children.iter_mut().for_each(|child| drop(child.join()));
    }
    assert_eq!((segment.peers().len(), over.load(Acquire)), (1, false));
}
