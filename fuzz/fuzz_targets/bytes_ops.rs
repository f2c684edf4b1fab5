//! Messages of bytes: arbitrary operations on a queue and on an SPSC queue against a model of each; or with arbitrary edits of their
//! words and bytes in between, or made by a thread meanwhile, when nothing may panic, hang, or touch what is not theirs.
#![no_main]

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arbitrary::Arbitrary;
use gimmal::{Queue, QueueOptions, RecvBytesError, Segment, SpscQueue, TryRecvError, TrySendError};
use libfuzzer_sys::fuzz_target;

/// Bytes of each ring.
const SIZE: usize = 4096;
/// Of the queue.
const BLOCK: usize = 64;
const RING_HEADER: u64 = 768;

#[derive(Arbitrary, Debug)]
enum Operation {
    Send(u16),
    Vectored(u16, u16),
    Reserve {
        len: u16,
        commit: Option<u16>,
    },
    Recv,
    Into(u16),
    Max(u16),
    GiveBack,
    Peek,
    Poll,
    /// SPSC: a message in parts whose sender's time is up.
    Begin(u16),
    /// SPSC: others take the seats.
    Sit {
        sender: bool,
        receiver: bool,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Small(u8),
    Negative(u8),
    Power(u8),
    /// A header of a part, or a slot word: round, state, owner.
    Marked {
        mark: u8,
        low: u16,
    },
    Word {
        round: u8,
        state: u8,
        owner: u8,
    },
    Any(u64),
}

impl Number {
    fn get(self) -> u64 {
        match self {
            Self::Small(n) => n.into(),
            Self::Negative(n) => u64::from(n).wrapping_neg(),
            Self::Power(n) => 1 << (n % 64),
            Self::Marked { mark, low } => u64::from(mark % 4) << 62 | u64::from(low),
            Self::Word { round, state, owner } => {
                u64::from(round) << 12 | u64::from(state % 8) << 9 | u64::from(owner % 4)
            }
            Self::Any(n) => n,
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    /// A word of the header: positions, hints, roles, `streaming`.
    Header(u8),
    /// A slot's word or length, of the queue.
    Slot(u8),
    /// Bytes of a message.
    Data(u16),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Edit {
    spsc: bool,
    place: Place,
    value: Number,
}

#[derive(Arbitrary, Debug)]
enum Case {
    Queue(Vec<Operation>),
    Spsc(Vec<Operation>),
    /// Each operation after an edit, while a thread writes the two others in turn.
    Hostile {
        operations: Vec<(Option<Edit>, bool, Operation)>,
        meanwhile: Option<(Edit, Number)>,
    },
}

fn message(number: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (number.wrapping_mul(31) ^ at.wrapping_mul(7)) as u8).collect()
}

/// What a ring holds, in order: messages, and what is no message but takes room.
#[derive(Default)]
struct Model {
    entries: VecDeque<(Option<Vec<u8>>, usize)>,
    number: u64,
}

impl Model {
    fn used(&self) -> usize {
        self.entries.iter().map(|(_, takes)| takes).sum()
    }

    fn front(&self) -> Option<&Vec<u8>> {
        self.entries.iter().find_map(|(message, _)| message.as_ref())
    }

    /// What is in front of the first message is gone when somebody has looked.
    fn trim(&mut self) {
        while self.entries.front().is_some_and(|(message, _)| message.is_none()) {
            self.entries.pop_front();
        }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        self.trim();
        self.entries.pop_front()?.0
    }

    fn next(&mut self, len: usize) -> Vec<u8> {
        self.number += 1;
        message(self.number, len)
    }
}

fn is_right<E>(result: Result<(), TrySendError<E>>, fits: bool, too_large: bool) {
    match result {
        Ok(()) => assert!(fits),
        Err(TrySendError::Full(_)) => assert!(!fits && !too_large),
        Err(TrySendError::TooLarge { .. }) => assert!(too_large),
        Err(_) => panic!("neither full nor too large"),
    }
}

/// The operations that both kinds of ring have, on `$sender` and `$receiver`.
macro_rules! operate {
    ($operation:expr, $model:ident, $sender:ident, $receiver:ident, $takes:expr, $room:expr, $most:expr) => {
        match *$operation {
            Operation::Send(len) => {
                let message = $model.next(usize::from(len) % 5000);
                let (takes, too_large) = ($takes(message.len()), message.len() > $most);
                let fits = !too_large && $model.used() + takes <= $room;
                is_right($sender.try_send(&message), fits, too_large);
                if fits {
                    $model.entries.push_back((Some(message), takes));
                }
            }
            Operation::Vectored(front, behind) => {
                let message = $model.next(usize::from(front) % 2500 + usize::from(behind) % 2500);
                let parts = message.split_at(usize::from(front) % 2500);
                let (takes, too_large) = ($takes(message.len()), message.len() > $most);
                let fits = !too_large && $model.used() + takes <= $room;
                let parts = [std::io::IoSlice::new(parts.0), std::io::IoSlice::new(parts.1)];
                is_right($sender.try_send_vectored(&parts), fits, too_large);
                if fits {
                    $model.entries.push_back((Some(message), takes));
                }
            }
            Operation::Recv => {
                let received = $receiver.try_recv().map(|frame| frame.to_vec());
                assert_eq!(received, $model.pop().ok_or(TryRecvError::Empty));
            }
            Operation::GiveBack => match ($receiver.try_recv(), $model.front()) {
                (Ok(frame), Some(front)) => {
                    assert_eq!(*frame, **front);
                    frame.give_back();
                    $model.trim();
                }
                (Err(TryRecvError::Empty), None) => $model.trim(),
                (result, front) => panic!("{result:?} {front:?}"),
            },
            Operation::Poll => {
                assert_eq!($receiver.poll(Duration::ZERO), $model.front().is_some());
                $model.trim();
            }
            Operation::Into(room) | Operation::Max(room) if $model.front().is_some() => {
                // What is left of messages in parts has a length, too, until somebody looks.
                assert!($receiver.poll(Duration::ZERO));
                let (room, front) = (usize::from(room) % 5000, $model.front().unwrap().clone());
                let mut buffer = vec![0; room];
                let copies = matches!($operation, Operation::Into(_));
                let result = match copies {
                    true => $receiver.try_recv_into(&mut buffer),
                    false => $receiver
                        .recv_max(room)
                        .map(|frame| {
                            buffer[..frame.len()].copy_from_slice(&frame);
                            frame.len()
                        })
                        .map_err(|e| match e {
                            RecvBytesError::TooLong { len, .. } => RecvBytesError::TooShort { needed: len },
                            _ => panic!("{e:?}"),
                        }),
                };
                match result {
                    Ok(len) => assert_eq!(buffer[..len], *$model.pop().unwrap()),
                    Err(RecvBytesError::TooShort { needed }) => {
                        assert!(needed == front.len() && needed > room);
                        $model.trim();
                    }
                    Err(e) => panic!("{e:?}"),
                }
            }
            Operation::Peek if $model.front().is_some() => {
                assert!($receiver.poll(Duration::ZERO));
                assert_eq!($receiver.peek_len(), Ok($model.front().unwrap().len()));
                $model.trim();
            }
            _ => {}
        }
    };
}

fn queue(segment: &Segment) -> Queue<[u8]> {
    QueueOptions::new().capacity(SIZE).block(BLOCK).create(segment, "queue").unwrap()
}

fn run_queue(operations: &[Operation]) {
    let segment = Segment::options().size(32 << 10).sentinel(false).anonymous().unwrap();
    let queue = queue(&segment);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut model = Model::default();
    let takes = |len: usize| len.div_ceil(BLOCK).max(1);
    for operation in operations {
        if let Operation::Reserve { len, commit } = *operation {
            let (len, number) = (usize::from(len) % 5000, model.next(0));
            drop(number);
            let fits = len <= SIZE && model.used() + takes(len) <= SIZE / BLOCK;
            match sender.try_reserve(len) {
                Ok(mut grant) => {
                    assert!(fits && grant.len() == len);
                    let bytes = commit.map(|commit| message(model.number, usize::from(commit) % (len + 1)));
                    match &bytes {
                        Some(bytes) => {
                            grant[..bytes.len()].copy_from_slice(bytes);
                            grant.commit(bytes.len());
                        }
                        None => drop(grant),
                    }
                    model.entries.push_back((bytes, takes(len)));
                    model.trim();
                }
                Err(e) => assert!(!fits && (e == TrySendError::Full(()) || len > SIZE)),
            }
            continue;
        }
        operate!(operation, model, sender, receiver, takes, SIZE / BLOCK, SIZE);
        // Holes in front are free at once.
        model.trim();
        assert_eq!(queue.len(), model.entries.iter().filter(|(message, _)| message.is_some()).count());
    }
}

fn run_spsc(operations: &[Operation]) {
    let segment = Segment::options().size(32 << 10).sentinel(false).anonymous().unwrap();
    let queue = SpscQueue::<[u8]>::create(&segment, "queue", SIZE).unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut model = Model::default();
    let takes = |len: usize| 8 + len.next_multiple_of(8);
    for operation in operations {
        match *operation {
            Operation::Reserve { len, commit } => {
                let len = usize::from(len) % 5000;
                let bytes = commit.map(|commit| model.next(usize::from(commit) % (len + 1)));
                let fits = model.used() + takes(len) <= SIZE;
                match sender.try_reserve(len) {
                    Ok(mut grant) => {
                        assert!(fits && grant.len() == len);
                        if let Some(bytes) = bytes {
                            grant[..bytes.len()].copy_from_slice(&bytes);
                            grant.commit(bytes.len());
                            model.entries.push_back((Some(bytes.clone()), takes(bytes.len())));
                        }
                    }
                    Err(e) => assert!(!fits && (e == TrySendError::Full(()) || takes(len) > SIZE)),
                }
            }
            Operation::Begin(len) => {
                let message = model.next(SIZE - 7 + usize::from(len) % 20_000);
                assert!(sender.send_timeout(&message, Duration::ZERO).is_err());
                let parts = (SIZE - model.used()) / (SIZE / 4);
                model.entries.push_back((None, parts * (SIZE / 4)));
            }
            Operation::Sit { sender: sits, receiver: too } => {
                if sits {
                    sender.release();
                    sender = queue.sender().unwrap();
                }
                if too {
                    receiver.release();
                    receiver = queue.receiver().unwrap();
                }
            }
            _ => operate!(operation, model, sender, receiver, takes, SIZE, SIZE - 8),
        }
        assert_eq!(queue.len(), model.used());
    }
}

/// Where the rings begin, and their bytes.
struct Offsets([(u64, u64); 2]);

impl Offsets {
    fn of(file: &File) -> Self {
        let word = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).unwrap();
            u64::from_le_bytes(bytes)
        };
        let ring = |index: u64| word(word(56) + index * 192 + 16);
        let data =
            |ring: u64, slots: u64| (ring + (RING_HEADER + slots * 16).next_multiple_of(64)).next_multiple_of(4096);
        Self([(ring(0), data(ring(0), (SIZE / BLOCK) as u64)), (ring(1), data(ring(1), 0))])
    }

    fn write(&self, file: &File, edit: Edit) {
        let (ring, data) = self.0[usize::from(edit.spsc)];
        let at = match edit.place {
            Place::Header(word) => ring + u64::from(word) % (RING_HEADER / 8) * 8,
            Place::Slot(word) if !edit.spsc => ring + RING_HEADER + u64::from(word) % 128 * 8,
            Place::Slot(word) => data + u64::from(word) % 4 * 1024,
            Place::Data(at) => data + u64::from(at) % (SIZE as u64 / 8) * 8,
        };
        file.write_all_at(&edit.value.get().to_le_bytes(), at).unwrap();
    }
}

fn run_hostile(operations: &[(Option<Edit>, bool, Operation)], meanwhile: Option<(Edit, Number)>) {
    let segment = Segment::options().size(32 << 10).sentinel(false).anonymous().unwrap();
    let (queue, spsc) = (queue(&segment), SpscQueue::<[u8]>::create(&segment, "spsc", SIZE).unwrap());
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let (mut spsc_sender, mut spsc_receiver) = (spsc.sender().ok(), spsc.receiver().ok());
    let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
    let (offsets, over) = (Offsets::of(&file), AtomicBool::new(false));
    let mut buffer = vec![0; 6000];
    std::thread::scope(|scope| {
        if let Some((edit, other)) = meanwhile {
            let (file, offsets, over) = (&file, &offsets, &over);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    offsets.write(file, edit);
                    offsets.write(file, Edit { value: other, ..edit });
                }
            });
        }
        for (edit, on_spsc, operation) in operations.iter().take(40) {
            edit.iter().for_each(|&edit| offsets.write(&file, edit));
            let len = |len: u16| usize::from(len) % 6000;
            if !on_spsc {
                match *operation {
                    Operation::Send(n) => drop(sender.try_send(&message(1, len(n)))),
                    Operation::Vectored(n, _) => drop(sender.send_timeout(&message(1, len(n)), Duration::ZERO)),
                    Operation::Reserve { len: n, commit } => {
                        if let Ok(grant) = sender.try_reserve(len(n)) {
                            let room = grant.len();
                            if commit.is_some() { grant.commit(room) } else { drop(grant) }
                        }
                    }
                    Operation::Recv | Operation::Begin(_) => drop(receiver.try_recv().map(|frame| frame.to_vec())),
                    Operation::Into(room) => drop(receiver.try_recv_into(&mut buffer[..len(room)])),
                    Operation::Max(_) => drop(receiver.recv_timeout(Duration::ZERO).map(|frame| frame.into_vec())),
                    Operation::GiveBack => drop(receiver.try_recv().map(|frame| frame.give_back())),
                    Operation::Peek => drop((receiver.peek_len(), queue.len(), queue.is_full())),
                    Operation::Poll => drop(receiver.poll(Duration::ZERO)),
                    Operation::Sit { .. } => drop(segment.recover()),
                }
                continue;
            }
            if let Operation::Sit { sender: sits, receiver: too } = *operation {
                if sits {
                    drop(spsc_sender.take());
                }
                if too {
                    spsc_receiver.take().into_iter().for_each(gimmal::spsc::Receiver::release);
                }
            }
            spsc_sender = spsc_sender.or_else(|| spsc.sender().ok());
            spsc_receiver = spsc_receiver.or_else(|| spsc.receiver().ok());
            let (Some(sender), Some(receiver)) = (&mut spsc_sender, &mut spsc_receiver) else { continue };
            match *operation {
                Operation::Send(n) => drop(sender.try_send(&message(1, len(n)))),
                Operation::Vectored(n, _) | Operation::Begin(n) => {
                    drop(sender.send_timeout(&message(1, len(n) * 2), Duration::ZERO));
                }
                Operation::Reserve { len: n, commit } => {
                    if let Ok(grant) = sender.try_reserve(len(n)) {
                        let room = grant.len();
                        if commit.is_some() { grant.commit(room) } else { drop(grant) }
                    }
                }
                Operation::Recv => drop(receiver.try_recv().map(|frame| frame.to_vec())),
                Operation::Into(room) => drop(receiver.try_recv_into(&mut buffer[..len(room)])),
                Operation::Max(_) => drop(receiver.recv_timeout(Duration::ZERO).map(|frame| frame.into_vec())),
                Operation::GiveBack => drop(receiver.try_recv().map(|frame| frame.give_back())),
                Operation::Peek => drop((receiver.peek_len(), spsc.len(), spsc.is_full())),
                Operation::Poll | Operation::Sit { .. } => drop(receiver.poll(Duration::ZERO)),
            }
        }
        over.store(true, Relaxed);
    });
}

fuzz_target!(|case: Case| match case {
    Case::Queue(operations) => run_queue(&operations),
    Case::Spsc(operations) => run_spsc(&operations),
    Case::Hostile { operations, meanwhile } => run_hostile(&operations, meanwhile),
});
