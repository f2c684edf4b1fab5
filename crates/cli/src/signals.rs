//! Signals that end the program: what it does before it goes.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::{fs, process, thread};

/// What the shell makes of a program that dies of SIGINT.
pub const INTERRUPTED: u8 = 130;

/// At the first SIGHUP, SIGINT or SIGTERM runs `act`, on a thread of its own, and ends the program. A signal that the program
/// was started to ignore (`nohup`, `trap '' INT`, a script's `&`) stays ignored.
pub fn at_end(act: impl FnOnce() + Send + 'static) -> Result<()> {
    let ignored = ignored()?;
    let caught = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(caught)?;
    thread::Builder::new().name("gimmal-signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            act();
            process::exit(INTERRUPTED.into());
        }
    })?;
    Ok(())
}

/// The signals that this process ignores, the lowest bit for signal 1.
fn ignored() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot ask which signals are ignored")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(mask.unwrap_or_default().trim(), 16)
        .context("/proc/self/status does not say which signals are ignored")
}
