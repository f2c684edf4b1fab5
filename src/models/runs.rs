//! The MPMC ring: runs.

use super::*;

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
            ring.release_run(&run);
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
    explore(Some(1), move || {
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

/// Whoever has received the first of a run finds the second, whatever it still looks like on the way.
#[test]
fn owned_runs_arrive_all_at_once() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(None, move || {
        let (memory, seen) = (Memory::owned(2), add.clone());
        let other = Arc::clone(&memory);
        let look = move || {
            let (ring, cursor) = (other.ring(), Cursor::default());
            let first = ring.pop(&cursor, 3).ok();
            seen.add(first);
            if first.is_some() {
                assert_eq!((first, ring.pop(&cursor, 3)), (Some(1), Ok(2)));
            }
        };
        let jobs: Vec<Job> = vec![run_sender(&memory, 1, &[1, 2]), Box::new(look)];
        (jobs, Box::new(move || drop(memory)))
    });
    seen.must_have([None, Some(1)]);
}
