//! What objects are: kinds, element types, and the bytes each shape takes.

use core::mem::{align_of, size_of};
use std::fmt;

use crate::layout::{ENTRY_SIMPLEX, EntryFields, LINE, NAME_BYTES, round_up};
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
}

impl Kind {
    fn from_u32(n: u32) -> Option<Self> {
        use Kind::{Array, Latest, Lock, Pipe, Queue, SharedPipe, SpscQueue, Value};
        [Queue, SpscQueue, Pipe, SharedPipe, Value, Array, Lock, Latest].into_iter().find(|&kind| kind as u32 == n)
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
        })
    }
}

/// An element type as other processes know it: they may come from another compiler, so the path before the last name is
/// dropped and size and alignment are compared as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ElementType {
    pub(crate) name: String,
    pub(crate) size: u32,
    pub(crate) align: u32,
}

impl ElementType {
    pub(crate) fn of<T>() -> Self {
        Self {
            // A pipe's two names are told apart by an arrow between spaces.
            name: short_type_name(core::any::type_name::<T>()).replace(" -> ", "->"),
            size: size_of::<T>() as u32,
            align: align_of::<T>() as u32,
        }
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
}

impl Shape {
    /// Bytes of the object; `None` if that is beyond the address space.
    pub(crate) fn bytes(&self) -> Option<usize> {
        let capacity = usize::try_from(self.capacity).ok()?;
        let size = self.element.size as usize;
        match self.kind {
            Kind::Queue | Kind::SpscQueue => self.ring_bytes(&self.element, capacity),
            Kind::Pipe | Kind::SharedPipe => {
                let first = self.ring_bytes(&self.element, capacity)?;
                match &self.second {
                    Some(second) => first.checked_add(self.ring_bytes(second, capacity)?),
                    None => Some(first),
                }
            }
            Kind::Value => Some(LINE),
            Kind::Array => round_up(size.checked_mul(capacity)?, LINE)?.checked_add(LINE),
            Kind::Lock => round_up(size.checked_add(crate::lock::DATA_OFFSET)?, LINE),
            Kind::Latest => crate::latest::bytes(size),
        }
    }

    /// Distance between the slots of a ring of `element`.
    pub(crate) fn stride(&self, element: &ElementType) -> Option<usize> {
        match self.kind {
            Kind::Queue | Kind::SharedPipe => ring::slot_stride(element.size as usize, element.align as usize),
            _ => Some(element.size as usize),
        }
    }

    fn ring_bytes(&self, element: &ElementType, capacity: usize) -> Option<usize> {
        ring::bytes(self.stride(element)?, capacity)
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
        EntryFields {
            kind: self.kind as u32,
            flags: self.flags,
            offset,
            bytes,
            capacity: self.capacity,
            element_size: self.element.size,
            element_align: self.element.align,
            element_size_2: second.map_or(0, |t| t.size),
            element_align_2: second.map_or(0, |t| t.align),
            name: text(name),
            element: text(&self.element_text()),
            reserved: 0,
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
        let is_ring = is_pipe || matches!(kind, Kind::Queue | Kind::SpscQueue);
        let (first_name, second_name) = match text.split_once(" -> ") {
            Some((a, b)) if is_pipe => (a.to_owned(), Some(b.to_owned())),
            _ => (text, None),
        };
        if is_ring && !fields.capacity.is_power_of_two() || fields.capacity == 0 {
            return Err("an object with an impossible capacity");
        }
        let element = |name: String, size: u32, align: u32| {
            let fits = align.is_power_of_two()
                && align <= 64
                && size.is_multiple_of(align)
                && (size > 0 || kind == Kind::Lock);
            if fits { Ok(ElementType { name, size, align }) } else { Err("an object with an impossible element size") }
        };
        let duplex = is_pipe && fields.flags & ENTRY_SIMPLEX == 0;
        let second = match (duplex, second_name) {
            (true, Some(name)) => Some(element(name, fields.element_size_2, fields.element_align_2)?),
            (true, None) => return Err("a pipe without its second type"),
            (false, _) => None,
        };
        let shape = Shape {
            kind,
            flags: fields.flags,
            capacity: fields.capacity,
            element: element(first_name, fields.element_size, fields.element_align)?,
            second,
        };
        let end = fields.offset.checked_add(fields.bytes).filter(|&end| end <= size);
        if end.is_none() || fields.offset < heap || !fields.offset.is_multiple_of(LINE as u64) {
            return Err("an object outside the heap");
        }
        if shape.bytes().map(|b| b as u64) != Some(fields.bytes) {
            return Err("an object whose size does not fit its capacity");
        }
        Ok(Self { name, shape, offset: fields.offset as usize, bytes: fields.bytes as usize })
    }

    /// Where each ring of this object lies: offset, element, stride.
    pub(crate) fn rings(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let is_ring = !matches!(self.shape.kind, Kind::Value | Kind::Array | Kind::Lock | Kind::Latest);
        let first = is_ring.then_some(&self.shape.element);
        let elements = first.into_iter().chain(self.shape.second.as_ref());
        let mut offset = self.offset;
        elements.filter_map(move |element| {
            let here = offset;
            offset += self.shape.ring_bytes(element, self.shape.capacity as usize)?;
            Some((here, self.shape.stride(element)?))
        })
    }
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
