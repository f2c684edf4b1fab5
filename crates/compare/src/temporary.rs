//! What a run leaves in memory: everything has the run's name in its own, and goes with it, also after a hang.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const SHM: &str = "/dev/shm";

/// The directory of this run, and its name.
pub struct Temporary {
    name: String,
    directory: PathBuf,
}

impl Temporary {
    /// A fresh directory, as `what` of this process. What runs left that were killed themselves goes first.
    pub fn new(what: &str) -> std::io::Result<Self> {
        let prefix = format!("gimmal-{what}-");
        for name in fs::read_dir(SHM)?.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            let process = name.strip_prefix(&prefix).filter(|id| id.parse::<u32>().is_ok());
            if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
                drop(Self { directory: Path::new(SHM).join(&name), name });
            }
        }
        let name = format!("{prefix}{}", std::process::id());
        let directory = Path::new(SHM).join(&name);
        fs::create_dir(&directory)?;
        Ok(Self { name, directory })
    }

    /// What all names begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where files can be put.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes of memory that everything of this run takes now.
    pub fn bytes(&self) -> u64 {
        self.others().iter().map(|path| bytes(path)).sum::<u64>() + bytes(&self.directory)
    }

    /// What was put beside the directory, by libraries that choose the place but let us choose the name.
    fn others(&self) -> Vec<PathBuf> {
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // With what follows, so that it is not the name of a longer process id.
            name.split(&self.name).nth(1).is_some_and(|rest| rest.starts_with('-'))
        };
        let entries = fs::read_dir(SHM).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(ours).collect()
    }

    /// Removes everything but the directory itself. Whoever still uses it goes on.
    pub fn clean(&self) {
        let inside = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in inside.chain(self.others()) {
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.clean();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn bytes(path: &Path) -> u64 {
    let Ok(status) = fs::symlink_metadata(path) else { return 0 };
    if !status.is_dir() {
        return status.blocks() * 512;
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes(&entry.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_and_nothing_else_is_taken() {
        let temporary = Temporary::new("test").expect("a directory");
        fs::write(temporary.directory().join("file"), [1; 5000]).expect("write");
        let beside = Path::new(SHM).join(format!("sem.{}-1", temporary.name()));
        let foreign = Path::new(SHM).join(format!("{}0", temporary.name()));
        fs::write(&beside, [1; 4096]).expect("write");
        fs::write(&foreign, [1]).expect("write");
        assert_eq!(temporary.bytes(), 8192 + 4096);
        let directory = temporary.directory().to_owned();
        drop(temporary);
        assert!(!directory.exists() && !beside.exists() && foreign.exists());
        fs::remove_file(foreign).expect("remove");
    }
}
