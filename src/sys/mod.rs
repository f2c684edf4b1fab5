//! System calls: the only folder that names `nix`, `libc` or `memmap2`. Thin, typed, without policy.

pub(crate) use nix::errno::Errno;

pub(crate) mod bell;
pub(crate) mod clock;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod lease;
pub(crate) mod map;
pub(crate) mod membarrier;
pub(crate) mod process;
pub(crate) mod robust;
pub(crate) mod thread;
