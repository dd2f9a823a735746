//! Traces this machine until somebody asks for the end.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::Arc,
    time::Duration,
};

use agent_common::{
    abi::{Counter, LiveRequest, Verdict},
    wire::propagator::part,
};
use tracing::{info, warn};

use super::{
    RunError,
    event_loops::EventLoops,
    injection,
    outputs::{KernelValues, Outputs, Printing},
    signals::Signals,
    sweep::Sweep,
};
use crate::{
    config::{Config, Fault},
    conn::IdSet,
    event::{
        Event, Input,
        clock::{self, Clock},
        decode::decode_counted,
        reader::Reader,
        recording::{Description, Recorder},
    },
    pipeline::{Pipeline, PipelineConfig},
    probe::{
        attach::Attached,
        examine::Kernel,
        hooks::Feature,
        inject::Injector,
        live::LivePositions,
        log::KernelLog,
        maps::{Counters as KernelCounters, Selection as Verdicts},
        settings::{Settings, Value},
    },
    process::{
        Host, IdentityOptions, NoProc, Proc, ProcSource, ProcessChange, ProcessKey, ProcessTable,
        Selection,
    },
    protocol::ParserConfig,
    telemetry::Counters,
};

/// Time between two ticks of the pipeline.
const TICK: Duration = Duration::from_millis(100);

/// Time between two readings of the kernel's counters.
const PUBLISH_NS: u64 = 1_000_000_000;

/// Looks at the ring buffer after all programs were detached, and the time between them.
const LAST_LOOKS: u32 = 20;
const LAST_LOOK: Duration = Duration::from_millis(5);

/// How long [`Fault::SlowReader`] sleeps before each look.
const SLOW: Duration = Duration::from_secs(2);

/// Processes whose facts the pipeline has; beyond it they are told again.
const MAX_TOLD: usize = 16_384;

/// Traces until SIGINT or SIGTERM; with `record`, writes everything that the pipeline consumes to that file, payload blanked if the flag says so.
///
/// # Errors
/// This machine does not let it trace, or an output cannot be opened.
pub fn run(config: &Config, record: Option<(&Path, bool)>) -> Result<(), RunError> {
    let counters = Arc::new(Counters::default());
    let mut outputs = Outputs::open(config, &counters, Printing::Apart)?;
    let signals = Signals::listen(outputs.runtime()).map_err(|source| RunError::System {
        what: "handling of signals",
        source,
    })?;
    let seed = RandomState::new().hash_one(clock::monotonic_ns());

    let kernel = Kernel::examine(&config.proc_root, &[])?;
    let own = kernel.own()?;
    let settings = Settings::from_config(config, own)
        .with("LOG", Value::U32(u32::from(KernelLog::is_wanted())));
    let injection = injection::prepare(config, &kernel.features);
    let settings = settings
        .with("INJECT", Value::U32(u32::from(injection.is_some())))
        .and(&Settings {
            map_sizes: match injection {
                Some(_) => Vec::new(),
                None => vec![("INJECTIONS", 1), ("STATES", 1)],
            },
            ..Settings::default()
        });
    let mut loaded = kernel.load_with(&settings, injection.as_ref())?;
    let injector = injection.and_then(|shared| injection::load(&shared, config, &kernel.offsets));
    let cgroup = kernel.features.cgroup2.clone();
    let release = kernel.features.release.clone();
    let recorder = match record {
        Some((path, strip_payload)) => {
            let globals = description_globals(&kernel.complete(&settings), seed);
            let description = Description::of_this_machine(globals, strip_payload);
            Some(Recorder::create(path, &description)?)
        }
        None => None,
    };
    // The kernel's types are some 10 MB that nobody needs any more.
    drop(kernel);

    // A connection is judged by the ports once, when it is first seen: they must be there before anything runs.
    let maps = loaded.take_maps()?;
    let mut ports = maps.ports;
    for range in &config.selectors.ports {
        for port in range.first..=range.last {
            ports.select(port).map_err(map_error("PORTS"))?;
        }
    }
    let mut trusted = maps.trusted;
    for network in &config.trust_context {
        trusted.add(network).map_err(map_error("TRUSTED"))?;
    }
    let mut attached = loaded.attach()?;
    let stood_in_early = maps.counters.one(Counter::ProgramsStoodIn).unwrap_or(0);
    let map_memory_bytes = attached.map_memory_bytes();
    // Last: connections are enrolled when everything that knows of them is at work.
    let injector = injector.and_then(|injector| injection::attach(injector, cgroup.as_deref()));
    let live = if attached.offers(Feature::LivePositions) {
        Some(attached.take_live_positions()?)
    } else {
        None
    };
    let reader = Reader::new(maps.events).map_err(|source| RunError::System {
        what: "a file descriptor for the ring buffer",
        source,
    })?;

    let source: Box<dyn ProcSource> = if config.faults.contains(&Fault::ProcessesVanish) {
        Box::new(NoProc)
    } else {
        Box::new(Proc::new(&config.proc_root))
    };
    // Traced by itself, it is one process among others.
    let own = if config.faults.contains(&Fault::TraceOwn) {
        0
    } else {
        own
    };
    let selection = Selection::new(config.selectors.clone(), own);
    let table = ProcessTable::new(
        source,
        Host::read(&config.proc_root),
        IdentityOptions::default(),
        selection,
        Arc::clone(&counters),
    );
    let mut agent = Agent {
        inner: Inner {
            pipeline: Pipeline::new(pipeline_config(config, seed), Arc::clone(&counters)),
            table,
            told: IdSet::default(),
            verdicts: maps.selection,
            event_loops: EventLoops::new(maps.runtimes),
            recorder,
            counters,
            injector,
        },
        clock: Clock::default(),
        kernel_counters: maps.counters,
        map_memory_bytes,
        log: attached.take_log(),
        attached,
        live,
        questions: Vec::new(),
        sweep: Sweep::new(maps.handovers, config.request_lifetime()),
        published_ns: 0,
        stood_in_early,
        stood_in_last: None,
    };
    agent.inner.scan();
    agent.publish(&outputs, 0);
    outputs.start_metrics()?;
    agent.announce(config, &release);
    if let Some(path) = &config.ready_file {
        fs::write(path, "").map_err(|source| RunError::File {
            path: path.clone(),
            source,
        })?;
    }
    let slow = config.faults.contains(&Fault::SlowReader);
    agent.trace(reader, &mut outputs, &signals, slow);
    agent.finish(outputs)
}

/// What the parsers of protocols are told.
pub(super) fn parser_config(config: &Config) -> ParserConfig {
    let fields = config.propagators.unwrap_or_default();
    ParserConfig {
        propagators: fields
            .into_iter()
            .filter(|field| field.part != part::NONE)
            .collect(),
    }
}

fn pipeline_config(config: &Config, seed: u64) -> PipelineConfig {
    let defaults = PipelineConfig::default();
    PipelineConfig {
        seed,
        connections: if config.faults.contains(&Fault::ConnectionsOverLimit) {
            1
        } else {
            defaults.connections
        },
        sampling_threshold: config.sampler.threshold(),
        response_timeout: config.request_lifetime(),
        trusted: config.trust_context.clone(),
        record_query: config.query,
        parsers: parser_config(config),
        trace_otlp_exports: config.otlp_exports || config.faults.contains(&Fault::TraceOwn),
        ..defaults
    }
}

/// Names under which a recording keeps the halves of the pipeline's seed, so that a replay gives the ids that the live agent gave.
const SEED: [&str; 2] = ["PIPELINE_SEED_LOW", "PIPELINE_SEED_HIGH"];

fn description_globals(settings: &Settings, seed: u64) -> Vec<(String, u32)> {
    let halves = [seed as u32, (seed >> 32) as u32];
    let seed = SEED.iter().zip(halves);
    let mut globals: Vec<(String, u32)> = seed
        .map(|(name, half)| ((*name).to_owned(), half))
        .collect();
    for (name, value) in &settings.globals {
        if let Value::U32(value) = value {
            globals.push(((*name).to_owned(), *value));
        }
    }
    globals
}

/// The seed in the description of a recording; 0 where there is none.
pub(super) fn seed_of(globals: &[(String, u32)]) -> u64 {
    let half = |wanted: &str| {
        let found = globals.iter().find(|(name, _)| name == wanted);
        found.map_or(0, |(_, value)| u64::from(*value))
    };
    let [low, high] = SEED.map(half);
    high << 32 | low
}

fn map_error(name: &'static str) -> impl Fn(aya::maps::MapError) -> RunError {
    move |source| {
        RunError::Probe(crate::probe::error::ProbeError::Map {
            name,
            source: Some(source),
        })
    }
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
    recorder: Option<Recorder>,
    counters: Arc<Counters>,
    injector: Option<Injector>,
}

/// How often a spare program has done another one's work.
fn stood_in(counters: &[(Counter, u64)]) -> u64 {
    let mut counters = counters.iter();
    let found = counters.find(|(counter, _)| *counter == Counter::ProgramsStoodIn);
    found.map_or(0, |(_, value)| *value)
}

impl Agent {
    fn announce(&mut self, config: &Config, release: &str) {
        for feature in Feature::ALL {
            let plan = &self.attached.plan;
            if let Some((program, reason)) = plan.why_off(*feature)
                && plan.needs(*feature)
            {
                warn!(feature = feature.title(), program, %reason, "not traced");
            }
        }
        if config.selectors.narrow_processes() {
            for selector in self.inner.table.selection().unmatched() {
                if !selector.starts_with("--port") {
                    warn!(
                        selector,
                        "no process matches yet; one that starts later will be traced"
                    );
                }
            }
        }
        info!(
            kernel = release,
            programs = self.attached.len(),
            "tracing; Ctrl-C ends it"
        );
    }

    /// The main loop.
    fn trace(&mut self, mut reader: Reader, outputs: &mut Outputs, signals: &Signals, slow: bool) {
        let mut spans = Vec::new();
        let mut next_tick_ns = 0;
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
            if now_ns >= next_tick_ns && drained.emptied {
                next_tick_ns = now_ns + TICK.as_nanos() as u64;
                self.tick(now_ns, outputs);
                if now_ns.saturating_sub(self.published_ns) >= PUBLISH_NS {
                    self.published_ns = now_ns;
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
            }
        }
        self.stood_in_last = self.kernel_counters.one(Counter::ProgramsStoodIn).ok();
        self.attached.detach();
        self.drain(&mut reader);
        self.tick(clock::monotonic_ns(), outputs);
        self.publish(outputs, reader.largest_batch_bytes());
    }

    /// Reads all that the programs wrote, also those that were running when they were detached.
    fn drain(&mut self, reader: &mut Reader) {
        for _ in 0..LAST_LOOKS {
            while !reader.drain(|record| self.inner.record(record)).emptied {}
            let written = self.kernel_counters.one(Counter::Segments).unwrap_or(0);
            if written == self.inner.counters.segments_read.get() {
                break;
            }
            std::thread::sleep(LAST_LOOK);
        }
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
        self.sweep.tick(now_ns, &self.inner.counters);
        outputs.tick(now_ns);
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
        let pairs: Vec<(u64, u64)> = self
            .questions
            .iter()
            .map(|question| (question.socket, question.connection))
            .collect();
        match self.attached.live_positions(live, &pairs) {
            Ok(answers) => self.inner.push(&Input::Live(answers)),
            Err(error) => {
                warn!(%error, "cannot ask for live positions; messages end with the next record");
                self.live = None;
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
        counters.push(("programs_missed", self.missed(stood_in)));
        let injector = self.inner.injector.as_ref();
        counters.push(("inject_let_go", injector.map_or(0, Injector::let_go_count)));
        outputs.publish(KernelValues {
            counters,
            handovers_held: self.sweep.held,
            map_memory_bytes: self.map_memory_bytes,
            ring_largest_batch_bytes,
            processes_known: self.inner.table.len() as u64,
            headers_written: self.inner.injector.is_some(),
        });
    }

    /// Detaches, ends what is open, and lets everything out.
    /// Sends, receives and states that no program saw.
    fn missed(&self, stood_in: u64) -> u64 {
        let stood_in = self.stood_in_last.unwrap_or(stood_in);
        let for_others = stood_in.saturating_sub(self.stood_in_early);
        self.attached.missed(for_others)
    }

    fn finish(self, mut outputs: Outputs) -> Result<(), RunError> {
        let read = self.kernel_counters.read().unwrap_or_default();
        let lost = self.missed(stood_in(&read)) > 0;
        let Self {
            mut inner,
            attached,
            ..
        } = self;
        for stats in attached.stats().iter().filter(|_| lost) {
            if let Some(missed) = stats.missed.filter(|missed| *missed > 0) {
                warn!(
                    program = stats.program,
                    missed, "was skipped by the kernel while it was active on the same CPU"
                );
            }
        }
        drop(attached);
        for selector in inner.table.selection().unmatched() {
            warn!(selector, "matched nothing");
        }
        inner.pipeline.finish();
        let mut spans = Vec::new();
        inner.pipeline.drain_spans(&mut spans);
        outputs.push(spans);
        let recorded = match inner.recorder.take() {
            Some(recorder) => recorder.finish().map(drop),
            None => Ok(()),
        };
        outputs.close(inner.pipeline.balance())?;
        Ok(recorded?)
    }
}

impl Inner {
    /// Writes the verdicts on the processes that exist.
    fn scan(&mut self) {
        for (tgid, verdict) in self.table.scan() {
            self.judge(tgid, verdict);
        }
        for (tgid, runtime) in self.table.scan_runtimes() {
            self.event_loops.note(tgid, runtime);
        }
        self.look_at_event_loops(clock::monotonic_ns());
    }

    fn look_at_event_loops(&mut self, now_ns: u64) {
        let table = &self.table;
        self.event_loops.tick(now_ns, |tgid| table.dispatch(tgid));
    }

    /// One record of the ring buffer.
    fn record(&mut self, record: &[u8]) {
        let Some(event) = decode_counted(record, &self.counters) else {
            self.write(|recorder| recorder.record(record));
            return;
        };
        self.follow(&event);
        self.write(|recorder| recorder.record(record));
        self.pipeline.push(&Input::Event(event));
    }

    /// Keeps the process table up to date, and tells the pipeline of processes before their events.
    fn follow(&mut self, event: &Event<'_>) {
        match *event {
            Event::Segment(segment, _) => self.tell(segment.pid_tgid, segment.process_start_ns),
            Event::Decision(record) => self.tell(record.pid_tgid, record.process_start_ns),
            Event::Open(open) => {
                self.table
                    .selection()
                    .note_ports([open.local_port, open.peer_port]);
                self.tell(open.pid_tgid, open.process_start_ns);
            }
            Event::Exec(exec) => {
                let key = ProcessKey {
                    tgid: exec.tgid,
                    start_ns: exec.process_start_ns,
                };
                self.change(exec.into());
                self.event_loops.forget(exec.tgid);
                self.told.remove(&key);
                self.tell(u64::from(exec.tgid) << 32, exec.process_start_ns);
            }
            Event::Fork(fork) => {
                self.change(fork.into());
                self.event_loops.forked(fork.parent_tgid, fork.tgid);
            }
            Event::Exit(exit) => {
                self.change(exit.into());
                self.event_loops.forget(exit.tgid);
                self.told.remove(&ProcessKey {
                    tgid: exit.tgid,
                    start_ns: exit.process_start_ns,
                });
            }
            Event::Release(header) => {
                if let Some(injector) = &mut self.injector {
                    injector.let_go(header.connection);
                }
            }
            Event::Close(_) | Event::MessageEnd(_) | Event::Retransmit(_) => {}
        }
    }

    fn tell(&mut self, pid_tgid: u64, start_ns: u64) {
        let key = ProcessKey {
            tgid: (pid_tgid >> 32) as u32,
            start_ns,
        };
        if self.told.contains(&key) {
            return;
        }
        if self.told.len() >= MAX_TOLD {
            self.told.clear();
        }
        self.told.insert(key);
        if let Some(facts) = self.table.facts(key) {
            self.push(&Input::Process(&facts));
            let runtime = self.table.runtime(key);
            self.event_loops.note(key.tgid, runtime);
        }
    }

    fn change(&mut self, change: ProcessChange) {
        if let Some((tgid, verdict)) = self.table.change(change) {
            self.judge(tgid, verdict);
        }
    }

    fn judge(&mut self, tgid: u32, verdict: Verdict) {
        if let Err(error) = self.verdicts.set(tgid, verdict) {
            warn!(tgid, %error, "cannot tell the kernel whether to trace a process");
        }
    }

    /// An input that is no record.
    fn push(&mut self, input: &Input<'_>) {
        match input {
            Input::Process(facts) => self.write(|recorder| recorder.process(facts)),
            Input::Clock(pair) => self.write(|recorder| recorder.clock(*pair)),
            Input::Live(answers) => self.write(|recorder| recorder.live(answers)),
            Input::Tick(now_ns) => self.write(|recorder| recorder.tick(*now_ns)),
            Input::Event(_) => {}
        }
        self.pipeline.push(input);
    }

    /// Writes to the recording, if there is one. A recording that cannot be continued is ended; tracing goes on.
    fn write(
        &mut self,
        write: impl FnOnce(&mut Recorder) -> Result<(), crate::event::recording::RecordingError>,
    ) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = write(recorder)
        {
            warn!(%error, "the recording ends here");
            self.recorder = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_keeps_the_seed() {
        let settings = Settings::default();
        for seed in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            assert_eq!(seed_of(&description_globals(&settings, seed)), seed);
        }
        assert_eq!(seed_of(&[]), 0);
    }
}
