//! What peers that do not follow the protocol can and cannot do: see SECURITY.md. Words that change while calls run, and single
//! words that were forged with care.

#[path = "support/storm.rs"]
mod storm;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use gimmal::{Error, Handle, Pipe, Queue, QueueOptions, Segment, TrySendError};
use memmap2::MmapOptions;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use storm::{Kind, Limited, call, memory};

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// As many cases of a kind, from seeds that are always the same.
fn storms(kind: Kind, cases: u64) {
    for case in 0..cases {
        let mut state = case << 8 | kind as u64;
        let bytes: Vec<u8> = (0..400).map(|_| random(&mut state) as u8).collect();
        storm::run(kind, &bytes);
    }
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn a_queue_ends_every_call_in_a_storm() {
    storms(Kind::Queue, 150);
}

#[test]
fn a_queue_of_bytes_ends_every_call_in_a_storm() {
    storms(Kind::Bytes, 150);
}

#[test]
fn an_unbounded_queue_ends_every_call_in_a_storm() {
    storms(Kind::Unbounded, 10);
}

#[test]
fn an_unbounded_queue_of_bytes_ends_every_call_in_a_storm() {
    storms(Kind::UnboundedBytes, 10);
}

#[test]
fn an_spsc_queue_ends_every_call_in_a_storm() {
    storms(Kind::Spsc, 150);
}

#[test]
fn an_spsc_queue_of_bytes_ends_every_call_in_a_storm() {
    storms(Kind::SpscBytes, 150);
}

#[test]
fn a_lossy_queue_ends_every_call_in_a_storm() {
    storms(Kind::Lossy, 150);
}

#[test]
fn values_end_every_call_in_a_storm() {
    storms(Kind::Values, 100);
}

#[test]
fn a_segment_ends_every_call_in_a_storm() {
    storms(Kind::Segment, 60);
}

// --- forged words ---

/// A segment whose file is written past the library.
struct Forge {
    segment: Segment,
    file: File,
}

impl Forge {
    fn new() -> Self {
        let segment = Segment::options().size(1 << 20).sentinel(false).anonymous().unwrap();
        Self { file: File::from(segment.as_fd().try_clone_to_owned().unwrap()), segment }
    }

    fn read(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, at).unwrap();
        u64::from_le_bytes(word)
    }

    fn write(&self, at: u64, word: u64) {
        self.file.write_all_at(&word.to_le_bytes(), at).unwrap();
    }

    /// Where the directory entry of the first object is, its ring, and the words of its chunks.
    fn entry(&self) -> u64 {
        self.read(56)
    }

    fn ring(&self) -> u64 {
        self.read(self.entry() + 16)
    }

    fn chunks(&self) -> std::ops::Range<u64> {
        let (capacity, shift) = (self.read(self.entry() + 32), self.read(self.entry() + 48) >> 32);
        // Behind the header, the oldest chunk's line, and one line for each participant.
        let first = self.ring() + 768 + 128 + 512 * 64;
        first..first + 8 * (capacity >> shift)
    }

    fn unbounded(&self, limit: usize) -> Queue<[u8]> {
        QueueOptions::new().unbounded(limit).create(&self.segment, "queue").unwrap()
    }
}

/// The largest limit that `Queue::unbounded` chooses.
const LARGE: usize = 1 << 40;

/// A message whose word and length say 100 GiB.
fn with_a_long_message(limit: usize) -> (Forge, Queue<[u8]>) {
    let forge = Forge::new();
    let queue = forge.unbounded(limit);
    queue.sender().unwrap().send(b"x").unwrap();
    let slot = forge.segment.size() as u64;
    let extra = (queue.capacity() as u64 / 64).min((100 << 30) / 64) / 2;
    forge.write(slot, forge.read(slot) | extra << 12);
    forge.write(slot + 8, forge.read(slot + 8) | (extra * 64));
    (forge, queue)
}

#[test]
fn a_forged_length_takes_no_more_memory_than_there_is() {
    for limit in [LARGE, 1 << 30] {
        let (forge, queue) = with_a_long_message(limit);
        let receiver = queue.receiver().unwrap();
        let length = call(&forge.segment, "recv_vec", || receiver.recv_vec().unwrap().len() as u64);
        assert!(length <= memory(&forge.segment), "{length} bytes");
        let before = memory(&forge.segment);
        assert!(call(&forge.segment, "try_recv", || receiver.try_recv().is_err()));
        assert!(memory(&forge.segment) <= before);
    }
}

#[test]
fn a_forged_length_gives_nothing_back_that_was_not_there() {
    let (forge, queue) = with_a_long_message(LARGE);
    let before = memory(&forge.segment);
    let receiver = queue.receiver().unwrap();
    call(&forge.segment, "drop of a frame", || drop(receiver.recv().unwrap()));
    assert!(memory(&forge.segment) <= before);
}

#[test]
fn a_tap_looks_before_it_copies() {
    for limit in [LARGE, 1 << 30] {
        let forge = Forge::new();
        let queue = forge.unbounded(limit);
        let (sender, mut tap) = (queue.sender().unwrap(), queue.tap());
        sender.send(b"x").unwrap();
        let slot = forge.segment.size() as u64;
        forge.write(slot + 8, forge.read(slot + 8) | 100 << 30);
        assert_eq!(call(&forge.segment, "Tap::try_next", || tap.try_next()), None, "more than was reserved");
        sender.send(b"y").unwrap();
        assert_eq!(tap.try_next().as_deref(), Some(&b"y"[..]));
    }
}

/// All chunks say that they are open, although no more than one has memory.
#[test]
fn chunks_that_say_they_are_open_are_not_all_looked_at() {
    for lap in [0, 0xffff_ffff_ffff] {
        let forge = Forge::new();
        let queue = forge.unbounded(1 << 33);
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let mut tap = queue.tap();
        sender.send(b"x").unwrap();
        forge.chunks().step_by(8).for_each(|word| forge.write(word, lap << 16 | 1 << 9));
        // Repairs, so that ORPHANs are looked for.
        forge.write(forge.ring() + 8, 7);
        if lap > 0 {
            [128, 256].iter().for_each(|hint| forge.write(forge.ring() + hint, u64::MAX << 43));
        }
        let (segment, before) = (&forge.segment, memory(&forge.segment));
        call(segment, "len", || (queue.len(), queue.is_empty(), queue.is_full()));
        call(segment, "try_recv", || receiver.try_recv().is_ok());
        call(segment, "try_recv", || receiver.try_recv().is_ok());
        call(segment, "wait_drained", || queue.wait_drained(std::time::Duration::ZERO));
        call(segment, "try_next", || tap.try_next());
        call(segment, "recover", || segment.recover().unwrap());
        call(segment, "try_send", || sender.try_send(b"y").is_ok());
        let grown = memory(segment).saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes");
    }
}

#[test]
fn a_send_ends_although_the_chunks_lead_from_one_to_the_next() {
    for limit in [1 << 20, 1 << 26, 1 << 30, LARGE] {
        let forge = Forge::new();
        let queue = forge.unbounded(limit);
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.send(b"x").unwrap();
        // In a lap far ahead: all of each is consumed.
        forge.chunks().step_by(8).for_each(|word| forge.write(word, (1 << 40) << 16 | 1 << 9));
        let sent = call(&forge.segment, "try_send", || sender.try_send(b"y"));
        assert_eq!(sent, Err(TrySendError::Full(())));
        let _ = call(&forge.segment, "try_recv", || receiver.try_recv().map(drop));
        let queue = Queue::<[u8]>::open(&forge.segment, "queue").unwrap();
        call(&forge.segment, "len", || (queue.len(), queue.is_full(), queue.tap().try_next()));
    }
}

#[test]
fn more_chunks_than_there_are_cannot_be_a_limit() {
    let forge = Forge::new();
    drop(forge.unbounded(1 << 20));
    forge.file.write_all_at(&u32::MAX.to_le_bytes(), forge.entry() + 48).unwrap();
    let opened = Queue::<[u8]>::open(&forge.segment, "queue");
    assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
}

/// Ends a thread when it goes, however.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_reader_does_not_panic_when_a_length_changes() {
    for _ in 0..100 {
        let forge = Forge::new();
        let (mut sender, receiver) = Pipe::simplex::<[u8]>(&forge.segment, "pipe", 4096).unwrap();
        sender.send(&[0; 1000]).unwrap();
        drop(sender);
        let at = (0..forge.segment.size() as u64).step_by(4096).find(|&at| forge.read(at) == 1000).unwrap();
        let map = MmapOptions::new().len(forge.segment.size()).map_raw(forge.segment.as_fd().as_raw_fd()).unwrap();
        // SAFETY: inside the mapping.
        let word = unsafe { map.as_mut_ptr().add(at as usize) }.cast::<AtomicU64>();
        // SAFETY: aligned to a page, and atomic.
        let word = unsafe { &*word };
        let mut reader = receiver.into_reader();
        assert_eq!(reader.read(&mut [0; 500]).unwrap(), 500);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    word.store(8, Relaxed);
                    (0..200).for_each(|_| std::hint::spin_loop());
                    word.store(1000, Relaxed);
                    (0..200).for_each(|_| std::hint::spin_loop());
                }
            });
            // The end of the stream, if the length says so twice.
            let _over = Over(&over);
            for _ in 0..2000 {
                if !reader.fill_buf().is_ok_and(|bytes| bytes.len() == 500) {
                    break;
                }
            }
        });
    }
}

// --- taps ---

/// A run that goes over into a chunk that was given back, while its own is kept by somebody who reads in it.
#[test]
fn a_tap_shows_no_message_half_of_which_has_no_memory() {
    const SLOTS: usize = 16384; // of a chunk
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().unbounded(16 << 20).create::<[u8]>(&segment, "queue").unwrap();
    let (sender, receiver, slow) = (queue.sender().unwrap(), queue.receiver().unwrap(), queue.receiver().unwrap());
    let mut tap = queue.tap();
    sender.send(b"held").unwrap();
    let held = slow.recv().unwrap();
    sender.send(&vec![b'f'; (SLOTS - 1 - 64) * 64]).unwrap();
    let message = vec![b'M'; 128 * 64];
    sender.send(&message).unwrap();
    (0..2 * SLOTS).for_each(|_| sender.send(b"more").unwrap());
    (0..2 + 2 * SLOTS).for_each(|_| drop(receiver.recv().unwrap()));
    assert!(receiver.try_recv().is_err());
    let before = memory(&segment);
    assert_eq!(tap.try_next().as_deref(), Some(&b"held"[..]));
    assert!(tap.try_next().is_some_and(|message| message.iter().all(|&byte| byte == b'f')));
    let next = tap.try_next();
    assert!(next.as_deref().is_none_or(|next| *next == *message || *next == *b"more"), "torn");
    assert!(tap.missed() > 0);
    assert!(memory(&segment) <= before, "it gives memory to what has none");
    drop(held);
}

// --- handles ---

/// What a peer's text names is not opened before it is known to be the file that was meant.
#[test]
fn a_handle_opens_nothing_but_what_it_means() {
    let path = std::env::temp_dir().join(format!("gimmal-hostile-{}", std::process::id()));
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = format!("gimmal:{}/{}/{}##", std::process::id(), reader.as_raw_fd(), 1);
    let handle: Handle<Segment> = text.parse().unwrap();
    assert!(matches!(handle.open(), Err(Error::NotFound { .. })));
    // Whoever has opened the writing end, and closed it, is known by this.
    let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).unwrap();
    assert_eq!(polled[0].revents(), Some(PollFlags::empty()), "it was opened");
}
