//! Receivers that remember what they have passed over while it was being written.

use super::*;
use crate::ring::owned::Claim;

/// A ring whose first slot is being written, with the receiver's cursor that has taken the message behind it and remembers that.
fn stalled() -> (Arc<Memory<Slot<u64>>>, Cursor, Claim, Arc<Cursor>) {
    let (memory, sender, receiver) = (Memory::owned(8), Cursor::default(), Cursor::default());
    let ring = memory.ring();
    let first = ring.claim_free(&sender, 1).unwrap();
    ring.push(&sender, 1, FENCELESS, &9).unwrap();
    assert_eq!(ring.pop(&receiver, 3), Ok(9));
    assert_eq!(receiver.remembers(), Some(2));
    (memory, sender, first, receiver.shared())
}

fn fill(ring: &Owned<u64>, claim: Claim, value: u64) {
    ring.write(&claim, &value);
    ring.commit(claim);
}

/// The stalled sender goes on, and then sends another message: they are received in order.
#[test]
fn stalled_slots_that_are_remembered_keep_their_place() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, sender, first, receiver) = stalled();
        let (of_sender, of_receiver, log, seen) = (memory.clone(), memory.clone(), Log::default(), add.clone());
        let got = log.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let ring = of_sender.ring();
                fill(&ring, first, 10);
                ring.push(&sender, 1, FENCELESS, &11).unwrap();
            }),
            Box::new(move || {
                let ring = of_receiver.ring();
                (0..2).filter_map(|_| ring.pop(&receiver, 3).ok()).for_each(|value| got.add(value));
            }),
        ];
        let check = move || {
            let got = log.take();
            assert_eq!([got.clone(), drain(&memory)].concat(), [10, 11]);
            seen.add(got);
        };
        (jobs, Box::new(check))
    });
    seen.must_have([vec![], vec![10], vec![10, 11]]);
}

/// One thread takes a message behind the stalled slot. Another one that goes on where the first one has come to sees what was sent
/// before that message, and does not find the ring empty.
#[test]
fn stalled_slots_are_remembered_with_what_was_seen_behind_them() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, sender, first, receiver) = stalled();
        core::mem::forget(first);
        let second = memory.ring().claim_free(&sender, 1).unwrap();
        let (of_one, of_other) = (memory.clone(), memory);
        let (by_one, by_other, seen) = (Arc::clone(&receiver), receiver, add.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let ring = of_one.ring();
                ring.push(&sender, 1, FENCELESS, &12).unwrap();
                fill(&ring, second, 11);
                assert_eq!(ring.pop(&by_one, 3), Ok(11));
            }),
            Box::new(move || {
                if by_other.remembers() == Some(3) {
                    assert_eq!(of_other.ring().pop(&by_other, 3), Ok(12));
                    seen.add(());
                }
            }),
        ];
        (jobs, Box::new(|| {}))
    });
    seen.must_have([()]);
}

/// One thread remembers a second stalled slot while another one recalls: that one does not take half of a memory for the whole, and
/// pass over a message.
#[test]
fn stalled_slots_are_remembered_all_at_once() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, sender, first, receiver) = stalled();
        core::mem::forget(first);
        let second = memory.ring().claim_free(&sender, 1).unwrap();
        memory.ring().push(&sender, 1, FENCELESS, &12).unwrap();
        let (of_one, of_other) = (memory.clone(), memory);
        let (by_one, by_other, seen) = (Arc::clone(&receiver), receiver, add.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let ring = of_one.ring();
                let _ = ring.pop(&by_one, 3);
                fill(&ring, second, 11);
                ring.push(&sender, 1, FENCELESS, &13).unwrap();
            }),
            Box::new(move || {
                let got = of_other.ring().pop(&by_other, 3).ok();
                assert_ne!(got, Some(13), "11 was sent before, and nobody else takes it");
                seen.add(got);
            }),
        ];
        (jobs, Box::new(|| {}))
    });
    seen.must_have([Some(12), Some(11), None]);
}
