//! Tables, and everything as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::case::Measure;
use crate::results::{Entry, Results, Summary};
use crate::sys;

/// A table for each measurement and place, failures below.
pub fn tables(results: &Results, quick: bool) -> String {
    let mut text = format!("{}\n", machine());
    let rounds = results.rounds();
    let _ = writeln!(text, "medians of {rounds} interleaved rounds, and least..most of them");
    if quick {
        text.push_str("quick: a test of whether everything works, not a measurement\n");
    }
    for measure in Measure::ALL {
        for pinned in [true, false] {
            let of_table = |entry: &&Entry| entry.case.measure == measure && entry.case.pinned == pinned;
            let entries: Vec<&Entry> = results.entries.iter().filter(of_table).collect();
            if let Some(first) = entries.first() {
                table(&mut text, &format!("{}, {}", measure.name(), first.case.place()), measure, &entries);
            }
        }
    }
    text
}

fn table(text: &mut String, title: &str, measure: Measure, entries: &[&Entry]) {
    let unit = measure.unit();
    let _ = write!(text, "\n{title:<47}{unit:>12} {:>21}", "least..most");
    let _ = match measure {
        Measure::Attach => writeln!(text),
        Measure::Bytes => writeln!(text, "{:>11}{:>11}", "GB/s", "cpu ns"),
        Measure::Memory => writeln!(text, "{:>14}", "private bytes"),
        _ if measure.has_tail() => writeln!(text, "{:>11}{:>11}{:>11}{:>11}", "p99", "p99.9", "max", "cpu ns"),
        _ => writeln!(text, "{:>11}", "cpu ns"),
    };
    let mut notes = Vec::new();
    let mut before = String::new();
    for entry in entries {
        let key = entry.case.key();
        let shown = if key == before { "" } else { &key };
        let _ = write!(text, "  {shown:<11} {:<33}", entry.case.way.name());
        before = key.clone();
        match entry.summary(|sample| Some(sample.value)) {
            Some(summary) => row(text, entry, summary),
            None => text.push_str("           –"),
        }
        if let Some(failure) = &entry.failure {
            notes.push(format!("{key}, {}: {failure}", entry.case.way.name()));
            let _ = write!(text, " [{}]", notes.len());
        }
        text.push('\n');
    }
    for (i, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "  [{}] {note}", i + 1);
    }
}

fn row(text: &mut String, entry: &Entry, Summary { median: nanos, least, most }: Summary) {
    let _ = write!(text, "{:>12} {:>21}", number(nanos), format!("{}..{}", number(least), number(most)));
    let median = |of: &dyn Fn(&crate::measure::Sample) -> Option<f64>| entry.summary(of).map(|summary| summary.median);
    let maximum = entry.summary(|sample| sample.tail.map(|tail| tail[2])).map(|summary| summary.most);
    if let Some(private) = median(&|sample| sample.private) {
        let _ = write!(text, "{:>14}", number(private));
    }
    if entry.case.measure == Measure::Bytes {
        let _ = write!(text, "{:>11.2}", entry.case.bytes as f64 / nanos);
    }
    for tail in [median(&|s| s.tail.map(|t| t[0])), median(&|s| s.tail.map(|t| t[1])), maximum] {
        tail.map(|nanos| write!(text, "{:>11}", number(nanos)));
    }
    if let Some(cpu) = median(&|sample| sample.cpu) {
        let _ = write!(text, "{:>11}", number(cpu));
    }
}

/// With a digit behind the point while that says something, and with commas when it is long.
pub fn number(value: f64) -> String {
    if value < 99.95 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What this was measured on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |line| line.trim_start_matches([':', ' ', '\t']));
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{} × {model}, Linux {}, load average now {load}", sys::cores().len(), kernel.trim())
}

/// Everything that was measured, round by round.
pub fn json(results: &Results, quick: bool) -> Value {
    let cases = results.entries.iter().map(|entry| {
        let case = &entry.case;
        let rounds = entry.samples.iter().map(|sample| {
            sample.as_ref().map(|s| json!({"value": s.value, "cpu_ns": s.cpu, "tail_ns": s.tail, "private": s.private}))
        });
        json!({
            "name": case.to_string(), "measure": case.measure.name(), "way": case.way.name(), "unit": case.measure.unit(),
            "bytes": case.bytes, "senders": case.senders, "receivers": case.receivers, "batch": case.batch,
            "capacity": case.capacity, "objects": case.objects, "idle": case.idle, "pinned": case.pinned,
            "count": entry.count, "median": entry.summary(|s| Some(s.value)).map(|s| s.median),
            "failure": entry.failure.as_ref().map(ToString::to_string), "rounds": rounds.collect::<Vec<_>>(),
        })
    });
    json!({
        "machine": machine(), "quick": quick, "rounds": results.rounds(), "cases": cases.collect::<Vec<_>>(),
        "aims": crate::reach::json(results),
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!(["7.5", "100", "1,234", "1,234,567"], [7.46, 99.97, 1234.4, 1_234_567.0].map(number).each_ref());
    }
}
