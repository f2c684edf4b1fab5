//! Objects of any kind through a queue, and answers through pipes that are told in the requests.
//!
//!     cargo run --example objects --features serde

use gimmal::process::{self, Context, Entry, Outcome, Process};
use gimmal::{Handle, Object, Queue, Segment, Sender, Share};
use serde::{Deserialize, Serialize};

/// What is asked, and where the answer is to go.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    shape: Shape,
    reply_to: Handle<Sender<Object<Answer>>>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Shape {
    Circle { radius: f64 },
    Polygon(Vec<(f64, f64)>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    what: String,
    area: f64,
}

const ENTRIES: [Entry; 1] = gimmal::entries![measure];

/// A worker: measures shapes until the queue is closed.
fn measure(context: &Context) -> Outcome {
    let requests = Queue::<Object<Request>>::open(context.segment(0)?, "requests")?;
    for request in requests.receiver()?.iter() {
        let Request { shape, reply_to } = request?;
        let (what, area) = match shape {
            Shape::Circle { radius } => ("a circle".to_owned(), std::f64::consts::PI * radius.powi(2)),
            Shape::Polygon(corners) => {
                let next = corners.iter().cycle().skip(1);
                let twice: f64 = corners.iter().zip(next).map(|(a, b)| a.0 * b.1 - b.0 * a.1).sum();
                (format!("a polygon of {} corners", corners.len()), twice.abs() / 2.0)
            }
        };
        reply_to.open()?.send(&Answer { what, area })?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    process::init(&ENTRIES);
    let segment = Segment::anonymous()?;
    let requests = Queue::<Object<Request>>::create(&segment, "requests", 64 << 10)?;
    let answers = Queue::<Object<Answer>>::create(&segment, "answers", 64 << 10)?;
    let mut workers =
        (0..2).map(|_| Process::new("measure").segment(&segment).spawn()).collect::<Result<Vec<_>, _>>()?;

    let sender = requests.sender()?;
    // As long as we have a sender, too, the queue of answers is not over when a worker has sent one.
    let reply_to = answers.sender()?;
    let square = vec![(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0)];
    for shape in [Shape::Circle { radius: 1.0 }, Shape::Polygon(square)] {
        sender.send(&Request { shape, reply_to: reply_to.handle() })?;
    }
    let receiver = answers.receiver()?;
    for _ in 0..2 {
        let Answer { what, area } = receiver.recv()?;
        println!("{what} has an area of {area:.2}");
    }
    requests.close();
    workers.iter_mut().try_for_each(|worker| worker.join().map(drop))?;
    Ok(())
}
