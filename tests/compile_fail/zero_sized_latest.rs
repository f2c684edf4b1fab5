//~ gimmal: a value without bytes has no versions that differ
#[cfg(not(good))]
type Last = ();
#[cfg(good)]
type Last = u8;

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::Latest::<Last>::create(&segment, "latest", Default::default());
}
