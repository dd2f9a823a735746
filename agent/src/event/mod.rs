//! From ring-buffer bytes to [`Event`]s.
//!
//! Input: raw records. Output: typed events that borrow from them, and the other things that the pipeline consumes ([`Input`]), so that a
//! recording can feed it exactly as a live kernel does. Nothing here interprets payload.

pub mod clock;
pub mod decode;
pub mod reader;
pub mod recording;

use agent_common::abi;

use crate::process::ProcessFacts;

/// One record of the kernel, decoded, borrowing from the bytes it was decoded from.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// One send or receive and the captured prefix of its bytes (`segment.captured` of them).
    Segment(&'a abi::Segment, &'a [u8]),
    /// A decision that was not inlined in a segment.
    Decision(&'a abi::DecisionRecord),
    /// A connection exists.
    Open(&'a abi::Open),
    /// A connection is over.
    Close(&'a abi::Close),
    /// A process runs a new program.
    Exec(&'a abi::Exec),
    /// A process ended.
    Exit(&'a abi::Exit),
    /// A process began.
    Fork(&'a abi::Fork),
    /// The connection that it names speaks no HTTP/1 any more.
    Release(&'a abi::Header),
    /// A chunked message ends there.
    MessageEnd(&'a abi::MessageEnd),
    /// TCP sent bytes again.
    Retransmit(&'a abi::Retransmit),
    /// The kernel wants to be asked for the positions of the connection that it names.
    Await(&'a abi::Header),
}

/// CLOCK_MONOTONIC and real time, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPair {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub monotonic_ns: u64,
    /// Nanoseconds since the Unix epoch at the same moment.
    pub unix_ns: u64,
}

impl ClockPair {
    /// The real time of a monotonic time, by this pair: nanoseconds since the Unix epoch, saturating.
    #[must_use]
    pub const fn to_unix_ns(self, monotonic_ns: u64) -> u64 {
        if monotonic_ns >= self.monotonic_ns {
            self.unix_ns
                .saturating_add(monotonic_ns - self.monotonic_ns)
        } else {
            self.unix_ns
                .saturating_sub(self.monotonic_ns - monotonic_ns)
        }
    }
}

/// Everything that the pipeline consumes, in the order it consumed it: the live agent and a replay push the same values.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// An event of the kernel.
    Event(Event<'a>),
    /// What became known of a process (read from /proc when the agent was live).
    Process(&'a ProcessFacts),
    /// A new mapping from monotonic to real time.
    Clock(ClockPair),
    /// Answers of the program `live_positions`; entries with `found == 0` belong to connections that are gone. They are used at the next tick,
    /// unless a record of the connection comes first: the ring buffer must be drained in between.
    Live(&'a [abi::LiveRequest]),
    /// Time passed: now, CLOCK_MONOTONIC nanoseconds. Pushed at least every 100 ms after the ring buffer was drained.
    Tick(u64),
}
