//! Trace context in other headers than `traceparent`: B3, Jaeger's, and pairs of headers of one's own.

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, assert_text, collector::Collector, http::Connection, service,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("context_of_other_propagators", adopted),
    Scenario::full("context_of_other_propagators_unasked", unasked),
    Scenario::full("context_b3_through_nginx", through_nginx),
];

/// The values that all requests carry, 128 bits, and their low half alone.
const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const SHORT: &str = "000000000000000064fe8b2a57d3eff7";
const PARENT: &str = "e457b5a2e4d86bd1";
const OTHER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Every form of every propagator, in the order in which they are asked for, with the trace id that the span must have; its parent is [`PARENT`].
fn cases() -> Vec<(String, &'static str)> {
    let all = |lines: &str, trace| {
        let lines = lines
            .replace("TRACE", TRACE)
            .replace("SHORT", &SHORT[16..])
            .replace("SPAN", PARENT);
        (lines.replace('\n', "\r\n"), trace)
    };
    vec![
        all("b3: TRACE-SPAN-1-05e3ac9a4f6e3b90\n", TRACE),
        all("B3:SHORT-SPAN-d\n", SHORT),
        all("b3: TRACE-SPAN\n", TRACE),
        all(
            "X-B3-TraceId: TRACE\nX-B3-ParentSpanId: 05e3ac9a4f6e3b90\nX-B3-SpanId: SPAN\nX-B3-Sampled: 1\n",
            TRACE,
        ),
        all(
            "x-b3-spanid: SPAN\nX-B3-Flags: 1\nx-b3-traceid:\tSHORT\n",
            SHORT,
        ),
        all("uber-trace-id: TRACE:SPAN:0:1\n", TRACE),
        all("Uber-Trace-Id: SHORT%3ASPAN%3A0%3A3\n", SHORT),
        all("X-Trace-Id: TRACE\nX-Parent-Span-ID: SPAN\n", TRACE),
        // The first propagator that is there counts.
        all("uber-trace-id: 1:2:0:1\nb3: TRACE-SPAN-1\n", TRACE),
        all(
            "x-b3-sampled: 0\nb3: TRACE-SPAN-1\nx-b3-traceid: SHORT\n",
            TRACE,
        ),
    ]
}

/// What begins a trace, all the same: malformed, incomplete, twice.
const MALFORMED: [&str; 4] = [
    "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd\r\n",
    "b3: 80f198ee56343ba864fe8b2a57d3eff7-0000000000000000-1\r\n",
    "uber-trace-id: 1:2:0\r\n",
    "X-Trace-Id: 4f9a0d1e-80f1-98ee\r\nX-Parent-Span-ID: e457b5a2e4d86bd1\r\n",
];
const INCOMPLETE: [&str; 2] = [
    "X-Trace-Id: 80f198ee56343ba864fe8b2a57d3eff7\r\n",
    "X-B3-Sampled: 1\r\n",
];

const UNSAMPLED: [&str; 3] = [
    "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0\r\n",
    "X-B3-TraceId: 80f198ee56343ba864fe8b2a57d3eff7\r\nX-B3-SpanId: e457b5a2e4d86bd1\r\nX-B3-Sampled: 0\r\n",
    "uber-trace-id: 80f198ee56343ba864fe8b2a57d3eff7:e457b5a2e4d86bd1:0:0\r\n",
];

fn start(context: &Context) -> Result<(u16, impl Drop + use<>)> {
    let port = context.port();
    let nginx = service::static_nginx(context, port)?;
    Ok((port, nginx))
}

fn adopted(context: &mut Context) -> Result<()> {
    let (port, _nginx) = start(context)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .arg("--propagators")
        .arg("tracecontext,b3,b3multi,jaeger,X-Trace-Id/X-Parent-Span-ID")
        .start(context)?;
    let mut connection = Connection::open(port)?;
    let cases = cases();
    for (n, (lines, _)) in cases.iter().enumerate() {
        assert_eq!(
            connection.get_with(&format!("/whole/{n}"), lines)?.status,
            200
        );
        // The same in three reads, which end inside names and values.
        let request = format!("GET /cut/{n} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let third = request.len() / 3 + 1;
        for piece in request.as_bytes().chunks(third) {
            connection.send(piece)?;
            connection.wait_until_read(port)?;
        }
        assert_eq!(connection.response("GET")?.status, 200);
    }
    for lines in UNSAMPLED {
        assert_eq!(connection.get_with("/unsampled", lines)?.status, 200);
    }
    let roots: Vec<&str> = MALFORMED.into_iter().chain(INCOMPLETE).collect();
    for (n, lines) in roots.iter().enumerate() {
        assert_eq!(
            connection.get_with(&format!("/root/{n}"), lines)?.status,
            200
        );
    }
    // A `traceparent` counts, and where it is malformed nothing does.
    let b3 = format!("b3: {TRACE}-{PARENT}-1\r\n");
    let both = format!("{b3}traceparent: {OTHER}\r\n");
    assert_eq!(connection.get_with("/both", &both)?.status, 200);
    let malformed = format!("traceparent: 00-1-2-01\r\n{b3}");
    assert_eq!(
        connection.get_with("/root/traceparent", &malformed)?.status,
        200
    );
    // Beyond the scanner's first block.
    let long = format!("Cookie: {}\r\n{b3}", "x".repeat(3_000));
    assert_eq!(connection.get_with("/long", &long)?.status, 200);

    let expected = 2 * cases.len() + roots.len() + 3;
    collector.wait_for_spans(expected, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), expected, "{}", spans.render());
    assert_eq!(
        statistics.unsampled(),
        UNSAMPLED.len() as u64,
        "{statistics}"
    );
    assert_eq!(
        statistics.get("propagator_malformed"),
        MALFORMED.len() as u64,
        "{statistics}"
    );
    let context_of = |path: &str| {
        let of_path = spans.filter(|span| span.path() == path);
        let span = of_path.only();
        (span.trace_id(), span.parent_id())
    };
    for (n, (lines, trace)) in cases.iter().enumerate() {
        for path in [format!("/whole/{n}"), format!("/cut/{n}")] {
            let expected = ((*trace).to_owned(), PARENT.to_owned());
            assert_eq!(context_of(&path), expected, "{path}: {lines}");
        }
    }
    for span in &spans.filter(|span| span.path().starts_with("/root/")).0 {
        assert_eq!(span.parent_id(), "", "{}", span.line());
        assert_ne!(span.trace_id(), TRACE, "{}", span.line());
    }
    assert_eq!(
        context_of("/both"),
        (OTHER[3..35].to_owned(), OTHER[36..52].to_owned())
    );
    assert_eq!(context_of("/long"), (TRACE.to_owned(), PARENT.to_owned()));
    Ok(())
}

/// The negative control, and the default: the same headers say nothing.
fn unasked(context: &mut Context) -> Result<()> {
    let (port, _nginx) = start(context)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    let mut connection = Connection::open(port)?;
    let cases = cases();
    for (lines, _) in &cases {
        assert_eq!(connection.get_with("/", lines)?.status, 200);
    }
    collector.wait_for_spans(cases.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), cases.len(), "{}", spans.render());
    for span in &spans.0 {
        assert_eq!(span.parent_id(), "", "{}", span.line());
    }
    assert_eq!(statistics.get("propagator_malformed"), 0, "{statistics}");
    Ok(())
}

/// nginx forwards the header as it came: the backend's parent is nginx's span, in the caller's trace.
fn through_nginx(context: &mut Context) -> Result<()> {
    let (front, back) = (context.port(), context.port());
    let backend = format!("127.0.0.1:{back}");
    let _back = service::python(context, "threads.py", back, &[])?;
    let values = [
        ("BACKEND", backend.as_str()),
        ("KEEPALIVE", "keepalive 16;"),
        ("CONNECTION", ""),
    ];
    let _front = service::nginx(context, "proxy.conf", front, &values)?;
    let collector = Collector::start()?;
    // The harness's own client is left out: the context comes from outside.
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .arg("--exe")
        .arg("python*")
        .arg("--propagators")
        .arg("b3")
        .start(context)?;
    let mut connection = Connection::open(front)?;
    const COUNT: usize = 4;
    for id in 1..=COUNT {
        let lines = format!("b3: {TRACE}-{PARENT}-1\r\n");
        assert_eq!(
            connection.get_with(&format!("/b/{id}/1"), &lines)?.status,
            200
        );
    }
    collector.wait_for_spans(COUNT * 3, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    let expected: String = (1..=COUNT)
        .map(|id| {
            format!(
                "(absent)\n\
                 \x20 SERVER nginx GET /b/{id}/1 200\n\
                 \x20   CLIENT nginx GET /b/{id}/1 200\n\
                 \x20     SERVER threads GET /b/{id}/1 200\n"
            )
        })
        .collect();
    assert_text("the traces", &spans.render(), &expected);
    for span in &spans.0 {
        assert_eq!(span.trace_id(), TRACE, "{}", span.line());
    }
    let servers = spans.of("nginx").servers();
    assert!(
        servers.0.iter().all(|span| span.parent_id() == PARENT),
        "{}",
        spans.render()
    );
    Ok(())
}
