//~ E0382
//~ moved
fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let (mut end, _other) = gimmal::Pipe::pair::<u8, u8>(&segment, "pipe", 1).unwrap();
    #[cfg(good)]
    let _ = end.try_send(1);
    let (_sender, _receiver) = end.split();
    #[cfg(not(good))]
    let _ = end.try_send(1);
}
