//! `gimmal send` and `recv` as a shell uses them: every process is one of its own.

use gimmal::{Queue, Segment};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Nothing takes as long, unless something is wrong.
const LONG: Duration = Duration::from_secs(60);

/// A directory of segments for one test. Nothing may be left in it.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = Path::new("/dev/shm").join(format!("gimmal-test-stream-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gimmal"));
        command.args(args.split(' ')).env("GIMMAL_DIR", &self.0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, args: &str) -> Running {
        Running(Some(self.command(args).spawn().unwrap()))
    }

    /// Runs it to its end, with something to read.
    fn run(&self, args: &str, stdin: &[u8]) -> Output {
        let mut running = self.start(args);
        running.feed(stdin);
        running.end()
    }

    /// What `gimmal stat` tells of a segment, if that is there.
    fn stat(&self, segment: &str) -> Option<Value> {
        let stat = self.command(&format!("stat --json {segment}")).output().unwrap();
        stat.status.success().then(|| serde_json::from_slice(&stat.stdout).unwrap())
    }

    fn until_attached(&self, segment: &str, processes: usize) {
        eventually(&format!("{processes} processes are attached"), || {
            let stat = self.stat(segment)?;
            let queue = !stat["objects"].as_array().unwrap().is_empty();
            (queue && stat["participants"].as_array().unwrap().len() == processes).then_some(())
        });
    }

    /// Waits until so many messages wait.
    fn until_depth(&self, segment: &str, depth: u64) {
        eventually(&format!("{depth} messages wait"), || {
            (self.stat(segment)?["objects"][0]["depth"] == json!([depth])).then_some(())
        });
    }

    fn assert_empty(&self) {
        assert_eq!(fs::read_dir(&self.0).unwrap().count(), 0);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that does not outlive the test.
struct Running(Option<Child>);

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn stdin(&mut self) -> &mut ChildStdin {
        self.child().stdin.as_mut().unwrap()
    }

    /// Gives it something to read, and no more.
    fn feed(&mut self, bytes: &[u8]) {
        let mut stdin = self.child().stdin.take().unwrap();
        // It may have ended before it has read all.
        let _ = stdin.write_all(bytes);
    }

    fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.child().id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it, by nothing else than the signal: to wait for it would close its standard input.
    fn interrupt(&mut self, signal: Signal) {
        let stdin = self.child().stdin.take();
        self.signal(signal);
        assert_eq!(self.child().wait().unwrap().code(), Some(130));
        drop(stdin);
    }

    fn stop(&mut self) {
        self.signal(Signal::SIGSTOP);
        self.until_in_state('T');
    }

    /// Waits until its main thread is in a state of proc(5): `S` asleep, `T` stopped.
    fn until_in_state(&mut self, state: char) {
        let stat = format!("/proc/{}/stat", self.child().id());
        let state = format!(") {state} ");
        eventually("its state", || fs::read_to_string(&stat).unwrap().contains(&state).then_some(()));
    }

    /// Its output, read from now on.
    fn end_meanwhile(self) -> thread::JoinHandle<Output> {
        thread::spawn(|| self.end())
    }

    /// Its output. It is killed if it does not come to its end.
    fn end(mut self) -> Output {
        drop(self.child().stdin.take());
        let child = self.0.take().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let (ended, end) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if end.recv_timeout(LONG) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        watchdog.join().unwrap();
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < LONG, "not so: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn well(output: Output) -> Vec<u8> {
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    assert_eq!(complaint(&output), "");
    output.stdout
}

fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Lines that tell their number, of all lengths and bytes, and empty ones.
fn lines(count: usize) -> Vec<Vec<u8>> {
    let line = |number: usize| {
        let mut line = format!("{number} ").into_bytes();
        match number {
            _ if number.is_multiple_of(7) => line.clear(),
            _ if number.is_multiple_of(9_973) => line.resize(100_000 + number % 1000, b'x'),
            _ => line.extend((0..number % 90).map(|i| (number * 31 + i * 7) as u8).map(|b| b.max(11))),
        }
        line
    };
    (1..=count).map(line).collect()
}

fn joined(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| [&line[..], b"\n"].concat()).collect()
}

fn number(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line.split(|&byte| byte == b' ').next()?).ok()?.parse().ok()
}

#[test]
fn a_file_is_partitioned_among_those_who_receive() {
    let dir = Directory::new("partition");
    let lines = lines(100_000);
    let receivers: Vec<Running> = (0..3).map(|_| dir.start("recv q")).collect();
    let mut sender = dir.start("send q --capacity 256K");
    dir.until_attached("q", 4);
    let receivers: Vec<_> = receivers.into_iter().map(Running::end_meanwhile).collect();
    sender.feed(&joined(&lines));
    let outputs: Vec<Vec<u8>> = receivers.into_iter().map(|receiver| well(receiver.join().unwrap())).collect();
    well(sender.end());

    let mut counts = BTreeMap::<&[u8], i64>::new();
    for line in &lines {
        *counts.entry(line).or_default() += 1;
    }
    for output in &outputs {
        let mut last = 0;
        for line in output.split_inclusive(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\n").unwrap()) {
            *counts.entry(line).or_default() -= 1;
            if let Some(number) = number(line) {
                assert!(number > last, "{number} came after {last}");
                last = number;
            }
        }
    }
    assert!(counts.values().all(|&count| count == 0), "lost or repeated: {counts:?}");
    dir.assert_empty();
}

#[test]
fn a_sender_waits_for_those_who_receive_and_a_receiver_for_those_who_send() {
    let dir = Directory::new("first");
    let mut sender = dir.start("send q");
    sender.feed(b"one\n\nlast");
    dir.until_depth("q", 3);
    assert!(sender.child().try_wait().unwrap().is_none());
    assert_eq!(well(dir.run("recv q", b"")), b"one\n\nlast\n");
    well(sender.end());
    dir.assert_empty();

    let receiver = dir.start("recv --create q/jobs");
    dir.until_attached("q", 1);
    assert_eq!(dir.stat("q").unwrap()["objects"][0]["name"], "jobs");
    well(dir.run("send --no-create q/jobs", b"two\n"));
    assert_eq!(well(receiver.end()), b"two\n");
    dir.assert_empty();
}

#[test]
fn raw_bytes_arrive_as_they_are() {
    let dir = Directory::new("raw");
    let bytes: Vec<u8> = (0..1_000_000_u64).map(|i| ((i * i) >> 7) as u8).collect();
    let receiver = dir.start("recv --raw q").end_meanwhile();
    let mut sender = dir.start("send --raw q --capacity 16K");
    sender.feed(&bytes);
    assert!(well(receiver.join().unwrap()) == bytes);
    well(sender.end());

    let receiver = dir.start("recv --len-prefixed q");
    well(dir.run("send --raw --chunk 3 q", b"abcdefg"));
    assert_eq!(well(receiver.end()), b"\x03\0\0\0abc\x03\0\0\0def\x01\0\0\0g");
    dir.assert_empty();
}

#[test]
fn a_sender_does_not_wait_for_what_others_send_after_it() {
    let dir = Directory::new("backlog");
    let mut other = dir.start("send q");
    other.stdin().write_all(b"before\n").unwrap();
    dir.until_depth("q", 1);
    let mut sender = dir.start("send q");
    sender.feed(b"its own\n");
    dir.until_depth("q", 2);
    // It reads nothing more, so that it sleeps only when it waits for what it has sent.
    sender.until_in_state('S');
    other.stdin().write_all(b"after\n").unwrap();
    dir.until_depth("q", 3);
    assert_eq!(well(dir.run("recv q --count 2", b"")), b"before\nits own\n");
    well(sender.end());
    assert_eq!(well(dir.run("recv q --count 1", b"")), b"after\n");
    well(other.end());
    dir.assert_empty();
}

#[test]
fn messages_with_lengths_may_have_newlines_in_them() {
    let dir = Directory::new("prefixed");
    let messages = b"\x03\0\0\0a\nb\0\0\0\0\x01\0\0\0\n";
    let receiver = dir.start("recv --len-prefixed q");
    well(dir.run("send --len-prefixed q", messages));
    assert_eq!(well(receiver.end()), messages);

    let receiver = dir.start("recv q");
    let output = dir.run("send --len-prefixed q", &messages[..8]);
    assert_eq!((code(&output), well(receiver.end())), (1, b"a\nb\n".to_vec()));
    assert_eq!(complaint(&output), "gimmal send: the input ends in the middle of message 2\n");
    dir.assert_empty();
}

#[test]
fn what_is_too_large_is_named_and_what_was_before_arrives() {
    let dir = Directory::new("large");
    let receiver = dir.start("recv q");
    let output = dir.run("send q --capacity 4K", &[b"first\n", &[b'x'; 5000][..], b"\nthird\n"].concat());
    assert_eq!((code(&output), well(receiver.end())), (1, b"first\n".to_vec()));
    let complaint = complaint(&output);
    assert!(complaint.starts_with("gimmal send: line 2 has 5000 bytes and the queue holds 4096: "), "{complaint}");
    let output = dir.run("send q --raw --capacity 4K --chunk 5000", b"");
    assert_eq!(code(&output), 1);
    dir.assert_empty();
}

#[test]
fn when_the_time_is_up_the_exit_code_says_so() {
    let dir = Directory::new("timeout");
    let timed_out = |args: &str, stdin: &[u8], what: &str| {
        let output = dir.run(args, stdin);
        assert_eq!(code(&output), 124, "{args}: {}", complaint(&output));
        assert!(complaint(&output).contains(what), "{}", complaint(&output));
    };
    timed_out("recv q --timeout 0", b"", "q: nobody has made it\n");
    timed_out("send q --no-create --timeout 1ms", b"x\n", "q: nobody has made it within 1ms\n");
    timed_out("recv q --create --timeout 1ms", b"", "q: no message came within 1ms\n");
    timed_out("send q --timeout 1ms", b"x\ny\n", "q: 2 messages were not taken within 1ms\n");
    timed_out(
        "send q --timeout 1ms --capacity 4K",
        &b"0123456789\n".repeat(65),
        "q: there was no room for line 65 within",
    );
    dir.assert_empty();
    let output = dir.run("recv q --timeout soon", b"");
    assert_eq!(code(&output), 2);
}

#[test]
fn a_segment_that_stays_keeps_its_messages() {
    let dir = Directory::new("persist");
    well(dir.run("send --persist q", b"1\n2\n3\n"));
    well(dir.run("send q", b"4\n"));
    assert_eq!(well(dir.run("recv q --count 3", b"")), b"1\n2\n3\n");
    assert_eq!(well(dir.run("recv q", b"")), b"4\n");
    // All is over: this one waits for the next sender.
    assert_eq!(code(&dir.run("recv q --timeout 1ms", b"")), 124);
    let receiver = dir.start("recv q");
    dir.until_attached("q", 1);
    well(dir.run("send q", b"5\n"));
    assert_eq!(well(receiver.end()), b"5\n");
    well(dir.run("rm q", b"")).clear();
}

#[test]
fn one_who_follows_goes_on_with_the_next_sender() {
    let dir = Directory::new("follow");
    let receiver = dir.start("recv --follow --count 3 q");
    well(dir.run("send q", b"1\n"));
    well(dir.run("send q", b"2\n"));
    well(dir.run("send q --count 1", b"3\n4\n"));
    assert_eq!(well(receiver.end()), b"1\n2\n3\n");
    dir.assert_empty();
}

#[test]
fn what_cannot_be_written_goes_to_another_receiver() {
    let dir = Directory::new("epipe");
    let mut receiver = dir.start("recv --create q");
    drop(receiver.child().stdout.take());
    dir.until_attached("q", 1);
    let mut sender = dir.start("send q");
    sender.feed(b"1\n2\n3\n");
    let output = receiver.end();
    assert_eq!((code(&output), complaint(&output)), (1, String::new()));
    assert_eq!(well(dir.run("recv q", b"")), b"1\n2\n3\n");
    well(sender.end());

    let mut sender = dir.start("send q");
    sender.feed(b"1\n");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = dir.command("recv q").stdout(full).output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(complaint(&output).contains("No space left"), "{output:?}");
    assert_eq!(well(dir.run("recv q", b"")), b"1\n");
    well(sender.end());
    dir.assert_empty();
}

#[test]
fn what_a_killed_sender_has_sent_arrives() {
    let dir = Directory::new("kill-send");
    let mut receiver = dir.start("recv --create q");
    dir.until_attached("q", 1);
    receiver.stop();
    let mut sender = dir.start("send q");
    let lines = lines(1_000);
    sender.stdin().write_all(&joined(&lines)).unwrap();
    sender.stdin().write_all(b"half a line").unwrap();
    dir.until_depth("q", 1_000);
    let pid = sender.child().id();
    sender.signal(Signal::SIGKILL);
    sender.child().wait().unwrap();
    receiver.signal(Signal::SIGCONT);
    let output = receiver.end();
    assert!(output.stdout == joined(&lines));
    assert_eq!(code(&output), 1);
    assert!(complaint(&output).contains(&format!("the last sender, process {pid}, did not come to its end")));
    dir.assert_empty();
}

#[test]
fn what_a_killed_receiver_had_in_hand_goes_to_another() {
    let dir = Directory::new("kill-recv");
    let mut sender = dir.start("send --raw --capacity 2M q");
    let chunk = |number: u8| vec![number; 64 << 10];
    for number in 1..=10 {
        sender.stdin().write_all(&chunk(number)).unwrap();
    }
    eventually("something is there", || {
        let stat = dir.stat("q")?;
        (stat["objects"][0]["depth"][0].as_u64()? > 0).then_some(())
    });
    let mut receiver = dir.start("recv --raw q");
    // A pipe holds as much as one write; the next one does not come to its end.
    let mut first = vec![0; 1000];
    receiver.child().stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert!(first.iter().all(|&byte| byte == 1));
    receiver.signal(Signal::SIGKILL);
    let mut written = first;
    receiver.child().stdout.as_mut().unwrap().read_to_end(&mut written).unwrap();
    receiver.child().wait().unwrap();
    drop(sender.child().stdin.take());
    let rest = well(dir.run("recv --raw q", b""));
    well(sender.end());
    let all: Vec<u8> = (1..=10).flat_map(chunk).collect();
    // What was written of the message in hand comes again.
    let overlap = written.len() + rest.len() - all.len();
    assert!(written == all[..written.len()] && rest == all[written.len() - overlap..], "{overlap} bytes came twice");
    dir.assert_empty();
}

#[test]
fn who_is_interrupted_leaves_nothing_behind() {
    let dir = Directory::new("interrupt");
    for (args, signal) in [("send q", Signal::SIGINT), ("recv q --create", Signal::SIGTERM)] {
        let mut running = dir.start(args);
        dir.until_attached("q", 1);
        running.interrupt(signal);
        dir.assert_empty();
    }
    // Others go on.
    let mut sender = dir.start("send q");
    sender.stdin().write_all(b"1\n").unwrap();
    let receiver = dir.start("recv q");
    dir.until_attached("q", 2);
    let mut second = dir.start("send q");
    second.stdin().write_all(b"2\n").unwrap();
    dir.until_attached("q", 3);
    dir.until_depth("q", 0);
    sender.interrupt(Signal::SIGINT);
    second.feed(b"3\n");
    let mut received: Vec<u8> = well(receiver.end());
    received.sort_unstable();
    assert!(received.ends_with(b"23") || received.ends_with(b"123"), "{received:?}");
    well(second.end());
    dir.assert_empty();
}

#[test]
fn lines_are_written_before_it_waits_for_more() {
    let dir = Directory::new("flush");
    let mut sender = dir.start("send q");
    let mut receiver = dir.start("recv q");
    let mut output = BufReader::new(receiver.child().stdout.take().unwrap());
    for line in ["one\n", "two\n"] {
        sender.stdin().write_all(line.as_bytes()).unwrap();
        let mut received = String::new();
        output.read_line(&mut received).unwrap();
        assert_eq!(received, line);
    }
    well(sender.end());
    well(receiver.end());
}

#[test]
fn a_tap_shows_what_others_receive() {
    let dir = Directory::new("tap");
    let mut sender = dir.start("send q");
    let read_line = |output: &mut dyn BufRead| {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line
    };
    sender.stdin().write_all(b"one\n").unwrap();
    let mut tap = dir.start("tap q");
    let mut shown = BufReader::new(tap.child().stdout.take().unwrap());
    assert_eq!(read_line(&mut shown), "one\n");
    let mut receiver = dir.start("recv q");
    let mut received = BufReader::new(receiver.child().stdout.take().unwrap());
    assert_eq!(read_line(&mut received), "one\n");
    for line in ["two\n", "\n", "three\n"] {
        sender.stdin().write_all(line.as_bytes()).unwrap();
        assert_eq!([read_line(&mut shown), read_line(&mut received)], [line, line]);
    }
    well(sender.end());
    well(receiver.end());
    let output = tap.end();
    assert_eq!((code(&output), &*complaint(&output)), (0, "gimmal tap: 4 seen, none missed\n"));
    dir.assert_empty();

    well(dir.run("send --persist q", b"a\nb\nc\n"));
    let output = dir.run("tap q --count 2 --len-prefixed --json", b"");
    assert_eq!((code(&output), &*output.stdout), (0, &b"\x01\0\0\0a\x01\0\0\0b"[..]));
    assert_eq!(complaint(&output), "{\"messages\":2,\"missed_at_most\":0}\n");
    assert_eq!(well(dir.run("recv q", b"")), b"a\nb\nc\n");
    assert_eq!(code(&dir.run("tap r --timeout 1ms", b"")), 124);
    let output = dir.run("tap q", b"");
    assert_eq!((code(&output), &*output.stdout), (0, &b""[..]));
}

#[test]
fn a_tap_that_waits_in_vain_says_so() {
    let dir = Directory::new("tap-timeout");
    let _receiver = dir.start("recv --create q");
    dir.until_attached("q", 1);
    let output = dir.run("tap q --timeout 1ms", b"");
    assert_eq!(code(&output), 124);
    assert_eq!(complaint(&output), "gimmal tap: 0 seen, none missed\ngimmal tap: q: no message came within 1ms\n");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let dir = Directory::new("misfits");
    let segment = Segment::options().directory(&dir.0).create("s").unwrap();
    let _numbers = Queue::<u64>::create(&segment, "numbers", 8).unwrap();
    let _bytes = Queue::<[u8]>::create(&segment, "queue", 4096).unwrap();
    let refused = |args: &str, what: &str| {
        let output = dir.run(args, b"");
        assert_eq!(code(&output), 1, "{args}");
        assert!(complaint(&output).contains(what), "{args}: {}", complaint(&output));
    };
    refused("recv s/numbers", "holds u64");
    refused("send s --capacity 8K", "holds 4.00 KiB, less than 8.00 KiB");
    refused("send s --persist", "will go away with its last user");
    refused("send s/more --capacity 16M", "the segment has");
    refused("send bad^name", "bad name");
    refused("recv s/bad^name", "bad name");
    for wrong in
        ["send", "send a/b/c", "recv a/", "send s --capacity some", "recv s --raw --len-prefixed", "send s --chunk 5"]
    {
        assert_eq!(code(&dir.run(wrong, b"")), 2, "{wrong}");
    }
}

#[test]
fn json_tells_how_much_went_through() {
    let dir = Directory::new("json");
    let receiver = dir.start("recv q --json");
    let sent = well(dir.run("send q --json", b"a\nbc\n"));
    let totals = json!({"messages": 2, "bytes": 3});
    assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), totals);
    let output = receiver.end();
    assert_eq!(output.stdout, b"a\nbc\n");
    // Standard output has the messages.
    assert_eq!(serde_json::from_slice::<Value>(&output.stderr).unwrap(), totals);
}

#[test]
fn signals_that_it_was_started_to_ignore_are_ignored() {
    let dir = Directory::new("ignored");
    for signal in ["HUP", "INT", "TERM"] {
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_gimmal");
        command.args(["-c", &format!("trap '' {signal}; exec {program} recv q --create --follow --count 1")]);
        let mut receiver = Running(Some(command.env("GIMMAL_DIR", &dir.0).stdout(Stdio::piped()).spawn().unwrap()));
        dir.until_attached("q", 1);
        receiver.signal(format!("SIG{signal}").parse().unwrap());
        well(dir.run("send q", b"it goes on\n"));
        assert_eq!(well(receiver.end()), b"it goes on\n", "{signal}");
    }
    dir.assert_empty();
}

#[test]
fn an_interrupted_user_of_a_segment_whose_name_begins_with_a_dash_removes_it() {
    let dir = Directory::new("dash");
    let mut receiver = dir.start("recv --create --follow -- -x");
    eventually("it is there", || (fs::read_dir(&dir.0).unwrap().count() == 1).then_some(()));
    dir.until_attached("-- -x", 1);
    receiver.interrupt(Signal::SIGINT);
    dir.assert_empty();
}

#[test]
fn a_standard_stream_that_is_closed_is_an_error_and_takes_no_message() {
    let dir = Directory::new("closed");
    let closed = |args: &str, stream: &str| {
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_gimmal");
        command.args(["-c", &format!("exec {program} {args} {stream}")]).env("GIMMAL_DIR", &dir.0);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(code(&output), 1, "{args}: {output:?}");
        complaint(&output)
    };
    well(dir.run("send --persist q", b"precious\n"));
    assert_eq!(closed("recv q", ">&-"), "gimmal recv: standard output is closed\n");
    assert_eq!(closed("tap q", ">&-"), "gimmal tap: standard output is closed\n");
    assert_eq!(closed("ls", ">&-"), "gimmal ls: standard output is closed\n");
    assert_eq!(closed("send q", "<&-"), "gimmal send: standard input is closed\n");
    assert_eq!(code(&dir.command("tap q --count 1").stdout(Stdio::null()).output().unwrap()), 0);
    assert_eq!(well(dir.run("recv q", b"")), b"precious\n");
    well(dir.run("rm q", b"")).clear();
    dir.assert_empty();
}

#[test]
fn an_unbounded_queue_may_have_any_capacity() {
    let dir = Directory::new("unbounded-capacity");
    for capacity in ["1M", "5M", "100M"] {
        let receiver = dir.start("recv q");
        well(dir.run(&format!("send --unbounded --capacity {capacity} q"), b"a\n"));
        assert_eq!(well(receiver.end()), b"a\n");
        dir.assert_empty();
    }
}

#[test]
fn an_unbounded_queue_takes_all_before_anybody_receives() {
    let directory = Directory::new("unbounded");
    let lines: String = (0..200_000).map(|n| format!("line {n} of a file that is longer than a ring\n")).collect();
    let mut sender = directory.start("send q --unbounded");
    // All of it is read, though nobody receives; then the sender stays until it was taken.
    let stdin = lines.clone().into_bytes();
    sender.child().stdin.take().unwrap().write_all(&stdin).unwrap();
    let sender = sender.end_meanwhile();
    let received = directory.start("recv q").end();
    assert!(received.status.success());
    assert!(received.stdout == stdin, "{} of {} bytes", received.stdout.len(), stdin.len());
    assert!(sender.join().unwrap().status.success());
    directory.assert_empty();
}
