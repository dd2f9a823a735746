//! The state machine of one HTTP/1 connection.
//!
//! Each side is in a [`Phase`]. Requests that wait for their response are remembered by what they say of its framing. After a loss nothing is
//! paired until a request begins at a turn: then no earlier request can be waiting.
//!
//! Input: what a [`Parser`] is told. Output: [`Item`]s. Here is which phase takes which bytes; what heads and bodies do to the
//! phase has files of its own.

mod bodies;
mod heads;

use std::{collections::VecDeque, sync::Arc};

use agent_common::{
    abi::{MessageEnd, StreamState},
    wire::propagator::Field,
};

use self::{bodies::message_end, heads::plausible};
use super::{
    chunked::{tail_ends_body, tail_may_end_body},
    half::{Half, Phase},
    head::{RequestHead, ResponseHead},
    repeated::Repeated,
};
use crate::protocol::{Extent, Item, Mark, Parser, Side};

/// What a request says of the framing of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Ordinary,
    Head,
    Connect,
}

/// Follows one connection that speaks HTTP/1.
pub(super) struct Http1Parser {
    request: Half,
    response: Half,
    last_request: Repeated<Arc<RequestHead>>,
    last_response: Repeated<ResponseHead>,
    waiting: VecDeque<Expected>,
    /// Requests and responses can be paired.
    synced: bool,
    /// Headers of other propagators than `traceparent`.
    propagators: Arc<[Field]>,
}

impl Http1Parser {
    pub(super) fn new(at_start: bool, propagators: Arc<[Field]>) -> Self {
        let phase = if at_start { Phase::Start } else { Phase::Lost };
        Self {
            request: Half::new(phase),
            response: Half::new(phase),
            last_request: Repeated::new(),
            last_response: Repeated::new(),
            waiting: VecDeque::new(),
            synced: at_start,
            propagators,
        }
    }

    const fn half(&self, side: Side) -> &Half {
        match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        }
    }

    const fn half_mut(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    /// A message was lost: what is parsed from here on could be paired wrongly.
    fn lose(&mut self, side: Side, item: Item, items: &mut Vec<Item>) {
        for (half, lost) in [
            (&mut self.request, side == Side::Request),
            (&mut self.response, side == Side::Response),
        ] {
            // A body that is under way on the other side is followed to its end, which then leads to `Lost`.
            if lost || !half.in_body() && half.phase != Phase::Opaque {
                half.phase = Phase::Lost;
                half.head = Vec::new();
            }
        }
        self.waiting.clear();
        self.synced = false;
        items.push(item);
    }

    /// A message begins here, whatever the counts say.
    fn begin(&mut self, side: Side, mark: Mark, turn: bool, items: &mut Vec<Item>) {
        let half = self.half(side);
        if half.phase == Phase::Opaque {
            return;
        }
        if half.phase == Phase::Head {
            self.lose(side, Item::Lost(side), items);
        } else if half.in_body() {
            // Whatever its head said: the kernel saw more.
            let mut end = half.end_at(mark.position, half.last_ns);
            end.complete = true;
            items.push(message_end(side, end));
        }
        if side == Side::Request && !self.synced && turn {
            // Whatever the other side was doing belongs to what was lost.
            self.response.phase = Phase::Start;
            self.response.head = Vec::new();
            self.synced = true;
        }
        let synced = self.synced;
        let half = self.half_mut(side);
        if synced {
            half.phase = Phase::Start;
        } else {
            half.phase = Phase::Lost;
            items.push(match side {
                Side::Request => Item::Lost(side),
                Side::Response => Item::Unpaired,
            });
        }
    }
}

impl Parser for Http1Parser {
    fn start(&mut self, side: Side, mark: Mark, turn: bool, _items: &mut Vec<Item>) {
        self.half_mut(side).claim = Some((mark.position, turn));
    }

    fn bytes(&mut self, side: Side, mark: Mark, bytes: &[u8], items: &mut Vec<Item>) {
        if bytes.is_empty() {
            return;
        }
        let synced = self.synced;
        let half = self.half_mut(side);
        half.next = mark.position;
        let expected = synced && half.phase == Phase::Start;
        // A claim is checked against the bytes: a record may hold the rest of one head and the beginning of the next message. Where a message
        // is expected anyway it says nothing new.
        if let Some((position, turn)) = half.claim.take()
            && !expected
            && position == mark.position
            && plausible(side, bytes)
        {
            self.begin(side, mark, turn, items);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let half = self.half_mut(side);
            let mark = Mark {
                position: half.next,
                ..mark
            };
            let taken = match half.phase {
                Phase::Start | Phase::Head => self.head_bytes(side, mark, rest, items),
                Phase::Chunked(_) => self.chunked_bytes(side, mark, rest, items),
                Phase::Length { end } | Phase::Told { end, .. } => {
                    let left = end.saturating_sub(half.next);
                    let taken = left.min(rest.len() as u64);
                    half.next += taken;
                    self.end_if_reached(side, mark.time_ns, items);
                    // At most rest.len(), so it fits.
                    taken as usize
                }
                Phase::Lost
                | Phase::ChunkedUnseen
                | Phase::UntilClose
                | Phase::UntilTurn
                | Phase::Undecided
                | Phase::Opaque => {
                    half.next += rest.len() as u64;
                    rest.len()
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        self.half_mut(side).last_ns = mark.time_ns;
    }

    fn skip(&mut self, side: Side, mark: Mark, length: u64, items: &mut Vec<Item>) {
        if length == 0 {
            return;
        }
        let half = self.half_mut(side);
        let to = mark.position.saturating_add(length);
        half.next = to;
        half.last_ns = mark.time_ns;
        match &mut half.phase {
            Phase::Start | Phase::Head => self.lose(side, Item::Lost(side), items),
            Phase::Chunked(chunked) if length <= chunked.skippable() => chunked.skip(length),
            Phase::Chunked(_) => half.phase = Phase::ChunkedUnseen,
            Phase::Length { end } | Phase::Told { end, .. } => {
                let end = *end;
                self.end_if_reached(side, mark.time_ns, items);
                if to > end {
                    self.lose(side, Item::Lost(side), items);
                }
            }
            Phase::Lost
            | Phase::ChunkedUnseen
            | Phase::UntilClose
            | Phase::UntilTurn
            | Phase::Undecided
            | Phase::Opaque => {}
        }
    }

    fn hide(&mut self, side: Side, mark: Mark, length: u64, items: &mut Vec<Item>) {
        let to = mark.position.saturating_add(length);
        let half = self.half_mut(side);
        let known_end = match half.phase {
            Phase::Length { end } | Phase::Told { end, .. } => Some(end),
            _ => None,
        };
        if half.phase == Phase::Head {
            self.lose(side, Item::Lost(side), items);
        } else if half.in_body() {
            // Where its head does not say it, it ended where the hidden ones begin.
            let end = known_end.unwrap_or(mark.position).min(to);
            let time_ns = half.last_ns.max(mark.time_ns);
            half.next = end.max(half.next);
            self.end(side, end, time_ns, items);
        } else if half.phase == Phase::Undecided {
            half.phase = Phase::Start;
        }
        self.half_mut(side).next = to;
    }

    fn unpair(&mut self, items: &mut Vec<Item>) {
        if self.synced {
            self.lose(Side::Request, Item::Lost(Side::Request), items);
        }
    }

    fn rest(&mut self, side: Side, state: &StreamState, turn: bool, items: &mut Vec<Item>) {
        let half = self.half(side);
        if state.position != half.next {
            return;
        }
        let ended = match half.phase {
            Phase::ChunkedUnseen => {
                tail_ends_body(&state.tail)
                    || turn && side == Side::Response && tail_may_end_body(&state.tail)
            }
            Phase::UntilTurn => turn && side == Side::Response,
            _ => false,
        };
        if ended {
            self.end(side, state.position, state.last_time_ns, items);
        }
    }

    fn extent(&mut self, side: Side, extent: &Extent, items: &mut Vec<Item>) {
        let half = self.half_mut(side);
        if extent.end == MessageEnd::UNKNOWN {
            return half.forget(extent.start);
        }
        if !half.in_chunked(extent.start) {
            half.await_message(extent);
            return;
        }
        let &Extent { end, body, .. } = extent;
        half.phase = Phase::Told { end, body };
        let (next, last_ns) = (half.next, half.last_ns);
        self.end_if_reached(side, last_ns, items);
        if next > end {
            // What lies behind it was taken for body.
            self.lose(side, Item::Lost(side), items);
        }
    }

    fn close(
        &mut self,
        request: &StreamState,
        response: &StreamState,
        in_order: bool,
        items: &mut Vec<Item>,
    ) {
        for (side, state) in [(Side::Request, request), (Side::Response, response)] {
            let half = self.half(side);
            if half.phase == Phase::Head {
                self.lose(side, Item::Lost(side), items);
            } else if half.in_body() {
                let mut end = half.end_at(half.next, half.last_ns);
                end.complete = match half.phase {
                    Phase::UntilClose | Phase::UntilTurn => in_order,
                    Phase::ChunkedUnseen => in_order && tail_may_end_body(&state.tail),
                    _ => false,
                };
                self.half_mut(side).phase = Phase::Opaque;
                items.push(message_end(side, end));
            }
        }
    }

    fn tolerates(&self, side: Side, to: u64) -> bool {
        let half = self.half(side);
        match half.phase {
            Phase::Start | Phase::Head => to <= half.next,
            Phase::Length { end } | Phase::Told { end, .. } => to <= end,
            _ => true,
        }
    }

    fn awaits_end(&self) -> bool {
        self.request.in_body() || self.response.in_body()
    }

    fn buffered(&self) -> usize {
        self.request.head.capacity() + self.response.head.capacity()
    }

    fn relax(&mut self) {
        self.last_request.clear();
        self.last_response.clear();
    }

    fn abandon(&mut self) {
        for half in [&mut self.request, &mut self.response] {
            half.head = Vec::new();
            if half.phase != Phase::Opaque {
                half.phase = Phase::Lost;
            }
        }
        self.waiting.clear();
        self.synced = false;
    }
}
