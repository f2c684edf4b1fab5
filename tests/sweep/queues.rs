//! [`gimmal::Queue`]: sends, receives, batches, close.

use std::mem::forget;

use gimmal::{Departure, Queue, Receiver, Segment, Sender, TryRecvError, TrySendError};

use super::scene::{Fault, NAP, Scene, Stage, on, same, stage_of};

pub const CAPACITY: u64 = 4;
/// Three words, so that a message can be torn.
pub type Message = [u64; 3];
/// Distance of a queue's slots.
pub const STRIDE: usize = 32;
/// The first message of the victim; the survivor's are smaller.
pub const NEW: u64 = 900;

/// A message of the survivor's, behind those of the victim.
const LATE: u64 = 800;

pub fn message(number: u64) -> Message {
    [number, !number, number << 32 | 7]
}

pub fn number(found: Message) -> Result<u64, String> {
    same("a whole message", message(found[0]), found).map(|()| found[0])
}

/// Where a ring is and what it holds.
#[derive(Clone, Copy)]
pub struct State {
    pub name: &'static str,
    /// Messages that have passed through.
    pub passed: u64,
    pub held: u64,
    /// The victim's end is new and has to find its place.
    pub new_end: bool,
    pub closed: bool,
    /// What it holds was sent as one run.
    pub run: bool,
}

const fn state(name: &'static str, passed: u64, held: u64) -> State {
    State { name, passed, held, new_end: false, closed: false, run: false }
}

pub const EMPTY: State = state("empty", 0, 0);
pub const MIDDLE: State = state("middle", 1, 2);
pub const WRAP: State = state("wrap", 3, 2);
pub const FULL: State = state("full", 2, CAPACITY);
pub const FAR: State = State { new_end: true, ..state("new end", 9, 2) };
pub const RUN: State = State { run: true, ..state("run", 2, 3) };
pub const CLOSED: State = State { closed: true, ..state("closed", 1, 2) };

impl State {
    /// What it holds.
    pub fn content(&self) -> Vec<u64> {
        (self.passed..self.passed + self.held).collect()
    }
}

/// What a survivor finds: the messages, and whether the queue is closed.
pub type Found = (Vec<u64>, bool);

pub type Act = fn(&Sender<Message>, &Receiver<Message>);

pub struct QueueScene {
    pub state: State,
    pub act: Act,
    /// What can be found, in order of stages.
    pub stages: Vec<Found>,
    pub sleepy: bool,
}

pub struct Ends {
    pub queue: Queue<Message>,
    pub sender: Sender<Message>,
    pub receiver: Receiver<Message>,
    /// What the survivor has sent before there was a repair.
    late: Option<u64>,
}

impl Ends {
    fn of(queue: Queue<Message>) -> Result<Self, String> {
        let (sender, receiver) = (on("sender", queue.sender())?, on("receiver", queue.receiver())?);
        Ok(Self { queue, sender, receiver, late: None })
    }

    pub fn open(segment: &Segment) -> Result<Self, String> {
        Self::of(on("open the queue", Queue::open(segment, "queue"))?)
    }

    pub fn create(segment: &Segment, state: &State) -> Self {
        let queue = Queue::create(segment, "queue", CAPACITY as usize).expect("a queue");
        let ends = Self::of(queue).expect("its ends");
        for n in 0..state.passed {
            ends.sender.try_send(message(n)).expect("room");
            assert_eq!(ends.receiver.try_recv(), Ok(message(n)));
        }
        let held: Vec<Message> = state.content().into_iter().map(message).collect();
        for messages in held.chunks(if state.run { held.len() } else { 1 }) {
            assert_eq!(ends.sender.try_send_slice(messages), Ok(messages.len()));
        }
        if state.closed {
            ends.queue.close();
        }
        ends
    }

    /// Takes out what is there.
    pub fn drain(&self) -> Result<Found, String> {
        let mut found = Vec::new();
        loop {
            match self.receiver.try_recv() {
                Ok(message) => found.push(number(message)?),
                Err(TryRecvError::Empty) => return Ok((found, false)),
                Err(TryRecvError::Closed) => return Ok((found, true)),
                Err(e) => return Err(format!("after {found:?}: {e:?}")),
            }
        }
    }

    /// No slot has leaked: an empty, open queue takes as many messages as it should, and gives them back in order.
    pub fn full_round(&self) -> Result<(), String> {
        for n in 0..CAPACITY {
            on(&format!("send {n} of {CAPACITY} into an empty queue"), self.sender.try_send(message(n)))?;
        }
        match self.sender.try_send(message(CAPACITY)) {
            Err(TrySendError::Full(_)) => {}
            other => return Err(format!("a send into a full queue: {other:?}")),
        }
        same("a full queue's messages", ((0..CAPACITY).collect(), false), self.drain()?)
    }

    /// Everything that must hold of a queue that was drained, the last thing to be asked of it.
    pub fn settle(self, closed: bool) -> Result<(), String> {
        if closed {
            return match self.sender.try_send(message(0)) {
                Err(TrySendError::Closed(_)) => Ok(()),
                other => Err(format!("a send into a closed queue: {other:?}")),
            };
        }
        self.full_round()?;
        let fresh = Self::of(self.queue.clone())?;
        fresh.full_round()?;
        self.full_round()?;
        let Self { queue, sender, receiver, .. } = self;
        drop((sender, fresh.sender));
        same(
            "a receive when no sender is left",
            Err(TryRecvError::Disconnected { peer: Departure::Closed }),
            receiver.try_recv(),
        )?;
        let sender = on("one more sender", queue.sender())?;
        drop((receiver, fresh.receiver));
        let refused = Err(TrySendError::Disconnected { message: message(0), peer: Departure::Closed });
        same("a send when no receiver is left", refused, sender.try_send(message(0)))
    }
}

impl Scene for QueueScene {
    type Ends = Ends;

    fn last(&self) -> Stage {
        self.stages.len() - 1
    }

    fn is_sleepy(&self) -> bool {
        self.sleepy
    }

    fn build(&self, segment: &Segment) -> Ends {
        Ends::create(segment, &self.state)
    }

    fn reopen(&self, segment: &Segment) -> Result<Ends, String> {
        Ends::open(segment)
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a Ends) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        if !self.state.new_end {
            return Box::new(|| (self.act)(&ends.sender, &ends.receiver));
        }
        let new = Ends::of(ends.queue.clone()).expect("ends of the victim's own");
        Box::new(move || {
            (self.act)(&new.sender, &new.receiver);
            forget(new);
        })
    }

    fn unrepaired(&self, ends: &mut Ends) -> Result<(), Fault> {
        match ends.sender.try_send(message(LATE)) {
            Ok(()) => ends.late = Some(LATE),
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {}
            Err(e) => return Err(format!("a send before repair: {e:?}").into()),
        }
        Ok(())
    }

    fn check(&self, _: &Segment, ends: Ends, _: bool) -> Result<Stage, Fault> {
        let mut found = ends.drain()?;
        if ends.late.is_some() {
            same("the last message", ends.late, found.0.pop())?;
        }
        let stage = stage_of(&self.stages, &found)?;
        ends.settle(found.1)?;
        Ok(stage)
    }
}

/// A scene whose stages are given by what the queue holds before.
fn scene(state: State, act: Act, sleepy: bool, stages: impl Fn(Vec<u64>) -> Vec<Vec<u64>>) -> QueueScene {
    let stages = stages(state.content()).into_iter().map(|content| (content, state.closed)).collect();
    QueueScene { state, act, stages, sleepy }
}

/// The content with 0, 1, … of `new` behind it, as far as there is room.
pub fn sent(content: &[u64], new: u64, state: &State) -> Vec<Vec<u64>> {
    let room = if state.closed { 0 } else { CAPACITY - state.held };
    (0..=new.min(room)).map(|n| content.iter().copied().chain(NEW..NEW + n).collect()).collect()
}

/// The content without its first 0, 1, … messages.
pub fn received(content: &[u64], most: usize) -> Vec<Vec<u64>> {
    (0..=most.min(content.len())).map(|n| content[n..].to_vec()).collect()
}

/// The first and the last stage.
fn all_or_nothing(mut stages: Vec<Vec<u64>>) -> Vec<Vec<u64>> {
    let end = stages.len().saturating_sub(1).max(1);
    stages.drain(1..end);
    stages
}

pub fn send(state: State) -> QueueScene {
    let act: Act = |sender, _| _ = sender.try_send(message(NEW));
    scene(state, act, false, |content| sent(&content, 1, &state))
}

/// A full queue loses its oldest message first.
pub fn force_send(state: State) -> QueueScene {
    let act: Act = |sender, _| _ = sender.force_send(message(NEW));
    scene(state, act, false, |content| {
        if state.closed || state.held < CAPACITY {
            return sent(&content, 1, &state);
        }
        let kept = content[1..].to_vec();
        vec![content, kept.clone(), kept.into_iter().chain([NEW]).collect()]
    })
}

pub fn send_slice(state: State) -> QueueScene {
    let act: Act = |sender, _| _ = sender.try_send_slice(&[message(NEW), message(NEW + 1), message(NEW + 2)]);
    scene(state, act, false, |content| all_or_nothing(sent(&content, 3, &state)))
}

pub fn receive(state: State) -> QueueScene {
    let act: Act = |_, receiver| _ = receiver.try_recv();
    scene(state, act, false, |content| received(&content, 1))
}

pub fn receive_many(state: State) -> QueueScene {
    let act: Act = |_, receiver| _ = receiver.try_recv_many(&mut Vec::new(), 3);
    scene(state, act, false, |content| {
        let stages = received(&content, 3);
        if state.run { all_or_nothing(stages) } else { stages }
    })
}

/// The first of a run of three, by a batch that is too small for it.
pub fn receive_part() -> QueueScene {
    let act: Act = |_, receiver| _ = receiver.try_recv_many(&mut Vec::new(), 2);
    scene(RUN, act, false, |content| vec![content.clone(), content[2..].to_vec()])
}

pub fn reserve_and_commit(state: State) -> QueueScene {
    let act: Act = |sender, _| {
        if let Ok(mut slot) = sender.try_reserve() {
            *slot = message(NEW);
            slot.commit();
        }
    };
    scene(state, act, false, |content| sent(&content, 1, &state))
}

pub fn reserve_and_abort(state: State) -> QueueScene {
    let act: Act = |sender, _| {
        if let Ok(mut slot) = sender.try_reserve() {
            *slot = message(NEW);
        }
    };
    scene(state, act, false, |content| vec![content])
}

pub fn receive_in_place(state: State) -> QueueScene {
    let act: Act = |_, receiver| drop(receiver.try_recv_guard().map(|guard| number(*guard)));
    scene(state, act, false, |content| received(&content, 1))
}

pub fn give_back(state: State) -> QueueScene {
    let act: Act = |_, receiver| {
        if let Ok(guard) = receiver.try_recv_guard() {
            guard.give_back();
        }
    };
    scene(state, act, false, |content| vec![content])
}

pub fn send_asleep() -> QueueScene {
    let act: Act = |sender, _| _ = sender.send_timeout(message(NEW), NAP);
    scene(FULL, act, true, |content| vec![content])
}

pub fn receive_asleep() -> QueueScene {
    let act: Act = |_, receiver| _ = receiver.recv_timeout(NAP);
    scene(EMPTY, act, true, |content| vec![content])
}

pub fn close(state: State) -> QueueScene {
    let act: Act = |sender, _| sender.close();
    QueueScene { state, act, stages: vec![(state.content(), false), (state.content(), true)], sleepy: false }
}
