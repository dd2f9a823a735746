//! The agent under measurement: started as a user would start it, exporting over OTLP/HTTP to the sink.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    process::{self, Piped, Program},
    sink::Received,
};

/// How long the agent may take to attach its programs, and to end: guest seconds, in which little else runs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest that the agent may hold a span back: the batch delay of the OpenTelemetry specification, and a second.
const SETTLE: Duration = Duration::from_secs(6);

/// How long its idle consumption is measured.
const IDLE: Duration = Duration::from_secs(2);

/// A running agent and the sink that it exports to.
#[derive(Debug)]
pub(crate) struct Agent {
    program: Program,
    statistics: PathBuf,
    sink: Sink,
}

/// Processor time of agent and sink at one moment, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// The agent's.
    pub(crate) agent_ns: u64,
    /// The sink's.
    pub(crate) sink_ns: u64,
}

/// Copies the agent into the machine's memory, so that no segment waits for the host's file system.
///
/// # Errors
/// When it cannot be copied.
pub(crate) fn in_memory(binary: &Path) -> Result<PathBuf> {
    let copy = PathBuf::from("/run/undertrace");
    fs::copy(binary, &copy).with_context(|| format!("cannot copy {}", binary.display()))?;
    Ok(copy)
}

/// What is known of the agent after its end.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its counters and the kernel's, by name.
    pub(crate) counters: BTreeMap<String, u64>,
    /// What the sink received.
    pub(crate) received: Received,
}

impl Agent {
    /// Starts the sink, then the agent with `words` for its command line, and waits until it traces.
    ///
    /// # Errors
    /// When it ends or is not ready in time; its log is in the folder.
    pub(crate) fn start(binary: &Path, words: &[String], folder: &Path) -> Result<Self> {
        let sink = Sink::start()?;
        // In memory, like the binary: the host's file system answers in the host's time.
        let ready = PathBuf::from("/run/agent.ready");
        let statistics = PathBuf::from("/run/agent.stats.json");
        for file in [&ready, &statistics] {
            let _ = fs::remove_file(file);
        }
        let mut command = Command::new(binary);
        command.args(words);
        command
            .arg("--ready-file")
            .arg(&ready)
            .arg("--stats-json")
            .arg(&statistics);
        command.env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://127.0.0.1:{}", sink.port),
        );
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let log = folder.join("agent.log");
        let mut program = Program::start(&mut command, &log)?;
        process::wait_for("the agent to be ready", PATIENCE, || {
            let ended = program.child.try_wait()?;
            ensure!(
                ended.is_none(),
                "the agent ended at once, see {}",
                log.display()
            );
            Ok(ready.exists().then_some(()))
        })?;
        Ok(Self {
            program,
            statistics,
            sink,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Processor time so far.
    ///
    /// # Errors
    /// When one of them is gone.
    pub(crate) fn clocks(&self) -> Result<Clocks> {
        Ok(Clocks {
            agent_ns: process::cpu_ns(self.pid())?,
            sink_ns: process::cpu_ns(self.sink.process.program.pid())?,
        })
    }

    /// Waits until everything of a load that is over has been exported, and gives the time that the agent needed for that, without
    /// what it needs for being there: (nanoseconds for the rest, nanoseconds per second when idle).
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn settle(&self) -> Result<(u64, u64)> {
        let start = process::cpu_ns(self.pid())?;
        std::thread::sleep(SETTLE);
        let settled = process::cpu_ns(self.pid())?;
        std::thread::sleep(IDLE);
        let idle_per_second = (process::cpu_ns(self.pid())? - settled) / IDLE.as_secs();
        let rest = (settled - start).saturating_sub(idle_per_second * SETTLE.as_secs());
        Ok((rest, idle_per_second))
    }

    /// Ends it as Ctrl-C does.
    ///
    /// # Errors
    /// When it does not end, or leaves no statistics.
    pub(crate) fn stop(mut self) -> Result<Ended> {
        self.program.interrupt(PATIENCE)?;
        let text = fs::read_to_string(&self.statistics).context("the agent left no statistics")?;
        let counters = counters(&serde_json::from_str(&text)?);
        Ok(Ended {
            counters,
            received: self.sink.stop()?,
        })
    }
}

/// The agent's counters by their names, and the kernel's as `kernel.NAME`: some names are the same.
fn counters(statistics: &Value) -> BTreeMap<String, u64> {
    let of = |object: &str, prefix: &'static str| {
        let object = statistics
            .get(object)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        object
            .into_iter()
            .filter_map(move |(name, value)| Some((format!("{prefix}{name}"), value.as_u64()?)))
    };
    of("agent", "").chain(of("kernel", "kernel.")).collect()
}

/// The receiver, a process of its own so that its time can be told from the agent's.
#[derive(Debug)]
struct Sink {
    process: Piped,
    port: u16,
}

impl Sink {
    fn start() -> Result<Self> {
        let mut process = Piped::start(Command::new(std::env::current_exe()?).arg("sink"))?;
        let port = process
            .line()?
            .parse()
            .context("the sink does not say its port")?;
        Ok(Self { process, port })
    }

    fn stop(self) -> Result<Received> {
        serde_json::from_str(&self.process.end()?).context("the sink does not say what it received")
    }
}
