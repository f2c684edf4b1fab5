//! [`Str`] and [`Bytes`]: text and bytes of any length up to a limit, as plain data.

use core::borrow::{Borrow, BorrowMut};
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::ops::{Deref, DerefMut};
use core::str::{FromStr, Utf8Error};

use bytemuck::{Pod, Zeroable};

use crate::error::TooLong;
use crate::object::cut;

/// Up to `N` bytes, in a type of a fixed size: what a `Vec<u8>` is to one process, for messages and values.
///
/// Takes `N + 4` bytes, aligned to 1, whatever is in it. Dereferences to the bytes; compares, orders and hashes by them. What is
/// behind the length is zero, so the same content is the same bytes. A length that a hostile peer has written counts
/// as `N` if it is more.
///
/// It is [`Pod`], so it goes wherever that goes: [`Queue`](crate::Queue), [`Pipe`](crate::Pipe), [`Latest`](crate::Latest),
/// [`Lock`](crate::Lock), also as a part of a message, and in arrays (`Lock<[Bytes<12>; 8]>`). It is not a
/// [`Scalar`](crate::Scalar): no processor changes so much in one instruction, so there is no `Value` and no
/// [`Array`](crate::Array) of it.
///
/// # Example
///
/// ```
/// use gimmal::{Bytes, Queue, Segment};
///
/// let segment = Segment::anonymous()?;
/// let packets = Queue::<Bytes<1500>>::create(&segment, "packets", 16)?;
/// packets.sender()?.send(Bytes::try_from(&b"\x45\x00"[..])?)?;
/// assert_eq!(packets.receiver()?.recv()?[..], [0x45, 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Bytes<const N: usize> {
    /// A little-endian number, in bytes so that there is no padding whatever `N` is.
    length: [u8; 4],
    bytes: [u8; N],
}

// SAFETY: bytes only, for which zero is a value.
unsafe impl<const N: usize> Zeroable for Bytes<N> {}
// SAFETY: arrays of bytes, one behind the other: aligned to 1, so without padding; any bits are a value, as a length beyond `N` is
// read as `N`. `Copy`, `'static`, `repr(C)`.
unsafe impl<const N: usize> Pod for Bytes<N> {}

impl<const N: usize> Bytes<N> {
    const CHECK: () = assert!(N <= u32::MAX as usize, "gimmal: at most 4 GiB");

    /// Nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        let () = Self::CHECK;
        Self { length: [0; 4], bytes: [0; N] }
    }

    /// The first of `bytes` that there is room for.
    #[must_use]
    pub fn truncated(bytes: &[u8]) -> Self {
        let mut this = Self::new();
        this.append(&bytes[..bytes.len().min(N)]);
        this
    }

    /// How many bytes fit in all: `N`.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        N
    }

    /// The bytes that are in it.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length()]
    }

    /// The same, to be changed in place.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let length = self.length();
        &mut self.bytes[..length]
    }

    /// Appends all of `bytes`, or nothing.
    ///
    /// # Errors
    /// [`TooLong`] if there is not so much room left.
    pub fn push_slice(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        match self.length().checked_add(bytes.len()) {
            Some(length) if length <= N => {
                self.append(bytes);
                Ok(())
            }
            length => Err(TooLong { length: length.unwrap_or(usize::MAX), room: N }),
        }
    }

    /// Leaves the first `length` bytes, if there are more.
    pub fn truncate(&mut self, length: usize) {
        if length < self.length() {
            // All of it: a peer may have left something behind the end.
            self.bytes[length..].fill(0);
            self.set_length(length);
        }
    }

    /// Leaves nothing.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// What is in it, whatever a peer has written.
    fn length(&self) -> usize {
        (u32::from_le_bytes(self.length) as usize).min(N)
    }

    fn set_length(&mut self, length: usize) {
        // It is at most `N`, which is checked to fit.
        self.length = (length as u32).to_le_bytes();
    }

    /// The caller has made sure that there is room.
    fn append(&mut self, bytes: &[u8]) {
        let (length, end) = (self.length(), self.length() + bytes.len());
        self.bytes[length..end].copy_from_slice(bytes);
        self.set_length(end);
    }
}

impl<const N: usize> Default for Bytes<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Deref for Bytes<N> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl<const N: usize> DerefMut for Bytes<N> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl<const N: usize> AsRef<[u8]> for Bytes<N> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<const N: usize> AsMut<[u8]> for Bytes<N> {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl<const N: usize> Borrow<[u8]> for Bytes<N> {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl<const N: usize> BorrowMut<[u8]> for Bytes<N> {
    fn borrow_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl<const N: usize> TryFrom<&[u8]> for Bytes<N> {
    type Error = TooLong;
    fn try_from(bytes: &[u8]) -> Result<Self, TooLong> {
        let mut this = Self::new();
        this.push_slice(bytes).map(|()| this)
    }
}

impl<const N: usize> From<[u8; N]> for Bytes<N> {
    fn from(bytes: [u8; N]) -> Self {
        Self::truncated(&bytes)
    }
}

impl<const N: usize> PartialEq for Bytes<N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<const N: usize> PartialEq<[u8]> for Bytes<N> {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl<const N: usize> PartialEq<&[u8]> for Bytes<N> {
    fn eq(&self, other: &&[u8]) -> bool {
        **self == **other
    }
}

impl<const N: usize> Eq for Bytes<N> {}

impl<const N: usize> PartialOrd for Bytes<N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<const N: usize> Ord for Bytes<N> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl<const N: usize> Hash for Bytes<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<const N: usize> fmt::Debug for Bytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

/// Text of up to `N` bytes of UTF-8, in a type of a fixed size: what a `String` is to one process, for messages and values.
///
/// Takes `N + 4` bytes, aligned to 1, whatever is in it. Dereferences to `str`; compares, orders and hashes by the text. What is
/// behind its end is zero, so the same text is the same bytes. It goes where [`Bytes`] goes.
///
/// Another process may have written anything there, so each look at the text checks it (a few nanoseconds for a line of it).
/// What is not UTF-8 ends the text: it reads as its longest valid beginning. [`Str::to_str`] tells that apart,
/// [`Str::as_bytes`] gives everything.
///
/// # Examples
///
/// ```
/// use gimmal::{Latest, Lock, Queue, Segment, Str};
///
/// let segment = Segment::anonymous()?;
/// let lines = Queue::<Str<60>>::create(&segment, "lines", 16)?;
/// lines.sender()?.send("to be printed".parse()?)?;
/// assert_eq!(lines.receiver()?.recv()?, "to be printed");
///
/// let status = Latest::<Str<100>>::create(&segment, "status", Str::new())?;
/// status.store(Str::truncated(&"so long ".repeat(50)))?;
/// assert_eq!(status.load().len(), 100);
///
/// let title = Lock::<Str<32>>::create(&segment, "title", "Untitled".parse()?)?;
/// title.lock()?.push_str(" 2")?;
/// assert_eq!(&**title.lock()?, "Untitled 2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Written to, it says when it is full; of what is written in several pieces, those that fitted stay:
///
/// ```
/// use std::fmt::Write;
///
/// let mut label = gimmal::Str::<8>::new();
/// assert!(write!(label, "{}-{}", 12, 345).is_ok());
/// assert!(write!(label, "{}", 678).is_err());
/// assert_eq!(label, "12-345");
/// ```
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub struct Str<const N: usize>(Bytes<N>);

// SAFETY: bytes only, for which zero is a value.
unsafe impl<const N: usize> Zeroable for Str<N> {}
// SAFETY: a `Bytes`, transparently. Bits that are not UTF-8 are a value, too: no `str` is made of them unchecked.
unsafe impl<const N: usize> Pod for Str<N> {}

impl<const N: usize> Str<N> {
    /// The empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self(Bytes::new())
    }

    /// As many of the first characters of `text` as there is room for.
    #[must_use]
    pub fn truncated(text: &str) -> Self {
        Self(Bytes::truncated(cut(text, N).as_bytes()))
    }

    /// How many bytes fit in all: `N`.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        N
    }

    /// The text; if a peer has left what is not UTF-8, what comes before that.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.0.as_slice();
        self.to_str().unwrap_or_else(|e| core::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default())
    }

    /// The text, if all of it is.
    ///
    /// # Errors
    /// [`Utf8Error`] if a peer has left something else.
    pub fn to_str(&self) -> Result<&str, Utf8Error> {
        core::str::from_utf8(self.0.as_slice())
    }

    /// All bytes up to the end, whatever they are.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Appends all of `text`, or nothing. What is not UTF-8 at the end is overwritten.
    ///
    /// # Errors
    /// [`TooLong`] if there is not so much room left.
    pub fn push_str(&mut self, text: &str) -> Result<(), TooLong> {
        let length = self.as_str().len();
        match length.checked_add(text.len()) {
            Some(sum) if sum <= N => {
                self.0.truncate(length);
                self.0.push_slice(text.as_bytes())
            }
            sum => Err(TooLong { length: sum.unwrap_or(usize::MAX), room: N }),
        }
    }

    /// Appends a character.
    ///
    /// # Errors
    /// [`TooLong`] if there is no room for it.
    pub fn push(&mut self, c: char) -> Result<(), TooLong> {
        self.push_str(c.encode_utf8(&mut [0; 4]))
    }

    /// Leaves the empty text.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<const N: usize> Deref for Str<N> {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl<const N: usize> AsRef<str> for Str<N> {
    fn as_ref(&self) -> &str {
        self
    }
}

impl<const N: usize> AsRef<[u8]> for Str<N> {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl<const N: usize> Borrow<str> for Str<N> {
    fn borrow(&self) -> &str {
        self
    }
}

impl<const N: usize> TryFrom<&str> for Str<N> {
    type Error = TooLong;
    fn try_from(text: &str) -> Result<Self, TooLong> {
        Bytes::try_from(text.as_bytes()).map(Self)
    }
}

impl<const N: usize> FromStr for Str<N> {
    type Err = TooLong;
    fn from_str(text: &str) -> Result<Self, TooLong> {
        Self::try_from(text)
    }
}

impl<const N: usize> fmt::Write for Str<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text).map_err(|TooLong { .. }| fmt::Error)
    }
}

impl<const N: usize> PartialEq for Str<N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<const N: usize> PartialEq<str> for Str<N> {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl<const N: usize> PartialEq<&str> for Str<N> {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl<const N: usize> Eq for Str<N> {}

impl<const N: usize> PartialOrd for Str<N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<const N: usize> Ord for Str<N> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl<const N: usize> Hash for Str<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<const N: usize> fmt::Debug for Str<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<const N: usize> fmt::Display for Str<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}
