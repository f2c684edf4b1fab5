//! Every error, provoked: it is the one that is promised, it says what was expected, what was found and what to do, and
//! nothing leaks: no file, no descriptor, no mapping. Those of `gimmal::process` are in `process.rs`.

mod support;

use std::error::Error as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, thread};

use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{
    Array, Departure, Error, Kind, Latest, Lock, Pipe, Queue, QueueOptions, Segment, SegmentOptions, SendError,
    SendSliceError, SendTimeoutError, SpscQueue, Timeout, TryRecvError, TrySendError, Value,
};
use nix::libc;
use support::{CHILD, LONG, die_with_parent, join_well, kill_and_reap};

const ENTRIES: [Entry; 5] =
    gimmal::entries![be_nobody, be_without_membarrier, be_short_of_space, be_short_of_descriptors, attend];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

// --- leaks ---

/// A directory for the segments of one test. Descriptors and mappings of what is in it bear its path, also of files that
/// have no name yet or any more, so that tests in other threads do not matter.
struct Home(PathBuf);

impl Home {
    fn new(case: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/t-errors-{}-{case}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn options(&self) -> SegmentOptions {
        Segment::options().directory(&self.0).size(64 << 10)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.join(format!("gimmal.{name}"))
    }

    fn traces(&self) -> Traces {
        traces(|path| path.contains(self.0.to_str().unwrap()), Some(&self.0))
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
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Files, descriptors, mappings.
type Traces = (Vec<String>, Vec<String>, Vec<String>);

fn traces(is_meant: impl Fn(&str) -> bool, directory: Option<&Path>) -> Traces {
    let entries = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut files: Vec<String> =
        directory.map(entries).unwrap_or_default().iter().map(|path| path.display().to_string()).collect();
    files.sort();
    let links = entries(Path::new("/proc/self/fd")).into_iter().filter_map(|path| fs::read_link(path).ok());
    let mut descriptors: Vec<String> = links.map(|link| link.display().to_string()).filter(|l| is_meant(l)).collect();
    descriptors.sort();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut mappings: Vec<String> = maps.lines().filter(|line| is_meant(line)).map(str::to_owned).collect();
    mappings.sort();
    (files, descriptors, mappings)
}

/// Unnamed segments all look alike: the tests that make them take turns.
fn alone_with_memory_files() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn memory_traces() -> Traces {
    traces(|path| path.contains("memfd:"), None)
}

/// The error that `act` gives; its message has all of `words`; and nothing is left of the attempt.
#[track_caller]
fn provoke<T>(home: &Home, words: &[&str], act: impl FnOnce() -> Result<T, Error>) -> Error {
    let before = home.traces();
    let Err(error) = act() else { panic!("no error; expected one that says {words:?}") };
    assert_eq!(home.traces(), before, "left behind by {error}");
    says(&error, words);
    error
}

#[track_caller]
fn says(error: &Error, words: &[&str]) {
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    assert!(!message.contains('\n'));
    // Whoever prints the chain would print it twice.
    assert!(error.source().is_none());
}

macro_rules! provoke {
    ($home:expr, $words:expr, $act:expr, $($error:tt)+) => {{
        let error = provoke($home, &$words, || $act);
        assert!(matches!(&error, $($error)+), "{error:?} instead of {}", stringify!($($error)+));
    }};
}

// --- names ---

#[test]
fn a_bad_name_is_refused_before_anything_is_looked_for() {
    let home = Home::new("bad-name");
    let long = "x".repeat(201);
    let bad = [
        ("", "empty"),
        ("/", "A-Z"),
        ("a/b", "A-Z"),
        ("../x", "A-Z"),
        ("a\0b", "A-Z"),
        ("\0", "A-Z"),
        ("ä", "A-Z"),
        ("日本", "A-Z"),
        ("a b", "A-Z"),
        ("a\n", "A-Z"),
        ("a:b", "A-Z"),
        (&*long, "200 bytes"),
    ];
    for (name, word) in bad {
        let words = ["bad name", word];
        provoke!(&home, words, home.options().create(name), Error::BadName { .. });
        provoke!(&home, words, home.options().open(name), Error::BadName { .. });
        provoke!(&home, words, home.options().open_or_create(name), Error::BadName { .. });
        provoke!(&home, words, home.options().unlink(name), Error::BadName { .. });
        provoke!(&home, words, home.options().inspect(name), Error::BadName { .. });
    }
    let error = home.options().create(&long).unwrap_err();
    assert!(error.to_string().len() < 200, "a long name is not repeated in full");
}

#[test]
fn a_bad_object_name_is_refused_by_every_kind() {
    let home = Home::new("bad-object-name");
    let segment = home.options().create("s").unwrap();
    let long = "x".repeat(64);
    for (name, word) in [("", "empty"), ("a/b", "A-Z"), ("a\0", "A-Z"), ("ö", "A-Z"), (&*long, "63 bytes")] {
        let words = ["bad name", word];
        provoke!(&home, words, Queue::<u8>::create(&segment, name, 1), Error::BadName { .. });
        provoke!(&home, words, Queue::<u8>::open(&segment, name), Error::BadName { .. });
        provoke!(&home, words, SpscQueue::<u8>::open_or_create(&segment, name, 1), Error::BadName { .. });
        provoke!(&home, words, Pipe::pair::<u8, u8>(&segment, name, 1), Error::BadName { .. });
        provoke!(&home, words, Pipe::simplex_sender::<u8>(&segment, name, 1), Error::BadName { .. });
        provoke!(&home, words, Pipe::shared_first::<u8, u8>(&segment, name, 1), Error::BadName { .. });
        provoke!(&home, words, Value::<u8>::create(&segment, name, 1), Error::BadName { .. });
        provoke!(&home, words, Array::<u8>::create(&segment, name, 1), Error::BadName { .. });
        provoke!(&home, words, Lock::<u8>::create(&segment, name, 1), Error::BadName { .. });
        provoke!(&home, words, Latest::<u8>::create(&segment, name, 1), Error::BadName { .. });
    }
    assert!(segment.snapshot().unwrap().objects.is_empty());
}

#[test]
fn what_exists_is_not_created_again() {
    let home = Home::new("exists");
    let segment = home.options().create("s").unwrap();
    let words = ["\"s\"", "exists", "open_or_create"];
    provoke!(&home, words, home.options().create("s"), Error::Exists { name } if name == "s");
    Queue::<u8>::create(&segment, "o", 1).unwrap();
    let words = ["\"o\"", "exists"];
    provoke!(&home, words, Queue::<u8>::create(&segment, "o", 1), Error::Exists { name } if name == "o");
    provoke!(&home, words, Value::<u8>::create(&segment, "o", 1), Error::Exists { .. });
    provoke!(&home, words, Pipe::pair::<u8, u8>(&segment, "o", 1), Error::Exists { .. });
}

#[test]
fn what_does_not_exist_is_not_opened() {
    let home = Home::new("not-found");
    let words = ["\"none\"", "does not exist", "create"];
    provoke!(&home, words, home.options().open("none"), Error::NotFound { name } if name == "none");
    provoke!(&home, words, home.options().unlink("none"), Error::NotFound { .. });
    provoke!(&home, words, home.options().inspect("none"), Error::NotFound { .. });
    let segment = home.options().create("s").unwrap();
    provoke!(&home, words, Queue::<u8>::open(&segment, "none"), Error::NotFound { name } if name == "none");
    provoke!(&home, words, SpscQueue::<u8>::open(&segment, "none"), Error::NotFound { .. });
    provoke!(&home, words, Pipe::connect::<u8, u8>(&segment, "none"), Error::NotFound { .. });
    provoke!(&home, words, Value::<u8>::open(&segment, "none"), Error::NotFound { .. });
    provoke!(&home, words, Array::<u8>::open(&segment, "none"), Error::NotFound { .. });
    provoke!(&home, words, Lock::<u8>::open(&segment, "none"), Error::NotFound { .. });
    provoke!(&home, words, Latest::<u8>::open(&segment, "none"), Error::NotFound { .. });
}

// --- sizes ---

#[test]
fn a_segment_that_cannot_hold_its_tables_is_too_small_and_the_minimum_is_enough() {
    let home = Home::new("too-small");
    let small = home.options().size(4096);
    let error = provoke(&home, &["4096", "at least", "fewer participants"], || small.create("s"));
    let Error::TooSmall { size: 4096, minimum } = error else { panic!("{error:?}") };
    assert!(minimum < 32 << 10, "the tables take {minimum} bytes by default");
    assert!(matches!(small.anonymous(), Err(Error::TooSmall { .. })));
    let segment = home.options().size(minimum).create("s").unwrap();
    Value::<u8>::create(&segment, "value", 1).unwrap();
    drop(segment);
    assert!(small.clone().max_participants(2).max_objects(2).create("s").is_ok(), "fewer of both fit into a page");
    let many = home.options().max_objects(1000);
    provoke!(&home, ["65536", "at least"], many.create("s"), Error::TooSmall { size: 65536, minimum: 65537.. });
}

#[test]
fn sizes_and_counts_that_no_segment_can_have_are_refused() {
    let home = Home::new("bad-size");
    let options = || home.options();
    let words = ["out of range", "between 1 and"];
    provoke!(&home, words, options().size(0).create("s"), Error::BadSize { given: 0, .. });
    provoke!(&home, words, options().size(usize::MAX).create("s"), Error::BadSize { .. });
    provoke!(&home, words, options().size(isize::MAX as usize).open_or_create("s"), Error::BadSize { .. });
    provoke!(&home, words, options().max_participants(0).create("s"), Error::BadSize { maximum: 511, .. });
    provoke!(&home, words, options().max_participants(512).create("s"), Error::BadSize { given: 512, .. });
    provoke!(&home, words, options().max_objects(0).create("s"), Error::BadSize { maximum: 65_536, .. });
    provoke!(&home, words, options().max_objects(65_537).create("s"), Error::BadSize { .. });
    let segment = options().create("s").unwrap();
    provoke!(&home, words, Queue::<u8>::create(&segment, "o", 0), Error::BadSize { what: "a capacity", given: 0, .. });
    provoke!(&home, words, Queue::<u8>::create(&segment, "o", usize::MAX), Error::BadSize { .. });
    provoke!(&home, words, Queue::<u8>::create(&segment, "o", (1 << 40) + 1), Error::BadSize { .. });
    provoke!(&home, words, SpscQueue::<u8>::create(&segment, "o", 0), Error::BadSize { .. });
    provoke!(&home, words, Pipe::pair::<u8, u8>(&segment, "o", 0), Error::BadSize { .. });
    provoke!(&home, words, Array::<u8>::create(&segment, "o", 0), Error::BadSize { .. });
}

/// In a mount namespace of its own, in which the directory is a tmpfs of 64 KiB and few files.
fn be_short_of_space(context: &Context) -> Outcome {
    die_with_parent();
    let home = std::mem::ManuallyDrop::new(Home(PathBuf::from(&context.args()[0])));
    let target = std::ffi::CString::new(home.0.to_str().unwrap())?;
    let mount = |data: &std::ffi::CStr| {
        // SAFETY: all arguments are strings that outlive the call.
        let result =
            unsafe { libc::mount(c"none".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, data.as_ptr().cast()) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    let private = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: the only argument that is read is a string.
        let result = unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    if let Err(e) = private().and_then(|()| mount(c"size=64k,nr_inodes=3")) {
        eprintln!("no tmpfs of its own: {e}: not tested");
        return Ok(());
    }
    provoke!(&home, ["131072", "ask for less"], home.options().size(128 << 10).create("s"), Error::NoSpace { .. });
    let first = home.options().size(32 << 10).create("first")?;
    provoke!(&home, ["36864"], home.options().size(36 << 10).create("s"), Error::NoSpace { .. });
    // What has been created is there, to the last byte, whatever becomes of the file system.
    let second = home.options().size(32 << 10).create("second")?;
    for segment in [&first, &second] {
        let array = Array::<u8>::create(segment, "all", segment.free() - 128)?;
        array.fill(0xa5);
        assert!(array.iter().all(|cell| cell.load(std::sync::atomic::Ordering::Relaxed) == 0xa5));
    }
    drop(first);
    let third = home.options().size(16 << 10).create("third")?;
    // There is room, but for no more files.
    provoke!(&home, ["16384"], home.options().size(16 << 10).create("s"), Error::NoSpace { .. });
    drop((second, third));
    assert_eq!(home.traces(), (vec![], vec![], vec![]));
    // A queue without a bound finds the end of memory when it gets there, and goes on when there is some again.
    mount(c"size=8m")?;
    let segment = home.options().size(256 << 10).create("unbounded")?;
    let queue = QueueOptions::new().unbounded(1 << 30).create::<[u64; 7]>(&segment, "queue")?;
    let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    for _ in 0..3 {
        let mut sent = 0;
        let full = loop {
            match sender.try_send([sent; 7]) {
                Ok(()) => sent += 1,
                Err(e) => break e,
            }
        };
        assert!(matches!(full, TrySendError::NoSpace(message) if message == [sent; 7]), "{full:?}");
        assert!(full.to_string().contains("no memory left"), "{full}");
        assert!(matches!(sender.send([0; 7]), Err(SendError::NoSpace(_))));
        assert!(sent >= 4 << 14, "{sent}");
        assert!((0..sent).all(|n| receiver.try_recv() == Ok([n; 7])));
        assert!(receiver.try_recv().is_err());
    }
    drop((sender, receiver, queue, segment));
    assert_eq!(home.traces(), (vec![], vec![], vec![]));
    Ok(())
}

#[test]
fn a_full_file_system_is_an_error_of_create_and_never_a_signal_later() {
    let home = Home::new("tiny");
    process::init(&ENTRIES);
    join_well(&mut support::process("be_short_of_space").arg(&home.0).spawn().unwrap());
}

#[test]
fn a_directory_that_is_none_is_named() {
    let home = Home::new("no-directory");
    fs::write(home.join("file"), "").unwrap();
    for directory in ["none", "file"] {
        let options = home.options().directory(home.join(directory));
        let words = [directory, "not a directory", "SegmentOptions::directory"];
        provoke!(&home, words, options.create("s"), Error::NoDirectory { directory: d } if d.ends_with(directory));
        provoke!(&home, words, options.list(), Error::NoDirectory { .. });
        provoke!(&home, words, options.clean(), Error::NoDirectory { .. });
        provoke!(&home, words, options.open("s"), Error::NoDirectory { .. });
        provoke!(&home, words, options.unlink("s"), Error::NoDirectory { .. });
    }
}

#[test]
fn a_file_system_that_knows_no_unnamed_files_is_an_error_of_the_system() {
    let home = Home::new("io");
    let options = home.options().directory("/proc");
    provoke!(&home, ["could not create the segment's file"], options.create("s"), Error::Io { .. });
}

// --- permission ---

/// A process of somebody who may do little.
fn start_as_nobody(home: &Home) -> std::process::ExitStatus {
    process::init(&ENTRIES);
    let mut command = Command::new("/proc/self/exe");
    command.env("GIMMAL_PROCESS", "").stdout(Stdio::null());
    command.args(CHILD).args(["--gimmal-process", "be_nobody", "nobody", ""]).arg(&home.0);
    command.uid(65534).gid(65534).status().unwrap()
}

fn be_nobody(context: &Context) -> Outcome {
    die_with_parent();
    let home = std::mem::ManuallyDrop::new(Home(PathBuf::from(&context.args()[0])));
    let words = ["permission denied", "/dev/shm/", "mode"];
    let in_file = |path: &Path| path.ends_with("gimmal.private");
    let options = home.options();
    provoke!(&home, words, options.open("private"), Error::Permission { path } if in_file(path));
    provoke!(&home, words, options.open_or_create("private"), Error::Permission { .. });
    provoke!(&home, words, options.inspect("private"), Error::Permission { path } if in_file(path));
    provoke!(&home, words, options.unlink("private"), Error::Permission { path } if in_file(path));
    provoke!(&home, words, options.create("new"), Error::Permission { path } if *path == home.0);
    provoke!(&home, words, options.open_or_create("new"), Error::Permission { .. });
    // Somebody else's, but open to all.
    let segment = options.open("public")?;
    assert_eq!(segment.peers().len(), 2);
    Value::<u8>::create(&segment, "by-nobody", 1)?;
    drop(segment);
    // Readable only: it can be looked at, but not joined.
    assert_eq!(options.inspect("readable")?.participants.len(), 1);
    provoke!(&home, words, options.open("readable"), Error::Permission { .. });

    // Abandoned by the dead, in a directory where only the owner of a name may remove it. More of this: `names.rs`.
    let sticky = std::mem::ManuallyDrop::new(Home(home.join("sticky")));
    let options = sticky.options();
    provoke!(&sticky, ["\"dead\"", "does not exist"], options.open("dead"), Error::NotFound { .. });
    let words = ["user 0", "/gimmal.dead", "root", "nobody uses it", "0o666"];
    provoke!(&sticky, words, options.open_or_create("dead"), Error::NotRemovable { owner: 0, .. });
    provoke!(&sticky, words, options.create("dead"), Error::NotRemovable { .. });
    provoke!(&sticky, words, options.clone().replace(true).create("dead"), Error::NotRemovable { .. });
    provoke!(&sticky, words[..3], options.unlink("dead"), Error::NotRemovable { path, .. } if path.ends_with("gimmal.dead"));
    assert_eq!(options.clean()?, [""; 0], "what is still there was not removed");
    assert!(sticky.file("dead").exists());
    let list = home.options().directory(home.join("closed")).list();
    assert!(matches!(&list, Err(Error::Io { .. } | Error::Permission { .. })), "{list:?}");
    Ok(())
}

/// Joins, says so, and stays until it is killed.
fn attend(context: &Context) -> Outcome {
    die_with_parent();
    let segment = Segment::options().directory(&context.args()[0]).open(context.arg(1).ok_or("a name")?)?;
    let attending = Value::<u32>::open(&segment, "attending")?;
    attending.store(1, std::sync::atomic::Ordering::Release);
    attending.notify_all();
    // Not in a wait of ours, which would look around and repair after others.
    loop {
        thread::park();
    }
}

/// Leaves a segment behind whose only participant was killed.
fn abandon(directory: &Path, options: &SegmentOptions, name: &str) {
    process::init(&ENTRIES);
    let segment = options.create(name).unwrap();
    let attending = Value::<u32>::create(&segment, "attending", 0).unwrap();
    let mut child: Child = support::process("attend").arg(directory).arg(name).spawn().unwrap();
    assert_eq!(attending.wait_while_timeout(LONG, |attending| attending == 0), Ok(1));
    drop((segment, attending));
    assert!(kill_and_reap(&mut child));
}

#[test]
fn what_one_may_not_do_is_denied_with_the_path() {
    let home = Home::new("permission");
    if fs::metadata(&home.0).unwrap().uid() != 0 {
        println!("only root can become somebody else: not tested");
        return;
    }
    fs::set_permissions(&home.0, fs::Permissions::from_mode(0o755)).unwrap();
    let _private = home.options().create("private").unwrap();
    let public = home.options().mode(0o666).create("public").unwrap();
    let _readable = home.options().mode(0o644).create("readable").unwrap();
    let sticky = home.join("sticky");
    fs::create_dir(&sticky).unwrap();
    fs::set_permissions(&sticky, fs::Permissions::from_mode(0o1777)).unwrap();
    abandon(&sticky, &home.options().directory(&sticky).mode(0o666), "dead");
    fs::create_dir(home.join("closed")).unwrap();
    fs::set_permissions(home.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(start_as_nobody(&home).success());
    assert!(Value::<u8>::open(&public, "by-nobody").is_ok());
    assert_eq!(home.options().directory(&sticky).clean().unwrap(), ["dead"], "its owner may");
}

// --- files that are no segments ---

#[test]
fn a_file_that_is_no_segment_is_refused_whatever_it_is() {
    let home = Home::new("not-gimmal");
    let mut random = vec![0; 64 << 10];
    File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    fs::write(home.file("random"), &random).unwrap();
    fs::write(home.file("empty"), "").unwrap();
    fs::write(home.file("short"), "gimmal\x1a").unwrap();
    fs::write(home.file("zeros"), vec![0; 64 << 10]).unwrap();
    let _listener = UnixListener::bind(home.file("socket")).unwrap();
    nix::unistd::mkfifo(&home.file("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    fs::create_dir(home.file("directory")).unwrap();
    let _segment = home.options().create("segment").unwrap();
    symlink(home.file("segment"), home.file("link")).unwrap();
    symlink("/dev/null", home.file("link-out")).unwrap();
    let cases = [
        ("random", "magic"),
        ("empty", "magic"),
        ("short", "magic"),
        ("zeros", "magic"),
        ("socket", "regular file"),
        ("fifo", "regular file"),
        ("directory", "regular file"),
        ("link", "symbolic link"),
        ("link-out", "symbolic link"),
    ];
    for (name, word) in cases {
        let words = ["not a gimmal segment", word];
        provoke!(&home, words, home.options().open(name), Error::NotGimmal { .. });
        provoke!(&home, words, home.options().open_or_create(name), Error::NotGimmal { .. });
        provoke!(&home, words, home.options().inspect(name), Error::NotGimmal { .. });
        provoke!(&home, ["exists"], home.options().create(name), Error::Exists { .. });
        assert!(fs::symlink_metadata(home.file(name)).is_ok(), "it is not removed");
    }
    assert_eq!(home.options().clean().unwrap(), [""; 0]);
    assert!(fs::read(home.file("random")).unwrap() == random, "nothing is written into it");
    let error = provoke(&home, &["not a gimmal segment", "regular file"], || home.options().unlink("directory"));
    assert!(matches!(error, Error::NotGimmal { .. }));
}

/// A persistent segment that nobody is attached to, with a queue, a pipe, a value and a lock, as bytes.
fn specimen(home: &Home) -> Vec<u8> {
    let segment = home.options().persist(true).create("specimen").unwrap();
    Queue::<u32>::create(&segment, "queue", 4).unwrap().sender().unwrap().send(1).unwrap();
    drop(Pipe::pair::<u8, u64>(&segment, "pipe", 2).unwrap());
    Value::<u64>::create(&segment, "value", 7).unwrap();
    Lock::<()>::create(&segment, "lock", ()).unwrap();
    drop(segment);
    fs::read(home.file("specimen")).unwrap()
}

fn patched(bytes: &[u8], at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

#[test]
fn a_file_that_was_cut_is_refused() {
    let home = Home::new("truncated");
    let bytes = specimen(&home);
    let full = bytes.len() as u64;
    for length in [full - 1, full - 4096, 4096, 512] {
        fs::write(home.file("cut"), &bytes[..length as usize]).unwrap();
        let words = [&*format!("{full} bytes"), &*length.to_string(), "cut it"];
        let is_meant = |expected, found| (expected, found) == (full, length);
        provoke!(&home, words, home.options().open("cut"),
            Error::Truncated { expected, found } if is_meant(*expected, *found));
        provoke!(&home, words, home.options().open_or_create("cut"), Error::Truncated { .. });
        provoke!(&home, words, home.options().inspect("cut"), Error::Truncated { .. });
    }
    // So short that not even the header is there.
    for length in [80, 511] {
        fs::write(home.file("cut"), &bytes[..length as usize]).unwrap();
        provoke!(&home, ["512", &*length.to_string()], home.options().open("cut"),
            Error::Truncated { expected: 512, found } if *found == length);
    }
    assert_eq!(home.options().clean().unwrap(), [""; 0]);
}

#[test]
fn another_version_and_another_target_are_refused() {
    let home = Home::new("version");
    let bytes = specimen(&home);
    let version = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    for other in [0, version + 1, u32::MAX] {
        fs::write(home.file("other"), patched(&bytes, 8, &other.to_le_bytes())).unwrap();
        let words = [&*other.to_string(), &*version.to_string(), "compatible releases"];
        let is_meant = |expected, found| (expected, found) == (version, other);
        provoke!(&home, words, home.options().open("other"),
            Error::Version { expected, found } if is_meant(*expected, *found));
        provoke!(&home, words, home.options().inspect("other"), Error::Version { .. });
        provoke!(&home, words, home.options().open_or_create("other"), Error::Version { .. });
    }
    let target = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
    // 32 bits, big-endian, other lines, nonsense.
    for other in [target & !0xff | 32, target ^ 0x300, target & 0xffff | 64 << 16, 0] {
        fs::write(home.file("other"), patched(&bytes, 12, &other.to_le_bytes())).unwrap();
        let words = [&*format!("{other:#x}"), &*format!("{target:#x}"), "byte order", "like builds"];
        let is_meant = |expected, found| (expected, found) == (target, other);
        provoke!(&home, words, home.options().open("other"),
            Error::Target { expected, found } if is_meant(*expected, *found));
        provoke!(&home, words, home.options().inspect("other"), Error::Target { .. });
    }
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let home = Home::new("corrupt-header");
    let bytes = specimen(&home);
    let number = |at: usize, n: u32| (at, n.to_le_bytes().to_vec());
    let offset = |at: usize, n: u64| (at, n.to_le_bytes().to_vec());
    let heap = u64::from_le_bytes(bytes[64..72].try_into().unwrap());
    let patches = [
        number(24, 5),
        number(24, u32::MAX), // flags
        number(28, 2),
        number(28, u32::MAX), // fences
        number(32, 0),
        number(32, 1),
        number(32, 512),
        number(32, 65_537),
        number(32, u32::MAX), // participants
        number(36, 0),
        number(36, 1),
        number(36, 65_537),
        number(36, u32::MAX), // objects
        offset(40, 0),
        offset(40, 511),
        offset(40, u64::MAX), // life words
        offset(48, 0),
        offset(48, 513),
        offset(48, u64::MAX), // participants
        offset(56, 0),
        offset(56, 1 << 40),
        offset(56, u64::MAX - 7), // directory
        offset(64, 0),
        offset(64, heap + 128),
        offset(64, heap - 128),
        offset(64, 0_u64.wrapping_sub(128)), // heap
    ];
    for (at, patch) in patches {
        fs::write(home.file("other"), patched(&bytes, at, &patch)).unwrap();
        let words = ["corrupt", "header", "create it anew"];
        provoke!(&home, words, home.options().open("other"), Error::Corrupt { .. });
        provoke!(&home, words, home.options().open_or_create("other"), Error::Corrupt { .. });
        provoke!(&home, words, home.options().inspect("other"), Error::Corrupt { .. });
        assert_eq!(home.options().clean().unwrap(), [""; 0]);
    }
    // One that says it has no name.
    fs::write(home.file("other"), patched(&bytes, 24, &[3])).unwrap();
    provoke!(&home, ["corrupt", "unnamed"], home.options().open("other"), Error::Corrupt { .. });
}

#[test]
fn an_entry_that_leads_astray_is_found_before_it_is_followed() {
    let home = Home::new("corrupt-entry");
    let bytes = specimen(&home);
    let directory = u64::from_le_bytes(bytes[56..64].try_into().unwrap()) as usize;
    let number = |at: usize, n: u32| (at, n.to_le_bytes().to_vec());
    let long = |at: usize, n: u64| (at, n.to_le_bytes().to_vec());
    let field = |entry: usize, at: usize| {
        let at = directory + entry * 192 + at;
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    };
    let size = bytes.len() as u64;
    let queue = [
        number(8, 0),
        number(8, 8),
        number(8, 5),
        number(8, 3),
        number(8, u32::MAX), // kind
        long(16, 0),
        long(16, 1),
        long(16, field(0, 16) + 1),
        long(16, field(0, 16) + 64), // offset
        long(16, size),
        long(16, size - 128),
        long(16, u64::MAX),
        long(16, 0_u64.wrapping_sub(128)),
        long(16, field(0, 16) - 128),
        long(24, 0),
        long(24, 128),
        long(24, field(0, 24) + 128),
        long(24, size),
        long(24, u64::MAX), // bytes
        long(32, 0),
        long(32, 3),
        long(32, 16),
        long(32, 1 << 40),
        long(32, 1 << 63),
        long(32, u64::MAX), // capacity
        number(40, 0),
        number(40, 1 << 31),
        number(40, u32::MAX),
        number(40, 6), // element size
        number(44, 0),
        number(44, 3),
        number(44, 8),
        number(44, 128),
        number(44, 1 << 31), // element alignment
        (56, vec![0]),
        (56, vec![64]),
        (56, vec![255]),
        (57, vec![0xff]),
        (57, b"\n".to_vec()), // name
        (120, vec![0]),
        (120, vec![64]),
        (121, vec![0xc3, 0x28]),
        (121, vec![0x1b]), // element
    ];
    let pipe = [
        number(12, 3), // a pipe of one direction would be smaller
        number(48, 0),
        number(48, u32::MAX),
        number(48, 12),
        number(52, 0),
        number(52, 5),
        number(52, 1 << 31),       // way back
        (120, b"\x02u8".to_vec()), // no way back
        long(16, field(0, 16)),    // in the place of another object
    ];
    let value = [long(24, 64), long(24, 256), number(40, 0), number(44, 3), long(16, field(1, 16))];
    // The last one, behind which there is room.
    let lock = [long(16, field(3, 16) + 64), long(16, field(3, 16) + 127), number(44, 128), number(44, 1 << 30)];
    let all = [(0, "queue", &queue[..]), (1, "pipe", &pipe[..]), (2, "value", &value[..]), (3, "lock", &lock[..])];
    for (entry, name, patches) in all {
        for (at, patch) in patches {
            fs::write(home.file("other"), patched(&bytes, directory + entry * 192 + at, patch)).unwrap();
            let what = format!("{name}: {patch:?} at {at}");
            println!("{what}");
            let words = ["corrupt", "create it anew"];
            provoke!(&home, words, home.options().inspect("other"), Error::Corrupt { .. });
            // The segment itself may be joined, and left; nothing of it is followed.
            let Ok(segment) = home.options().open("other") else { continue };
            provoke!(&home, words, Lock::<()>::open(&segment, "lock"), Error::Corrupt { .. });
            provoke!(&home, words, Queue::<u32>::create(&segment, "new", 1), Error::Corrupt { .. });
            provoke!(&home, words, segment.snapshot(), Error::Corrupt { .. });
            assert!(segment.free() < segment.size(), "{what}");
            assert_eq!(segment.recover().unwrap().died, [0_u32; 0]);
        }
    }
}

// --- descriptors ---

fn memory_file(bytes: &[u8], seals: i32) -> OwnedFd {
    // SAFETY: the name is a string.
    let fd = unsafe { libc::memfd_create(c"t-errors".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0);
    // SAFETY: the kernel has just made it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    File::from(fd.try_clone().unwrap()).write_all(bytes).unwrap();
    // SAFETY: no memory is touched.
    assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }, 0);
    fd
}

const SIZE_SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

#[test]
fn a_descriptor_of_what_may_become_shorter_is_refused() {
    let _turn = alone_with_memory_files();
    let home = Home::new("not-sealed");
    let segment = home.options().create("s").unwrap();
    let words = ["F_SEAL_SHRINK", "Segment::anonymous"];
    provoke!(&home, words, Segment::from_fd(&segment), Error::NotSealed);
    let bytes = specimen(&home);
    for seals in [0, libc::F_SEAL_GROW, libc::F_SEAL_SEAL] {
        let fd = memory_file(&bytes, seals);
        let before = memory_traces();
        provoke!(&home, words, Segment::from_fd(&fd), Error::NotSealed);
        assert_eq!(memory_traces(), before);
    }
    let (stream, _other) = UnixStream::pair().unwrap();
    provoke!(&home, words, Segment::from_fd(&stream), Error::NotSealed);
    provoke!(&home, words, Segment::from_fd(File::open("/dev/null").unwrap()), Error::NotSealed);
    let (pipe, _writer) = std::io::pipe().unwrap();
    provoke!(&home, words, Segment::from_fd(&pipe), Error::NotSealed);
}

#[test]
fn a_sealed_descriptor_must_be_an_unnamed_segment() {
    let _turn = alone_with_memory_files();
    let home = Home::new("sealed-junk");
    let bytes = specimen(&home);
    let try_with = |bytes: &[u8], words: &[&str]| {
        let fd = memory_file(bytes, SIZE_SEALS);
        let before = memory_traces();
        let error = provoke(&home, words, || Segment::from_fd(&fd));
        assert_eq!(memory_traces(), before, "left behind by {error}");
        error
    };
    assert!(matches!(try_with(b"", &["not a gimmal"]), Error::NotGimmal { .. }));
    assert!(matches!(try_with(b"something else", &["magic"]), Error::NotGimmal { .. }));
    assert!(matches!(try_with(&bytes, &["corrupt", "named"]), Error::Corrupt { .. }));
    let unnamed = patched(&bytes, 24, &[2]);
    assert!(matches!(try_with(&unnamed[..8192], &["8192"]), Error::Truncated { .. }));
    assert!(matches!(try_with(&patched(&unnamed, 8, &[9]), &["9"]), Error::Version { found: 9, .. }));
    let fd = memory_file(&unnamed, SIZE_SEALS);
    assert_eq!(Segment::from_fd(&fd).unwrap().snapshot().unwrap().objects.len(), 4, "else it is one");
}

/// Opens and creates with fewer and fewer descriptors to be had.
fn be_short_of_descriptors(context: &Context) -> Outcome {
    die_with_parent();
    let home = std::mem::ManuallyDrop::new(Home(PathBuf::from(&context.args()[0])));
    let open = || {
        let numbers = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
        let mut numbers: Vec<u64> = numbers.map(|name| name.into_string().unwrap().parse().unwrap()).collect();
        numbers.sort_unstable();
        // The last one opened is that of the directory, which is closed by now.
        numbers.retain(|number| Path::new(&format!("/proc/self/fd/{number}")).exists());
        numbers
    };
    let limit = |soft: u64| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: 4096 };
        // SAFETY: the struct outlives the call.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    };
    // What is opened once, is.
    drop(home.options().create("warm")?);
    let there = home.options().create("there")?;
    let (in_use, traces) = (open(), home.traces());
    type Call = fn(&Home) -> Result<(), Error>;
    let calls: [(&str, Call); 6] = [
        ("create", |home| home.options().create("new").map(drop)),
        ("replace", |home| home.options().replace(true).create("new").map(drop)),
        ("open", |home| home.options().open("there").map(drop)),
        ("open_or_create", |home| home.options().open_or_create("new").map(drop)),
        ("inspect", |home| home.options().inspect("there").map(drop)),
        ("anonymous", |home| home.options().anonymous().map(drop)),
    ];
    for (what, call) in calls {
        let (mut failed, mut more) = (0, 0);
        loop {
            // As many numbers as that are free below the limit.
            limit((0..).filter(|number| !in_use.contains(number)).nth(more).unwrap());
            let result = call(&home);
            limit(4096);
            assert_eq!((open(), home.traces()), (in_use.clone(), traces.clone()), "{what} with {more} descriptors");
            match result {
                Ok(()) => break,
                Err(e @ Error::Io { .. }) => says(&e, &["could not", "Too many open files"]),
                Err(e) => panic!("{what} with {more} descriptors: {e:?}"),
            }
            failed += 1;
            more += 1;
            assert!(more < 20, "{what} never succeeds");
        }
        assert!(failed > 0, "{what} needs no descriptor?");
    }
    drop(there);
    Ok(())
}

#[test]
fn running_out_of_descriptors_at_any_point_leaves_nothing() {
    let home = Home::new("descriptors");
    process::init(&ENTRIES);
    join_well(&mut support::process("be_short_of_descriptors").arg(&home.0).spawn().unwrap());
    assert_eq!(home.traces().0, [""; 0]);
}

// --- fences ---

/// In a process whose every membarrier call fails.
fn be_without_membarrier(context: &Context) -> Outcome {
    die_with_parent();
    let home = std::mem::ManuallyDrop::new(Home(PathBuf::from(&context.args()[0])));
    let refuse = |nr: libc::c_long| {
        // Load the call's number; if it is this one, fail with EPERM; else go on.
        let filter = [
            libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
            libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: nr as u32 },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
        // SAFETY: the program and its filter outlive the call.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }, 0);
    };
    refuse(libc::SYS_membarrier);
    assert!(!gimmal::capabilities().membarrier);
    let words = ["membarrier", "full_fences"];
    provoke!(&home, words, home.options().open("asymmetric"), Error::Fence);
    provoke!(&home, words, home.options().open_or_create("asymmetric"), Error::Fence);
    // To look at it needs no fence; others, and new ones, use none.
    assert!(home.options().inspect("asymmetric")?.asymmetric_fences);
    let full = home.options().open("full")?;
    assert_eq!(Queue::<u8>::open(&full, "queue")?.receiver()?.recv()?, 1);
    let new = home.options().create("new")?;
    assert!(!new.snapshot()?.asymmetric_fences);
    Ok(())
}

#[test]
fn a_process_that_cannot_do_the_segments_fences_is_refused() {
    if !gimmal::capabilities().membarrier {
        println!("no membarrier here: not tested");
        return;
    }
    let home = Home::new("fence");
    let asymmetric = home.options().create("asymmetric").unwrap();
    assert!(asymmetric.snapshot().unwrap().asymmetric_fences);
    let full = home.options().full_fences(true).create("full").unwrap();
    Queue::<u8>::create(&full, "queue", 1).unwrap().sender().unwrap().send(1).unwrap();
    process::init(&ENTRIES);
    join_well(&mut support::process("be_without_membarrier").arg(&home.0).spawn().unwrap());
    assert_eq!(asymmetric.peers().len(), 1);
}

// --- objects ---

#[test]
fn another_type_is_refused_with_both_names() {
    mod here {
        #[derive(Clone, Copy, gimmal::Pod, gimmal::Zeroable)]
        #[bytemuck(crate = "gimmal::bytemuck")]
        #[repr(C)]
        pub struct Order(u32);
    }
    mod there {
        #[derive(Clone, Copy, gimmal::Pod, gimmal::Zeroable)]
        #[bytemuck(crate = "gimmal::bytemuck")]
        #[repr(C)]
        pub struct Order(u64);
        #[derive(Clone, Copy, gimmal::Pod, gimmal::Zeroable)]
        #[bytemuck(crate = "gimmal::bytemuck")]
        #[repr(C)]
        pub struct Invoice(u32);
    }
    mod again {
        #[derive(Clone, Copy, gimmal::Pod, gimmal::Zeroable)]
        #[bytemuck(crate = "gimmal::bytemuck")]
        #[repr(C)]
        pub struct Order([u16; 2]);
    }
    let home = Home::new("type");
    let segment = home.options().create("s").unwrap();
    let words = ["\"o\" holds", "u32 (4 bytes)", "u64 (8 bytes)", "created with"];
    Queue::<u32>::create(&segment, "o", 4).unwrap();
    provoke!(&home, words, Queue::<u64>::open(&segment, "o"),
        Error::TypeMismatch { name, expected, found }
            if name == "o" && expected == "u64 (8 bytes)" && found == "u32 (4 bytes)");
    provoke!(&home, words, Queue::<u64>::open_or_create(&segment, "o", 4), Error::TypeMismatch { .. });
    // The same bytes, but another meaning.
    provoke!(&home, ["i32", "u32"], Queue::<i32>::open(&segment, "o"), Error::TypeMismatch { .. });
    Value::<f64>::create(&segment, "v", 0.0).unwrap();
    provoke!(&home, ["f64", "u64"], Value::<u64>::open(&segment, "v"), Error::TypeMismatch { .. });
    Array::<bool>::create(&segment, "a", 4).unwrap();
    provoke!(&home, ["bool", "u8"], Array::<u8>::open(&segment, "a"), Error::TypeMismatch { .. });
    let _pair = Pipe::pair::<u8, u16>(&segment, "p", 4).unwrap();
    provoke!(&home, ["u8 -> u16", "u16 -> u8"], Pipe::create::<u16, u8>(&segment, "p", 4), Error::TypeMismatch { .. });
    // The name, the size and the alignment count; where the type lives does not, nor how it is made.
    Lock::<here::Order>::create(&segment, "l", gimmal::Zeroable::zeroed()).unwrap();
    let words = ["Order (4 bytes)", "Order (8 bytes)"];
    provoke!(&home, words, Lock::<there::Order>::open(&segment, "l"), Error::TypeMismatch { .. });
    provoke!(&home, ["Invoice"], Lock::<there::Invoice>::open(&segment, "l"), Error::TypeMismatch { .. });
    Queue::<here::Order>::create(&segment, "q", 1).unwrap();
    provoke!(&home, ["Order"], Queue::<again::Order>::open(&segment, "q"), Error::TypeMismatch { .. });
}

#[test]
fn another_kind_is_refused_with_both_kinds() {
    let home = Home::new("kind");
    let segment = home.options().create("s").unwrap();
    let queue = Queue::<u64>::create(&segment, "queue", 4).unwrap();
    let _spsc = SpscQueue::<u64>::create(&segment, "spsc", 4).unwrap();
    let _pipe = Pipe::pair::<u64, u64>(&segment, "pipe", 4).unwrap();
    let _shared = Pipe::shared::<u64, u64>(&segment, "shared", 4).unwrap();
    let _value = Value::<u64>::create(&segment, "value", 4).unwrap();
    let _array = Array::<u64>::create(&segment, "array", 4).unwrap();
    let _lock = Lock::<u64>::create(&segment, "lock", 4).unwrap();
    let _latest = Latest::<u64>::create(&segment, "latest", 4).unwrap();
    let all = [
        ("queue", Kind::Queue),
        ("spsc", Kind::SpscQueue),
        ("pipe", Kind::Pipe),
        ("shared", Kind::SharedPipe),
        ("value", Kind::Value),
        ("array", Kind::Array),
        ("lock", Kind::Lock),
        ("latest", Kind::Latest),
    ];
    type Open = fn(&Segment, &str) -> Result<(), Error>;
    let opens: [Open; 8] = [
        |s, name| Queue::<u64>::open(s, name).map(drop),
        |s, name| SpscQueue::<u64>::open(s, name).map(drop),
        |s, name| Pipe::connect::<u64, u64>(s, name).map(drop),
        |s, name| Pipe::shared_second::<u64, u64>(s, name, 4).map(drop),
        |s, name| Value::<u64>::open(s, name).map(drop),
        |s, name| Array::<u64>::open(s, name).map(drop),
        |s, name| Lock::<u64>::open(s, name).map(drop),
        |s, name| Latest::<u64>::open(s, name).map(drop),
    ];
    for (name, has) in all {
        for ((_, wants), open) in all.into_iter().zip(opens) {
            if wants != has {
                let words = [&*format!("{name:?} is a {has}"), &*format!("not a {wants}"), "another name"];
                provoke!(&home, words, open(&segment, name),
                    Error::KindMismatch { expected, found, .. } if (*expected, *found) == (wants, has));
            }
        }
    }
    assert_eq!(queue.len(), 0);
}

#[test]
fn other_capacities_and_options_are_refused_where_one_asks_for_them() {
    let home = Home::new("capacity");
    let segment = home.options().create("s").unwrap();
    Queue::<u64>::create(&segment, "queue", 5).unwrap();
    let words = ["\"queue\"", "capacity of 8", "not 16", "use open"];
    let is_meant = |expected, found| (expected, found) == (16, 8);
    provoke!(&home, words, Queue::<u64>::open_or_create(&segment, "queue", 9),
        Error::CapacityMismatch { expected, found, .. } if is_meant(*expected, *found));
    assert!(Queue::<u64>::open_or_create(&segment, "queue", 7).is_ok(), "after rounding it is the same");
    assert_eq!(Queue::<u64>::open(&segment, "queue").unwrap().capacity(), 8);
    drop(Pipe::pair::<u8, u8>(&segment, "pipe", 4).unwrap());
    provoke!(
        &home,
        ["capacity of 4", "not 2"],
        Pipe::create::<u8, u8>(&segment, "pipe", 2),
        Error::CapacityMismatch { .. }
    );
    Array::<u8>::create(&segment, "array", 5).unwrap();
    provoke!(
        &home,
        ["capacity of 5", "not 6"],
        Array::<u8>::open_or_create(&segment, "array", 6),
        Error::CapacityMismatch { expected: 6, found: 5, .. }
    );
    let options = QueueOptions::new().capacity(8).keep_waiting(true);
    let words = ["\"queue\"", "keep_waiting", "use open"];
    provoke!(
        &home,
        words,
        options.open_or_create::<u64>(&segment, "queue"),
        Error::OptionMismatch { option: "keep_waiting", .. }
    );
    SpscQueue::<u64>::create(&segment, "spsc", 8).unwrap();
    provoke!(
        &home,
        ["keep_waiting"],
        options.open_or_create_spsc::<u64>(&segment, "spsc"),
        Error::OptionMismatch { .. }
    );
}

#[test]
fn an_object_without_room_is_refused_with_what_it_needs_and_what_there_is() {
    let home = Home::new("no-room");
    let segment = home.options().create("s").unwrap();
    let free = segment.free();
    let is_meant = |needed, available, bytes| needed == bytes && available == free;
    for capacity in [1 << 20, 1 << 30, 1 << 40] {
        let bytes = Queue::<[u64; 8]>::bytes(capacity);
        let words = [&*bytes.to_string(), &*free.to_string(), "larger size"];
        provoke!(&home, words, Queue::<[u64; 8]>::create(&segment, "o", capacity),
            Error::NoRoom { needed, available } if is_meant(*needed, *available, bytes));
    }
    provoke!(&home, ["left"], Array::<u64>::create(&segment, "o", usize::MAX / 8), Error::NoRoom { .. });
    provoke!(&home, ["left"], Array::<u64>::create(&segment, "o", usize::MAX), Error::NoRoom { .. });
    provoke!(&home, ["left"], Array::<u8>::create(&segment, "o", free - 127), Error::NoRoom { .. });
    assert_eq!((segment.free(), segment.snapshot().unwrap().objects.len()), (free, 0));
    Array::<u8>::create(&segment, "o", free - 128).unwrap();
    provoke!(&home, ["128 bytes", "0 left"], Value::<u8>::create(&segment, "v", 1), Error::NoRoom { .. });
}

#[test]
fn a_full_directory_and_a_full_table_of_participants_say_their_size() {
    let home = Home::new("no-slot");
    let segment = home.options().max_objects(2).max_participants(2).create("s").unwrap();
    Value::<u8>::create(&segment, "a", 1).unwrap();
    Value::<u8>::create(&segment, "b", 1).unwrap();
    provoke!(
        &home,
        ["2 objects", "max_objects"],
        Value::<u8>::create(&segment, "c", 1),
        Error::NoObjectSlot { maximum: 2 }
    );
    assert!(Value::<u8>::open_or_create(&segment, "b", 1).is_ok());
    let other = home.options().open("s").unwrap();
    let words = ["2 living participants", "max_participants"];
    provoke!(&home, words, home.options().open("s"), Error::NoParticipantSlot { maximum: 2 });
    provoke!(&home, words, home.options().open_or_create("s"), Error::NoParticipantSlot { .. });
    provoke!(&home, ["exists"], home.options().create("s"), Error::Exists { .. });
    assert_eq!(home.options().inspect("s").unwrap().participants.len(), 2, "looking needs no place");
    assert_eq!(home.options().clean().unwrap(), [""; 0]);
    drop(other);
    assert!(home.options().open("s").is_ok());
}

#[test]
fn a_seat_that_is_taken_names_the_process_that_sits_there() {
    let home = Home::new("seat");
    let segment = home.options().create("s").unwrap();
    let queue = SpscQueue::<u8>::create(&segment, "queue", 1).unwrap();
    let _ends = (queue.sender().unwrap(), queue.receiver().unwrap());
    let us = std::process::id();
    let words = [&*format!("process {us}"), "exclusive end", "Queue"];
    provoke!(&home, words, queue.sender(), Error::SeatTaken { pid } if *pid == us);
    provoke!(&home, words, queue.receiver(), Error::SeatTaken { pid } if *pid == us);
    let _end = Pipe::create::<u8, u8>(&segment, "pipe", 1).unwrap();
    provoke!(&home, words, Pipe::create::<u8, u8>(&segment, "pipe", 1), Error::SeatTaken { .. });
}

#[test]
fn a_range_outside_an_array_is_refused_with_its_length() {
    let home = Home::new("range");
    let segment = home.options().create("s").unwrap();
    let array = Array::<u8>::create(&segment, "array", 5).unwrap();
    let words = ["3 elements from 4 on", "has 5"];
    provoke!(&home, words, array.read(4, &mut [0; 3]), Error::OutOfRange { start: 4, length: 3, found: 5 });
    provoke!(&home, words, array.write(4, &[0; 3]), Error::OutOfRange { .. });
}

// --- waiting for others ---

/// The only error that takes its time: ten seconds.
#[test]
fn an_admission_lock_that_is_held_for_ever_ends_the_wait_with_an_error() {
    let home = Home::new("busy");
    let segment = home.options().create("s").unwrap();
    let file = File::options().read(true).write(true).open(home.file("s")).unwrap();
    // SAFETY: all-zero bytes are a valid flock, a plain C struct.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // Where the locks of a segment begin: a part of its layout.
    lock.l_start = 1 << 62;
    lock.l_len = 1;
    // SAFETY: the struct outlives the call.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }, 0);
    let start = Instant::now();
    let words = ["admission lock", "10s", "stopped process"];
    thread::scope(|scope| {
        let home = &home;
        let before = home.traces();
        let waits = [
            scope.spawn(move || home.options().open("s").map(drop)),
            scope.spawn(move || home.options().open_or_create("s").map(drop)),
            scope.spawn({
                let segment = segment.clone();
                move || Value::<u8>::create(&segment, "new", 1).map(drop)
            }),
        ];
        assert!(home.options().inspect("s").is_ok(), "who only looks does not wait");
        for wait in waits {
            let error = wait.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Busy { waited } if waited <= start.elapsed()), "{error:?}");
            says(&error, &words);
        }
        assert_eq!(home.traces(), before);
    });
    drop(file);
    Value::<u8>::create(&segment, "new", 1).unwrap();
}

// --- messages ---

#[test]
fn errors_of_sends_and_receives_say_why_and_keep_the_message() {
    let cases = [
        (TrySendError::Full(5).to_string(), "full"),
        (TrySendError::Closed(5).to_string(), "closed"),
        (TrySendError::Disconnected { message: 5, peer: Departure::Closed }.to_string(), "gone"),
        (TrySendError::Detached(5).to_string(), "forked"),
        (SendError::Closed(5).to_string(), "closed"),
        (SendTimeoutError::Timeout(5).to_string(), "time is up"),
        (SendSliceError { sent: 3, reason: SendError::Closed(()) }.to_string(), "3 messages sent"),
        (TryRecvError::Empty.to_string(), "empty"),
        (Timeout.to_string(), "time is up"),
    ];
    for (message, word) in cases {
        assert!(message.contains(word), "{message}");
    }
    assert!(TrySendError::Full(5).is_full() && !TrySendError::Full(5).is_closed());
    assert!(
        TrySendError::Closed(5).is_closed()
            && TrySendError::Disconnected { message: 5, peer: Departure::Closed }.is_disconnected()
    );
    assert!(SendTimeoutError::Timeout(5).is_timeout());
    assert_eq!(
        (
            TrySendError::Full(5).into_inner(),
            SendError::Closed(6).into_inner(),
            SendTimeoutError::Timeout(7).into_inner()
        ),
        (5, 6, 7)
    );
    assert_eq!(TrySendError::from(SendError::Closed(5)), TrySendError::Closed(5));
    assert_eq!(
        SendTimeoutError::from(SendError::Disconnected { message: 5, peer: Departure::Closed }),
        SendTimeoutError::Disconnected { message: 5, peer: Departure::Closed }
    );
}

/// What has been waited for in vain holds on to nothing.
#[test]
fn time_outs_leave_no_trace() {
    let home = Home::new("timeout");
    let segment = home.options().create("s").unwrap();
    let queue = Queue::<u8>::create(&segment, "queue", 1).unwrap();
    let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let before = home.traces();
    assert!(receiver.recv_timeout(Duration::from_millis(1)).is_err());
    sender.send(1).unwrap();
    assert_eq!(sender.send_timeout(2, Duration::from_millis(1)), Err(SendTimeoutError::Timeout(2)));
    assert_eq!(home.traces(), before);
}

/// A message must not lead whoever reads it to a file of ours by mistake: what is patched is what is meant.
#[test]
fn the_specimen_is_a_segment_before_it_is_patched() {
    let home = Home::new("specimen");
    let bytes = specimen(&home);
    fs::write(home.file("copy"), &bytes).unwrap();
    let segment = home.options().open("copy").unwrap();
    assert_eq!(Queue::<u32>::open(&segment, "queue").unwrap().receiver().unwrap().recv(), Ok(1));
    drop(segment);
    let file = File::options().write(true).open(home.file("copy")).unwrap();
    file.write_all_at(&[0xff], bytes.len() as u64 - 1).unwrap();
    assert!(home.options().open("copy").is_ok(), "what no object holds does not matter");
    assert!(env::current_exe().is_ok());
}
