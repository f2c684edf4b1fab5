//! In the place of gimmal's eventcount: as large, and nobody sleeps on it.

/// Valid when zero, and never touched.
#[repr(C, align(8))]
pub(crate) struct Event([u8; 16]);
