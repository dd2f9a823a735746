//! The safety suite of header injection: applications do the same without the agent and with it, and what they send and are told must be the
//! same, but for exactly the lines that are due.
//!
//! What is due comes from the bytes that were sent ([`Due`]), never from the agent. On a kernel that fails the agent's self-test the same work
//! proves the refusal.

mod clients;
mod detaching;
mod proxies;
mod shapes;
mod streams;

use std::collections::HashSet;

use anyhow::{Result, ensure};

use super::{
    Scenario,
    inject::{balance, injects, refused},
};
use crate::harness::{
    Context,
    agent::{Agent, Setup, Statistics},
    collector::Collector,
    requests::{
        compare::{Written, compare},
        due::Due,
    },
    trace::Spans,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("safety_generated_requests_1000", |context| {
        shapes::generated(context, 1_000)
    }),
    Scenario::core("safety_proxied_responses_once", |context| {
        proxies::nginx(context, proxies::Size::Reduced)
    }),
    Scenario::full("safety_generated_requests", |context| {
        shapes::generated(context, 10_000)
    })
    .within(LONG),
    Scenario::full("safety_generated_twice_is_seen", |context| {
        shapes::is_seen(context, "inject-twice")
    }),
    Scenario::full("safety_generated_late_is_seen", |context| {
        shapes::is_seen(context, "inject-late")
    }),
    Scenario::full("safety_generated_loss_is_seen", |context| {
        shapes::is_seen(context, "inject-loss")
    }),
    Scenario::full("safety_client_curl", clients::curl),
    Scenario::full("safety_client_python", clients::python),
    Scenario::full("safety_client_node", clients::node),
    Scenario::full("safety_client_go", clients::go),
    Scenario::full("safety_client_java", clients::java).within(LONG),
    Scenario::full("safety_reads_by_fionread", clients::fionread),
    Scenario::full("safety_edge_triggered_epoll", clients::edge_triggered),
    Scenario::full("safety_proxied_responses", |context| {
        proxies::nginx(context, proxies::Size::Full)
    })
    .within(LONG),
    Scenario::full("safety_proxied_by_haproxy", proxies::haproxy).within(LONG),
    Scenario::full("safety_websocket", streams::websocket),
    Scenario::full("safety_git", streams::git).within(LONG),
    Scenario::full("safety_restarts_under_load", detaching::restarts).within(LONG),
    Scenario::full("safety_upgrade_overlaps", detaching::upgrade).within(LONG),
];

/// Seconds for a scenario whose agents start beside a load, or that moves many bytes.
const LONG: u64 = 480;

/// What one run of an application has left.
#[derive(Debug, Default)]
struct Run {
    /// What arrived at the server, by connection, or by request where an application spreads them over connections as it likes; what is sent at
    /// one time in the order of its bytes.
    received: Vec<Vec<u8>>,
    /// How many connections that were.
    connections: usize,
    /// What the application was told.
    told: String,
}

/// The lines that are there, and what is known of those that are not.
#[derive(Debug, Default)]
struct Lines {
    due: Due,
    written: Vec<Written>,
    missing: u64,
}

impl Run {
    /// Adds what arrived on connections that were opened one after the other.
    fn add(&mut self, received: Vec<Vec<u8>>) {
        self.connections += received.len();
        self.received.extend(received);
    }
}

impl Lines {
    /// Adds a connection, on which `sent` was sent and `received` arrived.
    fn add(&mut self, due: &Due, sent: &[u8], received: &[u8]) -> Result<()> {
        let judged = compare(sent, &due.lines, received)?;
        self.due.add(due);
        self.missing += judged.missing;
        self.written.extend(judged.written);
        Ok(())
    }

    /// The lines are those that are due, the agent counted them so, and each names a span of its own that was exported.
    fn settle(&self, statistics: &Statistics, spans: &Spans) -> Result<()> {
        let missed = statistics.get("programs_missed");
        println!(
            "injected: {} of {} due, {missed} programs missed",
            self.written.len(),
            self.due.inserted
        );
        balance(statistics);
        assert_eq!(
            statistics.get("inject_inserted"),
            self.written.len() as u64,
            "{statistics}"
        );
        if missed == 0 {
            ensure!(self.missing == 0, "{} lines are missing", self.missing);
            for (name, due) in self.due.counters() {
                assert_eq!(statistics.get(name), due, "{name}\n{statistics}");
            }
        } else {
            // A kernel that preempts itself: what no program saw is counted, and what follows it on the connection is not proven.
            let excused = missed + statistics.get("inject_unproven");
            ensure!(
                self.missing <= excused,
                "{} lines are missing, {excused} are excused\n{statistics}",
                self.missing
            );
        }
        let exported: HashSet<String> = spans
            .clients()
            .0
            .iter()
            .map(|span| format!("{}-{}", span.trace_id(), span.span_id()))
            .collect();
        let mut named = HashSet::new();
        for line in &self.written {
            let ids = format!("{}-{}", line.trace_id, line.span_id);
            ensure!(exported.contains(&ids), "no span was exported for {ids}");
            ensure!(named.insert(ids), "two requests have the same line");
        }
        Ok(())
    }
}

/// An agent that traces what passes this port and writes headers, its collector, and whether it does.
fn start(context: &Context, port: u16, arguments: &[&str]) -> Result<(Agent, Collector, bool)> {
    let collector = Collector::start()?;
    let mut setup = Setup::grpc(&collector).port(port).arg("--inject");
    for argument in arguments {
        setup = setup.arg(*argument);
    }
    let agent = setup.start(context)?;
    let injects = injects(&agent)?;
    Ok((agent, collector, injects))
}

/// Runs an application without the agent and with it, and compares what the server got and the application was told. All that passes `port` are
/// the requests of the application.
fn same_with_and_without(
    context: &Context,
    port: u16,
    mut run: impl FnMut() -> Result<Run>,
) -> Result<()> {
    let without = run()?;
    let (agent, collector, injects) = start(context, port, &[])?;
    let with = run()?;
    let statistics = agent.stop()?;
    ensure!(
        without.told == with.told,
        "the application was told something else\nwithout: {}\nwith: {}",
        without.told,
        with.told
    );
    ensure!(
        without.received.len() == with.received.len(),
        "{} streams of bytes without the agent, {} with it",
        without.received.len(),
        with.received.len()
    );
    let mut lines = Lines::default();
    for (sent, received) in without.received.iter().zip(&with.received) {
        let due = if injects {
            Due::of(sent, None)
        } else {
            Due::default()
        };
        lines.add(&due, sent, received)?;
    }
    if !injects {
        return refused(&statistics);
    }
    ensure!(lines.due.inserted > 0, "no line was due");
    enrolled(&statistics, with.connections);
    lines.settle(&statistics, &collector.spans())
}

/// As many connections were enrolled as there were, unless no program saw one of them.
fn enrolled(statistics: &Statistics, connections: usize) {
    let (sockets, connections) = (statistics.get("inject_sockets"), connections as u64);
    let seen = sockets + statistics.get("programs_missed");
    assert!(
        sockets <= connections && connections <= seen,
        "{connections} connections\n{statistics}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::all;

    #[test]
    fn the_core_tier_has_two_of_the_suite() {
        let core = |scenario: &&Scenario| scenario.tier == crate::scenario::Tier::Core;
        assert_eq!(SCENARIOS.iter().filter(core).count(), 2);
        assert!(
            SCENARIOS
                .iter()
                .all(|one| all().any(|other| other.name == one.name))
        );
    }
}
