//! The system calls of the harness: shared pages, futexes, cores and clocks.

use std::io::Error;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Fresh zeros that children will share.
pub fn map_shared(bytes: usize) -> NonNull<u8> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh mapping at a place that the kernel chooses touches nothing that exists.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
    assert_ne!(address, libc::MAP_FAILED, "map {bytes} bytes: {}", Error::last_os_error());
    NonNull::new(address.cast()).expect("the kernel maps nothing at zero")
}

/// Sleeps if the word has this value; may return early.
pub fn futex_wait(word: &AtomicU32, value: u32) {
    let (word, forever) = (word.as_ptr(), std::ptr::null::<libc::timespec>());
    // SAFETY: the word is mapped, aligned, and stays so while the call lasts; there is no time-out to read.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, value, forever) };
}

/// Wakes at most `most` of those who sleep on the word.
pub fn futex_wake(word: &AtomicU32, most: i32) {
    // SAFETY: a wake reads and writes nothing of ours.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, most) };
}

/// The cores that this process was started on.
pub fn cores() -> Vec<usize> {
    // SAFETY: any bits are a set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours to write, and as large as we say.
    unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    // SAFETY: the index is smaller than the set is large.
    (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

/// Keeps this thread on one of the cores it was given.
pub fn pin(index: usize) {
    let cores = cores();
    // SAFETY: any bits are a set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cores` has numbers that fit in a set.
    unsafe { libc::CPU_SET(cores[index % cores.len()], &mut set) };
    // SAFETY: reads a set, and changes this thread's affinity only.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}

/// Kills all processes of a group that the caller has made, and not waited for yet.
pub fn kill_group(leader: u32) {
    // SAFETY: sends a signal; the number is still that of our child, hence of its group.
    unsafe { libc::kill(-(leader as libc::pid_t), libc::SIGKILL) };
}

/// Nanoseconds of CLOCK_MONOTONIC, the same for all processes.
#[inline]
pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Processor time of this process, or of this thread alone, in nanoseconds. (`getrusage` is the same for a process; for a
/// thread it knows no more than the last tick did.)
pub fn cpu_time(thread: bool) -> u64 {
    clock(if thread { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_PROCESS_CPUTIME_ID })
}

#[inline]
fn clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to write.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
