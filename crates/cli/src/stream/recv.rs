//! `gimmal recv`: messages, written to standard output.

use anyhow::{Result, bail};
use gimmal::{Departure, Frame, RecvTimeoutError};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::{Framing, Making, Patience, Totals, Which, note_json};
use crate::standard;

/// What `gimmal recv` is asked to do.
#[derive(clap::Args)]
#[command(after_long_help = "\
Of all that is sent, each message goes to one of those who receive, and to each of them in the order in which it was sent. This ends when \
there was a sender, none is left, and all is taken; with --follow it waits for the next one instead. A message counts as received when all \
of it was written: those that cannot be written, because nobody reads any more, go to others. Those of a receiver that is killed do, too, \
also if they had been written just now.

Exit code: 0; 1 for errors, and if the last sender was killed or interrupted, so that there may have been more to come; 124 when the time \
was up.")]
pub struct Options {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    framing: Framing,
    /// Go on when the last sender has ended: wait for another one
    #[arg(long, short)]
    follow: bool,
}

/// Runs it.
pub fn run(options: Options, as_json: bool) -> Result<ExitCode> {
    let Options { which, making, framing, follow } = options;
    let (_segment, queue) = making.open(&which, false)?;
    let receiver = queue.receiver()?;
    let mut output = Output::new(standard::output()?, framing);
    // Whether there was something to wait for since we came.
    let mut was_alive = false;
    let mut patience = Patience::new(which.timeout);
    let too_late = || which.timed_out("no message came");

    let left = loop {
        let is_done = which.count.is_some_and(|count| output.totals.messages >= count);
        if is_done || output.is_full() {
            output.flush()?;
        }
        if is_done {
            break None;
        }
        let mut received = receiver.recv_timeout(Duration::ZERO);
        if received.is_err() {
            output.flush()?;
        }
        if matches!(received, Err(RecvTimeoutError::Timeout)) {
            was_alive = true;
            received = match which.timeout {
                None => receiver.recv().map_err(RecvTimeoutError::from),
                Some(timeout) => receiver.recv_timeout(timeout),
            };
        }
        match received {
            Ok(frame) => output.add(frame)?,
            Err(RecvTimeoutError::Closed) => break None,
            Err(RecvTimeoutError::Timeout) => return Err(too_late().into()),
            Err(RecvTimeoutError::Disconnected { .. }) if follow || !was_alive => {
                if !patience.pause() {
                    return Err(too_late().into());
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected { peer }) => break Some(peer),
            Err(error) => return Err(error.into()),
        }
        was_alive = true;
        patience = Patience::new(which.timeout);
    };
    if as_json {
        note_json(&output.totals.to_json());
    }
    if let Some(Departure::Died { pid }) = left {
        bail!(
            "the last sender, process {pid}, did not come to its end: all that it had sent is here, but there may have been more"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Messages on their way out. They are ours only when they are written.
struct Output<'a, W> {
    to: W,
    framing: Framing,
    buffer: Vec<u8>,
    /// Each with the place where it ends in the buffer.
    frames: Vec<(Frame<'a>, usize)>,
    totals: Totals,
}

/// How many messages are in our hands at most, and how many bytes, but for the last message.
const MESSAGES: usize = 256;
const BYTES: usize = 64 << 10;

impl<'a, W: Write> Output<'a, W> {
    fn new(to: W, framing: Framing) -> Self {
        Self { to, framing, buffer: Vec::new(), frames: Vec::new(), totals: Totals::default() }
    }

    fn is_full(&self) -> bool {
        self.frames.len() >= MESSAGES || self.buffer.len() >= BYTES
    }

    fn add(&mut self, frame: Frame<'a>) -> Result<()> {
        if let Err(error) = self.framing.append(&mut self.buffer, &frame) {
            frame.give_back();
            return Err(error);
        }
        self.totals.add(frame.len());
        self.frames.push((frame, self.buffer.len()));
        Ok(())
    }

    /// Writes all of it. What cannot be written, or not as a whole, is given back.
    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            if written == self.buffer.len() {
                break Ok(());
            }
            match self.to.write(&self.buffer[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        for (frame, end) in self.frames.drain(..) {
            match end <= written {
                true => drop(frame),
                false => frame.give_back(),
            }
        }
        self.buffer.clear();
        result
    }
}

/// What was not written, for whatever reason, is not received.
impl<W> Drop for Output<'_, W> {
    fn drop(&mut self) {
        self.frames.drain(..).for_each(|(frame, _)| frame.give_back());
    }
}
