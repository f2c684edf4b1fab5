//! How many instructions a send and a receive execute, counted by callgrind: the same on every run, whatever else the machine
//! is doing, so that it can guard the fast paths in CI.
//!
//! `cargo bench --bench instructions [-- --check]`; needs `valgrind`. `--check` fails if a budget is exceeded, or undercut by so
//! much that it guards nothing.
//!
//! This program runs itself twice under callgrind for each operation, once with twice as many of them; the difference is
//! theirs. Each call is made as its users make it, by the blocking form, with nobody on the other side.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::Ordering::Relaxed;

use gimmal::{Lock, Queue, Receiver, Segment, Sender, SpscQueue, Value, spsc};

/// How often an operation is made, and twice that.
const TIMES: usize = 1024;
const BATCH: usize = 64;
/// A message of bytes.
const BYTES: [u8; 64] = [7; 64];

/// An operation, the instructions that it may take, how many of them are one call, and how to make `n`.
struct Case {
    name: &'static str,
    budget: f64,
    run: fn(&mut Stage, usize),
}

/// Instructions per message or call, for x86-64. Lower them when you have made it faster.
const CASES: [Case; 14] = [
    Case { name: "Queue send", budget: 76.0, run: |stage, n| stage.send(n) },
    Case { name: "Queue recv", budget: 73.0, run: |stage, n| stage.receive(n) },
    Case { name: "Queue send_slice of 64", budget: 44.0, run: |stage, n| stage.send_batches(n) },
    Case { name: "Queue recv_many of 64", budget: 37.0, run: |stage, n| stage.receive_batches(n) },
    Case { name: "SpscQueue send", budget: 41.0, run: |stage, n| stage.spsc_send(n) },
    Case { name: "SpscQueue recv", budget: 34.0, run: |stage, n| stage.spsc_receive(n) },
    Case { name: "SpscQueue send_slice of 64", budget: 5.0, run: |stage, n| stage.spsc_send_batches(n) },
    Case { name: "SpscQueue recv_many of 64", budget: 5.0, run: |stage, n| stage.spsc_receive_batches(n) },
    Case { name: "Queue<[u8]> send of 64 B", budget: 118.0, run: |stage, n| stage.bytes_send(n) },
    Case { name: "Queue<[u8]> recv of 64 B", budget: 206.0, run: |stage, n| stage.bytes_receive(n) },
    Case { name: "SpscQueue<[u8]> send of 64 B", budget: 84.0, run: |stage, n| stage.spsc_bytes_send(n) },
    Case { name: "SpscQueue<[u8]> recv of 64 B", budget: 83.0, run: |stage, n| stage.spsc_bytes_receive(n) },
    Case { name: "Value fetch_add", budget: 7.0, run: |stage, n| stage.add(n) },
    Case { name: "Lock lock and unlock", budget: 104.0, run: |stage, n| stage.lock(n) },
];

/// One of everything. The queues are half full, with room for all that is sent.
struct Stage {
    mpmc: (Sender<u64>, Receiver<u64>),
    spsc: (spsc::Sender<u64>, spsc::Receiver<u64>),
    bytes: (Sender<[u8]>, Receiver<[u8]>),
    spsc_bytes: (spsc::Sender<[u8]>, spsc::Receiver<[u8]>),
    value: Value<u64>,
    lock: Lock<u64>,
}

impl Stage {
    fn new() -> Self {
        let segment = Segment::options().size(4 << 20).sentinel(false).anonymous().expect("a segment");
        let mpmc = Queue::<u64>::create(&segment, "mpmc", 4 * TIMES).expect("a queue");
        let spsc = SpscQueue::<u64>::create(&segment, "spsc", 4 * TIMES).expect("a queue");
        let bytes = Queue::<[u8]>::create(&segment, "bytes", 4 * TIMES * BYTES.len()).expect("a queue");
        // Beside its bytes, a message takes its length.
        let spsc_bytes = SpscQueue::<[u8]>::create(&segment, "spsc-bytes", 8 * TIMES * BYTES.len()).expect("a queue");
        let mut stage = Self {
            mpmc: (mpmc.sender().expect("an end"), mpmc.receiver().expect("an end")),
            spsc: (spsc.sender().expect("an end"), spsc.receiver().expect("an end")),
            bytes: (bytes.sender().expect("an end"), bytes.receiver().expect("an end")),
            spsc_bytes: (spsc_bytes.sender().expect("an end"), spsc_bytes.receiver().expect("an end")),
            value: Value::create(&segment, "value", 0).expect("a value"),
            lock: Lock::create(&segment, "lock", 0).expect("a lock"),
        };
        stage.send_batches(2 * TIMES);
        stage.spsc_send_batches(2 * TIMES);
        stage.bytes_send(2 * TIMES);
        stage.spsc_bytes_send(2 * TIMES);
        stage
    }

    fn send(&mut self, n: usize) {
        (0..n as u64).for_each(|i| self.mpmc.0.send(black_box(i)).expect("room"));
    }

    fn receive(&mut self, n: usize) {
        (0..n).for_each(|_| _ = black_box(self.mpmc.1.recv().expect("a message")));
    }

    fn send_batches(&mut self, n: usize) {
        (0..n / BATCH).for_each(|_| self.mpmc.0.send_slice(black_box(&[7; BATCH])).expect("room"));
    }

    fn receive_batches(&mut self, n: usize) {
        let mut buffer = Vec::with_capacity(BATCH);
        for _ in 0..n / BATCH {
            buffer.clear();
            assert_eq!(self.mpmc.1.recv_many(&mut buffer, BATCH), Ok(BATCH));
            black_box(&buffer);
        }
    }

    fn spsc_send(&mut self, n: usize) {
        (0..n as u64).for_each(|i| self.spsc.0.send(black_box(i)).expect("room"));
    }

    fn spsc_receive(&mut self, n: usize) {
        (0..n).for_each(|_| _ = black_box(self.spsc.1.recv().expect("a message")));
    }

    fn spsc_send_batches(&mut self, n: usize) {
        (0..n / BATCH).for_each(|_| self.spsc.0.send_slice(black_box(&[7; BATCH])).expect("room"));
    }

    fn spsc_receive_batches(&mut self, n: usize) {
        let mut buffer = Vec::with_capacity(BATCH);
        for _ in 0..n / BATCH {
            buffer.clear();
            assert_eq!(self.spsc.1.recv_many(&mut buffer, BATCH), Ok(BATCH));
            black_box(&buffer);
        }
    }

    fn bytes_send(&mut self, n: usize) {
        (0..n).for_each(|_| self.bytes.0.send(black_box(&BYTES)).expect("room"));
    }

    fn bytes_receive(&mut self, n: usize) {
        (0..n).for_each(|_| _ = black_box(&*self.bytes.1.recv().expect("a message")));
    }

    fn spsc_bytes_send(&mut self, n: usize) {
        (0..n).for_each(|_| self.spsc_bytes.0.send(black_box(&BYTES)).expect("room"));
    }

    fn spsc_bytes_receive(&mut self, n: usize) {
        (0..n).for_each(|_| _ = black_box(&*self.spsc_bytes.1.recv().expect("a message")));
    }

    fn add(&mut self, n: usize) {
        (0..n).for_each(|_| _ = black_box(self.value.fetch_add(black_box(1), Relaxed)));
    }

    fn lock(&mut self, n: usize) {
        (0..n).for_each(|_| *self.lock.lock().expect("the lock") += 1);
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, case, times] = arguments.as_slice()
        && flag == "--run"
    {
        let (case, times): (usize, usize) = (case.parse().expect("a case"), times.parse().expect("a number"));
        (CASES[case].run)(&mut Stage::new(), times);
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("instructions: nothing counted, valgrind is not installed");
        return ExitCode::SUCCESS;
    }
    let check = arguments.iter().any(|argument| argument == "--check");
    let scratch = Scratch::new();
    let mut kept = true;
    println!("{:28} {:>12} {:>8}", "", "instructions", "budget");
    for (index, Case { name, budget, .. }) in CASES.iter().enumerate() {
        let count = |times: usize| scratch.count(index, times);
        let each = (count(2 * TIMES) - count(TIMES)) as f64 / TIMES as f64;
        let verdict = match each / budget {
            ratio if ratio > 1.0 => "  over the budget",
            ratio if ratio < 0.8 => "  far below the budget: lower it",
            _ => "",
        };
        kept &= verdict.is_empty();
        println!("{name:28} {each:>12.1} {budget:>8.1}{verdict}");
    }
    if kept || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A directory for what callgrind writes.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("gimmal-instructions-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    /// Instructions of a whole process that makes an operation so many times.
    fn count(&self, case: usize, times: usize) -> u64 {
        let file = self.0.join("out");
        let status = Command::new("valgrind")
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(std::env::current_exe().expect("this program"))
            .args(["--run", &case.to_string(), &times.to_string()])
            .stderr(Stdio::null())
            .status()
            .expect("run valgrind");
        assert!(status.success(), "callgrind: {status}");
        total(&file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The number in callgrind's line `totals: N`.
fn total(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).expect("what callgrind has written");
    let line = text.lines().find_map(|line| line.strip_prefix("totals: "));
    line.and_then(|total| total.trim().parse().ok()).expect("a total")
}
