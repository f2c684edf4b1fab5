//! The bytes in shared memory: an ABI between every process that opens a segment, whatever it was built from.
//!
//! Changing anything here changes [`VERSION`], the golden-bytes test and CHANGELOG.md in the same commit.
//!
//! *What no version may change*, so that any program can tell of any segment whether somebody lives in it or it is to
//! stay, and heals it if neither is so (`src/segment/names.rs`): the first 8 bytes are [`MAGIC`]; bit 0 of the byte
//! at 24 is [`FLAG_PERSIST`]; byte 2^62 of the file is the admission lock; each participant holds a lock on one of
//! the bytes from 2^62 + 1 to 2^62 + 32,767 for as long as it lives.
//!
//! ```text
//! 0                SegmentHeader (512 bytes)
//! life_words       (max_participants + 1) × 16 bytes: two futex words per participant id, marked by the kernel at its death
//! participants     max_participants × Participant (32 bytes)
//! directory        max_objects × Entry (192 bytes)
//! heap             objects, each aligned to 128
//! ```

#[cfg(not(loom))]
use crate::primitive::{AtomicU32, AtomicU64, FutexWord};

/// First bytes of every segment.
pub(crate) const MAGIC: [u8; 8] = *b"gimmal\x1a\n";
/// Layout version; a process refuses any other.
pub(crate) const VERSION: u32 = 5;
/// What a peer must share to read our integers: pointer width, byte order, spacing of contended lines.
pub(crate) const TARGET: u32 =
    (usize::BITS) | if cfg!(target_endian = "big") { 0x100 } else { 0x200 } | (LINE as u32) << 16;
/// Spacing that keeps two writers off each other's cache lines, adjacent-line prefetch included.
pub(crate) const LINE: usize = 128;
/// Highest participant id; 0 is nobody. The owner field of a slot word has 9 bits.
pub(crate) const MAX_PARTICIPANTS: u16 = 511;
/// Highest number of directory entries.
pub(crate) const MAX_OBJECTS: u32 = 1 << 16;
/// Longest object name and longest stored type name, in bytes.
pub(crate) const NAME_BYTES: usize = 63;

/// The segment outlives its participants.
pub(crate) const FLAG_PERSIST: u32 = 1;
/// The segment is a memfd.
pub(crate) const FLAG_ANONYMOUS: u32 = 2;

/// Ends report `Disconnected` when nobody is left on the other side: all but those of queues that keep waiting.
pub(crate) const ENTRY_DISCONNECT: u32 = 1;
/// A pipe with one direction only.
pub(crate) const ENTRY_SIMPLEX: u32 = 2;
/// The messages are bytes, of any number; the same for a pipe's second direction.
pub(crate) const ENTRY_BYTES: u32 = 4;
pub(crate) const ENTRY_BYTES_2: u32 = 8;
/// A queue whose slots lie behind the end of the segment, and have memory only where there are messages.
pub(crate) const ENTRY_UNBOUNDED: u32 = 16;

/// Bytes that can be mapped by themselves, whatever the page size of a kernel for this target.
pub(crate) const MAP_UNIT: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };
/// The smallest block of an MPMC ring of bytes.
pub(crate) const BLOCK: usize = 64;

/// Of the number beside the slot word of a message of bytes, how many bits are its length. The others are the lowest of the lap in
/// which it was sent, counted from 1.
pub(crate) const LENGTH_BITS: u32 = 41;

/// Rounds up to a multiple of a power of two; `None` where that overflows.
pub(crate) const fn round_up(n: usize, to: usize) -> Option<usize> {
    match n.checked_add(to - 1) {
        Some(n) => Some(n & !(to - 1)),
        None => None,
    }
}

/// A value on a cache line (pair) of its own.
#[repr(C, align(128))]
pub(crate) struct Line<T>(pub(crate) T);

impl<T> core::ops::Deref for Line<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Bytes of a participant's life words: two, each in the place of a node of a robust list.
pub(crate) const LIFE_BYTES: usize = 16;

/// The part of the header that is written once, before anybody may join, and copied once by everybody who opens it.
/// Of the flags, [`FLAG_PERSIST`] comes last.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Geometry {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    pub(crate) target: u32,
    pub(crate) size: u64,
    pub(crate) flags: u32,
    /// 0: full fences, 1: asymmetric.
    pub(crate) fence: u32,
    pub(crate) max_participants: u32,
    pub(crate) max_objects: u32,
    pub(crate) life_words: u64,
    pub(crate) participants: u64,
    pub(crate) directory: u64,
    pub(crate) heap: u64,
    /// Nanoseconds since 1970; of segments that lived in the same file one after the other, no two have the same.
    pub(crate) created: u64,
}

/// What becomes of a segment's name, other than by somebody who knows nothing of segments. Written under the
/// admission lock.
pub(crate) mod fate {
    /// It was removed on purpose: by `unlink`, or by `create` in place of another. Those in the segment go on.
    pub(crate) const UNLINKED: u32 = 1;
    /// It is about to be removed because nobody is left: whoever comes later, a fork child of the dead, must not go on.
    pub(crate) const ENDED: u32 = 2;
}
/// Where that is written.
pub(crate) const FATE_OFFSET: usize = 80;

/// The first line of every segment.
#[cfg(not(loom))]
#[repr(C)]
pub(crate) struct Top {
    pub(crate) geometry: Geometry,
    /// See [`fate`]; 0 at first.
    pub(crate) fate: AtomicU32,
}

/// Offset 0 of every segment.
#[cfg(not(loom))]
#[repr(C)]
pub(crate) struct SegmentHeader {
    pub(crate) top: Line<Top>,
    /// Bumped when a sentinel begins to answer for somebody, and at every join, leave and repair. Sentinels and watchers
    /// sleep on it.
    pub(crate) membership: Line<FutexWord>,
    /// Bumped when the admission lock is given back. Those who wait for the lock sleep on it.
    pub(crate) admission: Line<FutexWord>,
    /// Bumped when a notifier finds a doorbell armed: reactors sleep on it. See `src/reactor.rs`.
    pub(crate) bell: Line<FutexWord>,
}

/// The tenure word of a [`Participant`]: who of all those that have had its id it is, and how it stands, in one instruction.
///
/// ```text
/// died:28 | left:28 | state:8
/// ```
///
/// The counts are of those who have gone before; they wrap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenure(pub(crate) u64);

/// How a participant stands. Whether a joined one lives, only its lease tells.
pub(crate) mod standing {
    pub(crate) const FREE: u64 = 0;
    pub(crate) const JOINED: u64 = 1;
    /// Proven dead: whoever holds its lease is repairing after it, or has died doing so.
    pub(crate) const DYING: u64 = 2;
    pub(super) const MASK: u64 = 0xff;
}

impl Tenure {
    const COUNT: u64 = (1 << 28) - 1;

    pub(crate) fn standing(self) -> u64 {
        self.0 & standing::MASK
    }

    pub(crate) fn with(self, standing: u64) -> Self {
        Self(self.0 & !standing::MASK | standing)
    }

    /// Joined and not gone, alive or not.
    pub(crate) fn is_taken(self) -> bool {
        matches!(self.standing(), standing::JOINED | standing::DYING)
    }

    /// Who of those with this id it is.
    pub(crate) fn ordinal(self) -> u64 {
        self.0 & !standing::MASK
    }

    fn deaths(self) -> u64 {
        self.0 >> 36
    }

    /// Free again, after its holder has left, or died.
    pub(crate) fn ended(self, died: bool) -> Self {
        let (left, deaths) = (self.0 >> 8 & Self::COUNT, self.deaths());
        let count = |n: u64, one: bool| (n + u64::from(one)) & Self::COUNT;
        Self(count(deaths, died) << 36 | count(left, !died) << 8 | standing::FREE)
    }

    /// Whether any of those died whose tenures began with `earlier` and are over now.
    pub(crate) fn deaths_since(self, earlier: Self) -> bool {
        self.deaths() != earlier.deaths()
    }
}

/// What a participant says of itself, written by whoever holds its lease; `tenure` last at join, first at leave.
#[cfg(not(loom))]
#[repr(C)]
pub(crate) struct Participant {
    /// See [`Tenure`].
    pub(crate) tenure: AtomicU64,
    /// Nanoseconds since 1970.
    pub(crate) joined: AtomicU64,
    /// Inode of the participant's PID namespace.
    pub(crate) namespace: AtomicU64,
    /// Process id in the participant's own PID namespace.
    pub(crate) pid: AtomicU32,
    pub(crate) reserved: AtomicU32,
}

/// A directory entry. Everything but `state` is written before `state` becomes 1 and never after.
#[cfg(not(loom))]
#[repr(C)]
pub(crate) struct Entry {
    /// 0: free, 1: published. Stored with Release by the creator under the admission lock.
    pub(crate) state: AtomicU32,
    reserved: u32,
    pub(crate) fields: EntryFields,
}

/// The published part of an [`Entry`].
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct EntryFields {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// Slots of a ring, elements of an array, 1 for a single value.
    pub(crate) capacity: u64,
    pub(crate) element_size: u32,
    pub(crate) element_align: u32,
    /// A pipe's second direction. Of a queue without a bound: chunks that may have memory at once, and the logarithm of the slots
    /// of a chunk. 0 elsewhere.
    pub(crate) element_size_2: u32,
    pub(crate) element_align_2: u32,
    pub(crate) name: [u8; 64],
    /// `u64`, `Order`; for a pipe `Ball -> Score`. The first byte of each text is its length.
    pub(crate) element: [u8; 64],
    /// Where the slots of a queue without a bound begin in the file; 0 elsewhere.
    pub(crate) region: u64,
}

#[cfg(not(loom))]
const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Geometry>() == 80);
    assert!(offset_of!(Geometry, flags) == 24);
    assert!(offset_of!(Top, fate) == FATE_OFFSET);
    assert!(size_of::<SegmentHeader>() == 512);
    assert!(offset_of!(SegmentHeader, membership) == 128);
    assert!(offset_of!(SegmentHeader, admission) == 256);
    assert!(offset_of!(SegmentHeader, bell) == 384);
    assert!(size_of::<Participant>() == 32);
    assert!(size_of::<EntryFields>() == 184);
    assert!(size_of::<Entry>() == 192);
    assert!(align_of::<Entry>() == 8);
};

/// The state of an MPMC slot, with the lap it belongs to, the length of its run and its owner: one word, so that a claim and
/// the claimant's name are one instruction.
///
/// ```text
/// round:52 | state:3 | owner:9
///
/// FREE ──claim──▶ WRITING(owner) ──commit──▶ FULL ──claim──▶ READING(owner) ──release──▶ FREE (next lap)
///                      │ abort, or owner dead                     │ owner dead        (of a run: by way of DONE(owner))
///                      ▼                                          ▼
///                 FREE (next lap)                              ORPHAN ──claim──▶ READING(owner)
/// ```
///
/// `round` is the slot's position, except that the bits of its index, which is known, tell how many more slots belong to its
/// run. A ring makes and reads it, since it knows how many bits that is.
///
/// Positions wrap after 2^52 here. A claim could only go wrong if an end slept while exactly that many messages went through
/// the ring: more than a year at full speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotWord(pub(crate) u64);

/// States of a [`SlotWord`]. FREE is 0, so that fresh memory is a ring of free slots in lap 0.
pub(crate) mod state {
    pub(crate) const FREE: u64 = 0;
    pub(crate) const WRITING: u64 = 1 << 9;
    pub(crate) const FULL: u64 = 2 << 9;
    pub(crate) const READING: u64 = 3 << 9;
    pub(crate) const ORPHAN: u64 = 4 << 9;
    /// A run that was received and is being given back to the senders.
    pub(crate) const DONE: u64 = 5 << 9;
    pub(super) const MASK: u64 = 7 << 9;
}

/// Where `round` begins in a [`SlotWord`].
pub(crate) const ROUND_SHIFT: u32 = 12;

impl SlotWord {
    #[inline(always)]
    pub(crate) fn new(round: u64, state: u64, owner: u16) -> Self {
        Self(round << ROUND_SHIFT | state | u64::from(owner))
    }

    #[inline(always)]
    pub(crate) fn round(self) -> u64 {
        self.0 >> ROUND_SHIFT
    }

    #[inline(always)]
    pub(crate) fn state(self) -> u64 {
        self.0 & state::MASK
    }

    #[inline(always)]
    pub(crate) fn owner(self) -> u16 {
        (self.0 & 0x1ff) as u16
    }
}
