//! `Str` and `Bytes`: content of any length in a type of a fixed size, whatever bytes a peer has left there.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};

use gimmal::bytemuck::{self, bytes_of, bytes_of_mut};
use gimmal::{Bytes, Error, Latest, Lock, Pod, Queue, Segment, Str, TooLong};
use proptest::prelude::*;

/// Any bytes as a value.
fn any_bits<T: Pod>(bits: &[u8]) -> T {
    let mut value = T::zeroed();
    let room = bytes_of_mut(&mut value);
    let length = room.len().min(bits.len());
    room[..length].copy_from_slice(&bits[..length]);
    value
}

/// A `Str` or `Bytes` whose length field says `length`.
fn with_length<T: Pod>(length: u32, content: &[u8]) -> T {
    any_bits(&[&length.to_le_bytes(), content].concat())
}

#[test]
fn each_takes_four_bytes_more_than_its_room_without_padding() {
    fn check<const N: usize>() {
        assert_eq!((size_of::<Bytes<N>>(), align_of::<Bytes<N>>()), (N + 4, 1));
        assert_eq!((size_of::<Str<N>>(), align_of::<Str<N>>()), (N + 4, 1));
        assert_eq!((Bytes::<N>::new().capacity(), Str::<N>::new().capacity()), (N, N));
        assert!(bytes_of(&Str::<N>::new()).iter().all(|&byte| byte == 0), "zeroed memory is the empty text");
    }
    check::<0>();
    check::<1>();
    check::<3>();
    check::<60>();
    check::<1500>();
}

#[test]
fn the_length_is_little_endian_in_front_and_the_rest_is_zero() {
    assert_eq!(bytes_of(&Str::<6>::truncated("hé")), [3, 0, 0, 0, b'h', 0xc3, 0xa9, 0, 0, 0]);
    assert_eq!(bytes_of(&Bytes::<300>::truncated(&[7; 300]))[..5], [44, 1, 0, 0, 7]);
}

#[test]
fn what_does_not_fit_is_refused_with_what_to_do_and_changes_nothing() {
    let error = "sieben!".parse::<Str<6>>().unwrap_err();
    assert_eq!(error, TooLong { length: 7, room: 6 });
    let message = error.to_string();
    assert!(message.contains('7') && message.contains('6') && message.contains("truncated"), "{message}");
    let mut text: Str<6> = "abcd".parse().unwrap();
    assert_eq!(text.push_str("efg"), Err(TooLong { length: 7, room: 6 }));
    assert_eq!(text.push('日'), Err(TooLong { length: 7, room: 6 }));
    assert_eq!(text, "abcd");
    assert_eq!(text.push('é'), Ok(()));
    assert_eq!((text, text.push_str("")), ("abcdé".parse().unwrap(), Ok(())));
    let mut bytes = Bytes::<4>::try_from(&[1, 2, 3][..]).unwrap();
    assert_eq!(bytes.push_slice(&[4, 5]), Err(TooLong { length: 5, room: 4 }));
    assert_eq!(bytes.as_slice(), [1, 2, 3]);
    assert!(Bytes::<0>::try_from(&[1][..]).is_err() && Bytes::<0>::try_from(&[][..]).is_ok());
    let mut full = Str::<4>::new();
    assert!(write!(full, "{}", 12345).is_err());
    assert_eq!((full, Str::<4>::try_from("")), (Str::new(), Ok(Str::new())));
}

#[test]
fn a_length_beyond_the_room_counts_as_the_room() {
    for length in [6, 7, 1 << 31, u32::MAX] {
        let mut text: Str<5> = with_length(length, b"hello");
        assert_eq!((text.as_str(), text.len(), text.as_bytes()), ("hello", 5, &b"hello"[..]));
        assert!(text.push('!').is_err());
        let mut bytes: Bytes<5> = with_length(length, b"hello");
        assert_eq!(bytes, Bytes::from(*b"hello"));
        assert!(bytes.push_slice(b"!").is_err());
        bytes.truncate(2);
        bytes.push_slice(b"x").unwrap();
        assert_eq!(bytes_of(&bytes), [3, 0, 0, 0, b'h', b'e', b'x', 0, 0]);
    }
}

#[test]
fn what_is_not_utf8_ends_the_text_and_is_told_apart() {
    let mut text: Str<8> = with_length(6, b"ab\xffcd\xc3zz");
    assert_eq!((text.as_str(), &*text, text.to_string()), ("ab", "ab", "ab".to_owned()));
    assert_eq!(text.to_str().unwrap_err().valid_up_to(), 2);
    assert_eq!(text.as_bytes(), b"ab\xffcd\xc3");
    assert_eq!(text, "ab".parse::<Str<8>>().unwrap());
    // What is appended is seen, and nothing of the rest comes back.
    text.push_str("yz").unwrap();
    assert_eq!(bytes_of(&text), bytes_of(&Str::<8>::truncated("abyz")));
    let cut: Str<3> = with_length(3, "aé€".as_bytes());
    assert_eq!(cut.as_str(), "aé");
    let cut: Str<3> = with_length(2, "aé€".as_bytes());
    assert_eq!(cut.as_str(), "a", "in the middle of a character");
}

#[test]
fn equal_content_is_equal_whatever_the_room_and_whatever_is_behind_it() {
    let dirty: Str<8> = with_length(2, b"abXXXXXX");
    let clean = Str::<8>::truncated("ab");
    assert_ne!(bytes_of(&dirty), bytes_of(&clean));
    assert_eq!(dirty, clean);
    assert_eq!(dirty, *Str::<2>::truncated("abc"));
    assert_eq!(dirty.cmp(&clean), std::cmp::Ordering::Equal);
    let state = RandomState::new();
    assert_eq!((state.hash_one(dirty), state.hash_one(dirty)), (state.hash_one(clean), state.hash_one("ab")));
    assert_eq!(state.hash_one(with_length::<Bytes<8>>(2, b"abXXXXXX")), state.hash_one(&b"ab"[..]));
    let map = HashMap::from([(clean, 1)]);
    assert_eq!(map.get("ab"), Some(&1));
    assert_eq!(format!("{dirty:?} {dirty:>4} {:?}", Bytes::<4>::truncated(b"a\n\xff")), r#""ab"   ab b"a\n\xff""#);
}

#[test]
fn they_go_through_objects_and_show_their_room_in_the_type() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<Str<60>>::create(&segment, "queue", 4).unwrap();
    queue.sender().unwrap().send(Str::truncated("through")).unwrap();
    assert_eq!(queue.receiver().unwrap().recv().unwrap(), "through");
    let latest = Latest::<[Str<7>; 3]>::create(&segment, "latest", Default::default()).unwrap();
    latest.update(|texts| texts[2] = Str::truncated("changed!")).unwrap();
    assert_eq!(latest.load().map(|text| text.to_string()), ["", "", "changed"]);
    let names = Lock::<[Bytes<12>; 8]>::create(&segment, "names", [Bytes::new(); 8]).unwrap();
    names.lock().unwrap()[1].push_slice(b"one").unwrap();
    assert_eq!(&names.lock().unwrap()[1][..], b"one");

    let objects = segment.snapshot().unwrap().objects;
    let types: Vec<_> = objects.iter().map(|object| object.element.as_str()).collect();
    assert_eq!(types, ["Str<60>", "[Str<7>; 3]", "[Bytes<12>; 8]"]);
    match Queue::<Str<61>>::open(&segment, "queue") {
        Err(Error::TypeMismatch { expected, found, .. }) => {
            assert_eq!((&*expected, &*found), ("Str<61> (65 bytes)", "Str<60> (64 bytes)"));
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn a_str_is_a_string_with_an_end(steps in prop::collection::vec((".{0,6}", 0..10_u8), 0..20)) {
        let (mut text, mut model) = (Str::<24>::new(), String::new());
        for (piece, how) in steps {
            match how {
                0 => { text.clear(); model.clear(); }
                1 => { text = Str::truncated(&piece); model = piece; }
                2 => {
                    let fits = write!(text, "{piece:?}").is_ok();
                    // Written in pieces: what fitted before the one that did not stays.
                    let whole = format!("{model}{piece:?}");
                    prop_assert_eq!(fits, whole.len() <= 24);
                    prop_assert!(whole.starts_with(&*text));
                    model = text.to_string();
                }
                _ => {
                    let fits = text.push_str(&piece);
                    prop_assert_eq!(fits.is_ok(), model.len() + piece.len() <= 24);
                    if fits.is_ok() { model.push_str(&piece) }
                }
            }
            prop_assert_eq!(text.as_str(), &*model);
            prop_assert_eq!(text.to_str(), Ok(&*model));
            // The same content is the same bytes, however it came about.
            let anew = Str::<24>::truncated(&model);
            prop_assert_eq!(bytes_of(&text), bytes_of(&anew));
        }
    }

    #[test]
    fn truncated_keeps_as_many_characters_as_fit(text in ".{0,20}") {
        fn check<const N: usize>(text: &str) -> Result<(), TestCaseError> {
            let cut = Str::<N>::truncated(text);
            prop_assert!(text.starts_with(&*cut) && cut.len() <= N);
            prop_assert_eq!(cut.to_str(), Ok(&*cut), "no half of a character is left");
            let next = text[cut.len()..].chars().next();
            prop_assert!(next.is_none_or(|c| cut.len() + c.len_utf8() > N), "{:?} has room for {:?}", cut, next);
            prop_assert_eq!(Str::<N>::try_from(text).is_ok(), text.len() <= N);
            Ok(())
        }
        check::<0>(&text)?;
        check::<1>(&text)?;
        check::<7>(&text)?;
        check::<64>(&text)?;
    }

    /// Nothing panics, text is text, and every operation leaves something sound.
    #[test]
    fn any_bits_are_a_value(bits in prop::array::uniform20(any::<u8>()), small in any::<bool>(), piece in ".{0,4}") {
        let mut bits = bits;
        if small { bits[1..4].fill(0); bits[0] %= 20; }
        let mut text: Str<16> = bytemuck::cast(bits);
        let bytes: Bytes<16> = bytemuck::cast(bits);
        prop_assert_eq!(text.as_bytes(), bytes.as_slice());
        prop_assert!(bytes.len() <= 16 && bytes.as_slice().starts_with(text.as_bytes()));
        let valid = String::from_utf8_lossy(bytes.as_slice()).split('\u{fffd}').next().unwrap().to_owned();
        prop_assert!(text.as_str().starts_with(&valid));
        let (before, fits) = (text.to_string(), text.push_str(&piece).is_ok());
        prop_assert_eq!(fits, before.len() + piece.len() <= 16);
        prop_assert_eq!(text.as_str(), if fits { before + &piece } else { before });
        let mut cut = bytes;
        cut.truncate(5);
        prop_assert_eq!(cut.as_slice(), &bytes[..bytes.len().min(5)]);
        if bytes.len() > 5 {
            let anew = Bytes::<16>::truncated(&bytes[..5]);
            prop_assert_eq!(bytes_of(&cut), bytes_of(&anew));
        }
    }

    #[test]
    fn bytes_compare_as_slices_do(a in prop::collection::vec(0..3_u8, 0..6), b in prop::collection::vec(0..3_u8, 0..6)) {
        let (x, y) = (Bytes::<5>::truncated(&a), Bytes::<5>::truncated(&b));
        let (a, b) = (&a[..a.len().min(5)], &b[..b.len().min(5)]);
        prop_assert_eq!(x.partial_cmp(&y), a.partial_cmp(b));
        prop_assert_eq!(x == y, a == b);
        prop_assert!(x == *a && x == a);
    }
}
