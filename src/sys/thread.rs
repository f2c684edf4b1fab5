//! A thread that no signal reaches.

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// Starts a small named thread with all signals blocked, so that no handler of the program ever runs in it. `false` if
/// the system has none to give.
pub(crate) fn spawn_quiet(name: &str, run: fn()) -> bool {
    let mut before = SigSet::empty();
    // A new thread inherits the mask of the one that starts it.
    if pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before)).is_err() {
        return false;
    }
    let started = std::thread::Builder::new().name(name.to_owned()).stack_size(128 << 10).spawn(run).is_ok();
    // Cannot fail: the mask is the one the system has just given us.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    started
}
