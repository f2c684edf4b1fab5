//! Processes that end before they have taken the end that they were started to take.

mod support;

use gimmal::process::{self, Context, Entry, Outcome};
use gimmal::{Departure, Pipe, Queue, RecvTimeoutError, Segment, SendTimeoutError, SpscQueue, TryRecvError, Value};
use support::{LONG, die_with_parent, join, join_well, say_ready, until_ready};

const ENTRIES: [Entry; 5] = gimmal::entries![end_at_once, end_well, end_when_told, connect, use_and_leave];

#[test]
fn child() {
    process::init(&ENTRIES);
}

fn stage() -> Segment {
    process::init(&ENTRIES);
    let segment = Segment::anonymous().unwrap();
    Value::<u32>::create(&segment, "ready", 0).unwrap();
    Value::<bool>::create(&segment, "over", false).unwrap();
    segment
}

fn say_over(segment: &Segment) {
    let over = Value::<bool>::open(segment, "over").unwrap();
    over.store(true, std::sync::atomic::Ordering::Release);
    over.notify_all();
}

fn end_at_once(_: &Context) -> Outcome {
    std::process::abort()
}

fn end_well(_: &Context) -> Outcome {
    Ok(())
}

fn end_when_told(context: &Context) -> Outcome {
    die_with_parent();
    say_ready(context.segment(0)?)?;
    Value::<bool>::open(context.segment(0)?, "over")?.wait_while(|over| !over);
    std::process::abort()
}

/// Takes the second end of a pipe, says so, and keeps it.
fn connect(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let mut end = Pipe::connect::<u64, u64>(segment, context.arg(0).expect("a pipe"))?;
    end.send(1)?;
    say_ready(segment)?;
    Value::<bool>::open(segment, "over")?.wait_while(|over| !over);
    Ok(())
}

/// Takes the second end of a pipe, and ends well.
fn use_and_leave(context: &Context) -> Outcome {
    die_with_parent();
    Pipe::connect::<u64, u64>(context.segment(0)?, context.arg(0).expect("a pipe"))?.send(1)?;
    Ok(())
}

/// What whoever waits for process `pid` is told.
fn died(pid: u32) -> RecvTimeoutError {
    RecvTimeoutError::Disconnected { peer: Departure::Died { pid } }
}

#[test]
fn a_receiver_is_told_of_a_process_that_ends_before_it_sends() {
    let segment = stage();
    let mut receiver = Pipe::simplex_receiver::<u64>(&segment, "pipe", 4).unwrap();
    let mut child = support::process("end_at_once").segment(&segment).spawn().unwrap();
    assert_eq!(receiver.recv_timeout(LONG), Err(died(child.pid())));
    join(&mut child);
}

#[test]
fn an_end_of_a_pipe_is_told_and_a_successor_takes_the_other() {
    let segment = stage();
    let mut end = Pipe::create::<u64, u64>(&segment, "pipe", 4).unwrap();
    let mut child = support::process("end_at_once").segment(&segment).spawn().unwrap();
    assert_eq!(end.recv_timeout(LONG), Err(died(child.pid())));
    let told = end.send_timeout(1, LONG);
    let peer = Departure::Died { pid: child.pid() };
    assert!(matches!(told, Err(SendTimeoutError::Disconnected { peer: p, .. }) if p == peer), "{told:?}");
    join(&mut child);
    let mut successor = support::process("use_and_leave").arg("pipe").segment(&segment).spawn().unwrap();
    join_well(&mut successor);
    assert_eq!(end.try_recv(), Ok(1));
}

#[test]
fn ends_of_queues_that_tell_of_departures_are_told() {
    let segment = stage();
    let options = || Queue::<u64>::options().capacity(4);
    let receiver = options().create::<u64>(&segment, "results").unwrap().receiver().unwrap();
    let sender = options().create::<u64>(&segment, "jobs").unwrap().sender().unwrap();
    let mut single = options().create_spsc::<u64>(&segment, "single").unwrap().receiver().unwrap();
    let shared = Pipe::shared_first::<u64, u64>(&segment, "shared", 4).unwrap();
    let quiet =
        Queue::<u64>::options().keep_waiting(true).create::<u64>(&segment, "quiet").unwrap().receiver().unwrap();
    let mut child = support::process("end_at_once").segment(&segment).spawn().unwrap();
    let peer = Departure::Died { pid: child.pid() };
    assert_eq!(receiver.recv_timeout(LONG), Err(died(child.pid())));
    assert_eq!(single.recv_timeout(LONG), Err(died(child.pid())));
    assert_eq!(shared.recv_timeout(LONG), Err(died(child.pid())));
    let told = sender.send_timeout(1, LONG);
    assert!(matches!(told, Err(SendTimeoutError::Disconnected { peer: p, .. }) if p == peer), "{told:?}");
    assert_eq!(quiet.try_recv(), Err(TryRecvError::Empty));
    join(&mut child);
    // Somebody comes after all.
    let jobs = Queue::<u64>::open(&segment, "jobs").unwrap().receiver().unwrap();
    sender.send(2).unwrap();
    assert_eq!(jobs.try_recv(), Ok(2));
    SpscQueue::<u64>::open(&segment, "single").unwrap().sender().unwrap().send(3).unwrap();
    assert_eq!(single.recv_timeout(LONG), Ok(3));
}

/// It may have been started for something else: others may send.
#[test]
fn a_process_that_ends_well_without_an_end_says_nothing_of_queues() {
    let segment = stage();
    let queue = Queue::<u64>::create(&segment, "results", 4).unwrap().receiver().unwrap();
    let mut pipe = Pipe::simplex_receiver::<u64>(&segment, "pipe", 4).unwrap();
    for joined_by_us in [true, false] {
        let mut child = support::process("end_well").kill_on_drop(false).segment(&segment).spawn().unwrap();
        let pid = child.pid();
        if joined_by_us {
            join_well(&mut child);
        }
        drop(child);
        // The pipe says when the end of the process was told.
        assert_eq!(pipe.recv_timeout(LONG), Err(died(pid)));
        assert_eq!(queue.try_recv(), Err(TryRecvError::Empty));
        drop(pipe);
        pipe = Pipe::simplex_receiver::<u64>(&segment, &format!("after-{pid}"), 4).unwrap();
    }
}

/// The handle is not what tells.
#[test]
fn a_process_that_nobody_waits_for_is_told_of_as_well() {
    let segment = stage();
    let mut receiver = Pipe::simplex_receiver::<u64>(&segment, "pipe", 4).unwrap();
    let child = support::process("end_when_told").kill_on_drop(false).segment(&segment).spawn().unwrap();
    until_ready(&segment, 1);
    let pid = child.pid();
    drop(child);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    say_over(&segment);
    assert_eq!(receiver.recv_timeout(LONG), Err(died(pid)));
}

/// Its end is the one that is left over when the others have theirs.
#[test]
fn one_of_several_that_ends_early_is_told_of_and_the_others_are_not() {
    let segment = stage();
    let mut ends: Vec<_> =
        (0..3).map(|n| Pipe::create::<u64, u64>(&segment, &format!("pipe{n}"), 4).unwrap()).collect();
    let start = |entry, n: i32| support::process(entry).arg(format!("pipe{n}")).segment(&segment).spawn().unwrap();
    let mut slow = start("end_when_told", 1);
    let mut lost = start("end_at_once", 1);
    until_ready(&segment, 1);
    join(&mut lost);
    // The slow one may still come, to any of them.
    ends.iter_mut().for_each(|end| assert_eq!(end.try_recv(), Err(TryRecvError::Empty)));
    let mut others = [start("connect", 0), start("connect", 2)];
    until_ready(&segment, 3);
    slow.kill().unwrap();
    assert_eq!(ends[0].recv_timeout(LONG), Ok(1));
    assert_eq!(ends[2].recv_timeout(LONG), Ok(1));
    let told = ends[1].recv_timeout(LONG);
    assert!([slow.pid(), lost.pid()].map(died).contains(&told.unwrap_err()));
    assert_eq!(ends[0].try_recv(), Err(TryRecvError::Empty));
    assert_eq!(ends[2].try_recv(), Err(TryRecvError::Empty));
    say_over(&segment);
    others.iter_mut().for_each(join_well);
    join(&mut slow);
}

/// What a process has taken is what it was started for.
#[test]
fn a_process_that_has_had_its_end_leaves_no_other() {
    let segment = stage();
    let mut first = Pipe::create::<u64, u64>(&segment, "first", 4).unwrap();
    let mut later = Pipe::create::<u64, u64>(&segment, "later", 4).unwrap();
    let mut child = support::process("use_and_leave").arg("first").segment(&segment).spawn().unwrap();
    join_well(&mut child);
    assert_eq!(first.try_recv(), Ok(1));
    assert!(first.try_recv().unwrap_err().is_disconnected());
    assert_eq!(later.try_recv(), Err(TryRecvError::Empty));
}
