//! Trace context across address translation: a router between two network namespaces, neither end of a connection sees the other's address.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
    sync::mpsc::channel,
};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::Connection,
    network::{self, Routed},
    scripted::Scripted,
    service,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("context_across_namespaces_dnat", across_namespaces_dnat),
    Scenario::full(
        "context_across_namespaces_masquerade",
        across_namespaces_masquerade,
    ),
];

/// A client in another network namespace, a router between, and an address that is translated on the way: neither end sees the other's
/// address, and yet it is one trace.
fn across_namespaces_dnat(context: &mut Context) -> Result<()> {
    let net = Routed::new()?;
    net.translate()?;
    let port = context.port();
    let _server = service::routed_threads(context, &net, port)?;
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

/// The router puts its own address in the place of the client's: the server never sees the client's, and yet it is one trace, on connections that are
/// kept and on new ones; what arrives at either end is what the other one sent, byte for byte.
fn across_namespaces_masquerade(context: &mut Context) -> Result<()> {
    let net = Routed::new()?;
    net.masquerade()?;
    let (port, recorded) = (context.port(), context.port());
    let address = |port: u16| SocketAddr::from(([10, 77, 2, 2], port));
    let _server = service::routed_threads(context, &net, port)?;
    let (sender, received) = channel();
    let listener = network::inside(&net.server, || Ok(TcpListener::bind(address(recorded))?))?;
    let _recorder = Scripted::start_at(listener, recorded, move |stream, head| {
        let _ = sender.send((stream.peer_addr(), head.to_owned()));
        stream.write_all(ANSWER.as_bytes())
    });
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .port(recorded)
        .start(context)?;
    network::inside(&net.client, move || {
        let mut kept = Connection::open_to(address(port))?;
        for id in 1..=3 {
            assert_eq!(kept.get(&format!("/b/{id}"))?.text(), format!("id={id};\n"));
        }
        for id in 4..=6 {
            let mut fresh = Connection::open_to(address(port))?;
            assert_eq!(
                fresh.get(&format!("/b/{id}"))?.text(),
                format!("id={id};\n")
            );
        }
        let mut connection = Connection::open_to(address(recorded))?;
        for n in 1..=3 {
            let head = format!("GET /wire/{n} HTTP/1.1\r\nHost: shop.test\r\nX: y\r\n\r\n");
            connection.send(head.as_bytes())?;
            let response = connection.response("GET")?;
            assert_eq!(
                (response.head_wire_bytes, response.text().as_str()),
                (ANSWER.len() - 2, "ok")
            );
            let (peer, arrived) = received.recv_timeout(PATIENCE)?;
            assert_text("the request", &arrived, &head);
            assert_eq!(
                peer?.ip().to_string(),
                "10.77.2.1",
                "the server saw the router's address"
            );
        }
        Ok(())
    })?;
    collector.wait_for_spans(18, PATIENCE)?;
    agent.stop()?;
    let calls = (1..=6)
        .map(|id| format!("CLIENT scenarios GET /b/{id} 200\n  SERVER threads GET /b/{id} 200\n"));
    let recorded = (1..=3).map(|n| {
        format!("CLIENT scenarios GET /wire/{n} 200\n  SERVER scenarios GET /wire/{n} 200\n")
    });
    let spans = collector.spans();
    assert_text(
        "the traces",
        &spans.render(),
        &calls.chain(recorded).collect::<String>(),
    );
    for span in &spans.0 {
        let peer = if span.is_client() {
            "10.77.2.2"
        } else {
            "10.77.2.1"
        };
        assert_eq!(span.get("network.peer.address"), peer, "{}", span.line());
    }
    Ok(())
}

/// What the recording server says, whose head has all bytes but the last two.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
