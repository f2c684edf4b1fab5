//! [`gimmal::Value`] and [`gimmal::Array`]: each element is old or new. [`gimmal::Lock`]: the next holder has the news.

use std::mem::forget;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

use gimmal::{Array, Lock, LockError, LockGuard, Segment, Value};
use nix::unistd::Pid;

use super::scene::{Fault, NAP, Scene, Stage, on, same};

pub struct Numbers {
    value: Value<u64>,
    float: Value<f64>,
    array: Array<u32>,
    bytes: Array<u8>,
}

impl Numbers {
    /// All of them as whole numbers.
    fn read(&self) -> Vec<u64> {
        let array = self.array.iter().map(|cell| u64::from(cell.load(Relaxed)));
        let bytes = self.bytes.iter().map(|cell| u64::from(cell.load(Relaxed)));
        [self.value.load(Relaxed), self.float.load(Relaxed) as u64].into_iter().chain(array).chain(bytes).collect()
    }
}

const OLD: u64 = 1 << 40 | 1;
const LENGTH: usize = 6;
const ARRAY: usize = 2;
const BYTES: usize = ARRAY + LENGTH;

pub struct NumbersScene {
    act: fn(&Numbers),
    /// What changes: index and new number.
    new: Vec<(usize, u64)>,
}

impl Scene for NumbersScene {
    type Ends = Numbers;

    fn last(&self) -> Stage {
        self.new.len()
    }

    fn build(&self, segment: &Segment) -> Numbers {
        let numbers = Numbers {
            value: Value::create(segment, "value", OLD).expect("a value"),
            float: Value::create(segment, "float", 3.0).expect("a value"),
            array: Array::create(segment, "array", LENGTH).expect("an array"),
            bytes: Array::create(segment, "bytes", LENGTH).expect("an array"),
        };
        numbers.array.fill(1);
        numbers
    }

    fn reopen(&self, segment: &Segment) -> Result<Numbers, String> {
        Ok(Numbers {
            value: on("open", Value::open(segment, "value"))?,
            float: on("open", Value::open(segment, "float"))?,
            array: on("open", Array::open(segment, "array"))?,
            bytes: on("open", Array::open(segment, "bytes"))?,
        })
    }

    fn ready<'a>(&'a self, segment: &'a Segment, numbers: &'a Numbers) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        Box::new(|| (self.act)(numbers))
    }

    fn check(&self, _: &Segment, numbers: Numbers, _: bool) -> Result<Stage, Fault> {
        let mut old = vec![OLD, 3];
        old.extend([1; LENGTH]);
        old.extend([0; LENGTH]);
        let mut stage = 0;
        for (index, (old, found)) in old.into_iter().zip(numbers.read()).enumerate() {
            let new = self.new.iter().find(|new| new.0 == index).map(|new| new.1);
            match found {
                _ if found == old => {}
                _ if Some(found) == new => stage += 1,
                _ => return Err(format!("number {index}: expected {old} or {new:?}, found {found}").into()),
            }
        }
        Ok(stage)
    }
}

pub fn store() -> NumbersScene {
    NumbersScene { act: |n| n.value.store(u64::MAX, Release), new: vec![(0, u64::MAX)] }
}

pub fn fetch_add() -> NumbersScene {
    NumbersScene { act: |n| _ = n.value.fetch_add(1 << 41, AcqRel), new: vec![(0, OLD + (1 << 41))] }
}

pub fn fetch_add_float() -> NumbersScene {
    NumbersScene { act: |n| _ = n.float.fetch_add(4.0, AcqRel), new: vec![(1, 7)] }
}

pub fn update() -> NumbersScene {
    NumbersScene { act: |n| _ = n.value.update(AcqRel, |value| value * 3), new: vec![(0, OLD * 3)] }
}

pub fn element() -> NumbersScene {
    NumbersScene { act: |n| _ = n.array[2].swap(1 << 30, AcqRel), new: vec![(ARRAY + 2, 1 << 30)] }
}

pub fn write() -> NumbersScene {
    let act = |n: &Numbers| n.array.write(1, &[70_000, 80_000, 90_000]).expect("inside");
    NumbersScene { act, new: vec![(ARRAY + 1, 70_000), (ARRAY + 2, 80_000), (ARRAY + 3, 90_000)] }
}

pub fn fill() -> NumbersScene {
    NumbersScene { act: |n| n.array.fill(1 << 20), new: (0..LENGTH).map(|i| (ARRAY + i, 1 << 20)).collect() }
}

pub fn write_bytes() -> NumbersScene {
    let act = |n: &Numbers| n.bytes.write(0, &[1, 2, 3, 4, 5, 6]).expect("inside");
    NumbersScene { act, new: (0..LENGTH).map(|i| (BYTES + i, i as u64 + 1)).collect() }
}

type Data = [u64; 2];

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    Lock,
    Unlock,
    /// The survivor holds it.
    TryInVain,
    SleepInVain,
}

/// Stages: the lock is as it was, or the victim has changed that.
pub struct LockScene(pub Locking);

pub struct LockEnds {
    lock: Lock<Data>,
    held: Option<LockGuard<Data>>,
    victim: Option<Pid>,
}

impl Scene for LockScene {
    type Ends = LockEnds;

    fn last(&self) -> Stage {
        usize::from(matches!(self.0, Locking::Lock | Locking::Unlock))
    }

    fn is_sleepy(&self) -> bool {
        self.0 == Locking::SleepInVain
    }

    fn build(&self, segment: &Segment) -> LockEnds {
        let lock = Lock::create(segment, "lock", [5, 6]).expect("a lock");
        let held = matches!(self.0, Locking::TryInVain | Locking::SleepInVain).then(|| lock.lock().expect("free"));
        LockEnds { lock, held, victim: None }
    }

    fn reopen(&self, segment: &Segment) -> Result<LockEnds, String> {
        Ok(LockEnds { lock: on("open", Lock::open(segment, "lock"))?, held: None, victim: None })
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a LockEnds) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        let lock = &ends.lock;
        match self.0 {
            Locking::Lock => Box::new(|| forget(lock.lock())),
            Locking::Unlock => {
                let guard = lock.lock().expect("free");
                Box::new(move || drop(guard))
            }
            // Every so many calls in vain look for the dead: the first one.
            _ if lock.try_lock().is_ok() => unreachable!("the survivor holds it"),
            Locking::TryInVain => Box::new(|| forget(lock.try_lock())),
            Locking::SleepInVain => Box::new(|| forget(lock.lock_timeout(NAP))),
        }
    }

    fn begin(&self, _: &Segment, ends: &mut LockEnds, victim: Pid) {
        ends.victim = Some(victim);
    }

    fn check(&self, _: &Segment, ends: LockEnds, live: bool) -> Result<Stage, Fault> {
        // In a copy, the survivor has died as well.
        let survivor_died = !live && matches!(self.0, Locking::TryInVain | Locking::SleepInVain);
        if ends.held.is_some() && ends.lock.try_lock().is_ok() {
            return Err("the victim's death gave the survivor's lock away".to_owned().into());
        }
        drop(ends.held);
        let (owner_died, pid, guard) = match ends.lock.try_lock() {
            Ok(guard) => (false, 0, guard),
            Err(LockError::OwnerDied { guard, pid }) => (true, pid, guard),
            Err(e) => return Err(format!("the lock of the dead: {e:?}").into()),
        };
        same("what is protected", [5, 6], *guard)?;
        drop(guard);
        if owner_died && let Some(victim) = ends.victim {
            same("who died", victim.as_raw() as u32, pid)?;
        }
        if let Err(e) = ends.lock.try_lock() {
            return Err(format!("the lock, once more: {e:?}").into());
        }
        match self.0 {
            Locking::Lock => Ok(usize::from(owner_died)),
            Locking::Unlock => Ok(usize::from(!owner_died)),
            _ => Ok(same("the news of a death", survivor_died, owner_died).map(|()| 0)?),
        }
    }
}
