//! Who comes and goes, as events.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::attached::Attached;
use super::inspect::Peer;
use super::view::View;
use crate::deadline::Deadline;
use crate::error::Timeout;
use crate::event::Surroundings;
use crate::layout::Tenure;
use crate::primitive::{Ordering, fence};
use crate::sys::clock;

/// What has become of another participant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// It is attached.
    Joined(Peer),
    /// It has left in peace.
    Left(Peer),
    /// Its process ended without leaving: killed, crashed, or exited. What it held has been given back already.
    Died(Peer),
}

impl Change {
    /// The participant.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        match self {
            Self::Joined(peer) | Self::Left(peer) | Self::Died(peer) => peer,
        }
    }
}

/// The other participants of a segment, as they come and go: made by [`Segment::watch`](super::Segment::watch).
///
/// Each participant that is seen to join is reported once when it ends. One that comes and goes between two looks is not
/// reported at all; of one whose id was used by others meanwhile it is said that it died if any of them did. A death is
/// reported after the repair, within milliseconds.
///
/// A `Watcher` keeps its segment open.
pub struct Watcher {
    attached: Arc<Attached>,
    known: Vec<Known>,
    changes: VecDeque<Change>,
}

struct Known {
    peer: Peer,
    tenure: Tenure,
}

impl Watcher {
    pub(super) fn new(attached: &Arc<Attached>) -> Self {
        Self { attached: Arc::clone(attached), known: Vec::new(), changes: VecDeque::new() }
    }

    /// The next change if there is one now. At first those who are attached are reported as joined.
    pub fn try_recv(&mut self) -> Option<Change> {
        if self.changes.is_empty() {
            self.look();
        }
        self.changes.pop_front()
    }

    fn recv_until(&mut self, deadline: Option<Deadline>) -> Option<Change> {
        let mut due = Deadline::after(self.attached.patience());
        loop {
            // Acquire: the look comes after. It may find more than this number stands for.
            let seen = self.attached.view().header().membership.word().load(Ordering::Acquire);
            if let Some(change) = self.try_recv() {
                return Some(change);
            }
            if deadline.is_some_and(Deadline::passed) {
                return None;
            }
            let until = [deadline, due].into_iter().flatten().min();
            self.attached.view().header().membership.wait(seen, until);
            if due.is_some_and(Deadline::passed) {
                self.attached.look();
                due = Deadline::after(self.attached.patience());
            }
        }
    }

    /// The next change, waiting as long as it takes.
    pub fn recv(&mut self) -> Change {
        loop {
            if let Some(change) = self.recv_until(None) {
                return change;
            }
        }
    }

    /// The next change, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`]: nobody has come or gone.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Change, Timeout> {
        self.recv_until(Deadline::after(timeout)).ok_or(Timeout)
    }

    /// Compares the table with what we know.
    fn look(&mut self) {
        let (view, own) = (self.attached.view(), self.attached.id());
        let changes = &mut self.changes;
        self.known.retain(|known| match how_it_ended(view, known) {
            None => true,
            Some(died) => {
                let peer = known.peer.clone();
                changes.push_back(if died { Change::Died(peer) } else { Change::Left(peer) });
                false
            }
        });
        for id in view.joined().filter(|&id| id != own) {
            if !self.known.iter().any(|known| known.peer.id == id)
                && let Some(known) = introduce(view, id)
            {
                changes.push_back(Change::Joined(known.peer.clone()));
                self.known.push(known);
            }
        }
    }
}

/// Participant `id` as it is now; `None` if there is none, or it is changing.
fn introduce(view: &View, id: u16) -> Option<Known> {
    let tenure = view.tenure(id);
    let entry = view.participant(id);
    let pid = entry.pid.load(Ordering::Relaxed);
    let joined = clock::from_unix_nanos(entry.joined.load(Ordering::Relaxed));
    fence(Ordering::Acquire);
    let same = tenure.is_taken() && view.tenure(id).ordinal() == tenure.ordinal();
    same.then_some(Known { peer: Peer { id, pid, joined, is_self: false }, tenure })
}

/// Whether it died, if it is not attached any more.
fn how_it_ended(view: &View, known: &Known) -> Option<bool> {
    let now = view.tenure(known.peer.id);
    (now.ordinal() != known.tenure.ordinal()).then(|| now.deaths_since(known.tenure))
}

impl Iterator for Watcher {
    type Item = Change;

    /// As [`Watcher::recv`]: never the end.
    fn next(&mut self) -> Option<Change> {
        Some(self.recv())
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<_> = self.known.iter().map(|known| &known.peer).collect();
        f.debug_struct("Watcher").field("known", &known).finish_non_exhaustive()
    }
}
