//! A victim: a forked process that is single-stepped through one operation and killed in the middle of it.

use std::fmt;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::memory::Memory;
use super::scene::{LONG, state, until};
use super::watch;

/// Exit code of a victim that may not be traced.
const NOT_PERMITTED: i32 = 77;
/// More steps than any operation takes: it does not end.
const ENDLESS: usize = 5_000_000;
/// Instructions after each system call that a sparse recording steps through.
const WINDOW: usize = 400;
/// Steps that are cheaper than a breakpoint.
const FEW: usize = 32;

/// Whether the processor's breakpoints can be set; without them every step is a single one.
static BREAKPOINTS: AtomicBool = AtomicBool::new(cfg!(target_arch = "x86_64"));

/// A process between its two markers.
pub struct Victim {
    pid: Pid,
    at_end: bool,
    reaped: bool,
}

/// Why there is no victim.
#[derive(Debug)]
pub enum Failed {
    NotPermitted,
    Other(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted => f.write_str("this process may not trace its children (ptrace: EPERM)"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self::Other(format!("the victim could not be traced: {errno}"))
    }
}

impl Victim {
    /// Forks. The child calls `ready`, stops, and performs what that returned when it is let go, once; then it stops again.
    pub fn start<'a>(ready: impl FnOnce() -> Box<dyn FnOnce() + 'a>) -> Result<Self, Failed> {
        // SAFETY: the child uses the C library's allocator, which is fork-safe, and no lock of this program's other threads.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let ended = catch_unwind(AssertUnwindSafe(|| perform(ready)));
                exit_now(if ended.is_ok() { 0 } else { 101 });
            }
            ForkResult::Parent { child } => {
                let mut victim = Self { pid: child, at_end: false, reaped: false };
                match waitpid(child, None)? {
                    WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
                    WaitStatus::Exited(_, code) => {
                        victim.reaped = true;
                        let other = || Failed::Other(format!("the victim's set-up failed with exit code {code}"));
                        return Err(if code == NOT_PERMITTED { Failed::NotPermitted } else { other() });
                    }
                    status => return Err(Failed::Other(format!("the victim did not reach its marker: {status:?}"))),
                }
                ptrace::setoptions(child, ptrace::Options::PTRACE_O_EXITKILL)?;
                Ok(victim)
            }
        }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has performed the whole operation.
    pub fn at_end(&self) -> bool {
        self.at_end
    }

    /// Executes one instruction; `false` if that was the end.
    pub fn step(&mut self) -> Result<bool, String> {
        ptrace::step(self.pid, None).map_err(|e| format!("a step of the victim: {e}"))?;
        self.wait()
    }

    /// Executes at most `steps` instructions.
    pub fn steps(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            if self.at_end || !self.step()? {
                break;
            }
        }
        Ok(())
    }

    /// Lets it run to the end.
    pub fn finish(&mut self) -> Result<(), String> {
        while !self.at_end {
            ptrace::cont(self.pid, None).map_err(|e| format!("the victim does not go on: {e}"))?;
            self.wait()?;
        }
        Ok(())
    }

    /// Lets it run until it sleeps, or has ended, and then for some milliseconds more.
    pub fn sleep(&mut self, milliseconds: u64) -> Result<(), String> {
        ptrace::cont(self.pid, None).map_err(|e| format!("the victim does not go on: {e}"))?;
        self.until_asleep()?;
        std::thread::sleep(Duration::from_millis(milliseconds));
        Ok(())
    }

    fn until_asleep(&self) -> Result<(), String> {
        // A process that waits for a moment on its way looks asleep, too; not three times.
        let mut looks = 0;
        until("the victim sleeps", LONG, || {
            let state = state(&self.pid.to_string());
            looks = if state == Some('S') { looks + 1 } else { 0 };
            looks >= 3 || state == Some('t')
        })
    }

    /// Lets it run into the kernel to sleep on a futex; [`Victim::wake_up`] must follow when somebody has woken it.
    #[cfg(target_arch = "x86_64")]
    pub fn fall_asleep(&mut self) -> Result<(), String> {
        loop {
            ptrace::syscall(self.pid, None).map_err(|e| format!("the victim does not go on: {e}"))?;
            if !self.wait()? {
                return Err("the victim has ended instead of falling asleep".to_owned());
            }
            let registers = ptrace::getregs(self.pid).map_err(|e| format!("the victim's registers: {e}"))?;
            let entering = registers.rax as i64 == -i64::from(libc::ENOSYS);
            let waits = registers.rsi as libc::c_int & 0x7f == libc::FUTEX_WAIT_BITSET;
            if entering && waits && registers.orig_rax as libc::c_long == libc::SYS_futex {
                break;
            }
        }
        ptrace::step(self.pid, None).map_err(|e| format!("a step of the victim: {e}"))?;
        self.until_asleep()
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn fall_asleep(&mut self) -> Result<(), String> {
        Err("not known how, on this processor".to_owned())
    }

    /// Waits until it has come back from its sleep.
    pub fn wake_up(&mut self) -> Result<(), String> {
        self.wait().map(|_| ())
    }

    fn wait(&mut self) -> Result<bool, String> {
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => return Ok(true),
                Ok(WaitStatus::Stopped(_, Signal::SIGSTOP)) => {
                    self.at_end = true;
                    return Ok(false);
                }
                Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => {
                    self.reaped = true;
                    return Err(format!("the victim ended by itself: {status:?}"));
                }
                Ok(status) => return Err(format!("the victim stopped for another reason: {status:?}")),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(format!("waiting for the victim: {e}")),
            }
        }
    }

    /// The address of its next instruction; 0 where that cannot be told.
    pub fn place(&self) -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            let offset = offset_of!(libc::user, regs) + offset_of!(libc::user_regs_struct, rip);
            ptrace::read_user(self.pid, offset as *mut _).map_or(0, |place| place as u64)
        }
        #[cfg(not(target_arch = "x86_64"))]
        0
    }

    /// Runs until the next instruction is the one at `place`, or to the end.
    fn run_to(&mut self, place: u64) -> Result<(), String> {
        self.breakpoint(place, true).map_err(|e| format!("a breakpoint: {e}"))?;
        ptrace::cont(self.pid, None).map_err(|e| format!("the victim does not go on: {e}"))?;
        self.wait()?;
        self.breakpoint(place, false).map_err(|e| format!("a breakpoint: {e}"))
    }

    /// Debug registers, not a changed instruction: other threads of the victim may run through the same code.
    #[cfg(target_arch = "x86_64")]
    fn breakpoint(&self, place: u64, on: bool) -> nix::Result<()> {
        let register = |n: usize| (offset_of!(libc::user, u_debugreg) + n * 8) as *mut libc::c_void;
        ptrace::write_user(self.pid, register(0), place as libc::c_long)?;
        ptrace::write_user(self.pid, register(7), libc::c_long::from(on))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn breakpoint(&self, _: u64, _: bool) -> nix::Result<()> {
        Err(Errno::ENOSYS)
    }

    /// Runs until it has made one more system call; `between` is called when it is about to.
    fn call(&mut self, mut between: impl FnMut()) -> Result<(), String> {
        for enters in [true, false] {
            ptrace::syscall(self.pid, None).map_err(|e| format!("the victim does not go on: {e}"))?;
            if !self.wait()? {
                break;
            }
            if enters {
                between();
            }
        }
        Ok(())
    }

    /// Goes to where it has executed `steps` instructions of what `recording` shows, or to the end if it went another way;
    /// `true` if it is where it should be.
    pub fn advance(&mut self, recording: &Recording, steps: usize) -> Result<bool, String> {
        let steps = steps.min(recording.length());
        if let Some(&(calls, further)) = recording.sparse.get(steps) {
            for _ in 0..calls {
                if !self.at_end {
                    self.call(|| ())?;
                }
            }
            self.steps(further)?;
            return Ok(self.is_at(recording, steps));
        }
        let anchor = if BREAKPOINTS.load(Relaxed) { recording.anchor(steps) } else { 0 };
        if anchor > FEW {
            self.run_to(recording.places[anchor])?;
            self.steps(steps - anchor)?;
        } else {
            self.steps(steps)?;
        }
        if steps == recording.length() && !self.at_end {
            self.finish()?;
        }
        Ok(self.is_at(recording, steps))
    }

    fn is_at(&self, recording: &Recording, steps: usize) -> bool {
        self.at_end == (steps == recording.length()) && (self.at_end || self.place() == recording.places[steps])
    }

    /// Kills it and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.reaped, true) {
            return;
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => break,
                Err(e) if e != Errno::EINTR => break,
                _ => {}
            }
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.end();
    }
}

fn perform<'a>(ready: impl FnOnce() -> Box<dyn FnOnce() + 'a>) {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("prctl");
    if ptrace::traceme().is_err() {
        exit_now(NOT_PERMITTED);
    }
    let operation = ready();
    raise(Signal::SIGSTOP).expect("the first marker");
    operation();
    raise(Signal::SIGSTOP).expect("the second marker");
}

/// Ends a forked process as a kill would.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process, without destructors.
    unsafe { libc::_exit(code) }
}

/// One way through an operation.
#[derive(Default)]
pub struct Recording {
    /// The instruction that follows after each number of steps.
    places: Vec<u64>,
    /// For each number of steps, the largest one up to it whose instruction occurs only once.
    anchors: Vec<usize>,
    /// The shared bytes at the start, and whenever they had changed, with the number of steps after which they had.
    pub states: Vec<(usize, Vec<u8>)>,
    /// Numbers of steps after which a system call follows, be it after instructions that a sparse recording leaves out.
    pub calls: Vec<usize>,
    /// If not every instruction was stepped through, for each number of steps: system calls, and instructions after them.
    sparse: Vec<(usize, usize)>,
}

impl Recording {
    /// Steps `victim` through the whole operation, or, if it is to be `sparse`, through some instructions after each system
    /// call.
    pub fn make(victim: &mut Victim, memory: Option<&Memory>, sparse: bool) -> Result<Self, String> {
        let mut recording = Self::default();
        let look = |states: &mut Vec<(usize, Vec<u8>)>, steps| {
            let Some(now) = memory.map(Memory::bytes) else { return };
            if states.last().is_none_or(|(_, last)| last != now) {
                states.push((steps, now.to_vec()));
            }
        };
        let (mut calls, mut further) = (0, 0);
        loop {
            let steps = recording.places.len();
            look(&mut recording.states, steps);
            let place = victim.place();
            recording.places.push(place);
            if sparse {
                recording.sparse.push((calls, further));
            }
            if steps.is_multiple_of(1000) {
                watch::beat();
            }
            if steps > ENDLESS {
                return Err(format!("the operation has not ended after {ENDLESS} instructions"));
            }
            if victim.at_end {
                break;
            }
            let is_call = is_system_call(place);
            let skips = sparse && further >= WINDOW;
            if is_call || skips {
                recording.calls.push(steps);
            }
            if skips {
                victim.call(|| look(&mut recording.states, steps + 1))?;
                (calls, further) = (calls + 1, 0);
            } else {
                victim.step()?;
                (calls, further) = if is_call { (calls + 1, 0) } else { (calls, further + 1) };
            }
        }
        recording.find_anchors();
        Ok(recording)
    }

    /// Steps from the first marker to the second.
    pub fn length(&self) -> usize {
        self.places.len() - 1
    }

    fn anchor(&self, steps: usize) -> usize {
        self.anchors[steps]
    }

    fn find_anchors(&mut self) {
        let mut times = std::collections::HashMap::new();
        self.places.iter().for_each(|&place| *times.entry(place).or_insert(0) += 1);
        let mut last = 0;
        let anchors = self.places.iter().enumerate().map(|(n, place)| {
            if times[place] == 1 && n + 1 < self.places.len() {
                last = n;
            }
            last
        });
        self.anchors = anchors.collect();
    }
}

/// Victims are forks of this process, so that their code is at the same place here.
#[cfg(target_arch = "x86_64")]
fn is_system_call(place: u64) -> bool {
    if place == 0 {
        return false;
    }
    // SAFETY: the victim was about to execute an instruction here, and its code is this process's.
    let bytes = unsafe { ptr::with_exposed_provenance::<[u8; 2]>(place as usize).read_unaligned() };
    bytes == [0x0f, 0x05]
}

#[cfg(not(target_arch = "x86_64"))]
fn is_system_call(_: u64) -> bool {
    false
}

/// Whether processes can be traced here, and whether breakpoints work.
pub fn probe() -> Result<(), Failed> {
    let counter = std::sync::atomic::AtomicU64::new(0);
    let counter = std::hint::black_box(&counter);
    let ready = || -> Box<dyn FnOnce()> {
        Box::new(move || {
            for _ in 0..FEW {
                counter.fetch_add(1, Relaxed);
            }
        })
    };
    let recording = Recording::make(&mut Victim::start(ready)?, None, false).map_err(Failed::Other)?;
    let mut victim = Victim::start(ready)?;
    let there = victim.advance(&recording, recording.anchor(recording.length() - 1));
    if there != Ok(true) && BREAKPOINTS.swap(false, Relaxed) {
        println!("no breakpoints here ({there:?}): every step is a single one");
    }
    Ok(())
}
