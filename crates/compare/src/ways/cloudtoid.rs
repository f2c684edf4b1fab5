//! cloudtoid-interprocess: byte messages in a file, with a named semaphore to wake readers.

use cloudtoid_interprocess::{Options, Publisher, Subscriber};

use super::{Link, Rx, Spec, Tx, poll};

/// Messages of bytes.
pub struct Bytes(Spec);

impl Bytes {
    fn options(&self, lane: usize) -> Options {
        // Eight bytes of header before each message.
        let bytes = self.0.capacity * (self.0.bytes + 8);
        Options::new(format!("{}-{lane}", self.0.name), bytes).with_path(&self.0.directory)
    }
}

/// The queue is there as long as somebody has an end, so that whoever attaches holds one of each lane.
impl<const N: usize> Link<N> for Bytes {
    type Shared = Vec<Subscriber>;
    type Tx = Publisher;
    type Rx = Subscriber;

    fn prepare(spec: &Spec) -> Self {
        Self(spec.clone())
    }

    fn open(&self, first: bool) -> Vec<Subscriber> {
        let lanes = if first { self.0.lanes } else { 0 };
        (0..lanes).map(|lane| Subscriber::open(&self.options(lane)).expect("a queue")).collect()
    }

    fn sender(&self, _: &Vec<Subscriber>, lane: usize) -> Publisher {
        Publisher::open(&self.options(lane)).expect("a publisher")
    }

    fn receiver(&self, _: &Vec<Subscriber>, lane: usize) -> Subscriber {
        Subscriber::open(&self.options(lane)).expect("a subscriber")
    }
}

impl<const N: usize> Tx<N> for Publisher {
    #[inline(always)]
    fn send(&mut self, message: &[u64; N]) {
        let bytes: &[u8] = gimmal::bytemuck::bytes_of(message);
        poll(|| match self.try_send(bytes) {
            Err(e) if e.is_full() => None,
            sent => Some(sent),
        })
        .expect("send");
    }
}

impl<const N: usize> Rx<N> for Subscriber {
    #[inline(always)]
    fn recv(&mut self) -> [u64; N] {
        let bytes = Subscriber::recv(self).expect("receive");
        gimmal::bytemuck::pod_read_unaligned(&bytes)
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; N]> {
        let mut message = [0; N];
        let bytes = self.try_recv_into(gimmal::bytemuck::bytes_of_mut(&mut message)).expect("receive")?;
        assert_eq!(bytes, 8 * N, "bytes of a message");
        Some(message)
    }
}
