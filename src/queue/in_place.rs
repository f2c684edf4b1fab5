//! Slots of a [`Queue`] that are written and read in place.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use bytemuck::Pod;

use super::guards::Guards;
use super::{Endpoint, Queue};
#[cfg(doc)]
use super::{Receiver, Sender};
use crate::ring::owned::Claim;
use crate::segment::Token;
use crate::unwinding::Unwinding;

/// A slot that this process has claimed; given back to the senders when dropped.
struct Held<'a, T: Pod> {
    queue: &'a Queue<T>,
    /// `None` once its fate is decided.
    claim: Option<Claim>,
    /// Who claimed it: us, unless this is a copy in a fork child.
    token: Token,
}

impl<'a, T: Pod> Held<'a, T> {
    /// The claim has just been made, so we are somebody.
    fn new(queue: &'a Queue<T>, claim: Claim) -> Self {
        let attached = queue.channel.attached();
        attached.keeps_claims();
        Self { queue, claim: Some(claim), token: attached.token() }
    }

    fn place(&self) -> NonNull<T> {
        self.queue.ring.place(self.claim.as_ref().expect("held until consumed"))
    }

    /// Gives the claim to `decide`, if it is ours.
    fn decide(&mut self, decide: impl FnOnce(&Queue<T>, Claim)) {
        if let Some(claim) = self.claim.take()
            && self.queue.channel.is_still(self.token)
        {
            decide(self.queue, claim);
        }
    }
}

/// A slot of a [`Queue`], to be written in place: see [`Sender::reserve`]. It holds whatever some earlier message has left.
///
/// It gives references into shared memory, which rely on everybody following the protocol. If this process dies, or the
/// reservation is dropped, nothing is sent. One that is forgotten ([`core::mem::forget`]) takes its slot out of use until
/// this process leaves the segment or ends. In a forked child it is the parent's: committing or dropping the copy does
/// nothing, and what it shows changes while the parent writes.
#[must_use = "dropping it sends nothing; commit it"]
pub struct Reservation<'a, T: Pod> {
    held: Held<'a, T>,
}

impl<'a, T: Pod> Reservation<'a, T> {
    pub(super) fn new(queue: &'a Queue<T>, claim: Claim) -> Self {
        Self { held: Held::new(queue, claim) }
    }

    /// Sends the message. Wait-free, no system call unless a receiver sleeps.
    pub fn commit(mut self) {
        self.held.decide(|queue, claim| {
            queue.ring.commit(claim);
            queue.channel.committed(1);
        });
    }
}

impl<T: Pod> Drop for Reservation<'_, T> {
    fn drop(&mut self) {
        self.held.decide(|queue, claim| {
            queue.ring.release(claim);
            queue.channel.released_by_one_of_many(1);
        });
    }
}

impl<T: Pod> Deref for Reservation<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the slot is ours, aligned, and any bits are a `T`.
        unsafe { self.held.place().as_ref() }
    }
}

impl<T: Pod> DerefMut for Reservation<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.held.place().as_mut() }
    }
}

impl<T: Pod> fmt::Debug for Reservation<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").finish_non_exhaustive()
    }
}

/// A message that is being received, read in place: see [`Receiver::recv_guard`].
///
/// It gives references into shared memory, which rely on everybody following the protocol. Dropping it ends the receive. If
/// this process dies first, or the thread panics, the message goes to another receiver. A guard that is forgotten
/// ([`core::mem::forget`]) takes its slot out of use until this process leaves the segment or ends. In a forked child it is
/// the parent's: dropping the copy does nothing, and what it shows may be overwritten once the parent has dropped its own.
#[must_use = "dropping it ends the receive"]
pub struct RecvGuard<'a, T: Pod> {
    held: Held<'a, T>,
    guards: &'a Guards,
    unwinding: Unwinding,
}

impl<'a, T: Pod> RecvGuard<'a, T> {
    pub(super) fn new(end: &'a Endpoint<T>, claim: Claim) -> Self {
        let held = Held::new(&end.queue, claim);
        end.guards.raise(held.token);
        Self { held, guards: &end.guards, unwinding: Unwinding::watch() }
    }

    /// Leaves the message to another receiver, which gets it before newer ones; perhaps to this one, if it asks first.
    pub fn give_back(mut self) {
        self.leave();
    }

    fn leave(&mut self) {
        self.settle(|queue, claim| {
            queue.ring.give_back(claim);
            queue.channel.committed(1);
        });
    }

    /// As [`Held::decide`]; from before that on, it is not counted any more.
    fn settle(&mut self, decide: impl FnOnce(&Queue<T>, Claim)) {
        let guards = self.guards;
        self.held.decide(|queue, claim| {
            guards.lower();
            decide(queue, claim);
        });
    }
}

impl<T: Pod> Drop for RecvGuard<'_, T> {
    fn drop(&mut self) {
        if self.unwinding.has_begun() {
            self.leave();
        }
        self.settle(|queue, claim| {
            queue.ring.release(claim);
            queue.channel.released_by_one_of_many(1);
        });
    }
}

impl<T: Pod> Deref for RecvGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the slot is ours, aligned, and any bits are a `T`.
        unsafe { self.held.place().as_ref() }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for RecvGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
