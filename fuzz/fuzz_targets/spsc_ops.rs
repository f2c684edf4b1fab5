//! Arbitrary operations on a real SPSC queue, whose seats are taken, handed over and left by two participants, against a
//! `VecDeque`.
//!
//! Everything happens in one thread, so every answer is determined.
#![no_main]

use std::collections::VecDeque;
use std::time::Duration;

use arbitrary::Arbitrary;
use gimmal::spsc::{Receiver, Sender};
use gimmal::{
    Error, RecvError, RecvTimeoutError, Segment, SendError, SendTimeoutError, SpscQueue, TryRecvError, TrySendError,
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Case {
    capacity: u8,
    keep_waiting: bool,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    TrySend,
    SendAtOnce,
    Send,
    TrySendSlice(u8),
    SendSlice(u8),
    TryReserveSlice { most: u8, commit: Option<u8> },
    ReserveSlice { most: u8, commit: Option<u8> },
    TryRecv,
    RecvAtOnce,
    Recv,
    TryRecvMany(u8),
    RecvMany(u8),
    TryRecvSlice { most: u8, release: Option<u8> },
    RecvSlice { most: u8, release: Option<u8> },
    TryIter(u8),
    Poll,
    TakeSender { second: bool },
    TakeReceiver { second: bool },
    DropSender,
    DropReceiver,
    ReleaseSender,
    ReleaseReceiver,
    Close,
    Look,
}

/// Why a call ends at once without a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Wait,
    Closed,
    Disconnected,
}

struct Model {
    inside: VecDeque<u64>,
    capacity: usize,
    closed: bool,
    keep_waiting: bool,
    next: u64,
    /// Whether the last one who sat there has left for good.
    sender_gone: bool,
    receiver_gone: bool,
}

impl Model {
    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn room(&self) -> usize {
        self.capacity - self.inside.len()
    }

    fn send_fails(&self) -> Option<Reason> {
        if self.closed {
            Some(Reason::Closed)
        } else if !self.keep_waiting && self.receiver_gone {
            Some(Reason::Disconnected)
        } else {
            (self.room() == 0).then_some(Reason::Wait)
        }
    }

    fn receive_fails(&self) -> Option<Reason> {
        if !self.inside.is_empty() {
            None
        } else if self.closed {
            Some(Reason::Closed)
        } else if !self.keep_waiting && self.sender_gone {
            Some(Reason::Disconnected)
        } else {
            Some(Reason::Wait)
        }
    }
}

fuzz_target!(|case: Case| {
    let capacity = usize::from(case.capacity % 64) + 1;
    let segment = Segment::options().size(16 << 10).max_participants(2).max_objects(2);
    let segment = segment.sentinel(false).anonymous().unwrap();
    let other = Segment::options().sentinel(false).from_fd(&segment).unwrap();
    let options = SpscQueue::<u64>::options().capacity(capacity).keep_waiting(case.keep_waiting);
    let first = options.create_spsc::<u64>(&segment, "queue").unwrap();
    let second = SpscQueue::<u64>::open(&other, "queue").unwrap();
    let queue = |is_second| if is_second { &second } else { &first };
    let mut model = Model {
        inside: VecDeque::new(),
        capacity: capacity.next_power_of_two(),
        closed: false,
        keep_waiting: case.keep_waiting,
        next: 0,
        sender_gone: false,
        receiver_gone: false,
    };
    let (mut sender, mut receiver): (Option<Sender<u64>>, Option<Receiver<u64>>) = (None, None);
    for operation in &case.operations {
        match *operation {
            Operation::TakeSender { second } => match queue(second).sender() {
                Ok(taken) => {
                    assert!(sender.is_none(), "two sit on one seat");
                    (sender, model.sender_gone) = (Some(taken), false);
                }
                Err(Error::SeatTaken { pid }) => assert!(sender.is_some() && pid == std::process::id()),
                Err(e) => panic!("{e}"),
            },
            Operation::TakeReceiver { second } => match queue(second).receiver() {
                Ok(taken) => {
                    assert!(receiver.is_none(), "two sit on one seat");
                    (receiver, model.receiver_gone) = (Some(taken), false);
                }
                Err(Error::SeatTaken { pid }) => assert!(receiver.is_some() && pid == std::process::id()),
                Err(e) => panic!("{e}"),
            },
            Operation::DropSender => model.sender_gone |= sender.take().is_some(),
            Operation::DropReceiver => model.receiver_gone |= receiver.take().is_some(),
            Operation::ReleaseSender => drop(sender.take().map(Sender::release)),
            Operation::ReleaseReceiver => drop(receiver.take().map(Receiver::release)),
            Operation::Look => {
                for queue in [&first, &second] {
                    assert_eq!(queue.len(), model.inside.len());
                    assert_eq!(queue.is_empty(), model.inside.is_empty());
                    assert_eq!(queue.is_full(), model.room() == 0);
                    assert_eq!(queue.is_closed(), model.closed);
                }
                assert_eq!(segment.snapshot().unwrap().objects[0].depth, [model.inside.len() as u64]);
            }
            _ => {
                send(operation, &mut model, sender.as_mut());
                receive(operation, &mut model, receiver.as_mut());
            }
        }
    }
    drop(receiver);
    assert!(first.receiver().unwrap().try_iter().eq(model.inside.drain(..)));
});

fn send(operation: &Operation, model: &mut Model, sender: Option<&mut Sender<u64>>) {
    let Some(sender) = sender else { return };
    let (fails, room) = (model.send_fails(), model.room());
    match *operation {
        Operation::TrySend | Operation::SendAtOnce | Operation::Send => {
            let value = model.next();
            let got = match operation {
                Operation::TrySend => match sender.try_send(value) {
                    Ok(()) => None,
                    Err(TrySendError::Full(v)) if v == value => Some(Reason::Wait),
                    Err(TrySendError::Closed(v)) if v == value => Some(Reason::Closed),
                    Err(TrySendError::Disconnected { message: v, .. }) if v == value => Some(Reason::Disconnected),
                    Err(e) => panic!("{e}"),
                },
                Operation::Send if fails != Some(Reason::Wait) => match sender.send(value) {
                    Ok(()) => None,
                    Err(SendError::Closed(v)) if v == value => Some(Reason::Closed),
                    Err(SendError::Disconnected { message: v, .. }) if v == value => Some(Reason::Disconnected),
                    Err(e) => panic!("{e}"),
                },
                _ => match sender.send_timeout(value, Duration::ZERO) {
                    Ok(()) => None,
                    Err(SendTimeoutError::Timeout(v)) if v == value => Some(Reason::Wait),
                    Err(SendTimeoutError::Closed(v)) if v == value => Some(Reason::Closed),
                    Err(SendTimeoutError::Disconnected { message: v, .. }) if v == value => Some(Reason::Disconnected),
                    Err(e) => panic!("{e}"),
                },
            };
            assert_eq!(got, fails);
            if got.is_none() {
                model.inside.push_back(value);
            }
        }
        Operation::TrySendSlice(length) | Operation::SendSlice(length) => {
            let values: Vec<u64> = (0..length % 80).map(|_| model.next()).collect();
            let refused = fails.filter(|&reason| reason != Reason::Wait && !values.is_empty());
            let blocks = matches!(operation, Operation::SendSlice(_)) && (values.len() <= room || refused.is_some());
            let sent = if blocks {
                let sent = sender.send_slice(&values);
                sent.map(|()| values.len()).map_err(|e| {
                    assert_eq!(e.sent, 0);
                    send_reason(e.reason)
                })
            } else {
                sender.try_send_slice(&values).map_err(send_reason)
            };
            match refused {
                Some(refused) => assert_eq!(sent, Err(refused)),
                None => {
                    let fits = values.len().min(room);
                    assert_eq!(sent, Ok(fits));
                    model.inside.extend(&values[..fits]);
                }
            }
        }
        Operation::TryReserveSlice { most, commit } | Operation::ReserveSlice { most, commit } => {
            let most = usize::from(most % 80);
            let fails = fails.filter(|_| most > 0);
            let got = if matches!(operation, Operation::ReserveSlice { .. }) && fails != Some(Reason::Wait) {
                sender.reserve_slice(most).map_err(send_reason)
            } else {
                sender.try_reserve_slice(most).map_err(|e| match e {
                    TrySendError::Full(()) => Reason::Wait,
                    TrySendError::Closed(()) => Reason::Closed,
                    TrySendError::Disconnected { .. } => Reason::Disconnected,
                    e => panic!("{e}"),
                })
            };
            assert_eq!(got.as_ref().err().copied(), fails);
            let Ok(mut slots) = got else { return };
            // A row may be shorter than what there is room for, and is never empty.
            assert!(slots.len() <= most.min(room) && (slots.is_empty() == (most == 0)));
            let values: Vec<u64> = slots.iter().map(|_| model.next()).collect();
            slots.copy_from_slice(&values);
            // `None`: it is dropped.
            if let Some(count) = commit {
                let count = usize::from(count) % (slots.len() + 1);
                slots.commit(count);
                model.inside.extend(&values[..count]);
            }
        }
        Operation::Close => {
            sender.close();
            model.closed = true;
        }
        _ => {}
    }
}

fn receive(operation: &Operation, model: &mut Model, receiver: Option<&mut Receiver<u64>>) {
    let Some(receiver) = receiver else { return };
    let fails = model.receive_fails();
    match *operation {
        Operation::TryRecv | Operation::RecvAtOnce | Operation::Recv => {
            let got = match operation {
                Operation::TryRecv => receiver.try_recv().map_err(try_reason),
                Operation::Recv if fails != Some(Reason::Wait) => receiver.recv().map_err(recv_reason),
                _ => receiver.recv_timeout(Duration::ZERO).map_err(|e| match e {
                    RecvTimeoutError::Timeout => Reason::Wait,
                    RecvTimeoutError::Closed => Reason::Closed,
                    RecvTimeoutError::Disconnected { .. } => Reason::Disconnected,
                    e => panic!("{e}"),
                }),
            };
            assert_eq!(got, fails.map_or_else(|| Ok(model.inside.pop_front().unwrap()), Err));
        }
        Operation::TryRecvMany(most) | Operation::RecvMany(most) => {
            let (most, mut buffer) = (usize::from(most % 80), vec![7]);
            let fails = fails.filter(|_| most > 0);
            let got = if matches!(operation, Operation::RecvMany(_)) && fails != Some(Reason::Wait) {
                receiver.recv_many(&mut buffer, most).map_err(recv_reason)
            } else {
                receiver.try_recv_many(&mut buffer, most).map_err(try_reason)
            };
            // A batch is what one look has seen: it may be a part of what is there, and never nothing.
            let count = buffer.len() - 1;
            assert!(count <= most && count <= model.inside.len() && (count > 0) == (fails.is_none() && most > 0));
            assert_eq!(got, fails.map_or(Ok(count), Err));
            assert!(buffer.into_iter().skip(1).eq(model.inside.drain(..count)));
        }
        Operation::TryRecvSlice { most, release } | Operation::RecvSlice { most, release } => {
            let most = usize::from(most % 80);
            let fails = fails.filter(|_| most > 0);
            let got = if matches!(operation, Operation::RecvSlice { .. }) && fails != Some(Reason::Wait) {
                receiver.recv_slice(most).map_err(recv_reason)
            } else {
                receiver.try_recv_slice(most).map_err(try_reason)
            };
            assert_eq!(got.as_ref().err().copied(), fails);
            let Ok(guard) = got else { return };
            assert!(guard.len() <= most.min(model.inside.len()) && (guard.is_empty() == (most == 0)));
            assert!(guard.iter().eq(model.inside.iter().take(guard.len())));
            // `None`: it is dropped, and all of them are received.
            let count = release.map_or(guard.len(), |count| usize::from(count) % (guard.len() + 1));
            match release {
                Some(_) => guard.release(count),
                None => drop(guard),
            }
            model.inside.drain(..count);
        }
        Operation::TryIter(most) => {
            let count = usize::from(most).min(model.inside.len());
            assert!(receiver.try_iter().take(usize::from(most)).eq(model.inside.drain(..count)));
        }
        Operation::Poll => assert_eq!(receiver.poll(Duration::ZERO), fails != Some(Reason::Wait)),
        _ => {}
    }
}

fn send_reason(e: SendError<()>) -> Reason {
    match e {
        SendError::Closed(()) => Reason::Closed,
        SendError::Disconnected { .. } => Reason::Disconnected,
        e => panic!("{e}"),
    }
}

fn recv_reason(e: RecvError) -> Reason {
    match e {
        RecvError::Closed => Reason::Closed,
        RecvError::Disconnected { .. } => Reason::Disconnected,
        e => panic!("{e}"),
    }
}

fn try_reason(e: TryRecvError) -> Reason {
    match e {
        TryRecvError::Empty => Reason::Wait,
        TryRecvError::Closed => Reason::Closed,
        TryRecvError::Disconnected { .. } => Reason::Disconnected,
        e => panic!("{e}"),
    }
}
