//! Measures what the agent costs, inside a virtual machine in which guest time counts guest instructions.
//!
//! Input: the agent's binary and the object with the empty pair of programs. Output: one line of JSON per segment (see
//! [`segment::Segment`]) in a file; `cargo xtask bench` starts this and makes figures of the lines. A segment is one run of a load
//! generator against one service, in one setting: nothing attached, the empty pair, the agent, or the agent while the kernel
//! measures each program run. It computes no figure itself.

mod agent;
mod functions;
mod load;
mod process;
mod programs;
mod scale;
mod segment;
mod service;
mod sink;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures what the agent costs; runs in a virtual machine.
#[derive(Debug, Parser)]
#[command(name = "loadlab")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run every segment and write one line of JSON for each
    Measure(Measure),
    /// Many connections and processes at once, and what the agent holds and loses
    Scale(Scale),
    /// A load on nginx while the emulator writes down what runs
    Functions(functions::Functions),
    /// Serve HTTP on a port of all addresses; print how many requests were served when standard input ends
    Serve { port: u16 },
    /// Open connections to a port, make a request on each, print `ready`, and keep them until standard input ends
    Hold {
        port: u16,
        connections: u32,
        number: u32,
    },
    /// Accept OTLP over HTTP, drop it unread, count its spans when standard input ends
    Sink,
}

/// What to measure.
#[derive(Debug, clap::Args)]
struct Measure {
    /// The agent; without it only the settings without an agent are measured
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Object with the empty pair of programs
    #[arg(long, value_name = "FILE")]
    empty: PathBuf,
    /// File for the lines
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Folder for the agent's logs
    #[arg(long, value_name = "FOLDER")]
    logs: PathBuf,
    /// Only services whose name contains this
    #[arg(long, value_name = "PATTERN", default_value = "")]
    only: String,
    /// Rounds; each has one segment of every setting
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Guest seconds of load per segment
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

/// What is measured, and where the result goes.
#[derive(Debug, clap::Args)]
struct Files {
    /// The agent
    #[arg(long, value_name = "FILE")]
    agent: PathBuf,
    /// File for the result, one JSON object
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Folder for the agent's logs
    #[arg(long, value_name = "FOLDER")]
    logs: PathBuf,
}

/// What to measure at scale.
#[derive(Debug, clap::Args)]
struct Scale {
    #[command(flatten)]
    files: Files,
    /// Processes that hold idle connections
    #[arg(long, default_value_t = 500)]
    processes: u32,
    /// Idle connections in all
    #[arg(long, default_value_t = 20_000)]
    connections: u32,
    /// New connections a second
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// Guest seconds of new connections
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Measure(measure) => {
            let lab = segment::Lab {
                agent: measure.agent.as_deref().map(agent::in_memory).transpose()?,
                empty: measure.empty,
                logs: measure.logs,
                duration: Duration::from_secs(measure.seconds),
            };
            lab.measure(&measure.only, measure.rounds, &measure.out)
        }
        Task::Scale(size) => scale::run(&size),
        Task::Functions(functions) => functions::run(&functions),
        Task::Serve { port } => scale::serve(port),
        Task::Hold {
            port,
            connections,
            number,
        } => scale::hold(port, connections, number),
        Task::Sink => sink::run(),
    }
}
