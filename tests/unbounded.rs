//! `Queue::unbounded`: memory comes and goes with the messages.

mod support;

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{Error, Queue, QueueOptions, RecvError, Segment, SendTimeoutError, TryRecvError, TrySendError};
use nix::sys::stat::fstat;
use support::{die_with_parent, join_well, kill_and_reap, until, until_ready};

const ENTRIES: [Entry; 6] = gimmal::entries![
    send_and_leave,
    send_forever,
    receive_forever,
    send_bytes_forever,
    receive_bytes_forever,
    count_forever
];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment, arguments: &[&str]) -> Child {
    process::init(&ENTRIES);
    support::process(entry).segment(segment).args(arguments).spawn().expect("start a process")
}

/// Bytes of memory that the segment has.
fn memory(segment: &Segment) -> u64 {
    fstat(segment.as_fd()).unwrap().st_blocks as u64 * 512
}

const MIB: u64 = 1 << 20;

#[test]
fn memory_comes_and_goes_with_ten_million_messages() {
    const MESSAGES: u64 = if cfg!(debug_assertions) { 1_000_000 } else { 10_000_000 };
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<u64>::unbounded(&segment, "queue").unwrap();
    assert!(queue.is_unbounded());
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let empty = memory(&segment);
    for n in 0..MESSAGES {
        sender.send(n).unwrap();
    }
    let full = memory(&segment);
    assert!(full >= empty + 16 * MESSAGES, "{empty} -> {full}");
    assert_eq!(queue.len() as u64, MESSAGES);
    for n in 0..MESSAGES / 2 {
        assert_eq!(receiver.try_recv(), Ok(n));
    }
    let half = memory(&segment);
    assert!(half < empty + (full - empty) / 2 + 5 * MIB, "{empty} -> {full} -> {half}");
    for n in MESSAGES / 2..MESSAGES {
        assert_eq!(receiver.try_recv(), Ok(n));
    }
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    let drained = memory(&segment);
    assert!(drained <= empty + 5 * MIB, "{empty} -> {full} -> {drained}");
}

#[test]
fn bytes_of_every_length_go_through_and_leave_nothing() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().unbounded(64 << 20).create::<[u8]>(&segment, "queue").unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let empty = memory(&segment);
    let len = |n: usize| if n.is_multiple_of(100) { 100_000 + n } else { n * 7 % 500 };
    for round in 0..4 {
        for n in 0..5_000 {
            sender.send(&vec![(n + round) as u8; len(n)]).unwrap();
        }
        assert!(memory(&segment) > empty + 5 * MIB);
        for n in 0..5_000 {
            let frame = receiver.recv().unwrap();
            assert!(frame.len() == len(n) && frame.iter().all(|&byte| byte == (n + round) as u8), "{round} {n}");
        }
        assert!(receiver.try_recv().is_err());
        assert!(memory(&segment) <= empty + 3 * MIB, "round {round}");
    }
}

#[test]
fn it_goes_round_for_ever() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().unbounded(2 << 20).create::<[u64; 7]>(&segment, "queue").unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let rounds = 6 * queue.capacity() as u64;
    let mut next = 0;
    for n in 0..rounds {
        sender.send([n; 7]).unwrap();
        if n % 3 == 2 {
            let mut buffer = Vec::new();
            receiver.recv_many(&mut buffer, 3).unwrap();
            for message in buffer {
                assert_eq!(message, [next; 7]);
                next += 1;
            }
        }
    }
    assert_eq!(receiver.try_iter().count() as u64, rounds - next);
}

#[test]
fn at_its_limit_it_says_full_and_goes_on_when_there_is_room() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().unbounded(3 << 20).create::<[u64; 7]>(&segment, "queue").unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let before = memory(&segment);
    let mut sent = 0;
    while sender.try_send([sent; 7]).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, queue.capacity() as u64);
    assert!(memory(&segment) - before >= 3 * MIB && memory(&segment) - before < 5 * MIB);
    assert!(matches!(sender.try_send([0; 7]), Err(TrySendError::Full(_))));
    let short = Duration::from_millis(5);
    assert!(matches!(sender.send_timeout([0; 7], short), Err(SendTimeoutError::Timeout(_))));
    thread::scope(|scope| {
        scope.spawn(|| (sent..2 * sent).for_each(|n| sender.send([n; 7]).unwrap()));
        (0..2 * sent).for_each(|n| assert_eq!(receiver.recv(), Ok([n; 7])));
    });
}

#[test]
fn many_senders_and_receivers_share_it() {
    const SENDERS: u64 = 3;
    const MESSAGES: u64 = 100_000;
    let segment = Segment::anonymous().unwrap();
    let options = QueueOptions::new().unbounded(4 << 20);
    let queue = options.create::<[u64; 3]>(&segment, "queue").unwrap();
    let senders: Vec<_> = (0..SENDERS).map(|_| queue.sender().unwrap()).collect();
    let receivers: Vec<_> = (0..2).map(|_| queue.receiver().unwrap()).collect();
    let received: Vec<Vec<[u64; 3]>> = thread::scope(|scope| {
        for (id, sender) in senders.into_iter().enumerate() {
            scope.spawn(move || {
                for n in 0..MESSAGES {
                    sender.send([id as u64, n, !n]).unwrap();
                }
            });
        }
        let receivers: Vec<_> =
            receivers.into_iter().map(|receiver| scope.spawn(move || receiver.iter().collect())).collect();
        receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect()
    });
    for received in &received {
        assert!(received.iter().all(|[_, n, check]| *check == !n));
        for id in 0..SENDERS {
            assert!(received.iter().filter(|[of, ..]| *of == id).map(|[_, n, _]| n).is_sorted());
        }
    }
    let mut all: Vec<_> = received.concat().into_iter().map(|[id, n, _]| (id, n)).collect();
    all.sort_unstable();
    assert!(all.into_iter().eq((0..SENDERS).flat_map(|id| (0..MESSAGES).map(move |n| (id, n)))));
}

#[test]
fn it_is_opened_as_what_it_is() {
    let segment = Segment::anonymous().unwrap();
    let first = Queue::<u32>::unbounded(&segment, "first").unwrap();
    let again = Queue::<u32>::unbounded(&segment, "first").unwrap();
    let second = Queue::<u32>::unbounded(&segment, "second").unwrap();
    assert!(matches!(Queue::<u32>::open_or_create(&segment, "first", 64), Err(Error::OptionMismatch { .. })));
    Queue::<u32>::create(&segment, "bounded", 64).unwrap();
    assert!(matches!(Queue::<u32>::unbounded(&segment, "bounded"), Err(Error::OptionMismatch { .. })));
    // Another participant, which comes later; they do not lie on each other.
    let other = Segment::from_fd(&segment).unwrap();
    let opened = Queue::<u32>::open(&other, "second").unwrap();
    assert!(opened.is_unbounded() && opened.capacity() == second.capacity());
    first.sender().unwrap().send(1).unwrap();
    second.sender().unwrap().send(2).unwrap();
    assert_eq!(opened.receiver().unwrap().try_recv(), Ok(2));
    assert_eq!(again.receiver().unwrap().try_recv(), Ok(1));
    assert_eq!(segment.snapshot().unwrap().objects.len(), 3);
    let none = QueueOptions::new().unbounded(1 << 60).create::<u8>(&segment, "too large");
    assert!(matches!(none, Err(Error::BadSize { .. })));
}

fn send_and_leave(context: &Context) -> Outcome {
    die_with_parent();
    let sender = Queue::<[u8]>::open(context.segment(0)?, "queue")?.sender()?;
    for n in 0..100_000_u32 {
        sender.send(&n.to_le_bytes())?;
    }
    Ok(())
}

#[test]
fn what_was_sent_stays_when_its_sender_has_gone() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<[u8]>::unbounded(&segment, "queue").unwrap();
    let receiver = queue.receiver().unwrap();
    join_well(&mut start("send_and_leave", &segment, &[]));
    for n in 0..100_000_u32 {
        assert_eq!(*receiver.try_recv().unwrap(), n.to_le_bytes());
    }
}

fn send_forever(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let sender = Queue::<[u64; 3]>::open(segment, "queue")?.sender()?;
    let ready = gimmal::Value::<u32>::open(segment, "ready")?;
    for n in 0.. {
        sender.send([n, !n, u64::from(std::process::id())])?;
        if n == 1000 {
            ready.fetch_add(1, std::sync::atomic::Ordering::Release);
            ready.notify_all();
        }
    }
    Ok(())
}

fn receive_forever(context: &Context) -> Outcome {
    die_with_parent();
    let receiver = Queue::<[u64; 3]>::open(context.segment(0)?, "queue")?.receiver()?;
    while let Ok([n, check, _]) = receiver.recv() {
        assert_eq!(check, !n);
    }
    Ok(())
}

#[test]
fn kills_at_any_time_lose_nothing_of_others_and_no_memory() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().unbounded(8 << 20).create::<[u64; 3]>(&segment, "queue").unwrap();
    gimmal::Value::<u32>::create(&segment, "ready", 0).unwrap();
    let receiver = queue.receiver().unwrap();
    let empty = memory(&segment);
    for round in 0..8 {
        let mut senders: Vec<Child> = (0..2).map(|_| start("send_forever", &segment, &[])).collect();
        let mut taker = start("receive_forever", &segment, &[]);
        until_ready(&segment, 2 * (round + 1));
        kill_and_reap(&mut senders[0]);
        kill_and_reap(&mut taker);
        kill_and_reap(&mut senders[1]);
        until("the dead are repaired after", || segment.peers().len() == 1);
        segment.recover().unwrap();
        let mut last = [None; 2];
        let pids = [0, 1].map(|index| u64::from(senders[index].pid()));
        while let Ok([n, check, pid]) = receiver.try_recv() {
            assert_eq!(check, !n);
            let of = pids.iter().position(|&of| of == pid).expect("a sender of this round");
            // What the taker had in hand when it was killed comes first.
            assert!(last[of].is_none_or(|last| n > last), "round {round}: {n} after {:?}", last[of]);
            last[of] = Some(n);
        }
        let left = memory(&segment);
        assert!(left <= empty + 3 * MIB, "round {round}: {empty} -> {left}");
    }
    queue.close();
    assert_eq!(receiver.recv(), Err(RecvError::Closed));
}

/// The smallest there is, of messages as large as pages: two chunks of 64 messages of a page and a word.
type Page = [u64; 1023];

const fn page(n: u64) -> Page {
    [n; 1023]
}

/// Messages that a chunk of the smallest queue of pages holds.
const CHUNK: u64 = 128;

fn small_queue(segment: &Segment) -> Queue<Page> {
    let queue = QueueOptions::new().unbounded(1).create::<Page>(segment, "queue").unwrap();
    assert_eq!(queue.capacity() as u64, 2 * CHUNK);
    queue
}

#[test]
fn a_death_in_a_later_lap_is_repaired_like_one_in_the_first() {
    let segment = Segment::anonymous().unwrap();
    let queue = small_queue(&segment);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for round in 0..20 * CHUNK {
        sender.send(page(round)).unwrap();
        if round % 50 == 49 {
            // Somebody leaves with a message in hand, and one that it was about to send.
            let other = Segment::from_fd(&segment).unwrap();
            let queue = Queue::<Page>::open(&other, "queue").unwrap();
            let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
            let guard = receiver.try_recv_guard().unwrap();
            assert_eq!(*guard, page(round));
            std::mem::forget((guard, sender.try_reserve().unwrap()));
            drop((sender, receiver, queue, other));
        }
        assert_eq!(receiver.try_recv().map(|message| message[0]), Ok(round));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    }
}

#[test]
fn a_closed_queue_waits_for_a_message_in_hand_in_every_lap() {
    for lap in 0..3 {
        let segment = Segment::anonymous().unwrap();
        let queue = small_queue(&segment);
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for n in 0..lap * 4 * CHUNK {
            sender.send(page(n)).unwrap();
            receiver.recv().unwrap();
        }
        sender.send(page(7)).unwrap();
        let other = queue.receiver().unwrap();
        let guard = other.try_recv_guard().unwrap();
        queue.close();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "lap {lap}");
        guard.give_back();
        assert_eq!(receiver.try_recv(), Ok(page(7)));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    }
}

#[test]
fn it_is_full_at_its_limit_and_not_before() {
    let segment = Segment::anonymous().unwrap();
    let queue = small_queue(&segment);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for round in 0..5 {
        for n in 0..2 * CHUNK {
            assert!(!queue.is_full(), "round {round}: full with {n}");
            sender.try_send(page(n)).unwrap();
        }
        assert!(queue.is_full());
        assert!(sender.try_send(page(0)).is_err());
        for n in 0..CHUNK {
            assert_eq!(receiver.try_recv().unwrap()[0], n);
        }
        // All of the first chunk is received, whatever the receiver does next: there is room.
        assert!(!queue.is_full());
        sender.try_send(page(2 * CHUNK)).unwrap();
        for n in CHUNK..=2 * CHUNK {
            assert_eq!(receiver.try_recv().unwrap()[0], n);
        }
        for _ in 1..CHUNK {
            sender.try_send(page(0)).unwrap();
        }
        assert_eq!(receiver.try_iter().count() as u64, CHUNK - 1);
    }
}

#[test]
fn a_sender_at_the_limit_goes_on_when_a_chunk_is_received_and_the_receiver_does_nothing_more() {
    let segment = Segment::anonymous().unwrap();
    let queue = small_queue(&segment);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    (0..2 * CHUNK).for_each(|n| sender.try_send(page(n)).unwrap());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| sender.send_timeout(page(0), Duration::from_secs(10)).is_ok());
        thread::sleep(Duration::from_millis(100));
        (0..CHUNK).for_each(|n| assert_eq!(receiver.try_recv().unwrap()[0], n));
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn what_is_reserved_and_never_sent_does_not_fill_it() {
    let segment = Segment::anonymous().unwrap();
    let queue = small_queue(&segment);
    let sender = queue.sender().unwrap();
    for n in 0..10 * CHUNK {
        assert!(sender.try_reserve().is_ok(), "reservation {n}");
    }
    assert!(memory(&segment) < 6 * MIB);
}

#[test]
fn memory_behind_a_message_that_is_never_sent_comes_back() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().unbounded(40 << 20).create::<Page>(&segment, "queue").unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let empty = memory(&segment);
    let reservation = sender.reserve().unwrap();
    for n in 0..30 * CHUNK {
        sender.try_send(page(n)).unwrap();
        assert_eq!(receiver.try_recv().unwrap()[0], n);
        assert!(memory(&segment) < empty + 6 * MIB, "after {n} messages");
    }
    reservation.commit();
    assert!(receiver.try_recv().is_ok());
    for _ in 0..CHUNK {
        sender.try_send(page(0)).unwrap();
        receiver.try_recv().unwrap();
    }
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    assert!(memory(&segment) < empty + 3 * MIB);
}

#[test]
fn whoever_counts_messages_keeps_nobody_waiting_at_the_limit() {
    let rounds = if cfg!(debug_assertions) { 10 } else { 50 };
    let segment = Segment::anonymous().unwrap();
    let queue = small_queue(&segment);
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            // In a participant of its own each, and on fewer processors than there are.
            let (segment, over) = (Segment::from_fd(&segment).unwrap(), &over);
            scope.spawn(move || {
                let queue = Queue::<Page>::open(&segment, "queue").unwrap();
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(queue.len() as u64 <= 2 * CHUNK);
                }
            });
        }
        (0..2 * CHUNK).for_each(|n| sender.try_send(page(n)).unwrap());
        for round in 2..rounds {
            let waiter = scope.spawn(|| {
                for _ in 0..CHUNK {
                    if let Err(e) = sender.send_timeout(page(0), Duration::from_secs(10)) {
                        return Err(e.to_string());
                    }
                }
                Ok(())
            });
            let mut got = 0;
            while got < CHUNK {
                got += u64::from(receiver.try_recv().is_ok());
            }
            let sent = waiter.join().unwrap();
            over.store(sent.is_err(), std::sync::atomic::Ordering::Relaxed);
            assert_eq!(sent, Ok(()), "round {round}");
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Bytes of message `n` of a sender.
fn bytes_of(sender: u32, n: u32) -> Vec<u8> {
    let len = if n.is_multiple_of(20) { 150_000 + n as usize % 1000 * 64 } else { n as usize * 37 % 3000 };
    let mut bytes = [sender.to_le_bytes(), n.to_le_bytes()].concat();
    bytes.resize(8 + len, (n ^ sender) as u8);
    bytes
}

/// Whose message it is, and which.
fn of_bytes(bytes: &[u8]) -> (u32, u32) {
    let [sender, n] = [0, 4].map(|at| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    assert!(bytes == bytes_of(sender, n), "{n} of {sender}, {} bytes", bytes.len());
    (sender, n)
}

fn send_bytes_forever(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let sender = Queue::<[u8]>::open(segment, "queue")?.sender()?;
    let ready = gimmal::Value::<u32>::open(segment, "ready")?;
    for n in 0.. {
        sender.send(&bytes_of(std::process::id(), n))?;
        if n == 200 {
            ready.fetch_add(1, std::sync::atomic::Ordering::Release);
            ready.notify_all();
        }
    }
    Ok(())
}

fn receive_bytes_forever(context: &Context) -> Outcome {
    die_with_parent();
    let receiver = Queue::<[u8]>::open(context.segment(0)?, "queue")?.receiver()?;
    while let Ok(message) = receiver.recv() {
        of_bytes(&message);
    }
    Ok(())
}

#[test]
fn kills_amid_messages_of_every_length_that_go_round_and_round() {
    let segment = Segment::anonymous().unwrap();
    let queue = QueueOptions::new().unbounded(1).create::<[u8]>(&segment, "queue").unwrap();
    gimmal::Value::<u32>::create(&segment, "ready", 0).unwrap();
    let receiver = queue.receiver().unwrap();
    let empty = memory(&segment);
    for round in 0..6 {
        let mut senders: Vec<Child> = (0..2).map(|_| start("send_bytes_forever", &segment, &[])).collect();
        let mut takers: Vec<Child> = (0..2).map(|_| start("receive_bytes_forever", &segment, &[])).collect();
        until_ready(&segment, 2 * (round + 1));
        kill_and_reap(&mut takers[0]);
        kill_and_reap(&mut senders[0]);
        kill_and_reap(&mut takers[1]);
        kill_and_reap(&mut senders[1]);
        until("the dead are repaired after", || segment.peers().len() == 1);
        segment.recover().unwrap();
        let mut last = std::collections::HashMap::new();
        while let Ok(message) = receiver.try_recv() {
            let (sender, n) = of_bytes(&message);
            assert!(last.insert(sender, n).is_none_or(|last| n > last), "round {round}: {n} of {sender}");
        }
        assert_eq!(queue.len(), 0);
        let left = memory(&segment);
        assert!(left <= empty + 4 * MIB, "round {round}: {empty} -> {left}");
    }
}

fn count_forever(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let queue = Queue::<Page>::open(segment, "queue")?;
    let ready = gimmal::Value::<u32>::open(segment, "ready")?;
    ready.fetch_add(1, std::sync::atomic::Ordering::Release);
    ready.notify_all();
    loop {
        std::hint::black_box(queue.len());
    }
}

#[test]
fn who_is_stopped_while_it_looks_keeps_memory_and_nothing_else() {
    use nix::sys::signal::{Signal, kill};
    let segment = Segment::anonymous().unwrap();
    let queue = small_queue(&segment);
    gimmal::Value::<u32>::create(&segment, "ready", 0).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    (0..CHUNK).for_each(|n| sender.try_send(page(n)).unwrap());
    let mut counter = start("count_forever", &segment, &[]);
    until_ready(&segment, 1);
    let pid = nix::unistd::Pid::from_raw(counter.pid() as i32);
    let (mut sent, mut received, mut in_vain) = (CHUNK, 0, 0);
    for round in 0..20 {
        thread::sleep(Duration::from_millis(1));
        kill(pid, Signal::SIGSTOP).unwrap();
        // Up to the limit everything goes on.
        while sender.try_send(page(sent)).is_ok() {
            sent += 1;
            if sent - received > CHUNK {
                assert_eq!(receiver.try_recv().unwrap()[0], received);
                received += 1;
            }
            if sent % (4 * CHUNK) == 0 {
                break; // It was not looking.
            }
        }
        while let Ok(message) = receiver.try_recv() {
            assert_eq!(message[0], received);
            received += 1;
        }
        assert_eq!(received, sent);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| sender.send_timeout(page(sent), Duration::from_secs(20)).is_ok());
            thread::sleep(Duration::from_millis(5));
            in_vain += u32::from(!waiter.is_finished());
            kill(pid, Signal::SIGCONT).unwrap();
            assert!(waiter.join().unwrap(), "round {round}");
        });
        sent += 1;
    }
    println!("it was stopped while it looked {in_vain} times of 20");
    kill_and_reap(&mut counter);
}

#[test]
fn a_snapshot_says_how_much_memory_there_is_as_du_does() {
    let segment = Segment::options().size(1 << 20).anonymous().unwrap();
    let numbers = QueueOptions::new().unbounded(64 << 20).create::<u64>(&segment, "numbers").unwrap();
    let texts = QueueOptions::new().unbounded(64 << 20).create::<[u8]>(&segment, "texts").unwrap();
    let (numbers, texts) = ((numbers.sender().unwrap(), numbers.receiver().unwrap()), texts.sender().unwrap());
    let check = || {
        let snapshot = segment.snapshot().unwrap();
        assert_eq!((snapshot.size, snapshot.memory), (1 << 20, memory(&segment)));
        let of_objects: Vec<u64> = snapshot.objects.iter().map(|object| object.memory - object.bytes as u64).collect();
        // The kernel may take memory in larger pieces than it was asked for.
        assert!(of_objects.iter().sum::<u64>() <= snapshot.memory - MIB, "{of_objects:?}");
        of_objects
    };
    assert_eq!(check(), [0, 0]);
    (0..1_000_000).for_each(|n| numbers.0.send(n).unwrap());
    (0..5_000).for_each(|_| texts.send(&[7; 1000]).unwrap());
    let full = check();
    assert!(full[0] >= 16_000_000 && full[1] >= 5_000_000, "{full:?}");
    assert_eq!(numbers.1.try_iter().count(), 1_000_000);
    assert!(check()[0] < 5 * MIB);
}
