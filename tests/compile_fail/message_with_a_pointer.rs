//~ String: Pod
#[cfg(not(good))]
type Message = String;
#[cfg(good)]
type Message = [u8; 16];

fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let _ = gimmal::Pipe::simplex::<Message>(&segment, "pipe", 1);
}
