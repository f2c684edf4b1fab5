//! A lock for the tables of one process: who waits for it sleeps, and lends its priority to the holder meanwhile.
//!
//! ```text
//! word (u32):  WAITERS:1 | 0 | thread id of the holder:30         0: nobody holds it
//! ```
//!
//! Without waiters both ends are a CAS. Who finds it held asks the kernel (FUTEX_LOCK_PI), which names the next holder itself when
//! the last one leaves (FUTEX_UNLOCK_PI). So a thread of real-time priority that waits for an ordinary one lets that run, before
//! all others of less priority than its own.
//!
//! *Without such futexes* (a kernel or a sandbox that has none) waiters sleep in plain ones, which lend nothing: they set WAITERS
//! first, keep it when they get the lock, since others may sleep, too, and are woken one by one. Who leaves and finds WAITERS
//! serves sleepers of both kinds, so it does not matter when a sandbox begins.
//!
//! *Fork.* Unlike the standard library's, it can be held around a fork and freed in the child, whose only thread has another id. A
//! child finds other locks as its parent's threads had them, for ever: those it has to [release](Mutex::release).
//!
//! *Signals.* A handler that needs a lock which its own thread holds would wait for ever; the kernel notices, and the process is
//! aborted with a message.

use core::cell::UnsafeCell;

use crate::primitive::Ordering;
use crate::primitive::private::AtomicU32;
use crate::sys::futex::{self, WAITERS};
use crate::sys::{Errno, thread};

/// Mutual exclusion between threads of this process.
pub(crate) struct Mutex<T> {
    /// See the module.
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: `with` gives the value to one thread at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Runs `section` alone.
    pub(crate) fn with<R>(&self, section: impl FnOnce(&mut T) -> R) -> R {
        struct Open<'a, T>(&'a Mutex<T>);
        impl<T> Drop for Open<'_, T> {
            fn drop(&mut self) {
                self.0.release();
            }
        }
        self.acquire();
        let _open = Open(self);
        // SAFETY: between acquire and release no other thread is here.
        section(unsafe { &mut *self.value.get() })
    }

    /// Takes the lock for longer than a section; [`Mutex::release`] gives it back.
    pub(crate) fn acquire(&self) {
        let own = thread::id();
        if !self.take(own) {
            self.wait(own);
        }
    }

    /// Takes the lock if it is free now.
    pub(crate) fn try_acquire(&self) -> bool {
        self.take(thread::id())
    }

    /// Whether this thread holds it.
    pub(crate) fn is_mine(&self) -> bool {
        self.word.load(Ordering::Relaxed) & !WAITERS == thread::id()
    }

    fn take(&self, word: u32) -> bool {
        // Acquire: what the last holder did comes before what we do.
        self.word.compare_exchange(0, word, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends what [`Mutex::acquire`] began, in the same thread. In a fork child: frees the lock, whichever thread of the parent held it;
    /// the value is as the fork has found it, so whole if that was the forking thread.
    pub(crate) fn release(&self) {
        let now = self.word.load(Ordering::Relaxed);
        // Release: pairs with `take`.
        let alone = now & WAITERS == 0;
        if !alone || self.word.compare_exchange(now, 0, Ordering::Release, Ordering::Relaxed).is_err() {
            self.hand_on();
        }
    }

    #[cold]
    fn wait(&self, own: u32) {
        loop {
            match futex::lock_pi(&self.word) {
                Ok(()) => return,
                Err(Errno::EDEADLK) => deadlock(),
                // The holder is about to end, or a signal came.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return self.wait_without_lending(own),
            }
        }
    }

    fn wait_without_lending(&self, own: u32) {
        while !self.take(own | WAITERS) {
            let now = self.word.load(Ordering::Relaxed);
            if now & !WAITERS == own {
                deadlock();
            }
            let marked = now | WAITERS;
            if now != 0 && self.word.compare_exchange(now, marked, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                futex::wait_here(&self.word, marked);
            }
        }
    }

    #[cold]
    fn hand_on(&self) {
        if futex::unlock_pi(&self.word).is_err() {
            // There are no such futexes, or this is a fork child and the word names a thread of its parent: nobody sleeps in one here.
            self.word.store(0, Ordering::Release);
        }
        futex::wake_here(&self.word);
    }
}

#[cold]
fn deadlock() -> ! {
    eprintln!(
        "gimmal: a signal handler has called gimmal, or fork, in the middle of a call of gimmal's in the same thread"
    );
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use std::fs::read_to_string;
    use std::sync::mpsc::channel;
    use std::thread::{scope, yield_now};

    use nix::libc;

    use super::*;

    const THREADS: usize = 4;
    const ROUNDS: usize = 20_000;

    fn count(acquire: fn(&Mutex<usize>, usize)) -> usize {
        let count = Mutex::new(0);
        scope(|scope| {
            for index in 0..THREADS {
                let count = &count;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        acquire(count, index + round);
                        // SAFETY: this thread holds the lock.
                        unsafe { *count.value.get() += 1 };
                        count.release();
                    }
                });
            }
        });
        assert_eq!(count.word.load(Ordering::Relaxed) & !WAITERS, 0);
        count.with(|count| *count)
    }

    #[test]
    fn one_thread_at_a_time() {
        assert_eq!(count(|lock, _| lock.acquire()), THREADS * ROUNDS);
    }

    #[test]
    fn one_thread_at_a_time_without_priority_inheritance() {
        assert_eq!(count(|lock, _| lock.wait_without_lending(thread::id())), THREADS * ROUNDS);
    }

    #[test]
    fn sleepers_of_both_kinds_are_served() {
        let either = |lock: &Mutex<usize>, n: usize| match n % 3 {
            0 => lock.acquire(),
            1 => lock.wait_without_lending(thread::id()),
            _ => {
                while !lock.try_acquire() {
                    yield_now();
                }
            }
        };
        assert_eq!(count(either), THREADS * ROUNDS);
    }

    /// Words of a file about thread `id`.
    fn about(id: u32, file: &str) -> Vec<String> {
        let text = read_to_string(format!("/proc/self/task/{id}/{file}")).expect("a thread of this process");
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Its priority as the scheduler has it: negative for the real-time classes.
    fn priority(id: u32) -> i32 {
        about(id, "stat")[17].parse().expect("a number")
    }

    #[test]
    fn who_waits_sleeps_and_lends_its_priority() {
        let lock = Mutex::new(());
        let (tell, told) = channel();
        lock.acquire();
        scope(|scope| {
            scope.spawn(|| {
                let param = libc::sched_param { sched_priority: 10 };
                // SAFETY: only changes how this thread is scheduled.
                let real_time = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) } == 0;
                tell.send((thread::id(), real_time)).expect("somebody listens");
                lock.with(|()| ());
            });
            let (waiter, real_time) = told.recv().expect("a thread");
            let (call, operation) = (libc::SYS_futex.to_string(), libc::FUTEX_LOCK_PI | libc::FUTEX_PRIVATE_FLAG);
            // Its state, then its system call and that call's arguments.
            while about(waiter, "stat")[2] != "S" || about(waiter, "syscall")[0] != call {
                yield_now();
            }
            assert_eq!(about(waiter, "syscall")[2], format!("{operation:#x}"));
            if real_time {
                assert_eq!(priority(thread::id()), priority(waiter), "nothing was lent");
            } else {
                println!(
                    "this process may not make its threads real-time: the kernel was asked, what it does was not seen"
                );
            }
            lock.release();
        });
        assert!(priority(thread::id()) >= 0, "the priority was not given back");
    }
}
