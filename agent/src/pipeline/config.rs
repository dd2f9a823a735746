//! Limits and choices of the pipeline.

use std::time::Duration;

use crate::{
    config::{Network, ServiceRules},
    protocol::ParserConfig,
};

/// Limits and choices of the pipeline. Every limit has a counter for what it turns away.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Seed of the ids of messages that the kernel did not decide: a recording carries it.
    pub seed: u64,
    /// Ask for the positions of connections that rest, now and then: the kernel then closes open requests that it hides and nobody answers.
    pub asks_resting: bool,
    /// Connections followed at one time.
    pub connections: usize,
    /// Bytes buffered over all connections: cut heads, unconfirmed sends, open exchanges, records held for order.
    pub buffered_bytes: usize,
    /// Server requests remembered as possible parents.
    pub parents: usize,
    /// Failed requests remembered until they are repeated.
    pub retries: usize,
    /// How long a request waits for its response before it becomes a span with `error.type` `no_response`.
    pub response_timeout: Duration,
    /// How long a span waits for the facts of its process.
    pub facts_wait: Duration,
    /// Threshold of [`agent_common::wire::sampling::is_sampled`] for traces that begin with a message the kernel did not decide.
    pub sampling_threshold: u64,
    /// Services with thresholds of their own for such traces.
    pub service_rules: ServiceRules,
    /// Networks whose `traceparent` is taken.
    pub trusted: Vec<Network>,
    /// What parsers are told.
    pub parsers: ParserConfig,
    /// Export `url.query` as it is.
    pub record_query: bool,
    /// Make spans of other processes' OTLP exports.
    pub trace_otlp_exports: bool,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            asks_resting: false,
            connections: 65_536,
            buffered_bytes: 32 << 20,
            parents: 65_536,
            retries: 4_096,
            response_timeout: Duration::from_secs(300),
            facts_wait: Duration::from_millis(100),
            sampling_threshold: 0,
            service_rules: ServiceRules::default(),
            trusted: Network::private(),
            parsers: ParserConfig::default(),
            record_query: false,
            trace_otlp_exports: false,
        }
    }
}
