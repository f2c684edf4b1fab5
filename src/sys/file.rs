//! Files that hold segments: unnamed until complete, linked in one step, removed by inode.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{LinkatFlags, UnlinkatFlags, ftruncate, linkat, unlinkat};

use super::room::{self, Refused};
use crate::shortage::Shortage;

/// What a file is, as far as a segment cares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(crate) fn inode(self) -> u64 {
        self.inode
    }
}

/// One answer of `fstat`.
pub(crate) struct Status {
    pub(crate) size: u64,
    /// Bytes of memory that it has, as `du` counts.
    pub(crate) memory: u64,
    pub(crate) regular: bool,
    pub(crate) identity: Identity,
    pub(crate) owner: u32,
    pub(crate) group: u32,
    /// Permission bits.
    pub(crate) mode: u32,
}

impl From<FileStat> for Status {
    // The widths of these fields differ between targets.
    #[allow(clippy::unnecessary_cast)]
    fn from(s: FileStat) -> Self {
        Self {
            size: s.st_size.max(0) as u64,
            memory: (s.st_blocks.max(0) as u64).saturating_mul(512),
            regular: s.st_mode & nix::libc::S_IFMT == nix::libc::S_IFREG,
            identity: Identity { device: s.st_dev as u64, inode: s.st_ino as u64 },
            owner: s.st_uid,
            group: s.st_gid,
            mode: s.st_mode as u32 & 0o7777,
        }
    }
}

pub(crate) fn status(file: BorrowedFd<'_>) -> Result<Status, Errno> {
    fstat(file).map(Status::from)
}

/// What `path` names now, links not followed.
pub(crate) fn status_at(path: &Path) -> Result<Status, Errno> {
    nix::sys::stat::lstat(path).map(Status::from)
}

/// The identity of whatever `path` names now.
pub(crate) fn identity_at(path: &Path) -> Result<Identity, Errno> {
    status_at(path).map(|status| status.identity)
}

/// The group of what this process makes.
pub(crate) fn own_group() -> u32 {
    // SAFETY: only asks.
    unsafe { nix::libc::getegid() }
}

/// A file without a name in `directory`, of `size` bytes that are all reserved: running out of room is an error here
/// and never a SIGBUS later.
pub(crate) fn unnamed(directory: &Path, size: u64, mode: u32) -> Result<OwnedFd, Refused> {
    let mode = Mode::from_bits_truncate(mode);
    let file = open(directory, OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC, mode).map_err(|e| match e {
        // Nothing but the file itself is asked for.
        Errno::ENOSPC => Refused::Short(Shortage::Files),
        e => e.into(),
    })?;
    // The mode asked for, whatever the umask.
    fchmod(&file, mode)?;
    reserve(&file, size)?;
    Ok(file)
}

/// A memfd of `size` reserved bytes that nobody can make shorter any more.
pub(crate) fn sealed_memory(size: u64) -> Result<OwnedFd, Refused> {
    let file = memfd_create(c"gimmal", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    reserve(&file, size)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL))?;
    Ok(file)
}

/// Whether `file` is a memfd that can never become shorter.
pub(crate) fn size_is_sealed(file: BorrowedFd<'_>) -> bool {
    let shrink = SealFlag::F_SEAL_SHRINK;
    fcntl(file, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(shrink))
}

/// Makes the file at least `size` bytes long. They have no memory yet. Only one at a time may do this.
pub(crate) fn grow(file: BorrowedFd<'_>, size: u64) -> Result<(), Refused> {
    let length = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    if fstat(file)?.st_size >= length {
        return Ok(());
    }
    room::for_length(size)?;
    Ok(ftruncate(file, length)?)
}

/// Reserves memory for a part of the file that lies inside it, if there is some.
pub(crate) fn allocate(file: BorrowedFd<'_>, offset: usize, size: usize) -> Result<(), Refused> {
    room::for_more(file, size as u64)?;
    Ok(at_last(|| fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset as i64, size as i64))?)
}

/// Gives the memory of a part of the file back to the system; it reads as zeros then.
pub(crate) fn punch(file: BorrowedFd<'_>, offset: usize, size: usize) -> Result<(), Errno> {
    let hole = FallocateFlags::FALLOC_FL_KEEP_SIZE | FallocateFlags::FALLOC_FL_PUNCH_HOLE;
    at_last(|| fallocate(file, hole, offset as i64, size as i64))
}

/// Repeats a short call that a signal has made the kernel give up.
fn at_last(call: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

pub(crate) fn reserve(file: &OwnedFd, size: u64) -> Result<(), Refused> {
    room::for_all(file.as_fd(), size)?;
    let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    // All at once: what is beyond the file system is refused before the first page is taken.
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::EINTR) => {}
        result => return Ok(result?),
    }
    // A signal makes the kernel give a whole call up; in pieces it gets further each time.
    let mut done = 0;
    while done < size {
        match fallocate(file, FallocateFlags::empty(), done, (size - done).min(64 << 20)) {
            Err(Errno::EINTR) => {}
            result => {
                result?;
                done += 64 << 20;
            }
        }
    }
    Ok(())
}

/// Gives the unnamed `file` its name; EEXIST if somebody else was first.
pub(crate) fn link(file: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let source = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("digits hold no NUL");
    linkat(AT_FDCWD, source.as_c_str(), AT_FDCWD, path, LinkatFlags::AT_SYMLINK_FOLLOW)
}

/// Opens `path` for reading and writing (or reading only), never through a symbolic link.
pub(crate) fn existing(path: &Path, write: bool) -> Result<OwnedFd, Errno> {
    let access = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    open(path, access | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY, Mode::empty())
}

/// A descriptor that only names what is at `path`: whatever that is, it is not opened.
pub(crate) fn named(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// A second, independent open file description of the same file: locks on it are its own.
pub(crate) fn reopen(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(Path::new(&path), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
}

pub(crate) fn remove(path: &Path) -> Result<(), Errno> {
    unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir)
}

/// Fills `buffer` from the file; fewer bytes if the file is shorter.
pub(crate) fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match pread(file, &mut buffer[filled..], (offset + filled as u64) as i64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Writes all of `bytes` into the file.
pub(crate) fn write_at(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    let mut written = 0;
    while written < bytes.len() {
        match pwrite(file, &bytes[written..], (offset + written as u64) as i64) {
            Ok(0) => return Err(Errno::EIO),
            Ok(n) => written += n,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The inode of this process's PID namespace, 0 if /proc does not tell.
pub(crate) fn pid_namespace() -> u64 {
    nix::sys::stat::stat("/proc/self/ns/pid").map_or(0, |s| Status::from(s).identity.inode)
}
