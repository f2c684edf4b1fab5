//! `Pipe`: two ends, their seats, and what each learns of the other's going. See also `multiprocess.rs`.

mod support;

use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{
    Array, Departure, End, Error, Pipe, Pod, RecvError, RecvTimeoutError, Segment, SendError, SendTimeoutError,
    TryRecvError, TrySendError, Value,
};
use support::{LONG, die_with_parent, join_well, kill_and_reap, until};

const ENTRIES: [Entry; 4] = gimmal::entries![meet, square, sit_still, answer_shared];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment, arguments: &[&str]) -> Child {
    process::init(&ENTRIES);
    support::process(entry).segment(segment).args(arguments).spawn().expect("start a process")
}

/// A segment, and the same seen by another participant.
fn segments() -> (Segment, Segment) {
    let segment = Segment::anonymous().unwrap();
    let other = Segment::from_fd(&segment).unwrap();
    (segment, other)
}

fn pid_of_the_holder<T>(result: Result<T, Error>) -> u32 {
    match result {
        Err(Error::SeatTaken { pid }) => pid,
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("the seat is free"),
    }
}

/// What is there, in slices.
fn receive_all<Tx: Pod, Rx: Pod>(end: &mut End<Tx, Rx>) -> Vec<Rx> {
    let mut received = Vec::new();
    while end.poll(Duration::ZERO) {
        let before = received.len();
        let count = end.recv_many(&mut received, 10).expect("a message is there");
        assert!((1..=10).contains(&count) && received.len() == before + count);
    }
    received
}

// --- both ways ---

#[test]
fn each_end_receives_what_the_other_sends_in_order() {
    let segment = Segment::anonymous().unwrap();
    let (mut first, mut second) = Pipe::pair::<u8, [i64; 3]>(&segment, "pipe", 4).unwrap();
    first.send_slice(&[1, 2, 3]).unwrap();
    second.send([-1, 0, 1]).unwrap();
    assert_eq!((second.recv(), second.try_recv()), (Ok(1), Ok(2)));
    second.send([-2, 0, 2]).unwrap();
    first.try_send(4).unwrap();
    assert_eq!(receive_all(&mut second), [3, 4]);
    assert_eq!((first.recv(), first.recv_timeout(LONG)), (Ok([-1, 0, 1]), Ok([-2, 0, 2])));
    assert_eq!((first.try_recv(), second.try_recv()), (Err(TryRecvError::Empty), Err(TryRecvError::Empty)));
}

#[test]
fn one_direction_that_is_full_does_not_hold_up_the_other() {
    let segment = Segment::anonymous().unwrap();
    let (mut first, mut second) = Pipe::pair::<u32, u32>(&segment, "pipe", 3).unwrap();
    for n in 0..4 {
        first.try_send(n).unwrap();
    }
    assert_eq!(first.try_send(4), Err(TrySendError::Full(4)));
    assert_eq!(first.send_timeout(4, Duration::ZERO), Err(SendTimeoutError::Timeout(4)));
    for n in 10..14 {
        second.send(n).unwrap();
        assert_eq!(first.recv(), Ok(n));
    }
    assert_eq!(second.iter().take(4).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn halves_work_in_threads_of_their_own() {
    let segment = Segment::anonymous().unwrap();
    let (asker, answerer) = Pipe::pair::<u64, u64>(&segment, "pipe", 8).unwrap();
    let ((mut questions, mut answers), (mut replies, mut requests)) = (asker.split(), answerer.split());
    thread::scope(|scope| {
        scope.spawn(move || (0..5000).for_each(|n| questions.send(n).unwrap()));
        scope.spawn(move || requests.iter().for_each(|n| replies.send(n * n).unwrap()));
        // Until the one who answers has no more questions and goes.
        assert!(answers.iter().eq((0..5000).map(|n| n * n)));
        assert_eq!(answers.try_recv(), Err(TryRecvError::Disconnected { peer: Departure::Closed }));
    });
}

#[test]
fn each_half_of_a_split_end_says_by_itself_that_it_is_gone() {
    let segment = Segment::anonymous().unwrap();
    let (first, mut second) = Pipe::pair::<u8, u8>(&segment, "pipe", 4).unwrap();
    let (mut sender, receiver) = first.split();
    drop(receiver);
    assert_eq!(second.try_send(1), Err(TrySendError::Disconnected { message: 1, peer: Departure::Closed }));
    sender.send(2).unwrap();
    assert_eq!((second.recv(), second.try_recv()), (Ok(2), Err(TryRecvError::Empty)));
    drop(sender);
    assert_eq!(second.try_recv(), Err(TryRecvError::Disconnected { peer: Departure::Closed }));
}

// --- one way ---

#[test]
fn a_simplex_pipe_carries_one_way_whichever_end_comes_first() {
    for sender_first in [false, true] {
        let (segment, other) = segments();
        let ends = || {
            let sender = Pipe::simplex_sender::<u16>(&segment, "pipe", 4).unwrap();
            (sender, Pipe::simplex_receiver::<u16>(&other, "pipe", 4).unwrap())
        };
        let ends_reversed = || {
            let receiver = Pipe::simplex_receiver::<u16>(&other, "pipe", 4).unwrap();
            (Pipe::simplex_sender::<u16>(&segment, "pipe", 4).unwrap(), receiver)
        };
        let (mut sender, mut receiver) = if sender_first { ends() } else { ends_reversed() };
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        sender.send_slice(&[1, 2]).unwrap();
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(receiver.recv(), Err(RecvError::Disconnected { peer: Departure::Closed }));
    }
}

#[test]
fn simplex_and_duplex_are_not_taken_for_each_other() {
    let segment = Segment::anonymous().unwrap();
    let _duplex = Pipe::pair::<u8, u8>(&segment, "duplex", 4).unwrap();
    let _simplex = Pipe::simplex::<u8>(&segment, "simplex", 4).unwrap();
    assert!(matches!(Pipe::simplex_receiver::<u8>(&segment, "duplex", 4), Err(Error::TypeMismatch { .. })));
    assert!(matches!(Pipe::connect::<u8, u8>(&segment, "simplex"), Err(Error::TypeMismatch { .. })));
    assert!(matches!(Pipe::create::<u8, u8>(&segment, "simplex", 4), Err(Error::TypeMismatch { .. })));
    assert!(matches!(Pipe::shared_first::<u8, u8>(&segment, "duplex", 4), Err(Error::KindMismatch { .. })));
}

#[test]
fn the_directions_are_not_taken_for_each_other() {
    let segment = Segment::anonymous().unwrap();
    let _first = Pipe::create::<u8, u64>(&segment, "pipe", 4).unwrap();
    assert!(matches!(Pipe::connect::<u8, u64>(&segment, "pipe"), Err(Error::TypeMismatch { .. })));
    assert!(Pipe::connect::<u64, u8>(&segment, "pipe").is_ok());
}

// --- seats ---

#[test]
fn an_end_that_is_held_cannot_be_taken_and_stays_as_it_was() {
    let (segment, other) = segments();
    let mut first = Pipe::create::<u8, u16>(&segment, "pipe", 4).unwrap();
    let mut second = Pipe::connect::<u16, u8>(&other, "pipe").unwrap();
    for segment in [&segment, &other] {
        assert_eq!(pid_of_the_holder(Pipe::create::<u8, u16>(segment, "pipe", 4)), std::process::id());
        assert_eq!(pid_of_the_holder(Pipe::connect::<u16, u8>(segment, "pipe")), std::process::id());
    }
    first.send(1).unwrap();
    second.send(2).unwrap();
    assert_eq!((second.recv(), first.recv()), (Ok(1), Ok(2)));
}

/// Who cannot have both halves of an end has neither, and nobody hears of the attempt.
#[test]
fn an_end_of_which_half_is_held_is_left_as_it_was() {
    let segment = Segment::anonymous().unwrap();
    let (first, mut second) = Pipe::pair::<u8, u8>(&segment, "pipe", 4).unwrap();
    // The half that is taken first is free: because it was left, or given up for somebody else.
    let (sender, _receiver) = first.split();
    drop(sender);
    assert_eq!(second.try_recv(), Err(TryRecvError::Disconnected { peer: Departure::Closed }));
    pid_of_the_holder(Pipe::create::<u8, u8>(&segment, "pipe", 4));
    assert_eq!(second.try_recv(), Err(TryRecvError::Disconnected { peer: Departure::Closed }), "still gone");

    let (first, mut second) = Pipe::pair::<u8, u8>(&segment, "other", 4).unwrap();
    let (sender, _receiver) = first.split();
    sender.release();
    assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
    pid_of_the_holder(Pipe::create::<u8, u8>(&segment, "other", 4));
    assert_eq!(second.try_recv(), Err(TryRecvError::Empty), "still to come");
}

#[test]
fn an_end_that_is_released_is_not_gone_and_is_taken_where_it_was_left() {
    let (segment, other) = segments();
    let (mut first, mut second) = Pipe::pair::<u32, u32>(&segment, "pipe", 8).unwrap();
    first.send_slice(&[1, 2, 3]).unwrap();
    second.send_slice(&[11, 12, 13]).unwrap();
    assert_eq!((first.recv(), second.recv()), (Ok(11), Ok(1)));
    first.release();
    assert_eq!(second.recv(), Ok(2));
    second.try_send(14).unwrap();
    let mut first = Pipe::create::<u32, u32>(&other, "pipe", 8).unwrap();
    first.send(4).unwrap();
    second.release();
    let mut second = Pipe::connect::<u32, u32>(&other, "pipe").unwrap();
    second.send(15).unwrap();
    assert_eq!((receive_all(&mut second), receive_all(&mut first)), (vec![3, 4], vec![12, 13, 14, 15]));
}

#[test]
fn what_is_sent_before_the_other_end_ever_came_waits_for_it() {
    let (segment, other) = segments();
    let mut first = Pipe::create::<u8, u8>(&segment, "pipe", 2).unwrap();
    first.send_slice(&[1, 2]).unwrap();
    assert_eq!(first.try_send(3), Err(TrySendError::Full(3)), "nobody is gone who was never here");
    assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
    let mut second = Pipe::connect::<u8, u8>(&other, "pipe").unwrap();
    drop(first);
    assert_eq!(second.iter().collect::<Vec<_>>(), [1, 2]);
}

// --- the other end goes ---

#[test]
fn an_end_that_is_dropped_is_gone_after_the_drain() {
    let segment = Segment::anonymous().unwrap();
    let (mut first, mut second) = Pipe::pair::<u8, u8>(&segment, "pipe", 4).unwrap();
    first.send_slice(&[1, 2, 3]).unwrap();
    drop(first);
    assert_eq!(second.try_send(9), Err(TrySendError::Disconnected { message: 9, peer: Departure::Closed }));
    assert_eq!(second.send(9), Err(SendError::Disconnected { message: 9, peer: Departure::Closed }));
    assert_eq!((second.try_recv(), second.recv(), second.recv_timeout(Duration::ZERO)), (Ok(1), Ok(2), Ok(3)));
    assert_eq!(second.try_recv(), Err(TryRecvError::Disconnected { peer: Departure::Closed }));
    assert_eq!(second.recv(), Err(RecvError::Disconnected { peer: Departure::Closed }));
    assert_eq!(second.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected { peer: Departure::Closed }));
    assert_eq!(
        second.recv_deadline(Instant::now() + LONG),
        Err(RecvTimeoutError::Disconnected { peer: Departure::Closed })
    );
    assert_eq!(second.recv_many(&mut Vec::new(), 3), Err(RecvError::Disconnected { peer: Departure::Closed }));
    assert_eq!(second.send_slice(&[1, 2]).unwrap_err().sent, 0);
    assert_eq!(second.iter().next(), None);
}

#[test]
fn a_successor_goes_on_with_who_stayed() {
    let (segment, other) = segments();
    let (mut first, mut second) = Pipe::pair::<u8, u8>(&segment, "pipe", 4).unwrap();
    first.send(1).unwrap();
    second.send(11).unwrap();
    drop(first);
    assert_eq!(second.try_send(12), Err(TrySendError::Disconnected { message: 12, peer: Departure::Closed }));
    let mut first = Pipe::create::<u8, u8>(&other, "pipe", 4).unwrap();
    second.try_send(12).unwrap();
    first.send(2).unwrap();
    assert_eq!((first.recv(), first.recv()), (Ok(11), Ok(12)));
    assert_eq!((second.recv(), second.recv(), second.try_recv()), (Ok(1), Ok(2), Err(TryRecvError::Empty)));
}

#[test]
fn one_who_waits_hears_that_the_other_end_goes() {
    for closes in [false, true] {
        let segment = Segment::anonymous().unwrap();
        let (first, mut second) = Pipe::pair::<u8, u8>(&segment, "pipe", 1).unwrap();
        second.send(1).unwrap();
        let (mut sender, mut receiver) = second.split();
        let (sends, receives) =
            (thread::spawn(move || sender.send_timeout(2, LONG)), thread::spawn(move || receiver.recv_timeout(LONG)));
        let (mut sender, receiver) = first.split();
        if closes {
            sender.close();
        }
        drop((sender, receiver));
        assert_eq!(sends.join().unwrap(), Err(SendTimeoutError::Disconnected { message: 2, peer: Departure::Closed }));
        let reason =
            if closes { RecvTimeoutError::Closed } else { RecvTimeoutError::Disconnected { peer: Departure::Closed } };
        assert_eq!(receives.join().unwrap(), Err(reason));
    }
}

#[test]
fn poll_says_whether_a_receive_would_wait_and_takes_nothing() {
    let segment = Segment::anonymous().unwrap();
    let (mut first, mut second) = Pipe::pair::<u8, u8>(&segment, "pipe", 4).unwrap();
    let start = Instant::now();
    assert!(!second.poll(Duration::ZERO) && !second.poll(Duration::from_millis(3)));
    assert!(start.elapsed() >= Duration::from_millis(3));
    first.send(1).unwrap();
    assert!(second.poll(Duration::ZERO) && second.poll(LONG));
    assert_eq!(second.try_recv(), Ok(1));
    assert!(!second.poll(Duration::ZERO));
    let sender = thread::spawn(move || {
        first.send(2).unwrap();
        first
    });
    assert!(second.poll(LONG));
    assert_eq!(second.try_recv(), Ok(2));
    drop(sender.join().unwrap());
    assert!(second.poll(Duration::ZERO), "a receive would not wait for one who is gone");
    assert_eq!(second.try_recv(), Err(TryRecvError::Disconnected { peer: Departure::Closed }));
}

#[test]
fn time_limits_end_a_wait_and_leave_the_message_with_its_sender() {
    let segment = Segment::anonymous().unwrap();
    let (mut first, mut second) = Pipe::pair::<u8, u8>(&segment, "pipe", 1).unwrap();
    first.send(1).unwrap();
    let limit = Duration::from_millis(3);
    let start = Instant::now();
    assert_eq!(first.send_timeout(2, limit), Err(SendTimeoutError::Timeout(2)));
    assert_eq!(first.recv_timeout(limit), Err(RecvTimeoutError::Timeout));
    let deadline = Instant::now() + limit;
    assert_eq!(first.send_deadline(2, deadline), Err(SendTimeoutError::Timeout(2)));
    assert_eq!(first.recv_deadline(Instant::now() + limit), Err(RecvTimeoutError::Timeout));
    assert!(start.elapsed() >= 4 * limit);
    assert_eq!((second.recv(), second.try_recv()), (Ok(1), Err(TryRecvError::Empty)));
}

// --- other processes ---

/// Takes the end of the pipe that the first argument names, whichever comes first, and exchanges greetings.
fn meet(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let mut end = if context.arg(0) == Some("first") {
        Pipe::create::<u64, u64>(segment, "pipe", 4)?
    } else {
        loop {
            match Pipe::connect::<u64, u64>(segment, "pipe") {
                Err(Error::NotFound { .. }) => thread::yield_now(),
                end => break end?,
            }
        }
    };
    let ours: u64 = context.parse(1)?;
    end.send(ours)?;
    let theirs = end.recv()?;
    Value::<u64>::open(segment, "sum")?.fetch_add(theirs * 1000 + ours, Release);
    // Not before the other one has it: this end would be gone.
    end.send(theirs)?;
    assert_eq!(end.recv()?, ours);
    Ok(())
}

#[test]
fn two_processes_meet_in_a_pipe_that_is_not_there_yet() {
    for order in [["first", "second"], ["second", "first"]] {
        let segment = Segment::anonymous().unwrap();
        let sum = Value::<u64>::create(&segment, "sum", 0).unwrap();
        let number = |end: &str| if end == "first" { "3" } else { "5" };
        let mut children = order.map(|end| start("meet", &segment, &[end, number(end)]));
        children.iter_mut().for_each(join_well);
        assert_eq!(sum.load(Acquire), 8008);
        // Both have left.
        let mut first = Pipe::create::<u64, u64>(&segment, "pipe", 4).unwrap();
        assert_eq!(first.try_send(1), Err(TrySendError::Disconnected { message: 1, peer: Departure::Closed }));
    }
}

/// Takes the second end and answers with squares.
fn square(context: &Context) -> Outcome {
    die_with_parent();
    let mut end = Pipe::connect::<u64, u64>(context.segment(0)?, "pipe")?;
    while let Ok(n) = end.recv() {
        end.send(n * n)?;
    }
    Ok(())
}

#[test]
fn an_end_is_handed_to_a_process_by_releasing_it() {
    let segment = Segment::anonymous().unwrap();
    let (mut first, second) = Pipe::pair::<u64, u64>(&segment, "pipe", 4).unwrap();
    first.send(9).unwrap();
    second.release();
    let mut child = start("square", &segment, &[]);
    assert_eq!(first.recv_timeout(LONG), Ok(81));
    assert_eq!(pid_of_the_holder(Pipe::connect::<u64, u64>(&segment, "pipe")), child.pid());
    assert_eq!((first.send(7), first.recv_timeout(LONG)), (Ok(()), Ok(49)));
    drop(first);
    join_well(&mut child);
}

/// Takes the second end, sends three numbers, and stays until it is killed.
fn sit_still(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let mut end = Pipe::connect::<u64, u64>(segment, "pipe")?;
    end.send_slice(&[1, 2, 3])?;
    Value::<bool>::open(segment, "never")?.wait_while(|never| !never);
    drop(end);
    Ok(())
}

#[test]
fn a_killed_end_is_gone_after_the_drain_and_its_seat_is_free() {
    let segment = Segment::anonymous().unwrap();
    Value::<bool>::create(&segment, "never", false).unwrap();
    let mut first = Pipe::create::<u64, u64>(&segment, "pipe", 4).unwrap();
    first.send(11).unwrap();
    let mut child = start("sit_still", &segment, &[]);
    assert_eq!(first.recv_timeout(LONG), Ok(1));
    assert_eq!(pid_of_the_holder(Pipe::connect::<u64, u64>(&segment, "pipe")), child.pid());
    assert!(kill_and_reap(&mut child));
    assert_eq!((first.recv(), first.recv()), (Ok(2), Ok(3)));
    // The death is found by whoever waits.
    let peer = Departure::Died { pid: child.pid() };
    assert_eq!(first.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected { peer }));
    assert_eq!(first.send(12), Err(SendError::Disconnected { message: 12, peer }));
    let mut second = Pipe::connect::<u64, u64>(&segment, "pipe").unwrap();
    first.send(13).unwrap();
    assert_eq!((second.recv(), second.recv()), (Ok(11), Ok(13)), "what the dead had not received is still there");
}

/// Nobody need wait, or repair, for that: whoever wants the seat asks after its holder.
#[test]
fn the_seat_of_a_killed_holder_can_be_taken_at_once() {
    let segment = Segment::anonymous().unwrap();
    Value::<bool>::create(&segment, "never", false).unwrap();
    let mut first = Pipe::create::<u64, u64>(&segment, "pipe", 4).unwrap();
    let mut child = start("sit_still", &segment, &[]);
    assert_eq!(first.recv_timeout(LONG), Ok(1));
    assert!(kill_and_reap(&mut child));
    let mut second = Pipe::connect::<u64, u64>(&segment, "pipe").unwrap();
    second.send(4).unwrap();
    assert_eq!((first.recv(), first.recv(), first.recv()), (Ok(2), Ok(3), Ok(4)));
    assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
}

/// Polling alone comes to it, too.
#[test]
fn one_who_only_tries_hears_of_the_death() {
    let segment = Segment::anonymous().unwrap();
    Value::<bool>::create(&segment, "never", false).unwrap();
    let mut first = Pipe::create::<u64, u64>(&segment, "pipe", 4).unwrap();
    let mut child = start("sit_still", &segment, &[]);
    let three: Vec<_> = (0..3).map(|_| first.recv_timeout(LONG)).collect();
    assert_eq!(three, [Ok(1), Ok(2), Ok(3)]);
    assert!(kill_and_reap(&mut child));
    until("the other end is found dead", || {
        (0..1000).any(|_| match first.try_recv() {
            Err(TryRecvError::Empty) => false,
            other => {
                assert_eq!(other, Err(TryRecvError::Disconnected { peer: Departure::Died { pid: child.pid() } }));
                true
            }
        })
    });
}

// --- shared ends ---

#[test]
fn each_message_reaches_one_holder_of_the_other_end() {
    const EACH: u32 = 1000;
    let (segment, other) = segments();
    let (first, second) = Pipe::shared::<u32, u32>(&segment, "pipe", 16).unwrap();
    let marks = Array::<u8>::create(&segment, "marks", 3 * EACH as usize).unwrap();
    thread::scope(|scope| {
        for i in 0..3 {
            let end = if i == 0 { Pipe::shared_first::<u32, u32>(&other, "pipe", 16).unwrap() } else { first.clone() };
            scope.spawn(move || (0..EACH).for_each(|n| end.send(i * EACH + n).unwrap()));
        }
        for i in 0..3 {
            let end =
                if i == 0 { Pipe::shared_second::<u32, u32>(&other, "pipe", 16).unwrap() } else { second.clone() };
            let marks = &marks;
            scope.spawn(move || {
                while let Ok(n) = end.recv() {
                    marks[n as usize].fetch_add(1, Release);
                    end.send(n).unwrap();
                }
            });
        }
        drop(second);
        // The answers: each to whoever of the first end's holders asks, which is this one.
        let answers: Vec<u32> = (0..3 * EACH).map(|_| first.recv().unwrap()).collect();
        let mut sorted = answers.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..3 * EACH), "each once");
        drop(first);
    });
    assert_eq!(marks.to_vec(), vec![1; 3 * EACH as usize]);
}

#[test]
fn a_shared_end_is_gone_when_its_last_holder_is() {
    let (segment, other) = segments();
    let first = Pipe::shared_first::<u8, u8>(&segment, "pipe", 4).unwrap();
    first.send(1).unwrap();
    let seconds = [&segment, &other].map(|segment| Pipe::shared_second::<u8, u8>(segment, "pipe", 4).unwrap());
    let third = seconds[1].clone();
    seconds[0].send(10).unwrap();
    drop(seconds);
    first.try_send(2).unwrap();
    assert_eq!(third.recv(), Ok(1));
    drop(third);
    assert_eq!(first.try_send(3), Err(TrySendError::Disconnected { message: 3, peer: Departure::Closed }));
    assert_eq!((first.recv(), first.recv()), (Ok(10), Err(RecvError::Disconnected { peer: Departure::Closed })));
    let second = Pipe::shared_second::<u8, u8>(&other, "pipe", 4).unwrap();
    first.try_send(4).unwrap();
    assert_eq!((second.recv(), second.recv()), (Ok(2), Ok(4)), "who comes later goes on where the last one stopped");
}

fn answer_shared(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let end = Pipe::shared_second::<u64, u64>(segment, "pipe", 16)?;
    let ready = Value::<u32>::open(segment, "ready")?;
    ready.fetch_add(1, Release);
    ready.notify_all();
    while let Ok(n) = end.recv() {
        end.send(n + 1_000_000)?;
    }
    Ok(())
}

#[test]
fn holders_of_a_shared_end_may_be_killed_and_the_others_answer() {
    let segment = Segment::anonymous().unwrap();
    let ready = Value::<u32>::create(&segment, "ready", 0).unwrap();
    let first = Pipe::shared_first::<u64, u64>(&segment, "pipe", 16).unwrap();
    let mut children = [(); 3].map(|()| start("answer_shared", &segment, &[]));
    assert_eq!(ready.wait_while_timeout(LONG, |ready| ready < 3), Ok(3));
    // Killed in its sleep: it has nothing of ours.
    support::until_asleep(&mut children[0]);
    assert!(kill_and_reap(&mut children[0]));
    let mut answers: Vec<u64> = Vec::new();
    for n in 0..500 {
        first.send(n).unwrap();
        answers.push(first.recv_timeout(LONG).unwrap());
    }
    assert!(answers.into_iter().eq((0..500).map(|n| n + 1_000_000)), "one question at a time: answers in order");
    drop(first);
    children[1..].iter_mut().for_each(join_well);
}
