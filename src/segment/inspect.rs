//! Looking without touching.

use std::os::fd::BorrowedFd;
use std::time::SystemTime;

use super::attached::Attached;
use super::repair::alive;
use super::view::View;
use crate::error::Error;
use crate::layout::FLAG_PERSIST;
use crate::object::{Kind, Object};
use crate::primitive::Ordering;
use crate::ring::spsc;
use crate::sys::{clock, file};

/// A living participant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peer {
    /// Its participant id.
    pub id: u16,
    /// Its process id, as it sees itself (another PID namespace counts differently).
    pub pid: u32,
    /// When it joined.
    pub joined: SystemTime,
    /// Whether it is this participant.
    pub is_self: bool,
}

/// A participant in a [`Snapshot`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ParticipantInfo {
    /// Its participant id.
    pub id: u16,
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// When it joined.
    pub joined: SystemTime,
    /// Whether it lives; a dead one is waiting for repair.
    pub alive: bool,
    /// Whether the kernel tells the others of its death; else they look every 100 ms.
    pub sentinel: bool,
}

/// An object in a [`Snapshot`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its element type; `A -> B` for a pipe of two directions.
    pub element: String,
    /// Bytes of one element (of a pipe's first direction).
    pub element_size: usize,
    /// Slots of a ring, elements of an array, 1 for the others.
    pub capacity: u64,
    /// Messages that wait, one number per direction; empty for what is not a queue or pipe. Of an SPSC ring of bytes, bytes. Of a queue
    /// without a bound, about how many slots they take.
    pub depth: Vec<u64>,
    /// Whether a queue is closed; `None` for what cannot be closed.
    pub closed: Option<bool>,
    /// Bytes in the segment.
    pub bytes: usize,
    /// Bytes of memory that it has: a queue without a bound takes more behind the segment.
    pub memory: u64,
}

/// A moment of a segment. Processes come and go and messages flow while it is taken, so its parts may be from slightly
/// different moments.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The segment's name; `None` for an unnamed one.
    pub name: Option<String>,
    /// Bytes of the whole segment, without what queues without a bound take.
    pub size: usize,
    /// Bytes of memory that it has, with that.
    pub memory: u64,
    /// Bytes in use, tables included.
    pub used: usize,
    /// Whether it outlives its participants.
    pub persist: bool,
    /// Whether it relies on `membarrier`.
    pub asymmetric_fences: bool,
    /// When it was made.
    pub created: SystemTime,
    /// How many participants fit.
    pub max_participants: u16,
    /// How many objects fit.
    pub max_objects: u32,
    /// Who is attached, or was when it died.
    pub participants: Vec<ParticipantInfo>,
    /// What it holds.
    pub objects: Vec<ObjectInfo>,
}

/// One line of [`Segment::list`](super::Segment::list).
#[derive(Debug)]
#[non_exhaustive]
pub struct Listed {
    /// The segment's name.
    pub name: String,
    /// What is in it, or why that cannot be told.
    pub snapshot: Result<Snapshot, Error>,
}

pub(super) fn peers(attached: &Attached) -> Vec<Peer> {
    let own = attached.id();
    let view = attached.view();
    let living = view.joined().filter(|&id| id == own || attached.alive(id));
    living
        .map(|id| {
            let entry = view.participant(id);
            Peer {
                id,
                pid: entry.pid.load(Ordering::Relaxed),
                joined: clock::from_unix_nanos(entry.joined.load(Ordering::Relaxed)),
                is_self: id == own,
            }
        })
        .collect()
}

pub(super) fn snapshot(attached: &Attached) -> Result<Snapshot, Error> {
    let name = attached.name().map(super::name::Name::as_str);
    of_view(attached.view(), attached.file(), name)
}

/// `file` is a description that holds no lease, so that even our own looks taken.
pub(super) fn of_view(view: &View, file: BorrowedFd<'_>, name: Option<&str>) -> Result<Snapshot, Error> {
    let geometry = view.geometry();
    let objects = view.objects().collect::<Result<Vec<_>, _>>()?;
    let used = objects.iter().map(|o| o.offset + o.bytes).max().unwrap_or(geometry.heap as usize);
    let participants = view.joined().map(|id| {
        let entry = view.participant(id);
        ParticipantInfo {
            id,
            pid: entry.pid.load(Ordering::Relaxed),
            joined: clock::from_unix_nanos(entry.joined.load(Ordering::Relaxed)),
            alive: alive(view, file, id),
            sentinel: view.life(id)[0].load(Ordering::Relaxed) != 0,
        }
    });
    Ok(Snapshot {
        name: name.map(str::to_owned),
        size: geometry.size as usize,
        memory: file::status(file).map_or(geometry.size, |status| status.memory),
        used,
        persist: geometry.has(FLAG_PERSIST),
        asymmetric_fences: geometry.fence == 1,
        created: clock::from_unix_nanos(geometry.created),
        max_participants: view.max_participants(),
        max_objects: geometry.max_objects,
        participants: participants.collect(),
        objects: objects.iter().map(|object| info(view, file, object)).collect(),
    })
}

fn info(view: &View, file: BorrowedFd<'_>, object: &Object) -> ObjectInfo {
    let owned = matches!(object.shape.kind, Kind::Queue | Kind::SharedPipe);
    let depth = view.rings(object).map(|ring| match owned {
        // To look at its slots would give it memory.
        true if ring.ring.unbounded.is_some() => {
            let (tail, head) = (&ring.header.tail, &ring.header.head);
            tail.load(Ordering::Relaxed).saturating_sub(head.load(Ordering::Relaxed))
        }
        true => ring.words(file).map_or(0, |(words, _)| words.len(0)),
        false => spsc::len(ring.header, ring.ring.slots),
    });
    let closed =
        view.rings(object).map(|ring| ring.header.control.closed.load(Ordering::Relaxed) != 0).reduce(|a, b| a && b);
    ObjectInfo {
        name: object.name.clone(),
        kind: object.shape.kind,
        element: object.shape.element_text(),
        element_size: object.shape.element.size as usize,
        capacity: object.shape.capacity,
        depth: depth.collect(),
        closed,
        bytes: object.bytes,
        memory: view.rings(object).map(|ring| ring.memory()).fold(object.bytes as u64, u64::saturating_add),
    }
}
