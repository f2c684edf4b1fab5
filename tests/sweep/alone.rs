//! The victim has the only ends on its side of a queue, and gives them up while somebody sleeps on the other side.

use std::mem::forget;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use gimmal::{Departure, Queue, Receiver, RecvError, Segment, SendError};
use nix::unistd::Pid;

use super::queues::{CAPACITY, Message, message};
use super::scene::{Fault, PROMPT, Scene, Stage, same, stage_of};
use super::wake::Sleeper;

/// What the victim does, and who sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// Drops the last sender; a receiver sleeps.
    DropSender,
    /// The same; another receiver has the last message in hand, which could still come back, and lets it go after the death.
    DropSenderBesideGuard,
    /// Drops the last receiver; a sender sleeps.
    DropReceiver,
    /// Closes the queue; else as `DropSenderBesideGuard`.
    CloseBesideGuard,
}

/// How a call ended that has slept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Closed,
    Gone(Departure),
    Nothing,
}

pub struct AloneEnds {
    queue: Queue<Message>,
    sleeper: Option<Sleeper<Told>>,
    /// Holds a message in place until it is told not to.
    guard: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    victim: u32,
}

/// A thread that reads a message in place, until it is told to let go of it.
fn hold(receiver: Receiver<Message>) -> (mpsc::Sender<()>, JoinHandle<()>) {
    let (release, released) = mpsc::channel();
    let (holds, held) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        // With the end of one receive it has seen that there is a sender: only news make it look again.
        receiver.try_recv().expect("a message");
        let guard = receiver.try_recv_guard().expect("a message");
        holds.send(()).expect("somebody waits");
        // An error is the end, too.
        let _ = released.recv();
        drop(guard);
    });
    held.recv().expect("it has the message");
    (release, thread)
}

impl Alone {
    fn has_guard(self) -> bool {
        matches!(self, Self::DropSenderBesideGuard | Self::CloseBesideGuard)
    }

    fn is_awake(self, ends: &mut AloneEnds, what: &str) -> Result<(), Fault> {
        if let Some((release, thread)) = ends.guard.take() {
            // It sleeps on as long as the message could come back.
            let sleeper = ends.sleeper.as_ref().expect("it was started");
            same("told while a message is in hand", true, sleeper.is_awake(Duration::ZERO).is_err())?;
            drop(release);
            thread.join().map_err(|_| "the holder of the message panicked".to_owned())?;
        }
        let sleeper = ends.sleeper.as_ref().expect("it was started");
        sleeper.is_awake(PROMPT).map_err(|e| Fault::Late(format!("{what}, but {e}")))
    }
}

impl Scene for Alone {
    type Ends = AloneEnds;

    fn last(&self) -> Stage {
        1
    }

    fn has_snapshots(&self) -> bool {
        false
    }

    fn is_watched(&self) -> bool {
        true
    }

    fn build(&self, segment: &Segment) -> AloneEnds {
        let queue = Queue::<Message>::create(segment, "queue", CAPACITY as usize).expect("a queue");
        let sender = queue.sender().expect("a sender");
        match self {
            Self::DropReceiver => (0..CAPACITY).for_each(|n| sender.try_send(message(n)).expect("room")),
            _ if self.has_guard() => (0..2).for_each(|n| sender.try_send(message(n)).expect("room")),
            _ => {}
        }
        AloneEnds { queue, sleeper: None, guard: None, victim: 0 }
    }

    fn reopen(&self, _: &Segment) -> Result<AloneEnds, String> {
        Err("these have no snapshots".to_owned())
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a AloneEnds) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        match self {
            Self::DropReceiver => {
                let receiver = ends.queue.receiver().expect("a receiver");
                Box::new(move || drop(receiver))
            }
            Self::CloseBesideGuard => {
                let sender = ends.queue.sender().expect("a sender");
                Box::new(move || {
                    sender.close();
                    forget(sender);
                })
            }
            _ => {
                let sender = ends.queue.sender().expect("a sender");
                Box::new(move || drop(sender))
            }
        }
    }

    fn begin(&self, _: &Segment, ends: &mut AloneEnds, victim: Pid) {
        ends.victim = victim.as_raw() as u32;
        if *self == Self::DropReceiver {
            let sender = ends.queue.sender().expect("a sender");
            ends.sleeper = Some(Sleeper::start(move || match sender.send(message(CAPACITY)) {
                Err(SendError::Disconnected { message: back, peer }) if back == message(CAPACITY) => Told::Gone(peer),
                _ => Told::Nothing,
            }));
            return;
        }
        if self.has_guard() {
            ends.guard = Some(hold(ends.queue.receiver().expect("a receiver")));
        }
        let receiver = ends.queue.receiver().expect("a receiver");
        ends.sleeper = Some(Sleeper::start(move || match receiver.recv() {
            Err(RecvError::Closed) => Told::Closed,
            Err(RecvError::Disconnected { peer }) => Told::Gone(peer),
            _ => Told::Nothing,
        }));
    }

    fn finished(&self, _: &Segment, ends: &mut AloneEnds) -> Result<(), Fault> {
        self.is_awake(ends, "the victim has done everything")
    }

    fn check(&self, _: &Segment, mut ends: AloneEnds, _: bool) -> Result<Stage, Fault> {
        self.is_awake(&mut ends, "repair should have told it")?;
        let told = ends.sleeper.expect("it was started").result()?;
        let end = if *self == Self::CloseBesideGuard { Told::Closed } else { Told::Gone(Departure::Closed) };
        Ok(stage_of(&[Told::Gone(Departure::Died { pid: ends.victim }), end], &told)?)
    }
}
