//! What is being done now, and the end of a sweep that hangs in it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::scene;

/// For how long nothing may happen.
const PATIENCE: u64 = 20;

static BEATS: AtomicU64 = AtomicU64::new(0);
static DOING: Mutex<String> = Mutex::new(String::new());

/// Something has happened.
pub fn beat() {
    BEATS.fetch_add(1, Relaxed);
}

/// Says what happens next.
pub fn doing(what: String) {
    beat();
    *DOING.lock().expect("no panic inside") = what;
}

/// Ends the program if it makes no progress any more. Victims are killed by the kernel with it.
pub fn start() {
    std::thread::spawn(|| {
        let (mut seen, mut still) = (0, 0);
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = BEATS.load(Relaxed);
            still = if now == seen { still + 1 } else { 0 };
            seen = now;
            if still >= PATIENCE {
                let doing = DOING.lock().map_or_else(|_| String::new(), |doing| doing.clone());
                println!("FAILED: blocked for {PATIENCE} s: {doing}");
                println!("sweep: ended by its watchdog");
                scene::remove_leftovers();
                std::process::exit(1);
            }
        }
    });
}
