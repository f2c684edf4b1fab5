//! Somebody sleeps while the victim does what should wake them.

use std::mem::forget;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use gimmal::{Doorbell, Lock, LockError, LockGuard, Segment};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, gettid};

use super::queues::{EMPTY, Ends, FULL, NEW, State, message, number};
use super::scene::{Fault, LONG, PROMPT, Scene, Stage, same, stage_of, state, until};

/// What the survivor sends to wake a sleeper that the victim did not.
const HELP: u64 = 700;

/// A thread that blocks in one call.
pub struct Sleeper<R>(JoinHandle<R>);

impl<R: Send + 'static> Sleeper<R> {
    /// Returns when it sleeps.
    pub fn start(call: impl FnOnce() -> R + Send + 'static) -> Self {
        let id = Arc::new(AtomicI32::new(0));
        let told = Arc::clone(&id);
        let thread = std::thread::spawn(move || {
            told.store(gettid().as_raw(), SeqCst);
            call()
        });
        // A thread that waits for a moment on its way looks asleep, too; not three times.
        let mut looks = 0;
        let asleep = until("a thread sleeps", LONG, || {
            looks = if state(&format!("self/task/{}", id.load(SeqCst))) == Some('S') { looks + 1 } else { 0 };
            looks >= 3 || thread.is_finished()
        });
        asleep.expect("a thread that blocks");
        Self(thread)
    }

    pub fn is_awake(&self, limit: Duration) -> Result<(), String> {
        until("a sleeper wakes", limit, || self.0.is_finished())
    }

    pub fn result(self) -> Result<R, String> {
        self.is_awake(LONG)?;
        self.0.join().map_err(|_| "a sleeper panicked".to_owned())
    }
}

/// Which end sleeps, and is woken by the other: the victim, or by the survivor together with the victim, which is killed when
/// the wake that was spent on it could have helped the sleeper.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    Receiver,
    Sender,
    WokenReceiver,
    WokenSender,
}

pub struct WakeEnds {
    ends: Ends,
    /// The message of a receiver.
    sleeper: Option<Sleeper<u64>>,
}

impl Wake {
    fn receives(self) -> bool {
        matches!(self, Self::Receiver | Self::WokenReceiver)
    }

    fn state(self) -> State {
        if self.receives() { EMPTY } else { FULL }
    }

    /// Whether what the sleeper waits for is there.
    fn due(self, ends: &Ends) -> bool {
        if self.receives() { !ends.queue.is_empty() } else { !ends.queue.is_full() }
    }
}

impl Scene for Wake {
    type Ends = WakeEnds;

    fn last(&self) -> Stage {
        1
    }

    fn has_snapshots(&self) -> bool {
        false
    }

    fn build(&self, segment: &Segment) -> WakeEnds {
        WakeEnds { ends: Ends::create(segment, &self.state()), sleeper: None }
    }

    fn reopen(&self, _: &Segment) -> Result<WakeEnds, String> {
        Err("these have no snapshots".to_owned())
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a WakeEnds) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        match self {
            Self::Receiver => Box::new(|| _ = ends.ends.sender.try_send(message(NEW))),
            Self::Sender => Box::new(|| _ = ends.ends.receiver.try_recv()),
            Self::WokenReceiver => Box::new(|| _ = ends.ends.receiver.recv()),
            Self::WokenSender => Box::new(|| _ = ends.ends.sender.send(message(NEW))),
        }
    }

    fn begin(&self, _: &Segment, ends: &mut WakeEnds, _: Pid) {
        let (sender, receiver) = (ends.ends.sender.clone(), ends.ends.receiver.clone());
        let sleeper = match self.receives() {
            true => Sleeper::start(move || {
                drop(sender);
                number(receiver.recv().expect("a message")).expect("a whole message")
            }),
            false => Sleeper::start(move || {
                drop(receiver);
                sender.send(message(HELP)).expect("room");
                HELP
            }),
        };
        ends.sleeper = Some(sleeper);
        match self {
            Self::WokenReceiver => ends.ends.sender.try_send(message(NEW)).expect("room"),
            Self::WokenSender => _ = ends.ends.receiver.try_recv().expect("a message"),
            _ => {}
        }
    }

    fn falls_asleep(&self) -> bool {
        matches!(self, Self::WokenReceiver | Self::WokenSender)
    }

    fn finished(&self, _: &Segment, ends: &mut WakeEnds) -> Result<(), Fault> {
        if self.falls_asleep() {
            return Ok(());
        }
        let sleeper = ends.sleeper.as_ref().expect("it was started");
        sleeper.is_awake(PROMPT).map_err(|e| Fault::Late(format!("the victim has done everything, but {e}")))
    }

    fn check(&self, _: &Segment, ends: WakeEnds, _: bool) -> Result<Stage, Fault> {
        let WakeEnds { ends, sleeper } = ends;
        let sleeper = sleeper.expect("it was started");
        if self.due(&ends) {
            sleeper.is_awake(PROMPT).map_err(|e| Fault::Late(format!("repair should have woken it, but {e}")))?;
        }
        let mut content = Vec::new();
        let helped = sleeper.is_awake(Duration::ZERO).is_err();
        match self.receives() {
            true if helped => ends.sender.try_send(message(HELP)).map_err(|e| format!("{e:?}"))?,
            false if helped => content.push(number(ends.receiver.try_recv().map_err(|e| format!("{e:?}"))?)?),
            _ => {}
        }
        let got = sleeper.result()?;
        let (rest, closed) = ends.drain()?;
        content.extend(rest);
        same("closed", false, closed)?;
        ends.settle(false)?;
        if self.receives() {
            content.insert(0, got);
        }
        let full = FULL.content();
        let stages = match (self, helped) {
            // The victim has sent the message, or not.
            (Self::Receiver, true) => [vec![HELP], vec![NEW, HELP]],
            (Self::Receiver, false) => [vec![], vec![NEW]],
            // The victim has received the message, or not.
            (Self::WokenReceiver, true) => [vec![NEW, HELP], vec![HELP]],
            (Self::WokenReceiver, false) => [vec![NEW], vec![]],
            (Self::Sender, _) => [[&full[..], &[HELP]].concat(), [&full[1..], &[HELP]].concat()],
            (Self::WokenSender, _) => [[&full[1..], &[HELP]].concat(), [&full[1..], &[NEW, HELP]].concat()],
        };
        Ok(stage_of(&stages, &content)?)
    }
}

/// Somebody waits for the lock, while the victim unlocks it, or is woken to lock it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WakeLock {
    Unlock,
    WokenLock,
}

pub struct WakeLockEnds {
    lock: Lock<u64>,
    held: Option<LockGuard<u64>>,
    /// Whether it got the lock with the news of a death.
    sleeper: Option<Sleeper<bool>>,
}

impl Scene for WakeLock {
    type Ends = WakeLockEnds;

    fn last(&self) -> Stage {
        1
    }

    fn has_snapshots(&self) -> bool {
        false
    }

    fn build(&self, segment: &Segment) -> WakeLockEnds {
        let lock = Lock::create(segment, "lock", 0).expect("a lock");
        let held = (*self == Self::WokenLock).then(|| lock.lock().expect("free"));
        WakeLockEnds { lock, held, sleeper: None }
    }

    fn reopen(&self, _: &Segment) -> Result<WakeLockEnds, String> {
        Err("these have no snapshots".to_owned())
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a WakeLockEnds) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        if *self == Self::WokenLock {
            return Box::new(|| forget(ends.lock.lock()));
        }
        let guard = ends.lock.lock().expect("free");
        Box::new(move || drop(guard))
    }

    fn begin(&self, _: &Segment, ends: &mut WakeLockEnds, _: Pid) {
        let lock = ends.lock.clone();
        let died = |result: Result<LockGuard<u64>, LockError<LockGuard<u64>>>| match result {
            Ok(_) => false,
            Err(e) => e.is_owner_died(),
        };
        ends.sleeper = Some(Sleeper::start(move || died(lock.lock())));
        ends.held = None;
    }

    fn falls_asleep(&self) -> bool {
        *self == Self::WokenLock
    }

    fn finished(&self, _: &Segment, ends: &mut WakeLockEnds) -> Result<(), Fault> {
        if self.falls_asleep() {
            return Ok(());
        }
        let sleeper = ends.sleeper.as_ref().expect("it was started");
        sleeper.is_awake(PROMPT).map_err(|e| Fault::Late(format!("the victim has done everything, but {e}")))
    }

    fn check(&self, _: &Segment, ends: WakeLockEnds, _: bool) -> Result<Stage, Fault> {
        let sleeper = ends.sleeper.expect("it was started");
        sleeper.is_awake(PROMPT).map_err(|e| Fault::Late(format!("the lock is free or its owner dead, but {e}")))?;
        let died = sleeper.result()?;
        if let Err(e) = ends.lock.try_lock() {
            return Err(format!("the lock, once more: {e:?}").into());
        }
        Ok(usize::from(died == (*self == Self::WokenLock)))
    }
}

/// A doorbell is armed while the victim sends, and must ring if there is a message.
pub struct Ring;

pub struct RingEnds {
    ends: Ends,
    bell: Option<Doorbell>,
}

impl RingEnds {
    fn rings(&self) -> Result<(), String> {
        let bell = self.bell.as_ref().expect("it was made");
        let rung = || poll(&mut [PollFd::new(bell.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1);
        until("a doorbell rings", PROMPT, rung)
    }
}

impl Scene for Ring {
    type Ends = RingEnds;

    fn last(&self) -> Stage {
        1
    }

    fn has_snapshots(&self) -> bool {
        false
    }

    fn build(&self, segment: &Segment) -> RingEnds {
        RingEnds { ends: Ends::create(segment, &EMPTY), bell: None }
    }

    fn reopen(&self, _: &Segment) -> Result<RingEnds, String> {
        Err("these have no snapshots".to_owned())
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a RingEnds) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        Box::new(|| _ = ends.ends.sender.try_send(message(NEW)))
    }

    fn begin(&self, _: &Segment, ends: &mut RingEnds, _: Pid) {
        let bell = ends.ends.receiver.doorbell().expect("a doorbell");
        let names = || std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let is_reactor = |path: &std::path::Path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("gimmal-reactor"))
        };
        let mut looks = 0;
        let asleep = until("the reactor sleeps", LONG, || {
            let reactor = names().map(|task| task.path()).find(|path| is_reactor(path));
            let of = reactor.and_then(|path| Some(format!("self/task/{}", path.file_name()?.to_str()?)));
            looks = if of.and_then(|of| state(&of)) == Some('S') { looks + 1 } else { 0 };
            looks >= 3
        });
        asleep.expect("a reactor");
        ends.bell = Some(bell);
    }

    fn finished(&self, _: &Segment, ends: &mut RingEnds) -> Result<(), Fault> {
        ends.rings().map_err(|e| Fault::Late(format!("the victim has done everything, but {e}")))
    }

    fn check(&self, _: &Segment, ends: RingEnds, _: bool) -> Result<Stage, Fault> {
        if !ends.ends.queue.is_empty() {
            ends.rings().map_err(|e| Fault::Late(format!("repair should have rung it, but {e}")))?;
        }
        let (rest, closed) = ends.ends.drain()?;
        same("closed", false, closed)?;
        ends.ends.settle(false)?;
        Ok(stage_of(&[vec![], vec![NEW]], &rest)?)
    }
}
