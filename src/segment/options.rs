//! Creating and opening.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::attached::{Attached, Joining};
use super::name::{self, Name};
use super::names::{self, Buried};
use super::view::View;
use super::{Segment, inspect, joined};
use crate::error::Error;
use crate::layout::{FLAG_ANONYMOUS, FLAG_PERSIST, Geometry, MAX_OBJECTS, MAX_PARTICIPANTS};
use crate::primitive::FenceMode;
use crate::shortage::{Room, Shortage};
use crate::sys::map::Access;
use crate::sys::room::Refused;
use crate::sys::{Errno, file, membarrier, room};

const PAGE: usize = 4096;
/// Where an unnamed segment is, for errors.
pub(super) const MEMORY: &str = "memory";
const DEFAULT_SIZE: usize = 1 << 20;
const DEFAULT_PARTICIPANTS: u16 = 128;

/// How to create or open a [`Segment`].
///
/// ```
/// use gimmal::Segment;
///
/// let segment = Segment::options()
///     .size(64 << 10)          // bytes
///     .mode(0o660)             // who may join: here also the group
///     .max_participants(16)
///     .open_or_create(&format!("doc-options-{}", std::process::id()))?;
/// assert!(segment.free() > 32 << 10);
/// # Ok::<(), gimmal::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SegmentOptions {
    size: usize,
    mode: u32,
    persist: bool,
    replace: bool,
    participants: u16,
    objects: Option<u32>,
    full_fences: bool,
    sentinel: bool,
    prefault: bool,
    directory: PathBuf,
}

impl SegmentOptions {
    pub(super) fn new() -> Self {
        Self {
            size: DEFAULT_SIZE,
            mode: 0o600,
            persist: false,
            replace: false,
            participants: DEFAULT_PARTICIPANTS,
            objects: None,
            full_fences: false,
            sentinel: true,
            prefault: false,
            directory: name::default_directory(),
        }
    }

    /// Bytes of the whole segment, rounded up to pages; 1 MiB by default. All of it is reserved at once, so that a full
    /// `/dev/shm` is an error of `create` and never a SIGBUS later. [`Queue::bytes`](crate::Queue::bytes) and its kin
    /// say what objects take.
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = bytes;
        self
    }

    /// Permission bits of the file, whatever the umask; `0o600` by default. What the dead have left is made anew in
    /// the same file, where it cannot be removed, only for those who ask for the mode that it has, if that gives
    /// others access as well: nobody gets a segment that more may write to than was asked for.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
        self
    }

    /// Keep the segment when its last participant leaves or dies, until [`Segment::unlink`].
    pub fn persist(mut self, persist: bool) -> Self {
        self.persist = persist;
        self
    }

    /// Let `create` take the name from an existing segment. Its participants keep the old one, which loses its name.
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// How many processes may be attached at once: 1 to 511, 128 by default. Each takes 48 bytes.
    pub fn max_participants(mut self, most: u16) -> Self {
        self.participants = most;
        self
    }

    /// How many objects the segment can hold: 1 to 65,536; by default one for each 4 KiB of its size, but at least 16
    /// and at most 1,024. Each takes 192 bytes.
    pub fn max_objects(mut self, most: u32) -> Self {
        self.objects = Some(most);
        self
    }

    /// Use full memory fences on the message path even where the kernel offers `membarrier`. For processes that may not
    /// call it; costs tens of nanoseconds a message.
    pub fn full_fences(mut self, full: bool) -> Self {
        self.full_fences = full;
        self
    }

    /// Whether this process has a sentinel watch over the segment: one small thread per process, `gimmal-sentinel`, with all
    /// signals blocked, that the kernel tells of the death of participants within milliseconds. It sleeps while nothing
    /// happens. Without one, or on Linux before 5.16, blocked calls of this process look every 100 ms whether somebody has
    /// died, and so do the sentinels of the others on behalf of this one. On by default, unless the environment variable
    /// `GIMMAL_SENTINEL` is `off`.
    pub fn sentinel(mut self, sentinel: bool) -> Self {
        self.sentinel = sentinel;
        self
    }

    /// Put all pages into this process's page table when it maps the segment. Otherwise each costs a fault of up to a microsecond
    /// when this process touches it first. Joining takes longer instead, about 0.1 ms a MiB. Off by default.
    pub fn prefault(mut self, prefault: bool) -> Self {
        self.prefault = prefault;
        self
    }

    /// The directory of named segments, a tmpfs. By default the environment variable `GIMMAL_DIR`, else `/dev/shm`.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    fn access(&self) -> Access {
        if self.prefault { Access::WritePrefaulted } else { Access::Write }
    }

    fn name(&self, name: &str) -> Result<Name, Error> {
        Name::new(&self.directory, name)
    }

    fn geometry(&self, extra_flags: u32) -> Result<Geometry, Error> {
        let in_range = |what, given: u64, maximum: u64| {
            if (1..=maximum).contains(&given) { Ok(()) } else { Err(Error::BadSize { what, given, maximum }) }
        };
        in_range("a segment size", self.size as u64, (isize::MAX as u64) & !(PAGE as u64 - 1))?;
        in_range("max_participants", self.participants.into(), MAX_PARTICIPANTS.into())?;
        let size = self.size.next_multiple_of(PAGE);
        let objects = self.objects.unwrap_or_else(|| (size / PAGE).clamp(16, 1024) as u32);
        in_range("max_objects", objects.into(), MAX_OBJECTS.into())?;
        let fence = if !self.full_fences && membarrier::available() { FenceMode::Asymmetric } else { FenceMode::Full };
        let flags = extra_flags | if self.persist { FLAG_PERSIST } else { 0 };
        Geometry::plan(size as u64, flags, fence, self.participants, objects)
            .map_err(|minimum| Error::TooSmall { size: self.size, minimum: minimum as usize })
    }

    /// Why there is no file in `place`.
    fn storage_error(&self, place: &Path, refused: impl Into<Refused>) -> Error {
        let path = place.to_owned();
        match refused.into() {
            Refused::Short(shortage) => Error::NoSpace { size: self.size, directory: path, shortage },
            Refused::System(Errno::EROFS) => Error::ReadOnly { path },
            Refused::System(Errno::EACCES | Errno::EPERM) => Error::Permission { path },
            Refused::System(Errno::ENOENT | Errno::ENOTDIR) => Error::NoDirectory { directory: path },
            Refused::System(e) => Error::Io { action: "create the segment's file", source: e.into() },
        }
    }

    /// How much memory a segment that is created now could have, and what ends it: the directory's file system, the machine, a memory
    /// cgroup of this process, or its limit of the length of files. Others take memory at the same time.
    ///
    /// ```
    /// let room = gimmal::Segment::options().room()?;
    /// assert!(room.bytes > 1 << 20, "{}", room.bound);
    /// # Ok::<(), gimmal::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoDirectory`], [`Error::Permission`], [`Error::Io`].
    pub fn room(&self) -> Result<Room, Error> {
        room::in_directory(&self.directory).map_err(|e| match e {
            Errno::EACCES => Error::Permission { path: self.directory.clone() },
            Errno::ENOENT | Errno::ENOTDIR => Error::NoDirectory { directory: self.directory.clone() },
            e => Error::Io { action: "ask how much memory is free", source: e.into() },
        })
    }

    /// See [`Segment::create`].
    ///
    /// # Errors
    /// As there, and [`Error::TooSmall`] or [`Error::BadSize`] for options that fit no segment.
    pub fn create(&self, name: &str) -> Result<Segment, Error> {
        let name = self.name(name)?;
        let geometry = self.geometry(0)?;
        loop {
            match names::bury(&name) {
                Ok(Buried::Free | Buried::Removed) => break,
                Ok(Buried::Stuck(dead)) => match self.take_over(dead, &name, geometry) {
                    // Somebody else was faster.
                    Err(Error::NotFound { .. }) => {}
                    taken => return taken,
                },
                // It is to be replaced, once the new one is there.
                _ if self.replace => break,
                Ok(Buried::Kept) | Err(Error::Busy { .. }) => return Err(name.exists()),
                Err(e) => return Err(e),
            }
        }
        let file = file::unnamed(&self.directory, geometry.size, self.mode)
            .map_err(|e| self.storage_error(&self.directory, e))?;
        let view = View::map(file.as_fd(), geometry, self.access())?;
        view.initialize();
        let path = name.path();
        let link = |file: &OwnedFd| loop {
            match file::link(file, &path) {
                Ok(()) => return Ok(()),
                Err(Errno::EEXIST) if self.replace => match names::remove(&name) {
                    Ok(()) | Err(Error::NotFound { .. }) => {}
                    Err(e) => return Err(e),
                },
                Err(Errno::EEXIST) => return Err(name.exists()),
                // All that a name takes is a place for it.
                Err(Errno::ENOSPC) => return Err(self.storage_error(&self.directory, Refused::Short(Shortage::Files))),
                Err(e) => return Err(self.storage_error(&self.directory, e)),
            }
        };
        self.join(view, file, Some(name.clone()), Joining::Fresh(&link))
    }

    fn join(&self, view: View, file: OwnedFd, name: Option<Name>, how: Joining<'_>) -> Result<Segment, Error> {
        Ok(Segment { attached: Attached::join(view, file, name, how, self.sentinel)? })
    }

    /// Makes a new segment in the file of a dead one, whose name may not be removed. [`Error::NotFound`]: it is not
    /// what it was.
    fn take_over(&self, dead: OwnedFd, name: &Name, geometry: Geometry) -> Result<Segment, Error> {
        if let Some(error) = names::why_not_taken_over(&dead, name, self.mode) {
            return Err(error);
        }
        let before = names::header_of(dead.as_fd());
        // Later than that, whatever the clock says.
        let created = if geometry.created > before.created { geometry.created } else { before.created.wrapping_add(1) };
        let view = View::map(dead.as_fd(), Geometry { created, ..geometry }, self.access())?;
        self.join(view, dead, Some(name.clone()), Joining::InPlace(&before))
    }

    /// See [`Segment::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(&self, name: &str) -> Result<Segment, Error> {
        let name = self.name(name)?;
        match self.open_name(&name) {
            // The system, or an administrator, has removed the file under us.
            Err(e @ Error::NotFound { .. }) => joined::nameless(&name).map(Segment::of).ok_or(e),
            opened => opened,
        }
    }

    fn open_name(&self, name: &Name) -> Result<Segment, Error> {
        loop {
            let file = file::existing(&name.path(), true).map_err(|e| open_error(e, name))?;
            let found =
                |file: &OwnedFd| (file::status(file.as_fd()).map(|s| s.identity), names::header_of(file.as_fd()));
            let before = found(&file);
            let error = match self.join_file(file, name) {
                // Nobody lives there, or it is not what it was.
                Err(e @ Error::NotFound { .. }) => e,
                // Whether somebody lives there is visible all the same.
                Err(
                    e
                    @ (Error::Version { .. } | Error::Target { .. } | Error::Truncated { .. } | Error::Corrupt { .. }),
                ) => e,
                joined => return joined,
            };
            match names::bury(name)? {
                Buried::Free | Buried::Removed | Buried::Stuck(_) => return Err(name.not_found()),
                Buried::Kept => {}
            }
            let is_same = || file::existing(&name.path(), true).is_ok_and(|now| found(&now) == before);
            if !matches!(error, Error::NotFound { .. }) && is_same() {
                return Err(error);
            }
        }
    }

    fn join_file(&self, file: OwnedFd, name: &Name) -> Result<Segment, Error> {
        let view = View::open(&file, self.access())?;
        if view.geometry().has(FLAG_ANONYMOUS) {
            return Err(Error::Corrupt { what: "an unnamed segment under a name" });
        }
        self.join(view, file, Some(name.clone()), Joining::Existing)
    }

    /// See [`Segment::open_or_create`].
    ///
    /// # Errors
    /// As there.
    pub fn open_or_create(&self, name: &str) -> Result<Segment, Error> {
        loop {
            match self.open(name) {
                Err(Error::NotFound { .. }) => {}
                opened => return opened,
            }
            // Each further round means that another process has just created or removed the name.
            match self.create(name) {
                Err(Error::Exists { .. }) => {}
                created => return created,
            }
        }
    }

    /// See [`Segment::anonymous`].
    ///
    /// # Errors
    /// As there.
    pub fn anonymous(&self) -> Result<Segment, Error> {
        let geometry = self.geometry(FLAG_ANONYMOUS)?;
        let file = file::sealed_memory(geometry.size).map_err(|e| self.storage_error(Path::new(MEMORY), e))?;
        let view = View::map(file.as_fd(), geometry, self.access())?;
        view.initialize();
        self.join(view, file, None, Joining::Fresh(&|_| Ok(())))
    }

    /// See [`Segment::from_fd`].
    ///
    /// # Errors
    /// As there.
    pub fn from_fd(&self, fd: impl AsFd) -> Result<Segment, Error> {
        let fd = fd.as_fd();
        if !file::size_is_sealed(fd) {
            return Err(Error::NotSealed);
        }
        let file = file::reopen(fd).map_err(|e| match e {
            Errno::EACCES => Error::Permission { path: Path::new("/proc/self/fd").into() },
            e => Error::Io { action: "reopen the descriptor through /proc/self/fd", source: e.into() },
        })?;
        let view = View::open(&file, self.access())?;
        if !view.geometry().has(FLAG_ANONYMOUS) {
            return Err(Error::Corrupt { what: "a named segment in a memfd" });
        }
        self.join(view, file, None, Joining::Existing)
    }

    /// The file of a segment of this name.
    pub(crate) fn path_of(&self, name: &str) -> Result<PathBuf, Error> {
        Name::new(&self.directory, name).map(|name| name.path())
    }

    /// Every segment of the directory, sorted by name, with what is in it or why that cannot be told. Reads, and joins
    /// none.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<inspect::Listed>, Error> {
        self.names()?.into_iter().map(|name| Ok(inspect::listed(&self.name(&name)?))).collect()
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let io = |source: std::io::Error| match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Error::NoDirectory { directory: self.directory.clone() },
            _ => Error::Io { action: "read the directory of segments", source },
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(io)? {
            let file_name = entry.map_err(io)?.file_name();
            names.extend(file_name.to_str().and_then(name::of_file).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// What is in a segment: its objects, their depth, its participants and whether they live. Reads, and does not
    /// join. Nobody who changes the file meanwhile does harm.
    ///
    /// # Errors
    /// As for [`Segment::open`].
    pub fn inspect(&self, name: &str) -> Result<inspect::Snapshot, Error> {
        inspect::of_name(&self.name(name)?)
    }

    /// Removes a segment's name, whatever is behind it, also a file that is damaged. Those who are attached go on; it is
    /// freed with the last of them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Permission`], [`Error::NotRemovable`], [`Error::BadName`].
    pub fn unlink(&self, name: &str) -> Result<(), Error> {
        names::remove(&self.name(name)?)
    }

    /// Removes every segment of the directory that nobody living is attached to and that does not persist, of
    /// whatever version, and says which. Files that are no segments are left alone. So is what we may not write; what
    /// we may write and not remove stays without its memory, and is taken over by the next one who comes.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn clean(&self) -> Result<Vec<String>, Error> {
        let mut removed = self.names()?;
        removed.retain(|name| self.name(name).is_ok_and(|name| matches!(names::bury(&name), Ok(Buried::Removed))));
        Ok(removed)
    }
}

pub(super) fn open_error(e: Errno, name: &Name) -> Error {
    match e {
        Errno::ENOTDIR => Error::NoDirectory { directory: name.directory().into() },
        Errno::ENOENT if !name.directory().is_dir() => Error::NoDirectory { directory: name.directory().into() },
        Errno::ENOENT => name.not_found(),
        Errno::EROFS => Error::ReadOnly { path: name.path() },
        Errno::EACCES | Errno::EPERM => Error::Permission { path: name.path() },
        Errno::ELOOP => Error::NotGimmal { reason: "it is a symbolic link" },
        Errno::EISDIR | Errno::ENXIO => Error::NotGimmal { reason: "it is not a regular file" },
        e => Error::Io { action: "open the segment's file", source: e.into() },
    }
}
