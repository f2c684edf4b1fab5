//! Where the sentinel sleeps: on as many words as it takes, 127 in each of its threads.
//!
//! Post 0 is the sentinel's own. At each other one stands an *ear*, a thread that sleeps on the words it was given and on its
//! call. If one of the words has changed it says so, once, and waits for the call, which comes with new words: so the sentinel, which
//! remembers what each word was when it looked, is the only one to decide what that means.
//!
//! No change is missed: a word is given together with the value that the sentinel has acted upon, and the kernel lets nobody go
//! to sleep on a word that has another one.

use super::{NAME, STATE, call, enroll};
use crate::deadline::Deadline;
use crate::mutex::Mutex;
use crate::primitive::private::AtomicBool;
use crate::primitive::{AtomicU32, FutexWord, Ordering};
use crate::sys::futex::{WAITV_MAX, Words};
use crate::sys::thread;

/// A word to sleep on. The memory stays mapped for ever.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Which one of its segment's it is.
    pub(super) key: u16,
    pub(super) word: &'static AtomicU32,
    /// What it was when the sentinel looked.
    pub(super) seen: u32,
}

/// A word that some thread sleeps on.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    key: u16,
    seen: u32,
    post: usize,
}

/// A thread that sleeps on words for the sentinel. Never ends, is never freed.
pub(super) struct Ear {
    /// Bumped with new words.
    call: FutexWord,
    /// What it was given.
    words: Mutex<Vec<(&'static AtomicU32, u32)>>,
    /// Set when one of them may have changed.
    rang: AtomicBool,
    /// 1 when it has begun, 2 if it could not.
    begun: FutexWord,
}

impl Ear {
    /// Starts one more thread; `None` if there can be none.
    pub(super) fn start() -> Option<&'static Self> {
        let ear: &'static Self = Box::leak(Box::new(Self {
            call: FutexWord::new(),
            words: Mutex::new(Vec::new()),
            rang: AtomicBool::new(false),
            begun: FutexWord::new(),
        }));
        thread::spawn_quiet(NAME, || ear.run()).ok()?;
        while ear.begun.word().load(Ordering::Acquire) == 0 {
            ear.begun.wait(0, None);
        }
        (ear.begun.word().load(Ordering::Acquire) == 1).then_some(ear)
    }

    fn run(&'static self) {
        let enrolled = enroll();
        if enrolled {
            STATE.with(|state| state.ears.push(self));
        }
        self.begun.word().store(if enrolled { 1 } else { 2 }, Ordering::Release);
        self.begun.wake(1);
        if !enrolled {
            return;
        }
        let mut words = Words::default();
        loop {
            let called = self.call.word().load(Ordering::Acquire);
            words.clear();
            words.push(self.call.word(), called);
            self.words.with(|given| given.iter().for_each(|&(word, seen)| words.push(word, seen)));
            words.wait(None);
            if self.call.word().load(Ordering::Acquire) == called {
                self.rang.store(true, Ordering::Release);
                call();
                while self.call.word().load(Ordering::Acquire) == called {
                    self.call.wait(called, None);
                }
            }
        }
    }

    /// Gives it words to sleep on.
    fn listen(&self, words: impl Iterator<Item = (&'static AtomicU32, u32)>) {
        self.words.with(|given| {
            given.clear();
            given.extend(words);
        });
        // Release: who sees the number sees the words.
        self.call.word().fetch_add(1, Ordering::Release);
        self.call.wake(1);
    }
}

/// A thread, and the words it sleeps on: whose they are, which, and what they were.
#[derive(Default)]
struct Post {
    words: Vec<(usize, Wanted)>,
    /// They are others than its ear was given, or the ear waits for them.
    is_due: bool,
    /// Its ear still sleeps on some that it need not. It may be woken for one that another post has, if an id is used again.
    is_stale: bool,
}

impl Post {
    /// Adds the segments of which a word has changed.
    fn look(&self, changed: &mut Vec<usize>) {
        // Acquire comes with the look at the segment.
        let news = self.words.iter().filter(|(_, wanted)| wanted.word.load(Ordering::Relaxed) != wanted.seen);
        changed.extend(news.map(|&(place, _)| place));
    }
}

/// All posts.
pub(super) struct Posts {
    posts: Vec<Post>,
    /// At no ear's post before this one is room.
    roomy: usize,
    /// For the sentinel's own sleep.
    own: Words,
}

impl Posts {
    /// How many words fit beside the call.
    const ROOM: usize = WAITV_MAX - 1;

    pub(super) fn new() -> Self {
        Self { posts: vec![Post::default()], roomy: 1, own: Words::default() }
    }

    /// The segments of which a word has changed.
    pub(super) fn changed(&mut self) -> Vec<usize> {
        let mut changed = Vec::new();
        let ears: Vec<&'static Ear> =
            if self.posts.len() > 1 { STATE.with(|state| state.ears.clone()) } else { Vec::new() };
        let mut everywhere = false;
        for (post, ear) in self.posts[1..].iter_mut().zip(ears) {
            if ear.rang.swap(false, Ordering::AcqRel) {
                // The ear waits for words, be they the same.
                post.is_due = true;
                everywhere |= post.is_stale;
                post.look(&mut changed);
            }
        }
        self.posts[0].look(&mut changed);
        if everywhere {
            self.posts[1..].iter().for_each(|post| post.look(&mut changed));
        }
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// From now on the words of the segment at `place` are those `wanted`, in the order of their keys; `false` if there is no
    /// thread for some of them.
    pub(super) fn listen(&mut self, place: usize, heard: &mut Vec<Heard>, wanted: &[Wanted]) -> bool {
        let mut before = core::mem::take(heard).into_iter().peekable();
        let mut fresh = Vec::new();
        for &word in wanted {
            while let Some(gone) = before.next_if(|old| old.key < word.key) {
                self.forget(place, gone, false);
            }
            match before.next_if(|old| old.key == word.key) {
                Some(same) => {
                    if same.seen != word.seen {
                        let post = &mut self.posts[same.post];
                        let find = |(whose, old): &&mut (usize, Wanted)| (*whose, old.key) == (place, word.key);
                        post.words.iter_mut().find(find).expect("was put there").1 = word;
                        post.is_due = true;
                    }
                    heard.push(Heard { seen: word.seen, ..same });
                }
                None => fresh.push(word),
            }
        }
        // Who has left a segment must not be woken in place of those who are still there.
        before.for_each(|gone| self.forget(place, gone, wanted.is_empty()));
        let mut all_heard = true;
        // Announcements come often where there are many: then the sentinel's own sleep is to be one on few words.
        let crowded = wanted.len() > Self::ROOM / 2;
        for word in fresh {
            match self.with_room(word.key == 0 || !crowded) {
                Some(post) => {
                    self.posts[post].words.push((place, word));
                    self.posts[post].is_due = true;
                    heard.push(Heard { key: word.key, seen: word.seen, post });
                }
                None => all_heard = false,
            }
        }
        heard.sort_unstable_by_key(|heard| heard.key);
        all_heard
    }

    /// Takes a word away. Its ear has to know of that `at_once`, or when it is given others.
    fn forget(&mut self, place: usize, gone: Heard, at_once: bool) {
        let post = &mut self.posts[gone.post];
        let at = post.words.iter().position(|(whose, old)| (*whose, old.key) == (place, gone.key));
        post.words.swap_remove(at.expect("was put there"));
        post.is_due |= at_once;
        post.is_stale = true;
        self.roomy = self.roomy.min(gone.post.max(1));
    }

    /// A post with room, the sentinel's own if it may be; if there is none, with a thread that is started for it.
    fn with_room(&mut self, own: bool) -> Option<usize> {
        if own && self.posts[0].words.len() < Self::ROOM {
            return Some(0);
        }
        while let Some(post) = self.posts.get(self.roomy) {
            if post.words.len() < Self::ROOM {
                return Some(self.roomy);
            }
            self.roomy += 1;
        }
        // One that answers for participants already may be idle otherwise.
        let ears = STATE.with(|state| state.ears.len());
        if ears < self.posts.len() {
            Ear::start()?;
        }
        self.posts.push(Post::default());
        Some(self.roomy)
    }

    /// Lets each ear know what it sleeps on.
    pub(super) fn settle(&mut self) {
        for (at, post) in self.posts.iter_mut().enumerate().skip(1).filter(|(_, post)| post.is_due) {
            let ear = STATE.with(|state| state.ears[at - 1]);
            ear.listen(post.words.iter().map(|(_, wanted)| (wanted.word, wanted.seen)));
            (post.is_due, post.is_stale) = (false, false);
        }
    }

    /// Sleeps at our own post, until called, or `until`.
    pub(super) fn sleep(&mut self, call: &AtomicU32, called: u32, until: Option<Deadline>) {
        self.own.clear();
        self.own.push(call, called);
        self.posts[0].words.iter().for_each(|(_, wanted)| self.own.push(wanted.word, wanted.seen));
        self.own.wait(until);
    }
}
