//! The sentinel: a small thread per process that learns of deaths from the kernel, so that nobody else has to look.
//!
//! Each joined participant for which a sentinel answers has two *life words*: the id of a thread of the sentinel's, registered in that
//! thread's robust list. However the process ends, the kernel marks the words and wakes one of the sentinels that sleep on each, long
//! before it frees the lease. Every other sentinel sleeps on the same one of the two, so that one more is told if the first has
//! been stopped with the wake in its hands. Whoever is told tells all others, waits for the lease, repairs, and
//! wakes every sleeper of the segment.
//!
//! The sentinel sleeps in `futex_waitv`: on [`CALL`], and for each segment on the membership word and on one life word of every
//! other participant. One call takes 128 words. So the sentinel has *ears* ([`posts`]) where that is not enough: threads that sleep on
//! 127 words each, do nothing else, and call the sentinel when one has changed. Whatever changes, only the segment that it is
//! about is looked at, and only those threads that sleep on other words than before are disturbed.
//!
//! It looks at leases itself, every [`LOOK`], while some participant has no sentinel that answers for it (a kernel without
//! `futex_waitv`, or turned off), or the system refuses a thread that is needed. So a blocked call of a process with a sentinel
//! never looks.

mod charge;
mod posts;

use core::mem::size_of;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use self::charge::Charge;
use self::posts::{Ear, Posts};
use super::membership::Membership;
use super::view::View;
use crate::answer::Answer;
use crate::deadline::Deadline;
use crate::event::ALL;
use crate::ids::Ids;
use crate::layout::{LIFE_BYTES, MAX_PARTICIPANTS, SegmentHeader};
use crate::mutex::Mutex;
use crate::primitive::private::{AtomicBool, AtomicU16, AtomicUsize};
use crate::primitive::{FutexWord, Ordering};
use crate::sys::file::{self, Identity};
use crate::sys::futex;
use crate::sys::robust::{List, Page};
use crate::sys::thread;

/// The environment variable that turns sentinels off: `off`, `0`, `no` or `false`.
const VARIABLE: &str = "GIMMAL_SENTINEL";
/// Up to where life words lie in a segment.
const WORDS: usize = size_of::<SegmentHeader>() + (MAX_PARTICIPANTS as usize + 1) * LIFE_BYTES;
/// The kernel walks no more than 2,048 nodes of a thread: for how many participants one thread answers.
const MOST_LINKED: usize = 1000;
/// What the sentinel is called, and its ears.
const NAME: &str = "gimmal-sentinel";
/// Rounds in a row, each of less than [`SHORT`], after which the sentinel slows down.
const RESTLESS: u32 = 1000;
const SHORT: Duration = Duration::from_micros(100);

/// What the process's threads share with the sentinel.
static STATE: Mutex<State> = Mutex::new(State {
    watches: Vec::new(),
    changed: Vec::new(),
    own: BTreeMap::new(),
    rolls: Vec::new(),
    ears: Vec::new(),
    pages: Vec::new(),
});
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
    /// Those of them, and of those that were, of which the sentinel is to hear.
    changed: Vec<Arc<Watch>>,
    /// The participants of this process that are answered for, in each segment. None of them dies alone.
    own: BTreeMap<Identity, Ids>,
    /// The lists of the sentinel's threads.
    rolls: Vec<Roll>,
    /// The threads that help the sentinel.
    ears: Vec<&'static Ear>,
    /// To be used again.
    pages: Vec<Page>,
}

/// The list of one thread, and of how many participants there are words in it.
struct Roll {
    list: List,
    linked: usize,
}

/// One segment, as the sentinel sees it.
pub(super) struct Watch {
    page: Page,
    segment: Identity,
    membership: &'static Membership,
    /// Our participant id while we are attached, else 0.
    id: AtomicU16,
    /// Which of the threads answers for us then.
    roll: AtomicUsize,
    /// Where the sentinel keeps what it knows of the segment; [`NOWHERE`] if it keeps nothing.
    place: AtomicUsize,
    /// The sentinel looks in our place.
    adopted: AtomicBool,
    /// A mapping has failed half-way: the page is not to be used again.
    spoiled: AtomicBool,
    /// Held by the sentinel while it uses the segment; emptied by the one who leaves.
    view: Mutex<Option<Arc<View>>>,
}

/// Not a [`Watch::place`].
const NOWHERE: usize = usize::MAX;

/// Whether this process has sentinels by default: the kernel can, and the environment does not object.
fn offered() -> bool {
    static OFFERED: Answer = Answer::new();
    OFFERED.get(|| {
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
                if thread::spawn_quiet(NAME, run).is_err() {
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
        let segment = file::status(file).ok()?.identity;
        let page = match STATE.with(|state| state.pages.pop()) {
            Some(page) => page,
            None => Page::reserve(WORDS).ok()?,
        };
        let watch = Self {
            page,
            segment,
            membership,
            id: AtomicU16::new(0),
            roll: AtomicUsize::new(0),
            place: AtomicUsize::new(NOWHERE),
            adopted: AtomicBool::new(false),
            spoiled: AtomicBool::new(false),
            view: Mutex::new(None),
        };
        let shown = watch.page.show(file, view.geometry().size as usize).is_ok();
        watch.spoiled.store(!shown, Ordering::Relaxed);
        shown.then(|| Arc::new(watch))
    }

    /// The sentinel answers for participant `id` from now on. To be called before anybody can take us for attached.
    pub(super) fn answer_for(&self, view: &View, id: u16) {
        // In a fork child the thread is yet to be started.
        while running() {
            let linked = STATE.with(|state| {
                let Some(at) = state.rolls.iter().position(|roll| roll.linked < MOST_LINKED) else { return false };
                let roll = &mut state.rolls[at];
                view.life_offsets(id).iter().for_each(|&offset| roll.list.link(&self.page, offset));
                roll.linked += 1;
                state.own.entry(self.segment).or_default().insert(id);
                self.roll.store(at, Ordering::Relaxed);
                self.id.store(id, Ordering::Relaxed);
                true
            });
            if linked || Ear::start().is_none() {
                return;
            }
        }
    }

    /// We are attached: if the sentinel answers for us, it watches over the others, too, from now on.
    pub(super) fn begin(self: &Arc<Self>, view: &Arc<View>) {
        // In one store: a fork child finds it there or not.
        self.view.with(|place| _ = place.get_or_insert_with(|| Arc::clone(view)));
        STATE.with(|state| {
            if !state.watches.iter().any(|watch| Arc::ptr_eq(watch, self)) {
                state.watches.push(Arc::clone(self));
            }
            state.changed.push(Arc::clone(self));
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
            state.changed.push(Arc::clone(self));
            let at = state.watches.iter().position(|watch| Arc::ptr_eq(watch, self));
            at.map(|at| state.watches.swap_remove(at))
        });
    }

    /// We have left, or could not join: the sentinel answers for us no more.
    pub(super) fn unlink(&self, view: &View) {
        let id = self.id.swap(0, Ordering::Relaxed);
        STATE.with(|state| {
            if let (Some(roll), 1..) = (state.rolls.get_mut(self.roll.load(Ordering::Relaxed)), id) {
                view.life_offsets(id).iter().for_each(|&offset| roll.list.unlink(&self.page, offset));
                roll.linked -= 1;
            }
            if let Some(own) = state.own.get_mut(&self.segment) {
                own.remove(id);
                if own.is_empty() {
                    state.own.remove(&self.segment);
                }
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
        // What they name are threads of the parent. Nothing is freed here: that is not for a fork handler.
        core::mem::forget(core::mem::take(&mut state.own));
        state.rolls.clear();
        state.ears.clear();
        // The nodes are shared with the parent, and its.
        let mut pages = state.watches.iter().map(|watch| &watch.page).chain(&state.pages);
        let renewed = pages.all(|page| page.renew().is_ok());
        THREAD.word().store(if renewed { ABSENT } else { REFUSED }, Ordering::Relaxed);
        state.changed.iter().for_each(|watch| watch.place.store(NOWHERE, Ordering::Relaxed));
        for watch in &state.watches {
            watch.id.store(0, Ordering::Relaxed);
            watch.place.store(NOWHERE, Ordering::Relaxed);
            watch.adopted.store(false, Ordering::Relaxed);
            // The sentinel may have held it.
            watch.view.release();
        }
    });
}

/// Lets the calling thread answer for participants; `false` if the kernel refuses.
fn enroll() -> bool {
    let Some(list) = List::register(WORDS) else { return false };
    STATE.with(|state| state.rolls.push(Roll { list, linked: 0 }));
    true
}

/// The thread.
fn run() {
    if !enroll() {
        return set_thread(REFUSED);
    }
    set_thread(RUNNING);
    let mut rounds = Rounds { charges: Vec::new(), free: Vec::new(), dues: BTreeSet::new(), posts: Posts::new() };
    let (mut restless, mut begun) = (0, Deadline::now());
    loop {
        let called = CALL.word().load(Ordering::Acquire);
        rounds.make();
        let until = rounds.dues.first().map(|&(due, _)| due);
        rounds.posts.sleep(CALL.word(), called, until);
        let now = Deadline::now();
        restless = if begun.plus(SHORT) > Some(now) { u32::saturating_add(restless, 1) } else { 0 };
        if restless > RESTLESS {
            // Only a peer that does not follow the protocol changes a word that often.
            std::thread::sleep(Duration::from_millis(1));
        }
        begun = Deadline::now();
    }
}

/// What the thread remembers between two sleeps.
struct Rounds {
    /// By [`Watch::place`].
    charges: Vec<Option<Charge>>,
    free: Vec<usize>,
    /// When to look at a segment in any case.
    dues: BTreeSet<(Deadline, usize)>,
    posts: Posts,
}

impl Rounds {
    /// Looks at each segment that something has become of.
    fn make(&mut self) {
        for watch in STATE.with(|state| core::mem::take(&mut state.changed)) {
            self.meet(&watch);
        }
        for place in self.posts.changed() {
            self.attend(place);
        }
        while let Some(&(due, place)) = self.dues.first()
            && due.passed()
        {
            self.attend(place);
        }
        self.posts.settle();
    }

    /// A segment has come, or gone, or is to be looked at.
    fn meet(&mut self, watch: &Arc<Watch>) {
        let mut place = watch.place.load(Ordering::Relaxed);
        if place == NOWHERE {
            place = self.free.pop().unwrap_or(self.charges.len());
            self.charges.resize_with(self.charges.len().max(place + 1), || None);
            self.charges[place] = Some(Charge::new(Arc::clone(watch)));
            watch.place.store(place, Ordering::Relaxed);
        }
        self.attend(place);
    }

    fn attend(&mut self, place: usize) {
        let Some(charge) = self.charges.get_mut(place).and_then(Option::as_mut) else { return };
        let before = charge.due.take();
        before.map(|due| self.dues.remove(&(due, place)));
        match charge.attend() {
            Some(wanted) => {
                let all_heard = self.posts.listen(place, &mut charge.heard, &wanted);
                charge.set_due(all_heard);
                charge.due.map(|due| self.dues.insert((due, place)));
            }
            // It is not ours any more.
            None => {
                self.posts.listen(place, &mut charge.heard, &[]);
                charge.watch.place.store(NOWHERE, Ordering::Relaxed);
                self.charges[place] = None;
                self.free.push(place);
            }
        }
    }
}
