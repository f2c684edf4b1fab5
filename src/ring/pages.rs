//! The memory of an MPMC ring without a bound: taken from the system as messages come, and given back as they go.
//!
//! Such a ring is like any other, with so many slots that it need never go round, and most of them absent. Its slots are divided
//! into *chunks*, and a chunk has memory only from when a sender is about to claim the first of its slots until all of them are
//! consumed. Slots of other chunks must not even be looked at: the system would give them a page, or, if it has none, end the process.
//!
//! ```text
//! chunk word (u64):  lap:48 | 0:4 | state:3 | owner:9        CLOSED: the participant that looked when it was last to be cleared
//!
//! ABSENT(lap) ──open──▶ OPEN(lap) ──all consumed──▶ CLOSED(lap) ──nobody looks──▶ CLEARING(owner) ──memory gone──▶ ABSENT(lap + 1)
//!                                                       ▲                            │ the system refuses, or owner dead
//!                                                       └────────────────────────────┘
//! ```
//!
//! *Open*: memory is reserved, every word that is still zero becomes FREE in the lap, by CAS, and then the chunk OPEN, by CAS. Several
//! may do this at once, and any of them may stop or die anywhere; nobody waits for another.
//!
//! *Close*: a slot that is FREE in the next lap stays so until the chunk is open in that lap. So once all are, nobody has any
//! business there.
//!
//! *Clear*: whoever looks at slots says so before, and asks then whether the chunk is open; whoever is about to clear chunks has
//! found them closed before, and asks then whether somebody looks. The fence pair of [`crate::event`] orders both: either the one
//! finds the chunk closed, or the other finds it looking. It is enough to have seen each participant once not looking: who begins
//! afterwards finds the chunk closed. A stopped one that looks keeps memory from being given back, and nothing else.
//!
//! *In vain*: whoever gives up because somebody looks marks that one's count, and then writes into the chunk word who it is: all before
//! it have been asked. Who looks no more takes the mark back, so that the next one to ask sees that it did, even if it looks again;
//! and wakes all senders, who may be asleep at the limit of memory, where each of them tries to clear what is closed. It may have
//! nothing else to do with them. Mark and count are one word, so that one of both sees the other.

use core::mem::size_of;
use core::ptr::NonNull;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;

use super::Header;
use crate::event::ALL;
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

/// How often each participant is asked whether it looks, before chunks are left for later.
const ASKED: u32 = if cfg!(loom) { 2 } else { 1000 };

/// So many chunks may be looked at before the kernel is asked how many have memory.
pub(crate) const UNASKED: u64 = 1;

/// Chunks that are cleared at once.
pub(crate) type Batch = ArrayVec<u64, 64>;

const PARTICIPANTS: usize = if cfg!(loom) { 3 } else { MAX_PARTICIPANTS as usize + 1 };

/// The shared part, behind the ring's header; the chunk words follow. Valid when zero.
#[repr(C)]
pub(crate) struct Shared {
    /// A hint: all chunks before this one, counted over all laps, are given back.
    oldest: Line<AtomicU64>,
    /// How many threads of each participant look at slots, written by that one, and by who repairs after it; and
    /// [`IN_VAIN`], set by others.
    looking: [Looking; PARTICIPANTS],
}

#[cfg(loom)]
impl Shared {
    pub(crate) fn new() -> Self {
        let looking = core::array::from_fn(|_| Looking(AtomicU32::new(0)));
        Self { oldest: Line(AtomicU64::new(0)), looking }
    }
}

/// Somebody could not clear chunks because this participant looked.
const IN_VAIN: u32 = 1 << 31;

#[repr(C, align(64))]
struct Looking(AtomicU32);

/// Bytes of the shared part for so many chunks.
pub(crate) fn bytes(chunks: usize) -> Option<usize> {
    chunks.checked_mul(size_of::<AtomicU64>())?.checked_add(size_of::<Shared>())
}

/// Somebody looks at slots, so that no more chunks could be cleared.
#[derive(Debug)]
pub(crate) struct InVain {
    /// Whether some were.
    pub(crate) any: bool,
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
    header: NonNull<Header>,
    /// Slots of a chunk, the logarithm.
    shift: u32,
    /// Slots of the ring, the logarithm.
    lap_shift: u32,
    mode: FenceMode,
    /// If it is known: what the memory is taken from.
    source: Option<Source>,
}

/// The file of a ring, and the bytes of a chunk.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// It stays open for as long as the ring is used.
    pub(crate) file: BorrowedFd<'static>,
    pub(crate) chunk: u64,
    /// Asks the kernel how many bytes of a file have memory.
    pub(crate) memory: fn(BorrowedFd<'_>) -> Option<u64>,
}

/// For as long as it lives, no chunk is cleared that was open.
pub(crate) struct Look<'a> {
    pages: &'a Pages,
    looking: &'a AtomicU32,
}

impl Drop for Look<'_> {
    #[inline]
    fn drop(&mut self) {
        let ended = |now: u32| if now == IN_VAIN | 1 { 0 } else { now.wrapping_sub(1) };
        // Release: whoever sees that we look no more comes after our looks.
        let before = self.looking.fetch_update(Ordering::Release, Ordering::Relaxed, |now| Some(ended(now)));
        if before == Ok(IN_VAIN | 1) {
            self.pages.tell();
        }
    }
}

impl Pages {
    /// # Safety
    /// `header`, a [`Shared`] and the words of all chunks behind it are valid for as long as the value is used; a ring has
    /// `1 << lap_shift` slots, and no fewer than a chunk.
    pub(crate) unsafe fn new(header: NonNull<Header>, shift: u32, lap_shift: u32, mode: FenceMode) -> Self {
        debug_assert!(shift <= lap_shift);
        Self { header, shift, lap_shift, mode, source: None }
    }

    /// The same, of memory that is taken from there.
    pub(crate) fn with_source(self, source: Source) -> Self {
        Self { source: Some(source), ..self }
    }

    /// How many chunks have memory at most, by the kernel's word. Chunk words say whatever a peer has written into them; to look at slots
    /// of a chunk that has none gives it some.
    #[cold]
    pub(crate) fn backed(&self) -> u64 {
        let chunks = self.source.and_then(|source| Some((source.memory)(source.file)? / source.chunk));
        chunks.map_or(self.chunks(), |chunks| chunks.min(self.chunks()))
    }

    /// How many of the `extra` slots behind the one at `position`, whose chunk is open, lie in a row in chunks that are open. The
    /// caller looks.
    pub(crate) fn reach(&self, position: u64, extra: u64) -> u64 {
        let (place, len) = (position & (self.len() - 1), self.len());
        let borders = (place + extra) >> self.shift;
        let is_open = |border: &u64| self.state(position.wrapping_add(border * len)) == Chunk::Open;
        let mut open = (1..=borders).take_while(is_open).count() as u64;
        if open > 1 {
            // While we look, those that are open keep their memory.
            open = open.min(self.backed().max(2) - 1);
        }
        extra.min((open + 1) * len - 1 - place)
    }

    fn shared(&self) -> &Shared {
        // SAFETY: it lies behind the header, by the contract of `new`.
        let shared = unsafe { self.header.add(1) }.cast::<Shared>();
        // SAFETY: valid by the same contract; all fields are atomics.
        unsafe { shared.as_ref() }
    }

    fn header(&self) -> &Header {
        // SAFETY: valid by the contract of `new`; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    /// The word of a chunk, counted over all laps.
    fn word(&self, chunk: u64) -> &AtomicU64 {
        let index = (chunk & ((1 << (self.lap_shift - self.shift)) - 1)) as usize;
        // SAFETY: the words follow the shared part.
        let first = unsafe { NonNull::from(self.shared()).add(1).cast::<AtomicU64>() };
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
        Look { pages: self, looking }
    }

    /// Wakes those who may wait for memory that could not be given back because somebody looked.
    #[cold]
    fn tell(&self) {
        // Doorbells are on the other event.
        self.header().not_full.notify(ALL, self.mode, || {});
    }

    /// What the drop of a forgotten [`Look`] would have done.
    #[cfg(loom)]
    pub(crate) fn end_look(&self, id: u16) {
        drop(Look { pages: self, looking: &self.shared().looking[usize::from(id)].0 });
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

    /// The chunk of `position` has memory and its words: from now on it is open. The caller looks.
    pub(crate) fn open(&self, position: u64) {
        let chunk = self.chunk_of(position);
        // Release: whoever sees it open finds the words.
        let (absent, open) = (self.at(chunk, ABSENT, 0), self.at(chunk, OPEN, 0));
        let _ = self.word(chunk).compare_exchange(absent, open, Ordering::Release, Ordering::Relaxed);
    }

    /// How many chunks there are from the oldest one with memory to that of `position`.
    fn held(&self, position: u64) -> u64 {
        self.chunk_of(position).wrapping_sub(self.oldest()).wrapping_add(1)
    }

    /// Whether the chunk of `position`, which has no memory, may have some: nothing of the lap before is left in its place, and there
    /// are fewer than `limit`.
    pub(crate) fn can_open(&self, position: u64, limit: u64) -> bool {
        let chunk = self.chunk_of(position);
        // Acquire: what is made in it comes after the end of the memory of the lap before.
        self.word(chunk).load(Ordering::Acquire) == self.at(chunk, ABSENT, 0) && self.held(position) <= limit
    }

    /// See [`Shared::oldest`].
    pub(crate) fn oldest(&self) -> u64 {
        self.shared().oldest.load(Ordering::Relaxed)
    }

    /// How many chunks there are.
    pub(crate) fn chunks(&self) -> u64 {
        1 << (self.lap_shift - self.shift)
    }

    /// Moves the hint past chunks that are given back, up to `end`.
    pub(crate) fn advance_oldest(&self, end: u64) {
        let (mut oldest, mut steps) = (self.oldest(), 2 * self.chunks());
        while steps > 0
            && oldest < end
            && self.word(oldest).load(Ordering::Acquire) == self.at(self.next_lap(oldest), ABSENT, 0)
        {
            match self.shared().oldest.compare_exchange(oldest, oldest + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => oldest += 1,
                Err(now) => oldest = now,
            }
            steps -= 1;
        }
    }

    /// All of the chunk is consumed: it is looked at no more. The caller looks.
    pub(crate) fn close(&self, chunk: u64) {
        let (open, closed) = (self.at(chunk, OPEN, 0), self.at(chunk, CLOSED, 0));
        // Relaxed: whoever clears it has asked whether we look, and so comes after us and those who consumed it.
        let _ = self.word(chunk).compare_exchange(open, closed, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether it is closed, and has memory perhaps.
    pub(crate) fn is_closed(&self, chunk: u64) -> bool {
        // Acquire: orders it before the question who looks.
        self.word(chunk).load(Ordering::Acquire) & !OWNER == self.at(chunk, CLOSED, 0)
    }

    /// Calls `clear`, which gives the memory of a chunk back, for those of `closed` that still are and that nobody looks at any more;
    /// whether it did for any. The caller does not look itself, and has seen that each was closed. `Err`: somebody looks, and will
    /// wake the senders.
    pub(crate) fn clear(&self, closed: &Batch, owner: u16, mut clear: impl FnMut(u64) -> bool) -> Result<bool, InVain> {
        if closed.is_empty() {
            return Ok(false);
        }
        heavy_fence(self.mode);
        let mut any = false;
        for &chunk in closed {
            let word = self.word(chunk);
            // Acquire: we come after those who consumed it, and after the mark.
            let now = word.load(Ordering::Acquire);
            let (closed, clearing) = (self.at(chunk, CLOSED, 0), self.at(chunk, CLEARING, owner));
            if now & !OWNER != closed {
                continue;
            }
            if let Some(looking) = self.first_that_looks((now & OWNER) as usize) {
                // Release: after the mark.
                let _ = word.compare_exchange(now, closed | looking, Ordering::Release, Ordering::Relaxed);
                return Err(InVain { any });
            }
            if word.compare_exchange(now, clearing, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                let cleared = clear(chunk);
                let next = if cleared { self.at(self.next_lap(chunk), ABSENT, 0) } else { closed };
                // Release: whoever opens it comes after the end of its memory. Only the owner leaves CLEARING.
                word.store(next, Ordering::Release);
                any |= cleared;
            }
        }
        Ok(any)
    }

    /// The first participant from `marked` on that may look at a chunk that is closed; it has been marked. `marked`: already then, if
    /// it is one.
    fn first_that_looks(&self, marked: usize) -> Option<u64> {
        let looking = self.shared().looking.iter().enumerate().skip(marked);
        looking
            .map(|(id, looking)| (id, &looking.0))
            .find(|(id, looking)| !self.has_looked_away(looking, *id == marked && *id > 0))
            .map(|(id, _)| id as u64)
    }

    fn has_looked_away(&self, looking: &AtomicU32, marked: bool) -> bool {
        let looks_not = |now: u32| now & !IN_VAIN == 0 || marked && now & IN_VAIN == 0;
        // Acquire: pairs with the end of the look.
        let mut now = looking.load(Ordering::Acquire);
        for _ in 1..ASKED {
            if looks_not(now) || now & IN_VAIN != 0 {
                break;
            }
            spin_loop();
            now = looking.load(Ordering::Acquire);
        }
        looks_not(now) || looks_not(looking.fetch_or(IN_VAIN, Ordering::Acquire))
    }

    /// How many chunks have memory, perhaps. A moment's count.
    pub(crate) fn count_taken(&self) -> u64 {
        (0..self.chunks()).filter(|&chunk| self.word(chunk).load(Ordering::Relaxed) & STATE != ABSENT).count() as u64
    }

    /// Where every chunk begins that is open, but no more than have memory. The caller looks.
    pub(crate) fn open_ones(&self) -> impl Iterator<Item = u64> + '_ {
        let open = (0..self.chunks()).filter_map(|index| {
            let word = self.word(index).load(Ordering::Acquire);
            let chunk = (word >> LAP_SHIFT) << (self.lap_shift - self.shift) | index;
            (word & STATE == OPEN).then(|| self.begin(chunk))
        });
        // Asked when there are more than are known of: those that were open when we began to look keep their memory.
        let mut known = UNASKED;
        (1..).zip(open).map_while(move |(count, begin)| {
            if count > known {
                known = self.backed();
            }
            (count <= known).then_some(begin)
        })
    }

    /// Ends what the `dead` had begun. The caller has proof of each death.
    pub(crate) fn release_for(&self, dead: &Ids) {
        for chunk in 0..self.chunks() {
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
        // AcqRel: as in `Look`, and as one that begins after the mark.
        self.shared().looking[usize::from(dead) % PARTICIPANTS].0.swap(u32::from(looks), Ordering::AcqRel);
        if looks {
            light_fence(self.mode);
        } else {
            self.tell();
        }
    }
}
