//! What crosses the kernel boundary.
//!
//! Every record in the ring buffer begins with a [`Header`]; its kind says which struct the bytes are. A new kind of event is a new
//! record, never a wider [`Segment`]: readers count kinds they do not know and skip them by `length`. All integers are in the byte order
//! of the machine (little endian everywhere we run); all times are CLOCK_MONOTONIC nanoseconds; all positions are 64-bit offsets in one
//! direction's stream, 0 being the first byte of payload after the handshake.
//!
//! The types derive `zerocopy` traits: padding is a compile error.

mod connection;
mod counter;
mod decision;
mod injection;
mod map;
mod option;
mod peer;
mod process;
mod retransmit;
mod segment;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use self::{
    connection::{Close, CloseReason, Open, Origin, Role},
    counter::Counter,
    decision::{Decision, DecisionRecord, Method, Source, decision_flags},
    injection::{Injection, InjectionSlot, InjectionState, KeptState, switches},
    map::{
        EventLoop, LIVE_BATCH, LiveRequest, Policy, PolicyKind, SELECTION_WORDS, THRESHOLDS,
        VERDICT_BITS, Verdict,
    },
    option::{Brought, BroughtContext, OfferedContext, Offers, Trial, outcome},
    peer::Peer,
    process::{Exec, Exit, Fork},
    retransmit::Retransmit,
    segment::{
        Direction, MessageEnd, PAYLOAD_BLOCK, Segment, SlotKind, StreamState, segment_flags,
    },
};

/// Version of every record in this module; it changes whenever a layout or a meaning does.
pub const ABI_VERSION: u16 = 5;

/// What a record in the ring buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// [`Segment`]: one send or receive, with a bounded prefix of its bytes.
    Segment = 1,
    /// [`DecisionRecord`]: ids and parent the kernel gave to a message, when they are not inlined in its segment.
    Decision = 2,
    /// [`Open`]: a connection was established, accepted or first seen.
    Open = 3,
    /// [`Close`]: a connection ended, or a connect failed.
    Close = 4,
    /// [`Exec`]: a process runs a new program.
    Exec = 5,
    /// [`Exit`]: a process ended.
    Exit = 6,
    /// [`Fork`]: a process began.
    Fork = 7,
    /// [`Header`] alone: the connection speaks no HTTP/1 any more; nothing will be written into it, so its socket can be let go.
    Release = 8,
    /// [`MessageEnd`]: the end of a chunked message, which its head does not tell.
    MessageEnd = 9,
    /// [`Retransmit`]: TCP sent bytes of a connection again.
    Retransmit = 10,
    /// [`Header`] alone: the rest of the answer to a hidden request may be sent where no hook sees it. The connection's positions are to be asked for until
    /// no request on it is open ([`LiveRequest::IS_OPEN`]).
    Await = 11,
}

impl Kind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_u16(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Segment,
            2 => Self::Decision,
            3 => Self::Open,
            4 => Self::Close,
            5 => Self::Exec,
            6 => Self::Exit,
            7 => Self::Fork,
            8 => Self::Release,
            9 => Self::MessageEnd,
            10 => Self::Retransmit,
            11 => Self::Await,
            _ => return None,
        })
    }
}

/// The beginning of every record.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// A [`Kind`].
    pub kind: u16,
    /// [`ABI_VERSION`] of the writer.
    pub version: u16,
    /// Bytes of the whole record, this header included.
    pub length: u32,
    /// When it happened, CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// The connection (`time in ns << 10 | CPU` of its first sight, never reused), or 0 for process records.
    pub connection: u64,
    /// Stream position that the record speaks of; see each record.
    pub position: u64,
    /// CPU that wrote the record.
    pub cpu: u32,
    /// Bits whose meaning belongs to the kind.
    pub flags: u32,
}

const _: () = assert!(size_of::<Header>() == 40 && align_of::<Header>() == 8);
