//! Where spans go. Input: complete, sampled [`Span`]s. Output: OTLP, the console, a file.
//!
//! A [`Sink`] never blocks its caller and never fails: what it cannot take it drops and counts.

pub mod console;
pub mod file;
pub mod otlp;
pub mod queue;

use crate::span::Span;

/// A receiver of spans.
pub trait Sink: Send {
    /// Takes spans; bounded, never blocks. What has no room is dropped and counted.
    fn push(&mut self, spans: Vec<Span>);

    /// Time passed: CLOCK_MONOTONIC nanoseconds now. Sinks that group spans (the console) decide here what is complete.
    fn tick(&mut self, now_ns: u64);

    /// No more spans come: gives out what was held back, without waiting for anybody.
    fn finish(&mut self);
}

/// Several sinks that all get every span.
#[derive(Default)]
pub struct Fanout {
    sinks: Vec<Box<dyn Sink>>,
}

impl Fanout {
    /// Adds a sink.
    pub fn add(&mut self, sink: Box<dyn Sink>) {
        self.sinks.push(sink);
    }
}

impl Sink for Fanout {
    fn push(&mut self, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        if let Some((last, others)) = self.sinks.split_last_mut() {
            for sink in others {
                sink.push(spans.clone());
            }
            last.push(spans);
        }
    }

    fn tick(&mut self, now_ns: u64) {
        for sink in &mut self.sinks {
            sink.tick(now_ns);
        }
    }

    fn finish(&mut self) {
        for sink in &mut self.sinks {
            sink.finish();
        }
    }
}
