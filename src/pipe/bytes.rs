//! Ends that send or receive bytes.

use std::io::IoSlice;
use std::time::Duration;

use super::{End, SharedEnd};
use crate::error::{
    RecvBytesError, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::message::Message;
#[cfg(doc)]
use crate::{Receiver, Sender};
use crate::{queue, spsc};

impl<Rx: Message + ?Sized> End<[u8], Rx> {
    /// See [`spsc::Sender::try_send`](spsc::Sender#method.try_send-1).
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), TrySendError<()>> {
        self.sender().try_send(message)
    }

    /// See [`spsc::Sender::send`](spsc::Sender#method.send-1): messages of any length.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError<()>> {
        self.sender().send(message)
    }

    /// As `send`, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`SendTimeoutError::Timeout`] and the others: it was not sent, nor any part of it.
    pub fn send_timeout(&mut self, message: &[u8], timeout: Duration) -> Result<(), SendTimeoutError<()>> {
        self.sender().send_timeout(message, timeout)
    }

    /// As `send`, one message put together from several parts.
    ///
    /// # Errors
    /// As for `send`.
    pub fn send_vectored(&mut self, parts: &[IoSlice<'_>]) -> Result<(), SendError<()>> {
        self.sender().send_vectored(parts)
    }

    /// See [`spsc::Sender::reserve`](spsc::Sender#method.reserve-1).
    ///
    /// # Errors
    /// As there.
    pub fn reserve(&mut self, len: usize) -> Result<spsc::Grant<'_>, SendError<()>> {
        self.sender().reserve(len)
    }
}

impl<Tx: Message + ?Sized> End<Tx, [u8]> {
    /// See [`spsc::Receiver::try_recv`](spsc::Receiver#method.try_recv-1).
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_recv(&mut self) -> Result<spsc::Frame<'_>, TryRecvError> {
        self.receiver().try_recv()
    }

    /// See [`spsc::Receiver::recv`](spsc::Receiver#method.recv-1).
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn recv(&mut self) -> Result<spsc::Frame<'_>, RecvError> {
        self.receiver().recv()
    }

    /// As `recv`, waiting for at most `timeout`.
    ///
    /// # Errors
    /// As for `recv`, and [`RecvTimeoutError::Timeout`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<spsc::Frame<'_>, RecvTimeoutError> {
        self.receiver().recv_timeout(timeout)
    }

    /// See [`spsc::Receiver::recv_into`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_into(&mut self, buffer: &mut [u8]) -> Result<usize, RecvBytesError> {
        self.receiver().recv_into(buffer)
    }

    /// See [`spsc::Receiver::recv_vec`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_vec(&mut self) -> Result<Vec<u8>, RecvError> {
        self.receiver().recv_vec()
    }

    /// See [`spsc::Receiver::recv_max`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_max(&mut self, max: usize) -> Result<spsc::Frame<'_>, RecvBytesError> {
        self.receiver().recv_max(max)
    }

    /// See [`spsc::Receiver::peek_len`].
    ///
    /// # Errors
    /// As there.
    pub fn peek_len(&mut self) -> Result<usize, TryRecvError> {
        self.receiver().peek_len()
    }
}

impl<Rx: Message + ?Sized> SharedEnd<[u8], Rx> {
    /// See [`Sender::try_send`](Sender#method.try_send-1).
    ///
    /// # Errors
    /// As there.
    pub fn try_send(&self, message: &[u8]) -> Result<(), TrySendError<()>> {
        self.sender.try_send(message)
    }

    /// See [`Sender::send`](Sender#method.send-1).
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, message: &[u8]) -> Result<(), SendError<()>> {
        self.sender.send(message)
    }
}

impl<Tx: Message + ?Sized> SharedEnd<Tx, [u8]> {
    /// See [`Receiver::try_recv`](Receiver#method.try_recv-1).
    ///
    /// # Errors
    /// As there.
    pub fn try_recv(&self) -> Result<queue::Frame<'_>, TryRecvError> {
        self.receiver.try_recv()
    }

    /// See [`Receiver::recv`](Receiver#method.recv-1).
    ///
    /// # Errors
    /// As there.
    pub fn recv(&self) -> Result<queue::Frame<'_>, RecvError> {
        self.receiver.recv()
    }
}
