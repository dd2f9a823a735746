//! Messages that the kernel hides: no gap, no pairing across them that is wrong.

use agent_common::abi::{Direction, Role, segment_flags};
use proptest::prelude::*;

use super::{int, text};
use crate::{
    span::conventions as name,
    testing::{Bench, SegmentExt, Socket},
};

mod lost;

const IN: Direction = Direction::Receive;
const OUT: Direction = Direction::Send;

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
}

fn response(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok").into_bytes()
}

/// Path and status of each span, in order.
fn seen(bench: &Bench) -> Vec<(String, Option<i64>)> {
    let spans = bench.spans.iter();
    spans
        .map(|span| {
            let path = text(span, name::URL_PATH)
                .or_else(|| text(span, name::URL_FULL))
                .unwrap_or_default();
            let path = path.rsplit('/').next().unwrap_or_default();
            (path.to_owned(), int(span, name::HTTP_RESPONSE_STATUS_CODE))
        })
        .collect()
}

fn pairs(expected: &[(&str, i64)]) -> Vec<(String, Option<i64>)> {
    let pair = |(path, status): &(&str, i64)| ((*path).to_owned(), Some(*status));
    expected.iter().map(pair).collect()
}

#[track_caller]
fn nothing_lost(bench: &Bench, hidden: u64) {
    let counters = &bench.counters;
    assert_eq!(counters.messages_lost_to_gap.get(), 0);
    assert_eq!(counters.responses_unpaired.get(), 0);
    assert_eq!(counters.stream_gap_bytes.get(), 0);
    assert_eq!(counters.stream_hidden_bytes.get(), hidden);
    bench.check_books();
}

/// What a server says and hears, and a client, with hidden exchanges before, between and behind.
#[test]
fn go_unnoticed_between_others() {
    for (role, requests, responses) in [(Role::Server, IN, OUT), (Role::Client, OUT, IN)] {
        for first_is_hidden in [true, false] {
            let mut bench = Bench::new();
            let mut socket = Socket::open(1, role);
            let mut exchange = |socket: &mut Socket, path: &str, status| {
                if role == Role::Server {
                    socket.receive(&request(path)).starts();
                    socket.send(&response(status)).starts();
                } else {
                    socket.send(&request(path)).starts();
                    socket.receive(&response(status)).starts();
                }
                bench.push(socket);
            };
            let mut told = 0;
            let mut hide = |socket: &mut Socket, told_of: bool| {
                socket.hide(requests, 100);
                socket.hide(responses, 3_000);
                told += if told_of { 3_100 } else { 0 };
            };
            if first_is_hidden {
                hide(&mut socket, true);
            }
            exchange(&mut socket, "/1", 201);
            hide(&mut socket, true);
            hide(&mut socket, true);
            exchange(&mut socket, "/2", 202);
            exchange(&mut socket, "/3", 203);
            hide(&mut socket, false);
            bench.tick().live(&[&socket]).tick().tick();
            assert_eq!(seen(&bench), pairs(&[("1", 201), ("2", 202), ("3", 203)]));
            socket.close(0);
            bench.push(&mut socket);
            assert_eq!(bench.spans.len(), 3);
            nothing_lost(&bench, told);
        }
    }
}

/// The same without the flag is what a loss looks like.
#[test]
fn are_a_gap_where_nothing_is_said_of_them() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(&request("/1")).starts();
    socket.send(&response(201)).starts();
    socket.hide(IN, 100);
    socket.hide(OUT, 100);
    let segment = socket.receive(&request("/2"));
    segment.header.flags = segment_flags::MESSAGE_START;
    socket.send(&response(202)).starts();
    socket.close(0);
    bench.push(&mut socket);
    assert!(bench.counters.messages_lost_to_gap.get() > 0);
    assert_eq!(bench.counters.stream_gap_bytes.get(), 100);
    bench.check_books();
}

#[test]
fn leave_pipelined_requests_with_their_own_responses() {
    for role in [Role::Server, Role::Client] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, role);
        let (requests, responses) = if role == Role::Server {
            (IN, OUT)
        } else {
            (OUT, IN)
        };
        let transfer = |socket: &mut Socket, direction, bytes: &[u8]| {
            match direction {
                IN => socket.receive(bytes).starts(),
                OUT => socket.send(bytes).starts(),
            };
        };
        for round in 0..2 {
            for n in [1, 3, 4] {
                if n == 3 {
                    socket.hide(requests, 40);
                }
                transfer(&mut socket, requests, &request(&format!("/{round}{n}")));
            }
            for n in [1, 3, 4] {
                if n == 3 {
                    socket.hide(responses, 70);
                }
                transfer(&mut socket, responses, &response(210 + round * 10 + n));
            }
        }
        bench.push(&mut socket).live(&[&socket]).tick();
        let expected = [
            ("01", 211),
            ("03", 213),
            ("04", 214),
            ("11", 221),
            ("13", 223),
            ("14", 224),
        ];
        assert_eq!(seen(&bench), pairs(&expected));
        socket.close(0);
        bench.push(&mut socket);
        nothing_lost(&bench, 2 * 110);
    }
}

/// A message whose rest was passed over ends where it says, and one that says nothing where the hidden ones begin.
#[test]
fn end_the_message_before_them() {
    let chunked = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe".as_slice();
    let long = b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n".as_slice();
    for (head, body) in [(long, Some(1_000)), (chunked, None)] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Server);
        let begun_ns = socket.now_ns;
        socket.receive(&request("/1")).starts();
        socket.send(head).starts();
        let passed_ns = socket.now_ns;
        socket.pass(OUT, 1_000, b"");
        socket.hide(IN, 50);
        socket.hide(OUT, 60);
        socket.now_ns += 1_000_000_000;
        socket.receive(&request("/2")).starts();
        socket.send(&response(202)).starts();
        socket.close(0);
        bench.push(&mut socket);
        assert_eq!(seen(&bench), pairs(&[("1", 200), ("2", 202)]));
        let first = &bench.spans[0];
        assert_eq!(int(first, name::HTTP_RESPONSE_BODY_SIZE), body);
        let lasted_ns = first.end_unix_ns - first.start_unix_ns;
        assert_eq!(lasted_ns, passed_ns - begun_ns);
        nothing_lost(&bench, 110);
    }
}

/// Both messages in one send, of which the hidden one stands between.
#[test]
fn stand_between_two_messages_of_one_send() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(&request("/1")).starts();
    socket.hide(IN, 40);
    socket.receive(&request("/3")).starts();
    let first = response(201);
    let (now_ns, length) = (socket.now_ns, first.len() as u64);
    socket.send(&first).starts();
    socket.hide(OUT, 70);
    socket.now_ns = now_ns;
    let own = {
        let segment = socket.send(&response(203));
        segment.own.position -= length;
        segment.own
    };
    assert_eq!(own.position, 0);
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(seen(&bench), pairs(&[("1", 201), ("3", 203)]));
    nothing_lost(&bench, 110);
}

/// The response behind hidden ones is offered, refused, and offered again.
#[test]
fn stay_before_a_message_that_is_offered_again() {
    for told_again in [true, false] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Server);
        socket.receive(&request("/1")).starts();
        socket.send(&response(201)).starts();
        socket.hide(IN, 40);
        socket.receive(&request("/2")).starts();
        socket.hide(OUT, 3_000);
        socket.send_partly(&response(202), 0).starts();
        bench.push(&mut socket).tick();
        let again = socket.send(&response(202)).starts();
        if told_again {
            again.own.position -= 3_000;
            again.header.flags |= segment_flags::HIDDEN_BEFORE;
        }
        socket.receive(&request("/3")).starts();
        socket.send(&response(203)).starts();
        socket.close(0);
        bench.push(&mut socket);
        assert_eq!(seen(&bench), pairs(&[("1", 201), ("2", 202), ("3", 203)]));
        nothing_lost(&bench, 3_040);
    }
}

#[test]
fn keep_their_place_when_records_come_in_another_order() {
    for swap in 1..6 {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Server);
        for n in 1..=3 {
            socket.hide(IN, 40);
            socket.hide(OUT, 70);
            socket.receive(&request(&format!("/{n}"))).starts();
            socket.send(&response(200 + n)).starts();
        }
        socket.records.swap(swap, swap + 1);
        bench.push(&mut socket).live(&[&socket]).tick().tick();
        let expected = pairs(&[("1", 201), ("2", 202), ("3", 203)]);
        assert_eq!(seen(&bench), expected, "{swap}");
        nothing_lost(&bench, 3 * 110);
    }
}

/// One request and its response.
#[derive(Clone, Debug)]
struct Plan {
    hidden: bool,
    request_lost: bool,
    response_lost: bool,
    /// It is sent before the one before it was answered.
    pipelined: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let lost = || prop::bool::weighted(0.1);
    (any::<bool>(), lost(), lost(), any::<bool>()).prop_map(
        |(hidden, request_lost, response_lost, pipelined)| Plan {
            hidden,
            request_lost,
            response_lost,
            pipelined,
        },
    )
}

fn transfer(socket: &mut Socket, direction: Direction, bytes: &[u8], lost: bool) {
    match direction {
        IN => socket.receive(bytes).starts(),
        OUT => socket.send(bytes).starts(),
    };
    if lost {
        socket.lose();
    }
}

proptest! {
    /// Each request has its own response or none, no request is there twice, and without losses all that were told are there.
    #[test]
    fn are_paired_with_nobody_whatever_else_is_lost(
        plans in prop::collection::vec(plan(), 1..24), serves in any::<bool>(), loses in any::<bool>()
    ) {
        let (role, requests, responses) = if serves {
            (Role::Server, IN, OUT)
        } else {
            (Role::Client, OUT, IN)
        };
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, role);
        let mut waiting: Vec<usize> = Vec::new();
        let mut answer = |socket: &mut Socket, waiting: &mut Vec<usize>| {
            for n in waiting.drain(..) {
                let plan: &Plan = &plans[n];
                if plan.hidden {
                    socket.hide(responses, 60);
                } else {
                    let bytes = response(400 + n as u16);
                    transfer(socket, responses, &bytes, loses && plan.response_lost);
                }
            }
            bench.push(socket);
        };
        for (n, plan) in plans.iter().enumerate() {
            if !plan.pipelined {
                answer(&mut socket, &mut waiting);
            }
            waiting.push(n);
            if plan.hidden {
                socket.hide(requests, 40);
            } else {
                let bytes = request(&format!("/{n}"));
                transfer(&mut socket, requests, &bytes, loses && plan.request_lost);
            }
        }
        answer(&mut socket, &mut waiting);
        socket.close(0);
        bench.push(&mut socket);
        bench.check_books();
        let mut told: Vec<usize> = Vec::new();
        for (path, status) in seen(&bench) {
            let n: usize = path.parse().expect("paths are numbers");
            prop_assert!(status.is_none_or(|status| status == 400 + n as i64), "{path}: {status:?}");
            prop_assert!(!plans[n].hidden && !told.contains(&n), "{path}");
            prop_assert!(loses || status.is_some(), "{path}");
            told.push(n);
        }
        if !loses {
            let expected = (0..plans.len()).filter(|n| !plans[*n].hidden);
            prop_assert_eq!(told, expected.collect::<Vec<_>>());
        }
    }
}
