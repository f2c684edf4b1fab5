//! A shared mapping of a segment's file.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};

/// `size` bytes of a file, mapped shared for reading and, unless read-only, writing, until dropped.
pub(crate) struct Mapping {
    map: MmapRaw,
}

impl Mapping {
    pub(crate) fn writable(file: BorrowedFd<'_>, size: usize) -> std::io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(size).map_raw(file.as_raw_fd())? })
    }

    pub(crate) fn read_only(file: BorrowedFd<'_>, size: usize) -> std::io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(size).map_raw_read_only(file.as_raw_fd())? })
    }

    /// The first byte; page-aligned.
    pub(crate) fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("a mapping is never at address zero")
    }

    pub(crate) fn size(&self) -> usize {
        self.map.len()
    }
}
