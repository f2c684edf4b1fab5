//! `gimmal wc`: this process reads, worker processes count, and a queue of blocks is between them.
//!
//! The reader tells with each block whether a word is under way at its start, so that any worker can count any block
//! by itself. The sums meet in an array.
//!
//! Nothing is printed before every worker has ended well and the bytes counted are the bytes read: if a worker is
//! killed, there is a message in place of counts. The segment has no name, hence nothing can be left behind.

mod reader;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytemuck::{Pod, Zeroable};
use gimmal::process::{Context, Outcome, Process};
use gimmal::{Array, Queue, RecvError, Segment};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use crate::count::{Counts, count};
use crate::crew::Crew;
use crate::rows::{width, write_row};
use reader::{Input, Reader, Trouble};

/// What `gimmal wc` is asked to do.
#[derive(clap::Args)]
pub struct Options {
    /// How many processes count [default: one per CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// What to count; - is standard input, and so is no FILE at all
    #[arg(value_name = "FILE")]
    files: Vec<OsString>,
}

const DATA: usize = 32 * 1024;

/// A piece of one input, and what a worker has to know to count it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    input: u32,
    len: u32,
    /// Whether a word is under way at the start: 0 or 1.
    in_word: u32,
    unused: u32,
    data: [u8; DATA],
}

/// Blocks in the queue per worker: enough to cover for a reader that waits for a moment, few enough to stay in a cache.
const BLOCKS_PER_WORKER: usize = 4;

/// The names of the queue and of the array.
const BLOCKS: &str = "blocks";
const COUNTS: &str = "counts";

/// Numbers per input in the array.
const PER_INPUT: usize = 3;

/// Runs it; the exit code says whether everything could be read.
pub fn run(options: Options, as_json: bool) -> Result<ExitCode> {
    let inputs = Input::all(options.files);
    let width = width(inputs.iter().map(|input| input.metadata.as_ref()));
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = options.workers.map_or(cpus, usize::from);

    let capacity = workers * BLOCKS_PER_WORKER;
    let segment = Segment::options()
        .size(segment_size(capacity, inputs.len()))
        .max_participants(u16::try_from(workers + 1)?)
        .max_objects(2)
        .anonymous()?;
    let queue = Queue::<Block>::create(&segment, BLOCKS, capacity)?;
    let counts = Array::<u64>::create(&segment, COUNTS, PER_INPUT * inputs.len())?;
    let sender = queue.sender()?;

    let crew = Crew::spawn(
        (1..=workers).map(|i| Process::new("wc::count_blocks").name(&format!("wc worker {i}")).segment(&segment)),
    )?;
    // A read may take for ever, from a terminal, say. That must not keep us from seeing the end of a worker, so it has
    // a thread, and the thread ends with the process. Unoptimised code copies blocks on the stack, again and again.
    let reader = thread::Builder::new().stack_size(8 << 20).spawn(move || Reader::new(sender, inputs).read_all())?;
    crew.join(None).context("no counts, because a worker did not count to the end")?;
    let read = reader.join().map_err(|_| anyhow!("no counts, because the reader panicked"))?;
    let read = read.context("no counts, because not all that was read could be sent")?;

    let rows =
        read.into_iter().enumerate().map(|(i, read)| Row::new(i, read, &counts)).collect::<Result<Vec<Row>>>()?;
    match as_json {
        true => crate::print(format!("{:#}\n", to_json(&rows)))?,
        false => crate::print(to_text(&rows, width)?)?,
    }
    Ok(match rows.iter().any(|row| row.trouble.is_some()) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn segment_size(capacity: usize, inputs: usize) -> usize {
    // The tables of a segment, and room for alignment.
    let tables = 64 * 1024;
    tables + Queue::<Block>::bytes(capacity) + Array::<u64>::bytes(PER_INPUT * inputs)
}

/// A worker's process: counts blocks until there will be no more.
pub fn count_blocks(context: &Context) -> Outcome {
    let segment = context.segment(0)?;
    let blocks = Queue::<Block>::open(segment, BLOCKS)?.receiver()?;
    let counts = Array::<u64>::open(segment, COUNTS)?;
    // In a vector, for a block is too large to be moved about on the stack.
    let mut received: Vec<Block> = Vec::with_capacity(1);
    loop {
        received.clear();
        match blocks.recv_many(&mut received, 1) {
            Ok(_) => {}
            Err(RecvError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for block in &received {
            let data = block.data.get(..block.len as usize).ok_or("a block is longer than it can be")?;
            let Counts { lines, words, bytes } = count(data, block.in_word != 0);
            let sums = &counts[PER_INPUT * block.input as usize..][..PER_INPUT];
            for (sum, n) in sums.iter().zip([lines, words, bytes]) {
                sum.fetch_add(n, Relaxed);
            }
        }
    }
}

/// What is known of an input in the end.
struct Row {
    name: Option<OsString>,
    counts: Counts,
    trouble: Option<Trouble>,
}

impl Row {
    fn new(index: usize, read: reader::Read, counts: &Array<u64>) -> Result<Self> {
        let [lines, words, bytes] = [0, 1, 2].map(|i| counts[PER_INPUT * index + i].load(Relaxed));
        let row = Self { name: read.input.name, counts: Counts { lines, words, bytes }, trouble: read.trouble };
        ensure!(
            bytes == read.bytes,
            "no counts, because {bytes} bytes were counted of {} read from {}",
            read.bytes,
            row.name().unwrap_or("standard input".to_owned()),
        );
        Ok(row)
    }

    fn name(&self) -> Option<String> {
        Some(self.name.as_ref()?.to_string_lossy().into_owned())
    }
}

/// The sum of all rows.
fn total(rows: &[Row]) -> Counts {
    let mut total = Counts::default();
    for row in rows {
        total += row.counts;
    }
    total
}

fn to_text(rows: &[Row], width: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for row in rows {
        // What could be opened has a row, whatever could be read of it.
        if row.trouble.as_ref().is_none_or(Trouble::is_in_reading) {
            write_row(&mut out, width, &row.counts, row.name.as_ref().map(|name| name.as_bytes()))?;
        }
    }
    if rows.len() > 1 {
        write_row(&mut out, width, &total(rows), Some(b"total"))?;
    }
    Ok(out)
}

fn to_json(rows: &[Row]) -> Value {
    let counts = |counts: Counts| json!({"lines": counts.lines, "words": counts.words, "bytes": counts.bytes});
    let files = rows.iter().map(|row| {
        let mut file = counts(row.counts);
        file["name"] = row.name().into();
        file["error"] = row.trouble.as_ref().map(Trouble::reason).into();
        file
    });
    json!({"files": files.collect::<Value>(), "total": counts(total(rows))})
}
