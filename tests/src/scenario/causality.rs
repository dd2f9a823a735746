//! Which incoming request an outgoing one belongs to. The truth is an id in every path; a wrong link fails, a missing one is counted.

use std::{
    fs,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    links::{Work, measure, slow_backend},
};
use crate::harness::{
    Context, PATIENCE,
    agent::{Setup, run_to_end},
    assert_text,
    collector::Collector,
    http::Connection,
    load,
    network::LongFinWait,
    scripted::Scripted,
    service,
    trace::hex,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("causality_threads_concurrency_1", |context| {
        threads(context, 1)
    }),
    Scenario::core("causality_threads_concurrency_16", |context| {
        threads(context, 16)
    }),
    // 5.10 has no choice of preemption.
    Scenario::full("causality_threads_preempt_full", threads_preempted)
        .booted(&["6.1", "6.12", "7.2"], "preempt=full"),
    Scenario::full("causality_nginx_concurrency_1", |context| {
        nginx(context, 1, true)
    }),
    Scenario::full("causality_nginx_concurrency_16", |context| {
        nginx(context, 16, true)
    }),
    Scenario::full("causality_nginx_new_connections_16", |context| {
        nginx(context, 16, false)
    }),
    Scenario::full("causality_nginx_delayed_16", nginx_delayed),
    Scenario::full("causality_nginx_retry_16", nginx_retry),
    Scenario::full("causality_asyncio_concurrency_1", |context| {
        asyncio(context, 1)
    }),
    Scenario::full("causality_asyncio_concurrency_16", |context| {
        asyncio(context, 16)
    }),
    Scenario::full("causality_node_concurrency_1", |context| {
        node(context, 1, "Infinity", "/f")
    }),
    Scenario::full("causality_node_concurrency_16", |context| {
        node(context, 16, "Infinity", "/f")
    }),
    Scenario::full("causality_node_limited_pool_16", |context| {
        node(context, 16, "4", "/f")
    }),
    Scenario::full("causality_node_timers_and_names_16", |context| {
        node(context, 16, "Infinity", "/t")
    }),
    Scenario::full("causality_node_given_up_request", given_up_request),
    Scenario::full("causality_nginx_retry_is_linked", nginx_retry_is_linked),
];

fn threads(context: &mut Context, connections: u32) -> Result<()> {
    let back = slow_backend(context)?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.1);
    let front = service::python(
        context,
        "threads.py",
        port,
        &["--backend", &backend, "--backend", &backend],
    )?;
    let work = Work {
        service: "threads",
        prefix: "/f",
        requests: 64,
        connections,
        calls: 2,
        may_miss: false,
    };
    measure(context, &work, &(front, port), &back).map(drop)
}

/// On a kernel that may preempt a task anywhere, also inside a program: the spare programs are in use, and no link is wrong.
fn threads_preempted(context: &mut Context) -> Result<()> {
    let model = fs::read_to_string("/sys/kernel/debug/sched/preempt")
        .context("this kernel does not say how it preempts")?;
    ensure!(model.contains("(full)"), "{model}");
    let ended = run_to_end(&[], &["doctor", "--json"])?;
    let report: Value = serde_json::from_str(&ended.output)?;
    let features = report["features"].as_array().context("features")?;
    let spares = features
        .iter()
        .find(|feature| feature["feature"] == "spares")
        .with_context(|| format!("no spare programs: {report:#}"))?;
    assert_eq!(spares["works"], true, "{spares:#}");
    threads(context, 16)
}

fn nginx(context: &mut Context, connections: u32, keepalive: bool) -> Result<()> {
    let back = slow_backend(context)?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.1);
    let values = [
        ("BACKEND", backend.as_str()),
        ("KEEPALIVE", if keepalive { "keepalive 16;" } else { "" }),
        ("CONNECTION", if keepalive { "" } else { "close" }),
    ];
    let front = service::nginx(context, "proxy.conf", port, &values)?;
    let work = Work {
        service: "nginx",
        prefix: "/p",
        requests: 160,
        connections,
        calls: 1,
        may_miss: connections > 1,
    };
    measure(context, &work, &(front, port), &back).map(drop)
}

/// Half of the calls are begun by a timer, in the midst of the others' reads.
fn nginx_delayed(context: &mut Context) -> Result<()> {
    let back = slow_backend(context)?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.1);
    let values = [("BACKEND", backend.as_str())];
    let front = service::nginx(context, "delayed.conf", port, &values)?;
    let work = Work {
        service: "nginx",
        prefix: "/p",
        requests: 160,
        connections: 16,
        calls: 1,
        may_miss: true,
    };
    measure(context, &work, &(front, port), &back).map(drop)
}

/// Half of the requests are sent to a backend that never answers, and again to another one when a timer says so.
fn nginx_retry(context: &mut Context) -> Result<()> {
    const REQUESTS: u32 = 96;
    const CONNECTIONS: u32 = 16;
    let unanswered = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&unanswered);
    let silent = Scripted::start(context, move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })?;
    let back = slow_backend(context)?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.1);
    let silent_address = format!("127.0.0.1:{}", silent.port());
    let values = [
        ("BACKEND", backend.as_str()),
        ("SILENT", silent_address.as_str()),
    ];
    let _front = service::nginx(context, "retry.conf", port, &values)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .port(back.1)
        .port(silent.port())
        .start(context)?;
    load::numbered(port, "/p", REQUESTS, CONNECTIONS)?;
    let unanswered = unanswered.load(Ordering::Relaxed) as usize;
    let calls = REQUESTS as usize + unanswered;
    collector.wait_for_quiet(2 * (REQUESTS as usize + calls), PATIENCE / 3);
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let outgoing = spans
        .clients()
        .filter(|span| span.path().starts_with("/b/"));
    let links = load::judge(&spans, &outgoing, "nginx");
    println!(
        "nginx with {unanswered} retries: {} right, {} missing, {} wrong of {calls}",
        links.right, links.missing, links.wrong
    );
    assert_eq!(links.wrong, 0, "{links:?}");
    assert!(unanswered > 0, "no request was sent again");
    if statistics.get("programs_missed") == 0 {
        assert_eq!(outgoing.len(), calls, "{statistics}");
    }
    Ok(())
}

/// One request at a time: what nginx sends again is linked to the attempt that was not answered, and nothing else is. The failed attempt is told
/// of when nginx closes it, though its server does not.
fn nginx_retry_is_linked(context: &mut Context) -> Result<()> {
    const REQUESTS: u32 = 8;
    let _wait = LongFinWait::start()?;
    let unanswered = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&unanswered);
    // It keeps its end open for as long as the scenario runs.
    let silent = Scripted::start(context, move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        loop {
            thread::park();
        }
    })?;
    let (back, port) = (slow_backend(context)?, context.port());
    let backend = format!("127.0.0.1:{}", back.1);
    let silent_address = format!("127.0.0.1:{}", silent.port());
    let values = [
        ("BACKEND", backend.as_str()),
        ("SILENT", silent_address.as_str()),
    ];
    let _front = service::nginx(context, "retry.conf", port, &values)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .start(context)?;
    load::numbered(port, "/p", REQUESTS, 1)?;
    let unanswered = unanswered.load(Ordering::Relaxed);
    collector.wait_for_quiet(2 * REQUESTS as usize + unanswered, PATIENCE / 3);
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let clients = spans.clients();
    let (failed, answered): (Vec<_>, Vec<_>) = clients
        .0
        .iter()
        .partition(|span| !span.get("error.type").is_empty());
    assert_eq!(answered.len(), REQUESTS as usize, "{}", spans.render());
    assert!(!failed.is_empty(), "no request was sent again");
    for span in &answered {
        let attempts: Vec<_> = failed
            .iter()
            .filter(|attempt| attempt.parent_id() == span.parent_id())
            .map(|attempt| attempt.span_id())
            .collect();
        let links: Vec<_> = span
            .otlp
            .links
            .iter()
            .map(|link| hex(&link.span_id))
            .collect();
        assert_eq!(links, attempts, "{}", span.line());
        let count = if attempts.is_empty() { "" } else { "1" };
        assert_eq!(span.get("http.request.resend_count"), count);
    }
    for span in failed {
        assert!(span.otlp.links.is_empty(), "{}", span.line());
    }
    assert_eq!(statistics.get("retries_over_limit"), 0, "{statistics}");
    Ok(())
}

fn asyncio(context: &mut Context, connections: u32) -> Result<()> {
    let back = slow_backend(context)?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.1);
    let front = service::python(
        context,
        "event_loop.py",
        port,
        &["--backend", &backend, "--backend", &backend],
    )?;
    let work = Work {
        service: "event_loop",
        prefix: "/f",
        requests: 64,
        connections,
        calls: 2,
        may_miss: connections > 1,
    };
    measure(context, &work, &(front, port), &back).map(drop)
}

fn node(
    context: &mut Context,
    connections: u32,
    max_sockets: &str,
    prefix: &'static str,
) -> Result<()> {
    let back = slow_backend(context)?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.1);
    let arguments = [
        "--max-sockets",
        max_sockets,
        "--backend",
        &backend,
        "--backend",
        &backend,
        "--backend",
        &backend,
    ];
    let front = service::node(context, "calls.js", port, &arguments)?;
    let work = Work {
        service: "calls",
        prefix,
        requests: 48,
        connections,
        calls: 3,
        may_miss: connections > 1 || max_sockets != "Infinity",
    };
    measure(context, &work, &(front, port), &back).map(drop)
}

/// A request that is never answered makes every other call of its event loop ambiguous, until it is given up.
fn given_up_request(context: &mut Context) -> Result<()> {
    let (arrived, arrivals) = mpsc::channel();
    let back = Scripted::start(context, move |stream, head| {
        if head.starts_with("GET /b/1/") {
            let _ = arrived.send(());
            return Ok(());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.port());
    let _front = service::node(context, "calls.js", port, &["--backend", &backend])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("node")
        .arg("--fault")
        .arg("short-requests")
        .start(context)?;
    let mut hanging = Connection::open(port)?;
    hanging.send(b"GET /f/1 HTTP/1.1\r\nHost: front\r\n\r\n")?;
    arrivals.recv_timeout(PATIENCE)?;
    let mut connection = Connection::open(port)?;
    assert_eq!(connection.get("/f/2")?.status, 200);
    // Both ends of what hangs, too: they are given up.
    collector.wait_for_spans(4, PATIENCE)?;
    // The kernel is told with the next question for positions, ten a second.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(connection.get("/f/3")?.status, 200);
    collector.wait_for_spans(6, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_text(
        "the traces",
        &spans.render(),
        "CLIENT calls GET /b/2/1 200\n\
         SERVER calls GET /f/1 no_response\n\
         \x20 CLIENT calls GET /b/1/1 no_response\n\
         SERVER calls GET /f/2 200\n\
         SERVER calls GET /f/3 200\n\
         \x20 CLIENT calls GET /b/3/1 200\n",
    );
    assert_eq!(statistics.get("requests_expired"), 1, "{statistics}");
    assert_eq!(statistics.get("links_ambiguous"), 1, "{statistics}");
    Ok(())
}
