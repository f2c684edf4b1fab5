//! [`Pipe`]: two ends, each of which sends and receives.

use core::fmt;
use std::time::Duration;
use std::time::Instant;

use bytemuck::Pod;

use crate::error::{
    Error, RecvError, RecvTimeoutError, SendError, SendSliceError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::layout::ENTRY_SIMPLEX;
use crate::object::{ElementType, Kind, Object, Shape};
use crate::queue::{self, Queue, QueueOptions};
use crate::segment::{Segment, Wanted};
use crate::spsc::{Receiver, Sender, SpscQueue};

/// Constructors of pipes: two connected ends in a segment.
///
/// The *first* end sends what the *second* receives and the other way round. Each direction is an SPSC ring of
/// `capacity` messages (rounded up to a power of two), wait-free, first in first out; both ends may be in threads or
/// processes of any kind. When one end is dropped or its holder dies, the other receives what is there and then gets
/// `Disconnected`; a successor may connect to the free end and go on.
///
/// [`Pipe::shared`] makes ends that any number of threads and processes may hold at once.
///
/// # Example
///
/// ```
/// use gimmal::{Pipe, RecvError, Segment};
///
/// let segment = Segment::anonymous()?;
/// // The first end sends questions (u32) and receives answers (u64).
/// let (mut asker, mut answerer) = Pipe::pair::<u32, u64>(&segment, "squares", 16)?;
/// let service = std::thread::spawn(move || {
///     while let Ok(question) = answerer.recv() {
///         answerer.send(u64::from(question).pow(2)).unwrap();
///     }
/// });
/// asker.send(12)?;
/// assert_eq!(asker.recv()?, 144);
/// drop(asker);
/// service.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub enum Pipe {}

fn shape<A: Pod, B: Pod>(kind: Kind, capacity: usize) -> Result<Shape, Error> {
    let options = QueueOptions::new().capacity(capacity).disconnect(true);
    options.shape(kind, ElementType::of::<A>(), Some(ElementType::of::<B>()))
}

fn simplex_shape<T: Pod>(capacity: usize) -> Result<Shape, Error> {
    let options = QueueOptions::new().capacity(capacity).disconnect(true);
    let mut shape = options.shape(Kind::Pipe, ElementType::of::<T>(), None)?;
    shape.flags |= ENTRY_SIMPLEX;
    Ok(shape)
}

/// Where an object's first and second ring are.
fn offsets(object: &Object) -> Result<(usize, usize), Error> {
    let mut rings = object.rings().map(|(offset, _)| offset);
    match (rings.next(), rings.next()) {
        (Some(first), Some(second)) => Ok((first, second)),
        _ => Err(Error::Corrupt { what: "a pipe without two rings" }),
    }
}

/// The two directions of a pipe object.
fn directions<A: Pod, B: Pod>(segment: &Segment, object: &Object) -> Result<(SpscQueue<A>, SpscQueue<B>), Error> {
    let (first, second) = offsets(object)?;
    let attached = segment.attached();
    Ok((SpscQueue::at(attached, object, first), SpscQueue::at(attached, object, second)))
}

impl Pipe {
    /// Creates a duplex pipe and takes both ends. The first end sends `Tx` and receives `Rx`.
    ///
    /// # Errors
    /// As for [`Queue::create`](crate::Queue::create).
    pub fn pair<Tx: Pod, Rx: Pod>(segment: &Segment, name: &str, capacity: usize) -> Result<Ends<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shape::<Tx, Rx>(Kind::Pipe, capacity)?, false, |_| {})?;
        let (there, back) = directions::<Tx, Rx>(segment, &object)?;
        Ok((End::take(&there, &back)?, End::take(&back, &there)?))
    }

    /// Opens the duplex pipe, creating it if need be, and takes its first end, which sends `Tx` and receives `Rx`. The
    /// second end may be taken before or after.
    ///
    /// # Errors
    /// As for [`Queue::open_or_create`](crate::Queue::open_or_create); [`Error::SeatTaken`] while somebody living holds
    /// this end.
    pub fn create<Tx: Pod, Rx: Pod>(segment: &Segment, name: &str, capacity: usize) -> Result<End<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shape::<Tx, Rx>(Kind::Pipe, capacity)?, true, |_| {})?;
        let (there, back) = directions::<Tx, Rx>(segment, &object)?;
        End::take(&there, &back)
    }

    /// Takes the second end of an existing duplex pipe: it sends `Tx`, which the first end receives.
    ///
    /// # Errors
    /// As for [`Queue::open`](crate::Queue::open); [`Error::SeatTaken`] while somebody living holds this end.
    pub fn connect<Tx: Pod, Rx: Pod>(segment: &Segment, name: &str) -> Result<End<Tx, Rx>, Error> {
        let object = segment.attached().find(name, &Wanted::like(shape::<Rx, Tx>(Kind::Pipe, 1)?))?;
        let (there, back) = directions::<Rx, Tx>(segment, &object)?;
        End::take(&back, &there)
    }

    /// Creates a pipe of one direction and takes both ends.
    ///
    /// # Errors
    /// As for [`Queue::create`](crate::Queue::create).
    pub fn simplex<T: Pod>(segment: &Segment, name: &str, capacity: usize) -> Result<(Sender<T>, Receiver<T>), Error> {
        let object = segment.attached().create(name, &simplex_shape::<T>(capacity)?, false, |_| {})?;
        let ring = SpscQueue::at(segment.attached(), &object, object.offset);
        Ok((ring.sender()?, ring.receiver()?))
    }

    /// Opens the pipe of one direction, creating it if need be, and takes its sending end.
    ///
    /// # Errors
    /// As for [`Pipe::create`].
    pub fn simplex_sender<T: Pod>(segment: &Segment, name: &str, capacity: usize) -> Result<Sender<T>, Error> {
        Self::simplex_ring(segment, name, capacity)?.sender()
    }

    /// Opens the pipe of one direction, creating it if need be, and takes its receiving end.
    ///
    /// # Errors
    /// As for [`Pipe::create`].
    pub fn simplex_receiver<T: Pod>(segment: &Segment, name: &str, capacity: usize) -> Result<Receiver<T>, Error> {
        Self::simplex_ring(segment, name, capacity)?.receiver()
    }

    fn simplex_ring<T: Pod>(segment: &Segment, name: &str, capacity: usize) -> Result<SpscQueue<T>, Error> {
        let object = segment.attached().create(name, &simplex_shape::<T>(capacity)?, true, |_| {})?;
        Ok(SpscQueue::at(segment.attached(), &object, object.offset))
    }

    /// Creates a duplex pipe whose ends any number of threads and processes may hold at once, and returns one of each.
    /// Each message goes to exactly one holder of the other end. `Disconnected` comes when the other end's last holder is
    /// gone.
    ///
    /// # Errors
    /// As for [`Queue::create`](crate::Queue::create).
    pub fn shared<Tx: Pod, Rx: Pod>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<SharedEnds<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shape::<Tx, Rx>(Kind::SharedPipe, capacity)?, false, |_| {})?;
        let (there, back) = shared_directions::<Tx, Rx>(segment, &object)?;
        Ok((SharedEnd::new(&there, &back)?, SharedEnd::new(&back, &there)?))
    }

    /// A first end of a shared pipe, which is created if need be.
    ///
    /// # Errors
    /// As for [`Queue::open_or_create`](crate::Queue::open_or_create).
    pub fn shared_first<Tx: Pod, Rx: Pod>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<SharedEnd<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shape::<Tx, Rx>(Kind::SharedPipe, capacity)?, true, |_| {})?;
        let (there, back) = shared_directions::<Tx, Rx>(segment, &object)?;
        SharedEnd::new(&there, &back)
    }

    /// A second end of a shared pipe, which is created if need be: it sends `Tx`, which the first end receives.
    ///
    /// # Errors
    /// As for [`Queue::open_or_create`](crate::Queue::open_or_create).
    pub fn shared_second<Tx: Pod, Rx: Pod>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<SharedEnd<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shape::<Rx, Tx>(Kind::SharedPipe, capacity)?, true, |_| {})?;
        let (there, back) = shared_directions::<Rx, Tx>(segment, &object)?;
        SharedEnd::new(&back, &there)
    }
}

fn shared_directions<A: Pod, B: Pod>(segment: &Segment, object: &Object) -> Result<(Queue<A>, Queue<B>), Error> {
    let (first, second) = offsets(object)?;
    let attached = segment.attached();
    Ok((Queue::at(attached, object, first), Queue::at(attached, object, second)))
}

/// The two ends of a pipe: the first sends `Tx`, the second receives it.
pub type Ends<Tx, Rx> = (End<Tx, Rx>, End<Rx, Tx>);

/// The two ends of a shared pipe: the first sends `Tx`, the second receives it.
pub type SharedEnds<Tx, Rx> = (SharedEnd<Tx, Rx>, SharedEnd<Rx, Tx>);

/// One end of a [`Pipe`]: sends `Tx`, receives `Rx`. Send, but held by one thread at a time.
///
/// Dropping it tells the other end. The methods are those of its two halves; [`End::split`] gives the halves.
pub struct End<Tx: Pod, Rx: Pod> {
    sender: Sender<Tx>,
    receiver: Receiver<Rx>,
}

impl<Tx: Pod, Rx: Pod> fmt::Debug for End<Tx, Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End").field("sender", &self.sender).field("receiver", &self.receiver).finish()
    }
}

impl<Tx: Pod, Rx: Pod> End<Tx, Rx> {
    fn take(there: &SpscQueue<Tx>, back: &SpscQueue<Rx>) -> Result<Self, Error> {
        let sender = there.sender()?;
        match back.receiver() {
            Ok(receiver) => Ok(Self { sender, receiver }),
            Err(e) => {
                sender.undo();
                Err(e)
            }
        }
    }

    /// The sending and the receiving half, for two threads. Each tells the other end when it is dropped.
    #[must_use]
    pub fn split(self) -> (Sender<Tx>, Receiver<Rx>) {
        (self.sender, self.receiver)
    }

    /// Gives this end up without telling the other one, so that another thread or process can take it with
    /// [`Pipe::create`] or [`Pipe::connect`] and go on. This is how an end is handed to a child process.
    pub fn release(self) {
        self.sender.release();
        self.receiver.release();
    }

    /// See [`Sender::try_send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_send(&mut self, value: Tx) -> Result<(), TrySendError<Tx>> {
        self.sender.try_send(value)
    }

    /// See [`Sender::send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn send(&mut self, value: Tx) -> Result<(), SendError<Tx>> {
        self.sender.send(value)
    }

    /// See [`Sender::send_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_timeout(&mut self, value: Tx, timeout: Duration) -> Result<(), SendTimeoutError<Tx>> {
        self.sender.send_timeout(value, timeout)
    }

    /// See [`Sender::send_deadline`].
    ///
    /// # Errors
    /// As there.
    pub fn send_deadline(&mut self, value: Tx, deadline: Instant) -> Result<(), SendTimeoutError<Tx>> {
        self.sender.send_deadline(value, deadline)
    }

    /// See [`Sender::send_slice`].
    ///
    /// # Errors
    /// As there.
    pub fn send_slice(&mut self, values: &[Tx]) -> Result<(), SendSliceError> {
        self.sender.send_slice(values)
    }

    /// See [`Receiver::try_recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Rx, TryRecvError> {
        self.receiver.try_recv()
    }

    /// See [`Receiver::recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn recv(&mut self) -> Result<Rx, RecvError> {
        self.receiver.recv()
    }

    /// See [`Receiver::recv_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Rx, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout)
    }

    /// See [`Receiver::recv_deadline`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Rx, RecvTimeoutError> {
        self.receiver.recv_deadline(deadline)
    }

    /// See [`Receiver::recv_many`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_many(&mut self, buffer: &mut Vec<Rx>, most: usize) -> Result<usize, RecvError> {
        self.receiver.recv_many(buffer, most)
    }

    /// See [`Receiver::poll`].
    pub fn poll(&mut self, timeout: Duration) -> bool {
        self.receiver.poll(timeout)
    }

    /// See [`Receiver::iter`].
    pub fn iter(&mut self) -> impl Iterator<Item = Rx> + '_ {
        self.receiver.iter()
    }
}

/// One end of a shared [`Pipe`]: any number of holders send `Tx` and receive `Rx`, each message to one of them.
///
/// The methods of its halves do the work; cloning makes another holder.
pub struct SharedEnd<Tx: Pod, Rx: Pod> {
    /// The sending half.
    pub sender: queue::Sender<Tx>,
    /// The receiving half.
    pub receiver: queue::Receiver<Rx>,
}

impl<Tx: Pod, Rx: Pod> SharedEnd<Tx, Rx> {
    fn new(there: &Queue<Tx>, back: &Queue<Rx>) -> Result<Self, Error> {
        Ok(Self { sender: there.sender()?, receiver: back.receiver()? })
    }

    /// See [`crate::Sender::try_send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_send(&self, value: Tx) -> Result<(), TrySendError<Tx>> {
        self.sender.try_send(value)
    }

    /// See [`crate::Sender::send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn send(&self, value: Tx) -> Result<(), SendError<Tx>> {
        self.sender.send(value)
    }

    /// See [`crate::Sender::send_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_timeout(&self, value: Tx, timeout: Duration) -> Result<(), SendTimeoutError<Tx>> {
        self.sender.send_timeout(value, timeout)
    }

    /// See [`crate::Receiver::try_recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_recv(&self) -> Result<Rx, TryRecvError> {
        self.receiver.try_recv()
    }

    /// See [`crate::Receiver::recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn recv(&self) -> Result<Rx, RecvError> {
        self.receiver.recv()
    }

    /// See [`crate::Receiver::recv_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Rx, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout)
    }
}

impl<Tx: Pod, Rx: Pod> Clone for SharedEnd<Tx, Rx> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), receiver: self.receiver.clone() }
    }
}

impl<Tx: Pod, Rx: Pod> fmt::Debug for SharedEnd<Tx, Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedEnd").field("sender", &self.sender).field("receiver", &self.receiver).finish()
    }
}
