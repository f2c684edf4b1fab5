//! Arbitrary operations on a real MPMC queue, through several handles of two participants, against a `VecDeque`.
//!
//! Everything happens in one thread, so every answer is determined: order, Full, Empty, Closed, Disconnected, `len`.
#![no_main]

use std::collections::VecDeque;
use std::time::Duration;

use arbitrary::Arbitrary;
use gimmal::{
    Queue, Receiver, RecvError, RecvTimeoutError, Segment, SendError, SendTimeoutError, Sender, TryRecvError,
    TrySendError,
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Case {
    capacity: u8,
    keep_waiting: bool,
    full_fences: bool,
    operations: Vec<Operation>,
}

/// The numbers choose a handle, modulo how many there are, and how many messages.
#[derive(Arbitrary, Debug)]
enum Operation {
    TrySend(u8),
    SendAtOnce(u8),
    Send(u8),
    TrySendSlice(u8, u8),
    SendSlice(u8, u8),
    Reserve { which: u8, commit: bool },
    RecvGuard { which: u8, give_back: bool },
    TryRecv(u8),
    RecvAtOnce(u8),
    Recv(u8),
    TryRecvMany(u8, u8),
    RecvMany(u8, u8),
    TryIter(u8),
    NewSender { second: bool },
    NewReceiver { second: bool },
    CloneSender(u8),
    CloneReceiver(u8),
    DropSender(u8),
    DropReceiver(u8),
    Close,
    Look,
    Recover,
}

struct Model {
    inside: VecDeque<u32>,
    capacity: usize,
    closed: bool,
    keep_waiting: bool,
    next: u32,
    had_sender: bool,
    had_receiver: bool,
}

/// Why a send or a receive ends at once without a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Wait,
    Closed,
    Disconnected,
}

impl Model {
    fn next(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn room(&self) -> usize {
        self.capacity - self.inside.len()
    }

    /// `None` if a send succeeds.
    fn send_fails(&self, receivers: usize) -> Option<Reason> {
        if self.closed {
            Some(Reason::Closed)
        } else if !self.keep_waiting && self.had_receiver && receivers == 0 {
            Some(Reason::Disconnected)
        } else {
            (self.room() == 0).then_some(Reason::Wait)
        }
    }

    /// `None` if a receive succeeds.
    fn receive_fails(&self, senders: usize) -> Option<Reason> {
        if !self.inside.is_empty() {
            None
        } else if self.closed {
            Some(Reason::Closed)
        } else if !self.keep_waiting && self.had_sender && senders == 0 {
            Some(Reason::Disconnected)
        } else {
            Some(Reason::Wait)
        }
    }
}

fn pick<T>(from: &[T], which: u8) -> Option<&T> {
    from.get(usize::from(which) % from.len().max(1))
}

fuzz_target!(|case: Case| {
    let capacity = usize::from(case.capacity % 64) + 1;
    let segment = Segment::options()
        .size(16 << 10)
        .max_participants(2)
        .max_objects(2)
        .full_fences(case.full_fences)
        .sentinel(false);
    let segment = segment.anonymous().unwrap();
    let other = Segment::options().sentinel(false).from_fd(&segment).unwrap();
    let options = Queue::<u32>::options().capacity(capacity).keep_waiting(case.keep_waiting);
    let first = options.create::<u32>(&segment, "queue").unwrap();
    let second = options.open_or_create::<u32>(&other, "queue").unwrap();
    let queue = |is_second| if is_second { &second } else { &first };

    let mut model = Model {
        inside: VecDeque::new(),
        capacity: capacity.next_power_of_two(),
        closed: false,
        keep_waiting: case.keep_waiting,
        next: 0,
        had_sender: false,
        had_receiver: false,
    };
    assert_eq!(second.capacity(), model.capacity);
    let (mut senders, mut receivers): (Vec<Sender<u32>>, Vec<Receiver<u32>>) = (Vec::new(), Vec::new());
    for operation in &case.operations {
        step(operation, &mut model, &mut senders, &mut receivers, queue, &segment);
    }
    // What is left comes out in order.
    let receiver = first.receiver().unwrap();
    assert!(receiver.try_iter().eq(model.inside.drain(..)));
});

fn step<'q>(
    operation: &Operation,
    model: &mut Model,
    senders: &mut Vec<Sender<u32>>,
    receivers: &mut Vec<Receiver<u32>>,
    queue: impl Fn(bool) -> &'q Queue<u32>,
    segment: &Segment,
) {
    match *operation {
        Operation::TrySend(which) | Operation::SendAtOnce(which) | Operation::Send(which) => {
            let Some(sender) = pick(senders, which) else { return };
            let (expected, value) = (model.send_fails(receivers.len()), model.next());
            let got = match operation {
                Operation::TrySend(_) => match sender.try_send(value) {
                    Ok(()) => None,
                    Err(TrySendError::Full(v)) if v == value => Some(Reason::Wait),
                    Err(TrySendError::Closed(v)) if v == value => Some(Reason::Closed),
                    Err(TrySendError::Disconnected { message: v, .. }) if v == value => Some(Reason::Disconnected),
                    Err(e) => panic!("{e}"),
                },
                Operation::Send(_) if expected != Some(Reason::Wait) => match sender.send(value) {
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
            assert_eq!(got, expected);
            if got.is_none() {
                model.inside.push_back(value);
            }
        }
        Operation::TrySendSlice(which, length) | Operation::SendSlice(which, length) => {
            let Some(sender) = pick(senders, which) else { return };
            let values: Vec<u32> = (0..length % 80).map(|_| model.next()).collect();
            let (fails, room) = (model.send_fails(receivers.len()), model.room());
            let refused = fails.filter(|&reason| reason != Reason::Wait && !values.is_empty());
            let reason = |reason| match reason {
                SendError::Closed(()) => Reason::Closed,
                SendError::Disconnected { .. } => Reason::Disconnected,
                e => panic!("{e}"),
            };
            let sent = if matches!(operation, Operation::SendSlice(..)) && (values.len() <= room || refused.is_some()) {
                sender.send_slice(&values).map(|()| values.len()).map_err(|e| {
                    assert_eq!(e.sent, 0);
                    reason(e.reason)
                })
            } else {
                sender.try_send_slice(&values).map_err(reason)
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
        // An aborted place counts until the messages before it are gone, which the model does not know.
        Operation::Reserve { which, commit } if commit || model.inside.is_empty() => {
            let Some(sender) = pick(senders, which) else { return };
            let fails = model.send_fails(receivers.len());
            match sender.try_reserve() {
                Ok(mut slot) => {
                    assert_eq!(fails, None);
                    if commit {
                        *slot = model.next();
                        model.inside.push_back(*slot);
                        slot.commit();
                    }
                }
                Err(TrySendError::Full(())) => assert_eq!(fails, Some(Reason::Wait)),
                Err(TrySendError::Closed(())) => assert_eq!(fails, Some(Reason::Closed)),
                Err(TrySendError::Disconnected { .. }) => assert_eq!(fails, Some(Reason::Disconnected)),
                Err(e) => panic!("{e}"),
            }
        }
        Operation::RecvGuard { which, give_back } => {
            let Some(receiver) = pick(receivers, which) else { return };
            let fails = model.receive_fails(senders.len());
            match receiver.try_recv_guard() {
                Ok(guard) => {
                    assert_eq!((fails, Some(&*guard)), (None, model.inside.front()));
                    if give_back {
                        guard.give_back();
                    } else {
                        model.inside.pop_front();
                    }
                }
                Err(TryRecvError::Empty) => assert_eq!(fails, Some(Reason::Wait)),
                Err(TryRecvError::Closed) => assert_eq!(fails, Some(Reason::Closed)),
                Err(TryRecvError::Disconnected { .. }) => assert_eq!(fails, Some(Reason::Disconnected)),
                Err(e) => panic!("{e}"),
            }
        }
        Operation::TryRecv(which) | Operation::RecvAtOnce(which) | Operation::Recv(which) => {
            let Some(receiver) = pick(receivers, which) else { return };
            let fails = model.receive_fails(senders.len());
            let got = match operation {
                Operation::TryRecv(_) => receiver.try_recv().map_err(|e| match e {
                    TryRecvError::Empty => Reason::Wait,
                    TryRecvError::Closed => Reason::Closed,
                    TryRecvError::Disconnected { .. } => Reason::Disconnected,
                    e => panic!("{e}"),
                }),
                Operation::Recv(_) if fails != Some(Reason::Wait) => receiver.recv().map_err(why_not),
                _ => receiver.recv_timeout(Duration::ZERO).map_err(|e| match e {
                    RecvTimeoutError::Timeout => Reason::Wait,
                    RecvTimeoutError::Closed => Reason::Closed,
                    RecvTimeoutError::Disconnected { .. } => Reason::Disconnected,
                    e => panic!("{e}"),
                }),
            };
            assert_eq!(got, fails.map_or_else(|| Ok(model.inside.pop_front().unwrap()), Err));
        }
        Operation::TryRecvMany(which, most) | Operation::RecvMany(which, most) => {
            let Some(receiver) = pick(receivers, which) else { return };
            let (most, mut buffer) = (usize::from(most % 80), vec![7]);
            let fails = model.receive_fails(senders.len()).filter(|_| most > 0);
            let got = if matches!(operation, Operation::RecvMany(..)) && fails != Some(Reason::Wait) {
                receiver.recv_many(&mut buffer, most).map_err(why_not)
            } else {
                receiver.try_recv_many(&mut buffer, most).map_err(|e| match e {
                    TryRecvError::Empty => Reason::Wait,
                    TryRecvError::Closed => Reason::Closed,
                    TryRecvError::Disconnected { .. } => Reason::Disconnected,
                    e => panic!("{e}"),
                })
            };
            let count = model.inside.len().min(most);
            assert_eq!(got, fails.map_or(Ok(count), Err));
            assert!(buffer.into_iter().skip(1).eq(model.inside.drain(..count)));
        }
        Operation::TryIter(which) => {
            let Some(receiver) = pick(receivers, which) else { return };
            assert!(receiver.try_iter().eq(model.inside.drain(..)));
        }
        Operation::NewSender { second } if senders.len() < 6 => {
            senders.push(queue(second).sender().unwrap());
            model.had_sender = true;
        }
        Operation::NewReceiver { second } if receivers.len() < 6 => {
            receivers.push(queue(second).receiver().unwrap());
            model.had_receiver = true;
        }
        Operation::CloneSender(which) if senders.len() < 6 => {
            let Some(sender) = pick(senders, which).cloned() else { return };
            senders.push(sender);
        }
        Operation::CloneReceiver(which) if receivers.len() < 6 => {
            let Some(receiver) = pick(receivers, which).cloned() else { return };
            receivers.push(receiver);
        }
        Operation::DropSender(which) if !senders.is_empty() => {
            senders.swap_remove(usize::from(which) % senders.len());
        }
        Operation::DropReceiver(which) if !receivers.is_empty() => {
            receivers.swap_remove(usize::from(which) % receivers.len());
        }
        Operation::Close => {
            queue(model.next.is_multiple_of(2)).close();
            model.closed = true;
        }
        Operation::Look => {
            for queue in [queue(false), queue(true)] {
                assert_eq!(queue.len(), model.inside.len());
                assert_eq!(queue.is_empty(), model.inside.is_empty());
                // A send that finds the queue closed has used up a place.
                assert!(model.closed || queue.is_full() == (model.room() == 0));
                assert_eq!(queue.is_closed(), model.closed);
            }
            assert_eq!(segment.snapshot().unwrap().objects[0].depth, [model.inside.len() as u64]);
        }
        Operation::Recover => assert!(segment.recover().unwrap().died.is_empty()),
        _ => {}
    }
}

fn why_not(e: RecvError) -> Reason {
    match e {
        RecvError::Closed => Reason::Closed,
        RecvError::Disconnected { .. } => Reason::Disconnected,
        e => panic!("{e}"),
    }
}
