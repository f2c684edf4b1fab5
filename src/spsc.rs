//! [`SpscQueue`]: one sender, one receiver, wait-free.

mod bytes;
mod in_place;
mod lossy;
mod receiver;
mod sender;

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;
use std::sync::Arc;

use self::bytes::Partial;
pub use self::bytes::{Frame, Grant};
pub use self::in_place::{RecvGuard, Reservation, SliceGuard, SliceReservation};
pub use self::lossy::{LossyQueue, LossyReceiver, LossySender};
pub use self::receiver::Receiver;
pub use self::sender::Sender;

use crate::channel::{Channel, Data};
use crate::error::{Error, SendError};
use crate::event::Surroundings;
use crate::message::{Message, spsc_element};
use crate::object::{Kind, Object, Ring};
use crate::pace::Pace;
use crate::queue::QueueOptions;
use crate::ring::Element;
use crate::ring::owned::VAIN_CALLS;
use crate::ring::spsc::{Position, Spsc};
use crate::ring::transfer::Transfer;
use crate::seat::{Before, Seat};
use crate::segment::{Attached, Segment, Side, Token, Wanted};

/// A bounded queue of [messages](Message) with one sending and one receiving end, each held by one thread of one process at a
/// time. For messages of bytes, see [`Sender::send`](Sender#method.send-1).
///
/// *Order:* first in, first out. *Progress:* wait-free. *A crash* loses no message whose send has returned and repeats
/// none whose receive has returned; the seat of a dead holder is free, and whoever takes it goes on where it stopped. *Nobody waits
/// for the dead*: when the sender has gone, the receiver gets what is there and then `Disconnected`, and the sender does when the
/// receiver has gone, until somebody takes the seat; but see [`QueueOptions::keep_waiting`], and
/// [`Sender::release`] for handing a seat over.
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
pub struct SpscQueue<M: Message + ?Sized> {
    channel: Channel,
    ring: Spsc<M::Cell>,
    /// If the messages are bytes: what keeps them mapped.
    data: Option<Data>,
}

impl QueueOptions {
    fn make_spsc<M: Message + ?Sized>(
        &self,
        segment: &Segment,
        name: &str,
        or_open: bool,
    ) -> Result<SpscQueue<M>, Error> {
        let shape = self.shape(Kind::SpscQueue, spsc_element::<M>(), None)?;
        let object = segment.attached().create(name, &shape, or_open, |_| {})?;
        SpscQueue::at(segment.attached(), &object, &object.first_ring()?)
    }

    /// Creates a queue for one sender and one receiver.
    ///
    /// # Errors
    /// As for [`QueueOptions::create`].
    pub fn create_spsc<M: Message + ?Sized>(&self, segment: &Segment, name: &str) -> Result<SpscQueue<M>, Error> {
        self.make_spsc(segment, name, false)
    }

    /// Opens the queue for one sender and one receiver, or creates it if need be.
    ///
    /// # Errors
    /// As for [`QueueOptions::open_or_create`].
    pub fn open_or_create_spsc<M: Message + ?Sized>(
        &self,
        segment: &Segment,
        name: &str,
    ) -> Result<SpscQueue<M>, Error> {
        self.make_spsc(segment, name, true)
    }
}

impl<M: Message + ?Sized> SpscQueue<M> {
    /// Options: capacity, and whether an end that is left alone keeps waiting.
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
        let shape = Self::options().shape(Kind::SpscQueue, spsc_element::<M>(), None)?;
        let object = segment.attached().find(name, &Wanted::like(shape))?;
        Self::at(segment.attached(), &object, &object.first_ring()?)
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
        let shape = Self::options().capacity(capacity).shape(Kind::SpscQueue, spsc_element::<M>(), None);
        shape.ok().and_then(|shape| shape.bytes()).unwrap_or(usize::MAX)
    }

    /// A ring of a checked object of element type `M`.
    pub(crate) fn at(attached: &Arc<Attached>, object: &Object, ring: &Ring) -> Result<Self, Error> {
        const { Element::<M::Cell>::CHECK };
        let channel = Channel::new(attached, object, ring);
        let data = channel.data(ring)?;
        let slots = data.as_ref().map_or_else(|| channel.slots(), |data| data.base);
        // SAFETY: a checked object's rings lie inside the mapping, which the channel keeps; bytes in one that `data` keeps; a cell
        // is Pod.
        let ring = unsafe { Spsc::new(channel.header_pointer(), slots, ring.slots) };
        Ok(Self { channel, ring, data })
    }

    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        self.channel.place()
    }

    /// Takes the sending end.
    ///
    /// # Errors
    /// [`Error::SeatTaken`] while somebody living holds it.
    pub fn sender(&self) -> Result<Sender<M>, Error> {
        let end = Endpoint::seated(self, Side::Sender)?;
        Ok(Sender { position: end.sender_position(), end })
    }

    /// Takes the receiving end.
    ///
    /// # Errors
    /// [`Error::SeatTaken`] while somebody living holds it.
    pub fn receiver(&self) -> Result<Receiver<M>, Error> {
        let end = Endpoint::seated(self, Side::Receiver)?;
        Ok(Receiver { position: end.receiver_position(), partial: None, end })
    }

    /// Messages that fit; bytes, if that is what they are, of which each message takes eight more, rounded up to eight.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity() as usize
    }

    /// Messages that are there; a moment's count. If they are bytes, it counts these, as for `capacity`.
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

impl<M: Message + ?Sized> Clone for SpscQueue<M> {
    fn clone(&self) -> Self {
        Self { channel: self.channel.clone(), ring: self.ring.clone(), data: self.data.clone() }
    }
}

impl<M: Message + ?Sized> fmt::Debug for SpscQueue<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpscQueue")
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// One end and its seat.
struct Endpoint<M: Message + ?Sized> {
    queue: SpscQueue<M>,
    side: Side,
    /// Who sits: us, unless this is a fork child; `NEVER` after getting up.
    sitter: Cell<Token>,
    /// Calls that found the ring full or empty.
    vain: Cell<u32>,
    /// What the seat's word said before we sat down.
    before: Cell<Before>,
    pace: Pace,
}

impl<M: Message + ?Sized> Endpoint<M> {
    fn seated(queue: &SpscQueue<M>, side: Side) -> Result<Self, Error> {
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
                return Err(attached.detached());
            }
            match seat.take(token.id(), std::process::id()) {
                Ok(before) => {
                    attached.took_end();
                    return Ok((token, before));
                }
                Err(held) if repaired || held.owner == token.id() => return Err(Error::SeatTaken { pid: held.pid }),
                Err(held) => {
                    repaired = true;
                    attached.recover()?;
                    attached.await_end(held.owner);
                }
            }
        }
    }

    /// Where the sender goes on who has just sat down.
    fn sender_position(&self) -> Position {
        let position = self.queue.ring.sender_position();
        if M::BYTES { position.at_a_record() } else { position }
    }

    /// The same for the receiver, who may stand in the middle of a message.
    fn receiver_position(&self) -> Position {
        let SpscQueue { channel, ring, .. } = &self.queue;
        let position = ring.receiver_position();
        if !M::BYTES {
            return position;
        }
        if Transfer::of(channel.header()).succeed_receiver(position.own()) {
            channel.released(1);
        }
        position.at_a_record()
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

    /// Why nothing can be sent any more.
    #[inline(always)]
    fn is_over(&self) -> Option<SendError<()>> {
        let header = self.queue.channel.header();
        let may_be = header.control.is_closing() || Seat::of(&header.roles, Side::Receiver).is_left();
        if may_be { self.why_over() } else { None }
    }

    #[cold]
    fn why_over(&self) -> Option<SendError<()>> {
        let channel = &self.queue.channel;
        if channel.is_closing() {
            return Some(SendError::Closed(()));
        }
        let peer = channel.departure(&Seat::of(&channel.header().roles, Side::Receiver))?;
        Some(SendError::Disconnected { message: (), peer })
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
            // Bytes are counted as messages of a line.
            let shift = const { if M::BYTES { 6 } else { 0 } };
            self.pace.rest(position.own() >> shift, self.queue.ring.capacity() >> shift);
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

impl<M: Message + ?Sized> Drop for Endpoint<M> {
    fn drop(&mut self) {
        self.get_up(GetUp::Close);
    }
}
