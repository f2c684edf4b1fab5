//! One end of a shared pipe.

use core::fmt;
use std::time::Duration;

use bytemuck::Pod;

#[cfg(doc)]
use super::Pipe;
use crate::error::{Error, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError};
use crate::message::Message;
use crate::queue::{self, Queue};

/// One end of a shared [`Pipe`]: any number of holders send `Tx` and receive `Rx`, each message to one of them.
///
/// The methods of its halves do the work; cloning makes another holder.
pub struct SharedEnd<Tx: Message + ?Sized, Rx: Message + ?Sized> {
    /// The sending half.
    pub sender: queue::Sender<Tx>,
    /// The receiving half.
    pub receiver: queue::Receiver<Rx>,
}

impl<Tx: Message + ?Sized, Rx: Message + ?Sized> SharedEnd<Tx, Rx> {
    pub(super) fn new(there: &Queue<Tx>, back: &Queue<Rx>) -> Result<Self, Error> {
        Ok(Self { sender: there.sender()?, receiver: back.receiver()? })
    }
}

impl<Tx: Pod, Rx: Message + ?Sized> SharedEnd<Tx, Rx> {
    /// See [`crate::Sender::try_send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_send(&self, value: Tx) -> Result<(), TrySendError<Tx>> {
        self.sender.try_send(value)
    }

    /// See [`crate::Sender::send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn send(&self, value: Tx) -> Result<(), SendError<Tx>> {
        self.sender.send(value)
    }

    /// See [`crate::Sender::send_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_timeout(&self, value: Tx, timeout: Duration) -> Result<(), SendTimeoutError<Tx>> {
        self.sender.send_timeout(value, timeout)
    }
}

impl<Tx: Message + ?Sized, Rx: Pod> SharedEnd<Tx, Rx> {
    /// See [`crate::Receiver::try_recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_recv(&self) -> Result<Rx, TryRecvError> {
        self.receiver.try_recv()
    }

    /// See [`crate::Receiver::recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn recv(&self) -> Result<Rx, RecvError> {
        self.receiver.recv()
    }

    /// See [`crate::Receiver::recv_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Rx, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout)
    }
}

impl<Tx: Message + ?Sized, Rx: Message + ?Sized> Clone for SharedEnd<Tx, Rx> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), receiver: self.receiver.clone() }
    }
}

impl<Tx: Message + ?Sized, Rx: Message + ?Sized> fmt::Debug for SharedEnd<Tx, Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedEnd").field("sender", &self.sender).field("receiver", &self.receiver).finish()
    }
}
