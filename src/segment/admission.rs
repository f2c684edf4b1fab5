//! The admission lock: who may join, leave, create objects, or remove the name.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::membership::Membership;
use super::view::View;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::primitive::{FutexWord, Ordering};
use crate::sys::Errno;
use crate::sys::lease::{self, ADMISSION};

/// For how long to wait for the admission lock. Its sections take microseconds; a holder that is stopped is not dead.
const ADMISSION_PATIENCE: Duration = Duration::from_secs(10);

/// The admission lock, held.
pub(super) struct Admission<'a> {
    view: &'a View,
    lease: BorrowedFd<'a>,
    membership: &'static Membership,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        lease::unlock(self.lease, ADMISSION);
        self.membership.admission.release();
        let next = &self.view.header().admission;
        next.word().fetch_add(1, Ordering::Release);
        next.wake(1);
    }
}

impl<'a> Admission<'a> {
    /// Waits for the lock, at most [`ADMISSION_PATIENCE`].
    pub(super) fn wait(view: &'a View, lease: BorrowedFd<'a>, membership: &'static Membership) -> Result<Self, Error> {
        let try_lock = || {
            if !membership.admission.try_acquire() {
                return Ok(false);
            }
            let locked = lease::try_lock(lease, ADMISSION);
            if locked != Ok(true) {
                membership.admission.release();
            }
            locked
        };
        wait_for_admission(Some(&view.header().admission), try_lock)?;
        Ok(Self { view, lease, membership })
    }
}

/// Calls `try_lock` until it says yes, at most for [`ADMISSION_PATIENCE`]. Sleeps on `turn` where it can: whoever gives the lock back
/// wakes one sleeper there. A holder that was killed wakes nobody, and who was woken may be killed, so a sleep has an end.
pub(super) fn wait_for_admission(
    turn: Option<&FutexWord>,
    try_lock: impl Fn() -> Result<bool, Errno>,
) -> Result<(), Error> {
    let patience = Deadline::now().plus(ADMISSION_PATIENCE);
    let mut pause = Duration::from_micros(20);
    let longest = if turn.is_some() { Duration::from_millis(20) } else { Duration::from_millis(1) };
    loop {
        // Acquire: who sees the number of a holder finds the lock given back, or somebody else's.
        let seen = turn.map(|turn| turn.word().load(Ordering::Acquire));
        match try_lock() {
            Ok(true) => return Ok(()),
            Err(e) => return Err(Error::Io { action: "lock the segment for admission", source: e.into() }),
            Ok(false) if patience.is_some_and(Deadline::passed) => {
                return Err(Error::Busy { waited: ADMISSION_PATIENCE });
            }
            Ok(false) => {
                match (turn, seen) {
                    (Some(turn), Some(seen)) => _ = turn.wait(seen, Deadline::after(pause)),
                    _ => std::thread::sleep(pause),
                }
                pause = (pause * 2).min(longest);
            }
        }
    }
}
