//! Pipes of bytes as streams: `std::io::Read` and `Write`.

use core::fmt;
use std::io::{self, BufRead, ErrorKind, IoSlice, Read, Write};

use super::End;
use crate::channel::no_deadline_recv;
use crate::error::{RecvError, SendError};
use crate::segment::Token;
use crate::spsc::{Receiver, Sender};

fn broken(e: SendError<()>) -> io::Error {
    let kind = match e {
        SendError::Detached(()) => ErrorKind::NotConnected,
        SendError::NoSpace(()) => ErrorKind::StorageFull,
        _ => ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, e)
}

/// A sender of bytes as `std::io::Write`: see [`Sender::into_writer`](crate::spsc::Sender::into_writer).
pub struct Writer {
    sender: Sender<[u8]>,
    /// The most bytes of a message: half of the ring, so that one end can write while the other reads.
    most: usize,
}

/// A receiver of bytes as `std::io::Read`: see [`Receiver::into_reader`](crate::spsc::Receiver::into_reader).
pub struct Reader {
    receiver: Receiver<[u8]>,
    /// How many bytes of the message in front have been read.
    read: usize,
    /// By whom: us, unless this is a copy in a fork child.
    reader: Token,
}

/// An end of a pipe of bytes as `std::io::Read` and `Write`: see [`End::into_stream`].
pub struct Stream {
    reader: Reader,
    writer: Writer,
}

impl Sender<[u8]> {
    /// A stream of bytes: each `write` sends a message of up to half of what the ring holds, and waits for room as long as it takes. When
    /// the other end is gone, `write` fails with `BrokenPipe`. `flush` does nothing: what is written is there.
    #[must_use]
    pub fn into_writer(self) -> Writer {
        Writer { most: self.max_len() / 2, sender: self }
    }
}

impl Receiver<[u8]> {
    /// A stream of bytes: what was sent, whatever the messages were. `read` waits for the first byte as long as it takes, and returns
    /// what is there of one message; 0 when the other end is gone and all is read. A message counts as received when the last of its
    /// bytes has been read: who takes the seat of a reader that died before gets all of it.
    #[must_use]
    pub fn into_reader(self) -> Reader {
        Reader { reader: self.sitter(), receiver: self, read: 0 }
    }
}

impl End<[u8], [u8]> {
    /// This end as a stream of bytes in both directions: `std::io::Read` and `Write`, without messages. See
    /// [`Sender::into_writer`] and [`Receiver::into_reader`].
    ///
    /// ```
    /// use gimmal::{Pipe, Segment};
    /// use std::io::{BufRead, Read, Write};
    ///
    /// let segment = Segment::anonymous()?;
    /// let (first, second) = Pipe::pair::<[u8], [u8]>(&segment, "pipe", 4096)?;
    /// let (mut first, mut second) = (first.into_stream(), second.into_stream());
    /// writeln!(first, "the answer is {}", 42)?;
    /// first.write_all(b"and more")?;
    /// drop(first);
    /// let mut line = String::new();
    /// second.read_line(&mut line)?;
    /// assert_eq!(line, "the answer is 42\n");
    /// line.clear();
    /// second.read_to_string(&mut line)?;
    /// assert_eq!(line, "and more");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_stream(self) -> Stream {
        let (sender, receiver) = self.split();
        Stream { reader: receiver.into_reader(), writer: sender.into_writer() }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.most);
        if len > 0 {
            self.sender.send(&bytes[..len]).map_err(broken)?;
        }
        Ok(len)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut grant = match parts.iter().map(|part| part.len()).sum::<usize>().min(self.most) {
            0 => return Ok(0),
            len => self.sender.reserve(len).map_err(broken)?,
        };
        let len = grant.len();
        let mut room = &mut grant[..];
        for part in parts {
            // As much of it as there is room for.
            let written = room.write(part)?;
            if written < part.len() {
                break;
            }
        }
        grant.commit(len);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            let front = no_deadline_recv(self.receiver.front(None));
            self.forget_what_others_read();
            match front {
                Ok(len) if self.read < len => break,
                // An empty message, or the end of one.
                Ok(_) => self.consume(0),
                Err(e @ RecvError::Detached) => return Err(io::Error::new(ErrorKind::NotConnected, e)),
                Err(_) => return Ok(&[]),
            }
        }
        // A peer that breaks the protocol may have made it shorter meanwhile.
        Ok(self.receiver.front_bytes().get(self.read..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        let len = self.receiver.front_bytes().len();
        if self.forget_what_others_read() {
            return;
        }
        self.read += count;
        if self.read >= len {
            self.receiver.pop_front();
            self.read = 0;
        }
    }
}

impl Reader {
    /// To be called after a look at the message in front, which takes the seat in a fork child whose parent has got up: the parent has
    /// read of another message, or of this one for itself.
    fn forget_what_others_read(&mut self) -> bool {
        let sitter = self.receiver.sitter();
        let others = sitter != self.reader;
        if others {
            (self.reader, self.read) = (sitter, 0);
        }
        others
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.reader.consume(count);
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.writer.write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    /// Both directions, for two threads.
    #[must_use]
    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}
