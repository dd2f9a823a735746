//! Requests that are sent again because an earlier attempt failed.

use agent_common::abi::{Role, Source};

use super::{
    GET, OK,
    context::{TRACE, causal, decision},
    int,
};
use crate::{
    span::{SpanKind, Value, conventions as name},
    testing::{Bench, SegmentExt, Socket},
};

const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

/// Calls on behalf of one request, one after the other, each on a connection of its own: what is sent and what answers.
fn calls(calls: &[(&[u8], &[u8])]) -> Bench {
    let mut bench = Bench::new();
    let mut server = Socket::open(1, Role::Server);
    server
        .receive(GET)
        .starts()
        .decided(decision(1, 9, Source::SameKernel));
    bench.push(&mut server);
    let mut now_ns = server.now_ns;
    for (n, (request, answer)) in (2..).zip(calls) {
        let mut upstream = Socket::open(u64::from(n), Role::Client);
        upstream.now_ns = now_ns;
        upstream.send(request).starts().decided(causal(n, 1));
        upstream.receive(answer).starts();
        bench.push(&mut upstream);
        now_ns = upstream.now_ns;
    }
    server.now_ns = now_ns;
    server.send(OK).starts();
    bench.push(&mut server).live(&[&server]);
    bench.check_books();
    bench
}

/// Span ids of the attempts that each call repeats.
fn repeated(bench: &Bench) -> Vec<Option<u8>> {
    let clients = bench
        .spans
        .iter()
        .filter(|span| span.kind == SpanKind::Client);
    clients
        .map(|span| {
            let link = span.links.first()?;
            let reason = link.attributes.get(name::UNDERTRACE_LINK_REASON);
            assert_eq!(reason, Some(Value::Text("previous_attempt")));
            assert_eq!(link.trace_id, TRACE);
            Some(link.span_id[0])
        })
        .collect()
}

#[test]
fn links_a_repeated_request_to_the_attempt_that_failed() {
    let bench = calls(&[(GET, UNAVAILABLE), (GET, UNAVAILABLE), (GET, OK), (GET, OK)]);
    assert_eq!(repeated(&bench), [None, Some(2), Some(3), None]);
    let counts: Vec<_> = bench.spans[..4]
        .iter()
        .map(|span| int(span, name::HTTP_REQUEST_RESEND_COUNT))
        .collect();
    assert_eq!(counts, [None, Some(1), Some(2), None]);
}

#[test]
fn takes_no_other_request_for_a_repetition() {
    let other: &[u8] = b"GET /other HTTP/1.1\r\nHost: shop\r\n\r\n";
    assert_eq!(repeated(&calls(&[(GET, OK), (GET, OK)])), [None, None]);
    let bench = calls(&[(GET, UNAVAILABLE), (other, OK)]);
    assert_eq!(repeated(&bench), [None, None]);
}

/// Both are sent before the first one fails.
#[test]
fn takes_none_of_two_attempts() {
    let mut bench = Bench::new();
    let mut server = Socket::open(1, Role::Server);
    server
        .receive(GET)
        .starts()
        .decided(decision(1, 9, Source::SameKernel));
    bench.push(&mut server);
    let mut first = Socket::open(2, Role::Client);
    let mut second = Socket::open(3, Role::Client);
    first.now_ns = server.now_ns;
    second.now_ns = server.now_ns;
    first.send(GET).starts().decided(causal(2, 1));
    second.send(GET).starts().decided(causal(3, 1));
    first.receive(UNAVAILABLE).starts();
    second.receive(UNAVAILABLE).starts();
    bench.push(&mut first).push(&mut second);
    let mut third = Socket::open(4, Role::Client);
    third.now_ns = first.now_ns.max(second.now_ns);
    third.send(GET).starts().decided(causal(4, 1));
    third.receive(OK).starts();
    bench.push(&mut third);
    assert_eq!(repeated(&bench), [None, None, None]);
    assert_eq!(bench.counters.retries_ambiguous.get(), 1);
}
