//! What all the rounds found, and what to make of it.

use crate::case::Case;
use crate::measure::Sample;
use crate::team::Failure;

/// One case through all rounds.
pub struct Entry {
    /// Which.
    pub case: Case,
    /// Messages, or repetitions, of each run.
    pub count: u64,
    /// One for each round that is over, if the case came out.
    pub samples: Vec<Option<Sample>>,
    /// Why there are no more of them.
    pub failure: Option<Failure>,
}

/// All cases.
pub struct Results {
    /// In the order of the report.
    pub entries: Vec<Entry>,
}

/// A median and what it was taken from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Of the rounds.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Summary {
    /// Of any number of values but none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let below = if values.len().is_multiple_of(2) { values[middle - 1] } else { values[middle] };
        Some(Self { median: f64::midpoint(below, values[middle]), least, most })
    }
}

impl Entry {
    /// Of one number of its samples.
    pub fn summary(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.samples.iter().flatten().filter_map(of))
    }
}

impl Results {
    /// Nothing yet.
    pub fn new(cases: Vec<Case>) -> Self {
        let entry = |case| Entry { case, count: 0, samples: Vec::new(), failure: None };
        Self { entries: cases.into_iter().map(entry).collect() }
    }

    /// How many rounds there were.
    pub fn rounds(&self) -> usize {
        self.entries.iter().map(|entry| entry.samples.len()).max().unwrap_or(0)
    }

    /// A case's value in one round.
    pub fn value(&self, case: &Case, round: usize) -> Option<f64> {
        let entry = self.entries.iter().find(|entry| entry.case == *case)?;
        entry.samples.get(round)?.as_ref().map(|sample| sample.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Summary::of([3.0, 1.0, 2.0]), Some(Summary { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Summary::of([4.0, 1.0]), Some(Summary { median: 2.5, least: 1.0, most: 4.0 }));
        assert_eq!(Summary::of([]), None);
    }
}
