//! The segments that this process has joined, so that a handle of one finds it open.

use std::sync::{Arc, Weak};

use super::attached::Attached;
use super::membership;
use super::name::Name;
use crate::mutex::Mutex;
use crate::sys::file;

static JOINED: Mutex<Vec<Weak<Attached>>> = Mutex::new(Vec::new());

/// Called with every segment that this process joins.
pub(super) fn remember(attached: &Arc<Attached>) {
    JOINED.with(|joined| {
        joined.retain(|attached| attached.strong_count() > 0);
        joined.push(Arc::downgrade(attached));
    });
}

/// The segment in this file, if this process has joined it.
pub(crate) fn already_open(identity: file::Identity) -> Option<Arc<Attached>> {
    let is_meant = |attached: &Attached| file::status(attached.file()).is_ok_and(|status| status.identity == identity);
    find(|attached| is_meant(attached) && attached.view().is_what_it_was())
}

/// The segment that this process has joined by this name, and that has lost it: neither by `unlink` nor by a
/// successor, but by somebody who removed the file.
pub(super) fn nameless(name: &Name) -> Option<Arc<Attached>> {
    find(|attached| attached.name() == Some(name) && attached.has_lost_its_name())
}

fn find(is_meant: impl Fn(&Attached) -> bool) -> Option<Arc<Attached>> {
    membership::watch_forks();
    // One of them may be the last of its kind: it leaves its segment when it is dropped, which may take time.
    let all: Vec<Arc<Attached>> = JOINED.with(|joined| joined.iter().filter_map(Weak::upgrade).collect());
    all.into_iter().find(|attached| is_meant(attached))
}

/// Before a fork: nobody is changing the list, so that the child finds it whole, and free.
pub(super) fn prepare() {
    JOINED.acquire();
}

/// After a fork, in the parent and in the child.
pub(super) fn release() {
    JOINED.release();
}
