//! Calls of the library while another thread rewrites the words that they share: whatever a peer writes, and whenever, each call
//! comes to an end, takes no more memory than it may, and panics at nothing.
//!
//! The rewriting thread has a mapping of its own, as another process would. `tests/hostile.rs` runs this from fixed seeds, and the
//! fuzz targets `storm_*` from what the fuzzer finds. Both say what the calls and the edits are by plain bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, Once, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use gimmal::{Array, Latest, Lock, LossyQueue, Queue, QueueOptions, Segment, SpscQueue, Tap, Value};
use memmap2::{MmapOptions, MmapRaw};

/// How long one call may take, on a machine that has other things to do.
const MOST_TIME: Duration = Duration::from_secs(10);
/// Bytes that one call may take of the file system: an unbounded queue may open some chunks.
const MOST_GROWTH: u64 = 160 << 20;
/// Bytes that one call may take from the allocator, beside twice what the segment has. A tap copies in vain, too.
const MOST_ALLOCATED: u64 = 96 << 20;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Queue,
    Bytes,
    Unbounded,
    UnboundedBytes,
    Spsc,
    SpscBytes,
    Lossy,
    Values,
    Segment,
}

// --- the limits ---

/// The system's allocator, which ends the process when one call takes more than it may.
pub struct Limited;

thread_local! {
    /// What the call that this thread is in may still take.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size.saturating_sub(layout.size()));
        // SAFETY: the caller's contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

fn take(bytes: usize) {
    let _ = LEFT.try_with(|left| match left.get() {
        u64::MAX => {}
        now => match now.checked_sub(bytes as u64) {
            Some(less) => left.set(less),
            None => {
                left.set(u64::MAX);
                give_up(ours(), "takes too much memory");
            }
        },
    });
}

/// A call that is under way: whose, which, and since when.
type Call = (ThreadId, &'static str, Instant);

static CALLS: Mutex<Vec<Call>> = Mutex::new(Vec::new());

fn with_calls<R>(act: impl FnOnce(&mut Vec<Call>) -> R) -> R {
    act(&mut CALLS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn give_up(call: Option<Call>, why: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "storm: {} {why}", call.map_or("a call", |(_, name, _)| name));
    std::process::abort();
}

/// The call that this thread is in.
fn ours() -> Option<Call> {
    let us = std::thread::current().id();
    with_calls(|calls| calls.iter().find(|(thread, ..)| *thread == us).copied())
}

/// Watches the time of every call from a thread of its own.
fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_millis(100));
                let late = |(_, _, since): &&Call| since.elapsed() > MOST_TIME;
                if let Some(call) = with_calls(|calls| calls.iter().find(late).copied()) {
                    give_up(Some(call), "does not come back");
                }
            }
        });
    });
}

/// Bytes of memory that the segment has.
pub fn memory(segment: &Segment) -> u64 {
    nix::sys::stat::fstat(segment.as_fd()).expect("fstat").st_blocks as u64 * 512
}

/// Makes a call that has a name within its limits.
pub fn call<R>(segment: &Segment, name: &'static str, call: impl FnOnce() -> R) -> R {
    watch();
    let (before, us) = (memory(segment), std::thread::current().id());
    with_calls(|calls| calls.push((us, name, Instant::now())));
    LEFT.set(2 * before + MOST_ALLOCATED);
    let result = call();
    LEFT.set(u64::MAX);
    if memory(segment).saturating_sub(before) > MOST_GROWTH {
        give_up(ours(), "has made the segment grow too much");
    }
    with_calls(|calls| calls.retain(|(thread, ..)| *thread != us));
    result
}

// --- the peer ---

/// The shared words, through a mapping of their own.
struct Words {
    map: MmapRaw,
    /// Where the object's words begin and end.
    object: (usize, usize),
    /// Where an unbounded queue's slots begin; the end of the mapping if there are none.
    behind: usize,
}

impl Words {
    fn of(segment: &Segment, kind: Kind) -> Self {
        let size = nix::sys::stat::fstat(segment.as_fd()).expect("fstat").st_size as usize;
        let len = size.min(segment.size() + (64 << 10));
        let map = MmapOptions::new().len(len).map_raw(segment.as_fd().as_raw_fd()).expect("a second mapping");
        let mut words = Self { map, object: (0, 0), behind: segment.size() / 8 };
        let word = |at: usize| words.at(at / 8).load(Relaxed) as usize;
        // Of the first object in the directory: where it lies, and how many bytes it has.
        let (entry, all) = (word(56), segment.size() / 8);
        words.object = match kind {
            // Behind the part of the header that is read when a segment is opened.
            Kind::Segment => (128 / 8, all),
            _ => (word(entry + 16) / 8, (word(entry + 16) + word(entry + 24)) / 8),
        };
        words
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.map.len() / 8);
        // SAFETY: inside the mapping, as just checked; it is aligned to more.
        let word = unsafe { self.map.as_mut_ptr().cast::<AtomicU64>().add(index) };
        // SAFETY: as above; an atomic may be written by anybody.
        unsafe { &*word }
    }

    /// The index of a word: of a ring's header, of the whole object, of its end, or of the slots behind the segment.
    fn place(&self, place: u16) -> usize {
        let ((first, end), at) = (self.object, usize::from(place >> 3));
        match place & 7 {
            0..3 => first + at % 96.min(end - first),
            3..5 => first + at % (end - first),
            7 if self.behind < self.map.len() / 8 => self.behind + at % (self.map.len() / 8 - self.behind),
            _ => end - 1 - at % 256.min(end - first),
        }
    }
}

/// One change of the words.
#[derive(Clone, Copy, Debug)]
struct Edit {
    place: u16,
    /// How many words in a row.
    count: u16,
    how: u8,
    number: u64,
}

impl Edit {
    fn of(bytes: &mut Bytes<'_>) -> Self {
        let (place, how) = (bytes.u16(), bytes.u8());
        let count = if how & 0xc0 == 0xc0 { bytes.u16() % 4096 } else { 1 };
        let number = match bytes.u8() % 8 {
            0 | 1 => bytes.u8().into(),
            2 => u64::from(bytes.u8()).wrapping_neg(),
            3 => 1_u64.rotate_left(bytes.u8().into()),
            // The header of a part of a message.
            4 => u64::from(bytes.u8() & 3) << 62 | u64::from(bytes.u16()),
            // The word of a slot: run and lap, state, owner.
            5 => u64::from(bytes.u16()) << 12 | u64::from(bytes.u8() & 7) << 9 | u64::from(bytes.u8() & 3),
            // The word of a chunk: lap, state.
            6 => u64::from(bytes.u8() % 4).wrapping_sub(1) << 16 | u64::from(bytes.u8() & 3) << 9,
            _ => u64::from(bytes.u16()) << 48 | u64::from(bytes.u16()) << 24 | u64::from(bytes.u16()),
        };
        Self { place, count, how, number }
    }

    fn make(&self, words: &Words) {
        let first = words.place(self.place);
        let end = words.map.len() / 8;
        for index in first..end.min(first + usize::from(self.count)) {
            let word = words.at(index);
            match self.how % 4 {
                0 | 1 => word.store(self.number, Relaxed),
                2 => _ = word.fetch_add(self.number, Relaxed),
                _ => _ = word.fetch_xor(self.number, Relaxed),
            }
        }
    }
}

// --- the storm ---

/// What a case is made from; zeros when it is used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(&first, rest)| (first, rest));
        self.0 = rest;
        first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }
}

/// Ends the rewriting when it goes, however.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A case: edits, and calls while they are made again and again.
pub fn run(kind: Kind, case: &[u8]) {
    let mut bytes = Bytes(case);
    let edits: Vec<Edit> = (0..=bytes.u8() % 6).map(|_| Edit::of(&mut bytes)).collect();
    let pauses = 1_u32 << (bytes.u8() % 12);
    let segment = Segment::options().size(256 << 10).sentinel(false).anonymous().expect("a segment");
    let mut calls = calls(kind, &segment);
    let (words, over) = (Words::of(&segment, kind), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(Relaxed) {
                for edit in &edits {
                    edit.make(&words);
                    (0..pauses).for_each(|_| std::hint::spin_loop());
                }
            }
        });
        while !bytes.0.is_empty() {
            let (what, how) = (bytes.u8(), bytes.u16());
            calls(what, usize::from(how));
        }
    });
}

type Calls<'a> = Box<dyn FnMut(u8, usize) + 'a>;

fn calls(kind: Kind, segment: &Segment) -> Calls<'_> {
    match kind {
        Kind::Queue => on_messages(segment, Queue::create(segment, "it", 64).expect("a queue")),
        Kind::Unbounded => on_messages(segment, unbounded().create(segment, "it").expect("a queue")),
        Kind::Bytes => on_bytes(segment, QueueOptions::new().capacity(8192).create(segment, "it").expect("a queue")),
        Kind::UnboundedBytes => on_bytes(segment, unbounded().create(segment, "it").expect("a queue")),
        Kind::Spsc => on_spsc(segment),
        Kind::SpscBytes => on_spsc_bytes(segment),
        Kind::Lossy => on_lossy(segment),
        Kind::Values => on_values(segment),
        Kind::Segment => on_segment(segment),
    }
}

/// With many more chunks than ever have memory.
fn unbounded() -> QueueOptions {
    QueueOptions::new().unbounded(1 << 30)
}

const NOW: Duration = Duration::ZERO;

fn on_messages(segment: &Segment, queue: Queue<u64>) -> Calls<'_> {
    let (sender, receiver) = (queue.sender().expect("an end"), queue.receiver().expect("an end"));
    sender.send_slice(&[7; 40]).expect("room");
    let mut buffer = Vec::new();
    Box::new(move |what, how| match what % 12 {
        0 => drop(call(segment, "try_send", || sender.try_send(1))),
        1 => drop(call(segment, "send_timeout", || sender.send_timeout(1, NOW))),
        2 => drop(call(segment, "try_send_slice", || sender.try_send_slice(&[1; 100][..how % 100]))),
        3 => drop(call(segment, "force_send", || sender.force_send(1))),
        4 => drop(call(segment, "try_reserve", || sender.try_reserve().map(|slot| slot.commit()))),
        5 => drop(call(segment, "try_recv", || receiver.try_recv())),
        6 => drop(call(segment, "recv_timeout", || receiver.recv_timeout(NOW))),
        7 => {
            buffer.clear();
            _ = call(segment, "try_recv_many", || receiver.try_recv_many(&mut buffer, how % 100));
        }
        8 => drop(call(segment, "try_recv_guard", || receiver.try_recv_guard().map(|guard| guard.give_back()))),
        9 => _ = call(segment, "len", || (queue.len(), queue.is_empty(), queue.is_full(), queue.capacity())),
        10 => _ = call(segment, "poll", || receiver.poll(NOW)),
        _ => drop(call(segment, "recover", || segment.recover())),
    })
}

fn on_bytes(segment: &Segment, queue: Queue<[u8]>) -> Calls<'_> {
    let (sender, receiver) = (queue.sender().expect("an end"), queue.receiver().expect("an end"));
    (0..20).for_each(|n| sender.send(&[n; 200]).expect("room"));
    let (mut tap, message, mut buffer): (Tap, _, _) = (queue.tap(), vec![7; 1 << 16], vec![0; 1 << 16]);
    Box::new(move |what, how| match what % 15 {
        0 => drop(call(segment, "try_send", || sender.try_send(&message[..how % 1000]))),
        1 => drop(call(segment, "send_timeout", || sender.send_timeout(&message[..how], NOW))),
        2 => drop(call(segment, "try_reserve", || {
            sender.try_reserve(how).map(|grant| if how % 2 == 0 { grant.commit(how / 2) } else { drop(grant) })
        })),
        3 => drop(call(segment, "try_recv", || receiver.try_recv().map(drop))),
        4 => drop(call(segment, "into_vec", || receiver.try_recv().map(|frame| frame.into_vec()))),
        5 => drop(call(segment, "try_recv_into", || receiver.try_recv_into(&mut buffer[..how]))),
        6 => drop(call(segment, "give_back", || receiver.try_recv().map(|frame| frame.give_back()))),
        7 => drop(call(segment, "peek_len", || receiver.peek_len())),
        8 | 9 => drop(call(segment, "Tap::try_next", || tap.try_next())),
        10 => drop(call(segment, "Tap::next_timeout", || tap.next_timeout(NOW))),
        11 => tap = call(segment, "tap", || queue.tap()),
        12 => _ = call(segment, "len", || (queue.len(), queue.is_empty(), queue.is_full(), queue.capacity())),
        13 => _ = call(segment, "wait_drained", || (queue.wait_drained(NOW), receiver.poll(NOW))),
        _ => drop(call(segment, "recover", || segment.recover())),
    })
}

fn on_spsc(segment: &Segment) -> Calls<'_> {
    let queue = SpscQueue::<u64>::create(segment, "it", 64).expect("a queue");
    let (mut sender, mut receiver) = (queue.sender().ok(), queue.receiver().ok());
    let mut buffer = Vec::new();
    Box::new(move |what, how| {
        let (Some(tx), Some(rx)) = (&mut sender, &mut receiver) else {
            // Somebody else has taken the seat, or the words say so.
            sender = sender.take().or_else(|| call(segment, "sender", || queue.sender()).ok());
            receiver = receiver.take().or_else(|| call(segment, "receiver", || queue.receiver()).ok());
            return;
        };
        match what % 11 {
            0 => drop(call(segment, "try_send", || tx.try_send(1))),
            1 => drop(call(segment, "send_timeout", || tx.send_timeout(1, NOW))),
            2 => drop(call(segment, "try_send_slice", || tx.try_send_slice(&[1; 100][..how % 100]))),
            3 => drop(call(segment, "try_reserve", || tx.try_reserve().map(|slot| slot.commit()))),
            4 => drop(call(segment, "try_recv", || rx.try_recv())),
            5 => drop(call(segment, "recv_timeout", || rx.recv_timeout(NOW))),
            6 => {
                buffer.clear();
                _ = call(segment, "try_recv_many", || rx.try_recv_many(&mut buffer, how % 100));
            }
            7 => drop(call(segment, "try_recv_guard", || rx.try_recv_guard().map(drop))),
            8 => _ = call(segment, "len", || (queue.len(), queue.is_empty(), queue.is_full())),
            9 => _ = call(segment, "poll", || rx.poll(NOW)),
            _ => {
                call(segment, "release", || sender.take().map(|end| end.release()));
                call(segment, "release", || receiver.take().map(|end| end.release()));
            }
        }
    })
}

fn on_spsc_bytes(segment: &Segment) -> Calls<'_> {
    let queue = SpscQueue::<[u8]>::create(segment, "it", 4096).expect("a queue");
    let (mut sender, mut receiver) = (queue.sender().ok(), queue.receiver().ok());
    let (message, mut buffer) = (vec![7; 1 << 16], vec![0; 1 << 16]);
    Box::new(move |what, how| {
        let (Some(tx), Some(rx)) = (&mut sender, &mut receiver) else {
            sender = sender.take().or_else(|| call(segment, "sender", || queue.sender()).ok());
            receiver = receiver.take().or_else(|| call(segment, "receiver", || queue.receiver()).ok());
            return;
        };
        match what % 11 {
            0 => drop(call(segment, "try_send", || tx.try_send(&message[..how % 1000]))),
            // In parts, if it is that long; the time is up at once.
            1 => drop(call(segment, "send_timeout", || tx.send_timeout(&message[..how], NOW))),
            2 => drop(call(segment, "try_reserve", || tx.try_reserve(how % 5000).map(|grant| grant.commit(0)))),
            3 => drop(call(segment, "try_recv", || rx.try_recv().map(drop))),
            4 => drop(call(segment, "into_vec", || rx.try_recv().map(|frame| frame.into_vec()))),
            5 => drop(call(segment, "recv_timeout", || rx.recv_timeout(NOW).map(drop))),
            6 => drop(call(segment, "try_recv_into", || rx.try_recv_into(&mut buffer[..how]))),
            7 => drop(call(segment, "peek_len", || rx.peek_len())),
            8 => _ = call(segment, "len", || (queue.len(), queue.is_empty(), queue.is_full())),
            9 => _ = call(segment, "poll", || rx.poll(NOW)),
            _ => {
                call(segment, "release", || sender.take().map(|end| end.release()));
                call(segment, "release", || receiver.take().map(|end| end.release()));
            }
        }
    })
}

fn on_lossy(segment: &Segment) -> Calls<'_> {
    let queue = LossyQueue::<[u64; 5]>::create(segment, "it", 16).expect("a queue");
    let (mut sender, mut receiver) = (queue.sender().ok(), queue.receiver().ok());
    Box::new(move |what, _| {
        let (Some(tx), Some(rx)) = (&mut sender, &mut receiver) else {
            sender = sender.take().or_else(|| call(segment, "sender", || queue.sender()).ok());
            receiver = receiver.take().or_else(|| call(segment, "receiver", || queue.receiver()).ok());
            return;
        };
        match what % 7 {
            0 => drop(call(segment, "send", || tx.send([1; 5]))),
            1 => drop(call(segment, "try_recv", || rx.try_recv())),
            2 => drop(call(segment, "recv_timeout", || rx.recv_timeout(NOW))),
            3 => _ = call(segment, "len", || (queue.len(), queue.is_empty())),
            4 => _ = call(segment, "poll", || rx.poll(NOW)),
            5 => _ = call(segment, "lost", || rx.lost()),
            _ => {
                call(segment, "release", || sender.take().map(|end| end.release()));
                call(segment, "release", || receiver.take().map(|end| end.release()));
            }
        }
    })
}

/// The object that is rewritten is the first one: a `Latest`. `load` is not among the calls: it looks until it has a whole value.
fn on_values(segment: &Segment) -> Calls<'_> {
    let latest = Latest::<[u64; 5]>::create(segment, "latest", [0; 5]).expect("a value");
    let lock = Lock::<u64>::create(segment, "lock", 0).expect("a lock");
    let value = Value::<u32>::create(segment, "value", 0).expect("a value");
    let array = Array::<u64>::create(segment, "array", 10).expect("an array");
    let mut numbers = [0; 10];
    Box::new(move |what, how| match what % 9 {
        0 => _ = call(segment, "try_load", || latest.try_load()),
        1 => drop(call(segment, "store_timeout", || latest.store_timeout(&[1; 5], NOW))),
        2 => _ = call(segment, "version", || latest.version()),
        3 => drop(call(segment, "try_lock", || lock.try_lock().map(|mut guard| *guard += 1))),
        4 => drop(call(segment, "lock_timeout", || lock.lock_timeout(NOW).map(drop))),
        5 => drop(call(segment, "wait_while_timeout", || value.wait_while_timeout(NOW, |_| how % 2 == 0))),
        6 => drop(call(segment, "read", || array.read(how % 12, &mut numbers))),
        7 => call(segment, "notify", || value.notify_all()),
        _ => drop(call(segment, "recover", || segment.recover())),
    })
}

/// Tables, directory and all.
fn on_segment(segment: &Segment) -> Calls<'_> {
    for n in 0..4 {
        Queue::<u64>::create(segment, &format!("queue-{n}"), 8).expect("a queue");
    }
    Queue::<[u8]>::options().unbounded(1 << 20).create::<[u8]>(segment, "unbounded").expect("a queue");
    let mut watcher = segment.watch();
    Box::new(move |what, how| match what % 9 {
        0 => drop(call(segment, "snapshot", || segment.snapshot())),
        1 => drop(call(segment, "peers", || segment.peers())),
        2 => drop(call(segment, "recover", || segment.recover())),
        3 => drop(call(segment, "open", || Queue::<u64>::open(segment, "queue-3").map(|queue| queue.len()))),
        4 => drop(call(segment, "open", || Queue::<[u8]>::open(segment, "unbounded").map(|queue| queue.len()))),
        5 => drop(call(segment, "create", || Queue::<u64>::create(segment, &format!("queue-{how}"), 1))),
        6 => drop(call(segment, "watch", || watcher.try_recv())),
        7 => _ = call(segment, "free", || segment.free()),
        _ => drop(call(segment, "from_fd", || Segment::options().sentinel(false).from_fd(segment).map(drop))),
    })
}
