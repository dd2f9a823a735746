//! What a scan finds out about a head.

/// What a head begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HeadKind {
    /// The first line is not complete.
    Unknown = 0,
    /// `METHOD SP target SP HTTP/1.d`.
    Request = 1,
    /// `HTTP/1.d SP ddd`.
    Response = 2,
}

/// Methods that change how the response is framed (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MethodKind {
    /// Any other.
    Other = 0,
    /// HEAD: no response has a body.
    Head = 1,
    /// CONNECT: a 2xx response ends HTTP.
    Connect = 2,
}

/// Bits of [`Head::flags`].
pub mod head_flags {
    /// The unfinished line is longer than the bytes kept of it.
    pub const CUT_LINE: u32 = 1;
    /// The first line is unfinished, but it begins with a method.
    pub const METHOD_SEEN: u32 = 1 << 1;
    /// A well-formed `traceparent` was seen.
    pub const TRACEPARENT: u32 = 1 << 2;
    /// A malformed `traceparent` was seen.
    pub const TRACEPARENT_BAD: u32 = 1 << 3;
    /// More than one `traceparent` was seen.
    pub const TRACEPARENT_TWICE: u32 = 1 << 4;
    /// A Content-Length was seen.
    pub const LENGTH: u32 = 1 << 5;
    /// A Content-Length that is no number, or a second one that differs.
    pub const LENGTH_BAD: u32 = 1 << 6;
    /// A Transfer-Encoding whose last coding is `chunked`.
    pub const CHUNKED: u32 = 1 << 7;
    /// A Transfer-Encoding that ends otherwise.
    pub const ENCODING_OTHER: u32 = 1 << 8;
    /// A line that was cut, and therefore not read, begins like a `traceparent`.
    pub const TRACEPARENT_CUT: u32 = 1 << 9;
    /// A trace id of another propagator was seen ([`propagator`](super::super::super::propagator)).
    pub const CARRIED_TRACE: u32 = 1 << 10;
    /// A span id, likewise.
    pub const CARRIED_SPAN: u32 = 1 << 11;
    /// It says that the caller recorded its part.
    pub const CARRIED_SAMPLED: u32 = 1 << 12;
    /// It says that the caller did not.
    pub const CARRIED_UNSAMPLED: u32 = 1 << 13;
    /// It is malformed, or one of its headers is there twice, in whichever blocks.
    pub const CARRIED_BAD: u32 = 1 << 14;
    /// There is a `tracestate` that is not carried on: malformed, too long, in several lines, or cut; or any in a head that is sent.
    pub const STATE_LOST: u32 = 1 << 15;
    /// A header of another propagator that is a sampling decision alone was seen.
    pub const CARRIED_DECISION: u32 = 1 << 16;
    /// Likewise one that asks for debugging.
    pub const CARRIED_DEBUG: u32 = 1 << 17;
    /// A `tracestate` was seen in a block before this one, also an empty one; of a head that is read.
    pub const STATE_SEEN: u32 = 1 << 18;
    /// All that is known of another propagator's context.
    pub const CARRIED: u32 = CARRIED_TRACE
        | CARRIED_SPAN
        | CARRIED_SAMPLED
        | CARRIED_UNSAMPLED
        | CARRIED_BAD
        | CARRIED_DECISION
        | CARRIED_DEBUG;
    /// Any header named `traceparent` was seen.
    pub const ANY_TRACEPARENT: u32 =
        TRACEPARENT | TRACEPARENT_BAD | TRACEPARENT_TWICE | TRACEPARENT_CUT;
}

/// What is known of a head. Lives across blocks and segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// Value of Content-Length, where [`head_flags::LENGTH`] is set.
    pub content_length: u64,
    /// Trace id of the `traceparent`: two words whose bytes in memory are in the order of the wire.
    pub trace_id: [u64; 2],
    /// Its parent id, likewise.
    pub span_id: u64,
    /// Bytes of the head in the blocks so far.
    pub length: u32,
    /// Bytes of the unfinished line, at most [`CARRY`], that stand before the next block.
    pub carry: u32,
    /// [`head_flags`].
    pub flags: u32,
    /// Status code of a response.
    pub status: u16,
    /// A [`HeadKind`].
    pub kind: u8,
    /// A [`MethodKind`].
    pub method: u8,
    /// Flags of the `traceparent`.
    pub trace_flags: u8,
    /// Place of the propagator that has filled the ids in the user's order, from 1; 0 for `traceparent`, or none.
    pub propagator: u8,
    #[doc(hidden)]
    pub reserved: [u8; 6],
}
