//! The standard OTLP variables. Input: an environment. Output: [`Settings`] for each signal.
//!
//! Source: OpenTelemetry specification 1.47, "OpenTelemetry Protocol Exporter" and "Environment Variable Specification". A variable of the
//! signal outranks the general one; an empty variable counts as absent.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{ConfigError, Env};
use crate::export::{
    otlp::settings::{Protocol, Settings, Tls},
    queue::Limits,
};

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// The agent's own metrics.
    Metrics,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }
}

/// Section `otlp` of the YAML file: defaults for the variables `OTEL_EXPORTER_OTLP_*`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Section {
    /// OTEL_EXPORTER_OTLP_ENDPOINT.
    pub endpoint: Option<String>,
    /// OTEL_EXPORTER_OTLP_PROTOCOL.
    pub protocol: Option<String>,
    /// OTEL_EXPORTER_OTLP_HEADERS, as `name=value,...`.
    pub headers: Option<String>,
    /// OTEL_EXPORTER_OTLP_COMPRESSION.
    pub compression: Option<String>,
    /// OTEL_EXPORTER_OTLP_TIMEOUT, milliseconds.
    pub timeout: Option<u64>,
    /// OTEL_EXPORTER_OTLP_CERTIFICATE.
    pub certificate: Option<String>,
    /// OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE.
    pub client_certificate: Option<String>,
    /// OTEL_EXPORTER_OTLP_CLIENT_KEY.
    pub client_key: Option<String>,
}

impl Section {
    /// The section as the variables it stands for.
    pub(super) fn variables(&self) -> HashMap<String, String> {
        let timeout = self.timeout.map(|ms| ms.to_string());
        [
            ("ENDPOINT", &self.endpoint),
            ("PROTOCOL", &self.protocol),
            ("HEADERS", &self.headers),
            ("COMPRESSION", &self.compression),
            ("TIMEOUT", &timeout),
            ("CERTIFICATE", &self.certificate),
            ("CLIENT_CERTIFICATE", &self.client_certificate),
            ("CLIENT_KEY", &self.client_key),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((format!("OTEL_EXPORTER_OTLP_{name}"), value.clone()?)))
        .collect()
    }
}

/// Where OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exporters {
    /// Spans go to OTLP, if there is an endpoint.
    pub(super) traces: bool,
    /// Metrics go to OTLP, if there is an endpoint.
    pub(super) metrics: bool,
    /// Spans go to the console.
    pub(super) console: bool,
    /// Spans go nowhere by default.
    pub(super) none: bool,
}

impl Exporters {
    pub(super) fn read(env: Env<'_>) -> Result<Self, ConfigError> {
        let mut exporters = Self {
            traces: true,
            metrics: true,
            console: false,
            none: false,
        };
        if let Some(value) = present(env, "OTEL_TRACES_EXPORTER") {
            exporters.traces = false;
            for name in value.split(',').map(str::trim) {
                match name {
                    "otlp" => exporters.traces = true,
                    "console" => exporters.console = true,
                    "none" => exporters.none = true,
                    _ => {
                        let expected = "otlp, console or none";
                        return Err(ConfigError::value("OTEL_TRACES_EXPORTER", &value, expected));
                    }
                }
            }
        }
        match present(env, "OTEL_METRICS_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => exporters.metrics = false,
            Some(value) => {
                let expected = "otlp or none";
                return Err(ConfigError::value("OTEL_METRICS_EXPORTER", value, expected));
            }
        }
        Ok(exporters)
    }
}

/// The settings of a signal, or `None` when no endpoint is configured.
///
/// # Errors
/// A variable has a value that it cannot have, or names a file that cannot be read.
pub fn settings(signal: Signal, env: Env<'_>) -> Result<Option<Settings>, ConfigError> {
    let variables = Variables { signal, env };
    let (general, own) = (variables.general("ENDPOINT"), variables.own("ENDPOINT"));
    let Some(endpoint) = own.clone().or(general) else {
        return Ok(None);
    };
    let protocol = match variables.get("PROTOCOL") {
        None => Protocol::HttpProtobuf,
        Some((name, value)) => Protocol::parse(&value).ok_or_else(|| {
            ConfigError::value(&name, &value, format!("one of {}", Protocol::NAMES))
        })?,
    };
    let gzip = match variables.get("COMPRESSION") {
        None => false,
        Some((_, value)) if value == "none" => false,
        Some((_, value)) if value == "gzip" => true,
        Some((name, value)) => return Err(ConfigError::value(&name, &value, "gzip or none")),
    };
    let timeout = match variables.get("TIMEOUT") {
        None => Duration::from_secs(10),
        Some((name, value)) => value
            .trim()
            .parse()
            .ok()
            .filter(|&ms| ms > 0)
            .map(Duration::from_millis)
            .ok_or_else(|| ConfigError::value(&name, &value, "milliseconds, at least 1"))?,
    };
    let headers = match variables.get("HEADERS") {
        None => Vec::new(),
        Some((name, value)) => headers(&name, &value)?,
    };
    let insecure = match variables.get("INSECURE") {
        None => false,
        Some((_, value)) => value.eq_ignore_ascii_case("true"),
    };
    let endpoint = complete(
        &endpoint,
        protocol,
        own.is_none().then_some(signal),
        insecure,
    )?;
    Ok(Some(Settings {
        endpoint,
        protocol,
        gzip,
        headers,
        timeout,
        tls: Tls {
            certificate: variables.file("CERTIFICATE")?,
            client_certificate: variables.file("CLIENT_CERTIFICATE")?,
            client_key: variables.file("CLIENT_KEY")?,
        },
    }))
}

/// The endpoint with its scheme; for HTTP with its path too, where the general variable gave only the base.
fn complete(
    endpoint: &str,
    protocol: Protocol,
    append_path_of: Option<Signal>,
    insecure: bool,
) -> Result<String, ConfigError> {
    let has_scheme = endpoint.starts_with("http://") || endpoint.starts_with("https://");
    match protocol {
        Protocol::Grpc if has_scheme => Ok(endpoint.to_owned()),
        // Only gRPC endpoints may come without a scheme.
        Protocol::Grpc if !endpoint.contains("://") => {
            let scheme = if insecure { "http" } else { "https" };
            Ok(format!("{scheme}://{endpoint}"))
        }
        Protocol::HttpProtobuf | Protocol::HttpJson if has_scheme => Ok(match append_path_of {
            Some(signal) => format!("{}/{}", endpoint.trim_end_matches('/'), signal.path()),
            None => endpoint.to_owned(),
        }),
        _ => Err(ConfigError::value(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            endpoint,
            "a URL such as http://localhost:4318",
        )),
    }
}

/// `name=value,name=value`, both percent-decoded (W3C Baggage without properties).
fn headers(variable: &str, text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    // The value may be a secret: an error does not show it.
    let invalid = || {
        ConfigError::value(
            variable,
            "...",
            "name=value pairs separated by commas, percent-encoded where needed",
        )
    };
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').ok_or_else(invalid)?;
            let name = percent_decoded(name.trim()).filter(|name| !name.is_empty());
            let value = percent_decoded(value.trim());
            Ok((name.ok_or_else(invalid)?, value.ok_or_else(invalid)?))
        })
        .collect()
}

/// The text with `%xx` replaced; `None` when that is no UTF-8. A `%` without two hexadecimal digits stands for itself.
fn percent_decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = (byte == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// Bounds of the queue, from the variables of the batch span processor.
///
/// # Errors
/// A variable is no number.
pub(super) fn limits(env: Env<'_>) -> Result<Limits, ConfigError> {
    let number = |name: &str| -> Result<Option<usize>, ConfigError> {
        present(env, name)
            .map(|value| {
                value
                    .trim()
                    .parse()
                    .ok()
                    .filter(|&number| number > 0)
                    .ok_or_else(|| ConfigError::value(name, &value, "a number, at least 1"))
            })
            .transpose()
    };
    let defaults = Limits::default();
    let spans = number("OTEL_BSP_MAX_QUEUE_SIZE")?.unwrap_or(defaults.spans);
    Ok(Limits {
        spans,
        batch_spans: number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE")?
            .unwrap_or(defaults.batch_spans)
            .min(spans),
        delay: number("OTEL_BSP_SCHEDULE_DELAY")?
            .map_or(defaults.delay, |ms| Duration::from_millis(ms as u64)),
        ..defaults
    })
}

/// Attributes of the agent's own Resource; malformed pairs are left out, as the specification asks of the whole.
pub(super) fn own_attributes(env: Env<'_>) -> Vec<(String, String)> {
    let text = present(env, "OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let mut attributes = headers("OTEL_RESOURCE_ATTRIBUTES", &text).unwrap_or_default();
    if let Some(name) = present(env, "OTEL_SERVICE_NAME") {
        attributes.retain(|(key, _)| key != "service.name");
        attributes.push(("service.name".to_owned(), name));
    }
    attributes
}

/// A boolean variable of the specification: only `true`, in any case, is true.
pub(super) fn flag(env: Env<'_>, name: &str) -> Option<bool> {
    present(env, name).map(|value| value.trim().eq_ignore_ascii_case("true"))
}

fn present(env: Env<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

/// Variables of a signal.
struct Variables<'a> {
    signal: Signal,
    env: Env<'a>,
}

impl Variables<'_> {
    fn own_name(&self, name: &str) -> String {
        format!("OTEL_EXPORTER_OTLP_{}_{name}", self.signal.name())
    }

    fn own(&self, name: &str) -> Option<String> {
        present(self.env, &self.own_name(name))
    }

    fn general(&self, name: &str) -> Option<String> {
        present(self.env, &format!("OTEL_EXPORTER_OTLP_{name}"))
    }

    /// The variable's name and value: the signal's own, else the general one.
    fn get(&self, name: &str) -> Option<(String, String)> {
        self.own(name)
            .map(|value| (self.own_name(name), value))
            .or_else(|| Some((format!("OTEL_EXPORTER_OTLP_{name}"), self.general(name)?)))
    }

    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, ConfigError> {
        let Some((name, path)) = self.get(name) else {
            return Ok(None);
        };
        let path = PathBuf::from(path);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(source) => Err(ConfigError::Read { name, path, source }),
        }
    }
}
