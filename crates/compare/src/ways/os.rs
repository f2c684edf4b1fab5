//! What the kernel offers: a pipe, and a pair of Unix stream sockets.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use gimmal::bytemuck::{bytes_of_mut, cast_slice, cast_slice_mut};

use super::{Link, Rx, Spec, Tx};

/// A pipe for each lane. What is written at once arrives at once, as messages are no larger than `PIPE_BUF`.
pub struct Pipe(Vec<(OwnedFd, OwnedFd)>, bool);
/// Two connected sockets for each lane.
pub struct Socket(Vec<(OwnedFd, OwnedFd)>, bool);

/// An end that is inherited.
pub struct End(File);

impl End {
    /// The same end once more; if it is `polled`, it does not wait.
    pub fn of(end: &OwnedFd, polled: bool) -> Self {
        let end = File::from(end.try_clone().expect("duplicate a descriptor"));
        if polled {
            // SAFETY: sets a flag of a descriptor that is ours.
            let set = unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
            assert_eq!(set, 0, "do not block: {}", std::io::Error::last_os_error());
        }
        Self(end)
    }

    /// What to read from, or write to.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl<const N: usize> Link<N> for Pipe {
    type Shared = ();
    type Tx = End;
    type Rx = End;

    fn prepare(spec: &Spec) -> Self {
        let pipe = |_| std::io::pipe().map(|(reader, writer)| (OwnedFd::from(writer), OwnedFd::from(reader)));
        Self((0..spec.lanes).map(pipe).collect::<Result<_, _>>().expect("a pipe"), spec.polled)
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> End {
        End::of(&self.0[lane].0, false)
    }

    fn receiver(&self, (): &(), lane: usize) -> End {
        End::of(&self.0[lane].1, self.1)
    }
}

impl<const N: usize> Link<N> for Socket {
    type Shared = ();
    type Tx = End;
    type Rx = End;

    fn prepare(spec: &Spec) -> Self {
        let pair = |_| UnixStream::pair().map(|(one, other)| (OwnedFd::from(one), OwnedFd::from(other)));
        Self((0..spec.lanes).map(pair).collect::<Result<_, _>>().expect("a pair of sockets"), spec.polled)
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> End {
        End::of(&self.0[lane].0, false)
    }

    fn receiver(&self, (): &(), lane: usize) -> End {
        End::of(&self.0[lane].1, self.1)
    }
}

impl<const N: usize> Tx<N> for End {
    #[inline(always)]
    fn send(&mut self, message: &[u64; N]) {
        self.0.write_all(cast_slice(message)).expect("write");
    }

    fn send_many(&mut self, messages: &[[u64; N]]) {
        self.0.write_all(cast_slice(messages)).expect("write");
    }
}

impl<const N: usize> Rx<N> for End {
    #[inline(always)]
    fn recv(&mut self) -> [u64; N] {
        let mut message = [0; N];
        self.0.read_exact(bytes_of_mut(&mut message)).expect("read");
        message
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; N]> {
        let mut message = [0; N];
        match self.0.read(bytes_of_mut(&mut message)) {
            Ok(bytes) if bytes == 8 * N => Some(message),
            // Small messages are written and read at once.
            Ok(bytes) => panic!("{bytes} bytes of a message"),
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            Err(e) => panic!("read: {e}"),
        }
    }

    fn recv_many(&mut self, into: &mut Vec<[u64; N]>, most: usize) {
        let before = into.len();
        into.resize(before + most, [0; N]);
        let buffer: &mut [u8] = cast_slice_mut(&mut into[before..]);
        let mut bytes = self.0.read(buffer).expect("read");
        let part = bytes % (8 * N);
        if part > 0 {
            let rest = 8 * N - part;
            self.0.read_exact(&mut buffer[bytes..bytes + rest]).expect("read the rest");
            bytes += rest;
        }
        into.truncate(before + bytes / (8 * N));
    }
}
