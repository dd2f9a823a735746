//! `cargo xtask bench`: what the agent costs the services that it traces, counted in instructions.
//!
//! One virtual machine in which guest time counts guest instructions, so figures do not depend on how busy this
//! machine is. Inside, `loadlab` of the crate `tests` runs a load in short segments, with and without the agent by
//! turns; here its lines become a table, and with `--check` they are held against `xtask/bench-baseline.json`.
//! Instructions are no cycles: a trap or a cache miss costs more on hardware.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    build, paths, run,
    setup::{self, Scope, Setup},
    vm::{Ended, Output, Vm, command_line},
};

mod baseline;
mod figures;
mod functions;
mod scale;
mod segments;
mod table;

use baseline::Baseline;
use figures::Figures;

/// Name of the recording that the segments leave.
const RECORDING: &str = "nginx.utrecord";

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Compare with the committed figures and fail when the agent has become dearer
    #[arg(long)]
    check: bool,
    /// Make what is measured the committed figures
    #[arg(long, conflicts_with = "check")]
    update: bool,
    /// Kernel series
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Only services with this in their name: nginx, proxy, python, node, idle
    #[arg(long, value_name = "PATTERN", default_value = "")]
    only: String,
    /// Rounds, each with one segment of every setting
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Guest seconds of load per segment
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// The unoptimised agent, which is quicker to build: figures of user space are then too high
    #[arg(long, conflicts_with_all = ["check", "update"])]
    dev: bool,
    /// Print the table of segments that were measured before (target/bench/segments.jsonl) instead of measuring
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "rounds", "seconds", "dev", "limit"])]
    segments: Option<PathBuf>,
    /// Only the empty pair of programs, without the agent
    #[arg(long, conflicts_with_all = ["check", "update", "dev"])]
    limit: bool,
}

/// Something else to measure.
#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum What {
    /// 20,000 idle connections of 500 processes, 2,000 new ones a second: what the agent holds and loses
    Scale,
    /// Instructions that each function of the kernel programs executes for a request of nginx
    Functions {
        /// Where no trace is kept
        #[arg(long)]
        unsampled: bool,
    },
}

/// Measures, prints the table, and compares or writes the baseline.
///
/// # Errors
/// When something does not build, the machine or a segment in it fails, or there is no baseline to compare with.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let baseline = arguments.check.then(Baseline::load).transpose()?;
    if let Some(baseline) = &baseline {
        baseline.is_for(&arguments.kernel)?;
    }
    let lines = match (&arguments.segments, arguments.what) {
        (Some(file), _) => {
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
        }
        (None, what) => {
            let setup = setup::run(Scope::Vm(&arguments.kernel))?;
            match what {
                Some(What::Scale) => return at_scale(&setup, arguments),
                Some(What::Functions { unsampled }) => {
                    return of_functions(&setup, arguments, unsampled);
                }
                None => measure(&setup, arguments)?,
            }
        }
    };
    let figures = Figures::of_all(&segments::parse(&lines)?)?;
    ensure!(
        !figures.is_empty(),
        "no service has `{}` in its name",
        arguments.only
    );
    print!("{}", table::render(&figures));
    if !arguments.limit && arguments.segments.is_none() {
        replay(arguments.dev)?;
    }

    let mut faults: Vec<String> = figures.iter().flat_map(Figures::faults).collect();
    if let Some(baseline) = &baseline {
        let comparison = baseline.compare(&figures);
        for line in &comparison.notes {
            println!("{line}");
        }
        faults.extend(comparison.faults);
    }
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    if !faults.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if arguments.update {
        Baseline::load_or_empty(&arguments.kernel)?
            .updated(&figures)
            .save()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the segments in a virtual machine and returns the lines they left.
fn measure(setup: &Setup, arguments: &Arguments) -> Result<String> {
    let folder = folder()?;
    let mut words = vec![load_lab()?.display().to_string(), "measure".to_owned()];
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    let objects = if arguments.limit {
        build::kernel_programs(setup)?
    } else {
        let built = build::run(setup, !arguments.dev)?;
        option("--agent", built.agent.display().to_string());
        built.ebpf_dir
    };
    let out = folder.join("segments.jsonl");
    fs::write(&out, "").with_context(|| format!("cannot write {}", out.display()))?;
    option("--empty", objects.join("empty").display().to_string());
    option("--out", out.display().to_string());
    option("--logs", folder.display().to_string());
    option("--only", arguments.only.clone());
    option("--rounds", arguments.rounds.to_string());
    option("--seconds", arguments.seconds.to_string());

    // Half an hour on a machine of its own; more where it shares one.
    let patience = 300 + u64::from(arguments.rounds * (arguments.seconds + 1)) * 400;
    in_machine(
        setup,
        arguments,
        &words,
        &Machine::new(Duration::from_secs(patience)),
    )?;
    Ok(fs::read_to_string(&out)?)
}

/// Measures many connections and processes at once.
fn at_scale(setup: &Setup, arguments: &Arguments) -> Result<ExitCode> {
    let folder = folder()?;
    let out = folder.join("scale.json");
    fs::write(&out, "").with_context(|| format!("cannot write {}", out.display()))?;
    let words = lab_words("scale", setup, arguments, &out)?;
    let machine = Machine {
        memory: "4G",
        ..Machine::new(Duration::from_secs(3000))
    };
    in_machine(setup, arguments, &words, &machine)?;
    let found = scale::Found::parse(&fs::read_to_string(&out)?)?;
    print!("{}", found.render());
    let faults = found.faults();
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Counts the instructions of each function.
fn of_functions(setup: &Setup, arguments: &Arguments, unsampled: bool) -> Result<ExitCode> {
    let folder = folder()?;
    let out = folder.join("functions.json");
    fs::write(&out, "").with_context(|| format!("cannot write {}", out.display()))?;
    let mut words = lab_words("functions", setup, arguments, &out)?;
    if unsampled {
        words.push("--unsampled".to_owned());
    }
    let trace = functions::Trace::begin(&folder)?;
    let machine = Machine {
        trace: Some(trace.path()),
        ..Machine::new(Duration::from_secs(900))
    };
    let measured = in_machine(setup, arguments, &words, &machine);
    let blocks = trace.end()?;
    measured?;
    let found = functions::Found::parse(&fs::read_to_string(&out)?)?;
    print!("{}", functions::render(&found, &blocks));
    Ok(ExitCode::SUCCESS)
}

/// Builds what is measured and what measures; the words that start a task of it.
fn lab_words(task: &str, setup: &Setup, arguments: &Arguments, out: &Path) -> Result<Vec<String>> {
    let agent = build::run(setup, !arguments.dev)?.agent;
    let mut words = vec![load_lab()?.display().to_string(), task.to_owned()];
    for (name, path) in [
        ("--agent", agent.as_path()),
        ("--out", out),
        ("--logs", &folder()?),
    ] {
        words.extend([name.to_owned(), path.display().to_string()]);
    }
    Ok(words)
}

/// What a machine that measures is beside its kernel.
struct Machine<'a> {
    memory: &'a str,
    /// A guest second of full load takes up to 15 of a busy machine.
    timeout: Duration,
    trace: Option<&'a Path>,
}

impl Machine<'_> {
    fn new(timeout: Duration) -> Self {
        Self {
            memory: "2G",
            timeout,
            trace: None,
        }
    }
}

/// Runs the program that measures in a machine whose time counts instructions.
fn in_machine(
    setup: &Setup,
    arguments: &Arguments,
    words: &[String],
    machine: &Machine<'_>,
) -> Result<()> {
    let folder = folder()?;
    let vm = Vm {
        icount: true,
        memory: machine.memory.to_owned(),
        timeout: machine.timeout,
        trace: machine.trace.map(Path::to_owned),
        share: vec![folder.clone()],
        ..Vm::new(setup.kernel(&arguments.kernel)?)?
    };
    match vm.run(setup, &command_line(words), &Output::Inherit)? {
        Ended::Exited(0) => Ok(()),
        Ended::Exited(code) => {
            bail!(
                "measuring failed with exit code {code}; logs are in {}",
                folder.display()
            )
        }
        Ended::TimedOut => bail!("not done after {} s", vm.timeout.as_secs()),
        Ended::Died => bail!("the virtual machine ended before measuring did"),
    }
}

/// Measures on this machine the way from record to span, with the recording that the segments left if there is one.
fn replay(dev: bool) -> Result<()> {
    let mut command = run::cargo();
    command.current_dir(paths::workspace());
    command.args([
        "run",
        "--quiet",
        "--package",
        "agent",
        "--features",
        "testing",
        "--example",
        "replay_rate",
    ]);
    if !dev {
        command.arg("--release");
    }
    let recording = folder()?.join(RECORDING);
    if recording.exists() {
        command.arg("--").arg(recording);
    }
    println!();
    run::streamed(&mut command)
}

/// The folder for lines and logs, which stays.
fn folder() -> Result<PathBuf> {
    let folder = paths::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Builds the program that measures inside the machine.
fn load_lab() -> Result<PathBuf> {
    let mut command = run::cargo();
    command.current_dir(paths::workspace());
    command.args(["build", "--quiet", "--package", "tests", "--bin", "loadlab"]);
    run::streamed(&mut command)?;
    Ok(paths::target().join("debug").join("loadlab"))
}
