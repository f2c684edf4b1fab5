//! [`LossyQueue`]: one sender, which never waits; one receiver, which gets the newest.

use core::fmt;
use core::mem::size_of;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

use super::receiver::is_over;
use super::{Endpoint, GetUp, SpscQueue};
use crate::channel::no_deadline_recv;
use crate::deadline::Deadline;
use crate::doorbell::Doorbell;
use crate::error::{Error, RecvError, RecvTimeoutError, SendError, TryRecvError};
use crate::message::spsc_element;
use crate::object::{Kind, Object, Shape};
use crate::queue::QueueOptions;
use crate::ring::lossy::Lossy;
use crate::ring::spsc::len;
use crate::segment::{Attached, Segment, Side, Wanted};

/// A bounded queue of `T` with one sending and one receiving end, whose sender never waits: when it is full, the oldest message is
/// lost. The receiver knows how many were.
///
/// For samples, positions, frames: whatever is of no use once newer ones have come.
///
/// *Order:* first in, first out, with gaps. *Progress:* the sender is wait-free; the receiver, too, unless the whole queue is
/// overwritten while it copies one message. *A crash* of either end loses nothing else; the seat of a dead holder is free, and whoever
/// takes it goes on where it stopped. *Nobody waits for the dead*: as for [`SpscQueue`], the receiver gets what is there and then
/// `Disconnected`, the sender `Disconnected` with its next send, unless the queue was made to
/// [keep waiting](QueueOptions::keep_waiting). `T` is any [`Pod`] type.
///
/// # Example
///
/// ```
/// use gimmal::{LossyQueue, Segment};
///
/// let segment = Segment::anonymous()?;
/// let queue = LossyQueue::<u32>::create(&segment, "samples", 4)?;
/// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
/// for n in 0..10 {
///     sender.send(n)?; // never waits
/// }
/// assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [6, 7, 8, 9]);
/// assert_eq!(receiver.lost(), 6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LossyQueue<T: Pod> {
    queue: SpscQueue<T>,
    ring: Lossy,
}

impl<T: Pod> Clone for LossyQueue<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), ring: self.ring.clone() }
    }
}

impl<T: Pod> fmt::Debug for LossyQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossyQueue")
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl QueueOptions {
    /// Creates a queue whose sender never waits.
    ///
    /// # Errors
    /// As for [`QueueOptions::create`].
    pub fn create_lossy<T: Pod>(&self, segment: &Segment, name: &str) -> Result<LossyQueue<T>, Error> {
        LossyQueue::make(self, segment, name, false)
    }

    /// Opens the queue whose sender never waits, or creates it if need be.
    ///
    /// # Errors
    /// As for [`QueueOptions::open_or_create`].
    pub fn open_or_create_lossy<T: Pod>(&self, segment: &Segment, name: &str) -> Result<LossyQueue<T>, Error> {
        LossyQueue::make(self, segment, name, true)
    }
}

impl<T: Pod> LossyQueue<T> {
    fn shape(options: &QueueOptions) -> Result<Shape, Error> {
        options.shape(Kind::LossyQueue, spsc_element::<T>(), None)
    }

    fn make(options: &QueueOptions, segment: &Segment, name: &str, or_open: bool) -> Result<Self, Error> {
        let object = segment.attached().create(name, &Self::shape(options)?, or_open, |_| {})?;
        Self::at(segment, &object)
    }

    fn at(segment: &Segment, object: &Object) -> Result<Self, Error> {
        let queue = SpscQueue::at(segment.attached(), object, &object.first_ring()?)?;
        let channel = &queue.channel;
        let words = size_of::<T>().div_ceil(8);
        // SAFETY: a checked object's rings lie inside the mapping, which the channel keeps, with whole words for each message.
        let ring =
            unsafe { Lossy::new(channel.header_pointer(), channel.slots().cast(), words, object.shape.capacity) };
        Ok(Self { queue, ring })
    }

    /// Creates a queue for `capacity` messages, rounded up to a power of two.
    ///
    /// # Errors
    /// As for [`Queue::create`](crate::Queue::create).
    pub fn create(segment: &Segment, name: &str, capacity: usize) -> Result<Self, Error> {
        QueueOptions::new().capacity(capacity).create_lossy(segment, name)
    }

    /// Opens an existing queue.
    ///
    /// # Errors
    /// As for [`Queue::open`](crate::Queue::open).
    pub fn open(segment: &Segment, name: &str) -> Result<Self, Error> {
        let wanted = Wanted::like(Self::shape(&QueueOptions::new())?);
        Self::at(segment, &segment.attached().find(name, &wanted)?)
    }

    /// Opens the queue, or creates it if need be; several processes may do so at once.
    ///
    /// # Errors
    /// As for [`Queue::open_or_create`](crate::Queue::open_or_create).
    pub fn open_or_create(segment: &Segment, name: &str, capacity: usize) -> Result<Self, Error> {
        QueueOptions::new().capacity(capacity).open_or_create_lossy(segment, name)
    }

    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        self.queue.place()
    }

    /// Takes the sending end.
    ///
    /// # Errors
    /// [`Error::SeatTaken`] while somebody living holds it.
    pub fn sender(&self) -> Result<LossySender<T>, Error> {
        let end = Endpoint::seated(&self.queue, Side::Sender)?;
        Ok(LossySender { own: self.ring.sender_position(), ring: self.ring.clone(), end })
    }

    /// Takes the receiving end.
    ///
    /// # Errors
    /// [`Error::SeatTaken`] while somebody living holds it.
    pub fn receiver(&self) -> Result<LossyReceiver<T>, Error> {
        let end = Endpoint::seated(&self.queue, Side::Receiver)?;
        let place = Place { own: self.ring.receiver_position(), lost: 0, ring: self.ring.clone() };
        Ok(LossyReceiver { place, end })
    }

    /// Messages that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// Messages that are there; a moment's count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether there is no message at this moment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The sending end of a [`LossyQueue`]. Dropping it tells the receiver.
pub struct LossySender<T: Pod> {
    own: u64,
    ring: Lossy,
    end: Endpoint<T>,
}

impl<T: Pod> fmt::Debug for LossySender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossySender").field("queue", &self.end.queue).finish()
    }
}

impl<T: Pod> LossySender<T> {
    /// Sends, in place of the oldest message if the queue is full. Wait-free, no system call unless the receiver sleeps.
    ///
    /// # Errors
    /// [`SendError::Closed`] and the others give the message back. Never for want of room.
    pub fn send(&mut self, value: T) -> Result<(), SendError<T>> {
        if !self.end.is_ours() {
            if self.end.sit_again().is_err() {
                return Err(SendError::Detached(value));
            }
            self.own = self.ring.sender_position();
        }
        if let Some(reason) = self.end.is_over() {
            return Err(reason.with(value));
        }
        self.ring.send(&mut self.own, bytemuck::bytes_of(&value));
        self.end.queue.channel.committed(1);
        Ok(())
    }

    /// Ends the queue: sends fail with `Closed`, the receiver gets what is there and then `Closed`.
    pub fn close(&mut self) {
        self.end.queue.channel.close();
    }

    /// Gives the seat up without telling the receiver, so that another thread or process can take it and go on.
    pub fn release(self) {
        self.end.get_up(GetUp::HandOver);
    }
}

/// The receiving end of a [`LossyQueue`].
pub struct LossyReceiver<T: Pod> {
    place: Place,
    end: Endpoint<T>,
}

/// Where a receiver stands.
struct Place {
    own: u64,
    lost: u64,
    ring: Lossy,
}

impl Place {
    fn try_next<T: Pod>(&mut self, end: &Endpoint<T>) -> Result<T, TryRecvError> {
        let Self { own, lost, ring } = self;
        if !end.is_ours() {
            end.sit_again().map_err(|_| TryRecvError::Detached)?;
            *own = ring.receiver_position();
        }
        let mut value = T::zeroed();
        if ring.receive(own, lost, bytemuck::bytes_of_mut(&mut value)) {
            return Ok(value);
        }
        // The reason must be true before the decisive look at the ring.
        let Some(reason) = is_over(&end.queue.channel) else {
            end.in_vain();
            return Err(TryRecvError::Empty);
        };
        if ring.receive(own, lost, bytemuck::bytes_of_mut(&mut value)) { Ok(value) } else { Err(reason) }
    }
}

impl<T: Pod> fmt::Debug for LossyReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossyReceiver").field("queue", &self.end.queue).field("lost", &self.place.lost).finish()
    }
}

impl<T: Pod> LossyReceiver<T> {
    /// Receives the oldest message that is still there. No system call.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`]; the others come after the last message.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.place.try_next(&self.end)
    }

    fn recv_until(&mut self, deadline: Option<Deadline>) -> Result<T, RecvTimeoutError> {
        let Self { place, end } = self;
        end.queue.channel.receive_blocking(&end.pace, deadline, || place.try_next(end))
    }

    /// Receives, waiting for a message as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// # Errors
    /// [`RecvError::Disconnected`] and [`RecvError::Closed`] after the last message.
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
        self.recv_until(Deadline::after(timeout))
    }

    /// Receives, waiting for a message until `deadline`.
    ///
    /// # Errors
    /// As for [`LossyReceiver::recv_timeout`].
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.recv_until(Deadline::at(deadline))
    }

    /// Whether a message is there, waiting for one for at most `timeout`; it is not taken.
    pub fn poll(&mut self, timeout: Duration) -> bool {
        let Self { place: Place { own, ring, .. }, end } = self;
        let channel = &end.queue.channel;
        let is_there = || match ring.is_ready(*own) || is_over(&end.queue.channel).is_some() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        channel.wait(&channel.header().not_empty, &end.pace, Deadline::after(timeout), is_there).is_some()
    }

    /// A descriptor that becomes readable when there is something to receive, for `poll` and `epoll`: see [`Doorbell`].
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no descriptor or no thread to give.
    pub fn doorbell(&self) -> Result<Doorbell, Error> {
        let channel = &self.end.queue.channel;
        let of_reactor = channel.clone();
        // Both ends move the head, the sender first: at most it is seen to be in front of the tail.
        let is_ready =
            move || (1..u64::MAX / 2).contains(&len(of_reactor.header(), u64::MAX)) || is_over(&of_reactor).is_some();
        Doorbell::new(channel, is_ready)
    }

    /// How many messages were lost, as this end knows, since it took its seat: those that were older than the last one that it has
    /// received.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.place.lost
    }

    /// Messages until the sender is gone (or has closed) and all are drained; waits for each.
    pub fn iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.recv().ok())
    }

    /// Messages that are there now.
    pub fn try_iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.try_recv().ok())
    }

    /// Gives the seat up without telling the sender, so that another thread or process can take it and go on.
    pub fn release(self) {
        self.end.get_up(GetUp::HandOver);
    }
}
