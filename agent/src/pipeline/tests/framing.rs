//! Where messages begin and end.

use agent_common::abi::{Direction, Role};

use super::{GET, OK, int, only, text};
use crate::{
    span::{Status, conventions as name},
    testing::{Bench, SegmentExt, Socket},
};

fn statuses(bench: &Bench) -> Vec<Option<i64>> {
    let status = |span| int(span, name::HTTP_RESPONSE_STATUS_CODE);
    bench.spans.iter().map(status).collect()
}

#[test]
fn takes_a_head_cut_at_every_byte() {
    for role in [Role::Server, Role::Client] {
        for cut in 1..GET.len() {
            let mut bench = Bench::new();
            let mut socket = Socket::open(1, role);
            let (left, right) = GET.split_at(cut);
            if role == Role::Server {
                socket.receive(left).starts();
                socket.receive(right);
                socket.send(OK).starts();
            } else {
                socket.send(left).starts();
                socket.send(right);
                socket.receive(OK).starts();
            }
            bench.push(&mut socket).live(&[&socket]);
            assert_eq!(
                text(only(&bench), name::USER_AGENT_ORIGINAL),
                Some("t"),
                "cut at {cut}"
            );
            assert_eq!(bench.counters.segments_stale.get(), 0);
            bench.check_books();
        }
    }
}

#[test]
fn takes_a_head_of_16_kib_read_byte_by_byte_and_gives_up_a_longer_one() {
    for (length, spans) in [(16 * 1024, 1), (16 * 1024 + 1, 0)] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Server);
        let cookie = "c".repeat(length - "GET / HTTP/1.1\r\nCookie: \r\n\r\n".len());
        let head = format!("GET / HTTP/1.1\r\nCookie: {cookie}\r\n\r\n");
        assert_eq!(head.len(), length);
        for byte in head.as_bytes() {
            socket.receive(&[*byte]);
        }
        socket.records[1].segment_mut().starts();
        socket.send(OK).starts();
        bench.push(&mut socket).live(&[&socket]);
        assert_eq!(bench.spans.len(), spans);
        assert_eq!(bench.counters.messages_over_limit.get(), 1 - spans as u64);
        bench.check_books();
    }
}

#[test]
fn goes_on_after_a_head_that_was_too_long() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    let head = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "c".repeat(20_000));
    socket.receive(head.as_bytes()).starts();
    socket
        .send(b"HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n")
        .starts();
    socket.receive(GET).starts();
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(statuses(&bench), [Some(200)]);
    assert_eq!(bench.counters.responses_unpaired.get(), 1);
    bench.check_books();
}

#[test]
fn finds_no_request_in_the_body_of_an_upload() {
    let body = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = format!(
        "PUT /outer HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        3 * body.len()
    );
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(head.as_bytes()).starts();
    for _ in 0..3 {
        socket.receive(body);
    }
    socket.send(OK).starts();
    socket.close(0);
    bench.push(&mut socket);
    let span = only(&bench);
    assert_eq!(text(span, name::URL_PATH), Some("/outer"));
    assert_eq!(
        int(span, name::HTTP_REQUEST_BODY_SIZE),
        Some(3 * body.len() as i64)
    );
    assert_eq!(bench.counters.messages_request.get(), 1);
    bench.check_books();
}

#[test]
fn ends_responses_without_a_body_with_their_head() {
    let cases = [
        ("HEAD", "200 OK", "Content-Length: 1000\r\n"),
        ("GET", "204 No Content", ""),
        ("GET", "304 Not Modified", "Content-Length: 1000\r\n"),
        ("HEAD", "200 OK", "Transfer-Encoding: chunked\r\n"),
    ];
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    for (method, status, fields) in cases {
        socket
            .send(format!("{method} / HTTP/1.1\r\n\r\n").as_bytes())
            .starts();
        socket
            .receive(format!("HTTP/1.1 {status}\r\n{fields}\r\n").as_bytes())
            .starts();
    }
    bench.push(&mut socket);
    assert_eq!(
        statuses(&bench),
        [Some(200), Some(204), Some(304), Some(200)]
    );
    assert!(
        bench
            .spans
            .iter()
            .all(|span| int(span, name::HTTP_RESPONSE_BODY_SIZE) == Some(0))
    );
    bench.check_books();
}

#[test]
fn passes_interim_responses_as_events() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket
        .send(b"PUT / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        .starts();
    socket.receive(b"HTTP/1.1 100 Continue\r\n\r\n").starts();
    socket.send(b"abc");
    socket
        .receive(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        .starts();
    socket.receive(OK).starts();
    bench.push(&mut socket);
    let span = only(&bench);
    assert_eq!(int(span, name::HTTP_RESPONSE_STATUS_CODE), Some(200));
    let events: Vec<_> = span.events.iter().map(|event| event.name).collect();
    assert_eq!(
        events,
        [
            name::EVENT_REQUEST_HEAD,
            name::EVENT_INTERIM_RESPONSE,
            name::EVENT_INTERIM_RESPONSE,
            name::EVENT_RESPONSE_FIRST_BYTE,
        ]
    );
    bench.check_books();
}

#[test]
fn reads_chunked_bodies_and_their_trailers() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    for trailer in ["", "Checksum: 1\r\n"] {
        socket.send(GET).starts();
        socket
            .receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
            .starts();
        socket.receive(format!("llo\r\n0\r\n{trailer}\r\n").as_bytes());
    }
    bench.push(&mut socket);
    assert_eq!(bench.spans.len(), 2);
    assert!(
        bench
            .spans
            .iter()
            .all(|span| int(span, name::HTTP_RESPONSE_BODY_SIZE) == Some(5))
    );
    bench.check_books();
}

#[test]
fn ends_a_chunked_body_it_does_not_see_by_its_last_bytes() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    socket.send(head).starts();
    socket.pass(Direction::Send, 1 << 30, b"data data data 1\r\n");
    bench.push(&mut socket).live(&[&socket]).live(&[&socket]);
    assert_eq!(bench.spans.len(), 0, "the body goes on");
    socket.pass(Direction::Send, 5, b"0\r\n\r\n");
    bench.live(&[&socket]);
    let wire_size = head.len() as i64 + (1 << 30) + 5;
    assert_eq!(
        int(only(&bench), name::UNDERTRACE_RESPONSE_WIRE_SIZE),
        Some(wire_size)
    );
    assert_eq!(int(only(&bench), name::HTTP_RESPONSE_BODY_SIZE), None);
    bench.check_books();
}

#[test]
fn ends_a_chunked_body_with_unseen_trailers_at_the_next_request() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    socket
        .send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .starts();
    socket.pass(Direction::Send, 100, b"0\r\nChecksum: 1\r\n\r\n");
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(bench.spans.len(), 0);
    socket.receive(GET).starts();
    bench.push(&mut socket);
    assert_eq!(statuses(&bench), [Some(200)]);
    bench.check_books();
}

#[test]
fn ends_an_unseen_chunked_request_by_its_last_bytes_when_the_answer_begins() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    socket.receive(head).starts();
    socket.pass(Direction::Receive, 500, b"data\r\n0\r\n\r\n");
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    let size = int(only(&bench), name::UNDERTRACE_REQUEST_WIRE_SIZE);
    assert_eq!(size, Some(head.len() as i64 + 500));
    bench.check_books();
}

#[test]
fn ends_a_response_without_framing_with_its_connection() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(b"GET / HTTP/1.0\r\n\r\n").starts();
    socket.receive(b"HTTP/1.0 200 OK\r\n\r\nsome").starts();
    socket.pass(Direction::Receive, 1000, b"");
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(bench.spans.len(), 0);
    socket.close(0);
    bench.push(&mut socket);
    let span = only(&bench);
    assert_eq!(int(span, name::HTTP_RESPONSE_BODY_SIZE), Some(1004));
    assert_eq!(text(span, name::NETWORK_PROTOCOL_VERSION), Some("1.0"));
    assert_eq!(span.status, Status::Unset);
    bench.check_books();
}

#[test]
fn leaves_http_behind_an_upgrade() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket
        .receive(b"GET /chat HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .starts();
    socket
        .send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
        .starts();
    socket.receive(b"GET / HTTP/1.1\r\n\r\n");
    socket.send(b"HTTP/1.1 200 OK\r\n\r\n");
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(
        int(only(&bench), name::HTTP_RESPONSE_STATUS_CODE),
        Some(101)
    );
    assert_eq!(bench.counters.messages_request.get(), 1);
    bench.check_books();
}

#[test]
fn stays_with_http_when_an_upgrade_is_refused() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket
        .receive(b"GET /chat HTTP/1.1\r\nUpgrade: h2c\r\n\r\n")
        .starts();
    socket.send(OK).starts();
    socket.receive(GET).starts();
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(bench.spans.len(), 2);
    bench.check_books();
}

#[test]
fn leaves_http_in_a_tunnel_and_stays_when_it_is_refused() {
    for (status, spans) in [("200 Established", 1), ("403 Forbidden", 2)] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Client);
        socket
            .send(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
            .starts();
        socket
            .receive(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .starts();
        let inner = socket.send(GET);
        if spans == 2 {
            inner.starts();
        }
        socket.receive(OK).starts();
        bench.push(&mut socket);
        assert_eq!(bench.spans.len(), spans);
        let span = &bench.spans[0];
        assert_eq!(span.name, "CONNECT");
        assert_eq!(text(span, name::SERVER_ADDRESS), Some("db"));
        assert_eq!(int(span, name::SERVER_PORT), Some(5432));
        assert_eq!(text(span, name::URL_FULL), Some("http://db:5432"));
        bench.check_books();
    }
}

#[test]
fn takes_a_response_that_begins_before_its_request_has_ended() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket
        .receive(b"PUT / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
        .starts();
    socket
        .send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        .starts();
    socket.pass(Direction::Receive, 1000, b"");
    socket.receive(GET).starts();
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(statuses(&bench), [Some(413), Some(200)]);
    assert_eq!(
        int(&bench.spans[0], name::HTTP_REQUEST_BODY_SIZE),
        Some(1000)
    );
    bench.check_books();
}

#[test]
fn waits_for_the_turn_where_lengths_contradict_each_other() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    socket
        .receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc")
        .starts();
    socket.send(GET).starts();
    socket.receive(OK).starts();
    bench.push(&mut socket);
    assert_eq!(statuses(&bench), [Some(200), Some(200)]);
    assert_eq!(int(&bench.spans[0], name::HTTP_RESPONSE_BODY_SIZE), None);
    bench.check_books();
}

#[test]
fn counts_nothing_twice_when_sends_are_partial_and_tried_again() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    let body = vec![b'x'; 10_000];
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n";
    let response = [&head[..], &body].concat();
    socket.receive(GET).starts();
    // Nothing is accepted, then a piece that ends within the head, then 4 KiB at a time, with a failed attempt between.
    socket.send_partly(&response, 0).starts();
    socket.send_partly(&response, 20).starts();
    let mut sent = 20;
    while sent < response.len() {
        socket.send_partly(&response[sent..], 0);
        let accepted = 4096.min(response.len() - sent);
        socket.send_partly(&response[sent..], accepted);
        sent += accepted;
    }
    socket.receive(GET).starts();
    socket.send(OK).starts();
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(statuses(&bench), [Some(200), Some(200)]);
    let size = int(&bench.spans[0], name::UNDERTRACE_RESPONSE_WIRE_SIZE);
    assert_eq!(size, Some(response.len() as i64));
    assert_eq!(bench.counters.messages_response.get(), 2);
    assert_eq!(bench.counters.messages_lost_to_gap.get(), 0);
    bench.check_books();
}

#[test]
fn replaces_a_send_that_was_never_accepted() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket
        .send_partly(b"GET /never HTTP/1.1\r\n\r\n", 0)
        .starts();
    socket.send(b"GET /sent HTTP/1.1\r\n\r\n").starts();
    socket.receive(OK).starts();
    bench.push(&mut socket);
    assert_eq!(text(only(&bench), name::URL_PATH), Some("/sent"));
    bench.check_books();
}

#[test]
fn ignores_a_connection_that_speaks_something_else() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    for _ in 0..100 {
        socket.receive(b"*1\r\n$4\r\nPING\r\n");
        socket.send(b"+PONG\r\n");
    }
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(bench.spans.len(), 0);
    assert_eq!(bench.counters.messages_request.get(), 0);
    assert_eq!(bench.counters.messages_lost_to_gap.get(), 0);
    bench.check_books();
}

#[test]
fn finds_out_the_role_of_a_connection_older_than_the_agent() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Unknown);
    socket.pass(Direction::Receive, 1000, b"old request");
    socket.send(b"the rest of some response");
    socket.receive(GET).starts();
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(only(&bench).kind, crate::span::SpanKind::Server);
    bench.check_books();
}

#[test]
fn reads_a_head_that_continues_in_further_records() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    let head = format!(
        "GET /long HTTP/1.1\r\nCookie: {}\r\n\r\n",
        "c".repeat(9_000)
    );
    socket.receive_in_blocks(head.as_bytes(), 4096).starts();
    let response = format!(
        "HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n",
        "x".repeat(6_000)
    );
    socket.send_in_blocks(response.as_bytes(), 4096).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(text(only(&bench), name::URL_PATH), Some("/long"));
    bench.check_books();
}

#[test]
fn reads_two_messages_of_one_send_with_an_unseen_body_between_them() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    let first = b"PUT /1 HTTP/1.1\r\nContent-Length: 20000\r\n\r\n";
    let second = b"PUT /2 HTTP/1.1\r\nContent-Length: 7\r\n\r\n";
    let bytes = [&first[..], &[b'x'; 20_000], second, b"0123456"].concat();
    let at = first.len() + 20_000;
    socket
        .send_ranges(&bytes, &[0..first.len() + 64, at..at + second.len()])
        .starts();
    socket.records[2].segment_mut().starts();
    for _ in 0..2 {
        socket.receive(OK).starts();
    }
    bench.push(&mut socket);
    let sizes: Vec<_> = bench
        .spans
        .iter()
        .map(|span| int(span, name::HTTP_REQUEST_BODY_SIZE))
        .collect();
    assert_eq!(sizes, [Some(20_000), Some(7)]);
    assert_eq!(bench.counters.segments_stale.get(), 0);
    bench.check_books();
}

#[test]
fn believes_no_claimed_start_in_the_middle_of_a_head() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    let (left, right) = GET.split_at(20);
    socket.receive(left).starts();
    // The record holds the rest of one head and the whole of the next request: its flag speaks of the latter.
    socket.receive(&[right, GET].concat()).starts();
    socket.send(OK).starts();
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(statuses(&bench), [Some(200), Some(200)]);
    assert_eq!(bench.counters.messages_lost_to_gap.get(), 0);
    bench.check_books();
}
