//! `SpscQueue` without blocking and crash safety.

use core::mem::size_of;
use core::ptr::NonNull;

use crate::pace::Pace;
use crate::ring::Element;
use crate::ring::spsc::{Position, Spsc as Ring};

/// A ring for one sender and one receiver.
pub struct Spsc<T> {
    ring: Ring<T>,
}

/// Its sending end.
pub struct Sender<T> {
    position: Position,
    end: End<T>,
}

/// Its receiving end.
pub struct Receiver<T> {
    position: Position,
    end: End<T>,
}

struct End<T> {
    ring: Ring<T>,
    pace: Pace,
}

impl<T: Copy> Spsc<T> {
    /// Bytes that a ring of this capacity takes.
    #[must_use]
    pub fn bytes(capacity: usize) -> usize {
        crate::bytes(size_of::<T>(), capacity)
    }

    /// The ring at `memory`.
    ///
    /// # Safety
    /// - `memory` has [`Spsc::bytes`] of this capacity, aligned to 128, which are mapped for as long as the ring or one of its
    ///   ends is used, and which were zero before the first ring was made of them.
    /// - Nothing but rings of the same `T` and capacity touches them since, in whichever process.
    /// - `capacity` is a power of two.
    /// - Every bit pattern is a `T`.
    #[must_use]
    pub unsafe fn at(memory: NonNull<u8>, capacity: usize) -> Self {
        const { Element::<T>::CHECK };
        let header = memory.cast();
        // SAFETY: there is one, by the caller's contract.
        let slots = unsafe { crate::slots(header) };
        // SAFETY: the caller's contract; a header is valid when zero.
        Self { ring: unsafe { Ring::new(header, slots, capacity as u64) } }
    }

    /// The sending end.
    ///
    /// # Safety
    /// There is no other one as long as this one is used, in whichever process.
    #[must_use]
    pub unsafe fn sender(&self) -> Sender<T> {
        Sender { position: self.ring.sender_position(), end: self.end() }
    }

    /// The receiving end.
    ///
    /// # Safety
    /// There is no other one as long as this one is used, in whichever process.
    #[must_use]
    pub unsafe fn receiver(&self) -> Receiver<T> {
        Receiver { position: self.ring.receiver_position(), end: self.end() }
    }

    fn end(&self) -> End<T> {
        End { ring: self.ring.clone(), pace: Pace::default() }
    }
}

impl<T: Copy> End<T> {
    /// See [`Pace`]: not blocking, but how fast a stream is.
    #[inline(always)]
    fn rest(&self, position: &Position) {
        if position.left() == 0 {
            self.pace.rest(position.own(), self.ring.capacity());
        }
    }
}

impl<T: Copy> Sender<T> {
    #[inline(always)]
    fn has_room(&mut self) -> bool {
        self.end.ring.room(&mut self.position, 1) > 0
    }

    #[inline(always)]
    fn put(&mut self, value: &T) {
        self.end.ring.write(&self.position, value);
        self.end.ring.commit(&mut self.position, 1);
    }

    #[inline(never)]
    fn await_room(&mut self) {
        crate::spin(|| self.has_room().then_some(()));
    }

    /// Sends, spinning for room.
    #[inline(always)]
    pub fn send(&mut self, value: T) {
        self.end.rest(&self.position);
        if !self.has_room() {
            self.await_room();
        }
        self.put(&value);
    }
}

impl<T: Copy> Receiver<T> {
    #[inline(always)]
    fn is_ready(&mut self) -> bool {
        self.end.ring.ready(&mut self.position, 1) > 0
    }

    #[inline(always)]
    fn take(&mut self) -> T {
        let value = self.end.ring.read(&self.position);
        self.end.ring.release(&mut self.position, 1);
        value
    }

    #[inline(never)]
    fn await_message(&mut self) {
        crate::spin(|| self.is_ready().then_some(()));
    }

    /// Receives what is there now.
    #[inline(always)]
    pub fn try_recv(&mut self) -> Option<T> {
        if self.is_ready() { Some(self.take()) } else { None }
    }

    /// Receives, spinning for a message.
    #[inline(always)]
    pub fn recv(&mut self) -> T {
        self.end.rest(&self.position);
        if !self.is_ready() {
            self.await_message();
        }
        self.take()
    }
}
