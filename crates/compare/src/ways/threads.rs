//! Ways between the threads of one process: the bar for speed.

use std::sync::{Arc, Mutex};

use crossbeam_queue::ArrayQueue;

use super::{Link, Rx, Spec, Tx, fill, poll};

/// A ring for one producer and one consumer, as the two ends that are still to be taken.
type Ends<const N: usize> = (Option<rtrb::Producer<[u64; N]>>, Option<rtrb::Consumer<[u64; N]>>);

/// rtrb.
pub struct Rtrb<const N: usize>(Vec<Mutex<Ends<N>>>);
/// crossbeam-queue's `ArrayQueue`.
pub struct Array<const N: usize>(Vec<Arc<ArrayQueue<[u64; N]>>>);
/// crossbeam-channel, bounded.
pub struct Crossbeam<const N: usize>(
    Channels<crossbeam_channel::Sender<[u64; N]>, crossbeam_channel::Receiver<[u64; N]>>,
);
/// kanal, bounded.
pub struct Kanal<const N: usize>(Channels<kanal::Sender<[u64; N]>, kanal::Receiver<[u64; N]>>);

/// One for each lane.
type Channels<S, R> = Vec<(S, R)>;

fn lanes<T>(spec: &Spec, make: impl Fn(usize) -> T) -> Vec<T> {
    (0..spec.lanes).map(|_| make(spec.capacity)).collect()
}

impl<const N: usize> Link<N> for Rtrb<N> {
    type Shared = ();
    type Tx = rtrb::Producer<[u64; N]>;
    type Rx = rtrb::Consumer<[u64; N]>;

    fn prepare(spec: &Spec) -> Self {
        Self(lanes(spec, |capacity| {
            let (producer, consumer) = rtrb::RingBuffer::new(capacity);
            Mutex::new((Some(producer), Some(consumer)))
        }))
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> Self::Tx {
        self.0[lane].lock().expect("nobody panics here").0.take().expect("one producer")
    }

    fn receiver(&self, (): &(), lane: usize) -> Self::Rx {
        self.0[lane].lock().expect("nobody panics here").1.take().expect("one consumer")
    }
}

impl<const N: usize> Tx<N> for rtrb::Producer<[u64; N]> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; N]) {
        poll(|| self.push(*message).ok());
    }

    #[inline]
    fn send_many(&mut self, messages: &[[u64; N]]) {
        let mut rest = messages;
        poll(|| {
            rest = self.push_partial_slice(rest).1;
            rest.is_empty().then_some(())
        });
    }

    #[inline]
    fn send_in_place(&mut self, number: u64) {
        poll(|| (self.slots() > 0).then_some(()));
        let mut chunk = self.write_chunk_uninit(1).expect("there is room");
        fill(&mut chunk.as_mut_slices().0[0], number);
        // SAFETY: the one slot is filled.
        unsafe { chunk.commit_all() };
    }
}

impl<const N: usize> Rx<N> for rtrb::Consumer<[u64; N]> {
    #[inline(always)]
    fn recv(&mut self) -> [u64; N] {
        poll(|| self.pop().ok())
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; N]> {
        self.pop().ok()
    }

    #[inline]
    fn recv_many(&mut self, into: &mut Vec<[u64; N]>, most: usize) {
        let ready = poll(|| Some(self.slots().min(most)).filter(|&ready| ready > 0));
        into.extend(self.read_chunk(ready).expect("they are there"));
    }

    #[inline]
    fn recv_in_place<R>(&mut self, read: impl FnOnce(&[u64; N]) -> R) -> R {
        poll(|| (self.slots() > 0).then_some(()));
        let chunk = self.read_chunk(1).expect("there is one");
        let result = read(&chunk.as_slices().0[0]);
        chunk.commit_all();
        result
    }
}

impl<const N: usize> Link<N> for Array<N> {
    type Shared = ();
    type Tx = Arc<ArrayQueue<[u64; N]>>;
    type Rx = Arc<ArrayQueue<[u64; N]>>;

    fn prepare(spec: &Spec) -> Self {
        Self(lanes(spec, |capacity| Arc::new(ArrayQueue::new(capacity))))
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> Self::Tx {
        Arc::clone(&self.0[lane])
    }

    fn receiver(&self, (): &(), lane: usize) -> Self::Rx {
        Arc::clone(&self.0[lane])
    }
}

impl<const N: usize> Tx<N> for Arc<ArrayQueue<[u64; N]>> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; N]) {
        poll(|| self.push(*message).ok());
    }
}

impl<const N: usize> Rx<N> for Arc<ArrayQueue<[u64; N]>> {
    #[inline(always)]
    fn recv(&mut self) -> [u64; N] {
        poll(|| self.pop())
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; N]> {
        self.pop()
    }
}

/// Channels whose ends are cloned.
macro_rules! channel {
    ($link:ident, $bounded:path, $sender:ty, $receiver:ty, $try_recv:expr) => {
        impl<const N: usize> Link<N> for $link<N> {
            type Shared = ();
            type Tx = $sender;
            type Rx = $receiver;

            fn prepare(spec: &Spec) -> Self {
                Self(lanes(spec, $bounded))
            }

            fn open(&self, _first: bool) {}

            fn sender(&self, (): &(), lane: usize) -> Self::Tx {
                self.0[lane].0.clone()
            }

            fn receiver(&self, (): &(), lane: usize) -> Self::Rx {
                self.0[lane].1.clone()
            }
        }

        impl<const N: usize> Tx<N> for $sender {
            #[inline(always)]
            fn send(&mut self, message: &[u64; N]) {
                <$sender>::send(self, *message).expect("send");
            }
        }

        impl<const N: usize> Rx<N> for $receiver {
            #[inline(always)]
            fn recv(&mut self) -> [u64; N] {
                <$receiver>::recv(self).expect("receive")
            }

            #[inline(always)]
            fn try_recv(&mut self) -> Option<[u64; N]> {
                $try_recv(self)
            }
        }
    };
}

channel!(
    Crossbeam,
    crossbeam_channel::bounded,
    crossbeam_channel::Sender<[u64; N]>,
    crossbeam_channel::Receiver<[u64; N]>,
    |receiver: &crossbeam_channel::Receiver<[u64; N]>| receiver.try_recv().ok()
);
channel!(Kanal, kanal::bounded, kanal::Sender<[u64; N]>, kanal::Receiver<[u64; N]>, |receiver: &kanal::Receiver<
    [u64; N],
>| receiver
    .try_recv()
    .expect("receive"));
