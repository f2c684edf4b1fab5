//! [`Atomic`]: numbers in shared memory, and what [`Value`](crate::Value) and [`Array`](crate::Array) have in common.

use core::fmt;

use crate::primitive::{
    AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering,
};

mod sealed {
    use super::{Ordering, fmt};

    /// The operations of one element type on its cell.
    pub trait Cell: Copy + PartialEq + fmt::Debug + Send + Sync + 'static {
        type Cell: Send + Sync;
        const NAME: &'static str;
        fn load(cell: &Self::Cell, order: Ordering) -> Self;
        fn store(cell: &Self::Cell, value: Self, order: Ordering);
        fn swap(cell: &Self::Cell, value: Self, order: Ordering) -> Self;
        fn compare_exchange(
            cell: &Self::Cell,
            current: Self,
            new: Self,
            success: Ordering,
            failure: Ordering,
            weak: bool,
        ) -> Result<Self, Self>;
        /// Replaces the very bits that were read, whatever they are: a peer may have written a `bool` of 2.
        fn replace(cell: &Self::Cell, order: Ordering, f: impl FnMut(Self) -> Self) -> Self;
    }

    pub trait Arithmetic: Cell {
        fn fetch_add(cell: &Self::Cell, value: Self, order: Ordering) -> Self;
        fn fetch_sub(cell: &Self::Cell, value: Self, order: Ordering) -> Self;
        fn fetch_min(cell: &Self::Cell, value: Self, order: Ordering) -> Self;
        fn fetch_max(cell: &Self::Cell, value: Self, order: Ordering) -> Self;
    }

    pub trait Logic: Cell {
        fn fetch_and(cell: &Self::Cell, value: Self, order: Ordering) -> Self;
        fn fetch_or(cell: &Self::Cell, value: Self, order: Ordering) -> Self;
        fn fetch_xor(cell: &Self::Cell, value: Self, order: Ordering) -> Self;
    }
}

use sealed::{Arithmetic, Cell, Logic};

/// Types that [`Value`](crate::Value) and [`Array`](crate::Array) hold: `i8` to `i64`, `u8` to `u64`, `f32`, `f64`,
/// `bool`.
pub trait Scalar: Cell {}
/// Scalars that can be added and compared: all but `bool`.
pub trait Number: Scalar + Arithmetic {}
/// Scalars with bits of their own: integers and `bool`.
pub trait Bits: Scalar + Logic {}

macro_rules! integers {
    ($($t:ident $atomic:ident),+) => {$(
        impl Cell for $t {
            type Cell = $atomic;
            const NAME: &'static str = stringify!($t);
            #[inline]
            fn load(cell: &$atomic, order: Ordering) -> Self { cell.load(order) }
            #[inline]
            fn store(cell: &$atomic, value: Self, order: Ordering) { cell.store(value, order) }
            #[inline]
            fn swap(cell: &$atomic, value: Self, order: Ordering) -> Self { cell.swap(value, order) }
            #[inline]
            fn compare_exchange(
                cell: &$atomic, current: Self, new: Self, success: Ordering, failure: Ordering, weak: bool,
            ) -> Result<Self, Self> {
                if weak {
                    cell.compare_exchange_weak(current, new, success, failure)
                } else {
                    cell.compare_exchange(current, new, success, failure)
                }
            }
            #[inline]
            fn replace(cell: &$atomic, order: Ordering, mut f: impl FnMut(Self) -> Self) -> Self {
                let failure = failure_order(order);
                let mut old = cell.load(Ordering::Relaxed);
                loop {
                    match cell.compare_exchange_weak(old, f(old), order, failure) {
                        Ok(old) => return old,
                        Err(now) => old = now,
                    }
                }
            }
        }
        impl Arithmetic for $t {
            #[inline]
            fn fetch_add(cell: &$atomic, value: Self, order: Ordering) -> Self { cell.fetch_add(value, order) }
            #[inline]
            fn fetch_sub(cell: &$atomic, value: Self, order: Ordering) -> Self { cell.fetch_sub(value, order) }
            #[inline]
            fn fetch_min(cell: &$atomic, value: Self, order: Ordering) -> Self { cell.fetch_min(value, order) }
            #[inline]
            fn fetch_max(cell: &$atomic, value: Self, order: Ordering) -> Self { cell.fetch_max(value, order) }
        }
        impl Logic for $t {
            #[inline]
            fn fetch_and(cell: &$atomic, value: Self, order: Ordering) -> Self { cell.fetch_and(value, order) }
            #[inline]
            fn fetch_or(cell: &$atomic, value: Self, order: Ordering) -> Self { cell.fetch_or(value, order) }
            #[inline]
            fn fetch_xor(cell: &$atomic, value: Self, order: Ordering) -> Self { cell.fetch_xor(value, order) }
        }
        impl Scalar for $t {}
        impl Number for $t {}
        impl Bits for $t {}
    )+};
}

integers!(
    i8 AtomicI8, i16 AtomicI16, i32 AtomicI32, i64 AtomicI64, u8 AtomicU8, u16 AtomicU16, u32 AtomicU32, u64 AtomicU64
);

/// Types that are kept as the bits of an integer.
macro_rules! as_bits {
    ($($t:ident $atomic:ident $to:expr, $from:expr);+) => {$(
        impl Cell for $t {
            type Cell = $atomic;
            const NAME: &'static str = stringify!($t);
            #[inline]
            fn load(cell: &$atomic, order: Ordering) -> Self { $from(cell.load(order)) }
            #[inline]
            fn store(cell: &$atomic, value: Self, order: Ordering) { cell.store($to(value), order) }
            #[inline]
            fn swap(cell: &$atomic, value: Self, order: Ordering) -> Self { $from(cell.swap($to(value), order)) }
            #[inline]
            fn compare_exchange(
                cell: &$atomic, current: Self, new: Self, success: Ordering, failure: Ordering, weak: bool,
            ) -> Result<Self, Self> {
                let (current, new) = ($to(current), $to(new));
                let mut expected = current;
                loop {
                    let result = if weak {
                        cell.compare_exchange_weak(expected, new, success, failure)
                    } else {
                        cell.compare_exchange(expected, new, success, failure)
                    };
                    match result {
                        // Other bits of the same meaning: a `bool` of 2.
                        Err(now) if now != expected && $to($from(now)) == current => expected = now,
                        result => return result.map($from).map_err($from),
                    }
                }
            }
            #[inline]
            fn replace(cell: &$atomic, order: Ordering, mut f: impl FnMut(Self) -> Self) -> Self {
                let failure = failure_order(order);
                let mut old = cell.load(Ordering::Relaxed);
                loop {
                    match cell.compare_exchange_weak(old, $to(f($from(old))), order, failure) {
                        Ok(old) => return $from(old),
                        Err(now) => old = now,
                    }
                }
            }
        }
        impl Scalar for $t {}
    )+};
}

as_bits! {
    f32 AtomicU32 f32::to_bits, f32::from_bits;
    f64 AtomicU64 f64::to_bits, f64::from_bits;
    bool AtomicU8 u8::from, is_set
}

/// What a `bool`'s byte means; other processes may write more than 0 and 1.
fn is_set(byte: u8) -> bool {
    byte != 0
}

macro_rules! floats {
    ($($t:ident $atomic:ident),+) => {$(
        impl Arithmetic for $t {
            #[inline]
            fn fetch_add(cell: &$atomic, value: Self, order: Ordering) -> Self { Self::replace(cell, order, |old| old + value) }
            #[inline]
            fn fetch_sub(cell: &$atomic, value: Self, order: Ordering) -> Self { Self::replace(cell, order, |old| old - value) }
            #[inline]
            fn fetch_min(cell: &$atomic, value: Self, order: Ordering) -> Self { Self::replace(cell, order, |old| old.min(value)) }
            #[inline]
            fn fetch_max(cell: &$atomic, value: Self, order: Ordering) -> Self { Self::replace(cell, order, |old| old.max(value)) }
        }
        impl Number for $t {}
    )+};
}

floats!(f32 AtomicU32, f64 AtomicU64);

impl Logic for bool {
    #[inline]
    fn fetch_and(cell: &AtomicU8, value: Self, order: Ordering) -> Self {
        Self::replace(cell, order, |old| old & value)
    }
    #[inline]
    fn fetch_or(cell: &AtomicU8, value: Self, order: Ordering) -> Self {
        Self::replace(cell, order, |old| old | value)
    }
    #[inline]
    fn fetch_xor(cell: &AtomicU8, value: Self, order: Ordering) -> Self {
        Self::replace(cell, order, |old| old ^ value)
    }
}

impl Bits for bool {}

/// The failure ordering of a loop whose success is `order`.
fn failure_order(order: Ordering) -> Ordering {
    match order {
        Ordering::Release | Ordering::Relaxed => Ordering::Relaxed,
        Ordering::SeqCst => Ordering::SeqCst,
        _ => Ordering::Acquire,
    }
}

/// A number in shared memory that every process may change at any time; the operations are those of
/// [`core::sync::atomic`], with the ordering in the signature.
///
/// [`Value`](crate::Value) dereferences to one and [`Array`](crate::Array) to a slice of them. All operations are wait-free
/// where the processor has them, lock-free otherwise (`fetch_*` of floats and `bool`, `update`). A participant's death
/// cannot leave one half-written.
#[repr(transparent)]
pub struct Atomic<T: Scalar>(T::Cell);

impl<T: Scalar> Atomic<T> {
    /// Reads the value.
    ///
    /// # Panics
    /// If `order` is `Release` or `AcqRel`, as the standard atomics do.
    #[inline]
    pub fn load(&self, order: Ordering) -> T {
        T::load(&self.0, order)
    }

    /// Writes the value.
    ///
    /// # Panics
    /// If `order` is `Acquire` or `AcqRel`.
    #[inline]
    pub fn store(&self, value: T, order: Ordering) {
        T::store(&self.0, value, order);
    }

    /// Writes the value and returns the old one.
    #[inline]
    pub fn swap(&self, value: T, order: Ordering) -> T {
        T::swap(&self.0, value, order)
    }

    /// Writes `new` if the value is `current` (for floats: has the same bits), and returns the old value either way.
    ///
    /// # Errors
    /// The value that was there instead of `current`.
    ///
    /// # Panics
    /// If `failure` is `Release` or `AcqRel`.
    #[inline]
    pub fn compare_exchange(&self, current: T, new: T, success: Ordering, failure: Ordering) -> Result<T, T> {
        T::compare_exchange(&self.0, current, new, success, failure, false)
    }

    /// As [`Atomic::compare_exchange`], but may fail without cause; for loops.
    ///
    /// # Errors
    /// The value that was there.
    ///
    /// # Panics
    /// If `failure` is `Release` or `AcqRel`.
    #[inline]
    pub fn compare_exchange_weak(&self, current: T, new: T, success: Ordering, failure: Ordering) -> Result<T, T> {
        T::compare_exchange(&self.0, current, new, success, failure, true)
    }

    /// Replaces the value by `f` of it and returns the old one. `f` may run several times, if others change the value
    /// meanwhile.
    #[inline]
    pub fn update(&self, order: Ordering, f: impl FnMut(T) -> T) -> T {
        T::replace(&self.0, order, f)
    }
}

macro_rules! fetch {
    ($bound:ident { $($name:ident $doc:literal),+ }) => {
        impl<T: $bound> Atomic<T> {$(
            #[doc = $doc]
            #[inline]
            pub fn $name(&self, value: T, order: Ordering) -> T {
                T::$name(&self.0, value, order)
            }
        )+}
    };
}

fetch!(Number {
    fetch_add "Adds and returns the old value; integers wrap around.",
    fetch_sub "Subtracts and returns the old value; integers wrap around.",
    fetch_min "Stores the smaller of the two and returns the old value.",
    fetch_max "Stores the larger of the two and returns the old value."
});

fetch!(Bits {
    fetch_and "Stores the bitwise (for `bool`: logical) and of the two and returns the old value.",
    fetch_or "Stores the or of the two and returns the old value.",
    fetch_xor "Stores the exclusive or of the two and returns the old value."
});

impl<T: Scalar> fmt::Debug for Atomic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load(Ordering::Relaxed).fmt(f)
    }
}
