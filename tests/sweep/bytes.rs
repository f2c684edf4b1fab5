//! Messages of bytes: runs of blocks in a [`gimmal::Queue`], records in a [`gimmal::SpscQueue`], and messages that pass through it in
//! parts.

use std::mem::forget;
use std::sync::LazyLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gimmal::{
    Queue, QueueOptions, Receiver, Segment, SegmentOptions, SendTimeoutError, Sender, SpscQueue, Tap, TryRecvError,
    TrySendError, spsc,
};
use nix::unistd::Pid;

use super::life::in_corpse;
use super::queues::NEW;
use super::scene::{Fault, LONG, Scene, Stage, on, same, small, stage_of, until};

/// Bytes of a block.
const BLOCK: usize = 1024;
/// As few bytes as a ring can have here.
const UNIT: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };
/// Blocks, or as many messages of one block, that fit.
const CAPACITY: u64 = (UNIT / BLOCK) as u64;
/// A message of the survivor's, behind those of the victim.
const LATE: u64 = 800;
/// Bytes of a message that passes in parts.
const LONG_ONE: usize = 2 * UNIT + 1000;

fn options() -> SegmentOptions {
    small().size((8 << 10) + 4 * UNIT)
}

/// `len` bytes, at least two words, of which each tells the number.
fn bytes(number: u64, len: usize) -> Vec<u8> {
    let words = [number, !number, len as u64 ^ number << 32];
    words.iter().cycle().flat_map(|word| word.to_le_bytes()).take(len).collect()
}

/// A message of so many blocks: not all of the last one.
fn of_blocks(number: u64, blocks: usize) -> Vec<u8> {
    bytes(number, blocks * BLOCK - 24)
}

/// What victims send, made before they are stepped: cut, of one block, of two, and in parts.
struct New {
    cut: Vec<u8>,
    one: Vec<u8>,
    two: Vec<u8>,
    long: Vec<u8>,
}

static NEW_ONES: LazyLock<New> = LazyLock::new(|| New {
    cut: bytes(NEW, 40),
    one: of_blocks(NEW, 1),
    two: of_blocks(NEW, 2),
    long: bytes(NEW, LONG_ONE),
});

fn number(found: &[u8]) -> Result<u64, String> {
    let number = found.first_chunk().map(|first| u64::from_le_bytes(*first));
    let number = number.ok_or_else(|| format!("a message of {} bytes", found.len()))?;
    match *found == *bytes(number, found.len()) {
        true => Ok(number),
        false => Err(format!("a torn message of {} bytes, which begins with {number}", found.len())),
    }
}

/// What a ring holds: messages of one block have passed, and there are some of so many blocks.
#[derive(Clone, Copy)]
pub struct State {
    pub name: &'static str,
    passed: u64,
    held: &'static [usize],
    closed: bool,
}

const fn state(name: &'static str, passed: u64, held: &'static [usize]) -> State {
    State { name, passed, held, closed: false }
}

pub const EMPTY: State = state("empty", 0, &[]);
pub const MIDDLE: State = state("middle", 1, &[1, 2]);
/// What comes next goes around the end, or what is there.
pub const EDGE: State = state("edge", CAPACITY - 1, &[]);
pub const WRAP: State = state("wrap", CAPACITY - 1, &[2, 1]);
pub const FULL: State = state("full", 2, &[2, 1, CAPACITY as usize - 3]);
pub const CLOSED: State = State { closed: true, ..state("closed", 1, &[2]) };

impl State {
    fn content(&self) -> Vec<u64> {
        (self.passed..).take(self.held.len()).collect()
    }

    fn messages(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.content().into_iter().zip(self.held).map(|(number, &blocks)| of_blocks(number, blocks))
    }

    fn has_room(&self, blocks: usize) -> bool {
        !self.closed && self.held.iter().sum::<usize>() + blocks <= CAPACITY as usize
    }
}

type Found = (Vec<u64>, bool);

// --- runs of blocks ---

type Act = fn(&Sender<[u8]>, &Receiver<[u8]>);

pub struct QueueScene {
    state: State,
    act: Act,
    stages: Vec<Found>,
    /// Somebody has died before with a message of two blocks, and while it sent one; the victim repairs.
    repairs: bool,
    /// A tap must have seen what was sent, and nothing else.
    tapped: bool,
}

pub struct Ends {
    queue: Queue<[u8]>,
    sender: Sender<[u8]>,
    receiver: Receiver<[u8]>,
    late: Option<u64>,
    tap: Option<Tap>,
}

impl Ends {
    fn of(queue: Queue<[u8]>) -> Result<Self, String> {
        let (sender, receiver) = (on("sender", queue.sender())?, on("receiver", queue.receiver())?);
        Ok(Self { queue, sender, receiver, late: None, tap: None })
    }

    fn tapped(self, tapped: bool) -> Self {
        Self { tap: tapped.then(|| self.queue.tap()), ..self }
    }

    fn drain(&self) -> Result<Found, String> {
        let mut found = Vec::new();
        loop {
            match self.receiver.try_recv() {
                Ok(frame) => found.push(number(&frame)?),
                Err(TryRecvError::Empty) => return Ok((found, false)),
                Err(TryRecvError::Closed) => return Ok((found, true)),
                Err(e) => return Err(format!("after {found:?}: {e:?}")),
            }
        }
    }

    /// No block has leaked: an empty queue takes as many as it has, one by one, and all at once.
    fn full_round(&self) -> Result<(), String> {
        for blocks in [1, CAPACITY as usize] {
            let count = CAPACITY / blocks as u64;
            for n in 0..count {
                let sent = self.sender.try_send(&of_blocks(n, blocks));
                on(&format!("send {n} of {count}, of {blocks} blocks, into an empty queue"), sent)?;
            }
            same("a send into a full queue", Err(TrySendError::Full(())), self.sender.try_send(b"x"))?;
            same("a full queue's messages", ((0..count).collect(), false), self.drain()?)?;
        }
        Ok(())
    }
}

impl Scene for QueueScene {
    type Ends = Ends;

    fn options(&self) -> SegmentOptions {
        options()
    }

    fn last(&self) -> Stage {
        self.stages.len() - 1
    }

    fn build(&self, segment: &Segment) -> Ends {
        let options = QueueOptions::new().capacity(UNIT).block(BLOCK);
        let ends = Ends::of(options.create(segment, "queue").expect("a queue")).expect("its ends");
        for n in 0..self.state.passed {
            ends.sender.try_send(&of_blocks(n, 1)).expect("room");
            assert_eq!(ends.receiver.try_recv().expect("it is there").len(), BLOCK - 24);
        }
        self.state.messages().for_each(|message| ends.sender.try_send(&message).expect("room"));
        if self.state.closed {
            ends.queue.close();
        }
        ends.tapped(self.tapped)
    }

    fn reopen(&self, segment: &Segment) -> Result<Ends, String> {
        Ends::of(on("open the queue", Queue::open(segment, "queue"))?).map(|ends| ends.tapped(self.tapped))
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a Ends) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        LazyLock::force(&NEW_ONES);
        if self.repairs {
            return Box::new(|| drop(segment.recover()));
        }
        Box::new(|| (self.act)(&ends.sender, &ends.receiver))
    }

    fn begin(&self, _: &Segment, ends: &mut Ends, _: Pid) {
        if self.repairs {
            in_corpse(|| {
                forget(ends.receiver.try_recv().expect("a message"));
                forget(ends.sender.try_reserve(BLOCK + 1).expect("room"));
            });
        }
    }

    fn unrepaired(&self, ends: &mut Ends) -> Result<(), Fault> {
        match ends.sender.try_send(&of_blocks(LATE, 1)) {
            Ok(()) => ends.late = Some(LATE),
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {}
            Err(e) => return Err(format!("a send before repair: {e:?}").into()),
        }
        Ok(())
    }

    fn check(&self, _: &Segment, mut ends: Ends, _: bool) -> Result<Stage, Fault> {
        let mut found = ends.drain()?;
        if let Some(tap) = &mut ends.tap {
            let seen: Result<_, _> = std::iter::from_fn(|| tap.try_next()).map(|message| number(&message)).collect();
            same("what the tap has seen", found.0.clone(), seen?)?;
        }
        if ends.late.is_some() {
            same("the last message", ends.late, found.0.pop())?;
        }
        let stage = stage_of(&self.stages, &found)?;
        if found.1 {
            same("a send into a closed queue", Err(TrySendError::Closed(())), ends.sender.try_send(b"x"))?;
            return Ok(stage);
        }
        ends.full_round()?;
        Ends::of(ends.queue.clone())?.full_round()?;
        ends.full_round()?;
        Ok(stage)
    }
}

fn scene(state: State, act: Act, contents: Vec<Vec<u64>>) -> QueueScene {
    let stages = contents.into_iter().map(|content| (content, state.closed)).collect();
    QueueScene { state, act, stages, repairs: false, tapped: false }
}

/// Without and with a new message of so many blocks, if there is room.
fn sent(state: &State, blocks: usize) -> Vec<Vec<u64>> {
    let content = state.content();
    let new = state.has_room(blocks).then(|| content.iter().copied().chain([NEW]).collect());
    std::iter::once(content).chain(new).collect()
}

/// With and without the first message.
fn received(state: &State) -> Vec<Vec<u64>> {
    let content = state.content();
    (0..=content.len().min(1)).map(|n| content[n..].to_vec()).collect()
}

pub fn send_one(state: State) -> QueueScene {
    scene(state, |sender, _| _ = sender.try_send(&NEW_ONES.one), sent(&state, 1))
}

/// Before a tap's eyes.
pub fn send_one_tapped(state: State) -> QueueScene {
    QueueScene { tapped: true, ..send_one(state) }
}

pub fn send_two_tapped(state: State) -> QueueScene {
    QueueScene { tapped: true, ..send_two(state) }
}

pub fn send_two(state: State) -> QueueScene {
    scene(state, |sender, _| _ = sender.try_send(&NEW_ONES.two), sent(&state, 2))
}

pub fn reserve_and_commit(state: State) -> QueueScene {
    let act: Act = |sender, _| {
        if let Ok(mut grant) = sender.try_reserve(BLOCK + 1) {
            grant[..40].copy_from_slice(&NEW_ONES.cut);
            grant.commit(40);
        }
    };
    scene(state, act, sent(&state, 2))
}

pub fn reserve_and_drop(state: State) -> QueueScene {
    scene(state, |sender, _| drop(sender.try_reserve(BLOCK + 1)), vec![state.content()])
}

pub fn receive(state: State) -> QueueScene {
    scene(state, |_, receiver| drop(receiver.try_recv()), received(&state))
}

pub fn receive_into(state: State) -> QueueScene {
    scene(state, |_, receiver| _ = receiver.try_recv_into(&mut [0; UNIT]), received(&state))
}

pub fn too_short(state: State) -> QueueScene {
    scene(state, |_, receiver| _ = receiver.try_recv_into(&mut [0; 8]), vec![state.content()])
}

pub fn repair() -> QueueScene {
    let state = state("", CAPACITY - 1, &[2]);
    QueueScene { repairs: true, ..scene(state, |_, _| {}, vec![state.content()]) }
}

// --- records ---

#[derive(Clone, Copy)]
enum End {
    Send(fn(spsc::Sender<[u8]>)),
    Receive(fn(spsc::Receiver<[u8]>)),
}

pub struct SpscScene {
    state: State,
    act: End,
    stages: Vec<Vec<u64>>,
}

fn spsc_queue(segment: &Segment) -> SpscQueue<[u8]> {
    QueueOptions::new().capacity(UNIT).keep_waiting(true).create_spsc(segment, "queue").expect("a queue")
}

fn drain(receiver: &mut spsc::Receiver<[u8]>) -> Result<Vec<u64>, String> {
    let mut found = Vec::new();
    loop {
        match receiver.try_recv() {
            Ok(frame) => found.push(number(&frame)?),
            Err(TryRecvError::Empty) => return Ok(found),
            Err(e) => return Err(format!("after {found:?}: {e:?}")),
        }
    }
}

fn spsc_full_round(sender: &mut spsc::Sender<[u8]>, receiver: &mut spsc::Receiver<[u8]>) -> Result<(), String> {
    for len in [BLOCK - 24, UNIT - 8] {
        let count = (UNIT / len) as u64;
        for n in 0..count {
            on(&format!("send {n} of {count}, of {len} bytes"), sender.try_send(&bytes(n, len)))?;
        }
        same("a send into a full queue", Err(TrySendError::Full(())), sender.try_send(&bytes(0, len)))?;
        same("a full queue's messages", (0..count).collect(), drain(receiver)?)?;
    }
    Ok(())
}

/// All that must hold of a queue whose ends can be had, and which was drained.
fn spsc_settle(queue: &SpscQueue<[u8]>) -> Result<(), String> {
    for _ in 0..2 {
        let (mut sender, mut receiver) = (on("the seat", queue.sender())?, on("the seat", queue.receiver())?);
        spsc_full_round(&mut sender, &mut receiver)?;
        sender.release();
        receiver.release();
    }
    Ok(())
}

impl Scene for SpscScene {
    type Ends = SpscQueue<[u8]>;

    fn options(&self) -> SegmentOptions {
        options()
    }

    fn last(&self) -> Stage {
        self.stages.len() - 1
    }

    fn build(&self, segment: &Segment) -> SpscQueue<[u8]> {
        let queue = spsc_queue(segment);
        let (mut sender, mut receiver) = (queue.sender().expect("a seat"), queue.receiver().expect("a seat"));
        for n in 0..self.state.passed {
            sender.try_send(&of_blocks(n, 1)).expect("room");
            assert!(receiver.try_recv().is_ok());
        }
        self.state.messages().for_each(|message| sender.try_send(&message).expect("room"));
        sender.release();
        receiver.release();
        queue
    }

    fn reopen(&self, segment: &Segment) -> Result<SpscQueue<[u8]>, String> {
        on("open the queue", SpscQueue::open(segment, "queue"))
    }

    fn ready<'a>(&'a self, segment: &'a Segment, queue: &'a SpscQueue<[u8]>) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        LazyLock::force(&NEW_ONES);
        match self.act {
            End::Send(act) => {
                let sender = queue.sender().expect("the sender's seat");
                Box::new(move || act(sender))
            }
            End::Receive(act) => {
                let receiver = queue.receiver().expect("the receiver's seat");
                Box::new(move || act(receiver))
            }
        }
    }

    fn check(&self, _: &Segment, queue: SpscQueue<[u8]>, _: bool) -> Result<Stage, Fault> {
        let mut receiver = on("the receiver's seat", queue.receiver())?;
        let stage = stage_of(&self.stages, &drain(&mut receiver)?)?;
        receiver.release();
        spsc_settle(&queue)?;
        Ok(stage)
    }
}

pub fn spsc_send(state: State) -> SpscScene {
    let act = |mut sender: spsc::Sender<[u8]>| {
        let _ = sender.try_send(&NEW_ONES.one);
        forget(sender);
    };
    SpscScene { state, act: End::Send(act), stages: sent(&state, 1) }
}

pub fn spsc_reserve_and_commit(state: State) -> SpscScene {
    let act = |mut sender: spsc::Sender<[u8]>| {
        if let Ok(mut grant) = sender.try_reserve(BLOCK - 24) {
            grant[..40].copy_from_slice(&NEW_ONES.cut);
            grant.commit(40);
        }
        forget(sender);
    };
    SpscScene { state, act: End::Send(act), stages: sent(&state, 1) }
}

pub fn spsc_receive(state: State) -> SpscScene {
    let act = |mut receiver: spsc::Receiver<[u8]>| {
        drop(receiver.try_recv());
        forget(receiver);
    };
    SpscScene { state, act: End::Receive(act), stages: received(&state) }
}

pub fn spsc_receive_into(state: State) -> SpscScene {
    let act = |mut receiver: spsc::Receiver<[u8]>| {
        let _ = receiver.try_recv_into(&mut [0; UNIT]);
        forget(receiver);
    };
    SpscScene { state, act: End::Receive(act), stages: received(&state) }
}

// --- in parts ---

/// A message that is longer than its ring; the survivor has the other end, in a thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// The victim sends, beside a receiver that has a part of another message in hand, whose sender has given up.
    Send,
    /// The victim takes the receiver's seat, whose holder has left in the middle of the message, and receives.
    Receive,
}

pub struct Passing {
    queue: SpscQueue<[u8]>,
    receiver: Option<spsc::Receiver<[u8]>>,
    receiving: Option<JoinHandle<Result<Vec<u64>, String>>>,
    sending: Option<JoinHandle<bool>>,
}

impl Scene for Parts {
    type Ends = Passing;

    fn options(&self) -> SegmentOptions {
        options()
    }

    fn last(&self) -> Stage {
        1
    }

    fn has_snapshots(&self) -> bool {
        false
    }

    fn is_sleepy(&self) -> bool {
        true
    }

    fn build(&self, segment: &Segment) -> Passing {
        let queue = QueueOptions::new().capacity(UNIT).keep_waiting(*self != Self::Send);
        let queue = queue.create_spsc::<[u8]>(segment, "queue").expect("a queue");
        let (mut sender, mut receiver) = (queue.sender().expect("a seat"), queue.receiver().expect("a seat"));
        if *self == Self::Send {
            let given_up = Err(SendTimeoutError::Timeout(()));
            assert_eq!(sender.send_timeout(&bytes(7, LONG_ONE), Duration::from_millis(1)), given_up);
            assert!(receiver.try_recv().is_err());
        }
        sender.release();
        let receiver = match self {
            Self::Send => Some(receiver),
            Self::Receive => {
                receiver.release();
                None
            }
        };
        Passing { queue, receiver, receiving: None, sending: None }
    }

    fn reopen(&self, _: &Segment) -> Result<Passing, String> {
        Err("these have no snapshots".to_owned())
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a Passing) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        LazyLock::force(&NEW_ONES);
        match self {
            Self::Send => {
                let mut sender = ends.queue.sender().expect("the sender's seat");
                Box::new(move || {
                    sender.send_timeout(&NEW_ONES.long, LONG).expect("somebody receives");
                    forget(sender);
                })
            }
            Self::Receive => Box::new(|| {
                let mut receiver = ends.queue.receiver().expect("the receiver's seat");
                drop(receiver.recv_timeout(LONG).expect("somebody sends"));
                forget(receiver);
            }),
        }
    }

    fn begin(&self, _: &Segment, ends: &mut Passing, _: Pid) {
        if let Some(mut receiver) = ends.receiver.take() {
            ends.receiving = Some(std::thread::spawn(move || {
                let mut found = Vec::new();
                while let Ok(frame) = receiver.recv() {
                    found.push(number(&frame)?);
                }
                receiver.release();
                Ok(found)
            }));
            return;
        }
        let queue = ends.queue.clone();
        ends.sending = Some(std::thread::spawn(move || {
            let mut sender = queue.sender().expect("a seat");
            let sent = sender.send_timeout(&NEW_ONES.long, LONG).is_ok();
            sender.release();
            sent
        }));
        // Somebody has had a part of it in hand.
        let mut first = ends.queue.receiver().expect("a seat");
        while first.peek_len().is_err() {}
        assert!(first.try_recv().is_err(), "not all of it fits");
        first.release();
    }

    fn check(&self, _: &Segment, ends: Passing, _: bool) -> Result<Stage, Fault> {
        let found = if let Some(receiving) = ends.receiving {
            until("the receiver is told of the death", LONG, || receiving.is_finished())?;
            let found = receiving.join().map_err(|_| "the receiver panicked".to_owned())??;
            stage_of(&[vec![], vec![NEW]], &found)?
        } else {
            let sending = ends.sending.expect("it was started");
            let mut receiver = on("the receiver's seat", ends.queue.receiver())?;
            let (mut found, begun) = (Vec::new(), Instant::now());
            loop {
                let over = sending.is_finished();
                while let Ok(frame) = receiver.try_recv() {
                    found.push(number(&frame)?);
                }
                if over {
                    break;
                }
                if begun.elapsed() > LONG {
                    return Err("the sender does not come to an end".to_owned().into());
                }
            }
            receiver.release();
            same("the message is sent", true, sending.join().map_err(|_| "the sender panicked".to_owned())?)?;
            stage_of(&[vec![NEW], vec![]], &found)?
        };
        spsc_settle(&ends.queue)?;
        Ok(found)
    }
}
