//! Headers between hosts that share nothing else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::{balance, injects, none_enrolled, refused};
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    capture::Capture,
    collector::Collector,
    group::Group,
    http::Connection,
    network::{self, Routed},
    process::{self, Program},
    service,
    trace::{Span, Spans},
};

/// Two hosts with an agent each, limited to the control group of its host, which share nothing: a chain of four services that goes to and fro between
/// them is one trace, joined by headers; nginx forwards what it got, and that is rewritten. The headers are read off the wire between the hosts.
pub(super) fn between_hosts(context: &mut Context) -> Result<()> {
    const REQUESTS: usize = 5;
    let net = Routed::new()?;
    let mut other = Context::new("other_host")?;
    let ports: Vec<u16> = (0..4).map(|_| context.port()).collect();
    let proxy = |host: &str, at: usize, backend: &str| {
        let backend = format!("{backend}:{}", ports[at + 1]);
        let values = [
            ("BACKEND", backend.as_str()),
            ("KEEPALIVE", "keepalive 16;"),
            ("CONNECTION", ""),
        ];
        service::nginx_in(context, Some(host), "proxy.conf", ports[at], &values)
    };
    let last = service::routed_threads(context, &net, ports[3])?;
    let third = proxy(&net.client, 2, "10.77.2.2")?;
    let second = proxy(&net.server, 1, "10.77.1.2")?;
    let first = proxy(&net.client, 0, "10.77.2.2")?;
    let [left, right] = ["left", "right"].map(|host| format!("/{host}{}", std::process::id()));
    let groups = [
        host(&left, &[&first, &third])?,
        host(&right, &[&second, &last])?,
    ];
    let collector = Collector::start()?;
    let agent = |context: &Context, group: &str| {
        Setup::grpc(&collector)
            .arg("--inject")
            .arg("--fault")
            .arg("no-handover")
            .arg("--cgroup")
            .arg(group)
            .start(context)
    };
    let agents = [agent(context, &left)?, agent(&mut other, &right)?];
    let injects = injects(&agents[0])?;
    let wire = Capture::start(&net.router)?;
    network::inside(&net.client, || {
        let address = format!("10.77.1.2:{}", ports[0]).parse()?;
        let mut connection = Connection::open_to(address)?;
        for id in 1..=REQUESTS {
            assert_eq!(connection.get(&format!("/b/{id}"))?.status, 200);
        }
        Ok(())
    })?;
    collector.wait_for_spans(REQUESTS * 7, PATIENCE)?;
    let [left, right] = agents;
    let statistics = [left.stop()?, right.stop()?];
    drop(groups);
    let spans = collector.spans();
    let seen = on_the_wire(&wire.stop()?);
    assert_eq!(seen.len(), REQUESTS * 3, "requests that crossed the router");
    if !injects {
        joined_by_nothing(&spans)?;
        assert!(seen.iter().all(|(_, header)| header.is_none()), "{seen:?}");
        none_enrolled(&statistics[0])?;
        return refused(&statistics[1]);
    }
    assert_text("the traces", &spans.render(), &chains(REQUESTS));
    let ids: BTreeSet<_> = spans.0.iter().map(Span::span_id).collect();
    assert_eq!(ids.len(), spans.len(), "no span is exported twice");
    // What crossed names the client's span of its request, each once, and the server's span says that a header told.
    let clients = spans.clients();
    let mut due: Vec<_> = clients
        .0
        .iter()
        .map(|span| {
            // Sampled, and of random bits: no caller said otherwise.
            let header = format!("00-{}-{}-03", span.trace_id(), span.span_id());
            (span.path().to_owned(), Some(header))
        })
        .collect();
    let mut seen = seen;
    due.sort();
    seen.sort();
    assert_eq!(seen, due, "the headers on the wire");
    let told: Vec<_> = spans
        .servers()
        .0
        .iter()
        .map(|span| span.get("undertrace.parent.source").to_owned())
        .collect();
    let by = |source: &str| told.iter().filter(|one| *one == source).count();
    assert_eq!(
        (by("root"), by("header")),
        (REQUESTS, REQUESTS * 3),
        "{told:?}"
    );
    let sum = |name: &str| statistics.iter().map(|one| one.get(name)).sum::<u64>();
    println!(
        "injected: {} and {} rewritten",
        sum("inject_inserted"),
        sum("inject_rewritten")
    );
    assert_eq!((sum("inject_inserted"), sum("inject_rewritten")), (5, 10));
    assert_eq!(sum("handovers_found"), 0);
    for statistics in &statistics {
        balance(statistics);
    }
    Ok(())
}

/// Moves services with their workers into the control group that stands for their host.
fn host(path: &str, services: &[&Program]) -> Result<Group> {
    let group = Group::make(path)?;
    for service in services {
        group.take(service.pid())?;
        for worker in process::children_of(service.pid()) {
            group.take(worker)?;
        }
    }
    Ok(group)
}

/// Traces of requests that pass four services, of which three are nginx.
pub(in crate::scenario) fn chains(requests: usize) -> String {
    (1..=requests)
        .map(|id| {
            format!(
                "SERVER nginx GET /b/{id} 200\n\
                 \x20 CLIENT nginx GET /b/{id} 200\n\
                 \x20   SERVER nginx GET /b/{id} 200\n\
                 \x20     CLIENT nginx GET /b/{id} 200\n\
                 \x20       SERVER nginx GET /b/{id} 200\n\
                 \x20         CLIENT nginx GET /b/{id} 200\n\
                 \x20           SERVER threads GET /b/{id} 200\n"
            )
        })
        .collect()
}

/// Path and `traceparent` of each request among these payloads.
pub(in crate::scenario) fn on_the_wire(payloads: &[Vec<u8>]) -> Vec<(String, Option<String>)> {
    payloads
        .iter()
        .filter_map(|payload| {
            let text = std::str::from_utf8(payload).ok()?;
            let (path, rest) = text.strip_prefix("GET ")?.split_once(' ')?;
            let mut headers = rest.lines().filter_map(|line| line.split_once(": "));
            let header = headers.find(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
            Some((path.to_owned(), header.map(|(_, value)| value.to_owned())))
        })
        .collect()
}

/// Without headers each side of a connection begins a trace, except where nginx hands the whole request on inside one process.
fn joined_by_nothing(spans: &Spans) -> Result<()> {
    let mut traces: BTreeMap<String, usize> = BTreeMap::new();
    for span in &spans.0 {
        *traces.entry(span.trace_id()).or_default() += 1;
    }
    ensure!(traces.len() == 5 * 4, "{}", spans.render());
    Ok(())
}
