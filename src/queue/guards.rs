//! How many messages an end reads in place.

use crate::primitive::Ordering;
use crate::primitive::private::AtomicU64;
use crate::segment::Token;

/// Messages that one end is reading in place, `token:32 | count:32`. They are the claims of the process that the token names: a fork
/// child has copies of its parent's guards, and no claim.
#[derive(Default)]
pub(super) struct Guards(AtomicU64);

impl Guards {
    /// One more was claimed, under `token`.
    #[inline]
    pub(super) fn raise(&self, token: Token) {
        let (first, mut now) = (u64::from(token.bits()) << 32 | 1, self.0.load(Ordering::Relaxed));
        loop {
            let next = if now >> 32 == first >> 32 { now + 1 } else { first };
            match self.0.compare_exchange_weak(now, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(changed) => now = changed,
            }
        }
    }

    /// One less. To be called before the claim is given up, by the process that made it: an end that sees the slot in another hand
    /// sees the lower count, too.
    #[inline]
    pub(super) fn lower(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are of the process that is `token`.
    pub(super) fn of(&self, token: Token) -> usize {
        let now = self.0.load(Ordering::Relaxed);
        if now >> 32 == u64::from(token.bits()) { now as u32 as usize } else { 0 }
    }
}
