//! The MPMC ring: owned slots. The truth is in the slot words; the shared cursors are hints that may lag and never run
//! ahead.
//!
//! # Protocol
//!
//! *Claim* is one CAS on a slot word ([`SlotWord`]) that also writes the owner's id, so a death never leaves a hole
//! without a name on it. *Commit* and *release* are plain Release stores: only the owner leaves WRITING or READING,
//! unless it is proven dead, and then only repair does.
//!
//! A *sender* looks for the first slot that is FREE in the lap it expects and walks over slots already claimed, so
//! claims are contiguous: every position before a claimed one has been claimed. A slot that still belongs to the
//! previous lap means Full.
//!
//! A *receiver* looks for the first slot that is FULL. It may pass over slots that are WRITING: their sends are
//! concurrent with this receive. Before it takes a later slot, and before it says Empty, it counts the WRITING slots in
//! the range it passed once more. No slot of that range can *become* WRITING in the same lap, so an equal count means
//! that every one of them was still WRITING after the decisive look: the order stays linearizable, and so does Empty. An end remembers
//! which slots those were, and that all others before some position are consumed, which stays so: see [`passed`].
//!
//! A *run* of slots is claimed by one CAS on its first word, which then also says how long the run is. A sender does so after it
//! has seen all of them FREE in their lap: they stay so while nobody has claimed the first, since claims are contiguous. The
//! other words then say nothing that anybody looks at until the first one does: the walks go by whole claims, from the first
//! slot of one to the first slot of the next. So the sender writes FULL into each of them, with the number of those behind it,
//! and into the first one last: that commits them all at once. A receiver takes as many from the front as it wants, by a CAS on
//! the first word; the next one then is the first of what is left. Runs are freed with their first slot last, so that whoever
//! sees it in the next lap sees the others there, too; a received one is marked DONE before, which is the moment of its receipt.
//!
//! *Abort* frees the slot into the next lap, exactly as a release does. Receivers step over it as over any slot that
//! somebody else has consumed, and senders meet it again one lap later; no state of its own is needed.
//!
//! *Repair* of a dead participant: WRITING → aborted, READING → ORPHAN, DONE → FREE in the next lap, then `repairs` is bumped.
//! Receivers compare `repairs` with their own copy and take ORPHANs first, oldest first. Each step is idempotent. A run is
//! repaired with its first slot last, which names the dead, and falls into single slots.
//!
//! # Orderings
//!
//! The claim of a FREE slot Acquires the release that freed it (its reader is done with the payload); the claim of a
//! FULL one Acquires its commit. The looks of a walk are Acquire, so that the second look comes after the decisive
//! first one. A hint Releases the claims it stands for, and is Acquired by whoever jumps to it.
//!
//! # Bounds
//!
//! Every index is masked with a geometry that was validated once; laps are compared by distance; a walk has a budget,
//! so that nothing a hostile peer leaves in the words can hold a call or send it outside the slots.

mod budget;
#[cfg(not(loom))]
mod follow;
mod passed;
mod runs;
mod survey;

use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;

pub(crate) use self::budget::Budget;
#[cfg(not(loom))]
pub(crate) use self::follow::Seen;
use self::passed::Memory;
pub(crate) use self::runs::Run;
#[cfg(any(test, not(loom)))]
pub(crate) use self::survey::Stalled;
#[cfg(not(loom))]
pub(crate) use self::survey::Swept;
use super::pages::{Chunk, Look, Pages};
use super::{Element, Header, Slot};
use crate::layout::{ROUND_SHIFT, SlotWord, state};
use crate::primitive::{AtomicU64, EndU64, FenceMode, Ordering, light_fence, private};

/// Calls that found the ring full or empty between two looks at the clock.
pub(crate) const VAIN_CALLS: u32 = 256;
/// How often a claim tries to be the one that gets an ORPHAN.
const ORPHAN_TRIES: u32 = 64;
/// Positions between two bumps of a shared hint while no rival is met.
const HINT_PERIOD: u64 = 32;
/// For how many claims after meeting a rival every claim bumps the shared hint.
const RIVALRY: u32 = 32;

/// One end's private view of where it is. Sharing it between threads is safe; a cursor each is faster.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Another thread that shares this end goes on here without having seen the slots before it. So whoever stores it Releases what it
    /// has seen of them, and whoever loads it Acquires that, as with a hint.
    next: EndU64,
    /// The position from which on a claim moves the shared hint.
    due: private::AtomicU64,
    /// How many more claims move it after a rival was met.
    rivals: private::AtomicU32,
    repairs: private::AtomicU64,
    /// Of a receiver: what stands still before its position.
    passed: Memory,
    vain: private::AtomicU32,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            next: EndU64::new(0),
            due: HINT_PERIOD.into(),
            rivals: private::AtomicU32::new(0),
            repairs: private::AtomicU64::new(0),
            passed: Memory::default(),
            vain: private::AtomicU32::new(0),
        }
    }
}

impl Cursor {
    #[cfg(any(test, loom))]
    pub(crate) fn at(position: u64) -> Self {
        Self { next: EndU64::new(position), ..Self::default() }
    }

    /// Has just met a rival: bumps the hint at every claim.
    #[cfg(loom)]
    pub(crate) fn among_rivals(self) -> Self {
        self.rivals.store(RIVALRY, Ordering::Relaxed);
        self.due.store(0, Ordering::Relaxed);
        self
    }

    /// An end that threads share, as loom is to see it.
    #[cfg(loom)]
    pub(crate) fn shared(mut self) -> std::sync::Arc<Self> {
        self.next.share();
        self.passed.share();
        std::sync::Arc::new(self)
    }

    /// Up to where this end remembers what is consumed behind a slot that is being written.
    #[cfg(loom)]
    pub(crate) fn remembers(&self) -> Option<u64> {
        self.passed.read().map(|(_, beyond)| beyond)
    }

    /// Where this end goes on: for a sender that has found the ring full, the first slot that nobody has claimed.
    pub(crate) fn position(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Every so many calls in vain, `true`: time to look whether somebody has died.
    pub(crate) fn in_vain(&self) -> bool {
        let vain = self.vain.load(Ordering::Relaxed).wrapping_add(1);
        self.vain.store(vain, Ordering::Relaxed);
        vain.is_multiple_of(VAIN_CALLS)
    }
}

impl Clone for Cursor {
    fn clone(&self) -> Self {
        Self {
            next: EndU64::new(self.next.load(Ordering::Acquire)),
            repairs: self.repairs.load(Ordering::Relaxed).into(),
            ..Self::default()
        }
    }
}

/// A slot that is ours until it is committed, aborted or released.
#[derive(Debug)]
#[must_use]
pub(crate) struct Claim {
    position: u64,
}

impl Claim {
    /// Where it is.
    #[cfg(not(loom))]
    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

/// Nothing to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Empty {
    /// A slot that was passed over is still being written: a message may yet come from it.
    pub(crate) pending: bool,
}

/// Why a push did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No slot is free.
    Full,
    /// None was found by as many looks as honest peers ever need.
    Lost,
    /// The ring is closed. Somebody may have seen the claim that was given back: wake those who wait.
    Closed,
}

/// The words of a ring, whatever its element: enough for repair and inspection.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    header: NonNull<Header>,
    slots: NonNull<u8>,
    stride: usize,
    mask: u64,
    /// Whether a run is one message, which nobody takes a part of.
    whole: bool,
    /// If only some slots have memory: which.
    pages: Option<Pages>,
    /// The bits of a position that change where a hint is bumped.
    hinted: u64,
}

// SAFETY: the words are atomics in memory that every thread may reach; payloads are touched under a claim only.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

/// Where a slot stands relative to the lap its visitor expects.
#[derive(PartialEq, Eq)]
enum Relation {
    /// The slot still belongs to an earlier lap.
    Behind,
    /// It belongs to the expected lap.
    Same,
    /// It is already this many slots further: whole laps.
    Ahead(u64),
}

/// A search for a slot, from an end's private position on.
struct Walk<'a> {
    position: u64,
    hint: &'a AtomicU64,
    consulted: bool,
    met_rival: bool,
}

impl<'a> Walk<'a> {
    fn new(position: u64, hint: &'a AtomicU64) -> Self {
        Self { position, hint, consulted: false, met_rival: false }
    }

    /// Moves to where the shared hint points, at most once; `false` if that is no further.
    fn consult(&mut self) -> bool {
        if core::mem::replace(&mut self.consulted, true) {
            return false;
        }
        // Acquire: whoever jumps over positions unread must see that they were claimed, see `bump`.
        let shared = self.hint.load(Ordering::Acquire);
        let further = (shared.wrapping_sub(self.position) as i64) > 0;
        if further {
            self.position = shared;
        }
        further
    }

    /// Moves on from a slot that somebody else has had.
    fn step(&mut self, distance: u64) {
        self.met_rival = true;
        self.position = self.position.wrapping_add(distance);
        self.consult();
    }
}

impl Words {
    /// # Safety
    /// `header` and `capacity` slots of `stride` bytes at `slots` are valid for as long as the value is used, aligned
    /// for a [`Header`] and to `stride`'s word; `capacity` is a power of two.
    pub(crate) unsafe fn new(header: NonNull<Header>, slots: NonNull<u8>, stride: usize, capacity: u64) -> Self {
        debug_assert!(capacity.is_power_of_two());
        let hinted = !(HINT_PERIOD.min(capacity) - 1);
        Self { header, slots, stride, mask: capacity - 1, whole: false, pages: None, hinted }
    }

    /// The same, with runs that stay whole: each is one message.
    pub(crate) fn of_whole_runs(self) -> Self {
        Self { whole: true, ..self }
    }

    /// The same, of whose slots only those have memory that `pages` says.
    pub(crate) fn of_pages(self, pages: Pages) -> Self {
        Self { pages: Some(pages), ..self }
    }

    /// Which slots have memory, if not all do.
    #[inline(always)]
    pub(crate) fn pages(&self) -> Option<&Pages> {
        self.pages.as_ref()
    }

    /// Keeps the memory there while `owner` looks at slots that are not its own. Nobody may not: see [`Words::may_not_look`].
    #[inline(always)]
    pub(crate) fn look(&self, owner: u16) -> Option<Look<'_>> {
        debug_assert!(!self.may_not_look(owner));
        self.pages.as_ref().map(|pages| pages.look(owner))
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.mask + 1
    }

    #[inline(always)]
    fn header(&self) -> &Header {
        // SAFETY: valid by the contract of `new`; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    #[inline(always)]
    fn address(&self, position: u64) -> NonNull<u8> {
        let offset = (position & self.mask) as usize * self.stride;
        // SAFETY: the masked index is below the capacity, so the offset stays inside the slots.
        unsafe { self.slots.add(offset) }
    }

    #[inline(always)]
    fn word(&self, position: u64) -> &AtomicU64 {
        // SAFETY: every slot begins with its word, aligned by the contract of `new`.
        unsafe { self.address(position).cast::<AtomicU64>().as_ref() }
    }

    #[inline(always)]
    fn load(&self, position: u64) -> SlotWord {
        if let Some(pages) = &self.pages {
            match pages.state(position) {
                Chunk::Open => {}
                // As it would be if all slots had memory.
                Chunk::Absent => return self.free(position.wrapping_sub(self.capacity())),
                Chunk::Gone => return self.free(position.wrapping_add(self.capacity())),
            }
        }
        // Acquire: orders this look before the next ones, and a payload read after the commit.
        SlotWord(self.word(position).load(Ordering::Acquire))
    }

    /// All slots that have memory: their indices, or positions of that chunk's lap.
    fn indices(&self) -> impl Iterator<Item = u64> + '_ {
        let all = if self.pages.is_none() { 0..self.capacity() } else { 0..0 };
        let open = self.pages.iter().flat_map(|pages| pages.open_ones().flat_map(|begin| begin..begin + pages.len()));
        all.chain(open)
    }

    /// What the word of the slot at `position` says.
    #[inline(always)]
    fn at(&self, position: u64, extra: u64, state: u64, owner: u16) -> SlotWord {
        SlotWord::new(position & !self.mask | extra, state, owner)
    }

    /// A single slot that is free in the lap of `position`.
    #[inline(always)]
    fn free(&self, position: u64) -> SlotWord {
        self.at(position, 0, state::FREE, 0)
    }

    /// How many more slots belong to the run that begins with `word`. Fewer than the ring has, whatever it says.
    #[inline(always)]
    fn extra(&self, word: SlotWord) -> u64 {
        word.round() & self.mask
    }

    /// The same word, for a run of one.
    #[inline(always)]
    fn single(&self, word: SlotWord) -> SlotWord {
        SlotWord(word.0 & !(self.mask << ROUND_SHIFT))
    }

    /// The position of the slot at `index`, as far as its word has room for it.
    fn position(&self, word: SlotWord, index: u64) -> u64 {
        word.round() & !self.mask | index
    }

    /// How far `word`'s lap is from `position`'s in slots, of which only 52 bits count; negative: behind.
    #[inline(always)]
    fn ahead(&self, word: SlotWord, position: u64) -> i64 {
        let distance = (word.round() & !self.mask).wrapping_sub(position & !self.mask);
        (distance << ROUND_SHIFT) as i64 >> ROUND_SHIFT
    }

    #[inline(always)]
    fn relate(&self, word: SlotWord, position: u64) -> Relation {
        match self.ahead(word, position) {
            0 => Relation::Same,
            ahead if ahead < 0 => Relation::Behind,
            ahead => Relation::Ahead(ahead as u64),
        }
    }

    /// How far it is from a slot in the lap of its position, claimed by a sender at some time, to the next one that was a claim's
    /// first.
    #[inline(always)]
    fn span(&self, word: SlotWord) -> u64 {
        self.extra(word) + 1
    }

    /// How far it is to the next position worth a look from a slot that is `ahead`. A slot in lap `l` means that its claim of
    /// lap `l-1` was made, hence every position up to there was claimed, hence all of lap `l-2` released.
    fn skip(&self, position: u64, ahead: u64) -> u64 {
        self.next_look(position).max(ahead.saturating_sub(2 * self.capacity()) + 1)
    }

    /// How far it is to the next position that may still have a message, from one that has none: a chunk without memory has none.
    pub(crate) fn next_look(&self, position: u64) -> u64 {
        match &self.pages {
            Some(pages) if pages.state(position) != Chunk::Open => pages.len() - (position & (pages.len() - 1)),
            _ => 1,
        }
    }

    /// Remembers `next` privately, and now and then in the shared hint.
    #[inline(always)]
    fn advance(&self, cursor: &Cursor, hint: &AtomicU64, next: u64, met_rival: bool) {
        cursor.next.store(next, Ordering::Release);
        if met_rival || next.wrapping_sub(cursor.due.load(Ordering::Relaxed)) as i64 >= 0 {
            self.publish(cursor, hint, next, met_rival);
        }
    }

    #[inline(never)]
    fn publish(&self, cursor: &Cursor, hint: &AtomicU64, next: u64, met_rival: bool) {
        let rivals = if met_rival { RIVALRY } else { cursor.rivals.load(Ordering::Relaxed).saturating_sub(1) };
        cursor.rivals.store(rivals, Ordering::Relaxed);
        let last_before = if rivals > 0 { next } else { next | !self.hinted };
        cursor.due.store(last_before.wrapping_add(1), Ordering::Relaxed);
        self.bump(hint, next);
    }

    fn bump(&self, hint: &AtomicU64, to: u64) {
        let now = hint.load(Ordering::Relaxed);
        if (to.wrapping_sub(now) as i64) > 0 {
            // Release: whoever follows the hint sees the claims before it; else a sender could commit beyond a claim that
            // it cannot see yet, and find the ring empty afterwards. A lost race leaves a hint that lags, which is what
            // hints may do.
            let _ = hint.compare_exchange(now, to, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// See `Control`: the claim is visible to a closer, or we see that it is closing.
    #[inline(always)]
    fn is_closing_after_claim(&self, mode: FenceMode) -> bool {
        light_fence(mode);
        self.header().control.is_closing()
    }

    /// Leaves a message that was claimed for reading to another receiver, as if we had died.
    pub(crate) fn give_back(&self, claim: Claim) {
        self.give_back_run(&Run::single(claim));
    }

    fn announce_orphans(&self) {
        // Release: a receiver that sees the new number finds the ORPHAN words.
        self.header().control.repairs.fetch_add(1, Ordering::Release);
    }
}

/// An MPMC ring of `T`.
pub(crate) struct Owned<T> {
    words: Words,
    marker: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Owned<T> {
    fn clone(&self) -> Self {
        Self { words: self.words, marker: PhantomData }
    }
}

impl<T> core::ops::Deref for Owned<T> {
    type Target = Words;
    #[inline(always)]
    fn deref(&self) -> &Words {
        &self.words
    }
}

impl<T: Copy> Owned<T> {
    /// # Safety
    /// As for [`Words::new`], with [`Element::SLOT_STRIDE`] for the stride; every bit pattern is a `T`.
    pub(crate) unsafe fn new(header: NonNull<Header>, slots: NonNull<u8>, capacity: u64) -> Self {
        const { assert!(size_of::<Slot<T>>() <= Element::<T>::SLOT_STRIDE && align_of::<T>() <= 64) };
        // SAFETY: the caller's contract.
        let words = unsafe { Words::new(header, slots, Element::<T>::SLOT_STRIDE, capacity) };
        Self { words, marker: PhantomData }
    }

    /// The same, of whose slots only those have memory that `pages` says.
    pub(crate) fn of_pages(self, pages: Pages) -> Self {
        Self { words: self.words.of_pages(pages), ..self }
    }

    /// The same, with runs that stay whole.
    pub(crate) fn of_whole_runs(self) -> Self {
        Self { words: self.words.of_whole_runs(), ..self }
    }

    /// As [`Words::address`], with a stride that the compiler knows.
    #[inline(always)]
    fn slot(&self, position: u64) -> &Slot<T> {
        let offset = (position & self.mask) as usize * Element::<T>::SLOT_STRIDE;
        // SAFETY: the masked index is below the capacity, so the offset stays inside the slots.
        let slot = unsafe { self.slots.add(offset) };
        // SAFETY: each of them has room for a `Slot<T>`.
        unsafe { slot.cast::<Slot<T>>().as_ref() }
    }

    /// Claims the first unclaimed slot for writing. All slots have memory.
    #[inline]
    pub(crate) fn claim_free(&self, cursor: &Cursor, owner: u16) -> Result<Claim, Refused> {
        let position = cursor.next.load(Ordering::Acquire);
        let free = self.free(position);
        let taken = self.at(position, 0, state::WRITING, owner);
        let word = &self.slot(position).word;
        // The common case: the slot after our last one is free.
        if word.load(Ordering::Relaxed) == free.0
            && word.compare_exchange(free.0, taken.0, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            self.advance(cursor, &self.header().tail, position.wrapping_add(1), false);
            return Ok(Claim { position });
        }
        self.claim_free_run(cursor, owner, 1).map(Run::claim)
    }

    /// Claims a slot for writing, unless the ring is closed. All slots have memory.
    #[inline]
    pub(crate) fn reserve(&self, cursor: &Cursor, owner: u16, mode: FenceMode) -> Result<Claim, Refused> {
        let claim = self.claim_free(cursor, owner)?;
        if self.is_closing_after_claim(mode) {
            self.release(claim);
            return Err(Refused::Closed);
        }
        Ok(claim)
    }

    /// Takes the place of the oldest message in a full ring: claims it for reading, and its slot, by [`Owned::take_its_place`], for
    /// writing. `None` if there is room, or if the oldest is in the hands of somebody else. `cursor` is a sender's that has just
    /// found the ring full.
    pub(crate) fn claim_oldest(&self, cursor: &Cursor, owner: u16, mode: FenceMode) -> Result<Option<Claim>, Refused> {
        if self.pages.is_some() {
            return Ok(None);
        }
        // What lies in the slot that is to be claimed next is one lap old: nothing in the ring is older.
        let position = cursor.next.load(Ordering::Acquire).wrapping_sub(self.capacity());
        let word = self.load(position);
        if self.ahead(word, position) != 0 || !matches!(word.state(), state::FULL | state::ORPHAN) {
            return Ok(None);
        }
        let taken = self.at(position, 0, state::READING, owner);
        // The look has Acquired the commit. Release: as in `claim_full`.
        if self.word(position).compare_exchange(word.0, taken.0, Ordering::Release, Ordering::Relaxed).is_err() {
            return Ok(None);
        }
        let claim = Claim { position };
        // Before it becomes a sender's claim, it can still be given back.
        if self.is_closing_after_claim(mode) {
            self.give_back(claim);
            return Err(Refused::Closed);
        }
        Ok(Some(claim))
    }

    /// Makes the claim on a message that was read the claim on the slot, one lap on. All positions before it are claimed, and its
    /// slot is ours, so that nobody else can have claimed it.
    pub(crate) fn take_its_place(&self, cursor: &Cursor, owner: u16, claim: Claim) -> Claim {
        let position = claim.position.wrapping_add(self.capacity());
        let taken = self.at(position, 0, state::WRITING, owner);
        // Release: as in `release`. Only the owner leaves READING.
        self.slot(position).word.store(taken.0, Ordering::Release);
        self.advance(cursor, &self.header().tail, position.wrapping_add(1), true);
        Claim { position }
    }

    /// Publishes a written slot.
    #[inline]
    pub(crate) fn commit(&self, claim: Claim) {
        let full = self.at(claim.position, 0, state::FULL, 0);
        // Release: whoever sees FULL sees the payload. Only the owner leaves WRITING.
        self.slot(claim.position).word.store(full.0, Ordering::Release);
    }

    /// Gives a slot that was claimed for writing or reading back to the senders, one lap on.
    #[inline]
    pub(crate) fn release(&self, claim: Claim) {
        let free = self.free(claim.position.wrapping_add(self.capacity()));
        // Release: the next writer of the payload comes after our reads. Only the owner leaves WRITING or READING.
        self.slot(claim.position).word.store(free.0, Ordering::Release);
    }

    /// Claims the oldest message that is there.
    #[inline]
    pub(crate) fn claim_full(&self, cursor: &Cursor, owner: u16) -> Result<Claim, Empty> {
        // Relaxed: if it is another one, `claim_full_run` looks at it in earnest.
        let repairs = self.header().control.repairs.load(Ordering::Relaxed);
        if self.pages.is_none() && repairs == cursor.repairs.load(Ordering::Relaxed) {
            let position = cursor.next.load(Ordering::Acquire);
            let word = &self.slot(position).word;
            let full = SlotWord(word.load(Ordering::Relaxed));
            if self.single(full) == self.at(position, 0, state::FULL, 0) {
                let taken = self.at(position, 0, state::READING, owner);
                // AcqRel: Acquires the commit; Releases what we did before, so that whoever sees the message taken sees the
                // commit of one before it that we had passed over, and does not say Empty.
                if word.compare_exchange(full.0, taken.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    self.advance(cursor, &self.header().head, position.wrapping_add(1), false);
                    return Ok(Claim { position });
                }
            }
        }
        self.claim_full_run(cursor, owner, 1).map(Run::claim)
    }

    /// Claims, writes and commits: everything of a send but the notification.
    #[cfg(any(test, loom))]
    pub(crate) fn push(&self, cursor: &Cursor, owner: u16, mode: FenceMode, value: &T) -> Result<(), Refused> {
        let claim = self.reserve(cursor, owner, mode)?;
        self.write(&claim, value);
        self.commit(claim);
        Ok(())
    }

    /// Where the payload of a claimed slot is.
    #[cfg(not(loom))]
    pub(crate) fn place(&self, claim: &Claim) -> NonNull<T> {
        self.slot(claim.position).payload.place()
    }

    /// Claims, reads and releases: everything of a receive but the notification.
    #[cfg(any(test, loom))]
    pub(crate) fn pop(&self, cursor: &Cursor, owner: u16) -> Result<T, Empty> {
        self.claim_full(cursor, owner).map(|claim| self.take(claim))
    }

    /// Reads and releases.
    #[inline]
    pub(crate) fn take(&self, claim: Claim) -> T {
        let value = self.read(&claim);
        self.release(claim);
        value
    }

    /// Writes the payload of a slot claimed by [`Owned::claim_free`].
    #[inline]
    pub(crate) fn write(&self, claim: &Claim, value: &T) {
        // SAFETY: a claim exists only between a successful CAS and the commit or release that consumes it.
        unsafe { self.slot(claim.position).payload.write(value) }
    }

    /// Reads the payload of a slot claimed by [`Owned::claim_full`].
    #[inline]
    pub(crate) fn read(&self, claim: &Claim) -> T {
        // SAFETY: as for `write`; any bits are a `T` by the contract of `new`.
        unsafe { self.slot(claim.position).payload.read() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
