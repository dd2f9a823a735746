//! A conversation as user space reads it, and the promises that hold for whatever it finds there.

use std::sync::Arc;

use agent_common::{
    abi::StreamState,
    wire::{propagator::Table, scan::Head},
};

use crate::{
    process::ProcessKey,
    protocol::{
        HEAD_LIMIT, Item, Mark, Parser, ParserConfig, Protocol as _, Side,
        http1::{Http1, RequestHead, ResponseHead},
    },
};

/// The head of either kind of message, and where it ends.
#[derive(Clone, Debug)]
pub(super) enum Read {
    Request(RequestHead, u64),
    Response(ResponseHead, u64),
}

impl Read {
    pub(super) const fn end(&self) -> u64 {
        match self {
            Self::Request(_, end) | Self::Response(_, end) => *end,
        }
    }
}

/// The head at the beginning of these bytes, if they have one.
pub(super) fn head(bytes: &[u8], propagators: &Table) -> Option<Read> {
    let config = ParserConfig {
        propagators: Arc::from(propagators.as_slice()),
    };
    if bytes.starts_with(b"HTTP/1.") {
        let items = items(&[b"GET / HTTP/1.1\r\n\r\n"], &[bytes], &config);
        return items.into_iter().find_map(|item| match item {
            Item::Response(response) => Some(Read::Response(
                response.detail,
                response.position + u64::from(response.detail.length),
            )),
            _ => None,
        });
    }
    match items(&[bytes], &[], &config).into_iter().next() {
        Some(Item::Request(request)) => {
            let end = request.position + u64::from(request.detail.length);
            Some(Read::Request(Arc::unwrap_or_clone(request.detail), end))
        }
        _ => None,
    }
}

/// What a parser finds in requests that arrive in these pieces and in responses that follow, all at the same time, and the connection closed.
pub(super) fn items(requests: &[&[u8]], responses: &[&[u8]], config: &ParserConfig) -> Vec<Item> {
    let mut parser = Http1.parser(true, config);
    let mut items = Vec::new();
    let request = pass(&mut *parser, Side::Request, requests, &mut items);
    let response = pass(&mut *parser, Side::Response, responses, &mut items);
    parser.close(&request, &response, true, &mut items);
    check(&items, &request, &response);
    items
}

/// Passes one side's bytes; where it stands then.
fn pass(
    parser: &mut dyn Parser,
    side: Side,
    pieces: &[&[u8]],
    items: &mut Vec<Item>,
) -> StreamState {
    let mut mark = Mark {
        position: 0,
        time_ns: 1,
        process: ProcessKey {
            tgid: 1,
            start_ns: 1,
        },
    };
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        parser.bytes(side, mark, piece, items);
        // A vector that grows byte by byte may have twice the room it needs.
        assert!(parser.buffered() <= 4 * HEAD_LIMIT);
        mark.position += piece.len() as u64;
    }
    let mut last = vec![0; 16];
    last.extend(pieces.concat());
    StreamState {
        position: mark.position,
        last_time_ns: 1,
        tail: *last.last_chunk().expect("sixteen bytes and more"),
    }
}

/// Messages of a side follow each other, lie within what passed, and have room for what is said of them.
fn check(items: &[Item], request: &StreamState, response: &StreamState) {
    let (mut requests, mut responses) = (Follower::new(request), Follower::new(response));
    for item in items {
        match item {
            Item::Request(request) => {
                requests.begin(request.position, request.detail.length);
                // The texts are parts of the head.
                let limit = size_of::<RequestHead>() + usize::from(u16::MAX);
                assert!(request.detail.footprint() <= limit);
            }
            Item::RequestEnd(end) => requests.end(end.wire_size, end.body_size),
            Item::Response(response) => {
                responses.begin(response.position, response.detail.length);
            }
            Item::ResponseEnd(end) => responses.end(end.wire_size, end.body_size),
            _ => {}
        }
    }
}

/// One side of [`check`].
struct Follower {
    passed: u64,
    start: u64,
    head: u64,
    behind: u64,
}

impl Follower {
    const fn new(state: &StreamState) -> Self {
        Self {
            passed: state.position,
            start: 0,
            head: 0,
            behind: 0,
        }
    }

    fn begin(&mut self, position: u64, length: u32) {
        assert!(position >= self.behind, "positions never go back");
        assert!(length > 0 && length as usize <= HEAD_LIMIT);
        (self.start, self.head) = (position, u64::from(length));
        self.behind = position + u64::from(length);
        assert!(self.behind <= self.passed);
    }

    fn end(&mut self, wire_size: u64, body_size: Option<u64>) {
        assert!(wire_size >= body_size.unwrap_or(0));
        self.behind = self.behind.max(self.start + wire_size);
        assert!(self.behind <= self.passed);
    }
}

/// The ids and flags that the kernel keeps of a head, in the order of the wire.
pub(super) fn ids(head: &Head) -> ([u8; 16], [u8; 8]) {
    let [high, low] = head.trace_id.map(u64::to_ne_bytes);
    let mut trace = [0; 16];
    trace[..8].copy_from_slice(&high);
    trace[8..].copy_from_slice(&low);
    (trace, head.span_id.to_ne_bytes())
}
