//! Programs that must not compile. Each file of `compile_fail/` says in its first lines, after `//~`, which words the
//! compiler's answer must hold: no more of it, since the rest changes with the compiler. With `--cfg good` the same file
//! leaves its mistake out and must compile, so that it is that mistake which is refused.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use std::{env, io};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compile_fail");

/// The compiler that belongs to the cargo that runs this, else the one in the path.
fn rustc() -> OsString {
    let beside_cargo = || {
        let rustc = Path::new(&env::var_os("CARGO")?).with_file_name("rustc");
        rustc.exists().then(|| rustc.into_os_string())
    };
    env::var_os("RUSTC").or_else(beside_cargo).unwrap_or_else(|| "rustc".into())
}

/// The libraries called gimmal that cargo has put beside this test, the newest first.
fn libraries() -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(env::current_exe()?.parent().expect("a program is in a directory"))? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.starts_with("libgimmal-") && name.ends_with(".rlib") {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, path)| path).collect())
}

/// Compiles to object code, as errors of constants come up only there; `Err` holds what the compiler said.
fn compile(source: &Path, library: &Path, good: bool) -> Result<(), String> {
    let directory = library.parent().expect("a library is in a directory");
    let name = source.file_stem().expect("a source has a name").to_string_lossy();
    let object = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("compile-fail-{name}-{good}.o"));
    let mut command = Command::new(rustc());
    command
        .args(["--edition", "2024", "--crate-type", "bin", "--emit", "obj", "--color", "never"])
        .args(["--check-cfg", "cfg(good)"])
        .arg("-L")
        .arg(format!("dependency={}", directory.display()))
        .arg("--extern")
        .arg(format!("gimmal={}", library.display()))
        .arg("-o")
        .arg(&object)
        .arg(source);
    if good {
        command.args(["--cfg", "good"]);
    }
    let output = command.output().expect("rustc runs");
    let _ = fs::remove_file(&object);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The library that the sources can be compiled against: an old one may be left from another compiler or other flags.
fn library(any_source: &Path) -> PathBuf {
    let libraries = libraries().unwrap();
    let mut refusals = Vec::new();
    for library in &libraries {
        match compile(any_source, library, true) {
            Ok(()) => return library.clone(),
            Err(message) => refusals.push(message),
        }
    }
    panic!("{} does not compile with any of {libraries:?}: {}", any_source.display(), refusals.join("\n"));
}

#[test]
fn mistakes_that_types_can_forbid_do_not_compile() {
    let mut sources: Vec<PathBuf> = fs::read_dir(CASES).unwrap().map(|entry| entry.unwrap().path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    sources.sort();
    assert!(!sources.is_empty());
    let library = library(&sources[0]);
    let mut wrong = Vec::new();
    for source in &sources {
        let name = source.file_name().unwrap().to_string_lossy();
        let text = fs::read_to_string(source).unwrap();
        let expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//~ ")).collect();
        assert!(!expected.is_empty(), "{name} does not say what the compiler should answer");
        match compile(source, &library, false) {
            Ok(()) => wrong.push(format!("{name} compiles")),
            Err(message) => wrong.extend(
                expected
                    .iter()
                    .filter(|&&words| !message.contains(words))
                    .map(|words| format!("{name} is refused, but not for {words:?}:\n{message}")),
            ),
        }
        if let Err(message) = compile(source, &library, true) {
            wrong.push(format!("{name} does not compile without its mistake:\n{message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
