//! Process-shared futexes with absolute CLOCK_MONOTONIC deadlines.

use std::ptr;

use nix::libc;

use crate::deadline::Deadline;
use crate::event::Slept;
use crate::primitive::AtomicU32;

/// A 32-bit word that threads of any process can sleep on.
#[repr(transparent)]
pub(crate) struct FutexWord(AtomicU32);

impl FutexWord {
    #[cfg(any(test, fuzzing))]
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The word itself.
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.0
    }

    /// Sleeps while the word is `expected`, until woken, interrupted or `deadline`.
    pub(crate) fn wait(&self, expected: u32, deadline: Option<Deadline>) -> Slept {
        let until = deadline.map(|d| libc::timespec {
            tv_sec: (d.0 / 1_000_000_000) as libc::time_t,
            tv_nsec: (d.0 % 1_000_000_000) as libc::c_long,
        });
        let until = until.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the word and the timespec outlive the call; the kernel only reads both.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.0.as_ptr(),
                libc::FUTEX_WAIT_BITSET,
                expected,
                until,
                ptr::null::<u32>(),
                libc::FUTEX_BITSET_MATCH_ANY,
            )
        };
        if result == 0 {
            return Slept::Woken;
        }
        match nix::errno::Errno::last() {
            nix::errno::Errno::ETIMEDOUT => Slept::TimedOut,
            // EAGAIN: the word had changed. EINTR: a signal handler ran. Anything else cannot happen with a mapped,
            // aligned word; looking again is right for all of them.
            _ => Slept::Stale,
        }
    }

    /// Wakes at most `most` sleepers and says how many there were.
    pub(crate) fn wake(&self, most: u32) -> u32 {
        let most = most.min(i32::MAX as u32);
        // SAFETY: FUTEX_WAKE does not touch the word; it only looks up its address, which is mapped.
        let woken = unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE, most) };
        u32::try_from(woken).unwrap_or(0)
    }
}

/// Whether the kernel has `futex_waitv` (Linux 5.16): an empty call fails with EINVAL where it exists.
pub(crate) fn has_waitv() -> bool {
    // SAFETY: with zero waiters the kernel reads nothing.
    let result = unsafe { libc::syscall(libc::SYS_futex_waitv, ptr::null::<u8>(), 0, 0, ptr::null::<u8>(), 0) };
    result == -1 && nix::errno::Errno::last() != nix::errno::Errno::ENOSYS
}
