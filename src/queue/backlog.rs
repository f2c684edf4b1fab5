//! What had been sent at some moment, and whether it has been received: for messages of bytes.

use core::fmt;
use core::ops::ControlFlow;
use std::time::Duration;

use super::Queue;
use crate::deadline::Deadline;
use crate::message::sealed::Bytes;
use crate::pace::Pace;
use crate::segment::Side;

impl<M: Bytes + ?Sized> Queue<M> {
    /// The messages that have been sent by now, to find out whether they have been received.
    pub fn backlog(&self) -> Backlog<'_, M> {
        let (Ok(end) | Err(end)) = self.ring.unclaimed(self.channel.attached().id());
        Backlog { queue: self, end }
    }

    /// Waits, for at most `timeout`, until all messages that had been sent when it was called have been received;
    /// `true` if they have. A message in the hands of a receiver, who may still give it back, has not.
    /// See [`Backlog`].
    pub fn wait_drained(&self, timeout: Duration) -> bool {
        self.backlog().wait(timeout)
    }
}

/// The messages of a queue of bytes that had been sent at some moment; see [`Queue::backlog`]. Later ones do not count. A send
/// or a [`Grant`](crate::Grant) that was under way at that moment counts from its end on. A message has been received when its receiver has
/// dropped the frame.
///
/// ```
/// use gimmal::{Queue, Segment};
/// use std::time::Duration;
///
/// let segment = Segment::anonymous()?;
/// let queue = Queue::<[u8]>::create(&segment, "lines", 4096)?;
/// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
/// sender.send(b"hello")?;
/// let backlog = queue.backlog();
/// sender.send(b"and later")?;
/// let frame = receiver.recv()?;
/// assert!(!backlog.wait(Duration::ZERO)); // the receiver may still give it back
/// drop(frame);
/// assert!(backlog.wait(Duration::ZERO));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "it only counts, until it is asked or waited for"]
pub struct Backlog<'a, M: Bytes + ?Sized = [u8]> {
    queue: &'a Queue<M>,
    /// The first slot that nobody had claimed.
    end: u64,
}

impl<M: Bytes + ?Sized> Backlog<'_, M> {
    /// How many of the messages have not been received. Looks at each slot of the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        let Queue { channel, ring, .. } = self.queue;
        ring.backlog(channel.attached().id(), self.end) as usize
    }

    /// Whether all of them have been received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits, for at most `timeout`, until all of them have been received; `true` if they have. `false` as soon as the last
    /// receiver has gone and left some, unless the queue [keeps waiting](crate::QueueOptions::keep_waiting) for the next one.
    /// Blocks; sleeps meanwhile.
    pub fn wait(&self, timeout: Duration) -> bool {
        let channel = &self.queue.channel;
        let attempt = || {
            // Before the look at the ring: the last receiver may have taken all before it went.
            let alone = channel.alone(Side::Receiver).is_some();
            match self.is_empty() {
                true => ControlFlow::Break(true),
                false if alone => ControlFlow::Break(false),
                false => ControlFlow::Continue(()),
            }
        };
        // Every release in a queue of bytes wakes all who sleep here, so that none is kept from a sender.
        channel.wait(&channel.header().not_full, &Pace::default(), Deadline::after(timeout), attempt).unwrap_or(false)
    }
}

impl<M: Bytes + ?Sized> fmt::Debug for Backlog<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlog").field("len", &self.len()).finish_non_exhaustive()
    }
}
