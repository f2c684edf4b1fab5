//! [`SpscQueue`]: one sender, one receiver, wait-free.

mod in_place;
mod receiver;
mod sender;

use core::cell::Cell;
use core::fmt;
use std::sync::Arc;

use bytemuck::Pod;

pub use self::in_place::{RecvGuard, Reservation, SliceGuard, SliceReservation};
pub use self::receiver::Receiver;
pub use self::sender::Sender;

use crate::channel::Channel;
use crate::error::Error;
use crate::event::Surroundings;
use crate::object::{ElementType, Kind, Object};
use crate::pace::Pace;
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
        let end = Endpoint::seated(self, Side::Sender)?;
        Ok(Sender { position: self.ring.sender_position(), end })
    }

    /// Takes the receiving end.
    ///
    /// # Errors
    /// [`Error::SeatTaken`] while somebody living holds it.
    pub fn receiver(&self) -> Result<Receiver<T>, Error> {
        let end = Endpoint::seated(self, Side::Receiver)?;
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
    sitter: Cell<Token>,
    /// Calls that found the ring full or empty.
    vain: Cell<u32>,
    /// What the seat's word said before we sat down.
    before: Cell<Before>,
    pace: Pace,
}

impl<T: Pod> Endpoint<T> {
    fn seated(queue: &SpscQueue<T>, side: Side) -> Result<Self, Error> {
        let (token, before) = Self::sit(&queue.channel, side)?;
        Ok(Self {
            queue: queue.clone(),
            side,
            sitter: token.into(),
            vain: 0.into(),
            before: before.into(),
            pace: Pace::default(),
        })
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
        self.queue.channel.is_still(self.sitter.get())
    }

    /// In a fork child: sits down if the parent has got up.
    #[cold]
    fn sit_again(&self) -> Result<(), Error> {
        let (token, before) = Self::sit(&self.queue.channel, self.side)?;
        self.sitter.set(token);
        self.before.set(before);
        Ok(())
    }

    /// Called when there was no room or no message: now and then looks whether somebody has died.
    fn in_vain(&self) {
        self.vain.set(self.vain.get().wrapping_add(1));
        if self.vain.get().is_multiple_of(VAIN_CALLS) {
            self.queue.channel.attached().look();
        }
    }

    /// Called by calls that may wait: rests if they are about to look at the other end too soon.
    #[inline(always)]
    fn rest(&self, position: &Position) {
        if position.left() == 0 {
            self.pace.rest(position.own(), self.queue.ring.capacity());
        }
    }

    /// Leaves the seat as `how` says; nothing after the first time.
    fn get_up(&self, how: GetUp) {
        if !self.is_ours() {
            return;
        }
        let id = self.sitter.replace(Token::NEVER).id();
        let seat = Seat::of(&self.queue.channel.header().roles, self.side);
        match how {
            GetUp::Close => {
                seat.close(id);
                self.queue.channel.wake_everybody();
            }
            GetUp::HandOver => seat.hand_over(id),
            GetUp::Undo => seat.undo(id, self.before.get()),
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
