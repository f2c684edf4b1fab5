//! The checks, one function each, in the order in which they are shown.

use gimmal::{Segment, Shortage};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::sys::statvfs::statvfs;
use nix::sys::utsname::uname;
use nix::unistd::{LinkatFlags, SysconfVar, ftruncate, linkat, sysconf, unlink};
use std::env::consts::ARCH;
use std::fs;
use std::num::NonZero;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use super::Check;
use super::Status::{Fail, Ok as Fine, Warn};
use crate::table::bytes;

/// All checks.
pub fn all() -> Vec<Check> {
    let directory = directory();
    vec![
        architecture(),
        kernel(),
        page_size(),
        cpus(),
        membarrier(),
        futex_waitv(),
        leases(),
        unnamed_segments(),
        proc_self_fd(),
        named_segments(&directory),
        file_system(&directory),
        room(&directory),
        memory_room(),
        open_files(),
        pid_namespace(),
        remove_ipc(&directory),
        abandoned(),
    ]
}

/// Where the library puts named segments.
fn directory() -> PathBuf {
    let configured = std::env::var_os("GIMMAL_DIR").filter(|directory| !directory.is_empty());
    configured.map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from)
}

fn architecture() -> Check {
    let (status, meaning) = match ARCH {
        "x86_64" => (Fine, "gimmal is developed and measured on it."),
        "aarch64" => (Fine, "gimmal is tested on it."),
        _ => (Warn, "gimmal was never tested on it: run its tests before you rely on it."),
    };
    Check::new("architecture", format!("{ARCH}, {} bits", usize::BITS), status, meaning)
}

fn kernel() -> Check {
    let release = match uname() {
        Ok(name) => name.release().to_string_lossy().into_owned(),
        Err(error) => error.to_string(),
    };
    let (status, meaning) = match version(&release) {
        Some(version) if version >= (5, 16) => (Fine, "It is recent enough for everything."),
        Some(version) if version >= (4, 16) => {
            (Warn, "All works, some of it slower: from 5.16 on a process learns at once that another has died.")
        }
        Some(_) => (Fail, "gimmal is not made for kernels before 4.16: update it."),
        None => (Warn, "It does not tell its version; the lines below say what it can do."),
    };
    Check::new("kernel", release, status, meaning)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn page_size() -> Check {
    match sysconf(SysconfVar::PAGE_SIZE) {
        Ok(Some(4096)) => Check::new("page size", "4.00 KiB", Fine, "Segments are a whole number of pages."),
        Ok(Some(size)) => {
            let meaning = "gimmal was tested with pages of 4 KiB: run its tests before you rely on it.";
            Check::new("page size", bytes(size as u64), Warn, meaning)
        }
        _ => Check::new("page size", "unknown", Warn, "The system does not tell; gimmal assumes 4 KiB."),
    }
}

fn cpus() -> Check {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let (status, meaning) = match cpus {
        1 => (
            Warn,
            "With one CPU nothing is gained by spinning, so waiting always sleeps and a round trip takes two switches \
             between processes.",
        ),
        _ => (Fine, "Processes can exchange messages without a system call while they run side by side."),
    };
    Check::new("CPUs", cpus, status, meaning)
}

fn membarrier() -> Check {
    match gimmal::capabilities().membarrier {
        true => Check::new("membarrier", "works", Fine, "Sending pays for no fence; who goes to sleep does."),
        false => Check::new(
            "membarrier",
            "missing",
            Warn,
            "Segments made here pay for a full fence per message, and those made where membarrier works cannot be opened \
             here: look for a seccomp filter, or make segments with full fences.",
        ),
    }
}

fn futex_waitv() -> Check {
    match gimmal::capabilities().futex_waitv {
        true => Check::new("futex_waitv", "works", Fine, "One thread can wait for the death of any peer."),
        false => Check::new(
            "futex_waitv",
            "missing",
            Warn,
            "Blocked calls wake up every 100 ms to look for dead peers: update to Linux 5.16, or look for a seccomp filter.",
        ),
    }
}

fn leases() -> Check {
    let tried = memory().and_then(|file| {
        let other = reopen(&file)?;
        fcntl(&file, FcntlArg::F_OFD_SETLK(&write_lock()))?;
        match fcntl(&other, FcntlArg::F_OFD_SETLK(&write_lock())) {
            Ok(_) => Err(Errno::ENOLCK),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(()),
            Err(error) => Err(error),
        }
    });
    Check::of(
        "OFD locks",
        tried,
        "They prove whether a process is alive, across containers too.",
        "Without locks that exclude each other gimmal cannot tell the dead from the living: no segment can be used here.",
    )
}

fn write_lock() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    }
}

fn memory() -> Result<OwnedFd, Errno> {
    memfd_create(c"gimmal-doctor", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
}

fn reopen(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    open(proc_path(file).as_path(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
}

fn proc_path(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn unnamed_segments() -> Check {
    let tried = memory().and_then(|file| {
        ftruncate(&file, 4096)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        match ftruncate(&file, 0) {
            Ok(()) => Err(Errno::EINVAL),
            Err(_) => Ok(()),
        }
    });
    Check::of(
        "memfd, seals",
        tried,
        "Segments without a name work, and nobody can cut one short under its users.",
        "Segments without a name do not work: use named ones.",
    )
}

fn proc_self_fd() -> Check {
    Check::of(
        "/proc/self/fd",
        memory().and_then(|file| reopen(&file)),
        "Segments can be given a name, and be opened when received from another process.",
        "No segment can be given a name or be received from another process: mount /proc.",
    )
}

fn named_segments(directory: &Path) -> Check {
    // No segment's name, so that nobody takes it for one in its short life.
    let name = directory.join(format!(".gimmal-doctor-{}", std::process::id()));
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let tried = open(directory, OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC, mode).and_then(|file| {
        linkat(AT_FDCWD, &proc_path(&file), AT_FDCWD, &name, LinkatFlags::AT_SYMLINK_FOLLOW)?;
        unlink(&name)
    });
    Check::of(
        "O_TMPFILE, linkat",
        tried,
        format!("Named segments appear in {} in one step, complete.", directory.display()),
        format!(
            "No segment can be created in {}: make it a tmpfs that you may write to, or name another directory in GIMMAL_DIR.",
            directory.display()
        ),
    )
}

fn file_system(directory: &Path) -> Check {
    let Some(mount) = fs::read_to_string("/proc/self/mountinfo").ok().and_then(|mounts| Mount::of(directory, &mounts))
    else {
        let meaning = "It is not known what holds the segments; a tmpfs is right.";
        return Check::new("file system", "unknown", Warn, meaning);
    };
    let (status, meaning) = match &*mount.kind {
        _ if mount.options.split(',').any(|option| option == "ro") => {
            (Fail, "It is mounted read-only, so no segment can be created or joined: mount it read-write.")
        }
        "tmpfs" | "ramfs" => (Fine, "Segments are memory and nothing else; they do not survive a reboot."),
        _ => (Warn, "The kernel writes the segments to a disk: slower, and of no use after a reboot. Take a tmpfs."),
    };
    let telling = |option: &&str| {
        matches!(*option, "ro" | "rw" | "noswap")
            || ["size=", "nr_inodes=", "huge=", "mpol="].iter().any(|o| option.starts_with(o))
    };
    let options: Vec<&str> = mount.options.split(',').filter(telling).collect();
    Check::new("file system", format!("{} at {} ({})", mount.kind, mount.point, options.join(",")), status, meaning)
}

/// A line of mountinfo.
struct Mount {
    point: String,
    kind: String,
    options: String,
}

impl Mount {
    /// What a path is in: the longest mount point that leads to it, and the last of those, which is on top.
    fn of(path: &Path, mountinfo: &str) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let mounts = mountinfo.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(4);
            let mut file_system = file_system.split(' ');
            let point = mount.next()?.replace("\\040", " ");
            let of_mount = mount.next()?;
            let kind = file_system.next()?.to_owned();
            let of_file_system = file_system.nth(1)?;
            // Both begin with rw or ro; either can forbid writing.
            let options = match of_file_system.strip_prefix("rw,") {
                Some(more) => format!("{of_mount},{more}"),
                None if of_file_system == "rw" => of_mount.to_owned(),
                None => format!("{of_mount},{of_file_system}"),
            };
            Some(Self { point, kind, options })
        });
        mounts
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| Path::new(&mount.point).components().count())
    }
}

/// What a container gets by default; enough to try things, soon too small for work.
const SMALL: u64 = 64 << 20;

fn room(directory: &Path) -> Check {
    let (size, free) = match statvfs(directory) {
        Ok(s) => {
            // The widths of these fields differ between targets.
            #[allow(clippy::unnecessary_cast)]
            let bytes = |blocks| blocks as u64 * s.fragment_size() as u64;
            (bytes(s.blocks()), bytes(s.blocks_available()))
        }
        Err(error) => {
            let meaning = format!("{} cannot be used: create it, or set GIMMAL_DIR.", directory.display());
            return Check::new("room", error, Fail, meaning);
        }
    };
    let (status, meaning) = match free {
        0..0x8000 => (Fail, "No segment fits: remove what is not needed (gimmal clean), or mount it larger."),
        _ if size <= SMALL => (
            Warn,
            "Segments reserve all they need when they are created; that soon fills this: docker run --shm-size=1g.",
        ),
        _ if free < size / 10 => (Warn, "Nearly full: creating a larger segment will fail. Try gimmal clean."),
        _ => (Fine, "Segments reserve all they need when they are created, and fail there or never."),
    };
    let found = format!("{} free of {} in {}", bytes(free), bytes(size), directory.display());
    Check::new("room", found, status, meaning)
}

fn memory_room() -> Check {
    let room = match Segment::options().room() {
        Ok(room) => room,
        Err(error) => return Check::new("memory", error, Warn, "It is not known how much of it can be had."),
    };
    let found = match &room.bound {
        Shortage::Cgroup { path, .. } => format!("{} in {}", bytes(room.bytes), path.display()),
        _ => bytes(room.bytes),
    };
    let (status, meaning) = match (&room.bound, room.bytes) {
        (Shortage::Cgroup { .. }, 0..=SMALL) => {
            (Warn, "The memory cgroup has little left: raise its limit (docker run --memory, MemoryMax=).")
        }
        (Shortage::Cgroup { .. }, _) => {
            (Fine, "What the memory cgroup does not have is refused, before the kernel kills.")
        }
        (Shortage::FileSize { .. }, _) => (Warn, "The limit of the length of files (ulimit -f) ends it: raise it."),
        (_, 0..=SMALL) => (Warn, "Little is left: see what uses it (gimmal ls), and try gimmal clean."),
        _ => (Fine, "What the file system or the machine does not have is refused."),
    };
    Check::new("memory", found, status, meaning)
}

fn open_files() -> Check {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((limit, _)) if limit < 64 => {
            let meaning = "Each segment that is open takes some descriptors: raise it with ulimit -n.";
            Check::new("open files", limit, Warn, meaning)
        }
        Ok((limit, _)) => Check::new("open files", limit, Fine, "Each segment that is open takes some descriptors."),
        Err(error) => Check::new("open files", error, Warn, "The limit is unknown: see ulimit -n."),
    }
}

/// The inode of the machine's own PID namespace (PROC_PID_INIT_INO of the kernel).
const INITIAL_NAMESPACE: &str = "pid:[4026531836]";

fn pid_namespace() -> Check {
    let (found, status, meaning) = match fs::read_link("/proc/self/ns/pid") {
        Ok(link) if link.as_os_str() == INITIAL_NAMESPACE => {
            ("the machine's own", Fine, "All processes that share segments have the same numbers for each other.")
        }
        Ok(_) => (
            "a container's",
            Fine,
            "Segments are shared with other containers where /dev/shm is (--ipc). Life and death are told rightly, but \
             the process ids shown for others are theirs.",
        ),
        Err(_) => ("unknown", Warn, "/proc does not tell: process ids shown for others may be those of a container."),
    };
    Check::new("PID namespace", found, status, meaning)
}

/// Where systemd's configuration lies: what comes later counts more.
const CONFIGURATIONS: [&str; 4] = ["/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd"];
/// The highest user id of a system user, whom logind spares.
const SYSTEM_USERS: u32 = 999;

/// logind removes what a user has in /dev/shm when the last of its sessions ends, also from under services that go on.
fn remove_ipc(directory: &Path) -> Check {
    let name = "RemoveIPC";
    let user = nix::unistd::geteuid().as_raw();
    if directory != Path::new("/dev/shm") || !Path::new("/run/systemd/seats").exists() {
        return Check::new(name, "does not apply", Fine, "Nobody removes the files of segments that are in use.");
    }
    let texts = configuration_files().into_iter().filter_map(|file| fs::read_to_string(file).ok());
    match texts.filter_map(|text| removes_ipc(&text)).next_back().unwrap_or(true) {
        false => Check::new(name, "no", Fine, "Segments of a user who logs out stay while they are in use."),
        true if user <= SYSTEM_USERS => {
            let meaning = "logind removes the segments of users who log out; this one, a system user, is spared.";
            Check::new(name, "yes", Fine, meaning)
        }
        true => {
            let meaning = "When the last session of this user ends, logind removes its segments, also from under services that use \
                           them: set RemoveIPC=no in /etc/systemd/logind.conf, run as a system user, or loginctl enable-linger.";
            Check::new(name, "yes", Warn, meaning)
        }
    }
}

/// logind's, in the order in which they are read: a file for all, and then pieces in the order of their names.
fn configuration_files() -> Vec<PathBuf> {
    let mut main = CONFIGURATIONS.iter().map(|at| Path::new(at).join("logind.conf")).filter(|file| file.exists());
    let directories = CONFIGURATIONS.iter().filter_map(|at| fs::read_dir(Path::new(at).join("logind.conf.d")).ok());
    let mut pieces: Vec<PathBuf> = directories.flatten().flatten().map(|entry| entry.path()).collect();
    pieces.retain(|piece| piece.extension().is_some_and(|extension| extension == "conf"));
    pieces.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    main.next_back().into_iter().chain(pieces).collect()
}

/// What a configuration file says of it, if anything.
fn removes_ipc(text: &str) -> Option<bool> {
    let mut settings = text.lines().filter_map(|line| line.trim().split_once('='));
    let last = settings.rfind(|(key, _)| key.trim() == "RemoveIPC")?;
    Some(!["no", "false", "off", "0", "n", "f"].contains(&last.1.trim().to_ascii_lowercase().as_str()))
}

fn abandoned() -> Check {
    let listed = match Segment::list() {
        Ok(listed) => listed,
        Err(error) => {
            let meaning = "Segments cannot be listed: see the lines above about their directory.";
            return Check::new("segments", error, Fail, meaning);
        }
    };
    match listed.iter().filter(|listed| listed.abandoned).count() {
        0 => Check::new("segments", listed.len(), Fine, "None is left over from processes that were killed."),
        n => {
            let found = format!("{}, {n} of them abandoned", listed.len());
            let meaning = "All their processes were killed: gimmal clean frees their memory.";
            Check::new("segments", found, Warn, meaning)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_off_any_release() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("5.4.0"), Some((5, 4)));
        assert_eq!(version("5.15-rc1"), Some((5, 15)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn the_last_setting_of_a_file_counts_and_comments_do_not() {
        assert_eq!(removes_ipc("[Login]\n#RemoveIPC=no\n"), None);
        assert_eq!(removes_ipc("[Login]\nRemoveIPC=no\n"), Some(false));
        assert_eq!(removes_ipc("RemoveIPC = off\nRemoveIPC= yes \n"), Some(true));
        assert_eq!(removes_ipc("NAutoVTs=6\n"), None);
    }

    #[test]
    fn a_path_is_in_the_deepest_mount_that_was_mounted_last() {
        let mountinfo = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
25 22 0:23 / /dev rw,nosuid shared:2 - devtmpfs devtmpfs rw,size=1k
26 25 0:24 / /dev rw,nosuid - tmpfs tmpfs rw,size=2k
27 25 0:24 / /device rw,nosuid - tmpfs tmpfs rw
";
        let mount = Mount::of(Path::new("/dev/null"), mountinfo).unwrap();
        assert_eq!((&*mount.point, &*mount.kind, &*mount.options), ("/dev", "tmpfs", "rw,nosuid,size=2k"));
        let mount = Mount::of(Path::new("/"), mountinfo).unwrap();
        assert_eq!((&*mount.point, &*mount.kind, &*mount.options), ("/", "ext4", "rw,relatime"));
    }
}
