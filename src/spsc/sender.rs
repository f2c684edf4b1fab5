//! The sending end.

use core::fmt;
use core::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

use super::{Endpoint, GetUp, Reservation, SliceReservation, SpscQueue};
use crate::channel::no_deadline;
use crate::deadline::Deadline;
use crate::error::{SendError, SendSliceError, SendTimeoutError, TrySendError};
use crate::message::Message;
use crate::ring::spsc::Position;
use crate::segment::Attached;

/// The sending end of an [`SpscQueue`] or of one direction of a [`Pipe`](crate::Pipe). Dropping it tells the receiver.
pub struct Sender<M: Message + ?Sized> {
    pub(super) position: Position,
    pub(super) end: Endpoint<M>,
}

impl<M: Message + ?Sized> fmt::Debug for Sender<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("queue", &self.end.queue).finish()
    }
}

impl<M: Message + ?Sized> Endpoint<M> {
    /// Checks that this end is ours, that somebody may still receive, and how much room there is, `wanted` or less.
    #[inline(always)]
    pub(super) fn room(&self, position: &mut Position, wanted: u64) -> Result<u64, SendError<()>> {
        if !self.is_ours() {
            self.reseat_sender(position)?;
        }
        if let Some(reason) = self.is_over() {
            return Err(reason);
        }
        Ok(self.queue.ring.room(position, wanted))
    }

    /// In a fork child: sits down if the parent has got up.
    #[cold]
    fn reseat_sender(&self, position: &mut Position) -> Result<(), SendError<()>> {
        self.sit_again().map_err(|_| SendError::Detached(()))?;
        *position = self.sender_position();
        Ok(())
    }

    /// As `room`; an error if there is none.
    #[inline(always)]
    pub(super) fn try_room(&self, position: &mut Position, wanted: u64) -> Result<u64, TrySendError<()>> {
        match self.room(position, wanted)? {
            0 => {
                self.in_vain();
                Err(TrySendError::Full(()))
            }
            room => Ok(room),
        }
    }
}

impl<M: Message + ?Sized> Sender<M> {
    /// Whether there is room: the first look of every blocking send.
    #[inline(always)]
    fn has_room(&mut self, wanted: u64) -> bool {
        self.end.rest(&self.position);
        self.end.try_room(&mut self.position, wanted).is_ok()
    }

    /// The slow path of every blocking send: waits until there is room.
    #[inline(never)]
    fn room_until(&mut self, wanted: u64, deadline: Option<Deadline>) -> Result<(), SendTimeoutError<()>> {
        let Self { position, end } = self;
        let attempt = || end.try_room(position, wanted).map(drop);
        end.queue.channel.send_blocking(&end.pace, deadline, attempt)
    }

    /// Ends the queue: sends fail with `Closed`, the receiver gets what is there and then `Closed`.
    pub fn close(&mut self) {
        self.end.queue.channel.close();
    }

    /// Gives the seat up as if it had never been taken.
    pub(crate) fn undo(self) {
        self.end.get_up(GetUp::Undo);
    }

    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        self.end.queue.place()
    }

    /// Gives the seat up without telling the receiver, so that another thread or process can take it and go on.
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
    /// Sends a message for which there is room.
    #[inline(always)]
    fn put(&self, position: &mut Position, value: &T) {
        let SpscQueue { channel, ring, .. } = &self.queue;
        ring.write(position, value);
        ring.commit(position, 1);
        channel.committed(1);
    }

    /// As many of `values` as there is room for now.
    fn try_send_slice(&self, position: &mut Position, values: &[T]) -> Result<usize, SendError<()>> {
        if values.is_empty() {
            return Ok(0);
        }
        let wanted = values.len() as u64;
        let count = self.room(position, wanted)?.min(wanted);
        if count > 0 {
            let SpscQueue { channel, ring, .. } = &self.queue;
            ring.write_many(position, &values[..count as usize]);
            ring.commit(position, count);
            channel.committed(count as usize);
        }
        Ok(count as usize)
    }
}

impl<T: Pod> Sender<T> {
    /// Sends if there is room now. Wait-free, no system call unless the receiver sleeps.
    ///
    /// # Errors
    /// [`TrySendError::Full`] and the others give the message back.
    #[inline(always)]
    pub fn try_send(&mut self, value: T) -> Result<(), TrySendError<T>> {
        match self.end.try_room(&mut self.position, 1) {
            Ok(_) => {
                self.end.put(&mut self.position, &value);
                Ok(())
            }
            Err(refusal) => Err(refusal.with(value)),
        }
    }

    /// Sends, waiting for room as long as it takes: spinning for some microseconds, then asleep.
    ///
    /// # Errors
    /// [`SendError::Disconnected`] and the others give the message back.
    #[inline(always)]
    pub fn send(&mut self, value: T) -> Result<(), SendError<T>> {
        if !self.has_room(1)
            && let Err(e) = no_deadline(self.room_until(1, None))
        {
            return Err(e.with(value));
        }
        self.end.put(&mut self.position, &value);
        Ok(())
    }

    /// Sends, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// [`SendTimeoutError::Timeout`] and the others give the message back: it was not sent.
    pub fn send_timeout(&mut self, value: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        if !self.has_room(1)
            && let Err(e) = self.room_until(1, Deadline::after(timeout))
        {
            return Err(e.with(value));
        }
        self.end.put(&mut self.position, &value);
        Ok(())
    }

    /// Sends, waiting for room until `deadline`.
    ///
    /// # Errors
    /// As for [`Sender::send_timeout`].
    pub fn send_deadline(&mut self, value: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        if !self.has_room(1)
            && let Err(e) = self.room_until(1, Deadline::at(deadline))
        {
            return Err(e.with(value));
        }
        self.end.put(&mut self.position, &value);
        Ok(())
    }

    /// Reserves a slot if there is room now, to write a message in place: see [`Sender::reserve`].
    ///
    /// # Errors
    /// As for [`Sender::try_send`].
    pub fn try_reserve(&mut self) -> Result<Reservation<'_, T>, TrySendError<()>> {
        self.end.try_room(&mut self.position, 1)?;
        Ok(Reservation::new(self))
    }

    /// Reserves a slot, waiting for room as long as it takes, to write a message in place. Nothing is copied;
    /// [`Reservation::commit`] sends it, dropping it does not.
    ///
    /// ```
    /// use gimmal::{Segment, SpscQueue};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = SpscQueue::<[u8; 4096]>::create(&segment, "frames", 8)?;
    /// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    /// let mut frame = sender.reserve()?;
    /// frame.fill(7); // it holds what some earlier message has left
    /// frame.commit();
    /// assert_eq!(receiver.recv_guard()?[..2], [7, 7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Sender::send`].
    pub fn reserve(&mut self) -> Result<Reservation<'_, T>, SendError<()>> {
        if !self.has_room(1) {
            no_deadline(self.room_until(1, None))?;
        }
        Ok(Reservation::new(self))
    }

    /// As [`Sender::reserve`], waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for [`Sender::send_timeout`].
    pub fn reserve_timeout(&mut self, timeout: Duration) -> Result<Reservation<'_, T>, SendTimeoutError<()>> {
        if !self.has_room(1) {
            self.room_until(1, Deadline::after(timeout))?;
        }
        Ok(Reservation::new(self))
    }

    /// Reserves up to `most` slots in a row that are free now: see [`Sender::reserve_slice`]. `most` of 0 reserves none.
    ///
    /// # Errors
    /// As for [`Sender::try_send`].
    pub fn try_reserve_slice(&mut self, most: usize) -> Result<SliceReservation<'_, T>, TrySendError<()>> {
        let room = if most == 0 { 0 } else { self.end.try_room(&mut self.position, most as u64)? };
        Ok(SliceReservation::new(self, room.min(most as u64)))
    }

    /// Reserves up to `most` slots in a row, waiting for the first as long as it takes, to write messages in place;
    /// [`SliceReservation::commit`] sends them all at once, dropping it sends none. It may be fewer than there is room for: a
    /// row ends where the memory does.
    ///
    /// ```
    /// use gimmal::{Segment, SpscQueue};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = SpscQueue::<u32>::create(&segment, "samples", 64)?;
    /// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    /// let mut slots = sender.reserve_slice(10)?;
    /// let count = slots.iter_mut().zip(100..).map(|(slot, n)| *slot = n).count();
    /// slots.commit(count);
    /// assert_eq!(receiver.recv_slice(3)?[..], [100, 101, 102]); // received when dropped
    /// assert_eq!(receiver.recv(), Ok(103));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Sender::send`].
    pub fn reserve_slice(&mut self, most: usize) -> Result<SliceReservation<'_, T>, SendError<()>> {
        if most > 0 && !self.has_room(most as u64) {
            no_deadline(self.room_until(most as u64, None))?;
        }
        let room = self.position.left().min(most as u64);
        Ok(SliceReservation::new(self, room))
    }

    /// Sends as many of `values` as there is room for now, all at once, and says how many.
    ///
    /// # Errors
    /// If none could be sent, and not for want of room: that is `Ok(0)`.
    pub fn try_send_slice(&mut self, values: &[T]) -> Result<usize, SendError<()>> {
        self.end.try_send_slice(&mut self.position, values)
    }

    /// Sends all of `values` in order, waiting for room as long as it takes.
    ///
    /// # Errors
    /// [`SendSliceError`] says how many were sent before the other end was gone.
    pub fn send_slice(&mut self, values: &[T]) -> Result<(), SendSliceError> {
        let Self { position, end } = self;
        end.rest(position);
        let mut sent = 0;
        let all = end.queue.channel.send_blocking(&end.pace, None, || {
            while sent < values.len() {
                match end.try_send_slice(position, &values[sent..])? {
                    0 => return Err(TrySendError::Full(())),
                    more => sent += more,
                }
            }
            Ok(())
        });
        no_deadline(all).map_err(|reason| SendSliceError { sent, reason })
    }
}
