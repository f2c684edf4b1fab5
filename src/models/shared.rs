//! Ends of an MPMC ring that several threads share: what one of them has stored in the cursor, another one relies on.

use super::*;

/// Two threads send through one end, and the second one then looks: its own message is there, or the first one's is.
#[test]
fn shared_sender_never_finds_nothing_after_its_own_send() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, cursor) = (Memory::owned(4), Cursor::default().shared());
        let (of_first, of_second) = ((Arc::clone(&memory), Arc::clone(&cursor)), (Arc::clone(&memory), cursor));
        let seen = add.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || of_first.0.ring().push(&of_first.1, 1, FENCELESS, &1).expect("room")),
            Box::new(move || {
                let ring = of_second.0.ring();
                ring.push(&of_second.1, 1, FENCELESS, &2).expect("room");
                let found = ring.pop(&Cursor::default(), 3);
                assert_ne!(found, Err(Empty { pending: false }), "nobody else receives");
                seen.add(found.ok());
            }),
        ];
        (jobs, Box::new(move || drop(memory)))
    });
    seen.must_have([Some(1), Some(2)]);
}

/// As above, with a clone that is made while the other thread sends.
#[test]
fn shared_sender_is_cloned_with_what_it_knows() {
    explore(Some(3), move || {
        let (memory, cursor) = (Memory::owned(4), Cursor::default().shared());
        let (of_first, of_second) = ((Arc::clone(&memory), Arc::clone(&cursor)), (Arc::clone(&memory), cursor));
        let jobs: Vec<Job> = vec![
            Box::new(move || of_first.0.ring().push(&of_first.1, 1, FENCELESS, &1).expect("room")),
            Box::new(move || {
                let (ring, cursor) = (of_second.0.ring(), (*of_second.1).clone());
                ring.push(&cursor, 1, FENCELESS, &2).expect("room");
                let found = ring.pop(&Cursor::default(), 3);
                assert_ne!(found, Err(Empty { pending: false }), "nobody else receives");
            }),
        ];
        (jobs, Box::new(move || drop(memory)))
    });
}

/// Two threads receive two messages through one end: neither finds nothing while one is there.
#[test]
fn shared_receiver_never_finds_nothing_while_there_is_a_message() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (memory, cursor) = (Memory::owned(4), Cursor::default().shared());
        let sender = Cursor::default();
        let older = memory.ring().claim_free(&sender, 1).unwrap();
        let (of_first, of_second) = ((Arc::clone(&memory), Arc::clone(&cursor)), (memory, cursor));
        let seen = add.clone();
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let ring = of_first.0.ring();
                ring.push(&sender, 1, FENCELESS, &2).unwrap();
                ring.write(&older, &1);
                ring.commit(older);
                assert!(ring.pop(&of_first.1, 2).is_ok(), "there are two for two");
            }),
            Box::new(move || {
                let found = of_second.0.ring().pop(&of_second.1, 2);
                // Before the older one is committed, something is pending.
                assert_ne!(found, Err(Empty { pending: false }));
                seen.add(found.ok());
            }),
        ];
        (jobs, Box::new(|| {}))
    });
    seen.must_have([Some(1), Some(2), None]);
}
