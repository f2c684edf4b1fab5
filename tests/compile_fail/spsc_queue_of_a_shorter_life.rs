//~ lifetime may not live long enough
// An exclusive queue carries both ways: what is sent as one type must not be received as another.
#[cfg(not(good))]
fn shorter<'a>(queue: gimmal::SpscQueue<&'static str>) -> gimmal::SpscQueue<&'a str> {
    queue
}
#[cfg(good)]
fn shorter<'a>(queue: gimmal::SpscQueue<&'a str>) -> gimmal::SpscQueue<&'a str> {
    queue
}

fn main() {
    let _ = shorter;
}
