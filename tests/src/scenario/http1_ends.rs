//! When a message ends: on a connection that stays open and says nothing more, and where only the close tells.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::Connection,
    network::LongFinWait,
    scripted::Scripted,
    service,
    trace::{RESPONSE_BODY, Span},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full(
        "http1_complete_while_the_connection_idles",
        complete_while_idle,
    ),
    Scenario::full("http1_body_until_close", body_until_close),
    Scenario::full(
        "http1_given_up_while_the_server_holds",
        given_up_while_the_server_holds,
    ),
];

/// One request on each connection, with every framing: the spans of both ends arrive, with their sizes, although nothing more happens on the
/// connections, which are open until the end.
fn complete_while_idle(context: &mut Context) -> Result<()> {
    const FILE: u64 = 2_000_003;
    let (nginx, python) = (context.port(), context.port());
    let _nginx = service::static_nginx(context, nginx)?;
    File::create(service::nginx_files(context, nginx).join("big"))?.set_len(FILE)?;
    let _python = service::python(context, "threads.py", python, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(nginx)
        .port(python)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start(context)?;
    // The response's body as it is counted, without framing.
    let cases = [
        (nginx, "/small", 6),
        (nginx, "/files/big", FILE),
        (python, "/size/1500001", 1_500_001),
        (python, "/chunked/7", 35),
        (python, "/status/204", 0),
    ];
    let mut idle = Vec::new();
    for (port, path, bytes) in cases {
        let mut connection = Connection::open(port)?;
        assert_eq!(connection.get(path)?.body.len() as u64, bytes, "{path}");
        let before = idle.len();
        idle.push(connection);
        // One by one, so that no other connection's records are what ends this one's message.
        collector.wait_for_spans(2 * (before + 1), PATIENCE)?;
        let spans = collector.spans();
        let of_path = spans.filter(|span| span.path() == path);
        assert_eq!(
            (of_path.len(), spans.len()),
            (2, 2 * (before + 1)),
            "{}",
            spans.render()
        );
        for span in &of_path.0 {
            let told = span.get(RESPONSE_BODY);
            assert!(
                told == bytes.to_string() || (bytes == 0 && told.is_empty()),
                "{}: {told}",
                span.line()
            );
            assert!(!span.is_error(), "{}", span.line());
        }
    }
    let statistics = agent.stop()?;
    drop(idle);
    assert_eq!(statistics.get("exchanges"), 2 * 5, "{statistics}");
    Ok(())
}

/// HTTP/1.0 without a length: the body is what came until the close, at both ends.
fn body_until_close(context: &mut Context) -> Result<()> {
    const PIECE: usize = 7_001;
    const PIECES: usize = 13;
    let server = Scripted::start(context, |stream, head| {
        stream.write_all(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\n")?;
        if head.starts_with("GET /empty") {
            return stream.shutdown(Shutdown::Write);
        }
        for _ in 0..PIECES {
            stream.write_all(&[b'p'; PIECE])?;
        }
        stream.shutdown(Shutdown::Write)
    })?;
    let port = server.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let paths = ["/empty", "/old/1", "/old/2"];
    for path in paths {
        let mut connection = Connection::open(port)?;
        connection.send(format!("GET {path} HTTP/1.0\r\nHost: shop.test\r\n\r\n").as_bytes())?;
        let body = connection.response("GET")?.body.len();
        let wanted = if path == "/empty" { 0 } else { PIECE * PIECES };
        assert_eq!(body, wanted, "{path}");
    }
    collector.wait_for_spans(2 * paths.len(), PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    let expected: String = paths
        .iter()
        .map(|path| super::http1::pair("scenarios", "scenarios", path))
        .collect();
    assert_text("the traces", &spans.render(), &expected);
    for span in &spans.0 {
        let told = span.get(RESPONSE_BODY);
        if span.path() == "/empty" {
            assert!(matches!(told, "" | "0"), "{}: {told}", span.line());
        } else {
            assert_eq!(told, (PIECE * PIECES).to_string(), "{}", span.line());
        }
        assert_eq!(span.get("network.protocol.version"), "1.0");
        assert!(!span.is_error(), "{}", span.line());
    }
    Ok(())
}

/// A client gives up a request that is never answered, in every way but a reset. Its span is there while the server still holds the connection, which
/// TCP therefore does not end.
fn given_up_while_the_server_holds(context: &mut Context) -> Result<()> {
    const UPLOAD: usize = 64 << 20;
    const CLOSED: &str = "connection_closed";
    let _wait = LongFinWait::start()?;
    let port = context.port();
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start(context)?;
    let cases = [
        ("GET", "/closed", CLOSED),
        ("GET", "/half_closed_before", CLOSED),
        ("GET", "/shut", CLOSED),
        // More than the kernel takes from one and keeps for the other: the FIN stays behind it.
        ("PUT", "/upload", "request_truncated"),
    ];
    let (mut held, mut clients) = (Vec::new(), Vec::new());
    for (method, path, error) in cases {
        let mut client = TcpStream::connect(("127.0.0.1", port))?;
        let (mut server, _) = listener.accept()?;
        let length = if method == "PUT" { UPLOAD } else { 0 };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n"
        );
        client.write_all(head.as_bytes())?;
        server.read_exact(&mut vec![0; head.len()])?;
        match path {
            "/half_closed_before" => {
                client.shutdown(Shutdown::Write)?;
                // The FIN has come, so that only the close is left.
                assert_eq!(server.read(&mut [0])?, 0);
            }
            "/upload" => {
                client.set_nonblocking(true)?;
                let piece = [b'u'; 64 << 10];
                while client.write(&piece).is_ok() {}
            }
            _ => {}
        }
        assert_eq!(collector.spans().len(), clients.len(), "{path}");
        held.push(server);
        if path == "/shut" {
            client.shutdown(Shutdown::Both)?;
            held.push(client);
        } else {
            drop(client);
        }
        clients.push((path, error));
        let spans = collector.wait_for_spans(clients.len(), PATIENCE)?;
        assert_eq!(spans.len(), spans.clients().len(), "{}", spans.render());
    }
    for (path, error) in &clients {
        let spans = collector.spans().filter(|span| span.path() == *path);
        assert_eq!(spans.only().get("error.type"), *error, "{path}");
    }
    drop(held);
    collector.wait_for_spans(2 * clients.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(
        (spans.clients().len(), spans.servers().len()),
        (clients.len(), clients.len()),
        "{}",
        spans.render()
    );
    assert!(spans.0.iter().all(Span::is_error));
    assert_eq!(statistics.get("requests_abandoned"), 4, "{statistics}");
    Ok(())
}
