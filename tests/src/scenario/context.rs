//! Trace context between processes: what a request brings along, and what this kernel knows by itself.

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, assert_text, collector::Collector, http::Connection,
    scripted::Scripted, service, trace::hex,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core(
        "context_incoming_traceparent_adopted",
        incoming_traceparent_adopted,
    ),
    Scenario::full(
        "context_malformed_traceparent_ignored",
        malformed_traceparent_ignored,
    ),
    Scenario::core("context_same_kernel_chain", same_kernel_chain),
    Scenario::core("context_forwarded_by_nginx", forwarded_by_nginx),
    Scenario::full("context_untrusted_becomes_a_link", untrusted_becomes_a_link),
    Scenario::full("context_record_that_nobody_takes", record_that_nobody_takes),
    Scenario::full(
        "context_nothing_written_on_the_wire",
        nothing_written_on_the_wire,
    ),
];

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Values of `proxy.conf`.
fn proxy(backend: &str, keepalive: bool) -> [(&str, &str); 3] {
    [
        ("BACKEND", backend),
        ("KEEPALIVE", if keepalive { "keepalive 16;" } else { "" }),
        ("CONNECTION", if keepalive { "" } else { "close" }),
    ]
}

/// Any letter case of the name, blanks around the value, unknown versions, flags, tracestate; unsampled traces are counted and not sent.
fn incoming_traceparent_adopted(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    let value = format!("00-{TRACE}-{PARENT}");
    // Header lines, and the flags and state that the span must have.
    let adopted = [
        (format!("traceparent: {value}-01\r\n"), 1, ""),
        (format!("Traceparent: {value}-03\r\n"), 3, ""),
        (format!("TRACEPARENT:{value}-01\r\n"), 1, ""),
        (format!("tRaCePaReNt: \t {value}-01 \t\r\n"), 1, ""),
        (
            format!(
                "traceparent: {value}-01\r\ntracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE\r\n"
            ),
            1,
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
        ),
        (
            format!("TraceState: a=1\r\nX-Other: traceparent\r\ntraceparent: {value}-01\r\n"),
            1,
            "a=1",
        ),
        (
            format!("traceparent: cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like\r\n"),
            1,
            "",
        ),
    ];
    let mut connection = Connection::open(port)?;
    for (n, (lines, ..)) in adopted.iter().enumerate() {
        assert_eq!(
            connection.get_with(&format!("/adopted/{n}"), lines)?.status,
            200
        );
    }
    for n in 0..3 {
        let lines = format!("traceparent: {value}-00\r\n");
        assert_eq!(
            connection
                .get_with(&format!("/unsampled/{n}"), &lines)?
                .status,
            200
        );
    }
    assert_eq!(connection.get("/root")?.status, 200);
    collector.wait_for_spans(adopted.len() + 1, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), adopted.len() + 1, "{}", spans.render());
    assert_eq!(statistics.unsampled(), 3, "{statistics}");
    for (n, (lines, flags, state)) in adopted.iter().enumerate() {
        let of_case = spans.filter(|span| span.path() == format!("/adopted/{n}"));
        let span = of_case.only();
        assert_eq!(
            (span.trace_id().as_str(), span.parent_id().as_str()),
            (TRACE, PARENT),
            "{lines}"
        );
        // Bits 0 to 7 of OTLP's flags are the W3C flags; bits 8 and 9 say that the parent is known to be remote.
        assert_eq!(span.otlp.flags & 0xff, *flags, "{lines}");
        assert_eq!(span.otlp.flags & 0x300, 0x300, "{lines}");
        assert_eq!(span.otlp.trace_state, *state, "{lines}");
    }
    let root = spans.filter(|span| span.path() == "/root");
    assert_eq!(root.only().parent_id(), "");
    assert_ne!(root.only().trace_id(), TRACE);
    Ok(())
}

/// W3C Trace Context 3.2: what is malformed is as if it were not there.
fn malformed_traceparent_ignored(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::http(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    let zero_trace = "0".repeat(32);
    let zero_span = "0".repeat(16);
    let upper = TRACE.to_uppercase();
    let cut = &TRACE[1..];
    let lines = [
        format!("traceparent: 00-{zero_trace}-{PARENT}-01\r\n"),
        format!("traceparent: 00-{TRACE}-{zero_span}-01\r\n"),
        format!("traceparent: ff-{TRACE}-{PARENT}-01\r\n"),
        format!("traceparent: 00-{upper}-{PARENT}-01\r\n"),
        format!("traceparent: 00-{cut}-{PARENT}-01\r\n"),
        format!("traceparent: 00-{TRACE}-{PARENT}-01-more\r\n"),
        format!("traceparent: 00-{TRACE}-{PARENT}-01 more\r\n"),
        format!("traceparent: 00-{TRACE}-{PARENT}-0\r\n"),
        format!("traceparent: 00-{TRACE}-{PARENT}\r\n"),
        format!("traceparent: 00_{TRACE}_{PARENT}_01\r\n"),
        format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n"),
        "traceparent:\r\n".to_owned(),
        format!("x-traceparent: 00-{TRACE}-{PARENT}-01\r\n"),
        format!("traceparent-x: 00-{TRACE}-{PARENT}-01\r\n"),
        format!("x: y traceparent: 00-{TRACE}-{PARENT}-01\r\n"),
    ];
    let mut connection = Connection::open(port)?;
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(connection.get_with(&format!("/bad/{n}"), line)?.status, 200);
    }
    collector.wait_for_spans(lines.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), lines.len(), "{}", spans.render());
    // All but the one that is there twice, and the three that are other headers.
    let malformed = lines.len() as u64 - 4;
    assert_eq!(
        statistics.get("traceparent_malformed"),
        malformed,
        "{statistics}"
    );
    let mut traces = BTreeMap::new();
    for (n, line) in lines.iter().enumerate() {
        let of_case = spans.filter(|span| span.path() == format!("/bad/{n}"));
        let span = of_case.only();
        assert_eq!(span.parent_id(), "", "{line}");
        assert_ne!(span.trace_id(), TRACE, "{line}");
        assert_eq!(
            traces.insert(span.trace_id(), n),
            None,
            "a root has a trace of its own: {line}"
        );
    }
    Ok(())
}

/// nginx in front of Python, which calls Node and Python: one trace per request, and nothing was written on any wire.
fn same_kernel_chain(context: &mut Context) -> Result<()> {
    let (front, middle, node, python) = (
        context.port(),
        context.port(),
        context.port(),
        context.port(),
    );
    let address = |port: u16| format!("127.0.0.1:{port}");
    let _node = service::node(context, "calls.js", node, &[])?;
    let _python = service::python(context, "threads.py", python, &[])?;
    let _middle = service::python(
        context,
        "threads.py",
        middle,
        &["--backend", &address(node), "--backend", &address(python)],
    )?;
    let _front = service::nginx(context, "proxy.conf", front, &proxy(&address(middle), true))?;
    let collector = Collector::start()?;
    let mut setup = Setup::grpc(&collector);
    for port in [front, middle, node, python] {
        setup = setup.port(port);
    }
    let agent = setup.start(context)?;
    let mut connection = Connection::open(front)?;
    for id in 1..=5 {
        assert_eq!(connection.get(&format!("/f/{id}"))?.status, 200);
    }
    collector.wait_for_spans(5 * 8, PATIENCE)?;
    agent.stop()?;
    let expected: String = (1..=5)
        .map(|id| {
            format!(
                "CLIENT scenarios GET /f/{id} 200\n\
                 \x20 SERVER nginx GET /f/{id} 200\n\
                 \x20   CLIENT nginx GET /f/{id} 200\n\
                 \x20     SERVER threads GET /f/{id} 200\n\
                 \x20       CLIENT threads GET /b/{id}/1 200\n\
                 \x20         SERVER calls GET /b/{id}/1 200\n\
                 \x20       CLIENT threads GET /b/{id}/2 200\n\
                 \x20         SERVER threads GET /b/{id}/2 200\n"
            )
        })
        .collect();
    let spans = collector.spans();
    assert_text("the traces", &spans.render(), &expected);
    // No child starts before its parent on the same host.
    for span in &spans.0 {
        if let Some(parent) = spans.parent_of(span) {
            assert!(
                span.otlp.start_time_unix_nano >= parent.otlp.start_time_unix_nano,
                "{} starts before its parent",
                span.line()
            );
        }
    }
    Ok(())
}

/// The outer client sends a context that nginx forwards as it is: the backend's parent is nginx's span, not the outer client's.
fn forwarded_by_nginx(context: &mut Context) -> Result<()> {
    let (front, back) = (context.port(), context.port());
    let backend = format!("127.0.0.1:{back}");
    let _back = service::python(context, "threads.py", back, &[])?;
    let _front = service::nginx(context, "proxy.conf", front, &proxy(&backend, true))?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .arg("--exe")
        .arg("python3*")
        .start(context)?;
    let mut connection = Connection::open(front)?;
    for (n, flags) in [(1, "01"), (2, "03"), (3, "00")] {
        let lines = format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\ntracestate: a={n}\r\n");
        assert_eq!(connection.get_with(&format!("/b/{n}"), &lines)?.status, 200);
    }
    collector.wait_for_spans(6, PATIENCE)?;
    let statistics = agent.stop()?;
    let expected: String = (1..=2)
        .map(|n| {
            format!("(absent)\n  SERVER nginx GET /b/{n} 200\n    CLIENT nginx GET /b/{n} 200\n      SERVER threads GET /b/{n} 200\n")
        })
        .collect();
    let spans = collector.spans();
    assert_text("the traces", &spans.render(), &expected);
    assert_eq!(
        statistics.unsampled(),
        3,
        "the third trace is not sampled: {statistics}"
    );
    for span in &spans.0 {
        let n: u32 = span
            .path()
            .rsplit('/')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("paths end in a number");
        assert_eq!(
            (span.trace_id().as_str(), span.otlp.trace_state.clone()),
            (TRACE, format!("a={n}"))
        );
        assert_eq!(span.otlp.flags & 0xff, if n == 1 { 1 } else { 3 });
    }
    Ok(())
}

/// nginx does not trust its client's address and forwards its header all the same; its backend trusts nginx: one trace of our own, which ends in a link.
fn untrusted_becomes_a_link(context: &mut Context) -> Result<()> {
    let (front, back) = (context.port(), context.port());
    let backend = format!("127.0.0.1:{back}");
    let _back = service::python(context, "threads.py", back, &[])?;
    let _front = service::nginx(context, "proxy.conf", front, &proxy(&backend, false))?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .arg("--exe")
        .arg("python3*")
        .arg("--trust-context")
        .arg("127.0.0.2/32")
        .start(context)?;
    let mut connection = Connection::open(front)?;
    for (n, flags) in [(1, "01"), (2, "00")] {
        let lines = format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\ntracestate: a={n}\r\n");
        assert_eq!(
            connection.get_with(&format!("/bound/{n}"), &lines)?.status,
            200
        );
    }
    assert_eq!(connection.get("/bound/3")?.status, 200);
    collector.wait_for_spans(9, PATIENCE)?;
    let statistics = agent.stop()?;
    let expected: String = (1..=3)
        .map(|n| {
            format!("SERVER nginx GET /bound/{n} 200\n  CLIENT nginx GET /b/{n} 200\n    SERVER threads GET /b/{n} 200\n")
        })
        .collect();
    let spans = collector.spans();
    assert_text("the traces", &spans.render(), &expected);
    for span in &spans.0 {
        assert_ne!(span.trace_id(), TRACE, "{}", span.line());
        assert_eq!(span.otlp.trace_state, "", "{}", span.line());
        let links: Vec<_> = span
            .otlp
            .links
            .iter()
            .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
            .collect();
        let meets_it = ["/bound/1", "/bound/2"].contains(&span.path());
        let expected = meets_it.then(|| (TRACE.to_owned(), PARENT.to_owned()));
        assert_eq!(links, Vec::from_iter(expected), "{}", span.line());
    }
    assert_eq!(statistics.get("contexts_untrusted"), 2, "{statistics}");
    assert_eq!(statistics.get("record_differs"), 0, "{statistics}");
    Ok(())
}

/// Pipelined requests to a service that is not traced: their records would stay for as long as the agent runs.
fn record_that_nobody_takes(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let agent = Setup::bare()
        .arg("--exe")
        .arg("scenarios")
        .arg("--fault")
        .arg("short-requests")
        .start(context)?;
    let mut connection = Connection::open(port)?;
    let request = "GET /small HTTP/1.1\r\nHost: nginx\r\n\r\n";
    for round in 1..=3 {
        connection.send(request.repeat(3).as_bytes())?;
        for _ in 0..3 {
            assert_eq!(connection.response("GET")?.status, 200, "round {round}");
        }
    }
    // Old after two seconds, and then deleted within half of one.
    std::thread::sleep(Duration::from_secs(5));
    let statistics = agent.stop()?;
    let stored = statistics.get("handovers_stored");
    assert_eq!(stored, 9, "{statistics}");
    assert_eq!(statistics.get("handovers_found"), 0, "{statistics}");
    // Each round's first request deletes the record of the last one before it.
    assert_eq!(statistics.get("handovers_expired"), 7, "{statistics}");
    assert_eq!(statistics.get("handovers_held"), 0, "{statistics}");
    Ok(())
}

/// With the agent running, the server receives exactly the bytes that the client sent.
fn nothing_written_on_the_wire(context: &mut Context) -> Result<()> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let server = Scripted::start(context, move |stream, head| {
        let _ = sender.send(head.to_owned());
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
    })?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(server.port()).start(context)?;
    let mut connection = Connection::open(server.port())?;
    for n in 0..20 {
        let head = format!(
            "GET /wire/{n} HTTP/1.1\r\nHost: shop.test\r\nX: {}\r\n\r\n",
            "y".repeat(n * 50)
        );
        connection.send(head.as_bytes())?;
        assert_eq!(connection.response("GET")?.status, 204);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5))?, head);
    }
    collector.wait_for_spans(40, PATIENCE)?;
    agent.stop()?;
    assert_eq!(collector.spans().len(), 40);
    Ok(())
}
