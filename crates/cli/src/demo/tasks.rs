//! The demonstrations. Each has two halves: a function that this process runs, which starts the others and checks what
//! they did, and an entry that each of the others runs.

use anyhow::{Context as _, Result, ensure};
use gimmal::process::{Context, Outcome, Process};
use gimmal::{Array, Lock, Pipe, Queue, RecvError, Segment, Value};
use std::f64::consts::PI;
use std::num::NonZero;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::{Answer, Demonstration, TIME_LIMIT, queue};
use crate::crew::Crew;

/// All of them, in the order in which they are shown.
pub(super) const ALL: [Demonstration; 7] = [
    Demonstration { name: "shared_counter", about: "9 processes add 50 each to a Value", run: shared_counter },
    Demonstration { name: "shared_array", about: "4 processes fill an Array with squares", run: shared_array },
    Demonstration { name: "tennis", about: "two processes play 10,000 strokes through a Pipe", run: tennis },
    Demonstration { name: "worker_sum", about: "one adds up 1 to 1,000,000 and sends the sum", run: worker_sum },
    Demonstration { name: "five_workers", about: "5 processes put 1,000,000 each into a Queue", run: five_workers },
    Demonstration {
        name: "shared_pipe_end",
        about: "two read 500 items from one Pipe end, under a Lock",
        run: shared_pipe_end,
    },
    Demonstration { name: "leibniz_pi", about: "a process per CPU computes its part of pi", run: leibniz_pi },
];

const ADDERS: usize = 9;
const ADDED_BY_EACH: u64 = 50;

fn shared_counter(segment: &Segment) -> Result<Answer> {
    let total = Value::<u64>::create(segment, "counter", 0)?;
    join((0..ADDERS).map(|_| Process::new("demo::tasks::add").segment(segment)))?;
    Ok(Answer::exact(ADDERS, total.load(Relaxed), ADDERS as u64 * ADDED_BY_EACH))
}

/// Adds to the counter, one at a time.
pub fn add(context: &Context) -> Outcome {
    let total = Value::<u64>::open(context.segment(0)?, "counter")?;
    for _ in 0..ADDED_BY_EACH {
        total.fetch_add(1, Relaxed);
    }
    Ok(())
}

const FILLERS: usize = 4;
const LEN: usize = 1_000;

fn shared_array(segment: &Segment) -> Result<Answer> {
    let array = Array::<u64>::create(segment, "squares", LEN)?;
    join((0..FILLERS).map(|i| Process::new("demo::tasks::fill").arg(i.to_string()).segment(segment)))?;
    let squares = array.to_vec();
    let right = (0..).zip(&squares).filter(|&(i, &square)| square == i * i).count();
    Ok(Answer::exact(FILLERS, format!("{right} squares"), format!("{LEN} squares")))
}

/// Fills the elements whose turn it is.
pub fn fill(context: &Context) -> Outcome {
    let array = Array::<u64>::open(context.segment(0)?, "squares")?;
    for i in (context.parse(0)?..LEN).step_by(FILLERS) {
        array[i].store((i * i) as u64, Relaxed);
    }
    Ok(())
}

const STROKES: u64 = 10_000;

fn tennis(segment: &Segment) -> Result<Answer> {
    let mut court = Pipe::create::<u64, u64>(segment, "court", 1)?;
    let crew = Crew::spawn([Process::new("demo::tasks::play").segment(segment)])?;
    let mut strokes = 0;
    while strokes < STROKES {
        court.send(strokes + 1)?;
        strokes = court.recv_timeout(TIME_LIMIT)?;
    }
    drop(court);
    crew.join(Some(TIME_LIMIT))?;
    Ok(Answer::exact(2, format!("{strokes} strokes"), format!("{STROKES} strokes")))
}

/// Returns the ball, one stroke added, until the other has left the court.
pub fn play(context: &Context) -> Outcome {
    let mut court = Pipe::connect::<u64, u64>(context.segment(0)?, "court")?;
    while let Ok(strokes) = court.recv() {
        court.send(strokes + 1)?;
    }
    Ok(())
}

const SUMMED_TO: u64 = 1_000_000;

fn worker_sum(segment: &Segment) -> Result<Answer> {
    let mut results = Pipe::create::<u64, u64>(segment, "sum", 1)?;
    let crew = Crew::spawn([Process::new("demo::tasks::sum_up").segment(segment)])?;
    let sum = results.recv_timeout(TIME_LIMIT)?;
    crew.join(Some(TIME_LIMIT))?;
    Ok(Answer::exact(2, sum, SUMMED_TO * (SUMMED_TO + 1) / 2))
}

/// Counts, and sends the sum.
pub fn sum_up(context: &Context) -> Outcome {
    let mut results = Pipe::connect::<u64, u64>(context.segment(0)?, "sum")?;
    results.send((1..=SUMMED_TO).sum())?;
    Ok(())
}

const PRODUCERS: usize = 5;
const MADE_BY_EACH: u64 = 1_000_000;

fn five_workers(segment: &Segment) -> Result<Answer> {
    let queue = queue::<[u64; 2]>(segment, "made", 1024)?;
    let receiver = queue.receiver()?;
    // Else the queue would be over if the first were done before the last had begun.
    let _sender = queue.sender()?;
    let producers = (0..PRODUCERS).map(|i| Process::new("demo::tasks::produce").arg(i.to_string()).segment(segment));
    let mut crew = Crew::spawn(producers)?;
    // The next number of each: none may be missing, repeated, or out of order.
    let mut next = [0; PRODUCERS];
    let mut in_order = true;
    let mut left = PRODUCERS as u64 * MADE_BY_EACH;
    let started = Instant::now();
    while left > 0 {
        let [producer, number] = match receiver.recv_timeout(LOOK_AFTER) {
            Ok(item) => item,
            Err(error) => {
                let may_come = crew.is_alive()? || !queue.is_empty();
                ensure!(may_come && started.elapsed() < TIME_LIMIT, "{left} items are missing: {error}");
                continue;
            }
        };
        let next = next.get_mut(producer as usize).context("an item of no producer")?;
        in_order &= number == *next;
        *next += 1;
        left -= 1;
    }
    crew.join(Some(TIME_LIMIT))?;
    let total: u64 = next.iter().sum();
    let order = |in_order| if in_order { "in order" } else { "NOT in order" };
    let exact = next.iter().all(|&n| n == MADE_BY_EACH) && queue.is_empty();
    Ok(Answer {
        processes: PRODUCERS + 1,
        found: format!("{total} items, those of each worker {}", order(in_order)),
        is_right: exact && in_order,
    })
}

/// How long nothing has to come before one wonders why.
const LOOK_AFTER: Duration = Duration::from_millis(200);

/// Sends numbered items.
pub fn produce(context: &Context) -> Outcome {
    let sender = Queue::<[u64; 2]>::open(context.segment(0)?, "made")?.sender()?;
    let me = context.parse(0)?;
    for number in 0..MADE_BY_EACH {
        sender.send([me, number])?;
    }
    Ok(())
}

const ITEMS: usize = 500;
const READERS: usize = 2;

fn shared_pipe_end(segment: &Segment) -> Result<Answer> {
    let lock = Lock::<()>::create(segment, "turn", ())?;
    let seen = Array::<u32>::create(segment, "seen", ITEMS)?;
    let mut items = Pipe::create::<u64, u64>(segment, "items", 16)?;
    let crew = Crew::spawn((0..READERS).map(|_| Process::new("demo::tasks::read_shared_end").segment(segment)))?;
    for item in 0..ITEMS as u64 {
        items.send_timeout(item, TIME_LIMIT)?;
    }
    drop(items);
    crew.join(Some(TIME_LIMIT))?;
    drop(lock);
    let once = seen.to_vec().iter().filter(|&&times| times == 1).count();
    Ok(Answer::exact(READERS + 1, format!("{once} items, each once"), format!("{ITEMS} items, each once")))
}

/// Takes the end of the pipe for one item at a time, while it holds the lock, until no more can come.
pub fn read_shared_end(context: &Context) -> Outcome {
    let segment = context.segment(0)?;
    let lock = Lock::<()>::open(segment, "turn")?;
    let seen = Array::<u32>::open(segment, "seen")?;
    loop {
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

const TERMS: u64 = 200_000_000;

fn leibniz_pi(segment: &Segment) -> Result<Answer> {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let pi = Value::<f64>::create(segment, "pi", 0.0)?;
    join(
        (0..cpus)
            .map(|i| Process::new("demo::tasks::leibniz").args([i.to_string(), cpus.to_string()]).segment(segment)),
    )?;
    let pi = pi.load(Relaxed);
    Ok(Answer {
        processes: cpus,
        found: format!("{pi:.10}, off by {:.0e}", (pi - PI).abs()),
        // The first term left out is twice the error of the series.
        is_right: (pi - PI).abs() < 2.0 / TERMS as f64,
    })
}

/// Adds up every so many-th term of 4 - 4/3 + 4/5 - 4/7 ….
pub fn leibniz(context: &Context) -> Outcome {
    let pi = Value::<f64>::open(context.segment(0)?, "pi")?;
    let (first, step): (u64, usize) = (context.parse(0)?, context.parse(1)?);
    let term = |n: u64| if n.is_multiple_of(2) { 4.0 } else { -4.0 } / (2 * n + 1) as f64;
    let part: f64 = (first..TERMS).step_by(step).map(term).sum();
    pi.fetch_add(part, Relaxed);
    Ok(())
}

/// Starts processes and waits until they have ended.
fn join(processes: impl Iterator<Item = Process>) -> Result<()> {
    Crew::spawn(processes)?.join(Some(TIME_LIMIT))
}
