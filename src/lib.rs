//! Queues, pipes, atomics and locks between the processes of one machine: lock-free rings in a named shared-memory segment,
//! with futex wakeups. A `kill -9` at any moment loses nothing that was committed and leaves nobody waiting for the dead.
//!
//! ```
//! use gimmal::{Queue, Segment};
//!
//! # let name = &format!("doc-front-{}", std::process::id());
//! // In one process:
//! let segment = Segment::open_or_create(name)?;
//! let readings = Queue::<[f64; 2]>::open_or_create(&segment, "readings", 1024)?;
//! readings.sender()?.send([21.5, 0.4])?;
//!
//! // In any other:
//! let segment = Segment::open_or_create(name)?;
//! let readings = Queue::<[f64; 2]>::open_or_create(&segment, "readings", 1024)?;
//! let [temperature, humidity] = readings.receiver()?.recv()?;
//! # assert_eq!((temperature, humidity), (21.5, 0.4));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What do you want to share?
//!
//! | | |
//! |---|---|
//! | messages, each to one of any number of receivers | [`Queue`], its [`Sender`] and [`Receiver`] |
//! | messages from one sender to one receiver, as fast as possible | [`SpscQueue`], [`spsc::Sender`], [`spsc::Receiver`] |
//! | the newest messages, from a sender that never waits | [`Sender::force_send`], [`LossyQueue`] |
//! | a queue that never makes its senders wait | [`Queue::unbounded`] |
//! | messages of any length | [`Queue<[u8]>`](Queue), [`SpscQueue<[u8]>`](SpscQueue), [`Grant`], [`Frame`] |
//! | objects: strings, vectors, enums, whatever serde knows | `Queue<Object<T>>`, with the feature `serde` |
//! | a conversation between two | [`Pipe::pair`], [`Pipe::create`], [`Pipe::connect`] |
//! | a stream of bytes, `Read` and `Write` | [`End::into_stream`] |
//! | any of these, told to another process | [`Share::handle`] |
//! | a descriptor to wait for in `poll` or `epoll` | [`Receiver::doorbell`] |
//! | a conversation between two groups | [`Pipe::shared`] |
//! | a number, a flag | [`Value`] |
//! | many numbers | [`Array`] |
//! | the last state of something larger, whatever happens to its writers | [`Latest`] |
//! | something that must not be touched by two at once | [`Lock`] |
//! | messages that are written or read in place, or must be processed at least once | [`Sender::reserve`], [`Receiver::recv_guard`] |
//! | the memory all these live in | [`Segment`], [`SegmentOptions`] |
//! | who comes, goes and dies | [`Segment::watch`] |
//! | work itself: functions in fresh processes | [`process`] |
//!
//! # Messages
//!
//! Messages are [`Pod`] types: plain data without padding and pointers, in which every bit pattern is a value, because
//! another process may have written anything. Derive it:
//!
//! ```
//! use gimmal::bytemuck::{Pod, Zeroable};
//!
//! #[repr(C)]
//! #[derive(Clone, Copy, Pod, Zeroable)]
//! # #[bytemuck(crate = "gimmal::bytemuck")]
//! struct Order {
//!     id: u64,
//!     price: f64,
//! }
//! # let order = Order { id: 1, price: 2.0 };
//! # assert_eq!(order.id as f64, order.price / 2.0);
//! ```
//!
//! (with `#[bytemuck(crate = "gimmal::bytemuck")]`, or `bytemuck` among your own dependencies). Text goes as [`Str`], bytes of
//! any length up to a limit as [`Bytes`].
//!
//! Or they are `[u8]`: bytes, of any number. Or, with the feature `serde`, `Object<T>`: whatever serde can write and read. A pipe may
//! carry one sort one way and another the other; [`Message`] stands for all of them.
//!
//! # What is promised
//!
//! | | order | progress | when a participant is killed at any instruction |
//! |---|---|---|---|
//! | [`Queue`] | each sender's messages in order | lock-free | nothing sent is lost, nothing received comes again; what was being received goes to somebody else |
//! | [`SpscQueue`], [`Pipe`] | first in, first out | wait-free | the same; the other end learns it after the drain, and a successor can take the free seat |
//! | [`LossyQueue`] | first in, first out, with gaps that are counted | sender wait-free | the same; one more message may be lost |
//! | [`Value`], [`Array`] | as the ordering says | wait-free, floats lock-free | each element is old or new |
//! | [`Latest`] | versions grow | readers wait-free, writers lock-free | the value is the old or the new one, whole |
//! | [`Lock`] | none | blocking | the next holder gets it with the news |
//!
//! Death is proven by the kernel (a lock on a byte of the segment's file that ends with the process), never guessed from a
//! time-out: a stopped process is alive. The kernel tells a small thread of each process, so that the blocked notice a death
//! within milliseconds and make no system call until then; see [`SegmentOptions::sentinel`].
//!
//! # Waiting
//!
//! `try_` calls never wait. The others look again and again at first, for 4 to 50 µs, depending on how long the last waits of
//! that end took, and then sleep without using the processor. In a dense stream an end that has used up what was there rests for up
//! to two microseconds before it looks for more: looking all the time would take the cache lines from the other side.
//!
//! # fork, exec, threads
//!
//! Handles can be used from any thread; ends of [`SpscQueue`] and [`Pipe`] by one thread at a time. `exec` ends participation.
//!
//! `fork` may be called at any time, whatever other threads are doing. The child inherits every handle:
//!
//! - It becomes a participant of its own at its first operation. Where it cannot join (no room, or others are kept from joining for
//!   10 s), calls say `Detached`.
//! - What others share goes on: ends of a [`Queue`], values, arrays, locks.
//! - What is exclusive stays with the parent: an end of an [`SpscQueue`] or a [`Pipe`] is `Detached` in the child until the parent has
//!   dropped or released it; the child's next call then takes it over, from the first message that is not received yet.
//! - What the parent has in hand stays with the parent: dropping or committing the copy of a guard, a reservation or a
//!   lock in the child does nothing.
//! - What another thread of the parent had in hand, such as a clone of a [`Segment`], exists in the child for ever, and keeps the
//!   segment open there until the child ends.
//!
//! Two ways to make a process are not covered. A *signal handler* that calls `fork` while it interrupts a call of this crate makes
//! two processes in the middle of one call: if the child returns from the handler, both send or receive the same message. Such a
//! child may only call `exec` or `_exit`; if the call had one of this crate's own locks, the process is aborted with a message.
//! And a child that is made by the raw `clone` system call, or `_Fork`, without the C library's fork handlers, takes itself for
//! its parent, and keeps that one's place until it ends, so that nobody learns of the parent's death. It must call `exec` or
//! `_exit` without using a handle; descriptors are closed by `exec`.
//!
//! # Limits
//!
//! Linux, x86-64 and aarch64. At most 511 participants a segment. Names of segments have 1 to 200 of the characters
//! `A-Z a-z 0-9 . _ -`, names of objects up to 63.

// Under loom only the protocols are compiled.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(target_os = "linux"))]
compile_error!("gimmal needs Linux: futexes, open-file-description locks, membarrier");
#[cfg(not(target_pointer_width = "64"))]
compile_error!("gimmal needs a 64-bit target");

#[cfg(not(loom))]
mod answer;
#[cfg(not(loom))]
mod atomic;
mod buffers;
#[cfg(not(loom))]
mod bytes;
#[cfg(not(loom))]
mod capabilities;
#[cfg(not(loom))]
mod channel;
#[cfg(not(loom))]
mod copy;
mod deadline;
#[cfg(not(loom))]
mod doorbell;
#[cfg(not(loom))]
mod error;
mod event;
#[cfg(not(loom))]
mod handle;
mod ids;
#[cfg(not(loom))]
mod latest;
mod layout;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod message;
#[cfg(all(loom, test))]
mod models;
#[cfg(not(loom))]
mod mutex;
#[cfg(not(loom))]
mod object;
mod pace;
#[cfg(not(loom))]
mod pipe;
mod primitive;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
mod queue;
#[cfg(not(loom))]
mod reactor;
#[cfg(not(loom))]
mod region;
mod ring;
#[cfg(not(loom))]
mod seat;
#[cfg(not(loom))]
mod segment;
#[cfg(all(feature = "serde", not(loom)))]
mod serialized;
#[cfg(not(loom))]
mod shortage;
#[cfg(not(loom))]
pub mod spsc;
#[cfg(not(loom))]
mod sys;
#[cfg(not(loom))]
mod text;
#[cfg(not(loom))]
mod unwinding;
#[cfg(not(loom))]
mod value;

pub use bytemuck::{self, Pod, Zeroable};

#[cfg(not(loom))]
pub use self::{
    atomic::{Atomic, Bits, Number, Scalar},
    capabilities::{Capabilities, capabilities},
    doorbell::Doorbell,
    error::{
        Departure, Error, RecvBytesError, RecvError, RecvTimeoutError, SendError, SendSliceError, SendTimeoutError,
        Timeout, TooLong, TryRecvError, TrySendError,
    },
    handle::{Handle, Share},
    latest::{Latest, Versioned},
    lock::{Lock, LockError, LockGuard, Over},
    message::Message,
    object::Kind,
    pipe::{End, Ends, Pipe, Reader, SharedEnd, SharedEnds, Stream, Writer},
    queue::{Backlog, Frame, Grant, IntoIter, Queue, QueueOptions, Receiver, RecvGuard, Reservation, Sender, Tap},
    segment::{
        Change, Listed, ObjectInfo, ParticipantInfo, Peer, Recovered, Segment, SegmentOptions, Snapshot, Watcher,
    },
    shortage::{Room, Shortage},
    spsc::{LossyQueue, LossyReceiver, LossySender, SpscQueue},
    text::{Bytes, Str},
    value::{Array, Value},
};

#[cfg(all(feature = "serde", not(loom)))]
pub use self::serialized::{CodecError, Object, RecvObjectError, SendObjectError};
