//! The SPSC ring: two positions, each written by one end only. Wait-free.
//!
//! `tail` counts what was ever sent, `head` what was ever received; what lies between them is whole. Each end keeps its
//! own position privately, and how far it may go before it has to look at the other's again, so that in a stream neither end
//! takes the other's line on every message. A commit is one Release store.
//!
//! A death needs no repair: a payload that was being written lies beyond `tail`, one that was being read not yet behind
//! `head`. A successor takes the seat and rereads both.
//!
//! A distance beyond the capacity can only come from a peer that does not run this protocol; it reads as "nothing there"
//! and "no room", so that no slot outside the claim is touched.

use core::marker::PhantomData;
use core::mem::size_of;
use core::ptr::NonNull;

use super::Header;
use crate::primitive::{Ordering, Payload};

/// One end's private view.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position {
    own: u64,
    /// The first slot that is not known to be ours.
    limit: u64,
}

impl Position {
    /// How many slots this end has used.
    pub(crate) fn own(self) -> u64 {
        self.own
    }

    /// The same for records of bytes, which begin at multiples of eight, whatever a hostile peer says.
    #[cfg(not(loom))]
    pub(crate) fn at_a_record(self) -> Self {
        let own = self.own & !7;
        Self { own, limit: own }
    }

    /// Slots that are known to be ours.
    #[inline(always)]
    pub(crate) fn left(self) -> u64 {
        self.limit.wrapping_sub(self.own)
    }
}

/// An SPSC ring of `T`.
pub(crate) struct Spsc<T> {
    header: NonNull<Header>,
    slots: NonNull<u8>,
    mask: u64,
    marker: PhantomData<fn(T) -> T>,
}

// SAFETY: payloads are copied between threads under the protocol, positions are atomics.
unsafe impl<T: Send> Send for Spsc<T> {}
// SAFETY: what a shared reference allows to several threads reads positions only; ends need `&mut`.
unsafe impl<T: Send> Sync for Spsc<T> {}

impl<T> Clone for Spsc<T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<T: Copy> Spsc<T> {
    /// # Safety
    /// `header` and `capacity` elements at `slots` are valid for as long as the value is used and aligned for their
    /// types; `capacity` is a power of two; every bit pattern is a `T`.
    pub(crate) unsafe fn new(header: NonNull<Header>, slots: NonNull<u8>, capacity: u64) -> Self {
        debug_assert!(capacity.is_power_of_two());
        Self { header, slots, mask: capacity - 1, marker: PhantomData }
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.mask + 1
    }

    #[inline(always)]
    fn header(&self) -> &Header {
        // SAFETY: valid by the contract of `new`; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    #[inline(always)]
    fn address(&self, position: u64) -> NonNull<Payload<T>> {
        let offset = (position & self.mask) as usize * size_of::<Payload<T>>();
        // SAFETY: the masked index is below the capacity, so the offset stays inside the slots.
        unsafe { self.slots.add(offset) }.cast()
    }

    #[inline(always)]
    fn payload(&self, position: u64) -> &Payload<T> {
        // SAFETY: the slot is valid and aligned by the contract of `new`, and accessed through its cell only.
        unsafe { self.address(position).as_ref() }
    }

    /// The sender's view when it takes its seat.
    pub(crate) fn sender_position(&self) -> Position {
        // Acquire: what the previous sender did comes before what we do.
        let own = self.header().tail.load(Ordering::Acquire);
        Position { own, limit: own }
    }

    /// The receiver's view when it takes its seat.
    pub(crate) fn receiver_position(&self) -> Position {
        // Acquire: as above.
        let own = self.header().head.load(Ordering::Acquire);
        Position { own, limit: own }
    }

    /// Free slots, asking the other end only when fewer than `wanted` are known.
    #[inline(always)]
    pub(crate) fn room(&self, position: &mut Position, wanted: u64) -> u64 {
        if position.left() < wanted {
            // Acquire: the receiver is done with the payloads behind `head`.
            let head = self.header().head.load(Ordering::Acquire);
            let room = self.capacity().saturating_sub(position.own.wrapping_sub(head));
            position.limit = position.own.wrapping_add(room);
        }
        position.left()
    }

    /// Messages to be had, asking the other end only when fewer than `wanted` are known.
    #[inline(always)]
    pub(crate) fn ready(&self, position: &mut Position, wanted: u64) -> u64 {
        if position.left() < wanted {
            // Acquire: the payloads before `tail` are whole.
            let tail = self.header().tail.load(Ordering::Acquire);
            let is_possible = tail.wrapping_sub(position.own) <= self.capacity();
            position.limit = if is_possible { tail } else { position.own };
        }
        position.left()
    }

    /// Writes the payload at our own position; the caller has seen `room`.
    #[inline]
    pub(crate) fn write(&self, position: &Position, value: &T) {
        // SAFETY: between `tail` and `head + capacity` the slots are the sender's, and `&mut End` makes us the sender.
        unsafe { self.payload(position.own).write(value) }
    }

    /// Where the payload at our own position is; the caller has seen it free, or ready.
    #[cfg(not(loom))]
    pub(crate) fn place(&self, position: &Position) -> NonNull<T> {
        self.payload(position.own).place()
    }

    /// How many of `count` slots from our own position on lie in a row, up to the end of the memory.
    #[cfg(not(loom))]
    fn in_a_row(&self, position: &Position, count: u64) -> u64 {
        count.min(self.capacity() - (position.own & self.mask))
    }

    /// The payloads from our own position on that lie in a row, `count` or fewer; the caller has seen `count` free, or ready.
    #[cfg(not(loom))]
    pub(crate) fn places(&self, position: &Position, count: u64) -> NonNull<[T]> {
        NonNull::slice_from_raw_parts(self.place(position), self.in_a_row(position, count) as usize)
    }

    /// Writes as many payloads; the caller has seen as much `room`.
    #[cfg(not(loom))]
    pub(crate) fn write_many(&self, position: &Position, values: &[T]) {
        let first = self.in_a_row(position, values.len() as u64);
        let (in_front, behind) = values.split_at(first as usize);
        for (offset, values) in [(0, in_front), (first, behind)] {
            // SAFETY: as in `write`, for all of them, and they lie in a row.
            unsafe { Payload::write_all(self.address(position.own.wrapping_add(offset)), values) }
        }
    }

    /// Appends `count` payloads to `buffer`; the caller has seen them `ready`.
    #[cfg(not(loom))]
    pub(crate) fn read_many(&self, position: &Position, count: u64, buffer: &mut Vec<T>) {
        buffer.reserve(count as usize);
        let first = self.in_a_row(position, count);
        for (offset, count) in [(0, first), (first, count - first)] {
            // SAFETY: as in `read`, for all of them, and they lie in a row.
            unsafe { Payload::append_all(self.address(position.own.wrapping_add(offset)), count as usize, buffer) }
        }
    }

    /// Publishes `count` payloads.
    #[inline]
    pub(crate) fn commit(&self, position: &mut Position, count: u64) {
        position.own = position.own.wrapping_add(count);
        // Release: whoever sees the new tail sees the payloads.
        self.header().tail.store(position.own, Ordering::Release);
    }

    /// Reads the payload at our own position; the caller has seen it `ready`.
    #[inline]
    pub(crate) fn read(&self, position: &Position) -> T {
        // SAFETY: between `head` and `tail` the slots are the receiver's; any bits are a `T` by the contract of `new`.
        unsafe { self.payload(position.own).read() }
    }

    /// Gives `count` slots back.
    #[inline]
    pub(crate) fn release(&self, position: &mut Position, count: u64) {
        position.own = position.own.wrapping_add(count);
        // Release: the sender writes only after our reads.
        self.header().head.store(position.own, Ordering::Release);
    }

    /// Messages between the positions: a moment's count.
    pub(crate) fn len(&self) -> u64 {
        len(self.header(), self.capacity())
    }
}

/// Messages between the positions of any SPSC ring.
pub(crate) fn len(header: &Header, capacity: u64) -> u64 {
    // Head first: it only grows towards the tail read after it.
    let head = header.head.load(Ordering::Acquire);
    let len = header.tail.load(Ordering::Acquire).wrapping_sub(head);
    // In a lossy ring, `head` may be newer than the tail that is seen.
    if (len as i64) < 0 { 0 } else { len.min(capacity) }
}

#[cfg(all(test, not(loom)))]
mod tests;
