//! [`Queue`]: any number of senders and receivers in any number of processes, each message to exactly one receiver.

mod in_place;
mod receiver;
mod sender;

use core::fmt;
use std::sync::Arc;

use bytemuck::Pod;

pub use self::in_place::{RecvGuard, Reservation};
pub use self::receiver::{IntoIter, Receiver};
pub use self::sender::Sender;

use crate::channel::Channel;
use crate::error::Error;
use crate::layout::ENTRY_DISCONNECT;
use crate::object::{ElementType, Kind, Object, Shape};
use crate::pace::Pace;
use crate::primitive::private::AtomicUsize;
use crate::ring::owned::{Cursor, Owned};
use crate::ring::{self, Element};
use crate::segment::{Attached, Segment, Side, Wanted};

/// A bounded multi-producer multi-consumer queue of `T` in a segment.
///
/// *Order:* messages of one sender reach each receiver in the order in which they were sent; all together come out in the
/// order in which their sends claimed their places, except that a receiver steps over one that is still being sent.
///
/// *Progress:* sends and receives are lock-free; a sender or receiver that is stopped in the middle keeps nobody from going
/// on around its slot, until, one round of the ring later, senders need that very slot and find the queue full. *A crash* of any participant at any instruction loses no message whose send has
/// returned and repeats none whose receive has returned; a message that was being received goes to somebody else, who may
/// have received later ones before. Nobody ever waits for the dead.
///
/// `T` is any [`Pod`] type: plain bytes in which every bit pattern is a value, as other processes may write anything.
/// Zero-sized types and types aligned to more than 64 bytes do not compile.
///
/// # Example
///
/// ```
/// use gimmal::{Queue, Segment};
///
/// let segment = Segment::anonymous()?;
/// let queue = Queue::<u32>::create(&segment, "numbers", 100)?;
/// assert_eq!(queue.capacity(), 128); // rounded up to a power of two
///
/// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
/// std::thread::spawn(move || {
///     for n in 0..1000 {
///         sender.send(n).unwrap(); // blocks while the queue is full
///     }
///     sender.close();
/// });
/// assert_eq!(receiver.iter().sum::<u32>(), 499_500); // until closed and drained
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Queue<T> {
    channel: Channel,
    ring: Owned<T>,
}

/// How to create a [`Queue`] or [`SpscQueue`](crate::SpscQueue).
///
/// ```
/// use gimmal::{Departure, QueueOptions, RecvError, Segment};
///
/// let segment = Segment::anonymous()?;
/// let queue = QueueOptions::new().capacity(8).disconnect(true).create::<u8>(&segment, "q")?;
/// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
/// sender.send(1)?;
/// drop(sender); // the last one
/// assert_eq!(receiver.recv(), Ok(1));
/// assert_eq!(receiver.recv(), Err(RecvError::Disconnected { peer: Departure::Closed }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct QueueOptions {
    capacity: usize,
    disconnect: bool,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { capacity: 1024, disconnect: false }
    }
}

impl QueueOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages that fit, rounded up to a power of two; 1,024 by default.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages;
        self
    }

    /// End receives with `Disconnected` once there were senders and none is left (after the drain), and sends once there
    /// were receivers and none is left. Off by default: who comes later may go on where the last one stopped. If the first
    /// of several senders may be done before the last has begun, hold one more sender until all have.
    pub fn disconnect(mut self, disconnect: bool) -> Self {
        self.disconnect = disconnect;
        self
    }

    pub(crate) fn shape(&self, kind: Kind, element: ElementType, second: Option<ElementType>) -> Result<Shape, Error> {
        let given = self.capacity as u64;
        let bad = Error::BadSize { what: "a capacity", given, maximum: 1 << 40 };
        let capacity = ring::capacity(self.capacity).map(|c| c as u64).filter(|&c| c <= 1 << 40).ok_or(bad)?;
        let flags = if self.disconnect { ENTRY_DISCONNECT } else { 0 };
        Ok(Shape { kind, flags, capacity, element, second })
    }

    fn make<T: Pod>(&self, segment: &Segment, name: &str, or_open: bool) -> Result<Queue<T>, Error> {
        let shape = self.shape(Kind::Queue, ElementType::of::<T>(), None)?;
        let object = segment.attached().create(name, &shape, or_open, |_| {})?;
        Ok(Queue::at(segment.attached(), &object, object.offset))
    }

    /// Creates a queue.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoRoom`], [`Error::NoObjectSlot`], [`Error::BadName`], [`Error::BadSize`].
    pub fn create<T: Pod>(&self, segment: &Segment, name: &str) -> Result<Queue<T>, Error> {
        self.make(segment, name, false)
    }

    /// Opens the queue, or creates it if need be; several processes may do so at once.
    ///
    /// # Errors
    /// As for `create` and [`Queue::open`]; [`Error::CapacityMismatch`] or [`Error::OptionMismatch`] if it exists with
    /// other properties.
    pub fn open_or_create<T: Pod>(&self, segment: &Segment, name: &str) -> Result<Queue<T>, Error> {
        self.make(segment, name, true)
    }
}

impl<T: Pod> Queue<T> {
    /// Options: capacity and what happens when one side is left alone.
    pub fn options() -> QueueOptions {
        QueueOptions::new()
    }

    /// Creates a queue for `capacity` messages, rounded up to a power of two.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoRoom`], [`Error::NoObjectSlot`], [`Error::BadName`], [`Error::BadSize`].
    pub fn create(segment: &Segment, name: &str, capacity: usize) -> Result<Self, Error> {
        Self::options().capacity(capacity).create(segment, name)
    }

    /// Opens an existing queue.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::KindMismatch`], [`Error::TypeMismatch`]. Types are the same if their names without
    /// paths, their sizes and their alignments are.
    pub fn open(segment: &Segment, name: &str) -> Result<Self, Error> {
        let shape = Self::options().shape(Kind::Queue, ElementType::of::<T>(), None)?;
        let object = segment.attached().find(name, &Wanted::like(shape))?;
        Ok(Self::at(segment.attached(), &object, object.offset))
    }

    /// Opens the queue, or creates it if need be; several processes may do so at once.
    ///
    /// # Errors
    /// As for [`Queue::create`] and [`Queue::open`]; [`Error::CapacityMismatch`] if it exists with another capacity.
    pub fn open_or_create(segment: &Segment, name: &str, capacity: usize) -> Result<Self, Error> {
        Self::options().capacity(capacity).open_or_create(segment, name)
    }

    /// Bytes that a queue of this capacity takes in a segment; `usize::MAX` if none could hold it.
    #[must_use]
    pub fn bytes(capacity: usize) -> usize {
        let shape = Self::options().capacity(capacity).shape(Kind::Queue, ElementType::of::<T>(), None);
        shape.ok().and_then(|shape| shape.bytes()).unwrap_or(usize::MAX)
    }

    /// The ring at `offset` of a checked object of element type `T`.
    pub(crate) fn at(attached: &Arc<Attached>, object: &Object, offset: usize) -> Self {
        const { Element::<T>::CHECK };
        let channel = Channel::new(attached, object, offset);
        // SAFETY: a checked object's rings lie inside the mapping, which the channel keeps; `T` is Pod.
        let ring = unsafe { Owned::new(channel.header_pointer(), channel.slots(), object.shape.capacity) };
        Self { channel, ring }
    }

    /// A new sending end.
    ///
    /// # Errors
    /// Only in a forked child that could not join the segment.
    pub fn sender(&self) -> Result<Sender<T>, Error> {
        Ok(Sender { end: Endpoint::new(self, Side::Sender)? })
    }

    /// A new receiving end.
    ///
    /// # Errors
    /// Only in a forked child that could not join the segment.
    pub fn receiver(&self) -> Result<Receiver<T>, Error> {
        Ok(Receiver { end: Endpoint::new(self, Side::Receiver)? })
    }

    /// Messages that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity() as usize
    }

    /// Messages that are there and that nobody is receiving yet; a moment's count. Walks over them.
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
        self.ring.is_full()
    }

    /// Tells senders of `n` releases, and receivers if these may have been waiting for nothing else to end.
    #[inline]
    fn released(&self, n: usize) {
        self.channel.released(n);
        // Ordered behind the release by the fence in there.
        if self.channel.is_closing() || self.channel.disconnects() {
            self.released_at_the_end();
        }
    }

    /// Out of line, so that the look at the roles stays out of every receive.
    #[cold]
    fn released_at_the_end(&self) {
        if self.channel.is_closing() || self.channel.nobody_left(Side::Sender).is_some() {
            self.channel.wake_everybody();
        }
    }

    /// Ends the queue for everybody, for good: sends fail with `Closed`, receives return what is there and then `Closed`.
    /// A send that is under way either arrives or fails. While another receiver is in the middle of a receive, or holds a
    /// [`RecvGuard`], receives wait for the outcome: the message may come back.
    pub fn close(&self) {
        self.channel.close();
    }

    /// Whether somebody has closed it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.channel.is_closing()
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { channel: self.channel.clone(), ring: self.ring.clone() }
    }
}

impl<T: Pod> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("capacity", &self.capacity()).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The most that one call receives.
const BATCH: usize = 64;

/// One end: a queue, a place in it, and the count of this process's ends.
struct Endpoint<T: Pod> {
    queue: Queue<T>,
    cursor: Cursor,
    pace: Pace,
    side: Side,
    /// Messages of this end that are being read in place.
    guards: AtomicUsize,
}

impl<T: Pod> Endpoint<T> {
    fn new(queue: &Queue<T>, side: Side) -> Result<Self, Error> {
        if queue.channel.attached().id() == 0 {
            return Err(Attached::detached());
        }
        Ok(Self::at(queue.clone(), Cursor::default(), side))
    }

    fn at(queue: Queue<T>, cursor: Cursor, side: Side) -> Self {
        queue.channel.attached().enter(queue.channel.offset(), side);
        Self { queue, cursor, pace: Pace::default(), side, guards: AtomicUsize::new(0) }
    }
}

impl<T: Pod> Clone for Endpoint<T> {
    fn clone(&self) -> Self {
        Self::at(self.queue.clone(), self.cursor.clone(), self.side)
    }
}

impl<T: Pod> Drop for Endpoint<T> {
    fn drop(&mut self) {
        let channel = &self.queue.channel;
        if channel.attached().exit(channel.offset(), self.side) && channel.disconnects() {
            channel.wake_everybody();
        }
    }
}
