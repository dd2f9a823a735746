//! `cargo xtask demo`: a shop of unmodified services, the agent, a handful of requests, each printed as a waterfall.
//!
//! Input: nothing. Output: what the program `scenarios --demo` prints, and the spans as OTLP JSON lines in
//! `target/demo/spans.jsonl`. By default all of it runs in a virtual machine; this machine's kernel is used only with
//! `--host`.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build, paths, run,
    setup::{self, Scope},
    vm::{self, Ended, Output, Vm},
};

/// Far more than boot, shop and requests need on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Where the demonstration runs.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Run in a virtual machine (the default)
    #[arg(long, conflicts_with = "host")]
    vm: bool,
    /// Run on this machine: attaches to its kernel, needs root
    #[arg(long)]
    host: bool,
    /// Kernel series of the virtual machine
    #[arg(
        long,
        value_name = "SERIES",
        default_value = "6.12",
        conflicts_with = "host"
    )]
    kernel: String,
}

/// Builds what is needed and runs the demonstration.
///
/// # Errors
/// When something cannot be had, built or started.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let scope = if arguments.host {
        Scope::Build
    } else {
        Scope::Demo(&arguments.kernel)
    };
    let setup = setup::run(scope)?;
    setup::progress("build", "kernel programs, agent, demonstration");
    let built = build::run(&setup, false)?;
    run::streamed(run::cargo().current_dir(paths::workspace()).args([
        "build",
        "--quiet",
        "--package",
        "tests",
        "--bin",
        "scenarios",
    ]))?;
    let program = paths::target().join("debug/scenarios");
    let folder = paths::target().join("demo");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let spans = folder.join("spans.jsonl");
    let words = [
        program.display().to_string(),
        "--demo".to_owned(),
        "--spans".to_owned(),
        spans.display().to_string(),
    ];
    if arguments.host {
        return on_this_machine(&words, &built.agent);
    }
    setup::progress("vm", &format!("booting Linux {}", arguments.kernel));
    let machine = Vm {
        timeout: TIMEOUT,
        share: vec![folder],
        env: vec![(
            "UNDERTRACE_BIN".to_owned(),
            built.agent.display().to_string(),
        )],
        ..Vm::new(setup.kernel(&arguments.kernel)?)?
    };
    match machine.run(&setup, &vm::command_line(&words), &Output::Inherit)? {
        Ended::Exited(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        Ended::TimedOut => bail!(
            "not done after {} s: the virtual machine was ended",
            TIMEOUT.as_secs()
        ),
        Ended::Died => bail!("the virtual machine ended before the demonstration did"),
    }
}

/// The user asked for this machine's own kernel: as root, or through sudo.
fn on_this_machine(words: &[String], agent: &Path) -> Result<ExitCode> {
    let mut command = if run::is_root() {
        Command::new(&words[0])
    } else if run::find_program("sudo").is_some() {
        setup::progress(
            "root",
            "attaching to this machine's kernel needs root: sudo may ask for your password",
        );
        let mut sudo = Command::new("sudo");
        sudo.arg(format!("UNDERTRACE_BIN={}", agent.display()))
            .arg(&words[0]);
        sudo
    } else {
        bail!(
            "attaching to this machine's kernel needs root: become root and try again, or leave --host away"
        );
    };
    let status = command
        .args(&words[1..])
        .env("UNDERTRACE_BIN", agent)
        .status()
        .context("cannot start the demonstration")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
