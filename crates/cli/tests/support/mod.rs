//! For tests: programs run in the C locale, the installed `wc` first among them.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The installed `wc`.
#[derive(Clone, Copy)]
pub struct SystemWc {}

impl SystemWc {
    /// It, if it counts words as coreutils up to 9.4 did: since then, a byte that is not printable begins a word.
    pub fn of_coreutils_9_1() -> Option<Self> {
        static FITS: OnceLock<bool> = OnceLock::new();
        let fits = *FITS.get_or_init(|| {
            let output = Self {}.run(&[], b"\0 \xff \x7f\n");
            output.stdout == b"      1       0       6\n"
        });
        fits.then_some(Self {})
    }

    /// Runs it with some arguments and something to read.
    pub fn run(self, args: &[&OsStr], stdin: &[u8]) -> Output {
        run(Path::new("wc"), args, stdin)
    }
}

/// Runs a program in the C locale with some arguments and something to read.
pub fn run(program: &Path, args: &[&OsStr], stdin: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .env_remove("POSIXLY_CORRECT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program:?} does not start: {error}"));
    let mut pipe = child.stdin.take().expect("stdin is a pipe");
    std::thread::scope(|scope| {
        // Whoever does not read to the end closes the pipe.
        scope.spawn(move || drop(pipe.write_all(stdin)));
        child.wait_with_output().expect("its output can be read")
    })
}
