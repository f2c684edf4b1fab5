//! A process per CPU adds up its part of 4 - 4/3 + 4/5 - 4/7 + ..., which is pi.
//!
//! Python: `multiprocessing.Pool.map` and `sum`.

use gimmal::process::{self, Context, Outcome, Process};
use gimmal::{Segment, Value, entries};
use std::sync::atomic::Ordering::Relaxed;

const TERMS: u64 = 200_000_000;

/// What each process runs; its arguments are its own number and that of all.
fn add_terms(context: &Context) -> Outcome {
    let pi = Value::<f64>::open(context.segment(0)?, "pi")?;
    let (me, processes): (u64, usize) = (context.parse(0)?, context.parse(1)?);
    let term = |n: u64| if n.is_multiple_of(2) { 4.0 } else { -4.0 } / (2 * n + 1) as f64;
    let part: f64 = (me..TERMS).step_by(processes).map(term).sum();
    pi.fetch_add(part, Relaxed);
    Ok(())
}

fn main() -> Outcome {
    process::init(&entries![add_terms]);

    let segment = Segment::anonymous()?;
    let pi = Value::<f64>::create(&segment, "pi", 0.0)?;

    let processes = std::thread::available_parallelism()?.get();
    let mut children = Vec::new();
    for i in 0..processes {
        let args = [i.to_string(), processes.to_string()];
        children.push(Process::new("add_terms").args(args).segment(&segment).spawn()?);
    }
    for mut child in children {
        let status = child.join()?;
        assert!(status.success(), "{} ended with {status}", child.name());
    }

    let (pi, error) = (pi.load(Relaxed), 2.0 / TERMS as f64);
    println!("{processes} processes and {TERMS} terms: pi = {pi:.10}");
    assert!((pi - std::f64::consts::PI).abs() < error, "the error should be below {error:e}");
    Ok(())
}
