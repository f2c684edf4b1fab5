//! `Latest`: the last value that was stored, whole, whatever happens to its writers. See also the sweep.

mod support;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{Error, Kind, Latest, Pod, Queue, Segment, Timeout, Value, Versioned};
use memmap2::{MmapOptions, MmapRaw};
use proptest::prelude::*;
use support::{LONG, Random, die_with_parent, failed, join_well, kill_and_reap, resume, stop, until};

const ENTRIES: [Entry; 3] = gimmal::entries![write_on, read_on, count_up];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment, arguments: &[&str]) -> Child {
    process::init(&ENTRIES);
    support::process(entry).segment(segment).args(arguments).spawn().expect("start a process")
}

/// A segment, and the same seen by another participant.
fn segments() -> (Segment, Segment) {
    let segment = Segment::anonymous().unwrap();
    let other = Segment::from_fd(&segment).unwrap();
    (segment, other)
}

/// Who stored it, as what, and a sum over all words: torn ones do not add up.
type Sealed = [u64; 37];

fn seal(writer: u64, count: u64) -> Sealed {
    let mut value: Sealed = std::array::from_fn(|i| (writer << 32 | count).wrapping_mul(2 * i as u64 + 1));
    value[36] = value[..36].iter().fold(0, |sum, word| sum.rotate_left(7) ^ word);
    value
}

/// Writer and count.
fn open(value: &Sealed) -> Result<(u64, u64), String> {
    let (writer, count) = (value[0] >> 32, value[0] & 0xffff_ffff);
    if *value == seal(writer, count) { Ok((writer, count)) } else { Err(format!("torn: {value:?}")) }
}

// --- one after the other ---

#[test]
fn the_last_value_is_there_with_its_version_for_everybody() {
    let (segment, other) = segments();
    let latest = Latest::<[u16; 5]>::create(&segment, "latest", [7; 5]).unwrap();
    let seen = Latest::<[u16; 5]>::open(&other, "latest").unwrap();
    assert_eq!(seen.load_versioned(), Versioned { value: [7; 5], version: 0 });
    for n in 1..=20 {
        let writer = if n % 2 == 0 { &latest } else { &seen };
        assert_eq!(writer.store([n; 5]).unwrap(), u64::from(n));
        for reader in [&latest, &seen, &seen.clone()] {
            let expected = Versioned { value: [n; 5], version: n.into() };
            assert_eq!((reader.load(), reader.load_versioned(), reader.version()), ([n; 5], expected, n.into()));
            assert_eq!(reader.try_load(), Some(expected));
            assert_eq!(reader.changed_since(n.into()), None);
            assert_eq!(reader.changed_since(u64::from(n) - 1), Some(expected));
            let mut room = [0; 5];
            assert_eq!((reader.load_into(&mut room), room), (n.into(), [n; 5]));
        }
    }
    assert_eq!(format!("{latest:?}"), "Latest { version: 20, .. }");
}

#[test]
fn an_update_stores_what_it_makes_of_the_last_value() {
    let (segment, other) = segments();
    let latest = Latest::<[i32; 3]>::create(&segment, "latest", [1, 2, 3]).unwrap();
    let stored = latest.update(|value| value[1] = 9).unwrap();
    assert_eq!(stored, Versioned { value: [1, 9, 3], version: 1 });
    let seen = Latest::<[i32; 3]>::open(&other, "latest").unwrap();
    let mut room = [100; 3];
    assert_eq!((seen.update_in(&mut room, |value| value[0] -= 1).unwrap(), room), (2, [0, 9, 3]));
    assert_eq!(latest.load(), [0, 9, 3]);
}

#[test]
fn an_update_begins_again_if_somebody_stores_meanwhile() {
    let (segment, other) = segments();
    let latest = Latest::<u64>::create(&segment, "latest", 1).unwrap();
    let rival = Latest::<u64>::open(&other, "latest").unwrap();
    let mut calls = 0;
    let stored = latest.update(|value| {
        calls += 1;
        if calls < 3 {
            rival.store(10 * calls).unwrap();
        }
        *value += 5;
    });
    assert_eq!((stored.unwrap(), calls), (Versioned { value: 25, version: 3 }, 3));
    assert_eq!(latest.load(), 25);
}

#[test]
fn a_change_that_panics_stores_nothing_and_keeps_nothing() {
    let segment = Segment::anonymous().unwrap();
    let latest = Latest::<u64>::create(&segment, "latest", 1).unwrap();
    for _ in 0..20 {
        let change = std::panic::AssertUnwindSafe(|| latest.update(|_| std::panic::resume_unwind(Box::new(()))));
        assert!(std::panic::catch_unwind(change).is_err());
    }
    assert_eq!((latest.load_versioned().version, latest.store(2).unwrap()), (0, 1));
}

#[test]
fn the_initial_value_is_the_creators() {
    let (segment, other) = segments();
    let latest = Latest::<u8>::open_or_create(&segment, "latest", 5).unwrap();
    let seen = Latest::<u8>::open_or_create(&other, "latest", 6).unwrap();
    let again = Latest::<u8>::open_or_create_from(&other, "latest", &7).unwrap();
    assert_eq!((latest.load(), seen.load(), again.load()), (5, 5, 5));
    assert!(matches!(Latest::<u8>::create(&other, "latest", 1), Err(Error::Exists { .. })));
    drop((segment, latest));
    assert_eq!(seen.store(8).unwrap(), 1);
}

#[test]
fn values_of_any_size_and_alignment_arrive_whole() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(C, align(64))]
    struct Wide([u8; 192]);
    // SAFETY: bytes only, and no padding: 192 is a multiple of 64.
    unsafe impl gimmal::Zeroable for Wide {}
    // SAFETY: as above.
    unsafe impl Pod for Wide {}

    fn check<T: Pod + PartialEq + std::fmt::Debug + Send>(segment: &Segment, name: &str, of: impl Fn(u8) -> T) {
        let free = segment.free();
        let latest = Latest::create(segment, name, of(1)).unwrap();
        assert_eq!(free - segment.free(), Latest::<T>::bytes());
        assert_eq!(latest.load(), of(1));
        for n in 0..20 {
            latest.store(of(n)).unwrap();
            assert_eq!(latest.load(), of(n));
        }
    }
    fn bytes<const N: usize>(segment: &Segment) {
        check::<[u8; N]>(segment, &format!("bytes-{N}"), |n| std::array::from_fn(|i| n.wrapping_mul(i as u8 | 1)));
    }
    let segment = Segment::anonymous().unwrap();
    bytes::<1>(&segment);
    bytes::<7>(&segment);
    bytes::<8>(&segment);
    bytes::<9>(&segment);
    bytes::<127>(&segment);
    bytes::<128>(&segment);
    bytes::<4096>(&segment);
    bytes::<4097>(&segment);
    check(&segment, "wide", |n| Wide([n; 192]));
    check(&segment, "float", |n| f64::from(n) / 3.0);
    // A part of the layout: 8 buffers or 4, of whole lines.
    assert_eq!(Latest::<[u8; 4096]>::bytes(), 128 + 8 * 4096);
    assert_eq!(Latest::<[u8; 4097]>::bytes(), 128 + 4 * 4224);
}

/// One mebibyte.
type Picture = [u64; 1 << 17];

#[test]
fn a_value_of_a_mebibyte_need_not_go_over_the_stack() {
    let mut room: Box<Picture> = heap(0);
    let segment = Segment::options().max_objects(2).size(Latest::<Picture>::bytes() + (64 << 10)).anonymous().unwrap();
    room[1 << 16] = 1;
    let latest = Latest::<Picture>::create_from(&segment, "picture", &room).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (latest, done) = (&latest, &done);
        let writer = scope.spawn(move || {
            let mut room: Box<Picture> = heap(0);
            for n in 2..=60 {
                room.fill(n);
                assert_eq!(latest.store_from(&room).unwrap(), n - 1);
            }
            done.store(true, Relaxed);
        });
        let mut last = 0;
        while !done.load(Relaxed) {
            let version = latest.load_into(&mut room);
            assert!(version >= last);
            assert!(version == 0 || room.iter().all(|&word| word == version + 1), "torn at {version}");
            last = version;
        }
        writer.join().unwrap();
    });
    assert_eq!(latest.update_in(&mut room, |picture| picture[5] = 0).unwrap(), 60);
    assert_eq!((latest.load_into(&mut room), room[5], room[6]), (60, 0, 60));
}

/// An array that was never on the stack.
fn heap<T: Clone + std::fmt::Debug, const N: usize>(element: T) -> Box<[T; N]> {
    vec![element; N].into_boxed_slice().try_into().unwrap()
}

// --- errors ---

#[test]
fn what_is_asked_for_must_be_what_is_there() {
    let segment = Segment::anonymous().unwrap();
    Latest::<[u32; 2]>::create(&segment, "latest", [0; 2]).unwrap();
    Value::<u64>::create(&segment, "value", 0).unwrap();
    let mismatch = Latest::<[u32; 3]>::open(&segment, "latest").unwrap_err().to_string();
    assert!(mismatch.contains("[u32; 2]") && mismatch.contains("[u32; 3]"), "{mismatch}");
    assert!(matches!(Latest::<u64>::open(&segment, "latest"), Err(Error::TypeMismatch { .. })));
    assert!(matches!(Latest::<u64>::open_or_create(&segment, "latest", 0), Err(Error::TypeMismatch { .. })));
    assert!(matches!(
        Latest::<u64>::open(&segment, "value"),
        Err(Error::KindMismatch { expected: Kind::Latest, found: Kind::Value, .. })
    ));
    assert!(matches!(Queue::<u64>::open(&segment, "latest"), Err(Error::KindMismatch { found: Kind::Latest, .. })));
    assert!(matches!(Latest::<u64>::open(&segment, "none"), Err(Error::NotFound { .. })));
    assert!(matches!(Latest::<u64>::create(&segment, "a/b", 0), Err(Error::BadName { .. })));
    let snapshot = segment.snapshot().unwrap();
    assert_eq!((snapshot.objects[0].kind.to_string(), &*snapshot.objects[0].element), ("Latest".into(), "[u32; 2]"));
}

#[test]
fn a_value_beyond_a_mebibyte_is_refused_with_both_numbers() {
    type Large = [u8; (1 << 20) + 1];
    let large: Box<Large> = heap(0);
    let segment = Segment::anonymous().unwrap();
    let results =
        [Latest::create_from(&segment, "large", &*large), Latest::open_or_create_from(&segment, "large", &*large)];
    for error in results.into_iter().chain([Latest::<Large>::open(&segment, "large")]).map(Result::unwrap_err) {
        assert!(matches!(error, Error::BadSize { given: 1_048_577, maximum: 1_048_576, .. }), "{error:?}");
    }
    let fits = Latest::<Picture>::create_from(&segment, "picture", &heap(0));
    assert!(matches!(fits, Err(Error::NoRoom { needed, .. }) if needed == Latest::<Picture>::bytes()));
}

// --- waiting ---

#[test]
fn a_wait_ends_with_the_next_store_or_with_its_time() {
    let (segment, other) = segments();
    let latest = Latest::<[u8; 9]>::create(&segment, "latest", [0; 9]).unwrap();
    let writer = Latest::<[u8; 9]>::open(&other, "latest").unwrap();
    for timeout in [Duration::ZERO, Duration::from_millis(3), Duration::from_millis(120)] {
        let start = Instant::now();
        assert_eq!(latest.wait_changed_timeout(0, timeout), Err(Timeout));
        assert!(start.elapsed() >= timeout);
    }
    assert_eq!(latest.wait_changed(1).version, 0, "it is another one already");
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| latest.wait_changed_timeout(0, LONG))).collect();
        thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        writer.store([1; 9]).unwrap();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Ok(Versioned { value: [1; 9], version: 1 }));
        }
        assert!(start.elapsed() < LONG / 2, "somebody slept on");
    });
}

#[test]
fn two_answer_each_other() {
    let (segment, other) = segments();
    let (ping, pong) = (
        Latest::<Sealed>::create(&segment, "ping", seal(0, 0)).unwrap(),
        Latest::<Sealed>::create(&segment, "pong", seal(1, 0)).unwrap(),
    );
    let answerer = thread::spawn(move || {
        let (ping, pong) = (Latest::<Sealed>::open(&other, "ping").unwrap(), Latest::open(&other, "pong").unwrap());
        for turn in 1..=300 {
            let news = ping.wait_changed_timeout(turn - 1, LONG).unwrap();
            assert_eq!((open(&news.value), news.version), (Ok((0, turn)), turn));
            pong.store(seal(1, turn)).unwrap();
        }
    });
    for turn in 1..=300 {
        ping.store(seal(0, turn)).unwrap();
        let news = pong.wait_changed_timeout(turn - 1, LONG).unwrap();
        assert_eq!((open(&news.value), news.version), (Ok((1, turn)), turn));
    }
    answerer.join().unwrap();
}

// --- several processes ---

/// Stores sealed values of its own until it is told to end.
fn write_on(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let (latest, over) = (Latest::<Sealed>::open(segment, "latest")?, Value::<bool>::open(segment, "over")?);
    let writer: u64 = context.parse(0)?;
    let (mut random, mut last) = (Random::seeded(writer), 0);
    support::say_ready(segment)?;
    for count in 1.. {
        let version = latest.store(seal(writer, count))?;
        if version <= last {
            return Err(failed(format!("version {version} after {last}")));
        }
        last = version;
        if over.load(Relaxed) {
            return Ok(());
        }
        random.spin();
    }
    unreachable!()
}

/// Looks on until it is told to end.
fn read_on(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let (latest, over) = (Latest::<Sealed>::open(segment, "latest")?, Value::<bool>::open(segment, "over")?);
    support::say_ready(segment)?;
    read_until(&latest, || over.load(Relaxed)).map_err(failed)?;
    Ok(())
}

/// Every value is whole, versions grow, and so does what each writer counts; returns the last version.
fn read_until(latest: &Latest<Sealed>, over: impl Fn() -> bool) -> Result<u64, String> {
    let (mut last, mut counts) = (latest.load_versioned(), [0; 16]);
    while !over() {
        let now = match last.version % 3 {
            0 => latest.load_versioned(),
            1 => latest.changed_since(last.version).unwrap_or(last),
            _ => latest.wait_changed_timeout(last.version, Duration::from_millis(1)).unwrap_or(last),
        };
        let (writer, count) = open(&now.value)?;
        if now.version < last.version || now.version == last.version && now != last {
            return Err(format!("{last:?} and then {now:?}"));
        }
        let before = &mut counts[writer as usize];
        if count < *before || count == *before && now.version != last.version {
            return Err(format!("{count} of writer {writer} after {before}"));
        }
        (*before, last) = (count, now);
    }
    Ok(last.version)
}

fn shared(segment: &Segment) -> (Latest<Sealed>, Value<bool>) {
    Value::<u32>::create(segment, "ready", 0).unwrap();
    let over = Value::<bool>::create(segment, "over", false).unwrap();
    (Latest::create(segment, "latest", seal(0, 0)).unwrap(), over)
}

#[test]
fn readers_see_whole_values_of_several_writers_in_order() {
    let segment = Segment::anonymous().unwrap();
    let (latest, over) = shared(&segment);
    let mut children: Vec<_> = ["1", "2", "3"].map(|writer| start("write_on", &segment, &[writer])).into();
    children.extend([(); 2].map(|()| start("read_on", &segment, &[])));
    support::until_ready(&segment, 5);
    let begin = Instant::now();
    let seen = read_until(&latest, || begin.elapsed() > Duration::from_millis(700)).unwrap();
    over.store(true, Relaxed);
    children.iter_mut().for_each(join_well);
    assert!(seen > 100, "only {seen} versions: they hardly met");
}

/// More writers die, one after the other, wherever they are, than there are buffers.
#[test]
fn killed_writers_keep_nothing() {
    let segment = Segment::anonymous().unwrap();
    let (latest, over) = shared(&segment);
    let mut random = Random::announced("killed_writers_keep_nothing");
    for writer in 1..=12 {
        let before = latest.version();
        let mut child = start("write_on", &segment, &[&writer.to_string()]);
        support::until_ready(&segment, writer);
        until("it has stored", || latest.version() > before);
        support::spin(random.below(20_000));
        assert!(kill_and_reap(&mut child));
        open(&latest.load()).unwrap();
        let version = latest.store(seal(0, u64::from(writer))).unwrap();
        assert_eq!(latest.load_versioned(), Versioned { value: seal(0, u64::from(writer)), version });
    }
    drop(over);
}

/// Stopped anywhere, a writer keeps at most one buffer, and nobody from anything.
#[test]
fn stopped_writers_keep_nobody() {
    let segment = Segment::anonymous().unwrap();
    let (latest, over) = shared(&segment);
    let mut children: Vec<_> = ["1", "2", "3"].map(|writer| start("write_on", &segment, &[writer])).into();
    support::until_ready(&segment, 3);
    for round in 0..40_u64 {
        assert!(children.iter().all(stop));
        let now = latest.try_load().expect("nobody writes");
        open(&now.value).unwrap();
        for n in 0..20 {
            let value = seal(0, 20 * round + n + 1);
            let version = latest.store_timeout(&value, Duration::ZERO).expect("there are buffers");
            assert_eq!(latest.try_load(), Some(Versioned { value, version }));
        }
        children.iter().for_each(resume);
        thread::sleep(Duration::from_millis(1));
    }
    over.store(true, Relaxed);
    children.iter_mut().for_each(join_well);
}

/// Large, so that there is time for others to store while it is copied.
type Counts = [u64; 2048];

fn count_up(context: &Context) -> Outcome {
    die_with_parent();
    let (segment, rounds) = (context.segment(0)?, context.parse::<u64>(0)?);
    let latest = Latest::<Counts>::open(segment, "counts")?;
    for _ in 0..rounds {
        latest.update(|counts| counts.iter_mut().for_each(|count| *count += 1))?;
    }
    Ok(())
}

#[test]
fn no_update_of_any_process_is_lost() {
    const ROUNDS: u64 = 500;
    let segment = Segment::anonymous().unwrap();
    let latest = Latest::<Counts>::create(&segment, "counts", [0; 2048]).unwrap();
    let mut children = [(); 2].map(|()| start("count_up", &segment, &[&ROUNDS.to_string()]));
    for _ in 0..ROUNDS {
        latest.update(|counts| counts.iter_mut().for_each(|count| *count += 1)).unwrap();
    }
    children.iter_mut().for_each(join_well);
    assert_eq!(latest.load_versioned(), Versioned { value: [3 * ROUNDS; 2048], version: 3 * ROUNDS });
}

/// More threads than buffers: they wait for each other, and all come to an end.
#[test]
fn more_writers_than_buffers_take_turns() {
    type Large = [u64; 600];
    let (segment, other) = segments();
    let latest = Latest::<Large>::create(&segment, "latest", [0; 600]).unwrap();
    thread::scope(|scope| {
        for n in 1..=12 {
            let latest = Latest::<Large>::open(if n % 2 == 0 { &segment } else { &other }, "latest").unwrap();
            scope.spawn(move || (0..300).for_each(|_| _ = latest.store([n; 600]).unwrap()));
        }
        while latest.version() < 12 * 300 {
            let value = latest.load();
            assert_eq!(value, [value[0]; 600]);
        }
    });
}

// --- what a peer may have written ---

/// The bytes of an object, past the library: `segment`'s first.
struct Raw(MmapRaw, std::ops::Range<usize>);

impl Raw {
    fn of(segment: &Segment) -> Self {
        let map = MmapOptions::new().len(segment.size()).map_raw(segment.as_fd().as_raw_fd()).unwrap();
        let word = |at: usize| {
            // SAFETY: inside the mapping.
            let place = unsafe { map.as_ptr().add(at) };
            // SAFETY: as above, aligned; nobody writes there.
            unsafe { place.cast::<u64>().read_volatile() as usize }
        };
        let entry = word(56);
        let (offset, bytes) = (word(entry + 16), word(entry + 24));
        Self(map, offset..offset + bytes)
    }

    fn put(&self, at: usize, word: u64) {
        assert!(at.is_multiple_of(8) && at + 8 <= self.1.len());
        // SAFETY: inside the mapping.
        let place = unsafe { self.0.as_mut_ptr().add(self.1.start + at) };
        // SAFETY: as above, and aligned; others use it as an atomic.
        unsafe { &*place.cast::<std::sync::atomic::AtomicU64>() }.store(word, Relaxed);
    }
}

#[test]
fn arbitrary_bytes_neither_panic_nor_hang() {
    let mut random = Random::announced("arbitrary_bytes_neither_panic_nor_hang");
    // Without a sentinel, which would be of no use to anybody here.
    let segment = Segment::options().sentinel(false).anonymous().unwrap();
    let latest = Latest::<[u32; 11]>::create(&segment, "latest", [1; 11]).unwrap();
    let raw = Raw::of(&segment);
    for round in 0..3000 {
        for _ in 0..=random.below(6) {
            // The head, mostly; events, words and cells.
            let limit = if random.one_in(4) { raw.1.len() / 8 } else { 16 };
            let word = match random.below(4) {
                0 => random.next(),
                1 => random.below(600),
                2 => random.next() & !0x1ff,
                _ => u64::MAX - random.below(600),
            };
            raw.put(8 * random.below(limit as u64) as usize, word);
        }
        let (seen, before) = (latest.try_load().expect("nobody writes"), latest.version());
        assert_eq!((seen.version, latest.load_versioned()), (before, seen));
        let _ = latest.wait_changed_timeout(before, Duration::ZERO);
        let _ = latest.wait_changed_timeout(before.wrapping_add(1), Duration::ZERO);
        match latest.store_timeout(&[round; 11], Duration::from_micros(random.below(2) * 50)) {
            Ok(version) => {
                assert_eq!(version, before.wrapping_add(1) & u64::MAX >> 4);
                assert_eq!(latest.load(), [round; 11]);
                // A change has no time limit: it waits for those who seem to have the buffers.
                (0..8).for_each(|buffer| raw.put(64 + 8 * buffer, random.next() & !0x1ff));
                assert_eq!(latest.update(|value| value[3] = 0).unwrap().value[2..4], [round, 0]);
            }
            Err(Error::NoBuffer { .. }) => {}
            Err(e) => panic!("{e}"),
        }
        segment.recover().unwrap();
        assert!(segment.snapshot().is_ok() && format!("{latest:?}").contains("version"));
    }
}

/// While bytes change all the time, a bounded look is bounded, and nothing outside is touched.
#[test]
fn bytes_that_change_all_the_time_are_survived() {
    let segment = Segment::options().sentinel(false).anonymous().unwrap();
    let latest = Latest::<[u8; 100]>::create(&segment, "latest", [1; 100]).unwrap();
    let beside = Latest::<[u8; 100]>::create(&segment, "beside", [2; 100]).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (raw, done) = (Raw::of(&segment), &done);
        scope.spawn(move || {
            let mut random = Random::seeded(5);
            while !done.load(Relaxed) {
                raw.put(8 * random.below(16) as usize, random.next());
            }
        });
        for n in 0..20_000 {
            let _ = (latest.try_load(), latest.version());
            let _ = latest.store_timeout(&[n as u8; 100], Duration::ZERO);
        }
        done.store(true, Relaxed);
    });
    assert_eq!(beside.load_versioned(), Versioned { value: [2; 100], version: 0 });
}

#[test]
fn a_store_without_a_free_buffer_ends_with_its_time_and_a_change_goes_on_when_there_is_one() {
    let segment = Segment::options().sentinel(false).anonymous().unwrap();
    let latest = Latest::<u64>::create(&segment, "latest", 1).unwrap();
    let raw = Raw::of(&segment);
    // Ours, which no repair takes.
    let own = u64::from(segment.peers()[0].id);
    (1..8).for_each(|buffer| raw.put(64 + 8 * buffer, own));
    for timeout in [Duration::ZERO, Duration::from_millis(30)] {
        let start = Instant::now();
        let error = latest.store_timeout(&2, timeout).unwrap_err();
        assert!(matches!(error, Error::NoBuffer { waited } if waited == timeout) && start.elapsed() >= timeout);
        assert!(error.to_string().contains("stopped"), "{error}");
    }
    assert_eq!(latest.load_versioned(), Versioned { value: 1, version: 0 }, "readers do not care");
    thread::scope(|scope| {
        let store = scope.spawn(|| latest.store(3));
        thread::sleep(Duration::from_millis(20));
        raw.put(64 + 8 * 5, 0);
        // Whoever lets a buffer go says so, or dies; here nobody did, and sleepers look now and then.
        assert_eq!(store.join().unwrap().unwrap(), 1);
    });
    assert_eq!(latest.load(), 3);
}

// --- against a model ---

#[derive(Clone, Debug)]
enum Step {
    Store(u8),
    Update(u8),
    Load,
    Since(u64),
    Wait(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u8>().prop_map(Step::Store),
        any::<u8>().prop_map(Step::Update),
        Just(Step::Load),
        (0..3_u64).prop_map(Step::Since),
        (0..3_u64).prop_map(Step::Wait),
        Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_is_a_list_of_which_only_the_last_is_kept(steps in prop::collection::vec((any::<bool>(), step()), 1..60)) {
        type Model = [u8; 13];
        let (segment, other) = segments();
        let mut model: Vec<Model> = vec![[0; 13]];
        let mut handles = [
            Latest::<Model>::create(&segment, "latest", [0; 13]).unwrap(),
            Latest::<Model>::open(&other, "latest").unwrap(),
        ];
        for (through, step) in steps {
            let handle = &mut handles[usize::from(through)];
            let now = model.len() as u64 - 1;
            let last = Versioned { value: model[model.len() - 1], version: now };
            match step {
                Step::Store(n) => {
                    model.push([n; 13]);
                    prop_assert_eq!(handle.store([n; 13]).unwrap(), now + 1);
                }
                Step::Update(n) => {
                    let mut value = last.value;
                    value[usize::from(n) % 13] = n;
                    model.push(value);
                    let stored = handle.update(|value| value[usize::from(n) % 13] = n).unwrap();
                    prop_assert_eq!(stored, Versioned { value, version: now + 1 });
                }
                Step::Load => prop_assert_eq!((handle.load_versioned(), handle.try_load()), (last, Some(last))),
                Step::Since(ago) => {
                    let since = now.saturating_sub(ago);
                    prop_assert_eq!(handle.changed_since(since), (since != now).then_some(last));
                }
                Step::Wait(ago) => {
                    let since = now.saturating_sub(ago);
                    let expected = if since == now { Err(Timeout) } else { Ok(last) };
                    prop_assert_eq!(handle.wait_changed_timeout(since, Duration::ZERO), expected);
                }
                Step::Reopen => {
                    *handle = Latest::open(if through { &other } else { &segment }, "latest").unwrap();
                }
            }
        }
    }
}
