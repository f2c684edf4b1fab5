//! An end whose last peer was killed is told so, whatever the kind of the queue, and without an option. Whoever waits here is a
//! process of its own: one that is not told hangs, and is killed.

mod support;

use std::any::Any;
use std::error::Error;
use std::sync::atomic::Ordering::{Acquire, Release};

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{
    Departure, LossyQueue, Pipe, Queue, QueueOptions, RecvError, Segment, SendError, SpscQueue, TryRecvError,
    TrySendError, Value,
};
use support::{die_with_parent, failed, join_well, kill_and_reap, say_ready, until, until_asleep, until_ready};

const ENTRIES: [Entry; 3] = gimmal::entries![wait_in_recv, wait_in_send, hold];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

type Answer<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// One kind of queue, called "it" and made without options by the first process that needs it.
struct Kind {
    name: &'static str,
    hold_sender: fn(&Segment) -> Answer<Box<dyn Any>>,
    hold_receiver: fn(&Segment) -> Answer<Box<dyn Any>>,
    /// Receives until that fails, and says who has gone.
    receive: fn(&Segment) -> Answer<Departure>,
    /// Sends until that fails, and says who has gone.
    send: fn(&Segment) -> Answer<Departure>,
}

/// An error that says who has gone, and gives back what was not sent.
trait Told: std::fmt::Debug + Sized {
    fn peer(&self) -> Option<Departure>;

    fn who(self) -> Answer<Departure> {
        self.peer().ok_or_else(|| failed(format!("{self:?}")))
    }
}

impl Told for RecvError {
    fn peer(&self) -> Option<Departure> {
        if let Self::Disconnected { peer } = self { Some(*peer) } else { None }
    }
}

impl Told for SendError<u64> {
    fn peer(&self) -> Option<Departure> {
        match self {
            Self::Disconnected { message: 7, peer } => Some(*peer),
            _ => None,
        }
    }
}

impl Told for SendError<()> {
    fn peer(&self) -> Option<Departure> {
        if let Self::Disconnected { message: (), peer } = self { Some(*peer) } else { None }
    }
}

#[cfg(feature = "serde")]
impl Told for gimmal::RecvObjectError {
    fn peer(&self) -> Option<Departure> {
        if let Self::Recv(error) = self { error.peer() } else { None }
    }
}

#[cfg(feature = "serde")]
impl Told for gimmal::SendObjectError {
    fn peer(&self) -> Option<Departure> {
        if let Self::Send(error) = self { error.peer() } else { None }
    }
}

/// A kind with the expressions that make its sender and its receiver, and, if they are others, those of its other side.
macro_rules! kind {
    ($name:literal, $message:expr, |$s:ident| $sender:expr, $receiver:expr, $other_sender:expr, $other_receiver:expr) => {
        Kind {
            name: $name,
            hold_sender: |$s| Ok(Box::new($other_sender)),
            hold_receiver: |$s| Ok(Box::new($other_receiver)),
            #[allow(unused_mut)]
            receive: |$s| {
                let mut end = $receiver;
                say_ready($s)?;
                loop {
                    if let Err(error) = end.recv() {
                        return error.who();
                    }
                }
            },
            #[allow(unused_mut)]
            send: |$s| {
                let mut end = $sender;
                say_ready($s)?;
                loop {
                    if let Err(error) = end.send($message) {
                        return error.who();
                    }
                }
            },
        }
    };
    ($name:literal, $message:expr, |$s:ident| $sender:expr, $receiver:expr) => {
        kind!($name, $message, |$s| $sender, $receiver, $sender, $receiver)
    };
    ($name:literal, $message:expr, |$s:ident| $queue:expr) => {
        kind!($name, $message, |$s| $queue.sender()?, $queue.receiver()?)
    };
}

static KINDS: &[Kind] = &[
    kind!("Queue", 7, |s| Queue::<u64>::open_or_create(s, "it", 4)?),
    kind!("unbounded Queue", 7, |s| QueueOptions::new().unbounded(1).open_or_create::<u64>(s, "it")?),
    kind!("Queue of bytes", b"seven", |s| Queue::<[u8]>::open_or_create(s, "it", 4096)?),
    #[cfg(feature = "serde")]
    kind!("Queue of objects", &7, |s| Queue::<gimmal::Object<u64>>::open_or_create(s, "it", 4096)?),
    kind!("SpscQueue", 7, |s| SpscQueue::<u64>::open_or_create(s, "it", 4)?),
    kind!("SpscQueue of bytes", b"seven", |s| SpscQueue::<[u8]>::open_or_create(s, "it", 4096)?),
    #[cfg(feature = "serde")]
    kind!("SpscQueue of objects", &7, |s| SpscQueue::<gimmal::Object<u64>>::open_or_create(s, "it", 4096)?),
    kind!("LossyQueue", 7, |s| LossyQueue::<u64>::open_or_create(s, "it", 4)?),
    kind!("simplex Pipe", 7, |s| Pipe::simplex_sender::<u64>(s, "it", 4)?, Pipe::simplex_receiver::<u64>(s, "it", 4)?),
    kind!(
        "Pipe",
        7,
        |s| Pipe::create::<u64, u64>(s, "it", 4)?,
        Pipe::create::<u64, u64>(s, "it", 4)?,
        Pipe::connect::<u64, u64>(s, "it")?,
        Pipe::connect::<u64, u64>(s, "it")?
    ),
    kind!(
        "shared Pipe",
        7,
        |s| Pipe::shared_first::<u64, u64>(s, "it", 4)?,
        Pipe::shared_first::<u64, u64>(s, "it", 4)?,
        Pipe::shared_second::<u64, u64>(s, "it", 4)?,
        Pipe::shared_second::<u64, u64>(s, "it", 4)?
    ),
];

/// The one that does not tell.
static WAITING: Kind = kind!("waiting Queue", 7, |s| waiting().open_or_create::<u64>(s, "it")?);

fn waiting() -> QueueOptions {
    QueueOptions::new().capacity(4).keep_waiting(true)
}

fn kind_of(context: &Context) -> Answer<&'static Kind> {
    KINDS.iter().chain([&WAITING]).find(|kind| context.arg(0) == Some(kind.name)).ok_or_else(|| failed("no such kind"))
}

fn report(segment: &Segment, who: Departure) -> Outcome {
    let Departure::Died { pid } = who else { return Err(failed("it was killed, and is said to have closed")) };
    Value::<u32>::open(segment, "told")?.store(pid, Release);
    Ok(())
}

fn wait_in_recv(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    report(segment, (kind_of(context)?.receive)(segment)?)
}

fn wait_in_send(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    report(segment, (kind_of(context)?.send)(segment)?)
}

fn hold(context: &Context) -> Outcome {
    die_with_parent();
    let (kind, segment) = (kind_of(context)?, context.segment(0)?);
    let _end = match context.arg(1) {
        Some("sender") => (kind.hold_sender)(segment)?,
        _ => (kind.hold_receiver)(segment)?,
    };
    say_ready(segment)?;
    Value::<u32>::open(segment, "told")?.wait_while(|_| true);
    Ok(())
}

/// A segment for one queue of a kind, and for what its processes say.
struct Stage {
    segment: Segment,
    kind: &'static Kind,
    started: u32,
}

impl Stage {
    fn new(kind: &'static Kind) -> Self {
        let segment = Segment::anonymous().unwrap();
        Value::<u32>::create(&segment, "ready", 0).unwrap();
        Value::<u32>::create(&segment, "told", 0).unwrap();
        Self { segment, kind, started: 0 }
    }

    /// A process that has come to the point.
    fn start(&mut self, entry: &str, side: &str) -> Child {
        process::init(&ENTRIES);
        let process = support::process(entry).name(self.kind.name).segment(&self.segment);
        let child = process.args([self.kind.name, side]).spawn().expect("start a process");
        self.started += 1;
        until_ready(&self.segment, self.started);
        child
    }

    fn told(&self) -> u32 {
        Value::<u32>::open(&self.segment, "told").unwrap().load(Acquire)
    }

    /// Kills the only process on the other side of a process that waits for it.
    fn kill_the_peer(&mut self, waiter: &str, peer: &str) {
        let mut waiter = self.start(waiter, "");
        // There was nobody on the other side: that is no reason to end.
        until_asleep(&mut waiter);
        let mut peer = self.start("hold", peer);
        until_asleep(&mut waiter);
        assert_eq!(self.told(), 0, "{}: told too early", self.kind.name);
        assert!(kill_and_reap(&mut peer));
        join_well(&mut waiter);
        assert_eq!(self.told(), peer.pid(), "{}", self.kind.name);
    }
}

#[test]
fn who_waits_in_recv_is_told_that_the_last_sender_was_killed() {
    for kind in KINDS {
        Stage::new(kind).kill_the_peer("wait_in_recv", "sender");
    }
}

#[test]
fn who_waits_in_send_is_told_that_the_last_receiver_was_killed() {
    // The sender of a LossyQueue does not wait.
    for kind in KINDS.iter().filter(|kind| kind.name != "LossyQueue") {
        Stage::new(kind).kill_the_peer("wait_in_send", "receiver");
    }
}

#[test]
fn the_next_send_into_a_lossy_queue_says_that_the_receiver_was_killed() {
    let mut stage = Stage::new(KINDS.iter().find(|kind| kind.name == "LossyQueue").unwrap());
    let queue = LossyQueue::<u64>::open_or_create(&stage.segment, "it", 4).unwrap();
    let mut sender = queue.sender().unwrap();
    let mut peer = stage.start("hold", "receiver");
    assert_eq!(sender.send(7), Ok(()));
    assert!(kill_and_reap(&mut peer));
    let gone = SendError::Disconnected { message: 7, peer: Departure::Died { pid: peer.pid() } };
    until("the death is repaired", || sender.send(7) == Err(gone));
}

#[test]
fn who_waits_in_a_tap_is_told_that_the_last_sender_was_killed() {
    let mut stage = Stage::new(KINDS.iter().find(|kind| kind.name == "Queue of bytes").unwrap());
    let queue = Queue::<[u8]>::open_or_create(&stage.segment, "it", 4096).unwrap();
    let mut peer = stage.start("hold", "sender");
    let waits = std::thread::spawn(move || queue.tap().next_timeout(support::LONG));
    assert!(kill_and_reap(&mut peer));
    let gone = gimmal::RecvTimeoutError::Disconnected { peer: Departure::Died { pid: peer.pid() } };
    assert_eq!(waits.join().unwrap(), Err(gone));
}

// --- what else follows, in one process ---

/// A queue of one kind through one set of calls, so that both kinds of rings are asked the same.
macro_rules! ends_come_and_go {
    ($name:ident, $queue:ty, $create:ident) => {
        mod $name {
            use super::*;

            const CLOSED: Departure = Departure::Closed;

            #[test]
            fn before_there_was_somebody_nobody_is_missed() {
                let segment = Segment::anonymous().unwrap();
                let queue = <$queue>::create(&segment, "it", 2).unwrap();
                #[allow(unused_mut)]
                let mut receiver = queue.receiver().unwrap();
                assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
                drop(receiver);
                let other = <$queue>::create(&segment, "other", 2).unwrap();
                #[allow(unused_mut)]
                let mut sender = other.sender().unwrap();
                assert_eq!((sender.try_send(1), sender.try_send(2)), (Ok(()), Ok(())));
                assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
            }

            #[test]
            fn what_a_sender_left_is_there_for_a_receiver_that_comes_later() {
                let segment = Segment::anonymous().unwrap();
                let queue = <$queue>::create(&segment, "it", 2).unwrap();
                queue.sender().unwrap().send(1).unwrap();
                #[allow(unused_mut)]
                let mut receiver = queue.receiver().unwrap();
                assert_eq!(receiver.recv(), Ok(1));
                assert_eq!(receiver.recv(), Err(RecvError::Disconnected { peer: CLOSED }));
            }

            #[test]
            fn a_send_without_a_receiver_gives_the_message_back_though_there_is_room() {
                let segment = Segment::anonymous().unwrap();
                let queue = <$queue>::create(&segment, "it", 4).unwrap();
                #[allow(unused_mut)]
                let mut sender = queue.sender().unwrap();
                let receiver = queue.receiver().unwrap();
                sender.send(1).unwrap();
                drop(receiver);
                assert_eq!(sender.try_send(2), Err(TrySendError::Disconnected { message: 2, peer: CLOSED }));
                assert_eq!(sender.send(3), Err(SendError::Disconnected { message: 3, peer: CLOSED }));
                // What was not received stays.
                assert_eq!(queue.receiver().unwrap().recv(), Ok(1));
            }

            #[test]
            fn with_a_new_end_the_queue_goes_on() {
                let segment = Segment::anonymous().unwrap();
                let queue = <$queue>::create(&segment, "it", 4).unwrap();
                #[allow(unused_mut)]
                let mut receiver = queue.receiver().unwrap();
                for round in 0..3 {
                    #[allow(unused_mut)]
                    let mut sender = queue.sender().unwrap();
                    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "round {round}");
                    sender.send(round).unwrap();
                    drop(sender);
                    assert_eq!(receiver.try_recv(), Ok(round));
                    assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected { peer: CLOSED }));
                }
                drop(receiver);
                #[allow(unused_mut)]
                let mut sender = queue.sender().unwrap();
                for round in 0..3 {
                    assert_eq!(sender.try_send(9), Err(TrySendError::Disconnected { message: 9, peer: CLOSED }));
                    #[allow(unused_mut)]
                    let mut receiver = queue.receiver().unwrap();
                    sender.send(round).unwrap();
                    assert_eq!(receiver.recv(), Ok(round));
                }
            }

            #[test]
            fn a_queue_that_keeps_waiting_tells_nobody() {
                let segment = Segment::anonymous().unwrap();
                let options = QueueOptions::new().capacity(2).keep_waiting(true);
                let queue: $queue = options.$create(&segment, "it").unwrap();
                #[allow(unused_mut)]
                let mut receiver = queue.receiver().unwrap();
                queue.sender().unwrap().send(1).unwrap();
                assert_eq!(receiver.recv(), Ok(1));
                assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
                drop(receiver);
                #[allow(unused_mut)]
                let mut sender = queue.sender().unwrap();
                assert_eq!((sender.try_send(2), sender.try_send(3)), (Ok(()), Ok(())));
                assert_eq!(sender.try_send(4), Err(TrySendError::Full(4)));
            }
        }
    };
}

ends_come_and_go!(many, Queue<u64>, create);
ends_come_and_go!(single, SpscQueue<u64>, create_spsc);

/// A receiver that waits through the death of a sender gets what the next one sends.
#[test]
fn a_queue_that_keeps_waiting_outlives_a_killed_sender() {
    let mut stage = Stage::new(&WAITING);
    let queue = waiting().create::<u64>(&stage.segment, "it").unwrap();
    let mut peer = stage.start("hold", "sender");
    let receiver = queue.receiver().unwrap();
    let waits = std::thread::spawn(move || receiver.recv());
    assert!(kill_and_reap(&mut peer));
    until("the death is repaired", || stage.segment.peers().len() == 1);
    assert!(!waits.is_finished());
    queue.sender().unwrap().send(5).unwrap();
    assert_eq!(waits.join().unwrap(), Ok(5));
}

#[test]
fn who_waits_for_the_drain_does_not_wait_for_a_receiver_that_is_gone() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<[u8]>::create(&segment, "it", 4096).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.send(b"1").unwrap();
    sender.send(b"2").unwrap();
    let waits = std::thread::spawn({
        let queue = queue.clone();
        move || queue.wait_drained(std::time::Duration::MAX)
    });
    assert_eq!(receiver.recv_vec().unwrap(), b"1");
    drop(receiver);
    until("it is told", || waits.is_finished());
    assert!(!waits.join().unwrap());
    assert_eq!(queue.receiver().unwrap().recv_vec().unwrap(), b"2");
    assert!(queue.wait_drained(std::time::Duration::MAX), "all was received before the last receiver went");
}
