//! Forked children: waited for with a time limit, and killed.

use std::io::Error;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::Ordering::Acquire;
use std::time::{Duration, Instant};

use super::{Control, Failure, raise_flag};

/// How long the others get to end by themselves after one has failed.
const GRACE: Duration = Duration::from_millis(300);

/// How long a look at the children may be late if their signal went elsewhere, as it does between the threads of a test.
const LOOK: Duration = Duration::from_millis(20);

/// Children that have not been waited for.
#[derive(Default)]
pub struct Children {
    alive: Vec<(usize, libc::pid_t)>,
    forked: usize,
}

impl Children {
    /// The child does `work` and ends; the parent goes on.
    pub fn fork(&mut self, work: impl FnOnce()) -> std::io::Result<()> {
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
    pub fn wait(&mut self, workers: usize, control: &Control, deadline: Instant) -> Result<(), Failure> {
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

    /// Ends those that are left.
    pub fn kill(&mut self) {
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

/// Whether the signal of a child's end waits for [`await_child_signal`].
pub fn block_child_signal(block: bool) {
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
