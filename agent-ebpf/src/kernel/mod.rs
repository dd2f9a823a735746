//! The only code that touches kernel memory.

pub(crate) mod field;
pub(crate) mod iter;
pub(crate) mod sock;
pub(crate) mod task;
pub(crate) mod user;
