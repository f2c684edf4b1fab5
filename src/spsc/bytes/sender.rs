//! Sending: in one piece, or in parts.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use crate::bytes::{gather, total};
use crate::channel::no_deadline;
use crate::copy::copy_bytes;
use crate::deadline::Deadline;
use crate::error::{SendError, SendTimeoutError, TrySendError};
use crate::message::sealed::Bytes;
#[cfg(doc)]
use crate::ring::transfer::Transfer;
use crate::ring::transfer::{LENGTH, Record, State, record};
use crate::spsc::Sender;

/// A message in parts is passed on in so many, so that one end can write while the other reads.
const PARTS: u64 = 4;

/// Room for a message of bytes, to be written in place: see [`Sender::reserve`](Sender#method.reserve-1). It holds whatever
/// some earlier message has left.
///
/// It gives references into shared memory, which rely on everybody following the protocol. If this process dies, or the
/// grant is dropped, nothing is sent. In a forked child committing the copy does nothing.
#[must_use = "dropping it sends nothing; commit it"]
pub struct Grant<'a, M: Bytes + ?Sized = [u8]> {
    sender: &'a mut Sender<M>,
    len: usize,
}

impl<M: Bytes + ?Sized> Grant<'_, M> {
    /// Sends the first `len` bytes as one message. Wait-free, no system call unless the receiver sleeps.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn commit(self, len: usize) {
        assert!(len <= self.len, "gimmal: {len} bytes committed of {} reserved", self.len);
        if self.sender.end.is_ours() {
            self.sender.commit(len);
        }
    }

    fn room(&self) -> NonNull<[u8]> {
        self.sender.end.bytes(&self.sender.position, LENGTH, self.len)
    }
}

impl<M: Bytes + ?Sized> Deref for Grant<'_, M> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the room is free, hence ours as long as the sender is borrowed.
        unsafe { self.room().as_ref() }
    }
}

impl<M: Bytes + ?Sized> DerefMut for Grant<'_, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { self.room().as_mut() }
    }
}

impl<M: Bytes + ?Sized> fmt::Debug for Grant<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Sends a message for which there is room.
fn fill<M: Bytes + ?Sized>(mut grant: Grant<'_, M>, parts: &[IoSlice<'_>]) {
    let ring = grant.sender.end.capacity() as usize;
    gather(parts, &mut grant, ring);
    let len = grant.len();
    grant.commit(len);
}

/// What is left of a message that is passed in parts.
struct Source<'a> {
    left: usize,
    parts: &'a [IoSlice<'a>],
    /// Bytes of the first part that are gone.
    offset: usize,
}

impl Source<'_> {
    /// Copies what comes next into all of `room`, which is no more than what is left, in a ring of so many bytes.
    fn fill(&mut self, mut room: &mut [u8], ring: usize) {
        self.left -= room.len();
        while !room.is_empty() {
            let Some(part) = self.parts.first() else { break };
            let left = &part[self.offset..];
            let count = left.len().min(room.len());
            let (here, behind) = room.split_at_mut(count);
            copy_bytes(&left[..count], here, ring);
            room = behind;
            if count == left.len() {
                (self.parts, self.offset) = (&self.parts[1..], 0);
            } else {
                self.offset += count;
            }
        }
    }
}

impl<M: Bytes + ?Sized> Sender<M> {
    /// The longest message that goes through the ring in one piece. [`send`](Sender#method.send-1) and its kin pass longer ones in
    /// parts; [`try_send`](Sender#method.try_send-1) and [`reserve`](Sender#method.reserve-1) do not.
    #[must_use]
    pub fn max_len(&self) -> usize {
        (self.end.capacity() - LENGTH) as usize
    }

    /// What a message of `len` bytes takes, if that fits at all.
    #[inline]
    fn record(&self, len: usize) -> Result<u64, TrySendError<()>> {
        match record(len as u64) {
            bytes if bytes <= self.end.capacity() => Ok(bytes),
            _ => Err(TrySendError::TooLarge { message: (), len, max: self.max_len() }),
        }
    }

    /// All the room that is known of, if somebody may still receive.
    #[cfg(feature = "serde")]
    #[inline]
    pub(crate) fn known_room(&mut self) -> Option<Grant<'_, M>> {
        let room = self.end.room(&mut self.position, 1).ok()?;
        let len = room.checked_sub(LENGTH)? as usize;
        Some(Grant { sender: self, len })
    }

    /// Room for a message of `len` bytes, if there is some now.
    #[inline]
    pub(crate) fn try_grant(&mut self, len: usize) -> Result<Grant<'_, M>, TrySendError<()>> {
        let wanted = self.record(len)?;
        self.end.try_room_for(&mut self.position, wanted)?;
        Ok(Grant { sender: self, len })
    }

    /// Room for a message of `len` bytes, waiting for it until `deadline`.
    #[inline]
    pub(crate) fn grant(
        &mut self,
        len: usize,
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<Grant<'_, M>, SendTimeoutError<()>> {
        self.room_for(len, deadline)?;
        Ok(Grant { sender: self, len })
    }

    #[inline]
    fn room_for(
        &mut self,
        len: usize,
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<(), SendTimeoutError<()>> {
        let too_large = |_| SendTimeoutError::TooLarge { message: (), len, max: self.max_len() };
        let wanted = self.record(len).map_err(too_large)?;
        let Self { position, end, .. } = self;
        end.rest(position);
        match end.try_room_for(position, wanted) {
            Ok(()) => Ok(()),
            Err(_) => self.room_for_until(wanted, deadline()),
        }
    }

    /// The slow path of every blocking send.
    #[inline(never)]
    fn room_for_until(&mut self, wanted: u64, deadline: Option<Deadline>) -> Result<(), SendTimeoutError<()>> {
        let Self { position, end, .. } = self;
        end.queue.channel.send_blocking(&end.pace, deadline, || end.try_room_for(position, wanted))
    }

    /// Sends a message, in parts if it must be.
    #[inline]
    fn send_until(
        &mut self,
        message: &[u8],
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<(), SendTimeoutError<()>> {
        if self.record(message.len()).is_err() {
            return self.send_in_parts(&[IoSlice::new(message)], deadline());
        }
        self.room_for(message.len(), deadline)?;
        self.put(message);
        Ok(())
    }

    /// Sends a message for which there is room.
    #[inline]
    fn put(&mut self, message: &[u8]) {
        let mut room = self.end.bytes(&self.position, LENGTH, message.len());
        // SAFETY: the room is ours.
        copy_bytes(message, unsafe { room.as_mut() }, self.end.capacity() as usize);
        self.commit(message.len());
    }

    /// Commits a message whose bytes have been written.
    #[inline]
    fn commit(&mut self, len: usize) {
        let Self { position, end, .. } = self;
        end.write_word(position, 0, len as u64);
        end.queue.ring.commit(position, record(len as u64));
        end.queue.channel.committed(1);
    }

    fn send_parts_until(
        &mut self,
        parts: &[IoSlice<'_>],
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<(), SendTimeoutError<()>> {
        let len = total(parts);
        if self.record(len).is_err() {
            return self.send_in_parts(parts, deadline());
        }
        self.grant(len, deadline).map(|grant| fill(grant, parts))
    }

    /// Passes a message that is longer than the ring through it; see [`Transfer`].
    #[cold]
    pub(crate) fn send_in_parts(
        &mut self,
        parts: &[IoSlice<'_>],
        deadline: Option<Deadline>,
    ) -> Result<(), SendTimeoutError<()>> {
        let len = total(parts);
        loop {
            // In a forked child, we have to have the seat before we know where we stand.
            self.room_for_until(LENGTH, deadline)?;
            let start = self.position.own();
            self.end.transfer().begin(start);
            match self.pass(Source { left: len, parts, offset: 0 }, start, deadline) {
                Ok(State::Accepted) => return Ok(()),
                Err(reason) => return if self.end.transfer().revoke(start) { Err(reason) } else { Ok(()) },
                // The receiver has left in the middle of it, and there is another: once more, from the beginning.
                Ok(_) if deadline.is_some_and(Deadline::passed) => return Err(SendTimeoutError::Timeout(())),
                Ok(_) => {}
            }
        }
    }

    /// Writes all of a message, and waits until its fate is decided, which may be before it is written.
    fn pass(
        &mut self,
        mut source: Source<'_>,
        start: u64,
        deadline: Option<Deadline>,
    ) -> Result<State, SendTimeoutError<()>> {
        let Self { position, end: endpoint, .. } = self;
        let (transfer, channel, ring) = (endpoint.transfer(), &endpoint.queue.channel, &endpoint.queue.ring);
        let (len, most) = (source.left as u64, endpoint.capacity() / PARTS);
        let mut part = Record::First((most - 2 * LENGTH).min(len));
        while source.left > 0 {
            let state = channel.send_blocking(&endpoint.pace, deadline, || match transfer.state(start) {
                State::Open => endpoint.try_room_for(position, part.takes()).map(|()| State::Open),
                decided => Ok(decided),
            })?;
            if state != State::Open {
                return Ok(state);
            }
            endpoint.write_word(position, 0, part.header());
            if let Record::First(_) = part {
                endpoint.write_word(position, LENGTH, len);
            }
            let mut bytes = endpoint.bytes(position, part.front(), part.bytes() as usize);
            // SAFETY: the room is ours.
            source.fill(unsafe { bytes.as_mut() }, endpoint.capacity() as usize);
            ring.commit(position, part.takes());
            channel.committed(1);
            part = Record::More((most - LENGTH).min(source.left as u64));
        }
        channel.send_blocking(&endpoint.pace, deadline, || {
            // Disconnected and closed are reasons not to wait any longer.
            endpoint.room(position, 0)?;
            match transfer.state(start) {
                State::Open => Err(TrySendError::Full(())),
                decided => Ok(decided),
            }
        })
    }
}

/// Messages of bytes. A part of a buffer is sent as a slice: `send(&buffer[offset..offset + size])`, Python's
/// `send_bytes(buffer, offset, size)`. Empty messages are messages, too.
impl Sender<[u8]> {
    /// Sends if there is room now. Wait-free, no system call unless the receiver sleeps.
    ///
    /// # Errors
    /// [`TrySendError::Full`] if there is no room for this message now; [`TrySendError::TooLarge`] if the ring is too small for it,
    /// so that it could only be passed in parts, which takes a call that waits; and the others.
    #[inline]
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), TrySendError<()>> {
        let wanted = self.record(message.len())?;
        self.end.try_room_for(&mut self.position, wanted)?;
        self.put(message);
        Ok(())
    }

    /// Sends, waiting for room as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// A message that is longer than [`max_len`](Sender::max_len) is passed in parts. Then `send` returns when the receiver has
    /// all of it, which takes a receiver that receives meanwhile. If that dies in the middle, and another one takes its seat, that one
    /// gets the message, from the beginning; if we die in the middle, the receiver gets nothing of it.
    ///
    /// ```
    /// use gimmal::{Pipe, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let (mut sender, mut receiver) = Pipe::simplex::<[u8]>(&segment, "pipe", 4096)?; // bytes
    /// let reader = std::thread::spawn(move || {
    ///     assert_eq!(*receiver.recv().unwrap(), *b"hello");
    ///     assert_eq!(receiver.recv_vec().unwrap().len(), 1_000_000);
    /// });
    /// sender.send(b"hello")?;
    /// sender.send(&vec![7; 1_000_000])?; // through a ring of 4 KiB
    /// reader.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SendError::Disconnected`] and the others: it was not sent.
    #[inline]
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError<()>> {
        no_deadline(self.send_until(message, || None))
    }

    /// As `send`, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`SendTimeoutError::Timeout`] and the others: it was not sent, nor any part of it.
    pub fn send_timeout(&mut self, message: &[u8], timeout: Duration) -> Result<(), SendTimeoutError<()>> {
        self.send_until(message, || Deadline::after(timeout))
    }

    /// As `send`, waiting until `deadline`.
    ///
    /// # Errors
    /// As for `send_timeout`.
    pub fn send_deadline(&mut self, message: &[u8], deadline: Instant) -> Result<(), SendTimeoutError<()>> {
        self.send_until(message, || Deadline::at(deadline))
    }

    /// As `try_send`, a message put together from several parts.
    ///
    /// # Errors
    /// As for `try_send`.
    pub fn try_send_vectored(&mut self, parts: &[IoSlice<'_>]) -> Result<(), TrySendError<()>> {
        self.try_grant(total(parts)).map(|grant| fill(grant, parts))
    }

    /// As `send`, one message put together from several parts, such as a header and a body.
    ///
    /// # Errors
    /// As for `send`.
    pub fn send_vectored(&mut self, parts: &[IoSlice<'_>]) -> Result<(), SendError<()>> {
        no_deadline(self.send_parts_until(parts, || None))
    }

    /// Reserves room for a message of up to `len` bytes, if there is some now: see `reserve`.
    ///
    /// # Errors
    /// As for `try_send`.
    pub fn try_reserve(&mut self, len: usize) -> Result<Grant<'_>, TrySendError<()>> {
        self.try_grant(len)
    }

    /// Reserves room for a message of up to `len` bytes, waiting for it as long as it takes, to write the message in place.
    /// Nothing is copied; [`Grant::commit`] sends it, dropping the grant does not.
    ///
    /// ```
    /// use gimmal::{Pipe, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let (mut sender, mut receiver) = Pipe::simplex::<[u8]>(&segment, "pipe", 4096)?;
    /// let mut grant = sender.reserve(1000)?;
    /// grant[..5].copy_from_slice(b"short");
    /// grant.commit(5); // no more than was reserved
    /// assert_eq!(*receiver.recv()?, *b"short");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SendError::TooLarge`] if it is more than [`max_len`](Sender::max_len); and as for `send`.
    pub fn reserve(&mut self, len: usize) -> Result<Grant<'_>, SendError<()>> {
        no_deadline(self.grant(len, || None))
    }

    /// As `reserve`, waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for `reserve` and `send_timeout`.
    pub fn reserve_timeout(&mut self, len: usize, timeout: Duration) -> Result<Grant<'_>, SendTimeoutError<()>> {
        self.grant(len, || Deadline::after(timeout))
    }
}
