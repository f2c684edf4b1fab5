//! Every type between real processes: what one does the others see, sleepers wake, and those who stop, end or die leave the
//! others what is theirs.

mod support;

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{
    Array, Departure, Error, Lock, LockError, Pipe, Queue, RecvError, RecvTimeoutError, Segment, SendError,
    SendTimeoutError, SpscQueue, Timeout, TryRecvError, TrySendError, Value,
};
use support::{
    Claim, Huge, LONG, Message, Scratch, Slots, assert_alone, die_with_parent, failed, join, join_well, kill_and_reap,
    resume, say_ready, stop, until, until_asleep, until_ready,
};

const ENTRIES: [Entry; 26] = gimmal::entries![
    send_range,
    receive_and_mark,
    send_slices,
    receive_many_and_mark,
    spsc_send_range,
    answer_squares,
    sum_simplex,
    ask_shared,
    answer_shared,
    add_to_values,
    wait_for_value,
    fill_part,
    wait_for_array,
    increment_under_lock,
    hold_lock,
    receive_one,
    receive_until_error,
    send_until_error,
    echo,
    create_together,
    notify_for_nothing,
    send_huge,
    receive_huge,
    receive_huge_batches,
    take_seat,
    copy_through_anonymous,
];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment, arguments: &[u64]) -> Child {
    process::init(&ENTRIES);
    let arguments = arguments.iter().map(u64::to_string);
    support::process(entry).segment(segment).args(arguments).spawn().expect("start a process")
}

/// A segment with a counter `ready`, by which processes say that they have come to the point.
fn scratch(case: &str) -> Scratch {
    let scratch = Scratch::small(case);
    Value::<u32>::create(&scratch, "ready", 0).unwrap();
    scratch
}

/// Waits until `children` have said that they are ready and gone to sleep.
#[track_caller]
fn until_all_asleep(segment: &Segment, children: &mut [Child]) {
    until_ready(segment, children.len() as u32);
    children.iter_mut().for_each(until_asleep);
}

#[track_caller]
fn join_all(children: &mut [Child]) {
    children.iter_mut().for_each(join_well);
}

// --- queues ---

fn send_range(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let sender = Queue::<u64>::open(segment, "queue")?.sender()?;
    if let Ok(enough) = Value::<bool>::open(segment, "enough") {
        say_ready(segment)?;
        enough.wait_while(|enough| !enough);
    }
    for value in context.parse(0)?..context.parse(1)? {
        sender.send(value)?;
    }
    Ok(())
}

fn receive_and_mark(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let marks = Array::<u8>::open(segment, "marks")?;
    for value in Queue::<u64>::open(segment, "queue")?.receiver()? {
        marks[value as usize].fetch_add(1, Relaxed);
    }
    Ok(())
}

fn send_slices(context: &Context) -> Outcome {
    die_with_parent();
    let sender = Queue::<u64>::open(context.segment(0)?, "queue")?.sender()?;
    let values: Vec<u64> = (context.parse(0)?..context.parse(1)?).collect();
    for slice in values.chunks(50) {
        sender.send_slice(slice)?;
    }
    Ok(())
}

fn receive_many_and_mark(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let marks = Array::<u8>::open(segment, "marks")?;
    let receiver = Queue::<u64>::open(segment, "queue")?.receiver()?;
    let mut buffer = Vec::new();
    while receiver.recv_many(&mut buffer, 33).is_ok() {
        if buffer.len() > 33 {
            return Err(failed(format!("{} messages instead of 33 at most", buffer.len())));
        }
        for value in buffer.drain(..) {
            marks[value as usize].fetch_add(1, Relaxed);
        }
    }
    Ok(())
}

#[test]
fn queue_brings_each_message_to_exactly_one_process() {
    for (send, receive) in [("send_range", "receive_and_mark"), ("send_slices", "receive_many_and_mark")] {
        const EACH: u64 = 3000;
        let scratch = scratch("each-once");
        let queue = Queue::<u64>::create(&scratch, "queue", 16).unwrap();
        // The first may have ended before the last begins.
        let _sender = queue.sender().unwrap();
        let marks = Array::<u8>::create(&scratch, "marks", 3 * EACH as usize).unwrap();
        let mut receivers: Vec<Child> = (0..3).map(|_| start(receive, &scratch, &[])).collect();
        let mut senders: Vec<Child> = (0..3).map(|i| start(send, &scratch, &[i * EACH, (i + 1) * EACH])).collect();
        join_all(&mut senders);
        queue.close();
        join_all(&mut receivers);
        assert!(marks.to_vec().iter().all(|&mark| mark == 1), "{send}, {receive}: {marks:?}");
        assert_alone(&scratch).unwrap();
    }
}

fn spsc_send_range(context: &Context) -> Outcome {
    die_with_parent();
    let mut sender = SpscQueue::<u64>::open(context.segment(0)?, "queue")?.sender()?;
    for value in context.parse(0)?..context.parse(1)? {
        sender.send(value)?;
    }
    sender.close();
    Ok(())
}

#[test]
fn spsc_queue_keeps_the_order_between_processes() {
    let scratch = scratch("spsc");
    let queue = SpscQueue::<u64>::create(&scratch, "queue", 8).unwrap();
    let mut sender = start("spsc_send_range", &scratch, &[5, 6005]);
    let mut receiver = queue.receiver().unwrap();
    assert!(receiver.iter().eq(5..6005));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    join_well(&mut sender);
}

fn take_seat(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let mut sender = SpscQueue::<u64>::open(segment, "queue")?.sender()?;
    sender.send(context.parse(0)?)?;
    say_ready(segment)?;
    loop {
        std::thread::park();
    }
}

#[test]
fn seat_is_taken_while_its_holder_lives_and_free_once_it_is_dead() {
    let scratch = scratch("seat");
    let queue = SpscQueue::<u64>::create(&scratch, "queue", 8).unwrap();
    let mut receiver = queue.receiver().unwrap();
    for round in 1..=3 {
        let mut holder = start("take_seat", &scratch, &[round.into()]);
        until_ready(&scratch, round);
        // It may be stopped for as long as it likes: that is not death.
        assert!(stop(&holder));
        match queue.sender() {
            Err(Error::SeatTaken { pid }) => assert_eq!(pid, holder.pid()),
            other => panic!("{other:?}"),
        }
        assert!(kill_and_reap(&mut holder));
        assert_eq!(receiver.recv(), Ok(round.into()));
        // Whoever comes next takes over: in the next round a process, in the last one we.
    }
    let mut sender = queue.sender().unwrap();
    sender.send(9).unwrap();
    assert_eq!(receiver.recv(), Ok(9));
}

// --- pipes ---

fn answer_squares(context: &Context) -> Outcome {
    die_with_parent();
    let mut end = Pipe::connect::<u64, u32>(context.segment(0)?, "pipe")?;
    loop {
        match end.recv() {
            Ok(question) => end.send(u64::from(question).pow(2))?,
            Err(RecvError::Disconnected { .. }) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

#[test]
fn duplex_pipe_carries_both_ways_and_ends_when_the_other_end_goes() {
    let scratch = scratch("duplex");
    let (mut first, second) = Pipe::pair::<u32, u64>(&scratch, "pipe", 4).unwrap();
    second.release();
    let mut child = start("answer_squares", &scratch, &[]);
    for question in 0..500 {
        first.send(question).unwrap();
        assert_eq!(first.recv(), Ok(u64::from(question).pow(2)));
    }
    drop(first);
    join_well(&mut child);
}

#[test]
fn pipe_reports_the_death_of_the_other_end_after_the_drain() {
    let scratch = scratch("pipe-death");
    let mut first = Pipe::create::<u32, u64>(&scratch, "pipe", 4).unwrap();
    let mut child = start("answer_squares", &scratch, &[]);
    first.send(3).unwrap();
    // It has answered, and the answer is still inside.
    assert!(first.poll(LONG));
    assert!(kill_and_reap(&mut child));
    assert_eq!(first.recv(), Ok(9));
    let peer = Departure::Died { pid: child.pid() };
    assert_eq!(first.recv(), Err(RecvError::Disconnected { peer }));
    assert_eq!(first.send(4), Err(SendError::Disconnected { message: 4, peer }));
    // A successor takes the free end and finds nothing of the dead one's.
    let mut child = start("answer_squares", &scratch, &[]);
    let deadline = Instant::now() + LONG;
    while first.send(5).is_err() {
        assert!(Instant::now() < deadline, "nobody takes the free end");
        std::thread::yield_now();
    }
    assert_eq!(first.recv_deadline(deadline), Ok(25));
    drop(first);
    join_well(&mut child);
}

fn sum_simplex(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let mut receiver = Pipe::simplex_receiver::<u64>(segment, "simplex", 32)?;
    let sum: u64 = receiver.iter().sum();
    Value::<u64>::open(segment, "sum")?.store(sum, Release);
    Ok(())
}

#[test]
fn simplex_pipe_carries_one_way() {
    let scratch = scratch("simplex");
    let sum = Value::<u64>::create(&scratch, "sum", 0).unwrap();
    let mut sender = Pipe::simplex_sender::<u64>(&scratch, "simplex", 32).unwrap();
    let mut child = start("sum_simplex", &scratch, &[]);
    // Nobody may be there yet: a receiver that is yet to come is not one that has gone.
    for value in 1..=10_000 {
        sender.send(value).unwrap();
    }
    drop(sender);
    join_well(&mut child);
    assert_eq!(sum.load(Acquire), 50_005_000);
}

fn ask_shared(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let end = Pipe::shared_first::<u64, u64>(segment, "shared", 8)?;
    let sum = Value::<u64>::open(segment, "sum")?;
    for question in context.parse(0)?..context.parse(1)? {
        end.send(question)?;
        // Whoever of the askers gets the answer: each asks once and gets one.
        sum.fetch_add(end.recv()?, Relaxed);
    }
    Ok(())
}

fn answer_shared(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let end = Pipe::shared_second::<u64, u64>(segment, "shared", 8)?;
    say_ready(segment)?;
    while let Ok(question) = end.recv() {
        end.send(2 * question)?;
    }
    Ok(())
}

#[test]
fn shared_pipe_has_any_number_of_holders_at_each_end() {
    let scratch = scratch("shared");
    let sum = Value::<u64>::create(&scratch, "sum", 0).unwrap();
    // As long as we hold a first end, nobody is the last to leave it.
    let keep = Pipe::shared_first::<u64, u64>(&scratch, "shared", 8).unwrap();
    let mut answerers: Vec<Child> = (0..2).map(|_| start("answer_shared", &scratch, &[])).collect();
    until_ready(&scratch, 2);
    let mut askers: Vec<Child> = (0..3).map(|i| start("ask_shared", &scratch, &[i * 1000, (i + 1) * 1000])).collect();
    join_all(&mut askers);
    assert!(answerers.iter_mut().all(Child::is_alive));
    drop(keep);
    join_all(&mut answerers);
    assert_eq!(sum.load(Relaxed), (0..3000).map(|n| 2 * n).sum());
}

// --- values, arrays, locks ---

fn add_to_values(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let (integer, float) = (Value::<i64>::open(segment, "integer")?, Value::<f64>::open(segment, "float")?);
    let (flag, product) = (Value::<bool>::open(segment, "flag")?, Value::<u32>::open(segment, "product")?);
    for n in 0..1000 {
        integer.fetch_sub(n, Relaxed);
        float.fetch_add(0.5, Relaxed);
        flag.fetch_xor(true, Relaxed);
        product.update(Relaxed, |value| value.wrapping_mul(3));
    }
    Ok(())
}

#[test]
fn value_changes_of_several_processes_all_count() {
    let scratch = scratch("values");
    let integer = Value::<i64>::create(&scratch, "integer", 0).unwrap();
    let float = Value::<f64>::create(&scratch, "float", 0.0).unwrap();
    let flag = Value::<bool>::create(&scratch, "flag", false).unwrap();
    let product = Value::<u32>::create(&scratch, "product", 1).unwrap();
    let mut children: Vec<Child> = (0..3).map(|_| start("add_to_values", &scratch, &[])).collect();
    join_all(&mut children);
    assert_eq!(integer.load(Relaxed), -3 * 499_500);
    assert_eq!(float.load(Relaxed).to_bits(), 1500.0_f64.to_bits());
    assert!(!flag.load(Relaxed));
    assert_eq!(product.load(Relaxed), 3_u32.wrapping_pow(3000));
}

fn wait_for_value(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let value = Value::<u64>::open(segment, "value")?;
    say_ready(segment)?;
    let wanted = context.parse(0)?;
    match value.wait_while(|value| value < wanted) {
        got if got >= wanted => Ok(()),
        got => Err(failed(format!("woke with {got}"))),
    }
}

#[test]
fn value_wakes_the_processes_that_wait_for_it() {
    let scratch = scratch("value-wait");
    let value = Value::<u64>::create(&scratch, "value", 0).unwrap();
    let mut children: Vec<Child> = [1, 2, 2].map(|wanted| start("wait_for_value", &scratch, &[wanted])).into();
    until_all_asleep(&scratch, &mut children);
    value.store(1, Release);
    value.notify_all();
    join_well(&mut children.remove(0));
    assert!(children.iter_mut().all(Child::is_alive));
    value.store(2, Release);
    value.notify_all();
    join_all(&mut children);
}

fn fill_part(context: &Context) -> Outcome {
    die_with_parent();
    let array = Array::<i16>::open(context.segment(0)?, "array")?;
    let (start, end): (usize, usize) = (context.parse(0)?, context.parse(1)?);
    let part: Vec<i16> = (start..end).map(|n| n as i16 - 500).collect();
    array.write(start, &part)?;
    match array.write(array.len() - 1, &[1, 2]) {
        Err(Error::OutOfRange { .. }) => Ok(()),
        other => Err(failed(format!("{other:?}"))),
    }
}

fn wait_for_array(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let array = Array::<i16>::open(segment, "array")?;
    say_ready(segment)?;
    array.wait_while(|cells| cells.iter().map(|cell| i64::from(cell.load(Acquire))).sum::<i64>() == 0);
    Ok(())
}

#[test]
fn array_is_filled_by_several_processes_and_wakes_those_that_wait_for_it() {
    let scratch = scratch("array");
    let array = Array::<i16>::create(&scratch, "array", 1000).unwrap();
    let mut waiting = [start("wait_for_array", &scratch, &[])];
    until_all_asleep(&scratch, &mut waiting);
    let mut children: Vec<Child> = (0..4).map(|i| start("fill_part", &scratch, &[i * 250, (i + 1) * 250])).collect();
    join_all(&mut children);
    assert!(array.to_vec().into_iter().eq(-500..500));
    array.notify_all();
    join_all(&mut waiting);
}

fn increment_under_lock(context: &Context) -> Outcome {
    die_with_parent();
    let lock = Lock::<[u64; 2]>::open(context.segment(0)?, "lock")?;
    for _ in 0..2000 {
        let mut guard = lock.lock().map_err(|e| failed(e.to_string()))?;
        let [first, second] = *guard;
        if first != second {
            return Err(failed(format!("{first} and {second}: somebody else is inside")));
        }
        guard[0] = first + 1;
        support::spin(first % 8);
        guard[1] = second + 1;
    }
    Ok(())
}

#[test]
fn lock_excludes_other_processes() {
    let scratch = scratch("lock");
    let lock = Lock::<[u64; 2]>::create(&scratch, "lock", [0, 0]).unwrap();
    let mut children: Vec<Child> = (0..3).map(|_| start("increment_under_lock", &scratch, &[])).collect();
    join_all(&mut children);
    assert_eq!(*lock.lock().unwrap(), [6000, 6000]);
}

fn hold_lock(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let lock = Lock::<[u64; 2]>::open(segment, "lock")?;
    let mut guard = lock.lock().map_err(|e| failed(e.to_string()))?;
    guard[0] += 1;
    say_ready(segment)?;
    if context.parse::<u64>(0)? == 0 {
        loop {
            std::thread::park();
        }
    }
    // Until somebody waits for it.
    Value::<bool>::open(segment, "enough")?.wait_while(|enough| !enough);
    guard[1] += 1;
    drop(guard);
    Ok(())
}

#[test]
fn lock_of_a_dead_holder_comes_with_the_news_and_once() {
    let scratch = scratch("lock-death");
    let lock = Lock::<[u64; 2]>::create(&scratch, "lock", [0, 0]).unwrap();
    let mut holder = start("hold_lock", &scratch, &[0]);
    until_ready(&scratch, 1);
    assert!(lock.try_lock().is_err_and(|e| e.is_would_block()));
    // Stopped is not dead.
    assert!(stop(&holder));
    assert!(lock.lock_timeout(Duration::from_millis(1)).is_err_and(|e| e.is_timeout()));
    let pid = holder.pid();
    assert!(kill_and_reap(&mut holder));
    match lock.lock() {
        Err(LockError::OwnerDied { mut guard, pid: said }) => {
            assert_eq!((said, *guard), (pid, [1, 0]));
            guard[0] = 0;
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(*lock.lock().unwrap(), [0, 0]);
}

#[test]
fn lock_is_handed_to_a_process_that_sleeps_for_it() {
    let scratch = scratch("lock-wait");
    let lock = Lock::<[u64; 2]>::create(&scratch, "lock", [0, 0]).unwrap();
    let enough = Value::<bool>::create(&scratch, "enough", false).unwrap();
    let mut holder = start("hold_lock", &scratch, &[1]);
    until_ready(&scratch, 1);
    let mut waiting = start("increment_under_lock", &scratch, &[]);
    until_asleep(&mut waiting);
    enough.store(true, Release);
    enough.notify_all();
    join_well(&mut holder);
    join_well(&mut waiting);
    assert_eq!(*lock.lock().unwrap(), [2001, 2001]);
}

// --- sleeping and waking ---

fn receive_one(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let receiver = Queue::<u64>::open(segment, "queue")?.receiver()?;
    let got = Value::<u64>::open(segment, "got")?;
    say_ready(segment)?;
    got.fetch_add(receiver.recv()?, Release);
    Ok(())
}

#[test]
fn receivers_that_sleep_are_woken_one_for_each_message() {
    let scratch = scratch("wake");
    let queue = Queue::<u64>::create(&scratch, "queue", 8).unwrap();
    let got = Value::<u64>::create(&scratch, "got", 0).unwrap();
    let mut children: Vec<Child> = (0..3).map(|_| start("receive_one", &scratch, &[])).collect();
    until_all_asleep(&scratch, &mut children);
    let sender = queue.sender().unwrap();
    for (sent, value) in [(1, 1), (2, 10), (3, 100)] {
        sender.send(value).unwrap();
        until("one more has received", || {
            children.iter_mut().map(|child| u32::from(!child.is_alive())).sum::<u32>() == sent
        });
    }
    join_all(&mut children);
    assert_eq!(got.load(Acquire), 111);
}

/// Sends back what it gets.
fn echo(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let requests = Queue::<u64>::open(segment, "requests")?.receiver()?;
    let replies = Queue::<u64>::open(segment, "replies")?.sender()?;
    say_ready(segment)?;
    for value in requests {
        replies.send(value)?;
    }
    Ok(())
}

/// A sleeper also looks by itself every 100 ms, which would hide a wake that is lost: found by the look, a message would
/// be late by up to that, all delays being as likely. So a quarter of the messages at least must be back within a tenth
/// of that time. With wakes, nearly all are, on a busy machine too; with looks alone, one in ten.
#[test]
fn receiver_that_sleeps_is_woken_and_does_not_just_look_again() {
    let scratch = scratch("wake-not-look");
    let requests = Queue::<u64>::create(&scratch, "requests", 8).unwrap();
    let replies = Queue::<u64>::create(&scratch, "replies", 8).unwrap().receiver().unwrap();
    let mut children = [start("echo", &scratch, &[])];
    until_ready(&scratch, 1);
    let sender = requests.sender().unwrap();
    let mut soon = 0;
    const ROUNDS: u64 = 40;
    for round in 0..ROUNDS {
        until_asleep(&mut children[0]);
        let begin = Instant::now();
        sender.send(round).unwrap();
        assert_eq!(replies.recv(), Ok(round));
        soon += u64::from(begin.elapsed() < Duration::from_millis(10));
    }
    assert!(soon >= ROUNDS / 4, "only {soon} of {ROUNDS} messages woke the receiver");
    requests.close();
    join_all(&mut children);
}

fn receive_until_error(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let receiver = Queue::<u64>::open(segment, "queue")?.receiver()?;
    let (ended, sum) = (Queue::<u64>::open(segment, "ended")?.sender()?, Value::<u64>::open(segment, "sum")?);
    say_ready(segment)?;
    let error = loop {
        match receiver.recv() {
            Ok(value) => sum.fetch_add(value, Relaxed),
            Err(e) => break e,
        };
    };
    Ok(ended.send(code(error))?)
}

fn code(error: RecvError) -> u64 {
    match error {
        RecvError::Closed => 1,
        RecvError::Disconnected { .. } => 2,
        _ => 3,
    }
}

fn send_until_error(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let sender = Queue::<u64>::open(segment, "queue")?.sender()?;
    let (ended, sent) = (Queue::<u64>::open(segment, "ended")?.sender()?, Value::<u64>::open(segment, "sent")?);
    say_ready(segment)?;
    let error = loop {
        match sender.send(1) {
            Ok(()) => sent.fetch_add(1, Relaxed),
            Err(e) => break e,
        };
    };
    let code = match error {
        SendError::Closed(1) => 1,
        SendError::Disconnected { message: 1, .. } => 2,
        _ => 3,
    };
    Ok(ended.send(code)?)
}

/// A queue, and another one through which processes say how their calls ended.
fn two_queues(scratch: &Scratch, capacity: usize) -> (Queue<u64>, gimmal::Receiver<u64>) {
    let options = Queue::<u64>::options().capacity(capacity);
    let queue = options.create::<u64>(scratch, "queue").unwrap();
    let ended = Queue::<u64>::create(scratch, "ended", 8).unwrap();
    Value::<u64>::create(scratch, "sum", 0).unwrap();
    Value::<u64>::create(scratch, "sent", 0).unwrap();
    (queue, ended.receiver().unwrap())
}

#[test]
fn close_wakes_receivers_that_sleep_in_other_processes() {
    let scratch = scratch("close-receivers");
    let (queue, ended) = two_queues(&scratch, 8);
    let mut children: Vec<Child> = (0..3).map(|_| start("receive_until_error", &scratch, &[])).collect();
    until_all_asleep(&scratch, &mut children);
    queue.close();
    join_all(&mut children);
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(queue.sender().unwrap().try_send(1), Err(TrySendError::Closed(1)));
}

#[test]
fn close_wakes_senders_that_sleep_on_a_full_queue_and_leaves_what_was_sent() {
    let scratch = scratch("close-senders");
    let (queue, ended) = two_queues(&scratch, 4);
    let mut children: Vec<Child> = (0..3).map(|_| start("send_until_error", &scratch, &[])).collect();
    until_all_asleep(&scratch, &mut children);
    assert!(queue.is_full());
    queue.close();
    join_all(&mut children);
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [1, 1, 1]);
    let sent = Value::<u64>::open(&scratch, "sent").unwrap().load(Acquire);
    assert_eq!((sent, queue.receiver().unwrap().iter().count()), (4, 4));
}

#[test]
fn send_on_a_full_queue_sleeps_until_there_is_room() {
    let scratch = scratch("full");
    let queue = Queue::<u64>::create(&scratch, "queue", 4).unwrap();
    let receiver = queue.receiver().unwrap();
    let mut child = start("send_range", &scratch, &[0, 6]);
    until("the queue is full", || queue.is_full());
    until_asleep(&mut child);
    assert_eq!(receiver.recv(), Ok(0));
    until("the fifth message is there", || queue.is_full());
    until_asleep(&mut child);
    assert_eq!(receiver.recv(), Ok(1));
    join_well(&mut child);
    assert!(receiver.try_iter().eq(2..6));
}

#[test]
fn receivers_hear_that_the_last_sender_has_ended_after_its_last_message() {
    let scratch = scratch("last-sender-ends");
    let (queue, ended) = two_queues(&scratch, 8);
    let enough = Value::<bool>::create(&scratch, "enough", false).unwrap();
    let mut receivers: Vec<Child> = (0..2).map(|_| start("receive_until_error", &scratch, &[])).collect();
    // Nobody has left who has yet to come: they sleep.
    until_all_asleep(&scratch, &mut receivers);
    let mut senders: Vec<Child> = (0..2).map(|i| start("send_range", &scratch, &[i * 500, (i + 1) * 500])).collect();
    // Both are there before either begins, else the first could be the last.
    until_ready(&scratch, 4);
    enough.store(true, Release);
    enough.notify_all();
    join_all(&mut senders);
    join_all(&mut receivers);
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [2, 2]);
    assert_eq!(Value::<u64>::open(&scratch, "sum").unwrap().load(Acquire), (0..1000).sum());
    assert_eq!(queue.receiver().unwrap().try_recv(), Err(TryRecvError::Disconnected { peer: Departure::Closed }));
}

#[test]
fn receivers_hear_that_the_last_sender_was_killed() {
    let scratch = scratch("last-sender-killed");
    let (queue, ended) = two_queues(&scratch, 8);
    let mut sender = start("send_until_error", &scratch, &[]);
    until_ready(&scratch, 1);
    until("it has sent", || !queue.is_empty());
    until_asleep(&mut sender);
    assert!(kill_and_reap(&mut sender));
    let mut receivers: Vec<Child> = (0..2).map(|_| start("receive_until_error", &scratch, &[])).collect();
    join_all(&mut receivers);
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [2, 2]);
    assert_eq!(Value::<u64>::open(&scratch, "sum").unwrap().load(Acquire), 8);
}

#[test]
fn receivers_that_sleep_hear_that_the_last_sender_was_killed() {
    let scratch = scratch("last-sender-killed-asleep");
    let (queue, ended) = two_queues(&scratch, 4);
    // It fills the queue and sleeps; what it sent is taken away until the receivers sleep too.
    let mut sender = start("send_until_error", &scratch, &[]);
    until_ready(&scratch, 1);
    until_asleep(&mut sender);
    assert!(stop(&sender));
    let mut receivers: Vec<Child> = (0..2).map(|_| start("receive_until_error", &scratch, &[])).collect();
    until_ready(&scratch, 3);
    until("they have taken all", || queue.is_empty());
    receivers.iter_mut().for_each(until_asleep);
    assert_eq!(ended.try_recv(), Err(TryRecvError::Empty), "stopped is not dead");
    assert!(kill_and_reap(&mut sender));
    join_all(&mut receivers);
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn senders_that_sleep_hear_that_the_last_receiver_was_killed() {
    let scratch = scratch("last-receiver-killed");
    let (queue, ended) = two_queues(&scratch, 4);
    Value::<u64>::create(&scratch, "got", 0).unwrap();
    let mut receiver = start("receive_until_error", &scratch, &[]);
    until_ready(&scratch, 1);
    until_asleep(&mut receiver);
    assert!(stop(&receiver));
    let mut senders: Vec<Child> = (0..2).map(|_| start("send_until_error", &scratch, &[])).collect();
    until_ready(&scratch, 3);
    senders.iter_mut().for_each(until_asleep);
    assert!(queue.is_full());
    assert!(kill_and_reap(&mut receiver));
    join_all(&mut senders);
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [2, 2]);
}

/// Two sleep, one of them is killed: the message is for the other.
#[test]
fn process_that_is_killed_in_its_sleep_takes_no_wake_with_it() {
    for round in 0..10 {
        let scratch = scratch("killed-asleep");
        let queue = Queue::<u64>::options().keep_waiting(true).create::<u64>(&scratch, "queue").unwrap();
        let got = Value::<u64>::create(&scratch, "got", 0).unwrap();
        let mut children: Vec<Child> = (0..2).map(|_| start("receive_one", &scratch, &[])).collect();
        until_all_asleep(&scratch, &mut children);
        let sender = queue.sender().unwrap();
        if round % 2 == 0 {
            assert!(kill_and_reap(&mut children[round / 2 % 2]));
            children.remove(round / 2 % 2);
            sender.send(5).unwrap();
            join_all(&mut children);
            assert_eq!(got.load(Acquire), 5);
        } else {
            // Killed as it is being woken: it may take one of the two messages with it, and not both.
            sender.send(5).unwrap();
            children[round / 2 % 2].kill().unwrap();
            sender.send(5).unwrap();
            join(&mut children[round / 2 % 2]);
            children.remove(round / 2 % 2);
            join_all(&mut children);
        }
    }
}

// --- time limits ---

/// Notifies all the time, of nothing.
fn notify_for_nothing(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let (value, enough) = (Value::<u64>::open(segment, "value")?, Value::<bool>::open(segment, "enough")?);
    say_ready(segment)?;
    while !enough.load(Relaxed) {
        value.notify_all();
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn time_limits_are_never_early() {
    const LIMIT: Duration = Duration::from_millis(30);
    let scratch = scratch("limits");
    let value = Value::<u64>::create(&scratch, "value", 0).unwrap();
    let enough = Value::<bool>::create(&scratch, "enough", false).unwrap();
    let lock = Lock::<[u64; 2]>::create(&scratch, "lock", [0, 0]).unwrap();
    let queue = Queue::<u64>::create(&scratch, "queue", 1).unwrap();
    let spsc = SpscQueue::<u64>::create(&scratch, "spsc", 1).unwrap();
    let (mut first, mut second) = Pipe::pair::<u64, u64>(&scratch, "pipe", 1).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let (mut spsc_sender, mut spsc_receiver) = (spsc.sender().unwrap(), spsc.receiver().unwrap());
    // Somebody else holds the lock and somebody wakes those who wait for the value, all the time.
    let mut others = [start("hold_lock", &scratch, &[1]), start("notify_for_nothing", &scratch, &[])];
    until_ready(&scratch, 2);

    let timed = |what: &str, call: &mut dyn FnMut(Instant)| {
        let begin = Instant::now();
        call(begin + LIMIT);
        let took = begin.elapsed();
        assert!(took >= LIMIT, "{what} was back after {took:?}");
    };
    timed("recv_timeout", &mut |_| assert_eq!(receiver.recv_timeout(LIMIT), Err(RecvTimeoutError::Timeout)));
    timed("recv_deadline", &mut |at| assert_eq!(receiver.recv_deadline(at), Err(RecvTimeoutError::Timeout)));
    timed("spsc recv_timeout", &mut |_| {
        assert_eq!(spsc_receiver.recv_timeout(LIMIT), Err(RecvTimeoutError::Timeout));
    });
    timed("spsc recv_deadline", &mut |at| {
        assert_eq!(spsc_receiver.recv_deadline(at), Err(RecvTimeoutError::Timeout));
    });
    timed("pipe recv_timeout", &mut |_| assert_eq!(first.recv_timeout(LIMIT), Err(RecvTimeoutError::Timeout)));
    timed("pipe poll", &mut |_| assert!(!second.poll(LIMIT)));
    sender.send(1).unwrap();
    spsc_sender.send(1).unwrap();
    first.send(1).unwrap();
    timed("send_timeout", &mut |_| assert_eq!(sender.send_timeout(2, LIMIT), Err(SendTimeoutError::Timeout(2))));
    timed("send_deadline", &mut |at| assert_eq!(sender.send_deadline(2, at), Err(SendTimeoutError::Timeout(2))));
    timed("spsc send_timeout", &mut |_| {
        assert_eq!(spsc_sender.send_timeout(2, LIMIT), Err(SendTimeoutError::Timeout(2)));
    });
    timed("pipe send_deadline", &mut |at| {
        assert_eq!(first.send_deadline(2, at), Err(SendTimeoutError::Timeout(2)));
    });
    timed("lock_timeout", &mut |_| assert!(lock.lock_timeout(LIMIT).is_err_and(|e| e.is_timeout())));
    timed("lock_deadline", &mut |at| assert!(lock.lock_deadline(at).is_err_and(|e| e.is_timeout())));
    timed("wait_while_timeout", &mut |_| {
        assert_eq!(value.wait_while_timeout(LIMIT, |value| value == 0), Err(Timeout));
    });
    // Nothing was sent or taken by those that timed out, and a limit that has passed does not keep what is there.
    let past = Instant::now().checked_sub(LIMIT).unwrap_or_else(Instant::now);
    assert_eq!(
        (receiver.recv_deadline(past), receiver.recv_timeout(Duration::ZERO)),
        (Ok(1), Err(RecvTimeoutError::Timeout))
    );
    assert_eq!(spsc_receiver.recv_deadline(past), Ok(1));
    assert_eq!(second.recv_timeout(Duration::ZERO), Ok(1));
    assert!(second.try_recv().is_err());

    enough.store(true, Release);
    enough.notify_all();
    join_all(&mut others);
}

// --- stopped in the middle ---

fn send_huge(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let sender = Queue::<Huge>::open(segment, "queue")?.sender()?;
    let enough = Value::<bool>::open(segment, "enough")?;
    let mut number = 0;
    while !enough.load(Acquire) {
        number += 1;
        sender.send(Huge::make(number))?;
    }
    Value::<u64>::open(segment, "count")?.store(number, Release);
    Ok(())
}

fn receive_huge(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let (count, sum) = (Value::<u64>::open(segment, "count")?, Value::<u64>::open(segment, "sum")?);
    for message in Queue::<Huge>::open(segment, "queue")?.receiver()? {
        message.check()?;
        sum.fetch_add(message.value(), Release);
        count.fetch_add(1, Release);
    }
    Ok(())
}

/// A queue of four huge messages.
fn huge_queue(case: &str) -> (Scratch, Queue<Huge>, Slots) {
    let scratch = Scratch::new(case, Segment::options().size(Queue::<Huge>::bytes(4) + (64 << 10)));
    let queue = Queue::<Huge>::create(&scratch, "queue", 4).unwrap();
    Value::<bool>::create(&scratch, "enough", false).unwrap();
    Value::<u64>::create(&scratch, "count", 0).unwrap();
    Value::<u64>::create(&scratch, "sum", 0).unwrap();
    let slots = Slots::of_queue(&scratch, "queue");
    (scratch, queue, slots)
}

/// Stops `child` again and again, letting `traffic` flow in between, until it stands still with a claim on a slot.
fn stop_in_the_middle(child: &Child, segment: &Segment, slots: &Slots, mut traffic: impl FnMut()) -> Claim {
    let (begin, mut random) = (Instant::now(), support::Random::announced("stop in the middle"));
    loop {
        traffic();
        random.spin();
        assert!(stop(child), "it ended");
        let peer = segment.peers().into_iter().find(|peer| peer.pid == child.pid());
        if let Some(&[claim]) = peer.map(|peer| slots.claims(peer.id)).as_deref() {
            return claim;
        }
        resume(child);
        assert!(begin.elapsed() < LONG, "it is never in the middle of anything");
    }
}

/// Receives what is there, which must go on from `next`.
#[track_caller]
fn receive_in_order(receiver: &gimmal::Receiver<Huge>, next: &mut u64) {
    for message in receiver.try_iter() {
        message.check().unwrap();
        assert_eq!(message.value(), *next, "one sender's messages come in order, each once");
        *next += 1;
    }
}

/// A sender that stands still in the middle of a send keeps its slot, and nothing else: what the others send until the
/// ring comes round to that slot is received past it.
#[test]
fn sender_that_is_stopped_in_the_middle_is_passed_by_the_others_and_goes_on() {
    let (scratch, queue, slots) = huge_queue("stopped-sender");
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut child = start("send_huge", &scratch, &[]);
    let mut next = 1;
    for _ in 0..5 {
        let claim = stop_in_the_middle(&child, &scratch, &slots, || receive_in_order(&receiver, &mut next));
        assert_eq!(claim, Claim::Writing);
        receive_in_order(&receiver, &mut next);
        assert_eq!(receiver.try_recv().map(|m| m.value()), Err(TryRecvError::Empty));
        for number in 1..=3 {
            let value = 1 << 40 | number;
            let sent = sender.try_send(Huge::make(value));
            assert!(sent.is_ok(), "message {number}, and the other three slots are free: {sent:?}, {slots:?}");
            let message = receiver.try_recv().expect("a message behind one that is being written");
            message.check().unwrap();
            assert_eq!(message.value(), value);
        }
        resume(&child);
        let stopped_at = next;
        until("what was stopped is sent", || {
            receive_in_order(&receiver, &mut next);
            next > stopped_at
        });
    }
    Value::<bool>::open(&scratch, "enough").unwrap().store(true, Release);
    until("the sender ends", || {
        receive_in_order(&receiver, &mut next);
        !child.is_alive()
    });
    join_well(&mut child);
    receive_in_order(&receiver, &mut next);
    assert_eq!(next - 1, Value::<u64>::open(&scratch, "count").unwrap().load(Acquire));
}

/// A receiver that stands still in the middle of a receive keeps its message; the others get the ones behind it.
#[test]
fn receiver_that_is_stopped_in_the_middle_is_passed_by_the_others_and_goes_on() {
    let (scratch, queue, slots) = huge_queue("stopped-receiver");
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut child = start("receive_huge", &scratch, &[]);
    let (mut sent, mut sum) = (0, 0);
    for _ in 0..5 {
        let claim = stop_in_the_middle(&child, &scratch, &slots, || {
            while sender.try_send(Huge::make(sent + 1)).is_ok() {
                sent += 1;
                sum += sent;
            }
        });
        let Claim::Reading(held) = claim else { panic!("{claim:?}") };
        // What is behind it, in order and without it.
        let passed: Vec<u64> = receiver.try_iter().map(|message| message.value()).collect();
        assert!(passed.iter().copied().eq(held + 1..=sent), "{passed:?}, {held} is being read, {sent} were sent");
        sum -= passed.iter().sum::<u64>();
        let count = Value::<u64>::open(&scratch, "count").unwrap();
        let before = count.load(Acquire);
        resume(&child);
        until("what was stopped is received", || count.load(Acquire) > before);
    }
    queue.close();
    join_well(&mut child);
    assert_eq!(Value::<u64>::open(&scratch, "sum").unwrap().load(Acquire), sum, "each message to exactly one");
}

/// Receives batches.
fn receive_huge_batches(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let count = Value::<u64>::open(segment, "count")?;
    let receiver = Queue::<Huge>::open(segment, "queue")?.receiver()?;
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let received = receiver.recv_many(&mut buffer, 4)? as u64;
        count.fetch_add(received, Release);
    }
}

/// None of the messages of a batch counts as received before the call is about to return.
#[test]
fn batch_that_is_being_received_comes_back_whole_when_the_receiver_dies() {
    let (scratch, queue, slots) = huge_queue("killed-batch");
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let count = Value::<u64>::open(&scratch, "count").unwrap();
    let (mut child, mut random) = (start("receive_huge_batches", &scratch, &[]), support::Random::announced("batch"));
    let (begin, mut sent) = (Instant::now(), 0);
    let held = loop {
        while sender.try_send(Huge::make(sent + 1)).is_ok() {
            sent += 1;
        }
        random.spin();
        assert!(stop(&child), "it ended");
        let peer = scratch.peers().into_iter().find(|peer| peer.pid == child.pid());
        let claims = peer.map_or(Vec::new(), |peer| slots.claims(peer.id));
        let mut held: Vec<u64> =
            claims.iter().map(|claim| if let Claim::Reading(n) = claim { *n } else { 0 }).collect();
        held.sort_unstable();
        // Two at least, from the one after the last that was received: it has not begun to let go of them.
        if held.len() >= 2 && held[0] == count.load(Acquire) + 1 {
            break held;
        }
        resume(&child);
        assert!(begin.elapsed() < LONG, "it never holds several messages at once");
    };
    assert!(kill_and_reap(&mut child));
    scratch.recover().unwrap();
    let rest: Vec<u64> = receiver.try_iter().map(|message| message.value()).collect();
    assert!(rest.iter().copied().eq(held[0]..=sent), "it held {held:?}, {sent} were sent, and {rest:?} are left");
}

// --- segments ---

fn create_together(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    say_ready(segment)?;
    Value::<bool>::open(segment, "enough")?.wait_while(|enough| !enough);
    for number in 0..20 {
        let counter = Value::<u32>::open_or_create(segment, &format!("counter-{number}"), 1000)?;
        counter.fetch_add(1, Relaxed);
        let queue = Queue::<u32>::open_or_create(segment, &format!("queue-{number}"), 5)?;
        queue.sender()?.try_send(number)?;
    }
    Ok(())
}

#[test]
fn object_that_several_processes_create_at_once_is_one() {
    let scratch = scratch("create-together");
    let enough = Value::<bool>::create(&scratch, "enough", false).unwrap();
    let mut children: Vec<Child> = (0..4).map(|_| start("create_together", &scratch, &[])).collect();
    until_ready(&scratch, 4);
    enough.store(true, Release);
    enough.notify_all();
    join_all(&mut children);
    for number in 0..20 {
        let counter = Value::<u32>::open(&scratch, &format!("counter-{number}")).unwrap();
        assert_eq!(counter.load(Relaxed), 1004);
        let receiver = Queue::<u32>::open(&scratch, &format!("queue-{number}")).unwrap().receiver().unwrap();
        assert!(receiver.try_iter().eq([number; 4]));
    }
    assert_eq!(scratch.snapshot().unwrap().objects.len(), 42);
}

/// Gets an unnamed segment, and another one whose descriptor it hands on in the same way.
fn copy_through_anonymous(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let depth: u64 = context.parse(0)?;
    if depth > 0 {
        let mut child = start("copy_through_anonymous", segment, &[depth - 1]);
        let status = join(&mut child);
        return if status.success() { Ok(()) } else { Err(failed(status.to_string())) };
    }
    let receiver = Queue::<u64>::open(segment, "there")?.receiver()?;
    let sender = Queue::<u64>::open(segment, "back")?.sender()?;
    receiver.iter().try_for_each(|value| sender.send(value + 1))?;
    sender.close();
    Ok(())
}

#[test]
fn unnamed_segment_travels_to_children_and_grandchildren() {
    let segment = Segment::anonymous().unwrap();
    let there = Queue::<u64>::create(&segment, "there", 4).unwrap();
    let back = Queue::<u64>::create(&segment, "back", 4).unwrap().receiver().unwrap();
    let mut child = start("copy_through_anonymous", &segment, &[1]);
    let sender = there.sender().unwrap();
    for value in 0..500 {
        sender.send(value).unwrap();
        assert_eq!(back.recv(), Ok(value + 1));
    }
    // The child in the middle, the grandchild, and we.
    assert_eq!(segment.peers().len(), 3);
    sender.close();
    assert_eq!(back.recv(), Err(RecvError::Closed));
    join_well(&mut child);
    assert_alone(&segment).unwrap();
}
