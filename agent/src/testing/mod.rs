//! A kernel made of paper: records as the programs would write them for a conversation that a test tells.
//!
//! Input: what a test says that an application does ([`Socket`]). Output: [`Record`]s, and what a pipeline makes of them ([`Bench`]).
//!
//! Positions, states, times and flags are kept as the event ABI says, so that a test names bytes and not bookkeeping.

mod bench;
mod record;
mod socket;

pub use self::{
    bench::Bench,
    record::{Record, SegmentExt, encoded},
    socket::Socket,
};
use crate::process::ProcessKey;

/// The process of most tests.
pub const PROCESS: ProcessKey = ProcessKey {
    tgid: 42,
    start_ns: 4_200,
};

const MILLISECOND: u64 = 1_000_000;
