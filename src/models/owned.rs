//! The MPMC ring: single messages.

use super::*;

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

/// Whoever takes a message that was given back shows what it had seen committed before: nobody says Empty between both.
#[test]
fn owned_takes_what_was_given_back_after_what_it_had_seen() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, seen) = (Memory::owned(4), add.clone());
        let ring = memory.ring();
        ring.push(&Cursor::default(), 1, FENCELESS, &1).unwrap();
        ring.give_back(ring.claim_full(&Cursor::default(), 1).unwrap());
        let (of_first, of_looker) = (memory.clone(), memory.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let ring = of_first.ring();
                ring.push(&Cursor::default(), 2, FENCELESS, &2).unwrap();
                let _ = ring.pop(&Cursor::default(), 2);
            }),
            Box::new(move || {
                let found = of_looker.ring().pop(&Cursor::default(), 3);
                assert!(found.is_ok(), "there was a message at every moment");
                seen.add(found.ok());
            }),
        ];
        (jobs, Box::new(move || drop(memory)))
    });
    seen.must_have([Some(1), Some(2)]);
}
