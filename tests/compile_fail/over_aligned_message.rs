//~ gimmal: element types may be aligned to at most 64 bytes
use gimmal::bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy)]
#[cfg_attr(not(good), repr(C, align(128)))]
#[cfg_attr(good, repr(C, align(64)))]
struct Message([u8; 128]);
unsafe impl Zeroable for Message {}
unsafe impl Pod for Message {}

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::Queue::<Message>::create(&segment, "queue", 1);
}
