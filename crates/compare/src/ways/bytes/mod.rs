//! Messages of bytes, of a length that is known only at run time: gimmal's queues of `[u8]`, and the rivals that have such
//! messages.
//!
//! The loops are compiled once for each way, not for each length. Ways that lend the message where it lies do so here; the others
//! copy.

mod floor;
mod gimmal;
mod iceoryx;
mod os;
mod others;

use std::hint::black_box;

use ::gimmal::bytemuck::cast_slice;

pub use self::floor::Rings;
pub use self::gimmal::{Mpmc, MpmcPlaced, Spsc, SpscPlaced};
pub use self::iceoryx::PublishSubscribe;
pub use self::os::{Packets, Pipe, Socket};
pub use self::others::{Cloudtoid, IpcChannel};
use super::Spec;

/// A sending end.
pub trait Tx {
    /// Sends, waiting for room.
    fn send(&mut self, message: &[u8]);

    /// Sends a message as long as `text` that says this number in every word: written to `text`, and sent from there, or written
    /// where it will lie, if that is the way.
    #[inline]
    fn send_number(&mut self, number: u64, text: &mut [u64]) {
        text.fill(number);
        self.send(cast_slice(black_box(text)));
    }
}

/// A receiving end.
pub trait Rx {
    /// Receives, waiting for a message, and reads it, where it lies if the way can.
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R;

    /// Receives what is there.
    fn try_recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R>;
}

/// How to make and to reach a way's queues; as [`super::Link`].
pub trait Link {
    /// What an attached process holds.
    type Shared;
    /// See [`Tx`].
    type Tx: Tx;
    /// See [`Rx`].
    type Rx: Rx;

    /// Before the fork.
    fn prepare(spec: &Spec) -> Self;

    /// In each worker: the first one creates.
    fn open(&self, create: bool) -> Self::Shared;

    /// An end of one of the [`Spec::lanes`].
    fn sender(&self, shared: &Self::Shared, lane: usize) -> Self::Tx;

    /// The other end.
    fn receiver(&self, shared: &Self::Shared, lane: usize) -> Self::Rx;
}

/// Writes this number in every word of a place for a message.
#[inline]
fn fill(place: &mut [u8], number: u64) {
    place.as_chunks_mut().0.fill(number.to_ne_bytes());
}

/// Reads every word, and gives the first; the message says the same in all of them.
#[inline]
pub fn read(message: &[u8]) -> u64 {
    let (words, rest) = black_box(message).as_chunks::<8>();
    assert!(rest.is_empty() && !words.is_empty(), "a message of {} bytes", message.len());
    let first = u64::from_ne_bytes(words[0]);
    let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    assert_eq!(sum, first.wrapping_mul(words.len() as u64), "message {first} is torn");
    first
}

/// Calls `$run::<Link>($arguments)` for the way of a case.
macro_rules! with_bytes {
    ($case:expr, $run:ident($($argument:expr),*)) => {{
        use $crate::ways::{Way, bytes};
        match $case.way {
            Way::SpscBytes => $run::<bytes::Spsc>($($argument),*),
            Way::SpscPlaced => $run::<bytes::SpscPlaced>($($argument),*),
            Way::QueueBytes => $run::<bytes::Mpmc>($($argument),*),
            Way::QueuePlaced => $run::<bytes::MpmcPlaced>($($argument),*),
            Way::Iceoryx => $run::<bytes::PublishSubscribe>($($argument),*),
            Way::Cloudtoid => $run::<bytes::Cloudtoid>($($argument),*),
            Way::IpcChannel => $run::<bytes::IpcChannel>($($argument),*),
            Way::Pipe => $run::<bytes::Pipe>($($argument),*),
            Way::Socket => $run::<bytes::Socket>($($argument),*),
            Way::SeqPacket => $run::<bytes::Packets>($($argument),*),
            Way::OtherCore => $run::<bytes::Rings>($($argument),*),
            other => unreachable!("{} has no messages of bytes", other.name()),
        }
    }};
}
pub(crate) use with_bytes;
