//! [`Message`]: what queues and pipes can carry.

use core::mem::{align_of, size_of};

use bytemuck::Pod;

use crate::layout::BLOCK;
use crate::object::ElementType;

/// What a [`Queue`](crate::Queue), [`SpscQueue`](crate::SpscQueue) or [`Pipe`](crate::Pipe) carries:
///
/// - any [`Pod`] type: messages of one size, sent and received by value;
/// - `[u8]`: messages of any size;
///
/// It cannot be implemented for others.
pub trait Message: sealed::Carried {}

impl<M: sealed::Carried + ?Sized> Message for M {}

pub(crate) mod sealed {
    use bytemuck::Pod;

    /// How a message lies in a ring.
    pub trait Carried: 'static {
        /// What stands beside the word of a slot in an MPMC ring.
        type Slot: Pod;
        /// The slot of an SPSC ring.
        type Cell: Pod;
        /// Whether messages are bytes, of any number.
        const BYTES: bool;
    }

    /// Messages of bytes: a run of blocks whose first slot has the length, or a record in a stream.
    pub trait Bytes: Carried<Slot = u64, Cell = u8> {}
}

impl<T: Pod> sealed::Carried for T {
    type Slot = T;
    type Cell = T;
    const BYTES: bool = false;
}

impl sealed::Carried for [u8] {
    type Slot = u64;
    type Cell = u8;
    const BYTES: bool = true;
}

impl sealed::Bytes for [u8] {}

/// The element type of an MPMC ring of `M`, with the smallest blocks if it is bytes.
pub(crate) fn mpmc_element<M: Message + ?Sized>() -> ElementType {
    let (size, align) = if M::BYTES { (BLOCK, 1) } else { (size_of::<M::Slot>(), align_of::<M::Slot>()) };
    ElementType::new(core::any::type_name::<M>(), size, align, M::BYTES)
}

/// The element type of an SPSC ring of `M`.
pub(crate) fn spsc_element<M: Message + ?Sized>() -> ElementType {
    ElementType::new(core::any::type_name::<M>(), size_of::<M::Cell>(), align_of::<M::Cell>(), M::BYTES)
}
