//! [`Doorbell`]: a descriptor that says when there is something to receive, for programs that wait in `poll` or `epoll`.

use core::fmt;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::channel::Channel;
use crate::error::Error;
use crate::reactor::{Registration, Source};
use crate::sys::bell::{Bell, SILENT};

/// A descriptor that becomes readable when the queue it belongs to has a message, or when none will come any more: for programs
/// that wait for several things at once in `poll`, `epoll` or an asynchronous runtime. See
/// [`Receiver::doorbell`](crate::Receiver::doorbell).
///
/// When it is readable: [`clear`](Doorbell::clear) it, receive with `try_recv` until that says Empty, and wait again. A message
/// that comes in between rings it again.
///
/// It is an eventfd, rung by a thread of the process that all doorbells share, and that sleeps while nothing comes. That costs some
/// microseconds a message that is waited for, and nothing else: a receive that blocks is faster. A doorbell takes no wake from
/// a receiver that blocks on the same queue. Dropping it waits for nobody.
///
/// In a forked child it never rings: `as_fd` is another descriptor there, clearing it does nothing, and the parent's rings as
/// before. The child makes its own.
///
/// ```
/// use gimmal::{Queue, Segment};
/// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
/// use std::os::fd::AsFd;
///
/// let segment = Segment::anonymous()?;
/// let queue = Queue::<u32>::create(&segment, "queue", 16)?;
/// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
/// let doorbell = receiver.doorbell()?;
/// std::thread::spawn(move || sender.send(7));
///
/// let mut waiting = [PollFd::new(doorbell.as_fd(), PollFlags::POLLIN)];
/// poll(&mut waiting, PollTimeout::NONE)?; // or epoll, with whatever else there is
/// doorbell.clear();
/// assert_eq!(receiver.try_recv(), Ok(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Doorbell {
    bell: Arc<Bell>,
    registration: Registration,
}

impl Doorbell {
    /// Rings when `is_ready`, which looks at the ring of `channel`.
    pub(crate) fn new(channel: &Channel, is_ready: impl Fn() -> bool + Send + 'static) -> Result<Self, Error> {
        let io = |source| Error::Io { action: "make a doorbell", source };
        let bell = Arc::new(Bell::new().map_err(|e| io(e.into()))?);
        let source = Source { attached: Arc::clone(channel.place().0), is_ready: Box::new(is_ready) };
        let (event, of_reactor) = (NonNull::from(&*channel.header().not_empty), Arc::clone(&bell));
        let registration = Registration::new(event, source, move || of_reactor.ring()).map_err(io)?;
        Ok(Self { bell, registration })
    }

    /// Makes it unreadable, until there is a message again, or still.
    pub fn clear(&self) {
        // A forked child shares the descriptor with its parent, and must leave it alone.
        if self.registration.is_ours() {
            // First: what rings from here on stays.
            self.bell.hush();
            self.registration.again();
        }
    }
}

/// The descriptor to wait for; readable while there may be something to receive. Only [`Doorbell::clear`] should read it.
impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if self.registration.is_ours() { self.bell.as_fd() } else { SILENT.as_fd().unwrap_or(self.bell.as_fd()) }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("fd", &self.as_fd()).finish_non_exhaustive()
    }
}
