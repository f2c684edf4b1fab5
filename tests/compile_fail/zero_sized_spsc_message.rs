//~ gimmal: a zero-sized type carries nothing
#[cfg(not(good))]
type Message = [u64; 0];
#[cfg(good)]
type Message = [u64; 1];

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::SpscQueue::<Message>::create(&segment, "queue", 1);
}
