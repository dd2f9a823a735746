//! Trace context in a TCP option, between hosts that share nothing else: on every kernel, since no byte of a stream is touched.
//!
//! The options are read off the wire between the hosts, by code that knows the format from its description only.

mod hosts;
mod limits;
mod path;
mod safety;

use anyhow::Result;

pub(super) use self::hosts::{due, on_the_wire};
use self::{
    hosts::{EXPERIMENTAL, Hosts, OPTION, joined, path as group, path_of, sources},
    path::{Ends, exchange},
};
use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    capture::Capture,
    http::Connection,
    network::{self, Routed},
    trace::Spans,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("context_option_between_hosts", between_hosts),
    Scenario::full("context_option_sent_again", sent_again),
    Scenario::full("context_option_sent_again_is_needed", sent_again_is_needed),
    Scenario::full("context_option_of_large_requests", large_requests),
    Scenario::full("context_option_of_packets_that_are_cut", cut_packets),
    Scenario::full("context_option_tells_the_bit", tells_the_bit),
    Scenario::full("context_option_without_room", limits::without_room),
    Scenario::full(
        "context_option_beside_signatures",
        limits::beside_signatures,
    ),
    Scenario::full("context_option_malformed", limits::malformed),
    Scenario::full("context_option_untrusted", limits::untrusted),
    Scenario::full("context_option_elsewhere", limits::elsewhere),
    Scenario::full("context_option_tables_full", limits::tables_full),
    Scenario::full("context_option_unread", limits::unread),
    Scenario::full("context_option_same_kernel_first", same_kernel_first),
    Scenario::full("context_option_beside_header", beside_header),
    Scenario::full("context_option_of_a_restarted_trace", restarted),
    Scenario::full("context_option_over_ipv6", over_ipv6),
    Scenario::full("context_option_tried_again", path::tried_again),
    Scenario::full("safety_option_exact_bytes", safety::exact_bytes),
    Scenario::full(
        "safety_option_dropped_on_the_way",
        safety::dropped_on_the_way,
    ),
    Scenario::full(
        "safety_option_answered_with_reset",
        path::answered_with_reset,
    ),
    Scenario::full(
        "safety_option_first_answered_with_reset",
        path::first_answered_with_reset,
    ),
    Scenario::full("safety_option_short_deadline", path::short_deadline),
    Scenario::full("safety_option_left_to_the_kernel", path::left_to_the_kernel),
    Scenario::full("safety_option_own_abort", path::own_abort),
    Scenario::full("safety_option_taken_and_reset", path::taken_and_reset),
    Scenario::full("safety_option_same_host_proves_none", path::same_host),
    Scenario::full("safety_option_one_tries", path::one_tries),
    Scenario::full("safety_option_spares_other_peers", path::spares_other_peers),
    Scenario::full("context_option_each_peer_alone", path::each_peer_alone),
    Scenario::full("safety_option_kill_minus_nine", safety::kill_minus_nine),
    Scenario::full("safety_option_quiet_connection", safety::quiet),
    Scenario::full(
        "safety_option_refused_by_self_test",
        safety::refused_by_self_test,
    ),
];

/// Each request that crosses brings its client's span in an option, and is joined by it.
fn between_hosts(context: &mut Context) -> Result<()> {
    const REQUESTS: usize = 5;
    let hosts = Hosts::new(context)?;
    let agents = hosts.agents(context, OPTION, OPTION)?;
    let wire = Capture::start(&hosts.net.router)?;
    hosts.requests(1..=REQUESTS)?;
    hosts.collector.wait_for_spans(REQUESTS * 3, PATIENCE)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    let ([left, right], spans) = hosts.stop(agents)?;
    assert_text("the traces", &spans.render(), &joined(1..=REQUESTS));
    let clients = spans.clients();
    let mut expected: Vec<_> = clients
        .0
        .iter()
        .map(|span| (span.path().to_owned(), Some(due(span, true))))
        .collect();
    expected.sort();
    let mut sorted = seen;
    sorted.sort();
    assert_eq!(sorted, expected, "the options on the wire");
    assert_eq!(sources(&spans, "threads"), ["option"; REQUESTS]);
    let count = REQUESTS as u64;
    assert_eq!(left.get("option_requests"), count, "{left}");
    assert_eq!(left.get("options_written"), count, "{left}");
    assert_eq!(left.get("option_segments"), count, "{left}");
    assert!(left.get("option_sockets") >= 1, "{left}");
    assert_eq!(right.get("options_received"), count, "{right}");
    assert_eq!(right.get("options_taken"), count, "{right}");
    for name in ["options_malformed", "options_untrusted", "options_unread"] {
        assert_eq!(right.get(name), 0, "{right}");
    }
    Ok(())
}

/// Of each segment that begins a request its path, and its option.
type Carried = Vec<(String, Option<String>)>;

/// A request whose segment is lost on the router. Gives what was behind it, in how many segments the option was written, and the spans.
fn lose_once(context: &Context, left: &[&str]) -> Result<(Carried, u64, Spans)> {
    let hosts = Hosts::new(context)?;
    let agents = hosts.agents(context, left, OPTION)?;
    hosts.requests(1..=1)?;
    let wire = Capture::start(&hosts.net.router)?;
    // By count and not by time: a slow machine would send again more often than an option is written.
    hosts.net.drop_every_other(EXPERIMENTAL)?;
    hosts.requests(2..=2)?;
    hosts.collector.wait_for_spans(6, PATIENCE)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    let ([left, _], spans) = hosts.stop(agents)?;
    assert_eq!(left.get("options_written"), 2, "{left}");
    Ok((seen, left.get("option_segments"), spans))
}

fn sent_again(context: &mut Context) -> Result<()> {
    let (seen, segments, spans) = lose_once(context, OPTION)?;
    assert_text("the traces", &spans.render(), &joined(1..=2));
    // The first request's, the one that was lost, and what was sent again.
    assert_eq!(segments, 3);
    let client = spans.clients().filter(|span| span.path() == "/b/2");
    let expected = ("/b/2".to_owned(), Some(due(client.only(), true)));
    assert_eq!(seen, [expected]);
    Ok(())
}

/// The negative control: without the option in what is sent again, nothing arrives with the request.
fn sent_again_is_needed(context: &mut Context) -> Result<()> {
    let broken = ["--tcp-option", "--fault", "option-once"];
    let (seen, segments, spans) = lose_once(context, &broken)?;
    assert_eq!(segments, 2);
    assert_eq!(seen, [("/b/2".to_owned(), None)]);
    let servers = spans.of("threads").servers();
    let lost = servers.filter(|span| span.path() == "/b/2");
    assert_eq!(lost.only().get("undertrace.parent.source"), "root");
    Ok(())
}

/// Requests longer than a segment, head and body in one send: their first segment carries the option, and all bytes arrive.
fn large_requests(context: &mut Context) -> Result<()> {
    let hosts = Hosts::new(context)?;
    let agents = hosts.agents(context, OPTION, OPTION)?;
    let wire = Capture::start(&hosts.net.router)?;
    let padding = ["x".repeat(1_300), "y".repeat(3_000), "z".repeat(7_000)];
    let address = hosts.address()?;
    network::inside(&hosts.net.client, || {
        let mut connection = Connection::open_to(address)?;
        for text in &padding {
            let path = format!("/b/1?{text}");
            assert_eq!(connection.get(&path)?.status, 200);
        }
        Ok(())
    })?;
    hosts
        .collector
        .wait_for_spans(padding.len() * 3, PATIENCE)?;
    let segments = wire.stop_segments()?;
    let ([left, right], spans) = hosts.stop(agents)?;
    let starts = segments.iter().filter(|one| path_of(one).is_some());
    for segment in starts {
        let options = segment.options_of(EXPERIMENTAL);
        assert_eq!(options.len(), 1, "{} bytes", segment.payload.len());
    }
    assert_eq!(sources(&spans, "threads"), ["option"; 3]);
    assert_eq!(left.get("options_written"), 3, "{left}");
    assert_eq!(right.get("options_taken"), 3, "{right}");
    Ok(())
}

/// A packet of several segments is cut when it leaves: each piece has the option, one request is joined by it, once.
fn cut_packets(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    ends.net.cut_by_kernel()?;
    let agent = ends.agent(context, &[])?;
    let wire = Capture::start(&ends.net.router)?;
    let [mut client, mut server] = ends.connect()?;
    exchange(
        &mut client,
        &mut server,
        &format!("/b/1?{}", "x".repeat(7_000)),
    )?;
    exchange(&mut client, &mut server, "/b/2")?;
    let segments = wire.stop_segments()?;
    let pieces = |option: &[u8]| {
        let same = segments
            .iter()
            .filter(|one| one.options_of(EXPERIMENTAL) == [option]);
        same.count()
    };
    let first = |path: &str| {
        let found = segments
            .iter()
            .find(|one| path_of(one).is_some_and(|other| other.starts_with(path)));
        let options = found.map(|one| one.options_of(EXPERIMENTAL));
        options.and_then(|options| options.first().map(|option| option.to_vec()))
    };
    let [long, short] = ["/b/1", "/b/2"].map(|path| first(path).expect("an option"));
    assert!(pieces(&long) >= 2, "the packet is cut");
    assert_eq!(pieces(&short), 1);
    drop((client, server));
    let statistics = ends.stop(agent)?;
    assert_eq!(statistics.get("options_received"), 2, "{statistics}");
    assert_eq!(statistics.get("options_taken"), 2, "{statistics}");
    assert_eq!(statistics.get("options_unread"), 0, "{statistics}");
    Ok(())
}

/// A trace that the left host does not sample is not sampled by the right one, which would sample all of its own.
fn tells_the_bit(context: &mut Context) -> Result<()> {
    let hosts = Hosts::new(context)?;
    let none = ["--tcp-option", "--sampler", "always_off"];
    let agents = hosts.agents(context, &none, OPTION)?;
    let wire = Capture::start(&hosts.net.router)?;
    hosts.requests(1..=3)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    let ([_, right], spans) = hosts.stop(agents)?;
    assert_eq!(seen.len(), 3, "{seen:?}");
    for (path, option) in &seen {
        let option = option.as_deref().unwrap_or_default();
        assert!(option.starts_with("ut "), "{path}: {option}");
    }
    assert_eq!(right.get("options_taken"), 3, "{right}");
    assert!(spans.is_empty(), "{}", spans.render());
    Ok(())
}

/// Both are written, where the kernel is fit for headers: each request has one parent, the nearer one.
fn beside_header(context: &mut Context) -> Result<()> {
    let hosts = Hosts::new(context)?;
    let both = ["--tcp-option", "--inject"];
    let agents = hosts.agents(context, &both, OPTION)?;
    let injects = super::inject::injects(&agents[0])?;
    hosts.requests(1..=3)?;
    hosts.collector.wait_for_spans(9, PATIENCE)?;
    let ([left, right], spans) = hosts.stop(agents)?;
    assert_text("the traces", &spans.render(), &joined(1..=3));
    assert_eq!(sources(&spans, "threads"), ["option"; 3]);
    let written = if injects { 3 } else { 0 };
    assert_eq!(left.get("inject_inserted"), written, "{left}");
    assert_eq!(left.get("options_written"), 3, "{left}");
    assert_eq!(right.get("record_differs"), 0, "{right}");
    Ok(())
}

/// The left host does not trust the header of a request, begins a trace, and its service forwards the header: the right host is in the left one's trace.
fn restarted(context: &mut Context) -> Result<()> {
    const HEADER: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let hosts = Hosts::new(context)?;
    let elsewhere = ["--tcp-option", "--trust-context", "192.0.2.0/24"];
    let agents = hosts.agents(context, &elsewhere, OPTION)?;
    let address = hosts.address()?;
    network::inside(&hosts.net.client, || {
        let mut connection = Connection::open_to(address)?;
        assert_eq!(connection.get_with("/b/1", HEADER)?.status, 200);
        Ok(())
    })?;
    hosts.collector.wait_for_spans(3, PATIENCE)?;
    let ([left, right], spans) = hosts.stop(agents)?;
    assert_text("the trace", &spans.render(), &joined(1..=1));
    assert_eq!(sources(&spans, "threads"), ["option"]);
    assert_eq!(left.get("contexts_untrusted"), 1, "{left}");
    assert_eq!(right.get("record_differs"), 0, "{right}");
    Ok(())
}

/// Over IPv6, whose addresses are looked up in other words.
fn over_ipv6(context: &mut Context) -> Result<()> {
    let net = Routed::new()?;
    net.with_ipv6()?;
    let address = format!("[fd77:2::2]:{}", context.port()).parse()?;
    let ends = Ends::at(net, address)?;
    let agent = ends.agent(context, &[])?;
    for id in 1..=3 {
        let [mut client, mut server] = ends.connect()?;
        exchange(&mut client, &mut server, &format!("/b/{id}"))?;
    }
    let statistics = ends.stop(agent)?;
    assert_eq!(statistics.get("options_written"), 3, "{statistics}");
    assert_eq!(statistics.get("options_taken"), 3, "{statistics}");
    assert_eq!(
        statistics.get("option_sockets_untrusted"),
        0,
        "{statistics}"
    );
    Ok(())
}

/// On one host, with one agent: the kernel's own record counts, and each request has one parent.
fn same_kernel_first(context: &mut Context) -> Result<()> {
    let hosts = Hosts::new(context)?;
    let agent = Setup::grpc(&hosts.collector)
        .arg("--tcp-option")
        .arg("--cgroup")
        .arg(format!("{},{}", group("left"), group("right")))
        .start(context)?;
    hosts.requests(1..=3)?;
    hosts.collector.wait_for_spans(9, PATIENCE)?;
    let spans = hosts.collector.spans();
    drop(hosts);
    let statistics = agent.stop()?;
    assert_text("the traces", &spans.render(), &joined(1..=3));
    assert_eq!(sources(&spans, "threads"), ["same_kernel"; 3]);
    assert_eq!(statistics.get("options_received"), 3, "{statistics}");
    assert_eq!(statistics.get("options_taken"), 0, "{statistics}");
    assert_eq!(statistics.get("options_unread"), 0, "{statistics}");
    Ok(())
}
