//! [`Doorbell`]: a descriptor that says when there is something to receive, for programs that wait in `poll` or `epoll`.

use core::fmt;
use core::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::channel::Channel;
use crate::error::Error;
use crate::pace::Pace;
use crate::primitive::Ordering;
use crate::primitive::private::AtomicBool;
use crate::sys::bell::Bell;
use crate::sys::thread::spawn_quiet;

/// A descriptor that becomes readable when the queue it belongs to has a message, or when none will come any more: for programs
/// that wait for several things at once in `poll`, `epoll` or an asynchronous runtime. See
/// [`Receiver::doorbell`](crate::Receiver::doorbell).
///
/// When it is readable: [`clear`](Doorbell::clear) it, receive with `try_recv` until that says Empty, and wait again. A message
/// that comes in between rings it again.
///
/// It is an eventfd of this process, rung by a thread of its own that sleeps while nothing comes, which costs some microseconds a
/// message that is waited for, and nothing else: a receive that blocks is faster. Dropping it ends the thread. In a forked child it
/// never rings.
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
    shared: Arc<Shared>,
    channel: Channel,
    thread: Option<JoinHandle<()>>,
    /// The process that has the thread.
    process: u32,
}

/// What the doorbell and its thread share.
struct Shared {
    bell: Bell,
    /// Whether the bell has been rung and not cleared.
    rung: Mutex<bool>,
    cleared: Condvar,
    ended: AtomicBool,
}

impl Shared {
    fn rung(&self) -> MutexGuard<'_, bool> {
        // What it holds is whole whoever has panicked.
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings whenever `is_ready`, until the end.
    fn run(&self, channel: &Channel, is_ready: impl Fn() -> bool) {
        let pace = Pace::default();
        let is_over = || self.ended.load(Ordering::Acquire);
        while !is_over() {
            let attempt = || if is_over() || is_ready() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            let _ = channel.wait(&channel.header().not_empty, &pace, None, attempt);
            // The wake may have been meant for a receiver, and we take nothing.
            channel.committed(1);
            let mut rung = self.rung();
            if !is_over() {
                *rung = true;
                self.bell.ring();
            }
            while *rung && !is_over() {
                rung = self.cleared.wait(rung).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Doorbell {
    /// Rings whenever `is_ready`, which looks at the ring of `channel`.
    pub(crate) fn new(channel: &Channel, is_ready: impl Fn() -> bool + Send + 'static) -> Result<Self, Error> {
        let io = |source| Error::Io { action: "make a doorbell", source };
        let shared = Arc::new(Shared {
            bell: Bell::new().map_err(|e| io(e.into()))?,
            rung: Mutex::new(false),
            cleared: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let (of_thread, its_channel) = (Arc::clone(&shared), channel.clone());
        let thread = spawn_quiet("gimmal-doorbell", move || of_thread.run(&its_channel, is_ready)).map_err(io)?;
        Ok(Self { shared, channel: channel.clone(), thread: Some(thread), process: std::process::id() })
    }

    /// Makes it unreadable, until there is a message again, or still.
    pub fn clear(&self) {
        let mut rung = self.shared.rung();
        self.shared.bell.hush();
        *rung = false;
        self.shared.cleared.notify_one();
    }
}

/// The descriptor to wait for; readable while there may be something to receive. Only [`Doorbell::clear`] should read it.
impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("fd", &self.as_fd()).finish_non_exhaustive()
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        drop(self.shared.rung());
        self.shared.cleared.notify_one();
        self.channel.wake_everybody();
        // A forked child has no such thread.
        if let Some(thread) = self.thread.take()
            && self.process == std::process::id()
        {
            let _ = thread.join();
        }
    }
}
