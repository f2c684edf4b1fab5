//! What lies in an SPSC ring of bytes: records. Messages that are longer than the ring pass through it in parts, and are sent as a
//! whole or not at all.
//!
//! ```text
//! record:  header: u64 | bytes | up to seven bytes more, so that the next one begins at a multiple of eight
//!
//! header:  bytes                 a message
//!          bytes | FIRST         the first part of one: its length (u64) and its first bytes, which are those that count here
//!          bytes | MORE          what comes next of it
//!
//! streaming (u64):   IDLE ──begin──▶ open ──accept, by the receiver──▶ open | ACCEPTED
//!                     ▲               └──revoke, by whoever sees that it will not be──┐
//!                     └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! A record is committed, and given back, as a whole. So whoever looks at one knows what it is, whatever became of those before it:
//! a message of which the next record is not MORE is torn, and what has come of it is dropped; so is MORE of a message of
//! which one has not seen the FIRST.
//!
//! Both ends have to agree on whether such a message was sent, since the receiver has copied most of it and given the bytes back
//! before the rest is there, and either may die at any moment. So it is decided in one word: while it is open, `streaming` tells
//! where it begins; the receiver, when it has all of it, makes it ACCEPTED; the sender whose time is up, or the receiver's
//! successor, takes it back. Whoever comes first decides. A sender's successor has nothing to do: what it sends next tears what
//! was not yet whole, and what was whole is a message.
//!
//! # Orderings
//!
//! Relaxed: that word is all there is to agree on. What it is about is ordered by the positions: the sender begins before it
//! commits the first part, so that a receiver which has that, and its successor, which has taken the seat, see that it has begun; and
//! positions only grow, so that no two messages are the same to a CAS.

use crate::primitive::{AtomicU64, Ordering};
use crate::ring::Header;

const IDLE: u64 = 0;
/// The low bit of a place, which is a multiple of eight.
const ACCEPTED: u64 = 1;

const FIRST: u64 = 1 << 63;
const MORE: u64 = 1 << 62;

/// Bytes of a header; and of the length of a message that comes in parts.
pub(crate) const LENGTH: u64 = 8;

/// Bytes that a record of `len` bytes takes; as many as a position can be away for one that cannot be. A header with a mark is
/// one of these.
pub(crate) const fn record(len: u64) -> u64 {
    match len.checked_add(LENGTH + 7) {
        Some(bytes) => bytes & !7,
        None => !7,
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Whole(u64),
    First(u64),
    More(u64),
}

impl Record {
    pub(crate) fn of(header: u64) -> Self {
        let bytes = header & !(FIRST | MORE);
        match header {
            _ if header & FIRST != 0 => Self::First(bytes),
            _ if header & MORE != 0 => Self::More(bytes),
            _ => Self::Whole(bytes),
        }
    }

    pub(crate) fn header(self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes,
            Self::First(bytes) => bytes | FIRST,
            Self::More(bytes) => bytes | MORE,
        }
    }

    /// What stands in front of the bytes.
    pub(crate) fn front(self) -> u64 {
        if matches!(self, Self::First(_)) { 2 * LENGTH } else { LENGTH }
    }

    pub(crate) fn bytes(self) -> u64 {
        let (Self::Whole(bytes) | Self::First(bytes) | Self::More(bytes)) = self;
        bytes
    }

    /// Bytes that it takes.
    pub(crate) fn takes(self) -> u64 {
        record((self.front() - LENGTH).saturating_add(self.bytes()))
    }
}

/// What has become of a message that is being passed in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    Accepted,
    Revoked,
}

/// The word of one ring. In SPSC rings the roles have one word each, their seat; this is behind the sender's.
#[derive(Clone, Copy)]
pub(crate) struct Transfer<'a>(&'a AtomicU64);

impl<'a> Transfer<'a> {
    pub(crate) fn of(header: &'a Header) -> Self {
        Self(&header.roles.senders[1])
    }

    /// The open message that begins at `start`: never IDLE, as positions go.
    fn open(start: u64) -> u64 {
        start.wrapping_add(LENGTH)
    }

    fn change(&self, from: u64, to: u64) -> Result<u64, u64> {
        self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
    }

    // --- the sender's part ---

    /// Called before the first part of a message is committed, which begins at `start`.
    pub(crate) fn begin(&self, start: u64) {
        self.0.store(Self::open(start), Ordering::Relaxed);
    }

    /// What has become of the message that begins at `start`.
    pub(crate) fn state(&self, start: u64) -> State {
        match self.0.load(Ordering::Relaxed) {
            word if word == Self::open(start) => State::Open,
            word if word == Self::open(start) | ACCEPTED => State::Accepted,
            _ => State::Revoked,
        }
    }

    /// The message will not be sent, unless it was accepted already: `false`.
    pub(crate) fn revoke(&self, start: u64) -> bool {
        !matches!(self.change(Self::open(start), IDLE), Err(word) if word == Self::open(start) | ACCEPTED)
    }

    // --- the receiver's part ---

    /// All of the message that begins at `start` is here, and its last part not given back: it is received, unless it was revoked:
    /// `false`.
    pub(crate) fn accept(&self, start: u64) -> bool {
        self.change(Self::open(start), Self::open(start) | ACCEPTED).is_ok()
    }

    /// Takes back the message that a receiver had begun to take which is gone. The caller has taken its seat, at `head`; `true`: the
    /// sender should look.
    pub(crate) fn succeed_receiver(&self, head: u64) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        let taken = head.wrapping_sub(word.wrapping_sub(LENGTH)) as i64;
        word != IDLE && word & ACCEPTED == 0 && taken > 0 && self.change(word, IDLE).is_ok()
    }
}
