//! The sentinel: one small thread per process that learns of deaths from the kernel, so that nobody else has to look.
//!
//! Each joined participant for which a sentinel answers has two *life words*: the sentinel's thread id, registered in the thread's
//! robust list. However the process ends, the kernel marks the words and wakes one of the sentinels that sleep on each, long
//! before it frees the lease. Every other sentinel sleeps on the same one of the two, so that one more is told if the first has
//! been stopped with the wake in its hands. Whoever is told tells all others, waits for the lease, repairs, and
//! wakes every sleeper of the segment.
//!
//! The sentinel sleeps in one `futex_waitv`: on [`CALL`], and for each segment on the membership word and on the life words
//! of those who follow its own participant, in a circle, as many as fit. Whoever wakes looks at all life words, so the
//! deaths of a whole arc of the circle are found from its edge. If not all fit, it also looks by itself every second, since
//! those at the edge may be stopped.
//!
//! It looks at leases itself, every [`LOOK`], while some participant has no sentinel that answers for it (a kernel without
//! `futex_waitv`, or turned off), or its words do not fit. So a blocked call of a process with a sentinel never looks.

use core::mem::{offset_of, size_of};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::membership::Membership;
use super::repair;
use super::view::View;
use crate::deadline::Deadline;
use crate::event::{ALL, LOOK, Slept};
use crate::ids::Ids;
use crate::layout::{LIFE_BYTES, MAX_PARTICIPANTS, SegmentHeader};
use crate::primitive::private::{AtomicBool, AtomicU16};
use crate::primitive::{FutexWord, Ordering};
use crate::spin::Spin;
use crate::sys::futex::{self, Words};
use crate::sys::robust::{List, OWNER_DIED, Page};
use crate::sys::thread;

/// The environment variable that turns sentinels off: `off`, `0`, `no` or `false`.
const VARIABLE: &str = "GIMMAL_SENTINEL";
/// Up to where life words lie in a segment.
const WORDS: usize = size_of::<SegmentHeader>() + (MAX_PARTICIPANTS as usize + 1) * LIFE_BYTES;
/// The first pause before asking again for the lease of somebody who is ending.
const LEASE_PAUSE: Duration = Duration::from_micros(50);
/// How often to look at the life words if not all of them fit into one sleep.
const APART: Duration = Duration::from_secs(1);
/// The kernel walks no more than 2,048 nodes: beyond this many, participants of one process go without.
const MOST_LINKED: usize = 1000;
/// Sleeps in a row that ended at once, because a word kept changing, after which the sentinel slows down.
const RESTLESS: u32 = 1000;

/// What the process's threads share with the sentinel.
static STATE: Spin<State> = Spin::new(State { watches: Vec::new(), list: None, linked: 0, pages: Vec::new() });
/// Bumped when the segments to watch over change.
static CALL: FutexWord = FutexWord::new();
/// How far the thread is.
static THREAD: FutexWord = FutexWord::new();

/// States of [`THREAD`].
const ABSENT: u32 = 0;
const STARTING: u32 = 1;
const RUNNING: u32 = 2;
const REFUSED: u32 = 3;

struct State {
    /// The segments to watch over.
    watches: Vec<Arc<Watch>>,
    /// The sentinel's, once it runs.
    list: Option<List>,
    /// Participants whose life words are in the list.
    linked: usize,
    /// To be used again.
    pages: Vec<Page>,
}

/// One segment, as the sentinel sees it.
pub(super) struct Watch {
    page: Page,
    membership: &'static Membership,
    /// Our participant id while we are attached, else 0.
    id: AtomicU16,
    /// The sentinel looks in our place.
    adopted: AtomicBool,
    /// A mapping has failed half-way: the page is not to be used again.
    spoiled: AtomicBool,
    /// Held by the sentinel while it uses the segment; emptied by the one who leaves.
    view: Spin<Option<Arc<View>>>,
}

/// Whether this process has sentinels by default: the kernel can, and the environment does not object.
fn offered() -> bool {
    static OFFERED: OnceLock<bool> = OnceLock::new();
    *OFFERED.get_or_init(|| {
        let off = std::env::var_os(VARIABLE).is_some_and(|v| ["off", "0", "no", "false"].iter().any(|off| v == *off));
        !off && futex::has_waitv()
    })
}

/// Starts the thread if need be; `false` if there can be none.
fn running() -> bool {
    loop {
        let word = THREAD.word();
        match word.load(Ordering::Acquire) {
            RUNNING => return true,
            STARTING => drop(THREAD.wait(STARTING, None)),
            ABSENT if word.compare_exchange(ABSENT, STARTING, Ordering::Relaxed, Ordering::Relaxed).is_ok() => {
                if thread::spawn_quiet("gimmal-sentinel", run).is_err() {
                    set_thread(ABSENT);
                    return false;
                }
            }
            ABSENT => {}
            _ => return false,
        }
    }
}

fn set_thread(state: u32) {
    THREAD.word().store(state, Ordering::Release);
    THREAD.wake(ALL);
}

impl Watch {
    /// `None` if there can be no sentinel: blocked calls must look themselves.
    pub(super) fn new(view: &View, file: BorrowedFd<'_>, membership: &'static Membership) -> Option<Arc<Self>> {
        if !offered() || !running() {
            return None;
        }
        let page = match STATE.with(|state| state.pages.pop()) {
            Some(page) => page,
            None => Page::reserve(WORDS).ok()?,
        };
        let watch = Self {
            page,
            membership,
            id: AtomicU16::new(0),
            adopted: AtomicBool::new(false),
            spoiled: AtomicBool::new(false),
            view: Spin::new(None),
        };
        let shown = watch.page.show(file, view.geometry().size as usize).is_ok();
        watch.spoiled.store(!shown, Ordering::Relaxed);
        shown.then(|| Arc::new(watch))
    }

    /// The sentinel answers for participant `id` from now on. To be called before anybody can take us for attached.
    pub(super) fn answer_for(&self, view: &View, id: u16) {
        // In a fork child the thread is yet to be started.
        let is_running = running();
        STATE.with(|state| {
            if let (true, Some(list), 0..MOST_LINKED) = (is_running, &state.list, state.linked) {
                view.life_offsets(id).iter().for_each(|&offset| list.link(&self.page, offset));
                state.linked += 1;
                self.id.store(id, Ordering::Relaxed);
            }
        });
    }

    /// We are attached: if the sentinel answers for us, it watches over the others, too, from now on.
    pub(super) fn begin(self: &Arc<Self>, view: &Arc<View>) {
        self.view.with(|place| *place = Some(Arc::clone(view)));
        STATE.with(|state| {
            if !state.watches.iter().any(|watch| Arc::ptr_eq(watch, self)) {
                state.watches.push(Arc::clone(self));
            }
        });
        self.adopted.store(self.id.load(Ordering::Relaxed) != 0, Ordering::Relaxed);
        call();
    }

    /// We are about to leave: from now on the sentinel touches neither the segment nor the lease. It still answers for us.
    pub(super) fn stop(self: &Arc<Self>) {
        let _view = self.view.with(|view| {
            self.adopted.store(false, Ordering::Relaxed);
            view.take()
        });
        let _watch = STATE.with(|state| {
            let at = state.watches.iter().position(|watch| Arc::ptr_eq(watch, self));
            at.map(|at| state.watches.swap_remove(at))
        });
    }

    /// We have left, or could not join: the sentinel answers for us no more.
    pub(super) fn unlink(&self, view: &View) {
        let id = self.id.swap(0, Ordering::Relaxed);
        STATE.with(|state| {
            if let (Some(list), 1..) = (&state.list, id) {
                view.life_offsets(id).iter().for_each(|&offset| list.unlink(&self.page, offset));
                state.linked -= 1;
            }
        });
    }

    /// Nothing more will come of us.
    pub(super) fn end(&self, view: &View) {
        self.unlink(view);
        if self.page.hide().is_err() {
            self.spoiled.store(true, Ordering::Relaxed);
        }
        call();
    }

    /// Whether nobody else of this process needs to look for deaths.
    pub(super) fn is_adopted(&self) -> bool {
        self.adopted.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.spoiled.load(Ordering::Relaxed) {
            STATE.with(|state| state.pages.push(self.page));
        }
    }
}

/// Wakes the sentinel for a look at its segments.
fn call() {
    CALL.word().fetch_add(1, Ordering::Release);
    CALL.wake(1);
}

/// Before a fork: nobody is changing [`STATE`].
pub(super) fn prepare() {
    STATE.acquire();
}

/// After a fork, in the parent.
pub(super) fn parent() {
    STATE.release();
}

/// After a fork, in the child: there is no sentinel, and nothing to watch until we join anew.
pub(super) fn child() {
    STATE.release();
    STATE.with(|state| {
        (state.list, state.linked) = (None, 0);
        // The nodes are shared with the parent, and its.
        let mut pages = state.watches.iter().map(|watch| &watch.page).chain(&state.pages);
        let renewed = pages.all(|page| page.renew().is_ok());
        THREAD.word().store(if renewed { ABSENT } else { REFUSED }, Ordering::Relaxed);
        for watch in &state.watches {
            watch.id.store(0, Ordering::Relaxed);
            watch.adopted.store(false, Ordering::Relaxed);
            // The sentinel may have held it.
            watch.view.release();
        }
    });
}

/// The thread.
fn run() {
    let Some(list) = List::register(WORDS) else { return set_thread(REFUSED) };
    STATE.with(|state| state.list = Some(list));
    set_thread(RUNNING);
    let mut charges: Vec<Charge> = Vec::new();
    let mut words = Words::default();
    let mut restless = 0;
    loop {
        let called = CALL.word().load(Ordering::Acquire);
        let watches = STATE.with(|state| state.watches.clone());
        charges.retain(|charge| watches.iter().any(|watch| Arc::ptr_eq(watch, &charge.watch)));
        for watch in watches {
            if !charges.iter().any(|charge| Arc::ptr_eq(&charge.watch, &watch)) {
                charges.push(Charge::new(watch));
            }
        }
        words.clear();
        words.push(CALL.word(), called);
        let mut until = None;
        let mut left = charges.len();
        for charge in &mut charges {
            let share = words.room() / left;
            until = earliest(until, charge.attend(&mut words, share));
            left -= 1;
        }
        restless = if words.wait(until) == Slept::Stale { u32::saturating_add(restless, 1) } else { 0 };
        if restless > RESTLESS {
            // Only a peer that does not follow the protocol changes a word that often.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn earliest(a: Option<Deadline>, b: Option<Deadline>) -> Option<Deadline> {
    [a, b].into_iter().flatten().min()
}

/// A segment and what the sentinel remembers of it between two looks.
struct Charge {
    watch: Arc<Watch>,
    /// The membership word at the last look.
    seen: u32,
    /// Who was attached then, who was ending, and since when somebody has been.
    joined: Ids,
    dying: Ids,
    since: Option<Deadline>,
    /// When to look at the leases of those for whom no sentinel answers.
    due: Deadline,
}

impl Charge {
    fn new(watch: Arc<Watch>) -> Self {
        Self { watch, seen: 0, joined: Ids::default(), dying: Ids::default(), since: None, due: Deadline::now() }
    }

    /// Repairs after the dead, adds what to sleep on, at most `share` words, and says when to come again in any case.
    fn attend(&mut self, words: &mut Words, share: usize) -> Option<Deadline> {
        let watch = Arc::clone(&self.watch);
        watch.view.with(|view| {
            let id = watch.id.load(Ordering::Relaxed);
            let (Some(view), Some(lease), 1..) = (view, watch.membership.lease(), id) else { return None };
            // Acquire: what is seen below is at least as new.
            let membership = view.header().membership.word().load(Ordering::Acquire);
            let look = Look::at(view, id);
            if membership == self.seen && (&look.joined, &look.dying) != (&self.joined, &self.dying) {
                // The kernel has told nobody else, or somebody died before it could announce what it had done.
                view.announce();
            }
            let mut again = None;
            if look.dying.is_empty() {
                self.since = None;
            } else {
                let now = Deadline::now();
                let since = *self.since.get_or_insert(now);
                let pause = (Duration::from_nanos(now.0.saturating_sub(since.0)) / 4).clamp(LEASE_PAUSE, LOOK);
                again = now.plus(pause);
            }
            (self.seen, self.joined, self.dying) = (membership, look.joined, look.dying.clone());
            let mut suspects = look.dying;
            if share < 2 || !look.unanswered.is_empty() {
                if self.due.passed() {
                    look.unanswered.iter().for_each(|other| suspects.insert(other));
                    self.due = Deadline::now().plus(LOOK)?;
                }
                again = earliest(again, Some(self.due));
            } else if share <= look.living.len() {
                // Some are watched by others only, who may be stopped.
                again = earliest(again, Deadline::after(APART));
            }
            if !suspects.is_empty() {
                repair::repair(view, lease, watch.membership, suspects.iter());
            }
            if share > 0 {
                let word = watch.page.word(offset_of!(SegmentHeader, membership));
                words.push(word, membership);
                // Those who follow us in the circle.
                let after = look.living.partition_point(|&(other, _)| other < id);
                let circle = look.living[after..].iter().chain(&look.living[..after]);
                for &(other, life) in circle.take(share - 1) {
                    // Which of the two: every other one of those who survive it sleeps on the same.
                    let half = look.living.iter().filter(|&&(peer, _)| peer < id && peer != other).count() % 2;
                    words.push(watch.page.word(view.life_offsets(other)[half]), life[half]);
                }
            }
            again
        })
    }
}

/// The other participants, by what their life words say.
struct Look {
    /// All of them.
    joined: Ids,
    /// Their process has ended, or is about to be, as the kernel says; or somebody repairs after them.
    dying: Ids,
    /// No sentinel answers for them.
    unanswered: Ids,
    /// The others, also those who are about to join, in the order of their ids, with their words.
    living: Vec<(u16, [u32; 2])>,
}

impl Look {
    fn at(view: &View, id: u16) -> Self {
        let none = Ids::default;
        let mut look = Self { joined: none(), dying: none(), unanswered: none(), living: Vec::new() };
        for other in (1..=view.max_participants()).filter(|&other| other != id) {
            let life = view.life(other).map(|word| word.load(Ordering::Acquire));
            let joined = view.has_joined(other);
            if joined {
                look.joined.insert(other);
            }
            match life {
                _ if joined && view.is_dying(other) => look.dying.insert(other),
                [0, _] | [_, 0] if joined => look.unanswered.insert(other),
                // Not there, or not yet; or it ended before it had joined.
                [a, b] if a == 0 || b == 0 || (a | b) & OWNER_DIED != 0 => {}
                life => look.living.push((other, life)),
            }
        }
        look
    }
}
