//! Traces this machine until somebody asks for the end.
//!
//! Input: the configuration, records, signals. Output: what the pipeline makes of them, pushed to the outputs. Here is the loop and what it does at
//! each tick; what is put together before it and taken apart after it has files of its own.

mod end;
mod records;
mod setup;
mod ticks;

use std::{path::Path, sync::Arc, time::Duration};

use agent_common::abi::{Counter, LiveRequest};
use tracing::warn;

pub(super) use self::setup::{parser_config, seed_of};
use self::{setup::Ready, ticks::Ticks};
use super::{
    RunError,
    carrier::Carrying,
    event_loops::EventLoops,
    injection::Injection,
    outputs::{KernelValues, Outputs},
    sample_limit::SampleLimit,
    sample_rules::SampleRules,
    signals::Signals,
    sweep::Sweep,
    tls::TlsWatch,
};
use crate::{
    config::{Config, Fault},
    conn::IdSet,
    event::{
        Input,
        clock::{self, Clock},
        reader::Reader,
        recording::Recorder,
    },
    pipeline::Pipeline,
    probe::{
        attach::Attached,
        live::LivePositions,
        log::KernelLog,
        maps::{Counters as KernelCounters, Selection as Verdicts},
    },
    process::{ProcSource, ProcessKey, ProcessTable},
    telemetry::Counters,
};

/// Time between two ticks of the pipeline.
const TICK: Duration = Duration::from_millis(100);

/// Time between two readings of the kernel's counters, while records come and while none does.
const PUBLISH_NS: u64 = 1_000_000_000;
const PUBLISH_IDLE_NS: u64 = 10_000_000_000;

/// How long [`Fault::SlowReader`] sleeps before each look.
const SLOW: Duration = Duration::from_secs(2);

/// Traces until SIGINT or SIGTERM; with `record`, writes everything that the pipeline consumes to that file, payload blanked if the flag says so.
///
/// # Errors
/// This machine does not let it trace, or an output cannot be opened.
pub fn run(config: &Config, record: Option<(&Path, bool)>) -> Result<(), RunError> {
    let Ready {
        mut agent,
        reader,
        mut outputs,
        signals,
    } = setup::start(config, record)?;
    let slow = config.faults.contains(&Fault::SlowReader);
    agent.trace(reader, &mut outputs, &signals, slow);
    agent.finish(outputs)
}

/// Everything that lives as long as the agent traces.
struct Agent {
    inner: Inner,
    clock: Clock,
    kernel_counters: KernelCounters,
    map_memory_bytes: u64,
    /// Dropped with the programs and not before: they write to its map.
    log: Option<KernelLog>,
    attached: Attached,
    live: Option<LivePositions>,
    /// Reused storage for questions about live positions.
    questions: Vec<LiveRequest>,
    sample_limit: SampleLimit,
    sweep: Sweep,
    published_ns: u64,
    /// What spares did while their first programs were not attached yet: for nobody who was skipped.
    stood_in_early: u64,
    /// What they had done when the first programs were about to be detached.
    stood_in_last: Option<u64>,
}

/// What a record touches.
struct Inner {
    pipeline: Pipeline,
    table: ProcessTable<Box<dyn ProcSource>>,
    /// Processes whose facts the pipeline has.
    told: IdSet<ProcessKey>,
    verdicts: Verdicts,
    event_loops: EventLoops,
    sample_rules: SampleRules,
    recorder: Option<Recorder>,
    counters: Arc<Counters>,
    injection: Option<Injection>,
    carrying: Option<Carrying>,
    tls: Option<TlsWatch>,
}

/// How often a spare program has done another one's work.
fn stood_in(counters: &[(Counter, u64)]) -> u64 {
    let mut counters = counters.iter();
    let found = counters.find(|(counter, _)| *counter == Counter::ProgramsStoodIn);
    found.map_or(0, |(_, value)| *value)
}

impl Agent {
    /// The main loop.
    fn trace(&mut self, mut reader: Reader, outputs: &mut Outputs, signals: &Signals, slow: bool) {
        let mut spans = Vec::new();
        let mut ticks = Ticks::default();
        let mut has_news = true;
        while !signals.must_stop() {
            if slow {
                std::thread::sleep(SLOW);
            }
            if let Err(error) = reader.wait(TICK) {
                warn!(%error, "cannot wait for records");
                std::thread::sleep(TICK);
            }
            // Read before the drain: everything older than a tick was pushed before it.
            let now_ns = clock::monotonic_ns();
            if let Some(pair) = self.clock.due(now_ns) {
                self.inner.push(&Input::Clock(pair));
            }
            let drained = reader.drain(|record| self.inner.record(record));
            has_news |= drained.records != 0;
            let due = ticks.due(now_ns, drained.emptied);
            if due.guard {
                self.guard(now_ns);
            }
            if due.pipeline {
                self.tick(now_ns, outputs);
                // Asking the kernel each second is half of what an idle agent costs (1,278,524 instructions per second, 620,364 without).
                let every_ns = if has_news {
                    PUBLISH_NS
                } else {
                    PUBLISH_IDLE_NS
                };
                if now_ns.saturating_sub(self.published_ns) >= every_ns {
                    self.published_ns = now_ns;
                    has_news = false;
                    self.publish(outputs, reader.largest_batch_bytes());
                }
            }
            self.inner.pipeline.drain_spans(&mut spans);
            if !spans.is_empty() {
                outputs.push(std::mem::take(&mut spans));
            }
            if signals.take_report() {
                self.publish(outputs, reader.largest_batch_bytes());
                outputs.report();
                if let Some(injection) = &mut self.inner.injection {
                    injection.reported();
                }
            }
        }
        self.detach(reader, outputs);
    }

    fn tick(&mut self, now_ns: u64, outputs: &mut Outputs) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        // Answers hold if no record of the connection comes before the next tick: so they are asked for after this one, and the ring
        // buffer is drained in between.
        self.inner.push(&Input::Tick(now_ns));
        self.ask_positions();
        self.inner.table.expire(now_ns);
        self.inner.look_at_event_loops(now_ns);
        if let Some(tls) = &mut self.inner.tls {
            tls.tick(now_ns, &mut self.attached);
        }
        self.sweep.tick(now_ns, &self.inner.counters);
        outputs.tick(now_ns);
    }

    /// What keeps the agent from doing too much: also due while records come faster than they are read.
    fn guard(&mut self, now_ns: u64) {
        self.limit_samples(now_ns);
        if let Some(injection) = &mut self.inner.injection {
            injection.tick(now_ns, &self.inner.counters);
        }
        if let Some(carrying) = &mut self.inner.carrying {
            let counters = &self.kernel_counters;
            carrying.tick(now_ns, |counter| counters.one(counter).unwrap_or(0));
        }
    }

    fn limit_samples(&mut self, now_ns: u64) {
        if self.sample_limit.is_wanted()
            && let Ok(kept) = self.kernel_counters.one(Counter::RootsSampled)
        {
            self.sample_limit.tick(now_ns, kept);
        }
    }

    /// Asks the kernel how far idle connections are, where the pipeline wants to know.
    fn ask_positions(&mut self) {
        let Some(live) = &mut self.live else {
            return;
        };
        self.questions.clear();
        self.inner.pipeline.live_requests(&mut self.questions);
        if self.questions.is_empty() {
            return;
        }
        match self.attached.live_positions(live, &self.questions) {
            Ok(answers) => self.inner.push(&Input::Live(answers)),
            Err(error) => {
                warn!(%error, "cannot ask for live positions; messages end with the next record");
                self.live = None;
                self.inner.pipeline.stop_asking();
            }
        }
    }

    fn publish(&self, outputs: &Outputs, ring_largest_batch_bytes: u64) {
        let read = self.kernel_counters.read().unwrap_or_default();
        let stood_in = stood_in(&read);
        let mut counters: Vec<(&'static str, u64)> = read
            .into_iter()
            .map(|(counter, value)| (counter.name(), value))
            .collect();
        counters.push(("roots", self.sample_limit.roots()));
        counters.push(("programs_missed", self.missed(stood_in)));
        let injection = self.inner.injection.as_ref();
        counters.push((
            "inject_let_go",
            injection.map_or(0, Injection::let_go_count),
        ));
        outputs.publish(KernelValues {
            counters,
            handovers_held: self.sweep.held,
            map_memory_bytes: self.map_memory_bytes,
            ring_largest_batch_bytes,
            processes_known: self.inner.table.len() as u64,
            headers_written: injection.is_some_and(Injection::holds),
            options_carried: self.inner.carrying.is_some(),
        });
    }

    /// Sends, receives and states that no program saw.
    fn missed(&self, stood_in: u64) -> u64 {
        let stood_in = self.stood_in_last.unwrap_or(stood_in);
        let for_others = stood_in.saturating_sub(self.stood_in_early);
        self.attached.missed(for_others)
    }
}
