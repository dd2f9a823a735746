//! A load on nginx while the emulator writes down what runs, and where each function of the kernel programs lies.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::{
    Files,
    agent::{Agent, in_memory},
    load,
    segment::{REST, command},
    service::{Kind, Service},
};

/// Duration of the load; the emulator makes it much longer.
const LOAD: Duration = Duration::from_secs(1);

/// They let the kernel tell where compiled programs lie (Documentation/admin-guide/sysctl/net.rst and kernel.rst).
const SWITCHES: [(&str, &str); 2] = [
    ("/proc/sys/net/core/bpf_jit_kallsyms", "1"),
    ("/proc/sys/kernel/kptr_restrict", "0"),
];

/// What to count.
#[derive(Debug, clap::Args)]
pub(crate) struct Functions {
    #[command(flatten)]
    files: Files,
    /// Where no trace is kept
    #[arg(long)]
    unsampled: bool,
}

/// What `cargo xtask bench functions` reads.
#[derive(Debug, Serialize)]
struct Found {
    /// Requests that were served while the programs were attached.
    requests: u64,
    /// Address and name of each function of a program, and of each trampoline.
    symbols: Vec<(u64, String)>,
}

/// Loads nginx with the agent attached.
///
/// # Errors
/// When the kernel does not tell where programs lie, nginx or the load generator fails, or the agent does.
pub(crate) fn run(functions: &Functions) -> Result<()> {
    let Files { agent, out, logs } = &functions.files;
    for (switch, value) in SWITCHES {
        fs::write(switch, value).with_context(|| format!("cannot write {switch}"))?;
    }
    let mut service = Service::start(Kind::Nginx, "/run".as_ref())?;
    let words: &[&str] = if functions.unsampled {
        &["run", "--sampler", "always_off"]
    } else {
        &["run"]
    };
    let binary = in_memory(agent)?;
    let agent = Agent::start(&binary, &command(words, &service), logs)?;
    thread::sleep(REST);
    let before = service.served()?;
    load::run(&service.url, LOAD, logs)?;
    let symbols = symbols()?;
    let after = service.served()?;
    agent.stop()?;
    let found = Found {
        requests: after.requests - before.requests,
        symbols,
    };
    let text = serde_json::to_string(&found)?;
    fs::write(out, text).with_context(|| format!("cannot write {}", out.display()))
}

/// Functions of programs and trampolines among the kernel's symbols.
fn symbols() -> Result<Vec<(u64, String)>> {
    let text = fs::read_to_string("/proc/kallsyms")?;
    let symbols: Vec<(u64, String)> = text
        .lines()
        .filter(|line| line.ends_with("[bpf]"))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((address, short(words.nth(1)?)))
        })
        .collect();
    ensure!(
        symbols.iter().any(|(address, _)| *address != 0),
        "/proc/kallsyms does not tell where programs lie"
    );
    Ok(symbols)
}

/// `bpf_prog_TAG_NAME` without what comes before the name; the number of a trampoline says nothing.
fn short(name: &str) -> String {
    let program = name
        .strip_prefix("bpf_prog_")
        .and_then(|rest| rest.split_once('_'));
    match program {
        Some((_, name)) => name.to_owned(),
        None => name
            .trim_end_matches(|c: char| c.is_ascii_digit() || c == '_')
            .to_owned(),
    }
}
