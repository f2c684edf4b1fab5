//! One end of a pipe.

use core::fmt;
use std::time::{Duration, Instant};

use bytemuck::Pod;

#[cfg(doc)]
use super::Pipe;
use crate::error::{
    Error, RecvError, RecvTimeoutError, SendError, SendSliceError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::message::Message;
use crate::spsc::{Receiver, Sender, SpscQueue};

/// One end of a [`Pipe`]: sends `Tx`, receives `Rx`. Send, but held by one thread at a time.
///
/// Dropping it tells the other end. The methods are those of its two halves; [`End::split`] gives the halves.
pub struct End<Tx: Message + ?Sized, Rx: Message + ?Sized> {
    sender: Sender<Tx>,
    receiver: Receiver<Rx>,
}

impl<Tx: Message + ?Sized, Rx: Message + ?Sized> fmt::Debug for End<Tx, Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End").field("sender", &self.sender).field("receiver", &self.receiver).finish()
    }
}

impl<Tx: Message + ?Sized, Rx: Message + ?Sized> End<Tx, Rx> {
    pub(super) fn take(there: &SpscQueue<Tx>, back: &SpscQueue<Rx>) -> Result<Self, Error> {
        let sender = there.sender()?;
        match back.receiver() {
            Ok(receiver) => Ok(Self { sender, receiver }),
            Err(e) => {
                sender.undo();
                Err(e)
            }
        }
    }

    /// The sending and the receiving half, for two threads. Each tells the other end when it is dropped.
    #[must_use]
    pub fn split(self) -> (Sender<Tx>, Receiver<Rx>) {
        (self.sender, self.receiver)
    }

    /// Gives this end up without telling the other one, so that another thread or process can take it with
    /// [`Pipe::create`] or [`Pipe::connect`] and go on. This is how an end is handed to a child process.
    pub fn release(self) {
        self.sender.release();
        self.receiver.release();
    }

    /// See [`Receiver::poll`].
    pub fn poll(&mut self, timeout: Duration) -> bool {
        self.receiver.poll(timeout)
    }

    /// The sending half.
    pub fn sender(&mut self) -> &mut Sender<Tx> {
        &mut self.sender
    }

    /// The receiving half.
    pub fn receiver(&mut self) -> &mut Receiver<Rx> {
        &mut self.receiver
    }
}

impl<Tx: Pod, Rx: Message + ?Sized> End<Tx, Rx> {
    /// See [`Sender::try_send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_send(&mut self, value: Tx) -> Result<(), TrySendError<Tx>> {
        self.sender.try_send(value)
    }

    /// See [`Sender::send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn send(&mut self, value: Tx) -> Result<(), SendError<Tx>> {
        self.sender.send(value)
    }

    /// See [`Sender::send_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_timeout(&mut self, value: Tx, timeout: Duration) -> Result<(), SendTimeoutError<Tx>> {
        self.sender.send_timeout(value, timeout)
    }

    /// See [`Sender::send_deadline`].
    ///
    /// # Errors
    /// As there.
    pub fn send_deadline(&mut self, value: Tx, deadline: Instant) -> Result<(), SendTimeoutError<Tx>> {
        self.sender.send_deadline(value, deadline)
    }

    /// See [`Sender::send_slice`].
    ///
    /// # Errors
    /// As there.
    pub fn send_slice(&mut self, values: &[Tx]) -> Result<(), SendSliceError> {
        self.sender.send_slice(values)
    }
}

impl<Tx: Message + ?Sized, Rx: Pod> End<Tx, Rx> {
    /// See [`Receiver::try_recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Rx, TryRecvError> {
        self.receiver.try_recv()
    }

    /// See [`Receiver::recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn recv(&mut self) -> Result<Rx, RecvError> {
        self.receiver.recv()
    }

    /// See [`Receiver::recv_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Rx, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout)
    }

    /// See [`Receiver::recv_deadline`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Rx, RecvTimeoutError> {
        self.receiver.recv_deadline(deadline)
    }

    /// See [`Receiver::recv_many`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_many(&mut self, buffer: &mut Vec<Rx>, most: usize) -> Result<usize, RecvError> {
        self.receiver.recv_many(buffer, most)
    }

    /// See [`Receiver::iter`].
    pub fn iter(&mut self) -> impl Iterator<Item = Rx> + '_ {
        self.receiver.iter()
    }
}
