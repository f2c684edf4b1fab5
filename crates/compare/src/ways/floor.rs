//! What the hardware and the kernel take at least: words that two processes hand each other, and copies.

use std::hint::spin_loop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crossbeam_utils::CachePadded;

use super::{Link, Rx, Spec, Tx};
use crate::sys::{futex_wait, futex_wake, map_shared};

/// Which of the two directions a word was written in: answers are the complements of messages.
const ANSWER: u64 = 1 << 63;
/// What no message is: what is there before the first.
const NOTHING: u64 = u64::MAX;

/// A word on a pair of cache lines of its own, in a page that the children share.
#[derive(Clone)]
pub struct Word {
    page: NonNull<CachePadded<Slot>>,
    lane: u64,
    seen: u64,
}

/// The word, and for the futex how often it was written.
struct Slot {
    value: AtomicU64,
    turn: AtomicU32,
}

// SAFETY: points into a mapping that is never unmapped, and what is there is atomic.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Word {
    fn map(lane: u64) -> Self {
        let word = Self { page: map_shared(size_of::<CachePadded<Slot>>()).cast(), lane, seen: NOTHING };
        word.slot().value.store(NOTHING, Relaxed);
        word
    }

    fn slot(&self) -> &Slot {
        // SAFETY: mapped for ever, aligned to a page, atomics for which zero is a value.
        unsafe { self.page.as_ref() }
    }

    /// A message in our direction that we have not had.
    #[inline]
    fn look(&mut self) -> Option<u64> {
        let value = self.slot().value.load(Acquire);
        if value == self.seen || value / ANSWER != self.lane {
            return None;
        }
        self.seen = value;
        Some(value)
    }
}

/// Both write one line.
pub struct Lines(Word);
/// Each has its own line, and reads the other's.
pub struct TwoLines([Word; 2]);
/// A word, a wake, and a wait for the answer, without spinning.
pub struct Futex([Word; 2]);
/// An end of a [`Futex`].
pub struct FutexEnd(Word);

impl Link<1> for Lines {
    type Shared = ();
    type Tx = Word;
    type Rx = Word;
    fn prepare(_: &Spec) -> Self {
        Self(Word::map(0))
    }
    fn open(&self, _first: bool) {}
    fn sender(&self, (): &(), lane: usize) -> Word {
        Word { lane: lane as u64, ..self.0.clone() }
    }
    fn receiver(&self, (): &(), lane: usize) -> Word {
        Word { lane: lane as u64, ..self.0.clone() }
    }
}

impl Link<1> for TwoLines {
    type Shared = ();
    type Tx = Word;
    type Rx = Word;
    fn prepare(_: &Spec) -> Self {
        Self([Word::map(0), Word::map(1)])
    }
    fn open(&self, _first: bool) {}
    fn sender(&self, (): &(), lane: usize) -> Word {
        self.0[lane].clone()
    }
    fn receiver(&self, (): &(), lane: usize) -> Word {
        self.0[lane].clone()
    }
}

impl Tx<1> for Word {
    #[inline(always)]
    fn send(&mut self, message: &[u64; 1]) {
        self.slot().value.store(message[0], Release);
    }
}

impl Rx<1> for Word {
    #[inline(always)]
    fn recv(&mut self) -> [u64; 1] {
        super::poll(|| self.try_recv())
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; 1]> {
        self.look().map(|value| [value])
    }
}

impl Link<1> for Futex {
    type Shared = ();
    type Tx = FutexEnd;
    type Rx = FutexEnd;
    fn prepare(_: &Spec) -> Self {
        Self([Word::map(0), Word::map(1)])
    }
    fn open(&self, _first: bool) {}
    fn sender(&self, (): &(), lane: usize) -> FutexEnd {
        FutexEnd(Word { seen: 0, ..self.0[lane].clone() })
    }
    fn receiver(&self, (): &(), lane: usize) -> FutexEnd {
        FutexEnd(Word { seen: 0, ..self.0[lane].clone() })
    }
}

impl Tx<1> for FutexEnd {
    #[inline(always)]
    fn send(&mut self, message: &[u64; 1]) {
        let slot = self.0.slot();
        slot.value.store(message[0], Relaxed);
        // Releases the value to whoever sees the turn.
        slot.turn.fetch_add(1, Release);
        futex_wake(&slot.turn, 1);
    }
}

impl Rx<1> for FutexEnd {
    #[inline(always)]
    fn recv(&mut self) -> [u64; 1] {
        loop {
            let turn = self.0.slot().turn.load(Acquire);
            if turn as u64 != self.0.seen {
                self.0.seen = turn as u64;
                return [self.0.slot().value.load(Relaxed)];
            }
            futex_wait(&self.0.slot().turn, turn);
        }
    }

    fn try_recv(&mut self) -> Option<[u64; 1]> {
        None
    }
}

/// The simplest ring for one sender and one receiver: a word that says how many were written, one that says how many were read,
/// each side's copy of the other's, and spinning. No waiting in the kernel, no crash safety.
pub struct Ring {
    memory: NonNull<u8>,
    capacity: usize,
}

// SAFETY: points into a mapping that is never unmapped; the protocol of the ends says who may touch what.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// Before the slots. `written` is the sender's alone to store, with release, and `read` the receiver's.
struct Positions {
    written: CachePadded<AtomicU64>,
    read: CachePadded<AtomicU64>,
}

/// Slots begin on a page of their own.
const SLOTS_AT: usize = 4096;

/// Where an end of a ring stands: `mine` is our position, `other` what the other's was when we last looked.
pub(super) struct Place {
    positions: NonNull<Positions>,
    capacity: u64,
    mine: u64,
    other: u64,
}

/// The end of a ring.
pub struct RingEnd<const N: usize> {
    place: Place,
    slots: NonNull<[u64; N]>,
}

impl Ring {
    /// A ring of so many slots, each of so many bytes.
    pub(super) fn map(capacity: usize, bytes: usize) -> Self {
        assert!(capacity.is_power_of_two());
        Self { memory: map_shared(SLOTS_AT + capacity * bytes), capacity }
    }

    /// The first slot.
    pub(super) fn slots(&self) -> NonNull<u8> {
        // SAFETY: the mapping is larger than that.
        unsafe { self.memory.add(SLOTS_AT) }
    }

    /// Where both ends begin.
    pub(super) fn place(&self) -> Place {
        Place { positions: self.memory.cast(), capacity: self.capacity as u64, mine: 0, other: 0 }
    }
}

impl<const N: usize> Link<N> for Ring {
    type Shared = ();
    type Tx = RingEnd<N>;
    type Rx = RingEnd<N>;

    fn prepare(spec: &Spec) -> Self {
        assert!(spec.lanes == 1, "one way only");
        Self::map(spec.capacity, 8 * N)
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), _lane: usize) -> RingEnd<N> {
        RingEnd { place: self.place(), slots: self.slots().cast() }
    }

    fn receiver(&self, (): &(), lane: usize) -> RingEnd<N> {
        self.sender(&(), lane)
    }
}

impl Place {
    #[inline]
    fn positions(&self) -> &Positions {
        // SAFETY: mapped for ever, aligned to a page, atomics for which zero is a value.
        unsafe { self.positions.as_ref() }
    }

    /// Which slot is ours next.
    #[inline]
    pub(super) fn slot(&self) -> usize {
        (self.mine & (self.capacity - 1)) as usize
    }

    #[inline]
    pub(super) fn await_room(&mut self) {
        while self.mine - self.other == self.capacity {
            self.other = self.positions().read.load(Acquire);
            spin_loop();
        }
    }

    #[inline]
    pub(super) fn is_empty(&mut self) -> bool {
        if self.mine == self.other {
            self.other = self.positions().written.load(Acquire);
        }
        self.mine == self.other
    }

    /// The sender has written its slot.
    #[inline]
    pub(super) fn commit(&mut self) {
        self.mine += 1;
        self.positions().written.store(self.mine, Release);
    }

    /// The receiver has read its slot.
    #[inline]
    pub(super) fn release(&mut self) {
        self.mine += 1;
        self.positions().read.store(self.mine, Release);
    }
}

impl<const N: usize> RingEnd<N> {
    #[inline]
    fn slot(&self) -> *mut [u64; N] {
        // SAFETY: the index is smaller than the capacity.
        unsafe { self.slots.add(self.place.slot()) }.as_ptr()
    }
}

impl<const N: usize> Tx<N> for RingEnd<N> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; N]) {
        self.place.await_room();
        // SAFETY: the slot is ours until the commit, and no message of ours lies there.
        unsafe { std::ptr::copy_nonoverlapping(message, self.slot(), 1) };
        self.place.commit();
    }

    #[inline]
    fn send_in_place(&mut self, number: u64) {
        self.place.await_room();
        // SAFETY: the slot is ours until the commit, and any bits are words.
        unsafe { &mut *self.slot() }.fill(number);
        self.place.commit();
    }
}

impl<const N: usize> Rx<N> for RingEnd<N> {
    #[inline(always)]
    fn recv(&mut self) -> [u64; N] {
        self.recv_in_place(|message| *message)
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; N]> {
        (!self.place.is_empty()).then(|| self.recv_in_place(|message| *message))
    }

    #[inline]
    fn recv_in_place<R>(&mut self, read: impl FnOnce(&[u64; N]) -> R) -> R {
        while self.place.is_empty() {
            spin_loop();
        }
        // SAFETY: the slot was written before it was committed, and is ours until the release.
        let result = read(unsafe { &*self.slot() });
        self.place.release();
        result
    }
}
