//! `Object<T>`: messages of any type that serde can write and read.

mod support;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use gimmal::process::{self, Context, Entry, Outcome};
use gimmal::{
    Error, Object, Pipe, Queue, RecvError, RecvObjectError, RecvTimeoutError, Segment, SendError, SendObjectError,
    SendTimeoutError, SpscQueue, TryRecvError, TrySendError,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use support::{die_with_parent, join_well};

const ENTRIES: [Entry; 1] = gimmal::entries![answer];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: Customer,
    lines: Vec<Line>,
    notes: BTreeMap<String, Option<f64>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Customer {
    name: String,
    rebate: f32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Line {
    Nothing,
    Piece(u32),
    Weight { grams: i64, of: String },
}

fn order(id: u64, lines: usize) -> Order {
    let line = |n: usize| match n % 3 {
        0 => Line::Nothing,
        1 => Line::Piece(n as u32),
        _ => Line::Weight { grams: -(n as i64), of: "x".repeat(n % 50) },
    };
    Order {
        id,
        customer: Customer { name: format!("customer {id}"), rebate: id as f32 / 3.0 },
        lines: (0..lines).map(line).collect(),
        notes: [("a".into(), None), ("b".into(), Some(0.5))].into(),
    }
}

/// One that can be serialized only where there is something in it.
#[derive(Debug, PartialEq, Deserialize)]
struct Picky(u8);

impl Serialize for Picky {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            0 => Err(serde::ser::Error::custom("nothing in it")),
            n => serializer.serialize_u8(n),
        }
    }
}

#[test]
fn objects_go_through_a_queue() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<Object<Order>>::create(&segment, "orders", 16 << 10).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for round in 0..100 {
        let sent: Vec<Order> = (0..5).map(|n| order(round * 5 + n, n as usize * 10)).collect();
        sent.iter().for_each(|order| sender.send(order).unwrap());
        assert_eq!(receiver.iter().take(5).collect::<Result<Vec<_>, _>>().unwrap(), sent);
    }
    assert_eq!(receiver.try_recv(), Err(RecvObjectError::Recv(TryRecvError::Empty)));
    let short = Duration::from_millis(1);
    assert_eq!(receiver.recv_timeout(short), Err(RecvObjectError::Recv(RecvTimeoutError::Timeout)));
    let large = order(1, 10_000);
    assert!(matches!(sender.send(&large), Err(SendObjectError::Send(SendError::TooLarge { max: 16_384, .. }))));
    while sender.try_send(&order(1, 50)).is_ok() {}
    assert_eq!(sender.try_send(&order(1, 50)), Err(SendObjectError::Send(TrySendError::Full(()))));
    let timeout = SendTimeoutError::Timeout(());
    assert_eq!(sender.send_timeout(&order(1, 50), short), Err(SendObjectError::Send(timeout)));
    queue.close();
    assert_eq!(sender.send(&order(1, 1)), Err(SendObjectError::Send(SendError::Closed(()))));
    while receiver.recv() != Err(RecvObjectError::Recv(RecvError::Closed)) {}
}

#[test]
fn objects_of_any_size_go_through_a_pipe_both_ways() {
    let segment = Segment::anonymous().unwrap();
    let (mut asker, mut answerer) = Pipe::pair::<Object<Order>, Object<String>>(&segment, "pipe", 4096).unwrap();
    let sizes = [0, 3, 1000, 20_000];
    thread::scope(|scope| {
        scope.spawn(move || {
            for (id, lines) in sizes.into_iter().enumerate() {
                let asked = answerer.recv().unwrap();
                assert_eq!(asked, order(id as u64, lines));
                answerer.send(&asked.customer.name.repeat(lines)).unwrap();
            }
        });
        for (id, lines) in sizes.into_iter().enumerate() {
            asker.send(&order(id as u64, lines)).unwrap();
            assert_eq!(asker.recv().unwrap(), format!("customer {id}").repeat(lines));
        }
    });
}

#[test]
fn a_pipe_may_carry_bytes_one_way_and_numbers_the_other() {
    let segment = Segment::anonymous().unwrap();
    let (mut first, mut second) = Pipe::pair::<[u8], u64>(&segment, "pipe", 64).unwrap();
    first.send(b"how long?").unwrap();
    let len = second.recv().unwrap().len() as u64;
    second.send(len).unwrap();
    assert_eq!(first.recv(), Ok(9));
    let (first, second) = Pipe::shared::<Object<String>, [u8]>(&segment, "shared", 64).unwrap();
    first.send(&"hello".to_owned()).unwrap();
    second.send(&second.recv().unwrap().into_bytes()).unwrap();
    assert_eq!(*first.recv().unwrap(), *b"hello");
}

#[test]
fn what_cannot_be_serialized_is_not_sent() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<Object<Picky>>::create(&segment, "queue", 4096).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for _ in 0..200 {
        assert!(matches!(sender.send(&Picky(0)), Err(SendObjectError::Encode(_))));
        sender.send(&Picky(1)).unwrap();
        assert_eq!(receiver.recv().unwrap(), Picky(1));
    }
    assert!(queue.is_empty());
    let text = sender.try_send(&Picky(0)).unwrap_err().to_string();
    assert!(text.contains("cannot be serialized"), "{text}");
    let queue = SpscQueue::<Object<Picky>>::create(&segment, "ring", 4096).unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    assert!(matches!(sender.send(&Picky(0)), Err(SendObjectError::Encode(_))));
    sender.send(&Picky(7)).unwrap();
    assert_eq!(receiver.recv().unwrap(), Picky(7));
}

/// A type of the same name, which other programs may know by other fields.
mod other {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    pub struct Order(pub Option<u8>);
}

#[test]
fn what_cannot_be_read_is_an_error_with_its_bytes_and_the_next_one_comes() {
    let segment = Segment::anonymous().unwrap();
    let theirs = Queue::<Object<other::Order>>::create(&segment, "orders", 4096).unwrap();
    let ours = Queue::<Object<Order>>::open(&segment, "orders").unwrap();
    theirs.sender().unwrap().send(&other::Order(Some(200))).unwrap();
    ours.sender().unwrap().send(&order(1, 2)).unwrap();
    let receiver = ours.receiver().unwrap();
    match receiver.recv() {
        Err(RecvObjectError::Decode { bytes, error }) => {
            assert_eq!(bytes, [1, 200]);
            assert!(!error.to_string().is_empty());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(receiver.recv().unwrap(), order(1, 2));
    assert!(matches!(Queue::<Object<Line>>::open(&segment, "orders"), Err(Error::TypeMismatch { .. })));
    assert!(matches!(Queue::<[u8]>::open(&segment, "orders"), Err(Error::TypeMismatch { .. })));
}

fn answer(context: &Context) -> Outcome {
    die_with_parent();
    let mut end = Pipe::connect::<Object<Vec<Order>>, Object<Order>>(context.segment(0)?, "pipe")?;
    while let Ok(asked) = end.recv() {
        end.send(&vec![asked; 3])?;
    }
    Ok(())
}

#[test]
fn objects_go_between_processes() {
    process::init(&ENTRIES);
    let segment = Segment::anonymous().unwrap();
    let mut end = Pipe::create::<Object<Order>, Object<Vec<Order>>>(&segment, "pipe", 8192).unwrap();
    let mut child = support::process("answer").segment(&segment).spawn().unwrap();
    for id in 0..300 {
        let asked = order(id, id as usize);
        end.send(&asked).unwrap();
        assert_eq!(end.recv().unwrap(), vec![asked; 3]);
    }
    drop(end);
    join_well(&mut child);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_object_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let segment = Segment::anonymous().unwrap();
        let queue = Queue::<Object<Order>>::create(&segment, "orders", 4096).unwrap();
        // The bytes of some other program whose type has the same name.
        let raw = Queue::<Object<raw::Order>>::open(&segment, "orders").unwrap();
        raw.sender().unwrap().send(&raw::Order(bytes.clone())).unwrap();
        match queue.receiver().unwrap().try_recv() {
            Ok(_) => {}
            Err(RecvObjectError::Decode { bytes: found, .. }) => prop_assert_eq!(found, bytes),
            Err(e) => prop_assert!(false, "{e}"),
        }
    }
}

mod raw {
    /// Bytes as they are: a tuple has no length in front.
    pub struct Order(pub Vec<u8>);

    impl serde::Serialize for Order {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeTuple;
            let mut tuple = serializer.serialize_tuple(self.0.len())?;
            self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
            tuple.end()
        }
    }
}

/// Bytes that a peer changes while they are decoded are those that were there before: the first of two numbers does it.
#[test]
fn a_peer_cannot_change_what_is_being_decoded() {
    use std::cell::RefCell;

    thread_local! {
        static MEANWHILE: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
    }

    #[derive(Serialize)]
    struct Changing;

    impl<'de> Deserialize<'de> for Changing {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            MEANWHILE.with_borrow(|change| change.as_ref().expect("it is set")());
            Ok(Self)
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Pair(Changing, String);

    let segment = Segment::options().size(1 << 20).anonymous().unwrap();
    let queue = Queue::<Object<Pair>>::create(&segment, "queue", 16 << 10).unwrap();
    let spsc = SpscQueue::<Object<Pair>>::create(&segment, "spsc", 16 << 10).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let (mut spsc_sender, mut spsc_receiver) = (spsc.sender().unwrap(), spsc.receiver().unwrap());
    for len in [1, 100, 1100, 5000] {
        let file = std::fs::File::from(std::os::fd::AsFd::as_fd(&segment).try_clone_to_owned().unwrap());
        let change = move || {
            use std::os::unix::fs::FileExt;
            let mut bytes = vec![0; 1 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            // Only the text has them.
            for at in (0..bytes.len()).filter(|&at| bytes[at] == b'~') {
                file.write_all_at(&[0xff], at as u64).unwrap();
            }
        };
        MEANWHILE.set(Some(Box::new(change)));
        let text = "~".repeat(len);
        sender.send(&Pair(Changing, text.clone())).unwrap();
        assert_eq!(receiver.recv().unwrap().1, text, "{len}");
        spsc_sender.send(&Pair(Changing, text.clone())).unwrap();
        assert_eq!(spsc_receiver.recv().unwrap().1, text, "{len}");
    }
}
