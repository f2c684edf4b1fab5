//! [`Value`] and [`Array`]: atomics in a segment, with a way to wait for a change.

use core::fmt;
use core::marker::PhantomData;
use core::mem::size_of;
use core::ops::{ControlFlow, Deref};
use core::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use crate::atomic::{Atomic, Scalar};
use crate::deadline::Deadline;
use crate::error::{Error, Timeout};
use crate::event::{ALL, Event, Surroundings};
use crate::layout::LINE;
use crate::object::{ElementType, Kind, Object, Shape};
use crate::pace::Pace;
use crate::primitive::{Ordering, fence};
use crate::segment::{Attached, Segment, Wanted};

/// Where a value's cell lies: behind the event, on the other half of the line pair.
const VALUE_OFFSET: usize = 64;
/// Where an array's cells begin.
const ARRAY_OFFSET: usize = LINE;

fn shape<T: Scalar>(kind: Kind, capacity: u64) -> Shape {
    let size = size_of::<T>() as u32;
    // The cell of a scalar is aligned to its size, on every target.
    let element = ElementType { name: T::NAME.to_owned(), size, align: size, bytes: false };
    Shape { kind, flags: 0, capacity, element, second: None, unbounded: None }
}

/// The event of an object and the cells behind it.
struct Cells<T: Scalar> {
    attached: Arc<Attached>,
    event: NonNull<Event>,
    first: NonNull<Atomic<T>>,
    marker: PhantomData<fn(T) -> T>,
}

// SAFETY: shared memory reached through atomics; `attached` keeps it mapped.
unsafe impl<T: Scalar> Send for Cells<T> {}
// SAFETY: as above.
unsafe impl<T: Scalar> Sync for Cells<T> {}

impl<T: Scalar> Clone for Cells<T> {
    fn clone(&self) -> Self {
        Self { attached: Arc::clone(&self.attached), ..*self }
    }
}

impl<T: Scalar> Cells<T> {
    /// `object` is checked and its cells begin at `offset` within it.
    fn new(attached: &Arc<Attached>, object: &Object, offset: usize) -> Self {
        Self {
            event: attached.view().at(object.offset).cast(),
            first: attached.view().at(object.offset + offset).cast(),
            attached: Arc::clone(attached),
            marker: PhantomData,
        }
    }

    fn event(&self) -> &Event {
        // SAFETY: every object of these kinds begins with its event, in the mapping that `attached` keeps.
        unsafe { self.event.as_ref() }
    }

    fn notify(&self, n: u32) {
        self.event().notify(n, self.attached.fence_mode(), || self.attached.view().ring());
    }

    /// Waits until `done` breaks.
    fn wait<R>(&self, deadline: Option<Deadline>, done: impl FnMut() -> ControlFlow<R>) -> Option<R> {
        self.event().wait(&*self.attached, &Pace::default(), deadline, done)
    }
}

/// A number (or `bool`) in a segment.
///
/// Dereferences to [`Atomic`], which has the operations. Changes are seen at once by everybody who looks; those who sleep
/// in [`Value::wait_while`] are woken by [`Value::notify_one`] or [`Value::notify_all`], which whoever changes the value
/// calls when it matters.
///
/// # Example
///
/// ```
/// use std::sync::atomic::Ordering::{Relaxed, Release};
/// use gimmal::{Segment, Value};
///
/// let segment = Segment::anonymous()?;
/// let ready = Value::<bool>::create(&segment, "ready", false)?;
/// let hits = Value::<u64>::create(&segment, "hits", 0)?;
///
/// let other = (ready.clone(), hits.clone());
/// std::thread::spawn(move || {
///     other.1.fetch_add(3, Relaxed);
///     other.0.store(true, Release);
///     other.0.notify_all();
/// });
/// ready.wait_while(|ready| !ready);
/// assert_eq!(hits.load(Relaxed), 3);
/// # Ok::<(), gimmal::Error>(())
/// ```
pub struct Value<T: Scalar> {
    cells: Cells<T>,
}

impl<T: Scalar> Value<T> {
    fn make(segment: &Segment, name: &str, initial: T, or_open: bool) -> Result<Self, Error> {
        let init = |object: NonNull<u8>| {
            // SAFETY: the object is 128 bytes and nobody else knows of it yet.
            let cell = unsafe { object.add(VALUE_OFFSET) };
            // SAFETY: as above; the offset is aligned for every scalar.
            unsafe { cell.cast::<Atomic<T>>().as_ref() }.store(initial, Ordering::Relaxed);
        };
        let object = segment.attached().create(name, &shape::<T>(Kind::Value, 1), or_open, init)?;
        Ok(Self { cells: Cells::new(segment.attached(), &object, VALUE_OFFSET) })
    }

    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        (&self.cells.attached, self.cells.event.cast())
    }

    /// Creates a value.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoRoom`], [`Error::NoObjectSlot`], [`Error::BadName`].
    pub fn create(segment: &Segment, name: &str, initial: T) -> Result<Self, Error> {
        Self::make(segment, name, initial, false)
    }

    /// Opens an existing value.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::KindMismatch`], [`Error::TypeMismatch`].
    pub fn open(segment: &Segment, name: &str) -> Result<Self, Error> {
        let object = segment.attached().find(name, &Wanted::like(shape::<T>(Kind::Value, 1)))?;
        Ok(Self { cells: Cells::new(segment.attached(), &object, VALUE_OFFSET) })
    }

    /// Opens the value, or creates it if need be; `initial` counts only for the one who creates.
    ///
    /// # Errors
    /// As for [`Value::create`] and [`Value::open`].
    pub fn open_or_create(segment: &Segment, name: &str, initial: T) -> Result<Self, Error> {
        Self::make(segment, name, initial, true)
    }

    /// Sleeps while `condition` of the value holds, and returns the first value for which it does not. Whoever changes
    /// the value must notify.
    pub fn wait_while(&self, condition: impl FnMut(T) -> bool) -> T {
        self.wait_until(None, condition).unwrap_or_else(|| unreachable!("a wait without a deadline"))
    }

    /// As [`Value::wait_while`], for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`] if the condition still holds then.
    pub fn wait_while_timeout(&self, timeout: Duration, condition: impl FnMut(T) -> bool) -> Result<T, Timeout> {
        self.wait_until(Deadline::after(timeout), condition).ok_or(Timeout)
    }

    fn wait_until(&self, deadline: Option<Deadline>, mut condition: impl FnMut(T) -> bool) -> Option<T> {
        self.cells.wait(deadline, || {
            let value = self.load(Ordering::Acquire);
            if condition(value) { ControlFlow::Continue(()) } else { ControlFlow::Break(value) }
        })
    }

    /// Wakes one sleeper of [`Value::wait_while`]; a load and no system call if there is none.
    pub fn notify_one(&self) {
        self.cells.notify(1);
    }

    /// Wakes all sleepers of [`Value::wait_while`].
    pub fn notify_all(&self) {
        self.cells.notify(ALL);
    }
}

impl<T: Scalar> Deref for Value<T> {
    type Target = Atomic<T>;
    #[inline]
    fn deref(&self) -> &Atomic<T> {
        // SAFETY: inside a checked object, in the mapping that `attached` keeps; aligned; reached through atomics only.
        unsafe { self.cells.first.as_ref() }
    }
}

impl<T: Scalar> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self { cells: self.cells.clone() }
    }
}

impl<T: Scalar> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Value").field(&**self).finish()
    }
}

/// A fixed number of numbers in a segment.
///
/// Dereferences to a slice of [`Atomic`]: index it, iterate over it, take sub-slices. Each element is atomic by itself;
/// the copies of ranges are not atomic as a whole: what others write meanwhile may be seen in part.
///
/// # Example
///
/// ```
/// use std::sync::atomic::Ordering::Relaxed;
/// use gimmal::{Array, Segment};
///
/// let segment = Segment::anonymous()?;
/// let counts = Array::<u32>::create(&segment, "counts", 100)?; // zeros
/// counts[7].fetch_add(1, Relaxed);
/// counts.write(98, &[5, 6])?;
/// assert_eq!(counts.iter().map(|c| c.load(Relaxed)).sum::<u32>(), 12);
/// assert_eq!(counts.to_vec()[97..], [0, 5, 6]);
/// # Ok::<(), gimmal::Error>(())
/// ```
pub struct Array<T: Scalar> {
    cells: Cells<T>,
    length: usize,
}

impl<T: Scalar> Array<T> {
    fn shape(length: usize) -> Result<Shape, Error> {
        if length == 0 {
            return Err(Error::BadSize { what: "an array length", given: 0, maximum: isize::MAX as u64 });
        }
        Ok(shape::<T>(Kind::Array, length as u64))
    }

    fn at(segment: &Segment, object: &Object) -> Self {
        let cells = Cells::new(segment.attached(), object, ARRAY_OFFSET);
        Self { cells, length: object.shape.capacity as usize }
    }

    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        (&self.cells.attached, self.cells.event.cast())
    }

    /// Creates an array of `length` zeros (`false`).
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoRoom`], [`Error::NoObjectSlot`], [`Error::BadName`]; [`Error::BadSize`] for 0.
    pub fn create(segment: &Segment, name: &str, length: usize) -> Result<Self, Error> {
        let object = segment.attached().create(name, &Self::shape(length)?, false, |_| {})?;
        Ok(Self::at(segment, &object))
    }

    /// Opens an existing array, of whatever length.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::KindMismatch`], [`Error::TypeMismatch`].
    pub fn open(segment: &Segment, name: &str) -> Result<Self, Error> {
        let object = segment.attached().find(name, &Wanted::like(Self::shape(1)?))?;
        Ok(Self::at(segment, &object))
    }

    /// Opens the array, or creates it if need be.
    ///
    /// # Errors
    /// As for [`Array::create`] and [`Array::open`]; [`Error::CapacityMismatch`] if it exists with another length.
    pub fn open_or_create(segment: &Segment, name: &str, length: usize) -> Result<Self, Error> {
        let object = segment.attached().create(name, &Self::shape(length)?, true, |_| {})?;
        Ok(Self::at(segment, &object))
    }

    /// Bytes that an array of this length takes in a segment; `usize::MAX` if none could hold it.
    #[must_use]
    pub fn bytes(length: usize) -> usize {
        shape::<T>(Kind::Array, length as u64).bytes().unwrap_or(usize::MAX)
    }

    fn range(&self, start: usize, length: usize) -> Result<&[Atomic<T>], Error> {
        let end = start.checked_add(length);
        end.and_then(|end| self.get(start..end)).ok_or(Error::OutOfRange { start, length, found: self.length })
    }

    /// Copies the elements from `start` on into all of `into`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn read(&self, start: usize, into: &mut [T]) -> Result<(), Error> {
        let cells = self.range(start, into.len())?;
        for (to, from) in into.iter_mut().zip(cells) {
            *to = from.load(Ordering::Relaxed);
        }
        // Each load above becomes an Acquire one.
        fence(Ordering::Acquire);
        Ok(())
    }

    /// Copies all of `from` to the elements from `start` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn write(&self, start: usize, from: &[T]) -> Result<(), Error> {
        let cells = self.range(start, from.len())?;
        // Each store below becomes a Release one.
        fence(Ordering::Release);
        for (to, &from) in cells.iter().zip(from) {
            to.store(from, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sets every element.
    pub fn fill(&self, value: T) {
        fence(Ordering::Release);
        for cell in self.iter() {
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// All elements, copied one by one.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        let copy = self.iter().map(|cell| cell.load(Ordering::Relaxed)).collect();
        fence(Ordering::Acquire);
        copy
    }

    /// Sleeps while `condition` of the elements holds. Whoever changes an element must notify.
    pub fn wait_while(&self, condition: impl FnMut(&[Atomic<T>]) -> bool) {
        self.wait_until(None, condition);
    }

    /// As [`Array::wait_while`], for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`] if the condition still holds then.
    pub fn wait_while_timeout(
        &self,
        timeout: Duration,
        condition: impl FnMut(&[Atomic<T>]) -> bool,
    ) -> Result<(), Timeout> {
        self.wait_until(Deadline::after(timeout), condition).ok_or(Timeout)
    }

    fn wait_until(&self, deadline: Option<Deadline>, mut condition: impl FnMut(&[Atomic<T>]) -> bool) -> Option<()> {
        self.cells.wait(deadline, || if condition(self) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    /// Wakes one sleeper of [`Array::wait_while`]; a load and no system call if there is none.
    pub fn notify_one(&self) {
        self.cells.notify(1);
    }

    /// Wakes all sleepers of [`Array::wait_while`].
    pub fn notify_all(&self) {
        self.cells.notify(ALL);
    }
}

impl<T: Scalar> Deref for Array<T> {
    type Target = [Atomic<T>];
    #[inline]
    fn deref(&self) -> &[Atomic<T>] {
        // SAFETY: a checked object of this length lies in the mapping that `attached` keeps; reached through atomics only.
        unsafe { core::slice::from_raw_parts(self.cells.first.as_ptr(), self.length) }
    }
}

impl<T: Scalar> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self { cells: self.cells.clone(), length: self.length }
    }
}

impl<T: Scalar> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
