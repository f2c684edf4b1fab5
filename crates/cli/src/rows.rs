//! The rows that `wc` of GNU coreutils 9.1 prints in the C locale: column widths, names, the names in messages.

use std::fs::Metadata;
use std::io::{self, Write};

use crate::count::Counts;

/// The width of all columns: that of the sum of the sizes of all regular files, and 7 at least if something else is
/// among them. `None` stands for what has no metadata because it does not exist, say.
pub fn width<'a>(inputs: impl IntoIterator<Item = Option<&'a Metadata>>) -> usize {
    let mut total = 0u64;
    let mut least = 1;
    for metadata in inputs.into_iter().flatten() {
        if metadata.is_file() {
            total = total.wrapping_add(metadata.len());
        } else {
            least = 7;
        }
    }
    let digits = total.checked_ilog10().unwrap_or(0) as usize + 1;
    digits.max(least)
}

/// Writes one row; standard input that was not asked for by name has none.
pub fn write_row(out: &mut impl Write, width: usize, counts: &Counts, name: Option<&[u8]>) -> io::Result<()> {
    let Counts { lines, words, bytes } = counts;
    write!(out, "{lines:width$} {words:width$} {bytes:width$}")?;
    if let Some(name) = name {
        out.write_all(b" ")?;
        if name.contains(&b'\n') {
            out.write_all(&quote(name))?;
        } else {
            out.write_all(name)?;
        }
    }
    out.write_all(b"\n")
}

/// A file's name in a message, quoted for the shell where needed, so that it is printable, one line, and ends where it
/// seems to end. This is gnulib's `quotef`, without its mistake over names that have a single quote in them and end in a
/// byte to be escaped, which `wc` of 9.1 prints wrongly.
pub fn quote(name: &[u8]) -> Vec<u8> {
    if !needs_quotes(name) {
        return name.to_vec();
    }
    if name.contains(&b'\'') && may_stand_in_double_quotes(name) {
        return [b"\"", name, b"\""].concat();
    }
    let mut quoted = vec![b'\''];
    // Within $'…', where escapes are understood.
    let mut escaping = false;
    for &byte in name {
        let escaped = escape(byte);
        if byte == b'\'' {
            quoted.extend(b"'\\'");
            escaping = false;
        } else if escaped.is_some() != escaping {
            quoted.extend(if escaping { &b"''"[..] } else { b"'$'" });
            escaping = !escaping;
        }
        match escaped {
            Some(escaped) => quoted.extend(escaped.into_bytes()),
            None => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

fn needs_quotes(name: &[u8]) -> bool {
    let special = |byte: &u8| !matches!(byte, b' '..=b'~') || br##" !"$&'()*:;<=>?[\^`|"##.contains(byte);
    matches!(name, [] | [b'#' | b'~', ..] | [b'{' | b'}']) || name.iter().any(special)
}

fn may_stand_in_double_quotes(name: &[u8]) -> bool {
    let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b" '%+,-./:@]_".contains(byte);
    let rest = name.strip_prefix(b"#").or(name.strip_prefix(b"~")).unwrap_or(name);
    rest.iter().all(harmless)
}

fn escape(byte: u8) -> Option<String> {
    let letter = match byte {
        b' '..=b'~' => return None,
        0x07 => 'a',
        0x08 => 'b',
        b'\t' => 't',
        b'\n' => 'n',
        0x0b => 'v',
        0x0c => 'f',
        b'\r' => 'r',
        _ => return Some(format!("\\{byte:03o}")),
    };
    Some(format!("\\{letter}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::SystemWc;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn the_width_is_that_of_all_regular_files_together_and_7_beside_others() {
        let metadata = |path| std::fs::metadata(path).ok();
        let (file, directory) = (metadata("Cargo.toml"), metadata("."));
        let len = file.as_ref().map_or(0, Metadata::len);
        let width = |inputs: &[&Option<Metadata>]| width(inputs.iter().map(|m| m.as_ref()));
        assert_eq!(width(&[&None]), 1);
        assert_eq!(width(&[&file]), len.to_string().len());
        let hundred = vec![&file; 100];
        assert_eq!(width(&hundred), (100 * len).to_string().len());
        assert_eq!(width(&[&directory]), 7);
        assert_eq!(width(&[&None, &directory, &file]), 7);
    }

    #[test]
    fn names_are_quoted_only_where_needed() {
        let quoted = |name: &str| String::from_utf8(quote(name.as_bytes())).unwrap();
        assert_eq!(quoted("plain-name_1.txt"), "plain-name_1.txt");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted("it's $5"), "'it'\\''s $5'");
        assert_eq!(quoted("a\n\u{7f}b"), "'a'$'\\n\\177''b'");
        assert_eq!(quoted(""), "''");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        #[test]
        fn names_in_messages_are_quoted_as_the_wc_installed_here_does(
            names in vec(vec(select(&b"abZ09 '\"\\#~{}=[]^?!$&()*:;<>`|%+,-.@_\n\t\x01\x7f\x80\xff"[..]), 1..8), 50),
        ) {
            let names: Vec<Vec<u8>> = names
                .into_iter()
                // Stdin and directories; and what gnulib gets wrong.
                .filter(|name| !matches!(&name[..], b"-" | b"." | b".."))
                .filter(|name| !(name.contains(&b'\'') && name.last().is_some_and(|&byte| escape(byte).is_some())))
                .collect();
            let Some(wc) = SystemWc::of_coreutils_9_1() else {
                eprintln!("skipped: the wc installed here is not like that of coreutils 9.1");
                return Ok(());
            };
            let mut args = vec![OsStr::new("--")];
            args.extend(names.iter().map(|name| OsStr::from_bytes(name)));
            let ours: Vec<u8> = names
                .iter()
                .flat_map(|name| [b"wc: ", &quote(name)[..], b": No such file or directory\n"].concat())
                .collect();
            let theirs = wc.run(&args, b"").stderr;
            prop_assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
        }
    }
}
