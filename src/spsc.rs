//! [`SpscQueue`]: one sender, one receiver, wait-free.

mod in_place;

use core::fmt;
use core::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

pub use self::in_place::{RecvGuard, Reservation, SliceGuard, SliceReservation};

use crate::channel::{Channel, no_deadline, no_deadline_recv};
use crate::deadline::Deadline;
use crate::error::{
    Error, RecvError, RecvTimeoutError, SendError, SendSliceError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::event::Surroundings;
use crate::object::{ElementType, Kind, Object};
use crate::queue::QueueOptions;
use crate::ring::Element;
use crate::ring::owned::VAIN_CALLS;
use crate::ring::spsc::{Position, Spsc};
use crate::seat::{Before, Seat};
use crate::segment::{Attached, Segment, Side, Token, Wanted};

/// A bounded queue of `T` with one sending and one receiving end, each held by one thread of one process at a time.
///
/// *Order:* first in, first out. *Progress:* wait-free. *A crash* loses no message whose send has returned and repeats
/// none whose receive has returned; the seat of a dead holder is free, and whoever takes it goes on where it stopped.
///
/// # Example
///
/// ```
/// use gimmal::{Error, Segment, SpscQueue};
///
/// let segment = Segment::anonymous()?;
/// let queue = SpscQueue::<f64>::create(&segment, "samples", 64)?;
/// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
/// assert!(matches!(queue.sender(), Err(Error::SeatTaken { .. })));
/// sender.send(0.5)?;
/// assert_eq!(receiver.recv(), Ok(0.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SpscQueue<T> {
    channel: Channel,
    ring: Spsc<T>,
}

impl QueueOptions {
    fn make_spsc<T: Pod>(&self, segment: &Segment, name: &str, or_open: bool) -> Result<SpscQueue<T>, Error> {
        let shape = self.shape(Kind::SpscQueue, ElementType::of::<T>(), None)?;
        let object = segment.attached().create(name, &shape, or_open, |_| {})?;
        Ok(SpscQueue::at(segment.attached(), &object, object.offset))
    }

    /// Creates a queue for one sender and one receiver.
    ///
    /// # Errors
    /// As for [`QueueOptions::create`].
    pub fn create_spsc<T: Pod>(&self, segment: &Segment, name: &str) -> Result<SpscQueue<T>, Error> {
        self.make_spsc(segment, name, false)
    }

    /// Opens the queue for one sender and one receiver, or creates it if need be.
    ///
    /// # Errors
    /// As for [`QueueOptions::open_or_create`].
    pub fn open_or_create_spsc<T: Pod>(&self, segment: &Segment, name: &str) -> Result<SpscQueue<T>, Error> {
        self.make_spsc(segment, name, true)
    }
}

impl<T: Pod> SpscQueue<T> {
    /// Options: capacity and what happens when one side is left alone.
    pub fn options() -> QueueOptions {
        QueueOptions::new()
    }

    /// Creates a queue for `capacity` messages, rounded up to a power of two.
    ///
    /// # Errors
    /// As for [`Queue::create`](crate::Queue::create).
    pub fn create(segment: &Segment, name: &str, capacity: usize) -> Result<Self, Error> {
        Self::options().capacity(capacity).create_spsc(segment, name)
    }

    /// Opens an existing queue.
    ///
    /// # Errors
    /// As for [`Queue::open`](crate::Queue::open).
    pub fn open(segment: &Segment, name: &str) -> Result<Self, Error> {
        let shape = Self::options().shape(Kind::SpscQueue, ElementType::of::<T>(), None)?;
        let object = segment.attached().find(name, &Wanted::like(shape))?;
        Ok(Self::at(segment.attached(), &object, object.offset))
    }

    /// Opens the queue, or creates it if need be; several processes may do so at once.
    ///
    /// # Errors
    /// As for [`Queue::open_or_create`](crate::Queue::open_or_create).
    pub fn open_or_create(segment: &Segment, name: &str, capacity: usize) -> Result<Self, Error> {
        Self::options().capacity(capacity).open_or_create_spsc(segment, name)
    }

    /// Bytes that a queue of this capacity takes in a segment; `usize::MAX` if none could hold it.
    #[must_use]
    pub fn bytes(capacity: usize) -> usize {
        let shape = Self::options().capacity(capacity).shape(Kind::SpscQueue, ElementType::of::<T>(), None);
        shape.ok().and_then(|shape| shape.bytes()).unwrap_or(usize::MAX)
    }

    /// The ring at `offset` of a checked object of element type `T`.
    pub(crate) fn at(attached: &Arc<Attached>, object: &Object, offset: usize) -> Self {
        const { Element::<T>::CHECK };
        let channel = Channel::new(attached, object, offset);
        // SAFETY: a checked object's rings lie inside the mapping, which the channel keeps; `T` is Pod.
        let ring = unsafe { Spsc::new(channel.header_pointer(), channel.slots(), object.shape.capacity) };
        Self { channel, ring }
    }

    /// Takes the sending end.
    ///
    /// # Errors
    /// [`Error::SeatTaken`] while somebody living holds it.
    pub fn sender(&self) -> Result<Sender<T>, Error> {
        let end = Endpoint::take(self, Side::Sender)?;
        Ok(Sender { position: self.ring.sender_position(), end })
    }

    /// Takes the receiving end.
    ///
    /// # Errors
    /// [`Error::SeatTaken`] while somebody living holds it.
    pub fn receiver(&self) -> Result<Receiver<T>, Error> {
        let end = Endpoint::take(self, Side::Receiver)?;
        Ok(Receiver { position: self.ring.receiver_position(), end })
    }

    /// Messages that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity() as usize
    }

    /// Messages that are there; a moment's count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len() as usize
    }

    /// Whether there is no message at this moment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a send would have to wait at this moment.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity()
    }

    /// Whether the sender has closed it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.channel.is_closing()
    }
}

impl<T> Clone for SpscQueue<T> {
    fn clone(&self) -> Self {
        Self { channel: self.channel.clone(), ring: self.ring.clone() }
    }
}

impl<T: Pod> fmt::Debug for SpscQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpscQueue")
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// One end and its seat.
struct Endpoint<T: Pod> {
    queue: SpscQueue<T>,
    side: Side,
    /// Who sits: us, unless this is a fork child; `NEVER` after getting up.
    sitter: Token,
    /// Calls that found the ring full or empty.
    vain: u32,
    /// What the seat's word said before we sat down.
    before: Before,
    /// Send, but not Sync.
    not_sync: PhantomData<core::cell::Cell<()>>,
}

impl<T: Pod> Endpoint<T> {
    fn take(queue: &SpscQueue<T>, side: Side) -> Result<Self, Error> {
        let (token, before) = Self::sit(&queue.channel, side)?;
        Ok(Self { queue: queue.clone(), side, sitter: token, vain: 0, before, not_sync: PhantomData })
    }

    fn sit(channel: &Channel, side: Side) -> Result<(Token, Before), Error> {
        let attached = channel.attached();
        let seat = Seat::of(&channel.header().roles, side);
        let mut repaired = false;
        loop {
            let token = attached.token();
            if token == Token::NOBODY {
                return Err(Attached::detached());
            }
            match seat.take(token.id(), std::process::id()) {
                Ok(before) => return Ok((token, before)),
                Err(held) if repaired || held.owner == token.id() => return Err(Error::SeatTaken { pid: held.pid }),
                Err(held) => {
                    repaired = true;
                    attached.recover()?;
                    attached.await_end(held.owner);
                }
            }
        }
    }

    #[inline(always)]
    fn is_ours(&self) -> bool {
        self.queue.channel.is_still(self.sitter)
    }

    /// In a fork child: sits down if the parent has got up.
    #[cold]
    fn sit_again(&mut self) -> Result<(), Error> {
        let (token, before) = Self::sit(&self.queue.channel, self.side)?;
        (self.sitter, self.before) = (token, before);
        Ok(())
    }

    /// Called when there was no room or no message: now and then looks whether somebody has died.
    fn in_vain(&mut self) {
        self.vain = self.vain.wrapping_add(1);
        if self.vain.is_multiple_of(VAIN_CALLS) {
            self.queue.channel.attached().look();
        }
    }

    /// Leaves the seat as `how` says; nothing after the first time.
    fn get_up(&mut self, how: GetUp) {
        if !self.is_ours() {
            return;
        }
        let id = core::mem::replace(&mut self.sitter, Token::NEVER).id();
        let seat = Seat::of(&self.queue.channel.header().roles, self.side);
        match how {
            GetUp::Close => {
                seat.close(id);
                self.queue.channel.wake_everybody();
            }
            GetUp::HandOver => seat.hand_over(id),
            GetUp::Undo => seat.undo(id, self.before),
        }
    }
}

/// Ways to leave a seat.
enum GetUp {
    /// For good: the other end is told.
    Close,
    /// For somebody else to sit down.
    HandOver,
    /// As if we had never sat down.
    Undo,
}

impl<T: Pod> Drop for Endpoint<T> {
    fn drop(&mut self) {
        self.get_up(GetUp::Close);
    }
}

/// The sending end of an [`SpscQueue`] or of one direction of a [`Pipe`](crate::Pipe). Dropping it tells the receiver.
pub struct Sender<T: Pod> {
    position: Position,
    end: Endpoint<T>,
}

impl<T: Pod> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("queue", &self.end.queue).finish()
    }
}

impl<T: Pod> Sender<T> {
    /// Checks that this end is ours, that somebody may still receive, and how much room there is, `wanted` or less.
    #[inline]
    fn room(&mut self, wanted: u64) -> Result<u64, SendError<()>> {
        if !self.end.is_ours() {
            self.reseat()?;
        }
        let channel = &self.end.queue.channel;
        if channel.is_closing() {
            return Err(SendError::Closed(()));
        }
        if channel.disconnects()
            && let Some(peer) = Seat::of(&channel.header().roles, Side::Receiver).departure()
        {
            return Err(SendError::Disconnected { message: (), peer });
        }
        Ok(self.end.queue.ring.room(&mut self.position, wanted))
    }

    /// In a fork child: sits down if the parent has got up.
    #[cold]
    fn reseat(&mut self) -> Result<(), SendError<()>> {
        self.end.sit_again().map_err(|_| SendError::Detached(()))?;
        self.position = self.end.queue.ring.sender_position();
        Ok(())
    }

    /// Sends if there is room now. Wait-free, no system call unless the receiver sleeps.
    ///
    /// # Errors
    /// [`TrySendError::Full`] and the others give the message back.
    #[inline]
    pub fn try_send(&mut self, value: T) -> Result<(), TrySendError<T>> {
        self.attempt(&value).map_err(|refusal| refusal.with(value))
    }

    #[inline]
    fn attempt(&mut self, value: &T) -> Result<(), TrySendError<()>> {
        self.try_room(1)?;
        self.end.queue.ring.write(&self.position, value);
        self.end.queue.ring.commit(&mut self.position, 1);
        self.end.queue.channel.committed(1);
        Ok(())
    }

    /// The slow path of every blocking send.
    fn send_until(&mut self, value: &T, deadline: Option<Deadline>) -> Result<(), SendTimeoutError<()>> {
        let channel = self.end.queue.channel.clone();
        channel.send_blocking(deadline, || self.attempt(value))
    }

    /// Sends, waiting for room as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// # Errors
    /// [`SendError::Disconnected`] and the others give the message back.
    #[inline]
    pub fn send(&mut self, value: T) -> Result<(), SendError<T>> {
        match self.attempt(&value) {
            Ok(()) => Ok(()),
            Err(_) => no_deadline(self.send_until(&value, None)).map_err(|e| e.with(value)),
        }
    }

    /// Sends, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// [`SendTimeoutError::Timeout`] and the others give the message back: it was not sent.
    pub fn send_timeout(&mut self, value: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        match self.attempt(&value) {
            Ok(()) => Ok(()),
            Err(_) => self.send_until(&value, Deadline::after(timeout)).map_err(|e| e.with(value)),
        }
    }

    /// Sends, waiting for room until `deadline`.
    ///
    /// # Errors
    /// As for [`Sender::send_timeout`].
    pub fn send_deadline(&mut self, value: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        match self.attempt(&value) {
            Ok(()) => Ok(()),
            Err(_) => self.send_until(&value, Deadline::at(deadline)).map_err(|e| e.with(value)),
        }
    }

    /// Reserves a slot if there is room now, to write a message in place: see [`Sender::reserve`].
    ///
    /// # Errors
    /// As for [`Sender::try_send`].
    pub fn try_reserve(&mut self) -> Result<Reservation<'_, T>, TrySendError<()>> {
        self.try_room(1)?;
        Ok(Reservation::new(self))
    }

    /// As `room`; an error if there is none.
    #[inline]
    fn try_room(&mut self, wanted: u64) -> Result<u64, TrySendError<()>> {
        match self.room(wanted)? {
            0 => {
                self.end.in_vain();
                Err(TrySendError::Full(()))
            }
            room => Ok(room),
        }
    }

    fn room_until(&mut self, wanted: u64, deadline: Option<Deadline>) -> Result<u64, SendTimeoutError<()>> {
        let channel = self.end.queue.channel.clone();
        channel.send_blocking(deadline, || self.try_room(wanted))
    }

    /// Reserves a slot, waiting for room as long as it takes, to write a message in place. Nothing is copied;
    /// [`Reservation::commit`] sends it, dropping it does not.
    ///
    /// ```
    /// use gimmal::{Segment, SpscQueue};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = SpscQueue::<[u8; 4096]>::create(&segment, "frames", 8)?;
    /// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    /// let mut frame = sender.reserve()?;
    /// frame.fill(7); // it holds what some earlier message has left
    /// frame.commit();
    /// assert_eq!(receiver.recv_guard()?[..2], [7, 7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Sender::send`].
    pub fn reserve(&mut self) -> Result<Reservation<'_, T>, SendError<()>> {
        no_deadline(self.room_until(1, None))?;
        Ok(Reservation::new(self))
    }

    /// As [`Sender::reserve`], waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for [`Sender::send_timeout`].
    pub fn reserve_timeout(&mut self, timeout: Duration) -> Result<Reservation<'_, T>, SendTimeoutError<()>> {
        self.room_until(1, Deadline::after(timeout))?;
        Ok(Reservation::new(self))
    }

    /// Reserves up to `most` slots in a row that are free now: see [`Sender::reserve_slice`]. `most` of 0 reserves none.
    ///
    /// # Errors
    /// As for [`Sender::try_send`].
    pub fn try_reserve_slice(&mut self, most: usize) -> Result<SliceReservation<'_, T>, TrySendError<()>> {
        let room = if most == 0 { 0 } else { self.try_room(most as u64)? };
        Ok(SliceReservation::new(self, room.min(most as u64)))
    }

    /// Reserves up to `most` slots in a row, waiting for the first as long as it takes, to write messages in place;
    /// [`SliceReservation::commit`] sends them all at once, dropping it sends none. It may be fewer than there is room for: a
    /// row ends where the memory does.
    ///
    /// ```
    /// use gimmal::{Segment, SpscQueue};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = SpscQueue::<u32>::create(&segment, "samples", 64)?;
    /// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    /// let mut slots = sender.reserve_slice(10)?;
    /// let count = slots.iter_mut().zip(100..).map(|(slot, n)| *slot = n).count();
    /// slots.commit(count);
    /// assert_eq!(receiver.recv_slice(3)?[..], [100, 101, 102]); // received when dropped
    /// assert_eq!(receiver.recv(), Ok(103));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Sender::send`].
    pub fn reserve_slice(&mut self, most: usize) -> Result<SliceReservation<'_, T>, SendError<()>> {
        let room = if most == 0 { 0 } else { no_deadline(self.room_until(most as u64, None))? };
        Ok(SliceReservation::new(self, room.min(most as u64)))
    }

    /// Sends as many of `values` as there is room for now, all at once, and says how many.
    ///
    /// # Errors
    /// If none could be sent, and not for want of room: that is `Ok(0)`.
    pub fn try_send_slice(&mut self, values: &[T]) -> Result<usize, SendError<()>> {
        if values.is_empty() {
            return Ok(0);
        }
        let wanted = values.len() as u64;
        let count = self.room(wanted)?.min(wanted);
        if count > 0 {
            self.end.queue.ring.write_many(&self.position, &values[..count as usize]);
            self.end.queue.ring.commit(&mut self.position, count);
            self.end.queue.channel.committed(count as usize);
        }
        Ok(count as usize)
    }

    /// Sends all of `values` in order, waiting for room as long as it takes.
    ///
    /// # Errors
    /// [`SendSliceError`] says how many were sent before the other end was gone.
    pub fn send_slice(&mut self, values: &[T]) -> Result<(), SendSliceError> {
        let channel = self.end.queue.channel.clone();
        let mut sent = 0;
        let all = channel.send_blocking(None, || {
            while sent < values.len() {
                match self.try_send_slice(&values[sent..])? {
                    0 => return Err(TrySendError::Full(())),
                    more => sent += more,
                }
            }
            Ok(())
        });
        no_deadline(all).map_err(|reason| SendSliceError { sent, reason })
    }

    /// Ends the queue: sends fail with `Closed`, the receiver gets what is there and then `Closed`.
    pub fn close(&mut self) {
        self.end.queue.channel.close();
    }

    /// Gives the seat up as if it had never been taken.
    pub(crate) fn undo(mut self) {
        self.end.get_up(GetUp::Undo);
    }

    /// Gives the seat up without telling the receiver, so that another thread or process can take it and go on.
    pub fn release(mut self) {
        self.end.get_up(GetUp::HandOver);
    }

    /// The queue this end belongs to.
    #[must_use]
    pub fn queue(&self) -> &SpscQueue<T> {
        &self.end.queue
    }
}

/// The receiving end of an [`SpscQueue`] or of one direction of a [`Pipe`](crate::Pipe). Dropping it tells the sender.
pub struct Receiver<T: Pod> {
    position: Position,
    end: Endpoint<T>,
}

impl<T: Pod> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queue", &self.end.queue).finish()
    }
}

impl<T: Pod> Receiver<T> {
    /// Checks that this end is ours and how many messages there are; an error if none is and none will come.
    #[inline]
    fn ready(&mut self, wanted: u64) -> Result<u64, TryRecvError> {
        if !self.end.is_ours() {
            self.reseat()?;
        }
        match self.end.queue.ring.ready(&mut self.position, wanted) {
            0 => self.ready_or_reason(wanted),
            ready => Ok(ready),
        }
    }

    /// In a fork child: sits down if the parent has got up.
    #[cold]
    fn reseat(&mut self) -> Result<(), TryRecvError> {
        self.end.sit_again().map_err(|_| TryRecvError::Detached)?;
        self.position = self.end.queue.ring.receiver_position();
        Ok(())
    }

    /// Why there is nothing. The reason must be true *before* the decisive look at the ring.
    #[cold]
    fn ready_or_reason(&mut self, wanted: u64) -> Result<u64, TryRecvError> {
        let SpscQueue { channel, ring } = &self.end.queue;
        let closed = channel.is_closed();
        let sender = Seat::of(&channel.header().roles, Side::Sender);
        let gone = if channel.disconnects() { sender.departure() } else { None };
        let reason = match gone {
            _ if closed => TryRecvError::Closed,
            Some(peer) => TryRecvError::Disconnected { peer },
            None => {
                self.end.in_vain();
                return Err(TryRecvError::Empty);
            }
        };
        match ring.ready(&mut self.position, wanted) {
            0 => Err(reason),
            ready => Ok(ready),
        }
    }

    /// Receives what is there now. Wait-free, no system call unless the sender sleeps.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`]; the others come after the last message.
    #[inline]
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.ready(1)?;
        let value = self.end.queue.ring.read(&self.position);
        self.end.queue.ring.release(&mut self.position, 1);
        self.end.queue.channel.released(1);
        Ok(value)
    }

    fn recv_until(&mut self, deadline: Option<Deadline>) -> Result<T, RecvTimeoutError> {
        let channel = self.end.queue.channel.clone();
        channel.receive_blocking(deadline, || self.try_recv())
    }

    /// Receives, waiting for a message as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// # Errors
    /// [`RecvError::Disconnected`] and [`RecvError::Closed`] after the last message.
    #[inline]
    pub fn recv(&mut self) -> Result<T, RecvError> {
        match self.try_recv() {
            Ok(value) => Ok(value),
            Err(_) => no_deadline_recv(self.recv_until(None)),
        }
    }

    /// Receives, waiting for a message for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`]: nothing was taken. The others come after the last message.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        match self.try_recv() {
            Ok(value) => Ok(value),
            Err(_) => self.recv_until(Deadline::after(timeout)),
        }
    }

    /// Receives, waiting for a message until `deadline`.
    ///
    /// # Errors
    /// As for [`Receiver::recv_timeout`].
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        match self.try_recv() {
            Ok(value) => Ok(value),
            Err(_) => self.recv_until(Deadline::at(deadline)),
        }
    }

    fn ready_until(&mut self, wanted: u64, deadline: Option<Deadline>) -> Result<u64, RecvTimeoutError> {
        let channel = self.end.queue.channel.clone();
        channel.receive_blocking(deadline, || self.ready(wanted))
    }

    /// Receives what is there now and reads it in place: see [`Receiver::recv_guard`].
    ///
    /// # Errors
    /// As for [`Receiver::try_recv`].
    pub fn try_recv_guard(&mut self) -> Result<RecvGuard<'_, T>, TryRecvError> {
        self.ready(1)?;
        Ok(RecvGuard::new(self))
    }

    /// Receives a message, waiting for one as long as it takes, and reads it in place. It counts as received when the guard
    /// is dropped. If this process dies before, or the thread panics, or [`RecvGuard::give_back`] is called, it is still
    /// there: each message is processed at least once.
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_guard(&mut self) -> Result<RecvGuard<'_, T>, RecvError> {
        no_deadline_recv(self.ready_until(1, None))?;
        Ok(RecvGuard::new(self))
    }

    /// As [`Receiver::recv_guard`], waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for [`Receiver::recv_timeout`].
    pub fn recv_guard_timeout(&mut self, timeout: Duration) -> Result<RecvGuard<'_, T>, RecvTimeoutError> {
        self.ready_until(1, Deadline::after(timeout))?;
        Ok(RecvGuard::new(self))
    }

    /// Receives up to `most` messages in a row that are there now, read in place: see [`Receiver::recv_slice`]. `most` of 0
    /// receives none.
    ///
    /// # Errors
    /// As for [`Receiver::try_recv`].
    pub fn try_recv_slice(&mut self, most: usize) -> Result<SliceGuard<'_, T>, TryRecvError> {
        let ready = if most == 0 { 0 } else { self.ready(most as u64)? };
        Ok(SliceGuard::new(self, ready.min(most as u64)))
    }

    /// Receives up to `most` messages in a row, waiting for the first as long as it takes, and reads them in place. They count as
    /// received when the guard is dropped, all at once, or as many of them as [`SliceGuard::release`] says. It may be fewer
    /// than are there: a row ends where the memory does. For an example see [`Sender::reserve_slice`].
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_slice(&mut self, most: usize) -> Result<SliceGuard<'_, T>, RecvError> {
        let ready = if most == 0 { 0 } else { no_deadline_recv(self.ready_until(most as u64, None))? };
        Ok(SliceGuard::new(self, ready.min(most as u64)))
    }

    /// Whether a message is there, waiting for one for at most `timeout`; it is not taken. `true` also when the other end
    /// is gone, since a receive would not wait then.
    pub fn poll(&mut self, timeout: Duration) -> bool {
        !matches!(self.ready_until(1, Deadline::after(timeout)), Err(RecvTimeoutError::Timeout))
    }

    /// Appends at most `most` of the messages that are there now to `buffer` and says how many.
    ///
    /// # Errors
    /// Only if there is not even one message. `most` of 0 is `Ok(0)`.
    pub fn try_recv_many(&mut self, buffer: &mut Vec<T>, most: usize) -> Result<usize, TryRecvError> {
        if most == 0 {
            return Ok(0);
        }
        let count = self.ready(most as u64)?.min(most as u64);
        self.end.queue.ring.read_many(&self.position, count, buffer);
        self.end.queue.ring.release(&mut self.position, count);
        self.end.queue.channel.released(count as usize);
        Ok(count as usize)
    }

    /// As [`Receiver::try_recv_many`], waiting for the first message as long as it takes.
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_many(&mut self, buffer: &mut Vec<T>, most: usize) -> Result<usize, RecvError> {
        let channel = self.end.queue.channel.clone();
        no_deadline_recv(channel.receive_blocking(None, || self.try_recv_many(buffer, most)))
    }

    /// Messages until the other end is gone (or has closed) and all are drained; waits for each.
    pub fn iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.recv().ok())
    }

    /// Messages that are there now.
    pub fn try_iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.try_recv().ok())
    }

    /// Gives the seat up without telling the sender, so that another thread or process can take it and go on.
    pub fn release(mut self) {
        self.end.get_up(GetUp::HandOver);
    }

    /// The queue this end belongs to.
    #[must_use]
    pub fn queue(&self) -> &SpscQueue<T> {
        &self.end.queue
    }
}
