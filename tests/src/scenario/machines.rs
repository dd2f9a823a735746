//! Two machines, each with a kernel and an agent of its own, and nothing between them but a wire.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Scenario, inject, option};
use crate::harness::{
    Context, PATIENCE,
    agent::{Agent, Setup, Statistics},
    assert_text,
    capture::Capture,
    collector::Collector,
    http::Connection,
    kernel_release,
    machines::{FIRST, First, Other, SECOND},
    process::Program,
    service,
    trace::Span,
};

const NAME: &str = "context_between_machines";

pub(super) const SCENARIOS: &[Scenario] =
    &[Scenario::full(NAME, between).within(600).beside(beside)];

const REQUESTS: usize = 5;

/// Ports of the chain's services: 1 and 3 on the first machine, 2 and 4 on the second.
const PORTS: [u16; 4] = [18_501, 18_502, 18_503, 18_504];

/// How context gets from machine to machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Means {
    Header,
    Option,
}

impl Means {
    const fn argument(self) -> &'static str {
        match self {
            Self::Header => "--inject",
            Self::Option => "--tcp-option",
        }
    }

    /// What a span says of a parent that came so.
    const fn source(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Option => "option",
        }
    }

    /// The requests that a capture saw: path, and the context that came along.
    fn seen(self, wire: Capture) -> Result<Vec<Carried>> {
        Ok(match self {
            Self::Header => inject::hosts::on_the_wire(&wire.stop()?),
            Self::Option => option::on_the_wire(&wire.stop_segments()?),
        })
    }

    /// What comes along with the request of this client's span: sampled, and of random bits, as no caller said otherwise.
    fn due(self, span: &Span) -> String {
        match self {
            Self::Header => format!("00-{}-{}-03", span.trace_id(), span.span_id()),
            Self::Option => option::due(span, true),
        }
    }
}

/// Path of a request, and the context that came along.
type Carried = (String, Option<String>);

/// What the second machine shall do.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Start its services and its agent; answered when they are ready.
    Start { endpoint: String, means: Means },
    /// Send the requests.
    Send,
    /// Stop the agent; answered with what came in over the wire and with the agent's counters.
    Stop,
}

/// A chain of four services that goes to and fro between two machines is one trace: by headers where the kernel is fit for them, by the TCP option
/// elsewhere. What passes is read off the wire where it arrives.
fn between(context: &mut Context) -> Result<()> {
    let mut other = Other::meet(NAME)?;
    let collector = Collector::start_at(FIRST)?;
    let _services = [
        proxy(context, PORTS[0], SECOND, PORTS[1])?,
        proxy(context, PORTS[2], SECOND, PORTS[3])?,
    ];
    let mut means = Means::Header;
    let mut agent = start_agent(context, &collector.grpc_endpoint(), means)?;
    if !inject::injects(&agent)? {
        inject::none_enrolled(&agent.stop()?)?;
        means = Means::Option;
        agent = start_agent(context, &collector.grpc_endpoint(), means)?;
    }
    carries(&agent, means)?;
    let endpoint = collector.grpc_endpoint();
    other.ask::<()>(&Order::Start { endpoint, means })?;
    let wire = Capture::here()?;
    other.ask::<()>(&Order::Send)?;
    collector.wait_for_spans(REQUESTS * 7, PATIENCE)?;
    let mut seen = means.seen(wire)?;
    let (far, counters): (Vec<Carried>, BTreeMap<String, u64>) = other.ask(&Order::Stop)?;
    seen.extend(far);
    let statistics = [agent.stop()?, Statistics::of(counters)];
    let spans = collector.spans();

    assert_text(
        "the traces",
        &spans.render(),
        &inject::hosts::chains(REQUESTS),
    );
    let ids: std::collections::BTreeSet<_> = spans.0.iter().map(Span::span_id).collect();
    assert_eq!(ids.len(), spans.len(), "no span is exported twice");
    // The first request of each chain comes from a program that nobody traces.
    let untold = (1..=REQUESTS).map(|id| (format!("/b/{id}"), None));
    let clients = spans.clients();
    let told = clients.0.iter();
    let told = told.map(|span| (span.path().to_owned(), Some(means.due(span))));
    let mut due: Vec<Carried> = untold.chain(told).collect();
    due.sort();
    seen.sort();
    assert_eq!(seen, due, "what passed the wire");
    let mut sources: BTreeMap<String, usize> = BTreeMap::new();
    for span in &spans.servers().0 {
        let source = span.get("undertrace.parent.source").to_owned();
        *sources.entry(source).or_default() += 1;
    }
    let expected = [
        ("root".to_owned(), REQUESTS),
        (means.source().to_owned(), REQUESTS * 3),
    ];
    assert_eq!(sources, BTreeMap::from(expected));
    let count = REQUESTS as u64;
    let both = |name: &str| statistics.each_ref().map(|one| one.get(name));
    match means {
        Means::Header => {
            assert_eq!(both("inject_inserted"), [count, 0]);
            assert_eq!(both("inject_rewritten"), [count, count]);
            statistics.iter().for_each(inject::balance);
        }
        Means::Option => {
            assert_eq!(both("options_written"), [2 * count, count]);
            assert_eq!(both("options_taken"), [count, 2 * count]);
        }
    }
    assert_eq!(both("handovers_found"), [0, 0]);
    println!("{}: joined by {}", kernel_release(), means.source());
    Ok(())
}

/// The second machine's half.
fn beside(context: &Context, first: &mut First) -> Result<()> {
    let Order::Start { endpoint, means } = first.question()? else {
        anyhow::bail!("the first order is to start");
    };
    let arguments = ["--host", "0.0.0.0"];
    let _services = [
        service::python(context, "threads.py", PORTS[3], &arguments)?,
        proxy(context, PORTS[1], FIRST, PORTS[2])?,
    ];
    let agent = start_agent(context, &endpoint, means)?;
    carries(&agent, means)?;
    let wire = Capture::here()?;
    first.answer(&())?;
    loop {
        match first.question()? {
            Order::Send => {
                let mut connection = Connection::open_to((FIRST, PORTS[0]).into())?;
                for id in 1..=REQUESTS {
                    let status = connection.get(&format!("/b/{id}"))?.status;
                    ensure!(status == 200, "request {id}: {status}");
                }
                first.answer(&())?;
            }
            Order::Stop => {
                let seen = means.seen(wire)?;
                return first.answer(&(seen, agent.stop()?.into_counters()));
            }
            Order::Start { .. } => anyhow::bail!("started already"),
        }
    }
}

/// An nginx that hands requests on to a service of the other machine.
fn proxy(context: &Context, port: u16, to: std::net::Ipv4Addr, there: u16) -> Result<Program> {
    let backend = format!("{to}:{there}");
    let values = [
        ("BACKEND", backend.as_str()),
        ("KEEPALIVE", "keepalive 16;"),
        ("CONNECTION", ""),
    ];
    service::nginx(context, "proxy.conf", port, &values)
}

/// An agent that traces the services alone, and not the scenario.
fn start_agent(context: &Context, endpoint: &str, means: Means) -> Result<Agent> {
    Setup::to(endpoint, "grpc")
        .arg(means.argument())
        .arg("--exe")
        .arg("nginx")
        .arg("--exe")
        .arg("python3*")
        .start(context)
}

/// Fails unless the agent says that it carries context so.
fn carries(agent: &Agent, means: Means) -> Result<()> {
    let does = match means {
        Means::Header => inject::injects(agent)?,
        Means::Option => agent
            .output()
            .contains("trace context is carried in a TCP option"),
    };
    ensure!(
        does,
        "context is not carried by {}:\n{}",
        means.source(),
        agent.output()
    );
    Ok(())
}
