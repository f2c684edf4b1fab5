//! What objects are: kinds, element types, and the bytes each shape takes.

use core::mem::{align_of, size_of};
use std::fmt;

use crate::error::Error;
use crate::layout::{
    BLOCK, ENTRY_BYTES, ENTRY_BYTES_2, ENTRY_SIMPLEX, ENTRY_UNBOUNDED, EntryFields, LINE, MAP_UNIT, NAME_BYTES,
    round_up,
};
use crate::ring;

/// The kinds of objects a segment can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum Kind {
    /// [`crate::Queue`]
    Queue = 1,
    /// [`crate::SpscQueue`]
    SpscQueue = 2,
    /// [`crate::Pipe`] with one holder at each end
    Pipe = 3,
    /// [`crate::Pipe::shared`]
    SharedPipe = 4,
    /// [`crate::Value`]
    Value = 5,
    /// [`crate::Array`]
    Array = 6,
    /// [`crate::Lock`]
    Lock = 7,
    /// [`crate::Latest`]
    Latest = 8,
    /// [`crate::LossyQueue`]
    LossyQueue = 9,
}

impl Kind {
    fn from_u32(n: u32) -> Option<Self> {
        use Kind::{Array, Latest, Lock, LossyQueue, Pipe, Queue, SharedPipe, SpscQueue, Value};
        let all = [Queue, SpscQueue, Pipe, SharedPipe, Value, Array, Lock, Latest, LossyQueue];
        all.into_iter().find(|&kind| kind as u32 == n)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queue => "Queue",
            Self::SpscQueue => "SpscQueue",
            Self::Pipe => "Pipe",
            Self::SharedPipe => "SharedPipe",
            Self::Value => "Value",
            Self::Array => "Array",
            Self::Lock => "Lock",
            Self::Latest => "Latest",
            Self::LossyQueue => "LossyQueue",
        })
    }
}

/// An element type as other processes know it: they may come from another compiler, so the path before the last name is
/// dropped and size and alignment are compared as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ElementType {
    pub(crate) name: String,
    /// If it is bytes: those of a block.
    pub(crate) size: u32,
    pub(crate) align: u32,
    /// Whether it is bytes, of any number.
    pub(crate) bytes: bool,
}

impl ElementType {
    pub(crate) fn of<T>() -> Self {
        Self::new(core::any::type_name::<T>(), size_of::<T>(), align_of::<T>(), false)
    }

    pub(crate) fn new(name: &str, size: usize, align: usize, bytes: bool) -> Self {
        // A pipe's two names are told apart by an arrow between spaces.
        let name = short_type_name(name).replace(" -> ", "->");
        Self { name, size: size as u32, align: align as u32, bytes }
    }
}

/// `a::b::Order<c::Item>` → `Order<Item>`.
fn short_type_name(full: &str) -> String {
    let mut short = String::new();
    let mut segment = String::new();
    for c in full.chars() {
        match c {
            ':' => segment.clear(),
            c if c.is_alphanumeric() || c == '_' => segment.push(c),
            c => {
                short.push_str(&segment);
                segment.clear();
                short.push(c);
            }
        }
    }
    short.push_str(&segment);
    short
}

/// Everything that fixes an object's size and meaning; what `create` writes and `open` compares.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) flags: u32,
    pub(crate) capacity: u64,
    pub(crate) element: ElementType,
    /// The second direction of a pipe.
    pub(crate) second: Option<ElementType>,
    /// Of a queue without a bound: how it takes memory.
    pub(crate) unbounded: Option<Unbounded>,
}

/// How a queue without a bound takes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unbounded {
    /// Chunks that may have memory at once.
    pub(crate) limit: u32,
    /// Slots of a chunk, the logarithm.
    pub(crate) shift: u32,
    /// Where its slots begin in the file, a multiple of [`MAP_UNIT`]; 0 before it is made.
    pub(crate) offset: u64,
}

/// Chunks that a queue without a bound may have at most, so that their words stay few.
const MOST_CHUNKS: u64 = 1 << 16;
/// Bytes of a chunk, unless that makes too many of them.
const CHUNK: usize = 1 << 20;

impl Shape {
    /// Bytes of the object; `None` if that is beyond the address space.
    pub(crate) fn bytes(&self) -> Option<usize> {
        let capacity = usize::try_from(self.capacity).ok()?;
        let size = self.element.size as usize;
        match self.kind {
            Kind::Queue | Kind::SpscQueue | Kind::LossyQueue => self.ring_bytes(&self.element),
            Kind::Pipe | Kind::SharedPipe => {
                let first = self.ring_bytes(&self.element)?;
                match &self.second {
                    Some(second) => first.checked_add(self.ring_bytes(second)?),
                    None => Some(first),
                }
            }
            Kind::Value => Some(LINE),
            Kind::Array => round_up(size.checked_mul(capacity)?, LINE)?.checked_add(LINE),
            Kind::Lock => round_up(size.checked_add(crate::lock::DATA_OFFSET)?, LINE),
            Kind::Latest => crate::latest::bytes(size),
        }
    }

    fn is_mpmc(&self) -> bool {
        matches!(self.kind, Kind::Queue | Kind::SharedPipe)
    }

    /// Slots of a ring of `element`; of bytes, there is at least as much as can be mapped.
    fn slots(&self, element: &ElementType) -> u64 {
        match element.bytes {
            true => self.capacity.max((MAP_UNIT / element.size.max(1) as usize) as u64),
            false => self.capacity,
        }
    }

    /// Distance between the slots of a ring of `element`. Bytes lie elsewhere; in an MPMC ring each slot has a number.
    fn stride(&self, element: &ElementType) -> Option<usize> {
        match (self.is_mpmc(), element.bytes) {
            (true, true) => ring::slot_stride(size_of::<u64>(), align_of::<u64>()),
            (true, false) => ring::slot_stride(element.size as usize, element.align as usize),
            (false, true) => Some(0),
            // Whole words.
            (false, false) if self.kind == Kind::LossyQueue => round_up(element.size as usize, 8),
            (false, false) => Some(element.size as usize),
        }
    }

    /// The same queue without a bound, which takes at most `limit` bytes of memory, rounded up to whole chunks.
    pub(crate) fn without_bound(mut self, limit: usize) -> Result<Self, Error> {
        let bad = || Error::BadSize { what: "a limit of memory", given: limit as u64, maximum: 1 << 44 };
        let stride = self.stride(&self.element).ok_or_else(bad)?;
        let slot = stride + if self.element.bytes { self.element.size as usize } else { 0 };
        if limit == 0 || limit > 1 << 44 || slot > 1 << 40 {
            return Err(bad());
        }
        // Chunks are large enough to be few, and whole pages.
        let chunk = CHUNK.max(limit.div_ceil(MOST_CHUNKS as usize / 8)) / slot;
        let least = if slot < 64 || self.element.bytes { MAP_UNIT / 8 } else { MAP_UNIT / 64 };
        let slots = chunk.max(least).next_power_of_two();
        let chunks = limit.div_ceil(slot * slots).max(2);
        // One more, so that the ring does not go round before its limit is reached.
        let capacity = ((chunks + 1) * slots).next_power_of_two();
        self.capacity = capacity as u64;
        self.unbounded = Some(Unbounded { limit: chunks as u32, shift: slots.trailing_zeros(), offset: 0 });
        Ok(self)
    }

    /// Whether the chunks of a queue without a bound can be mapped and cleared, behind a segment of `size` bytes.
    fn is_possible(&self, unbounded: Unbounded, size: u64) -> bool {
        let whole =
            |bytes: usize| bytes.checked_shl(unbounded.shift).is_some_and(|bytes| bytes.is_multiple_of(MAP_UNIT));
        let blocks = !self.element.bytes || whole(self.element.size as usize);
        let region = self.region().and_then(|(slots, blocks)| unbounded.offset.checked_add((slots + blocks) as u64));
        self.kind == Kind::Queue
            && unbounded.shift < 40
            && self.capacity >> unbounded.shift > 1
            && self.capacity >> unbounded.shift <= MOST_CHUNKS
            && unbounded.limit > 0
            && u64::from(unbounded.limit) <= self.capacity >> unbounded.shift
            && self.stride(&self.element).is_some_and(whole)
            && blocks
            && unbounded.offset >= size
            && unbounded.offset.is_multiple_of(MAP_UNIT as u64)
            && region.is_some_and(|end| end <= isize::MAX as u64)
    }

    /// Bytes of the slots of a queue without a bound, which lie elsewhere, and of its blocks behind them.
    pub(crate) fn region(&self) -> Option<(usize, usize)> {
        let slots = usize::try_from(self.capacity).ok()?;
        let blocks = if self.element.bytes { (self.element.size as usize).checked_mul(slots)? } else { 0 };
        let slots = self.stride(&self.element)?.checked_mul(slots)?;
        slots.checked_add(blocks).filter(|&all| all <= isize::MAX as usize / 4).map(|_| (slots, blocks))
    }

    fn ring_bytes(&self, element: &ElementType) -> Option<usize> {
        if let Some(unbounded) = &self.unbounded {
            let chunks = self.capacity.checked_shr(unbounded.shift)?;
            let behind = ring::pages::bytes(usize::try_from(chunks).ok()?)?;
            return round_up(behind.checked_add(size_of::<ring::Header>())?, LINE);
        }
        let slots = usize::try_from(self.slots(element)).ok()?;
        let ring = ring::bytes(self.stride(element)?, slots)?;
        match element.bytes {
            // What begins anywhere has this much behind the next border.
            true => ring.checked_add(MAP_UNIT)?.checked_add((element.size as usize).checked_mul(slots)?),
            false => Some(ring),
        }
    }

    /// The ring of `element` at `offset`, whose bytes fit into a segment.
    fn ring(&self, element: &ElementType, offset: usize) -> Option<Ring> {
        if let Some(unbounded) = self.unbounded {
            let ((slots, blocks), block) = (self.region()?, element.size as usize);
            let region = usize::try_from(unbounded.offset).ok()?;
            let data = element.bytes.then_some((region + slots, blocks));
            let stride = self.stride(element)?;
            return Some(Ring { offset, stride, slots: self.capacity, block, data, unbounded: Some(unbounded) });
        }
        let (slots, stride) = (self.slots(element), self.stride(element)?);
        let size = element.size as usize * slots as usize;
        let behind = offset.checked_add(ring::bytes(stride, slots as usize)?)?;
        let data = if element.bytes { Some((round_up(behind, MAP_UNIT)?, size)) } else { None };
        Some(Ring { offset, stride, slots, block: element.size as usize, data, unbounded: None })
    }

    /// The type as people read it.
    pub(crate) fn element_text(&self) -> String {
        match &self.second {
            // Both halves must survive the cut to 63 bytes.
            Some(second) => format!("{} -> {}", cut(&self.element.name, 29), cut(&second.name, 29)),
            None => cut(&self.element.name, NAME_BYTES).to_owned(),
        }
    }

    pub(crate) fn to_fields(&self, name: &str, offset: u64, bytes: u64) -> EntryFields {
        let second = self.second.as_ref();
        let unbounded = self.unbounded.unwrap_or(Unbounded { limit: 0, shift: 0, offset: 0 });
        let endless = if self.unbounded.is_some() { ENTRY_UNBOUNDED } else { 0 };
        let bytes_1 = if self.element.bytes { ENTRY_BYTES } else { 0 };
        let bytes_2 = if second.is_some_and(|t| t.bytes) { ENTRY_BYTES_2 } else { 0 };
        EntryFields {
            kind: self.kind as u32,
            flags: self.flags | bytes_1 | bytes_2 | endless,
            offset,
            bytes,
            capacity: self.capacity,
            element_size: self.element.size,
            element_align: self.element.align,
            element_size_2: second.map_or(unbounded.limit, |t| t.size),
            element_align_2: second.map_or(unbounded.shift, |t| t.align),
            name: text(name),
            element: text(&self.element_text()),
            region: unbounded.offset,
        }
    }
}

/// A directory entry, copied from shared memory once and checked: nothing in it can lead outside the segment.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

impl Object {
    pub(crate) fn from_fields(fields: &EntryFields, heap: u64, size: u64) -> Result<Self, &'static str> {
        let kind = Kind::from_u32(fields.kind).ok_or("an object of unknown kind")?;
        let name = untext(&fields.name).ok_or("an object without a readable name")?;
        let text = untext(&fields.element).ok_or("an object without a readable element type")?;
        let is_pipe = matches!(kind, Kind::Pipe | Kind::SharedPipe);
        let is_ring = is_pipe || matches!(kind, Kind::Queue | Kind::SpscQueue | Kind::LossyQueue);
        let (first_name, second_name) = match text.split_once(" -> ") {
            Some((a, b)) if is_pipe => (a.to_owned(), Some(b.to_owned())),
            _ => (text, None),
        };
        if is_ring && !fields.capacity.is_power_of_two() || fields.capacity == 0 {
            return Err("an object with an impossible capacity");
        }
        let is_mpmc = matches!(kind, Kind::Queue | Kind::SharedPipe);
        let element = |name: String, size: u32, align: u32, bytes: bool| {
            let fits = align.is_power_of_two()
                && align <= 64
                && size.is_multiple_of(align)
                && (size > 0 || kind == Kind::Lock);
            let is_block = match is_mpmc {
                true => size.is_power_of_two() && (BLOCK..=MAP_UNIT).contains(&(size as usize)),
                false => size == 1 && kind != Kind::LossyQueue,
            };
            if fits && (!bytes || is_ring && is_block) {
                Ok(ElementType { name, size, align, bytes })
            } else {
                Err("an object with an impossible element size")
            }
        };
        let has = |flag: u32| fields.flags & flag != 0;
        let duplex = is_pipe && fields.flags & ENTRY_SIMPLEX == 0;
        let second = match (duplex, second_name) {
            (true, Some(name)) => {
                Some(element(name, fields.element_size_2, fields.element_align_2, has(ENTRY_BYTES_2))?)
            }
            (true, None) => return Err("a pipe without its second type"),
            (false, _) => None,
        };
        let shape = Shape {
            kind,
            flags: fields.flags & !(ENTRY_BYTES | ENTRY_BYTES_2 | ENTRY_UNBOUNDED),
            capacity: fields.capacity,
            element: element(first_name, fields.element_size, fields.element_align, has(ENTRY_BYTES))?,
            second,
            unbounded: has(ENTRY_UNBOUNDED).then_some(Unbounded {
                limit: fields.element_size_2,
                shift: fields.element_align_2,
                offset: fields.region,
            }),
        };
        if shape.unbounded.is_some_and(|unbounded| !shape.is_possible(unbounded, size)) {
            return Err("an unbounded queue with impossible chunks");
        }
        let end = fields.offset.checked_add(fields.bytes).filter(|&end| end <= size);
        if end.is_none() || fields.offset < heap || !fields.offset.is_multiple_of(LINE as u64) {
            return Err("an object outside the heap");
        }
        if shape.bytes().map(|b| b as u64) != Some(fields.bytes) {
            return Err("an object whose size does not fit its capacity");
        }
        Ok(Self { name, shape, offset: fields.offset as usize, bytes: fields.bytes as usize })
    }

    /// Where each ring of this object lies.
    pub(crate) fn rings(&self) -> impl Iterator<Item = Ring> + '_ {
        let is_ring = !matches!(self.shape.kind, Kind::Value | Kind::Array | Kind::Lock | Kind::Latest);
        let first = is_ring.then_some(&self.shape.element);
        let elements = first.into_iter().chain(self.shape.second.as_ref());
        let mut offset = self.offset;
        elements.filter_map(move |element| {
            let ring = self.shape.ring(element, offset)?;
            offset += self.shape.ring_bytes(element)?;
            Some(ring)
        })
    }

    /// The only ring, or the first direction.
    pub(crate) fn first_ring(&self) -> Result<Ring, Error> {
        self.rings().next().ok_or(Error::Corrupt { what: "a ring that is none" })
    }
}

/// Where a ring of a checked object lies in its segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub(crate) offset: usize,
    /// Distance between slots.
    pub(crate) stride: usize,
    /// How many: a power of two.
    pub(crate) slots: u64,
    /// Bytes of an element, or of a block.
    pub(crate) block: usize,
    /// If its messages are bytes: where these lie, and how many there are.
    pub(crate) data: Option<(usize, usize)>,
    /// If its slots do not lie behind its header, but behind the segment.
    pub(crate) unbounded: Option<Unbounded>,
}

/// At most `most` bytes of `s`, cut at a character border.
pub(crate) fn cut(s: &str, most: usize) -> &str {
    let mut end = s.len().min(most);
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    &s[..end]
}

/// Length and bytes.
fn text(s: &str) -> [u8; 64] {
    let s = cut(s, NAME_BYTES);
    let mut bytes = [0; 64];
    bytes[0] = s.len() as u8;
    bytes[1..=s.len()].copy_from_slice(s.as_bytes());
    bytes
}

fn untext(bytes: &[u8; 64]) -> Option<String> {
    let end = usize::from(bytes[0]);
    if end == 0 || end > NAME_BYTES {
        return None;
    }
    let text = std::str::from_utf8(&bytes[1..=end]).ok()?;
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}
