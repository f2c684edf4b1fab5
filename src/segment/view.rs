//! A mapped segment whose geometry has been checked: typed access to its tables and objects.

use core::mem::size_of;
use core::ptr::NonNull;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::Error;
use crate::event::ALL;
use crate::layout::{
    Entry, EntryFields, FLAG_ANONYMOUS, FLAG_PERSIST, Geometry, LIFE_BYTES, LINE, MAGIC, MAX_OBJECTS, MAX_PARTICIPANTS,
    Participant, SegmentHeader, TARGET, Tenure, VERSION, fate, round_up, standing,
};
use crate::object::{Object, Ring};
use crate::primitive::{AtomicU32, FenceMode, Ordering};
use crate::region::Region;
use crate::ring::{Header, owned::Words};
use crate::sys::map::{Access, Mapping, Part};
use crate::sys::robust::OWNER_DIED;
use crate::sys::{Errno, file};

impl Geometry {
    /// The geometry of a segment with these properties, or how many bytes it would need at least.
    pub(crate) fn plan(size: u64, flags: u32, fence: FenceMode, participants: u16, objects: u32) -> Result<Self, u64> {
        let life_words = size_of::<SegmentHeader>();
        let participants_at = life_words + (usize::from(participants) + 1) * LIFE_BYTES;
        let participants_at = round_up(participants_at, LINE).expect("small");
        let directory = participants_at + usize::from(participants) * size_of::<Participant>();
        let heap = round_up(directory + objects as usize * size_of::<Entry>(), LINE).expect("small");
        let minimum = (heap + LINE) as u64;
        if size < minimum {
            return Err(minimum);
        }
        Ok(Self {
            magic: MAGIC,
            version: VERSION,
            target: TARGET,
            size,
            flags,
            fence: u32::from(fence == FenceMode::Asymmetric),
            max_participants: u32::from(participants),
            max_objects: objects,
            life_words: life_words as u64,
            participants: participants_at as u64,
            directory: directory as u64,
            heap: heap as u64,
            created: crate::sys::clock::unix_nanos(),
        })
    }

    /// Checks a header from a file of `file_size` bytes; everything in it is known good afterwards.
    fn check(&self, file_size: u64) -> Result<(), Error> {
        if self.magic != MAGIC {
            return Err(Error::NotGimmal { reason: "it does not begin with gimmal's magic bytes" });
        }
        if self.version != VERSION {
            return Err(Error::Version { expected: VERSION, found: self.version });
        }
        if self.target != TARGET {
            return Err(Error::Target { expected: TARGET, found: self.target });
        }
        // What is behind it belongs to queues without a bound.
        if self.size > file_size {
            return Err(Error::Truncated { expected: self.size, found: file_size });
        }
        let corrupt = Error::Corrupt { what: "its header contradicts itself" };
        let (Ok(participants), objects) = (u16::try_from(self.max_participants), self.max_objects) else {
            return Err(corrupt);
        };
        let in_range = (1..=MAX_PARTICIPANTS).contains(&participants) && (1..=MAX_OBJECTS).contains(&objects);
        if !in_range
            || self.fence > 1
            || self.flags & !(FLAG_PERSIST | FLAG_ANONYMOUS) != 0
            || self.size > isize::MAX as u64
        {
            return Err(corrupt);
        }
        match Self::plan(self.size, self.flags, self.fence_mode(), participants, objects) {
            Ok(plan) if (Self { created: self.created, ..plan }) == *self => Ok(()),
            _ => Err(corrupt),
        }
    }

    pub(crate) fn fence_mode(&self) -> FenceMode {
        if self.fence == 1 { FenceMode::Asymmetric } else { FenceMode::Full }
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

impl PartialEq for Geometry {
    fn eq(&self, other: &Self) -> bool {
        bytemuck::bytes_of(self) == bytemuck::bytes_of(other)
    }
}

/// The mapping and its private, checked geometry.
pub(crate) struct View {
    map: Mapping,
    geometry: Geometry,
}

// SAFETY: everything behind the mapping is reached through atomics or cells with a protocol.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Maps a segment's file after checking it.
    pub(crate) fn open(fd: &OwnedFd, access: Access) -> Result<Self, Error> {
        use std::os::fd::AsFd;
        let geometry = Self::check(fd.as_fd())?;
        Self::map(fd.as_fd(), geometry, access)
    }

    /// The geometry of what can only be a segment of ours.
    fn check(file: BorrowedFd<'_>) -> Result<Geometry, Error> {
        let io = |e: Errno| Error::Io { action: "read the segment's header", source: e.into() };
        let status = file::status(file).map_err(io)?;
        if !status.regular {
            return Err(Error::NotGimmal { reason: "it is not a regular file" });
        }
        let mut geometry = Geometry { size: 0, ..bytemuck::Zeroable::zeroed() };
        let read = file::read_at(file, bytemuck::bytes_of_mut(&mut geometry), 0).map_err(io)?;
        if read < MAGIC.len() {
            return Err(Error::NotGimmal { reason: "it is shorter than gimmal's magic bytes" });
        }
        if geometry.magic == MAGIC && (status.size as usize) < size_of::<SegmentHeader>() {
            return Err(Error::Truncated { expected: size_of::<SegmentHeader>() as u64, found: status.size });
        }
        geometry.check(status.size)?;
        Ok(geometry)
    }

    /// Room for a private copy of a segment, into which its header and tables have been read.
    pub(super) fn copy(file: BorrowedFd<'_>) -> Result<Self, Error> {
        let geometry = Self::check(file)?;
        let io = |source| Error::Io { action: "take memory for a copy of the segment", source };
        let mut copy = Self { map: Mapping::private(geometry.size as usize).map_err(io)?, geometry };
        copy.read(file, 0, geometry.heap as usize)?;
        Ok(copy)
    }

    /// Reads a part of the file into a private copy.
    pub(super) fn read(&mut self, file: BorrowedFd<'_>, offset: usize, length: usize) -> Result<(), Error> {
        assert!(length <= self.map.size() && offset <= self.map.size() - length);
        // SAFETY: inside the mapping, as just checked.
        let first = unsafe { self.map.base().add(offset) };
        // SAFETY: as above; the memory is ours alone, and no reference to it is left from before this exclusive one.
        let place = unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), length) };
        let io = |e: Errno| Error::Io { action: "read the segment", source: e.into() };
        let read = file::read_at(file, place, offset as u64).map_err(io)?;
        let [expected, found] = [length, read].map(|bytes| (offset + bytes) as u64);
        if found < expected { Err(Error::Truncated { expected, found }) } else { Ok(()) }
    }

    /// Maps a file that is known to have this geometry, or is about to get it.
    pub(crate) fn map(fd: BorrowedFd<'_>, geometry: Geometry, access: Access) -> Result<Self, Error> {
        let size = geometry.size as usize;
        let map = Mapping::new(fd, size, access).map_err(|source| Error::Io { action: "map the segment", source })?;
        debug_assert_eq!(map.size(), size);
        Ok(Self { map, geometry })
    }

    /// Writes the header of a new segment, whose other bytes are zero. It does not say yet that the segment persists:
    /// until somebody has joined, it may be taken for dead.
    pub(crate) fn initialize(&self) {
        let header = self.map.base().cast::<Geometry>();
        let geometry = Geometry { flags: self.geometry.flags & !FLAG_PERSIST, ..self.geometry };
        // SAFETY: the mapping is larger than the header. Nobody else knows of the file yet, or those who do read it
        // by system calls.
        unsafe { header.write(geometry) }
    }

    /// Says that the segment persists, if it does. The caller has joined.
    pub(crate) fn set_flags(&self) {
        let flags = self.map.base().cast::<Geometry>().as_ptr();
        // SAFETY: the mapping is larger than the header.
        let flags = unsafe { &raw mut (*flags).flags };
        // SAFETY: valid for writes; whoever else reads it does so by a system call.
        unsafe { flags.write_volatile(self.geometry.flags) }
    }

    /// Whether the header still says what we have read: else somebody has made another segment of its file.
    pub(crate) fn is_what_it_was(&self) -> bool {
        // SAFETY: the mapping is larger than the header; volatile, since another may be writing it.
        unsafe { self.map.base().cast::<Geometry>().as_ptr().read_volatile() == self.geometry }
    }

    /// Whether somebody has found that nobody is left, and was about to remove the name.
    pub(crate) fn has_ended(&self) -> bool {
        self.header().top.fate.load(Ordering::Acquire) == fate::ENDED
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The address of a byte that lies inside the segment.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.map.size());
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.map.base().add(offset) }
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        // SAFETY: every segment is larger than its header; its live parts are atomics, the rest is not read here.
        unsafe { self.map.base().cast::<SegmentHeader>().as_ref() }
    }

    pub(crate) fn max_participants(&self) -> u16 {
        self.geometry.max_participants as u16
    }

    /// The table entry of a participant, `1..=max_participants`.
    pub(crate) fn participant(&self, id: u16) -> &Participant {
        assert!((1..=self.max_participants()).contains(&id));
        let offset = self.geometry.participants as usize + (usize::from(id) - 1) * size_of::<Participant>();
        // SAFETY: the table lies inside the segment by the checked geometry; all fields are atomics.
        unsafe { self.at(offset).cast::<Participant>().as_ref() }
    }

    /// All participants that have joined and not left, alive or not.
    pub(crate) fn joined(&self) -> impl Iterator<Item = u16> + '_ {
        (1..=self.max_participants()).filter(|&id| self.has_joined(id))
    }

    /// Whether `id` is somebody who has joined and not left, alive or not.
    pub(crate) fn has_joined(&self, id: u16) -> bool {
        self.tenure(id).is_taken()
    }

    pub(crate) fn tenure(&self, id: u16) -> Tenure {
        // Acquire: pairs with `set_tenure`.
        Tenure(self.participant(id).tenure.load(Ordering::Acquire))
    }

    /// Changes how `id` stands. The caller holds its lease, and so is the only one.
    pub(crate) fn set_tenure(&self, id: u16, change: impl FnOnce(Tenure) -> Tenure) {
        // Release: whoever sees it sees what it is about; who finds it free finds nothing left of its last holder.
        self.participant(id).tenure.store(change(self.tenure(id)).0, Ordering::Release);
    }

    /// Where the life words of `id` lie. 0: no sentinel answers for it; else what [`robust`](crate::sys::robust) makes of them.
    /// Two, since the kernel wakes only one who sleeps on each, and that one may be stopped.
    pub(crate) fn life_offsets(&self, id: u16) -> [usize; 2] {
        assert!((1..=self.max_participants()).contains(&id));
        let first = self.geometry.life_words as usize + usize::from(id) * LIFE_BYTES;
        [first, first + LIFE_BYTES / 2]
    }

    pub(crate) fn life(&self, id: u16) -> [&AtomicU32; 2] {
        // SAFETY: the table lies inside the segment by the checked geometry, aligned to 8; the words are atomic.
        self.life_offsets(id).map(|offset| unsafe { self.at(offset).cast().as_ref() })
    }

    /// Nobody answers for `id`. The caller holds its lease.
    pub(crate) fn clear_life(&self, id: u16) {
        self.life(id).iter().for_each(|word| word.store(0, Ordering::Release));
    }

    /// Whether the kernel has told that `id` ended, or somebody is repairing after it. Its lease alone is proof.
    pub(crate) fn is_dying(&self, id: u16) -> bool {
        let tenure = self.tenure(id);
        let is_marked = || self.life(id).iter().any(|word| word.load(Ordering::Acquire) & OWNER_DIED != 0);
        tenure.standing() == standing::DYING || tenure.is_taken() && is_marked()
    }

    /// Whether the kernel is to mark the life words of `id` when its process ends, and has not marked them.
    pub(crate) fn is_vouched_for(&self, id: u16) -> bool {
        let words = self.life(id).map(|word| word.load(Ordering::Acquire));
        words.iter().all(|&word| word != 0 && word & OWNER_DIED == 0) && !self.is_dying(id)
    }

    /// Tells everybody that `id` is about to let its lease go without having left, as the kernel would.
    pub(crate) fn announce_end(&self, id: u16) {
        self.life(id)[0].fetch_or(OWNER_DIED, Ordering::Release);
        self.announce();
    }

    /// Tells everybody who watches that participants have come, gone, or changed.
    pub(crate) fn announce(&self) {
        let membership = &self.header().membership;
        // Release: whoever sees the number sees what it is about.
        membership.word().fetch_add(1, Ordering::Release);
        membership.wake(ALL);
    }

    /// Wakes the reactors of every process that has doorbells in this segment: an event that they have armed is RINGING.
    pub(crate) fn ring(&self) {
        let bell = &self.header().bell;
        // Release: a reactor that sees the number sees the event.
        bell.word().fetch_add(1, Ordering::Release);
        bell.wake(ALL);
    }

    pub(crate) fn entry(&self, index: u32) -> NonNull<Entry> {
        assert!(index < self.geometry.max_objects);
        self.at(self.geometry.directory as usize + index as usize * size_of::<Entry>()).cast()
    }

    /// The published directory entries in order, each checked.
    pub(crate) fn objects(&self) -> impl Iterator<Item = Result<Object, Error>> + '_ {
        let mut end = self.geometry.heap;
        (0..self.geometry.max_objects).map_while(move |index| {
            let entry = self.entry(index).as_ptr();
            // SAFETY: the entry lies inside the segment by the checked geometry.
            let state = unsafe { &(*entry).state };
            // Acquire: the fields were written before the entry was published.
            if state.load(Ordering::Acquire) != 1 {
                return None;
            }
            // SAFETY: as above; the field is plain bytes.
            let fields = unsafe { &raw const (*entry).fields };
            // SAFETY: valid for reads; volatile, since a peer that breaks the protocol may write at the same time.
            let fields: EntryFields = unsafe { fields.read_volatile() };
            // Each object begins behind the last one, so that together they are no larger than the segment.
            let object = Object::from_fields(&fields, end, self.geometry.size);
            end = object.as_ref().map_or(u64::MAX, |object| (object.offset + object.bytes) as u64);
            Some(object.map_err(|what| Error::Corrupt { what }))
        })
    }

    /// The rings of a checked object, without their element types.
    pub(crate) fn rings<'a>(&'a self, object: &'a Object) -> impl Iterator<Item = RingView<'a>> + 'a {
        object.rings().map(move |ring| {
            // SAFETY: a checked object's rings lie inside the segment, and all fields of a header are atomics.
            let header = unsafe { self.at(ring.offset).cast::<Header>().as_ref() };
            RingView { view: self, header, ring }
        })
    }
}

/// One ring of an object.
pub(crate) struct RingView<'a> {
    view: &'a View,
    pub(crate) header: &'a Header,
    pub(crate) ring: Ring,
}

impl RingView<'_> {
    /// Bytes of memory that it has behind the segment.
    pub(crate) fn memory(&self) -> u64 {
        Region::memory(&self.ring, NonNull::from(self.header))
    }

    /// The words of an MPMC ring, and what keeps them mapped. Those of a queue without a bound are part of `file`, but not of this
    /// view.
    pub(crate) fn words(&self, file: BorrowedFd<'_>) -> Result<(Words, Option<Part>), Error> {
        let Ring { offset, stride, slots, .. } = self.ring;
        let region = Region::map(file, &self.ring)?;
        let first = region.as_ref().map_or_else(|| self.view.at(offset + size_of::<Header>()), Part::base);
        // SAFETY: a checked object's rings lie inside the segment, or in the region mapped just now; their capacity is a power of two.
        let words = unsafe { Words::new(NonNull::from(self.header), first, stride, slots) };
        let words = if self.ring.data.is_some() { words.of_whole_runs() } else { words };
        let mode = self.view.geometry().fence_mode();
        let words = match Region::pages(file, &self.ring, NonNull::from(self.header), mode) {
            Some(pages) => words.of_pages(pages),
            None => words,
        };
        Ok((words, region))
    }
}
