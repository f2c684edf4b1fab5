//! Repair after participants that died holding slots.

use super::*;

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
    explore(Some(1), move || {
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

/// A sender has died with a run in hand, just before it would have committed it: nothing of it arrives beside a live sender and a
/// receiver, and its slots are free again.
#[test]
fn repair_aborts_a_dead_senders_run() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, log, seen) = (Memory::owned(2), Log::default(), add.clone());
        let run = memory.ring().claim_free_run(&Cursor::default(), 1, 2).expect("room");
        assert_eq!(run.len(), 2);
        memory.slots[1].word.store(SlotWord::new(0, state::FULL, 0).0, Relaxed);
        core::mem::forget(run);
        let of_repairer = Arc::clone(&memory);
        let repair = move || {
            of_repairer.ring().sweep(&Ids::from_iter([1]));
        };
        let jobs = vec![Box::new(repair), sender_if_room(&memory, 2, 2), receiver(&memory, 3, 1, &log)];
        let check = move || {
            let got = log.take();
            let all = [got.clone(), drain(&memory)].concat();
            assert!(all.is_empty() || all == [2], "{all:?}");
            let cursor = Cursor::default();
            assert!((0..2).all(|v| memory.ring().push(&cursor, 2, FENCELESS, &v).is_ok()), "a slot has leaked");
            assert_eq!(drain(&memory), [0, 1]);
            seen.add((all.len(), got.len()));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(0, 0), (1, 0), (1, 1)]);
}

/// A sender with id `owner` of one message, if there is room.
fn sender_if_room(memory: &Arc<Memory<Slot<u64>>>, owner: u16, value: u64) -> Job {
    let memory = Arc::clone(memory);
    Box::new(move || {
        let _ = memory.ring().push(&Cursor::default(), owner, FENCELESS, &value);
    })
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
