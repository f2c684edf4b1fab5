//! The FIFO history checker against an exhaustive one, and each of its rules by example.

#[path = "support/fifo.rs"]
mod fifo;

use fifo::{Op, Passage, Span, Violation, check};
use std::collections::{BTreeMap, HashSet, VecDeque};

/// Looks for an order of the operations that a sequential queue could have produced, by trying all of them.
fn is_linearizable(history: &[Op]) -> bool {
    fn span(op: &Op) -> (u64, Option<u64>) {
        match *op {
            Op::Send { start, end, .. } | Op::Recv { start, end, .. } => (start, end),
            Op::Lost { start } => (start, None),
            Op::Empty { start, end } => (start, Some(end)),
        }
    }

    fn may_be_left_out(op: &Op) -> bool {
        matches!(op, Op::Lost { .. } | Op::Send { end: None, .. })
    }

    fn search(history: &[Op], done: u32, queue: &VecDeque<u64>, seen: &mut HashSet<(u32, VecDeque<u64>)>) -> bool {
        let left = || (0..history.len()).filter(|i| done & 1 << i == 0);
        if left().all(|i| may_be_left_out(&history[i])) {
            return true;
        }
        if !seen.insert((done, queue.clone())) {
            return false;
        }
        let deadline = left().filter_map(|i| span(&history[i]).1).min().unwrap_or(u64::MAX);
        for i in left().filter(|&i| span(&history[i]).0 <= deadline) {
            let mut queue = queue.clone();
            let possible = match history[i] {
                Op::Send { value, .. } => {
                    queue.push_back(value);
                    true
                }
                Op::Recv { value, .. } => queue.pop_front() == Some(value),
                Op::Lost { .. } => queue.pop_front().is_some(),
                Op::Empty { .. } => queue.is_empty(),
            };
            if possible && search(history, done | 1 << i, &queue, seen) {
                return true;
            }
        }
        false
    }

    search(history, 0, &VecDeque::new(), &mut HashSet::new())
}

/// SplitMix64: histories must be many and reproducible, nothing more.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

/// Any operations at any times: mostly wrong.
fn wild_history(random: &mut Random) -> Vec<Op> {
    fn span(random: &mut Random) -> (u64, Option<u64>) {
        let start = random.below(14);
        let end = start + random.below(6);
        (start, if random.percent(12) { None } else { Some(end) })
    }

    let mut history = Vec::new();
    for value in 1..=1 + random.below(4) {
        if !random.percent(4) {
            let (start, end) = span(random);
            history.push(Op::Send { value, start, end });
        }
        let receives = [0, 0, 1, 1, 1, 1, 1, 1, 1, 2][random.below(10) as usize];
        for _ in 0..receives {
            let (start, end) = span(random);
            history.push(Op::Recv { value, start, end });
        }
    }
    for _ in 0..random.below(3) {
        let (start, end) = span(random);
        history.push(match end {
            Some(end) => Op::Empty { start, end },
            None => Op::Lost { start },
        });
    }
    history
}

/// What a queue really did, each operation stretched around the moment of its effect, some cut off by a kill.
fn true_history(random: &mut Random) -> Vec<Op> {
    let mut queue = VecDeque::new();
    let mut history = Vec::new();
    let mut next_value = 1;
    let reach = 1 + random.below(40);
    for step in 0..3 + random.below(6) {
        let moment = 50 + 10 * step;
        let start = moment - random.below(reach);
        let end = moment + random.below(reach);
        let killed = random.percent(10);
        let had_effect = !killed || random.percent(50);
        if random.percent(50) {
            if had_effect {
                queue.push_back(next_value);
            }
            let end = (!killed).then_some(end);
            history.push(Op::Send { value: next_value, start, end });
            next_value += 1;
        } else if killed {
            if had_effect && random.percent(30) {
                history.extend(queue.pop_front().map(|value| Op::Recv { value, start, end: None }));
            } else {
                if had_effect {
                    queue.pop_front();
                }
                history.push(Op::Lost { start });
            }
        } else {
            history.push(match queue.pop_front() {
                Some(value) => Op::Recv { value, start, end: Some(end) },
                None => Op::Empty { start, end },
            });
        }
    }
    history
}

/// One thing changed, so that a true history is perhaps no longer one.
fn with_one_change(mut history: Vec<Op>, random: &mut Random) -> Vec<Op> {
    let i = random.below(history.len() as u64) as usize;
    let j = random.below(history.len() as u64) as usize;
    match random.below(3) {
        0 => {
            history.remove(i);
        }
        1 => {
            let later = random.below(60);
            match &mut history[i] {
                Op::Send { start, end, .. } | Op::Recv { start, end, .. } => {
                    *start += later;
                    *end = end.map(|end| end + later);
                }
                Op::Lost { start } => *start += later,
                Op::Empty { start, end } => {
                    *start += later;
                    *end += later;
                }
            }
        }
        _ => {
            let other = match history[j] {
                Op::Recv { value, .. } | Op::Send { value, .. } => value,
                _ => 1,
            };
            match &mut history[i] {
                Op::Recv { value, .. } => *value = other,
                op => *op = Op::Empty { start: 60, end: 70 },
            }
        }
    }
    history
}

#[test]
fn agrees_with_an_exhaustive_checker_on_random_histories() {
    let random = &mut Random(1);
    let mut valid = 0;
    let mut broken: BTreeMap<&str, u32> = BTreeMap::new();
    for round in 0..240_000 {
        let (history, must_be_valid) = match round % 3 {
            0 => (wild_history(random), false),
            1 => (true_history(random), true),
            _ => (with_one_change(true_history(random), random), false),
        };
        let verdict = check(&history);
        let linearizable = is_linearizable(&history);
        assert_eq!(verdict.is_ok(), linearizable, "round {round}: {verdict:?} for {history:#?}");
        assert!(linearizable || !must_be_valid, "round {round}: the generator is wrong: {history:#?}");
        match verdict {
            Ok(()) => valid += 1,
            Err(violation) => *broken.entry(kind(&violation)).or_default() += 1,
        }
    }
    let invalid: u32 = broken.values().sum();
    assert!(valid > 60_000 && invalid > 60_000, "{valid} valid, {invalid} invalid");
    let kinds = ["NeverSent", "RecvBeforeSend", "RecvTwice", "Overtaken", "Missing", "NotEmpty"];
    for kind in kinds {
        assert!(broken.get(kind).is_some_and(|&n| n > 500), "{kind} hardly fired: {broken:?}");
    }
}

fn kind(violation: &Violation) -> &'static str {
    match violation {
        Violation::SentTwice { .. } => "SentTwice",
        Violation::NeverSent { .. } => "NeverSent",
        Violation::RecvBeforeSend { .. } => "RecvBeforeSend",
        Violation::RecvTwice { .. } => "RecvTwice",
        Violation::Overtaken { .. } => "Overtaken",
        Violation::Missing { .. } => "Missing",
        Violation::NotEmpty { .. } => "NotEmpty",
    }
}

fn send(value: u64, start: u64, end: u64) -> Op {
    Op::Send { value, start, end: Some(end) }
}

fn recv(value: u64, start: u64, end: u64) -> Op {
    Op::Recv { value, start, end: Some(end) }
}

fn empty(start: u64, end: u64) -> Op {
    Op::Empty { start, end }
}

fn span(start: u64, end: u64) -> Span {
    Span { start, end }
}

#[test]
fn a_value_that_nobody_sent_is_from_nowhere() {
    let violation = check(&[send(1, 0, 1), recv(7, 2, 3)]).unwrap_err();
    assert_eq!(violation, Violation::NeverSent { value: 7, recv: span(2, 3) });
    assert_eq!(violation.to_string(), "value from nowhere: 7 was received [2, 3] and never sent");
}

#[test]
fn a_value_received_before_its_send_began_is_from_nowhere() {
    let violation = check(&[send(7, 4, 5), recv(7, 2, 3)]).unwrap_err();
    assert_eq!(kind(&violation), "RecvBeforeSend");
    assert_eq!(check(&[send(7, 3, 5), recv(7, 2, 3)]), Ok(()), "equal times are concurrent");
}

#[test]
fn a_value_received_twice_is_found() {
    let violation = check(&[send(7, 0, 1), recv(7, 2, 3), recv(7, 4, 5)]).unwrap_err();
    assert_eq!(violation, Violation::RecvTwice { value: 7, first: span(2, 3), second: span(4, 5) });
}

#[test]
fn an_order_inversion_is_found() {
    let sends = [send(1, 0, 1), send(2, 2, 3)];
    let violation = check(&[&sends[..], &[recv(2, 4, 5), recv(1, 6, 7)]].concat()).unwrap_err();
    assert_eq!(
        violation,
        Violation::Overtaken {
            early: Passage { value: 1, send: span(0, 1), recv: span(6, 7) },
            late: Passage { value: 2, send: span(2, 3), recv: span(4, 5) },
        }
    );
    let concurrent = [&sends[..], &[recv(2, 4, 6), recv(1, 6, 7)]].concat();
    assert_eq!(check(&concurrent), Ok(()));
}

#[test]
fn a_value_that_a_later_one_overtook_and_nobody_received_is_missing() {
    let history = [send(1, 0, 1), send(2, 2, 3), recv(2, 4, 5)];
    assert_eq!(kind(&check(&history).unwrap_err()), "Missing");
    assert_eq!(check(&history[..2]), Ok(()), "what nobody overtook may still be inside");
}

#[test]
fn empty_while_a_value_was_inside_is_found() {
    let violation = check(&[send(1, 0, 1), empty(2, 3), recv(1, 4, 5)]).unwrap_err();
    assert_eq!(violation, Violation::NotEmpty { empty: span(2, 3), value: 1, since: 1, until: 4 });
    assert_eq!(check(&[send(1, 0, 2), empty(2, 3), recv(1, 4, 5)]), Ok(()));
    assert_eq!(check(&[send(1, 0, 1), empty(2, 4), recv(1, 4, 5)]), Ok(()));
}

#[test]
fn empty_while_different_values_were_inside_in_turn_is_found() {
    let relay =
        |second_ends| check(&[send(1, 0, 1), send(2, 3, second_ends), empty(2, 8), recv(1, 6, 7), recv(2, 10, 11)]);
    assert_eq!(kind(&relay(5).unwrap_err()), "NotEmpty");
    assert_eq!(relay(6), Ok(()), "between 6 and 6 there may have been nothing");
}

#[test]
fn a_killed_send_may_count_or_not() {
    let killed = Op::Send { value: 1, start: 0, end: None };
    assert_eq!(check(&[killed, empty(5, 6)]), Ok(()));
    assert_eq!(check(&[killed, empty(5, 6), recv(1, 7, 8)]), Ok(()));
    assert_eq!(check(&[killed, send(2, 1, 2), recv(2, 3, 4)]), Ok(()));
}

#[test]
fn a_killed_receive_explains_one_missing_value() {
    let history = [send(1, 0, 1), send(2, 2, 3), send(3, 4, 5), recv(3, 8, 9), Op::Lost { start: 6 }];
    assert_eq!(kind(&check(&history).unwrap_err()), "Missing");
    let two_kills = [&history[..], &[Op::Lost { start: 7 }]].concat();
    assert_eq!(check(&two_kills), Ok(()));
    let too_late = [&history[..], &[Op::Lost { start: 10 }]].concat();
    assert_eq!(kind(&check(&too_late).unwrap_err()), "Overtaken");
}

#[test]
fn a_receive_killed_after_it_recorded_its_value_counts() {
    let killed = Op::Recv { value: 1, start: 2, end: None };
    assert_eq!(check(&[send(1, 0, 1), killed, empty(7, 8)]), Ok(()));
    assert_eq!(kind(&check(&[send(1, 0, 1), killed, recv(1, 5, 6)]).unwrap_err()), "RecvTwice");
    assert_eq!(kind(&check(&[send(0, 0, 1), send(1, 2, 3), killed]).unwrap_err()), "Missing");
}

#[test]
fn a_history_with_a_value_sent_twice_is_refused() {
    assert_eq!(kind(&check(&[send(1, 0, 1), send(1, 2, 3)]).unwrap_err()), "SentTwice");
}

#[test]
fn a_million_operations_are_checked_in_seconds() {
    let pairs = 500_000;
    let history: Vec<Op> = (0..pairs)
        .flat_map(|i| [send(i, 10 * i, 10 * i + 25), recv(i, 10 * i + 12, 10 * i + 40)])
        .chain([empty(20 * pairs, 20 * pairs + 5)])
        .collect();
    let began = std::time::Instant::now();
    assert_eq!(check(&history), Ok(()));
    assert!(began.elapsed().as_secs() < 30, "took {:?}", began.elapsed());
}
