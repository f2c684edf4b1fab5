//! `gimmal bench`: how fast messages of a chosen size go between processes, and how long each is under way.
//!
//! The processes measure; this one starts them, puts together what they have found, and draws it. The segment has no name, and the
//! processes end by themselves, so that nothing can be left behind.

mod bars;
pub mod work;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use gimmal::process::Process;
use gimmal::{Queue, Segment, SpscQueue, Value};
use hdrhistogram::Histogram;
use serde_json::json;
use std::fmt;
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::crew::Crew;
use crate::quantities;
use crate::table::bytes;
use work::{Figure, Job};

/// What `gimmal bench` is asked to do.
#[derive(clap::Args)]
#[command(after_long_help = "\
All is measured between processes. Senders write the whole of each message, in place; receivers read all of it, and check it.")]
pub struct Options {
    /// How long messages are: 8, 64, 4K, 1M
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = quantities::bytes)]
    size: usize,
    /// Who sends to whom
    #[arg(long, value_enum, default_value_t = Pattern::Spsc)]
    pattern: Pattern,
    /// How many processes send [default: 2 with mpmc, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    senders: Option<u16>,
    /// How many processes receive [default: 2 with mpmc, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    receivers: Option<u16>,
    /// For how long [default: 2]
    #[arg(long, value_name = "TIME", conflicts_with = "count", value_parser = quantities::duration)]
    seconds: Option<Duration>,
    /// How many messages, or round trips
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Each process on a CPU of its own, as far as there are enough
    #[arg(long)]
    pin: bool,
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Pattern {
    /// One to one, through a SpscQueue
    Spsc,
    /// Many to many, through a Queue
    Mpmc,
    /// There and back again, through two SpscQueues
    Pingpong,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spsc => "spsc",
            Self::Mpmc => "mpmc",
            Self::Pingpong => "pingpong",
        })
    }
}

const SECONDS: Duration = Duration::from_secs(2);

/// How much a queue holds: some messages, and as much as an OS pipe.
const MESSAGES: usize = 8;
const CAPACITY: usize = 64 << 10;

/// The largest message: more would take all memory of small machines.
const LARGEST: usize = 64 << 20;

/// Room for what one process reports.
const FIGURES: usize = 1 << 13;

/// Beyond its end nothing takes this long, unless something is wrong.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// What was found.
struct Found {
    latencies: Histogram<u64>,
    messages: u64,
    took: Duration,
}

/// Runs it.
pub fn run(options: Options, as_json: bool) -> Result<ExitCode> {
    let Options { size, pattern, senders, receivers, seconds, count, pin } = options;
    ensure!((work::LEAST..=LARGEST).contains(&size), "--size should be between {} and 64M", work::LEAST);
    let several = if pattern == Pattern::Mpmc { 2 } else { 1 };
    let (senders, receivers) = (senders.unwrap_or(several), receivers.unwrap_or(several));
    if pattern != Pattern::Mpmc && (senders, receivers) != (1, 1) {
        bail!("{pattern} is between two processes: for more, use --pattern mpmc");
    }
    let seconds = if count.is_none() { seconds.or(Some(SECONDS)) } else { None };

    let capacity = (MESSAGES * size).max(CAPACITY).next_power_of_two();
    let reports = FIGURES * usize::from(receivers);
    let rings = Queue::<[u8]>::bytes(capacity).max(2 * SpscQueue::<[u8]>::bytes(capacity));
    let segment = Segment::options()
        .size((128 << 10) + rings + Queue::<Figure>::bytes(reports))
        .prefault(true)
        .max_objects(16)
        .max_participants(senders + receivers + 1)
        .anonymous()?;
    let queue = Queue::<[u8]>::options().capacity(capacity);
    match pattern {
        Pattern::Mpmc => drop(queue.create::<[u8]>(&segment, work::THERE)?),
        Pattern::Spsc => drop(SpscQueue::<[u8]>::create(&segment, work::THERE, capacity)?),
        Pattern::Pingpong => {
            SpscQueue::<[u8]>::create(&segment, work::THERE, capacity)?;
            SpscQueue::<[u8]>::create(&segment, work::BACK, capacity)?;
        }
    }
    let figures = Queue::<Figure>::create(&segment, work::FIGURES, reports)?.receiver()?;
    let processes = senders + receivers;
    Value::<u32>::create(&segment, work::AWAITED, processes.into())?;

    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let process = |index: u16| {
        let is_sender = index < senders;
        let share =
            count.map(|count| count / u64::from(senders) + u64::from(u64::from(index) < count % u64::from(senders)));
        let job =
            Job { pattern, is_sender, size, seconds, count: share, cpu: pin.then_some(usize::from(index) % cpus) };
        let name = if is_sender { "sender" } else { "receiver" };
        Process::new("bench::work::run").name(name).args(job.to_arguments()).segment(&segment)
    };
    let crew = Crew::spawn((0..processes).map(process))?;
    crew.join(seconds.map(|seconds| seconds + TIME_LIMIT))?;
    let found = work::put_together(figures.try_iter())?;
    ensure!(found.messages > 0, "nothing was received in that time");

    let per_second = found.messages as f64 / found.took.as_secs_f64();
    let whole = match pattern {
        Pattern::Pingpong => "round trip",
        _ => "message",
    };
    if as_json {
        let at = |quantile| found.latencies.value_at_quantile(quantile);
        let report = json!({
            "pattern": pattern.to_string(),
            "size": size,
            "senders": senders,
            "receivers": receivers,
            "capacity": capacity,
            "pinned": pin,
            "of_what": whole,
            "count": found.messages,
            "seconds": found.took.as_secs_f64(),
            "per_second": per_second,
            "bytes_per_second": per_second * size as f64,
            "latency_nanoseconds": {
                "samples": found.latencies.len(),
                "min": found.latencies.min(),
                "p50": at(0.5),
                "p90": at(0.9),
                "p99": at(0.99),
                "p99.9": at(0.999),
                "max": found.latencies.max(),
            },
        });
        crate::print(format!("{report:#}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let through = match pattern {
        Pattern::Spsc => "a SpscQueue from one process to another",
        Pattern::Mpmc => &*format!("a Queue from {senders} to {receivers} processes"),
        Pattern::Pingpong => "a SpscQueue there and one back, between two processes",
    };
    let placed = match pin {
        true => format!("pinned to {} CPUs", cpus.min(processes.into())),
        false => format!("wherever the system puts them ({cpus} CPUs)"),
    };
    let what = match (pattern, work::sampled(size)) {
        (Pattern::Pingpong, _) => "of each round trip".to_owned(),
        (_, 1) => "from the time a message is written to the time it is read".to_owned(),
        (_, nth) => format!("from the time a message is written to the time it is read, of every {nth}th"),
    };
    let mut text = format!(
        "{} of {} bytes through {through}, {placed}; room for {}.\n\n",
        if pattern == Pattern::Pingpong { "Messages there and back" } else { "Messages" },
        size,
        bytes(capacity as u64),
    );
    text += &format!(
        "{} {whole}s in {:.2} s: {:.1} ns per {whole}, {} per second, {}/s\n\n",
        found.messages,
        found.took.as_secs_f64(),
        1e9 / per_second,
        count_text(per_second),
        bytes((per_second * size as f64) as u64),
    );
    text += &format!(
        "Latency {what}{}:\n\n",
        if pattern == Pattern::Pingpong { "" } else { ", waiting in the queue included" }
    );
    text += &bars::draw(&found.latencies, console::Term::stdout().is_term());
    crate::print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// A large number, as `12.3 million`.
fn count_text(n: f64) -> String {
    match n {
        1e6.. => format!("{:.1} million", n / 1e6),
        1e4.. => format!("{:.1} thousand", n / 1e3),
        _ => format!("{n:.0}"),
    }
}
