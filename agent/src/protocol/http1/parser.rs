//! The state machine of one HTTP/1 connection.
//!
//! Each side is in a [`Phase`]. Requests that wait for their response are remembered by what they say of its framing. After a loss nothing is
//! paired until a request begins at a turn: then no earlier request can be waiting.

use std::{collections::VecDeque, mem, sync::Arc};

use agent_common::{
    abi::{MessageEnd, StreamState},
    wire::propagator::Field,
};

use super::{
    Framing, Method,
    chunked::{Fed, tail_ends_body, tail_may_end_body},
    half::{Half, Phase},
    head::{
        HeadEnd, RequestHead, ResponseHead, find_newline, parse_request, parse_response,
        parse_whole_request, parse_whole_response, request_line, status_line,
    },
    may_be_request, may_be_response,
};
use crate::protocol::{End, Extent, HEAD_LIMIT, Item, Mark, Parser, Request, Response, Side};

/// Requests of one connection that may wait for their responses.
const WAITING_LIMIT: usize = 1024;

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

    fn end(&mut self, side: Side, position: u64, time_ns: u64, items: &mut Vec<Item>) {
        let synced = self.synced;
        let half = self.half_mut(side);
        let end = half.end_at(position, time_ns);
        half.phase = if synced { Phase::Start } else { Phase::Lost };
        items.push(message_end(side, end));
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

    /// The head in `bytes` is complete; `mark` is where and when its last byte passed.
    fn head_complete(&mut self, side: Side, bytes: &[u8], mark: Mark, items: &mut Vec<Item>) {
        match side {
            Side::Request => match parse_request(bytes, &self.propagators) {
                Some(detail) => self.request_head(detail, mark, items),
                None => self.unrecognised(side, items),
            },
            Side::Response => match parse_response(bytes) {
                Some(detail) => self.response_head(detail, mark, items),
                None => self.unrecognised(side, items),
            },
        }
    }

    /// Takes the head that begins with `bytes`, if all of it is there and can be read; returns its length. One look at the bytes does, where
    /// to find the end and to read what is before it would take two.
    fn whole_head(
        &mut self,
        side: Side,
        mark: Mark,
        bytes: &[u8],
        items: &mut Vec<Item>,
    ) -> Option<usize> {
        let bytes = bytes.get(..HEAD_LIMIT).unwrap_or(bytes);
        let end = |length: u32| Mark {
            position: mark.position.saturating_add(u64::from(length)),
            ..mark
        };
        let length = match side {
            Side::Request => {
                let detail = parse_whole_request(bytes, &self.propagators)?;
                let (length, end) = (detail.length, end(detail.length));
                self.request.next = end.position;
                self.request_head(detail, end, items);
                length
            }
            Side::Response => {
                let detail = parse_whole_response(bytes)?;
                let end = end(detail.length);
                self.response.next = end.position;
                self.response_head(detail, end, items);
                detail.length
            }
        };
        usize::try_from(length).ok()
    }

    fn request_head(&mut self, detail: RequestHead, mark: Mark, items: &mut Vec<Item>) {
        if self.waiting.len() >= WAITING_LIMIT {
            return self.lose(Side::Request, Item::OverLimit(Side::Request), items);
        }
        let expected = match detail.method {
            Method::Head => Expected::Head,
            Method::Connect => Expected::Connect,
            _ => Expected::Ordinary,
        };
        self.waiting.push_back(expected);
        let leaving = detail.upgrade || expected == Expected::Connect;
        let framing = detail.framing;
        let half = &mut self.request;
        half.proven = true;
        half.body = mark.position;
        items.push(Item::Request(Request {
            position: half.start,
            stream: 0,
            start_ns: half.start_ns,
            head_end_ns: mark.time_ns,
            process: mark.process,
            detail,
        }));
        half.phase = match framing {
            Framing::Chunked => half.chunked(),
            Framing::Coded | Framing::Unknown => Phase::UntilTurn,
            Framing::Absent => Phase::Length { end: mark.position },
            Framing::Length(length) => Phase::Length {
                end: mark.position.saturating_add(length),
            },
        };
        self.end_if_reached(Side::Request, mark.time_ns, items);
        if leaving && self.request.phase == Phase::Start {
            self.request.phase = Phase::Undecided;
        }
    }

    fn response_head(&mut self, detail: ResponseHead, mark: Mark, items: &mut Vec<Item>) {
        let interim = detail.status < 200 && detail.status != 101;
        let half = &mut self.response;
        half.proven = true;
        half.body = mark.position;
        let response = Response {
            position: half.start,
            start_ns: half.start_ns,
            head_end_ns: mark.time_ns,
            interim,
            detail,
        };
        let expected = if interim {
            self.waiting.front().copied()
        } else {
            self.waiting.pop_front()
        };
        if expected.is_none() {
            items.push(Item::Unpaired);
        } else {
            items.push(Item::Response(response));
        }
        if interim {
            half.phase = Phase::Start;
            return;
        }
        let leaves = detail.status == 101
            || expected == Some(Expected::Connect) && (200..300).contains(&detail.status);
        let bodiless =
            leaves || matches!(detail.status, 204 | 304) || expected == Some(Expected::Head);
        half.phase = match detail.framing {
            _ if bodiless => Phase::Length { end: mark.position },
            Framing::Chunked => half.chunked(),
            Framing::Coded | Framing::Absent => Phase::UntilClose,
            Framing::Unknown => Phase::UntilTurn,
            Framing::Length(length) => Phase::Length {
                end: mark.position.saturating_add(length),
            },
        };
        self.turn_request(mark.time_ns, items);
        self.end_if_reached(Side::Response, mark.time_ns, items);
        if leaves {
            if self.request.in_body() {
                let (next, last_ns) = (self.request.next, self.request.last_ns);
                self.end(Side::Request, next, last_ns, items);
            }
            self.request.phase = Phase::Opaque;
            self.response.phase = Phase::Opaque;
            items.push(Item::Left);
        } else if self.request.phase == Phase::Undecided {
            self.request.phase = Phase::Start;
        }
    }

    /// A request whose end cannot be told has ended when its final response begins.
    fn turn_request(&mut self, time_ns: u64, items: &mut Vec<Item>) {
        if self.request.phase == Phase::UntilTurn {
            let half = &self.request;
            let (next, last_ns) = (half.next, half.last_ns.min(time_ns));
            self.end(Side::Request, next, last_ns, items);
        }
    }

    fn unrecognised(&mut self, side: Side, items: &mut Vec<Item>) {
        if self.request.proven || self.response.proven || !self.synced {
            self.lose(side, Item::Lost(side), items);
        } else {
            self.request.phase = Phase::Opaque;
            self.response.phase = Phase::Opaque;
            self.request.head = Vec::new();
            self.response.head = Vec::new();
            items.push(Item::NotThis);
        }
    }

    /// Ends a body of known length that is complete.
    fn end_if_reached(&mut self, side: Side, time_ns: u64, items: &mut Vec<Item>) {
        let half = self.half(side);
        if let Phase::Length { end } | Phase::Told { end, .. } = half.phase
            && end <= half.next
        {
            self.end(side, end, time_ns, items);
        }
    }

    /// Takes bytes at the beginning of a message or inside its head; returns how many.
    fn head_bytes(&mut self, side: Side, mark: Mark, bytes: &[u8], items: &mut Vec<Item>) -> usize {
        let half = self.half_mut(side);
        if half.phase == Phase::Start {
            // RFC 9112 section 2.2: empty lines before a request line are ignored.
            let blank = bytes
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                .count();
            if blank > 0 && side == Side::Request {
                half.next += blank as u64;
                return blank;
            }
            half.phase = Phase::Head;
            half.start = mark.position;
            half.start_ns = mark.time_ns;
            half.head.clear();
            half.head_end = HeadEnd::new();
            half.in_first_line = true;
        }
        let first = half.head.is_empty();
        if first && let Some(length) = self.whole_head(side, mark, bytes, items) {
            return length;
        }
        let half = self.half_mut(side);
        match half.head_end.find(bytes) {
            Some(length) => {
                half.next += length as u64;
                let end = Mark {
                    position: half.next,
                    ..mark
                };
                let rest = bytes.get(..length).unwrap_or(bytes);
                if first && length <= HEAD_LIMIT {
                    self.head_complete(side, rest, end, items);
                } else if half.head.len() + length <= HEAD_LIMIT {
                    let mut head = mem::take(&mut half.head);
                    head.extend_from_slice(rest);
                    self.head_complete(side, &head, end, items);
                } else {
                    self.too_long(side, rest, items);
                }
                length
            }
            None => {
                half.next += bytes.len() as u64;
                if half.head.len() + bytes.len() > HEAD_LIMIT {
                    self.too_long(side, bytes, items);
                    return bytes.len();
                }
                half.head.extend_from_slice(bytes);
                let judged = half.in_first_line;
                half.in_first_line = judged && find_newline(bytes).is_none();
                if judged && !plausible(side, &half.head) {
                    self.unrecognised(side, items);
                }
                bytes.len()
            }
        }
    }

    /// The head goes on with `bytes` and gets too long: it is given up, unless its first line tells that it is none.
    fn too_long(&mut self, side: Side, bytes: &[u8], items: &mut Vec<Item>) {
        let half = self.half_mut(side);
        let mut head = mem::take(&mut half.head);
        // The first bytes only, so that it does not matter how many came at once.
        head.extend(bytes.iter().take(HEAD_LIMIT - head.len()));
        if half.in_first_line && !plausible(side, &head) {
            self.unrecognised(side, items);
        } else {
            self.lose(side, Item::OverLimit(side), items);
        }
    }

    fn chunked_bytes(
        &mut self,
        side: Side,
        mark: Mark,
        bytes: &[u8],
        items: &mut Vec<Item>,
    ) -> usize {
        let half = self.half_mut(side);
        let Phase::Chunked(mut chunked) = half.phase else {
            return bytes.len();
        };
        let fed = chunked.feed(bytes);
        half.phase = Phase::Chunked(chunked);
        match fed {
            Fed::Ended(length) => {
                half.next += length as u64;
                let position = half.next;
                self.end(side, position, mark.time_ns, items);
                length
            }
            Fed::All => {
                half.next += bytes.len() as u64;
                bytes.len()
            }
            Fed::Malformed => {
                half.next += bytes.len() as u64;
                half.phase = Phase::UntilTurn;
                bytes.len()
            }
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

const fn message_end(side: Side, end: End) -> Item {
    match side {
        Side::Request => Item::RequestEnd(end),
        Side::Response => Item::ResponseEnd(end),
    }
}

/// Whether the beginning of a head, without its end, may be one.
fn plausible(side: Side, bytes: &[u8]) -> bool {
    let Some(newline) = find_newline(bytes) else {
        return match side {
            Side::Request => may_be_request(bytes),
            Side::Response => may_be_response(bytes),
        };
    };
    let line = bytes.get(..newline).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match side {
        Side::Request => request_line(line).is_some(),
        Side::Response => status_line(line).is_some(),
    }
}
