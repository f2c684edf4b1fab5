//! The receiving end.

use core::convert::Infallible;
use core::fmt;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use bytemuck::Pod;

use super::{BATCH, Endpoint, Queue, RecvGuard};
use crate::channel::no_deadline_recv;
use crate::deadline::Deadline;
use crate::doorbell::Doorbell;
use crate::error::{Error, RecvError, RecvTimeoutError, TryRecvError};
use crate::event::Surroundings;
use crate::message::Message;
use crate::ring::owned::{Claim, Run};
use crate::segment::{Attached, Side};

/// A receiving end of a [`Queue`]. Clone it for another thread: sharing one works and is slower.
pub struct Receiver<M: Message + ?Sized> {
    pub(super) end: Endpoint<M>,
}

impl<M: Message + ?Sized> Clone for Receiver<M> {
    fn clone(&self) -> Self {
        Self { end: self.end.clone() }
    }
}

impl<M: Message + ?Sized> fmt::Debug for Receiver<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queue", &self.end.queue).finish()
    }
}

impl<M: Message + ?Sized> Receiver<M> {
    pub(super) fn owner(&self) -> Result<u16, TryRecvError> {
        match self.end.queue.channel.attached().id() {
            0 => Err(TryRecvError::Detached),
            owner => Ok(owner),
        }
    }

    /// Why there is nothing. `Closed` and `Disconnected` must be true *before* the decisive look at the ring, and nothing may
    /// be in the hands of another receiver that could still die or give it back.
    #[cold]
    pub(super) fn claim_or_reason(&self, owner: u16, most: usize) -> Result<Run, TryRecvError> {
        let Endpoint { queue: Queue { channel, ring, .. }, cursor, .. } = &self.end;
        self.end.queue.tidy(owner, cursor.position());
        let closed = channel.is_closed();
        let alone = channel.alone(Side::Sender);
        let reason = match alone {
            _ if closed => TryRecvError::Closed,
            Some(peer) => TryRecvError::Disconnected { peer },
            None => {
                if cursor.in_vain() {
                    channel.attached().look();
                }
                return Err(TryRecvError::Empty);
            }
        };
        ring.claim_full_run(cursor, owner, most).map_err(|_| {
            let ours = || self.end.guards.of(channel.attached().token());
            if ring.is_unsettled(owner, ours) { TryRecvError::Empty } else { reason }
        })
    }

    /// Repeats `attempt`, which was in vain, until it is something else than Empty.
    pub(super) fn until<R>(
        &self,
        deadline: Option<Deadline>,
        attempt: impl FnMut() -> Result<R, TryRecvError>,
    ) -> Result<R, RecvTimeoutError> {
        let Queue { channel, ring, .. } = &self.end.queue;
        self.end.pace.rest(self.end.cursor.position(), ring.capacity());
        channel.receive_blocking(&self.end.pace, deadline, attempt)
    }

    /// Whether a message is there, waiting for one for at most `timeout`; it is not taken, and another receiver may be faster.
    /// `true` also when none is and none will come, since a receive would not wait then.
    pub fn poll(&self, timeout: Duration) -> bool {
        let Endpoint { queue, pace, guards, .. } = &self.end;
        let is_ready = || match queue.is_ready(|| guards.of(queue.channel.attached().token())) {
            // Ready, but nothing is taken.
            true => ControlFlow::Break(Err::<Infallible, _>(())),
            false => ControlFlow::Continue(()),
        };
        let channel = &queue.channel;
        channel.try_wait(&channel.header().not_empty, pace, Deadline::after(timeout), is_ready).is_some()
    }

    /// A descriptor that becomes readable when there is something to receive, for `poll` and `epoll`: see [`Doorbell`].
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no descriptor or no thread to give.
    pub fn doorbell(&self) -> Result<Doorbell, Error> {
        let queue = self.end.queue.clone();
        Doorbell::new(&self.end.queue.channel, move || queue.is_ready(|| 0))
    }

    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        self.end.queue.place()
    }

    /// See [`Queue::close`].
    pub fn close(&self) {
        self.end.queue.close();
    }

    /// The queue this end belongs to.
    #[must_use]
    pub fn queue(&self) -> &Queue<M> {
        &self.end.queue
    }
}

impl<T: Pod> Receiver<T> {
    /// Receives what is there now. Lock-free, no system call unless a sender sleeps.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`]: at some moment during the call no message was there. The others come after the last
    /// message.
    #[inline(always)]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        Ok(self.take(self.claim()?))
    }

    /// Everything of a receive after the claim.
    #[inline(always)]
    fn take(&self, claim: Claim) -> T {
        let value = self.end.queue.ring.take(claim);
        self.end.queue.channel.released_by_one_of_many(1);
        value
    }

    /// Claims the oldest message that is there.
    #[inline(always)]
    fn claim(&self) -> Result<Claim, TryRecvError> {
        match self.end.queue.channel.known_id() {
            0 => self.claim_for(self.owner()?),
            owner => self.claim_for(owner),
        }
    }

    #[inline(always)]
    fn claim_for(&self, owner: u16) -> Result<Claim, TryRecvError> {
        let Endpoint { queue: Queue { ring, .. }, cursor, .. } = &self.end;
        let claim = ring.claim_full(cursor, owner).or_else(|_| self.claim_or_reason(owner, 1).map(Run::claim))?;
        self.end.came_to(claim.position(), owner);
        Ok(claim)
    }

    /// The slow path of every blocking receive of one message: waits for it.
    #[inline(never)]
    fn claim_until(&self, deadline: Option<Deadline>) -> Result<Claim, RecvTimeoutError> {
        self.until(deadline, || self.claim())
    }

    /// Receives, waiting for a message as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// # Errors
    /// [`RecvError::Closed`] and [`RecvError::Disconnected`] after the last message.
    #[inline(always)]
    pub fn recv(&self) -> Result<T, RecvError> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => no_deadline_recv(self.claim_until(None))?,
        };
        Ok(self.take(claim))
    }

    /// Receives, waiting for a message for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`]: nothing was taken. The others come after the last message.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => self.claim_until(Deadline::after(timeout))?,
        };
        Ok(self.take(claim))
    }

    /// Receives, waiting for a message until `deadline`.
    ///
    /// # Errors
    /// As for [`Receiver::recv_timeout`].
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => self.claim_until(Deadline::at(deadline))?,
        };
        Ok(self.take(claim))
    }

    /// Receives what is there now and reads it in place: see [`Receiver::recv_guard`].
    ///
    /// # Errors
    /// As for [`Receiver::try_recv`].
    pub fn try_recv_guard(&self) -> Result<RecvGuard<'_, T>, TryRecvError> {
        Ok(RecvGuard::new(&self.end, self.claim()?))
    }

    /// Receives a message, waiting for one as long as it takes, and reads it in place. It counts as received when the guard
    /// is dropped. If this process dies before, or the thread panics, or [`RecvGuard::give_back`] is called, the message
    /// goes to another receiver, before newer ones: each message is processed at least once.
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<u32>::create(&segment, "jobs", 8)?;
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// sender.send_slice(&[1, 2])?;
    /// let job = receiver.recv_guard()?;
    /// assert_eq!(*job, 1);
    /// job.give_back(); // somebody else may do it
    /// assert_eq!((receiver.recv()?, receiver.recv()?), (1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_guard(&self) -> Result<RecvGuard<'_, T>, RecvError> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => no_deadline_recv(self.claim_until(None))?,
        };
        Ok(RecvGuard::new(&self.end, claim))
    }

    /// As [`Receiver::recv_guard`], waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for [`Receiver::recv_timeout`].
    pub fn recv_guard_timeout(&self, timeout: Duration) -> Result<RecvGuard<'_, T>, RecvTimeoutError> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => self.claim_until(Deadline::after(timeout))?,
        };
        Ok(RecvGuard::new(&self.end, claim))
    }

    /// Appends at most `most` of the messages that are there now to `buffer` and says how many: up to 64 at a time. Wakes
    /// senders once for all.
    ///
    /// # Errors
    /// Only if there is not even one message. `most` of 0 is `Ok(0)`.
    pub fn try_recv_many(&self, buffer: &mut Vec<T>, most: usize) -> Result<usize, TryRecvError> {
        let most = most.min(BATCH);
        if most == 0 {
            return Ok(0);
        }
        // Room first: a message that was taken must have a place to go, whatever the allocator does.
        buffer.reserve(most);
        let owner = self.owner()?;
        let Endpoint { queue: Queue { ring, .. }, cursor, .. } = &self.end;
        // Read first, release at the end: until then all of them would go to somebody else if we died.
        let mut runs = ArrayVec::<Run, BATCH>::new();
        let mut received = 0;
        while received < most {
            let run = match ring.claim_full_run(cursor, owner, most - received) {
                Ok(run) => run,
                Err(_) if received > 0 => break,
                Err(_) => self.claim_or_reason(owner, most)?,
            };
            buffer.extend(ring.read_run(&run));
            received += run.len();
            self.end.came_to(run.position(), owner);
            runs.push(run);
        }
        runs.iter().for_each(|run| ring.release_run(run));
        self.end.queue.channel.released_by_one_of_many(received);
        Ok(received)
    }

    /// As [`Receiver::try_recv_many`], waiting for the first message as long as it takes.
    ///
    /// # Errors
    /// As for [`Receiver::recv`].
    pub fn recv_many(&self, buffer: &mut Vec<T>, most: usize) -> Result<usize, RecvError> {
        match self.try_recv_many(buffer, most) {
            Ok(received) => Ok(received),
            Err(_) => no_deadline_recv(self.until(None, || self.try_recv_many(buffer, most))),
        }
    }

    /// Messages until the queue is closed (or disconnected) and drained; waits for each.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.recv().ok())
    }

    /// Messages that are there now.
    pub fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.try_recv().ok())
    }
}

/// Messages until the queue is closed (or disconnected) and drained.
pub struct IntoIter<T: Pod>(Receiver<T>);

impl<T: Pod> fmt::Debug for IntoIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntoIter").field(&self.0).finish()
    }
}

impl<T: Pod> Iterator for IntoIter<T> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T: Pod> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;
    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}
