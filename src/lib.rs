//! Queues, pipes, atomics and locks between processes: lock-free rings in a named shared-memory segment, with futex
//! wakeups.

// Under loom only the protocols are compiled.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(target_os = "linux"))]
compile_error!("gimmal needs Linux: futexes, open-file-description locks, membarrier");

#[cfg(not(loom))]
mod atomic;
#[cfg(not(loom))]
mod capabilities;
#[cfg(not(loom))]
mod channel;
mod deadline;
#[cfg(not(loom))]
mod error;
mod event;
mod layout;
#[cfg(not(loom))]
mod lock;
#[cfg(all(loom, test))]
mod models;
#[cfg(not(loom))]
mod object;
#[cfg(not(loom))]
mod pipe;
mod primitive;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
mod queue;
mod ring;
#[cfg(not(loom))]
mod seat;
#[cfg(not(loom))]
mod segment;
#[cfg(not(loom))]
mod spin;
#[cfg(not(loom))]
pub mod spsc;
#[cfg(not(loom))]
mod sys;
#[cfg(not(loom))]
mod value;

pub use bytemuck::{self, Pod, Zeroable};

#[cfg(not(loom))]
pub use self::{
    atomic::{Atomic, Bits, Number, Scalar},
    capabilities::{Capabilities, capabilities},
    error::{
        Error, RecvError, RecvTimeoutError, SendError, SendSliceError, SendTimeoutError, Timeout, TryRecvError,
        TrySendError,
    },
    lock::{Lock, LockError, LockGuard, Over},
    object::Kind,
    pipe::{End, Ends, Pipe, SharedEnd, SharedEnds},
    queue::{IntoIter, Queue, QueueOptions, Receiver, Sender},
    segment::{Listed, ObjectInfo, ParticipantInfo, Peer, Recovered, Segment, SegmentOptions, Snapshot},
    spsc::SpscQueue,
    value::{Array, Value},
};
