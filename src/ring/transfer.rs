//! Messages that are longer than their SPSC ring of bytes: they pass through it in parts, and are sent as a whole or not at all.
//!
//! ```text
//! record:  length: u64 | bytes | up to seven bytes more, so that the next one begins at a multiple of eight
//!
//! streaming (u64):   IDLE ──begin──▶ end ──accept, by the receiver──▶ end | ACCEPTED ──▶ IDLE
//!                                     └──revoke, by whoever sees that it will not be──▶ end | REVOKED ──settle──▶ IDLE
//! ```
//!
//! Both ends have to agree on whether such a message was sent, since the receiver has copied most of it and given the bytes back
//! before the rest is there, and either may die at any moment. So it is decided in one word: `streaming` has the position at which
//! the message ends; the receiver, when it has all of it, makes it ACCEPTED; the sender whose time is up, or either's successor,
//! makes it REVOKED. Whoever comes first decides.
//!
//! A sender whose message was revoked says where it had come to, in `torn`, before it goes on from there: what the receiver has
//! beyond the beginning of that message and before `torn` belongs to no message. A receiver says in `taking` where the message
//! ends that it takes in parts, before it gives the first of them back, so that its successor knows that it stands in the middle
//! of one, which it cannot have.
//!
//! Positions only grow, so that an old `torn` or `taking` lies at or before the beginning of what is looked at.

use crate::primitive::{AtomicU64, Ordering};
use crate::ring::{Header, Roles};

const IDLE: u64 = 0;
/// The low bits of a position, which is a multiple of eight.
const ACCEPTED: u64 = 1;
const REVOKED: u64 = 2;

/// Bytes of the length in front of each message.
pub(crate) const LENGTH: u64 = 8;

/// Bytes that a message of `len` takes; as many as a position can be away for one that cannot be.
pub(crate) const fn record(len: u64) -> u64 {
    match len.checked_add(LENGTH + 7) {
        Some(bytes) => bytes & !7,
        None => !7,
    }
}

/// How far it is from `from` to `to`, if not backwards.
fn forward(from: u64, to: u64) -> Option<u64> {
    let distance = to.wrapping_sub(from);
    (distance as i64 >= 0).then_some(distance)
}

/// What has become of a message that is being passed in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    Accepted,
    /// Or another one has come after it.
    Revoked,
}

/// The words of one ring. In SPSC rings the roles have one word each, their seat; these are behind it.
#[derive(Clone, Copy)]
pub(crate) struct Transfer<'a> {
    /// Changed by both, as above.
    streaming: &'a AtomicU64,
    /// Written by the sender.
    torn: &'a AtomicU64,
    /// Written by the receiver.
    taking: &'a AtomicU64,
}

impl<'a> Transfer<'a> {
    pub(crate) fn of(header: &'a Header) -> Self {
        let Roles { senders, receivers } = &*header.roles;
        Self { streaming: &senders[1], torn: &senders[2], taking: &receivers[1] }
    }

    // --- the sender's part ---

    /// Called before the first part of a message that ends at `end` is committed.
    pub(crate) fn begin(&self, end: u64) {
        // Relaxed: whoever sees a part sees this, and a successor everything.
        self.streaming.store(end, Ordering::Relaxed);
    }

    /// What has become of the message that ends at `end`.
    pub(crate) fn state(&self, end: u64) -> State {
        // Acquire: pairs with `accept` and `settle`.
        match self.streaming.load(Ordering::Acquire) {
            word if word == end => State::Open,
            word if word == end | ACCEPTED => State::Accepted,
            _ => State::Revoked,
        }
    }

    /// The message will not be sent, unless it was accepted already: `false`.
    pub(crate) fn revoke(&self, end: u64) -> bool {
        let revoked = self.streaming.compare_exchange(end, end | REVOKED, Ordering::AcqRel, Ordering::Acquire);
        !matches!(revoked, Err(word) if word == end | ACCEPTED)
    }

    /// Ends what a message has left that was accepted, or revoked when `tail` was reached. The sender goes on from there.
    pub(crate) fn settle(&self, tail: u64) {
        if self.streaming.load(Ordering::Relaxed) & REVOKED != 0 {
            // Relaxed: ordered by the Release below, and by that of the next commit.
            self.torn.store(tail, Ordering::Relaxed);
        }
        // Release: whoever finds the message gone finds where it was torn.
        self.streaming.store(IDLE, Ordering::Release);
    }

    /// Ends what a sender has left that is gone. The caller has taken its seat, at `tail`; `true`: the receiver should look.
    pub(crate) fn succeed_sender(&self, tail: u64) -> bool {
        let word = self.streaming.load(Ordering::Acquire);
        let end = word & !7;
        if word == IDLE || word == end && tail == end {
            // Nothing was under way, or all of it is there, and the receiver will accept it.
            return false;
        }
        self.revoke(end);
        self.settle(tail);
        true
    }

    // --- the receiver's part ---

    /// Called before the first part of a message that ends at `end` is given back.
    pub(crate) fn take(&self, end: u64) {
        // Relaxed: a successor sees everything.
        self.taking.store(end, Ordering::Relaxed);
    }

    /// All of the message is here, and its last part not given back: it is received, unless it was revoked: `false`.
    pub(crate) fn accept(&self, end: u64) -> bool {
        // Acquire: see `settle`.
        self.streaming.compare_exchange(end, end | ACCEPTED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Where the message was torn that begins at `start`, or behind it, and ends at `end`. To be asked after the look at how far the
    /// sender has come.
    pub(crate) fn torn(&self, start: u64, end: u64) -> Option<u64> {
        // Relaxed: ordered by the Acquire of the sender's position, or of the state.
        let torn = self.torn.load(Ordering::Relaxed);
        match (forward(start, torn), forward(torn, end)) {
            (Some(behind), Some(_)) if behind > 0 => Some(torn),
            _ => None,
        }
    }

    /// In the middle of which message a receiver has left its seat, at `head`: where that ends. It is revoked, unless that was
    /// decided before.
    pub(crate) fn succeed_receiver(&self, head: u64) -> Option<u64> {
        let end = self.taking.load(Ordering::Acquire);
        forward(head, end).filter(|&left| left > 0)?;
        self.revoke(end);
        Some(end)
    }

    /// Where to go on after the message that a predecessor had begun, and of which `head` was not given back; `None` while the
    /// sender has not said.
    pub(crate) fn resume(&self, head: u64, end: u64) -> Option<u64> {
        match self.streaming.load(Ordering::Acquire) {
            word if word == end | REVOKED => None,
            // It may have been torn where we stand, which is behind its beginning.
            _ => Some(self.torn(head.wrapping_sub(1), end).unwrap_or(end)),
        }
    }
}
