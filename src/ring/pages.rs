//! The memory of an MPMC ring without a bound: taken from the system as messages come, and given back as they go.
//!
//! Such a ring is like any other, with so many slots that it need never go round, and most of them absent. Its slots are divided
//! into *chunks*, and a chunk has memory only from when a sender is about to claim the first of its slots until all of them are
//! consumed. Slots of other chunks must not even be looked at: the system would give them a page, or, if it has none, end the process.
//!
//! ```text
//! chunk word (u64):  lap:48 | 0:4 | state:3 | owner:9
//!
//! ABSENT(lap) ──open──▶ OPEN(lap) ──all consumed──▶ CLOSED(lap) ──▶ CLEARING(owner) ──memory gone──▶ ABSENT(lap + 1)
//!                                                       ▲               │ somebody still looks, or owner dead
//!                                                       └───────────────┘
//! ```
//!
//! *Open*: memory is reserved, every word that is still zero becomes FREE in the lap, by CAS, and then the chunk OPEN, by CAS. Several
//! may do this at once, and any of them may stop or die anywhere; nobody waits for another.
//!
//! *Close*: a slot that is FREE in the next lap stays so until the chunk is open in that lap. So once all are, nobody has any
//! business there.
//!
//! *Clear*: whoever looks at slots says so before, and asks then whether the chunk is open; whoever is about to clear a chunk has
//! closed it before, and asks then whether somebody looks. The fence pair of [`crate::event`] orders both: either the one finds the
//! chunk closed, or the other finds it looking. It is enough to have seen each participant once not looking: who begins
//! afterwards finds the chunk closed. A stopped one that looks keeps memory from being given back, and nothing else.

use core::mem::size_of;
use core::ptr::NonNull;

use super::Header;
use crate::ids::Ids;
use crate::layout::{Line, MAX_PARTICIPANTS};
use crate::primitive::{AtomicU32, AtomicU64, FenceMode, Ordering, heavy_fence, light_fence, spin_loop};

const ABSENT: u64 = 0;
const OPEN: u64 = 1 << 9;
const CLOSED: u64 = 2 << 9;
const CLEARING: u64 = 3 << 9;
const STATE: u64 = 7 << 9;
const OWNER: u64 = (1 << 9) - 1;
const LAP_SHIFT: u32 = 16;

/// How often each participant is asked whether it looks, before a chunk is left for later.
const ASKED: u32 = 1000;

const PARTICIPANTS: usize = MAX_PARTICIPANTS as usize + 1;

/// The shared part, behind the ring's header; the chunk words follow. Valid when zero.
#[repr(C)]
struct Shared {
    /// A hint: all chunks before this one, counted over all laps, are given back.
    oldest: Line<AtomicU64>,
    /// How many threads of each participant look at slots. Written by that one, and by who repairs after it.
    looking: [Looking; PARTICIPANTS],
}

#[repr(C, align(64))]
struct Looking(AtomicU32);

/// Bytes of the shared part for so many chunks.
pub(crate) fn bytes(chunks: usize) -> Option<usize> {
    chunks.checked_mul(size_of::<AtomicU64>())?.checked_add(size_of::<Shared>())
}

/// What a chunk is to somebody who wants to look at one of its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// No sender has claimed anything in it yet, in this lap.
    Absent,
    Open,
    /// All of it is consumed.
    Gone,
}

/// The chunks of one ring.
#[derive(Clone, Copy)]
pub(crate) struct Pages {
    shared: NonNull<Shared>,
    /// Slots of a chunk, the logarithm.
    shift: u32,
    /// Slots of the ring, the logarithm.
    lap_shift: u32,
    mode: FenceMode,
}

/// For as long as it lives, no chunk is cleared that was open.
pub(crate) struct Look<'a>(&'a AtomicU32);

impl Drop for Look<'_> {
    fn drop(&mut self) {
        // Release: whoever sees that we look no more comes after our looks.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Pages {
    /// # Safety
    /// `shared` and the words of all chunks behind it are valid for as long as the value is used; a ring has `1 << lap_shift` slots,
    /// and no fewer than a chunk.
    pub(crate) unsafe fn new(header: NonNull<Header>, shift: u32, lap_shift: u32, mode: FenceMode) -> Self {
        debug_assert!(shift <= lap_shift);
        // SAFETY: it lies behind the header, by the contract.
        Self { shared: unsafe { header.add(1) }.cast(), shift, lap_shift, mode }
    }

    fn shared(&self) -> &Shared {
        // SAFETY: valid by the contract of `new`; all fields are atomics.
        unsafe { self.shared.as_ref() }
    }

    /// The word of a chunk, counted over all laps.
    fn word(&self, chunk: u64) -> &AtomicU64 {
        let index = (chunk & ((1 << (self.lap_shift - self.shift)) - 1)) as usize;
        // SAFETY: the words follow the shared part.
        let first = unsafe { self.shared.add(1).cast::<AtomicU64>() };
        // SAFETY: the index is below their number.
        let word = unsafe { first.add(index) };
        // SAFETY: as above; it is atomic.
        unsafe { word.as_ref() }
    }

    /// The chunk of a position, counted over all laps.
    pub(crate) fn chunk_of(&self, position: u64) -> u64 {
        position >> self.shift
    }

    /// The position at which a chunk begins.
    pub(crate) fn begin(&self, chunk: u64) -> u64 {
        chunk << self.shift
    }

    /// Slots of a chunk.
    pub(crate) fn len(&self) -> u64 {
        1 << self.shift
    }

    fn lap(&self, chunk: u64) -> u64 {
        (chunk >> (self.lap_shift - self.shift)) << LAP_SHIFT >> LAP_SHIFT
    }

    fn at(&self, chunk: u64, state: u64, owner: u16) -> u64 {
        self.lap(chunk) << LAP_SHIFT | state | u64::from(owner)
    }

    /// The same chunk in the next lap.
    fn next_lap(&self, chunk: u64) -> u64 {
        chunk.wrapping_add(1 << (self.lap_shift - self.shift))
    }

    /// Says that participant `id` is about to look at slots.
    pub(crate) fn look(&self, id: u16) -> Look<'_> {
        let looking = &self.shared().looking[usize::from(id) % PARTICIPANTS].0;
        looking.fetch_add(1, Ordering::Relaxed);
        light_fence(self.mode);
        Look(looking)
    }

    /// What the chunk of `position` is now. While a [`Look`] lives, an open one keeps its memory.
    pub(crate) fn state(&self, position: u64) -> Chunk {
        let chunk = self.chunk_of(position);
        // Acquire: the words of an open chunk are there.
        let word = self.word(chunk).load(Ordering::Acquire);
        let ahead = (word >> LAP_SHIFT).wrapping_sub(self.lap(chunk)) << LAP_SHIFT;
        match word & STATE {
            _ if (ahead as i64) < 0 => Chunk::Absent,
            _ if ahead > 0 => Chunk::Gone,
            ABSENT => Chunk::Absent,
            OPEN => Chunk::Open,
            _ => Chunk::Gone,
        }
    }

    /// Whether the chunk of `position` can be opened: nothing of the lap before is left in its place.
    pub(crate) fn can_open(&self, position: u64) -> bool {
        let chunk = self.chunk_of(position);
        self.word(chunk).load(Ordering::Acquire) == self.at(chunk, ABSENT, 0)
    }

    /// The chunk of `position` has memory and its words: from now on it is open. The caller looks.
    pub(crate) fn open(&self, position: u64) {
        let chunk = self.chunk_of(position);
        // Release: whoever sees it open finds the words.
        let (absent, open) = (self.at(chunk, ABSENT, 0), self.at(chunk, OPEN, 0));
        let _ = self.word(chunk).compare_exchange(absent, open, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// How many chunks there are from the oldest one with memory to that of `position`.
    pub(crate) fn held(&self, position: u64) -> u64 {
        self.chunk_of(position).wrapping_sub(self.oldest()).wrapping_add(1)
    }

    /// See [`Shared::oldest`].
    pub(crate) fn oldest(&self) -> u64 {
        self.shared().oldest.load(Ordering::Relaxed)
    }

    /// Moves the hint past chunks that are given back, up to `end`.
    pub(crate) fn advance_oldest(&self, end: u64) {
        let mut oldest = self.oldest();
        while oldest < end && self.word(oldest).load(Ordering::Acquire) == self.at(self.next_lap(oldest), ABSENT, 0) {
            match self.shared().oldest.compare_exchange(oldest, oldest + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => oldest += 1,
                Err(now) => oldest = now,
            }
        }
    }

    /// All of the chunk is consumed: it is looked at no more.
    pub(crate) fn close(&self, chunk: u64) {
        let (open, closed) = (self.at(chunk, OPEN, 0), self.at(chunk, CLOSED, 0));
        let _ = self.word(chunk).compare_exchange(open, closed, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Calls `clear`, which gives the memory of a closed chunk back, if nobody looks any more; `true` if it was done. The caller does
    /// not look itself.
    pub(crate) fn clear(&self, chunk: u64, owner: u16, clear: impl FnOnce() -> bool) -> bool {
        let word = self.word(chunk);
        let (closed, clearing) = (self.at(chunk, CLOSED, 0), self.at(chunk, CLEARING, owner));
        if word.compare_exchange(closed, clearing, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        heavy_fence(self.mode);
        let cleared = self.shared().looking.iter().all(Self::looks_no_more) && clear();
        let next = if cleared { self.at(self.next_lap(chunk), ABSENT, 0) } else { closed };
        // Release: whoever opens it comes after the end of its memory. Only the owner leaves CLEARING.
        word.store(next, Ordering::Release);
        cleared
    }

    fn looks_no_more(looking: &Looking) -> bool {
        // Acquire: pairs with the end of the look.
        (0..ASKED).any(|_| {
            looking.0.load(Ordering::Acquire) == 0 || {
                spin_loop();
                false
            }
        })
    }

    /// Every chunk that is open, by its first index.
    pub(crate) fn open_ones(&self) -> impl Iterator<Item = u64> + '_ {
        let chunks = 1_u64 << (self.lap_shift - self.shift);
        (0..chunks).filter(|&chunk| self.word(chunk).load(Ordering::Acquire) & STATE == OPEN).map(|c| self.begin(c))
    }

    /// Ends what the `dead` had begun. The caller has proof of each death.
    pub(crate) fn release_for(&self, dead: &Ids) {
        for chunk in 0..1 << (self.lap_shift - self.shift) {
            let word = self.word(chunk);
            let now = word.load(Ordering::Acquire);
            if now & STATE == CLEARING && dead.contains((now & OWNER) as u16) {
                // Its memory is there or not; nobody looks.
                let closed = now & !(STATE | OWNER) | CLOSED;
                let _ = word.compare_exchange(now, closed, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }

    /// Says that who repairs after `dead` looks at slots, in its place, or looks no more.
    pub(crate) fn look_for(&self, dead: u16, looks: bool) {
        self.shared().looking[usize::from(dead) % PARTICIPANTS].0.store(u32::from(looks), Ordering::Release);
        light_fence(self.mode);
    }
}
