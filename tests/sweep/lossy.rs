//! [`gimmal::LossyQueue`]: sends that make room for themselves, and receives beside them.

use std::mem::forget;

use gimmal::{LossyQueue, LossyReceiver, LossySender, QueueOptions, Segment, TryRecvError};

use super::queues::{CAPACITY, Message, NEW, State, message, number};
use super::scene::{Fault, Scene, Stage, on, same, stage_of};

/// What the victim does with the end that is its own.
#[derive(Clone, Copy)]
pub enum Act {
    Send(fn(LossySender<Message>)),
    Receive(fn(LossyReceiver<Message>)),
}

pub struct LossyScene {
    state: State,
    act: Act,
    stages: Vec<Vec<u64>>,
}

type Queue = LossyQueue<Message>;

fn drain(receiver: &mut LossyReceiver<Message>) -> Result<Vec<u64>, String> {
    let mut found = Vec::new();
    loop {
        match receiver.try_recv() {
            Ok(message) => found.push(number(message)?),
            Err(TryRecvError::Empty) => return Ok(found),
            Err(e) => return Err(format!("after {found:?}: {e:?}")),
        }
    }
}

impl Scene for LossyScene {
    type Ends = Queue;

    fn last(&self) -> Stage {
        self.stages.len() - 1
    }

    fn build(&self, segment: &Segment) -> Queue {
        let options = QueueOptions::new().capacity(CAPACITY as usize).keep_waiting(true);
        let queue = options.create_lossy(segment, "queue").expect("a queue");
        let (mut sender, mut receiver) = (queue.sender().expect("a seat"), queue.receiver().expect("a seat"));
        for n in 0..self.state.passed + self.state.held {
            sender.send(message(n)).expect("it is open");
            if n < self.state.passed {
                assert_eq!(receiver.try_recv(), Ok(message(n)));
            }
        }
        sender.release();
        receiver.release();
        queue
    }

    fn reopen(&self, segment: &Segment) -> Result<Queue, String> {
        on("open the queue", Queue::open(segment, "queue"))
    }

    fn ready<'a>(&'a self, segment: &'a Segment, queue: &'a Queue) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        match self.act {
            Act::Send(act) => {
                let sender = queue.sender().expect("the sender's seat");
                Box::new(move || act(sender))
            }
            Act::Receive(act) => {
                let receiver = queue.receiver().expect("the receiver's seat");
                Box::new(move || act(receiver))
            }
        }
    }

    fn check(&self, _: &Segment, queue: Queue, _: bool) -> Result<Stage, Fault> {
        let mut receiver = on("the receiver's seat", queue.receiver())?;
        let stage = stage_of(&self.stages, &drain(&mut receiver)?)?;
        let mut sender = on("the sender's seat", queue.sender())?;
        for n in 0..CAPACITY + 2 {
            on("a send", sender.send(message(n)))?;
        }
        same("the newest messages", (2..CAPACITY + 2).collect(), drain(&mut receiver)?)?;
        same("how many were lost", 2, receiver.lost())?;
        Ok(stage)
    }
}

/// A full one loses its oldest message first.
pub fn send(state: State) -> LossyScene {
    let content = state.content();
    let mut stages = vec![content.clone()];
    let kept = if state.held == CAPACITY { content[1..].to_vec() } else { content };
    if kept.len() < stages[0].len() {
        stages.push(kept.clone());
    }
    stages.push(kept.into_iter().chain([NEW]).collect());
    let act = |mut sender: LossySender<Message>| {
        sender.send(message(NEW)).expect("it is open");
        forget(sender);
    };
    LossyScene { state, act: Act::Send(act), stages }
}

pub fn receive(state: State) -> LossyScene {
    let content = state.content();
    let stages = (0..=content.len().min(1)).map(|n| content[n..].to_vec()).collect();
    let act = |mut receiver: LossyReceiver<Message>| {
        let _ = receiver.try_recv();
        forget(receiver);
    };
    LossyScene { state, act: Act::Receive(act), stages }
}
