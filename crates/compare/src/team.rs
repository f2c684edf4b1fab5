//! Workers: forked processes, or the threads of one, that start together, and the page on which they say what came out.
//!
//! The parent stays single-threaded and touches nothing that is measured. It waits for its children with a time limit and
//! kills those that do not come back.

use std::any::Any;
use std::io::Error;
use std::panic::{self, AssertUnwindSafe};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crossbeam_utils::{Backoff, CachePadded};

/// Workers that a team can have, those that are idle not counted.
pub const MOST: usize = 32;
const MESSAGE: usize = 240;
/// How long the others get to end by themselves after one has failed.
const GRACE: Duration = Duration::from_millis(300);
/// How long a look at the children may be late if their signal went elsewhere, as it does between the threads of a test.
const LOOK: Duration = Duration::from_millis(20);

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

/// Fresh zeros that children will share.
pub fn map_shared(bytes: usize) -> NonNull<u8> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh mapping at a place that the kernel chooses touches nothing that exists.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
    assert_ne!(address, libc::MAP_FAILED, "map {bytes} bytes: {}", Error::last_os_error());
    NonNull::new(address.cast()).expect("the kernel maps nothing at zero")
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

/// Sleeps if the word has this value; may return early.
pub fn futex_wait(word: &AtomicU32, value: u32) {
    let (word, forever) = (word.as_ptr(), std::ptr::null::<libc::timespec>());
    // SAFETY: the word is mapped, aligned, and stays so while the call lasts; there is no time-out to read.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, value, forever) };
}

/// Wakes at most `most` of those who sleep on the word.
pub fn futex_wake(word: &AtomicU32, most: i32) {
    // SAFETY: a wake reads and writes nothing of ours.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, most) };
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

/// Children that have not been waited for.
#[derive(Default)]
struct Children {
    alive: Vec<(usize, libc::pid_t)>,
    forked: usize,
}

impl Children {
    /// The child does `work` and ends; the parent goes on.
    fn fork(&mut self, work: impl FnOnce()) -> std::io::Result<()> {
        // SAFETY: has no preconditions.
        let parent = unsafe { libc::getpid() };
        // SAFETY: this process has one thread. (Tests have more; there the child relies on the C library, which makes its
        // allocator usable after a fork.)
        match unsafe { libc::fork() } {
            -1 => Err(Error::last_os_error()),
            0 => {
                // SAFETY: sets an attribute of this process.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                // SAFETY: has no preconditions.
                if unsafe { libc::getppid() } == parent {
                    block_child_signal(false);
                    panic::set_hook(Box::new(|_| {}));
                    let _ = panic::catch_unwind(AssertUnwindSafe(work));
                }
                // SAFETY: ends the process without running what belongs to the parent.
                unsafe { libc::_exit(0) }
            }
            pid => {
                self.alive.push((self.forked, pid));
                self.forked += 1;
                Ok(())
            }
        }
    }

    /// Waits for the first `workers`, then lets the idle go and waits for them.
    fn wait(&mut self, workers: usize, control: &Control, deadline: Instant) -> Result<(), Failure> {
        let mut failed_since = None;
        loop {
            let mut killed = None;
            self.alive.retain(|&(_, pid)| {
                let mut status = 0;
                // SAFETY: `status` is ours to write.
                let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
                if waited == pid && libc::WIFSIGNALED(status) {
                    killed = Some(libc::WTERMSIG(status));
                }
                waited == 0
            });
            if let Some(signal) = killed {
                return Err(Failure::Failed(format!("killed by signal {signal}")));
            }
            if self.alive.is_empty() {
                return Ok(());
            }
            if !self.alive.iter().any(|&(index, _)| index < workers) {
                raise_flag(&control.stop);
            }
            if control.failed.load(Acquire) && failed_since.get_or_insert_with(Instant::now).elapsed() > GRACE {
                // Somebody has left a message.
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::DidNotFinish);
            }
            await_child_signal();
        }
    }

    fn kill(&mut self) {
        for (_, pid) in self.alive.drain(..) {
            // SAFETY: our child, not waited for yet, so that the number is still its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: asks for no status.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        }
    }
}

fn child_signal() -> libc::sigset_t {
    // SAFETY: any bits are a set.
    let mut set = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours to write.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above, and initialized.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    set
}

fn block_child_signal(block: bool) {
    let how = if block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: reads a set, and changes this thread's mask only.
    unsafe { libc::pthread_sigmask(how, &child_signal(), std::ptr::null_mut()) };
}

/// Sleeps until a child has ended, or a moment.
fn await_child_signal() {
    let timeout = libc::timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as libc::c_long };
    // SAFETY: reads a set and a time; asks for no details.
    unsafe { libc::sigtimedwait(&child_signal(), std::ptr::null_mut(), &timeout) };
}

/// The cores that this process was started on.
pub fn cores() -> Vec<usize> {
    // SAFETY: any bits are a set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours to write, and as large as we say.
    unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    // SAFETY: the index is smaller than the set is large.
    (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

fn pin(index: usize) {
    let cores = cores();
    // SAFETY: any bits are a set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cores` has numbers that fit in a set.
    unsafe { libc::CPU_SET(cores[index % cores.len()], &mut set) };
    // SAFETY: reads a set, and changes this thread's affinity only.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}

/// Nanoseconds of CLOCK_MONOTONIC, the same for all processes.
#[inline]
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Processor time of this process, or of this thread alone, in nanoseconds.
pub fn cpu_time(thread: bool) -> u64 {
    let who = if thread { libc::RUSAGE_THREAD } else { libc::RUSAGE_SELF };
    // SAFETY: any bits are a usage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is ours to write.
    unsafe { libc::getrusage(who, &raw mut usage) };
    let nanos = |t: libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1_000;
    nanos(usage.ru_utime) + nanos(usage.ru_stime)
}

#[cfg(test)]
mod tests;
