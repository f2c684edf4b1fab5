//! [`Tap`]: the messages of a queue of bytes, seen and not taken.

use core::fmt;
use core::ops::ControlFlow;
use std::time::Duration;

use super::Queue;
use crate::channel::{Data, no_deadline_recv};
use crate::deadline::Deadline;
use crate::error::{RecvError, RecvTimeoutError};
use crate::pace::Pace;
use crate::primitive::{AtomicU8, AtomicU64, Ordering};
use crate::ring::owned::{Owned, Seen};
use crate::segment::Side;

/// Copies of the messages that go through a [`Queue`] of bytes, without taking them: made by [`Queue::tap`].
///
/// It sees each message once, in the order of their places, from those on that are there when it is made, also after they were
/// received; aborted sends and those of the dead are none. It holds up nobody, so that senders may be faster:
/// what they have written over before it was copied is [missed](Tap::missed).
pub struct Tap {
    queue: Queue<[u8]>,
    place: Place,
    pace: Pace,
}

/// Where a tap stands.
struct Place {
    position: u64,
    missed: u64,
}

/// How many messages one call copies at most, of which all but the last turn out to be written over. With less patience it would
/// pause in the middle of what it could see; hostile words could hold it for longer with more.
const COPIES: u32 = 1 << 10;
/// And so many bytes, if they are long.
const COPIED: u64 = 64 << 20;

/// A commit wakes one receiver, and would wake a tap in its place, or not at all if it slept there. So it sleeps where senders do:
/// they are all woken by every receipt of bytes, so that it takes no wake from anybody. For what is sent and not received, it looks.
const LOOK: Duration = Duration::from_millis(20);

impl Queue<[u8]> {
    /// Shows messages without taking them.
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<[u8]>::create(&segment, "lines", 4096)?;
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// let mut tap = queue.tap();
    /// sender.send(b"one")?;
    /// sender.send(b"two")?;
    /// assert_eq!(*receiver.recv()?, *b"one");
    /// assert_eq!(tap.try_next().as_deref(), Some(&b"one"[..]));
    /// assert_eq!(tap.try_next().as_deref(), Some(&b"two"[..]));
    /// assert_eq!(tap.try_next(), None);
    /// assert_eq!(*receiver.recv()?, *b"two"); // it is still there
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn tap(&self) -> Tap {
        let (ring, id) = (&self.ring, self.channel.attached().id());
        let mut position = ring.head();
        let mut budget = ring.budget();
        let _look = (!ring.may_not_look(id)).then(|| ring.look(id));
        // The hint lags: leave out what was received before.
        while _look.is_some() && ring.spend(&mut budget, position) {
            match ring.see(position) {
                Seen::Message { span: None, .. } | Seen::Blank => position = position.wrapping_add(1),
                Seen::Overtaken => position = position.wrapping_add(ring.next_look(position)),
                Seen::Nothing | Seen::Message { .. } => break,
            }
        }
        Tap { queue: self.clone(), place: Place { position, missed: 0 }, pace: Pace::default() }
    }
}

impl Place {
    fn try_next(&mut self, queue: &Queue<[u8]>) -> Option<Vec<u8>> {
        let (Self { position, missed }, Queue { channel, ring, data, .. }) = (self, queue);
        let data = data.as_ref().expect("messages of bytes have their data");
        let id = channel.attached().id();
        if ring.may_not_look(id) {
            return None;
        }
        // What is looked at keeps its memory.
        let _look = ring.look(id);
        let (mut copies, mut copied) = (0..COPIES, 0);
        let mut budget = ring.budget();
        while ring.spend(&mut budget, *position) {
            match ring.see(*position) {
                Seen::Nothing => return None,
                Seen::Blank => *position = position.wrapping_add(1),
                Seen::Message { length, span } => {
                    let blocks = blocks(data, length);
                    match span {
                        // More than was reserved, nobody honest sends.
                        Some(span) if blocks > span => *position = position.wrapping_add(span),
                        None if blocks > ring.capacity() => *position = position.wrapping_add(1),
                        // It was received, and a part of it lies in a chunk that was given back.
                        _ if !ring.have_memory(*position, blocks) => {
                            *missed = missed.saturating_add(resynchronise(ring, position));
                        }
                        _ => {
                            copies.next().filter(|_| copied < COPIED)?;
                            copied += length;
                            let message = copy(data, *position & (ring.capacity() - 1), length);
                            if ring.was_there(*position, channel.mode()) {
                                *position = position.wrapping_add(span.unwrap_or(blocks));
                                return message;
                            }
                            *missed = missed.saturating_add(resynchronise(ring, position));
                        }
                    }
                }
                Seen::Overtaken => *missed = missed.saturating_add(resynchronise(ring, position)),
            }
        }
        None
    }
}

impl Tap {
    /// The next message, if there is one now. Lock-free; writes nothing to shared memory, except that it is looking, if the queue is
    /// unbounded.
    pub fn try_next(&mut self) -> Option<Vec<u8>> {
        self.place.try_next(&self.queue)
    }

    /// The next message, waiting for it as long as it takes. It is shown when it is received, or 20 ms after it was sent at the latest;
    /// a tap that waits looks as often.
    ///
    /// # Errors
    /// [`RecvError::Closed`] and [`RecvError::Disconnected`] after the last message.
    #[expect(clippy::should_implement_trait, reason = "the end has reasons")]
    pub fn next(&mut self) -> Result<Vec<u8>, RecvError> {
        no_deadline_recv(self.until(None))
    }

    /// As [`Tap::next`], waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`], and as there.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Vec<u8>, RecvTimeoutError> {
        self.until(Deadline::after(timeout))
    }

    fn until(&mut self, deadline: Option<Deadline>) -> Result<Vec<u8>, RecvTimeoutError> {
        if let Some(message) = self.try_next() {
            return Ok(message);
        }
        let Self { queue, place, pace } = self;
        let channel = &queue.channel;
        loop {
            // Nobody sees nothing there, ever.
            if queue.ring.may_not_look(channel.attached().id()) {
                return Err(RecvTimeoutError::Detached);
            }
            let slice = match (Deadline::after(LOOK), deadline) {
                (Some(look), Some(deadline)) => Some(look.min(deadline)),
                (look, deadline) => look.or(deadline),
            };
            let found = channel.wait(&channel.header().not_full, pace, slice, || {
                // Before the decisive look.
                let closed = channel.is_closed();
                let alone = channel.alone(Side::Sender);
                match (place.try_next(queue), alone) {
                    (Some(message), _) => ControlFlow::Break(Ok(message)),
                    (None, _) if closed => ControlFlow::Break(Err(RecvTimeoutError::Closed)),
                    (None, Some(peer)) => ControlFlow::Break(Err(RecvTimeoutError::Disconnected { peer })),
                    (None, None) => ControlFlow::Continue(()),
                }
            });
            match found {
                Some(result) => return result,
                None if deadline.is_some_and(Deadline::passed) => return Err(RecvTimeoutError::Timeout),
                None => {}
            }
        }
    }

    /// How many messages went by unseen, at most: counted in blocks, of which a message takes one or more.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.place.missed
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("queue", &self.queue).field("missed", &self.place.missed).finish_non_exhaustive()
    }
}

/// Goes on where receivers are, if that is further, and else behind the slot that was lost, or its chunk if that is given back; says how
/// far that is.
fn resynchronise(ring: &Owned<u64>, position: &mut u64) -> u64 {
    let ahead = ring.head().wrapping_sub(*position) as i64;
    let distance = ahead.max(ring.next_look(*position) as i64) as u64;
    *position = position.wrapping_add(distance);
    distance
}

/// How many blocks a message of this length takes.
fn blocks(data: &Data, length: u64) -> u64 {
    length.div_ceil(1 << data.shift).max(1)
}

/// A copy of what begins at a block, if that can be as long. Others may write there meanwhile.
fn copy(data: &Data, block: u64, length: u64) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|&length| length <= data.size)?;
    // SAFETY: a block begins in the first half of the mapping.
    let first = unsafe { data.base.add((block as usize) << data.shift) };
    let mut bytes = Vec::with_capacity(length);
    for word in 0..length / 8 {
        // SAFETY: below the length, which goes no further than the second half does.
        let word = unsafe { first.cast::<AtomicU64>().add(word) };
        // SAFETY: blocks are aligned to more than a word; as an atomic it may be written by others.
        bytes.extend_from_slice(&unsafe { word.as_ref() }.load(Ordering::Relaxed).to_ne_bytes());
    }
    for byte in length / 8 * 8..length {
        // SAFETY: below the length.
        let byte = unsafe { first.cast::<AtomicU8>().add(byte) };
        // SAFETY: as above.
        bytes.push(unsafe { byte.as_ref() }.load(Ordering::Relaxed));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
