//! Whether there is room for more, asked before it is taken: the kernel kills for want of memory, and sends SIGXFSZ for a file that is
//! too long, where a program could have had an error.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::stat::fstat;
use nix::sys::statfs::{Statfs, TMPFS_MAGIC, fstatfs, statfs};
use nix::unistd::{SysconfVar, sysconf};

use super::{cgroup, clock};
use crate::primitive::Ordering;
use crate::primitive::private::AtomicU64;
use crate::shortage::{Room, Shortage};

/// Why something was not made longer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is too little of this.
    Short(Shortage),
    /// Anything else.
    System(Errno),
}

impl From<Errno> for Refused {
    fn from(e: Errno) -> Self {
        match e {
            Errno::ENOSPC => Self::Short(Shortage::FileSystem),
            Errno::EDQUOT => Self::Short(Shortage::Quota),
            Errno::ENOMEM => Self::Short(Shortage::Memory),
            e => Self::System(e),
        }
    }
}

/// For how long what was seen holds, and which part of it may be taken meanwhile: other processes take some, too.
const FRESH: Duration = Duration::from_millis(100);
const PART: u64 = 16;

/// Bytes that this process may take until then without looking again, and when it looked. A child that was forked meanwhile starts with
/// the same, and looks as soon.
static CREDIT: AtomicU64 = AtomicU64::new(0);
static LOOKED: AtomicU64 = AtomicU64::new(0);

/// Whether there is memory for so many bytes more of `file`, which takes them bit by bit. Mostly it costs a look at the clock.
pub(crate) fn for_more(file: BorrowedFd<'_>, bytes: u64) -> Result<(), Refused> {
    let now = clock::monotonic_nanos();
    let is_fresh = now.saturating_sub(LOOKED.load(Ordering::Relaxed)) < FRESH.as_nanos() as u64;
    let take = |credit: u64| credit.checked_sub(bytes);
    if is_fresh && CREDIT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
        return Ok(());
    }
    let system = fstatfs(file)?;
    if !is_memory(&system) {
        return Ok(());
    }
    let room = memory(bytes)?;
    CREDIT.store((room - bytes) / PART, Ordering::Relaxed);
    LOOKED.store(now, Ordering::Relaxed);
    Ok(())
}

/// Whether `size` bytes fit into the file system of `file` as it is, and, where that is memory, into what is free of it.
pub(crate) fn for_all(file: BorrowedFd<'_>, size: u64) -> Result<(), Refused> {
    for_length(size)?;
    let system = fstatfs(file)?;
    if file_system(&system).is_some_and(|room| size > room) {
        return Err(Refused::Short(Shortage::FileSystem));
    }
    if is_memory(&system) {
        memory(size)?;
    }
    Ok(())
}

/// Whether a file may be so long.
pub(crate) fn for_length(size: u64) -> Result<(), Refused> {
    match limit(Resource::RLIMIT_FSIZE) {
        Some(limit) if size > limit => Err(Refused::Short(Shortage::FileSize { limit })),
        _ => Ok(()),
    }
}

/// Bytes that can be had in the file system of the file, put behind its end, and mapped a few times.
pub(crate) fn available(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let room = least(&fstatfs(file)?).map_or(u64::MAX, |room| room.bytes);
    let longer = match limit(Resource::RLIMIT_FSIZE) {
        Some(limit) => limit.saturating_sub(fstat(file)?.st_size.max(0) as u64),
        None => u64::MAX,
    };
    let space = match limit_of_address_space() {
        Some(limit) => limit.saturating_sub(address_space().unwrap_or(0)) / 4,
        None => u64::MAX,
    };
    Ok(room.min(longer).min(space))
}

/// What a new file in this directory can have.
pub(crate) fn in_directory(directory: &Path) -> Result<Room, Errno> {
    let longest = limit(Resource::RLIMIT_FSIZE).map(|limit| Room { bytes: limit, bound: Shortage::FileSize { limit } });
    let least = least(&statfs(directory)?).into_iter().chain(longest).min_by_key(|room| room.bytes);
    Ok(least.unwrap_or(Room { bytes: u64::MAX, bound: Shortage::FileSystem }))
}

/// The least of what the file system, the machine and the cgroups have; `None` if none of them tells.
fn least(system: &Statfs) -> Option<Room> {
    let files = file_system(system).map(|bytes| Room { bytes, bound: Shortage::FileSystem });
    let memory = if is_memory(system) { memory_available() } else { None };
    files.into_iter().chain(memory).min_by_key(|room| room.bytes)
}

/// Bytes of address space that this process has, if /proc tells.
fn address_space() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    text.split(' ').next()?.parse::<u64>().ok()?.checked_mul(page as u64)
}

/// How much address space this process may have, if that is limited.
pub(crate) fn limit_of_address_space() -> Option<u64> {
    limit(Resource::RLIMIT_AS)
}

fn limit(resource: Resource) -> Option<u64> {
    getrlimit(resource).ok().map(|(soft, _)| soft).filter(|&soft| soft != RLIM_INFINITY)
}

fn is_memory(system: &Statfs) -> bool {
    system.filesystem_type() == TMPFS_MAGIC
}

/// Bytes that are free in the file system; `None` for a memfd, which has no other limit than memory.
fn file_system(system: &Statfs) -> Option<u64> {
    (system.blocks() > 0).then(|| system.blocks_available().saturating_mul(system.block_size() as u64))
}

/// Bytes of memory that can be had, at least `bytes`.
fn memory(bytes: u64) -> Result<u64, Refused> {
    match memory_available() {
        Some(room) if bytes > room.bytes => Err(Refused::Short(room.bound)),
        room => Ok(room.map_or(u64::MAX, |room| room.bytes)),
    }
}

/// Bytes of memory and swap that can be had without hardship, and what there is too little of beyond that; if /proc tells.
fn memory_available() -> Option<Room> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim_start_matches(':').split_whitespace().next()?.parse().ok()?;
        Some(kibibytes.saturating_mul(1024))
    };
    let swap = bytes("SwapFree").unwrap_or(0);
    let machine = bytes("MemAvailable")?.saturating_add(swap);
    let machine = Room { bytes: machine, bound: Shortage::Memory };
    let group = cgroup::least_room(swap)
        .map(|cgroup::Room { available, path }| Room { bytes: available, bound: Shortage::Cgroup { path, available } });
    group.into_iter().chain([machine]).min_by_key(|room| room.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_little_is_told_from_what_fails() {
        let short = |e: Errno| match Refused::from(e) {
            Refused::Short(shortage) => Some(shortage),
            Refused::System(_) => None,
        };
        assert_eq!(short(Errno::ENOSPC), Some(Shortage::FileSystem));
        assert_eq!(short(Errno::EDQUOT), Some(Shortage::Quota));
        assert_eq!(short(Errno::ENOMEM), Some(Shortage::Memory));
        for errno in [Errno::EROFS, Errno::EMFILE, Errno::EACCES, Errno::EFBIG, Errno::EOPNOTSUPP] {
            assert_eq!(Refused::from(errno), Refused::System(errno));
        }
    }

    #[test]
    fn no_part_of_a_file_is_taken_beyond_what_the_machine_has() {
        let file = crate::sys::file::sealed_memory(4096).unwrap();
        use std::os::fd::AsFd;
        for _ in 0..3 {
            assert_eq!(for_more(file.as_fd(), 4096), Ok(()));
            let refused = for_more(file.as_fd(), 1 << 60);
            assert!(matches!(&refused, Err(Refused::Short(Shortage::Memory | Shortage::Cgroup { .. }))), "{refused:?}");
            assert!(matches!(for_all(file.as_fd(), 1 << 60), Err(Refused::Short(_))));
        }
    }
}
