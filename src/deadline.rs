//! Absolute points in time on the clock that futexes wait by.

use std::time::{Duration, Instant};

/// Nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(pub(crate) u64);

impl Deadline {
    /// The present moment.
    pub(crate) fn now() -> Self {
        #[cfg(not(loom))]
        return Self(crate::sys::clock::monotonic_nanos());
        #[cfg(loom)]
        return Self(0);
    }

    /// `timeout` from now, or `None` where that is beyond the clock: such a wait has no deadline.
    pub(crate) fn after(timeout: Duration) -> Option<Self> {
        Self::now().plus(timeout)
    }

    /// The same moment as `instant`; one in the past is now.
    pub(crate) fn at(instant: Instant) -> Option<Self> {
        Self::after(instant.saturating_duration_since(Instant::now()))
    }

    /// This moment and `more`, or `None` where that is beyond the clock.
    pub(crate) fn plus(self, more: Duration) -> Option<Self> {
        let nanos = u64::try_from(more.as_nanos()).ok()?;
        self.0.checked_add(nanos).filter(|&n| n <= i64::MAX as u64).map(Self)
    }

    /// Nanoseconds since this moment.
    pub(crate) fn elapsed(self) -> u64 {
        Self::now().0.saturating_sub(self.0)
    }

    /// Whether the moment has come.
    pub(crate) fn passed(self) -> bool {
        Self::now() >= self
    }
}
