//! `gimmal wc` against the installed `wc`, in the C locale: the same output, the same complaints, the same exit code.

mod support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::{SystemWc, run};

const GIMMAL: &str = env!("CARGO_BIN_EXE_gimmal");

/// What the blocks of `gimmal wc` hold: what happens at their borders is of interest.
const BLOCK: usize = 32 * 1024;

/// Runs both, and compares all that comes out of them. Of complaints, the program's name is left out.
fn compare(workers: u32, files: &[&OsStr], stdin: &[u8]) {
    let Some(wc) = SystemWc::of_coreutils_9_1() else {
        eprintln!("skipped: the wc installed here is not like that of coreutils 9.1");
        return;
    };
    let workers = format!("--workers={workers}");
    let ours = [&["wc", &workers, "--"].map(OsStr::new), files].concat();
    let ours = run(Path::new(GIMMAL), &ours, stdin);
    let theirs = wc.run(&[&[OsStr::new("--")], files].concat(), stdin);

    let text = |bytes: &[u8], program| String::from_utf8_lossy(bytes).replace(program, "");
    // The first lines that differ say more than all that come out for hundreds of files.
    let difference = |ours: &str, theirs: &str| {
        let lines = ours.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
        format!(
            "{lines:?} of {} files; all: {} and {} lines",
            files.len(),
            ours.lines().count(),
            theirs.lines().count()
        )
    };
    let complaints = (text(&ours.stderr, "gimmal wc: "), text(&theirs.stderr, "wc: "));
    assert!(complaints.0 == complaints.1, "{}", difference(&complaints.0, &complaints.1));
    let rows = (text(&ours.stdout, ""), text(&theirs.stdout, ""));
    assert!(rows.0 == rows.1, "{}", difference(&rows.0, &rows.1));
    assert_eq!(ours.status, theirs.status);
}

/// A directory of its own for a test, with files in it.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name.as_ref());
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn compare_files(files: &[PathBuf]) {
    for workers in [1, 3] {
        let files: Vec<&OsStr> = files.iter().map(|path| path.as_os_str()).collect();
        compare(workers, &files, b"");
    }
}

/// Bytes that look random: a linear congruential generator's upper ones.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn files_of_all_kinds_are_counted_as_wc_does() {
    let dir = Directory::new("kinds");
    let files = [
        dir.file("empty", ""),
        dir.file("newline", "\n"),
        dir.file("no-final-newline", "one two\nthree"),
        dir.file("spaces", " \t\r\x0b\x0c\n  "),
        dir.file("all-bytes", (0..=255).collect::<Vec<u8>>()),
        dir.file("utf-8", "gr\u{fc}\u{df}e\u{a0}\u{4e16}\u{754c} \u{e9} \u{2007}\n".repeat(1000)),
        dir.file("noise", noise(5 * BLOCK + 7)),
    ];
    for file in &files {
        compare_files(std::slice::from_ref(file));
    }
    compare_files(&files);
}

#[test]
fn words_across_the_borders_of_blocks_are_counted_once() {
    let dir = Directory::new("borders");
    let mut files = Vec::new();
    for (i, at_border) in [&b"a"[..], b" ", b"\x80", b"\0\0a", b"a\0b", b" \0", b"\n"].iter().enumerate() {
        for len in [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 1] {
            let mut content = at_border.repeat(len.div_ceil(at_border.len()));
            content.truncate(len);
            files.push(dir.file(format!("filled-{i}-{len}"), &content));
            // A word that ends, or does not, one block of neutral bytes later.
            let word_before = [&b"word"[..], &vec![0x80; len], at_border].concat();
            files.push(dir.file(format!("after-neutral-{i}-{len}"), word_before));
        }
    }
    compare_files(&files);
}

#[test]
fn programs_are_counted_as_wc_does() {
    let programs: Vec<PathBuf> = ["/bin/sh", "/bin/ls", "/usr/bin/env"].map(PathBuf::from).into();
    compare_files(&programs);
    compare_files(&programs[..1]);
}

#[test]
fn many_files_and_one_file_many_times_are_counted_as_wc_does() {
    let dir = Directory::new("many");
    let mut files: Vec<PathBuf> = (0..700).map(|i| dir.file(format!("{i}"), noise(37 * i))).collect();
    files.extend(vec![files[99].clone(); 20]);
    compare_files(&files);
}

#[test]
fn standard_input_is_counted_with_and_without_a_name() {
    let dir = Directory::new("stdin");
    let file = dir.file("file", "a b\n");
    let text = noise(3 * BLOCK + 1);
    let dash = OsStr::new("-");
    for stdin in [&b""[..], b"one two", &text] {
        compare(2, &[], stdin);
        compare(2, &[dash], stdin);
        compare(2, &[dash, file.as_os_str(), dash], stdin);
    }
}

#[test]
fn standard_input_may_be_a_file_or_a_directory() {
    if SystemWc::of_coreutils_9_1().is_none() {
        return;
    }
    let dir = Directory::new("stdin-file");
    for path in [dir.file("file", "a b\nc"), dir.0.clone(), "/dev/null".into()] {
        let run = |program: &str, args: &[&str]| {
            let stdin = File::open(&path).unwrap();
            Command::new(program).args(args).env("LC_ALL", "C").stdin(stdin).output().unwrap()
        };
        for dash in [&[][..], &["-"]] {
            let ours = run(GIMMAL, &[&["wc"], dash].concat());
            let theirs = run("wc", dash);
            assert_eq!(ours.stdout, theirs.stdout, "{path:?}");
            assert_eq!(ours.status, theirs.status, "{path:?}");
            let complaint = String::from_utf8_lossy(&ours.stderr).replace("gimmal wc: ", "wc: ");
            assert_eq!(complaint.as_bytes(), theirs.stderr, "{path:?}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_complained_about_as_wc_does() {
    let dir = Directory::new("trouble");
    let good = dir.file("good", "a b\nc");
    let missing = dir.0.join("missing");
    let below_file = good.join("below");
    let odd_names = ["two words", "it's", "tab\there", "*", "\u{e9}"].map(|name| dir.0.join(name));
    let empty = Path::new("").to_owned();
    for files in [
        vec![missing.clone()],
        vec![dir.0.clone()],
        vec![empty.clone()],
        vec![good.clone(), missing, dir.0.clone(), below_file, empty, good],
        odd_names.into(),
    ] {
        compare_files(&files);
    }
}

#[test]
fn names_of_any_bytes_are_printed_as_wc_does() {
    let dir = Directory::new("names");
    let names = [&b"two\nlines"[..], b"\xff\xfe", b"it's\nhere", b" ", b"-l", b"--json"];
    compare_files(&names.map(|name| dir.file(OsStr::from_bytes(name), "x\n")));
}

#[test]
fn json_has_the_counts_of_each_file_and_of_all() {
    let dir = Directory::new("json");
    let file = dir.file("file", "a b\nc");
    let missing = dir.0.join("missing");
    let args = ["wc".as_ref(), "--json".as_ref(), file.as_os_str(), missing.as_os_str(), file.as_os_str()];
    let output = run(Path::new(GIMMAL), &args, b"");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["total"], serde_json::json!({"lines": 2, "words": 6, "bytes": 10}));
    let counted = serde_json::json!(
        {"name": file.to_str().unwrap(), "lines": 1, "words": 3, "bytes": 5, "error": null}
    );
    assert_eq!(json["files"][0], counted);
    assert_eq!(json["files"][1]["error"], "No such file or directory");
    assert_eq!(json["files"][2], counted);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(GIMMAL).args(["wc", "/dev/null"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
}

/// `gimmal wc` in the middle of its standard input, its workers at work.
fn start_in_the_middle(workers: usize) -> (Child, Vec<u32>) {
    let mut counting = Command::new(GIMMAL)
        .args(["wc", &format!("--workers={workers}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = counting.stdin.as_mut().unwrap();
    stdin.write_all(&b"word ".repeat(4 * BLOCK)).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", counting.id());
    let workers_started = eventually(|| {
        let pids = fs::read_to_string(&children).ok()?;
        let pids: Vec<u32> = pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        (pids.len() == workers).then_some(pids)
    });
    (counting, workers_started.expect("the workers should have started"))
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        let found = look();
        if found.is_some() || started.elapsed() > Duration::from_secs(20) {
            return found;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_killed_worker_is_an_error_at_once_and_never_a_wrong_count() {
    let (mut counting, workers) = start_in_the_middle(2);
    kill(workers[1]);
    // Nothing more comes, and stdin is still open.
    let ended = eventually(|| counting.try_wait().unwrap());
    if ended.is_none() {
        counting.kill().unwrap();
    }
    let output = counting.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(ended.is_some(), "gimmal wc should not wait for more input: {message}");
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(output.stdout, b"");
    assert!(message.contains("wc worker") && message.contains("was killed by SIGKILL"), "{message}");
    assert!(!Path::new(&format!("/proc/{}", workers[0])).exists(), "the other worker should be gone too");
}

#[test]
fn workers_do_not_outlive_a_killed_reader() {
    let (mut counting, workers) = start_in_the_middle(2);
    counting.kill().unwrap();
    counting.wait().unwrap();
    let gone = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        // Adopted by somebody who has not collected it yet.
        stat.is_none_or(|stat| stat.contains(") Z "))
    };
    assert!(eventually(|| workers.iter().all(gone).then_some(())).is_some(), "{workers:?} still run");
}
