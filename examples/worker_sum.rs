//! A worker counts to 1,000,000 and sends the sum through a pipe.
//!
//! Python: `Process(target=work, args=(connection,))`.

use gimmal::process::{self, Context, Outcome, Process};
use gimmal::{Pipe, Segment, entries};
use std::time::Duration;

const TO: u64 = 1_000_000;

/// What the worker runs.
fn work(context: &Context) -> Outcome {
    let to: u64 = context.parse(0)?;
    let mut result = Pipe::simplex_sender::<u64>(context.segment(0)?, "result", 1)?;
    result.send((1..=to).sum())?;
    Ok(())
}

fn main() -> Outcome {
    process::init(&entries![work]);

    let segment = Segment::anonymous()?;
    let mut result = Pipe::simplex_receiver::<u64>(&segment, "result", 1)?;
    let mut worker = Process::new("work").arg(TO.to_string()).segment(&segment).spawn()?;

    let sum = result.recv_timeout(Duration::from_secs(60))?;
    let status = worker.join()?;

    println!("1 + 2 + ... + {TO} = {sum}");
    assert!(status.success(), "the worker ended with {status}");
    assert_eq!(sum, TO * (TO + 1) / 2);
    Ok(())
}
