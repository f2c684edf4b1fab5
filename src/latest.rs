//! [`Latest`]: a value of any size, the last committed state of which is always there.
//!
//! The protocol and its proof stand in [`crate::buffers`]. Writers that find no free buffer sleep on `free`: whoever
//! publishes, releases or gives up notifies it afterwards. That a writer is killed between publication and notification is
//! covered as in [`crate::event`].

use core::fmt;
use core::marker::PhantomData;
use core::mem::{align_of, offset_of, size_of};
use core::ops::ControlFlow;
use core::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;

use crate::buffers::{self, Buffers, Claim, Header, MOST, Stamp};
use crate::deadline::Deadline;
use crate::error::{Error, Timeout};
use crate::event::{ALL, Surroundings};
use crate::ids::Ids;
use crate::layout::{LINE, round_up};
use crate::object::{ElementType, Kind, Object, Shape};
use crate::pace::Pace;
use crate::primitive::{AtomicU64, spin_loop};
use crate::segment::view::View;
use crate::segment::{Attached, Segment, Wanted};

/// Largest value, in bytes.
const LARGEST: usize = 1 << 20;
/// Up to this many bytes a value has [`MOST`] buffers, beyond it half as many.
const SMALL: usize = 4096;
/// Where the buffers begin.
const CELLS_OFFSET: usize = size_of::<Header>();
/// Looks after which a reader that writers disturb lets others run.
const LOOKS: u32 = 16;
/// Where the events lie in the object.
pub(crate) const EVENT_OFFSETS: [usize; 2] = [offset_of!(Header, changed), offset_of!(Header, free)];

/// How many buffers values of this many bytes have. A part of the layout.
const fn count(size: usize) -> usize {
    if size <= SMALL { MOST } else { MOST / 2 }
}

/// Bytes of an object for values of this many bytes; `None` if that is beyond the address space.
pub(crate) fn bytes(size: usize) -> Option<usize> {
    round_up(size, LINE)?.checked_mul(count(size))?.checked_add(CELLS_OFFSET)
}

/// A value of any size in a segment, of which the last committed version can always be read.
///
/// What [`Value`](crate::Value) is for numbers, this is for everything else: a position, a configuration, a picture of up to
/// 1 MiB. Any number of writers and readers; each version is seen whole, versions never go back. It keeps the last value only:
/// who looks too rarely misses some.
///
/// *Progress:* a reader writes nothing to the segment and waits for nobody; it looks again if its value is overwritten while it
/// is copied, which takes several stores during one load. Writers are lock-free: each works in a buffer of its own, of which there
/// are 8 (4 if the value has more than 4 KiB). One that is stopped in the middle keeps its buffer. Only when all but the current
/// one are kept do others wait, asleep: that takes 7 (3) writers in the middle of a store at once. *A crash* of a writer
/// is harmless at any instruction: before the publication the store never happened, after it, it has. There is no
/// `OwnerDied` here, since nothing is ever half done.
///
/// `T` is any [`Pod`] type of 1 byte to 1 MiB.
///
/// # Example
///
/// ```
/// use gimmal::{Latest, Segment};
///
/// let segment = Segment::anonymous()?;
/// let pose = Latest::<[f64; 6]>::create(&segment, "pose", [0.0; 6])?;
/// let first = pose.load_versioned();
/// assert_eq!((first.value, first.version), ([0.0; 6], 0));
///
/// let writer = pose.clone();
/// std::thread::spawn(move || writer.store([1.0; 6]));
/// let moved = pose.wait_changed(first.version);
/// assert_eq!((moved.value, moved.version), ([1.0; 6], 1));
/// # Ok::<(), gimmal::Error>(())
/// ```
pub struct Latest<T: Pod> {
    attached: Arc<Attached>,
    header: NonNull<Header>,
    cells: NonNull<AtomicU64>,
    marker: PhantomData<fn(T) -> T>,
}

// SAFETY: shared memory reached through atomics; `attached` keeps it mapped.
unsafe impl<T: Pod + Send> Send for Latest<T> {}
// SAFETY: as above.
unsafe impl<T: Pod + Send> Sync for Latest<T> {}

/// A value and which version it is: how many were stored before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// Its version; 0 is the initial value.
    pub version: u64,
}

impl<T: Pod> Latest<T> {
    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        (&self.attached, self.header.cast())
    }

    const CHECK: () = {
        assert!(size_of::<T>() > 0, "gimmal: a value without bytes has no versions that differ");
        assert!(align_of::<T>() <= 64, "gimmal: values may be aligned to at most 64 bytes");
    };
    const COUNT: usize = count(size_of::<T>());

    fn shape() -> Result<Shape, Error> {
        let () = Self::CHECK;
        if size_of::<T>() > LARGEST {
            let (what, given) = ("the bytes of a value", size_of::<T>() as u64);
            return Err(Error::BadSize { what, given, maximum: LARGEST as u64 });
        }
        Ok(Shape {
            kind: Kind::Latest,
            flags: 0,
            capacity: 1,
            element: ElementType::of::<T>(),
            second: None,
            unbounded: None,
        })
    }

    fn at(attached: &Arc<Attached>, object: &Object) -> Self {
        Self {
            header: attached.view().at(object.offset).cast(),
            cells: attached.view().at(object.offset + CELLS_OFFSET).cast(),
            attached: Arc::clone(attached),
            marker: PhantomData,
        }
    }

    fn make(segment: &Segment, name: &str, initial: &T, or_open: bool) -> Result<Self, Error> {
        let init = |object: NonNull<u8>| {
            // SAFETY: the object has its buffers behind this offset.
            let cells = unsafe { object.add(CELLS_OFFSET) };
            // SAFETY: the first buffer is that long, zeroed, and aligned to more; nobody else knows of it yet.
            let first = unsafe { core::slice::from_raw_parts(cells.cast().as_ptr(), Self::stride()) };
            buffers::initialize(first, bytemuck::bytes_of(initial));
        };
        let object = segment.attached().create(name, &Self::shape()?, or_open, init)?;
        Ok(Self::at(segment.attached(), &object))
    }

    /// Creates a value; what it begins with is version 0.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoRoom`], [`Error::NoObjectSlot`], [`Error::BadName`]; [`Error::BadSize`] if `T` has more than
    /// 1 MiB.
    pub fn create(segment: &Segment, name: &str, initial: T) -> Result<Self, Error> {
        Self::make(segment, name, &initial, false)
    }

    /// As [`Latest::create`], for values that are too large for the stack.
    ///
    /// # Errors
    /// As there.
    pub fn create_from(segment: &Segment, name: &str, initial: &T) -> Result<Self, Error> {
        Self::make(segment, name, initial, false)
    }

    /// Opens an existing value.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::KindMismatch`], [`Error::TypeMismatch`]; [`Error::BadSize`] as for [`Latest::create`].
    pub fn open(segment: &Segment, name: &str) -> Result<Self, Error> {
        let object = segment.attached().find(name, &Wanted::like(Self::shape()?))?;
        Ok(Self::at(segment.attached(), &object))
    }

    /// Opens the value, or creates it if need be; `initial` counts only for the one who creates.
    ///
    /// # Errors
    /// As for [`Latest::create`] and [`Latest::open`].
    pub fn open_or_create(segment: &Segment, name: &str, initial: T) -> Result<Self, Error> {
        Self::make(segment, name, &initial, true)
    }

    /// As [`Latest::open_or_create`], for values that are too large for the stack.
    ///
    /// # Errors
    /// As there.
    pub fn open_or_create_from(segment: &Segment, name: &str, initial: &T) -> Result<Self, Error> {
        Self::make(segment, name, initial, true)
    }

    /// Bytes that a value of this type takes in a segment: about 8 times its own, 4 times if it has more than 4 KiB.
    #[must_use]
    pub fn bytes() -> usize {
        bytes(size_of::<T>()).unwrap_or(usize::MAX)
    }

    /// Words of a buffer.
    fn stride() -> usize {
        size_of::<T>().next_multiple_of(LINE) / size_of::<AtomicU64>()
    }

    fn header(&self) -> &Header {
        // SAFETY: the object begins with its header, in the mapping that `attached` keeps; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    fn buffers(&self) -> Buffers<'_> {
        // SAFETY: a checked object for values of this size has so many words here, reached through atomics only.
        let cells = unsafe { core::slice::from_raw_parts(self.cells.as_ptr(), Self::stride() * Self::COUNT) };
        Buffers { header: self.header(), cells, count: Self::COUNT }
    }

    // --- reading ---

    /// The last value that was stored.
    ///
    /// *Progress:* wait-free, but for looking again while writers overwrite what is being copied; it lets others run in
    /// between. A peer that breaks the protocol and never stops writing can keep it busy; see [`Latest::try_load`].
    #[must_use]
    pub fn load(&self) -> T {
        self.load_versioned().value
    }

    /// The last value that was stored, with its version. *Progress:* as [`Latest::load`].
    #[must_use]
    pub fn load_versioned(&self) -> Versioned<T> {
        let mut value = T::zeroed();
        let version = self.load_into(&mut value);
        Versioned { value, version }
    }

    /// Copies the last value that was stored to where the caller has room for it, and returns its version: for values that are
    /// too large for the stack. *Progress:* as [`Latest::load`].
    ///
    /// ```
    /// use gimmal::{Latest, Segment};
    ///
    /// let segment = Segment::options().size(8 << 20).anonymous()?;
    /// let mut picture = vec![[0_u8; 1 << 20]]; // one, on the heap
    /// let latest = Latest::create_from(&segment, "picture", &picture[0])?;
    /// picture[0][7] = 5;
    /// latest.store_from(&picture[0])?;
    /// let version = latest.load_into(&mut picture[0]);
    /// assert_eq!((picture[0][7], version), (5, 1));
    /// # Ok::<(), gimmal::Error>(())
    /// ```
    pub fn load_into(&self, value: &mut T) -> u64 {
        self.read(value).version()
    }

    /// As [`Latest::load_versioned`], in a bounded number of steps whatever anybody does: looks once, and gives up if writers were
    /// faster. *Progress:* wait-free.
    #[must_use]
    pub fn try_load(&self) -> Option<Versioned<T>> {
        let mut value = T::zeroed();
        let stamp = self.buffers().read(bytemuck::bytes_of_mut(&mut value))?;
        Some(Versioned { value, version: stamp.version() })
    }

    fn read(&self, value: &mut T) -> Stamp {
        let (buffers, mut looks) = (self.buffers(), 0_u32);
        loop {
            if let Some(stamp) = buffers.read(bytemuck::bytes_of_mut(value)) {
                return stamp;
            }
            // Only while others publish.
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS) { std::thread::yield_now() } else { spin_loop() }
        }
    }

    /// The version of the last value: how many values have been stored since it was created. *Progress:* wait-free; one load.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.buffers().stamp().version()
    }

    /// The last value, if it is not the one of this version. One load if it is.
    ///
    /// ```
    /// # use gimmal::{Latest, Segment};
    /// # let segment = Segment::anonymous()?;
    /// let limits = Latest::create(&segment, "limits", [1, 2, 3])?;
    /// let mut seen = limits.load_versioned();
    /// assert_eq!(limits.changed_since(seen.version), None);
    /// limits.store([4, 5, 6])?;
    /// if let Some(news) = limits.changed_since(seen.version) {
    ///     seen = news;
    /// }
    /// assert_eq!(seen.value, [4, 5, 6]);
    /// # Ok::<(), gimmal::Error>(())
    /// ```
    #[must_use]
    pub fn changed_since(&self, version: u64) -> Option<Versioned<T>> {
        (self.version() != version).then(|| self.load_versioned())
    }

    /// Sleeps until the last value is another one than that of this version, and returns it.
    ///
    /// A `Latest` has no ends: any participant of the segment may store the next value, and nobody is known as its writer. So the death
    /// of the one who would have stored it does not end the wait. Where that matters, use
    /// [`Latest::wait_changed_timeout`], or [`Segment::watch`], which tells of deaths.
    pub fn wait_changed(&self, version: u64) -> Versioned<T> {
        self.wait_until(None, version).unwrap_or_else(|| unreachable!("a wait without a deadline"))
    }

    /// As [`Latest::wait_changed`], for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`] if nothing was stored.
    pub fn wait_changed_timeout(&self, version: u64, timeout: Duration) -> Result<Versioned<T>, Timeout> {
        self.wait_until(Deadline::after(timeout), version).ok_or(Timeout)
    }

    fn wait_until(&self, deadline: Option<Deadline>, version: u64) -> Option<Versioned<T>> {
        let has_changed = || match self.version() != version {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        self.header().changed.wait(&*self.attached, &Pace::default(), deadline, has_changed)?;
        Some(self.load_versioned())
    }

    // --- writing ---

    /// Stores a value and returns its version.
    ///
    /// *Progress:* lock-free, unless every buffer is kept by a writer that stands still: then it sleeps until one goes on, or its
    /// death is noticed. *A crash* before the publication: never happened; after it: everybody sees the value.
    ///
    /// # Errors
    /// [`Error::Io`] in a forked child that cannot join the segment.
    pub fn store(&self, value: T) -> Result<u64, Error> {
        self.store_from(&value)
    }

    /// As [`Latest::store`], for values that are too large for the stack.
    ///
    /// # Errors
    /// As there.
    pub fn store_from(&self, value: &T) -> Result<u64, Error> {
        self.store_until(None, Duration::MAX, value)
    }

    /// As [`Latest::store_from`]; waits for a buffer for at most `timeout`, not at all if that is zero.
    ///
    /// # Errors
    /// As there; [`Error::NoBuffer`] if all buffers have been kept by other writers for so long.
    pub fn store_timeout(&self, value: &T, timeout: Duration) -> Result<u64, Error> {
        self.store_until(Deadline::after(timeout), timeout, value)
    }

    fn store_until(&self, deadline: Option<Deadline>, timeout: Duration, value: &T) -> Result<u64, Error> {
        let claim = self.write(deadline, value)?.ok_or(Error::NoBuffer { waited: timeout })?;
        let stamp = self.publish(claim, None).unwrap_or_else(|| unreachable!("it expects nothing"));
        Ok(stamp.version())
    }

    /// Changes the value: reads it, lets `change` change the copy, and stores that if nobody has stored meanwhile; else all
    /// over again, so `change` may be called several times. Returns what was stored.
    ///
    /// *Progress:* lock-free, as [`Latest::store`]: each time round means that somebody else has stored. *A crash:* as there.
    ///
    /// ```
    /// # use gimmal::{Latest, Segment};
    /// # let segment = Segment::anonymous()?;
    /// let score = Latest::create(&segment, "score", [0_u64; 12])?;
    /// std::thread::scope(|scope| {
    ///     for player in 0..2 {
    ///         let score = score.clone();
    ///         scope.spawn(move || (0..100).for_each(|_| _ = score.update(|score| score[player] += 1)));
    ///     }
    /// });
    /// assert_eq!(score.load()[..3], [100, 100, 0]);
    /// # Ok::<(), gimmal::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Latest::store`].
    pub fn update(&self, change: impl FnMut(&mut T)) -> Result<Versioned<T>, Error> {
        let mut value = T::zeroed();
        let version = self.update_in(&mut value, change)?;
        Ok(Versioned { value, version })
    }

    /// As [`Latest::update`], for values that are too large for the stack: the copy is made in `room`, whatever is there before.
    ///
    /// # Errors
    /// As for [`Latest::store`].
    pub fn update_in(&self, room: &mut T, mut change: impl FnMut(&mut T)) -> Result<u64, Error> {
        loop {
            let seen = self.read(room);
            // No buffer is claimed yet: this is the user's code, which may take long, panic, or fork.
            change(room);
            if self.buffers().stamp() != seen {
                continue;
            }
            let claim = self.write(None, room)?.unwrap_or_else(|| unreachable!("a wait without a deadline"));
            if let Some(stamp) = self.publish(claim, Some(seen)) {
                return Ok(stamp.version());
            }
        }
    }

    /// The value in a buffer of ours; waits for one. `None` is the deadline.
    fn write(&self, deadline: Option<Deadline>, value: &T) -> Result<Option<Claim>, Error> {
        let (owner, buffers) = (self.attached.id(), self.buffers());
        if owner == 0 {
            return Err(self.attached.detached());
        }
        if let Some(claim) = buffers.write(owner, bytemuck::bytes_of(value)) {
            return Ok(Some(claim));
        }
        let attempt = || match buffers.write(owner, bytemuck::bytes_of(value)) {
            Some(claim) => ControlFlow::Break(claim),
            None => {
                self.attached.in_vain();
                ControlFlow::Continue(())
            }
        };
        let free = &self.header().free;
        let claim = free.wait(&*self.attached, &Pace::default(), deadline, attempt);
        if claim.is_none() {
            // An attempt holds a buffer for a moment, even if that is current: somebody may have seen it taken.
            free.notify(1, self.attached.fence_mode(), || self.attached.view().ring());
        }
        Ok(claim)
    }

    /// Publishes, and wakes whoever waits for that or for a buffer.
    fn publish(&self, claim: Claim, expected: Option<Stamp>) -> Option<Stamp> {
        let (header, mode) = (self.header(), self.attached.fence_mode());
        let published = self.buffers().publish(claim, expected);
        if published.is_some() {
            header.changed.notify(ALL, mode, || self.attached.view().ring());
        }
        header.free.notify(1, mode, || self.attached.view().ring());
        published
    }
}

impl<T: Pod> Clone for Latest<T> {
    fn clone(&self) -> Self {
        Self { attached: Arc::clone(&self.attached), ..*self }
    }
}

impl<T: Pod> fmt::Debug for Latest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latest").field("version", &self.version()).finish_non_exhaustive()
    }
}

/// Takes the buffers of participants that are gone; `false` if they had none.
pub(crate) fn abandon(view: &View, object: &Object, gone: &Ids) -> bool {
    // SAFETY: a checked object of this kind begins with this header, inside the view's mapping.
    let header = unsafe { view.at(object.offset).cast::<Header>().as_ref() };
    header.abandon(gone)
}
