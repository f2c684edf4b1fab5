//! How fast two processes exchange messages of eight bytes: in a stream, and there and back again.

use anyhow::{Result, ensure};
use gimmal::process::{Context, Outcome, Process};
use gimmal::{Pipe, Queue, Segment};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use super::{TIME_LIMIT, queue};
use crate::crew::Crew;

/// A figure, or several of one distribution.
pub struct Measurement {
    object: &'static str,
    figures: Figures,
    pub took: Duration,
}

enum Figures {
    Stream { messages: u64 },
    RoundTrip(Histogram<u64>),
}

impl Measurement {
    /// What was measured.
    pub fn what(&self) -> String {
        match self.figures {
            Figures::Stream { .. } => format!("{}: stream of 8-byte messages", self.object),
            Figures::RoundTrip(_) => format!("{}: round trip of 8 bytes", self.object),
        }
    }

    /// What came out.
    pub fn result(&self) -> String {
        match &self.figures {
            Figures::Stream { messages } => {
                let per_second = *messages as f64 / self.took.as_secs_f64();
                format!("{:.1} ns per message, {:.1} million per second", 1e9 / per_second, per_second / 1e6)
            }
            Figures::RoundTrip(histogram) => {
                let [p50, p99, max] = percentiles(histogram).map(microseconds);
                format!("p50 {p50}, p99 {p99}, max {max}")
            }
        }
    }

    /// The same for programs.
    pub fn to_json(&self) -> Value {
        match &self.figures {
            Figures::Stream { messages } => {
                let per_second = *messages as f64 / self.took.as_secs_f64();
                json!({
                    "object": self.object,
                    "what": "stream",
                    "messages": messages,
                    "messages_per_second": per_second,
                    "nanoseconds_per_message": 1e9 / per_second,
                })
            }
            Figures::RoundTrip(histogram) => {
                let [p50, p99, max] = percentiles(histogram);
                json!({
                    "object": self.object,
                    "what": "round trip",
                    "samples": histogram.len(),
                    "p50_nanoseconds": p50,
                    "p99_nanoseconds": p99,
                    "max_nanoseconds": max,
                })
            }
        }
    }
}

fn percentiles(histogram: &Histogram<u64>) -> [u64; 3] {
    [histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99), histogram.max()]
}

fn microseconds(nanoseconds: u64) -> String {
    format!("{:.2} µs", nanoseconds as f64 / 1e3)
}

const STREAMED: u64 = 5_000_000;
const ROUND_TRIPS: u64 = 300_000;

/// The message that may never come, namely if its sender does not start. From then on, its end would be told.
const FIRST: u64 = 0;

/// Not counted: the first ones find cold caches.
const WARM_UP: u64 = 10_000;

/// Where a round trip is slow, as on one CPU, there are fewer of them.
const ROUND_TRIPS_TAKE_AT_MOST: Duration = Duration::from_secs(1);

const CAPACITY: usize = 1024;

/// All measurements, one after the other.
pub fn all(segment: &Segment) -> Result<Vec<Measurement>> {
    Ok(vec![pipe_stream(segment)?, queue_stream(segment)?, pipe_round_trip(segment)?, queue_round_trip(segment)?])
}

fn pipe_stream(segment: &Segment) -> Result<Measurement> {
    let mut end = Pipe::create::<u64, u64>(segment, "stream-pipe", CAPACITY)?;
    let crew = Crew::spawn([Process::new("demo::measure::pipe_source").segment(segment)])?;
    let stream = time_stream("Pipe", |message| match message {
        FIRST => Ok(end.recv_timeout(TIME_LIMIT)?),
        _ => Ok(end.recv()?),
    })?;
    crew.join(Some(TIME_LIMIT))?;
    Ok(stream)
}

/// Sends the stream.
pub fn pipe_source(context: &Context) -> Outcome {
    let mut end = Pipe::connect::<u64, u64>(context.segment(0)?, "stream-pipe")?;
    for message in 0..WARM_UP + STREAMED {
        end.send(message)?;
    }
    Ok(())
}

fn queue_stream(segment: &Segment) -> Result<Measurement> {
    let receiver = queue::<u64>(segment, "stream-queue", CAPACITY)?.receiver()?;
    let crew = Crew::spawn([Process::new("demo::measure::queue_source").segment(segment)])?;
    let stream = time_stream("Queue", |message| match message {
        FIRST => Ok(receiver.recv_timeout(TIME_LIMIT)?),
        _ => Ok(receiver.recv()?),
    })?;
    crew.join(Some(TIME_LIMIT))?;
    Ok(stream)
}

/// Sends the stream.
pub fn queue_source(context: &Context) -> Outcome {
    let sender = Queue::<u64>::open(context.segment(0)?, "stream-queue")?.sender()?;
    for message in 0..WARM_UP + STREAMED {
        sender.send(message)?;
    }
    Ok(())
}

fn time_stream(object: &'static str, mut recv: impl FnMut(u64) -> Result<u64>) -> Result<Measurement> {
    let mut started = Instant::now();
    for expected in 0..WARM_UP + STREAMED {
        if expected == WARM_UP {
            started = Instant::now();
        }
        let message = recv(expected)?;
        ensure!(message == expected, "message {message} came in place of {expected}");
    }
    Ok(Measurement { object, figures: Figures::Stream { messages: STREAMED }, took: started.elapsed() })
}

fn pipe_round_trip(segment: &Segment) -> Result<Measurement> {
    let mut end = Pipe::create::<u64, u64>(segment, "echo-pipe", 1)?;
    let crew = Crew::spawn([Process::new("demo::measure::pipe_echo").segment(segment)])?;
    let round_trip = time_round_trips("Pipe", |message| {
        end.send(message)?;
        match message {
            FIRST => Ok(end.recv_timeout(TIME_LIMIT)?),
            _ => Ok(end.recv()?),
        }
    })?;
    drop(end);
    crew.join(Some(TIME_LIMIT))?;
    Ok(round_trip)
}

/// Sends back what comes.
pub fn pipe_echo(context: &Context) -> Outcome {
    let mut end = Pipe::connect::<u64, u64>(context.segment(0)?, "echo-pipe")?;
    while let Ok(message) = end.recv() {
        end.send(message)?;
    }
    Ok(())
}

fn queue_round_trip(segment: &Segment) -> Result<Measurement> {
    let there = queue::<u64>(segment, "echo-there", 1)?;
    let back = queue::<u64>(segment, "echo-back", 1)?;
    let (sender, receiver) = (there.sender()?, back.receiver()?);
    let crew = Crew::spawn([Process::new("demo::measure::queue_echo").segment(segment)])?;
    let round_trip = time_round_trips("Queue", |message| {
        sender.send(message)?;
        match message {
            FIRST => Ok(receiver.recv_timeout(TIME_LIMIT)?),
            _ => Ok(receiver.recv()?),
        }
    })?;
    there.close();
    crew.join(Some(TIME_LIMIT))?;
    Ok(round_trip)
}

/// Sends back what comes.
pub fn queue_echo(context: &Context) -> Outcome {
    let segment = context.segment(0)?;
    let receiver = Queue::<u64>::open(segment, "echo-there")?.receiver()?;
    let sender = Queue::<u64>::open(segment, "echo-back")?.sender()?;
    while let Ok(message) = receiver.recv() {
        sender.send(message)?;
    }
    Ok(())
}

fn time_round_trips(object: &'static str, mut round_trip: impl FnMut(u64) -> Result<u64>) -> Result<Measurement> {
    let mut histogram = Histogram::new(3)?;
    let mut started = Instant::now();
    for message in 0..WARM_UP + ROUND_TRIPS {
        let sent = Instant::now();
        let answer = round_trip(message)?;
        let nanoseconds = sent.elapsed().as_nanos() as u64;
        ensure!(answer == message, "{answer} came back, not {message}");
        match message {
            0..WARM_UP => started = Instant::now(),
            _ => histogram.record(nanoseconds)?,
        }
        if message > WARM_UP && started.elapsed() > ROUND_TRIPS_TAKE_AT_MOST {
            break;
        }
    }
    Ok(Measurement { object, figures: Figures::RoundTrip(histogram), took: started.elapsed() })
}
