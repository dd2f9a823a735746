//! What the user asked for. Input: the command line, the environment, a YAML file. Output: a [`Config`] with every default filled in.
//!
//! Each of the three gives a [`Layer`]; a value of the command line outranks one of the environment, which outranks one of the file. The
//! environment is a function argument, so that nothing here reads the process's own.

pub mod cli;
pub mod fault;
pub mod file;
pub mod layer;
pub mod network;
pub mod otlp;
pub mod propagator;
pub mod sampler;

use std::{collections::HashMap, num::NonZeroU32, path::PathBuf, time::Duration};

use agent_common::wire::propagator::Table;

pub use self::{
    cli::{Cli, Command},
    fault::Fault,
    layer::Layer,
    network::Network,
    sampler::{Sampler, ServiceRules},
};
use crate::{
    export::{otlp::settings::Settings, queue::Limits},
    process::Selectors,
};

/// Where `/proc` is mounted unless somebody says otherwise.
const PROC: &str = "/proc";

/// A look-up in the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Everything that the agent's behaviour depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What is traced.
    pub selectors: Selectors,
    /// Print traces.
    pub console: bool,
    /// Write OTLP JSON lines.
    pub file: Option<PathBuf>,
    /// Send spans.
    pub traces: Option<Settings>,
    /// Bounds of the queue before that.
    pub queue: Limits,
    /// Send the agent's own metrics.
    pub metrics: Option<Settings>,
    /// Attributes of the agent's own Resource, from OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME.
    pub own_attributes: Vec<(String, String)>,
    /// Which traces are kept, where nobody before us decided.
    pub sampler: Sampler,
    /// The same for the traces that begin in some services.
    pub service_rules: ServiceRules,
    /// How many of those traces may be kept in a second, over all services.
    pub sample_rate: Option<NonZeroU32>,
    /// Export `url.query`.
    pub query: bool,
    /// Make spans of other processes' OTLP exports.
    pub otlp_exports: bool,
    /// Whether plaintext of TLS libraries is looked at.
    pub tls: bool,
    /// Networks into whose requests trace context is written; none where it is not.
    pub inject_to: Vec<Network>,
    /// Also into those of connections that are older than the agent.
    pub inject_existing: bool,
    /// Networks towards which trace context is carried in a TCP option; none where it is not, and then none is taken from options either.
    pub option_to: Vec<Network>,
    /// Headers that carry trace context besides `traceparent`, where there are any.
    pub propagators: Option<Table>,
    /// Networks whose trace context is taken; what comes from elsewhere becomes a link.
    pub trust_context: Vec<Network>,
    /// Losses to force, for tests.
    pub faults: Vec<Fault>,
    /// Where the host's `/proc` is mounted.
    pub proc_root: PathBuf,
    /// Where to write counters at the end.
    pub stats_json: Option<PathBuf>,
    /// File to create when every hook is attached.
    pub ready_file: Option<PathBuf>,
}

/// Configuration that cannot be used; the text is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable or key has a value that it cannot have.
    #[error("{name} is {value:?}, but must be {expected}")]
    Value {
        /// Variable, flag or key.
        name: String,
        /// As given.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A file that was named cannot be read.
    #[error("cannot read {path}, named by {name}")]
    Read {
        /// Variable or flag.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not the YAML that is expected.
    #[error("{path}:{line}:{column}: {reason}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Counted from 1; 0 when not known.
        line: u64,
        /// Counted from 1; 0 when not known.
        column: u64,
        /// What is wrong.
        reason: String,
    },
}

impl ConfigError {
    fn value(name: &str, value: &str, expected: impl Into<String>) -> Self {
        Self::Value {
            name: name.to_owned(),
            value: value.to_owned(),
            expected: expected.into(),
        }
    }
}

impl Config {
    /// How long a request waits for its response, and can be a parent.
    #[must_use]
    pub fn request_lifetime(&self) -> Duration {
        if self.faults.contains(&Fault::ShortRequests) {
            Duration::from_secs(2)
        } else {
            Duration::from_secs(300)
        }
    }

    /// The configuration of these flags and this environment, and of the file that one of them names.
    ///
    /// # Errors
    /// A value cannot be used, or a file cannot be read.
    pub fn resolve(flags: Layer, env: Env<'_>) -> Result<Self, ConfigError> {
        let from_env = Layer::from_env(env)?;
        let path = flags.config.clone().or_else(|| from_env.config.clone());
        let from_file = match path {
            Some(path) => file::read(&path)?,
            None => Layer::default(),
        };
        let layer = flags.over(from_env).over(from_file);

        if layer.inject_existing == Some(true) && layer.inject != Some(true) {
            let expected = "given together with --inject";
            return Err(ConfigError::value("--inject-existing", "true", expected));
        }
        let disabled = otlp::flag(env, "OTEL_SDK_DISABLED").unwrap_or(false);
        let variables = layer
            .otlp
            .as_ref()
            .map_or_else(HashMap::new, otlp::Section::variables);
        let otlp_env = |name: &str| {
            env(name)
                .filter(|value| !value.is_empty())
                .or_else(|| variables.get(name).cloned())
        };
        let exporters = otlp::Exporters::read(&otlp_env)?;
        let traces = if disabled || !exporters.traces {
            None
        } else {
            otlp::settings(otlp::Signal::Traces, &otlp_env)?
        };
        let metrics = if disabled || !exporters.metrics {
            None
        } else {
            otlp::settings(otlp::Signal::Metrics, &otlp_env)?
        };
        let nowhere_else = traces.is_none() && layer.file.is_none();
        Ok(Self {
            selectors: Selectors {
                ports: layer.port,
                exe: layer.exe,
                pids: layer.pid,
                cgroups: layer.cgroup,
            },
            console: layer
                .console
                .unwrap_or(exporters.console || (nowhere_else && !exporters.none)),
            file: layer.file,
            traces,
            queue: otlp::limits(env)?,
            metrics,
            own_attributes: otlp::own_attributes(env),
            sampler: sampler::resolve(layer.sampler.as_deref(), layer.sampler_arg.as_deref())?,
            service_rules: ServiceRules::new(layer.sample)?,
            sample_rate: layer.sample_rate,
            query: layer.query.unwrap_or(false),
            otlp_exports: layer.otlp_exports.unwrap_or(false),
            tls: layer.tls.unwrap_or(true),
            inject_to: towards(layer.inject, &layer.inject_to),
            option_to: towards(layer.tcp_option, &layer.inject_to),
            inject_existing: layer.inject_existing.unwrap_or(false),
            propagators: propagator::resolve(&layer.propagators)?,
            trust_context: if layer.trust_context.is_empty() {
                Network::private()
            } else {
                layer.trust_context
            },
            faults: layer.fault,
            proc_root: layer.proc_root.unwrap_or_else(|| PROC.into()),
            stats_json: layer.stats_json,
            ready_file: layer.ready_file,
        })
    }
}

/// The networks towards which something is written, where it is.
fn towards(wanted: Option<bool>, networks: &[Network]) -> Vec<Network> {
    match (wanted.unwrap_or(false), networks) {
        (false, _) => Vec::new(),
        (true, []) => Network::private(),
        (true, networks) => networks.to_vec(),
    }
}

#[cfg(test)]
mod tests;
