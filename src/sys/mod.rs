//! System calls: the only folder that names `nix`, `libc` or `memmap2`. Thin and typed.

pub(crate) use nix::errno::Errno;

pub(crate) mod bell;
mod cgroup;
pub(crate) mod clock;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod lease;
pub(crate) mod map;
pub(crate) mod membarrier;
pub(crate) mod process;
pub(crate) mod robust;
pub(crate) mod room;
pub(crate) mod thread;
