//! Ending what the dead had begun.
//!
//! Every step is idempotent, and a repairer that dies is followed by another, because the table entry is freed last: rings
//! (WRITING → aborted, READING → ORPHAN, then the ring's `repairs` is bumped), roles and seats, locks, buffers; then everybody
//! in the segment is woken, since somebody may have been waiting for the dead, or have been meant by a wake that the dead
//! had received or was about to send; and only then the entry.

use std::os::fd::BorrowedFd;

use super::membership::{Membership, Side};
use super::view::View;
use crate::error::{Departure, Error};
use crate::event::{ALL, Event};
use crate::ids::Ids;
use crate::layout::{ENTRY_DISCONNECT, standing};
use crate::object::{Kind, Object};
use crate::primitive::{AtomicU64, Ordering};
use crate::ring::owned::Swept;
use crate::ring::{Header, Roles};
use crate::seat::Seat;
use crate::sys::lease;
use crate::{latest, lock};

/// What a repair found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// The process ids of the dead, as they called themselves.
    pub died: Vec<u32>,
    /// Sends that had begun and never happened.
    pub aborted: u64,
    /// Receives that had begun and never returned; their messages are delivered to somebody else.
    pub redelivered: u64,
    /// Locks that will be handed over with the news of their holder's death.
    pub locks: u64,
}

/// Whether participant `id` lives, by its lease alone. Unknown means alive. `our_lease` must not hold that lease itself.
/// Somebody who repairs after the dead holds its lease, too, and says so.
pub(crate) fn alive(view: &View, our_lease: BorrowedFd<'_>, id: u16) -> bool {
    lease::held_by_another(our_lease, id) && view.tenure(id).standing() != standing::DYING
}

/// Repairs after every one of the `suspects` whose lease is free; `own` is a description of ours.
///
/// The proof of a death and the right to repair after it are one thing: the lease byte of the dead, locked by us. So
/// repair needs no other lock, and a participant that is stopped, wherever else, keeps nobody from it.
pub(crate) fn repair(
    view: &View,
    own: BorrowedFd<'_>,
    membership: &Membership,
    suspects: impl Iterator<Item = u16>,
) -> Recovered {
    // One description's locks do not exclude its own threads.
    membership.repairing.with(|()| {
        let locked: Ids = suspects.filter(|&id| matches!(lease::try_lock(own, id), Ok(true))).collect();
        // Somebody may have repaired, and a newcomer left again, since we saw the entry.
        let dead: Ids = locked.iter().filter(|&id| view.has_joined(id)).collect();
        let recovered = if dead.is_empty() { Recovered::default() } else { bury(view, own, &dead) };
        locked.iter().for_each(|id| lease::unlock(own, id));
        recovered
    })
}

/// Ends what the dead had begun, in an order in which a repairer that dies is followed by another.
fn bury(view: &View, file: BorrowedFd<'_>, dead: &Ids) -> Recovered {
    for id in dead.iter() {
        // Others who find the lease held by us must not take it for a sign of life.
        view.set_tenure(id, |tenure| tenure.with(standing::DYING));
    }
    let Ok((mut recovered, _)) = release(view, file, dead, true, true) else {
        // A queue could not be mapped. They stay dying; whoever looks next tries again.
        return Recovered::default();
    };
    recovered.died = dead.iter().map(|id| view.participant(id).pid.load(Ordering::Relaxed)).collect();
    wake_everybody(view);
    end(view, dead, true);
    recovered
}

/// Frees the table entries of participants that are gone, and announces it. The caller holds their leases. The life words come
/// last: until the others have been told, the kernel still would, should we die.
pub(super) fn end(view: &View, gone: &Ids, died: bool) {
    gone.iter().for_each(|id| view.set_tenure(id, |tenure| tenure.ended(died)));
    view.announce();
    gone.iter().for_each(|id| view.clear_life(id));
}

/// Takes everything in the segment from participants that are gone, and says whether anything was theirs. `sweep`: slots, too,
/// which a leaver has only if it has forgotten guards.
pub(crate) fn release(
    view: &View,
    file: BorrowedFd<'_>,
    gone: &Ids,
    died: bool,
    sweep: bool,
) -> Result<(Recovered, bool), Error> {
    let mut recovered = Recovered::default();
    let mut changed = false;
    for object in view.objects().map_while(Result::ok) {
        for ring in view.rings(&object) {
            match object.shape.kind {
                Kind::Queue | Kind::SharedPipe => {
                    if sweep {
                        let swept = match ring.words(file) {
                            Ok((words, _keep)) => words.sweep(gone),
                            // Nobody can use its slots, and the others must not wait for it.
                            Err(Error::Truncated { .. }) => Swept::default(),
                            Err(e) => return Err(e),
                        };
                        recovered.aborted += swept.aborted;
                        recovered.redelivered += swept.orphaned;
                    }
                    for id in gone.iter() {
                        let pid = if died { view.participant(id).pid.load(Ordering::Relaxed) } else { 0 };
                        changed |= clear_role(ring.header, Side::Sender, id, pid);
                        changed |= clear_role(ring.header, Side::Receiver, id, pid);
                    }
                }
                _ => {
                    for side in [Side::Sender, Side::Receiver] {
                        changed |= Seat::of(&ring.header.roles, side).release_for(gone, died);
                    }
                }
            }
        }
        match object.shape.kind {
            Kind::Lock => recovered.locks += u64::from(lock::abandon(view, &object, gone)),
            Kind::Latest => changed |= latest::abandon(view, &object, gone),
            _ => {}
        }
    }
    Ok((recovered, changed))
}

/// The words that say which participants have an end of an MPMC ring.
pub(crate) fn role_words(roles: &Roles, side: Side) -> &[AtomicU64; 8] {
    match side {
        Side::Sender => &roles.senders,
        Side::Receiver => &roles.receivers,
    }
}

/// Marks `id` as having an end. Bit 0 stays set for ever: somebody was here.
pub(crate) fn set_role(ring: &Header, side: Side, id: u16) {
    let words = role_words(&ring.roles, side);
    words[usize::from(id) / 64].fetch_or(1 << (id % 64), Ordering::AcqRel);
    words[0].fetch_or(1, Ordering::AcqRel);
    ring.control.arrivals.fetch_add(1, Ordering::AcqRel);
}

/// Marks `id` as having none; `false` if that is so already. `pid` is its process id if it died, else 0.
pub(crate) fn clear_role(ring: &Header, side: Side, id: u16, pid: u32) -> bool {
    let bit = 1 << (id % 64);
    let word = &role_words(&ring.roles, side)[usize::from(id) / 64];
    if word.load(Ordering::Relaxed) & bit != 0 {
        // Ordered by the Release below: whoever finds nobody left finds how the last one went.
        ring.control.departed[side as usize].store(pid, Ordering::Relaxed);
    }
    // Release: whoever sees the bit gone sees the last commit.
    let had = word.fetch_and(!bit, Ordering::AcqRel) & bit != 0;
    // Also if the bit was gone: its owner may have been killed just before this, or after it had closed the ring. Release: whoever
    // sees the count finds the bit gone.
    ring.control.news[side as usize].fetch_add(1, Ordering::Release);
    had
}

/// Process `pid`, which was to take an end, is gone, and nobody else is to come: each end that nobody has ever taken counts as left by
/// it, if somebody has the other one; those of MPMC queues only if it `failed`. Nothing to repair if we die in between: then those
/// of ours are told of that.
pub(crate) fn forsake(view: &View, pid: u32, failed: bool) {
    let tells =
        |object: &Object| object.shape.flags & ENTRY_DISCONNECT != 0 && (failed || object.shape.kind != Kind::Queue);
    let mut changed = false;
    for object in view.objects().map_while(Result::ok).filter(tells) {
        for ring in view.rings(&object) {
            for (side, other) in [(Side::Sender, Side::Receiver), (Side::Receiver, Side::Sender)] {
                let words = |side| role_words(&ring.header.roles, side);
                if words(other).iter().all(|word| word.load(Ordering::Relaxed) == 0) {
                    continue;
                }
                changed |= match object.shape.kind {
                    Kind::Queue | Kind::SharedPipe => {
                        let fresh = words(side).iter().all(|word| word.load(Ordering::Relaxed) == 0);
                        if fresh {
                            // Ordered by the Release below, as in `clear_role`.
                            ring.header.control.departed[side as usize].store(pid, Ordering::Relaxed);
                            words(side)[0].fetch_or(1, Ordering::AcqRel);
                            ring.header.control.news[side as usize].fetch_add(1, Ordering::Release);
                        }
                        fresh
                    }
                    _ => Seat::of(&ring.header.roles, side).forsake(pid),
                };
            }
        }
    }
    if changed {
        wake_everybody(view);
    }
}

/// How the last one with an end on `side` went.
pub(crate) fn departure(ring: &Header, side: Side) -> Departure {
    match ring.control.departed[side as usize].load(Ordering::Relaxed) {
        0 => Departure::Closed,
        pid => Departure::Died { pid },
    }
}

/// Whether nobody with an end on `side` is left of those who were there.
pub(crate) fn nobody_left(ring: &Header, side: Side) -> bool {
    let words = role_words(&ring.roles, side);
    let arrivals = ring.control.arrivals.load(Ordering::Acquire);
    // Acquire: pairs with the clearing of the last bit; the look at the ring comes after.
    words.iter().enumerate().all(|(i, word)| word.load(Ordering::Acquire) == u64::from(i == 0))
        // Somebody may have arrived in a word already read, before the last one left from a later word.
        && ring.control.arrivals.load(Ordering::Acquire) == arrivals
}

/// Every event of an object.
pub(crate) fn events<'a>(view: &'a View, object: &'a Object) -> impl Iterator<Item = &'a Event> + 'a {
    let of_rings = view.rings(object).flat_map(|ring| [&*ring.header.not_empty, &*ring.header.not_full]);
    let others: &[usize] = match object.shape.kind {
        Kind::Value | Kind::Array => &[0],
        Kind::Lock => &[lock::EVENT_OFFSET],
        Kind::Latest => &latest::EVENT_OFFSETS,
        _ => &[],
    };
    // SAFETY: a checked object of these kinds has its events at these offsets.
    let event = move |&at: &usize| unsafe { view.at(object.offset + at).cast::<Event>().as_ref() };
    of_rings.chain(others.iter().map(event))
}

/// Wakes every sleeper of the segment: each looks again and sleeps on if nothing concerns it.
pub(crate) fn wake_everybody(view: &View) {
    let mode = view.geometry().fence_mode();
    for object in view.objects().map_while(Result::ok) {
        for event in events(view, &object) {
            event.notify(ALL, mode, || view.ring());
        }
    }
}
