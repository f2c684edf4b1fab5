//! How a message gets into its slot.
//!
//! What is sent was mostly put together just now, and is still in the store buffer. Two things then decide how fast a stream is:
//!
//! - A load that is wider than the stores that made what it reads cannot be served from the store buffer. It waits until that is
//!   empty, that is, until the cache lines of the slots before this one have come from the other processor: one after the other.
//!   So the message is read in words.
//! - The store buffer is as long as it is (64 entries, say), and the lines that its stores need are fetched together. So the
//!   message is written in as few stores as there can be.

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

#[cfg(test)]
mod tests {
    use super::*;

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
