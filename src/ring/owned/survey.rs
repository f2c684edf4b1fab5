//! Looks at all slots of an MPMC ring: repair after the dead, and what can be said of the whole.

use super::{HINT_PERIOD, Relation, Words};
use crate::ids::Ids;
use crate::layout::{SlotWord, state};
use crate::primitive::{AtomicU64, Ordering};
use crate::ring::pages::Chunk;

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
        // Runs do not overlap, so that honest peers do not have more slots in them than this.
        let mut spare = self.capacity();
        if let Some(pages) = &self.pages {
            // Of those that one of the dead has slots in, none is closed; of the others, none is cleared while we look, in its place.
            dead.iter().take(1).for_each(|id| pages.look_for(id, true));
            pages.release_for(dead);
        }
        for index in self.indices() {
            let word = self.load(index);
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
            let extra = self.extra(word).min(spare);
            spare -= extra;
            // A message that is due again keeps its run.
            let stays = self.whole && matches!(fate, Fate::Orphan);
            let inner = if stays { 0 } else { extra };
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
    /// stays in its slot, so one look at each decides.
    pub(crate) fn is_unsettled(&self, owner: u16, ours: usize) -> bool {
        let _look = self.look(owner);
        let mut read_by_owner = 0;
        self.indices().any(|index| {
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
    pub(crate) fn len(&self, asker: u16) -> u64 {
        let _look = self.look(asker);
        let mut count = 0;
        if self.header().control.repairs.load(Ordering::Acquire) != 0 {
            // ORPHANs may lie behind the hint.
            let orphans = self.indices().filter(|&index| self.load(index).state() == state::ORPHAN);
            count += orphans.count() as u64;
        }
        self.walk(&self.header().head, |word| {
            let full = word.state() == state::FULL;
            count += u64::from(full);
            // Each of a run is one, unless it is whole.
            if full && !self.whole { 1 } else { self.span(word) }
        });
        count.min(self.capacity())
    }

    /// Whether a sender would find no slot now.
    pub(crate) fn is_full(&self, asker: u16) -> bool {
        let _look = self.look(asker);
        self.walk(&self.header().tail, |word| self.span(word)) != Some(Relation::Same)
    }

    /// Walks over the claimed slots from `hint` on, by as many at a time as `visit` says, and how it ends: at an unclaimed slot
    /// that is free, or at one still in use.
    fn walk(&self, hint: &AtomicU64, mut visit: impl FnMut(SlotWord) -> u64) -> Option<Relation> {
        let mut position = hint.load(Ordering::Relaxed);
        for _ in 0..2 * self.capacity() + HINT_PERIOD {
            let word = self.load(position);
            let relation = self.relate(word, position);
            let distance = match relation {
                Relation::Same if word.state() == state::FREE => return Some(relation),
                Relation::Behind => return Some(relation),
                Relation::Same => visit(word),
                Relation::Ahead(ahead) => self.skip(position, ahead),
            };
            position = position.wrapping_add(distance);
        }
        None
    }

    /// Makes the words of a chunk that has just got its memory: free in its lap, unless somebody else was faster. The caller looks.
    pub(crate) fn prepare(&self, begin: u64, len: u64) {
        for position in begin..begin.wrapping_add(len) {
            // Release, as for every free slot; whoever finds the chunk open sees them all.
            let free = self.free(position).0;
            let _ = self.word(position).compare_exchange(0, free, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Whether all slots of a chunk that is open are consumed, and stay so.
    fn is_consumed(&self, begin: u64, len: u64) -> bool {
        (begin..begin.wrapping_add(len)).all(|position| {
            let word = self.load(position);
            word.state() == state::FREE && self.ahead(word, position) > 0
        })
    }

    /// Closes chunks before `end` of which nothing is left, and calls `clear` for each that nobody looks at any more, with the chunk; it
    /// gives the memory back, and says whether it did. Says whether any was.
    pub(crate) fn tidy(&self, owner: u16, end: u64, mut clear: impl FnMut(u64) -> bool) -> bool {
        let Some(pages) = &self.pages else { return false };
        let mut any = false;
        let last = pages.chunk_of(end);
        let first = pages.oldest().max(last.saturating_sub(self.capacity() >> pages.len().trailing_zeros()));
        for chunk in first..last {
            let begin = pages.begin(chunk);
            {
                let _look = pages.look(owner);
                if pages.state(begin) == Chunk::Open && self.is_consumed(begin, pages.len()) {
                    pages.close(chunk);
                }
            }
            any |= pages.clear(chunk, owner, || clear(chunk));
        }
        pages.advance_oldest(last);
        any
    }
}
