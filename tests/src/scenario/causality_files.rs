//! Responses that no process touches: the kernel hands them to the socket, and before Linux 6.5 no hook sees that.

use std::{fs, io::Write as _, path::PathBuf, time::Instant};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{Setup, Statistics},
    assert_text,
    collector::Collector,
    http::Connection,
    kernel_has,
    process::Program,
    scripted::Scripted,
    service,
    trace::RESPONSE_BODY,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("causality_files_between_calls", files_between_calls),
    Scenario::full("causality_files_hidden", hidden_files),
    Scenario::core(
        "causality_unix_files_between_calls",
        unix_files_between_calls,
    ),
    Scenario::full("causality_unix_spliced_head", unix_spliced_head),
];

/// Bytes of the file that nginx sends.
const FILE: usize = 300_000;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// An nginx at `port` that sends a file for `/files/large` and hands other requests on to a server in the scenario's own process.
fn proxy_with_file(context: &mut Context, port: u16) -> Result<(Scripted, Program)> {
    let back = Scripted::start(context, |stream, _| stream.write_all(ANSWER))?;
    let backend = format!("127.0.0.1:{}", back.port());
    let values = [
        ("BACKEND", backend.as_str()),
        ("KEEPALIVE", "keepalive 16;"),
        ("CONNECTION", ""),
    ];
    let front = service::nginx(context, "proxy.conf", port, &values)?;
    let files = service::nginx_files(context, port).join("files");
    fs::create_dir_all(&files)?;
    fs::write(files.join("large"), vec![b'f'; FILE])?;
    Ok((back, front))
}

/// A proxy that answers every second request of a connection with a file: the request is over when the file is sent, so the next one is the only one
/// that is open, and its call is linked to it.
fn files_between_calls(context: &mut Context) -> Result<()> {
    const ROUNDS: usize = 4;
    let port = context.port();
    let _servers = proxy_with_file(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    let mut connection = Connection::open(port)?;
    for n in 0..ROUNDS {
        let file = connection.get("/files/large")?;
        assert_eq!((file.status, file.body.len()), (200, FILE));
        assert_eq!(connection.get(&format!("/p/{n}"))?.text(), "hello\n");
    }
    collector.wait_for_spans(3 * ROUNDS, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 3 * ROUNDS, "{}", spans.render());
    assert_eq!(statistics.get("links_ambiguous"), 0, "{statistics}");
    let large = spans.filter(|span| span.path() == "/files/large");
    assert_eq!(large.len(), ROUNDS);
    for span in &large.0 {
        assert_eq!(span.get(RESPONSE_BODY), FILE.to_string(), "{}", span.line());
    }
    for n in 0..ROUNDS {
        let request = spans.filter(|span| span.path() == format!("/p/{n}"));
        let call = spans.filter(|span| span.path() == format!("/b/{n}/1"));
        assert_eq!(
            call.only().parent_id(),
            request.only().span_id(),
            "{}",
            spans.render()
        );
    }
    Ok(())
}

/// The same with a file that is not sampled, on a connection that then rests: user space hears nothing of it, and before Linux 6.5 the kernel does not see
/// its end. The calls of other requests are linked all the same, once the kernel was asked; none is ever linked to the file.
fn hidden_files(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _servers = proxy_with_file(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    // The accept() that waited while the agent started is not seen to return.
    drop(Connection::open(port)?);
    let mut resting = Connection::open(port)?;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    let head = format!(
        "GET /files/large HTTP/1.1\r\nHost: shop.test\r\ntraceparent: 00-{trace}-00\r\n\r\n"
    );
    resting.send(head.as_bytes())?;
    assert_eq!(resting.response("GET")?.body.len(), FILE);
    let mut connection = Connection::open(port)?;
    let deadline = Instant::now() + PATIENCE;
    let mut n = 0;
    loop {
        assert_eq!(connection.get(&format!("/p/{n}"))?.text(), "hello\n");
        n += 1;
        collector.wait_for_spans(2 * n, PATIENCE)?;
        let spans = collector.spans();
        assert_eq!(spans.len(), 2 * n, "{}", spans.render());
        let request = spans.filter(|span| span.path() == format!("/p/{}", n - 1));
        let call = spans.filter(|span| span.path() == format!("/b/{}/1", n - 1));
        if call.only().parent_id() == request.only().span_id() {
            break;
        }
        assert_eq!(call.only().parent_id(), "", "{}", spans.render());
        assert!(
            Instant::now() < deadline,
            "no call has its parent: {}",
            spans.render()
        );
    }
    let statistics = agent.stop()?;
    assert_eq!(statistics.get("requests_hidden"), 1, "{statistics}");
    Ok(())
}

/// A service behind an nginx that keeps one unix connection to it, and sends files of all sizes into that: the trace of every request is whole, up to the
/// calls of those that follow a file.
fn unix_files_between_calls(context: &mut Context) -> Result<()> {
    const SIZES: [usize; 5] = [1, 4_096, 65_537, 300_000, 2_000_003];
    let service = Unix::start(context)?;
    let path = service.path.display();
    let (front, backend) = (context.port(), format!("unix:{path}"));
    let values = [
        ("BACKEND", backend.as_str()),
        ("KEEPALIVE", "keepalive 16;"),
        ("CONNECTION", ""),
    ];
    let _front = service::nginx(context, "proxy.conf", front, &values)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(front)
        .port(service.back)
        .start(context)?;
    let mut connection = Connection::open(front)?;
    let mut expected = Vec::new();
    for (n, size) in SIZES.into_iter().enumerate() {
        let file = format!("/file/{size}");
        assert_eq!(connection.get(&file)?.body.len(), size);
        let call = format!("/f/{n}");
        assert_eq!(connection.get(&call)?.text(), format!("id={n};\n"));
        expected.extend([proxied(&file), proxied(&call) + &called(n, 4)]);
    }
    collector.wait_for_spans(10 * SIZES.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    expected.sort();
    let spans = collector.spans();
    assert_text("the traces", &spans.render(), &expected.concat());
    for size in SIZES {
        let file = spans.filter(|span| span.path() == format!("/file/{size}"));
        for span in &file.0 {
            assert_eq!(span.get(RESPONSE_BODY), size.to_string(), "{}", span.line());
        }
    }
    assert_nothing_unseen(&statistics);
    // nginx connects to its backend once, and both ends of it are followed: else this says nothing of what follows a file.
    let unix = spans.filter(|span| span.get("network.transport") == "unix");
    assert_eq!(unix.len(), 2 * 2 * SIZES.len(), "{}", spans.render());
    assert_eq!(statistics.get("connections"), 6, "{statistics}");
    Ok(())
}

/// A response whose head goes by sendfile as well: it is not seen, which is counted, and what follows on the connection is. No call gets a wrong parent;
/// where the connection's position tells that something was sent, the second request behind it has its link again.
fn unix_spliced_head(context: &mut Context) -> Result<()> {
    let service = Unix::start(context)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(service.back).start(context)?;
    let mut connection = Connection::open_unix(&service.path)?;
    assert_eq!(connection.get("/hello/before")?.text(), "hello\n");
    assert_eq!(connection.get("/spliced/5000")?.body.len(), 5_000);
    for n in 0..3 {
        let text = connection.get(&format!("/f/{n}"))?.text();
        assert_eq!(text, format!("id={n};\n"));
    }
    // Five requests and three calls, each at both ends.
    collector.wait_for_spans(2 * (5 + 3), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2 * (5 + 3), "{}", spans.render());
    assert_eq!(statistics.get("kernel.heads_unseen"), 1, "{statistics}");
    // The service's end of it knows the request, and nothing of the response.
    let spliced = spans.filter(|span| span.path() == "/spliced/5000");
    assert_text(
        "the spliced response",
        &spliced.render(),
        "CLIENT scenarios GET /spliced/5000 200\n  SERVER threads GET /spliced/5000 -\n",
    );
    for n in 0..3 {
        let request = spans
            .servers()
            .filter(|span| span.path() == format!("/f/{n}"));
        let call = spans
            .clients()
            .filter(|span| span.path() == format!("/b/{n}/1"));
        let (request, call) = (request.only().span_id(), call.only().parent_id());
        assert!(call.is_empty() || call == request, "{}", spans.render());
        if n > 0 && !kernel_has("splice_to_socket")? {
            assert_eq!(call, request, "{}", spans.render());
        }
    }
    Ok(())
}

/// The threaded Python server at a unix socket, with a backend in the scenario's own process.
struct Unix {
    path: PathBuf,
    back: u16,
    _program: Program,
}

impl Unix {
    fn start(context: &Context) -> Result<Self> {
        let back = Scripted::start(context, |stream, _| stream.write_all(ANSWER))?.port();
        let path = context.folder().join("service.sock");
        let (backend, own) = (format!("127.0.0.1:{back}"), path.to_string_lossy());
        let arguments = ["--backend", backend.as_str(), "--unix", &own];
        let program = service::python(context, "threads.py", context.port(), &arguments)?;
        Ok(Self {
            path,
            back,
            _program: program,
        })
    }
}

/// The trace of a request that nginx hands on to the service.
fn proxied(path: &str) -> String {
    format!(
        "CLIENT scenarios GET {path} 200\n  SERVER nginx GET {path} 200\n    CLIENT nginx GET {path} 200\n      SERVER threads GET {path} 200\n"
    )
}

/// The call that the service makes for the request `/f/n`, so deep in its trace.
fn called(n: usize, depth: usize) -> String {
    let (client, server) = (2 * depth, 2 * depth + 2);
    format!(
        "{:client$}CLIENT threads GET /b/{n}/1 200\n{:server$}SERVER scenarios GET /b/{n}/1 200\n",
        "", ""
    )
}

fn assert_nothing_unseen(statistics: &Statistics) {
    for name in [
        "kernel.heads_unseen",
        "links_ambiguous",
        "responses_unpaired",
    ] {
        assert_eq!(statistics.get(name), 0, "{name}: {statistics}");
    }
}
