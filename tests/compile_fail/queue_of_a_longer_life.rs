//~ lifetime may not live long enough
#[cfg(not(good))]
fn longer<'a>(queue: gimmal::Queue<&'a str>) -> gimmal::Queue<&'static str> {
    queue
}
#[cfg(good)]
fn longer(queue: gimmal::Queue<&'static str>) -> gimmal::Queue<&'static str> {
    queue
}

fn main() {
    let _ = longer;
}
