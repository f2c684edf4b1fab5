//! The sending end.

use core::fmt;
use core::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

use super::unbounded::Grown;
use super::{BATCH, Endpoint, Queue, Reservation};
use crate::channel::no_deadline;
use crate::deadline::Deadline;
use crate::error::{SendError, SendSliceError, SendTimeoutError, TrySendError};
use crate::event::Surroundings;
use crate::message::Message;
use crate::primitive::{FenceMode, spin_loop};
use crate::ring::owned::{Claim, Refused, Run};
use crate::segment::{Attached, Side};

/// How often a send tries in vain to get the place of the oldest message, since others are faster, before it says that the queue is full.
const PATIENCE: u32 = 10_000;
/// The same for memory: each time, others must have filled a whole chunk meanwhile.
const GROWTHS: u32 = 100;

/// A sending end of a [`Queue`]. Clone it for another thread: sharing one works and is slower.
pub struct Sender<M: Message + ?Sized> {
    pub(super) end: Endpoint<M>,
}

impl<M: Message + ?Sized> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self { end: self.end.clone() }
    }
}

impl<M: Message + ?Sized> fmt::Debug for Sender<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("queue", &self.end.queue).finish()
    }
}

impl<M: Message + ?Sized> Sender<M> {
    /// Who we are, unless there is nobody to send to.
    pub(super) fn owner(&self) -> Result<u16, TrySendError<()>> {
        let channel = &self.end.queue.channel;
        let owner = channel.attached().id();
        if owner == 0 {
            return Err(TrySendError::Detached(()));
        }
        if channel.has_news_of(Side::Receiver)
            && let Some(peer) = channel.alone(Side::Receiver)
        {
            let closed = channel.is_closing();
            return Err(if closed {
                TrySendError::Closed(())
            } else {
                TrySendError::Disconnected { message: (), peer }
            });
        }
        Ok(owner)
    }

    /// What becomes of an `attempt` to claim `slots` that was refused: one that needs memory gets it, if there is some, and is made
    /// again.
    #[cold]
    pub(super) fn refused<R>(
        &self,
        mut refused: Refused,
        owner: u16,
        slots: usize,
        attempt: impl Fn() -> Result<R, Refused>,
    ) -> Result<R, TrySendError<()>> {
        let Endpoint { queue, cursor, .. } = &self.end;
        // A ring of honest peers is claimed from sooner.
        for _ in 0..GROWTHS {
            if !matches!(refused, Refused::Full) || queue.channel.is_closing() {
                break;
            }
            match queue.grow(cursor.position(), slots as u64, owner) {
                Grown::More | Grown::Again => {}
                Grown::Full => break,
                Grown::NoSpace => return Err(TrySendError::NoSpace(())),
            }
            match attempt() {
                Ok(claim) => return Ok(claim),
                Err(again) => refused = again,
            }
        }
        Err(self.refusal(refused))
    }

    #[cold]
    pub(super) fn refusal(&self, refused: Refused) -> TrySendError<()> {
        let channel = &self.end.queue.channel;
        match refused {
            Refused::Full if channel.is_closing() => TrySendError::Closed(()),
            Refused::Full | Refused::Lost => {
                if self.end.cursor.in_vain() {
                    channel.attached().look();
                }
                TrySendError::Full(())
            }
            Refused::Closed => {
                // A receiver may be waiting to learn whether something comes from the claim.
                channel.wake_everybody();
                TrySendError::Closed(())
            }
        }
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

impl<T: Pod> Sender<T> {
    /// Sends if there is room now. Lock-free, no system call unless a receiver sleeps.
    ///
    /// # Errors
    /// [`TrySendError::Full`] and the others give the message back.
    #[inline(always)]
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        match self.claim() {
            Ok(claim) => {
                self.send_claimed(claim, &value);
                Ok(())
            }
            Err(refusal) => Err(refusal.with(value)),
        }
    }

    /// Claims a slot.
    #[inline(always)]
    fn claim(&self) -> Result<Claim, TrySendError<()>> {
        let Endpoint { queue: Queue { channel, ring, .. }, cursor, .. } = &self.end;
        match channel.known_id() {
            owner @ 1.. if channel.sends_at_once() => {
                ring.reserve(cursor, owner, FenceMode::Asymmetric).map_err(|refused| self.refusal(refused))
            }
            _ => self.claim_with_care(),
        }
    }

    /// The same for queues with full fences or without a bound, for fork children, and if a receiver has gone.
    #[inline(never)]
    fn claim_with_care(&self) -> Result<Claim, TrySendError<()>> {
        let owner = self.owner()?;
        let Endpoint { queue: Queue { channel, ring, region, .. }, cursor, .. } = &self.end;
        let claim = || match region {
            None => ring.reserve(cursor, owner, channel.mode()),
            Some(_) => ring.reserve_run(cursor, owner, channel.mode(), 1, 1).map(Run::claim),
        };
        claim().or_else(|refused| self.refused(refused, owner, 1, claim))
    }

    /// Everything of a send after the claim but the notification.
    #[inline(always)]
    fn put(&self, claim: Claim, value: &T) {
        let ring = &self.end.queue.ring;
        ring.write(&claim, value);
        ring.commit(claim);
    }

    /// Everything of a send after the claim.
    #[inline(always)]
    fn send_claimed(&self, claim: Claim, value: &T) {
        self.put(claim, value);
        self.end.queue.channel.committed(1);
    }

    /// Sends, but for the notification, as many of `values` as there is room for in one run.
    fn push_run(&self, values: &[T]) -> Result<usize, TrySendError<()>> {
        let owner = self.owner()?;
        let Endpoint { queue: Queue { channel, ring, .. }, cursor, .. } = &self.end;
        let push = || ring.push_run(cursor, owner, channel.mode(), values);
        push().or_else(|refused| self.refused(refused, owner, 1, push))
    }

    /// The slow path of every blocking send: waits for a slot.
    #[inline(never)]
    fn claim_until(&self, deadline: Option<Deadline>) -> Result<Claim, SendTimeoutError<()>> {
        let Endpoint { queue: Queue { channel, ring, .. }, cursor, pace, .. } = &self.end;
        pace.rest(cursor.position(), ring.capacity());
        let claim = channel.send_blocking(pace, deadline, || self.claim());
        // Slots are released in any order, and filled in one: whoever was woken for a slot behind one that is still being
        // read went back to sleep. With the slot in front the one behind has become usable, too.
        if claim.is_ok() && !ring.is_full(channel.known_id()) {
            channel.released(1);
        }
        claim
    }

    /// Sends, waiting for room as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// # Errors
    /// [`SendError::Closed`] and the others give the message back.
    #[inline(always)]
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => match no_deadline(self.claim_until(None)) {
                Ok(claim) => claim,
                Err(e) => return Err(e.with(value)),
            },
        };
        self.send_claimed(claim, &value);
        Ok(())
    }

    /// Sends, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// [`SendTimeoutError::Timeout`] and the others give the message back: it was not sent.
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => match self.claim_until(Deadline::after(timeout)) {
                Ok(claim) => claim,
                Err(e) => return Err(e.with(value)),
            },
        };
        self.send_claimed(claim, &value);
        Ok(())
    }

    /// Sends, waiting for room until `deadline`.
    ///
    /// # Errors
    /// As for [`Sender::send_timeout`].
    pub fn send_deadline(&self, value: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => match self.claim_until(Deadline::at(deadline)) {
                Ok(claim) => claim,
                Err(e) => return Err(e.with(value)),
            },
        };
        self.send_claimed(claim, &value);
        Ok(())
    }

    /// Sends without waiting: if the queue is full, in place of the oldest message, which is returned. For queues in which the newest
    /// messages matter. Lock-free, no system call unless a receiver sleeps.
    ///
    /// If this process is killed after it has taken the place of a message and before it has sent its own, neither is in the
    /// queue.
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<u32>::create(&segment, "latest", 4)?;
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// let displaced: Vec<u32> = (0..6).filter_map(|n| sender.force_send(n).unwrap()).collect();
    /// assert_eq!(displaced, [0, 1]);
    /// assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [2, 3, 4, 5]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TrySendError::Full`] if somebody who is stopped in the middle of a receive or a send has the oldest slot, or if the queue is
    /// unbounded and has reached its limit; and as for [`Sender::try_send`].
    pub fn force_send(&self, value: T) -> Result<Option<T>, TrySendError<T>> {
        let Endpoint { queue: Queue { channel, ring, region, .. }, cursor, .. } = &self.end;
        for _ in 0..PATIENCE {
            match self.claim() {
                Ok(claim) => {
                    self.send_claimed(claim, &value);
                    return Ok(None);
                }
                // Of a queue without a bound no message is displaced.
                Err(TrySendError::Full(())) if region.is_none() => {}
                Err(refusal) => return Err(refusal.with(value)),
            }
            let owner = match self.owner() {
                Ok(owner) => owner,
                Err(refusal) => return Err(refusal.with(value)),
            };
            match ring.claim_oldest(cursor, owner, channel.mode()) {
                Ok(Some(claim)) => {
                    let displaced = ring.read(&claim);
                    self.send_claimed(ring.take_its_place(cursor, owner, claim), &value);
                    return Ok(Some(displaced));
                }
                // Somebody else receives it, or has displaced it, right now.
                Ok(None) => spin_loop(),
                Err(refused) => return Err(self.refusal(refused).with(value)),
            }
        }
        Err(TrySendError::Full(value))
    }

    /// Reserves a slot if one is free now, to write a message in place: see [`Sender::reserve`].
    ///
    /// # Errors
    /// As for [`Sender::try_send`].
    pub fn try_reserve(&self) -> Result<Reservation<'_, T>, TrySendError<()>> {
        Ok(Reservation::new(&self.end.queue, self.claim()?))
    }

    /// Reserves a slot, waiting for one as long as it takes, to write a message in place. Nothing is copied;
    /// [`Reservation::commit`] sends it, dropping it does not. Until then receivers step around the slot, and the
    /// messages of this sender that are sent meanwhile may arrive before it.
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<[u8; 4096]>::create(&segment, "frames", 8)?;
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// let mut frame = sender.reserve()?;
    /// frame.fill(7); // it holds what some earlier message has left
    /// frame.commit();
    /// assert_eq!(receiver.recv_guard()?[..2], [7, 7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Sender::send`].
    pub fn reserve(&self) -> Result<Reservation<'_, T>, SendError<()>> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => no_deadline(self.claim_until(None))?,
        };
        Ok(Reservation::new(&self.end.queue, claim))
    }

    /// As [`Sender::reserve`], waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for [`Sender::send_timeout`].
    pub fn reserve_timeout(&self, timeout: Duration) -> Result<Reservation<'_, T>, SendTimeoutError<()>> {
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(_) => self.claim_until(Deadline::after(timeout))?,
        };
        Ok(Reservation::new(&self.end.queue, claim))
    }

    /// Sends as many of `values` as there is room for now, in order, and says how many. They go in runs of up to 64, each of
    /// which arrives at once; other senders' messages may come between two of them. Wakes receivers once for all.
    ///
    /// # Errors
    /// Only if not even one could be sent, and not for want of room: that is `Ok(0)`.
    pub fn try_send_slice(&self, values: &[T]) -> Result<usize, SendError<()>> {
        let mut sent = 0;
        let reason = loop {
            let pushed = match &values[sent..] {
                [] => break None,
                [value] => self.claim().map(|claim| self.put(claim, value)).map(|()| 1),
                values => self.push_run(&values[..values.len().min(BATCH)]),
            };
            match pushed {
                Ok(more) => sent += more,
                Err(reason) => break Some(reason),
            }
        };
        if sent > 0 {
            self.end.queue.channel.committed(sent);
            return Ok(sent);
        }
        match reason {
            None | Some(TrySendError::Full(())) => Ok(0),
            Some(TrySendError::NoSpace(())) => Err(SendError::NoSpace(())),
            Some(TrySendError::Closed(())) => Err(SendError::Closed(())),
            Some(TrySendError::Disconnected { message, peer }) => Err(SendError::Disconnected { message, peer }),
            Some(TrySendError::TooLarge { message, len, max }) => Err(SendError::TooLarge { message, len, max }),
            Some(TrySendError::Detached(())) => Err(SendError::Detached(())),
        }
    }

    /// Sends all of `values` in order, waiting for room as long as it takes.
    ///
    /// # Errors
    /// [`SendSliceError`] says how many were sent before the queue was closed or disconnected.
    pub fn send_slice(&self, values: &[T]) -> Result<(), SendSliceError> {
        let mut sent = 0;
        while sent < values.len() {
            let more = match self.try_send_slice(&values[sent..]) {
                Ok(0) => {
                    no_deadline(self.claim_until(None)).map(|claim| self.send_claimed(claim, &values[sent])).map(|()| 1)
                }
                result => result,
            };
            sent += more.map_err(|reason| SendSliceError { sent, reason })?;
        }
        Ok(())
    }
}
