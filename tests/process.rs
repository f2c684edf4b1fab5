//! Processes started by `gimmal::process`, which run this test program again and get no further than `child`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{env, fmt, fs, io};

use gimmal::process::{self, Child, CommandExt, Context, Entry, Outcome, Process};
use gimmal::{Change, Error, Segment, Value};

const ENTRIES: [Entry; 11] = gimmal::entries![
    show,
    fail,
    fail_on_parse,
    burst,
    wait_for_stdin,
    count,
    nest,
    list_descriptors,
    pass_on_arguments,
    attend,
    start_and_end
];

/// Far more than anything here takes: a test that runs into it hangs, and should fail.
const LONG: Duration = Duration::from_secs(60);

/// Where the processes that are started here begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

/// A program that is handed a segment without `gimmal::process`. Run as a test, it has nothing to do.
#[test]
fn plain_program() {
    if env::var_os("T_PLAIN_PROGRAM").is_some() {
        for _ in 0..2 {
            let segment = process::inherited_segment("Work").unwrap();
            increment(&segment).unwrap();
        }
        assert_no_descriptor_is_left_open_on_exec();
    }
}

fn start(entry: &str) -> Process {
    process::init(&ENTRIES);
    Process::new(entry).leading_args(["child", "--exact", "--nocapture", "--"])
}

fn segment(case: &str) -> Segment {
    let segment = Segment::create(&format!("t-process-{}-{case}", std::process::id())).unwrap();
    Value::<u64>::create(&segment, "count", 0).unwrap();
    segment
}

fn anonymous_segment() -> Segment {
    let segment = Segment::anonymous().unwrap();
    Value::<u64>::create(&segment, "count", 0).unwrap();
    segment
}

fn increment(segment: &Segment) -> Result<u64, Error> {
    Ok(Value::<u64>::open(segment, "count")?.fetch_add(1, Ordering::Relaxed))
}

fn value(segment: &Segment) -> u64 {
    Value::<u64>::open(segment, "count").unwrap().load(Ordering::Relaxed)
}

fn read_to_end(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

/// What another program that is started here would find open.
fn assert_no_descriptor_is_left_open_on_exec() {
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !listing.contains("memfd:"), "{listing}");
}

// --- what runs in the children ---

fn show(context: &Context) -> Outcome {
    let args: Vec<&[u8]> = context.args().iter().map(|arg| arg.as_bytes()).collect();
    println!("\nname {:?} args {args:?}", context.name());
    println!("arg(0) {:?} variable {:?}", context.arg(0), env::var("T_SHOW"));
    let current = process::current();
    println!("current {:?} {} of {}", current.name(), current.pid(), current.parent_pid());
    Ok(())
}

#[derive(Debug)]
struct Outer(io::Error);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the outer error")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

fn fail(_: &Context) -> Outcome {
    Err(Outer(io::Error::other("the inner error")).into())
}

fn fail_on_parse(context: &Context) -> Outcome {
    assert_eq!(context.parse::<u32>(0)?, 17);
    println!("{}", context.parse::<u32>(1)?);
    Ok(())
}

fn burst(_: &Context) -> Outcome {
    panic!("burst on purpose")
}

fn wait_for_stdin(_: &Context) -> Outcome {
    let mut line = String::new();
    while io::stdin().read_line(&mut line)? > 0 {
        println!("\nread {}", line.trim_end());
        line.clear();
    }
    Ok(())
}

fn count(context: &Context) -> Outcome {
    for index in 0..context.parse(0)? {
        for _ in 0..=index {
            increment(context.segment(index)?)?;
        }
    }
    Ok(())
}

fn nest(context: &Context) -> Outcome {
    let mut child = start("count").arg("1").segment(context.segment(0)?).spawn()?;
    match child.join()?.code() {
        Some(0) => Ok(()),
        code => Err(format!("the nested process ended with {code:?}").into()),
    }
}

/// This program once more, with arguments that would start an entry if `Process::spawn` had made them.
fn with_arguments_of_a_process() -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture", "--", "--gimmal-process", "show", "worker", ""]);
    command
}

fn pass_on_arguments(_: &Context) -> Outcome {
    let output = with_arguments_of_a_process().output()?;
    println!("\nstarted: {}", String::from_utf8_lossy(&output.stdout).contains("name \"worker\""));
    Ok(())
}

/// Takes part in the segment until it is killed, or the segment's counter says 0.
fn attend(context: &Context) -> Outcome {
    let count = Value::<u64>::open(context.segment(0)?, "count")?;
    count.fetch_add(1, Ordering::Relaxed);
    count.notify_all();
    // Not for ever, so that a process that should have been killed is gone some time after the test has failed.
    if count.wait_while_timeout(LONG, |count| count > 0).is_err() {
        println!("outlived");
    }
    Ok(())
}

/// Starts a process that is to end with this one, in a thread that ends at once. Dies when that process has come to its entry,
/// or before.
fn start_and_end(context: &Context) -> Outcome {
    let segment = context.segment(0)?.clone();
    let spawn = move || start("attend").die_with_parent(true).segment(&segment).spawn().map(drop);
    std::thread::spawn(spawn).join().expect("the thread")?;
    if context.arg(0) == Some("later") {
        let count = Value::<u64>::open(context.segment(0)?, "count")?;
        let _ = count.wait_while_timeout(LONG, |count| count < 2);
        // The thread that has started it is gone, and it is still there. It has until it is killed for that.
        let _ = count.wait_while_timeout(LONG, |count| count < 3);
    }
    std::process::abort()
}

fn list_descriptors(context: &Context) -> Outcome {
    increment(context.segment(0)?)?;
    assert_no_descriptor_is_left_open_on_exec();
    Ok(())
}

// --- name, arguments, environment ---

#[test]
fn name_arguments_and_environment_arrive_unchanged() {
    let args = ["", "a b", "50%", "%41", "1,2", "--", "-x", "\u{e4}\n"].map(OsString::from);
    let wild = OsString::from_vec(vec![0xff, b'%', 0xfe, b'a']);
    let mut child = start("show")
        .name("worker 3, \u{e4}")
        .arg("first")
        .args(&args)
        .arg(&wild)
        .env("T_SHOW", "on show")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(child.name(), "worker 3, \u{e4}");
    let output = read_to_end(child.take_stdout().unwrap());
    assert!(child.join().unwrap().success());

    let mut sent = vec![OsStr::new("first").as_bytes()];
    sent.extend(args.iter().map(|arg| arg.as_bytes()));
    sent.push(wild.as_bytes());
    assert!(output.contains(&format!("name \"worker 3, \u{e4}\" args {sent:?}\n")), "{output}");
    assert!(output.contains("arg(0) Some(\"first\") variable Ok(\"on show\")\n"), "{output}");
    let current = format!("current \"worker 3, \u{e4}\" {} of {}\n", child.pid(), std::process::id());
    assert!(output.contains(&current), "{output}");
}

#[test]
fn the_parent_is_called_main_and_a_child_after_its_entry() {
    assert_eq!(process::current().name(), "main");
    assert_eq!(process::current().pid(), std::process::id());
    let mut child = start("show").stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(child.name(), "show");
    let output = read_to_end(child.take_stdout().unwrap());
    assert!(output.contains("\nname \"show\" args []\n"), "{output}");
    assert!(child.join().unwrap().success());
}

// --- exit codes ---

fn ends_with_message(process: Process) -> (Option<i32>, String) {
    let mut child = process.stderr(Stdio::piped()).spawn().unwrap();
    let message = read_to_end(child.take_stderr().unwrap());
    (child.join().unwrap().code(), message)
}

#[test]
fn an_error_exits_1_and_names_the_process_and_its_sources() {
    let (code, message) = ends_with_message(start("fail").name("doomed"));
    assert_eq!(code, Some(1));
    assert!(message.contains("process 'doomed': the outer error: the inner error\n"), "{message}");
}

#[test]
fn an_argument_that_does_not_parse_is_an_error_that_says_which() {
    for (args, part) in [(&["17"][..], "argument"), (&["17", "x1"][..], "\"x1\""), (&[][..], "argument")] {
        let (code, message) = ends_with_message(start("fail_on_parse").args(args));
        assert_eq!(code, Some(1), "{message}");
        let line = message.lines().find(|line| line.starts_with("process 'fail_on_parse': ")).expect(&message);
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_panic_exits_101_and_names_the_process() {
    let (code, message) = ends_with_message(start("burst").name("doomed"));
    assert_eq!(code, Some(101));
    assert!(message.contains("burst on purpose"), "{message}");
    assert!(message.contains("process 'doomed': panicked\n"), "{message}");
}

#[test]
fn an_error_keeps_its_exit_code_when_nobody_reads_stderr() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut child = start("fail").stderr(writer).spawn().unwrap();
    assert_eq!(child.join().unwrap().code(), Some(1));
}

#[test]
fn an_unknown_entry_is_refused_with_a_list_of_the_known_ones() {
    let error = start("nobody").spawn().unwrap_err();
    let Error::NotRegistered { entry, registered } = &error else { panic!("{error:?}") };
    assert_eq!(entry, "nobody");
    assert_eq!(BTreeSet::from(ENTRIES.map(|(name, _)| name)), registered.iter().map(String::as_str).collect());
    assert!(error.to_string().contains("show"), "{error}");
}

#[test]
fn a_child_whose_program_lacks_the_entry_exits_2_and_lists_what_it_has() {
    let output = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--", "--gimmal-process", "nobody", "worker", ""])
        .env("GIMMAL_PROCESS", "")
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    let line = message.lines().find(|line| line.starts_with("process 'worker': ")).expect(&message);
    assert!(line.contains("nobody") && line.contains("wait_for_stdin"), "{line}");
}

#[test]
fn arguments_that_gimmal_did_not_make_exit_with_a_message() {
    for (args, code) in
        [(&[][..], 2), (&["show", "w"][..], 2), (&["show", "w", "what"][..], 1), (&["show", "w", "", "%"][..], 1)]
    {
        let output = Command::new(env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--", "--gimmal-process"])
            .env("GIMMAL_PROCESS", "")
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn arguments_alone_start_no_entry() {
    process::init(&ENTRIES);
    let output = with_arguments_of_a_process().env_remove("GIMMAL_PROCESS").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("name \"worker\""), "{text}");
}

#[test]
fn what_a_started_process_starts_is_not_taken_for_one() {
    let mut child = start("pass_on_arguments").stdout(Stdio::piped()).spawn().unwrap();
    let text = read_to_end(child.take_stdout().unwrap());
    assert_eq!(child.join().unwrap().code(), Some(0));
    assert!(text.contains("\nstarted: false\n"), "{text}");
}

// --- ending with the parent ---

/// The parent dies when the process is in its entry. That the thread is gone which had started it, harms nobody.
#[test]
fn a_process_dies_with_its_parent_and_not_with_the_thread_that_started_it() {
    let segment = anonymous_segment();
    let count = Value::<u64>::open(&segment, "count").unwrap();
    let mut watcher = segment.watch();
    let mut parent = start("start_and_end").arg("later").segment(&segment).spawn().unwrap();
    count.fetch_add(1, Ordering::Relaxed);
    count.notify_all();
    count.wait_while_timeout(LONG, |count| count < 2).unwrap();
    let mut peers = Vec::new();
    while peers.len() < 2 {
        match watcher.recv_timeout(LONG).unwrap() {
            Change::Joined(peer) => peers.push(peer.pid),
            other => panic!("{other:?}"),
        }
    }
    parent.kill().unwrap();
    parent.join().unwrap();
    for _ in 0..2 {
        let change = watcher.recv_timeout(LONG).unwrap();
        assert!(matches!(&change, Change::Died(peer) if peers.contains(&peer.pid)), "{change:?}");
    }
}

/// The parent dies at once: before the process is in its entry, most of the time. Whoever has inherited the parent's stdout keeps
/// that open.
#[test]
fn a_process_dies_with_its_parent_however_early_that_dies() {
    let segment = anonymous_segment();
    for _ in 0..10 {
        let mut parent = start("start_and_end").segment(&segment).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = parent.take_stdout().unwrap();
        parent.join().unwrap();
        let text = read_to_end(stdout);
        assert!(!text.contains("outlived"), "{text}");
    }
}

// --- waiting and ending ---

fn start_waiting() -> Child {
    start("wait_for_stdin").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn join_timeout_gives_up_in_time_and_succeeds_later() {
    let mut child = start_waiting();
    let begin = Instant::now();
    assert_eq!(child.join_timeout(Duration::from_millis(50)).unwrap(), None);
    assert!(begin.elapsed() >= Duration::from_millis(50));
    assert_eq!(child.join_timeout(Duration::ZERO).unwrap(), None);
    assert!(child.is_alive());
    assert_eq!(child.exit_code(), None);

    drop(child.take_stdin());
    let status = child.join_timeout(LONG).unwrap().expect("ends with its input");
    assert!(status.success());
    assert!(!child.is_alive());
}

#[test]
fn join_timeout_takes_the_longest_duration() {
    let mut child = start_waiting();
    drop(child.take_stdin());
    assert!(child.join_timeout(Duration::MAX).unwrap().unwrap().success());
}

#[test]
fn join_closes_the_input_that_the_process_waits_for() {
    assert!(start_waiting().join().unwrap().success());
}

#[test]
fn the_status_can_be_asked_for_again_after_the_process_is_reaped() {
    let mut child = start("fail").stderr(Stdio::null()).spawn().unwrap();
    let status = child.join_timeout(LONG).unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(child.exit_code(), Some(1));
        assert!(!child.is_alive());
        assert_eq!(child.join().unwrap(), status);
        assert_eq!(child.join_timeout(Duration::ZERO).unwrap(), Some(status));
        child.terminate().unwrap();
        child.kill().unwrap();
    }
}

#[test]
fn a_killed_process_has_minus_the_signal_as_exit_code() {
    let mut killed = start_waiting();
    killed.kill().unwrap();
    assert_eq!(killed.join_timeout(LONG).unwrap().unwrap().signal(), Some(9));
    assert_eq!(killed.exit_code(), Some(-9));

    let mut terminated = start_waiting();
    terminated.terminate().unwrap();
    assert_eq!(terminated.join_timeout(LONG).unwrap().unwrap().signal(), Some(15));
    assert_eq!(terminated.exit_code(), Some(-15));
}

#[test]
fn kill_on_drop_ends_and_reaps_the_process() {
    let mut child =
        start("wait_for_stdin").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let _input = child.take_stdin();
    let output = child.take_stdout().unwrap();
    let pid = child.pid();
    drop(child);
    // The id is not that of a child of ours any more, not even a zombie's.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(!stat.contains(&format!(" {} ", std::process::id())), "{stat}");
    read_to_end(output);
}

#[test]
fn dropping_a_child_leaves_the_process_running() {
    let mut child = start_waiting();
    let mut input = child.take_stdin().unwrap();
    let output = child.take_stdout().unwrap();
    drop(child);
    input.write_all(b"still here\n").unwrap();
    drop(input);
    let output = read_to_end(output);
    assert!(output.contains("\nread still here\n"), "{output}");
}

// --- segments ---

#[test]
fn segments_are_handed_over_in_order() {
    let segments = [segment("order-0"), anonymous_segment(), segment("order-2"), anonymous_segment()];
    let mut process = start("count").arg("3");
    for segment in &segments {
        process = process.segment(segment);
    }
    assert_eq!(process.spawn().unwrap().join().unwrap().code(), Some(0));
    assert_eq!(segments.each_ref().map(value), [1, 2, 3, 0]);
}

#[test]
fn a_missing_segment_is_an_error() {
    let (code, message) = ends_with_message(start("count").arg("2").segment(&anonymous_segment()));
    assert_eq!(code, Some(1));
    assert!(message.contains("process 'count': "), "{message}");
}

#[test]
fn a_segment_that_cannot_be_opened_ends_the_process_before_its_entry() {
    let name = format!("t-process-{}-absent", std::process::id());
    let output = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--", "--gimmal-process", "show", "worker"])
        .env("GIMMAL_PROCESS", "")
        .arg(format!("name:{name}:/dev/shm"))
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("process 'worker': "), "{message}");
    assert!(!String::from_utf8(output.stdout).unwrap().contains("name \"worker\""));
}

#[test]
fn a_segment_stays_until_the_process_has_joined_it() {
    let segment = segment("stays");
    let anonymous = anonymous_segment();
    let mut child = start("count").arg("1").segment(&segment).segment(&anonymous).spawn().unwrap();
    let name = segment.name().unwrap().to_owned();
    drop(segment);
    drop(anonymous);
    assert_eq!(child.join().unwrap().code(), Some(0));
    // `child` is still there, but keeps nothing open once the process has exited.
    assert!(Segment::open(&name).is_err());
}

#[test]
fn a_segment_is_found_in_any_directory() {
    let mut name = format!("t-process-{} a,b:c%d\n", std::process::id()).into_bytes();
    name.push(0xff);
    let directory = Path::new("/dev/shm").join(OsStr::from_bytes(&name));
    fs::create_dir(&directory).unwrap();
    let segment = Segment::options().directory(&directory).create("here").unwrap();
    Value::<u64>::create(&segment, "count", 0).unwrap();
    let mut child = start("count").arg("1").segment(&segment).spawn().unwrap();
    let code = child.join().unwrap().code();
    let count = value(&segment);
    drop(segment);
    // Fails if the segment is still in it.
    fs::remove_dir(&directory).unwrap();
    assert_eq!((code, count), (Some(0), 1));
}

#[test]
fn a_started_process_can_hand_its_segment_on() {
    let segments = [segment("nest"), anonymous_segment()];
    for segment in &segments {
        let mut child = start("nest").segment(segment).spawn().unwrap();
        assert_eq!(child.join().unwrap().code(), Some(0));
        assert_eq!(value(segment), 1);
    }
}

#[test]
fn a_descriptor_handed_over_reaches_no_other_program() {
    let segment = anonymous_segment();
    let mut child = start("list_descriptors").segment(&segment).spawn().unwrap();
    assert_eq!(child.join().unwrap().code(), Some(0));
    assert_eq!(value(&segment), 1);

    let mut command = Command::new("true");
    command.pass_segment("work", &segment).unwrap();
    assert_no_descriptor_is_left_open_on_exec();
}

fn plain_program_command() -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["plain_program", "--exact"]).env("T_PLAIN_PROGRAM", "1").current_dir("/").stdout(Stdio::null());
    command
}

#[test]
fn a_plain_command_is_passed_segments_with_and_without_a_name() {
    for segment in [segment("plain"), anonymous_segment()] {
        let mut command = plain_program_command();
        command.pass_segment("work", &segment).unwrap();
        for round in 1..=2 {
            assert!(command.status().unwrap().success());
            assert_eq!(value(&segment), 2 * round);
        }
    }
}

#[test]
fn a_key_that_no_variable_can_have_is_refused() {
    let segment = anonymous_segment();
    for key in ["", "a=b", "a b", "\u{e4}"] {
        assert!(matches!(Command::new("true").pass_segment(key, &segment), Err(Error::BadName { .. })), "{key:?}");
        assert!(matches!(process::inherited_segment(key), Err(Error::BadName { .. })), "{key:?}");
    }
}

#[test]
fn a_key_that_was_not_passed_is_an_error_that_names_it() {
    let error = process::inherited_segment("never_passed").unwrap_err();
    let Error::NotInherited { key, .. } = &error else { panic!("{error:?}") };
    assert_eq!(key, "never_passed");
    assert!(error.to_string().contains("GIMMAL_SEGMENT_NEVER_PASSED"), "{error}");
}

#[test]
fn a_description_that_outlived_its_descriptor_is_refused() {
    let mut command = plain_program_command();
    // Its stdin is open, but is not the file that was meant.
    command.env("GIMMAL_SEGMENT_WORK", "fd:0:1").stdin(Stdio::null()).stdout(Stdio::piped());
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("another file"));
}
