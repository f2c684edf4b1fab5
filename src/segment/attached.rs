//! A segment this process has joined: the mapping, the membership, the admission lock, and the shared half of every
//! handle.

use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::admission::Admission;
use super::joined;
use super::membership::{Membership, Side, Token};
use super::name::{self, Name};
use super::names;
use super::options::MEMORY;
use super::repair::{self, Recovered};
use super::sentinel::Watch;
use super::view::View;
use super::wanted::Wanted;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::event::{LOOK, Surroundings};
use crate::ids::Ids;
use crate::layout::{Geometry, LINE, MAP_UNIT, NAME_BYTES, standing};
use crate::object::{Object, Shape, Unbounded};
use crate::primitive::private::{AtomicBool, AtomicU32, AtomicU64};
use crate::primitive::{FenceMode, Ordering};
use crate::ring::Header;
use crate::ring::owned::VAIN_CALLS;
use crate::sys::lease;
use crate::sys::map::Part;
use crate::sys::room::Refused;
use crate::sys::{Errno, clock, file, membarrier};

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
pub(super) enum Joining<'a> {
    /// A new segment; this gives it its name when it is already ours.
    Fresh(Link<'a>),
    /// A new one in the file of a dead one, which has this header.
    InPlace(&'a Geometry),
    /// An existing one. If nobody living is attached to it, and it does not persist, it counts as gone.
    Existing,
    /// The same one as before, in a fork child.
    Again,
}

impl Attached {
    /// Joins a segment. [`Error::NotFound`] also means that the name leads to another one by now.
    pub(super) fn join(
        view: View,
        file: OwnedFd,
        name: Option<Name>,
        how: Joining<'_>,
        sentinel: bool,
    ) -> Result<Arc<Self>, Error> {
        // Before the sentinel starts: it takes the kernel microseconds in a process of one thread, and milliseconds in others.
        // A fork child inherits it.
        if view.geometry().fence_mode() == FenceMode::Asymmetric && !membarrier::register() {
            return Err(Error::Fence);
        }
        let membership = Membership::acquire();
        let watch = if sentinel { Watch::new(&view, file.as_fd(), membership) } else { None };
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
        let own = membership.open_lease(file.as_fd()).map_err(names::reopening)?;
        let admission = Admission::wait(view, own, membership)?;
        match (&how, name) {
            (Joining::Existing, Some(name))
                if !names::leads_to(name, own) || !view.is_what_it_was() || names::is_dead(own) =>
            {
                return Err(name.not_found());
            }
            (Joining::InPlace(before), Some(name)) => names::renew(view, before, file, own, name)?,
            (Joining::Again, _) if view.has_ended() || !view.is_what_it_was() => return Err(Error::Ended),
            _ => {}
        }
        if name.is_some() {
            // Fork children share it: while one of them has the segment mapped, nobody makes another of its file.
            let io = |e: Errno| Error::Io { action: "lock the segment as mapped", source: e.into() };
            lease::share(file.as_fd(), lease::MAPPED).map_err(io)?;
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
        if matches!(how, Joining::Fresh(_) | Joining::InPlace(_)) {
            // From here on it may stay without anybody who lives in it.
            view.set_flags();
        }
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

    /// Whether the name it was opened by leads to it; one without a name has none to lose.
    pub(crate) fn is_linked(&self) -> bool {
        self.name.as_ref().is_none_or(|name| names::leads_to(name, self.file.as_fd()))
    }

    /// Whether somebody who knows nothing of segments has removed the file.
    pub(super) fn has_lost_its_name(&self) -> bool {
        self.view.header().top.fate.load(Ordering::Acquire) == 0 && self.view.is_what_it_was() && !self.is_linked()
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
        self.membership.lease().filter(|_| attached).ok_or_else(|| self.detached())
    }

    /// Why a fork child cannot go on.
    pub(crate) fn detached(&self) -> Error {
        if self.view.has_ended() || !self.view.is_what_it_was() {
            return Error::Ended;
        }
        Error::Io {
            action: "join the segment from this forked process",
            source: std::io::Error::other("no room for another participant, or its descriptors are closed"),
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
        if self.token() == Token::NOBODY && self.view.has_ended() {
            return Err(Error::Ended);
        }
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
        if let Some(name) = &self.name
            && self.view.is_what_it_was()
            && names::is_dead(lease)
            && names::leads_to(name, lease)
        {
            // A failure leaves a name that the next opener or `clean` removes.
            let _ = names::discard(lease, name);
        }
    }
}
