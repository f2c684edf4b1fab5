//! The slot words of an MPMC ring as they lie in the segment's file, read past the library: what a process that is stopped
//! or dead was in the middle of.
//!
//! The offsets are those of `src/layout.rs` and `src/ring/mod.rs`, layout version 1, which has a golden-bytes test.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use gimmal::Segment;
use memmap2::{MmapOptions, MmapRaw};

const VERSION: u32 = 5;
const ENTRY_BYTES: usize = 192;
const RING_HEADER_BYTES: usize = 768;

/// What a participant was doing to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A send that has claimed its slot and not committed.
    Writing,
    /// A receive that has claimed its slot and not released it: the first word of the message.
    Reading(u64),
}

/// The slots of one queue.
pub struct Slots {
    map: MmapRaw,
    first: usize,
    stride: usize,
    capacity: usize,
}

/// The words of all slots: lap, how many more slots are in the run, state, owner.
impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STATES: [&str; 6] = ["free", "writing", "full", "reading", "orphan", "done"];
        let words = (0..self.capacity).map(|index| self.u64_at(self.first + index * self.stride));
        let text = words.map(|word| {
            let state = STATES.get((word >> 9 & 7) as usize).unwrap_or(&"?");
            let (lap, extra) = ((word >> 12) / self.capacity as u64, (word >> 12) % self.capacity as u64);
            format!("{lap}+{extra} {state} {}", word & 0x1ff)
        });
        f.debug_list().entries(text).finish()
    }
}

impl Slots {
    pub fn of_queue(segment: &Segment, name: &str) -> Self {
        let map = MmapOptions::new()
            .len(segment.size())
            .map_raw_read_only(segment.as_fd().as_raw_fd())
            .expect("map the segment once more");
        let mut slots = Self { map, first: 0, stride: 0, capacity: 0 };
        assert_eq!(slots.u32_at(8), VERSION, "the layout has changed: change this file too");
        let objects = segment.snapshot().expect("a snapshot").objects;
        let index = objects.iter().position(|object| object.name == name).expect("the queue is there");
        let entry = slots.u64_at(56) as usize + index * ENTRY_BYTES;
        slots.first = slots.u64_at(entry + 16) as usize + RING_HEADER_BYTES;
        slots.capacity = slots.u64_at(entry + 32) as usize;
        let (size, align) = (slots.u32_at(entry + 40) as usize, slots.u32_at(entry + 44) as usize);
        assert!(size % 8 == 0 && align <= 8, "messages here are words");
        slots.stride = if size + 8 <= 64 { (size + 8).next_power_of_two() } else { (size + 8).next_multiple_of(64) };
        assert_eq!(slots.capacity as u64, objects[index].capacity);
        slots
    }

    /// What participant `id` has claimed. Stable while it stands still or nobody has repaired after it.
    pub fn claims(&self, id: u16) -> Vec<Claim> {
        (0..self.capacity).flat_map(|index| self.run(index, id)).collect()
    }

    /// What the run that begins at a slot means, if it is `id`'s.
    fn run(&self, index: usize, id: u16) -> Vec<Claim> {
        let at = |index: usize| self.first + index % self.capacity * self.stride;
        let word = self.u64_at(at(index));
        let extra = (word >> 12) as usize % self.capacity;
        match (word & 0x1ff == u64::from(id), word >> 9 & 7) {
            (true, 1) => vec![Claim::Writing; extra + 1],
            (true, 3) => (index..=index + extra).map(|index| Claim::Reading(self.u64_at(at(index) + 8))).collect(),
            _ => Vec::new(),
        }
    }

    fn u64_at(&self, at: usize) -> u64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.map.len());
        // SAFETY: inside the mapping and aligned, as just checked.
        let word = unsafe { self.map.as_ptr().add(at) }.cast::<AtomicU64>();
        // SAFETY: as above; other processes change it through atomics only, or stand still.
        unsafe { &*word }.load(Ordering::Acquire)
    }

    fn u32_at(&self, at: usize) -> u32 {
        (self.u64_at(at & !7) >> (at % 8 * 8)) as u32
    }
}
