//! What single operations cost in one thread, without anybody on the other side: the floor under every other figure.
//!
//! `cargo bench --bench single`. For two processes see `two_processes`.

use std::hint::black_box;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gimmal::{Array, Latest, Lock, Pod, Queue, Segment, SpscQueue, Value};

const CAPACITY: usize = 1024;
const BATCH: usize = 64;

fn segment() -> Segment {
    Segment::options().size(4 << 20).anonymous().expect("a segment")
}

/// A message of `N` words.
fn queues<const N: usize>(c: &mut Criterion)
where
    [u64; N]: Pod,
{
    let segment = segment();
    let mpmc = Queue::<[u64; N]>::create(&segment, "mpmc", CAPACITY).expect("a queue");
    let spsc = SpscQueue::<[u64; N]>::create(&segment, "spsc", CAPACITY).expect("a queue");
    let unbounded = Queue::<[u64; N]>::unbounded(&segment, "unbounded").expect("a queue");
    let (sender, receiver) = (mpmc.sender().expect("an end"), mpmc.receiver().expect("an end"));
    let (mut spsc_sender, mut spsc_receiver) = (spsc.sender().expect("an end"), spsc.receiver().expect("an end"));
    let (unbounded_sender, unbounded_receiver) =
        (unbounded.sender().expect("an end"), unbounded.receiver().expect("an end"));
    let message = [7; N];

    let mut group = c.benchmark_group("push+pop");
    group.throughput(Throughput::Bytes(8 * N as u64));
    group.bench_function(BenchmarkId::new("mpmc", 8 * N), |b| {
        b.iter(|| {
            sender.try_send(black_box(message)).expect("room");
            black_box(receiver.try_recv().expect("a message"))
        });
    });
    group.bench_function(BenchmarkId::new("unbounded", 8 * N), |b| {
        b.iter(|| {
            unbounded_sender.try_send(black_box(message)).expect("room");
            black_box(unbounded_receiver.try_recv().expect("a message"))
        });
    });
    group.bench_function(BenchmarkId::new("spsc", 8 * N), |b| {
        b.iter(|| {
            spsc_sender.try_send(black_box(message)).expect("room");
            black_box(spsc_receiver.try_recv().expect("a message"))
        });
    });
    group.finish();

    let mut group = c.benchmark_group(format!("batch of {BATCH}"));
    group.throughput(Throughput::Elements(BATCH as u64));
    let (messages, mut buffer) = ([message; BATCH], Vec::with_capacity(BATCH));
    group.bench_function(BenchmarkId::new("mpmc", 8 * N), |b| {
        b.iter(|| {
            sender.send_slice(black_box(&messages)).expect("room");
            buffer.clear();
            receiver.recv_many(&mut buffer, BATCH).expect("messages");
            black_box(&buffer);
        });
    });
    group.bench_function(BenchmarkId::new("spsc", 8 * N), |b| {
        b.iter(|| {
            spsc_sender.send_slice(black_box(&messages)).expect("room");
            buffer.clear();
            spsc_receiver.recv_many(&mut buffer, BATCH).expect("messages");
            black_box(&buffer);
        });
    });
    group.finish();
}

fn all_sizes(c: &mut Criterion) {
    queues::<1>(c);
    queues::<8>(c);
    queues::<32>(c);
}

/// A send and a receive in a queue where somebody stands still: a reservation is held since half a ring ago.
fn stalled(c: &mut Criterion) {
    const CAPACITY: usize = 1 << 16;
    let segment = segment();
    let queue = Queue::<u64>::create(&segment, "queue", CAPACITY).expect("a queue");
    let (sender, receiver, other) =
        (queue.sender().expect("an end"), queue.receiver().expect("an end"), queue.sender());
    let other = other.expect("an end");
    let mut group = c.benchmark_group("push+pop, somebody stands still");
    for stands_still in [false, true] {
        let once = || {
            sender.try_send(black_box(7)).expect("room");
            black_box(receiver.try_recv().expect("a message"))
        };
        group.bench_function(if stands_still { "a sender" } else { "nobody" }, |b| {
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                // Until the ring has come round to the slot that stands still.
                for begin in (0..rounds).step_by(CAPACITY / 4) {
                    let held = stands_still.then(|| other.reserve().expect("a slot"));
                    for _ in 0..CAPACITY / 2 {
                        once();
                    }
                    let now = Instant::now();
                    for _ in begin..rounds.min(begin + CAPACITY as u64 / 4) {
                        once();
                    }
                    took += now.elapsed();
                    drop(held);
                }
                took
            });
        });
    }
    group.finish();
}

/// Messages of bytes, read in place.
fn bytes(c: &mut Criterion) {
    let segment = segment();
    let mpmc = Queue::<[u8]>::create(&segment, "mpmc", 256 << 10).expect("a queue");
    let spsc = SpscQueue::<[u8]>::create(&segment, "spsc", 256 << 10).expect("a queue");
    let (sender, receiver) = (mpmc.sender().expect("an end"), mpmc.receiver().expect("an end"));
    let (mut spsc_sender, mut spsc_receiver) = (spsc.sender().expect("an end"), spsc.receiver().expect("an end"));
    let mut group = c.benchmark_group("push+pop of bytes");
    for len in [64, 4096, 65536] {
        let message = vec![7; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("mpmc", len), |b| {
            b.iter(|| {
                sender.try_send(black_box(&message)).expect("room");
                black_box(&*receiver.try_recv().expect("a message"));
            });
        });
        group.bench_function(BenchmarkId::new("spsc", len), |b| {
            b.iter(|| {
                spsc_sender.try_send(black_box(&message)).expect("room");
                black_box(&*spsc_receiver.try_recv().expect("a message"));
            });
        });
    }
    group.finish();
}

fn atomics(c: &mut Criterion) {
    let segment = segment();
    let value = Value::<u64>::create(&segment, "value", 0).expect("a value");
    let float = Value::<f64>::create(&segment, "float", 0.0).expect("a value");
    let array = Array::<u64>::create(&segment, "array", 128).expect("an array");
    let mut copy = [0; 128];

    let mut group = c.benchmark_group("value");
    group.bench_function("load", |b| b.iter(|| black_box(&value).load(Acquire)));
    group.bench_function("store", |b| b.iter(|| black_box(&value).store(1, Release)));
    group.bench_function("fetch_add", |b| b.iter(|| black_box(&value).fetch_add(1, Relaxed)));
    group.bench_function("update", |b| b.iter(|| black_box(&value).update(AcqRel, |v| v ^ 1)));
    group.bench_function("fetch_add f64", |b| b.iter(|| black_box(&float).fetch_add(0.5, Relaxed)));
    group.bench_function("notify, nobody waits", |b| b.iter(|| black_box(&value).notify_one()));
    group.finish();

    let mut group = c.benchmark_group("array of 128 u64");
    group.throughput(Throughput::Bytes(1024));
    group.bench_function("read", |b| b.iter(|| array.read(0, black_box(&mut copy)).expect("in range")));
    group.bench_function("write", |b| b.iter(|| array.write(0, black_box(&copy)).expect("in range")));
    group.finish();
}

fn latests(c: &mut Criterion) {
    fn one<const WORDS: usize>(c: &mut Criterion) {
        let segment = Segment::options().size(1 << 20).anonymous().expect("a segment");
        let mut room = [7_u64; WORDS];
        let latest = Latest::create_from(&segment, "latest", &room).expect("a value");
        let mut group = c.benchmark_group(format!("latest of {} bytes", 8 * WORDS));
        group.throughput(Throughput::Bytes(8 * WORDS as u64));
        group.bench_function("store", |b| b.iter(|| latest.store_from(black_box(&room)).expect("a participant")));
        group.bench_function("load", |b| b.iter(|| latest.load_into(black_box(&mut room))));
        group.bench_function("changed_since, it has not", |b| {
            b.iter(|| latest.changed_since(latest.version()).is_some())
        });
        group.finish();
    }
    one::<1>(c);
    one::<8>(c);
    one::<2048>(c);
}

fn locks(c: &mut Criterion) {
    let segment = segment();
    let lock = Lock::<u64>::create(&segment, "lock", 0).expect("a lock");
    let mut group = c.benchmark_group("lock");
    group.bench_function("lock+unlock, uncontended", |b| b.iter(|| *lock.lock().expect("the lock") += 1));
    group.bench_function("try_lock+unlock, uncontended", |b| b.iter(|| *lock.try_lock().expect("the lock") += 1));
    group.finish();
}

fn segments(c: &mut Criterion) {
    let options = Segment::options().size(64 << 10);
    let name = format!("bench-single-{}", std::process::id());

    let mut group = c.benchmark_group("segment of 64 KiB");
    group.bench_function("create+leave, named", |b| b.iter(|| options.create(&name).expect("a segment")));
    group.bench_function("create+leave, unnamed", |b| b.iter(|| options.anonymous().expect("a segment")));
    let kept = options.create(&name).expect("a segment");
    group.bench_function("open+leave", |b| b.iter(|| options.open(&name).expect("a segment")));
    group.bench_function("inspect", |b| b.iter(|| options.inspect(&name).expect("a snapshot")));
    group.finish();
    drop(kept);

    let mut group = c.benchmark_group("object");
    let fresh = || options.anonymous().expect("a segment");
    group.bench_function("create a queue", |b| {
        b.iter_batched_ref(
            fresh,
            |segment| Queue::<u64>::create(segment, "queue", 64).expect("room"),
            BatchSize::PerIteration,
        );
    });
    let segment = fresh();
    Queue::<u64>::create(&segment, "queue", 64).expect("room");
    group.bench_function("open a queue", |b| b.iter(|| Queue::<u64>::open(&segment, "queue").expect("it is there")));
    let queue = Queue::<u64>::open(&segment, "queue").expect("it is there");
    group.bench_function("make and drop a sender", |b| b.iter(|| queue.sender().expect("an end")));
    group.finish();
}

criterion_group!(benches, all_sizes, stalled, bytes, atomics, latests, locks, segments);
criterion_main!(benches);
