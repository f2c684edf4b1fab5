//! iceoryx2: publish/subscribe without overflow. It has no competing consumers, and its receivers cannot wait.

use iceoryx2::port::SendError;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{
    BackpressureStrategy, Config, FileName, LogLevel, NodeBuilder, Path, SemanticString, SignalHandlingMode, ipc,
    set_log_level,
};
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

use super::{Link, Rx, Spec, Tx, fill, poll};

/// One service for each lane.
pub struct PublishSubscribe(Spec);

/// The services, and the node that must outlive them.
pub struct Shared<const N: usize> {
    services: Vec<PortFactory<ipc::Service, [u64; N], ()>>,
    _node: Node,
}

/// What a process is in iceoryx2.
pub type Node = iceoryx2::prelude::Node<ipc::Service>;

/// A node whose files lie where the run's do.
pub fn node(spec: &Spec) -> Node {
    set_log_level(LogLevel::Fatal);
    let mut config = Config::default();
    let root = spec.directory.to_str().expect("a plain path");
    config.global.set_root_path(&Path::new(root.as_bytes()).expect("a path"));
    // Its shared memory lies in /dev/shm itself: the prefix lets the end of the run find what was left there.
    config.global.prefix = FileName::new(format!("{}-", spec.name).as_bytes()).expect("a prefix");
    let builder = NodeBuilder::new().signal_handling_mode(SignalHandlingMode::Disabled).config(&config);
    builder.create::<ipc::Service>().expect("a node")
}

impl<const N: usize> Link<N> for PublishSubscribe {
    type Shared = Shared<N>;
    type Tx = Publisher<ipc::Service, [u64; N], ()>;
    type Rx = Subscriber<ipc::Service, [u64; N], ()>;

    fn prepare(spec: &Spec) -> Self {
        Self(spec.clone())
    }

    fn open(&self, _first: bool) -> Shared<N> {
        let node = node(&self.0);
        let service = |lane: usize| {
            let name = format!("lane/{lane}");
            let service =
                node.service_builder(&name.as_str().try_into().expect("a name")).publish_subscribe::<[u64; N]>();
            let service = service.enable_safe_overflow(false).subscriber_max_buffer_size(self.0.capacity);
            service.max_publishers(1).max_subscribers(1).history_size(0).open_or_create().expect("a service")
        };
        Shared { services: (0..self.0.lanes).map(service).collect(), _node: node }
    }

    fn sender(&self, shared: &Shared<N>, lane: usize) -> Self::Tx {
        let publisher = shared.services[lane].publisher_builder();
        publisher.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered).create().expect("a publisher")
    }

    fn receiver(&self, shared: &Shared<N>, lane: usize) -> Self::Rx {
        shared.services[lane].subscriber_builder().buffer_size(self.0.capacity).create().expect("a subscriber")
    }
}

/// Whether the one subscriber got it. In spite of `RetryUntilDelivered`, iceoryx2 0.10 now and then drops a sample when the
/// buffer is full, and says that nobody got it: then it is sent again.
pub fn delivered(sent: Result<usize, SendError>) -> Option<()> {
    match sent.expect("send") {
        0 => None,
        _ => Some(()),
    }
}

impl<const N: usize> Tx<N> for Publisher<ipc::Service, [u64; N], ()> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; N]) {
        poll(|| delivered(self.loan_uninit().ok()?.write_payload(*message).send()));
    }

    fn send_in_place(&mut self, number: u64) {
        poll(|| {
            let mut sample = self.loan_uninit().ok()?;
            fill(sample.payload_mut(), number);
            // SAFETY: filled above.
            delivered(unsafe { sample.assume_init() }.send())
        });
    }
}

impl<const N: usize> Rx<N> for Subscriber<ipc::Service, [u64; N], ()> {
    #[inline(always)]
    fn recv(&mut self) -> [u64; N] {
        poll(|| Rx::try_recv(self))
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; N]> {
        self.receive().expect("receive").map(|sample| *sample.payload())
    }

    fn recv_in_place<R>(&mut self, read: impl FnOnce(&[u64; N]) -> R) -> R {
        read(poll(|| self.receive().expect("receive")).payload())
    }
}
