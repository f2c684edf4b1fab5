//! Quantities as they are written on a command line: `64K`, `200ms`.

use std::time::Duration;

/// A number of bytes, at least 1: `4096`, `64K`, `1M`, `2GiB`. The units are powers of 1,024.
pub fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let shift = match unit.strip_suffix("iB").or(unit.strip_suffix('B')).unwrap_or(unit) {
        "" => 0,
        "K" | "k" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err("it should be a number of bytes, such as 4096, 64K or 1M".to_owned()),
    };
    let number: usize =
        number.parse().map_err(|_| "it should be a whole number, such as 4096, 64K or 1M".to_owned())?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err("it should be more than nothing".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("it is more than there can be".to_owned()),
    }
}

/// A time: `2`, `1.5s`, `200ms`, `3min`, `1h`. Without a unit they are seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "it should be a time, such as 2, 1.5s, 200ms or 3min".to_owned();
    let (number, unit) = split(text);
    let seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "it is longer than can be waited for".to_owned())
}

/// The number, and the unit behind it.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_units() {
        let given = ["1", "4096", "64K", "64k", "1M", "1MiB", "1MB", "2G"].map(|text| bytes(text).unwrap());
        assert_eq!(given, [1, 4096, 65536, 65536, 1 << 20, 1 << 20, 1 << 20, 2 << 30]);
        for wrong in ["", "0", "K", "1.5K", "-1", "1T", "1 K", "99999999999999999999", "18446744073709551615K"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_seconds_unless_said_otherwise() {
        let given = ["0", "2", "1.5", "1.5s", "200ms", "50us", "3min", "1h"].map(|text| duration(text).unwrap());
        let micros = given.map(|time| time.as_micros());
        let second = 1_000_000;
        assert_eq!(micros, [0, 2 * second, 1_500_000, 1_500_000, 200_000, 50, 180 * second, 3600 * second]);
        for wrong in ["", "s", "-1", "1 s", "1d", "1e9", "inf", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
