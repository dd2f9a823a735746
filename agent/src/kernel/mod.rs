//! Facts about the running kernel: its types, the offsets the programs need, what it permits, and known defects.
//!
//! Input: `/sys` and `/proc`, read once at start. Output: plain data for the plan, the loader and `undertrace doctor`.
//! Nothing here loads a program; what only loading can tell is tried by `probe`.

pub mod btf;
pub mod features;
pub mod offsets;
pub mod quirks;
pub mod version;
