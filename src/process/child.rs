//! A process that was started: waiting for it, asking after it, ending it.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use super::{expected, failed_to};
use crate::{Error, Segment, sys};

/// A process that [`Process::spawn`](super::Process::spawn) started.
///
/// Dropping it neither ends the process nor waits for it, unless
/// [`kill_on_drop`](super::Process::kill_on_drop) was asked for; a process that exits unwaited for stays a zombie
/// until its parent exits.
///
/// The methods may be called in any order and any number of times. The exit status is collected once and
/// remembered, and no signal is sent after that, when the process id may belong to another process.
#[derive(Debug)]
pub struct Child {
    pub(super) name: String,
    /// Remembers the status: after the process is reaped, it is never waited for again.
    pub(super) process: std::process::Child,
    /// Held until the process is seen to have exited: a segment must not go away before it was joined.
    pub(super) segments: Vec<Segment>,
    pub(super) kill_on_drop: bool,
}

impl Child {
    /// The process id. It is this process's own until its exit status was collected.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The name given by [`Process::name`](super::Process::name), or the entry's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the process has exited. Blocking; closes its stdin first, if that is a pipe that was not
    /// taken, so that a process which reads to the end comes to one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the status cannot be had, because this program ignores SIGCHLD or collects the status of
    /// all its children elsewhere.
    pub fn join(&mut self) -> Result<ExitStatus, Error> {
        let status = self.process.wait().map_err(failed_to("wait for a process"))?;
        self.has_ended(status);
        Ok(status)
    }

    /// Waits until the process has exited, for `timeout` at most; `None` if it still runs then. Unlike
    /// [`join`](Child::join), this leaves its stdin open.
    ///
    /// # Errors
    ///
    /// As for [`join`](Child::join).
    pub fn join_timeout(&mut self, timeout: Duration) -> Result<Option<ExitStatus>, Error> {
        // A deadline past the end of the clock never comes.
        let deadline = Instant::now().checked_add(timeout);
        let mut pidfd = None;
        loop {
            if let Some(status) = self.try_wait().map_err(failed_to("wait for a process"))? {
                return Ok(Some(status));
            }
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            // Opened only now, when it is known that the process was not reaped and the id is its own.
            match pidfd.get_or_insert_with(|| sys::process::pidfd_open(self.process.id()).ok()) {
                // An hour at a time: a Duration holds more seconds than the kernel takes.
                Some(fd) => sys::process::wait_readable(fd, left.min(Duration::from_secs(3600)))
                    .map_err(failed_to("wait for a process"))?,
                // Linux before 5.3, or a filter of system calls: no way to sleep until the exit and not longer.
                None => thread::sleep(left.min(Duration::from_millis(5))),
            }
        }
    }

    /// The exit code, or minus the number of the signal that killed the process; `None` while it runs (or if its
    /// status cannot be had, see [`join`](Child::join)).
    pub fn exit_code(&mut self) -> Option<i32> {
        let status = self.try_wait().ok()??;
        status.code().or_else(|| status.signal().map(|signal| -signal))
    }

    /// Whether the process still runs. It may have ended when you read the answer.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.try_wait(), Ok(None))
    }

    /// Sends SIGTERM, which ends the process unless it handles that. Nothing happens if it has exited.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the signal could not be sent, or the status cannot be had (see [`join`](Child::join)).
    pub fn terminate(&mut self) -> Result<(), Error> {
        self.signal(|process| sys::process::terminate(process.id()))
    }

    /// Sends SIGKILL, which ends the process. Nothing happens if it has exited.
    ///
    /// # Errors
    ///
    /// As for [`terminate`](Child::terminate).
    pub fn kill(&mut self) -> Result<(), Error> {
        self.signal(std::process::Child::kill)
    }

    /// The pipe to its stdin, if it was asked for and has not been taken.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.process.stdin.take()
    }

    /// The pipe from its stdout, if it was asked for and has not been taken.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.process.stdout.take()
    }

    /// The pipe from its stderr, if it was asked for and has not been taken.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.process.stderr.take()
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.process.try_wait()?;
        if let Some(status) = status {
            self.has_ended(status);
        }
        Ok(status)
    }

    fn has_ended(&mut self, status: ExitStatus) {
        // Told once; later the id may be another process's.
        if !self.segments.is_empty() {
            expected::has_ended(self.process.id(), !status.success());
            self.segments.clear();
        }
    }

    /// Sends a signal to a process that is ours to signal: only an unreaped child is sure to own its id. Should it
    /// exit in between, the signal goes to its zombie.
    fn signal(&mut self, send: impl FnOnce(&mut std::process::Child) -> io::Result<()>) -> Result<(), Error> {
        match self.try_wait() {
            Ok(Some(_)) => Ok(()),
            Ok(None) => send(&mut self.process).map_err(failed_to("signal a process")),
            Err(error) => Err(failed_to("signal a process")(error)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.kill_on_drop && self.kill().is_ok() {
            let _ = self.process.wait();
        }
    }
}
