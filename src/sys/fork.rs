//! Hooks around `fork`.

use nix::libc;

use crate::primitive::Ordering;
use crate::primitive::private::AtomicBool;

/// Installs `prepare`, `parent` and `child`, which all run in the forking thread; `child` must only do what a signal handler may.
///
/// Threads that come first at the same time each install them, and then they run several times at a fork. If one waited for
/// the other, it would wait for ever in a child that was forked meanwhile.
pub(crate) fn on_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.load(Ordering::Acquire) {
        return;
    }
    // The C library's declaration wants `unsafe extern`, to which a safe function coerces.
    // SAFETY: the three functions live as long as the program.
    let failed = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    // ENOMEM only. Without the hooks a forked child would keep its parent's lease, so do not go on quietly.
    assert_eq!(failed, 0, "no memory to register a fork handler");
    INSTALLED.store(true, Ordering::Release);
}

/// Closes a descriptor in a fork child: nothing but the system call.
pub(crate) fn close_in_child(descriptor: i32) {
    // SAFETY: the caller owns the descriptor and forgets it.
    unsafe { libc::close(descriptor) };
}
