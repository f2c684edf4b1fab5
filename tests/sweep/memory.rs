//! The bytes of a segment, past the library.
//!
//! The offsets are those of `src/layout.rs` and `src/ring/mod.rs`, layout version 5, which has a golden-bytes test.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use gimmal::Segment;
use memmap2::{MmapOptions, MmapRaw};

const VERSION: u64 = 5;
const ENTRY_BYTES: usize = 192;
const RING_HEADER_BYTES: usize = 768;

/// States of a slot word.
pub const WRITING: u64 = 1 << 9;
pub const READING: u64 = 3 << 9;

/// Buffers of a small `Latest`, and who has one, in its word.
pub const BUFFERS: usize = 8;
pub const OWNER: u64 = 0x1ff;

pub struct Memory(MmapRaw);

impl Memory {
    pub fn of(segment: &Segment) -> Self {
        let map = MmapOptions::new().len(segment.size()).map_raw(segment.as_fd().as_raw_fd());
        let memory = Self(map.expect("map the segment once more"));
        assert_eq!(memory.word(8).load(SeqCst) & 0xffff_ffff, VERSION, "the layout has changed: change this file too");
        memory
    }

    /// All bytes; nobody may be writing.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is this long; the only writers stand still, or are about to.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.0.len());
        // SAFETY: inside the mapping, as just checked.
        let word = unsafe { self.0.as_ptr().add(at) };
        // SAFETY: as above, and aligned; others change it through atomics only.
        unsafe { &*word.cast::<AtomicU64>() }
    }

    /// The word of a slot of the ring that is the segment's object number `object`.
    pub fn slot(&self, object: usize, slot: usize, stride: usize) -> &AtomicU64 {
        self.word(self.object(object) + RING_HEADER_BYTES + slot * stride)
    }

    /// The words of the buffers of the `Latest` that is the segment's object number `object`.
    pub fn buffers(&self, object: usize) -> [&AtomicU64; BUFFERS] {
        let words = self.object(object) + 64;
        std::array::from_fn(|buffer| self.word(words + 8 * buffer))
    }

    /// Where an object begins.
    fn object(&self, object: usize) -> usize {
        let directory = self.word(56).load(SeqCst) as usize;
        self.word(directory + object * ENTRY_BYTES + 16).load(SeqCst) as usize
    }
}
