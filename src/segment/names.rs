//! What a name leads to, and who may take it away.
//!
//! A name is a file. *Whoever removes a name, or makes what it leads to anew, holds the admission lock of the very
//! file that it leads to*, and has looked, with the lock in hand, that it still does. Names come by `linkat`, which
//! replaces nothing, so from that look on nobody else can make the name lead elsewhere: there are never two segments
//! of one name, unless somebody asked for that (`unlink`, `replace`), and no living segment loses its name to
//! somebody who means another. Two holes are left, both of somebody's making: a file that we may not write cannot be
//! locked, and `unlink` and `replace` go on without a lock that has been held for 10 s.
//!
//! *Dead* is a segment that nobody living is attached to, and that is not to stay. That is visible without knowing
//! its layout: no lease is locked, see [`layout`](crate::layout). The next one who comes removes its name. Where he
//! may not (the file is another user's, the directory sticky), he [takes it over](renew): makes another segment of
//! the same file, which gets another time of creation. That time tells the segments that have lived in one file
//! apart: whoever has mapped it and not joined yet compares it with what he has read before, under the lock.
//!
//! Killed on the way, he who takes over leaves what was dead before, dead: nobody has a lease, and the header, which
//! loses its flags first and gets them last, does not say that it is to stay. Its magic is never gone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::admission::wait_for_admission;
use super::membership::Membership;
use super::name::Name;
use super::view::View;
use crate::error::Error;
use crate::layout::{FATE_OFFSET, FLAG_PERSIST, Geometry, MAGIC, VERSION, fate};
use crate::sys::room::Refused;
use crate::sys::{Errno, file, lease};

/// The part of a dead segment's file that keeps its memory: the header.
const KEPT: usize = 4096;

/// What was found behind a name that may have led to a dead segment.
pub(super) enum Buried {
    /// It leads to nothing.
    Free,
    /// It led to a dead segment.
    Removed,
    /// It leads to a dead segment, and is not ours to remove.
    Stuck(OwnedFd),
    /// It leads to something else: a segment that lives or is to stay, no segment, or what we may not write to.
    Kept,
}

/// Runs `act` under the admission lock of a file that we have not joined, with a description that holds no other lock.
fn admitted<R>(segment: BorrowedFd<'_>, act: impl FnOnce(BorrowedFd<'_>) -> Result<R, Error>) -> Result<R, Error> {
    // A fork child closes its copy of what a membership has open.
    let membership = Membership::acquire();
    let locked = membership.open_lease(segment).map_err(reopening).and_then(|own| {
        wait_for_admission(None, || lease::try_lock(own, lease::ADMISSION))?;
        let result = act(own);
        // Closing would not do if somebody starts a program meanwhile: until that has begun, it has a copy of the
        // descriptor.
        lease::unlock(own, lease::ADMISSION);
        result
    });
    membership.give_back();
    locked
}

pub(super) fn reopening(e: Errno) -> Error {
    Error::Io { action: "reopen the segment through /proc/self/fd", source: e.into() }
}

/// Whether the name leads to this file now.
pub(super) fn leads_to(name: &Name, segment: BorrowedFd<'_>) -> bool {
    file::status(segment).is_ok_and(|ours| file::identity_at(&name.path()) == Ok(ours.identity))
}

/// What the file begins with, whatever it is.
pub(super) fn header_of(segment: BorrowedFd<'_>) -> Geometry {
    let mut geometry: Geometry = bytemuck::Zeroable::zeroed();
    // What is not there is zero.
    let _ = file::read_at(segment, bytemuck::bytes_of_mut(&mut geometry), 0);
    geometry
}

/// Whether this is a segment of whatever version that nobody lives in and that is not to stay. `segment` holds no
/// lease itself; what it says lasts for as long as one has its admission lock.
pub(super) fn is_dead(segment: BorrowedFd<'_>) -> bool {
    let header = header_of(segment);
    header.magic == MAGIC && !header.has(FLAG_PERSIST) && !lease::any_held_by_another(segment)
}

/// Removes the name if it leads to a dead segment.
pub(super) fn bury(name: &Name) -> Result<Buried, Error> {
    let path = name.path();
    loop {
        let segment = match file::existing(&path, true) {
            Ok(segment) => segment,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Buried::Free),
            Err(e @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => return Err(removing(e, name)),
            Err(_) => return Ok(Buried::Kept),
        };
        if !is_dead(segment.as_fd()) {
            return Ok(Buried::Kept);
        }
        let done = admitted(segment.as_fd(), |own| {
            Ok(match (leads_to(name, own), is_dead(own)) {
                (false, _) => None,
                (true, false) => Some(Buried::Kept),
                (true, true) => Some(if discard(own, name)? { Buried::Removed } else { Buried::Free }),
            })
        })?;
        match done {
            // It is still there.
            Some(Buried::Free) => return Ok(Buried::Stuck(segment)),
            Some(buried) => return Ok(buried),
            None => {}
        }
    }
}

/// Removes the name of a dead segment, which it leads to; `false` if we may not, and then the file keeps no memory
/// but its header's. The caller has its admission lock.
pub(super) fn discard(own: BorrowedFd<'_>, name: &Name) -> Result<bool, Error> {
    // First: a fork child of the dead must not go on where nobody will find it.
    mark(own, fate::ENDED);
    match file::remove(&name.path()) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EACCES | Errno::EPERM | Errno::EROFS) => {
            let size = file::status(own).map_or(0, |status| status.size as usize);
            if size > KEPT {
                // In vain, it is a matter of memory only.
                let _ = file::punch(own, KEPT, size - KEPT);
            }
            Ok(false)
        }
        Err(e) => Err(removing(e, name)),
    }
}

/// Says in the header what becomes of the name.
fn mark(own: BorrowedFd<'_>, fate: u32) {
    let header = header_of(own);
    if (header.magic, header.version) == (MAGIC, VERSION) {
        // In vain if somebody has cut the file: then nobody can go on there.
        let _ = file::write_at(own, &fate.to_ne_bytes(), FATE_OFFSET as u64);
    }
}

/// Removes a name, whatever it leads to. If that is a segment, nobody joins or leaves it meanwhile.
pub(super) fn remove(name: &Name) -> Result<(), Error> {
    let path = name.path();
    loop {
        let locked = file::existing(&path, true).map_err(|e| removing(e, name)).and_then(|segment| {
            admitted(segment.as_fd(), |own| {
                Ok(leads_to(name, own).then(|| {
                    let removed = file::remove(&path);
                    if removed.is_ok() {
                        mark(own, fate::UNLINKED);
                    }
                    removed
                }))
            })
        });
        let removed = match locked {
            // It leads to something else by now, or to nothing.
            Ok(None) => continue,
            Ok(Some(removed)) => removed,
            // What we may not write, or whose lock is held for too long, is removed all the same.
            Err(_) => file::remove(&path),
        };
        return removed.map_err(|e| removing(e, name));
    }
}

/// Makes a new segment, with the geometry of `view`, of the dead one that `before` is the header of. The caller has its
/// admission lock, is about to join, and then gives the header its flags.
pub(super) fn renew(
    view: &View,
    before: &Geometry,
    segment: &OwnedFd,
    own: BorrowedFd<'_>,
    name: &Name,
) -> Result<(), Error> {
    if !leads_to(name, own) || !is_dead(own) || header_of(own) != *before {
        return Err(name.not_found());
    }
    if lease::held_by_another(own, lease::MAPPED) {
        let reason = "nobody uses it any more, but a process that one of the dead has forked still has it mapped: \
                      it can be taken over when that has ended";
        return Err(stuck(name, reason.to_owned()));
    }
    let io = |e: Errno| Error::Io { action: "make the segment of the dead anew", source: e.into() };
    let size = file::status(own).map_err(io)?.size as usize;
    // From here on the old one cannot be read by anybody, and the new one not yet.
    file::write_at(own, &[0; KEPT - MAGIC.len()], MAGIC.len() as u64).map_err(io)?;
    if size > KEPT {
        file::punch(own, KEPT, size - KEPT).map_err(io)?;
    }
    // The file never becomes shorter: somebody may be about to look at the old one.
    file::reserve(segment, view.geometry().size).map_err(|refused| match refused {
        Refused::Short(shortage) => {
            Error::NoSpace { size: view.geometry().size as usize, directory: name.directory().into(), shortage }
        }
        Refused::System(e) => io(e),
    })?;
    view.initialize();
    Ok(())
}

/// Why a dead segment's file is not to be made a segment of `mode`; `None` if it may be. Whoever asks for a segment
/// of its own must not get one that others may write to: the owner of the file always may.
pub(super) fn why_not_taken_over(segment: &OwnedFd, name: &Name, mode: u32) -> Option<Error> {
    let status = file::status(segment.as_fd()).ok()?;
    let is_shared = mode & 0o006 == 0o006 || mode & 0o060 == 0o060 && status.group == file::own_group();
    (status.mode != mode || !is_shared).then(|| {
        let reason = format!(
            "nobody uses it any more: create and open_or_create take it over where they ask for the same mode, {:#o}, and \
             that gives others access, too",
            status.mode
        );
        stuck(name, reason)
    })
}

fn stuck(name: &Name, reason: String) -> Error {
    let path = name.path();
    let owner = file::status_at(&path).map_or(0, |status| status.owner);
    Error::NotRemovable { path, owner, reason }
}

/// Why a name was not removed.
pub(super) fn removing(e: Errno, name: &Name) -> Error {
    match e {
        Errno::EPERM => stuck(name, "the directory leaves names to the owners of the files".to_owned()),
        e => super::options::open_error(e, name),
    }
}
