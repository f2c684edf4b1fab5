//! A child that was forked while another thread was anywhere in any operation: whatever that thread was in the middle of, the child
//! does everything, and comes back from it.
//!
//! For each operation a fresh process (`victim`) begins: its first use of gimmal is that operation, or what must go before. One
//! thread performs it, single-stepped by this process (`stepper`). After each of its atomic instructions, its calls of other libraries and
//! its system calls, each place a few times, the other thread forks, and the child goes through the whole table of operations
//! (`table`), with what it has inherited and with what it makes itself. If the fork waits for a lock that the stepped thread has,
//! that goes on, an instruction at a time, until the fork is done.
//!
//! No test harness: the processes that are forked need to be of one thread.

mod fork_anywhere {
    pub mod stepper;
    pub mod table;
    pub mod victim;
}

use std::process::exit;
use std::time::Instant;

use fork_anywhere::stepper::{self, Failed, Tally};
use fork_anywhere::table;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    nix::sys::prctl::set_child_subreaper(true).expect("prctl");
    let directory = table::Directory::new();
    let operations: Vec<_> = table::OPERATIONS
        .iter()
        .filter(|operation| chosen.is_empty() || chosen.iter().any(|word| operation.name.contains(word.as_str())))
        .collect();
    println!("\nrunning {} tests", operations.len());
    let (mut failed, mut seen) = (0, stepper::Seen::default());
    for operation in &operations {
        let begin = Instant::now();
        let verdict = match stepper::run(operation, &mut seen) {
            // A child that can do nothing with what it has inherited says so each time; one of them must have been able to.
            Ok(Tally { inherited: 0, .. }) => "FAILED: no child has used what it had inherited".to_owned(),
            Ok(Tally { steps, forks, .. }) => format!("ok ({forks} forks in {steps} steps, {:.1?})", begin.elapsed()),
            Err(Failed::NotPermitted) => "FAILED: this process may not trace its children (ptrace: EPERM)".to_owned(),
            Err(Failed::Other(text)) => format!("FAILED: {text}"),
        };
        failed += usize::from(verdict.starts_with("FAILED"));
        println!("test {} ... {verdict}", operation.name);
    }
    drop(directory);
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {failed} failed\n", operations.len() - failed);
    exit(i32::from(failed > 0));
}
