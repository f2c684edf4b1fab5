//! `gimmal ls`, `stat`, `rm`, `clean`, `doctor` and `demo`, as a user or a script sees them.

use gimmal::process::{self, Context, Outcome, Process};
use gimmal::{Array, Queue, QueueOptions, Segment, entries};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory of segments for one test.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = Path::new("/dev/shm").join(format!("gimmal-test-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn create(&self, name: &str) -> Segment {
        Segment::options().directory(&self.0).create(name).unwrap()
    }

    /// A segment whose only process was killed.
    fn abandon(&self, name: &str) {
        let mut child = Process::new("create_and_die")
            .leading_args(["create_and_die_when_asked", "--exact", "--nocapture", "--"])
            .arg(&self.0)
            .arg(name)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.join().unwrap();
        assert!(self.0.join(format!("gimmal.{name}")).exists());
    }

    fn gimmal(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_gimmal")).args(args).env("GIMMAL_DIR", &self.0).output().unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.gimmal(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[args, &["--json"]].concat())).unwrap()
    }

    /// The message, without the name of the program.
    fn complaint(&self, args: &[&str]) -> String {
        let output = self.gimmal(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{args:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        message.strip_prefix(&format!("gimmal {}: ", args[0])).expect(&message).trim_end().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn create_and_die(context: &Context) -> Outcome {
    let directory = context.arg(0).ok_or("no directory")?;
    let _segment = Segment::options().directory(directory).create(context.arg(1).ok_or("no name")?)?;
    let me = nix::unistd::getpid();
    nix::sys::signal::kill(me, nix::sys::signal::Signal::SIGKILL)?;
    Ok(())
}

/// Not a test: where the process of `Directory::abandon` begins.
#[test]
fn create_and_die_when_asked() {
    process::init(&entries![create_and_die]);
}

#[test]
fn ls_lists_every_segment_with_its_state() {
    create_and_die_when_asked();
    let dir = Directory::new("ls");
    assert_eq!(dir.text(&["ls"]), "no segments\n");
    assert_eq!(dir.json(&["ls"]), json!([]));

    let live = dir.create("live");
    let _queue = Queue::<u64>::create(&live, "jobs", 8).unwrap();
    dir.abandon("old");
    fs::write(dir.0.join("gimmal.junk"), "not a segment").unwrap();
    fs::write(dir.0.join("other"), "not gimmal's").unwrap();

    let text = dir.text(&["ls"]);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 4, "{text}");
    assert_eq!(rows[0][0], "NAME");
    assert_eq!(rows[1][0], "junk");
    assert_eq!(rows[2][..3], ["live", "1.00", "MiB"]);
    assert_eq!(rows[3][0], "old");
    assert!(text.lines().nth(3).unwrap().contains("abandoned"), "{text}");

    let json = dir.json(&["ls"]);
    let names: Vec<&Value> = json.as_array().unwrap().iter().map(|segment| &segment["name"]).collect();
    assert_eq!(names, ["junk", "live", "old"]);
    assert!(json[0]["error"].is_string());
    assert_eq!(json[1]["size"], 1 << 20);
    assert_eq!(json[1]["participants"][0]["pid"], std::process::id());
    assert_eq!(json[1]["participants"][0]["alive"], true);
    assert_eq!(json[2]["participants"][0]["alive"], false);
}

#[test]
fn stat_shows_participants_and_objects() {
    let dir = Directory::new("stat");
    let segment = dir.create("mine");
    let queue = Queue::<u64>::create(&segment, "jobs", 8).unwrap();
    queue.sender().unwrap().send_slice(&[1, 2, 3]).unwrap();
    let _array = Array::<f32>::create(&segment, "samples", 100).unwrap();

    let text = dir.text(&["stat", "mine"]);
    for expected in ["segment mine", &std::process::id().to_string(), "alive", "jobs", "u64", "samples", "f32", "100"] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    let json = dir.json(&["stat", "mine"]);
    let object = |name: &str| {
        let objects = json["objects"].as_array().unwrap();
        objects.iter().find(|object| object["name"] == name).unwrap()
    };
    assert_eq!(object("jobs")["kind"], "Queue");
    assert_eq!(object("jobs")["depth"], json!([3]));
    assert_eq!(object("jobs")["closed"], false);
    assert_eq!(object("samples")["capacity"], 100);
    assert_eq!(object("samples")["closed"], Value::Null);

    let complaint = dir.complaint(&["stat", "yours"]);
    assert!(complaint.contains("\"yours\" does not exist"), "{complaint}");
    let complaint = dir.complaint(&["stat", "no/name"]);
    assert!(complaint.contains("bad name"), "{complaint}");
}

#[test]
fn rm_removes_what_nobody_uses_and_the_rest_by_force() {
    create_and_die_when_asked();
    let dir = Directory::new("rm");
    let segment = dir.create("used");
    dir.abandon("old");
    fs::write(dir.0.join("gimmal.junk"), "not a segment").unwrap();

    assert_eq!(dir.text(&["rm", "old"]), "removed old\n");
    assert_eq!(dir.json(&["rm", "junk"]), json!({"removed": ["junk"]}));
    let complaint = dir.complaint(&["rm", "used"]);
    assert!(complaint.contains(&format!("in use by process {}", std::process::id())), "{complaint}");
    assert_eq!(dir.text(&["rm", "--force", "used"]), "removed used\n");
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    assert!(Queue::<u64>::create(&segment, "jobs", 8).is_ok(), "who uses it goes on");
    let complaint = dir.complaint(&["rm", "old"]);
    assert!(complaint.contains("\"old\" does not exist"), "{complaint}");
}

#[test]
fn clean_removes_what_nobody_uses_and_nothing_else() {
    create_and_die_when_asked();
    let dir = Directory::new("clean");
    let _segment = dir.create("used");
    drop(Segment::options().directory(&dir.0).persist(true).create("kept").unwrap());
    dir.abandon("old-1");
    dir.abandon("old-2");
    assert_eq!(dir.json(&["clean"]), json!({"removed": ["old-1", "old-2"]}));
    assert_eq!(dir.text(&["clean"]), "nothing to remove\n");
    let mut left: Vec<_> = fs::read_dir(&dir.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["gimmal.kept", "gimmal.used"]);
}

#[test]
fn sizes_are_those_of_du_also_of_queues_without_a_bound() {
    use std::os::unix::fs::MetadataExt;
    let dir = Directory::new("sizes");
    let segment = dir.create("large");
    let queue = QueueOptions::new().unbounded(64 << 20).create::<[u8]>(&segment, "jobs").unwrap();
    let sender = queue.sender().unwrap();
    (0..9 << 10).for_each(|_| sender.send(&[7; 1024]).unwrap());
    let memory = fs::metadata(dir.0.join("gimmal.large")).unwrap().blocks() * 512;
    assert!(memory > 9 << 20);

    let json = dir.json(&["ls"]);
    assert_eq!((&json[0]["size"], &json[0]["memory"]), (&json!(1 << 20), &json!(memory)));
    assert!(json[0]["objects"][0]["memory"].as_u64().unwrap() > 9 << 20, "{json}");
    let shown = format!("{:.2} MiB", memory as f64 / f64::from(1 << 20));
    for command in [&["ls"][..], &["stat", "large"]] {
        let text = dir.text(command);
        assert!(text.contains(&shown), "{shown}: {text}");
    }
}

#[test]
fn doctor_says_what_each_finding_means() {
    create_and_die_when_asked();
    let dir = Directory::new("doctor");
    dir.abandon("old");
    let report = dir.json(&["doctor"]);
    assert_eq!(report["ok"], true, "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 12);
    for check in checks {
        for field in ["name", "found", "meaning"] {
            assert!(check[field].as_str().is_some_and(|text| !text.is_empty()), "{check:#}");
        }
        assert!(["ok", "warn"].contains(&check["status"].as_str().unwrap()), "{check:#}");
    }
    let segments = checks.iter().find(|check| check["name"] == "segments").unwrap();
    assert_eq!(segments["status"], "warn");
    assert_eq!(segments["found"], "1, 1 of them abandoned");
    assert!(checks.iter().any(|check| check["name"] == "memory"), "{report:#}");
    let text = dir.text(&["doctor"]);
    assert_eq!(text.lines().count(), checks.len() + 1);
    assert!(!dir.0.read_dir().unwrap().any(|entry| entry.unwrap().file_name() != "gimmal.old"), "it leaves nothing");
}

#[test]
fn doctor_fails_where_no_segment_can_be_made() {
    let dir = Directory::new("doctor-fails");
    let output = Command::new(env!("CARGO_BIN_EXE_gimmal"))
        .args(["doctor", "--json"])
        .env("GIMMAL_DIR", dir.0.join("missing"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
}

#[test]
fn demo_is_right_and_leaves_nothing_behind() {
    let dir = Directory::new("demo");
    let report = dir.json(&["demo"]);
    assert_eq!(report["ok"], true, "{report:#}");
    let demonstrations = report["demonstrations"].as_array().unwrap();
    assert_eq!(demonstrations.len(), 7);
    assert!(demonstrations.iter().all(|d| d["ok"] == true), "{report:#}");
    let measurements = report["measurements"].as_array().unwrap();
    let measured = |what: &str| measurements.iter().filter(|m| m["what"] == what).count();
    assert_eq!((measured("stream"), measured("round trip")), (2, 2));
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let dir = Directory::new("interrupted");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_gimmal"))
        .arg("demo")
        .env("GIMMAL_DIR", &dir.0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let is_left = || fs::read_dir(&dir.0).unwrap().count() > 0;
    let wait_until = |condition: &dyn Fn() -> bool| {
        let started = std::time::Instant::now();
        while !condition() && started.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(condition());
    };
    wait_until(&is_left);
    std::thread::sleep(std::time::Duration::from_millis(50));
    let pid = nix::unistd::Pid::from_raw(demo.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    wait_until(&|| !is_left());
    // Its processes have the directory in their arguments.
    let directory = dir.0.to_str().unwrap();
    let still_runs = |process: std::io::Result<fs::DirEntry>| {
        let arguments = fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(directory)
    };
    wait_until(&|| !fs::read_dir("/proc").unwrap().any(still_runs));
}

#[test]
fn a_command_that_is_unknown_is_a_usage_error() {
    let dir = Directory::new("usage");
    assert_eq!(dir.gimmal(&["list"]).status.code(), Some(2));
    assert_eq!(dir.gimmal(&[]).status.code(), Some(2));
    assert!(dir.text(&["--version"]).starts_with("gimmal "));
}
