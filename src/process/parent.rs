//! A process that ends with its parent.
//!
//! The parent hands over a descriptor of its own life. The child sleeps on that from [`init`](super::init) on, in a thread of its own,
//! and finds at once if the parent has ended already: so there is no moment at which the end of the parent goes unnoticed.

use std::os::fd::AsRawFd;
use std::process::Command;

use super::failed_to;
use crate::{Error, sys};

/// Makes what `command` starts able to learn of this process's end, by the text that is returned.
pub(super) fn hand_over(command: &mut Command) -> Result<String, Error> {
    let this = sys::process::pidfd_open(std::process::id()).map_err(failed_to("make a process end with this one"))?;
    let text = this.as_raw_fd().to_string();
    sys::process::leave_open(command, this);
    Ok(text)
}

/// Ends this process when the one that `text` describes has ended; does nothing if it is empty.
pub(super) fn end_with(text: &str) -> Result<(), Error> {
    let failed = failed_to("watch the parent process");
    let Ok(number) = text.parse() else { return Ok(()) };
    let parent = sys::process::inherited_pidfd(number).map_err(&failed)?;
    let watch = move || {
        sys::process::wait_for_end(&parent);
        sys::process::kill_this_process();
    };
    sys::thread::spawn_quiet("gimmal-parent", watch).map(drop).map_err(failed)
}
