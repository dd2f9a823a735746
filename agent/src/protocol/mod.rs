//! Protocols: from stream chunks to messages.
//!
//! Input: the bytes of a connection's two sides in order of position, with what was not seen named as such. Output: [`Item`]s: heads and
//! ends of messages. Nothing here knows sockets, processes' names, ids or spans.
//!
//! # The contract
//!
//! A protocol is one folder here and one line in [`registry`]. It provides
//!
//! 1. **recognise**: [`Protocol::recognise`] judges the first bytes of a side. It must be sure before it says [`Recognition::Yes`]: a
//!    connection is judged once per proven message start.
//! 2. **find boundaries and parse**: [`Parser::bytes`] takes bytes cut anywhere and yields a message's head when it is complete, its end when
//!    that is known. Cutting the same bytes differently gives the same items.
//! 3. **go on after loss**: [`Parser::skip`] says that bytes passed unseen. Inside a body that is fine; elsewhere a message is lost
//!    ([`Item::Lost`]), and the parser stays silent until [`Parser::start`] proves a boundary again. Loss removes messages, it never invents one:
//!    what cannot be paired with certainty is left out.
//!
//! Parsers are total: any bytes in any order give items, never a panic, and memory stays below [`HEAD_LIMIT`] for each side.

pub mod http1;
pub mod registry;

use std::sync::Arc;

use agent_common::{
    abi::{MessageEnd, StreamState},
    wire::propagator::Field,
};

use crate::process::ProcessKey;

/// Longest message head, bytes; a longer one is given up and counted.
pub const HEAD_LIMIT: usize = 16 * 1024;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// From the client to the server.
    Request = 0,
    /// From the server to the client.
    Response = 1,
}

impl Side {
    /// The other side.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Request => Self::Response,
            Self::Response => Self::Request,
        }
    }
}

/// Where and when a chunk begins, and who moved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Position of the first byte in its stream.
    pub position: u64,
    /// CLOCK_MONOTONIC nanoseconds of the send or receive.
    pub time_ns: u64,
    /// The process that sent or received.
    pub process: ProcessKey,
}

/// Where a message begins and ends, as the kernel found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position of its first byte.
    pub start: u64,
    /// Position behind its last byte; [`MessageEnd::UNKNOWN`] takes back what was told of it.
    pub end: u64,
    /// Bytes of its body without framing.
    pub body: u64,
}

impl Extent {
    /// Takes back what was told of the message that begins at `start`.
    #[must_use]
    pub const fn unknown(start: u64) -> Self {
        Self {
            start,
            end: MessageEnd::UNKNOWN,
            body: 0,
        }
    }
}

/// Judgement on the first bytes of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognition {
    /// A message of this protocol, going this way.
    Yes(Side),
    /// It may be: there are too few bytes; if it is, it goes this way.
    Maybe(Side),
    /// Not this protocol.
    No,
}

/// What stands in the registry.
pub trait Protocol: Sync {
    /// Name for logs, lower case.
    fn name(&self) -> &'static str;

    /// Judges bytes that stand where a message begins. Called with at least one byte.
    fn recognise(&self, bytes: &[u8]) -> Recognition;

    /// A parser for one connection that is not in the middle of a message when `at_start`, and is somewhere unknown otherwise.
    fn parser(&self, at_start: bool, config: &ParserConfig) -> Box<dyn Parser>;
}

/// What parsers are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParserConfig {
    /// Headers of other propagators than `traceparent`.
    pub propagators: Arc<[Field]>,
}

/// Follows one connection, both sides.
///
/// For each side the caller passes chunks without overlap, in order of position; together `bytes` and `skip` cover everything that passed.
pub trait Parser: Send {
    /// The kernel proved that a message begins at `mark.position`. `turn`: the last byte before it, on the whole connection, was one of
    /// the other side, so that no earlier message of this side waits for an answer.
    fn start(&mut self, side: Side, mark: Mark, turn: bool, items: &mut Vec<Item>);

    /// Bytes that were captured.
    fn bytes(&mut self, side: Side, mark: Mark, bytes: &[u8], items: &mut Vec<Item>);

    /// `length` bytes from `mark.position` passed without being captured; `mark.time_ns` is the time of the last one.
    fn skip(&mut self, side: Side, mark: Mark, length: u64, items: &mut Vec<Item>);

    /// `length` bytes from `mark.position` are the rest of the message under way, if there is one, and whole messages of which nothing is told; the
    /// answers to hidden requests are hidden as well. `mark.time_ns` is the time of the byte before them.
    fn hide(&mut self, side: Side, mark: Mark, length: u64, items: &mut Vec<Item>);

    /// Which of the messages that follow belong to hidden ones is not known: nothing is paired until a request begins at a turn.
    fn unpair(&mut self, items: &mut Vec<Item>);

    /// Nothing of this side is under way beyond `state.position`, and everything up to there was passed on. `turn`: a message of the other side
    /// begins now; otherwise the side has been quiet for some time.
    fn rest(&mut self, side: Side, state: &StreamState, turn: bool, items: &mut Vec<Item>);

    /// The kernel found where a message ends that does not tell it beforehand. The message may not have been read yet, or have ended; what is told
    /// last of a message holds.
    fn extent(&mut self, side: Side, extent: &Extent, items: &mut Vec<Item>);

    /// The connection is over; nothing follows on either side. `in_order`: it was closed and not reset.
    fn close(
        &mut self,
        request: &StreamState,
        response: &StreamState,
        in_order: bool,
        items: &mut Vec<Item>,
    );

    /// Whether bytes up to `to` may stay unseen without losing a message.
    fn tolerates(&self, side: Side, to: u64) -> bool;

    /// Whether a message is under way whose end will be known by counting or by a pause.
    fn awaits_end(&self) -> bool;

    /// Bytes held in buffers.
    fn buffered(&self) -> usize;

    /// Nothing is under way for now: gives back what only saves time.
    fn relax(&mut self);

    /// Forgets buffers and where it stands: as after a gap, but without an item.
    fn abandon(&mut self);
}

/// What a parser finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// The head of a request is complete.
    Request(Request),
    /// The newest request has ended.
    RequestEnd(End),
    /// The head of a response is complete. It answers the oldest request without one.
    Response(Response),
    /// The newest response has ended.
    ResponseEnd(End),
    /// A response that answers no request that was seen.
    Unpaired,
    /// A message of this side was lost to a gap: exchanges that are open cannot be completed.
    Lost(Side),
    /// A message of this side was given up because its head is too long.
    OverLimit(Side),
    /// The connection leaves the protocol: nothing follows.
    Left,
    /// It never was this protocol.
    NotThis,
}

/// A request whose head is complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Position of its first byte.
    pub position: u64,
    /// Stream id of multiplexed protocols, 0 for none.
    pub stream: u32,
    /// When its first byte passed.
    pub start_ns: u64,
    /// When the last byte of its head passed.
    pub head_end_ns: u64,
    /// Who sent it, or read the last byte of its head.
    pub process: ProcessKey,
    /// What the protocol knows of it; requests that are alike share it.
    pub detail: Arc<http1::RequestHead>,
}

/// A response whose head is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Position of its first byte.
    pub position: u64,
    /// When its first byte passed.
    pub start_ns: u64,
    /// When the last byte of its head passed.
    pub head_end_ns: u64,
    /// Another response to the same request follows (1xx).
    pub interim: bool,
    /// What the protocol knows of it.
    pub detail: http1::ResponseHead,
}

/// The end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When its last byte passed.
    pub time_ns: u64,
    /// Bytes of the whole message on the wire.
    pub wire_size: u64,
    /// Bytes of its body without framing, where they are known.
    pub body_size: Option<u64>,
    /// Whether all of it passed; false when the connection ended before.
    pub complete: bool,
}
