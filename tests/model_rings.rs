//! `Queue` and `SpscQueue` against a plain `VecDeque`: random sequences of everything one can do with several ends of two
//! participants, one call after the other. Single steps of the rings: `src/ring/*/tests.rs`; real concurrency:
//! `histories.rs`.

use std::collections::VecDeque;
use std::time::Duration;

use gimmal::{
    Departure, Error, Queue, QueueOptions, Receiver, RecvError, RecvTimeoutError, Segment, SendError, SendTimeoutError,
    Sender, SpscQueue, TryRecvError, TrySendError, spsc,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// What a plain queue would say.
struct Model {
    messages: VecDeque<u64>,
    capacity: usize,
    closed: bool,
    /// Nobody is left who could receive, or send; of those who were there.
    no_receiver: bool,
    no_sender: bool,
    next: u64,
}

impl Model {
    fn new(asked: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            capacity: asked.next_power_of_two(),
            closed: false,
            no_receiver: false,
            no_sender: false,
            next: 0,
        }
    }

    fn room(&self) -> usize {
        self.capacity - self.messages.len()
    }

    /// Why nobody can send any more.
    fn ended(&self) -> Option<SendError<()>> {
        let disconnected = self.no_receiver.then_some(SendError::Disconnected { message: (), peer: Departure::Closed });
        let closed = self.closed.then_some(SendError::Closed(()));
        closed.or(disconnected)
    }

    fn message(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn send(&mut self, message: u64) -> Result<(), TrySendError<u64>> {
        match self.ended() {
            Some(SendError::Disconnected { .. }) => {
                Err(TrySendError::Disconnected { message, peer: Departure::Closed })
            }
            Some(_) => Err(TrySendError::Closed(message)),
            None if self.room() == 0 => Err(TrySendError::Full(message)),
            None => {
                self.messages.push_back(message);
                Ok(())
            }
        }
    }

    fn send_slice(&mut self, messages: &[u64]) -> Result<usize, SendError<()>> {
        if messages.is_empty() {
            return Ok(0);
        }
        self.ended().map_or(Ok(()), Err)?;
        let sent = self.room().min(messages.len());
        self.messages.extend(&messages[..sent]);
        Ok(sent)
    }

    fn recv(&mut self) -> Result<u64, TryRecvError> {
        let nothing = match (self.closed, self.no_sender) {
            (true, _) => TryRecvError::Closed,
            (_, true) => TryRecvError::Disconnected { peer: Departure::Closed },
            _ => TryRecvError::Empty,
        };
        self.messages.pop_front().ok_or(nothing)
    }

    fn recv_many(&mut self, most: usize) -> Result<Vec<u64>, TryRecvError> {
        let mut received = Vec::new();
        while received.len() < most {
            match self.recv() {
                Ok(message) => received.push(message),
                Err(e) if received.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok(received)
    }
}

fn with_timeout(e: TrySendError<u64>) -> SendTimeoutError<u64> {
    match e {
        TrySendError::Full(message) => SendTimeoutError::Timeout(message),
        TrySendError::Closed(message) => SendTimeoutError::Closed(message),
        TrySendError::Disconnected { message, .. } => {
            SendTimeoutError::Disconnected { message, peer: Departure::Closed }
        }
        e => panic!("{e:?}"),
    }
}

fn recv_with_timeout(e: TryRecvError) -> RecvTimeoutError {
    match e {
        TryRecvError::Empty => RecvTimeoutError::Timeout,
        TryRecvError::Closed => RecvTimeoutError::Closed,
        TryRecvError::Disconnected { .. } => RecvTimeoutError::Disconnected { peer: Departure::Closed },
        e => panic!("{e:?}"),
    }
}

fn quiet(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// One segment as two processes would see it.
fn two_participants() -> [Segment; 2] {
    let segment = Segment::options().size(64 << 10).anonymous().unwrap();
    [Segment::from_fd(&segment).unwrap(), segment]
}

/// Which kind of call.
#[derive(Clone, Copy, Debug)]
enum How {
    Try,
    Timeout,
    /// Blocks, and so is only made where it will not.
    Block,
    Slice(usize),
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![3 => Just(How::Try), 1 => Just(How::Timeout), 2 => Just(How::Block), 2 => (1..9_usize).prop_map(How::Slice)]
}

// --- Queue ---

#[derive(Clone, Debug)]
enum Op {
    NewSender(usize),
    CloneSender(usize),
    DropSender(usize),
    NewReceiver(usize),
    CloneReceiver(usize),
    DropReceiver(usize),
    Send(usize, How),
    Receive(usize, How),
    Drain(usize),
    Close(usize),
}

fn queue_ops() -> impl Strategy<Value = Vec<Op>> {
    let i = any::<usize>;
    let op = prop_oneof![
        4 => i().prop_map(Op::NewSender),
        3 => i().prop_map(Op::CloneSender),
        6 => i().prop_map(Op::DropSender),
        4 => i().prop_map(Op::NewReceiver),
        3 => i().prop_map(Op::CloneReceiver),
        6 => i().prop_map(Op::DropReceiver),
        50 => (i(), how()).prop_map(|(i, how)| Op::Send(i, how)),
        50 => (i(), how()).prop_map(|(i, how)| Op::Receive(i, how)),
        4 => i().prop_map(Op::Drain),
        1 => i().prop_map(Op::Close),
    ];
    vec(op, 0..250)
}

fn pick<T>(all: &[T], i: usize) -> Option<&T> {
    all.get(i.checked_rem(all.len())?)
}

fn drop_one<T>(all: &mut Vec<T>, i: usize) {
    if let Some(i) = i.checked_rem(all.len()) {
        all.swap_remove(i);
    }
}

fn send(sender: &Sender<u64>, how: How, model: &mut Model) {
    match how {
        How::Try => {
            let message = model.message();
            assert_eq!(sender.try_send(message), model.send(message));
        }
        How::Timeout => {
            let message = model.message();
            assert_eq!(sender.send_timeout(message, Duration::ZERO), model.send(message).map_err(with_timeout));
        }
        How::Block if model.room() > 0 || model.ended().is_some() => {
            let message = model.message();
            match (sender.send(message), model.send(message)) {
                (Ok(()), Ok(())) => {}
                (Err(SendError::Closed(back)), Err(TrySendError::Closed(_)))
                | (Err(SendError::Disconnected { message: back, .. }), Err(TrySendError::Disconnected { .. })) => {
                    assert_eq!(back, message)
                }
                other => panic!("{other:?}"),
            }
        }
        How::Block => {}
        How::Slice(n) => {
            let messages: Vec<u64> = (0..n).map(|_| model.message()).collect();
            if n <= model.room() || model.ended().is_some() {
                match (sender.send_slice(&messages), model.send_slice(&messages)) {
                    (Ok(()), Ok(sent)) => assert_eq!(sent, n),
                    (Err(e), Err(reason)) => assert_eq!((e.sent, e.reason), (0, reason)),
                    other => panic!("{other:?}"),
                }
            } else {
                assert_eq!(sender.try_send_slice(&messages), model.send_slice(&messages));
            }
        }
    }
}

fn receive(receiver: &Receiver<u64>, how: How, model: &mut Model) {
    match how {
        How::Try => assert_eq!(receiver.try_recv(), model.recv()),
        How::Timeout => assert_eq!(receiver.recv_timeout(Duration::ZERO), model.recv().map_err(recv_with_timeout)),
        How::Block if !model.messages.is_empty() || model.closed || model.no_sender => {
            match (receiver.recv(), model.recv()) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(RecvError::Closed), Err(TryRecvError::Closed))
                | (Err(RecvError::Disconnected { .. }), Err(TryRecvError::Disconnected { .. })) => {}
                other => panic!("{other:?}"),
            }
        }
        How::Block => {}
        How::Slice(most) => {
            let mut buffer = vec![0];
            let received = receiver.try_recv_many(&mut buffer, most);
            match model.recv_many(most) {
                Ok(expected) => {
                    assert_eq!(received, Ok(expected.len()));
                    assert_eq!(buffer[0], 0, "what was in the buffer stays");
                    assert_eq!(buffer[1..], expected);
                }
                Err(e) => assert_eq!((received, buffer.len()), (Err(e), 1)),
            }
        }
    }
}

fn run_queue(asked: usize, keep_waiting: bool, ops: &[Op]) {
    let segments = two_participants();
    let options = QueueOptions::new().capacity(asked).keep_waiting(keep_waiting);
    let queues = [0, 1].map(|i| options.open_or_create::<u64>(&segments[i], "queue").unwrap());
    let mut model = Model::new(asked);
    let mut senders: Vec<Sender<u64>> = Vec::new();
    let mut receivers: Vec<Receiver<u64>> = Vec::new();
    let (mut had_sender, mut had_receiver) = (false, false);
    for op in ops {
        match *op {
            Op::NewSender(i) if senders.len() < 5 => senders.push(queues[i % 2].sender().unwrap()),
            Op::CloneSender(i) if senders.len() < 5 => senders.extend(pick(&senders, i).cloned()),
            Op::NewReceiver(i) if receivers.len() < 5 => receivers.push(queues[i % 2].receiver().unwrap()),
            Op::CloneReceiver(i) if receivers.len() < 5 => receivers.extend(pick(&receivers, i).cloned()),
            Op::NewSender(_) | Op::CloneSender(_) | Op::NewReceiver(_) | Op::CloneReceiver(_) => {}
            Op::DropSender(i) => drop_one(&mut senders, i),
            Op::DropReceiver(i) => drop_one(&mut receivers, i),
            Op::Send(i, how) => {
                if let Some(sender) = pick(&senders, i) {
                    send(sender, how, &mut model);
                }
            }
            Op::Receive(i, how) => {
                if let Some(receiver) = pick(&receivers, i) {
                    receive(receiver, how, &mut model);
                }
            }
            Op::Drain(i) => {
                if let Some(receiver) = pick(&receivers, i) {
                    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), model.messages.drain(..).collect::<Vec<_>>());
                }
            }
            Op::Close(i) => {
                match (i % 4, senders.first(), receivers.first()) {
                    (0, Some(sender), _) => sender.close(),
                    (1, _, Some(receiver)) => receiver.close(),
                    _ => queues[i % 2].close(),
                }
                model.closed = true;
            }
        }
        had_sender |= !senders.is_empty();
        had_receiver |= !receivers.is_empty();
        model.no_sender = !keep_waiting && had_sender && senders.is_empty();
        model.no_receiver = !keep_waiting && had_receiver && receivers.is_empty();
        for queue in &queues {
            assert_eq!(queue.capacity(), model.capacity);
            assert_eq!((queue.len(), queue.is_empty()), (model.messages.len(), model.messages.is_empty()));
            assert_eq!(queue.is_closed(), model.closed);
            // Sends that fail on a closed queue use up places.
            assert!(model.closed || queue.is_full() == (model.room() == 0));
        }
    }
}

proptest! {
    #![proptest_config(quiet(250))]

    #[test]
    fn queue_agrees_with_a_plain_queue(asked in 1..=16_usize, keep_waiting in any::<bool>(), ops in queue_ops()) {
        run_queue(asked, keep_waiting, &ops);
    }
}

#[test]
fn queue_agrees_with_a_plain_queue_over_many_laps_and_beyond_one_batch() {
    for asked in [1, 2, 16, 100, 200] {
        let segment = Segment::anonymous().unwrap();
        let queue = Queue::<u64>::create(&segment, "queue", asked).unwrap();
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let mut model = Model::new(asked);
        let mut random = 7_u64;
        for _ in 0..2000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let n = (random >> 40) as usize % (2 * asked);
            let messages: Vec<u64> = (0..n).map(|_| model.message()).collect();
            assert_eq!(sender.try_send_slice(&messages), model.send_slice(&messages));
            let most = (random >> 50) as usize % (2 * asked);
            let mut buffer = Vec::new();
            // One call gives no more than it says, in order, and at least one if there is one.
            let mut left = most;
            while left > 0
                && let Ok(received) = receiver.try_recv_many(&mut buffer, left)
            {
                assert!(received > 0);
                left -= received;
            }
            assert_eq!(buffer, if most == 0 { Vec::new() } else { model.recv_many(most).unwrap_or_default() });
        }
    }
}

// --- SpscQueue ---

#[derive(Clone, Debug)]
enum SpscOp {
    TakeSender(usize),
    DropSender,
    ReleaseSender,
    TakeReceiver(usize),
    DropReceiver,
    ReleaseReceiver,
    Send(How),
    Receive(How),
    Poll,
    Drain,
    Close,
}

fn spsc_ops() -> impl Strategy<Value = Vec<SpscOp>> {
    let op = prop_oneof![
        6 => any::<usize>().prop_map(SpscOp::TakeSender),
        2 => Just(SpscOp::DropSender),
        2 => Just(SpscOp::ReleaseSender),
        6 => any::<usize>().prop_map(SpscOp::TakeReceiver),
        2 => Just(SpscOp::DropReceiver),
        2 => Just(SpscOp::ReleaseReceiver),
        50 => how().prop_map(SpscOp::Send),
        50 => how().prop_map(SpscOp::Receive),
        5 => Just(SpscOp::Poll),
        4 => Just(SpscOp::Drain),
        1 => Just(SpscOp::Close),
    ];
    vec(op, 0..250)
}

fn spsc_send(sender: &mut spsc::Sender<u64>, how: How, model: &mut Model) {
    match how {
        How::Try => {
            let message = model.message();
            assert_eq!(sender.try_send(message), model.send(message));
        }
        How::Timeout => {
            let message = model.message();
            assert_eq!(sender.send_timeout(message, Duration::ZERO), model.send(message).map_err(with_timeout));
        }
        How::Block if model.room() > 0 || model.ended().is_some() => {
            let message = model.message();
            match (sender.send(message), model.send(message)) {
                (Ok(()), Ok(())) => {}
                (Err(SendError::Closed(back)), Err(TrySendError::Closed(_)))
                | (Err(SendError::Disconnected { message: back, .. }), Err(TrySendError::Disconnected { .. })) => {
                    assert_eq!(back, message)
                }
                other => panic!("{other:?}"),
            }
        }
        How::Block => {}
        How::Slice(n) => {
            let messages: Vec<u64> = (0..n).map(|_| model.message()).collect();
            if n <= model.room() || model.ended().is_some() {
                match (sender.send_slice(&messages), model.send_slice(&messages)) {
                    (Ok(()), Ok(sent)) => assert_eq!(sent, n),
                    (Err(e), Err(reason)) => assert_eq!((e.sent, e.reason), (0, reason)),
                    other => panic!("{other:?}"),
                }
            } else {
                // What the sender believes of the receiver may lag: some may be sent now and some by the next call.
                let mut sent = 0;
                while sent < model.room() {
                    let more = sender.try_send_slice(&messages[sent..]).unwrap();
                    assert!(more > 0, "there is room");
                    sent += more;
                }
                assert_eq!(sender.try_send_slice(&messages[sent..]), Ok(0));
                assert_eq!(model.send_slice(&messages), Ok(sent));
            }
        }
    }
}

fn spsc_receive(receiver: &mut spsc::Receiver<u64>, how: How, model: &mut Model) {
    match how {
        How::Try => assert_eq!(receiver.try_recv(), model.recv()),
        How::Timeout => assert_eq!(receiver.recv_timeout(Duration::ZERO), model.recv().map_err(recv_with_timeout)),
        How::Block if !model.messages.is_empty() || model.closed || model.no_sender => {
            match (receiver.recv(), model.recv()) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(RecvError::Closed), Err(TryRecvError::Closed))
                | (Err(RecvError::Disconnected { .. }), Err(TryRecvError::Disconnected { .. })) => {}
                other => panic!("{other:?}"),
            }
        }
        How::Block => {}
        How::Slice(most) => {
            let mut buffer = vec![0];
            match receiver.try_recv_many(&mut buffer, most) {
                Ok(received) => {
                    assert!(received > 0 && received <= most);
                    assert_eq!(buffer[1..], model.recv_many(received).unwrap());
                    assert_eq!(buffer[0], 0, "what was in the buffer stays");
                }
                Err(e) => assert_eq!((Err(e), buffer.len()), (model.recv(), 1)),
            }
        }
    }
}

/// What a seat tells the other side.
#[derive(Clone, Copy, PartialEq)]
enum Seat {
    /// Nobody yet, or somebody got up for somebody else.
    Vacant,
    Held,
    /// The last one got up for good.
    Left,
}

fn run_spsc(asked: usize, keep_waiting: bool, ops: &[SpscOp]) {
    let segments = two_participants();
    let options = QueueOptions::new().capacity(asked).keep_waiting(keep_waiting);
    let queues = [0, 1].map(|i| options.open_or_create_spsc::<u64>(&segments[i], "queue").unwrap());
    let mut model = Model::new(asked);
    let (mut sender, mut receiver) = (None, None);
    let (mut sending, mut receiving) = (Seat::Vacant, Seat::Vacant);
    fn taken<T>(result: Result<T, Error>) {
        assert!(matches!(result, Err(Error::SeatTaken { pid }) if pid == std::process::id()));
    }
    for op in ops {
        match *op {
            SpscOp::TakeSender(i) if sender.is_some() => taken(queues[i % 2].sender()),
            SpscOp::TakeSender(i) => {
                sender = Some(queues[i % 2].sender().unwrap());
                sending = Seat::Held;
            }
            SpscOp::TakeReceiver(i) if receiver.is_some() => taken(queues[i % 2].receiver()),
            SpscOp::TakeReceiver(i) => {
                receiver = Some(queues[i % 2].receiver().unwrap());
                receiving = Seat::Held;
            }
            SpscOp::DropSender => {
                if sender.take().is_some() {
                    sending = Seat::Left;
                }
            }
            SpscOp::DropReceiver => {
                if receiver.take().is_some() {
                    receiving = Seat::Left;
                }
            }
            SpscOp::ReleaseSender => {
                if let Some(sender) = sender.take() {
                    sender.release();
                    sending = Seat::Vacant;
                }
            }
            SpscOp::ReleaseReceiver => {
                if let Some(receiver) = receiver.take() {
                    receiver.release();
                    receiving = Seat::Vacant;
                }
            }
            SpscOp::Send(how) => {
                if let Some(sender) = &mut sender {
                    spsc_send(sender, how, &mut model);
                }
            }
            SpscOp::Receive(how) => {
                if let Some(receiver) = &mut receiver {
                    spsc_receive(receiver, how, &mut model);
                }
            }
            SpscOp::Poll => {
                if let Some(receiver) = &mut receiver {
                    let ready = !model.messages.is_empty() || model.closed || model.no_sender;
                    assert_eq!(receiver.poll(Duration::ZERO), ready);
                }
            }
            SpscOp::Drain => {
                if let Some(receiver) = &mut receiver {
                    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), model.messages.drain(..).collect::<Vec<_>>());
                }
            }
            SpscOp::Close => {
                if let Some(sender) = &mut sender {
                    sender.close();
                    model.closed = true;
                }
            }
        }
        model.no_sender = !keep_waiting && sending == Seat::Left;
        model.no_receiver = !keep_waiting && receiving == Seat::Left;
        for queue in &queues {
            assert_eq!(queue.capacity(), model.capacity);
            assert_eq!((queue.len(), queue.is_empty()), (model.messages.len(), model.messages.is_empty()));
            assert_eq!((queue.is_closed(), queue.is_full()), (model.closed, model.room() == 0));
        }
    }
}

proptest! {
    #![proptest_config(quiet(250))]

    #[test]
    fn spsc_queue_agrees_with_a_plain_queue(asked in 1..=16_usize, keep_waiting in any::<bool>(), ops in spsc_ops()) {
        run_spsc(asked, keep_waiting, &ops);
    }
}

// --- capacities ---

#[test]
fn a_capacity_is_rounded_up_to_a_power_of_two_and_all_of_it_can_be_used() {
    let segment = Segment::anonymous().unwrap();
    for asked in 1..=70_usize {
        let rounded = asked.next_power_of_two();
        let queue = Queue::<u8>::create(&segment, &format!("queue-{asked}"), asked).unwrap();
        let sender = queue.sender().unwrap();
        assert_eq!((queue.capacity(), sender.try_send_slice(&[1; 200])), (rounded, Ok(rounded)));
        assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
        let queue = SpscQueue::<u8>::create(&segment, &format!("spsc-{asked}"), asked).unwrap();
        let mut sender = queue.sender().unwrap();
        assert_eq!((queue.capacity(), sender.try_send_slice(&[1; 200])), (rounded, Ok(rounded)));
        assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
    }
}

#[test]
fn bytes_says_what_a_queue_takes() {
    type Record = [u64; 9];
    let segment = Segment::options().size(4 << 20).anonymous().unwrap();
    for (i, asked) in [1, 2, 7, 64, 1000].into_iter().enumerate() {
        let free = segment.free();
        Queue::<u8>::create(&segment, &format!("a{i}"), asked).unwrap();
        assert_eq!(free - segment.free(), Queue::<u8>::bytes(asked));
        let free = segment.free();
        Queue::<Record>::create(&segment, &format!("b{i}"), asked).unwrap();
        assert_eq!(free - segment.free(), Queue::<Record>::bytes(asked));
        let free = segment.free();
        SpscQueue::<Record>::create(&segment, &format!("c{i}"), asked).unwrap();
        assert_eq!(free - segment.free(), SpscQueue::<Record>::bytes(asked));
    }
    for none in [0, usize::MAX, 1 << 50] {
        assert_eq!((Queue::<u8>::bytes(none), SpscQueue::<u8>::bytes(none)), (usize::MAX, usize::MAX));
    }
}
