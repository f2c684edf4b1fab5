//! The SPSC ring whose sender never waits.

use super::*;
use crate::ring::lossy::Lossy;

const WORDS: usize = 2;

struct Bed {
    header: Box<Header>,
    cells: Box<[AtomicU64]>,
}

impl Bed {
    fn ring(&self, capacity: usize) -> Lossy {
        // SAFETY: the boxes outlive the threads of the model, which hold the Arc.
        unsafe { Lossy::new(NonNull::from(&*self.header), NonNull::from(&self.cells[0]), WORDS, capacity as u64) }
    }
}

/// A sender that is faster than the receiver: what is received is whole and in order, and what is not, is counted.
#[test]
fn lossy_messages_are_whole_in_order_and_counted() {
    for (capacity, messages) in [(1, 2), (1, 3), (2, 3)] {
        let seen = Seen::new();
        let add = seen.clone();
        explore(Some(3), move || {
            let cells = (0..capacity * WORDS).map(|_| AtomicU64::new(0)).collect();
            let (bed, log) = (Arc::new(Bed { header: Header::new(), cells }), Log::default());
            let (of_sender, of_receiver, lost) = (Arc::clone(&bed), Arc::clone(&bed), Log::default());
            let (received, gone) = (log.clone(), lost.clone());
            let send = move || {
                let (ring, mut own) = (of_sender.ring(capacity), 0);
                for n in 1..=messages {
                    ring.send(&mut own, &[[n; 8], [n; 8]].concat());
                }
            };
            let receive = move || {
                let (ring, mut own, mut lost) = (of_receiver.ring(capacity), 0, 0);
                for _ in 0..2 {
                    let mut bytes = [0; 8 * WORDS];
                    if ring.receive(&mut own, &mut lost, &mut bytes) {
                        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn: {bytes:?}");
                        received.add(bytes[0].into());
                        gone.add(lost);
                    }
                }
            };
            let seen = add.clone();
            let check = move || {
                let (got, lost) = (log.take(), lost.take());
                for ((n, lost), before) in got.iter().zip(&lost).zip(0..) {
                    assert_eq!(*n, before + lost + 1, "{got:?} {lost:?}");
                }
                seen.add(got);
                drop(bed);
            };
            (vec![Box::new(send), Box::new(receive)], Box::new(check))
        });
        match capacity {
            1 if messages == 2 => seen.must_have([vec![], vec![1], vec![2], vec![1, 2]]),
            1 => seen.must_have([vec![], vec![1], vec![2], vec![3], vec![1, 3], vec![2, 3]]),
            _ => seen.must_have([vec![], vec![1], vec![1, 2], vec![2, 3]]),
        }
    }
}

/// A receiver whose message was lost while it copied goes on with the next one: the ring is full then, and not empty.
#[test]
fn lossy_is_not_empty_while_messages_are_lost() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let cells = (0..2 * WORDS).map(|_| AtomicU64::new(0)).collect();
        let bed = Arc::new(Bed { header: Header::new(), cells });
        let (of_sender, of_receiver, seen) = (Arc::clone(&bed), Arc::clone(&bed), add.clone());
        let send = move || {
            let (ring, mut own) = (of_sender.ring(2), 0);
            for n in 1..=3 {
                ring.send(&mut own, &[n; 8 * WORDS]);
            }
        };
        let receive = move || {
            let (ring, mut own, mut lost) = (of_receiver.ring(2), 0, 0);
            let mut bytes = [0; 8 * WORDS];
            let got = ring.receive(&mut own, &mut lost, &mut bytes);
            assert!(got || lost == 0, "Empty after {lost} were lost");
            seen.add((got, lost));
        };
        (vec![Box::new(send), Box::new(receive)], Box::new(move || drop(bed)))
    });
    seen.must_have([(false, 0), (true, 0), (true, 1)]);
}
