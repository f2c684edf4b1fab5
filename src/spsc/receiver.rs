//! The receiving end.

use core::fmt;
use core::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

#[cfg(doc)]
use super::Sender;
use super::{Endpoint, GetUp, Partial, RecvGuard, SliceGuard, SpscQueue};
use crate::channel::{Channel, no_deadline_recv};
use crate::deadline::Deadline;
use crate::doorbell::Doorbell;
use crate::error::{Error, RecvError, RecvTimeoutError, TryRecvError};
use crate::message::Message;
use crate::ring::spsc::{Position, len};
use crate::seat::Seat;
use crate::segment::{Attached, Side, Token};

/// The receiving end of an [`SpscQueue`] or of one direction of a [`Pipe`](crate::Pipe). Dropping it tells the sender.
pub struct Receiver<M: Message + ?Sized> {
    pub(super) position: Position,
    /// If the messages are bytes: a message that this end has in hand.
    pub(super) partial: Option<Partial>,
    pub(super) end: Endpoint<M>,
}

impl<M: Message + ?Sized> fmt::Debug for Receiver<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queue", &self.end.queue).finish()
    }
}

/// Why nothing will come any more, once what is there is gone.
pub(super) fn is_over(channel: &Channel) -> Option<TryRecvError> {
    let sender = Seat::of(&channel.header().roles, Side::Sender);
    if channel.is_closed() {
        return Some(TryRecvError::Closed);
    }
    channel.departure(&sender).map(|peer| TryRecvError::Disconnected { peer })
}

impl<M: Message + ?Sized> Endpoint<M> {
    /// Checks that this end is ours and how many messages there are; an error if none is and none will come.
    #[inline(always)]
    pub(super) fn ready(&self, position: &mut Position, wanted: u64) -> Result<u64, TryRecvError> {
        if !self.is_ours() {
            self.reseat_receiver(position)?;
        }
        match self.queue.ring.ready(position, wanted) {
            0 => self.ready_or_reason(position, 1, wanted),
            ready => Ok(ready),
        }
    }

    /// In a fork child: sits down if the parent has got up.
    #[cold]
    pub(super) fn reseat_receiver(&self, position: &mut Position) -> Result<(), TryRecvError> {
        self.sit_again().map_err(|_| TryRecvError::Detached)?;
        *position = self.receiver_position();
        Ok(())
    }

    /// Why there are fewer than `least`. The reason must be true *before* the decisive look at the ring.
    #[cold]
    pub(super) fn ready_or_reason(
        &self,
        position: &mut Position,
        least: u64,
        wanted: u64,
    ) -> Result<u64, TryRecvError> {
        let Some(reason) = is_over(&self.queue.channel) else {
            self.in_vain();
            return Err(TryRecvError::Empty);
        };
        let ring = &self.queue.ring;
        match ring.ready(position, wanted) {
            ready if ready < least => Err(reason),
            ready => Ok(ready),
        }
    }
}

impl<M: Message + ?Sized> Receiver<M> {
    /// Whether a message is there: the first look of every blocking receive.
    #[inline(always)]
    fn is_ready(&mut self, wanted: u64) -> bool {
        self.end.rest(&self.position);
        self.end.ready(&mut self.position, wanted).is_ok()
    }

    /// The slow path of every blocking receive: waits until a message is there.
    #[inline(never)]
    fn ready_until(&mut self, wanted: u64, deadline: Option<Deadline>) -> Result<(), RecvTimeoutError> {
        let Self { position, end, .. } = self;
        let attempt = || end.ready(position, wanted).map(drop);
        end.queue.channel.receive_blocking(&end.pace, deadline, attempt)
    }

    /// Whether a message is there, waiting for one for at most `timeout`; it is not taken. `true` also when the other end
    /// is gone, since a receive would not wait then. The parts of a message that is longer than its pipe are taken in hand meanwhile.
    pub fn poll(&mut self, timeout: Duration) -> bool {
        let deadline = Deadline::after(timeout);
        let ready = if M::BYTES { self.message_until(deadline) } else { self.ready_until(1, deadline) };
        !matches!(ready, Err(RecvTimeoutError::Timeout))
    }

    /// A descriptor that becomes readable when there is something to receive, for `poll` and `epoll`: see [`Doorbell`]. Of a message
    /// that comes in parts, a part is something: receive until that says Empty, all the same.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no descriptor or no thread to give.
    pub fn doorbell(&self) -> Result<Doorbell, Error> {
        let SpscQueue { channel, ring, .. } = &self.end.queue;
        let (of_thread, capacity) = (channel.clone(), ring.capacity());
        let is_ready = move || len(of_thread.header(), capacity) > 0 || is_over(&of_thread).is_some();
        Doorbell::new(channel, is_ready)
    }

    /// Who sits here: another one when this copy in a fork child has taken the seat after its parent.
    pub(crate) fn sitter(&self) -> Token {
        self.end.sitter.get()
    }

    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        self.end.queue.place()
    }

    /// Gives the seat up without telling the sender, so that another thread or process can take it and go on.
    pub fn release(self) {
        self.end.get_up(GetUp::HandOver);
    }

    /// The queue this end belongs to.
    #[must_use]
    pub fn queue(&self) -> &SpscQueue<M> {
        &self.end.queue
    }
}

impl<T: Pod> Endpoint<T> {
    /// Takes a message that is ready.
    #[inline(always)]
    fn take(&self, position: &mut Position) -> T {
        let SpscQueue { channel, ring, .. } = &self.queue;
        let value = ring.read(position);
        ring.release(position, 1);
        channel.released(1);
        value
    }

    fn try_recv_many(&self, position: &mut Position, buffer: &mut Vec<T>, most: usize) -> Result<usize, TryRecvError> {
        if most == 0 {
            return Ok(0);
        }
        let count = self.ready(position, most as u64)?.min(most as u64);
        let SpscQueue { channel, ring, .. } = &self.queue;
        ring.read_many(position, count, buffer);
        ring.release(position, count);
        channel.released(count as usize);
        Ok(count as usize)
    }
}

impl<T: Pod> Receiver<T> {
    /// Receives what is there now. Wait-free, no system call unless the sender sleeps.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`]; the others come after the last message.
    #[inline(always)]
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.end.ready(&mut self.position, 1)?;
        Ok(self.end.take(&mut self.position))
    }

    /// Receives, waiting for a message as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// # Errors
    /// [`RecvError::Disconnected`] and [`RecvError::Closed`] after the last message.
    #[inline(always)]
    pub fn recv(&mut self) -> Result<T, RecvError> {
        if !self.is_ready(1) {
            no_deadline_recv(self.ready_until(1, None))?;
        }
        Ok(self.end.take(&mut self.position))
    }

    /// Receives, waiting for a message for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`]: nothing was taken. The others come after the last message.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        if !self.is_ready(1) {
            self.ready_until(1, Deadline::after(timeout))?;
        }
        Ok(self.end.take(&mut self.position))
    }

    /// Receives, waiting for a message until `deadline`.
    ///
    /// # Errors
    /// As for [`Receiver::recv_timeout`].
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        if !self.is_ready(1) {
            self.ready_until(1, Deadline::at(deadline))?;
        }
        Ok(self.end.take(&mut self.position))
    }

    /// Receives what is there now and reads it in place: see [`Receiver::recv_guard`].
    ///
    /// # Errors
    /// As for [`Receiver::try_recv`].
    pub fn try_recv_guard(&mut self) -> Result<RecvGuard<'_, T>, TryRecvError> {
        self.end.ready(&mut self.position, 1)?;
        Ok(RecvGuard::new(self))
    }

    /// Receives a message, waiting for one as long as it takes, and reads it in place. It counts as received when the guard
    /// is dropped. If this process dies before, or the thread panics, or [`RecvGuard::give_back`] is called, it is still
    /// there: each message is processed at least once.
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_guard(&mut self) -> Result<RecvGuard<'_, T>, RecvError> {
        if !self.is_ready(1) {
            no_deadline_recv(self.ready_until(1, None))?;
        }
        Ok(RecvGuard::new(self))
    }

    /// As [`Receiver::recv_guard`], waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for [`Receiver::recv_timeout`].
    pub fn recv_guard_timeout(&mut self, timeout: Duration) -> Result<RecvGuard<'_, T>, RecvTimeoutError> {
        if !self.is_ready(1) {
            self.ready_until(1, Deadline::after(timeout))?;
        }
        Ok(RecvGuard::new(self))
    }

    /// Receives up to `most` messages in a row that are there now, read in place: see [`Receiver::recv_slice`]. `most` of 0
    /// receives none.
    ///
    /// # Errors
    /// As for [`Receiver::try_recv`].
    pub fn try_recv_slice(&mut self, most: usize) -> Result<SliceGuard<'_, T>, TryRecvError> {
        let ready = if most == 0 { 0 } else { self.end.ready(&mut self.position, most as u64)? };
        Ok(SliceGuard::new(self, ready.min(most as u64)))
    }

    /// Receives up to `most` messages in a row, waiting for the first as long as it takes, and reads them in place. They count as
    /// received when the guard is dropped, all at once, or as many of them as [`SliceGuard::release`] says. It may be fewer
    /// than are there: a row ends where the memory does. For an example see [`Sender::reserve_slice`].
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_slice(&mut self, most: usize) -> Result<SliceGuard<'_, T>, RecvError> {
        if most > 0 && !self.is_ready(most as u64) {
            no_deadline_recv(self.ready_until(most as u64, None))?;
        }
        let ready = self.position.left().min(most as u64);
        Ok(SliceGuard::new(self, ready))
    }

    /// Appends at most `most` of the messages that are there now to `buffer` and says how many.
    ///
    /// # Errors
    /// Only if there is not even one message. `most` of 0 is `Ok(0)`.
    pub fn try_recv_many(&mut self, buffer: &mut Vec<T>, most: usize) -> Result<usize, TryRecvError> {
        self.end.try_recv_many(&mut self.position, buffer, most)
    }

    /// As [`Receiver::try_recv_many`], waiting for the first message as long as it takes.
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_many(&mut self, buffer: &mut Vec<T>, most: usize) -> Result<usize, RecvError> {
        let Self { position, end, .. } = self;
        end.rest(position);
        let attempt = || end.try_recv_many(position, buffer, most);
        no_deadline_recv(end.queue.channel.receive_blocking(&end.pace, None, attempt))
    }

    /// Messages until the other end is gone (or has closed) and all are drained; waits for each.
    pub fn iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.recv().ok())
    }

    /// Messages that are there now.
    pub fn try_iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.try_recv().ok())
    }
}
