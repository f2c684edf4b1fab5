//! shaq: rings in a file on a tmpfs. Receivers spin and then sleep on a futex; senders that find no room poll.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use shaq::{mpmc, spsc};

use super::{Link, Rx, Spec, Tx, fill, poll};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// `shaq::spsc`.
pub struct Spsc(Spec);
/// `shaq::mpmc`.
pub struct Mpmc(Spec);

fn path(spec: &Spec, lane: usize) -> PathBuf {
    spec.directory.join(format!("{}-{lane}", spec.name))
}

fn files(spec: &Spec, first: bool) -> Vec<File> {
    let file = |lane| File::options().read(true).write(true).create_new(first).open(path(spec, lane));
    (0..spec.lanes).map(|lane| file(lane).expect("the queue's file")).collect()
}

impl<const N: usize> Link<N> for Spsc {
    type Shared = Vec<File>;
    type Tx = spsc::Producer<[u64; N]>;
    type Rx = spsc::Consumer<[u64; N]>;

    fn prepare(spec: &Spec) -> Self {
        Self(spec.clone())
    }

    fn open(&self, first: bool) -> Vec<File> {
        let files = files(&self.0, first);
        if first {
            let size = spsc::minimum_file_size::<[u64; N]>(self.0.capacity);
            for file in &files {
                // SAFETY: the file is fresh, the first worker alone initializes it, and this producer is gone before others
                // join. Words are valid in every process.
                drop(unsafe { spsc::Producer::<[u64; N]>::create(file, size) }.expect("create a queue"));
            }
        }
        files
    }

    fn sender(&self, files: &Vec<File>, lane: usize) -> Self::Tx {
        // SAFETY: one worker sends through a lane, and all use the same `N`.
        unsafe { spsc::Producer::join(&files[lane]) }.expect("join as the producer")
    }

    fn receiver(&self, files: &Vec<File>, lane: usize) -> Self::Rx {
        // SAFETY: one worker receives from a lane, and all use the same `N`.
        unsafe { spsc::Consumer::join(&files[lane]) }.expect("join as the consumer")
    }
}

impl<const N: usize> Tx<N> for spsc::Producer<[u64; N]> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; N]) {
        poll(|| self.try_write(*message).ok());
    }

    fn send_many(&mut self, messages: &[[u64; N]]) {
        let mut rest = messages.iter();
        poll(|| {
            let mut batch = self.write_batch();
            while let Some(message) = rest.as_slice().first() {
                batch.try_write(*message).ok()?;
                rest.next();
            }
            Some(())
        });
    }

    fn send_in_place(&mut self, number: u64) {
        poll(|| {
            let mut batch = self.write_batch();
            // SAFETY: the slot is filled at once, and that does not unwind.
            let slot = unsafe { batch.try_as_mut() }?;
            fill(slot, number);
            Some(())
        });
    }
}

impl<const N: usize> Rx<N> for spsc::Consumer<[u64; N]> {
    #[inline(always)]
    fn recv(&mut self) -> [u64; N] {
        self.read_timeout(LONG).expect("a message")
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; N]> {
        self.try_read()
    }

    fn recv_many(&mut self, into: &mut Vec<[u64; N]>, most: usize) {
        let most = NonZeroUsize::new(most).expect("at least one");
        into.extend(self.reserve_read_batch_timeout(most, LONG).expect("messages"));
    }

    fn recv_in_place<R>(&mut self, read: impl FnOnce(&[u64; N]) -> R) -> R {
        read(&self.reserve_read_batch_timeout(NonZeroUsize::MIN, LONG).expect("a message")[0])
    }
}

impl<const N: usize> Link<N> for Mpmc {
    type Shared = Vec<File>;
    type Tx = mpmc::Producer<[u64; N]>;
    type Rx = mpmc::Consumer<[u64; N]>;

    fn prepare(spec: &Spec) -> Self {
        Self(spec.clone())
    }

    fn open(&self, first: bool) -> Vec<File> {
        let files = files(&self.0, first);
        if first {
            let size = mpmc::minimum_file_size::<[u64; N]>(self.0.capacity);
            for file in &files {
                // SAFETY: the file is fresh, and the first worker alone initializes it. Words are valid in every process.
                drop(unsafe { mpmc::Producer::<[u64; N]>::create(file, size) }.expect("create a queue"));
            }
        }
        files
    }

    fn sender(&self, files: &Vec<File>, lane: usize) -> Self::Tx {
        // SAFETY: all use the same `N`.
        unsafe { mpmc::Producer::join(&files[lane]) }.expect("join as a producer")
    }

    fn receiver(&self, files: &Vec<File>, lane: usize) -> Self::Rx {
        // SAFETY: all use the same `N`.
        unsafe { mpmc::Consumer::join(&files[lane]) }.expect("join as a consumer")
    }
}

impl<const N: usize> Tx<N> for mpmc::Producer<[u64; N]> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; N]) {
        poll(|| self.try_write(*message).ok());
    }

    fn send_many(&mut self, messages: &[[u64; N]]) {
        poll(|| self.try_write_slice(messages).then_some(()));
    }

    fn send_in_place(&mut self, number: u64) {
        // SAFETY: the slot is filled below, before the guard is dropped.
        let mut guard = poll(|| unsafe { self.try_reserve_write() });
        fill(guard.as_mut(), number);
    }
}

impl<const N: usize> Rx<N> for mpmc::Consumer<[u64; N]> {
    #[inline(always)]
    fn recv(&mut self) -> [u64; N] {
        self.read_timeout(LONG).expect("a message")
    }

    #[inline(always)]
    fn try_recv(&mut self) -> Option<[u64; N]> {
        self.try_read()
    }

    fn recv_many(&mut self, into: &mut Vec<[u64; N]>, most: usize) {
        let most = NonZeroUsize::new(most).expect("at least one");
        into.extend(self.reserve_read_batch_timeout(most, LONG).expect("messages"));
    }

    fn recv_in_place<R>(&mut self, read: impl FnOnce(&[u64; N]) -> R) -> R {
        read(self.reserve_read_timeout(LONG).expect("a message").as_ref())
    }
}
