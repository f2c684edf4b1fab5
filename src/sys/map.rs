//! A shared mapping of a segment's file.

use core::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munlock, munmap};

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
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
        options.map_raw(file.as_raw_fd()).map(|map| Self { map })
    }

    /// Memory of our own, all zeros; what is not touched takes none.
    pub(crate) fn private(size: usize) -> std::io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(size).no_reserve_swap().map_anon()?.into() })
    }

    /// The first byte; page-aligned.
    pub(crate) fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("a mapping is never at address zero")
    }

    pub(crate) fn size(&self) -> usize {
        self.map.len()
    }
}

/// A part of a file, mapped shared once, or twice, back to back: whatever begins in the first half goes on in the second as if there
/// were no end. Most of the part may have no memory, and mapping it gives it none.
pub(crate) struct Part {
    base: NonNull<u8>,
    /// Bytes that are mapped.
    size: NonZeroUsize,
}

// SAFETY: memory that every thread may reach; who may touch what is decided by whoever uses it.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

impl Part {
    /// `offset` and `size` are multiples of the page size, and inside the file.
    pub(crate) fn once(file: BorrowedFd<'_>, offset: usize, size: usize) -> Result<Self, Errno> {
        Self::new(file, offset, size, 1)
    }

    /// See [`Part::once`].
    pub(crate) fn twice(file: BorrowedFd<'_>, offset: usize, size: usize) -> Result<Self, Errno> {
        Self::new(file, offset, size, 2)
    }

    fn new(file: BorrowedFd<'_>, offset: usize, size: usize, times: usize) -> Result<Self, Errno> {
        let part = Self::reserve(size.checked_mul(times).ok_or(Errno::EINVAL)?)?;
        let once = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        let fixed = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        for at in (0..times).map(|time| time * size) {
            let address = NonZeroUsize::new(part.base.addr().get() + at);
            // Nothing can be touched yet: after `mlockall(MCL_FUTURE)` the kernel gives memory to all that can be, at once.
            // SAFETY: it takes the place of a part of the mapping made above.
            unsafe { mmap(address, once, ProtFlags::PROT_NONE, fixed, file, offset)? };
        }
        part.lock_what_is_touched();
        // SAFETY: the mapping is ours, and nobody has its address yet.
        unsafe { mprotect(part.base.cast(), part.size.get(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)? };
        Ok(part)
    }

    /// Whether so much address space can be had.
    pub(crate) fn try_space(size: usize) -> Result<(), Errno> {
        Self::reserve(size).map(drop)
    }

    /// Address space without anything behind it.
    fn reserve(size: usize) -> Result<Self, Errno> {
        let size = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE)? };
        Ok(Self { base: base.cast(), size })
    }

    /// If the program has said `mlockall(MCL_FUTURE)`, the mapping is locked: from now on that means pages as they are touched.
    fn lock_what_is_touched(&self) {
        let size = self.size.get();
        // It is refused for locked mappings. There is nothing to be dropped.
        // SAFETY: a shared mapping that nobody has touched.
        let locked = unsafe { madvise(self.base.cast(), size, MmapAdvise::MADV_DONTNEED) } == Err(Errno::EINVAL);
        if !locked {
            return;
        }
        // SAFETY: the mapping is ours; the call changes how it is kept, not what is in it.
        let result = unsafe { libc::syscall(libc::SYS_mlock2, self.base, size, libc::MLOCK_ONFAULT) };
        if result != 0 {
            // Linux before 4.4. To give all its pages memory would be worse.
            // SAFETY: as above.
            let _ = unsafe { munlock(self.base.cast(), size) };
        }
    }

    /// The first byte; page-aligned.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses any more. It cannot fail for a whole mapping.
        let _ = unsafe { munmap(self.base.cast(), self.size.get()) };
    }
}
