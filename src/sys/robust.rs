//! Robust futex lists: words that the kernel marks when the thread that registered them ends, in whatever way.
//!
//! The kernel walks a list of *nodes* in the thread's memory and finds the word of each at one constant distance behind its
//! node. Our nodes lie in private pages, which no peer can touch, right in front of a mapping of the first pages of the
//! segment, each at the offset of its word; so the distance is the same for every segment.
//!
//! ```text
//! base                      base + span
//! │ private: nodes          │ shared: the segment's first pages, with the life words
//! └─ node of id ────────────┴─ word of id        distance: span
//! ```

use core::num::NonZeroUsize;
use core::ptr::{self, NonNull};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};

use crate::primitive::private::AtomicPtr;
use crate::primitive::{AtomicU32, Ordering};

/// The word belongs to a thread that has ended.
pub(crate) const OWNER_DIED: u32 = libc::FUTEX_OWNER_DIED;
/// The kernel is to wake one sleeper when it marks the word.
const WAITERS: u32 = libc::FUTEX_WAITERS;

/// Both halves of the picture above. The nodes, and the head, lie in memory that is called shared, although no other process has
/// it: private memory may be taken from a process that is running out of it, or being reaped, before its threads have ended,
/// and the kernel would find no list. A forked child has to [`renew`](Page::renew) its pages.
///
/// A page is never unmapped, only used again: the kernel, walking a list while our other
/// threads have not been stopped yet, must not fall into a hole and miss the nodes behind it.
#[derive(Clone, Copy)]
pub(crate) struct Page {
    base: NonNull<u8>,
    span: usize,
}

// SAFETY: words and nodes are atomics in memory that stays mapped.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

/// `struct robust_list` of the uapi. Stores Release: the kernel may read the list after any instruction of ours, so that the
/// compiler must keep their order, too.
#[repr(C)]
struct Node {
    next: AtomicPtr<Node>,
}

impl Node {
    fn next(&self) -> *mut Node {
        self.next.load(Ordering::Relaxed)
    }

    fn point_to(&self, next: *mut Node) {
        self.next.store(next, Ordering::Release);
    }
}

const ACCESS: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// Bytes from a node to its word: room for `words` bytes, in whole pages.
fn span(words: usize) -> Option<usize> {
    // SAFETY: only asks.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(words.next_multiple_of(usize::try_from(page).ok()?))
}

impl Page {
    /// Room for the nodes and the first `words` bytes of a segment, without one.
    pub(crate) fn reserve(words: usize) -> Result<Self, Errno> {
        let span = span(words).ok_or(Errno::EINVAL)?;
        let both = NonZeroUsize::new(2 * span).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(None, both, ACCESS, MapFlags::MAP_SHARED)? };
        Ok(Self { base: base.cast(), span })
    }

    fn second_half(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.base.addr().get() + self.span).expect("behind a mapping")
    }

    /// Shows the first pages of a segment of `size` bytes in the second half.
    pub(crate) fn show(&self, file: BorrowedFd<'_>, size: usize) -> Result<(), Errno> {
        let length = NonZeroUsize::new(self.span.min(size)).ok_or(Errno::EINVAL)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: replaces memory of ours, which is only reached through atomics.
        unsafe { mmap(Some(self.second_half()), length, ACCESS, flags, file, 0) }.map(drop)
    }

    /// Shows zeros again. After an error the page is not to be used any more.
    pub(crate) fn hide(&self) -> Result<(), Errno> {
        self.clear(self.second_half())
    }

    /// In a fork child: nodes of its own, in no list.
    pub(crate) fn renew(&self) -> Result<(), Errno> {
        self.clear(self.base.addr())
    }

    /// Replaces the half at `from` by zeros. Only a system call.
    fn clear(&self, from: NonZeroUsize) -> Result<(), Errno> {
        let length = NonZeroUsize::new(self.span).ok_or(Errno::EINVAL)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: replaces memory of ours, which is only reached through atomics.
        unsafe { mmap_anonymous(Some(from), length, ACCESS, flags) }.map(drop)
    }

    /// The word at `offset` of what is shown, below `words`.
    pub(crate) fn word(&self, offset: usize) -> &'static AtomicU32 {
        assert!(offset < self.span && offset.is_multiple_of(8));
        // SAFETY: inside the second half of the mapping.
        let word = unsafe { self.base.add(self.span + offset) };
        // SAFETY: as above, aligned; an atomic in memory that stays mapped.
        unsafe { word.cast().as_ref() }
    }

    fn node(&self, offset: usize) -> &Node {
        assert!(offset < self.span && offset.is_multiple_of(8));
        // SAFETY: inside the first half of the mapping.
        let node = unsafe { self.base.add(offset) };
        // SAFETY: as above, aligned; an atomic in memory that stays mapped.
        unsafe { node.cast().as_ref() }
    }
}

/// `struct robust_list_head` of the uapi.
#[repr(C)]
struct Head {
    first: Node,
    distance: libc::c_long,
    pending: *mut Node,
}

// SAFETY: `first` is atomic, the rest constant.
unsafe impl Sync for Head {}
// SAFETY: as above.
unsafe impl Send for Head {}

/// The list of one thread, which must use no robust mutex of the C library. Any thread may change it, one at a time.
pub(crate) struct List {
    head: &'static Head,
    thread: u32,
}

impl List {
    /// Registers an empty list for the calling thread, for words up to `words` bytes into their segment; `None` if the
    /// kernel refuses. The head is the kernel's until the thread ends, so it is never freed.
    pub(crate) fn register(words: usize) -> Option<Self> {
        let distance = span(words)? as libc::c_long;
        let first = Node { next: AtomicPtr::default() };
        let place: NonNull<Head> = Page::reserve(size_of::<Head>()).ok()?.base.cast();
        // SAFETY: the page is large enough, aligned, ours, and never unmapped.
        unsafe { place.write(Head { first, distance, pending: ptr::null_mut() }) };
        // SAFETY: as above, and initialized.
        let head: &'static Head = unsafe { place.as_ref() };
        head.first.point_to(head.end());
        // SAFETY: the head lives for ever and is an empty list; every later state of it is a list, too.
        let failed = unsafe { libc::syscall(libc::SYS_set_robust_list, ptr::from_ref(head), size_of::<Head>()) };
        // SAFETY: only asks.
        let thread = unsafe { libc::gettid() };
        (failed == 0).then_some(Self { head, thread: thread as u32 })
    }

    /// From now on the kernel marks the word at `offset` of `page`, which gets its thread's id.
    pub(crate) fn link(&self, page: &Page, offset: usize) {
        let node = page.node(offset);
        node.point_to(self.head.first.next());
        self.head.first.point_to(ptr::from_ref(node).cast_mut());
        // Release, after the link: a word that names the thread without being in the list would never be marked.
        page.word(offset).store(self.thread | WAITERS, Ordering::Release);
    }

    /// Takes the word out again, whatever it says now.
    pub(crate) fn unlink(&self, page: &Page, offset: usize) {
        let node = page.node(offset);
        let mut before = &self.head.first;
        while !ptr::eq(before.next(), node) {
            if ptr::eq(before.next(), self.head.end()) {
                return;
            }
            // SAFETY: nodes lie in pages that are never unmapped.
            before = unsafe { &*before.next() };
        }
        before.point_to(node.next());
    }
}

impl Head {
    /// What the last node points to.
    fn end(&self) -> *mut Node {
        (&raw const self.first).cast_mut()
    }
}
