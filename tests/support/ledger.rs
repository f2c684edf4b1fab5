//! An exact account of every message, kept in shared pages that survive the death of whoever writes them.
//!
//! A *sender* numbers its messages 1, 2, 3 … and goes on where it stopped when it is killed and started again. It writes
//! the number that it is about to send (of a batch: the last one), calls, and writes the number whose send has returned.
//! A *receiver* writes how many messages it is about to receive at most, calls, and writes what it got into a log, one
//! store for each message. The parent reads the logs while all this goes on. All of it is plain stores around the call.
//!
//! # The rule
//!
//! *Nothing out of nowhere*: a message that was received is one whose send had begun, and it is whole. *Nothing twice*.
//!
//! *All or nothing*: a message whose sender was killed in the middle of the call was received or was not. If not, nothing
//! that came after it in the same batch was received either. If the sender's slot was still being written, it was not.
//!
//! *Nothing lost*: every other message was received. A message may be missing for one reason only: a receiver was killed
//! after the queue had given the message away and before the log had it. Nobody can tell from outside whether that has
//! happened, so each receive that a kill hit may *excuse* as many missing messages as it could have taken, and
//! only those that it could have taken: their sends had begun when it was dead, and they come after everything that
//! this receiver had got from that sender. If the receiver was looked at before it was killed and slots were still
//! being read, these messages had not been given away: they are due again, and there is nothing to excuse.
//!
//! *Order*: the messages of one sender reach each receiver in order, its incarnations taken together. A message that was
//! taken by a receiver that was killed, and came back, may be late. Which those are is known if the dead one was looked
//! at; else each needs an excuse, as a missing one does. In SPSC rings nothing comes back, so nothing may be late.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use gimmal::{Array, Error, Segment, Value};

use super::{Claim, Scratch};

/// Entries of a receiver's log.
const LOG: usize = 1 << 13;
/// Words in front of it, on a line of their own.
const HEAD: usize = 16;
const ABOUT: usize = 0;
const DONE: usize = 1;

/// Message `number` of `sender`.
fn value(sender: usize, number: u64) -> u64 {
    (sender as u64) << 48 | number
}

fn parts(value: u64) -> (usize, u64) {
    ((value >> 48) as usize, value & ((1 << 48) - 1))
}

/// Where a sender writes what it is doing.
pub struct SenderPage {
    page: Array<u64>,
    over: Value<bool>,
    sender: usize,
    /// The number of the next message.
    next: u64,
}

impl SenderPage {
    /// The page of sender number `sender`, which goes on where its predecessor stopped.
    pub fn open(segment: &Segment, sender: usize) -> Result<Self, Error> {
        let page = Array::open(segment, &format!("s{sender}"))?;
        let next = page[DONE].load(Relaxed) + 1;
        Ok(Self { page, over: Value::open(segment, "over")?, sender, next })
    }

    /// Whether enough has been sent.
    pub fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// The next `count` messages.
    pub fn next(&self, count: u64) -> impl Iterator<Item = u64> + use<> {
        let sender = self.sender;
        (self.next..self.next + count).map(move |number| value(sender, number))
    }

    /// Says that they are about to be sent.
    pub fn begin(&self, count: u64) {
        self.page[ABOUT].store(self.next + count - 1, Release);
    }

    /// Says that `count` of them were sent and the others were not.
    pub fn end(&mut self, count: u64) {
        self.next += count;
        self.page[DONE].store(self.next - 1, Release);
        self.page[ABOUT].store(self.next - 1, Release);
    }
}

/// Where a receiver writes what it is doing.
pub struct ReceiverPage {
    page: Array<u64>,
    over: Value<bool>,
    count: u64,
}

impl ReceiverPage {
    /// The page of receiver number `receiver`, which goes on where its predecessor stopped.
    pub fn open(segment: &Segment, receiver: usize) -> Result<Self, Error> {
        let page: Array<u64> = Array::open(segment, &format!("r{receiver}"))?;
        let count = page[DONE].load(Relaxed);
        Ok(Self { page, over: Value::open(segment, "over")?, count })
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Waits until the log has room for `most` entries, then says that so many messages may be received now.
    pub fn begin(&self, most: u64) {
        // The parent reads in order: if the last one is free, all are.
        while self.page[log_index(self.count + most)].load(Acquire) != 0 {
            std::thread::yield_now();
        }
        self.page[ABOUT].store(self.count + most, Release);
    }

    /// Writes down what was received.
    pub fn end(&mut self, values: &[u64]) {
        let count = self.count + values.len() as u64;
        if values.len() > 1 {
            // A single message needs no announcement: its entry is one store itself.
            self.page[DONE].store(count, Release);
        }
        for &value in values {
            self.count += 1;
            self.page[log_index(self.count)].store(value, Release);
        }
        self.page[DONE].store(count, Release);
        self.page[ABOUT].store(count, Release);
    }
}

fn log_index(entry: u64) -> usize {
    HEAD + entry as usize % LOG
}

/// Where the pages are, and who gets whose messages.
pub struct Ledger {
    scratch: Scratch,
    over: Value<bool>,
    senders: Vec<Array<u64>>,
    receivers: Vec<Array<u64>>,
}

impl Ledger {
    pub fn new(case: &str, senders: usize, receivers: usize) -> Result<Self, Error> {
        let bytes = (senders + receivers + 1) * (Array::<u64>::bytes(HEAD + LOG) + 4096) + (64 << 10);
        let scratch = Scratch::new(&format!("{case}-ledger"), Segment::options().size(bytes).max_objects(64));
        let page = |name: String, length| Array::create(&scratch, &name, length);
        let senders = (0..senders).map(|i| page(format!("s{i}"), HEAD)).collect::<Result<_, _>>()?;
        let receivers = (0..receivers).map(|i| page(format!("r{i}"), HEAD + LOG)).collect::<Result<_, _>>()?;
        let over = Value::create(&scratch, "over", false)?;
        Ok(Self { scratch, over, senders, receivers })
    }

    pub fn segment(&self) -> &Segment {
        &self.scratch
    }

    /// The first words of every page, for a dump.
    pub fn describe(pages: &[Array<u64>]) -> String {
        let words =
            |page: &Array<u64>| format!("about {} done {}", page[ABOUT].load(Relaxed), page[DONE].load(Relaxed));
        pages.iter().map(words).collect::<Vec<_>>().join(", ")
    }
}

/// A receive that a kill hit.
struct Excuse {
    /// How many messages it may have taken.
    most: u64,
    /// For each sender, the messages it may have taken: those above the first and up to the second number.
    windows: Vec<(u64, u64)>,
    /// Whether a message that it had not finished may have come back without our having seen which.
    unseen: bool,
}

/// A message that needs an excuse: missing, or late.
type Defect = (usize, u64);

/// The parent's book.
pub struct Account {
    pub ledger: Ledger,
    /// Whether the messages of a dead receiver come back (MPMC) or never left (SPSC).
    redelivers: bool,
    /// Whether a receiver may get messages of a sender.
    routes: fn(receiver: usize, sender: usize) -> bool,
    /// For each sender, a bit for each message that was received.
    received: Vec<Vec<u64>>,
    /// For each sender, the calls that were under way when it was killed: first and last message.
    pending: Vec<BTreeMap<u64, u64>>,
    /// Messages that were being written when their sender was killed.
    unwritten: HashSet<u64>,
    /// Messages that were being read when their receiver was killed.
    orphans: HashSet<u64>,
    /// For each receiver, how many log entries were read.
    logged: Vec<u64>,
    /// For each receiver and sender, the highest number received.
    last: Vec<Vec<u64>>,
    late: Vec<Defect>,
    excuses: Vec<Excuse>,
    /// Messages that were received for sure and are missing from the log for sure.
    missing_for_sure: u64,
}

/// What a storm came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub sent: u64,
    pub received: u64,
    /// Missing, each with its excuse.
    pub missing: usize,
    /// Late, each with its excuse or known to have come back.
    pub late: usize,
    /// Sends that were under way when their sender was killed, and what became of them.
    pub pending: u64,
    pub pending_received: u64,
    /// Seen in the slots of those who were killed.
    pub unwritten: usize,
    pub orphans: usize,
}

impl Account {
    pub fn new(ledger: Ledger, redelivers: bool, routes: fn(usize, usize) -> bool) -> Self {
        let (senders, receivers) = (ledger.senders.len(), ledger.receivers.len());
        Self {
            ledger,
            redelivers,
            routes,
            received: vec![Vec::new(); senders],
            pending: vec![BTreeMap::new(); senders],
            unwritten: HashSet::new(),
            orphans: HashSet::new(),
            logged: vec![0; receivers],
            last: vec![vec![0; senders]; receivers],
            late: Vec::new(),
            excuses: Vec::new(),
            missing_for_sure: 0,
        }
    }

    /// Tells senders (and the ends of pipes) that it is enough.
    pub fn finish(&self) {
        self.ledger.over.store(true, Relaxed);
    }

    /// A description of the pages for a dump, to be called from any thread.
    pub fn describer(&self) -> impl Fn() -> String + Send + Sync + use<> {
        let (senders, receivers) = (self.ledger.senders.clone(), self.ledger.receivers.clone());
        move || format!("senders: {}\nreceivers: {}", Ledger::describe(&senders), Ledger::describe(&receivers))
    }

    /// A number that grows with what the sender has sent.
    pub fn sent(&self, sender: usize) -> u64 {
        self.ledger.senders[sender][DONE].load(Relaxed)
    }

    /// A number that changes with every call of the sender and receiver.
    pub fn activity(&self, sender: Option<usize>, receiver: Option<usize>) -> u64 {
        let sending = sender.map_or(0, |sender| self.ledger.senders[sender][ABOUT].load(Relaxed));
        sending + receiver.map_or(0, |receiver| self.ledger.receivers[receiver][ABOUT].load(Relaxed))
    }

    /// A number that grows with what the receiver has logged and the parent has read.
    pub fn got(&self, receiver: usize) -> u64 {
        self.logged[receiver]
    }

    /// How many messages were received and read in the logs.
    pub fn got_in_all(&self) -> u64 {
        self.logged.iter().sum()
    }

    /// Reads all logs as far as they go; returns how many messages that were.
    pub fn read_logs(&mut self) -> u64 {
        (0..self.logged.len()).map(|receiver| self.read_log(receiver)).sum()
    }

    fn read_log(&mut self, receiver: usize) -> u64 {
        let before = self.logged[receiver];
        loop {
            let entry = &self.ledger.receivers[receiver][log_index(self.logged[receiver] + 1)];
            let value = entry.load(Acquire);
            if value == 0 {
                return self.logged[receiver] - before;
            }
            entry.store(0, Release);
            self.logged[receiver] += 1;
            self.receive(receiver, value);
        }
    }

    fn receive(&mut self, receiver: usize, value: u64) {
        let (sender, number) = parts(value);
        let begun = self.ledger.senders.get(sender).map_or(0, |page| page[ABOUT].load(Acquire));
        let entry = self.logged[receiver];
        assert!(
            (1..=begun).contains(&number) && (self.routes)(receiver, sender),
            "out of nowhere: receiver {receiver} got message {number} of sender {sender} as its {entry}th, \
             and sends had begun up to {begun}"
        );
        assert!(!self.unwritten.contains(&value), "message {number} of {sender} was never written, yet received");
        let bits = &mut self.received[sender];
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        assert!(bits[word] & bit == 0, "twice: receiver {receiver} got message {number} of sender {sender} again");
        bits[word] |= bit;
        let last = &mut self.last[receiver][sender];
        if number > *last {
            *last = number;
        } else {
            assert!(self.redelivers, "order: receiver {receiver} got {number} of sender {sender} after {last}");
            self.late.push((sender, number));
        }
    }

    fn was_received(&self, sender: usize, number: u64) -> bool {
        let word = self.received[sender].get(number as usize / 64).copied().unwrap_or(0);
        word >> (number % 64) & 1 == 1
    }

    /// Sender `sender` was killed; `claims` is what its slots said before that, if somebody looked. Its successor may
    /// start now.
    pub fn sender_killed(&mut self, sender: usize, claims: Option<&[Claim]>) {
        let page = &self.ledger.senders[sender];
        let (about, done) = (page[ABOUT].load(Acquire), page[DONE].load(Acquire));
        // Of a batch, a run is written at a time.
        let writing = claims.unwrap_or_default().iter().filter(|&&claim| claim == Claim::Writing).count() as u64;
        assert!(writing <= about - done, "sender {sender} held {writing} slots, sends {done}..{about}");
        if about > done {
            self.pending[sender].insert(done + 1, about);
            if writing == about - done {
                self.unwritten.extend((done + 1..=about).map(|number| value(sender, number)));
            }
            page[DONE].store(about, Release);
        }
    }

    /// Receiver `receiver` was killed, and is dead.
    pub fn receiver_killed(&mut self, receiver: usize, claims: Option<&[Claim]>) {
        self.read_log(receiver);
        let page = &self.ledger.receivers[receiver];
        let (about, done, logged) = (page[ABOUT].load(Acquire), page[DONE].load(Acquire), self.logged[receiver]);
        let unlogged = done.saturating_sub(logged);
        let under_way = about.max(logged) - logged;
        let mut back = 0;
        for claim in claims.into_iter().flatten() {
            let Claim::Reading(value) = *claim else { continue };
            let (sender, number) = parts(value);
            assert!(!self.was_received(sender, number), "message {number} of {sender} is received and being received");
            self.orphans.insert(value);
            back += 1;
        }
        assert!(
            back == 0 || unlogged == 0 && back <= under_way,
            "receiver {receiver} held {back} slots, {under_way} due"
        );
        self.missing_for_sure += unlogged;
        let most = if unlogged > 0 { unlogged } else { under_way - back };
        if most > 0 {
            // Read after the death: what had begun by now may have been there to be taken.
            let begun = self.ledger.senders.iter().map(|page| page[ABOUT].load(Acquire));
            let windows = self.last[receiver].iter().copied().zip(begun).collect();
            let unseen = claims.is_none() && unlogged == 0 && self.redelivers;
            self.excuses.push(Excuse { most, windows, unseen });
        }
        let page = &self.ledger.receivers[receiver];
        page[DONE].store(logged, Release);
        page[ABOUT].store(logged, Release);
    }

    /// Applies the rule once everybody has ended.
    pub fn settle(mut self) -> Settled {
        self.read_logs();
        let mut missing: Vec<Defect> = Vec::new();
        let (mut sent, mut received, mut pending, mut pending_received) = (0, 0, 0, 0);
        for sender in 0..self.received.len() {
            let page = &self.ledger.senders[sender];
            let (about, done) = (page[ABOUT].load(Acquire), page[DONE].load(Acquire));
            assert_eq!(about, done, "sender {sender} ended in the middle of a call");
            sent += done;
            received += (1..=done).filter(|&number| self.was_received(sender, number)).count() as u64;
            let mut next = 1;
            for (&first, &last) in &self.pending[sender] {
                missing.extend((next..first).filter(|&n| !self.was_received(sender, n)).map(|n| (sender, n)));
                // Of a batch, what comes before something that was received was sent as well.
                let certain = (first..=last).rev().find(|&n| self.was_received(sender, n)).unwrap_or(first - 1);
                let holes = (first..=certain).filter(|&n| !self.was_received(sender, n));
                missing.extend(holes.map(|n| (sender, n)));
                pending += last - first + 1;
                pending_received += (first..=last).filter(|&n| self.was_received(sender, n)).count() as u64;
                next = last + 1;
            }
            missing.extend((next..=done).filter(|&n| !self.was_received(sender, n)).map(|n| (sender, n)));
        }
        assert!(
            missing.len() as u64 >= self.missing_for_sure,
            "{} messages died with their receivers and only {} are missing: some were delivered again",
            self.missing_for_sure,
            missing.len()
        );
        let unknown_late: Vec<Defect> =
            self.late.iter().copied().filter(|&(s, n)| !self.orphans.contains(&value(s, n))).collect();
        self.excuse(&missing, &unknown_late);
        Settled {
            sent,
            received,
            missing: missing.len(),
            late: self.late.len(),
            pending,
            pending_received,
            unwritten: self.unwritten.len(),
            orphans: self.orphans.len(),
        }
    }

    /// Finds each defect its own excuse: a maximum matching by augmenting paths. After a long storm there are tens of
    /// thousands of either, so the paths are found breadth first, without recursion, and candidates are not kept.
    fn excuse(&self, missing: &[Defect], late: &[Defect]) {
        let defects: Vec<(Defect, bool)> =
            missing.iter().map(|&d| (d, false)).chain(late.iter().map(|&d| (d, true))).collect();
        let mut matching = Matching { holders: vec![Vec::new(); self.excuses.len()], place: vec![None; defects.len()] };
        for defect in 0..defects.len() {
            if !self.assign(defect, &defects, &mut matching) {
                let ((sender, number), late) = defects[defect];
                let what = if late { "late" } else { "lost" };
                let whose = self.pending[sender].range(..=number).next_back().filter(|(_, last)| **last >= number);
                panic!(
                    "{what}: message {number} of sender {sender}, and no killed receive explains it \
                     ({} candidates; orphaned: {}; of a killed call: {whose:?}; {} missing, {} late, {} excuses)",
                    self.candidates(defects[defect]).count(),
                    self.orphans.contains(&value(sender, number)),
                    missing.len(),
                    late_count(&defects),
                    self.excuses.len(),
                );
            }
        }
    }

    fn assign(&self, defect: usize, defects: &[(Defect, bool)], matching: &mut Matching) -> bool {
        let mut wanted_by: HashMap<usize, usize> = HashMap::new();
        let mut open = VecDeque::from([defect]);
        while let Some(next) = open.pop_front() {
            for excuse in self.candidates(defects[next]) {
                let Entry::Vacant(first) = wanted_by.entry(excuse) else { continue };
                first.insert(next);
                if (matching.holders[excuse].len() as u64) < self.excuses[excuse].most {
                    matching.shift(excuse, &wanted_by);
                    return true;
                }
                open.extend(&matching.holders[excuse]);
            }
        }
        false
    }

    /// The killed receives that may have taken a message.
    fn candidates(&self, ((sender, number), late): (Defect, bool)) -> impl Iterator<Item = usize> + '_ {
        let mut may_have_come_back = self.orphans.contains(&value(sender, number));
        let mut fits = move |excuse: &Excuse| {
            let window = excuse.windows[sender];
            let in_window = window.0 < number && number <= window.1;
            // One that had come back from somebody who died earlier may be behind what this receiver had got.
            let reachable = in_window || may_have_come_back && number <= window.1;
            may_have_come_back |= in_window && excuse.unseen;
            reachable && (!late || excuse.unseen)
        };
        self.excuses.iter().enumerate().filter(move |(_, excuse)| fits(excuse)).map(|(index, _)| index)
    }
}

/// Which defects have which excuse.
struct Matching {
    holders: Vec<Vec<usize>>,
    place: Vec<Option<usize>>,
}

impl Matching {
    /// Gives an excuse that has room to the defect that wants it, the one which that defect had to the next, and so on.
    fn shift(&mut self, mut excuse: usize, wanted_by: &HashMap<usize, usize>) {
        loop {
            let defect = wanted_by[&excuse];
            self.holders[excuse].push(defect);
            let Some(left) = self.place[defect].replace(excuse) else { return };
            self.holders[left].retain(|&other| other != defect);
            excuse = left;
        }
    }
}

fn late_count(defects: &[(Defect, bool)]) -> usize {
    defects.iter().filter(|(_, late)| *late).count()
}
