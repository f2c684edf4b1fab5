//! One operation, swept: recorded step by step, recovered from every distinct state, and killed for real.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use gimmal::Segment;

use super::memory::Memory;
use super::scene::{Fault, Name, Scene, Stage, nothing_leaks, recover, same, small, told};
use super::trace::{Recording, Victim};
use super::watch;

/// How often something that was late is looked at again.
const LATE_TRIES: usize = 3;
/// Kills of a victim that sleeps.
const ASLEEP: u64 = 3;
/// Failures of one operation that are told.
const TOLD: usize = 4;

/// How much is to be done.
#[derive(Clone, Copy)]
pub struct Budget {
    /// Real kills at every instruction.
    pub every_instruction: bool,
    /// Until when a sample of the instructions between the interesting ones is killed at.
    pub until: Instant,
}

/// What was done.
#[derive(Default)]
pub struct Tally {
    pub instructions: usize,
    pub states: usize,
    pub recoveries: usize,
    pub kills: usize,
    /// Kills whose process had gone another way than the recorded one.
    pub astray: usize,
    pub failures: Vec<String>,
    /// Failures beyond the ones that are told.
    pub more: usize,
}

impl Tally {
    fn fail(&mut self, text: String) {
        match self.failures.len() < TOLD {
            true => self.failures.push(text),
            false => self.more += 1,
        }
    }
}

/// What `attempt` says, a panic included.
fn guarded<R>(attempt: impl FnOnce() -> Result<R, Fault>) -> Result<R, Fault> {
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(Fault::Wrong(format!("the survivor panicked: {text}")))
    })
}

/// A victim in front of the first instruction.
fn start<S: Scene>(scene: &S, segment: &Segment, ends: &mut S::Ends) -> Result<Victim, String> {
    let mut victim = Victim::start(|| scene.ready(segment, ends)).map_err(|failed| failed.to_string())?;
    if scene.falls_asleep() {
        victim.fall_asleep()?;
        scene.begin(segment, ends, victim.pid());
        victim.wake_up()?;
    } else {
        scene.begin(segment, ends, victim.pid());
    }
    Ok(victim)
}

pub fn sweep<S: Scene>(title: &str, scene: &S, budget: Budget) -> Tally {
    let mut tally = Tally::default();
    watch::doing(format!("{title}: recording"));
    let recording = match guarded(|| record(scene, budget)) {
        Ok(recording) => recording,
        Err(fault) => {
            tally.fail(format!("recording: {fault}"));
            return tally;
        }
    };
    tally.instructions = recording.length();
    let stages = match scene.has_snapshots() {
        true => recover_all(title, scene, &recording, &mut tally),
        false => Vec::new(),
    };
    kill_all(title, scene, &recording, &stages, budget, &mut tally);
    tally
}

fn record<S: Scene>(scene: &S, budget: Budget) -> Result<Recording, Fault> {
    let name = Name::fresh();
    let segment = scene.options().persist(true).create(&name.0).map_err(|e| format!("{e:?}"))?;
    let mut ends = scene.build(&segment);
    let mut victim = start(scene, &segment, &mut ends)?;
    let memory = scene.is_watched().then(|| Memory::of(&segment));
    let sparse = cfg!(debug_assertions) && !budget.every_instruction && (scene.is_long() || scene.is_sleepy());
    let recording = Recording::make(&mut victim, memory.as_ref(), sparse);
    victim.kill();
    recover(&segment)?;
    match scene.check(&segment, ends, true) {
        Ok(stage) => same("the stage of the whole operation", scene.last(), stage)?,
        // It takes its time to be stepped.
        Err(Fault::Late(_)) => {}
        Err(fault) => return Err(fault),
    }
    Ok(recording?)
}

/// The stage that each state is recovered to, with the number of steps after which it appeared.
fn recover_all<S: Scene>(title: &str, scene: &S, recording: &Recording, tally: &mut Tally) -> Vec<(usize, Stage)> {
    let mut stages: Vec<(usize, Stage)> = Vec::new();
    let mut known: HashMap<&[u8], Stage> = HashMap::new();
    for (steps, bytes) in &recording.states {
        watch::doing(format!("{title}: recovering what was there after {steps} steps"));
        let stage = match known.get(bytes.as_slice()) {
            Some(&stage) => Ok(stage),
            None => {
                tally.recoveries += 1;
                guarded(|| recover_copy(scene, bytes))
            }
        };
        match stage {
            Ok(stage) => {
                known.insert(bytes, stage);
                if let Some(&(_, before)) = stages.last()
                    && before > stage
                {
                    tally.fail(format!("state after step {steps}: stage {stage} follows stage {before}"));
                }
                stages.push((*steps, stage));
            }
            Err(fault) => tally.fail(format!("state after step {steps}: {fault}")),
        }
    }
    tally.states = known.len();
    if let (Some(&(_, first)), Some(&(_, last))) = (stages.first(), stages.last())
        && (first, last) != (0, scene.last())
    {
        tally.fail(format!("expected stages 0 to {}, found {first} to {last}", scene.last()));
    }
    stages
}

fn recover_copy<S: Scene>(scene: &S, bytes: &[u8]) -> Result<Stage, Fault> {
    let name = Name::fresh();
    std::fs::write(name.path(), bytes).map_err(|e| format!("write a copy: {e}"))?;
    let segment = small().open(&name.0).map_err(|e| format!("open the copy: {e:?}"))?;
    recover(&segment)?;
    let stage = scene.check(&segment, scene.reopen(&segment)?, false)?;
    nothing_leaks(&segment)?;
    Ok(stage)
}

/// Numbers of steps to kill after: those that must be, and the rest, spread evenly at every length of prefix.
fn kill_points(recording: &Recording, every: bool) -> (Vec<usize>, Vec<usize>) {
    let length = recording.length();
    if every {
        return ((0..=length).collect(), Vec::new());
    }
    let changes = recording.states.iter().flat_map(|&(n, _)| [n.saturating_sub(1), n, n + 1]);
    let calls = recording.calls.iter().flat_map(|&n| [n, n + 1]);
    let must: BTreeSet<usize> = changes.chain(calls).chain([0, length]).map(|n| n.min(length)).collect();
    // Multiples of the golden ratio fill any interval evenly.
    let golden = |i: usize| ((i as f64 * 0.618_033_988_749_895).fract() * length as f64) as usize;
    let mut seen = must.clone();
    let rest = (1..=length).map(golden).filter(|&n| seen.insert(n)).collect();
    (must.into_iter().collect(), rest)
}

fn kill_all<S: Scene>(
    title: &str,
    scene: &S,
    recording: &Recording,
    stages: &[(usize, Stage)],
    budget: Budget,
    tally: &mut Tally,
) {
    for n in (0..ASLEEP).filter(|_| scene.is_sleepy()) {
        watch::doing(format!("{title}: killed asleep"));
        tally.kills += 1;
        if let Err(fault) = guarded(|| kill_when(scene, |victim| victim.sleep(n * 4).map(|()| true))) {
            tally.fail(format!("killed asleep: {fault}"));
        }
    }
    let (must, rest) = kill_points(recording, budget.every_instruction);
    let sample = rest.into_iter().take_while(|_| Instant::now() < budget.until);
    let mut seen: Vec<(usize, Stage)> = Vec::new();
    for steps in must.into_iter().chain(sample) {
        watch::doing(format!("{title}: killed after step {steps}"));
        let mut tries = 0;
        let killed = loop {
            tries += 1;
            tally.kills += 1;
            match guarded(|| kill_when(scene, |victim| victim.advance(recording, steps))) {
                Err(Fault::Late(_)) if tries < LATE_TRIES => watch::beat(),
                result => break result,
            }
        };
        match killed {
            Ok((stage, true)) if !scene.is_sleepy() => {
                let expected = stages.iter().rfind(|&&(n, _)| n <= steps).map(|&(_, stage)| stage);
                if expected.is_some_and(|expected| expected != stage) {
                    tally.fail(format!("killed after step {steps}: expected stage {expected:?}, found {stage}"));
                }
                seen.push((steps, stage));
            }
            Ok((_, on_the_way)) => tally.astray += usize::from(!on_the_way),
            Err(fault) => tally.fail(format!("killed after step {steps}: {fault}")),
        }
        if tally.failures.len() >= TOLD && (tally.more > 20 || Instant::now() > budget.until) {
            break;
        }
    }
    seen.sort_unstable();
    for pair in seen.windows(2).filter(|pair| pair[0].1 > pair[1].1) {
        let [(n, before), (m, after)] = [pair[0], pair[1]];
        tally.fail(format!("killed after step {n}: stage {before}; after step {m}: stage {after}"));
    }
    if let (Some(&(0, first)), Some(&(steps, last))) = (seen.first(), seen.last())
        && steps == recording.length()
        && (first, last) != (0, scene.last())
    {
        tally.fail(format!("real kills: expected stages 0 to {}, found {first} to {last}", scene.last()));
    }
}

/// Kills a victim when `go` has got it to where that should be, and says what a survivor sees, and what `go` said.
fn kill_when<S: Scene>(
    scene: &S,
    go: impl FnOnce(&mut Victim) -> Result<bool, String>,
) -> Result<(Stage, bool), Fault> {
    let name = scene.needs_name().then(Name::fresh);
    let segment = match &name {
        Some(name) => scene.options().persist(true).create(&name.0),
        None => scene.options().anonymous(),
    };
    let segment = segment.map_err(|e| format!("{e:?}"))?;
    let mut ends = scene.build(&segment);
    let mut victim = start(scene, &segment, &mut ends)?;
    let on_the_way = go(&mut victim)?;
    if victim.at_end() {
        scene.finished(&segment, &mut ends)?;
    }
    victim.kill();
    scene.unrepaired(&mut ends)?;
    if scene.is_told() {
        told(&segment)?
    } else {
        recover(&segment)?
    }
    let stage = scene.check(&segment, ends, true)?;
    nothing_leaks(&segment)?;
    Ok((stage, on_the_way))
}
