//! HTTP/1 between real clients and servers: counts, order, ends.

use std::{fs, io::Write as _, process::Command};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, assert_text, collector::Collector, http::Connection, load,
    process::Program, scripted::Scripted, service, trace::RESPONSE_BODY, wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("http1_keepalive_exact_counts", keepalive_exact_counts),
    Scenario::core(
        "http1_pipelined_five_in_one_write",
        pipelined_five_in_one_write,
    ),
    Scenario::full("http1_reset_and_unanswered", reset_and_unanswered),
    Scenario::full(
        "http1_older_connection_second_message_exact",
        older_connection_second_message_exact,
    ),
    Scenario::full("http1_older_accept_is_exact", older_accept_is_exact),
    Scenario::full("http1_wrk_counts_as_nginx_does", wrk_counts_as_nginx_does),
    Scenario::full("http1_two_cpus_exact_counts", two_cpus_exact_counts).cpus(2),
];

/// Eight keep-alive connections of the harness and one of curl; both ends are traced, every exchange gives one span at each end, and all
/// are complete while the connections are still open.
fn keepalive_exact_counts(context: &mut Context) -> Result<()> {
    const REQUESTS: usize = 200;
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connections: Vec<_> = (0..8)
        .map(|_| Connection::open(port))
        .collect::<Result<_>>()?;
    for request in 0..REQUESTS {
        let response = connections[request % 8].get(&format!("/item/{request}"))?;
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "hello\n")
        );
    }
    let url = format!("http://127.0.0.1:{port}/curl");
    let mut curl = Program::start(
        context,
        "curl",
        Command::new(service::program("curl")?).args(["-s", &url, &url, &url]),
    )?;
    assert!(curl.wait(PATIENCE)?.success());
    let spans = collector.wait_for_spans(2 * (REQUESTS + 3), PATIENCE)?;
    drop(connections);
    let statistics = agent.stop()?;
    let mut expected: Vec<String> = (0..REQUESTS)
        .map(|request| pair("scenarios", "nginx", &format!("/item/{request}")))
        .collect();
    expected.extend((0..3).map(|_| pair("curl", "nginx", "/curl")));
    expected.sort();
    assert_text(
        "the traces",
        &collector.spans().render(),
        &expected.concat(),
    );
    assert_eq!(statistics.get("exchanges"), 2 * (REQUESTS as u64 + 3));
    for span in &spans.servers().0 {
        assert_eq!(span.otlp.name, "GET");
        let facts = [
            "server.port",
            "network.transport",
            "network.protocol.name",
            "network.protocol.version",
            "url.scheme",
            RESPONSE_BODY,
        ];
        let values = facts.map(|name| span.get(name));
        assert_eq!(
            values,
            [port.to_string().as_str(), "tcp", "http", "1.1", "http", "6"]
        );
        assert!(!span.is_error() && span.otlp.start_time_unix_nano < span.otlp.end_time_unix_nano);
    }
    Ok(())
}

/// The text of a trace with one client and one server span.
pub(super) fn pair(client: &str, server: &str, path: &str) -> String {
    format!("CLIENT {client} GET {path} 200\n  SERVER {server} GET {path} 200\n")
}

fn pipelined_five_in_one_write(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    let mut connection = Connection::open(port)?;
    let requests: String = (1..=5)
        .map(|n| format!("GET /p/{n} HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
        .collect();
    connection.send(requests.as_bytes())?;
    for _ in 0..5 {
        assert_eq!(connection.response("GET")?.text(), "hello\n");
    }
    collector.wait_for_spans(5, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    let mut ordered: Vec<_> = spans.0.iter().collect();
    ordered.sort_by_key(|span| (span.otlp.end_time_unix_nano, span.otlp.start_time_unix_nano));
    let paths: Vec<_> = ordered.iter().map(|span| span.path()).collect();
    assert_eq!(paths, ["/p/1", "/p/2", "/p/3", "/p/4", "/p/5"]);
    assert!(ordered.iter().all(|span| span.get(RESPONSE_BODY) == "6"));
    Ok(())
}

/// Requests that are never answered: the client goes away in order, or with a reset. Both ends tell so.
fn reset_and_unanswered(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _python = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    for (path, reset) in [("/hang/closed", false), ("/hang/reset", true)] {
        let mut connection = Connection::open(port)?;
        assert_eq!(connection.get("/before")?.status, 200);
        connection.send(request(path).as_bytes())?;
        connection.wait_until_read(port)?;
        if reset {
            connection.reset()?;
        }
    }
    collector.wait_for_spans(8, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    assert_eq!(
        (spans.clients().len(), spans.servers().len()),
        (4, 4),
        "{}",
        spans.render()
    );
    for span in &spans.filter(|span| span.path().starts_with("/hang")).0 {
        assert!(
            span.is_error() && !span.get("error.type").is_empty(),
            "{}",
            span.line()
        );
        assert_eq!(span.get("http.response.status_code"), "");
    }
    assert!(
        spans
            .filter(|span| span.path() == "/before")
            .0
            .iter()
            .all(|span| !span.is_error())
    );
    Ok(())
}

/// Connections that are older than the agent. nginx waits in epoll, so its next read is seen whole; the Python thread was already
/// blocked in its read when the agent came, so that message is missing, its response says so, and the second is exact.
fn older_connection_second_message_exact(context: &mut Context) -> Result<()> {
    let (nginx, python) = (context.port(), context.port());
    let _nginx = service::static_nginx(context, nginx)?;
    let _python = service::python(context, "threads.py", python, &[])?;
    let mut to_nginx = Connection::open(nginx)?;
    let mut to_python = Connection::open(python)?;
    assert_eq!(to_nginx.get("/unseen")?.status, 200);
    assert_eq!(to_python.get("/unseen")?.status, 200);
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(nginx)
        .port(python)
        .start(context)?;
    for path in ["/first", "/second", "/third"] {
        assert_eq!(to_nginx.get(path)?.status, 200);
        assert_eq!(to_python.get(path)?.status, 200);
    }
    let all_second = || {
        let spans = collector
            .spans()
            .servers()
            .filter(|span| span.path() != "/first");
        (spans.len() >= 4 && collector.spans().of("nginx").len() >= 3).then_some(())
    };
    wait_for(|| collector.spans().render(), PATIENCE, all_second)?;
    let statistics = agent.stop()?;
    let paths = |service: &str| -> Vec<String> {
        collector
            .spans()
            .servers()
            .of(service)
            .by_start()
            .iter()
            .map(|span| span.path().to_owned())
            .collect()
    };
    assert_eq!(paths("nginx"), ["/first", "/second", "/third"]);
    assert_eq!(paths("threads"), ["/second", "/third"]);
    // The stream begins where the programs first saw it, behind the request that was on its way: so nothing is missing in the stream, but one
    // response answers nothing.
    let counts = [
        "responses_unpaired",
        "stream_gap_bytes",
        "messages_lost_to_gap",
    ]
    .map(|name| statistics.get(name));
    assert_eq!(counts, [1, 0, 0], "{statistics}");
    for span in &collector.spans().servers().0 {
        assert_eq!(
            (
                span.get("http.response.status_code"),
                span.get(RESPONSE_BODY)
            ),
            ("200", "6"),
            "{}",
            span.line()
        );
    }
    Ok(())
}

/// A thread that was blocked in accept when the agent came: it leaves that call unseen, and the connection it comes back with is exact from
/// its first request on, as the next one is.
fn older_accept_is_exact(context: &mut Context) -> Result<()> {
    let server = Scripted::start(context, |stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
    })?;
    wait_for(
        || "a thread of this process to wait in accept".into(),
        PATIENCE,
        || threads_in("inet_csk_accept").then_some(()),
    )?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(server.port()).start(context)?;
    assert!(threads_in("inet_csk_accept"), "it waits no more");
    for connection in 1..=2 {
        let mut open = Connection::open(server.port())?;
        for n in 1..=2 {
            let response = open.get(&format!("/{connection}/{n}"))?;
            assert_eq!(response.text(), "hello\n");
        }
    }
    collector.wait_for_spans(8, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let expected: String = ["/1/1", "/1/2", "/2/1", "/2/2"]
        .iter()
        .map(|path| pair("scenarios", "scenarios", path))
        .collect();
    assert_text("the traces", &spans.render(), &expected);
    assert!(spans.0.iter().all(|span| span.get(RESPONSE_BODY) == "6"));
    let counts =
        ["responses_unpaired", "stream_gap_bytes", "heads_unseen"].map(|name| statistics.get(name));
    assert_eq!(counts, [0; 3], "{statistics}");
    Ok(())
}

/// Whether a thread of this process sleeps in this function of the kernel (proc(5), wchan), or below it.
fn threads_in(function: &str) -> bool {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    tasks.flatten().any(|task| {
        ["wchan", "stack"].iter().any(|file| {
            fs::read_to_string(task.path().join(file)).is_ok_and(|text| text.contains(function))
        })
    })
}

/// wrk at full speed for two seconds; nginx's own count of requests is the truth.
fn wrk_counts_as_nginx_does(context: &mut Context) -> Result<()> {
    let (port, control) = (context.port(), context.port());
    let status = format!("listen 127.0.0.1:{control}; location /status {{ stub_status; }}");
    let _nginx = service::nginx(
        context,
        "static.conf",
        port,
        &[("LISTEN", &status), ("SENDFILE", "on")],
    )?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "200000")
        .start(context)?;
    let url = format!("http://127.0.0.1:{port}/wrk");
    let mut wrk = Program::start(
        context,
        "wrk",
        Command::new(service::program("wrk")?).args(["-t1", "-c8", "-d2s", &url]),
    )?;
    assert!(wrk.wait(PATIENCE)?.success());
    // "server accepts handled requests" and the three numbers; the last counts requests, this one included.
    let text = Connection::open(control)?.get("/status")?.text();
    let requests: usize = text
        .lines()
        .nth(2)
        .and_then(|line| line.split_whitespace().nth(2))
        .and_then(|n| n.parse().ok())
        .expect("stub_status");
    assert!(requests > 100, "wrk made only {requests} requests");
    let statistics = agent.stop()?;
    let lost = statistics.get("ring_full")
        + statistics.get("spans_dropped_queue")
        + statistics.get("spans_dropped_export");
    assert_eq!(lost, 0, "{statistics}");
    // A kernel that preempts tasks inside programs skips some, and says how many; each costs one span at most, and none appears twice.
    let (spans, missed) = (
        collector.spans().len(),
        statistics.get("programs_missed") as usize,
    );
    assert!(
        spans <= requests && spans + missed >= requests,
        "{spans} spans of {requests} requests, {missed} programs missed"
    );
    Ok(())
}

/// Client, server and agent on two CPUs.
fn two_cpus_exact_counts(context: &mut Context) -> Result<()> {
    let (front, back) = (context.port(), context.port());
    let _back = service::python(context, "threads.py", back, &[])?;
    let _front = service::python(
        context,
        "threads.py",
        front,
        &["--backend", &format!("127.0.0.1:{back}")],
    )?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(front)
        .port(back)
        .start(context)?;
    load::numbered(front, "/f", 400, 8)?;
    collector.wait_for_quiet(1_600, PATIENCE / 3);
    let missed = agent.stop()?.get("programs_missed") as usize;
    let spans = collector.spans();
    if missed > 0 {
        // A send or receive that the kernel skipped costs its own message and, at most, the one before it on the connection.
        assert!(
            spans.len() <= 1_600 && spans.len() + 2 * missed >= 1_600,
            "{} spans, {missed} programs missed",
            spans.len()
        );
        let calls = spans
            .clients()
            .filter(|span| span.path().starts_with("/b/"));
        let links = load::judge(&spans, &calls, "threads");
        assert_eq!(links.wrong, 0, "{links:?}");
        return Ok(());
    }
    let mut expected: Vec<_> = (1..=400)
        .map(|id| {
            format!(
                "CLIENT scenarios GET /f/{id} 200\n  SERVER threads GET /f/{id} 200\n    CLIENT threads GET /b/{id}/1 200\n      \
                 SERVER threads GET /b/{id}/1 200\n"
            )
        })
        .collect();
    expected.sort();
    assert_text("the traces", &spans.render(), &expected.concat());
    Ok(())
}
