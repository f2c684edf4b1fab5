//! Counts lines, words and bytes as `wc` of GNU coreutils 9.1 does in the C locale, block by block.
//!
//! To it a byte is one of three kinds. *Space* (9 to 13 and 32) ends a word, *print* (33 to 126) begins one unless
//! one is under way, and all others are *neutral*: they neither begin a word nor end it. So whether a word is under way
//! at some byte can hang on a byte far in front of it, and has to be carried from block to block.
//!
//! That is the carry of an addition. Per byte, add
//!
//! | kind | one summand | the other | sum | carries into the next byte |
//! |---|---|---|---|---|
//! | print | 255 | 255 | 510 | always: a word is under way |
//! | neutral | 255 | 0 | 255 | what was carried into it: nothing changes |
//! | space | 0 | 0 | 0 | never: no word is under way |
//!
//! so one 64-bit addition decides eight bytes without a branch, and binary input is counted as fast as text. A word
//! begins at each print byte that nothing is carried into.

use std::ops::AddAssign;

/// What there is to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Newlines.
    pub lines: u64,
    /// Words, each counted where it begins.
    pub words: u64,
    /// Bytes.
    pub bytes: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.words += other.words;
        self.bytes += other.bytes;
    }
}

/// Bytes classified at a time; below 256, so that its counts fit in a byte.
const CHUNK: usize = 128;

/// The lowest bit of each byte.
const LOWEST_BITS: u64 = 0x0101_0101_0101_0101;

/// Counts a block; `in_word` says whether a word is under way at its start.
pub fn count(block: &[u8], in_word: bool) -> Counts {
    let mut counts = Counts { bytes: block.len() as u64, ..Counts::default() };
    let mut carry = in_word;
    let (chunks, rest) = block.as_chunks::<CHUNK>();
    for chunk in chunks {
        count_chunk(chunk, &mut carry, &mut counts);
    }
    if !rest.is_empty() {
        // Neutral bytes change nothing.
        let mut padded = [0; CHUNK];
        padded[..rest.len()].copy_from_slice(rest);
        count_chunk(&padded, &mut carry, &mut counts);
    }
    counts
}

/// Whether a word is under way at the end of a block, if `in_word` says whether one is at its start. Looks from the end
/// for the first byte that is not neutral, hence at a byte or two of any text.
pub fn in_word_after(block: &[u8], in_word: bool) -> bool {
    let decisive = block.iter().rev().find(|&&b| is_print(b) || is_space(b));
    decisive.map_or(in_word, |&b| is_print(b))
}

#[inline]
fn is_space(byte: u8) -> bool {
    byte == b' ' || byte.wrapping_sub(b'\t') <= b'\r' - b'\t'
}

#[inline]
fn is_print(byte: u8) -> bool {
    byte.wrapping_sub(b'!') <= b'~' - b'!'
}

#[inline]
fn count_chunk(chunk: &[u8; CHUNK], carry: &mut bool, counts: &mut Counts) {
    // Plain loops over bytes, in the form that the compiler turns into vector instructions.
    let mut print = [0; CHUNK];
    let mut not_space = [0; CHUNK];
    let mut lines = 0u8;
    for i in 0..CHUNK {
        print[i] = if is_print(chunk[i]) { 255 } else { 0 };
        not_space[i] = if is_space(chunk[i]) { 0 } else { 255 };
        lines += u8::from(chunk[i] == b'\n');
    }
    counts.lines += u64::from(lines);

    // Eight counters of a byte each.
    let mut begins = 0;
    for (print, not_space) in print.as_chunks().0.iter().zip(not_space.as_chunks().0) {
        let print = u64::from_le_bytes(*print);
        let not_space = u64::from_le_bytes(*not_space);
        let (sum, overflow) = print.overflowing_add(not_space);
        let (sum, overflow_of_carry) = sum.overflowing_add(u64::from(*carry));
        // The lowest bit of a byte of the sum is that of its summands, changed by what was carried into the byte.
        let carried_into = sum ^ print ^ not_space;
        begins += print & !carried_into & LOWEST_BITS;
        *carry = overflow | overflow_of_carry;
    }
    // The product's highest byte is the sum of the eight.
    counts.words += begins.wrapping_mul(LOWEST_BITS) >> 56;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::SystemWc;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    /// The loop of coreutils 9.1, byte by byte; the state at the end comes along.
    fn count_slowly(bytes: &[u8], mut in_word: bool) -> (Counts, bool) {
        let mut counts = Counts { bytes: bytes.len() as u64, ..Counts::default() };
        for &byte in bytes {
            counts.lines += u64::from(byte == b'\n');
            match byte {
                b'\n' | b'\r' | 0x0c | b'\t' | b' ' | 0x0b => in_word = false,
                33..=126 => {
                    counts.words += u64::from(!in_word);
                    in_word = true;
                }
                _ => {}
            }
        }
        (counts, in_word)
    }

    /// Counts in blocks that end at the given places, as the processes of `wc` do.
    fn count_in_blocks(bytes: &[u8], ends: &[usize]) -> (Counts, bool) {
        let mut ends: Vec<usize> = ends.iter().map(|&end| end.min(bytes.len())).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut start = 0;
        let mut in_word = false;
        let mut counts = Counts::default();
        for end in ends {
            let block = &bytes[start..end];
            counts += count(block, in_word);
            in_word = in_word_after(block, in_word);
            start = end;
        }
        (counts, in_word)
    }

    /// Bytes of all kinds, in runs, so that words, gaps and neutral stretches reach over chunks and blocks.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let run = prop_oneof![
            vec(any::<u8>(), 0..200),
            vec(select(&b"a \n\0"[..]), 0..300),
            (select(&b"az!~ \t\n\x0b\x0c\r\0\x08\x0e\x1f\x7f\x80\xa0\xff"[..]), 0..400usize)
                .prop_map(|(b, n)| vec![b; n]),
            vec(select(&b"the quick brown fox\n"[..]), 0..300),
        ];
        vec(run, 0..8).prop_map(|runs| runs.concat())
    }

    #[test]
    fn every_byte_in_every_state_is_counted_as_coreutils_does() {
        for byte in 0..=255u8 {
            for before in 0..=255u8 {
                for in_word in [false, true] {
                    let (expected, in_word_then) = count_slowly(&[before, byte], in_word);
                    assert_eq!(count(&[before, byte], in_word), expected, "{before} {byte} {in_word}");
                    assert_eq!(in_word_after(&[before, byte], in_word), in_word_then, "{before} {byte} {in_word}");
                }
            }
        }
    }

    #[test]
    fn the_state_is_carried_over_a_chunk_of_neutral_bytes() {
        for neutrals in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK] {
            for (before, words) in [(&b"a"[..], 1), (b" ", 1), (b"a ", 2), (b"", 1)] {
                let bytes = [before, &vec![0x80; neutrals], b"b"].concat();
                assert_eq!(count(&bytes, false).words, words, "{before:?}, {neutrals} neutral bytes, b");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_in_any_blocks_are_counted_as_coreutils_does(
            bytes in bytes(),
            ends in vec(0..2000usize, 0..6),
        ) {
            prop_assert_eq!(count_in_blocks(&bytes, &ends), count_slowly(&bytes, false));
        }

        #[test]
        fn counting_may_begin_within_a_word(bytes in bytes()) {
            let (expected, in_word_then) = count_slowly(&bytes, true);
            prop_assert_eq!(count(&bytes, true), expected);
            prop_assert_eq!(in_word_after(&bytes, true), in_word_then);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_bytes_in_any_blocks_are_counted_as_the_wc_installed_here_does(
            bytes in bytes(),
            ends in vec(0..2000usize, 0..6),
        ) {
            let Some(wc) = SystemWc::of_coreutils_9_1() else {
                eprintln!("skipped: the wc installed here is not like that of coreutils 9.1");
                return Ok(());
            };
            let Counts { lines, words, bytes: total } = count_in_blocks(&bytes, &ends).0;
            let ours = format!("{lines:7} {words:7} {total:7}\n");
            let theirs = wc.run(&[], &bytes).stdout;
            prop_assert_eq!(ours, String::from_utf8_lossy(&theirs));
        }
    }
}
