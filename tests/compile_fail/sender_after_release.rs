//~ E0382
//~ moved
fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let queue = gimmal::SpscQueue::<u8>::create(&segment, "queue", 1).unwrap();
    let mut sender = queue.sender().unwrap();
    #[cfg(good)]
    let _ = sender.try_send(1);
    sender.release();
    #[cfg(not(good))]
    let _ = sender.try_send(1);
}
