//! Open-file-description locks on single bytes of a segment's file: the kernel's own proof of life.
//!
//! Byte 0 of the range is the admission lock, byte `i` the lease of participant `i`. The bytes lie far beyond any
//! file's end: locks need no data under them.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

const FIRST_BYTE: libc::off_t = 1 << 62;

fn byte(index: u16, kind: libc::c_int) -> libc::flock {
    // SAFETY: all-zero bytes are a valid flock, a plain C struct.
    let mut lock: libc::flock = unsafe { core::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = FIRST_BYTE + libc::off_t::from(index);
    lock.l_len = 1;
    lock
}

/// Takes the lock on byte `index` if it is free; `false` if another description holds it.
pub(crate) fn try_lock(file: BorrowedFd<'_>, index: u16) -> Result<bool, Errno> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte(index, libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Gives byte `index` back.
pub(crate) fn unlock(file: BorrowedFd<'_>, index: u16) {
    // Unlocking one's own byte fails only without a lock table entry to split, for which there is no remedy here;
    // closing the description frees it for sure.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&byte(index, libc::F_UNLCK)));
}

/// Whether a description other than `file`'s holds byte `index`. Unknown means held.
pub(crate) fn held_by_another(file: BorrowedFd<'_>, index: u16) -> bool {
    let mut lock = byte(index, libc::F_WRLCK);
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => libc::c_int::from(lock.l_type) != libc::F_UNLCK,
        Err(_) => true,
    }
}
