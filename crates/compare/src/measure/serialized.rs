//! Objects with strings and lists in them, which have to be serialized: through gimmal, by the serializer alone, and between two
//! Pythons.

use std::hint::black_box;
use std::io::{ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use gimmal::{Object, Queue, Segment};

use super::{Group, Run, Sample, account, per_message, timed};
use crate::case::Case;
use crate::sys::{cores, kill_group};
use crate::team::{self, Failure, Team};
use crate::ways::gimmal::open_segment;
use crate::ways::objects::{BYTES, Order};
use crate::ways::{Spec, Way};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/multiprocessing_queue.py");
/// How often we look whether a Python is done.
const LOOK: Duration = Duration::from_millis(2);

/// Runs a case of objects once.
pub fn serialized(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    match case.way {
        Way::Postcard => alone(case, run),
        Way::Python => python(Path::new("python3"), case, run),
        _ => stream(case, run),
    }
}

fn create(spec: &Spec) -> Segment {
    let bytes = spec.capacity * (BYTES.next_multiple_of(64));
    let size = (512 << 10) + Queue::<Object<Order>>::bytes(bytes);
    let segment = Segment::options().directory(&spec.directory).size(size).create(&spec.name).expect("a segment");
    Queue::<Object<Order>>::create(&segment, "orders", bytes).expect("a queue");
    segment
}

fn stream(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let count = run.count;
    let open = |spec: &Spec, first| if first { create(spec) } else { open_segment(spec) };
    let numbers = Group::new(case, run, 1, false).work_with(Spec::clone, open, |seat, spec| {
        let segment = seat.first(|first| open(spec, first));
        let queue = Queue::<Object<Order>>::open(&segment, "orders").expect("the queue");
        let mut order = Order::new();
        if seat.index == 0 {
            let sender = queue.sender().expect("a sender");
            return timed(seat, case.way, || {
                for number in 1..=count {
                    order.renumber(number);
                    sender.send(black_box(&order)).expect("send");
                }
                (0, 0)
            });
        }
        let receiver = queue.receiver().expect("a receiver");
        timed(seat, case.way, || {
            let mut sum = 0_u64;
            for number in 1..=count {
                let received = receiver.recv().expect("receive").check(&order);
                assert_eq!(received, number, "out of order");
                sum = sum.wrapping_add(received);
            }
            (count, sum)
        })
    })?;
    account(count, &numbers[1..])?;
    Ok(per_message(count, &numbers, 1))
}

/// The same without a queue, in one process: serialized into a buffer, and back.
fn alone(case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let team = Team { workers: 1, idle: 0, threads: false, pinned: case.pinned, limit: run.limit };
    let numbers = team::run(&team, |seat| {
        let (mut order, mut buffer) = (Order::new(), [0; 2 * BYTES]);
        timed(seat, case.way, || {
            let mut sum = 0_u64;
            for number in 1..=run.count {
                order.renumber(number);
                let bytes = postcard::to_slice(black_box(&order), &mut buffer).expect("serialize");
                let back: Order = postcard::from_bytes(black_box(bytes)).expect("deserialize");
                sum = sum.wrapping_add(back.check(&order));
            }
            (run.count, sum)
        })
    })?;
    account(run.count, &numbers)?;
    Ok(per_message(run.count, &numbers, 0))
}

/// A process that is killed when dropped, with all that it has started: it leads a group of its own.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            kill_group(self.0.id());
            let _ = self.0.wait();
        }
    }
}

/// The same object through the queue of Python's standard library, by the script.
pub fn python(interpreter: &Path, case: &Case, run: Run<'_>) -> Result<Sample, Failure> {
    let mut command = Command::new(interpreter);
    command.arg(SCRIPT).arg(run.count.to_string());
    if case.pinned {
        let cores = cores();
        command.args([0, 1].map(|worker| cores[worker % cores.len()].to_string()));
    }
    let started = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match started {
        Ok(child) => Started(child),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(Failure::Failed("left out: there is no python3 on this machine".into()));
        }
        Err(e) => return Err(Failure::Failed(format!("cannot start python3: {e}"))),
    };
    let deadline = Instant::now() + run.limit;
    let failed = |e: std::io::Error| Failure::Failed(format!("python3: {e}"));
    let status = loop {
        match child.0.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => return Err(Failure::DidNotFinish),
            None => sleep(LOOK),
        }
    };
    let (mut said, mut complaint) = (String::new(), String::new());
    child.0.stdout.take().map(|mut out| out.read_to_string(&mut said)).transpose().map_err(failed)?;
    child.0.stderr.take().map(|mut out| out.read_to_string(&mut complaint)).transpose().map_err(failed)?;
    let nanos = said.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    match nanos {
        Some(value) if status.success() => Ok(Sample { value, cpu: None, tail: None, private: None }),
        _ => Err(Failure::Failed(format!("python3: {}", complaint.lines().last().unwrap_or("no answer")))),
    }
}
