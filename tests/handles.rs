//! Handles: where things are, told to other processes.

mod support;

use std::sync::atomic::Ordering::Relaxed;

use gimmal::process::{self, Context, Entry, Outcome};
use gimmal::{
    Array, Error, Handle, Latest, Lock, LossyQueue, Object, Pipe, Queue, QueueOptions, Receiver, Segment, Sender,
    Share, SpscQueue, Value, spsc,
};
use serde::{Deserialize, Serialize};
use support::{Scratch, die_with_parent, join_well};

const ENTRIES: [Entry; 1] = gimmal::entries![serve];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

/// The same, by its text.
fn reparsed<T: Share>(thing: &T) -> Handle<T> {
    let handle = thing.handle();
    let parsed: Handle<T> = handle.to_string().parse().unwrap();
    assert!(parsed == handle && format!("{handle:?}").contains("gimmal:"));
    parsed
}

fn everything_is_found_again_in(segment: &Segment) {
    let queue = Queue::<u32>::create(segment, "queue", 4).unwrap();
    let bytes = Queue::<[u8]>::create(segment, "bytes", 4096).unwrap();
    let ring = SpscQueue::<u32>::create(segment, "ring", 4).unwrap();
    let lossy = LossyQueue::<u32>::create(segment, "lossy", 4).unwrap();
    let value = Value::create(segment, "value", 5_i16).unwrap();
    let array = Array::<f32>::create(segment, "array", 3).unwrap();
    let lock = Lock::create(segment, "lock", 7_u64).unwrap();
    let latest = Latest::create(segment, "latest", [1_u8; 9]).unwrap();

    let participants = || segment.snapshot().unwrap().participants.len();
    let before = participants();
    let sender: Sender<u32> = reparsed(&queue.sender().unwrap()).open().unwrap();
    let receiver: Receiver<u32> = reparsed(&queue.receiver().unwrap()).open().unwrap();
    sender.send(1).unwrap();
    assert_eq!(receiver.recv(), Ok(1));
    reparsed(&queue).open().unwrap().sender().unwrap().send(2).unwrap();
    assert_eq!(receiver.recv(), Ok(2));
    reparsed(&bytes).open().unwrap().sender().unwrap().send(b"bytes").unwrap();
    assert_eq!(*bytes.receiver().unwrap().recv().unwrap(), *b"bytes");
    // An exclusive end is opened when it has been let go.
    let end: spsc::Sender<u32> = ring.sender().unwrap();
    let handle = reparsed(&end);
    assert!(matches!(handle.open(), Err(Error::SeatTaken { .. })));
    end.release();
    handle.open().unwrap().send(3).unwrap();
    assert_eq!(reparsed(&ring).open().unwrap().receiver().unwrap().recv(), Ok(3));
    reparsed(&lossy).open().unwrap().sender().unwrap().send(4).unwrap();
    assert_eq!(lossy.receiver().unwrap().recv(), Ok(4));
    assert_eq!(reparsed(&value).open().unwrap().load(Relaxed), 5);
    reparsed(&array).open().unwrap()[2].store(0.5, Relaxed);
    assert_eq!(array[2].load(Relaxed), 0.5);
    assert_eq!(*reparsed(&lock).open().unwrap().lock().unwrap(), 7);
    assert_eq!(reparsed(&latest).open().unwrap().load(), [1; 9]);
    let again = reparsed(segment).open().unwrap();
    assert_eq!(again.snapshot().unwrap().objects.len(), 8);
    assert_eq!(participants(), before, "this process has the segment open already");

    assert_eq!(value.handle().object(), "value");
    assert!(matches!(
        value.handle().to_string().parse::<Handle<Segment>>().unwrap().open(),
        Err(Error::BadName { .. })
    ));
    let wrong: Handle<Value<u16>> = value.handle().to_string().parse().unwrap();
    assert!(matches!(wrong.open(), Err(Error::TypeMismatch { .. })));
    let wrong: Handle<Queue<i16>> = value.handle().to_string().parse().unwrap();
    assert!(matches!(wrong.open(), Err(Error::KindMismatch { .. })));
    // The name alone, in another segment.
    let other = Segment::anonymous().unwrap();
    assert!(matches!(value.handle().open_in(&other), Err(Error::NotFound { .. })));
    Value::create(&other, "value", 6_i16).unwrap();
    assert_eq!(value.handle().open_in(&other).unwrap().load(Relaxed), 6);
}

#[test]
fn everything_in_a_named_segment_is_found_again() {
    everything_is_found_again_in(&Scratch::small("handles"));
}

#[test]
fn everything_in_an_unnamed_segment_is_found_again() {
    everything_is_found_again_in(&Segment::anonymous().unwrap());
}

#[test]
fn ends_of_pipes_have_the_names_of_their_pipes() {
    let segment = Segment::anonymous().unwrap();
    let (first, _second) = Pipe::pair::<u8, u64>(&segment, "pipe", 4).unwrap();
    let (sender, receiver) = first.split();
    assert_eq!((sender.handle().object(), receiver.handle().object()), ("pipe", "pipe"));
}

#[test]
fn what_is_gone_is_not_found() {
    let named = Scratch::small("gone");
    let handle = named.handle();
    let name = named.name().unwrap().to_owned();
    drop(named);
    assert!(matches!(handle.open(), Err(Error::NotFound { name: gone }) if gone == name));
    let unnamed = Segment::anonymous().unwrap();
    let handle = unnamed.handle();
    drop(unnamed);
    assert!(matches!(handle.open(), Err(Error::NotFound { .. })));
    let texts = ["", "gimmal:", "gimmal:x#y", "http://x#y#z", "gimmal:1/2#  #x", "gimmal:1/2##x", "gimmal:1/2/3/4##x"];
    for text in texts {
        let parsed = text.parse::<Handle<Segment>>();
        let refused = parsed.and_then(|handle| handle.open().map(drop));
        assert!(matches!(refused, Err(Error::BadName { .. })), "{text:?}: {refused:?}");
    }
    let nobody: Handle<Segment> = "gimmal:4294967295/2147483647/5##".parse().unwrap();
    assert!(matches!(nobody.open(), Err(Error::NotFound { .. })));
}

/// A request that says where its answer is to go, and what to count in.
#[derive(Serialize, Deserialize)]
struct Request {
    number: u64,
    reply_to: Handle<Sender<Object<String>>>,
    served: Handle<Value<u32>>,
}

fn serve(context: &Context) -> Outcome {
    die_with_parent();
    let requests = Queue::<Object<Request>>::open(context.segment(0)?, "requests")?.receiver()?;
    while let Ok(request) = requests.recv() {
        request.reply_to.open()?.send(&format!("{} squared is {}", request.number, request.number.pow(2)))?;
        request.served.open()?.fetch_add(1, Relaxed);
    }
    Ok(())
}

#[test]
fn handles_travel_in_messages() {
    process::init(&ENTRIES);
    let segment = Segment::anonymous().unwrap();
    let options = QueueOptions::new().capacity(8192).keep_waiting(true);
    let requests = options.create::<Object<Request>>(&segment, "requests").unwrap();
    // The answers go through segments that the other process knows nothing of.
    let named = Scratch::small("replies");
    let unnamed = Segment::anonymous().unwrap();
    let mut child = support::process("serve").segment(&segment).spawn().unwrap();
    for (number, place) in [(7, &*named), (8, &unnamed)] {
        let replies = options.create::<Object<String>>(place, "replies").unwrap();
        let served = Value::create(place, "served", 0_u32).unwrap();
        let request = Request { number, reply_to: replies.sender().unwrap().handle(), served: served.handle() };
        for _ in 0..3 {
            requests.sender().unwrap().send(&request).unwrap();
            let answer = replies.receiver().unwrap().recv().unwrap();
            assert_eq!(answer, format!("{number} squared is {}", number * number));
        }
    }
    requests.close();
    join_well(&mut child);
    assert_eq!(Value::<u32>::open(&named, "served").unwrap().load(Relaxed), 3);
    assert_eq!(Value::<u32>::open(&unnamed, "served").unwrap().load(Relaxed), 3);
}
