//! Names and where they live.

use std::path::{Path, PathBuf};

use crate::error::Error;

const PREFIX: &str = "gimmal.";
const MAX_BYTES: usize = 200;

/// A checked segment name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    directory: PathBuf,
    name: String,
}

impl Name {
    pub(crate) fn new(directory: &Path, name: &str) -> Result<Self, Error> {
        check(name, MAX_BYTES)?;
        // Absolute, so that a process that changes its directory can still remove the name when it leaves.
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        Ok(Self { directory, name: name.to_owned() })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.name
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(format!("{PREFIX}{}", self.name))
    }

    pub(crate) fn not_found(&self) -> Error {
        Error::NotFound { name: self.name.clone() }
    }

    pub(crate) fn exists(&self) -> Error {
        Error::Exists { name: self.name.clone() }
    }
}

/// The segment that a file of this name would hold, if any.
pub(crate) fn of_file(file_name: &str) -> Option<&str> {
    file_name.strip_prefix(PREFIX).filter(|name| check(name, MAX_BYTES).is_ok())
}

/// What segment and object names have in common.
pub(crate) fn check(name: &str, most: usize) -> Result<(), Error> {
    let bad = |reason| Err(Error::BadName { name: name.chars().take(80).collect(), reason });
    if name.is_empty() {
        bad("it is empty; use 1 or more characters of A-Z a-z 0-9 . _ -")
    } else if name.len() > most {
        bad(if most == MAX_BYTES { "it is longer than 200 bytes" } else { "it is longer than 63 bytes" })
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        bad("only A-Z a-z 0-9 . _ - are allowed")
    } else {
        Ok(())
    }
}

/// The directory for names when none is given: `GIMMAL_DIR`, else `/dev/shm`.
pub(crate) fn default_directory() -> PathBuf {
    std::env::var_os("GIMMAL_DIR").filter(|d| !d.is_empty()).map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from)
}
