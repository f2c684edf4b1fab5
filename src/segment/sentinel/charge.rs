//! One segment that the sentinel watches over.

use core::mem::offset_of;
use std::sync::Arc;
use std::time::Duration;

use super::posts::{Heard, Wanted};
use super::{STATE, Watch};
use crate::deadline::Deadline;
use crate::event::LOOK;
use crate::ids::Ids;
use crate::layout::SegmentHeader;
use crate::primitive::Ordering;
use crate::segment::repair;
use crate::segment::view::View;
use crate::sys::robust::OWNER_DIED;

/// The first pause before asking again for the lease of somebody who is ending.
const LEASE_PAUSE: Duration = Duration::from_micros(50);
/// So many announcements that follow each other are heard one by one: one participant's.
const SOME: u32 = 2;
/// Announcements follow each other within this time, and twice the rest behind one.
const CROWD: Duration = Duration::from_millis(5);
/// For how long the sentinel hears no further ones after that, for each participant that it knows: so that all sentinels together,
/// each of which looks at each participant, do not keep those from coming who are announced. It hears deaths even so.
const REST: Duration = Duration::from_micros(100);

/// A segment and what the sentinel remembers of it between two looks.
pub(super) struct Charge {
    pub(super) watch: Arc<Watch>,
    /// What is slept on for it.
    pub(super) heard: Vec<Heard>,
    /// When to look at it in any case.
    pub(super) due: Option<Deadline>,
    /// The membership word at the last look.
    seen: u32,
    /// Who was attached then, who was ending, since when somebody has been, and when to ask for the leases again.
    joined: Ids,
    dying: Ids,
    since: Option<Deadline>,
    again: Deadline,
    /// When to look at the leases of those for whom no sentinel answers.
    look: Deadline,
    /// When the last announcement was found, and how many have followed each other.
    announced: Option<Deadline>,
    crowd: u32,
    /// How many of the others had lower ids when it was last decided which of the words to sleep on.
    before_us: usize,
}

impl Charge {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            heard: Vec::new(),
            due: None,
            seen: 0,
            joined: Ids::default(),
            dying: Ids::default(),
            since: None,
            again: Deadline::now(),
            look: Deadline::now(),
            announced: None,
            crowd: 0,
            before_us: 0,
        }
    }

    /// Repairs after the dead, and says what to sleep on, in the order of the keys; `None` if there is nothing to watch over.
    pub(super) fn attend(&mut self) -> Option<Vec<Wanted>> {
        let watch = Arc::clone(&self.watch);
        watch.view.with(|view| {
            let id = watch.id.load(Ordering::Relaxed);
            let (Some(view), Some(lease), 1..) = (view, watch.membership.lease(), id) else { return None };
            // Acquire: what is seen below is at least as new.
            let membership = view.header().membership.word().load(Ordering::Acquire);
            let look = Look::at(view, id);
            let now = Deadline::now();
            let rest = REST * (look.living.len() as u32 + 1);
            if membership != self.seen {
                let follows = self.announced.and_then(|last| last.plus(CROWD + 2 * rest)) > Some(now);
                self.crowd = if follows { self.crowd.saturating_add(1) } else { 0 };
                self.announced = Some(now);
            } else if (&look.joined, &look.dying) != (&self.joined, &self.dying) {
                // The kernel has told nobody else, or somebody died before it could announce what it had done.
                view.announce();
            }
            let mut suspects: Ids = look.dying.iter().filter(|&other| !self.dying.contains(other)).collect();
            if look.dying.is_empty() {
                self.since = None;
            } else {
                let since = *self.since.get_or_insert(now);
                if suspects.is_empty() && self.again <= now || self.dying.is_empty() {
                    let pause = (Duration::from_nanos(now.0.saturating_sub(since.0)) / 4).clamp(LEASE_PAUSE, LOOK);
                    self.again = now.plus(pause).unwrap_or(now);
                    suspects = look.dying.clone();
                }
                self.come_again(self.again);
            }
            (self.seen, self.joined, self.dying) = (membership, look.joined, look.dying);
            if !look.unanswered.is_empty() {
                if self.look <= now {
                    look.unanswered.iter().for_each(|other| suspects.insert(other));
                    self.look = now.plus(LOOK).unwrap_or(now);
                }
                self.come_again(self.look);
            }
            if !suspects.is_empty() {
                repair::repair(view, lease, watch.membership, suspects.iter());
            }
            let rested = self.announced.and_then(|last| last.plus(rest));
            let rests = rested.filter(|&rested| self.crowd >= SOME && rested > now);
            rests.into_iter().for_each(|rested| self.come_again(rested));
            let announcements = rests.is_none().then(|| Wanted {
                key: 0,
                word: watch.page.word(offset_of!(SegmentHeader, membership)),
                seen: membership,
            });
            // Which of the two words: every other one of those who survive `other` sleeps on the same. In a crowd that is settled later.
            if rests.is_none() {
                self.before_us = look.living.partition_point(|&(other, _)| other < id);
            }
            let own = STATE.with(|state| state.own.get(&watch.segment).cloned()).unwrap_or_default();
            let others = look.living.iter().filter(|&&(other, _)| !own.contains(other));
            let lives = others.map(|&(other, life)| {
                let half = (self.before_us + usize::from(other < id)) % 2;
                let word = watch.page.word(view.life_offsets(other)[half]);
                Wanted { key: other * 2 + half as u16, word, seen: life[half] }
            });
            Some(announcements.into_iter().chain(lives).collect())
        })
    }

    /// There is no later look than at `due`.
    fn come_again(&mut self, due: Deadline) {
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// Not everything can be slept on: then it is to be looked at.
    pub(super) fn set_due(&mut self, all_heard: bool) {
        if !all_heard {
            Deadline::after(LOOK).into_iter().for_each(|due| self.come_again(due));
        }
    }
}

/// The other participants, by what their life words say.
struct Look {
    /// All of them.
    joined: Ids,
    /// Their process has ended, or is about to be, as the kernel says; or somebody repairs after them.
    dying: Ids,
    /// No sentinel answers for them.
    unanswered: Ids,
    /// The others, also those who are about to join, in the order of their ids, with their words.
    living: Vec<(u16, [u32; 2])>,
}

impl Look {
    fn at(view: &View, id: u16) -> Self {
        let none = Ids::default;
        let mut look = Self { joined: none(), dying: none(), unanswered: none(), living: Vec::new() };
        for other in (1..=view.max_participants()).filter(|&other| other != id) {
            let life = view.life(other).map(|word| word.load(Ordering::Acquire));
            let joined = view.has_joined(other);
            if joined {
                look.joined.insert(other);
            }
            match life {
                _ if joined && view.is_dying(other) => look.dying.insert(other),
                [0, _] | [_, 0] if joined => look.unanswered.insert(other),
                // Not there, or not yet; or it ended before it had joined.
                [a, b] if a == 0 || b == 0 || (a | b) & OWNER_DIED != 0 => {}
                life => look.living.push((other, life)),
            }
        }
        look
    }
}
