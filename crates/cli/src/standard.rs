//! Standard input and output, if the program was started with them.
//!
//! Rust's runtime opens `/dev/null` in the place of a standard stream that was closed (`gimmal recv queue >&-`), before `main`
//! begins. Whatever is written there is gone without an error. So a constructor looks before the runtime does.

use nix::libc::{self, c_int};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

static INPUT_IS_CLOSED: AtomicBool = AtomicBool::new(false);
static OUTPUT_IS_CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    let is_closed = |fd: c_int| {
        // SAFETY: F_GETFD takes no pointer and changes nothing, whether the descriptor is open or not.
        (unsafe { libc::fcntl(fd, libc::F_GETFD) }) == -1
    };
    INPUT_IS_CLOSED.store(is_closed(libc::STDIN_FILENO), Ordering::Relaxed);
    OUTPUT_IS_CLOSED.store(is_closed(libc::STDOUT_FILENO), Ordering::Relaxed);
}

// SAFETY: the section holds pointers to functions of this type, which the C library calls before the runtime of Rust starts.
// `look` needs nothing of that runtime.
#[unsafe(link_section = ".init_array")]
#[used]
static LOOK: extern "C" fn() = look;

/// Standard input, without a buffer.
pub fn input() -> io::Result<File> {
    opened(&INPUT_IS_CLOSED, "standard input", io::stdin())
}

/// Standard output, without a buffer.
pub fn output() -> io::Result<File> {
    opened(&OUTPUT_IS_CLOSED, "standard output", io::stdout())
}

fn opened(is_closed: &AtomicBool, what: &str, stream: impl AsFd) -> io::Result<File> {
    match is_closed.load(Ordering::Relaxed) {
        true => Err(io::Error::other(format!("{what} is closed"))),
        false => Ok(stream.as_fd().try_clone_to_owned()?.into()),
    }
}
