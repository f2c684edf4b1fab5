//! SIGKILL at random moments: senders, receivers and lock holders are killed and started again while messages flow, and
//! every message is accounted for at the end. The rule is in `support/ledger.rs`.
//!
//! Some storms also stop processes, wherever they are, and let the others go on without them. A stopped process is alive: what
//! it has claimed stays its own, and what it was about to do it does when it is continued.
//!
//! `GIMMAL_STORM_KILLS` is how many kills the main storm makes: 1,000 unless set. The others make a part of that.

mod support;

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use gimmal::process::{self, Child, Context, Entry, Outcome, Process};
use gimmal::{
    Array, Departure, Lock, LockError, Pipe, Queue, QueueOptions, RecvError, RecvTimeoutError, Segment, SendError,
    SendTimeoutError, SpscQueue, TryRecvError, TrySendError, Value,
};
use support::{
    Account, Claim, Huge, Ledger, Medium, Message, Random, ReceiverPage, Scratch, SenderPage, Slots, Watchdog,
    assert_alone, die_with_parent, failed, kill_and_reap, resume, spin, stop,
};

const ENTRIES: [Entry; 7] =
    gimmal::entries![queue_sender, queue_receiver, queue_peer, spsc_sender, spsc_receiver, pipe_end, lock_holder];

/// Where the processes begin, and never return from. In the parent it is one more test.
#[test]
fn child() {
    process::init(&ENTRIES);
}

/// Shorter than any wait of interest, so that such waits end both ways.
const MOMENT: Duration = Duration::from_micros(300);

fn kills() -> u64 {
    std::env::var("GIMMAL_STORM_KILLS").ok().map_or(1000, |text| text.parse().expect("GIMMAL_STORM_KILLS is a number"))
}

/// One storm at a time: two cores are few enough for seventeen processes.
static ALONE: Mutex<()> = Mutex::new(());

// --- the parent: who is killed, and how ---

/// Someone who is killed and started again.
struct Member {
    entry: &'static str,
    arguments: Vec<String>,
    sends: Option<usize>,
    receives: Option<usize>,
    child: Option<Child>,
    /// How often it was started.
    round: u64,
    /// How far its pages were when it was started last.
    baseline: (u64, u64),
    /// Whether it stands still, and how many messages are to be received in all before it goes on.
    stopped_until: Option<u64>,
}

impl Member {
    fn new(entry: &'static str, sends: Option<usize>, receives: Option<usize>, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { entry, arguments, sends, receives, child: None, round: 0, baseline: (0, 0), stopped_until: None }
    }

    fn start(&mut self, account: &Account, segment: &Segment, watchdog: &Watchdog) {
        self.baseline = self.progress(account);
        let index = self.sends.or(self.receives).expect("it does something");
        let child = start(self.entry)
            .name(&format!("{}-{index}.{}", self.entry, self.round))
            .segment(segment)
            .segment(account.ledger.segment())
            .args([index as u64, self.round].map(|number| number.to_string()))
            .args(&self.arguments)
            .spawn()
            .expect("start a process");
        watchdog.enlist(&child);
        self.child = Some(child);
        self.round += 1;
    }

    fn progress(&self, account: &Account) -> (u64, u64) {
        let sent = self.sends.map_or(0, |sender| account.sent(sender));
        (sent, self.receives.map_or(0, |receiver| account.got(receiver)))
    }

    /// Waits for a moment at which it is running and not asleep, as a change in its pages shows; not for long.
    fn catch_at_work(&self, account: &mut Account) {
        let before = account.activity(self.sends, self.receives);
        for patience in 0..2 {
            account.read_logs();
            for _ in 0..2000 {
                if account.activity(self.sends, self.receives) != before {
                    return;
                }
                spin(1);
            }
            if patience < 1 {
                std::thread::yield_now();
            }
        }
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it was started")
    }

    /// What it has claimed, while it stands still.
    fn claims(&self, slots: &Slots, segment: &Segment) -> Vec<Claim> {
        let pid = self.child.as_ref().map(Child::pid);
        // It may have been stopped before it joined.
        let peer = segment.peers().into_iter().find(|peer| Some(peer.pid) == pid);
        peer.map_or(Vec::new(), |peer| slots.claims(peer.id))
    }

    fn go_on(&mut self) {
        if self.stopped_until.take().is_some() {
            resume(self.child());
        }
    }
}

/// Those who stand still, and whether anything moves without them.
#[derive(Debug, Default)]
struct Stops {
    made: u64,
    /// Of those, how many had claimed slots.
    with_claims: u64,
    killed: u64,
    /// How often one had to be continued because nothing moved any more.
    jams: u64,
    got: u64,
    looks_in_vain: u32,
}

impl Stops {
    /// Looks in a row without a message after which nothing seems to move.
    const STILL: u32 = 2000;

    /// Continues those whose time has come. If nothing moves, also one of those whose time cannot come: it keeps a slot
    /// that all need by now, or a wakeup.
    fn tend(&mut self, members: &mut [Member], got: u64) {
        self.looks_in_vain = if got == self.got { self.looks_in_vain + 1 } else { 0 };
        self.got = got;
        let is_due = |member: &&mut Member| member.stopped_until.is_some_and(|until| until <= got);
        members.iter_mut().filter(is_due).for_each(Member::go_on);
        if self.looks_in_vain >= Self::STILL {
            self.looks_in_vain = 0;
            let stopped = members.iter_mut().filter(|member| member.stopped_until.is_some());
            if let Some(first) = stopped.min_by_key(|member| member.stopped_until) {
                first.go_on();
                self.jams += 1;
            }
        }
    }
}

fn start(entry: &str) -> Process {
    process::init(&ENTRIES);
    support::process(entry)
}

/// How victims die.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kills {
    /// By SIGKILL out of the blue.
    Blind,
    /// Stopped first, so that the parent can see in the slots what they were doing; mostly let go again, some times over,
    /// in the hope for a moment at which they had claimed one.
    Seen,
    /// Now out of the blue, now stopped first, once.
    Mixed,
}

/// One storm.
struct Storm<'a> {
    case: &'a str,
    kills: u64,
    how: Kills,
    members: Vec<Member>,
    account: Account,
    /// The slots that hold claims, where there are any.
    slots: Option<Slots>,
    /// Those who are stopped, if some are to be.
    stops: Option<Stops>,
    /// Once the senders have ended.
    close: &'a dyn Fn(),
}

impl Storm<'_> {
    fn rage(mut self, segment: &Scratch) {
        let (begun, mut random) = (Instant::now(), Random::announced(self.case));
        let watchdog = Watchdog::new(self.case, &[segment, self.account.ledger.segment()], self.account.describer());
        let mut members = std::mem::take(&mut self.members);
        for member in &mut members {
            member.start(&self.account, segment, &watchdog);
        }
        let mut killed = 0;
        while killed < self.kills {
            // Mostly one; at times several before any is replaced, up to all.
            let burst = if random.one_in(5) { 1 + random.below(members.len() as u64) } else { 1 };
            self.stop_some(&mut members, &mut random, segment);
            self.let_others_go_on(&mut members, &mut random, &watchdog);
            for _ in 0..burst {
                killed += u64::from(self.kill_one(&mut members, &mut random, segment, &watchdog));
            }
            for member in members.iter_mut().filter(|member| member.child.is_none()) {
                member.start(&self.account, segment, &watchdog);
            }
        }
        members.iter_mut().for_each(Member::go_on);
        self.account.finish();
        self.end_well(&mut members, &watchdog, |member| member.sends.is_some());
        (self.close)();
        self.end_well(&mut members, &watchdog, |_| true);
        segment.recover().expect("repair after the last dead");
        assert_alone(segment).expect("a snapshot");
        let settled = self.account.settle();
        println!("{}: {killed} kills in {:?}, {settled:?}, {:?}", self.case, begun.elapsed(), self.stops);
        assert!(settled.received > killed, "hardly any traffic: {settled:?}");
    }

    /// Stops one or two, half of the time in the middle of an operation, for as long as the others need for some messages.
    fn stop_some(&mut self, members: &mut [Member], random: &mut Random, segment: &Segment) {
        let Some(stops) = &mut self.stops else { return };
        for _ in 0..1 + random.below(2) {
            let running: Vec<usize> = (0..members.len()).filter(|&i| members[i].stopped_until.is_none()).collect();
            // Somebody must be left to go on, and one who makes the storm wait.
            if running.len() * 2 <= members.len() {
                return;
            }
            let member = &mut members[running[random.below(running.len() as u64) as usize]];
            let claims = match &self.slots {
                Some(slots) if random.one_in(2) => stop_and_look(member, &mut self.account, slots, segment, random, 5),
                _ => {
                    member.catch_at_work(&mut self.account);
                    random.spin();
                    assert!(stop(member.child()), "{}", how_it_ended(member.child()));
                    Vec::new()
                }
            };
            let magnitude = 4 + random.below(16);
            member.stopped_until = Some(self.account.got_in_all() + random.below(1 << magnitude));
            stops.made += 1;
            stops.with_claims += u64::from(!claims.is_empty());
        }
    }

    /// Waits until some messages have been received without those who are stopped, or with those who must be let go for that.
    fn let_others_go_on(&mut self, members: &mut [Member], random: &mut Random, watchdog: &Watchdog) {
        let Some(stops) = &mut self.stops else { return };
        let enough = self.account.got_in_all() + if random.one_in(3) { 0 } else { random.below(100) };
        while self.account.got_in_all() < enough {
            if self.account.read_logs() > 0 {
                watchdog.tick();
            }
            watchdog.check();
            stops.tend(members, self.account.got_in_all());
            assert_all_live(members);
            std::thread::yield_now();
        }
    }

    /// Kills somebody at a random moment; `false` if there is nobody left to kill.
    fn kill_one(
        &mut self,
        members: &mut [Member],
        random: &mut Random,
        segment: &Segment,
        watchdog: &Watchdog,
    ) -> bool {
        let alive: Vec<usize> = (0..members.len()).filter(|&i| members[i].child.is_some()).collect();
        if alive.is_empty() {
            return false;
        }
        // Mostly in the middle of its work; at times while it starts.
        let early = random.one_in(16);
        let victim = loop {
            self.account.read_logs();
            watchdog.check();
            if let Some(stops) = &mut self.stops {
                stops.tend(members, self.account.got_in_all());
            }
            let at_work = |&i: &usize| members[i].progress(&self.account) != members[i].baseline;
            // A burst may have left nobody to work with: then nothing moves until they are replaced.
            let any = early || alive.len() < members.len() && random.one_in(64);
            let eligible: Vec<usize> = alive.iter().copied().filter(|i| any || at_work(i)).collect();
            if !eligible.is_empty() {
                break eligible[random.below(eligible.len() as u64) as usize];
            }
            assert_all_live(members);
            std::thread::yield_now();
        };
        let member = &mut members[victim];
        let look = self.how == Kills::Seen || self.how == Kills::Mixed && random.one_in(2);
        let was_stopped = member.stopped_until.take().is_some();
        let claims = match &self.slots {
            Some(slots) if was_stopped => Some(member.claims(slots, segment)),
            _ if was_stopped => None,
            Some(slots) if look => {
                let looks = if self.how == Kills::Mixed || random.one_in(4) { 1 } else { 20 };
                Some(stop_and_look(member, &mut self.account, slots, segment, random, looks))
            }
            _ => {
                member.catch_at_work(&mut self.account);
                random.spin();
                None
            }
        };
        let died = watchdog.discharge(member.child(), kill_and_reap);
        assert!(died, "{}", how_it_ended(member.child()));
        member.child = None;
        watchdog.tick();
        if let Some(stops) = &mut self.stops {
            stops.killed += u64::from(was_stopped);
        }
        let claimed = |which: fn(&Claim) -> bool| claims.iter().flatten().any(which);
        assert!(member.sends.is_some() || !claimed(|claim| matches!(claim, Claim::Writing)), "a receiver sends");
        assert!(member.receives.is_some() || !claimed(|claim| matches!(claim, Claim::Reading(_))), "a sender receives");
        if let Some(sender) = member.sends {
            self.account.sender_killed(sender, claims.as_deref());
        }
        if let Some(receiver) = member.receives {
            self.account.receiver_killed(receiver, claims.as_deref());
        }
        true
    }

    /// Waits until some of the members have ended well.
    fn end_well(&mut self, members: &mut [Member], watchdog: &Watchdog, which: impl Fn(&Member) -> bool) {
        for member in members.iter_mut().filter(|member| which(member)) {
            let Some(mut child) = member.child.take() else { continue };
            let status = loop {
                if self.account.read_logs() > 0 {
                    watchdog.tick();
                }
                watchdog.check();
                match watchdog.discharge_if(&mut child, |child| child.join_timeout(Duration::from_millis(1))) {
                    Ok(Some(status)) => break status,
                    Ok(None) => {}
                    Err(e) => panic!("{}: {e}", child.name()),
                }
            };
            watchdog.tick();
            assert!(status.success(), "{} ended with {status}", child.name());
        }
    }
}

fn ended_by_itself(child: &mut Child) -> Option<String> {
    (!child.is_alive()).then(|| how_it_ended(child))
}

/// Fails if somebody who was not killed has ended.
fn assert_all_live(members: &mut [Member]) {
    assert_eq!(members.iter_mut().find_map(|member| ended_by_itself(member.child.as_mut()?)), None);
}

fn how_it_ended(child: &mut Child) -> String {
    let code = child.exit_code();
    format!("{} ended by itself with {code:?}", child.name())
}

/// Stops a process at a random moment and says what it had claimed. If that is nothing, it is let go and stopped again, up
/// to `looks` times in all.
fn stop_and_look(
    member: &mut Member,
    account: &mut Account,
    slots: &Slots,
    segment: &Segment,
    random: &mut Random,
    mut looks: u32,
) -> Vec<Claim> {
    loop {
        member.catch_at_work(account);
        random.spin();
        assert!(stop(member.child()), "{}", how_it_ended(member.child()));
        let claims = member.claims(slots, segment);
        looks -= 1;
        if looks == 0 || !claims.is_empty() {
            return claims;
        }
        resume(member.child());
    }
}

/// For queues whose ends are killed and started again.
fn outliving(capacity: usize) -> QueueOptions {
    QueueOptions::new().capacity(capacity).keep_waiting(true)
}

// --- MPMC: senders and receivers, all ways to send and to receive ---

/// How many senders and receivers each.
const CROWD: usize = 8;

fn queue_storm<M: Message>(case: &str, capacity: usize, kills: u64, how: Kills, stops: Option<Stops>) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let scratch = Scratch::new(case, Segment::options().size((64 << 10) + Queue::<M>::bytes(capacity)));
    let queue = outliving(capacity).create::<M>(&scratch, "queue").unwrap();
    let account = Account::new(Ledger::new(case, CROWD, CROWD).unwrap(), true, |_, _| true);
    let bytes = size_of::<M>().to_string();
    let senders = (0..CROWD).map(|i| Member::new("queue_sender", Some(i), None, &[&bytes]));
    let receivers = (0..CROWD).map(|i| Member::new("queue_receiver", None, Some(i), &[&bytes]));
    let storm = Storm {
        case,
        kills,
        how,
        members: senders.chain(receivers).collect(),
        account,
        slots: Some(Slots::of_queue(&scratch, "queue")),
        stops,
        close: &|| queue.close(),
    };
    storm.rage(&scratch);
    assert!(queue.is_empty(), "{queue:?} after the end");
}

fn queue_sender(context: &Context) -> Outcome {
    die_with_parent();
    match context.parse(2)? {
        8 => send_on_queue::<u64>(context),
        80 => send_on_queue::<Medium>(context),
        _ => send_on_queue::<Huge>(context),
    }
}

fn queue_receiver(context: &Context) -> Outcome {
    die_with_parent();
    match context.parse(2)? {
        8 => receive_from_queue::<u64>(context),
        80 => receive_from_queue::<Medium>(context),
        _ => receive_from_queue::<Huge>(context),
    }
}

fn send_on_queue<M: Message>(context: &Context) -> Outcome {
    let (index, round): (usize, usize) = (context.parse(0)?, context.parse(1)?);
    let sender = Queue::<M>::open(context.segment(0)?, "queue")?.sender()?;
    let mut page = SenderPage::open(context.segment(1)?, index)?;
    while !page.is_over() {
        let batch = if (index + round) % 5 >= 3 { 7 } else { 1 };
        let messages: Vec<M> = page.next(batch).map(M::make).collect();
        page.begin(batch);
        let sent = match (index + round) % 5 {
            0 => sender.send(messages[0]).map(|()| 1)?,
            1 => match sender.try_send(messages[0]) {
                Ok(()) => 1,
                Err(TrySendError::Full(_)) => 0,
                Err(e) => return Err(e.into()),
            },
            2 => match sender.send_timeout(messages[0], MOMENT) {
                Ok(()) => 1,
                Err(SendTimeoutError::Timeout(_)) => 0,
                Err(e) => return Err(e.into()),
            },
            3 => sender.send_slice(&messages).map(|()| batch)?,
            _ => sender.try_send_slice(&messages)? as u64,
        };
        page.end(sent);
        if sent == 0 {
            std::thread::yield_now();
        }
    }
    Ok(())
}

fn receive_from_queue<M: Message>(context: &Context) -> Outcome {
    let (index, round): (usize, usize) = (context.parse(0)?, context.parse(1)?);
    let receiver = Queue::<M>::open(context.segment(0)?, "queue")?.receiver()?;
    let mut page = ReceiverPage::open(context.segment(1)?, index)?;
    let (mut buffer, mut values) = (Vec::new(), Vec::new());
    loop {
        buffer.clear();
        let style = (index + round) % 5;
        page.begin(if style >= 3 { 5 } else { 1 });
        let open = match style {
            0 => match receiver.recv() {
                Ok(message) => log_one(&mut page, &message)?,
                Err(RecvError::Closed) => ControlFlow::Break(()),
                Err(e) => return Err(e.into()),
            },
            1 => match receiver.try_recv() {
                Ok(message) => log_one(&mut page, &message)?,
                Err(TryRecvError::Empty) => ControlFlow::Continue(0),
                Err(TryRecvError::Closed) => ControlFlow::Break(()),
                Err(e) => return Err(e.into()),
            },
            2 => match receiver.recv_timeout(MOMENT) {
                Ok(message) => log_one(&mut page, &message)?,
                Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(0),
                Err(RecvTimeoutError::Closed) => ControlFlow::Break(()),
                Err(e) => return Err(e.into()),
            },
            3 => match receiver.recv_many(&mut buffer, 5) {
                Ok(_) => log_many(&mut page, &buffer, &mut values)?,
                Err(RecvError::Closed) => ControlFlow::Break(()),
                Err(e) => return Err(e.into()),
            },
            _ => match receiver.try_recv_many(&mut buffer, 5) {
                Ok(_) => log_many(&mut page, &buffer, &mut values)?,
                Err(TryRecvError::Empty) => ControlFlow::Continue(0),
                Err(TryRecvError::Closed) => ControlFlow::Break(()),
                Err(e) => return Err(e.into()),
            },
        };
        match open {
            ControlFlow::Break(()) => {
                page.end(&[]);
                return Ok(());
            }
            ControlFlow::Continue(0) => {
                page.end(&[]);
                std::thread::yield_now();
            }
            ControlFlow::Continue(_) => {}
        }
    }
}

/// Whether to go on, and how many messages there were.
type Step = Result<ControlFlow<(), usize>, String>;

/// The log first: nothing may come between the receive and the note of it.
fn log_one<M: Message>(page: &mut ReceiverPage, message: &M) -> Step {
    page.end(&[message.value()]);
    message.check()?;
    Ok(ControlFlow::Continue(1))
}

fn log_many<M: Message>(page: &mut ReceiverPage, messages: &[M], values: &mut Vec<u64>) -> Step {
    values.clear();
    values.extend(messages.iter().map(M::value));
    page.end(values);
    messages.iter().try_for_each(M::check)?;
    Ok(ControlFlow::Continue(messages.len()))
}

#[test]
fn queue_survives_kills_and_accounts_for_every_message() {
    queue_storm::<u64>("storm-main", 8, kills(), Kills::Mixed, None);
}

#[test]
fn queue_survives_stops_and_kills_and_accounts_for_every_message() {
    queue_storm::<u64>("storm-stops", 8, kills() / 20, Kills::Mixed, Some(Stops::default()));
}

#[test]
fn queue_survives_stops_and_kills_in_the_middle_of_a_copy() {
    queue_storm::<Huge>("storm-stops-huge", 4, kills() / 20, Kills::Mixed, Some(Stops::default()));
}

/// Processes that send one message and receive one in turn, and so spend their time in copies of 32 KiB.
#[test]
fn queue_of_huge_messages_survives_kills_in_the_middle_of_a_copy() {
    let (case, capacity) = ("storm-huge", 4);
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let scratch = Scratch::new(case, Segment::options().size((64 << 10) + Queue::<Huge>::bytes(capacity)));
    let queue = outliving(capacity).create::<Huge>(&scratch, "queue").unwrap();
    let storm = Storm {
        case,
        kills: kills() / 8,
        how: Kills::Seen,
        members: (0..4).map(|i| Member::new("queue_peer", Some(i), Some(i), &[])).collect(),
        account: Account::new(Ledger::new(case, 4, 4).unwrap(), true, |_, _| true),
        slots: Some(Slots::of_queue(&scratch, "queue")),
        stops: None,
        close: &|| queue.close(),
    };
    storm.rage(&scratch);
    assert!(queue.is_empty(), "{queue:?} after the end");
}

fn queue_peer(context: &Context) -> Outcome {
    die_with_parent();
    let index = context.parse(0)?;
    let queue = Queue::<Huge>::open(context.segment(0)?, "queue")?;
    let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    let mut outgoing = SenderPage::open(context.segment(1)?, index)?;
    let mut incoming = ReceiverPage::open(context.segment(1)?, index)?;
    let mut message = Huge::make(outgoing.next(1).next().expect("one"));
    loop {
        let over = outgoing.is_over();
        if !over {
            outgoing.begin(1);
            match sender.try_send(message) {
                Ok(()) => {
                    outgoing.end(1);
                    message = Huge::make(outgoing.next(1).next().expect("one"));
                }
                Err(TrySendError::Full(_)) => outgoing.end(0),
                Err(e) => return Err(e.into()),
            }
        }
        incoming.begin(1);
        match receiver.try_recv() {
            Ok(message) => drop(log_one(&mut incoming, &message)?),
            Err(TryRecvError::Empty) => {
                incoming.end(&[]);
                // Whoever sends after this will receive what it sends, or leave it to one who sends after that.
                if over {
                    return Ok(());
                }
                std::thread::yield_now();
            }
            Err(e) => return Err(e.into()),
        }
    }
}

#[test]
fn roomy_queue_survives_blind_kills() {
    queue_storm::<Medium>("storm-roomy", 256, kills() / 10, Kills::Blind, None);
}

#[test]
fn queue_of_one_slot_survives_kills() {
    queue_storm::<u64>("storm-one", 1, kills() / 10, Kills::Mixed, None);
}

// --- SPSC: one sender, one receiver, each the successor of a dead one ---

fn spsc_storm<M: Message>(case: &str, capacity: usize, kills: u64, stops: Option<Stops>) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let scratch = Scratch::new(case, Segment::options().size((64 << 10) + SpscQueue::<M>::bytes(capacity)));
    let queue = outliving(capacity).create_spsc::<M>(&scratch, "queue").unwrap();
    let account = Account::new(Ledger::new(case, 1, 1).unwrap(), false, |_, _| true);
    let bytes = size_of::<M>().to_string();
    let members = vec![
        Member::new("spsc_sender", Some(0), None, &[&bytes]),
        Member::new("spsc_receiver", None, Some(0), &[&bytes]),
    ];
    // The last sender closes the queue.
    let storm = Storm { case, kills, how: Kills::Blind, members, account, slots: None, stops, close: &|| {} };
    storm.rage(&scratch);
    assert!(queue.is_empty(), "{queue:?} after the end");
}

fn spsc_sender(context: &Context) -> Outcome {
    die_with_parent();
    match context.parse(2)? {
        8 => send_on_spsc::<u64>(context),
        _ => send_on_spsc::<Huge>(context),
    }
}

fn spsc_receiver(context: &Context) -> Outcome {
    die_with_parent();
    match context.parse(2)? {
        8 => receive_from_spsc::<u64>(context),
        _ => receive_from_spsc::<Huge>(context),
    }
}

fn send_on_spsc<M: Message>(context: &Context) -> Outcome {
    let round: usize = context.parse(1)?;
    // The predecessor is dead and reaped: its seat is free, at once.
    let mut sender = SpscQueue::<M>::open(context.segment(0)?, "queue")?.sender()?;
    let mut page = SenderPage::open(context.segment(1)?, 0)?;
    while !page.is_over() {
        let batch = if round % 4 >= 2 { 7 } else { 1 };
        let messages: Vec<M> = page.next(batch).map(M::make).collect();
        page.begin(batch);
        let sent = match round % 4 {
            0 => sender.send(messages[0]).map(|()| 1)?,
            1 => match sender.send_timeout(messages[0], MOMENT) {
                Ok(()) => 1,
                Err(SendTimeoutError::Timeout(_)) => 0,
                Err(e) => return Err(e.into()),
            },
            2 => sender.send_slice(&messages).map(|()| batch)?,
            _ => sender.try_send_slice(&messages)? as u64,
        };
        page.end(sent);
        if sent == 0 {
            std::thread::yield_now();
        }
    }
    sender.close();
    Ok(())
}

fn receive_from_spsc<M: Message>(context: &Context) -> Outcome {
    let round: usize = context.parse(1)?;
    let mut receiver = SpscQueue::<M>::open(context.segment(0)?, "queue")?.receiver()?;
    let mut page = ReceiverPage::open(context.segment(1)?, 0)?;
    let (mut buffer, mut values) = (Vec::new(), Vec::new());
    loop {
        buffer.clear();
        page.begin(if round % 3 == 2 { 5 } else { 1 });
        let received = match round % 3 {
            0 => receiver.recv().map(|m| buffer.push(m)).map_err(RecvTimeoutError::from),
            1 => receiver.recv_timeout(MOMENT).map(|m| buffer.push(m)),
            _ => receiver.recv_many(&mut buffer, 5).map(drop).map_err(RecvTimeoutError::from),
        };
        match received {
            Ok(()) => log_many(&mut page, &buffer, &mut values).map(drop)?,
            Err(RecvTimeoutError::Timeout) => page.end(&[]),
            Err(RecvTimeoutError::Closed) => {
                page.end(&[]);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        }
    }
}

#[test]
fn spsc_queue_survives_kills_and_its_seats_are_taken_over() {
    spsc_storm::<u64>("storm-spsc", 8, kills() / 5, None);
}

#[test]
fn spsc_queue_survives_stops_and_kills() {
    spsc_storm::<u64>("storm-spsc-stops", 8, kills() / 10, Some(Stops::default()));
}

#[test]
fn spsc_queue_of_large_messages_survives_kills_in_the_middle_of_a_copy() {
    spsc_storm::<Huge>("storm-spsc-huge", 4, kills() / 10, None);
}

// --- a duplex pipe: each end sends and receives ---

#[test]
fn pipe_survives_kills_of_both_ends() {
    let case = "storm-pipe";
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let scratch = Scratch::new(case, Segment::options().size(256 << 10));
    let (first, second) = Pipe::pair::<u64, u64>(&scratch, "pipe", 8).unwrap();
    first.release();
    second.release();
    // Each end gets what the other one sends.
    let account = Account::new(Ledger::new(case, 2, 2).unwrap(), false, |receiver, sender| receiver != sender);
    let members = (0..2).map(|i| Member::new("pipe_end", Some(i), Some(i), &[])).collect();
    // An end that has sent enough lets go of its sending half.
    let storm = Storm {
        case,
        kills: kills() / 5,
        how: Kills::Blind,
        members,
        account,
        slots: None,
        stops: None,
        close: &|| {},
    };
    storm.rage(&scratch);
}

fn pipe_end(context: &Context) -> Outcome {
    die_with_parent();
    let (index, round): (usize, usize) = (context.parse(0)?, context.parse(1)?);
    let segment = context.segment(0)?;
    let end = match index {
        0 => Pipe::create::<u64, u64>(segment, "pipe", 8)?,
        _ => Pipe::connect::<u64, u64>(segment, "pipe")?,
    };
    let (mut sender, mut receiver) = end.split();
    let mut outgoing = SenderPage::open(context.segment(1)?, index)?;
    let mut incoming = ReceiverPage::open(context.segment(1)?, index)?;
    let wait = round % 2 == 0;
    while !outgoing.is_over() {
        let message = outgoing.next(1).next().expect("one");
        outgoing.begin(1);
        let sent = if wait { sender.send_timeout(message, MOMENT) } else { sender.try_send(message).map_err(widen) };
        match sent {
            Ok(()) => outgoing.end(1),
            // The other end has died, and its successor is on its way.
            Err(SendTimeoutError::Timeout(_) | SendTimeoutError::Disconnected { .. }) => outgoing.end(0),
            Err(e) => return Err(e.into()),
        }
        if receive_on_pipe(&mut receiver, &mut incoming, wait)? == ControlFlow::Break(()) {
            std::thread::yield_now();
        }
    }
    drop(sender);
    // Until the other end has done the same.
    while receive_on_pipe(&mut receiver, &mut incoming, true)? == ControlFlow::Continue(()) {}
    Ok(())
}

fn widen(e: TrySendError<u64>) -> SendTimeoutError<u64> {
    match e {
        TrySendError::Full(value) => SendTimeoutError::Timeout(value),
        TrySendError::Closed(value) => SendError::Closed(value).into(),
        TrySendError::Disconnected { message: value, .. } => {
            SendError::Disconnected { message: value, peer: Departure::Closed }.into()
        }
        e => SendError::Detached(e.into_inner()).into(),
    }
}

/// Receives at most one message; breaks if the other end is gone.
fn receive_on_pipe(
    receiver: &mut gimmal::spsc::Receiver<u64>,
    page: &mut ReceiverPage,
    wait: bool,
) -> Result<ControlFlow<()>, Box<dyn std::error::Error + Send + Sync>> {
    page.begin(1);
    let received = receiver.recv_timeout(if wait { MOMENT } else { Duration::ZERO });
    match received {
        Ok(value) => page.end(&[value]),
        Err(_) => page.end(&[]),
    }
    match received {
        Ok(_) | Err(RecvTimeoutError::Timeout) => Ok(ControlFlow::Continue(())),
        Err(RecvTimeoutError::Disconnected { .. }) => Ok(ControlFlow::Break(())),
        Err(e) => Err(e.into()),
    }
}

// --- a lock: its holders die, and the next one is told ---

const HOLDERS: usize = 4;

/// What the lock protects. Between lock and unlock `holder` names the process and `total` is ahead of `counts`.
type Protected = [u64; 2 + HOLDERS];
const HOLDER: usize = 0;
const TOTAL: usize = 1;
const COUNTS: usize = 2;

fn lock_holder(context: &Context) -> Outcome {
    die_with_parent();
    let (index, round): (usize, u64) = (context.parse(0)?, context.parse(1)?);
    let (segment, ledger) = (context.segment(0)?, context.segment(1)?);
    let lock = Lock::<Protected>::open(segment, "lock")?;
    let done = Array::<u64>::open(ledger, "done")?;
    let news = Queue::<u64>::open(ledger, "news")?.sender()?;
    let over = Value::<bool>::open(ledger, "over")?;
    let own_pid = u64::from(std::process::id());
    let mut random = Random::seeded(round << 8 | index as u64);
    // How often this one has changed its count. A predecessor may have made one change more than it wrote down.
    let mut mine = None;
    while !over.load(Relaxed) {
        let taken = match round % 3 {
            0 => lock.lock(),
            1 => lock.lock_timeout(MOMENT),
            _ => lock.try_lock(),
        };
        let (mut guard, died) = match taken {
            Ok(guard) => (guard, None),
            Err(LockError::OwnerDied { guard, pid }) => (guard, Some(u64::from(pid))),
            Err(LockError::Timeout | LockError::WouldBlock) => {
                std::thread::yield_now();
                continue;
            }
            Err(e) => return Err(failed(e.to_string())),
        };
        let counted: u64 = guard[COUNTS..].iter().sum();
        match died {
            None if guard[HOLDER] != 0 || guard[TOTAL] != counted => {
                return Err(failed(format!("taken without news in the middle of a change: {:?}", *guard)));
            }
            None => {}
            Some(pid) => {
                if guard[HOLDER] != 0 && guard[HOLDER] != pid {
                    return Err(failed(format!("{pid} is said to have died, and {:?} was left", *guard)));
                }
                // In this order, so that whoever comes after a death in here finds the news still true.
                news.send(pid)?;
                guard[TOTAL] = counted;
            }
        }
        let (has, written) = (guard[COUNTS + index], done[index].load(Relaxed));
        if has != mine.unwrap_or(has) || has < written || has > written + 1 {
            return Err(failed(format!(
                "{has} changes by {index} are there, {written} written down, {mine:?} expected"
            )));
        }
        done[index].store(has, Relaxed);
        guard[HOLDER] = own_pid;
        guard[TOTAL] += 1;
        spin(random.below(200));
        guard[COUNTS + index] += 1;
        mine = Some(has + 1);
        guard[HOLDER] = 0;
        drop(guard);
        done[index].store(has + 1, Release);
    }
    Ok(())
}

#[test]
fn lock_survives_the_death_of_its_holders() {
    let case = "storm-lock";
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (scratch, ledger) = (Scratch::small(case), Scratch::small("storm-lock-ledger"));
    let lock = Lock::<Protected>::create(&scratch, "lock", Protected::default()).unwrap();
    let done = Array::<u64>::create(&ledger, "done", HOLDERS).unwrap();
    let news = Queue::<u64>::create(&ledger, "news", 1024).unwrap().receiver().unwrap();
    let over = Value::<bool>::create(&ledger, "over", false).unwrap();
    let mut random = Random::announced(case);
    let watched = done.clone();
    let watchdog = Watchdog::new(case, &[&scratch, &ledger], move || format!("done: {watched:?}"));

    let mut rounds = [0_u64; HOLDERS];
    let begin = |index: usize, round: &mut u64| {
        let child = start("lock_holder")
            .name(&format!("lock_holder-{index}.{round}"))
            .segment(&scratch)
            .segment(&ledger)
            .args([index as u64, *round].map(|number| number.to_string()))
            .spawn()
            .unwrap();
        watchdog.enlist(&child);
        *round += 1;
        child
    };
    let mut holders: Vec<Child> = rounds.iter_mut().enumerate().map(|(i, round)| begin(i, round)).collect();
    let mut dead: Vec<u64> = Vec::new();
    let mut told: Vec<u64> = Vec::new();
    let total = || done.iter().map(|count| count.load(Acquire)).sum::<u64>();
    for _ in 0..kills() / 5 {
        let victim = random.below(HOLDERS as u64) as usize;
        let before = total();
        // Somebody has held the lock since the last death: it was handed on.
        while total() == before {
            watchdog.check();
            let ended = holders.iter_mut().find_map(ended_by_itself);
            assert_eq!(ended, None);
            std::thread::yield_now();
        }
        random.spin();
        dead.push(u64::from(holders[victim].pid()));
        assert!(watchdog.discharge(&mut holders[victim], kill_and_reap), "it ended by itself");
        watchdog.tick();
        told.extend(news.try_iter());
        holders[victim] = begin(victim, &mut rounds[victim]);
    }
    over.store(true, Relaxed);
    for holder in &mut holders {
        let status = watchdog.discharge(holder, support::join);
        assert!(status.success(), "{} ended with {status}", holder.name());
    }
    told.extend(news.try_iter());
    // The last one to die may have left it to us.
    let guard = lock.lock().or_else(|e| {
        assert!(e.is_owner_died());
        e.into_guard().ok_or(())
    });
    let guard = guard.unwrap();
    println!("{case}: {} kills, {} deaths told, {:?}", dead.len(), told.len(), *guard);
    for index in 0..HOLDERS {
        let (has, written) = (guard[COUNTS + index], done[index].load(Acquire));
        assert!(has == written || has == written + 1, "{index} wrote down {written} changes, and {has} are there");
    }
    // Each death at most once, and of the dead only. (A number may be given to several processes in a long storm.)
    let count = |list: &[u64], pid| list.iter().filter(|&&other| other == pid).count();
    for &pid in &told {
        let (told, dead) = (count(&told, pid), count(&dead, pid));
        assert!(told <= dead, "{pid} is said to have died {told} times while it held the lock, and died {dead} times");
    }
    assert!(!told.is_empty(), "no holder was ever killed: the storm is too mild");
}
