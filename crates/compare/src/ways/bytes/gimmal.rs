//! gimmal: both queues of `[u8]`, in a named segment. Messages are read where they lie, and copied in, or written there.

use gimmal::{Queue, QueueOptions, Receiver, Segment, Sender, SpscQueue, spsc};

use super::super::{Spec, gimmal::open_segment};
use super::{Link, Rx, Tx, fill};

/// `Queue<[u8]>`, `send` and `recv`.
pub struct Mpmc(Spec);
/// The same, `reserve` and `recv`.
pub struct MpmcPlaced(Mpmc);
/// `SpscQueue<[u8]>`, `send` and `recv`.
pub struct Spsc(Spec);
/// The same, `reserve` and `recv`.
pub struct SpscPlaced(Spsc);
/// A sender that reserves.
pub struct Placed<S>(S);

/// Blocks as large as messages, if there are such.
fn options(spec: &Spec) -> QueueOptions {
    QueueOptions::new().capacity(spec.bytes * spec.capacity).block(spec.bytes)
}

fn create(spec: &Spec, bytes: fn(usize) -> usize, make: impl Fn(&Segment, &str)) -> Segment {
    // Tables, and whole pages for the bytes. What is not touched takes no memory.
    let size = (512 << 10) + spec.lanes * bytes(spec.bytes * spec.capacity);
    let segment = Segment::options().directory(&spec.directory).size(size).create(&spec.name).expect("a segment");
    (0..spec.lanes).for_each(|lane| make(&segment, &name_of(lane)));
    segment
}

fn name_of(lane: usize) -> String {
    format!("lane-{lane}")
}

impl Link for Mpmc {
    type Shared = Segment;
    type Tx = Sender<[u8]>;
    type Rx = Receiver<[u8]>;

    fn prepare(spec: &Spec) -> Self {
        Self(spec.clone())
    }

    fn open(&self, first: bool) -> Segment {
        if !first {
            return open_segment(&self.0);
        }
        create(&self.0, Queue::<[u8]>::bytes, |segment, name| {
            options(&self.0).create::<[u8]>(segment, name).expect("create a queue");
        })
    }

    fn sender(&self, segment: &Segment, lane: usize) -> Self::Tx {
        Queue::open(segment, &name_of(lane)).expect("open a queue").sender().expect("a sender")
    }

    fn receiver(&self, segment: &Segment, lane: usize) -> Self::Rx {
        Queue::open(segment, &name_of(lane)).expect("open a queue").receiver().expect("a receiver")
    }
}

impl Link for Spsc {
    type Shared = Segment;
    type Tx = spsc::Sender<[u8]>;
    type Rx = spsc::Receiver<[u8]>;

    fn prepare(spec: &Spec) -> Self {
        Self(spec.clone())
    }

    fn open(&self, first: bool) -> Segment {
        if !first {
            return open_segment(&self.0);
        }
        create(&self.0, SpscQueue::<[u8]>::bytes, |segment, name| {
            options(&self.0).create_spsc::<[u8]>(segment, name).expect("create a queue");
        })
    }

    fn sender(&self, segment: &Segment, lane: usize) -> Self::Tx {
        SpscQueue::open(segment, &name_of(lane)).expect("open a queue").sender().expect("the sender")
    }

    fn receiver(&self, segment: &Segment, lane: usize) -> Self::Rx {
        SpscQueue::open(segment, &name_of(lane)).expect("open a queue").receiver().expect("the receiver")
    }
}

/// Both have the same calls, by shared and by exclusive reference.
macro_rules! ends {
    ($link:ty, $placed:ident, $sender:ty, $receiver:ty) => {
        impl Tx for $sender {
            #[inline]
            fn send(&mut self, message: &[u8]) {
                <$sender>::send(self, message).expect("send");
            }
        }

        impl Tx for Placed<$sender> {
            #[inline]
            fn send(&mut self, message: &[u8]) {
                self.0.send(message).expect("send");
            }

            #[inline]
            fn send_number(&mut self, number: u64, text: &mut [u64]) {
                let len = size_of_val(text);
                let mut grant = self.0.reserve(len).expect("reserve");
                fill(&mut grant, number);
                grant.commit(len);
            }
        }

        impl Rx for $receiver {
            #[inline]
            fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
                read(&<$receiver>::recv(self).expect("receive"))
            }

            #[inline]
            fn try_recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
                <$receiver>::try_recv(self).ok().map(|frame| read(&frame))
            }
        }

        impl Link for $placed {
            type Shared = Segment;
            type Tx = Placed<$sender>;
            type Rx = $receiver;

            fn prepare(spec: &Spec) -> Self {
                Self(<$link>::prepare(spec))
            }

            fn open(&self, first: bool) -> Segment {
                self.0.open(first)
            }

            fn sender(&self, segment: &Segment, lane: usize) -> Self::Tx {
                Placed(self.0.sender(segment, lane))
            }

            fn receiver(&self, segment: &Segment, lane: usize) -> Self::Rx {
                self.0.receiver(segment, lane)
            }
        }
    };
}
ends!(Mpmc, MpmcPlaced, Sender<[u8]>, Receiver<[u8]>);
ends!(Spsc, SpscPlaced, spsc::Sender<[u8]>, spsc::Receiver<[u8]>);
