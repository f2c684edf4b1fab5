//! What a receiver with a real-time policy gets from a sender without one, beside an OS pipe.
//!
//! `cargo bench --bench realtime`; `GIMMAL_BENCH_QUICK=1` for a smoke test. Needs CAP_SYS_NICE, and says so without it.
//!
//! One thread sends the time, as fast as it can; the other receives and looks how long ago that was. Every round measures each way in
//! each place once; what is shown is the median of the rounds. *one CPU*: both are pinned to the same one, where they can only run in
//! turn. *two CPUs*: each is pinned to its own. *FIFO*: the receiver has SCHED_FIFO; the sender never has. *paced*: the sender sleeps
//! between messages, as in a control loop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use gimmal::{Queue, Segment, SpscQueue};
use hdrhistogram::Histogram;
use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const WAYS: [&str; 3] = ["Queue", "SpscQueue", "OS pipe"];
const CAPACITY: usize = 8192;
const PRIORITY: i32 = 50;
/// For how long a receive waits at most, as in a loop that has other things to do, too.
const PATIENCE: Duration = Duration::from_millis(20);
/// Sent when the time is up.
const LAST: u64 = u64::MAX;

/// Who runs where, and how.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    fifo: bool,
    cpus: usize,
    pause: Duration,
}

/// Messages a second, and the nanoseconds from send to receive.
struct Run {
    rate: f64,
    took: Histogram<u64>,
}

fn main() {
    // Without --bench this is `cargo test --benches`, which wants to know whether it runs at all.
    let quick = std::env::var_os("GIMMAL_BENCH_QUICK").is_some() || !std::env::args().any(|a| a == "--bench");
    let (rounds, time) = if quick { (1, Duration::from_millis(100)) } else { (7, Duration::from_millis(700)) };
    let cpus = allowed();
    let may = on_a_thread(become_fifo);
    if let Err(e) = &may {
        println!("SCHED_FIFO is left out: {e}; it needs CAP_SYS_NICE (sudo) or ulimit -r {PRIORITY}");
    }
    if cpus.len() < 2 {
        println!("two CPUs are left out: this process may use one only");
    }
    let mut runs: BTreeMap<(Place, usize), Vec<Run>> = BTreeMap::new();
    for _ in 0..rounds {
        for fifo in [true, false].into_iter().filter(|fifo| !fifo || may.is_ok()) {
            for on in 1..=cpus.len().min(2) {
                for pause in [Duration::ZERO, Duration::from_micros(30)] {
                    let place = Place { fifo, cpus: on, pause };
                    for (way, name) in WAYS.into_iter().enumerate() {
                        runs.entry((place, way)).or_default().push(measure(name, place, &cpus, time));
                    }
                }
            }
        }
    }
    println!("{:32} {:>12} {:>10} {:>10} {:>10}", "", "messages/s", "p50 µs", "p99 µs", "max µs");
    for ((place, way), runs) in &mut runs {
        let policy = if place.fifo { "FIFO" } else { "normal" };
        let paced = if place.pause.is_zero() { "" } else { ", paced" };
        let row = format!("{policy}, {} CPU{paced}: {}", place.cpus, WAYS[*way]);
        let median = |of: &dyn Fn(&Run) -> f64| {
            let mut all: Vec<f64> = runs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let micros = |n: u64| n as f64 / 1e3;
        let rate = median(&|run| run.rate);
        let [p50, p99] = [0.5, 0.99].map(|q| median(&|run| micros(run.took.value_at_quantile(q))));
        let most = median(&|run| micros(run.took.max()));
        println!("{row:32} {rate:>12.0} {p50:>10.1} {p99:>10.1} {most:>10.1}");
    }
}

fn measure(way: &str, place: Place, cpus: &[usize], time: Duration) -> Run {
    let segment = Segment::options().size(4 << 20).anonymous().expect("an unnamed segment");
    match way {
        "Queue" => {
            let queue = Queue::<u64>::create(&segment, "q", CAPACITY).expect("a queue");
            let (sender, receiver) = (queue.sender().expect("a sender"), queue.receiver().expect("a receiver"));
            let receive = move || receiver.recv_timeout(PATIENCE).ok();
            run(place, cpus, time, move |at| sender.send(at).expect("the queue is open"), receive)
        }
        "SpscQueue" => {
            let queue = SpscQueue::<u64>::create(&segment, "s", CAPACITY).expect("a queue");
            let (mut sender, mut receiver) = (queue.sender().expect("a sender"), queue.receiver().expect("a receiver"));
            let receive = move || receiver.recv_timeout(PATIENCE).ok();
            run(place, cpus, time, move |at| sender.send(at).expect("the queue is open"), receive)
        }
        _ => {
            let (reader, writer) = nix::unistd::pipe().expect("a pipe");
            let (mut reader, mut writer) = (File::from(reader), File::from(writer));
            let receive = move || {
                let mut bytes = [0; 8];
                reader.read_exact(&mut bytes).expect("the pipe is open");
                Some(u64::from_ne_bytes(bytes))
            };
            let send = move |at: u64| writer.write_all(&at.to_ne_bytes()).expect("the pipe is open");
            run(place, cpus, time, send, receive)
        }
    }
}

/// One thread sends for a time, another receives.
fn run(
    place: Place,
    cpus: &[usize],
    time: Duration,
    mut send: impl FnMut(u64) + Send,
    mut receive: impl FnMut() -> Option<u64> + Send,
) -> Run {
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            pin(cpus[0]);
            if place.fifo {
                become_fifo().expect("it was possible before");
            }
            let mut took = Histogram::<u64>::new(3).expect("three digits are possible");
            let began = Instant::now();
            loop {
                match receive() {
                    Some(LAST) => break,
                    Some(at) => took.record(now().saturating_sub(at).max(1)).expect("it grows by itself"),
                    None => {}
                }
            }
            Run { rate: took.len() as f64 / began.elapsed().as_secs_f64(), took }
        });
        scope.spawn(move || {
            pin(cpus[place.cpus - 1]);
            if !place.pause.is_zero() {
                // Otherwise a sleep takes 50 µs more.
                nix::sys::prctl::set_timerslack(1).expect("a number of nanoseconds");
            }
            let end = Instant::now() + time;
            while Instant::now() < end {
                send(now());
                if !place.pause.is_zero() {
                    thread::sleep(place.pause);
                }
            }
            send(LAST);
        });
        receiver.join().expect("the receiver does not panic")
    })
}

fn on_a_thread<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(f).join().expect("it does not panic"))
}

/// The CPUs that this process may use.
fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("one may ask");
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("it was in a set");
    sched_setaffinity(Pid::from_raw(0), &set).expect("it was allowed before");
}

/// Gives this thread SCHED_FIFO.
fn become_fifo() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the parameters live through the call, which reads them only.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
