//! What all blocking ends share: the ring's header in a joined segment, closing, and the loops around one attempt.
//!
//! # Closing an MPMC ring
//!
//! A sender claims, executes the light fence, and looks at `closed`: set, it aborts. A closer stores 1, executes the heavy
//! fence, and stores 2. After the fence every claim is visible or its sender will see `closed`, so a receiver that reads
//! 2 and *then* finds the ring empty, with nothing still being written, knows that nothing will ever come. A closer that
//! dies in between is followed by whoever reads 1.
//!
//! # Wakes that carry weight
//!
//! One commit notifies one receiver, one release one sender. An abort while closed, the last sender's or receiver's
//! detach, close and repair concern everybody and wake everybody.

use core::mem::size_of;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use std::sync::Arc;

use crate::deadline::Deadline;
use crate::error::{RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError};
use crate::event::{ALL, Event, Surroundings};
use crate::layout::ENTRY_DISCONNECT;
use crate::object::Object;
use crate::primitive::{FenceMode, Ordering, heavy_fence};
use crate::ring::Header;
use crate::segment::{Attached, Side};

/// A ring in a segment, seen from one process.
#[derive(Clone)]
pub(crate) struct Channel {
    attached: Arc<Attached>,
    header: NonNull<Header>,
    offset: usize,
    mode: FenceMode,
    disconnect: bool,
}

// SAFETY: the header is shared memory reached through atomics; `attached` keeps it mapped.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    /// The ring of `object` at `offset`, one of those that `Object::rings` names.
    pub(crate) fn new(attached: &Arc<Attached>, object: &Object, offset: usize) -> Self {
        Self {
            header: attached.view().at(offset).cast(),
            offset,
            mode: attached.fence_mode(),
            disconnect: object.shape.flags & ENTRY_DISCONNECT != 0,
            attached: Arc::clone(attached),
        }
    }

    #[inline(always)]
    pub(crate) fn attached(&self) -> &Attached {
        &self.attached
    }

    #[inline(always)]
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: inside the mapping that `attached` keeps; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    pub(crate) fn header_pointer(&self) -> NonNull<Header> {
        self.header
    }

    /// The first slot.
    pub(crate) fn slots(&self) -> NonNull<u8> {
        self.attached.view().at(self.offset + size_of::<Header>())
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn mode(&self) -> FenceMode {
        self.mode
    }

    /// Whether ends report that nobody is left on the other side.
    pub(crate) fn disconnects(&self) -> bool {
        self.disconnect
    }

    /// Whether senders must give up. Relaxed: ordered by the light fence before it, see the module.
    #[inline(always)]
    pub(crate) fn is_closing(&self) -> bool {
        self.header().control.closed.load(Ordering::Relaxed) != 0
    }

    /// Whether every sender that can still commit has shown its claim.
    pub(crate) fn is_closed(&self) -> bool {
        let closed = &self.header().control.closed;
        // Acquire: the look at the ring comes after.
        match closed.load(Ordering::Acquire) {
            0 => false,
            1 => {
                heavy_fence(self.mode);
                closed.store(2, Ordering::Release);
                true
            }
            _ => true,
        }
    }

    pub(crate) fn close(&self) {
        let closed = &self.header().control.closed;
        if closed.load(Ordering::Relaxed) != 2 {
            closed.store(1, Ordering::Relaxed);
            heavy_fence(self.mode);
            closed.store(2, Ordering::Release);
        }
        self.wake_everybody();
    }

    pub(crate) fn wake_everybody(&self) {
        self.header().not_empty.notify(ALL, self.mode);
        self.header().not_full.notify(ALL, self.mode);
    }

    /// Tells receivers of `n` commits.
    #[inline(always)]
    pub(crate) fn committed(&self, n: usize) {
        self.header().not_empty.notify(clamp(n), self.mode);
    }

    /// Tells senders of `n` releases.
    #[inline(always)]
    pub(crate) fn released(&self, n: usize) {
        self.header().not_full.notify(clamp(n), self.mode);
    }

    /// Whether nobody with an end on `side` is left of those who were there; MPMC rings.
    pub(crate) fn nobody_left(&self, side: Side) -> bool {
        // Acquire: pairs with the clearing of the last bit; the look at the ring comes after.
        let words = crate::segment::repair::role_words(&self.header().roles, side);
        words.iter().enumerate().all(|(i, word)| word.load(Ordering::Acquire) == u64::from(i == 0))
    }

    /// Repeats `attempt` on behalf of a sender until it is something else than Full.
    pub(crate) fn send_blocking<T: Copy>(
        &self,
        value: T,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut(T) -> Result<(), TrySendError<T>>,
    ) -> Result<(), SendTimeoutError<T>> {
        let sent = self.wait(&self.header().not_full, deadline, || match attempt(value) {
            Ok(()) => ControlFlow::Break(Ok(())),
            Err(TrySendError::Full(_)) => ControlFlow::Continue(()),
            Err(TrySendError::Closed(v)) => ControlFlow::Break(Err(SendTimeoutError::Closed(v))),
            Err(TrySendError::Disconnected(v)) => ControlFlow::Break(Err(SendTimeoutError::Disconnected(v))),
            Err(TrySendError::Detached(v)) => ControlFlow::Break(Err(SendTimeoutError::Detached(v))),
        });
        sent.unwrap_or(Err(SendTimeoutError::Timeout(value)))
    }

    /// Repeats `attempt` on behalf of a receiver until it is something else than Empty.
    pub(crate) fn receive_blocking<R>(
        &self,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut() -> Result<R, TryRecvError>,
    ) -> Result<R, RecvTimeoutError> {
        let received = self.wait(&self.header().not_empty, deadline, || match attempt() {
            Ok(value) => ControlFlow::Break(Ok(value)),
            Err(TryRecvError::Empty) => ControlFlow::Continue(()),
            Err(TryRecvError::Closed) => ControlFlow::Break(Err(RecvTimeoutError::Closed)),
            Err(TryRecvError::Disconnected) => ControlFlow::Break(Err(RecvTimeoutError::Disconnected)),
            Err(TryRecvError::Detached) => ControlFlow::Break(Err(RecvTimeoutError::Detached)),
        });
        received.unwrap_or(Err(RecvTimeoutError::Timeout))
    }

    /// Waits on one of this ring's events.
    pub(crate) fn wait<R>(
        &self,
        event: &Event,
        deadline: Option<Deadline>,
        attempt: impl FnMut() -> ControlFlow<R>,
    ) -> Option<R> {
        event.wait(self.attached(), deadline, attempt)
    }
}

fn clamp(n: usize) -> u32 {
    n.min(ALL as usize) as u32
}

/// A send without a deadline cannot time out.
pub(crate) fn no_deadline<T>(result: Result<(), SendTimeoutError<T>>) -> Result<(), SendError<T>> {
    result.map_err(|e| match e {
        SendTimeoutError::Closed(v) => SendError::Closed(v),
        SendTimeoutError::Disconnected(v) => SendError::Disconnected(v),
        SendTimeoutError::Detached(v) | SendTimeoutError::Timeout(v) => SendError::Detached(v),
    })
}

/// A receive without a deadline cannot time out.
pub(crate) fn no_deadline_recv<R>(result: Result<R, RecvTimeoutError>) -> Result<R, RecvError> {
    result.map_err(|e| match e {
        RecvTimeoutError::Closed => RecvError::Closed,
        RecvTimeoutError::Disconnected => RecvError::Disconnected,
        RecvTimeoutError::Detached | RecvTimeoutError::Timeout => RecvError::Detached,
    })
}
