//! One source of configuration. The same struct is read from flags (clap), from UNDERTRACE_* variables and from YAML (serde), so that a new
//! option is one field and one line in [`Layer::from_env`] and [`Layer::over`].

use std::{num::NonZeroU32, path::PathBuf, str::FromStr};

use clap::{ArgAction, Args};
use serde::{Deserialize, Deserializer, de::Error};

use super::{
    ConfigError, Env,
    fault::Fault,
    network::Network,
    otlp::Section,
    propagator::{EXPECTED, Propagator},
    sampler::{self, ServiceRule},
};
use crate::process::{Glob, PortRange};

/// What one source says; absent is `None` or empty.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Layer {
    /// Trace only connections with this port, or one of this range, on either end [env: UNDERTRACE_PORT=80,8000-8099].
    #[arg(
        long,
        value_name = "PORT",
        value_delimiter = ',',
        help_heading = "What is traced (default: everything)"
    )]
    #[serde(deserialize_with = "port_ranges")]
    pub port: Vec<PortRange>,
    /// Trace only processes whose executable matches: its path if there is a slash, else its name [env: UNDERTRACE_EXE].
    #[arg(
        long,
        value_name = "GLOB",
        value_delimiter = ',',
        help_heading = "What is traced (default: everything)"
    )]
    #[serde(deserialize_with = "globs")]
    pub exe: Vec<Glob>,
    /// Trace only this process, by the host's id, and its forked workers [env: UNDERTRACE_PID].
    #[arg(
        long,
        value_name = "PID",
        value_delimiter = ',',
        help_heading = "What is traced (default: everything)"
    )]
    pub pid: Vec<u32>,
    /// Trace only processes in this cgroup or below it [env: UNDERTRACE_CGROUP].
    #[arg(
        long,
        value_name = "GLOB",
        value_delimiter = ',',
        help_heading = "What is traced (default: everything)"
    )]
    #[serde(deserialize_with = "globs")]
    pub cgroup: Vec<Glob>,
    /// Export url.query, which may hold secrets [env: UNDERTRACE_QUERY].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "What is traced (default: everything)")]
    pub query: Option<bool>,
    /// Make spans of other processes' OTLP exports, too [env: UNDERTRACE_OTLP_EXPORTS].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "What is traced (default: everything)")]
    pub otlp_exports: Option<bool>,

    /// Look into TLS connections, by probes on the libraries that processes use; the default: yes [env: UNDERTRACE_TLS].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "What is traced (default: everything)")]
    pub tls: Option<bool>,

    /// Write trace context (`traceparent`) into plaintext HTTP/1.1 requests [env: UNDERTRACE_INJECT].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Trace context between hosts")]
    pub inject: Option<bool>,
    /// Write it only towards these networks; the default: private, loopback and link-local ones [env: UNDERTRACE_INJECT_TO].
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        help_heading = "Trace context between hosts"
    )]
    pub inject_to: Vec<Network>,
    /// Write it also into requests on connections that are older than the agent, from the third request on that it sees; their descriptors are duplicated
    /// for a moment while they are idle [env: UNDERTRACE_INJECT_EXISTING].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Trace context between hosts")]
    pub inject_existing: Option<bool>,
    /// Carry trace context in a TCP option, to and from hosts that run an agent with this flag; towards the networks of --inject-to, and from those of
    /// --trust-context [env: UNDERTRACE_TCP_OPTION].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Trace context between hosts")]
    pub tcp_option: Option<bool>,
    /// Take trace context only from these networks, that from elsewhere becomes a link; the default: private, loopback and link-local ones
    /// [env: UNDERTRACE_TRUST_CONTEXT].
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        help_heading = "Trace context between hosts"
    )]
    pub trust_context: Vec<Network>,
    /// Take trace context also from headers of these propagators, the first one present counts: tracecontext (always first), b3, b3multi, jaeger,
    /// or a pair of headers such as X-Trace-Id/X-Parent-Span-ID [env: OTEL_PROPAGATORS].
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Trace context between hosts"
    )]
    pub propagators: Vec<Propagator>,

    /// Print each trace as a waterfall; the default when nothing else is configured [env: UNDERTRACE_CONSOLE].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Where spans go (OTLP: OTEL_EXPORTER_OTLP_ENDPOINT and its family)")]
    pub console: Option<bool>,
    /// Write spans to this file as OTLP JSON lines [env: UNDERTRACE_FILE].
    #[arg(
        long,
        value_name = "PATH",
        help_heading = "Where spans go (OTLP: OTEL_EXPORTER_OTLP_ENDPOINT and its family)"
    )]
    pub file: Option<PathBuf>,
    /// Sampler for traces that begin here [env: OTEL_TRACES_SAMPLER].
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Where spans go (OTLP: OTEL_EXPORTER_OTLP_ENDPOINT and its family)"
    )]
    pub sampler: Option<String>,
    /// Ratio for the samplers that want one, 0 to 1 [env: OTEL_TRACES_SAMPLER_ARG].
    #[arg(
        long,
        value_name = "RATIO",
        help_heading = "Where spans go (OTLP: OTEL_EXPORTER_OTLP_ENDPOINT and its family)"
    )]
    #[serde(deserialize_with = "text_or_number")]
    pub sampler_arg: Option<String>,
    /// Ratio for traces that begin in a service, by a pattern for its service.name; the first that matches counts [env: UNDERTRACE_SAMPLE=NAME=RATIO,...].
    #[arg(
        long,
        value_name = "NAME=RATIO",
        value_delimiter = ',',
        help_heading = "Where spans go (OTLP: OTEL_EXPORTER_OTLP_ENDPOINT and its family)"
    )]
    pub sample: Vec<ServiceRule>,
    /// Keep about this many of the traces that begin here in a second, over all services [env: UNDERTRACE_SAMPLE_RATE].
    #[arg(
        long,
        value_name = "N",
        help_heading = "Where spans go (OTLP: OTEL_EXPORTER_OTLP_ENDPOINT and its family)"
    )]
    pub sample_rate: Option<NonZeroU32>,
    /// OTLP settings of the YAML file; the environment outranks them.
    #[arg(skip)]
    pub otlp: Option<Section>,

    /// Read options from this YAML file; flags and environment outrank it [env: UNDERTRACE_CONFIG].
    #[arg(long, value_name = "PATH")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Where the host's /proc is mounted, for an agent in a pid namespace of its own [env: UNDERTRACE_PROC_ROOT; default: /proc].
    #[arg(long, value_name = "PATH")]
    pub proc_root: Option<PathBuf>,
    /// Write all counters to this file at the end [env: UNDERTRACE_STATS_JSON].
    #[arg(long, value_name = "PATH")]
    pub stats_json: Option<PathBuf>,
    /// Create this file when every hook is attached [env: UNDERTRACE_READY_FILE].
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// Force a loss, to see that it is counted [env: UNDERTRACE_FAULT].
    #[arg(long, value_name = "NAME", value_delimiter = ',', hide = true, action = ArgAction::Append)]
    pub fault: Vec<Fault>,
}

impl Layer {
    /// What UNDERTRACE_* variables say. Lists are separated by commas.
    pub(super) fn from_env(env: Env<'_>) -> Result<Self, ConfigError> {
        let text = |name: &str| env(name).filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(PathBuf::from);
        Ok(Self {
            port: list(
                env,
                "UNDERTRACE_PORT",
                "ports (1 to 65535) or ranges such as 8000-8099, separated by commas",
            )?,
            exe: list(env, "UNDERTRACE_EXE", "globs separated by commas")?,
            pid: list(env, "UNDERTRACE_PID", "process ids separated by commas")?,
            cgroup: list(env, "UNDERTRACE_CGROUP", "globs separated by commas")?,
            query: truth(env, "UNDERTRACE_QUERY")?,
            otlp_exports: truth(env, "UNDERTRACE_OTLP_EXPORTS")?,
            tls: truth(env, "UNDERTRACE_TLS")?,
            inject: truth(env, "UNDERTRACE_INJECT")?,
            inject_to: list(
                env,
                "UNDERTRACE_INJECT_TO",
                "networks such as 10.0.0.0/8, separated by commas",
            )?,
            inject_existing: truth(env, "UNDERTRACE_INJECT_EXISTING")?,
            tcp_option: truth(env, "UNDERTRACE_TCP_OPTION")?,
            trust_context: list(
                env,
                "UNDERTRACE_TRUST_CONTEXT",
                "networks such as 10.0.0.0/8, separated by commas",
            )?,
            propagators: list(env, "OTEL_PROPAGATORS", EXPECTED)?,
            console: truth(env, "UNDERTRACE_CONSOLE")?,
            file: path("UNDERTRACE_FILE"),
            sampler: text("OTEL_TRACES_SAMPLER"),
            sampler_arg: text("OTEL_TRACES_SAMPLER_ARG"),
            sample: list(env, "UNDERTRACE_SAMPLE", sampler::EXPECTED)?,
            sample_rate: rate(env, "UNDERTRACE_SAMPLE_RATE")?,
            otlp: None,
            config: path("UNDERTRACE_CONFIG"),
            proc_root: path("UNDERTRACE_PROC_ROOT"),
            stats_json: path("UNDERTRACE_STATS_JSON"),
            ready_file: path("UNDERTRACE_READY_FILE"),
            fault: list(
                env,
                "UNDERTRACE_FAULT",
                &format!("among {}", Fault::NAMES.join(", ")),
            )?,
        })
    }

    /// This layer where it says something, else the lower one. Lists are replaced, not joined.
    #[must_use]
    pub(super) fn over(self, lower: Self) -> Self {
        fn list<T>(upper: Vec<T>, lower: Vec<T>) -> Vec<T> {
            if upper.is_empty() { lower } else { upper }
        }
        Self {
            port: list(self.port, lower.port),
            exe: list(self.exe, lower.exe),
            pid: list(self.pid, lower.pid),
            cgroup: list(self.cgroup, lower.cgroup),
            query: self.query.or(lower.query),
            otlp_exports: self.otlp_exports.or(lower.otlp_exports),
            tls: self.tls.or(lower.tls),
            inject: self.inject.or(lower.inject),
            inject_to: list(self.inject_to, lower.inject_to),
            inject_existing: self.inject_existing.or(lower.inject_existing),
            tcp_option: self.tcp_option.or(lower.tcp_option),
            trust_context: list(self.trust_context, lower.trust_context),
            propagators: list(self.propagators, lower.propagators),
            console: self.console.or(lower.console),
            file: self.file.or(lower.file),
            sampler: self.sampler.or(lower.sampler),
            sampler_arg: self.sampler_arg.or(lower.sampler_arg),
            sample: list(self.sample, lower.sample),
            sample_rate: self.sample_rate.or(lower.sample_rate),
            otlp: self.otlp.or(lower.otlp),
            config: self.config.or(lower.config),
            proc_root: self.proc_root.or(lower.proc_root),
            stats_json: self.stats_json.or(lower.stats_json),
            ready_file: self.ready_file.or(lower.ready_file),
            fault: list(self.fault, lower.fault),
        }
    }
}

fn list<T: FromStr>(env: Env<'_>, name: &str, expected: &str) -> Result<Vec<T>, ConfigError> {
    let Some(value) = env(name) else {
        return Ok(Vec::new());
    };
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            item.parse()
                .map_err(|_| ConfigError::value(name, &value, expected))
        })
        .collect()
}

fn rate(env: Env<'_>, name: &str) -> Result<Option<NonZeroU32>, ConfigError> {
    let Some(value) = env(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let wrong = |_| ConfigError::value(name, &value, "a whole number of traces, at least 1");
    value.trim().parse().map(Some).map_err(wrong)
}

fn truth(env: Env<'_>, name: &str) -> Result<Option<bool>, ConfigError> {
    match env(name).as_deref().map(str::trim) {
        None | Some("") => Ok(None),
        Some("true" | "1" | "yes" | "on") => Ok(Some(true)),
        Some("false" | "0" | "no" | "off") => Ok(Some(false)),
        Some(value) => Err(ConfigError::value(name, value, "true or false")),
    }
}

/// `sampler_arg: 0.1` is a number in YAML, and the same as `"0.1"`.
fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let number = Option::<f64>::deserialize(from)?;
    Ok(number.map(|number| number.to_string()))
}

/// Ports as YAML writes them: numbers, and ranges as text.
fn port_ranges<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PortRange>, D::Error> {
    struct Port(PortRange);

    impl<'de> Deserialize<'de> for Port {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            // A number is also text to the YAML library, so one form serves both.
            let text = String::deserialize(from)?;
            text.parse().map(Self).map_err(D::Error::custom)
        }
    }

    let ports = Vec::<Port>::deserialize(from)?;
    Ok(ports.into_iter().map(|Port(range)| range).collect())
}

fn globs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Glob>, D::Error> {
    struct Pattern(Glob);

    impl<'de> Deserialize<'de> for Pattern {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let text = String::deserialize(from)?;
            text.parse().map(Self).map_err(D::Error::custom)
        }
    }

    let globs = Vec::<Pattern>::deserialize(from)?;
    Ok(globs.into_iter().map(|Pattern(glob)| glob).collect())
}
