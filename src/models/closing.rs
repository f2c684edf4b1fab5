//! Closed rings.

use super::*;

/// A send against a close against a receiver that wants to know whether it is over: a send that returned is received
/// before Closed, whoever closes.
#[test]
fn close_comes_after_every_send_that_returned() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, seen) = (Memory::owned(2), add.clone());
        let outcome = Arc::new(Mutex::new((None, None)));
        let (of_sender, of_closer, of_receiver) = (Arc::clone(&memory), Arc::clone(&memory), Arc::clone(&memory));
        let (sent, received) = (Arc::clone(&outcome), Arc::clone(&outcome));
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let result = of_sender.ring().push(&Cursor::default(), 1, MODE, &5);
                sent.lock().unwrap().0 = Some(result.is_ok());
            }),
            Box::new(move || of_closer.header.control.close(MODE)),
            Box::new(move || {
                let (ring, cursor) = (of_receiver.ring(), Cursor::default());
                let control = &of_receiver.header.control;
                let verdict = if control.is_closed(MODE) {
                    match ring.pop(&cursor, 2) {
                        Ok(_) => "message",
                        Err(Empty { pending: true }) => "not yet",
                        Err(Empty { pending: false }) => "closed",
                    }
                } else {
                    "open"
                };
                received.lock().unwrap().1 = Some(verdict);
            }),
        ];
        let check = move || {
            let (sent, verdict) = *outcome.lock().unwrap();
            let (sent, verdict) = (sent.unwrap(), verdict.unwrap());
            assert!(!(sent && verdict == "closed"), "Closed was said and then a message arrived");
            if !sent {
                assert!(drain(&memory).is_empty());
            }
            seen.add((sent, verdict));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(true, "message"), (true, "open"), (false, "closed"), (true, "not yet")]);
}

/// A closed ring has ended for a receiver only when what another one is reading is settled; whoever waits for that is told.
#[test]
fn close_waits_for_what_may_come_back() {
    for gives_back in [false, true] {
        let seen = Seen::new();
        let outcomes = seen.clone();
        explore(Some(3), move || {
            let memory = Memory::<Slot<u64>>::owned(1);
            let header = memory.ring();
            header.push(&Cursor::default(), 1, MODE, &7).unwrap();
            memory.header.control.close(MODE);
            let (of_reader, of_waiter, got) = (memory.clone(), memory.clone(), Log::default());
            let (by_reader, by_waiter, outcomes) = (got.clone(), got.clone(), outcomes.clone());
            let jobs: Vec<Job> = vec![
                Box::new(move || {
                    let (ring, events) = (of_reader.ring(), &of_reader.header);
                    let Ok(claim) = ring.claim_full(&Cursor::default(), 2) else { return };
                    if gives_back {
                        ring.give_back(claim);
                        events.not_empty.notify(1, MODE, || {});
                    } else {
                        by_reader.add(ring.take(claim));
                        events.not_full.notify(1, MODE, || {});
                        if events.control.is_closing() {
                            events.not_empty.notify(ALL, MODE, || {});
                        }
                    }
                }),
                Box::new(move || {
                    let (ring, cursor) = (of_waiter.ring(), Cursor::default());
                    let attempt = || match ring.claim_full(&cursor, 3) {
                        Ok(claim) => ControlFlow::Break(Some(ring.take(claim))),
                        Err(_) if ring.is_unsettled(3, || 0) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(None),
                    };
                    let result =
                        of_waiter.header.not_empty.wait(&Still, &Pace::default(), None, attempt).expect("no deadline");
                    result.iter().for_each(|&value| by_waiter.add(value));
                    outcomes.add(result);
                }),
            ];
            (jobs, Box::new(move || assert_eq!(got.take(), [7])))
        });
        seen.must_have(if gives_back { vec![Some(7)] } else { vec![Some(7), None] });
    }
}

/// A closer stops between both steps. Whoever ends the closing for it finds what it had sent before.
#[test]
fn close_shows_what_its_closer_had_sent() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(None, move || {
        let (memory, seen) = (Memory::spsc(1), add.clone());
        let (of_sender, of_receiver) = (Arc::clone(&memory), Arc::clone(&memory));
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let (ring, mut position) = (of_sender.ring(), Position::default());
                ring.write(&position, &5);
                ring.commit(&mut position, 1);
                of_sender.header.control.begin_closing();
            }),
            Box::new(move || {
                let (ring, mut position) = (of_receiver.ring(), Position::default());
                let closed = of_receiver.header.control.is_closed(MODE);
                let ready = ring.ready(&mut position, 1) > 0;
                assert!(ready || !closed, "closed, and the message that was sent before is not there");
                seen.add((closed, ready));
            }),
        ];
        (jobs, Box::new(move || drop(memory)))
    });
    seen.must_have([(false, false), (false, true), (true, true)]);
}
