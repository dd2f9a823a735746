//! HTTP/1 byte by byte: heads cut anywhere, large heads, odd targets, upgrades, garbage. The server is often a scripted one.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::{Connection, head_of},
    scripted::Scripted,
    service,
    trace::{REQUEST_BODY, RESPONSE_BODY},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("http1_head_split_at_every_byte", head_split_at_every_byte),
    Scenario::full("http1_large_head_16k", large_head_16k),
    Scenario::full("http1_methods_and_targets", methods_and_targets),
    Scenario::full("http1_upgrade_leaves_http", upgrade_leaves_http),
    Scenario::full("http1_garbage_stops_nothing", garbage_stops_nothing),
    Scenario::full(
        "http1_interim_and_early_responses",
        interim_and_early_responses,
    ),
];

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// The head arrives in two pieces, cut before every byte; each request carries a trace context of its own, which must be found wherever
/// the cut is.
fn head_split_at_every_byte(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    let head = |n: usize| {
        let context = format!("00-{:032x}-{:016x}-01", n + 1, n + 1);
        format!("GET /cut/{n:03} HTTP/1.1\r\nHost: shop.test\r\ntraceparent: {context}\r\n\r\n")
    };
    let length = head(0).len();
    let mut connection = Connection::open(port)?;
    for cut in 1..length {
        let bytes = head(cut);
        connection.send(&bytes.as_bytes()[..cut])?;
        connection.wait_until_read(port)?;
        connection.send(&bytes.as_bytes()[cut..])?;
        assert_eq!(
            connection.response("GET")?.text(),
            "hello\n",
            "cut before byte {cut}"
        );
    }
    collector.wait_for_spans(length - 1, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), length - 1, "{}", spans.render());
    for cut in 1..length {
        let of_cut = spans.filter(|span| span.path() == format!("/cut/{cut:03}"));
        let span = of_cut.only();
        let expected = (format!("{:032x}", cut + 1), format!("{:016x}", cut + 1));
        assert_eq!(
            (span.trace_id(), span.parent_id()),
            expected,
            "cut before byte {cut}"
        );
        assert_eq!(span.get(RESPONSE_BODY), "6", "cut before byte {cut}");
    }
    Ok(())
}

/// Heads up to 16 KiB in one write and in pieces, with the trace context as the first or as the last line.
fn large_head_16k(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    let mut wanted = BTreeSet::new();
    for (n, bytes) in [600, 1_100, 4_096, 4_200, 8_192, 12_000, 16_384]
        .into_iter()
        .enumerate()
    {
        for (place, at_end) in [("first", false), ("last", true)] {
            for pieces in [1, 3] {
                let trace = format!("{:032x}", 1 + n * 100 + usize::from(at_end) * 10 + pieces);
                let path = format!("/head/{bytes}/{place}/{pieces}");
                let line = format!("traceparent: 00-{trace}-00000000000000aa-01\r\n");
                let head = if at_end {
                    head_of(bytes, &path, "", &line)
                } else {
                    head_of(bytes, &path, &line, "")
                };
                let mut connection = Connection::open(port)?;
                for piece in head.as_bytes().chunks(bytes.div_ceil(pieces)) {
                    connection.send(piece)?;
                    connection.wait_until_read(port)?;
                }
                assert_eq!(connection.response("GET")?.status, 200, "{path}");
                wanted.insert(format!("{path} {trace} 00000000000000aa"));
            }
        }
    }
    collector.wait_for_spans(wanted.len(), PATIENCE)?;
    agent.stop()?;
    let got: Vec<_> = collector
        .spans()
        .0
        .iter()
        .map(|span| format!("{} {} {}", span.path(), span.trace_id(), span.parent_id()))
        .collect();
    assert_eq!(got.len(), wanted.len(), "one span each");
    let got: BTreeSet<_> = got.into_iter().collect();
    let text = |set: &BTreeSet<String>| {
        set.iter()
            .fold(String::new(), |text, line| text + line + "\n")
    };
    assert_text("the contexts", &text(&got), &text(&wanted));
    Ok(())
}

/// Every form of request target, methods known and unknown, HTTP/1.0; answered by a scripted server.
fn methods_and_targets(context: &mut Context) -> Result<()> {
    let server = Scripted::start(context, |stream, _| stream.write_all(ANSWER))?;
    let port = server.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    // What is sent; then method, path, version and original method of both spans.
    let cases = [
        ("GET /a?secret=1 HTTP/1.1", ["GET", "/a", "1.1", ""]),
        ("OPTIONS * HTTP/1.1", ["OPTIONS", "*", "1.1", ""]),
        (
            "GET http://other.test/abs HTTP/1.1",
            ["GET", "/abs", "1.1", ""],
        ),
        ("PATCH /patch HTTP/1.1", ["PATCH", "/patch", "1.1", ""]),
        (
            "PURGE /purge HTTP/1.1",
            ["_OTHER", "/purge", "1.1", "PURGE"],
        ),
        ("TRACE /trace HTTP/1.1", ["TRACE", "/trace", "1.1", ""]),
        ("GET /old HTTP/1.0", ["GET", "/old", "1.0", ""]),
    ];
    for (line, _) in &cases {
        connection.send(
            format!(
                "{line}\r\nHost: shop.test\r\nUser-Agent: probe/1\r\nConnection: keep-alive\r\n\r\n"
            )
            .as_bytes(),
        )?;
        assert_eq!(connection.response("GET")?.text(), "hello\n", "{line}");
    }
    collector.wait_for_spans(2 * cases.len(), PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    for side in [spans.servers(), spans.clients()] {
        let got: Vec<[&str; 4]> = side
            .by_start()
            .into_iter()
            .map(|span| {
                let names = [
                    "http.request.method",
                    "network.protocol.version",
                    "http.request.method_original",
                ]
                .map(|n| span.get(n));
                [names[0], span.path(), names[1], names[2]]
            })
            .collect();
        let mut wanted = cases.map(|(_, facts)| facts).to_vec();
        // An asterisk is no path; the conventions leave open whether it stands for one.
        wanted[1][1] = got.get(1).map_or("", |facts| facts[1]);
        assert!(matches!(wanted[1][1], "" | "*"), "{wanted:?}");
        assert_eq!(got, wanted);
        for span in &side.0 {
            assert!(
                span.attributes
                    .values()
                    .all(|value| !value.contains("secret=1")),
                "a query literal left the agent: {:?}",
                span.attributes
            );
            assert_eq!(
                span.get("user_agent.original"),
                "probe/1",
                "{}",
                span.line()
            );
        }
    }
    Ok(())
}

/// After CONNECT or Upgrade the bytes are nobody's HTTP, even if they look like it.
fn upgrade_leaves_http(context: &mut Context) -> Result<()> {
    let server = Scripted::start(context, |stream, head| {
        if head.starts_with("CONNECT") {
            stream.write_all(
                b"HTTP/1.1 200 Connected\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            )
        } else if head.to_ascii_lowercase().contains("upgrade:") {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nbinary")
        } else {
            stream.write_all(b"binary")
        }
    })?;
    let port = server.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let starts = [
        "CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n",
        "GET /socket HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
    ];
    for start in starts {
        let mut connection = Connection::open(port)?;
        connection.send(start.as_bytes())?;
        connection.swallow(4_096)?;
        for _ in 0..3 {
            connection.send(b"GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n")?;
            connection.wait_until_read(port)?;
        }
    }
    collector.wait_for_spans(4, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    assert_eq!(
        (spans.clients().len(), spans.servers().len()),
        (2, 2),
        "{}",
        spans.render()
    );
    assert!(
        spans.0.iter().all(|span| !span.path().contains("inside")),
        "{}",
        spans.render()
    );
    let upgraded = spans.servers().filter(|span| span.path() == "/socket");
    assert_eq!(upgraded.only().get("http.response.status_code"), "101");
    Ok(())
}

/// Bytes that are no HTTP on a traced port: no span, no crash, no memory, and requests beside and after them are exact.
fn garbage_stops_nothing(context: &mut Context) -> Result<()> {
    const ROUNDS: usize = 40;
    const REQUEST_LINE: &[u8] = b"GET / HTTP/1.1\r\n";
    /// Most that the agent may grow by, KiB.
    const GROWTH: u64 = 4_096;
    let server = Scripted::start_raw(context)?;
    let port = server.port();
    let nginx_port = context.port();
    let _nginx = service::static_nginx(context, nginx_port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .port(nginx_port)
        .start(context)?;
    // Whoever accepts has been waiting for longer than the agent runs, and so the first connection is not seen from its start.
    drop(Connection::open(port)?);
    assert_eq!(Connection::open(nginx_port)?.get("/fine")?.status, 200);
    collector.wait_for_spans(2, PATIENCE)?;
    let before = agent.resident_kib()?;
    let mut endless = 0;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..ROUNDS {
        let mut bytes = Vec::new();
        // Half of them begin like HTTP.
        if round % 2 == 0 {
            bytes.extend_from_slice(
                [
                    &b"GET "[..],
                    b"HTTP/1.1 ",
                    REQUEST_LINE,
                    b"PRI * HTTP/2.0\r\n",
                    b"\r\n\r\n",
                ][round / 2 % 5],
            );
        }
        for _ in 0..200 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend_from_slice(&seed.to_le_bytes());
        }
        endless += u64::from(bytes.starts_with(REQUEST_LINE));
        let mut connection = Connection::open(port)?;
        connection.send(&bytes)?;
        // The server sends what it got back.
        let mut back = 0;
        while back < bytes.len() {
            back += connection.swallow(4_096)?;
        }
        assert_eq!(Connection::open(nginx_port)?.get("/fine")?.status, 200);
    }
    collector.wait_for_spans(2 * (ROUNDS + 1), PATIENCE)?;
    let after = agent.resident_kib()?;
    assert!(
        after < before + GROWTH,
        "memory grew from {before} to {after} KiB"
    );
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let expected = super::http1::pair("scenarios", "nginx", "/fine").repeat(ROUNDS + 1);
    assert_text("the traces", &spans.render(), &expected);
    // At both ends. What begins with a whole request line is a head that never ends, at least as far as anybody can tell.
    let refused = 2 * (ROUNDS as u64 - endless);
    assert_eq!(
        statistics.get("connections_not_recognised"),
        refused,
        "{statistics}"
    );
    Ok(())
}

/// An interim response before the final one, and a final one that begins before the request's body has been sent.
fn interim_and_early_responses(context: &mut Context) -> Result<()> {
    let server = Scripted::start(context, |stream, head| {
        if head.contains("100-continue") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            stream.read_exact(&mut [0; 5])?;
            stream.write_all(ANSWER)
        } else if head.starts_with("PUT") {
            stream.write_all(ANSWER)?;
            stream.read_exact(&mut [0; 1000])
        } else {
            stream.write_all(ANSWER)
        }
    })?;
    let port = server.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    connection.send(b"POST /interim HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")?;
    assert_eq!(connection.response("POST")?.status, 100);
    connection.send(b"hello")?;
    assert_eq!(connection.response("POST")?.text(), "hello\n");
    connection.send(b"PUT /early HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000\r\n\r\n")?;
    assert_eq!(connection.response("PUT")?.text(), "hello\n");
    connection.send(&[b'u'; 1000])?;
    assert_eq!(connection.get("/after")?.status, 200);
    collector.wait_for_spans(6, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    let expected = "CLIENT scenarios GET /after 200\n  SERVER scenarios GET /after 200\n\
                    CLIENT scenarios POST /interim 200\n  SERVER scenarios POST /interim 200\n\
                    CLIENT scenarios PUT /early 200\n  SERVER scenarios PUT /early 200\n";
    assert_text("the traces", &spans.render(), expected);
    for span in &spans.0 {
        let request = match span.path() {
            "/interim" => "5",
            "/early" => "1000",
            _ => continue,
        };
        assert_eq!(
            (span.get(REQUEST_BODY), span.get(RESPONSE_BODY)),
            (request, "6"),
            "{}",
            span.line()
        );
    }
    Ok(())
}
