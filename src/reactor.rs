//! The reactor: one small thread per process that waits for any number of events at once, so that doorbells need no thread
//! each.
//!
//! A [`Registration`] belongs to one event of one segment and says once that there is something, by calling what it was
//! given; then it does nothing until [`Registration::again`]. The thread sleeps in one `futex_waitv`: on a word of its own,
//! for what the process's other threads ask of it, and on the *bell* of each segment, a word in the header that notifiers bump.
//!
//! ```text
//! reactor:   b = bell;  look at all that are not as they were armed;  not ready: arm, take a ticket;  heavy fence;
//!            look again;  futex_waitv(bell, b)
//! notifier:  (after the commit)  light fence;  unanswered tickets:  event ARMED -> RINGING;  bell += 1;
//!            futex_wake(bell, all);  event RINGING -> QUIET;  ...;  answer the tickets if the event's own queue ran dry
//! ```
//!
//! # Why no ring is lost
//!
//! 1. *Dekker*, as for every sleeper: the reactor arms and takes a ticket before the heavy fence and the look; the notifier
//!    commits before the light fence and its look at the tickets. So either that look finds the commit, or the notifier sees the
//!    ticket, unanswered or answered.
//! 2. *Who answers the ticket has rung, or comes after somebody's ring.* Arming precedes the ticket (Release, Acquire), so
//!    who sees the ticket sees the event ARMED or in a later state. ARMED and RINGING: it rings itself before it answers.
//!    QUIET: somebody's wake is over. In each case the event's word has left what the reactor noted, and the bell has been bumped
//!    after that and after the reactor read `b`: the reactor does not sleep on, finds the word changed, and looks.
//! 3. *Nobody relies on one who stands still.* RINGING means that the wake may not have happened: the next notifier rings, too.
//!    The step to QUIET fails if the event was armed anew meanwhile, since that has another version.
//! 4. *A notifier that is killed* has not answered the ticket. Either somebody else has, see 2, or the repairer's notify, which
//!    concerns every event of the segment, finds it unanswered, and the event ARMED or RINGING.
//! 5. *A reactor that is killed*, or a registration that is dropped, leaves an event ARMED and a ticket: one superfluous ring.
//! 6. *Several reactors* share the state of an event. Who finds it ARMED adds its ticket and notes the same version.
//! 7. *The other way round:* who asks something of the reactor puts it into the inbox, then bumps the thread's word; the thread
//!    reads the word before the inbox.
//!
//! A version has 30 bits: a reactor would have to stand still between its ticket and its look at the word while an event is armed
//! exactly 2^30 times.
//!
//! # More
//!
//! *Costs.* A ring makes each reactor with doorbells in that segment look at one word of each of its armed events there. A message
//! for which nobody is registered costs nothing: the bell is only touched by notifiers that find somebody asleep.
//!
//! *More than 127 segments* with doorbells have a thread for each 127. Before Linux 5.16, which has no `futex_waitv`, each
//! segment has one, and who asks something of it rings the bell.
//!
//! *Forks.* The child has no reactor. Registrations that it inherits are its parent's: they do nothing there. It gets a
//! reactor of its own with its own first registration.
//!
//! *Endings.* The thread holds the mapping of a segment, not the membership: that is in [`Source`], which is taken out when the
//! registration is dropped, so that a segment is left by whoever drops its last handle. Dropping waits for at most one look.

use core::ptr::NonNull;
use std::io;
use std::sync::Arc;

use crate::deadline::Deadline;
use crate::event::{Armed, Event, LOOK, Slept, Surroundings};
use crate::mutex::Mutex;
use crate::primitive::private::{AtomicU8, AtomicU32, AtomicUsize};
use crate::primitive::{FenceMode, FutexWord, Ordering, heavy_fence};
use crate::segment::{Attached, view::View};
use crate::sys::bell;
use crate::sys::futex::{self, WAITV_MAX, Words};
use crate::sys::thread::spawn_quiet;

/// Sleeps in a row that ended at once, because a word kept changing, after which the thread slows down.
const RESTLESS: u32 = 1000;

/// States of an [`Entry`].
const RUNG: u8 = 0;
/// In the inbox, to be armed.
const QUEUED: u8 = 1;
const ARMED: u8 = 2;
const ENDED: u8 = 3;

/// An [`Entry`] that has no place yet.
const NOWHERE: usize = usize::MAX;

/// The process's reactors.
static STATE: Mutex<State> = Mutex::new(State { forks: 0, threads: Vec::new() });
/// How often the process, and those before it, were forked since the first registration.
static FORKS: AtomicU32 = AtomicU32::new(0);

struct State {
    /// What [`FORKS`] was when these threads were started.
    forks: u32,
    threads: Vec<Thread>,
}

/// What the process's threads share with one reactor.
struct Thread {
    /// Bumped when there is something in the inbox.
    call: Arc<FutexWord>,
    inbox: Vec<Arc<Entry>>,
    /// The mappings of segments that it sleeps on, by address, and the registrations in each.
    segments: Vec<(usize, usize)>,
}

/// What is looked at, and what belongs to the membership. Held by the reactor while it looks.
pub(crate) struct Source {
    pub(crate) attached: Arc<Attached>,
    /// Whether there is something. Called by the reactor; takes no lock and does not wait.
    pub(crate) is_ready: Box<dyn Fn() -> bool + Send>,
}

/// A registration, as both sides see it.
struct Entry {
    view: Arc<View>,
    event: NonNull<Event>,
    mode: FenceMode,
    source: Mutex<Option<Source>>,
    tell: Box<dyn Fn() + Send + Sync>,
    state: AtomicU8,
    /// Which of the threads it belongs to.
    thread: usize,
    /// What the event's bell was when the reactor armed it. Only the reactor uses it.
    armed: AtomicU32,
    /// Its place in its group. Only the reactor uses it.
    place: AtomicUsize,
}

// SAFETY: `event` lies in the mapping that `view` keeps, and is made of atomics; everything else is shared as its type says.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

impl Entry {
    fn event(&self) -> &Event {
        // SAFETY: inside the mapping that `view` keeps.
        unsafe { self.event.as_ref() }
    }

    /// The mapping it lies in.
    fn key(&self) -> usize {
        Arc::as_ptr(&self.view).addr()
    }

    fn is_ready(&self) -> bool {
        self.source.with(|source| source.as_ref().is_some_and(|source| (source.is_ready)()))
    }

    fn arm(&self) {
        let armed = self.event().arm(|| self.view.ring());
        self.armed.store(armed.0, Ordering::Relaxed);
        let _ = self.state.compare_exchange(QUEUED, ARMED, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether somebody has begun to ring since it was armed.
    fn was_rung(&self) -> bool {
        let armed = Armed(self.armed.load(Ordering::Relaxed));
        self.state.load(Ordering::Relaxed) == ARMED && !self.event().is_as_armed(armed)
    }

    /// Says that there is something, unless the registration has ended.
    fn tell(&self) {
        let rung = |state| (state != ENDED).then_some(RUNG);
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, rung).is_ok() {
            (self.tell)();
        }
    }
}

/// One event that a reactor waits for on behalf of its owner.
pub(crate) struct Registration {
    entry: Arc<Entry>,
    forks: u32,
}

impl Registration {
    /// `tell` is called by the reactor, once, as soon as `source` is ready; it must not wait. `event`, which lies in the source's
    /// segment, is notified whenever that may have become so.
    pub(crate) fn new(
        event: NonNull<Event>,
        source: Source,
        tell: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (view, mode) = (source.attached.shared_view(), source.attached.fence_mode());
        let forks = FORKS.load(Ordering::Relaxed);
        let key = Arc::as_ptr(&view).addr();
        let (thread, _parents) = STATE.with(|state| {
            // Those of the parent, in a fork child, are dropped outside of the lock.
            let parents = (state.forks != forks).then(|| std::mem::take(&mut state.threads));
            state.forks = forks;
            state.thread_for(key).map(|thread| (thread, parents))
        })?;
        let entry = Arc::new(Entry {
            view,
            event,
            mode,
            source: Mutex::new(Some(source)),
            tell: Box::new(tell),
            state: AtomicU8::new(QUEUED),
            thread,
            armed: AtomicU32::new(0),
            place: AtomicUsize::new(NOWHERE),
        });
        post(&entry);
        Ok(Self { entry, forks })
    }

    /// Whether it was made by this process, and not by the one that was forked.
    pub(crate) fn is_ours(&self) -> bool {
        FORKS.load(Ordering::Relaxed) == self.forks
    }

    /// To be told once more, if it was told before.
    pub(crate) fn again(&self) {
        let state = &self.entry.state;
        if self.is_ours() && state.compare_exchange(RUNG, QUEUED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            post(&self.entry);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.is_ours() {
            // Whoever held it is a thread of the parent, which only looked.
            self.entry.source.release();
        }
        self.entry.state.store(ENDED, Ordering::Release);
        let source = self.entry.source.with(Option::take);
        if self.is_ours() {
            let key = self.entry.key();
            STATE.with(|state| state.threads[self.entry.thread].discount(key));
            post(&self.entry);
        }
        drop(source);
    }
}

/// Puts it into its reactor's inbox.
fn post(entry: &Arc<Entry>) {
    let call = STATE.with(|state| {
        let thread = &mut state.threads[entry.thread];
        thread.inbox.push(Arc::clone(entry));
        Arc::clone(&thread.call)
    });
    // Release: the thread reads the word before the inbox.
    call.word().fetch_add(1, Ordering::Release);
    call.wake(1);
    if !waits_for_many() {
        entry.view.ring();
    }
}

/// Whether a thread can sleep on several words.
fn waits_for_many() -> bool {
    /// 0: not asked yet. It is not worth a lock that a fork could copy.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            let many = futex::has_waitv();
            KNOWN.store(1 + u8::from(many), Ordering::Relaxed);
            many
        }
        known => known == 2,
    }
}

impl State {
    /// The thread that sleeps on this segment, with one more registration; starts it if need be.
    fn thread_for(&mut self, key: usize) -> io::Result<usize> {
        let most = if waits_for_many() { WAITV_MAX - 1 } else { 1 };
        let has = |thread: &Thread| thread.segments.iter().any(|&(other, _)| other == key);
        let found = self.threads.iter().position(has);
        let index = match found.or_else(|| self.threads.iter().position(|thread| thread.segments.len() < most)) {
            Some(index) => index,
            None => {
                let (index, call) = (self.threads.len(), Arc::new(FutexWord::new()));
                let of_thread = Arc::clone(&call);
                drop(spawn_quiet("gimmal-reactor", move || run(index, &of_thread))?);
                self.threads.push(Thread { call, inbox: Vec::new(), segments: Vec::new() });
                index
            }
        };
        let segments = &mut self.threads[index].segments;
        match segments.iter_mut().find(|(other, _)| *other == key) {
            Some((_, count)) => *count += 1,
            None => segments.push((key, 1)),
        }
        Ok(index)
    }
}

impl Thread {
    fn discount(&mut self, key: usize) {
        if let Some(at) = self.segments.iter().position(|&(other, _)| other == key) {
            self.segments[at].1 -= 1;
            if self.segments[at].1 == 0 {
                self.segments.swap_remove(at);
            }
        }
    }
}

/// A segment, as the reactor sees it.
struct Group {
    view: Arc<View>,
    /// The bell when the reactor last looked at its members.
    seen: u32,
    members: Vec<Arc<Entry>>,
}

/// The thread.
fn run(index: usize, call: &FutexWord) {
    let mut groups: Vec<Group> = Vec::new();
    let mut words = Words::default();
    let mut restless = 0;
    let mut due = Deadline::after(LOOK);
    loop {
        // Acquire: the inbox comes after.
        let called = call.word().load(Ordering::Acquire);
        let inbox = STATE.with(|state| std::mem::take(&mut state.threads[index].inbox));
        let mut todo = Vec::new();
        for entry in inbox {
            if entry.state.load(Ordering::Acquire) == ENDED {
                remove(&mut groups, &entry);
            } else {
                insert(&mut groups, &entry);
                todo.push(entry);
            }
        }
        for group in &mut groups {
            // Acquire: pairs with the bump, the look at the events comes after.
            let bell = group.view.header().bell.word().load(Ordering::Acquire);
            if bell != group.seen {
                group.seen = bell;
                todo.extend(group.members.iter().filter(|entry| entry.was_rung()).cloned());
            }
        }
        attend(todo);
        let until = look_for_the_dead(&groups, &mut due);
        let slept = if waits_for_many() {
            words.clear();
            words.push(call.word(), called);
            groups.iter().for_each(|group| words.push(group.view.header().bell.word(), group.seen));
            words.wait(until)
        } else if let Some(group) = groups.first() {
            group.view.header().bell.wait(group.seen, until)
        } else {
            call.wait(called, until)
        };
        restless = if slept == Slept::Stale { u32::saturating_add(restless, 1) } else { 0 };
        if restless > RESTLESS {
            // Only a peer that does not follow the protocol changes a word that often.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Tells those that are ready, and arms the others.
fn attend(todo: Vec<Arc<Entry>>) {
    let mut armed = Vec::new();
    for entry in todo {
        if entry.is_ready() {
            entry.tell();
        } else {
            entry.arm();
            armed.push(entry);
        }
    }
    // One fence for all; the asymmetric one is both.
    let asymmetric = armed.iter().any(|entry| entry.mode == FenceMode::Asymmetric);
    if !armed.is_empty() {
        heavy_fence(if asymmetric { FenceMode::Asymmetric } else { FenceMode::Full });
    }
    armed.iter().filter(|entry| entry.is_ready()).for_each(|entry| entry.tell());
}

fn insert(groups: &mut Vec<Group>, entry: &Arc<Entry>) {
    if entry.place.load(Ordering::Relaxed) != NOWHERE {
        return;
    }
    let at = groups.iter().position(|group| Arc::ptr_eq(&group.view, &entry.view)).unwrap_or_else(|| {
        let view = Arc::clone(&entry.view);
        let seen = view.header().bell.word().load(Ordering::Acquire);
        groups.push(Group { view, seen, members: Vec::new() });
        groups.len() - 1
    });
    entry.place.store(groups[at].members.len(), Ordering::Relaxed);
    groups[at].members.push(Arc::clone(entry));
}

fn remove(groups: &mut Vec<Group>, entry: &Arc<Entry>) {
    let place = entry.place.swap(NOWHERE, Ordering::Relaxed);
    let at = groups.iter().position(|group| Arc::ptr_eq(&group.view, &entry.view));
    let (Some(at), true) = (at, place != NOWHERE) else { return };
    let members = &mut groups[at].members;
    members.swap_remove(place);
    if let Some(moved) = members.get(place) {
        moved.place.store(place, Ordering::Relaxed);
    }
    if members.is_empty() {
        groups.swap_remove(at);
    }
}

/// Where no sentinel tells of deaths, looks for them every [`LOOK`], as every blocked call does there. Says when to come again.
fn look_for_the_dead(groups: &[Group], due: &mut Option<Deadline>) -> Option<Deadline> {
    let is_due = due.is_some_and(Deadline::passed);
    let mut until = None;
    for entry in groups.iter().filter_map(|group| group.members.first()) {
        entry.source.with(|source| {
            if let Some(source) = source
                && source.attached.patience() <= LOOK
            {
                if is_due {
                    source.attached.look();
                }
                until = Some(());
            }
        });
    }
    if is_due {
        *due = Deadline::after(LOOK);
    }
    until.and(*due)
}

/// Before a fork: nobody is changing [`STATE`].
pub(crate) fn prepare() {
    STATE.acquire();
}

/// After a fork, in the parent.
pub(crate) fn parent() {
    STATE.release();
}

/// After a fork, in the child: it has no reactor.
pub(crate) fn child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    bell::SILENT.renew();
    STATE.release();
}
