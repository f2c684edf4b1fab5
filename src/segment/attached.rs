//! A segment this process has joined: the mapping, the membership, the admission lock, and the shared half of every
//! handle.

use core::ptr::NonNull;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::membership::{Membership, Side};
use super::name::{self, Name};
use super::repair::{self, Recovered};
use super::view::View;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::event::{LOOK, Surroundings};
use crate::layout::{FLAG_ANONYMOUS, FLAG_PERSIST, LINE, NAME_BYTES};
use crate::object::{Object, Shape};
use crate::primitive::private::AtomicU64;
use crate::primitive::{FenceMode, Ordering};
use crate::ring::Roles;
use crate::sys::{clock, file, lease, membarrier};

/// Byte 0 of the lock range: whoever holds it joins, leaves, creates objects or repairs.
const ADMISSION: u16 = 0;
/// For how long to wait for the admission lock. Its sections take microseconds; a holder that is stopped is not dead.
const ADMISSION_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Attached {
    view: View,
    /// A description without locks, which may be passed on.
    file: OwnedFd,
    name: Option<Name>,
    membership: &'static Membership,
    /// When some thread of ours last looked at the leases.
    looked: AtomicU64,
    mode: FenceMode,
}

/// Gives a new segment's file its name.
pub(super) type Link<'a> = &'a dyn Fn(&OwnedFd) -> Result<(), Error>;

/// The admission lock, held.
struct Admission<'a> {
    lease: BorrowedFd<'a>,
    membership: &'static Membership,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        lease::unlock(self.lease, ADMISSION);
        self.membership.admission.release();
    }
}

impl<'a> Admission<'a> {
    /// Waits for the lock, at most [`ADMISSION_PATIENCE`].
    fn wait(lease: BorrowedFd<'a>, membership: &'static Membership) -> Result<Self, Error> {
        let patience = Deadline::now().plus(ADMISSION_PATIENCE);
        let mut pause = Duration::from_micros(20);
        membership.admission.acquire();
        loop {
            match lease::try_lock(lease, ADMISSION) {
                Ok(true) => return Ok(Self { lease, membership }),
                Ok(false) if !patience.is_some_and(Deadline::passed) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(1));
                }
                refused => {
                    membership.admission.release();
                    return Err(match refused {
                        Err(e) => Error::Io { action: "lock the segment for admission", source: e.into() },
                        Ok(_) => Error::Busy { waited: ADMISSION_PATIENCE },
                    });
                }
            }
        }
    }

    /// Takes the lock if it is free now.
    fn now(lease: BorrowedFd<'a>, membership: &'static Membership) -> Option<Self> {
        membership.admission.acquire();
        if matches!(lease::try_lock(lease, ADMISSION), Ok(true)) {
            return Some(Self { lease, membership });
        }
        membership.admission.release();
        None
    }
}

/// A new participant's id and the description that holds its lease.
struct Joined {
    id: u16,
    lease: OwnedFd,
}

impl Attached {
    /// Joins an open segment. One that nobody living is attached to, unless it persists, counts as gone: its name is
    /// removed. `link` gives a new segment its name while it is already ours.
    pub(crate) fn join(
        view: View,
        file: OwnedFd,
        name: Option<Name>,
        link: Option<Link<'_>>,
    ) -> Result<Arc<Self>, Error> {
        let membership = Membership::acquire();
        let joined = Self::admit(&view, &file, name.as_ref(), link.is_some(), membership);
        let joined = joined.and_then(|joined| {
            if let Some(link) = link {
                link(&file)?;
            }
            Ok(joined)
        });
        let joined = match joined {
            Ok(joined) => joined,
            Err(e) => {
                membership.give_back();
                return Err(e);
            }
        };
        let mode = view.geometry().fence_mode();
        membership.lease.store(joined.lease.into_raw_fd(), Ordering::Relaxed);
        membership.id.store(u32::from(joined.id), Ordering::Relaxed);
        Ok(Arc::new(Self { view, file, name, membership, looked: AtomicU64::new(0), mode }))
    }

    fn admit(
        view: &View,
        file: &OwnedFd,
        name: Option<&Name>,
        fresh: bool,
        membership: &'static Membership,
    ) -> Result<Joined, Error> {
        let io = |action| move |e: crate::sys::Errno| Error::Io { action, source: e.into() };
        let own = file::reopen(file.as_fd()).map_err(io("reopen the segment through /proc/self/fd"))?;
        if view.geometry().fence_mode() == FenceMode::Asymmetric && !membarrier::register() {
            return Err(Error::Fence);
        }
        let admission = Admission::wait(own.as_fd(), membership)?;
        if !fresh {
            if let Some(name) = name {
                let gone = !repair::still_linked(view, own.as_fd());
                let abandoned = || !view.joined().any(|id| repair::alive(own.as_fd(), id));
                if gone || !view.geometry().has(FLAG_PERSIST) && abandoned() {
                    remove_if_same(view, own.as_fd(), name);
                    return Err(name.not_found());
                }
            }
            repair::repair(view, own.as_fd(), 0);
        }
        let id = (1..=view.max_participants())
            .filter(|&id| view.participant(id).state.load(Ordering::Relaxed) == 0)
            .find(|&id| matches!(lease::try_lock(own.as_fd(), id), Ok(true)))
            .ok_or(Error::NoParticipantSlot { maximum: view.max_participants() })?;
        let entry = view.participant(id);
        entry.pid.store(std::process::id(), Ordering::Relaxed);
        entry.joined.store(clock::unix_nanos(), Ordering::Relaxed);
        entry.namespace.store(file::pid_namespace(), Ordering::Relaxed);
        // Release: whoever sees the entry joined sees its fields. The lease is held already.
        entry.state.store(1, Ordering::Release);
        view.header().membership.fetch_add(1, Ordering::Release);
        drop(admission);
        Ok(Joined { id, lease: own })
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Our participant id; 0 if this is a fork child that could not join.
    #[inline(always)]
    pub(crate) fn id(&self) -> u16 {
        match self.membership.id.load(Ordering::Relaxed) as u16 {
            0 => self.rejoin(),
            id => id,
        }
    }

    /// Whether `id` is still who we are: not in a fork child.
    #[inline(always)]
    pub(crate) fn is_still(&self, id: u16) -> bool {
        self.membership.id.load(Ordering::Relaxed) == u32::from(id)
    }

    /// Joins anew in a fork child.
    #[cold]
    fn rejoin(&self) -> u16 {
        static REJOINING: crate::spin::Spin<()> = crate::spin::Spin::new(());
        REJOINING.with(|()| {
            let id = self.membership.id.load(Ordering::Relaxed) as u16;
            if id != 0 {
                return id;
            }
            // Only a living parent or sibling keeps a named segment from counting as abandoned, which is right here too.
            let Ok(joined) = Self::admit(&self.view, &self.file, self.name.as_ref(), false, self.membership) else {
                return 0;
            };
            self.membership.roles.with(|roles| {
                for role in roles.iter() {
                    repair::set_role(self.roles_at(role.ring), role.side, joined.id);
                }
            });
            self.membership.lease.store(joined.lease.into_raw_fd(), Ordering::Relaxed);
            self.membership.id.store(u32::from(joined.id), Ordering::Relaxed);
            joined.id
        })
    }

    /// Our lease's description, if we are a participant.
    fn lease(&self) -> Option<BorrowedFd<'_>> {
        if self.id() == 0 {
            return None;
        }
        let fd = self.membership.lease.load(Ordering::Relaxed);
        // SAFETY: the descriptor is closed only when the last handle is dropped, or by the fork handler, which also
        // replaces it by -1 before any other code of the child runs.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Why a fork child cannot go on.
    pub(crate) fn detached() -> Error {
        Error::Io {
            action: "join the segment from this forked process",
            source: std::io::Error::other("no room for another participant, or the segment is gone"),
        }
    }

    /// Whether another participant lives, by its lease. Our own lease is ours, so we do.
    pub(crate) fn alive(&self, id: u16) -> bool {
        id == self.id() || self.lease().is_none_or(|own| repair::alive(own, id))
    }

    /// Repairs after everybody whose death the kernel proves.
    pub(crate) fn recover(&self) -> Result<Recovered, Error> {
        let lease = self.lease().ok_or_else(Self::detached)?;
        let _admission = Admission::wait(lease, self.membership)?;
        Ok(repair::repair(&self.view, lease, self.id()))
    }

    /// The object of this name, if it is there and as asked for.
    pub(crate) fn find(&self, name: &str, wanted: &Wanted) -> Result<Object, Error> {
        name::check(name, NAME_BYTES)?;
        for object in self.view.objects() {
            let object = object?;
            if object.name == name {
                wanted.check(&object)?;
                return Ok(object);
            }
        }
        Err(Error::NotFound { name: name.to_owned() })
    }

    /// Makes an object, or finds the one that is there if `or_open`. `init` gets the object's zeroed bytes.
    pub(crate) fn create(
        &self,
        name: &str,
        shape: &Shape,
        or_open: bool,
        init: impl FnOnce(NonNull<u8>),
    ) -> Result<Object, Error> {
        name::check(name, NAME_BYTES)?;
        let wanted = Wanted::exactly(shape.clone());
        if or_open {
            match self.find(name, &wanted) {
                Err(Error::NotFound { .. }) => {}
                found => return found,
            }
        }
        let lease = self.lease().ok_or_else(Self::detached)?;
        let _admission = Admission::wait(lease, self.membership)?;
        let geometry = self.view.geometry();
        let (mut end, mut count) = (geometry.heap as usize, 0);
        for object in self.view.objects() {
            let object = object?;
            if object.name == name {
                return if or_open {
                    wanted.check(&object).map(|()| object)
                } else {
                    Err(Error::Exists { name: name.to_owned() })
                };
            }
            // Derived from what is published, so that a creator killed half-way leaks nothing.
            end = end.max(object.offset + object.bytes);
            count += 1;
        }
        let available = (geometry.size as usize).saturating_sub(end) & !(LINE - 1);
        let needed = shape.bytes().filter(|&bytes| bytes <= isize::MAX as usize).unwrap_or(usize::MAX);
        if needed > available {
            return Err(Error::NoRoom { needed, available });
        }
        if count >= geometry.max_objects {
            return Err(Error::NoObjectSlot { maximum: geometry.max_objects });
        }
        let at = self.view.at(end);
        // SAFETY: the range is inside the segment, belongs to no published object, and we hold the admission lock.
        unsafe { at.write_bytes(0, needed) };
        init(at);
        let entry = self.view.entry(count).as_ptr();
        let fields = shape.to_fields(name, end as u64, needed as u64);
        // SAFETY: the entry lies inside the segment.
        let place = unsafe { &raw mut (*entry).fields };
        // SAFETY: valid for writes; the entry is unpublished, and we hold the admission lock.
        unsafe { place.write(fields) };
        // SAFETY: the entry lies inside the segment; the field is atomic.
        let state = unsafe { &(*entry).state };
        // Release: whoever sees the entry sees its fields and the object's first state.
        state.store(1, Ordering::Release);
        Object::from_fields(&fields, geometry.heap, geometry.size).map_err(|what| Error::Corrupt { what })
    }

    /// Bytes that objects can still take.
    pub(crate) fn free(&self) -> usize {
        let geometry = self.view.geometry();
        let ends = self.view.objects().flatten().map(|object| object.offset + object.bytes);
        (geometry.size as usize).saturating_sub(ends.max().unwrap_or(geometry.heap as usize)) & !(LINE - 1)
    }

    fn roles_at(&self, ring: usize) -> &Roles {
        // SAFETY: `ring` is the offset of a checked object's ring header; all fields are atomics.
        unsafe { &self.view.at(ring).cast::<crate::ring::Header>().as_ref().roles }
    }

    /// Counts a handle on an end of an MPMC ring.
    pub(crate) fn enter(&self, ring: usize, side: Side) -> Result<(), Error> {
        match self.id() {
            0 => Err(Self::detached()),
            id => {
                if self.membership.add_role(ring, side) {
                    repair::set_role(self.roles_at(ring), side, id);
                }
                Ok(())
            }
        }
    }

    /// Discounts it; `true` if it was this process's last on that end.
    pub(crate) fn exit(&self, ring: usize, side: Side) -> bool {
        let last = self.membership.drop_role(ring, side);
        let id = self.membership.id.load(Ordering::Relaxed) as u16;
        if last && id != 0 {
            repair::clear_role(self.roles_at(ring), side, id);
        }
        last
    }
}

impl Surroundings for Attached {
    fn fence_mode(&self) -> FenceMode {
        self.mode
    }

    fn may_spin(&self) -> bool {
        clock::many_cpus()
    }

    fn look(&self) {
        // One look per period and process is enough.
        let now = Deadline::now().0;
        let last = self.looked.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= LOOK.as_nanos() as u64 / 2;
        if !due || self.looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let (id, Some(lease)) = (self.id(), self.lease()) else { return };
        let somebody_died = self.view.joined().any(|other| other != id && !repair::alive(lease, other));
        if somebody_died && let Some(_admission) = Admission::now(lease, self.membership) {
            repair::repair(&self.view, lease, id);
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let id = self.membership.id.swap(0, Ordering::Relaxed) as u16;
        let fd = self.membership.lease.swap(-1, Ordering::Relaxed);
        if fd >= 0 {
            // SAFETY: the membership owned the descriptor and has just forgotten it.
            let lease = unsafe { OwnedFd::from_raw_fd(fd) };
            debug_assert!(lease.as_raw_fd() >= 0);
            // Without the lock we just let the lease go: others then treat us as dead, which is safe.
            if let Ok(admission) = Admission::wait(lease.as_fd(), self.membership) {
                self.leave(lease.as_fd(), id);
                drop(admission);
            }
        }
        self.membership.give_back();
    }
}

impl Attached {
    fn leave(&self, lease: BorrowedFd<'_>, id: u16) {
        let mut recovered = Recovered::default();
        repair::release(&self.view, id, false, &mut recovered);
        // Release: the id may be given out again only after all of the above.
        self.view.participant(id).state.store(0, Ordering::Release);
        self.view.header().membership.fetch_add(1, Ordering::Release);
        lease::unlock(lease, id);
        if recovered != Recovered::default() {
            repair::wake_everybody(&self.view);
        }
        let keep = self.view.geometry().has(FLAG_PERSIST) || self.view.geometry().has(FLAG_ANONYMOUS);
        let last = || !self.view.joined().any(|other| repair::alive(lease, other));
        if let Some(name) = &self.name
            && !keep
            && last()
        {
            remove_if_same(&self.view, lease, name);
        }
    }
}

/// Removes the name if it still means this segment.
fn remove_if_same(view: &View, fd: BorrowedFd<'_>, name: &Name) {
    let path = name.path();
    if let (true, Ok(ours), Ok(named)) = (repair::still_linked(view, fd), file::status(fd), file::identity_at(&path))
        && ours.identity == named
    {
        // A failure leaves a name that the next opener or `clean` removes.
        let _ = file::remove(&path);
    }
}

/// What an opener expects of an object.
pub(crate) struct Wanted {
    shape: Shape,
    any_capacity: bool,
}

impl Wanted {
    /// The kind and type of `shape`, whatever the capacity and options.
    pub(crate) fn like(shape: Shape) -> Self {
        Self { shape, any_capacity: true }
    }

    pub(crate) fn exactly(shape: Shape) -> Self {
        Self { shape, any_capacity: false }
    }

    fn check(&self, found: &Object) -> Result<(), Error> {
        let (wanted, has, name) = (&self.shape, &found.shape, || found.name.clone());
        if wanted.kind != has.kind {
            return Err(Error::KindMismatch { name: name(), expected: wanted.kind, found: has.kind });
        }
        let layout = |shape: &Shape| {
            let second = shape.second.as_ref().map(|t| (t.size, t.align));
            (shape.element_text(), shape.element.size, shape.element.align, second)
        };
        if layout(wanted) != layout(has) {
            let text = |shape: &Shape| format!("{} ({} bytes)", shape.element_text(), shape.element.size);
            return Err(Error::TypeMismatch { name: name(), expected: text(wanted), found: text(has) });
        }
        if !self.any_capacity && wanted.capacity != has.capacity {
            return Err(Error::CapacityMismatch { name: name(), expected: wanted.capacity, found: has.capacity });
        }
        if !self.any_capacity && wanted.flags != has.flags {
            return Err(Error::OptionMismatch { name: name(), option: "disconnect" });
        }
        Ok(())
    }
}
