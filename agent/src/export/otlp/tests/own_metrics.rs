//! The agent's own metrics, through the SDK, to a collector.

use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    metrics::v1::{metric::Data, number_data_point::Value as Number},
};

use super::{collector::Collector, *};
use crate::telemetry::{
    metrics::{OwnMetrics, Source},
    stats::Snapshot,
};

#[tokio::test]
async fn every_counter_arrives_under_its_name() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = Collector::start().await;
        let mut settings = settings(&collector.address.to_string(), protocol);
        settings.endpoint = settings.endpoint.replace("traces", "metrics");
        settings.gzip = true;
        settings.headers = vec![("api-key".to_owned(), "secret".to_owned())];
        let source: Source = Arc::new(|| Snapshot {
            kernel: vec![("ring_full", 3)],
            agent: vec![("spans", 12)],
            gauges: vec![("spans_pending", 5)],
            ..Snapshot::default()
        });
        let attributes = [("service.name".to_owned(), "my-agent".to_owned())];
        let runtime = Handle::current();
        let metrics = OwnMetrics::start(&settings, &attributes, &source, &runtime);
        let metrics = metrics.expect("the settings are valid");
        let ended = tokio::task::spawn_blocking(|| metrics.shut_down(Duration::from_secs(10)));
        ended.await.expect("no panic");

        let received = collector.metrics();
        let (headers, export) = received.last().expect("metrics arrived");
        assert_eq!(
            headers
                .get("api-key")
                .map(hyper::http::HeaderValue::as_bytes),
            Some(&b"secret"[..])
        );
        let resource = export.resource_metrics[0]
            .resource
            .as_ref()
            .expect("a Resource");
        let named = resource
            .attributes
            .iter()
            .find(|pair| pair.key == "service.name");
        let name = named
            .and_then(|pair| pair.value.clone())
            .and_then(|any| any.value);
        assert_eq!(name, Some(Value::StringValue("my-agent".to_owned())));
        let mut values = Vec::new();
        for metric in &export.resource_metrics[0].scope_metrics[0].metrics {
            let (points, is_sum) = match metric.data.as_ref().expect("data") {
                Data::Sum(sum) => {
                    assert!(sum.is_monotonic);
                    (&sum.data_points, true)
                }
                Data::Gauge(gauge) => (&gauge.data_points, false),
                other => panic!("{other:?}"),
            };
            let Some(Number::AsInt(value)) = points[0].value else {
                panic!("{points:?}");
            };
            values.push((metric.name.as_str(), is_sum, value));
        }
        values.sort_unstable();
        let expected = [
            ("undertrace.kernel.ring_full", true, 3),
            ("undertrace.spans", true, 12),
            ("undertrace.spans_pending", false, 5),
        ];
        assert_eq!(values, expected, "{protocol:?}");
    }
}
