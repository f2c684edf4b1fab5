//! Many segments in a process, many participants in a segment: nobody pays for those who do nothing.

mod support;

use std::fs;

use gimmal::process::{self, Context, Entry, Outcome};
use gimmal::{Change, Segment, Value};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::{LONG, die_with_parent, join_well, kill_and_reap, say_ready, until, until_ready};

const ENTRIES: [Entry; 3] = gimmal::entries![hold_segments, join_once, attend];

#[test]
fn child() {
    process::init(&ENTRIES);
}

fn stage() -> Segment {
    process::init(&ENTRIES);
    let segment = Segment::options().max_participants(300).size(1 << 20).anonymous().unwrap();
    Value::<u32>::create(&segment, "ready", 0).unwrap();
    Value::<bool>::create(&segment, "over", false).unwrap();
    segment
}

fn end(segment: &Segment) {
    let over = Value::<bool>::open(segment, "over").unwrap();
    over.store(true, std::sync::atomic::Ordering::Release);
    over.notify_all();
}

/// What the threads of a process's sentinel have done so far.
#[derive(Debug, PartialEq)]
struct Sentinel {
    threads: u64,
    /// How often they have gone to sleep.
    sleeps: u64,
    /// How often they were interrupted by others, and for how many ticks of the clock they have run.
    work: u64,
}

fn sentinel_of(pid: u32) -> Sentinel {
    let mut sentinel = Sentinel { threads: 0, sleeps: 0, work: 0 };
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("a process that lives").flatten() {
        let read = |file| fs::read_to_string(task.path().join(file)).expect("a thread that lives");
        if read("comm").trim_end() != "gimmal-sentinel" {
            continue;
        }
        let status = read("status");
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        sentinel.threads += 1;
        sentinel.sleeps += field("voluntary_ctxt_switches:").expect("since Linux 2.6.23");
        sentinel.work += field("nonvoluntary_ctxt_switches:").expect("since Linux 2.6.23");
        // Behind the name: state is field 3 of proc_pid_stat(5), utime 14, stime 15.
        let stat = read("stat");
        let times = stat[stat.rfind(')').expect("a name") + 1..].split_whitespace().skip(11).take(2);
        sentinel.work += times.map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>();
    }
    sentinel
}

/// Waits until the sentinel of a process sleeps for a while without waking up. One that looks by itself never does: it would look
/// several times in that while.
fn until_it_sleeps(pid: u32) {
    until("the sentinel sleeps", || {
        let before = sentinel_of(pid);
        std::thread::sleep(std::time::Duration::from_millis(1500));
        sentinel_of(pid) == before
    });
}

/// Holds so many segments of its own until the one of its parent says that all is over.
fn hold_segments(context: &Context) -> Outcome {
    die_with_parent();
    let count: usize = context.parse(0)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let own = |_| Segment::options().size(64 << 10).anonymous();
    let _segments: Vec<Segment> = (0..count).map(own).collect::<Result<_, _>>()?;
    attend(context)
}

fn attend(context: &Context) -> Outcome {
    die_with_parent();
    say_ready(context.segment(0)?)?;
    Value::<bool>::open(context.segment(0)?, "over")?.wait_while(|over| !over);
    Ok(())
}

fn join_once(context: &Context) -> Outcome {
    die_with_parent();
    say_ready(context.segment(0)?)?;
    Ok(())
}

#[test]
fn a_thousand_idle_segments_cost_neither_wakeups_nor_a_thread_each() {
    let segment = stage();
    let mut child = support::process("hold_segments").arg("1000").segment(&segment).spawn().unwrap();
    until_ready(&segment, 1);
    until_it_sleeps(child.pid());
    let Sentinel { threads, .. } = sentinel_of(child.pid());
    assert!(threads <= 9, "127 segments a thread, and {threads} threads");
    end(&segment);
    join_well(&mut child);
}

/// Whoever is told of a death looks at the one segment that it is about.
#[test]
fn a_death_beside_a_thousand_segments_is_told() {
    let segment = stage();
    let mut watcher = segment.watch();
    let mut holder = support::process("hold_segments").arg("1000").segment(&segment).spawn().unwrap();
    until_ready(&segment, 1);
    let joined = watcher.recv_timeout(LONG).unwrap();
    assert!(matches!(&joined, Change::Joined(peer) if peer.pid == holder.pid()), "{joined:?}");
    assert!(kill_and_reap(&mut holder));
    let died = watcher.recv_timeout(LONG).unwrap();
    assert!(matches!(&died, Change::Died(peer) if peer.pid == holder.pid()), "{died:?}");
}

/// More words than one sleep takes, and nobody looks at what does not fit: everything does.
#[test]
fn nobody_looks_by_itself_where_more_participate_than_one_thread_can_sleep_on() {
    let segment = stage();
    // Participants of one process, who are others to the child.
    let crowd: Vec<Segment> = (0..200).map(|_| Segment::from_fd(&segment).unwrap()).collect();
    let mut child = support::process("attend").segment(&segment).spawn().unwrap();
    until_ready(&segment, 1);
    until_it_sleeps(child.pid());
    let Sentinel { threads, .. } = sentinel_of(child.pid());
    assert!(threads <= 3, "one thread, one more for each 127 of 201 words, and {threads} threads");
    // None of the crowd watches another: they would die together.
    until_it_sleeps(std::process::id());
    drop(crowd);
    end(&segment);
    join_well(&mut child);
}

/// Many who come at once are not many times as much work for those who are there.
#[test]
fn whoever_joins_wakes_a_sentinel_no_more_than_a_few_times() {
    let segment = stage();
    let mut child = support::process("attend").segment(&segment).spawn().unwrap();
    until_ready(&segment, 1);
    until_it_sleeps(child.pid());
    let before = sentinel_of(child.pid()).sleeps;
    let joins = 40;
    let start = |_| support::process("join_once").segment(&segment).spawn().unwrap();
    let mut crowd: Vec<_> = (0..joins).map(start).collect();
    crowd.iter_mut().for_each(join_well);
    until_it_sleeps(child.pid());
    let after = sentinel_of(child.pid()).sleeps;
    // Each announces itself twice and its leave once, each time with a rest behind it at the most; it is slept on, and no more.
    assert!(after - before <= 6 * joins, "{} sleeps for {joins} who joined and left", after - before);
    end(&segment);
    join_well(&mut child);
}
