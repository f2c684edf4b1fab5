//! The rings: pure algorithms over a header and slots. No waiting, no I/O, no segment.

pub(crate) mod lossy;
pub(crate) mod owned;
pub(crate) mod pages;
pub(crate) mod spsc;
pub(crate) mod transfer;

use core::mem::{align_of, size_of};

use crate::event::Event;
use crate::layout::{LINE, Line, round_up};
use crate::primitive::{AtomicU32, AtomicU64, FenceMode, Ordering, Payload, heavy_fence};

/// The shared state of one ring of either kind, in front of its slots. Valid when zero.
#[repr(C)]
pub(crate) struct Header {
    /// Read on every message, written almost never.
    pub(crate) control: Line<Control>,
    /// MPMC: hint for senders. SPSC: the sender's position, the truth.
    pub(crate) tail: Line<AtomicU64>,
    /// MPMC: hint for receivers. SPSC: the receiver's position, the truth.
    pub(crate) head: Line<AtomicU64>,
    /// Receivers sleep here; senders notify after a commit.
    pub(crate) not_empty: Line<Event>,
    /// Senders sleep here; receivers notify after a release.
    pub(crate) not_full: Line<Event>,
    /// Who is attached in which role.
    pub(crate) roles: Line<Roles>,
}

/// See [`Header::control`].
#[repr(C)]
pub(crate) struct Control {
    /// 0 open; 1 closing; 2 closed: every sender has either shown its claim or will see this word.
    pub(crate) closed: AtomicU32,
    /// MPMC: bumped whenever somebody takes a role, after its bit is set.
    pub(crate) arrivals: AtomicU32,
    /// MPMC: bumped by repair after it left ORPHAN slots. Receivers compare it with their own copy.
    pub(crate) repairs: AtomicU64,
    /// MPMC: the process id of the last participant that had senders and went, 0 if it went in peace; the same for receivers.
    pub(crate) departed: [AtomicU32; 2],
    /// Of senders: bumped after a participant's last sender has gone and its bit is cleared, and after the ring was closed. Of receivers:
    /// bumped after a participant's last receiver has gone. MPMC ends compare it with copies of their own: if it has not
    /// changed, there is nothing to look for, neither in the roles nor in `closed`.
    pub(crate) news: [AtomicU32; 2],
}

/// Closing. A sender claims, executes the light fence, and looks at `closed`: set, it aborts. A closer stores 1, executes
/// the heavy fence, and stores 2. After that fence every claim is visible or its sender will see `closed`, so a receiver
/// that reads 2 and *then* finds the ring empty, with nothing still being written, knows that nothing will ever come. A
/// closer that dies in between is followed by whoever reads 1.
impl Control {
    /// Whether senders must give up. Relaxed: ordered by the light fence before it.
    #[inline(always)]
    pub(crate) fn is_closing(&self) -> bool {
        self.closed.load(Ordering::Relaxed) != 0
    }

    /// Whether every sender that can still commit has shown its claim.
    pub(crate) fn is_closed(&self, mode: FenceMode) -> bool {
        // Acquire: pairs with the Release of 2; the look at the ring comes after.
        match self.closed.load(Ordering::Acquire) {
            0 => false,
            1 => {
                self.close(mode);
                true
            }
            _ => true,
        }
    }

    pub(crate) fn close(&self, mode: FenceMode) {
        if self.closed.load(Ordering::Acquire) != 2 {
            self.begin_closing();
            heavy_fence(mode);
            // Release: whoever reads 2 sees the claims that the fence has made visible. A full fence would order that by itself. In
            // asymmetric mode the claims become visible after it, by membarrier.
            self.closed.store(2, Ordering::Release);
        }
    }

    /// The first step of closing.
    pub(crate) fn begin_closing(&self) {
        // Release: whoever reads 1 and ends the closing sees what the closer has sent before, which in an SPSC ring no claim shows.
        self.closed.store(1, Ordering::Release);
    }
}

/// See [`Header::roles`]. Changed at attach, detach and by repair.
#[repr(C)]
pub(crate) struct Roles {
    /// MPMC: bit `i` set: participant `i` has a sender. SPSC: word 0 is the seat.
    pub(crate) senders: [AtomicU64; 8],
    /// The same for receivers.
    pub(crate) receivers: [AtomicU64; 8],
}

#[cfg(not(loom))]
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Header, tail) == 128);
    assert!(offset_of!(Header, head) == 256);
    assert!(offset_of!(Header, not_empty) == 384);
    assert!(offset_of!(Header, not_full) == 512);
    assert!(offset_of!(Header, roles) == 640);
    assert!(size_of::<Header>() == 768);
};

impl Header {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Box<Self> {
        fn eight() -> [AtomicU64; 8] {
            core::array::from_fn(|_| AtomicU64::new(0))
        }
        Box::new(Self {
            control: Line(Control {
                closed: AtomicU32::new(0),
                arrivals: AtomicU32::new(0),
                repairs: AtomicU64::new(0),
                departed: [AtomicU32::new(0), AtomicU32::new(0)],
                news: [AtomicU32::new(0), AtomicU32::new(0)],
            }),
            tail: Line(AtomicU64::new(0)),
            head: Line(AtomicU64::new(0)),
            not_empty: Line(Event::new()),
            not_full: Line(Event::new()),
            roles: Line(Roles { senders: eight(), receivers: eight() }),
        })
    }
}

/// One MPMC cell: the word beside its payload.
#[repr(C)]
pub(crate) struct Slot<T> {
    pub(crate) word: AtomicU64,
    pub(crate) payload: Payload<T>,
}

/// Distance between MPMC slots for an element of `size` and `align`: inside one 64-byte line where it fits, so that a
/// message costs one line transfer and several small ones share it.
pub(crate) const fn slot_stride(size: usize, align: usize) -> Option<usize> {
    let payload = if align > 8 { align } else { 8 };
    match size.checked_add(payload) {
        None => None,
        Some(raw) if raw <= 64 => Some(raw.next_power_of_two()),
        Some(raw) => round_up(raw, 64),
    }
}

/// Compile-time checks on an element type, and its stride.
pub(crate) struct Element<T>(core::marker::PhantomData<T>);

impl<T> Element<T> {
    /// Fails to compile for what no ring can hold.
    pub(crate) const CHECK: () = {
        assert!(size_of::<T>() > 0, "gimmal: a zero-sized type carries nothing; send a u8");
        assert!(align_of::<T>() <= 64, "gimmal: element types may be aligned to at most 64 bytes");
        assert!(size_of::<T>() <= u32::MAX as usize, "gimmal: element types may have at most 4 GiB");
    };

    #[cfg(not(loom))]
    pub(crate) const SLOT_STRIDE: usize = match slot_stride(size_of::<T>(), align_of::<T>()) {
        Some(stride) => stride,
        None => panic!("gimmal: element type too large"),
    };
    #[cfg(loom)]
    pub(crate) const SLOT_STRIDE: usize = size_of::<Slot<T>>();
}

/// Bytes of a ring with its header; `None` where that overflows.
pub(crate) fn bytes(stride: usize, capacity: usize) -> Option<usize> {
    let slots = stride.checked_mul(capacity)?;
    round_up(slots.checked_add(size_of::<Header>())?, LINE)
}

/// The capacity a ring gets when `asked` for: the next power of two.
pub(crate) fn capacity(asked: usize) -> Option<usize> {
    if asked == 0 { None } else { asked.checked_next_power_of_two() }
}
