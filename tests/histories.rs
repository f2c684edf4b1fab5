//! Recorded histories of real processes on one queue, checked for linearizability by the four rules of
//! `support/fifo.rs`: about a million operations in all.
//!
//! Every process writes the start and the end of each of its operations into a shared log of its own, on a clock that all
//! of them share, so that the log of a process that is killed ends in the middle of an operation. `try_recv` that find
//! nothing are operations too: a queue that says Empty while a message is surely inside is caught.

mod support;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{Array, Queue, QueueOptions, Segment, TryRecvError, TrySendError, Value};
use support::fifo::{Op, check};
use support::{
    Claim, Random, Slots, Watchdog, assert_alone, die_with_parent, join_well, kill_and_reap, pin, stamp, stop, until,
};

const ENTRIES: [Entry; 6] =
    gimmal::entries![sender, receiver, batch_sender, batch_receiver, bytes_sender, bytes_receiver];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

/// One at a time: two cores are few enough for eight processes.
static ALONE: Mutex<()> = Mutex::new(());

// --- the log ---

/// Words of one operation: start, what, end.
const WORDS: usize = 3;
/// What a receive says that found nothing.
const EMPTY: u64 = u64::MAX;

/// Where a process writes its operations.
struct Log {
    words: Array<u64>,
    next: usize,
}

impl Log {
    fn create(segment: &Segment, name: &str, operations: usize) -> Array<u64> {
        Array::create(segment, name, operations * WORDS).expect("room for a log")
    }

    fn open(segment: &Segment, name: &str) -> Result<Self, gimmal::Error> {
        Ok(Self { words: Array::open(segment, name)?, next: 0 })
    }

    fn is_full(&self) -> bool {
        self.next == self.words.len()
    }

    /// An operation starts now; `what` is the value to be sent, or 0.
    fn begin(&self, what: u64) {
        self.words[self.next + 1].store(what, Relaxed);
        self.words[self.next].store(stamp(), Release);
    }

    /// It has ended. If it does not count, the next one takes its place.
    fn end(&mut self, what: u64, counts: bool) {
        let end = stamp();
        if counts {
            self.words[self.next + 1].store(what, Release);
            self.words[self.next + 2].store(end, Release);
            self.next += WORDS;
        }
    }

    /// What one call has done, which began at `start` and has just returned: each message is an operation that took as long as
    /// the call.
    fn record(&mut self, start: u64, whats: &[u64]) {
        let end = stamp();
        for (what, words) in whats.iter().zip(self.words[self.next..].chunks(WORDS)) {
            words[1].store(*what, Relaxed);
            words[0].store(start, Release);
            words[2].store(end, Release);
        }
        self.next += whats.len() * WORDS;
    }

    /// What a process has written, which may be dead.
    fn read(words: &Array<u64>, sends: bool) -> Vec<Op> {
        let words = words.to_vec();
        let begun = words.chunks(WORDS).take_while(|op| op[0] != 0);
        begun
            .map(|op| {
                let (start, what, end) = (op[0], op[1], Some(op[2]).filter(|&end| end != 0));
                match (what, end) {
                    _ if sends => Op::Send { value: what, start, end },
                    (EMPTY, Some(end)) => Op::Empty { start, end },
                    // Killed before it could say what it found, or that it found nothing.
                    (0 | EMPTY, _) => Op::Lost { start },
                    (value, end) => Op::Recv { value, start, end },
                }
            })
            .collect()
    }
}

// --- what the processes do ---

/// Arguments: log, core (or "-"), values from, whether to block.
fn sender(context: &Context) -> Outcome {
    die_with_parent();
    begin(context)?;
    let (first, block): (u64, bool) = (context.parse(2)?, context.parse(3)?);
    let sender = Queue::<u64>::open(context.segment(0)?, "queue")?.sender()?;
    let mut log = Log::open(context.segment(1)?, context.arg(0).expect("a log"))?;
    let mut value = first;
    while !log.is_full() {
        log.begin(value);
        let sent = if block { sender.send(value).map_err(TrySendError::from) } else { sender.try_send(value) };
        log.end(value, sent.is_ok());
        match sent {
            Ok(()) => value += 1,
            Err(TrySendError::Full(_)) => std::thread::yield_now(),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Arguments: log, core (or "-"), most Empties to write down, whether to block. Ends when the queue is closed or, if that
/// comes first, when the log is full.
fn receiver(context: &Context) -> Outcome {
    die_with_parent();
    begin(context)?;
    let (most_empties, block): (u64, bool) = (context.parse(2)?, context.parse(3)?);
    let (mut empties, mut messages) = (0, 0);
    let receiver = Queue::<u64>::open(context.segment(0)?, "queue")?.receiver()?;
    let mut log = Log::open(context.segment(1)?, context.arg(0).expect("a log"))?;
    while !log.is_full() {
        log.begin(0);
        let received = match block {
            true => receiver.recv().map_err(TryRecvError::from),
            false => receiver.try_recv(),
        };
        match received {
            Ok(value) => {
                log.end(value, true);
                messages += 1;
            }
            Err(TryRecvError::Empty) => {
                // Spread over the run: no more of them than messages.
                let counts = empties < most_empties && empties <= messages;
                log.end(EMPTY, counts);
                empties += u64::from(counts);
                if !counts {
                    std::thread::yield_now();
                }
            }
            Err(TryRecvError::Closed) => {
                // To the one who looks at the log this is a receive that found nothing.
                log.end(EMPTY, true);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// How many messages the calls of the two below are given, in turn: parts of runs, runs, and more than one of them.
const LENGTHS: [usize; 6] = [3, 64, 1, 10, 2, 100];

/// As [`sender`], in batches.
fn batch_sender(context: &Context) -> Outcome {
    die_with_parent();
    begin(context)?;
    let (mut value, block): (u64, bool) = (context.parse(2)?, context.parse(3)?);
    let sender = Queue::<u64>::open(context.segment(0)?, "queue")?.sender()?;
    let mut log = Log::open(context.segment(1)?, context.arg(0).expect("a log"))?;
    let mut lengths = LENGTHS.into_iter().cycle();
    while !log.is_full() {
        let length = lengths.next().expect("a cycle").min((log.words.len() - log.next) / WORDS);
        let messages: Vec<u64> = (value..value + length as u64).collect();
        let start = stamp();
        let sent =
            if block { sender.send_slice(&messages).map(|()| length)? } else { sender.try_send_slice(&messages)? };
        log.record(start, &messages[..sent]);
        value += sent as u64;
        if sent == 0 {
            std::thread::yield_now();
        }
    }
    Ok(())
}

/// As [`receiver`], in batches.
fn batch_receiver(context: &Context) -> Outcome {
    die_with_parent();
    begin(context)?;
    let (most_empties, block): (u64, bool) = (context.parse(2)?, context.parse(3)?);
    let (mut empties, mut messages) = (0, Vec::new());
    let receiver = Queue::<u64>::open(context.segment(0)?, "queue")?.receiver()?;
    let mut log = Log::open(context.segment(1)?, context.arg(0).expect("a log"))?;
    for most in LENGTHS.into_iter().rev().cycle() {
        messages.clear();
        let start = stamp();
        let received = match block {
            true => receiver.recv_many(&mut messages, most).map_err(TryRecvError::from),
            false => receiver.try_recv_many(&mut messages, most),
        };
        match received {
            Ok(count) => {
                assert_eq!(count, messages.len());
                log.record(start, &messages);
            }
            Err(TryRecvError::Empty) if empties < most_empties => {
                log.record(start, &[EMPTY]);
                empties += 1;
                std::thread::yield_now();
            }
            Err(TryRecvError::Empty) => std::thread::yield_now(),
            Err(TryRecvError::Closed) => {
                log.record(start, &[EMPTY]);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// A message of one to a dozen blocks that carries `value`, everywhere.
fn bytes_of(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(1 + (value as usize * 37) % 90)
}

/// As [`sender`], messages of bytes.
fn bytes_sender(context: &Context) -> Outcome {
    die_with_parent();
    begin(context)?;
    let (mut value, block): (u64, bool) = (context.parse(2)?, context.parse(3)?);
    let sender = Queue::<[u8]>::open(context.segment(0)?, "queue")?.sender()?;
    let mut log = Log::open(context.segment(1)?, context.arg(0).expect("a log"))?;
    while !log.is_full() {
        let message = bytes_of(value);
        log.begin(value);
        let sent = if block { sender.send(&message).map_err(TrySendError::from) } else { sender.try_send(&message) };
        log.end(value, sent.is_ok());
        match sent {
            Ok(()) => value += 1,
            Err(TrySendError::Full(())) => std::thread::yield_now(),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// As [`receiver`], messages of bytes.
fn bytes_receiver(context: &Context) -> Outcome {
    die_with_parent();
    begin(context)?;
    let (most_empties, block): (u64, bool) = (context.parse(2)?, context.parse(3)?);
    let (mut empties, mut messages) = (0, 0);
    let receiver = Queue::<[u8]>::open(context.segment(0)?, "queue")?.receiver()?;
    let mut log = Log::open(context.segment(1)?, context.arg(0).expect("a log"))?;
    while !log.is_full() {
        log.begin(0);
        let received = match block {
            true => receiver.recv().map_err(TryRecvError::from),
            false => receiver.try_recv(),
        };
        match received.map(gimmal::Frame::into_vec) {
            Ok(bytes) => {
                let value = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
                log.end(value, true);
                assert!(bytes == bytes_of(value), "a torn message");
                messages += 1;
            }
            Err(TryRecvError::Empty) => {
                let counts = empties < most_empties && empties <= messages;
                log.end(EMPTY, counts);
                empties += u64::from(counts);
                if !counts {
                    std::thread::yield_now();
                }
            }
            Err(TryRecvError::Closed) => {
                log.end(EMPTY, true);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Takes its place and waits for the others.
fn begin(context: &Context) -> Result<(), gimmal::Error> {
    if let Ok(core) = context.parse(1) {
        pin(core);
    }
    let segment = context.segment(1)?;
    let (ready, go) = (Value::<u32>::open(segment, "ready")?, Value::<bool>::open(segment, "go")?);
    ready.fetch_add(1, Release);
    ready.notify_all();
    go.wait_while(|go| !go);
    Ok(())
}

fn process(entry: &str) -> process::Process {
    process::init(&ENTRIES);
    support::process(entry)
}

fn logs_segment(operations: usize, logs: usize) -> Segment {
    let bytes = Array::<u64>::bytes(operations * WORDS) + logs * 4096 + (1 << 20);
    let segment = Segment::options().size(bytes).max_objects(1024).anonymous().expect("a segment for the logs");
    Value::<u32>::create(&segment, "ready", 0).unwrap();
    Value::<bool>::create(&segment, "go", false).unwrap();
    segment
}

/// Values of one sender's incarnation are its own.
fn first_value(incarnation: usize) -> u64 {
    (incarnation as u64 + 1) << 32
}

#[track_caller]
fn assert_linearizable(case: &str, history: &[Op]) {
    if let Err(violation) = check(history) {
        panic!("{case}: {} operations: {violation}", history.len());
    }
}

// --- undisturbed ---

/// A run: senders, receivers, and whether each process is confined to one core.
type Shape = (usize, usize, bool);

const SHAPES: [Shape; 4] = [(2, 2, true), (4, 4, true), (3, 2, true), (2, 3, false)];

#[derive(Clone, Copy, Debug)]
enum Sort {
    Single,
    Batches,
    Bytes,
}

fn run(capacity: usize, (senders, receivers, pinned): Shape, messages: usize, sort: Sort) -> usize {
    let case = format!("capacity {capacity}, {senders} senders, {receivers} receivers, pinned: {pinned}, {sort:?}");
    let scratch = support::Scratch::small("history");
    let options = QueueOptions::new().capacity(capacity).keep_waiting(true);
    let close: Box<dyn Fn()> = match sort {
        Sort::Bytes => {
            let queue = options.create::<[u8]>(&scratch, "queue").unwrap();
            Box::new(move || queue.close())
        }
        _ => {
            let queue = options.create::<u64>(&scratch, "queue").unwrap();
            Box::new(move || queue.close())
        }
    };
    let (each, empties) = (messages / senders, messages / receivers);
    // Any one receiver may get all of the messages.
    let room = each * senders + empties + 1;
    let logs = logs_segment(messages + receivers * room, senders + receivers);
    let names = (0..senders).map(|i| format!("s{i}")).chain((0..receivers).map(|i| format!("r{i}")));
    let (mut children, mut arrays) = (Vec::new(), Vec::new());
    for (place, name) in names.enumerate() {
        let sends = place < senders;
        arrays.push((Log::create(&logs, &name, if sends { each } else { room }), sends));
        let core = if pinned { place.to_string() } else { "-".to_owned() };
        let number = if sends { first_value(place) } else { empties as u64 };
        // One of each kind blocks; the others try again and again.
        let block = place == 0 || place == senders;
        let entry = match (sort, sends) {
            (Sort::Single, true) => "sender",
            (Sort::Single, false) => "receiver",
            (Sort::Batches, true) => "batch_sender",
            (Sort::Batches, false) => "batch_receiver",
            (Sort::Bytes, true) => "bytes_sender",
            (Sort::Bytes, false) => "bytes_receiver",
        };
        let child = process(entry)
            .name(&name)
            .segment(&scratch)
            .segment(&logs)
            .args([name.clone(), core, number.to_string(), block.to_string()])
            .spawn()
            .unwrap();
        children.push(child);
    }
    start_together(&logs, children.len());
    let receivers = children.split_off(senders);
    children.iter_mut().for_each(join_well);
    close();
    { receivers }.iter_mut().for_each(join_well);
    assert_alone(&scratch).unwrap();

    let history: Vec<Op> = arrays.iter().flat_map(|(words, sends)| Log::read(words, *sends)).collect();
    let count = |which: fn(&Op) -> bool| history.iter().filter(|op| which(op)).count();
    let sent = count(|op| matches!(op, Op::Send { end: Some(_), .. }));
    let received = count(|op| matches!(op, Op::Recv { end: Some(_), .. }));
    let empty = count(|op| matches!(op, Op::Empty { .. }));
    println!("{case}: {sent} sent, {received} received, {empty} empty");
    assert_eq!((sent, received), (each * senders, each * senders), "{case}");
    assert_eq!(sent + received + empty, history.len(), "{case}: an operation without an end");
    assert_linearizable(&case, &history);
    history.len()
}

fn start_together(logs: &Segment, processes: usize) {
    let (ready, go) = (Value::<u32>::open(logs, "ready").unwrap(), Value::<bool>::open(logs, "go").unwrap());
    let all = ready.wait_while_timeout(support::LONG, |ready| (ready as usize) < processes);
    assert_eq!(all, Ok(processes as u32), "they do not all start");
    go.store(true, Release);
    go.notify_all();
}

fn undisturbed(capacity: usize) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let operations: usize = SHAPES.iter().map(|&shape| run(capacity, shape, 36_000, Sort::Single)).sum();
    println!("capacity {capacity}: {operations} operations in all");
    assert!(operations > 280_000, "some receiver should have found nothing now and then");
}

#[test]
fn history_with_one_slot_is_linearizable() {
    undisturbed(1);
}

#[test]
fn history_with_two_slots_is_linearizable() {
    undisturbed(2);
}

#[test]
fn history_with_64_slots_is_linearizable() {
    undisturbed(64);
}

/// Runs and parts of them, of which each is seen at once.
#[test]
fn history_of_batches_is_linearizable() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for capacity in [2, 16, 128] {
        SHAPES.iter().for_each(|&shape| _ = run(capacity, shape, 24_000, Sort::Batches));
    }
}

/// Runs of blocks, each of which is one message.
#[test]
fn history_of_bytes_is_linearizable() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    SHAPES.iter().for_each(|&shape| _ = run(4096, shape, 24_000, Sort::Bytes));
}

// --- with kills ---

/// Operations that fit into the log of one incarnation.
const SHORT: usize = 4096;
const KILLS: usize = 60;

/// One place in the team: who is there now.
struct Seat {
    sends: bool,
    child: Child,
    log: Array<u64>,
    incarnation: usize,
}

/// Operations that were under way when a process was killed may count or not; what it was seen to be doing decides it.
///
/// A message that comes back after its receiver died is out of order by design, and its receive may be late without end:
/// such a message is known, as the receiver is stopped and looked at before it is killed, and is left out of the history.
fn with_kills(capacity: usize) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let case = format!("capacity {capacity}, with kills");
    let mut random = Random::announced(&case);
    let scratch = support::Scratch::small("history-kills");
    let options = QueueOptions::new().capacity(capacity).keep_waiting(true);
    let queue = options.create::<u64>(&scratch, "queue").unwrap();
    let slots = Slots::of_queue(&scratch, "queue");
    let watchdog = Watchdog::new(&case, &[&scratch], String::new);

    let mut incarnations = 0;
    let mut begin = |place: usize| {
        let (sends, incarnation) = (place < 3, incarnations);
        incarnations += 1;
        let logs = logs_segment(SHORT, 1);
        Value::<bool>::open(&logs, "go").unwrap().store(true, Release);
        let log = Log::create(&logs, "log", SHORT);
        let number = if sends { first_value(incarnation) } else { SHORT as u64 / 4 };
        let child = process(if sends { "sender" } else { "receiver" })
            .name(&format!("{}-{place}.{incarnation}", if sends { "sender" } else { "receiver" }))
            .segment(&scratch)
            .segment(&logs)
            .args(["log", &place.to_string(), &number.to_string(), &(incarnation % 2 == 0).to_string()])
            .spawn()
            .unwrap();
        watchdog.enlist(&child);
        Seat { sends, child, log, incarnation }
    };
    let mut team: Vec<Seat> = (0..6).map(&mut begin).collect();
    let mut history: Vec<Op> = Vec::new();
    let mut orphans: HashSet<u64> = HashSet::new();
    let mut killed = 0;
    while killed < KILLS {
        let place = random.below(6) as usize;
        // Up to a quarter of its log, so that it is in the midst of its work.
        let target = random.below(SHORT as u64 / 4) as usize * WORDS;
        loop {
            watchdog.check();
            replace_ended(&mut team, &mut history, &watchdog, &mut begin);
            if team[place].log[target].load(Acquire) != 0 {
                break;
            }
            std::thread::yield_now();
        }
        random.spin();
        let seat = &mut team[place];
        let claims = stop(&seat.child).then(|| {
            let peer = scratch.peers().into_iter().find(|peer| peer.pid == seat.child.pid());
            peer.map_or(Vec::new(), |peer| slots.claims(peer.id))
        });
        if !watchdog.discharge(&mut seat.child, kill_and_reap) {
            // Its log was full: it has ended well, or the next look finds out.
            let mut ended = std::mem::replace(seat, begin(place));
            join_well(&mut ended.child);
            history.extend(Log::read(&ended.log, ended.sends));
            continue;
        }
        killed += 1;
        watchdog.tick();
        let ended = std::mem::replace(seat, begin(place));
        let mut operations = Log::read(&ended.log, ended.sends);
        for claim in claims.expect("it was stopped") {
            let last = operations.pop();
            match (claim, last) {
                // It never happened.
                (Claim::Writing, Some(Op::Send { end: None, .. })) => {}
                (Claim::Reading(value), Some(Op::Lost { .. })) => {
                    orphans.insert(value);
                }
                (claim, last) => panic!("{case}: incarnation {}: {claim:?} during {last:?}", ended.incarnation),
            }
        }
        history.extend(operations);
    }
    // The senders come to the end of their logs; receivers that do are replaced until then.
    until("the senders end", || {
        watchdog.check();
        collect_receivers(&mut team, &mut history, &watchdog, &mut begin);
        team[..3].iter_mut().all(|seat| !seat.child.is_alive())
    });
    queue.close();
    until("the receivers end", || {
        watchdog.check();
        collect_receivers(&mut team, &mut history, &watchdog, &mut begin);
        watchdog.tick();
        queue.is_empty() && team[3..].iter_mut().all(|seat| !seat.child.is_alive())
    });
    for mut seat in team {
        watchdog.discharge(&mut seat.child, join_well);
        history.extend(Log::read(&seat.log, seat.sends));
    }
    scratch.recover().unwrap();
    assert_alone(&scratch).unwrap();

    history.retain(|op| !matches!(op, Op::Send { value, .. } | Op::Recv { value, .. } if orphans.contains(value)));
    let count = |which: fn(&Op) -> bool| history.iter().filter(|op| which(op)).count();
    let pending = count(|op| matches!(op, Op::Send { end: None, .. }));
    let (sent, lost) = (count(|op| matches!(op, Op::Send { .. })), count(|op| matches!(op, Op::Lost { .. })));
    let received = count(|op| matches!(op, Op::Recv { .. }));
    println!("{case}: {sent} sent ({pending} pending), {received} received, {lost} lost, {} came back", orphans.len());
    assert_linearizable(&case, &history);
    // The queue is drained: what was sent and not received went with a receiver that was killed.
    assert!(sent <= received + lost + pending, "{case}: messages are missing");
}

/// Puts a new process in the place of each that has come to the end of its log.
fn replace_ended(team: &mut [Seat], history: &mut Vec<Op>, watchdog: &Watchdog, begin: &mut impl FnMut(usize) -> Seat) {
    for (place, seat) in team.iter_mut().enumerate() {
        if !seat.child.is_alive() {
            watchdog.discharge(&mut seat.child, join_well);
            watchdog.tick();
            let ended = std::mem::replace(seat, begin(place));
            history.extend(Log::read(&ended.log, ended.sends));
        }
    }
}

/// As [`replace_ended`], for those who receive, while there is something to receive.
fn collect_receivers(
    team: &mut [Seat],
    history: &mut Vec<Op>,
    watchdog: &Watchdog,
    begin: &mut impl FnMut(usize) -> Seat,
) {
    for (place, seat) in team.iter_mut().enumerate().skip(3) {
        let log_is_full = seat.log[seat.log.len() - 1].load(Acquire) != 0;
        if log_is_full && !seat.child.is_alive() {
            watchdog.discharge(&mut seat.child, join_well);
            watchdog.tick();
            let ended = std::mem::replace(seat, begin(place));
            history.extend(Log::read(&ended.log, ended.sends));
        }
    }
}

#[test]
fn history_with_kills_and_two_slots_is_linearizable() {
    with_kills(2);
}

#[test]
fn history_with_kills_and_64_slots_is_linearizable() {
    with_kills(64);
}

/// The recorder itself: what the log says of a process that stops in the middle of an operation.
#[test]
fn log_tells_what_was_under_way() {
    let segment = logs_segment(16, 2);
    let words = Log::create(&segment, "log", 4);
    let mut log = Log::open(&segment, "log").unwrap();
    log.begin(0);
    log.end(7, true);
    log.begin(0);
    log.end(EMPTY, false);
    log.begin(0);
    log.end(EMPTY, true);
    log.begin(0);
    let operations = Log::read(&words, false);
    assert!(
        matches!(operations[..], [Op::Recv { value: 7, end: Some(_), .. }, Op::Empty { .. }, Op::Lost { .. }]),
        "{operations:?}"
    );
    let sends = Log::read(&words, true);
    assert!(matches!(sends[..], [Op::Send { end: Some(_), .. }, _, Op::Send { end: None, .. }]), "{sends:?}");
}
