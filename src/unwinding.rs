//! Whether a panic began while a guard lived.

use std::thread;

/// What a guard remembers of the moment at which it was made. A guard that is made in a destructor, while the thread unwinds from a
/// panic over something else, ends in calm like any other: as the standard library's locks, it counts only a panic that began later.
pub(crate) struct Unwinding {
    /// 0 if not. No `bool`: one would be where enums of guards keep their variants, and these would be copied in pieces.
    before: u32,
}

impl Unwinding {
    /// The guard is being made.
    #[inline(always)]
    pub(crate) fn watch() -> Self {
        Self { before: thread::panicking().into() }
    }

    /// The guard is being dropped: whether that is because of a panic that has begun since it was made.
    #[inline(always)]
    pub(crate) fn has_begun(&self) -> bool {
        self.before == 0 && thread::panicking()
    }
}
