//! [`Pipe`]: two ends, each of which sends and receives.

mod bytes;
mod end;
mod shared;
mod stream;

pub use self::end::End;
pub use self::shared::SharedEnd;
pub use self::stream::{Reader, Stream, Writer};

use crate::error::Error;
use crate::layout::ENTRY_SIMPLEX;
use crate::message::{Message, mpmc_element, spsc_element};
use crate::object::{Kind, Object, Ring, Shape};
use crate::queue::{Queue, QueueOptions};
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

fn shape<A: Message + ?Sized, B: Message + ?Sized>(capacity: usize) -> Result<Shape, Error> {
    let options = QueueOptions::new().capacity(capacity);
    options.shape(Kind::Pipe, spsc_element::<A>(), Some(spsc_element::<B>()))
}

fn shared_shape<A: Message + ?Sized, B: Message + ?Sized>(capacity: usize) -> Result<Shape, Error> {
    let options = QueueOptions::new().capacity(capacity);
    options.shape(Kind::SharedPipe, mpmc_element::<A>(), Some(mpmc_element::<B>()))
}

fn simplex_shape<T: Message + ?Sized>(capacity: usize) -> Result<Shape, Error> {
    let options = QueueOptions::new().capacity(capacity);
    let mut shape = options.shape(Kind::Pipe, spsc_element::<T>(), None)?;
    shape.flags |= ENTRY_SIMPLEX;
    Ok(shape)
}

/// Where an object's first and second ring are.
fn rings(object: &Object) -> Result<(Ring, Ring), Error> {
    let mut rings = object.rings();
    match (rings.next(), rings.next()) {
        (Some(first), Some(second)) => Ok((first, second)),
        _ => Err(Error::Corrupt { what: "a pipe without two rings" }),
    }
}

/// The two directions of a pipe object.
fn directions<A: Message + ?Sized, B: Message + ?Sized>(
    segment: &Segment,
    object: &Object,
) -> Result<(SpscQueue<A>, SpscQueue<B>), Error> {
    let (first, second) = rings(object)?;
    let attached = segment.attached();
    Ok((SpscQueue::at(attached, object, &first)?, SpscQueue::at(attached, object, &second)?))
}

impl Pipe {
    /// Creates a duplex pipe and takes both ends. The first end sends `Tx` and receives `Rx`.
    ///
    /// # Errors
    /// As for [`Queue::create`](crate::Queue::create).
    pub fn pair<Tx: Message + ?Sized, Rx: Message + ?Sized>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<Ends<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shape::<Tx, Rx>(capacity)?, false, |_| {})?;
        let (there, back) = directions::<Tx, Rx>(segment, &object)?;
        Ok((End::take(&there, &back)?, End::take(&back, &there)?))
    }

    /// Opens the duplex pipe, creating it if need be, and takes its first end, which sends `Tx` and receives `Rx`. The
    /// second end may be taken before or after.
    ///
    /// # Errors
    /// As for [`Queue::open_or_create`](crate::Queue::open_or_create); [`Error::SeatTaken`] while somebody living holds
    /// this end.
    pub fn create<Tx: Message + ?Sized, Rx: Message + ?Sized>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<End<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shape::<Tx, Rx>(capacity)?, true, |_| {})?;
        let (there, back) = directions::<Tx, Rx>(segment, &object)?;
        End::take(&there, &back)
    }

    /// Takes the second end of an existing duplex pipe: it sends `Tx`, which the first end receives.
    ///
    /// # Errors
    /// As for [`Queue::open`](crate::Queue::open); [`Error::SeatTaken`] while somebody living holds this end.
    pub fn connect<Tx: Message + ?Sized, Rx: Message + ?Sized>(
        segment: &Segment,
        name: &str,
    ) -> Result<End<Tx, Rx>, Error> {
        let object = segment.attached().find(name, &Wanted::like(shape::<Rx, Tx>(1)?))?;
        let (there, back) = directions::<Rx, Tx>(segment, &object)?;
        End::take(&back, &there)
    }

    /// Creates a pipe of one direction and takes both ends.
    ///
    /// # Errors
    /// As for [`Queue::create`](crate::Queue::create).
    pub fn simplex<T: Message + ?Sized>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<(Sender<T>, Receiver<T>), Error> {
        let object = segment.attached().create(name, &simplex_shape::<T>(capacity)?, false, |_| {})?;
        let ring = SpscQueue::at(segment.attached(), &object, &object.first_ring()?)?;
        Ok((ring.sender()?, ring.receiver()?))
    }

    /// Opens the pipe of one direction, creating it if need be, and takes its sending end.
    ///
    /// # Errors
    /// As for [`Pipe::create`].
    pub fn simplex_sender<T: Message + ?Sized>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<Sender<T>, Error> {
        Self::simplex_ring(segment, name, capacity)?.sender()
    }

    /// Opens the pipe of one direction, creating it if need be, and takes its receiving end.
    ///
    /// # Errors
    /// As for [`Pipe::create`].
    pub fn simplex_receiver<T: Message + ?Sized>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<Receiver<T>, Error> {
        Self::simplex_ring(segment, name, capacity)?.receiver()
    }

    fn simplex_ring<T: Message + ?Sized>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<SpscQueue<T>, Error> {
        let object = segment.attached().create(name, &simplex_shape::<T>(capacity)?, true, |_| {})?;
        SpscQueue::at(segment.attached(), &object, &object.first_ring()?)
    }

    /// Creates a duplex pipe whose ends any number of threads and processes may hold at once, and returns one of each.
    /// Each message goes to exactly one holder of the other end. `Disconnected` comes when the other end's last holder is
    /// gone.
    ///
    /// # Errors
    /// As for [`Queue::create`](crate::Queue::create).
    pub fn shared<Tx: Message + ?Sized, Rx: Message + ?Sized>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<SharedEnds<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shared_shape::<Tx, Rx>(capacity)?, false, |_| {})?;
        let (there, back) = shared_directions::<Tx, Rx>(segment, &object)?;
        Ok((SharedEnd::new(&there, &back)?, SharedEnd::new(&back, &there)?))
    }

    /// A first end of a shared pipe, which is created if need be.
    ///
    /// # Errors
    /// As for [`Queue::open_or_create`](crate::Queue::open_or_create).
    pub fn shared_first<Tx: Message + ?Sized, Rx: Message + ?Sized>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<SharedEnd<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shared_shape::<Tx, Rx>(capacity)?, true, |_| {})?;
        let (there, back) = shared_directions::<Tx, Rx>(segment, &object)?;
        SharedEnd::new(&there, &back)
    }

    /// A second end of a shared pipe, which is created if need be: it sends `Tx`, which the first end receives.
    ///
    /// # Errors
    /// As for [`Queue::open_or_create`](crate::Queue::open_or_create).
    pub fn shared_second<Tx: Message + ?Sized, Rx: Message + ?Sized>(
        segment: &Segment,
        name: &str,
        capacity: usize,
    ) -> Result<SharedEnd<Tx, Rx>, Error> {
        let object = segment.attached().create(name, &shared_shape::<Rx, Tx>(capacity)?, true, |_| {})?;
        let (there, back) = shared_directions::<Rx, Tx>(segment, &object)?;
        SharedEnd::new(&back, &there)
    }
}

fn shared_directions<A: Message + ?Sized, B: Message + ?Sized>(
    segment: &Segment,
    object: &Object,
) -> Result<(Queue<A>, Queue<B>), Error> {
    let (first, second) = rings(object)?;
    let attached = segment.attached();
    Ok((Queue::at(attached, object, &first)?, Queue::at(attached, object, &second)?))
}

/// The two ends of a pipe: the first sends `Tx`, the second receives it.
pub type Ends<Tx, Rx> = (End<Tx, Rx>, End<Rx, Tx>);

/// The two ends of a shared pipe: the first sends `Tx`, the second receives it.
pub type SharedEnds<Tx, Rx> = (SharedEnd<Tx, Rx>, SharedEnd<Rx, Tx>);
