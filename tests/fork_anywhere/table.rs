//! The operations: those that are stepped through, and the rows that each child goes through.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use gimmal::process::{self, Process};
use gimmal::{
    Array, Latest, Lock, LossyQueue, Pipe, Queue, Receiver, Segment, SegmentOptions, Sender, Share, SpscQueue, Value,
    capabilities, spsc,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

const MOMENT: Duration = Duration::from_micros(100);

/// Where the named segments of this test are.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        let path = PathBuf::from(format!("/dev/shm/t-fork-anywhere-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory");
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("GIMMAL_DIR", &path) };
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Act = Box<dyn FnOnce() + Send>;

/// What is stepped through.
pub struct Operation {
    pub name: &'static str,
    /// Whether the process has inherited all it has from another one.
    pub forked: bool,
    /// Makes what must be there before, for the children and for the thread.
    pub ready: fn() -> (Stage, Act),
}

const fn operation(name: &'static str, ready: fn() -> (Stage, Act)) -> Operation {
    Operation { name, forked: false, ready }
}

pub static OPERATIONS: [Operation; 25] = [
    operation("the first segment, anonymous", || fresh(|| drop(options().anonymous().unwrap()))),
    operation("the first segment, named", || fresh(|| drop(named("first")))),
    operation("the first handle", || fresh(|| _ = Segment::inspect("nobody"))),
    operation("capabilities", || fresh(|| _ = capabilities())),
    operation("process::init and spawn", || {
        fresh(|| {
            process::init(&[("nothing", |_| Ok(()))]);
            assert!(Process::new("nobody").spawn().is_err());
        })
    }),
    operation("open, clone and leave", || {
        let segment = named("again");
        staged(move |_| {
            let again = Segment::open(segment.name().unwrap()).unwrap();
            drop(again.clone());
            drop(again);
        })
    }),
    operation("list, inspect, clean", || {
        let segment = named("listed");
        staged(move |_| {
            assert!(!Segment::list().unwrap().is_empty());
            Segment::inspect(segment.name().unwrap()).unwrap();
            Segment::clean().unwrap();
        })
    }),
    operation("unlink", || {
        let segment = named("removed");
        staged(move |_| Segment::unlink(segment.name().unwrap()).unwrap())
    }),
    operation("create an object", || staged(|stage| drop(Value::<u64>::create(&stage.segment, "more", 0).unwrap()))),
    operation("handle and open", || {
        staged(|stage| {
            let handle = stage.queue.handle();
            drop(handle.open().unwrap());
        })
    }),
    operation("peers, recover, watch", || {
        staged(|stage| {
            let _ = stage.segment.peers();
            stage.segment.recover().unwrap();
            stage.segment.watch().try_recv();
        })
    }),
    operation("ends of a queue", || {
        staged(|stage| {
            let (sender, receiver) = (stage.queue.sender().unwrap(), stage.queue.receiver().unwrap());
            drop((sender.clone(), receiver.clone()));
        })
    }),
    operation("send and receive", || {
        staged(|stage| {
            stage.sender.send(1).unwrap();
            let _ = stage.receiver.try_recv();
            while stage.receiver.recv_timeout(MOMENT).is_ok() {}
            stage.receiver.poll(MOMENT);
        })
    }),
    operation("send to a full queue", || {
        staged(|stage| {
            while stage.sender.try_send(1).is_ok() {}
            let _ = stage.sender.send_timeout(1, MOMENT);
            let _ = stage.sender.force_send(1);
        })
    }),
    operation("batches", || {
        staged(|stage| {
            let _ = stage.sender.try_send_slice(&[1, 2, 3]);
            let _ = stage.receiver.try_recv_many(&mut Vec::new(), 2);
        })
    }),
    operation("messages in place", || {
        staged(|stage| {
            let _ = stage.sender.try_reserve().map(|slot| slot.commit());
            drop(stage.sender.try_reserve());
            if let Ok(guard) = stage.receiver.try_recv_guard() {
                guard.give_back();
            }
            drop(stage.receiver.try_recv_guard());
        })
    }),
    operation("messages of bytes", || {
        staged(|stage| {
            let _ = stage.bytes.0.try_send(&[1; 100]);
            let _ = stage.bytes.0.try_reserve(10).map(|room| room.commit(5));
            drop(stage.bytes.1.try_recv());
            let mut tap = stage.bytes.1.queue().tap();
            let _ = tap.try_next();
        })
    }),
    operation("a queue without a bound", || {
        let segment = options().anonymous().unwrap();
        let queue = Queue::<u64>::options().unbounded(16 << 20).create::<u64>(&segment, "unbounded").unwrap();
        staged(move |_| {
            queue.sender().unwrap().try_send(7).unwrap();
            assert_eq!(queue.receiver().unwrap().try_recv(), Ok(7));
        })
    }),
    operation("exclusive ends", || {
        let segment = options().anonymous().unwrap();
        let queue = SpscQueue::<u64>::create(&segment, "seats", 8).unwrap();
        let (mut first, second) = Pipe::pair::<[u8], u64>(&segment, "both", 256).unwrap();
        staged(move |_| {
            exclusive(queue.sender().unwrap(), queue.receiver().unwrap());
            first.send(&[1]).unwrap();
            drop((first, second));
        })
    }),
    operation("streams and lossy queues", || {
        let segment = options().anonymous().unwrap();
        let queue = SpscQueue::<[u8]>::create(&segment, "stream", 256).unwrap();
        let lossy = LossyQueue::<u64>::create(&segment, "lossy", 4).unwrap();
        staged(move |_| {
            stream(&queue);
            lossy.sender().unwrap().send(1).unwrap();
            assert_eq!(lossy.receiver().unwrap().try_recv(), Ok(1));
        })
    }),
    operation("values and arrays", || {
        staged(|stage| {
            stage.value.fetch_add(1, Relaxed);
            stage.value.notify_all();
            let _ = stage.value.wait_while_timeout(MOMENT, |_| true);
            stage.array.fill(3);
        })
    }),
    operation("latest", || {
        staged(|stage| {
            let _ = stage.latest.store_timeout(&[1; 9], MOMENT);
            let _ = stage.latest.update(|value| value[0] += 1);
            let _ = stage.latest.wait_changed_timeout(stage.latest.version(), MOMENT);
        })
    }),
    operation("lock", || {
        staged(|stage| {
            let guard = stage.lock.lock_timeout(MOMENT);
            let _ = stage.lock.lock_timeout(MOMENT);
            drop(guard);
        })
    }),
    operation("closing", || {
        staged(|stage| {
            let _ = stage.sender.try_send(1);
            stage.queue.close();
            while stage.receiver.try_recv().is_ok() {}
        })
    }),
    Operation {
        name: "a fork child's first operation",
        forked: true,
        ready: || staged(|stage| _ = stage.sender.try_send(1)),
    },
];

/// What a child has inherited: nothing that is known, or handles.
pub struct Stage {
    ends: Option<Ends>,
}

/// The first use of gimmal in this process.
fn fresh(act: fn()) -> (Stage, Act) {
    (Stage { ends: None }, Box::new(act))
}

/// Used handles, of which the thread has some of its own.
fn staged(act: impl FnOnce(&Ends) + Send + 'static) -> (Stage, Act) {
    let segment = options().anonymous().unwrap();
    let ends = Ends::of(&segment, "");
    let own = ends.clone();
    (Stage { ends: Some(ends) }, Box::new(move || act(&own)))
}

/// Small tables: they are looked through an instruction at a time.
fn options() -> SegmentOptions {
    Segment::options().size(256 << 10).max_participants(8)
}

fn named(name: &str) -> Segment {
    options().create(&format!("{name}-{}", std::process::id())).unwrap()
}

/// Ends of all objects of one segment.
#[derive(Clone)]
pub struct Ends {
    segment: Segment,
    queue: Queue<u64>,
    sender: Sender<u64>,
    receiver: Receiver<u64>,
    bytes: (Sender<[u8]>, Receiver<[u8]>),
    spsc: SpscQueue<u64>,
    value: Value<u64>,
    array: Array<u64>,
    latest: Latest<[u64; 9]>,
    lock: Lock<u64>,
}

impl Ends {
    fn of(segment: &Segment, prefix: &str) -> Self {
        let name = |name: &str| format!("{prefix}{name}");
        let queue = Queue::<u64>::options().capacity(8).create(segment, &name("queue")).unwrap();
        let bytes = Queue::<[u8]>::create(segment, &name("bytes"), 1024).unwrap();
        Self {
            sender: queue.sender().unwrap(),
            receiver: queue.receiver().unwrap(),
            queue,
            bytes: (bytes.sender().unwrap(), bytes.receiver().unwrap()),
            spsc: SpscQueue::create(segment, &name("spsc"), 8).unwrap(),
            value: Value::create(segment, &name("value"), 0).unwrap(),
            array: Array::create(segment, &name("array"), 8).unwrap(),
            latest: Latest::create(segment, &name("latest"), [0; 9]).unwrap(),
            lock: Lock::create(segment, &name("lock"), 0).unwrap(),
            segment: segment.clone(),
        }
    }

    /// Uses everything. Somebody may be stopped in the middle of using it, too: whether there is room or a message is not asked.
    fn go_through(&self) {
        let _ = self.sender.try_send(1);
        let _ = self.sender.send_timeout(2, MOMENT);
        drop((self.sender.clone(), self.queue.receiver().unwrap()));
        let _ = self.receiver.try_recv();
        while self.receiver.recv_timeout(MOMENT).is_ok() {}
        drop(self.receiver.try_recv_guard());
        let _ = self.bytes.0.try_send(&[2; 50]);
        drop(self.bytes.1.try_recv());
        if let (Ok(sender), Ok(receiver)) = (self.spsc.sender(), self.spsc.receiver()) {
            exclusive(sender, receiver);
        }
        self.value.fetch_add(1, Relaxed);
        let _ = self.value.wait_while_timeout(MOMENT, |_| true);
        self.array.fill(1);
        let _ = self.latest.store_timeout(&[5; 9], MOMENT);
        let _ = self.lock.lock_timeout(MOMENT);
        let _ = self.segment.peers();
        self.segment.recover().unwrap();
        self.segment.watch().try_recv();
    }

    /// Whether somebody, who may be stopped, is joining, leaving or making an object: then all who do so wait.
    fn is_busy(&self) -> bool {
        // SAFETY: zeros are a `flock`.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        (lock.l_type, lock.l_start, lock.l_len) = (libc::F_WRLCK as i16, 1 << 62, 1);
        fcntl(self.segment.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
        lock.l_type != libc::F_UNLCK as i16
    }
}

fn exclusive(mut sender: spsc::Sender<u64>, mut receiver: spsc::Receiver<u64>) {
    let _ = sender.send_timeout(1, MOMENT);
    let _ = receiver.try_recv_guard().map(|guard| guard.give_back());
    while receiver.recv_timeout(MOMENT).is_ok() {}
    sender.release();
    receiver.release();
}

fn stream(queue: &SpscQueue<[u8]>) {
    let (mut writer, mut reader) = (queue.sender().unwrap().into_writer(), queue.receiver().unwrap().into_reader());
    writer.write_all(b"text").unwrap();
    let mut text = [0; 4];
    reader.read_exact(&mut text).unwrap();
}

/// What a child goes through, in this order.
pub const ROWS: [&str; 8] = [
    "inherited descriptors",
    "a segment without a name",
    "objects",
    "a named segment",
    "handles",
    "processes",
    "what was inherited",
    "a child of its own",
];

/// Goes through the table; `begin` is told each row. Says whether the child could use what it had inherited, if there is something.
pub fn go_through(stage: &mut Stage, begin: impl Fn(u32)) -> bool {
    let used = catch_unwind(AssertUnwindSafe(|| {
        begin(0);
        no_locks();
        begin(1);
        let segment = options().anonymous().unwrap();
        begin(2);
        let ends = Ends::of(&segment, "");
        ends.go_through();
        stream(&SpscQueue::create(&segment, "stream", 256).unwrap());
        let unbounded = Queue::<u64>::unbounded(&segment, "unbounded").unwrap();
        unbounded.sender().unwrap().send(3).unwrap();
        assert_eq!(unbounded.receiver().unwrap().try_recv(), Ok(3));
        begin(3);
        let name = named("child").name().unwrap().to_owned();
        let named = Segment::open_or_create(&name).unwrap();
        Segment::inspect(&name).unwrap();
        Segment::list().unwrap();
        Segment::unlink(&name).unwrap();
        drop(named);
        begin(4);
        drop(ends.queue.handle().open().unwrap());
        begin(5);
        process::init(&[("another", |_| Ok(()))]);
        assert!(Process::new("nobody").spawn().is_err());
        let _ = capabilities();
        begin(6);
        let used = match &stage.ends {
            Some(ends) if ends.is_busy() => false,
            Some(ends) => {
                ends.go_through();
                true
            }
            None => true,
        };
        begin(7);
        in_a_child(|| ends.go_through());
        used
    }));
    used.unwrap_or_else(|_| {
        // SAFETY: ends the process, without destructors.
        unsafe { libc::_exit(101) }
    })
}

/// A lock on a file that this process has by a copied descriptor would be kept when its parent dies.
fn no_locks() {
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let file = std::fs::read_link(PathBuf::from("/proc/self/fd").join(entry.file_name())).unwrap_or_default();
        assert!(!text.contains("WRITE"), "{file:?} came with a lock: {text}");
    }
}

fn in_a_child(act: impl FnOnce()) {
    // SAFETY: this process has one thread that uses anything.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            nix::unistd::alarm::set(15);
            let well = catch_unwind(AssertUnwindSafe(act)).is_ok();
            // SAFETY: ends the process, without destructors.
            unsafe { libc::_exit(i32::from(!well)) }
        }
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
    }
}
