//! [`Ids`]: a set of participant ids.

/// A set of participant ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids([u64; 8]);

impl Ids {
    pub(crate) fn insert(&mut self, id: u16) {
        self.0[usize::from(id / 64) % 8] |= 1 << (id % 64);
    }

    pub(crate) fn remove(&mut self, id: u16) {
        self.0[usize::from(id / 64) % 8] &= !(1 << (id % 64));
    }

    pub(crate) fn contains(&self, id: u16) -> bool {
        // An id beyond the table is a hostile peer's.
        id < 512 && self.0[usize::from(id / 64)] & (1 << (id % 64)) != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().zip(0..).flat_map(|(&word, at)| {
            let mut left = word;
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros() as u16;
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit)
            })
        })
    }
}

impl FromIterator<u16> for Ids {
    fn from_iter<I: IntoIterator<Item = u16>>(ids: I) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}
