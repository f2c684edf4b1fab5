//! [`Pace`]: how an end waits, learned from how its messages have come.
//!
//! # Spinning or sleeping
//!
//! To sleep and be woken costs both sides some ten microseconds. Whoever waits for less should spin, whoever waits for longer
//! should not. So a wait spins for about twice as long as the last waits took, if that is worth it, and for [`SHORTEST`] if not.
//! After the first microseconds it lets others run in between: the one it waits for may need this processor.
//!
//! That does not help a thread with a real-time policy, which yields to its equals only: if its peer needs the same processor, the
//! peer runs only while the thread sleeps, and every spin is in vain. No question to the scheduler tells where the peer runs: threads
//! that are pinned to a processor each, with any policy, gain most from spinning. So the end learns it from what happens. What comes
//! soon after a spin in vain has waited for its end, perhaps; then the next wait does not spin, and each further such spin leaves out
//! twice as many, up to [`MOST_DOUBT`]. Only a wait without a spin in vain tells how long waits take: the time of such a spin would
//! make the next one longer, which would be in vain for longer.
//!
//! # Not staring
//!
//! Each look at what the other side writes takes a cache line from it in mid-write, and where both ends work on neighbouring
//! lines, what the processors fetch ahead is in each other's way. A stream is then two to four times slower than it could be. So
//! an end that may wait and has used up what it knew of rests before it looks again, long enough to find a batch of [`ENOUGH`].
//!
//! In a dialogue, or where messages are far between, that is no use: what can be had is there at once. So a rest after which
//! there was hardly anything is followed by ever fewer rests, until they are one in a thousand.

use crate::primitive::Ordering;
use crate::primitive::private::{AtomicU32, AtomicU64};
use crate::primitive::spin_loop;

/// Nanoseconds that every wait spins before it sleeps.
const SHORTEST: u64 = 4_000;
/// Nanoseconds beyond which a wait should rather have slept.
const LONGEST: u64 = 50_000;
/// How many waits go without a spin after one in vain, at most.
const MOST_DOUBT: u32 = 256;
/// A batch that keeps the ends off each other's lines, in rings that hold more than twice as many. A rest is at most as many
/// pauses of the processor, 25 to 50 ns each.
const ENOUGH: u64 = 64;
/// The part of that which a rest takes at first.
const AT_FIRST: u64 = 3;
/// A batch so short that the rest was not worth it, and how many pauses a message may have taken at most.
const HARDLY: u64 = 4;
const FAR_BETWEEN: u64 = 6;
/// How many rests are left out after one that was not worth it, at first and at most.
const LEFT_OUT: core::ops::RangeInclusive<u32> = 8..=1024;

/// What one end has learned. Private to this process; threads that share an end share it, too, which may make it learn less.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Nanoseconds that a wait spins.
    spin: AtomicU64,
    /// Waits that are to sleep at once.
    unspun: AtomicU32,
    /// How many these will be after the next spin in vain.
    doubt: AtomicU32,
    /// The end's position when it last had nothing left.
    before: AtomicU64,
    /// Pauses of the rest that it made then; 0 if it did not.
    rested: AtomicU64,
    /// Rests to leave out.
    skip: AtomicU32,
    /// How many are left out after the next one that is not worth it.
    penalty: AtomicU32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            spin: SHORTEST.into(),
            unspun: AtomicU32::new(0),
            doubt: AtomicU32::new(1),
            before: AtomicU64::new(0),
            rested: AtomicU64::new(0),
            skip: AtomicU32::new(0),
            penalty: (*LEFT_OUT.start()).into(),
        }
    }
}

impl Pace {
    /// Called before an end of a ring of `capacity` that may wait looks for more, when it has used up what it knew of and stands
    /// at `position`.
    #[cold]
    pub(crate) fn rest(&self, position: u64, capacity: u64) {
        (0..self.pauses(position, capacity)).for_each(|_| spin_loop());
    }

    /// How long the rest should be.
    fn pauses(&self, position: u64, capacity: u64) -> u64 {
        let batch = position.wrapping_sub(self.before.load(Ordering::Relaxed));
        self.before.store(position, Ordering::Relaxed);
        let enough = ENOUGH.min(capacity / 2);
        if batch == 0 || enough < HARDLY {
            return 0;
        }
        let at_first = enough / AT_FIRST;
        let pauses = match self.rested.load(Ordering::Relaxed) {
            0 if batch >= enough => return 0,
            0 => match self.skip.load(Ordering::Relaxed) {
                0 => at_first,
                skip => {
                    self.skip.store(skip - 1, Ordering::Relaxed);
                    return 0;
                }
            },
            pauses if batch < HARDLY || batch < pauses.div_ceil(FAR_BETWEEN) => {
                let penalty = self.penalty.load(Ordering::Relaxed);
                self.skip.store(penalty, Ordering::Relaxed);
                self.penalty.store((2 * penalty).min(*LEFT_OUT.end()), Ordering::Relaxed);
                self.rested.store(0, Ordering::Relaxed);
                return 0;
            }
            pauses => {
                self.penalty.store(*LEFT_OUT.start(), Ordering::Relaxed);
                let step = (pauses / 8).max(1);
                let wanted = match batch {
                    short if short < enough => pauses + step,
                    long if long >= 2 * enough => pauses - step,
                    _ => pauses,
                };
                wanted.clamp(at_first, enough)
            }
        };
        self.rested.store(pauses, Ordering::Relaxed);
        pauses
    }

    /// Nanoseconds that the wait that begins now should spin; `None`: it should sleep at once.
    pub(crate) fn spin(&self) -> Option<u64> {
        match self.unspun.load(Ordering::Relaxed) {
            0 => Some(self.spin.load(Ordering::Relaxed)),
            unspun => {
                self.unspun.store(unspun - 1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Learns from a wait of so many nanoseconds that ended while it spun.
    pub(crate) fn came(&self, waited: u64) {
        if self.doubt.load(Ordering::Relaxed) != 1 {
            self.doubt.store(1, Ordering::Relaxed);
        }
        self.approach(if waited > LONGEST { SHORTEST } else { 2 * waited });
    }

    /// Learns from a wait that slept for so many nanoseconds, after a spin in vain or without one.
    pub(crate) fn slept(&self, slept: u64, spun: bool) {
        let soon = slept <= LONGEST;
        if !spun {
            return self.approach(if soon { 2 * slept } else { SHORTEST });
        }
        let doubt = self.doubt.load(Ordering::Relaxed);
        self.unspun.store(doubt, Ordering::Relaxed);
        if soon {
            self.doubt.store((2 * doubt).min(MOST_DOUBT), Ordering::Relaxed);
        }
        self.approach(SHORTEST);
    }

    /// Spins from now on for about as long as before, and a little more like `wanted`.
    fn approach(&self, wanted: u64) {
        let now = self.spin.load(Ordering::Relaxed);
        self.spin.store(now - now / 4 + wanted.clamp(SHORTEST, LONGEST) / 4, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CAPACITY: u64 = 1024;

    /// The rests of an end that finds these batches one after the other.
    fn rests(pace: &Pace, capacity: u64, batches: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut position = pace.before.load(Ordering::Relaxed);
        let rest = |batch| {
            position += batch;
            pace.pauses(position, capacity)
        };
        batches.into_iter().map(rest).collect()
    }

    #[test]
    fn a_dialogue_is_hardly_ever_disturbed() {
        for batch in 1..HARDLY {
            let rests = rests(&Pace::default(), CAPACITY, vec![batch; 100_000]);
            let taken = rests.iter().filter(|&&pauses| pauses > 0).count();
            assert!(taken < 120, "{taken} rests between 100,000 messages");
        }
    }

    #[test]
    fn a_stream_rests_each_time_and_longer_while_its_batches_are_short() {
        let pace = Pace::default();
        let stream = rests(&pace, CAPACITY, [20; 30]);
        assert!(stream.iter().all(|&pauses| pauses > 0) && stream.is_sorted(), "{stream:?}");
        assert_eq!(stream.last(), Some(&ENOUGH));
        let long = rests(&pace, CAPACITY, [3 * ENOUGH; 30]);
        assert!(long.iter().rev().is_sorted() && long[29] < ENOUGH, "{long:?}");
    }

    #[test]
    fn batches_that_are_long_by_themselves_need_no_rest() {
        assert_eq!(rests(&Pace::default(), CAPACITY, [ENOUGH; 10]), [0; 10]);
    }

    #[test]
    fn a_stream_after_a_dialogue_is_noticed() {
        let pace = Pace::default();
        rests(&pace, CAPACITY, [1; 10_000]);
        let stream = rests(&pace, CAPACITY, [20; 2 * *LEFT_OUT.end() as usize]);
        assert!(stream.iter().rev().take(100).all(|&pauses| pauses > 0));
    }

    #[test]
    fn an_end_that_has_found_nothing_looks_again_at_once() {
        assert_eq!(
            rests(&Pace::default(), CAPACITY, [20, 0, 0, 20, 0]).iter().filter(|&&pauses| pauses > 0).count(),
            2
        );
    }

    #[test]
    fn whatever_positions_a_hostile_ring_leads_to_are_rested_at() {
        let pace = Pace::default();
        for position in [20, u64::MAX, 0, 1 << 63, 7, u64::MAX - 5].into_iter().cycle().take(100) {
            assert!(pace.pauses(position, CAPACITY) <= ENOUGH);
        }
    }

    #[test]
    fn no_rest_is_longer_than_a_small_ring_lasts() {
        for shift in 0..12 {
            let capacity = 1 << shift;
            let rests = rests(&Pace::default(), capacity, vec![(capacity / 2).clamp(1, 20); 1000]);
            assert!(rests.iter().all(|&pauses| pauses <= capacity / 2), "{capacity}: {rests:?}");
        }
    }

    /// One wait for what comes `alone` nanoseconds after it began, or `asleep` nanoseconds after it went to sleep: how long it spun, and
    /// whether that was in vain.
    fn wait(pace: &Pace, alone: u64, asleep: u64) -> (u64, bool) {
        match pace.spin() {
            Some(spin) if alone <= spin => {
                pace.came(alone);
                (alone, false)
            }
            Some(spin) => {
                pace.slept(asleep.min(alone - spin), true);
                (spin, true)
            }
            None => {
                pace.slept(asleep.min(alone), false);
                (0, false)
            }
        }
    }

    const NEVER: u64 = u64::MAX;

    #[test]
    fn one_whose_peer_runs_only_while_it_sleeps_hardly_ever_spins() {
        for asleep in [1_000, 3_000, 10_000, 30_000, LONGEST] {
            let pace = Pace::default();
            let spun = (0..10_000).map(|_| wait(&pace, NEVER, asleep).0).sum::<u64>() / 10_000;
            assert!(
                spun < asleep / 10 + 200,
                "{spun} ns a wait spun in vain, for what comes within {asleep} ns of sleep"
            );
        }
    }

    #[test]
    fn a_spin_in_vain_makes_the_next_one_shorter() {
        let pace = Pace::default();
        (0..30).for_each(|_| pace.came(LONGEST));
        let spins: Vec<_> = (0..200).filter_map(|_| pace.spin().inspect(|_| pace.slept(1_000_000, true))).collect();
        assert!(spins[0] > LONGEST / 2 && spins.iter().rev().is_sorted(), "{spins:?}");
        assert!(*spins.last().unwrap() < SHORTEST + 1000, "{spins:?}");
    }

    #[test]
    fn one_whose_peer_runs_beside_it_spins_for_as_long_as_waits_take() {
        for alone in [500, 3_000, 10_000, 20_000] {
            let pace = Pace::default();
            // Also after it has had reasons for doubt.
            for before in [0, 1000] {
                (0..before).for_each(|_| _ = wait(&pace, NEVER, 3_000));
                (0..3 * MOST_DOUBT).for_each(|_| _ = wait(&pace, alone, NEVER));
                let spun: Vec<_> = (0..1000).map(|_| wait(&pace, alone, NEVER)).collect();
                assert!(spun.iter().all(|&spun| spun == (alone, false)), "{alone}: {pace:?}");
            }
        }
    }

    #[test]
    fn what_comes_rarely_is_not_spun_for_and_gives_no_reason_for_doubt() {
        let pace = Pace::default();
        for _ in 0..1000 {
            assert!(wait(&pace, 20 * LONGEST, NEVER).0 < SHORTEST + 1000);
        }
        assert_eq!(pace.doubt.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_wait_spins_for_what_waits_have_taken_if_that_is_short() {
        let pace = Pace::default();
        (0..30).for_each(|_| pace.came(15_000));
        assert!(pace.spin().unwrap() >= 28_000, "{pace:?}");
        (0..30).for_each(|_| pace.came(10 * LONGEST));
        assert!(pace.spin().unwrap() < SHORTEST + 1000, "{pace:?}");
    }
}
