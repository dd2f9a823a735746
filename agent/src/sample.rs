//! Which spans leave: those of sampled traces. The bit was decided at the root, in the kernel or by the caller; here it is only obeyed.

use agent_common::wire::traceparent;

use crate::telemetry::Counters;

/// Whether a span with these W3C trace flags is exported; one that is not is counted, and need not be made.
#[must_use]
pub fn keeps(trace_flags: u8, counters: &Counters) -> bool {
    let sampled = trace_flags & traceparent::FLAG_SAMPLED != 0;
    if !sampled {
        counters.spans_unsampled.increment();
    }
    sampled
}

/// Paths that OTLP over HTTP posts to (OpenTelemetry protocol specification 1.7, "OTLP/HTTP request").
const OTLP_PATHS: [&str; 4] = [
    "/v1/traces",
    "/v1/metrics",
    "/v1/logs",
    "/v1development/profiles",
];

/// Whether a request is an export of telemetry: tracing it would make a trace of every batch of spans.
#[must_use]
pub fn is_otlp_export(is_post: bool, target: &str) -> bool {
    if !is_post {
        return false;
    }
    let path = target.split('?').next().unwrap_or(target);
    OTLP_PATHS.iter().any(|suffix| path.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_exports_of_telemetry_from_other_requests() {
        assert!(is_otlp_export(true, "/v1/traces"));
        assert!(is_otlp_export(true, "http://collector:4318/v1/metrics?x"));
        assert!(!is_otlp_export(false, "/v1/traces"));
        assert!(!is_otlp_export(true, "/v1/traces/7"));
        assert!(!is_otlp_export(true, "/?next=/v1/traces"));
    }
}
