//! What the send hook tells the program on the socket's send path to write.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::inject::STATE_LIMIT;

/// Where a connection stands. Numbers of [`Injection::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InjectionState {
    /// A traced process connected it; the handshake's callback shall enrol it.
    Wanted = 0,
    /// It is in the sockhash.
    Enrolled = 1,
    /// It is not, and never will be.
    Refused = 2,
}

/// Bits of the one word in `SWITCHES`.
pub mod switches {
    /// Nothing is written any more, and no connection is wanted: a self-test has failed, or the agent ends. Never taken back.
    pub const STOPPED: u32 = 1;
}

/// One place of a send.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct InjectionSlot {
    /// Offset in the bytes that the process sends: of the empty line (insert), or of the `traceparent` value (rewrite).
    pub at: u32,
    /// An [`Action`](crate::wire::inject::Action).
    pub action: u32,
    /// Trace id: two words whose bytes in memory are in the order of the wire.
    pub trace_id: [u64; 2],
    /// Span id, likewise.
    pub span_id: u64,
    /// W3C trace flags.
    pub trace_flags: u64,
}

impl InjectionSlot {
    /// Requests of one send into which something is written.
    pub const COUNT: usize = 4;
}

/// Value of `INJECTIONS` (key: sock pointer): made when a connection of a traced process is established, deleted with the connection.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Injection {
    /// The connection: key in the sockhash.
    pub connection: u64,
    /// Thread group id << 32 | thread id of the send that the slots are for.
    pub pid_tgid: u64,
    /// Bytes of that send.
    pub length: u32,
    /// Slots in use; 0 when there is nothing to do.
    pub count: u32,
    /// An [`InjectionState`].
    pub state: u32,
    /// Bytes put into the stream so far, modulo 2^32. Written after `until`, and read before it.
    pub inserted: u32,
    /// Sequence number of the first byte of that send.
    pub start: u32,
    /// Sequence number behind the last byte that was put in: as long as `write_seq` is below it, `inserted` counts bytes that are still to come.
    pub until: u32,
    /// Key in `STATES` of the `tracestate` that goes into the slot below, and position of the request that brought it in; 0 for none.
    pub state_sk: u64,
    /// Position of that request.
    pub state_position: u64,
    /// Bytes of its value, at most [`STATE_LIMIT`](crate::wire::inject::STATE_LIMIT).
    pub state_length: u32,
    /// Index of the slot.
    pub state_slot: u32,
    /// What to write, in order of place.
    pub slots: [InjectionSlot; InjectionSlot::COUNT],
}

const _: () = assert!(size_of::<InjectionSlot>() == 40 && size_of::<Injection>() == 224);

/// Value of `STATES` (key: sock pointer): the `tracestate` of the newest request of a connection that had one, as it came.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KeptState {
    /// The key: an entry that is replaced while somebody reads it differs in this or in the position.
    pub sk: u64,
    /// Position of the request's first byte.
    pub position: u64,
    /// Bytes of the value.
    pub length: u32,
    #[doc(hidden)]
    pub reserved: u32,
    /// The value, the first byte lowest.
    pub value: [u64; STATE_LIMIT as usize / 8],
}

const _: () = assert!(size_of::<KeptState>() == 24 + STATE_LIMIT as usize);
