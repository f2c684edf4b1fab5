//~ cannot be shared between threads safely
fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let queue = gimmal::SpscQueue::<u8>::create(&segment, "queue", 1).unwrap();
    let receiver = std::sync::Arc::new(queue.receiver().unwrap());
    #[cfg(good)]
    let receiver = std::sync::Arc::into_inner(receiver);
    std::thread::spawn(move || drop(receiver));
}
