//! The SPSC ring against a plain queue, step by step, with ends that are taken over at any point; and positions that only
//! a hostile peer stores.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::primitive::AtomicU64;

const CANARY: u64 = 0x6361_6e61_7279_2121;
/// Words before and behind the slots that nothing may touch.
const GUARD: usize = 64;

/// A ring of `u64` whose slots lie between canaries.
struct Bed {
    header: Box<Header>,
    memory: Box<[AtomicU64]>,
    capacity: usize,
    ring: Spsc<u64>,
}

impl Bed {
    /// An empty ring in which `sent` messages have gone by.
    fn after(capacity: usize, sent: u64) -> Self {
        let memory: Box<[AtomicU64]> = (0..capacity + 2 * GUARD).map(|_| AtomicU64::new(CANARY)).collect();
        let header = Header::new();
        header.head.store(sent, Ordering::Relaxed);
        header.tail.store(sent, Ordering::Relaxed);
        let first = NonNull::from(&*memory).cast::<u64>();
        // SAFETY: the guard in front is part of the memory.
        let first = unsafe { first.add(GUARD) };
        // SAFETY: header and slots live as long as the bed, whose fields are not replaced; any bits are a `u64`.
        let ring = unsafe { Spsc::new(NonNull::from(&*header), first.cast(), capacity as u64) };
        Self { header, memory, capacity, ring }
    }

    fn assert_nothing_outside_was_touched(&self) {
        let guards = self.memory[..GUARD].iter().chain(&self.memory[GUARD + self.capacity..]);
        assert!(guards.into_iter().all(|word| word.load(Ordering::Relaxed) == CANARY));
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Writes messages beyond the last commit.
    Write(u64),
    Commit,
    /// Reads messages beyond the last release.
    Read(u64),
    Release,
    /// The end is left where it is and somebody else takes it.
    NewSender,
    NewReceiver,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..20_u64).prop_map(Op::Write),
        4 => Just(Op::Commit),
        4 => (0..20_u64).prop_map(Op::Read),
        4 => Just(Op::Release),
        1 => Just(Op::NewSender),
        1 => Just(Op::NewReceiver),
    ];
    vec(op, 0..300)
}

fn run(capacity: usize, sent_before: u64, ops: &[Op]) {
    let bed = Bed::after(capacity, sent_before);
    let (mut sender, mut receiver) = (bed.ring.sender_position(), bed.ring.receiver_position());
    // What is committed and not released; what is written or read beyond that.
    let mut model: VecDeque<u64> = VecDeque::new();
    let mut written: Vec<u64> = Vec::new();
    let mut read = 0;
    let mut message = 0;
    for op in ops {
        match *op {
            Op::Write(most) => {
                let room = bed.ring.room(&mut sender, 1);
                // The copy of the other end's position may lag, but never says full when it is not.
                assert!(room <= (capacity - model.len()) as u64);
                assert_eq!(room == 0, model.len() == capacity);
                for _ in 0..most.min(room.saturating_sub(written.len() as u64)) {
                    message += 1;
                    written.push(message);
                }
                match written[..] {
                    [message] => bed.ring.write(&sender, &message),
                    _ => bed.ring.write_many(&sender, &written),
                }
            }
            Op::Commit => {
                bed.ring.commit(&mut sender, written.len() as u64);
                model.extend(written.drain(..));
            }
            Op::Read(most) => {
                let ready = bed.ring.ready(&mut receiver, 1);
                assert!(ready <= model.len() as u64);
                assert_eq!(ready == 0, model.is_empty());
                read += most.min(ready.saturating_sub(read));
                let mut buffer = vec![7];
                bed.ring.read_many(&receiver, read, &mut buffer);
                assert!(buffer.iter().eq([7].iter().chain(model.range(..read as usize))));
                if read > 0 {
                    assert_eq!(bed.ring.read(&receiver), model[0]);
                }
            }
            Op::Release => {
                bed.ring.release(&mut receiver, read);
                model.drain(..read as usize);
                read = 0;
            }
            // What was not committed was never sent; what was not released is received again.
            Op::NewSender => {
                written.clear();
                sender = bed.ring.sender_position();
                assert_eq!(bed.ring.room(&mut sender, 1), (capacity - model.len()) as u64);
            }
            Op::NewReceiver => {
                read = 0;
                receiver = bed.ring.receiver_position();
                assert_eq!(bed.ring.ready(&mut receiver, 1), model.len() as u64);
            }
        }
        assert_eq!(bed.ring.len(), model.len() as u64);
    }
    bed.assert_nothing_outside_was_touched();
}

/// Messages that have gone by: few, or so many that the count is about to start anew.
fn sent() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), (u64::MAX - 40)..=u64::MAX, any::<u64>()]
}

fn quiet(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(quiet(300))]

    #[test]
    fn steps_agree_with_a_plain_queue(shift in 0..5_u32, sent in sent(), ops in ops()) {
        run(1 << shift, sent, &ops);
    }

    /// Whatever the other end stores, no more than the capacity is ready or free, and no access leaves the slots.
    #[test]
    fn arbitrary_positions_give_no_more_than_the_capacity(
        shift in 0..5_u32,
        stores in vec((any::<bool>(), prop_oneof![0..40_u64, any::<u64>()]), 1..30),
        sent in sent(),
    ) {
        let capacity = 1 << shift;
        let bed = Bed::after(capacity, sent);
        let (mut sender, mut receiver) = (bed.ring.sender_position(), bed.ring.receiver_position());
        for (is_head, position) in stores {
            let hostile = if is_head { &bed.header.head } else { &bed.header.tail };
            hostile.store(sent.wrapping_add(position), Ordering::Relaxed);
            if position % 3 == 0 {
                (sender, receiver) = (bed.ring.sender_position(), bed.ring.receiver_position());
            }
            let room = bed.ring.room(&mut sender, 1);
            prop_assert!(room <= capacity as u64);
            bed.ring.write_many(&sender, &vec![1; room as usize]);
            bed.ring.commit(&mut sender, room);
            let ready = bed.ring.ready(&mut receiver, 1);
            prop_assert!(ready <= capacity as u64);
            bed.ring.read_many(&receiver, ready, &mut Vec::new());
            bed.ring.release(&mut receiver, ready);
            prop_assert!(bed.ring.len() <= capacity as u64);
        }
        bed.assert_nothing_outside_was_touched();
    }
}

/// A sender that lied once and then told the truth is understood again.
#[test]
fn an_impossible_tail_reads_as_nothing_until_it_is_possible_again() {
    let bed = Bed::after(4, 10);
    let mut receiver = bed.ring.receiver_position();
    bed.header.tail.store(1000, Ordering::Relaxed);
    assert_eq!(bed.ring.ready(&mut receiver, 1), 0);
    bed.header.tail.store(9, Ordering::Relaxed);
    assert_eq!(bed.ring.ready(&mut receiver, 1), 0);
    bed.header.tail.store(12, Ordering::Relaxed);
    assert_eq!(bed.ring.ready(&mut receiver, 1), 2);
}

#[test]
fn a_message_of_any_size_stays_in_its_slot() {
    fn check<T: Copy + PartialEq + core::fmt::Debug>(capacity: usize, messages: [T; 3]) {
        let bytes = capacity * size_of::<T>();
        let memory: Box<[AtomicU64]> = (0..bytes.div_ceil(8) + 2 * GUARD).map(|_| AtomicU64::new(CANARY)).collect();
        let header = Header::new();
        let first = NonNull::from(&*memory).cast::<u64>();
        // SAFETY: the guard in front is part of the memory.
        let first = unsafe { first.add(GUARD) };
        // SAFETY: header and slots outlive the ring; the types below are plain bytes aligned to at most 8.
        let ring: Spsc<T> = unsafe { Spsc::new(NonNull::from(&*header), first.cast(), capacity as u64) };
        let (mut sender, mut receiver) = (ring.sender_position(), ring.receiver_position());
        for message in messages.into_iter().cycle().take(4 * capacity) {
            assert!(ring.room(&mut sender, 1) > 0);
            ring.write(&sender, &message);
            ring.commit(&mut sender, 1);
            assert_eq!(ring.ready(&mut receiver, 1), 1);
            assert_eq!(ring.read(&receiver), message);
            ring.release(&mut receiver, 1);
        }
        let guards = memory[..GUARD].iter().chain(&memory[GUARD + bytes.div_ceil(8)..]);
        assert!(guards.into_iter().all(|word| word.load(Ordering::Relaxed) == CANARY));
    }
    check::<u8>(8, [1, 2, 3]);
    check::<[u8; 7]>(2, [[1; 7], [2; 7], [3; 7]]);
    check::<[u64; 9]>(4, [[1; 9], [2; 9], [u64::MAX; 9]]);
    check::<[u64; 100]>(1, [[1; 100], [2; 100], [u64::MAX; 100]]);
}
