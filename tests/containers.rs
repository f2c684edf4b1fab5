//! Participants in different PID namespaces, process ids that are given to somebody else, and every way to end besides
//! SIGKILL. Nobody is told who repaired, only that it was done.
//!
//! No test harness: each test is a process of its own that joins nothing, and forks those who do while it has one thread.

mod support;

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use gimmal::{Array, Departure, Lock, LockError, Pipe, Queue, RecvError, Segment, SpscQueue, TryRecvError, Value};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, kill, raise, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execv, fork, getgid, getuid, pipe, read, write};
use support::{Claim, Huge, LONG, Message, Slots};

/// A step of one process that another waits for.
struct Step(OwnedFd, OwnedFd);

impl Step {
    fn new() -> Self {
        let (read, write) = pipe().unwrap();
        Self(read, write)
    }

    fn say(&self, what: u8) {
        assert_eq!(write(&self.1, &[what]), Ok(1));
    }

    fn hear(&self) -> u8 {
        let mut heard = [0];
        assert_eq!(read(&self.0, &mut heard), Ok(1));
        heard[0]
    }

    fn done(&self) {
        self.say(b'x');
    }

    fn wait(&self) {
        self.hear();
    }
}

/// Runs `child` in a forked process, which ends without leaving its segments, as if it had been killed.
fn in_child(child: impl FnOnce()) -> Pid {
    // SAFETY: whoever calls this has joined nothing, and so has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let _ = set_pdeathsig(Signal::SIGKILL);
            // One that waits for a step of a test that has failed must not stay for ever.
            nix::unistd::alarm::set(LONG.as_secs() as u32);
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).is_ok();
            leave(i32::from(!ok))
        }
    }
}

fn leave(code: i32) -> ! {
    // SAFETY: ends the process, without destructors.
    unsafe { nix::libc::_exit(code) }
}

fn reap(child: Pid) {
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "a process failed");
}

fn stop(child: Pid) {
    kill(child, Signal::SIGSTOP).unwrap();
    assert_eq!(waitpid(child, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(child, Signal::SIGSTOP)));
}

fn kill_and_reap(child: Pid) {
    kill(child, Signal::SIGKILL).unwrap();
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Signaled(child, Signal::SIGKILL, false)));
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// A segment's name that is free again at the end, whoever is dead by then.
struct Name(String);

impl Name {
    fn new(case: &str) -> Self {
        Self(format!("t-containers-{}-{case}", std::process::id()))
    }

    fn create(&self) -> Segment {
        Segment::create(&self.0).unwrap()
    }

    fn open(&self) -> Segment {
        Segment::open(&self.0).unwrap()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = Segment::unlink(&self.0);
    }
}

/// The end of a pipe whose other end's holder has died.
#[track_caller]
fn assert_died(received: Result<u64, RecvError>, pid: u32) {
    assert_eq!(received, Err(RecvError::Disconnected { peer: Departure::Died { pid } }));
}

/// A lock whose holder has died, having written `written`.
#[track_caller]
fn assert_owner_died(lock: &Lock<u64>, pid: u32, written: u64) {
    match lock.lock() {
        Err(LockError::OwnerDied { guard, pid: died }) => assert_eq!((died, *guard), (pid, written)),
        other => panic!("{other:?} instead of the news that {pid} has died"),
    }
}

// --- PID namespaces ---

/// The next process that this one forks is the first of a PID namespace.
fn enter_pid_namespace() -> nix::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    match unshare(CloneFlags::CLONE_NEWPID) {
        Err(Errno::EPERM) => {}
        entered => return entered,
    }
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUSER)?;
    // Whoever has no name there can make no files.
    let map = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text);
    let mapped = map("setgroups", "deny".to_owned())
        .and_then(|()| map("uid_map", format!("{uid} {uid} 1")))
        .and_then(|()| map("gid_map", format!("{gid} {gid} 1")));
    mapped.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EPERM)))
}

/// Whether there can be PID namespaces here; says so if not.
fn can_enter_pid_namespace() -> bool {
    const REFUSED: i32 = 77;
    let probe = in_child(|| match enter_pid_namespace() {
        Ok(()) => reap(in_child(|| assert_eq!(std::process::id(), 1))),
        Err(e) => {
            println!("skipped: no PID namespaces here: {e}");
            leave(REFUSED);
        }
    });
    match waitpid(probe, None) {
        Ok(WaitStatus::Exited(_, 0)) => true,
        Ok(WaitStatus::Exited(_, REFUSED)) => false,
        other => panic!("{other:?}"),
    }
}

/// Runs `child` in a forked process, in a PID namespace of its own if that is asked for, and `parent` in its parent.
fn in_child_of(inside: bool, parent: impl FnOnce(Pid), child: impl FnOnce()) -> Pid {
    in_child(|| {
        if inside {
            enter_pid_namespace().unwrap();
        }
        parent(in_child(child));
    })
}

/// How a survivor that cannot see the victim, being in another namespace, has things done to it by its parent.
struct Custody {
    orders: Step,
    carried_out: Step,
}

impl Custody {
    const STOP: u8 = b's';
    const CONTINUE: u8 = b'c';
    const KILL: u8 = b'k';

    fn new() -> Self {
        Self { orders: Step::new(), carried_out: Step::new() }
    }

    fn order(&self, what: u8) {
        self.orders.say(what);
        self.carried_out.wait();
    }

    fn serve(&self, victim: Pid) {
        loop {
            let order = self.orders.hear();
            match order {
                Self::STOP => stop(victim),
                Self::CONTINUE => kill(victim, Signal::SIGCONT).unwrap(),
                _ => kill_and_reap(victim),
            }
            self.carried_out.done();
            if order == Self::KILL {
                return;
            }
        }
    }
}

/// Two participants, each in the outer or in an inner namespace, talk; one is killed while it holds an end of a pipe, a lock,
/// and a slot with a message that it has not received yet.
fn death_is_seen(case: &str, victim_inside: bool, survivor_inside: bool) {
    let (name, custody, ready) = (Name::new(case), Custody::new(), Step::new());
    let victim = in_child_of(
        victim_inside,
        |victim| custody.serve(victim),
        || {
            let segment = name.create();
            let mut end = Pipe::create::<u64, u64>(&segment, "pipe", 8).unwrap();
            let mut guard = Lock::<u64>::create(&segment, "lock", 0).unwrap().lock().unwrap();
            *guard = 7;
            let queue = Queue::<Huge>::create(&segment, "queue", 4).unwrap();
            let (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
            sender.send_slice(&[Huge::make(1), Huge::make(2)]).unwrap();
            Value::<u32>::create(&segment, "pid", std::process::id()).unwrap();
            ready.done();
            for _ in 0..100 {
                let question = end.recv().unwrap();
                end.send(question + 1).unwrap();
            }
            loop {
                sender.send(receiver.recv().unwrap()).unwrap();
            }
        },
    );
    let survivor = in_child_of(survivor_inside, reap, || {
        ready.wait();
        let segment = name.open();
        let pid = Value::<u32>::open(&segment, "pid").unwrap().load(Relaxed);
        assert_eq!((pid == 1, std::process::id() == 1), (victim_inside, survivor_inside));
        let mut end = Pipe::connect::<u64, u64>(&segment, "pipe").unwrap();
        let lock = Lock::<u64>::open(&segment, "lock").unwrap();
        let queue = Queue::<Huge>::open(&segment, "queue").unwrap();
        let receiver = queue.receiver().unwrap();
        for question in 0..100 {
            end.send(question).unwrap();
            assert_eq!(end.recv(), Ok(question + 1));
        }
        assert!(lock.try_lock().is_err_and(|e| e.is_would_block()));

        let victim = segment.peers().into_iter().find(|peer| !peer.is_self).unwrap();
        let slots = Slots::of_queue(&segment, "queue");
        loop {
            custody.order(Custody::STOP);
            if matches!(slots.claims(victim.id)[..], [Claim::Reading(_)]) {
                break;
            }
            custody.order(Custody::CONTINUE);
        }
        custody.order(Custody::KILL);
        assert_died(end.recv(), pid);
        assert_owner_died(&lock, pid, 7);
        let mut values = [(); 2].map(|()| {
            let message = receiver.recv_timeout(LONG).unwrap();
            message.check().unwrap();
            message.value()
        });
        values.sort_unstable();
        assert_eq!(values, [1, 2]);
        let gone = TryRecvError::Disconnected { peer: Departure::Died { pid } };
        assert_eq!(receiver.try_recv().map(|message| message.value()), Err(gone));
    });
    reap(survivor);
    reap(victim);
}

fn death_in_an_inner_pid_namespace_is_seen_outside() {
    if can_enter_pid_namespace() {
        death_is_seen("inner", true, false);
    }
}

fn death_in_the_outer_pid_namespace_is_seen_inside() {
    if can_enter_pid_namespace() {
        death_is_seen("outer", false, true);
    }
}

fn death_is_seen_between_two_inner_pid_namespaces_where_both_have_the_same_pid() {
    if can_enter_pid_namespace() {
        death_is_seen("both", true, true);
    }
}

/// Forks a process that has the id `wanted`, which nobody has at the moment; `None` if the kernel does not let us.
fn fork_with_id(wanted: Pid, child: impl Fn()) -> Option<Pid> {
    // A thread that somebody starts in between may get it.
    for _ in 0..100 {
        if let Err(e) = fs::write("/proc/sys/kernel/ns_last_pid", (wanted.as_raw() - 1).to_string()) {
            println!("skipped: cannot choose a process id: {e}");
            return None;
        }
        let forked = in_child(&child);
        if forked == wanted {
            return Some(forked);
        }
        kill_and_reap(forked);
    }
    panic!("nobody was given the id {wanted} again");
}

fn reuse_of_a_pid(case: &str, sentinel: bool) {
    if !can_enter_pid_namespace() {
        return;
    }
    let (name, ready) = (Name::new(case), Step::new());
    let first = || {
        let victim = in_child(|| {
            let segment = name.create();
            let _end = Pipe::create::<u64, u64>(&segment, "pipe", 8).unwrap();
            let _seat = SpscQueue::<u64>::create(&segment, "spsc", 8).unwrap().sender().unwrap();
            let mut guard = Lock::<u64>::create(&segment, "lock", 0).unwrap().lock().unwrap();
            *guard = 7;
            ready.done();
            park()
        });
        ready.wait();
        let survivor = in_child(|| {
            let segment = Segment::options().sentinel(sentinel).open(&name.0).unwrap();
            let mut end = Pipe::connect::<u64, u64>(&segment, "pipe").unwrap();
            ready.done();
            let pid = victim.as_raw() as u32;
            assert_died(end.recv(), pid);
            assert_owner_died(&Lock::<u64>::open(&segment, "lock").unwrap(), pid, 7);
            SpscQueue::<u64>::open(&segment, "spsc").unwrap().sender().expect("the seat of the dead");
            // Before whoever has the id now.
            kill(victim, None).expect("somebody has the id");
        });
        ready.wait();
        // When it looks, somebody has the dead one's id.
        stop(survivor);
        kill_and_reap(victim);
        let unrelated = fork_with_id(victim, || park());
        kill(survivor, Signal::SIGCONT).unwrap();
        if let Some(unrelated) = unrelated {
            reap(survivor);
            kill_and_reap(unrelated);
        }
    };
    reap(in_child_of(true, reap, first));
}

fn death_is_seen_when_the_pid_is_somebody_elses() {
    reuse_of_a_pid("reuse", true);
}

fn death_is_seen_without_a_sentinel_when_the_pid_is_somebody_elses() {
    reuse_of_a_pid("reuse-off", false);
}

// --- other ways to end ---

/// A directory for core dumps.
struct Dumps(PathBuf);

impl Dumps {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("gimmal-dumps-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Wherever the kernel has been told to put them, it is not here, or it is removed.
    fn allow(&self) {
        std::env::set_current_dir(&self.0).unwrap();
        let _ = setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY);
    }
}

impl Drop for Dumps {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn exec(program: &str, argument: &str) {
    let words = [program, argument].map(|word| CString::new(word).unwrap());
    panic!("{program}: {:?}", execv(&words[0], &words));
}

/// A participant ends as `end` does it, with an end of a pipe and a lock; another one is blocked on it. `Some` is how the
/// process must have ended; it may also live on.
fn ending_is_death(case: &str, end: impl FnOnce(), expected: impl FnOnce(Pid) -> Option<WaitStatus>) {
    let (name, ready, go) = (Name::new(case), Step::new(), Step::new());
    let victim = in_child(|| {
        let segment = name.create();
        let _end = Pipe::create::<u64, u64>(&segment, "pipe", 8).unwrap();
        let mut guard = Lock::<u64>::create(&segment, "lock", 0).unwrap().lock().unwrap();
        *guard = 7;
        ready.done();
        go.wait();
        end();
    });
    ready.wait();
    reap(in_child(|| {
        let segment = name.open();
        let mut end = Pipe::connect::<u64, u64>(&segment, "pipe").unwrap();
        go.done();
        let pid = victim.as_raw() as u32;
        assert_died(end.recv(), pid);
        assert_owner_died(&Lock::<u64>::open(&segment, "lock").unwrap(), pid, 7);
    }));
    match expected(victim) {
        Some(status) => {
            let ended = match waitpid(victim, None).unwrap() {
                WaitStatus::Signaled(pid, signal, _dumped) => WaitStatus::Signaled(pid, signal, false),
                other => other,
            };
            assert_eq!(ended, status);
        }
        None => {
            assert_eq!(waitpid(victim, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
            kill_and_reap(victim);
        }
    }
}

fn dumping_core_is_death() {
    let dumps = Dumps::new();
    let abort = || {
        dumps.allow();
        std::process::abort();
    };
    ending_is_death("abort", abort, |pid| Some(WaitStatus::Signaled(pid, Signal::SIGABRT, false)));
    let fault = || {
        dumps.allow();
        // SAFETY: the default action replaces a handler of the standard library's, and then ends the process.
        unsafe { signal(Signal::SIGSEGV, SigHandler::SigDfl) }.unwrap();
        raise(Signal::SIGSEGV).unwrap();
    };
    ending_is_death("fault", fault, |pid| Some(WaitStatus::Signaled(pid, Signal::SIGSEGV, false)));
}

fn exit_without_leaving_is_death() {
    ending_is_death("_exit", || leave(3), |pid| Some(WaitStatus::Exited(pid, 3)));
    ending_is_death("exit", || std::process::exit(4), |pid| Some(WaitStatus::Exited(pid, 4)));
}

fn exec_ends_participation() {
    let short = || exec("/bin/true", "");
    ending_is_death("exec", short, |pid| Some(WaitStatus::Exited(pid, 0)));
    // The process lives on, under the same id.
    let long = || exec("/bin/sleep", "1000");
    ending_is_death("exec-on", long, |_| None);
}

fn exec_from_another_thread_ends_participation() {
    let long = || std::thread::spawn(|| exec("/bin/sleep", "1000")).join().unwrap();
    ending_is_death("exec-thread", long, |_| None);
}

// --- panics in the middle ---

/// A panic that prints nothing.
fn panic_quietly<T>() -> T {
    std::panic::resume_unwind(Box::new("on purpose"))
}

fn panics<R: Send>(act: impl FnOnce() -> R + Send) -> bool {
    std::thread::scope(|scope| scope.spawn(act).join().is_err())
}

fn panic_in_a_closure_leaves_nothing_stuck() {
    let (name, ready) = (Name::new("panic"), Step::new());
    let panicking = in_child(|| {
        let segment = name.create();
        let value = Value::<u64>::create(&segment, "value", 0).unwrap();
        let float = Value::<f64>::create(&segment, "float", 1.5).unwrap();
        let array = Array::<u64>::create(&segment, "array", 4).unwrap();
        let lock = Lock::<u64>::create(&segment, "lock", 0).unwrap();
        assert!(panics(|| value.update(Acquire, |_| panic_quietly())));
        assert!(panics(|| float.update(Acquire, |_| panic_quietly())));
        assert!(panics(|| value.wait_while(|_| panic_quietly())));
        assert!(panics(|| array.wait_while(|_| panic_quietly())));
        assert_eq!((value.load(Relaxed), float.load(Relaxed)), (0, 1.5));
        let poisoned = panics(|| {
            let mut guard = lock.lock().unwrap();
            *guard = 5;
            panic_quietly::<()>()
        });
        assert!(poisoned);
        // Given back on the way, with the news that its holder did not get to the end.
        assert_owner_died(&lock, std::process::id(), 5);
        ready.done();
        // Asleep beside somebody else when it is woken for its panic.
        assert!(panics(|| value.wait_while(|value| value == 0 || panic_quietly())));
        assert_eq!(value.update(Relaxed, |value| value + 1), 1);
        value.notify_all();
        *lock.lock().unwrap() += 1;
        let bell = Value::<u64>::open(&segment, "bell").unwrap();
        bell.wait_while(|bell| bell == 0);
    });
    ready.wait();
    reap(in_child(|| {
        let segment = name.open();
        let value = Value::<u64>::open(&segment, "value").unwrap();
        let lock = Lock::<u64>::open(&segment, "lock").unwrap();
        let bell = Value::<u64>::create(&segment, "bell", 0).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| value.wait_while_timeout(LONG, |value| value < 2));
            value.store(1, Release);
            value.notify_all();
            waiter.join().unwrap().expect("woken by the process in which another waiter has panicked");
        });
        while *lock.lock().unwrap() < 6 {
            std::thread::yield_now();
        }
        bell.store(1, Release);
        bell.notify_all();
    }));
    reap(panicking);
}

/// Names and functions.
macro_rules! tests {
    ($($test:ident),* $(,)?) => { [$((stringify!($test), $test as fn())),*] };
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut tests = tests![
        death_in_an_inner_pid_namespace_is_seen_outside,
        death_in_the_outer_pid_namespace_is_seen_inside,
        death_is_seen_between_two_inner_pid_namespaces_where_both_have_the_same_pid,
        death_is_seen_when_the_pid_is_somebody_elses,
        death_is_seen_without_a_sentinel_when_the_pid_is_somebody_elses,
        dumping_core_is_death,
        exit_without_leaving_is_death,
        exec_ends_participation,
        exec_from_another_thread_ends_participation,
        panic_in_a_closure_leaves_nothing_stuck,
    ]
    .to_vec();
    tests.retain(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())));
    println!("\nrunning {} tests", tests.len());
    let mut failed = 0;
    for (name, test) in &tests {
        let process = in_child(test);
        let ok = waitpid(process, None) == Ok(WaitStatus::Exited(process, 0));
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        failed += usize::from(!ok);
    }
    let (verdict, passed) = (if failed == 0 { "ok" } else { "FAILED" }, tests.len() - failed);
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n");
    std::process::exit(i32::from(failed > 0));
}
