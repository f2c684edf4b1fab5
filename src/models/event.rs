//! The event: sleeping and waking, also by way of a reactor.

use super::*;

/// A counter of things to take, with the event that announces them.
struct Stock {
    event: Event,
    things: AtomicU32,
}

impl Stock {
    fn new() -> loom::sync::Arc<Self> {
        loom::sync::Arc::new(Self { event: Event::new(), things: AtomicU32::new(0) })
    }

    fn put(&self) {
        self.things.fetch_add(1, Ordering::Release);
        self.event.notify(1, MODE, || {});
    }

    /// Lock-free as a ring's claim is: fails only if there is nothing.
    fn take(&self) -> ControlFlow<()> {
        let mut now = self.things.load(Relaxed);
        while now > 0 {
            // Acquire: as a ring's claim.
            match self.things.compare_exchange(now, now - 1, Ordering::Acquire, Relaxed) {
                Ok(_) => return ControlFlow::Break(()),
                Err(changed) => now = changed,
            }
        }
        ControlFlow::Continue(())
    }

    fn wait(&self) {
        self.event.wait(&Still, &Pace::default(), None, || self.take()).expect("no deadline");
    }
}

/// A sleeper that is not woken is a deadlock, which loom reports.
#[test]
fn event_wakes_one_sleeper() {
    explore(None, move || {
        let stock = Stock::new();
        let (of_putter, of_taker) = (stock.clone(), stock.clone());
        let jobs: Vec<Job> = vec![Box::new(move || of_putter.put()), Box::new(move || of_taker.wait())];
        (jobs, Box::new(move || assert_eq!(stock.things.load(Relaxed), 0)))
    });
}

/// Two sleepers, two things put by one thread: each put wakes one.
#[test]
fn event_wakes_as_many_as_there_are_things() {
    explore(Some(2), move || {
        let stock = Stock::new();
        let (of_putter, first, second) = (stock.clone(), stock.clone(), stock.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                of_putter.put();
                of_putter.put();
            }),
            Box::new(move || first.wait()),
            Box::new(move || second.wait()),
        ];
        (jobs, Box::new(move || assert_eq!(stock.things.load(Relaxed), 0)))
    });
}

/// Two putters, one sleeper that takes twice: a ticket answered by one notifier must not hide it from the other.
#[test]
fn event_is_not_answered_too_early() {
    explore(Some(2), move || {
        let stock = Stock::new();
        let (first, second, of_taker) = (stock.clone(), stock.clone(), stock.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || first.put()),
            Box::new(move || second.put()),
            Box::new(move || {
                of_taker.wait();
                of_taker.wait();
            }),
        ];
        (jobs, Box::new(move || assert_eq!(stock.things.load(Relaxed), 0)))
    });
}

/// A sleeper that leaves after its first sleep, whoever ended that. Counts how often it was asked for the time.
struct Leaver(core::cell::Cell<u32>);

impl Surroundings for Leaver {
    fn fence_mode(&self) -> FenceMode {
        MODE
    }
    fn may_spin(&self) -> bool {
        false
    }
    fn look(&self) {}
    fn passed(&self, _: Deadline) -> bool {
        self.0.replace(self.0.get() + 1) == 2
    }
}

/// Two sleepers and one thing; one of them leaves at its deadline without having taken it. If the wake was spent on that
/// one, it must be passed on.
#[test]
fn event_passes_the_wake_of_a_leaver_on() {
    explore(Some(2), move || {
        let stock = Stock::new();
        let over = loom::sync::Arc::new(AtomicU32::new(0));
        let (of_putter, of_leaver, of_taker) = (stock.clone(), stock.clone(), stock.clone());
        let is_over = over.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || of_putter.put()),
            Box::new(move || {
                let take_nothing = || match is_over.load(Relaxed) {
                    0 => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                };
                of_leaver.event.wait(&Leaver(0.into()), &Pace::default(), Some(Deadline(0)), take_nothing);
            }),
            Box::new(move || {
                of_taker.wait();
                // What the leaver's clock would do.
                over.store(1, Relaxed);
                of_taker.event.notify(ALL, MODE, || {});
            }),
        ];
        (jobs, Box::new(move || assert_eq!(stock.things.load(Relaxed), 0)))
    });
}

/// One sleeper at the edge: its ticket is the one at which it answers, or the next. It wakes everybody, itself included, and
/// misses no thing.
#[test]
fn event_brings_the_halves_together_at_the_edge() {
    for distance in [FAR_APART - 1, FAR_APART, u32::MAX] {
        explore(Some(3), move || {
            let stock = Stock::new();
            stock.event.set_apart(distance.wrapping_add(5), 5);
            let (of_putter, of_taker) = (stock.clone(), stock.clone());
            let jobs: Vec<Job> = vec![
                Box::new(move || {
                    of_putter.put();
                    of_putter.put();
                }),
                Box::new(move || {
                    of_taker.wait();
                    of_taker.wait();
                    // Nothing is left, so that it takes two more tickets at least.
                    of_taker.event.wait(&Leaver(0.into()), &Pace::default(), Some(Deadline(0)), || {
                        match of_taker.event.distance() {
                            0..8 => ControlFlow::Break(()),
                            _ => ControlFlow::Continue(()),
                        }
                    });
                }),
            ];
            let check = move || {
                assert_eq!(stock.things.load(Relaxed), 0);
                assert!(stock.event.distance() < 8, "{} unanswered", stock.event.distance());
            };
            (jobs, Box::new(check))
        });
    }
}

/// One of two sleepers finds that there is something and fails to take it, as one who cannot have the memory for a message.
/// If the wake was spent on that one, it goes to the other.
#[test]
fn event_passes_the_wake_of_one_who_fails_on() {
    explore(Some(2), move || {
        let stock = Stock::new();
        let over = loom::sync::Arc::new(AtomicU32::new(0));
        let (of_putter, of_failing, of_taker) = (stock.clone(), stock.clone(), stock.clone());
        let is_over = over.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || of_putter.put()),
            Box::new(move || {
                let fail = || match of_failing.things.load(Relaxed) + is_over.load(Relaxed) {
                    0 => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(Err::<(), ()>(())),
                };
                let _ = of_failing.event.try_wait(&Still, &Pace::default(), None, fail);
            }),
            Box::new(move || {
                of_taker.wait();
                // The one that fails may have seen nothing to fail at.
                over.store(1, Relaxed);
                of_taker.event.notify(ALL, MODE, || {});
            }),
        ];
        (jobs, Box::new(move || assert_eq!(stock.things.load(Relaxed), 0)))
    });
}

/// A reactor with one doorbell, as `src/reactor.rs` has it, and the segment's bell.
struct Bell {
    stock: loom::sync::Arc<Stock>,
    bell: loom::sync::Arc<FutexWord>,
}

impl Bell {
    fn new() -> loom::sync::Arc<Self> {
        loom::sync::Arc::new(Self { stock: Stock::new(), bell: loom::sync::Arc::new(FutexWord::new()) })
    }

    fn ring(&self) {
        self.bell.word().fetch_add(1, Ordering::Release);
        self.bell.wake(ALL);
    }

    fn put(&self) {
        self.stock.things.fetch_add(1, Ordering::Release);
        self.stock.event.notify(1, MODE, || self.ring());
    }

    /// Waits for something and takes it, as the owner of a doorbell does that has been told.
    fn react(&self) {
        let mut armed = None;
        loop {
            let seen = self.bell.word().load(Ordering::Acquire);
            if armed.is_none_or(|armed| !self.stock.event.is_as_armed(armed)) {
                armed = Some(self.stock.event.arm(|| self.ring()));
                heavy_fence(MODE);
                if self.stock.take().is_break() {
                    return;
                }
            }
            self.bell.wait(seen, None);
        }
    }
}

/// A reactor that is not told is a deadlock.
#[test]
fn bell_rings_for_a_thing() {
    explore(Some(3), move || {
        let bell = Bell::new();
        let (of_putter, of_reactor) = (bell.clone(), bell.clone());
        let jobs: Vec<Job> = vec![Box::new(move || of_putter.put()), Box::new(move || of_reactor.react())];
        (jobs, Box::new(move || assert_eq!(bell.stock.things.load(Relaxed), 0)))
    });
}

/// Two putters, of which one may answer the other's ticket, and a reactor that is armed twice.
#[test]
fn bell_rings_again_when_it_is_armed_anew() {
    explore(Some(2), move || {
        let bell = Bell::new();
        let (first, second, of_reactor) = (bell.clone(), bell.clone(), bell.clone());
        let jobs: Vec<Job> = vec![
            Box::new(move || first.put()),
            Box::new(move || second.put()),
            Box::new(move || {
                of_reactor.react();
                of_reactor.react();
            }),
        ];
        (jobs, Box::new(move || assert_eq!(bell.stock.things.load(Relaxed), 0)))
    });
}
