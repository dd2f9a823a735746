//! What is beyond the limits of the kernel programs: counted, nothing invented, and the next message on the connection is exact.

use anyhow::Result;

use super::{Scenario, http1::pair};
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::{Connection, head_of},
    scripted::Scripted,
    service,
    trace::RESPONSE_BODY,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full(
        "http1_pipelined_beyond_what_is_decided",
        pipelined_beyond_what_is_decided,
    ),
    Scenario::full(
        "http1_more_buffers_than_are_walked",
        more_buffers_than_are_walked,
    ),
    Scenario::full(
        "http1_head_beyond_what_is_scanned",
        head_beyond_what_is_scanned,
    ),
];

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// Twenty requests in one send, of which eight are decided at each end.
fn pipelined_beyond_what_is_decided(context: &mut Context) -> Result<()> {
    const SENT: u64 = 20;
    const DECIDED: u64 = 8;
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    let requests: String = (1..=SENT)
        .map(|n| format!("GET /p/{n:02} HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
        .collect();
    connection.send(requests.as_bytes())?;
    for _ in 0..SENT {
        assert_eq!(connection.response("GET")?.text(), "hello\n");
    }
    assert_eq!(connection.get("/after")?.text(), "hello\n");
    let after = || {
        let after = collector.spans().filter(|span| span.path() == "/after");
        (after.len() >= 2).then_some(())
    };
    crate::harness::wait_for(|| collector.spans().render(), PATIENCE, after)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let certain = spans.filter(|span| {
        let number = span
            .path()
            .strip_prefix("/p/")
            .and_then(|n| n.parse::<u64>().ok());
        number.is_none_or(|n| n <= DECIDED)
    });
    let mut traces: Vec<_> = certain
        .servers()
        .by_start()
        .iter()
        .map(|server| {
            let parent = certain.parent_of(server).map_or("none", |span| span.path());
            format!("{} of {parent}", server.path())
        })
        .collect();
    traces.sort();
    let mut wanted: Vec<_> = (1..=DECIDED)
        .map(|n| format!("/p/{n:02} of /p/{n:02}"))
        .collect();
    wanted.insert(0, "/after of /after".to_owned());
    assert_eq!(traces, wanted, "{}", spans.render());
    assert_eq!(certain.clients().len(), wanted.len(), "{}", spans.render());
    // Of the others there is at most one span at each end, none of them with a parent.
    for n in DECIDED + 1..=SENT {
        let of_path = spans.filter(|span| span.path() == format!("/p/{n:02}"));
        assert!(
            of_path.servers().len() <= 1 && of_path.clients().len() <= 1,
            "{}",
            spans.render()
        );
        assert!(of_path.0.iter().all(|span| span.parent_id().is_empty()));
    }
    // Once for the send and once for the receive: what follows the ninth is not looked at.
    let counts = [
        "decisions_beyond_limit",
        "client_decisions",
        "server_decisions",
    ]
    .map(|name| statistics.get(name));
    assert_eq!(counts, [2, DECIDED + 1, DECIDED + 1], "{statistics}");
    Ok(())
}

/// A head in more buffers than the kernel walks: the client's message is lost, the server reads it whole and begins a trace.
fn more_buffers_than_are_walked(context: &mut Context) -> Result<()> {
    const WALKED: u64 = 16;
    const PIECES: u64 = 24;
    const PIECE: u64 = 8;
    // The end of a stream whose place is lost is kept: a chunked body would be told by it.
    const TAIL: u64 = 16;
    let server = Scripted::start_scattered(context, ANSWER)?;
    let port = server.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    assert_eq!(connection.get("/before")?.text(), "hello\n");
    let head = head_of(usize::try_from(PIECES * PIECE)?, "/many", "", "");
    connection.send_scattered(head.as_bytes(), usize::try_from(PIECES)?)?;
    assert_eq!(connection.response("GET")?.text(), "hello\n");
    assert_eq!(connection.get("/after")?.text(), "hello\n");
    collector.wait_for_spans(5, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let expected = format!(
        "{}{}SERVER scenarios GET /many 200\n",
        pair("scenarios", "scenarios", "/after"),
        pair("scenarios", "scenarios", "/before")
    );
    assert_text("the traces", &spans.render(), &expected);
    assert!(spans.0.iter().all(|span| span.get(RESPONSE_BODY) == "6"));
    let unseen = (PIECES - WALKED) * PIECE;
    let counts = [
        "heads_unseen",
        "unreadable_bytes",
        "stream_gap_bytes",
        "messages_lost_to_gap",
        "responses_unpaired",
    ]
    .map(|name| statistics.get(name));
    assert_eq!(counts, [1, unseen + TAIL, unseen, 1, 1], "{statistics}");
    // Once for that send, though it is looked into twice: for the head, and for its last bytes.
    assert_eq!(statistics.get("iterator_too_long"), 1, "{statistics}");
    Ok(())
}

/// A head of more than 16 KiB is followed by neither end.
fn head_beyond_what_is_scanned(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    assert_eq!(connection.get("/before")?.text(), "hello\n");
    connection.send(head_of(20_000, "/large", "", "").as_bytes())?;
    assert_eq!(connection.response("GET")?.text(), "hello\n");
    assert_eq!(connection.get("/after")?.text(), "hello\n");
    collector.wait_for_spans(4, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let expected = pair("scenarios", "nginx", "/after") + &pair("scenarios", "nginx", "/before");
    assert_text("the traces", &spans.render(), &expected);
    assert!(spans.0.iter().all(|span| span.get(RESPONSE_BODY) == "6"));
    // Once at each end, by the kernel and by the parser, and a response that answers nothing.
    let counts = ["heads_unseen", "messages_over_limit", "responses_unpaired"]
        .map(|name| statistics.get(name));
    assert_eq!(counts, [2, 2, 2], "{statistics}");
    Ok(())
}
