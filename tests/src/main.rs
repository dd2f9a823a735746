//! Scenarios: real servers and clients in real languages, watched by the built `undertrace` binary, its spans received over OTLP and
//! compared with what the workload did.
//!
//! Runs as root inside a virtual machine (`cargo xtask test` starts it there). Input: names of scenarios. Output: one line of JSON for
//! each. It loads no kernel program itself: only the agent that it starts does.

mod demo;
mod harness;
mod runner;
mod scenario;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;

use crate::scenario::Tier;

/// Runs scenarios, or lists them.
#[derive(Debug, Parser)]
#[command(name = "scenarios")]
struct Arguments {
    /// List the scenarios instead of running any
    #[arg(long, conflicts_with_all = ["run", "demo"])]
    list: bool,
    /// Tier to list: `core`, or `full` for everything
    #[arg(long, default_value = "full")]
    tier: Tier,
    /// One line of JSON per scenario instead of a name
    #[arg(long)]
    json: bool,
    /// Scenarios to run
    #[arg(long, num_args = 1.., value_name = "NAME")]
    run: Vec<String>,
    /// File that gets one line of JSON per scenario run
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Run one scenario in this process (what `--run` starts for each)
    #[arg(long, hide = true, value_name = "NAME")]
    one: Option<String>,
    /// Do what scenarios need a second machine for, until it is ended
    #[arg(long, conflicts_with_all = ["run", "list", "demo"])]
    other_machine: bool,
    /// Run the demonstration: the shop, the agent, some requests
    #[arg(long)]
    demo: bool,
    /// File that gets the demonstration's spans as OTLP JSON lines
    #[arg(long, value_name = "FILE")]
    spans: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        scenario::list(arguments.tier, arguments.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(name) = &arguments.one {
        return Ok(runner::run_here(name, arguments.results.as_deref()));
    }
    if arguments.other_machine {
        return runner::serve_first_machine();
    }
    if arguments.demo {
        return demo::run(arguments.spans.as_deref());
    }
    runner::run_all(&arguments.run, arguments.results.as_deref())
}
