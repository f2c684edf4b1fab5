//! What is measured: one case is one measurement of one way in one shape.

use std::fmt;

use crate::ways::{Way, objects};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// One sends, one receives: nanoseconds per message.
    Stream,
    /// The same with several of each.
    Shapes,
    /// The same with calls for several messages.
    Batch,
    /// A message and its answer, polled for.
    Spinning,
    /// A message and its answer, the other side asleep before each.
    Asleep,
    /// From the send to the return of a receiver that slept.
    OneWay,
    /// Streams through small and large rings.
    Capacity,
    /// Streams through one of many queues of a segment.
    Objects,
    /// Streams while others are attached and idle.
    Participants,
    /// Large messages, written and read where they lie.
    InPlace,
    /// Streams of messages whose length is known only at run time.
    Bytes,
    /// Such a message and its answer, polled for.
    BytesTrip,
    /// Streams of objects with strings and lists in them.
    Serialized,
    /// Until a fresh process can send: microseconds.
    Attach,
    /// Bytes.
    Memory,
}

impl Measure {
    /// All, in the order of the report.
    pub const ALL: [Self; 15] = [
        Self::Stream,
        Self::Shapes,
        Self::Batch,
        Self::Spinning,
        Self::Asleep,
        Self::OneWay,
        Self::Capacity,
        Self::Objects,
        Self::Participants,
        Self::InPlace,
        Self::Bytes,
        Self::BytesTrip,
        Self::Serialized,
        Self::Attach,
        Self::Memory,
    ];

    /// Its name in cases and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Shapes => "shapes",
            Self::Batch => "batch",
            Self::Spinning => "round trip, spinning",
            Self::Asleep => "round trip, asleep",
            Self::OneWay => "one way, asleep",
            Self::Capacity => "capacity",
            Self::Objects => "objects",
            Self::Participants => "participants",
            Self::InPlace => "in place",
            Self::Bytes => "bytes",
            Self::BytesTrip => "bytes, round trip, spinning",
            Self::Serialized => "serialized objects",
            Self::Attach => "attach",
            Self::Memory => "memory",
        }
    }

    /// What its values are.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Spinning | Self::Asleep | Self::OneWay | Self::BytesTrip => "ns, p50",
            Self::Attach => "µs",
            Self::Memory => "shared bytes",
            _ => "ns/message",
        }
    }

    /// Whether it gives percentiles of single latencies.
    pub fn has_tail(self) -> bool {
        matches!(self, Self::Spinning | Self::Asleep | Self::OneWay | Self::BytesTrip)
    }

    /// Whether the number of messages is found in a first round.
    pub fn is_calibrated(self) -> bool {
        !matches!(self, Self::Asleep | Self::OneWay | Self::Attach | Self::Memory)
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What.
    pub measure: Measure,
    /// Of what.
    pub way: Way,
    /// Of each message: 8, 64, 256 or 4096, or for messages of bytes any of [`LENGTHS`].
    pub bytes: usize,
    /// How many send.
    pub senders: usize,
    /// How many receive.
    pub receivers: usize,
    /// Messages of a call.
    pub batch: usize,
    /// Messages that fit.
    pub capacity: usize,
    /// Queues in the segment.
    pub objects: usize,
    /// Idle participants besides the workers.
    pub idle: usize,
    /// Each worker on a core of its own.
    pub pinned: bool,
}

impl Case {
    /// One sender, one receiver, messages of `bytes`, 64 KiB of them but at least 16, or 8 if they may be larger than a page and 4 MiB
    /// of those of 16 KiB and more, pinned.
    pub fn new(measure: Measure, way: Way, bytes: usize) -> Self {
        let least = if matches!(measure, Measure::Bytes | Measure::BytesTrip) { 8 } else { 16 };
        let all = if least == 8 && bytes >= 16 << 10 { 4 << 20 } else { 64 << 10 };
        let capacity = (all / bytes).max(least);
        let one = Self {
            measure,
            way,
            bytes,
            senders: 1,
            receivers: 1,
            batch: 1,
            capacity,
            objects: 1,
            idle: 0,
            pinned: true,
        };
        let of_1024 = matches!(measure, Measure::Shapes | Measure::Memory | Measure::Serialized);
        Self { capacity: if of_1024 { 1024 } else { capacity }, ..one }
    }

    /// What distinguishes it from the others of its measure, its way and its place aside.
    pub fn key(&self) -> String {
        match self.measure {
            Measure::Shapes => format!("{}P{}C", self.senders, self.receivers),
            Measure::Batch => format!("{} a call", self.batch),
            Measure::Capacity => format!("2^{}", self.capacity.ilog2()),
            Measure::Objects => format!("{} queues", self.objects),
            Measure::Participants => format!("{} idle", self.idle),
            Measure::Attach => "open, end".to_owned(),
            Measure::Memory => format!("{} × {} B", self.capacity, self.bytes),
            _ => size(self.bytes),
        }
    }

    /// Where the workers run.
    pub fn place(&self) -> &'static str {
        if self.pinned { "pinned" } else { "free" }
    }

    /// The simplest case that runs about as fast: what calibrates it.
    pub fn calibrated_by(&self) -> Self {
        match self.measure {
            Measure::Objects | Measure::Participants => {
                Self { objects: 1, idle: self.idle.min(1), pinned: true, ..*self }
            }
            _ => Self { pinned: true, ..*self },
        }
    }

    /// Whether its name contains all these words, in any case.
    pub fn matches(&self, words: &[String]) -> bool {
        let name = self.to_string().to_lowercase();
        words.iter().all(|word| name.contains(&word.to_lowercase()))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {}, {}", self.measure.name(), self.key(), self.way.name(), self.place())
    }
}

/// 64 B, 4096 B, 64 KiB: powers of two from 16 KiB on in KiB.
pub fn size(bytes: usize) -> String {
    match bytes {
        small if small < 16 << 10 => format!("{small} B"),
        medium if medium < 1 << 20 => format!("{} KiB", medium >> 10),
        large => format!("{} MiB", large >> 20),
    }
}

/// Of messages of bytes.
pub const LENGTHS: [usize; 8] = [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// How many of each in [`Measure::Shapes`].
pub const SHAPES: [(usize, usize); 6] = [(1, 1), (2, 2), (4, 4), (8, 8), (1, 3), (3, 1)];

/// Every case there is, in the order of the report.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for measure in Measure::ALL {
        let both = matches!(
            measure,
            Measure::Stream | Measure::Shapes | Measure::Spinning | Measure::Asleep | Measure::OneWay
        ) || matches!(measure, Measure::Bytes | Measure::BytesTrip | Measure::Serialized);
        for pinned in [true, false].into_iter().take(1 + usize::from(both)) {
            // A copy from core to core takes two of them: its ends spin, and on one core would wait for their turn.
            let wanted = |case: &Case| pinned || !matches!(case.way, Way::Memcpy | Way::OtherCore);
            cases.extend(of(measure).into_iter().map(|case| Case { pinned, ..case }).filter(wanted));
        }
    }
    cases
}

fn of(measure: Measure) -> Vec<Case> {
    let ways = |wanted: fn(Way) -> bool| Way::ALL.into_iter().filter(move |&way| wanted(way));
    let of_8 = |way| Case::new(measure, way, 8);
    let with = |variants: &[usize], set: fn(&mut Case, usize), wanted: fn(Way) -> bool| {
        let vary = |&variant: &usize| ways(wanted).map(move |way| (way, variant));
        let cases = variants.iter().flat_map(vary).map(|(way, variant)| {
            let mut case = of_8(way);
            set(&mut case, variant);
            case
        });
        cases.collect::<Vec<_>>()
    };
    let sized = |sizes: &[usize], wanted: fn(Way) -> bool| -> Vec<Case> {
        sizes.iter().flat_map(|&bytes| ways(wanted).map(move |way| Case::new(measure, way, bytes))).collect()
    };
    match measure {
        Measure::Stream => {
            // What blocking costs does not grow with the messages.
            let mut cases = sized(&[8, 64, 256, 4096], Way::streams);
            cases.retain(|case| case.bytes <= 64 || !case.way.is_bare());
            cases
        }
        Measure::Shapes => {
            let shaped = |(senders, receivers)| {
                // Those that can have several; with one of each they are the measure of the others.
                let able = ways(Way::streams).filter(move |way| way.allows(2, 1) && way.allows(senders, receivers));
                let priced = matches!((senders, receivers), (1, 1) | (2, 2) | (4, 4));
                let able = able.filter(move |way| priced || !way.is_bare());
                able.map(move |way| Case { senders, receivers, ..of_8(way) })
            };
            SHAPES.into_iter().flat_map(shaped).collect()
        }
        Measure::Batch => with(&[1, 8, 64], |case, batch| case.batch = batch, Way::batches),
        Measure::Spinning => {
            // The floors are words, whatever the size: their answers are compared with everybody's at 8 bytes.
            let mut cases = sized(&[8, 64], Way::streams);
            cases.extend([Way::Line, Way::TwoLines].map(of_8));
            cases
        }
        Measure::Asleep | Measure::OneWay => sized(&[8], Way::sleeps),
        Measure::Capacity => {
            let powers: Vec<usize> = (4..=20).step_by(2).map(|power| 1 << power).collect();
            with(&powers, |case, capacity| case.capacity = capacity, Way::any_capacity)
        }
        Measure::Objects => with(&[1, 10, 100, 1000], |case, objects| case.objects = objects, Way::is_gimmal),
        Measure::Participants => with(&[1, 10, 100, 400], |case, idle| case.idle = idle, Way::is_gimmal),
        Measure::InPlace => sized(&[4096], Way::in_place),
        Measure::Bytes | Measure::BytesTrip => {
            // The floors are floors of streams. (The other core has answers, too.)
            let copies = |case: &Case| match case.way {
                Way::Memcpy => measure == Measure::Bytes,
                way => case.bytes <= way.longest(),
            };
            let mut cases = sized(&LENGTHS, |way| way.carries_bytes() || matches!(way, Way::Memcpy | Way::OtherCore));
            cases.retain(copies);
            cases
        }
        Measure::Serialized => sized(&[objects::BYTES], Way::carries_objects),
        Measure::Attach | Measure::Memory => {
            let bytes = if measure == Measure::Memory { 64 } else { 8 };
            sized(&[bytes], Way::opens)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = all().iter().map(Case::to_string).collect();
        let before = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), before);
    }

    #[test]
    fn only_selects_by_all_its_words() {
        let case = Case::new(Measure::Stream, Way::GimmalSpsc, 64);
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(case.matches(&words("STREAM spsc 64 pinned")));
        assert!(!case.matches(&words("stream spsc free")));
    }
}
