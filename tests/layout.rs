//! The bytes of a segment, written down: an ABI between all builds of this layout version. A change here is a change of
//! `layout::VERSION` and an entry in CHANGELOG.md.
//!
//! Everything not listed is zero. Numbers are little-endian; another byte order is another target and refused.
#![cfg(all(target_endian = "little", target_pointer_width = "64"))]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use gimmal::bytemuck::{Pod, Zeroable};
use gimmal::{
    Array, Departure, Latest, Lock, LossyQueue, Pipe, Queue, QueueOptions, Segment, SegmentOptions, SpscQueue,
    TryRecvError, Value,
};

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Order {
    number: u64,
    amount: f32,
    kind: [u8; 4],
}

const ORDER: Order = Order { number: 0x0102_0304_0506_0708, amount: 1.5, kind: *b"kind" };

/// A directory of this test's own, gone however the test ends.
struct Home(PathBuf);

impl Home {
    fn new(case: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/t-layout-{}-{case}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The smallest that holds what is below.
    fn options(&self) -> SegmentOptions {
        Segment::options()
            .directory(&self.0)
            .size(SIZE)
            .max_participants(3)
            .max_objects(9)
            .full_fences(true)
            .sentinel(false)
    }

    fn file(&self) -> PathBuf {
        self.0.join("gimmal.golden")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

// --- the map of the segment ---

const SIZE: usize = 12 << 10;
/// 512 bytes of header, then 4 pairs of life words of 16 bytes: one for each participant id, and one for nobody.
const LIFE_WORDS: usize = 512;
/// Behind them, at a multiple of 128: 3 entries of 32 bytes.
const PARTICIPANTS: usize = 640;
/// Behind them: 9 entries of 192 bytes.
const DIRECTORY: usize = 736;
/// Behind them, at a multiple of 128.
const HEAP: usize = 2560;

/// A ring's header takes 768 bytes; each object begins at a multiple of 128.
const JOBS: usize = HEAP;
const SAMPLES: usize = JOBS + 896;
const PIPE: usize = SAMPLES + 896;
const SHARED: usize = PIPE + 2 * 896;
const VALUE: usize = SHARED + 2 * 896;
const ARRAY: usize = VALUE + 128;
const LOCK: usize = ARRAY + 256;
const ONE_WAY: usize = LOCK + 128;
const LATEST: usize = ONE_WAY + 896;
/// A head of 128 bytes, and 8 buffers, each of a multiple of 128.
const END: usize = LATEST + 128 + 8 * 128;

/// In a ring's header, each on a line of its own.
const CLOSED: usize = 0;
const ARRIVALS: usize = 4;
const NEWS_OF_SENDERS: usize = 24;
const NEWS_OF_RECEIVERS: usize = 28;
const TAIL: usize = 128;
const HEAD: usize = 256;
const SENDERS: usize = 640;
const RECEIVERS: usize = 704;
const SLOTS: usize = 768;

/// Bits 9 to 11 of an MPMC slot's word; above is the position, with the length of the slot's run in place of its index, below
/// the owner.
const FREE: u64 = 0;
const FULL: u64 = 2 << 9;
/// The next lap of a ring of 4 slots.
const LAP: u64 = 4 << 12;
/// Further slots of a run.
const RUN: u64 = 1 << 12;

/// Bits 12 to 15 of a seat's or a lock's word; the process id is above bit 32, the owner below.
const HELD: u64 = 1 << 12;
const SEAT_CLOSED: u64 = 2 << 12;

/// Above bit 9, how often a buffer was claimed; below, who has it.
const CLAIMED: u64 = 1 << 9;

struct Golden(Vec<u8>);

impl Golden {
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        assert!(self.0[at..at + bytes.len()].iter().all(|&b| b == 0), "{at} is listed twice");
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn u32(&mut self, at: usize, n: u32) {
        self.bytes(at, &n.to_le_bytes());
    }

    fn u64(&mut self, at: usize, n: u64) {
        self.bytes(at, &n.to_le_bytes());
    }

    /// Length and bytes.
    fn text(&mut self, at: usize, text: &str) {
        self.bytes(at, &[text.len() as u8]);
        self.bytes(at + 1, text.as_bytes());
    }

    /// A directory entry: kind, flags, where, how large, how many, element size and alignment, of the way back too.
    #[allow(clippy::too_many_arguments)]
    fn entry(
        &mut self,
        index: usize,
        name: &str,
        [kind, flags]: [u32; 2],
        [offset, end]: [usize; 2],
        capacity: u64,
        element: &str,
        [size, align, size_2, align_2]: [u32; 4],
    ) {
        let at = DIRECTORY + index * 192;
        self.u32(at, 1); // published
        self.u32(at + 8, kind);
        self.u32(at + 12, flags);
        self.u64(at + 16, offset as u64);
        self.u64(at + 24, (end - offset) as u64);
        self.u64(at + 32, capacity);
        self.u32(at + 40, size);
        self.u32(at + 44, align);
        self.u32(at + 48, size_2);
        self.u32(at + 52, align_2);
        self.text(at + 56, name);
        self.text(at + 120, element);
    }
}

/// What changes from run to run: when it was made, when the participant joined, and in which PID namespace.
const VOLATILE: [std::ops::Range<usize>; 3] =
    [72..80, PARTICIPANTS + 8..PARTICIPANTS + 16, PARTICIPANTS + 16..PARTICIPANTS + 24];

/// The segment that `fill` makes, as participant 1 of process `pid`.
fn golden(flags: u32, pid: u32) -> Vec<u8> {
    let mut g = Golden(vec![0; SIZE]);
    let by_us = u64::from(pid) << 32;

    // --- header ---
    g.bytes(0, b"gimmal\x1a\n");
    g.u32(8, 5); // version of the layout
    g.u32(12, 64 | 0x200 | 128 << 16); // bits of a pointer, little-endian, bytes of a line
    g.u64(16, SIZE as u64);
    g.u32(24, flags); // 1: persistent, 2: unnamed
    g.u32(28, 0); // full fences
    g.u32(32, 3); // participants
    g.u32(36, 9); // objects
    g.u64(40, LIFE_WORDS as u64);
    g.u64(48, PARTICIPANTS as u64);
    g.u64(56, DIRECTORY as u64);
    g.u64(64, HEAP as u64);
    g.u32(128, 1); // one has joined so far
    g.u32(256, 10); // the admission lock was given back by the one who joined, and by the creator of each object

    // --- participant 1 ---
    g.u64(PARTICIPANTS, 1); // joined
    g.u32(PARTICIPANTS + 24, pid);

    // --- directory ---
    // Flags, 1: ends that are left alone are told; of the queue `jobs`, they keep waiting.
    g.entry(0, "jobs", [1, 0], [JOBS, SAMPLES], 4, "u32", [4, 4, 0, 0]);
    g.entry(1, "samples", [2, 1], [SAMPLES, PIPE], 2, "u16", [2, 2, 0, 0]);
    g.entry(2, "pipe", [3, 1], [PIPE, SHARED], 2, "u8 -> i64", [1, 1, 8, 8]);
    g.entry(3, "shared", [4, 1], [SHARED, VALUE], 1, "Order -> f32", [16, 8, 4, 4]);
    g.entry(4, "value", [5, 0], [VALUE, ARRAY], 1, "f64", [8, 8, 0, 0]);
    g.entry(5, "array", [6, 0], [ARRAY, LOCK], 3, "i32", [4, 4, 0, 0]);
    g.entry(6, "lock", [7, 0], [LOCK, ONE_WAY], 1, "[u8; 5]", [5, 1, 0, 0]);
    g.entry(7, "one-way", [3, 3], [ONE_WAY, LATEST], 1, "u64", [8, 8, 0, 0]);
    g.entry(8, "latest", [8, 0], [LATEST, END], 1, "[u8; 11]", [11, 1, 0, 0]);

    // --- jobs: three sent as one run, the first received; slots of 16 bytes; the hints move on every 32 positions ---
    g.u32(JOBS + ARRIVALS, 2);
    g.u64(JOBS + SENDERS, 0b11); // somebody was here, participant 1 is
    g.u64(JOBS + RECEIVERS, 0b11);
    g.u64(JOBS + SLOTS, LAP | FREE);
    g.u32(JOBS + SLOTS + 8, 11); // nobody wipes what was received
    g.u64(JOBS + SLOTS + 16, RUN | FULL);
    g.u32(JOBS + SLOTS + 24, 12);
    g.u64(JOBS + SLOTS + 32, FULL);
    g.u32(JOBS + SLOTS + 40, 13);

    // --- samples: one sent, then closed; the sender sits, the receiver never did ---
    g.u32(SAMPLES + CLOSED, 2);
    g.u32(SAMPLES + NEWS_OF_SENDERS, 1);
    g.u64(SAMPLES + TAIL, 1);
    g.u64(SAMPLES + SENDERS, by_us | HELD | 1);
    g.bytes(SAMPLES + SLOTS, &[0x34, 0x12]);

    // --- pipe: there a 7, back a -2; the first end was dropped, the second released ---
    g.u64(PIPE + TAIL, 1);
    g.u64(PIPE + SENDERS, by_us | SEAT_CLOSED);
    g.u64(PIPE + RECEIVERS, by_us); // vacant
    g.bytes(PIPE + SLOTS, &[7]);
    let back = PIPE + 896;
    g.u64(back + TAIL, 1);
    g.u64(back + SENDERS, by_us);
    g.u64(back + RECEIVERS, by_us | SEAT_CLOSED);
    g.u64(back + SLOTS, -2_i64 as u64);

    // --- shared: one order there; nobody is left at the second end ---
    g.u32(SHARED + ARRIVALS, 2);
    g.u32(SHARED + NEWS_OF_RECEIVERS, 1);
    g.u64(SHARED + SENDERS, 0b11);
    g.u64(SHARED + RECEIVERS, 0b01);
    g.u64(SHARED + SLOTS, FULL);
    g.bytes(SHARED + SLOTS + 8, &[8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0xc0, 0x3f, b'k', b'i', b'n', b'd']);
    let back = SHARED + 896;
    g.u32(back + ARRIVALS, 2);
    g.u32(back + NEWS_OF_SENDERS, 1);
    g.u64(back + SENDERS, 0b01);
    g.u64(back + RECEIVERS, 0b11);

    // --- value and array: their events come first, and nobody ever slept ---
    g.bytes(VALUE + 64, &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f]);
    g.u32(ARRAY + 128, 1);
    g.u32(ARRAY + 132, -1_i32 as u32);
    g.u32(ARRAY + 136, i32::MAX as u32);

    // --- lock: held ---
    g.u64(LOCK, by_us | HELD | 1);
    g.bytes(LOCK + 64, &[1, 2, 3, 4, 5]);

    // --- one-way: both ends taken and released, nothing sent ---
    g.u64(ONE_WAY + SENDERS, by_us);
    g.u64(ONE_WAY + RECEIVERS, by_us);

    // --- latest: version 2, in buffer 2; nobody ever slept; two buffers were claimed once, by nobody now ---
    g.u64(LATEST, 2 << 4 | 2);
    g.u64(LATEST + 64 + 8, CLAIMED);
    g.u64(LATEST + 64 + 16, CLAIMED);
    g.bytes(LATEST + 128, b"first value");
    g.bytes(LATEST + 128 + 128, b"the other 1");
    g.bytes(LATEST + 128 + 256, b"and a third");
    g.0
}

/// Makes the objects; what it returns keeps them in the state that is written down.
fn fill(segment: &Segment) -> impl Sized + use<> {
    let jobs = QueueOptions::new().capacity(3).keep_waiting(true).create::<u32>(segment, "jobs").unwrap();
    let (sender, receiver) = (jobs.sender().unwrap(), jobs.receiver().unwrap());
    sender.send_slice(&[11, 12, 13]).unwrap();
    assert_eq!(receiver.recv(), Ok(11));

    let mut samples = SpscQueue::<u16>::create(segment, "samples", 2).unwrap().sender().unwrap();
    samples.send(0x1234).unwrap();
    samples.close();

    let (mut first, mut second) = Pipe::pair::<u8, i64>(segment, "pipe", 2).unwrap();
    first.send(7).unwrap();
    second.send(-2).unwrap();
    drop(first);
    second.release();

    let (here, there) = Pipe::shared::<Order, f32>(segment, "shared", 1).unwrap();
    here.send(ORDER).unwrap();
    drop(there);

    Value::<f64>::create(segment, "value", 1.5).unwrap();
    Array::<i32>::create(segment, "array", 3).unwrap().write(0, &[1, -1, i32::MAX]).unwrap();
    let lock = Lock::<[u8; 5]>::create(segment, "lock", [1, 2, 3, 4, 5]).unwrap().lock().unwrap();

    let (sender_2, receiver_2) = Pipe::simplex::<u64>(segment, "one-way", 1).unwrap();
    sender_2.release();
    receiver_2.release();

    let latest = Latest::<[u8; 11]>::create(segment, "latest", *b"first value").unwrap();
    latest.store(*b"the other 1").unwrap();
    latest.store(*b"and a third").unwrap();
    (sender, receiver, samples, here, lock)
}

fn assert_same(mut found: Vec<u8>, mut expected: Vec<u8>) {
    assert_eq!(found.len(), expected.len());
    for volatile in VOLATILE {
        found[volatile.clone()].fill(0);
        expected[volatile].fill(0);
    }
    let words = found.chunks(8).zip(expected.chunks(8)).enumerate();
    let wrong: Vec<String> = words
        .filter(|(_, (found, expected))| found != expected)
        .map(|(i, (found, expected))| format!("{:5}: {found:02x?} instead of {expected:02x?}", 8 * i))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_segment_has_the_bytes_that_are_written_down() {
    let home = Home::new("named");
    let segment = home.options().create("golden").unwrap();
    let _kept = fill(&segment);
    let file = fs::read(home.file()).unwrap();
    assert!(VOLATILE.iter().all(|volatile| file[volatile.clone()].iter().any(|&b| b != 0)), "what changes is there");
    assert_same(file, golden(0, std::process::id()));
}

#[test]
fn a_persistent_segment_differs_by_one_bit_and_so_does_an_unnamed_one() {
    let home = Home::new("flags");
    let segment = home.options().persist(true).create("golden").unwrap();
    let _kept = fill(&segment);
    assert_same(fs::read(home.file()).unwrap(), golden(1, std::process::id()));

    use std::os::fd::{AsFd, AsRawFd};
    let segment = home.options().anonymous().unwrap();
    let _kept = fill(&segment);
    let file = fs::read(format!("/proc/self/fd/{}", segment.as_fd().as_raw_fd())).unwrap();
    assert_same(file, golden(2, std::process::id()));
}

#[test]
fn a_segment_that_relies_on_membarrier_says_so_and_nothing_else_differs() {
    if !gimmal::capabilities().membarrier {
        return;
    }
    let home = Home::new("fences");
    let segment = home.options().full_fences(false).create("golden").unwrap();
    let _kept = fill(&segment);
    let mut expected = golden(0, std::process::id());
    expected[28] = 1;
    assert_same(fs::read(home.file()).unwrap(), expected);
}

/// The bytes are all there is to a segment: written by hand, they are one.
#[test]
fn what_is_written_down_is_a_segment_with_everything_in_it() {
    let home = Home::new("by-hand");
    // The process that made it is gone, and with it the lease of participant 1.
    const GONE: u32 = 0x7fff_fff0;
    fs::write(home.file(), golden(1, GONE)).unwrap();
    let snapshot = home.options().inspect("golden").unwrap();
    assert_eq!((snapshot.participants.len(), snapshot.participants[0].pid), (1, GONE));
    assert!(!snapshot.participants[0].alive);

    let segment = home.options().open("golden").unwrap();
    assert_eq!((segment.size(), segment.free()), (SIZE, SIZE - END));
    let jobs = Queue::<u32>::open(&segment, "jobs").unwrap();
    let (sender, receiver) = (jobs.sender().unwrap(), jobs.receiver().unwrap());
    sender.send(14).unwrap();
    assert!(receiver.try_iter().eq([12, 13, 14]));

    let mut samples = SpscQueue::<u16>::open(&segment, "samples").unwrap().receiver().unwrap();
    assert_eq!((samples.try_recv(), samples.try_recv()), (Ok(0x1234), Err(TryRecvError::Closed)));

    let mut second = Pipe::connect::<i64, u8>(&segment, "pipe").unwrap();
    assert_eq!(
        (second.try_recv(), second.try_recv()),
        (Ok(7), Err(TryRecvError::Disconnected { peer: Departure::Closed }))
    );
    let mut first = Pipe::create::<u8, i64>(&segment, "pipe", 2).unwrap();
    assert_eq!(first.try_recv(), Ok(-2));

    let there = Pipe::shared_second::<f32, Order>(&segment, "shared", 1).unwrap();
    assert_eq!(
        (there.try_recv(), there.try_recv()),
        (Ok(ORDER), Err(TryRecvError::Disconnected { peer: Departure::Died { pid: GONE } }))
    );

    assert_eq!(Value::<f64>::open(&segment, "value").unwrap().load(Relaxed), 1.5);
    assert_eq!(Array::<i32>::open(&segment, "array").unwrap().to_vec(), [1, -1, i32::MAX]);
    let news = Lock::<[u8; 5]>::open(&segment, "lock").unwrap().lock().unwrap_err();
    assert!(news.to_string().contains(&GONE.to_string()), "{news}");
    assert_eq!(*news.into_guard().unwrap(), [1, 2, 3, 4, 5]);
    assert!(Pipe::simplex_sender::<u64>(&segment, "one-way", 1).is_ok());
    let latest = Latest::<[u8; 11]>::open(&segment, "latest").unwrap();
    assert_eq!((latest.load(), latest.version()), (*b"and a third", 2));
}

/// What no living process leaves behind for long.
#[test]
fn the_states_of_the_dead_are_read_as_they_are_written_down() {
    const GONE: u32 = 0x7fff_fff0;
    const WRITING: u64 = 1 << 9;
    const READING: u64 = 3 << 9;
    const ORPHAN: u64 = 4 << 9;
    const SEAT_DIED: u64 = 3 << 12;
    const LOCK_DIED: u64 = 2 << 12;
    const REPAIRS: usize = 8;
    let home = Home::new("dead");
    let mut bytes = golden(1, GONE);
    let mut set = |at: usize, n: u64| bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
    // Participant 1 died in the middle of a receive and of a send; of one who died before it a message is due again.
    set(JOBS + SLOTS + 16, READING | 1);
    set(JOBS + SLOTS + 32, ORPHAN);
    set(JOBS + SLOTS + 48, WRITING | 1);
    set(JOBS + REPAIRS, 1);
    set(JOBS + HEAD, 2);
    set(SHARED + SLOTS, READING | 1);
    set(SAMPLES, 0); // not closed
    set(PIPE + SENDERS, u64::from(GONE) << 32 | SEAT_DIED);
    set(LOCK, u64::from(GONE) << 32 | LOCK_DIED);
    // One store was published and its buffer not released, another was in the middle.
    set(LATEST + 64 + 16, CLAIMED | 1);
    set(LATEST + 64 + 24, CLAIMED | 1);
    fs::write(home.file(), bytes).unwrap();

    let segment = home.options().open("golden").unwrap();
    assert_eq!(segment.snapshot().unwrap().participants.len(), 1);
    let file = fs::read(home.file()).unwrap();
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    assert_eq!(
        [word(JOBS + SLOTS + 16), word(JOBS + SLOTS + 32), word(JOBS + SLOTS + 48), word(SHARED + SLOTS)],
        [ORPHAN, ORPHAN, LAP | FREE, ORPHAN]
    );
    assert_eq!([word(LATEST), word(LATEST + 64 + 16), word(LATEST + 64 + 24)], [2 << 4 | 2, CLAIMED, CLAIMED]);
    // Participant 1 is now we, who have none of these.
    assert_eq!([word(JOBS + SENDERS), word(JOBS + RECEIVERS), word(SHARED + SENDERS)], [1, 1, 1]);
    assert_eq!(word(SAMPLES + SENDERS), u64::from(GONE) << 32 | SEAT_DIED);

    let jobs = Queue::<u32>::open(&segment, "jobs").unwrap();
    assert_eq!(jobs.len(), 2);
    let receiver = jobs.receiver().unwrap();
    assert!(receiver.try_iter().eq([12, 13]));
    let mut samples = SpscQueue::<u16>::open(&segment, "samples").unwrap().receiver().unwrap();
    assert_eq!(
        (samples.try_recv(), samples.try_recv()),
        (Ok(0x1234), Err(TryRecvError::Disconnected { peer: Departure::Died { pid: GONE } }))
    );
    let mut second = Pipe::connect::<i64, u8>(&segment, "pipe").unwrap();
    assert_eq!(
        (second.try_recv(), second.try_recv()),
        (Ok(7), Err(TryRecvError::Disconnected { peer: Departure::Died { pid: GONE } }))
    );
    let there = Pipe::shared_second::<f32, Order>(&segment, "shared", 1).unwrap();
    assert_eq!(
        (there.try_recv(), there.try_recv()),
        (Ok(ORDER), Err(TryRecvError::Disconnected { peer: Departure::Died { pid: GONE } }))
    );
    let news = Lock::<[u8; 5]>::open(&segment, "lock").unwrap().try_lock().unwrap_err();
    assert!(news.is_owner_died() && news.to_string().contains(&GONE.to_string()), "{news}");
}

// --- rings whose messages are bytes, or whose slots lie behind the segment, or whose sender never waits ---

const MEDIUM: usize = 128 << 10;
/// Pages of what is mapped by itself.
const UNIT: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };

/// What stands at a place, in the file as it is.
fn assert_at(file: &[u8], at: usize, expected: &[u8], what: &str) {
    assert_eq!(file[at..at + expected.len()], *expected, "{what}, at {at}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn rings_of_bytes_and_of_other_sorts_have_the_bytes_that_are_written_down() {
    let home = Home::new("bytes");
    let segment = home.options().size(MEDIUM).create("golden").unwrap();
    let lines = Queue::<[u8]>::create(&segment, "lines", UNIT).unwrap();
    let (mut sender, mut receiver) = Pipe::simplex::<[u8]>(&segment, "stream", UNIT).unwrap();
    let events = QueueOptions::new().unbounded(1).create::<u32>(&segment, "events").unwrap();
    let samples = LossyQueue::<[u8; 5]>::create(&segment, "samples", 2).unwrap();

    lines.sender().unwrap().send(b"golden").unwrap();
    lines.sender().unwrap().send(&[7; 100]).unwrap(); // two blocks
    sender.send(b"hello").unwrap();
    let early = fs::read(home.file()).unwrap();
    std::thread::scope(|scope| {
        assert_eq!(*receiver.recv().unwrap(), *b"hello");
        scope.spawn(|| sender.send(&[8; 5000]).unwrap());
        assert_eq!(receiver.recv_vec().unwrap(), [8; 5000]);
    });
    events.sender().unwrap().send(9).unwrap();
    let mut newest = samples.sender().unwrap();
    (1..4).for_each(|n| newest.send([n; 5]).unwrap());
    let file = fs::read(home.file()).unwrap();

    // A header, slots of 16 bytes, and blocks of 64 behind the next border of a page.
    let (lines, lines_end) = (HEAP, HEAP + 768 + 64 * 16 + 2 * UNIT);
    let stream_end = lines_end + 768 + 2 * UNIT;
    // A header, a hint, 512 counts of lookers on lines of their own, and 4 chunk words.
    let events_end = stream_end + (768 + 128 + 512 * 64 + 4 * 8_usize).next_multiple_of(128);
    let mut g = Golden(vec![0; MEDIUM]);
    g.entry(0, "lines", [1, 1 | 4], [lines, lines_end], 64, "[u8]", [64, 1, 0, 0]);
    g.entry(1, "stream", [3, 1 | 2 | 4], [lines_end, stream_end], UNIT as u64, "[u8]", [1, 1, 0, 0]);
    // Two chunks of 2^16 slots may have memory, of 4; they lie behind the segment.
    g.entry(2, "events", [1, 1 | 16], [stream_end, events_end], 1 << 18, "u32", [4, 4, 2, 16]);
    g.u64(DIRECTORY + 2 * 192 + 184, MEDIUM as u64);
    g.entry(3, "samples", [9, 1], [events_end, events_end + 896], 2, "[u8; 5]", [5, 1, 0, 0]);
    assert_at(&file, DIRECTORY, &g.0[DIRECTORY..DIRECTORY + 4 * 192], "the directory");

    // The number beside a word: the length, and above bit 41 the lap, counted from 1.
    let slots: Vec<u8> = [FULL, 1 << 41 | 6, RUN | FULL, 1 << 41 | 100].map(u64::to_le_bytes).concat();
    assert_at(&file, lines + SLOTS, &slots, "slots of lines");
    let blocks = (lines + SLOTS + 64 * 16).next_multiple_of(UNIT);
    assert_at(&file, blocks, b"golden", "the first block");
    assert_at(&file, blocks + 64, &[7; 100], "the next two");

    // Records: a length and the bytes, rounded up to 8.
    let records = (lines_end + SLOTS).next_multiple_of(UNIT);
    assert_at(&early, records, b"\x05\0\0\0\0\0\0\0hello\0\0\0", "the first record");
    assert_at(&early, lines_end + TAIL, &16_u64.to_le_bytes(), "where the next one begins");
    // A message in parts that began there was accepted.
    assert_at(&file, lines_end + SENDERS + 8, &((16_u64 + 8) | 1).to_le_bytes(), "what became of it");
    let tail = u64::from_le_bytes(file[lines_end + TAIL..][..8].try_into().unwrap());
    assert_at(&file, lines_end + HEAD, &tail.to_le_bytes(), "all was received");

    // One slot in the first chunk, which is open.
    let words = stream_end + 768 + 128 + 512 * 64;
    assert_at(&file, words, &[1_u64 << 9, 0, 0, 0].map(u64::to_le_bytes).concat(), "chunk words");
    assert_at(&file, MEDIUM, &[FULL, 9].map(u64::to_le_bytes).concat(), "the first event");
    assert_eq!(file.len(), MEDIUM + (16 << 18));

    // Slots of whole words; the third message took the place of the first.
    assert_at(&file, events_end + TAIL, &3_u64.to_le_bytes(), "three were sent");
    assert_at(&file, events_end + HEAD, &1_u64.to_le_bytes(), "one was lost");
    assert_at(&file, events_end + SLOTS, &[3, 3, 3, 3, 3, 0, 0, 0, 2, 2, 2, 2, 2, 0, 0, 0], "slots of samples");
}
