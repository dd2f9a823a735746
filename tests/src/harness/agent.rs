//! The agent under test: the built `undertrace` binary, started as a user would start it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

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

/// What the agent counted.
#[derive(Debug)]
pub(crate) struct Statistics {
    counters: BTreeMap<String, u64>,
    /// Equations that do not hold; none when the books balance.
    imbalance: Vec<String>,
}

impl Statistics {
    /// What a file of `--stats-json` says.
    ///
    /// # Errors
    /// When there is none, or the books in it do not balance.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).context("the agent left no statistics")?;
        let statistics = Self::parse(&text)?;
        if !statistics.imbalance.is_empty() {
            bail!(
                "the books do not balance:\n{}\n{statistics}",
                statistics.imbalance.join("\n")
            );
        }
        Ok(statistics)
    }

    /// Counters of a machine whose books were looked at there.
    pub(crate) const fn of(counters: BTreeMap<String, u64>) -> Self {
        Self {
            counters,
            imbalance: Vec::new(),
        }
    }

    /// The counters, for another machine.
    pub(crate) fn into_counters(self) -> BTreeMap<String, u64> {
        self.counters
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("the statistics are no JSON")?;
        let mut counters = BTreeMap::new();
        collect(&value, &mut counters);
        // A name may be there twice.
        for section in ["kernel", "agent", "gauges"] {
            let values = value.get(section).and_then(Value::as_object);
            for (name, value) in values.into_iter().flatten() {
                let value = value.as_u64().context("a counter is no number")?;
                counters.insert(format!("{section}.{name}"), value);
            }
        }
        let equations = value
            .get("balance")
            .and_then(Value::as_array)
            .filter(|equations| !equations.is_empty())
            .context("the statistics have no balance")?;
        let broken = equations
            .iter()
            .filter(|equation| equation.get("holds") != Some(&Value::Bool(true)))
            .map(Value::to_string);
        let details = value
            .get("discrepancies")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let imbalance = broken.chain(details.map(Value::to_string)).collect();
        Ok(Self {
            counters,
            imbalance,
        })
    }

    /// The value of a counter.
    ///
    /// # Panics
    /// When there is no such counter: a scenario that reads a misspelt one must not pass.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> u64 {
        *self
            .counters
            .get(name)
            .unwrap_or_else(|| panic!("no counter {name} in\n{self}"))
    }

    /// Exchanges of unsampled traces: those that the kernel hid, and those that the agent heard of.
    #[track_caller]
    pub(crate) fn unsampled(&self) -> u64 {
        self.get("requests_hidden") + self.get("spans_unsampled")
    }

    /// Of those, the ones that failed.
    #[track_caller]
    pub(crate) fn unsampled_failed(&self) -> u64 {
        self.get("requests_hidden_failed") + self.get("spans_unsampled_failed")
    }

    /// All counters of a section (`kernel`, `agent`, `gauges`), each name with this prefix.
    ///
    /// # Panics
    /// When the section is empty.
    #[track_caller]
    pub(crate) fn section(&self, section: &str, prefix: &str) -> BTreeMap<String, u64> {
        let counters = self.counters.iter();
        let of_section: BTreeMap<_, _> = counters
            .filter_map(|(name, value)| {
                let name = name.strip_prefix(section)?.strip_prefix('.')?;
                Some((format!("{prefix}{name}"), *value))
            })
            .collect();
        assert!(!of_section.is_empty(), "no section {section} in\n{self}");
        of_section
    }
}

impl std::fmt::Display for Statistics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = |name: &str| !name.contains('.');
        for (name, value) in &self.counters {
            if plain(name) && *value != 0 {
                writeln!(f, "{name} {value}")?;
            }
        }
        Ok(())
    }
}

/// Takes every number by its own name, however deep the objects are nested.
fn collect(value: &Value, counters: &mut BTreeMap<String, u64>) {
    let Some(object) = value.as_object() else {
        return;
    };
    for (name, value) in object {
        match value.as_u64() {
            Some(number) => {
                counters.insert(name.clone(), number);
            }
            None => collect(value, counters),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_found_at_any_depth() {
        let text = r#"{"kernel":{"ring_full":0},"agent":{"spans":3},"balance":[{"what":"spans","holds":false}]}"#;
        let statistics = Statistics::parse(text).expect("well formed");
        assert_eq!(
            (statistics.get("ring_full"), statistics.get("spans")),
            (0, 3)
        );
        assert_eq!(statistics.imbalance, [r#"{"holds":false,"what":"spans"}"#]);
        assert!(
            Statistics::parse("{}").is_err(),
            "statistics without a balance prove nothing"
        );
    }
}
