//! The memory of a ring without a bound: chunks are opened, looked at, and cleared.

use super::*;
use crate::ring::owned::Stalled;
use crate::ring::pages::{Batch, Chunk, Pages, Shared};

/// Two chunks of two slots.
const SHIFT: u32 = 1;
const LAP_SHIFT: u32 = 2;
const PLENTY: u64 = 100;

#[repr(C)]
struct Shape {
    header: Header,
    shared: Shared,
    words: [AtomicU64; 2],
}

struct Chunks {
    shape: Box<Shape>,
    slots: Box<[Slot<u64>]>,
}

// SAFETY: payloads are touched under the protocols being modelled; loom checks that.
unsafe impl Sync for Chunks {}

impl Chunks {
    fn new() -> Arc<Self> {
        let slot = || Slot { word: AtomicU64::new(0), payload: Payload::new(0) };
        let words = [AtomicU64::new(0), AtomicU64::new(0)];
        let shape = Box::new(Shape { header: *Header::new(), shared: Shared::new(), words });
        Arc::new(Self { shape, slots: (0..4).map(|_| slot()).collect() })
    }

    /// The same, with both slots of the first chunk sent and received by participant 1.
    fn consumed() -> Arc<Self> {
        let chunks = Self::new();
        chunks.pass(1, &Cursor::default(), &[1, 2]);
        chunks
    }

    /// Sends and receives.
    fn pass(&self, owner: u16, sender: &Cursor, values: &[u64]) {
        let receiver = Cursor::at(sender.position());
        for &value in values {
            assert!(self.send(sender, owner, value), "there is room");
            assert_eq!(self.ring().pop(&receiver, owner), Ok(value));
        }
    }

    fn pages(&self) -> Pages {
        // SAFETY: the box outlives the threads of the model, which hold the Arc.
        unsafe { Pages::new(NonNull::from(&*self.shape).cast(), SHIFT, LAP_SHIFT, MODE) }
    }

    fn ring(&self) -> Owned<u64> {
        let header = NonNull::from(&*self.shape).cast();
        // SAFETY: as above.
        unsafe { Owned::new(header, NonNull::from(&self.slots[0]).cast(), 4) }.of_pages(self.pages())
    }

    /// As a sender of the library, but for the limit of memory.
    fn send(&self, cursor: &Cursor, owner: u16, value: u64) -> bool {
        let ring = self.ring();
        let pages = self.pages();
        for _ in 0..3 {
            if let Ok(run) = ring.reserve_run(cursor, owner, MODE, 1, 1) {
                let claim = run.claim();
                ring.write(&claim, &value);
                ring.commit(claim);
                return true;
            }
            self.open(&pages, owner, cursor.position());
        }
        false
    }

    /// Opens the chunk of a position, if it has no memory yet.
    fn open(&self, pages: &Pages, owner: u16, position: u64) {
        let begin = pages.begin(pages.chunk_of(position));
        let _look = pages.look(owner);
        if pages.state(begin) == Chunk::Absent && pages.can_open(begin, PLENTY) {
            self.ring().prepare(begin, pages.len());
            pages.open(begin);
        }
    }

    /// What the system does with the memory of a chunk that is given back.
    fn forget(&self, chunk: u64) -> bool {
        let first = (chunk & 1) as usize * 2;
        for slot in &self.slots[first..first + 2] {
            slot.word.store(0, Relaxed);
            // SAFETY: loom itself checks that nobody else is inside.
            unsafe { slot.payload.write(&0) }
        }
        true
    }

    fn tidy(&self, owner: u16, end: u64) -> bool {
        self.ring().tidy(owner, end, &Stalled::default(), |chunk| self.forget(chunk))
    }

    /// Clears the first chunk, if it is closed and nobody looks.
    fn clear(&self, owner: u16) -> bool {
        let pages = self.pages();
        let closed: Batch = [0].into_iter().filter(|&chunk| pages.is_closed(chunk)).collect();
        pages.clear(&closed, owner, |chunk| self.forget(chunk)).unwrap_or(false)
    }

    /// Looks at the first slot, if it has memory: a read that must not meet the end of that memory.
    fn look(&self, owner: u16) -> bool {
        let pages = self.pages();
        let _look = pages.look(owner);
        let is_open = pages.state(0) == Chunk::Open;
        if is_open {
            // SAFETY: nobody writes to a chunk of which all is consumed while it has memory; loom checks that.
            unsafe { self.slots[0].payload.read() };
        }
        is_open
    }
}

/// One looks, again and again, while another closes and clears: the memory stays while somebody may look at it. Who was in vain goes on
/// where it was.
#[test]
fn pages_stay_while_somebody_looks() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (chunks, seen) = (Chunks::consumed(), add.clone());
        let (of_looker, of_clearer) = (Arc::clone(&chunks), Arc::clone(&chunks));
        let looked = Log::default();
        let log = looked.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || (0..2).for_each(|_| log.add(u64::from(of_looker.look(1))))),
            Box::new(move || {
                of_clearer.pages().close(0);
                let cleared = (0..2).map(|_| of_clearer.clear(2)).fold(0, |all, cleared| all + u64::from(cleared));
                assert!(cleared < 2, "cleared twice");
                seen.add((looked.take(), cleared));
            }),
        ];
        let check = move || {
            chunks.clear(2);
            assert_eq!(chunks.pages().state(0), Chunk::Gone);
            assert!(!chunks.pages().is_closed(0), "it was not given back");
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(vec![], 1), (vec![1], 1), (vec![1, 1], 1), (vec![1, 0], 1), (vec![1], 0)]);
}

/// Whoever finds a chunk open finds what was made in it before.
#[test]
fn pages_that_are_open_have_their_words() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(None, move || {
        let (chunks, seen) = (Chunks::new(), add.clone());
        let (of_opener, of_looker) = (Arc::clone(&chunks), chunks);
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                // SAFETY: nobody looks at a chunk that is not open; loom checks that.
                unsafe { of_opener.slots[0].payload.write(&7) };
                of_opener.pages().open(0);
            }),
            Box::new(move || {
                let is_open = of_looker.look(2);
                // SAFETY: it was open, so that nobody writes any more.
                assert!(!is_open || unsafe { of_looker.slots[0].payload.read() } == 7);
                seen.add(is_open);
            }),
        ];
        (jobs, Box::new(|| ()))
    });
    seen.must_have([false, true]);
}

/// Who opens a chunk in the next lap finds the old memory gone.
#[test]
fn pages_are_made_after_the_end_of_the_old_ones() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (chunks, seen) = (Chunks::consumed(), add.clone());
        chunks.pages().close(0);
        let (of_clearer, of_opener) = (Arc::clone(&chunks), chunks);
        let jobs: Vec<Job> = vec![
            Box::new(move || _ = of_clearer.clear(0)),
            Box::new(move || {
                let can_open = of_opener.pages().can_open(4, PLENTY);
                if can_open {
                    // SAFETY: loom itself checks that the old memory is gone.
                    assert_eq!(unsafe { of_opener.slots[0].payload.read() }, 0);
                }
                seen.add(can_open);
            }),
        ];
        (jobs, Box::new(|| ()))
    });
    seen.must_have([false, true]);
}

/// One looks while two try to clear, each of whom may go on from where the other was in vain.
#[test]
fn pages_stay_while_two_would_clear_them() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (chunks, seen) = (Chunks::consumed(), add.clone());
        chunks.pages().close(0);
        let pages = chunks.pages();
        // Somebody looks who has found it open.
        let look = pages.look(1);
        let cleared = Log::default();
        let (of_looker, first, second) = (Arc::clone(&chunks), Arc::clone(&chunks), Arc::clone(&chunks));
        let (of_first, of_second) = (cleared.clone(), cleared.clone());
        core::mem::forget(look);
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                // SAFETY: the chunk was open when the look began; loom checks that it is not given back.
                unsafe { of_looker.slots[0].payload.read() };
                of_looker.pages().end_look(1);
            }),
            Box::new(move || of_first.add(u64::from(first.clear(2)))),
            Box::new(move || of_second.add(u64::from(second.clear(0)))),
        ];
        let check = move || {
            let cleared: u64 = cleared.take().into_iter().sum();
            assert!(cleared + u64::from(chunks.clear(2)) == 1, "cleared twice, or not at all");
            seen.add(cleared);
        };
        (jobs, Box::new(check))
    });
    seen.must_have([0, 1]);
}

/// One consumes, another closes, a third clears: the memory goes after the last message was read.
#[test]
fn pages_go_after_the_last_message_was_read() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (chunks, seen) = (Chunks::new(), add.clone());
        let cursor = Cursor::default();
        assert!(chunks.send(&cursor, 1, 1) && chunks.send(&cursor, 1, 2));
        let receiver = Cursor::default();
        assert_eq!(chunks.ring().pop(&receiver, 1), Ok(1));
        let (of_receiver, of_closer, of_clearer) = (Arc::clone(&chunks), Arc::clone(&chunks), Arc::clone(&chunks));
        let jobs: Vec<Job> = vec![
            Box::new(move || assert_eq!(of_receiver.ring().pop(&receiver, 1), Ok(2))),
            Box::new(move || _ = of_closer.ring().tidy(2, 2, &Stalled::default(), |_| false)),
            Box::new(move || seen.add(of_clearer.clear(0))),
        ];
        let check = move || {
            chunks.tidy(2, 2);
            assert_eq!(chunks.pages().state(0), Chunk::Gone);
        };
        (jobs, Box::new(check))
    });
    seen.must_have([false, true]);
}

/// Somebody always looks, but has looked away since it was marked: that is enough.
#[test]
fn pages_do_not_wait_for_another_look() {
    explore(None, move || {
        let chunks = Chunks::consumed();
        let of_job = Arc::clone(&chunks);
        let job = move || {
            let pages = of_job.pages();
            pages.close(0);
            let first = pages.look(1);
            assert!(!of_job.clear(2));
            drop(first);
            let second = pages.look(1);
            assert!(of_job.clear(2));
            drop(second);
        };
        (vec![Box::new(job)], Box::new(move || assert!(!chunks.pages().is_closed(0))))
    });
}

/// Two open the same chunk, and one of them is slow, while a third receives what is sent, closes the chunk, clears it, and goes
/// round: nothing is written into memory that is given back, and each message arrives.
#[test]
fn pages_are_opened_by_two() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (chunks, seen) = (Chunks::new(), add.clone());
        // In the second lap words have to be made.
        chunks.pass(1, &Cursor::default(), &[1, 2, 3, 4]);
        assert!(chunks.tidy(1, 4));
        let (of_slow, of_fast) = (Arc::clone(&chunks), Arc::clone(&chunks));
        let jobs: Vec<Job> = vec![
            Box::new(move || of_slow.open(&of_slow.pages(), 1, 4)),
            Box::new(move || {
                of_fast.pass(2, &Cursor::at(4), &[5, 6]);
                seen.add(of_fast.tidy(2, 6));
            }),
        ];
        let check = move || {
            chunks.tidy(2, 6);
            assert_eq!(chunks.pages().state(4), Chunk::Gone);
            assert!(chunks.slots.iter().all(|slot| slot.word.load(Relaxed) == 0), "written to what was given back");
        };
        (jobs, Box::new(check))
    });
    seen.must_have([false, true]);
}

/// A clearer has died in the middle. One repairs, another tidies, a third waits for the chunk of the next lap: it is cleared once more,
/// by one, and opened afterwards.
#[test]
fn pages_of_a_dead_clearer_are_cleared_by_another() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (chunks, seen) = (Chunks::consumed(), add.clone());
        chunks.pages().close(0);
        let dies = || chunks.pages().clear(&[0].into_iter().collect(), 3, |_| panic!("dies"));
        std::panic::set_hook(Box::new(|_| {}));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(dies)).is_err());
        let _ = std::panic::take_hook();
        let (of_repairer, of_other) = (Arc::clone(&chunks), Arc::clone(&chunks));
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                of_repairer.ring().sweep(&Ids::from_iter([3]));
                of_repairer.clear(1);
            }),
            Box::new(move || {
                of_other.clear(2);
                of_other.open(&of_other.pages(), 2, 4);
                let is_open = of_other.pages().state(4) == Chunk::Open;
                if is_open {
                    // SAFETY: loom itself checks that the old memory is gone.
                    assert_eq!(unsafe { of_other.slots[0].payload.read() }, 0);
                }
                seen.add(is_open);
            }),
        ];
        let check = move || {
            chunks.clear(1);
            chunks.open(&chunks.pages(), 1, 4);
            assert_eq!(chunks.pages().state(4), Chunk::Open);
            // What was made for the next lap is there.
            let free = SlotWord::new(4, state::FREE, 0).0;
            assert!(chunks.slots[..2].iter().all(|slot| slot.word.load(Relaxed) == free));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([false, true]);
}

/// A sender sleeps until a chunk is given back, and gives it back itself; one who only looks must not make it sleep for ever.
#[test]
fn pages_that_somebody_looks_at_keep_no_sender_asleep() {
    explore(Some(3), move || {
        let chunks = Chunks::consumed();
        chunks.pages().close(0);
        let (of_looker, of_sender) = (Arc::clone(&chunks), Arc::clone(&chunks));
        let jobs: Vec<Job> = vec![
            Box::new(move || _ = of_looker.look(1)),
            Box::new(move || {
                let attempt = || if of_sender.clear(2) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                let header = &of_sender.shape.header;
                header.not_full.wait(&Still, &Pace::default(), None, attempt).expect("no deadline");
            }),
        ];
        (jobs, Box::new(move || assert!(!chunks.pages().is_closed(0))))
    });
}

/// A sender goes from the first chunk to the second and on to the first again, while a receiver takes messages and gives memory back:
/// each arrives once, in order, and whole.
#[test]
fn pages_come_and_go_with_the_messages() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (chunks, log, seen) = (Chunks::new(), Log::default(), add.clone());
        let cursor = Cursor::default();
        (1..=3).for_each(|value| assert!(chunks.send(&cursor, 1, value)));
        assert_eq!(chunks.ring().pop(&Cursor::default(), 2), Ok(1));
        let (of_sender, of_receiver, received) = (Arc::clone(&chunks), Arc::clone(&chunks), log.clone());
        let sent = Log::default();
        let of_check = sent.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                for value in [4, 5] {
                    if of_sender.send(&cursor, 1, value) {
                        sent.add(value);
                    }
                }
            }),
            Box::new(move || {
                let cursor = Cursor::default();
                for _ in 0..2 {
                    if let Ok(value) = of_receiver.ring().pop(&cursor, 2) {
                        received.add(value);
                    }
                }
                of_receiver.tidy(2, cursor.position());
            }),
        ];
        let check = move || {
            let (got, sent) = (log.take(), of_check.take());
            let cursor = Cursor::default();
            let rest: Vec<u64> = core::iter::from_fn(|| chunks.ring().pop(&cursor, 2).ok()).collect();
            assert_eq!([got.clone(), rest].concat(), [vec![2, 3], sent.clone()].concat());
            seen.add((got, sent));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(vec![2, 3], vec![4, 5]), (vec![2, 3], vec![4])]);
}
