//! What one more segment, one more participant costs, and how that grows.
//!
//! `cargo bench --bench crowd`; `GIMMAL_BENCH_QUICK=1` for a smoke test.
//!
//! - *idle*: a process with so many segments of its own, where nothing happens: its threads and descriptors, the memory of one
//!   segment beside the segment itself, and what all its threads do meanwhile.
//! - *joins*: so many processes that join one segment at once; then all but five are killed at once. Wakeups are those of one
//!   sentinel, that of the process which has made the segment.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use gimmal::Segment;
use gimmal::process::{self, Context, Entry, Outcome, Process};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

const ENTRIES: [Entry; 2] = gimmal::entries![idle, joins];
const PATIENCE: Duration = Duration::from_secs(60);
/// How many are not killed.
const SURVIVORS: usize = 5;

fn main() -> Outcome {
    process::init(&ENTRIES);
    // Without --bench this is `cargo test --benches`, which wants to know whether it runs at all.
    let quick = std::env::var_os("GIMMAL_BENCH_QUICK").is_some() || !std::env::args().any(|a| a == "--bench");
    let (segments, crowds): (&[u32], &[u32]) =
        if quick { (&[1, 100], &[10]) } else { (&[1, 10, 100, 200, 500, 1000], &[1, 10, 50, 100, 200, 500]) };
    println!(
        "{:>8} {:>8} {:>12} {:>12} {:>12} {:>9} {:>10} {:>8}",
        "segments", "threads", "descriptors", "KiB each", "open µs each", "seconds", "switches", "CPU ms"
    );
    segments.iter().try_for_each(|count| run("idle", &[*count, if quick { 1 } else { 5 }]))?;
    println!(
        "\n{:>9} {:>12} {:>12} {:>12} {:>12} {:>12} {:>14}",
        "processes", "joined ms", "slowest ms", "ms a join", "wakeups", "threads", "repaired ms"
    );
    crowds.iter().try_for_each(|count| run("joins", &[*count]))
}

/// Runs one row in a process of its own.
fn run(part: &str, numbers: &[u32]) -> Outcome {
    let process = Process::new(part).args(numbers.iter().map(u32::to_string)).die_with_parent(true).kill_on_drop(true);
    let status = process.spawn()?.join()?;
    if status.success() { Ok(()) } else { Err(format!("{part} ended with {status}").into()) }
}

fn idle(context: &Context) -> Outcome {
    let (count, span): (u32, u64) = (context.parse(0)?, context.parse(1)?);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // The first one brings the sentinel.
    let mut segments = vec![Segment::options().size(64 << 10).anonymous()?];
    let (memory, begun) = (private_kib()?, Instant::now());
    for _ in 1..count {
        segments.push(Segment::options().size(64 << 10).anonymous()?);
    }
    let each = |whole: f64| if count > 1 { whole / f64::from(count - 1) } else { 0.0 };
    let (opened, memory) = (begun.elapsed(), private_kib()?.saturating_sub(memory));
    until_quiet()?;
    let (begun, before) = (Instant::now(), Cost::of_this()?);
    thread::sleep(Duration::from_secs(span));
    let (after, seconds) = (Cost::of_this()?, begun.elapsed().as_secs_f64());
    println!(
        "{count:>8} {:>8} {:>12} {:>12.1} {:>12.0} {seconds:>9.1} {:>10} {:>8.1}",
        after.threads,
        fs::read_dir("/proc/self/fd")?.count(),
        each(memory as f64),
        each(opened.as_secs_f64() * 1e6),
        // The sleep of this thread is one.
        (after.switches - before.switches).saturating_sub(1),
        (after.nanos - before.nanos) as f64 / 1e6,
    );
    Ok(())
}

/// What the processes of a crowd share.
#[repr(C)]
#[derive(Default)]
struct Shared {
    go: AtomicU32,
    joined: AtomicU32,
    /// Microseconds.
    slowest: AtomicU32,
}

impl Shared {
    fn new() -> &'static Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: new memory at an address that the kernel chooses.
        let place = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Self>(), access, flags, -1, 0) };
        assert_ne!(place, libc::MAP_FAILED, "no memory");
        // SAFETY: zeros are three atomics; the mapping stays until the process ends.
        unsafe { &*place.cast() }
    }
}

fn joins(context: &Context) -> Outcome {
    let count: u32 = context.parse(0)?;
    let shared = Shared::new();
    let name = format!("bench-crowd-{}", std::process::id());
    let mut children = Vec::new();
    for _ in 0..count {
        // SAFETY: this process has one thread that takes locks of the C library, and it is this one.
        match unsafe { fork()? } {
            ForkResult::Parent { child } => children.push(child),
            ForkResult::Child => {
                join(shared, &name);
                // SAFETY: ends this process, which has nothing to give back but its segment.
                unsafe { libc::_exit(1) }
            }
        }
    }
    let segment = Segment::options().max_participants(511).create(&name)?;
    until_quiet()?;
    let (begun, before) = (Instant::now(), Cost::of_this()?);
    shared.go.store(1, SeqCst);
    until(|| shared.joined.load(SeqCst) == count);
    let joined = begun.elapsed();
    until_quiet()?;
    let after = Cost::of_this()?;
    thread::sleep(Duration::from_millis(std::env::var("CROWD_PAUSE").map_or(0, |ms| ms.parse().unwrap_or(0))));

    let killed = &children[..children.len().saturating_sub(SURVIVORS)];
    let begun = Instant::now();
    killed.iter().for_each(|&pid| _ = kill(pid, Signal::SIGKILL));
    let left = children.len() - killed.len() + 1;
    until(|| segment.snapshot().is_ok_and(|snapshot| snapshot.participants.len() <= left));
    let repaired = begun.elapsed();
    for &pid in &children {
        let _ = kill(pid, Signal::SIGKILL);
        waitpid(pid, None)?;
    }
    println!(
        "{count:>9} {:>12.1} {:>12.1} {:>12.2} {:>12} {:>12} {:>14.1}",
        joined.as_secs_f64() * 1e3,
        f64::from(shared.slowest.load(SeqCst)) / 1e3,
        joined.as_secs_f64() * 1e3 / f64::from(count),
        after.sentinel - before.sentinel,
        after.threads,
        repaired.as_secs_f64() * 1e3,
    );
    Ok(())
}

fn join(shared: &Shared, name: &str) {
    // A process whose parent was killed has no reason to stay.
    let parent = nix::unistd::getppid();
    while shared.go.load(SeqCst) == 0 && nix::unistd::getppid() == parent {
        thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    let segment = Segment::open(name);
    shared.slowest.fetch_max(begun.elapsed().as_micros() as u32, SeqCst);
    shared.joined.fetch_add(u32::from(segment.is_ok()), SeqCst);
    while nix::unistd::getppid() == parent {
        thread::sleep(Duration::from_secs(1));
    }
}

fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Until the threads of this process have nothing left to do, or for three seconds, should they always have.
fn until_quiet() -> io::Result<()> {
    let (begun, mut last) = (Instant::now(), Cost::of_this()?.sentinel);
    while begun.elapsed() < Duration::from_secs(3) {
        thread::sleep(Duration::from_millis(150));
        let now = Cost::of_this()?.sentinel;
        if std::mem::replace(&mut last, now) == last {
            break;
        }
    }
    Ok(())
}

/// Memory that is this process's alone, or counted as if it were: pages of nodes are called shared.
fn private_kib() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field =
        |name| status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
    Ok(field("RssAnon:").unwrap_or(0_u64) + field("RssShmem:").unwrap_or(0_u64))
}

/// What the threads of this process have used.
#[derive(Default)]
struct Cost {
    threads: u32,
    /// Voluntary and involuntary.
    switches: u64,
    /// Those of the sentinel's first thread.
    sentinel: u64,
    /// The scheduler's own account.
    nanos: u64,
}

impl Cost {
    fn of_this() -> io::Result<Self> {
        let mut cost = Self::default();
        for task in fs::read_dir("/proc/self/task")? {
            let task = task?.path();
            let read = |file| fs::read_to_string(task.join(file));
            let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
            cost.threads += 1;
            let status = read("status")?;
            let switches = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
            let switches: u64 = switches.map(|(_, count)| number(count)).sum();
            cost.switches += switches;
            if read("comm")?.trim_end() == "gimmal-sentinel" {
                cost.sentinel += switches;
            }
            // Not there on every kernel.
            cost.nanos += read("schedstat").ok().and_then(|text| Some(number(text.split(' ').next()?))).unwrap_or(0);
        }
        Ok(cost)
    }
}
