//! What all blocking ends share: the ring's header in a joined segment, closing, and the loops around one attempt.
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
use crate::error::{
    Departure, Error, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::event::{ALL, Event, Surroundings};
use crate::layout::ENTRY_DISCONNECT;
use crate::object::{Object, Ring};
use crate::pace::Pace;
use crate::primitive::private::AtomicU64;
use crate::primitive::{FenceMode, Ordering};
use crate::ring::Header;
use crate::seat::Seat;
use crate::segment::{Attached, Membership, Side, Token, repair};
use crate::sys::Errno;
use crate::sys::map::Part;

/// Where the messages of a ring lie whose messages are bytes. Twice as many bytes may be touched as there are: see [`Part`].
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) base: NonNull<u8>,
    /// Bytes.
    pub(crate) size: usize,
    /// Of what is called a block, the logarithm.
    pub(crate) shift: u32,
    _map: Arc<Part>,
}

// SAFETY: memory that every thread may reach; who may touch what is decided by the ring.
unsafe impl Send for Data {}
// SAFETY: as above.
unsafe impl Sync for Data {}

/// What an end has last seen of a count of [news](crate::ring::Control::news), and found to be nothing that concerns it.
struct Seen(AtomicU64);

/// Not 32 bits.
const NO_COUNT: u64 = u64::MAX;

impl Clone for Seen {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

/// A ring in a segment, seen from one process.
#[derive(Clone)]
pub(crate) struct Channel {
    attached: Arc<Attached>,
    /// What `attached` knows of us, one step nearer: it is asked on every message.
    membership: &'static Membership,
    header: NonNull<Header>,
    offset: usize,
    mode: FenceMode,
    disconnect: bool,
    /// No full fences, and a bound: what most rings are, asked in one.
    plain: bool,
    /// MPMC: of senders and of receivers.
    seen: [Seen; 2],
    /// MPMC, for sends: of receivers, if the ring is plain, and no count otherwise. Three questions in one.
    seen_by_sends: Seen,
}

// SAFETY: the header is shared memory reached through atomics; `attached` keeps it mapped.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    /// A ring of `object`, one of those that `Object::rings` names.
    pub(crate) fn new(attached: &Arc<Attached>, object: &Object, ring: &Ring) -> Self {
        let offset = ring.offset;
        let (mode, disconnect) = (attached.fence_mode(), object.shape.flags & ENTRY_DISCONNECT != 0);
        let plain = mode == FenceMode::Asymmetric && ring.unbounded.is_none();
        Self {
            header: attached.view().at(offset).cast(),
            offset,
            mode,
            disconnect,
            plain,
            seen: [Seen(AtomicU64::new(0)), Seen(AtomicU64::new(0))],
            seen_by_sends: Seen(AtomicU64::new(if plain { 0 } else { NO_COUNT })),
            membership: attached.membership(),
            attached: Arc::clone(attached),
        }
    }

    /// Where it is: a byte of it.
    pub(crate) fn place(&self) -> (&Arc<Attached>, NonNull<u8>) {
        (&self.attached, self.header.cast())
    }

    #[inline(always)]
    pub(crate) fn attached(&self) -> &Attached {
        &self.attached
    }

    /// See [`Channel::plain`].
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Our participant id as it is known; 0 in a fork child, before it has joined.
    #[inline(always)]
    pub(crate) fn known_id(&self) -> u16 {
        self.membership.token().id()
    }

    /// Whether we are still who we were: not in a fork child.
    #[inline(always)]
    pub(crate) fn is_still(&self, token: Token) -> bool {
        self.membership.token() == token
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

    /// A mapping of the messages' bytes, if that is what they are.
    pub(crate) fn data(&self, ring: &Ring) -> Result<Option<Data>, Error> {
        let Some((offset, size)) = ring.data else { return Ok(None) };
        let io = |e: Errno| Error::Io { action: "map the messages of a queue", source: e.into() };
        let map = Arc::new(Part::twice(self.attached.file(), offset, size).map_err(io)?);
        Ok(Some(Data { base: map.base(), size, shift: ring.block.trailing_zeros(), _map: map }))
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn mode(&self) -> FenceMode {
        self.mode
    }

    #[inline(always)]
    pub(crate) fn is_closing(&self) -> bool {
        self.header().control.is_closing()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.header().control.is_closed(self.mode)
    }

    pub(crate) fn close(&self) {
        let control = &self.header().control;
        control.close(self.mode);
        // Killed before this: the repairer does it, and wakes everybody.
        control.news[Side::Sender as usize].fetch_add(1, Ordering::Release);
        self.wake_everybody();
    }

    pub(crate) fn wake_everybody(&self) {
        self.header().not_empty.notify(ALL, self.mode, || self.ring());
        self.header().not_full.notify(ALL, self.mode, || self.ring());
    }

    /// Rings the segment's bell.
    #[cold]
    fn ring(&self) {
        self.attached.view().ring();
    }

    /// Tells receivers of `n` commits.
    #[inline(always)]
    pub(crate) fn committed(&self, n: usize) {
        self.header().not_empty.notify(clamp(n), self.mode, || self.ring());
    }

    /// Tells senders of `n` releases in an MPMC ring, and receivers if these may have been waiting for nothing else to end.
    #[inline]
    pub(crate) fn released_by_one_of_many(&self, n: usize) {
        self.released(n);
        // Ordered behind the release by the fence in there.
        if self.has_news_of(Side::Sender) {
            self.released_at_the_end();
        }
    }

    /// Out of line, so that the looks stay out of every receive.
    #[cold]
    fn released_at_the_end(&self) {
        if self.is_closing() || self.alone(Side::Sender).is_some() {
            self.wake_everybody();
        }
    }

    /// Tells senders of `n` releases.
    #[inline(always)]
    pub(crate) fn released(&self, n: usize) {
        self.header().not_full.notify(clamp(n), self.mode, || self.ring());
    }

    /// What there is to know about `side`, as a count that only grows. Relaxed: who does not see the last news yet is woken after it,
    /// as all are.
    #[inline(always)]
    fn news_of(&self, side: Side, order: Ordering) -> u64 {
        self.header().control.news[side as usize].load(order).into()
    }

    /// Whether somebody has gone from `side`, or the ring was closed there, since this end last found that nothing follows from it; if
    /// not, it is neither alone nor over. MPMC rings.
    #[inline(always)]
    pub(crate) fn has_news_of(&self, side: Side) -> bool {
        self.news_of(side, Ordering::Relaxed) != self.seen[side as usize].0.load(Ordering::Relaxed)
    }

    /// Whether a send has nothing to look at first: a ring without full fences, with a bound, and no news of receivers.
    #[inline(always)]
    pub(crate) fn sends_at_once(&self) -> bool {
        self.news_of(Side::Receiver, Ordering::Relaxed) == self.seen_by_sends.0.load(Ordering::Relaxed)
    }

    /// How the last one with an end on `side` went, if nobody is left of those who were there, and that is a reason to end; MPMC rings.
    #[cold]
    pub(crate) fn alone(&self, side: Side) -> Option<Departure> {
        // Acquire, before the looks: whoever goes, or closes it, while we look is counted after this.
        let news = self.news_of(side, Ordering::Acquire);
        if self.disconnect && repair::nobody_left(self.header(), side) {
            return Some(repair::departure(self.header(), side));
        }
        if !self.is_closing() {
            self.seen[side as usize].0.store(news, Ordering::Relaxed);
            if side == Side::Receiver && self.plain {
                self.seen_by_sends.0.store(news, Ordering::Relaxed);
            }
        }
        None
    }

    /// How the one with this seat went, if nobody is waited for after it; SPSC rings.
    #[cold]
    pub(crate) fn departure(&self, seat: &Seat<'_>) -> Option<Departure> {
        if self.disconnect { seat.departure() } else { None }
    }

    /// Repeats `attempt` on behalf of a sender until it is something else than Full.
    pub(crate) fn send_blocking<R>(
        &self,
        pace: &Pace,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut() -> Result<R, TrySendError<()>>,
    ) -> Result<R, SendTimeoutError<()>> {
        let sent = self.try_wait(&self.header().not_full, pace, deadline, || match attempt() {
            Ok(sent) => ControlFlow::Break(Ok(sent)),
            Err(TrySendError::Full(())) => ControlFlow::Continue(()),
            Err(TrySendError::Closed(())) => ControlFlow::Break(Err(SendTimeoutError::Closed(()))),
            Err(TrySendError::Disconnected { message, peer }) => {
                ControlFlow::Break(Err(SendTimeoutError::Disconnected { message, peer }))
            }
            Err(TrySendError::TooLarge { message, len, max }) => {
                ControlFlow::Break(Err(SendTimeoutError::TooLarge { message, len, max }))
            }
            Err(TrySendError::Detached(())) => ControlFlow::Break(Err(SendTimeoutError::Detached(()))),
            Err(TrySendError::NoSpace(())) => ControlFlow::Break(Err(SendTimeoutError::NoSpace(()))),
        });
        sent.unwrap_or(Err(SendTimeoutError::Timeout(())))
    }

    /// Repeats `attempt` on behalf of a receiver until it is something else than Empty.
    pub(crate) fn receive_blocking<R>(
        &self,
        pace: &Pace,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut() -> Result<R, TryRecvError>,
    ) -> Result<R, RecvTimeoutError> {
        let received = self.try_wait(&self.header().not_empty, pace, deadline, || match attempt() {
            Ok(value) => ControlFlow::Break(Ok(value)),
            Err(TryRecvError::Empty) => ControlFlow::Continue(()),
            Err(TryRecvError::Closed) => ControlFlow::Break(Err(RecvTimeoutError::Closed)),
            Err(TryRecvError::Disconnected { peer }) => {
                ControlFlow::Break(Err(RecvTimeoutError::Disconnected { peer }))
            }
            Err(TryRecvError::Detached) => ControlFlow::Break(Err(RecvTimeoutError::Detached)),
        });
        received.unwrap_or(Err(RecvTimeoutError::Timeout))
    }

    /// Waits on one of this ring's events.
    pub(crate) fn wait<R>(
        &self,
        event: &Event,
        pace: &Pace,
        deadline: Option<Deadline>,
        attempt: impl FnMut() -> ControlFlow<R>,
    ) -> Option<R> {
        event.wait(self.attached(), pace, deadline, attempt)
    }

    /// As [`Channel::wait`], where an attempt may end without taking anything.
    pub(crate) fn try_wait<T, E>(
        &self,
        event: &Event,
        pace: &Pace,
        deadline: Option<Deadline>,
        attempt: impl FnMut() -> ControlFlow<Result<T, E>>,
    ) -> Option<Result<T, E>> {
        event.try_wait(self.attached(), pace, deadline, attempt)
    }
}

#[inline(always)]
fn clamp(n: usize) -> u32 {
    n.min(ALL as usize) as u32
}

/// A send without a deadline cannot time out.
pub(crate) fn no_deadline<R, T>(result: Result<R, SendTimeoutError<T>>) -> Result<R, SendError<T>> {
    result.map_err(|e| match e {
        SendTimeoutError::Closed(v) => SendError::Closed(v),
        SendTimeoutError::Disconnected { message, peer } => SendError::Disconnected { message, peer },
        SendTimeoutError::TooLarge { message, len, max } => SendError::TooLarge { message, len, max },
        SendTimeoutError::NoSpace(v) => SendError::NoSpace(v),
        SendTimeoutError::Detached(v) | SendTimeoutError::Timeout(v) => SendError::Detached(v),
    })
}

/// A receive without a deadline cannot time out.
pub(crate) fn no_deadline_recv<R>(result: Result<R, RecvTimeoutError>) -> Result<R, RecvError> {
    result.map_err(|e| match e {
        RecvTimeoutError::Closed => RecvError::Closed,
        RecvTimeoutError::Disconnected { peer } => RecvError::Disconnected { peer },
        RecvTimeoutError::Detached | RecvTimeoutError::Timeout => RecvError::Detached,
    })
}
