//! Decides whether a recorded history of a FIFO queue with unique values is linearizable.
//!
//! Four rules are enough (Henzinger, Sezgin and Vafeiadis, *Aspect-Oriented Linearizability Proofs*, CONCUR 2013),
//! and each is a sort and a sweep, so that a million operations take about a second where a general checker gives up
//! at some hundreds. Operation x is *before* operation y when x ended before y started; equal times are concurrent.
//!
//! 1. **Nowhere.** A received value was sent, and its send did not start after the receive had ended.
//! 2. **Twice.** No value is received twice.
//! 3. **Order.** If send(a) is before send(b), and b was received, then a was received, and not after b.
//! 4. **Empty.** No receive finds the queue empty if at each instant of it some value was surely inside: from the end
//!    of the value's send to the start of its receive. Different values may cover different instants.
//!
//! A process that is killed leaves operations without an end. Each of them may have happened or not, whichever
//! makes the history valid:
//!
//! - A pending send that somebody received did happen; one that nobody received is as good as not begun.
//! - A pending receive never ends, hence is before nothing. All it can do is explain why a value is missing. The
//!   values that need an explanation are those whose send ended before some instant (rules 3 and 4 both say so), that
//!   is, a prefix of the missing values in order of the end of their sends. An early start explains more than a late
//!   one, and the prefix has its deadlines in the same order. So the i-th missing value gets the i-th pending receive,
//!   and no assignment does better.
//! - A receive that recorded its value and was killed before it recorded its end did happen, and counts in full.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};
use std::fmt;

/// One operation. Times are of any one clock that all recorders share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A send that returned at `end`, or was pending when its process was killed.
    Send { value: u64, start: u64, end: Option<u64> },
    /// A receive that returned `value`; its process may have been killed before it could record `end`.
    Recv { value: u64, start: u64, end: Option<u64> },
    /// A receive that was pending when its process was killed: it may have taken any one value, or none.
    Lost { start: u64 },
    /// A receive that found the queue empty.
    Empty { start: u64, end: u64 },
}

/// The times of one send or receive; `end` is `u64::MAX` for one that never ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    pub end: u64,
}

impl Span {
    fn new(start: u64, end: Option<u64>) -> Self {
        let end = end.unwrap_or(u64::MAX);
        assert!(start <= end, "an operation ends at {end}, before its start at {start}");
        Self { start, end }
    }

    fn is_before(self, other: Self) -> bool {
        self.end < other.start
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            u64::MAX => write!(f, "[{}, killed]", self.start),
            end => write!(f, "[{}, {end}]", self.start),
        }
    }
}

/// The first rule that a history breaks, with the operations that show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The history itself is of no use: its values are not unique.
    SentTwice { value: u64, first: Span, second: Span },
    /// Rule 1: nobody sent it.
    NeverSent { value: u64, recv: Span },
    /// Rule 1: it was received before its send began.
    RecvBeforeSend { value: u64, send: Span, recv: Span },
    /// Rule 2.
    RecvTwice { value: u64, first: Span, second: Span },
    /// Rule 3: both were received, in the wrong order.
    Overtaken { early: Passage, late: Passage },
    /// Rule 3: the earlier one was never received.
    Missing { value: u64, send: Span, late: Passage },
    /// Rule 4. The values inside cover the instants from after `since` to before `until` without a gap; `value` was
    /// inside when the receive began.
    NotEmpty { empty: Span, value: u64, since: u64, until: u64 },
}

/// The way of one value through the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    pub value: u64,
    pub send: Span,
    pub recv: Span,
}

impl fmt::Display for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (sent {}, received {})", self.value, self.send, self.recv)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SentTwice { value, first, second } => {
                write!(f, "the history is not usable: value {value} was sent twice, {first} and {second}")
            }
            Self::NeverSent { value, recv } => {
                write!(f, "value from nowhere: {value} was received {recv} and never sent")
            }
            Self::RecvBeforeSend { value, send, recv } => {
                write!(f, "value from nowhere: {value} was received {recv}, before its send {send} began")
            }
            Self::RecvTwice { value, first, second } => {
                write!(f, "value twice: {value} was received {first} and again {second}")
            }
            Self::Overtaken { early, late } => {
                write!(f, "order inversion: {early} was sent before {late}, yet received after it")
            }
            Self::Missing { value, send, late } => {
                write!(f, "lost value: {value} (sent {send}) was sent before {late}, yet never received")
            }
            Self::NotEmpty { empty, value, since, until } => {
                write!(
                    f,
                    "false empty: a receive {empty} found nothing, yet there was something inside from {since} "
                )?;
                match until {
                    &u64::MAX => write!(f, "to the end")?,
                    until => write!(f, "to {until}")?,
                }
                write!(f, ", value {value} first")
            }
        }
    }
}

impl std::error::Error for Violation {}

/// A value that was sent, and the receive that took it out, be it one that explains why the value is missing.
struct Sent {
    value: u64,
    send: Span,
    recv: Option<Span>,
}

impl Sent {
    /// The instant from which the value may be gone; never is `u64::MAX`.
    fn inside_until(&self) -> u64 {
        self.recv.map_or(u64::MAX, |recv| recv.start)
    }
}

/// Checks a history in O(n log n).
///
/// The operations may come in any order. A send to a full queue that returned without sending is no operation.
///
/// # Errors
///
/// The first violation found; if the history breaks several rules, one of the lower number.
///
/// # Panics
///
/// If an operation ends before it starts.
pub fn check(history: &[Op]) -> Result<(), Violation> {
    let mut sent = sends(history)?;
    receive_once(history, &mut sent)?;

    let mut values: Vec<Sent> = sent.into_values().collect();
    values.sort_unstable_by_key(|v| (v.send.end, v.value));
    let returned = returned_by_send(&values);
    explain_missing(history, &mut values);
    check_order(&values, &returned)?;
    check_empty(history, &values)
}

fn sends(history: &[Op]) -> Result<HashMap<u64, Sent>, Violation> {
    let mut sent: HashMap<u64, Sent> = HashMap::new();
    for op in history {
        if let &Op::Send { value, start, end } = op {
            let send = Span::new(start, end);
            match sent.entry(value) {
                Entry::Vacant(slot) => {
                    slot.insert(Sent { value, send, recv: None });
                }
                Entry::Occupied(slot) => {
                    let first = slot.get().send;
                    return Err(Violation::SentTwice { value, first, second: send });
                }
            }
        }
    }
    Ok(sent)
}

/// Rules 1 and 2: gives each value its receive.
fn receive_once(history: &[Op], sent: &mut HashMap<u64, Sent>) -> Result<(), Violation> {
    for op in history {
        if let &Op::Recv { value, start, end } = op {
            let recv = Span::new(start, end);
            let Some(sent) = sent.get_mut(&value) else {
                return Err(Violation::NeverSent { value, recv });
            };
            let send = sent.send;
            if recv.is_before(send) {
                return Err(Violation::RecvBeforeSend { value, send, recv });
            }
            if let Some(first) = sent.recv.replace(recv) {
                return Err(Violation::RecvTwice { value, first, second: recv });
            }
        }
    }
    Ok(())
}

/// For the start of each send of a received value: of the values whose sends started then or later, the one that was
/// out of the queue the earliest.
fn returned_by_send(values: &[Sent]) -> BTreeMap<u64, Passage> {
    let mut passages: Vec<Passage> =
        values.iter().filter_map(|v| Some(Passage { value: v.value, send: v.send, recv: v.recv? })).collect();
    passages.sort_unstable_by_key(|p| p.send.start);
    let mut earliest: Option<Passage> = None;
    let mut by_send = BTreeMap::new();
    for passage in passages.into_iter().rev() {
        if earliest.is_none_or(|e| passage.recv.end < e.recv.end) {
            earliest = Some(passage);
        }
        by_send.extend(earliest.map(|e| (passage.send.start, e)));
    }
    by_send
}

/// Gives the pending receives to missing values, in order of the end of their sends.
fn explain_missing(history: &[Op], values: &mut [Sent]) {
    let mut pending: Vec<u64> = history
        .iter()
        .filter_map(|op| match *op {
            Op::Lost { start } => Some(start),
            _ => None,
        })
        .collect();
    pending.sort_unstable();
    for (missing, start) in values.iter_mut().filter(|v| v.recv.is_none()).zip(pending) {
        missing.recv = Some(Span::new(start, None));
    }
}

/// Rule 3. A pending receive explains a value and asks for no explanation of those before it: `returned` is without it.
fn check_order(values: &[Sent], returned: &BTreeMap<u64, Passage>) -> Result<(), Violation> {
    for early in values {
        let after = early.send.end.checked_add(1).map(|from| returned.range(from..).next());
        let Some(Some((_, &late))) = after else {
            continue;
        };
        match early.recv {
            None => {
                return Err(Violation::Missing { value: early.value, send: early.send, late });
            }
            Some(recv) if late.recv.is_before(recv) => {
                let early = Passage { value: early.value, send: early.send, recv };
                return Err(Violation::Overtaken { early, late });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Rule 4. `values` are in order of the end of their sends, that is, of the instant from which each is surely inside.
fn check_empty(history: &[Op], values: &[Sent]) -> Result<(), Violation> {
    let mut empties: Vec<Span> = history
        .iter()
        .filter_map(|op| match *op {
            Op::Empty { start, end } => Some(Span::new(start, Some(end))),
            _ => None,
        })
        .collect();
    empties.sort_unstable_by_key(|e| e.start);

    // The run of values, each inside before the one before it may be gone, that reaches the farthest.
    let mut run: Option<(&Sent, u64)> = None;
    let mut values = values.iter().peekable();
    for empty in empties {
        // A value that comes in before the run ends extends the run, whether this receive had begun or not.
        while let Some(next) = values.next_if(|v| v.send.end < run.map_or(0, |r| r.1).max(empty.start)) {
            run = match run {
                Some((first, until)) if next.send.end < until => Some((first, until.max(next.inside_until()))),
                _ => Some((next, next.inside_until())),
            };
        }
        // The first of the run was inside when this receive, or one that began before it, began.
        if let Some((first, until)) = run
            && empty.end < until
        {
            return Err(Violation::NotEmpty { empty, value: first.value, since: first.send.end, until });
        }
    }
    Ok(())
}
