//~ u128: Scalar
#[cfg(not(good))]
type Number = u128;
#[cfg(good)]
type Number = u64;

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::Value::<Number>::create(&segment, "value", 0);
}
