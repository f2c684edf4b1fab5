//! Messages of bytes: records in a row, written and read in place, or passed in parts if they are longer than the ring.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use super::{Endpoint, Receiver, Sender};
use crate::channel::{no_deadline, no_deadline_recv};
use crate::copy::copy_bytes;
use crate::deadline::Deadline;
use crate::error::{
    RecvBytesError, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::message::Message;
use crate::message::sealed::Bytes;
use crate::queue::bytes::{gather, total};
use crate::ring::spsc::Position;
use crate::ring::transfer::{LENGTH, Record, State, Transfer, record};

/// A message in parts is passed on in so many, so that one end can write while the other reads.
const PARTS: u64 = 4;
/// Bytes that are asked of the allocator at once for a message that comes in parts; more when they have come.
const AT_ONCE: usize = 1 << 20;

impl<M: Message + ?Sized> Endpoint<M> {
    fn capacity(&self) -> u64 {
        self.queue.ring.capacity()
    }

    fn transfer(&self) -> Transfer<'_> {
        Transfer::of(self.queue.channel.header())
    }

    /// Where the byte `offset` behind our own position is. Twice as many bytes are mapped as there are.
    #[inline]
    fn byte(&self, position: &Position, offset: u64) -> NonNull<u8> {
        debug_assert!(M::BYTES && offset <= self.capacity());
        // SAFETY: the position is in the first half of the mapping, and no more than the other half follows.
        unsafe { self.queue.ring.place(position).cast::<u8>().add(offset as usize) }
    }

    /// `len` bytes, `offset` behind our own position; the caller has seen them free, or ready.
    #[inline]
    fn bytes(&self, position: &Position, offset: u64, len: usize) -> NonNull<[u8]> {
        debug_assert!(offset + len as u64 <= self.capacity());
        NonNull::slice_from_raw_parts(self.byte(position, offset), len)
    }

    /// Writes a word in front of a message; the caller has seen the room.
    #[inline]
    fn write_word(&self, position: &Position, offset: u64, word: u64) {
        // SAFETY: a position is a multiple of eight, as the offset is, and the room is ours.
        unsafe { self.byte(position, offset).cast::<u64>().write(word) }
    }

    /// A word in front of a message; the caller has seen it ready.
    #[inline]
    fn read_word(&self, position: &Position, offset: u64) -> u64 {
        // SAFETY: as above.
        unsafe { self.byte(position, offset).cast::<u64>().read() }
    }

    /// Room for `wanted` bytes.
    #[inline]
    fn try_room_for(&self, position: &mut Position, wanted: u64) -> Result<(), TrySendError<()>> {
        if self.room(position, wanted)? >= wanted {
            return Ok(());
        }
        self.in_vain();
        Err(TrySendError::Full(()))
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

/// A message that a receiver has in hand when it is not in the ring.
#[derive(Debug)]
pub(super) enum Partial {
    /// Parts of it are here, fewer than `len` bytes.
    Some { start: u64, len: u64, bytes: Vec<u8> },
    /// All of it is, and is received.
    All(Vec<u8>),
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
struct Reading<'a, M: Message + ?Sized> {
    end: &'a Endpoint<M>,
    position: &'a mut Position,
    partial: &'a mut Option<Partial>,
    /// One look has taken as much as it may; there may be more.
    paused: bool,
}

impl<M: Message + ?Sized> Reading<'_, M> {
    /// In a fork child: sits down if the parent has got up, and forgets what was in the parent's hand.
    #[inline]
    fn be_seated(&mut self) -> Result<(), TryRecvError> {
        if !self.end.is_ours() {
            self.end.reseat_receiver(self.position)?;
            *self.partial = None;
        }
        Ok(())
    }

    /// Has `wanted` bytes of a record ready, or says why there are none.
    #[inline]
    fn have(&mut self, wanted: u64) -> Result<(), TryRecvError> {
        // We are seated: every look begins with that.
        if self.end.queue.ring.ready(self.position, wanted) >= wanted {
            return Ok(());
        }
        // Nobody who follows the protocol commits a part of a record.
        self.end.ready_or_reason(self.position, wanted, wanted).map(drop)
    }

    /// The header of the next record. Read once: what a hostile peer writes there later changes nothing.
    #[inline]
    fn header(&mut self) -> Result<u64, TryRecvError> {
        self.have(LENGTH)?;
        Ok(self.end.read_word(self.position, 0))
    }

    /// The same in a look that began at `begun`. A sender may be as fast as we are, and each look comes to an end.
    fn header_since(&mut self, begun: u64) -> Result<u64, TryRecvError> {
        if self.position.own().wrapping_sub(begun) >= self.end.capacity() {
            self.paused = true;
            return Err(TryRecvError::Empty);
        }
        self.header()
    }

    /// Has the next message ready; an error if there is none, or not all of it.
    #[inline(always)]
    fn next(&mut self) -> Result<Next, TryRecvError> {
        self.be_seated()?;
        if self.partial.is_none() {
            let header = self.header()?;
            let wanted = record(header);
            if wanted <= self.end.capacity() {
                self.have(wanted)?;
                return Ok(Next::InPlace(header as usize));
            }
        }
        self.next_in_parts()
    }

    #[cold]
    fn next_in_parts(&mut self) -> Result<Next, TryRecvError> {
        let begun = self.position.own();
        loop {
            if let Some(Partial::All(_)) = self.partial {
                return Ok(Next::InHand);
            }
            let record = Record::of(self.header_since(begun)?);
            self.have(record.takes())?;
            match record {
                Record::Whole(len) => {
                    // What is in hand is torn.
                    *self.partial = None;
                    return Ok(Next::InPlace(len as usize));
                }
                Record::First(_) => self.begin(),
                Record::More(_) => {}
            }
            self.take(record);
        }
    }

    /// Begins with a message that comes in parts.
    fn begin(&mut self) {
        let (start, len) = (self.position.own(), self.end.read_word(self.position, LENGTH));
        let bytes = Vec::with_capacity(usize::try_from(len).map_or(AT_ONCE, |len| len.min(AT_ONCE)));
        *self.partial = Some(Partial::Some { start, len, bytes });
    }

    /// Takes a part of the message in hand; of none, if we have not seen it begin.
    fn take(&mut self, record: Record) {
        if let Some(Partial::Some { start, len, mut bytes }) = self.partial.take() {
            let missing = usize::try_from(len - bytes.len() as u64).unwrap_or(usize::MAX);
            let part = self.end.bytes(self.position, record.front(), missing.min(record.bytes() as usize));
            // SAFETY: the bytes are ready, hence ours.
            bytes.extend_from_slice(unsafe { part.as_ref() });
            *self.partial = match bytes.len() as u64 == len {
                false => Some(Partial::Some { start, len, bytes }),
                true if self.end.transfer().accept(start) => Some(Partial::All(bytes)),
                true => None,
            };
        }
        // The sender waits for room, or for the acceptance.
        self.end.queue.ring.release(self.position, record.takes());
        self.end.queue.channel.released(1);
    }

    /// The length of the next message, of which a part is there at least.
    fn len(&mut self) -> Result<usize, TryRecvError> {
        self.be_seated()?;
        let begun = self.position.own();
        let len = loop {
            let in_hand = match self.partial {
                Some(Partial::All(bytes)) => break bytes.len() as u64,
                Some(Partial::Some { len, .. }) => Some(*len),
                None => None,
            };
            match (self.header_since(begun).map(Record::of), in_hand) {
                (Ok(Record::More(_)) | Err(TryRecvError::Empty), Some(len)) => break len,
                (Ok(Record::Whole(len)), _) => break len,
                (Ok(Record::First(_)), _) => {
                    self.have(2 * LENGTH)?;
                    break self.end.read_word(self.position, LENGTH);
                }
                // What is left of one that was torn.
                (Ok(record @ Record::More(_)), None) => {
                    self.have(record.takes())?;
                    self.take(record);
                }
                (Err(reason), _) => return Err(reason),
            }
        };
        Ok(usize::try_from(len).unwrap_or(usize::MAX))
    }
}

impl<M: Message + ?Sized> Receiver<M> {
    #[inline]
    fn reading(&mut self) -> Reading<'_, M> {
        Reading { end: &self.end, position: &mut self.position, partial: &mut self.partial, paused: false }
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
        end.queue.channel.receive_blocking(&end.pace, deadline, || {
            loop {
                let result = attempt(&mut reading);
                let paused = core::mem::take(&mut reading.paused);
                // There may be more to take: no reason to sleep.
                if result.is_ok() || !paused || deadline.is_some_and(Deadline::passed) {
                    return result;
                }
            }
        })
    }

    /// Waits until all of a message is there; one that comes in parts is then in hand.
    pub(super) fn message_until(&mut self, deadline: Option<Deadline>) -> Result<(), RecvTimeoutError> {
        self.until(deadline, |reading| reading.next().map(drop))
    }
}

impl<M: Bytes + ?Sized> Receiver<M> {
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
}

/// The message in front, for a stream of bytes, which takes parts of it at a time.
impl Receiver<[u8]> {
    /// The length of the message in front, waiting for it until `deadline`.
    pub(crate) fn front(&mut self, deadline: Option<Deadline>) -> Result<usize, RecvTimeoutError> {
        let frame = self.frame(|| deadline)?;
        let len = frame.len();
        frame.give_back();
        Ok(len)
    }

    /// The message that [`Receiver::front`] has found; nothing, if it has found none.
    pub(crate) fn front_bytes(&mut self) -> &[u8] {
        match self.reading().next() {
            // SAFETY: the message is ready, hence ours as long as the receiver is borrowed.
            Ok(Next::InPlace(len)) => unsafe { self.end.bytes(&self.position, LENGTH, len).as_ref() },
            Ok(Next::InHand) => match &self.partial {
                Some(Partial::All(bytes)) => bytes,
                _ => &[],
            },
            Err(_) => &[],
        }
    }

    /// Receives the message in front, if there is one.
    pub(crate) fn pop_front(&mut self) {
        drop(self.try_frame());
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
            _ => copy_out(self.try_recv()?, buffer),
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
            _ => copy_out(self.recv()?, buffer),
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
            _ => no_longer_than(self.recv()?, max),
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

/// Copies a message into the front of `buffer`, unless it is another one than was asked for, and too long.
#[inline]
fn copy_out<E>(frame: Frame<'_>, buffer: &mut [u8]) -> Result<usize, RecvBytesError<E>> {
    let needed = frame.len();
    match buffer.get_mut(..needed) {
        Some(room) => {
            room.copy_from_slice(&frame);
            Ok(needed)
        }
        None => {
            frame.give_back();
            Err(RecvBytesError::TooShort { needed })
        }
    }
}

/// As `copy_out`, for what is read in place.
fn no_longer_than<E>(frame: Frame<'_>, max: usize) -> Result<Frame<'_>, RecvBytesError<E>> {
    let len = frame.len();
    if len <= max {
        return Ok(frame);
    }
    frame.give_back();
    Err(RecvBytesError::TooLong { len, max })
}
