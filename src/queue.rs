//! [`Queue`]: any number of senders and receivers in any number of processes, each message to exactly one receiver.

mod in_place;

use core::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

pub use self::in_place::{RecvGuard, Reservation};

use crate::channel::{Channel, no_deadline, no_deadline_recv};
use crate::deadline::Deadline;
use crate::error::{
    Error, RecvError, RecvTimeoutError, SendError, SendSliceError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::event::Surroundings;
use crate::layout::ENTRY_DISCONNECT;
use crate::object::{ElementType, Kind, Object, Shape};
use crate::primitive::Ordering;
use crate::primitive::private::AtomicUsize;
use crate::ring::owned::{Claim, Cursor, Owned, Refused, Run};
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
    side: Side,
    /// Messages of this end that are being read in place.
    guards: AtomicUsize,
}

impl<T: Pod> Endpoint<T> {
    fn new(queue: &Queue<T>, side: Side) -> Result<Self, Error> {
        if queue.channel.id() == 0 {
            return Err(Attached::detached());
        }
        queue.channel.attached().enter(queue.channel.offset(), side);
        Ok(Self { queue: queue.clone(), cursor: Cursor::default(), side, guards: AtomicUsize::new(0) })
    }
}

impl<T: Pod> Clone for Endpoint<T> {
    fn clone(&self) -> Self {
        self.queue.channel.attached().enter(self.queue.channel.offset(), self.side);
        let (queue, cursor) = (self.queue.clone(), self.cursor.clone());
        Self { queue, cursor, side: self.side, guards: AtomicUsize::new(0) }
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

/// A sending end of a [`Queue`]. Clone it for another thread: sharing one works and is slower.
pub struct Sender<T: Pod> {
    end: Endpoint<T>,
}

impl<T: Pod> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { end: self.end.clone() }
    }
}

impl<T: Pod> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("queue", &self.end.queue).finish()
    }
}

impl<T: Pod> Sender<T> {
    /// Sends if there is room now. Lock-free, no system call unless a receiver sleeps.
    ///
    /// # Errors
    /// [`TrySendError::Full`] and the others give the message back.
    #[inline]
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.attempt(&value).map_err(|refusal| refusal.with(value))
    }

    #[inline]
    fn attempt(&self, value: &T) -> Result<(), TrySendError<()>> {
        self.push(value)?;
        self.end.queue.channel.committed(1);
        Ok(())
    }

    /// Everything of a send but the notification.
    #[inline]
    fn push(&self, value: &T) -> Result<(), TrySendError<()>> {
        let owner = self.owner()?;
        let Endpoint { queue: Queue { channel, ring }, cursor, .. } = &self.end;
        ring.push(cursor, owner, channel.mode(), value).map_err(|refused| self.refusal(refused))
    }

    /// As `push`, as many of `values` as there is room for in one run.
    fn push_run(&self, values: &[T]) -> Result<usize, TrySendError<()>> {
        let owner = self.owner()?;
        let Endpoint { queue: Queue { channel, ring }, cursor, .. } = &self.end;
        ring.push_run(cursor, owner, channel.mode(), values).map_err(|refused| self.refusal(refused))
    }

    /// Who we are, unless there is nobody to send to.
    #[inline]
    fn owner(&self) -> Result<u16, TrySendError<()>> {
        let channel = &self.end.queue.channel;
        let owner = channel.id();
        if owner == 0 {
            return Err(TrySendError::Detached(()));
        }
        if channel.disconnects()
            && let Some(peer) = channel.nobody_left(Side::Receiver)
        {
            let closed = channel.is_closing();
            return Err(if closed {
                TrySendError::Closed(())
            } else {
                TrySendError::Disconnected { message: (), peer }
            });
        }
        Ok(owner)
    }

    #[cold]
    fn refusal(&self, refused: Refused) -> TrySendError<()> {
        let channel = &self.end.queue.channel;
        match refused {
            Refused::Full if channel.is_closing() => TrySendError::Closed(()),
            Refused::Full => {
                if self.end.cursor.in_vain() {
                    channel.attached().look();
                }
                TrySendError::Full(())
            }
            Refused::Closed => {
                // A receiver may be waiting to learn whether something comes from the claim.
                channel.wake_everybody();
                TrySendError::Closed(())
            }
        }
    }

    /// The slow path of every blocking send.
    fn send_until(&self, value: &T, deadline: Option<Deadline>) -> Result<(), SendTimeoutError<()>> {
        self.until(deadline, || self.attempt(value))
    }

    /// Repeats `attempt` until it is something else than Full.
    fn until<R>(
        &self,
        deadline: Option<Deadline>,
        attempt: impl FnMut() -> Result<R, TrySendError<()>>,
    ) -> Result<R, SendTimeoutError<()>> {
        let Queue { channel, ring } = &self.end.queue;
        let sent = channel.send_blocking(deadline, attempt);
        // Slots are released in any order, and filled in one: whoever was woken for a slot behind one that is still being
        // read went back to sleep. With the slot in front the one behind has become usable, too.
        if sent.is_ok() && !ring.is_full() {
            channel.released(1);
        }
        sent
    }

    /// Sends, waiting for room as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// # Errors
    /// [`SendError::Closed`] and the others give the message back.
    #[inline]
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        match self.attempt(&value) {
            Ok(()) => Ok(()),
            Err(_) => no_deadline(self.send_until(&value, None)).map_err(|e| e.with(value)),
        }
    }

    /// Sends, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// [`SendTimeoutError::Timeout`] and the others give the message back: it was not sent.
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        match self.attempt(&value) {
            Ok(()) => Ok(()),
            Err(_) => self.send_until(&value, Deadline::after(timeout)).map_err(|e| e.with(value)),
        }
    }

    /// Sends, waiting for room until `deadline`.
    ///
    /// # Errors
    /// As for [`Sender::send_timeout`].
    pub fn send_deadline(&self, value: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        match self.attempt(&value) {
            Ok(()) => Ok(()),
            Err(_) => self.send_until(&value, Deadline::at(deadline)).map_err(|e| e.with(value)),
        }
    }

    /// Reserves a slot if one is free now, to write a message in place: see [`Sender::reserve`].
    ///
    /// # Errors
    /// As for [`Sender::try_send`].
    pub fn try_reserve(&self) -> Result<Reservation<'_, T>, TrySendError<()>> {
        let owner = self.owner()?;
        let Endpoint { queue: Queue { channel, ring }, cursor, .. } = &self.end;
        match ring.reserve(cursor, owner, channel.mode()) {
            Ok(claim) => Ok(Reservation::new(&self.end.queue, claim)),
            Err(refused) => Err(self.refusal(refused)),
        }
    }

    /// Reserves a slot, waiting for one as long as it takes, to write a message in place. Nothing is copied;
    /// [`Reservation::commit`] sends it, dropping it does not. Until then receivers step around the slot, and the
    /// messages of this sender that are sent meanwhile may arrive before it.
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<[u8; 4096]>::create(&segment, "frames", 8)?;
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// let mut frame = sender.reserve()?;
    /// frame.fill(7); // it holds what some earlier message has left
    /// frame.commit();
    /// assert_eq!(receiver.recv_guard()?[..2], [7, 7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Sender::send`].
    pub fn reserve(&self) -> Result<Reservation<'_, T>, SendError<()>> {
        no_deadline(self.until(None, || self.try_reserve()))
    }

    /// As [`Sender::reserve`], waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for [`Sender::send_timeout`].
    pub fn reserve_timeout(&self, timeout: Duration) -> Result<Reservation<'_, T>, SendTimeoutError<()>> {
        self.until(Deadline::after(timeout), || self.try_reserve())
    }

    /// Sends as many of `values` as there is room for now, in order, and says how many. They go in runs of up to 64, each of
    /// which arrives at once; other senders' messages may come between two of them. Wakes receivers once for all.
    ///
    /// # Errors
    /// Only if not even one could be sent, and not for want of room: that is `Ok(0)`.
    pub fn try_send_slice(&self, values: &[T]) -> Result<usize, SendError<()>> {
        let mut sent = 0;
        let reason = loop {
            let pushed = match &values[sent..] {
                [] => break None,
                [value] => self.push(value).map(|()| 1),
                values => self.push_run(&values[..values.len().min(BATCH)]),
            };
            match pushed {
                Ok(more) => sent += more,
                Err(reason) => break Some(reason),
            }
        };
        if sent > 0 {
            self.end.queue.channel.committed(sent);
            return Ok(sent);
        }
        match reason {
            None | Some(TrySendError::Full(())) => Ok(0),
            Some(TrySendError::Closed(())) => Err(SendError::Closed(())),
            Some(TrySendError::Disconnected { message, peer }) => Err(SendError::Disconnected { message, peer }),
            Some(TrySendError::Detached(())) => Err(SendError::Detached(())),
        }
    }

    /// Sends all of `values` in order, waiting for room as long as it takes.
    ///
    /// # Errors
    /// [`SendSliceError`] says how many were sent before the queue was closed or disconnected.
    pub fn send_slice(&self, values: &[T]) -> Result<(), SendSliceError> {
        let mut sent = 0;
        while sent < values.len() {
            let more = match self.try_send_slice(&values[sent..]) {
                Ok(0) => no_deadline(self.send_until(&values[sent], None)).map(|()| 1),
                result => result,
            };
            sent += more.map_err(|reason| SendSliceError { sent, reason })?;
        }
        Ok(())
    }

    /// See [`Queue::close`].
    pub fn close(&self) {
        self.end.queue.close();
    }

    /// The queue this end belongs to.
    #[must_use]
    pub fn queue(&self) -> &Queue<T> {
        &self.end.queue
    }
}

/// A receiving end of a [`Queue`]. Clone it for another thread: sharing one works and is slower.
pub struct Receiver<T: Pod> {
    end: Endpoint<T>,
}

impl<T: Pod> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { end: self.end.clone() }
    }
}

impl<T: Pod> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queue", &self.end.queue).finish()
    }
}

impl<T: Pod> Receiver<T> {
    /// Receives what is there now. Lock-free, no system call unless a sender sleeps.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`]: at some moment during the call no message was there. The others come after the last
    /// message.
    #[inline]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let value = self.pop()?;
        self.end.queue.released(1);
        Ok(value)
    }

    /// Everything of a receive but the notification.
    #[inline]
    fn pop(&self) -> Result<T, TryRecvError> {
        self.claim().map(|claim| self.end.queue.ring.take(claim))
    }

    /// Claims the oldest message that is there.
    #[inline]
    fn claim(&self) -> Result<Claim, TryRecvError> {
        let owner = self.owner()?;
        let Endpoint { queue: Queue { ring, .. }, cursor, .. } = &self.end;
        ring.claim_full(cursor, owner).or_else(|_| self.claim_or_reason(owner, 1).map(Run::claim))
    }

    #[inline]
    fn owner(&self) -> Result<u16, TryRecvError> {
        match self.end.queue.channel.id() {
            0 => Err(TryRecvError::Detached),
            owner => Ok(owner),
        }
    }

    /// Why there is nothing. `Closed` and `Disconnected` must be true *before* the decisive look at the ring, and nothing may
    /// be in the hands of another receiver that could still die or give it back.
    #[cold]
    fn claim_or_reason(&self, owner: u16, most: usize) -> Result<Run, TryRecvError> {
        let Endpoint { queue: Queue { channel, ring }, cursor, .. } = &self.end;
        let closed = channel.is_closed();
        let alone = if channel.disconnects() { channel.nobody_left(Side::Sender) } else { None };
        let reason = match alone {
            _ if closed => TryRecvError::Closed,
            Some(peer) => TryRecvError::Disconnected { peer },
            None => {
                if cursor.in_vain() {
                    channel.attached().look();
                }
                return Err(TryRecvError::Empty);
            }
        };
        ring.claim_full_run(cursor, owner, most).map_err(|_| {
            let ours = self.end.guards.load(Ordering::Relaxed);
            if ring.is_unsettled(owner, ours) { TryRecvError::Empty } else { reason }
        })
    }

    fn recv_until(&self, deadline: Option<Deadline>) -> Result<T, RecvTimeoutError> {
        self.end.queue.channel.receive_blocking(deadline, || self.try_recv())
    }

    /// Receives, waiting for a message as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// # Errors
    /// [`RecvError::Closed`] and [`RecvError::Disconnected`] after the last message.
    #[inline]
    pub fn recv(&self) -> Result<T, RecvError> {
        match self.try_recv() {
            Ok(value) => Ok(value),
            Err(_) => no_deadline_recv(self.recv_until(None)),
        }
    }

    /// Receives, waiting for a message for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`]: nothing was taken. The others come after the last message.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        match self.try_recv() {
            Ok(value) => Ok(value),
            Err(_) => self.recv_until(Deadline::after(timeout)),
        }
    }

    /// Receives, waiting for a message until `deadline`.
    ///
    /// # Errors
    /// As for [`Receiver::recv_timeout`].
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        match self.try_recv() {
            Ok(value) => Ok(value),
            Err(_) => self.recv_until(Deadline::at(deadline)),
        }
    }

    /// Receives what is there now and reads it in place: see [`Receiver::recv_guard`].
    ///
    /// # Errors
    /// As for [`Receiver::try_recv`].
    pub fn try_recv_guard(&self) -> Result<RecvGuard<'_, T>, TryRecvError> {
        Ok(RecvGuard::new(&self.end, self.claim()?))
    }

    /// Receives a message, waiting for one as long as it takes, and reads it in place. It counts as received when the guard
    /// is dropped. If this process dies before, or the thread panics, or [`RecvGuard::give_back`] is called, the message
    /// goes to another receiver, before newer ones: each message is processed at least once.
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<u32>::create(&segment, "jobs", 8)?;
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// sender.send_slice(&[1, 2])?;
    /// let job = receiver.recv_guard()?;
    /// assert_eq!(*job, 1);
    /// job.give_back(); // somebody else may do it
    /// assert_eq!((receiver.recv()?, receiver.recv()?), (1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_guard(&self) -> Result<RecvGuard<'_, T>, RecvError> {
        no_deadline_recv(self.end.queue.channel.receive_blocking(None, || self.try_recv_guard()))
    }

    /// As [`Receiver::recv_guard`], waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for [`Receiver::recv_timeout`].
    pub fn recv_guard_timeout(&self, timeout: Duration) -> Result<RecvGuard<'_, T>, RecvTimeoutError> {
        self.end.queue.channel.receive_blocking(Deadline::after(timeout), || self.try_recv_guard())
    }

    /// Appends at most `most` of the messages that are there now to `buffer` and says how many: up to 64 at a time. Wakes
    /// senders once for all.
    ///
    /// # Errors
    /// Only if there is not even one message. `most` of 0 is `Ok(0)`.
    pub fn try_recv_many(&self, buffer: &mut Vec<T>, most: usize) -> Result<usize, TryRecvError> {
        let most = most.min(BATCH);
        if most == 0 {
            return Ok(0);
        }
        // Room first: a message that was taken must have a place to go, whatever the allocator does.
        buffer.reserve(most);
        let owner = self.owner()?;
        let Endpoint { queue: Queue { ring, .. }, cursor, .. } = &self.end;
        // Read first, release at the end: until then all of them would go to somebody else if we died.
        let mut runs = [const { None }; BATCH];
        let (mut received, mut taken) = (0, 0);
        while received < most {
            let run = match ring.claim_full_run(cursor, owner, most - received) {
                Ok(run) => run,
                Err(_) if received > 0 => break,
                Err(_) => self.claim_or_reason(owner, most)?,
            };
            buffer.extend(ring.read_run(&run));
            received += run.len();
            runs[taken] = Some(run);
            taken += 1;
        }
        runs.into_iter().take(taken).flatten().for_each(|run| ring.release_run(run));
        self.end.queue.released(received);
        Ok(received)
    }

    /// As [`Receiver::try_recv_many`], waiting for the first message as long as it takes.
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_many(&self, buffer: &mut Vec<T>, most: usize) -> Result<usize, RecvError> {
        let received = self.end.queue.channel.receive_blocking(None, || self.try_recv_many(buffer, most));
        no_deadline_recv(received)
    }

    /// Messages until the queue is closed (or disconnected) and drained; waits for each.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.recv().ok())
    }

    /// Messages that are there now.
    pub fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.try_recv().ok())
    }

    /// See [`Queue::close`].
    pub fn close(&self) {
        self.end.queue.close();
    }

    /// The queue this end belongs to.
    #[must_use]
    pub fn queue(&self) -> &Queue<T> {
        &self.end.queue
    }
}

/// Messages until the queue is closed (or disconnected) and drained.
pub struct IntoIter<T: Pod>(Receiver<T>);

impl<T: Pod> fmt::Debug for IntoIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntoIter").field(&self.0).finish()
    }
}

impl<T: Pod> Iterator for IntoIter<T> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T: Pod> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;
    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}
