//! Processes that are stopped (SIGSTOP) wherever they are. A stopped process is alive: what it holds stays its own, nobody is
//! told that it died, the others go on around it, and it goes on where it was when it is continued.
//!
//! To stop one in the middle of an operation, the test executes it instruction by instruction (ptrace) until the slot word
//! says so. Where that is not permitted, these tests say so and pass.

mod support;

use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::Duration;

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{
    Departure, Error, Lock, LockError, Pipe, Queue, Receiver, RecvTimeoutError, Segment, SendTimeoutError, Sender,
    SpscQueue, TryRecvError, TrySendError, Value,
};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use support::{
    Claim, LONG, Scratch, Slots, die_with_parent, failed, join_well, kill_and_reap, resume, say_ready, stop, until,
    until_asleep, until_ready,
};

const ENTRIES: [Entry; 10] = gimmal::entries![
    hold_lock,
    wait_for_lock,
    send_one,
    receive_one,
    send_reserved,
    receive_in_place,
    spsc_send_one,
    answer_on_pipe,
    sleep_in_receive,
    sit_on_pipe,
];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment) -> Child {
    process::init(&ENTRIES);
    support::process(entry).segment(segment).spawn().expect("start a process")
}

/// Long enough for a call to go to sleep, and short enough to wait for.
const SHORT: Duration = Duration::from_millis(20);

/// A segment with a counter `ready`, by which processes say that they have come to the point, `go`, by which they are told
/// to go on, and `got`, where they put what they have received.
fn scratch(case: &str) -> Scratch {
    let scratch = Scratch::small(case);
    Value::<u32>::create(&scratch, "ready", 0).unwrap();
    Value::<bool>::create(&scratch, "go", false).unwrap();
    Value::<u64>::create(&scratch, "got", 0).unwrap();
    Value::<i32>::create(&scratch, "thread", 0).unwrap();
    scratch
}

fn go(segment: &Segment) {
    tell(segment, true);
}

fn tell(segment: &Segment, whether: bool) {
    let go = Value::<bool>::open(segment, "go").unwrap();
    go.store(whether, Release);
    go.notify_all();
}

/// Without a system call, for a process that is executed step by step.
fn spin_until_go(segment: &Segment) -> Result<(), Error> {
    let go = Value::<bool>::open(segment, "go")?;
    // A test harness does not run this in the first thread.
    Value::<i32>::open(segment, "thread")?.store(gettid().as_raw(), Release);
    say_ready(segment)?;
    while !go.load(Acquire) {
        std::hint::spin_loop();
    }
    Ok(())
}

fn got(segment: &Segment) -> u64 {
    Value::<u64>::open(segment, "got").unwrap().load(Acquire)
}

/// The participant of a child.
fn id_of(child: &Child, segment: &Segment) -> u16 {
    segment.peers().into_iter().find(|peer| peer.pid == child.pid()).expect("it has joined").id
}

// --- locks ---

fn hold_lock(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let go = Value::<bool>::open(segment, "go")?;
    let mut guard = Lock::<u64>::open(segment, "lock")?.lock().map_err(|e| failed(e.to_string()))?;
    *guard = 1;
    say_ready(segment)?;
    go.wait_while(|go| !go);
    *guard = 2;
    Ok(())
}

fn wait_for_lock(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let lock = Lock::<u64>::open(segment, "lock")?;
    say_ready(segment)?;
    let mut guard = lock.lock().map_err(|e| failed(e.to_string()))?;
    *guard += 10;
    Ok(())
}

#[test]
fn lock_stays_its_holders_while_it_is_stopped() {
    let scratch = scratch("stopped-lock");
    let lock = Lock::<u64>::create(&scratch, "lock", 0).unwrap();
    let mut holder = start("hold_lock", &scratch);
    until_ready(&scratch, 1);
    let mut waiter = start("wait_for_lock", &scratch);
    until_ready(&scratch, 2);
    assert!(stop(&holder));
    assert!(lock.try_lock().is_err_and(|e| e.is_would_block()));
    assert!(lock.lock_timeout(SHORT).is_err_and(|e| e.is_timeout()));
    assert_eq!(scratch.recover().unwrap().locks, 0, "taken from a stopped process");
    // It has been told to let go, and cannot.
    go(&scratch);
    assert!(lock.lock_timeout(SHORT).is_err_and(|e| e.is_timeout()));
    until_asleep(&mut waiter);
    resume(&holder);
    join_well(&mut holder);
    // Both without news of a death; the waiter said so by ending well.
    join_well(&mut waiter);
    assert_eq!(*lock.lock().unwrap(), 12);
}

#[test]
fn lock_goes_to_those_who_run_when_a_waiter_is_stopped() {
    let scratch = scratch("stopped-waiter");
    let lock = Lock::<u64>::create(&scratch, "lock", 0).unwrap();
    let mut guard = lock.lock().unwrap();
    let mut waiters = [(); 2].map(|()| start("wait_for_lock", &scratch));
    until_ready(&scratch, 2);
    waiters.iter_mut().for_each(until_asleep);
    let [stopped, running] = &mut waiters;
    assert!(stop(stopped));
    *guard = 1;
    drop(guard);
    join_well(running);
    assert_eq!(*lock.lock().unwrap(), 11);
    resume(stopped);
    join_well(stopped);
    assert_eq!(*lock.lock().unwrap(), 21);
}

#[test]
fn lock_of_a_process_that_is_killed_while_it_is_stopped_is_handed_on_with_the_news() {
    let scratch = scratch("stopped-killed");
    let lock = Lock::<u64>::create(&scratch, "lock", 0).unwrap();
    let mut holder = start("hold_lock", &scratch);
    until_ready(&scratch, 1);
    assert!(stop(&holder));
    let pid = holder.pid();
    let waiter = thread::spawn(move || match lock.lock() {
        Err(LockError::OwnerDied { guard, pid }) => (*guard, pid),
        other => panic!("{other:?}"),
    });
    assert!(kill_and_reap(&mut holder));
    assert_eq!(waiter.join().unwrap(), (1, pid));
}

// --- in the middle of an operation ---

/// A process that is executed instruction by instruction. The thread that matters, that is: the others run freely.
struct Stepper(Pid);

impl Stepper {
    /// `None` if that is not permitted, which is said.
    fn attach(segment: &Segment) -> Option<Self> {
        let this = Self(Pid::from_raw(Value::<i32>::open(segment, "thread").unwrap().load(Acquire)));
        if let Err(e) = ptrace::attach(this.0) {
            println!("skipped: no ptrace here: {e}");
            return None;
        }
        assert_eq!(this.wait(), Signal::SIGSTOP);
        Some(this)
    }

    fn wait(&self) -> Signal {
        match waitpid(self.0, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Stopped(_, signal)) => signal,
            other => panic!("{other:?} instead of a stop"),
        }
    }

    fn step(&self) {
        ptrace::step(self.0, None).unwrap();
        assert_eq!(self.wait(), Signal::SIGTRAP);
    }

    /// Executes until the slots show a claim of `id`, then `more` instructions; returns what the slots show then.
    fn until_claim(&self, slots: &Slots, id: u16, more: u32) -> Vec<Claim> {
        let mut left = 1_000_000;
        while slots.claims(id).is_empty() {
            self.step();
            left -= 1;
            assert!(left > 0, "it never claims a slot");
        }
        (0..more).for_each(|_| self.step());
        slots.claims(id)
    }

    /// Nobody traces it any more, and it stands still as a whole.
    fn leave_stopped(self, child: &Child) {
        ptrace::detach(self.0, Some(Signal::SIGSTOP)).unwrap();
        assert!(stop(child));
    }
}

/// How many instructions behind the claim: at once, before, in and after the copy. An operation that is over by then is none
/// to be stopped in.
const DEPTHS: [u32; 5] = [0, 5, 20, 60, 150];

/// A queue of four, and a process that stands still in the middle of its only operation on it.
struct Middle {
    scratch: Scratch,
    sender: Sender<u64>,
    receiver: Receiver<u64>,
    child: Child,
}

impl Middle {
    /// `sent` is what is in the queue before the operation. `None` if there is no such middle.
    fn of(entry: &str, claim: Claim, sent: &[u64], depth: u32) -> Option<Self> {
        let scratch = scratch(entry);
        let queue = Queue::<u64>::create(&scratch, "queue", 4).unwrap();
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.send_slice(sent).unwrap();
        let child = start(entry, &scratch);
        until_ready(&scratch, 1);
        let (slots, id) = (Slots::of_queue(&scratch, "queue"), id_of(&child, &scratch));
        let stepper = Stepper::attach(&scratch)?;
        go(&scratch);
        let claims = stepper.until_claim(&slots, id, depth);
        stepper.leave_stopped(&child);
        assert!(depth > 0 || claims == [claim], "{claims:?}");
        (claims == [claim]).then_some(Self { scratch, sender, receiver, child })
    }

    /// One in which the process keeps its slot by itself, and says so.
    fn in_place(entry: &str, claim: Claim, sent: &[u64]) -> Self {
        let scratch = scratch(entry);
        let queue = Queue::<u64>::create(&scratch, "queue", 4).unwrap();
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.send_slice(sent).unwrap();
        let child = start(entry, &scratch);
        until_ready(&scratch, 1);
        assert!(stop(&child));
        assert_eq!(Slots::of_queue(&scratch, "queue").claims(id_of(&child, &scratch)), [claim]);
        // As soon as it can.
        go(&scratch);
        Self { scratch, sender, receiver, child }
    }

    /// What there is to receive.
    fn drain(&self) -> Vec<u64> {
        self.receiver.try_iter().collect()
    }
}

fn send_one(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let sender = Queue::<u64>::open(segment, "queue")?.sender()?;
    spin_until_go(segment)?;
    sender.send(42)?;
    Ok(())
}

fn receive_one(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let receiver = Queue::<u64>::open(segment, "queue")?.receiver()?;
    spin_until_go(segment)?;
    let message = receiver.recv()?;
    Value::<u64>::open(segment, "got")?.store(message, Release);
    Ok(())
}

/// The others go on around a sender that stands still in the middle until the ring has come round to its slot.
#[track_caller]
fn go_round_a_stopped_sender(middle: &Middle) {
    for value in 1..4 {
        middle.sender.send(value).unwrap();
        assert_eq!(middle.receiver.recv(), Ok(value));
        assert_eq!(middle.receiver.try_recv(), Err(TryRecvError::Empty));
    }
    assert_eq!(middle.sender.try_send(9), Err(TrySendError::Full(9)));
    assert_eq!(middle.sender.send_timeout(9, SHORT), Err(SendTimeoutError::Timeout(9)));
    assert_eq!(middle.receiver.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
    assert_eq!(middle.scratch.recover().unwrap().aborted, 0, "taken from a stopped process");
}

#[test]
fn sender_that_is_stopped_in_the_middle_of_a_send_is_passed_by_and_sends_when_it_goes_on() {
    for depth in DEPTHS {
        let Some(mut middle) = Middle::of("send_one", Claim::Writing, &[], depth) else { return };
        go_round_a_stopped_sender(&middle);
        resume(&middle.child);
        assert_eq!(middle.receiver.recv_timeout(LONG), Ok(42), "{depth} instructions behind the claim");
        join_well(&mut middle.child);
        middle.sender.send_slice(&[1, 2, 3, 4]).unwrap();
        assert_eq!(middle.drain(), [1, 2, 3, 4]);
    }
}

#[test]
fn sender_that_is_killed_while_it_is_stopped_in_the_middle_of_a_send_has_not_sent() {
    for depth in DEPTHS {
        let Some(mut middle) = Middle::of("send_one", Claim::Writing, &[], depth) else { return };
        go_round_a_stopped_sender(&middle);
        assert!(kill_and_reap(&mut middle.child));
        assert_eq!(middle.sender.send_timeout(5, LONG), Ok(()), "{depth} instructions behind the claim");
        assert_eq!(middle.drain(), [5]);
    }
}

/// The others go on around a receiver that stands still in the middle until the ring has come round to its slot.
#[track_caller]
fn go_round_a_stopped_receiver(middle: &Middle) {
    assert_eq!(middle.drain(), [2]);
    middle.sender.send_slice(&[3, 4]).unwrap();
    assert_eq!(middle.drain(), [3, 4]);
    assert_eq!(middle.sender.try_send(9), Err(TrySendError::Full(9)));
    assert_eq!(middle.sender.send_timeout(9, SHORT), Err(SendTimeoutError::Timeout(9)));
    assert_eq!(middle.receiver.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
    assert_eq!(middle.scratch.recover().unwrap().redelivered, 0, "taken from a stopped process");
}

#[test]
fn receiver_that_is_stopped_in_the_middle_of_a_receive_is_passed_by_and_receives_when_it_goes_on() {
    for depth in DEPTHS {
        let Some(mut middle) = Middle::of("receive_one", Claim::Reading(1), &[1, 2], depth) else { return };
        go_round_a_stopped_receiver(&middle);
        resume(&middle.child);
        // The release of its slot wakes a sender.
        assert_eq!(middle.sender.send_timeout(5, LONG), Ok(()), "{depth} instructions behind the claim");
        join_well(&mut middle.child);
        assert_eq!(got(&middle.scratch), 1);
        assert_eq!(middle.drain(), [5]);
    }
}

#[test]
fn receiver_that_is_killed_while_it_is_stopped_in_the_middle_of_a_receive_has_not_received() {
    for depth in DEPTHS {
        let Some(mut middle) = Middle::of("receive_one", Claim::Reading(1), &[1, 2], depth) else { return };
        go_round_a_stopped_receiver(&middle);
        assert!(kill_and_reap(&mut middle.child));
        assert_eq!(middle.receiver.recv_timeout(LONG), Ok(1), "{depth} instructions behind the claim");
        middle.sender.send_slice(&[5, 6, 7, 8]).unwrap();
        assert_eq!(middle.drain(), [5, 6, 7, 8]);
    }
}

// --- in place ---

fn send_reserved(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let sender = Queue::<u64>::open(segment, "queue")?.sender()?;
    let go = Value::<bool>::open(segment, "go")?;
    let mut reservation = sender.reserve()?;
    *reservation = 42;
    say_ready(segment)?;
    go.wait_while(|go| !go);
    reservation.commit();
    Ok(())
}

fn receive_in_place(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let receiver = Queue::<u64>::open(segment, "queue")?.receiver()?;
    let go = Value::<bool>::open(segment, "go")?;
    let guard = receiver.recv_guard()?;
    say_ready(segment)?;
    go.wait_while(|go| !go);
    Value::<u64>::open(segment, "got")?.store(*guard, Release);
    Ok(())
}

#[test]
fn reservation_of_a_stopped_process_is_passed_by_and_committed_when_it_goes_on() {
    let mut middle = Middle::in_place("send_reserved", Claim::Writing, &[]);
    go_round_a_stopped_sender(&middle);
    resume(&middle.child);
    assert_eq!(middle.receiver.recv_timeout(LONG), Ok(42));
    join_well(&mut middle.child);

    let mut middle = Middle::in_place("send_reserved", Claim::Writing, &[]);
    go_round_a_stopped_sender(&middle);
    assert!(kill_and_reap(&mut middle.child));
    assert_eq!(middle.sender.send_timeout(5, LONG), Ok(()));
    assert_eq!(middle.drain(), [5]);
}

#[test]
fn message_that_a_stopped_process_reads_in_place_is_passed_by_and_released_when_it_goes_on() {
    let mut middle = Middle::in_place("receive_in_place", Claim::Reading(1), &[1, 2]);
    go_round_a_stopped_receiver(&middle);
    resume(&middle.child);
    assert_eq!(middle.sender.send_timeout(5, LONG), Ok(()));
    join_well(&mut middle.child);
    assert_eq!((got(&middle.scratch), middle.drain()), (1, vec![5]));

    let mut middle = Middle::in_place("receive_in_place", Claim::Reading(1), &[1, 2]);
    go_round_a_stopped_receiver(&middle);
    assert!(kill_and_reap(&mut middle.child));
    assert_eq!(middle.receiver.recv_timeout(LONG), Ok(1));
    assert_eq!(middle.drain(), []);
}

// --- seats ---

fn spsc_send_one(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let mut sender = SpscQueue::<u64>::open(segment, "queue")?.sender()?;
    let (go, got) = (Value::<bool>::open(segment, "go")?, Value::<u64>::open(segment, "got")?);
    sender.send(41)?;
    spin_until_go(segment)?;
    sender.send(42)?;
    got.store(1, Release);
    // One send does not take as many instructions as another: it keeps the seat beyond the end of it.
    go.wait_while(|go| go);
    Ok(())
}

/// A queue of two with its receiver, and a process that stands still somewhere on its way through a send: as many
/// instructions on as `steps` says, or at its end. `None` if there is no ptrace.
fn stopped_in_spsc_send(steps: Option<u64>) -> Option<(Scratch, SpscQueue<u64>, Child, u64)> {
    let scratch = scratch("stopped-seat");
    let queue = SpscQueue::<u64>::create(&scratch, "queue", 2).unwrap();
    let child = start("spsc_send_one", &scratch);
    until_ready(&scratch, 1);
    let stepper = Stepper::attach(&scratch)?;
    go(&scratch);
    let mut done = 0;
    while steps.map_or_else(|| got(&scratch) == 0, |steps| done < steps) {
        stepper.step();
        done += 1;
    }
    stepper.leave_stopped(&child);
    Some((scratch, queue, child, done))
}

#[test]
fn seat_stays_its_holders_wherever_in_a_send_it_is_stopped() {
    const PLACES: u64 = 12;
    let Some((_, _, _, all)) = stopped_in_spsc_send(None) else { return };
    for place in 0..=PLACES {
        let Some((scratch, queue, mut child, _)) = stopped_in_spsc_send(Some(all * place / PLACES)) else { return };
        let mut receiver = queue.receiver().unwrap();
        match queue.sender() {
            Err(Error::SeatTaken { pid }) => assert_eq!(pid, child.pid()),
            other => panic!("{other:?}"),
        }
        // What was sent is there, and nothing else is; nobody is said to have gone.
        assert_eq!(receiver.recv(), Ok(41));
        let early = receiver.recv_timeout(SHORT);
        assert!(matches!(early, Ok(42) | Err(RecvTimeoutError::Timeout)), "{early:?}");
        resume(&child);
        assert_eq!(early.or_else(|_| receiver.recv_timeout(LONG)), Ok(42), "place {place} of {PLACES}");
        tell(&scratch, false);
        join_well(&mut child);
        let gone = TryRecvError::Disconnected { peer: Departure::Closed };
        assert_eq!((receiver.try_recv(), got(&scratch)), (Err(gone), 1));
    }
}

fn answer_on_pipe(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let mut end = Pipe::connect::<u64, u64>(segment, "pipe")?;
    say_ready(segment)?;
    let question = end.recv()?;
    end.send(question + 1)?;
    Ok(())
}

#[test]
fn end_of_a_pipe_stays_its_holders_while_it_is_stopped() {
    let scratch = scratch("stopped-pipe");
    let mut end = Pipe::create::<u64, u64>(&scratch, "pipe", 2).unwrap();
    let mut child = start("answer_on_pipe", &scratch);
    until_ready(&scratch, 1);
    assert!(stop(&child));
    match Pipe::connect::<u64, u64>(&scratch, "pipe") {
        Err(Error::SeatTaken { pid }) => assert_eq!(pid, child.pid()),
        other => panic!("{other:?}"),
    }
    end.send(1).unwrap();
    end.send(2).unwrap();
    assert_eq!(end.send_timeout(3, SHORT), Err(SendTimeoutError::Timeout(3)));
    assert_eq!(end.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
    resume(&child);
    assert_eq!(end.recv_timeout(LONG), Ok(2));
    join_well(&mut child);
}

// --- asleep ---

fn sleep_in_receive(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let receiver = Queue::<u64>::open(segment, "queue")?.receiver()?;
    say_ready(segment)?;
    let message = receiver.recv()?;
    Value::<u64>::open(segment, "got")?.fetch_add(message, Release);
    Ok(())
}

#[test]
fn message_goes_to_those_who_run_when_a_receiver_is_stopped_in_its_sleep() {
    let scratch = scratch("stopped-sleeper");
    let sender = Queue::<u64>::create(&scratch, "queue", 8).unwrap().sender().unwrap();
    let mut receivers = [(); 3].map(|()| start("sleep_in_receive", &scratch));
    until_ready(&scratch, 3);
    receivers.iter_mut().for_each(until_asleep);
    let [stopped, running @ ..] = &mut receivers;
    assert!(stop(stopped));
    sender.send_slice(&[1, 10]).unwrap();
    running.iter_mut().for_each(join_well);
    assert_eq!(got(&scratch), 11);
    sender.send(100).unwrap();
    resume(stopped);
    join_well(stopped);
    assert_eq!(got(&scratch), 111);
}

fn sit_on_pipe(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let _end = Pipe::connect::<u64, u64>(segment, "pipe")?;
    say_ready(segment)?;
    loop {
        thread::park();
    }
}

#[test]
fn death_is_noticed_while_bystanders_are_stopped() {
    let scratch = scratch("stopped-bystanders");
    let _queue = Queue::<u64>::create(&scratch, "queue", 8).unwrap();
    let mut end = Pipe::create::<u64, u64>(&scratch, "pipe", 2).unwrap();
    let mut bystanders = [(); 3].map(|()| start("sleep_in_receive", &scratch));
    until_ready(&scratch, 3);
    bystanders.iter_mut().for_each(until_asleep);
    let mut victim = start("sit_on_pipe", &scratch);
    until_ready(&scratch, 4);
    assert!(bystanders.iter().all(stop));
    let waiter = thread::spawn(move || end.recv());
    let pid = victim.pid();
    assert!(kill_and_reap(&mut victim));
    until("the blocked are told of a death", || waiter.is_finished());
    let peer = Departure::Died { pid };
    assert!(waiter.join().unwrap().is_err_and(|e| e == gimmal::RecvError::Disconnected { peer }));
}

/// The thread of a process that is told of deaths.
fn sentinel_of(pid: u32) -> Option<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let named =
        |path: std::path::PathBuf| std::fs::read_to_string(path).is_ok_and(|name| name.starts_with("gimmal-sen"));
    let task = tasks.into_iter().find(|task| named(task.path().join("comm")))?;
    Some(Pid::from_raw(task.file_name().to_str()?.parse().ok()?))
}

/// The kernel tells one sentinel of a death. What if its process is stopped before the sentinel executes another instruction?
#[test]
fn death_is_noticed_though_the_one_whom_the_kernel_told_is_stopped() {
    let scratch = scratch("stopped-sentinel");
    let mut end = Pipe::create::<u64, u64>(&scratch, "pipe", 2).unwrap();
    let _queue = Queue::<u64>::create(&scratch, "queue", 8).unwrap();
    let mut bystander = start("sleep_in_receive", &scratch);
    let mut victim = start("sit_on_pipe", &scratch);
    until_ready(&scratch, 2);
    until_asleep(&mut bystander);
    until_asleep(&mut victim);
    let Some(sentinel) = sentinel_of(bystander.pid()) else { return };
    // From its sleep into the sleep once more, to stand still at the first instruction behind it.
    let stepper = Stepper(sentinel);
    if let Err(e) = ptrace::attach(sentinel) {
        return println!("skipped: no ptrace here: {e}");
    }
    assert_eq!(stepper.wait(), Signal::SIGSTOP);
    ptrace::syscall(sentinel, None).unwrap();
    assert_eq!(stepper.wait(), Signal::SIGTRAP);
    ptrace::syscall(sentinel, None).unwrap();
    until_asleep(&mut bystander);
    // Our own sentinel has a new segment to watch over, and queues up behind it.
    let _other = Segment::anonymous().unwrap();
    thread::sleep(SHORT);
    let pid = victim.pid();
    assert!(kill_and_reap(&mut victim));
    let told = end.recv_timeout(Duration::from_secs(3));
    assert!(bystander.is_alive());
    // A traced thread is reaped by its tracer, or nobody can reap the process.
    bystander.kill().unwrap();
    while let Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..)) = waitpid(sentinel, Some(WaitPidFlag::__WALL)) {
    }
    let peer = Departure::Died { pid };
    assert_eq!(told, Err(RecvTimeoutError::Disconnected { peer }));
}
