//! [`Lock`]: mutual exclusion between processes, which the death of a holder hands on instead of keeping.
//!
//! ```text
//! lock word (u64):  pid:32 | state:4 (bits 12..16) | owner:12
//!
//! FREE ──lock──▶ HELD(owner) ──unlock──▶ FREE
//!                    └──owner died or panicked──▶ DIED ──lock, with the news──▶ HELD
//! ```
//!
//! Lock is a CAS, unlock a Release store by the owner; whoever finds it HELD sleeps on the lock's event. DIED is stored
//! by repair, with proof of the death. That a holder is killed between unlock and notify is
//! covered as in [`crate::event`].

use core::fmt;
use core::marker::PhantomData;
use core::mem::{align_of, offset_of, size_of};
use core::ops::{ControlFlow, Deref, DerefMut};
use core::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

use crate::deadline::Deadline;
use crate::error::Error;
use crate::event::{Event, Surroundings};
use crate::ids::Ids;
use crate::object::{ElementType, Kind, Object, Shape};
use crate::pace::Pace;
use crate::primitive::{AtomicU64, Ordering};
use crate::segment::view::View;
use crate::segment::{Attached, Segment, Token, Wanted};
use crate::unwinding::Unwinding;

/// Where the protected data lies in the object.
pub(crate) const DATA_OFFSET: usize = 64;
/// Where the event lies in the object.
pub(crate) const EVENT_OFFSET: usize = offset_of!(Header, event);

const FREE: u64 = 0;
const HELD: u64 = 1 << 12;
const DIED: u64 = 2 << 12;
const STATE: u64 = 0xf << 12;
const OWNER: u64 = 0xfff;

/// The shared part of a lock. Valid when zero.
#[repr(C)]
struct Header {
    /// See the module. Written by whoever locks, by the owner, and by repair.
    word: AtomicU64,
    /// Those who wait for the lock sleep here.
    event: Event,
}

const _: () = assert!(size_of::<Header>() <= DATA_OFFSET && EVENT_OFFSET == 8);

/// A lock in a segment, with the data it protects.
///
/// One holder at a time, among all threads of all processes. *Blocking:* whoever does not get it spins for some
/// microseconds, then sleeps. There is no queue: a newcomer may be faster than a sleeper that was woken. *A crash* of the
/// holder, or a panic of its thread, hands the lock to the next one together with the news
/// ([`LockError::OwnerDied`]), since the data may be in the
/// middle of a change. Not recursive: locking twice in one thread waits for ever.
///
/// `T` is any [`Pod`] type, and lies in the segment; `Lock<()>`, the default, protects what you say it does, such as an
/// [`Array`](crate::Array): see [`Lock::over`].
///
/// The guard gives references into shared memory. They rely on everybody taking the lock first; a process that writes
/// there without it breaks them, as it breaks everything else in the segment.
///
/// # Example
///
/// ```
/// use gimmal::{Lock, Segment};
///
/// let segment = Segment::anonymous()?;
/// let balance = Lock::<[i64; 2]>::create(&segment, "accounts", [100, 0])?;
/// {
///     let mut accounts = balance.lock()?;
///     accounts[0] -= 30;
///     accounts[1] += 30;
/// }
/// assert_eq!(*balance.lock()?, [70, 30]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Lock<T: Pod = ()> {
    attached: Arc<Attached>,
    header: NonNull<Header>,
    data: NonNull<T>,
}

// SAFETY: the header is reached through atomics, the data only by the holder; `attached` keeps both mapped.
unsafe impl<T: Pod + Send> Send for Lock<T> {}
// SAFETY: as above.
unsafe impl<T: Pod + Send> Sync for Lock<T> {}

/// Why there is no guard, or why it comes with news.
#[non_exhaustive]
pub enum LockError<G> {
    /// The lock is ours now, but process `pid` died, or a thread of it panicked, while it held it: what it protects may be in
    /// the middle of a change. Told once, to whoever gets the lock next.
    OwnerDied {
        /// The guard.
        guard: G,
        /// The process that held it.
        pid: u32,
    },
    /// Somebody holds it; from [`Lock::try_lock`] only.
    WouldBlock,
    /// Somebody holds it still; from calls with a time limit only.
    Timeout,
    /// This process was forked and could not join the segment.
    Detached,
}

impl<G> LockError<G> {
    /// The guard, if there is one: for whoever can go on, or put things right.
    pub fn into_guard(self) -> Option<G> {
        match self {
            Self::OwnerDied { guard, .. } => Some(guard),
            _ => None,
        }
    }

    /// Whether a holder died.
    pub fn is_owner_died(&self) -> bool {
        matches!(self, Self::OwnerDied { .. })
    }

    /// Whether the time was up.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout)
    }

    /// Whether the lock was held at the moment of a `try_lock`.
    pub fn is_would_block(&self) -> bool {
        matches!(self, Self::WouldBlock)
    }

    fn map<H>(self, f: impl FnOnce(G) -> H) -> LockError<H> {
        match self {
            Self::OwnerDied { guard, pid } => LockError::OwnerDied { guard: f(guard), pid },
            Self::WouldBlock => LockError::WouldBlock,
            Self::Timeout => LockError::Timeout,
            Self::Detached => LockError::Detached,
        }
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnerDied { pid, .. } => f.debug_struct("OwnerDied").field("pid", pid).finish_non_exhaustive(),
            Self::WouldBlock => f.write_str("WouldBlock"),
            Self::Timeout => f.write_str("Timeout"),
            Self::Detached => f.write_str("Detached"),
        }
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnerDied { pid, .. } => write!(
                f,
                "process {pid} died, or panicked, while it held the lock: check what it protects, then go on with the guard (into_guard)"
            ),
            Self::WouldBlock => f.write_str("somebody holds the lock: try later, or use lock"),
            Self::Timeout => f.write_str("the time is up and somebody still holds the lock"),
            Self::Detached => f.write_str("this process was forked and could not join the segment"),
        }
    }
}

impl<G> std::error::Error for LockError<G> {}

impl<T: Pod> Lock<T> {
    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        (&self.attached, self.header.cast())
    }

    const CHECK: () = {
        assert!(align_of::<T>() <= 64, "gimmal: protected types may be aligned to at most 64 bytes");
        assert!(size_of::<T>() <= u32::MAX as usize, "gimmal: protected types may have at most 4 GiB");
    };

    fn shape() -> Shape {
        let () = Self::CHECK;
        Shape {
            kind: Kind::Lock,
            flags: 0,
            capacity: 1,
            element: ElementType::of::<T>(),
            second: None,
            unbounded: None,
        }
    }

    fn at(attached: &Arc<Attached>, object: &Object) -> Self {
        let at = attached.view().at(object.offset);
        Self {
            attached: Arc::clone(attached),
            header: at.cast(),
            data: attached.view().at(object.offset + DATA_OFFSET).cast(),
        }
    }

    fn make(segment: &Segment, name: &str, initial: T, or_open: bool) -> Result<Self, Error> {
        let init = |object: NonNull<u8>| {
            // SAFETY: the object has room for a `T` behind this offset.
            let data = unsafe { object.add(DATA_OFFSET) };
            // SAFETY: as above, aligned to 64; nobody else knows of the object yet.
            unsafe { data.cast::<T>().write(initial) }
        };
        let object = segment.attached().create(name, &Self::shape(), or_open, init)?;
        Ok(Self::at(segment.attached(), &object))
    }

    /// Creates a lock with the data it protects.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoRoom`], [`Error::NoObjectSlot`], [`Error::BadName`].
    pub fn create(segment: &Segment, name: &str, initial: T) -> Result<Self, Error> {
        Self::make(segment, name, initial, false)
    }

    /// Opens an existing lock.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::KindMismatch`], [`Error::TypeMismatch`].
    pub fn open(segment: &Segment, name: &str) -> Result<Self, Error> {
        let object = segment.attached().find(name, &Wanted::like(Self::shape()))?;
        Ok(Self::at(segment.attached(), &object))
    }

    /// Opens the lock, or creates it if need be; `initial` counts only for the one who creates.
    ///
    /// # Errors
    /// As for [`Lock::create`] and [`Lock::open`].
    pub fn open_or_create(segment: &Segment, name: &str, initial: T) -> Result<Self, Error> {
        Self::make(segment, name, initial, true)
    }

    fn header(&self) -> &Header {
        // SAFETY: the object begins with its header, in the mapping that `attached` keeps; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    /// Takes the lock if nobody holds it.
    ///
    /// # Errors
    /// [`LockError::WouldBlock`]; [`LockError::OwnerDied`] comes with the guard.
    #[inline]
    pub fn try_lock(&self) -> Result<LockGuard<T>, LockError<LockGuard<T>>> {
        let token = self.attached.token();
        if token == Token::NOBODY {
            return Err(LockError::Detached);
        }
        let ours = u64::from(self.attached.pid()) << 32 | HELD | u64::from(token.id());
        let word = &self.header().word;
        let now = word.load(Ordering::Relaxed);
        // Acquire: what the previous holder wrote comes before what we read.
        if now & STATE == HELD || word.compare_exchange(now, ours, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.attached.in_vain();
            return Err(LockError::WouldBlock);
        }
        let guard = LockGuard { lock: self.clone(), token, unwinding: Unwinding::watch(), marker: PhantomData };
        if now & STATE == DIED { Err(LockError::OwnerDied { guard, pid: (now >> 32) as u32 }) } else { Ok(guard) }
    }

    #[inline]
    fn lock_until(&self, deadline: Option<Deadline>) -> Result<LockGuard<T>, LockError<LockGuard<T>>> {
        match self.try_lock() {
            Err(LockError::WouldBlock) => self.wait_for_it(deadline),
            taken => taken,
        }
    }

    #[cold]
    fn wait_for_it(&self, deadline: Option<Deadline>) -> Result<LockGuard<T>, LockError<LockGuard<T>>> {
        let taken =
            self.header().event.try_wait(&*self.attached, &Pace::default(), deadline, || match self.try_lock() {
                Err(LockError::WouldBlock) => ControlFlow::Continue(()),
                taken @ (Ok(_) | Err(LockError::OwnerDied { .. })) => ControlFlow::Break(Ok(taken)),
                Err(error) => ControlFlow::Break(Err(error)),
            });
        taken.unwrap_or(Err(LockError::Timeout)).unwrap_or_else(Err)
    }

    /// Takes the lock, waiting as long as it takes.
    ///
    /// # Errors
    /// [`LockError::OwnerDied`] comes with the guard.
    pub fn lock(&self) -> Result<LockGuard<T>, LockError<LockGuard<T>>> {
        self.lock_until(None)
    }

    /// Takes the lock, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`LockError::Timeout`]; [`LockError::OwnerDied`] comes with the guard.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<LockGuard<T>, LockError<LockGuard<T>>> {
        self.lock_until(Deadline::after(timeout))
    }

    /// Takes the lock, waiting until `deadline`.
    ///
    /// # Errors
    /// As for [`Lock::lock_timeout`].
    pub fn lock_deadline(&self, deadline: Instant) -> Result<LockGuard<T>, LockError<LockGuard<T>>> {
        self.lock_until(Deadline::at(deadline))
    }

    /// Takes the lock and gives `object` through the guard, so that it reads as what it is: a lock over that object.
    ///
    /// ```
    /// use gimmal::{Array, Lock, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let (lock, table) = (Lock::create(&segment, "lock", ())?, Array::<u64>::create(&segment, "table", 8)?);
    /// let guard = lock.over(&table)?;
    /// guard.write(0, &[1, 2, 3])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Lock::lock`].
    pub fn over<O: Clone>(&self, object: &O) -> Result<Over<T, O>, LockError<Over<T, O>>> {
        let over = |guard| Over { _guard: guard, object: object.clone() };
        self.lock().map(over).map_err(|e| e.map(over))
    }
}

impl<T: Pod> Clone for Lock<T> {
    fn clone(&self) -> Self {
        Self { attached: Arc::clone(&self.attached), ..*self }
    }
}

impl<T: Pod> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.header().word.load(Ordering::Relaxed) & STATE == HELD;
        f.debug_struct("Lock").field("held", &held).finish_non_exhaustive()
    }
}

/// The lock, held until this is dropped; dereferences to the protected data. It keeps the segment open and may be moved
/// to another thread.
#[must_use = "the lock is given back at once if the guard is not kept"]
pub struct LockGuard<T: Pod> {
    lock: Lock<T>,
    /// Who holds it: us, unless this is a copy in a fork child.
    token: Token,
    unwinding: Unwinding,
    /// Shared and sent as a `T`.
    marker: PhantomData<T>,
}

impl<T: Pod> Deref for LockGuard<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the data lies in the mapping, aligned, any bits are a `T`; the lock is ours, so nobody writes.
        unsafe { self.lock.data.as_ref() }
    }
}

impl<T: Pod> DerefMut for LockGuard<T> {
    fn deref_mut(&mut self) -> &mut T {
        let mut data = self.lock.data;
        // SAFETY: as above; the lock is ours, so nobody else reads or writes.
        unsafe { data.as_mut() }
    }
}

impl<T: Pod> Drop for LockGuard<T> {
    fn drop(&mut self) {
        if self.lock.attached.is_still(self.token) {
            let header = self.lock.header();
            let left = match self.unwinding.has_begun() {
                true => u64::from(self.lock.attached.pid()) << 32 | DIED,
                false => FREE,
            };
            // Release: the next holder sees what we wrote. Only the owner leaves HELD.
            header.word.store(left, Ordering::Release);
            let attached = &self.lock.attached;
            header.event.notify(1, attached.fence_mode(), || attached.view().ring());
        }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for LockGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A lock, held, over another object: see [`Lock::over`].
#[must_use = "the lock is given back at once if the guard is not kept"]
pub struct Over<T: Pod, O> {
    _guard: LockGuard<T>,
    object: O,
}

impl<T: Pod, O> Deref for Over<T, O> {
    type Target = O;
    fn deref(&self) -> &O {
        &self.object
    }
}

impl<T: Pod, O: fmt::Debug> fmt::Debug for Over<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

/// Takes a lock from a participant that is gone; `false` if none of them held it.
pub(crate) fn abandon(view: &View, object: &Object, gone: &Ids) -> bool {
    // SAFETY: a checked object of this kind begins with a lock's header, inside the view's mapping.
    let header = unsafe { view.at(object.offset).cast::<Header>().as_ref() };
    let now = header.word.load(Ordering::Relaxed);
    let held = now & STATE == HELD && gone.contains((now & OWNER) as u16);
    let died = now & !(STATE | OWNER) | DIED;
    // Release: what the dead holder wrote comes before what the next one reads.
    held && header.word.compare_exchange(now, died, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}
