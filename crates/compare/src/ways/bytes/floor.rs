//! The simplest ring once more, for messages of bytes, and with answers: one for each lane. Messages are written and read where
//! they lie.

use std::hint::spin_loop;
use std::ptr::NonNull;

use super::super::Spec;
use super::super::floor::{Place, Ring};
use super::{Link, Rx, Tx, fill};

/// See [`Ring`].
pub struct Rings {
    lanes: Vec<Ring>,
    bytes: usize,
}

/// An end of one of them.
pub struct End {
    place: Place,
    slots: NonNull<u8>,
    bytes: usize,
}

impl Link for Rings {
    type Shared = ();
    type Tx = End;
    type Rx = End;

    fn prepare(spec: &Spec) -> Self {
        Self { lanes: (0..spec.lanes).map(|_| Ring::map(spec.capacity, spec.bytes)).collect(), bytes: spec.bytes }
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> End {
        End { place: self.lanes[lane].place(), slots: self.lanes[lane].slots(), bytes: self.bytes }
    }

    fn receiver(&self, (): &(), lane: usize) -> End {
        self.sender(&(), lane)
    }
}

impl End {
    #[inline]
    fn slot(&self) -> NonNull<[u8]> {
        // SAFETY: the index is smaller than the capacity.
        let first = unsafe { self.slots.add(self.place.slot() * self.bytes) };
        NonNull::slice_from_raw_parts(first, self.bytes)
    }

    #[inline]
    fn write(&mut self, write: impl FnOnce(&mut [u8])) {
        self.place.await_room();
        // SAFETY: the slot is ours until the commit.
        write(unsafe { self.slot().as_mut() });
        self.place.commit();
    }

    #[inline]
    fn read<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: the slot was written before it was committed, and is ours until the release.
        let result = read(unsafe { self.slot().as_ref() });
        self.place.release();
        result
    }
}

impl Tx for End {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        self.write(|slot| slot.copy_from_slice(message));
    }

    #[inline]
    fn send_number(&mut self, number: u64, _text: &mut [u64]) {
        self.write(|slot| fill(slot, number));
    }
}

impl Rx for End {
    #[inline]
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        while self.place.is_empty() {
            spin_loop();
        }
        self.read(read)
    }

    #[inline]
    fn try_recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        (!self.place.is_empty()).then(|| self.read(read))
    }
}
