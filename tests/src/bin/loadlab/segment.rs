//! Segments: one load in one setting, and the order in which they follow each other.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    agent::Agent,
    load, process,
    programs::{self, Counting, EmptyPair, Runs},
    service::{Kind, Service},
};

/// What attaching leaves to be done later must be done before a load begins.
pub(crate) const REST: Duration = Duration::from_millis(500);

/// Duration of one load before the first segment of a service.
const WARM_UP: Duration = Duration::from_secs(2);

/// The most of these loads.
const WARM_UPS: u32 = 20;

/// Loads in a row that are no better than the best before: then a service is warm.
const STEADY: u32 = 3;

/// An idle segment is this many times as long as one under load: it costs the machine nothing.
const IDLE_FACTOR: u32 = 5;

/// Duration of the load that is recorded.
const RECORDED: Duration = Duration::from_secs(1);

/// What is attached while a segment runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Setting {
    /// Nothing.
    Bare,
    /// The empty pair.
    Empty,
    /// The agent.
    Agent,
    /// The agent, which keeps no trace.
    Unsampled,
    /// The agent, which writes headers.
    Injecting,
    /// The empty pair while the kernel counts runs: tells what counting itself adds to the run time.
    EmptyCounted,
    /// The agent while the kernel counts runs.
    AgentCounted,
}

/// One line of the result. Times are nanoseconds of the guest: half as many as instructions.
#[derive(Debug, Serialize)]
pub(crate) struct Segment {
    service: &'static str,
    setting: Setting,
    round: u32,
    /// Answers that the load generator received.
    requests: u64,
    /// Requests that the service served; a few more, because the load ends while some are under way.
    served: u64,
    /// Spans that the served requests are.
    spans_expected: u64,
    /// Duration of the load.
    elapsed_ns: u64,
    /// Context switches of the machine during the load.
    switches: u64,
    /// Its interrupts.
    interrupts: u64,
    /// Runs of kernel programs during the load, where counted.
    programs: Vec<Runs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentFigures>,
}

/// What the agent took.
#[derive(Debug, Serialize)]
struct AgentFigures {
    /// Processor time during the load.
    cpu_ns: u64,
    /// Processor time after the load for what was left of it.
    rest_ns: u64,
    /// Processor time per second without load.
    idle_ns_per_second: u64,
    /// Processor time of the receiver of its export during the load, which is no cost of the agent.
    sink_ns: u64,
    /// Resident memory without maps.
    resident_kib: u64,
    /// Kernel memory of its maps.
    map_bytes: u64,
    /// Kernel memory of its programs.
    program_bytes: u64,
    /// Spans that the receiver got.
    spans: u64,
    /// Bytes of the export requests.
    export_bytes: u64,
    /// All counters that are not zero, from start to end.
    counters: BTreeMap<String, u64>,
}

/// Where and what to measure.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The agent, if there is one.
    pub(crate) agent: Option<PathBuf>,
    /// Object with the empty pair.
    pub(crate) empty: PathBuf,
    /// Folder for logs.
    pub(crate) logs: PathBuf,
    /// Duration of a load.
    pub(crate) duration: Duration,
}

impl Lab {
    /// Measures every service whose name contains `only`, settings interleaved, and writes a line for each segment.
    ///
    /// # Errors
    /// When a segment fails: a service, the load generator, the agent.
    pub(crate) fn measure(&self, only: &str, rounds: u32, out: &Path) -> Result<()> {
        let mut out =
            File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
        for kind in Kind::ALL
            .into_iter()
            .filter(|kind| kind.name().contains(only))
        {
            let folder = self.logs.join(kind.name());
            fs::create_dir_all(&folder)?;
            let mut service = Service::start(kind, Path::new("/run"))?;
            if kind != Kind::Idle {
                warm_up(&mut service, &folder)?;
            }
            for round in 1..=rounds {
                for setting in self.settings(kind, round) {
                    let segment = self.segment(kind, &mut service, setting, round, &folder);
                    let segment =
                        segment.with_context(|| format!("{} {setting:?} {round}", kind.name()))?;
                    serde_json::to_writer(&mut out, &segment)?;
                    writeln!(out)?;
                    let each_ns = segment.elapsed_ns / segment.requests.max(1);
                    eprintln!(
                        "{:<8} {setting:<13?} {round}  {:>8} requests, {each_ns:>9} ns each",
                        kind.name(),
                        segment.requests
                    );
                }
            }
            if kind == Kind::Nginx {
                self.record(&service, &folder).context("recording nginx")?;
            }
        }
        Ok(())
    }

    /// Records a load for replays on the host.
    fn record(&self, service: &Service, folder: &Path) -> Result<()> {
        let Some(binary) = &self.agent else {
            return Ok(());
        };
        // Made in memory: a file on the host costs the guest much more.
        let made = Path::new("/run/recording");
        let agent = Agent::start(
            binary,
            &command(&["record", "/run/recording"], service),
            folder,
        )?;
        load::run(&service.url, RECORDED, folder)?;
        agent.stop()?;
        fs::copy(made, self.logs.join("nginx.utrecord")).context("cannot keep the recording")?;
        fs::remove_file(made)?;
        Ok(())
    }

    /// Settings of a round. Counting is slow, so it has one segment of its own in the first round.
    fn settings(&self, kind: Kind, round: u32) -> Vec<Setting> {
        let mut settings = vec![
            Setting::Bare,
            Setting::Empty,
            Setting::Agent,
            Setting::Unsampled,
            Setting::Injecting,
        ];
        if round == 1 {
            settings.extend([Setting::EmptyCounted, Setting::AgentCounted]);
        }
        settings.retain(|setting| match setting {
            Setting::Agent | Setting::AgentCounted => self.agent.is_some(),
            Setting::Unsampled => self.agent.is_some() && kind != Kind::Idle,
            // The others make no request.
            Setting::Injecting => self.agent.is_some() && kind == Kind::Proxy,
            _ => kind != Kind::Idle,
        });
        settings
    }

    fn segment(
        &self,
        kind: Kind,
        service: &mut Service,
        setting: Setting,
        round: u32,
        folder: &Path,
    ) -> Result<Segment> {
        let before = service.served()?;
        let empty = matches!(setting, Setting::Empty | Setting::EmptyCounted)
            .then(|| EmptyPair::attach(&self.empty));
        let empty = empty.transpose()?;
        let words: &[&str] = match setting {
            Setting::Agent | Setting::AgentCounted => &["run"],
            Setting::Unsampled => &["run", "--sampler", "always_off"],
            Setting::Injecting => &["run", "--inject"],
            Setting::Bare | Setting::Empty | Setting::EmptyCounted => &[],
        };
        let agent = match &self.agent {
            Some(binary) if !words.is_empty() => {
                Some(Agent::start(binary, &command(words, service), folder)?)
            }
            _ => None,
        };
        let counting = matches!(setting, Setting::EmptyCounted | Setting::AgentCounted)
            .then(Counting::begin)
            .transpose()?;

        thread::sleep(REST);
        let runs_before = counting.as_ref().map(|_| programs::counted()).transpose()?;
        let clocks_before = agent.as_ref().map(Agent::clocks).transpose()?;
        let switches_before = process::switches()?;
        let (requests, elapsed_ns) = if kind == Kind::Idle {
            let start = Instant::now();
            thread::sleep(self.duration * IDLE_FACTOR);
            (0, u64::try_from(start.elapsed().as_nanos())?)
        } else {
            let load = load::run(&service.url, self.duration, folder)?;
            (load.requests, load.elapsed_ns)
        };
        let switches_after = process::switches()?;
        let clocks_after = agent.as_ref().map(Agent::clocks).transpose()?;
        let programs = match runs_before {
            Some(before) => programs::between(&before, programs::counted()?),
            None => Vec::new(),
        };
        drop(counting);

        let agent = match (agent, clocks_before, clocks_after) {
            (Some(agent), Some(before), Some(after)) => {
                let (rest_ns, idle_ns_per_second) = agent.settle()?;
                let resident_kib = process::resident_kib(agent.pid())?;
                let (map_bytes, program_bytes) = programs::memory(agent.pid())?;
                let ended = agent.stop()?;
                Some(AgentFigures {
                    cpu_ns: after.agent_ns - before.agent_ns,
                    rest_ns,
                    idle_ns_per_second,
                    sink_ns: after.sink_ns - before.sink_ns,
                    resident_kib,
                    map_bytes,
                    program_bytes,
                    spans: ended.received.spans,
                    export_bytes: ended.received.bytes,
                    counters: ended
                        .counters
                        .into_iter()
                        .filter(|(_, value)| *value != 0)
                        .collect(),
                })
            }
            _ => None,
        };
        drop(empty);
        let after = service.served()?;
        Ok(Segment {
            service: kind.name(),
            setting,
            round,
            requests,
            served: after.requests - before.requests,
            spans_expected: after.spans - before.spans,
            elapsed_ns,
            switches: switches_after.0 - switches_before.0,
            interrupts: switches_after.1 - switches_before.1,
            programs,
            agent,
        })
    }
}

/// Loads a service until it has become as quick as it will be: caches, connections of a proxy, and in Node the compiler, which is late.
fn warm_up(service: &mut Service, folder: &Path) -> Result<()> {
    let (mut best, mut no_better) = (0, 0);
    for _ in 0..WARM_UPS {
        // A question that only measured segments ask would send Node's compiler back to the start in the first of them.
        service.served()?;
        let requests = load::run(&service.url, WARM_UP, folder)?.requests;
        // Python and Node vary by three percent when they are warm; a compiler pauses between its steps.
        no_better = if requests * 100 > best * 103 {
            0
        } else {
            no_better + 1
        };
        best = best.max(requests);
        if no_better == STEADY {
            break;
        }
    }
    Ok(())
}

/// The agent's command line that traces a service.
pub(crate) fn command(words: &[&str], service: &Service) -> Vec<String> {
    words
        .iter()
        .map(|&word| word.to_owned())
        .chain(service.selectors.iter().cloned())
        .collect()
}
