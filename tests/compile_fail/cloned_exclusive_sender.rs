//~ E0599
//~ clone
fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let queue = gimmal::SpscQueue::<u8>::create(&segment, "queue", 1).unwrap();
    #[cfg(not(good))]
    let sender = queue.sender().unwrap();
    #[cfg(good)]
    let sender = gimmal::Queue::<u8>::create(&segment, "shared", 1).unwrap().sender().unwrap();
    drop(queue);
    drop(sender.clone());
}
