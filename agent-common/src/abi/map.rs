//! Values of the maps that user space reads or writes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What of a connection is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PolicyKind {
    /// First bytes of each direction, until somebody knows the protocol.
    Detect = 0,
    /// Message heads: after each message start up to `limit` bytes of head, then only counts.
    Heads = 1,
    /// The first `limit` bytes of every segment.
    Segments = 2,
    /// HTTP/2: heads of frames, DATA payload skipped.
    Frames = 3,
    /// Nothing: ciphertext, unknown binary, traffic of the agent itself.
    Ignore = 4,
}

impl PolicyKind {
    /// The policy with this number; unknown numbers are [`PolicyKind::Ignore`].
    #[must_use]
    pub const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Detect,
            1 => Self::Heads,
            2 => Self::Segments,
            3 => Self::Frames,
            _ => Self::Ignore,
        }
    }
}

/// Value of `POLICIES` (key: connection id, u64). Written by user space only.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Policy {
    /// A [`PolicyKind`].
    pub kind: u32,
    /// Bytes per message head or per segment.
    pub limit: u32,
}

/// Value of `RUNTIMES` (key: thread group id, u32). Written by user space only.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EventLoop {
    /// Bits of [`event_loop`](crate::wire::decide::event_loop).
    pub flags: u64,
    /// Address of a word on the stack of the process's first thread.
    pub slot: u64,
    /// What stands there while the loop runs callbacks that events begin, and at no other time.
    pub handling: u64,
}

/// What user space has decided about a process. Two bits per thread group id in `SELECTION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Not examined: the global `SELECT_UNKNOWN` decides (1 when no process selector is configured).
    Unknown = 0,
    /// Traced.
    Selected = 1,
    /// Not traced.
    Ignored = 2,
    /// The agent itself: not traced, and its connections are marked untraced for their receivers.
    Own = 3,
}

/// Bits per process in `SELECTION`.
pub const VERDICT_BITS: u32 = 2;

/// `SELECTION` is an array of u64: PID_MAX_LIMIT (2^22, include/linux/threads.h) times two bits. 1 MiB.
pub const SELECTION_WORDS: u32 = (1 << 22) * VERDICT_BITS / 64;

/// Entries of `THRESHOLDS`: that of the sampler, and one for each rule for services.
pub const THRESHOLDS: u32 = 64;

/// Entries of `LIVE`, the array through which user space asks for live positions.
pub const LIVE_BATCH: u32 = 64;

/// Value of `LIVE`: user space writes `socket`, `connection` and perhaps [`LiveRequest::GIVEN_UP`], runs the program `live_positions`, and reads the rest.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LiveRequest {
    /// Key in `SOCKETS` ([`Open::socket`](super::Open::socket)); 0 ends the batch.
    pub socket: u64,
    /// The connection the asker means; another one at that socket answers `found = 0`.
    pub connection: u64,
    /// 0 when the connection is gone and nothing below is valid; else 1, and [`LiveRequest::IS_OPEN`] in addition where a request on it is open.
    pub found: u64,
    /// Bytes accepted from the process so far.
    pub sent: super::StreamState,
    /// Bytes read by the process so far.
    pub received: super::StreamState,
}

impl LiveRequest {
    /// In [`LiveRequest::found`]: a request on the connection is open.
    pub const IS_OPEN: u64 = 2;
    /// In [`LiveRequest::found`] of a question: user space has given up the request on the connection.
    pub const GIVEN_UP: u64 = 4;
}

const _: () = assert!(
    size_of::<LiveRequest>() == 88 && size_of::<EventLoop>() == 24 && size_of::<Policy>() == 8
);
