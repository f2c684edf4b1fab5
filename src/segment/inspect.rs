//! Looking without touching.

use core::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use super::attached::Attached;
use super::name::Name;
use super::names;
use super::repair::alive;
use super::view::View;
use crate::error::Error;
use crate::layout::{FLAG_PERSIST, MAGIC};
use crate::object::{Kind, Object};
use crate::primitive::{AtomicU64, Ordering};
use crate::ring::{Header, spsc};
use crate::sys::{clock, file, lease};

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
    /// Whether somebody lives in it, also if what is in it cannot be told.
    pub used: bool,
    /// Whether nobody does and it is not to stay: `clean` removes it, and `open_or_create` makes it anew.
    pub abandoned: bool,
    /// The user id of the file's owner.
    pub owner: u32,
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
    let name = attached.name().map(Name::as_str);
    let objects = attached.view().objects().collect::<Result<Vec<_>, _>>()?;
    let objects = objects.into_iter().map(|object| (object, true)).collect();
    Ok(of_view(attached.view(), attached.file(), name, objects))
}

/// What the name leads to. Nobody is kept from cutting the file at any moment, which would be the end of whoever has
/// it mapped: what is looked at is a copy.
pub(super) fn of_name(name: &Name) -> Result<Snapshot, Error> {
    let file = file::existing(&name.path(), false).map_err(|e| super::options::open_error(e, name))?;
    let mut copy = View::copy(file.as_fd())?;
    let objects = copy.objects().collect::<Result<Vec<_>, _>>()?;
    let mut budget = BUDGET;
    let read = |object: Object| Ok((read_rings(&mut copy, file.as_fd(), &object, &mut budget)?, object));
    let objects: Vec<(bool, Object)> = objects.into_iter().map(read).collect::<Result<_, Error>>()?;
    let objects = objects.into_iter().map(|(whole, object)| (object, whole)).collect();
    Ok(of_view(&copy, file.as_fd(), Some(name.as_str()), objects))
}

/// One line of the list of segments.
pub(super) fn listed(name: &Name) -> Listed {
    let file = file::existing(&name.path(), false);
    let is_used =
        |file: &OwnedFd| names::header_of(file.as_fd()).magic == MAGIC && lease::any_held_by_another(file.as_fd());
    Listed {
        name: name.as_str().to_owned(),
        snapshot: of_name(name),
        used: file.as_ref().is_ok_and(is_used),
        abandoned: file.as_ref().is_ok_and(|file| names::is_dead(file.as_fd())),
        owner: file::status_at(&name.path()).map_or(0, |status| status.owner),
    }
}

/// How much of one segment's rings is read, at most, in bytes: nobody's file may take all our memory, or time.
const BUDGET: usize = 64 << 20;
/// Slots farther apart are read one by one.
const APART: usize = 256;
/// How far the cursors of a ring may be behind, for short.
const BEHIND: u64 = 256;

/// Reads the headers of an object's rings, and the words of those slots that may hold messages; `false` if these are
/// too many.
fn read_rings(copy: &mut View, file: BorrowedFd<'_>, object: &Object, budget: &mut usize) -> Result<bool, Error> {
    let mut whole = true;
    for ring in object.rings() {
        copy.read(file, ring.offset, size_of::<Header>())?;
        if ring.unbounded.is_some() {
            // Which chunks have memory, but nothing of what is in them.
            let bytes = object.offset + object.bytes - ring.offset;
            match budget.checked_sub(bytes) {
                Some(left) => *budget = left,
                None => {
                    whole = false;
                    continue;
                }
            }
            copy.read(file, ring.offset, bytes)?;
            continue;
        }
        if !matches!(object.shape.kind, Kind::Queue | Kind::SharedPipe) {
            continue;
        }
        let (head, held) = {
            let header = copy.rings(object).find(|view| view.ring.offset == ring.offset).map(|view| view.header);
            let Some(header) = header else { continue };
            let load = |cursor: &AtomicU64| cursor.load(Ordering::Relaxed);
            let (head, tail) = (load(&header.head), load(&header.tail));
            // What was given back may lie anywhere.
            let anywhere = header.control.repairs.load(Ordering::Relaxed) != 0;
            (head, if anywhere { ring.slots } else { tail.saturating_sub(head).saturating_add(BEHIND).min(ring.slots) })
        };
        let Some(left) = (held as usize).checked_mul(ring.stride.min(APART)).and_then(|n| budget.checked_sub(n)) else {
            whole = false;
            continue;
        };
        *budget = left;
        let first = ring.offset + size_of::<Header>();
        let begin = head & (ring.slots - 1);
        // To the end of the ring, and from its beginning.
        let till = (begin + held).min(ring.slots);
        for slots in [begin..till, 0..begin + held - till] {
            if ring.stride <= APART {
                let bytes = (slots.end - slots.start) as usize * ring.stride;
                copy.read(file, first + slots.start as usize * ring.stride, bytes)?;
            } else {
                for slot in slots {
                    copy.read(file, first + slot as usize * ring.stride, size_of::<u64>())?;
                }
            }
        }
    }
    Ok(whole)
}

/// `file` is a description that holds no lease, so that even our own looks taken. With each object, whether the slots
/// of its rings are there to be counted.
fn of_view(view: &View, file: BorrowedFd<'_>, name: Option<&str>, objects: Vec<(Object, bool)>) -> Snapshot {
    let geometry = view.geometry();
    let used = objects.iter().map(|(o, _)| o.offset + o.bytes).max().unwrap_or(geometry.heap as usize);
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
    Snapshot {
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
        objects: objects.iter().map(|(object, whole)| info(view, file, object, *whole)).collect(),
    }
}

fn info(view: &View, file: BorrowedFd<'_>, object: &Object, whole: bool) -> ObjectInfo {
    let owned = matches!(object.shape.kind, Kind::Queue | Kind::SharedPipe);
    let depth = view.rings(object).map(|ring| match owned {
        // To look at its slots would give it memory; or they are too many.
        true if ring.ring.unbounded.is_some() || !whole => {
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
