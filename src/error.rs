//! Every public error. Each message says what was expected, what was found and what to do.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::Kind;
use crate::shortage::{Shortage, advice};

/// What can go wrong with segments, objects and processes. Sending and receiving have errors of their own:
/// [`TrySendError`], [`TryRecvError`] and their kin.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A segment or object name that is not allowed.
    BadName {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `create` found a segment or object of that name.
    Exists {
        /// The name.
        name: String,
    },
    /// `open` found no segment or object of that name, or only a segment whose participants are all gone.
    NotFound {
        /// The name.
        name: String,
    },
    /// The segment asked for is too small to hold its own tables.
    TooSmall {
        /// Bytes asked for.
        size: usize,
        /// Bytes needed at least.
        minimum: usize,
    },
    /// A size or count that no segment can have.
    BadSize {
        /// What was asked for, in words.
        what: &'static str,
        /// The number given.
        given: u64,
        /// The largest number that is possible.
        maximum: u64,
    },
    /// There is no room for the segment, or for what an unbounded queue may need.
    NoSpace {
        /// Bytes asked for.
        size: usize,
        /// Where; `memory` if that is not a directory.
        directory: PathBuf,
        /// What there is too little of.
        shortage: Shortage,
    },
    /// The directory for segments does not exist.
    NoDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// The system denied access.
    Permission {
        /// The file or directory.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    ReadOnly {
        /// The file or directory.
        path: PathBuf,
    },
    /// The name of a segment cannot be removed: the directory leaves that to the owner of the file (it is sticky, as
    /// `/dev/shm` is).
    NotRemovable {
        /// The file.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// What else there is to know.
        reason: String,
    },
    /// This process was forked from participants of a segment that has ended since: the last of them left, or all
    /// were dead, before this process had used it. Its name is free, or leads to another segment by now.
    Ended,
    /// The file is not a gimmal segment.
    NotGimmal {
        /// What it is instead.
        reason: &'static str,
    },
    /// The file is not as long as its header says.
    Truncated {
        /// Bytes according to the header.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// The segment was made by another version of the layout.
    Version {
        /// The version this build speaks.
        expected: u32,
        /// The segment's.
        found: u32,
    },
    /// The segment was made on another kind of machine (pointer width, byte order).
    Target {
        /// This build's tag.
        expected: u32,
        /// The segment's.
        found: u32,
    },
    /// The segment's own tables contradict each other.
    Corrupt {
        /// Which part.
        what: &'static str,
    },
    /// A descriptor that was handed over is not sealed against changes of its size.
    NotSealed,
    /// The segment needs a system call that this process may not make.
    Fence,
    /// The object holds another element type.
    TypeMismatch {
        /// The object.
        name: String,
        /// The type asked for.
        expected: String,
        /// The type it has.
        found: String,
    },
    /// The object is of another kind.
    KindMismatch {
        /// The object.
        name: String,
        /// The kind asked for.
        expected: Kind,
        /// The kind it has.
        found: Kind,
    },
    /// The object exists with another capacity or length.
    CapacityMismatch {
        /// The object.
        name: String,
        /// Asked for (after rounding up).
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// The object exists with other options.
    OptionMismatch {
        /// The object.
        name: String,
        /// The option that differs.
        option: &'static str,
    },
    /// The segment has no room for the object.
    NoRoom {
        /// Bytes the object needs.
        needed: usize,
        /// Bytes that are left.
        available: usize,
    },
    /// The segment's directory is full.
    NoObjectSlot {
        /// How many objects it holds.
        maximum: u32,
    },
    /// The segment's participant table is full of living participants.
    NoParticipantSlot {
        /// How many it holds.
        maximum: u16,
    },
    /// The exclusive end of an SPSC ring is taken.
    SeatTaken {
        /// The process that sits there.
        pid: u32,
    },
    /// A range of elements that the array does not have.
    OutOfRange {
        /// The first element.
        start: usize,
        /// How many.
        length: usize,
        /// How many the array has.
        found: usize,
    },
    /// Somebody has held the segment's admission lock for too long (is it stopped?).
    Busy {
        /// How long we waited.
        waited: Duration,
    },
    /// Every buffer of a [`Latest`](crate::Latest) has been kept by other writers for too long (are they stopped?).
    NoBuffer {
        /// How long we waited.
        waited: Duration,
    },
    /// [`crate::process`] was asked to run a function that is not registered.
    NotRegistered {
        /// The function asked for.
        entry: String,
        /// Those that are registered.
        registered: Vec<String>,
    },
    /// No segment was handed over to this process under that key.
    NotInherited {
        /// The key.
        key: String,
        /// What was found instead.
        reason: String,
    },
    /// An argument of [`crate::process::Context`] is missing or cannot be parsed.
    BadArgument {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The system failed in another way.
    Io {
        /// What was being done.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName { name, reason } => write!(f, "bad name {name:?}: {reason}"),
            Self::Exists { name } => {
                write!(f, "{name:?} exists already; open it, use open_or_create, or remove it first")
            }
            Self::NotFound { name } => {
                write!(f, "{name:?} does not exist (any more); create it first or use open_or_create")
            }
            Self::TooSmall { size, minimum } => write!(
                f,
                "a segment of {size} bytes cannot hold its own tables: give it at least {minimum} bytes, or fewer participants and objects"
            ),
            Self::BadSize { what, given, maximum } => {
                write!(f, "{what} of {given} is out of range: it must be between 1 and {maximum}")
            }
            Self::NoSpace { size, directory, shortage } => {
                write!(f, "no room for {size} bytes in {}: {shortage}", directory.display())
            }
            Self::NoDirectory { directory } => write!(
                f,
                "{} is not a directory: mount a tmpfs there, or name another one (GIMMAL_DIR, SegmentOptions::directory)",
                directory.display()
            ),
            Self::Permission { path } => write!(
                f,
                "permission denied on {}: the creator decides with `mode` who may join; check the owner and mode of the file",
                path.display()
            ),
            Self::ReadOnly { path } => write!(
                f,
                "{} is on a file system that is mounted read-only: mount it read-write, or name another directory (GIMMAL_DIR, SegmentOptions::directory)",
                path.display()
            ),
            Self::NotRemovable { path, owner, reason } => {
                write!(f, "only user {owner}, who owns {}, or root may remove it: {reason}", path.display())
            }
            Self::Ended => f.write_str(
                "the segment has ended: its last participant was gone before this forked process used it; open it anew, by its name, after the fork",
            ),
            Self::NotGimmal { reason } => write!(f, "not a gimmal segment: {reason}"),
            Self::Truncated { expected, found } => write!(
                f,
                "the segment should have {expected} bytes and its file has {found}: somebody cut it; remove it and create it anew"
            ),
            Self::Version { expected, found } => write!(
                f,
                "the segment has layout version {found} and this program speaks {expected}: build both sides from compatible releases of gimmal, or end those who use it (if it is to stay, gimmal rm removes it), and it is made anew"
            ),
            Self::Target { expected, found } => write!(
                f,
                "the segment was made for target {found:#x} and this program is {expected:#x} (pointer width, byte order): share it only between like builds"
            ),
            Self::Corrupt { what } => write!(f, "the segment is corrupt: {what}; remove it and create it anew"),
            Self::NotSealed => write!(
                f,
                "the descriptor is not a memfd sealed with F_SEAL_SHRINK: pass one that Segment::anonymous made, or open named segments by name"
            ),
            Self::Fence => write!(
                f,
                "the segment relies on membarrier(2) and this process may not call it (old kernel or seccomp): allow membarrier, or create the segment with full fences (SegmentOptions::full_fences)"
            ),
            Self::TypeMismatch { name, expected, found } => {
                write!(f, "{name:?} holds {found}, not {expected}: open it with the type it was created with")
            }
            Self::KindMismatch { name, expected, found } => {
                write!(
                    f,
                    "{name:?} is a {found}, not a {expected}: open it as what it was created as, or use another name"
                )
            }
            Self::CapacityMismatch { name, expected, found } => {
                write!(f, "{name:?} has a capacity of {found}, not {expected}: ask for the same, or use open")
            }
            Self::OptionMismatch { name, option } => {
                write!(f, "{name:?} exists with another setting of `{option}`: ask for the same, or use open")
            }
            Self::NoRoom { needed, available } => write!(
                f,
                "the object needs {needed} bytes and the segment has {available} left: create the segment with a larger size"
            ),
            Self::NoObjectSlot { maximum } => {
                write!(
                    f,
                    "the segment's directory holds {maximum} objects and is full: create it with a larger max_objects"
                )
            }
            Self::NoParticipantSlot { maximum } => write!(
                f,
                "{maximum} living participants are attached and there is room for no more: create the segment with a larger max_participants"
            ),
            Self::SeatTaken { pid } => write!(
                f,
                "process {pid} holds this exclusive end: let it go there first, or use a Queue, whose ends can be shared"
            ),
            Self::OutOfRange { start, length, found } => write!(
                f,
                "{length} elements from {start} on are asked for and the array has {found}: ask for a range inside it"
            ),
            Self::Busy { waited } => write!(
                f,
                "somebody has held the segment's admission lock for {waited:?}: look for a stopped process (gimmal stat), then try again"
            ),
            Self::NoBuffer { waited } => write!(
                f,
                "other writers have kept every buffer of the value for {waited:?}: look for stopped processes (gimmal stat), then try again"
            ),
            Self::NotRegistered { entry, registered } => write!(
                f,
                "no function {entry:?} is registered (registered: {}): add it to the list given to gimmal::process::init at the start of main",
                registered.join(", ")
            ),
            Self::NotInherited { key, reason } => {
                write!(f, "no segment was handed over under {key:?}: {reason}")
            }
            Self::BadArgument { index, reason } => write!(f, "argument {index} {reason}"),
            Self::Io { action, source } => write!(f, "could not {action}: {source}{}", advice(source)),
        }
    }
}

/// The message of [`Error::Io`] includes its source, so `source()` does not name it again.
impl std::error::Error for Error {}

/// How the last holder of the other side went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It let its end go.
    Closed,
    /// Its process ended without doing so: killed, crashed, or exited.
    Died {
        /// The process id, as it saw itself.
        pid: u32,
    },
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the other side is gone"),
            Self::Died { pid } => write!(f, "the other side is gone: process {pid} died"),
        }
    }
}

/// The reasons for which a call can end without having done anything, shared by the families below.
macro_rules! reasons {
    (Full) => { "the queue is full: receive from it, or use a blocking send" };
    (Empty) => { "the queue is empty" };
    (Timeout) => { "the time is up" };
    (Closed) => { "the queue is closed" };
    (NoSpace) => { "the system has no memory left for the queue, or its file system or this process's memory cgroup has not (gimmal doctor): raise what is used up, free some of it (gimmal clean), or receive first" };
    (Detached) => { "this process is not attached: it was forked and could not join the segment, or the exclusive end belongs to another process" };
}

/// Errors of sends: each carries the message back.
macro_rules! send_errors {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident),+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name<T> {
            $(
                #[doc = concat!(reasons!($variant), ".")]
                $variant(T),
            )+
            /// Nobody is left to receive.
            Disconnected {
                /// The message.
                message: T,
                /// How the last receiver went.
                peer: Departure,
            },
            /// The message is longer than any that fits, however empty the queue is. Only where messages are bytes.
            TooLarge {
                /// The message.
                message: T,
                /// Its bytes.
                len: usize,
                /// The most that fit.
                max: usize,
            },
        }

        impl<T> $name<T> {
            /// The message that was not sent.
            pub fn into_inner(self) -> T {
                match self {
                    $(Self::$variant(value) => value,)+
                    Self::Disconnected { message, .. } | Self::TooLarge { message, .. } => message,
                }
            }

            /// The same reason, about `message`.
            #[allow(dead_code)]
            pub(crate) fn with<U>(&self, message: U) -> $name<U> {
                match *self {
                    $(Self::$variant(_) => $name::$variant(message),)+
                    Self::Disconnected { peer, .. } => $name::Disconnected { message, peer },
                    Self::TooLarge { len, max, .. } => $name::TooLarge { message, len, max },
                }
            }

            /// Whether nobody is left to receive.
            pub fn is_disconnected(&self) -> bool {
                matches!(self, Self::Disconnected { .. })
            }

            send_errors!(@tests $($variant)+);
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(_) => f.write_str(concat!(stringify!($variant), "(..)")),)+
                    Self::Disconnected { peer, .. } => {
                        f.debug_struct("Disconnected").field("peer", peer).finish_non_exhaustive()
                    }
                    Self::TooLarge { len, max, .. } => {
                        f.debug_struct("TooLarge").field("len", len).field("max", max).finish_non_exhaustive()
                    }
                }
            }
        }

        impl<T> fmt::Display for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(_) => f.write_str(concat!("not sent: ", reasons!($variant))),)+
                    Self::Disconnected { peer, .. } => write!(f, "not sent: {peer}"),
                    Self::TooLarge { len, max, .. } => write!(
                        f,
                        "not sent: the message has {len} bytes and at most {max} fit: make the queue larger, cut the message up, or use a blocking send of a pipe, which passes messages of any size"
                    ),
                }
            }
        }

        impl<T> std::error::Error for $name<T> {}
    )+};
    (@tests $($variant:ident)+) => { $(send_errors!(@test $variant);)+ };
    (@test Full) => {
        /// Whether there was no room.
        pub fn is_full(&self) -> bool { matches!(self, Self::Full(_)) }
    };
    (@test Timeout) => {
        /// Whether the time was up.
        pub fn is_timeout(&self) -> bool { matches!(self, Self::Timeout(_)) }
    };
    (@test Closed) => {
        /// Whether the queue was closed.
        pub fn is_closed(&self) -> bool { matches!(self, Self::Closed(_)) }
    };
    (@test Detached) => {};
    (@test NoSpace) => {};
}

send_errors! {
    /// Why a `try_send` did not send.
    TrySendError { Full, Closed, Detached, NoSpace }
    /// Why a `send` gave up.
    SendError { Closed, Detached, NoSpace }
    /// Why a `send_timeout` or `send_deadline` gave up.
    SendTimeoutError { Timeout, Closed, Detached, NoSpace }
}

/// Errors of receives.
macro_rules! recv_errors {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident),+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $(
                #[doc = concat!(reasons!($variant), ".")]
                $variant,
            )+
            /// Nobody is left to send, and all is drained.
            Disconnected {
                /// How the last sender went.
                peer: Departure,
            },
        }

        impl $name {
            /// Whether nobody is left to send, and all is drained.
            pub fn is_disconnected(&self) -> bool {
                matches!(self, Self::Disconnected { .. })
            }

            $(recv_errors!(@test $variant);)+
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str(concat!("nothing received: ", reasons!($variant))),)+
                    Self::Disconnected { peer } => write!(f, "nothing received: {peer}"),
                }
            }
        }

        impl std::error::Error for $name {}
    )+};
    (@test Empty) => {
        /// Whether there was no message.
        pub fn is_empty(&self) -> bool { matches!(self, Self::Empty) }
    };
    (@test Timeout) => {
        /// Whether the time was up.
        pub fn is_timeout(&self) -> bool { matches!(self, Self::Timeout) }
    };
    (@test Closed) => {
        /// Whether the queue was closed, and is drained.
        pub fn is_closed(&self) -> bool { matches!(self, Self::Closed) }
    };
    (@test Detached) => {};
}

recv_errors! {
    /// Why a `try_recv` returned nothing.
    TryRecvError { Empty, Closed, Detached }
    /// Why a `recv` gave up. `Closed` and `Disconnected` come after the last message.
    RecvError { Closed, Detached }
    /// Why a `recv_timeout` or `recv_deadline` gave up.
    RecvTimeoutError { Timeout, Closed, Detached }
}

/// Why a receive into a buffer, or of messages up to some length, returned nothing. `E` is the error of the call without that
/// condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecvBytesError<E = RecvError> {
    /// The buffer is too short for the message, which is kept: it is the next one to be received.
    TooShort {
        /// Bytes of the message.
        needed: usize,
    },
    /// The message is longer than the caller wants, and is kept: it is the next one to be received.
    TooLong {
        /// Bytes of the message.
        len: usize,
        /// The most that the caller wants.
        max: usize,
    },
    /// There was no message.
    Recv(E),
}

impl<E> From<E> for RecvBytesError<E> {
    fn from(e: E) -> Self {
        Self::Recv(e)
    }
}

impl<E: fmt::Display> fmt::Display for RecvBytesError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { needed } => {
                write!(
                    f,
                    "nothing received: the message has {needed} bytes and the buffer fewer: call again with as many"
                )
            }
            Self::TooLong { len, max } => {
                write!(
                    f,
                    "nothing received: the message has {len} bytes and at most {max} are wanted: receive it with recv"
                )
            }
            Self::Recv(e) => e.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for RecvBytesError<E> {}

/// Why a `send_slice` stopped, and after how many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendSliceError {
    /// Messages that were sent before; the rest was not.
    pub sent: usize,
    /// Why the next one was not.
    pub reason: SendError<()>,
}

impl fmt::Display for SendSliceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages sent, then: {}", self.sent, self.reason)
    }
}

impl std::error::Error for SendSliceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

/// The time given to a wait was up before its condition held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout;

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time is up and the condition does not hold")
    }
}

impl std::error::Error for Timeout {}

/// A [`Str`](crate::Str) or [`Bytes`](crate::Bytes) has no room for so much; it is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Bytes that it would have had.
    pub length: usize,
    /// Bytes that it has room for.
    pub room: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { length, room } = self;
        write!(f, "{length} bytes where {room} fit: cut them (`truncated`), or take a type with more room")
    }
}

impl std::error::Error for TooLong {}

macro_rules! widen {
    ($($from:ident => $($to:ident),+;)+) => {$($(
        impl<T> From<$from<T>> for $to<T> {
            fn from(e: $from<T>) -> Self {
                match e {
                    $from::Closed(value) => Self::Closed(value),
                    $from::Disconnected { message, peer } => Self::Disconnected { message, peer },
                    $from::TooLarge { message, len, max } => Self::TooLarge { message, len, max },
                    $from::Detached(value) => Self::Detached(value),
                    $from::NoSpace(value) => Self::NoSpace(value),
                }
            }
        }
    )+)+};
    (recv: $($to:ident),+) => {$(
        impl From<RecvError> for $to {
            fn from(e: RecvError) -> Self {
                match e {
                    RecvError::Closed => Self::Closed,
                    RecvError::Disconnected { peer } => Self::Disconnected { peer },
                    RecvError::Detached => Self::Detached,
                }
            }
        }
    )+};
}

widen! { SendError => TrySendError, SendTimeoutError; }
widen! { recv: TryRecvError, RecvTimeoutError }
