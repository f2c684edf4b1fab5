//! How a message gets into its slot.
//!
//! What is sent was mostly put together just now, and is still in the store buffer. Two things then decide how fast a stream is:
//!
//! - A load that is wider than the stores that made what it reads cannot be served from the store buffer. It waits until that is
//!   empty, that is, until the cache lines of the slots before this one have come from the other processor: one after the other.
//!   So the message is read in words.
//! - The store buffer is as long as it is (64 entries, say), and the lines that its stores need are fetched together. So the
//!   message is written in as few stores as there can be.
//!
//! With long messages it is the lines themselves: the receiver has read them a lap ago, and each has to be taken from its cache
//! before it can be written. So whole lines are written past the caches, which takes them from nobody and needs nothing of what
//! they held; the receiver, who reads in a row, gets them from memory about as fast. Not so in a ring that is larger than the receiver's
//! cache. (64 KiB between two cores of an AMD Zen 4 in a
//! virtual machine: written at 2 ns a line, not at 7 to 28, and read at 2, not at 1 to 3. If both ends take turns on one core, the
//! caches would have been three times as fast.)

use core::mem::{MaybeUninit, align_of, size_of};

/// Up to this many bytes, a message is read word by word.
const WORDWISE: usize = 256;

type Word = MaybeUninit<u64>;

/// Copies a value that was perhaps put together just now.
///
/// # Safety
/// `from` can be read, `to` written, and they do not overlap.
#[inline(always)]
pub(crate) unsafe fn copy_fresh<T: Copy>(from: &T, to: *mut T) {
    const { assert!(align_of::<T>() < 8 || size_of::<T>().is_multiple_of(8)) };
    if const { align_of::<T>() < 8 || size_of::<T>() > WORDWISE } {
        // SAFETY: the caller's contract.
        unsafe { to.copy_from_nonoverlapping(from, 1) }
        return;
    }
    let (from, to) = ((&raw const *from).cast::<Word>(), to.cast::<Word>());
    let words = const { size_of::<T>() / 8 };
    // SAFETY: below `words` it is inside the value, which is aligned to one.
    let read = |word: usize| opaque(unsafe { *from.wrapping_add(word) });
    for pair in 0..words / 2 {
        let (first, second) = (read(2 * pair), read(2 * pair + 1));
        // SAFETY: both are inside the value.
        unsafe { store_both(to.wrapping_add(2 * pair), first, second) }
    }
    if words % 2 == 1 {
        // SAFETY: inside the value.
        unsafe { *to.wrapping_add(words - 1) = read(words - 1) }
    }
}

/// The same word, in a register: the compiler does not read it together with others.
#[inline(always)]
fn opaque(word: Word) -> Word {
    let mut word = word;
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: no instruction.
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) word, options(pure, nomem, nostack, preserves_flags));
    }
    word
}

/// Writes two words in one store.
///
/// # Safety
/// There is room for both, aligned to a word.
#[inline(always)]
unsafe fn store_both(to: *mut Word, first: Word, second: Word) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the room is there; SSE2 is part of every x86-64.
    unsafe {
        core::arch::asm!(
            "movq {low}, {first}",
            "movq {high}, {second}",
            "punpcklqdq {low}, {high}",
            "movups [{to}], {low}",
            first = in(reg) first,
            second = in(reg) second,
            to = in(reg) to,
            low = out(xmm_reg) _,
            high = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the room is there. aarch64 has an instruction for it, which the compiler finds.
    unsafe {
        *to.cast::<[Word; 2]>() = [first, second];
    }
}

/// From this many bytes on, a message is written past the caches.
const LONG: usize = 4 << 10;
/// In a ring of more bytes than these, what a receiver has read has left its own cache when the ring comes round again, and is
/// written as fast as anything else.
const SHORT_RING: usize = 1 << 20;

/// Copies bytes of a message into a ring of so many bytes.
///
/// # Panics
/// If one is longer than the other.
#[inline]
pub(crate) fn copy_bytes(from: &[u8], to: &mut [u8], ring: usize) {
    if cfg!(all(target_arch = "x86_64", not(miri))) && from.len() >= LONG && ring <= SHORT_RING {
        copy_long(from, to);
    } else {
        to.copy_from_slice(from);
    }
}

#[cfg(target_arch = "x86_64")]
fn copy_long(from: &[u8], to: &mut [u8]) {
    use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const LINE: usize = 64;
    assert_eq!(from.len(), to.len(), "as long as the room for it");
    let (from_head, from) = from.split_at(to.as_ptr().align_offset(LINE).min(from.len()));
    let (to_head, to) = to.split_at_mut(from_head.len());
    let (from_lines, from_tail) = from.as_chunks::<LINE>();
    let (to_lines, to_tail) = to.as_chunks_mut::<LINE>();
    to_head.copy_from_slice(from_head);
    to_tail.copy_from_slice(from_tail);
    for (from, to) in from_lines.iter().zip(to_lines) {
        let (from, to) = (from.as_ptr().cast::<__m128i>(), to.as_mut_ptr().cast::<__m128i>());
        // SAFETY: four of them are a line; SSE2 is part of every x86-64.
        let parts: [__m128i; 4] = core::array::from_fn(|part| unsafe { _mm_loadu_si128(from.wrapping_add(part)) });
        for (part, value) in parts.into_iter().enumerate() {
            // SAFETY: as above, and the line is aligned.
            unsafe { _mm_stream_si128(to.wrapping_add(part), value) }
        }
    }
    // Such stores are ordered by nothing else, not even by the Release of the commit.
    // SAFETY: has no preconditions.
    unsafe { _mm_sfence() }
}

#[cfg(not(target_arch = "x86_64"))]
fn copy_long(from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_and_place_arrive_whole_and_nothing_beside_them() {
        let from: Vec<u8> = (0..3 * LONG).map(|i| (i * 7 + i / 251) as u8 | 1).collect();
        for len in [0, 1, 63, 64, LONG - 1, LONG, LONG + 1, LONG + 63, 2 * LONG + 65] {
            for (skip, offset) in [(0, 0), (1, 8), (3, 1), (0, 63), (5, 64), (64, 17)] {
                let mut to = vec![0; 4 * LONG];
                let (before, rest) = to.split_at_mut(offset);
                let (room, behind) = rest.split_at_mut(len);
                copy_bytes(&from[skip..][..len], room, SHORT_RING);
                assert_eq!(room, &from[skip..][..len], "{len} bytes at {offset}");
                assert!(before.iter().chain(&*behind).all(|&byte| byte == 0), "{len} bytes at {offset}");
            }
        }
    }

    #[test]
    fn a_value_of_any_size_and_alignment_arrives_whole_and_nothing_beside_it() {
        fn check<T: Copy + PartialEq + core::fmt::Debug>(value: T) {
            let mut places = [MaybeUninit::<[T; 3]>::zeroed(), MaybeUninit::zeroed()];
            let to = places[0].as_mut_ptr().cast::<T>();
            // SAFETY: the places hold six values.
            unsafe { copy_fresh(&value, to.wrapping_add(1)) };
            let bytes = |index: usize| {
                // SAFETY: zeroed, or the value, none of which has padding.
                unsafe { core::slice::from_raw_parts(to.wrapping_add(index).cast::<u8>(), size_of::<T>()) }
            };
            // SAFETY: written just now.
            assert_eq!(unsafe { *to.wrapping_add(1) }, value);
            assert!(bytes(0).iter().chain(bytes(2)).all(|&byte| byte == 0));
        }
        fn all<const N: usize>() {
            check([0x0123_4567_89ab_cdef_u64; N]);
            check(core::array::from_fn::<u64, N, _>(|i| !(i as u64)));
            check([0x89ab_cdef_u32; N]);
            check([0xa5_u8; N]);
        }
        all::<1>();
        all::<2>();
        all::<3>();
        all::<7>();
        all::<8>();
        all::<31>();
        all::<32>();
        all::<33>();
        all::<100>();
    }
}
