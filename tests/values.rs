//! `Value`, `Array` and their atomics: every type, every operation, against what plain arithmetic says; and waiting for a
//! change. Between processes: `multiprocess.rs`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::thread;
use std::time::Duration;

use gimmal::{Array, Atomic, Bits, Error, Number, Scalar, Segment, Timeout, Value};

const LOADS: [Ordering; 3] = [Relaxed, Acquire, SeqCst];
const STORES: [Ordering; 3] = [Relaxed, Release, SeqCst];
const BOTH: [Ordering; 5] = [Relaxed, Acquire, Release, AcqRel, SeqCst];

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A segment, and the same seen by another participant through another mapping.
fn segments() -> (Segment, Segment) {
    let segment = Segment::anonymous().unwrap();
    let other = Segment::from_fd(&segment).unwrap();
    (segment, other)
}

// --- one type after the other ---

/// What all types have. `same` tells values apart that `==` does not.
fn check_scalar<T: Scalar>(samples: &[T], same: impl Fn(T, T) -> bool) {
    let (segment, other) = segments();
    let value = Value::create(&segment, "value", samples[0]).unwrap();
    let seen = Value::<T>::open(&other, "value").unwrap();
    assert!(same(seen.load(Acquire), samples[0]), "the initial value");
    for (i, &sample) in samples.iter().enumerate() {
        let next = samples[(i + 1) % samples.len()];
        for order in STORES {
            value.store(sample, order);
            assert!(LOADS.into_iter().all(|order| same(seen.load(order), sample)));
        }
        for order in BOTH {
            assert!(same(seen.swap(next, order), sample), "swap returns the old value");
            assert!(same(value.swap(sample, order), next), "swap stores the new one");
            assert!(same(
                value.update(order, |old| {
                    assert!(same(old, sample));
                    next
                }),
                sample
            ));
            assert!(same(seen.load(Acquire), next));
            for failure in LOADS {
                value.store(sample, Release);
                let done = seen.compare_exchange(sample, next, order, failure);
                assert!(same(done.expect("the value is there"), sample));
                assert!(same(value.load(Acquire), next));
                if !same(sample, next) {
                    let found = seen.compare_exchange(sample, next, order, failure);
                    assert!(same(found.expect_err("another value is there"), next));
                    let found = seen.compare_exchange_weak(sample, next, order, failure);
                    assert!(same(found.expect_err("another value is there"), next));
                }
                value.store(sample, Release);
                while let Err(found) = seen.compare_exchange_weak(sample, next, order, failure) {
                    assert!(same(found, sample), "a weak exchange may fail, but not change anything");
                }
                assert!(same(value.load(Acquire), next));
            }
            value.store(sample, Release);
        }
    }
}

type Operation<T> = fn(&Atomic<T>, T, Ordering) -> T;

fn check_number<T: Number>(samples: &[T], same: impl Fn(T, T) -> bool, plain: [fn(T, T) -> T; 4]) {
    let (segment, other) = segments();
    let array = Array::<T>::create(&segment, "array", 3).unwrap();
    let seen = Array::<T>::open(&other, "array").unwrap();
    for &a in samples {
        for &b in samples {
            for order in BOTH {
                let operations: [Operation<T>; 4] =
                    [Atomic::fetch_add, Atomic::fetch_sub, Atomic::fetch_min, Atomic::fetch_max];
                for (operation, plain) in operations.into_iter().zip(plain) {
                    array[1].store(a, Release);
                    assert!(same(operation(&seen[1], b, order), a), "the old value of {a:?}, {b:?}");
                    let (got, expected) = (array[1].load(Acquire), plain(a, b));
                    assert!(same(got, expected), "{a:?}, {b:?}: {got:?} instead of {expected:?}");
                }
            }
        }
    }
    let zero = array[0].load(Relaxed);
    assert!(same(array[2].load(Relaxed), zero), "the neighbours are as they were");
}

fn check_bits<T: Bits>(samples: &[T], plain: [fn(T, T) -> T; 3]) {
    let (segment, other) = segments();
    let array = Array::<T>::create(&segment, "array", 3).unwrap();
    let seen = Array::<T>::open(&other, "array").unwrap();
    for &a in samples {
        for &b in samples {
            for order in BOTH {
                let operations: [Operation<T>; 3] = [Atomic::fetch_and, Atomic::fetch_or, Atomic::fetch_xor];
                for (operation, plain) in operations.into_iter().zip(plain) {
                    array[1].store(a, Release);
                    assert_eq!(operation(&seen[1], b, order), a);
                    assert_eq!(array[1].load(Acquire), plain(a, b));
                }
            }
        }
    }
    assert_eq!(array[0].load(Relaxed), array[2].load(Relaxed), "the neighbours are as they were");
}

macro_rules! integers {
    ($($name:ident $t:ident),+) => {$(
        #[test]
        fn $name() {
            let samples: [$t; 7] = [0, 1, 2, 0x55, $t::MIN, $t::MAX, $t::MAX / 3 * 2];
            let same = |a, b| a == b;
            check_scalar::<$t>(&samples, same);
            check_number::<$t>(&samples, same, [$t::wrapping_add, $t::wrapping_sub, $t::min, $t::max]);
            check_bits::<$t>(&samples, [|a, b| a & b, |a, b| a | b, |a, b| a ^ b]);
        }
    )+};
}

integers!(
    i8_computes_as_plain_arithmetic_does i8,
    i16_computes_as_plain_arithmetic_does i16,
    i32_computes_as_plain_arithmetic_does i32,
    i64_computes_as_plain_arithmetic_does i64,
    u8_computes_as_plain_arithmetic_does u8,
    u16_computes_as_plain_arithmetic_does u16,
    u32_computes_as_plain_arithmetic_does u32,
    u64_computes_as_plain_arithmetic_does u64
);

macro_rules! floats {
    ($($name:ident $t:ident $quiet:literal $signaling:literal),+) => {$(
        /// Numbers by their bits: zeros have signs, and one NaN is not another.
        #[test]
        fn $name() {
            let samples: [$t; 9] = [
                0.0, -0.0, 1.5, -2.25, $t::MAX, $t::MIN_POSITIVE / 4.0, $t::INFINITY, $t::NEG_INFINITY, $t::NAN,
            ];
            check_scalar::<$t>(&samples, |a, b| a.to_bits() == b.to_bits());
            // Which NaN comes out of a computation, and which zero is smaller, is left open.
            let alike = |a: $t, b: $t| a == b || a.is_nan() && b.is_nan();
            check_number::<$t>(&samples, alike, [|a, b| a + b, |a, b| a - b, $t::min, $t::max]);
            // The payload of a NaN survives, also one that no computation makes.
            check_scalar::<$t>(&[$t::from_bits($quiet), $t::from_bits($signaling), 0.0],
                |a, b| a.to_bits() == b.to_bits());
        }
    )+};
}

floats!(
    f32_computes_as_plain_arithmetic_does f32 0xffc1_2345 0x7f80_0001,
    f64_computes_as_plain_arithmetic_does f64 0xfff8_0000_1234_5678 0x7ff0_0000_0000_0001
);

#[test]
fn bool_computes_as_logic_does() {
    check_scalar::<bool>(&[true, false], |a, b| a == b);
    check_bits::<bool>(&[true, false], [|a, b| a & b, |a, b| a | b, |a, b| a ^ b]);
}

#[test]
fn a_nan_is_added_to_and_replaced_as_any_number() {
    let segment = Segment::anonymous().unwrap();
    let value = Value::<f64>::create(&segment, "value", f64::NAN).unwrap();
    assert!(value.fetch_add(1.0, Relaxed).is_nan());
    assert!(value.fetch_min(3.0, Relaxed).is_nan());
    assert_eq!(value.load(Relaxed), 3.0, "as f64::min, which prefers a number");
    assert_eq!(value.fetch_max(f64::NAN, Relaxed), 3.0);
    assert_eq!(value.load(Relaxed), 3.0);
    value.store(f64::NAN, Relaxed);
    let nan = value.load(Relaxed);
    assert!(value.compare_exchange(nan, 1.0, Relaxed, Relaxed).is_ok(), "the same bits are the same value");
    assert!(value.compare_exchange(nan, 2.0, Relaxed, Relaxed).is_err());
    value.store(0.0, Relaxed);
    assert!(value.compare_exchange(-0.0, 2.0, Relaxed, Relaxed).is_err(), "other bits are another value");
}

#[test]
fn orderings_that_no_operation_can_have_panic() {
    fn check<T: Scalar>(sample: T) {
        let segment = Segment::anonymous().unwrap();
        let value = Value::create(&segment, "value", sample).unwrap();
        let panics = |act: &dyn Fn()| catch_unwind(AssertUnwindSafe(act)).is_err();
        for order in [Release, AcqRel] {
            assert!(
                panics(&|| {
                    value.load(order);
                }),
                "load {order:?}"
            );
            assert!(panics(&|| {
                let _ = value.compare_exchange(sample, sample, SeqCst, order);
            }));
            assert!(panics(&|| {
                let _ = value.compare_exchange_weak(sample, sample, SeqCst, order);
            }));
        }
        for order in [Acquire, AcqRel] {
            assert!(panics(&|| value.store(sample, order)), "store {order:?}");
        }
    }
    check(1_u8);
    check(1_i64);
    check(1.5_f32);
    check(true);
}

#[test]
fn an_update_that_panics_changes_nothing() {
    let segment = Segment::anonymous().unwrap();
    let value = Value::<u32>::create(&segment, "value", 7).unwrap();
    let update = || value.update(Relaxed, |old| if old == 7 { panic!("on purpose") } else { 0 });
    assert!(catch_unwind(AssertUnwindSafe(update)).is_err());
    assert_eq!(value.load(Relaxed), 7);
    assert_eq!(value.update(Relaxed, |old| old + 1), 7);
}

#[test]
fn changes_by_several_threads_all_count() {
    const THREADS: usize = 4;
    const EACH: usize = 2000;
    fn add<T: Number + Send>(one: T, sum: T) {
        let (segment, other) = segments();
        let zero = Array::<T>::create(&segment, "zero", 1).unwrap()[0].load(Relaxed);
        let value = Value::create(&segment, "value", zero).unwrap();
        let seen = Value::<T>::open(&other, "value").unwrap();
        thread::scope(|scope| {
            for i in 0..THREADS {
                let value = if i % 2 == 0 { &value } else { &seen };
                scope.spawn(move || {
                    (0..EACH).for_each(|_| {
                        value.fetch_add(one, Relaxed);
                    })
                });
            }
        });
        assert_eq!(value.load(Relaxed), sum);
    }
    let sum = THREADS * EACH;
    add::<u8>(1, sum as u8);
    add::<i16>(-1, -(sum as i16));
    add::<u32>(3, 3 * sum as u32);
    add::<i64>(-(1 << 40), -(1 << 40) * sum as i64);
    add::<f32>(0.5, sum as f32 / 2.0);
    add::<f64>(-0.25, sum as f64 / -4.0);

    let segment = Segment::anonymous().unwrap();
    let flag = Value::<bool>::create(&segment, "flag", false).unwrap();
    let count = Value::<u64>::create(&segment, "count", 0).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..EACH + 1 {
                    flag.fetch_xor(true, Relaxed);
                    count.update(Relaxed, |count| count + 2);
                }
            });
        }
    });
    assert!(flag.load(Relaxed), "an odd number of changes");
    assert_eq!(count.load(Relaxed), 6 * (EACH as u64 + 1));
}

// --- a byte that is no bool ---

/// A named segment whose name is removed at the end however the test ends.
struct Named(Segment);

impl Named {
    fn new(case: &str) -> Self {
        Self(Segment::options().size(64 << 10).create(&format!("t-values-{}-{case}", std::process::id())).unwrap())
    }

    fn file(&self) -> File {
        let path = self.0.directory().join(format!("gimmal.{}", self.0.name().unwrap()));
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.0.directory().join(format!("gimmal.{}", self.0.name().unwrap()))).unwrap()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Segment::unlink(self.0.name().unwrap());
    }
}

/// A peer may write any byte; no `bool` of ours may become one.
#[test]
fn a_byte_that_is_no_bool_reads_as_true_and_can_be_replaced() {
    let named = Named::new("bool");
    let flags = Array::<bool>::create(&named.0, "flags", 5).unwrap();
    let before = named.bytes();
    flags[3].store(true, Release);
    let after = named.bytes();
    let place = (0..before.len()).find(|&i| before[i] != after[i]).expect("the store is in the file");
    for byte in [2, 0x80, 0xff] {
        let spoil = || named.file().write_all_at(&[byte], place as u64).unwrap();
        spoil();
        assert_eq!(flags.to_vec(), [false, false, false, true, false]);
        assert!(flags[3].load(Acquire));
        assert!(flags[3].swap(false, AcqRel));
        assert!(!flags[3].load(Acquire));
        spoil();
        flags[3].store(true, Release);
        assert_eq!(named.bytes()[place], 1);
        spoil();
        assert_eq!(flags[3].compare_exchange(false, true, AcqRel, Acquire), Err(true));
        // These are loops, which must not wait for the byte to become the one they expect.
        assert!(flags[3].fetch_and(true, AcqRel));
        assert_eq!(named.bytes()[place], 1);
        spoil();
        assert!(flags[3].fetch_or(false, AcqRel));
        assert_eq!(named.bytes()[place], 1);
        spoil();
        assert!(flags[3].fetch_xor(true, AcqRel));
        assert_eq!(named.bytes()[place], 0);
        spoil();
        assert!(flags[3].update(AcqRel, |old| !old));
        assert_eq!(named.bytes()[place], 0);
    }
}

// --- arrays ---

#[test]
fn an_array_begins_with_zeros_and_has_its_length() {
    let (segment, other) = segments();
    for (i, length) in [1, 2, 31, 128, 1000].into_iter().enumerate() {
        let array = Array::<u16>::create(&segment, &format!("array-{i}"), length).unwrap();
        let seen = Array::<u16>::open(&other, &format!("array-{i}")).unwrap();
        assert_eq!((array.len(), seen.len()), (length, length));
        assert_eq!(seen.to_vec(), vec![0; length]);
        assert!(seen.get(length - 1).is_some() && seen.get(length).is_none());
    }
    let flags = Array::<bool>::create(&segment, "flags", 3).unwrap();
    assert_eq!(flags.to_vec(), [false; 3]);
    let floats = Array::<f64>::create(&segment, "floats", 3).unwrap();
    assert_eq!(floats.to_vec(), [0.0; 3]);
}

#[test]
fn elements_are_as_many_cells_as_there_are_indexes() {
    let (segment, other) = segments();
    let array = Array::<u64>::create(&segment, "array", 100).unwrap();
    let seen = Array::<u64>::open(&other, "array").unwrap();
    for (i, cell) in array.iter().enumerate() {
        cell.store(i as u64 * 3, Release);
    }
    assert!(seen.iter().enumerate().all(|(i, cell)| cell.load(Acquire) == i as u64 * 3));
    assert_eq!(seen[40..42].iter().map(|cell| cell.load(Acquire)).collect::<Vec<_>>(), [120, 123]);
    seen[99].fetch_add(1, AcqRel);
    assert_eq!(array.to_vec()[97..], [291, 294, 298]);
    assert!(catch_unwind(AssertUnwindSafe(|| array[100].load(Relaxed))).is_err(), "an index beyond the end");
}

#[test]
fn ranges_are_copied_where_they_are_told_to_and_nowhere_else() {
    let (segment, other) = segments();
    let array = Array::<i32>::create(&segment, "array", 8).unwrap();
    let seen = Array::<i32>::open(&other, "array").unwrap();
    array.fill(-1);
    array.write(2, &[5, 6, 7]).unwrap();
    assert_eq!(seen.to_vec(), [-1, -1, 5, 6, 7, -1, -1, -1]);
    let mut copy = [0; 4];
    seen.read(1, &mut copy).unwrap();
    assert_eq!(copy, [-1, 5, 6, 7]);
    let all: Vec<i32> = (0..8).collect();
    seen.write(0, &all).unwrap();
    let mut copy = [9; 8];
    array.read(0, &mut copy).unwrap();
    assert_eq!(copy[..], all);
    array.read(8, &mut []).unwrap();
    array.write(8, &[]).unwrap();
    seen.fill(3);
    assert_eq!(array.to_vec(), [3; 8]);
}

#[test]
fn a_range_that_is_not_all_there_is_refused_as_a_whole() {
    let segment = Segment::anonymous().unwrap();
    let array = Array::<u8>::create(&segment, "array", 8).unwrap();
    for (start, length) in [(0, 9), (8, 1), (7, 2), (9, 0), (usize::MAX, 1), (usize::MAX, 0), (2, 100)] {
        let mut copy = vec![7; length];
        for result in [array.read(start, &mut copy), array.write(start, &vec![1; length])] {
            match result {
                Err(Error::OutOfRange { start: s, length: l, found: 8 }) => assert_eq!((s, l), (start, length)),
                other => panic!("{other:?} for {length} from {start}"),
            }
        }
        assert_eq!(copy, vec![7; length], "nothing is copied");
        assert_eq!(array.to_vec(), [0; 8], "nothing is written");
    }
}

#[test]
fn bytes_says_what_an_array_takes() {
    let segment = Segment::anonymous().unwrap();
    for (i, length) in [1, 7, 128, 129, 5000].into_iter().enumerate() {
        let free = segment.free();
        Array::<u32>::create(&segment, &format!("array-{i}"), length).unwrap();
        assert_eq!(free - segment.free(), Array::<u32>::bytes(length));
    }
    assert_eq!(Array::<u64>::bytes(usize::MAX), usize::MAX, "no segment could hold it");
}

// --- handles ---

#[test]
fn the_initial_value_is_the_creators() {
    let (segment, other) = segments();
    let value = Value::<u32>::open_or_create(&segment, "value", 5).unwrap();
    let seen = Value::<u32>::open_or_create(&other, "value", 6).unwrap();
    assert_eq!((value.load(Relaxed), seen.load(Relaxed)), (5, 5));
    seen.store(7, Relaxed);
    assert_eq!(Value::<u32>::open(&segment, "value").unwrap().load(Relaxed), 7);
    let array = Array::<u32>::open_or_create(&segment, "array", 4).unwrap();
    array.fill(1);
    assert_eq!(Array::<u32>::open_or_create(&other, "array", 4).unwrap().to_vec(), [1; 4]);
}

#[test]
fn a_handle_and_its_clones_mean_the_same_cells_and_outlive_the_segments_handle() {
    let segment = Segment::anonymous().unwrap();
    let (value, array) =
        (Value::<u8>::create(&segment, "value", 1).unwrap(), Array::<u8>::create(&segment, "array", 2).unwrap());
    let clones = (value.clone(), array.clone());
    drop(segment);
    clones.0.store(9, Relaxed);
    clones.1[1].store(8, Relaxed);
    drop(clones);
    assert_eq!((value.load(Relaxed), array.to_vec()), (9, vec![0, 8]));
    assert_eq!((format!("{value:?}"), format!("{array:?}")), ("Value(9)".to_owned(), "[0, 8]".to_owned()));
}

// --- waiting ---

#[test]
fn a_wait_whose_condition_does_not_hold_returns_at_once_with_the_value() {
    let segment = Segment::anonymous().unwrap();
    let value = Value::<i32>::create(&segment, "value", 3).unwrap();
    assert_eq!(value.wait_while(|v| v < 3), 3);
    assert_eq!(value.wait_while_timeout(Duration::ZERO, |v| v < 3), Ok(3));
    let array = Array::<i32>::create(&segment, "array", 3).unwrap();
    array.wait_while(|cells| cells.len() != 3);
    assert_eq!(array.wait_while_timeout(Duration::ZERO, |cells| cells.len() != 3), Ok(()));
}

#[test]
fn a_wait_ends_with_its_time_and_not_before() {
    let segment = Segment::anonymous().unwrap();
    let value = Value::<i32>::create(&segment, "value", 3).unwrap();
    let array = Array::<i32>::create(&segment, "array", 3).unwrap();
    for timeout in [Duration::ZERO, Duration::from_millis(3), Duration::from_millis(120)] {
        let start = std::time::Instant::now();
        assert_eq!(value.wait_while_timeout(timeout, |v| v == 3), Err(Timeout));
        assert!(start.elapsed() >= timeout);
        let start = std::time::Instant::now();
        assert_eq!(array.wait_while_timeout(timeout, |cells| cells[0].load(Acquire) == 0), Err(Timeout));
        assert!(start.elapsed() >= timeout);
    }
}

#[test]
fn a_wait_sees_what_was_stored_before_the_notification_in_another_mapping() {
    let (segment, other) = segments();
    let (ping, pong) =
        (Value::<u32>::create(&segment, "ping", 0).unwrap(), Value::<u32>::create(&segment, "pong", 0).unwrap());
    let payload = Array::<u64>::create(&segment, "payload", 16).unwrap();
    let answerer = thread::spawn(move || {
        let (ping, pong) = (Value::<u32>::open(&other, "ping").unwrap(), Value::<u32>::open(&other, "pong").unwrap());
        let payload = Array::<u64>::open(&other, "payload").unwrap();
        for turn in 1..=500 {
            assert_eq!(ping.wait_while_timeout(LONG, |at| at < turn), Ok(turn));
            assert_eq!(payload.to_vec(), [u64::from(turn); 16]);
            pong.store(turn, Release);
            pong.notify_one();
        }
    });
    for turn in 1..=500 {
        payload.fill(u64::from(turn));
        ping.store(turn, Release);
        ping.notify_one();
        assert_eq!(pong.wait_while_timeout(LONG, |at| at < turn), Ok(turn));
    }
    answerer.join().unwrap();
}

#[test]
fn all_who_wait_for_an_array_are_woken_at_once() {
    let (segment, other) = segments();
    let array = Array::<u32>::create(&segment, "array", 4).unwrap();
    let waiting = Value::<u32>::create(&segment, "waiting", 0).unwrap();
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..4)
            .map(|i| {
                let (array, waiting) =
                    (Array::<u32>::open(&other, "array").unwrap(), Value::<u32>::open(&other, "waiting").unwrap());
                scope.spawn(move || {
                    waiting.fetch_add(1, Relaxed);
                    waiting.notify_all();
                    array.wait_while_timeout(LONG, |cells| cells[i].load(Acquire) == 0)
                })
            })
            .collect();
        assert_eq!(waiting.wait_while_timeout(LONG, |waiting| waiting < 4), Ok(4));
        array.fill(1);
        array.notify_all();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Ok(()));
        }
    });
}
