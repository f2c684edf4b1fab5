//! gimmal: both queues, in a named segment.

use gimmal::{Error, Queue, Receiver, Segment, SegmentOptions, Sender, SpscQueue, spsc};

use super::{Link, Rx, Spec, Tx};

/// `Queue`.
pub struct Mpmc(Spec);
/// `SpscQueue`.
pub struct Spsc(Spec);

/// What the queues that nobody uses hold.
const UNUSED: usize = 16;

/// Lanes are among the other queues, not the first.
fn name_of(spec: &Spec, lane: usize) -> String {
    format!("queue-{}", spec.objects.max(spec.lanes) / 2 + lane)
}

fn options(spec: &Spec) -> SegmentOptions {
    Segment::options().directory(&spec.directory)
}

/// Attaches to the segment that the first worker has created.
pub fn open_segment(spec: &Spec) -> Segment {
    loop {
        match options(spec).open(&spec.name) {
            // Hundreds join at once, one after the other.
            Err(Error::Busy { .. }) => {}
            opened => return opened.expect("open a segment"),
        }
    }
}

/// A segment with these queues, `bytes` saying what one of a capacity takes and `make` making one.
fn create(spec: &Spec, bytes: fn(usize) -> usize, make: impl Fn(&Segment, &str, usize)) -> Segment {
    let queues = spec.objects.max(spec.lanes);
    let lanes: Vec<String> = (0..spec.lanes).map(|lane| name_of(spec, lane)).collect();
    let others = (0..2 * queues).map(|i| format!("queue-{i}")).filter(|name| !lanes.contains(name));
    let others: Vec<String> = others.take(queues - spec.lanes).collect();
    // Tables and alignment: 192 bytes an object, 48 a participant.
    let tables = (16 << 10) + 512 * queues + 64 * spec.participants;
    let size = tables + spec.lanes * bytes(spec.capacity) + others.len() * bytes(UNUSED);
    let participants = spec.participants.clamp(16, 511) as u16;
    let options = options(spec).size(size).max_objects(queues as u32).max_participants(participants);
    let segment = options.create(&spec.name).expect("create a segment");
    others.iter().for_each(|name| make(&segment, name, UNUSED));
    lanes.iter().for_each(|name| make(&segment, name, spec.capacity));
    segment
}

impl<const N: usize> Link<N> for Mpmc {
    type Shared = Segment;
    type Tx = Sender<[u64; N]>;
    type Rx = Receiver<[u64; N]>;

    fn prepare(spec: &Spec) -> Self {
        Self(spec.clone())
    }

    fn open(&self, first: bool) -> Segment {
        if !first {
            return open_segment(&self.0);
        }
        create(&self.0, Queue::<[u64; N]>::bytes, |segment, name, capacity| {
            Queue::<[u64; N]>::create(segment, name, capacity).expect("create a queue");
        })
    }

    fn sender(&self, segment: &Segment, lane: usize) -> Self::Tx {
        Queue::open(segment, &name_of(&self.0, lane)).expect("open a queue").sender().expect("a sender")
    }

    fn receiver(&self, segment: &Segment, lane: usize) -> Self::Rx {
        Queue::open(segment, &name_of(&self.0, lane)).expect("open a queue").receiver().expect("a receiver")
    }
}

impl<const N: usize> Link<N> for Spsc {
    type Shared = Segment;
    type Tx = spsc::Sender<[u64; N]>;
    type Rx = spsc::Receiver<[u64; N]>;

    fn prepare(spec: &Spec) -> Self {
        Self(spec.clone())
    }

    fn open(&self, first: bool) -> Segment {
        if !first {
            return open_segment(&self.0);
        }
        create(&self.0, SpscQueue::<[u64; N]>::bytes, |segment, name, capacity| {
            SpscQueue::<[u64; N]>::create(segment, name, capacity).expect("create a queue");
        })
    }

    fn sender(&self, segment: &Segment, lane: usize) -> Self::Tx {
        SpscQueue::open(segment, &name_of(&self.0, lane)).expect("open a queue").sender().expect("the sender")
    }

    fn receiver(&self, segment: &Segment, lane: usize) -> Self::Rx {
        SpscQueue::open(segment, &name_of(&self.0, lane)).expect("open a queue").receiver().expect("the receiver")
    }
}

/// Both have the same calls, by shared and by exclusive reference.
macro_rules! ends {
    ($sender:ty, $receiver:ty) => {
        impl<const N: usize> Tx<N> for $sender {
            #[inline(always)]
            fn send(&mut self, message: &[u64; N]) {
                <$sender>::send(self, *message).expect("send");
            }
            #[inline]
            fn send_many(&mut self, messages: &[[u64; N]]) {
                self.send_slice(messages).expect("send several");
            }
            #[inline]
            fn send_in_place(&mut self, number: u64) {
                let mut slot = self.reserve().expect("reserve");
                slot.fill(number);
                slot.commit();
            }
        }

        impl<const N: usize> Rx<N> for $receiver {
            #[inline(always)]
            fn recv(&mut self) -> [u64; N] {
                <$receiver>::recv(self).expect("receive")
            }
            #[inline(always)]
            fn try_recv(&mut self) -> Option<[u64; N]> {
                <$receiver>::try_recv(self).ok()
            }
            #[inline]
            fn recv_many(&mut self, into: &mut Vec<[u64; N]>, most: usize) {
                <$receiver>::recv_many(self, into, most).expect("receive several");
            }
            #[inline]
            fn recv_in_place<R>(&mut self, read: impl FnOnce(&[u64; N]) -> R) -> R {
                read(&self.recv_guard().expect("receive"))
            }
        }
    };
}
ends!(Sender<[u64; N]>, Receiver<[u64; N]>);
ends!(spsc::Sender<[u64; N]>, spsc::Receiver<[u64; N]>);
