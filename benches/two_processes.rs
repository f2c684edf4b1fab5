//! Two processes: how many messages a second, and how long until an answer is there, beside an OS pipe and a Unix socket.
//!
//! `cargo bench --bench two_processes [-- --json] [-- --quick]`. Everything is measured in one run and interleaved: every
//! round measures each way, size and pattern once, so that a noisy moment hits all alike; what is shown is the median of
//! the rounds. Payloads are written by the sender and read by the receiver, every word of them.
//!
//! - *stream*: one sends, the other receives, both with blocking calls; the receiver's time from the first to the last.
//! - *round trip, busy*: a message and its answer, again and again; nobody ever sleeps. `spin` polls with `try_recv`, the
//!   OS's ways have blocking calls only.
//! - *round trip, asleep*: the other process has gone to sleep before each message.
//!
//! *pinned*: each process on a core of its own. *free*: wherever the scheduler puts them.

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gimmal::process::{self, Context, Entry, Outcome, Process};
use gimmal::{Pod, Queue, Receiver, Segment, Sender, SpscQueue, bytemuck, spsc};
use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const ENTRIES: [Entry; 1] = gimmal::entries![peer];
/// What a queue holds, in bytes: as much as an OS pipe.
const CAPACITY_BYTES: usize = 64 << 10;
/// Far longer than spinning takes before a wait goes to sleep.
const UNTIL_ASLEEP: Duration = Duration::from_micros(60);
const SIZES: [usize; 4] = [8, 64, 256, 4096];
const WAYS: [&str; 4] = ["Queue", "SpscQueue", "OS pipe", "Unix socket"];
const PATTERNS: [&str; 4] = ["stream", "round trip, spin", "round trip, busy", "round trip, asleep"];
const STREAM: usize = 0;
const SPIN: usize = 1;
const ASLEEP: usize = 3;

/// What the peer is asked to do: way, size and pattern by index, how many messages, where it runs.
type Command = [u64; 5];

fn main() {
    process::init(&ENTRIES);
    let plan = Plan::from_arguments();
    let mut parent = Parent::start();
    let mut results: BTreeMap<Key, Samples> = BTreeMap::new();
    for round in usize::from(plan.quick)..=plan.rounds {
        for pinned in [true, false] {
            for pattern in 0..PATTERNS.len() {
                for (size, &bytes) in SIZES.iter().enumerate() {
                    for way in 0..WAYS.len() {
                        if pattern == SPIN && way >= 2 {
                            continue;
                        }
                        let samples = parent.measure(way, size, pattern, plan.count(bytes, pattern), pinned);
                        // The first round warms up.
                        if round > 0 {
                            results.entry((pinned, pattern, size, way)).or_default().push(samples);
                        }
                    }
                }
            }
        }
    }
    parent.stop();
    if plan.json { print_json(&plan, &results) } else { print_table(&plan, &results) }
}

/// How much to do.
struct Plan {
    rounds: usize,
    quick: bool,
    json: bool,
}

impl Plan {
    fn from_arguments() -> Self {
        // Cargo and its users pass arguments for other harnesses too: those are not ours to refuse.
        let has = |flag: &str| std::env::args().any(|argument| argument == flag);
        // Without --bench this is `cargo test --benches`, which wants to know whether it runs at all.
        let quick = has("--quick") || std::env::var_os("GIMMAL_BENCH_QUICK").is_some() || !has("--bench");
        Self { rounds: if quick { 1 } else { 7 }, quick, json: has("--json") }
    }

    fn count(&self, bytes: usize, pattern: usize) -> u64 {
        let full = match pattern {
            STREAM => 60_000_000 / (1500 + bytes as u64),
            ASLEEP => 200,
            _ => 3_000,
        };
        if self.quick { full / 20 } else { full }
    }
}

/// Pinned, pattern, size, way.
type Key = (bool, usize, usize, usize);

/// Nanoseconds: a stream's per message, or every round trip's.
enum Measured {
    PerMessage(f64),
    Each(Histogram<u64>),
}

#[derive(Default)]
struct Samples {
    streams: Vec<f64>,
    /// Median, 99th percentile and maximum of each round.
    trips: Vec<[u64; 3]>,
}

impl Samples {
    fn push(&mut self, measured: Measured) {
        match measured {
            Measured::PerMessage(nanos) => self.streams.push(nanos),
            Measured::Each(h) => {
                self.trips.push([h.value_at_quantile(0.5), h.value_at_quantile(0.99), h.max()]);
            }
        }
    }

    fn stream(&self) -> f64 {
        median(self.streams.clone())
    }

    /// The medians of the rounds' percentiles, and the worst maximum.
    fn trip(&self) -> [u64; 3] {
        let of = |i: usize| self.trips.iter().map(move |trip| trip[i]);
        [median(of(0).collect()), median(of(1).collect()), of(2).max().unwrap_or(0)]
    }
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    values[values.len() / 2]
}

// --- the ways ---

/// Messages of `N` words, there and back.
trait Link<const N: usize> {
    fn send(&mut self, message: &[u64; N]);
    fn recv(&mut self) -> [u64; N];
    fn try_recv(&mut self) -> Option<[u64; N]> {
        unreachable!("only gimmal's ways are polled")
    }
}

struct Mpmc<const N: usize>(Sender<[u64; N]>, Receiver<[u64; N]>)
where
    [u64; N]: Pod;

impl<const N: usize> Link<N> for Mpmc<N>
where
    [u64; N]: Pod,
{
    fn send(&mut self, message: &[u64; N]) {
        self.0.send(*message).expect("send");
    }
    fn recv(&mut self) -> [u64; N] {
        self.1.recv().expect("receive")
    }
    fn try_recv(&mut self) -> Option<[u64; N]> {
        self.1.try_recv().ok()
    }
}

struct Spsc<const N: usize>(spsc::Sender<[u64; N]>, spsc::Receiver<[u64; N]>)
where
    [u64; N]: Pod;

impl<const N: usize> Link<N> for Spsc<N>
where
    [u64; N]: Pod,
{
    fn send(&mut self, message: &[u64; N]) {
        self.0.send(*message).expect("send");
    }
    fn recv(&mut self) -> [u64; N] {
        self.1.recv().expect("receive")
    }
    fn try_recv(&mut self) -> Option<[u64; N]> {
        self.1.try_recv().ok()
    }
}

/// Two pipes, or both halves of a socket.
struct Stream(File, File);

impl<const N: usize> Link<N> for Stream
where
    [u64; N]: Pod,
{
    fn send(&mut self, message: &[u64; N]) {
        self.0.write_all(bytemuck::bytes_of(message)).expect("write");
    }
    fn recv(&mut self) -> [u64; N] {
        let mut message = [0; N];
        self.1.read_exact(bytemuck::bytes_of_mut(&mut message)).expect("read");
        message
    }
}

/// A message that says its number in every word.
fn write_message<const N: usize>(number: u64) -> [u64; N] {
    black_box([number; N])
}

/// Reads all of it.
fn read_message<const N: usize>(message: &[u64; N], number: u64) {
    let sum = black_box(message).iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
    assert_eq!(sum, number.wrapping_mul(N as u64), "message {number} is another one");
}

/// Every link of one size, in a process that is first or second.
struct Links<const N: usize>
where
    [u64; N]: Pod,
{
    mpmc: Mpmc<N>,
    spsc: Spsc<N>,
}

impl<const N: usize> Links<N>
where
    [u64; N]: Pod,
{
    fn open(segment: &Segment, first: bool) -> Result<Self, gimmal::Error> {
        let (out, back) = if first { ("there", "back") } else { ("back", "there") };
        let name = |kind: &str, way: &str| format!("{kind}-{way}-{}", 8 * N);
        let mpmc = |way| Queue::<[u64; N]>::open_or_create(segment, &name("mpmc", way), CAPACITY_BYTES / (8 * N));
        let spsc = |way| SpscQueue::<[u64; N]>::open_or_create(segment, &name("spsc", way), CAPACITY_BYTES / (8 * N));
        Ok(Self {
            mpmc: Mpmc(mpmc(out)?.sender()?, mpmc(back)?.receiver()?),
            spsc: Spsc(spsc(out)?.sender()?, spsc(back)?.receiver()?),
        })
    }
}

/// All links of all sizes of one process.
struct All {
    links: (Links<1>, Links<8>, Links<32>, Links<512>),
    pipe: Stream,
    socket: Stream,
}

impl All {
    fn open(segment: &Segment, first: bool, pipe: Stream, socket: &UnixStream) -> Result<Self, gimmal::Error> {
        let half = || File::from(OwnedFd::from(socket.try_clone().expect("duplicate a socket")));
        Ok(Self {
            links: (
                Links::open(segment, first)?,
                Links::open(segment, first)?,
                Links::open(segment, first)?,
                Links::open(segment, first)?,
            ),
            pipe,
            socket: Stream(half(), half()),
        })
    }

    /// Runs `role` on the link of a way and size.
    fn with(&mut self, way: usize, size: usize, role: impl Role) -> Option<Measured> {
        let Self { links, pipe, socket } = self;
        macro_rules! of_size {
            ($links:expr, $words:literal) => {
                match way {
                    0 => role.run::<$words>(&mut $links.mpmc),
                    1 => role.run::<$words>(&mut $links.spsc),
                    2 => role.run::<$words>(pipe),
                    _ => role.run::<$words>(socket),
                }
            };
        }
        match size {
            0 => of_size!(links.0, 1),
            1 => of_size!(links.1, 8),
            2 => of_size!(links.2, 32),
            _ => of_size!(links.3, 512),
        }
    }
}

/// What one process does with a link.
trait Role {
    fn run<const N: usize>(self, link: &mut impl Link<N>) -> Option<Measured>;
}

fn receive<const N: usize>(link: &mut impl Link<N>, spin: bool) -> [u64; N] {
    if !spin {
        return link.recv();
    }
    loop {
        if let Some(message) = link.try_recv() {
            return message;
        }
        std::hint::spin_loop();
    }
}

/// The parent: sends first.
struct First {
    pattern: usize,
    count: u64,
}

impl Role for First {
    fn run<const N: usize>(self, link: &mut impl Link<N>) -> Option<Measured> {
        if self.pattern == STREAM {
            for number in 0..self.count {
                link.send(&write_message(number));
            }
            return None;
        }
        let mut histogram = Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("bounds");
        for number in 0..self.count {
            if self.pattern == ASLEEP {
                let until = Instant::now() + UNTIL_ASLEEP;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            let begin = Instant::now();
            link.send(&write_message(number));
            let message = receive(link, self.pattern == SPIN);
            read_message(&message, !number);
            histogram.saturating_record(begin.elapsed().as_nanos() as u64);
        }
        Some(Measured::Each(histogram))
    }
}

/// The other process: answers, or takes in a stream.
struct Second {
    pattern: usize,
    count: u64,
}

impl Role for Second {
    fn run<const N: usize>(self, link: &mut impl Link<N>) -> Option<Measured> {
        if self.pattern == STREAM {
            read_message(&link.recv(), 0);
            let begin = Instant::now();
            for number in 1..self.count {
                read_message(&link.recv(), number);
            }
            return Some(Measured::PerMessage(begin.elapsed().as_nanos() as f64 / (self.count - 1) as f64));
        }
        for number in 0..self.count {
            let message = receive(link, self.pattern == SPIN);
            read_message(&message, number);
            link.send(&write_message(!number));
        }
        None
    }
}

// --- the two processes ---

struct Parent {
    all: All,
    commands: Sender<Command>,
    replies: Receiver<f64>,
    child: process::Child,
}

impl Parent {
    fn start() -> Self {
        let segment = Segment::options().size(16 << 20).anonymous().expect("a segment");
        let commands = Queue::<Command>::create(&segment, "commands", 1).expect("a queue").sender().expect("an end");
        let replies = Queue::<f64>::create(&segment, "replies", 1).expect("a queue").receiver().expect("an end");
        let path = std::env::temp_dir().join(format!("gimmal-bench-{}", std::process::id()));
        let (path, listener) = (Unlinked(path.clone()), UnixListener::bind(path).expect("bind a socket"));
        let mut child = Process::new("peer")
            .segment(&segment)
            .arg(&path.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start the other process");
        let (socket, _) = listener.accept().expect("accept");
        let there = OwnedFd::from(child.take_stdin().expect("piped"));
        let back = OwnedFd::from(child.take_stdout().expect("piped"));
        let all = All::open(&segment, true, Stream(there.into(), back.into()), &socket).expect("the links");
        Self { all, commands, replies, child }
    }

    fn measure(&mut self, way: usize, size: usize, pattern: usize, count: u64, pinned: bool) -> Measured {
        let command = [way, size, pattern, count as usize, usize::from(pinned)].map(|n| n as u64);
        self.commands.send(command).expect("command");
        place(pinned.then_some(0));
        self.wait();
        let measured = self.all.with(way, size, First { pattern, count });
        let there = self.wait();
        measured.unwrap_or(Measured::PerMessage(there))
    }

    /// Waits for the other process to be ready, or done.
    fn wait(&mut self) -> f64 {
        self.replies.recv_timeout(Duration::from_secs(120)).expect("the other process answers")
    }

    fn stop(mut self) {
        self.commands.close();
        assert!(self.child.join().expect("wait for the other process").success());
    }
}

/// A path that is removed in the end.
struct Unlinked(PathBuf);

impl Drop for Unlinked {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn peer(context: &Context) -> Outcome {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let segment = context.segment(0)?;
    let commands = Queue::<Command>::open(segment, "commands")?.receiver()?;
    let replies = Queue::<f64>::open(segment, "replies")?.sender()?;
    let socket = UnixStream::connect(&context.args()[0])?;
    let there = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let back = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut all = All::open(segment, false, Stream(there, back), &socket)?;
    for [way, size, pattern, count, pinned] in commands {
        place((pinned == 1).then_some(1));
        replies.send(0.0)?;
        let measured = all.with(way as usize, size as usize, Second { pattern: pattern as usize, count });
        replies.send(match measured {
            Some(Measured::PerMessage(nanos)) => nanos,
            _ => 0.0,
        })?;
    }
    Ok(())
}

/// Confines this process to one of the processors it was started with, or to none in particular.
fn place(index: Option<usize>) {
    use std::sync::OnceLock;
    static ALLOWED: OnceLock<Option<CpuSet>> = OnceLock::new();
    let this = Pid::from_raw(0);
    let Some(allowed) = ALLOWED.get_or_init(|| sched_getaffinity(this).ok()) else { return };
    let mut set = *allowed;
    if let Some(index) = index {
        let usable: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true)).collect();
        set = CpuSet::new();
        let _ = set.set(usable[index % usable.len()]);
    }
    let _ = sched_setaffinity(this, &set);
}

// --- the report ---

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |line| line.trim_start_matches([':', ' ', '\t']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{cores} × {model}, Linux {}, load average now {load}", kernel.trim())
}

fn print_table(plan: &Plan, results: &BTreeMap<Key, Samples>) {
    println!("{}", machine());
    println!("medians of {} interleaved rounds{}", plan.rounds, if plan.quick { " (quick: a smoke test)" } else { "" });
    for pinned in [true, false] {
        let placed = if pinned { "each process on its own core" } else { "processes wherever the scheduler puts them" };
        println!("\n{placed}");
        println!("{:18} {:>6}  {:>11}  {:>11} {:>11} {:>11}", "", "bytes", "", "", "", "");
        println!("stream{:38} {:>11} {:>11}", "", "ns/message", "MB/s");
        for (size, &bytes) in SIZES.iter().enumerate() {
            for (way, name) in WAYS.iter().enumerate() {
                if let Some(samples) = results.get(&(pinned, STREAM, size, way)) {
                    let nanos = samples.stream();
                    println!("  {name:16} {bytes:>6} {:>19} {nanos:>11.1} {:>11.0}", "", bytes as f64 * 1e3 / nanos);
                }
            }
        }
        for (pattern, title) in PATTERNS.iter().enumerate().skip(1) {
            println!("{title:32} {:>12} {:>11} {:>11}", "p50 ns", "p99 ns", "max ns");
            for (size, &bytes) in SIZES.iter().enumerate() {
                for (way, name) in WAYS.iter().enumerate() {
                    if let Some(samples) = results.get(&(pinned, pattern, size, way)) {
                        let [p50, p99, max] = samples.trip();
                        println!("  {name:16} {bytes:>6} {:>7} {p50:>11} {p99:>11} {max:>11}", "");
                    }
                }
            }
        }
    }
}

fn print_json(plan: &Plan, results: &BTreeMap<Key, Samples>) {
    let rows: Vec<serde_json::Value> = results
        .iter()
        .map(|(&(pinned, pattern, size, way), samples)| {
            let mut row = serde_json::json!({
                "way": WAYS[way], "bytes": SIZES[size], "pattern": PATTERNS[pattern], "pinned": pinned,
            });
            if pattern == STREAM {
                row["ns_per_message"] = samples.stream().into();
                row["rounds"] = samples.streams.clone().into();
            } else {
                let [p50, p99, max] = samples.trip();
                row["p50_ns"] = p50.into();
                row["p99_ns"] = p99.into();
                row["max_ns"] = max.into();
            }
            row
        })
        .collect();
    let report = serde_json::json!({
        "machine": machine(), "rounds": plan.rounds, "quick": plan.quick, "results": rows,
    });
    println!("{report:#}");
}
