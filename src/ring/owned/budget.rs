//! How far a call may look: whatever a peer writes, it comes to an end, and gives no memory to chunks that have none.

use super::Words;

/// Steps a single claim may take beyond four laps, before it gives up as if the ring were full or empty. Walks of
/// honest peers are far shorter. See [`Budget`].
const SPARE_STEPS: u64 = 1 << 16;

/// How many looks a walk may still take. A ring whose memory comes and goes has slots without end: so there are few for each chunk that
/// the walk comes to, and more only for as many chunks as have memory.
#[derive(Debug)]
pub(crate) struct Budget {
    /// At slots that are in the chunk of the one before.
    pub(super) looks: u64,
    /// At slots that are not.
    borders: u64,
    chunk: u64,
    /// Whether it was asked how many chunks have memory.
    asked: bool,
}

impl Words {
    /// How many looks one walk may take.
    #[inline]
    pub(crate) fn budget(&self) -> Budget {
        match &self.pages {
            None => Budget { looks: 4 * self.capacity() + SPARE_STEPS, borders: 0, chunk: 0, asked: true },
            Some(pages) => Budget {
                looks: SPARE_STEPS.min(4 * pages.len()),
                borders: 4 * pages.chunks() + SPARE_STEPS / 16,
                chunk: 0,
                asked: false,
            },
        }
    }

    /// Takes a look at `position` out of a budget; `false` if that is used up.
    #[inline]
    pub(crate) fn spend(&self, budget: &mut Budget, position: u64) -> bool {
        let left = match &self.pages {
            Some(pages)
                if core::mem::replace(&mut budget.chunk, pages.chunk_of(position)) != pages.chunk_of(position) =>
            {
                &mut budget.borders
            }
            _ => &mut budget.looks,
        };
        match left.checked_sub(1) {
            Some(less) => *left = less,
            None => return self.spend_more(budget, position),
        }
        true
    }

    #[cold]
    fn spend_more(&self, budget: &mut Budget, position: u64) -> bool {
        let Some(pages) = self.pages.as_ref().filter(|_| !budget.asked && budget.looks == 0) else { return false };
        (budget.asked, budget.looks) = (true, 4 * pages.len() * pages.backed());
        self.spend(budget, position)
    }

    /// How many of the `extra` slots of the run behind `position` can be there: those in chunks that have memory. The caller looks.
    #[inline]
    pub(super) fn within(&self, position: u64, extra: u64) -> u64 {
        match &self.pages {
            Some(pages) if extra > 0 => pages.reach(position, extra),
            _ => extra,
        }
    }
}
