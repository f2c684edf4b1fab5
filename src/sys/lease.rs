//! Open-file-description locks on single bytes of a segment's file: the kernel's own proof of life.
//!
//! Byte 0 of the range is the admission lock, byte `i` the lease of participant `i`. The bytes lie far beyond any
//! file's end: locks need no data under them. Where they lie never changes; see [`layout`](crate::layout).

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

const FIRST_BYTE: libc::off_t = 1 << 62;
/// Whoever holds this byte joins, leaves, creates objects, removes the name or takes over.
pub(crate) const ADMISSION: u16 = 0;
/// The bytes that are leases, in this version of the layout or any other.
const LEASES: core::ops::Range<u16> = 1..0x8000;
/// Read-locked by whoever may have the segment mapped, also by a fork child of a participant, which has no lease.
pub(crate) const MAPPED: u16 = u16::MAX;

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

/// Takes a read lock on byte `index`, which any number of descriptions may have at once. A fork child shares it,
/// until it has closed its copy of `file`, or executes another program.
pub(crate) fn share(file: BorrowedFd<'_>, index: u16) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&byte(index, libc::F_RDLCK))).map(drop)
}

/// Gives byte `index` back.
pub(crate) fn unlock(file: BorrowedFd<'_>, index: u16) {
    // Unlocking one's own byte fails only without a lock table entry to split, for which there is no remedy here;
    // closing the description frees it for sure.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&byte(index, libc::F_UNLCK)));
}

/// Whether a description other than `file`'s holds byte `index`. Unknown means held.
pub(crate) fn held_by_another(file: BorrowedFd<'_>, index: u16) -> bool {
    is_locked_by_another(file, byte(index, libc::F_WRLCK))
}

/// Whether a description other than `file`'s holds any lease. Unknown means yes.
pub(crate) fn any_held_by_another(file: BorrowedFd<'_>) -> bool {
    let mut all = byte(LEASES.start, libc::F_WRLCK);
    all.l_len = libc::off_t::from(LEASES.end - LEASES.start);
    is_locked_by_another(file, all)
}

fn is_locked_by_another(file: BorrowedFd<'_>, mut bytes: libc::flock) -> bool {
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut bytes)) {
        Ok(_) => libc::c_int::from(bytes.l_type) != libc::F_UNLCK,
        Err(_) => true,
    }
}
