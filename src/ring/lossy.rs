//! The SPSC ring whose sender never waits: when it is full, the oldest message makes room.
//!
//! As in [`super::spsc`], `tail` is the sender's position, and what lies between `head` and it is whole. But `head` is moved by both,
//! by CAS: by the receiver when it has a copy of the message there, by the sender when it needs the slot. Whoever moves it has
//! decided what became of the message: received, or lost.
//!
//! A receiver copies before it knows. So messages are written and read as Relaxed words, and the receiver believes its copy only if it
//! then moves `head` itself. Such a copy is whole:
//!
//! - The receiver has Acquired a `tail` beyond its position, so it reads no word that is older than its message.
//! - The sender writes newer words into that slot only after it has seen `head` beyond the position, which it Acquires. If the receiver
//!   has moved `head`, that was after its reads (Release). So it has read no newer word. If the sender has moved `head`, the receiver's
//!   CAS fails, and it copies again.
//!
//! No fence is needed for this: Release on the receiver's CAS is one for the reads before it.
//!
//! A receiver whose CAS fails goes on at the `head` that it finds (Acquire). The sender has moved `head` there (Release) after it had
//! committed every message before its own. So the receiver sees them, and does not find the ring empty while it is full.
//!
//! Positions are compared by their signed distance: a `tail` or `head` on the wrong side of a position reads as "nothing there" and "no
//! room needed".
//!
//! A death needs no repair. A sender that dies before its message is committed may have made room for it: then a message is lost, and
//! none has come.

use core::ptr::NonNull;

use super::Header;
use crate::buffers::{copy_in, copy_out};
use crate::primitive::{AtomicU64, Ordering};

/// How often a receiver copies a message that the sender has displaced meanwhile, before it says that there is none. The sender wakes it
/// for each.
const TRIES: u32 = 1 << 10;

/// A ring of messages of a fixed number of words.
#[derive(Clone)]
pub(crate) struct Lossy {
    header: NonNull<Header>,
    cells: NonNull<AtomicU64>,
    words: usize,
    mask: u64,
}

// SAFETY: everything is reached through atomics.
unsafe impl Send for Lossy {}
// SAFETY: as above.
unsafe impl Sync for Lossy {}

impl Lossy {
    /// # Safety
    /// `header` and `capacity` messages of `words` words each at `cells` are valid for as long as the value is used; `capacity` is a
    /// power of two.
    pub(crate) unsafe fn new(header: NonNull<Header>, cells: NonNull<AtomicU64>, words: usize, capacity: u64) -> Self {
        debug_assert!(capacity.is_power_of_two());
        Self { header, cells, words, mask: capacity - 1 }
    }

    fn header(&self) -> &Header {
        // SAFETY: valid by the contract of `new`; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    fn slot(&self, position: u64) -> &[AtomicU64] {
        let first = (position & self.mask) as usize * self.words;
        // SAFETY: the masked index is below the capacity.
        let first = unsafe { self.cells.add(first) };
        // SAFETY: as above; they are atomics.
        unsafe { NonNull::slice_from_raw_parts(first, self.words).as_ref() }
    }

    /// Sends, in place of the oldest message if need be. `own` is the sender's position.
    pub(crate) fn send(&self, own: &mut u64, message: &[u8]) {
        let header = self.header();
        // Acquire: the receiver is done with the slots behind `head`.
        let head = header.head.load(Ordering::Acquire);
        if own.wrapping_sub(head) as i64 > self.mask as i64 {
            // If it fails, the receiver has just made the room (Acquire, as above). Release: see the module.
            let _ = header.head.compare_exchange(head, head.wrapping_add(1), Ordering::Release, Ordering::Acquire);
        }
        copy_in(self.slot(*own), message);
        *own = own.wrapping_add(1);
        // Release: whoever sees the new tail sees the message.
        header.tail.store(*own, Ordering::Release);
    }

    /// Receives, as far as the buffer goes; `false` if there is nothing. `own` is the receiver's position; what was lost before it is
    /// added to `lost`.
    pub(crate) fn receive(&self, own: &mut u64, lost: &mut u64, into: &mut [u8]) -> bool {
        let header = self.header();
        for _ in 0..TRIES {
            // Acquire: the message is there. A tail that lags behind the receiver, which the head has led on, says nothing.
            let tail = header.tail.load(Ordering::Acquire);
            if tail.wrapping_sub(*own) as i64 <= 0 {
                return false;
            }
            if tail.wrapping_sub(*own) > self.mask + 1 && header.head.load(Ordering::Relaxed) == *own {
                // Nobody honest is as far ahead of a receiver that has not been overtaken.
                return false;
            }
            copy_out(self.slot(*own), into);
            let next = own.wrapping_add(1);
            // Release: the sender writes there only after our reads. Acquire: where we go on, the messages are there.
            match header.head.compare_exchange(*own, next, Ordering::Release, Ordering::Acquire) {
                Ok(_) => {
                    *own = next;
                    return true;
                }
                Err(head) => {
                    *lost = lost.wrapping_add(head.wrapping_sub(*own));
                    *own = head;
                }
            }
        }
        false
    }

    /// Whether a message is there for a receiver at `own`.
    pub(crate) fn is_ready(&self, own: u64) -> bool {
        // Acquire: the message is there.
        let tail = self.header().tail.load(Ordering::Acquire);
        (tail.wrapping_sub(own) as i64) > 0
    }

    /// The sender's position when it takes its seat.
    pub(crate) fn sender_position(&self) -> u64 {
        self.header().tail.load(Ordering::Acquire)
    }

    /// The receiver's position when it takes its seat.
    pub(crate) fn receiver_position(&self) -> u64 {
        self.header().head.load(Ordering::Acquire)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Bed {
        header: Box<Header>,
        cells: Box<[AtomicU64]>,
    }

    impl Bed {
        fn new(capacity: usize) -> Self {
            Self { header: Header::new(), cells: (0..capacity).map(|_| AtomicU64::new(0)).collect() }
        }

        fn ring(&self) -> Lossy {
            // SAFETY: the bed outlives the rings of a test.
            unsafe {
                Lossy::new(NonNull::from(&*self.header), NonNull::from(&self.cells[0]), 1, self.cells.len() as u64)
            }
        }
    }

    fn receive(ring: &Lossy, own: &mut u64) -> Option<(u64, u64)> {
        let (mut bytes, mut lost) = ([0; 8], 0);
        ring.receive(own, &mut lost, &mut bytes).then(|| (u64::from_ne_bytes(bytes), lost))
    }

    #[test]
    fn the_newest_are_received_in_order_and_the_lost_are_counted() {
        for capacity in [1_u64, 2, 8] {
            let bed = Bed::new(capacity as usize);
            let (ring, mut sender, mut receiver) = (bed.ring(), 0, 0);
            let mut next = 0_u64;
            for burst in [0_u64, 1, capacity, capacity + 1, 3 * capacity + 2, 1] {
                for _ in 0..burst {
                    ring.send(&mut sender, &next.to_ne_bytes());
                    next += 1;
                }
                let lost = burst.saturating_sub(capacity);
                let mut expected = (next - burst.min(capacity)..next).map(|n| (n, 0)).collect::<Vec<_>>();
                if let Some(first) = expected.first_mut() {
                    first.1 = lost;
                }
                let received: Vec<_> = core::iter::from_fn(|| receive(&ring, &mut receiver)).collect();
                assert_eq!(received, expected, "capacity {capacity}, burst {burst}");
            }
        }
    }

    /// A receiver may find `head` moved before it sees the `tail` that was stored before.
    #[test]
    fn a_tail_that_lags_behind_is_no_message() {
        let bed = Bed::new(2);
        let (ring, mut own) = (bed.ring(), 7);
        bed.header.head.store(7, Ordering::Relaxed);
        for tail in [5, 6, 7] {
            bed.header.tail.store(tail, Ordering::Relaxed);
            assert!(!ring.is_ready(own), "tail {tail}");
            assert_eq!(receive(&ring, &mut own), None, "tail {tail}");
        }
        assert_eq!(bed.header.head.load(Ordering::Relaxed), 7);
    }

    /// A sender whose room is more than the ring has makes none.
    #[test]
    fn a_head_beyond_the_sender_is_not_moved() {
        let bed = Bed::new(2);
        let (ring, mut own) = (bed.ring(), 7);
        bed.header.head.store(9, Ordering::Relaxed);
        ring.send(&mut own, &[0; 8]);
        assert_eq!(bed.header.head.load(Ordering::Relaxed), 9);
    }

    #[test]
    fn whatever_the_positions_say_nothing_else_is_touched() {
        let bed = Bed::new(4);
        let ring = bed.ring();
        for (tail, head) in [(0, u64::MAX), (u64::MAX, 0), (1 << 63, 3), (5, 9)] {
            bed.header.tail.store(tail, Ordering::Relaxed);
            bed.header.head.store(head, Ordering::Relaxed);
            let (mut sender, mut receiver) = (ring.sender_position(), ring.receiver_position());
            for n in 0..10_u64 {
                ring.send(&mut sender, &n.to_ne_bytes());
                receive(&ring, &mut receiver);
            }
        }
    }
}
