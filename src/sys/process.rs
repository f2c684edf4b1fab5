//! What starting and watching child processes needs from the system beyond `std::process`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, pipe2};

/// Leaves `fd` open, under its number, in what `command` starts, and in nothing else: the flag is cleared after
/// the fork, so that a program which another thread starts meanwhile does not get the descriptor.
pub(crate) fn leave_open(command: &mut Command, fd: OwnedFd) {
    let clear_cloexec = move || {
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one async-signal-safe system call on a descriptor that it
    // owns; it allocates nothing, takes no lock, and makes its error from a bare errno.
    unsafe { command.pre_exec(clear_cloexec) };
}

/// Sets the close-on-exec flag of descriptor number `fd`; a number that is not open is an error.
pub(crate) fn set_cloexec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes an int and reads or writes no memory of ours; it closes nothing.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    Errno::result(result)?;
    Ok(())
}

/// A descriptor that becomes readable when the process `pid` has exited. Only a child that has not been reaped is
/// sure to be the process that is meant. Linux before 5.3 has none.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes a process id and flags, both by value, and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0u32) };
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec), and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The inherited descriptor of a process with this number, closed on exec from now on.
pub(crate) fn inherited_pidfd(number: RawFd) -> io::Result<OwnedFd> {
    // What is open under this number, the kernel knows.
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    if !about.lines().any(|line| line.starts_with("Pid:")) {
        return Err(io::Error::other("the descriptor that was handed over is not of a process"));
    }
    set_cloexec(number)?;
    // SAFETY: the descriptor is open, was left open for this process by its parent, and is taken over once, by `init`.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A pipe: where to read, and where to write. Neither end ever waits.
pub(crate) fn report_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?)
}

/// The inherited end of a pipe with this number, closed on exec from now on.
pub(crate) fn inherited_pipe(number: RawFd) -> io::Result<OwnedFd> {
    let target = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
    if !target.to_string_lossy().starts_with("pipe:") {
        return Err(io::Error::other("the descriptor that was handed over is not a pipe"));
    }
    set_cloexec(number)?;
    // SAFETY: the descriptor is open, was left open for this process by its parent, and is taken over once, by `init`.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sleeps until some of these are readable, or at their end, and says which.
pub(crate) fn wait_any_readable(fds: &[BorrowedFd<'_>]) -> Vec<bool> {
    let mut fds: Vec<PollFd<'_>> = fds.iter().map(|&fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    while !matches!(poll(&mut fds, PollTimeout::NONE), Ok(1..)) {}
    fds.iter().map(|fd| fd.any().unwrap_or(true)).collect()
}

/// Sleeps until the process has ended of which this is the descriptor.
pub(crate) fn wait_for_end(process: &OwnedFd) {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    // Interrupted, or short of memory: once more.
    while !matches!(poll(&mut fds, PollTimeout::NONE), Ok(1..)) {}
}

/// Whether the child of which this is the descriptor has ended with exit code 0; `false` if somebody has reaped it.
pub(crate) fn has_ended_well(process: &OwnedFd) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    matches!(waitid(Id::PIDFd(process.as_fd()), look), Ok(WaitStatus::Exited(_, 0)))
}

/// Ends this process at once, whatever its threads do.
pub(crate) fn kill_this_process() {
    // Cannot fail: a process may signal itself.
    let _ = kill(Pid::this(), Signal::SIGKILL);
}

/// Removes a variable from the environment of this process, and of what it will start.
pub(crate) fn forget_variable(name: &str) {
    // SAFETY: `init` calls this at the start of `main`, as its documentation demands. Rust code that reads the environment in
    // another thread even so, such as a test harness, holds the standard library's lock, as this call does.
    unsafe { std::env::remove_var(name) };
}

/// Sleeps until `fd` is readable, `timeout` is over, or a signal came; the caller looks which.
pub(crate) fn wait_readable(fd: &OwnedFd, timeout: Duration) -> io::Result<()> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends SIGTERM. The caller makes sure that `pid` is a child of this process and has not been reaped.
pub(crate) fn terminate(pid: u32) -> io::Result<()> {
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM)?;
    Ok(())
}
