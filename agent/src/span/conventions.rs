//! Names of OpenTelemetry semantic conventions 1.37.0 (the one place where the version is pinned), and our own under `undertrace.`.

/// The version of the conventions, for `schema_url`.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Instrumentation scope of our spans.
pub const SCOPE_NAME: &str = "undertrace";
