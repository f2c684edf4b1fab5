//! What every operation under test shares: how it is set up, and what must hold whenever its process was killed.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use gimmal::{Error, Recovered, Segment, SegmentOptions, Value};
use nix::unistd::Pid;

/// How many participants fit: survivor, victim, and whoever died before.
pub const PARTICIPANTS: u16 = 4;
/// How long victims sleep, at most: longer than one that is stepped takes to fall asleep, and too short to look for the dead.
pub const NAP: Duration = Duration::from_millis(60);
/// By when whoever was woken must have noticed; sleepers look by themselves every 100 ms.
pub const PROMPT: Duration = Duration::from_millis(50);
/// By when everything else must have happened.
pub const LONG: Duration = Duration::from_secs(10);

/// What is wrong.
#[derive(Debug)]
pub enum Fault {
    Wrong(String),
    /// It took too long, which may be the machine's fault: worth a second look.
    Late(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Wrong(text) | Self::Late(text)) = self;
        f.write_str(text)
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self::Wrong(text)
    }
}

/// How far the operation has come, as far as others can see: 0 is not at all.
pub type Stage = usize;

/// One operation on objects in some state.
pub trait Scene {
    /// What the survivor holds.
    type Ends;

    fn options(&self) -> SegmentOptions {
        small()
    }

    /// The last stage.
    fn last(&self) -> Stage;

    /// Whether the segment's bytes are all there is, so that a copy of them can be judged.
    fn has_snapshots(&self) -> bool {
        true
    }

    /// Whether victims are to be killed wherever the segment's bytes change.
    fn is_watched(&self) -> bool {
        self.has_snapshots()
    }

    /// Whether the segment must have a name.
    fn needs_name(&self) -> bool {
        false
    }

    /// Whether the victim sleeps in the operation, for a limited time: no two runs are alike.
    fn is_sleepy(&self) -> bool {
        false
    }

    /// Makes the objects, brings them into their state, and keeps what the survivor needs.
    fn build(&self, segment: &Segment) -> Self::Ends;

    /// The same in a copy of the segment, all of whose participants are dead.
    fn reopen(&self, segment: &Segment) -> Result<Self::Ends, String>;

    /// In the victim: gets ready. What is returned is the operation.
    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a Self::Ends) -> Box<dyn FnOnce() + 'a>;

    /// Whether it takes hundreds of thousands of instructions if it is not optimized. A short sweep steps through a part of
    /// them only then.
    fn is_long(&self) -> bool {
        false
    }

    /// Whether the survivor's sentinel must learn of the death, and repair, by itself.
    fn is_told(&self) -> bool {
        false
    }

    /// Whether the operation is stepped only from where the victim has slept on: it sleeps when `begin` is called, which
    /// wakes it.
    fn falls_asleep(&self) -> bool {
        false
    }

    /// In the survivor, when the victim stands in front of the operation.
    fn begin(&self, _: &Segment, _: &mut Self::Ends, _: Pid) {}

    /// In the survivor, when the operation is over and the victim still lives.
    fn finished(&self, _: &Segment, _: &mut Self::Ends) -> Result<(), Fault> {
        Ok(())
    }

    /// In the survivor, when the victim is dead and nobody has repaired: nobody waits for the dead.
    fn unrepaired(&self, _: &mut Self::Ends) -> Result<(), Fault> {
        Ok(())
    }

    /// The account, after repair: which stage the survivor sees. `live`: not in a copy.
    fn check(&self, segment: &Segment, ends: Self::Ends, live: bool) -> Result<Stage, Fault>;
}

/// A segment as small as can be, without sentinels: who repairs is decided here.
pub fn small() -> SegmentOptions {
    Segment::options().size(12 << 10).max_participants(PARTICIPANTS).max_objects(8).sentinel(false)
}

fn prefix() -> String {
    format!("sweep-{}-", std::process::id())
}

/// The name of a segment that is removed at the end, whatever happens.
pub struct Name(pub String);

impl Name {
    pub fn fresh() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self(format!("{}{:07}", prefix(), COUNT.fetch_add(1, Relaxed)))
    }

    pub fn path(&self) -> String {
        format!("/dev/shm/gimmal.{}", self.0)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
    }
}

/// Removes what this sweep, and those before it that were killed, have left.
pub fn remove_leftovers() {
    let Ok(files) = std::fs::read_dir("/dev/shm") else { return };
    for file in files.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("gimmal.sweep-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| pid == std::process::id() || state(&pid.to_string()).is_none()) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

/// `Err` unless they are the same.
pub fn same<T: PartialEq + Debug>(what: &str, expected: T, found: T) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}")) }
}

/// The error as a text that says when it came up.
pub fn on<T, E: Debug>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e:?}"))
}

/// Which of the `stages` this is.
pub fn stage_of<T: PartialEq + Debug>(stages: &[T], found: &T) -> Result<Stage, String> {
    let stage = stages.iter().position(|stage| stage == found);
    stage.ok_or_else(|| format!("expected one of {stages:?}, found {found:?}"))
}

/// Waits until `condition` holds.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return Err(format!("{what}: not within {limit:?}"));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// The letter for what a thread or process does: `S` if it waits in the kernel, `t` if its tracer has stopped it.
pub fn state(of: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Repairs, once, and makes sure that nobody but us is left. If another thread of this process was repairing at that
/// moment, it is given the time to end.
pub fn recover(segment: &Segment) -> Result<(), String> {
    on("recover", segment.recover())?;
    let repaired = until("the dead are repaired after", LONG, || alone(segment).is_ok());
    repaired.map_err(|late| format!("{late}: {}", alone(segment).err().unwrap_or_default()))
}

/// Waits until the sentinel has repaired. Nobody else does: without it nothing would look at the leases here.
pub fn told(segment: &Segment) -> Result<(), String> {
    until("the sentinel is told of the death", LONG, || alone(segment).is_ok())
}

/// Whether we are the only participant, alive or dead.
pub fn alone(segment: &Segment) -> Result<(), String> {
    let participants = on("snapshot", segment.snapshot())?.participants;
    match participants.as_slice() {
        [only] if only.pid == std::process::id() && only.alive => Ok(()),
        others => Err(format!("expected nobody but us in the segment, found {others:?}")),
    }
}

/// What must hold in the end, whatever the operation was: everything that a segment is made of can be had.
pub fn nothing_leaks(segment: &Segment) -> Result<(), String> {
    let again = on("recover again", segment.recover())?;
    same("a second repair", Recovered::default(), again)?;
    let value = on("create one more object", Value::<u64>::create(segment, "one-more", 7))?;
    same("the new object", 7, value.load(Relaxed))?;
    let join = || match segment.name() {
        Some(name) => small().open(name),
        None => Segment::from_fd(segment),
    };
    let others = (1..PARTICIPANTS).map(|_| join()).collect::<Result<Vec<_>, _>>();
    let others = on("take every participant id", others)?;
    match join() {
        Err(Error::NoParticipantSlot { maximum: PARTICIPANTS }) => {}
        other => return Err(format!("one participant too many: {other:?}")),
    }
    drop(others);
    alone(segment)
}
