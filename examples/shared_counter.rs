//! Nine processes add 50 each to one number.
//!
//! Python: `multiprocessing.Value`, whose `+= 1` needs a lock.

use gimmal::process::{self, Context, Outcome, Process};
use gimmal::{Segment, Value, entries};
use std::sync::atomic::Ordering::Relaxed;

const PROCESSES: u64 = 9;
const EACH: u64 = 50;

/// What each of the nine runs.
fn add(context: &Context) -> Outcome {
    let counter = Value::<u64>::open(context.segment(0)?, "counter")?;
    for _ in 0..EACH {
        counter.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn main() -> Outcome {
    process::init(&entries![add]);

    let segment = Segment::anonymous()?;
    let counter = Value::<u64>::create(&segment, "counter", 0)?;

    let mut children = Vec::new();
    for _ in 0..PROCESSES {
        children.push(Process::new("add").segment(&segment).spawn()?);
    }
    for mut child in children {
        let status = child.join()?;
        assert!(status.success(), "{} ended with {status}", child.name());
    }

    let total = counter.load(Relaxed);
    println!("{PROCESSES} processes added {EACH} each: {total}");
    assert_eq!(total, PROCESSES * EACH);
    Ok(())
}
