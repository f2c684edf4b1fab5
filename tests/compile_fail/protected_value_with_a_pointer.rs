//~ Vec<u8>: Pod
#[cfg(not(good))]
type Protected = Vec<u8>;
#[cfg(good)]
type Protected = [u8; 16];

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::Lock::<Protected>::create(&segment, "lock", Default::default());
}
