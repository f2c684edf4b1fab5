//! gimmal's rings without blocking and crash safety, between processes: what both cost.

use std::ptr::NonNull;

use gimmal_bare::{mpmc, spsc};

use super::{Link, Rx, Spec, Tx};
use crate::sys::map_shared;

/// `Queue`'s.
pub struct Mpmc(Lanes);
/// `SpscQueue`'s.
pub struct Spsc(Lanes);

/// The memory of one ring for each lane.
struct Lanes {
    memory: Vec<NonNull<u8>>,
    capacity: usize,
}

// SAFETY: points into mappings that are never unmapped; the rings and their ends say who may touch what.
unsafe impl Send for Lanes {}
// SAFETY: as above.
unsafe impl Sync for Lanes {}

impl Lanes {
    fn map(spec: &Spec, bytes: fn(usize) -> usize) -> Self {
        let memory = (0..spec.lanes).map(|_| map_shared(bytes(spec.capacity)));
        Self { memory: memory.collect(), capacity: spec.capacity }
    }
}

impl Mpmc {
    fn ring<const N: usize>(&self, lane: usize) -> gimmal_bare::Mpmc<[u64; N]> {
        // SAFETY: `prepare` has mapped as much, zeros, for ever and for rings of this type and capacity only; any bits are words.
        unsafe { gimmal_bare::Mpmc::at(self.0.memory[lane], self.0.capacity) }
    }
}

impl Spsc {
    fn ring<const N: usize>(&self, lane: usize) -> gimmal_bare::Spsc<[u64; N]> {
        // SAFETY: as above.
        unsafe { gimmal_bare::Spsc::at(self.0.memory[lane], self.0.capacity) }
    }
}

impl<const N: usize> Link<N> for Mpmc {
    type Shared = ();
    type Tx = mpmc::Sender<[u64; N]>;
    type Rx = mpmc::Receiver<[u64; N]>;

    fn prepare(spec: &Spec) -> Self {
        Self(Lanes::map(spec, gimmal_bare::Mpmc::<[u64; N]>::bytes))
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> Self::Tx {
        self.ring(lane).sender()
    }

    fn receiver(&self, (): &(), lane: usize) -> Self::Rx {
        self.ring(lane).receiver()
    }
}

impl<const N: usize> Link<N> for Spsc {
    type Shared = ();
    type Tx = spsc::Sender<[u64; N]>;
    type Rx = spsc::Receiver<[u64; N]>;

    fn prepare(spec: &Spec) -> Self {
        Self(Lanes::map(spec, gimmal_bare::Spsc::<[u64; N]>::bytes))
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> Self::Tx {
        // SAFETY: in a team of one sender and one receiver, each lane has one of each.
        unsafe { self.ring(lane).sender() }
    }

    fn receiver(&self, (): &(), lane: usize) -> Self::Rx {
        // SAFETY: as above.
        unsafe { self.ring(lane).receiver() }
    }
}

/// Both have the same calls, by shared and by exclusive reference.
macro_rules! ends {
    ($sender:ty, $receiver:ty) => {
        impl<const N: usize> Tx<N> for $sender {
            #[inline(always)]
            fn send(&mut self, message: &[u64; N]) {
                <$sender>::send(self, *message);
            }
        }

        impl<const N: usize> Rx<N> for $receiver {
            #[inline(always)]
            fn recv(&mut self) -> [u64; N] {
                <$receiver>::recv(self)
            }
            #[inline(always)]
            fn try_recv(&mut self) -> Option<[u64; N]> {
                <$receiver>::try_recv(self)
            }
        }
    };
}
ends!(mpmc::Sender<[u64; N]>, mpmc::Receiver<[u64; N]>);
ends!(spsc::Sender<[u64; N]>, spsc::Receiver<[u64; N]>);
