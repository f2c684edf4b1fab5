//~ `bool: Pod`
#[cfg(not(good))]
type Message = bool;
#[cfg(good)]
type Message = u8;

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::Queue::<Message>::create(&segment, "queue", 1);
}
