//! What the ends of both kinds of rings do with messages of bytes.

use core::ops::Deref;
use std::io::IoSlice;

use crate::copy::copy_bytes;
use crate::error::RecvBytesError;

/// Copies a message into `room`, which is as long as all of its parts, in a ring of so many bytes.
pub(crate) fn gather(parts: &[IoSlice<'_>], mut room: &mut [u8], ring: usize) {
    for part in parts {
        let (here, behind) = room.split_at_mut(part.len());
        copy_bytes(part, here, ring);
        room = behind;
    }
}

/// Bytes of all parts together.
pub(crate) fn total(parts: &[IoSlice<'_>]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

/// Copies a message into the front of `buffer`, if that is long enough; otherwise the message stays.
#[inline]
pub(crate) fn copy_out<F: Deref<Target = [u8]>, E>(
    frame: F,
    give_back: impl FnOnce(F),
    buffer: &mut [u8],
) -> Result<usize, RecvBytesError<E>> {
    let needed = frame.len();
    match buffer.get_mut(..needed) {
        Some(room) => {
            room.copy_from_slice(&frame);
            Ok(needed)
        }
        None => {
            give_back(frame);
            Err(RecvBytesError::TooShort { needed })
        }
    }
}

/// The message, if it is short enough; otherwise it stays.
pub(crate) fn no_longer_than<F: Deref<Target = [u8]>, E>(
    frame: F,
    give_back: impl FnOnce(F),
    max: usize,
) -> Result<F, RecvBytesError<E>> {
    let len = frame.len();
    if len <= max {
        return Ok(frame);
    }
    give_back(frame);
    Err(RecvBytesError::TooLong { len, max })
}
