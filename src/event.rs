//! The eventcount: how a blocked call sleeps until somebody commits, and why no wakeup is lost.
//!
//! ```text
//! event:   seq: u32 (the futex word)        tickets: u64 = registered:32 | answered:32
//!
//! wait:    s = seq;  registered += 1 (far from answered: wake everybody);  heavy fence;  look again;  futex_wait(seq, s)
//! notify:  (after the commit)  light fence;  t = tickets;  if registered == answered: done
//!          seq += 1;  k = futex_wake(seq, n);  if k < n: answered = max(answered, t.registered)
//! ```
//!
//! # Why no wakeup is lost
//!
//! 1. *Dekker.* The sleeper registers, then looks at the ring; the notifier commits, then looks at the tickets. The
//!    fence pair orders both, so either the sleeper's second look finds the commit, or the notifier sees the ticket.
//! 2. *A ticket that is seen wakes or is proven harmless.* The notifier that sees unanswered tickets bumps `seq` before
//!    it wakes. A registered thread that is not asleep yet compares `seq` in the kernel, under the lock the wake takes,
//!    and does not fall asleep on the old value: it looks again, after the commit.
//! 3. *Answering.* Tickets are only declared answered when the kernel's queue ran dry (`k < n`): then everybody counted
//!    in `t` had read `seq` before the bump and is awake or cannot fall asleep on it. Both numbers only grow, so there
//!    is no clearing that could overtake a new sleeper, and a killed sleeper leaks nothing but one extra wake call.
//! 4. *A wake is not wasted.* A thread that was woken and leaves without taking anything, by its deadline or with an error,
//!    passes the wake on.
//! 5. *A waker or a woken thread that is killed* is covered by whoever notices the death: every sleeper is woken. That is
//!    the sentinel; in a process without one sleepers look at the leases every [`LOOK`].
//!
//! A woken thread that is *stopped* before it takes anything keeps its wake until it goes on: what it was woken for is there
//! for whoever calls, and the next notify wakes the next sleeper.
//!
//! # Why the halves never meet while somebody sleeps
//!
//! Equal halves hide every sleeper, and the numbers wrap after 2^32 sleeps. A pool of which some always sleep never lets a
//! wake find the queue dry, so notifiers alone do not bound the distance from `answered` to `registered`. Sleepers do: one
//! that takes a ticket at a distance of [`FAR_APART`] or more wakes everybody, itself included, and answers. So the distance
//! stays below `FAR_APART` plus the threads that are between their ticket and that answer at one time, or were killed there:
//! it would take 3 * 2^30 of them. It costs one look of every sleeper in 2^30 sleeps.
//!
//! *A word that a peer has forged* can hide those who sleep, as the peer could by taking their messages. Every distance
//! is answered as a whole, also one beyond 2^31: `answered` moves to the ticket that the notifier saw if that lies between
//! the two halves as they are now. So the next sleeper brings forged halves together, and one more look later it sleeps.
//!
//! *A notifier that stands still* between its wake and its answer for so long that the numbers have gone round may answer
//! tickets it never saw. It can only hide somebody if it makes the halves equal: if the tickets meanwhile are a multiple of
//! 2^32 exactly, and the last of them is asleep.
//!
//! `seq` wraps, too. A thread would have to stand still between reading it and falling asleep while exactly a multiple of
//! 2^32 wakes happen.

use core::convert::Infallible;
use core::ops::ControlFlow;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::pace::Pace;
use crate::primitive::{
    AtomicU32, AtomicU64, FenceMode, FutexWord, Ordering, fence, heavy_fence, light_fence, spin_loop,
};

/// How a futex wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slept {
    /// A wake was spent on this thread.
    Woken,
    /// The word had changed, or a signal handler ran.
    Stale,
    /// The deadline came.
    #[cfg_attr(loom, allow(dead_code))]
    TimedOut,
}

/// How often a sleeper makes sure that nobody it may be waiting for has died.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// Looks between two looks at the clock while spinning.
const LOOKS: u32 = 8;
/// Nanoseconds of spinning after which it lets others run.
const ALONE: u64 = 2_000;

/// Unanswered tickets at which a sleeper sees to it that they are answered.
pub(crate) const FAR_APART: u32 = 1 << 30;

/// Everybody who sleeps on one event.
pub(crate) const ALL: u32 = i32::MAX as u32;

/// What a wait needs to know of its surroundings.
pub(crate) trait Surroundings {
    /// The segment's fence mode.
    fn fence_mode(&self) -> FenceMode;
    /// Whether spinning can help at all.
    fn may_spin(&self) -> bool;
    /// Called every [`Surroundings::patience`] while waiting: repair after the dead, wake whoever is concerned.
    fn look(&self);
    /// How long a sleeper sleeps before it looks.
    fn patience(&self) -> Duration {
        LOOK
    }
    /// Rings the segment's bell: see [`Event::arm`].
    fn ring(&self) {}
    /// Whether the deadline has come.
    fn passed(&self, deadline: Deadline) -> bool {
        deadline.passed()
    }
}

/// The bits of [`Event::bell`].
mod bell {
    pub(super) const QUIET: u32 = 0;
    pub(super) const ARMED: u32 = 1;
    pub(super) const RINGING: u32 = 2;
    pub(super) const STATE: u32 = 3;
    pub(super) const VERSION: u32 = 4;
}

/// What the bell of an event says as long as nobody has rung it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Armed(pub(crate) u32);

/// How many tickets are unanswered.
fn distance(tickets: u64) -> u32 {
    ((tickets >> 32) as u32).wrapping_sub(tickets as u32)
}

/// One condition that threads of any process sleep on. Sixteen bytes of shared memory, valid when zero.
#[repr(C)]
pub(crate) struct Event {
    /// Bumped before every wake; what sleepers compare. Written by notifiers, only while somebody is registered.
    seq: FutexWord,
    /// `version:30 | state:2`, see [`Event::arm`]. Reactors arm it, notifiers take it from there; the version grows by one
    /// each time that it is armed anew.
    bell: AtomicU32,
    /// `registered << 32 | answered`. `registered` is bumped by every thread about to sleep, `answered` raised by
    /// notifiers whose wake found the queue dry. Equal halves: nobody can be asleep.
    tickets: AtomicU64,
}

impl Event {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Self {
        Self { seq: FutexWord::new(), bell: AtomicU32::new(0), tickets: AtomicU64::new(0) }
    }

    /// Sets the halves apart, as sleeps do that nobody answers.
    #[cfg(any(test, loom))]
    pub(crate) fn set_apart(&self, registered: u32, answered: u32) {
        self.tickets.store(u64::from(registered) << 32 | u64::from(answered), Ordering::Relaxed);
    }

    /// How many tickets are unanswered.
    #[cfg(loom)]
    pub(crate) fn distance(&self) -> u32 {
        distance(self.tickets.load(Ordering::Relaxed))
    }

    fn word(&self) -> &AtomicU32 {
        self.seq.word()
    }

    /// Wakes up to `n` sleepers, to be called after the commit they wait for. One load when nobody sleeps. `ring` rings the
    /// segment's bell, if a doorbell is armed here.
    #[inline]
    pub(crate) fn notify(&self, n: u32, mode: FenceMode, ring: impl FnOnce()) {
        light_fence(mode);
        let tickets = self.tickets.load(Ordering::Relaxed);
        if (tickets >> 32) as u32 != tickets as u32 {
            self.wake(n, tickets, ring);
        }
    }

    /// Takes a ticket, in front of the heavy fence and the decisive look.
    fn register(&self, ring: impl FnOnce()) {
        // Release: whoever sees the ticket of a doorbell sees it armed.
        let before = self.tickets.fetch_add(1 << 32, Ordering::Release);
        if distance(before) >= FAR_APART {
            // Our own ticket is not among those: we have read `seq` already, do not fall asleep on it, and take another.
            self.wake(ALL, before, ring);
        }
    }

    #[cold]
    fn wake(&self, n: u32, seen: u64, ring: impl FnOnce()) {
        // Release: a waiter whose futex call finds the new value and returns at once must also find the commit.
        self.word().fetch_add(1, Ordering::Release);
        self.ring_if_armed(ring);
        if self.seq.wake(n) >= n {
            return;
        }
        self.answer(seen);
    }

    /// Declares all tickets answered that are counted in `seen`.
    fn answer(&self, seen: u64) {
        let registered = (seen >> 32) as u32;
        let mut now = seen;
        // While it lies in front of what is answered now, and not in front of what is registered now.
        while (1..=distance(now)).contains(&registered.wrapping_sub(now as u32)) {
            let answered = now & !0xffff_ffff | u64::from(registered);
            match self.tickets.compare_exchange_weak(now, answered, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(changed) => now = changed,
            }
        }
    }

    /// Asks the next notifier to ring the segment's bell, and takes a ticket, so that it looks. The heavy fence and a look at what
    /// is waited for must follow. Returns what [`Event::is_as_armed`] compares. The proof is in `src/reactor.rs`.
    ///
    /// ```text
    /// bell: u32 = version:30 | state:2
    ///
    /// QUIET ──arm, next version──▶ ARMED ──a notifier──▶ RINGING ──after the wake──▶ QUIET
    ///                                ▲                      │
    ///                                └── arm, next version ─┘
    /// ```
    pub(crate) fn arm(&self, ring: impl FnOnce()) -> Armed {
        // Acquire: if another process has armed it, whoever sees our ticket must see that, too.
        let mut now = self.bell.load(Ordering::Acquire);
        while now & bell::STATE != bell::ARMED {
            let armed = (now & !bell::STATE).wrapping_add(bell::VERSION) | bell::ARMED;
            // Release: whoever rings for it sees what the reactor has noted.
            match self.bell.compare_exchange_weak(now, armed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => now = armed,
                Err(changed) => now = changed,
            }
        }
        self.register(ring);
        Armed(now)
    }

    /// Whether no notifier has begun to ring since it was armed.
    pub(crate) fn is_as_armed(&self, armed: Armed) -> bool {
        // Acquire: the look comes after.
        self.bell.load(Ordering::Acquire) == armed.0
    }

    /// A notifier's part. It says RINGING before the segment's bell changes, so that a reactor that wakes finds the change; and it
    /// says QUIET only after its wake, so that another notifier does not rely on one that has been stopped.
    fn ring_if_armed(&self, ring: impl FnOnce()) {
        // Pairs with the Release of `register`: if the ticket was a doorbell's, it is seen armed, or what became of that.
        fence(Ordering::Acquire);
        let mut now = self.bell.load(Ordering::Acquire);
        while now & bell::STATE == bell::ARMED {
            let ringing = now & !bell::STATE | bell::RINGING;
            match self.bell.compare_exchange_weak(now, ringing, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => now = ringing,
                Err(changed) => now = changed,
            }
        }
        if now & bell::STATE != bell::QUIET {
            ring();
            // It fails if a reactor has armed it anew. Release: whoever finds it quiet comes after the wake.
            let _ = self.bell.compare_exchange(now, now & !bell::STATE, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Calls `attempt` until it breaks or `deadline` passes, sleeping in between; `None` is the deadline. When it breaks, the
    /// caller has what was waited for.
    ///
    /// Whoever makes `attempt` succeed must call [`Event::notify`] afterwards.
    pub(crate) fn wait<R>(
        &self,
        surroundings: &impl Surroundings,
        pace: &Pace,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut() -> ControlFlow<R>,
    ) -> Option<R> {
        let attempt = || attempt().map_break(Ok::<R, Infallible>);
        self.try_wait(surroundings, pace, deadline, attempt).map(|Ok(result)| result)
    }

    /// As [`Event::wait`], for attempts that may end in vain: with `Err` the caller has taken nothing, and a wake that was
    /// spent on it goes to another sleeper.
    pub(crate) fn try_wait<T, E>(
        &self,
        surroundings: &impl Surroundings,
        pace: &Pace,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut() -> ControlFlow<Result<T, E>>,
    ) -> Option<Result<T, E>> {
        if let ControlFlow::Break(result) = attempt() {
            return Some(result);
        }
        if deadline.is_some_and(|deadline| surroundings.passed(deadline)) {
            return None;
        }
        let may_spin = surroundings.may_spin();
        // What comes at once comes before the first look at the clock.
        if may_spin && let Some(result) = look(0, &mut attempt) {
            return Some(result);
        }
        let mut begin = Deadline::now();
        let time = if may_spin { pace.spin() } else { None };
        if let Some(time) = time {
            if let Some(result) = spin(pace, time, begin, deadline, &mut attempt) {
                return Some(result);
            }
            begin = Deadline::now();
        }
        let result = self.sleep(surroundings, deadline, attempt);
        pace.slept(begin.elapsed(), time.is_some());
        result
    }

    /// The part of a wait in which it sleeps.
    fn sleep<T, E>(
        &self,
        surroundings: &impl Surroundings,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut() -> ControlFlow<Result<T, E>>,
    ) -> Option<Result<T, E>> {
        let mode = surroundings.fence_mode();
        let mut woken = Woken { event: self, surroundings, in_hand: false };
        let mut look = Deadline::now().plus(surroundings.patience());
        loop {
            // Acquire: pairs with the Release bump, see `wake`.
            let seq = self.word().load(Ordering::Acquire);
            self.register(|| surroundings.ring());
            heavy_fence(mode);
            if let ControlFlow::Break(result) = attempt() {
                return Some(woken.ends_with(result));
            }
            if deadline.is_some_and(|deadline| surroundings.passed(deadline)) {
                return None;
            }
            let until = match (deadline, look) {
                (Some(d), Some(l)) => Some(d.min(l)),
                (d, l) => d.or(l),
            };
            woken.in_hand |= self.seq.wait(seq, until) == Slept::Woken;
            // By the clock, not by how the sleep ended: one who is woken often must look, too.
            if look.is_some_and(Deadline::passed) {
                surroundings.look();
                look = Deadline::now().plus(surroundings.patience());
            }
            // Mostly there is something now, and another fence may take microseconds.
            if let ControlFlow::Break(result) = attempt() {
                return Some(woken.ends_with(result));
            }
        }
    }
}

/// Looks a few times, with so many pauses of the processor in between.
fn look<R>(pauses: u32, attempt: &mut impl FnMut() -> ControlFlow<R>) -> Option<R> {
    for _ in 0..LOOKS {
        if let ControlFlow::Break(result) = attempt() {
            return Some(result);
        }
        (0..pauses).for_each(|_| spin_loop());
    }
    None
}

/// The part of a wait in which it spins: for so many nanoseconds, but not beyond `deadline`.
fn spin<R>(
    pace: &Pace,
    time: u64,
    begin: Deadline,
    deadline: Option<Deadline>,
    attempt: &mut impl FnMut() -> ControlFlow<R>,
) -> Option<R> {
    let end = begin.0.saturating_add(time).min(deadline.map_or(u64::MAX, |deadline| deadline.0));
    // Looks grow rarer, so that the other side's line is left to the other side.
    for pauses in (1..8).chain(core::iter::repeat(8)) {
        if let Some(result) = look(pauses, attempt) {
            pace.came(begin.elapsed());
            return Some(result);
        }
        let now = Deadline::now().0;
        if now >= end {
            break;
        }
        if now >= begin.0 + ALONE {
            std::thread::yield_now();
        }
    }
    None
}

/// A wake that was spent on a thread; if that leaves without having taken anything, by its deadline, with an error, or in a
/// panic of the attempt, it is passed on.
struct Woken<'a, S: Surroundings> {
    event: &'a Event,
    surroundings: &'a S,
    in_hand: bool,
}

impl<S: Surroundings> Woken<'_, S> {
    /// The attempt has ended like this.
    fn ends_with<T, E>(mut self, result: Result<T, E>) -> Result<T, E> {
        self.in_hand &= result.is_err();
        result
    }
}

impl<S: Surroundings> Drop for Woken<'_, S> {
    fn drop(&mut self) {
        if self.in_hand {
            self.event.notify(1, self.surroundings.fence_mode(), || self.surroundings.ring());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
