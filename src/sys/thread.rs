//! Threads: one that no signal reaches, and which one this is.

use std::io;
use std::thread::{Builder, JoinHandle};

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// Starts a small named thread with all signals blocked, so that no handler of the program ever runs in it.
pub(crate) fn spawn_quiet(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let mut before = SigSet::empty();
    // A new thread inherits the mask of the one that starts it.
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    let started = Builder::new().name(name.to_owned()).stack_size(128 << 10).spawn(run);
    // Cannot fail: the mask is the one the system has just given us.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    started
}

/// The calling thread's id in its PID namespace, as futexes with an owner name it. Asked of the system each time: a copy would be
/// another thread's in a fork child, or after `clone`.
pub(crate) fn id() -> u32 {
    // SAFETY: only asks.
    unsafe { libc::gettid() as u32 }
}
