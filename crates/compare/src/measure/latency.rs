//! How long single messages take, and their answers.

use std::hint::spin_loop;
use std::sync::atomic::Ordering::{Acquire, Release};

use hdrhistogram::Histogram;

use super::{Group, Run, Sample, read, timed};
use crate::case::Case;
use crate::sys::now;
use crate::team::{Failure, Numbers};
use crate::ways::{Link, Rx, Tx, message, rewrite};

/// Nanoseconds until a receiver sleeps. Most spin for microseconds; kanal is still awake after 60.
const UNTIL_ASLEEP: u64 = 200_000;

/// A message there and its answer back, again and again.
pub fn trips<L: Link<N> + Send + Sync, const N: usize>(
    case: &Case,
    run: Run<'_>,
    spin: bool,
) -> Result<Sample, Failure> {
    let group = Group::<L>::new(case, run, 2, spin);
    let numbers = group.work::<N>(|seat, link| {
        let shared = seat.first(|first| link.open(first));
        let mut tx = link.sender(&shared, seat.index);
        let mut rx = link.receiver(&shared, 1 - seat.index);
        let mut receive = || {
            if !spin {
                return rx.recv();
            }
            loop {
                if let Some(message) = rx.try_recv() {
                    return message;
                }
                spin_loop();
            }
        };
        // Written before, so that the pages are there.
        let mut nanos = vec![1_u64; run.count as usize];
        nanos.fill(0);
        let mut text = [0; N];
        let mut numbers = timed(seat, case.way, || {
            for number in 1..=run.count {
                if seat.index == 1 {
                    assert_eq!(read(&receive()), number, "a message");
                    rewrite(&mut text, !number);
                    tx.send(&text);
                    continue;
                }
                if !spin {
                    busy(UNTIL_ASLEEP);
                }
                let begin = now();
                rewrite(&mut text, number);
                tx.send(&text);
                assert_eq!(read(&receive()), !number, "an answer");
                nanos[number as usize - 1] = now() - begin;
            }
            (run.count, 0)
        });
        numbers.tail = percentiles(&nanos);
        numbers
    })?;
    Ok(latency(run.count, &numbers, numbers[0].tail))
}

/// One message at a time to a receiver that has gone to sleep; the message says when it was sent.
pub fn one_way<L: Link<N> + Send + Sync, const N: usize>(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let group = Group::<L>::new(case, run, 1, false);
    let numbers = group.work::<N>(|seat, link| {
        let shared = seat.first(|first| link.open(first));
        if seat.index == 0 {
            let mut tx = link.sender(&shared, 0);
            return timed(seat, case.way, || {
                for number in 0..run.count {
                    // The receiver has had all before, or else it would not be asleep.
                    seat.until(|| seat.tally().load(Acquire) == number);
                    busy(UNTIL_ASLEEP);
                    tx.send(&message(now()));
                }
                (0, 0)
            });
        }
        let mut rx = link.receiver(&shared, 0);
        let mut nanos = Vec::with_capacity(run.count as usize);
        let mut numbers = timed(seat, case.way, || {
            for number in 1..=run.count {
                let message = rx.recv();
                nanos.push(now().saturating_sub(read(&message)));
                seat.tally().store(number, Release);
            }
            (run.count, 0)
        });
        numbers.tail = percentiles(&nanos);
        numbers
    })?;
    Ok(latency(run.count, &numbers, numbers[1].tail))
}

fn busy(nanos: u64) {
    let until = now() + nanos;
    while now() < until {
        spin_loop();
    }
}

/// p50, p99, p99.9 and the maximum.
pub fn percentiles(nanos: &[u64]) -> [u64; 4] {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 100_000_000_000, 3).expect("these bounds are right");
    nanos.iter().for_each(|&nanos| histogram.saturating_record(nanos));
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| histogram.value_at_quantile(quantile));
    [p50, p99, p999, histogram.max()]
}

/// What single latencies come to.
pub fn latency(count: u64, numbers: &[Numbers], tail: [u64; 4]) -> Sample {
    let [p50, p99, p999, max] = tail.map(|nanos| nanos as f64);
    let cpu = numbers.iter().map(|n| n.cpu).sum::<u64>() as f64 / count as f64;
    Sample { value: p50, cpu: Some(cpu), tail: Some([p99, p999, max]), private: None }
}
