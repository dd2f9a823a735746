//! Chunked bodies: their sizes without framing, and where they end, however they are sent.

use std::{
    io::{self, Write as _},
    net::{Shutdown, TcpStream},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use rustix::net::sockopt;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    collector::Collector,
    http::Connection,
    scripted::Scripted,
    service,
    trace::{REQUEST_BODY, RESPONSE_BODY},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("http1_chunked_sizes_exact", sizes_exact),
    Scenario::full("http1_chunked_partial_sends", partial_sends),
    Scenario::full("http1_chunked_cut_short", cut_short),
    Scenario::full("http1_chunked_of_real_servers", real_servers),
    Scenario::core("http1_chunked_pipelined_in_one_read", pipelined),
];

const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A chunk with its lines.
fn chunk(size: usize) -> String {
    // Data that looks like the end of a body.
    let data: String = "\r\n0\r\n\r\n5\r\n".chars().cycle().take(size).collect();
    format!("{size:x}\r\n{data}\r\n")
}

/// A body as the sends in which it leaves, and its size.
struct Case {
    path: &'static str,
    sends: Vec<String>,
    /// `None` where it is too finely framed to be followed.
    size: Option<usize>,
}

fn cases() -> Vec<Case> {
    let end = || "0\r\n\r\n".to_owned();
    let case = |path, sends: Vec<String>, size| Case { path, sends, size };
    let bytes = |text: String| -> Vec<String> { text.chars().map(String::from).collect() };
    vec![
        case(
            "/whole",
            vec![format!("{HEAD}{}{}", chunk(100), end())],
            Some(100),
        ),
        case(
            "/large",
            vec![format!("{HEAD}{}{}{}", chunk(70_000), chunk(9), end())],
            Some(70_009),
        ),
        case(
            "/apart",
            vec![HEAD.to_owned(), chunk(1), chunk(255), chunk(70_000), end()],
            Some(70_256),
        ),
        case(
            "/lines",
            vec![
                HEAD.to_owned(),
                "1F".to_owned(),
                "4;name=value\r".to_owned(),
                "\n".to_owned(),
                "x".repeat(500),
                "\r".to_owned(),
                "\n0".to_owned(),
                "00\r\nTrailer: 5\r".to_owned(),
                "\n\r\n".to_owned(),
            ],
            Some(500),
        ),
        case(
            "/bytes",
            bytes(format!("{HEAD}{}{}{}", chunk(20), chunk(3), end())),
            Some(23),
        ),
        case("/empty", vec![HEAD.to_owned(), end()], Some(0)),
        case(
            "/fine",
            vec![
                HEAD.to_owned(),
                format!("{}{}", chunk(9).repeat(500), end()),
            ],
            None,
        ),
        case("/after", vec![HEAD.to_owned(), chunk(7), end()], Some(7)),
    ]
}

/// All on one connection: a wrong end of one would break the next.
fn sizes_exact(context: &mut Context) -> Result<()> {
    let server = Scripted::start(context, |stream, head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        for case in cases().iter().filter(|case| case.path == path) {
            for send in &case.sends {
                stream.write_all(send.as_bytes())?;
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    })?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(server.port()).start(context)?;
    let mut connection = Connection::open(server.port())?;
    for case in cases() {
        let response = connection.get(case.path)?;
        if let Some(size) = case.size {
            ensure!(response.body.len() == size, "{}", case.path);
        }
    }
    collector.wait_for_spans(2 * cases().len(), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2 * cases().len(), "{}", spans.render());
    let mut lost = 0;
    for case in cases() {
        let wire: usize = case.sends.iter().map(String::len).sum();
        let of_case = spans.filter(|span| span.path() == case.path);
        assert_eq!((of_case.clients().len(), of_case.servers().len()), (1, 1));
        for span in &of_case.0 {
            let size = case.size.map(|size| size.to_string()).unwrap_or_default();
            assert_eq!(span.get(RESPONSE_BODY), size, "{}", span.line());
            assert_eq!(
                span.get("undertrace.response.wire_size"),
                wire.to_string(),
                "{}",
                span.line()
            );
            lost += u64::from(case.size.is_none());
        }
    }
    assert_eq!(statistics.get("chunk_framing_lost"), lost, "{statistics}");
    Ok(())
}

/// Writes without waiting, again and again whatever was not accepted.
fn write_impatiently(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    stream.set_nonblocking(false)
}

/// A server that does not wait, and a client that reads slowly: most sends are accepted in part, or not at all.
fn partial_sends(context: &mut Context) -> Result<()> {
    const CHUNKS: usize = 12;
    const SIZE: usize = 9_001;
    let server = Scripted::start(context, |stream, _| {
        sockopt::set_socket_send_buffer_size(&*stream, 4_096)?;
        write_impatiently(stream, HEAD.as_bytes())?;
        for _ in 1..CHUNKS {
            write_impatiently(stream, chunk(SIZE).as_bytes())?;
        }
        // As proxies do: the end goes with the last chunk, which is accepted piece by piece.
        write_impatiently(stream, format!("{}0\r\n\r\n", chunk(SIZE)).as_bytes())
    })?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(server.port()).start(context)?;
    let mut connection = Connection::open_narrow(server.port())?;
    for _ in 0..2 {
        assert_eq!(
            connection.get_slowly("/slow", 777)?.body.len(),
            CHUNKS * SIZE
        );
    }
    collector.wait_for_spans(4, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!((spans.clients().len(), spans.servers().len()), (2, 2));
    for span in &spans.0 {
        assert_eq!(
            span.get(RESPONSE_BODY),
            (CHUNKS * SIZE).to_string(),
            "{}",
            span.line()
        );
    }
    assert_eq!(statistics.get("chunk_framing_lost"), 0, "{statistics}");
    Ok(())
}

/// A server that closes in the midst of a body: no end was sent, so the response is not complete.
fn cut_short(context: &mut Context) -> Result<()> {
    let server = Scripted::start(context, |stream, _| {
        for send in [HEAD.to_owned(), chunk(3_000), chunk(10)] {
            stream.write_all(send.as_bytes())?;
        }
        stream.shutdown(Shutdown::Both)
    })?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(server.port()).start(context)?;
    let mut connection = Connection::open(server.port())?;
    ensure!(connection.get("/cut").is_err(), "no end was sent");
    drop(connection);
    collector.wait_for_spans(2, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    assert_eq!((spans.clients().len(), spans.servers().len()), (1, 1));
    for span in &spans.0 {
        assert_eq!(
            span.get("error.type"),
            "response_truncated",
            "{}",
            span.line()
        );
        assert_eq!(span.get(RESPONSE_BODY), "", "{}", span.line());
    }
    Ok(())
}

/// Node behind nginx: what Node streams, nginx frames anew; what a client uploads in chunks, Node counts.
fn real_servers(context: &mut Context) -> Result<()> {
    let (front, back) = (context.port(), context.port());
    let _node = service::node(context, "calls.js", back, &[])?;
    let values = [
        ("BACKEND", format!("127.0.0.1:{back}")),
        ("KEEPALIVE", "keepalive 16;".to_owned()),
        ("CONNECTION", String::new()),
    ];
    let values: Vec<(&str, &str)> = values.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let _nginx = service::nginx(context, "proxy.conf", front, &values)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(front)
        .port(back)
        .start(context)?;
    let downloads = [(1, 10), (5, 1_000), (9, 40_000)];
    let uploads: [&[usize]; 3] = [&[5], &[1, 4_000, 30], &[70_000, 70_000]];
    let mut connection = Connection::open(front)?;
    for (count, size) in downloads {
        let response = connection.get(&format!("/s/{count}/{size}"))?;
        assert_eq!(response.body.len(), count * size);
    }
    let mut direct = Connection::open(back)?;
    for sizes in uploads {
        let total: usize = sizes.iter().sum();
        let head =
            format!("POST /u/{total} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        direct.send(head.as_bytes())?;
        for &size in sizes {
            direct.send(chunk(size).as_bytes())?;
        }
        direct.send(b"0\r\n\r\n")?;
        assert_eq!(direct.response("POST")?.text(), format!("{total}\n"));
    }
    let expected = 4 * downloads.len() + 2 * uploads.len();
    collector.wait_for_spans(expected, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), expected, "{}", spans.render());
    for (count, size) in downloads {
        let path = format!("/s/{count}/{size}");
        let of_path = spans.filter(|span| span.path() == path);
        assert_eq!(of_path.len(), 4, "{}", spans.render());
        for span in &of_path.0 {
            assert_eq!(
                span.get(RESPONSE_BODY),
                (count * size).to_string(),
                "{}",
                span.line()
            );
        }
    }
    for sizes in uploads {
        let total: usize = sizes.iter().sum();
        let of_path = spans.filter(|span| span.path() == format!("/u/{total}"));
        assert_eq!(of_path.len(), 2, "{}", spans.render());
        for span in &of_path.0 {
            assert_eq!(span.get(REQUEST_BODY), total.to_string(), "{}", span.line());
        }
    }
    assert_eq!(statistics.get("chunk_framing_lost"), 0, "{statistics}");
    Ok(())
}

/// Three answers in one send, which the client reads at once while a fourth request waits: each request has its own status, and no body takes the answer
/// behind it along.
fn pipelined(context: &mut Context) -> Result<()> {
    let queued = Mutex::new(String::new());
    let server = Scripted::start(context, move |stream, head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let mut queued = queued.lock().expect("no thread has panicked with it");
        match path {
            "/201" | "/202" => {
                let head = HEAD.replacen("200", &path[1..], 1);
                queued.push_str(&format!("{head}{}0\r\n\r\n", chunk(300)));
                return Ok(());
            }
            _ => queued.push_str(&format!(
                "HTTP/1.1 {} X\r\nContent-Length: 7\r\n\r\nanswer\n",
                &path[1..]
            )),
        }
        stream.write_all(std::mem::take(&mut *queued).as_bytes())
    })?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(server.port()).start(context)?;
    let mut connection = Connection::open(server.port())?;
    let request = |status: u16| format!("GET /{status} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    for round in [[201, 202, 403], [202, 201, 404]] {
        connection.send(round.map(request).concat().as_bytes())?;
        connection.send(request(405).as_bytes())?;
        for status in round.into_iter().chain([405]) {
            assert_eq!(connection.response("GET")?.status, status);
        }
    }
    collector.wait_for_spans(2 * 8, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2 * 8, "{}", spans.render());
    for span in &spans.0 {
        let status = span.path().trim_start_matches('/');
        assert_eq!(
            span.get("http.response.status_code"),
            status,
            "{}",
            span.line()
        );
        let size = if status.starts_with('2') { "300" } else { "7" };
        assert_eq!(span.get(RESPONSE_BODY), size, "{}", span.line());
    }
    for loss in ["messages_lost_to_gap", "responses_unpaired"] {
        assert_eq!(statistics.get(loss), 0, "{loss}: {statistics}");
    }
    Ok(())
}
