//~ lifetime may not live long enough
// A queue carries both ways: what is sent as one type must not be received as another.
#[cfg(not(good))]
fn shorter<'a>(queue: gimmal::Queue<&'static str>) -> gimmal::Queue<&'a str> {
    queue
}
#[cfg(good)]
fn shorter<'a>(queue: gimmal::Queue<&'a str>) -> gimmal::Queue<&'a str> {
    queue
}

fn main() {
    let _ = shorter;
}
