//! The lines that `loadlab` leaves: one segment each. What a field means stands there, in
//! `tests/src/bin/loadlab/segment.rs`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What was attached while a segment ran.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Setting {
    /// Nothing.
    Bare,
    /// A pair of programs that do nothing.
    Empty,
    /// The agent.
    Agent,
    /// The agent, which keeps no trace.
    Unsampled,
    /// The agent, which writes headers.
    Injecting,
    /// The empty pair, its runs counted.
    EmptyCounted,
    /// The agent, the runs of its programs counted.
    AgentCounted,
}

/// A load in one setting. Times are guest nanoseconds.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Segment {
    pub(super) service: String,
    pub(super) setting: Setting,
    pub(super) requests: u64,
    pub(super) served: u64,
    pub(super) spans_expected: u64,
    pub(super) elapsed_ns: u64,
    pub(super) programs: Vec<Runs>,
    pub(super) agent: Option<Agent>,
}

/// Runs of one kernel program.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Runs {
    pub(super) name: String,
    pub(super) runs: u64,
    pub(super) time_ns: u64,
}

/// What the agent took.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Agent {
    pub(super) cpu_ns: u64,
    pub(super) rest_ns: u64,
    pub(super) sink_ns: u64,
    pub(super) resident_kib: u64,
    pub(super) map_bytes: u64,
    pub(super) program_bytes: u64,
    pub(super) spans: u64,
    pub(super) counters: BTreeMap<String, u64>,
}

/// The segments of all services, in the order in which they ran.
///
/// # Errors
/// When a line is something else.
pub(super) fn parse(lines: &str) -> Result<Vec<Segment>> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no segment: {line}")))
        .collect()
}
