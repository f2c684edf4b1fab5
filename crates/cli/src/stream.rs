//! `gimmal send` and `recv`: messages between standard input or output and a queue of bytes, as through a named pipe with many
//! readers.
//!
//! *Who makes it:* `send`, if it is missing; `recv` waits until it is there. Either can be told otherwise.
//!
//! *How long it lives:* as long as somebody uses it, since the segment goes away with its last participant. So that nothing is
//! lost with it, `send` ends only when all has been taken, unless the segment persists; and while it runs, it has a receiving
//! end of its own, so that sends wait for the next receiver when the last one has gone.
//!
//! *When it ends:* `recv` ends once there were senders, none is left, and everything was taken and settled. Whoever comes to a
//! queue that is over already waits for the next sender, as whoever opens a named pipe does. Nothing tells of one; it is looked
//! for, and so is a segment that is not there yet.
//!
//! *What was received:* a message is released when all of it was written. Those that could not be written are given back, and
//! those of a process that is killed go to another: once more if they had been written.

pub mod recv;
pub mod send;
pub mod tap;

use anyhow::{Context, Result, bail, ensure};
use gimmal::{Error, Queue, Segment};
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use crate::quantities;
use crate::signals;
use crate::table::bytes;

/// Where the messages are: `SEGMENT` or `SEGMENT/QUEUE`.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    segment: String,
    queue: String,
}

/// The queue that is meant if only a segment is named.
const QUEUE: &str = "queue";

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Neither name can have a slash in it; what else is no name, the library says.
        let (segment, queue) = text.split_once('/').unwrap_or((text, QUEUE));
        if segment.is_empty() || queue.is_empty() || queue.contains('/') {
            return Err("it should be the name of a segment, or of a segment and a queue with a slash in between");
        }
        Ok(Self { segment: segment.to_owned(), queue: queue.to_owned() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.queue {
            QUEUE => f.write_str(&self.segment),
            queue => write!(f, "{}/{queue}", self.segment),
        }
    }
}

/// Which queue, and how much of it.
#[derive(clap::Args)]
pub struct Which {
    /// The segment; its queue is the one called "queue" unless another one is named
    #[arg(value_name = "SEGMENT[/QUEUE]")]
    name: Name,
    /// Wait no longer than this for the queue, for a message, for room: 2, 1.5s, 200ms, 3min. The exit code is 124 then
    #[arg(long, value_name = "TIME", value_parser = quantities::duration)]
    timeout: Option<Duration>,
    /// Stop after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// What to do if it is not there.
#[derive(clap::Args)]
pub struct Making {
    /// Make the segment and the queue if they are missing. What send does anyway
    #[arg(long, overrides_with = "no_create")]
    create: bool,
    /// Wait until somebody else has made them. What recv does anyway
    #[arg(long, overrides_with = "create")]
    no_create: bool,
    /// How much the queue holds if it is made here, 1M unless given; one that is there already must hold as much, unless it is
    /// unbounded
    #[arg(long, value_name = "BYTES", value_parser = quantities::bytes)]
    capacity: Option<usize>,
    /// Make the queue one that takes memory as messages come and gives it back as they go, so that send does not wait for room: up to
    /// --capacity, half of what is free unless given
    #[arg(long)]
    unbounded: bool,
    /// Make the segment one that stays, with all that is in it, until it is removed (gimmal rm)
    #[arg(long)]
    persist: bool,
}

/// How messages lie in a stream of bytes. Lines unless said otherwise.
#[derive(clap::Args, Clone, Copy)]
pub struct Framing {
    /// Not lines, but bytes as they come: what is read at once is a message; nothing is written between messages
    #[arg(long, conflicts_with = "len_prefixed")]
    raw: bool,
    /// Not lines: in front of each message is its length, 4 bytes, the lowest first
    #[arg(long)]
    len_prefixed: bool,
}

/// The time was up: an exit code of its own, the one of timeout(1).
#[derive(Debug)]
pub struct TimedOut(String);

impl TimedOut {
    /// Its exit code.
    pub const CODE: u8 = 124;
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimedOut {}

const CAPACITY: usize = 1 << 20;

/// As many processes as can be.
const PARTICIPANTS: u16 = 511;

/// What a queue without a bound takes of its segment.
const UNBOUNDED: usize = 256 << 10;
/// The tables of a segment with so many participants and few objects, and room for alignment.
const TABLES: usize = 64 << 10;
const OBJECTS: u32 = 16;

impl Which {
    /// What is found, waiting for it as long as may be.
    fn wait_for<T>(&self, find: impl Fn() -> Result<T, Error>) -> Result<T> {
        let mut patience = Patience::new(self.timeout);
        loop {
            match find() {
                Err(Error::NotFound { .. }) if patience.pause() => {}
                Err(Error::NotFound { .. }) => return Err(self.timed_out("nobody has made it").into()),
                found => return found.with_context(|| format!("cannot use {}", self.name)),
            }
        }
    }

    fn find(&self) -> Result<(Segment, Queue<[u8]>), Error> {
        let segment = Segment::open(&self.name.segment)?;
        let queue = Queue::<[u8]>::open(&segment, &self.name.queue)?;
        Ok((segment, queue))
    }

    /// The time is up, and this is what did not happen.
    fn timed_out(&self, what: &str) -> TimedOut {
        let name = &self.name;
        match self.timeout {
            None | Some(Duration::ZERO) => TimedOut(format!("{name}: {what}")),
            Some(timeout) => TimedOut(format!("{name}: {what} within {timeout:?}")),
        }
    }
}

impl Making {
    /// The queue, made or waited for.
    fn open(&self, which: &Which, create_unless_told: bool) -> Result<(Segment, Queue<[u8]>)> {
        remove_when_interrupted(&which.name.segment, || {})?;
        let create = self.create || create_unless_told && !self.no_create;
        let (segment, queue) = which.wait_for(|| if create { self.find_or_make(&which.name) } else { which.find() })?;
        let (has, asked) = (queue.capacity(), self.capacity.unwrap_or(0));
        // The limit of an unbounded queue is one of memory, which holds fewer bytes of messages.
        ensure!(
            queue.is_unbounded() || has >= asked,
            "{} is there already and holds {}, less than {}: leave --capacity out, or use another name",
            which.name,
            bytes(has as u64),
            bytes(asked as u64),
        );
        ensure!(
            queue.is_unbounded() || !self.unbounded,
            "{} is there already and has a bound: leave --unbounded out, or use another name",
            which.name,
        );
        ensure!(
            segment.persists() || !self.persist,
            "{} is there already and will go away with its last user: leave --persist out, or use another name",
            which.name.segment,
        );
        Ok((segment, queue))
    }

    fn find_or_make(&self, name: &Name) -> Result<(Segment, Queue<[u8]>), Error> {
        let capacity = self.capacity.unwrap_or(CAPACITY);
        let options = Queue::<[u8]>::options();
        let (options, size) = match self.unbounded {
            true => (options.unbounded(self.capacity.unwrap_or(0)), UNBOUNDED),
            false => (options.capacity(capacity), Queue::<[u8]>::bytes(capacity)),
        };
        let segment = Segment::options()
            .size(size.saturating_add(TABLES))
            .max_participants(PARTICIPANTS)
            .max_objects(OBJECTS)
            .persist(self.persist)
            .open_or_create(&name.segment)?;
        loop {
            match Queue::<[u8]>::open(&segment, &name.queue) {
                Err(Error::NotFound { .. }) => {}
                opened => return Ok((segment, opened?)),
            }
            match options.create(&segment, &name.queue) {
                Err(Error::Exists { .. }) => {}
                made => return Ok((segment, made?)),
            }
        }
    }
}

impl Framing {
    /// Writes a message into a stream.
    fn append(self, stream: &mut Vec<u8>, message: &[u8]) -> Result<()> {
        if self.len_prefixed {
            let Ok(len) = u32::try_from(message.len()) else {
                bail!("a message of {} bytes has no length of 4 bytes: use --raw", message.len());
            };
            stream.extend_from_slice(&len.to_le_bytes());
        }
        stream.extend_from_slice(message);
        if !self.raw && !self.len_prefixed {
            stream.push(b'\n');
        }
        Ok(())
    }
}

/// A wait for what nobody tells of: looks that become rarer.
struct Patience {
    deadline: Option<Instant>,
    pause: Duration,
}

impl Patience {
    fn new(timeout: Option<Duration>) -> Self {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Self { deadline, pause: Duration::from_millis(1) }
    }

    /// Sleeps until it is time for another look; `false` if the time is up.
    fn pause(&mut self) -> bool {
        let left = self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 2).min(Duration::from_millis(50));
        !left.is_zero()
    }
}

/// A signal ends a process without a chance to leave its segment, and it may be the last one in it. To the others it is dead
/// from `exec` on; what is executed is the next one to look for the segment, and removes it then if nobody else is there.
fn remove_when_interrupted(segment: &str, before: impl FnOnce() + Send + 'static) -> Result<()> {
    let segment = segment.to_owned();
    signals::at_end(move || {
        before();
        // The name of a segment may begin with a dash.
        let _ = Command::new("/proc/self/exe").args([LEAVE, "--", &segment]).exec();
    })
}

/// The command that is executed.
pub const LEAVE: &str = "leave";

/// Removes a segment if nobody living is attached to it: opening one does.
pub fn leave(segment: &str) -> Result<ExitCode> {
    drop(Segment::open(segment));
    Ok(ExitCode::from(signals::INTERRUPTED))
}

/// What has gone through.
#[derive(Default)]
struct Totals {
    messages: u64,
    bytes: u64,
}

impl Totals {
    fn add(&mut self, len: usize) {
        self.messages += 1;
        self.bytes += len as u64;
    }

    fn to_json(&self) -> Value {
        json!({"messages": self.messages, "bytes": self.bytes})
    }
}

/// Tells the user something that is no error.
fn note(command: &str, text: &str) {
    let _ = writeln!(io::stderr(), "gimmal {command}: {text}");
}

/// Tells a program something that is no error: standard output has the messages.
fn note_json(value: &Value) {
    let _ = writeln!(io::stderr(), "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_segment_or_a_segment_and_a_queue() {
        let parsed = |text: &str| text.parse::<Name>().unwrap();
        let name = |segment: &str, queue: &str| Name { segment: segment.to_owned(), queue: queue.to_owned() };
        assert_eq!(parsed("jobs"), name("jobs", "queue"));
        assert_eq!(parsed("jobs/done"), name("jobs", "done"));
        for wrong in ["", "/", "jobs/", "/queue", "jobs/a/b"] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
        assert_eq!(
            ["jobs", "jobs/queue", "jobs/done"].map(|text| parsed(text).to_string()),
            ["jobs", "jobs", "jobs/done"]
        );
    }
}
