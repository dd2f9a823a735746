//! One side of an HTTP/1 connection: where it stands, and what is known of its message.

use super::{chunked::Chunked, head::HeadEnd};
use crate::protocol::{End, Extent};

/// Ends of messages that are kept until their heads come.
const EXTENTS_LIMIT: usize = 8;

/// Where a side stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Phase {
    /// Somewhere unknown: until a start is proven.
    Lost,
    /// The next byte begins a message.
    Start,
    /// In a head.
    Head,
    /// In a body that ends at this position.
    Length { end: u64 },
    /// In a chunked body of which every byte that frames was seen.
    Chunked(Chunked),
    /// In a chunked body of which something was not seen.
    ChunkedUnseen,
    /// In a chunked body of which the kernel told the end, and how many bytes are data.
    Told { end: u64, body: u64 },
    /// In a response that ends with the connection.
    UntilClose,
    /// In a body whose end cannot be told: until the turn.
    UntilTurn,
    /// Behind a request that asked to leave HTTP: what follows is HTTP only if the answer refuses.
    Undecided,
    /// No HTTP any more.
    Opaque,
}

/// One side of a connection.
pub(super) struct Half {
    pub(super) phase: Phase,
    /// A message has been parsed here.
    pub(super) proven: bool,
    /// First byte of the current message.
    pub(super) start: u64,
    pub(super) start_ns: u64,
    /// When a byte last passed.
    pub(super) last_ns: u64,
    /// First byte of the current body.
    pub(super) body: u64,
    /// Next byte to come.
    pub(super) next: u64,
    /// The kernel says that a message begins at this position, at a turn or not; its bytes have not come.
    pub(super) claim: Option<(u64, bool)>,
    /// The head so far, when a chunk boundary cuts it.
    pub(super) head: Vec<u8>,
    pub(super) head_end: HeadEnd,
    /// The end of the head's first line has not come.
    pub(super) in_first_line: bool,
    /// Ends of messages whose heads have not come.
    pub(super) extents: Vec<Extent>,
}

impl Half {
    pub(super) const fn new(phase: Phase) -> Self {
        Self {
            phase,
            proven: false,
            start: 0,
            start_ns: 0,
            last_ns: 0,
            body: 0,
            next: 0,
            claim: None,
            head: Vec::new(),
            head_end: HeadEnd::new(),
            in_first_line: true,
            extents: Vec::new(),
        }
    }

    pub(super) fn in_body(&self) -> bool {
        matches!(
            self.phase,
            Phase::Length { .. }
                | Phase::Chunked(_)
                | Phase::ChunkedUnseen
                | Phase::Told { .. }
                | Phase::UntilClose
                | Phase::UntilTurn
        )
    }

    /// In the chunked body of the message that begins at `start`.
    pub(super) fn in_chunked(&self, start: u64) -> bool {
        self.start == start
            && matches!(
                self.phase,
                Phase::Chunked(_) | Phase::ChunkedUnseen | Phase::Told { .. }
            )
    }

    /// Behind the head of a chunked message.
    pub(super) fn chunked(&mut self) -> Phase {
        let start = self.start;
        self.extents.retain(|extent| extent.start >= start);
        match self.extents.iter().find(|extent| extent.start == start) {
            Some(&Extent { end, body, .. }) => Phase::Told { end, body },
            None => Phase::Chunked(Chunked::new()),
        }
    }

    /// Keeps the end of a message whose head has not come, unless that message is over.
    pub(super) fn await_message(&mut self, extent: &Extent) {
        let is_over = self.proven
            && (extent.start < self.start
                || extent.start == self.start && self.phase != Phase::Head);
        if is_over {
            return;
        }
        self.extents.retain(|known| known.start != extent.start);
        if self.extents.len() >= EXTENTS_LIMIT {
            self.extents.remove(0);
        }
        self.extents.push(*extent);
    }

    /// What was told of the message that begins at `start` is not so.
    pub(super) fn forget(&mut self, start: u64) {
        self.extents.retain(|known| known.start != start);
        if self.start == start && matches!(self.phase, Phase::Told { .. }) {
            self.phase = Phase::ChunkedUnseen;
        }
    }

    /// The end of the current message, when it ends at `position`.
    pub(super) fn end_at(&self, position: u64, time_ns: u64) -> End {
        let position = position.max(self.body);
        let (body_size, complete) = match self.phase {
            Phase::Length { end } => (Some(position - self.body), position >= end),
            Phase::Chunked(chunked) => (Some(chunked.data), true),
            Phase::Told { end, body } => {
                let complete = position >= end;
                (complete.then_some(body), complete)
            }
            Phase::UntilClose => (Some(position - self.body), true),
            _ => (None, true),
        };
        End {
            time_ns,
            wire_size: position - self.start,
            body_size,
            complete,
        }
    }
}
