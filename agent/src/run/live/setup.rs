//! Puts the agent together.
//!
//! Input: the configuration. Output: an [`Agent`] whose programs are at work, and what its loop needs beside it.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::Arc,
};

use agent_common::{
    abi::{Counter, Verdict},
    wire::propagator::part,
};
use tracing::{info, warn};

use super::{Agent, Inner};
use crate::{
    config::{Config, Fault},
    conn::IdSet,
    event::{
        clock::{self, Clock},
        reader::Reader,
        recording::{Description, Recorder},
    },
    pipeline::{Pipeline, PipelineConfig},
    probe::{
        examine::Kernel,
        hooks::Feature,
        log::KernelLog,
        option::Machine,
        settings::{Settings, Value},
    },
    process::{Host, IdentityOptions, NoProc, Proc, ProcSource, ProcessTable, Selection},
    protocol::ParserConfig,
    run::{
        RunError, carrier,
        event_loops::EventLoops,
        injection,
        outputs::{Outputs, Printing},
        sample_limit::SampleLimit,
        sample_rules::SampleRules,
        signals::Signals,
        sweep::Sweep,
        tls::TlsWatch,
    },
    telemetry::Counters,
};

/// An agent that traces, and what it is run with.
pub(super) struct Ready {
    pub(super) agent: Agent,
    pub(super) reader: Reader,
    pub(super) outputs: Outputs,
    pub(super) signals: Signals,
}

/// Opens outputs, loads and attaches the programs, and looks at the processes that exist.
pub(super) fn start(config: &Config, record: Option<(&Path, bool)>) -> Result<Ready, RunError> {
    let counters = Arc::new(Counters::default());
    let mut outputs = Outputs::open(config, &counters, Printing::Apart)?;
    let signals = Signals::listen(outputs.runtime()).map_err(|source| RunError::System {
        what: "handling of signals",
        source,
    })?;
    let seed = RandomState::new().hash_one(clock::monotonic_ns());

    let switched_off: &[Feature] = if config.tls { &[] } else { &[Feature::Tls] };
    let kernel = Kernel::examine(&config.proc_root, switched_off)?;
    let own = kernel.own()?;
    let settings = Settings::from_config(config, own)
        .with("LOG", Value::U32(u32::from(KernelLog::is_wanted())));
    let shared = injection::prepare(config, &kernel.features);
    let injects = shared.is_some();
    let cgroup = kernel.features.cgroup2.clone();
    let (shared, can_carry) = carrier::prepare(config, cgroup.as_deref(), shared);
    // First, so that the other one does nothing for it where it is refused.
    let carrier = match &shared {
        Some(shared) if can_carry => {
            let machine = Machine {
                cpus: kernel.features.cpus,
                sk_err: kernel.offsets.get("O_SOCK_SK_ERR"),
            };
            carrier::load(shared, config, machine)
        }
        _ => None,
    };
    let mut map_sizes = Vec::new();
    if !injects {
        map_sizes.extend([("INJECTIONS", 1), ("STATES", 1)]);
    }
    let tls = config.tls && kernel.plan.offers(Feature::Tls);
    if !tls {
        map_sizes.extend([("CALLS", 1), ("SESSIONS", 1)]);
    }
    if carrier.is_none() {
        map_sizes.extend([("OFFERS", 1), ("BROUGHT", 1)]);
    }
    let settings = settings
        .with("INJECT", Value::U32(u32::from(injects)))
        .with(
            "INJECT_EXISTING",
            Value::U32(u32::from(injects && config.inject_existing)),
        )
        .with("TCP_OPTION", Value::U32(u32::from(carrier.is_some())))
        .with("TLS", Value::U32(u32::from(tls)))
        .and(&Settings {
            map_sizes,
            ..Settings::default()
        });
    let mut loaded = kernel.load_with(&settings, shared.as_ref())?;
    let injector = match &shared {
        Some(shared) if injects => injection::load(shared, config, &kernel.offsets),
        _ => None,
    };
    let release = kernel.features.release.clone();
    let recorder = match record {
        Some((path, strip_payload)) => {
            let globals = description_globals(&kernel.complete(&settings), seed);
            let description = Description::of_this_machine(globals, strip_payload);
            Some(Recorder::create(path, &description)?)
        }
        None => None,
    };
    let hides = !config.faults.contains(&Fault::NothingHidden);
    let pipeline_config = pipeline_config(config, seed, hides);
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
    let sample_limit =
        SampleLimit::new(maps.thresholds, maps.roots, config).map_err(map_error("THRESHOLDS"))?;
    let mut attached = loaded.attach()?;
    let stood_in_early = maps.counters.one(Counter::ProgramsStoodIn).unwrap_or(0);
    let map_memory_bytes = attached.map_memory_bytes();
    // Last: connections are enrolled when everything that knows of them is at work.
    let injection =
        injector.and_then(|injector| injection::attach(injector, cgroup.as_deref(), config));
    let carrying = carrier.and_then(|carrier| carrier::attach(carrier, cgroup.as_deref()));
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
            pipeline: Pipeline::new(pipeline_config, Arc::clone(&counters)),
            table,
            told: IdSet::default(),
            verdicts: maps.selection,
            event_loops: EventLoops::new(maps.runtimes),
            sample_rules: SampleRules::new(maps.rules, config.service_rules.clone()),
            recorder,
            counters,
            injection,
            carrying,
            tls: None,
        },
        clock: Clock::default(),
        kernel_counters: maps.counters,
        map_memory_bytes,
        log: attached.take_log(),
        attached,
        live,
        questions: Vec::new(),
        sample_limit,
        sweep: Sweep::new(maps.handovers, config.request_lifetime()),
        published_ns: 0,
        stood_in_early,
        stood_in_last: None,
    };
    agent.inner.scan();
    if tls && agent.attached.offers(Feature::Tls) {
        agent.watch_tls(config);
    }
    agent.publish(&outputs, 0);
    outputs.start_metrics()?;
    agent.announce(config, &release);
    if let Some(path) = &config.ready_file {
        fs::write(path, "").map_err(|source| RunError::File {
            path: path.clone(),
            source,
        })?;
    }
    Ok(Ready {
        agent,
        reader,
        outputs,
        signals,
    })
}

/// What the parsers of protocols are told.
pub(in crate::run) fn parser_config(config: &Config) -> ParserConfig {
    let fields = config.propagators.unwrap_or_default();
    ParserConfig {
        propagators: fields
            .into_iter()
            .filter(|field| field.part != part::NONE)
            .collect(),
    }
}

fn pipeline_config(config: &Config, seed: u64, hides: bool) -> PipelineConfig {
    let defaults = PipelineConfig::default();
    PipelineConfig {
        seed,
        asks_resting: hides,
        connections: if config.faults.contains(&Fault::ConnectionsOverLimit) {
            1
        } else {
            defaults.connections
        },
        sampling_threshold: config.sampler.threshold(),
        service_rules: config.service_rules.clone(),
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
pub(in crate::run) fn seed_of(globals: &[(String, u32)]) -> u64 {
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

impl Agent {
    /// Looks into the TLS libraries of the processes that exist, and from now on of those that begin.
    fn watch_tls(&mut self, config: &Config) {
        let mut watch = TlsWatch::new(config.proc_root.clone());
        let verdicts = &self.inner.verdicts;
        let unknown = !config.selectors.narrow_processes();
        let is_traced = |tgid| match verdicts.get(tgid) {
            Ok(Verdict::Selected) => true,
            Ok(Verdict::Unknown) => unknown,
            _ => false,
        };
        let source = Proc::new(&config.proc_root);
        watch.start(&source, is_traced, &mut self.attached);
        self.inner.tls = Some(watch);
    }

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
