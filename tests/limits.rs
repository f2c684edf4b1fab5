//! What the system sets limits to: where a limit is met there is an error that names it, and neither a signal nor a kill.

mod support;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::{fs, io};

use gimmal::process::{self, Context, Entry, Outcome};
use gimmal::{Error, Queue, QueueOptions, Segment, SegmentOptions, SendError, Shortage, TrySendError};
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::fstat;
use support::{die_with_parent, join_well};

const ENTRIES: [Entry; 5] = gimmal::entries![
    make_short_files,
    live_in_little_address_space,
    lock_memory,
    live_in_a_cgroup,
    use_what_is_read_only
];

const MIB: u64 = 1 << 20;

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

/// Runs `entry` in a process of its own, which must end well.
fn run(entry: &str, arguments: &[&str]) {
    process::init(&ENTRIES);
    join_well(&mut support::process(entry).args(arguments).spawn().expect("start a process"));
}

/// A directory for the segments of one test.
struct Home(PathBuf);

impl Home {
    fn new(case: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/t-limits-{}-{case}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Segments in the directory that the first argument names.
fn options(context: &Context) -> SegmentOptions {
    Segment::options().directory(&context.args()[0]).size(64 << 10)
}

#[track_caller]
fn says(error: impl std::fmt::Display, words: &[&str]) {
    let message = error.to_string();
    words.iter().for_each(|word| assert!(message.contains(word), "{message:?} does not say {word:?}"));
}

/// The soft limit, as that of a shell in which `ulimit` was said.
fn set_limit(resource: Resource, limit: u64) {
    setrlimit(resource, limit, getrlimit(resource).unwrap().1).unwrap();
}

/// Bytes of memory that the segment's file has.
fn memory(segment: &Segment) -> u64 {
    fstat(segment.as_fd()).unwrap().st_blocks as u64 * 512
}

// --- ulimit -f ---

fn make_short_files(context: &Context) -> Outcome {
    die_with_parent();
    const LIMIT: u64 = 100 << 10;
    let options = options(context);
    let before = options.create("before")?;
    let queue = QueueOptions::new().unbounded(16 << 20).create::<[u8]>(&before, "queue")?;
    let unnamed = Segment::options().size(64 << 10).anonymous()?;
    set_limit(Resource::RLIMIT_FSIZE, LIMIT);

    let too_long = |result: Result<(), Error>| {
        let error = result.expect_err("it is too long");
        says(&error, &["ulimit -f", "102400"]);
        assert!(matches!(error, Error::NoSpace { shortage: Shortage::FileSize { limit: LIMIT }, .. }), "{error:?}");
    };
    too_long(options.clone().size(1 << 20).create("long").map(drop));
    too_long(options.clone().size(1 << 20).open_or_create("long").map(drop));
    too_long(options.clone().size(1 << 20).anonymous().map(drop));
    let segment = options.create("short")?;
    for segment in [&segment, &unnamed] {
        too_long(Queue::<u64>::unbounded(segment, "queue").map(drop));
        too_long(QueueOptions::new().unbounded(16 << 20).create::<[u8]>(segment, "queue").map(drop));
        // There is no half of it.
        assert!(segment.snapshot()?.objects.is_empty());
    }
    // What is long enough already takes memory as before.
    let sender = queue.sender()?;
    for _ in 0..4 * MIB / 1024 {
        sender.send(&[7; 1024])?;
    }
    assert!(memory(&before) > 4 * MIB);
    Ok(())
}

#[test]
fn a_limit_of_the_length_of_files_is_an_error_and_no_signal() {
    let home = Home::new("short");
    run("make_short_files", &[home.path()]);
}

// --- ulimit -v ---

fn live_in_little_address_space(context: &Context) -> Outcome {
    die_with_parent();
    let options = options(context);
    let segment = options.clone().size(256 << 10).create("s")?;
    let pages: u64 = fs::read_to_string("/proc/self/statm")?.split(' ').next().unwrap().parse()?;
    set_limit(Resource::RLIMIT_AS, pages * 4096 + 300 * MIB);
    let too_much = |result: Result<(), Error>| says(result.expect_err("it is too much"), &["could not", "ulimit -v"]);
    too_much(QueueOptions::new().unbounded(1 << 30).create::<u64>(&segment, "large").map(drop));
    too_much(QueueOptions::new().unbounded(1 << 30).create::<[u8]>(&segment, "large").map(drop));
    too_much(options.clone().size(400 * MIB as usize).create("large").map(drop));
    // What cannot be mapped here is not left behind for others to find.
    assert!(segment.snapshot()?.objects.is_empty());
    // Without a limit of its own it has one that fits.
    let numbers = Queue::<u64>::unbounded(&segment, "numbers")?;
    let texts = Queue::<[u8]>::unbounded(&segment, "texts")?;
    numbers.sender()?.send(1)?;
    texts.sender()?.send(b"one")?;
    Ok(())
}

#[test]
fn a_limit_of_the_address_space_is_named_and_kept_to() {
    let home = Home::new("space");
    run("live_in_little_address_space", &[home.path()]);
}

// --- mlockall ---

fn lock_memory(context: &Context) -> Outcome {
    die_with_parent();
    let large = context.args()[1] == "large";
    let segment = options(context).size(256 << 10).create("s")?;
    let all = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    match mlockall(if large { all } else { MlockAllFlags::MCL_FUTURE }) {
        // Only with a capability, or with a larger `ulimit -l`. Then the small ones show the same.
        Err(Errno::ENOMEM | Errno::EPERM) if large => return Ok(()),
        result => result?,
    }
    let limit = if large { 512 << 20 } else { 1 << 20 };
    let before = memory(&segment);
    let numbers = QueueOptions::new().unbounded(limit).create::<u64>(&segment, "numbers");
    let texts = QueueOptions::new().unbounded(limit).create::<[u8]>(&segment, "texts");
    assert_eq!(memory(&segment), before, "bytes of memory for two empty queues");
    if let Some(error) = numbers.as_ref().err().or(texts.as_ref().err()) {
        // Address space counts, too, for those without the capability.
        says(error, &["ulimit -l"]);
        eprintln!("{error}: use is not tested");
        return Ok(());
    }
    let (numbers, texts) = (numbers?, texts?);
    // They work, and what they hold is locked as it is touched.
    let locked = locked_bytes()?;
    let (numbers, texts) = ((numbers.sender()?, numbers.receiver()?), (texts.sender()?, texts.receiver()?));
    for n in 0..20_000 {
        numbers.0.send(n)?;
        texts.0.send(&[7; 16])?;
    }
    let taken = memory(&segment) - before;
    assert!(taken > 0 && taken < 8 * MIB, "{taken}");
    assert!(locked_bytes()? >= locked + (taken / 2).min(MIB / 4), "{locked} -> {}, {taken}", locked_bytes()?);
    assert!(numbers.1.try_iter().eq(0..20_000));
    assert_eq!(texts.1.recv_vec()?, [7; 16]);
    Ok(())
}

/// Bytes of this process that are locked in memory, and there.
fn locked_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps")?;
    let kibibytes = |line: &str| line.strip_prefix("Locked:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    Ok(text.lines().filter_map(kibibytes).sum::<u64>() * 1024)
}

#[test]
fn a_process_that_locks_all_its_memory_takes_none_for_an_empty_queue() {
    let home = Home::new("locked");
    for size in ["small", "large"] {
        run("lock_memory", &[home.path(), size]);
    }
}

// --- memory cgroups ---

/// A cgroup of this test's own with a limit of memory, if this process may make one.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mut tops = mounts.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let top = PathBuf::from(mount.split(' ').nth(4)?);
            if file_system.starts_with("cgroup ") && file_system.ends_with("memory") {
                return Some((top, "memory.limit_in_bytes"));
            }
            let enabled = fs::read_to_string(top.join("cgroup.subtree_control")).unwrap_or_default();
            enabled.split_whitespace().any(|controller| controller == "memory").then_some((top, "memory.max"))
        });
        let (top, file) = tops.next_back().ok_or(io::Error::other("no memory cgroups are mounted"))?;
        let group = Self(top.join(format!("gimmal-t-limits-{}", std::process::id())));
        fs::create_dir(&group.0)?;
        fs::write(group.0.join(file), limit.to_string())?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn live_in_a_cgroup(context: &Context) -> Outcome {
    die_with_parent();
    let options = options(context);
    let group = Path::new(&context.args()[1]);
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())?;

    let error = options.clone().size(200 << 20).create("large").expect_err("it has 64 MiB");
    says(&error, &["cgroup", group.to_str().unwrap(), "docker run --memory"]);
    assert!(
        matches!(&error, Error::NoSpace { shortage: Shortage::Cgroup { path, .. }, .. } if path == group),
        "{error:?}"
    );
    let error = options.clone().size(200 << 20).anonymous().expect_err("it has 64 MiB");
    assert!(matches!(&error, Error::NoSpace { shortage: Shortage::Cgroup { .. }, .. }), "{error:?}");

    let room = options.room()?;
    assert!(matches!(&room.bound, Shortage::Cgroup { path, .. } if path == group) && room.bytes < 64 * MIB, "{room:?}");

    let segment = options.create("s")?;
    let queue = QueueOptions::new().unbounded(1 << 30).create::<[u64; 127]>(&segment, "queue")?;
    let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    for _ in 0..3 {
        let mut sent = 0;
        while sender.try_send([sent; 127]).map_err(|e| says(e, &["memory cgroup", "gimmal doctor"])).is_ok() {
            sent += 1;
        }
        assert!(matches!(sender.try_send([0; 127]), Err(TrySendError::NoSpace(_))));
        assert!(matches!(sender.send([0; 127]), Err(SendError::NoSpace(_))));
        assert!((30 * MIB..64 * MIB).contains(&(sent << 10)), "{sent} messages of 1 KiB");
        assert!((0..sent).all(|n| receiver.try_recv() == Ok([n; 127])));
    }
    Ok(())
}

#[test]
fn the_end_of_a_cgroups_memory_is_an_error_and_no_kill() {
    let group = match Group::new(64 * MIB) {
        Ok(group) => group,
        // Then only the unit tests of `sys::cgroup`, on files that look like such groups, say something.
        Err(e) => return eprintln!("no memory cgroup of its own: {e}: not tested"),
    };
    let home = Home::new("cgroup");
    run("live_in_a_cgroup", &[home.path(), group.0.to_str().unwrap()]);
}

// --- read-only ---

fn use_what_is_read_only(context: &Context) -> Outcome {
    die_with_parent();
    let target = std::ffi::CString::new(context.args()[0].to_str().unwrap())?;
    let mount = |target: &std::ffi::CStr, flags: libc::c_ulong| {
        // SAFETY: all arguments are strings that outlive the call, or null where the kernel reads none.
        let result =
            unsafe { libc::mount(c"none".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), flags, std::ptr::null()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let private = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        mount(c"/", libc::MS_REC | libc::MS_PRIVATE)?;
        mount(&target, 0)
    };
    if let Err(e) = private() {
        eprintln!("no tmpfs of its own: {e}: not tested");
        return Ok(());
    }
    let options = options(context);
    drop(options.clone().persist(true).create("there")?);
    mount(&target, libc::MS_REMOUNT | libc::MS_RDONLY)?;
    let read_only = |result: Result<(), Error>| {
        let error = result.expect_err("nothing can be written");
        says(&error, &[context.args()[0].to_str().unwrap(), "read-only", "GIMMAL_DIR"]);
        assert!(matches!(error, Error::ReadOnly { .. }), "{error:?}");
    };
    read_only(options.create("new").map(drop));
    read_only(options.open("there").map(drop));
    read_only(options.open_or_create("there").map(drop));
    read_only(options.open_or_create("new").map(drop));
    read_only(options.clone().replace(true).create("there").map(drop));
    read_only(options.unlink("there"));
    assert_eq!(options.inspect("there")?.participants.len(), 0);
    assert_eq!(options.clean()?, [""; 0]);
    Ok(())
}

#[test]
fn a_read_only_file_system_is_called_one() {
    let home = Home::new("read-only");
    run("use_what_is_read_only", &[home.path()]);
}
