//! Decisions and what they become.

use agent_common::{
    abi::{Decision, Direction, Method, Role, Source, decision_flags},
    wire::propagator::part,
};

use super::{GET, OK, int, only, text};
use crate::{
    config::{
        ServiceRules,
        propagator::{self, Propagator},
    },
    event::{ClockPair, Input},
    pipeline::PipelineConfig,
    process::ProcessKey,
    protocol::ParserConfig,
    span::{Span, SpanKind, Value, conventions as name},
    testing::{Bench, PROCESS, SegmentExt, Socket},
};

pub(super) const TRACE: [u8; 16] = [7; 16];

pub(super) fn decision(span_id: u8, parent: u8, source: Source) -> Decision {
    Decision {
        trace_id: TRACE,
        span_id: [span_id; 8],
        parent_span_id: [parent; 8],
        source: source as u8,
        confidence: 90,
        trace_flags: 3,
        decision_flags: decision_flags::PROPAGATED,
        ..Decision::default()
    }
}

pub(super) fn causal(span_id: u8, parent: u8) -> Decision {
    Decision {
        method: Method::SameContext as u8,
        ..decision(span_id, parent, Source::Causal)
    }
}

fn ids(span: &Span) -> ([u8; 8], Option<[u8; 8]>) {
    (span.span_id, span.parent_span_id)
}

/// A server request during which the process makes a client request.
fn nested(client: Decision) -> Bench {
    let mut bench = Bench::new();
    let mut server = Socket::open(1, Role::Server);
    let mut upstream = Socket::open(2, Role::Client);
    server
        .receive(GET)
        .starts()
        .decided(decision(1, 9, Source::SameKernel));
    bench.push(&mut server);
    upstream.now_ns = server.now_ns;
    upstream.send(GET).starts().decided(client);
    upstream.receive(OK).starts();
    bench.push(&mut upstream);
    server.now_ns = upstream.now_ns;
    server.send(OK).starts();
    bench.push(&mut server).live(&[&server]);
    bench.check_books();
    bench
}

#[test]
fn gives_spans_the_ids_the_kernel_decided() {
    let bench = nested(causal(2, 1));
    let [client, server] = bench.spans.as_slice() else {
        panic!("two spans, not {:?}", bench.spans);
    };
    assert_eq!(ids(client), ([2; 8], Some([1; 8])));
    assert_eq!(ids(server), ([1; 8], Some([9; 8])));
    assert_eq!(
        (client.kind, server.kind),
        (SpanKind::Client, SpanKind::Server)
    );
    assert!(server.parent_is_remote && !client.parent_is_remote);
    assert_eq!(client.trace_id, TRACE);
    assert_eq!(text(client, name::UNDERTRACE_PARENT_SOURCE), Some("causal"));
    assert_eq!(
        text(client, name::UNDERTRACE_PARENT_METHOD),
        Some("same_context")
    );
    assert_eq!(int(client, name::UNDERTRACE_PARENT_CONFIDENCE), Some(90));
    assert_eq!(
        text(server, name::UNDERTRACE_PARENT_SOURCE),
        Some("same_kernel")
    );
    assert_eq!(bench.counters.decisions_joined.get(), 2);
    assert_eq!(bench.counters.messages_undecided.get(), 0);
}

#[test]
fn rejects_a_parent_it_does_not_know() {
    let bench = nested(causal(2, 5));
    let client = &bench.spans[0];
    assert_eq!(ids(client), ([2; 8], None));
    assert_eq!(client.trace_id, TRACE);
    assert_eq!(client.links[0].span_id, [5; 8]);
    let reason = client.links[0].attributes.get(name::UNDERTRACE_LINK_REASON);
    assert_eq!(reason, Some(Value::Text("parent_unknown")));
    assert_eq!(bench.counters.links_rejected.get(), 1);
}

#[test]
fn rejects_a_parent_that_had_answered_before() {
    let mut bench = Bench::new();
    let mut server = Socket::open(1, Role::Server);
    server
        .receive(GET)
        .starts()
        .decided(decision(1, 0, Source::Root));
    server.send(OK).starts();
    bench.push(&mut server);
    let mut upstream = Socket::open(2, Role::Client);
    upstream.now_ns = server.now_ns;
    upstream.send(GET).starts().decided(causal(2, 1));
    bench.push(&mut upstream);
    // The end of the server's response becomes known only now.
    bench.live(&[&server, &upstream]);
    upstream.receive(OK).starts();
    bench.push(&mut upstream);
    let [server, client] = bench.spans.as_slice() else {
        panic!("two spans, not {:?}", bench.spans);
    };
    assert_eq!(ids(server), ([1; 8], None));
    assert_eq!(ids(client), ([2; 8], None));
    assert_eq!(client.links[0].span_id, [1; 8]);
    assert_eq!(bench.counters.links_rejected.get(), 1);
    bench.check_books();
}

#[test]
fn joins_decisions_before_and_after_their_message() {
    for after in [false, true] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Server);
        let decision = Decision {
            direction: Direction::Receive as u8,
            ..decision(1, 0, Source::Root)
        };
        if !after {
            socket.decide(decision);
        }
        socket.receive(GET).starts();
        if after {
            socket.decide(decision);
        }
        // The same decision a second time changes nothing.
        socket.decide(decision);
        socket.send(OK).starts();
        socket.close(0);
        bench.push(&mut socket);
        assert_eq!(ids(only(&bench)), ([1; 8], None));
        assert_eq!(bench.counters.decisions.get(), 1);
        bench.check_books();
    }
}

#[test]
fn joins_each_of_several_pipelined_requests_to_its_own_decision() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    let one = b"GET / HTTP/1.1\r\n\r\n";
    socket
        .receive(&one.repeat(3))
        .starts()
        .decided(decision(1, 0, Source::Root));
    for index in [2, 1] {
        socket.decide(Decision {
            position: index * one.len() as u64,
            ..decision(index as u8 + 1, 0, Source::Root)
        });
    }
    for _ in 0..3 {
        socket.send(OK).starts();
    }
    socket.close(0);
    bench.push(&mut socket);
    let ids: Vec<_> = bench.spans.iter().map(|span| span.span_id[0]).collect();
    assert_eq!(ids, [1, 2, 3]);
    bench.check_books();
}

#[test]
fn joins_a_retried_send_to_the_decision_of_its_first_attempt() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket
        .send_partly(GET, 0)
        .starts()
        .decided(decision(1, 0, Source::Root));
    socket
        .send_partly(GET, 7)
        .starts()
        .decided(decision(1, 0, Source::Root));
    socket.send(&GET[7..]);
    socket.receive(OK).starts();
    bench.push(&mut socket);
    assert_eq!(ids(only(&bench)), ([1; 8], None));
    assert_eq!(bench.counters.decisions.get(), 1);
    bench.check_books();
}

/// The kernel did not decide it, so user space judges its sender.
#[test]
fn links_to_an_untrusted_header_of_a_message_the_kernel_did_not_decide() {
    let mut bench = Bench::with(PipelineConfig {
        trusted: Vec::new(),
        ..PipelineConfig::default()
    });
    let mut socket = Socket::open(1, Role::Server);
    socket
        .receive(
            b"GET / HTTP/1.1\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\ntracestate: a=1\r\n\r\n",
        )
        .starts();
    socket.send(OK).starts();
    socket.close(0);
    bench.push(&mut socket);
    let span = only(&bench);
    let theirs = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    assert_ne!(span.trace_id, theirs);
    assert_eq!(
        (span.parent_span_id, span.trace_state.as_deref()),
        (None, None)
    );
    let [link] = span.links.as_slice() else {
        panic!("one link, not {:?}", span.links);
    };
    assert_eq!(link.trace_id, theirs);
    assert_eq!(link.span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    let reason = link.attributes.get(name::UNDERTRACE_LINK_REASON);
    assert_eq!(reason, Some(Value::Text("untrusted")));
}

#[test]
fn adopts_the_header_of_a_message_the_kernel_did_not_decide() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket
        .receive(
            b"GET / HTTP/1.1\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: a=1\r\n\r\n",
        )
        .starts();
    socket.send(OK).starts();
    socket.close(0);
    bench.push(&mut socket);
    let span = only(&bench);
    assert_eq!(
        span.trace_id,
        0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes()
    );
    assert_eq!(
        span.parent_span_id,
        Some(0x00f0_67aa_0ba9_02b7_u64.to_be_bytes())
    );
    assert_eq!(span.trace_state.as_deref(), Some("a=1"));
    assert_eq!(text(span, name::UNDERTRACE_PARENT_SOURCE), Some("header"));
    assert_eq!(
        span.attribute(name::UNDERTRACE_PROPAGATED),
        Some(Value::Bool(false))
    );
    assert_eq!(bench.counters.messages_undecided.get(), 1);
    bench.check_books();
}

/// Both of the same process, `shop`: what its own rule says of the traces that begin in it does not hold for those that its caller began.
#[test]
fn a_service_has_a_ratio_of_its_own_for_the_traces_that_it_begins() {
    let left_to_us = b"GET / HTTP/1.1\r\nHost: shop\r\nb3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1\r\n\r\n";
    let spans = |rule: &str, request: &[u8]| {
        let rule = rule.parse().expect("a rule");
        let b3 = propagator::resolve(&[Propagator::B3]).expect("it is known");
        let fields = b3.expect("it has a header").into_iter();
        let mut bench = Bench::with(PipelineConfig {
            service_rules: ServiceRules::new(vec![rule]).expect("one is not too many"),
            parsers: ParserConfig {
                propagators: fields.filter(|field| field.part != part::NONE).collect(),
            },
            ..PipelineConfig::default()
        });
        let mut socket = Socket::open(1, Role::Server);
        socket.receive(request).starts();
        socket.send(OK).starts();
        socket.close(0);
        bench.push(&mut socket);
        bench.check_books();
        let unsampled = bench.counters.spans_unsampled.get();
        assert_eq!(bench.spans.len() as u64 + unsampled, 1);
        bench.spans.len()
    };
    assert_eq!(spans("other=0", GET), 1);
    assert_eq!(spans("sho?=0", GET), 0);
    assert_eq!(spans("shop=0", left_to_us), 1);
}

#[test]
fn gives_the_same_ids_on_every_run() {
    let run = |seed| {
        let mut bench = Bench::with(PipelineConfig {
            seed,
            ..PipelineConfig::default()
        });
        let mut socket = Socket::open(1, Role::Server);
        for _ in 0..5 {
            socket.receive(GET).starts();
            socket.send(OK).starts();
        }
        socket.close(0);
        bench.push(&mut socket);
        bench.spans
    };
    assert_eq!(run(1), run(1));
    assert_eq!(run(1).len(), 5);
    assert_ne!(run(1), run(2));
}

#[test]
fn waits_a_moment_for_the_facts_of_a_process() {
    let young = ProcessKey {
        tgid: 77,
        start_ns: 1,
    };
    for known_in_time in [true, false] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Client).of(young);
        socket.send(GET).starts();
        socket.receive(OK).starts();
        bench.push(&mut socket);
        assert_eq!(bench.spans.len(), 0);
        bench.check_books();
        if known_in_time {
            bench.learn(young, "young");
        } else {
            bench.tick().tick();
        }
        let expected = if known_in_time {
            "young"
        } else {
            "unknown_service"
        };
        assert_eq!(only(&bench).resource.service_name(), expected);
        bench.check_books();
    }
}

#[test]
fn maps_all_times_of_a_trace_with_the_same_clock() {
    let mut bench = Bench::new();
    let mut server = Socket::open(1, Role::Server);
    server
        .receive(GET)
        .starts()
        .decided(decision(1, 0, Source::Root));
    bench.push(&mut server);
    let mut upstream = Socket::open(2, Role::Client);
    upstream.now_ns = server.now_ns;
    upstream.send(GET).starts().decided(causal(2, 1));
    upstream.receive(OK).starts();
    bench.push(&mut upstream);
    bench.pipeline.push(&Input::Clock(ClockPair {
        monotonic_ns: 0,
        unix_ns: 1_800_000_000_000_000_000,
    }));
    server.now_ns = upstream.now_ns;
    server.send(OK).starts();
    bench.push(&mut server).live(&[&server]);
    let [client, server] = bench.spans.as_slice() else {
        panic!("two spans, not {:?}", bench.spans);
    };
    assert!(server.start_unix_ns < client.start_unix_ns);
    assert!(client.end_unix_ns < server.end_unix_ns);
    assert_eq!(bench.spans[0].resource.service_name(), "shop");
    assert_eq!(PROCESS.tgid, 42);
}
