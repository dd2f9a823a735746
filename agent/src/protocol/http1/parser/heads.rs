//! Heads, and what each says of the message that it begins.
//!
//! Input: bytes at the beginning of a message or inside its head, cut anywhere. Output: the message, and the
//! phase that its side is in behind the head.

use std::{mem, sync::Arc};

use super::{Expected, Http1Parser};
use crate::protocol::{
    HEAD_LIMIT, Item, Mark, Request, Response, Side,
    http1::{
        Framing, Method,
        half::Phase,
        head::{
            HeadEnd, RequestHead, ResponseHead, find_newline, parse_request, parse_response,
            parse_whole_request, parse_whole_response, request_line, status_line,
        },
        may_be_request, may_be_response,
    },
};

/// Requests of one connection that may wait for their responses.
const WAITING_LIMIT: usize = 1024;

impl Http1Parser {
    /// Takes bytes at the beginning of a message or inside its head; returns how many.
    pub(super) fn head_bytes(
        &mut self,
        side: Side,
        mark: Mark,
        bytes: &[u8],
        items: &mut Vec<Item>,
    ) -> usize {
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

    /// The head in `bytes` is complete; `mark` is where and when its last byte passed.
    fn head_complete(&mut self, side: Side, bytes: &[u8], mark: Mark, items: &mut Vec<Item>) {
        match side {
            Side::Request => match parse_request(bytes, &self.propagators) {
                Some(detail) => self.request_head(Arc::new(detail), mark, items),
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
                let detail = match self.last_request.of(bytes) {
                    Some(detail) => detail,
                    None => self.read_request(bytes)?,
                };
                let (length, end) = (detail.length, end(detail.length));
                self.request.next = end.position;
                self.request_head(detail, end, items);
                length
            }
            Side::Response => {
                let detail = match self.last_response.of(bytes) {
                    Some(detail) => detail,
                    None => self.read_response(bytes)?,
                };
                let end = end(detail.length);
                self.response.next = end.position;
                self.response_head(detail, end, items);
                detail.length
            }
        };
        usize::try_from(length).ok()
    }

    fn read_request(&mut self, bytes: &[u8]) -> Option<Arc<RequestHead>> {
        let detail = Arc::new(parse_whole_request(bytes, &self.propagators)?);
        // A context is another one each time.
        if detail.trace_parent.is_none() && detail.carried.is_none() {
            self.last_request
                .keep(beginning(bytes, detail.length), &detail);
        }
        Some(detail)
    }

    fn read_response(&mut self, bytes: &[u8]) -> Option<ResponseHead> {
        let detail = parse_whole_response(bytes)?;
        self.last_response
            .keep(beginning(bytes, detail.length), &detail);
        Some(detail)
    }

    fn request_head(&mut self, detail: Arc<RequestHead>, mark: Mark, items: &mut Vec<Item>) {
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
}

/// The first bytes.
fn beginning(bytes: &[u8], length: u32) -> &[u8] {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    bytes.get(..length).unwrap_or(bytes)
}

/// Whether the beginning of a head, without its end, may be one.
pub(super) fn plausible(side: Side, bytes: &[u8]) -> bool {
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
