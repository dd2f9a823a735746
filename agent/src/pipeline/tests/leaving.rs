//! Which exchanges and decisions leave as spans.

use agent_common::abi::{Decision, Direction, Role, Source, decision_flags};

use super::{GET, OK, context::decision, only, text};
use crate::{
    pipeline::PipelineConfig,
    span::{SpanKind, conventions as name},
    testing::{Bench, SegmentExt, Socket},
};

#[test]
fn exports_a_span_for_an_id_that_somebody_was_given() {
    for (flags, spans) in [(decision_flags::PROPAGATED, 1), (0, 0)] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Client);
        socket.decide(Decision {
            direction: Direction::Send as u8,
            decision_flags: flags,
            ..decision(1, 0, Source::Root)
        });
        socket.send(GET);
        socket.lose();
        socket.close(0);
        bench.push(&mut socket);
        assert_eq!(bench.spans.len(), spans);
        assert_eq!(bench.counters.decisions_unobserved.get(), 1);
        if let Some(span) = bench.spans.first() {
            assert_eq!(span.span_id, [1; 8]);
            assert_eq!(text(span, name::ERROR_TYPE), Some("unobserved"));
            assert_eq!(span.kind, SpanKind::Client);
        }
        bench.check_books();
    }
}

#[test]
fn exports_nothing_for_a_request_that_never_left() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket
        .send_partly(GET, 0)
        .starts()
        .decided(decision(1, 0, Source::Root));
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(bench.spans.len(), 0);
    assert_eq!(bench.counters.decisions_unobserved.get(), 1);
    bench.check_books();
}

#[test]
fn leaves_out_what_is_marked_untraced_and_exports_of_telemetry() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts().decided(Decision {
        decision_flags: decision_flags::UNTRACED,
        ..decision(1, 0, Source::Root)
    });
    socket.send(OK).starts();
    socket
        .receive(b"POST /v1/traces HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        .starts();
    socket.send(OK).starts();
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(bench.spans.len(), 0);
    assert_eq!(bench.counters.exchanges_excluded.get(), 2);
    bench.check_books();
}

#[test]
fn makes_spans_of_exports_of_telemetry_when_asked() {
    let mut bench = Bench::with(PipelineConfig {
        trace_otlp_exports: true,
        ..PipelineConfig::default()
    });
    let mut socket = Socket::open(1, Role::Server);
    socket
        .receive(b"POST /v1/traces HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        .starts();
    socket.send(OK).starts();
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(text(only(&bench), name::URL_PATH), Some("/v1/traces"));
}

#[test]
fn counts_unsampled_spans_and_keeps_them() {
    const MISSING: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    const BROKEN: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
    // What is an error at a client need not be one at a server.
    let cases: [(Role, Option<&[u8]>, u64); 7] = [
        (Role::Server, Some(OK), 0),
        (Role::Server, Some(MISSING), 0),
        (Role::Server, Some(BROKEN), 1),
        (Role::Client, Some(OK), 0),
        (Role::Client, Some(MISSING), 1),
        (Role::Client, Some(BROKEN), 1),
        (Role::Client, None, 1),
    ];
    for (role, response, failed) in cases {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, role);
        let unsampled = Decision {
            trace_flags: 2,
            ..decision(1, 0, Source::Root)
        };
        if role == Role::Server {
            socket.receive(GET).starts().decided(unsampled);
            socket.send(response.unwrap_or_default()).starts();
        } else {
            socket.send(GET).starts().decided(Decision {
                direction: Direction::Send as u8,
                ..unsampled
            });
            if let Some(response) = response {
                socket.receive(response).starts();
            }
        }
        socket.close(0);
        bench.push(&mut socket);
        assert_eq!(bench.spans.len(), 0);
        let counts = (
            bench.counters.spans_unsampled.get(),
            bench.counters.spans_unsampled_failed.get(),
        );
        assert_eq!(counts, (1, failed), "{role:?} {response:?}");
        bench.check_books();
    }
}
