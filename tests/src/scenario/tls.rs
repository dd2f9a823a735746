//! Spans over TLS, set up with the standard variables as a user would.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{Agent, Setup},
    assert_text,
    collector::Collector,
    http::Connection,
    process::Program,
    service,
    tls::{Authority, Gate},
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("export_tls_grpc", |context| {
        delivers(context, "grpc", false)
    }),
    Scenario::full("export_tls_http", |context| {
        delivers(context, "http/protobuf", false)
    }),
    Scenario::full("export_tls_client_certificate_grpc", |context| {
        delivers(context, "grpc", true)
    }),
    Scenario::full("export_tls_client_certificate_http", |context| {
        delivers(context, "http/protobuf", true)
    }),
    Scenario::full("export_tls_unknown_authority_grpc", |context| {
        unknown_authority(context, "grpc")
    }),
    Scenario::full("export_tls_unknown_authority_http", |context| {
        unknown_authority(context, "http/protobuf")
    }),
];

/// Requests that are made, each a span of the server.
const REQUESTS: usize = 5;

/// An agent that sends to `gate` and trusts the authorities in the file `trusted`, and the nginx that it traces.
fn traced(
    context: &Context,
    gate: &Gate,
    protocol: &str,
    trusted: &Path,
    own: Option<&[std::path::PathBuf; 2]>,
) -> Result<(Program, u16, Agent)> {
    let port = context.port();
    let nginx = service::static_nginx(context, port)?;
    let mut setup = Setup::to(&gate.endpoint(), protocol)
        .env("OTEL_EXPORTER_OTLP_CERTIFICATE", text(trusted)?)
        .arg("--exe")
        .arg("nginx");
    if let Some([certificate, key]) = own {
        setup = setup
            .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", text(certificate)?)
            .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", text(key)?);
    }
    Ok((nginx, port, setup.start(context)?))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a UTF-8 path")
}

fn ask(port: u16) -> Result<()> {
    let mut connection = Connection::open(port)?;
    for n in 0..REQUESTS {
        let response = connection.get(&format!("/tls/{n}"))?;
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "hello\n")
        );
    }
    Ok(())
}

/// Every span arrives once, behind a certificate of an authority that only the agent was told of; where the collector asks for one, the agent shows its
/// own.
fn delivers(context: &mut Context, protocol: &'static str, asks: bool) -> Result<()> {
    let (authority, clients) = (Authority::new("collectors")?, Authority::new("agents")?);
    let folder = context.folder();
    let trusted = authority.write(folder)?;
    let own = clients.write_issued(folder, "agent")?;
    let collector = Collector::start()?;
    let gate = Gate::start(&collector, protocol, &authority, asks.then_some(&clients))?;
    let own = asks.then_some(&own);
    let (_nginx, port, agent) = traced(context, &gate, protocol, &trusted, own)?;
    ask(port)?;
    collector.wait_for_spans(REQUESTS, PATIENCE)?;
    let statistics = agent.stop()?;
    let expected: String = (0..REQUESTS)
        .map(|n| format!("SERVER nginx GET /tls/{n} 200\n"))
        .collect();
    assert_text("the traces", &collector.spans().render(), &expected);
    let deliveries = collector.deliveries();
    let short = protocol.split('/').next().unwrap_or_default();
    assert!(deliveries.iter().all(|delivery| delivery.protocol == short));
    let carried: usize = deliveries.iter().map(|delivery| delivery.spans).sum();
    assert_eq!(carried, REQUESTS, "nothing is sent twice");
    assert!(gate.entered() > 0);
    assert_eq!(gate.turned_away(), 0);
    let counts = [
        "spans_exported",
        "export_retries",
        "spans_dropped_queue",
        "spans_dropped_export",
    ]
    .map(|name| statistics.get(name));
    assert_eq!(counts, [REQUESTS as u64, 0, 0, 0], "{statistics}");
    Ok(())
}

/// The collector's certificate is signed by somebody else than the agent was told of: no byte of a span leaves, one sentence says why, every span is
/// counted as dropped, and the application does not notice.
fn unknown_authority(context: &mut Context, protocol: &'static str) -> Result<()> {
    const SENTENCE: &str = "cannot deliver spans; will keep trying";
    let (authority, other) = (Authority::new("collectors")?, Authority::new("others")?);
    let trusted = other.write(context.folder())?;
    let collector = Collector::start()?;
    let gate = Gate::start(&collector, protocol, &authority, None)?;
    let (_nginx, port, agent) = traced(context, &gate, protocol, &trusted, None)?;
    ask(port)?;
    wait_for(
        || format!("two attempts; {}", agent.output()),
        PATIENCE,
        || (gate.turned_away() >= 2 && agent.output().contains(SENTENCE)).then_some(()),
    )?;
    ask(port)?;
    let output = agent.output();
    let said: Vec<&str> = output
        .lines()
        .filter(|line| line.contains(SENTENCE))
        .collect();
    assert_eq!(said.len(), 1, "said once, not for each attempt:\n{output}");
    for part in [
        &gate.endpoint(),
        "invalid peer certificate",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
    ] {
        assert!(said[0].contains(part), "{part}: {}", said[0]);
    }
    let statistics = agent.stop()?;
    assert!(collector.deliveries().is_empty());
    assert_eq!(gate.entered(), 0, "no handshake was completed");
    let lost = statistics.get("spans_dropped_queue") + statistics.get("spans_dropped_export");
    assert_eq!(
        (statistics.get("spans_exported"), lost),
        (0, 2 * REQUESTS as u64),
        "{statistics}"
    );
    Ok(())
}
