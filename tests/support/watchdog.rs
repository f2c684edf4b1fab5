//! The end of a test that has come to a halt.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gimmal::Segment;
use gimmal::process::Child;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// For how long nothing may happen.
const STILL: Duration = Duration::from_secs(60);
/// How long the test gets to fail by itself after its processes were killed.
const GRACE: Duration = Duration::from_secs(10);

/// Watches for progress. After a minute without any it prints all it knows and kills the test's processes, so that
/// whoever waits for one of them goes on, finds [`Watchdog::check`] and fails; if nobody does, it aborts.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    ticks: AtomicU64,
    barked: AtomicBool,
    over: Mutex<bool>,
    bell: Condvar,
    /// Process ids that are this test's to kill: started and not reaped.
    pack: Mutex<Vec<u32>>,
    segments: Vec<Segment>,
    case: String,
    more: Box<dyn Fn() -> String + Send + Sync>,
}

impl Watchdog {
    /// `more` adds to what is printed; the segments' names are removed before an abort.
    pub fn new(case: &str, segments: &[&Segment], more: impl Fn() -> String + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            ticks: AtomicU64::new(0),
            barked: AtomicBool::new(false),
            over: Mutex::new(false),
            bell: Condvar::new(),
            pack: Mutex::new(Vec::new()),
            segments: segments.iter().map(|&segment| segment.clone()).collect(),
            case: case.to_owned(),
            more: Box::new(more),
        });
        let watch = Arc::clone(&shared);
        Self { shared, thread: Some(std::thread::spawn(move || watch.watch())) }
    }

    /// Something has happened.
    pub fn tick(&self) {
        self.shared.ticks.fetch_add(1, Ordering::Relaxed);
    }

    pub fn enlist(&self, child: &Child) {
        lock(&self.shared.pack).push(child.pid());
    }

    /// Reaps a process: no signal may go to its id afterwards.
    pub fn discharge<R>(&self, child: &mut Child, reap: impl FnOnce(&mut Child) -> R) -> R {
        let mut pack = lock(&self.shared.pack);
        let result = reap(child);
        pack.retain(|&pid| pid != child.pid());
        result
    }

    /// As [`Watchdog::discharge`] if `reap` has reaped it, which is `Ok(Some(_))`.
    pub fn discharge_if<R, E>(
        &self,
        child: &mut Child,
        reap: impl FnOnce(&mut Child) -> Result<Option<R>, E>,
    ) -> Result<Option<R>, E> {
        let mut pack = lock(&self.shared.pack);
        let result = reap(child);
        if matches!(result, Ok(Some(_))) {
            pack.retain(|&pid| pid != child.pid());
        }
        result
    }

    /// Fails the test if it had come to a halt.
    pub fn check(&self) {
        assert!(!self.shared.barked.load(Ordering::Relaxed), "no progress for {STILL:?}: the dump is above");
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *lock(&self.shared.over) = true;
        self.shared.bell.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn watch(&self) {
        let (mut seen, mut since) = (u64::MAX, Instant::now());
        while !self.is_over(Duration::from_secs(1)) {
            let ticks = self.ticks.load(Ordering::Relaxed);
            if ticks != seen {
                (seen, since) = (ticks, Instant::now());
            } else if since.elapsed() >= STILL {
                return self.bark();
            }
        }
    }

    /// Whether the test has ended, after waiting for that for a while.
    fn is_over(&self, wait: Duration) -> bool {
        let over = lock(&self.over);
        *self.bell.wait_timeout_while(over, wait, |over| !*over).unwrap_or_else(PoisonError::into_inner).0
    }

    fn bark(&self) {
        // Not through the test harness, which would swallow it if the test aborts.
        let _ = std::io::stderr().write_all(self.dump().as_bytes());
        self.barked.store(true, Ordering::Relaxed);
        for &pid in lock(&self.pack).iter() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        if !self.is_over(GRACE) {
            for segment in &self.segments {
                if let Some(name) = segment.name() {
                    let _ = Segment::options().directory(segment.directory()).unlink(name);
                }
            }
            std::process::abort();
        }
    }

    fn dump(&self) -> String {
        let mut text = format!("\n=== {}: no progress for {STILL:?} ===\n{}\n", self.case, (self.more)());
        for segment in &self.segments {
            let _ = writeln!(text, "{:#?}", segment.snapshot());
        }
        for &pid in lock(&self.pack).iter() {
            let _ = writeln!(text, "process {pid}:");
            let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                for file in ["stat", "wchan", "syscall"] {
                    let content = std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
                    let _ = writeln!(text, "  {} {file}: {}", task.file_name().display(), content.trim_end());
                }
            }
        }
        text
    }
}
