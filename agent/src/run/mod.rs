//! The live agent and the replay: puts loader, reader, process table, pipeline and exporters together.
//!
//! The pipeline runs on the calling thread, exporters on a runtime with one worker; nothing the pipeline does waits for them.

mod carrier;
mod event_loops;
mod injection;
mod live;
mod outputs;
mod rate_limit;
mod replay;
mod sample_limit;
mod sample_rules;
mod signals;
mod sweep;
mod tls;

pub use self::{live::run, replay::replay};
use crate::{
    event::recording::RecordingError, export::otlp::ClientError, probe::error::ProbeError,
    telemetry::metrics::MetricsError,
};

/// Why the agent cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// This machine does not let it trace.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The recording cannot be written or read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The OTLP settings cannot work.
    #[error(transparent)]
    Otlp(#[from] ClientError),
    /// The agent's own metrics cannot be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A file that was asked for cannot be written.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The system refused something that every program needs.
    #[error("cannot start: {what}")]
    System {
        /// What was refused.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}
