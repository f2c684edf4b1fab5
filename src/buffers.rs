//! The last of many values, always whole: how it is published and read. No waiting, no segment.
//!
//! ```text
//! current (u64):  version:60 | buffer:4            one word a buffer (u64):  sequence:55 | owner:9
//!
//! buffer:  FREE ──claim──▶ CLAIMED(owner) ──publish──▶ current, CLAIMED(owner) ──release──▶ current, FREE
//!            ▲                   │ gave up, or owner dead                                      │ another is published
//!            └───────────────────┴─────────────────────────────────────────────────────────────┘
//!
//! write:  claim:    a buffer that is not current and FREE: owner 0 → ours, sequence + 1, in one CAS
//!                   is it current by now? then give it back, and take another
//!         copy:     fence(Release), then the bytes, as Relaxed words
//!         publish:  current: (version, any) → (version + 1, this buffer)
//!         release:  owner ours → 0
//!
//! read:   c = current;  w = word of its buffer;  settled = owner of w is 0, and current is still c
//!         copy the bytes, as Relaxed words;  fence(Acquire)
//!         whole if current is still c, or if settled and the buffer's word is still w
//! ```
//!
//! # Why what is read is whole
//!
//! 1. *The current buffer is not written.* Who owns a buffer that has been published has nothing left to do but release it. Who
//!    claims it afterwards read, with Acquire, the word that the release (or a repair, or one who gave back) had stored with Release, and so sees
//!    the publication when it looks whether the buffer is current. If it is, nothing is written; if not, it cannot become
//!    current again, since only its owner publishes a buffer.
//! 2. *Current still c.* Whoever writes into the buffer has seen another `current` than c before, in front of its Release fence.
//!    A reader that has read any of those bytes sees, behind its Acquire fence, that `current` or a later one. Versions do not come back.
//! 3. *Settled, and the word still w.* Owner 0, and c was current after w was read, so w is from after the publication, and none
//!    has written since. Whoever writes must claim first, which changes the sequence; the fences make the reader see it. So a
//!    reader is disturbed only if its own buffer is used again, not by every publication. Without *settled* it would miss one that had claimed the
//!    buffer when it was current, and found that it is no longer, between the two.
//! 4. *Publication.* A Release CAS, read with Acquire: whoever sees the version sees its bytes.
//!
//! # Deaths
//!
//! The owner's id is in the word from the claim on. Repair clears it and nothing else: whether it was published or not, the
//! buffer is FREE, and current or not. Before the publication a store has not happened, afterwards it has.
//!
//! A writer that stands still keeps one buffer. Of `count` buffers one is current, so as long as fewer than `count - 1` writers are in the
//! middle of a store, there is a free one.

use crate::event::Event;
use crate::ids::Ids;
use crate::primitive::{AtomicU64, Ordering, fence};

/// Most buffers an object has.
pub(crate) const MOST: usize = 8;

const OWNER: u64 = 0x1ff;
const SEQUENCE: u64 = 1 << 9;
const BUFFER: u64 = 0xf;
const VERSION_SHIFT: u32 = 4;

/// The shared part in front of the buffers. Valid when zero: version 0 is in buffer 0.
#[repr(C)]
pub(crate) struct Header {
    /// See the module. Written by whoever publishes, read by everybody.
    current: AtomicU64,
    /// Those who wait for another version sleep here.
    pub(crate) changed: Event,
    /// Writers that wait for a buffer sleep here.
    pub(crate) free: Event,
    reserved: [u64; 3],
    /// See the module. Written by whoever claims, by the owner, and by repair. Those beyond `count` are unused.
    words: [AtomicU64; MOST],
}

#[cfg(not(loom))]
const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(offset_of!(Header, changed) == 8 && offset_of!(Header, free) == 24);
    assert!(offset_of!(Header, words) == 64 && size_of::<Header>() == 128);
};

impl Header {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Self {
        let words = core::array::from_fn(|_| AtomicU64::new(0));
        Self { current: AtomicU64::new(0), changed: Event::new(), free: Event::new(), reserved: [0; 3], words }
    }

    /// Takes the buffers of participants that are gone; `false` if they had none.
    pub(crate) fn abandon(&self, gone: &Ids) -> bool {
        let abandon = |word: &AtomicU64| {
            let now = word.load(Ordering::Relaxed);
            // Release: what the dead owner saw and wrote comes before what the next one does.
            gone.contains((now & OWNER) as u16)
                && now & OWNER != 0
                && word.compare_exchange(now, now & !OWNER, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        self.words.iter().fold(false, |any, word| any | abandon(word))
    }
}

/// A buffer that is ours: to be published or given back.
#[must_use = "the buffer stays claimed"]
pub(crate) struct Claim {
    buffer: usize,
    word: u64,
}

/// One version, as `current` has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(u64);

impl Stamp {
    pub(crate) fn version(self) -> u64 {
        self.0 >> VERSION_SHIFT
    }
}

/// The buffers of one object.
pub(crate) struct Buffers<'a> {
    pub(crate) header: &'a Header,
    /// All of them in a row. No reference to anything else leads here.
    pub(crate) cells: &'a [AtomicU64],
    /// How many there are: from 2 to [`MOST`].
    pub(crate) count: usize,
}

impl Buffers<'_> {
    /// Which version is current.
    pub(crate) fn stamp(&self) -> Stamp {
        // Relaxed: whoever goes on to read the value loads it again.
        Stamp(self.header.current.load(Ordering::Relaxed))
    }

    /// The buffer that a `current` names. A peer that breaks the protocol may have written anything.
    fn buffer(&self, current: u64) -> usize {
        let buffer = (current & BUFFER) as usize;
        if buffer < self.count { buffer } else { 0 }
    }

    fn cells(&self, buffer: usize) -> &[AtomicU64] {
        let stride = self.cells.len() / self.count;
        &self.cells[buffer * stride..][..stride]
    }

    /// Looks once: the value's bytes and which version it is, or nothing, with garbage in `into`, if writers were faster.
    pub(crate) fn read(&self, into: &mut [u8]) -> Option<Stamp> {
        self.look(|cells| copy_out(cells, into))
    }

    #[inline]
    fn look(&self, copy: impl FnOnce(&[AtomicU64])) -> Option<Stamp> {
        let header = self.header;
        // Acquire: pairs with the publication.
        let now = header.current.load(Ordering::Acquire);
        let buffer = self.buffer(now);
        // Acquire: if it is from after a later publication, or from one who has seen one, the next look sees that.
        let word = header.words[buffer].load(Ordering::Acquire);
        let is_current = || header.current.load(Ordering::Relaxed) == now;
        let settled = word & OWNER == 0 && is_current();
        copy(self.cells(buffer));
        // Each load above becomes an Acquire one: see the module, 2 and 3.
        fence(Ordering::Acquire);
        let whole = settled && header.words[buffer].load(Ordering::Relaxed) == word || is_current();
        whole.then_some(Stamp(now))
    }

    /// Claims a buffer and fills it; `None` if all are claimed.
    pub(crate) fn write(&self, owner: u16, value: &[u8]) -> Option<Claim> {
        let current = self.buffer(self.header.current.load(Ordering::Relaxed));
        // From the one behind the current one on: the one that was current last comes last, as readers may still be there.
        let others = (1..self.count).map(|step| (current + step) % self.count);
        let claim = others.into_iter().find_map(|buffer| self.claim(buffer, owner))?;
        self.fill(&claim, value);
        Some(claim)
    }

    pub(crate) fn fill(&self, claim: &Claim, value: &[u8]) {
        // Each store below becomes a Release one: see the module, 2 and 3.
        fence(Ordering::Release);
        copy_in(self.cells(claim.buffer), value);
    }

    pub(crate) fn claim(&self, buffer: usize, owner: u16) -> Option<Claim> {
        let place = &self.header.words[buffer];
        let free = place.load(Ordering::Relaxed);
        let word = free.wrapping_add(SEQUENCE) | u64::from(owner);
        // Acquire: what its last owner had published is seen by the next look.
        if free & OWNER != 0 || place.compare_exchange(free, word, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return None;
        }
        let claim = Claim { buffer, word };
        if self.buffer(self.header.current.load(Ordering::Relaxed)) == buffer {
            self.release(claim);
            return None;
        }
        Some(claim)
    }

    /// Makes what was written the current value, if that is still what `expected` says, or whatever it is. What is claimed is
    /// released in any case.
    pub(crate) fn publish(&self, claim: Claim, expected: Option<Stamp>) -> Option<Stamp> {
        let mut now = expected.unwrap_or_else(|| self.stamp()).0;
        let published = loop {
            let version = Stamp(now).version().wrapping_add(1);
            let next = version << VERSION_SHIFT | claim.buffer as u64;
            // Release: whoever sees the version sees its bytes.
            match self.header.current.compare_exchange(now, next, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break Some(Stamp(next)),
                Err(_) if expected.is_some() => break None,
                // Somebody else has published.
                Err(changed) => now = changed,
            }
        };
        self.release(claim);
        published
    }

    /// A publication whose writer dies behind it.
    #[cfg(loom)]
    pub(crate) fn publish_and_die(&self, claim: Claim) -> Option<Stamp> {
        let again = claim.word;
        let (buffer, stamp) = (claim.buffer, self.publish(claim, None));
        self.header.words[buffer].store(again, Ordering::Relaxed);
        stamp
    }

    /// Only the owner does, unless it is proven dead.
    fn release(&self, claim: Claim) {
        // Release: the next owner sees what we have published, or seen.
        self.header.words[claim.buffer].store(claim.word & !OWNER, Ordering::Release);
    }
}

pub(crate) fn copy_out(cells: &[AtomicU64], into: &mut [u8]) {
    let (words, rest) = into.as_chunks_mut::<8>();
    let tail = (!rest.is_empty()).then(|| cells[words.len()].load(Ordering::Relaxed).to_ne_bytes());
    for (word, cell) in words.iter_mut().zip(cells) {
        *word = cell.load(Ordering::Relaxed).to_ne_bytes();
    }
    if let Some(tail) = tail {
        rest.copy_from_slice(&tail[..rest.len()]);
    }
}

pub(crate) fn copy_in(cells: &[AtomicU64], from: &[u8]) {
    let (words, rest) = from.as_chunks::<8>();
    for (word, cell) in words.iter().zip(cells) {
        cell.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let mut tail = [0; 8];
        tail[..rest.len()].copy_from_slice(rest);
        cells[words.len()].store(u64::from_ne_bytes(tail), Ordering::Relaxed);
    }
}

/// Fills the first buffer of an object that nobody else knows of yet: version 0.
#[cfg(not(loom))]
pub(crate) fn initialize(cells: &[AtomicU64], value: &[u8]) {
    copy_in(cells, value);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SIZE: usize = 20;

    struct Memory {
        header: Header,
        cells: Vec<AtomicU64>,
    }

    impl Memory {
        fn new(count: usize) -> Self {
            Self { header: Header::new(), cells: (0..count * 3).map(|_| AtomicU64::new(0)).collect() }
        }

        fn buffers(&self) -> Buffers<'_> {
            Buffers { header: &self.header, cells: &self.cells, count: self.cells.len() / 3 }
        }
    }

    fn store(buffers: &Buffers<'_>, value: u8) -> u64 {
        let claim = buffers.write(1, &[value; SIZE]).expect("a free one");
        buffers.publish(claim, None).expect("whatever is there").version()
    }

    /// What one look sees, if `meanwhile` happens when half of the value is copied.
    fn look(buffers: &Buffers<'_>, meanwhile: impl FnOnce()) -> Option<(u64, [u8; SIZE])> {
        let mut value = [99; SIZE];
        let stamp = buffers.look(|cells| {
            copy_out(cells, &mut value[..8]);
            meanwhile();
            copy_out(&cells[1..], &mut value[8..]);
        });
        stamp.map(|stamp| (stamp.version(), value))
    }

    #[test]
    fn a_reader_is_disturbed_only_if_its_own_buffer_is_used_again() {
        for count in 2..=MOST {
            let memory = Memory::new(count);
            let buffers = memory.buffers();
            assert_eq!(store(&buffers, 1), 1);
            for stores in 0..count {
                let (before, value) = look(&buffers, || ()).expect("nobody writes");
                let found = look(&buffers, || (0..stores).for_each(|n| _ = store(&buffers, n as u8)));
                // All the other buffers come first.
                assert_eq!(found, (stores < count).then_some((before, value)), "{stores} stores, {count} buffers");
            }
            assert_eq!(look(&buffers, || (0..=count).for_each(|_| _ = store(&buffers, 7))), None);
        }
    }

    #[test]
    fn a_writer_that_stands_still_behind_its_publication_disturbs_no_reader() {
        let memory = Memory::new(2);
        let buffers = memory.buffers();
        store(&buffers, 5);
        memory.header.words[1].fetch_add(3, Ordering::Relaxed); // not released
        assert_eq!(look(&buffers, || ()), Some((1, [5; SIZE])));
        assert_eq!(look(&buffers, || _ = store(&buffers, 6)), None, "its owner might be one who claimed it too late");
        assert!(buffers.write(1, &[0; SIZE]).is_none(), "one is current, and one is kept");
        assert!(memory.header.abandon(&Ids::from_iter([3])) && !memory.header.abandon(&Ids::from_iter([3])));
        assert_eq!((store(&buffers, 7), look(&buffers, || ())), (3, Some((3, [7; SIZE]))));
    }

    #[test]
    fn whoever_claims_the_current_buffer_gives_it_back() {
        let memory = Memory::new(2);
        let buffers = memory.buffers();
        assert!(buffers.claim(0, 1).is_none());
        assert!(buffers.claim(1, 1).is_some());
        assert_eq!(memory.header.words[0].load(Ordering::Relaxed), SEQUENCE, "free, and changed");
    }

    #[test]
    fn a_value_that_was_changed_meanwhile_is_not_replaced_and_the_buffer_is_free_again() {
        let memory = Memory::new(3);
        let buffers = memory.buffers();
        let seen = buffers.stamp();
        store(&buffers, 1);
        let claim = buffers.write(1, &[2; SIZE]).expect("a free one");
        assert!(buffers.publish(claim, Some(seen)).is_none());
        assert_eq!(look(&buffers, || ()), Some((1, [1; SIZE])));
        let claims = [(); 2].map(|()| buffers.write(1, &[0; SIZE]));
        assert!(claims.iter().all(Option::is_some) && buffers.write(1, &[0; SIZE]).is_none());
    }

    #[test]
    fn whatever_a_peer_has_written_leads_to_no_buffer_that_is_not_there() {
        let memory = Memory::new(4);
        let buffers = memory.buffers();
        for current in [4, 15, u64::MAX, u64::MAX - 1] {
            memory.header.current.store(current, Ordering::Relaxed);
            assert_eq!(look(&buffers, || ()).map(|(version, _)| version), Some(current >> 4));
            memory.header.words.iter().for_each(|word| word.store(!OWNER, Ordering::Relaxed));
            assert_eq!(store(&buffers, 1), ((current >> 4) + 1) & (u64::MAX >> 4), "the counters wrap");
        }
    }

    #[test]
    fn nothing_behind_the_value_is_touched() {
        for size in 1..=24 {
            let memory = Memory::new(2);
            let cells = &memory.cells[..3];
            copy_in(cells, &vec![0xff; size]);
            let mut back = vec![0; size];
            copy_out(cells, &mut back);
            let all: Vec<u8> = cells.iter().flat_map(|cell| cell.load(Ordering::Relaxed).to_ne_bytes()).collect();
            assert!(
                back.iter().chain(&all[..size]).all(|&byte| byte == 0xff) && all[size..].iter().all(|&byte| byte == 0)
            );
        }
    }
}
