//! Tasks of undertrace: setting up, building, running in virtual machines, proving.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

mod bench;
mod build;
mod demo;
mod dist;
mod paths;
mod run;
mod setup;
mod test;
mod verify;
mod vm;
mod workloads;

use setup::Scope;
use test::Selection;
use verify::Budget;
use vm::{Ended, Output, Vm};

/// Tasks of undertrace.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show it at work: a small shop, a few requests, each as one readable trace
    Demo(demo::Arguments),
    /// Find or install all that building and testing need
    Setup,
    /// Build the kernel programs, then the agent that carries them
    Build {
        /// Optimised, as it is shipped
        #[arg(long)]
        release: bool,
    },
    /// Run a command in a virtual machine with a kernel of the matrix
    Vm(VmArgs),
    /// Make what is needed to install the agent: binary, service unit, container recipe, manifest
    Dist,
    /// Measure what the agent costs, in instructions per request
    Bench(bench::Arguments),
    /// Load every kernel program on every kernel and hold its cost against the budget
    Verify {
        /// Kernel series, all by default
        #[arg(long, value_name = "SERIES")]
        kernel: Vec<String>,
        /// Make what is measured the budget
        #[arg(long)]
        update: bool,
    },
    /// Run everything that proves the project: host tests, kernel programs, scenarios
    Test {
        /// Every scenario at its real size instead of the core tier
        #[arg(long)]
        full: bool,
        /// Print what would run
        #[arg(long)]
        list: bool,
        /// Only what has this in its name
        #[arg(long, value_name = "PATTERN")]
        only: Option<String>,
        /// Kernel series, all by default
        #[arg(long, value_name = "SERIES")]
        kernel: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct VmArgs {
    /// Kernel series
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Virtual processors
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory
    #[arg(long, default_value = "2G")]
    memory: String,
    /// Seconds after which the machine is ended (exit code 124)
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Use the processor's virtualisation instead of emulation
    #[arg(long)]
    kvm: bool,
    /// Let guest time count guest instructions, so that figures repeat
    #[arg(long)]
    icount: bool,
    /// Further words for the kernel's command line
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    append: Vec<String>,
    /// Folder of this machine in which the guest may write for good
    #[arg(long, value_name = "FOLDER")]
    share: Vec<PathBuf>,
    /// Append the output to a file instead of showing it
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Shell script to run instead of a command; the command's words are its arguments
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Command and its arguments
    #[arg(last = true, required_unless_present = "script")]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match execute(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(task: Task) -> Result<ExitCode> {
    match task {
        Task::Demo(arguments) => return demo::run(&arguments),
        Task::Setup => setup::print(&setup::run(Scope::Full)?),
        Task::Build { release } => {
            let built = build::run(&setup::run(Scope::Build)?, release)?;
            for (name, bytes) in build::objects(&built.ebpf_dir)? {
                setup::progress("object", &format!("{name}, {} kB", bytes.div_ceil(1000)));
            }
            setup::progress("agent", &built.agent.display().to_string());
        }
        Task::Dist => {
            let made = dist::run(&setup::run(Scope::Build)?)?;
            setup::progress("folder", &made.folder.display().to_string());
            setup::progress("archive", &made.archive.display().to_string());
            if let Some(libc) = made.libc {
                setup::progress("needs", &format!("{libc} or newer"));
            }
        }
        Task::Vm(arguments) => return run_vm(arguments),
        Task::Bench(arguments) => return bench::run(&arguments),
        Task::Verify { kernel, update } => return run_verify(&kernel, update),
        Task::Test {
            full,
            list,
            only,
            kernel,
        } => {
            let selection = Selection {
                full,
                only,
                kernels: kernel,
            };
            if list {
                test::list(&selection)?;
            } else if !test::run(&selection)? {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_vm(arguments: VmArgs) -> Result<ExitCode> {
    let setup = setup::run(Scope::Vm(&arguments.kernel))?;
    let mut words = arguments.command;
    if let Some(script) = arguments.script {
        let script = script
            .canonicalize()
            .with_context(|| format!("no script {}", script.display()))?;
        words.splice(0..0, ["bash".to_owned(), script.display().to_string()]);
    }
    let vm = Vm {
        cpus: arguments.cpus,
        memory: arguments.memory,
        timeout: Duration::from_secs(arguments.timeout),
        kvm: arguments.kvm,
        icount: arguments.icount,
        append: arguments.append,
        share: arguments.share,
        ..Vm::new(setup.kernel(&arguments.kernel)?)?
    };
    let output = arguments.log.map_or(Output::Inherit, Output::File);
    match vm.run(&setup, &vm::command_line(&words), &output)? {
        Ended::Exited(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        Ended::TimedOut => {
            eprintln!(
                "error: not done after {} s: the virtual machine was ended",
                vm.timeout.as_secs()
            );
            Ok(ExitCode::from(124))
        }
        Ended::Died => anyhow::bail!("the virtual machine ended before the command did"),
    }
}

fn run_verify(series: &[String], update: bool) -> Result<ExitCode> {
    let setup = setup::run(Scope::All)?;
    let kernels = setup.choose(series)?;
    let built = build::run(&setup, false)?;
    let mut budget = if update {
        Budget::load().unwrap_or_default()
    } else {
        Budget::load()?
    };
    let mut verdicts = verify::run(&setup, &built.agent, &kernels, &budget)?;
    if update {
        budget.update(&verdicts);
        budget.save()?;
        verify::judge(&mut verdicts, &budget);
    }
    verify::print(&verdicts, &budget);
    let good = verdicts.iter().all(|verdict| verdict.faults.is_empty());
    let tried = verdicts.iter().any(|verdict| verdict.skipped.is_none());
    Ok(if good && tried {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
