//! Messages of bytes: each is a run of blocks, written and read in place.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use super::guards::Guards;
use super::{Endpoint, Queue, Receiver, Sender};
use crate::bytes::{copy_out, gather, no_longer_than, total};
use crate::channel::{Channel, Data, no_deadline, no_deadline_recv};
use crate::copy::copy_bytes;
use crate::deadline::Deadline;
use crate::error::{
    RecvBytesError, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::message::sealed::Bytes;
use crate::primitive::FenceMode;
#[cfg(feature = "serde")]
use crate::primitive::Ordering;
use crate::ring::owned::{Owned, Run};
use crate::segment::Token;
use crate::unwinding::Unwinding;

/// A release may make room for many small messages or for one large one: everybody who waits has to look.
const EVERYBODY: usize = usize::MAX;

/// A run of blocks that this process has claimed; given back to the senders when dropped.
struct Held<'a> {
    channel: &'a Channel,
    ring: &'a Owned<u64>,
    data: &'a Data,
    /// `None` once its fate is decided.
    run: Option<Run>,
    /// Bytes of the message, or for one.
    len: usize,
    /// Who claimed it: us, unless this is a copy in a fork child.
    token: Token,
}

impl<'a> Held<'a> {
    /// The claim has just been made, so we are somebody. `len` is cut to what the run holds.
    #[inline]
    fn new<M: Bytes + ?Sized>(queue: &'a Queue<M>, data: &'a Data, run: Run, len: usize) -> Self {
        let Queue { channel, ring, .. } = queue;
        channel.attached().keeps_claims();
        let len = len.min(run.len() << data.shift);
        Self { channel, ring, data, run: Some(run), len, token: channel.attached().token() }
    }

    #[inline]
    fn place(&self) -> NonNull<[u8]> {
        let run = self.run.as_ref().expect("held until consumed");
        place(self.ring, self.data, run, self.len)
    }

    /// Gives the run to `decide`, if it is ours.
    #[inline]
    fn decide(&mut self, decide: impl FnOnce(&Channel, &Owned<u64>, Run)) {
        if let Some(run) = self.run.take()
            && self.channel.is_still(self.token)
        {
            decide(self.channel, self.ring, run);
        }
    }
}

/// The first `len` bytes of a run's blocks, which has as many.
#[inline]
fn place(ring: &Owned<u64>, data: &Data, run: &Run, len: usize) -> NonNull<[u8]> {
    let block = (run.position() & (ring.capacity() - 1)) as usize;
    // SAFETY: a block begins in the first half of the mapping.
    let first = unsafe { data.base.add(block << data.shift) };
    NonNull::slice_from_raw_parts(first, len)
}

fn free(channel: &Channel, ring: &Owned<u64>, run: Run) {
    ring.release_run(&run);
    channel.released_by_one_of_many(EVERYBODY);
}

/// Room for a message of bytes in a [`Queue`], to be written in place: see [`Sender::reserve`](Sender#method.reserve-1). It holds
/// whatever some earlier message has left.
///
/// It gives references into shared memory, which rely on everybody following the protocol. If this process dies, or the
/// grant is dropped, nothing is sent. One that is forgotten ([`core::mem::forget`]) takes its blocks out of use until
/// this process leaves the segment or ends. In a forked child it is the parent's: committing or dropping the copy does
/// nothing, and what it shows changes while the parent writes.
#[must_use = "dropping it sends nothing; commit it"]
pub struct Grant<'a> {
    held: Held<'a>,
}

impl Grant<'_> {
    /// Sends the first `len` bytes as one message. Wait-free, no system call unless a receiver sleeps.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn commit(mut self, len: usize) {
        assert!(len <= self.held.len, "gimmal: {len} bytes committed of {} reserved", self.held.len);
        self.held.decide(|channel, ring, run| {
            ring.commit_whole(&run, len as u64);
            channel.committed(1);
        });
    }
}

impl Drop for Grant<'_> {
    #[inline]
    fn drop(&mut self) {
        self.held.decide(free);
    }
}

impl Deref for Grant<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the blocks are ours, and lie in a row in the mapping that `data` keeps.
        unsafe { self.held.place().as_ref() }
    }
}

impl DerefMut for Grant<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { self.held.place().as_mut() }
    }
}

impl fmt::Debug for Grant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("len", &self.held.len).finish_non_exhaustive()
    }
}

/// A message of bytes that is being received, read in place; it derefs to `&[u8]`. Dropping it ends the receive.
///
/// It gives references into shared memory, which rely on everybody following the protocol. If
/// this process dies first, or the thread panics, the message goes to another receiver. A frame that is forgotten
/// ([`core::mem::forget`]) takes its blocks out of use until this process leaves the segment or ends. In a forked child it is
/// the parent's: dropping the copy does nothing, and what it shows may be overwritten once the parent has dropped its own.
pub struct Frame<'a> {
    held: Held<'a>,
    guards: &'a Guards,
    unwinding: Unwinding,
}

impl Frame<'_> {
    /// The bytes, copied; ends the receive.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.to_vec()
    }

    /// Leaves the message to another receiver, which gets it before newer ones; perhaps to this one, if it asks first.
    pub fn give_back(mut self) {
        self.leave();
    }

    fn leave(&mut self) {
        self.settle(|channel, ring, run| {
            ring.give_back_run(&run);
            channel.committed(1);
        });
    }

    /// As [`Held::decide`]; from before that on, it is not counted any more.
    #[inline]
    fn settle(&mut self, decide: impl FnOnce(&Channel, &Owned<u64>, Run)) {
        let guards = self.guards;
        self.held.decide(|channel, ring, run| {
            guards.lower();
            decide(channel, ring, run);
        });
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.unwinding.has_begun() {
            self.leave();
        }
        self.settle(free);
    }
}

impl Deref for Frame<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the blocks are ours, and lie in a row in the mapping that `data` keeps.
        unsafe { self.held.place().as_ref() }
    }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<M: Bytes + ?Sized> Endpoint<M> {
    fn data(&self) -> &Data {
        self.queue.data.as_ref().expect("messages of bytes have their data")
    }
}

impl<M: Bytes + ?Sized> Sender<M> {
    /// Room for an object as large as the last one, in whole blocks, if there is some now.
    #[cfg(feature = "serde")]
    #[inline]
    pub(crate) fn try_guess(&self) -> Option<Grant<'_>> {
        let block = 1 << self.end.data().shift;
        let guess = self.end.guess.load(Ordering::Relaxed).max(1);
        self.try_grant(guess.checked_next_multiple_of(block)?).ok()
    }

    /// The next object may be as large.
    #[cfg(feature = "serde")]
    #[inline]
    pub(crate) fn guess(&self, len: usize) {
        self.end.guess.store(len, Ordering::Relaxed);
    }

    /// The most bytes that a message may have: all that the queue holds; if that is unbounded, at least half of what its limit of
    /// memory allows.
    #[must_use]
    pub fn max_len(&self) -> usize {
        let Queue { ring, data, .. } = &self.end.queue;
        let chunk =
            ring.pages().map_or(0, |pages| (pages.len() as usize) << data.as_ref().map_or(0, |data| data.shift));
        self.end.queue.capacity() - chunk
    }

    /// Room for a message of `len` bytes, if there is some now.
    #[inline]
    pub(crate) fn try_grant(&self, len: usize) -> Result<Grant<'_>, TrySendError<()>> {
        let run = self.try_claim(len)?;
        Ok(Grant { held: Held::new(&self.end.queue, self.end.data(), run, len) })
    }

    /// Blocks for a message of `len` bytes, if there are some now.
    #[inline]
    fn try_claim(&self, len: usize) -> Result<Run, TrySendError<()>> {
        let Endpoint { queue: Queue { channel, ring, .. }, cursor, .. } = &self.end;
        match channel.known_id() {
            // The common case: one block.
            owner @ 1.. if channel.sends_at_once() && len <= 1 << self.end.data().shift => {
                let claim = ring.reserve(cursor, owner, FenceMode::Asymmetric).map(Run::single);
                claim.map_err(|refused| self.refusal(refused))
            }
            _ => self.try_claim_with_care(len),
        }
    }

    #[inline(never)]
    fn try_claim_with_care(&self, len: usize) -> Result<Run, TrySendError<()>> {
        let Endpoint { queue, cursor, .. } = &self.end;
        let data = self.end.data();
        if len > data.size || self.end.queue.region.is_some() && len > self.max_len() {
            return Err(TrySendError::TooLarge { message: (), len, max: self.max_len() });
        }
        let blocks = (len + (1 << data.shift) - 1) >> data.shift;
        let owner = self.owner()?;
        let claim = || queue.ring.reserve_whole(cursor, owner, queue.channel.mode(), blocks.max(1));
        claim().or_else(|refused| self.refused(refused, owner, blocks.max(1), claim))
    }

    /// Sends a message, if there is room now: nobody holds anything in between, neither across a fork nor a panic.
    #[inline]
    fn try_put(&self, message: &[u8]) -> Result<(), TrySendError<()>> {
        let run = self.try_claim(message.len())?;
        let Queue { channel, ring, .. } = &self.end.queue;
        let mut room = place(ring, self.end.data(), &run, message.len());
        // SAFETY: as many blocks are ours, and lie in a row in the mapping that the data keep.
        copy_bytes(message, unsafe { room.as_mut() }, self.end.data().size);
        ring.commit_whole(&run, message.len() as u64);
        channel.committed(1);
        Ok(())
    }

    /// The slow path of every blocking send: waits for room.
    #[inline(never)]
    fn grant_until(&self, len: usize, deadline: Option<Deadline>) -> Result<Grant<'_>, SendTimeoutError<()>> {
        let Endpoint { queue, cursor, pace, .. } = &self.end;
        pace.rest(cursor.position(), queue.ring.capacity());
        queue.channel.send_blocking(pace, deadline, || self.try_grant(len))
    }

    /// Room for a message of `len` bytes, waiting for it until `deadline`.
    #[inline]
    pub(crate) fn grant(
        &self,
        len: usize,
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<Grant<'_>, SendTimeoutError<()>> {
        match self.try_grant(len) {
            Ok(grant) => Ok(grant),
            Err(_) => self.grant_until(len, deadline()),
        }
    }
}

/// Sends a message for which there is room.
fn fill(mut grant: Grant<'_>, parts: &[IoSlice<'_>]) {
    let ring = grant.held.data.size;
    gather(parts, &mut grant, ring);
    let len = grant.len();
    grant.commit(len);
}

/// Messages of bytes. A part of a buffer is sent as a slice: `send(&buffer[offset..offset + size])`, Python's
/// `send_bytes(buffer, offset, size)`. Empty messages are messages, too.
impl Sender<[u8]> {
    /// Sends if there is room now. Lock-free, no system call unless a receiver sleeps.
    ///
    /// # Errors
    /// [`TrySendError::Full`] if there is no room for this message now, though perhaps for a smaller one;
    /// [`TrySendError::TooLarge`] if there never will be; and the others.
    #[inline]
    pub fn try_send(&self, message: &[u8]) -> Result<(), TrySendError<()>> {
        self.try_put(message)
    }

    /// Sends, waiting for room as long as it takes: spinning for some microseconds, then asleep. A large message finds room only
    /// when enough is free at once; senders of small ones that never pause can keep it waiting.
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<[u8]>::create(&segment, "lines", 16 << 10)?; // bytes
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// sender.send(b"first")?;
    /// sender.send(&b"a part of a buffer"[2..6])?;
    /// sender.send(b"")?;
    /// assert_eq!(*receiver.recv()?, *b"first");
    /// let mut buffer = [0; 10];
    /// assert_eq!(receiver.recv_into(&mut buffer[3..])?, 4); // Python's recv_bytes_into(buffer, 3)
    /// assert_eq!(&buffer, b"\0\0\0part\0\0\0");
    /// assert!(receiver.recv_vec()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SendError::TooLarge`], at once, if the message can never fit; [`SendError::Closed`] and the others.
    #[inline]
    pub fn send(&self, message: &[u8]) -> Result<(), SendError<()>> {
        match self.try_put(message) {
            Ok(()) => Ok(()),
            Err(_) => {
                no_deadline(self.grant_until(message.len(), None)).map(|grant| fill(grant, &[IoSlice::new(message)]))
            }
        }
    }

    /// Sends, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// [`SendTimeoutError::Timeout`], and as for `send`: it was not sent.
    pub fn send_timeout(&self, message: &[u8], timeout: Duration) -> Result<(), SendTimeoutError<()>> {
        self.grant(message.len(), || Deadline::after(timeout)).map(|grant| fill(grant, &[IoSlice::new(message)]))
    }

    /// Sends, waiting for room until `deadline`.
    ///
    /// # Errors
    /// As for `send_timeout`.
    pub fn send_deadline(&self, message: &[u8], deadline: Instant) -> Result<(), SendTimeoutError<()>> {
        self.grant(message.len(), || Deadline::at(deadline)).map(|grant| fill(grant, &[IoSlice::new(message)]))
    }

    /// As `try_send`, a message put together from several parts.
    ///
    /// # Errors
    /// As for `try_send`.
    pub fn try_send_vectored(&self, parts: &[IoSlice<'_>]) -> Result<(), TrySendError<()>> {
        self.try_grant(total(parts)).map(|grant| fill(grant, parts))
    }

    /// As `send`, one message put together from several parts, such as a header and a body.
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    /// use std::io::IoSlice;
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<[u8]>::create(&segment, "frames", 4096)?;
    /// queue.sender()?.send_vectored(&[IoSlice::new(b"head"), IoSlice::new(b" and body")])?;
    /// assert_eq!(*queue.receiver()?.recv()?, *b"head and body");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for `send`.
    pub fn send_vectored(&self, parts: &[IoSlice<'_>]) -> Result<(), SendError<()>> {
        no_deadline(self.grant(total(parts), || None)).map(|grant| fill(grant, parts))
    }

    /// Reserves room for a message of up to `len` bytes, if there is some now: see `reserve`.
    ///
    /// # Errors
    /// As for `try_send`.
    pub fn try_reserve(&self, len: usize) -> Result<Grant<'_>, TrySendError<()>> {
        self.try_grant(len)
    }

    /// Reserves room for a message of up to `len` bytes, waiting for it as long as it takes, to write the message in place.
    /// Nothing is copied; [`Grant::commit`] sends it, dropping the grant does not. Until then receivers step around it, and
    /// the messages of this sender that are sent meanwhile may arrive before it.
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<[u8]>::create(&segment, "lines", 4096)?;
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// let mut grant = sender.reserve(1000)?;
    /// grant[..5].copy_from_slice(b"short");
    /// grant.commit(5); // no more than was reserved
    /// assert_eq!(*receiver.recv()?, *b"short");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for `send`.
    pub fn reserve(&self, len: usize) -> Result<Grant<'_>, SendError<()>> {
        no_deadline(self.grant(len, || None))
    }

    /// As `reserve`, waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for `send_timeout`.
    pub fn reserve_timeout(&self, len: usize, timeout: Duration) -> Result<Grant<'_>, SendTimeoutError<()>> {
        self.grant(len, || Deadline::after(timeout))
    }
}

impl<M: Bytes + ?Sized> Receiver<M> {
    /// The oldest message that is there.
    #[inline]
    pub(crate) fn try_frame(&self) -> Result<Frame<'_>, TryRecvError> {
        let Endpoint { queue, cursor, guards, .. } = &self.end;
        let owner = match queue.channel.known_id() {
            0 => self.owner()?,
            owner => owner,
        };
        let run = queue.ring.claim_whole(cursor, owner).or_else(|_| self.claim_or_reason(owner, usize::MAX))?;
        if !queue.channel.is_plain() {
            self.end.came_to(run.position(), owner);
        }
        // Read once: what a hostile peer writes there later changes nothing.
        let len = usize::try_from(queue.ring.length(&run)).unwrap_or(usize::MAX);
        let held = Held::new(queue, self.end.data(), run, len);
        guards.raise(held.token);
        Ok(Frame { held, guards, unwinding: Unwinding::watch() })
    }

    /// The oldest message, waiting for one until `deadline`.
    #[inline]
    pub(crate) fn frame(&self, deadline: impl FnOnce() -> Option<Deadline>) -> Result<Frame<'_>, RecvTimeoutError> {
        match self.try_frame() {
            Ok(frame) => Ok(frame),
            Err(_) => self.frame_until(deadline()),
        }
    }

    /// The slow path of every blocking receive.
    #[inline(never)]
    fn frame_until(&self, deadline: Option<Deadline>) -> Result<Frame<'_>, RecvTimeoutError> {
        self.until(deadline, || self.try_frame())
    }
}

/// Messages of bytes.
impl Receiver<[u8]> {
    /// Receives what is there now, to be read in place. Lock-free, no system call unless a sender sleeps.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`]: at some moment during the call no message was there. The others come after the last
    /// message.
    #[inline]
    pub fn try_recv(&self) -> Result<Frame<'_>, TryRecvError> {
        self.try_frame()
    }

    /// Receives a message, waiting for one as long as it takes, and reads it in place. It counts as received when the frame
    /// is dropped. If this process dies before, or the thread panics, or [`Frame::give_back`] is called, the message
    /// goes to another receiver, before newer ones.
    ///
    /// # Errors
    /// [`RecvError::Closed`] and [`RecvError::Disconnected`] after the last message.
    #[inline]
    pub fn recv(&self) -> Result<Frame<'_>, RecvError> {
        match self.try_frame() {
            Ok(frame) => Ok(frame),
            Err(_) => no_deadline_recv(self.frame_until(None)),
        }
    }

    /// As `recv`, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`]: nothing was taken. The others come after the last message.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Frame<'_>, RecvTimeoutError> {
        self.frame(|| Deadline::after(timeout))
    }

    /// As `recv`, waiting until `deadline`.
    ///
    /// # Errors
    /// As for `recv_timeout`.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Frame<'_>, RecvTimeoutError> {
        self.frame(|| Deadline::at(deadline))
    }

    /// Receives into the front of `buffer` what is there now, and says how many bytes that are.
    ///
    /// # Errors
    /// As for `recv_into` and `try_recv`.
    pub fn try_recv_into(&self, buffer: &mut [u8]) -> Result<usize, RecvBytesError<TryRecvError>> {
        copy_out(self.try_frame()?, Frame::give_back, buffer)
    }

    /// Receives into the front of `buffer`, waiting for a message as long as it takes, and says how many bytes it has. To receive
    /// behind the first `offset` bytes, as Python's `recv_bytes_into(buffer, offset)`, pass `&mut buffer[offset..]`.
    ///
    /// # Errors
    /// [`RecvBytesError::TooShort`] with the length of the message, which is kept, and which somebody else may receive
    /// meanwhile; and as for `recv`.
    pub fn recv_into(&self, buffer: &mut [u8]) -> Result<usize, RecvBytesError> {
        copy_out(self.recv()?, Frame::give_back, buffer)
    }

    /// Receives a copy, waiting for a message as long as it takes.
    ///
    /// # Errors
    /// As for `recv`.
    pub fn recv_vec(&self) -> Result<Vec<u8>, RecvError> {
        self.recv().map(Frame::into_vec)
    }

    /// As `recv`, a message of at most `max` bytes: Python's `recv_bytes(maxlength)`, except that a longer one is kept.
    ///
    /// ```
    /// use gimmal::{Queue, RecvBytesError, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<[u8]>::create(&segment, "lines", 4096)?;
    /// let receiver = queue.receiver()?;
    /// queue.sender()?.send(b"hello")?;
    /// assert_eq!(receiver.recv_max(3).unwrap_err(), RecvBytesError::TooLong { len: 5, max: 3 });
    /// assert_eq!(*receiver.recv_max(5)?, *b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RecvBytesError::TooLong`] with the length of the message; and as for `recv`.
    pub fn recv_max(&self, max: usize) -> Result<Frame<'_>, RecvBytesError> {
        no_longer_than(self.recv()?, Frame::give_back, max)
    }

    /// The length of the message that would be received now; another receiver may be faster. It is claimed and given back for
    /// the look, which makes the next receive slower: ask only if you must.
    ///
    /// # Errors
    /// As for `try_recv`.
    pub fn peek_len(&self) -> Result<usize, TryRecvError> {
        let frame = self.try_frame()?;
        let len = frame.len();
        frame.give_back();
        Ok(len)
    }

    /// Copies of messages until the queue is closed (or disconnected) and drained; waits for each.
    pub fn iter(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        core::iter::from_fn(|| self.recv_vec().ok())
    }

    /// Copies of the messages that are there now.
    pub fn try_iter(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        core::iter::from_fn(|| self.try_recv().ok().map(Frame::into_vec))
    }
}
