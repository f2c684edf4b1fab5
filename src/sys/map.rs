//! A shared mapping of a segment's file.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};

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

    /// The first byte; page-aligned.
    pub(crate) fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("a mapping is never at address zero")
    }

    pub(crate) fn size(&self) -> usize {
        self.map.len()
    }
}
