//! Looks of one who follows the messages of a ring of whole runs and takes none: it claims nothing, and writes nothing.
//!
//! A message stays where it is until a sender claims its slots in the next lap, also after it was received. Four things have to be
//! known of a position:
//!
//! *Whether a message began there.* While it was not freed, its word says so. After that its word is that of a slot that waits for the
//! next lap, and so are those of aborted runs and of slots behind a first one; but the number beside it has the lap of the last message
//! that began there. Only a commit writes it; if its sender is killed before the word says FULL, repair takes it back.
//!
//! *Where the next one begins.* Behind its run, while the word tells how long that is. A run that was freed was freed with its first
//! slot last, so that all behind it are a lap ahead, too, and it is safe to go over slots that are ahead one by one: the first one
//! that is not is a run's first. What is not safe is to begin in the middle of a run that is in use, where words say FREE: so jumps go
//! where the head hint points, which is behind a run, and nowhere else.
//!
//! *Whether all of it has memory*, in a ring whose memory comes and goes. A run that was received may go over into a chunk that is given
//! back, while its own chunk is kept for some other slot. So before the copy all of its chunks must be open; while we look, they stay so.
//!
//! *Whether it is still there after it was copied.* The words of its slots cannot tell: they stay FREE when a run claims them that
//! begins further in front. But claims are contiguous. So the front is looked for, the first position that nobody has claimed, from
//! the tail hint on, after the copy: what is less than a lap behind the front was there all the time.
//!
//! The sender claims, executes the light fence ([`Words::is_closing_after_claim`]) and writes; we read, execute the heavy fence, and
//! look for claims: if we have read anything of the new message, we see that it was claimed. Where loads and stores stay in
//! order, the compiler's fence is enough.
//!
//! Every position is masked and every walk has a budget: hostile words can show what was never sent and hide what was, no more.

use super::{Relation, Words};
use crate::layout::{LENGTH_BITS, state};
use crate::primitive::{AtomicU64, FenceMode, Ordering, fence, heavy_fence};
use crate::ring::pages::Chunk;

/// What one who follows sees at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// No message yet.
    Nothing,
    /// A message of `length` bytes, perhaps; what follows is `span` slots further, if that is known.
    Message { length: u64, span: Option<u64> },
    /// There was none, or it belongs to one that was there.
    Blank,
    /// Whatever there was, senders have written over it.
    Overtaken,
}

impl Words {
    /// How the slot at `position` looks.
    pub(crate) fn see(&self, position: u64) -> Seen {
        debug_assert!(self.whole);
        if self.pages.as_ref().is_some_and(|pages| pages.state(position) == Chunk::Gone) {
            return Seen::Overtaken;
        }
        let word = self.load(position);
        match (self.relate(word, position), word.state()) {
            (Relation::Behind, _) | (Relation::Same, state::FREE | state::WRITING) => Seen::Nothing,
            (Relation::Same, _) => {
                Seen::Message { length: self.lap_and_length(position).1, span: Some(self.span(word)) }
            }
            (Relation::Ahead(ahead), state::FREE) if ahead == self.capacity() => match self.lap_and_length(position) {
                (true, length) => Seen::Message { length, span: None },
                (false, _) => Seen::Blank,
            },
            (Relation::Ahead(_), _) => Seen::Overtaken,
        }
    }

    /// Whether the number beside a slot's word is of the position's lap, and the length that it has.
    fn lap_and_length(&self, position: u64) -> (bool, u64) {
        let payload = self.beside(position).load(Ordering::Relaxed);
        let length = payload & ((1 << LENGTH_BITS) - 1);
        (payload == self.stamped(position, length), length)
    }

    /// Whether all of so many slots from `position` on have memory. The caller looks.
    pub(crate) fn have_memory(&self, position: u64, slots: u64) -> bool {
        let Some(pages) = &self.pages else { return true };
        pages.state(position) == Chunk::Open && pages.reach(position, slots - 1) == slots - 1
    }

    /// The number beside a slot's word.
    pub(super) fn beside(&self, position: u64) -> &AtomicU64 {
        debug_assert!(self.whole);
        // SAFETY: a ring of whole runs has slots of two words.
        let beside = unsafe { self.address(position).cast::<AtomicU64>().add(1) };
        // SAFETY: aligned as the word is. Others may write there meanwhile, so it is reached as an atomic.
        unsafe { beside.as_ref() }
    }

    /// There was no message at `position` in this lap. For its slot's only repairer.
    pub(super) fn forget_length(&self, position: u64) {
        let never = self.stamped(position.wrapping_sub(self.capacity()), 0);
        // Relaxed: who finds the slot free finds this, too; the word is stored with Release.
        self.beside(position).store(never, Ordering::Relaxed);
    }

    /// Whether what was at `position` was there all the time until now.
    pub(crate) fn was_there(&self, position: u64, mode: FenceMode) -> bool {
        match cfg!(target_arch = "x86_64") {
            true => fence(Ordering::Acquire),
            false => heavy_fence(mode),
        }
        let next_lap = position.wrapping_add(self.capacity());
        self.front().is_some_and(|front| (next_lap.wrapping_sub(front) as i64) >= 0)
    }

    /// The first position that no sender has claimed, if it can be told.
    fn front(&self) -> Option<u64> {
        // Acquire: as for a sender that jumps there.
        let mut position = self.header().tail.load(Ordering::Acquire);
        let mut budget = self.budget();
        while self.spend(&mut budget, position) {
            let word = self.load(position);
            match self.relate(word, position) {
                Relation::Same if word.state() == state::FREE => return Some(position),
                Relation::Behind => return Some(position),
                Relation::Same => position = position.wrapping_add(self.span(word)),
                Relation::Ahead(_) => position = position.wrapping_add(self.next_look(position)),
            }
        }
        None
    }
}
