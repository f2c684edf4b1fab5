//! The kill sweep: a process is killed at every instruction of every operation that writes shared memory, and after each kill
//! a survivor repairs and an exact account is checked.
//!
//! Each operation is stepped through once; what the shared bytes were at any moment is recovered from a copy. Then victims are
//! killed for real: where the bytes change, around every system call, and at a sample of the other instructions; at all of
//! them with `--long` or `GIMMAL_SWEEP=long`. A short sweep of a build that is not optimized goes through long operations, such
//! as joining, in part only: after each system call. Arguments that do not begin with `-` choose operations whose title contains
//! them.
//!
//! To add an operation, add a line to [`table`], and where it is of a new sort, a [`Scene`](scene::Scene).

#[path = "sweep/alone.rs"]
mod alone;
#[path = "sweep/bytes.rs"]
mod bytes;
#[path = "sweep/drive.rs"]
mod drive;
#[path = "sweep/latest.rs"]
mod latest;
#[path = "sweep/life.rs"]
mod life;
#[path = "sweep/lossy.rs"]
mod lossy;
#[path = "sweep/memory.rs"]
mod memory;
#[path = "sweep/queues.rs"]
mod queues;
#[path = "sweep/scene.rs"]
mod scene;
#[path = "sweep/spsc.rs"]
mod spsc;
#[path = "sweep/trace.rs"]
mod trace;
#[path = "sweep/unbounded.rs"]
mod unbounded;
#[path = "sweep/values.rs"]
mod values;
#[path = "sweep/wake.rs"]
mod wake;
#[path = "sweep/watch.rs"]
mod watch;

use std::process::exit;
use std::time::{Duration, Instant};

use alone::Alone;
use drive::{Budget, Tally, sweep};
use latest::{Act, FRESH, LatestScene, WORN};
use life::{Create, Life, Naming, Repair, Told};
use nix::libc;
use queues::{CLOSED, EMPTY, FAR, FULL, MIDDLE, RUN, WRAP};
use scene::Scene;
use unbounded::{across, large};
use values::{LockScene, Locking};
use wake::{Ring, Wake, WakeLock};

/// How long the short version takes, about.
const SHORT: Duration = Duration::from_secs(45);

/// How long the sample of one operation takes, at most.
const MOST: Duration = Duration::from_secs(2);

/// A row of the table: an operation and a state.
struct Row {
    operation: &'static str,
    state: &'static str,
    run: Box<Run>,
}

type Run = dyn Fn(&str, Budget) -> Tally;

impl Row {
    fn title(&self) -> String {
        if self.state.is_empty() { self.operation.to_owned() } else { format!("{}, {}", self.operation, self.state) }
    }
}

fn row<S: Scene + 'static>(operation: &'static str, state: &'static str, scene: S) -> Row {
    Row { operation, state, run: Box::new(move |title, budget| sweep(title, &scene, budget)) }
}

fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    for state in [EMPTY, MIDDLE, WRAP, FULL, FAR, CLOSED, RUN] {
        rows.push(row("queue send", state.name, queues::send(state)));
        rows.push(row("queue receive", state.name, queues::receive(state)));
        rows.push(row("queue force_send", state.name, queues::force_send(state)));
        rows.push(row("queue send_slice", state.name, queues::send_slice(state)));
        rows.push(row("queue recv_many", state.name, queues::receive_many(state)));
        rows.push(row("queue reserve and commit", state.name, queues::reserve_and_commit(state)));
        rows.push(row("queue reserve and abort", state.name, queues::reserve_and_abort(state)));
        rows.push(row("queue recv_guard", state.name, queues::receive_in_place(state)));
        rows.push(row("queue recv_guard given back", state.name, queues::give_back(state)));
    }
    rows.push(row("queue recv_many", "a part of a run", queues::receive_part()));
    for state in [EMPTY, MIDDLE, FULL] {
        rows.push(row("queue close", state.name, queues::close(state)));
    }
    rows.push(row("queue send_timeout", "full", queues::send_asleep()));
    rows.push(row("queue recv_timeout", "empty", queues::receive_asleep()));
    for state in [EMPTY, MIDDLE, WRAP, FULL] {
        rows.push(row("spsc send", state.name, spsc::send(state)));
        rows.push(row("spsc receive", state.name, spsc::receive(state)));
        rows.push(row("spsc send_slice", state.name, spsc::send_slice(state)));
        rows.push(row("spsc recv_many", state.name, spsc::receive_many(state)));
        rows.push(row("spsc reserve and commit", state.name, spsc::reserve_and_commit(state)));
        rows.push(row("spsc recv_guard", state.name, spsc::receive_in_place(state)));
        rows.push(row("spsc reserve_slice and commit", state.name, spsc::reserve_slice_and_commit(state)));
        rows.push(row("spsc recv_slice", state.name, spsc::receive_slice(state)));
    }
    rows.push(row("spsc recv_slice", "released in part", spsc::receive_slice_in_part(MIDDLE)));
    for state in [EMPTY, FULL] {
        rows.push(row("spsc sit down to send", state.name, spsc::sit_sender(state)));
        rows.push(row("spsc sit down to receive", state.name, spsc::sit_receiver(state)));
        rows.push(row("spsc drop of the sender", state.name, spsc::drop_sender(state)));
        rows.push(row("spsc drop of the receiver", state.name, spsc::drop_receiver(state)));
        rows.push(row("spsc hand-over of the sender", state.name, spsc::release_sender(state)));
        rows.push(row("spsc hand-over of the receiver", state.name, spsc::release_receiver(state)));
        rows.push(row("spsc close", state.name, spsc::close(state)));
    }
    rows.push(row("spsc send_timeout", "full", spsc::send_asleep(FULL)));
    rows.push(row("spsc recv_timeout", "empty", spsc::receive_asleep(EMPTY)));
    for state in [EMPTY, MIDDLE, WRAP, FULL] {
        rows.push(row("lossy send", state.name, lossy::send(state)));
        rows.push(row("lossy receive", state.name, lossy::receive(state)));
    }
    for state in [bytes::EMPTY, bytes::MIDDLE, bytes::EDGE, bytes::WRAP, bytes::FULL, bytes::CLOSED] {
        rows.push(row("queue send, one block", state.name, bytes::send_one(state)));
        rows.push(row("queue send, two blocks", state.name, bytes::send_two(state)));
        rows.push(row("queue reserve and commit, two blocks", state.name, bytes::reserve_and_commit(state)));
        rows.push(row("queue reserve and drop, two blocks", state.name, bytes::reserve_and_drop(state)));
        rows.push(row("queue recv, bytes", state.name, bytes::receive(state)));
        rows.push(row("queue recv_into", state.name, bytes::receive_into(state)));
        rows.push(row("queue recv_into, too short", state.name, bytes::too_short(state)));
    }
    rows.push(row("queue send, one block, and a tap looks", "wrap", bytes::send_one_tapped(bytes::WRAP)));
    rows.push(row("queue send, two blocks, and a tap looks", "edge", bytes::send_two_tapped(bytes::EDGE)));
    for state in [bytes::EMPTY, bytes::MIDDLE, bytes::WRAP, bytes::FULL] {
        rows.push(row("spsc send, bytes", state.name, bytes::spsc_send(state)));
        rows.push(row("spsc reserve and commit, bytes", state.name, bytes::spsc_reserve_and_commit(state)));
        rows.push(row("spsc recv, bytes", state.name, bytes::spsc_receive(state)));
        rows.push(row("spsc recv_into", state.name, bytes::spsc_receive_into(state)));
    }
    rows.push(row("spsc send, in parts", "beside what is left of another", bytes::Parts::Send));
    rows.push(row("spsc recv, in parts", "after another", bytes::Parts::Receive));
    // Large messages, 64 of them in a chunk, 4 chunks in a lap, 2 chunks with memory.
    rows.push(row("unbounded send", "open chunk", large(unbounded::Act::Send, 10, 3)));
    rows.push(row("unbounded send", "opens a chunk", large(unbounded::Act::Send, 60, 4)));
    rows.push(row("unbounded send", "opens a chunk, second lap", large(unbounded::Act::Send, 256 + 60, 4)));
    rows.push(row("unbounded send", "the limit", large(unbounded::Act::Send, 0, 128)));
    rows.push(row("unbounded send", "room behind the limit", large(unbounded::Act::Send, 64, 64)));
    rows.push(row("unbounded send_slice", "opens a chunk", large(unbounded::Act::SendSlice, 61, 2)));
    rows.push(row("unbounded reserve and abort", "opens a chunk", large(unbounded::Act::Abort, 60, 4)));
    rows.push(row("unbounded receive", "middle", large(unbounded::Act::Receive, 10, 3)));
    rows.push(row("unbounded receive", "clears a chunk", large(unbounded::Act::Receive, 64, 4)));
    rows.push(row("unbounded receive", "clears a chunk, second lap", large(unbounded::Act::Receive, 256 + 64, 4)));
    rows.push(row("unbounded recv_many", "clears a chunk", large(unbounded::Act::ReceiveMany, 62, 4)));
    rows.push(row("unbounded recv_guard given back", "clears a chunk", large(unbounded::Act::GiveBack, 64, 4)));
    // Of bytes, two blocks each, 512 of them in a chunk: the first of message 255 is the last of a chunk.
    rows.push(row("unbounded send of bytes", "across chunks", across(unbounded::Act::Send, 253, 2)));
    rows.push(row("unbounded send of bytes", "across chunks, second lap", across(unbounded::Act::Send, 1024 + 253, 2)));
    rows.push(row("unbounded reserve of bytes and abort", "across chunks", across(unbounded::Act::Abort, 253, 2)));
    rows.push(row("unbounded receive of bytes", "across chunks", across(unbounded::Act::Receive, 255, 2)));
    rows.push(row(
        "unbounded receive of bytes",
        "clears a chunk, second lap",
        across(unbounded::Act::Receive, 1024 + 256, 2),
    ));
    rows.push(row("value store", "", values::store()));
    rows.push(row("value fetch_add", "", values::fetch_add()));
    rows.push(row("value fetch_add", "float", values::fetch_add_float()));
    rows.push(row("value update", "", values::update()));
    rows.push(row("array element", "", values::element()));
    rows.push(row("array write", "", values::write()));
    rows.push(row("array write", "bytes", values::write_bytes()));
    rows.push(row("array fill", "", values::fill()));
    rows.push(row("lock", "free", LockScene(Locking::Lock)));
    rows.push(row("unlock", "held", LockScene(Locking::Unlock)));
    rows.push(row("try_lock", "held", LockScene(Locking::TryInVain)));
    rows.push(row("lock_timeout", "held", LockScene(Locking::SleepInVain)));
    for state in [FRESH, WORN] {
        rows.push(row("latest store", state.name, LatestScene(Act::Store, state)));
        rows.push(row("latest update", state.name, LatestScene(Act::Update, state)));
    }
    rows.push(row("latest store", "and another beside the dead", LatestScene(Act::StoreBeside, WORN)));
    rows.push(row("latest store", "waiter asleep", LatestScene(Act::Wake, WORN)));
    rows.push(row("latest store", "the last buffer", LatestScene(Act::WakeWriter, FRESH)));
    rows.push(row("latest store_timeout", "no buffer", LatestScene(Act::StoreInVain, FRESH)));
    rows.push(row("latest load", "", LatestScene(Act::Load, WORN)));
    rows.push(row("latest wait_changed_timeout", "", LatestScene(Act::WaitInVain, WORN)));
    rows.push(row("create an object", "latest", Create::Latest));
    rows.push(row("queue send", "receiver asleep", Wake::Receiver));
    rows.push(row("last sender dropped", "receiver asleep", Alone::DropSender));
    rows.push(row("last sender dropped", "receiver asleep beside a guard", Alone::DropSenderBesideGuard));
    rows.push(row("last receiver dropped", "sender asleep", Alone::DropReceiver));
    rows.push(row("queue close", "receiver asleep beside a guard", Alone::CloseBesideGuard));
    rows.push(row("queue receive", "sender asleep", Wake::Sender));
    rows.push(row("queue send", "doorbell armed", Ring));
    rows.push(row("unlock", "locker asleep", WakeLock::Unlock));
    if cfg!(target_arch = "x86_64") {
        rows.push(row("queue receive", "woken beside another", Wake::WokenReceiver));
        rows.push(row("queue send", "woken beside another", Wake::WokenSender));
        rows.push(row("lock", "woken beside another", WakeLock::WokenLock));
    }
    rows.push(row("join", "first use after a fork", Life::FirstUse));
    rows.push(row("join", "open", Life::Open));
    rows.push(row("leave", "", Life::Leave));
    rows.push(row("leave", "with ends", Life::LeaveAll));
    rows.push(row("join", "first use, and a sentinel told", Told::FirstUse));
    rows.push(row("join", "open, and a sentinel told", Told::Open));
    rows.push(row("leave", "and a sentinel told", Told::Leave));
    rows.push(row("queue receive", "and a sentinel told", Told::Receive));
    rows.push(row("create an object", "queue", Create::Queue));
    rows.push(row("create an object", "value", Create::Value));
    rows.push(row("create an object", "lock", Create::Lock));
    rows.push(row("repair", "recover", Repair::Recover));
    rows.push(row("repair", "open", Repair::Open));
    rows.push(row("repair", "runs of blocks", bytes::repair()));
    rows.push(row("create a segment", "", Naming::Create));
    rows.push(row("create a segment", "that persists", Naming::CreateToStay));
    rows.push(row("create a segment", "in place of another", Naming::Replace));
    rows.push(row("leave", "as the last", Naming::LastLeaves));
    rows.push(row("open a segment", "of the dead", Naming::OpenAbandoned));
    if nix::unistd::geteuid().is_root() {
        rows.push(row("take a dead segment over", "", Naming::TakeOver));
        rows.push(row("take a dead segment over", "to stay", Naming::TakeOverToStay));
        rows.push(row("leave", "as the last of strangers", Naming::LastOfStrangersLeaves));
    }
    rows.sort_by_key(|row| row.operation);
    rows
}

/// The library asks for the number of processors before it spins, which would be most of the steps of a blocking call.
#[unsafe(no_mangle)]
extern "C" fn sysconf(name: libc::c_int) -> libc::c_long {
    if name == libc::_SC_NPROCESSORS_ONLN {
        return 1;
    }
    // SAFETY: looks a symbol up by a name that is a C string.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"sysconf".as_ptr()) };
    // SAFETY: it is the C library's function of this type, or null, which becomes `None`.
    let next =
        unsafe { std::mem::transmute::<*mut libc::c_void, Option<extern "C" fn(libc::c_int) -> libc::c_long>>(next) };
    next.map_or(-1, |next| next(name))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let long = arguments.iter().any(|a| a == "--long") || std::env::var("GIMMAL_SWEEP").is_ok_and(|v| v == "long");
    let mut filters = Vec::new();
    let mut values_follow = false;
    for argument in &arguments {
        match argument.starts_with('-') {
            true => values_follow = ["--test-threads", "--format", "--color", "--skip"].contains(&argument.as_str()),
            false if std::mem::take(&mut values_follow) => {}
            false => filters.push(argument.as_str()),
        }
    }
    let mut rows = table();
    rows.retain(|row| filters.is_empty() || filters.iter().any(|filter| row.title().contains(filter)));
    match trace::probe() {
        Ok(()) => {}
        Err(trace::Failed::NotPermitted) => {
            println!("sweep: skipped: {}", trace::Failed::NotPermitted);
            return;
        }
        Err(failed) => {
            println!("sweep: {failed}");
            exit(1);
        }
    }
    watch::start();
    exit(i32::from(run(&rows, long) > 0));
}

/// Sweeps the rows and says how many failures there were.
fn run(rows: &[Row], long: bool) -> usize {
    let begun = Instant::now();
    println!(
        "{:<44} {:>12} {:>7} {:>10} {:>7} {:>8}",
        "operation", "instructions", "states", "recoveries", "kills", "failures"
    );
    let mut all = Tally::default();
    let (mut points, mut failures) = (0, 0);
    for (n, row) in rows.iter().enumerate() {
        let left = SHORT.saturating_sub(begun.elapsed()) / (rows.len() - n) as u32;
        let left = left.min(MOST);
        let title = row.title();
        let tally = (row.run)(&title, Budget { every_instruction: long, until: Instant::now() + left });
        let Tally { instructions, states, recoveries, kills, failures: ref told, more, .. } = tally;
        let failed = told.len() + more;
        println!("{title:<44} {instructions:>12} {states:>7} {recoveries:>10} {kills:>7} {failed:>8}");
        told.iter().for_each(|failure| println!("FAILED: {title}: {failure}"));
        points += instructions + 1;
        failures += failed;
        all.states += states;
        all.recoveries += recoveries;
        all.kills += kills;
        all.astray += tally.astray;
    }
    scene::remove_leftovers();
    println!(
        "sweep: {} operations, {points} kill points, {} distinct states, {} real kills, {failures} failures ({} snapshot \
         recoveries, {} kills astray, {:.1} s)",
        rows.len(),
        all.states,
        all.kills,
        all.recoveries,
        all.astray,
        begun.elapsed().as_secs_f64()
    );
    failures
}
