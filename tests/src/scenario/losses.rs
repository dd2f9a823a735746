//! Losses that need no more than a workload, or a network that loses something: what they are counted as, and that the rest is right.

use std::{io::Write as _, net::Shutdown, net::SocketAddr, thread};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::Connection,
    load,
    network::{self, Loss, Routed},
    scripted::Scripted,
    service,
    trace::Spans,
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("accounting_requests_abandoned", requests_abandoned),
    Scenario::full("accounting_requests_contended", requests_contended),
    Scenario::full("accounting_retransmissions_empty", retransmissions_empty),
    Scenario::full("accounting_kernel_read_failed", kernel_read_failed),
];

/// Clients go away before they are answered; a response that only the close ends is not among those.
fn requests_abandoned(context: &mut Context) -> Result<()> {
    const UNANSWERED: usize = 3;
    let port = context.port();
    let _python = service::python(context, "threads.py", port, &[])?;
    let until_close = Scripted::start(context, |stream, _| {
        stream.write_all(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end")?;
        stream.shutdown(Shutdown::Both)
    })?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .port(until_close.port())
        .start(context)?;
    for n in 0..UNANSWERED {
        let mut connection = Connection::open(port)?;
        assert_eq!(connection.get(&format!("/before/{n}"))?.status, 200);
        connection.send(format!("GET /hang/{n} HTTP/1.1\r\nHost: shop.test\r\n\r\n").as_bytes())?;
        connection.wait_until_read(port)?;
    }
    let mut old = Connection::open(until_close.port())?;
    old.send(b"GET /old HTTP/1.0\r\nHost: shop.test\r\n\r\n")?;
    assert_eq!(old.response("GET")?.text(), "until the end");
    drop(old);
    let count = || agent.report().ok()?.get("requests_abandoned").copied();
    wait_for(
        || format!("{UNANSWERED} requests abandoned; {:?}", count()),
        PATIENCE,
        || (count() == Some(UNANSWERED as u64)).then_some(()),
    )?;
    collector.wait_for_spans(4 * UNANSWERED + 2, PATIENCE)?;
    let statistics = agent.stop()?;
    assert_eq!(
        statistics.get("requests_abandoned"),
        UNANSWERED as u64,
        "{statistics}"
    );
    let spans = collector.spans();
    assert_eq!(spans.len(), 4 * UNANSWERED + 2, "{}", spans.render());
    for span in &spans.0 {
        let unanswered = span.path().starts_with("/hang");
        assert_eq!(span.is_error(), unanswered, "{}", span.line());
    }
    Ok(())
}

/// Two come to close a request at one time, and each leaves it to the other: it stays open until the connection's next one. No call gets a wrong parent by
/// that; those of a connection's first requests have the right one, those that come behind a request that stayed open have none.
fn requests_contended(context: &mut Context) -> Result<()> {
    const FRESH: u32 = 4;
    const KEPT: u32 = 3;
    let (front, back) = (context.port(), context.port());
    let _back = service::python(context, "threads.py", back, &[])?;
    let backend = format!("127.0.0.1:{back}");
    let _front = service::python(context, "threads.py", front, &["--backend", &backend])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(front)
        .port(back)
        .arg("--fault")
        .arg("close-contended")
        .start(context)?;
    let ask = |connection: &mut Connection, id: u32| -> Result<()> {
        let text = connection.get(&format!("/f/{id}"))?.text();
        assert_eq!(text, format!("id={id};\n"));
        Ok(())
    };
    for id in 1..=FRESH {
        ask(&mut Connection::open(front)?, id)?;
    }
    let mut kept = Connection::open(front)?;
    for id in FRESH + 1..=FRESH + KEPT {
        ask(&mut kept, id)?;
    }
    let requests = FRESH + KEPT;
    collector.wait_for_spans(4 * requests as usize, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 4 * requests as usize, "{}", spans.render());
    assert!(spans.0.iter().all(|span| !span.is_error()));
    // Each server request once, at the end of its answer: those of the front and those of the back.
    assert_eq!(
        statistics.get("requests_contended"),
        u64::from(2 * requests),
        "{statistics}"
    );
    let calls = spans
        .clients()
        .filter(|span| span.path().starts_with("/b/"));
    let expected = load::Links {
        right: requests as usize,
        wrong: 0,
        missing: 0,
    };
    let links = load::judge(&spans, &calls, "threads");
    assert_eq!(links, expected, "{}", spans.render());
    Ok(())
}

/// A routed server that is traced, and where it is.
const SERVER: [u8; 4] = [10, 77, 2, 2];

/// Segments that TCP sent again in both namespaces, which nobody else uses.
fn sent_again(net: &Routed) -> Result<u64> {
    Ok(network::retransmitted(&net.client)? + network::retransmitted(&net.server)?)
}

/// Both spans of each of these requests, and not a word of retransmissions.
fn assert_plain(spans: &Spans, paths: &[&str]) {
    let expected: String = paths
        .iter()
        .map(|path| format!("CLIENT scenarios GET {path} 200\n  SERVER threads GET {path} 200\n"))
        .collect();
    assert_text("the traces", &spans.render(), &expected);
    for span in &spans.0 {
        let mut events = span.otlp.events.iter();
        assert!(
            events.all(|event| !event.name.ends_with(".retransmission")),
            "{}: {:?}",
            span.line(),
            span.otlp.events
        );
    }
}

/// A handshake and a close are lost: what is sent again for them has no bytes of a message, and is no event of a span.
fn retransmissions_empty(context: &mut Context) -> Result<()> {
    let net = Routed::new()?;
    let port = context.port();
    let server = SocketAddr::from((SERVER, port));
    let _server = service::routed_threads(context, &net, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let (handshake, close) = network::inside(&net.client, || {
        let before = network::retransmitted(&net.client)?;
        let loss = Loss::to_server(&net)?;
        let mut connection = thread::scope(|scope| {
            let connecting = scope.spawn(|| Connection::open_to(server));
            let lost = network::wait_for_retransmission(&net.client);
            drop(loss);
            lost.and(connecting.join().expect("connecting does not panic"))
        })?;
        let handshake = network::retransmitted(&net.client)? - before;
        assert_eq!(connection.get("/between")?.status, 200);

        let before = network::retransmitted(&net.client)?;
        let loss = Loss::to_server(&net)?;
        drop(connection);
        network::wait_for_retransmission(&net.client)?;
        drop(loss);
        Ok((handshake, network::retransmitted(&net.client)? - before))
    })?;
    collector.wait_for_spans(2, PATIENCE)?;
    let least = sent_again(&net)?;
    let statistics = agent.stop()?;
    let most = sent_again(&net)?;
    assert_plain(&collector.spans(), &["/between"]);
    let [empty, seen] =
        ["retransmissions_empty", "retransmissions_seen"].map(|name| statistics.get(name));
    assert!(
        handshake > 0 && close > 0 && empty >= handshake + close,
        "{handshake} of the handshake, {close} of the close\n{statistics}"
    );
    // What TCP sent again without need, on a slow machine, has bytes.
    assert!(
        (least..=most).contains(&(empty + seen)),
        "{least} to {most} sent again\n{statistics}"
    );
    Ok(())
}

/// The kernel's types do not tell what is sent again: each is counted as not read, and messages are followed as ever.
fn kernel_read_failed(context: &mut Context) -> Result<()> {
    let net = Routed::new()?;
    let port = context.port();
    let _server = service::routed_threads(context, &net, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .arg("--fault")
        .arg("packets-opaque")
        .start(context)?;
    network::inside(&net.client, || {
        let mut connection = Connection::open_to(SocketAddr::from((SERVER, port)))?;
        assert_eq!(connection.get("/before")?.status, 200);
        let loss = Loss::to_server(&net)?;
        connection.send(b"GET /lost HTTP/1.1\r\nHost: shop.test\r\n\r\n")?;
        network::wait_for_retransmission(&net.client)?;
        drop(loss);
        assert_eq!(connection.response("GET")?.status, 200);
        assert_eq!(connection.get("/next")?.status, 200);
        Ok(())
    })?;
    collector.wait_for_spans(6, PATIENCE)?;
    let least = sent_again(&net)?;
    let statistics = agent.stop()?;
    let most = sent_again(&net)?;
    assert_plain(&collector.spans(), &["/before", "/lost", "/next"]);
    let failed = statistics.get("kernel_read_failed");
    assert!(
        failed > 0 && (least..=most).contains(&failed),
        "{least} to {most} sent again\n{statistics}"
    );
    assert_eq!(statistics.get("retransmissions_seen"), 0, "{statistics}");
    Ok(())
}
