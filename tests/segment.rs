//! Segments: how they come, who is in them, and when they go. Errors: `errors.rs`; bytes: `layout.rs`.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::{Duration, SystemTime};
use std::{env, thread};

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{Array, Error, Kind, Lock, Pipe, Queue, QueueOptions, Segment, SegmentOptions, SpscQueue, Value};
use nix::libc;
use nix::sys::resource::{UsageWho, getrusage};
use support::{CHILD, LONG, Random, die_with_parent, failed, join_well, kill_and_reap, resume, stop, until};

const ENTRIES: [Entry; 6] =
    gimmal::entries![attend, come_together, churn, use_default_directory, use_relative_directory, create_step_by_step];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

/// A directory for the segments of one test, which must be empty in the end, and is gone however the test ends.
struct Home(PathBuf);

impl Home {
    fn new(case: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/t-segment-{}-{case}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn options(&self) -> SegmentOptions {
        Segment::options().directory(&self.0).size(64 << 10)
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn inode(&self, name: &str) -> u64 {
        fs::symlink_metadata(self.join(format!("gimmal.{name}"))).unwrap().ino()
    }

    fn start(&self, entry: &str, arguments: &[&str]) -> Child {
        process::init(&ENTRIES);
        // So that the tests decide who repairs.
        support::process(entry)
            .env("GIMMAL_SENTINEL", "off")
            .arg(&self.0)
            .args(arguments)
            .spawn()
            .expect("start a process")
    }

    /// A process that has joined the segment.
    fn attendant(&self, name: &str) -> Child {
        let segment = self.options().sentinel(false).open(name).unwrap();
        let attending = Value::<u32>::open_or_create(&segment, "attending", 0).unwrap();
        let before = attending.load(Acquire);
        let child = self.start("attend", &[name]);
        assert_eq!(attending.wait_while_timeout(LONG, |now| now == before), Ok(before + 1));
        child
    }

    /// Leaves a segment behind whose only participant was killed.
    fn abandoned(&self, options: &SegmentOptions, name: &str) -> u32 {
        let segment = options.create(name).unwrap();
        Value::<u32>::create(&segment, "old", 1).unwrap();
        let mut child = self.attendant(name);
        drop(segment);
        assert!(kill_and_reap(&mut child));
        assert!(self.files().contains(&format!("gimmal.{name}")), "the dead remove nothing");
        child.pid()
    }
}

impl Deref for Home {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let left = self.files();
        fs::remove_dir_all(&self.0).unwrap();
        assert!(thread::panicking() || left.is_empty(), "{left:?} are left behind");
    }
}

/// Joins, says so, and stays until it is killed, or until it is let go by its parent's death.
fn attend(context: &Context) -> Outcome {
    die_with_parent();
    let segment = Segment::options().directory(&context.args()[0]).open(context.arg(1).ok_or("a name")?)?;
    let attending = Value::<u32>::open(&segment, "attending")?;
    attending.fetch_add(1, AcqRel);
    attending.notify_all();
    // Not in a wait of ours, which would look around and repair after others.
    loop {
        thread::park();
    }
}

fn is_not_found<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::NotFound { .. }))
}

// --- what a segment is ---

#[test]
fn a_segment_of_64_kib_has_more_than_half_of_it_free_and_holds_a_useful_queue() {
    for segment in [Segment::options().size(64 << 10).anonymous().unwrap()] {
        assert_eq!(segment.size(), 64 << 10);
        assert!(segment.free() > 32 << 10, "{} bytes are free", segment.free());
        let queue = Queue::<[u64; 4]>::create(&segment, "queue", 512).unwrap();
        let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for round in 0..3 {
            assert_eq!(sender.try_send_slice(&[[round; 4]; 600]), Ok(512));
            assert!(receiver.try_iter().eq([[round; 4]; 512]));
        }
    }
}

#[test]
fn a_size_is_rounded_up_to_pages_and_all_of_it_is_in_the_file() {
    let home = Home::new("size");
    for (asked, size) in [(40_000, 40_960), (40_960, 40_960), (40_961, 45_056), (1 << 20, 1 << 20)] {
        let segment = home.options().size(asked).create("s").unwrap();
        let file = fs::metadata(home.join("gimmal.s")).unwrap();
        assert_eq!((segment.size(), file.len()), (size, size as u64));
        assert_eq!(file.blocks() * 512, size as u64, "every page is reserved");
    }
    assert_eq!(Segment::anonymous().unwrap().size(), 1 << 20, "the default");
}

#[test]
fn a_segment_is_one_file_with_the_mode_that_was_asked_for() {
    let home = Home::new("mode");
    for (i, mode) in [0o600, 0o660, 0o644, 0o777].into_iter().enumerate() {
        let name = format!("s{i}");
        let _segment = home.options().mode(mode).create(&name).unwrap();
        let file = fs::symlink_metadata(home.join(format!("gimmal.{name}"))).unwrap();
        assert!(file.is_file());
        assert_eq!((file.permissions().mode() & 0o7777, file.nlink()), (mode, 1));
        assert_eq!(home.files(), [format!("gimmal.{name}")]);
    }
}

#[test]
fn a_segment_knows_its_name_its_place_and_its_options() {
    let home = Home::new("knows");
    let before = SystemTime::now();
    let options = home.options().max_participants(5).max_objects(7).persist(true).full_fences(true);
    let segment = options.create("Some.Name_1-2").unwrap();
    assert_eq!((segment.name(), segment.directory()), (Some("Some.Name_1-2"), &*home.0));
    assert!(segment.persists());
    let snapshot = segment.snapshot().unwrap();
    assert_eq!((snapshot.name.as_deref(), snapshot.size), (Some("Some.Name_1-2"), 64 << 10));
    assert_eq!((snapshot.max_participants, snapshot.max_objects), (5, 7));
    assert!(snapshot.persist && !snapshot.asymmetric_fences);
    assert!(before <= snapshot.created && snapshot.created <= SystemTime::now());
    assert_eq!(snapshot.used, snapshot.size - segment.free());
    assert!(format!("{segment:?}").contains("Some.Name_1-2"));
    home.options().unlink("Some.Name_1-2").unwrap();

    let anonymous = Segment::anonymous().unwrap();
    assert_eq!((anonymous.name(), anonymous.persists()), (None, false));
    assert_eq!(anonymous.snapshot().unwrap().name, None);
}

#[test]
fn the_longest_name_is_a_file_too() {
    let home = Home::new("longest");
    let name = "n".repeat(200);
    let segment = home.options().create(&name).unwrap();
    assert_eq!(home.options().open(&name).unwrap().name(), segment.name());
    assert_eq!(home.options().list().unwrap()[0].name, name);
}

#[test]
fn many_objects_are_found_by_their_names() {
    let segment = Segment::options().size(4 << 20).anonymous().unwrap();
    assert_eq!(segment.snapshot().unwrap().max_objects, 1024, "one for each page");
    for i in 0..1024_u32 {
        Value::<u32>::create(&segment, &format!("value-{i}"), i).unwrap();
    }
    assert!(matches!(Value::<u32>::create(&segment, "one-more", 0), Err(Error::NoObjectSlot { maximum: 1024 })));
    for i in (0..1024).rev() {
        assert_eq!(Value::<u32>::open(&segment, &format!("value-{i}")).unwrap().load(Relaxed), i);
    }
    let objects = segment.snapshot().unwrap().objects;
    assert!(objects.iter().enumerate().all(|(i, object)| object.name == format!("value-{i}")));
}

/// A creator that is killed after it has written to the heap, and before it has said so, leaves that behind.
#[test]
fn an_object_begins_with_zeros_whatever_was_there_before() {
    let home = Home::new("zeros");
    let segment = home.options().create("s").unwrap();
    let used = segment.snapshot().unwrap().used;
    let file = File::options().write(true).open(home.join("gimmal.s")).unwrap();
    file.write_all_at(&vec![0xff; segment.free()], used as u64).unwrap();
    let queue = Queue::<u64>::create(&segment, "queue", 8).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    assert!(receiver.try_recv().unwrap_err().is_empty());
    sender.send_slice(&[1, 2, 3]).unwrap();
    assert!(receiver.try_iter().eq([1, 2, 3]));
    assert_eq!(Array::<u32>::create(&segment, "array", 50).unwrap().to_vec(), [0; 50]);
    assert_eq!(*Lock::<u8>::create(&segment, "lock", 5).unwrap().try_lock().unwrap(), 5);
    let mut end = Pipe::create::<u8, u8>(&segment, "pipe", 2).unwrap();
    end.send_slice(&[1, 2]).unwrap();
    let value = Value::<u64>::create(&segment, "value", 6).unwrap();
    assert_eq!(value.load(Relaxed), 6);
    value.notify_all();
}

// --- coming and going ---

#[test]
fn what_one_puts_into_a_segment_another_finds() {
    let home = Home::new("finds");
    let segment = home.options().create("s").unwrap();
    Queue::<u32>::create(&segment, "queue", 4).unwrap().sender().unwrap().send(7).unwrap();
    let other = home.options().open("s").unwrap();
    assert_eq!(Queue::<u32>::open(&other, "queue").unwrap().receiver().unwrap().try_recv(), Ok(7));
    let third = home.options().size(1 << 20).open_or_create("s").unwrap();
    assert_eq!(third.size(), 64 << 10, "it is the one that is there");
    assert!(Queue::<u32>::open(&third, "queue").is_ok());
}

#[test]
fn a_segment_goes_with_its_last_participant() {
    let home = Home::new("last");
    let segment = home.options().create("s").unwrap();
    let other = home.options().open("s").unwrap();
    let clone = segment.clone();
    drop(segment);
    assert_eq!(home.files(), ["gimmal.s"]);
    drop(clone);
    assert_eq!(home.files(), ["gimmal.s"]);
    drop(other);
    assert_eq!(home.files(), [""; 0]);
    assert!(is_not_found(home.options().open("s")));
}

#[test]
fn each_object_and_each_end_keeps_the_segment() {
    let home = Home::new("keeps");
    type Keeper = (&'static str, fn(&Segment) -> Box<dyn std::any::Any>);
    let keepers: [Keeper; 11] = [
        ("queue", |s| Box::new(Queue::<u8>::create(s, "o", 1).unwrap())),
        ("sender", |s| Box::new(Queue::<u8>::create(s, "o", 1).unwrap().sender().unwrap())),
        ("receiver", |s| Box::new(Queue::<u8>::create(s, "o", 1).unwrap().receiver().unwrap())),
        ("iterator", |s| Box::new(Queue::<u8>::create(s, "o", 1).unwrap().receiver().unwrap().into_iter())),
        ("spsc", |s| Box::new(SpscQueue::<u8>::create(s, "o", 1).unwrap())),
        ("end", |s| Box::new(Pipe::create::<u8, u8>(s, "o", 1).unwrap())),
        ("half", |s| Box::new(Pipe::create::<u8, u8>(s, "o", 1).unwrap().split().1)),
        ("shared end", |s| Box::new(Pipe::shared_first::<u8, u8>(s, "o", 1).unwrap())),
        ("value", |s| Box::new(Value::<u8>::create(s, "o", 1).unwrap())),
        ("array", |s| Box::new(Array::<u8>::create(s, "o", 1).unwrap())),
        ("guard", |s| Box::new(Lock::<u8>::create(s, "o", 1).unwrap().lock().unwrap())),
    ];
    for (what, make) in keepers {
        let segment = home.options().create("s").unwrap();
        let keeper = make(&segment);
        drop(segment);
        assert_eq!(home.options().inspect("s").unwrap().participants.len(), 1, "{what} keeps it");
        drop(keeper);
        assert_eq!(home.files(), [""; 0], "{what} lets it go");
    }
}

#[test]
fn a_persistent_segment_stays_with_what_is_in_it_until_it_is_unlinked() {
    let home = Home::new("persist");
    let segment = home.options().persist(true).create("s").unwrap();
    Value::<u64>::create(&segment, "value", 0).unwrap();
    Queue::<u64>::create(&segment, "queue", 4).unwrap().sender().unwrap().send(5).unwrap();
    drop(segment);
    for round in 0..3 {
        assert_eq!(home.options().clean().unwrap(), [""; 0]);
        let segment = if round == 2 { home.options().open_or_create("s") } else { home.options().open("s") }.unwrap();
        assert!(segment.persists());
        assert_eq!(segment.peers().len(), 1);
        assert_eq!(Value::<u64>::open(&segment, "value").unwrap().fetch_add(1, Relaxed), round);
        assert_eq!(Queue::<u64>::open(&segment, "queue").unwrap().len(), 1);
        assert!(matches!(home.options().create("s"), Err(Error::Exists { .. })));
    }
    home.options().unlink("s").unwrap();
    assert!(is_not_found(home.options().open("s")));
}

#[test]
fn replace_gives_a_new_segment_and_leaves_the_old_one_to_those_in_it() {
    let home = Home::new("replace");
    let old = home.options().create("s").unwrap();
    let (first, value) = (home.inode("s"), Value::<u32>::create(&old, "value", 1).unwrap());
    assert!(matches!(home.options().create("s"), Err(Error::Exists { .. })));
    let new = home.options().replace(true).create("s").unwrap();
    assert_ne!(home.inode("s"), first, "a fresh file, not the old one emptied");
    assert!(is_not_found(Value::<u32>::open(&new, "value")));
    assert_eq!(Value::<u32>::open(&old, "value").unwrap().swap(2, Relaxed), 1);
    assert_eq!(value.load(Relaxed), 2);
    assert_eq!((old.peers().len(), new.peers().len()), (1, 1));
    drop((old, value));
    assert_eq!(home.files(), ["gimmal.s"], "whoever leaves the old one does not take the new one along");
    assert_eq!(home.options().open("s").unwrap().peers().len(), 2);
    // Without anything to replace.
    drop(new);
    drop(home.options().replace(true).create("s").unwrap());
}

#[test]
fn replace_takes_a_name_from_what_is_no_segment() {
    let home = Home::new("replace-junk");
    fs::write(home.join("gimmal.a"), "junk").unwrap();
    std::os::unix::fs::symlink("/nonexistent", home.join("gimmal.b")).unwrap();
    for name in ["a", "b"] {
        assert!(home.options().create(name).is_err());
        let _segment = home.options().replace(true).create(name).unwrap();
        assert!(fs::symlink_metadata(home.join(format!("gimmal.{name}"))).unwrap().is_file());
        assert!(home.options().open(name).is_ok());
    }
}

#[test]
fn unlink_frees_the_name_and_disturbs_nobody() {
    let home = Home::new("unlink");
    let old = home.options().create("s").unwrap();
    let queue = Queue::<u32>::create(&old, "queue", 4).unwrap();
    let other = home.options().open("s").unwrap();
    home.options().unlink("s").unwrap();
    assert_eq!(home.files(), [""; 0]);
    assert!(is_not_found(home.options().open("s")) && is_not_found(home.options().unlink("s")));
    queue.sender().unwrap().send(3).unwrap();
    assert_eq!(Queue::<u32>::open(&other, "queue").unwrap().receiver().unwrap().recv(), Ok(3));
    Value::<u8>::create(&other, "value", 1).unwrap();
    assert_eq!((old.peers().len(), old.recover().unwrap().died), (2, vec![]));
    let new = home.options().create("s").unwrap();
    drop((old, queue, other));
    assert_eq!(home.files(), ["gimmal.s"], "those who leave the old one do not take the new one along");
    assert_eq!(new.snapshot().unwrap().objects.len(), 0);
}

#[test]
fn unlink_removes_what_is_damaged_too() {
    let home = Home::new("unlink-junk");
    fs::write(home.join("gimmal.a"), "junk").unwrap();
    std::os::unix::fs::symlink("/nonexistent", home.join("gimmal.b")).unwrap();
    home.options().unlink("a").unwrap();
    home.options().unlink("b").unwrap();
}

#[test]
fn opening_twice_gives_two_participants_and_cloning_none() {
    let home = Home::new("twice");
    let segment = home.options().create("s").unwrap();
    let (clone, other) = (segment.clone(), home.options().open("s").unwrap());
    let peers = other.peers();
    assert_eq!(peers.len(), 2);
    assert!(peers.iter().all(|peer| peer.pid == std::process::id()));
    assert_ne!(peers[0].id, peers[1].id);
    let ours = |segment: &Segment| segment.peers().iter().find(|peer| peer.is_self).map(|peer| peer.id);
    assert_eq!(ours(&segment), ours(&clone));
    assert_ne!(ours(&segment), ours(&other));
    assert_eq!(peers.iter().filter(|peer| peer.is_self).count(), 1);
    drop(segment);
    assert_eq!(other.peers().len(), 2, "a clone is left");
    drop(clone);
    let peers = other.peers();
    assert_eq!((peers.len(), peers[0].is_self), (1, true));
    // A seat or a lock that one of them holds is taken for the other.
    let third = home.options().open("s").unwrap();
    let _sender = SpscQueue::<u8>::create(&other, "queue", 1).unwrap().sender().unwrap();
    let taken = SpscQueue::<u8>::open(&third, "queue").unwrap().sender();
    assert!(matches!(taken, Err(Error::SeatTaken { pid }) if pid == std::process::id()));
}

#[test]
fn a_place_that_is_left_is_given_out_again() {
    let segment = Segment::options().size(64 << 10).max_participants(3).anonymous().unwrap();
    for _ in 0..10 {
        let others = [(); 2].map(|()| Segment::from_fd(&segment).unwrap());
        assert!(matches!(Segment::from_fd(&segment), Err(Error::NoParticipantSlot { maximum: 3 })));
        let mut ids: Vec<u16> = segment.peers().iter().map(|peer| peer.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3]);
        drop(others);
        assert_eq!(segment.peers().len(), 1);
    }
}

#[test]
fn all_places_that_a_segment_may_have_can_be_taken() {
    let segment = Segment::options().size(64 << 10).max_participants(511).anonymous().unwrap();
    let queue = QueueOptions::new().capacity(4).create::<u16>(&segment, "queue").unwrap();
    let receiver = queue.receiver().unwrap();
    let mut others = Vec::new();
    for _ in 1..511 {
        let other = Segment::from_fd(&segment).unwrap();
        others.push(Queue::<u16>::open(&other, "queue").unwrap().sender().unwrap());
    }
    assert!(matches!(Segment::from_fd(&segment), Err(Error::NoParticipantSlot { maximum: 511 })));
    assert_eq!(segment.peers().len(), 511);
    for (i, sender) in others.drain(..).enumerate() {
        assert!(receiver.try_recv().unwrap_err().is_empty(), "somebody is left who could send");
        sender.send(i as u16).unwrap();
        assert_eq!(receiver.recv(), Ok(i as u16));
    }
    assert!(receiver.try_recv().unwrap_err().is_disconnected());
}

// --- without a name ---

#[test]
fn a_descriptor_leads_to_the_same_unnamed_segment_and_holds_nobodys_lease() {
    let segment = Segment::options().size(64 << 10).anonymous().unwrap();
    Value::<u32>::create(&segment, "value", 5).unwrap();
    let other = Segment::from_fd(&segment).unwrap();
    let value = Value::<u32>::open(&other, "value").unwrap();
    assert_eq!(value.load(Relaxed), 5);
    assert_eq!((segment.peers().len(), other.name()), (2, None));
    let passed = other.as_fd().try_clone_to_owned().unwrap();
    drop((segment, other, value));
    // Nobody was in it for a moment: a descriptor keeps the segment, not the participants.
    let segment = Segment::from_fd(&passed).unwrap();
    drop(passed);
    let participants = segment.snapshot().unwrap().participants;
    assert_eq!(participants.len(), 1);
    assert_eq!(Value::<u32>::open(&segment, "value").unwrap().load(Relaxed), 5);
}

#[test]
fn an_unnamed_segment_cannot_become_shorter() {
    let segment = Segment::options().size(64 << 10).anonymous().unwrap();
    let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(file.metadata().unwrap().len(), 64 << 10);
    for size in [0, 4096, (64 << 10) - 1] {
        assert!(file.set_len(size).is_err());
    }
    // Queues without a bound make it longer.
    file.set_len(1 << 20).unwrap();
    assert_eq!(Segment::from_fd(&segment).unwrap().size(), 64 << 10);
}

// --- looking ---

#[test]
fn inspect_and_snapshot_tell_all_that_is_in_a_segment() {
    let home = Home::new("inspect");
    let segment = home.options().size(1 << 20).create("s").unwrap();
    let queue = Queue::<u32>::create(&segment, "jobs", 5).unwrap();
    queue.sender().unwrap().send_slice(&[1, 2, 3]).unwrap();
    let closed = SpscQueue::<[u8; 3]>::create(&segment, "closed", 2).unwrap();
    let mut sender = closed.sender().unwrap();
    sender.send([1; 3]).unwrap();
    sender.close();
    let (mut first, _second) = Pipe::pair::<u8, u64>(&segment, "pipe", 4).unwrap();
    first.send_slice(&[1, 2]).unwrap();
    let (_one, two) = Pipe::shared::<i8, f32>(&segment, "shared", 4).unwrap();
    two.send(0.5).unwrap();
    Value::<f64>::create(&segment, "value", 1.5).unwrap();
    Array::<i16>::create(&segment, "array", 9).unwrap();
    Lock::<u64>::create(&segment, "lock", 1).unwrap();

    let expected = [
        ("jobs", Kind::Queue, "u32", 4, 8, vec![3], Some(false)),
        ("closed", Kind::SpscQueue, "[u8; 3]", 3, 2, vec![1], Some(true)),
        ("pipe", Kind::Pipe, "u8 -> u64", 1, 4, vec![2, 0], Some(false)),
        ("shared", Kind::SharedPipe, "i8 -> f32", 1, 4, vec![0, 1], Some(false)),
        ("value", Kind::Value, "f64", 8, 1, vec![], None),
        ("array", Kind::Array, "i16", 2, 9, vec![], None),
        ("lock", Kind::Lock, "u64", 8, 1, vec![], None),
    ];
    for snapshot in [segment.snapshot().unwrap(), home.options().inspect("s").unwrap()] {
        assert_eq!((snapshot.name.as_deref(), snapshot.size), (Some("s"), 1 << 20));
        assert_eq!(snapshot.size - snapshot.used, segment.free());
        assert_eq!((snapshot.participants.len(), snapshot.participants[0].alive), (1, true));
        assert_eq!(snapshot.participants[0].pid, std::process::id());
        let found: Vec<_> = snapshot
            .objects
            .iter()
            .map(|o| (&*o.name, o.kind, &*o.element, o.element_size, o.capacity, o.depth.clone(), o.closed))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn looking_joins_nothing_and_changes_nothing() {
    let home = Home::new("looking");
    let segment = home.options().create("s").unwrap();
    Queue::<u32>::create(&segment, "queue", 4).unwrap().sender().unwrap().send(1).unwrap();
    let before = fs::read(home.join("gimmal.s")).unwrap();
    for _ in 0..3 {
        home.options().inspect("s").unwrap();
        segment.snapshot().unwrap();
        assert_eq!(home.options().list().unwrap().len(), 1);
        assert_eq!(segment.peers().len(), 1);
        assert_eq!(home.options().clean().unwrap(), [""; 0]);
    }
    assert!(fs::read(home.join("gimmal.s")).unwrap() == before, "the bytes are what they were");
}

#[test]
fn list_names_all_segments_in_order_and_says_what_is_wrong_with_the_damaged() {
    let home = Home::new("list");
    assert!(home.options().list().unwrap().is_empty());
    let _segments = ["b", "a.2", "C"].map(|name| home.options().create(name).unwrap());
    home.options().persist(true).create("quiet").map(drop).unwrap();
    fs::write(home.join("gimmal.junk"), "junk").unwrap();
    for other in ["other", "gimmal.", "gimmal.a b", "xgimmal.a", "Gimmal.a"] {
        fs::write(home.join(other), "").unwrap();
    }
    let list = home.options().list().unwrap();
    let names: Vec<&str> = list.iter().map(|listed| &*listed.name).collect();
    assert_eq!(names, ["C", "a.2", "b", "junk", "quiet"]);
    for listed in &list {
        match (&*listed.name, &listed.snapshot) {
            ("junk", Err(Error::NotGimmal { .. })) => {}
            ("quiet", Ok(snapshot)) => assert!(snapshot.participants.is_empty() && snapshot.persist),
            ("C" | "a.2" | "b", Ok(snapshot)) => {
                assert_eq!((snapshot.name.as_ref(), snapshot.participants.len()), (Some(&listed.name), 1));
            }
            (name, snapshot) => panic!("{name}: {snapshot:?}"),
        }
    }
    drop(_segments);
    for file in home.files() {
        fs::remove_file(home.join(file)).unwrap();
    }
}

// --- the dead ---

#[test]
fn peers_are_those_who_live_and_a_snapshot_tells_the_dead_until_they_are_repaired_after() {
    let home = Home::new("peers");
    let segment = home.options().sentinel(false).create("s").unwrap();
    let mut children = [home.attendant("s"), home.attendant("s")];
    let pids = |segment: &Segment| {
        let mut pids: Vec<u32> = segment.peers().iter().filter(|peer| !peer.is_self).map(|peer| peer.pid).collect();
        pids.sort_unstable();
        pids
    };
    let mut expected = children.each_ref().map(Child::pid);
    expected.sort_unstable();
    assert_eq!(pids(&segment), expected);
    assert!(segment.peers().iter().all(|peer| peer.joined <= SystemTime::now()));
    assert!(kill_and_reap(&mut children[0]));
    let (dead, living) = (children[0].pid(), children[1].pid());
    assert_eq!(pids(&segment), [living]);
    for snapshot in [segment.snapshot().unwrap(), home.options().inspect("s").unwrap()] {
        let alive = |pid| snapshot.participants.iter().find(|p| p.pid == pid).map(|p| p.alive);
        assert_eq!((alive(dead), alive(living), alive(std::process::id())), (Some(false), Some(true), Some(true)));
    }
    let recovered = segment.recover().unwrap();
    assert_eq!((recovered.died, recovered.aborted, recovered.redelivered, recovered.locks), (vec![dead], 0, 0, 0));
    assert_eq!(segment.recover().unwrap().died, [0_u32; 0]);
    let left = segment.snapshot().unwrap().participants;
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|participant| participant.alive));
}

#[test]
fn whoever_joins_repairs_after_the_dead() {
    let home = Home::new("joiner");
    let segment = home.options().max_participants(2).create("s").unwrap();
    for _ in 0..3 {
        // Each takes the place of the one before.
        let mut child = home.attendant_in_the_last_place("s", &segment);
        assert!(kill_and_reap(&mut child));
        let other = home.options().open("s").unwrap();
        assert_eq!(other.snapshot().unwrap().participants.len(), 2);
    }
}

impl Home {
    /// As `attendant`, without joining for a moment.
    fn attendant_in_the_last_place(&self, name: &str, segment: &Segment) -> Child {
        let attending = Value::<u32>::open_or_create(segment, "attending", 0).unwrap();
        let before = attending.load(Acquire);
        let child = self.start("attend", &[name]);
        assert_eq!(attending.wait_while_timeout(LONG, |now| now == before), Ok(before + 1));
        child
    }
}

/// A time-out proves nothing.
#[test]
fn a_stopped_participant_is_alive() {
    let home = Home::new("stopped");
    let segment = home.options().sentinel(false).create("s").unwrap();
    let mut child = home.attendant("s");
    assert!(stop(&child));
    assert_eq!(segment.recover().unwrap().died, [0_u32; 0]);
    assert_eq!(segment.peers().len(), 2);
    drop(segment);
    let segment = home.options().sentinel(false).open("s").expect("the stopped one keeps it");
    assert_eq!(home.options().clean().unwrap(), [""; 0]);
    resume(&child);
    assert!(kill_and_reap(&mut child));
    assert_eq!(segment.recover().unwrap().died, [child.pid()]);
}

#[test]
fn a_segment_whose_participants_were_killed_is_gone() {
    let home = Home::new("killed-open");
    home.abandoned(&home.options(), "s");
    assert!(is_not_found(home.options().open("s")));
    assert_eq!(home.files(), [""; 0], "and its name with it");
    home.abandoned(&home.options(), "s");
    let segment = home.options().create("s").expect("the name is free");
    assert!(segment.snapshot().unwrap().objects.is_empty());
}

#[test]
fn open_or_create_makes_a_fresh_segment_after_a_massacre() {
    let home = Home::new("massacre");
    let pid = home.abandoned(&home.options(), "s");
    let inode = home.inode("s");
    let snapshot = home.options().inspect("s").unwrap();
    assert_eq!((snapshot.participants.len(), snapshot.participants[0].pid), (1, pid));
    assert!(!snapshot.participants[0].alive);
    let segment = home.options().open_or_create("s").unwrap();
    assert_ne!(home.inode("s"), inode);
    let snapshot = segment.snapshot().unwrap();
    assert!(snapshot.objects.is_empty());
    assert_eq!((snapshot.participants.len(), snapshot.participants[0].pid), (1, std::process::id()));
}

#[test]
fn a_persistent_segment_outlives_a_massacre_and_is_repaired_by_who_opens_it() {
    let home = Home::new("persist-killed");
    home.abandoned(&home.options().persist(true), "s");
    assert_eq!(home.options().clean().unwrap(), [""; 0]);
    let segment = home.options().open("s").unwrap();
    assert_eq!(Value::<u32>::open(&segment, "old").unwrap().load(Relaxed), 1);
    let participants = segment.snapshot().unwrap().participants;
    assert_eq!((participants.len(), participants[0].pid), (1, std::process::id()));
    home.options().unlink("s").unwrap();
}

#[test]
fn clean_removes_what_the_dead_left_and_nothing_else() {
    let home = Home::new("clean");
    home.abandoned(&home.options(), "dead-1");
    home.abandoned(&home.options(), "dead-2");
    home.abandoned(&home.options().persist(true), "dead-but-persistent");
    let _alive = home.options().create("alive").unwrap();
    let mut child = {
        let _segment = home.options().create("alive-elsewhere").unwrap();
        home.attendant("alive-elsewhere")
    };
    fs::write(home.join("gimmal.junk"), "junk").unwrap();
    fs::write(home.join("gimmal.empty"), "").unwrap();
    fs::create_dir(home.join("gimmal.directory")).unwrap();
    let others = [
        "gimmal.alive",
        "gimmal.alive-elsewhere",
        "gimmal.dead-but-persistent",
        "gimmal.directory",
        "gimmal.empty",
        "gimmal.junk",
    ];
    assert_eq!(home.options().clean().unwrap(), ["dead-1", "dead-2"]);
    assert_eq!(home.files(), others);
    assert_eq!(home.options().clean().unwrap(), [""; 0]);
    assert!(kill_and_reap(&mut child));
    assert_eq!(home.options().clean().unwrap(), ["alive-elsewhere"]);
    fs::remove_dir(home.join("gimmal.directory")).unwrap();
    for name in ["dead-but-persistent", "empty", "junk"] {
        home.options().unlink(name).unwrap();
    }
}

/// What the kernel, or a debugger, does to a creator at each of its system calls.
#[test]
fn a_creator_that_is_killed_at_any_system_call_leaves_nothing_or_a_whole_segment_that_is_gone() {
    let home = Home::new("half-way");
    let (mut stops, mut unlinked, mut linked) = (0, 0, 0);
    loop {
        let Some(finished) = kill_creator_after(&home, stops) else {
            println!("no process may stop another here: not tested");
            return;
        };
        match home.files().as_slice() {
            [] => unlinked += 1,
            [name] => {
                assert_eq!(name, "gimmal.half");
                linked += 1;
                let snapshot = home.options().inspect("half").expect("a whole segment");
                assert!(snapshot.participants.iter().all(|participant| !participant.alive));
                assert!(snapshot.objects.is_empty());
            }
            more => panic!("{more:?} after {stops} stops"),
        }
        assert!(is_not_found(home.options().open("half")), "after {stops} stops");
        assert_eq!(home.files(), [""; 0]);
        if finished {
            break;
        }
        stops += 1;
    }
    assert!(unlinked > 10 && linked > 0, "{unlinked} before the segment had its name, {linked} after");
}

/// Stands still, creates a segment, and stands still again.
fn create_step_by_step(context: &Context) -> Outcome {
    die_with_parent();
    let options = Segment::options().directory(&context.args()[0]).size(64 << 10);
    // SAFETY: the call takes no pointers; from now on this thread stops for the parent, who can wait for it.
    if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    println!("\nthread {}", nix::unistd::gettid());
    let stand_still = || nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
    stand_still()?;
    let segment = options.create("half")?;
    stand_still()?;
    drop(segment);
    Ok(())
}

/// Lets a creator come to the beginning or end of its `n`th system call, and kills it; `true` if it had done its work,
/// `None` if it may not be stopped.
fn kill_creator_after(home: &Home, n: u32) -> Option<bool> {
    process::init(&ENTRIES);
    let mut child = Command::new(env::current_exe().unwrap())
        .args(CHILD)
        .env("GIMMAL_PROCESS", "")
        .args(["--gimmal-process", "create_step_by_step", "creator", ""])
        .arg(&home.0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let thread = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("thread ")?.parse::<i32>().ok());
    let Some(thread) = thread else {
        assert_eq!(child.wait().unwrap().code(), Some(1));
        return None;
    };
    let wait = || {
        let mut status = 0;
        loop {
            // SAFETY: the status is a valid place for an int.
            match unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } {
                -1 if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
                waited => {
                    assert_eq!(waited, thread, "{}", std::io::Error::last_os_error());
                    return status;
                }
            }
        }
    };
    // SIGTRAP for system calls.
    let stopped_by = || {
        let status = wait();
        assert!(libc::WIFSTOPPED(status), "the creator has ended: {status:#x}");
        libc::WSTOPSIG(status)
    };
    assert_eq!(stopped_by(), libc::SIGSTOP);
    let mut finished = false;
    for _ in 0..n {
        // SAFETY: no pointers; the thread stands still and is ours.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, thread, 0, 0) }, 0);
        finished = stopped_by() == libc::SIGSTOP;
        if finished {
            break;
        }
    }
    child.kill().unwrap();
    if thread as u32 != child.id() {
        // Its tracer must hear of the thread's end before the process can end.
        while libc::WIFSTOPPED(wait()) {}
    }
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    Some(finished)
}

// --- several at once ---

/// Comes with all others to one segment after the other, and to a queue and numbers in each.
fn come_together(context: &Context) -> Outcome {
    die_with_parent();
    let options = Segment::options().directory(&context.args()[0]).size(64 << 10);
    let (rounds, everybody): (u32, u32) = (context.parse(1)?, context.parse(2)?);
    let arrived = Value::<u32>::open(context.segment(0)?, "arrived")?;
    let mut meetings = 0;
    // Without going to sleep, so that all go on in the same moment.
    let mut meet = || {
        meetings += 1;
        arrived.fetch_add(1, AcqRel);
        while arrived.load(Acquire) < meetings * everybody {
            thread::yield_now();
        }
    };
    for round in 1..=rounds {
        meet();
        let segment = options.open_or_create(&format!("round-{round}"))?;
        let mut counts = Vec::new();
        for i in 0..8 {
            meet();
            let count = Value::<u32>::open_or_create(&segment, &format!("count-{i}"), 100)?;
            count.fetch_add(1, AcqRel);
            counts.push(count);
        }
        meet();
        let queue = Queue::<u32>::open_or_create(&segment, "queue", everybody as usize)?;
        queue.sender()?.try_send(std::process::id())?;
        // Nobody leaves before all have come: it would be another segment for those who come later.
        meet();
        let counts: Vec<u32> = counts.iter().map(|count| count.load(Acquire)).collect();
        if counts != [100 + everybody; 8] || queue.len() != everybody as usize {
            return Err(failed(format!("round {round}: {counts:?}, {} messages", queue.len())));
        }
        assert_eq!(segment.snapshot()?.objects.len(), 9);
        meet();
    }
    Ok(())
}

#[test]
fn processes_that_come_at_once_find_one_segment_and_one_of_each_object() {
    let (rounds, everybody) = (40, 4);
    let home = Home::new("together");
    let meeting = Segment::anonymous().unwrap();
    Value::<u32>::create(&meeting, "arrived", 0).unwrap();
    process::init(&ENTRIES);
    let arguments = [rounds, everybody].map(|n: u32| n.to_string());
    let start = |_| support::process("come_together").segment(&meeting).arg(&home.0).args(&arguments).spawn().unwrap();
    let mut children: Vec<Child> = (0..everybody).map(start).collect();
    // One that fails keeps the others waiting.
    until("all have come and gone", || {
        children.iter_mut().any(|child| child.exit_code().is_some_and(|c| c != 0))
            || children.iter_mut().all(|child| !child.is_alive())
    });
    for child in &mut children {
        assert_eq!(child.exit_code(), Some(0));
    }
}

/// Everything that one can do to a name, in any order; `Err` if an answer is none of those that may come.
fn churn_names(directory: &Path, random: &mut Random, rounds: u32) -> Result<(), String> {
    let options = Segment::options().directory(directory).size(64 << 10);
    let check = |what: &str, segment: Segment| -> Result<(), String> {
        let broken = |e: Error| format!("in a segment that {what} gave: {e}");
        let value = Value::<u64>::open_or_create(&segment, "value", 17).map_err(broken)?;
        if value.load(Acquire) != 17 || segment.size() != 64 << 10 {
            return Err(format!("a strange segment from {what}: {:?}", segment.snapshot()));
        }
        segment.snapshot().map_err(broken)?;
        Ok(())
    };
    for _ in 0..rounds {
        let name = ["a", "b"][random.below(2) as usize];
        match random.below(7) {
            0 => match options.create(name) {
                Ok(segment) => check("create", segment)?,
                Err(Error::Exists { .. }) => {}
                Err(e) => return Err(format!("create: {e}")),
            },
            1 => check("replace", options.clone().replace(true).create(name).map_err(|e| format!("replace: {e}"))?)?,
            2 => match options.open(name) {
                Ok(segment) => check("open", segment)?,
                Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(format!("open: {e}")),
            },
            3 => check("open_or_create", options.open_or_create(name).map_err(|e| format!("open_or_create: {e}"))?)?,
            4 => match options.unlink(name) {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(format!("unlink: {e}")),
            },
            5 => match options.inspect(name) {
                Ok(snapshot) if snapshot.size == 64 << 10 => {}
                Err(Error::NotFound { .. }) => {}
                other => return Err(format!("inspect: {other:?}")),
            },
            _ => {
                for listed in options.list().map_err(|e| format!("list: {e}"))? {
                    match listed.snapshot {
                        Ok(_) | Err(Error::NotFound { .. }) => {}
                        Err(e) => return Err(format!("list: {e}")),
                    }
                }
                options.clean().map_err(|e| format!("clean: {e}"))?;
            }
        }
    }
    Ok(())
}

fn churn(context: &Context) -> Outcome {
    die_with_parent();
    let mut random = Random::seeded(context.parse(1)?);
    churn_names(Path::new(&context.args()[0]), &mut random, context.parse(2)?).map_err(failed)
}

#[test]
fn names_that_are_made_taken_and_removed_all_the_time_never_lead_to_half_a_segment() {
    let home = Home::new("churn");
    let mut random = Random::announced("churn");
    let mut start = || home.start("churn", &[&random.next().to_string(), "300"]);
    let mut children = [start(), start()];
    let seeds = [random.next(), random.next()];
    thread::scope(|scope| {
        let directory = &home.0;
        let threads = seeds.map(|seed| scope.spawn(move || churn_names(directory, &mut Random::seeded(seed), 300)));
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Ok(()));
        }
    });
    children.iter_mut().for_each(join_well);
    // Whoever was the last in one has removed its name.
    assert_eq!(home.files(), [""; 0]);
}

#[test]
fn killed_all_the_time_processes_leave_nothing_that_the_next_one_stumbles_over() {
    let home = Home::new("churn-killed");
    let mut random = Random::announced("churn-killed");
    for round in 0..15 {
        let mut child = home.start("churn", &[&random.next().to_string(), "1000000"]);
        let result = churn_names(&home.0, &mut random, 20 + 5 * round);
        assert!(kill_and_reap(&mut child), "it ended by itself");
        assert_eq!(result, Ok(()));
        home.options().clean().unwrap();
        assert_eq!(home.files(), [""; 0]);
    }
}

// --- where segments are ---

/// The calls without options, in the directory that the environment names.
fn use_default_directory(context: &Context) -> Outcome {
    die_with_parent();
    let directory = PathBuf::from(&context.args()[0]);
    assert!(Segment::list()?.is_empty());
    let segment = Segment::create("s")?;
    assert_eq!((segment.directory(), segment.size()), (&*directory, 1 << 20));
    assert!(directory.join("gimmal.s").exists());
    assert_eq!(Segment::open("s")?.peers().len(), 2);
    assert_eq!(Segment::open_or_create("s")?.peers().len(), 2);
    assert_eq!(Segment::inspect("s")?.participants.len(), 1);
    assert_eq!(Segment::list()?[0].name, "s");
    assert_eq!(Segment::clean()?, [""; 0]);
    Segment::unlink("s")?;
    assert!(Segment::list()?.is_empty());
    Ok(())
}

#[test]
fn the_environment_names_the_directory_and_an_empty_name_is_none() {
    let home = Home::new("environment");
    process::init(&ENTRIES);
    let process = support::process("use_default_directory").arg(&home.0).env("GIMMAL_DIR", &home.0);
    join_well(&mut process.spawn().unwrap());
    // Not with what other tests have in the directory that is meant here.
    let output = Command::new(env::current_exe().unwrap())
        .args(["plain_default", "--exact", "--nocapture"])
        .env("GIMMAL_DIR", "")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn plain_default() {
    if env::var_os("GIMMAL_DIR").is_none_or(|directory| directory.is_empty()) {
        let name = format!("t-segment-{}-default", std::process::id());
        let segment = Segment::create(&name).unwrap();
        assert_eq!(segment.directory(), Path::new("/dev/shm"));
        assert!(Path::new("/dev/shm").join(format!("gimmal.{name}")).exists());
        Segment::unlink(&name).unwrap();
    }
}

fn use_relative_directory(context: &Context) -> Outcome {
    die_with_parent();
    env::set_current_dir(&context.args()[0])?;
    fs::create_dir("below")?;
    let segment = Segment::options().directory("below").size(64 << 10).create("s")?;
    env::set_current_dir("/")?;
    let open = Segment::options().directory(segment.directory()).open("s")?;
    drop(open);
    drop(segment);
    fs::remove_dir(PathBuf::from(&context.args()[0]).join("below"))?;
    Ok(())
}

#[test]
fn a_process_that_goes_elsewhere_still_removes_what_it_made() {
    let home = Home::new("relative");
    join_well(&mut home.start("use_relative_directory", &[]));
}

#[test]
fn a_wait_in_a_segment_whose_name_is_gone_ends_as_any_other() {
    let home = Home::new("nameless");
    let segment = home.options().create("s").unwrap();
    let value = Value::<u32>::create(&segment, "value", 0).unwrap();
    home.options().unlink("s").unwrap();
    let waiter = {
        let value = value.clone();
        thread::spawn(move || value.wait_while_timeout(LONG, |v| v == 0))
    };
    value.store(1, std::sync::atomic::Ordering::Release);
    value.notify_all();
    assert_eq!(waiter.join().unwrap(), Ok(1));
    assert!(value.wait_while_timeout(Duration::from_millis(1), |v| v == 1).is_err());
}

/// As logind does to the files of a user who logs out.
#[test]
fn a_segment_that_has_lost_its_file_is_found_again_where_it_is_held() {
    let home = Home::new("lost");
    let segment = home.options().create("s").unwrap();
    let value = Value::<u32>::create(&segment, "value", 7).unwrap();
    assert!(segment.is_linked() && Segment::anonymous().unwrap().is_linked());
    fs::remove_file(home.join("gimmal.s")).unwrap();
    assert!(!segment.is_linked());
    for again in [home.options().open("s"), home.options().open_or_create("s")] {
        assert_eq!(Value::<u32>::open(&again.unwrap(), "value").unwrap().load(Relaxed), 7);
    }
    assert_eq!((segment.peers().len(), home.files().len()), (1, 0));
    assert!(is_not_found(home.options().open("t")), "another name");
    // Another process has made one that lives: everybody's now.
    let other = home.options().create("s").unwrap();
    assert!(is_not_found(Value::<u32>::open(&home.options().open("s").unwrap(), "value")));
    drop(other);
    assert!(Value::<u32>::open(&home.options().open("s").unwrap(), "value").is_ok());
    drop((segment, value));
    assert!(is_not_found(home.options().open("s")), "nobody holds it");
    // What was removed on purpose is not found again.
    let segment = home.options().create("s").unwrap();
    home.options().unlink("s").unwrap();
    assert!(!segment.is_linked() && is_not_found(home.options().open("s")));
}

/// Refused before a page is taken: where /dev/shm is as large as the memory, running into its end would be the end of
/// somebody else. The far end of the scale only, which nothing could begin to allocate in the time of this test.
#[test]
fn a_size_beyond_all_memory_is_refused_at_once() {
    let name = format!("t-segment-{}-beyond", std::process::id());
    let options = Segment::options().size(1 << 50);
    assert!(matches!(options.create(&name), Err(Error::NoSpace { size, .. }) if size == 1 << 50));
    assert!(matches!(options.anonymous(), Err(Error::NoSpace { .. })));
    assert!(is_not_found(Segment::open(&name)));
}

/// Page faults of this thread when it first touches each page of an array in a segment that it has opened.
fn faults_of_first_touches(options: &SegmentOptions) -> i64 {
    let faults = || getrusage(UsageWho::RUSAGE_THREAD).expect("usage").minor_page_faults();
    let segment = options.open("s").unwrap();
    let array = Array::<u64>::open(&segment, "array").unwrap();
    let before = faults();
    (0..array.len()).step_by(512).for_each(|i| array.get(i).unwrap().store(1, Relaxed));
    faults() - before
}

#[test]
fn a_prefaulted_segment_does_not_fault() {
    let home = Home::new("prefault");
    let segment = home.options().size(8 << 20).create("s").unwrap();
    Array::<u64>::create(&segment, "array", 512 << 10).unwrap();
    let faults = faults_of_first_touches(&home.options());
    assert!(faults > 10, "{faults} faults: then this test shows nothing");
    assert_eq!(faults_of_first_touches(&home.options().prefault(true)), 0);
}
