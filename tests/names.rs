//! What names lead to: never two segments of one name, never none for the living, and none that the dead keep from
//! anybody who may write to what they have left.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::thread;

use gimmal::process::{self, Context, Entry, Outcome};
use gimmal::{Error, Queue, Segment, SegmentOptions, Value};
use nix::libc;
use nix::sys::signal::{Signal, raise};
use support::{CHILD, LONG, die_with_parent, failed, until};

const ENTRIES: [Entry; 3] = gimmal::entries![visit, try_private, look_around];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

/// A directory as /dev/shm is: anybody may make files there, and only their owners remove them.
struct Home(PathBuf);

impl Home {
    fn new(case: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/t-names-{}-{case}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).unwrap();
        Self(path)
    }

    fn options(&self) -> SegmentOptions {
        Segment::options().directory(&self.0).size(64 << 10).mode(0o666)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.join(format!("gimmal.{name}"))
    }

    fn inode(&self, name: &str) -> Option<u64> {
        fs::symlink_metadata(self.file(name)).ok().map(|file| file.ino())
    }

    /// Starts `entry` as a user who owns nothing yet.
    fn start(&self, user: u32, entry: &str, arguments: &[&str]) -> Guest {
        process::init(&ENTRIES);
        let mut command = Command::new("/proc/self/exe");
        command.args(CHILD).args(["--gimmal-process", entry, entry, ""]).arg(&self.0).args(arguments);
        command.env("GIMMAL_PROCESS", "").env("GIMMAL_SENTINEL", "off").stdin(Stdio::piped()).stdout(Stdio::piped());
        Guest(command.uid(user).gid(user).spawn().unwrap())
    }

    /// What somebody leaves who was killed: a segment of user 1101, with a value in it.
    fn leave_behind(&self, name: &str, options: &[&str]) {
        let mut guest = self.start(1101, "visit", &[&["die", name], options].concat());
        assert_eq!(guest.0.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(self.file(name).exists(), "the dead remove nothing");
    }
}

impl Deref for Home {
    type Target = PathBuf;
    fn deref(&self) -> &PathBuf {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A process, which is killed if the test ends before.
struct Guest(Child);

impl Guest {
    /// Waits until it says that it has come so far.
    fn has_come(&mut self) {
        let mut seen = Vec::new();
        let mut byte = [0];
        // The test runner's own lines come first.
        while !seen.ends_with(b"here\n") {
            let read = self.0.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(read, 1, "it ended: {}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
    }

    /// Lets it go on.
    fn may_go(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    }

    #[track_caller]
    fn ends_well(&mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn say_here() {
    println!("here");
    std::io::stdout().flush().unwrap();
}

fn wait_for_leave_to_go() {
    std::io::stdin().read_exact(&mut [0]).unwrap();
}

fn options_of(context: &Context) -> SegmentOptions {
    let options = Segment::options().directory(&context.args()[0]).size(64 << 10).mode(0o666);
    context.args()[3..].iter().fold(options, |options, option| match option.to_str().unwrap() {
        "private" => options.mode(0o600),
        "persist" => options.persist(true),
        "large" => options.size(256 << 10),
        "small" => options.size(16 << 10).max_participants(8),
        other => panic!("{other}?"),
    })
}

/// Comes by name, counts, and then leaves, stays, dies, or waits for others.
fn visit(context: &Context) -> Outcome {
    die_with_parent();
    let (how, name) = (context.arg(1).ok_or("how")?, context.arg(2).ok_or("a name")?);
    let segment = options_of(context).open_or_create(name)?;
    let count = Value::<u32>::open_or_create(&segment, "count", 0)?;
    count.fetch_add(1, AcqRel);
    count.notify_all();
    match how {
        "leave" => {}
        "die" => raise(Signal::SIGKILL)?,
        // Leaves a child that does nothing.
        // SAFETY: this process has one thread.
        "fork" => match unsafe { nix::unistd::fork() }? {
            nix::unistd::ForkResult::Child => {
                wait_for_leave_to_go();
                // SAFETY: ends the process, without destructors.
                unsafe { libc::_exit(0) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                say_here();
                println!("{child}");
                std::io::stdout().flush()?;
                raise(Signal::SIGKILL)?;
            }
        },
        "stay" => {
            say_here();
            wait_for_leave_to_go();
        }
        // Until all of so many are in the same segment.
        all => {
            let all: u32 = all.parse()?;
            let waited = count.wait_while_timeout(LONG, |count| count < all);
            if waited.is_err() || segment.peers().len() > all as usize {
                return Err(failed(format!("{} of {all} have come", count.load(Relaxed))));
            }
            // Nobody leaves before all have come.
            say_here();
            wait_for_leave_to_go();
        }
    }
    Ok(())
}

// --- what the dead leave to others ---

#[test]
fn a_last_one_who_may_not_remove_the_name_leaves_it_to_the_next_and_no_memory() {
    let home = Home::new("last");
    let mut first = home.start(1101, "visit", &["stay", "s"]);
    first.has_come();
    let mut second = home.start(1102, "visit", &["stay", "s"]);
    second.has_come();
    first.may_go();
    first.ends_well();
    second.may_go();
    second.ends_well();
    let left = fs::metadata(home.file("s")).unwrap();
    assert_eq!((left.uid(), left.len()), (1101, 64 << 10), "nobody but 1101 could remove it");
    assert!(left.blocks() * 512 <= 4096, "{} blocks", left.blocks());
    let mut third = home.start(1103, "visit", &["stay", "s"]);
    third.has_come();
    let segment = home.options().open("s").unwrap();
    assert_eq!(Value::<u32>::open(&segment, "count").unwrap().load(Relaxed), 1, "a fresh one");
    assert_eq!(segment.peers().len(), 2);
    drop(segment);
    third.may_go();
    third.ends_well();
}

#[test]
fn what_the_dead_left_is_taken_over_by_anybody_who_may_write_there() {
    let home = Home::new("killed");
    for options in [&[][..], &["large"], &["small"], &["persist"]] {
        home.leave_behind("s", &[]);
        let inode = home.inode("s");
        let mut heir = home.start(1102, "visit", &[&["stay", "s"], options].concat());
        heir.has_come();
        assert_eq!(home.inode("s"), inode, "nobody but its owner could have removed it");
        let segment = home.options().open("s").unwrap();
        let size = if options == ["large"] {
            256
        } else if options == ["small"] {
            16
        } else {
            64
        };
        assert_eq!((segment.size(), segment.persists()), (size << 10, options == ["persist"]));
        assert_eq!(Value::<u32>::open(&segment, "count").unwrap().load(Relaxed), 1);
        assert_eq!(segment.snapshot().unwrap().objects.len(), 1);
        let queue = Queue::<u64>::create(&segment, "queue", 16).unwrap();
        queue.sender().unwrap().send(5).unwrap();
        assert_eq!(queue.receiver().unwrap().recv(), Ok(5));
        assert!(fs::metadata(home.file("s")).unwrap().len() >= segment.size() as u64);
        drop((queue, segment));
        heir.may_go();
        heir.ends_well();
        home.options().unlink("s").unwrap();
    }
}

#[test]
fn many_who_come_at_once_to_what_the_dead_left_meet_in_one_segment() {
    let home = Home::new("together");
    for _ in 0..5 {
        home.leave_behind("s", &[]);
        let mut guests: Vec<Guest> = (1102..1108).map(|user| home.start(user, "visit", &["6", "s"])).collect();
        guests.iter_mut().for_each(Guest::has_come);
        guests.iter_mut().for_each(Guest::may_go);
        guests.iter_mut().for_each(Guest::ends_well);
        home.options().unlink("s").unwrap();
    }
}

/// Somebody who asks for a segment of his own does not get one that others may write to.
fn try_private(context: &Context) -> Outcome {
    die_with_parent();
    let options = options_of(context);
    let private = options.clone().mode(0o600);
    assert!(matches!(options.open("s"), Err(Error::NotFound { .. })));
    for tried in [private.create("s"), private.open_or_create("s"), private.clone().replace(true).create("s")] {
        let error = tried.unwrap_err();
        let text = error.to_string();
        assert!(["user 1101", "0o666", "gimmal.s"].iter().all(|word| text.contains(word)), "{text}");
    }
    assert_eq!(options.clean()?, [""; 0], "what is still there was not removed");
    let error = options.unlink("s").unwrap_err().to_string();
    assert!(["user 1101", "root", "gimmal.s"].iter().all(|word| error.contains(word)), "{error}");
    // All three of these take it over.
    for round in 0..3 {
        let segment = match round {
            0 => options.create("s"),
            1 => options.open_or_create("s"),
            _ => options.clone().replace(true).create("s"),
        };
        assert!(matches!(options.create("s"), Err(Error::Exists { .. })));
        drop(segment?);
    }
    Ok(())
}

#[test]
fn nobody_gets_a_segment_with_another_mode_than_he_asks_for() {
    let home = Home::new("private");
    home.leave_behind("s", &[]);
    home.start(1102, "try_private", &["", "s"]).ends_well();
    assert_eq!(home.options().clean().unwrap(), ["s"], "root may");
    assert_eq!(home.inode("s"), None);
}

/// The child of one who was killed has it mapped still: it may write to a value at any moment.
#[test]
fn what_a_fork_child_of_the_dead_has_mapped_is_not_taken_over() {
    let home = Home::new("mapped");
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let mut dead = home.start(1101, "visit", &["fork", "s"]);
    dead.has_come();
    // Which waiting would close.
    let mut input = dead.0.stdin.take().unwrap();
    assert_eq!(dead.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    let mut pid = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(dead.0.stdout.as_mut().unwrap()), &mut pid).unwrap();
    let refused = home.start(1102, "visit", &["leave", "s"]).0.wait().unwrap();
    assert_eq!(refused.code(), Some(1));
    // Its owner, or root, makes it anew without touching what the child has.
    input.write_all(b"x").unwrap();
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid.trim().parse().unwrap()), None).unwrap();
    home.start(1102, "visit", &["leave", "s"]).ends_well();
}

// --- what cannot be read ---

fn patch(home: &Home, name: &str, at: u64, bytes: &[u8]) {
    File::options().write(true).open(home.file(name)).unwrap().write_all_at(bytes, at).unwrap();
}

/// Another version, another machine, flags and tables that make no sense, and too short for all of it.
fn spoil(home: &Home, name: &str, how: usize) {
    match how {
        0 => patch(home, name, 8, &3_u32.to_le_bytes()),
        1 => patch(home, name, 12, &7_u32.to_le_bytes()),
        2 => patch(home, name, 24, &6_u32.to_le_bytes()),
        3 => patch(home, name, 40, &[0xff; 40]),
        4 => File::options().write(true).open(home.file(name)).unwrap().set_len(4096).unwrap(),
        _ => File::options().write(true).open(home.file(name)).unwrap().set_len(8).unwrap(),
    }
}

#[test]
fn what_the_dead_left_heals_although_it_cannot_be_read() {
    let home = Home::new("unreadable");
    for how in 0..6 {
        let left = || {
            home.leave_behind("s", &[]);
            spoil(&home, "s", how);
        };
        left();
        let listed = home.options().list().unwrap();
        assert!(listed[0].abandoned && !listed[0].used && listed[0].owner == 1101, "{listed:?}");
        assert!(listed[0].snapshot.is_err());
        assert!(matches!(home.options().open("s"), Err(Error::NotFound { .. })), "{how}");
        assert_eq!(home.inode("s"), None, "and its name with it");
        left();
        let segment = home.options().open_or_create("s").unwrap();
        assert_eq!(segment.snapshot().unwrap().objects.len(), 0);
        drop(segment);
        left();
        drop(home.options().create("s").expect("the name is free"));
        left();
        assert_eq!(home.options().clean().unwrap(), ["s"]);
        // By somebody who may not remove it, in place.
        left();
        home.start(1102, "visit", &["leave", "s"]).ends_well();
        home.options().unlink("s").unwrap_or_default();
    }
}

#[test]
fn what_somebody_lives_in_is_refused_with_both_versions_and_stays() {
    let home = Home::new("other-version");
    let mut guest = home.start(1101, "visit", &["stay", "s"]);
    guest.has_come();
    spoil(&home, "s", 0);
    for tried in [home.options().open("s"), home.options().open_or_create("s")] {
        let error = tried.unwrap_err();
        assert!(matches!(error, Error::Version { found: 3, .. }), "{error:?}");
        let (text, ours) = (error.to_string(), format!("speaks {}", 5));
        assert!(["version 3", &ours, "end those", "gimmal rm"].iter().all(|word| text.contains(word)), "{text}");
    }
    assert!(matches!(home.options().create("s"), Err(Error::Exists { .. })));
    assert_eq!(home.options().clean().unwrap(), [""; 0]);
    let listed = home.options().list().unwrap();
    assert!(listed[0].used && !listed[0].abandoned);
    drop(guest);
    assert!(matches!(home.options().open("s"), Err(Error::NotFound { .. })));
}

#[test]
fn what_is_to_stay_stays_although_it_cannot_be_read() {
    let home = Home::new("other-version-persists");
    for how in [0, 1, 3, 4] {
        home.leave_behind("s", &["persist"]);
        spoil(&home, "s", how);
        assert!(home.options().open("s").is_err_and(|e| !matches!(e, Error::NotFound { .. })));
        assert!(home.options().open_or_create("s").is_err());
        assert!(matches!(home.options().create("s"), Err(Error::Exists { .. })));
        assert_eq!(home.options().clean().unwrap(), [""; 0]);
        assert!(!home.options().list().unwrap()[0].abandoned);
        home.options().unlink("s").unwrap();
    }
}

// --- races for a name ---

/// Holds the admission lock of a file, as somebody does who is stopped while he joins or leaves.
fn hold_admission(home: &Home, name: &str) -> File {
    let file = File::options().read(true).write(true).open(home.file(name)).unwrap();
    // SAFETY: all-zero bytes are a valid flock, a plain C struct.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence) = (libc::F_WRLCK as libc::c_short, libc::SEEK_SET as libc::c_short);
    (lock.l_start, lock.l_len) = (1 << 62, 1);
    // SAFETY: the struct outlives the call.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }, 0);
    file
}

/// How many descriptors of a file this process has.
fn descriptors(inode: u64) -> usize {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    entries.filter(|entry| fs::metadata(entry.as_ref().unwrap().path()).is_ok_and(|file| file.ino() == inode)).count()
}

/// Somebody means to remove a name, and waits; meanwhile it comes to lead to another segment. He waits for that one's
/// lock, too.
#[test]
fn a_name_is_removed_only_under_the_lock_of_what_it_leads_to() {
    let home = Home::new("race");
    for replace in [false, true] {
        let old = home.options().create("s").unwrap();
        let (old_inode, old_lock) = (home.inode("s").unwrap(), hold_admission(&home, "s"));
        let open = descriptors(old_inode);
        thread::scope(|scope| {
            let options = home.options().replace(true);
            let remover = scope.spawn(move || match replace {
                false => options.unlink("s").map(|()| None),
                true => options.create("s").map(Some),
            });
            until("the name is about to be removed", || descriptors(old_inode) > open);
            fs::remove_file(home.file("s")).unwrap();
            let new = home.options().create("s").unwrap();
            let (new_inode, new_lock) = (home.inode("s").unwrap(), hold_admission(&home, "s"));
            let open = descriptors(new_inode);
            drop(old_lock);
            until("it looks again", || remover.is_finished() || descriptors(new_inode) > open);
            assert_eq!(home.inode("s"), Some(new_inode), "somebody was joining or leaving");
            drop(new_lock);
            let kept = remover.join().unwrap().unwrap();
            assert_ne!(home.inode("s"), Some(new_inode));
            drop((new, kept));
        });
        drop(old);
        assert_eq!(home.inode("s"), None);
    }
}

// --- looking ---

/// Looks at what somebody else cuts and mends all the time.
fn look_around(context: &Context) -> Outcome {
    die_with_parent();
    let options = options_of(context);
    say_here();
    for _ in 0..3000 {
        let listed = options.list()?;
        assert_eq!(listed.len(), 1);
        let _ = options.inspect("s");
        options.clean()?;
    }
    Ok(())
}

#[test]
fn a_file_that_is_cut_meanwhile_kills_nobody_who_looks() {
    let home = Home::new("cut");
    let segment = home.options().size(1 << 20).persist(true).create("s").unwrap();
    let queue = Queue::<[u64; 8]>::create(&segment, "queue", 4096).unwrap();
    queue.sender().unwrap().send_slice(&[[7; 8]; 64]).unwrap();
    drop((queue, segment));
    let whole = fs::read(home.file("s")).unwrap();
    // A copy, in which nobody can be.
    fs::remove_file(home.file("s")).unwrap();
    fs::write(home.file("s"), &whole).unwrap();
    let mut guest = home.start(0, "look_around", &["", "s"]);
    guest.has_come();
    let file = File::options().write(true).open(home.file("s")).unwrap();
    let mut status = None;
    while status.is_none() {
        file.set_len(512).unwrap();
        file.write_all_at(&whole, 0).unwrap();
        status = guest.0.try_wait().unwrap();
    }
    assert_eq!(status.map(|status| (status.signal(), status.code())), Some((None, Some(0))));
    drop(file);
    home.options().unlink("s").unwrap();
}
