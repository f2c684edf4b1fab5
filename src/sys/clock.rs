//! CLOCK_MONOTONIC, the wall clock and the number of usable CPUs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::answer::Answer;

/// Nanoseconds since an arbitrary point, never going back.
pub(crate) fn monotonic_nanos() -> u64 {
    // CLOCK_MONOTONIC cannot fail on Linux; zero would only make a deadline look far away.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// Nanoseconds since 1970, for what is shown to people.
pub(crate) fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// The inverse of [`unix_nanos`]; any number a peer may have written is a time.
pub(crate) fn from_unix_nanos(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// Whether a peer can run while this thread spins. The machine's processors count, not those we may use ourselves: a process
/// that is pinned to one has its peers on the others.
pub(crate) fn many_cpus() -> bool {
    static MANY: Answer = Answer::new();
    MANY.get(|| {
        // SAFETY: only asks.
        let online = unsafe { nix::libc::sysconf(nix::libc::_SC_NPROCESSORS_ONLN) };
        online > 1
    })
}
