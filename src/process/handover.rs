//! How a segment gets into another program: as text in its arguments or environment, and an open descriptor where
//! the segment has no name.
//!
//! The text is `name:NAME:DIRECTORY` or `fd:NUMBER:INODE`; a list of them is separated by commas. The inode
//! unmasks a stale text, read where the number is another file's: environments are inherited further than
//! descriptors.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::failed_to;
use crate::{Error, Segment, sys};

/// Hands segments to other programs: an extension of [`std::process::Command`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use gimmal::Segment;
/// use gimmal::process::CommandExt;
/// use std::process::Command;
///
/// let segment = Segment::anonymous()?;
/// let mut child = Command::new("player").pass_segment("game", &segment)?.spawn()?;
/// // and in player: let segment = gimmal::process::inherited_segment("game")?;
/// child.wait()?;
/// # Ok(())
/// # }
/// ```
pub trait CommandExt {
    /// Hands `segment` to the program, which gets it with [`inherited_segment`] of the same key.
    ///
    /// Sets the environment variable `GIMMAL_SEGMENT_KEY`, `key` being in upper case there. A segment with a name
    /// must still be open somewhere when the program opens it (or be a persistent one): keep yours until then. An
    /// anonymous one goes along as an open descriptor and lives as long as this command or the program does.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] if `key` is not made of ASCII letters, digits and `_`; [`Error::Io`] if the
    /// descriptor cannot be duplicated.
    fn pass_segment(&mut self, key: &str, segment: &Segment) -> Result<&mut Self, Error>;
}

impl CommandExt for Command {
    fn pass_segment(&mut self, key: &str, segment: &Segment) -> Result<&mut Command, Error> {
        let variable = variable(key)?;
        let text = hand_over(self, segment)?;
        Ok(self.env(variable, text))
    }
}

/// The segment that the parent handed over under `key` with [`CommandExt::pass_segment`]; this process joins it.
/// It may be called again, and then joins again.
///
/// # Errors
///
/// [`Error::BadName`] if `key` cannot be one; [`Error::NotInherited`] if nothing was handed over under it, or it
/// did not reach this process (an anonymous segment stops at the first process that takes it); else those of
/// [`Segment::open`].
pub fn inherited_segment(key: &str) -> Result<Segment, Error> {
    let variable = variable(key)?;
    match env::var_os(&variable) {
        Some(text) => take_over(key, &text.to_string_lossy()),
        None => {
            Err(not_inherited(key, format!("{variable} is not set; the parent sets it with Command::pass_segment")))
        }
    }
}

fn variable(key: &str) -> Result<String, Error> {
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(Error::BadName { name: key.to_owned(), reason: "a key is one or more of A-Z a-z 0-9 _" });
    }
    Ok(format!("GIMMAL_SEGMENT_{}", key.to_ascii_uppercase()))
}

fn not_inherited(key: &str, reason: String) -> Error {
    Error::NotInherited { key: key.to_owned(), reason }
}

pub(super) fn hand_over_list(command: &mut Command, segments: &[Segment]) -> Result<String, Error> {
    let texts = segments.iter().map(|segment| hand_over(command, segment));
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join(","))
}

pub(super) fn take_over_list(list: &OsStr) -> Result<Vec<Segment>, Error> {
    let list = list.to_string_lossy();
    let texts = list.split(',').filter(|text| !text.is_empty());
    texts.enumerate().map(|(index, text)| take_over(&index.to_string(), text)).collect()
}

/// Makes what `command` starts able to open `segment`, by the text that is returned.
fn hand_over(command: &mut Command, segment: &Segment) -> Result<String, Error> {
    if let Some(name) = segment.name() {
        // The program may start in another working directory.
        let directory = std::path::absolute(segment.directory()).map_err(failed_to("find a segment's directory"))?;
        return Ok(format!("name:{name}:{}", encode(directory.as_os_str()).replace(',', "%2C")));
    }
    // A duplicate, so that the number stays taken until the command is gone, whatever becomes of the segment.
    let fd = segment.as_fd().try_clone_to_owned().map_err(failed_to("duplicate a segment's descriptor"))?;
    let file = File::from(fd);
    let inode = file.metadata().map_err(failed_to("look at a segment's descriptor"))?.ino();
    let text = format!("fd:{}:{inode}", file.as_raw_fd());
    sys::process::leave_open(command, file.into());
    Ok(text)
}

/// Opens what `hand_over` described. An inherited descriptor is left open, for another call, but closed on exec
/// from now on.
fn take_over(key: &str, text: &str) -> Result<Segment, Error> {
    let malformed = || not_inherited(key, format!("{text:?} does not describe a segment"));
    let mut parts = text.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("name"), Some(name), Some(directory)) => {
            let directory = decode(directory.as_ref()).ok_or_else(malformed)?;
            Segment::options().directory(directory).open(name)
        }
        (Some("fd"), Some(number), Some(inode)) => {
            let number: RawFd = number.parse().map_err(|_| malformed())?;
            let inode: u64 = inode.parse().map_err(|_| malformed())?;
            let gone =
                |error: io::Error| not_inherited(key, format!("descriptor {number} cannot be opened here: {error}"));
            // Opened anew: a number out of a text is no proof that the descriptor is ours to use or close.
            let file = File::options().read(true).write(true).open(format!("/proc/self/fd/{number}")).map_err(gone)?;
            if file.metadata().map_err(gone)?.ino() != inode {
                return Err(not_inherited(key, format!("descriptor {number} is another file in this process")));
            }
            sys::process::set_cloexec(number).map_err(gone)?;
            Segment::from_fd(file)
        }
        _ => Err(malformed()),
    }
}

/// The bytes of `text` as UTF-8: `%` and what is not UTF-8 become `%XX`. Arguments need it too: many programs
/// panic at one that is not UTF-8 before they come to `init`, the test harness among them.
pub(super) fn encode(text: &OsStr) -> String {
    let mut encoded = String::new();
    for chunk in text.as_bytes().utf8_chunks() {
        encoded.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Undoes [`encode`]; `None` if a `%` is not followed by two hexadecimal digits.
pub(super) fn decode(encoded: &OsStr) -> Option<OsString> {
    let mut parts = encoded.as_bytes().split(|&byte| byte == b'%');
    let mut bytes = parts.next()?.to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
        bytes.extend_from_slice(rest);
    }
    Some(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_is_utf8_and_brings_every_byte_back() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&all[..], b"", b"%", b"%41", b"plain/\xc3\xa4", b"\xff%\xfe"] {
            let encoded = encode(OsStr::from_bytes(bytes));
            assert_eq!(decode(encoded.as_ref()).unwrap().as_bytes(), bytes);
        }
        assert_eq!(encode(OsStr::from_bytes(b"/a%b \xc3\xa4\xff")), "/a%25b \u{e4}%FF");
    }

    #[test]
    fn a_malformed_encoding_is_refused() {
        for text in ["%", "%4", "a%zz", "%%41"] {
            assert_eq!(decode(text.as_ref()), None, "{text}");
        }
    }

    #[test]
    fn a_malformed_description_is_refused() {
        for text in ["", "name", "name:a", "fd:1", "fd:x:1", "fd:1:x", "fd:-1:0", "what:a:b", "name:a:%", "fd:0:0"] {
            assert!(matches!(take_over("k", text), Err(Error::NotInherited { .. })), "{text}");
        }
    }

    #[test]
    fn a_key_becomes_an_environment_variable_or_is_refused() {
        assert_eq!(variable("game_2").unwrap(), "GIMMAL_SEGMENT_GAME_2");
        for key in ["", "a=b", "a b", "\u{e4}", "a\0"] {
            assert!(matches!(variable(key), Err(Error::BadName { .. })), "{key:?}");
        }
    }
}
