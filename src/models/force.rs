//! Sends that take the place of the oldest message.

use super::*;
use crate::ring::owned::Refused;

/// Sends `value` in place of the oldest message if the ring is full, as `Sender::force_send` does, with a few tries.
fn force(memory: &Arc<Memory<Slot<u64>>>, owner: u16, value: u64, displaced: &Log) -> Job {
    let (memory, displaced) = (Arc::clone(memory), displaced.clone());
    Box::new(move || {
        let (ring, cursor) = (memory.ring(), Cursor::default());
        for _ in 0..3 {
            match ring.push(&cursor, owner, FENCELESS, &value) {
                Ok(()) => return displaced.add(100),
                Err(Refused::Full) => {}
                Err(Refused::Closed | Refused::Lost) => unreachable!(),
            }
            if let Ok(Some(claim)) = ring.claim_oldest(&cursor, owner, FENCELESS) {
                displaced.add(ring.read(&claim));
                let claim = ring.take_its_place(&cursor, owner, claim);
                ring.write(&claim, &value);
                return ring.commit(claim);
            }
            thread::yield_now();
        }
        displaced.add(value);
    })
}

/// A full ring of two, a sender that displaces, and a receiver: each message is received or displaced, once, and in order.
#[test]
fn owned_displaces_the_oldest() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, log, displaced, seen) = (Memory::owned(2), Log::default(), Log::default(), add.clone());
        let (ring, cursor) = (memory.ring(), Cursor::default());
        ring.push(&cursor, 9, FENCELESS, &1).unwrap();
        ring.push(&cursor, 9, FENCELESS, &2).unwrap();
        let jobs = vec![force(&memory, 1, 3, &displaced), receiver(&memory, 2, 2, &log)];
        let check = move || {
            let (got, displaced) = (log.take(), displaced.take());
            let all = [got.clone(), drain(&memory)].concat();
            assert!(all.is_sorted(), "{all:?}");
            let all: Vec<u64> = [all, displaced.clone()].concat().into_iter().filter(|&n| n != 100).collect();
            assert_eq!(sorted(all), [1, 2, 3], "{displaced:?}");
            seen.add((got, displaced));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(vec![1, 2], vec![100]), (vec![2, 3], vec![1]), (vec![2], vec![1])]);
}

/// Two senders that displace in a full ring of one, and one that just sends.
#[test]
fn owned_displaces_once_for_each_sender() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, displaced, seen) = (Memory::owned(1), Log::default(), add.clone());
        memory.ring().push(&Cursor::default(), 9, FENCELESS, &1).unwrap();
        let jobs = vec![force(&memory, 1, 2, &displaced), force(&memory, 2, 3, &displaced)];
        let check = move || {
            let (left, displaced) = (drain(&memory), displaced.take());
            assert_eq!(left.len(), 1);
            assert_eq!(sorted([left.clone(), displaced.clone()].concat()), [1, 2, 3]);
            seen.add((left, displaced));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(vec![3], vec![1, 2]), (vec![2], vec![1, 3])]);
}
