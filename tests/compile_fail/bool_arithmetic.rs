//~ `bool: Number`
use std::sync::atomic::Ordering::Relaxed;

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let flag = gimmal::Value::<bool>::create(&segment, "flag", false).unwrap();
    #[cfg(not(good))]
    flag.fetch_add(true, Relaxed);
    #[cfg(good)]
    flag.fetch_or(true, Relaxed);
}
