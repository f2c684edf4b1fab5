//! The MPMC ring one step at a time, in one thread: claims stay open while others go on, as with processes that are
//! stopped or killed between two steps. Then what only a death or a hostile peer can leave in the words.

use core::ptr::NonNull;
use std::sync::atomic::AtomicBool;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ids::Ids;
use crate::ring::slot_stride;

const CANARY: u64 = 0x6361_6e61_7279_2121;
/// Where the count of laps starts anew in a ring of 4 slots.
const LAPS: u64 = laps_of(4);
/// Words before and behind the slots that nothing may touch.
const GUARD: usize = 64;

/// Where the count of laps starts anew: positions have 52 bits in a word.
const fn laps_of(capacity: u64) -> u64 {
    (1 << 52) / capacity
}

/// A ring of `u64` whose slots lie between canaries.
struct Bed {
    header: Box<Header>,
    memory: Box<[AtomicU64]>,
    capacity: u64,
    ring: Owned<u64>,
}

/// Words per slot of a `u64`: the slot's word and the message.
const STRIDE: usize = slot_stride(8, 8).unwrap() / 8;

impl Bed {
    fn new(capacity: u64) -> Self {
        let slots = capacity as usize * STRIDE;
        let memory: Box<[AtomicU64]> = (0..slots + 2 * GUARD)
            .map(|i| AtomicU64::new(if (GUARD..GUARD + slots).contains(&i) { 0 } else { CANARY }))
            .collect();
        let header = Header::new();
        let first = NonNull::from(&*memory).cast::<AtomicU64>();
        // SAFETY: the guard in front is part of the memory.
        let first = unsafe { first.add(GUARD) };
        // SAFETY: header and slots live as long as the bed, whose fields are not replaced; any bits are a `u64`.
        let ring = unsafe { Owned::new(NonNull::from(&*header), first.cast(), capacity) };
        Self { header, memory, capacity, ring }
    }

    /// A ring that looks as if `lap` laps had gone by.
    fn in_lap(capacity: u64, lap: u64) -> Self {
        let bed = Self::new(capacity);
        for index in 0..capacity {
            bed.set(index, bed.at(lap, 0, state::FREE, 0));
        }
        bed.header.tail.store(lap * capacity, Ordering::Relaxed);
        bed.header.head.store(lap * capacity, Ordering::Relaxed);
        bed
    }

    fn word(&self, index: u64) -> &AtomicU64 {
        &self.memory[GUARD + index as usize * STRIDE]
    }

    fn payload(&self, index: u64) -> &AtomicU64 {
        &self.memory[GUARD + index as usize * STRIDE + 1]
    }

    /// The word of a slot, whichever, that begins a run with `extra` more.
    fn at(&self, lap: u64, extra: u64, state: u64, owner: u16) -> SlotWord {
        SlotWord::new(lap * self.capacity + extra, state, owner)
    }

    fn set(&self, index: u64, word: SlotWord) {
        self.word(index).store(word.0, Ordering::Relaxed);
    }

    fn get(&self, index: u64) -> (u64, u64, u16) {
        let word = SlotWord(self.word(index).load(Ordering::Relaxed));
        (word.round() / self.capacity, word.state(), word.owner())
    }

    /// A message that was committed in `lap`.
    fn put(&self, index: u64, lap: u64, state: u64, owner: u16, message: u64) {
        self.payload(index).store(message, Ordering::Relaxed);
        self.set(index, self.at(lap, 0, state, owner));
    }

    fn repairs(&self) -> u64 {
        self.header.control.repairs.load(Ordering::Relaxed)
    }

    fn send(&self, cursor: &Cursor, owner: u16, message: u64) {
        assert_eq!(self.ring.push(cursor, owner, FenceMode::Full, &message), Ok(()));
    }

    fn receive(&self, cursor: &Cursor, owner: u16) -> Result<u64, Empty> {
        self.ring.pop(cursor, owner)
    }

    fn sweep(&self, dead: u16) -> Swept {
        self.ring.sweep(&Ids::from_iter([dead]))
    }

    /// Lap, as far as a word has room for it, and slot of a position.
    fn place(&self, position: u64) -> (u64, u64) {
        (position / self.capacity % laps_of(self.capacity), position % self.capacity)
    }

    fn assert_nothing_outside_was_touched(&self) {
        let slots = GUARD..GUARD + self.capacity as usize * STRIDE;
        for (i, word) in self.memory.iter().enumerate() {
            assert!(slots.contains(&i) || word.load(Ordering::Relaxed) == CANARY, "word {i} is not a slot's");
        }
    }
}

// --- the state machine ---

#[derive(Clone, Debug)]
enum Op {
    ClaimFree {
        cursor: usize,
        owner: u16,
        most: usize,
    },
    /// Commits or aborts one of the open claims of senders.
    Commit(usize),
    Abort(usize),
    ClaimFull {
        cursor: usize,
        owner: u16,
        most: usize,
    },
    /// Releases one of the open claims of receivers.
    Release(usize),
    /// The owner dies with all its claims open and is swept for.
    Die(u16),
    /// A new end, or one cloned from another.
    NewSender(usize),
    NewReceiver(usize),
    CloneSender(usize, usize),
    CloneReceiver(usize, usize),
}

const CURSORS: usize = 3;
const OWNERS: u16 = 3;

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let cursor = || 0..CURSORS;
    let owner = || prop_oneof![1..=OWNERS, Just(511_u16)];
    let most = || prop_oneof![2 => Just(1), 1 => 2..7_usize];
    let op = prop_oneof![
        8 => (cursor(), owner(), most()).prop_map(|(cursor, owner, most)| Op::ClaimFree { cursor, owner, most }),
        8 => any::<usize>().prop_map(Op::Commit),
        1 => any::<usize>().prop_map(Op::Abort),
        8 => (cursor(), owner(), most()).prop_map(|(cursor, owner, most)| Op::ClaimFull { cursor, owner, most }),
        8 => any::<usize>().prop_map(Op::Release),
        1 => owner().prop_map(Op::Die),
        1 => cursor().prop_map(Op::NewSender),
        1 => cursor().prop_map(Op::NewReceiver),
        1 => (cursor(), cursor()).prop_map(|(a, b)| Op::CloneSender(a, b)),
        1 => (cursor(), cursor()).prop_map(|(a, b)| Op::CloneReceiver(a, b)),
    ];
    vec(op, 0..400)
}

/// What has become of one position.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Writing(u16),
    /// With how many more in the same run.
    Full(u64, u64),
    Reading(u16, u64),
    Orphan(u64),
    Done,
}

/// The plain model: every position that was ever claimed, in order.
struct Model {
    base: u64,
    capacity: usize,
    fates: Vec<Fate>,
}

impl Model {
    /// The position that the next send gets, if its slot was given back, and how many of them are free, `most` or fewer.
    fn next_free(&self, most: usize) -> Option<(u64, usize)> {
        let next = self.fates.len();
        let is_free = |at: &usize| *at < self.capacity || self.fates.get(at - self.capacity) == Some(&Fate::Done);
        let free = (next..next + most).take_while(is_free).count();
        (free > 0).then_some((self.base + next as u64, free))
    }

    /// The index of the message that the next receive gets: the dead's before all others.
    fn next_due(&self) -> Option<usize> {
        let first = |wanted: fn(&Fate) -> bool| self.fates.iter().position(wanted);
        first(|fate| matches!(fate, Fate::Orphan(_))).or_else(|| first(|fate| matches!(fate, Fate::Full(..))))
    }

    fn due(&self) -> usize {
        self.fates.iter().filter(|fate| matches!(fate, Fate::Full(..) | Fate::Orphan(_))).count()
    }

    fn pending(&self) -> bool {
        self.fates.iter().any(|fate| matches!(fate, Fate::Writing(..)))
    }
}

/// An open claim: the ring's, the model's index, the owner.
type Open = (Run, usize, u16);

fn run_of(claim: &Claim, owner: u16) -> Run {
    Run { position: claim.position, extra: 0, owner }
}

fn run(capacity: u64, lap: u64, ops: &[Op]) {
    let lap = lap % laps_of(capacity);
    let bed = Bed::in_lap(capacity, lap);
    let base = lap * capacity;
    let mut model = Model { base, capacity: capacity as usize, fates: Vec::new() };
    // A new cursor begins at 0, however far the ring is: except where the count of laps is about to start anew, when 0
    // would be the next lap.
    let near_wrap = lap > laps_of(capacity) - 1000;
    let new = || Cursor::at(if near_wrap { base } else { 0 });
    let mut senders: [Cursor; CURSORS] = core::array::from_fn(|_| new());
    let mut receivers: [Cursor; CURSORS] = core::array::from_fn(|_| new());
    let (mut writing, mut reading): (Vec<Open>, Vec<Open>) = Default::default();
    let mut message = 0;
    let pick = |open: &mut Vec<Open>, i: usize| (!open.is_empty()).then(|| open.swap_remove(i % open.len()));
    for op in ops {
        match *op {
            Op::ClaimFree { cursor, owner, most } => {
                let run = match most {
                    1 => bed.ring.claim_free(&senders[cursor], owner).map(|claim| run_of(&claim, owner)).ok(),
                    most => bed.ring.claim_free_run(&senders[cursor], owner, most).ok(),
                };
                let place = run.as_ref().map(|run| (bed.place(run.position), run.len()));
                assert_eq!(place, model.next_free(most).map(|(position, count)| (bed.place(position), count)));
                if let Some(run) = run {
                    let index = model.fates.len();
                    model.fates.extend((0..run.len()).map(|_| Fate::Writing(owner)));
                    writing.push((run, index, owner));
                }
            }
            Op::Commit(i) => {
                if let Some((run, index, _)) = pick(&mut writing, i) {
                    let first = message + 1;
                    message += run.len() as u64;
                    for (offset, message) in (0..).zip(first..=message) {
                        model.fates[index + offset as usize] = Fate::Full(message, run.extra - offset);
                    }
                    match run.extra {
                        0 => {
                            let claim = run.claim();
                            bed.ring.write(&claim, &message);
                            bed.ring.commit(claim);
                        }
                        _ => bed.ring.commit_run(&run, |slot, offset| {
                            // SAFETY: the run is ours.
                            unsafe { slot.payload.write(&(first + offset as u64)) }
                        }),
                    }
                }
            }
            Op::Abort(i) => {
                if let Some((run, index, _)) = pick(&mut writing, i) {
                    model.fates[index..index + run.len()].fill(Fate::Done);
                    bed.ring.free_run(&run);
                }
            }
            Op::ClaimFull { cursor, owner, most } => {
                let run = match most {
                    1 => bed.ring.claim_full(&receivers[cursor], owner).map(|claim| run_of(&claim, owner)),
                    most => bed.ring.claim_full_run(&receivers[cursor], owner, most),
                };
                match (run, model.next_due()) {
                    (Ok(run), Some(index)) => {
                        assert_eq!(bed.place(run.position), bed.place(base + index as u64));
                        let in_run = match model.fates[index] {
                            Fate::Full(_, more) => more as usize + 1,
                            _ => 1,
                        };
                        assert_eq!(run.len(), in_run.min(most));
                        for (message, fate) in bed.ring.read_run(&run).zip(&mut model.fates[index..]) {
                            let (Fate::Full(sent, _) | Fate::Orphan(sent)) = *fate else { unreachable!() };
                            assert_eq!(message, sent);
                            *fate = Fate::Reading(owner, message);
                        }
                        reading.push((run, index, owner));
                    }
                    (Err(empty), None) => assert_eq!(empty.pending, model.pending()),
                    (got, due) => panic!("{got:?} where the model has {:?}", due.map(|index| model.fates[index])),
                }
            }
            Op::Release(i) => {
                if let Some((run, index, _)) = pick(&mut reading, i) {
                    model.fates[index..index + run.len()].fill(Fate::Done);
                    match run.extra {
                        0 => bed.ring.release(run.claim()),
                        _ => bed.ring.release_run(&run),
                    }
                }
            }
            Op::Die(dead) => {
                writing.retain(|&(_, _, owner)| owner != dead);
                reading.retain(|&(_, _, owner)| owner != dead);
                let mut expected = Swept::default();
                for fate in &mut model.fates {
                    match *fate {
                        Fate::Writing(owner) if owner == dead => {
                            expected.aborted += 1;
                            *fate = Fate::Done;
                        }
                        Fate::Reading(owner, message) if owner == dead => {
                            expected.orphaned += 1;
                            *fate = Fate::Orphan(message);
                        }
                        _ => {}
                    }
                }
                assert_eq!(bed.sweep(dead), expected);
                assert_eq!(bed.sweep(dead), Swept::default());
            }
            Op::NewSender(to) => senders[to] = new(),
            Op::NewReceiver(to) => receivers[to] = new(),
            Op::CloneSender(from, to) => senders[to] = senders[from].clone(),
            Op::CloneReceiver(from, to) => receivers[to] = receivers[from].clone(),
        }
        assert_eq!(bed.ring.len(0), model.due() as u64);
        assert_eq!(bed.ring.is_full(0), model.next_free(1).is_none());
    }
    bed.assert_nothing_outside_was_touched();
}

/// Laps of rings whose count of laps is a fraction of `laps_of(1)`.
fn laps() -> impl Strategy<Value = u64> {
    let laps = laps_of(1);
    prop_oneof![
        Just(0),
        Just(1),
        Just((1 << 32) - 1),
        (1..6_u32).prop_map(move |shift| (laps >> shift) - 1),
        (1..6_u32).prop_map(move |shift| laps >> shift),
        laps - 4..laps,
        any::<u64>().prop_map(move |lap| lap % laps)
    ]
}

fn quiet(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(quiet(300))]

    /// Every claim gets the position, and every receive the message, that a plain list of positions gives; in whatever
    /// lap, and however far behind a cursor is.
    #[test]
    fn interleaved_steps_agree_with_a_list_of_positions(shift in 0..5_u32, lap in laps(), ops in ops()) {
        run(1 << shift, lap, &ops);
    }
}

#[test]
fn capacities_beyond_the_period_of_the_hints_keep_the_order() {
    let bed = Bed::new(128);
    let (sender, receiver) = (Cursor::default(), Cursor::default());
    let (mut sent, mut received) = (0, 0);
    for batch in [128, 1, 127, 33, 64, 128, 100, 31, 32, 128] {
        for _ in 0..batch {
            bed.send(&sender, 1, sent);
            sent += 1;
        }
        assert_eq!(bed.ring.len(0), batch);
        for _ in 0..batch {
            assert_eq!(bed.receive(&receiver, 1), Ok(received));
            received += 1;
        }
        assert_eq!(bed.receive(&receiver, 1), Err(Empty { pending: false }));
    }
}

// --- words that a death leaves ---

#[test]
fn a_dead_senders_slot_goes_back_to_the_senders_one_lap_on() {
    let bed = Bed::in_lap(4, 7);
    bed.set(2, bed.at(7, 0, state::WRITING, 9));
    assert_eq!(bed.sweep(9), Swept { aborted: 1, orphaned: 0 });
    assert_eq!(bed.get(2), (8, state::FREE, 0));
}

#[test]
fn a_dead_receivers_message_is_due_again_and_whole() {
    let bed = Bed::in_lap(4, 7);
    bed.put(0, 7, state::READING, 9, 41);
    bed.put(1, 7, state::FULL, 0, 42);
    let receiver = Cursor::default();
    assert_eq!(bed.receive(&receiver, 1), Ok(42));
    assert_eq!(bed.sweep(9), Swept { aborted: 0, orphaned: 1 });
    assert_eq!(bed.get(0), (7, state::ORPHAN, 0));
    assert_eq!(bed.ring.len(0), 1);
    assert_eq!(bed.receive(&receiver, 1), Ok(41));
    assert_eq!(bed.receive(&receiver, 1), Err(Empty { pending: false }));
}

#[test]
fn several_dead_are_swept_for_at_once() {
    let bed = Bed::in_lap(4, 7);
    bed.put(0, 7, state::READING, 511, 40);
    bed.put(1, 7, state::READING, 8, 41);
    bed.set(2, bed.at(7, 0, state::WRITING, 64));
    bed.set(3, bed.at(7, 0, state::WRITING, 63));
    assert_eq!(bed.ring.sweep(&Ids::from_iter([63, 64, 511])), Swept { aborted: 2, orphaned: 1 });
    assert_eq!(bed.receive(&Cursor::default(), 1), Ok(40));
    assert_eq!(bed.get(1), (7, state::READING, 8));
}

#[test]
fn a_sweep_spares_the_living_and_what_is_finished() {
    let bed = Bed::in_lap(8, 3);
    let others = [
        bed.at(3, 0, state::WRITING, 8),
        bed.at(3, 0, state::READING, 8),
        bed.at(3, 0, state::FULL, 0),
        bed.at(3, 0, state::ORPHAN, 0),
        bed.at(4, 0, state::FREE, 0),
    ];
    for (index, &word) in others.iter().enumerate() {
        bed.set(index as u64, word);
    }
    assert_eq!(bed.sweep(9), Swept::default());
    for (index, &word) in others.iter().enumerate() {
        assert_eq!(bed.get(index as u64), (word.round() / 8, word.state(), word.owner()));
    }
}

#[test]
fn a_dead_senders_run_is_aborted_however_far_it_had_come() {
    // FREE as claimed, or FULL as it would have been; or settled by a repairer that died.
    for committed in 0..3 {
        for settled in 0..3 {
            let bed = Bed::in_lap(4, 7);
            bed.set(3, bed.at(7, 2, state::WRITING, 9));
            let (lap_of_last, last) = (8, [0, 1]);
            for (done, index) in last.into_iter().rev().enumerate() {
                bed.set(index, bed.at(lap_of_last, 0, state::FREE, 0));
                if done < committed {
                    bed.set(index, bed.at(lap_of_last, done as u64, state::FULL, 0));
                }
                if done < settled {
                    bed.set(index, bed.at(lap_of_last + 1, 0, state::FREE, 0));
                }
            }
            bed.header.tail.store(7 * 4 + 3, Ordering::Relaxed);
            bed.header.head.store(7 * 4 + 3, Ordering::Relaxed);
            for index in 1..3 {
                bed.set(index, bed.at(8, 0, state::FREE, 0));
            }
            bed.sweep(9);
            assert_eq!([3, 0, 1].map(|index| bed.get(index)), [8, 9, 9].map(|lap| (lap, state::FREE, 0)));
            assert_eq!(bed.receive(&Cursor::default(), 1), Err(Empty { pending: false }));
        }
    }
}

#[test]
fn a_dead_receivers_run_is_due_again_all_of_it_until_it_says_done() {
    for freed in 0..4 {
        let bed = Bed::new(4);
        let (sender, receiver) = (Cursor::default(), Cursor::default());
        assert_eq!(bed.ring.push_run(&sender, 1, FenceMode::Full, &[10, 11, 12]), Ok(3));
        let run = bed.ring.claim_full_run(&receiver, 9, 8).unwrap();
        assert_eq!(run.len(), 3);
        if freed > 0 {
            bed.set(0, bed.at(0, 2, state::DONE, 9));
        }
        for index in (3 - (freed as u64).saturating_sub(1)..3).rev() {
            bed.set(index, bed.at(1, 0, state::FREE, 0));
        }
        let swept = bed.sweep(9);
        assert_eq!(swept, Swept { aborted: 0, orphaned: if freed == 0 { 3 } else { 0 } });
        let received: Vec<u64> = core::iter::from_fn(|| bed.receive(&receiver, 1).ok()).collect();
        assert_eq!(received, if freed == 0 { vec![10, 11, 12] } else { vec![] });
        for n in 0..4 {
            bed.send(&sender, 1, n);
        }
    }
}

#[test]
fn orphans_come_first_and_the_oldest_of_them_before_the_others() {
    // In the last lap before the count of laps starts anew, too.
    for lap in [0, 1, 5, LAPS / 2 - 1, LAPS / 2, LAPS - 1] {
        let next = (lap + 1) % LAPS;
        for hint in [lap, next] {
            let bed = Bed::in_lap(4, lap);
            bed.put(0, next, state::ORPHAN, 0, 20);
            bed.put(1, next, state::FULL, 0, 21);
            bed.put(2, lap, state::ORPHAN, 0, 12);
            bed.put(3, lap, state::ORPHAN, 0, 13);
            bed.header.head.store(hint * 4, Ordering::Relaxed);
            bed.header.tail.store(next * 4, Ordering::Relaxed);
            bed.header.control.repairs.store(1, Ordering::Relaxed);
            let receiver = Cursor::default();
            let received: Vec<u64> = core::iter::from_fn(|| bed.receive(&receiver, 1).ok()).collect();
            assert_eq!(received, [12, 13, 20, 21], "lap {lap}, hint in lap {hint}");
        }
    }
}

#[test]
fn orphans_that_a_dead_repairer_did_not_announce_are_found_after_the_next_sweep() {
    let bed = Bed::in_lap(4, 2);
    bed.put(1, 2, state::FULL, 0, 6);
    bed.put(0, 2, state::READING, 9, 5);
    let receiver = Cursor::default();
    assert_eq!(bed.receive(&receiver, 1), Ok(6));
    // The first repairer has changed the word and died before it bumped `repairs`.
    bed.set(0, bed.at(2, 0, state::ORPHAN, 0));
    let before = bed.repairs();
    assert_eq!(bed.sweep(9), Swept::default());
    assert_eq!(bed.repairs(), before + 1);
    assert_eq!(bed.receive(&receiver, 1), Ok(5));
}

#[test]
fn a_receiver_that_waited_for_a_dead_sender_learns_that_nothing_comes() {
    let bed = Bed::in_lap(2, 0);
    let (sender, receiver) = (Cursor::default(), Cursor::default());
    let _ = bed.ring.claim_free(&sender, 9).unwrap();
    assert_eq!(bed.receive(&receiver, 1), Err(Empty { pending: true }));
    bed.sweep(9);
    assert_eq!(bed.receive(&receiver, 1), Err(Empty { pending: false }));
    bed.send(&sender, 2, 1);
    assert_eq!(bed.receive(&receiver, 1), Ok(1));
}

#[test]
fn a_message_behind_a_stalled_sender_is_received_and_the_stalled_one_later() {
    let bed = Bed::in_lap(4, 0);
    let (sender, receiver) = (Cursor::default(), Cursor::default());
    let stalled = bed.ring.claim_free(&sender, 1).unwrap();
    bed.send(&sender, 2, 2);
    bed.send(&sender, 2, 3);
    assert_eq!(bed.receive(&receiver, 3), Ok(2));
    bed.ring.write(&stalled, &1);
    bed.ring.commit(stalled);
    assert_eq!(bed.receive(&receiver, 3), Ok(1));
    assert_eq!(bed.receive(&receiver, 3), Ok(3));
}

#[test]
fn an_end_that_slept_through_half_of_all_laps_finds_its_place_by_the_hint() {
    for capacity in [1, 2, 16, 64] {
        let laps = laps_of(capacity);
        for lap in [laps / 2 - 1, laps / 2, laps / 2 + 1, laps / 4 * 3, laps - 1] {
            let bed = Bed::in_lap(capacity, lap);
            let (sender, receiver) = (Cursor::default(), Cursor::default());
            bed.send(&sender, 1, 77);
            assert_eq!(bed.receive(&receiver, 1), Ok(77), "a message in lap {lap}");
            assert_eq!(bed.receive(&Cursor::default(), 1), Err(Empty { pending: false }));
        }
    }
}

#[test]
fn hints_that_lag_cost_no_message() {
    let bed = Bed::in_lap(4, 1000);
    let (sender, receiver) = (Cursor::default(), Cursor::default());
    for n in 0..40 {
        // Far behind, but within half of all laps of the truth.
        bed.header.tail.store(0, Ordering::Relaxed);
        bed.header.head.store(3, Ordering::Relaxed);
        let (sender, receiver) =
            if n % 2 == 0 { (sender.clone(), receiver.clone()) } else { (Cursor::default(), Cursor::default()) };
        bed.send(&sender, 1, n);
        assert_eq!(bed.receive(&receiver, 1), Ok(n));
    }
}

/// Behind slots that are being written for long, receives look at those, and at nothing that they have seen consumed.
#[test]
fn a_stalled_slot_makes_nobody_look_again_at_what_is_consumed() {
    for stalled in 1..=passed::MOST {
        let bed = Bed::new(16);
        let (sender, receiver) = (Cursor::default(), Cursor::default());
        let mut claims = Vec::new();
        for n in 0..stalled as u64 {
            claims.push(bed.ring.claim_free(&sender, 1).unwrap());
            bed.send(&sender, 2, n);
            assert_eq!(bed.receive(&receiver, 3), Ok(n));
        }
        assert_eq!(bed.receive(&receiver, 3), Err(Empty { pending: true }));
        // Nobody does this. Whoever looked there would take it for a message.
        bed.put(1, 0, state::FULL, 0, 77);
        bed.send(&sender, 2, 7);
        assert_eq!(bed.receive(&receiver, 3), Ok(7), "{stalled} are being written");
        bed.set(1, bed.at(1, 0, state::FREE, 0));
        for (n, claim) in (100..).zip(claims.into_iter().rev()) {
            bed.ring.write(&claim, &n);
            bed.ring.commit(claim);
            assert_eq!(bed.receive(&receiver, 3), Ok(n), "a message that comes late is due at once");
        }
        assert_eq!(bed.receive(&receiver, 3), Err(Empty { pending: false }));
    }
}

// --- words that only a hostile peer leaves ---

/// Any bits, but mostly such that look like a slot of about this lap.
fn hostile_word(capacity: u64, lap: u64) -> impl Strategy<Value = u64> {
    let lap = prop_oneof![
        4 => (0..5_u64).prop_map(move |d| lap.wrapping_add(d).wrapping_sub(2)),
        1 => Just(lap + laps_of(capacity) / 2),
        1 => any::<u64>(),
    ];
    prop_oneof![
        4 => (lap, 0..capacity, 0..8_u64, prop_oneof![Just(0_u16), 1..4_u16, Just(511)])
            .prop_map(move |(lap, extra, state, owner)| {
                SlotWord::new(lap.wrapping_mul(capacity) + extra, state << 9, owner).0
            }),
        1 => any::<u64>(),
    ]
}

fn hostile_position(capacity: u64, lap: u64) -> impl Strategy<Value = u64> {
    let here = lap.wrapping_mul(capacity);
    prop_oneof![
        4 => (0..4 * capacity).prop_map(move |d| here.wrapping_add(d).wrapping_sub(2 * capacity)),
        1 => Just(here.wrapping_add(1 << 63)),
        1 => any::<u64>(),
    ]
}

#[derive(Debug)]
struct Hostile {
    words: Vec<u64>,
    head: u64,
    tail: u64,
    repairs: u64,
    cursors: [u64; 2],
}

fn hostile() -> impl Strategy<Value = Hostile> {
    (0..5_u32, laps()).prop_flat_map(|(shift, lap)| {
        let capacity = 1_u64 << shift;
        let position = move || hostile_position(capacity, lap);
        (
            vec(hostile_word(capacity, lap), capacity as usize),
            [position(), position(), position(), position()],
            prop_oneof![Just(0), any::<u64>()],
        )
            .prop_map(|(words, [head, tail, a, b], repairs)| Hostile {
                words,
                head,
                tail,
                repairs,
                cursors: [a, b],
            })
    })
}

proptest! {
    #![proptest_config(quiet(400))]

    /// Whatever the words say, every call ends, panics at nothing, and stays inside the slots.
    #[test]
    fn arbitrary_words_hold_no_call_and_lead_nowhere(hostile in hostile()) {
        let capacity = hostile.words.len() as u64;
        let bed = Bed::new(capacity);
        for (index, &word) in (0..).zip(&hostile.words) {
            bed.word(index).store(word, Ordering::Relaxed);
        }
        bed.header.head.store(hostile.head, Ordering::Relaxed);
        bed.header.tail.store(hostile.tail, Ordering::Relaxed);
        bed.header.control.repairs.store(hostile.repairs, Ordering::Relaxed);
        let (sender, receiver) = (Cursor::at(hostile.cursors[0]), Cursor::at(hostile.cursors[1]));
        for round in 0..3 {
            prop_assert!(bed.ring.len(0) <= capacity);
            let _ = bed.ring.is_full(0);
            for n in 0..=capacity {
                let _ = bed.ring.push(&sender, 1, FenceMode::Full, &n);
                let _ = bed.receive(&receiver, 2);
                let _ = bed.ring.push_run(&sender, 1, FenceMode::Full, &[n; 3]);
                if let Ok(run) = bed.ring.claim_full_run(&receiver, 2, n as usize) {
                    prop_assert!(run.len() as u64 <= capacity);
                    bed.ring.read_run(&run).for_each(drop);
                    bed.ring.release_run(&run);
                }
            }
            let swept = bed.sweep(round + 1);
            prop_assert!(swept.aborted + swept.orphaned <= capacity);
        }
        bed.assert_nothing_outside_was_touched();
    }
}

#[test]
fn words_that_change_under_a_call_hold_it_not_for_ever_and_lead_nowhere() {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let bed = Bed::new(4);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let mut random = 1_u64;
            while !stop.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let word = SlotWord::new(random >> 58, (random >> 40 & 7) << 9, (random >> 50 & 3) as u16);
                bed.set(random >> 33 & 3, word);
                match random >> 20 & 7 {
                    0 => bed.header.head.store(random >> 30, Ordering::Relaxed),
                    1 => bed.header.tail.store(random >> 58, Ordering::Relaxed),
                    2 => bed.header.control.repairs.store(random, Ordering::Relaxed),
                    _ => {}
                }
            }
        });
        let (sender, receiver) = (Cursor::default(), Cursor::default());
        for n in 0..2000 {
            let _ = bed.ring.push(&sender, 1, FenceMode::Full, &n);
            let _ = bed.receive(&receiver, 2);
            let _ = bed.ring.push_run(&sender, 1, FenceMode::Full, &[n; 3]);
            if let Ok(run) = bed.ring.claim_full_run(&receiver, 2, 3) {
                bed.ring.read_run(&run).for_each(drop);
                bed.ring.release_run(&run);
            }
            assert!(bed.ring.len(0) <= 4);
            let _ = bed.ring.is_full(0);
            let _ = bed.sweep((n % 4) as u16);
        }
    });
    bed.assert_nothing_outside_was_touched();
}

#[test]
fn a_message_of_any_size_stays_in_its_slot() {
    fn check<T: Copy + PartialEq + core::fmt::Debug>(capacity: u64, messages: [T; 3]) {
        let stride = Element::<T>::SLOT_STRIDE;
        let slots = capacity as usize * stride / 8;
        let memory: Box<[AtomicU64]> = (0..slots + 2 * GUARD).map(|_| AtomicU64::new(CANARY)).collect();
        for slot in memory[GUARD..GUARD + slots].chunks(stride / 8) {
            slot[0].store(0, Ordering::Relaxed);
        }
        let header = Header::new();
        let first = NonNull::from(&*memory).cast::<AtomicU64>();
        // SAFETY: the guard in front is part of the memory.
        let first = unsafe { first.add(GUARD) };
        // SAFETY: header and slots outlive the ring; the types below are plain bytes aligned to at most 8.
        let ring: Owned<T> = unsafe { Owned::new(NonNull::from(&*header), first.cast(), capacity) };
        let (sender, receiver) = (Cursor::default(), Cursor::default());
        for round in 0..4 * capacity {
            let message = messages[round as usize % 3];
            ring.push(&sender, 1, FenceMode::Full, &message).unwrap();
            assert_eq!(ring.pop(&receiver, 1), Ok(message));
        }
        let guards = memory[..GUARD].iter().chain(&memory[GUARD + slots..]);
        assert!(guards.into_iter().all(|word| word.load(Ordering::Relaxed) == CANARY));
    }
    check::<u8>(4, [1, 2, 3]);
    check::<[u8; 7]>(2, [[1; 7], [2; 7], [3; 7]]);
    check::<[u64; 7]>(2, [[1; 7], [2; 7], [u64::MAX; 7]]);
    check::<[u16; 29]>(8, [[1; 29], [2; 29], [u16::MAX; 29]]);
    check::<[u64; 100]>(1, [[1; 100], [2; 100], [u64::MAX; 100]]);
}
