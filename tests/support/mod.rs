//! What the tests with real processes share. Each test program uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod fifo;
mod ledger;
mod raw;
mod watchdog;

use std::io;
use std::ops::Deref;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use gimmal::process::{Child, Process};
use gimmal::{Error, Pod, Segment, SegmentOptions, Value};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

pub use ledger::{Account, Ledger, ReceiverPage, SenderPage};
pub use raw::{Claim, Slots};
pub use watchdog::Watchdog;

/// Far more than any step of any test takes: one that runs into it hangs, and fails.
pub const LONG: Duration = Duration::from_secs(60);

/// Arguments that make a test program run its test `child`, which calls `gimmal::process::init`.
pub const CHILD: [&str; 4] = ["child", "--exact", "--nocapture", "--"];

/// Starts `entry` of this test program, with nothing on its stdout; it is killed when the `Child` is dropped.
pub fn process(entry: &str) -> Process {
    Process::new(entry).leading_args(CHILD).stdout(Stdio::null()).kill_on_drop(true)
}

/// The first line of every entry: a process does not survive the test that started it.
pub fn die_with_parent() {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("prctl");
    // A parent that ended before the call above sends nothing any more.
    assert_ne!(std::os::unix::process::parent_id(), 1, "the test ended before this process began");
}

/// A named segment of this test's own, whose name is removed at the end however the test ends.
pub struct Scratch {
    segment: Segment,
}

impl Scratch {
    pub fn new(case: &str, options: SegmentOptions) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let segment = options.create(&format!("t-{case}-{}-{count}", std::process::id())).expect("a scratch segment");
        Self { segment }
    }

    /// One with a megabyte.
    pub fn small(case: &str) -> Self {
        Self::new(case, Segment::options())
    }
}

impl Deref for Scratch {
    type Target = Segment;
    fn deref(&self) -> &Segment {
        &self.segment
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(name) = self.segment.name() {
            let _ = Segment::options().directory(self.segment.directory()).unlink(name);
        }
    }
}

/// Waits for the end of a process that must end well, and soon.
#[track_caller]
pub fn join_well(child: &mut Child) {
    let status = join(child);
    assert!(status.success(), "{} ended with {status}", child.name());
}

/// Waits for the end of a process that must end soon.
#[track_caller]
pub fn join(child: &mut Child) -> ExitStatus {
    match child.join_timeout(LONG).expect("wait for a process") {
        Some(status) => status,
        None => panic!("{} hangs", child.name()),
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.pid() as i32)
}

/// Stops a process wherever it is and returns when it stands still; `false` if it had ended.
pub fn stop(child: &Child) -> bool {
    kill(pid(child), Signal::SIGSTOP).expect("SIGSTOP");
    // WNOWAIT: the status stays for whoever reaps the process.
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    loop {
        match waitid(Id::Pid(pid(child)), flags) {
            Ok(WaitStatus::Stopped(..)) => return true,
            Ok(_) => return false,
            Err(Errno::EINTR) => {}
            Err(e) => panic!("waitid: {e}"),
        }
    }
}

/// Lets a stopped process go on.
pub fn resume(child: &Child) {
    kill(pid(child), Signal::SIGCONT).expect("SIGCONT");
}

/// Kills a process and waits until it is gone; `false` if it had ended by itself.
pub fn kill_and_reap(child: &mut Child) -> bool {
    use std::os::unix::process::ExitStatusExt;
    child.kill().expect("SIGKILL");
    child.join().expect("reap").signal() == Some(Signal::SIGKILL as i32)
}

/// Whether every thread of a process sleeps in the kernel, as far as /proc tells.
pub fn is_asleep(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let mut states = tasks.flatten().map(|task| state_of(&task.path().join("stat")));
    states.all(|state| state == Some('S'))
}

/// The letter behind the name, which may itself contain spaces and parentheses.
fn state_of(stat: &std::path::Path) -> Option<char> {
    let text = std::fs::read_to_string(stat).ok()?;
    text[text.rfind(')')? + 1..].trim_start().chars().next()
}

/// The state of a thread of this process, as `ps` shows it.
pub fn state_of_thread(id: i32) -> Option<char> {
    state_of(std::path::Path::new(&format!("/proc/self/task/{id}/stat")))
}

/// Says that this process has come to the point, in the segment's counter `ready`.
pub fn say_ready(segment: &Segment) -> Result<(), Error> {
    let ready = Value::<u32>::open(segment, "ready")?;
    ready.fetch_add(1, Ordering::Release);
    ready.notify_all();
    Ok(())
}

/// Waits until that many have.
#[track_caller]
pub fn until_ready(segment: &Segment, count: u32) {
    let ready = Value::<u32>::open(segment, "ready").unwrap();
    let waited = ready.wait_while_timeout(LONG, |ready| ready < count);
    assert!(waited.is_ok(), "only {} of {count} come to the point", ready.load(Ordering::Relaxed));
}

/// Waits until a process has gone to sleep. What it waits for must be sure to come, else this is a hang.
#[track_caller]
pub fn until_asleep(child: &mut Child) {
    let start = std::time::Instant::now();
    // Once is not enough: on its way through start-up a process sleeps for moments. The futex it means to sleep on is
    // the one it stays on.
    let mut looks = 0;
    while looks < 20 {
        looks = if is_asleep(child.pid()) { looks + 1 } else { 0 };
        assert!(child.is_alive(), "{} ended instead of going to sleep", child.name());
        assert!(start.elapsed() < LONG, "{} does not go to sleep", child.name());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `condition` holds, without taking the processor from whoever is to make it hold.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "waited in vain: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Confines this process to one of the processors it may use, chosen by `index`; does nothing where that is not allowed.
pub fn pin(index: usize) {
    let this = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this) else { return };
    let usable: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true)).collect();
    let mut one = CpuSet::new();
    if !usable.is_empty() && one.set(usable[index % usable.len()]).is_ok() {
        let _ = sched_setaffinity(this, &one);
    }
}

/// A moment on a clock that all processes share. Everything this thread did before is visible to the others, and
/// nothing that follows has begun.
pub fn stamp() -> u64 {
    // A store still in the store buffer has not happened for anybody else: the moment must be after it left.
    fence(Ordering::SeqCst);
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__rdtscp, _mm_lfence};
        let mut processor = 0;
        // SAFETY: every x86-64 has SSE2.
        unsafe { _mm_lfence() };
        // SAFETY: the processor writes the one word given to it.
        let now = unsafe { __rdtscp(&mut processor) };
        // SAFETY: as above.
        unsafe { _mm_lfence() };
        now
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("clock");
        fence(Ordering::SeqCst);
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    }
}

/// Spins for about `steps` of the processor's pauses: finer than any sleep.
pub fn spin(steps: u64) {
    for _ in 0..steps {
        std::hint::spin_loop();
    }
}

/// SplitMix64: cheap and reproducible, nothing more.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// From `GIMMAL_SEED` if that is set, else another one each time; printed, which a failing test shows.
    pub fn announced(case: &str) -> Self {
        let given = std::env::var("GIMMAL_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| stamp() ^ u64::from(std::process::id()) << 40);
        println!("{case}: GIMMAL_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Spins for a random while, short ones being as likely as long ones: nanoseconds to some microseconds.
    pub fn spin(&mut self) {
        let magnitude = self.below(10);
        spin(self.below(1 << magnitude));
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A message that shows by itself whether it is whole.
pub trait Message: Pod + Send + Sync {
    fn make(value: u64) -> Self;
    /// The value it was made from.
    fn value(&self) -> u64;
    /// What is wrong with it if it is torn.
    fn check(&self) -> Result<(), String>;
}

impl Message for u64 {
    fn make(value: u64) -> Self {
        value
    }
    fn value(&self) -> u64 {
        *self
    }
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A cache line and a bit.
pub type Medium = [u64; 10];
/// 32 KiB: copying it takes long enough for a kill to fall into.
pub type Huge = [u64; 4096];

/// Every word is the value, and no two messages share a word. Cheap: the copies are what should take the time.
macro_rules! arrays {
    ($($n:literal),+) => {$(
        impl Message for [u64; $n] {
            fn make(value: u64) -> Self {
                [value; $n]
            }
            fn value(&self) -> u64 {
                self[0]
            }
            fn check(&self) -> Result<(), String> {
                if self[1..] == self[..$n - 1] {
                    return Ok(());
                }
                let index = self.iter().position(|&word| word != self[0]).expect("a difference");
                Err(format!("torn: begins with {:#x}, word {index} is {:#x}", self[0], self[index]))
            }
        }
    )+};
}

arrays!(10, 4096);

/// An error of a child, as a string with its place.
pub fn failed(what: impl Into<String>) -> Box<dyn std::error::Error + Send + Sync> {
    io::Error::other(what.into()).into()
}

/// Asserts that a segment is left as it should be: nobody else in it, alive or dead.
#[track_caller]
pub fn assert_alone(segment: &Segment) -> Result<(), Error> {
    let participants = segment.snapshot()?.participants;
    assert!(participants.iter().all(|p| p.pid == std::process::id()), "still there: {participants:?}");
    Ok(())
}
