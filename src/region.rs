//! The slots of a queue without a bound: a part of the segment's file behind the segment, most of which has no memory.

use core::ptr::NonNull;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::Error;
use crate::object::{Ring, Unbounded};
use crate::primitive::FenceMode;
use crate::ring::Header;
use crate::ring::owned::Stalled;
use crate::ring::pages::{Pages, Source};
use crate::sys::file;
use crate::sys::map::Part;
use crate::sys::room::Refused;

/// A queue's own.
pub(crate) struct Region {
    _map: Part,
    ring: Ring,
    unbounded: Unbounded,
    stalled: Stalled,
}

impl Region {
    /// Maps the slots of `ring`, if they do not lie in the segment.
    pub(crate) fn map(file: BorrowedFd<'_>, ring: &Ring) -> Result<Option<Part>, Error> {
        let Some(unbounded) = ring.unbounded else { return Ok(None) };
        let io = |source| Error::Io { action: "map an unbounded queue", source };
        let size = ring.stride * ring.slots as usize;
        let found = file::status(file).map_err(|e| io(e.into()))?.size;
        let expected = unbounded.offset + (size + ring.data.map_or(0, |(_, size)| size)) as u64;
        if found < expected {
            return Err(Error::Truncated { expected, found });
        }
        Part::once(file, unbounded.offset as usize, size).map(Some).map_err(|e| io(e.into()))
    }

    /// Which of the slots of `ring` have memory, if not all do.
    /// The file stays open for as long as they are used.
    pub(crate) fn pages(file: BorrowedFd<'_>, ring: &Ring, header: NonNull<Header>, mode: FenceMode) -> Option<Pages> {
        let unbounded = ring.unbounded?;
        let slot = ring.stride + ring.data.map_or(0, |_| ring.block);
        // SAFETY: by the caller's word.
        let file = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
        let memory = |file: BorrowedFd<'_>| Some(file::status(file).ok()?.memory);
        let source = Source { file, chunk: (slot as u64) << unbounded.shift, memory };
        Self::words(ring, header, mode).map(|pages| pages.with_source(source))
    }

    fn words(ring: &Ring, header: NonNull<Header>, mode: FenceMode) -> Option<Pages> {
        let shift = ring.unbounded?.shift;
        // SAFETY: the chunk words of a checked object lie behind its header; it has more than one chunk.
        Some(unsafe { Pages::new(header, shift, ring.slots.trailing_zeros(), mode) })
    }

    /// Bytes of memory that the chunks of `ring` have.
    pub(crate) fn memory(ring: &Ring, header: NonNull<Header>) -> u64 {
        // Fences are for those who look at slots.
        let Some(pages) = Self::words(ring, header, FenceMode::Full) else { return 0 };
        let slot = ring.stride + if ring.data.is_some() { ring.block } else { 0 };
        pages.count_taken().saturating_mul(slot as u64).saturating_mul(pages.len())
    }

    /// `None` if the slots lie in the segment.
    pub(crate) fn new(file: BorrowedFd<'_>, ring: &Ring) -> Result<Option<(Self, NonNull<u8>)>, Error> {
        let Some(map) = Self::map(file, ring)? else { return Ok(None) };
        let (base, unbounded) = (map.base(), ring.unbounded.expect("it has been mapped"));
        Ok(Some((Self { _map: map, ring: *ring, unbounded, stalled: Stalled::default() }, base)))
    }

    /// Slots that keep memory from being given back.
    pub(crate) fn stalled(&self) -> &Stalled {
        &self.stalled
    }

    /// Chunks that may have memory at once.
    pub(crate) fn limit(&self) -> u64 {
        self.unbounded.limit.into()
    }

    /// The parts of the file that a chunk takes: its slots, and its blocks.
    fn parts(&self, begin: u64) -> impl Iterator<Item = (usize, usize)> {
        let Ring { stride, block, data, slots, .. } = self.ring;
        let first = (begin & (slots - 1)) as usize;
        let of = move |offset: usize, size: usize| (offset + first * size, size << self.unbounded.shift);
        [of(self.unbounded.offset as usize, stride)].into_iter().chain(data.map(|(offset, _)| of(offset, block)))
    }

    /// Reserves the memory of the chunk that begins with this slot.
    pub(crate) fn reserve(&self, file: BorrowedFd<'_>, begin: u64) -> Result<(), Refused> {
        self.parts(begin).try_for_each(|(offset, size)| file::allocate(file, offset, size))
    }

    /// Gives it back; `false` if the system refuses.
    pub(crate) fn give_back(&self, file: BorrowedFd<'_>, begin: u64) -> bool {
        self.parts(begin).all(|(offset, size)| file::punch(file, offset, size).is_ok())
    }
}
