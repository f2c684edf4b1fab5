//! What the system is asked once.

use crate::primitive::Ordering;
use crate::primitive::private::AtomicU8;

/// The answer to a question that is always answered alike. Threads that come first may ask several times: none of them waits for
/// another one's answer, which would never come in a child that was forked meanwhile.
pub(crate) struct Answer(AtomicU8);

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

impl Answer {
    pub(crate) const fn new() -> Self {
        Self(AtomicU8::new(UNKNOWN))
    }

    /// The answer, by `ask` if it is not known yet.
    pub(crate) fn get(&self, ask: impl FnOnce() -> bool) -> bool {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => {
                let yes = ask();
                self.0.store(if yes { YES } else { NO }, Ordering::Relaxed);
                yes
            }
            known => known == YES,
        }
    }
}
