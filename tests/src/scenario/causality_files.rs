//! Responses that no process touches: the kernel hands them to the socket, and before Linux 6.5 no hook sees that.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use anyhow::{Result, ensure};
use rustix::net::SendFlags;

use super::{Scenario, http1::pair};
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::Connection,
    scripted::{Scripted, send_file},
    service,
    trace::RESPONSE_BODY,
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("causality_files_between_calls", files_between_calls),
    Scenario::full(
        "causality_file_of_one_call_of_another",
        file_of_one_call_of_another,
    ),
];

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// A proxy that answers every second request of a connection with a file: the request is over when the file is sent, so the next one is the only one
/// that is open, and its call is linked to it.
fn files_between_calls(context: &mut Context) -> Result<()> {
    const ROUNDS: usize = 4;
    const FILE: usize = 300_000;
    let back = Scripted::start(context, |stream, _| stream.write_all(ANSWER))?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.port());
    let values = [
        ("BACKEND", backend.as_str()),
        ("KEEPALIVE", "keepalive 16;"),
        ("CONNECTION", ""),
    ];
    let _front = service::nginx(context, "proxy.conf", port, &values)?;
    let files = service::nginx_files(context, port).join("files");
    fs::create_dir_all(&files)?;
    fs::write(files.join("large"), vec![b'f'; FILE])?;
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

/// A trace of a request to the scenario's own server that makes a call, and whether the call is linked to it. The server's status is as its end saw it.
fn with_call(path: &str, status: &str, call: &str, linked: bool) -> [String; 2] {
    let request =
        format!("CLIENT scenarios GET {path} 200\n  SERVER scenarios GET {path} {status}\n");
    let call = pair("scenarios", "scenarios", call);
    if linked {
        let below: String = call.lines().map(|line| format!("    {line}\n")).collect();
        [request + &below, String::new()]
    } else {
        [request, call]
    }
}

/// One thread reads a request and then one of another connection, answers the second with a file, and makes a call for the first. The connection of the
/// file is not read again before: that its request is over is found when user space asks for the connection's position, and the call waits for that.
fn file_of_one_call_of_another(context: &mut Context) -> Result<()> {
    const ROUNDS: usize = 4;
    const FILE: usize = 90_000;
    let back = Scripted::start(context, |stream, _| stream.write_all(ANSWER))?;
    let port = context.port();
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let content = context.folder().join("file");
    fs::write(&content, vec![b'f'; FILE])?;
    let file = File::open(&content)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .port(back.port())
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start(context)?;
    let mut pooled = Connection::open(back.port())?;
    assert_eq!(pooled.get("/pooled")?.text(), "hello\n");
    let (told, go) = mpsc::channel();
    let server = thread::spawn(move || -> Result<()> {
        let mut call = |round: usize| -> Result<()> {
            ensure!(pooled.get(&format!("/b/{round}"))?.text() == "hello\n");
            Ok(())
        };
        let (calls, _) = listener.accept()?;
        let (files, _) = listener.accept()?;
        for round in 0..=ROUNDS {
            read_head(&calls)?;
            read_head(&files)?;
            // The last call is made while both requests are open.
            if round == ROUNDS {
                call(round)?;
            }
            let flags = if round % 2 == 0 {
                SendFlags::empty()
            } else {
                SendFlags::MORE
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {FILE}\r\n\r\n");
            ensure!(rustix::net::send(&files, head.as_bytes(), flags)? == head.len());
            send_file(&files, &file, FILE as u64)?;
            if round < ROUNDS {
                go.recv_timeout(PATIENCE)?;
                call(round)?;
            }
            (&calls).write_all(ANSWER)?;
        }
        Ok(())
    });
    let mut calls = Connection::open(port)?;
    let mut files = Connection::open(port)?;
    for round in 0..=ROUNDS {
        calls.send(format!("GET /call/{round} HTTP/1.1\r\nHost: shop.test\r\n\r\n").as_bytes())?;
        let path = format!("/file/{round}");
        assert_eq!(files.get(&path)?.body.len(), FILE);
        if round < ROUNDS {
            // The server's span is there as soon as its end is known to all.
            let over = || {
                let spans = collector.spans().servers();
                (spans.filter(|span| span.path() == path).len() == 1).then_some(())
            };
            wait_for(|| collector.spans().render(), PATIENCE, over)?;
            told.send(())?;
        }
        assert_eq!(calls.response("GET")?.text(), "hello\n");
    }
    server.join().expect("the server does not panic")?;
    collector.wait_for_spans(2 + 6 * (ROUNDS + 1), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let mut expected = vec![pair("scenarios", "scenarios", "/pooled")];
    for round in 0..=ROUNDS {
        expected.push(pair("scenarios", "scenarios", &format!("/file/{round}")));
        let [path, call] = [format!("/call/{round}"), format!("/b/{round}")];
        expected.extend(with_call(&path, "200", &call, round < ROUNDS));
    }
    expected.sort();
    assert_text("the traces", &spans.render(), &expected.concat());
    let linked = spans.filter(|span| {
        span.is_client() && span.path().starts_with("/b/") && !span.parent_id().is_empty()
    });
    for span in &linked.0 {
        assert_eq!(span.get("undertrace.parent.method"), "only_open");
    }
    for span in &spans.filter(|span| span.path().starts_with("/file/")).0 {
        assert_eq!(span.get(RESPONSE_BODY), FILE.to_string(), "{}", span.line());
    }
    assert_eq!(statistics.get("links_ambiguous"), 1, "{statistics}");
    Ok(())
}

/// Reads a head, and what came with it.
fn read_head(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the connection ended");
    }
    Ok(())
}
