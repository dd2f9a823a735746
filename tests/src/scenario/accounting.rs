//! Every loss has a counter: each is forced once by a fault, the application does not notice, the books still balance, and what is not
//! lost is right. Those named "control" are negative controls: what the context and export scenarios prove is gone when its mechanism is broken.

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{Setup, Statistics},
    assert_text,
    collector::Collector,
    http::Connection,
    load, service,
    trace::Spans,
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("accounting_ring_full", ring_full),
    Scenario::full("accounting_slow_reader", slow_reader),
    Scenario::full("accounting_sockets_full", sockets_full),
    Scenario::core(
        "accounting_programs_say_what_they_refuse",
        programs_say_what_they_refuse,
    ),
    Scenario::full("accounting_threads_full", threads_full),
    Scenario::full("accounting_heads_full", heads_full),
    Scenario::full("accounting_handovers_full", handovers_full),
    Scenario::full("accounting_forwards_full", forwards_full),
    Scenario::full("accounting_scratch_busy", |context| {
        nothing_is_seen(context, "scratch-busy", "scratch_busy")
    }),
    Scenario::full("accounting_bodies_missing", |context| {
        nothing_is_seen(context, "bodies-missing", "bodies_missing")
    }),
    Scenario::full("accounting_unreadable", |context| {
        nothing_is_seen(context, "unreadable", "unreadable_bytes")
    }),
    Scenario::full("accounting_connections_over_limit", connections_over_limit),
    Scenario::full("accounting_processes_vanish", processes_vanish),
    Scenario::full("accounting_export_queue_full", export_queue_full),
    Scenario::full("accounting_report_on_a_signal", report_on_a_signal),
    Scenario::full("accounting_control_no_handover", control_no_handover),
    Scenario::full("accounting_control_no_causality", control_no_causality),
    Scenario::full("accounting_control_wrong_link", control_wrong_link),
    Scenario::full("accounting_control_trace_own", control_trace_own),
];

/// Runs an nginx under a fault while `work` talks to it, with both ends traced; gives what was counted and what arrived.
fn with_fault(
    context: &Context,
    fault: &str,
    work: impl FnOnce(u16) -> Result<()>,
) -> Result<(Statistics, Spans)> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .arg("--fault")
        .arg(fault)
        .start(context)?;
    work(port)?;
    let statistics = agent.stop()?;
    Ok((statistics, collector.spans()))
}

/// `count` requests with distinct paths on each of `connections` connections that stay open.
fn requests(port: u16, connections: usize, count: usize) -> Result<()> {
    let mut open: Vec<_> = (0..connections)
        .map(|_| Connection::open(port))
        .collect::<Result<_>>()?;
    for n in 0..count {
        for (c, connection) in open.iter_mut().enumerate() {
            assert_eq!(connection.get(&format!("/q/{c}/{n}"))?.text(), "hello\n");
        }
    }
    Ok(())
}

/// Bursts of pipelined requests: many records between two looks of the reader.
fn bursts(port: u16, count: usize) -> Result<()> {
    let mut connection = Connection::open(port)?;
    for burst in 0..count {
        let bytes: String = (0..20)
            .map(|n| format!("GET /q/{burst}/{n} HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
            .collect();
        connection.send(bytes.as_bytes())?;
        for _ in 0..20 {
            assert_eq!(connection.response("GET")?.text(), "hello\n");
        }
    }
    Ok(())
}

/// Loss removes messages, it invents none: every span is one of the requests, none of a kind is there twice.
fn assert_only_requests(spans: &Spans, limit: usize) {
    let mut seen = std::collections::BTreeSet::new();
    for span in &spans.0 {
        assert!(
            span.path().starts_with("/q/") || span.get("error.type") == "unobserved",
            "invented: {}",
            span.line()
        );
        assert!(
            span.path().is_empty() || seen.insert((span.is_client(), span.path().to_owned())),
            "twice: {}",
            span.line()
        );
    }
    assert!(
        spans.len() <= limit,
        "{} spans of at most {limit}",
        spans.len()
    );
}

fn ring_full(context: &mut Context) -> Result<()> {
    let (statistics, spans) = with_fault(context, "ring-full", |port| bursts(port, 30))?;
    assert!(statistics.get("ring_full") > 0, "{statistics}");
    assert_only_requests(&spans, 1_200);
    Ok(())
}

fn slow_reader(context: &mut Context) -> Result<()> {
    let (statistics, spans) = with_fault(context, "slow-reader", |port| bursts(port, 600))?;
    assert!(statistics.get("ring_full") > 0, "{statistics}");
    assert_only_requests(&spans, 24_000);
    Ok(())
}

fn sockets_full(context: &mut Context) -> Result<()> {
    let (statistics, spans) = with_fault(context, "sockets-full", |port| requests(port, 3, 5))?;
    assert!(statistics.get("sockets_full") > 0, "{statistics}");
    assert_only_requests(&spans, 30);
    Ok(())
}

/// With a log at debug the programs name the process whose connections they do not follow; without it they say nothing.
fn programs_say_what_they_refuse(context: &mut Context) -> Result<()> {
    for wanted in [true, false] {
        let port = context.port();
        let python = service::python(context, "threads.py", port, &[])?;
        let agent = Setup::bare()
            .port(port)
            .env(
                "UNDERTRACE_LOG",
                if wanted {
                    "info,undertrace::kernel=debug"
                } else {
                    "info"
                },
            )
            .arg("--fault")
            .arg("sockets-full")
            .start(context)?;
        assert!(!agent.output().contains("not traced"), "{}", agent.output());
        requests(port, 3, 1)?;
        let sentence = format!(
            "no room in SOCKETS: a connection of process {} is not followed",
            python.pid()
        );
        if wanted {
            wait_for(
                || format!("{sentence}\n{}", agent.output()),
                PATIENCE,
                || (agent.output().matches(&sentence).count() >= 3).then_some(()),
            )?;
        } else {
            assert!(!agent.output().contains("SOCKETS"), "{}", agent.output());
        }
        assert!(agent.stop()?.get("sockets_full") > 0);
    }
    Ok(())
}

fn threads_full(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _python = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .arg("--fault")
        .arg("threads-full")
        .start(context)?;
    requests(port, 4, 5)?;
    // Without a thread's state no cause is known; the requests themselves are.
    collector.wait_for_spans(40, PATIENCE)?;
    let statistics = agent.stop()?;
    assert!(statistics.get("threads_full") > 0, "{statistics}");
    assert_only_requests(&collector.spans(), 40);
    Ok(())
}

fn heads_full(context: &mut Context) -> Result<()> {
    let (statistics, spans) = with_fault(context, "heads-full", |port| {
        let mut open: Vec<_> = (0..4)
            .map(|_| Connection::open(port))
            .collect::<Result<_>>()?;
        for (c, connection) in open.iter_mut().enumerate() {
            connection
                .send(format!("GET /q/{c}/0 HTTP/1.1\r\nHost: shop.test\r\ntracepa").as_bytes())?;
            connection.wait_until_read(port)?;
        }
        for (c, connection) in open.iter_mut().enumerate() {
            connection
                .send(format!("rent: 00-{:032x}-00000000000000aa-01\r\n\r\n", c + 1).as_bytes())?;
            assert_eq!(connection.response("GET")?.text(), "hello\n");
        }
        Ok(())
    })?;
    assert!(statistics.get("heads_full") > 0, "{statistics}");
    assert_only_requests(&spans, 8);
    Ok(())
}

/// Several requests in one write leave several records, of which one finds room; the others' receivers begin traces of their own.
fn handovers_full(context: &mut Context) -> Result<()> {
    let (statistics, spans) = with_fault(context, "handovers-full", |port| bursts(port, 2))?;
    assert!(statistics.get("handovers_full") > 0, "{statistics}");
    assert_only_requests(&spans, 80);
    for span in &spans.servers().0 {
        if let Some(parent) = spans.parent_of(span) {
            assert_eq!(
                parent.path(),
                span.path(),
                "a wrong parent is worse than none"
            );
        }
    }
    Ok(())
}

/// Requests that bring a context in are served and traced as ever; that their calls could carry it on is what is lost.
fn forwards_full(context: &mut Context) -> Result<()> {
    let (statistics, spans) = with_fault(context, "forwards-full", |port| {
        let mut connection = Connection::open(port)?;
        for n in 0..5 {
            let header = format!("traceparent: 00-{:032x}-00000000000000aa-01\r\n", n + 1);
            let response = connection.get_with(&format!("/q/0/{n}"), &header)?;
            assert_eq!(response.text(), "hello\n");
        }
        Ok(())
    })?;
    assert!(statistics.get("forwards_full") >= 5, "{statistics}");
    assert_only_requests(&spans, 10);
    assert_eq!(spans.len(), 10, "{}", spans.render());
    Ok(())
}

/// The programs see nothing, say so, and invent nothing.
fn nothing_is_seen(context: &Context, fault: &str, counter: &str) -> Result<()> {
    let (statistics, spans) = with_fault(context, fault, |port| requests(port, 2, 5))?;
    assert!(statistics.get(counter) > 0, "{statistics}");
    assert!(spans.is_empty(), "{}", spans.render());
    Ok(())
}

fn connections_over_limit(context: &mut Context) -> Result<()> {
    let (statistics, spans) = with_fault(context, "connections-over-limit", |port| {
        requests(port, 3, 5)
    })?;
    assert!(statistics.get("connections_over_limit") > 0, "{statistics}");
    assert_only_requests(&spans, 30);
    Ok(())
}

fn processes_vanish(context: &mut Context) -> Result<()> {
    let (statistics, spans) = with_fault(context, "processes-vanish", |port| requests(port, 2, 5))?;
    assert!(statistics.get("processes_vanished") > 0, "{statistics}");
    assert_only_requests(&spans, 20);
    assert_eq!(
        spans.len(),
        20,
        "a process without a name still has its spans: {}",
        spans.render()
    );
    Ok(())
}

fn export_queue_full(context: &mut Context) -> Result<()> {
    let (statistics, spans) = with_fault(context, "queue-full", |port| bursts(port, 10))?;
    assert!(statistics.get("spans_dropped_queue") > 0, "{statistics}");
    assert_eq!(
        statistics.get("spans_exported") as usize,
        spans.len(),
        "{statistics}"
    );
    assert_only_requests(&spans, 400);
    Ok(())
}

/// SIGUSR1 prints all counters while the agent traces, and it traces on.
fn report_on_a_signal(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let mut connection = Connection::open(port)?;
    for n in 1..=2_u64 {
        assert_eq!(connection.get(&format!("/q/0/{n}"))?.text(), "hello\n");
        collector.wait_for_spans(usize::try_from(2 * n)?, PATIENCE)?;
        let table = agent.report()?;
        let told = [
            ("client_decisions", n),
            ("server_decisions", n),
            ("exchanges", 2 * n),
            ("connections", 2),
        ];
        for (name, value) in told {
            assert_eq!(table.get(name), Some(&value), "{name} in {table:?}");
        }
        assert!(table.contains_key("resident_bytes"), "{table:?}");
    }
    assert_eq!(connection.get("/q/0/3")?.text(), "hello\n");
    collector.wait_for_spans(6, PATIENCE)?;
    assert_eq!(agent.stop()?.get("spans_exported"), 6);
    Ok(())
}

/// Without same-kernel records every server begins a trace of its own.
fn control_no_handover(context: &mut Context) -> Result<()> {
    let (_, spans) = with_fault(context, "no-handover", |port| requests(port, 1, 3))?;
    let expected: String = ["CLIENT scenarios", "SERVER nginx"]
        .iter()
        .flat_map(|who| (0..3).map(move |n| format!("{who} GET /q/0/{n} 200\n")))
        .collect();
    assert_text("the traces", &spans.render(), &expected);
    Ok(())
}

/// Without causality no call has a parent, and none has a wrong one.
fn control_no_causality(context: &mut Context) -> Result<()> {
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
        .arg("--fault")
        .arg("no-causality")
        .start(context)?;
    load::numbered(front, "/f", 20, 2)?;
    collector.wait_for_quiet(80, PATIENCE / 3);
    let missed = agent.stop()?.get("programs_missed") as usize;
    let spans = collector.spans();
    let calls = spans
        .clients()
        .filter(|span| span.path().starts_with("/b/"));
    let links = load::judge(&spans, &calls, "threads");
    assert_eq!((links.right, links.wrong), (0, 0));
    // What the kernel skipped and counted may be a call.
    assert!(
        links.missing <= 20 && links.missing + missed >= 20 && missed < 20,
        "{links:?}, {missed} programs missed"
    );
    Ok(())
}

/// The measure of causality can fail: an agent that takes the request read last, where several could be the parent, is found out by it.
fn control_wrong_link(context: &mut Context) -> Result<()> {
    let (front, back) = (context.port(), context.port());
    let _back = service::python(context, "threads.py", back, &["--delay-ms", "3"])?;
    let _front = service::python(
        context,
        "event_loop.py",
        front,
        &["--backend", &format!("127.0.0.1:{back}")],
    )?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(front)
        .port(back)
        .arg("--fault")
        .arg("wrong-link")
        .start(context)?;
    load::numbered(front, "/f", 64, 16)?;
    collector.wait_for_quiet(256, PATIENCE / 3);
    agent.stop()?;
    let spans = collector.spans();
    let calls = spans
        .clients()
        .filter(|span| span.path().starts_with("/b/"));
    let links = load::judge(&spans, &calls, "event_loop");
    assert!(links.wrong > 0, "{links:?}");
    Ok(())
}

/// An agent that traces itself sees its own exports: what keeps the loop from closing is what `export_no_feedback_loop` proves.
fn control_trace_own(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::http(&collector)
        .arg("--fault")
        .arg("trace-own")
        .start(context)?;
    requests(port, 1, 3)?;
    wait_for(
        || collector.spans().render(),
        PATIENCE,
        || {
            (!collector
                .spans()
                .filter(|span| span.path() == "/v1/traces")
                .is_empty())
            .then_some(())
        },
    )?;
    agent.stop()?;
    Ok(())
}
