//! What the system sets limits to: where a limit is met there is an error that names it, and neither a signal nor a kill.

mod support;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::{fs, io};

use gimmal::process::{self, Context, Entry, Outcome};
use gimmal::{QueueOptions, Segment, SegmentOptions};
use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::stat::fstat;
use support::{die_with_parent, join_well};

const ENTRIES: [Entry; 1] = gimmal::entries![lock_memory];

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

/// Bytes of memory that the segment's file has.
fn memory(segment: &Segment) -> u64 {
    fstat(segment.as_fd()).unwrap().st_blocks as u64 * 512
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
        says(error, &["could not map"]);
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
