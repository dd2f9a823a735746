//! The binary: reads the command line, calls the library, says in one sentence what went wrong.

use std::{io, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use undertrace::{
    config::{Cli, Command, Config, ConfigError, Layer},
    doctor,
    probe::{error::ProbeError, verify},
    run::{self, RunError},
    telemetry::log,
};

/// The command line or the configuration cannot be used; clap's own code for it.
const USAGE: u8 = 2;
/// This machine, or this user, cannot trace.
const CANNOT_RUN_HERE: u8 = 3;

fn main() -> ExitCode {
    // Ends with code 2 on what it does not know, and prints help and version.
    let cli = Cli::parse();
    log::init();
    match execute(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("undertrace: {error:#}");
            exit_code(&error)
        }
    }
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(layer) => run::run(&resolve(layer)?, None)?,
        Command::Record(record) => {
            let config = resolve(record.layer)?;
            run::run(&config, Some((&record.path, record.strip_payload)))?;
        }
        Command::Replay(replay) => run::replay(&replay.path, &resolve(replay.layer)?)?,
        Command::Doctor(options) if options.processes => {
            anyhow::ensure!(
                options.proc_root.join("self").symlink_metadata().is_ok(),
                "{} is no /proc: say with --proc-root where it is mounted",
                options.proc_root.display()
            );
            let mut out = io::stdout().lock();
            doctor::processes::run(&options.proc_root, options.json, &mut out)
                .context("cannot print the report")?;
        }
        Command::Doctor(options) => {
            let works = doctor::run(&options.proc_root, options.json, &mut io::stdout().lock())
                .context("cannot print the report")?;
            return Ok(if works {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(CANNOT_RUN_HERE)
            });
        }
        Command::Version => println!("undertrace {}", env!("CARGO_PKG_VERSION")),
        Command::InternalVerify => {
            let all_load = verify::run(&mut io::stdout().lock()).context("cannot verify")?;
            return Ok(if all_load {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn resolve(layer: Layer) -> Result<Config, ConfigError> {
    Config::resolve(layer, &|name| std::env::var(name).ok())
}

/// 2 for a configuration that cannot be used, 3 where this machine cannot trace, 1 for everything else.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_config = error.is::<ConfigError>()
        || matches!(
            error.downcast_ref(),
            Some(RunError::Otlp(_) | RunError::Metrics(_))
        );
    let is_machine = error.is::<ProbeError>()
        || matches!(error.downcast_ref(), Some(RunError::Probe(_)))
        || matches!(error.downcast_ref(), Some(verify::VerifyError::Probe(_)));
    if is_config {
        ExitCode::from(USAGE)
    } else if is_machine {
        ExitCode::from(CANNOT_RUN_HERE)
    } else {
        ExitCode::FAILURE
    }
}
