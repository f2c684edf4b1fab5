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
//! that every one of them was still WRITING after the decisive look: the order stays linearizable, and so does Empty.
//!
//! *Abort* frees the slot into the next lap, exactly as a release does. Receivers step over it as over any slot that
//! somebody else has consumed, and senders meet it again one lap later; no state of its own is needed.
//!
//! *Repair* of a dead participant: WRITING → aborted, READING → ORPHAN, then `repairs` is bumped. Receivers compare
//! `repairs` with their own copy and take ORPHANs first, oldest first. Each step is idempotent.
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

use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;

use super::{Element, Header, Slot};
use crate::layout::{SlotWord, state};
use crate::primitive::{AtomicU64, FenceMode, Ordering, light_fence, private};

/// Steps a single claim may take beyond four laps, before it gives up as if the ring were full or empty. Walks of
/// honest peers are far shorter.
const SPARE_STEPS: u64 = 1 << 16;
/// Calls that found the ring full or empty between two looks at the clock.
pub(crate) const VAIN_CALLS: u32 = 256;
/// How often a claim tries to be the one that gets an ORPHAN.
const ORPHAN_TRIES: u32 = 64;
/// Positions between two bumps of a shared hint while no rival is met.
const HINT_PERIOD: u64 = 32;
/// For how many claims after meeting a rival every claim bumps the shared hint.
const RIVALRY: u32 = 32;

/// One end's private view of where it is. Sharing it between threads is safe; a cursor each is faster.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    next: private::AtomicU64,
    rivals: private::AtomicU32,
    repairs: private::AtomicU64,
    vain: private::AtomicU32,
}

impl Cursor {
    #[cfg(any(test, loom))]
    pub(crate) fn at(position: u64) -> Self {
        Self { next: position.into(), ..Self::default() }
    }

    /// Has just met a rival: bumps the hint at every claim.
    #[cfg(loom)]
    pub(crate) fn among_rivals(self) -> Self {
        self.rivals.store(RIVALRY, Ordering::Relaxed);
        self
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
            next: self.next.load(Ordering::Relaxed).into(),
            rivals: private::AtomicU32::new(0),
            repairs: self.repairs.load(Ordering::Relaxed).into(),
            vain: private::AtomicU32::new(0),
        }
    }
}

/// A slot that is ours until it is committed, aborted or released.
#[derive(Debug)]
#[must_use]
pub(crate) struct Claim {
    position: u64,
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
    /// The ring is closed. Somebody may have seen the claim that was given back: wake those who wait.
    Closed,
}

/// A set of participant ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids([u64; 8]);

impl Ids {
    pub(crate) fn insert(&mut self, id: u16) {
        self.0[usize::from(id / 64) % 8] |= 1 << (id % 64);
    }

    pub(crate) fn contains(&self, id: u16) -> bool {
        // An id beyond the table is a hostile peer's.
        id < 512 && self.0[usize::from(id / 64)] & (1 << (id % 64)) != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().zip(0..).flat_map(|(&word, at)| {
            let mut left = word;
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros() as u16;
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit)
            })
        })
    }
}

impl FromIterator<u16> for Ids {
    fn from_iter<I: IntoIterator<Item = u16>>(ids: I) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

/// What a sweep for dead participants found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Sends that never happened.
    pub(crate) aborted: u64,
    /// Receives that never returned; their messages are due again.
    pub(crate) orphaned: u64,
}

/// The words of a ring, whatever its element: enough for repair and inspection.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    header: NonNull<Header>,
    slots: NonNull<u8>,
    stride: usize,
    mask: u64,
    shift: u32,
}

// SAFETY: the words are atomics in memory that every thread may reach; payloads are touched under a claim only.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

/// Where a slot stands relative to the lap its visitor expects.
enum Relation {
    /// The slot still belongs to an earlier lap.
    Behind,
    /// It belongs to the expected lap.
    Same,
    /// It is already this many laps further.
    Ahead(u64),
}

/// What a receiver's walk has come to.
enum Found {
    /// A slot that no sender has claimed yet: there is nothing beyond it.
    Unclaimed,
    /// A message that is due.
    Message,
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

    /// Moves on from a slot that somebody else has had, `laps` ahead of where we looked.
    fn step(&mut self, words: &Words, laps: u64) {
        self.met_rival = true;
        self.position = words.skip(self.position, laps);
        self.consult();
    }
}

impl Words {
    /// # Safety
    /// `header` and `capacity` slots of `stride` bytes at `slots` are valid for as long as the value is used, aligned
    /// for a [`Header`] and to `stride`'s word; `capacity` is a power of two.
    pub(crate) unsafe fn new(header: NonNull<Header>, slots: NonNull<u8>, stride: usize, capacity: u64) -> Self {
        debug_assert!(capacity.is_power_of_two());
        Self { header, slots, stride, mask: capacity - 1, shift: capacity.trailing_zeros() }
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
        // Acquire: orders this look before the next ones, and a payload read after the commit.
        SlotWord(self.word(position).load(Ordering::Acquire))
    }

    #[inline(always)]
    fn lap(&self, position: u64) -> u64 {
        position >> self.shift
    }

    #[inline(always)]
    fn relate(&self, word: SlotWord, position: u64) -> Relation {
        match word.ahead_of(self.lap(position)) {
            0 => Relation::Same,
            ahead if ahead < 0 => Relation::Behind,
            ahead => Relation::Ahead(ahead as u64),
        }
    }

    /// The next position worth a look when the slot at `position` is `laps` ahead. A slot in lap `l` means that its
    /// claim of lap `l-1` was made, hence every position up to there was claimed, hence all of lap `l-2` released.
    fn skip(&self, position: u64, laps: u64) -> u64 {
        let whole = laps.saturating_sub(2) << self.shift;
        position.wrapping_add(whole).wrapping_add(1)
    }

    /// How many steps one claim may take.
    fn budget(&self) -> u64 {
        4 * self.capacity() + SPARE_STEPS
    }

    /// Claims the first unclaimed slot for writing; `None` when the ring is full.
    #[inline]
    pub(crate) fn claim_free(&self, cursor: &Cursor, owner: u16) -> Option<Claim> {
        let position = cursor.next.load(Ordering::Relaxed);
        let free = SlotWord::new(self.lap(position), state::FREE, 0);
        let taken = SlotWord::new(self.lap(position), state::WRITING, owner);
        let word = self.word(position);
        // The common case: the slot after our last one is free.
        if word.load(Ordering::Relaxed) == free.0
            && word.compare_exchange(free.0, taken.0, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            self.advance(cursor, &self.header().tail, position.wrapping_add(1), position, false);
            return Some(Claim { position });
        }
        self.claim_free_walking(cursor, owner, position)
    }

    #[inline(never)]
    fn claim_free_walking(&self, cursor: &Cursor, owner: u16, position: u64) -> Option<Claim> {
        let mut walk = Walk::new(position, &self.header().tail);
        for _ in 0..self.budget() {
            let position = walk.position;
            let word = self.load(position);
            match self.relate(word, position) {
                Relation::Same if word.state() == state::FREE => {
                    let taken = SlotWord::new(word.lap(), state::WRITING, owner);
                    // The look has Acquired the release that freed this slot.
                    let claim =
                        self.word(position).compare_exchange(word.0, taken.0, Ordering::Relaxed, Ordering::Relaxed);
                    if claim.is_ok() {
                        self.advance(cursor, &self.header().tail, position.wrapping_add(1), position, walk.met_rival);
                        return Some(Claim { position });
                    }
                }
                // A position that lags by half of all laps looks like a full ring: ask the hint before believing it.
                Relation::Behind if walk.consult() => {}
                Relation::Behind => return None,
                Relation::Same => walk.step(self, 1),
                Relation::Ahead(laps) => walk.step(self, laps),
            }
        }
        None
    }

    /// Remembers `next` privately, and now and then in the shared hint.
    #[inline(always)]
    fn advance(&self, cursor: &Cursor, hint: &AtomicU64, next: u64, claimed: u64, met_rival: bool) {
        cursor.next.store(next, Ordering::Relaxed);
        let rivals = if met_rival { RIVALRY } else { cursor.rivals.load(Ordering::Relaxed) };
        if rivals > 0 || claimed & (HINT_PERIOD.min(self.capacity()) - 1) == 0 {
            cursor.rivals.store(rivals.saturating_sub(1), Ordering::Relaxed);
            self.bump(hint, next);
        }
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

    /// Claims a slot for writing, unless the ring is closed.
    #[inline]
    pub(crate) fn reserve(&self, cursor: &Cursor, owner: u16, mode: FenceMode) -> Result<Claim, Refused> {
        let Some(claim) = self.claim_free(cursor, owner) else { return Err(Refused::Full) };
        // See `Control`: the claim is visible to a closer, or we see that it is closing.
        light_fence(mode);
        if self.header().control.is_closing() {
            self.release(claim);
            return Err(Refused::Closed);
        }
        Ok(claim)
    }

    /// Publishes a written slot.
    #[inline]
    pub(crate) fn commit(&self, claim: Claim) {
        let full = SlotWord::new(self.lap(claim.position), state::FULL, 0);
        // Release: whoever sees FULL sees the payload. Only the owner leaves WRITING.
        self.word(claim.position).store(full.0, Ordering::Release);
    }

    /// Gives a slot that was claimed for writing or reading back to the senders, one lap on.
    #[inline]
    pub(crate) fn release(&self, claim: Claim) {
        let free = SlotWord::new(self.lap(claim.position).wrapping_add(1), state::FREE, 0);
        // Release: the next writer of the payload comes after our reads. Only the owner leaves WRITING or READING.
        self.word(claim.position).store(free.0, Ordering::Release);
    }

    /// Leaves a message that was claimed for reading to another receiver, as if we had died.
    pub(crate) fn give_back(&self, claim: Claim) {
        let orphan = SlotWord::new(self.lap(claim.position), state::ORPHAN, 0);
        // Release: the next reader comes after us. Only the owner leaves READING.
        self.word(claim.position).store(orphan.0, Ordering::Release);
        self.announce_orphans();
    }

    fn announce_orphans(&self) {
        // Release: a receiver that sees the new number finds the ORPHAN words.
        self.header().control.repairs.fetch_add(1, Ordering::Release);
    }

    /// Claims the oldest message that is there.
    #[inline]
    pub(crate) fn claim_full(&self, cursor: &Cursor, owner: u16) -> Result<Claim, Empty> {
        // Acquire: pairs with `announce_orphans`, so that the ORPHAN words are there to be found.
        let repairs = self.header().control.repairs.load(Ordering::Acquire);
        if repairs == cursor.repairs.load(Ordering::Relaxed) {
            // AcqRel: Acquires the commit; Releases what we did before, so that whoever sees the message taken sees the commit
            // of one before it that we had passed over, and does not say Empty.
            let position = cursor.next.load(Ordering::Relaxed);
            let full = SlotWord::new(self.lap(position), state::FULL, 0);
            let word = self.word(position);
            if word.load(Ordering::Relaxed) == full.0 {
                let taken = SlotWord::new(self.lap(position), state::READING, owner);
                if word.compare_exchange(full.0, taken.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    self.advance(cursor, &self.header().head, position.wrapping_add(1), position, false);
                    return Ok(Claim { position });
                }
            }
        }
        self.claim_full_looking_back(cursor, owner, repairs)
    }

    /// Takes ORPHANs first, those older than our position, then walks on from there.
    #[inline(never)]
    fn claim_full_looking_back(&self, cursor: &Cursor, owner: u16, mut repairs: u64) -> Result<Claim, Empty> {
        for _ in 0..ORPHAN_TRIES {
            if repairs != cursor.repairs.load(Ordering::Relaxed) {
                if let Some(claim) = self.claim_orphan(owner)? {
                    return Ok(claim);
                }
                cursor.repairs.store(repairs, Ordering::Relaxed);
            }
            let claim = self.claim_full_walking(cursor, owner, cursor.next.load(Ordering::Relaxed));
            let before = repairs;
            // Acquire: as above. What was given back behind us meanwhile was there all the time.
            repairs = self.header().control.repairs.load(Ordering::Acquire);
            if claim.is_ok() || repairs == before {
                return claim;
            }
        }
        Err(Empty { pending: true })
    }

    #[inline(never)]
    fn claim_full_walking(&self, cursor: &Cursor, owner: u16, position: u64) -> Result<Claim, Empty> {
        let mut walk = Walk::new(position, &self.header().head);
        // The first slot passed over while WRITING, and how many there were.
        let (mut first, mut passed) = (position, 0_u64);
        let mut budget = self.budget();
        while budget > 0 {
            budget -= 1;
            let position = walk.position;
            let word = self.load(position);
            let found = match (self.relate(word, position), word.state()) {
                (Relation::Behind, _) | (Relation::Same, state::FREE) => Found::Unclaimed,
                (Relation::Same, state::FULL | state::ORPHAN) => Found::Message,
                (Relation::Same, state::WRITING) => {
                    if passed == 0 {
                        first = position;
                    }
                    passed += 1;
                    walk.position = position.wrapping_add(1);
                    continue;
                }
                // Somebody else has it, or had it. Once a WRITING slot was passed, no jump may leave the range.
                (Relation::Same, _) | (Relation::Ahead(_), _) if passed > 0 => {
                    walk.position = position.wrapping_add(1);
                    continue;
                }
                (Relation::Same, _) => {
                    walk.step(self, 1);
                    continue;
                }
                (Relation::Ahead(laps), _) => {
                    walk.step(self, laps);
                    continue;
                }
            };
            // The decisive look is done; now the second one.
            if passed > 0 && self.count_writing(first, position) != passed {
                budget = budget.saturating_sub(position.wrapping_sub(first));
                (walk.position, passed) = (first, 0);
                continue;
            }
            // What is due lies at `first` or after it.
            let oldest_due = |next| if passed > 0 { first } else { next };
            match found {
                Found::Unclaimed => {
                    if walk.consult() {
                        passed = 0;
                        continue;
                    }
                    cursor.next.store(oldest_due(position), Ordering::Relaxed);
                    return Err(Empty { pending: passed > 0 });
                }
                Found::Message => {
                    let taken = SlotWord::new(word.lap(), state::READING, owner);
                    // The look has Acquired the commit. Release: see `claim_full`.
                    let claim =
                        self.word(position).compare_exchange(word.0, taken.0, Ordering::Release, Ordering::Relaxed);
                    if claim.is_ok() {
                        let next = oldest_due(position.wrapping_add(1));
                        self.advance(cursor, &self.header().head, next, position, walk.met_rival);
                        return Ok(Claim { position });
                    }
                }
            }
        }
        Err(Empty { pending: true })
    }

    /// How many slots in `from..to` are being written in the lap of their position.
    fn count_writing(&self, from: u64, to: u64) -> u64 {
        let length = to.wrapping_sub(from).min(self.capacity());
        let writing = |offset: &u64| {
            let position = from.wrapping_add(*offset);
            let word = self.load(position);
            word.state() == state::WRITING && word.ahead_of(self.lap(position)) == 0
        };
        (0..length).filter(writing).count() as u64
    }

    /// Claims the oldest message whose receiver died before its receive returned. `Err`: others were always faster.
    #[cold]
    fn claim_orphan(&self, owner: u16) -> Result<Option<Claim>, Empty> {
        for _ in 0..ORPHAN_TRIES {
            // Laps wrap; the distance to the head hint's lap orders those that coexist.
            let head = self.lap(self.header().head.load(Ordering::Relaxed));
            let oldest = (0..self.capacity())
                .map(|index| (self.load(index), index))
                .filter(|(word, _)| word.state() == state::ORPHAN)
                .min_by_key(|(word, index)| (word.ahead_of(head), *index));
            let Some((word, index)) = oldest else { return Ok(None) };
            let taken = SlotWord::new(word.lap(), state::READING, owner);
            // The look has Acquired the sweep's Release, and with it what the dead receiver left as it was.
            if self.word(index).compare_exchange(word.0, taken.0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Ok(Some(Claim { position: word.lap() << self.shift | index }));
            }
        }
        Err(Empty { pending: true })
    }

    /// Ends what the `dead` had begun. The caller has proof of each death and is their only repairer.
    pub(crate) fn sweep(&self, dead: &Ids) -> Swept {
        let mut swept = Swept::default();
        for index in 0..self.capacity() {
            let word = self.load(index);
            if !dead.contains(word.owner()) {
                continue;
            }
            let (next, count) = match word.state() {
                state::WRITING => (SlotWord::new(word.lap().wrapping_add(1), state::FREE, 0), &mut swept.aborted),
                state::READING => (SlotWord::new(word.lap(), state::ORPHAN, 0), &mut swept.orphaned),
                _ => continue,
            };
            // Release: whoever claims the slot next comes after the dead owner's accesses. The CAS cannot fail among
            // honest peers: only the dead owner or its repairer would change this word.
            if self.word(index).compare_exchange(word.0, next.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                *count += 1;
            }
        }
        // Always, also when nothing was found: a repairer that died in between may have left ORPHANs unannounced.
        self.announce_orphans();
        swept
    }

    /// Whether a message may yet come from a slot, if no sender claims any more: it is there, or being written, or being read
    /// by somebody who may die or give it back: anybody but ourselves, who are `owner` and read `ours` at the moment. A message
    /// stays in its slot, so one look at each decides.
    pub(crate) fn is_unsettled(&self, owner: u16, ours: usize) -> bool {
        let mut read_by_owner = 0;
        (0..self.capacity()).any(|index| {
            let word = self.load(index);
            match word.state() {
                state::WRITING | state::FULL | state::ORPHAN => true,
                state::READING if word.owner() == owner => {
                    read_by_owner += 1;
                    read_by_owner > ours
                }
                state::READING => true,
                _ => false,
            }
        })
    }

    /// Committed messages that nobody has claimed: a moment's count, by walking from the head hint.
    pub(crate) fn len(&self) -> u64 {
        let due = |word: SlotWord| matches!(word.state(), state::FULL | state::ORPHAN);
        if self.header().control.repairs.load(Ordering::Acquire) != 0 {
            // ORPHANs may lie behind the hint.
            return (0..self.capacity()).filter(|&index| due(self.load(index))).count() as u64;
        }
        let mut position = self.header().head.load(Ordering::Relaxed);
        let mut count = 0;
        for _ in 0..2 * self.capacity() + HINT_PERIOD {
            let word = self.load(position);
            match self.relate(word, position) {
                Relation::Same if word.state() == state::FREE => break,
                Relation::Behind => break,
                Relation::Same => {
                    count += u64::from(due(word));
                    position = position.wrapping_add(1);
                }
                Relation::Ahead(laps) => position = self.skip(position, laps),
            }
        }
        count.min(self.capacity())
    }

    /// Whether a sender would find no slot now.
    pub(crate) fn is_full(&self) -> bool {
        let mut position = self.header().tail.load(Ordering::Relaxed);
        for _ in 0..2 * self.capacity() + HINT_PERIOD {
            let word = self.load(position);
            match self.relate(word, position) {
                Relation::Same if word.state() == state::FREE => return false,
                Relation::Behind => return true,
                Relation::Same => position = position.wrapping_add(1),
                Relation::Ahead(laps) => position = self.skip(position, laps),
            }
        }
        true
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

    fn slot(&self, claim: &Claim) -> &Slot<T> {
        // SAFETY: the address lies inside the slots, each of which has room for a `Slot<T>` at its stride.
        unsafe { self.words.address(claim.position).cast::<Slot<T>>().as_ref() }
    }

    /// Claims, writes and commits: everything of a send but the notification.
    #[inline]
    pub(crate) fn push(&self, cursor: &Cursor, owner: u16, mode: FenceMode, value: &T) -> Result<(), Refused> {
        let claim = self.reserve(cursor, owner, mode)?;
        self.write(&claim, value);
        self.commit(claim);
        Ok(())
    }

    /// Where the payload of a claimed slot is.
    #[cfg(not(loom))]
    pub(crate) fn place(&self, claim: &Claim) -> NonNull<T> {
        self.slot(claim).payload.place()
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

    /// Writes the payload of a slot claimed by [`Words::claim_free`].
    #[inline]
    pub(crate) fn write(&self, claim: &Claim, value: &T) {
        // SAFETY: a claim exists only between a successful CAS and the commit or release that consumes it.
        unsafe { self.slot(claim).payload.write(value) }
    }

    /// Reads the payload of a slot claimed by [`Words::claim_full`].
    #[inline]
    pub(crate) fn read(&self, claim: &Claim) -> T {
        // SAFETY: as for `write`; any bits are a `T` by the contract of `new`.
        unsafe { self.slot(claim).payload.read() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
