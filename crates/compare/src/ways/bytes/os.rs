//! What the kernel offers: a pipe and a pair of Unix stream sockets, with each message's length in front of it, and a pair of Unix
//! sockets that keep messages apart by themselves.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use super::super::os::{self, End};
use super::super::{Link as WordLink, Spec};
use super::{Link, Rx, Tx};

/// See [`os::Pipe`].
pub struct Pipe(os::Pipe, usize);
/// See [`os::Socket`].
pub struct Socket(os::Socket, usize);
/// Two connected sockets of the kind SOCK_SEQPACKET for each lane.
pub struct Packets(Vec<(OwnedFd, OwnedFd)>, bool, usize);

/// Bytes of the length in front of a message.
const LENGTH: usize = 8;
/// Bytes that are read at once, more if a message is longer.
const AT_ONCE: usize = 64 << 10;

/// Writes length and message in one call.
pub struct Writer(End);

/// Reads as much as there is, and hands messages out from there: one call for many small messages.
pub struct Reader {
    end: End,
    buffer: Vec<u8>,
    /// What of the buffer has been read, and not been handed out.
    begin: usize,
    filled: usize,
}

/// Both have the same ends.
macro_rules! stream {
    ($way:ident) => {
        impl Link for $way {
            type Shared = ();
            type Tx = Writer;
            type Rx = Reader;

            fn prepare(spec: &Spec) -> Self {
                Self(WordLink::<1>::prepare(spec), spec.bytes)
            }

            fn open(&self, _first: bool) {}

            fn sender(&self, (): &(), lane: usize) -> Writer {
                Writer(WordLink::<1>::sender(&self.0, &(), lane))
            }

            fn receiver(&self, (): &(), lane: usize) -> Reader {
                let end = WordLink::<1>::receiver(&self.0, &(), lane);
                // Room for a message and what is read with its end.
                Reader { end, buffer: vec![0; AT_ONCE + LENGTH + self.1], begin: 0, filled: 0 }
            }
        }
    };
}
stream!(Pipe);
stream!(Socket);

impl Tx for Writer {
    fn send(&mut self, message: &[u8]) {
        let length = (message.len() as u64).to_ne_bytes();
        let mut parts = &mut [IoSlice::new(&length), IoSlice::new(message)][..];
        while !parts.is_empty() {
            let written = self.0.file().write_vectored(parts).expect("write");
            IoSlice::advance_slices(&mut parts, written);
        }
    }
}

impl Reader {
    /// Bytes that are missing from the message that comes next, as far as that is known.
    fn missing(&self) -> usize {
        let there = &self.buffer[self.begin..self.filled];
        let wanted = there.first_chunk().map_or(LENGTH, |length| LENGTH + u64::from_ne_bytes(*length) as usize);
        wanted.saturating_sub(there.len())
    }

    /// Reads what is there; `false` if that is nothing, and the end is polled.
    fn fill(&mut self, missing: usize) -> bool {
        // Of a long message no more than its rest, so that hardly anything is ever moved.
        let room = missing.max(AT_ONCE);
        if self.buffer.len() - self.filled < room {
            self.buffer.copy_within(self.begin..self.filled, 0);
            (self.begin, self.filled) = (0, self.filled - self.begin);
        }
        match self.end.file().read(&mut self.buffer[self.filled..][..room]) {
            Ok(0) => panic!("read: the other end is gone"),
            Ok(bytes) => self.filled += bytes,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
            Err(e) => panic!("read: {e}"),
        }
        true
    }

    /// The message that comes next, all of which has been read.
    fn take<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        let length = *self.buffer[self.begin..].first_chunk().expect("read before");
        let begin = self.begin + LENGTH;
        self.begin = begin + u64::from_ne_bytes(length) as usize;
        let result = read(&self.buffer[begin..self.begin]);
        if self.begin == self.filled {
            (self.begin, self.filled) = (0, 0);
        }
        result
    }
}

impl Rx for Reader {
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        loop {
            match self.missing() {
                0 => return self.take(read),
                missing => _ = self.fill(missing),
            }
        }
    }

    fn try_recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        loop {
            match self.missing() {
                0 => return Some(self.take(read)),
                missing if !self.fill(missing) => return None,
                _ => {}
            }
        }
    }
}

impl Link for Packets {
    type Shared = ();
    type Tx = End;
    type Rx = PacketReader;

    fn prepare(spec: &Spec) -> Self {
        Self((0..spec.lanes).map(|_| pair()).collect(), spec.polled, spec.bytes)
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> End {
        End::of(&self.0[lane].0, false)
    }

    fn receiver(&self, (): &(), lane: usize) -> PacketReader {
        PacketReader(End::of(&self.0[lane].1, self.1), vec![0; self.2])
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let mut pair = [-1; 2];
    // SAFETY: `pair` is ours to write.
    let made =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()) };
    assert_eq!(made, 0, "a pair of sockets: {}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that was made just now, and that nobody else has.
    let [one, other] = pair.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) });
    (one, other)
}

impl Tx for End {
    fn send(&mut self, message: &[u8]) {
        let sent = self.file().write(message).expect("write");
        assert_eq!(sent, message.len(), "a packet goes as a whole");
    }
}

/// The end, and room for a message.
pub struct PacketReader(End, Vec<u8>);

impl Rx for PacketReader {
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        self.try_recv(read).expect("an end that is not polled waits")
    }

    fn try_recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        match self.0.file().read(&mut self.1) {
            Ok(bytes) => Some(read(&self.1[..bytes])),
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            Err(e) => panic!("read: {e}"),
        }
    }
}
