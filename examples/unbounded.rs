//! A queue without a bound: memory comes and goes with ten million messages.
//!
//!     cargo run --release --example unbounded

use std::error::Error;
use std::os::fd::AsFd;

use gimmal::{Queue, Segment};

const MESSAGES: u64 = 10_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let segment = Segment::anonymous()?;
    let queue = Queue::<u64>::unbounded(&segment, "events")?;
    let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    let report = |what: &str| -> Result<(), Box<dyn Error>> {
        let blocks = nix::sys::stat::fstat(segment.as_fd())?.st_blocks;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap_or("?").trim();
        println!("{what:<28} {:>6} MiB of memory, of which this process has mapped {resident}", (blocks * 512) >> 20);
        Ok(())
    };

    report("before")?;
    for n in 0..MESSAGES {
        sender.send(n)?; // nobody receives, and nobody waits
    }
    report("10 million messages sent")?;
    assert_eq!(receiver.try_iter().take(MESSAGES as usize / 2).sum::<u64>(), (0..MESSAGES / 2).sum());
    report("half of them received")?;
    assert_eq!(receiver.try_iter().sum::<u64>(), (MESSAGES / 2..MESSAGES).sum());
    report("all received")
}
