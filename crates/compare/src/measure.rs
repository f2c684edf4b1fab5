//! The measured loops, compiled for every way and size.
//!
//! Every word of a message is written by the sender and read by the receiver. Messages are numbered from 1, and a run counts
//! only if all of them arrived, once.

mod bytes;
mod costs;
mod latency;
mod serialized;

use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::AcqRel;
use std::time::Duration;

use self::costs::{attach, memory};
use self::latency::{one_way, trips};
use crate::case::{Case, Measure};
use crate::sys::{cpu_time, now};
use crate::team::{self, Failure, Numbers, Seat, Team};
use crate::temporary::Temporary;
use crate::ways::{Link, Rx, Spec, Tx, Way, message, rewrite, with_link};

/// The end of all messages: each receiver gets one.
const PILL: u64 = u64::MAX;

/// What one run of a case found.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// In the unit of the measurement.
    pub value: f64,
    /// Nanoseconds of processor time per message, of all workers together.
    pub cpu: Option<f64>,
    /// p99, p99.9 and maximum, nanoseconds.
    pub tail: Option<[f64; 3]>,
    /// Bytes of private memory that attaching takes.
    pub private: Option<f64>,
}

/// How a case is run.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// Where things lie.
    pub temporary: &'a Temporary,
    /// Which run this is, for names.
    pub serial: u64,
    /// How many messages, or repetitions.
    pub count: u64,
    /// Until it has to be done.
    pub limit: Duration,
}

/// Runs a case once.
pub fn measure(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    match case.measure {
        Measure::Bytes | Measure::BytesTrip => bytes::bytes(case, run),
        Measure::Serialized => serialized::serialized(case, run),
        _ => with_link!(case, measure_link(case, run)),
    }
}

fn measure_link<L: Link<N> + Send + Sync, const N: usize>(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    match case.measure {
        Measure::Spinning => trips::<L, N>(case, run, true),
        Measure::Asleep => trips::<L, N>(case, run, false),
        Measure::OneWay => one_way::<L, N>(case, run),
        Measure::Attach => attach::<L, N>(case, run),
        Measure::Memory => memory::<L, N>(case, run),
        _ if case.way == Way::Memcpy => copies::<N>(case, run),
        _ => stream::<L, N>(case, run),
    }
}

/// A team whose members have a link; what is idle attaches and rests.
struct Group<'a, L> {
    case: &'a Case,
    run: Run<'a>,
    spec: Spec,
    link: OnceLock<L>,
}

impl<'a, L> Group<'a, L> {
    fn new(case: &'a Case, run: Run<'a>, lanes: usize, polled: bool) -> Self {
        let &Case { bytes, capacity, objects, senders, receivers, idle, .. } = case;
        let name = format!("{}-{}", run.temporary.name(), run.serial);
        let participants = senders + receivers + idle + 1;
        let directory = run.temporary.directory().to_owned();
        let spec = Spec { name, directory, bytes, capacity, lanes, objects, participants, polled };
        Self { case, run, spec, link: OnceLock::new() }
    }

    fn work<const N: usize>(self, work: impl Fn(&Seat<'_>, &L) -> Numbers + Sync) -> Result<Vec<Numbers>, Failure>
    where
        L: Link<N> + Send + Sync,
    {
        self.work_with(L::prepare, L::open, work)
    }

    /// The same for any kind of link.
    fn work_with<S>(
        self,
        prepare: impl Fn(&Spec) -> L + Sync,
        open: impl Fn(&L, bool) -> S + Sync,
        work: impl Fn(&Seat<'_>, &L) -> Numbers + Sync,
    ) -> Result<Vec<Numbers>, Failure>
    where
        L: Send + Sync,
    {
        let &Case { senders, receivers, idle, pinned, way, .. } = self.case;
        let team = Team { workers: senders + receivers, idle, threads: way.threads(), pinned, limit: self.run.limit };
        if !team.threads {
            self.link.get_or_init(|| prepare(&self.spec));
        }
        team::run(&team, |seat| {
            let link = self.link.get_or_init(|| prepare(&self.spec));
            if seat.index >= team.workers {
                let _attached = seat.first(|first| open(link, first));
                seat.rest();
                return Numbers::default();
            }
            work(seat, link)
        })
    }
}

/// Reads every word, and gives the first.
#[inline]
fn read<const N: usize>(message: &[u64; N]) -> u64 {
    let sum = black_box(message).iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
    assert_eq!(sum, message[0].wrapping_mul(N as u64), "message {} is torn", message[0]);
    message[0]
}

/// Runs what is timed, between the moment when all begin and the one when all are done.
fn timed(seat: &Seat<'_>, way: Way, body: impl FnOnce() -> (u64, u64)) -> Numbers {
    seat.await_idle();
    seat.meet();
    let (begin, cpu) = (now(), cpu_time(way.threads()));
    let (count, sum) = body();
    let end = now();
    let cpu = cpu_time(way.threads()) - cpu;
    // Nobody takes away an end that somebody still needs.
    seat.meet();
    Numbers { begin, end, cpu, count, sum, ..Numbers::default() }
}

fn stream<L: Link<N> + Send + Sync, const N: usize>(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let (count, batch) = (run.count, case.batch as u64);
    let in_place = case.measure == Measure::InPlace;
    let shared_ends = case.measure == Measure::Shapes;
    let group = Group::<L>::new(case, run, 1, false);
    let numbers = group.work::<N>(|seat, link| {
        let shared = seat.first(|first| link.open(first));
        if seat.index < case.senders {
            let mut tx = link.sender(&shared, 0);
            return timed(seat, case.way, || {
                let first = 1 + seat.index as u64;
                if shared_ends {
                    send_share(&mut tx, (first..=count).step_by(case.senders));
                    send_pills(seat, case, &mut tx);
                } else if in_place {
                    (1..=count).for_each(|number| tx.send_in_place(black_box(number)));
                } else if batch > 1 {
                    send_batches(&mut tx, count, batch);
                } else {
                    send_share(&mut tx, 1..=count);
                }
                (0, 0)
            });
        }
        let mut rx = link.receiver(&shared, 0);
        timed(seat, case.way, || {
            let mut sum = 0_u64;
            if shared_ends {
                return receive_until_pill(&mut rx);
            } else if batch > 1 {
                return receive_batches(&mut rx, count, batch);
            }
            for number in 1..=count {
                let first = if in_place { rx.recv_in_place(read) } else { read(&rx.recv()) };
                assert_eq!(first, number, "out of order");
                sum = sum.wrapping_add(first);
            }
            (count, sum)
        })
    })?;
    account(count, &numbers[case.senders..])?;
    Ok(per_message(count, &numbers, case.senders))
}

#[inline]
fn send_share<const N: usize>(tx: &mut impl Tx<N>, share: impl Iterator<Item = u64>) {
    let mut large = [0; N];
    for number in share {
        // A small message is made where it is sent, as programs do; from somewhere else it would be copied twice.
        if N <= 32 {
            tx.send(&message(black_box(number)));
        } else {
            rewrite(&mut large, number);
            tx.send(&large);
        }
    }
}

/// Whoever is the last to be done gives every receiver its pill.
fn send_pills<const N: usize>(seat: &Seat<'_>, case: &Case, tx: &mut impl Tx<N>) {
    if seat.tally().fetch_add(1, AcqRel) + 1 == case.senders as u64 {
        (0..case.receivers).for_each(|_| tx.send(&message(PILL)));
    }
}

fn receive_until_pill<const N: usize>(rx: &mut impl Rx<N>) -> (u64, u64) {
    let (mut count, mut sum) = (0, 0_u64);
    loop {
        match read(&rx.recv()) {
            PILL => return (count, sum),
            number => (count, sum) = (count + 1, sum.wrapping_add(number)),
        }
    }
}

fn send_batches<const N: usize>(tx: &mut impl Tx<N>, count: u64, batch: u64) {
    let mut messages = Vec::with_capacity(batch as usize);
    for begin in (1..=count).step_by(batch as usize) {
        messages.clear();
        messages.extend((begin..=count.min(begin + batch - 1)).map(message::<N>));
        tx.send_many(&messages);
    }
}

fn receive_batches<const N: usize>(rx: &mut impl Rx<N>, count: u64, batch: u64) -> (u64, u64) {
    let mut messages = Vec::with_capacity(2 * batch as usize);
    let (mut received, mut sum) = (0, 0_u64);
    while received < count {
        messages.clear();
        rx.recv_many(&mut messages, batch.min(count - received) as usize);
        for message in &messages {
            received += 1;
            let first = read(message);
            assert_eq!(first, received, "out of order");
            sum = sum.wrapping_add(first);
        }
    }
    (received, sum)
}

/// Whether these receivers got each of the numbers from 1 to `count` once, as far as their count and their sum can tell.
fn account(count: u64, receivers: &[Numbers]) -> Result<(), Failure> {
    let got = receivers.iter().map(|n| n.count).sum::<u64>();
    let sum = receivers.iter().fold(0_u64, |sum, n| sum.wrapping_add(n.sum));
    let expected = ((u128::from(count) * (u128::from(count) + 1)) / 2) as u64;
    if (got, sum) == (count, expected) {
        return Ok(());
    }
    Err(Failure::Failed(format!("{got} of {count} messages came, and they add up to {sum} instead of {expected}")))
}

/// From the first to begin to the last receiver that was done.
fn per_message(count: u64, numbers: &[Numbers], senders: usize) -> Sample {
    let begin = numbers.iter().map(|n| n.begin).min().unwrap_or(0);
    let end = numbers[senders..].iter().map(|n| n.end).max().unwrap_or(begin);
    let cpu: u64 = numbers.iter().map(|n| n.cpu).sum();
    let per = |nanos: u64| nanos as f64 / count as f64;
    Sample { value: per(end - begin), cpu: Some(per(cpu)), tail: None, private: None }
}

/// Messages copied into a region, one slot after the other, in one process.
fn copies<const N: usize>(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let team = Team { workers: 1, idle: 0, threads: false, pinned: case.pinned, limit: run.limit };
    let numbers = team::run(&team, |seat| {
        let mut region = vec![[0_u64; N]; case.capacity];
        timed(seat, case.way, || {
            let (mut message, mut slots) = ([0; N], 0..case.capacity);
            for number in 1..=run.count {
                message[0] = number;
                let slot = slots.next().unwrap_or_else(|| {
                    slots = 1..case.capacity;
                    0
                });
                // SAFETY: both are whole messages, and the one on the stack is not in the region.
                unsafe { std::ptr::copy_nonoverlapping(black_box(&message), &raw mut region[slot], 1) };
                black_box(&mut region[slot]);
            }
            (run.count, 0)
        })
    })?;
    Ok(per_message(run.count, &numbers, 0))
}

#[cfg(test)]
mod tests;
