//! The measure of causality: which request an outgoing one belongs to is told by an id in every path; a wrong link fails, a missing one is counted.

use anyhow::Result;

use crate::harness::{
    Context, PATIENCE,
    agent::{Setup, Statistics},
    collector::Collector,
    load::{self, Links},
    process::Program,
    service,
    trace::{Span, Spans},
};

/// One piece of work: how many requests, over how many connections, with how many calls each, and how many links may be missing.
pub(super) struct Work {
    /// Name of the service that makes the calls.
    pub(super) service: &'static str,
    /// What the paths of requests begin with; those of calls begin with `/b/`.
    pub(super) prefix: &'static str,
    /// How many requests.
    pub(super) requests: u32,
    /// At how many connections at once.
    pub(super) connections: u32,
    /// How many calls each request makes.
    pub(super) calls: u32,
    /// Links may be missing; wrong ones fail in any case.
    pub(super) may_miss: bool,
}

/// What came of it.
pub(super) struct Measured {
    /// Spans of the calls.
    pub(super) outgoing: Spans,
    /// How their links compare with the truth.
    pub(super) links: Links,
    /// What the agent counted.
    pub(super) statistics: Statistics,
}

/// A threaded backend whose answers overtake each other.
pub(super) fn slow_backend(context: &Context) -> Result<(Program, u16)> {
    let port = context.port();
    Ok((
        service::python(context, "threads.py", port, &["--delay-ms", "3"])?,
        port,
    ))
}

/// Sends the requests with both ends of all connections traced, and judges every link.
///
/// # Errors
/// When the workload or the agent fails; a wrong link panics.
pub(super) fn measure(
    context: &Context,
    work: &Work,
    front: &(Program, u16),
    back: &(Program, u16),
) -> Result<Measured> {
    measure_with(context, work, front, back, &|_| String::new())
}

/// The same with further header lines in the request of each id.
///
/// # Errors
/// As [`measure`].
pub(super) fn measure_with(
    context: &Context,
    work: &Work,
    front: &(Program, u16),
    back: &(Program, u16),
    headers: &(dyn Fn(u32) -> String + Sync),
) -> Result<Measured> {
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(front.1)
        .port(back.1)
        .start(context)?;
    load::numbered_with(
        front.1,
        work.prefix,
        work.requests,
        work.connections,
        headers,
    )?;
    let calls = (work.requests * work.calls) as usize;
    // Both ends of each request and of each call.
    let all = 2 * work.requests as usize + 2 * calls;
    collector.wait_for_quiet(all, PATIENCE / 3);
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let missed = statistics.get("programs_missed");
    let incoming = spans
        .servers()
        .filter(|span| span.path().starts_with(work.prefix));
    let outgoing = spans
        .clients()
        .filter(|span| span.path().starts_with("/b/"));
    let received = spans
        .servers()
        .filter(|span| span.path().starts_with("/b/"));
    if missed == 0 {
        assert_eq!(
            spans.len(),
            all,
            "some that failed:\n{}",
            spans
                .filter(Span::is_error)
                .by_start()
                .iter()
                .take(8)
                .map(|span| format!("{}\n", span.line()))
                .collect::<String>()
        );
        assert_eq!(
            (incoming.len(), outgoing.len(), received.len()),
            (work.requests as usize, calls, calls)
        );
    } else {
        // A kernel that preempts tasks inside programs skips what the next task does; an emulated one does so often. It is counted, and
        // nothing that is left is wrong.
        println!(
            "{missed} sends and receives were kept from the agent, {} more were seen by spare programs: {} of {all} spans",
            statistics.get("programs_stood_in"),
            spans.len()
        );
        assert!(outgoing.len() > calls / 2, "{statistics}");
    }
    // Between processes there is nothing to guess.
    let carried = load::judge_with(&spans, &received, work.service, headers);
    let links = load::judge_with(&spans, &outgoing, work.service, headers);
    println!(
        "{} at concurrency {}: {} right, {} missing, {} wrong of {calls}",
        work.service, work.connections, links.right, links.missing, links.wrong
    );
    assert_eq!(
        (carried.wrong, links.wrong),
        (0, 0),
        "{carried:?} {links:?}"
    );
    if missed == 0 {
        assert_eq!(carried.right, calls, "from call to backend: {carried:?}");
        if !work.may_miss {
            assert_eq!(links.missing, 0, "{links:?}");
        }
    }
    Ok(Measured {
        outgoing,
        links,
        statistics,
    })
}
