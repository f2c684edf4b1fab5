//! [`gimmal::SpscQueue`]: sends, receives, batches, and the ways to take a seat and to leave it.

use std::mem::forget;

use gimmal::spsc::{Receiver, Sender};
use gimmal::{Departure, Segment, SpscQueue, TryRecvError, TrySendError};

use super::queues::{CAPACITY, Message, NEW, State, message, number, received, sent};
use super::scene::{Fault, NAP, Scene, Stage, on, same, stage_of};

/// What the victim does with the end that is its own.
#[derive(Clone, Copy)]
pub enum Act {
    Send(fn(Sender<Message>)),
    Receive(fn(Receiver<Message>)),
    /// It has no end yet.
    Sit(fn(&SpscQueue<Message>), Side),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Sender,
    Receiver,
}

/// What the other end learns when there is nothing to receive, or no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Somebody may still come.
    Nothing,
    Gone,
    Closed,
}

type Found = (Vec<u64>, Told);

pub struct SpscScene {
    state: State,
    act: Act,
    stages: Vec<Found>,
    sleepy: bool,
}

pub struct Ends {
    queue: SpscQueue<Message>,
    sender: Option<Sender<Message>>,
    receiver: Option<Receiver<Message>>,
}

fn drain(receiver: &mut Receiver<Message>) -> Result<Found, String> {
    let mut found = Vec::new();
    loop {
        match receiver.try_recv() {
            Ok(message) => found.push(number(message)?),
            Err(TryRecvError::Empty) => return Ok((found, Told::Nothing)),
            Err(TryRecvError::Disconnected { .. }) => return Ok((found, Told::Gone)),
            Err(TryRecvError::Closed) => return Ok((found, Told::Closed)),
            Err(e) => return Err(format!("after {found:?}: {e:?}")),
        }
    }
}

/// What the sender is told, and the message that went into the queue if it is told nothing.
fn ask(sender: &mut Sender<Message>) -> Result<(Told, Option<u64>), String> {
    const PROBE: u64 = 800;
    match sender.try_send(message(PROBE)) {
        Ok(()) => Ok((Told::Nothing, Some(PROBE))),
        Err(TrySendError::Full(_)) => Ok((Told::Nothing, None)),
        Err(TrySendError::Disconnected { .. }) => Ok((Told::Gone, None)),
        Err(TrySendError::Closed(_)) => Ok((Told::Closed, None)),
        Err(e) => Err(format!("a send: {e:?}")),
    }
}

fn full_round(sender: &mut Sender<Message>, receiver: &mut Receiver<Message>) -> Result<(), String> {
    for n in 0..CAPACITY {
        on(&format!("send {n} of {CAPACITY} into an empty queue"), sender.try_send(message(n)))?;
    }
    same("a send into a full queue", Err(TrySendError::Full(message(9))), sender.try_send(message(9)))?;
    same("a full queue's messages", ((0..CAPACITY).collect(), Told::Nothing), drain(receiver)?)
}

impl SpscScene {
    fn victim(&self) -> Side {
        match self.act {
            Act::Send(_) | Act::Sit(_, Side::Sender) => Side::Sender,
            Act::Receive(_) | Act::Sit(_, Side::Receiver) => Side::Receiver,
        }
    }

    /// The end that is not the victim's.
    fn other(&self, queue: SpscQueue<Message>) -> Result<Ends, String> {
        let mut ends = Ends { queue, sender: None, receiver: None };
        match self.victim() {
            Side::Sender => ends.receiver = Some(on("the receiver's seat", ends.queue.receiver())?),
            Side::Receiver => ends.sender = Some(on("the sender's seat", ends.queue.sender())?),
        }
        Ok(ends)
    }
}

impl Scene for SpscScene {
    type Ends = Ends;

    fn last(&self) -> Stage {
        self.stages.len() - 1
    }

    fn is_sleepy(&self) -> bool {
        self.sleepy
    }

    fn build(&self, segment: &Segment) -> Ends {
        let queue = SpscQueue::<Message>::create(segment, "queue", CAPACITY as usize).expect("a queue");
        let (mut sender, mut receiver) = (queue.sender().expect("a seat"), queue.receiver().expect("a seat"));
        for n in 0..self.state.passed + self.state.held {
            sender.try_send(message(n)).expect("room");
            if n < self.state.passed {
                assert_eq!(receiver.try_recv(), Ok(message(n)));
            }
        }
        if self.victim() == Side::Sender {
            sender.release();
            Ends { queue, sender: None, receiver: Some(receiver) }
        } else {
            receiver.release();
            Ends { queue, sender: Some(sender), receiver: None }
        }
    }

    fn reopen(&self, segment: &Segment) -> Result<Ends, String> {
        self.other(on("open the queue", SpscQueue::open(segment, "queue"))?)
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a Ends) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        match self.act {
            Act::Send(act) => {
                let sender = ends.queue.sender().expect("the sender's seat");
                Box::new(move || act(sender))
            }
            Act::Receive(act) => {
                let receiver = ends.queue.receiver().expect("the receiver's seat");
                Box::new(move || act(receiver))
            }
            Act::Sit(act, _) => Box::new(move || act(&ends.queue)),
        }
    }

    fn check(&self, _: &Segment, mut ends: Ends, _: bool) -> Result<Stage, Fault> {
        let found = match (&mut ends.sender, &mut ends.receiver) {
            (_, Some(receiver)) => drain(receiver)?,
            (Some(sender), None) => {
                let (told, probe) = ask(sender)?;
                let receiver = ends.receiver.insert(on("the receiver's seat", ends.queue.receiver())?);
                let (mut content, _) = drain(receiver)?;
                if probe.is_some() {
                    same("the last message", probe, content.pop())?;
                }
                (content, told)
            }
            (None, None) => unreachable!("one of the ends is the survivor's"),
        };
        let stage = stage_of(&self.stages, &found)?;
        let sender = ends.sender.map_or_else(|| ends.queue.sender(), Ok);
        let (mut sender, mut receiver) = (on("the sender's seat", sender)?, ends.receiver.expect("it has drained"));
        if found.1 == Told::Closed {
            same("a send after close", Err(TrySendError::Closed(message(0))), sender.try_send(message(0)))?;
            return Ok(stage);
        }
        full_round(&mut sender, &mut receiver)?;
        sender.release();
        receiver.release();
        let (mut sender, mut receiver) = (on("the seat", ends.queue.sender())?, on("the seat", ends.queue.receiver())?);
        full_round(&mut sender, &mut receiver)?;
        drop(sender);
        same(
            "a receive without a sender",
            Err(TryRecvError::Disconnected { peer: Departure::Closed }),
            receiver.try_recv(),
        )?;
        Ok(stage)
    }
}

/// A scene in which the other end is told of the victim's death.
fn scene(state: State, act: Act, sleepy: bool, contents: Vec<Vec<u64>>) -> SpscScene {
    let stages = contents.into_iter().map(|content| (content, Told::Gone)).collect();
    SpscScene { state, act, stages, sleepy }
}

/// The first and the last of the stages: batches are sent and received as one.
fn at_once(mut stages: Vec<Vec<u64>>) -> Vec<Vec<u64>> {
    if stages.len() > 2 {
        stages.drain(1..stages.len() - 1);
    }
    stages
}

pub fn send(state: State) -> SpscScene {
    let act = |mut sender: Sender<Message>| {
        let _ = sender.try_send(message(NEW));
        forget(sender);
    };
    scene(state, Act::Send(act), false, sent(&state.content(), 1, &state))
}

pub fn send_slice(state: State) -> SpscScene {
    let act = |mut sender: Sender<Message>| {
        let _ = sender.try_send_slice(&[message(NEW), message(NEW + 1), message(NEW + 2)]);
        forget(sender);
    };
    scene(state, Act::Send(act), false, at_once(sent(&state.content(), 3, &state)))
}

pub fn receive(state: State) -> SpscScene {
    let act = |mut receiver: Receiver<Message>| {
        let _ = receiver.try_recv();
        forget(receiver);
    };
    scene(state, Act::Receive(act), false, received(&state.content(), 1))
}

pub fn receive_many(state: State) -> SpscScene {
    let act = |mut receiver: Receiver<Message>| {
        let _ = receiver.try_recv_many(&mut Vec::new(), 3);
        forget(receiver);
    };
    scene(state, Act::Receive(act), false, at_once(received(&state.content(), 3)))
}

pub fn reserve_and_commit(state: State) -> SpscScene {
    let act = |mut sender: Sender<Message>| {
        if let Ok(mut slot) = sender.try_reserve() {
            *slot = message(NEW);
            slot.commit();
        }
        forget(sender);
    };
    scene(state, Act::Send(act), false, sent(&state.content(), 1, &state))
}

pub fn receive_in_place(state: State) -> SpscScene {
    let act = |mut receiver: Receiver<Message>| {
        drop(receiver.try_recv_guard().map(|guard| number(*guard)));
        forget(receiver);
    };
    scene(state, Act::Receive(act), false, received(&state.content(), 1))
}

/// How many slots from `position` on lie in a row.
fn in_a_row(position: u64) -> u64 {
    CAPACITY - position % CAPACITY
}

pub fn reserve_slice_and_commit(state: State) -> SpscScene {
    let act = |mut sender: Sender<Message>| {
        if let Ok(mut slots) = sender.try_reserve_slice(3) {
            let count = slots.iter_mut().zip(NEW..).map(|(slot, n)| *slot = message(n)).count();
            slots.commit(count);
        }
        forget(sender);
    };
    let row = in_a_row(state.passed + state.held).min(3);
    scene(state, Act::Send(act), false, at_once(sent(&state.content(), row, &state)))
}

pub fn receive_slice(state: State) -> SpscScene {
    let act = |mut receiver: Receiver<Message>| {
        drop(receiver.try_recv_slice(3).map(|guard| guard.iter().map(|&found| number(found)).collect::<Vec<_>>()));
        forget(receiver);
    };
    let row = in_a_row(state.passed).min(3) as usize;
    scene(state, Act::Receive(act), false, at_once(received(&state.content(), row)))
}

/// The second of them stays.
pub fn receive_slice_in_part(state: State) -> SpscScene {
    let act = |mut receiver: Receiver<Message>| {
        if let Ok(guard) = receiver.try_recv_slice(2) {
            guard.release(1);
        }
        forget(receiver);
    };
    scene(state, Act::Receive(act), false, received(&state.content(), 1))
}

pub fn send_asleep(state: State) -> SpscScene {
    let act = |mut sender: Sender<Message>| {
        let _ = sender.send_timeout(message(NEW), NAP);
        forget(sender);
    };
    scene(state, Act::Send(act), true, vec![state.content()])
}

pub fn receive_asleep(state: State) -> SpscScene {
    let act = |mut receiver: Receiver<Message>| {
        let _ = receiver.recv_timeout(NAP);
        forget(receiver);
    };
    scene(state, Act::Receive(act), true, vec![state.content()])
}

fn leaving(state: State, act: Act, told: &[Told]) -> SpscScene {
    SpscScene { state, act, stages: told.iter().map(|&told| (state.content(), told)).collect(), sleepy: false }
}

pub fn drop_sender(state: State) -> SpscScene {
    leaving(state, Act::Send(drop), &[Told::Gone])
}

pub fn drop_receiver(state: State) -> SpscScene {
    leaving(state, Act::Receive(drop), &[Told::Gone])
}

pub fn release_sender(state: State) -> SpscScene {
    leaving(state, Act::Send(Sender::release), &[Told::Gone, Told::Nothing])
}

pub fn release_receiver(state: State) -> SpscScene {
    leaving(state, Act::Receive(Receiver::release), &[Told::Gone, Told::Nothing])
}

pub fn close(state: State) -> SpscScene {
    let act = |mut sender: Sender<Message>| {
        sender.close();
        forget(sender);
    };
    leaving(state, Act::Send(act), &[Told::Gone, Told::Closed])
}

pub fn sit_sender(state: State) -> SpscScene {
    let act = |queue: &SpscQueue<Message>| forget(queue.sender());
    leaving(state, Act::Sit(act, Side::Sender), &[Told::Nothing, Told::Gone])
}

pub fn sit_receiver(state: State) -> SpscScene {
    let act = |queue: &SpscQueue<Message>| forget(queue.receiver());
    leaving(state, Act::Sit(act, Side::Receiver), &[Told::Nothing, Told::Gone])
}
