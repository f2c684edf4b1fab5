//! In the place of gimmal's system calls, of which the rings need the clock only.

#[path = "../../../../src/sys/clock.rs"]
pub(crate) mod clock;

pub(crate) mod futex {
    /// As large as gimmal's; nobody sleeps on it.
    #[repr(transparent)]
    pub(crate) struct FutexWord(u32);
}

pub(crate) mod membarrier {
    /// Nothing here sleeps or closes, so nobody needs it.
    pub(crate) fn global_expedited() {
        unreachable!("there is no other half of this fence");
    }
}
