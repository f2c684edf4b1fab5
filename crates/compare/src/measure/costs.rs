//! What attaching takes: time and memory.

use super::{Group, Run, Sample, read};
use crate::case::Case;
use crate::sys::now;
use crate::team::{Failure, Numbers};
use crate::ways::{Link, Rx, Tx, message};

/// What a process that was just forked takes until it can send: the median of some.
pub fn attach<L: Link<N> + Send + Sync, const N: usize>(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let once = |repetition| {
        let run = Run { serial: run.serial + repetition, ..run };
        let numbers = Group::<L>::new(case, run, 1, false).work::<N>(|seat, link| {
            if seat.index == 0 {
                let shared = seat.first(|first| link.open(first));
                let mut rx = link.receiver(&shared, 0);
                seat.meet();
                assert_eq!(read(&rx.recv()), 1, "the message of the other process");
                seat.meet();
                return Numbers::default();
            }
            seat.meet();
            let begin = now();
            let shared = seat.first(|first| link.open(first));
            let mut tx = link.sender(&shared, 0);
            let end = now();
            tx.send(&message(1));
            seat.meet();
            Numbers { begin, end, ..Numbers::default() }
        })?;
        Ok(numbers[1].end - numbers[1].begin)
    };
    let mut nanos = (0..run.count).map(once).collect::<Result<Vec<_>, _>>()?;
    nanos.sort_unstable();
    Ok(Sample { value: nanos[nanos.len() / 2] as f64 / 1e3, cpu: None, tail: None, private: None })
}

/// Memory of a queue that messages have gone around in, with a process on either end.
pub fn memory<L: Link<N> + Send + Sync, const N: usize>(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let before = run.temporary.bytes();
    // Every slot is used, as memory that was never touched is not there.
    let messages = 1..=2 * case.capacity as u64;
    let numbers = Group::<L>::new(case, run, 1, false).work::<N>(|seat, link| {
        if seat.index == 0 {
            let shared = seat.first(|first| link.open(first));
            let mut rx = link.receiver(&shared, 0);
            seat.meet();
            messages.clone().for_each(|number| assert_eq!(read(&rx.recv()), number, "out of order"));
            seat.meet();
            let bytes = run.temporary.bytes();
            seat.meet();
            return Numbers { other: [bytes, 0], ..Numbers::default() };
        }
        seat.meet();
        let anonymous = anonymous_bytes();
        let shared = seat.first(|first| link.open(first));
        let mut tx = link.sender(&shared, 0);
        messages.clone().for_each(|number| tx.send(&message(number)));
        let grown = anonymous_bytes().saturating_sub(anonymous);
        seat.meet();
        seat.meet();
        Numbers { other: [grown, 0], ..Numbers::default() }
    })?;
    let value = numbers[0].other[0].saturating_sub(before) as f64;
    Ok(Sample { value, cpu: None, tail: None, private: Some(numbers[1].other[0] as f64) })
}

/// Memory of this process that no file is behind.
fn anonymous_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next()).and_then(|number| number.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}
