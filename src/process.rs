//! Runs functions of this program in fresh processes, as Python's `multiprocessing` does with its spawn method.
//!
//! A new process is the same program started anew (never a bare fork), so it begins with no threads, no locks
//! and no memory of its parent. [`init`], the first call in `main`, tells the two apart: in the parent it
//! registers the functions that may be started and returns; in a process that was started to run one of them it
//! runs that function and exits.
//!
//! ```no_run
//! use gimmal::process::{self, Context, Outcome, Process};
//! use gimmal::{Segment, Value};
//! use std::sync::atomic::Ordering;
//!
//! fn count(context: &Context) -> Outcome {
//!     let total = Value::<u64>::open(context.segment(0)?, "total")?;
//!     total.fetch_add(context.parse(0)?, Ordering::Relaxed);
//!     Ok(())
//! }
//!
//! fn main() -> Outcome {
//!     process::init(&gimmal::entries![count]);
//!
//!     let segment = Segment::anonymous()?;
//!     let total = Value::<u64>::create(&segment, "total", 0)?;
//!     let mut child = Process::new("count").arg("3").segment(&segment).spawn()?;
//!     assert!(child.join()?.success());
//!     assert_eq!(total.load(Ordering::Relaxed), 3);
//!     Ok(())
//! }
//! ```
//!
//! A program that is not this one is given a segment with [`CommandExt::pass_segment`].

mod child;
mod expected;
mod handover;
mod parent;

pub use child::Child;
pub use handover::{CommandExt, inherited_segment};

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;
use std::{env, error};

use crate::primitive::Ordering;
use crate::primitive::private::AtomicPtr;
use crate::{Error, Segment, sys};

/// What an entry returns; an error ends its process with exit code 1 and its message on stderr.
pub type Outcome = Result<(), Box<dyn error::Error + Send + Sync>>;

/// A function that may run in a process of its own, under the name by which [`Process::new`] finds it.
pub type Entry = (&'static str, fn(&Context) -> Outcome);

/// A child's arguments are `[leading...] MARKER ENTRY NAME SEGMENTS [argument...]`.
const MARKER: &str = "--gimmal-process";

/// The environment variable that makes [`MARKER`] more than an argument like any other, which may be the name of a file. Its value
/// are the numbers of two descriptors, each of which may be missing: by the first the child knows whether its parent lives, if it is to
/// end with its parent; through the second it says that it has taken an end.
const VARIABLE: &str = "GIMMAL_PROCESS";

/// The names of the entries that `init` was given, the last first. Nothing in the list is changed or freed, so nobody waits for
/// anybody: a fork child finds it whole, whatever the other threads of its parent were doing.
static REGISTERED: AtomicPtr<Names> = AtomicPtr::new(std::ptr::null_mut());

/// What one call of `init` has added.
struct Names {
    names: Vec<&'static str>,
    before: *mut Names,
}

/// The name of this process, if it was started by [`Process::spawn`].
static NAME: OnceLock<String> = OnceLock::new();

/// Makes the array of entries that [`process::init`](crate::process::init) takes, each under the name by which it is written
/// here (`jobs::count` is registered as `"jobs::count"`).
///
/// ```
/// # use gimmal::process::{Context, Outcome};
/// fn count(_: &Context) -> Outcome { Ok(()) }
/// fn play(_: &Context) -> Outcome { Ok(()) }
///
/// let entries = gimmal::entries![count, play];
/// assert_eq!(entries.map(|(name, _)| name), ["count", "play"]);
/// ```
#[macro_export]
macro_rules! entries {
    ($($entry:path),* $(,)?) => {
        [$((
            stringify!($entry),
            $entry as fn(&$crate::process::Context) -> $crate::process::Outcome,
        )),*]
    };
}

/// Registers the functions that [`Process`] may start, or, in a process that was started to run one, runs it.
///
/// Call it once, at the start of `main`, with every entry: what stands before it runs in every child too, and a
/// child looks for its entry in the first call it comes to.
///
/// In a process that [`Process::spawn`] started, this never returns. The process exits with
///
/// - 0 when the entry returned `Ok`;
/// - 1 when it returned an error, or when a segment handed over could not be opened. `process 'NAME': ` and the
///   error, with its sources, are on stderr;
/// - 2 when the entry is not among `entries`;
/// - 101 when it panicked (a program built with `panic = "abort"` dies of SIGABRT instead).
///
/// The segments it was handed are left before it exits. Values that live on other threads' stacks, or in statics,
/// are not dropped, as with [`std::process::exit`].
///
/// ```no_run
/// use gimmal::process::{self, Context, Outcome};
///
/// fn greet(context: &Context) -> Outcome {
///     println!("hello from {}", context.name());
///     Ok(())
/// }
///
/// fn main() {
///     process::init(&[("greet", greet)]);
///     // only the parent comes here
/// }
/// ```
pub fn init(entries: &[Entry]) {
    register(entries.iter().map(|(name, _)| *name));
    let args: Vec<OsString> = env::args_os().collect();
    // Behind a "--" too: that is where a test harness lets arguments through that are not its own.
    let marker = (1..args.len()).find(|&i| args[i] == MARKER && (i == 1 || args[i - 1] == "--"));
    // An entry that calls `init` itself is running already.
    if let (Some(marker), Some(variable), None) = (marker, env::var_os(VARIABLE), NAME.get()) {
        // What this process starts is not to take it for its own.
        sys::process::forget_variable(VARIABLE);
        std::process::exit(run(entries, &args[marker + 1..], &variable));
    }
}

fn register(names: impl Iterator<Item = &'static str>) {
    let known = registered();
    let names: Vec<_> = names.filter(|name| !known.contains(name)).collect();
    if names.is_empty() {
        return;
    }
    let added = Box::leak(Box::new(Names { names, before: REGISTERED.load(Ordering::Relaxed) }));
    // Release: whoever finds the names finds them whole.
    while let Err(now) = REGISTERED.compare_exchange(added.before, added, Ordering::Release, Ordering::Relaxed) {
        added.before = now;
    }
}

fn registered() -> BTreeSet<&'static str> {
    let mut all = BTreeSet::new();
    let mut next = REGISTERED.load(Ordering::Acquire);
    // SAFETY: null, or leaked by `register` and whole before it was published.
    while let Some(Names { names, before }) = unsafe { next.as_ref() } {
        all.extend(names);
        next = *before;
    }
    all
}

fn not_registered(entry: &str) -> Error {
    Error::NotRegistered { entry: entry.to_owned(), registered: registered().into_iter().map(str::to_owned).collect() }
}

/// Runs the entry that the arguments behind the marker name; returns the exit code. What the entry was given is
/// dropped here, before the process exits.
fn run(entries: &[Entry], arguments: &[OsString], variable: &OsStr) -> i32 {
    let [entry, name, segments, args @ ..] = arguments else {
        report("gimmal", &format_args!("{MARKER} takes an entry, a name and a list of segments"));
        return 2;
    };
    let name = NAME.get_or_init(|| name.to_string_lossy().into_owned());
    let Some((_, function)) = entries.iter().find(|(known, _)| entry == known) else {
        report(name, &not_registered(&entry.to_string_lossy()));
        return 2;
    };
    let variable = variable.to_string_lossy();
    let (life, pipe) = variable.split_once(',').unwrap_or_default();
    let opened = parent::end_with(life).and_then(|()| Context::open(name, segments, args));
    let opened = opened.and_then(|context| expected::report(pipe, &context.segments).map(|()| context));
    let context = match opened {
        Ok(context) => context,
        Err(error) => {
            report(name, &chain(&error));
            return 1;
        }
    };
    // Nothing reads the context, or anything else that the entry may have left half-done, after a panic.
    match panic::catch_unwind(AssertUnwindSafe(|| function(&context))) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            report(name, &chain(&*error));
            1
        }
        Err(_) => {
            report(name, &"panicked");
            101
        }
    }
}

/// Not `eprintln!`, which panics when nobody reads stderr any more, and so would change the exit code.
fn report(name: &str, message: &dyn Display) {
    let _ = writeln!(io::stderr(), "process '{name}': {message}");
}

/// The error and its sources in one line, without those that the error before them quotes already.
fn chain(error: &dyn error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let source_text = source.to_string();
        if !text.contains(&source_text) {
            let _ = write!(text, ": {source_text}");
        }
        next = source.source();
    }
    text
}

/// What a started process was given: the one argument of its entry.
///
/// ```no_run
/// use gimmal::process::{Context, Outcome};
///
/// fn worker(context: &Context) -> Outcome {
///     let rounds: u32 = context.parse(0)?;
///     let segment = context.segment(0)?;
///     println!("{}: {rounds} rounds on {segment:?}", context.name());
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Context {
    name: &'static str,
    args: Vec<OsString>,
    segments: Vec<Segment>,
}

impl Context {
    fn open(name: &'static str, segments: &OsStr, args: &[OsString]) -> Result<Context, Error> {
        let args = args.iter().enumerate().map(|(index, arg)| {
            handover::decode(arg).ok_or_else(|| Error::BadArgument {
                index,
                reason: "is not encoded as Process::spawn does it".to_owned(),
            })
        });
        Ok(Context { name, args: args.collect::<Result<_, _>>()?, segments: handover::take_over_list(segments)? })
    }

    /// The name of this process: the entry's, or what [`Process::name`] said.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The arguments, as [`Process::arg`] was given them.
    pub fn args(&self) -> &[OsString] {
        &self.args
    }

    /// The argument at `index`, or `None` if there is none there or it is not UTF-8 (see [`args`](Context::args)).
    pub fn arg(&self, index: usize) -> Option<&str> {
        self.args.get(index)?.to_str()
    }

    /// The argument at `index` as a `T`.
    ///
    /// # Errors
    ///
    /// [`Error::BadArgument`] if there is no such argument, it is not UTF-8, or it does not parse.
    pub fn parse<T: FromStr<Err: Display>>(&self, index: usize) -> Result<T, Error> {
        let bad = |reason| Error::BadArgument { index, reason };
        let Some(arg) = self.args.get(index) else {
            return Err(bad(format!("is missing: this process was given {}", self.args.len())));
        };
        let arg = arg.to_str().ok_or_else(|| bad(format!("is not UTF-8: {arg:?}")))?;
        arg.parse().map_err(|error| bad(format!("is {arg:?}, not a {}: {error}", std::any::type_name::<T>())))
    }

    /// The segment at `index`, in the order of the calls of [`Process::segment`]. This process has joined it.
    ///
    /// # Errors
    ///
    /// [`Error::NotInherited`] if fewer segments were handed over.
    pub fn segment(&self, index: usize) -> Result<&Segment, Error> {
        self.segments.get(index).ok_or_else(|| Error::NotInherited {
            key: index.to_string(),
            reason: format!("the parent handed over {}; Process::segment adds one", self.segments.len()),
        })
    }
}

/// This process, as [`current`] sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Current {}

/// This process.
///
/// ```
/// let current = gimmal::process::current();
/// assert_eq!(current.name(), "main");
/// assert_eq!(current.pid(), std::process::id());
/// ```
pub fn current() -> Current {
    Current {}
}

impl Current {
    /// The name given by [`Process::name`]; `"main"` in a process that was not started by [`Process::spawn`].
    pub fn name(&self) -> &'static str {
        NAME.get().map_or("main", String::as_str)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// The process id of the parent. It changes when the parent dies: an orphan is adopted.
    pub fn parent_pid(&self) -> u32 {
        std::os::unix::process::parent_id()
    }
}

/// Describes a process to start; [`spawn`](Process::spawn) starts it.
///
/// It inherits the environment, the working directory and, unless told otherwise, stdin, stdout and stderr.
///
/// ```no_run
/// # fn main() -> Result<(), gimmal::Error> {
/// use gimmal::Segment;
/// use gimmal::process::Process;
/// use std::time::Duration;
///
/// let segment = Segment::create("work")?;
/// let mut child = Process::new("count").name("worker-3").arg("1000").segment(&segment).spawn()?;
/// match child.join_timeout(Duration::from_secs(10))? {
///     Some(status) => println!("{status}"),
///     None => child.kill()?,
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing runs before spawn is called"]
pub struct Process {
    entry: String,
    name: Option<String>,
    leading: Vec<OsString>,
    args: Vec<OsString>,
    segments: Vec<Segment>,
    kill_on_drop: bool,
    die_with_parent: bool,
    command: Command,
}

impl Process {
    /// A process that runs the entry registered as `entry`.
    pub fn new(entry: &str) -> Process {
        // The kernel's link to this very program, even after its file was replaced or removed.
        let mut command = Command::new("/proc/self/exe");
        if let Some(program) = env::args_os().next() {
            command.arg0(program);
        }
        Process {
            entry: entry.to_owned(),
            name: None,
            leading: Vec::new(),
            args: Vec::new(),
            segments: Vec::new(),
            kill_on_drop: false,
            die_with_parent: false,
            command,
        }
    }

    /// Names the process, for messages and [`current`]; the default is the entry's name.
    pub fn name(mut self, name: &str) -> Process {
        self.name = Some(name.to_owned());
        self
    }

    /// Adds an argument, for [`Context::args`]. Any bytes but NUL will do.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Process {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item: AsRef<OsStr>>) -> Process {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Hands a segment over; it is [`Context::segment`] 0, 1, … in the order of the calls.
    ///
    /// If the process ends, in whatever way, before it has taken an end of anything in the segment, then each end of a pipe or
    /// an SPSC queue that nobody has taken yet counts as left by it: who waits at the other end is told, unless another process
    /// that was handed the segment may still come. If the process fails, the same holds for the ends of MPMC queues.
    /// Queues that [keep waiting](crate::QueueOptions::keep_waiting) are never told. Whoever takes such an end later is its successor.
    /// That does not depend on the [`Child`]: it may be dropped. (Linux before 5.3 does not tell.)
    ///
    /// The [`Child`] keeps it open here until the process is seen to have exited, or the `Child` is dropped, so
    /// that it cannot go away before the process has joined it.
    pub fn segment(mut self, segment: &Segment) -> Process {
        self.segments.push(segment.clone());
        self
    }

    /// Puts arguments before gimmal's own, for a program whose `main` is not yours.
    ///
    /// Under the test harness, `["child", "--exact", "--nocapture", "--"]` makes it run the test function
    /// `child`, which calls [`init`]. The harness takes what follows for names of tests to run as well, so no
    /// entry, process or argument should have a test's name.
    pub fn leading_args(mut self, args: impl IntoIterator<Item: AsRef<OsStr>>) -> Process {
        self.leading.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable of the process.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Process {
        self.command.env(key, value);
        self
    }

    /// Where its stdin comes from; [`Stdio::piped`] makes it [`Child::take_stdin`].
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Process {
        self.command.stdin(stdin);
        self
    }

    /// Where its stdout goes; [`Stdio::piped`] makes it [`Child::take_stdout`].
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Process {
        self.command.stdout(stdout);
        self
    }

    /// Where its stderr goes; [`Stdio::piped`] makes it [`Child::take_stderr`].
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Process {
        self.command.stderr(stderr);
        self
    }

    /// Whether dropping the [`Child`] kills the process, if it still runs, and waits for its end.
    pub fn kill_on_drop(mut self, kill: bool) -> Process {
        self.kill_on_drop = kill;
        self
    }

    /// Whether the process is killed (SIGKILL) when this process ends, in whatever way. Which thread of this process called
    /// [`spawn`](Process::spawn), and whether that thread still runs, makes no difference.
    ///
    /// It takes effect in [`init`]: if this process has ended before that, the entry does not run. What the process starts in its
    /// turn lives on, unless it was asked for there, too. A process that the system has stopped ends when it is resumed.
    ///
    /// This is not `PR_SET_PDEATHSIG`, which kills when the *thread* that has started the process ends. Instead a small thread
    /// of the new process, `gimmal-parent`, sleeps on a descriptor of this process. It needs Linux 5.3: on an older one `spawn`
    /// returns an error.
    ///
    /// ```no_run
    /// use gimmal::process::Process;
    ///
    /// let worker = Process::new("work").die_with_parent(true).spawn()?;
    /// # Ok::<(), gimmal::Error>(())
    /// ```
    pub fn die_with_parent(mut self, die: bool) -> Process {
        self.die_with_parent = die;
        self
    }

    /// Starts the process. It has begun to run this program when this returns; its entry may still lie ahead.
    ///
    /// # Errors
    ///
    /// [`Error::NotRegistered`], which lists what is, if [`init`] was not given the entry; [`Error::Io`] if the
    /// process cannot be started.
    pub fn spawn(self) -> Result<Child, Error> {
        let Process { entry, name, leading, args, segments, kill_on_drop, die_with_parent, mut command } = self;
        if !registered().contains(entry.as_str()) {
            return Err(not_registered(&entry));
        }
        let list = handover::hand_over_list(&mut command, &segments)?;
        let name = name.unwrap_or_else(|| entry.clone());
        command.args(leading).args([MARKER, &entry, &name, &list]).args(args.iter().map(|arg| handover::encode(arg)));
        let life = if die_with_parent { parent::hand_over(&mut command)? } else { String::new() };
        let (report, invitation) = expected::invite(&mut command, &segments)?;
        command.env(VARIABLE, format!("{life},{report}"));
        let process = command.spawn().map_err(failed_to("start a process"))?;
        invitation.into_iter().for_each(|invitation| invitation.expect(process.id()));
        Ok(Child { name, process, segments, kill_on_drop })
    }
}

fn failed_to(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { action, source }
}
