//! A shared mapping of a segment's file.

use core::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// To look at.
    Read,
    /// To take part.
    Write,
    /// The same, with all pages in the page table from the start: none faults when it is touched first.
    WritePrefaulted,
}

/// `size` bytes of a file, mapped shared until dropped.
pub(crate) struct Mapping {
    map: MmapRaw,
}

impl Mapping {
    pub(crate) fn new(file: BorrowedFd<'_>, size: usize, access: Access) -> std::io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(size);
        if access == Access::WritePrefaulted {
            options.populate();
        }
        let map = match access {
            Access::Read => options.map_raw_read_only(file.as_raw_fd()),
            Access::Write | Access::WritePrefaulted => options.map_raw(file.as_raw_fd()),
        };
        map.map(|map| Self { map })
    }

    /// A part of a file that lies inside it; `offset` is a multiple of the page size.
    pub(crate) fn part(file: BorrowedFd<'_>, offset: usize, size: usize) -> std::io::Result<Self> {
        let map = MmapOptions::new().offset(offset as u64).len(size).map_raw(file.as_raw_fd())?;
        Ok(Self { map })
    }

    /// The first byte; page-aligned.
    pub(crate) fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("a mapping is never at address zero")
    }

    pub(crate) fn size(&self) -> usize {
        self.map.len()
    }
}

/// A part of a file, mapped shared twice, back to back: whatever begins in the first half goes on in the second as if there were
/// no end.
pub(crate) struct Doubled {
    base: NonNull<u8>,
    /// Bytes of the part.
    size: usize,
}

// SAFETY: memory that every thread may reach; who may touch what is decided by whoever uses it.
unsafe impl Send for Doubled {}
// SAFETY: as above.
unsafe impl Sync for Doubled {}

impl Doubled {
    /// `offset` and `size` are multiples of the page size, and inside the file.
    pub(crate) fn new(file: BorrowedFd<'_>, offset: usize, size: usize) -> Result<Self, Errno> {
        let both = size.checked_mul(2).and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        let half = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(None, both, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE)? };
        let doubled = Self { base: base.cast(), size };
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let fixed = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        for at in [0, size] {
            let address = NonZeroUsize::new(base.addr().get() + at);
            // SAFETY: it takes the place of a half of the mapping made above.
            unsafe { mmap(address, half, access, fixed, file, offset)? };
        }
        Ok(doubled)
    }

    /// The first byte; page-aligned, and twice as many as the part has may be touched from there.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Doubled {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses any more. It cannot fail for a whole mapping.
        let _ = unsafe { munmap(self.base.cast(), 2 * self.size) };
    }
}
