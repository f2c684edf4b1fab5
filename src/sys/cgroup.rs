//! What the memory cgroup of this process, and those around it, have room for. Both versions of cgroups.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// A limit above this is none: version 1 says so with a number.
const NO_LIMIT: u64 = 1 << 60;

/// What a cgroup can still take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes.
    pub(crate) available: u64,
    /// The group's directory.
    pub(crate) path: PathBuf,
}

/// The least room in this process's cgroup and those around it; `None` if no limit is visible. `swap`: bytes of swap that are free in
/// the machine.
pub(crate) fn least_room(swap: u64) -> Option<Room> {
    let (cgroups, mounts) = (read_to_string("/proc/self/cgroup").ok()?, read_to_string("/proc/self/mountinfo").ok()?);
    least_room_of(&cgroups, &mounts, Path::new("/"), swap)
}

/// The same of a process whose files in /proc say this, where `root` takes the place of `/`.
fn least_room_of(cgroups: &str, mounts: &str, root: &Path, swap: u64) -> Option<Room> {
    let hierarchies = cgroups.lines().filter_map(|line| Hierarchy::of(line, mounts));
    let rooms = hierarchies.flat_map(|hierarchy| {
        let Hierarchy { version, top, group } = hierarchy;
        let inside = |path: &Path| path.strip_prefix("/").map(|path| root.join(path)).ok();
        let groups: Vec<PathBuf> =
            group.ancestors().take_while(|group| group.starts_with(&top)).map(Path::to_owned).collect();
        groups
            .into_iter()
            .filter_map(move |path| Some(Room { available: available(version, &inside(&path)?, swap)?, path }))
    });
    rooms.min_by_key(|room| room.available)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where a process is in a tree of cgroups that may limit memory.
struct Hierarchy {
    version: Version,
    /// Where the tree is mounted, or the part of it that is visible here.
    top: PathBuf,
    /// The process's group, at or below it.
    group: PathBuf,
}

impl Hierarchy {
    /// What a line of /proc/self/cgroup is about; `None` if it is not about memory, or if that tree is not visible here.
    fn of(line: &str, mounts: &str) -> Option<Self> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let has_memory = |list: &str| list.split(',').any(|controller| controller == "memory");
        let version = match controllers {
            "" => Version::Two,
            list if has_memory(list) => Version::One,
            _ => return None,
        };
        mounts.lines().find_map(|mount| {
            let (mount, file_system) = mount.split_once(" - ")?;
            let mut file_system = file_system.split(' ');
            let fits = match (version, file_system.next()?) {
                (Version::Two, kind) => kind == "cgroup2",
                (Version::One, kind) => kind == "cgroup" && has_memory(file_system.nth(1)?),
            };
            let mut mount = mount.split(' ').skip(3).map(unescaped);
            let (root, top) = (mount.next()?, PathBuf::from(mount.next()?));
            // Both are seen from the same cgroup namespace. A group outside of it, or outside of this mount, is out of sight.
            let below = Path::new(group).strip_prefix(root).ok().filter(|_| fits)?;
            let is_inside = !Path::new(group).components().any(|part| part.as_os_str() == "..");
            is_inside.then(|| Self {
                version,
                group: if below == Path::new("") { top.clone() } else { top.join(below) },
                top,
            })
        })
    }
}

/// A path of mountinfo, in which blanks and the like are written as three octal digits.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match (part.get(..3).map(|digits| u8::from_str_radix(digits, 8)), part.get(3..)) {
        (Some(Ok(byte)), Some(rest)) if byte.is_ascii() => text + &char::from(byte).to_string() + rest,
        _ => text + "\\" + part,
    })
}

/// Bytes that the group in this directory can still take; `None` if it has no limit, or none that can be read.
fn available(version: Version, directory: &Path, swap: u64) -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        match read_to_string(directory.join(file)).ok()?.trim() {
            "max" => Some(u64::MAX),
            text => text.parse().ok(),
        }
    };
    let below = |limit: &str, used: &str| Some(number(limit)?.saturating_sub(number(used)?));
    let (limit, used, cached) = match version {
        Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        Version::Two => ("memory.max", "memory.current", "inactive_file"),
    };
    let limit = number(limit).filter(|&limit| limit < NO_LIMIT)?;
    let free = limit.saturating_sub(number(used)?);
    let with_swap = match version {
        Version::Two => free.saturating_add(below("memory.swap.max", "memory.swap.current").unwrap_or(0).min(swap)),
        Version::One => {
            let both = below("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes");
            free.saturating_add(swap).min(both.unwrap_or(free))
        }
    };
    let stat = read_to_string(directory.join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix(cached)?.strip_prefix(' ')?.trim().parse().ok());
    // The kernel throws the cache of files away before it kills. Something is left to the processes' own memory.
    let reserve = (limit / 32).clamp(1 << 20, 32 << 20).min(limit / 4);
    Some(with_swap.saturating_add(cached.unwrap_or(0)).saturating_sub(reserve))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const MIB: u64 = 1 << 20;

    /// A tree of files under a directory of its own.
    struct Tree(PathBuf);

    impl Tree {
        fn new(case: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("gimmal-cgroup-{}-{case}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }

        /// The least room, in MiB, and where.
        fn room(&self, cgroups: &str, mounts: &str, swap: u64) -> Option<(u64, String)> {
            let Room { available, path } = least_room_of(cgroups, mounts, &self.0, swap * MIB)?;
            Some((available / MIB, path.to_str().unwrap().to_owned()))
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const TWO: &str = "\
25 1 0:22 / / rw - ext4 /dev/vda rw
31 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const ONE: &str = "\
25 1 0:22 / / rw - ext4 /dev/vda rw
33 25 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
35 25 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 25 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_tightest_group_on_the_way_to_the_top_counts() {
        let tree = Tree::new(
            "two",
            &[
                ("sys/fs/cgroup/a/memory.max", "67108864\n"),
                ("sys/fs/cgroup/a/memory.current", "33554432\n"),
                ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 8388608\nactive_file 4194304\n"),
                ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                ("sys/fs/cgroup/a/b/memory.current", "0\n"),
                ("sys/fs/cgroup/a/b/c/memory.max", "1073741824\n"),
                ("sys/fs/cgroup/a/b/c/memory.current", "1048576\n"),
                ("sys/fs/cgroup/a/b/c/memory.swap.max", "1048576\n"),
                ("sys/fs/cgroup/a/b/c/memory.swap.current", "0\n"),
            ],
        );
        // 64 - 32 + 8 of the cache - 2 that are left to others.
        assert_eq!(tree.room("0::/a/b/c\n", TWO, 0), Some((38, "/sys/fs/cgroup/a".into())));
        assert_eq!(tree.room("0::/a/b\n", TWO, 1000), Some((38, "/sys/fs/cgroup/a".into())), "it may not swap");
        assert_eq!(tree.room("0::/\n", TWO, 0), None, "the root has no limit");
        assert_eq!(tree.room("0::/gone\n", TWO, 0), None);
    }

    #[test]
    fn swap_counts_as_far_as_the_group_and_the_machine_have_some() {
        let tree = Tree::new(
            "swap",
            &[
                ("sys/fs/cgroup/a/memory.max", "67108864"),
                ("sys/fs/cgroup/a/memory.current", "67108864"),
                ("sys/fs/cgroup/a/memory.swap.max", "16777216"),
                ("sys/fs/cgroup/a/memory.swap.current", "8388608"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "67108864"),
                ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "33554432"),
                ("sys/fs/cgroup/memory/a/memory.memsw.limit_in_bytes", "71303168"),
                ("sys/fs/cgroup/memory/a/memory.memsw.usage_in_bytes", "33554432"),
            ],
        );
        let two = |swap| tree.room("0::/a", TWO, swap).unwrap().0;
        assert_eq!([two(0), two(4), two(100)], [0, 2, 6]);
        let one = |swap| tree.room("4:memory:/a", ONE, swap).unwrap().0;
        assert_eq!([one(0), one(2), one(100)], [30, 32, 34]);
    }

    #[test]
    fn version_one_is_found_beside_version_two_and_says_no_limit_with_a_number() {
        let tree = Tree::new(
            "one",
            &[
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
                ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "67108864\n"),
                ("sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "33554432\n"),
                ("sys/fs/cgroup/memory/docker/x/memory.stat", "inactive_file 1\ntotal_inactive_file 1048576\n"),
            ],
        );
        let cgroups = "5:devices:/\n4:cpu,memory:/docker/x\n0::/\n";
        assert_eq!(tree.room(cgroups, ONE, 0), Some((31, "/sys/fs/cgroup/memory/docker/x".into())));
        assert_eq!(tree.room("4:memory:/\n0::/\n", ONE, 0), None);
    }

    #[test]
    fn in_a_container_only_what_is_mounted_there_is_visible() {
        let files = [
            ("sys/fs/cgroup/mem ory/memory.limit_in_bytes", "67108864"),
            ("sys/fs/cgroup/mem ory/memory.usage_in_bytes", "0"),
        ];
        let tree = Tree::new("container", &files);
        let mounts = "35 25 0:32 /docker/x /sys/fs/cgroup/mem\\040ory ro - cgroup cgroup rw,memory\n";
        let top = Some((62, "/sys/fs/cgroup/mem ory".to_owned()));
        assert_eq!(tree.room("4:memory:/docker/x\n", mounts, 0), top);
        assert_eq!(tree.room("4:memory:/docker/x/below\n", mounts, 0), top);
        assert_eq!(tree.room("4:memory:/docker/xy\n", mounts, 0), None, "another group");
        assert_eq!(tree.room("4:memory:/../y\n", mounts, 0), None, "outside of the namespace");
    }

    #[test]
    fn whatever_the_files_say_is_read_without_a_panic() {
        let tree =
            Tree::new("odd", &[("sys/fs/cgroup/a/memory.max", "\u{fffd}"), ("sys/fs/cgroup/b/memory.max", "12")]);
        for cgroups in ["", "0", "0:", "0::", "0::a", "::::", "0::/a", "0::/b", "0::/\u{1f980}", "1:memory:/a"] {
            for mounts in
                ["", " - ", "1 2 3 / / - cgroup2", "a - cgroup x memory", TWO, ONE, "1 2 3 \\ \\9 - cgroup2 \\"]
            {
                assert_eq!(tree.room(cgroups, mounts, 0), None, "{cgroups:?} {mounts:?}");
            }
        }
        assert_eq!(unescaped("a\\040b\\134\\04\\888\u{e9}\\"), "a b\\\\04\\888\u{e9}\\");
    }
}
