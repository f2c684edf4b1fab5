//! [`gimmal::Latest`]: the value is the old or the new one, whole, and its writers' buffers are free again.

use std::sync::atomic::Ordering::Relaxed;

use gimmal::{Error, Latest, Segment, Versioned};
use nix::unistd::Pid;

use super::memory::{BUFFERS, Memory, OWNER};
use super::scene::{Fault, LONG, NAP, PROMPT, Scene, Stage, on, same, stage_of};
use super::wake::Sleeper;

/// Four words and a half, so that it can be torn.
type Value = [u32; 9];

/// What the victim stores, or makes of what is there.
const NEW: u32 = 900;
/// What the survivor stores while nobody has repaired.
const LATE: u32 = 800;

fn value(number: u32) -> Value {
    std::array::from_fn(|i| number << 8 | i as u32)
}

fn number(found: Value) -> Result<u32, String> {
    same("a whole value", value(found[0] >> 8), found).map(|()| found[0] >> 8)
}

/// How many values were stored before.
#[derive(Clone, Copy)]
pub struct State {
    pub name: &'static str,
    stored: u32,
}

pub const FRESH: State = State { name: "fresh", stored: 0 };
/// Every buffer was in use, and the next one is the first.
pub const WORN: State = State { name: "worn", stored: 2 * BUFFERS as u32 - 1 };

/// What the victim does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Store,
    /// The survivor stores before there is a repair.
    StoreBeside,
    Update,
    Load,
    WaitInVain,
    /// Living writers keep all buffers.
    StoreInVain,
    /// A thread of the survivor sleeps until there is another version.
    Wake,
    /// A thread of the survivor waits for a buffer: the last one is the victim's.
    WakeWriter,
}

pub struct LatestScene(pub Act, pub State);

pub struct Ends {
    latest: Latest<Value>,
    /// What the survivor saw when the victim was dead and nobody had repaired.
    seen: Option<u32>,
    /// Buffers that the survivor keeps, as a stopped writer would.
    kept: Option<Memory>,
    sleeper: Option<Sleeper<Result<Value, String>>>,
}

impl LatestScene {
    fn has_sleeper(&self) -> bool {
        matches!(self.0, Act::Wake | Act::WakeWriter)
    }

    /// Keeps all buffers but the current one, and `spared` more, for the survivor, which is participant 1.
    fn keep(segment: &Segment, spared: usize) -> Memory {
        let memory = Memory::of(segment);
        memory.buffers(0)[1 + spared..].iter().for_each(|word| _ = word.fetch_add(1, Relaxed));
        memory
    }

    fn let_go(memory: &Memory) {
        memory.buffers(0).iter().filter(|word| word.load(Relaxed) & OWNER == 1).for_each(|word| {
            word.fetch_sub(1, Relaxed);
        });
    }
}

/// The value, looking once: nobody is writing.
fn look(latest: &Latest<Value>) -> Result<Versioned<Value>, String> {
    latest.try_load().ok_or_else(|| "a reader is kept from the value by nobody".to_owned())
}

impl Scene for LatestScene {
    type Ends = Ends;

    fn last(&self) -> Stage {
        usize::from(!matches!(self.0, Act::Load | Act::WaitInVain | Act::StoreInVain))
    }

    fn has_snapshots(&self) -> bool {
        !self.has_sleeper()
    }

    fn is_sleepy(&self) -> bool {
        matches!(self.0, Act::WaitInVain | Act::StoreInVain)
    }

    fn build(&self, segment: &Segment) -> Ends {
        let latest = Latest::create(segment, "latest", value(0)).expect("a value");
        for n in 1..=self.1.stored {
            assert_eq!(latest.store(value(n)).expect("a participant"), u64::from(n));
        }
        let kept = match self.0 {
            Act::StoreInVain => Some(Self::keep(segment, 0)),
            Act::WakeWriter => Some(Self::keep(segment, 1)),
            _ => None,
        };
        Ends { latest, seen: None, kept, sleeper: None }
    }

    fn reopen(&self, segment: &Segment) -> Result<Ends, String> {
        let latest = on("open", Latest::open(segment, "latest"))?;
        Ok(Ends { latest, seen: None, kept: None, sleeper: None })
    }

    fn ready<'a>(&'a self, segment: &'a Segment, ends: &'a Ends) -> Box<dyn FnOnce() + 'a> {
        segment.recover().expect("join");
        let latest = &ends.latest;
        let (new, version) = (value(NEW), latest.version());
        match self.0 {
            Act::Store | Act::StoreBeside | Act::Wake | Act::WakeWriter => Box::new(move || _ = latest.store(new)),
            Act::Update => Box::new(move || {
                let change = |value: &mut Value| value.iter_mut().for_each(|word| *word += NEW << 8);
                let _ = latest.update(change);
            }),
            Act::Load => Box::new(move || _ = std::hint::black_box(latest.load())),
            Act::WaitInVain => Box::new(move || _ = latest.wait_changed_timeout(version, NAP)),
            Act::StoreInVain => Box::new(move || match latest.store_timeout(&new, NAP) {
                Err(Error::NoBuffer { waited: NAP }) => {}
                other => panic!("{other:?}"),
            }),
        }
    }

    fn begin(&self, _: &Segment, ends: &mut Ends, _: Pid) {
        let (latest, version) = (ends.latest.clone(), ends.latest.version());
        ends.sleeper = match self.0 {
            Act::Wake => Some(Sleeper::start(move || {
                let news = latest.wait_changed_timeout(version, LONG).map_err(|e| e.to_string())?;
                Ok(news.value)
            })),
            _ => None,
        };
    }

    fn finished(&self, _: &Segment, ends: &mut Ends) -> Result<(), Fault> {
        match &ends.sleeper {
            Some(sleeper) => {
                sleeper.is_awake(PROMPT).map_err(|e| Fault::Late(format!("the victim has done everything, but {e}")))
            }
            None => Ok(()),
        }
    }

    fn unrepaired(&self, ends: &mut Ends) -> Result<(), Fault> {
        let found = look(&ends.latest)?;
        ends.seen = Some(number(found.value)?);
        match self.0 {
            Act::StoreBeside => {
                let version = on("store beside the dead", ends.latest.store_timeout(&value(LATE), LONG))?;
                same("the version", found.version + 1, version)?;
            }
            Act::WakeWriter => {
                // The victim has one of the two that are not kept, or had it, or neither.
                let latest = ends.latest.clone();
                let store = move || match latest.store_timeout(&value(LATE), LONG) {
                    Ok(_) => Ok(value(LATE)),
                    Err(e) => Err(e.to_string()),
                };
                ends.sleeper = Some(Sleeper::start(store));
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self, segment: &Segment, ends: Ends, _: bool) -> Result<Stage, Fault> {
        let Ends { latest, seen, kept, sleeper } = ends;
        let now = || number(look(&latest)?.value);
        let before = self.1.stored;
        let after = if self.0 == Act::Update { before + NEW } else { NEW };
        let stage = stage_of(&[before, after], &seen.map_or_else(now, Ok)?)?;
        let mut expected = [before, after][stage];
        if seen.is_some() && matches!(self.0, Act::StoreBeside | Act::WakeWriter) {
            expected = LATE;
        }
        if let Some(sleeper) = sleeper {
            if self.0 == Act::Wake && stage == 0 {
                on("help", latest.store(value(NEW)))?;
                expected = NEW;
            }
            sleeper.is_awake(PROMPT).map_err(|e| Fault::Late(format!("repair should have woken it, but {e}")))?;
            same("what the sleeper has seen or stored", expected, number(sleeper.result()??)?)?;
        }
        same("the value", expected, now()?)?;
        if let Some(kept) = kept {
            Self::let_go(&kept);
        }
        let memory = Memory::of(segment);
        let owned = memory.buffers(0).iter().filter(|word| word.load(Relaxed) & OWNER != 0).count();
        same("buffers that somebody keeps", 0, owned)?;
        // Every buffer can be had.
        for n in 0..2 * BUFFERS as u32 {
            let version = on("store again", latest.store_timeout(&value(n), LONG))?;
            let found = look(&latest)?;
            same("what was stored", (n, version), (number(found.value)?, found.version))?;
        }
        Ok(stage)
    }
}
