//! Loom models of the protocols: `RUSTFLAGS="--cfg loom" cargo test --release --lib models`.
//!
//! Loom misses executions unless it is led: every racing thread is spawned (main only joins), each begins with a Relaxed
//! `fetch_add` on a shared dummy, models run in both spawn orders, and the outcomes that must be seen are asserted.
//! `.ci/mutants` weakens each ordering and each step of the protocols in turn and expects a model to fail.

mod closing;
mod deaths;
mod event;
mod force;
mod latest;
mod lossy;
mod owned;
mod pages;
mod runs;
mod shared;
mod spsc;
mod stalled;
mod transfer;
mod whole;

use core::ops::ControlFlow;
use core::ptr::NonNull;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::thread;

use crate::deadline::Deadline;
use crate::event::{ALL, Event, FAR_APART, Surroundings};
use crate::ids::Ids;
use crate::layout::{SlotWord, state};
use crate::pace::Pace;
use crate::primitive::{AtomicU64, FenceMode, FutexWord, Ordering, Payload, heavy_fence};
use crate::ring::owned::{Cursor, Empty, Owned};
use crate::ring::spsc::{Position, Spsc};
use crate::ring::{Header, Slot};

/// For what needs the fence pair: sleeping and closing.
const MODE: FenceMode = FenceMode::Full;
/// For what must hold without any fence: everything else.
const FENCELESS: FenceMode = FenceMode::Asymmetric;

type Job = Box<dyn FnOnce() + Send>;

/// Explores `model` with its threads spawned in both orders. Each run of `model` gives the racing threads and what to
/// check, in main, after they have ended.
fn explore(preemptions: Option<usize>, model: impl Fn() -> (Vec<Job>, Job) + Send + Sync + 'static) {
    let model = Arc::new(model);
    for reversed in [false, true] {
        let model = Arc::clone(&model);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions;
        builder.check(move || {
            let (mut jobs, check) = model();
            if reversed {
                jobs.reverse();
            }
            let dummy = loom::sync::Arc::new(AtomicU32::new(0));
            let threads: Vec<_> = jobs
                .into_iter()
                .map(|job| {
                    let dummy = loom::sync::Arc::clone(&dummy);
                    thread::spawn(move || {
                        dummy.fetch_add(1, Relaxed);
                        job();
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            check();
        });
    }
}

/// Outcomes over all executions.
struct Seen<T>(Arc<Mutex<BTreeSet<T>>>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Ord + Debug> Seen<T> {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(BTreeSet::new())))
    }

    fn add(&self, outcome: T) {
        self.0.lock().unwrap().insert(outcome);
    }

    fn must_have(&self, wanted: impl IntoIterator<Item = T>) {
        let seen = self.0.lock().unwrap();
        for outcome in wanted {
            assert!(seen.contains(&outcome), "never saw {outcome:?}, only {seen:?}: the model is blind");
        }
    }
}

/// Ring memory that outlives the threads of one execution.
struct Memory<S> {
    header: Box<Header>,
    slots: Box<[S]>,
}

// SAFETY: payloads are touched under the protocols being modelled; loom checks that.
unsafe impl<S> Sync for Memory<S> {}

impl Memory<Slot<u64>> {
    fn owned(capacity: usize) -> Arc<Self> {
        let slot = || Slot { word: AtomicU64::new(0), payload: Payload::new(0) };
        Arc::new(Self { header: Header::new(), slots: (0..capacity).map(|_| slot()).collect() })
    }

    fn ring(&self) -> Owned<u64> {
        // SAFETY: the boxes outlive the threads of the model, which hold the Arc.
        unsafe {
            Owned::new(NonNull::from(&*self.header), NonNull::from(&self.slots[0]).cast(), self.slots.len() as u64)
        }
    }
}

impl Memory<Payload<u64>> {
    fn spsc(capacity: usize) -> Arc<Self> {
        Arc::new(Self { header: Header::new(), slots: (0..capacity).map(|_| Payload::new(0)).collect() })
    }

    fn ring(&self) -> Spsc<u64> {
        // SAFETY: as above.
        unsafe {
            Spsc::new(NonNull::from(&*self.header), NonNull::from(&self.slots[0]).cast(), self.slots.len() as u64)
        }
    }
}

/// What threads have received, in the order in which they did.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u64>>>);

impl Log {
    fn add(&self, value: u64) {
        self.0.lock().unwrap().push(value);
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A participant that died holding a slot, as the kernel proves it: everything it did is visible to the repairer.
fn dies(
    memory: &Arc<Memory<Slot<u64>>>,
    proof: &loom::sync::Arc<AtomicU32>,
    last: impl FnOnce(&Owned<u64>) + Send + 'static,
) -> Job {
    let (memory, proof) = (Arc::clone(memory), loom::sync::Arc::clone(proof));
    Box::new(move || {
        last(&memory.ring());
        proof.store(1, Ordering::Release);
    })
}

/// A sender with id `owner` of `values`, for which there is room.
fn sender(memory: &Arc<Memory<Slot<u64>>>, owner: u16, values: &'static [u64]) -> Job {
    let memory = Arc::clone(memory);
    Box::new(move || {
        let (ring, cursor) = (memory.ring(), Cursor::default());
        for &value in values {
            ring.push(&cursor, owner, FENCELESS, &value).expect("room");
        }
    })
}

/// A receiver with id `owner` that looks `looks` times.
fn receiver(memory: &Arc<Memory<Slot<u64>>>, owner: u16, looks: usize, log: &Log) -> Job {
    let (memory, log) = (Arc::clone(memory), log.clone());
    Box::new(move || {
        let (ring, cursor) = (memory.ring(), Cursor::default());
        for _ in 0..looks {
            if let Ok(value) = ring.pop(&cursor, owner) {
                log.add(value);
            }
        }
    })
}

/// All that is left, by a fresh receiver.
fn drain(memory: &Memory<Slot<u64>>) -> Vec<u64> {
    let (ring, cursor) = (memory.ring(), Cursor::default());
    core::iter::from_fn(|| ring.pop(&cursor, 9).ok()).collect()
}

fn sorted(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    values
}

/// Where an event is waited on in a model: nothing dies, nobody spins.
struct Still;

impl Surroundings for Still {
    fn fence_mode(&self) -> FenceMode {
        MODE
    }
    fn may_spin(&self) -> bool {
        false
    }
    fn look(&self) {}
}
