//! Bodies: framing, exact sizes, and bytes in them that look like requests.

use std::{
    fs::{self, File},
    io::Write as _,
};

use anyhow::Result;

use super::{Scenario, http1::pair};
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::Connection,
    kernel_has,
    scripted::{Scripted, send_file},
    service,
    trace::{REQUEST_BODY, RESPONSE_BODY},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core(
        "http1_upload_with_request_in_body",
        upload_with_request_in_body,
    ),
    Scenario::full("http1_chunked_and_head_and_304", chunked_and_head_and_304),
    Scenario::full("http1_large_body_sizes_exact", large_body_sizes_exact),
    Scenario::full(
        "http1_body_beyond_sequence_numbers",
        body_beyond_sequence_numbers,
    ),
    Scenario::full(
        "http1_slow_reader_counts_nothing_twice",
        slow_reader_counts_nothing_twice,
    ),
];

/// An upload whose body is an HTTP request, at the start of a segment of its own.
fn upload_with_request_in_body(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _python = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::http(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    let body = "GET /evil HTTP/1.1\r\nHost: shop.test\r\n\r\n".repeat(20);
    connection.send(
        format!(
            "POST /upload HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    )?;
    connection.send(&body.as_bytes()[..400])?;
    connection.send(&body.as_bytes()[400..])?;
    let response = connection.response("POST")?;
    assert_eq!(response.text(), format!("{}\n", body.len()));
    assert_eq!(connection.get("/after")?.status, 200);
    collector.wait_for_spans(4, PATIENCE)?;
    agent.stop()?;
    let expected = "CLIENT scenarios GET /after 200\n  SERVER threads GET /after 200\n\
                    CLIENT scenarios POST /upload 200\n  SERVER threads POST /upload 200\n";
    assert_text("the traces", &collector.spans().render(), expected);
    for span in &collector.spans().filter(|span| span.path() == "/upload").0 {
        assert_eq!(span.get(REQUEST_BODY), body.len().to_string());
    }
    Ok(())
}

/// On one connection: a chunked answer, answers to HEAD, 204, 304, 404 and 500, and a plain one that shows that nothing slipped.
fn chunked_and_head_and_304(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _python = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    let cases = [
        ("GET", "/chunked/3", 200),
        ("HEAD", "/size/1000", 200),
        ("GET", "/status/204", 204),
        ("GET", "/status/304", 304),
        ("GET", "/status/404", 404),
        ("DELETE", "/status/500", 500),
        ("GET", "/size/77", 200),
    ];
    let mut wire_sizes = Vec::new();
    for (method, path, status) in cases {
        connection
            .send(format!("{method} {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n").as_bytes())?;
        let response = connection.response(method)?;
        assert_eq!(response.status, status);
        wire_sizes.push((
            path,
            (response.head_wire_bytes + response.body_wire_bytes).to_string(),
        ));
    }
    collector.wait_for_spans(2 * cases.len(), PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    let mut expected: Vec<_> = cases
        .iter()
        .map(|(method, path, status)| format!("CLIENT scenarios {method} {path} {status}\n  SERVER threads {method} {path} {status}\n"))
        .collect();
    expected.sort();
    assert_text("the traces", &spans.render(), &expected.concat());
    for span in &spans.0 {
        // Semantic conventions: a server's 5xx is an error, a client's 4xx too.
        let error = match span.path() {
            "/status/500" => true,
            "/status/404" => span.is_client(),
            _ => false,
        };
        assert_eq!(span.is_error(), error, "{}", span.line());
        if error {
            assert_eq!(
                span.get("error.type"),
                span.get("http.response.status_code")
            );
        }
    }
    let size = |path: &str| {
        spans
            .servers()
            .filter(|span| span.path() == path)
            .only()
            .get(RESPONSE_BODY)
            .to_owned()
    };
    assert_eq!(size("/size/77"), "77");
    assert_eq!(size("/chunked/3"), "15");
    for (path, bytes) in wire_sizes {
        for span in &spans.filter(|span| span.path() == path).0 {
            assert_eq!(
                span.get("undertrace.response.wire_size"),
                bytes,
                "{}",
                span.line()
            );
        }
    }
    assert!(
        matches!(size("/size/1000").as_str(), "" | "0"),
        "the answer to HEAD has no body"
    );
    Ok(())
}

/// Bodies far larger than anything that is captured: sendfile, plain writes, uploads.
fn large_body_sizes_exact(context: &mut Context) -> Result<()> {
    const FILE: u64 = 12_345_678;
    const MADE: usize = 3_000_001;
    let (sendfile, plain, python) = (context.port(), context.port(), context.port());
    let _one = service::static_nginx(context, sendfile)?;
    let _two = service::nginx(
        context,
        "static.conf",
        plain,
        &[("LISTEN", ""), ("SENDFILE", "off")],
    )?;
    let _three = service::python(context, "threads.py", python, &[])?;
    for port in [sendfile, plain] {
        File::create(service::nginx_files(context, port).join("big"))?.set_len(FILE)?;
    }
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(sendfile)
        .port(plain)
        .port(python)
        .start(context)?;
    for port in [sendfile, plain] {
        let mut connection = Connection::open(port)?;
        for _ in 0..2 {
            assert_eq!(connection.get("/files/big")?.body.len() as u64, FILE);
        }
    }
    let mut connection = Connection::open(python)?;
    assert_eq!(connection.get(&format!("/size/{MADE}"))?.body.len(), MADE);
    connection.send(
        format!("PUT /upload HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {MADE}\r\n\r\n")
            .as_bytes(),
    )?;
    connection.send(&vec![b'u'; MADE])?;
    assert_eq!(connection.response("PUT")?.text(), format!("{MADE}\n"));
    collector.wait_for_spans(12, PATIENCE)?;
    let statistics = agent.stop()?;
    // Each of the two files is at least one send of which the kernel tells the length alone, where sendfile goes through the socket's send.
    let told = statistics.get("lengths_only");
    if kernel_has("splice_to_socket")? {
        assert!(told >= 2, "{statistics}");
    } else {
        assert_eq!(told, 0, "{statistics}");
    }
    let spans = collector.spans();
    assert_eq!(
        (spans.clients().len(), spans.servers().len()),
        (6, 6),
        "{}",
        spans.render()
    );
    for span in &spans.0 {
        let (request, response) = match span.path() {
            "/files/big" => (String::new(), FILE.to_string()),
            "/upload" => (
                MADE.to_string(),
                MADE.to_string().len().saturating_add(1).to_string(),
            ),
            _ => (String::new(), MADE.to_string()),
        };
        assert_eq!(span.get(RESPONSE_BODY), response, "{}", span.line());
        assert!(
            span.get(REQUEST_BODY) == request
                || (request.is_empty() && span.get(REQUEST_BODY) == "0"),
            "{}",
            span.line()
        );
    }
    Ok(())
}

/// A body of more than 4 GiB between two small ones: the sequence numbers come round, the positions do not.
fn body_beyond_sequence_numbers(context: &mut Context) -> Result<()> {
    const BODY: u64 = 4_400_000_123;
    const FILE: u64 = 4 << 20;
    // Most bytes the client takes in one call.
    const STEP: usize = 1 << 20;
    let path = context.folder().join("piece");
    fs::write(&path, vec![b'p'; usize::try_from(FILE)?])?;
    let file = File::open(&path)?;
    let server = Scripted::start(context, move |stream, head| {
        let body = if head.starts_with("GET /large") {
            BODY
        } else {
            6
        };
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n").as_bytes())?;
        let mut left = body;
        while left > 0 {
            let count = left.min(FILE);
            send_file(stream, &file, count)?;
            left -= count;
        }
        Ok(())
    })?;
    let port = server.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    assert_eq!(connection.get("/before")?.body.len(), 6);
    connection.send(b"GET /large HTTP/1.1\r\nHost: shop.test\r\n\r\n")?;
    let head = connection.response("HEAD")?;
    assert_eq!(head.header("content-length"), Some("4400000123"));
    connection.discard_by(usize::try_from(BODY)?, STEP)?;
    for path in ["/after/1", "/after/2"] {
        assert_eq!(connection.get(path)?.body.len(), 6);
    }
    collector.wait_for_spans(8, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let expected: String = ["/after/1", "/after/2", "/before", "/large"]
        .iter()
        .map(|path| pair("scenarios", "scenarios", path))
        .collect();
    assert_text("the traces", &spans.render(), &expected);
    for span in &spans.0 {
        let (body, wire) = if span.path() == "/large" {
            (BODY, head.head_wire_bytes as u64 + BODY)
        } else {
            (
                6,
                "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n".len() as u64 + 6,
            )
        };
        assert_eq!(
            (
                span.get(RESPONSE_BODY),
                span.get("undertrace.response.wire_size")
            ),
            (body.to_string().as_str(), wire.to_string().as_str()),
            "{}",
            span.line()
        );
    }
    for name in ["heads_unseen", "stream_gap_bytes", "messages_lost_to_gap"] {
        assert_eq!(statistics.get(name), 0, "{name}\n{statistics}");
    }
    Ok(())
}

/// A non-blocking writer against a reader with a receive buffer of 4 KiB: hundreds of partial and refused sends.
fn slow_reader_counts_nothing_twice(context: &mut Context) -> Result<()> {
    const FILE: usize = 400_003;
    let port = context.port();
    let _nginx = service::nginx(
        context,
        "static.conf",
        port,
        &[("LISTEN", ""), ("SENDFILE", "off")],
    )?;
    File::create(service::nginx_files(context, port).join("big"))?.set_len(FILE as u64)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    let mut connection = Connection::open_narrow(port)?;
    for _ in 0..2 {
        assert_eq!(connection.get_slowly("/files/big", 777)?.body.len(), FILE);
    }
    collector.wait_for_spans(2, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    assert_text(
        "the traces",
        &spans.render(),
        &"SERVER nginx GET /files/big 200\n".repeat(2),
    );
    assert!(
        spans
            .0
            .iter()
            .all(|span| span.get(RESPONSE_BODY) == FILE.to_string())
    );
    Ok(())
}
