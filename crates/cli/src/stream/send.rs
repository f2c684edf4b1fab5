//! `gimmal send`: standard input, cut into messages.

use anyhow::{Context, Result, ensure};
use gimmal::{SendTimeoutError, Sender};
use std::io::{self, BufRead, BufReader, Read};
use std::process::ExitCode;
use std::time::Duration;

use super::{Framing, Making, TimedOut, Totals, Which, note};
use crate::quantities;
use crate::standard;

/// What `gimmal send` is asked to do.
#[derive(clap::Args)]
#[command(after_long_help = "\
Each line goes to exactly one `gimmal recv`, without its newline; empty lines and a last line without newline are lines, too. \
Sends wait while the queue is full, also when there is no receiver (any more). This ends when all that was sent has been taken, and written \
by those who took it; with --persist, or in a segment that stays, as soon as it is in the queue. If it is killed or interrupted, receivers \
get what it had sent.

Exit code: 0; 1 for errors, such as a message that is larger than the queue; 124 when the time was up.")]
pub struct Options {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    framing: Framing,
    /// With --raw: how long messages are at most [default: 64K, or what the queue holds]
    #[arg(long, value_name = "BYTES", requires = "raw", value_parser = quantities::bytes)]
    chunk: Option<usize>,
}

const CHUNK: usize = 64 << 10;

/// Runs it.
pub fn run(options: Options, as_json: bool) -> Result<ExitCode> {
    let Options { which, making, framing, chunk } = options;
    let (segment, queue) = making.open(&which, true)?;
    let sender = queue.sender()?;
    // With it, sends wait for the next receiver when the last one has gone.
    let _receiver = queue.receiver()?;
    let max = sender.max_len();
    ensure!(
        chunk.is_none_or(|chunk| chunk <= max),
        "chunks of {} bytes do not fit: {} holds {max}",
        chunk.unwrap_or(0),
        which.name
    );
    let mut input = Input::new(standard::input()?, framing, chunk.unwrap_or(CHUNK.min(max)), max);
    let mut sent = Totals::default();
    let mut code = ExitCode::SUCCESS;
    if let Err(error) = send_all(&which, &sender, &mut input, &mut sent) {
        if error.is::<TimedOut>() {
            return Err(error);
        }
        // What was sent before was sent.
        note("send", &crate::describe(&error));
        code = ExitCode::FAILURE;
    }
    if !segment.persists() {
        until_taken(&which, &sender)?;
    }
    if as_json {
        crate::print(format!("{:#}\n", sent.to_json()))?;
    }
    Ok(code)
}

fn send_all(which: &Which, sender: &Sender<[u8]>, input: &mut Input<impl Read>, sent: &mut Totals) -> Result<()> {
    while which.count.is_none_or(|count| sent.messages < count) {
        let Some(message) = input.next()? else { break };
        let result = match which.timeout {
            None => sender.send(message).map_err(SendTimeoutError::from),
            Some(timeout) => sender.send_timeout(message, timeout),
        };
        match result {
            Ok(()) => sent.add(message.len()),
            Err(SendTimeoutError::Timeout(())) => {
                return Err(which.timed_out(&format!("there was no room for {}", input.what())).into());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot send {}", input.what())),
        }
    }
    Ok(())
}

/// Waits until everything that was sent by now was taken, and written. With a time limit, as long as something goes on.
fn until_taken(which: &Which, sender: &Sender<[u8]>) -> Result<()> {
    let queue = sender.queue();
    let backlog = queue.backlog();
    loop {
        let before = backlog.len();
        let all_taken = backlog.wait(which.timeout.unwrap_or(Duration::MAX));
        // What is in a queue that somebody has closed can still be received, by those who are there.
        if all_taken || queue.is_closed() {
            return Ok(());
        }
        let left = backlog.len();
        if left == before {
            let text = match left {
                _ if queue.is_empty() => "not all was written by those who took it".to_owned(),
                1 => "1 message was not taken".to_owned(),
                _ => format!("{left} messages were not taken"),
            };
            return Err(which.timed_out(&text).into());
        }
    }
}

/// Something to read, cut into messages.
struct Input<R> {
    from: BufReader<R>,
    framing: Framing,
    chunk: usize,
    /// The longest message that can be sent.
    max: usize,
    message: Vec<u8>,
    /// How many there were, this one among them.
    number: u64,
}

impl<R: Read> Input<R> {
    fn new(from: R, framing: Framing, chunk: usize, max: usize) -> Self {
        Self {
            from: BufReader::with_capacity(CHUNK.max(chunk), from),
            framing,
            chunk,
            max,
            message: Vec::new(),
            number: 0,
        }
    }

    /// The message that was read last, in words.
    fn what(&self) -> String {
        let what = match (self.framing.raw, self.framing.len_prefixed) {
            (true, _) => "chunk",
            (_, true) => "message",
            _ => "line",
        };
        format!("{what} {}", self.number)
    }

    /// The next message, if there is one more.
    fn next(&mut self) -> Result<Option<&[u8]>> {
        self.message.clear();
        self.number += 1;
        let is_one = match (self.framing.raw, self.framing.len_prefixed) {
            (true, _) => self.read_chunk(),
            (_, true) => self.read_prefixed(),
            _ => self.read_line(),
        };
        Ok(is_one?.then_some(&self.message))
    }

    fn read_line(&mut self) -> io::Result<bool> {
        // One byte for the newline.
        let most = self.max as u64 + 1;
        let read = self.from.by_ref().take(most).read_until(b'\n', &mut self.message)? as u64;
        let has_newline = self.message.pop_if(|last| *last == b'\n').is_some();
        if read == most && !has_newline {
            let len = most + self.skip_line()?;
            return Err(self.too_long(len));
        }
        Ok(read > 0)
    }

    /// Reads to the end of the line and says how many bytes that were, without the newline.
    fn skip_line(&mut self) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let there = self.from.fill_buf()?;
            let (len, newline) = match there.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at, 1),
                None => (there.len(), 0),
            };
            let over = newline > 0 || there.is_empty();
            self.from.consume(len + newline);
            skipped += len as u64;
            if over {
                return Ok(skipped);
            }
        }
    }

    /// As it comes: what is there at once.
    fn read_chunk(&mut self) -> io::Result<bool> {
        let there = self.from.fill_buf()?;
        let len = there.len().min(self.chunk);
        self.message.extend_from_slice(&there[..len]);
        self.from.consume(len);
        Ok(len > 0)
    }

    fn read_prefixed(&mut self) -> io::Result<bool> {
        if self.from.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let mut len = [0; 4];
        self.read_exactly(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > self.max {
            return Err(self.too_long(len as u64));
        }
        let mut message = std::mem::take(&mut self.message);
        message.resize(len, 0);
        self.read_exactly(&mut message)?;
        self.message = message;
        Ok(true)
    }

    fn read_exactly(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.from.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                io::Error::other(format!("the input ends in the middle of {}", self.what()))
            }
            _ => error,
        })
    }

    fn too_long(&self, len: u64) -> io::Error {
        let (what, max) = (self.what(), self.max);
        io::Error::other(format!(
            "{what} has {len} bytes and the queue holds {max}: make the queue with a larger --capacity, or cut the input up (--raw)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: Framing = Framing { raw: false, len_prefixed: false };
    const RAW: Framing = Framing { raw: true, len_prefixed: false };
    const PREFIXED: Framing = Framing { raw: false, len_prefixed: true };

    fn messages(bytes: &[u8], framing: Framing, max: usize) -> (Vec<Vec<u8>>, Option<String>) {
        let mut input = Input::new(bytes, framing, max, max);
        let mut messages = Vec::new();
        loop {
            match input.next() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => return (messages, None),
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
    }

    #[test]
    fn lines_are_what_is_between_newlines() {
        for (text, lines) in [
            (&b""[..], &[][..]),
            (b"\n", &[&b""[..]]),
            (b"a\n\nb", &[b"a", b"", b"b"]),
            (b"\0\xff\r\nfour\n", &[b"\0\xff\r", b"four"]),
        ] {
            assert_eq!(messages(text, LINES, 4), (lines.iter().map(|line| line.to_vec()).collect(), None));
        }
    }

    #[test]
    fn of_a_line_that_is_too_long_the_length_is_told() {
        for len in [5, 6, CHUNK, 3 * CHUNK + 1] {
            for end in ["", "\n", "\nmore"] {
                let text = ["ok\nfour\n", &"x".repeat(len), end].concat();
                let (lines, error) = messages(text.as_bytes(), LINES, 4);
                assert_eq!(lines, [&b"ok"[..], b"four"]);
                assert!(error.unwrap().starts_with(&format!("line 3 has {len} bytes and the queue holds 4: ")));
            }
        }
    }

    #[test]
    fn chunks_are_as_long_as_they_may_be() {
        assert_eq!(messages(b"abcdefg", RAW, 3).0, [&b"abc"[..], b"def", b"g"]);
    }

    #[test]
    fn lengths_are_in_front_of_messages() {
        let three = b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0\n";
        assert_eq!(messages(three, PREFIXED, 2), (vec![b"ab".to_vec(), vec![], b"\n".to_vec()], None));
        for cut in [1, 5, 7, 11, 14] {
            let error = messages(&three[..cut], PREFIXED, 2).1.unwrap();
            assert!(error.contains("ends in the middle of message"), "{cut}: {error}");
        }
        let error = messages(b"\x03\0\0\0abc", PREFIXED, 2).1.unwrap();
        assert!(error.starts_with("message 1 has 3 bytes and the queue holds 2: "), "{error}");
    }
}
