//! `membarrier(2)`: one process makes every registered process execute a full fence.

use nix::libc;

use crate::answer::Answer;

// The uapi's values (linux/membarrier.h); libc has no names for them on every target.
const QUERY: libc::c_int = 0;
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

fn call(command: libc::c_int) -> libc::c_long {
    // SAFETY: membarrier reads no memory; an unknown command is an error.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

/// Whether this kernel, for this process, offers the global expedited barrier.
pub(crate) fn available() -> bool {
    static OFFERED: Answer = Answer::new();
    OFFERED.get(|| {
        let commands = call(QUERY);
        let needed = libc::c_long::from(GLOBAL_EXPEDITED | REGISTER_GLOBAL_EXPEDITED);
        commands > 0 && commands & needed == needed
    })
}

/// Makes this process execute the fences that others ask for. Idempotent, inherited by fork, ended by exec.
pub(crate) fn register() -> bool {
    available() && call(REGISTER_GLOBAL_EXPEDITED) == 0
}

/// Every running thread of every registered process has executed a full fence when this returns.
pub(crate) fn global_expedited() {
    // The kernel may be short of memory for a moment. Otherwise this cannot fail after `available` said yes, except by a
    // seccomp filter installed since; going on would lose wakeups, so that is worth the abort it asks for.
    for _ in 0..1000 {
        if call(GLOBAL_EXPEDITED) == 0 {
            return;
        }
        std::thread::yield_now();
    }
    eprintln!("gimmal: membarrier was available when this process joined and is not now (a seccomp filter?)");
    std::process::abort();
}
