//! Packets that are lost on the way.

use std::net::SocketAddr;

use anyhow::Result;
use opentelemetry_proto::tonic::{common::v1::any_value, trace::v1::span::Event};

use super::{Scenario, inject::injects};
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::Connection,
    network::{self, Loss, Routed},
    service,
    trace::{RESPONSE_BODY, Span},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("http1_retransmission_is_an_event", |context| {
        retransmission_is_an_event(context, false)
    }),
    Scenario::full("http1_retransmission_of_what_was_put_in", |context| {
        retransmission_is_an_event(context, true)
    }),
];

/// Bytes of a response that no send buffer takes.
const LARGE: usize = 8_000_000;

/// A request is lost, and then a part of a response: the span of the end that sent it tells, and no other one. What the kernel counts for all
/// sockets of a namespace is the truth. Where a header is put into requests, positions still are those of the process's own bytes.
fn retransmission_is_an_event(context: &mut Context, inject: bool) -> Result<()> {
    let net = Routed::new()?;
    let port = context.port();
    let _server = service::routed_threads(context, &net, port)?;
    let collector = Collector::start()?;
    let mut setup = Setup::grpc(&collector).port(port);
    if inject {
        setup = setup.arg("--inject");
    }
    let agent = setup.start(context)?;
    let inject = inject && injects(&agent)?;
    let large = format!("/size/{LARGE}");
    let (by_client, by_server) = network::inside(&net.client, || {
        let mut connection = Connection::open_to(SocketAddr::from(([10, 77, 2, 2], port)))?;
        assert_eq!(connection.get("/before")?.status, 200);

        // The handshake may have been repeated.
        let before = network::retransmitted(&net.client)?;
        let loss = Loss::to_server(&net)?;
        connection.send(&request("/lost"))?;
        network::wait_for_retransmission(&net.client)?;
        drop(loss);
        assert_eq!(connection.response("GET")?.status, 200);
        let by_client = network::retransmitted(&net.client)? - before;
        assert_eq!(connection.get("/between")?.status, 200);

        // The server waits for room in the client's receive buffer; what it sends when there is some is lost.
        let before = network::retransmitted(&net.server)?;
        connection.send(&request(&large))?;
        connection.wait_until_unread(32 << 10)?;
        let loss = Loss::to_client(&net)?;
        connection.take_unread()?;
        network::wait_for_retransmission(&net.server)?;
        drop(loss);
        let response = connection.response("GET")?;
        assert_eq!((response.status, response.body.len()), (200, LARGE));
        let by_server = network::retransmitted(&net.server)? - before;
        assert_eq!(connection.get("/after")?.status, 200);
        Ok((by_client, by_server))
    })?;
    collector.wait_for_spans(10, PATIENCE)?;
    let statistics = agent.stop()?;

    let requests = if inject { 5 } else { 0 };
    assert_eq!(statistics.get("inject_inserted"), requests, "{statistics}");
    let put_in = statistics.get("inject_bytes") / requests.max(1);
    assert_eq!(inject, put_in > 0, "{statistics}");
    let lost = (request("/lost").len() as u64 + put_in) as i64;

    let spans = collector.spans();
    let mut paths = ["/before", "/lost", "/between", &large, "/after"];
    paths.sort_unstable();
    let expected: String = paths
        .iter()
        .map(|path| format!("CLIENT scenarios GET {path} 200\n  SERVER threads GET {path} 200\n"))
        .collect();
    assert_text("the traces", &spans.render(), &expected);
    for span in &spans.0 {
        let told = retransmissions(span);
        let count = span.get("undertrace.retransmission.count");
        let what = format!("{}: {told:?}", span.line());
        if span.is_client() && span.path() == "/lost" {
            let times = usize::try_from(by_client)?.min(16);
            let each = ("undertrace.request.retransmission", lost);
            assert_eq!(told, vec![each; times], "{what}");
            assert_eq!(count, by_client.to_string(), "{what}");
        } else if span.is_server() && span.path() == large {
            assert!((1..=16).contains(&told.len()), "{what}");
            for (name, bytes) in &told {
                assert_eq!(*name, "undertrace.response.retransmission", "{what}");
                assert!((1..=i64::from(u16::MAX)).contains(bytes), "{what}");
            }
            // One segment of the kernel's may be several on the wire.
            let count: u64 = count.parse()?;
            assert!(
                count >= told.len() as u64 && count <= by_server,
                "{by_server}, {what}"
            );
            assert_eq!(span.get(RESPONSE_BODY), LARGE.to_string());
        } else {
            assert!(told.is_empty() && count.is_empty(), "{what}");
        }
    }
    let seen = statistics.get("retransmissions_seen");
    assert_eq!(statistics.get("retransmissions"), seen, "{statistics}");
    assert!(seen > by_client, "{by_client}\n{statistics}");
    Ok(())
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n").into_bytes()
}

/// Name and bytes of the events of a span that tell of a retransmission.
fn retransmissions(span: &Span) -> Vec<(&str, i64)> {
    let bytes = |event: &Event| {
        let mut attributes = event.attributes.iter();
        let found = attributes.find(|pair| pair.key == "undertrace.retransmission.bytes")?;
        match found.value.as_ref()?.value {
            Some(any_value::Value::IntValue(bytes)) => Some(bytes),
            _ => None,
        }
    };
    let events = span.otlp.events.iter();
    events
        .filter(|event| event.name.ends_with(".retransmission"))
        .map(|event| (event.name.as_str(), bytes(event).unwrap_or(-1)))
        .collect()
}
