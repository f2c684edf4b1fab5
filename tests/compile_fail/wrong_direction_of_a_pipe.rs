//~ E0308
//~ expected `u64`
fn main() {
    let segment = gimmal::Segment::anonymous().unwrap();
    let (_first, mut second) = gimmal::Pipe::pair::<u8, u64>(&segment, "pipe", 1).unwrap();
    #[cfg(not(good))]
    let answer: u8 = 1;
    #[cfg(good)]
    let answer: u64 = 1;
    let _ = second.try_send(answer);
}
