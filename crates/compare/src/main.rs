//! gimmal and its rivals, side by side.
//!
//! ```text
//! cargo run --release --manifest-path crates/compare/Cargo.toml
//! ```
//!
//! measures everything and prints tables: streams, several senders and receivers, batches, round trips with both sides
//! spinning and with the other side asleep, rings of all sizes, segments with many queues and with many participants, large
//! messages in place, messages of bytes from 64 B to 1 MiB, objects that are serialized, what attaching takes, and how near all
//! that is to what gimmal aims at. *bare* are gimmal's own rings with blocking and crash safety compiled out
//! (`crates/compare/bare`): the price of both. Objects also go through the queue of Python's standard library
//! (`crates/compare/python`), if there is a `python3`. After `--`:
//!
//! | option | |
//! |---|---|
//! | `--rounds N` | each case runs once in each round; medians and spreads are over the rounds; 7 by default |
//! | `--quick` | one short round, to see that everything works |
//! | `--only WORD…` | the cases whose names contain all these words |
//! | `--list` | their names, and nothing else |
//! | `--json FILE` | everything that was measured, round by round |
//! | `--svg DIR` | plots |
//!
//! Only ratios within one run mean anything: machines drift, which is why rounds go around all cases, instead of each case
//! through all its rounds. Workers are processes that are forked for each run of a case (threads for the ways that know
//! only those), wait for each other, and are killed if they take too long; a case that fails is not tried again, and said
//! below its table. *pinned* is each worker on a core of its own, as far as there are enough; *free* is wherever the
//! scheduler puts them. Calls that wait are each way's own; where a way has none, it polls, spinning at first and then
//! yielding. Nothing is left behind in /dev/shm, whatever happens to the workers.

mod case;
mod measure;
mod plot;
mod reach;
mod report;
mod results;
mod sys;
mod team;
mod temporary;
mod ways;

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use case::{Case, Measure};
use measure::{Run, Sample};
use results::Results;
use team::Failure;
use temporary::Temporary;

/// Measures gimmal and its rivals side by side, interleaved in one run.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How often each case is run
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// One short round: a test of whether everything works
    #[arg(long)]
    quick: bool,
    /// Only the cases whose names contain all these words
    #[arg(long, value_name = "WORD", num_args = 1..)]
    only: Vec<String>,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw plots into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Print the names of the cases
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut cases = case::all();
    cases.retain(|case| case.matches(&arguments.only));
    if arguments.list {
        // Whoever reads may stop reading.
        let _ = cases.iter().try_for_each(|case| writeln!(std::io::stdout(), "{case}"));
        return ExitCode::SUCCESS;
    }
    if cases.is_empty() {
        eprintln!("no case has all these words in its name; --list shows them");
        return ExitCode::FAILURE;
    }
    match run(&arguments, cases) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("gimmal-compare: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, cases: Vec<Case>) -> Result<(), Box<dyn std::error::Error>> {
    let rounds = if arguments.quick { 1 } else { arguments.rounds.max(1) };
    let mut bench = Bench::new(arguments.quick)?;
    let mut results = Results::new(cases);
    bench.calibrate(&mut results);
    for round in 1..=rounds {
        bench.round(&mut results, &format!("round {round} of {rounds}"));
    }
    drop(bench);
    print!("{}", report::tables(&results, arguments.quick));
    print!("{}", reach::table(&results));
    if let Some(path) = &arguments.json {
        fs::write(path, format!("{:#}\n", report::json(&results, arguments.quick)))?;
    }
    if let Some(directory) = &arguments.svg {
        fs::create_dir_all(directory)?;
        plot::draw(&results, directory)?;
    }
    Ok(())
}

/// Runs cases, each for about as long as the others.
struct Bench {
    temporary: Temporary,
    quick: bool,
    serial: u64,
}

impl Bench {
    fn new(quick: bool) -> std::io::Result<Self> {
        Ok(Self { temporary: Temporary::new("compare")?, quick, serial: 0 })
    }

    /// One run of a case; after a failure nothing of it is left.
    fn measure(&mut self, case: &Case, count: u64) -> Result<Sample, Failure> {
        // An attach takes one for each repetition.
        self.serial += count.min(1000);
        // Hundreds of processes take their time to start.
        let limit = Duration::from_secs(if self.quick { 5 } else { 20 } + case.idle as u64 / 10);
        let measured = measure::measure(case, Run { temporary: &self.temporary, serial: self.serial, count, limit });
        self.temporary.clean();
        measured
    }

    /// The round before the first: warms up, and finds how many messages each case takes.
    fn calibrate(&mut self, results: &mut Results) {
        for index in 0..results.entries.len() {
            let case = results.entries[index].case;
            progress("warming up", &case, index, results.entries.len());
            let alike = results.entries[..index].iter().find(|entry| entry.case == case.calibrated_by());
            let known = alike.map(|entry| entry.count).filter(|&count| count > 0);
            let count = match known {
                Some(count) => Ok(count),
                None if case.measure.is_calibrated() => self.find_count(&case),
                None => Ok(self.fixed_count(case.measure)),
            };
            match count {
                Ok(count) => results.entries[index].count = count,
                Err(failure) => results.entries[index].failure = Some(failure),
            }
        }
    }

    fn fixed_count(&self, measure: Measure) -> u64 {
        match (measure, self.quick) {
            (Measure::Memory, _) => 1,
            (Measure::Attach, quick) => {
                if quick {
                    3
                } else {
                    11
                }
            }
            (_, quick) => {
                if quick {
                    20
                } else {
                    500
                }
            }
        }
    }

    /// How many messages take about 60 ms.
    fn find_count(&mut self, case: &Case) -> Result<u64, Failure> {
        let target = if self.quick { 5e6 } else { 60e6 };
        let mut count = 200;
        loop {
            let took = self.measure(case, count)?.value * count as f64;
            let factor = target / took.max(1.0);
            if self.quick || factor < 4.0 {
                return Ok(((count as f64 * factor) as u64).clamp(50, 1 << 26));
            }
            count = (count as f64 * factor.min(20.0)) as u64;
        }
    }

    /// Each case once.
    fn round(&mut self, results: &mut Results, title: &str) {
        for index in 0..results.entries.len() {
            let entry = &results.entries[index];
            progress(title, &entry.case, index, results.entries.len());
            let measured = match entry.failure {
                None => self.measure(&entry.case.clone(), entry.count).map(Some),
                Some(_) => Ok(None),
            };
            let entry = &mut results.entries[index];
            entry.samples.push(measured.unwrap_or_else(|failure| {
                entry.failure = Some(failure);
                None
            }));
        }
    }
}

/// Says where we are, if somebody looks.
fn progress(title: &str, case: &Case, index: usize, of: usize) {
    let mut screen = std::io::stderr();
    if screen.is_terminal() {
        let end = if index + 1 == of { "\r\x1b[K" } else { "" };
        let _ = write!(screen, "\r\x1b[K{title}, {} of {of}: {case}{end}", index + 1);
    } else if index == 0 {
        let _ = writeln!(screen, "{title}: {of} cases");
    }
}
