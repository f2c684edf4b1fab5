//! A histogram of times, drawn with text.

use hdrhistogram::Histogram;

use crate::table::Column::{Left, Right};
use crate::table::Table;

/// How many characters the longest bar has.
const WIDTH: usize = 40;

/// What an eighth of a character after the other looks like.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Percentiles, and a bar for each time that is a power of two: for what took up to that long, but longer than the one before.
pub fn draw(times: &Histogram<u64>, fancy: bool) -> String {
    let at = |quantile| nanoseconds(times.value_at_quantile(quantile));
    let mut text = format!(
        "min {}, p50 {}, p90 {}, p99 {}, p99.9 {}, max {} ({} samples)\n\n",
        nanoseconds(times.min()),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        nanoseconds(times.max()),
        times.len(),
    );
    let (first, last) = (upper_power(times.min()), upper_power(times.max()));
    let counts: Vec<u64> = (first..=last)
        .map(|power| times.iter_recorded().filter(move |v| upper_power(v.value_iterated_to()) == power))
        .map(|values| values.map(|v| v.count_at_value()).sum())
        .collect();
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let mut table = Table::new(&[Right("UP TO"), Right("SHARE"), Left("")]);
    for (power, count) in (first..=last).zip(counts) {
        let share = format!("{:.2} %", 100.0 * count as f64 / times.len().max(1) as f64);
        table.row([&nanoseconds(1 << power), &share, &bar(count as f64 / most as f64, fancy)]);
    }
    text += &table.to_string();
    text
}

/// The power of two that is at least so much.
fn upper_power(nanoseconds: u64) -> u32 {
    nanoseconds.max(1).checked_next_power_of_two().map_or(63, u64::ilog2)
}

/// So much of the longest bar; not nothing of what is not nothing.
fn bar(part: f64, fancy: bool) -> String {
    let width = part * WIDTH as f64;
    if part <= 0.0 {
        return String::new();
    }
    if !fancy {
        return "#".repeat((width.round() as usize).max(1));
    }
    let eighths = ((width * 8.0).round() as usize).max(1);
    let mut bar = "█".repeat(eighths / 8);
    bar.extend(Some(EIGHTHS[eighths % 8]).filter(|&eighth| eighth != ' '));
    bar
}

/// A time in three digits or so.
fn nanoseconds(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} ns"),
        1_000..1_000_000 => format!("{} µs", three_digits(n as f64 / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", three_digits(n as f64 / 1e6)),
        _ => format!("{} s", three_digits(n as f64 / 1e9)),
    }
}

fn three_digits(n: f64) -> String {
    match n {
        100.0.. => format!("{n:.0}"),
        10.0.. => format!("{n:.1}"),
        _ => format!("{n:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_shares() {
        let mut times = Histogram::new(2).unwrap();
        times.record_n(100, 80).unwrap();
        times.record_n(200, 40).unwrap();
        times.record_n(1000, 1).unwrap();
        let expected = format!(
            "\
min 100 ns, p50 100 ns, p90 200 ns, p99 200 ns, p99.9 1.00 µs, max 1.00 µs (121 samples)

  UP TO    SHARE
 128 ns  66.12 %  {}
 256 ns  33.06 %  {}
 512 ns   0.00 %
1.02 µs   0.83 %  #
",
            "#".repeat(40),
            "#".repeat(20),
        );
        let drawn = draw(&times, false);
        assert!(drawn.is_ascii() || drawn.replace('µ', "u").is_ascii());
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_bar_ends_at_an_eighth_of_a_character() {
        assert_eq!(bar(0.5, true), "█".repeat(20));
        assert_eq!(bar(3.0 / 320.0, true), "▍");
        assert_eq!(bar(1e-9, true), "▏");
        assert_eq!(bar(0.0, true), "");
    }
}
