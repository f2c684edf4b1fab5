//! What this kernel offers.

use crate::sys::{futex, membarrier};

/// Kernel features that decide how gimmal works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// `membarrier(GLOBAL_EXPEDITED)`: messages need no fence. Without it they execute one, and a process that lacks it
    /// cannot join segments that rely on it.
    pub membarrier: bool,
    /// `futex_waitv` (Linux 5.16): one thread can sleep on several events.
    pub futex_waitv: bool,
}

/// Asks the kernel, for this process.
///
/// ```
/// let found = gimmal::capabilities();
/// println!("membarrier: {}, futex_waitv: {}", found.membarrier, found.futex_waitv);
/// ```
#[must_use]
pub fn capabilities() -> Capabilities {
    Capabilities { membarrier: membarrier::available(), futex_waitv: futex::has_waitv() }
}
