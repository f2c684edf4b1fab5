//~ String: Pod
#[cfg(not(good))]
type Last = String;
#[cfg(good)]
type Last = gimmal::Str<60>;

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::Latest::<Last>::create(&segment, "latest", Default::default());
}
