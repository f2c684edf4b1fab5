//! `gimmal bench`: it runs in every pattern, counts right, and says what it measured.

use serde_json::Value;
use std::process::{Command, Output};

fn bench(args: &str) -> Output {
    let args = args.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_gimmal")).arg("bench").args(args).output().unwrap()
}

fn json(args: &str) -> Value {
    let output = bench(&format!("{args} --json"));
    assert!(output.status.success(), "{args}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_message_of_every_pattern_and_size_is_counted() {
    for (args, count, samples) in [
        ("--count 1000 --size 8", 1000, 16),
        ("--count 1000 --size 4K --pin", 1000, 1000),
        ("--count 20 --size 1M", 20, 20),
        ("--count 1001 --pattern mpmc --senders 2 --receivers 3", 1001, 8 + 8),
        ("--count 300 --pattern pingpong", 300, 300),
    ] {
        let report = json(args);
        assert_eq!(report["count"], count, "{args}: {report:#}");
        let latency = &report["latency_nanoseconds"];
        assert_eq!(latency["samples"], samples, "{args}: {report:#}");
        assert!(
            latency["min"].as_u64() <= latency["p50"].as_u64() && latency["p50"].as_u64() <= latency["max"].as_u64()
        );
    }
}

#[test]
fn it_stops_when_the_time_is_up() {
    assert!(json("--seconds 50ms")["count"].as_u64().unwrap() > 0);
}

#[test]
fn without_a_terminal_it_draws_with_plain_characters() {
    let output = bench("--count 2000 --size 64 --pattern pingpong");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Messages there and back of 64 bytes through a SpscQueue there and one back"), "{text}");
    assert!(text.contains("2000 round trips in ") && text.contains("p99.9 ") && text.contains("  ####"), "{text}");
    assert!(text.replace('µ', "u").is_ascii(), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (args, code) in [
        ("--size 7", 1),
        ("--size 1G", 1),
        ("--senders 2", 1),
        ("--pattern pingpong --receivers 2", 1),
        ("--count 5 --seconds 5", 2),
        ("--count 0", 2),
        ("--pattern ring", 2),
    ] {
        assert_eq!(bench(args).status.code(), Some(code), "{args}");
    }
}
