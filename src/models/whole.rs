//! The MPMC ring: runs that stay whole, as messages of bytes are. The payloads of a run's slots stand for its blocks.

use super::*;
use crate::ring::owned::{Refused, Run};

impl Memory<Slot<u64>> {
    fn whole(&self) -> Owned<u64> {
        self.ring().of_whole_runs()
    }

    fn block(&self, run: &Run, offset: usize) -> &Payload<u64> {
        &self.slots[(run.position() as usize + offset) % self.slots.len()].payload
    }

    /// Sends `value`, `value + 1` and so on as one message of `length` blocks.
    fn send_whole(&self, cursor: &Cursor, owner: u16, length: usize, value: u64) -> Result<(), Refused> {
        let run = self.whole().reserve_whole(cursor, owner, FENCELESS, length)?;
        assert_eq!(run.len(), length);
        for offset in 1..length {
            // SAFETY: the run is ours.
            unsafe { self.block(&run, offset).write(&(value + offset as u64)) }
        }
        self.whole().commit_whole(&run, value);
        Ok(())
    }

    /// The blocks of a message.
    fn read_whole(&self, run: &Run) -> Vec<u64> {
        // SAFETY: the run is ours.
        let block = |offset| unsafe { self.block(run, offset).read() };
        std::iter::once(self.whole().length(run)).chain((1..run.len()).map(block)).collect()
    }

    fn receive_whole(&self, cursor: &Cursor, owner: u16) -> Result<Vec<u64>, Empty> {
        let run = self.whole().claim_whole(cursor, owner)?;
        let message = self.read_whole(&run);
        self.whole().release_run(&run);
        Ok(message)
    }

    /// What is left, by a fresh receiver; and then all of the ring can be had at once.
    fn drain_whole(&self) -> Vec<Vec<u64>> {
        let cursor = Cursor::default();
        let left: Vec<_> = core::iter::from_fn(|| self.receive_whole(&cursor, 9).ok()).collect();
        assert_eq!(self.send_whole(&Cursor::default(), 9, self.slots.len(), 50), Ok(()), "a slot has leaked");
        assert_eq!(self.receive_whole(&cursor, 9).map(|message| message.len()), Ok(self.slots.len()));
        left
    }
}

#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<Vec<u64>>>>);

impl Messages {
    fn add(&self, message: Vec<u64>) {
        self.0.lock().unwrap().push(message);
    }

    fn take(&self) -> Vec<Vec<u64>> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A ring of which three slots have been used, so that a run goes around its end.
fn around_the_end(capacity: usize) -> (Arc<Memory<Slot<u64>>>, Cursor, Cursor) {
    let memory = Memory::owned(capacity);
    let (to_send, to_receive) = (Cursor::default(), Cursor::default());
    for _ in 0..3 {
        memory.send_whole(&to_send, 1, 1, 0).unwrap();
        memory.receive_whole(&to_receive, 1).unwrap();
    }
    (memory, to_send, to_receive)
}

fn whole_receiver(memory: &Arc<Memory<Slot<u64>>>, cursor: Cursor, looks: usize, log: &Messages) -> Job {
    let (memory, log) = (Arc::clone(memory), log.clone());
    Box::new(move || {
        for _ in 0..looks {
            memory.receive_whole(&cursor, 3).into_iter().for_each(|message| log.add(message));
        }
    })
}

/// One of two blocks around the end beside two of one, for all of which there is room: nobody is told that there is none, none
/// is cut, each arrives once, those of one sender in order.
#[test]
fn whole_runs_are_claimed_exactly_beside_others() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(1), move || {
        let (memory, cursor, to_receive) = around_the_end(4);
        let (log, seen) = (Messages::default(), add.clone());
        let (of_large, of_small, to_send) = (Arc::clone(&memory), Arc::clone(&memory), cursor.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || assert_eq!(of_large.send_whole(&cursor, 1, 2, 10), Ok(()))),
            Box::new(move || {
                for value in [20, 30] {
                    assert_eq!(of_small.send_whole(&to_send, 2, 1, value), Ok(()));
                }
            }),
            whole_receiver(&memory, to_receive, 1, &log),
        ];
        let check = move || {
            let got = log.take();
            let all = [got.clone(), memory.drain_whole()].concat();
            let at = |value| all.iter().position(|message| message[0] == value).expect("delivered");
            assert!(at(20) < at(30), "{all:?}");
            let mut sorted = all.clone();
            sorted.sort();
            assert_eq!(sorted, [vec![10, 11], vec![20], vec![30]]);
            seen.add(got);
        };
        (jobs, Box::new(check))
    });
    seen.must_have([vec![], vec![vec![10, 11]], vec![vec![20]]]);
}

/// One of two blocks in a ring of two beside one of one: all of it, or none.
#[test]
fn whole_runs_are_not_cut_to_what_is_free() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, log, seen) = (Memory::owned(2), Messages::default(), add.clone());
        let (of_large, of_small) = (Arc::clone(&memory), Arc::clone(&memory));
        let sent = Arc::new(Mutex::new([false; 2]));
        let (large, small) = (Arc::clone(&sent), Arc::clone(&sent));
        let jobs: Vec<Job> = vec![
            Box::new(move || large.lock().unwrap()[0] = of_large.send_whole(&Cursor::default(), 1, 2, 10).is_ok()),
            Box::new(move || small.lock().unwrap()[1] = of_small.send_whole(&Cursor::default(), 2, 1, 20).is_ok()),
            whole_receiver(&memory, Cursor::default(), 1, &log),
        ];
        let check = move || {
            let sent = *sent.lock().unwrap();
            let mut all = [log.take(), memory.drain_whole()].concat();
            all.sort();
            let expected = [sent[0].then(|| vec![10, 11]), sent[1].then(|| vec![20])];
            assert_eq!(all, expected.into_iter().flatten().collect::<Vec<_>>());
            seen.add(sent);
        };
        (jobs, Box::new(check))
    });
    seen.must_have([[true, false], [false, true], [true, true]]);
}

/// Blocks are written again only after their reader, all of them.
#[test]
fn whole_runs_are_reused_only_after_their_reader() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, log, seen) = (Memory::owned(2), Messages::default(), add.clone());
        let other = Arc::clone(&memory);
        let send = move || {
            let cursor = Cursor::default();
            other.send_whole(&cursor, 1, 2, 10).unwrap();
            seen.add((0..2).any(|_| {
                thread::yield_now();
                other.send_whole(&cursor, 1, 2, 20).is_ok()
            }));
        };
        let jobs: Vec<Job> = vec![Box::new(send), whole_receiver(&memory, Cursor::default(), 1, &log)];
        let check = move || {
            let all = [log.take(), memory.drain_whole()].concat();
            assert!(all == [[10, 11]] || all == [[10, 11], [20, 21]], "{all:?}");
        };
        (jobs, Box::new(check))
    });
    seen.must_have([false, true]);
}

/// As `owned_says_empty_only_when_it_was`, with runs: the receiver that has passed the first one over takes the second.
#[test]
fn whole_runs_are_not_missed_by_empty() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, seen) = (Memory::owned(4), add.clone());
        let cursor = Cursor::default();
        let stalled = memory.whole().reserve_whole(&cursor, 1, FENCELESS, 2).unwrap();
        memory.send_whole(&cursor, 2, 2, 20).unwrap();
        let (of_stalled, of_looker) = (Arc::clone(&memory), Arc::clone(&memory));
        let commit_then_take = move || {
            // SAFETY: the run is ours.
            unsafe { of_stalled.block(&stalled, 1).write(&11) }
            of_stalled.whole().commit_whole(&stalled, 10);
            let _ = of_stalled.receive_whole(&Cursor::at(2), 4);
        };
        let look = move || seen.add(of_looker.receive_whole(&Cursor::default(), 3).map_err(|Empty { .. }| ()));
        let jobs: Vec<Job> = vec![Box::new(commit_then_take), Box::new(look)];
        (jobs, Box::new(move || drop(memory)))
    });
    seen.must_have([Ok(vec![10, 11]), Ok(vec![20, 21])]);
    assert!(!seen.0.lock().unwrap().contains(&Err(())), "Empty while a message was there");
}

/// A receiver gives a run back, or dies with it, or while it gives it to the senders: all of it comes again, as one, or nothing.
#[test]
fn whole_runs_come_again_as_one() {
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        GivesBack,
        Dies,
        DiesDone,
    }
    for end in [End::GivesBack, End::Dies, End::DiesDone] {
        let seen = Seen::new();
        let add = seen.clone();
        explore(Some(1), move || {
            let (memory, cursor, to_receive) = around_the_end(4);
            memory.send_whole(&cursor, 1, 2, 10).unwrap();
            let (log, taken, seen) = (Messages::default(), Messages::default(), add.clone());
            let proof = loom::sync::Arc::new(AtomicU32::new(0));
            let (of_first, of_dead, other) = (to_receive.clone(), taken.clone(), Arc::clone(&memory));
            let last = move |_: &Owned<u64>| {
                let Ok(run) = other.whole().claim_whole(&of_first, 1) else { return };
                let message = other.read_whole(&run);
                match end {
                    End::GivesBack => other.whole().give_back_run(&run),
                    End::Dies => {}
                    End::DiesDone => {
                        other.whole().mark_done(&run);
                        of_dead.add(message);
                    }
                }
            };
            let (of_repairer, proven) = (Arc::clone(&memory), loom::sync::Arc::clone(&proof));
            let repair = move || {
                while end != End::GivesBack && proven.load(Ordering::Acquire) == 0 {
                    thread::yield_now();
                }
                if end != End::GivesBack {
                    of_repairer.whole().sweep(&Ids::from_iter([1]));
                    of_repairer.whole().sweep(&Ids::from_iter([1]));
                }
            };
            let (of_second, by_second) = (Arc::clone(&memory), log.clone());
            let take_again = move || {
                for _ in 0..2 {
                    let Ok(run) = of_second.whole().claim_whole(&to_receive, 3) else { continue };
                    assert!(of_second.whole().claim_whole(&to_receive, 3).is_err(), "a part of it is another message");
                    by_second.add(of_second.read_whole(&run));
                    of_second.whole().release_run(&run);
                }
            };
            let jobs = vec![dies(&memory, &proof, last), Box::new(repair), Box::new(take_again)];
            let check = move || {
                let (got, taken) = (log.take(), taken.take());
                assert_eq!([taken.clone(), got.clone(), memory.drain_whole()].concat(), [[10, 11]]);
                seen.add((taken.len(), got.len()));
            };
            (jobs, Box::new(check))
        });
        seen.must_have(if end == End::DiesDone { vec![(1, 0), (0, 1)] } else { vec![(0, 0), (0, 1)] });
    }
}

/// A sender has died with a run in hand: nothing of it arrives, and its slots are free again.
#[test]
fn whole_runs_of_a_dead_sender_are_no_messages() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, cursor, to_receive) = around_the_end(4);
        core::mem::forget(memory.whole().reserve_whole(&cursor, 1, FENCELESS, 3).unwrap());
        let (log, seen) = (Messages::default(), add.clone());
        let (of_repairer, of_sender) = (Arc::clone(&memory), Arc::clone(&memory));
        let jobs: Vec<Job> = vec![
            Box::new(move || _ = of_repairer.whole().sweep(&Ids::from_iter([1]))),
            Box::new(move || _ = of_sender.send_whole(&cursor, 2, 2, 20)),
            whole_receiver(&memory, to_receive, 1, &log),
        ];
        let check = move || {
            let got = log.take();
            let all = [got.clone(), memory.drain_whole()].concat();
            assert!(all.is_empty() || all == [[20, 21]], "{all:?}");
            seen.add((all.len(), got.len()));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(0, 0), (1, 0), (1, 1)]);
}
