//! Five workers put 1,000,000 items each into one queue; every one of the 5,000,000 arrives, those of each worker in
//! order.
//!
//! Python: `multiprocessing.Queue`.

use gimmal::process::{self, Context, Outcome, Process};
use gimmal::{Queue, Segment, entries};
use std::time::Duration;

const WORKERS: usize = 5;
const EACH: u64 = 1_000_000;

/// What each worker runs; its argument is its own number.
fn produce(context: &Context) -> Outcome {
    let items = Queue::<[u64; 2]>::open(context.segment(0)?, "items")?.sender()?;
    let me = context.parse(0)?;
    for number in 0..EACH {
        items.send([me, number])?;
    }
    Ok(())
}

fn main() -> Outcome {
    process::init(&entries![produce]);

    let segment = Segment::anonymous()?;
    // Should this process die, the workers will learn it from their sends and not wait for ever.
    let options = Queue::<[u64; 2]>::options().capacity(1024);
    let queue = options.create::<[u64; 2]>(&segment, "items")?;
    let items = queue.receiver()?;
    // And this keeps the queue from being over when the first worker is done before the last has begun.
    let _sender = queue.sender()?;

    let mut children = Vec::new();
    for i in 0..WORKERS {
        children.push(Process::new("produce").arg(i.to_string()).segment(&segment).spawn()?);
    }

    // How many came of each worker, which is also the number of its next item.
    let mut came = [0; WORKERS];
    for _ in 0..WORKERS as u64 * EACH {
        let [worker, number] = items.recv_timeout(Duration::from_secs(60))?;
        assert_eq!(number, came[worker as usize], "an item of worker {worker} is missing or out of order");
        came[worker as usize] += 1;
    }
    for mut child in children {
        let status = child.join()?;
        assert!(status.success(), "{} ended with {status}", child.name());
    }

    println!("{} items came from {WORKERS} workers", came.iter().sum::<u64>());
    assert_eq!(came, [EACH; WORKERS]);
    assert!(queue.is_empty());
    Ok(())
}
