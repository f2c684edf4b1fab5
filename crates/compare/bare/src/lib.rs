//! gimmal's rings with blocking and crash safety compiled out: what both cost is the difference to gimmal.
//!
//! The rings are gimmal's own sources, not copies of them. What is missing is what surrounds them there: the look at whether
//! this process is still who it was, at whether somebody has closed the queue, at whether somebody sleeps and must be woken,
//! and the sleep itself. Ends that find nothing spin, and yield after a while.

// The sources bring their tests, which gimmal runs; here is nothing to test by itself.
#![cfg(not(test))]
#![allow(dead_code, unused_imports, reason = "the sources are gimmal's, which needs all of them")]

#[path = "../../../../src/answer.rs"]
mod answer;
#[path = "../../../../src/buffers.rs"]
mod buffers;
#[path = "../../../../src/copy.rs"]
mod copy;
#[path = "../../../../src/deadline.rs"]
mod deadline;
mod event;
#[path = "../../../../src/ids.rs"]
mod ids;
#[path = "../../../../src/layout.rs"]
mod layout;
pub mod mpmc;
#[path = "../../../../src/pace.rs"]
mod pace;
#[path = "../../../../src/primitive.rs"]
mod primitive;
#[path = "../../../../src/ring/mod.rs"]
mod ring;
pub mod spsc;
mod sys;

pub use self::mpmc::Mpmc;
pub use self::spsc::Spsc;

use core::mem::size_of;
use core::ptr::NonNull;

use deadline::Deadline;
use primitive::spin_loop;
use ring::Header;

/// As in gimmal's `event::spin`: looks between two looks at the clock, and nanoseconds after which it lets others run.
const LOOKS: u32 = 8;
const ALONE: u64 = 2_000;

/// Calls `attempt` until there is something, as gimmal's waits do while they spin; it never sleeps.
#[inline(always)]
fn spin<R>(mut attempt: impl FnMut() -> Option<R>) -> R {
    if let Some(result) = attempt() {
        return result;
    }
    let begin = Deadline::now();
    let mut pauses = 0;
    loop {
        for _ in 0..LOOKS {
            if let Some(result) = attempt() {
                return result;
            }
            (0..pauses).for_each(|_| spin_loop());
        }
        pauses = u32::min(pauses + 1, 8);
        if Deadline::now().0 >= begin.0 + ALONE {
            std::thread::yield_now();
        }
    }
}

/// Where the slots of a ring are whose header is here.
///
/// # Safety
/// The header is.
unsafe fn slots(header: NonNull<Header>) -> NonNull<u8> {
    // SAFETY: what is behind a header is at most at the end of the memory that it is in.
    unsafe { header.cast::<u8>().add(size_of::<Header>()) }
}

/// Bytes of a ring with its header.
fn bytes(stride: usize, capacity: usize) -> usize {
    assert!(capacity.is_power_of_two());
    ring::bytes(stride, capacity).expect("a ring that fits into memory")
}
