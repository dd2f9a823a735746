//! What arrived as metrics, flattened.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{
        AggregationTemporality, Metric, NumberDataPoint, metric::Data, number_data_point::Value,
    },
};

use crate::harness::trace::as_text;

/// One export of metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// `grpc` or `http`.
    pub(crate) protocol: &'static str,
    /// Attributes of its Resource as text, by name.
    pub(crate) resource: BTreeMap<String, String>,
    /// Values of sums that count up from the start of their process, by name.
    pub(crate) sums: BTreeMap<String, u64>,
    /// Values of gauges, by name.
    pub(crate) gauges: BTreeMap<String, u64>,
    /// Metrics of another form, or with a name that was there already.
    pub(crate) others: Vec<String>,
}

impl Reading {
    /// The metrics of a request, which is taken to have one Resource.
    pub(super) fn of(request: ExportMetricsServiceRequest, protocol: &'static str) -> Self {
        let mut reading = Self {
            protocol,
            ..Self::default()
        };
        for part in request.resource_metrics {
            if !reading.resource.is_empty() {
                reading.others.push("a second Resource".to_owned());
            }
            reading.resource = as_text(&part.resource.unwrap_or_default().attributes);
            for metric in part.scope_metrics.into_iter().flat_map(|s| s.metrics) {
                reading.take(&metric);
            }
        }
        reading
    }

    fn take(&mut self, metric: &Metric) {
        let (values, points) = match &metric.data {
            Some(Data::Sum(sum))
                if sum.is_monotonic
                    && sum.aggregation_temporality() == AggregationTemporality::Cumulative =>
            {
                (&mut self.sums, &sum.data_points)
            }
            Some(Data::Gauge(gauge)) => (&mut self.gauges, &gauge.data_points),
            _ => return self.others.push(format!("{metric:?}")),
        };
        let known = match single(points) {
            Some(value) => values.insert(metric.name.clone(), value).is_some(),
            None => true,
        };
        if known {
            self.others.push(format!("{metric:?}"));
        }
    }
}

/// The value of a metric that has one, without attributes.
fn single(points: &[NumberDataPoint]) -> Option<u64> {
    match points {
        [point] if point.attributes.is_empty() => match point.value {
            Some(Value::AsInt(value)) => u64::try_from(value).ok(),
            _ => None,
        },
        _ => None,
    }
}
