//! Those who are to come: processes that were handed a segment and have taken no end of anything in it yet.
//!
//! Until a process has joined a segment, the kernel tells nobody there of its end, and the end of a pipe that it was to take is one
//! that somebody is yet to take. So its parent sees to it: a thread, `gimmal-children`, sleeps on a descriptor of each such process,
//! and on a pipe through which that says, one byte for each segment, that it has taken an end. From then on its death is told as
//! any other.
//!
//! If it ends before, every end in the segment that nobody has taken so far counts as left by it, and whoever waits at the
//! other end is told. Which one it was to take, nobody knows. So this waits while another process that was handed the segment
//! has taken nothing yet either. The ends of queues that any number may take count only if it failed: one that ended well may
//! have had nothing to do with them.
//!
//! All of this is the parent's own memory. A fork child expects nobody. If the parent dies, its own ends are those of the dead.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::failed_to;
use crate::primitive::Ordering;
use crate::primitive::private::AtomicPtr;
use crate::segment::{Attached, fork_generation, repair};
use crate::sys::bell::Bell;
use crate::{Error, Segment, sys};

/// Those that this process expects, and the thread that watches them.
struct Registry {
    /// Of the process whose it is.
    generation: u32,
    /// Rung when there is somebody else to watch.
    bell: Bell,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    expected: Vec<Expected>,
    orphans: Vec<Orphan>,
}

/// A process that may take an end.
struct Expected {
    pid: u32,
    descriptors: Arc<Descriptors>,
    /// Nothing more comes through the pipe.
    is_silent: bool,
    /// `None`: it has taken an end there.
    segments: Vec<Option<Weak<Attached>>>,
}

struct Descriptors {
    process: OwnedFd,
    report: std::fs::File,
}

/// A segment where a process has ended before it took an end.
struct Orphan {
    pid: u32,
    failed: bool,
    segment: Weak<Attached>,
}

/// The current process's registry. Never freed.
static REGISTRY: AtomicPtr<Registry> = AtomicPtr::new(ptr::null_mut());

fn existing() -> Option<&'static Registry> {
    // SAFETY: a leaked box, published with Release.
    let registry: Option<&'static Registry> = unsafe { REGISTRY.load(Ordering::Acquire).as_ref() };
    // A fork child has its parent's, whose lock may be held for ever there.
    registry.filter(|registry| registry.generation == fork_generation())
}

/// The registry, with its thread.
fn registry() -> Result<&'static Registry, Error> {
    let failed = "watch over processes that are started";
    loop {
        if let Some(registry) = existing() {
            return Ok(registry);
        }
        let before = REGISTRY.load(Ordering::Acquire);
        let bell = Bell::new().map_err(|e| failed_to(failed)(e.into()))?;
        let new = Box::leak(Box::new(Registry { generation: fork_generation(), bell, state: Mutex::default() }));
        if REGISTRY.compare_exchange(before, new, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let registry: &'static Registry = new;
            if let Err(e) = sys::thread::spawn_quiet("gimmal-children", || registry.watch()) {
                REGISTRY.store(ptr::null_mut(), Ordering::Release);
                return Err(failed_to(failed)(e));
            }
        }
    }
}

/// What is needed to expect a process that is about to be started.
pub(super) struct Invitation {
    registry: &'static Registry,
    report: std::fs::File,
    segments: Vec<Option<Weak<Attached>>>,
}

/// Makes what `command` starts able to say that it has taken an end, by the text that is returned.
pub(super) fn invite(command: &mut Command, segments: &[Segment]) -> Result<(String, Option<Invitation>), Error> {
    if segments.is_empty() {
        return Ok((String::new(), None));
    }
    let (registry, pipe) = (registry()?, sys::process::report_pipe());
    let (report, theirs) = pipe.map_err(failed_to("make a pipe for a process"))?;
    let text = theirs.as_raw_fd().to_string();
    sys::process::leave_open(command, theirs);
    let segments = segments.iter().map(|segment| Some(Arc::downgrade(segment.attached()))).collect();
    Ok((text, Some(Invitation { registry, report: report.into(), segments })))
}

impl Invitation {
    /// Process `pid`, a child that nobody has waited for, is the one.
    pub(super) fn expect(self, pid: u32) {
        // Before Linux 5.3 nobody tells of its end.
        let Ok(process) = sys::process::pidfd_open(pid) else { return };
        let descriptors = Arc::new(Descriptors { process, report: self.report });
        let expected = Expected { pid, descriptors, is_silent: false, segments: self.segments };
        self.registry.lock().expected.push(expected);
        self.registry.bell.ring();
    }
}

/// Process `pid`, a child, has ended. When this returns, nothing of this module keeps its segments.
pub(super) fn has_ended(pid: u32, failed: bool) {
    let Some(registry) = existing() else { return };
    let mut state = registry.lock();
    if let Some(at) = state.expected.iter().position(|expected| expected.pid == pid) {
        state.end(at, failed);
        registry.bell.ring();
    }
}

/// In the process: says through the pipe that `text` describes when it takes its first end in one of the segments, which are in the
/// order in which they were handed over.
pub(super) fn report(text: &str, segments: &[Segment]) -> Result<(), Error> {
    let Ok(number) = text.parse() else { return Ok(()) };
    let pipe = sys::process::inherited_pipe(number).map_err(failed_to("reach the parent process"))?;
    let pipe = Arc::new(std::fs::File::from(pipe));
    for (segment, index) in segments.iter().zip(0u8..) {
        let pipe = Arc::clone(&pipe);
        // A parent that does not listen any more has nobody who waits.
        segment.attached().at_first_end(Box::new(move || _ = (&*pipe).write(&[index])));
    }
    Ok(())
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn watch(&self) {
        loop {
            self.bell.hush();
            let watched: Vec<(Arc<Descriptors>, bool)> =
                self.lock().expected.iter().map(|e| (Arc::clone(&e.descriptors), e.is_silent)).collect();
            let mut fds = vec![self.bell.as_fd()];
            fds.extend(watched.iter().map(|(descriptors, _)| descriptors.process.as_fd()));
            let reports = watched.iter().filter(|(_, is_silent)| !is_silent);
            fds.extend(reports.map(|(descriptors, _)| descriptors.report.as_fd()));
            let ready = sys::process::wait_any_readable(&fds);
            drop(fds);
            let mut state = self.lock();
            for (index, (descriptors, _)) in watched.iter().enumerate() {
                let same = |expected: &Expected| Arc::ptr_eq(&expected.descriptors, descriptors);
                if let Some(at) = state.expected.iter().position(same) {
                    if ready[1 + index] {
                        state.end(at, !sys::process::has_ended_well(&descriptors.process));
                    } else {
                        state.hear(at);
                    }
                }
            }
        }
    }
}

impl State {
    /// Reads what has come through the pipe.
    fn hear(&mut self, at: usize) {
        let expected = &mut self.expected[at];
        let mut indices = [0; 64];
        loop {
            match (&expected.descriptors.report).read(&mut indices) {
                Ok(0) => expected.is_silent = true,
                Ok(some) => {
                    let taken = indices[..some].iter().map(|&index| usize::from(index));
                    taken.for_each(|index| _ = expected.segments.get_mut(index).and_then(Option::take));
                    continue;
                }
                // Nothing more for now.
                Err(_) => {}
            }
            break;
        }
        if expected.segments.iter().all(Option::is_none) {
            self.expected.swap_remove(at);
        }
        self.judge();
    }

    /// The process has ended.
    fn end(&mut self, at: usize, failed: bool) {
        let (pid, before) = (self.expected[at].pid, self.expected.len());
        self.hear(at);
        if self.expected.len() == before {
            let expected = self.expected.swap_remove(at);
            let segments = expected.segments.into_iter().flatten();
            self.orphans.extend(segments.map(|segment| Orphan { pid, failed, segment }));
            self.judge();
        }
    }

    /// Tells those who wait in vain.
    fn judge(&mut self) {
        let expected = &self.expected;
        self.orphans.retain(|orphan| {
            let mut others = expected.iter().flat_map(|expected| expected.segments.iter().flatten());
            if others.any(|segment| Weak::ptr_eq(segment, &orphan.segment)) {
                return true;
            }
            if let Some(segment) = orphan.segment.upgrade() {
                repair::forsake(segment.view(), orphan.pid, orphan.failed);
            }
            false
        });
    }
}
