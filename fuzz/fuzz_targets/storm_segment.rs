//! Calls while a peer rewrites the shared words: see `tests/support/storm.rs`.
#![no_main]

#[path = "../../tests/support/storm.rs"]
mod storm;

#[global_allocator]
static ALLOCATOR: storm::Limited = storm::Limited;

libfuzzer_sys::fuzz_target!(|case: &[u8]| storm::run(storm::Kind::Segment, case));
