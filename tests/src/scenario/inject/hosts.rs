//! Headers between hosts that share nothing else.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::{balance, injects, none_enrolled, refused};
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::Connection,
    network::{self, Routed},
    service,
    trace::Spans,
};

/// Two hosts with an agent each, which share nothing: a chain of four services is one trace, joined by headers; nginx forwards what it got, and
/// that is rewritten.
pub(super) fn between_hosts(context: &mut Context) -> Result<()> {
    let net = Routed::new()?;
    let mut other = Context::new("other_host")?;
    let ports: Vec<u16> = (0..4).map(|_| context.port()).collect();
    let near = |port: u16| format!("10.77.1.2:{port}");
    let far = |port: u16| format!("10.77.2.2:{port}");
    let last = service::routed_threads(context, &net, ports[3])?;
    let proxy = |host: &str, at: usize, backend: &str| {
        let values = [
            ("BACKEND", backend),
            ("KEEPALIVE", "keepalive 16;"),
            ("CONNECTION", ""),
        ];
        service::nginx_in(context, Some(host), "proxy.conf", ports[at], &values)
    };
    let third = proxy(&net.server, 2, &far(ports[3]))?;
    let second = proxy(&net.client, 1, &far(ports[2]))?;
    let first = proxy(&net.client, 0, &near(ports[1]))?;
    let collector = Collector::start()?;
    let agent = |context: &Context, pids: [u32; 2]| {
        Setup::grpc(&collector)
            .arg("--inject")
            .arg("--fault")
            .arg("no-handover")
            .arg("--pid")
            .arg(format!("{},{}", pids[0], pids[1]))
            .start(context)
    };
    let left = agent(context, [first.pid(), second.pid()])?;
    let right = agent(&mut other, [third.pid(), last.pid()])?;
    let injects = injects(&left)?;
    network::inside(&net.client, || {
        let address = format!("10.77.1.2:{}", ports[0]).parse()?;
        let mut connection = Connection::open_to(address)?;
        for id in 1..=5 {
            assert_eq!(connection.get(&format!("/b/{id}"))?.status, 200);
        }
        Ok(())
    })?;
    collector.wait_for_spans(5 * 7, PATIENCE)?;
    let statistics = [left.stop()?, right.stop()?];
    let spans = collector.spans();
    if !injects {
        joined_by_nothing(&spans)?;
        none_enrolled(&statistics[0])?;
        return refused(&statistics[1]);
    }
    let expected: String = (1..=5)
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
        .collect();
    assert_text("the traces", &spans.render(), &expected);
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

/// Without headers each side of a connection begins a trace, except where nginx hands the whole request on inside one process.
fn joined_by_nothing(spans: &Spans) -> Result<()> {
    let mut traces: BTreeMap<String, usize> = BTreeMap::new();
    for span in &spans.0 {
        *traces.entry(span.trace_id()).or_default() += 1;
    }
    ensure!(traces.len() == 5 * 4, "{}", spans.render());
    Ok(())
}
