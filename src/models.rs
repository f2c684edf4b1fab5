//! Loom models of the protocols: `RUSTFLAGS="--cfg loom" cargo test --release --lib models`.
//!
//! Loom misses executions unless it is led: every racing thread is spawned (main only joins), each begins with a Relaxed
//! `fetch_add` on a shared dummy, models run in both spawn orders, and the outcomes that must be seen are asserted.
//! `.ci/mutants` weakens each ordering and each step of the protocols in turn and expects a model to fail.

use core::ops::ControlFlow;
use core::ptr::NonNull;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::thread;

use crate::deadline::Deadline;
use crate::event::{ALL, Event, Surroundings};
use crate::ids::Ids;
use crate::primitive::{AtomicU64, FenceMode, Ordering, Payload};
use crate::ring::owned::{Cursor, Empty, Owned};
use crate::ring::spsc::{Position, Spsc};
use crate::ring::{Header, Slot};

/// For what needs the fence pair: sleeping and closing.
const MODE: FenceMode = FenceMode::Full;
/// For what must hold without any fence: everything else.
const FENCELESS: FenceMode = FenceMode::Asymmetric;

type Job = Box<dyn FnOnce() + Send>;

/// Explores `model` with its threads spawned in both orders. Each run of `model` gives the racing threads and what to
/// check, in main, after they have ended.
fn explore(preemptions: Option<usize>, model: impl Fn() -> (Vec<Job>, Job) + Send + Sync + 'static) {
    let model = Arc::new(model);
    for reversed in [false, true] {
        let model = Arc::clone(&model);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions;
        builder.check(move || {
            let (mut jobs, check) = model();
            if reversed {
                jobs.reverse();
            }
            let dummy = loom::sync::Arc::new(AtomicU32::new(0));
            let threads: Vec<_> = jobs
                .into_iter()
                .map(|job| {
                    let dummy = loom::sync::Arc::clone(&dummy);
                    thread::spawn(move || {
                        dummy.fetch_add(1, Relaxed);
                        job();
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            check();
        });
    }
}

/// Outcomes over all executions.
struct Seen<T>(Arc<Mutex<BTreeSet<T>>>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Ord + Debug> Seen<T> {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(BTreeSet::new())))
    }

    fn add(&self, outcome: T) {
        self.0.lock().unwrap().insert(outcome);
    }

    fn must_have(&self, wanted: impl IntoIterator<Item = T>) {
        let seen = self.0.lock().unwrap();
        for outcome in wanted {
            assert!(seen.contains(&outcome), "never saw {outcome:?}, only {seen:?}: the model is blind");
        }
    }
}

/// Ring memory that outlives the threads of one execution.
struct Memory<S> {
    header: Box<Header>,
    slots: Box<[S]>,
}

// SAFETY: payloads are touched under the protocols being modelled; loom checks that.
unsafe impl<S> Sync for Memory<S> {}

impl Memory<Slot<u64>> {
    fn owned(capacity: usize) -> Arc<Self> {
        let slot = || Slot { word: AtomicU64::new(0), payload: Payload::new(0) };
        Arc::new(Self { header: Header::new(), slots: (0..capacity).map(|_| slot()).collect() })
    }

    fn ring(&self) -> Owned<u64> {
        // SAFETY: the boxes outlive the threads of the model, which hold the Arc.
        unsafe {
            Owned::new(NonNull::from(&*self.header), NonNull::from(&self.slots[0]).cast(), self.slots.len() as u64)
        }
    }
}

impl Memory<Payload<u64>> {
    fn spsc(capacity: usize) -> Arc<Self> {
        Arc::new(Self { header: Header::new(), slots: (0..capacity).map(|_| Payload::new(0)).collect() })
    }

    fn ring(&self) -> Spsc<u64> {
        // SAFETY: as above.
        unsafe {
            Spsc::new(NonNull::from(&*self.header), NonNull::from(&self.slots[0]).cast(), self.slots.len() as u64)
        }
    }
}

/// What threads have received, in the order in which they did.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u64>>>);

impl Log {
    fn add(&self, value: u64) {
        self.0.lock().unwrap().push(value);
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A sender with id `owner` of `values`, for which there is room.
fn sender(memory: &Arc<Memory<Slot<u64>>>, owner: u16, values: &'static [u64]) -> Job {
    let memory = Arc::clone(memory);
    Box::new(move || {
        let (ring, cursor) = (memory.ring(), Cursor::default());
        for &value in values {
            ring.push(&cursor, owner, FENCELESS, &value).expect("room");
        }
    })
}

/// A receiver with id `owner` that looks `looks` times.
fn receiver(memory: &Arc<Memory<Slot<u64>>>, owner: u16, looks: usize, log: &Log) -> Job {
    let (memory, log) = (Arc::clone(memory), log.clone());
    Box::new(move || {
        let (ring, cursor) = (memory.ring(), Cursor::default());
        for _ in 0..looks {
            if let Ok(value) = ring.pop(&cursor, owner) {
                log.add(value);
            }
        }
    })
}

/// All that is left, by a fresh receiver.
fn drain(memory: &Memory<Slot<u64>>) -> Vec<u64> {
    let (ring, cursor) = (memory.ring(), Cursor::default());
    core::iter::from_fn(|| ring.pop(&cursor, 9).ok()).collect()
}

fn sorted(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    values
}

/// Two senders of one message each, one receiver: each message once, whole; all splits seen.
#[test]
fn owned_delivers_each_message_once() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, log, seen) = (Memory::owned(2), Log::default(), add.clone());
        let jobs = vec![sender(&memory, 1, &[1]), sender(&memory, 2, &[2]), receiver(&memory, 3, 1, &log)];
        let check = move || {
            let got = log.take();
            let all = [got.clone(), drain(&memory)].concat();
            assert_eq!(sorted(all), [1, 2]);
            seen.add(got);
        };
        (jobs, Box::new(check))
    });
    seen.must_have([vec![], vec![1], vec![2]]);
}

/// One sender of two messages in a ring of one slot, one receiver: the slot is reused only after its reader is done.
#[test]
fn owned_reuses_a_slot_only_after_its_reader() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, log, seen) = (Memory::owned(1), Log::default(), add.clone());
        let other = Arc::clone(&memory);
        let send = move || {
            let (ring, cursor) = (other.ring(), Cursor::default());
            ring.push(&cursor, 1, FENCELESS, &1).unwrap();
            let second = (0..2).any(|_| {
                // Lets loom's scheduler go to the receiver, which it does not do here by itself.
                thread::yield_now();
                ring.push(&cursor, 1, FENCELESS, &2).is_ok()
            });
            seen.add(second);
        };
        let jobs: Vec<Job> = vec![Box::new(send), receiver(&memory, 2, 1, &log)];
        let check = move || {
            let all = [log.take(), drain(&memory)].concat();
            assert!(all == [1] || all == [1, 2], "{all:?}");
        };
        (jobs, Box::new(check))
    });
    seen.must_have([false, true]);
}

/// A sender of two, another of one, a receiver of two: the two stay in order, whoever stalls where.
#[test]
fn owned_keeps_the_order_of_each_sender() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(1), move || {
        let (memory, log, seen) = (Memory::owned(4), Log::default(), add.clone());
        let jobs = vec![sender(&memory, 1, &[10, 11]), sender(&memory, 2, &[20]), receiver(&memory, 3, 2, &log)];
        let check = move || {
            let got = log.take();
            let all = [got.clone(), drain(&memory)].concat();
            let at = |v| all.iter().position(|&x| x == v).expect("delivered");
            assert!(at(10) < at(11), "{all:?}");
            assert_eq!(sorted(all), [10, 11, 20]);
            seen.add(got);
        };
        (jobs, Box::new(check))
    });
    seen.must_have([vec![10, 11], vec![10, 20], vec![20, 10]]);
}

/// A sender of two stands behind another's claim, and a receiver passes over that claim: when it takes a later message it
/// must not have missed an earlier one of the same sender. Needs the second look.
#[test]
fn owned_never_takes_a_later_message_of_one_sender_first() {
    explore(Some(3), move || {
        let (memory, log) = (Memory::owned(4), Log::default());
        // Position 0 is claimed and stays so until its sender commits.
        let stalled = (memory.ring(), Cursor::default());
        let claim = stalled.0.claim_free(&stalled.1, 1).unwrap();
        let memory_2 = Arc::clone(&memory);
        let commit_then_send = move || {
            let (ring, cursor) = (memory_2.ring(), stalled.1);
            ring.write(&claim, &10);
            ring.commit(claim);
            ring.push(&cursor, 1, FENCELESS, &11).unwrap();
        };
        let jobs: Vec<Job> = vec![Box::new(commit_then_send), receiver(&memory, 3, 1, &log)];
        let check = move || {
            let all = [log.take(), drain(&memory)].concat();
            assert_eq!(all, [10, 11]);
        };
        (jobs, Box::new(check))
    });
}

/// Empty is said only if at some moment of the call no message was there: not because a message stands behind a stalled
/// claim, nor because one came to be before the walk and another went behind it. Needs the second look also for Empty.
#[test]
fn owned_says_empty_only_when_it_was() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, seen) = (Memory::owned(4), add.clone());
        let ring = memory.ring();
        // A stalled sender at position 0, a message at position 1.
        let cursor = Cursor::default();
        let stalled = ring.claim_free(&cursor, 1).unwrap();
        ring.push(&cursor, 2, FENCELESS, &7).unwrap();
        let (of_stalled, of_looker) = (Arc::clone(&memory), Arc::clone(&memory));
        // The stalled sender commits. Then a receiver that had passed it over takes the later message. At every moment
        // there is a message, until the looker takes one.
        let commit_then_take = move || {
            let ring = of_stalled.ring();
            ring.write(&stalled, &6);
            ring.commit(stalled);
            let _ = ring.pop(&Cursor::at(1), 4);
        };
        let look = move || {
            let (ring, cursor) = (of_looker.ring(), Cursor::default());
            seen.add(ring.pop(&cursor, 3).map_err(|Empty { .. }| ()));
        };
        let jobs: Vec<Job> = vec![Box::new(commit_then_take), Box::new(look)];
        (jobs, Box::new(move || drop(memory)))
    });
    seen.must_have([Ok(6), Ok(7)]);
    assert!(!seen.0.lock().unwrap().contains(&Err(())), "Empty while a message was there");
}

/// Whoever follows another sender's hint and commits beyond its claim never finds the ring empty behind that claim.
#[test]
fn owned_hint_shows_the_claims_it_stands_for() {
    explore(Some(3), move || {
        let memory = Memory::owned(4);
        // Position 0 is claimed already, so that whoever comes to it asks the hint, and may jump over position 1 unread.
        core::mem::forget(memory.ring().claim_free(&Cursor::default(), 1));
        let (of_first, of_second) = (Arc::clone(&memory), Arc::clone(&memory));
        let jobs: Vec<Job> = vec![
            Box::new(move || core::mem::forget(of_first.ring().claim_free(&Cursor::at(1).among_rivals(), 3))),
            Box::new(move || {
                let (ring, cursor) = (of_second.ring(), Cursor::default());
                ring.push(&cursor, 2, FENCELESS, &2).expect("room");
                assert_eq!(ring.pop(&Cursor::default(), 2), Ok(2), "Empty behind our own message");
            }),
        ];
        (jobs, Box::new(move || drop(memory)))
    });
}

/// A message that is there, a sender and two receivers: nothing lost, nothing twice.
#[test]
fn owned_gives_a_message_to_one_receiver() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, first, second, seen) = (Memory::owned(2), Log::default(), Log::default(), add.clone());
        memory.ring().push(&Cursor::default(), 5, FENCELESS, &1).unwrap();
        let jobs = vec![sender(&memory, 2, &[2]), receiver(&memory, 3, 1, &first), receiver(&memory, 4, 1, &second)];
        let check = move || {
            let (first, second) = (first.take(), second.take());
            assert_eq!(sorted([first.clone(), second.clone(), drain(&memory)].concat()), [1, 2]);
            seen.add((first, second));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(vec![1], vec![2]), (vec![2], vec![1]), (vec![1], vec![]), (vec![], vec![1])]);
}

/// A sender with id `owner` of `values` as one run, for which there is room.
fn run_sender(memory: &Arc<Memory<Slot<u64>>>, owner: u16, values: &'static [u64]) -> Job {
    let memory = Arc::clone(memory);
    Box::new(move || {
        let sent = memory.ring().push_run(&Cursor::default(), owner, FENCELESS, values);
        assert_eq!(sent, Ok(values.len()));
    })
}

/// A receiver with id `owner` that looks once, for a run of up to `most`.
fn run_receiver(memory: &Arc<Memory<Slot<u64>>>, owner: u16, most: usize, log: &Log) -> Job {
    let (memory, log) = (Arc::clone(memory), log.clone());
    Box::new(move || {
        let ring = memory.ring();
        if let Ok(run) = ring.claim_full_run(&Cursor::default(), owner, most) {
            ring.read_run(&run).for_each(|value| log.add(value));
            ring.release_run(run);
        }
    })
}

/// A run of two, a receiver of one and one of both: each message once, whole, in order, however the run is shared out.
#[test]
fn owned_runs_are_shared_out_from_the_front() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, first, second, seen) = (Memory::owned(2), Log::default(), Log::default(), add.clone());
        let jobs = vec![
            run_sender(&memory, 1, &[1, 2]),
            receiver(&memory, 3, 1, &first),
            run_receiver(&memory, 4, 2, &second),
        ];
        let check = move || {
            let (first, second) = (first.take(), second.take());
            assert_eq!(sorted([first.clone(), second.clone(), drain(&memory)].concat()), [1, 2]);
            seen.add((first, second));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(vec![], vec![1, 2]), (vec![1], vec![2]), (vec![1], vec![]), (vec![], vec![])]);
}

/// A run and single messages of another sender: claims stay contiguous, nobody gets what was not sent.
#[test]
fn owned_runs_stand_beside_single_messages() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, log, seen) = (Memory::owned(4), Log::default(), add.clone());
        let jobs = vec![run_sender(&memory, 1, &[1, 2]), sender(&memory, 2, &[3]), receiver(&memory, 3, 2, &log)];
        let check = move || {
            let got = log.take();
            let all = [got.clone(), drain(&memory)].concat();
            assert!(all == [1, 2, 3] || all == [3, 1, 2] || all == [1, 3, 2], "{all:?}");
            seen.add(got);
        };
        (jobs, Box::new(check))
    });
    seen.must_have([vec![], vec![1], vec![3], vec![1, 2], vec![3, 1]]);
}

/// A run is written again only after its reader is done with it, and found free as a whole.
#[test]
fn owned_reuses_a_run_only_after_its_reader() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, log, seen) = (Memory::owned(2), Log::default(), add.clone());
        let other = Arc::clone(&memory);
        let send = move || {
            let (ring, cursor) = (other.ring(), Cursor::default());
            assert_eq!(ring.push_run(&cursor, 1, FENCELESS, &[1, 2]), Ok(2));
            let more = (0..2).find_map(|_| {
                thread::yield_now();
                ring.push_run(&cursor, 1, FENCELESS, &[3, 4]).ok()
            });
            seen.add(more);
        };
        let jobs: Vec<Job> = vec![Box::new(send), run_receiver(&memory, 2, 2, &log)];
        let check = move || {
            let all = [log.take(), drain(&memory)].concat();
            assert!(all == [1, 2] || all == [1, 2, 3, 4], "{all:?}");
        };
        (jobs, Box::new(check))
    });
    seen.must_have([None, Some(2)]);
}

/// A participant that died holding a slot, as the kernel proves it: everything it did is visible to the repairer.
fn dies(
    memory: &Arc<Memory<Slot<u64>>>,
    proof: &loom::sync::Arc<AtomicU32>,
    last: impl FnOnce(&Owned<u64>) + Send + 'static,
) -> Job {
    let (memory, proof) = (Arc::clone(memory), loom::sync::Arc::clone(proof));
    Box::new(move || {
        last(&memory.ring());
        proof.store(1, Ordering::Release);
    })
}

/// Waits for the proof, then sweeps for participant 1, twice: the first repairer may have died.
fn repairer(memory: &Arc<Memory<Slot<u64>>>, proof: &loom::sync::Arc<AtomicU32>) -> Job {
    let (memory, proof) = (Arc::clone(memory), loom::sync::Arc::clone(proof));
    Box::new(move || {
        while proof.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        memory.ring().sweep(&Ids::from_iter([1]));
        memory.ring().sweep(&Ids::from_iter([1]));
    })
}

/// A sender has died between claim and commit: beside a live sender and a receiver its message is taken back, the other
/// arrives.
#[test]
fn repair_aborts_a_dead_senders_claim() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, log, seen) = (Memory::owned(2), Log::default(), add.clone());
        let claim = memory.ring().claim_free(&Cursor::default(), 1).expect("room");
        memory.ring().write(&claim, &99);
        core::mem::forget(claim);
        let of_repairer = Arc::clone(&memory);
        let repair = move || {
            // Twice: the first repairer may have died on the way.
            of_repairer.ring().sweep(&Ids::from_iter([1]));
            of_repairer.ring().sweep(&Ids::from_iter([1]));
        };
        let jobs = vec![Box::new(repair), sender(&memory, 2, &[2]), receiver(&memory, 3, 1, &log)];
        let check = move || {
            let got = log.take();
            assert_eq!([got.clone(), drain(&memory)].concat(), [2]);
            let cursor = Cursor::default();
            assert!((0..2).all(|v| memory.ring().push(&cursor, 2, FENCELESS, &v).is_ok()), "a slot has leaked");
            seen.add(got.len());
        };
        (jobs, Box::new(check))
    });
    seen.must_have([0, 1]);
}

/// A receiver dies between claim and release: its message goes to somebody else, once, and whole.
#[test]
fn repair_redelivers_what_a_dead_receiver_had_claimed() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, log, seen) = (Memory::owned(2), Log::default(), add.clone());
        let proof = loom::sync::Arc::new(AtomicU32::new(0));
        let cursor = Cursor::default();
        memory.ring().push(&cursor, 2, FENCELESS, &1).unwrap();
        let last = |ring: &Owned<u64>| {
            if let Ok(claim) = ring.claim_full(&Cursor::default(), 1) {
                assert_eq!(ring.read(&claim), 1);
                core::mem::forget(claim);
            }
        };
        let jobs = vec![dies(&memory, &proof, last), repairer(&memory, &proof), receiver(&memory, 3, 2, &log)];
        let check = move || {
            let got = log.take();
            assert_eq!([got.clone(), drain(&memory)].concat(), [1]);
            seen.add(got.len());
        };
        (jobs, Box::new(check))
    });
    seen.must_have([0, 1]);
}

/// A receiver dies with a run in hand, or while it gives it back: beside a live receiver and a sender all of it comes again, or
/// nothing.
#[test]
fn repair_redelivers_a_run_or_nothing_of_it() {
    for done in [false, true] {
        let seen = Seen::new();
        let add = seen.clone();
        explore(Some(2), move || {
            let (memory, log, seen) = (Memory::owned(2), Log::default(), add.clone());
            let proof = loom::sync::Arc::new(AtomicU32::new(0));
            memory.ring().push_run(&Cursor::default(), 2, FENCELESS, &[1, 2]).unwrap();
            let taken = Log::default();
            let of_dead = taken.clone();
            let last = move |ring: &Owned<u64>| {
                // Both, or what the other receiver has left.
                if let Ok(run) = ring.claim_full_run(&Cursor::default(), 1, 2) {
                    if done && run.len() == 2 {
                        ring.mark_done(&run);
                        ring.read_run(&run).for_each(|value| of_dead.add(value));
                    }
                    core::mem::forget(run);
                }
            };
            let jobs = vec![dies(&memory, &proof, last), repairer(&memory, &proof), receiver(&memory, 3, 2, &log)];
            let check = move || {
                let (got, taken) = (log.take(), taken.take());
                assert_eq!(sorted([got.clone(), drain(&memory), taken.clone()].concat()), [1, 2]);
                let cursor = Cursor::default();
                assert!((0..2).all(|v| memory.ring().push(&cursor, 2, FENCELESS, &v).is_ok()), "a slot has leaked");
                seen.add((taken.len(), got.len()));
            };
            (jobs, Box::new(check))
        });
        seen.must_have(if done { vec![(2, 0), (0, 1)] } else { vec![(0, 0), (0, 1), (0, 2)] });
    }
}

/// A receiver whose cursor is already past an ORPHAN finds it by the repair number alone.
#[test]
fn repair_is_noticed_by_a_receiver_that_was_past_it() {
    explore(None, move || {
        let (memory, log) = (Memory::owned(2), Log::default());
        let (cursor, reader) = (Cursor::default(), Arc::new(Cursor::default()));
        let ring = memory.ring();
        ring.push(&cursor, 2, FENCELESS, &1).unwrap();
        ring.push(&cursor, 2, FENCELESS, &2).unwrap();
        // Participant 1 claims the first message and dies; 3 takes the second, which puts its cursor past both.
        core::mem::forget(ring.claim_full(&Cursor::default(), 1).unwrap());
        assert_eq!(ring.pop(&reader, 3), Ok(2));
        let (of_repairer, of_reader, log_of_reader) = (Arc::clone(&memory), Arc::clone(&memory), log.clone());
        let look = Arc::clone(&reader);
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                of_repairer.ring().sweep(&Ids::from_iter([1]));
            }),
            Box::new(move || {
                if let Ok(value) = of_reader.ring().pop(&look, 3) {
                    log_of_reader.add(value);
                }
            }),
        ];
        let check = move || {
            // Whatever that look saw, the same reader's next one finds it.
            let later = memory.ring().pop(&reader, 3).ok();
            assert_eq!([log.take(), Vec::from_iter(later)].concat(), [1]);
        };
        (jobs, Box::new(check))
    });
}

/// A send against a close against a receiver that wants to know whether it is over: a send that returned is received
/// before Closed, whoever closes.
#[test]
fn close_comes_after_every_send_that_returned() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, seen) = (Memory::owned(2), add.clone());
        let outcome = Arc::new(Mutex::new((None, None)));
        let (of_sender, of_closer, of_receiver) = (Arc::clone(&memory), Arc::clone(&memory), Arc::clone(&memory));
        let (sent, received) = (Arc::clone(&outcome), Arc::clone(&outcome));
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let result = of_sender.ring().push(&Cursor::default(), 1, MODE, &5);
                sent.lock().unwrap().0 = Some(result.is_ok());
            }),
            Box::new(move || of_closer.header.control.close(MODE)),
            Box::new(move || {
                let (ring, cursor) = (of_receiver.ring(), Cursor::default());
                let control = &of_receiver.header.control;
                let verdict = if control.is_closed(MODE) {
                    match ring.pop(&cursor, 2) {
                        Ok(_) => "message",
                        Err(Empty { pending: true }) => "not yet",
                        Err(Empty { pending: false }) => "closed",
                    }
                } else {
                    "open"
                };
                received.lock().unwrap().1 = Some(verdict);
            }),
        ];
        let check = move || {
            let (sent, verdict) = *outcome.lock().unwrap();
            let (sent, verdict) = (sent.unwrap(), verdict.unwrap());
            assert!(!(sent && verdict == "closed"), "Closed was said and then a message arrived");
            if !sent {
                assert!(drain(&memory).is_empty());
            }
            seen.add((sent, verdict));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(true, "message"), (true, "open"), (false, "closed"), (true, "not yet")]);
}

/// A reader that gives its message back has read it before the slot is written again.
#[test]
fn owned_gives_back_after_its_reads() {
    let seen = Seen::new();
    let outcomes = seen.clone();
    explore(None, move || {
        let memory = Memory::owned(1);
        memory.ring().push(&Cursor::default(), 1, FENCELESS, &7).unwrap();
        let (of_reader, of_other, outcomes) = (memory.clone(), memory.clone(), outcomes.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let ring = of_reader.ring();
                if let Ok(claim) = ring.claim_full(&Cursor::default(), 2) {
                    assert!(matches!(ring.read(&claim), 7 | 8));
                    ring.give_back(claim);
                }
            }),
            Box::new(move || {
                let (ring, cursor) = (of_other.ring(), Cursor::default());
                let taken = ring.pop(&cursor, 3).is_ok();
                if taken {
                    ring.push(&Cursor::default(), 3, FENCELESS, &8).unwrap();
                }
                outcomes.add(taken);
            }),
        ];
        let check = move || assert_eq!(drain(&memory).len(), 1, "delivered once");
        (jobs, Box::new(check))
    });
    seen.must_have([true, false]);
}

/// A closed ring has ended for a receiver only when what another one is reading is settled; whoever waits for that is told.
#[test]
fn close_waits_for_what_may_come_back() {
    for gives_back in [false, true] {
        let seen = Seen::new();
        let outcomes = seen.clone();
        explore(Some(3), move || {
            let memory = Memory::<Slot<u64>>::owned(1);
            let header = memory.ring();
            header.push(&Cursor::default(), 1, MODE, &7).unwrap();
            memory.header.control.close(MODE);
            let (of_reader, of_waiter, got) = (memory.clone(), memory.clone(), Log::default());
            let (by_reader, by_waiter, outcomes) = (got.clone(), got.clone(), outcomes.clone());
            let jobs: Vec<Job> = vec![
                Box::new(move || {
                    let (ring, events) = (of_reader.ring(), &of_reader.header);
                    let Ok(claim) = ring.claim_full(&Cursor::default(), 2) else { return };
                    if gives_back {
                        ring.give_back(claim);
                        events.not_empty.notify(1, MODE);
                    } else {
                        by_reader.add(ring.take(claim));
                        events.not_full.notify(1, MODE);
                        if events.control.is_closing() {
                            events.not_empty.notify(ALL, MODE);
                        }
                    }
                }),
                Box::new(move || {
                    let (ring, cursor) = (of_waiter.ring(), Cursor::default());
                    let attempt = || match ring.claim_full(&cursor, 3) {
                        Ok(claim) => ControlFlow::Break(Some(ring.take(claim))),
                        Err(_) if ring.is_unsettled(3, 0) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(None),
                    };
                    let result = of_waiter.header.not_empty.wait(&Still, None, attempt).expect("no deadline");
                    result.iter().for_each(|&value| by_waiter.add(value));
                    outcomes.add(result);
                }),
            ];
            (jobs, Box::new(move || assert_eq!(got.take(), [7])))
        });
        seen.must_have(if gives_back { vec![Some(7)] } else { vec![Some(7), None] });
    }
}

/// Both ends of an SPSC ring of one slot: in order, whole, and the slot reused only after its reader.
#[test]
fn spsc_delivers_in_order() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(None, move || {
        let (memory, seen) = (Memory::spsc(1), add.clone());
        let (of_sender, of_receiver) = (Arc::clone(&memory), Arc::clone(&memory));
        let log = Log::default();
        let got = log.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let (ring, mut position) = (of_sender.ring(), Position::default());
                let mut value = 1;
                for _ in 0..3 {
                    if ring.room(&mut position, 1) > 0 {
                        ring.write(&position, 0, &value);
                        ring.commit(&mut position, 1);
                        value += 1;
                    }
                }
            }),
            Box::new(move || {
                let (ring, mut position) = (of_receiver.ring(), Position::default());
                for _ in 0..3 {
                    if ring.ready(&mut position, 1) > 0 {
                        got.add(ring.read(&position, 0));
                        ring.release(&mut position, 1);
                    }
                }
            }),
        ];
        let check = move || {
            let ring = memory.ring();
            let mut position = ring.receiver_position();
            let mut all = log.take();
            seen.add(all.clone());
            while ring.ready(&mut position, 1) > 0 {
                all.push(ring.read(&position, 0));
                ring.release(&mut position, 1);
            }
            assert!(all.len() <= 3 && all.iter().zip(1..).all(|(&got, sent)| got == sent), "{all:?}");
        };
        (jobs, Box::new(check))
    });
    seen.must_have([vec![], vec![1], vec![1, 2], vec![1, 2, 3]]);
}

/// Where an event is waited on in a model: nothing dies, nobody spins.
struct Still;

impl Surroundings for Still {
    fn fence_mode(&self) -> FenceMode {
        MODE
    }
    fn may_spin(&self) -> bool {
        false
    }
    fn look(&self) {}
}

/// A counter of things to take, with the event that announces them.
struct Stock {
    event: Event,
    things: AtomicU32,
}

impl Stock {
    fn new() -> loom::sync::Arc<Self> {
        loom::sync::Arc::new(Self { event: Event::new(), things: AtomicU32::new(0) })
    }

    fn put(&self) {
        self.things.fetch_add(1, Ordering::Release);
        self.event.notify(1, MODE);
    }

    /// Lock-free as a ring's claim is: fails only if there is nothing.
    fn take(&self) -> ControlFlow<()> {
        let mut now = self.things.load(Relaxed);
        while now > 0 {
            // Acquire: as a ring's claim.
            match self.things.compare_exchange(now, now - 1, Ordering::Acquire, Relaxed) {
                Ok(_) => return ControlFlow::Break(()),
                Err(changed) => now = changed,
            }
        }
        ControlFlow::Continue(())
    }

    fn wait(&self) {
        self.event.wait(&Still, None, || self.take()).expect("no deadline");
    }
}

/// A sleeper that is not woken is a deadlock, which loom reports.
#[test]
fn event_wakes_one_sleeper() {
    explore(None, move || {
        let stock = Stock::new();
        let (of_putter, of_taker) = (stock.clone(), stock.clone());
        let jobs: Vec<Job> = vec![Box::new(move || of_putter.put()), Box::new(move || of_taker.wait())];
        (jobs, Box::new(move || assert_eq!(stock.things.load(Relaxed), 0)))
    });
}

/// Two sleepers, two things put by one thread: each put wakes one.
#[test]
fn event_wakes_as_many_as_there_are_things() {
    explore(Some(2), move || {
        let stock = Stock::new();
        let (of_putter, first, second) = (stock.clone(), stock.clone(), stock.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                of_putter.put();
                of_putter.put();
            }),
            Box::new(move || first.wait()),
            Box::new(move || second.wait()),
        ];
        (jobs, Box::new(move || assert_eq!(stock.things.load(Relaxed), 0)))
    });
}

/// Two putters, one sleeper that takes twice: a ticket answered by one notifier must not hide it from the other.
#[test]
fn event_is_not_answered_too_early() {
    explore(Some(2), move || {
        let stock = Stock::new();
        let (first, second, of_taker) = (stock.clone(), stock.clone(), stock.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || first.put()),
            Box::new(move || second.put()),
            Box::new(move || {
                of_taker.wait();
                of_taker.wait();
            }),
        ];
        (jobs, Box::new(move || assert_eq!(stock.things.load(Relaxed), 0)))
    });
}

/// A sleeper that leaves after its first sleep, whoever ended that. Counts how often it was asked for the time.
struct Leaver(core::cell::Cell<u32>);

impl Surroundings for Leaver {
    fn fence_mode(&self) -> FenceMode {
        MODE
    }
    fn may_spin(&self) -> bool {
        false
    }
    fn look(&self) {}
    fn passed(&self, _: Deadline) -> bool {
        self.0.replace(self.0.get() + 1) == 2
    }
}

/// Two sleepers and one thing; one of them leaves at its deadline without having taken it. If the wake was spent on that
/// one, it must be passed on.
#[test]
fn event_passes_the_wake_of_a_leaver_on() {
    explore(Some(2), move || {
        let stock = Stock::new();
        let over = loom::sync::Arc::new(AtomicU32::new(0));
        let (of_putter, of_leaver, of_taker) = (stock.clone(), stock.clone(), stock.clone());
        let is_over = over.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || of_putter.put()),
            Box::new(move || {
                let take_nothing = || match is_over.load(Relaxed) {
                    0 => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                };
                of_leaver.event.wait(&Leaver(0.into()), Some(Deadline(0)), take_nothing);
            }),
            Box::new(move || {
                of_taker.wait();
                // What the leaver's clock would do.
                over.store(1, Relaxed);
                of_taker.event.notify(ALL, MODE);
            }),
        ];
        (jobs, Box::new(move || assert_eq!(stock.things.load(Relaxed), 0)))
    });
}
