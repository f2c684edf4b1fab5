//! How near gimmal is to what it aims at.
//!
//! Each aim is a ratio of values of one run. It is computed for every round from that round's own values, so that the drift
//! of the machine cancels; shown is the median of these ratios, and their spread.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::case::{Case, LENGTHS, Measure, size};
use crate::results::{Results, Summary};
use crate::ways::{Way, objects};

/// What is divided by what.
enum Ratio {
    /// The value of the first by that of the second: how many times longer the first takes.
    Of(Case, Case),
    /// The largest of these by the smallest.
    Growth(Vec<Case>),
}

/// A ratio and where it should be.
struct Aim {
    title: String,
    ratio: Ratio,
    /// At least, or else at most.
    at_least: bool,
    bound: f64,
}

impl Ratio {
    fn in_round(&self, results: &Results, round: usize) -> Option<f64> {
        match self {
            Self::Of(one, other) => Some(results.value(one, round)? / results.value(other, round)?),
            Self::Growth(cases) => {
                let values: Option<Vec<f64>> = cases.iter().map(|case| results.value(case, round)).collect();
                let summary = Summary::of(values?)?;
                Some(summary.most / summary.least)
            }
        }
    }
}

impl Aim {
    /// That `ours` is at least so many times as fast as `theirs`.
    fn faster(what: &str, times: f64, theirs: Case, ours: Case) -> Self {
        let title = format!("{what}: speed over {}", theirs.way.name());
        Self { title, ratio: Ratio::Of(theirs, ours), at_least: true, bound: times }
    }

    /// That `ours` takes at most so many times as long as `theirs`.
    fn shorter(what: &str, times: f64, theirs: Case, ours: Case) -> Self {
        let title = format!("{what}: time over {}", theirs.way.name());
        Self { title, ratio: Ratio::Of(ours, theirs), at_least: false, bound: times }
    }

    /// That `ours` takes hardly longer than the same ring without blocking and crash safety.
    fn priced(what: &str, bare: Case, ours: Case) -> Self {
        let title = format!("price of blocking and crash safety: {what}");
        Self { title, ratio: Ratio::Of(ours, bare), at_least: false, bound: 1.05 }
    }

    fn summary(&self, results: &Results) -> Option<Summary> {
        Summary::of((0..results.rounds()).filter_map(|round| self.ratio.in_round(results, round)))
    }

    fn is_met(&self, summary: Summary) -> bool {
        if self.at_least { summary.median >= self.bound } else { summary.median <= self.bound }
    }
}

/// The aims that make sense for workers that are pinned, or free.
fn aims(pinned: bool) -> Vec<Aim> {
    use Measure::{Asleep, Shapes, Spinning, Stream};
    use Way::{
        ArrayQueue, BareQueue, BareSpsc, CrossbeamChannel, Futex, GimmalQueue, GimmalSpsc, Iceoryx, Pipe, Rtrb,
        ShaqMpmc, ShaqSpsc, TwoLines,
    };
    let of = |measure, way| Case { pinned, ..Case::new(measure, way, 8) };
    let shape = |way, senders, receivers| Case { senders, receivers, ..of(Shapes, way) };
    let mut aims = vec![
        Aim::faster("SpscQueue stream", 1.0, of(Stream, Rtrb), of(Stream, GimmalSpsc)),
        Aim::faster("SpscQueue stream", 10.0, of(Stream, ShaqSpsc), of(Stream, GimmalSpsc)),
        Aim::faster("SpscQueue stream", 30.0, of(Stream, Iceoryx), of(Stream, GimmalSpsc)),
        Aim::shorter("SpscQueue round trip", 1.3, of(Spinning, TwoLines), of(Spinning, GimmalSpsc)),
        Aim::shorter("SpscQueue round trip", 0.6, of(Spinning, ShaqSpsc), of(Spinning, GimmalSpsc)),
        Aim::shorter("SpscQueue round trip", 0.25, of(Spinning, Iceoryx), of(Spinning, GimmalSpsc)),
    ];
    aims.push(Aim::priced("SpscQueue stream 8 B", of(Stream, BareSpsc), of(Stream, GimmalSpsc)));
    for pairs in [1, 2] {
        let (bare, ours) = (shape(BareQueue, pairs, pairs), shape(GimmalQueue, pairs, pairs));
        aims.push(Aim::priced(&format!("Queue {pairs}P{pairs}C"), bare, ours));
    }
    for pairs in [1, 2, 4] {
        let (what, ours) = (format!("Queue {pairs}P{pairs}C"), shape(GimmalQueue, pairs, pairs));
        aims.push(Aim::faster(&what, 1.0, shape(ArrayQueue, pairs, pairs), ours));
        aims.push(Aim::faster(&what, 5.0, shape(ShaqMpmc, pairs, pairs), ours));
    }
    aims.push(Aim::faster("Queue 8P8C", 1.0, shape(CrossbeamChannel, 8, 8), shape(GimmalQueue, 8, 8)));
    for (name, way) in [("SpscQueue", GimmalSpsc), ("Queue", GimmalQueue)] {
        let what = format!("{name} round trip, asleep");
        aims.push(Aim::shorter(&what, 1.1, of(Asleep, Futex), of(Asleep, way)));
        aims.push(Aim::shorter(&what, 0.6, of(Asleep, Pipe), of(Asleep, way)));
    }
    aims.extend(bytes_aims(pinned));
    if pinned {
        aims.extend(pinned_aims());
    }
    aims
}

/// Those for messages of bytes, and for objects.
fn bytes_aims(pinned: bool) -> Vec<Aim> {
    use Measure::{Bytes, Serialized, Stream};
    use Way::{
        GimmalQueue, Memcpy, OtherCore, Postcard, Python, QueueBytes, QueueObjects, QueuePlaced, Socket, SpscBytes,
        SpscPlaced,
    };
    let of = |measure, way, bytes| Case { pinned, ..Case::new(measure, way, bytes) };
    let mut aims = Vec::new();
    for (name, way) in [("SpscQueue<[u8]>", SpscBytes), ("Queue<[u8]>", QueueBytes)] {
        for length in LENGTHS {
            let what = format!("{name} {}", size(length));
            aims.push(Aim::faster(&what, 5.0, of(Bytes, Socket, length), of(Bytes, way, length)));
        }
    }
    for (name, way) in [("SpscQueue<[u8]>", SpscPlaced), ("Queue<[u8]>", QueuePlaced)] {
        for length in LENGTHS.into_iter().filter(|&length| length >= 16 << 10) {
            let what = format!("{name} {} in place", size(length));
            aims.push(Aim::faster(&what, 5.0, of(Bytes, Socket, length), of(Bytes, way, length)));
        }
        for length in LENGTHS.into_iter().filter(|&length| pinned && length >= 64 << 10) {
            for floor in [Memcpy, OtherCore] {
                let what = format!("{name} {} in place", size(length));
                aims.push(Aim::faster(&what, 0.8, of(Bytes, floor, length), of(Bytes, way, length)));
            }
        }
    }
    let fixed = of(Stream, GimmalQueue, 64);
    aims.push(Aim {
        title: "Queue<[u8]> 64 B: time over Queue<[u64; 8]>".to_owned(),
        ..Aim::shorter("", 1.5, fixed, of(Bytes, QueueBytes, 64))
    });
    let object = |way| of(Serialized, way, objects::BYTES);
    aims.push(Aim::shorter("Queue<Object<T>>", 2.0, object(Postcard), object(QueueObjects)));
    aims.push(Aim::faster("Queue<Object<T>>", 20.0, object(Python), object(QueueObjects)));
    aims
}

/// What is measured pinned only.
fn pinned_aims() -> Vec<Aim> {
    use Measure::{Batch, Capacity, InPlace, Objects, Participants};
    use Way::{GimmalQueue, GimmalSpsc, Memcpy, OtherCore};
    let batch = |batch| Case { batch, ..Case::new(Batch, GimmalQueue, 8) };
    let batches = Ratio::Of(batch(1), batch(64));
    let title = "Queue, batches of 64: speed over single calls".to_owned();
    let mut aims = vec![Aim { title, ratio: batches, at_least: true, bound: 3.0 }];
    for (name, way) in [("SpscQueue", GimmalSpsc), ("Queue", GimmalQueue)] {
        for floor in [Memcpy, OtherCore] {
            let in_place = |way| Case::new(InPlace, way, 4096);
            aims.push(Aim::faster(&format!("{name}, 4 KiB in place"), 0.8, in_place(floor), in_place(way)));
        }
        let mut growth = |over: &str, cases: Vec<Case>| {
            let title = format!("{name}, {over}: slowest over fastest");
            aims.push(Aim { title, ratio: Ratio::Growth(cases), at_least: false, bound: 1.3 });
        };
        let capacity = |power: u32| Case { capacity: 1 << power, ..Case::new(Capacity, way, 8) };
        growth("capacity 2^4 to 2^20", (4..=20).step_by(2).map(capacity).collect());
        let objects = |objects| Case { objects, ..Case::new(Objects, way, 8) };
        growth("1 to 1,000 queues", [1, 10, 100, 1000].map(objects).into());
        let idle = |idle| Case { idle, ..Case::new(Participants, way, 8) };
        growth("1 to 400 idle participants", [1, 10, 100, 400].map(idle).into());
        for power in [4, 20] {
            let title = format!("{name}, capacity 2^{power}: time over 2^10");
            let ratio = Ratio::Of(capacity(power), capacity(10));
            aims.push(Aim { title, ratio, at_least: false, bound: 1.3 });
        }
    }
    aims
}

/// All aims that this run has something to say about.
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    for pinned in [true, false] {
        let place = if pinned { "pinned" } else { "free" };
        let reached: Vec<_> = aims(pinned).into_iter().filter_map(|aim| Some((aim.summary(results)?, aim))).collect();
        if !reached.is_empty() {
            let _ =
                writeln!(text, "\n{:<72}{:>8}{:>18}{:>10}", format!("aims, {place}"), "ratio", "least..most", "aim");
        }
        for (summary, aim) in reached {
            let Summary { median, least, most } = summary;
            let spread = format!("{least:.2}..{most:.2}");
            let bound = format!("{} {}", if aim.at_least { '≥' } else { '≤' }, aim.bound);
            let met = if aim.is_met(summary) { "met" } else { "not met" };
            let _ = writeln!(text, "  {:<70}{median:>8.2}{spread:>18}{bound:>10}  {met}", aim.title);
        }
    }
    text
}

/// The same for programs.
pub fn json(results: &Results) -> Value {
    let both = [true, false].into_iter().flat_map(|pinned| aims(pinned).into_iter().map(move |aim| (pinned, aim)));
    let aims = both.filter_map(|(pinned, aim)| {
        let summary = aim.summary(results)?;
        Some(json!({
            "aim": aim.title, "pinned": pinned, "ratio": summary.median, "least": summary.least, "most": summary.most,
            "at_least": aim.at_least, "bound": aim.bound, "met": aim.is_met(summary),
        }))
    });
    aims.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_aim_is_about_cases_that_exist() {
        let all = crate::case::all();
        for aim in [true, false].into_iter().flat_map(aims) {
            let cases = match aim.ratio {
                Ratio::Of(one, other) => vec![one, other],
                Ratio::Growth(cases) => cases,
            };
            cases.iter().for_each(|case| assert!(all.contains(case), "{}: {case}", aim.title));
        }
    }
}
