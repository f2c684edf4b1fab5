//! Looks at all slots of an MPMC ring: repair after the dead, and what can be said of the whole.

use super::{Relation, Words};
use crate::ids::Ids;
use crate::layout::{ROUND_SHIFT, SlotWord, state};
use crate::primitive::{AtomicU64, Ordering, private};
use crate::ring::pages::{Batch, Chunk, InVain, UNASKED};

/// Chunks with something in them after which a tidying receiver goes no further.
const IN_USE: u32 = 4;

/// What a process remembers of slots that kept chunks from being closed: positions.
#[derive(Debug, Default)]
pub(crate) struct Stalled([private::AtomicU64; 8]);

impl Stalled {
    fn of(&self, begin: u64, len: u64) -> &private::AtomicU64 {
        &self.0[(begin / len % 8) as usize]
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

/// What becomes of a run whose owner is dead.
#[derive(Clone, Copy)]
enum Fate {
    /// It was not sent.
    Abort,
    /// It was not received.
    Orphan,
    /// It was received.
    Release,
}

impl Words {
    /// Ends what the `dead` had begun. The caller has proof of each death and is their only repairer.
    pub(crate) fn sweep(&self, dead: &Ids) -> Swept {
        let mut swept = Swept::default();
        if let Some(pages) = &self.pages {
            // Of those that one of the dead has slots in, none is closed; of the others, none is cleared while we look, in its place.
            dead.iter().take(1).for_each(|id| pages.look_for(id, true));
            pages.release_for(dead);
        }
        // Runs do not overlap, so that honest peers do not have more slots in them than this.
        let mut spare = self.pages.as_ref().map_or(self.capacity(), |pages| pages.len() * pages.backed());
        for position in self.indices() {
            let (word, index) = (self.load(position), position & self.mask);
            if !dead.contains(word.owner()) {
                continue;
            }
            let fate = match word.state() {
                state::WRITING => Fate::Abort,
                state::READING => Fate::Orphan,
                state::DONE => Fate::Release,
                _ => continue,
            };
            let first = self.position(word, index);
            let extra = self.within(first, self.extra(word)).min(spare);
            spare -= extra;
            // A message that is due again keeps its run.
            let stays = self.whole && matches!(fate, Fate::Orphan);
            let inner = if stays { 0 } else { extra };
            #[cfg(not(loom))]
            if self.whole && matches!(fate, Fate::Abort) {
                // It may have got as far as its length: who follows would take it for one that was received.
                self.forget_length(first);
            }
            // The owner's word last: until then the next repairer does it again, and nobody looks at the others.
            let settled = (1..=inner).filter(|offset| self.settle_inner(first.wrapping_add(*offset), fate)).count();
            let settled_first = u64::from(self.settle(first, word, fate));
            let settled = if self.whole { settled_first } else { settled as u64 + settled_first };
            match fate {
                Fate::Abort => swept.aborted += settled,
                Fate::Orphan => swept.orphaned += settled,
                Fate::Release => {}
            }
        }
        if let Some(pages) = &self.pages {
            dead.iter().for_each(|id| pages.look_for(id, false));
        }
        // Always, also when nothing was found: a repairer that died in between may have left ORPHANs unannounced.
        self.announce_orphans();
        swept
    }

    /// Settles a slot of a run behind the first one, if its owner had not done so yet, nor another repairer: then it is FREE or
    /// FULL in the lap of its position.
    fn settle_inner(&self, position: u64, fate: Fate) -> bool {
        let word = self.load(position);
        let open = matches!(word.state(), state::FREE | state::FULL) && self.ahead(word, position) == 0;
        open && self.settle(position, word, fate)
    }

    fn settle(&self, position: u64, word: SlotWord, fate: Fate) -> bool {
        let next = match fate {
            Fate::Abort | Fate::Release => self.free(position.wrapping_add(self.capacity())),
            Fate::Orphan => self.at(position, if self.whole { self.extra(word) } else { 0 }, state::ORPHAN, 0),
        };
        // Release: whoever claims the slot next comes after the dead owner's accesses. The CAS cannot fail among honest peers:
        // only the dead owner or its repairer would change this word.
        self.word(position).compare_exchange(word.0, next.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether a message may yet come from a slot, if no sender claims any more: it is there, or being written, or being read
    /// by somebody who may die or give it back: anybody but ourselves, who are `owner` and read `ours` at the moment. A message
    /// stays in its slot, so one look at each decides. `ours` is asked after the look: one that we read no more may be in another hand
    /// of this process, which may give it back.
    pub(crate) fn is_unsettled(&self, owner: u16, ours: impl Fn() -> usize) -> bool {
        if self.may_not_look(owner) {
            return true;
        }
        let _look = self.look(owner);
        let mut read_by_owner = 0;
        let by_others = self.indices().any(|position| {
            let word = self.load(position);
            match word.state() {
                state::WRITING | state::FULL | state::ORPHAN => true,
                state::READING if word.owner() == owner => {
                    read_by_owner += 1;
                    false
                }
                state::READING => true,
                _ => false,
            }
        });
        by_others || read_by_owner > ours()
    }

    /// How many messages that were sent before the slot at `end` was claimed have not been received: they are there, or somebody
    /// reads them, who may die or give them back. A message stays in its slot, so one look at each decides. In a ring of
    /// whole runs each message counts once.
    pub(crate) fn backlog(&self, asker: u16, end: u64) -> u64 {
        if self.may_not_look(asker) {
            return 1;
        }
        let _look = self.look(asker);
        let is_due = |position: &u64| {
            let word = self.load(*position);
            let is_there = matches!(word.state(), state::FULL | state::READING | state::ORPHAN);
            let from_end = self.position(word, *position & self.mask).wrapping_sub(end);
            is_there && ((from_end << ROUND_SHIFT) as i64) < 0
        };
        self.indices().filter(is_due).count() as u64
    }

    /// Committed messages that nobody has claimed: a moment's count, by walking from the head hint.
    pub(crate) fn len(&self, asker: u16) -> u64 {
        self.count(asker, self.capacity())
    }

    /// Whether there are none of them; looks no further than the first.
    pub(crate) fn is_empty(&self, asker: u16) -> bool {
        self.count(asker, 1) == 0
    }

    /// See [`Owned::len`]; looks no further when it has found `most`.
    fn count(&self, asker: u16, most: u64) -> u64 {
        if self.may_not_look(asker) {
            return self.header().tail.load(Ordering::Relaxed).saturating_sub(self.head()).min(most);
        }
        let _look = self.look(asker);
        let mut count = 0;
        if self.header().control.repairs.load(Ordering::Acquire) != 0 {
            // ORPHANs may lie behind the hint.
            let orphans = self.indices().filter(|&position| self.load(position).state() == state::ORPHAN);
            count += orphans.take(most as usize).count() as u64;
        }
        self.walk(&self.header().head, |word| {
            let full = word.state() == state::FULL;
            count += u64::from(full);
            // Each of a run is one, unless it is whole.
            (count < most).then(|| if full && !self.whole { 1 } else { self.span(word) })
        });
        count.min(most)
    }

    /// Whether a sender would find no slot now.
    pub(crate) fn is_full(&self, asker: u16) -> bool {
        self.unclaimed(asker).is_err()
    }

    /// The first slot that nobody has claimed, if it is free; otherwise where it will be.
    pub(crate) fn unclaimed(&self, asker: u16) -> Result<u64, u64> {
        if self.may_not_look(asker) {
            return Ok(self.header().tail.load(Ordering::Relaxed));
        }
        let _look = self.look(asker);
        match self.walk(&self.header().tail, |word| Some(self.span(word))) {
            (position, Some(Relation::Same)) => Ok(position),
            (position, _) => Err(position),
        }
    }

    /// Whether nobody would answer for the asker if it died while it looked at memory that comes and goes: it is nobody.
    pub(crate) fn may_not_look(&self, asker: u16) -> bool {
        asker == 0 && self.pages.is_some()
    }

    /// Walks over the claimed slots from `hint` on, by as many at a time as `visit` says; where it ends and how: at an unclaimed slot
    /// that is free, at one still in use, or where `visit` has seen enough.
    fn walk(&self, hint: &AtomicU64, mut visit: impl FnMut(SlotWord) -> Option<u64>) -> (u64, Option<Relation>) {
        let mut position = hint.load(Ordering::Relaxed);
        let mut budget = self.budget();
        while self.spend(&mut budget, position) {
            let word = self.load(position);
            let relation = self.relate(word, position);
            let distance = match relation {
                Relation::Same if word.state() == state::FREE => return (position, Some(relation)),
                Relation::Behind => return (position, Some(relation)),
                Relation::Same => match visit(word) {
                    Some(distance) => distance,
                    None => break,
                },
                Relation::Ahead(ahead) => self.skip(position, ahead),
            };
            position = position.wrapping_add(distance);
        }
        (position, None)
    }

    /// Where receivers are, about: behind a run.
    pub(crate) fn head(&self) -> u64 {
        // Acquire: as for a receiver that jumps there.
        self.header().head.load(Ordering::Acquire)
    }

    /// Makes the words of a chunk that has just got its memory: free in its lap, unless somebody else was faster. The caller looks.
    pub(crate) fn prepare(&self, begin: u64, len: u64) {
        if self.free(begin).0 == 0 {
            return; // In the first lap they are what memory is when it comes.
        }
        for position in begin..begin.wrapping_add(len) {
            // Release, as for every free slot; whoever finds the chunk open sees them all.
            let free = self.free(position).0;
            let _ = self.word(position).compare_exchange(0, free, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Whether a slot in an open chunk is consumed, and stays so.
    fn is_consumed(&self, position: u64) -> bool {
        let word = self.load(position);
        word.state() == state::FREE && self.ahead(word, position) > 0
    }

    /// Whether all slots of a chunk that is open are consumed. The last one is as a rule the last; one that was not before is asked
    /// first.
    fn all_consumed(&self, begin: u64, len: u64, stalled: &Stalled) -> bool {
        let stalled = stalled.of(begin, len);
        let before = stalled.load(Ordering::Relaxed);
        if before & !(len - 1) == begin && !self.is_consumed(before) {
            return false;
        }
        let due = (begin..begin.wrapping_add(len)).rev().find(|&position| !self.is_consumed(position));
        due.inspect(|&due| stalled.store(due, Ordering::Relaxed)).is_none()
    }

    /// Closes chunks of which nothing is left, those before `end` and some behind it, and calls `clear` for each that nobody looks at
    /// any more, with the chunk; it gives the memory back, and says whether it did. Says whether any was.
    pub(crate) fn tidy(&self, owner: u16, end: u64, stalled: &Stalled, mut clear: impl FnMut(u64) -> bool) -> bool {
        let Some(pages) = &self.pages else { return false };
        let end = pages.chunk_of(end);
        // What is behind the tail is not open, or not claimed.
        let last = end.max(pages.chunk_of(self.header().tail.load(Ordering::Relaxed)));
        let mut next = pages.oldest().max(last.saturating_sub(pages.chunks()));
        let (mut any, mut in_use) = (false, 0);
        // Chunks that may yet be looked at: those that have memory.
        let (mut left, mut asked) = (UNASKED, false);
        while next <= last && in_use < IN_USE {
            let mut closed = Batch::new();
            let look = pages.look(owner);
            while next <= last && in_use < IN_USE && !closed.is_full() {
                let begin = pages.begin(next);
                if pages.state(begin) == Chunk::Open {
                    if left == 0 && !core::mem::replace(&mut asked, true) {
                        left = pages.backed();
                    }
                    if left == 0 {
                        in_use = IN_USE;
                        break;
                    }
                    left -= 1;
                    if self.all_consumed(begin, pages.len(), stalled) {
                        pages.close(next);
                    }
                }
                if pages.is_closed(next) {
                    closed.push(next);
                } else if next >= end && pages.state(begin) != Chunk::Gone {
                    in_use += 1;
                }
                next += 1;
            }
            drop(look);
            match pages.clear(&closed, owner, &mut clear) {
                Ok(cleared) => any |= cleared,
                Err(InVain { any: cleared }) => {
                    any |= cleared;
                    break;
                }
            }
        }
        pages.advance_oldest(next);
        any
    }
}
