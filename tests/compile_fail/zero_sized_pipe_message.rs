//~ gimmal: a zero-sized type carries nothing
#[cfg(not(good))]
type Back = ();
#[cfg(good)]
type Back = u8;

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::Pipe::pair::<u8, Back>(&segment, "pipe", 1);
}
