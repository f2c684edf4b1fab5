//! ipc-channel: its channel of bytes, which does not serialize.

use std::sync::Mutex;

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, bytes_channel};

use super::{Link, Rx, Spec, Tx};

/// Channels that the children inherit.
pub struct Bytes(Vec<Mutex<(IpcBytesSender, Option<IpcBytesReceiver>)>>);

impl<const N: usize> Link<N> for Bytes {
    type Shared = ();
    type Tx = IpcBytesSender;
    type Rx = IpcBytesReceiver;

    fn prepare(spec: &Spec) -> Self {
        let lane = |_| bytes_channel().map(|(sender, receiver)| Mutex::new((sender, Some(receiver))));
        Self((0..spec.lanes).map(lane).collect::<Result<_, _>>().expect("a channel"))
    }

    fn open(&self, _first: bool) {}

    fn sender(&self, (): &(), lane: usize) -> IpcBytesSender {
        self.0[lane].lock().expect("nobody panics here").0.clone()
    }

    fn receiver(&self, (): &(), lane: usize) -> IpcBytesReceiver {
        self.0[lane].lock().expect("nobody panics here").1.take().expect("one receiver")
    }
}

impl<const N: usize> Tx<N> for IpcBytesSender {
    #[inline(always)]
    fn send(&mut self, message: &[u64; N]) {
        IpcBytesSender::send(self, gimmal::bytemuck::bytes_of(message)).expect("send");
    }
}

impl<const N: usize> Rx<N> for IpcBytesReceiver {
    #[inline(always)]
    fn recv(&mut self) -> [u64; N] {
        gimmal::bytemuck::pod_read_unaligned(&IpcBytesReceiver::recv(self).expect("receive"))
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; N]> {
        match IpcBytesReceiver::try_recv(self) {
            Ok(bytes) => Some(gimmal::bytemuck::pod_read_unaligned(&bytes)),
            Err(TryRecvError::Empty) => None,
            Err(e) => panic!("receive: {e:?}"),
        }
    }
}
