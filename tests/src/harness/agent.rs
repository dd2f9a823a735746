//! The agent under test: the built `undertrace` binary, started as a user would start it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

pub(crate) use super::statistics::Statistics;
use super::{Context, PATIENCE, collector::Collector, process::Program, wait_for};

/// Name of the agent's log in the scenario's folder.
const LOG: &str = "agent.log";

/// How long the agent may take until its programs are attached: the verifier of an emulated machine needs seconds.
const START: Duration = Duration::from_secs(100);

/// How the agent is started.
#[derive(Debug)]
pub(crate) struct Setup {
    within: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    recording: Option<PathBuf>,
}

impl Setup {
    /// Sends spans to this collector over gRPC.
    pub(crate) fn grpc(collector: &Collector) -> Self {
        Self::to(&collector.grpc_endpoint(), "grpc")
    }

    /// Sends spans to this collector over HTTP/protobuf.
    pub(crate) fn http(collector: &Collector) -> Self {
        Self::to(&collector.http_endpoint(), "http/protobuf")
    }

    /// Sends spans to this endpoint.
    pub(crate) fn to(endpoint: &str, protocol: &str) -> Self {
        Self::bare()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    }

    /// Without any endpoint.
    pub(crate) fn bare() -> Self {
        Self {
            within: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            recording: None,
        }
    }

    /// Started by this program, to which the agent's own command line is given as the last words.
    pub(crate) fn within(mut self, command: &[&str]) -> Self {
        self.within = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Traces this port.
    pub(crate) fn port(self, port: u16) -> Self {
        self.arg("--port").arg(port.to_string())
    }

    /// Records to this file as well: `undertrace record`.
    pub(crate) fn recording_to(mut self, file: &Path) -> Self {
        self.recording = Some(file.to_owned());
        self
    }

    /// One more argument.
    pub(crate) fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it and waits until it traces.
    ///
    /// # Errors
    /// When it ends, or is not ready in time; with the end of its log.
    pub(crate) fn start(self, context: &Context) -> Result<Agent> {
        let ready = context.folder().join("agent.ready");
        let stats = context.folder().join("agent.stats.json");
        for file in [&ready, &stats] {
            let _ = fs::remove_file(file);
        }
        let mut command = started_by(&self.within, &binary()?);
        match &self.recording {
            Some(file) => command.arg("record").arg(file),
            None => command.arg("run"),
        };
        command
            .args(&self.arguments)
            .arg("--ready-file")
            .arg(&ready)
            .arg("--stats-json")
            .arg(&stats);
        command.envs(self.environment);
        let mut program = Program::start(context, "agent", &mut command)?;
        let log = context.folder().join(LOG);
        let started = wait_for(
            || format!("the agent to be ready; its log ends:\n{}", tail(&log)),
            START,
            || match program.is_running() {
                Ok(true) => ready.exists().then_some(true),
                _ => Some(false),
            },
        )?;
        ensure!(started, "the agent ended at once:\n{}", tail(&log));
        Ok(Agent {
            program,
            stats,
            log,
        })
    }
}

/// The running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    program: Program,
    stats: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// What it has printed so far.
    pub(crate) fn output(&self) -> String {
        self.program.output()
    }

    /// Asks for its counters (SIGUSR1), and gives the table's names and values; zeros are not in it.
    ///
    /// # Errors
    /// When it does not print them.
    pub(crate) fn report(&self) -> Result<BTreeMap<String, u64>> {
        let before = self.output().len();
        self.program.signal(Signal::USR1)?;
        let table = wait_for(
            || format!("the table of counters:\n{}", self.output()),
            PATIENCE,
            || {
                let output = self.output();
                let table = output.get(before..)?;
                table
                    .contains("more counters are zero\n")
                    .then(|| table.to_owned())
            },
        )?;
        let row = |line: &str| {
            let mut words = line.trim_start_matches('!').split_whitespace();
            let (name, value) = (words.next()?, words.next()?);
            let value = value.replace(',', "").parse().ok()?;
            words.next().is_none().then(|| (name.to_owned(), value))
        };
        Ok(table.lines().filter_map(row).collect())
    }

    /// Memory it holds, KiB (`VmRSS` of /proc/PID/status).
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// Stops its threads, so that only its programs in the kernel go on.
    ///
    /// # Errors
    /// When it does not stop.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.program.signal(Signal::STOP)?;
        let stat = format!("/proc/{}/stat", self.pid());
        wait_for(
            || "the agent to be stopped".into(),
            PATIENCE,
            || {
                fs::read_to_string(&stat)
                    .ok()?
                    .contains(") T ")
                    .then_some(())
            },
        )
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn thaw(&self) -> Result<()> {
        self.program.signal(Signal::CONT)
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When it is gone already.
    pub(crate) fn kill_hard(mut self) -> Result<()> {
        self.program.signal(Signal::KILL)?;
        self.program.wait(PATIENCE)?;
        Ok(())
    }

    /// Ends it as Ctrl-C does, and gives its statistics.
    ///
    /// # Errors
    /// When it does not end, ends with a failure, writes no statistics, or its books do not balance.
    pub(crate) fn stop(mut self) -> Result<Statistics> {
        // A terminal's Ctrl-C reaches the whole group too.
        self.program.signal_group(Signal::INT)?;
        let status = self
            .program
            .wait(PATIENCE)
            .with_context(|| format!("the agent does not stop:\n{}", tail(&self.log)))?;
        ensure!(
            status.success(),
            "the agent failed ({status}):\n{}",
            tail(&self.log)
        );
        Statistics::read(&self.stats)
    }
}

/// A scenario that failed leaves it running: it ends in order, so that its log closes with its counters.
impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.program.is_running(), Ok(true)) && self.program.signal(Signal::INT).is_ok()
        {
            let _ = self.program.wait(Duration::from_secs(8));
        }
    }
}

/// The command of this binary, started by another one if that is not empty; without variables of the machine that configure the agent.
fn started_by<S: AsRef<std::ffi::OsStr>>(within: &[S], binary: &Path) -> Command {
    let mut command = match within {
        [] => Command::new(binary),
        [program, words @ ..] => {
            let mut command = Command::new(program);
            command.args(words).arg(binary);
            command
        }
    };
    for (name, _) in std::env::vars_os() {
        if ["OTEL_", "UNDERTRACE_"]
            .iter()
            .any(|family| name.to_string_lossy().starts_with(family))
        {
            command.env_remove(name);
        }
    }
    command
}

/// How a run of the binary ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to the standard output.
    pub(crate) output: String,
    /// What it wrote to the standard error.
    pub(crate) errors: String,
}

/// Runs the binary, started by the command `within` if that is not empty, until it ends by itself; one that does not is
/// ended with the code 124.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn run_to_end(within: &[&str], arguments: &[&str]) -> Result<Ended> {
    run_to_end_as(&binary()?, within, arguments)
}

/// As [`run_to_end`], with this copy of the binary.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn run_to_end_as(binary: &Path, within: &[&str], arguments: &[&str]) -> Result<Ended> {
    let seconds = START.as_secs().to_string();
    let within = [&["timeout", "--kill-after=10", &seconds], within].concat();
    let output = started_by(&within, binary)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .context("the agent cannot be started")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ended {
        code: output.status.code(),
        output: text(&output.stdout),
        errors: text(&output.stderr),
    })
}

/// The agent's binary: `UNDERTRACE_BIN`, or `undertrace` beside this program.
///
/// # Errors
/// When there is none.
pub(crate) fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("UNDERTRACE_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("undertrace"),
    };
    ensure!(
        path.is_file(),
        "no agent at {}: build it with `cargo xtask build`",
        path.display()
    );
    Ok(path)
}

/// The end of the log of an agent that was started with this folder; empty when there is none.
pub(crate) fn log_tail(folder: &Path) -> String {
    tail(&folder.join(LOG))
}

fn tail(log: &Path) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(45)..].join("\n")
}
