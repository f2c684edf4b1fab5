//! Hooks around `fork`.

use std::sync::Once;

use nix::libc;

/// Installs `prepare`, `parent` and `child` once per process. All three run in the forking thread; `child` must only
/// do what a signal handler may.
pub(crate) fn on_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // The C library's declaration wants `unsafe extern`, to which a safe function coerces.
        // SAFETY: the three functions live as long as the program.
        let failed = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        // ENOMEM only. Without the hooks a forked child would keep its parent's lease, so do not go on quietly.
        assert_eq!(failed, 0, "no memory to register a fork handler");
    });
}

/// Closes a descriptor in a fork child: nothing but the system call.
pub(crate) fn close_in_child(descriptor: i32) {
    // SAFETY: the caller owns the descriptor and forgets it.
    unsafe { libc::close(descriptor) };
}
