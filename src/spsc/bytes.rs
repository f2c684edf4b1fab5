//! Messages of bytes: records in a row, written and read in place, or passed in parts if they are longer than the ring.

mod receiver;
mod sender;

use core::ptr::NonNull;

pub use self::receiver::Frame;
pub(super) use self::receiver::Partial;
pub use self::sender::Grant;

use super::Endpoint;
use crate::error::TrySendError;
use crate::message::Message;
use crate::ring::spsc::Position;
use crate::ring::transfer::Transfer;

impl<M: Message + ?Sized> Endpoint<M> {
    fn capacity(&self) -> u64 {
        self.queue.ring.capacity()
    }

    fn transfer(&self) -> Transfer<'_> {
        Transfer::of(self.queue.channel.header())
    }

    /// Where the byte `offset` behind our own position is. Twice as many bytes are mapped as there are.
    #[inline]
    fn byte(&self, position: &Position, offset: u64) -> NonNull<u8> {
        debug_assert!(M::BYTES && offset <= self.capacity());
        // SAFETY: the position is in the first half of the mapping, and no more than the other half follows.
        unsafe { self.queue.ring.place(position).cast::<u8>().add(offset as usize) }
    }

    /// `len` bytes, `offset` behind our own position; the caller has seen them free, or ready.
    #[inline]
    fn bytes(&self, position: &Position, offset: u64, len: usize) -> NonNull<[u8]> {
        debug_assert!(offset + len as u64 <= self.capacity());
        NonNull::slice_from_raw_parts(self.byte(position, offset), len)
    }

    /// Writes a word in front of a message; the caller has seen the room.
    #[inline]
    fn write_word(&self, position: &Position, offset: u64, word: u64) {
        // SAFETY: a position is a multiple of eight, as the offset is, and the room is ours.
        unsafe { self.byte(position, offset).cast::<u64>().write(word) }
    }

    /// A word in front of a message; the caller has seen it ready.
    #[inline]
    fn read_word(&self, position: &Position, offset: u64) -> u64 {
        // SAFETY: as above.
        unsafe { self.byte(position, offset).cast::<u64>().read() }
    }

    /// Room for `wanted` bytes.
    #[inline]
    fn try_room_for(&self, position: &mut Position, wanted: u64) -> Result<(), TrySendError<()>> {
        if self.room(position, wanted)? >= wanted {
            return Ok(());
        }
        self.in_vain();
        Err(TrySendError::Full(()))
    }
}
