//! Ending what the dead had begun.
//!
//! Every step is idempotent and runs under the admission lock; a repairer that dies is followed by another, because the
//! table entry is freed last: rings (WRITING → aborted, READING → ORPHAN, then the ring's `repairs` is bumped), roles
//! and seats, locks, and only then the entry. Then everybody in the segment is woken: somebody may have been waiting for
//! the dead, or have been meant by a wake that the dead had received or was about to send.

use std::os::fd::BorrowedFd;

use super::membership::Side;
use super::view::View;
use crate::event::{ALL, Event};
use crate::layout::FLAG_ANONYMOUS;
use crate::lock;
use crate::object::{Kind, Object};
use crate::primitive::{AtomicU64, Ordering};
use crate::ring::Roles;
use crate::ring::owned::Swept;
use crate::seat::Seat;
use crate::sys::{file, lease};

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
pub(crate) fn alive(our_lease: BorrowedFd<'_>, id: u16) -> bool {
    lease::held_by_another(our_lease, id)
}

/// Repairs after every participant whose lease is free. The caller holds the admission lock through `our_lease`.
pub(crate) fn repair(view: &View, our_lease: BorrowedFd<'_>, our_id: u16) -> Recovered {
    let mut recovered = Recovered::default();
    for id in view.joined().filter(|&id| id != our_id) {
        if alive(our_lease, id) {
            continue;
        }
        recovered.died.push(view.participant(id).pid.load(Ordering::Relaxed));
        release(view, id, true, &mut recovered);
        // Release: the id may be given out again only after all of the above.
        view.participant(id).state.store(0, Ordering::Release);
    }
    if !recovered.died.is_empty() {
        view.header().membership.fetch_add(1, Ordering::Release);
        wake_everybody(view);
    }
    recovered
}

/// Takes everything in the segment from participant `id`. A leaver has no slots any more, only roles and locks.
pub(crate) fn release(view: &View, id: u16, died: bool, recovered: &mut Recovered) {
    for object in view.objects().flatten() {
        for ring in view.rings(&object) {
            let roles = &ring.header.roles;
            match object.shape.kind {
                Kind::Queue | Kind::SharedPipe => {
                    if died {
                        let Swept { aborted, orphaned } = ring.words.sweep(id);
                        recovered.aborted += aborted;
                        recovered.redelivered += orphaned;
                    }
                    clear_role(roles, Side::Sender, id);
                    clear_role(roles, Side::Receiver, id);
                }
                _ => {
                    Seat::of(roles, Side::Sender).release_for(id, died);
                    Seat::of(roles, Side::Receiver).release_for(id, died);
                }
            }
        }
        if object.shape.kind == Kind::Lock {
            recovered.locks += u64::from(lock::abandon(view, &object, id));
        }
    }
}

/// The words that say which participants have an end of an MPMC ring.
pub(crate) fn role_words(roles: &Roles, side: Side) -> &[AtomicU64; 8] {
    match side {
        Side::Sender => &roles.senders,
        Side::Receiver => &roles.receivers,
    }
}

/// Marks `id` as having an end. Bit 0 stays set for ever: somebody was here.
pub(crate) fn set_role(roles: &Roles, side: Side, id: u16) {
    let words = role_words(roles, side);
    words[usize::from(id) / 64].fetch_or(1 << (id % 64), Ordering::AcqRel);
    words[0].fetch_or(1, Ordering::AcqRel);
}

/// Marks `id` as having none.
pub(crate) fn clear_role(roles: &Roles, side: Side, id: u16) {
    // Release: whoever sees the bit gone sees the last commit.
    role_words(roles, side)[usize::from(id) / 64].fetch_and(!(1 << (id % 64)), Ordering::AcqRel);
}

/// Every event of an object.
pub(crate) fn events<'a>(view: &'a View, object: &'a Object) -> impl Iterator<Item = &'a Event> + 'a {
    let of_rings = view.rings(object).flat_map(|ring| [&*ring.header.not_empty, &*ring.header.not_full]);
    let single = match object.shape.kind {
        Kind::Value | Kind::Array => Some(0),
        Kind::Lock => Some(lock::EVENT_OFFSET),
        _ => None,
    };
    // SAFETY: a checked object of these kinds begins with its event, or has it at this offset.
    let single = single.map(move |at| unsafe { view.at(object.offset + at).cast::<Event>().as_ref() });
    of_rings.chain(single)
}

/// Wakes every sleeper of the segment: each looks again and sleeps on if nothing concerns it.
pub(crate) fn wake_everybody(view: &View) {
    let mode = view.geometry().fence_mode();
    for object in view.objects().flatten() {
        for event in events(view, &object) {
            event.notify(ALL, mode);
        }
    }
}

/// Whether the segment's file still has the name it was opened by. A memfd never had one.
pub(crate) fn still_linked(view: &View, fd: BorrowedFd<'_>) -> bool {
    view.geometry().has(FLAG_ANONYMOUS) || file::status(fd).is_ok_and(|s| s.linked)
}
