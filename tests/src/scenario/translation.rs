//! Trace context across address translation: a router between two network namespaces, neither end of a connection sees the other's address.

use std::net::SocketAddr;

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::Connection,
    network::{self, Routed},
    service,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::full(
    "context_across_namespaces_dnat",
    across_namespaces_dnat,
)];

/// A client in another network namespace, a router between, and an address that is translated on the way: neither end sees the other's
/// address, and yet it is one trace.
fn across_namespaces_dnat(context: &mut Context) -> Result<()> {
    let net = Routed::new()?;
    net.translate()?;
    let port = context.port();
    let _server = service::python_in(
        context,
        Some(&net.server),
        "threads.py",
        port,
        &["--host", "0.0.0.0"],
        &[],
    )?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    network::inside(&net.client, || {
        let mut connection = Connection::open_to(SocketAddr::from(([10, 77, 9, 9], port)))?;
        for id in 1..=3 {
            assert_eq!(connection.get(&format!("/b/{id}"))?.status, 200);
        }
        Ok(())
    })?;
    collector.wait_for_spans(6, PATIENCE)?;
    agent.stop()?;
    let expected: String = (1..=3)
        .map(|id| format!("CLIENT scenarios GET /b/{id} 200\n  SERVER threads GET /b/{id} 200\n"))
        .collect();
    let spans = collector.spans();
    assert_text("the traces", &spans.render(), &expected);
    assert!(
        spans
            .clients()
            .0
            .iter()
            .all(|span| span.get("network.peer.address") == "10.77.9.9"),
        "the client saw the translated address"
    );
    Ok(())
}
