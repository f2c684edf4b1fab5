//! Messages that pass through an SPSC ring in parts. A cell of the ring stands for a record, its number for the bytes; a place is
//! eight times a position, as if each record took eight bytes.

use super::*;
use crate::ring::transfer::{Record, State, Transfer};

type Ring = Arc<Memory<Payload<u64>>>;

/// How often a sender looks for room, or for what has become of its message, before its time is up.
const LOOKS: usize = 2;

fn place(position: Position) -> u64 {
    position.own() * 8
}

/// What `spsc::Sender` does.
struct Sending {
    memory: Ring,
    position: Position,
}

impl Sending {
    fn new(memory: &Ring) -> Self {
        Self { memory: Arc::clone(memory), position: memory.ring().sender_position() }
    }

    /// Sends one record, unless there is no room.
    fn put(&mut self, record: Record) -> bool {
        let ring = self.memory.ring();
        let room = ring.room(&mut self.position, 1) > 0;
        if room {
            ring.write(&self.position, &record.header());
            ring.commit(&mut self.position, 1);
        }
        room
    }

    /// Begins with a message and puts its first `count` parts; what has become of it by then, if its time is not up.
    fn put_parts(&mut self, parts: &[u64], count: usize) -> Option<State> {
        let other = Arc::clone(&self.memory);
        let (transfer, start) = (Transfer::of(&other.header), place(self.position));
        transfer.begin(start);
        for (n, &part) in parts.iter().enumerate().take(count) {
            let record = if n == 0 { Record::First(part) } else { Record::More(part) };
            let put = (0..LOOKS).find_map(|_| match transfer.state(start) {
                State::Open if self.put(record) => Some(State::Open),
                State::Open => {
                    thread::yield_now();
                    None
                }
                decided => Some(decided),
            })?;
            if put != State::Open {
                return Some(put);
            }
        }
        (0..LOOKS).find_map(|_| match transfer.state(start) {
            State::Open => {
                thread::yield_now();
                None
            }
            decided => Some(decided),
        })
    }

    /// Sends a message in parts, twice at most; `false`: its time was up.
    fn send(&mut self, parts: &[u64]) -> bool {
        for _ in 0..2 {
            let start = place(self.position);
            match self.put_parts(parts, parts.len()) {
                Some(State::Accepted) => return true,
                None => return !Transfer::of(&self.memory.header).revoke(start),
                Some(_) => {}
            }
        }
        false
    }
}

/// What `spsc::Receiver` does.
struct Receiving {
    memory: Ring,
    position: Position,
    /// Where the message in hand begins, and its parts.
    partial: Option<(u64, Vec<u64>)>,
    /// Its length.
    parts: usize,
    /// Steps to go before it dies.
    life: usize,
}

impl Receiving {
    fn new(memory: &Ring, parts: usize) -> Self {
        let position = memory.ring().receiver_position();
        Transfer::of(&memory.header).succeed_receiver(place(position));
        Self { memory: Arc::clone(memory), position, partial: None, parts, life: usize::MAX }
    }

    fn lives(&mut self) -> Option<()> {
        self.life = self.life.checked_sub(1)?;
        Some(())
    }

    /// Takes one record, if one is there, and adds what is received to `log`; `None`: it has died.
    fn take(&mut self, log: &Log) -> Option<()> {
        let (memory, place) = (Arc::clone(&self.memory), place(self.position));
        let (ring, transfer) = (memory.ring(), Transfer::of(&memory.header));
        if ring.ready(&mut self.position, 1) == 0 {
            thread::yield_now();
            return Some(());
        }
        let record = Record::of(ring.read(&self.position));
        let mut received = vec![];
        match record {
            Record::Whole(number) => {
                self.partial = None;
                received = vec![number];
            }
            Record::First(_) => self.partial = Some((place, vec![])),
            Record::More(_) => {}
        }
        if let Some((start, mut numbers)) = self.partial.take() {
            numbers.push(record.bytes());
            if numbers.len() < self.parts {
                self.partial = Some((start, numbers));
            } else if self.lives().is_some() && transfer.accept(start) {
                // Received, whatever comes then.
                numbers.iter().for_each(|&number| log.add(number));
            }
        }
        self.lives()?;
        ring.release(&mut self.position, 1);
        // A message in the ring is received when it is given back.
        received.iter().for_each(|&number| log.add(number));
        Some(())
    }

    /// Takes all that is there, when nobody sends.
    fn drain(&mut self, log: &Log) {
        while self.memory.ring().len() > 0 {
            self.take(log).expect("it lives");
        }
    }
}

/// Each message that was sent arrives once, in order; of one that was not, no part.
fn account(sent: &[(bool, &[u64])], log: &Log) {
    let expected: Vec<u64> =
        sent.iter().filter(|(sent, _)| *sent).flat_map(|(_, parts)| parts.iter().copied()).collect();
    assert_eq!(log.take(), expected);
}

/// Messages in parts, whose sender's time may be up at any moment, and one that fits: each as a whole or not at all, as the sender
/// is told, however often it gives up before the receiver looks.
#[test]
fn transfer_is_whole_or_not_at_all_when_time_is_up() {
    const MESSAGES: [&[u64]; 2] = [&[1, 2], &[3, 4]];
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (memory, log, seen) = (Memory::spsc(4), Log::default(), add.clone());
        let (mut sending, receiving) = (Sending::new(&memory), Arc::new(Mutex::new(Receiving::new(&memory, 2))));
        let (taker, got) = (Arc::clone(&receiving), log.clone());
        let sent = Arc::new(Mutex::new(vec![]));
        let told = Arc::clone(&sent);
        let jobs: Vec<Job> = vec![
            Box::new(move || {
                let first = sending.send(MESSAGES[0]);
                let between = sending.put(Record::Whole(9));
                let second = sending.send(MESSAGES[1]);
                *told.lock().unwrap() = vec![first, between, second];
            }),
            Box::new(move || {
                let mut receiving = taker.lock().unwrap();
                (0..5).for_each(|_| receiving.take(&got).expect("it lives"));
            }),
        ];
        let check = move || {
            receiving.lock().unwrap().drain(&log);
            let sent = sent.lock().unwrap();
            account(&[(sent[0], MESSAGES[0]), (sent[1], &[9]), (sent[2], MESSAGES[1])], &log);
            seen.add(sent.clone());
        };
        (jobs, Box::new(check))
    });
    seen.must_have([true, false].map(|first| [true, false].map(|second| vec![first, true, second])).concat());
}

/// A sender dies after any number of parts, and another one takes its seat: all of the first message arrives, or nothing of it; all of
/// what the successor sends.
#[test]
fn transfer_of_a_dead_sender_is_whole_or_nothing() {
    for count in 0..=3 {
        let seen = Seen::new();
        let add = seen.clone();
        explore(Some(2), move || {
            let (memory, log, seen) = (Memory::spsc(2), Log::default(), add.clone());
            let (mut sending, receiving) = (Sending::new(&memory), Arc::new(Mutex::new(Receiving::new(&memory, 3))));
            let (taker, got, other) = (Arc::clone(&receiving), log.clone(), Arc::clone(&memory));
            let sent = Arc::new(Mutex::new((false, false)));
            let told = Arc::clone(&sent);
            let jobs: Vec<Job> = vec![
                Box::new(move || {
                    let accepted = sending.put_parts(&[1, 2, 3], count) == Some(State::Accepted);
                    let mut successor = Sending::new(&other);
                    *told.lock().unwrap() = (accepted, successor.put(Record::Whole(9)));
                }),
                Box::new(move || {
                    let mut receiving = taker.lock().unwrap();
                    (0..4).for_each(|_| receiving.take(&got).expect("it lives"));
                }),
            ];
            let check = move || {
                receiving.lock().unwrap().drain(&log);
                let ((accepted, between), got) = (*sent.lock().unwrap(), log.take());
                let (first, rest) = got.split_at(if got.first() == Some(&1) { 3 } else { 0 });
                assert!(first.is_empty() && !accepted || first == [1, 2, 3], "{got:?}");
                assert_eq!(rest, if between { &[9][..] } else { &[] });
                seen.add(first.len());
            };
            (jobs, Box::new(check))
        });
        seen.must_have(if count == 3 { vec![0, 3] } else { vec![0] });
    }
}

/// A receiver dies after any number of steps, and another one takes its seat: what was sent arrives once, whole, and what was not
/// does not. The message is sent once more if its first receiver had not all of it.
#[test]
fn transfer_to_a_dead_receiver_goes_to_its_successor() {
    let resent = Seen::new();
    for life in 0..=6 {
        let seen = Seen::new();
        let (add, again) = (seen.clone(), resent.clone());
        explore(Some(2), move || {
            let (memory, log, seen, again) = (Memory::spsc(2), Log::default(), add.clone(), again.clone());
            let (mut sending, mut first) = (Sending::new(&memory), Receiving::new(&memory, 2));
            first.life = life;
            let last = Arc::new(Mutex::new(None));
            let (of_last, got, other) = (Arc::clone(&last), log.clone(), Arc::clone(&memory));
            let sent = Arc::new(Mutex::new((false, false)));
            let told = Arc::clone(&sent);
            let jobs: Vec<Job> = vec![
                Box::new(move || {
                    let first = sending.send(&[1, 2]);
                    *told.lock().unwrap() = (first, sending.put(Record::Whole(9)));
                    again.add((first, sending.position.own() > 3));
                }),
                Box::new(move || {
                    let _ = (0..3).try_for_each(|_| first.take(&got).ok_or(()));
                    let mut successor = Receiving::new(&other, 2);
                    (0..3).for_each(|_| successor.take(&got).expect("it lives"));
                    *of_last.lock().unwrap() = Some(successor);
                }),
            ];
            let check = move || {
                last.lock().unwrap().take().expect("it sits").drain(&log);
                let (first, between) = *sent.lock().unwrap();
                account(&[(first, &[1, 2]), (between, &[9])], &log);
                seen.add(first);
            };
            (jobs, Box::new(check))
        });
        seen.must_have([false, true]);
    }
    resent.must_have([(true, true), (true, false)]);
}
