//! A descriptor that polls as readable while it is rung.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::primitive::Ordering;
use crate::primitive::private::AtomicI32;

pub(crate) struct Bell(EventFd);

impl Bell {
    pub(crate) fn new() -> Result<Self, Errno> {
        EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(Self)
    }

    /// Makes it readable.
    pub(crate) fn ring(&self) {
        // It fails only if it has been rung 2^64 times.
        let _ = self.0.write(1);
    }

    /// Makes it unreadable.
    pub(crate) fn hush(&self) {
        // It fails only if it is.
        let _ = self.0.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor that is never rung: what a fork child waits for in place of its parent's.
pub(crate) static SILENT: Silent = Silent(AtomicI32::new(-1));

/// See [`SILENT`].
pub(crate) struct Silent(AtomicI32);

impl Silent {
    /// In a fork child: one that it does not share with its parent. Only a system call.
    pub(crate) fn renew(&self) {
        let silent = Bell::new().map_or(-1, |bell| OwnedFd::from(bell.0).into_raw_fd());
        self.0.store(silent, Ordering::Relaxed);
    }

    /// `None` where there was none to be had.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'static>> {
        let silent = self.0.load(Ordering::Relaxed);
        // SAFETY: it was given away to this word and is never closed, except in a fork child, which replaces it first.
        (silent >= 0).then(|| unsafe { BorrowedFd::borrow_raw(silent) })
    }
}
