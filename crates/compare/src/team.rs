//! Workers: forked processes, or the threads of one, that start together, and the page on which they say what came out.
//!
//! The parent stays single-threaded and touches nothing that is measured. It waits for its children with a time limit and
//! kills those that do not come back.

mod children;

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crossbeam_utils::{Backoff, CachePadded};

use self::children::{Children, block_child_signal};
use crate::sys::{futex_wait, futex_wake, map_shared, pin};

/// Workers that a team can have, those that are idle not counted.
pub const MOST: usize = 32;
const MESSAGE: usize = 240;

/// Who works.
#[derive(Clone, Copy, Debug)]
pub struct Team {
    /// Who meets, measures and reports.
    pub workers: usize,
    /// Processes besides, that are only there.
    pub idle: usize,
    /// Threads of one process instead of processes.
    pub threads: bool,
    /// Worker i on the i-th core, or everybody wherever the scheduler likes.
    pub pinned: bool,
    /// After this they are killed.
    pub limit: Duration,
}

/// What a worker found: times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Numbers {
    /// When it began, by CLOCK_MONOTONIC.
    pub begin: u64,
    /// When it was done.
    pub end: u64,
    /// Processor time in between.
    pub cpu: u64,
    /// Messages that it received.
    pub count: u64,
    /// The sum of their first words, wrapping.
    pub sum: u64,
    /// p50, p99, p99.9 and maximum of single latencies.
    pub tail: [u64; 4],
    /// Whatever else the measurement is about.
    pub other: [u64; 2],
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// Not done when the time was over.
    DidNotFinish,
    /// The first line of what a worker had to say.
    Failed(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DidNotFinish => f.write_str("did not finish"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Where a worker leaves its numbers. Written by that worker, read by the parent after it has ended.
struct Slot {
    done: AtomicBool,
    numbers: [AtomicU64; 11],
    message: [AtomicU8; MESSAGE],
}

/// The shared page. All zero is its beginning.
#[repr(C)]
struct Control {
    /// How many have come to the barrier; the last one sets it to zero and opens by adding one to `generation`.
    arrived: CachePadded<AtomicU32>,
    generation: CachePadded<AtomicU32>,
    /// Set by the first worker when what it made can be opened: a futex.
    created: CachePadded<AtomicU32>,
    /// Set by the parent when the workers are done and the idle may go: a futex.
    stop: CachePadded<AtomicU32>,
    /// How many of the idle are in place.
    ready: CachePadded<AtomicU32>,
    /// Somebody has failed: waiting at the barrier is pointless.
    failed: CachePadded<AtomicBool>,
    /// For the measurement: see [`Seat::tally`].
    tally: CachePadded<AtomicU64>,
    /// One for each worker and one for all the idle.
    slots: [Slot; MOST + 1],
}

/// The mapping of a [`Control`] that parent and children share.
struct Page(NonNull<Control>);

impl Page {
    fn map() -> Self {
        Self(map_shared(size_of::<Control>()).cast())
    }

    fn control(&self) -> &Control {
        // SAFETY: mapped until drop, large enough, page-aligned, made of atomics for which zero is a value.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: `map` mapped it with this size, and nobody can borrow it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Control>()) };
    }
}

/// A worker's place in the team.
pub struct Seat<'a> {
    /// Which worker; at least the number of workers for the idle.
    pub index: usize,
    team: &'a Team,
    control: &'a Control,
}

impl Seat<'_> {
    /// Waits for all the other workers (not for the idle). Spins, then yields.
    pub fn meet(&self) {
        let Control { arrived, generation, .. } = self.control;
        // Read before arriving: afterwards it may already be the next one.
        let this = generation.load(Acquire);
        if arrived.fetch_add(1, AcqRel) + 1 == self.team.workers as u32 {
            arrived.store(0, Relaxed);
            generation.fetch_add(1, Release);
            return;
        }
        self.until(|| generation.load(Acquire) != this);
    }

    /// Spins and yields until `condition`, or until somebody has failed.
    pub fn until(&self, condition: impl Fn() -> bool) {
        let backoff = Backoff::new();
        while !condition() {
            if self.control.failed.load(Relaxed) {
                panic::panic_any(GaveUp);
            }
            backoff.snooze();
        }
    }

    /// The first worker makes something, and only then the others go on to open it.
    pub fn first<T>(&self, make: impl FnOnce(bool) -> T) -> T {
        let created = &self.control.created;
        if self.index > 0 {
            wait_for_flag(created);
            return make(false);
        }
        let made = make(true);
        raise_flag(created);
        made
    }

    /// Waits until all the idle are in place.
    pub fn await_idle(&self) {
        self.until(|| self.control.ready.load(Acquire) as usize == self.team.idle);
    }

    /// What an idle one does: nothing, asleep.
    pub fn rest(&self) {
        self.control.ready.fetch_add(1, Release);
        wait_for_flag(&self.control.stop);
    }

    /// A number that all workers share and that begins with zero.
    pub fn tally(&self) -> &AtomicU64 {
        &self.control.tally
    }
}

/// Sleeps until somebody has raised the flag.
fn wait_for_flag(flag: &AtomicU32) {
    while flag.load(Acquire) == 0 {
        futex_wait(flag, 0);
    }
}

fn raise_flag(flag: &AtomicU32) {
    flag.store(1, Release);
    futex_wake(flag, i32::MAX);
}

/// Another worker has failed, and says so itself.
struct GaveUp;

/// Runs `work` in every worker and idle one, and gives the workers' numbers.
pub fn run(team: &Team, work: impl Fn(&Seat<'_>) -> Numbers + Sync) -> Result<Vec<Numbers>, Failure> {
    assert!(team.workers <= MOST, "{} workers", team.workers);
    block_child_signal(true);
    let page = Page::map();
    let control = page.control();
    let members = if team.threads { 1 } else { team.workers + team.idle };
    let mut children = Children::default();
    for index in 0..members {
        let seat = |index| Seat { index, team, control };
        let ours = children.fork(|| {
            if !team.threads {
                return work_at(&seat(index), &work);
            }
            std::thread::scope(|scope| {
                (0..team.workers).for_each(|index| {
                    let (seat, work) = (seat(index), &work);
                    scope.spawn(move || work_at(&seat, work));
                });
            });
        });
        if let Err(e) = ours {
            children.kill();
            return Err(Failure::Failed(format!("cannot fork: {e}")));
        }
    }
    let workers = if team.threads { 1 } else { team.workers };
    let ended = children.wait(workers, control, Instant::now() + team.limit);
    children.kill();
    ended?;
    let taken = control.slots.iter().take(team.workers).map(Slot::take).collect::<Option<Vec<_>>>();
    match control.slots.iter().find_map(Slot::message) {
        Some(message) => Err(Failure::Failed(message)),
        None => taken.ok_or_else(|| Failure::Failed("a worker ended without a word".into())),
    }
}

/// Does the work of one member and writes down what came out.
fn work_at(seat: &Seat<'_>, work: impl Fn(&Seat<'_>) -> Numbers) {
    if seat.team.pinned {
        pin(seat.index);
    }
    let slot = &seat.control.slots[seat.index.min(seat.team.workers)];
    match panic::catch_unwind(AssertUnwindSafe(|| work(seat))) {
        Ok(numbers) => slot.put(numbers),
        Err(payload) => {
            slot.complain(payload.as_ref());
            seat.control.failed.store(true, Release);
        }
    }
}

impl Slot {
    fn put(&self, n: Numbers) {
        let Numbers { begin, end, cpu, count, sum, tail: [p50, p99, p999, max], other: [a, b] } = n;
        let values = [begin, end, cpu, count, sum, p50, p99, p999, max, a, b];
        self.numbers.iter().zip(values).for_each(|(place, value)| place.store(value, Relaxed));
        self.done.store(true, Release);
    }

    fn take(&self) -> Option<Numbers> {
        let [begin, end, cpu, count, sum, p50, p99, p999, max, a, b] =
            std::array::from_fn(|i| self.numbers[i].load(Relaxed));
        let numbers = Numbers { begin, end, cpu, count, sum, tail: [p50, p99, p999, max], other: [a, b] };
        self.done.load(Acquire).then_some(numbers)
    }

    fn complain(&self, payload: &(dyn Any + Send)) {
        if payload.is::<GaveUp>() {
            return;
        }
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panicked");
        let line = text.lines().next().unwrap_or_default().bytes();
        self.message.iter().zip(line).for_each(|(place, byte)| place.store(byte, Relaxed));
    }

    fn message(&self) -> Option<String> {
        let bytes: Vec<u8> = self.message.iter().map(|b| b.load(Relaxed)).take_while(|&b| b != 0).collect();
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests;
