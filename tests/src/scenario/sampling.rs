//! Which traces are kept: by the sampler, by the ratios of services, by the caller. What is expected of a trace id is worked out here from the
//! definition (OpenTelemetry, "Probability Sampling"), not with the agent's own function.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, service, trace::Spans,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("context_sampling_none", none),
    Scenario::core("context_sampling_by_trace_id", by_trace_id),
    Scenario::full("context_sampling_by_service", by_service),
    Scenario::full("context_sampling_of_new_processes", of_new_processes),
    Scenario::core("context_sampling_rate_limit", rate_limit),
    Scenario::full("accounting_rules_full", rules_full),
];

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A `traceparent` line of a caller that has decided.
fn decided(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n")
}

fn paths(spans: &Spans) -> BTreeSet<String> {
    spans.0.iter().map(|span| span.path().to_owned()).collect()
}

/// Nothing is kept but what a caller wants kept; failures are counted.
fn none(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _service = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .env("OTEL_TRACES_SAMPLER", "always_off")
        .start(context)?;
    let mut connection = Connection::open(port)?;
    for n in 0..10 {
        assert_eq!(connection.get(&format!("/b/{n}"))?.status, 200);
    }
    for status in [404, 500] {
        let path = format!("/status/{status}");
        assert_eq!(connection.get(&path)?.status, status);
    }
    for n in 0..3 {
        for (path, flags) in [("/kept", "01"), ("/left", "00")] {
            let path = format!("{path}/{n}");
            assert_eq!(connection.get_with(&path, &decided(flags))?.status, 200);
        }
    }
    // Both ends are traced.
    collector.wait_for_spans(2 * 3, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2 * 3, "{}", spans.render());
    assert_eq!(
        paths(&spans),
        (0..3).map(|n| format!("/kept/{n}")).collect()
    );
    let left = 2 * (10 + 2 + 3);
    assert_eq!(statistics.unsampled(), left, "{statistics}");
    // For a server only 500 is an error.
    assert_eq!(statistics.unsampled_failed(), 2 + 1);
    Ok(())
}

/// Callers that leave the choice to us name traces whose randomness is spread evenly: exactly the upper quarter is kept. Of the traces that begin
/// here, each that is kept lies in that quarter.
fn by_trace_id(context: &mut Context) -> Result<()> {
    const THRESHOLD: u64 = 3 << 54;
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .arg("--propagators")
        .arg("b3")
        .env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        .env("OTEL_TRACES_SAMPLER_ARG", "0.25")
        .start(context)?;
    let mut connection = Connection::open(port)?;
    let ids: Vec<u64> = (0..32).map(|n| n << 51).chain([THRESHOLD - 1]).collect();
    for (n, randomness) in ids.iter().enumerate() {
        // The eight bits above do not count.
        let low = randomness | (((n as u64 & 1) * 0xff) << 56);
        let line = format!("b3: {TRACE:.16}{low:016x}-{PARENT}\r\n");
        assert_eq!(
            connection.get_with(&format!("/left/{n}"), &line)?.status,
            200
        );
    }
    for n in 0..100 {
        assert_eq!(connection.get(&format!("/root/{n}"))?.status, 200);
    }
    let kept: BTreeSet<String> = (0..ids.len())
        .filter(|n| ids[*n] >= THRESHOLD)
        .map(|n| format!("/left/{n}"))
        .collect();
    assert_eq!(kept.len(), 8);
    collector.wait_for_spans(kept.len(), PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let left = spans.filter(|span| span.path().starts_with("/left/"));
    assert_eq!(paths(&left), kept);
    let roots = spans.filter(|span| span.path().starts_with("/root/"));
    for span in &roots.0 {
        let low = u64::from_str_radix(&span.trace_id()[18..], 16)?;
        assert!(low >= THRESHOLD, "{} {}", span.line(), span.trace_id());
    }
    // That none or all of a hundred are kept does not happen in 10^12 runs.
    assert!((1..100).contains(&roots.len()), "{}", roots.len());
    assert_eq!(
        statistics.unsampled() + spans.len() as u64,
        (ids.len() + 100) as u64,
        "{statistics}"
    );
    Ok(())
}

/// The ratio of a service holds where a trace begins in it, as server or as client, and nowhere else.
fn by_service(context: &mut Context) -> Result<()> {
    let (front, back) = (context.port(), context.port());
    let backend = format!("127.0.0.1:{back}");
    let values = [
        ("BACKEND", backend.as_str()),
        ("KEEPALIVE", ""),
        ("CONNECTION", "close"),
    ];
    let _back = service::python(context, "threads.py", back, &[])?;
    let _front = service::nginx(context, "proxy.conf", front, &values)?;

    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx,python3*")
        .arg("--sample")
        .arg("other=0,ngin?=1,nginx=0")
        .env("OTEL_TRACES_SAMPLER", "always_off")
        .start(context)?;
    let (mut to_front, mut to_back) = (Connection::open(front)?, Connection::open(back)?);
    for n in 1..=3 {
        assert_eq!(to_front.get(&format!("/b/{n}"))?.status, 200);
        assert_eq!(to_back.get(&format!("/b/1{n}"))?.status, 200);
    }
    collector.wait_for_spans(3 * 3, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 3 * 3, "{}", spans.render());
    assert_eq!(paths(&spans), (1..=3).map(|n| format!("/b/{n}")).collect());
    assert_eq!(spans.of("threads").len(), 3, "{}", spans.render());
    assert_eq!(statistics.unsampled(), 3, "{statistics}");

    // The scenario's own process begins traces as a client.
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(back)
        .arg("--sample")
        .arg("scenarios=0")
        .start(context)?;
    let mut connection = Connection::open(back)?;
    for n in 1..=3 {
        assert_eq!(connection.get(&format!("/b/{n}"))?.status, 200);
        let kept = format!("/b/1{n}");
        assert_eq!(connection.get_with(&kept, &decided("01"))?.status, 200);
        assert_eq!(to_front.get(&format!("/b/2{n}"))?.status, 200);
    }
    // nginx, which begins traces too, is the client of its backend's port.
    collector.wait_for_spans(3 * 4, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 3 * 4, "{}", spans.render());
    let kept = [1, 2]
        .into_iter()
        .flat_map(|tens| (1..=3).map(move |n| format!("/b/{tens}{n}")));
    assert_eq!(paths(&spans), kept.collect());
    assert_eq!(statistics.unsampled(), 3 * 2, "{statistics}");
    Ok(())
}

/// Services that begin after the agent: one that is run by name, and one whose worker is a copy of it.
fn of_new_processes(context: &mut Context) -> Result<()> {
    let (nginx, late, other) = (context.port(), context.port(), context.port());
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx,python3*")
        .arg("--sample")
        .arg("late=0,nginx=0")
        .start(context)?;
    let _nginx = service::static_nginx(context, nginx)?;
    let named = [("OTEL_SERVICE_NAME", "late")];
    let _late = service::python_in(context, None, "threads.py", late, &[], &named)?;
    let _other = service::python(context, "threads.py", other, &[])?;
    for port in [nginx, late, other] {
        let mut connection = Connection::open(port)?;
        for n in 0..4 {
            assert_eq!(connection.get(&format!("/b/{n}"))?.status, 200);
        }
    }
    collector.wait_for_spans(4, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 4, "{}", spans.render());
    assert_eq!(spans.of("threads").len(), 4, "{}", spans.render());
    assert_eq!(statistics.unsampled(), 2 * 4, "{statistics}");
    Ok(())
}

/// Far more traces begin than may be kept. The bounds leave room for chance (of about 100 that are kept, by five times the deviation) and for a
/// machine that stutters; the caller's decisions do not count.
fn rate_limit(context: &mut Context) -> Result<()> {
    const PER_SECOND: u64 = 20;
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--exe")
        .arg("nginx")
        .arg("--sample-rate")
        .arg(PER_SECOND.to_string())
        .start(context)?;
    let mut connection = Connection::open(port)?;
    // Few are all kept.
    for n in 0..5 {
        assert_eq!(connection.get(&format!("/few/{n}"))?.status, 200);
    }
    collector.wait_for_spans(5, PATIENCE)?;
    let mut load = |seconds: u64| -> Result<f64> {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(seconds) {
            for _ in 0..10 {
                assert_eq!(connection.get("/many")?.status, 200);
            }
            let path = "/decided";
            assert_eq!(connection.get_with(path, &decided("00"))?.status, 200);
        }
        Ok(begin.elapsed().as_secs_f64())
    };
    // Until the loop knows the rate.
    load(4)?;
    let before = agent.report()?;
    let seconds = load(6)?;
    let after = agent.report()?;
    let statistics = agent.stop()?;
    let of = |name: &str| {
        let get = |table: &BTreeMap<String, u64>| table.get(name).copied().unwrap_or(0);
        (get(&after) - get(&before)) as f64
    };
    let allowed = PER_SECOND as f64 * seconds;
    let (roots, kept) = (of("roots"), of("roots_sampled"));
    assert!(roots > 3.0 * allowed, "{roots} in {seconds} s are too few");
    let bounds = 0.5 * allowed..1.5 * allowed;
    assert!(bounds.contains(&kept), "{kept} in {seconds} s, of {roots}");
    let spans = collector.spans();
    assert_eq!(
        spans.filter(|span| span.path().starts_with("/few/")).len(),
        5
    );
    assert_eq!(statistics.get("roots_sampled"), spans.len() as u64);
    let unsampled = statistics.get("roots") - statistics.get("roots_sampled");
    assert!(statistics.unsampled() > unsampled, "{statistics}");
    Ok(())
}

/// Copies of a process whose rule finds no room are counted.
fn rules_full(context: &mut Context) -> Result<()> {
    let mut shell = Command::new(service::program("sh")?)
        .args(["-c", "while read line; do /bin/true; echo $line; done"])
        .env("OTEL_SERVICE_NAME", "copied")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let agent = Setup::bare()
        .arg("--sample")
        .arg("copied=0")
        .arg("--fault")
        .arg("rules-full")
        .start(context)?;
    let mut to_shell = shell.stdin.take().context("it was asked for")?;
    let from_shell = BufReader::new(shell.stdout.take().context("it was asked for")?);
    let mut answers = from_shell.lines();
    for n in 0..3 {
        writeln!(to_shell, "{n}")?;
        let answer = answers.next().context("the shell ended")??;
        assert_eq!(answer, n.to_string());
    }
    drop(to_shell);
    shell.wait()?;
    let statistics = agent.stop()?;
    assert_eq!(statistics.get("rules_full"), 3, "{statistics}");
    Ok(())
}
