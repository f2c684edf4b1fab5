//! Slots of an [`SpscQueue`](super::SpscQueue) that are written and read in place.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use bytemuck::Pod;

use super::{Receiver, Sender};
use crate::unwinding::Unwinding;

/// A slot to be written in place: see [`Sender::reserve`]. It holds whatever some earlier message has left.
///
/// It gives references into shared memory, which rely on everybody following the protocol. If this process dies, or the
/// reservation is dropped, nothing is sent. In a forked child committing the copy does nothing.
#[must_use = "dropping it sends nothing; commit it"]
pub struct Reservation<'a, T: Pod>(&'a mut Sender<T>);

impl<'a, T: Pod> Reservation<'a, T> {
    /// There is room for a message.
    pub(super) fn new(sender: &'a mut Sender<T>) -> Self {
        Self(sender)
    }

    /// Sends the message. Wait-free, no system call unless the receiver sleeps.
    pub fn commit(self) {
        if self.0.end.is_ours() {
            self.0.end.queue.ring.commit(&mut self.0.position, 1);
            self.0.end.queue.channel.committed(1);
        }
    }
}

impl<T: Pod> Deref for Reservation<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the slot is free, hence ours as long as the sender is borrowed; aligned, and any bits are a `T`.
        unsafe { self.0.end.queue.ring.place(&self.0.position).as_ref() }
    }
}

impl<T: Pod> DerefMut for Reservation<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.0.end.queue.ring.place(&self.0.position).as_mut() }
    }
}

impl<T: Pod> fmt::Debug for Reservation<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").finish_non_exhaustive()
    }
}

/// Free slots in a row, to be written in place: see [`Sender::reserve_slice`]. They hold what some earlier messages have left.
///
/// What is said of a [`Reservation`] holds of all of them.
#[must_use = "dropping it sends nothing; commit it"]
pub struct SliceReservation<'a, T: Pod> {
    sender: &'a mut Sender<T>,
    count: u64,
}

impl<'a, T: Pod> SliceReservation<'a, T> {
    /// There is room for `count` messages.
    pub(super) fn new(sender: &'a mut Sender<T>, count: u64) -> Self {
        Self { sender, count }
    }

    fn slots(&self) -> NonNull<[T]> {
        self.sender.end.queue.ring.places(&self.sender.position, self.count)
    }

    /// Sends the first `count` of them at once. Wait-free, no system call unless the receiver sleeps.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn commit(self, count: usize) {
        assert!(count <= self.len(), "gimmal: {count} messages committed of {} reserved", self.len());
        if count > 0 && self.sender.end.is_ours() {
            self.sender.end.queue.ring.commit(&mut self.sender.position, count as u64);
            self.sender.end.queue.channel.committed(count);
        }
    }
}

impl<T: Pod> Deref for SliceReservation<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the slots are free, hence ours as long as the sender is borrowed; aligned, and any bits are a `T`.
        unsafe { self.slots().as_ref() }
    }
}

impl<T: Pod> DerefMut for SliceReservation<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { self.slots().as_mut() }
    }
}

impl<T: Pod> fmt::Debug for SliceReservation<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SliceReservation").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A message that is being received, read in place: see [`Receiver::recv_guard`].
///
/// It gives references into shared memory, which rely on everybody following the protocol. Dropping it ends the receive. If
/// this process dies first, or the thread panics, the message is the next one that is received, by whoever holds this end
/// then. In a forked child dropping the copy does nothing.
#[must_use = "dropping it ends the receive"]
pub struct RecvGuard<'a, T: Pod> {
    receiver: &'a mut Receiver<T>,
    kept: bool,
    unwinding: Unwinding,
}

impl<'a, T: Pod> RecvGuard<'a, T> {
    /// There is a message.
    pub(super) fn new(receiver: &'a mut Receiver<T>) -> Self {
        Self { receiver, kept: true, unwinding: Unwinding::watch() }
    }

    /// Leaves the message in the queue: it is the next one to be received.
    pub fn give_back(mut self) {
        self.kept = false;
    }
}

impl<T: Pod> Drop for RecvGuard<'_, T> {
    fn drop(&mut self) {
        if self.kept && !self.unwinding.has_begun() && self.receiver.end.is_ours() {
            self.receiver.end.queue.ring.release(&mut self.receiver.position, 1);
            self.receiver.end.queue.channel.released(1);
        }
    }
}

impl<T: Pod> Deref for RecvGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the message is ready, hence ours as long as the receiver is borrowed; aligned, and any bits are a `T`.
        unsafe { self.receiver.end.queue.ring.place(&self.receiver.position).as_ref() }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for RecvGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Messages in a row that are being received, read in place: see [`Receiver::recv_slice`].
///
/// What is said of a [`RecvGuard`] holds of all of them.
#[must_use = "dropping it ends the receive of all of them"]
pub struct SliceGuard<'a, T: Pod> {
    receiver: &'a mut Receiver<T>,
    count: u64,
    /// How many count as received when it is dropped.
    received: usize,
    unwinding: Unwinding,
}

impl<'a, T: Pod> SliceGuard<'a, T> {
    /// There are `count` messages.
    pub(super) fn new(receiver: &'a mut Receiver<T>, count: u64) -> Self {
        let mut guard = Self { receiver, count, received: 0, unwinding: Unwinding::watch() };
        guard.received = guard.len();
        guard
    }

    fn slots(&self) -> NonNull<[T]> {
        self.receiver.end.queue.ring.places(&self.receiver.position, self.count)
    }

    /// Receives only the first `count` of them: the others stay in the queue and are the next ones.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn release(mut self, count: usize) {
        assert!(count <= self.len(), "gimmal: {count} messages released of {} received", self.len());
        self.received = count;
    }

    /// Leaves all of them in the queue.
    pub fn give_back(self) {
        self.release(0);
    }
}

impl<T: Pod> Drop for SliceGuard<'_, T> {
    fn drop(&mut self) {
        if self.received > 0 && !self.unwinding.has_begun() && self.receiver.end.is_ours() {
            self.receiver.end.queue.ring.release(&mut self.receiver.position, self.received as u64);
            self.receiver.end.queue.channel.released(self.received);
        }
    }
}

impl<T: Pod> Deref for SliceGuard<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the messages are ready, hence ours as long as the receiver is borrowed; aligned, and any bits are a `T`.
        unsafe { self.slots().as_ref() }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for SliceGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
