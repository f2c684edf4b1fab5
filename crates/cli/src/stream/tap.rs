//! `gimmal tap`: messages, shown and not taken.

use anyhow::Result;
use gimmal::RecvTimeoutError;
use serde_json::json;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::{Framing, Totals, Which, note, note_json, remove_when_interrupted};

/// What `gimmal tap` is asked to do.
#[derive(clap::Args)]
#[command(after_long_help = "\
It shows what is sent from now on, and what has not been received yet, and holds up nobody. So where messages go by faster than they can be \
written, some are not shown; at the end it tells on standard error how many at most. This ends when there was a sender and none is left.

Exit code: 0; 1 for errors; 124 when the time was up.")]
pub struct Options {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    framing: Framing,
}

/// How much is written at once.
const BYTES: usize = 64 << 10;

/// Known to whoever ends us.
static SEEN: AtomicU64 = AtomicU64::new(0);
static MISSED: AtomicU64 = AtomicU64::new(0);

/// Runs it.
pub fn run(options: Options, as_json: bool) -> Result<ExitCode> {
    let Options { which, framing } = options;
    remove_when_interrupted(&which.name.segment, move || tell(as_json))?;
    let (_segment, queue) = which.wait_for(|| which.find())?;
    let mut tap = queue.tap();
    let (mut totals, mut buffer) = (Totals::default(), Vec::new());
    let result = loop {
        let is_done = which.count.is_some_and(|count| totals.messages >= count);
        let next = if is_done || buffer.len() >= BYTES { None } else { tap.try_next() };
        let next = match next {
            Some(message) => Ok(message),
            None => {
                crate::print(&buffer)?;
                buffer.clear();
                match which.timeout {
                    _ if is_done => break Ok(ExitCode::SUCCESS),
                    None => tap.next().map_err(RecvTimeoutError::from),
                    Some(timeout) => tap.next_timeout(timeout),
                }
            }
        };
        MISSED.store(tap.missed(), Relaxed);
        match next {
            Ok(message) => {
                framing.append(&mut buffer, &message)?;
                totals.add(message.len());
                SEEN.store(totals.messages, Relaxed);
            }
            Err(RecvTimeoutError::Closed | RecvTimeoutError::Disconnected { .. }) => break Ok(ExitCode::SUCCESS),
            Err(RecvTimeoutError::Timeout) => break Err(which.timed_out("no message came").into()),
            Err(error) => break Err(error.into()),
        }
    };
    tell(as_json);
    result
}

/// Says what was seen and what was not.
fn tell(as_json: bool) {
    let (seen, missed) = (SEEN.load(Relaxed), MISSED.load(Relaxed));
    match missed {
        _ if as_json => note_json(&json!({"messages": seen, "missed_at_most": missed})),
        0 => note("tap", &format!("{seen} seen, none missed")),
        _ => note("tap", &format!("{seen} seen, at most {missed} missed")),
    }
}
