//! What is kept of a connection.

use agent_common::{
    abi::Decision,
    wire::{chunked::Chunks, http1::Pending},
};

use crate::scratch::State;

/// Bits of [`Socket::flags`].
pub(crate) mod flags {
    /// Positions count return values.
    pub(crate) const COUNTED: u32 = 1;
    /// Both bases are exact: the same-kernel key holds.
    pub(crate) const BASES_EXACT: u32 = 1 << 1;
    /// An `Open` record was written.
    pub(crate) const OPENED: u32 = 1 << 2;
    /// The agent's own connection: it is only marked.
    pub(crate) const OWN: u32 = 1 << 3;
    /// connect() has not succeeded yet.
    pub(crate) const CONNECTING: u32 = 1 << 4;
    /// A request was sent on it.
    pub(crate) const USED: u32 = 1 << 5;
    /// A same-kernel record of the last request was stored.
    pub(crate) const HANDED_OVER: u32 = 1 << 6;
    /// It was counted as not recognised.
    pub(crate) const NOT_RECOGNISED: u32 = 1 << 7;
    /// The FIN was queued: `write_seq` counts it, the stream does not.
    pub(crate) const FIN_SENT: u32 = 1 << 8;
    /// Connected, but its addresses were not there yet.
    pub(crate) const ADDRESS_LATE: u32 = 1 << 9;
    /// It stands in `INJECTIONS`.
    pub(crate) const INJECTABLE: u32 = 1 << 10;
    /// It is in the sockhash.
    pub(crate) const ENROLLED: u32 = 1 << 11;
    /// A send into which something was put is being queued at this moment: how far it is cannot be told.
    pub(crate) const UNDER_WAY: u32 = 1 << 12;
    /// Context that comes from the peer is taken.
    pub(crate) const TRUSTED: u32 = 1 << 13;
    /// Its `Close` was written; the entry goes with the socket.
    pub(crate) const CLOSE_TOLD: u32 = 1 << 14;
    /// It stands in `OFFERS`.
    pub(crate) const OFFERS: u32 = 1 << 15;
    /// What its socket carries is ciphertext; its streams are what passes the TLS library.
    pub(crate) const TLS: u32 = 1 << 16;
}

/// Bits of [`Request::flags`].
pub(crate) mod request_flags {
    /// The request has no complete response.
    pub(crate) const OPEN: u32 = 1;
    /// Several requests are open on the connection: none of them is a parent.
    pub(crate) const SEVERAL: u32 = 1 << 1;
    /// It is counted at its owner's thread.
    pub(crate) const OWNED: u32 = 1 << 2;
    /// It stands in `FORWARDS`.
    pub(crate) const FORWARDED: u32 = 1 << 3;
}

/// The newest request of a connection.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Request {
    pub(crate) decision: Decision,
    /// The trace context it came with, key in `FORWARDS`.
    pub(crate) incoming_trace: [u64; 2],
    pub(crate) incoming_span: u64,
    /// The thread that completed its head.
    pub(crate) owner: u64,
    pub(crate) owner_start: u64,
    /// The server request on whose behalf a client request is, 0 for none.
    pub(crate) parent_sk: u64,
    pub(crate) since_ns: u64,
    /// Who is about to close it: the first of several that come at one time does.
    pub(crate) claims: u64,
    pub(crate) flags: u32,
    /// The owner's epoch, its low bits.
    pub(crate) owner_epoch: u32,
    /// 1: its `tracestate` stands in `STATES`; of a client request that of the one on whose behalf it is, when it was decided. Not one of the flags: it is set
    /// when the request can be found, and another CPU may be closing it.
    pub(crate) state_kept: u32,
    /// 1: of a client request, the trace context that it forwards is not of the trace that it is in.
    pub(crate) restarts: u32,
}

/// Whether the connection's chunked message is one of this direction.
#[inline(always)]
pub(crate) fn follows(chunks: &Chunks, direction: usize) -> bool {
    // Not a comparison with the direction: LLVM would then index by what it was compared with, whose range the verifier does not know.
    chunks.follows >> (direction & 1) & 1 != 0
}

/// One direction.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Stream {
    pub(crate) state: State,
    /// Position that the tail belongs to.
    pub(crate) tail_end: u64,
    /// First byte of the newest message.
    pub(crate) message_start: u64,
    /// Behind its head, or behind what is known of an unfinished one.
    pub(crate) head_end: u64,
    /// Behind its body.
    pub(crate) message_end: u64,
    /// A [`Phase`].
    pub(crate) phase: u8,
    /// Turns without a message.
    pub(crate) tries: u8,
    /// 1: the first bytes of an unknown protocol were shipped.
    pub(crate) detected: u8,
    /// 1: the newest message begins where the one before it ended.
    pub(crate) proven: u8,
    /// 1: the newest message is hidden, see [`crate::capture`].
    pub(crate) hidden: u8,
    /// 1: the place in the stream was lost, and hidden messages with it.
    pub(crate) lost: u8,
    /// 1: a message began while one before it waited for its response, so one that is lost may be any of several.
    pub(crate) pipelined: u8,
    pub(crate) reserved: u8,
    /// First byte of the hidden messages.
    pub(crate) hidden_from: u64,
    /// Where the first message behind them begins that was told.
    pub(crate) hidden_to: u64,
    /// Time of the last segment before them.
    pub(crate) hidden_time_ns: u64,
}

/// Value of `SOCKETS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Socket {
    pub(crate) connection: u64,
    pub(crate) identity: u64,
    pub(crate) send_base: u32,
    pub(crate) receive_base: u32,
    pub(crate) flags: u32,
    pub(crate) dropped: u32,
    pub(crate) role: u8,
    pub(crate) policy: u8,
    pub(crate) origin: u8,
    /// Direction of the last segment; 2 for none.
    pub(crate) last_direction: u8,
    /// Bytes that the policy captures.
    pub(crate) limit: u32,
    /// 1: it is known which messages are hidden.
    pub(crate) hides: u32,
    /// How often it was not known any more, and of which of these times user space has been told.
    pub(crate) hiding_lost: u32,
    pub(crate) hiding_told: u32,
    /// 1: no message belongs for certain to another one, until a request begins while none waits.
    pub(crate) unpaired: u32,
    /// 1: what was hidden at the end of the connection is counted.
    pub(crate) hidden_counted: u32,
    /// Bytes of ours among those sent: positions do not count them, `write_seq` does.
    pub(crate) inserted: u32,
    /// Bytes of ours that the send under way is to get.
    pub(crate) planned: u32,
    /// Position, as the receiver counts, under which the last request's same-kernel record was stored.
    pub(crate) handover_position: u64,
    /// Who connected, accepted or used it first.
    pub(crate) opener: u64,
    pub(crate) opener_start: u64,
    pub(crate) connect_start_ns: u64,
    /// When the process closed it, 0 for not yet.
    pub(crate) closed_ns: u64,
    /// The request that was current at connect().
    pub(crate) connect_sk: u64,
    pub(crate) connect_position: u64,
    /// Epoch and thread of the last response read here.
    pub(crate) response_epoch: u64,
    pub(crate) response_thread: u64,
    /// Peer sock of a unix socket.
    pub(crate) unix_peer: u64,
    /// Key in `SESSIONS` of the TLS session that it carries; 0 for none.
    pub(crate) session: u64,
    pub(crate) pending: Pending,
    /// The chunked message whose lines are followed; of two that are under way at one time, the newer one.
    pub(crate) chunks: Chunks,
    /// Indexed by [`Direction`].
    pub(crate) streams: [Stream; 2],
    pub(crate) request: Request,
}

impl Socket {
    #[inline(always)]
    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}
