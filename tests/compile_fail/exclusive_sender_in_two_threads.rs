//~ cannot be shared between threads safely
fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let queue = gimmal::SpscQueue::<u8>::create(&segment, "queue", 1).unwrap();
    let sender = queue.sender().unwrap();
    std::thread::scope(|scope| {
        #[cfg(not(good))]
        scope.spawn(|| drop(format!("{:?}", &sender)));
        #[cfg(good)]
        scope.spawn(move || drop(format!("{:?}", &sender)));
    });
}
