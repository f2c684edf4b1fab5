//! Messages of bytes: the stream and the round trip, as for messages of one size, and the copy in one process.
//!
//! What is measured begins when every page of the rings has been touched by both: fresh ones of large messages would take longer
//! than the messages.

use std::hint::{black_box, spin_loop};

use gimmal::bytemuck::cast_slice;

use super::latency::{latency, percentiles};
use super::{Group, Run, Sample, account, per_message, timed};
use crate::case::{Case, Measure};
use crate::sys::now;
use crate::team::{self, Failure, Team};
use crate::ways::Way;
use crate::ways::bytes::{Link, Rx, Tx, read, with_bytes};

/// Runs a case of messages of bytes once.
pub fn bytes(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    match case.measure {
        _ if case.way == Way::Memcpy => copies(case, run),
        Measure::BytesTrip => with_bytes!(case, trips(case, run)),
        _ => with_bytes!(case, stream(case, run)),
    }
}

/// Where a message is put together.
fn text(case: &Case) -> Vec<u64> {
    vec![0; case.bytes / 8]
}

/// Messages that touch every page of a ring, if they are so long that its pages are many.
fn round(case: &Case) -> u64 {
    (2 * case.capacity as u64).min(32)
}

fn stream<L: Link + Send + Sync>(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let (before, count) = (round(case), run.count);
    let numbers = Group::<L>::new(case, run, 1, false).work_with(L::prepare, L::open, |seat, link| {
        let shared = seat.first(|first| link.open(first));
        if seat.index == 0 {
            let (mut tx, mut text) = (link.sender(&shared, 0), text(case));
            (1..=before).for_each(|number| tx.send_number(number, &mut text));
            return timed(seat, case.way, || {
                (1..=count).for_each(|number| tx.send_number(black_box(number), &mut text));
                (0, 0)
            });
        }
        let mut rx = link.receiver(&shared, 0);
        (1..=before).for_each(|number| assert_eq!(rx.recv(read), number, "out of order"));
        timed(seat, case.way, || {
            let mut sum = 0_u64;
            for number in 1..=count {
                let first = rx.recv(read);
                assert_eq!(first, number, "out of order");
                sum = sum.wrapping_add(first);
            }
            (count, sum)
        })
    })?;
    account(count, &numbers[1..])?;
    Ok(per_message(count, &numbers, 1))
}

/// A message there and its answer back, again and again; both sides poll.
fn trips<L: Link + Send + Sync>(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let (before, count) = (round(case), run.count);
    let numbers = Group::<L>::new(case, run, 2, true).work_with(L::prepare, L::open, |seat, link| {
        let shared = seat.first(|first| link.open(first));
        let mut tx = link.sender(&shared, seat.index);
        let mut rx = link.receiver(&shared, 1 - seat.index);
        let mut receive = || {
            loop {
                if let Some(number) = rx.try_recv(read) {
                    return number;
                }
                spin_loop();
            }
        };
        let mut text = text(case);
        let mut trip = |number: u64| {
            if seat.index == 1 {
                assert_eq!(receive(), number, "a message");
                tx.send_number(!number, &mut text);
                return 0;
            }
            let begin = now();
            tx.send_number(number, &mut text);
            assert_eq!(receive(), !number, "an answer");
            now() - begin
        };
        // Written before, so that the pages are there.
        let mut nanos = vec![1_u64; count as usize];
        nanos.fill(0);
        (1..=before).for_each(|number| _ = trip(number));
        let mut numbers = timed(seat, case.way, || {
            nanos.iter_mut().zip(1..).for_each(|(nanos, number)| *nanos = trip(number));
            (count, 0)
        });
        numbers.tail = percentiles(&nanos);
        numbers
    })?;
    Ok(latency(count, &numbers, numbers[0].tail))
}

/// Messages copied into a region, one slot after the other, in one process.
fn copies(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let team = Team { workers: 1, idle: 0, threads: false, pinned: case.pinned, limit: run.limit };
    let numbers = team::run(&team, |seat| {
        let (mut text, mut region) = (text(case), vec![1_u8; case.capacity * case.bytes]);
        timed(seat, case.way, || {
            let mut numbers = 1..=run.count;
            while !numbers.is_empty() {
                for (slot, number) in region.chunks_exact_mut(case.bytes).zip(&mut numbers) {
                    text[0] = number;
                    slot.copy_from_slice(cast_slice(black_box(&text)));
                    black_box(slot);
                }
            }
            (run.count, 0)
        })
    })?;
    Ok(per_message(run.count, &numbers, 0))
}
