//! Atomics, payload cells, fences and the futex word: the only file that names `core::sync::atomic` or loom.
//!
//! Under `cfg(loom)` everything here is loom's, so that the rings and the event can be explored without change;
//! a futex becomes a mutex, a condition variable and a count of sleepers, and both fences become `fence(SeqCst)`,
//! which is what the asymmetric pair amounts to (loom cannot express membarrier). Models of what must hold without any
//! fence use the asymmetric mode, whose light half is nothing.

#[cfg(not(loom))]
mod imp {
    use crate::copy::copy_fresh;
    pub(crate) use crate::sys::futex::FutexWord;
    /// A number in an end, which threads may share.
    pub(crate) use core::sync::atomic::AtomicU64 as EndU64;
    pub(crate) use core::sync::atomic::{
        AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, compiler_fence, fence,
    };
    use core::{cell::UnsafeCell, mem::MaybeUninit, ptr::NonNull};

    /// Room for one `T` that changes hands by a protocol: whoever holds the claim on it may touch it, nobody else.
    #[repr(transparent)]
    pub(crate) struct Payload<T>(UnsafeCell<MaybeUninit<T>>);

    impl<T: Copy> Payload<T> {
        /// # Safety
        /// The caller holds the claim on this payload.
        #[inline]
        pub(crate) unsafe fn write(&self, value: &T) {
            // SAFETY: the claim makes this cell ours; both pointers come from live references to different memory.
            unsafe { copy_fresh(value, self.0.get().cast()) }
        }

        /// # Safety
        /// The caller holds the claim on this payload, and `T` accepts every bit pattern.
        #[inline]
        pub(crate) unsafe fn read(&self) -> T {
            // SAFETY: the claim makes this cell ours; every bit pattern is a `T` by the caller's word.
            unsafe { self.0.get().cast::<T>().read() }
        }

        /// Writes `values` into as many payloads in a row.
        ///
        /// # Safety
        /// The caller holds the claims on all of them, of which `first` is the first.
        pub(crate) unsafe fn write_all(first: NonNull<Self>, values: &[T]) {
            // SAFETY: the claims make these cells ours, and `values` is other memory.
            unsafe { first.as_ptr().cast::<T>().copy_from_nonoverlapping(values.as_ptr(), values.len()) }
        }

        /// Appends `count` payloads in a row to `buffer`, which has room for them.
        ///
        /// # Safety
        /// The caller holds the claims on all of them, of which `first` is the first; `T` accepts every bit pattern.
        pub(crate) unsafe fn append_all(first: NonNull<Self>, count: usize, buffer: &mut Vec<T>) {
            let room = &mut buffer.spare_capacity_mut()[..count];
            // SAFETY: the claims make these cells ours, and the buffer is other memory with as much room.
            unsafe { first.as_ptr().cast::<MaybeUninit<T>>().copy_to_nonoverlapping(room.as_mut_ptr(), count) }
            // SAFETY: they were written just now, and any bits are a `T`.
            unsafe { buffer.set_len(buffer.len() + count) }
        }

        /// Where the payload is; the caller follows the rules above.
        pub(crate) fn place(&self) -> NonNull<T> {
            NonNull::from(&self.0).cast()
        }
    }
}

#[cfg(loom)]
mod imp {
    pub(crate) use core::sync::atomic::compiler_fence;
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
    use loom::{
        cell::UnsafeCell,
        sync::{Condvar, Mutex},
    };

    use super::{Ordering, private};
    use crate::deadline::Deadline;
    use crate::event::Slept;

    /// See the other `Payload`; loom sees each access, so a payload race is an error of the model.
    pub(crate) struct Payload<T>(UnsafeCell<T>);

    impl<T: Copy> Payload<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// # Safety
        /// As of the other one.
        pub(crate) unsafe fn write(&self, value: &T) {
            // SAFETY: loom itself checks that nobody else is inside.
            self.0.with_mut(|p| unsafe { p.write(*value) })
        }

        /// # Safety
        /// As of the other one.
        pub(crate) unsafe fn read(&self) -> T {
            // SAFETY: loom itself checks that nobody else writes.
            self.0.with(|p| unsafe { p.read() })
        }
    }

    /// A number in an end, which threads may share. In most models each has its own: then loom need not see it.
    #[derive(Debug)]
    pub(crate) enum EndU64 {
        Own(private::AtomicU64),
        Shared(AtomicU64),
    }

    impl EndU64 {
        pub(crate) fn new(value: u64) -> Self {
            Self::Own(value.into())
        }

        pub(crate) fn share(&mut self) {
            *self = Self::Shared(AtomicU64::new(self.load(Ordering::Relaxed)));
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            match self {
                Self::Own(own) => own.load(order),
                Self::Shared(shared) => shared.load(order),
            }
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            match self {
                Self::Own(own) => own.store(value, order),
                Self::Shared(shared) => shared.store(value, order),
            }
        }

        pub(crate) fn compare_exchange(&self, now: u64, next: u64, ok: Ordering, err: Ordering) -> Result<u64, u64> {
            match self {
                Self::Own(own) => own.compare_exchange(now, next, ok, err),
                Self::Shared(shared) => shared.compare_exchange(now, next, ok, err),
            }
        }
    }

    /// A futex word as loom can explore it. `gate` orders the check of the word against a wake, as the kernel's
    /// bucket lock does, and wakes in the order of arrival, as the kernel does among equals: a wake meant for one
    /// sleeper is never spent on a later one.
    pub(crate) struct FutexWord {
        word: AtomicU32,
        gate: Mutex<Gate>,
        bell: Condvar,
    }

    #[derive(Default)]
    struct Gate {
        arrived: u32,
        released: u32,
    }

    impl FutexWord {
        pub(crate) fn new() -> Self {
            Self { word: AtomicU32::new(0), gate: Mutex::new(Gate::default()), bell: Condvar::new() }
        }

        pub(crate) fn word(&self) -> &AtomicU32 {
            &self.word
        }

        pub(crate) fn wait(&self, expected: u32, _deadline: Option<Deadline>) -> Slept {
            let mut gate = self.gate.lock().unwrap();
            if self.word.load(core::sync::atomic::Ordering::Relaxed) != expected {
                return Slept::Stale;
            }
            let place = gate.arrived;
            gate.arrived += 1;
            while gate.released <= place {
                gate = self.bell.wait(gate).unwrap();
            }
            Slept::Woken
        }

        pub(crate) fn wake(&self, most: u32) -> u32 {
            let mut gate = self.gate.lock().unwrap();
            let woken = most.min(gate.arrived - gate.released);
            gate.released += woken;
            drop(gate);
            self.bell.notify_all();
            woken
        }
    }
}

/// Atomics that no other process sees; real ones under loom too, since no model is about them. See also [`EndU64`].
pub(crate) use core::sync::atomic as private;
pub(crate) use core::sync::atomic::Ordering;
pub(crate) use imp::*;

/// How the two halves of the sleep/wake handshake are ordered, fixed when a segment is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FenceMode {
    /// Both halves execute a sequentially consistent fence.
    Full,
    /// The waker's half is a compiler fence; the sleeper's half is `membarrier(GLOBAL_EXPEDITED)`, which makes every
    /// running thread of every registered process execute a full fence.
    Asymmetric,
}

/// The frequent half of the handshake: orders a commit before the look at who sleeps.
#[inline(always)]
pub(crate) fn light_fence(mode: FenceMode) {
    if mode == FenceMode::Full {
        fence(Ordering::SeqCst);
    } else {
        compiler_fence(Ordering::SeqCst);
    }
}

/// The rare half: orders a registration before the second look at the ring. About 0.6 µs in asymmetric mode.
#[cold]
pub(crate) fn heavy_fence(mode: FenceMode) {
    fence(Ordering::SeqCst);
    #[cfg(not(loom))]
    if mode == FenceMode::Asymmetric {
        crate::sys::membarrier::global_expedited();
    }
    let _ = mode;
}

/// Tells the processor, or loom's scheduler, that this thread is waiting for another.
#[inline]
pub(crate) fn spin_loop() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
