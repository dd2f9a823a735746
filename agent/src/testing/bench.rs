//! A pipeline under test.
//!
//! Input: sockets' records, time, answers about live positions. Output: spans and counters.

use std::sync::Arc;

use agent_common::abi::LiveRequest;

use super::{MILLISECOND, PROCESS, Record, Socket};
use crate::{
    event::{ClockPair, Input},
    pipeline::{Pipeline, PipelineConfig},
    process::{ProcessFacts, ProcessKey, Resource},
    span::Span,
    telemetry::Counters,
};

/// A pipeline that knows [`PROCESS`], with a clock, and what came out of it.
#[derive(Debug)]
pub struct Bench {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Spans so far.
    pub spans: Vec<Span>,
    now_ns: u64,
}

impl Bench {
    /// A pipeline with the default configuration; everything is sampled.
    #[must_use]
    pub fn new() -> Self {
        Self::with(PipelineConfig::default())
    }

    /// A pipeline with a configuration.
    #[must_use]
    pub fn with(config: PipelineConfig) -> Self {
        let counters = Arc::new(Counters::default());
        let mut pipeline = Pipeline::new(config, Arc::clone(&counters));
        pipeline.push(&Input::Clock(ClockPair {
            monotonic_ns: 0,
            unix_ns: 1_700_000_000_000_000_000,
        }));
        let mut bench = Self {
            pipeline,
            counters,
            spans: Vec::new(),
            now_ns: 0,
        };
        bench.learn(PROCESS, "shop");
        bench
    }

    /// The facts of a process become known.
    pub fn learn(&mut self, key: ProcessKey, service: &str) {
        let facts = ProcessFacts {
            key,
            resource: Resource::new(vec![("service.name".into(), service.to_owned())]),
        };
        self.pipeline.push(&Input::Process(&facts));
        self.drain();
    }

    /// Pushes what a socket has written since the last time.
    pub fn push(&mut self, socket: &mut Socket) -> &mut Self {
        for record in socket.records.drain(..) {
            self.record(&record);
        }
        self.now_ns = self.now_ns.max(socket.now_ns);
        self
    }

    /// Pushes one record.
    pub fn record(&mut self, record: &Record) {
        self.pipeline.push(&Input::Event(record.event()));
        self.drain();
    }

    /// A tenth of a second passes.
    pub fn tick(&mut self) -> &mut Self {
        self.wait(100 * MILLISECOND)
    }

    /// Time passes.
    pub fn wait(&mut self, nanoseconds: u64) -> &mut Self {
        self.now_ns += nanoseconds;
        self.pipeline.push(&Input::Tick(self.now_ns));
        self.drain();
        self
    }

    /// Asks the kernel for the positions the pipeline wants, and lets a tick pass.
    pub fn live(&mut self, sockets: &[&Socket]) -> &mut Self {
        let mut wanted = Vec::new();
        self.pipeline.live_requests(&mut wanted);
        let answers: Vec<LiveRequest> = wanted
            .iter()
            .map(|request| {
                sockets
                    .iter()
                    .map(|socket| socket.live())
                    .find(|answer| answer.connection == request.connection)
                    .unwrap_or(*request)
            })
            .collect();
        self.pipeline.push(&Input::Live(&answers));
        self.tick()
    }

    /// The books balance, or the test fails with what does not.
    pub fn check_books(&self) {
        assert_eq!(self.pipeline.balance(), Vec::<String>::new());
    }

    fn drain(&mut self) {
        self.pipeline.drain_spans(&mut self.spans);
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}
