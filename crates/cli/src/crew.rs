//! Processes that work together: they end well, all of them, or the work has failed.

use anyhow::{Context, Result, bail};
use gimmal::process::{Child, Process};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// Processes that are killed when it is dropped.
pub struct Crew {
    children: Vec<Child>,
}

/// How long an end may go unnoticed that is not the next one waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Crew {
    /// Starts them.
    pub fn spawn(processes: impl IntoIterator<Item = Process>) -> Result<Self> {
        let mut crew = Self { children: Vec::new() };
        for process in processes {
            let child = process.kill_on_drop(true).spawn().context("cannot start a process")?;
            crew.children.push(child);
        }
        Ok(crew)
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    ///
    /// As soon as one has ended badly, or when the time is up; the others are killed then.
    pub fn join(mut self, time_limit: Option<Duration>) -> Result<()> {
        let started = Instant::now();
        while let Some(child) = self.first_alive()? {
            child.join_timeout(LOOK_EVERY)?;
            if time_limit.is_some_and(|limit| started.elapsed() > limit) && child.is_alive() {
                bail!("{} (pid {}) is not done after {:?}", child.name(), child.pid(), started.elapsed());
            }
        }
        Ok(())
    }

    /// Whether some still run.
    ///
    /// # Errors
    ///
    /// If one has ended badly.
    pub fn is_alive(&mut self) -> Result<bool> {
        Ok(self.first_alive()?.is_some())
    }

    fn first_alive(&mut self) -> Result<Option<&mut Child>> {
        let mut first_alive = None;
        let mut failed: Option<(i32, String)> = None;
        for child in &mut self.children {
            match child.exit_code() {
                None => first_alive = first_alive.or(Some(child)),
                Some(0) => {}
                // The end of one process may be the reason for that of others; a signal is a better reason.
                Some(code) if failed.as_ref().is_some_and(|&(first, _)| code > first) => {}
                Some(code) => {
                    let (name, pid) = (child.name(), child.pid());
                    failed = Some((code, format!("{name} (pid {pid}) {}", describe(code))));
                }
            }
        }
        match failed {
            Some((_, what)) => bail!(what),
            None => Ok(first_alive),
        }
    }
}

fn describe(exit_code: i32) -> String {
    if exit_code >= 0 {
        return format!("exited with code {exit_code}");
    }
    match Signal::try_from(-exit_code) {
        Ok(signal) => format!("was killed by {signal}"),
        Err(_) => format!("was killed by signal {}", -exit_code),
    }
}
