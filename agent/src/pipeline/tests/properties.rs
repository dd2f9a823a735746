//! Cutting the same bytes differently gives the same messages; loss removes messages and never invents one; any bytes are taken.

use agent_common::abi::{Direction, Role};
use proptest::prelude::*;

use super::{int, text};
use crate::{
    span::conventions as name,
    testing::{Bench, SegmentExt, Socket},
};

/// An exchange of a generated conversation.
#[derive(Clone)]
struct Talk {
    request: Vec<u8>,
    response: Vec<u8>,
    path: String,
    status: i64,
}

impl std::fmt::Debug for Talk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "\"{}\" \"{}\"",
            self.request.escape_ascii(),
            self.response.escape_ascii()
        )
    }
}

type Seen = (String, Option<i64>, Option<i64>, Option<i64>);

fn body(framing: u8, data: &[u8]) -> (String, Vec<u8>) {
    match framing {
        0 => (String::new(), Vec::new()),
        1 => (format!("Content-Length: {}\r\n", data.len()), data.to_vec()),
        _ => {
            let mut body = Vec::new();
            for chunk in data.chunks(7) {
                body.extend(format!("{:x}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            ("Transfer-Encoding: chunked\r\n".to_owned(), body)
        }
    }
}

fn talk(index: usize, request: u8, response: u8, data: &[u8]) -> Talk {
    let path = format!("/{index}");
    let status = 210 + index as i64;
    let (fields, sent) = body(request, data);
    let mut bytes = format!("PUT {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes();
    bytes.extend(sent);
    let (fields, answered) = body(response.max(1), data);
    let mut answer = format!("HTTP/1.1 {status} X\r\n{fields}\r\n").into_bytes();
    answer.extend(answered);
    Talk {
        request: bytes,
        response: answer,
        path,
        status,
    }
}

fn talks() -> impl Strategy<Value = Vec<Talk>> {
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(b"GET /inner HTTP/1.1\r\n\r\n".to_vec()),
        Just(b"a\r\n0\r\n\r\n".to_vec()),
    ];
    prop::collection::vec((0u8..3, 0u8..3, data), 1..6).prop_map(|talks| {
        talks
            .iter()
            .enumerate()
            .map(|(index, (request, response, data))| talk(index, *request, *response, data))
            .collect()
    })
}

/// Writes bytes in pieces; only the first piece of a message is flagged, as by the kernel.
fn write(
    socket: &mut Socket,
    direction: Direction,
    bytes: &[u8],
    sizes: &mut impl Iterator<Item = usize>,
) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let (piece, next) = rest.split_at(size);
        let segment = match direction {
            Direction::Receive => socket.receive(piece),
            Direction::Send => socket.send(piece),
        };
        if rest.len() == bytes.len() {
            segment.starts();
        }
        rest = next;
    }
}

fn seen(bench: &Bench) -> Vec<Seen> {
    let of = |span| {
        (
            text(span, name::URL_PATH).unwrap_or_default().to_owned(),
            int(span, name::HTTP_RESPONSE_STATUS_CODE),
            int(span, name::UNDERTRACE_REQUEST_WIRE_SIZE),
            int(span, name::UNDERTRACE_RESPONSE_WIRE_SIZE),
        )
    };
    bench.spans.iter().map(of).collect()
}

fn expected(talks: &[Talk]) -> Vec<Seen> {
    let of = |talk: &Talk| {
        (
            talk.path.clone(),
            Some(talk.status),
            Some(talk.request.len() as i64),
            Some(talk.response.len() as i64),
        )
    };
    talks.iter().map(of).collect()
}

fn directions(role: Role) -> (Direction, Direction) {
    match role {
        Role::Server => (Direction::Receive, Direction::Send),
        _ => (Direction::Send, Direction::Receive),
    }
}

/// Each exchange after the other, cut by `sizes`.
fn converse(role: Role, talks: &[Talk], sizes: &[usize]) -> Socket {
    let mut socket = Socket::open(1, role);
    let (requests, responses) = directions(role);
    let mut sizes = sizes.iter().copied().cycle().take(10_000);
    for talk in talks {
        write(&mut socket, requests, &talk.request, &mut sizes);
        write(&mut socket, responses, &talk.response, &mut sizes);
    }
    socket.close(0);
    socket
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

proptest! {
    #[test]
    fn gives_the_same_messages_however_cut(
        role in role(), talks in talks(), sizes in prop::collection::vec(1usize..80, 1..20),
    ) {
        let mut bench = Bench::new();
        let mut socket = converse(role, &talks, &sizes);
        bench.push(&mut socket);
        prop_assert_eq!(seen(&bench), expected(&talks));
        prop_assert_eq!(bench.pipeline.balance(), Vec::<String>::new());
    }

    #[test]
    fn gives_the_same_messages_when_pipelined(
        role in role(), talks in talks(), sizes in prop::collection::vec(1usize..200, 1..20),
    ) {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, role);
        let (requests, responses) = directions(role);
        let mut sizes = sizes.into_iter();
        let together = |of: fn(&Talk) -> &Vec<u8>| talks.iter().flat_map(of).copied().collect::<Vec<u8>>();
        write(&mut socket, requests, &together(|talk| &talk.request), &mut sizes);
        write(&mut socket, responses, &together(|talk| &talk.response), &mut sizes);
        socket.close(0);
        bench.push(&mut socket);
        prop_assert_eq!(seen(&bench), expected(&talks));
        prop_assert_eq!(bench.pipeline.balance(), Vec::<String>::new());
    }

    #[test]
    fn never_invents_a_message_when_records_are_lost(
        role in role(), talks in talks(), sizes in prop::collection::vec(1usize..80, 1..20),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 1..4), silent in any::<bool>(),
    ) {
        let mut socket = converse(role, &talks, &sizes);
        let mut lost: Vec<usize> = lost.iter().map(|index| index.index(socket.records.len())).collect();
        lost.sort_unstable();
        lost.dedup();
        for index in lost.iter().rev() {
            socket.records.remove(*index);
            for record in socket.records.iter_mut().skip(*index) {
                record.add_dropped(u32::from(!silent));
            }
        }
        let mut bench = Bench::new();
        bench.push(&mut socket).tick().tick().tick();
        bench.pipeline.finish();
        bench.pipeline.drain_spans(&mut bench.spans);
        prop_assert_eq!(bench.pipeline.balance(), Vec::<String>::new());
        let truth = expected(&talks);
        let mut last = 0;
        for (path, status, ..) in seen(&bench) {
            let found = truth.iter().skip(last).position(|talk| talk.0 == path);
            prop_assert!(found.is_some(), "{path} is invented, doubled or out of order");
            last += found.unwrap_or_default();
            if let Some(status) = status {
                prop_assert_eq!(Some(status), truth[last].1, "{} has another's response", path);
            }
            last += 1;
        }
    }

    #[test]
    fn takes_any_bytes_in_any_order(
        role in prop_oneof![Just(Role::Server), Just(Role::Client), Just(Role::Unknown)],
        pieces in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u8>(), prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "(GET|HEAD|PUT) /[a-z]{0,5} HTTP/1.[01]\r\n(Content-Length: [0-9]{1,3}\r\n|Transfer-Encoding: chunked\r\n|[a-z]: [a-z]\r\n){0,3}(\r\n)?".prop_map(String::into_bytes),
            "HTTP/1.1 [1-5][0-9][0-9] X\r\n(Content-Length: [0-9]{1,3}\r\n|Transfer-Encoding: chunked\r\n)?(\r\n)?".prop_map(String::into_bytes),
        ]), 0..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut socket = Socket::open(1, role);
        for (received, starts, less, bytes) in &pieces {
            let segment = if *received {
                socket.receive(bytes)
            } else {
                socket.send_partly(bytes, bytes.len().saturating_sub(usize::from(*less)))
            };
            if *starts {
                segment.starts();
            }
        }
        for pair in order.chunks_exact(2) {
            let length = socket.records.len();
            socket.records.swap(pair[0].index(length), pair[1].index(length));
        }
        let mut bench = Bench::new();
        bench.push(&mut socket).live(&[&socket]).tick().tick();
        prop_assert!(bench.pipeline.buffered() < 200_000);
        socket.close(0);
        bench.push(&mut socket);
        bench.pipeline.finish();
        bench.pipeline.drain_spans(&mut bench.spans);
        prop_assert_eq!(bench.pipeline.balance(), Vec::<String>::new());
        prop_assert_eq!(bench.pipeline.buffered(), 0);
    }
}
