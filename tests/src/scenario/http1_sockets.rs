//! The socket below HTTP: families, protocols, calls with several buffers, with MSG_PEEK and MSG_TRUNC.

use std::{
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;

use super::{Scenario, http1::pair};
use crate::harness::{
    Context, PATIENCE, Skip, agent::Setup, assert_text, collector::Collector, http::Connection,
    scripted::Scripted, service, trace::RESPONSE_BODY,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("http1_ipv6_and_mapped", ipv6_and_mapped),
    Scenario::full("http1_unix_socket", unix_socket),
    Scenario::core("http1_unix_sendfile", unix_sendfile),
    Scenario::full("http1_several_buffers", several_buffers),
    Scenario::full("http1_peek_and_discard", peek_and_discard),
    Scenario::full("http1_mptcp_listener", mptcp_listener),
    Scenario::full("http1_connect_failed", connect_failed),
];

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// An IPv6 listener that also takes IPv4: the same connection is IPv4 at the client and IPv6 at the server.
fn ipv6_and_mapped(context: &mut Context) -> Result<()> {
    let (port, both) = (context.port(), context.port());
    let listen = format!("listen [::]:{both} ipv6only=off;");
    let _nginx = service::nginx(
        context,
        "static.conf",
        port,
        &[("LISTEN", &listen), ("SENDFILE", "on")],
    )?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(both).start(context)?;
    let mut six = Connection::open_to(SocketAddr::from((Ipv6Addr::LOCALHOST, both)))?;
    let mut four = Connection::open_to(SocketAddr::from((Ipv4Addr::LOCALHOST, both)))?;
    for n in 1..=3 {
        assert_eq!(six.get(&format!("/six/{n}"))?.text(), "hello\n");
        assert_eq!(four.get(&format!("/four/{n}"))?.text(), "hello\n");
    }
    collector.wait_for_spans(12, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    let expected: String = ["four", "six"]
        .iter()
        .flat_map(|family| {
            (1..=3).map(move |n| pair("scenarios", "nginx", &format!("/{family}/{n}")))
        })
        .collect();
    assert_text("the traces", &spans.render(), &expected);
    for span in &spans.0 {
        // A mapped address is said as the IPv4 address that it is.
        let address = if span.path().starts_with("/six") {
            "::1"
        } else {
            "127.0.0.1"
        };
        assert_eq!(span.get("network.peer.address"), address, "{}", span.line());
    }
    Ok(())
}

fn unix_socket(context: &mut Context) -> Result<()> {
    let port = context.port();
    let path = context.folder().join("shop.sock");
    let listen = format!("listen unix:{};", path.display());
    let _nginx = service::nginx(
        context,
        "static.conf",
        port,
        &[("LISTEN", &listen), ("SENDFILE", "on")],
    )?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .arg("--exe")
        .arg("scenarios")
        .start(context)?;
    let mut connection = Connection::open_unix(&path)?;
    for n in 1..=3 {
        assert_eq!(connection.get(&format!("/u/{n}"))?.text(), "hello\n");
    }
    collector.wait_for_spans(6, PATIENCE)?;
    agent.stop()?;
    let expected: String = (1..=3)
        .map(|n| pair("scenarios", "nginx", &format!("/u/{n}")))
        .collect();
    let spans = collector.spans();
    assert_text("the traces", &spans.render(), &expected);
    assert!(
        spans
            .0
            .iter()
            .all(|span| span.get("network.transport") == "unix" && span.get(RESPONSE_BODY) == "6")
    );
    Ok(())
}

/// Files that go into a unix socket by sendfile, which before Linux 6.5 is a function of its own, and plain answers between them. A file is larger than what
/// the socket takes at once: so its span lasts until the client has read.
fn unix_sendfile(context: &mut Context) -> Result<()> {
    const LARGE: usize = 2_000_003;
    let path = context.folder().join("files.sock");
    let own = path.to_string_lossy();
    let _python = service::python(context, "threads.py", context.port(), &["--unix", &own])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("python3*")
        .arg("--exe")
        .arg("scenarios")
        .start(context)?;
    let mut connection = Connection::open_unix(&path)?;
    let mut other = Connection::open_unix(&path)?;
    let mut sizes = Vec::new();
    for size in [1, 4_095, 4_097, 65_536, 1_000_003] {
        for path in [format!("/file/{size}"), format!("/size/{size}/after")] {
            assert_eq!(connection.get(&path)?.body.len(), size, "{path}");
            sizes.push((path, size));
        }
    }
    let large = format!("/file/{LARGE}");
    connection.send(format!("GET {large} HTTP/1.1\r\nHost: shop.test\r\n\r\n").as_bytes())?;
    assert_eq!(other.get("/size/7/meanwhile")?.body.len(), 7);
    assert_eq!(connection.response("GET")?.body.len(), LARGE);
    sizes.extend([("/size/7/meanwhile".to_owned(), 7), (large.clone(), LARGE)]);
    // The last one is over although nothing follows it on its connection.
    collector.wait_for_spans(2 * sizes.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let mut expected: Vec<_> = sizes
        .iter()
        .map(|(path, _)| pair("scenarios", "threads", path))
        .collect();
    expected.sort();
    assert_text("the traces", &spans.render(), &expected.concat());
    for (path, size) in &sizes {
        for span in &spans.filter(|span| span.path() == path).0 {
            assert_eq!(span.get(RESPONSE_BODY), size.to_string(), "{}", span.line());
        }
    }
    let server = |path: &str| spans.servers().filter(|span| span.path() == path);
    let (large, meanwhile) = (server(&large), server("/size/7/meanwhile"));
    let (large, meanwhile) = (&large.only().otlp, &meanwhile.only().otlp);
    assert!(
        large.end_time_unix_nano > meanwhile.end_time_unix_nano,
        "it ended before it was read: {large:?}, {meanwhile:?}"
    );
    assert_eq!(statistics.get("connections"), 4, "{statistics}");
    assert_eq!(statistics.get("kernel.heads_unseen"), 0, "{statistics}");
    Ok(())
}

/// Heads and answers spread over many buffers of one call, at both ends, and read into tiny ones.
fn several_buffers(context: &mut Context) -> Result<()> {
    let server = Scripted::start_scattered(context, ANSWER)?;
    let port = server.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    for pieces in [1, 2, 3, 8, 16] {
        let head = format!(
            "GET /buffers/{pieces} HTTP/1.1\r\nHost: shop.test\r\nX-Filler: {}\r\n\r\n",
            "f".repeat(40)
        );
        connection.send_scattered(head.as_bytes(), pieces)?;
        assert_eq!(connection.response("GET")?.text(), "hello\n");
    }
    collector.wait_for_spans(10, PATIENCE)?;
    agent.stop()?;
    let mut expected: Vec<_> = [1, 2, 3, 8, 16]
        .iter()
        .map(|n| pair("scenarios", "scenarios", &format!("/buffers/{n}")))
        .collect();
    expected.sort();
    let spans = collector.spans();
    assert_text("the traces", &spans.render(), &expected.concat());
    assert!(spans.0.iter().all(|span| span.get(RESPONSE_BODY) == "6"));
    Ok(())
}

/// The server looks at every request with MSG_PEEK before it reads it; the client throws every body away with MSG_TRUNC.
fn peek_and_discard(context: &mut Context) -> Result<()> {
    const BODY: usize = 5_000;
    let server = Scripted::start_peeking(context, |stream, _| {
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").as_bytes())?;
        stream.write_all(&[b'b'; BODY])
    })?;
    let port = server.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    for n in 1..=4 {
        connection.send(format!("GET /peek/{n} HTTP/1.1\r\nHost: shop.test\r\n\r\n").as_bytes())?;
        assert_eq!(connection.response("HEAD")?.status, 200);
        connection.discard(BODY)?;
    }
    collector.wait_for_spans(8, PATIENCE)?;
    agent.stop()?;
    let expected: String = (1..=4)
        .map(|n| pair("scenarios", "scenarios", &format!("/peek/{n}")))
        .collect();
    let spans = collector.spans();
    assert_text("the traces", &spans.render(), &expected);
    assert!(
        spans
            .0
            .iter()
            .all(|span| span.get(RESPONSE_BODY) == BODY.to_string())
    );
    Ok(())
}

/// A server that listens with Multipath TCP, reached by a plain and by a multipath client.
fn mptcp_listener(context: &mut Context) -> Result<()> {
    let server = Scripted::start_mptcp(context, |stream, _| stream.write_all(ANSWER))?;
    let port = server.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut plain = Connection::open(port)?;
    let mut multipath = Connection::open_mptcp(port)?;
    for n in 1..=5 {
        assert_eq!(plain.get(&format!("/plain/{n}"))?.text(), "hello\n");
        assert_eq!(multipath.get(&format!("/multipath/{n}"))?.text(), "hello\n");
    }
    collector.wait_for_spans(20, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    for (side, name) in [(spans.servers(), "servers"), (spans.clients(), "clients")] {
        let paths: Vec<_> = side
            .by_start()
            .iter()
            .map(|span| span.path().to_owned())
            .collect();
        let wanted: Vec<_> = (1..=5)
            .flat_map(|n| [format!("/plain/{n}"), format!("/multipath/{n}")])
            .collect();
        assert_eq!(paths, wanted, "{name}");
        assert!(
            side.0.iter().all(|span| span.get(RESPONSE_BODY) == "6"),
            "{name}"
        );
    }
    Ok(())
}

/// Nobody listens: no span is invented, nothing is left open, and the next request is exact.
fn connect_failed(context: &mut Context) -> Result<()> {
    let (closed, port) = (context.port(), context.port());
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(closed)
        .port(port)
        .start(context)?;
    for _ in 0..5 {
        if Connection::open(closed).is_ok() {
            return Err(Skip(format!("somebody listens on port {closed}")).into());
        }
    }
    assert_eq!(Connection::open(port)?.get("/open")?.status, 200);
    collector.wait_for_spans(2, PATIENCE)?;
    let statistics = agent.stop()?;
    assert_text(
        "the traces",
        &collector.spans().render(),
        "CLIENT scenarios GET /open 200\n  SERVER nginx GET /open 200\n",
    );
    // Five failed and one good at the client, one at the server.
    assert_eq!(statistics.get("connections"), 7, "{statistics}");
    assert_eq!(statistics.get("connects_failed"), 5, "{statistics}");
    Ok(())
}
