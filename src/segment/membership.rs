//! This process's membership in each segment it has joined, and what `fork` does to it.
//!
//! A forked child is nobody until it acts: the child handler zeroes every token and closes every inherited lease (else the
//! child would keep its parent's lease alive). The next operation on a handle finds token 0 and joins anew. Tokens carry
//! the generation of the fork, so that a seat or a guard that was copied from the parent never looks like the child's own,
//! even if the child is given its dead parent's id.
//!
//! Memberships are never freed, only reused: the fast path reads the token through a plain reference, and the fork
//! handlers walk the list without allocating.

use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;

use crossbeam_utils::CachePadded;

use super::{joined, sentinel};
use crate::mutex::Mutex;
use crate::primitive::Ordering;
use crate::primitive::private::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32};
use crate::reactor;
use crate::sys::{Errno, file, fork};

/// Which end of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Sender,
    Receiver,
}

/// How many handles of one role this process has on the ring at an offset.
pub(crate) struct Role {
    pub(crate) ring: usize,
    pub(crate) side: Side,
    handles: usize,
}

/// Who we are in a segment: participant id and fork generation. 0 is nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(u32);

impl Token {
    pub(crate) const NOBODY: Self = Self(0);
    /// What no process ever is: nobody's id has this many bits.
    pub(crate) const NEVER: Self = Self(u32::MAX);

    pub(crate) fn new(id: u16) -> Self {
        Self(GENERATION.load(Ordering::Relaxed) << 16 | u32::from(id))
    }

    #[inline(always)]
    pub(crate) fn id(self) -> u16 {
        self.0 as u16
    }

    /// To be kept beside a number; different tokens have different bits.
    #[inline(always)]
    pub(crate) fn bits(self) -> u32 {
        self.0
    }
}

/// One joined segment.
pub(crate) struct Membership {
    /// Read on every message; the rest of the struct is not.
    token: CachePadded<AtomicU32>,
    /// Our process id: asking the system for it takes longer than a lock.
    pid: AtomicU32,
    /// The descriptor that holds the lease; -1 without one. Opened and closed under `roles`, which fork handlers hold, so
    /// that no child inherits one it does not know of.
    lease: AtomicI32,
    /// Excludes our own threads from what the admission byte guards: one description's lock does not.
    pub(crate) admission: Mutex<()>,
    /// The same for the lease bytes of the dead, while we repair.
    pub(crate) repairing: Mutex<()>,
    /// Held by the thread of a fork child that joins anew.
    pub(crate) rejoining: Mutex<()>,
    /// How often that was in vain.
    pub(crate) refused: AtomicU32,
    roles: Mutex<Vec<Role>>,
    used: AtomicBool,
    next: AtomicPtr<Membership>,
}

/// How many forks lie between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// Guards growth of the list against a concurrent fork.
static GROWING: Mutex<()> = Mutex::new(());
static LIST: AtomicPtr<Membership> = AtomicPtr::new(ptr::null_mut());

/// How many forks lie between the first process and this one, since this program joined a segment.
pub(crate) fn fork_generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

fn all() -> impl Iterator<Item = &'static Membership> {
    let mut next = LIST.load(Ordering::Acquire);
    core::iter::from_fn(move || {
        // SAFETY: list nodes are leaked boxes, published with Release and never freed.
        let membership: &'static Membership = unsafe { next.as_ref()? };
        next = membership.next.load(Ordering::Acquire);
        Some(membership)
    })
}

impl Membership {
    /// A fresh or reused one, not joined yet.
    pub(crate) fn acquire() -> &'static Self {
        watch_forks();
        let unused = |m: &&Self| m.used.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if let Some(membership) = all().find(unused) {
            return membership;
        }
        GROWING.with(|()| {
            let membership: &'static mut Self = Box::leak(Box::new(Self {
                token: CachePadded::new(AtomicU32::new(0)),
                pid: AtomicU32::new(0),
                lease: AtomicI32::new(-1),
                admission: Mutex::new(()),
                repairing: Mutex::new(()),
                rejoining: Mutex::new(()),
                refused: AtomicU32::new(0),
                roles: Mutex::new(Vec::new()),
                used: AtomicBool::new(true),
                next: AtomicPtr::new(LIST.load(Ordering::Relaxed)),
            }));
            LIST.store(membership, Ordering::Release);
            membership
        })
    }

    /// Makes room for another segment: closes the lease, forgets everything.
    pub(crate) fn give_back(&self) {
        self.token.store(0, Ordering::Relaxed);
        self.close_lease();
        self.roles.with(Vec::clear);
        self.used.store(false, Ordering::Release);
    }

    #[inline(always)]
    pub(crate) fn token(&self) -> Token {
        Token(self.token.load(Ordering::Relaxed))
    }

    /// Our process id, if we are somebody.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Opens a description of its own for our lease.
    pub(crate) fn open_lease(&self, segment: BorrowedFd<'_>) -> Result<BorrowedFd<'_>, Errno> {
        self.roles.with(|_| {
            let lease = file::reopen(segment)?.into_raw_fd();
            self.lease.store(lease, Ordering::Release);
            // SAFETY: stays open until `close_lease`, which is called by whoever ends the membership.
            Ok(unsafe { BorrowedFd::borrow_raw(lease) })
        })
    }

    pub(crate) fn lease(&self) -> Option<BorrowedFd<'_>> {
        let lease = self.lease.load(Ordering::Acquire);
        // SAFETY: as in `open_lease`; the fork handler replaces it by -1 before any other code of a child runs.
        (lease >= 0).then(|| unsafe { BorrowedFd::borrow_raw(lease) })
    }

    pub(crate) fn close_lease(&self) {
        self.roles.with(|_| {
            let lease = self.lease.swap(-1, Ordering::AcqRel);
            if lease >= 0 {
                // SAFETY: the membership owned the descriptor and has just forgotten it.
                drop(unsafe { OwnedFd::from_raw_fd(lease) });
            }
        });
    }

    /// Becomes participant `id`; `announce` tells the segment of each role we have.
    pub(crate) fn become_participant(&self, id: u16, announce: impl Fn(&Role)) {
        self.roles.with(|roles| {
            roles.iter().for_each(announce);
            self.pid.store(std::process::id(), Ordering::Relaxed);
            // Release: whoever sees the token sees the lease.
            self.token.store(Token::new(id).0, Ordering::Release);
        });
    }

    /// Counts a new handle; `first` runs, with our id, if it is the first of its role and we are somebody.
    pub(crate) fn add_role(&self, ring: usize, side: Side, first: impl FnOnce(u16)) {
        self.roles.with(|roles| match roles.iter_mut().find(|r| r.ring == ring && r.side == side) {
            Some(role) => role.handles += 1,
            None => {
                roles.push(Role { ring, side, handles: 1 });
                self.as_participant(first);
            }
        });
    }

    /// Discounts a handle; `true` if it was the last of its role, and then `last` has run, with our id, if we are somebody.
    pub(crate) fn drop_role(&self, ring: usize, side: Side, last: impl FnOnce(u16)) -> bool {
        self.roles.with(|roles| {
            let Some(at) = roles.iter().position(|r| r.ring == ring && r.side == side) else { return false };
            roles[at].handles -= 1;
            if roles[at].handles > 0 {
                return false;
            }
            roles.swap_remove(at);
            self.as_participant(last);
            true
        })
    }

    fn as_participant(&self, act: impl FnOnce(u16)) {
        let token = self.token();
        if token != Token::NOBODY {
            act(token.id());
        }
    }
}

/// From now on a fork waits for all locks of ours, and leaves them free.
pub(super) fn watch_forks() {
    fork::on_fork(prepare, parent, child);
}

/// Held by the thread that forks.
static FORKING: Mutex<()> = Mutex::new(());
/// How many calls of [`prepare`] for the same fork have found that it was made ready. Only the holder of [`FORKING`] is here.
static AGAIN: AtomicU32 = AtomicU32::new(0);

/// Whether more calls of the same handler follow, or have gone before: threads that were first together have each installed them.
fn is_one_of_several() -> bool {
    AGAIN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |again| again.checked_sub(1)).is_ok()
}

extern "C" fn prepare() {
    if FORKING.is_mine() {
        AGAIN.fetch_add(1, Ordering::Relaxed);
        return;
    }
    FORKING.acquire();
    joined::prepare();
    reactor::prepare();
    sentinel::prepare();
    GROWING.acquire();
    for membership in all() {
        membership.roles.acquire();
    }
}

extern "C" fn parent() {
    if is_one_of_several() {
        return;
    }
    for membership in all() {
        membership.roles.release();
    }
    GROWING.release();
    sentinel::parent();
    reactor::parent();
    joined::release();
    FORKING.release();
}

extern "C" fn child() {
    if is_one_of_several() {
        return;
    }
    GENERATION.fetch_add(1, Ordering::Relaxed);
    for membership in all() {
        membership.token.store(0, Ordering::Relaxed);
        let lease = membership.lease.swap(-1, Ordering::Relaxed);
        if lease >= 0 {
            fork::close_in_child(lease);
        }
        // Whoever held these is a thread of the parent; they guard nothing in memory.
        membership.admission.release();
        membership.repairing.release();
        membership.rejoining.release();
        membership.roles.release();
    }
    GROWING.release();
    sentinel::child();
    reactor::child();
    joined::release();
    FORKING.release();
}
