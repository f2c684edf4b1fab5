//! [`Room`] and [`Shortage`]: how much there is, and of what there is too little. [`advice`]: what helps where the system says no more
//! than a number.

use std::fmt;
use std::path::PathBuf;

use crate::sys::Errno;
use crate::sys::room::limit_of_address_space;

/// How much memory a segment could have now. See [`SegmentOptions::room`](crate::SegmentOptions::room).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// What there would be too little of for more.
    pub bound: Shortage,
}

/// What there is too little of, in [`Error::NoSpace`](crate::Error::NoSpace). As text it says what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shortage {
    /// Room in the file system.
    FileSystem,
    /// Files that the file system can hold (inodes).
    Files,
    /// The user's quota.
    Quota,
    /// The machine's memory.
    Memory,
    /// The memory of a control group (of a container, or of a service) that this process is in. The kernel kills processes of a group
    /// that needs more than its limit.
    Cgroup {
        /// The group's directory.
        path: PathBuf,
        /// Bytes that can still be had, next to a small reserve.
        available: u64,
    },
    /// The length of files that this process may make (`ulimit -f`). The kernel sends SIGXFSZ to a process that tries.
    FileSize {
        /// The limit, in bytes.
        limit: u64,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileSystem => {
                f.write_str("make that file system larger, free some of it (gimmal clean), or ask for less")
            }
            Self::Files => f.write_str(
                "that file system can hold no more files: mount it with more (nr_inodes), or remove some (gimmal clean)",
            ),
            Self::Quota => f.write_str("the quota is used up: raise it, free some of it (gimmal clean), or ask for less"),
            Self::Memory => f.write_str("the machine has no such memory: free some of it, or ask for less"),
            Self::Cgroup { path, available } => write!(
                f,
                "the memory cgroup {} has {available} bytes left: raise its limit (docker run --memory, MemoryMax=), free some \
                 of it, or ask for less",
                path.display()
            ),
            Self::FileSize { limit } => write!(
                f,
                "this process may make files of {limit} bytes at most: raise the limit (ulimit -f), or ask for less"
            ),
        }
    }
}

/// What helps against an error of the system, to be written behind it.
pub(crate) fn advice(source: &std::io::Error) -> &'static str {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => ": raise the limit of this process (ulimit -n), or drop segments that it needs no more",
        Some(Errno::ENFILE) => ": raise the limit of the system (sysctl fs.file-max)",
        Some(Errno::ENOMEM) if limit_of_address_space().is_some() => {
            ": the address space of this process is limited: raise the limit (ulimit -v), or ask for less"
        }
        Some(Errno::ENOMEM) => {
            ": memory or the number of mappings is used up: free some, ask for less, or raise sysctl vm.max_map_count"
        }
        Some(Errno::EAGAIN) => {
            ": locked memory, or the number of threads and processes, is used up: raise the limit (ulimit -l, ulimit -u)"
        }
        Some(Errno::EFBIG) => ": no file of that file system can be so long: ask for less",
        Some(Errno::EOPNOTSUPP | Errno::EISDIR) => {
            ": this file system cannot do it; name a tmpfs (GIMMAL_DIR, SegmentOptions::directory)"
        }
        Some(Errno::EPERM | Errno::ENOSYS) => {
            ": a seccomp filter, a seal, a missing capability or an old kernel forbids it: see gimmal doctor"
        }
        Some(Errno::ENOLCK) => ": the kernel has no memory for file locks, or the file system has none: name a tmpfs",
        Some(Errno::EIO) => ": the device under the file system fails, or memory is damaged: see the kernel's log",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    /// What files and mappings can be refused with, apart from what an error of its own is made of, and what helps then.
    #[test]
    fn errors_of_the_system_say_what_helps() {
        let known = [
            (Errno::EMFILE, "ulimit -n"),
            (Errno::ENFILE, "fs.file-max"),
            (Errno::EAGAIN, "ulimit -l"),
            (Errno::EFBIG, "ask for less"),
            (Errno::EOPNOTSUPP, "GIMMAL_DIR"),
            (Errno::EISDIR, "GIMMAL_DIR"),
            (Errno::EPERM, "seccomp"),
            (Errno::ENOSYS, "gimmal doctor"),
            (Errno::ENOLCK, "tmpfs"),
            (Errno::EIO, "kernel's log"),
            (Errno::ENOMEM, if limit_of_address_space().is_some() { "ulimit -v" } else { "vm.max_map_count" }),
        ];
        for (errno, words) in known {
            let error = Error::Io { action: "map the segment", source: errno.into() }.to_string();
            assert!(error.starts_with("could not map the segment: ") && error.contains(words), "{error}");
        }
        let other = Error::Io { action: "go on", source: std::io::Error::other("it rains") };
        assert_eq!(other.to_string(), "could not go on: it rains");
    }

    #[test]
    fn every_shortage_says_what_to_do() {
        let group = Shortage::Cgroup { path: "/sys/fs/cgroup/a".into(), available: 7 };
        let all = [
            (Shortage::FileSystem, "gimmal clean"),
            (Shortage::Files, "nr_inodes"),
            (Shortage::Quota, "quota"),
            (Shortage::Memory, "free some"),
            (group, "/sys/fs/cgroup/a has 7 bytes"),
            (Shortage::FileSize { limit: 1 }, "ulimit -f"),
        ];
        for (shortage, words) in all {
            let error = Error::NoSpace { size: 12, directory: "/dev/shm".into(), shortage }.to_string();
            assert!(error.starts_with("no room for 12 bytes in /dev/shm: ") && error.contains(words), "{error}");
        }
    }
}
