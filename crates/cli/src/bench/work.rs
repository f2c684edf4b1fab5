//! What the processes do that send and receive.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use gimmal::process::{Context, Outcome};
use gimmal::{Queue, Segment, SpscQueue, Value};
use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::sync::atomic::Ordering::AcqRel;
use std::time::Duration;

use super::{Found, Pattern, TIME_LIMIT};

/// The names of objects.
pub const THERE: &str = "there";
pub const BACK: &str = "back";
pub const FIGURES: &str = "figures";
pub const AWAITED: &str = "awaited";

/// Bytes of the smallest message: the time when it was sent.
pub const LEAST: usize = 8;

/// Every so many messages have the time in them; for small ones, reading the clock takes longer than sending.
pub fn sampled(size: usize) -> u64 {
    if size < 4096 { 64 } else { 1 }
}

/// In the place of the time, where there is none.
const NO_TIME: u64 = 0;

/// What one process is to do.
pub struct Job {
    pub pattern: Pattern,
    pub is_sender: bool,
    pub size: usize,
    /// For how long, or how often.
    pub seconds: Option<Duration>,
    pub count: Option<u64>,
    pub cpu: Option<usize>,
}

impl Job {
    /// For a process's command line.
    pub fn to_arguments(&self) -> [String; 6] {
        [
            self.pattern.to_string(),
            self.is_sender.to_string(),
            self.size.to_string(),
            self.seconds.map_or(u64::MAX, |seconds| seconds.as_nanos() as u64).to_string(),
            self.count.unwrap_or(u64::MAX).to_string(),
            self.cpu.map_or(-1, |cpu| cpu as i64).to_string(),
        ]
    }

    fn from_arguments(context: &Context) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let most = |n: u64| (n != u64::MAX).then_some(n);
        Ok(Self {
            pattern: Pattern::from_str(context.arg(0).unwrap_or_default(), false)?,
            is_sender: context.parse(1)?,
            size: context.parse(2)?,
            seconds: most(context.parse(3)?).map(Duration::from_nanos),
            count: most(context.parse(4)?),
            cpu: usize::try_from(context.parse::<i64>(5)?).ok(),
        })
    }

    /// Calls `step` with the number and the time of each message, until enough was sent.
    fn send_all(&self, mut step: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let end = self.seconds.map_or(u64::MAX, |seconds| now().saturating_add(seconds.as_nanos() as u64));
        let nth = if self.pattern == Pattern::Pingpong { 1 } else { sampled(self.size) };
        for number in 0..self.count.unwrap_or(u64::MAX) {
            let time = if number % nth == 0 { now() } else { NO_TIME };
            if time >= end {
                break;
            }
            step(number, time)?;
        }
        Ok(())
    }
}

/// Something that was found: a time and how often it was taken; or, marked as such, something else.
pub type Figure = [u64; 3];

const TIME: u64 = 0;
const MESSAGES: u64 = 1;
const SPAN: u64 = 2;

/// What one process has found.
struct Log {
    latencies: Histogram<u64>,
    messages: u64,
    begin: u64,
}

impl Log {
    fn new() -> Result<Self> {
        Ok(Self { latencies: Histogram::new(2)?, messages: 0, begin: now() })
    }

    fn received(&mut self, sent: u64) -> Result<()> {
        if self.messages == 0 {
            self.begin = now();
        }
        self.messages += 1;
        if sent != NO_TIME {
            self.latencies.record(now().saturating_sub(sent))?;
        }
        Ok(())
    }

    fn report(self, segment: &Segment) -> Result<()> {
        let figures = Queue::<Figure>::open(segment, FIGURES)?.sender()?;
        if self.messages > 0 {
            figures.send([MESSAGES, self.messages, 0])?;
            figures.send([SPAN, self.begin, now()])?;
        }
        for value in self.latencies.iter_recorded() {
            figures.send([TIME, value.value_iterated_to(), value.count_at_value()])?;
        }
        Ok(())
    }
}

/// What all have found.
pub(super) fn put_together(figures: impl Iterator<Item = Figure>) -> Result<Found> {
    let mut found = Found { latencies: Histogram::new(2)?, messages: 0, took: Duration::ZERO };
    let (mut begin, mut end) = (u64::MAX, 0);
    for [what, a, b] in figures {
        match what {
            TIME => found.latencies.record_n(a, b)?,
            MESSAGES => found.messages += a,
            _ => (begin, end) = (begin.min(a), end.max(b)),
        }
    }
    found.took = Duration::from_nanos(end.saturating_sub(begin).max(1));
    Ok(found)
}

/// A process begins here.
pub fn run(context: &Context) -> Outcome {
    let job = Job::from_arguments(context)?;
    if let Some(cpu) = job.cpu {
        let mut cpus = CpuSet::new();
        cpus.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &cpus)?;
    }
    let segment = context.segment(0)?;
    Ok(match (job.pattern, job.is_sender) {
        (Pattern::Spsc, true) => spsc_send(&job, segment),
        (Pattern::Spsc, false) => spsc_receive(segment),
        (Pattern::Mpmc, true) => mpmc_send(&job, segment),
        (Pattern::Mpmc, false) => mpmc_receive(segment),
        (Pattern::Pingpong, true) => ping(&job, segment),
        (Pattern::Pingpong, false) => pong(segment),
    }?)
}

/// Nobody begins before all are ready.
fn meet(segment: &Segment) -> Result<()> {
    let awaited = Value::<u32>::open(segment, AWAITED)?;
    awaited.fetch_sub(1, AcqRel);
    awaited.notify_all();
    awaited.wait_while_timeout(TIME_LIMIT, |awaited| awaited > 0)?;
    Ok(())
}

fn spsc_send(job: &Job, segment: &Segment) -> Result<()> {
    let mut sender = SpscQueue::<[u8]>::open(segment, THERE)?.sender()?;
    meet(segment)?;
    job.send_all(|number, time| {
        let mut room = sender.reserve(job.size)?;
        write(&mut room, number, time);
        room.commit(job.size);
        Ok(())
    })?;
    sender.close();
    Ok(())
}

fn spsc_receive(segment: &Segment) -> Result<()> {
    let mut receiver = SpscQueue::<[u8]>::open(segment, THERE)?.receiver()?;
    meet(segment)?;
    let mut log = Log::new()?;
    while let Ok(message) = receiver.recv() {
        log.received(read(&message)?)?;
    }
    log.report(segment)
}

fn mpmc_send(job: &Job, segment: &Segment) -> Result<()> {
    let sender = Queue::<[u8]>::open(segment, THERE)?.sender()?;
    meet(segment)?;
    job.send_all(|number, time| {
        let mut room = sender.reserve(job.size)?;
        write(&mut room, number, time);
        room.commit(job.size);
        Ok(())
    })
}

fn mpmc_receive(segment: &Segment) -> Result<()> {
    let receiver = Queue::<[u8]>::open(segment, THERE)?.receiver()?;
    meet(segment)?;
    let mut log = Log::new()?;
    // Until the last sender has gone.
    while let Ok(message) = receiver.recv() {
        log.received(read(&message)?)?;
    }
    log.report(segment)
}

fn ping(job: &Job, segment: &Segment) -> Result<()> {
    let mut sender = SpscQueue::<[u8]>::open(segment, THERE)?.sender()?;
    let mut receiver = SpscQueue::<[u8]>::open(segment, BACK)?.receiver()?;
    meet(segment)?;
    let mut log = Log::new()?;
    job.send_all(|number, time| {
        let mut room = sender.reserve(job.size)?;
        write(&mut room, number, time);
        room.commit(job.size);
        log.received(read(&receiver.recv()?)?)
    })?;
    sender.close();
    log.report(segment)
}

fn pong(segment: &Segment) -> Result<()> {
    let mut receiver = SpscQueue::<[u8]>::open(segment, THERE)?.receiver()?;
    let mut sender = SpscQueue::<[u8]>::open(segment, BACK)?.sender()?;
    meet(segment)?;
    let mut number = 0;
    while let Ok(message) = receiver.recv() {
        let time = read(&message)?;
        let mut room = sender.reserve(message.len())?;
        number += 1;
        write(&mut room, number, time);
        room.commit(message.len());
    }
    Ok(())
}

/// Writes all of a message.
fn write(message: &mut [u8], number: u64, time: u64) {
    let (first, rest) = message.split_at_mut(LEAST);
    first.copy_from_slice(&time.to_ne_bytes());
    rest.fill(number as u8);
}

/// Reads all of a message, and checks it.
fn read(message: &[u8]) -> Result<u64> {
    let (time, rest) = message.split_first_chunk::<LEAST>().map_or((&[0; LEAST], message), |parts| parts);
    let expected = rest.first().copied().unwrap_or(0);
    let differences = rest.iter().fold(0, |differences, byte| differences | (byte ^ expected));
    ensure!(differences == 0, "a message came that was not sent");
    Ok(u64::from_ne_bytes(*time))
}

/// Nanoseconds on a clock that all processes share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(1, |now| now.as_nanos() as u64)
}
