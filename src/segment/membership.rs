//! This process's membership in each segment it has joined, and what `fork` does to it.
//!
//! A forked child is nobody until it acts: the child handler zeroes every participant id and closes every inherited lease
//! (else the child would keep its parent's lease alive). The next operation on a handle finds id 0 and joins anew.
//!
//! Memberships are never freed, only reused: the fast path reads the id through a plain reference, and the fork handlers
//! walk the list without allocating.

use std::ptr;

use crate::primitive::Ordering;
use crate::primitive::private::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32};
use crate::spin::Spin;
use crate::sys::fork;

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
    pub(crate) handles: usize,
}

/// One joined segment.
pub(crate) struct Membership {
    /// Our participant id; 0 in a fork child that has not acted yet, and after leaving.
    pub(crate) id: AtomicU32,
    /// The descriptor that holds the lease; -1 without one.
    pub(crate) lease: AtomicI32,
    /// Excludes our own threads from the sections that the admission byte guards: one description's lock does not.
    pub(crate) admission: Spin<()>,
    pub(crate) roles: Spin<Vec<Role>>,
    used: AtomicBool,
    next: AtomicPtr<Membership>,
}

/// Guards growth of the list against a concurrent fork.
static GROWING: Spin<()> = Spin::new(());
static LIST: AtomicPtr<Membership> = AtomicPtr::new(ptr::null_mut());

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
        fork::on_fork(prepare, parent, child);
        let unused = |m: &&Self| m.used.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if let Some(membership) = all().find(unused) {
            return membership;
        }
        GROWING.with(|()| {
            let membership: &'static mut Self = Box::leak(Box::new(Self {
                id: AtomicU32::new(0),
                lease: AtomicI32::new(-1),
                admission: Spin::new(()),
                roles: Spin::new(Vec::new()),
                used: AtomicBool::new(true),
                next: AtomicPtr::new(LIST.load(Ordering::Relaxed)),
            }));
            LIST.store(membership, Ordering::Release);
            membership
        })
    }

    /// Makes room for another segment.
    pub(crate) fn give_back(&self) {
        self.roles.with(Vec::clear);
        self.used.store(false, Ordering::Release);
    }

    /// Counts a new handle; `true` if it is the first of its role.
    pub(crate) fn add_role(&self, ring: usize, side: Side) -> bool {
        self.roles.with(|roles| match roles.iter_mut().find(|r| r.ring == ring && r.side == side) {
            Some(role) => {
                role.handles += 1;
                false
            }
            None => {
                roles.push(Role { ring, side, handles: 1 });
                true
            }
        })
    }

    /// Discounts a handle; `true` if it was the last of its role.
    pub(crate) fn drop_role(&self, ring: usize, side: Side) -> bool {
        self.roles.with(|roles| {
            let Some(at) = roles.iter().position(|r| r.ring == ring && r.side == side) else { return false };
            roles[at].handles -= 1;
            let last = roles[at].handles == 0;
            if last {
                roles.swap_remove(at);
            }
            last
        })
    }
}

extern "C" fn prepare() {
    GROWING.acquire();
    for membership in all() {
        membership.roles.acquire();
    }
}

extern "C" fn parent() {
    for membership in all() {
        membership.roles.release();
    }
    GROWING.release();
}

extern "C" fn child() {
    for membership in all() {
        membership.id.store(0, Ordering::Relaxed);
        let lease = membership.lease.swap(-1, Ordering::Relaxed);
        if lease >= 0 {
            fork::close_in_child(lease);
        }
        // Whoever held it is a thread of the parent; it guards nothing in memory.
        membership.admission.release();
        membership.roles.release();
    }
    GROWING.release();
}
