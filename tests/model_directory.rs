//! The directory of objects against a plain map: random names, kinds, types and capacities are created and opened by two
//! participants until the directory or the heap is full, and every object keeps what was put into it.

use gimmal::bytemuck::{Pod, Zeroable};
use gimmal::{Array, Error, Kind, Lock, Pipe, Queue, QueueOptions, Scalar, Segment, SpscQueue, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;

/// Something to find again.
trait Content: Pod + PartialEq + std::fmt::Debug {
    const TEXT: &str;
    fn of(serial: u64) -> Self;
}

macro_rules! contents {
    ($($t:ty, $text:literal, $of:expr;)+) => {$(
        impl Content for $t {
            const TEXT: &str = $text;
            fn of(serial: u64) -> Self {
                $of(serial)
            }
        }
    )+};
}

/// Known by its last name only, to all who know it by another path.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Order {
    number: u64,
    amount: f32,
    kind: [u8; 4],
}

contents! {
    u8, "u8", |n| n as u8;
    i8, "i8", |n| n as i8;
    u64, "u64", |n| n;
    f64, "f64", |n| n as f64;
    [u16; 3], "[u16; 3]", |n| [n as u16; 3];
    Order, "Order", |n| Order { number: n, amount: n as f32, kind: [n as u8; 4] };
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Type {
    U8,
    I8,
    U64,
    F64,
    Triple,
    Order,
}

/// Types of `Value` and `Array` alone, or of everything else.
macro_rules! with_type {
    (scalar $of:expr, $T:ident => $body:expr) => {
        match $of {
            Type::U8 | Type::Triple => {
                type $T = u8;
                $body
            }
            Type::I8 => {
                type $T = i8;
                $body
            }
            Type::U64 | Type::Order => {
                type $T = u64;
                $body
            }
            Type::F64 => {
                type $T = f64;
                $body
            }
        }
    };
    ($of:expr, $T:ident => $body:expr) => {
        match $of {
            Type::U8 => {
                type $T = u8;
                $body
            }
            Type::I8 => {
                type $T = i8;
                $body
            }
            Type::U64 => {
                type $T = u64;
                $body
            }
            Type::F64 => {
                type $T = f64;
                $body
            }
            Type::Triple => {
                type $T = [u16; 3];
                $body
            }
            Type::Order => {
                type $T = Order;
                $body
            }
        }
    };
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Queue { keep_waiting: bool },
    Spsc { keep_waiting: bool },
    Pipe,
    Simplex,
    Shared,
    Value,
    Array,
    Lock,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Create,
    Open,
    OpenOrCreate,
}

#[derive(Clone, Debug)]
struct Op {
    name: String,
    what: What,
    element: Type,
    /// A pipe's way back.
    back: Type,
    capacity: usize,
    how: How,
    participant: usize,
}

fn element() -> impl Strategy<Value = Type> {
    use Type::*;
    // Mostly the same, so that names meet with little else that differs.
    prop_oneof![6 => Just(U64), 1 => Just(U8), 1 => Just(I8), 1 => Just(F64), 1 => Just(Triple), 1 => Just(Order)]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let name = prop_oneof![
        20 => "[a-c]",
        10 => "[g-z][0-9._-]{0,3}",
        1 => "x{62,64}",
        1 => Just(String::new()),
        1 => "[/ ä\u{0}]",
    ];
    let what = prop_oneof![
        any::<bool>().prop_map(|keep_waiting| What::Queue { keep_waiting }),
        any::<bool>().prop_map(|keep_waiting| What::Spsc { keep_waiting }),
        Just(What::Pipe),
        Just(What::Simplex),
        Just(What::Shared),
        Just(What::Value),
        Just(What::Array),
        Just(What::Lock),
    ];
    let capacity = prop_oneof![20 => Just(4_usize), 10 => 1..10_usize, 4 => 10..200_usize, 1 => Just(1 << 30)];
    let how = prop_oneof![Just(How::Create), Just(How::Open), Just(How::OpenOrCreate)];
    let op = (name, what, element(), element(), capacity, how, 0..2_usize).prop_map(
        |(name, what, element, back, capacity, how, participant)| Op {
            name,
            what,
            element,
            back,
            capacity,
            how,
            participant,
        },
    );
    vec(op, 1..60)
}

// --- the library's answer ---

impl Op {
    /// Does it, and puts something into what is new.
    fn run(&self, segment: &Segment, serial: u64) -> Result<(), Error> {
        let name = &self.name;
        match self.what {
            What::Queue { keep_waiting } => with_type!(self.element, T => {
                let options = QueueOptions::new().capacity(self.capacity).keep_waiting(keep_waiting);
                let queue = match self.how {
                    How::Create => options.create::<T>(segment, name)?,
                    How::Open => Queue::<T>::open(segment, name)?,
                    How::OpenOrCreate => options.open_or_create::<T>(segment, name)?,
                };
                if queue.is_empty() {
                    // No receiver was ever there to be missed.
                    queue.sender()?.try_send(T::of(serial)).unwrap();
                }
            }),
            What::Spsc { keep_waiting } => with_type!(self.element, T => {
                let options = QueueOptions::new().capacity(self.capacity).keep_waiting(keep_waiting);
                let queue = match self.how {
                    How::Create => options.create_spsc::<T>(segment, name)?,
                    How::Open => SpscQueue::<T>::open(segment, name)?,
                    How::OpenOrCreate => options.open_or_create_spsc::<T>(segment, name)?,
                };
                if queue.is_empty() {
                    queue.sender()?.try_send(T::of(serial)).unwrap();
                }
            }),
            What::Pipe => with_type!(self.element, T => with_type!(self.back, B => {
                match self.how {
                    How::Create => {
                        let (mut first, second) = Pipe::pair::<T, B>(segment, name, self.capacity)?;
                        first.try_send(T::of(serial)).unwrap();
                        first.release();
                        second.release();
                    }
                    How::Open => Pipe::connect::<B, T>(segment, name)?.release(),
                    How::OpenOrCreate => {
                        let mut first = Pipe::create::<T, B>(segment, name, self.capacity)?;
                        // Full if it is there already, and has one place.
                        let _ = first.try_send(T::of(serial));
                        first.release();
                    }
                }
            })),
            What::Simplex => with_type!(self.element, T => {
                match self.how {
                    How::Create => {
                        let (mut sender, receiver) = Pipe::simplex::<T>(segment, name, self.capacity)?;
                        sender.try_send(T::of(serial)).unwrap();
                        sender.release();
                        receiver.release();
                    }
                    How::Open | How::OpenOrCreate => {
                        let mut sender = Pipe::simplex_sender::<T>(segment, name, self.capacity)?;
                        let _ = sender.try_send(T::of(serial));
                        sender.release();
                    }
                }
            }),
            What::Shared => with_type!(self.element, T => with_type!(self.back, B => {
                match self.how {
                    How::Create => {
                        Pipe::shared::<T, B>(segment, name, self.capacity)?.0.try_send(T::of(serial)).unwrap();
                    }
                    How::Open | How::OpenOrCreate => {
                        let end = Pipe::shared_first::<T, B>(segment, name, self.capacity)?;
                        if end.sender.queue().is_empty() {
                            end.try_send(T::of(serial)).unwrap();
                        }
                    }
                }
            })),
            What::Value => with_type!(scalar self.element, T => {
                match self.how {
                    How::Create => { Value::create(segment, name, T::of(serial))?; }
                    How::Open => { Value::<T>::open(segment, name)?; }
                    How::OpenOrCreate => { Value::open_or_create(segment, name, T::of(serial))?; }
                }
            }),
            What::Array => with_type!(scalar self.element, T => {
                match self.how {
                    How::Create => Array::<T>::create(segment, name, self.capacity)?.fill(T::of(serial)),
                    How::Open => { Array::<T>::open(segment, name)?; }
                    How::OpenOrCreate => {
                        let array = Array::<T>::open_or_create(segment, name, self.capacity)?;
                        if array[0].load(Relaxed) == T::of(0) {
                            array.fill(T::of(serial));
                        }
                    }
                }
            }),
            What::Lock => with_type!(self.element, T => {
                match self.how {
                    How::Create => { Lock::create(segment, name, T::of(serial))?; }
                    How::Open => { Lock::<T>::open(segment, name)?; }
                    How::OpenOrCreate => { Lock::open_or_create(segment, name, T::of(serial))?; }
                }
            }),
        }
        Ok(())
    }

    /// The oldest thing in it.
    fn assert_holds(&self, segment: &Segment, serial: u64) {
        fn scalar<T: Content + Scalar>(op: &Op, segment: &Segment, serial: u64) {
            if op.what == What::Value {
                assert_eq!(Value::<T>::open(segment, &op.name).unwrap().load(Relaxed), T::of(serial));
            } else {
                let array = Array::<T>::open(segment, &op.name).unwrap();
                assert_eq!(array.to_vec(), vec![T::of(serial); op.capacity]);
            }
        }
        let name = &self.name;
        match self.what {
            What::Queue { .. } => with_type!(self.element, T => {
                let receiver = Queue::<T>::open(segment, name).unwrap().receiver().unwrap();
                assert_eq!(receiver.try_recv(), Ok(T::of(serial)));
            }),
            What::Spsc { .. } => with_type!(self.element, T => {
                let mut receiver = SpscQueue::<T>::open(segment, name).unwrap().receiver().unwrap();
                assert_eq!(receiver.try_recv(), Ok(T::of(serial)));
            }),
            What::Pipe => with_type!(self.element, T => with_type!(self.back, B => {
                assert_eq!(Pipe::connect::<B, T>(segment, name).unwrap().try_recv(), Ok(T::of(serial)));
            })),
            What::Simplex => with_type!(self.element, T => {
                let mut receiver = Pipe::simplex_receiver::<T>(segment, name, self.capacity).unwrap();
                assert_eq!(receiver.try_recv(), Ok(T::of(serial)));
            }),
            What::Shared => with_type!(self.element, T => with_type!(self.back, B => {
                let end = Pipe::shared_second::<B, T>(segment, name, self.capacity).unwrap();
                assert_eq!(end.try_recv(), Ok(T::of(serial)));
            })),
            What::Value | What::Array => with_type!(scalar self.element, T => scalar::<T>(self, segment, serial)),
            What::Lock => with_type!(self.element, T => {
                assert_eq!(*Lock::<T>::open(segment, name).unwrap().lock().unwrap(), T::of(serial));
            }),
        }
    }
}

// --- the plain model ---

/// What the model says of a call.
#[derive(Debug, PartialEq)]
enum Answer {
    Ok,
    BadName,
    Exists,
    NotFound,
    Kind {
        expected: Kind,
        found: Kind,
    },
    Type,
    Capacity {
        expected: u64,
        found: u64,
    },
    Option,
    /// One of these or both.
    Full {
        room: Option<(usize, usize)>,
        slot: bool,
    },
}

impl Op {
    fn kind(&self) -> Kind {
        match self.what {
            What::Queue { .. } => Kind::Queue,
            What::Spsc { .. } => Kind::SpscQueue,
            What::Pipe | What::Simplex => Kind::Pipe,
            What::Shared => Kind::SharedPipe,
            What::Value => Kind::Value,
            What::Array => Kind::Array,
            What::Lock => Kind::Lock,
        }
    }

    fn text(&self) -> String {
        match self.what {
            What::Value | What::Array => with_type!(scalar self.element, T => T::TEXT.to_owned()),
            What::Pipe | What::Shared => {
                format!("{} -> {}", with_type!(self.element, T => T::TEXT), with_type!(self.back, T => T::TEXT))
            }
            _ => with_type!(self.element, T => T::TEXT.to_owned()),
        }
    }

    fn capacity(&self) -> u64 {
        match self.what {
            What::Value | What::Lock => 1,
            What::Array => self.capacity as u64,
            _ => self.capacity.next_power_of_two() as u64,
        }
    }

    fn bytes(&self) -> usize {
        let n = self.capacity;
        match self.what {
            What::Queue { .. } => with_type!(self.element, T => Queue::<T>::bytes(n)),
            What::Spsc { .. } | What::Simplex => with_type!(self.element, T => SpscQueue::<T>::bytes(n)),
            What::Pipe => {
                let there = with_type!(self.element, T => SpscQueue::<T>::bytes(n));
                there + with_type!(self.back, T => SpscQueue::<T>::bytes(n))
            }
            What::Shared => {
                let there = with_type!(self.element, T => Queue::<T>::bytes(n));
                there + with_type!(self.back, T => Queue::<T>::bytes(n))
            }
            What::Value => 128,
            What::Array => with_type!(scalar self.element, T => Array::<T>::bytes(n)),
            What::Lock => (64 + with_type!(self.element, T => size_of::<T>())).next_multiple_of(128),
        }
    }

    /// Options beside the capacity.
    fn keep_waiting(&self) -> bool {
        match self.what {
            What::Queue { keep_waiting } | What::Spsc { keep_waiting } => keep_waiting,
            _ => false,
        }
    }

    /// What these have no separate call for makes what is not there.
    fn how(&self) -> How {
        match (self.what, self.how) {
            (What::Simplex | What::Shared, How::Open) => How::OpenOrCreate,
            (_, how) => how,
        }
    }

    fn has_good_name(&self) -> bool {
        (1..=63).contains(&self.name.len())
            && self.name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    }
}

struct Model {
    /// What made each object, and the serial number of what was put into it.
    objects: Vec<(Op, u64)>,
    free: usize,
    most: usize,
}

impl Model {
    fn answer(&mut self, op: &Op, serial: u64) -> Answer {
        if !op.has_good_name() {
            return Answer::BadName;
        }
        let there = self.objects.iter().find(|(object, _)| object.name == op.name).map(|(object, _)| object);
        match (there, op.how()) {
            (Some(_), How::Create) => Answer::Exists,
            (None, How::Open) => Answer::NotFound,
            (Some(object), how) => {
                let exactly = how == How::OpenOrCreate;
                let simplex = |op: &Op| op.what == What::Simplex;
                if object.kind() != op.kind() {
                    Answer::Kind { expected: op.kind(), found: object.kind() }
                } else if object.text() != op.text() || simplex(object) != simplex(op) {
                    Answer::Type
                } else if exactly && object.capacity() != op.capacity() {
                    Answer::Capacity { expected: op.capacity(), found: object.capacity() }
                } else if exactly && object.keep_waiting() != op.keep_waiting() {
                    Answer::Option
                } else {
                    Answer::Ok
                }
            }
            (None, _) => {
                let needed = op.bytes();
                let room = (needed > self.free).then_some((needed, self.free));
                let slot = self.objects.len() == self.most;
                if room.is_some() || slot {
                    return Answer::Full { room, slot };
                }
                self.free -= needed;
                self.objects.push((op.clone(), serial));
                Answer::Ok
            }
        }
    }
}

fn assert_answer(result: Result<(), Error>, expected: &Answer, op: &Op, most: usize) {
    let fits = match (&result, expected) {
        (Ok(()), Answer::Ok) => true,
        (Err(Error::BadName { .. }), Answer::BadName) => true,
        (Err(Error::Exists { name }), Answer::Exists) | (Err(Error::NotFound { name }), Answer::NotFound) => {
            *name == op.name
        }
        (Err(Error::KindMismatch { name, expected: wanted, found: has }), Answer::Kind { expected, found }) => {
            *name == op.name && (wanted, has) == (expected, found)
        }
        (Err(Error::TypeMismatch { name, expected, found }), Answer::Type) => {
            // A pipe is opened from its other end.
            *name == op.name && expected != found && (expected.contains(&op.text()) || op.what == What::Pipe)
        }
        (Err(Error::CapacityMismatch { name, expected: wanted, found: has }), Answer::Capacity { expected, found }) => {
            *name == op.name && (wanted, has) == (expected, found)
        }
        (Err(Error::OptionMismatch { name, option: "keep_waiting" }), Answer::Option) => *name == op.name,
        (Err(Error::NoRoom { needed, available }), Answer::Full { room, .. }) => *room == Some((*needed, *available)),
        (Err(Error::NoObjectSlot { maximum }), Answer::Full { slot, .. }) => *slot && *maximum as usize == most,
        _ => false,
    };
    assert!(fits, "{op:?}: {result:?} instead of {expected:?}");
}

fn run(size: usize, most: usize, ops: &[Op]) {
    let options = Segment::options().size(size).max_participants(3).max_objects(most as u32);
    let segment = options.anonymous().unwrap();
    let segments = [Segment::from_fd(&segment).unwrap(), segment];
    let mut model = Model { objects: Vec::new(), free: segments[0].free(), most };
    for (serial, op) in (1..).zip(ops) {
        let result = op.run(&segments[op.participant], serial);
        let expected = model.answer(op, serial);
        assert_answer(result, &expected, op, most);
        assert_eq!(segments.each_ref().map(Segment::free), [model.free; 2]);
    }
    let snapshot = segments[0].snapshot().unwrap();
    assert_eq!(snapshot.used, snapshot.size - model.free);
    assert_eq!(snapshot.objects.len(), model.objects.len());
    for (info, (op, _)) in snapshot.objects.iter().zip(&model.objects) {
        assert_eq!(
            (info.name.as_str(), info.kind, info.element.as_str(), info.capacity, info.bytes),
            (op.name.as_str(), op.kind(), op.text().as_str(), op.capacity(), op.bytes())
        );
    }
    for (i, (op, serial)) in model.objects.iter().enumerate() {
        op.assert_holds(&segments[i % 2], *serial);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn directory_agrees_with_a_plain_map(pages in 2..20_usize, most in 1..30_usize, ops in ops()) {
        run(4096 * pages + 4096, most, &ops);
    }
}

#[test]
fn the_last_byte_and_the_last_entry_can_be_used() {
    let segment = Segment::options().size(16 << 10).max_participants(1).max_objects(8).anonymous().unwrap();
    for i in 0..7 {
        Value::<u8>::create(&segment, &format!("value-{i}"), i).unwrap();
    }
    // The event in front of an array takes 128 bytes, as its size without elements would say.
    let length = segment.free() - 128;
    let array = Array::<u8>::create(&segment, "array", length).unwrap();
    assert_eq!(segment.free(), 0);
    array.fill(0xff);
    for i in 0..7 {
        assert_eq!(Value::<u8>::open(&segment, &format!("value-{i}")).unwrap().load(Relaxed), i);
    }
    assert_eq!(Array::<u8>::open(&segment, "array").unwrap().to_vec(), vec![0xff; length]);
}
