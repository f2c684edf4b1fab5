//! Attaches to hostile memory: arbitrary bytes, or a valid segment with arbitrary edits, which go on while it is in use.
//!
//! Whatever the bytes say, nothing may panic, abort, hang, or touch memory outside the mapping. The mapping lies between
//! inaccessible pages as far as the kernel's choice of addresses can be steered, since AddressSanitizer knows nothing of
//! mappings.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use gimmal::{Array, Bytes, End, Latest, Lock, Pipe, Pod, Queue, Segment, SharedEnd, SpscQueue, Str, Value, spsc};
use libfuzzer_sys::fuzz_target;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes of the valid segment.
const SIZE: usize = 16 << 10;
/// Inaccessible bytes on both sides of the mappings.
const FENCE: usize = 1 << 20;

/// Kinds of objects that are in the valid segment, by name, in this order.
const NAMES: [&str; 9] = ["queue", "spsc", "pipe", "simplex", "shared", "value", "array", "lock", "latest"];

#[derive(Arbitrary, Debug)]
enum Edit {
    Byte {
        at: u16,
        value: u8,
    },
    Word {
        at: u16,
        value: Number,
    },
    Half {
        at: u16,
        value: Number,
    },
    Fill {
        at: u16,
        length: u8,
        value: u8,
    },
    /// A word, or half of one, of the segment's header.
    Header {
        field: u8,
        value: Number,
    },
    /// A field of a directory entry.
    Field {
        object: u8,
        field: u8,
        value: Number,
    },
    /// A slot word of a ring.
    Slot {
        object: u8,
        index: u8,
        round: Number,
        state: u8,
        owner: u8,
    },
    /// A word of a ring's header, or of another object's.
    Head {
        object: u8,
        word: u8,
        value: Number,
    },
    /// A participant that says it has joined.
    Participant {
        id: u8,
        state: u8,
    },
}

/// Numbers that matter more often than chance would have it.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Small(u8),
    Negative(u8),
    Power(u8),
    BelowPower(u8),
    Pages(u8),
    /// A seat or lock word: process, state, owner.
    Held {
        state: u8,
        owner: u8,
    },
    Any(u64),
}

impl Number {
    fn get(self) -> u64 {
        match self {
            Self::Small(n) => n.into(),
            Self::Negative(n) => u64::from(n).wrapping_neg(),
            Self::Power(n) => 1 << (n % 64),
            Self::BelowPower(n) => (1 << (n % 64)) - 1,
            Self::Pages(n) => u64::from(n) * 4096,
            Self::Held { state, owner } => {
                u64::from(std::process::id()) << 32 | u64::from(state % 16) << 12 | u64::from(owner)
            }
            Self::Any(n) => n,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    Edit(Edit),
    Snapshot,
    Recover,
    Peers,
    /// Opens an object by one name as what another one is.
    Open {
        name: u8,
        kind: u8,
    },
    Create {
        kind: u8,
        capacity: u8,
    },
    /// Joins once more.
    Join,
    Leave,
    /// Uses a handle.
    Use {
        handle: u8,
        how: u8,
        count: u8,
    },
    Close {
        handle: u8,
    },
}

/// What lies where in the valid segment.
struct Valid {
    bytes: Vec<u8>,
    directory: usize,
    participants: usize,
    /// Offset, and stride of its slots, of each object.
    objects: Vec<(usize, usize)>,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A segment with one object of each kind and messages in it, as its participant has left it.
fn valid() -> &'static Valid {
    static VALID: OnceLock<Valid> = OnceLock::new();
    VALID.get_or_init(|| {
        let segment = Segment::options().size(SIZE).max_participants(4).max_objects(12).anonymous().unwrap();
        let queue = Queue::<u64>::create(&segment, NAMES[0], 4).unwrap();
        queue.sender().unwrap().send_slice(&[1, 2, 3]).unwrap();
        queue.receiver().unwrap().recv().unwrap();
        let queue = SpscQueue::<u64>::create(&segment, NAMES[1], 4).unwrap();
        queue.sender().unwrap().send_slice(&[1, 2, 3]).unwrap();
        queue.receiver().unwrap().recv().unwrap();
        let (mut first, second) = Pipe::pair::<u32, [u8; 24]>(&segment, NAMES[2], 4).unwrap();
        first.send(1).unwrap();
        (first.release(), second.release());
        let (mut sender, receiver) = Pipe::simplex::<u8>(&segment, NAMES[3], 64).unwrap();
        sender.send(1).unwrap();
        (sender.release(), receiver.release());
        let (first, second) = Pipe::shared::<u16, u64>(&segment, NAMES[4], 2).unwrap();
        first.send(1).unwrap();
        second.send(1).unwrap();
        Value::<u64>::create(&segment, NAMES[5], 1).unwrap();
        Array::<i16>::create(&segment, NAMES[6], 9).unwrap().fill(1);
        Lock::<[u64; 3]>::create(&segment, NAMES[7], [1; 3]).unwrap();
        let latest = Latest::create(&segment, NAMES[8], TEXT).unwrap();
        latest.store(TEXT).unwrap();
        drop(latest);
        let strides = [16, 8, 4, 1, 16, 8, 2, 8, 128];
        let file = File::from(std::os::fd::AsFd::as_fd(&segment).try_clone_to_owned().unwrap());
        drop((first, second, queue, segment));
        let mut bytes = vec![0; SIZE];
        file.read_exact_at(&mut bytes, 0).unwrap();
        // See `Geometry` and `Entry` in src/layout.rs.
        let (participants, directory) = (u64_at(&bytes, 48) as usize, u64_at(&bytes, 56) as usize);
        let at = |index: usize| u64_at(&bytes, directory + index * 192 + 8 + 8) as usize;
        let objects = strides.iter().enumerate().map(|(index, &stride)| (at(index), stride)).collect();
        Valid { directory, participants, objects, bytes }
    })
}

/// A file that can be written and not resized, rewritten for each case.
fn sealed(size: usize) -> File {
    let file = File::from(memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
    file.set_len(size as u64).unwrap();
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

thread_local! {
    static FILE: File = { fence_in(); sealed(SIZE) };
    /// The one that holds arbitrary bytes, and how many.
    static RAW: RefCell<Option<(usize, File)>> = const { RefCell::new(None) };
}

/// Makes the two highest gaps in the address space that fit a segment's mapping gaps between inaccessible pages: that is
/// where the kernel puts the next two.
fn fence_in() {
    let map = |length: usize| {
        let length = length.try_into().unwrap();
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }.unwrap()
    };
    let region = map(3 * FENCE + 2 * SIZE);
    let holes = [region.as_ptr().wrapping_byte_add(2 * FENCE + SIZE), region.as_ptr().wrapping_byte_add(FENCE)];
    for hole in holes {
        let hole = NonNull::new(hole).unwrap();
        // SAFETY: a part of the region above, which nothing uses.
        unsafe { munmap(hole, SIZE) }.unwrap();
    }
    let mut found = Vec::new();
    // Higher gaps are filled for good.
    while found.len() < holes.len() {
        let mapped = map(SIZE);
        if holes.contains(&mapped.as_ptr()) {
            found.push(mapped);
        }
    }
    for mapped in found {
        // SAFETY: mapped above, and nothing uses it.
        unsafe { munmap(mapped, SIZE) }.unwrap();
    }
}

fn write(edit: &Edit, valid: &Valid, file: &File) {
    let put = |at: usize, bytes: &[u8]| {
        let at = at % SIZE;
        let bytes = &bytes[..bytes.len().min(SIZE - at)];
        file.write_all_at(bytes, at as u64).unwrap();
    };
    let object = |which: u8| valid.objects[usize::from(which) % valid.objects.len()];
    match *edit {
        Edit::Byte { at, value } => put(at.into(), &[value]),
        Edit::Word { at, value } => put(usize::from(at) & !7, &value.get().to_le_bytes()),
        Edit::Half { at, value } => put(usize::from(at) & !3, &(value.get() as u32).to_le_bytes()),
        Edit::Fill { at, length, value } => put(at.into(), &vec![value; usize::from(length)]),
        Edit::Header { field, value } => match field % 32 {
            word @ 0..12 => put(usize::from(word) * 8, &value.get().to_le_bytes()),
            half => put(usize::from(half - 12) * 4, &(value.get() as u32).to_le_bytes()),
        },
        Edit::Field { object, field, value } => {
            // Words of the entry, or halves of its first and fifth to eighth.
            let entry = valid.directory + usize::from(object % 12) * 192;
            match field % 40 {
                word @ 0..24 => put(entry + usize::from(word) * 8, &value.get().to_le_bytes()),
                half => put(entry + usize::from(half - 24) * 4, &(value.get() as u32).to_le_bytes()),
            }
        }
        Edit::Slot { object: which, index, round, state, owner } => {
            let (offset, stride) = object(which);
            let word = round.get() << 12 | u64::from(state % 8) << 9 | u64::from(owner % 6);
            put(offset + 768 + usize::from(index % 16) * stride, &word.to_le_bytes());
        }
        Edit::Head { object: which, word, value } => {
            put(object(which).0 + usize::from(word % 98) * 8, &value.get().to_le_bytes());
        }
        Edit::Participant { id, state } => {
            put(valid.participants + usize::from(id % 4) * 32, &u32::from(state % 3).to_le_bytes());
        }
    }
}

/// What a `Latest` holds: text beside bytes.
type Text = [Bytes<13>; 2];
const TEXT: Text = [Bytes::new(); 2];

/// Whatever was opened.
enum Handle {
    Queue(Queue<u64>, Option<gimmal::Sender<u64>>, Option<gimmal::Receiver<u64>>),
    Spsc(SpscQueue<u64>, Option<spsc::Sender<u64>>, Option<spsc::Receiver<u64>>),
    First(End<u32, [u8; 24]>),
    Second(End<[u8; 24], u32>),
    SimplexSender(spsc::Sender<u8>),
    SimplexReceiver(spsc::Receiver<u8>),
    SharedFirst(SharedEnd<u16, u64>),
    SharedSecond(SharedEnd<u64, u16>),
    Value(Value<u64>),
    Float(Value<f32>),
    Array(Array<i16>),
    Lock(Lock<[u64; 3]>),
    Latest(Latest<Text>),
}

/// Opens an object by a name that may be another's.
fn open(segment: &Segment, name: &str, kind: u8) -> Option<Handle> {
    Some(match kind % 14 {
        0 => {
            let queue = Queue::open(segment, name).ok()?;
            let (sender, receiver) = (queue.sender().ok(), queue.receiver().ok());
            Handle::Queue(queue, sender, receiver)
        }
        1 => {
            let queue = SpscQueue::open(segment, name).ok()?;
            let (sender, receiver) = (queue.sender().ok(), queue.receiver().ok());
            Handle::Spsc(queue, sender, receiver)
        }
        2 => Handle::First(Pipe::create(segment, name, 4).ok()?),
        3 => Handle::Second(Pipe::connect(segment, name).ok()?),
        4 => Handle::SimplexSender(Pipe::simplex_sender(segment, name, 64).ok()?),
        5 => Handle::SimplexReceiver(Pipe::simplex_receiver(segment, name, 64).ok()?),
        6 => Handle::SharedFirst(Pipe::shared_first(segment, name, 2).ok()?),
        7 => Handle::SharedSecond(Pipe::shared_second(segment, name, 2).ok()?),
        8 => Handle::Value(Value::open(segment, name).ok()?),
        9 => Handle::Float(Value::open(segment, name).ok()?),
        10 => Handle::Array(Array::open(segment, name).ok()?),
        11 => Handle::Lock(Lock::open(segment, name).ok()?),
        12 => Handle::Latest(Latest::open(segment, name).ok()?),
        _ => {
            // Wrong types of all kinds.
            let _ = Queue::<u32>::open(segment, name);
            let _ = Queue::<[u64; 128]>::open_or_create(segment, name, 1);
            let _ = SpscQueue::<i64>::open_or_create(segment, name, 4);
            let _ = Pipe::connect::<u8, u8>(segment, name);
            let _ = Array::<u16>::open_or_create(segment, name, 9);
            let _ = Lock::<()>::open_or_create(segment, name, ());
            let _ = Latest::<u16>::open_or_create(segment, name, 1);
            return None;
        }
    })
}

fn create(segment: &Segment, kind: u8, capacity: u8) {
    let capacity = usize::from(capacity);
    let name = ["new", "other"][usize::from(kind / 9 % 2)];
    match kind % 9 {
        0 => drop(Queue::<u64>::create(segment, name, capacity)),
        1 => drop(SpscQueue::<u8>::open_or_create(segment, name, capacity)),
        2 => drop(Pipe::pair::<u32, u32>(segment, name, capacity)),
        3 => drop(Pipe::simplex::<u64>(segment, name, capacity)),
        4 => drop(Pipe::shared::<u64, u8>(segment, name, capacity)),
        5 => drop(Value::<bool>::open_or_create(segment, name, true)),
        6 => drop(Array::<f64>::create(segment, name, capacity * 16)),
        7 => drop(Latest::<[u8; 3]>::create(segment, name, [1; 3])),
        _ => drop(Lock::<u64>::create(segment, name, 1)),
    }
}

/// A message of any type.
fn any<T: Pod>(count: u8) -> T {
    let mut message = T::zeroed();
    gimmal::bytemuck::bytes_of_mut(&mut message).fill(count);
    message
}

fn use_spsc_sender<T: Pod>(sender: &mut spsc::Sender<T>, how: u8, count: u8) {
    match how % 5 {
        0 => drop(sender.try_send(any(count))),
        1 => drop(sender.send_timeout(any(count), Duration::ZERO)),
        2 => drop(sender.try_send_slice(&vec![any(count); usize::from(count)])),
        3 => drop(sender.send_deadline(any(count), Instant::now())),
        _ => drop(sender.queue().is_full()),
    }
}

fn use_spsc_receiver<T: Pod>(receiver: &mut spsc::Receiver<T>, how: u8, count: u8) {
    match how % 6 {
        0 => drop(receiver.try_recv()),
        1 => drop(receiver.recv_timeout(Duration::ZERO)),
        2 => drop(receiver.try_recv_many(&mut Vec::new(), count.into())),
        3 => drop(receiver.try_iter().take(100).count()),
        4 => drop(receiver.poll(Duration::ZERO)),
        _ => drop(receiver.queue().len()),
    }
}

fn use_sender<T: Pod>(sender: &gimmal::Sender<T>, how: u8, count: u8) {
    match how % 5 {
        0 => drop(sender.try_send(any(count))),
        1 => drop(sender.send_timeout(any(count), Duration::ZERO)),
        2 => drop(sender.try_send_slice(&vec![any(count); usize::from(count)])),
        3 => drop(sender.clone().try_send(any(count))),
        _ => drop(sender.queue().is_full()),
    }
}

fn use_receiver<T: Pod>(receiver: &gimmal::Receiver<T>, how: u8, count: u8) {
    match how % 5 {
        0 => drop(receiver.try_recv()),
        1 => drop(receiver.recv_timeout(Duration::ZERO)),
        2 => drop(receiver.try_recv_many(&mut Vec::new(), count.into())),
        3 => drop(receiver.clone().try_iter().take(100).count()),
        _ => drop((receiver.queue().len(), receiver.queue().is_closed(), format!("{receiver:?}"))),
    }
}

fn use_handle(handle: &mut Handle, how: u8, count: u8) {
    let (sends, how) = (how % 2 == 0, how / 2);
    match handle {
        Handle::Queue(_, Some(sender), _) if sends => use_sender(sender, how, count),
        Handle::Queue(_, _, Some(receiver)) => use_receiver(receiver, how, count),
        Handle::Queue(queue, ..) => drop((queue.len(), queue.is_full(), queue.is_closed(), queue.capacity())),
        Handle::Spsc(_, Some(sender), _) if sends => use_spsc_sender(sender, how, count),
        Handle::Spsc(_, _, Some(receiver)) => use_spsc_receiver(receiver, how, count),
        Handle::Spsc(queue, ..) => drop((queue.len(), queue.is_full(), queue.is_closed(), queue.capacity())),
        Handle::First(end) if sends => drop((end.try_send(count.into()), end.send_timeout(1, Duration::ZERO))),
        Handle::First(end) => drop((end.try_recv(), end.recv_timeout(Duration::ZERO), end.poll(Duration::ZERO))),
        Handle::Second(end) if sends => drop((end.try_send([count; 24]), end.send_timeout([1; 24], Duration::ZERO))),
        Handle::Second(end) => drop((end.try_recv(), end.recv_timeout(Duration::ZERO), end.poll(Duration::ZERO))),
        Handle::SimplexSender(sender) => use_spsc_sender(sender, how, count),
        Handle::SimplexReceiver(receiver) => use_spsc_receiver(receiver, how, count),
        Handle::SharedFirst(end) if sends => use_sender(&end.sender, how, count),
        Handle::SharedFirst(end) => use_receiver(&end.receiver, how, count),
        Handle::SharedSecond(end) if sends => use_sender(&end.sender, how, count),
        Handle::SharedSecond(end) => use_receiver(&end.receiver, how, count),
        Handle::Value(value) => match how % 4 {
            0 => drop(value.fetch_add(count.into(), Relaxed)),
            1 => drop(value.wait_while_timeout(Duration::ZERO, |v| v == u64::from(count))),
            2 => value.notify_all(),
            _ => drop(value.update(Relaxed, |v| v / 2)),
        },
        Handle::Float(value) => drop(value.fetch_max(count.into(), Relaxed)),
        Handle::Array(array) => match how % 4 {
            0 => drop((array.to_vec(), array.read(count.into(), &mut [0; 5]))),
            1 => array.fill(count.into()),
            2 => drop(array.wait_while_timeout(Duration::ZERO, |cells| cells.len() > 3)),
            _ => drop((array.write(count.into(), &[1; 4]), array.notify_one())),
        },
        Handle::Lock(lock) => match how % 3 {
            0 => drop(lock.try_lock().map(|mut guard| guard[0] = guard[0].wrapping_add(1))),
            1 => drop(lock.lock_timeout(Duration::ZERO).map(|mut guard| guard[1] = guard[2])),
            _ => drop(lock.try_lock().map_err(|e| e.into_guard().map(|mut guard| guard[2] = u64::from(count)))),
        },
        Handle::Latest(latest) => match how % 5 {
            0 => drop(latest.store_timeout(&any(count), Duration::ZERO)),
            1 => drop((latest.try_load(), latest.version(), format!("{latest:?}"))),
            2 => read_text(&latest.load()),
            3 => drop(latest.wait_changed_timeout(count.into(), Duration::ZERO)),
            _ => drop(latest.changed_since(count.into()).map(|news| read_text(&news.value))),
        },
    }
}

/// Whatever bits it has.
fn read_text(text: &Text) {
    let mut bytes = text[0];
    let mut text: Str<13> = gimmal::bytemuck::cast(text[1]);
    let _ = (text.push('ä'), bytes.push_slice(&[1, 2]), text.to_str().is_ok(), text < Str::truncated("x"));
    bytes.truncate(text.len());
    assert!(!format!("{text:?} {text} {bytes:?}").is_empty());
}

fn close(handle: &mut Handle) {
    match handle {
        Handle::Queue(queue, ..) => queue.close(),
        Handle::Spsc(_, Some(sender), _) => sender.close(),
        Handle::SharedFirst(end) => end.sender.close(),
        _ => {}
    }
}

/// What came of a descriptor.
fn attach(file: &File) -> Option<Segment> {
    match Segment::from_fd(file) {
        Ok(segment) => Some(segment),
        Err(e) => {
            assert!(!e.to_string().is_empty());
            None
        }
    }
}

fn run(input: &mut Unstructured<'_>, file: &File, valid: &Valid) -> arbitrary::Result<()> {
    let Some(segment) = attach(file) else { return Ok(()) };
    let (mut other, mut handles): (Option<Segment>, Vec<Handle>) = (None, Vec::new());
    let mut steps = 0;
    while !input.is_empty() && steps < 64 {
        steps += 1;
        match Step::arbitrary(input)? {
            Step::Edit(edit) => write(&edit, valid, file),
            Step::Snapshot => drop((segment.snapshot(), segment.free(), format!("{segment:?}"))),
            Step::Recover => drop(segment.recover()),
            Step::Peers => drop(segment.peers()),
            Step::Open { name, kind } if handles.len() < 16 => {
                let through = other.as_ref().filter(|_| kind >= 128).unwrap_or(&segment);
                handles.extend(open(through, NAMES[usize::from(name) % NAMES.len()], kind));
            }
            Step::Create { kind, capacity } => create(&segment, kind, capacity),
            Step::Join if other.is_none() => other = attach(file),
            Step::Leave => other = None,
            Step::Use { handle, how, count } if !handles.is_empty() => {
                let index = usize::from(handle) % handles.len();
                use_handle(&mut handles[index], how, count);
            }
            Step::Close { handle } if !handles.is_empty() => {
                let index = usize::from(handle) % handles.len();
                if handle < 128 { close(&mut handles[index]) } else { drop(handles.swap_remove(index)) }
            }
            _ => {}
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let valid = valid();
    let (mut input, Some(&choice)) = (Unstructured::new(data), data.first()) else { return };
    if choice < 8 {
        // Arbitrary bytes, behind the right magic or not.
        RAW.with_borrow_mut(|kept| {
            let bytes = &data[1..];
            if kept.as_ref().is_none_or(|(size, _)| *size != bytes.len()) {
                *kept = Some((bytes.len(), sealed(bytes.len())));
            }
            let (_, file) = kept.as_ref().unwrap();
            file.write_all_at(bytes, 0).unwrap();
            if choice < 4 {
                let head = &valid.bytes[..bytes.len().min(8 * usize::from(choice + 1))];
                file.write_all_at(head, 0).unwrap();
            }
            drop(attach(file));
        });
        return;
    }
    FILE.with(|file| {
        file.write_all_at(&valid.bytes, 0).unwrap();
        let edits = input.arbitrary::<u8>().unwrap_or(0) % 8;
        for _ in 0..edits {
            let Ok(edit) = Edit::arbitrary(&mut input) else { return };
            write(&edit, valid, file);
        }
        let _ = run(&mut input, file, valid);
    });
});
