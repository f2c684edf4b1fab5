//~ gimmal: protected types may be aligned to at most 64 bytes
use gimmal::bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy)]
#[cfg_attr(not(good), repr(C, align(128)))]
#[cfg_attr(good, repr(C, align(64)))]
struct Protected([u8; 128]);
unsafe impl Zeroable for Protected {}
unsafe impl Pod for Protected {}

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::Lock::<Protected>::create(&segment, "lock", Protected([0; 128]));
}
