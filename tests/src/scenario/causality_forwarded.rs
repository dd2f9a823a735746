//! Calls that carry the context which their request brought in: the header tells the request, however many are open and in whatever order
//! they are answered.

use anyhow::Result;

use super::{
    Scenario,
    links::{Measured, Work, measure_with, slow_backend},
};
use crate::harness::{Context, load::id_of, service};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("causality_forwarded_asyncio_16", |context| {
        each_its_own(context, asyncio)
    }),
    Scenario::full("causality_forwarded_nginx_16", |context| {
        each_its_own(context, nginx)
    }),
    Scenario::full(
        "causality_forwarded_by_several_requests_16",
        shared_by_several,
    ),
];

const TRACE: &str = "4bf92f3577b34da6a3ce9290";
const PARENT: &str = "00f067aa";

/// Trace and parent of the context that the request with this id brings along.
fn brought(id: u32) -> (String, String) {
    (format!("{TRACE}{id:08x}"), format!("{PARENT}{id:08x}"))
}

fn header(id: u32) -> String {
    let (trace, parent) = brought(id);
    format!("traceparent: 00-{trace}-{parent}-01\r\n")
}

/// One thread, many requests: every call copies the header of its request, as an application with an older library would.
fn asyncio(context: &Context, headers: &(dyn Fn(u32) -> String + Sync)) -> Result<Measured> {
    let back = slow_backend(context)?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.1);
    let arguments = ["--forward", "--backend", &backend, "--backend", &backend];
    let front = service::python(context, "event_loop.py", port, &arguments)?;
    let work = Work {
        service: "event_loop",
        prefix: "/f",
        requests: 96,
        connections: 16,
        calls: 2,
        may_miss: true,
    };
    measure_with(context, &work, &(front, port), &back, headers)
}

/// nginx passes on what it is sent, over connections that it keeps.
fn nginx(context: &Context, headers: &(dyn Fn(u32) -> String + Sync)) -> Result<Measured> {
    let back = slow_backend(context)?;
    let port = context.port();
    let backend = format!("127.0.0.1:{}", back.1);
    let values = [
        ("BACKEND", backend.as_str()),
        ("KEEPALIVE", "keepalive 16;"),
        ("CONNECTION", ""),
    ];
    let front = service::nginx(context, "proxy.conf", port, &values)?;
    let work = Work {
        service: "nginx",
        prefix: "/p",
        requests: 160,
        connections: 16,
        calls: 1,
        may_miss: true,
    };
    measure_with(context, &work, &(front, port), &back, headers)
}

type Run = fn(&Context, &(dyn Fn(u32) -> String + Sync)) -> Result<Measured>;

/// Each request has a context of its own: every call is found, by that rule, in the trace that its request came with.
fn each_its_own(context: &Context, run: Run) -> Result<()> {
    let Measured {
        outgoing,
        links,
        statistics,
    } = run(context, &header)?;
    let missed = statistics.get("programs_missed");
    if missed == 0 {
        assert_eq!(links.missing, 0, "{links:?}\n{statistics}");
        assert_eq!(statistics.get("links_ambiguous"), 0, "{statistics}");
        assert_eq!(statistics.get("record_differs"), 0, "{statistics}");
    }
    for call in &outgoing.0 {
        let (trace, parent) = brought(id_of(call).expect("paths of calls have the id"));
        assert_eq!(call.trace_id(), trace, "{}", call.line());
        let method = call.get("undertrace.parent.method");
        assert!(
            method == "forwarded" || missed > 0,
            "{}: {method}",
            call.line()
        );
        // The request's own span is nearer than the span that it was sent with.
        assert!(call.parent_id() != parent || missed > 0, "{}", call.line());
    }
    Ok(())
}

/// All requests bring the same context along: it tells nothing of which one a call belongs to, and what other rules do not know is left out.
fn shared_by_several(context: &mut Context) -> Result<()> {
    let Measured {
        outgoing,
        links,
        statistics,
    } = asyncio(context, &|_| header(1))?;
    let (trace, _) = brought(1);
    for call in &outgoing.0 {
        let linked = !call.parent_id().is_empty();
        assert_eq!(call.trace_id() == trace, linked, "{}", call.line());
    }
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
