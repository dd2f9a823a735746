//! Responses that no process touches: the kernel hands them to the socket, and before Linux 6.5 no hook sees that.

use std::{fs, io::Write as _};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, scripted::Scripted,
    service, trace::RESPONSE_BODY,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::core(
    "causality_files_between_calls",
    files_between_calls,
)];

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
