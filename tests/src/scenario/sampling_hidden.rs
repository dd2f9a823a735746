//! Unsampled requests of which the kernel tells nothing: few records, no byte of payload; and what is sampled between them, in order, at both ends.

use std::{collections::BTreeSet, fmt::Write as _, fs, io::Write as _};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{Setup, Statistics},
    collector::Collector,
    http::Connection,
    scripted::Scripted,
    service,
    trace::{RESPONSE_BODY, Span, Spans},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("context_sampling_hides_unsampled", hides_unsampled),
    Scenario::core("context_sampling_pipelined", pipelined),
    Scenario::core("context_sampling_alternates", alternates),
    Scenario::core("record_leaves_out_unsampled", recorded),
    Scenario::full("context_sampling_resets_counted", resets_counted),
    Scenario::full("context_sampling_place_lost", place_lost),
    Scenario::full("accounting_control_nothing_hidden", nothing_hidden),
];

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn request(path: &str, sampled: bool, more: &str) -> String {
    let flags = u8::from(sampled);
    format!(
        "GET {path} HTTP/1.1\r\nHost: shop.test\r\ntraceparent: 00-{TRACE}-{PARENT}-0{flags}\r\n{more}\r\n"
    )
}

/// Whether the n-th request is sampled: runs of one, two and three of each.
fn is_sampled(n: usize) -> bool {
    [true, false, true, true, false, false, false, true, false][n % 9]
}

/// Nothing was lost, and everything is in its place.
#[track_caller]
fn assert_in_order(statistics: &Statistics) {
    for loss in [
        "messages_lost_to_gap",
        "responses_unpaired",
        "stream_gap_bytes",
        "hiding_lost",
        "messages_undecided",
        "decisions_unobserved",
    ] {
        assert_eq!(statistics.get(loss), 0, "{loss}: {statistics}");
    }
}

/// Each path twice, once for each end, the server's below the client's, and no other.
#[track_caller]
fn assert_paths(spans: &Spans, expected: &BTreeSet<String>) {
    for of_side in [spans.servers(), spans.clients()] {
        let paths = of_side.0.iter().map(|span| span.path().to_owned());
        assert_eq!(paths.collect::<BTreeSet<_>>(), *expected);
        assert_eq!(of_side.len(), expected.len(), "{}", of_side.render());
    }
    for server in spans.servers().0 {
        let parent = spans.parent_of(&server);
        let is_its_client = |span: &Span| span.is_client() && span.path() == server.path();
        assert!(parent.is_some_and(is_its_client), "{}", spans.render());
    }
}

/// Two hundred requests on one connection, of which both ends are traced: no record tells of them.
fn hides_unsampled(context: &mut Context) -> Result<()> {
    const REQUESTS: u64 = 200;
    let port = context.port();
    let _service = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .env("OTEL_TRACES_SAMPLER", "always_off")
        .start(context)?;
    let mut connection = Connection::open(port)?;
    for n in 0..REQUESTS {
        let path = ["/hello", "/size/3000", "/chunked/4", "/status/404"][n as usize % 4];
        connection.get(path)?;
    }
    assert_eq!(connection.get("/status/500")?.status, 500);
    // One at the end that is told, so that all before it was read.
    connection.send(request("/told", true, "").as_bytes())?;
    assert_eq!(connection.response("GET")?.status, 200);
    collector.wait_for_spans(2, PATIENCE)?;
    let statistics = agent.stop()?;
    assert_paths(&collector.spans(), &["/told".to_owned()].into());
    assert_in_order(&statistics);
    assert_eq!(statistics.get("requests_hidden"), 2 * (REQUESTS + 1));
    assert_eq!(statistics.get("spans_unsampled"), 0, "{statistics}");
    // A quarter are 404, an error for clients only, and one is 500.
    let failed = REQUESTS / 4 + 2;
    assert_eq!(
        statistics.get("requests_hidden_failed"),
        failed,
        "{statistics}"
    );
    // Request and response of the last one, at both ends.
    assert_eq!(statistics.get("kernel.segments"), 4, "{statistics}");
    assert!(statistics.get("stream_bytes") < 4 * 1024, "{statistics}");
    let passed = statistics.get("hidden_bytes");
    assert_eq!(
        passed,
        statistics.get("stream_hidden_bytes"),
        "{statistics}"
    );
    assert!(passed > 2 * REQUESTS / 4 * 3_000, "{statistics}");
    Ok(())
}

/// Up to six requests in one send, sampled and unsampled by turns, to a server that answers them in as few sends.
fn pipelined(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    let (mut expected, mut unsampled, mut n) = (BTreeSet::new(), 0, 0);
    for round in 0..18 {
        let size = round % 6 + 1;
        let mut bytes = String::new();
        for _ in 0..size {
            let path = format!("/p/{n}");
            bytes += &request(&path, is_sampled(n), "");
            if is_sampled(n) {
                expected.insert(path);
            } else {
                unsampled += 1;
            }
            n += 1;
        }
        connection.send(bytes.as_bytes())?;
        for _ in 0..size {
            assert_eq!(connection.response("GET")?.text(), "hello\n");
        }
    }
    collector.wait_for_spans(2 * expected.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    assert_paths(&collector.spans(), &expected);
    assert_in_order(&statistics);
    assert_eq!(statistics.unsampled(), 2 * unsampled, "{statistics}");
    assert!(
        statistics.get("requests_hidden") > unsampled,
        "{statistics}"
    );
    Ok(())
}

/// One after another, with heads and bodies of every kind; each sampled one has its own status and its own size.
fn alternates(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _service = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    let long = format!("X-Long: {}\r\n", "y".repeat(1_500));
    let (mut expected, mut unsampled) = (BTreeSet::new(), 0);
    for n in 0..90 {
        let (kind, sampled) = (n % 10, is_sampled(n / 10 + n % 10));
        let (path, more) = match kind {
            0 => (format!("/size/{}", 10_000 + n), ""),
            1 => (format!("/size/{n}"), long.as_str()),
            2 => (format!("/chunked/{n}"), ""),
            3 => (format!("/status/{}", 400 + n), ""),
            4 => (format!("/status/{}", 200 + n), ""),
            // By sendfile, of which before Linux 6.5 no hook sees the body.
            9 => (format!("/file/{}", 1_000 * (n + 1)), ""),
            _ => (format!("/hello/{n}"), ""),
        };
        let head = request(&path, sampled, more);
        match kind {
            // In two pieces, each read by itself.
            5 => {
                let (one, other) = head.as_bytes().split_at(head.len() / 2);
                connection.send(one)?;
                connection.wait_until_read(port)?;
                connection.send(other)?;
            }
            // A body in the same send, and one in another.
            6 | 7 => {
                let mut head = head.replacen("GET", "POST", 1);
                head.truncate(head.len() - 2);
                let _ = write!(head, "Content-Length: {}\r\n\r\n", 100 + n);
                let body = "b".repeat(100 + n);
                if kind == 6 {
                    head += &body;
                }
                connection.send(head.as_bytes())?;
                if kind == 7 {
                    connection.send(body.as_bytes())?;
                }
            }
            8 => {
                connection.send(head.replacen("GET", "HEAD", 1).as_bytes())?;
            }
            _ => connection.send(head.as_bytes())?,
        }
        let method = if kind == 8 { "HEAD" } else { "GET" };
        let response = connection.response(method)?;
        if kind == 3 || kind == 4 {
            assert!(path.ends_with(&response.status.to_string()), "{path}");
        }
        if sampled {
            expected.insert(path);
        } else {
            unsampled += 1;
        }
    }
    collector.wait_for_spans(2 * expected.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_paths(&spans, &expected);
    for span in &spans.0 {
        let parts: Vec<&str> = span.path().split('/').collect();
        let number: u64 = parts[2].parse()?;
        let (status, body) = match parts[1] {
            "size" | "file" => (200, number),
            "chunked" => (200, 5 * number),
            "status" => (number, 0),
            _ if span.get("http.request.method") == "HEAD" => (200, 0),
            _ if span.get("http.request.method") == "POST" => (200, 4),
            _ => (200, 6),
        };
        assert_eq!(
            span.get("http.response.status_code"),
            status.to_string(),
            "{}",
            span.line()
        );
        let size = span.get(RESPONSE_BODY);
        assert!(
            size == body.to_string(),
            "{size}, not {body}: {}",
            span.line()
        );
    }
    assert_in_order(&statistics);
    assert_eq!(statistics.unsampled(), 2 * unsampled, "{statistics}");
    // Long and cut heads are told before anybody knows.
    let hidden = statistics.get("requests_hidden");
    assert!(hidden > unsampled && hidden < 2 * unsampled, "{statistics}");
    Ok(())
}

/// A recording holds no byte of a request that is not sampled, nor of its answer. Where nothing is hidden, the same requests are in it.
fn recorded(context: &mut Context) -> Result<()> {
    for hides in [true, false] {
        let server = Scripted::start(context, |stream, head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let status = if path.ends_with("/500") { 500 } else { 200 };
            let answer = format!(
                "HTTP/1.1 {status} X\r\nX-Of: {path}\r\nContent-Length: 4\r\n\r\n{status}\n"
            );
            stream.write_all(answer.as_bytes())
        })?;
        let file = context.folder().join(format!("recording-{hides}"));
        let collector = Collector::start()?;
        let setup = Setup::grpc(&collector).recording_to(&file);
        let mut setup = setup
            .port(server.port())
            .env("OTEL_TRACES_SAMPLER", "always_off");
        if !hides {
            setup = setup.arg("--fault").arg("nothing-hidden");
        }
        let agent = setup.start(context)?;
        // The accept() that waited while the agent started is not seen to return.
        drop(Connection::open(server.port())?);
        let mut connection = Connection::open(server.port())?;
        for path in ["/left/1", "/left/2", "/left/500"] {
            connection.get(path)?;
        }
        connection.send(request("/told", true, "").as_bytes())?;
        assert_eq!(connection.response("GET")?.status, 200);
        collector.wait_for_spans(2, PATIENCE)?;
        let statistics = agent.stop()?;
        assert_paths(&collector.spans(), &["/told".to_owned()].into());
        let bytes = fs::read(&file)?;
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(holds(b"GET /told") && holds(b"X-Of: /told"));
        for left in [&b"GET /left"[..], b"X-Of: /left"] {
            assert_eq!(holds(left), !hides, "{}", String::from_utf8_lossy(left));
        }
        // Both ends are traced.
        let hidden = if hides { 2 * 3 } else { 0 };
        assert_eq!(statistics.get("requests_hidden"), hidden, "{statistics}");
        assert_eq!(statistics.unsampled(), 2 * 3, "{statistics}");
        assert_eq!(statistics.unsampled_failed(), 2, "{statistics}");
    }
    Ok(())
}

/// A client that goes away: its hidden request failed, at both ends.
fn resets_counted(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _service = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    for _ in 0..3 {
        let mut connection = Connection::open(port)?;
        connection.send(request("/hang", false, "").as_bytes())?;
        connection.wait_until_read(port)?;
        connection.reset()?;
    }
    let mut connection = Connection::open(port)?;
    connection.send(request("/told", true, "").as_bytes())?;
    assert_eq!(connection.response("GET")?.status, 200);
    collector.wait_for_spans(2, PATIENCE)?;
    let statistics = agent.stop()?;
    assert_eq!(statistics.get("requests_hidden"), 2 * 3, "{statistics}");
    assert_eq!(
        statistics.get("requests_hidden_failed"),
        2 * 3,
        "{statistics}"
    );
    assert_in_order(&statistics);
    Ok(())
}

/// Answers to hidden requests whose heads are too long to be followed: the place is lost each time, and what is sampled behind them has its own answer, at
/// both ends.
fn place_lost(context: &mut Context) -> Result<()> {
    const ROUNDS: u16 = 4;
    let server = Scripted::start(context, |stream, head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (kind, number) = path[1..].split_once('/').unwrap_or_default();
        let status = if kind == "told" { number } else { "200" };
        let long = if kind == "huge" { 20_000 } else { 1 };
        let answer = format!(
            "HTTP/1.1 {status} X\r\nX-Long: {}\r\nContent-Length: 4\r\n\r\n{status}\n",
            "y".repeat(long)
        );
        stream.write_all(answer.as_bytes())
    })?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(server.port()).start(context)?;
    // The accept() that waited while the agent started is not seen to return.
    drop(Connection::open(server.port())?);
    let mut connection = Connection::open(server.port())?;
    let mut expected = BTreeSet::new();
    // Each names another caller: the server is in this process, and one that sends on what it has read forwards it.
    let mut callers = 1_u64..;
    let mut ask = |path: &str, sampled| {
        let caller = format!("{:016x}", callers.next().unwrap_or_default());
        let head = request(path, sampled, "").replace(PARENT, &caller);
        connection.send(head.as_bytes())?;
        connection.response("GET")
    };
    for round in 0..ROUNDS {
        for path in ["/left/1", "/huge/2"] {
            assert_eq!(ask(path, false)?.status, 200);
        }
        for n in 0..2 {
            let status = 211 + 2 * round + n;
            let path = format!("/told/{status}");
            assert_eq!(ask(&path, true)?.status, status);
            expected.insert(path);
        }
    }
    collector.wait_for_spans(2 * expected.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_paths(&spans, &expected);
    for span in &spans.0 {
        let own = span.path().trim_start_matches("/told/");
        let status = span.get("http.response.status_code");
        assert_eq!(status, own, "{}", spans.render());
    }
    // At both ends.
    let lost = 2 * u64::from(ROUNDS);
    assert_eq!(statistics.get("hiding_lost"), lost, "{statistics}");
    assert_eq!(statistics.get("responses_unpaired"), 0, "{statistics}");
    Ok(())
}

/// Without hiding the agent hears of each, and the same spans leave.
fn nothing_hidden(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .arg("--fault")
        .arg("nothing-hidden")
        .start(context)?;
    let mut connection = Connection::open(port)?;
    let mut expected = BTreeSet::new();
    for n in 0..18 {
        let path = format!("/p/{n}");
        connection.send(request(&path, is_sampled(n), "").as_bytes())?;
        assert_eq!(connection.response("GET")?.status, 200);
        if is_sampled(n) {
            expected.insert(path);
        }
    }
    collector.wait_for_spans(2 * expected.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    assert_paths(&collector.spans(), &expected);
    assert_eq!(statistics.get("requests_hidden"), 0, "{statistics}");
    let unsampled = 2 * (18 - expected.len() as u64);
    assert_eq!(statistics.get("spans_unsampled"), unsampled, "{statistics}");
    Ok(())
}
