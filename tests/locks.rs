//! `Lock`: one holder at a time among all threads of all processes, and news of a holder's death. See also
//! `multiprocess.rs`.

mod support;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use gimmal::bytemuck::{Pod, Zeroable};
use gimmal::process::{self, Child, Context, Entry, Outcome};
use gimmal::{Array, Lock, LockError, LockGuard, Segment, Value};
use support::{LONG, die_with_parent, join_well, kill_and_reap, resume, stop, until};

const ENTRIES: [Entry; 2] = gimmal::entries![count_in_threads, hold];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

fn start(entry: &str, segment: &Segment, arguments: &[&str]) -> Child {
    process::init(&ENTRIES);
    support::process(entry).segment(segment).args(arguments).spawn().expect("start a process")
}

/// One that does not repair by itself.
fn start_without_sentinel(entry: &str, segment: &Segment, arguments: &[&str]) -> Child {
    process::init(&ENTRIES);
    let process = support::process(entry).segment(segment).args(arguments);
    process.env("GIMMAL_SENTINEL", "off").spawn().expect("start a process")
}

/// A segment, and the same seen by another participant.
fn segments() -> (Segment, Segment) {
    let segment = Segment::anonymous().unwrap();
    let other = Segment::from_fd(&segment).unwrap();
    (segment, other)
}

type Refusal<T> = LockError<LockGuard<T>>;

// --- one at a time ---

/// Numbers that are equal whenever nobody is in the middle of changing them.
type Twins = [u64; 9];

fn count(lock: &Lock<Twins>, rounds: u64) -> Result<(), Refusal<Twins>> {
    for round in 0..rounds {
        // Every way of getting it.
        let mut twins = match round % 4 {
            0 => lock.lock()?,
            1 => lock.lock_timeout(LONG)?,
            2 => lock.lock_deadline(Instant::now() + LONG)?,
            _ => loop {
                match lock.try_lock() {
                    Err(LockError::WouldBlock) => thread::yield_now(),
                    result => break result?,
                }
            },
        };
        let now = twins[0];
        for twin in twins.iter_mut() {
            assert_eq!(*twin, now, "somebody else is in here");
            // The compiler must not make one step of this.
            *twin = std::hint::black_box(now + 1);
        }
    }
    Ok(())
}

fn count_in_threads(context: &Context) -> Outcome {
    die_with_parent();
    let lock = Lock::<Twins>::open(context.segment(0)?, "twins")?;
    let rounds = context.parse(0)?;
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| count(&lock, rounds)));
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    Ok(())
}

#[test]
fn one_thread_at_a_time_is_inside_of_all_threads_of_all_processes() {
    const ROUNDS: u64 = 800;
    let (segment, other) = segments();
    let lock = Lock::<Twins>::create(&segment, "twins", [0; 9]).unwrap();
    let mut children = [(); 2].map(|()| start("count_in_threads", &segment, &[&ROUNDS.to_string()]));
    thread::scope(|scope| {
        scope.spawn(|| count(&lock, ROUNDS).unwrap());
        let lock = Lock::<Twins>::open(&other, "twins").unwrap();
        scope.spawn(move || count(&lock, ROUNDS).unwrap());
    });
    children.iter_mut().for_each(join_well);
    assert_eq!(*lock.lock().unwrap(), [6 * ROUNDS; 9]);
}

#[test]
fn a_held_lock_refuses_everybody_else_and_its_own_threads() {
    let (segment, other) = segments();
    let lock = Lock::<u32>::create(&segment, "lock", 5).unwrap();
    let again = Lock::<u32>::open(&other, "lock").unwrap();
    let guard = lock.lock().unwrap();
    for lock in [&lock, &again, &lock.clone()] {
        assert!(matches!(lock.try_lock(), Err(LockError::WouldBlock)));
        assert!(lock.try_lock().unwrap_err().is_would_block());
        assert!(matches!(lock.lock_timeout(Duration::ZERO), Err(LockError::Timeout)));
        assert!(lock.lock_timeout(Duration::from_millis(2)).unwrap_err().is_timeout());
        assert!(lock.lock_deadline(Instant::now()).unwrap_err().is_timeout());
    }
    assert_eq!(*guard, 5, "who comes in vain changes nothing");
    drop(guard);
    assert_eq!(*again.try_lock().unwrap(), 5);
    assert_eq!(*lock.lock_timeout(Duration::ZERO).unwrap(), 5);
    assert_eq!(*lock.lock_deadline(Instant::now()).unwrap(), 5);
}

#[test]
fn the_next_holder_sees_what_the_last_one_wrote() {
    let (segment, other) = segments();
    let lock = Lock::<[i64; 2]>::create(&segment, "lock", [1, -1]).unwrap();
    let again = Lock::<[i64; 2]>::open(&other, "lock").unwrap();
    for i in 0..10 {
        let (mut a, expected) = (if i % 2 == 0 { &lock } else { &again }.lock().unwrap(), [1 + i, -1 - i]);
        assert_eq!(*a, expected);
        a[0] += 1;
        *a = [a[0], -a[0]];
    }
    assert_eq!(format!("{:?}", lock.lock().unwrap()), "[11, -11]");
}

#[test]
fn a_guard_can_be_given_back_by_another_thread() {
    let (segment, other) = segments();
    let lock = Lock::<u32>::create(&segment, "lock", 0).unwrap();
    let again = Lock::<u32>::open(&other, "lock").unwrap();
    let mut guard = lock.lock().unwrap();
    *guard = 1;
    let (sender, receiver) = channel();
    let thread = thread::spawn(move || {
        let mut guard = guard;
        assert!(receiver.recv().is_ok());
        *guard += 1;
    });
    assert!(matches!(again.try_lock(), Err(LockError::WouldBlock)), "it is held wherever the guard is");
    sender.send(()).unwrap();
    assert_eq!(*again.lock_timeout(LONG).unwrap(), 2);
    thread.join().unwrap();
}

#[test]
fn a_guard_keeps_the_segment_and_the_lock_when_all_handles_are_gone() {
    let (segment, other) = segments();
    let lock = Lock::<u64>::create(&segment, "lock", 3).unwrap();
    let mut guard = lock.lock().unwrap();
    drop((lock, segment));
    *guard += 1;
    let again = Lock::<u64>::open(&other, "lock").unwrap();
    assert_eq!(other.peers().len(), 2);
    assert!(matches!(again.try_lock(), Err(LockError::WouldBlock)));
    drop(guard);
    assert_eq!(other.peers().len(), 1);
    assert_eq!(*again.try_lock().unwrap(), 4);
}

/// Who panics is alive: what it left behind is for those to judge who know.
#[test]
fn data_of_any_size_and_alignment_lies_where_it_may() {
    #[derive(Clone, Copy)]
    #[repr(C, align(64))]
    struct Wide([u8; 192]);
    // SAFETY: bytes only, and no padding: 192 is a multiple of 64.
    unsafe impl Zeroable for Wide {}
    // SAFETY: as above.
    unsafe impl Pod for Wide {}

    let segment = Segment::anonymous().unwrap();
    let nothing = Lock::create(&segment, "nothing", ()).unwrap();
    let byte = Lock::<u8>::create(&segment, "byte", 7).unwrap();
    let wide = Lock::create(&segment, "wide", Wide([3; 192])).unwrap();
    let large = Lock::<[u64; 1024]>::create(&segment, "large", [5; 1024]).unwrap();
    let guards = (nothing.lock().unwrap(), byte.lock().unwrap(), wide.lock().unwrap(), large.lock().unwrap());
    assert!(std::ptr::from_ref(guards.2.deref()).is_aligned());
    assert!(*guards.1 == 7 && guards.2.0 == [3; 192] && *guards.3 == [5; 1024]);
    let () = *guards.0;
}

#[test]
fn the_initial_value_is_the_creators() {
    let (segment, other) = segments();
    assert_eq!(*Lock::<u8>::open_or_create(&segment, "lock", 1).unwrap().lock().unwrap(), 1);
    let again = Lock::<u8>::open_or_create(&other, "lock", 2).unwrap();
    *again.lock().unwrap().deref_mut() += 1;
    assert_eq!(*Lock::<u8>::open(&segment, "lock").unwrap().lock().unwrap(), 2);
}

#[test]
fn a_lock_over_an_object_gives_that_object_and_is_held_meanwhile() {
    let (segment, other) = segments();
    let lock = Lock::create(&segment, "lock", ()).unwrap();
    let table = Array::<u32>::create(&segment, "table", 3).unwrap();
    let again = Lock::<()>::open(&other, "lock").unwrap();
    {
        let table = lock.over(&table).unwrap();
        table.write(1, &[4, 5]).unwrap();
        assert!(again.try_lock().is_err());
        assert_eq!(format!("{table:?}"), "[0, 4, 5]");
    }
    let seen = Array::<u32>::open(&other, "table").unwrap();
    assert_eq!(again.over(&seen).unwrap().to_vec(), [0, 4, 5]);
}

// --- waiting ---

#[test]
fn those_who_wait_get_it_one_after_the_other() {
    let (segment, other) = segments();
    let lock = Lock::<u32>::create(&segment, "lock", 0).unwrap();
    let again = Lock::<u32>::open(&other, "lock").unwrap();
    let guard = lock.lock().unwrap();
    let (inside, entries) = channel();
    thread::scope(|scope| {
        for i in 0..4 {
            let (lock, inside) = (if i % 2 == 0 { &lock } else { &again }, inside.clone());
            scope.spawn(move || {
                let mut guard = lock.lock_timeout(LONG).unwrap();
                *guard += 1;
                inside.send(*guard).unwrap();
            });
        }
        assert!(entries.try_recv().is_err(), "nobody is inside with us");
        drop(guard);
        let order: Vec<u32> = (0..4).map(|_| entries.recv_timeout(LONG).unwrap()).collect();
        assert_eq!(order, [1, 2, 3, 4]);
    });
}

#[test]
fn a_wait_ends_with_its_time_and_not_before() {
    let (segment, other) = segments();
    let lock = Lock::<u32>::create(&segment, "lock", 0).unwrap();
    let again = Lock::<u32>::open(&other, "lock").unwrap();
    let _guard = lock.lock().unwrap();
    for timeout in [Duration::from_millis(3), Duration::from_millis(120)] {
        let start = Instant::now();
        assert!(again.lock_timeout(timeout).unwrap_err().is_timeout());
        assert!(start.elapsed() >= timeout);
        let deadline = Instant::now() + timeout;
        assert!(again.lock_deadline(deadline).unwrap_err().is_timeout());
        assert!(Instant::now() >= deadline);
    }
}

// --- the death of a holder ---

/// Takes the locks that the arguments name, changes half of what each protects, says so, and stays.
fn hold(context: &Context) -> Outcome {
    die_with_parent();
    let segment = context.segment(0)?;
    let locks: Vec<Lock<Twins>> =
        context.args().iter().map(|name| Lock::open(segment, name.to_str().unwrap())).collect::<Result<_, _>>()?;
    let mut guards: Vec<LockGuard<Twins>> = locks.iter().map(|lock| lock.lock()).collect::<Result<_, _>>()?;
    for twins in &mut guards {
        twins[..4].fill(7);
    }
    let held = Value::<u32>::open(segment, "held")?;
    held.store(std::process::id(), Release);
    held.notify_all();
    let over = Value::<bool>::open(segment, "over")?;
    // Not asleep in a wait of ours, which would look around and repair after others.
    until("it is let go", || over.load(Acquire));
    Ok(())
}

/// A process that holds locks of these names.
fn holder(segment: &Segment, names: &[&str]) -> Child {
    let held = Value::<u32>::open_or_create(segment, "held", 0).unwrap();
    held.store(0, Release);
    Value::<bool>::open_or_create(segment, "over", false).unwrap();
    let child = start_without_sentinel("hold", segment, names);
    assert_eq!(held.wait_while_timeout(LONG, |pid| pid == 0), Ok(child.pid()));
    child
}

/// Lets all holders give back what they hold, and end.
fn let_go(segment: &Segment) {
    let over = Value::<bool>::open(segment, "over").unwrap();
    over.store(true, Release);
}

fn news<T: Pod>(result: Result<LockGuard<T>, Refusal<T>>) -> (LockGuard<T>, u32) {
    match result {
        Err(LockError::OwnerDied { guard, pid }) => (guard, pid),
        other => panic!("{other:?}", other = other.map(|_| ())),
    }
}

const HALF: Twins = [7, 7, 7, 7, 0, 0, 0, 0, 0];

#[test]
fn the_lock_of_a_killed_holder_comes_with_its_process_id_and_what_it_left() {
    let (segment, other) = segments();
    let lock = Lock::<Twins>::create(&segment, "a", [0; 9]).unwrap();
    let mut child = holder(&segment, &["a"]);
    assert!(matches!(lock.try_lock(), Err(LockError::WouldBlock)));
    assert!(kill_and_reap(&mut child));
    let error = lock.lock().unwrap_err();
    assert!(error.is_owner_died() && !error.is_timeout() && !error.is_would_block());
    assert!(error.to_string().contains(&child.pid().to_string()), "{error}");
    let mut guard = error.into_guard().unwrap();
    assert_eq!(*guard, HALF);
    *guard = [1; 9];
    // Ours now, as any lock.
    let again = Lock::<Twins>::open(&other, "a").unwrap();
    assert!(matches!(again.try_lock(), Err(LockError::WouldBlock)));
    drop(guard);
    assert_eq!(*again.lock().unwrap(), [1; 9], "the news is told once");
}

#[test]
fn one_who_sleeps_for_the_lock_hears_of_the_death() {
    let (segment, other) = segments();
    let lock = Lock::<Twins>::create(&segment, "a", [0; 9]).unwrap();
    let mut child = holder(&segment, &["a"]);
    let again = Lock::<Twins>::open(&other, "a").unwrap();
    let waiters = [thread::spawn(move || lock.lock_timeout(LONG)), thread::spawn(move || again.lock_timeout(LONG))];
    assert!(kill_and_reap(&mut child));
    // One of them with the news, the other after it.
    let (mut died, mut well) = (0, 0);
    let mut waiters = Vec::from(waiters);
    while !waiters.is_empty() {
        until("one of them has it", || waiters.iter().any(|waiter| waiter.is_finished()));
        let first = waiters.iter().position(|waiter| waiter.is_finished()).unwrap();
        match waiters.swap_remove(first).join().unwrap() {
            Ok(_guard) => well += 1,
            Err(LockError::OwnerDied { pid, .. }) => {
                assert_eq!(pid, child.pid());
                died += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!((died, well), (1, 1));
}

#[test]
fn trying_again_and_again_comes_to_the_news_too() {
    let segment = Segment::anonymous().unwrap();
    let lock = Lock::<Twins>::create(&segment, "a", [0; 9]).unwrap();
    let mut child = holder(&segment, &["a"]);
    assert!(kill_and_reap(&mut child));
    let mut result = lock.try_lock();
    until("the lock is handed over", || {
        for _ in 0..1000 {
            if matches!(result, Err(LockError::WouldBlock)) {
                result = lock.try_lock();
            }
        }
        !matches!(result, Err(LockError::WouldBlock))
    });
    assert_eq!(news(result).1, child.pid());
}

#[test]
fn all_locks_of_a_killed_holder_are_handed_over_and_no_others() {
    let segment = Segment::options().sentinel(false).anonymous().unwrap();
    let locks = ["a", "b", "c"].map(|name| Lock::<Twins>::create(&segment, name, [0; 9]).unwrap());
    let ours = Lock::<u8>::create(&segment, "ours", 0).unwrap();
    let guard = ours.lock().unwrap();
    let mut child = holder(&segment, &["a", "c"]);
    let mut living = holder(&segment, &["b"]);
    assert!(kill_and_reap(&mut child));
    let recovered = segment.recover().unwrap();
    assert_eq!((recovered.died, recovered.locks), (vec![child.pid()], 2));
    assert_eq!(segment.recover().unwrap().locks, 0);
    assert!(matches!(ours.try_lock(), Err(LockError::WouldBlock)), "the living keep theirs");
    assert!(matches!(locks[1].try_lock(), Err(LockError::WouldBlock)), "the living keep theirs");
    for lock in [&locks[0], &locks[2]] {
        let (guard, pid) = news(lock.try_lock());
        assert_eq!((*guard, pid), (HALF, child.pid()));
    }
    drop(guard);
    let_go(&segment);
    join_well(&mut living);
    assert_eq!(*locks[1].try_lock().unwrap(), HALF, "given back, not inherited");
}

/// A time-out proves nothing.
#[test]
fn a_stopped_holder_keeps_its_lock() {
    let segment = Segment::anonymous().unwrap();
    let lock = Lock::<Twins>::create(&segment, "a", [0; 9]).unwrap();
    let mut child = holder(&segment, &["a"]);
    assert!(stop(&child));
    // Long enough for it to be looked at.
    assert!(lock.lock_timeout(Duration::from_millis(250)).unwrap_err().is_timeout());
    assert_eq!(segment.recover().unwrap().died, [0_u32; 0]);
    assert!(matches!(lock.try_lock(), Err(LockError::WouldBlock)));
    resume(&child);
    let_go(&segment);
    assert_eq!(*lock.lock_timeout(LONG).unwrap(), HALF);
    join_well(&mut child);
}

#[test]
fn every_refusal_says_what_to_do() {
    let segment = Segment::anonymous().unwrap();
    let lock = Lock::<u32>::create(&segment, "lock", 1).unwrap();
    let guard = lock.lock().unwrap();
    let (busy, late) = (lock.try_lock().unwrap_err(), lock.lock_timeout(Duration::ZERO).unwrap_err());
    assert!(busy.to_string().contains("try later"), "{busy}");
    assert!(late.to_string().contains("still holds"), "{late}");
    assert_eq!((format!("{busy:?}"), format!("{late:?}")), ("WouldBlock".to_owned(), "Timeout".to_owned()));
    assert!(busy.into_guard().is_none() && late.into_guard().is_none());
    assert_eq!(format!("{lock:?}"), "Lock { held: true, .. }");
    drop(guard);
    assert_eq!(format!("{lock:?}"), "Lock { held: false, .. }");
}
