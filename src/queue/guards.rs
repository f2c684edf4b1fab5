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
        // The token only changes from another process's to ours.
        if (self.0.load(Ordering::Relaxed) >> 32) as u32 == token.bits() {
            self.0.fetch_add(1, Ordering::Relaxed);
        } else {
            self.begin(token);
        }
    }

    #[cold]
    fn begin(&self, token: Token) {
        let begun = u64::from(token.bits()) << 32;
        let others = |now: u64| (now >> 32 != begun >> 32).then_some(begun);
        // In vain if another thread has begun meanwhile.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, others);
        self.0.fetch_add(1, Ordering::Relaxed);
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
