//! The ids and the parent that the kernel gave to a message.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Header;

/// Where the trace id and the parent of a message come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// No parent: this span begins a trace.
    Root = 0,
    /// The message's own `traceparent` header.
    Header = 1,
    /// A record of the sender in this kernel.
    SameKernel = 2,
    /// A TCP option.
    Option = 3,
    /// A server request of the same process: [`Method`] says by which rule.
    Causal = 4,
}

impl Source {
    /// The source with this number, if there is one.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Root,
            1 => Self::Header,
            2 => Self::SameKernel,
            3 => Self::Option,
            4 => Self::Causal,
            _ => return None,
        })
    }
}

/// The causality rule that linked an outgoing request to an incoming one, most exact first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// No rule applied, or none was needed.
    None = 0,
    /// The outgoing request carries the incoming one's `traceparent`.
    Forwarded = 1,
    /// The same execution context had exactly one open request.
    SameContext = 2,
    /// The thread was cloned while the parent's request was open.
    Descendant = 3,
    /// Event loop: the connection's first request, and the request that was current at its connect().
    Connect = 4,
    /// Event loop: the message last read on the thread, which has not waited since.
    LastRead = 5,
    /// Event loop: the only open request of the thread.
    OnlyOpen = 6,
    /// State of the language runtime.
    Runtime = 7,
}

impl Method {
    /// The method with this number, if there is one.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::None,
            1 => Self::Forwarded,
            2 => Self::SameContext,
            3 => Self::Descendant,
            4 => Self::Connect,
            5 => Self::LastRead,
            6 => Self::OnlyOpen,
            7 => Self::Runtime,
            _ => return None,
        })
    }
}

/// Bits of [`Decision::decision_flags`].
pub mod decision_flags {
    /// The head carried a well-formed `traceparent`.
    pub const HAS_TRACEPARENT: u8 = 1;
    /// The head's trace id differs from the same-kernel record's: the header won.
    pub const RECORD_DIFFERS: u8 = 1 << 1;
    /// The link would have been ambiguous and was therefore not made.
    pub const AMBIGUOUS: u8 = 1 << 2;
    /// The context is known to the receiver (same-kernel record stored, or something written to the wire).
    pub const PROPAGATED: u8 = 1 << 3;
    /// The sender is this agent or asked not to be traced: no span.
    pub const UNTRACED: u8 = 1 << 4;
    /// The application sent a `traceparent` of its own that is not a forwarded one; our span is its child.
    pub const APPLICATION_CONTEXT: u8 = 1 << 5;
    /// More than one `traceparent` in the head: all of them were ignored, as W3C Trace Context 3.2.2 asks of malformed input.
    pub const DUPLICATE_TRACEPARENT: u8 = 1 << 6;
    /// The head's `traceparent` came from an address outside the trusted networks: it was not taken.
    pub const UNTRUSTED: u8 = 1 << 7;
}

/// A decision: final. Its trace id, span id and sampled bit are never changed by user space.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Decision {
    /// Position of the message's first byte in its stream.
    pub position: u64,
    /// Trace id, as it stands on the wire; all zero means no decision.
    pub trace_id: [u8; 16],
    /// Id of the span that will be exported for this side of the message.
    pub span_id: [u8; 8],
    /// Id of its parent, all zero for none.
    pub parent_span_id: [u8; 8],
    /// Connection of the server request that is the parent ([`Source::Causal`]), else 0.
    pub parent_connection: u64,
    /// Position of that request in its connection's received stream.
    pub parent_position: u64,
    /// Stream id of multiplexed protocols, 0 for none.
    pub stream: u32,
    /// A [`Direction`](super::Direction): of the message's bytes at this socket.
    pub direction: u8,
    /// A [`Source`].
    pub source: u8,
    /// A [`Method`].
    pub method: u8,
    /// Confidence in the parent link, percent.
    pub confidence: u8,
    /// W3C trace flags (bit 0 sampled, bit 1 random).
    pub trace_flags: u8,
    /// [`decision_flags`].
    pub decision_flags: u8,
    /// Requests open on the deciding thread at that time, saturating: tells an ambiguous link's reason.
    pub open_requests: u8,
    #[doc(hidden)]
    pub reserved: [u8; 5],
}

const _: () = assert!(size_of::<Decision>() == 72 && align_of::<Decision>() == 8);

/// A decision as a record of its own: [`Header::position`] equals [`Decision::position`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DecisionRecord {
    /// Kind [`Kind::Decision`](super::Kind::Decision).
    pub header: Header,
    /// Thread group id << 32 | thread id.
    pub pid_tgid: u64,
    /// Start time of the thread group, nanoseconds since boot.
    pub process_start_ns: u64,
    /// The decision.
    pub decision: Decision,
}

const _: () = assert!(size_of::<DecisionRecord>() == 128);
