//! Joining, leaving, creating objects and whole segments, and repair itself.

use std::mem::forget;
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use gimmal::{Error, Latest, Lock, LockError, Queue, Segment, SegmentOptions, SpscQueue, Value};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::memory::{Memory, READING, WRITING};
use super::queues::{CAPACITY, EMPTY, Ends, MIDDLE, Message, NEW, STRIDE, message};
use super::scene::{Fault, Name, Scene, Stage, on, same, small, stage_of};
use super::trace::exit_now;

fn join(segment: &Segment) -> Segment {
    small().open(segment.name().expect("these segments have names")).expect("join")
}

/// Runs `act` in a process that ends without leaving its segments.
pub fn in_corpse(act: impl FnOnce()) -> Pid {
    // SAFETY: the child uses the C library's allocator, which is fork-safe, and no lock of this program's other threads.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "a process that was to die");
            child
        }
        ForkResult::Child => {
            act();
            exit_now(0)
        }
    }
}

/// Joining and leaving beside a queue that nothing of this may touch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// A handle from before the fork is used; the ends that came with it are announced.
    FirstUse,
    Open,
    Leave,
    /// With ends.
    LeaveAll,
}

impl Scene for Life {
    type Ends = Ends;

    fn is_long(&self) -> bool {
        true
    }

    fn last(&self) -> Stage {
        0
    }

    fn needs_name(&self) -> bool {
        true
    }

    fn build(&self, segment: &Segment) -> Ends {
        Ends::create(segment, &MIDDLE)
    }

    fn reopen(&self, segment: &Segment) -> Result<Ends, String> {
        Ends::open(segment)
    }

    fn ready<'a>(&'a self, segment: &'a Segment, _: &'a Ends) -> Box<dyn FnOnce() + 'a> {
        match self {
            Self::FirstUse => Box::new(|| drop(segment.peers())),
            Self::Open => Box::new(|| forget(join(segment))),
            Self::Leave => {
                let other = join(segment);
                Box::new(move || drop(other))
            }
            Self::LeaveAll => {
                let other = join(segment);
                let ends = Ends::open(&other).expect("ends");
                Box::new(move || drop((ends, other)))
            }
        }
    }

    fn check(&self, _: &Segment, ends: Ends, _: bool) -> Result<Stage, Fault> {
        same("the messages", (MIDDLE.content(), false), ends.drain()?)?;
        ends.settle(false)?;
        Ok(0)
    }
}

/// Joining and leaving, or receiving, with sentinels: whoever dies on the way, the survivor's is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Told {
    FirstUse,
    Open,
    Leave,
    Receive,
}

impl Told {
    fn join(segment: &Segment) -> Segment {
        small().sentinel(true).open(segment.name().expect("these segments have names")).expect("join")
    }
}

impl Scene for Told {
    type Ends = Ends;

    fn options(&self) -> SegmentOptions {
        small().sentinel(true)
    }

    fn is_told(&self) -> bool {
        true
    }

    fn last(&self) -> Stage {
        usize::from(*self == Self::Receive)
    }

    fn needs_name(&self) -> bool {
        true
    }

    fn build(&self, segment: &Segment) -> Ends {
        Ends::create(segment, &MIDDLE)
    }

    fn reopen(&self, segment: &Segment) -> Result<Ends, String> {
        Ends::open(segment)
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a Ends) -> Box<dyn FnOnce() + 'a> {
        // The victim's own sentinel runs already.
        let _elsewhere = small().sentinel(true).anonymous().expect("a segment");
        match self {
            Self::FirstUse => Box::new(|| drop(segment.peers())),
            Self::Open => Box::new(|| forget(Self::join(segment))),
            Self::Leave => {
                let other = Self::join(segment);
                Box::new(move || drop(other))
            }
            Self::Receive => {
                segment.recover().expect("join");
                Box::new(|| _ = ends.receiver.try_recv())
            }
        }
    }

    fn check(&self, _: &Segment, ends: Ends, _: bool) -> Result<Stage, Fault> {
        let stages = [MIDDLE.content(), MIDDLE.content()[1..].to_vec()].map(|content| (content, false));
        let stage = stage_of(&stages, &ends.drain()?)?;
        ends.settle(false)?;
        Ok(stage)
    }
}

/// Creating one object beside another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Create {
    Queue,
    Value,
    Lock,
    Latest,
}

impl Create {
    fn create(self, segment: &Segment) -> Result<(), Error> {
        match self {
            Self::Queue => Queue::<Message>::create(segment, "new", CAPACITY as usize).map(drop),
            Self::Value => Value::<u64>::create(segment, "new", NEW).map(drop),
            Self::Lock => Lock::<Message>::create(segment, "new", message(NEW)).map(drop),
            Self::Latest => Latest::<Message>::create(segment, "new", message(NEW)).map(drop),
        }
    }

    /// Whether it is there, whole.
    fn is_there(self, segment: &Segment) -> Result<bool, String> {
        let there = match self {
            Self::Queue => match Queue::<Message>::open(segment, "new") {
                Ok(queue) => same("its capacity and length", (CAPACITY as usize, 0), (queue.capacity(), queue.len())),
                Err(Error::NotFound { .. }) => return Ok(false),
                Err(e) => Err(format!("{e:?}")),
            },
            Self::Value => match Value::<u64>::open(segment, "new") {
                Ok(value) => same("its value", NEW, value.load(Relaxed)),
                Err(Error::NotFound { .. }) => return Ok(false),
                Err(e) => Err(format!("{e:?}")),
            },
            Self::Lock => match Lock::<Message>::open(segment, "new") {
                Ok(lock) => same("what it protects", message(NEW), *on("lock", lock.try_lock())?),
                Err(Error::NotFound { .. }) => return Ok(false),
                Err(e) => Err(format!("{e:?}")),
            },
            Self::Latest => match Latest::<Message>::open(segment, "new") {
                Ok(latest) => same("its value", (message(NEW), 0), (latest.load(), latest.version())),
                Err(Error::NotFound { .. }) => return Ok(false),
                Err(e) => Err(format!("{e:?}")),
            },
        };
        there.map(|()| true)
    }
}

impl Scene for Create {
    type Ends = Ends;

    fn last(&self) -> Stage {
        1
    }

    fn build(&self, segment: &Segment) -> Ends {
        Ends::create(segment, &MIDDLE)
    }

    fn reopen(&self, segment: &Segment) -> Result<Ends, String> {
        Ends::open(segment)
    }

    fn ready<'a>(&'a self, segment: &'a Segment, _: &'a Ends) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        Box::new(|| self.create(segment).expect("room"))
    }

    fn check(&self, segment: &Segment, ends: Ends, _: bool) -> Result<Stage, Fault> {
        let there = self.is_there(segment)?;
        match self.create(segment) {
            Ok(()) if !there => {}
            Err(Error::Exists { .. }) if there => {}
            other => return Err(format!("create it, when it is there: {there}: {other:?}").into()),
        }
        same("the survivor's is there, whole", true, self.is_there(segment)?)?;
        same("the other object's messages", (MIDDLE.content(), false), ends.drain()?)?;
        ends.settle(false)?;
        Ok(usize::from(there))
    }
}

/// Repair after somebody who died while it was sending and receiving, held a lock and sat in a seat.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    Recover,
    /// Whoever joins repairs.
    Open,
}

pub struct Estate {
    ends: Ends,
    spsc: SpscQueue<u64>,
    lock: Lock<u64>,
    corpse: Option<Pid>,
}

impl Estate {
    fn open(segment: &Segment) -> Result<Self, String> {
        let ends = Ends::open(segment)?;
        let (spsc, lock) = (on("open", SpscQueue::open(segment, "spsc"))?, on("open", Lock::open(segment, "lock"))?);
        Ok(Self { ends, spsc, lock, corpse: None })
    }
}

impl Scene for Repair {
    type Ends = Estate;

    fn is_long(&self) -> bool {
        *self == Self::Open
    }

    fn last(&self) -> Stage {
        0
    }

    fn needs_name(&self) -> bool {
        *self == Self::Open
    }

    fn build(&self, segment: &Segment) -> Estate {
        let ends = Ends::create(segment, &MIDDLE);
        let spsc = SpscQueue::<u64>::create(segment, "spsc", 4).expect("a queue");
        Estate { ends, spsc, lock: Lock::create(segment, "lock", 0).expect("a lock"), corpse: None }
    }

    fn reopen(&self, segment: &Segment) -> Result<Estate, String> {
        Estate::open(segment)
    }

    fn ready<'a>(&'a self, segment: &'a Segment, _: &'a Estate) -> Box<dyn FnOnce() + 'a> {
        match self {
            Self::Recover => {
                segment.recover().expect("join");
                Box::new(|| drop(segment.recover()))
            }
            Self::Open => Box::new(|| forget(join(segment))),
        }
    }

    fn begin(&self, segment: &Segment, estate: &mut Estate, _: Pid) {
        let corpse = in_corpse(|| {
            forget(estate.lock.lock().expect("free"));
            forget(estate.spsc.sender().expect("free"));
        });
        let participants = segment.snapshot().expect("a snapshot").participants;
        let Some(dead) = participants.iter().find(|p| p.pid == corpse.as_raw() as u32) else { return };
        // As if it had been receiving the oldest message, and sending one behind the newest.
        let memory = Memory::of(segment);
        let [oldest, behind] = [MIDDLE.passed, MIDDLE.passed + MIDDLE.held];
        memory.slot(0, oldest as usize, STRIDE).store(READING | u64::from(dead.id), SeqCst);
        memory.slot(0, behind as usize, STRIDE).store(WRITING | u64::from(dead.id), SeqCst);
        estate.corpse = Some(corpse);
    }

    fn check(&self, segment: &Segment, estate: Estate, _: bool) -> Result<Stage, Fault> {
        let Estate { ends, spsc, lock, corpse } = estate;
        same("the messages", (MIDDLE.content(), false), ends.drain()?)?;
        ends.settle(false)?;
        let mut receiver = on("the receiver's seat", spsc.receiver())?;
        same("what the receiver is told", true, receiver.try_recv().is_err_and(|e| e.is_disconnected()))?;
        on("the seat of the dead", spsc.sender())?;
        match lock.try_lock() {
            Err(LockError::OwnerDied { pid, .. }) if corpse.is_none_or(|corpse| corpse.as_raw() as u32 == pid) => {}
            other => return Err(format!("the lock of the dead: {other:?}").into()),
        }
        drop(on("the lock, once more", lock.try_lock())?);
        Ok(on("an object", Value::<u64>::create(segment, "another", 1)).map(|_| 0)?)
    }
}

/// What happens to names. The segment the others use is not touched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    Create,
    CreateToStay,
    /// Stages: the old one, none, the new one.
    Replace,
    LastLeaves,
    /// Opening one whose participants are all dead removes it.
    OpenAbandoned,
    /// Somebody who may not remove that makes a new one of its file.
    TakeOver,
    /// One that persists.
    TakeOverToStay,
    /// The last one, who may not remove the name, leaves.
    LastOfStrangersLeaves,
}

/// Nobody owns less: what such a user may do in /dev/shm, which is sticky.
fn become_user(id: u32) {
    nix::unistd::setuid(id.into()).expect("only root can become somebody else");
}

fn shared() -> SegmentOptions {
    small().mode(0o666)
}

/// What a user finds who may not remove the name: the new one, or nothing that keeps him from making another in the
/// same file.
fn as_a_stranger(name: &str) -> Result<Found, String> {
    // SAFETY: as in `in_corpse`.
    let child = match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            become_user(1103);
            let code = match shared().open(name) {
                Ok(segment) => i32::from(Value::<u64>::open(&segment, "old").is_ok()),
                Err(Error::NotFound { .. }) => match shared().open_or_create(name) {
                    Ok(segment) if segment.snapshot().is_ok_and(|s| s.objects.is_empty()) => {
                        match Value::<u64>::create(&segment, "n", 1) {
                            Ok(_) => 2,
                            Err(_) => 3,
                        }
                    }
                    _ => 4,
                },
                Err(_) => 5,
            };
            exit_now(code)
        }
    };
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, 0)) => Ok(Found::New),
        Ok(WaitStatus::Exited(_, 2)) => Ok(Found::Nothing),
        other => Err(format!("a stranger who comes after that: {other:?}")),
    }
}

pub struct Named {
    name: Name,
    old: Option<(Segment, Value<u64>)>,
}

impl Naming {
    fn stages(self) -> &'static [Found] {
        match self {
            Self::CreateToStay | Self::TakeOverToStay => &[Found::Nothing, Found::New],
            Self::Replace => &[Found::Old, Found::Nothing, Found::New],
            _ => &[Found::Nothing],
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Old,
    New,
}

fn look(name: &str) -> Result<Found, String> {
    match small().open(name) {
        Err(Error::NotFound { .. }) => Ok(Found::Nothing),
        Err(e) => Err(format!("open: {e:?}")),
        Ok(segment) => match Value::<u64>::open(&segment, "old") {
            Ok(_) => Ok(Found::Old),
            Err(_) => {
                on("an object in the new segment", Value::<u64>::open_or_create(&segment, "n", 1)).map(|_| Found::New)
            }
        },
    }
}

impl Scene for Naming {
    type Ends = Named;

    fn is_long(&self) -> bool {
        true
    }

    fn last(&self) -> Stage {
        self.stages().len() - 1
    }

    fn has_snapshots(&self) -> bool {
        false
    }

    fn build(&self, _: &Segment) -> Named {
        let name = Name::fresh();
        let old = (*self == Self::Replace).then(|| {
            let old = small().create(&name.0).expect("a segment");
            let value = Value::create(&old, "old", 1).expect("a value");
            (old, value)
        });
        if *self == Self::OpenAbandoned {
            in_corpse(|| forget(small().create(&name.0).expect("a segment")));
        }
        if matches!(self, Self::TakeOver | Self::TakeOverToStay) {
            in_corpse(|| {
                become_user(1101);
                let dead = shared().create(&name.0).expect("a segment");
                Value::create(&dead, "old", 1_u64).expect("a value");
                forget(dead);
            });
        }
        Named { name, old }
    }

    fn reopen(&self, _: &Segment) -> Result<Named, String> {
        Err("these have no snapshots".to_owned())
    }

    fn ready<'a>(&'a self, _: &'a Segment, ends: &'a Named) -> Box<dyn FnOnce() + 'a> {
        let name = &ends.name.0;
        let stay = || small().persist(true);
        match self {
            Self::Create => Box::new(|| forget(small().create(name).expect("a segment"))),
            Self::CreateToStay => Box::new(move || forget(stay().create(name).expect("a segment"))),
            Self::Replace => Box::new(move || forget(stay().replace(true).create(name).expect("a segment"))),
            Self::LastLeaves => {
                let segment = small().create(name).expect("a segment");
                Box::new(move || drop(segment))
            }
            Self::OpenAbandoned => Box::new(|| assert!(matches!(small().open(name), Err(Error::NotFound { .. })))),
            Self::TakeOver | Self::TakeOverToStay => {
                become_user(1102);
                let options = shared().persist(*self == Self::TakeOverToStay);
                Box::new(move || forget(options.open_or_create(name).expect("a segment")))
            }
            Self::LastOfStrangersLeaves => {
                let path = ends.name.path();
                let segment = shared().create(name).expect("a segment");
                std::os::unix::fs::chown(&path, Some(1101), None).expect("chown");
                become_user(1102);
                Box::new(move || drop(segment))
            }
        }
    }

    fn check(&self, _: &Segment, ends: Named, _: bool) -> Result<Stage, Fault> {
        let Named { name, old } = ends;
        let found = match self {
            Self::TakeOver | Self::TakeOverToStay | Self::LastOfStrangersLeaves => as_a_stranger(&name.0)?,
            _ => look(&name.0)?,
        };
        let stage = stage_of(self.stages(), &found)?;
        if let Some((_, value)) = &old {
            same("a value in the old segment", 1, value.load(Relaxed))?;
        }
        drop(old);
        if self.stages()[stage] == Found::New {
            same("a new one that stays", Found::New, look(&name.0)?)?;
            on("unlink", Segment::unlink(&name.0))?;
        }
        if matches!(self, Self::TakeOver | Self::LastOfStrangersLeaves) || found == Found::Nothing {
            // Root may.
            same("whether it is dead", Found::Nothing, look(&name.0)?)?;
        }
        same("the name is free", false, Path::new(&name.path()).exists())?;
        let segment = on("create it anew", small().create(&name.0))?;
        Ends::create(&segment, &EMPTY).settle(false)?;
        drop(segment);
        Ok(same("the name is gone with the last", false, Path::new(&name.path()).exists()).map(|()| stage)?)
    }
}
