//! The object that is passed where objects are: about a hundred bytes when serialized, with all that makes objects of it.

use serde::{Deserialize, Serialize};

/// Bytes that it takes, serialized by postcard.
pub const BYTES: usize = 100;

/// See [`Order::new`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    number: u64,
    customer: Customer,
    lines: Vec<u32>,
    kind: Kind,
    note: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Customer {
    id: u64,
    name: String,
    rating: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(dead_code, reason = "one of several")]
enum Kind {
    Market,
    Limit { price: f64, days: u32 },
}

impl Order {
    /// An object. The script in `python/` has the same one.
    pub fn new() -> Self {
        Self {
            number: 1 << 40,
            customer: Customer { id: 1 << 33, name: "Katharina Musterfrau".to_owned(), rating: 0.75 },
            lines: (0..8).map(|line| 1000 + 7 * line).collect(),
            kind: Kind::Limit { price: 1234.5, days: 30 },
            note: "to be delivered by hand, indoors".to_owned(),
        }
    }

    /// The same with another number, of as many bytes.
    pub fn renumber(&mut self, number: u64) {
        self.number = (1 << 40) + number;
    }

    /// Its number; panics if anything else of it is different from `other`.
    pub fn check(&self, other: &Self) -> u64 {
        let Self { number: _, customer, lines, kind, note } = self;
        let same = *customer == other.customer && *lines == other.lines && *kind == other.kind && *note == other.note;
        assert!(same, "another object: {self:?}");
        self.number - (1 << 40)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_so_many_bytes_whatever_its_number() {
        let mut order = Order::new();
        for number in [0, 1, 1 << 26] {
            order.renumber(number);
            assert_eq!(postcard::to_stdvec(&order).map(|bytes| bytes.len()), Ok(BYTES));
        }
    }
}
