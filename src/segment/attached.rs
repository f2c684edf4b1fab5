//! A segment this process has joined: the mapping, the membership, the admission lock, and the shared half of every
//! handle.

use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::admission::{ADMISSION, Admission, wait_for_admission};
use super::joined;
use super::membership::{Membership, Side, Token};
use super::name::{self, Name};
use super::options::MEMORY;
use super::repair::{self, Recovered};
use super::sentinel::Watch;
use super::view::View;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::event::{LOOK, Surroundings};
use crate::ids::Ids;
use crate::layout::{FLAG_ANONYMOUS, FLAG_PERSIST, LINE, MAP_UNIT, NAME_BYTES, standing};
use crate::object::{ElementType, Object, Shape, Unbounded};
use crate::primitive::private::{AtomicBool, AtomicU32, AtomicU64};
use crate::primitive::{FenceMode, Ordering};
use crate::ring::Header;
use crate::ring::owned::VAIN_CALLS;
use crate::sys::map::Part;
use crate::sys::room::Refused;
use crate::sys::{Errno, clock, file, lease, membarrier};

pub(crate) struct Attached {
    view: Arc<View>,
    /// A description without locks, which may be passed on.
    file: OwnedFd,
    name: Option<Name>,
    membership: &'static Membership,
    /// Tells us of deaths; without it we look ourselves.
    watch: Option<Arc<Watch>>,
    /// When some thread of ours last looked at the leases.
    looked: AtomicU64,
    /// Attempts on locks that were held.
    vain: AtomicU32,
    /// Whether there were ever claims on slots that outlive a call.
    claims: AtomicBool,
    /// Called when we take our first end, which is not so any more.
    first_end: OnceLock<Box<dyn Fn() + Send + Sync>>,
    no_end_yet: AtomicBool,
    mode: FenceMode,
}

/// Gives a new segment's file its name.
pub(super) type Link<'a> = &'a dyn Fn(&OwnedFd) -> Result<(), Error>;

/// At how many leases a joiner looks of those for whom the kernel answers. It may have been kept from telling.
const LEASES_A_JOIN: usize = 64;

/// For how long to wait for the end of somebody whose death the kernel has announced, or after whom somebody repairs.
const ENDING_PATIENCE: Duration = Duration::from_secs(1);
const ENDING_PAUSE: Duration = Duration::from_micros(50);

/// How a process comes to join.
enum Joining<'a> {
    /// A new segment; this gives it its name when it is already ours.
    Fresh(Link<'a>),
    /// An existing one. If nobody living is attached to it, and it does not persist, it counts as gone.
    Existing,
    /// The same one as before, in a fork child.
    Again,
}

impl Attached {
    /// Joins a segment. `link` gives a new one its name.
    pub(crate) fn join(
        view: View,
        file: OwnedFd,
        name: Option<Name>,
        link: Option<Link<'_>>,
        sentinel: bool,
    ) -> Result<Arc<Self>, Error> {
        // Before the sentinel starts: it takes the kernel microseconds in a process of one thread, and milliseconds in others.
        // A fork child inherits it.
        if view.geometry().fence_mode() == FenceMode::Asymmetric && !membarrier::register() {
            return Err(Error::Fence);
        }
        let membership = Membership::acquire();
        let watch = if sentinel { Watch::new(&view, file.as_fd(), membership) } else { None };
        let how = link.map_or(Joining::Existing, Joining::Fresh);
        match Self::admit(&view, &file, name.as_ref(), how, membership, watch.as_deref()) {
            Ok(id) => membership.become_participant(id, |_| {}),
            Err(e) => {
                if let Some(watch) = watch {
                    watch.end(&view);
                }
                membership.give_back();
                return Err(e);
            }
        }
        let mode = view.geometry().fence_mode();
        let view = Arc::new(view);
        if let Some(watch) = &watch {
            watch.begin(&view);
        }
        let (looked, vain, claims) = (AtomicU64::new(0), AtomicU32::new(0), AtomicBool::new(false));
        let (first_end, no_end_yet) = (OnceLock::new(), AtomicBool::new(true));
        let attached =
            Arc::new(Self { view, file, name, membership, watch, looked, vain, claims, first_end, no_end_yet, mode });
        joined::remember(&attached);
        Ok(attached)
    }

    /// Takes a participant id and its lease, which the membership keeps; the caller closes it on failure.
    fn admit(
        view: &View,
        file: &OwnedFd,
        name: Option<&Name>,
        how: Joining<'_>,
        membership: &'static Membership,
        watch: Option<&Watch>,
    ) -> Result<u16, Error> {
        let own = membership
            .open_lease(file.as_fd())
            .map_err(|e| Error::Io { action: "reopen the segment through /proc/self/fd", source: e.into() })?;
        let admission = Admission::wait(view, own, membership)?;
        if let (Joining::Existing, Some(name)) = (&how, name) {
            if !repair::still_linked(view, own) {
                return Err(name.not_found());
            }
            let abandoned = || !view.joined().any(|id| repair::alive(view, own, id));
            if !view.geometry().has(FLAG_PERSIST) && abandoned() {
                remove_if_same(view, own, name)?;
                return Err(name.not_found());
            }
        }
        // The others later, without keeping anybody from joining: as far as the kernel tells, they live.
        repair::repair(view, own, membership, view.joined().filter(|&id| !view.is_vouched_for(id)));
        let is_free = |id: &u16| !view.has_joined(*id) && matches!(lease::try_lock(own, *id), Ok(true));
        let patience = Deadline::after(ENDING_PATIENCE);
        let id = loop {
            if let Some(id) = (1..=view.max_participants()).find(is_free) {
                break id;
            }
            // Or a place is about to become free: the kernel has told of an end, or its lease is held to the last.
            let soon = (1..=view.max_participants()).any(|id| !view.has_joined(id) || view.is_dying(id));
            if !soon || patience.is_some_and(Deadline::passed) {
                return Err(Error::NoParticipantSlot { maximum: view.max_participants() });
            }
            std::thread::sleep(ENDING_PAUSE);
            repair::repair(view, own, membership, view.joined());
        };
        let entry = view.participant(id);
        entry.pid.store(std::process::id(), Ordering::Relaxed);
        entry.joined.store(clock::unix_nanos(), Ordering::Relaxed);
        entry.namespace.store(file::pid_namespace(), Ordering::Relaxed);
        view.clear_life(id);
        if let Some(watch) = watch {
            watch.answer_for(view, id);
            // The others sleep on our life words before there is anything of ours to repair.
            view.announce();
        }
        // The lease is held already.
        view.set_tenure(id, |tenure| tenure.with(standing::JOINED));
        if let Joining::Fresh(link) = how {
            link(file)?;
        }
        drop(admission);
        // The next one may come while we wake everybody.
        view.announce();
        let circle = (id + 1..=view.max_participants()).chain(1..id);
        repair::repair(view, own, membership, circle.filter(|&other| view.has_joined(other)).take(LEASES_A_JOIN));
        Ok(id)
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The mapping alone, which outlives the membership.
    pub(crate) fn shared_view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    pub(crate) fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Who we are; nobody if this is a fork child that could not join.
    #[inline(always)]
    pub(crate) fn token(&self) -> Token {
        match self.membership.token() {
            Token::NOBODY => self.rejoin(),
            token => token,
        }
    }

    pub(crate) fn membership(&self) -> &'static Membership {
        self.membership
    }

    /// Our process id, if we are somebody.
    pub(crate) fn pid(&self) -> u32 {
        self.membership.pid()
    }

    /// Our participant id, or 0.
    #[inline(always)]
    pub(crate) fn id(&self) -> u16 {
        self.token().id()
    }

    /// Whether we are still who we were: not in a fork child.
    #[inline(always)]
    pub(crate) fn is_still(&self, token: Token) -> bool {
        self.membership.token() == token
    }

    /// Joins anew in a fork child.
    #[cold]
    fn rejoin(&self) -> Token {
        let refused = &self.membership.refused;
        let before = refused.load(Ordering::Relaxed);
        self.membership.rejoining.with(|()| {
            // Who has waited for a thread that was refused need not try the same again.
            if self.membership.token() == Token::NOBODY && refused.load(Ordering::Relaxed) == before {
                let (how, watch) = (Joining::Again, self.watch.as_deref());
                match Self::admit(&self.view, &self.file, self.name.as_ref(), how, self.membership, watch) {
                    Ok(id) => {
                        self.membership.become_participant(id, |role| {
                            repair::set_role(self.header_at(role.ring), role.side, id);
                        });
                        if let Some(watch) = &self.watch {
                            watch.begin(&self.view);
                        }
                    }
                    Err(_) => {
                        if let Some(watch) = &self.watch {
                            watch.unlink(&self.view);
                        }
                        self.membership.close_lease();
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            self.membership.token()
        })
    }

    /// Our lease's description, if we are a participant.
    fn lease(&self) -> Result<BorrowedFd<'_>, Error> {
        let attached = self.token() != Token::NOBODY;
        self.membership.lease().filter(|_| attached).ok_or_else(Self::detached)
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
        id == self.id() || self.lease().map_or(true, |own| repair::alive(&self.view, own, id))
    }

    /// Repairs after everybody whose death the kernel proves.
    pub(crate) fn recover(&self) -> Result<Recovered, Error> {
        let (lease, ours) = (self.lease()?, self.id());
        let others = self.view.joined().filter(|&id| id != ours);
        Ok(repair::repair(&self.view, lease, self.membership, others))
    }

    /// Waits, for a moment, until participant `id` is no longer on its way out: the kernel has told its end and not yet freed
    /// its lease, or somebody is repairing after it.
    pub(crate) fn await_end(&self, id: u16) {
        let known = (1..=self.view.max_participants()).contains(&id);
        let patience = Deadline::after(ENDING_PATIENCE);
        while known && self.view.is_dying(id) && self.recover().is_ok() && !patience.is_some_and(Deadline::passed) {
            std::thread::sleep(ENDING_PAUSE);
        }
    }

    /// Whether somebody else tells this thread of deaths.
    fn is_watched(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.is_adopted())
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
        let lease = self.lease()?;
        let _admission = Admission::wait(&self.view, lease, self.membership)?;
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
        let shape = &self.with_region(shape)?;
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

    /// The same shape, with room behind the segment if it needs some: as much address space as its slots could take, and no memory.
    /// The caller holds the admission lock.
    fn with_region(&self, shape: &Shape) -> Result<Shape, Error> {
        let mut shape = shape.clone();
        let Some(region) = shape.region().filter(|_| shape.unbounded.is_some()) else { return Ok(shape) };
        let ends = self.view.objects().map_while(Result::ok).filter_map(|object| {
            let ((slots, blocks), unbounded) = (object.shape.region()?, object.shape.unbounded?);
            Some(unbounded.offset + (slots + blocks) as u64)
        });
        let begin = ends.fold(self.view.geometry().size, u64::max).next_multiple_of(MAP_UNIT as u64);
        let size = begin + (region.0 + region.1) as u64;
        let io = |e: Errno| Error::Io { action: "map an unbounded queue", source: e.into() };
        // What cannot be mapped here is not made: its blocks are mapped twice.
        Part::try_space(region.0 + 2 * region.1).map_err(io)?;
        file::grow(self.file(), size).map_err(|refused| match refused {
            Refused::Short(shortage) => {
                let directory = self.name.as_ref().map_or(Path::new(MEMORY), Name::directory).to_owned();
                Error::NoSpace { size: size as usize, directory, shortage }
            }
            Refused::System(e) => io(e),
        })?;
        shape.unbounded = shape.unbounded.map(|unbounded| Unbounded { offset: begin, ..unbounded });
        Ok(shape)
    }

    /// The name of the object that has this byte.
    pub(crate) fn object_at(&self, byte: NonNull<u8>) -> Option<String> {
        let offset = byte.addr().get().checked_sub(self.view.at(0).addr().get())?;
        let has = |object: &Object| (object.offset..object.offset + object.bytes).contains(&offset);
        self.view.objects().map_while(Result::ok).find(has).map(|object| object.name)
    }

    /// Bytes that objects can still take.
    pub(crate) fn free(&self) -> usize {
        let geometry = self.view.geometry();
        let ends = self.view.objects().flatten().map(|object| object.offset + object.bytes);
        (geometry.size as usize).saturating_sub(ends.max().unwrap_or(geometry.heap as usize)) & !(LINE - 1)
    }

    fn header_at(&self, ring: usize) -> &Header {
        // SAFETY: `ring` is the offset of a checked object's ring header; all fields are atomics.
        unsafe { self.view.at(ring).cast::<Header>().as_ref() }
    }

    /// Counts a handle on an end of an MPMC ring. In a fork child that cannot join, the segment does not learn of it.
    pub(crate) fn enter(&self, ring: usize, side: Side) {
        self.membership.add_role(ring, side, |id| repair::set_role(self.header_at(ring), side, id));
        self.took_end();
    }

    /// From now on `act` is called when we take our first end.
    pub(crate) fn at_first_end(&self, act: Box<dyn Fn() + Send + Sync>) {
        let _ = self.first_end.set(act);
    }

    /// We have taken an end.
    pub(crate) fn took_end(&self) {
        if let Some(act) = self.first_end.get()
            && self.no_end_yet.swap(false, Ordering::Relaxed)
        {
            act();
        }
    }

    /// A claim on a slot is about to outlive its call.
    #[inline]
    pub(crate) fn keeps_claims(&self) {
        if !self.claims.load(Ordering::Relaxed) {
            self.claims.store(true, Ordering::Relaxed);
        }
    }

    /// Called when an attempt on a lock was in vain: now and then looks whether its holder has died.
    pub(crate) fn in_vain(&self) {
        if self.vain.fetch_add(1, Ordering::Relaxed).is_multiple_of(VAIN_CALLS) {
            self.look();
        }
    }

    /// Discounts it; `true` if it was this process's last on that end.
    pub(crate) fn exit(&self, ring: usize, side: Side) -> bool {
        self.membership.drop_role(ring, side, |id| {
            repair::clear_role(self.header_at(ring), side, id, 0);
        })
    }
}

impl Surroundings for Attached {
    fn fence_mode(&self) -> FenceMode {
        self.mode
    }

    fn may_spin(&self) -> bool {
        clock::many_cpus()
    }

    fn patience(&self) -> Duration {
        if self.is_watched() { Duration::MAX } else { LOOK }
    }

    fn ring(&self) {
        self.view.ring();
    }

    fn look(&self) {
        if self.is_watched() {
            return;
        }
        // One look per period and process is enough.
        let now = Deadline::now().0;
        let last = self.looked.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= LOOK.as_nanos() as u64 / 2;
        if due && self.looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            // Somebody detached has nobody to look for.
            let _ = self.recover();
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let id = self.membership.token().id();
        let lease = self.membership.lease().filter(|_| id != 0);
        // The sentinel watches until we leave.
        let admission = lease.map(|lease| Admission::wait(&self.view, lease, self.membership));
        if let Some(watch) = &self.watch {
            watch.stop();
        }
        match (lease, &admission) {
            (Some(lease), Some(Ok(_))) => self.leave(lease, id),
            // Then we just let the lease go, and the others repair after us as after the dead.
            (Some(_), _) => self.view.announce_end(id),
            (None, _) => {}
        }
        drop(admission);
        if let Some(watch) = &self.watch {
            watch.end(&self.view);
        }
        self.membership.give_back();
    }
}

impl Attached {
    fn leave(&self, lease: BorrowedFd<'_>, id: u16) {
        // Guards that were forgotten have left claims.
        let sweep = self.claims.load(Ordering::Relaxed);
        let released = repair::release(&self.view, lease, &Ids::from_iter([id]), false, sweep);
        let Ok((recovered, changed)) = released else {
            // The others repair after us as after the dead.
            return self.view.announce_end(id);
        };
        if changed || recovered != Recovered::default() {
            repair::wake_everybody(&self.view);
        }
        repair::end(&self.view, &Ids::from_iter([id]), false);
        if let Some(watch) = &self.watch {
            // Before the words can be somebody else's.
            watch.unlink(&self.view);
        }
        lease::unlock(lease, id);
        let keep = self.view.geometry().has(FLAG_PERSIST) || self.view.geometry().has(FLAG_ANONYMOUS);
        let last = || !self.view.joined().any(|other| repair::alive(&self.view, lease, other));
        if let Some(name) = &self.name
            && !keep
            && last()
        {
            // A failure leaves a name that the next opener or `clean` removes.
            let _ = remove_if_same(&self.view, lease, name);
        }
    }
}

/// Removes the name if it still means this segment. The caller holds its admission lock, as everybody who removes does, so
/// that the name cannot come to mean another segment in between.
fn remove_if_same(view: &View, fd: BorrowedFd<'_>, name: &Name) -> Result<(), Error> {
    let path = name.path();
    let (Ok(ours), Ok(named)) = (file::status(fd), file::identity_at(&path)) else { return Ok(()) };
    if !repair::still_linked(view, fd) || ours.identity != named {
        return Ok(());
    }
    file::remove(&path).map_err(|e| match e {
        Errno::ENOENT => name.not_found(),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => Error::Permission { path },
        e => Error::Io { action: "remove the segment's name", source: e.into() },
    })
}

/// Removes a name, whatever it means. If that is a segment, nobody joins or leaves it meanwhile.
pub(super) fn remove(name: &Name) -> Result<(), Errno> {
    let path = name.path();
    let opened = file::existing(&path, true);
    // A fork child closes its copy of what a membership has open: it does not keep the lock when we are killed.
    let membership = Membership::acquire();
    let own = opened.ok().and_then(|file| membership.open_lease(file.as_fd()).ok());
    // A damaged file, one that we may not write, or one whose lock is held for too long is removed all the same.
    let locked = own.filter(|own| wait_for_admission(None, || lease::try_lock(*own, ADMISSION)).is_ok());
    let removed = file::remove(&path);
    if let Some(own) = locked {
        // Closing would not do if somebody starts a program meanwhile: until that has begun, it has a copy of the descriptor.
        lease::unlock(own, ADMISSION);
    }
    membership.give_back();
    removed
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
            // How large the blocks are, only the creator decides.
            let size = |t: &ElementType| (if t.bytes { 1 } else { t.size }, t.align, t.bytes);
            (shape.element_text(), size(&shape.element), shape.second.as_ref().map(size))
        };
        if layout(wanted) != layout(has) {
            let text = |shape: &Shape| format!("{} ({} bytes)", shape.element_text(), shape.element.size);
            return Err(Error::TypeMismatch { name: name(), expected: text(wanted), found: text(has) });
        }
        if !self.any_capacity && wanted.unbounded.is_some() != has.unbounded.is_some() {
            return Err(Error::OptionMismatch { name: name(), option: "unbounded" });
        }
        // How much memory was free when it was made, nobody has to know.
        if !self.any_capacity && wanted.capacity != has.capacity && has.unbounded.is_none() {
            return Err(Error::CapacityMismatch { name: name(), expected: wanted.capacity, found: has.capacity });
        }
        if !self.any_capacity && wanted.flags != has.flags {
            return Err(Error::OptionMismatch { name: name(), option: "keep_waiting" });
        }
        Ok(())
    }
}
