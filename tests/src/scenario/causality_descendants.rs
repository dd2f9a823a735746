//! Calls made by a thread that the serving thread started: linked while its creator's request is the only open one of the process.

use anyhow::Result;

use super::{
    Scenario,
    links::{Measured, Work, measure, slow_backend},
};
use crate::harness::{
    Context, PATIENCE,
    agent::{Setup, Statistics},
    assert_text,
    collector::Collector,
    http::Connection,
    load,
    process::Program,
    service,
    trace::{Span, Spans},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("causality_descendants_concurrency_1", one_at_a_time),
    Scenario::full("causality_descendants_concurrency_16", at_once),
    Scenario::full("causality_descendant_outlives_its_request", outlives),
    Scenario::full(
        "causality_descendant_works_for_another_request",
        works_for_another,
    ),
    Scenario::full("causality_descendants_control", control),
];

/// The service whose new threads call this backend `calls` times for a request, and its port.
fn front(context: &Context, back: u16, calls: usize) -> Result<(Program, u16)> {
    let port = context.port();
    let backend = format!("127.0.0.1:{back}");
    let arguments = ["--backend", backend.as_str()].repeat(calls);
    Ok((
        service::python(context, "descendants.py", port, &arguments)?,
        port,
    ))
}

/// Fails unless the span says of itself that it is linked by this rule, or not at all.
#[track_caller]
fn assert_rule(span: &Span, linked: bool) {
    let told = ["source", "method"].map(|what| span.get(&format!("undertrace.parent.{what}")));
    let expected = if linked {
        ["causal", "descendant"]
    } else {
        ["root", "none"]
    };
    assert_eq!(told, expected, "{}", span.line());
    if linked {
        assert_eq!(span.get("undertrace.parent.confidence"), "90");
    }
}

fn run(context: &Context, connections: u32) -> Result<Measured> {
    let back = slow_backend(context)?;
    let front = front(context, back.1, 2)?;
    let work = Work {
        service: "descendants",
        prefix: "/f",
        requests: 64,
        connections,
        calls: 2,
        may_miss: connections > 1,
    };
    let measured = measure(context, &work, &front, &back)?;
    for span in &measured.outgoing.0 {
        assert_rule(span, !span.parent_id().is_empty());
    }
    Ok(measured)
}

/// Every call belongs to the request of the thread that started its thread.
fn one_at_a_time(context: &mut Context) -> Result<()> {
    let measured = run(context, 1)?;
    if measured.statistics.get("programs_missed") == 0 {
        assert_eq!((measured.links.right, measured.links.missing), (128, 0));
        assert_eq!(measured.statistics.get("links_ambiguous"), 0);
    }
    Ok(())
}

/// Where other requests are open, a new thread may work for any of them: each link that is left out is counted.
fn at_once(context: &mut Context) -> Result<()> {
    let Measured {
        links, statistics, ..
    } = run(context, 16)?;
    if statistics.get("programs_missed") == 0 {
        assert!(links.missing > 0, "nothing was open at one time: {links:?}");
        assert_eq!(
            statistics.get("links_ambiguous"),
            links.missing as u64,
            "{links:?}\n{statistics}"
        );
    }
    Ok(())
}

/// Runs `work` against the service and one backend, both traced at both ends; gives what was counted and all `count` spans.
fn traced(
    context: &Context,
    fault: Option<&str>,
    count: usize,
    work: impl FnOnce(u16) -> Result<()>,
) -> Result<(Statistics, Spans)> {
    let back = slow_backend(context)?;
    let front = front(context, back.1, 1)?;
    let collector = Collector::start()?;
    let mut setup = Setup::grpc(&collector).port(front.1).port(back.1);
    if let Some(fault) = fault {
        setup = setup.arg("--fault").arg(fault);
    }
    let agent = setup.start(context)?;
    work(front.1)?;
    collector.wait_for_spans(count, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), count, "{}", spans.render());
    Ok((statistics, spans))
}

fn get(connection: &mut Connection, path: &str) -> Result<()> {
    let id = path.rsplit('/').next().unwrap_or_default();
    let response = connection.get(path)?;
    assert_eq!(
        (response.status, response.text()),
        (200, format!("id={id};\n"))
    );
    Ok(())
}

/// A thread calls when its request is answered and another one is the only one that is open, on the same connection and on another: the link is
/// left out.
fn outlives(context: &mut Context) -> Result<()> {
    let (statistics, spans) = traced(context, None, 12, |port| {
        let mut connection = Connection::open(port)?;
        get(&mut connection, "/late/1")?;
        get(&mut connection, "/release/2")?;
        get(&mut connection, "/late/3")?;
        get(&mut Connection::open(port)?, "/release/4")
    })?;
    let served: String = ["late/1", "late/3", "release/2", "release/4"]
        .iter()
        .map(|path| {
            format!("CLIENT scenarios GET /{path} 200\n  SERVER descendants GET /{path} 200\n")
        })
        .collect();
    assert_text(
        "the traces",
        &spans.render(),
        &format!(
            "CLIENT descendants GET /b/1/1 200\n  SERVER threads GET /b/1/1 200\n\
             CLIENT descendants GET /b/3/1 200\n  SERVER threads GET /b/3/1 200\n\
             {served}"
        ),
    );
    for call in &spans.of("descendants").clients().0 {
        assert_rule(call, false);
    }
    assert_eq!(statistics.get("links_ambiguous"), 2, "{statistics}");
    Ok(())
}

/// The thread of a pool belongs to the request that started it, and not to those whose work it takes later.
fn works_for_another(context: &mut Context) -> Result<()> {
    let (statistics, spans) = traced(context, None, 12, |port| {
        let mut connection = Connection::open(port)?;
        for id in 1..=3 {
            get(&mut connection, &format!("/pool/{id}"))?;
        }
        Ok(())
    })?;
    assert_text(
        "the traces",
        &spans.render(),
        "CLIENT descendants GET /b/2/1 200\n\
         \x20 SERVER threads GET /b/2/1 200\n\
         CLIENT descendants GET /b/3/1 200\n\
         \x20 SERVER threads GET /b/3/1 200\n\
         CLIENT scenarios GET /pool/1 200\n\
         \x20 SERVER descendants GET /pool/1 200\n\
         \x20   CLIENT descendants GET /b/1/1 200\n\
         \x20     SERVER threads GET /b/1/1 200\n\
         CLIENT scenarios GET /pool/2 200\n\
         \x20 SERVER descendants GET /pool/2 200\n\
         CLIENT scenarios GET /pool/3 200\n\
         \x20 SERVER descendants GET /pool/3 200\n",
    );
    for call in &spans.of("descendants").clients().0 {
        assert_rule(call, call.path() == "/b/1/1");
    }
    assert_eq!(statistics.get("links_ambiguous"), 2, "{statistics}");
    Ok(())
}

/// Without causality the same requests have no link: it is this rule that made them.
fn control(context: &mut Context) -> Result<()> {
    const REQUESTS: u32 = 10;
    let (_, spans) = traced(
        context,
        Some("no-causality"),
        4 * REQUESTS as usize,
        |port| load::numbered(port, "/f", REQUESTS, 1),
    )?;
    let calls = spans
        .clients()
        .filter(|span| span.path().starts_with("/b/"));
    let links = load::judge(&spans, &calls, "descendants");
    let found = (links.right, links.wrong, links.missing);
    assert_eq!(found, (0, 0, REQUESTS as usize));
    Ok(())
}
