//! Claims of runs: as many slots in a row as there are, or as a message needs, by one CAS. And every claim that is not the next
//! slot of an end that meets nobody.

use super::passed::Passed;
use super::{Budget, Claim, Cursor, Empty, ORPHAN_TRIES, Owned, Refused, Relation, Walk, Words};
use crate::layout::{LENGTH_BITS, SlotWord, state};
use crate::primitive::{FenceMode, Ordering};
use crate::ring::Slot;

/// Slots in a row that are ours, as one: until they are committed, aborted or released.
#[derive(Debug)]
#[must_use]
pub(crate) struct Run {
    pub(super) position: u64,
    /// How many more there are than the first.
    pub(super) extra: u64,
    pub(super) owner: u16,
}

impl Run {
    pub(crate) fn len(&self) -> usize {
        self.extra as usize + 1
    }

    /// Where it begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Its offsets, in the order in which they are given to others: they look at the first one only.
    fn first_one_last(&self) -> impl Iterator<Item = u64> + use<> {
        (1..=self.extra).chain([0])
    }

    /// A claim as a run of one. Who has made it matters only to runs.
    pub(crate) fn single(claim: Claim) -> Self {
        Self { position: claim.position, extra: 0, owner: 0 }
    }

    /// A run of one.
    pub(crate) fn claim(self) -> Claim {
        debug_assert!(self.extra == 0);
        Claim { position: self.position }
    }
}

/// What a receiver's walk has come to.
enum Found {
    /// A slot that no sender has claimed yet: there is nothing beyond it.
    Unclaimed,
    /// A message that is due.
    Message,
}

impl Words {
    /// Claims the first unclaimed slot for writing, and with it those behind it that are free, `most` in all.
    #[inline(never)]
    pub(crate) fn claim_free_run(&self, cursor: &Cursor, owner: u16, most: usize) -> Result<Run, Refused> {
        self.claim_free_runs(cursor, owner, 1, most)
    }

    /// As `claim_free_run`; `Full` also when there are fewer than `least`.
    fn claim_free_runs(&self, cursor: &Cursor, owner: u16, least: usize, most: usize) -> Result<Run, Refused> {
        let _look = self.look(owner);
        let mut walk = Walk::new(cursor.next.load(Ordering::Acquire), &self.header().tail);
        let mut budget = self.budget();
        while self.spend(&mut budget, walk.position) {
            let position = walk.position;
            let word = self.load(position);
            match self.relate(word, position) {
                Relation::Same if word.state() == state::FREE => {
                    let extra = self.count_free(position, most) - 1;
                    if extra + 1 < least as u64 {
                        let behind = position.wrapping_add(extra + 1);
                        if self.relate(self.load(behind), behind) == Relation::Behind {
                            cursor.next.store(position, Ordering::Release);
                            return Err(Refused::Full);
                        }
                        budget.looks = budget.looks.saturating_sub(extra);
                        // Somebody has claimed the first one, too, meanwhile. A load might not see that yet; this fails then.
                        let _ =
                            self.word(position).compare_exchange(word.0, word.0, Ordering::Relaxed, Ordering::Relaxed);
                        continue;
                    }
                    let taken = self.at(position, extra, state::WRITING, owner);
                    // The looks have Acquired the releases that freed these slots.
                    let claim =
                        self.word(position).compare_exchange(word.0, taken.0, Ordering::Relaxed, Ordering::Relaxed);
                    if claim.is_ok() {
                        let next = position.wrapping_add(extra + 1);
                        self.advance(cursor, &self.header().tail, next, walk.met_rival);
                        return Ok(Run { position, extra, owner });
                    }
                }
                // A position that lags by half of all laps looks like a full ring: ask the hint before believing it.
                Relation::Behind if walk.consult() => {}
                Relation::Behind => {
                    cursor.next.store(position, Ordering::Release);
                    return Err(Refused::Full);
                }
                Relation::Same => walk.step(self.span(word)),
                Relation::Ahead(ahead) => walk.step(self.skip(position, ahead)),
            }
        }
        Err(Refused::Lost)
    }

    /// How many slots from `position` on, which is free, are free, but at most `most`. Those behind it stay so until somebody
    /// claims the first.
    fn count_free(&self, position: u64, most: usize) -> u64 {
        let most = self.capacity().min(most as u64).max(1);
        let is_free = |offset: &u64| {
            let position = position.wrapping_add(*offset);
            self.load(position) == self.free(position)
        };
        1 + (1..most).take_while(is_free).count() as u64
    }

    /// Claims up to `most` slots in a row for writing, but at least `least`, unless the ring is closed.
    pub(crate) fn reserve_run(
        &self,
        cursor: &Cursor,
        owner: u16,
        mode: FenceMode,
        least: usize,
        most: usize,
    ) -> Result<Run, Refused> {
        let run = self.claim_free_runs(cursor, owner, least, most)?;
        if self.is_closing_after_claim(mode) {
            self.free_run(&run);
            return Err(Refused::Closed);
        }
        Ok(run)
    }

    /// Leaves a run that was claimed for reading to another receiver, as if we had died; in a ring of whole runs, or a single one.
    pub(crate) fn give_back_run(&self, run: &Run) {
        let orphan = self.at(run.position, run.extra, state::ORPHAN, 0);
        // Release: the next reader comes after us. Only the owner leaves READING.
        self.word(run.position).store(orphan.0, Ordering::Release);
        self.announce_orphans();
    }

    /// Gives a run that was read back to the senders. Once it says DONE, all of it was received.
    #[inline]
    pub(crate) fn release_run(&self, run: &Run) {
        if run.extra == 0 {
            return self.free_at(run.position);
        }
        self.mark_done(run);
        self.free_run(run);
    }

    pub(crate) fn mark_done(&self, run: &Run) {
        let done = self.at(run.position, run.extra, state::DONE, run.owner);
        // Release: as the claim, which this takes the place of, see `Owned::claim_full`.
        self.word(run.position).store(done.0, Ordering::Release);
    }

    /// Frees a run, its first slot last, so that whoever sees that one free does not take the next ones for unclaimed.
    pub(super) fn free_run(&self, run: &Run) {
        for offset in run.first_one_last() {
            self.free_at(run.position.wrapping_add(offset));
        }
    }

    #[inline]
    fn free_at(&self, position: u64) {
        // Release: as in `Owned::release`.
        self.word(position).store(self.free(position.wrapping_add(self.capacity())).0, Ordering::Release);
    }

    /// Claims the oldest message that is there, and with it those that were sent in one run with it, `most` in all: ORPHANs
    /// first, those older than our position.
    #[inline(never)]
    pub(crate) fn claim_full_run(&self, cursor: &Cursor, owner: u16, most: usize) -> Result<Run, Empty> {
        let _look = self.look(owner);
        let mut tries = ORPHAN_TRIES;
        // Acquire: pairs with `announce_orphans`, so that the ORPHAN words are there to be found.
        let mut repairs = self.header().control.repairs.load(Ordering::Acquire);
        for _ in 0..ORPHAN_TRIES {
            if repairs != cursor.repairs.load(Ordering::Relaxed) {
                if let Some(run) = self.claim_orphan(owner, &mut tries)? {
                    return Ok(run);
                }
                cursor.repairs.store(repairs, Ordering::Relaxed);
            }
            let claim = self.claim_full_walking(cursor, owner, most);
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
    fn claim_full_walking(&self, cursor: &Cursor, owner: u16, most: usize) -> Result<Run, Empty> {
        let mut walk = Walk::new(cursor.next.load(Ordering::Acquire), &self.header().head);
        let mut passed = Passed::default();
        let mut budget = self.budget();
        while self.spend(&mut budget, walk.position) {
            let position = walk.position;
            let word = self.load(position);
            let found = match (self.relate(word, position), word.state()) {
                (Relation::Behind, _) | (Relation::Same, state::FREE) => Found::Unclaimed,
                (Relation::Same, state::FULL | state::ORPHAN) => Found::Message,
                (Relation::Same, state::WRITING) => {
                    walk.position = if passed.is_empty() {
                        self.recall(&cursor.passed, position, word, &mut passed)
                    } else {
                        passed.add(position);
                        position.wrapping_add(self.span(word))
                    };
                    continue;
                }
                // Somebody else has it, or had it. Once a WRITING slot was passed, no jump may leave the range.
                (Relation::Same, _) if !passed.is_empty() => {
                    walk.position = position.wrapping_add(self.span(word));
                    continue;
                }
                (Relation::Ahead(_), _) if !passed.is_empty() => {
                    walk.position = position.wrapping_add(self.next_look(position));
                    continue;
                }
                (Relation::Same, _) => {
                    walk.step(self.span(word));
                    continue;
                }
                (Relation::Ahead(ahead), _) => {
                    walk.step(self.skip(position, ahead));
                    continue;
                }
            };
            // The decisive look is done; now the second one.
            if !self.are_still_written(&passed, position, &mut budget) {
                walk.position = passed.first().unwrap_or(position);
                passed = Passed::default();
                continue;
            }
            // What is due lies at the first one that was passed over, or after it.
            let oldest_due = |next| passed.first().unwrap_or(next);
            match found {
                Found::Unclaimed => {
                    if walk.consult() {
                        passed = Passed::default();
                        continue;
                    }
                    passed.remember(&cursor.passed, position);
                    cursor.next.store(oldest_due(position), Ordering::Release);
                    return Err(Empty { pending: !passed.is_empty() });
                }
                Found::Message => {
                    let extra = self.within(position, self.extra(word).min(most.max(1) as u64 - 1));
                    let taken = self.at(position, extra, state::READING, owner);
                    // The look has Acquired the commit. Release: see `Owned::claim_full`.
                    let claim =
                        self.word(position).compare_exchange(word.0, taken.0, Ordering::Release, Ordering::Relaxed);
                    if claim.is_ok() {
                        let next = position.wrapping_add(extra + 1);
                        passed.remember(&cursor.passed, next);
                        self.advance(cursor, &self.header().head, oldest_due(next), walk.met_rival);
                        return Ok(Run { position, extra, owner });
                    }
                }
            }
        }
        Err(Empty { pending: true })
    }

    /// A length, with the lap of this position, counted from 1: fresh memory has none.
    #[inline]
    pub(super) fn stamped(&self, position: u64, length: u64) -> u64 {
        let lap = position >> self.capacity().trailing_zeros();
        lap.wrapping_add(1) << LENGTH_BITS | length
    }

    /// How many runs in `from..to` are being written in the lap of their position. Only the first slot of a run is ever WRITING.
    pub(super) fn count_writing(&self, from: u64, to: u64, budget: &mut Budget) -> u64 {
        let length = to.wrapping_sub(from).min(self.capacity());
        let (mut offset, mut count) = (0, 0);
        while offset < length {
            let position = from.wrapping_add(offset);
            if !self.spend(budget, position) {
                return u64::MAX;
            }
            let word = self.load(position);
            count += u64::from(word.state() == state::WRITING && self.ahead(word, position) == 0);
            offset += self.next_look(position);
        }
        count
    }

    /// Claims the oldest message whose receiver died before its receive returned. `Err`: others were always faster.
    #[cold]
    fn claim_orphan(&self, owner: u16, tries: &mut u32) -> Result<Option<Run>, Empty> {
        while *tries > 0 {
            *tries -= 1;
            // Laps wrap; the distance to the head hint's lap orders those that coexist.
            let head = self.header().head.load(Ordering::Relaxed);
            let oldest = self
                .indices()
                .map(|position| (self.load(position), position & self.mask))
                .filter(|(word, _)| word.state() == state::ORPHAN)
                .min_by_key(|(word, index)| (self.ahead(*word, head), *index));
            let Some((word, index)) = oldest else { return Ok(None) };
            let position = self.position(word, index);
            let extra = if self.whole { self.within(position, self.extra(word)) } else { 0 };
            let taken = self.at(position, extra, state::READING, owner);
            // The look has Acquired the sweep's Release, and with it what the dead receiver left as it was. Release: see
            // `Owned::claim_full`.
            if self.word(index).compare_exchange(word.0, taken.0, Ordering::Release, Ordering::Relaxed).is_ok() {
                return Ok(Some(Run { position, extra, owner }));
            }
        }
        Err(Empty { pending: true })
    }
}

impl<T: Copy> Owned<T> {
    /// As [`Owned::push`], as many of `values` as there is room for in one run, which arrive all at once; says how many.
    pub(crate) fn push_run(
        &self,
        cursor: &Cursor,
        owner: u16,
        mode: FenceMode,
        values: &[T],
    ) -> Result<usize, Refused> {
        let run = self.reserve_run(cursor, owner, mode, 1, values.len())?;
        self.commit_run(&run, |slot, offset| {
            // SAFETY: every slot of a run is ours between the CAS on its first one and its commit.
            unsafe { slot.payload.write(&values[offset]) }
        });
        Ok(run.len())
    }

    /// Publishes all of a run at once, after `write` has written each of its slots: what comes behind the first slot is not
    /// looked at before that is FULL.
    pub(super) fn commit_run(&self, run: &Run, write: impl Fn(&Slot<T>, usize)) {
        for offset in run.first_one_last() {
            let position = run.position.wrapping_add(offset);
            let slot = self.slot(position);
            write(slot, offset as usize);
            // Release: whoever sees FULL in the first one sees all payloads, and the other words.
            slot.word.store(self.at(position, run.extra - offset, state::FULL, 0).0, Ordering::Release);
        }
    }

    /// The messages of a run claimed by [`Words::claim_full_run`], in order.
    pub(crate) fn read_run(&self, run: &Run) -> impl Iterator<Item = T> {
        // SAFETY: every slot of a run is ours until it is released; any bits are a `T` by the contract of `new`.
        (0..=run.extra).map(|offset| unsafe { self.slot(run.position.wrapping_add(offset)).payload.read() })
    }
}

/// Rings of whole runs: the payload of the first slot is the message's own, the others have none. What is behind the first slot
/// stays FREE in its lap until the run is freed, so that a commit is one store. The payload is the message's length, with the lap it
/// was sent in, so that who only follows ([`follow`](super::follow)) knows it from one that an earlier message has left.
impl Owned<u64> {
    /// Claims `length` slots in a row for writing, unless the ring is closed.
    #[inline]
    pub(crate) fn reserve_whole(
        &self,
        cursor: &Cursor,
        owner: u16,
        mode: FenceMode,
        length: usize,
    ) -> Result<Run, Refused> {
        if length == 1 && self.pages.is_none() {
            let Claim { position } = self.reserve(cursor, owner, mode)?;
            return Ok(Run { position, extra: 0, owner });
        }
        self.reserve_run(cursor, owner, mode, length, length)
    }

    /// Publishes a run whose message has this length.
    #[inline]
    pub(crate) fn commit_whole(&self, run: &Run, length: u64) {
        let slot = self.slot(run.position);
        let payload = self.stamped(run.position, length);
        // SAFETY: the run is ours between the CAS on its first slot and this commit.
        unsafe { slot.payload.write(&payload) }
        // Release: whoever sees FULL sees the payload, and whatever else belongs to these slots. Only the owner leaves WRITING.
        slot.word.store(self.at(run.position, run.extra, state::FULL, 0).0, Ordering::Release);
    }

    /// Claims the oldest message that is there.
    #[inline]
    pub(crate) fn claim_whole(&self, cursor: &Cursor, owner: u16) -> Result<Run, Empty> {
        // As in `claim_full`, but for the length of the run.
        let repairs = self.header().control.repairs.load(Ordering::Relaxed);
        if self.pages.is_none() && repairs == cursor.repairs.load(Ordering::Relaxed) {
            let position = cursor.next.load(Ordering::Acquire);
            let word = &self.slot(position).word;
            let full = SlotWord(word.load(Ordering::Relaxed));
            if self.single(full) == self.at(position, 0, state::FULL, 0) {
                let extra = self.extra(full);
                let taken = self.at(position, extra, state::READING, owner);
                // AcqRel: as there.
                if word.compare_exchange(full.0, taken.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    self.advance(cursor, &self.header().head, position.wrapping_add(extra + 1), false);
                    return Ok(Run { position, extra, owner });
                }
            }
        }
        self.claim_full_run(cursor, owner, usize::MAX)
    }

    /// The length of the message of a run claimed by [`Owned::claim_whole`].
    #[inline]
    pub(crate) fn length(&self, run: &Run) -> u64 {
        // SAFETY: the run is ours until it is released; any bits are a number.
        let payload = unsafe { self.slot(run.position).payload.read() };
        payload & ((1 << LENGTH_BITS) - 1)
    }
}
