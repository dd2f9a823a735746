//! One kernel send or receive.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Decision, Header};

/// Payload bytes one record can carry. A longer prefix continues in further records at the following positions.
pub const PAYLOAD_BLOCK: usize = 4096;

/// Which way bytes went, seen from the process that owns the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Read by the process.
    Receive = 0,
    /// Offered by the process.
    Send = 1,
}

impl Direction {
    /// The direction with this number; every value but 0 is [`Direction::Send`].
    #[must_use]
    pub const fn from_u8(value: u8) -> Self {
        if value == 0 {
            Self::Receive
        } else {
            Self::Send
        }
    }

    /// The other direction.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Receive => Self::Send,
            Self::Send => Self::Receive,
        }
    }
}

/// What [`Segment::decision`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotKind {
    /// Nothing.
    None = 0,
    /// The decision for the message that begins at [`Decision::position`].
    Decision = 1,
    /// A snapshot of the sender's current request: its ids, its flags, how it was found; `position` is this segment's.
    Snapshot = 2,
}

/// Bits of [`Header::flags`] in a segment.
pub mod segment_flags {
    /// The iterator's kind gives lengths only (splice, sendfile, kernel pages): no payload was readable.
    pub const NO_PAYLOAD: u32 = 1;
    /// The kernel proved that a message begins at [`Header::position`](super::Header::position).
    pub const MESSAGE_START: u32 = 1 << 2;
    /// MSG_TRUNC: bytes were taken from the stream without being copied.
    pub const TRUNCATED: u32 = 1 << 3;
    /// Scratch was busy (a program interrupted another one): lengths only.
    pub const SCRATCH_BUSY: u32 = 1 << 4;
    /// Positions of this connection count return values (MPTCP, kTLS, unix): sends are exact, but not comparable with TCP sequence numbers.
    pub const COUNTED: u32 = 1 << 5;
    /// The captured prefix was limited by policy, not by the bytes there were.
    pub const POLICY_LIMIT: u32 = 1 << 6;
    /// With `MESSAGE_START`: what lies between [`Segment::own`](super::Segment::own), or the end of the message that reaches beyond it, and this message are
    /// whole messages of traces that are not sampled, of which nothing is told.
    pub const HIDDEN_BEFORE: u32 = 1 << 7;
    /// The connection had hidden messages, and which of those that wait for an answer, or are one, belong to them is not known any more.
    pub const HIDING_LOST: u32 = 1 << 8;
    /// What begins in this record may still belong to a hidden message. The first request without this flag, at a turn, has its own response.
    pub const UNPAIRED: u32 = 1 << 9;
}

/// What one direction of a connection had seen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StreamState {
    /// Bytes that had certainly passed: for sends what the kernel had accepted, for receives what the process had read. While the newest messages are
    /// hidden (see [`segment_flags::HIDDEN_BEFORE`]) it stays at the first byte of the first of them.
    pub position: u64,
    /// Time of the last send or receive, CLOCK_MONOTONIC nanoseconds; 0 when there was none.
    pub last_time_ns: u64,
    /// The last bytes before `position`, right-aligned, where they were read (zero bytes otherwise): the end of a chunked body is known by them.
    pub tail: [u8; 16],
}

const _: () = assert!(size_of::<StreamState>() == 32);

/// One send or receive: a record of this fixed part followed by `captured` bytes of payload.
///
/// [`Header::position`] is the stream position of the first byte. A send states what was *asked*: what was accepted is the
/// difference of positions at the connection's next record. The same position seen twice (EAGAIN, partial send, retry) replaces
/// the earlier segment.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// Kind [`Kind::Segment`](super::Kind::Segment); flags are [`segment_flags`].
    pub header: Header,
    /// Thread group id << 32 | thread id, in the initial pid namespace.
    pub pid_tgid: u64,
    /// Start time of the thread group, nanoseconds since boot (`task_struct.group_leader.start_time`): a reused pid has another.
    pub process_start_ns: u64,
    /// Goroutine or task id where the runtime is known, else 0.
    pub context_id: u64,
    /// Bytes asked (send) or read (receive) of which this record speaks, from [`Header::position`] on: behind them another record of the same send or
    /// receive may follow.
    pub length: u32,
    /// Bytes of payload behind this struct; they begin at [`Header::position`].
    pub captured: u32,
    /// Bytes that policy wanted after `captured` but that could not be read (a page that is not there).
    pub unreadable: u32,
    /// Records of this connection that were lost to a full ring buffer so far (cumulative).
    pub dropped: u32,
    /// A [`Direction`].
    pub direction: u8,
    /// A [`SlotKind`].
    pub slot: u8,
    /// A [`PolicyKind`](super::PolicyKind): what governed the capture.
    pub policy: u8,
    /// Kind of `context_id`: 0 thread, 1 goroutine.
    pub context_kind: u8,
    /// Bytes from [`Header::position`] to the end of the message head as far as the kernel knows, 0 when it does not.
    pub head_length: u32,
    /// This direction before this segment.
    pub own: StreamState,
    /// The other direction at this moment.
    pub peer: StreamState,
    /// Decision or snapshot, as `slot` says.
    pub decision: Decision,
}

const _: () = assert!(size_of::<Segment>() == 224 && align_of::<Segment>() == 8);

/// Where a chunked message ends, and what of it is body. [`Header::position`] is the message's first byte.
///
/// Of a send, it speaks of what was offered: the message has ended when the stream's position reaches `end`. When the kernel did not accept what was
/// offered and the process offers something else, another record of the same message takes the place of this one.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageEnd {
    /// Kind [`Kind::MessageEnd`](super::Kind::MessageEnd).
    pub header: Header,
    /// Position behind the message's last byte; [`Self::UNKNOWN`] takes back what was told.
    pub end: u64,
    /// Bytes of the body without the lines that frame it.
    pub body: u64,
    /// A [`Direction`].
    pub direction: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl MessageEnd {
    /// The end is not known any more.
    pub const UNKNOWN: u64 = u64::MAX;
}

const _: () = assert!(size_of::<MessageEnd>() == 64);
