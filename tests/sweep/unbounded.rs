//! [`gimmal::Queue::unbounded`]: chunks of memory that come and go, messages that lie across two of them, the limit, later laps.

use std::os::fd::AsFd;

use gimmal::{Queue, QueueOptions, Receiver, Segment, SegmentOptions, Sender, TryRecvError, TrySendError};
use nix::sys::stat::fstat;

use super::scene::{Fault, Scene, Stage, on, same, small, stage_of};

/// So large that a chunk has few slots. Only its ends are written.
type Large = [u64; 2047];

/// Messages of bytes take two blocks.
const LEN: usize = 5000;
const BLOCK: usize = 4096;

/// The first message of the victim; the survivor's are smaller.
const NEW: u64 = 9000;
/// A message of the survivor's, behind those of the victim.
const LATE: u64 = 8000;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Large,
    Bytes,
}

impl Sort {
    /// Messages of a chunk. The ring has four, two of which may have memory.
    pub const fn chunk(self) -> u64 {
        match self {
            Self::Large => 64,
            Self::Bytes => 256,
        }
    }

    /// Bytes of a chunk.
    const fn bytes(self) -> u64 {
        match self {
            Self::Large => 64 << 14,
            Self::Bytes => 512 * (4096 + 16),
        }
    }
}

/// What the victim does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Send,
    /// Three, as a batch.
    SendSlice,
    Receive,
    /// Three, as a batch.
    ReceiveMany,
    /// Takes one, and gives it back.
    GiveBack,
    /// Reserves, and thinks better of it.
    Abort,
}

pub struct UnboundedScene {
    pub sort: Sort,
    pub act: Act,
    /// Messages that have passed through.
    pub passed: u64,
    pub held: u64,
    /// An odd number of blocks comes before, so that messages lie across chunks.
    pub odd: bool,
}

/// A row: `passed` messages have come and gone, and `held` are there.
pub const fn large(act: Act, passed: u64, held: u64) -> UnboundedScene {
    UnboundedScene { sort: Sort::Large, act, passed, held, odd: false }
}

/// The same with messages of two blocks each, the first of which begins at an odd one.
pub const fn across(act: Act, passed: u64, held: u64) -> UnboundedScene {
    UnboundedScene { sort: Sort::Bytes, act, passed, held, odd: true }
}

enum Line {
    Large(Queue<Large>, Sender<Large>, Receiver<Large>),
    Bytes(Queue<[u8]>, Sender<[u8]>, Receiver<[u8]>),
}

pub struct Ends {
    line: Line,
    /// Memory before the first message.
    empty: u64,
    late: bool,
}

fn full<T>(e: &TrySendError<T>) -> bool {
    matches!(e, TrySendError::Full(_))
}

impl Line {
    fn large(queue: Queue<Large>) -> Result<Self, String> {
        let (sender, receiver) = (on("sender", queue.sender())?, on("receiver", queue.receiver())?);
        Ok(Self::Large(queue, sender, receiver))
    }

    fn bytes(queue: Queue<[u8]>) -> Result<Self, String> {
        let (sender, receiver) = (on("sender", queue.sender())?, on("receiver", queue.receiver())?);
        Ok(Self::Bytes(queue, sender, receiver))
    }

    fn fresh(&self) -> Result<Self, String> {
        match self {
            Self::Large(queue, ..) => Self::large(queue.clone()),
            Self::Bytes(queue, ..) => Self::bytes(queue.clone()),
        }
    }

    /// `false`: it is full.
    fn send(&self, number: u64) -> Result<bool, String> {
        match self {
            Self::Large(_, sender, _) => match sender.try_reserve() {
                Ok(mut slot) => {
                    (slot[0], slot[2046]) = (number, !number);
                    slot.commit();
                    Ok(true)
                }
                Err(e) if full(&e) => Ok(false),
                Err(e) => Err(format!("a send: {e:?}")),
            },
            Self::Bytes(_, sender, _) => match sender.try_reserve(LEN) {
                Ok(mut grant) => {
                    grant[..8].copy_from_slice(&number.to_le_bytes());
                    grant[LEN - 8..].copy_from_slice(&(!number).to_le_bytes());
                    grant.commit(LEN);
                    Ok(true)
                }
                Err(e) if full(&e) => Ok(false),
                Err(e) => Err(format!("a send: {e:?}")),
            },
        }
    }

    /// `None`: there is nothing.
    fn receive(&self) -> Result<Option<u64>, String> {
        let (number, check) = match self {
            Self::Large(_, _, receiver) => match receiver.try_recv_guard() {
                Ok(guard) => (guard[0], guard[2046]),
                Err(TryRecvError::Empty) => return Ok(None),
                Err(e) => return Err(format!("a receive: {e:?}")),
            },
            Self::Bytes(_, _, receiver) => match receiver.try_recv() {
                Ok(frame) => {
                    same("the length of a message", LEN, frame.len())?;
                    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight"));
                    (word(&frame[..8]), word(&frame[LEN - 8..]))
                }
                Err(TryRecvError::Empty) => return Ok(None),
                Err(e) => return Err(format!("a receive: {e:?}")),
            },
        };
        same("the end of a message", !number, check)?;
        Ok(Some(number))
    }

    fn drain(&self) -> Result<Vec<u64>, String> {
        std::iter::from_fn(|| self.receive().transpose()).collect()
    }

    /// What the victim does, with everything ready that needs nobody else.
    fn act(&self, act: Act) -> Box<dyn FnOnce() + '_> {
        match (act, self) {
            (Act::Send, _) => Box::new(|| _ = self.send(NEW)),
            (Act::Receive, _) => Box::new(|| _ = self.receive()),
            (Act::SendSlice, Self::Large(_, sender, _)) => {
                let of = |number: u64| std::array::from_fn(|n| if n == 2046 { !number } else { number });
                let batch = [NEW, NEW + 1, NEW + 2].map(of);
                Box::new(move || _ = sender.try_send_slice(&batch))
            }
            (Act::ReceiveMany, Self::Large(_, _, receiver)) => {
                let mut buffer = Vec::with_capacity(3);
                Box::new(move || _ = receiver.try_recv_many(&mut buffer, 3))
            }
            (Act::GiveBack, Self::Large(_, _, receiver)) => {
                Box::new(|| receiver.try_recv_guard().expect("a message").give_back())
            }
            (Act::GiveBack, Self::Bytes(_, _, receiver)) => {
                Box::new(|| receiver.try_recv().expect("a message").give_back())
            }
            (Act::Abort, Self::Large(_, sender, _)) => Box::new(|| drop(sender.try_reserve())),
            (Act::Abort, Self::Bytes(_, sender, _)) => Box::new(|| drop(sender.try_reserve(LEN))),
            (Act::SendSlice | Act::ReceiveMany, Self::Bytes(..)) => unreachable!("bytes have no batches"),
        }
    }
}

impl UnboundedScene {
    fn line(&self, segment: &Segment) -> Result<Line, String> {
        match self.sort {
            Sort::Large => Line::large(on("open", Queue::open(segment, "queue"))?),
            Sort::Bytes => Line::bytes(on("open", Queue::open(segment, "queue"))?),
        }
    }

    fn content(&self) -> Vec<u64> {
        (self.passed..self.passed + self.held).collect()
    }

    fn stages(&self) -> Vec<Vec<u64>> {
        let content = self.content();
        let received = |n: usize| content[n..].to_vec();
        let sent = |n: u64| [content.clone(), (NEW..NEW + n).collect()].concat();
        let blocks = if self.odd { 1 } else { 0 };
        // At the limit there is room only if the first chunk is consumed.
        let room = self.held < 2 * self.sort.chunk() - blocks;
        match self.act {
            Act::Send if room => vec![sent(0), sent(1)],
            // A run ends with its chunk; what comes behind it is one of its own.
            Act::SendSlice => vec![sent(0), sent(1), sent(3)],
            Act::Receive => vec![received(0), received(1)],
            Act::ReceiveMany => (0..=3).map(received).collect(),
            Act::Send | Act::GiveBack | Act::Abort => vec![content],
        }
    }

    /// Everything that must hold of a drained queue: there is room up to its limit, several times, and no memory is left.
    fn settle(&self, segment: &Segment, ends: &Ends) -> Result<(), String> {
        let fresh = ends.line.fresh()?;
        let (most, chunk) = (2 * self.sort.chunk(), self.sort.chunk());
        for line in [&ends.line, &fresh] {
            let mut sent = 0;
            while line.send(sent)? {
                sent += 1;
            }
            if !(most - chunk..=most).contains(&sent) {
                return Err(format!("{sent} messages fit, not {most} or up to a chunk less"));
            }
            same("what was sent up to the limit", (0..sent).collect(), line.drain()?)?;
            let left = memory(segment).saturating_sub(ends.empty);
            if left > 2 * self.sort.bytes() {
                return Err(format!("{left} bytes of memory are left of {sent} messages that were received"));
            }
        }
        Ok(())
    }
}

/// Bytes of memory that the segment has.
fn memory(segment: &Segment) -> u64 {
    fstat(segment.as_fd()).expect("fstat").st_blocks as u64 * 512
}

impl Scene for UnboundedScene {
    type Ends = Ends;

    /// Each of its queues has room for all participants' looks.
    fn options(&self) -> SegmentOptions {
        small().size(64 << 10)
    }

    fn last(&self) -> Stage {
        self.stages().len() - 1
    }

    /// Most of it lies behind the segment.
    fn has_snapshots(&self) -> bool {
        false
    }

    /// But not the words of its chunks, and who looks.
    fn is_watched(&self) -> bool {
        true
    }

    /// Those that make many words, or clear a chunk.
    fn is_long(&self) -> bool {
        self.sort == Sort::Bytes || self.held >= 64 || !matches!(self.act, Act::Send | Act::Abort)
    }

    fn build(&self, segment: &Segment) -> Ends {
        let options = QueueOptions::new().unbounded(1).block(BLOCK);
        match self.sort {
            Sort::Large => _ = options.create::<Large>(segment, "queue").expect("a queue"),
            Sort::Bytes => _ = options.create::<[u8]>(segment, "queue").expect("a queue"),
        }
        let empty = memory(segment);
        let line = self.line(segment).expect("ends");
        if let (Line::Bytes(_, sender, receiver), true) = (&line, self.odd) {
            sender.try_send(&[0]).expect("room");
            assert_eq!(*receiver.try_recv().expect("a message"), [0]);
        }
        for n in 0..self.passed {
            assert_eq!(line.send(n), Ok(true));
            assert_eq!(line.receive(), Ok(Some(n)));
        }
        self.content().into_iter().for_each(|n| assert_eq!(line.send(n), Ok(true)));
        Ends { line, empty, late: false }
    }

    fn reopen(&self, _: &Segment) -> Result<Ends, String> {
        Err("it has no snapshots".to_owned())
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a Ends) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        ends.line.act(self.act)
    }

    fn unrepaired(&self, ends: &mut Ends) -> Result<(), Fault> {
        ends.late = ends.line.send(LATE)?;
        Ok(())
    }

    fn check(&self, segment: &Segment, ends: Ends, _: bool) -> Result<Stage, Fault> {
        let mut found = ends.line.drain()?;
        if ends.late {
            same("the last message", Some(LATE), found.pop())?;
        }
        let stage = stage_of(&self.stages(), &found)?;
        self.settle(segment, &ends)?;
        Ok(stage)
    }
}
