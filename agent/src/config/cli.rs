//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::layer::Layer;

/// Traces unmodified services from the kernel.
#[derive(Debug, Parser)]
#[command(
    name = "undertrace",
    version,
    about = "Traces unmodified services from the kernel: no code change, no restart, no sidecar.",
    max_term_width = 100,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace until Ctrl-C. Without an OTLP endpoint, print each trace as a waterfall.
    Run(Layer),
    /// Trace as `run` does, and write everything the kernel says to a file for `replay`.
    Record(Record),
    /// Push a recording through the same pipeline; needs no privileges.
    Replay(Replay),
    /// Say what this kernel offers, what is off and why, and what to do about it.
    Doctor(Doctor),
    /// Print the version.
    Version,
    /// Load every program and print what the verifier says of it.
    #[command(hide = true)]
    InternalVerify,
}

/// `undertrace record`.
#[derive(Args, Debug)]
pub struct Record {
    /// The file to create; mode 0600, it holds bytes of users.
    pub path: PathBuf,
    /// Blank payload bytes, keep lengths. A replay then knows calls by their ids only, without method, URL and status.
    #[arg(long)]
    pub strip_payload: bool,
    /// What `run` takes.
    #[command(flatten)]
    pub layer: Layer,
}

/// `undertrace replay`.
#[derive(Args, Debug)]
pub struct Replay {
    /// The recording.
    pub path: PathBuf,
    /// What `run` takes; selectors of processes do not apply.
    #[command(flatten)]
    pub layer: Layer,
}

/// `undertrace doctor`.
#[derive(Args, Debug)]
pub struct Doctor {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Say which TLS libraries the processes of this machine have, instead; attaches nothing.
    #[arg(long)]
    pub processes: bool,
    /// Where the host's /proc is mounted, for an agent in a pid namespace of its own.
    #[arg(long, value_name = "PATH", env = "UNDERTRACE_PROC_ROOT", default_value = super::PROC)]
    pub proc_root: PathBuf,
}
