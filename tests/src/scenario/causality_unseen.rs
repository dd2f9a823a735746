//! Requests whose end no hook sees at the time: what is sent from files before Linux 6.5, and heads among it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Mutex, PoisonError, mpsc},
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
    kernel_has,
    scripted::{Scripted, send_file},
    trace::{RESPONSE_BODY, Span},
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full(
        "causality_file_of_one_call_of_another",
        file_of_one_call_of_another,
    ),
    Scenario::full("causality_files_with_their_heads", files_with_their_heads),
];

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// A trace of a request to the scenario's own server that makes a call, and whether the call is linked to it.
fn with_call(path: &str, call: &str, linked: bool) -> [String; 2] {
    let request = pair("scenarios", "scenarios", path);
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
        expected.extend(with_call(&path, &call, round < ROUNDS));
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

/// A server answers some requests of a connection from files that hold the head too, so that its end's response is not seen. The request after each such
/// one makes its call without a link; the ones behind that have theirs again, also when more responses than can be awaited went unseen in a row.
fn files_with_their_heads(context: &mut Context) -> Result<()> {
    const SEEN: &str = "seen";
    const UNSEEN: &str = "unseen";
    // More than `Pending::LIMIT`.
    const IN_A_ROW: usize = 17;
    let mut plan = vec![SEEN, UNSEEN, SEEN, SEEN];
    plan.extend([UNSEEN; IN_A_ROW]);
    plan.extend([SEEN, SEEN, SEEN]);
    let back = Scripted::start(context, |stream, _| stream.write_all(ANSWER))?;
    let content = context.folder().join("response");
    fs::write(&content, ANSWER)?;
    let file = File::open(&content)?;
    let collector = Collector::start()?;
    let pool: Mutex<Option<Connection>> = Mutex::new(None);
    let pool = std::sync::Arc::new(pool);
    let pooled = std::sync::Arc::clone(&pool);
    let front = Scripted::start(context, move |stream, head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let mut pool = pooled.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = pool.as_mut().ok_or(std::io::ErrorKind::NotConnected)?;
        connection
            .get(&format!("/b{path}"))
            .map_err(std::io::Error::other)?;
        if path.starts_with("/unseen") {
            send_file(stream, &file, ANSWER.len() as u64)
        } else {
            stream.write_all(ANSWER)
        }
    })?;
    let agent = Setup::grpc(&collector)
        .port(front.port())
        .port(back.port())
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start(context)?;
    let mut connection = Connection::open(back.port())?;
    assert_eq!(connection.get("/pooled")?.text(), "hello\n");
    *pool.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    let mut connection = Connection::open(front.port())?;
    for (n, kind) in plan.iter().enumerate() {
        assert_eq!(connection.get(&format!("/{kind}/{n}"))?.text(), "hello\n");
    }
    // Of each request the client's span and both of its call.
    let known = |span: &Span| span.is_client() || span.path().starts_with("/b/");
    let all_known = || {
        let count = collector.spans().filter(known).len();
        (count == 1 + 3 * plan.len()).then_some(())
    };
    wait_for(|| collector.spans().render(), PATIENCE, all_known)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(
        spans.filter(known).len(),
        1 + 3 * plan.len(),
        "{}",
        spans.render()
    );
    let mut before = SEEN;
    for (n, kind) in plan.iter().enumerate() {
        let [path, call] = [format!("/{kind}/{n}"), format!("/b/{kind}/{n}")];
        let what = || format!("{path}:\n{}", spans.render());
        let request = spans.clients().filter(|span| span.path() == path);
        let call = spans.clients().filter(|span| span.path() == call);
        // The span of the server's end stands between the two. Where user space gives up a gap it may take the requests behind it along: their spans
        // are missing, and the decisions of the kernel, which are meant here, show all the same in what descends from them.
        let server = spans.servers().filter(|span| span.path() == path);
        assert!(server.len() <= 1, "{}", what());
        if before == SEEN {
            assert_eq!(
                call.only().trace_id(),
                request.only().trace_id(),
                "{}",
                what()
            );
            assert!(!call.only().parent_id().is_empty(), "{}", what());
            assert_ne!(
                call.only().parent_id(),
                request.only().span_id(),
                "{}",
                what()
            );
        } else {
            assert_eq!(call.only().parent_id(), "", "{}", what());
        }
        for server in &server.0 {
            assert_eq!(server.parent_id(), request.only().span_id(), "{}", what());
            if before == SEEN {
                assert_eq!(call.only().parent_id(), server.span_id(), "{}", what());
            }
            if *kind == UNSEEN {
                let status = server.get("http.response.status_code");
                assert_eq!(status, "", "{}", what());
            }
        }
        before = kind;
    }
    let unseen = plan.iter().filter(|kind| **kind == UNSEEN).count();
    assert_eq!(
        (
            statistics.get("links_ambiguous"),
            statistics.get("decisions_beyond_limit")
        ),
        (unseen as u64, 0),
        "{statistics}"
    );
    // Each send of which the kernel tells the length alone; else each response behind bytes that passed no hook.
    let heads = if kernel_has("splice_to_socket")? {
        unseen
    } else {
        2
    };
    assert_eq!(statistics.get("heads_unseen"), heads as u64, "{statistics}");
    Ok(())
}
