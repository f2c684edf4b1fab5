//! Steps one thread of a victim through an operation and has the other thread fork in between.

use std::collections::HashMap;
use std::fs::{File, read_to_string};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::{Acquire, Release};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe};

use super::table::{Operation, ROWS};
use super::victim::{self, Board, FORKING, known};

/// More steps than any operation takes: it does not end.
const ENDLESS: usize = 3_000_000;
/// Forks at one atomic instruction in an operation (all locks may have the same one), and after system calls of one sort.
const AT_ONE_PLACE: u32 = 3;
const OF_ONE_SORT: u32 = 3;
/// Milliseconds that a fork may take before we see whether it waits for the stepped thread.
const PATIENCE: u8 = 2;
/// How often we see that it does neither wait in the kernel nor come to an end, before we take it for a thread that spins.
const SPINS: u32 = 10;
/// Steps that it is let go for then.
const AT_ONCE: usize = 100;

pub struct Tally {
    pub steps: usize,
    pub forks: usize,
    pub inherited: u32,
}

#[derive(Debug)]
pub enum Failed {
    NotPermitted,
    Other(String),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self::Other(format!("the victim could not be traced: {errno}"))
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Other(format!("the victim has ended: {error}"))
    }
}

/// What the instruction at an address does, as far as we ask.
#[derive(Clone, Copy, PartialEq)]
enum Sort {
    Atomic,
    SystemCall,
    Other,
}

/// How often calls of libraries have come back to each place, in all operations together.
#[derive(Default)]
pub struct Seen(HashMap<u64, u32>);

/// Whether this has not been there more often than that.
fn is_new(counts: &mut HashMap<u64, u32>, key: u64, most: u32) -> bool {
    let count = counts.entry(key).or_insert(0);
    *count += 1;
    *count <= most
}

struct Stepper {
    victim: Pid,
    thread: Pid,
    board: &'static Board,
    orders: File,
    answers: File,
    /// This program's code: where gimmal is.
    code: std::ops::Range<u64>,
    sorts: HashMap<u64, Sort>,
    steps: usize,
    forks: usize,
    over: bool,
}

/// Forks after each interesting step of the operation.
pub fn run(operation: &Operation, seen: &mut Seen) -> Result<Tally, Failed> {
    let board = Board::new();
    let ((orders_out, orders_in), (answers_out, answers_in)) = (pipe()?, pipe()?);
    // SAFETY: this process has one thread.
    let child = match unsafe { fork() }? {
        ForkResult::Child => {
            drop((orders_in, answers_out));
            victim::run(operation, board, orders_out, answers_in);
        }
        ForkResult::Parent { child } => child,
    };
    drop((orders_out, answers_in));
    if operation.forked {
        // Its child is the victim, which we adopt.
        waitpid(child, None)?;
    }
    let result = begin(board, File::from(orders_in), File::from(answers_out)).and_then(|mut stepper| {
        stepper.go(seen)?;
        let (steps, forks) = (stepper.steps, stepper.forks);
        Ok(Tally { steps, forks, inherited: board.inherited.load(Acquire) })
    });
    for process in [known(&board.process), Some(child)].into_iter().flatten() {
        let _ = kill(process, Signal::SIGKILL);
    }
    // Its thread, which is ours to reap, and children that were running.
    while waitpid(None, Some(WaitPidFlag::__WALL)).is_ok() {}
    result
}

fn begin(board: &'static Board, orders: File, answers: File) -> Result<Stepper, Failed> {
    let (victim, thread) = loop {
        if let (Some(victim), Some(thread)) = (known(&board.process), known(&board.thread)) {
            break (victim, thread);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::StillAlive => std::thread::yield_now(),
            WaitStatus::Exited(_, 77) => return Err(Failed::NotPermitted),
            other => return Err(Failed::Other(format!("the victim did not begin: {other:?}"))),
        }
    };
    match waitpid(thread, Some(WaitPidFlag::__WALL))? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
        other => return Err(Failed::Other(format!("the stepped thread did not stop: {other:?}"))),
    }
    let (sorts, code) = (HashMap::new(), own_code());
    Ok(Stepper { victim, thread, board, orders, answers, code, sorts, steps: 0, forks: 0, over: false })
}

impl Stepper {
    fn go(&mut self, seen: &mut Seen) -> Result<(), Failed> {
        let (mut atomics, mut calls) = (HashMap::new(), HashMap::new());
        // The last one of ours.
        let mut from = 0;
        while !self.over {
            let (at, number) = self.at()?;
            let sort = self.sort(at);
            let own = self.code.contains(&at);
            self.step()?;
            let (next, _) = self.at()?;
            let comes_back = !own && self.code.contains(&next);
            let interesting = match sort {
                Sort::SystemCall => is_new(&mut calls, number, OF_ONE_SORT),
                Sort::Atomic if own => is_new(&mut atomics, at, AT_ONE_PLACE),
                // The call of another library is over, for the first time from there.
                _ if comes_back => is_new(&mut seen.0, next, 1),
                _ => false,
            };
            if own {
                from = at;
            }
            if interesting && !self.over {
                self.fork(from)?;
            }
        }
        Ok(())
    }

    /// Where the thread is, and the number of the system call, if it is about to make one.
    fn at(&self) -> Result<(u64, u64), Failed> {
        registers(self.thread)
    }

    fn step(&mut self) -> Result<(), Failed> {
        self.steps += 1;
        if self.steps > ENDLESS {
            return Err(Failed::Other("the operation does not end".to_owned()));
        }
        ptrace::step(self.thread, None)?;
        match waitpid(self.thread, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Stopped(_, Signal::SIGSTOP) => self.over = true,
            other => return Err(Failed::Other(format!("the stepped thread has ended: {other:?}"))),
        }
        Ok(())
    }

    /// Has the other thread fork, and the child go through the table.
    fn fork(&mut self, from: u64) -> Result<(), Failed> {
        self.forks += 1;
        self.board.phase.store(FORKING, Release);
        self.orders.write_all(b"f")?;
        let (mut spins, before) = (0, self.steps);
        while !self.is_answered(PATIENCE)? {
            spins += u32::from(!self.waits_for_a_lock());
            // For the stepped thread, which is let go until it has given up what the fork waits for.
            let most = if spins < SPINS { usize::MAX } else { AT_ONCE };
            let until = self.steps.saturating_add(most);
            while self.board.phase.load(Acquire) == FORKING
                && !self.over
                && self.steps < until
                && (most == AT_ONCE || self.waits_for_a_lock())
            {
                self.step()?;
                spins = 0;
            }
        }
        let further = self.steps - before;
        let mut answer = [0];
        self.answers.read_exact(&mut answer)?;
        if answer == [0] {
            return Ok(());
        }
        let how = match answer[0] {
            142 => "hangs".to_owned(),
            signal @ 129.. => format!("died of signal {}", signal - 128),
            code => format!("failed with exit code {code}"),
        };
        let row = ROWS.get(self.board.row.load(Acquire) as usize).unwrap_or(&"?");
        let offset = from.wrapping_sub(self.code.start);
        Err(Failed::Other(format!(
            "a child forked after {} steps (the other thread at {offset:#x}, or {further} steps behind) {how} in: {row}",
            self.steps
        )))
    }

    fn is_answered(&self, milliseconds: u8) -> Result<bool, Failed> {
        let mut answers = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut answers, PollTimeout::from(milliseconds))? > 0)
    }

    /// Whether the forking thread sleeps in a futex.
    fn waits_for_a_lock(&self) -> bool {
        let call = read_to_string(format!("/proc/{0}/task/{0}/syscall", self.victim)).unwrap_or_default();
        call.split(' ').next() == Some(&nix::libc::SYS_futex.to_string())
    }

    fn sort(&mut self, at: u64) -> Sort {
        let thread = self.thread;
        *self.sorts.entry(at).or_insert_with(|| sort_at(thread, at))
    }
}

/// Where this program's code lies; its children have it at the same place.
fn own_code() -> std::ops::Range<u64> {
    let program = std::fs::read_link("/proc/self/exe").expect("this program");
    let maps = read_to_string("/proc/self/maps").expect("this process's memory");
    let line = maps.lines().find(|line| line.contains(" r-xp ") && line.ends_with(program.to_str().expect("a path")));
    let range = line.and_then(|line| line.split(' ').next()?.split_once('-')).expect("its code");
    let number = |text| u64::from_str_radix(text, 16).expect("an address");
    number(range.0)..number(range.1)
}

#[cfg(target_arch = "x86_64")]
fn registers(thread: Pid) -> Result<(u64, u64), Failed> {
    let registers = ptrace::getregs(thread)?;
    Ok((registers.rip, registers.rax))
}

#[cfg(target_arch = "aarch64")]
fn registers(thread: Pid) -> Result<(u64, u64), Failed> {
    let registers = ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(thread)?;
    Ok((registers.pc, registers.regs[8]))
}

fn bytes_at(thread: Pid, at: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (offset, part) in bytes.chunks_exact_mut(8).enumerate() {
        let place = (at + 8 * offset as u64) as ptrace::AddressType;
        // Behind the last page of a mapping there is nothing to see, and no instruction.
        part.copy_from_slice(&ptrace::read(thread, place).unwrap_or(0).to_ne_bytes());
    }
    bytes
}

/// By its prefixes and first byte: `lock`, `xchg` with memory, `syscall`.
#[cfg(target_arch = "x86_64")]
fn sort_at(thread: Pid, at: u64) -> Sort {
    let bytes = bytes_at(thread, at);
    let is_prefix = |byte: &u8| matches!(byte, 0x40..=0x4f | 0x66 | 0xf0 | 0xf2 | 0xf3 | 0x2e | 0x3e | 0x64 | 0x65);
    let first = bytes.iter().position(|byte| !is_prefix(byte)).unwrap_or(0);
    match bytes[first..] {
        _ if bytes[..first].contains(&0xf0) => Sort::Atomic,
        [0x86 | 0x87, operands, ..] if operands >> 6 != 3 => Sort::Atomic,
        [0x0f, 0x05, ..] => Sort::SystemCall,
        _ => Sort::Other,
    }
}

/// The atomic instructions of ARMv8.1; the exclusive pairs before that cannot be stepped through.
#[cfg(target_arch = "aarch64")]
fn sort_at(thread: Pid, at: u64) -> Sort {
    let [a, b, c, d, ..] = bytes_at(thread, at);
    match u32::from_le_bytes([a, b, c, d]) {
        0xd400_0001 => Sort::SystemCall,
        word if word & 0x3f20_0c00 == 0x3820_0000 || word & 0x3fa0_7c00 == 0x08a0_7c00 => Sort::Atomic,
        _ => Sort::Other,
    }
}
