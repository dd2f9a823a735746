//! The agent's own metrics, as a collector gets them.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, service, wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("export_own_metrics_grpc", |context| {
        own_metrics(context, "grpc", &[("service.name", "undertrace")], &[])
    }),
    Scenario::full("export_own_metrics_http", |context| {
        let named = [
            ("service.name", "watcher"),
            ("deployment.environment.name", "lab one"),
        ];
        let variables = [
            ("OTEL_SERVICE_NAME", "watcher"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "deployment.environment.name=lab%20one,service.name=nobody",
            ),
        ];
        own_metrics(context, "http/protobuf", &named, &variables)
    }),
];

/// Requests that are made on one connection; both ends are traced.
const REQUESTS: u64 = 7;

/// While it traces, the counters tell what the workload did; at the end each is what the agent says last itself; all under a Resource that describes the
/// agent and none of the services.
fn own_metrics(
    context: &mut Context,
    protocol: &'static str,
    named: &[(&str, &str)],
    variables: &[(&str, &str)],
) -> Result<()> {
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let mut setup = if protocol == "grpc" {
        Setup::grpc(&collector)
    } else {
        Setup::http(&collector)
    };
    for (name, value) in variables {
        setup = setup.env(name, value);
    }
    let agent = setup
        .port(port)
        .env("OTEL_METRIC_EXPORT_INTERVAL", "1000")
        .start(context)?;
    let pid = agent.pid();
    let mut connection = Connection::open(port)?;
    for n in 0..REQUESTS {
        assert_eq!(connection.get(&format!("/m/{n}"))?.text(), "hello\n");
    }
    let truth = [
        ("undertrace.kernel.client_decisions", REQUESTS),
        ("undertrace.kernel.server_decisions", REQUESTS),
        ("undertrace.kernel.ring_full", 0),
        ("undertrace.connections", 2),
        ("undertrace.exchanges", 2 * REQUESTS),
        ("undertrace.spans", 2 * REQUESTS),
        ("undertrace.spans_exported", 2 * REQUESTS),
        ("undertrace.spans_dropped_queue", 0),
        ("undertrace.spans_dropped_export", 0),
    ];
    let tells = |sums: &BTreeMap<String, u64>| {
        let told = truth.map(|(name, _)| (name, sums.get(name).copied()));
        (told == truth.map(|(name, value)| (name, Some(value)))).then_some(())
    };
    wait_for(
        || format!("{truth:?}; the newest: {:?}", collector.readings().last()),
        PATIENCE,
        || tells(&collector.readings().last()?.sums),
    )?;
    drop(connection);
    let statistics = agent.stop()?;
    let readings = collector.readings();
    let last = readings.last().expect("some were read before");
    assert!(tells(&last.sums).is_some(), "{:?}", last.sums);
    let mut expected = statistics.section("agent", "undertrace.");
    expected.extend(statistics.section("kernel", "undertrace.kernel."));
    for (name, value) in &expected {
        assert_eq!(last.sums.get(name), Some(value), "{name}\n{statistics}");
    }
    assert_eq!(last.sums.len(), expected.len(), "{:?}", last.sums);
    for (name, _) in statistics.section("gauges", "undertrace.") {
        assert!(last.gauges.contains_key(&name), "{name}: {:?}", last.gauges);
    }
    // What goes down again is no sum.
    for name in ["undertrace.spans_pending", "undertrace.handovers_held"] {
        assert_eq!(last.gauges.get(name), Some(&0), "{name}");
        assert!(!last.sums.contains_key(name), "{name}");
    }

    let host = rustix::system::uname();
    let mut resource: BTreeMap<&str, String> = [
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("process.pid", pid.to_string()),
        ("host.name", host.nodename().to_string_lossy().into_owned()),
    ]
    .into();
    resource.extend(
        named
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    );
    let short = protocol.split('/').next().unwrap_or_default();
    let mut before = BTreeMap::new();
    for reading in readings {
        assert_eq!(reading.protocol, short);
        assert!(reading.others.is_empty(), "{:?}", reading.others);
        let told = reading.resource.iter();
        let told: BTreeMap<&str, String> = told
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        assert_eq!(told, resource);
        for (name, value) in &reading.sums {
            assert!(before.get(name) <= Some(value), "{name} counts down");
        }
        before = reading.sums;
    }
    Ok(())
}
