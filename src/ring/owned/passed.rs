//! What a receiver passes over: slots that are being written while later ones are received. A sender may be stopped there, or hold a
//! reservation, for as long as it likes. Every receive has to look at such a slot; it need not look at all that was consumed behind it.
//!
//! So an end remembers which slots it has passed over, and that everything else from the first of them up to some position is consumed.
//! That a slot is consumed in some lap, or in the hands of a receiver, stays true for ever, except for what comes back as an ORPHAN,
//! which is announced ([`Words::claim_full_run`]). So what is remembered never becomes false, only less than could be known. A slot that
//! is no longer being written is where the next walk goes on, as if nothing behind it were known: of a run that was committed there, a
//! part may be due.
//!
//! Threads that share an end share what it remembers, which is several words. So they are read and written under a version, which is
//! odd while somebody writes. A reader that meets a writer tries again for a moment, and then does without; a writer leaves it. Nobody
//! waits, and a child that was forked in the middle does without as well. The version Releases what the writer has seen, for the same
//! reason as [`Cursor::next`](super::Cursor).

use arrayvec::ArrayVec;

use super::{Budget, Words};
use crate::layout::{SlotWord, state};
use crate::primitive::{EndU64, Ordering, fence, spin_loop};

/// How many slots an end remembers. Behind more of them, every receive looks at each slot.
pub(super) const MOST: usize = if cfg!(any(test, loom)) { 2 } else { 16 };
/// By how much what is remembered may lag behind: a write takes longer than some looks.
const LAG: u64 = if cfg!(any(test, loom)) { 1 } else { 8 };
/// How often a reader tries.
const TRIES: u32 = if cfg!(loom) { 1 } else { 100 };

/// What an end remembers.
#[derive(Debug)]
pub(super) struct Memory {
    /// Odd while the other fields are written.
    version: EndU64,
    /// How many of `stalled` there are.
    count: EndU64,
    /// Slots that were being written, in order.
    stalled: [EndU64; MOST],
    /// All else from the first of them up to here is consumed.
    beyond: EndU64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            version: EndU64::new(0),
            count: EndU64::new(0),
            stalled: core::array::from_fn(|_| EndU64::new(0)),
            beyond: EndU64::new(0),
        }
    }
}

impl Memory {
    #[cfg(loom)]
    pub(super) fn share(&mut self) {
        [&mut self.version, &mut self.count, &mut self.beyond]
            .into_iter()
            .chain(&mut self.stalled)
            .for_each(EndU64::share);
    }

    pub(super) fn read(&self) -> Option<(ArrayVec<u64, MOST>, u64)> {
        for _ in 0..TRIES {
            // Acquire: what the writer has seen consumed is consumed for us, too.
            let version = self.version.load(Ordering::Acquire);
            if version.is_multiple_of(2) {
                let count = self.count.load(Ordering::Relaxed) as usize;
                let stalled =
                    self.stalled.iter().take(count).map(|position| position.load(Ordering::Relaxed)).collect();
                let beyond = self.beyond.load(Ordering::Relaxed);
                // Orders the loads above before the next one.
                fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == version {
                    return Some((stalled, beyond));
                }
            }
            spin_loop();
        }
        None
    }

    fn write(&self, stalled: &[u64], beyond: u64) {
        let version = self.version.load(Ordering::Relaxed);
        let odd = version | 1;
        // Acquire: after the writer before us.
        if odd == version || self.version.compare_exchange(version, odd, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        // Whoever reads any of what follows finds the version changed.
        fence(Ordering::Release);
        self.count.store(stalled.len() as u64, Ordering::Relaxed);
        for (place, &position) in self.stalled.iter().zip(stalled) {
            place.store(position, Ordering::Relaxed);
        }
        self.beyond.store(beyond, Ordering::Relaxed);
        // Release: what is above, and what we have seen.
        self.version.store(odd.wrapping_add(1), Ordering::Release);
    }
}

/// The slots that one walk has passed over while they were being written.
#[derive(Default)]
pub(super) struct Passed {
    /// The first of them.
    stalled: ArrayVec<u64, MOST>,
    /// How many more there are, from `rest` on.
    more: u64,
    rest: u64,
    /// How far the end remembers just these.
    known: Option<u64>,
}

impl Passed {
    pub(super) fn is_empty(&self) -> bool {
        self.stalled.is_empty()
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.stalled.first().copied()
    }

    pub(super) fn add(&mut self, position: u64) {
        self.known = None;
        if self.stalled.try_push(position).is_err() {
            if self.more == 0 {
                self.rest = position;
            }
            self.more += 1;
        }
    }

    /// Remembers these for the next walk, which has come to `end` and has left nothing else before it.
    pub(super) fn remember(&self, memory: &Memory, end: u64) {
        let beyond = if self.more > 0 { self.rest } else { end };
        if !self.is_empty() && self.known.is_none_or(|known| beyond.wrapping_sub(known) >= LAG) {
            memory.write(&self.stalled, beyond);
        }
    }
}

impl Words {
    fn is_written(&self, position: u64) -> bool {
        let word = self.load(position);
        word.state() == state::WRITING && self.ahead(word, position) == 0
    }

    /// Passes over `word` at `position`, the first one of a walk that is being written, and over all behind it of which `memory` knows
    /// that nothing is due there; says where to go on.
    pub(super) fn recall(&self, memory: &Memory, position: u64, word: SlotWord, passed: &mut Passed) -> u64 {
        passed.add(position);
        let behind = position.wrapping_add(self.span(word));
        let Some((stalled, beyond)) = memory.read() else { return behind };
        if stalled.first() != Some(&position) || (beyond.wrapping_sub(behind) as i64) < 0 {
            return behind;
        }
        for &position in &stalled[1..] {
            if !self.is_written(position) {
                return position;
            }
            passed.add(position);
        }
        passed.known = Some(beyond);
        beyond
    }

    /// The second look: whether all that were passed over, up to `end`, are being written all the same. None can have become so.
    pub(super) fn are_still_written(&self, passed: &Passed, end: u64, budget: &mut Budget) -> bool {
        passed.stalled.iter().all(|&position| self.is_written(position))
            && (passed.more == 0 || self.count_writing(passed.rest, end, budget) == passed.more)
    }
}
