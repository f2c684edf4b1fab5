//! The program `gimmal`: demonstrates the library, counts words with it, and looks after segments.

mod bench;
mod count;
mod crew;
mod demo;
mod doctor;
mod quantities;
mod rows;
mod segments;
mod signals;
mod standard;
mod stream;
mod table;
mod wc;

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

use clap::{Parser, Subcommand};
use gimmal::{entries, process};
use std::io::{self, Write};
use std::process::ExitCode;

/// Crash-safe queues, pipes and atomics between processes: try them, use them, look after their segments.
#[derive(Parser)]
#[command(name = "gimmal", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Let processes count, fill, play and compute together, check what they did, and measure how fast
    Demo,
    /// Count lines, words and bytes as wc does in the C locale, with several processes
    Wc(wc::Options),
    /// Measure how fast messages go between processes
    Bench(bench::Options),
    /// Send standard input through a queue, line by line
    Send(stream::send::Options),
    /// Write what comes through a queue, each message to one of those who receive
    Recv(stream::recv::Options),
    /// Show what comes through a queue, and take none of it
    Tap(stream::tap::Options),
    /// List the segments
    Ls,
    /// Show a segment: its participants and its objects
    Stat {
        /// The segment's name
        name: String,
    },
    /// Remove the segments that have no living participant
    Clean,
    /// Remove a segment
    Rm {
        /// The segment's name
        name: String,
        /// Remove it even if processes use it. They keep what they share; others will not find it
        #[arg(long, short)]
        force: bool,
    },
    /// Look at what gimmal needs of this machine
    Doctor,
    /// See `stream::remove_when_interrupted`
    #[command(name = stream::LEAVE, hide = true)]
    Leave {
        /// The segment's name
        name: String,
    },
}

fn main() -> ExitCode {
    process::init(&entries![
        demo::tasks::add,
        demo::tasks::fill,
        demo::tasks::play,
        demo::tasks::sum_up,
        demo::tasks::produce,
        demo::tasks::read_shared_end,
        demo::tasks::leibniz,
        demo::measure::pipe_source,
        demo::measure::pipe_echo,
        demo::measure::queue_source,
        demo::measure::queue_echo,
        wc::count_blocks,
        bench::work::run,
    ]);

    let Cli { command, json } = Cli::parse();
    let (name, result) = match command {
        Command::Demo => ("demo", demo::run(json)),
        Command::Wc(options) => ("wc", wc::run(options, json)),
        Command::Bench(options) => ("bench", bench::run(options, json)),
        Command::Send(options) => ("send", stream::send::run(options, json)),
        Command::Recv(options) => ("recv", stream::recv::run(options, json)),
        Command::Tap(options) => ("tap", stream::tap::run(options, json)),
        Command::Ls => ("ls", segments::ls(json)),
        Command::Stat { name } => ("stat", segments::stat(&name, json)),
        Command::Clean => ("clean", segments::clean(json)),
        Command::Rm { name, force } => ("rm", segments::rm(&name, force, json)),
        Command::Doctor => ("doctor", doctor::run(json)),
        Command::Leave { name } => (stream::LEAVE, stream::leave(&name)),
    };
    result.unwrap_or_else(|error| {
        // Nobody reads on: `gimmal ls | head -1`.
        let is_broken_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        if !error.downcast_ref().is_some_and(is_broken_pipe) {
            let _ = writeln!(io::stderr(), "gimmal {name}: {}", describe(&error));
        }
        match error.is::<stream::TimedOut>() {
            true => ExitCode::from(stream::TimedOut::CODE),
            false => ExitCode::FAILURE,
        }
    })
}

/// The error and its causes, in one line, without those that the one before them quotes already.
fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Prints to stdout; unlike `print!`, an error is an error and no panic.
fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    Ok(standard::output()?.write_all(text.as_ref())?)
}
