//! The event against a plain count: permits are given and taken, and nobody who waits for one sleeps while one is there.
//!
//! Sleepers look around now and then and would so repair any lost wake. Those here do not: a lost wake is a thread that
//! never comes back, and the one who counts runs out of [`PATIENCE`].

use core::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::{fs, thread};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::sys::membarrier;

/// Far more than anything here takes: whoever runs into it has found a lost wake.
const PATIENCE: Duration = Duration::from_secs(30);

struct Gate {
    event: Event,
    permits: AtomicU32,
    mode: FenceMode,
    spin: bool,
    /// The threads, as below /proc, that wait without a deadline and have registered.
    drowsy: Mutex<Vec<PathBuf>>,
    /// How often one of them returned from sleep.
    woken: AtomicU32,
}

impl Gate {
    fn new(mode: FenceMode, spin: bool, tickets: u32) -> Arc<Self> {
        let (permits, woken) = (AtomicU32::new(0), AtomicU32::new(0));
        let gate = Self { event: Event::new(), permits, mode, spin, drowsy: Mutex::default(), woken };
        gate.event.tickets.store(u64::from(tickets) << 32 | u64::from(tickets), Ordering::Relaxed);
        gate.event.word().store(tickets, Ordering::Relaxed);
        Arc::new(gate)
    }

    fn give(&self, n: u32) {
        self.permits.fetch_add(n, Ordering::Release);
        self.event.notify(n, self.mode, || {});
    }

    fn try_take(&self) -> bool {
        let take = |permits: u32| permits.checked_sub(1);
        self.permits.fetch_update(Ordering::Acquire, Ordering::Relaxed, take).is_ok()
    }

    /// Waits for a permit.
    fn take(&self, deadline: Option<Deadline>) -> bool {
        let thread = fs::read_link("/proc/thread-self").expect("/proc is mounted");
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            // One at once, and without spinning one after registration.
            let last_awake = 2;
            if deadline.is_none() && attempts == last_awake {
                self.drowsy.lock().unwrap().push(thread.clone());
            }
            self.woken.fetch_add(u32::from(attempts > last_awake), Ordering::Relaxed);
            if self.try_take() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let taken = self.event.wait(self, &Pace::default(), deadline, attempt).is_some();
        self.drowsy.lock().unwrap().retain(|other| *other != thread);
        taken
    }

    /// Waits until the kernel says that `n` threads sleep which wait without a deadline.
    fn until_asleep(&self, n: u32) {
        let asleep = |thread: &PathBuf| {
            let stat = fs::read_to_string(Path::new("/proc").join(thread).join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('S'))
        };
        loop {
            let drowsy = self.drowsy.lock().unwrap().clone();
            if drowsy.len() >= n as usize && drowsy.iter().all(asleep) {
                return;
            }
            thread::yield_now();
        }
    }
}

impl Surroundings for Gate {
    fn fence_mode(&self) -> FenceMode {
        self.mode
    }

    fn may_spin(&self) -> bool {
        self.spin
    }

    fn look(&self) {
        unreachable!("nobody looks before the end of all time");
    }

    fn patience(&self) -> Duration {
        Duration::MAX
    }
}

fn modes() -> Vec<FenceMode> {
    let asymmetric = membarrier::register().then_some(FenceMode::Asymmetric);
    [FenceMode::Full].into_iter().chain(asymmetric).collect()
}

// --- the state machine ---

#[derive(Clone, Debug)]
enum Step {
    /// Threads that wait until they have a permit.
    Wait(u32),
    /// Threads that leave after this many microseconds without one.
    Leave(u32, u64),
    /// Permits, all with one call or each with its own; perhaps not before everybody sleeps.
    Give { permits: u32, at_once: bool, asleep: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..4_u32).prop_map(Step::Wait),
        2 => (1..4_u32, 0..300_u64).prop_map(|(n, micros)| Step::Leave(n, micros)),
        3 => (1..4_u32, any::<bool>(), any::<bool>())
            .prop_map(|(permits, at_once, asleep)| Step::Give { permits, at_once, asleep }),
    ];
    vec(step, 1..12)
}

/// The plain model: how many wait, and how many permits there are.
#[derive(Default)]
struct Count {
    waiting: u32,
    leaving: u32,
    permits: u32,
}

enum Report {
    Waited,
    LeftWith(bool),
}

impl Count {
    fn note(&mut self, report: &Report) {
        match report {
            Report::Waited => {
                self.waiting -= 1;
                self.permits -= 1;
            }
            Report::LeftWith(permit) => {
                self.leaving -= 1;
                self.permits -= u32::from(*permit);
            }
        }
    }

    /// Waits until nobody sleeps who could have a permit.
    fn settle(&mut self, reports: &Receiver<Report>, all: bool) {
        while self.waiting > 0 && self.permits > 0 || all && self.leaving > 0 {
            let report = reports.recv_timeout(PATIENCE).unwrap_or_else(|_| {
                panic!("a wake was lost: {} permits and {} asleep", self.permits, self.waiting);
            });
            self.note(&report);
        }
        for report in reports.try_iter() {
            self.note(&report);
        }
    }
}

fn run(gate: &Arc<Gate>, steps: &[Step]) {
    let (reporter, reports) = channel();
    let mut count = Count::default();
    let mut threads = Vec::new();
    let mut start = |reporter: &Sender<Report>, take: fn(&Gate, u64) -> Report, micros: u64| {
        let (gate, reporter) = (Arc::clone(gate), reporter.clone());
        threads.push(thread::spawn(move || reporter.send(take(&gate, micros)).unwrap_or_default()));
    };
    for step in steps {
        match *step {
            Step::Wait(n) => {
                count.waiting += n;
                for _ in 0..n {
                    start(
                        &reporter,
                        |gate, _| {
                            gate.take(None);
                            Report::Waited
                        },
                        0,
                    );
                }
            }
            Step::Leave(n, micros) => {
                count.leaving += n;
                let leave =
                    |gate: &Gate, micros| Report::LeftWith(gate.take(Deadline::after(Duration::from_micros(micros))));
                for _ in 0..n {
                    start(&reporter, leave, micros);
                }
            }
            Step::Give { permits, at_once, asleep } => {
                if asleep {
                    gate.until_asleep(count.waiting);
                }
                count.permits += permits;
                for _ in 0..if at_once { 1 } else { permits } {
                    gate.give(if at_once { permits } else { 1 });
                }
            }
        }
        count.settle(&reports, false);
    }
    if count.waiting > 0 {
        let missing = count.waiting.saturating_sub(count.permits);
        count.permits += missing;
        gate.give(missing);
    }
    count.settle(&reports, true);
    // A leaver may have had the permit that was meant for one who waits.
    while count.waiting > 0 {
        count.permits += 1;
        gate.give(1);
        count.settle(&reports, true);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(gate.permits.load(Ordering::Relaxed), count.permits, "permits are taken once");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 2, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn nobody_sleeps_while_a_permit_is_there(
        steps in steps(),
        spin in any::<bool>(),
        mode in 0..2_usize,
        // Few tickets were ever drawn, or so many that their count is about to start anew.
        tickets in prop_oneof![Just(0), (u32::MAX - 8)..=u32::MAX],
    ) {
        let modes = modes();
        run(&Gate::new(modes[mode % modes.len()], spin, tickets), &steps);
    }
}

/// Takers and givers at full speed: as many permits are taken as are given, and all takers come home.
#[test]
fn no_wake_is_lost_when_sleepers_and_wakers_race() {
    const TAKERS: u32 = 3;
    const EACH: u32 = 3000;
    for mode in modes() {
        for givers in [1, 2] {
            let gate = Gate::new(mode, false, u32::MAX - EACH);
            let (home, homecomers) = channel();
            for _ in 0..TAKERS {
                let (gate, home) = (Arc::clone(&gate), home.clone());
                thread::spawn(move || {
                    for _ in 0..EACH {
                        gate.take(None);
                    }
                    let _ = home.send(());
                });
            }
            for _ in 0..givers {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    for _ in 0..TAKERS * EACH / givers {
                        gate.give(1);
                        // Let them fall asleep now and then: a permit that waits for its taker wakes nobody.
                        thread::yield_now();
                    }
                });
            }
            for _ in 0..TAKERS {
                homecomers.recv_timeout(PATIENCE).expect("a wake was lost");
            }
            assert_eq!(gate.permits.load(Ordering::Relaxed), 0);
        }
    }
}

/// Two threads that wake each other by turns sleep at every turn: a lost wake stops them at once.
#[test]
fn two_threads_wake_each_other_in_turn() {
    for mode in modes() {
        let gates = [Gate::new(mode, false, 0), Gate::new(mode, false, 0)];
        let (home, homecomers) = channel();
        for i in 0..2 {
            let [ours, theirs] = [Arc::clone(&gates[i]), Arc::clone(&gates[1 - i])];
            let home = home.clone();
            thread::spawn(move || {
                for _ in 0..5000 {
                    ours.take(None);
                    theirs.give(1);
                }
                let _ = home.send(());
            });
        }
        gates[0].give(1);
        for _ in 0..2 {
            homecomers.recv_timeout(PATIENCE).expect("a wake was lost");
        }
        let left = gates.map(|gate| gate.permits.load(Ordering::Relaxed));
        assert_eq!(left, [1, 0]);
    }
}

/// Those who leave at their deadline must hand on a wake that they were given and made no use of.
#[test]
fn a_wake_spent_on_one_who_leaves_reaches_one_who_stays() {
    const ROUNDS: u64 = 2000;
    const LEAVERS: u64 = 3;
    for mode in modes() {
        let gate = Gate::new(mode, false, 0);
        let start = Arc::new(Barrier::new(LEAVERS as usize + 2));
        let (reporter, reports) = channel();
        for i in 0..LEAVERS {
            let (gate, start, reporter) = (Arc::clone(&gate), Arc::clone(&start), reporter.clone());
            thread::spawn(move || {
                for round in 0..ROUNDS {
                    start.wait();
                    // About when the permit is given, now earlier, now later.
                    let deadline = Deadline::after(Duration::from_micros((round * (i + 1)) % 67));
                    let _ = reporter.send(Report::LeftWith(gate.take(deadline)));
                }
            });
        }
        {
            let (gate, start, reporter) = (Arc::clone(&gate), Arc::clone(&start), reporter.clone());
            thread::spawn(move || {
                for _ in 0..ROUNDS {
                    start.wait();
                    gate.take(None);
                    let _ = reporter.send(Report::Waited);
                }
            });
        }
        for round in 0..ROUNDS {
            start.wait();
            for _ in 0..(round * 7) % 41 * 20 {
                spin_loop();
            }
            let mut count = Count { waiting: 1, leaving: LEAVERS as u32, permits: 1 };
            gate.give(1);
            count.settle(&reports, true);
            while count.waiting > 0 {
                // One who left has had it.
                count.permits += 1;
                gate.give(1);
                count.settle(&reports, true);
            }
            assert_eq!((count.waiting, count.leaving, count.permits), (0, 0, 0));
        }
    }
}

// --- by example ---

fn halves(event: &Event) -> (u32, u32) {
    let tickets = event.tickets.load(Ordering::Relaxed);
    ((tickets >> 32) as u32, tickets as u32)
}

#[test]
fn a_notification_that_concerns_nobody_changes_nothing() {
    for mode in modes() {
        for tickets in [0, 7, u32::MAX] {
            let gate = Gate::new(mode, false, tickets);
            gate.event.notify(ALL, mode, || {});
            gate.event.notify(1, mode, || {});
            assert_eq!((halves(&gate.event), gate.event.word().load(Ordering::Relaxed)), ((tickets, tickets), tickets));
        }
    }
}

/// Nobody ever has what this one waits for.
struct Visitor<F: Fn() -> bool, L: Fn()> {
    passed: F,
    look: L,
    patience: Duration,
}

impl<F: Fn() -> bool, L: Fn()> Surroundings for Visitor<F, L> {
    fn fence_mode(&self) -> FenceMode {
        FenceMode::Full
    }

    fn may_spin(&self) -> bool {
        false
    }

    fn look(&self) {
        (self.look)();
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn passed(&self, _: Deadline) -> bool {
        (self.passed)()
    }
}

#[test]
fn one_who_left_costs_one_futile_wake_and_no_more() {
    let gate = Gate::new(FenceMode::Full, false, u32::MAX);
    let asked = Cell::new(0);
    // It asks before it registers, and leaves when it asks again.
    let visitor = Visitor { passed: || asked.replace(asked.get() + 1) > 0, look: || {}, patience: Duration::MAX };
    assert_eq!(
        gate.event.wait(&visitor, &Pace::default(), Some(Deadline(0)), || ControlFlow::<()>::Continue(())),
        None
    );
    assert_eq!(halves(&gate.event), (0, u32::MAX), "registered, and nobody has answered");
    let before = gate.event.word().load(Ordering::Relaxed);
    gate.event.notify(1, FenceMode::Full, || {});
    assert_eq!(halves(&gate.event), (0, 0), "the queue ran dry: all are answered");
    gate.event.notify(1, FenceMode::Full, || {});
    assert_eq!(gate.event.word().load(Ordering::Relaxed), before.wrapping_add(1), "the second call had nobody to wake");
}

#[test]
fn a_wait_tries_before_it_heeds_a_deadline_that_has_passed() {
    for spin in [false, true] {
        let gate = Gate::new(FenceMode::Full, spin, 0);
        gate.give(1);
        assert!(gate.take(Some(Deadline(0))));
        assert!(!gate.take(Some(Deadline(0))));
        assert_eq!(halves(&gate.event), (0, 0), "nobody registers to leave at once");
    }
}

#[test]
fn sleepers_look_around_by_themselves_again_and_again() {
    let looks = Cell::new(0);
    let look = || looks.set(looks.get() + 1);
    let visitor = Visitor { passed: || false, look, patience: Duration::from_millis(1) };
    let attempt = || if looks.get() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    assert_eq!(Event::new().wait(&visitor, &Pace::default(), None, attempt), Some(()));
}

/// One who is woken all the time, and always too late, may be waiting for somebody who is dead.
#[test]
fn being_woken_often_keeps_nobody_from_looking_around() {
    let event = Event::new();
    let done = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while done.load(Ordering::Relaxed) == 0 {
                event.notify(ALL, FenceMode::Full, || {});
                thread::yield_now();
            }
        });
        let looks = Cell::new(0);
        let look = || looks.set(looks.get() + 1);
        let deadline = Deadline::after(PATIENCE);
        let passed = || deadline.is_some_and(Deadline::passed);
        let visitor = Visitor { passed, look, patience: Duration::from_millis(5) };
        let attempt = || if looks.get() < 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        assert_eq!(event.wait(&visitor, &Pace::default(), deadline, attempt), Some(()));
        done.store(1, Ordering::Relaxed);
    });
}

#[test]
fn as_many_are_woken_as_there_is_something_for_and_no_more() {
    const SLEEPERS: u32 = 8;
    let calls = [vec![ALL], vec![SLEEPERS], vec![1; SLEEPERS as usize], vec![3, 1, 4], vec![7, 1], vec![2, 20]];
    let (mut takes, mut woken) = (0, 0);
    for (round, calls) in calls.iter().cycle().take(60).enumerate() {
        // Each call once those of the one before are awake and gone, or all calls in a row.
        let in_a_row = round % 4 < 2;
        for mode in modes() {
            let gate = Gate::new(mode, false, 0);
            let (home, homecomers) = channel();
            for _ in 0..SLEEPERS {
                let (gate, home) = (Arc::clone(&gate), home.clone());
                thread::spawn(move || {
                    gate.take(None);
                    let _ = home.send(());
                });
            }
            let come_home = |n: u32| {
                for _ in 0..n {
                    homecomers.recv_timeout(PATIENCE).expect("all for whom there is something are woken");
                }
            };
            let mut left = SLEEPERS;
            gate.until_asleep(left);
            for &n in calls {
                let served = n.min(left);
                gate.permits.fetch_add(served, Ordering::Release);
                gate.event.notify(n, mode, || {});
                left -= served;
                if !in_a_row {
                    come_home(served);
                    gate.until_asleep(left);
                }
            }
            assert_eq!(left, 0);
            come_home(if in_a_row { SLEEPERS } else { 0 });
            takes += SLEEPERS;
            woken += gate.woken.load(Ordering::Relaxed);
        }
    }
    // A signal handler, or a debugger, may wake one now and then.
    assert!(woken * 20 < takes * 21, "{woken} were woken for {takes}");
}

// --- at the edge of the tickets ---

/// Two threads that are never both awake: each permit wakes one of two, so that no wake finds the queue dry.
fn sleep_in_turn(gate: &Arc<Gate>, rounds: u32) {
    let (home, homecomers) = channel();
    for _ in 0..2 {
        let (gate, home) = (Arc::clone(gate), home.clone());
        thread::spawn(move || while gate.take(None) && home.send(()).is_ok() {});
    }
    for _ in 0..rounds {
        gate.until_asleep(2);
        gate.give(1);
        homecomers.recv_timeout(PATIENCE).expect("a wake was lost");
    }
    drop(homecomers);
    gate.until_asleep(2);
    gate.give(2);
}

/// A pool of which some always sleep never lets a wake find the queue dry. Its sleepers answer their own tickets before the
/// halves can meet.
#[test]
fn sleepers_that_nobody_answers_keep_the_halves_together() {
    const ROUNDS: u32 = 20;
    for mode in modes() {
        for answered in [0, 7, u32::MAX - 5, 1 << 31] {
            let gate = Gate::new(mode, false, 0);
            gate.event.set_apart(answered.wrapping_add(FAR_APART - 2), answered);
            sleep_in_turn(&gate, ROUNDS);
            let (registered, answered) = halves(&gate.event);
            let distance = registered.wrapping_sub(answered);
            assert!(distance < 4 * ROUNDS, "{distance} unanswered");
        }
    }
}

/// Halves that are farther apart than any sleeper leaves them were written by a peer that does not follow the protocol.
/// Nobody sleeps for ever because of that, and nobody goes on looking.
#[test]
fn halves_that_are_too_far_apart_come_together_with_the_next_sleep() {
    for mode in modes() {
        for distance in [FAR_APART, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, u32::MAX - 2, u32::MAX - 1, u32::MAX] {
            for answered in [0, 1 << 31, u32::MAX] {
                let gate = Gate::new(mode, false, 0);
                gate.event.set_apart(u32::wrapping_add(answered, distance), answered);
                let before = gate.event.word().load(Ordering::Relaxed);
                sleep_in_turn(&gate, 5);
                let (registered, answered) = halves(&gate.event);
                let distance = registered.wrapping_sub(answered);
                assert!(distance < 40, "{distance} unanswered");
                let wakes = gate.event.word().load(Ordering::Relaxed).wrapping_sub(before);
                assert!(wakes < 20, "{wakes} wakes for five permits");
            }
        }
    }
}

/// The notifier that finds the queue dry answers, however far apart the halves are.
#[test]
fn a_dry_wake_answers_at_any_distance() {
    for distance in [1, FAR_APART, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, u32::MAX] {
        let event = Event::new();
        event.set_apart(distance.wrapping_add(9), 9);
        event.notify(1, FenceMode::Full, || {});
        assert_eq!(halves(&event), (distance.wrapping_add(9), distance.wrapping_add(9)));
    }
}

/// A notifier that was slow answers nothing that came after its look, and takes nothing back.
#[test]
fn a_slow_answer_changes_nothing() {
    let word = |registered: u32, answered: u32| u64::from(registered) << 32 | u64::from(answered);
    for start in [0, 1 << 31, u32::MAX - 6] {
        let at = |n| u32::wrapping_add(start, n);
        let event = Event::new();
        event.set_apart(at(8), at(5));
        event.answer(word(at(4), at(2)));
        assert_eq!(halves(&event), (at(8), at(5)), "behind what is answered");
        event.answer(word(at(7), at(2)));
        assert_eq!(halves(&event), (at(8), at(7)), "as far as it saw");
    }
}

/// What a receiver may learn instead of a message is nothing taken: the wake goes to somebody else.
#[test]
fn a_wake_spent_on_one_who_fails_reaches_one_who_stays() {
    for mode in modes() {
        let gate = Gate::new(mode, false, 0);
        let (home, homecomers) = channel();
        let failing = Arc::clone(&gate);
        let refused = home.clone();
        thread::spawn(move || {
            let thread = fs::read_link("/proc/thread-self").expect("/proc is mounted");
            failing.drowsy.lock().unwrap().push(thread.clone());
            let attempt = || match failing.permits.load(Ordering::Acquire) {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(Err::<(), _>("no space")),
            };
            let result = failing.event.try_wait(&*failing, &Pace::default(), None, attempt);
            assert_eq!(result, Some(Err("no space")));
            failing.drowsy.lock().unwrap().retain(|other| *other != thread);
            let _ = refused.send("refused");
        });
        gate.until_asleep(1);
        let taking = Arc::clone(&gate);
        thread::spawn(move || {
            taking.take(None);
            let _ = home.send("taken");
        });
        gate.until_asleep(2);
        // The kernel wakes the one that came first.
        gate.give(1);
        let mut both = [(); 2].map(|()| homecomers.recv_timeout(PATIENCE).expect("a wake was lost"));
        both.sort_unstable();
        assert_eq!(both, ["refused", "taken"]);
    }
}
