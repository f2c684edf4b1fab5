//! Rivals that have messages of bytes anyway.

use cloudtoid_interprocess::{Publisher, Subscriber};
use ipc_channel::TryRecvError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender};

use super::super::{Link as WordLink, Spec, cloudtoid, ipc_channel as channel, poll};
use super::{Link, Rx, Tx};

/// See [`channel::Bytes`].
pub struct IpcChannel(channel::Bytes);

impl Link for IpcChannel {
    type Shared = ();
    type Tx = IpcBytesSender;
    type Rx = IpcBytesReceiver;

    fn prepare(spec: &Spec) -> Self {
        Self(WordLink::<1>::prepare(spec))
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> IpcBytesSender {
        WordLink::<1>::sender(&self.0, &(), lane)
    }

    fn receiver(&self, (): &(), lane: usize) -> IpcBytesReceiver {
        WordLink::<1>::receiver(&self.0, &(), lane)
    }
}

impl Tx for IpcBytesSender {
    fn send(&mut self, message: &[u8]) {
        IpcBytesSender::send(self, message).expect("send");
    }
}

impl Rx for IpcBytesReceiver {
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(&IpcBytesReceiver::recv(self).expect("receive"))
    }

    fn try_recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        match IpcBytesReceiver::try_recv(self) {
            Ok(bytes) => Some(read(&bytes)),
            Err(TryRecvError::Empty) => None,
            Err(e) => panic!("receive: {e:?}"),
        }
    }
}

/// See [`cloudtoid::Bytes`].
pub struct Cloudtoid(cloudtoid::Bytes, usize);

impl Link for Cloudtoid {
    type Shared = Vec<Subscriber>;
    type Tx = Publisher;
    type Rx = CloudtoidReader;

    fn prepare(spec: &Spec) -> Self {
        Self(WordLink::<1>::prepare(spec), spec.bytes)
    }

    fn open(&self, first: bool) -> Vec<Subscriber> {
        WordLink::<1>::open(&self.0, first)
    }

    fn sender(&self, shared: &Vec<Subscriber>, lane: usize) -> Publisher {
        WordLink::<1>::sender(&self.0, shared, lane)
    }

    fn receiver(&self, shared: &Vec<Subscriber>, lane: usize) -> CloudtoidReader {
        CloudtoidReader(WordLink::<1>::receiver(&self.0, shared, lane), vec![0; self.1])
    }
}

impl Tx for Publisher {
    fn send(&mut self, message: &[u8]) {
        poll(|| match self.try_send(message) {
            Err(e) if e.is_full() => None,
            sent => Some(sent),
        })
        .expect("send");
    }
}

/// The end, and room for a message. The call that waits makes a vector of each.
pub struct CloudtoidReader(Subscriber, Vec<u8>);

impl Rx for CloudtoidReader {
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(&self.0.recv().expect("receive"))
    }

    fn try_recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let bytes = self.0.try_recv_into(&mut self.1).expect("receive")?;
        Some(read(&self.1[..bytes]))
    }
}
