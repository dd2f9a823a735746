//! Handlers that go on although the connection of their request is gone.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    collector::Collector,
    http::Connection,
    scripted::Scripted,
    trace::{Span, Spans},
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::full(
    "causality_handler_of_a_closed_connection",
    handler_of_a_closed_connection,
)];

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// What a thread has done when it makes a call while one request is open.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    /// Nothing.
    Plain,
    /// Read another request and closed its connection at once, as a worker does that can do nothing for it.
    Closed,
    /// Read another request and, when that one's client had gone, closed its connection; then read the one that is open.
    LeftThenNext,
    /// Read another request and the one that is open, and then closed the first one's connection, whose client had gone.
    NextThenLeft,
}

impl Before {
    /// Whether the call can only be for the open request.
    fn is_linked(self) -> bool {
        matches!(self, Self::Plain | Self::Closed)
    }
}

const PLAN: [Before; 4] = [
    Before::Plain,
    Before::Closed,
    Before::LeftThenNext,
    Before::NextThenLeft,
];

/// A thread that handles several requests at a time makes a call, for the one that is open or for one whose client has gone and whose handler goes
/// on: nobody can tell, so there is no link. Some time after, there is one again.
fn handler_of_a_closed_connection(context: &mut Context) -> Result<()> {
    let back = Scripted::start(context, |stream, _| stream.write_all(ANSWER))?;
    let port = context.port();
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .port(back.port())
        // A handler is waited for as long as a request is.
        .arg("--fault")
        .arg("short-requests")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start(context)?;
    let mut pooled = Connection::open(back.port())?;
    assert_eq!(pooled.get("/pooled")?.text(), "hello\n");
    let (told, has_read) = mpsc::channel();
    let server = thread::spawn(move || serve(&listener, pooled, &told));
    let mut kept = Connection::open(port)?;
    for (n, before) in PLAN.iter().enumerate() {
        let request = format!("GET /gone/{n} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        let mut gone = None;
        if *before != Before::Plain {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.write_all(request.as_bytes())?;
            gone = Some(stream);
        }
        kept.send(format!("GET /kept/{n} HTTP/1.1\r\nHost: shop.test\r\n\r\n").as_bytes())?;
        if !before.is_linked() {
            has_read.recv_timeout(PATIENCE)?;
            drop(gone.take());
        }
        assert_eq!(kept.response("GET")?.text(), "hello\n", "{before:?}");
    }
    let begin = Instant::now();
    let mut later = 0;
    loop {
        let path = format!("/later/{later}");
        assert_eq!(kept.get(&path)?.text(), "hello\n");
        later += 1;
        let call = format!("/b/{}", PLAN.len() + later - 1);
        let found = || {
            let spans = collector.spans();
            let calls = spans.clients().filter(|span| span.path() == call);
            let servers = spans.servers().filter(|span| span.path() == path);
            (calls.len() == 1 && servers.len() == 1).then(|| calls.only().parent_id())
        };
        if !wait_for(|| collector.spans().render(), PATIENCE, found)?.is_empty() {
            break;
        }
        ensure!(begin.elapsed() < PATIENCE, "calls are not linked again");
    }
    drop(kept);
    server.join().expect("the server does not panic")?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    for (n, before) in PLAN.iter().enumerate() {
        let parent = if before.is_linked() {
            server_of(&spans, &format!("/kept/{n}")).span_id()
        } else {
            String::new()
        };
        let call = spans
            .clients()
            .filter(|span| span.path() == format!("/b/{n}"));
        assert_eq!(
            call.only().parent_id(),
            parent,
            "{before:?}\n{}",
            spans.render()
        );
    }
    let last = spans
        .clients()
        .filter(|span| span.path() == format!("/b/{}", PLAN.len() + later - 1));
    assert_eq!(
        last.only().parent_id(),
        server_of(&spans, &format!("/later/{}", later - 1)).span_id()
    );
    let left = PLAN.iter().filter(|before| !before.is_linked()).count();
    assert_eq!(
        statistics.get("links_ambiguous"),
        (left + later - 1) as u64,
        "{statistics}"
    );
    assert_eq!(
        statistics.get("requests_abandoned"),
        PLAN.len() as u64 - 1,
        "{statistics}"
    );
    Ok(())
}

fn server_of<'a>(spans: &'a Spans, path: &str) -> &'a Span {
    let mut found = spans
        .0
        .iter()
        .filter(|span| span.is_server() && span.path() == path);
    let only = found.next().expect("a span");
    assert!(found.next().is_none(), "{}", spans.render());
    only
}

/// Serves by [`PLAN`], on this one thread, and then what else comes on the first connection.
fn serve(listener: &TcpListener, mut pooled: Connection, told: &mpsc::Sender<()>) -> Result<()> {
    let (kept, _) = listener.accept()?;
    let mut call = |n: usize| -> Result<()> {
        ensure!(pooled.get(&format!("/b/{n}"))?.text() == "hello\n");
        (&kept).write_all(ANSWER)?;
        Ok(())
    };
    for (n, before) in PLAN.iter().enumerate() {
        if *before == Before::Plain {
            ensure!(read_head(&kept)?);
            call(n)?;
            continue;
        }
        let (gone, _) = listener.accept()?;
        ensure!(read_head(&gone)?);
        if *before == Before::NextThenLeft {
            ensure!(read_head(&kept)?);
        }
        if *before != Before::Closed {
            told.send(())?;
            poll(&mut [PollFd::new(&gone, PollFlags::IN)], None)?;
            ensure!((&gone).read(&mut [0])? == 0);
        }
        drop(gone);
        if *before != Before::NextThenLeft {
            ensure!(read_head(&kept)?);
        }
        call(n)?;
    }
    let mut n = PLAN.len();
    while read_head(&kept)? {
        call(n)?;
        n += 1;
    }
    Ok(())
}

/// Reads a head, and what came with it; false at the end of the connection.
fn read_head(stream: &TcpStream) -> Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
