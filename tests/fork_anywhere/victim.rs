//! The process in the middle of whose operation there is a fork.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::table::{self, Operation};

/// For how many seconds a child may go without having come to its end: it hangs.
const HANGS: u32 = 20;

/// What all processes of one operation see.
#[repr(C)]
pub struct Board {
    /// The process, and its thread that is stepped, once it may be.
    pub process: AtomicU32,
    pub thread: AtomicU32,
    /// What the other thread is doing: one of the values below.
    pub phase: AtomicU32,
    /// The row of the table that the last child has begun.
    pub row: AtomicU32,
    /// Children that have used what they had inherited.
    pub inherited: AtomicU32,
}

pub const IDLE: u32 = 0;
pub const FORKING: u32 = 1;
pub const FORKED: u32 = 2;

impl Board {
    pub fn new() -> &'static Self {
        let length = size_of::<Self>().try_into().expect("not 0");
        // SAFETY: a new mapping at an address that the kernel chooses.
        let place =
            unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED) };
        let place: NonNull<Self> = place.expect("a page").cast();
        // SAFETY: it stays mapped, and zeros are a board.
        unsafe { place.as_ref() }
    }
}

/// Ends the process, without destructors.
fn exit_now(code: i32) -> ! {
    // SAFETY: as the name says.
    unsafe { libc::_exit(code) }
}

/// Runs the victim, which never returns: forks for each byte that comes, and answers with how the child ended.
pub fn run(operation: &Operation, board: &'static Board, orders: OwnedFd, answers: OwnedFd) -> ! {
    let (mut stage, act) = (operation.ready)();
    let test = nix::unistd::getppid();
    if operation.forked {
        // SAFETY: the child uses the C library and gimmal only.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { .. } => exit_now(0),
            // The test adopts it, and may trace it then.
            ForkResult::Child => {
                while nix::unistd::getppid() != test {
                    std::thread::yield_now();
                }
            }
        }
    }
    // A victim does not outlive the test.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    board.process.store(std::process::id(), Release);
    std::thread::spawn(move || {
        if ptrace::traceme().is_err() {
            exit_now(77);
        }
        board.thread.store(nix::unistd::gettid().as_raw() as u32, Release);
        raise(Signal::SIGSTOP).expect("stop");
        if catch_unwind(AssertUnwindSafe(act)).is_err() {
            exit_now(101);
        }
        raise(Signal::SIGSTOP).expect("stop");
    });
    let (mut orders, mut answers) = (File::from(orders), File::from(answers));
    while orders.read(&mut [0]).is_ok_and(|count| count == 1) {
        board.phase.store(FORKING, Release);
        // SAFETY: the child uses the C library, whose locks are free in a child, and gimmal, which is the point.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                nix::unistd::alarm::set(HANGS);
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                let used = table::go_through(&mut stage, |row| board.row.store(row, Release));
                board.inherited.fetch_add(u32::from(used), Release);
                exit_now(0);
            }
            ForkResult::Parent { child } => {
                board.phase.store(FORKED, Release);
                let ended = how_it_ended(child);
                board.phase.store(IDLE, Release);
                answers.write_all(&[ended]).expect("answer");
            }
        }
    }
    exit_now(0);
}

/// 0 if it is well, its exit code, or the signal and 128.
fn how_it_ended(child: Pid) -> u8 {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return code as u8,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as u8,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => panic!("waitpid: {e}"),
        }
    }
}

/// A process or thread of the board.
pub fn known(id: &AtomicU32) -> Option<Pid> {
    match id.load(Acquire) {
        0 => None,
        id => Some(Pid::from_raw(id as i32)),
    }
}
