//! A lock of a few instructions for process-private tables, of a kind that fork handlers can hold and reset.

use core::cell::UnsafeCell;

use crossbeam_utils::Backoff;

use crate::primitive::Ordering;
use crate::primitive::private::AtomicBool;

/// Mutual exclusion between threads of this process for sections without system calls.
pub(crate) struct Spin<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` gives the value to one thread at a time.
unsafe impl<T: Send> Sync for Spin<T> {}

impl<T> Spin<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Runs `section` alone.
    pub(crate) fn with<R>(&self, section: impl FnOnce(&mut T) -> R) -> R {
        struct Open<'a>(&'a AtomicBool);
        impl Drop for Open<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        self.acquire();
        let _open = Open(&self.taken);
        // SAFETY: between acquire and release no other thread is here.
        section(unsafe { &mut *self.value.get() })
    }

    /// Takes the lock for longer than a section; [`Spin::release`] gives it back.
    pub(crate) fn acquire(&self) {
        let backoff = Backoff::new();
        while self.taken.swap(true, Ordering::Acquire) {
            backoff.snooze();
        }
    }

    /// Takes the lock if it is free now.
    pub(crate) fn try_acquire(&self) -> bool {
        !self.taken.swap(true, Ordering::Acquire)
    }

    /// Ends what [`Spin::acquire`] began, in the same thread or in a fork child's only one.
    pub(crate) fn release(&self) {
        self.taken.store(false, Ordering::Release);
    }
}
