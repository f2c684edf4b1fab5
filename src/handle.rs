//! [`Handle`]: where a segment, an object or an end is, as something that can be sent to another process.

use core::fmt;
use core::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bytemuck::Pod;

use crate::atomic::Scalar;
use crate::error::Error;
use crate::message::Message;
use crate::segment::{Attached, Segment, already_open};
use crate::sys::{Errno, file};
use crate::{Array, Latest, Lock, LossyQueue, Queue, Receiver, Sender, SpscQueue, Value, spsc};

/// Where a shared thing is: a [`Segment`], an object in it, or an end of a queue. It is plain text, can be sent in a message, passed as
/// an argument or written to a file, and opened by whoever gets it. See [`Share::handle`].
///
/// Opening joins the segment, unless this process has it open already, and then uses that. A handle holds nothing: the thing may be
/// gone when it is opened. One of a named segment is good for as long as that is there, under this name; one of an unnamed segment for
/// as long as the process that made the handle has it open, and for whoever may open that process's descriptors: in practice, for
/// the same user in the same PID namespace.
///
/// With the feature `serde`, it is serialized as its text.
///
/// ```
/// use gimmal::{Handle, Queue, Segment, Sender, Share, Str};
///
/// let segment = Segment::anonymous()?;
/// let replies = Queue::<u64>::create(&segment, "replies", 16)?;
///
/// // A request says where the answer should go.
/// let requests = Queue::<Str<120>>::create(&segment, "requests", 16)?;
/// let (sender, receiver) = (replies.sender()?, requests.receiver()?);
/// requests.sender()?.send(Str::try_from(&*sender.handle().to_string())?)?;
///
/// // Whoever serves it opens the end that was sent.
/// let reply_to: Handle<Sender<u64>> = receiver.recv()?.as_str().parse()?;
/// reply_to.open()?.send(42)?;
/// assert_eq!(replies.receiver()?.recv(), Ok(42));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Handle<T> {
    segment: Place,
    /// Empty for the segment itself.
    object: String,
    marker: PhantomData<fn() -> T>,
}

/// Where a segment is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Named {
        directory: PathBuf,
        name: String,
    },
    /// A descriptor of a process, and the inode that it is.
    Unnamed {
        pid: u32,
        descriptor: i32,
        inode: u64,
    },
}

mod sealed {
    use super::{Error, Segment};

    /// What has a place.
    pub trait Placed: Sized {
        /// Its segment, and its name in there; none for the segment itself.
        #[doc(hidden)]
        fn placed(&self) -> (Segment, String);
        #[doc(hidden)]
        fn open_in(segment: &Segment, name: &str) -> Result<Self, Error>;
    }
}

/// What can be handed to another process by its [`Handle`]: segments, every kind of object, and the ends of queues. (An exclusive end
/// must be let go here, by its `release`, before it can be opened elsewhere.)
pub trait Share: sealed::Placed {
    /// Where it is.
    fn handle(&self) -> Handle<Self> {
        let (segment, object) = self.placed();
        Handle { segment: Place::of(segment.attached()), object, marker: PhantomData }
    }
}

impl<T: sealed::Placed> Share for T {}

impl Place {
    fn of(attached: &Arc<Attached>) -> Self {
        match attached.name() {
            Some(name) => Self::Named { directory: name.directory().to_owned(), name: name.as_str().to_owned() },
            None => Self::Unnamed {
                pid: std::process::id(),
                descriptor: attached.file().as_raw_fd(),
                inode: file::status(attached.file()).map_or(0, |status| status.identity.inode()),
            },
        }
    }

    fn open(&self) -> Result<Segment, Error> {
        match self {
            Self::Named { directory, name } => {
                let options = Segment::options().directory(directory);
                match file::identity_at(&options.path_of(name)?).ok().and_then(already_open) {
                    Some(attached) => Ok(Segment::of(attached)),
                    None => options.open(name),
                }
            }
            Self::Unnamed { pid, descriptor, inode } => {
                let gone = || Error::NotFound { name: self.to_string() };
                let path = format!("/proc/{pid}/fd/{descriptor}");
                let refused = |e: Errno| match e {
                    Errno::EACCES | Errno::EPERM => Error::Permission { path: path.clone().into() },
                    _ => gone(),
                };
                // The text may come from anybody. To open a terminal, a device or a FIFO would do something; to name it does not.
                let named = file::named(Path::new(&path)).map_err(refused)?;
                let status = file::status(named.as_fd()).map_err(refused)?;
                if !status.regular || status.identity.inode() != *inode {
                    return Err(gone());
                }
                match already_open(status.identity) {
                    Some(attached) => Ok(Segment::of(attached)),
                    None => Segment::from_fd(file::reopen(named.as_fd()).map_err(refused)?),
                }
            }
        }
    }
}

impl<T: Share> Handle<T> {
    /// Opens what it is a handle of.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the segment or the object is not there (any more), or what opening it finds.
    pub fn open(&self) -> Result<T, Error> {
        T::open_in(&self.segment.open()?, &self.object)
    }

    /// Opens the object of this name in `segment`, wherever the handle was made.
    ///
    /// # Errors
    /// As for [`Handle::open`].
    pub fn open_in(&self, segment: &Segment) -> Result<T, Error> {
        T::open_in(segment, &self.object)
    }
}

impl<T> Handle<T> {
    /// The name of the object; empty for a segment.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self { segment: self.segment.clone(), object: self.object.clone(), marker: PhantomData }
    }
}

impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        (&self.segment, &self.object) == (&other.segment, &other.object)
    }
}

impl<T> Eq for Handle<T> {}

impl<T> core::hash::Hash for Handle<T> {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        (&self.segment, &self.object).hash(state);
    }
}

const SCHEME: &str = "gimmal:";

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { directory, name } => write!(f, "{SCHEME}{}#{name}", directory.display()),
            Self::Unnamed { pid, descriptor, inode } => write!(f, "{SCHEME}{pid}/{descriptor}/{inode}#"),
        }
    }
}

/// `gimmal:DIRECTORY#SEGMENT#OBJECT`, or `gimmal:PID/DESCRIPTOR/INODE##OBJECT`.
impl<T> fmt::Display for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.segment, self.object)
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({self})")
    }
}

impl<T> FromStr for Handle<T> {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            // Neither name has a "#", whatever the directory has.
            let (rest, object) = text.strip_prefix(SCHEME)?.rsplit_once('#')?;
            let segment = match rest.rsplit_once('#')? {
                (numbers, "") => {
                    let mut numbers = numbers.split('/');
                    let mut next = || numbers.next();
                    let (pid, descriptor, inode) =
                        (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
                    next().is_none().then_some(Place::Unnamed { pid, descriptor, inode })?
                }
                (directory, name) => Place::Named { directory: Path::new(directory).to_owned(), name: name.to_owned() },
            };
            Some(Self { segment, object: object.to_owned(), marker: PhantomData })
        };
        let reason = "it is no handle: gimmal:DIRECTORY#SEGMENT#OBJECT, as Share::handle makes it";
        parse().ok_or_else(|| Error::BadName { name: text.chars().take(80).collect(), reason })
    }
}

#[cfg(feature = "serde")]
impl<T> serde::Serialize for Handle<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de, T> serde::Deserialize<'de> for Handle<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl sealed::Placed for Segment {
    fn placed(&self) -> (Segment, String) {
        (self.clone(), String::new())
    }
    fn open_in(segment: &Segment, name: &str) -> Result<Self, Error> {
        match name {
            "" => Ok(segment.clone()),
            _ => Err(Error::BadName {
                name: name.to_owned(),
                reason: "it is an object, and the handle is one of a segment",
            }),
        }
    }
}

/// The types whose `place` says where they are, and how they are opened.
macro_rules! placed {
    ($(impl[$($generics:tt)*] $type:ty: $segment:ident, $name:ident => $open:expr;)+) => {$(
        impl<$($generics)*> sealed::Placed for $type {
            fn placed(&self) -> (Segment, String) {
                let (attached, byte) = self.place();
                let name = attached.object_at(byte).unwrap_or_default();
                (Segment::of(Arc::clone(attached)), name)
            }
            fn open_in($segment: &Segment, $name: &str) -> Result<Self, Error> {
                $open
            }
        }
    )+};
}

placed! {
    impl[M: Message + ?Sized] Queue<M>: segment, name => Self::open(segment, name);
    impl[M: Message + ?Sized] Sender<M>: segment, name => Queue::open(segment, name)?.sender();
    impl[M: Message + ?Sized] Receiver<M>: segment, name => Queue::open(segment, name)?.receiver();
    impl[M: Message + ?Sized] SpscQueue<M>: segment, name => Self::open(segment, name);
    impl[M: Message + ?Sized] spsc::Sender<M>: segment, name => SpscQueue::open(segment, name)?.sender();
    impl[M: Message + ?Sized] spsc::Receiver<M>: segment, name => SpscQueue::open(segment, name)?.receiver();
    impl[T: Pod] LossyQueue<T>: segment, name => Self::open(segment, name);
    impl[T: Scalar] Value<T>: segment, name => Self::open(segment, name);
    impl[T: Scalar] Array<T>: segment, name => Self::open(segment, name);
    impl[T: Pod] Lock<T>: segment, name => Self::open(segment, name);
    impl[T: Pod] Latest<T>: segment, name => Self::open(segment, name);
}
