//! Four processes fill an array with squares, each every fourth element.
//!
//! Python: `multiprocessing.Array`.

use gimmal::process::{self, Context, Outcome, Process};
use gimmal::{Array, Segment, entries};
use std::sync::atomic::Ordering::Relaxed;

const PROCESSES: usize = 4;
const LEN: usize = 1000;

/// What each of the four runs; its argument is its own number.
fn fill(context: &Context) -> Outcome {
    let squares = Array::<u64>::open(context.segment(0)?, "squares")?;
    let me: usize = context.parse(0)?;
    for i in (me..squares.len()).step_by(PROCESSES) {
        squares[i].store((i * i) as u64, Relaxed);
    }
    Ok(())
}

fn main() -> Outcome {
    process::init(&entries![fill]);

    let segment = Segment::anonymous()?;
    let squares = Array::<u64>::create(&segment, "squares", LEN)?;

    let mut children = Vec::new();
    for i in 0..PROCESSES {
        children.push(Process::new("fill").arg(i.to_string()).segment(&segment).spawn()?);
    }
    for mut child in children {
        let status = child.join()?;
        assert!(status.success(), "{} ended with {status}", child.name());
    }

    let squares = squares.to_vec();
    println!("{PROCESSES} processes filled in {LEN} squares, the last of them {}", squares[LEN - 1]);
    assert!((0..).zip(&squares).all(|(i, &square)| square == i * i));
    Ok(())
}
