//! Conversations pushed through all stages.

mod alike;
mod context;
mod endings;
mod extents;
mod framing;
mod hidden;
mod leaving;
mod loss;
mod properties;
mod repetitions;
mod retransmissions;

use agent_common::abi::{Direction, Role};

use crate::{
    span::{Span, SpanKind, Status, Value, conventions as name},
    testing::{Bench, SegmentExt, Socket},
};

const GET: &[u8] = b"GET /a?q=1 HTTP/1.1\r\nHost: shop\r\nUser-Agent: t\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// The only span there is.
fn only(bench: &Bench) -> &Span {
    match bench.spans.as_slice() {
        [span] => span,
        spans => panic!("one span, not {spans:#?}"),
    }
}

fn int(span: &Span, key: &str) -> Option<i64> {
    match span.attribute(key) {
        Some(Value::Int(value)) => Some(value),
        _ => None,
    }
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match span.attribute(key) {
        Some(Value::Text(value)) => Some(value),
        _ => None,
    }
}

#[test]
fn makes_one_server_span_of_each_exchange_on_a_kept_connection() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    for _ in 0..3 {
        socket.receive(GET).starts();
        socket.send(OK).starts();
    }
    bench.push(&mut socket);
    assert_eq!(bench.spans.len(), 2, "the last send is not confirmed yet");
    bench.live(&[&socket]);
    assert_eq!(bench.spans.len(), 3);
    for span in &bench.spans {
        assert_eq!(span.kind, SpanKind::Server);
        assert_eq!(span.name, "GET");
        assert_eq!(span.status, Status::Unset);
        assert_eq!(int(span, name::HTTP_RESPONSE_STATUS_CODE), Some(200));
        assert_eq!(text(span, name::URL_PATH), Some("/a"));
        assert_eq!(int(span, name::HTTP_RESPONSE_BODY_SIZE), Some(5));
        assert_eq!(
            int(span, name::UNDERTRACE_REQUEST_WIRE_SIZE),
            Some(GET.len() as i64)
        );
        assert_eq!(
            int(span, name::UNDERTRACE_RESPONSE_WIRE_SIZE),
            Some(OK.len() as i64)
        );
        assert_eq!(text(span, name::CLIENT_ADDRESS), Some("10.0.0.2"));
        assert_eq!(span.resource.service_name(), "shop");
        assert_eq!(span.end_unix_ns - span.start_unix_ns, 1_000_000);
    }
    bench.check_books();
}

#[test]
fn makes_a_client_span_with_a_url_that_shows_no_values() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    socket.receive(OK).starts();
    bench.push(&mut socket);
    let span = only(&bench);
    assert_eq!(span.kind, SpanKind::Client);
    assert_eq!(
        text(span, name::URL_FULL),
        Some("http://shop:8080/a?q=REDACTED")
    );
    assert_eq!(text(span, name::SERVER_ADDRESS), Some("shop"));
    assert_eq!(int(span, name::SERVER_PORT), Some(8080));
    bench.check_books();
}

#[test]
fn keeps_five_pipelined_requests_in_order() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    let requests: String = (0..5)
        .map(|index| format!("GET /{index} HTTP/1.1\r\nHost: h\r\n\r\n"))
        .collect();
    let responses: String = (0..5)
        .map(|index| format!("HTTP/1.1 20{index} X\r\nContent-Length: 0\r\n\r\n"))
        .collect();
    socket.receive(requests.as_bytes()).starts();
    socket.send(responses.as_bytes()).starts();
    socket.close(0);
    bench.push(&mut socket);
    let seen: Vec<_> = bench
        .spans
        .iter()
        .map(|span| {
            (
                text(span, name::URL_PATH),
                int(span, name::HTTP_RESPONSE_STATUS_CODE),
            )
        })
        .collect();
    let expected = [
        (Some("/0"), Some(200)),
        (Some("/1"), Some(201)),
        (Some("/2"), Some(202)),
        (Some("/3"), Some(203)),
        (Some("/4"), Some(204)),
    ];
    assert_eq!(seen, expected);
    bench.check_books();
}

#[test]
fn counts_a_body_it_does_not_see() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000000\r\n\r\n";
    socket.send(head).starts();
    socket.pass(Direction::Send, 3_000_000_000, b"");
    bench.push(&mut socket).live(&[&socket]);
    let span = only(&bench);
    assert_eq!(
        int(span, name::HTTP_RESPONSE_BODY_SIZE),
        Some(3_000_000_000)
    );
    bench.check_books();
}
