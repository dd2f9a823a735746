//! Where spans go. Input: complete, sampled [`Span`]s. Output: OTLP, the console, a file.
//!
//! A [`Sink`] never blocks its caller and never fails: what it cannot take it drops and counts.

use crate::span::Span;

/// A receiver of spans.
pub trait Sink: Send {
    /// Takes spans; bounded, never blocks. What has no room is dropped and counted.
    fn push(&mut self, spans: Vec<Span>);

    /// Time passed: CLOCK_MONOTONIC nanoseconds now. Sinks that group spans (the console) decide here what is complete.
    fn tick(&mut self, now_ns: u64);
}
