//! Two processes read 500 items from the same end of a pipe, in turn under a lock: each item comes out exactly once.
//!
//! Python: one end of `multiprocessing.Pipe()` and a `Lock`, both given to two processes.

use gimmal::process::{self, Context, Outcome, Process};
use gimmal::{Array, Lock, Pipe, RecvError, Segment, entries};
use std::sync::atomic::Ordering::Relaxed;

const ITEMS: usize = 500;

/// What both readers run.
fn read(context: &Context) -> Outcome {
    let segment = context.segment(0)?;
    let lock = Lock::<()>::open(segment, "turn")?;
    let seen = Array::<u32>::open(segment, "seen")?;
    loop {
        // An end of a pipe belongs to one process at a time: take it, read, and hand it on before the lock is freed.
        let turn = lock.lock().map_err(|error| error.to_string())?;
        let mut end = Pipe::connect::<u64, u64>(segment, "items")?;
        let item = end.recv();
        end.release();
        drop(turn);
        match item {
            Ok(item) => seen[item as usize].fetch_add(1, Relaxed),
            Err(RecvError::Disconnected { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    }
}

fn main() -> Outcome {
    process::init(&entries![read]);

    let segment = Segment::anonymous()?;
    let _turn = Lock::<()>::create(&segment, "turn", ())?;
    let seen = Array::<u32>::create(&segment, "seen", ITEMS)?;
    let mut items = Pipe::create::<u64, u64>(&segment, "items", 16)?;

    let mut readers = Vec::new();
    for _ in 0..2 {
        readers.push(Process::new("read").segment(&segment).spawn()?);
    }
    for item in 0..ITEMS as u64 {
        items.send(item)?;
    }
    drop(items);
    for mut reader in readers {
        let status = reader.join()?;
        assert!(status.success(), "{} ended with {status}", reader.name());
    }

    let once = seen.to_vec().iter().filter(|&&times| times == 1).count();
    println!("{once} of {ITEMS} items were read exactly once");
    assert_eq!(once, ITEMS);
    Ok(())
}
