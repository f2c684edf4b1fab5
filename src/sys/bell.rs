//! A descriptor that polls as readable while it is rung.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

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
