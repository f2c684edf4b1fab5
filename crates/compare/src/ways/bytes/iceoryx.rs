//! iceoryx2: publish/subscribe of slices, written and read where they lie.

use std::mem::MaybeUninit;

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{BackpressureStrategy, ipc};
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

use super::super::iceoryx::{Node, delivered, node};
use super::super::{Spec, poll};
use super::{Link, Rx, Tx};

/// One service for each lane.
pub struct PublishSubscribe(Spec);

/// The services, and the node that must outlive them.
pub struct Shared {
    services: Vec<PortFactory<ipc::Service, [u8], ()>>,
    _node: Node,
}

impl Link for PublishSubscribe {
    type Shared = Shared;
    type Tx = Publisher<ipc::Service, [u8], ()>;
    type Rx = Subscriber<ipc::Service, [u8], ()>;

    fn prepare(spec: &Spec) -> Self {
        Self(spec.clone())
    }

    fn open(&self, _first: bool) -> Shared {
        let node = node(&self.0);
        let service = |lane: usize| {
            let name = format!("lane/{lane}");
            let service = node.service_builder(&name.as_str().try_into().expect("a name")).publish_subscribe::<[u8]>();
            let service = service.enable_safe_overflow(false).subscriber_max_buffer_size(self.0.capacity);
            service.max_publishers(1).max_subscribers(1).history_size(0).open_or_create().expect("a service")
        };
        Shared { services: (0..self.0.lanes).map(service).collect(), _node: node }
    }

    fn sender(&self, shared: &Shared, lane: usize) -> Self::Tx {
        let publisher = shared.services[lane].publisher_builder().initial_max_slice_len(self.0.bytes);
        publisher.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered).create().expect("a publisher")
    }

    fn receiver(&self, shared: &Shared, lane: usize) -> Self::Rx {
        shared.services[lane].subscriber_builder().buffer_size(self.0.capacity).create().expect("a subscriber")
    }
}

impl Tx for Publisher<ipc::Service, [u8], ()> {
    fn send(&mut self, message: &[u8]) {
        poll(|| delivered(self.loan_slice_uninit(message.len()).ok()?.write_from_slice(message).send()));
    }

    fn send_number(&mut self, number: u64, text: &mut [u64]) {
        poll(|| {
            let mut sample = self.loan_slice_uninit(size_of_val(text)).ok()?;
            sample.payload_mut().as_chunks_mut().0.fill(number.to_ne_bytes().map(MaybeUninit::new));
            // SAFETY: filled above: it is a whole number of words long.
            delivered(unsafe { sample.assume_init() }.send())
        });
    }
}

impl Rx for Subscriber<ipc::Service, [u8], ()> {
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(poll(|| self.receive().expect("receive")).payload())
    }

    fn try_recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.receive().expect("receive").map(|sample| read(sample.payload()))
    }
}
