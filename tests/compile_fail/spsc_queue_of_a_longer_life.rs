//~ lifetime may not live long enough
#[cfg(not(good))]
fn longer<'a>(queue: gimmal::SpscQueue<&'a str>) -> gimmal::SpscQueue<&'static str> {
    queue
}
#[cfg(good)]
fn longer(queue: gimmal::SpscQueue<&'static str>) -> gimmal::SpscQueue<&'static str> {
    queue
}

fn main() {
    let _ = longer;
}
