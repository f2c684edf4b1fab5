//! How soon the blocked learn of a death, and what being blocked costs.
//!
//! `cargo bench --bench notice`; `GIMMAL_BENCH_QUICK=1` for a smoke test.
//!
//! - *notice*: a thread is blocked on a process, which is killed; from just before the `kill` to the return of the blocked
//!   call. `waitid` is what the parent of the victim gets from the kernel, for comparison. The kills fall evenly into the
//!   tenth of a second in which a call that looks by itself looks once.
//! - *idle*: processes blocked in a call that nothing wakes; context switches and processor time of all their threads.
//!
//! Both once as things are and once with `GIMMAL_SENTINEL=off` for all processes concerned.

use std::path::Path;
use std::sync::atomic::Ordering::Release;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use gimmal::process::{self, Child, Context, Entry, Outcome, Process};
use gimmal::{Departure, Lock, LockError, Pipe, Queue, RecvError, Segment, Value};
use hdrhistogram::Histogram;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, gettid};

const ENTRIES: [Entry; 7] =
    gimmal::entries![notice, idle, sit_on_pipe, hold_lock, block_in_recv, block_in_lock, block_in_pipe];
/// A call that is told by nobody looks for deaths once in this time.
const LOOK: Duration = Duration::from_millis(100);
/// The unit of processor time in /proc/PID/stat on the architectures supported: USER_HZ is 100.
const TICK_MS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// Who is blocked in what, and how many.
const IDLERS: [(&str, &str, u64); 3] =
    [("recv on one queue", "block_in_recv", 16), ("lock", "block_in_lock", 4), ("recv on a pipe", "block_in_pipe", 4)];

fn main() -> Outcome {
    process::init(&ENTRIES);
    // Without --bench this is `cargo test --benches`, which wants to know whether it runs at all.
    let quick = std::env::var_os("GIMMAL_BENCH_QUICK").is_some() || !std::env::args().any(|a| a == "--bench");
    let (kills, fewer, seconds) = if quick { (30, 10, 2) } else { (1000, 200, 10) };
    println!("{}{}", machine(), if quick { " (quick: a smoke test)" } else { "" });

    println!("\n{:32} {:>6} {:>10} {:>10} {:>10}", "from kill to return", "kills", "p50 µs", "p99 µs", "max µs");
    run("notice", false, kills)?;
    run("notice", true, fewer)?;
    println!(
        "\n{:32} {:>9} {:>7} {:>8} {:>8} {:>10} {:>8} {:>12}",
        "blocked", "processes", "threads", "seconds", "switches", "a second", "CPU ms", "CPU µs exact"
    );
    run("idle", false, seconds)?;
    run("idle", true, seconds)
}

/// Runs one part in a process of its own, which hands the environment on to those it starts.
fn run(part: &str, without_sentinel: bool, count: u64) -> Outcome {
    let process = Process::new(part).arg(count.to_string()).kill_on_drop(true);
    let process = if without_sentinel { process.env("GIMMAL_SENTINEL", "off") } else { process };
    let status = process.spawn()?.join()?;
    if status.success() { Ok(()) } else { Err(format!("{part} ended with {status}").into()) }
}

/// How a row is called in this process's part of the table.
fn label(what: &str) -> String {
    let off = std::env::var_os("GIMMAL_SENTINEL").is_some_and(|value| value == "off");
    format!("{what}{}", if off { ", sentinel off" } else { "" })
}

fn die_with_parent() -> nix::Result<()> {
    set_pdeathsig(Signal::SIGKILL)
}

fn say_ready(segment: &Segment) -> Result<(), gimmal::Error> {
    let ready = Value::<u64>::open(segment, "ready")?;
    ready.fetch_add(1, Release);
    ready.notify_all();
    Ok(())
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

// --- notice ---

fn notice(context: &Context) -> Outcome {
    die_with_parent()?;
    let kills = context.parse(0)?;
    let segment = Segment::anonymous()?;
    let ready = Value::<u64>::create(&segment, "ready", 0)?;
    let mut end = Pipe::create::<u64, u64>(&segment, "pipe", 8)?;
    let lock = Lock::<u64>::create(&segment, "lock", 0)?;

    row("waitid", kills, &segment, &ready, "hold_lock", |pid| {
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).is_ok()
    })?;
    row("recv on a pipe", kills, &segment, &ready, "sit_on_pipe", |_| {
        matches!(end.recv(), Err(RecvError::Disconnected { peer: Departure::Died { .. } }))
    })?;
    row("lock", kills, &segment, &ready, "hold_lock", |_| matches!(lock.lock(), Err(LockError::OwnerDied { .. })))
}

fn row(
    what: &str,
    kills: u64,
    segment: &Segment,
    ready: &Value<u64>,
    victim: &str,
    mut call: impl FnMut(Pid) -> bool + Send,
) -> Outcome {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 100_000_000_000, 3)?;
    for round in 0..kills {
        ready.store(0, Release);
        let mut child = Process::new(victim).segment(segment).kill_on_drop(true).spawn()?;
        let pid = Pid::from_raw(child.pid() as i32);
        ready.wait_while_timeout(PATIENCE, |ready| ready == 0)?;
        let taken = thread::scope(|scope| -> io::Result<Duration> {
            let (announce, announced) = mpsc::channel();
            let call = &mut call;
            let blocked = scope.spawn(move || {
                announce.send(gettid()).expect("the other thread waits");
                let told = call(pid);
                (Instant::now(), told)
            });
            let thread = announced.recv().expect("the thread lives");
            until_asleep(Path::new(&format!("/proc/self/task/{thread}/stat")))?;
            thread::sleep(phase(round));
            let begin = Instant::now();
            kill(pid, Signal::SIGKILL)?;
            let (end, told) = blocked.join().expect("the thread ends well");
            assert!(told, "{what} returned, and not because of a death");
            Ok(end - begin)
        })?;
        histogram.saturating_record(taken.as_nanos() as u64);
        child.join()?;
    }
    let micros = |nanos: u64| nanos as f64 / 1e3;
    println!(
        "{:32} {kills:>6} {:>10.1} {:>10.1} {:>10.1}",
        label(what),
        micros(histogram.value_at_quantile(0.5)),
        micros(histogram.value_at_quantile(0.99)),
        micros(histogram.max()),
    );
    Ok(())
}

/// Spread evenly over one `LOOK`, however many rounds there are.
fn phase(round: u64) -> Duration {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    LOOK.mul_f64((round as f64 * GOLDEN).fract())
}

fn until_asleep(stat: &Path) -> io::Result<()> {
    // The state is the letter behind the name, which ends with the last parenthesis.
    while !fs::read_to_string(stat)?.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S")) {
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

fn sit_on_pipe(context: &Context) -> Outcome {
    die_with_parent()?;
    let segment = context.segment(0)?;
    let _end = Pipe::connect::<u64, u64>(segment, "pipe")?;
    say_ready(segment)?;
    park()
}

fn hold_lock(context: &Context) -> Outcome {
    die_with_parent()?;
    let segment = context.segment(0)?;
    // Nobody may have taken it from the one before.
    let lock = Lock::<u64>::open(segment, "lock")?;
    let _guard = lock.lock().or_else(|e| e.into_guard().ok_or("detached"))?;
    say_ready(segment)?;
    park()
}

// --- idle ---

fn idle(context: &Context) -> Outcome {
    die_with_parent()?;
    let span = Duration::from_secs(context.parse(0)?);
    let segment = Segment::anonymous()?;
    let ready = Value::<u64>::create(&segment, "ready", 0)?;
    let _queue = Queue::<u64>::create(&segment, "queue", 64)?;
    let lock = Lock::<u64>::create(&segment, "lock", 0)?;
    let _guard = lock.lock().map_err(|e| e.to_string())?;
    let mut ends = Vec::new();
    // Killed before what they wait for is given up.
    let mut groups: Vec<(&str, Vec<Child>)> = Vec::new();
    for (what, entry, count) in IDLERS {
        let mut children = Vec::new();
        for index in 0..count {
            if entry == "block_in_pipe" {
                ends.push(Pipe::create::<u64, u64>(&segment, &format!("pipe{index}"), 8)?);
            }
            let process = Process::new(entry).segment(&segment).arg(index.to_string()).kill_on_drop(true);
            children.push(process.spawn()?);
        }
        groups.push((what, children));
    }
    let all: u64 = IDLERS.iter().map(|idlers| idlers.2).sum();
    ready.wait_while_timeout(PATIENCE, |ready| ready < all)?;

    let read = || groups.iter().map(|(_, children)| Cost::of(children)).collect::<io::Result<Vec<Cost>>>();
    let (begun, mut last) = (Instant::now(), read()?);
    while begun.elapsed() < Duration::from_secs(3) {
        thread::sleep(Duration::from_millis(300));
        let now = read()?;
        if std::mem::replace(&mut last, now) == last {
            break;
        }
    }
    let (begun, before) = (Instant::now(), read()?);
    thread::sleep(span);
    let (after, seconds) = (read()?, begun.elapsed().as_secs_f64());
    for (((what, children), before), after) in groups.iter().zip(before).zip(after) {
        let switches = after.switches - before.switches;
        println!(
            "{:32} {:>9} {:>7} {seconds:>8.1} {switches:>8} {:>10.1} {:>8} {:>12.1}",
            label(what),
            children.len(),
            after.threads,
            switches as f64 / seconds,
            (after.ticks - before.ticks) * TICK_MS,
            (after.nanos - before.nanos) as f64 / 1e3,
        );
    }
    Ok(())
}

/// What all threads of some processes have used.
#[derive(Clone, Copy, Default, PartialEq)]
struct Cost {
    threads: u64,
    /// Voluntary and involuntary.
    switches: u64,
    /// User and system time, in the kernel's ticks.
    ticks: u64,
    /// The scheduler's own account.
    nanos: u64,
}

impl Cost {
    fn of(children: &[Child]) -> io::Result<Self> {
        let mut cost = Self::default();
        for child in children {
            for task in fs::read_dir(format!("/proc/{}/task", child.pid()))? {
                cost.add(&task?.path())?;
            }
        }
        Ok(cost)
    }

    fn add(&mut self, task: &Path) -> io::Result<()> {
        let read = |file| fs::read_to_string(task.join(file));
        let number = |text: Option<&str>| text.and_then(|text| text.trim().parse().ok()).unwrap_or(0_u64);
        self.threads += 1;
        for line in read("status")?.lines() {
            if let Some((_, count)) = line.split_once("voluntary_ctxt_switches:") {
                self.switches += number(Some(count));
            }
        }
        let stat = read("stat")?;
        // Behind the name: state is field 3 of proc_pid_stat(5), utime 14, stime 15.
        let mut times = stat[stat.rfind(')').map_or(0, |at| at + 1)..].split_whitespace().skip(11);
        self.ticks += number(times.next()) + number(times.next());
        // Not there on every kernel.
        self.nanos += number(read("schedstat").ok().as_deref().and_then(|text| text.split(' ').next()));
        Ok(())
    }
}

fn block_in_recv(context: &Context) -> Outcome {
    die_with_parent()?;
    let segment = context.segment(0)?;
    let receiver = Queue::<u64>::open(segment, "queue")?.receiver()?;
    say_ready(segment)?;
    receiver.recv()?;
    Ok(())
}

fn block_in_lock(context: &Context) -> Outcome {
    die_with_parent()?;
    let segment = context.segment(0)?;
    let lock = Lock::<u64>::open(segment, "lock")?;
    say_ready(segment)?;
    let _guard = lock.lock().map_err(|e| e.to_string())?;
    Ok(())
}

fn block_in_pipe(context: &Context) -> Outcome {
    die_with_parent()?;
    let segment = context.segment(0)?;
    let mut end = Pipe::connect::<u64, u64>(segment, &format!("pipe{}", context.parse::<u64>(0)?))?;
    say_ready(segment)?;
    end.recv()?;
    Ok(())
}

// --- the machine ---

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "{cores} × {}, Linux {}, load average now {load}",
        model.trim_start_matches([':', ' ', '\t']),
        kernel.trim()
    )
}
