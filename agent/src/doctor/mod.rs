//! `undertrace doctor`: what this kernel offers, tried and not guessed.
//!
//! Input: this machine; every program is loaded and attached for a moment, and sends and receives of this process are timed with and without
//! them. Output: a [`Report`], as text for a person or as JSON. No other process is traced meanwhile, and nothing stays behind.

mod cost;
pub mod processes;
mod text;

use std::{io::Write, path::Path};

use serde::Serialize;

use self::cost::Before;
pub use self::cost::{Calls, Cost};
use crate::{
    config::Network,
    inject,
    kernel::features::{Features, Finding, Severity},
    probe::{
        error::ProbeError,
        examine::Kernel,
        hooks::{Attach, Feature},
        loader::chain,
        plan::{Plan, State},
        settings::{Settings, Value},
    },
    process::{Proc, ProcSource as _, connections},
};

/// Everything that is found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of the agent.
    pub version: &'static str,
    /// Whether the agent can trace here.
    pub works: bool,
    /// Why it cannot, in one sentence with the next step.
    pub error: Option<String>,
    /// Facts about the machine.
    pub machine: Vec<Finding>,
    /// Whether programs could be loaded and attached; otherwise what follows is only what the kernel's types promise.
    pub tried: bool,
    /// What works and what does not; empty when not even the kernel's types could be read.
    pub features: Vec<FeatureReport>,
    /// What became of each hook.
    pub hooks: Vec<HookReport>,
    /// Whether trace context can be written into requests; none when that was not tried.
    pub headers: Option<HeaderReport>,
    /// Whether trace context can be carried in a TCP option; none when that was not tried.
    pub option: Option<OptionReport>,
    /// Members of kernel structs that this kernel does not have; the programs do without them.
    pub absent_members: Vec<String>,
    /// Memory of all maps, bytes.
    pub map_bytes: u64,
    /// Time of a send and a receive; none when nothing could be attached.
    pub cost: Option<Cost>,
    /// Why the cost could not be measured.
    pub cost_error: Option<String>,
}

/// Whether trace context can be written into requests.
#[derive(Clone, Debug, Serialize)]
pub struct HeaderReport {
    /// The kernel passed the self-test.
    pub works: bool,
    /// Why headers are not written here.
    pub reason: Option<String>,
    /// How long the self-test took, milliseconds; none when it failed.
    pub milliseconds: Option<u64>,
    /// Why nothing was tried between two network namespaces; none where it was.
    pub without_veth: Option<String>,
    /// Connections to the networks of `--inject-to`, unless it names others, that processes have made and hold now: older than an agent that starts now, they get no header.
    pub older: usize,
}

/// Whether trace context can be carried in a TCP option.
#[derive(Clone, Debug, Serialize)]
pub struct OptionReport {
    /// The kernel passed the self-test.
    pub works: bool,
    /// Why none is carried here.
    pub reason: Option<String>,
    /// How long the self-test took, milliseconds; none when it failed.
    pub milliseconds: Option<u64>,
}

/// What became of a feature.
#[derive(Clone, Debug, Serialize)]
pub struct FeatureReport {
    /// Which one.
    pub feature: Feature,
    /// Its name for a person.
    pub title: &'static str,
    /// Whether it works.
    pub works: bool,
    /// What is lost without it; none when it works.
    pub loss: Option<&'static str>,
    /// The program that does not work, and why.
    pub reason: Option<String>,
}

/// What became of a hook.
#[derive(Clone, Debug, Serialize)]
pub struct HookReport {
    /// The program.
    pub program: &'static str,
    /// Where it belongs.
    #[serde(flatten)]
    pub attach: Attach,
    /// What it is for.
    pub feature: Feature,
    /// Used or not, and why not.
    #[serde(flatten)]
    pub state: State,
}

/// Writes the report on this machine, whose `/proc` is mounted at `proc`; whether the agent can trace here.
///
/// # Errors
/// When the output cannot be written.
pub fn run(proc: &Path, json: bool, out: &mut impl Write) -> std::io::Result<bool> {
    let report = examine(proc);
    if json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        text::write(&report, out)?;
    }
    Ok(report.works)
}

/// Tries everything on the machine whose `/proc` is mounted at `proc`.
#[must_use]
pub fn examine(proc: &Path) -> Report {
    let features = Features::read(proc);
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        works: false,
        error: None,
        machine: features.findings(),
        tried: false,
        features: Vec::new(),
        hooks: Vec::new(),
        headers: None,
        option: None,
        absent_members: Vec::new(),
        map_bytes: 0,
        cost: None,
        cost_error: None,
    };
    let failed = match try_all(features, proc, &mut report) {
        Ok(()) => None,
        Err(error) => Some(chain(&error)),
    };
    // What the machine lacks explains a failure better than the system call that failed.
    let mut machine = report.machine.iter();
    let blocking = machine.find(|finding| finding.severity == Severity::Blocking);
    report.error = failed.map(|error| match blocking {
        Some(finding) => format!(
            "{} is {}: {}",
            finding.subject, finding.value, finding.advice
        ),
        None => error,
    });
    report.works = report.error.is_none();
    report
}

fn try_all(features: Features, proc: &Path, report: &mut Report) -> Result<(), ProbeError> {
    let kernel = Kernel::of(features, &[])?;
    let missing = kernel.offsets.missing.iter();
    report.absent_members = missing
        .map(|missing| format!("{}: {}", missing.member, missing.reason))
        .collect();
    report.judge(&kernel.plan);
    let (passed, refused) = match inject::prove(&kernel.features, proc, &[]) {
        Ok(passed) => (Some(passed), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let took = passed.as_ref().map(|passed| passed.took.as_millis());
    report.headers = Some(HeaderReport {
        works: refused.is_none(),
        reason: refused,
        milliseconds: took.map(|took| u64::try_from(took).unwrap_or(u64::MAX)),
        without_veth: passed.and_then(|passed| passed.without_veth),
        older: older(proc),
    });
    let carried = inject::prove_option(kernel.features.cgroup2.as_deref(), &[]);
    report.option = Some(OptionReport {
        works: carried.is_ok(),
        milliseconds: carried
            .as_ref()
            .ok()
            .map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        reason: carried.err().map(|error| error.to_string()),
    });
    // Nobody is traced but this process, and it only while its calls are timed.
    let settings = Settings::default().with("SELECT_UNKNOWN", Value::U32(0));
    let mut loaded = kernel.load(&settings)?;
    let maps = loaded.take_maps()?;
    let before = Before::measure();
    let attached = loaded.attach_what_can_be();
    report.tried = true;
    report.judge(&attached.plan);
    let attached = attached.checked()?;
    report.map_bytes = attached.map_memory_bytes();
    let own = kernel.own()?;
    match before.and_then(|before| cost::measure(attached, maps, before, own)) {
        Ok(cost) => report.cost = Some(cost),
        Err(error) => report.cost_error = Some(chain(&error)),
    }
    Ok(())
}

/// Connections that are older than an agent which would start now.
fn older(proc: &Path) -> usize {
    let networks = Network::private();
    connections::count(proc, Proc::new(proc).tgids(), |connection| {
        let peer = connection.peer.ip();
        networks.iter().any(|network| network.contains(peer))
    })
}

impl Report {
    fn judge(&mut self, plan: &Plan) {
        let of_feature = |feature: &Feature| {
            let works = plan.offers(*feature);
            let reason = plan.why_off(*feature);
            FeatureReport {
                feature: *feature,
                title: feature.title(),
                works,
                loss: (!works).then(|| feature.loss()),
                reason: reason.map(|(program, reason)| format!("{program}: {reason}")),
            }
        };
        let needed = Feature::ALL.iter().filter(|feature| plan.needs(**feature));
        self.features = needed.map(of_feature).collect();
        let hooks = plan.entries.iter().map(|entry| HookReport {
            program: entry.hook.program,
            attach: entry.hook.attach,
            feature: entry.hook.feature,
            state: entry.state.clone(),
        });
        self.hooks = hooks.collect();
    }
}
