//! Messages of bytes: records in a row, written and read in place, or passed in parts if they are longer than the ring.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use super::{Endpoint, Receiver, Sender};
use crate::channel::{no_deadline, no_deadline_recv};
use crate::deadline::Deadline;
use crate::error::{
    RecvBytesError, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::message::sealed::Bytes;
use crate::queue::bytes::{gather, total};
use crate::ring::spsc::Position;
use crate::ring::transfer::{LENGTH, State, Transfer, record};

/// A message in parts is passed on in so many, so that one end can write while the other reads.
const PARTS: u64 = 4;
/// Bytes that are asked of the allocator at once for a message that comes in parts; more when they have come.
const AT_ONCE: usize = 1 << 20;

impl<M: Bytes + ?Sized> Endpoint<M> {
    fn capacity(&self) -> u64 {
        self.queue.ring.capacity()
    }

    fn transfer(&self) -> Transfer<'_> {
        Transfer::of(self.queue.channel.header())
    }

    /// `len` bytes, `offset` behind our own position; the caller has seen them free, or ready.
    #[inline]
    fn bytes(&self, position: &Position, offset: u64, len: usize) -> NonNull<[u8]> {
        debug_assert!(offset + len as u64 <= self.capacity());
        // SAFETY: the position is in the first half of the mapping, and no more than the other half follows.
        let first = unsafe { self.queue.ring.place(position).add(offset as usize) };
        NonNull::slice_from_raw_parts(first, len)
    }

    /// Writes the length in front of a message; the caller has seen the room.
    #[inline]
    fn write_length(&self, position: &Position, len: usize) {
        // SAFETY: a position is a multiple of eight, and the room is ours.
        unsafe { self.queue.ring.place(position).cast::<u64>().write(len as u64) }
    }

    /// The length of the message at our own position; the caller has seen it ready.
    #[inline]
    fn read_length(&self, position: &Position) -> u64 {
        let place = self.queue.ring.place(position).cast::<u64>();
        // SAFETY: the bytes are ours. Whatever a hostile peer has made of positions, eight bytes follow in the mapping.
        unsafe { place.read_unaligned() }
    }

    /// Room for `wanted` bytes, which is no more than the ring holds.
    #[inline]
    fn try_room_for(&self, position: &mut Position, wanted: u64) -> Result<(), TrySendError<()>> {
        if self.try_room(position, wanted)? >= wanted { Ok(()) } else { Err(TrySendError::Full(())) }
    }
}

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

/// What is left of a message that is passed in parts.
struct Source<'a> {
    len: usize,
    parts: &'a [IoSlice<'a>],
    /// Bytes of the first part that are gone.
    offset: usize,
}

impl Source<'_> {
    /// Copies what comes next into all of `room`, and zeros behind the end.
    fn fill(&mut self, mut room: &mut [u8]) {
        while !room.is_empty() {
            let Some(part) = self.parts.first() else { break };
            let left = &part[self.offset..];
            let count = left.len().min(room.len());
            let (here, behind) = room.split_at_mut(count);
            here.copy_from_slice(&left[..count]);
            room = behind;
            if count == left.len() {
                (self.parts, self.offset) = (&self.parts[1..], 0);
            } else {
                self.offset += count;
            }
        }
        room.fill(0);
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
        unsafe { room.as_mut() }.copy_from_slice(message);
        self.commit(message.len());
    }

    /// Commits a message whose bytes have been written.
    #[inline]
    fn commit(&mut self, len: usize) {
        let Self { position, end, .. } = self;
        end.write_length(position, len);
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
        let mut grant = self.grant(len, deadline)?;
        gather(parts, &mut grant);
        grant.commit(len);
        Ok(())
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
            let source = Source { len, parts, offset: 0 };
            // In a forked child, we have to have the seat before we know where we stand.
            self.room_for_until(LENGTH, deadline)?;
            let end = self.position.own().wrapping_add(record(len as u64));
            self.end.transfer().begin(end);
            let outcome = self.pass(source, end, deadline);
            let transfer = self.end.transfer();
            let sent = outcome.is_err() && !transfer.revoke(end) || transfer.state(end) == State::Accepted;
            transfer.settle(self.position.own());
            // The receiver may wait to learn where to go on.
            self.end.queue.channel.committed(1);
            match outcome {
                _ if sent => return Ok(()),
                Err(reason) => return Err(reason),
                // The receiver has died in the middle of it, and left its seat to another: once more, from the beginning.
                Ok(()) => {}
            }
        }
    }

    /// Writes all of a message, and waits until its fate is decided.
    fn pass(
        &mut self,
        mut source: Source<'_>,
        end: u64,
        deadline: Option<Deadline>,
    ) -> Result<(), SendTimeoutError<()>> {
        let Self { position, end: endpoint, .. } = self;
        let (transfer, channel, ring) = (endpoint.transfer(), &endpoint.queue.channel, &endpoint.queue.ring);
        let part = endpoint.capacity() / PARTS;
        let mut first = true;
        while position.own() != end {
            let left = end.wrapping_sub(position.own()).min(part);
            let room = channel.send_blocking(&endpoint.pace, deadline, || match transfer.state(end) {
                State::Open => match endpoint.try_room(position, left)?.min(left) & !7 {
                    0 => Err(TrySendError::Full(())),
                    room => Ok(Some(room)),
                },
                _ => Ok(None),
            })?;
            let Some(room) = room else { return Ok(()) };
            let length = if first { LENGTH } else { 0 };
            if first {
                endpoint.write_length(position, source.len);
            }
            let mut bytes = endpoint.bytes(position, length, (room - length) as usize);
            // SAFETY: the room is ours.
            source.fill(unsafe { bytes.as_mut() });
            ring.commit(position, room);
            channel.committed(1);
            first = false;
        }
        // Nothing is lost of what was sent: if the receiver dies with a part of it, it goes to the next one as a whole.
        channel.send_blocking(&endpoint.pace, deadline, || {
            // Disconnected and closed are reasons not to wait any longer.
            endpoint.room(position, 0)?;
            if transfer.state(end) == State::Open { Err(TrySendError::Full(())) } else { Ok(()) }
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
        let len = total(parts);
        let mut grant = self.try_grant(len)?;
        gather(parts, &mut grant);
        grant.commit(len);
        Ok(())
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

/// A message that a receiver has in hand when it is not in the ring.
#[derive(Debug)]
pub(super) enum Partial {
    /// Parts of it are here.
    Some { start: u64, end: u64, len: u64, bytes: Vec<u8> },
    /// All of it is, and is received.
    All(Vec<u8>),
    /// It was a predecessor's, who left in the middle of it.
    Lost { end: u64 },
}

/// Where the message is that comes next.
#[derive(Clone, Copy)]
enum Next {
    /// In the ring, so long.
    InPlace(usize),
    /// In the receiver's hand.
    InHand,
}

/// A receiver, as its calls see it while they wait.
struct Reading<'a, M: Bytes + ?Sized> {
    end: &'a Endpoint<M>,
    position: &'a mut Position,
    partial: &'a mut Option<Partial>,
}

impl<M: Bytes + ?Sized> Reading<'_, M> {
    /// In a fork child: sits down if the parent has got up, and forgets what was in the parent's hand.
    #[inline]
    fn be_seated(&mut self) -> Result<(), TryRecvError> {
        if !self.end.is_ours() {
            self.end.sit_again().map_err(|_| TryRecvError::Detached)?;
            (*self.position, *self.partial) = self.end.receiver_position();
        }
        Ok(())
    }

    /// Gives back what was taken.
    fn release(&mut self, count: u64) {
        self.end.queue.ring.release(self.position, count);
        self.end.queue.channel.released(1);
    }

    /// Goes on from `to`, up to where the sender has come at least.
    fn skip_to(&mut self, to: u64) {
        self.release(to.wrapping_sub(self.position.own()));
        *self.position = self.end.queue.ring.receiver_position();
    }

    /// As many bytes as are ready, `wanted` or fewer, and one at least.
    #[inline]
    fn ready(&mut self, wanted: u64) -> Result<u64, TryRecvError> {
        self.end.ready(self.position, wanted).map(|ready| ready.min(wanted))
    }

    /// The length of the message that begins here, of which a part is there at least. Read once: what a hostile peer writes
    /// there later changes nothing.
    #[inline]
    fn length(&mut self) -> Result<u64, TryRecvError> {
        match self.ready(LENGTH)? {
            LENGTH => Ok(self.end.read_length(self.position)),
            // Nobody who follows the protocol commits less.
            _ => Err(TryRecvError::Empty),
        }
    }

    /// Has the next message ready; an error if there is none, or not all of it.
    #[inline]
    fn next(&mut self) -> Result<Next, TryRecvError> {
        self.be_seated()?;
        if self.partial.is_none() {
            let len = self.length()?;
            let wanted = record(len);
            if wanted <= self.end.capacity() && self.ready(wanted)? == wanted {
                return Ok(Next::InPlace(len as usize));
            }
            self.begin(len);
        }
        self.next_in_parts()
    }

    /// Begins with a message that is longer than the ring.
    #[cold]
    fn begin(&mut self, len: u64) {
        let start = self.position.own();
        let end = start.wrapping_add(record(len));
        self.end.transfer().take(end);
        let bytes = Vec::with_capacity(usize::try_from(len).map_or(AT_ONCE, |len| len.min(AT_ONCE)));
        *self.partial = Some(Partial::Some { start, end, len, bytes });
        self.release(LENGTH);
    }

    #[cold]
    fn next_in_parts(&mut self) -> Result<Next, TryRecvError> {
        let transfer = self.end.transfer();
        while let Some(partial) = self.partial.take() {
            match partial {
                Partial::All(bytes) => {
                    *self.partial = Some(Partial::All(bytes));
                    return Ok(Next::InHand);
                }
                Partial::Some { start, end, len, mut bytes } => {
                    let left = end.wrapping_sub(self.position.own());
                    let ready = self.ready(left);
                    // After the look at what is there: that may belong to another message already.
                    if let Some(torn) = transfer.torn(start, end) {
                        self.skip_to(torn);
                        continue;
                    }
                    let count = *ready.as_ref().unwrap_or(&0);
                    let missing = usize::try_from(len - bytes.len() as u64).unwrap_or(usize::MAX);
                    let part = self.end.bytes(self.position, 0, missing.min(count as usize));
                    // SAFETY: the bytes are ready, hence ours.
                    bytes.extend_from_slice(unsafe { part.as_ref() });
                    *self.partial = Some(match count == left {
                        false => Partial::Some { start, end, len, bytes },
                        true if transfer.accept(end) => Partial::All(bytes),
                        true => Partial::Lost { end },
                    });
                    // Behind the acceptance: until then a successor has to know that we are in the middle.
                    self.release(ready?);
                }
                Partial::Lost { end } => match transfer.resume(self.position.own(), end) {
                    Some(at) => self.skip_to(at),
                    None => {
                        *self.partial = Some(Partial::Lost { end });
                        let left = end.wrapping_sub(self.position.own());
                        // The sender may need room before it learns of it.
                        let ready = if left == 0 { Err(TryRecvError::Empty) } else { self.ready(left) };
                        self.release(ready?);
                    }
                },
            }
        }
        self.next()
    }

    /// The length of the next message, of which a part is there at least.
    fn len(&mut self) -> Result<usize, TryRecvError> {
        self.be_seated()?;
        if let Some(Partial::Lost { .. }) = self.partial {
            self.next()?;
        }
        let len = match self.partial {
            Some(Partial::Some { len, .. }) => *len,
            Some(Partial::All(bytes)) => bytes.len() as u64,
            _ => self.length()?,
        };
        Ok(usize::try_from(len).unwrap_or(usize::MAX))
    }
}

impl<M: Bytes + ?Sized> Receiver<M> {
    #[inline]
    fn reading(&mut self) -> Reading<'_, M> {
        Reading { end: &self.end, position: &mut self.position, partial: &mut self.partial }
    }

    /// The next message, if all of it is there.
    #[inline]
    pub(crate) fn try_frame(&mut self) -> Result<Frame<'_, M>, TryRecvError> {
        let next = self.reading().next()?;
        Ok(Frame { receiver: self, next, kept: true })
    }

    /// The next message, waiting for it until `deadline`.
    #[inline]
    pub(crate) fn frame(
        &mut self,
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<Frame<'_, M>, RecvTimeoutError> {
        self.end.rest(&self.position);
        let next = match self.reading().next() {
            Ok(next) => next,
            Err(_) => self.until(deadline(), |reading| reading.next())?,
        };
        Ok(Frame { receiver: self, next, kept: true })
    }

    /// The slow path of every blocking receive.
    #[inline(never)]
    fn until<R>(
        &mut self,
        deadline: Option<Deadline>,
        attempt: impl Fn(&mut Reading<'_, M>) -> Result<R, TryRecvError>,
    ) -> Result<R, RecvTimeoutError> {
        let mut reading = self.reading();
        let end = reading.end;
        end.queue.channel.receive_blocking(&end.pace, deadline, || attempt(&mut reading))
    }
}

/// A message of bytes that is being received; it derefs to `&[u8]`. Dropping it ends the receive.
///
/// It is read in place, in shared memory, and relies on everybody following the protocol. If
/// this process dies first, or the thread panics, the message is the next one that is received, by whoever holds this end
/// then. In a forked child dropping the copy does nothing. A message that came in parts, since it is longer than the ring, is in
/// this process's own memory, and received as soon as all of it has come.
pub struct Frame<'a, M: Bytes + ?Sized = [u8]> {
    receiver: &'a mut Receiver<M>,
    next: Next,
    kept: bool,
}

impl<M: Bytes + ?Sized> Frame<'_, M> {
    /// The bytes: copied, unless they came in parts. Ends the receive.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        match self.receiver.partial.take() {
            Some(Partial::All(bytes)) => bytes,
            _ => self.to_vec(),
        }
    }

    /// Leaves the message: it is the next one to be received.
    pub fn give_back(mut self) {
        self.kept = false;
    }
}

impl<M: Bytes + ?Sized> Drop for Frame<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if !self.kept || std::thread::panicking() {
            return;
        }
        let Receiver { position, end, partial, .. } = &mut *self.receiver;
        match self.next {
            Next::InPlace(len) if end.is_ours() => {
                end.queue.ring.release(position, record(len as u64));
                end.queue.channel.released(1);
            }
            Next::InPlace(_) => {}
            Next::InHand => *partial = None,
        }
    }
}

impl<M: Bytes + ?Sized> Deref for Frame<'_, M> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        let Receiver { position, end, partial, .. } = &*self.receiver;
        match (self.next, partial) {
            // SAFETY: the message is ready, hence ours as long as the receiver is borrowed.
            (Next::InPlace(len), _) => unsafe { end.bytes(position, LENGTH, len).as_ref() },
            (Next::InHand, Some(Partial::All(bytes))) => bytes.as_slice(),
            (Next::InHand, _) => &[],
        }
    }
}

impl<M: Bytes + ?Sized> fmt::Debug for Frame<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Messages of bytes.
impl Receiver<[u8]> {
    /// Receives what is there now. Wait-free, no system call unless the sender sleeps.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`]: no message is there, or not all of one that comes in parts. The others come after the last message.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Frame<'_>, TryRecvError> {
        self.try_frame()
    }

    /// Receives a message, waiting for one as long as it takes. It is read in place, unless it is longer than the ring, and counts
    /// as received when the frame is dropped; see [`Frame`].
    ///
    /// # Errors
    /// [`RecvError::Disconnected`] and [`RecvError::Closed`] after the last message. What a sender has begun that died before it had
    /// sent all of it is no message.
    #[inline]
    pub fn recv(&mut self) -> Result<Frame<'_>, RecvError> {
        no_deadline_recv(self.frame(|| None))
    }

    /// As `recv`, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`]: nothing was received. If some parts of a message have come, the next call goes on with
    /// them. The others come after the last message.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Frame<'_>, RecvTimeoutError> {
        self.frame(|| Deadline::after(timeout))
    }

    /// As `recv`, waiting until `deadline`.
    ///
    /// # Errors
    /// As for `recv_timeout`.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Frame<'_>, RecvTimeoutError> {
        self.frame(|| Deadline::at(deadline))
    }

    /// Receives into the front of `buffer` what is there now, and says how many bytes that are.
    ///
    /// # Errors
    /// As for `recv_into` and `try_recv`.
    pub fn try_recv_into(&mut self, buffer: &mut [u8]) -> Result<usize, RecvBytesError<TryRecvError>> {
        match self.reading().len()? {
            needed if needed > buffer.len() => Err(RecvBytesError::TooShort { needed }),
            _ => Ok(copy_out(self.try_recv()?, buffer)),
        }
    }

    /// Receives into the front of `buffer`, waiting for a message as long as it takes, and says how many bytes it has. To receive
    /// behind the first `offset` bytes, as Python's `recv_bytes_into(buffer, offset)`, pass `&mut buffer[offset..]`.
    ///
    /// # Errors
    /// [`RecvBytesError::TooShort`] with the length of the message, which is kept; and as for `recv`.
    pub fn recv_into(&mut self, buffer: &mut [u8]) -> Result<usize, RecvBytesError> {
        match no_deadline_recv(self.until(None, |reading| reading.len()))? {
            needed if needed > buffer.len() => Err(RecvBytesError::TooShort { needed }),
            _ => Ok(copy_out(self.recv()?, buffer)),
        }
    }

    /// Receives a copy, waiting for a message as long as it takes. One that came in parts is not copied once more.
    ///
    /// # Errors
    /// As for `recv`.
    pub fn recv_vec(&mut self) -> Result<Vec<u8>, RecvError> {
        self.recv().map(Frame::into_vec)
    }

    /// As `recv`, a message of at most `max` bytes: Python's `recv_bytes(maxlength)`, except that a longer one is kept.
    ///
    /// # Errors
    /// [`RecvBytesError::TooLong`] with the length of the message; and as for `recv`.
    pub fn recv_max(&mut self, max: usize) -> Result<Frame<'_>, RecvBytesError> {
        match no_deadline_recv(self.until(None, |reading| reading.len()))? {
            len if len > max => Err(RecvBytesError::TooLong { len, max }),
            _ => Ok(self.recv()?),
        }
    }

    /// The length of the message that comes next. Of one that comes in parts, the rest may not be there yet.
    ///
    /// # Errors
    /// As for `try_recv`.
    pub fn peek_len(&mut self) -> Result<usize, TryRecvError> {
        self.reading().len()
    }

    /// Copies of messages until the other end is gone (or has closed) and all are drained; waits for each.
    pub fn iter(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        core::iter::from_fn(|| self.recv_vec().ok())
    }

    /// Copies of the messages that are there now.
    pub fn try_iter(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        core::iter::from_fn(|| self.try_recv().ok().map(Frame::into_vec))
    }
}

/// Copies a message into the front of `buffer`, which is long enough.
fn copy_out(frame: Frame<'_>, buffer: &mut [u8]) -> usize {
    let len = frame.len();
    buffer[..len].copy_from_slice(&frame);
    len
}
