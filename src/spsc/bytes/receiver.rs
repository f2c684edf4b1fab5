//! Receiving: in place, or part by part into our own memory.

use core::fmt;
use core::ops::Deref;
use std::time::{Duration, Instant};

use crate::bytes::{copy_out, no_longer_than};
use crate::channel::no_deadline_recv;
use crate::deadline::Deadline;
use crate::error::{RecvBytesError, RecvError, RecvTimeoutError, TryRecvError};
use crate::message::Message;
use crate::message::sealed::Bytes;
use crate::ring::spsc::Position;
use crate::ring::transfer::{LENGTH, Record, record};
use crate::spsc::{Endpoint, Receiver};
use crate::unwinding::Unwinding;

/// Bytes that are asked of the allocator at once for a message that comes in parts; more when they have come.
const AT_ONCE: usize = 1 << 20;

/// A message that a receiver has in hand when it is not in the ring.
#[derive(Debug)]
pub(in crate::spsc) enum Partial {
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
    pub(in crate::spsc) fn message_until(&mut self, deadline: Option<Deadline>) -> Result<(), RecvTimeoutError> {
        self.until(deadline, |reading| reading.next().map(drop))
    }
}

impl<M: Bytes + ?Sized> Receiver<M> {
    /// The next message, if all of it is there.
    #[inline]
    pub(crate) fn try_frame(&mut self) -> Result<Frame<'_, M>, TryRecvError> {
        let next = self.reading().next()?;
        Ok(Frame { receiver: self, next, kept: true, unwinding: Unwinding::watch() })
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
        Ok(Frame { receiver: self, next, kept: true, unwinding: Unwinding::watch() })
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
    unwinding: Unwinding,
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
        if !self.kept || self.unwinding.has_begun() {
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
            _ => copy_out(self.try_recv()?, Frame::give_back, buffer),
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
            _ => copy_out(self.recv()?, Frame::give_back, buffer),
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
            _ => no_longer_than(self.recv()?, Frame::give_back, max),
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
