//! How long a thread with a real-time policy stands still for one without, which is inside one of gimmal's own locks: on one
//! CPU an ordinary thread takes and drops ends of a queue, and a SCHED_FIFO thread does the same with naps in between.
//!
//! `cargo bench --bench inversion`; `GIMMAL_BENCH_QUICK=1` for a smoke test. Needs CAP_SYS_NICE, and says so without it.
//!
//! What is shown is the longest call of the FIFO thread beside its median, and beside the longest one of a run in which it is alone:
//! ratios. A lock that its holder cannot leave, since the waiting thread has the CPU, shows as a million: the kernel takes the CPU
//! from real-time threads after 0.95 s.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use gimmal::{Queue, Segment};
use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const PRIORITY: i32 = 50;
const NAP: Duration = Duration::from_micros(100);

fn main() {
    // Without --bench this is `cargo test --benches`, which wants to know whether it runs at all.
    let quick = std::env::var_os("GIMMAL_BENCH_QUICK").is_some() || !std::env::args().any(|a| a == "--bench");
    let calls = if quick { 500 } else { 20_000 };
    pin();
    let segment = Segment::anonymous().expect("a segment");
    let queue = Queue::<u64>::create(&segment, "queue", 8).expect("a queue");
    let take_and_drop = || drop(queue.sender().expect("an end"));
    let over = AtomicBool::new(false);
    let (alone, beside) = thread::scope(|scope| {
        let fifo = || scope.spawn(|| may_be_fifo().then(|| longest_and_median(calls, take_and_drop)));
        let alone = fifo().join().expect("a thread");
        scope.spawn(|| {
            while !over.load(Relaxed) {
                take_and_drop();
            }
        });
        let beside = fifo().join().expect("a thread");
        over.store(true, Relaxed);
        (alone, beside)
    });
    match (alone, beside) {
        (Some(alone), Some(beside)) => {
            let ratio = |(longest, median): (u64, u64)| longest as f64 / median as f64;
            println!("{calls} calls of a FIFO thread: the longest, in medians");
            println!("  alone                     {:8.1}", ratio(alone));
            println!("  beside an ordinary thread {:8.1}", ratio(beside));
            println!("  longest beside / alone    {:8.1}", beside.0 as f64 / alone.0 as f64);
        }
        _ => println!("inversion: nothing measured; SCHED_FIFO needs CAP_SYS_NICE (sudo) or ulimit -r {PRIORITY}"),
    }
}

/// Keeps this thread, and those that it starts, on one CPU.
fn pin() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("the CPUs of this process");
    let first = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu) == Ok(true)).expect("a CPU");
    let mut one = CpuSet::new();
    one.set(first).expect("a CPU");
    sched_setaffinity(this, &one).expect("to pin a thread");
}

fn may_be_fifo() -> bool {
    let param = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: only changes how this thread is scheduled.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) == 0 }
}

/// Nanoseconds.
fn longest_and_median(calls: usize, call: impl Fn()) -> (u64, u64) {
    let mut took: Vec<u64> = (0..calls)
        .map(|_| {
            thread::sleep(NAP);
            let begin = Instant::now();
            call();
            begin.elapsed().as_nanos() as u64
        })
        .collect();
    took.sort_unstable();
    (took[calls - 1], took[calls / 2])
}
