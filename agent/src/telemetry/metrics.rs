//! The agent's own metrics, sent with the OpenTelemetry SDK: every counter as a sum, every gauge as a gauge, under `undertrace.`.
//!
//! Input: a function that gives a [`Snapshot`]. Output: OTLP metrics of the agent's own Resource. Spans do not pass here.

use std::{future::Future, pin::pin, sync::Arc, task::Poll, time::Duration};

use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_otlp::{
    Compression, MetricExporter, Protocol as SdkProtocol, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{
        PeriodicReader, SdkMeterProvider, Temporality, data::ResourceMetrics,
        exporter::PushMetricExporter,
    },
};
use tokio::runtime::Handle;

use super::stats::Snapshot;
use crate::export::otlp::{
    ClientError, grpc, http,
    settings::{Protocol, Settings},
};

/// Gives the values of a moment; called from the SDK's thread.
pub type Source = Arc<dyn Fn() -> Snapshot + Send + Sync>;

/// Metrics that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The settings cannot work.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The SDK refused them.
    #[error("the metrics exporter cannot be made")]
    Build(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// The agent's own metrics while they are sent.
#[derive(Debug)]
pub struct OwnMetrics {
    provider: SdkMeterProvider,
}

impl OwnMetrics {
    /// Begins to send: every 60 s, or as OTEL_METRIC_EXPORT_INTERVAL says. `attributes` describe the agent and outrank what it says of itself.
    ///
    /// # Errors
    /// The settings cannot work, whatever the network does.
    pub fn start(
        settings: &Settings,
        attributes: &[(String, String)],
        source: &Source,
        runtime: &Handle,
    ) -> Result<Self, MetricsError> {
        let exporter = OnRuntime {
            exporter: exporter(settings, runtime)?,
            runtime: runtime.clone(),
        };
        let provider = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(exporter).build())
            .with_resource(resource(attributes))
            .build();
        register(&provider, source);
        Ok(Self { provider })
    }

    /// Sends the last values, for at most `deadline`. Must not be called on a thread of the runtime.
    pub fn shut_down(self, deadline: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(deadline) {
            tracing::debug!(%error, "last metrics not delivered");
        }
    }
}

fn exporter(settings: &Settings, runtime: &Handle) -> Result<MetricExporter, MetricsError> {
    let _context = runtime.enter();
    Ok(match settings.protocol {
        Protocol::Grpc => {
            let mut builder = MetricExporter::builder()
                .with_tonic()
                .with_channel(grpc::channel(settings)?)
                .with_endpoint(settings.endpoint.clone())
                .with_metadata(grpc::metadata(&settings.headers)?)
                .with_timeout(settings.timeout);
            if settings.gzip {
                builder = builder.with_compression(Compression::Gzip);
            }
            builder.build()?
        }
        // Whoever takes OTLP as JSON takes protobuf too; the SDK's JSON would be one more feature to carry.
        Protocol::HttpProtobuf | Protocol::HttpJson => {
            let mut builder = MetricExporter::builder()
                .with_http()
                .with_http_client(http::client(settings)?)
                .with_endpoint(settings.endpoint.clone())
                .with_protocol(SdkProtocol::HttpBinary)
                .with_timeout(settings.timeout);
            if settings.gzip {
                builder = builder.with_compression(Compression::Gzip);
            }
            builder.build()?
        }
    })
}

fn resource(attributes: &[(String, String)]) -> Resource {
    let mut all = vec![
        KeyValue::new("service.name", "undertrace"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new(
            "host.name",
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        ),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ];
    for (key, value) in attributes {
        all.retain(|known| known.key.as_str() != key);
        all.push(KeyValue::new(key.clone(), value.clone()));
    }
    Resource::builder_empty().with_attributes(all).build()
}

/// One instrument for each name; each asks for the values of its moment.
fn register(provider: &SdkMeterProvider, source: &Source) {
    let meter = provider.meter("undertrace");
    let now = source();
    for &(name, _) in &now.kernel {
        let source = Arc::clone(source);
        meter
            .u64_observable_counter(format!("undertrace.kernel.{name}"))
            .with_callback(move |observer| {
                if let Some(value) = value_of(&source().kernel, name) {
                    observer.observe(value, &[]);
                }
            })
            .build();
    }
    for &(name, _) in &now.agent {
        let source = Arc::clone(source);
        meter
            .u64_observable_counter(format!("undertrace.{name}"))
            .with_callback(move |observer| {
                if let Some(value) = value_of(&source().agent, name) {
                    observer.observe(value, &[]);
                }
            })
            .build();
    }
    for &(name, _) in &now.gauges {
        let source = Arc::clone(source);
        meter
            .u64_observable_gauge(format!("undertrace.{name}"))
            .with_callback(move |observer| {
                if let Some(value) = value_of(&source().gauges, name) {
                    observer.observe(value, &[]);
                }
            })
            .build();
    }
}

fn value_of(values: &[(&'static str, u64)], name: &str) -> Option<u64> {
    let found = values.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value)
}

/// Polls an exporter within the context of a runtime: the SDK's reader has a thread of its own, without one.
#[derive(Debug)]
struct OnRuntime<E> {
    exporter: E,
    runtime: Handle,
}

impl<E: PushMetricExporter> PushMetricExporter for OnRuntime<E> {
    fn export(&self, metrics: &ResourceMetrics) -> impl Future<Output = OTelSdkResult> + Send {
        let runtime = self.runtime.clone();
        async move {
            let mut export = pin!(self.exporter.export(metrics));
            std::future::poll_fn(move |context| -> Poll<OTelSdkResult> {
                let _context = runtime.enter();
                export.as_mut().poll(context)
            })
            .await
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
