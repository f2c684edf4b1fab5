//! [`Object`]: messages of any type that serde can write and read, through postcard.

use core::fmt;
use core::marker::PhantomData;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use postcard::ser_flavors::Size;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::channel::{no_deadline, no_deadline_recv};
use crate::deadline::Deadline;
use crate::error::{RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError};
use crate::message::Message;
use crate::message::sealed::{Bytes, Carried};
use crate::pipe::{End, SharedEnd};
use crate::primitive::{Ordering, fence};
use crate::{Receiver, Sender, spsc};

/// The message type of queues and pipes that carry values of `T`, serialized: `Queue<Object<T>>`, `Pipe::pair::<Object<A>,
/// Object<B>>`. Feature `serde`.
///
/// `T` is anything that implements serde's `Serialize` (to be sent) and `Deserialize` without borrowing (to be received): structs,
/// enums, strings, vectors, maps. A value is written by [postcard](https://docs.rs/postcard) straight into the queue, and read
/// from a copy. Both sides must agree on `T`: only its name is checked, and postcard's format does not describe itself.
///
/// ```
/// use gimmal::{Object, Queue, Segment};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// enum Shape {
///     Circle { radius: f64 },
///     Polygon(Vec<Point>),
/// }
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Point {
///     x: f64,
///     y: f64,
///     label: String,
/// }
///
/// let segment = Segment::anonymous()?;
/// let shapes = Queue::<Object<Shape>>::create(&segment, "shapes", 64 << 10)?; // bytes
/// let corner = Point { x: 1.0, y: 2.0, label: "corner".into() };
/// let shape = Shape::Polygon(vec![corner]);
/// shapes.sender()?.send(&shape)?;
/// assert_eq!(shapes.receiver()?.recv()?, shape);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What peers can do
///
/// A message is copied before it is read, so that a peer that breaks the protocol cannot change it meanwhile. Whoever may send can
/// send any bytes, though, and two sorts of `T` let a short message do much:
///
/// - One that contains itself, such as `enum Tree { Leaf, Node(Box<Tree>) }`. It is read by a function that calls itself, and a
///   megabyte of bytes can be a million levels deep: the stack overflows, and that ends the process.
/// - One that contains a collection of what takes no bytes, such as `Vec<()>`, or of structs all of whose fields are skipped. A few
///   bytes say how many there are, up to 2^64, and each is made.
///
/// Where peers are not trusted, send what is deep as a flat table, whose rows name others by their number:
///
/// ```
/// use gimmal::{Object, Queue, Segment};
/// use serde::{Deserialize, Serialize};
///
/// /// Row 0 is the root.
/// #[derive(Serialize, Deserialize)]
/// struct Tree(Vec<Node>);
///
/// #[derive(Serialize, Deserialize)]
/// struct Node {
///     label: String,
///     /// Rows behind this one.
///     children: Vec<u32>,
/// }
///
/// impl Tree {
///     /// The children of a row that can be: whoever goes on from them comes to an end.
///     fn children(&self, row: usize) -> impl Iterator<Item = usize> {
///         let children = self.0[row].children.iter().map(|&child| child as usize);
///         children.filter(move |&child| child > row && child < self.0.len())
///     }
/// }
///
/// let segment = Segment::anonymous()?;
/// let trees = Queue::<Object<Tree>>::create(&segment, "trees", 64 << 10)?;
/// let node = |label: &str, children: &[u32]| Node { label: label.into(), children: children.into() };
/// trees.sender()?.send(&Tree(vec![node("root", &[1, 2]), node("left", &[]), node("right", &[])]))?;
/// let tree = trees.receiver()?.recv()?;
/// let labels: Vec<&str> = tree.children(0).map(|row| &*tree.0[row].label).collect();
/// assert_eq!(labels, ["left", "right"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// There is no value of this type.
pub struct Object<T> {
    never: core::convert::Infallible,
    marker: PhantomData<fn(T) -> T>,
}

impl<T> fmt::Debug for Object<T> {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}

impl<T: 'static> Carried for Object<T> {
    type Slot = u64;
    type Cell = u8;
    const BYTES: bool = true;
}

impl<T: 'static> Bytes for Object<T> {}

/// Why an object was not sent. `E` is the error of a send of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendObjectError<E = SendError<()>> {
    /// It could not be serialized; nothing was sent.
    Encode(CodecError),
    /// It could not be sent.
    Send(E),
}

/// Why no object was received. `E` is the error of a receive of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecvObjectError<E = RecvError> {
    /// A message was received, and is no `T`. The next receive goes on with the next one.
    Decode {
        /// The message.
        bytes: Vec<u8>,
        /// What is wrong with it.
        error: CodecError,
    },
    /// There was none.
    Recv(E),
}

/// What the serializer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError(postcard::Error);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for CodecError {}

impl<E> From<E> for SendObjectError<E> {
    fn from(e: E) -> Self {
        Self::Send(e)
    }
}

impl<E> From<E> for RecvObjectError<E> {
    fn from(e: E) -> Self {
        Self::Recv(e)
    }
}

impl<E: fmt::Display> fmt::Display for SendObjectError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode(e) => {
                write!(
                    f,
                    "not sent: the object cannot be serialized: {e}: see what its Serialize does that postcard cannot"
                )
            }
            Self::Send(e) => e.fmt(f),
        }
    }
}

impl<E: fmt::Display> fmt::Display for RecvObjectError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode { bytes, error } => write!(
                f,
                "received {} bytes that are not such an object: {error}: build both sides from the same definition of the type",
                bytes.len()
            ),
            Self::Recv(e) => e.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for SendObjectError<E> {}

impl<E: fmt::Debug + fmt::Display> std::error::Error for RecvObjectError<E> {}

/// Bytes that a value takes.
fn size<T: Serialize, E>(value: &T) -> Result<usize, SendObjectError<E>> {
    postcard::serialize_with_flavor(value, Size::default()).map_err(|e| SendObjectError::Encode(CodecError(e)))
}

/// Writes a value into `room`, and says how many bytes it took.
fn encode<T: Serialize, E>(value: &T, room: &mut [u8]) -> Result<usize, SendObjectError<E>> {
    let written = postcard::to_slice(value, room).map_err(|e| SendObjectError::Encode(CodecError(e)))?;
    Ok(written.len())
}

/// A send without a deadline cannot time out.
fn without_deadline(e: SendObjectError<SendTimeoutError<()>>) -> SendObjectError {
    match e {
        SendObjectError::Encode(e) => SendObjectError::Encode(e),
        SendObjectError::Send(e) => match no_deadline::<core::convert::Infallible, ()>(Err(e)) {
            Ok(never) => match never {},
            Err(e) => SendObjectError::Send(e),
        },
    }
}

/// Reads a value from a message, which is received either way.
macro_rules! decode {
    ($frame:expr) => {{
        let frame = $frame?;
        decode(&frame).map_err(|(bytes, error)| RecvObjectError::Decode { bytes, error })
    }};
}

/// Up to so many bytes of a message are copied to the stack.
const SHORT: usize = 1024;

/// Reads a value from a copy that nobody else can change meanwhile: a `String` must be what was checked to be one. An error comes with
/// the copy.
fn decode<T: DeserializeOwned>(message: &[u8]) -> Result<T, (Vec<u8>, CodecError)> {
    let (mut short, long);
    let bytes: &[u8] = if message.len() <= SHORT {
        short = ArrayVec::<u8, SHORT>::new();
        short.try_extend_from_slice(message).expect("it is that short");
        &short
    } else {
        long = message.to_vec();
        &long
    };
    // The compiler, too, must not look at the message again.
    fence(Ordering::Acquire);
    postcard::from_bytes(bytes).map_err(|e| (bytes.to_vec(), CodecError(e)))
}

impl<T: Serialize + 'static> Sender<Object<T>> {
    /// Sends an object if there is room now. Lock-free, no system call unless a receiver sleeps.
    ///
    /// # Errors
    /// [`SendObjectError::Encode`], and those of a queue of bytes: nothing was sent.
    pub fn try_send(&self, object: &T) -> Result<(), SendObjectError<TrySendError<()>>> {
        if self.has_sent_like_the_last(object) {
            return Ok(());
        }
        let mut grant = self.try_grant(size(object)?)?;
        self.fill(object, &mut grant).map(|len| grant.commit(len))
    }

    /// Sends an object if there is room now for one as large as the last, and it is no larger. So most are serialized once, and not
    /// twice, the first time for nothing but the size.
    #[inline]
    fn has_sent_like_the_last(&self, object: &T) -> bool {
        let Some(mut grant) = self.try_guess() else { return false };
        let sent = self.fill::<()>(object, &mut grant);
        sent.map(|len| grant.commit(len)).is_ok()
    }

    fn fill<E>(&self, object: &T, room: &mut [u8]) -> Result<usize, SendObjectError<E>> {
        let len = encode(object, room)?;
        self.guess(len);
        Ok(len)
    }

    fn send_object(
        &self,
        object: &T,
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<(), SendObjectError<SendTimeoutError<()>>> {
        if self.has_sent_like_the_last(object) {
            return Ok(());
        }
        let mut grant = self.grant(size(object)?, deadline)?;
        self.fill(object, &mut grant).map(|len| grant.commit(len))
    }

    /// Sends an object, waiting for room as long as it takes. For an example see [`Object`].
    ///
    /// # Errors
    /// As for `try_send`, without `Full`.
    pub fn send(&self, object: &T) -> Result<(), SendObjectError> {
        self.send_object(object, || None).map_err(without_deadline)
    }

    /// Sends an object, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// As for `send`, and [`SendTimeoutError::Timeout`].
    pub fn send_timeout(&self, object: &T, timeout: Duration) -> Result<(), SendObjectError<SendTimeoutError<()>>> {
        self.send_object(object, || Deadline::after(timeout))
    }

    /// Sends an object, waiting for room until `deadline`.
    ///
    /// # Errors
    /// As for `send_timeout`.
    pub fn send_deadline(&self, object: &T, deadline: Instant) -> Result<(), SendObjectError<SendTimeoutError<()>>> {
        self.send_object(object, || Deadline::at(deadline))
    }
}

impl<T: DeserializeOwned + 'static> Receiver<Object<T>> {
    /// Receives the object that is there now.
    ///
    /// # Errors
    /// [`RecvObjectError::Decode`] with the bytes of a message that is no `T`, which is received all the same; and those of a
    /// queue of bytes.
    pub fn try_recv(&self) -> Result<T, RecvObjectError<TryRecvError>> {
        decode!(self.try_frame())
    }

    /// Receives an object, waiting for one as long as it takes.
    ///
    /// # Errors
    /// As for `try_recv`, without `Empty`.
    pub fn recv(&self) -> Result<T, RecvObjectError> {
        decode!(no_deadline_recv(self.frame(|| None)))
    }

    /// Receives an object, waiting for one for at most `timeout`.
    ///
    /// # Errors
    /// As for `recv`, and [`RecvTimeoutError::Timeout`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvObjectError<RecvTimeoutError>> {
        decode!(self.frame(|| Deadline::after(timeout)))
    }

    /// Receives an object, waiting for one until `deadline`.
    ///
    /// # Errors
    /// As for `recv_timeout`.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvObjectError<RecvTimeoutError>> {
        decode!(self.frame(|| Deadline::at(deadline)))
    }

    /// Objects until the queue is closed (or disconnected) and drained; waits for each. A message that is no `T` is an `Err`, and the
    /// next one follows.
    pub fn iter(&self) -> impl Iterator<Item = Result<T, RecvObjectError>> + '_ {
        core::iter::from_fn(|| match self.recv() {
            Err(RecvObjectError::Recv(_)) => None,
            received => Some(received),
        })
    }
}

impl<T: Serialize + 'static> spsc::Sender<Object<T>> {
    /// Sends an object if there is room now. Wait-free, no system call unless the receiver sleeps.
    ///
    /// # Errors
    /// [`SendObjectError::Encode`], and those of a ring of bytes: nothing was sent.
    pub fn try_send(&mut self, object: &T) -> Result<(), SendObjectError<TrySendError<()>>> {
        if self.has_sent_into_known_room(object) {
            return Ok(());
        }
        let mut grant = self.try_grant(size(object)?)?;
        let len = encode(object, &mut grant)?;
        grant.commit(len);
        Ok(())
    }

    /// Sends an object if it fits into the room that is known of. So most are serialized once, and not twice, the first time for
    /// nothing but the size.
    #[inline]
    fn has_sent_into_known_room(&mut self, object: &T) -> bool {
        let Some(mut grant) = self.known_room() else { return false };
        let sent = encode::<T, ()>(object, &mut grant);
        sent.map(|len| grant.commit(len)).is_ok()
    }

    fn send_object(
        &mut self,
        object: &T,
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<(), SendObjectError<SendTimeoutError<()>>> {
        if self.has_sent_into_known_room(object) {
            return Ok(());
        }
        let len = size(object)?;
        if len > self.max_len() {
            let bytes = postcard::to_stdvec(object).map_err(|e| SendObjectError::Encode(CodecError(e)))?;
            return Ok(self.send_in_parts(&[IoSlice::new(&bytes)], deadline())?);
        }
        let mut grant = self.grant(len, deadline)?;
        let len = encode(object, &mut grant)?;
        grant.commit(len);
        Ok(())
    }

    /// Sends an object, waiting for room as long as it takes. One that is longer than the ring is serialized beside it, and
    /// passed in parts.
    ///
    /// # Errors
    /// As for `try_send`, without `Full`.
    pub fn send(&mut self, object: &T) -> Result<(), SendObjectError> {
        self.send_object(object, || None).map_err(without_deadline)
    }

    /// Sends an object, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// As for `send`, and [`SendTimeoutError::Timeout`].
    pub fn send_timeout(&mut self, object: &T, timeout: Duration) -> Result<(), SendObjectError<SendTimeoutError<()>>> {
        self.send_object(object, || Deadline::after(timeout))
    }

    /// Sends an object, waiting for room until `deadline`.
    ///
    /// # Errors
    /// As for `send_timeout`.
    pub fn send_deadline(
        &mut self,
        object: &T,
        deadline: Instant,
    ) -> Result<(), SendObjectError<SendTimeoutError<()>>> {
        self.send_object(object, || Deadline::at(deadline))
    }
}

impl<T: DeserializeOwned + 'static> spsc::Receiver<Object<T>> {
    /// Receives the object that is there now.
    ///
    /// # Errors
    /// [`RecvObjectError::Decode`] with the bytes of a message that is no `T`, which is received all the same; and those of a
    /// ring of bytes.
    pub fn try_recv(&mut self) -> Result<T, RecvObjectError<TryRecvError>> {
        decode!(self.try_frame())
    }

    /// Receives an object, waiting for one as long as it takes.
    ///
    /// # Errors
    /// As for `try_recv`, without `Empty`.
    pub fn recv(&mut self) -> Result<T, RecvObjectError> {
        decode!(no_deadline_recv(self.frame(|| None)))
    }

    /// Receives an object, waiting for one for at most `timeout`.
    ///
    /// # Errors
    /// As for `recv`, and [`RecvTimeoutError::Timeout`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvObjectError<RecvTimeoutError>> {
        decode!(self.frame(|| Deadline::after(timeout)))
    }

    /// Receives an object, waiting for one until `deadline`.
    ///
    /// # Errors
    /// As for `recv_timeout`.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<T, RecvObjectError<RecvTimeoutError>> {
        decode!(self.frame(|| Deadline::at(deadline)))
    }

    /// Objects until the other end is gone (or has closed) and all are drained; waits for each. A message that is no `T` is an `Err`,
    /// and the next one follows.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<T, RecvObjectError>> + '_ {
        core::iter::from_fn(|| match self.recv() {
            Err(RecvObjectError::Recv(_)) => None,
            received => Some(received),
        })
    }
}

impl<T: Serialize + 'static, Rx: Message + ?Sized> End<Object<T>, Rx> {
    /// See [`spsc::Sender::try_send`](spsc::Sender#method.try_send-2).
    ///
    /// # Errors
    /// As there.
    pub fn try_send(&mut self, object: &T) -> Result<(), SendObjectError<TrySendError<()>>> {
        self.sender().try_send(object)
    }

    /// See [`spsc::Sender::send`](spsc::Sender#method.send-2).
    ///
    /// # Errors
    /// As there.
    pub fn send(&mut self, object: &T) -> Result<(), SendObjectError> {
        self.sender().send(object)
    }

    /// As `send`, waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for `send`, and [`SendTimeoutError::Timeout`].
    pub fn send_timeout(&mut self, object: &T, timeout: Duration) -> Result<(), SendObjectError<SendTimeoutError<()>>> {
        self.sender().send_timeout(object, timeout)
    }
}

impl<T: DeserializeOwned + 'static, Tx: Message + ?Sized> End<Tx, Object<T>> {
    /// See [`spsc::Receiver::try_recv`](spsc::Receiver#method.try_recv-2).
    ///
    /// # Errors
    /// As there.
    pub fn try_recv(&mut self) -> Result<T, RecvObjectError<TryRecvError>> {
        self.receiver().try_recv()
    }

    /// See [`spsc::Receiver::recv`](spsc::Receiver#method.recv-2).
    ///
    /// # Errors
    /// As there.
    pub fn recv(&mut self) -> Result<T, RecvObjectError> {
        self.receiver().recv()
    }

    /// As `recv`, waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for `recv`, and [`RecvTimeoutError::Timeout`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvObjectError<RecvTimeoutError>> {
        self.receiver().recv_timeout(timeout)
    }
}

impl<T: Serialize + 'static, Rx: Message + ?Sized> SharedEnd<Object<T>, Rx> {
    /// See [`Sender::send`](Sender#method.send-2).
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, object: &T) -> Result<(), SendObjectError> {
        self.sender.send(object)
    }
}

impl<T: DeserializeOwned + 'static, Tx: Message + ?Sized> SharedEnd<Tx, Object<T>> {
    /// See [`Receiver::recv`](Receiver#method.recv-2).
    ///
    /// # Errors
    /// As there.
    pub fn recv(&self) -> Result<T, RecvObjectError> {
        self.receiver.recv()
    }
}
