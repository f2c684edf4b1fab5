//! What may cross threads and what may be copied: the shapes of the handles, asserted at compile time.

use gimmal::{
    Array, Atomic, Bytes, End, Error, Latest, Lock, LockError, LockGuard, Over, Queue, QueueOptions, Receiver,
    RecvError, RecvTimeoutError, Segment, SegmentOptions, SendError, SendSliceError, SendTimeoutError, Sender,
    SharedEnd, Snapshot, SpscQueue, Str, Timeout, TooLong, TryRecvError, TrySendError, Value, Versioned, spsc,
};

/// Whether a type has a trait, as a constant: the inherent one is chosen where its bound holds, else the trait's.
macro_rules! has {
    ($type:ty: $trait:path) => {{
        #[allow(dead_code)]
        trait Otherwise {
            const HAS: bool = false;
        }
        impl<T: ?Sized> Otherwise for T {}
        #[allow(dead_code)]
        struct Probe<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code)]
        impl<T: ?Sized + $trait> Probe<T> {
            const HAS: bool = true;
        }
        <Probe<$type>>::HAS
    }};
}

macro_rules! assert_shapes {
    ($($type:ty: $send:ident $sync:ident $clone:ident;)+) => {$(
        assert_eq!(
            (has!($type: Send), has!($type: Sync), has!($type: Clone)),
            ($send, $sync, $clone),
            "Send, Sync, Clone of {}", stringify!($type)
        );
    )+};
}

#[allow(non_upper_case_globals)]
const yes: bool = true;
#[allow(non_upper_case_globals)]
const no: bool = false;

#[test]
fn the_probe_tells_what_a_type_has() {
    assert_shapes! {
        u8:                             yes yes yes;
        std::cell::Cell<u8>:            yes no  yes;
        std::sync::MutexGuard<'_, u8>:  no  yes no;
        *const u8:                      no  no  yes;
    }
}

#[test]
fn handles_of_everybody_are_shared_and_cloned() {
    assert_shapes! {
        Segment:            yes yes yes;
        SegmentOptions:     yes yes yes;
        QueueOptions:       yes yes yes;
        Queue<u64>:         yes yes yes;
        Sender<u64>:        yes yes yes;
        Receiver<u64>:      yes yes yes;
        SharedEnd<u8, u64>: yes yes yes;
        SpscQueue<u64>:     yes yes yes;
        Value<f64>:         yes yes yes;
        Array<bool>:        yes yes yes;
        Lock<[u8; 3]>:      yes yes yes;
        Latest<[u8; 3]>:    yes yes yes;
        Versioned<[u8; 3]>: yes yes yes;
        Str<9>:             yes yes yes;
        Bytes<9>:           yes yes yes;
        Snapshot:           yes yes yes;
    }
}

#[test]
fn exclusive_ends_move_between_threads_and_are_neither_shared_nor_cloned() {
    assert_shapes! {
        spsc::Sender<u64>:   yes no no;
        spsc::Receiver<u64>: yes no no;
        End<u8, u64>:        yes no no;
    }
}

#[test]
fn a_held_lock_moves_between_threads_and_cannot_be_held_twice() {
    assert_shapes! {
        LockGuard<u64>:            yes yes no;
        Over<(), Array<u64>>:      yes yes no;
        LockError<LockGuard<u64>>: yes yes no;
    }
}

/// An atomic that is copied would be another number.
#[test]
fn atomics_are_shared_by_reference_only() {
    assert_shapes! {
        Atomic<u64>:  yes yes no;
        Atomic<bool>: yes yes no;
    }
}

#[test]
fn errors_can_be_reported_from_any_thread() {
    fn reportable<E: std::error::Error + Send + Sync + 'static>() {}
    reportable::<Error>();
    reportable::<TrySendError<u64>>();
    reportable::<SendError<u64>>();
    reportable::<SendTimeoutError<u64>>();
    reportable::<SendSliceError>();
    reportable::<TryRecvError>();
    reportable::<RecvError>();
    reportable::<RecvTimeoutError>();
    reportable::<Timeout>();
    reportable::<TooLong>();
    reportable::<LockError<LockGuard<u64>>>();
}

/// Messages need not be printable: whoever unwraps a result wants its reason.
#[test]
fn debug_never_asks_for_debug_of_the_message() {
    #[derive(Clone, Copy, gimmal::bytemuck::Pod, gimmal::bytemuck::Zeroable)]
    #[bytemuck(crate = "gimmal::bytemuck")]
    #[repr(C)]
    struct Mute(u8);
    fn debug<T: std::fmt::Debug>() {}
    debug::<Queue<Mute>>();
    debug::<Sender<Mute>>();
    debug::<Receiver<Mute>>();
    debug::<spsc::Sender<Mute>>();
    debug::<spsc::Receiver<Mute>>();
    debug::<SharedEnd<Mute, Mute>>();
    debug::<Lock<Mute>>();
    debug::<Latest<Mute>>();
    debug::<TrySendError<Mute>>();
    debug::<SendError<Mute>>();
    debug::<SendTimeoutError<Mute>>();
    debug::<LockError<LockGuard<Mute>>>();
}
