//! What messages can take: gimmal, its rivals, and what the hardware and the kernel take at least.
//!
//! A way is a type that implements [`Link`]; the enum [`Way`] names them all and says what each can do, and
//! [`with_link!`] gets from the name to the type, so that the measured loops are compiled for each. Messages whose length is known
//! only at run time are a matter of [`bytes`], those that are serialized one of [`objects`].

pub mod bare;
pub mod bytes;
pub mod cloudtoid;
pub mod floor;
pub mod gimmal;
pub mod iceoryx;
pub mod ipc_channel;
pub mod objects;
pub mod os;
pub mod shaq;
pub mod threads;

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::path::PathBuf;

use crossbeam_utils::Backoff;

/// A sending end. Messages are `N` words.
pub trait Tx<const N: usize> {
    /// Sends, waiting for room.
    fn send(&mut self, message: &[u64; N]);

    /// Sends all, in order, waiting for room.
    fn send_many(&mut self, messages: &[[u64; N]]) {
        messages.iter().for_each(|message| self.send(message));
    }

    /// Sends a message that says this number in every word, written in place where the way can.
    fn send_in_place(&mut self, number: u64) {
        self.send(&message(number));
    }
}

/// A receiving end.
pub trait Rx<const N: usize> {
    /// Receives, waiting for a message.
    fn recv(&mut self) -> [u64; N];

    /// Receives what is there.
    fn try_recv(&mut self) -> Option<[u64; N]>;

    /// Appends one message or more, `most` at most, waiting for the first.
    fn recv_many(&mut self, into: &mut Vec<[u64; N]>, _most: usize) {
        into.push(self.recv());
    }

    /// Receives and reads, in place where the way can.
    fn recv_in_place<R>(&mut self, read: impl FnOnce(&[u64; N]) -> R) -> R {
        read(&self.recv())
    }
}

/// How to make and to reach a way's queues.
pub trait Link<const N: usize> {
    /// What an attached process holds.
    type Shared;
    /// See [`Tx`].
    type Tx: Tx<N>;
    /// See [`Rx`].
    type Rx: Rx<N>;

    /// Before the fork: descriptors and plain shared pages, nothing that starts a thread. Threads prepare in their process.
    fn prepare(spec: &Spec) -> Self;

    /// In each worker: the first one creates.
    fn open(&self, create: bool) -> Self::Shared;

    /// An end of one of the [`Spec::lanes`].
    fn sender(&self, shared: &Self::Shared, lane: usize) -> Self::Tx;

    /// The other end.
    fn receiver(&self, shared: &Self::Shared, lane: usize) -> Self::Rx;
}

/// What queues there should be.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Of this run and no other: a prefix of every name.
    pub name: String,
    /// A directory of this run, on a tmpfs.
    pub directory: PathBuf,
    /// Of each message.
    pub bytes: usize,
    /// Messages that each queue holds.
    pub capacity: usize,
    /// Queues that are used: one, or there and back.
    pub lanes: usize,
    /// Queues that there are at least.
    pub objects: usize,
    /// Processes that attach.
    pub participants: usize,
    /// Receivers poll, and never wait.
    pub polled: bool,
}

/// A message that says this number in every word.
pub fn message<const N: usize>(number: u64) -> [u64; N] {
    [number; N]
}

/// The same, written to where there was another one: moving 4 KiB around would be measured, too.
#[inline]
pub fn rewrite<const N: usize>(message: &mut [u64; N], number: u64) {
    message.fill(number);
    black_box(message);
}

/// The same, written where it will lie.
#[inline]
pub fn fill<const N: usize>(place: &mut MaybeUninit<[u64; N]>, number: u64) {
    // SAFETY: a place for an array is an array of places.
    let words = unsafe { &mut *place.as_mut_ptr().cast::<[MaybeUninit<u64>; N]>() };
    words.fill(MaybeUninit::new(number));
}

/// Calls until there is something; for ways that cannot wait.
pub fn poll<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let backoff = Backoff::new();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        backoff.snooze();
    }
}

/// All ways by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named by `name`")]
pub enum Way {
    GimmalSpsc,
    GimmalQueue,
    /// Messages of bytes, of any number, copied in and read where they lie.
    SpscBytes,
    /// The same, written where they lie.
    SpscPlaced,
    QueueBytes,
    QueuePlaced,
    QueueObjects,
    ShaqSpsc,
    ShaqMpmc,
    Iceoryx,
    Cloudtoid,
    IpcChannel,
    Pipe,
    Socket,
    SeqPacket,
    /// The queue of Python's standard library, between two Pythons.
    Python,
    Rtrb,
    ArrayQueue,
    CrossbeamChannel,
    Kanal,
    /// gimmal's own rings, with blocking and crash safety compiled out: what these cost.
    BareSpsc,
    /// The same.
    BareQueue,
    Line,
    TwoLines,
    Futex,
    Memcpy,
    /// The simplest ring between two processes, with plain spinning and cached indices: what the hardware takes.
    OtherCore,
    /// Serialized and back, in one process.
    Postcard,
}

impl Way {
    /// All, in the order of the report.
    pub const ALL: [Self; 28] = [
        Self::GimmalSpsc,
        Self::GimmalQueue,
        Self::SpscBytes,
        Self::SpscPlaced,
        Self::QueueBytes,
        Self::QueuePlaced,
        Self::QueueObjects,
        Self::ShaqSpsc,
        Self::ShaqMpmc,
        Self::Iceoryx,
        Self::Cloudtoid,
        Self::IpcChannel,
        Self::Pipe,
        Self::Socket,
        Self::SeqPacket,
        Self::Python,
        Self::Rtrb,
        Self::ArrayQueue,
        Self::CrossbeamChannel,
        Self::Kanal,
        Self::BareSpsc,
        Self::BareQueue,
        Self::Line,
        Self::TwoLines,
        Self::Futex,
        Self::Memcpy,
        Self::OtherCore,
        Self::Postcard,
    ];

    /// Its name in cases and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::GimmalSpsc => "gimmal SpscQueue",
            Self::GimmalQueue => "gimmal Queue",
            Self::SpscBytes => "gimmal SpscQueue<[u8]>",
            Self::SpscPlaced => "gimmal SpscQueue<[u8]>, in place",
            Self::QueueBytes => "gimmal Queue<[u8]>",
            Self::QueuePlaced => "gimmal Queue<[u8]>, in place",
            Self::QueueObjects => "gimmal Queue<Object<T>>",
            Self::ShaqSpsc => "shaq SPSC",
            Self::ShaqMpmc => "shaq MPMC",
            Self::Iceoryx => "iceoryx2",
            Self::Cloudtoid => "cloudtoid",
            Self::IpcChannel => "ipc-channel",
            Self::Pipe => "OS pipe",
            Self::Socket => "Unix socket",
            Self::SeqPacket => "Unix socket of packets",
            Self::Python => "Python multiprocessing.Queue",
            Self::Rtrb => "rtrb (threads)",
            Self::ArrayQueue => "ArrayQueue (threads)",
            Self::CrossbeamChannel => "crossbeam-channel (threads)",
            Self::Kanal => "kanal (threads)",
            Self::BareSpsc => "bare SpscQueue",
            Self::BareQueue => "bare Queue",
            Self::Line => "floor: line",
            Self::TwoLines => "floor: two lines",
            Self::Futex => "floor: futex",
            Self::Memcpy => "floor: memcpy",
            Self::OtherCore => "floor: memcpy, other core",
            Self::Postcard => "floor: postcard",
        }
    }

    /// Its workers are threads of one process.
    pub fn threads(self) -> bool {
        matches!(self, Self::Rtrb | Self::ArrayQueue | Self::CrossbeamChannel | Self::Kanal)
    }

    /// It is gimmal's, with messages of one size.
    pub fn is_gimmal(self) -> bool {
        matches!(self, Self::GimmalSpsc | Self::GimmalQueue)
    }

    /// It is gimmal's, with messages of any length.
    pub fn is_gimmal_of_bytes(self) -> bool {
        use Way::{QueueBytes, QueuePlaced, SpscBytes, SpscPlaced};
        matches!(self, SpscBytes | SpscPlaced | QueueBytes | QueuePlaced)
    }

    /// It passes messages of any length, of up to a mebibyte unless [`Way::longest`] says less.
    pub fn carries_bytes(self) -> bool {
        use Way::{Cloudtoid, Iceoryx, IpcChannel, Pipe, SeqPacket, Socket};
        self.is_gimmal_of_bytes() || matches!(self, Iceoryx | Cloudtoid | IpcChannel | Pipe | Socket | SeqPacket)
    }

    /// The longest message of bytes.
    pub fn longest(self) -> usize {
        // The kernel has a packet in one piece, as large as its buffer for a socket is by default at most.
        if self == Self::SeqPacket { 64 << 10 } else { usize::MAX }
    }

    /// It passes objects that know nothing of bytes, or at least serializes them.
    pub fn carries_objects(self) -> bool {
        matches!(self, Self::QueueObjects | Self::Python | Self::Postcard)
    }

    /// It is one of gimmal's rings without what the price of is asked.
    pub fn is_bare(self) -> bool {
        matches!(self, Self::BareSpsc | Self::BareQueue)
    }

    /// It is a queue of messages of one size, and not only a floor.
    pub fn streams(self) -> bool {
        !matches!(self, Self::Line | Self::TwoLines | Self::Futex | Self::Memcpy | Self::OtherCore)
            && !self.is_for_bytes_only()
    }

    /// It does not take part where messages have one size.
    fn is_for_bytes_only(self) -> bool {
        self.is_gimmal_of_bytes() || self.carries_objects() || self == Self::SeqPacket
    }

    /// It can have so many ends, each message going to one receiver.
    pub fn allows(self, senders: usize, receivers: usize) -> bool {
        match self {
            Self::GimmalQueue | Self::ShaqMpmc | Self::Cloudtoid | Self::Pipe => true,
            Self::ArrayQueue | Self::CrossbeamChannel | Self::Kanal | Self::BareQueue => true,
            Self::IpcChannel => receivers == 1,
            _ => (senders, receivers) == (1, 1),
        }
    }

    /// It has calls for several messages, of both sides.
    pub fn batches(self) -> bool {
        self.is_gimmal() || matches!(self, Self::ShaqSpsc | Self::ShaqMpmc | Self::Rtrb | Self::Pipe | Self::Socket)
    }

    /// Its receivers sleep in the kernel.
    pub fn sleeps(self) -> bool {
        !matches!(self, Self::Iceoryx | Self::Rtrb | Self::ArrayQueue | Self::BareSpsc | Self::BareQueue)
            && !matches!(self, Self::Line | Self::TwoLines | Self::Memcpy | Self::OtherCore)
            && !self.is_for_bytes_only()
    }

    /// The capacity is any that we like.
    pub fn any_capacity(self) -> bool {
        self.is_gimmal() || matches!(self, Self::Rtrb | Self::ArrayQueue)
    }

    /// It takes part in [`crate::case::Measure::InPlace`], if only to copy.
    pub fn in_place(self) -> bool {
        let others =
            [Self::ShaqSpsc, Self::ShaqMpmc, Self::Iceoryx, Self::Rtrb, Self::Pipe, Self::Memcpy, Self::OtherCore];
        self.is_gimmal() || others.contains(&self)
    }

    /// A process that knows the name can attach.
    pub fn opens(self) -> bool {
        self.is_gimmal() || matches!(self, Self::ShaqSpsc | Self::ShaqMpmc | Self::Iceoryx | Self::Cloudtoid)
    }
}

/// Calls `$run::<Link, WORDS>($arguments)` for the way and the size of a case.
macro_rules! with_link {
    ($case:expr, $run:ident($($argument:expr),*)) => {{
        use $crate::ways::{Way, bare, cloudtoid, floor, gimmal, iceoryx, ipc_channel, os, shaq, threads};
        macro_rules! sized {
            ($link:ty) => {
                match $case.bytes {
                    8 => $run::<$link, 1>($($argument),*),
                    64 => $run::<$link, 8>($($argument),*),
                    256 => $run::<$link, 32>($($argument),*),
                    _ => $run::<$link, 512>($($argument),*),
                }
            };
        }
        match $case.way {
            Way::GimmalSpsc => sized!(gimmal::Spsc),
            Way::GimmalQueue => sized!(gimmal::Mpmc),
            Way::ShaqSpsc => sized!(shaq::Spsc),
            Way::ShaqMpmc => sized!(shaq::Mpmc),
            Way::Iceoryx => sized!(iceoryx::PublishSubscribe),
            Way::Cloudtoid => sized!(cloudtoid::Bytes),
            Way::IpcChannel => sized!(ipc_channel::Bytes),
            Way::Pipe => sized!(os::Pipe),
            Way::Socket => sized!(os::Socket),
            Way::Rtrb => sized!(threads::Rtrb<_>),
            Way::ArrayQueue => sized!(threads::Array<_>),
            Way::CrossbeamChannel => sized!(threads::Crossbeam<_>),
            Way::Kanal => sized!(threads::Kanal<_>),
            Way::BareSpsc => sized!(bare::Spsc),
            Way::BareQueue => sized!(bare::Mpmc),
            Way::Line => $run::<floor::Lines, 1>($($argument),*),
            Way::TwoLines => $run::<floor::TwoLines, 1>($($argument),*),
            Way::Futex => $run::<floor::Futex, 1>($($argument),*),
            Way::Memcpy | Way::OtherCore => sized!(floor::Ring),
            other => unreachable!("{} has no messages of one size", other.name()),
        }
    }};
}
pub(crate) use with_link;
