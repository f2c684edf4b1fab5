//! The exclusive right to one end of an SPSC ring.
//!
//! ```text
//! seat word (u64):  pid:32 | state:4 (bits 12..16) | owner:12
//!
//! VACANT ──taker died, before anybody took it──▶ DIED
//! VACANT ──take──▶ HELD(owner) ──close──▶ CLOSED      ──take──▶ HELD
//!                      │ └──hand over──▶ VACANT
//!                      └──owner died──▶ DIED           ──take──▶ HELD
//! ```
//!
//! CLOSED and DIED tell the other end that nobody sits here any more (`pid` says who did); VACANT that somebody is yet
//! to come. Take is a CAS; the other steps are the owner's, or, after its death, its repairer's.

use crate::error::Departure;
use crate::ids::Ids;
use crate::primitive::{AtomicU64, Ordering};
use crate::ring::Roles;
use crate::segment::Side;
use crate::segment::repair::role_words;

const VACANT: u64 = 0;
const HELD: u64 = 1 << 12;
const CLOSED: u64 = 2 << 12;
const DIED: u64 = 3 << 12;
const STATE: u64 = 0xf << 12;
const OWNER: u64 = 0xfff;

/// See the module.
pub(crate) struct Seat<'a>(&'a AtomicU64);

/// The word of a seat before it was taken.
#[derive(Clone, Copy)]
pub(crate) struct Before(u64);

/// Somebody else's hold on a seat.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) owner: u16,
    pub(crate) pid: u32,
}

impl<'a> Seat<'a> {
    pub(crate) fn of(roles: &'a Roles, side: Side) -> Self {
        Self(&role_words(roles, side)[0])
    }

    /// Sits down, unless somebody sits there.
    pub(crate) fn take(&self, id: u16, pid: u32) -> Result<Before, Held> {
        let ours = u64::from(pid) << 32 | HELD | u64::from(id);
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            if now & STATE == HELD {
                return Err(Held { owner: (now & OWNER) as u16, pid: (now >> 32) as u32 });
            }
            // Acquire: what the previous holder did to the ring comes before what we do.
            match self.0.compare_exchange(now, ours, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(Before(now)),
                Err(changed) => now = changed,
            }
        }
    }

    /// Gets up for good: the other end is told.
    pub(crate) fn close(&self, id: u16) {
        self.leave(id, |now| now & !(STATE | OWNER) | CLOSED);
    }

    /// Gets up so that another process can sit down: the other end is not told.
    pub(crate) fn hand_over(&self, id: u16) {
        self.leave(id, |now| now & !(STATE | OWNER) | VACANT);
    }

    /// Gets up as if it had never sat down.
    pub(crate) fn undo(&self, id: u16, before: Before) {
        self.leave(id, |_| before.0);
    }

    /// Ends the hold of a participant that is gone; `false` if none of them had it.
    pub(crate) fn release_for(&self, gone: &Ids, died: bool) -> bool {
        let owner = (self.0.load(Ordering::Relaxed) & OWNER) as u16;
        gone.contains(owner) && self.leave(owner, |now| now & !(STATE | OWNER) | if died { DIED } else { CLOSED })
    }

    /// Who was to take it is gone; `false` if somebody has taken it once.
    pub(crate) fn forsake(&self, pid: u32) -> bool {
        let died = u64::from(pid) << 32 | DIED;
        self.0.compare_exchange(VACANT, died, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Does nothing if the seat is not `id`'s.
    fn leave(&self, id: u16, next: impl Fn(u64) -> u64) -> bool {
        let now = self.0.load(Ordering::Relaxed);
        let held = now & STATE == HELD && now & OWNER == u64::from(id);
        // Release: whoever sees the seat empty sees the last commit. The CAS fails only if the seat is not `id`'s.
        held && self.0.compare_exchange(now, next(now), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether the one who sat here may have gone for good; `departure` knows.
    #[inline(always)]
    pub(crate) fn is_left(&self) -> bool {
        // Relaxed: nothing is read on the strength of it. CLOSED and DIED have this bit, and no other state.
        self.0.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// How the one who sat here went, if it will send or receive no more.
    pub(crate) fn departure(&self) -> Option<Departure> {
        // Acquire: pairs with `leave`; a look at the ring after this finds the last commit.
        let now = self.0.load(Ordering::Acquire);
        match now & STATE {
            CLOSED => Some(Departure::Closed),
            DIED => Some(Departure::Died { pid: (now >> 32) as u32 }),
            _ => None,
        }
    }
}
