//! Segments: one mapped file, shared by name or by descriptor, that holds named objects.

mod admission;
mod attached;
mod inspect;
mod joined;
mod membership;
mod name;
mod names;
mod options;
pub(crate) mod repair;
mod sentinel;
pub(crate) mod view;
mod wanted;
mod watcher;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

pub(crate) use attached::Attached;
pub use inspect::{Listed, ObjectInfo, ParticipantInfo, Peer, Snapshot};
pub(crate) use joined::already_open;
pub(crate) use membership::{Membership, Side, Token, fork_generation};
pub use options::SegmentOptions;
pub use repair::Recovered;
pub(crate) use wanted::Wanted;
pub use watcher::{Change, Watcher};

use crate::error::Error;
use crate::layout::FLAG_PERSIST;

/// A shared-memory segment that this process has joined.
///
/// A segment is one file that several processes map: `/dev/shm/gimmal.NAME`, or a sealed memfd without a name. It holds
/// named objects: [`Queue`](crate::Queue), [`Pipe`](crate::Pipe), [`Value`](crate::Value), [`Array`](crate::Array),
/// [`Lock`](crate::Lock).
///
/// Each process that opens it becomes a *participant* and stays one until the last clone of its `Segment` and the last
/// object handle made from it are dropped, or until it ends in whatever way. By default the segment goes away with its
/// last participant; [`SegmentOptions::persist`] keeps it. A segment whose participants were all killed counts as
/// gone, whatever version of gimmal they used: the next `open` says [`Error::NotFound`], the next `open_or_create`
/// makes a fresh one. Where a name may be removed only by the owner of its file, as in `/dev/shm`, anybody who may
/// write to the file, and asks for the [`mode`](SegmentOptions::mode) that it has, makes the fresh one of the same
/// file.
///
/// A process that is forked from a participant becomes one itself when it first uses what it has inherited. If the
/// segment has ended before that, it says [`Error::Ended`].
///
/// Cloning is cheap and gives the same participant. Opening twice gives two.
///
/// Other processes may create objects, join and leave at any time; everything a `Segment` reports is a moment.
///
/// # Example
///
/// ```
/// use gimmal::{Queue, Segment};
///
/// let name = format!("doc-segment-{}", std::process::id());
/// let segment = Segment::create(&name)?;
/// let jobs = Queue::<u64>::create(&segment, "jobs", 1024)?;
/// jobs.sender()?.send(7)?;
///
/// // Another process would do this:
/// let other = Segment::open(&name)?;
/// let jobs = Queue::<u64>::open(&other, "jobs")?;
/// assert_eq!(jobs.receiver()?.recv()?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Segment {
    attached: Arc<Attached>,
}

impl Segment {
    /// Options for everything below.
    pub fn options() -> SegmentOptions {
        SegmentOptions::new()
    }

    /// Creates a segment of 1 MiB. Atomic: nobody ever sees half of it.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadName`], [`Error::NoSpace`], [`Error::Permission`]; [`Error::NotRemovable`] if
    /// the dead have left something of that name that this process may neither remove nor take over.
    pub fn create(name: &str) -> Result<Self, Error> {
        Self::options().create(name)
    }

    /// Joins an existing segment.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a segment whose participants are all dead; [`Error::Permission`];
    /// [`Error::NoParticipantSlot`]; and what validation finds: [`Error::NotGimmal`], [`Error::Version`],
    /// [`Error::Target`], [`Error::Truncated`], [`Error::Corrupt`].
    pub fn open(name: &str) -> Result<Self, Error> {
        Self::options().open(name)
    }

    /// Joins the segment, making it first if need be. Any number of processes may do this at once: one creates, the
    /// others join, none fails because of another. The options count only for the one that creates.
    ///
    /// # Errors
    /// As for [`Segment::create`] and [`Segment::open`], without `Exists` and `NotFound`.
    pub fn open_or_create(name: &str) -> Result<Self, Error> {
        Self::options().open_or_create(name)
    }

    /// Creates a segment of 1 MiB without a name: a memfd whose size is sealed. It travels to children
    /// ([`CommandExt::pass_segment`](crate::process::CommandExt::pass_segment),
    /// [`Process::segment`](crate::process::Process::segment)) or as a descriptor ([`AsFd`], [`Segment::from_fd`]), and
    /// lives as long as somebody has a descriptor or a mapping of it.
    ///
    /// # Errors
    /// [`Error::NoSpace`] or [`Error::Io`].
    pub fn anonymous() -> Result<Self, Error> {
        Self::options().anonymous()
    }

    /// Joins an unnamed segment through a descriptor received from elsewhere, which is not kept.
    ///
    /// # Errors
    /// [`Error::NotSealed`] if the size could still change under us, and what validation finds.
    pub fn from_fd(fd: impl AsFd) -> Result<Self, Error> {
        Self::options().from_fd(fd)
    }

    /// Joins the segment that the parent process handed over under `key` with
    /// [`CommandExt::pass_segment`](crate::process::CommandExt::pass_segment).
    ///
    /// # Errors
    /// [`Error::NotInherited`], or what opening it finds.
    pub fn inherited(key: &str) -> Result<Self, Error> {
        crate::process::inherited_segment(key)
    }

    /// The name it was opened by; `None` for an unnamed one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.attached.name().map(name::Name::as_str)
    }

    /// The directory its name is in; `/dev/shm` also for an unnamed one.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.attached.name().map_or(Path::new("/dev/shm"), name::Name::directory)
    }

    /// Bytes of the whole segment.
    #[must_use]
    pub fn size(&self) -> usize {
        self.attached.view().geometry().size as usize
    }

    /// Bytes that new objects can still take. A moment's number: others may create objects.
    #[must_use]
    pub fn free(&self) -> usize {
        self.attached.free()
    }

    /// Whether the segment outlives its participants.
    #[must_use]
    pub fn persists(&self) -> bool {
        self.attached.view().geometry().has(FLAG_PERSIST)
    }

    /// Whether its name leads to it: whoever opens that now comes here. `false` after [`Segment::unlink`] or
    /// [`SegmentOptions::replace`], or if the file was removed by hand or by the system: logind does that to the
    /// files of a user who logs out (`RemoveIPC`). Those in the segment go on; others no longer find it, and the next
    /// one makes another. In this process, `open` and `open_or_create` by that name give back a segment that has lost
    /// its file, while this process has it and the name leads to no other that lives. An unnamed segment has no name
    /// to lose: `true`. A moment's answer; one system call.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.attached.is_linked()
    }

    /// The living participants, this one included. A moment's list.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        inspect::peers(&self.attached)
    }

    /// What is in the segment now.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        inspect::snapshot(&self.attached)
    }

    /// Repairs after participants that have died, now: sends they had begun never happened, receives they had begun go
    /// to somebody else, their seats are free and their locks are handed over. The sentinels do this by themselves, and so does
    /// everybody who joins; there is nothing that must be called, and others may have been faster: what is returned is what
    /// this call has done. Never waits for another process.
    ///
    /// # Errors
    /// [`Error::Io`] in a forked child that could not join the segment.
    pub fn recover(&self) -> Result<Recovered, Error> {
        self.attached.recover()
    }

    /// The other participants, as they come and go: a receiver of [`Change`]s, of which the first are about those who are
    /// attached already. It blocks without using the processor.
    ///
    /// ```
    /// use gimmal::{Change, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let mut watcher = segment.watch();
    /// let other = Segment::from_fd(&segment)?; // usually another process
    /// assert!(matches!(watcher.recv(), Change::Joined(peer) if peer.pid == std::process::id()));
    /// drop(other);
    /// assert!(matches!(watcher.recv(), Change::Left(_)));
    /// assert!(watcher.try_recv().is_none());
    /// # Ok::<(), gimmal::Error>(())
    /// ```
    #[must_use]
    pub fn watch(&self) -> Watcher {
        Watcher::new(&self.attached)
    }

    /// All segments of the directory with what is in each; see [`SegmentOptions::list`].
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn list() -> Result<Vec<Listed>, Error> {
        Self::options().list()
    }

    /// What is in a segment, without joining it; see [`SegmentOptions::inspect`].
    ///
    /// # Errors
    /// As for [`Segment::open`].
    pub fn inspect(name: &str) -> Result<Snapshot, Error> {
        Self::options().inspect(name)
    }

    /// Removes a segment's name; see [`SegmentOptions::unlink`].
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Permission`], [`Error::NotRemovable`], [`Error::BadName`].
    pub fn unlink(name: &str) -> Result<(), Error> {
        Self::options().unlink(name)
    }

    /// Removes every segment that nobody living is attached to and that does not persist; see [`SegmentOptions::clean`].
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn clean() -> Result<Vec<String>, Error> {
        Self::options().clean()
    }

    pub(crate) fn of(attached: Arc<Attached>) -> Self {
        Self { attached }
    }

    pub(crate) fn attached(&self) -> &Arc<Attached> {
        &self.attached
    }
}

/// A descriptor that may be passed on: it holds no lease.
impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.attached.file()
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("name", &self.name()).field("size", &self.size()).finish_non_exhaustive()
    }
}
