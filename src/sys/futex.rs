//! Process-shared futexes with absolute CLOCK_MONOTONIC deadlines, and the private ones that a lock of this process is made of.

use std::ptr;

use nix::errno::Errno;
use nix::libc;

use crate::deadline::Deadline;
use crate::event::Slept;
use crate::primitive::{AtomicU32, private};

/// How many words one `futex_waitv` takes.
pub(crate) const WAITV_MAX: usize = 128;

/// A 32-bit word that threads of any process can sleep on.
#[repr(transparent)]
pub(crate) struct FutexWord(AtomicU32);

impl FutexWord {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The word itself.
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.0
    }

    /// Sleeps while the word is `expected`, until woken, interrupted or `deadline`.
    pub(crate) fn wait(&self, expected: u32, deadline: Option<Deadline>) -> Slept {
        let until = deadline.map(timespec);
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
        match Errno::last() {
            Errno::ETIMEDOUT => Slept::TimedOut,
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

/// Somebody sleeps, in a word that names its owner.
pub(crate) const WAITERS: u32 = libc::FUTEX_WAITERS;

/// An operation on a word of this process alone, without a time limit.
fn here(word: &private::AtomicU32, operation: libc::c_int, value: u32) -> Result<(), Errno> {
    let none = ptr::null::<libc::timespec>();
    let operation = operation | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word outlives the call, and is an atomic to the kernel, too, which touches nothing else.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, none) };
    Errno::result(result).map(drop)
}

/// Takes the lock whose owner the word names, and lends that owner our priority while we wait for it.
pub(crate) fn lock_pi(word: &private::AtomicU32) -> Result<(), Errno> {
    here(word, libc::FUTEX_LOCK_PI, 0)
}

/// Gives it to the one of the most priority who waits in [`lock_pi`]; to nobody, if nobody does.
pub(crate) fn unlock_pi(word: &private::AtomicU32) -> Result<(), Errno> {
    here(word, libc::FUTEX_UNLOCK_PI, 0)
}

/// Sleeps while the word is `expected`, until [`wake_here`]. May end early.
pub(crate) fn wait_here(word: &private::AtomicU32, expected: u32) {
    let _ = here(word, libc::FUTEX_WAIT, expected);
}

/// Wakes one who sleeps in [`wait_here`].
pub(crate) fn wake_here(word: &private::AtomicU32) {
    let _ = here(word, libc::FUTEX_WAKE, 1);
}

fn timespec(deadline: Deadline) -> libc::timespec {
    libc::timespec {
        tv_sec: (deadline.0 / 1_000_000_000) as libc::time_t,
        tv_nsec: (deadline.0 % 1_000_000_000) as libc::c_long,
    }
}

/// `struct futex_waitv` of the uapi.
#[repr(C)]
struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// The uapi's FUTEX_32 (FUTEX2_SIZE_U32), which libc names on few targets.
const SIZE_U32: u32 = 2;

/// Words to sleep on together, each with the value it was last seen with. The memory of the words must stay mapped until
/// the sleep is over; an address that is not mapped makes the sleep end at once.
#[derive(Default)]
pub(crate) struct Words(Vec<Waiter>);

impl Words {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// How many more fit.
    pub(crate) fn room(&self) -> usize {
        WAITV_MAX - self.0.len()
    }

    /// Adds a word; there must be room.
    pub(crate) fn push(&mut self, word: &AtomicU32, seen: u32) {
        debug_assert!(self.room() > 0);
        self.0.push(Waiter { value: seen.into(), address: word.as_ptr() as u64, flags: SIZE_U32, reserved: 0 });
    }

    /// Sleeps until one of the words changes and is woken for, or `deadline`. May end early.
    pub(crate) fn wait(&self, deadline: Option<Deadline>) -> Slept {
        let until = deadline.map(timespec);
        let until = until.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the kernel reads the array and the timespec, which outlive the call, and checks each address itself.
        let result = unsafe {
            libc::syscall(libc::SYS_futex_waitv, self.0.as_ptr(), self.0.len(), 0, until, libc::CLOCK_MONOTONIC)
        };
        match result {
            0.. => Slept::Woken,
            _ if Errno::last() == Errno::ETIMEDOUT => Slept::TimedOut,
            _ => Slept::Stale,
        }
    }
}

/// Whether the kernel has `futex_waitv` (Linux 5.16): an empty call fails with EINVAL where it exists.
pub(crate) fn has_waitv() -> bool {
    // SAFETY: with zero waiters the kernel reads nothing.
    let result = unsafe { libc::syscall(libc::SYS_futex_waitv, ptr::null::<u8>(), 0, 0, ptr::null::<u8>(), 0) };
    result == -1 && Errno::last() == Errno::EINVAL
}
