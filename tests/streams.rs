//! Pipes of bytes as `std::io::Read` and `Write`, and doorbells for `poll`.

mod support;

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::thread;

use gimmal::process::{self, Context, Entry, Outcome};
use gimmal::{Doorbell, LossyQueue, Pipe, Queue, RecvError, Segment, SpscQueue, TryRecvError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proptest::prelude::*;
use support::{die_with_parent, join_well};

const ENTRIES: [Entry; 3] = gimmal::entries![echo, ring_from_afar, hear_it_ring];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 256) as u8).collect()
}

#[test]
fn a_stream_copies_what_is_longer_than_its_ring() {
    let segment = Segment::anonymous().unwrap();
    let (first, second) = Pipe::pair::<[u8], [u8]>(&segment, "pipe", 4096).unwrap();
    let sent = pattern(1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = first.into_stream();
            io::copy(&mut &sent[..], &mut stream).unwrap();
        });
        let mut received = Vec::new();
        second.into_stream().read_to_end(&mut received).unwrap();
        assert!(received == sent);
    });
}

#[test]
fn lines_are_read_whatever_the_messages_were() {
    let segment = Segment::anonymous().unwrap();
    let (mut sender, receiver) = Pipe::simplex::<[u8]>(&segment, "pipe", 4096).unwrap();
    for part in [&b"one\ntw"[..], b"", b"o\n", b"\nfour", b"\nrest"] {
        sender.send(part).unwrap();
    }
    drop(sender);
    let lines: Vec<String> = receiver.into_reader().lines().map(Result::unwrap).collect();
    assert_eq!(lines, ["one", "two", "", "four", "rest"]);
}

#[test]
fn a_stream_takes_messages_in_parts_and_from_several_buffers() {
    let segment = Segment::anonymous().unwrap();
    let (mut sender, receiver) = Pipe::simplex::<[u8]>(&segment, "pipe", 4096).unwrap();
    let long = pattern(20_000);
    thread::scope(|scope| {
        scope.spawn(|| {
            sender.send(&long).unwrap();
            let mut writer = sender.into_writer();
            assert_eq!(writer.write(&[]).unwrap(), 0);
            let parts = [IoSlice::new(b"some"), IoSlice::new(b""), IoSlice::new(b" parts")];
            assert_eq!(writer.write_vectored(&parts).unwrap(), 10);
            let most = writer.write_vectored(&[IoSlice::new(&long), IoSlice::new(&long)]).unwrap();
            assert!(most > 1000 && most <= 2048, "{most}");
            writer.flush().unwrap();
        });
        let mut reader = receiver.into_reader();
        assert_eq!(reader.read(&mut []).unwrap(), 0);
        let mut found = vec![0; long.len()];
        reader.read_exact(&mut found).unwrap();
        assert!(found == long);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(rest.starts_with(b"some parts") && long.starts_with(&rest[10..]));
    });
}

#[test]
fn a_stream_whose_other_end_is_gone_is_broken_to_write_and_at_its_end_to_read() {
    let segment = Segment::anonymous().unwrap();
    let (first, second) = Pipe::pair::<[u8], [u8]>(&segment, "pipe", 4096).unwrap();
    let mut first = first.into_stream();
    first.write_all(b"last").unwrap();
    drop(second);
    assert_eq!(first.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(first.read(&mut [0; 8]).unwrap(), 0);
    let (mut reader, mut writer) = first.split();
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(writer.write_vectored(&[IoSlice::new(b"x")]).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn what_was_read_in_part_comes_again_to_a_successor() {
    let segment = Segment::anonymous().unwrap();
    let queue = SpscQueue::<[u8]>::create(&segment, "queue", 4096).unwrap();
    let mut sender = queue.sender().unwrap();
    sender.send(b"message").unwrap();
    let mut reader = queue.receiver().unwrap().into_reader();
    reader.read_exact(&mut [0; 3]).unwrap();
    drop(reader);
    assert_eq!(*queue.receiver().unwrap().recv().unwrap(), *b"message");
}

fn echo(context: &Context) -> Outcome {
    die_with_parent();
    let (reader, writer) = Pipe::connect::<[u8], [u8]>(context.segment(0)?, "pipe")?.into_stream().split();
    let mut writer = BufWriter::new(writer);
    for line in BufReader::new(reader).lines() {
        writeln!(writer, "{} back", line?)?;
        writer.flush()?;
    }
    Ok(())
}

#[test]
fn processes_talk_in_lines() {
    process::init(&ENTRIES);
    let segment = Segment::anonymous().unwrap();
    let mut stream = Pipe::create::<[u8], [u8]>(&segment, "pipe", 4096).unwrap().into_stream();
    let mut child = support::process("echo").segment(&segment).spawn().unwrap();
    for n in 0..500 {
        writeln!(stream, "line {n}").unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, format!("line {n} back\n"));
    }
    drop(stream);
    join_well(&mut child);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_pieces_are_the_bytes_are_the_same(
        writes in prop::collection::vec(0_usize..3000, 1..20),
        reads in prop::collection::vec(1_usize..3000, 1..20),
    ) {
        let segment = Segment::anonymous().unwrap();
        let (sender, receiver) = Pipe::simplex::<[u8]>(&segment, "pipe", 4096).unwrap();
        let sent = pattern(writes.iter().sum());
        let received = thread::scope(|scope| {
            scope.spawn(|| {
                let (mut writer, mut left) = (sender.into_writer(), &sent[..]);
                for len in writes {
                    let (now, later) = left.split_at(len);
                    writer.write_all(now).unwrap();
                    left = later;
                }
            });
            let (mut reader, mut received) = (receiver.into_reader(), Vec::new());
            for len in reads.iter().cycle() {
                let mut buffer = vec![0; *len];
                match reader.read(&mut buffer).unwrap() {
                    0 => break,
                    count => received.extend_from_slice(&buffer[..count]),
                }
            }
            received
        });
        prop_assert!(received == sent);
    }
}

// --- doorbells ---

fn wait(doorbell: &Doorbell) {
    let mut fds = [PollFd::new(doorbell.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::NONE).unwrap(), 1);
}

fn is_rung(doorbell: &Doorbell) -> bool {
    poll(&mut [PollFd::new(doorbell.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn a_doorbell_rings_for_every_message_that_is_waited_for() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<u64>::create(&segment, "queue", 16).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let doorbell = receiver.doorbell().unwrap();
    assert!(!is_rung(&doorbell));
    thread::scope(|scope| {
        scope.spawn(move || (0..10_000).for_each(|n| sender.send(n).unwrap()));
        let mut next = 0;
        while next < 10_000 {
            wait(&doorbell);
            doorbell.clear();
            while let Ok(n) = receiver.try_recv() {
                assert_eq!(n, next);
                next += 1;
            }
        }
    });
    doorbell.clear();
    queue.close();
    wait(&doorbell);
    assert_eq!(receiver.recv(), Err(RecvError::Closed));
}

#[test]
fn a_doorbell_that_is_cleared_too_early_rings_again() {
    let segment = Segment::anonymous().unwrap();
    let (mut sender, mut receiver) = Pipe::simplex::<[u8]>(&segment, "pipe", 4096).unwrap();
    sender.send(b"there before it").unwrap();
    let doorbell = receiver.doorbell().unwrap();
    for _ in 0..100 {
        wait(&doorbell);
        doorbell.clear();
    }
    assert_eq!(*receiver.recv().unwrap(), *b"there before it");
    doorbell.clear();
    drop(sender);
    wait(&doorbell);
    assert!(matches!(receiver.try_recv().map(|frame| frame.len()), Err(TryRecvError::Disconnected { .. })));
}

#[test]
fn a_doorbell_takes_no_wake_from_a_receiver() {
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<u64>::create(&segment, "queue", 16).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let bells: Vec<Doorbell> = (0..3).map(|_| receiver.doorbell().unwrap()).collect();
    thread::scope(|scope| {
        let sum = scope.spawn(move || receiver.iter().take(2_000).sum::<u64>());
        for n in 0..2_000 {
            sender.send(n).unwrap();
            bells.iter().for_each(Doorbell::clear);
        }
        assert_eq!(sum.join().unwrap(), 1_999_000);
    });
}

/// Five thousand doorbells in two segments on one more thread, which all ring, and ring again.
#[test]
fn any_number_of_doorbells_needs_one_thread() {
    const EACH: usize = 2500;
    let reactors = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("gimmal-reactor") || name.starts_with("gimmal-doorbell")).count()
    };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard > 6000, "the test needs more descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(20_000), hard).unwrap();
    let segments = [(); 2].map(|()| Segment::options().size(16 << 20).max_objects(4096).anonymous().unwrap());
    let queues: Vec<_> =
        (0..2 * EACH).map(|n| Queue::<u64>::create(&segments[n % 2], &n.to_string(), 2).unwrap()).collect();
    let ends: Vec<_> = queues.iter().map(|queue| (queue.sender().unwrap(), queue.receiver().unwrap())).collect();
    let bells: Vec<Doorbell> = ends.iter().map(|(_, receiver)| receiver.doorbell().unwrap()).collect();
    assert_eq!(reactors(), 1);
    assert!(!bells.iter().any(is_rung));
    for round in 0..3 {
        // From the other end, so that the last ones to be armed are the first to ring.
        for (n, (sender, _)) in ends.iter().enumerate().rev() {
            sender.send(n as u64 + round).unwrap();
        }
        for (n, (bell, (_, receiver))) in bells.iter().zip(&ends).enumerate() {
            wait(bell);
            assert_eq!(receiver.try_recv(), Ok(n as u64 + round));
            bell.clear();
        }
    }
    // One alone.
    ends[EACH].0.send(1).unwrap();
    wait(&bells[EACH]);
    assert_eq!(reactors(), 1);
}

/// The reactor keeps nobody's segment: the last handle that is dropped leaves it, and its name goes.
#[test]
fn a_doorbell_that_is_dropped_keeps_no_segment() {
    for round in 0..200 {
        let name = format!("streams-bell-{}-{round}", std::process::id());
        let segment = Segment::create(&name).unwrap();
        let queue = Queue::<u64>::create(&segment, "queue", 16).unwrap();
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let bell = receiver.doorbell().unwrap();
        sender.send(1).unwrap();
        if round % 2 == 0 {
            wait(&bell);
            bell.clear();
        }
        drop((queue, sender, receiver, segment));
        assert!(std::path::Path::new("/dev/shm").join(format!("gimmal.{name}")).exists());
        drop(bell);
        assert!(!std::path::Path::new("/dev/shm").join(format!("gimmal.{name}")).exists());
    }
}

/// Of one event, in several reactors: each process is told.
#[test]
fn doorbells_of_several_processes_all_ring() {
    process::init(&ENTRIES);
    let segment = Segment::anonymous().unwrap();
    let (queue, acks) =
        (Queue::<u64>::create(&segment, "queue", 16).unwrap(), Queue::<u64>::create(&segment, "acks", 16).unwrap());
    let (sender, receiver, acks) = (queue.sender().unwrap(), queue.receiver().unwrap(), acks.receiver().unwrap());
    let bell = receiver.doorbell().unwrap();
    let mut children = [(); 2].map(|()| support::process("hear_it_ring").segment(&segment).spawn().unwrap());
    for round in 0..100 {
        // Both are there, and have seen that there is nothing.
        for _ in &children {
            acks.recv().unwrap();
        }
        sender.send(round).unwrap();
        wait(&bell);
        for _ in &children {
            assert_eq!(acks.recv(), Ok(round));
        }
        assert_eq!(receiver.try_recv(), Ok(round));
        bell.clear();
    }
    queue.close();
    children.iter_mut().for_each(join_well);
}

fn hear_it_ring(context: &Context) -> Outcome {
    die_with_parent();
    let queue = Queue::<u64>::open(context.segment(0)?, "queue")?;
    let (receiver, acks) = (queue.receiver()?, Queue::<u64>::open(context.segment(0)?, "acks")?.sender()?);
    let bell = receiver.doorbell()?;
    for round in 0..100 {
        while !queue.is_empty() {
            std::thread::yield_now();
        }
        acks.send(1000)?;
        while queue.is_empty() {
            wait(&bell);
            bell.clear();
        }
        acks.send(round)?;
    }
    Ok(())
}

#[test]
fn a_doorbell_of_a_lossy_queue_rings() {
    let segment = Segment::anonymous().unwrap();
    let queue = LossyQueue::<u64>::create(&segment, "queue", 4).unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let bell = receiver.doorbell().unwrap();
    for round in 0..100 {
        (0..9).for_each(|n| sender.send(round + n).unwrap());
        wait(&bell);
        bell.clear();
        assert_eq!(receiver.try_iter().last(), Some(round + 8));
    }
}

fn ring_from_afar(context: &Context) -> Outcome {
    die_with_parent();
    Queue::<u64>::open(context.segment(0)?, "queue")?.sender()?.send(7)?;
    Ok(())
}

#[test]
fn a_doorbell_rings_for_a_message_of_another_process() {
    process::init(&ENTRIES);
    let segment = Segment::anonymous().unwrap();
    let queue = Queue::<u64>::create(&segment, "queue", 16).unwrap();
    let receiver = queue.receiver().unwrap();
    let doorbell = receiver.doorbell().unwrap();
    let mut child = support::process("ring_from_afar").segment(&segment).spawn().unwrap();
    wait(&doorbell);
    assert_eq!(receiver.try_recv(), Ok(7));
    join_well(&mut child);
}
