//! Queues without a bound: they take memory as messages come, and give it back as they go.

use super::{Endpoint, Queue, QueueOptions};
use crate::error::Error;
use crate::message::Message;
use crate::primitive::Ordering;
use crate::ring::pages::{Chunk, Pages};
use crate::segment::Segment;

/// What has become of an attempt to get more memory.
pub(super) enum Grown {
    /// There is more.
    More,
    /// Somebody else got it, or has claimed what was looked at.
    Again,
    /// The limit is reached, or the queue has one from the start.
    Full,
    /// The system has none.
    NoSpace,
}

impl QueueOptions {
    /// Without a bound: the queue takes memory of the segment's file system as messages come, in chunks of about 1 MiB, and gives it
    /// back as they go. Sends wait, or say Full, only when it has taken `limit` bytes. 0 is half of what is free when the
    /// queue is made, or less, if the process has limits of file length or address space (`ulimit`). For an example see [`Queue::unbounded`].
    pub fn unbounded(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl<M: Message + ?Sized> Queue<M> {
    /// Creates a queue without a bound, or opens it: sends do not wait for receivers, until the queue has taken half of the memory
    /// that was free in the segment's file system when it was made ([`QueueOptions::unbounded`] sets another limit).
    ///
    /// What is promised of every queue holds of this one, also that nobody waits for the dead: a message is in the segment when its
    /// send returns, whatever becomes of its sender. Memory is taken as messages come, in chunks of about 1 MiB, or of an eight-thousandth of the limit, and given back
    /// as they go, but for the last ones; a process that is stopped in the middle of a call may keep it from being given back. It costs
    /// time, too: a send and a receive in a bounded queue take a sixth to an eighth of it (`cargo bench --bench single -- push`).
    ///
    /// ```
    /// use gimmal::{Queue, Segment};
    ///
    /// let segment = Segment::anonymous()?;
    /// let queue = Queue::<u64>::unbounded(&segment, "events")?;
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// for n in 0..200_000 {
    ///     sender.send(n)?; // nobody receives, and nobody waits
    /// }
    /// assert_eq!(receiver.try_iter().sum::<u64>(), 19_999_900_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Queue::open_or_create`]; [`Error::OptionMismatch`] if a queue of this name has a bound.
    ///
    /// Its sends can fail with `NoSpace`: when the file system is full, or the memory of the machine or of a cgroup of this process
    /// ([`SegmentOptions::room`](crate::SegmentOptions::room) says which). They never end the process then.
    ///
    /// The queue takes address space for all of its limit. A program that locks its memory says `mlockall(MCL_FUTURE)` before it opens
    /// the queue, or locks with `MCL_ONFAULT`: `MCL_CURRENT` alone would give memory to all of that.
    pub fn unbounded(segment: &Segment, name: &str) -> Result<Self, Error> {
        Self::options().unbounded(0).open_or_create(segment, name)
    }

    /// Whether it has no bound.
    #[must_use]
    pub fn is_unbounded(&self) -> bool {
        self.region.is_some()
    }

    /// Gets memory for `slots` from `first` on, the first that nobody has claimed.
    #[cold]
    pub(super) fn grow(&self, first: u64, slots: u64, owner: u16) -> Grown {
        let (Some(region), Some(pages)) = (&self.region, self.ring.pages()) else { return Grown::Full };
        let last = first.wrapping_add(slots - 1);
        let mut more = false;
        for chunk in pages.chunk_of(first)..=pages.chunk_of(last) {
            let begin = pages.begin(chunk);
            let look = pages.look(owner);
            if pages.state(begin) != Chunk::Absent {
                continue;
            }
            if !pages.can_open(begin, region.limit()) {
                drop(look);
                // What has been received since may be what is missing.
                self.tidy(owner, self.ring.head());
                return if more || pages.can_open(begin, region.limit()) { Grown::More } else { Grown::Full };
            }
            if region.reserve(self.channel.attached().file(), begin).is_err() {
                drop(look);
                return if self.tidy(owner, self.ring.head()) { Grown::More } else { Grown::NoSpace };
            }
            self.ring.prepare(begin, pages.len());
            pages.open(begin);
            more = true;
        }
        if more { Grown::More } else { Grown::Again }
    }

    /// As [`Queue::is_full`], of a queue without a bound.
    pub(super) fn is_at_its_limit(&self) -> bool {
        let (Some(region), Some(pages)) = (&self.region, self.ring.pages()) else { return false };
        let owner = self.channel.attached().id();
        self.ring.unclaimed(owner).is_err_and(|position| {
            let can_open = || pages.state(position) != Chunk::Absent || pages.can_open(position, region.limit());
            !can_open() && {
                self.tidy(owner, self.ring.head());
                !can_open()
            }
        })
    }

    /// Gives memory back that lies before `position`, the first message that is still due, perhaps; says whether there was some.
    #[cold]
    pub(super) fn tidy(&self, owner: u16, position: u64) -> bool {
        let (Some(region), Some(pages)) = (&self.region, self.ring.pages()) else { return false };
        let file = self.channel.attached().file();
        let any = self.ring.tidy(owner, position, region.stalled(), |chunk| region.give_back(file, pages.begin(chunk)));
        if any {
            self.channel.released(usize::MAX);
        }
        any
    }
}

impl<M: Message + ?Sized> Endpoint<M> {
    /// Called when this end has got something from `position`: gives memory back when it has come to another chunk.
    #[inline(always)]
    pub(super) fn came_to(&self, position: u64, owner: u16) {
        if let Some(pages) = self.queue.ring.pages() {
            self.tidy_in_another_chunk(pages, position, owner);
        }
    }

    #[inline(never)]
    fn tidy_in_another_chunk(&self, pages: &Pages, position: u64, owner: u16) {
        let chunk = pages.chunk_of(position);
        if self.tidied.swap(chunk, Ordering::Relaxed) != chunk {
            self.queue.tidy(owner, position);
        }
    }
}
