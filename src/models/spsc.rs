//! The SPSC ring.

use super::*;

/// Both ends of an SPSC ring of one slot: in order, whole, and the slot reused only after its reader.
#[test]
fn spsc_delivers_in_order() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(None, move || {
        let (memory, seen) = (Memory::spsc(1), add.clone());
        let (of_sender, of_receiver) = (Arc::clone(&memory), Arc::clone(&memory));
        let log = Log::default();
        let got = log.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let (ring, mut position) = (of_sender.ring(), Position::default());
                let mut value = 1;
                for _ in 0..3 {
                    if ring.room(&mut position, 1) > 0 {
                        ring.write(&position, &value);
                        ring.commit(&mut position, 1);
                        value += 1;
                    }
                }
            }),
            Box::new(move || {
                let (ring, mut position) = (of_receiver.ring(), Position::default());
                for _ in 0..3 {
                    if ring.ready(&mut position, 1) > 0 {
                        got.add(ring.read(&position));
                        ring.release(&mut position, 1);
                    }
                }
            }),
        ];
        let check = move || {
            let ring = memory.ring();
            let mut position = ring.receiver_position();
            let mut all = log.take();
            seen.add(all.clone());
            while ring.ready(&mut position, 1) > 0 {
                all.push(ring.read(&position));
                ring.release(&mut position, 1);
            }
            assert!(all.len() <= 3 && all.iter().zip(1..).all(|(&got, sent)| got == sent), "{all:?}");
        };
        (jobs, Box::new(check))
    });
    seen.must_have([vec![], vec![1], vec![1, 2], vec![1, 2, 3]]);
}
