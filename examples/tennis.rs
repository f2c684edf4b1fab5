//! Two processes play tennis: a pipe goes both ways, and the ball is the number of strokes.
//!
//! Python: `multiprocessing.Pipe()`.

use gimmal::process::{self, Context, Outcome, Process};
use gimmal::{Pipe, Segment, entries};

const STROKES: u32 = 10_000;

/// The other player: returns the ball until the first one has left the court.
fn play(context: &Context) -> Outcome {
    let mut court = Pipe::connect::<u32, u32>(context.segment(0)?, "court")?;
    while let Ok(ball) = court.recv() {
        court.send(ball + 1)?;
    }
    Ok(())
}

fn main() -> Outcome {
    process::init(&entries![play]);

    let segment = Segment::anonymous()?;
    let mut court = Pipe::create::<u32, u32>(&segment, "court", 1)?;
    let mut player = Process::new("play").segment(&segment).spawn()?;

    let mut ball = 0;
    while ball < STROKES {
        court.send(ball + 1)?;
        ball = court.recv()?;
    }
    drop(court);
    let status = player.join()?;

    println!("the ball was played {ball} times");
    assert!(status.success(), "the other player ended with {status}");
    assert_eq!(ball, STROKES);
    Ok(())
}
