//! `Queue` without blocking and crash safety, as far as the latter can be taken from it.

use core::ptr::NonNull;

use crate::pace::Pace;
use crate::ring::Element;
use crate::ring::owned::{Claim, Cursor, Owned as Ring};

/// Whose claims these are: nobody asks.
const OWNER: u16 = 1;

/// A ring for several senders and several receivers.
///
/// Blocking is gone, and so are the checks of who this process is and whether the queue is closed. What is left of crash safety
/// are the slot words with their owners and the second looks of receivers: they *are* the algorithm, and cannot be compiled out
/// of it. What they cost is not in the difference to gimmal; rivals without them show it.
pub struct Mpmc<T> {
    ring: Ring<T>,
}

/// A sending end.
pub struct Sender<T> {
    end: End<T>,
}

/// A receiving end.
pub struct Receiver<T> {
    end: End<T>,
}

struct End<T> {
    ring: Ring<T>,
    cursor: Cursor,
    pace: Pace,
}

impl<T: Copy> Mpmc<T> {
    /// Bytes that a ring of this capacity takes.
    #[must_use]
    pub fn bytes(capacity: usize) -> usize {
        crate::bytes(Element::<T>::SLOT_STRIDE, capacity)
    }

    /// The ring at `memory`.
    ///
    /// # Safety
    /// - `memory` has [`Mpmc::bytes`] of this capacity, aligned to 128, which are mapped for as long as the ring or one of its
    ///   ends is used, and which were zero before the first ring was made of them.
    /// - Nothing but rings of the same `T` and capacity touches them since, in whichever process.
    /// - `capacity` is a power of two.
    /// - Every bit pattern is a `T`.
    #[must_use]
    pub unsafe fn at(memory: NonNull<u8>, capacity: usize) -> Self {
        const { Element::<T>::CHECK };
        let header = memory.cast();
        // SAFETY: there is one, by the caller's contract.
        let slots = unsafe { crate::slots(header) };
        // SAFETY: the caller's contract; a header and slots are valid when zero.
        Self { ring: unsafe { Ring::new(header, slots, capacity as u64) } }
    }

    /// A sending end.
    #[must_use]
    pub fn sender(&self) -> Sender<T> {
        Sender { end: self.end() }
    }

    /// A receiving end.
    #[must_use]
    pub fn receiver(&self) -> Receiver<T> {
        Receiver { end: self.end() }
    }

    fn end(&self) -> End<T> {
        End { ring: self.ring.clone(), cursor: Cursor::default(), pace: Pace::default() }
    }
}

impl<T: Copy> End<T> {
    /// The slow path of a send or a receive.
    #[inline(always)]
    fn wait(&self, attempt: impl FnMut() -> Option<Claim>) -> Claim {
        self.pace.rest(self.cursor.position(), self.ring.capacity());
        crate::spin(attempt)
    }
}

impl<T: Copy> Sender<T> {
    #[inline(always)]
    fn claim(&self) -> Option<Claim> {
        self.end.ring.claim_free(&self.end.cursor, OWNER).ok()
    }

    #[inline(never)]
    fn await_claim(&self) -> Claim {
        self.end.wait(|| self.claim())
    }

    /// Sends, spinning for room.
    #[inline(always)]
    pub fn send(&self, value: T) {
        let claim = match self.claim() {
            Some(claim) => claim,
            None => self.await_claim(),
        };
        self.end.ring.write(&claim, &value);
        self.end.ring.commit(claim);
    }
}

impl<T: Copy> Receiver<T> {
    #[inline(always)]
    fn claim(&self) -> Option<Claim> {
        self.end.ring.claim_full(&self.end.cursor, OWNER).ok()
    }

    #[inline(never)]
    fn await_claim(&self) -> Claim {
        self.end.wait(|| self.claim())
    }

    /// Receives what is there now.
    #[inline(always)]
    pub fn try_recv(&self) -> Option<T> {
        Some(self.end.ring.take(self.claim()?))
    }

    /// Receives, spinning for a message.
    #[inline(always)]
    pub fn recv(&self) -> T {
        let claim = match self.claim() {
            Some(claim) => claim,
            None => self.await_claim(),
        };
        self.end.ring.take(claim)
    }
}
