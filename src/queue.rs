//! [`Queue`]: any number of senders and receivers in any number of processes, each message to exactly one receiver.

mod backlog;
mod bytes;
mod guards;
mod in_place;
mod receiver;
mod sender;
mod tap;
mod unbounded;

use core::fmt;
use core::ptr::NonNull;
use std::sync::Arc;

pub use self::backlog::Backlog;
pub use self::bytes::{Frame, Grant};
pub use self::in_place::{RecvGuard, Reservation};
pub use self::receiver::{IntoIter, Receiver};
pub use self::sender::Sender;
pub use self::tap::Tap;

use self::guards::Guards;
use crate::channel::{Channel, Data};
use crate::error::Error;
use crate::layout::{BLOCK, ENTRY_DISCONNECT, MAP_UNIT};
use crate::message::{Message, mpmc_element};
use crate::object::{ElementType, Kind, Object, Ring, Shape};
use crate::pace::Pace;
use crate::primitive::private::AtomicU64;
#[cfg(feature = "serde")]
use crate::primitive::private::AtomicUsize;
use crate::region::Region;
use crate::ring::owned::{Cursor, Owned};
use crate::ring::{self, Element};
use crate::segment::{Attached, Segment, Side, Wanted};
use crate::sys::{Errno, room};

/// A bounded multi-producer multi-consumer queue of [messages](Message) in a segment.
///
/// *Order:* messages of one sender reach each receiver in the order in which they were sent; all together come out in the
/// order in which their sends claimed their places, except that a receiver steps over one that is still being sent.
///
/// *Progress:* sends and receives are lock-free; a sender or receiver that is stopped in the middle keeps nobody from going
/// on around its slot, until, one round of the ring later, senders need that very slot and find the queue full. *A crash* of any participant at any instruction loses no message whose send has
/// returned and repeats none whose receive has returned; a message that was being received goes to somebody else, who may
/// have received later ones before. *Nobody waits for the dead*, nor for who has left: when the last sender has gone, receivers get
/// what is there and then `Disconnected`; when the last receiver has gone, sends fail with `Disconnected` and give the message
/// back. Not before there was one, and not once there is a new one, who finds what was left. See
/// [`QueueOptions::keep_waiting`] for queues that outlive their ends.
///
/// The messages are of any [`Pod`](crate::Pod) type: plain bytes in which every bit pattern is a value, as other processes may
/// write anything; zero-sized types and types aligned to more than 64 bytes do not compile. Or they are `[u8]`: bytes, of any number;
/// for an example see [`Sender::send`](Sender#method.send-1).
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
pub struct Queue<M: Message + ?Sized> {
    channel: Channel,
    ring: Owned<M::Slot>,
    /// If the messages are bytes: where they are.
    data: Option<Data>,
    /// If it has no bound: how it takes memory.
    region: Option<Arc<Region>>,
}

/// How to create a [`Queue`] or [`SpscQueue`](crate::SpscQueue).
///
/// ```
/// use gimmal::{Departure, QueueOptions, RecvError, Segment};
///
/// let segment = Segment::anonymous()?;
/// let queue = QueueOptions::new().capacity(8).create::<u8>(&segment, "q")?;
/// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
/// sender.send(1)?;
/// drop(sender); // the last one
/// assert_eq!(receiver.recv(), Ok(1));
/// assert_eq!(receiver.recv(), Err(RecvError::Disconnected { peer: Departure::Closed }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct QueueOptions {
    capacity: Option<usize>,
    block: Option<usize>,
    keep_waiting: bool,
    /// Bytes of memory that a queue without a bound may take.
    limit: Option<usize>,
}

/// Messages, or bytes, that a ring holds unless it is told otherwise.
const MESSAGES: usize = 1024;
const BYTES: usize = 64 << 10;
/// A ring of bytes is cut into as many blocks, unless these would be smaller, or larger, than is useful.
const BLOCKS: usize = 1 << 13;
const LARGE_BLOCK: usize = 1 << 10;
/// Bytes that a queue without a bound takes at most unless it is told otherwise.
const MOST_MEMORY: u64 = 1 << 40;

impl QueueOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages that fit, rounded up to a power of two; 1,024 by default. Where messages are bytes, of any number: bytes that fit,
    /// 64 KiB by default, and never fewer than 4 KiB.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = Some(messages);
        self
    }

    /// Where messages are bytes: a message takes whole blocks of this many bytes, rounded up to a power of two between 64 and
    /// 4,096. Make them as large as most messages: small blocks waste less, large ones cost less time in large messages.
    /// By default 64 bytes, or more in rings of more than 512 KiB: they are cut into 8,192 blocks of up to 1 KiB. Only for a
    /// [`Queue`] that is created.
    pub fn block(mut self, bytes: usize) -> Self {
        self.block = Some(bytes);
        self
    }

    /// For a queue that outlives its ends, as that of a service whose clients come and go, or that is restarted: receivers wait for
    /// the next sender when the last one has gone, in peace or by a `kill -9`, and senders send on without a receiver until the
    /// queue is full, and wait for the next one then. Nobody learns of a death there: use time-outs, or
    /// [`Segment::watch`]. [`Queue::close`] ends such a queue, too.
    ///
    /// Off by default: then receives end with `Disconnected` once there was a sender, none is left, and all is received, and sends
    /// once there was a receiver and none is left. The messages stay for those who come later, and with a new sender, or receiver,
    /// the queue goes on. Before there was one, everybody waits. If the first of several senders may be done
    /// before the last has begun, hold one more sender until all have.
    ///
    /// ```
    /// use gimmal::{QueueOptions, Segment, TryRecvError};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = QueueOptions::new().keep_waiting(true).create::<u8>(&segment, "requests")?;
    /// let service = queue.receiver()?;
    /// queue.sender()?.send(1)?; // a client, that is gone again
    /// assert_eq!(service.recv(), Ok(1));
    /// assert_eq!(service.try_recv(), Err(TryRecvError::Empty)); // the next client may come
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keep_waiting(mut self, keep_waiting: bool) -> Self {
        self.keep_waiting = keep_waiting;
        self
    }

    /// The properties of a queue of `element`, or of a pipe of both. A queue of bytes is so many blocks long as its bytes take.
    pub(crate) fn shape(
        &self,
        kind: Kind,
        mut element: ElementType,
        second: Option<ElementType>,
    ) -> Result<Shape, Error> {
        let asked = self.capacity.unwrap_or(if element.bytes { BYTES } else { MESSAGES });
        let bad = Error::BadSize { what: "a capacity", given: asked as u64, maximum: 1 << 40 };
        let mut capacity = ring::capacity(asked).map(|c| c as u64).filter(|&c| c <= 1 << 40).ok_or(bad)?;
        if element.bytes && kind == Kind::Queue {
            capacity = capacity.max(MAP_UNIT as u64);
            let block = self.block.unwrap_or((capacity as usize / BLOCKS).min(LARGE_BLOCK));
            let block = block.clamp(BLOCK, MAP_UNIT).next_power_of_two();
            element.size = block as u32;
            capacity /= block as u64;
        }
        let flags = if self.keep_waiting { 0 } else { ENTRY_DISCONNECT };
        let shape = Shape { kind, flags, capacity, element, second, unbounded: None };
        match self.limit {
            Some(limit) if kind == Kind::Queue => shape.without_bound(limit),
            _ => Ok(shape),
        }
    }

    fn make<M: Message + ?Sized>(&self, segment: &Segment, name: &str, or_open: bool) -> Result<Queue<M>, Error> {
        let mut options = self.clone();
        if options.limit == Some(0) {
            // What is free now: half of it.
            let io = |e: Errno| Error::Io { action: "ask how much memory is free", source: e.into() };
            let available = room::available(segment.attached().file()).map_err(io)? / 2;
            options.limit = Some(available.clamp(1, MOST_MEMORY) as usize);
        }
        let shape = options.shape(Kind::Queue, mpmc_element::<M>(), None)?;
        let object = segment.attached().create(name, &shape, or_open, |_| {})?;
        Queue::at(segment.attached(), &object, &object.first_ring()?)
    }

    /// Creates a queue.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoRoom`], [`Error::NoObjectSlot`], [`Error::BadName`], [`Error::BadSize`].
    pub fn create<M: Message + ?Sized>(&self, segment: &Segment, name: &str) -> Result<Queue<M>, Error> {
        self.make(segment, name, false)
    }

    /// Opens the queue, or creates it if need be; several processes may do so at once.
    ///
    /// # Errors
    /// As for `create` and [`Queue::open`]; [`Error::CapacityMismatch`] or [`Error::OptionMismatch`] if it exists with
    /// other properties.
    pub fn open_or_create<M: Message + ?Sized>(&self, segment: &Segment, name: &str) -> Result<Queue<M>, Error> {
        self.make(segment, name, true)
    }
}

impl<M: Message + ?Sized> Queue<M> {
    /// Options: capacity, and whether ends that are left alone keep waiting.
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
        let shape = Self::options().shape(Kind::Queue, mpmc_element::<M>(), None)?;
        let object = segment.attached().find(name, &Wanted::like(shape))?;
        Self::at(segment.attached(), &object, &object.first_ring()?)
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
        let shape = Self::options().capacity(capacity).shape(Kind::Queue, mpmc_element::<M>(), None);
        shape.ok().and_then(|shape| shape.bytes()).unwrap_or(usize::MAX)
    }

    /// A ring of a checked object of element type `M`.
    pub(crate) fn at(attached: &Arc<Attached>, object: &Object, ring: &Ring) -> Result<Self, Error> {
        const { Element::<M::Slot>::CHECK };
        let channel = Channel::new(attached, object, ring);
        let data = channel.data(ring)?;
        let (region, slots) = match Region::new(attached.file(), ring)? {
            Some((region, slots)) => (Some(Arc::new(region)), slots),
            None => (None, channel.slots()),
        };
        let pages = Region::pages(attached.file(), ring, channel.header_pointer(), channel.mode());
        // SAFETY: a checked object's rings lie inside the mapping, which the channel keeps, or in one that `region` keeps; a slot's
        // payload is Pod.
        let ring = unsafe { Owned::new(channel.header_pointer(), slots, ring.slots) };
        let ring = if M::BYTES { ring.of_whole_runs() } else { ring };
        let ring = if let Some(pages) = pages { ring.of_pages(pages) } else { ring };
        Ok(Self { channel, ring, data, region })
    }

    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        self.channel.place()
    }

    /// A new sending end.
    ///
    /// # Errors
    /// Only in a forked child that could not join the segment.
    pub fn sender(&self) -> Result<Sender<M>, Error> {
        Ok(Sender { end: Endpoint::new(self, Side::Sender)? })
    }

    /// A new receiving end.
    ///
    /// # Errors
    /// Only in a forked child that could not join the segment.
    pub fn receiver(&self) -> Result<Receiver<M>, Error> {
        Ok(Receiver { end: Endpoint::new(self, Side::Receiver)? })
    }

    /// Messages that fit; bytes, if that is what they are. Of an unbounded queue, how many its limit of memory allows.
    #[must_use]
    pub fn capacity(&self) -> usize {
        if let (Some(region), Some(pages)) = (&self.region, self.ring.pages()) {
            let slots = (region.limit() * pages.len()) as usize;
            return self.data.as_ref().map_or(slots, |data| slots << data.shift);
        }
        self.data.as_ref().map_or(self.ring.capacity() as usize, |data| data.size)
    }

    /// Messages that are there and that nobody is receiving yet; a moment's count. Walks over them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len(self.channel.attached().id()) as usize
    }

    /// Whether there is no message at this moment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty(self.channel.attached().id())
    }

    /// Whether a send would have to wait at this moment. One without a bound gives memory back first, if it is at its limit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        if self.is_unbounded() { self.is_at_its_limit() } else { self.ring.is_full(self.channel.attached().id()) }
    }

    /// Whether a receive would not wait now, by somebody who reads `ours` messages in place at the moment.
    fn is_ready(&self, ours: impl Fn() -> usize) -> bool {
        let Self { channel, ring, .. } = self;
        let id = channel.attached().id();
        // Before the look at the ring.
        let over = channel.is_closed() || channel.alone(Side::Sender).is_some();
        !ring.is_empty(id) || over && !ring.is_unsettled(id, ours)
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

impl<M: Message + ?Sized> Clone for Queue<M> {
    fn clone(&self) -> Self {
        Self {
            channel: self.channel.clone(),
            ring: self.ring.clone(),
            data: self.data.clone(),
            region: self.region.clone(),
        }
    }
}

impl<M: Message + ?Sized> fmt::Debug for Queue<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("capacity", &self.capacity()).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The most that one call receives.
const BATCH: usize = 64;

/// One end: a queue, a place in it, and the count of this process's ends.
struct Endpoint<M: Message + ?Sized> {
    queue: Queue<M>,
    cursor: Cursor,
    pace: Pace,
    side: Side,
    /// Messages of this end that are being read in place.
    guards: Guards,
    /// Bytes of the last object that this end has sent: the next one may be as large.
    #[cfg(feature = "serde")]
    guess: AtomicUsize,
    /// Of a queue without a bound: the chunk that this end was in when it last gave memory back.
    tidied: AtomicU64,
}

impl<M: Message + ?Sized> Endpoint<M> {
    fn new(queue: &Queue<M>, side: Side) -> Result<Self, Error> {
        if queue.channel.attached().id() == 0 {
            return Err(queue.channel.attached().detached());
        }
        Ok(Self::at(queue.clone(), Cursor::default(), side))
    }

    fn at(queue: Queue<M>, cursor: Cursor, side: Side) -> Self {
        queue.channel.attached().enter(queue.channel.offset(), side);
        Self {
            queue,
            cursor,
            pace: Pace::default(),
            side,
            guards: Guards::default(),
            #[cfg(feature = "serde")]
            guess: AtomicUsize::new(0),
            tidied: AtomicU64::new(0),
        }
    }
}

impl<M: Message + ?Sized> Clone for Endpoint<M> {
    fn clone(&self) -> Self {
        Self::at(self.queue.clone(), self.cursor.clone(), self.side)
    }
}

impl<M: Message + ?Sized> Drop for Endpoint<M> {
    fn drop(&mut self) {
        let channel = &self.queue.channel;
        if channel.attached().exit(channel.offset(), self.side) {
            channel.wake_everybody();
        }
    }
}
