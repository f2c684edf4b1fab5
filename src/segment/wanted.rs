//! What an opener expects of an object.

use crate::error::Error;
use crate::object::{ElementType, Object, Shape};

/// A shape, or what of it matters to the one who opens.
pub(crate) struct Wanted {
    shape: Shape,
    any_capacity: bool,
}

impl Wanted {
    /// The kind and type of `shape`, whatever the capacity and options.
    pub(crate) fn like(shape: Shape) -> Self {
        Self { shape, any_capacity: true }
    }

    pub(crate) fn exactly(shape: Shape) -> Self {
        Self { shape, any_capacity: false }
    }

    pub(super) fn check(&self, found: &Object) -> Result<(), Error> {
        let (wanted, has, name) = (&self.shape, &found.shape, || found.name.clone());
        if wanted.kind != has.kind {
            return Err(Error::KindMismatch { name: name(), expected: wanted.kind, found: has.kind });
        }
        let layout = |shape: &Shape| {
            // How large the blocks are, only the creator decides.
            let size = |t: &ElementType| (if t.bytes { 1 } else { t.size }, t.align, t.bytes);
            (shape.element_text(), size(&shape.element), shape.second.as_ref().map(size))
        };
        if layout(wanted) != layout(has) {
            let text = |shape: &Shape| format!("{} ({} bytes)", shape.element_text(), shape.element.size);
            return Err(Error::TypeMismatch { name: name(), expected: text(wanted), found: text(has) });
        }
        if !self.any_capacity && wanted.unbounded.is_some() != has.unbounded.is_some() {
            return Err(Error::OptionMismatch { name: name(), option: "unbounded" });
        }
        // How much memory was free when it was made, nobody has to know.
        if !self.any_capacity && wanted.capacity != has.capacity && has.unbounded.is_none() {
            return Err(Error::CapacityMismatch { name: name(), expected: wanted.capacity, found: has.capacity });
        }
        if !self.any_capacity && wanted.flags != has.flags {
            return Err(Error::OptionMismatch { name: name(), option: "keep_waiting" });
        }
        Ok(())
    }
}
