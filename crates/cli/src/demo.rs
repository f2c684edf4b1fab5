//! `gimmal demo`: processes share one segment, work in it together, are checked, and are timed.

pub mod measure;
pub mod tasks;

use anyhow::{Context, Result};
use gimmal::{Error, Pod, Queue, Segment};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::table::Column::{Left, Right};
use crate::table::{Table, bytes};
use measure::Measurement;

/// Something that processes do together, with a result that is known beforehand.
struct Demonstration {
    name: &'static str,
    about: &'static str,
    run: fn(&Segment) -> Result<Answer>,
}

/// What came out.
struct Answer {
    /// How many processes took part, this one among them if it did more than wait.
    processes: usize,
    found: String,
    is_right: bool,
}

impl Answer {
    /// An answer that has to be equal to the one expected.
    fn exact<T: PartialEq + ToString>(processes: usize, found: T, expected: T) -> Self {
        Self {
            processes,
            is_right: found == expected,
            found: match found == expected {
                true => found.to_string(),
                false => format!("{} instead of {}", found.to_string(), expected.to_string()),
            },
        }
    }
}

/// No part of the demo takes longer, unless something is wrong.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Room for the objects of all demonstrations.
const SEGMENT_SIZE: usize = 4 << 20;

/// A queue whose ends give up when nobody is left at the other: no process waits for ever for one that was killed.
fn queue<T: Pod>(segment: &Segment, name: &str, capacity: usize) -> Result<Queue<T>, Error> {
    Queue::<T>::create(segment, name, capacity)
}

/// Runs all of it; the exit code says whether every answer was right.
pub fn run(as_json: bool) -> Result<ExitCode> {
    let name = format!("demo-{}", std::process::id());
    remove_when_interrupted(name.clone())?;
    let segment = Segment::options().size(SEGMENT_SIZE).max_objects(64).create(&name)?;

    let mut is_right = true;
    let mut rows = Vec::new();
    for demonstration in tasks::ALL {
        let started = Instant::now();
        // One that fails must not hide what the others do.
        let answer = (demonstration.run)(&segment).unwrap_or_else(|error| Answer {
            processes: 0,
            found: crate::describe(&error),
            is_right: false,
        });
        is_right &= answer.is_right;
        rows.push((demonstration, answer, started.elapsed()));
    }
    let measurements = measure::all(&segment).context("cannot measure");
    is_right &= measurements.is_ok();

    let path = segment.directory().join(format!("gimmal.{}", segment.name().unwrap_or_default()));
    match as_json {
        true => {
            let demonstrations = rows.iter().map(|(demonstration, answer, took)| {
                json!({
                    "name": demonstration.name,
                    "about": demonstration.about,
                    "processes": answer.processes,
                    "found": answer.found,
                    "ok": answer.is_right,
                    "seconds": took.as_secs_f64(),
                })
            });
            let report = json!({
                "ok": is_right,
                "segment": path.display().to_string(),
                "demonstrations": demonstrations.collect::<Value>(),
                "measurements": match &measurements {
                    Ok(measurements) => measurements.iter().map(Measurement::to_json).collect(),
                    Err(error) => json!({"error": crate::describe(error)}),
                },
            });
            crate::print(format!("{report:#}\n"))?;
        }
        false => {
            let mut table = Table::new(&[Left("WHAT"), Right("PROCESSES"), Right("TIME"), Left("OK"), Left("RESULT")]);
            for (demonstration, answer, took) in &rows {
                let ok = if answer.is_right { "yes" } else { "NO" };
                let took = format!("{:.2} s", took.as_secs_f64());
                table.row([&demonstration.about, &answer.processes, &took, &ok, &answer.found]);
            }
            for m in measurements.iter().flatten() {
                let took = format!("{:.2} s", m.took.as_secs_f64());
                table.row([&m.what(), &2, &took, &"yes", &m.result()]);
            }
            let size = bytes(SEGMENT_SIZE as u64);
            crate::print(format!("All through {}, {size} of shared memory:\n\n{table}", path.display()))?;
            measurements.map(drop)?;
        }
    }
    Ok(match is_right {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// A signal ends a process without a chance to leave its segment, and this one may be the last in it.
fn remove_when_interrupted(name: String) -> Result<()> {
    crate::signals::at_end(move || {
        let _ = Segment::unlink(&name);
    })
}
