//! Where spans go, and what happens when they cannot go there.

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{Agent, Setup},
    collector::{Answer, Collector},
    http::Connection,
    load, service, wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("export_grpc_many_resources_gzip_headers", |context| {
        many_resources(context, "grpc")
    }),
    Scenario::core("export_http_many_resources_gzip_headers", |context| {
        many_resources(context, "http/protobuf")
    }),
    Scenario::full("export_retries_until_accepted", retries_until_accepted),
    Scenario::full(
        "export_partial_success_is_counted",
        partial_success_is_counted,
    ),
    Scenario::full("export_collector_down_counts", collector_down_counts),
    Scenario::full(
        "export_hanging_collector_leaves_application_alone",
        hanging_collector_leaves_application_alone,
    ),
    Scenario::full("export_no_feedback_loop", no_feedback_loop),
];

fn many_resources(context: &mut Context, protocol: &'static str) -> Result<()> {
    let ports: Vec<u16> = (0..3).map(|_| context.port()).collect();
    let _servers: Vec<_> = ports
        .iter()
        .map(|port| {
            let name = format!("service-{port}");
            service::python_in(
                context,
                None,
                "threads.py",
                *port,
                &[],
                &[("OTEL_SERVICE_NAME", &name)],
            )
        })
        .collect::<Result<_>>()?;
    let collector = Collector::start()?;
    let endpoint = if protocol == "grpc" {
        collector.grpc_endpoint()
    } else {
        collector.http_endpoint()
    };
    let mut setup = Setup::to(&endpoint, protocol)
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "x-tenant=blue,authorization=Basic%20c2hvcA",
        );
    for port in &ports {
        setup = setup.port(*port);
    }
    let agent = setup.start(context)?;
    for n in 0..10 {
        for port in &ports {
            assert_eq!(
                Connection::open(*port)?.get(&format!("/r/{n}"))?.status,
                200
            );
        }
    }
    collector.wait_for_spans(60, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    for port in &ports {
        assert_eq!(spans.of(&format!("service-{port}")).len(), 10);
    }
    assert_eq!(spans.of("scenarios").len(), 30);
    assert_eq!(statistics.get("spans_exported"), 60, "{statistics}");
    let deliveries = collector.deliveries();
    let short = protocol.split('/').next().unwrap_or_default();
    let carried: usize = deliveries.iter().map(|delivery| delivery.spans).sum();
    assert_eq!(carried, 60, "nothing is sent twice");
    for delivery in &deliveries {
        assert_eq!((delivery.protocol, delivery.gzip), (short, true));
        let header = |name: &str| {
            delivery
                .headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(
            (header("x-tenant"), header("authorization")),
            (Some("blue"), Some("Basic c2hvcA"))
        );
    }
    assert!(
        deliveries.iter().any(|delivery| delivery.resources >= 2),
        "many Resources travel in one request"
    );
    Ok(())
}

/// One traced nginx, its port, and the agent.
fn traced(
    context: &Context,
    setup: Setup,
) -> Result<(crate::harness::process::Program, u16, Agent)> {
    let port = context.port();
    let nginx = service::static_nginx(context, port)?;
    let agent = setup.arg("--exe").arg("nginx").start(context)?;
    Ok((nginx, port, agent))
}

fn retries_until_accepted(context: &mut Context) -> Result<()> {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start()?;
        collector.answer_next([
            Answer::Refuse {
                status: 503,
                retry_after_seconds: None,
            },
            Answer::Refuse {
                status: 429,
                retry_after_seconds: Some(1),
            },
        ]);
        let endpoint = if protocol == "grpc" {
            collector.grpc_endpoint()
        } else {
            collector.http_endpoint()
        };
        let (_nginx, port, agent) = traced(context, Setup::to(&endpoint, protocol))?;
        assert_eq!(Connection::open(port)?.get("/once")?.status, 200);
        collector.wait_for_spans(1, PATIENCE)?;
        let statistics = agent.stop()?;
        assert_eq!(collector.spans().len(), 1, "a retried span arrives once");
        assert_eq!(
            (
                statistics.get("export_retries"),
                statistics.get("spans_exported")
            ),
            (2, 1),
            "{protocol}: {statistics}"
        );
        assert_eq!(collector.deliveries().len(), 3, "{protocol}");
    }
    Ok(())
}

fn partial_success_is_counted(context: &mut Context) -> Result<()> {
    let collector = Collector::start()?;
    collector.answer_next([
        Answer::Partial { rejected: 1 },
        Answer::Refuse {
            status: 400,
            retry_after_seconds: None,
        },
    ]);
    let (_nginx, port, agent) = traced(context, Setup::grpc(&collector))?;
    let mut connection = Connection::open(port)?;
    for n in 1..=3 {
        assert_eq!(connection.get(&format!("/part/{n}"))?.status, 200);
        // One delivery per request, so that each meets its own answer.
        wait_for(
            || format!("delivery {n}"),
            PATIENCE,
            || (collector.deliveries().len() >= n).then_some(()),
        )?;
    }
    let statistics = agent.stop()?;
    assert_eq!(collector.spans().len(), 1);
    let counts = [
        "spans_rejected_partial",
        "spans_dropped_export",
        "spans_exported",
    ]
    .map(|name| statistics.get(name));
    assert_eq!(counts, [1, 1, 1], "{statistics}");
    Ok(())
}

/// Nobody listens at the endpoint: the queue is bounded, what is dropped is counted to the last span, memory does not grow with it.
fn collector_down_counts(context: &mut Context) -> Result<()> {
    const REQUESTS: u32 = 3_000;
    let nobody = context.port();
    let setup = Setup::to(&format!("http://127.0.0.1:{nobody}"), "grpc")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "512");
    let (_nginx, port, agent) = traced(context, setup)?;
    let ask = |count: u32| -> Result<()> {
        let mut connection = Connection::open(port)?;
        for _ in 0..count {
            assert_eq!(connection.get("/lost")?.text(), "hello\n");
        }
        Ok(())
    };
    ask(REQUESTS / 2)?;
    let before = agent.resident_kib()?;
    ask(REQUESTS / 2)?;
    let after = agent.resident_kib()?;
    assert!(
        after < before + 4_096,
        "memory grew from {before} to {after} KiB"
    );
    let statistics = agent.stop()?;
    let lost = statistics.get("spans_dropped_queue") + statistics.get("spans_dropped_export");
    assert_eq!(
        (statistics.get("spans_exported"), lost),
        (0, u64::from(REQUESTS)),
        "{statistics}"
    );
    assert!(statistics.get("spans_dropped_queue") > 0, "{statistics}");
    Ok(())
}

fn hanging_collector_leaves_application_alone(context: &mut Context) -> Result<()> {
    let collector = Collector::start()?;
    collector.answer_always(Answer::Hang);
    let setup = Setup::http(&collector)
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "512");
    let (_nginx, port, agent) = traced(context, setup)?;
    let mut connection = Connection::open(port)?;
    for _ in 0..2_000 {
        assert_eq!(connection.get("/hang")?.text(), "hello\n");
    }
    let statistics = agent.stop()?;
    let lost = statistics.get("spans_dropped_queue") + statistics.get("spans_dropped_export");
    assert_eq!(
        (statistics.get("spans_exported"), lost),
        (0, 2_000),
        "{statistics}"
    );
    Ok(())
}

/// Everything is traced, the collector too: exports make no spans, so no exports.
fn no_feedback_loop(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _python = service::python(context, "threads.py", port, &[])?;
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start()?;
        let endpoint = if protocol == "grpc" {
            collector.grpc_endpoint()
        } else {
            collector.http_endpoint()
        };
        let agent = Setup::to(&endpoint, protocol).start(context)?;
        for round in 1..=8 {
            load::numbered(port, "/b", 10, 1)?;
            // Each round waits for its own export, so exports had every chance to be seen as requests.
            wait_for(
                || collector.spans().render(),
                PATIENCE,
                || (collector.spans().servers().of("threads").len() >= round * 10).then_some(()),
            )?;
        }
        agent.stop()?;
        let spans = collector
            .spans()
            .filter(|span| !span.path().starts_with("/b/"));
        assert!(
            spans.is_empty(),
            "spans of exports over {protocol}:\n{}",
            spans.render()
        );
        assert_eq!(collector.spans().len(), 160);
    }
    Ok(())
}
