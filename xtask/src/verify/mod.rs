//! `cargo xtask verify`: loads every kernel program on every kernel of the matrix and holds its cost against a budget.
//!
//! In each kernel's VM the agent's hidden command `internal-verify` loads the programs and prints one line of JSON for
//! each, a [`Measurement`]. What the verifier had to do for it, its stack and its size are compared with
//! `xtask/verify-budget.json`. Attaching is no part of this.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{
    paths,
    setup::{Kernel, MissingKernel, Setup},
    vm::{Ended, Output, Vm, command_line, two_at_a_time},
};

mod budget;
mod table;

pub(crate) use budget::Budget;

/// Time for booting and loading every program.
const TIMEOUT: Duration = Duration::from_secs(600);

/// What the agent says of one program on one kernel: a line of `undertrace internal-verify`.
///
/// ```json
/// {"object":"capture","program":"inet_sendmsg_enter","processed":1234,"stack_bytes":312,"xlated_bytes":2304,"states":40}
/// {"object":"capture","program":"inet_recvmsg_exit","error":"R3 unbounded memory access"}
/// {"object":"tls","program":"ssl_write_enter","skipped":"uprobe attach cookies need 5.15"}
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Measurement {
    /// The object that the program stands in: a binary target of agent-ebpf.
    pub(crate) object: String,
    /// The program.
    pub(crate) program: String,
    /// Instructions that the verifier processed, over all paths.
    #[serde(default)]
    pub(crate) processed: Option<u64>,
    /// Bytes of stack, summed over the frames of the deepest call chain.
    #[serde(default)]
    pub(crate) stack_bytes: Option<u64>,
    /// Bytes of the program after the verifier's rewriting.
    #[serde(default)]
    pub(crate) xlated_bytes: Option<u64>,
    /// Why the kernel refused it.
    #[serde(default)]
    pub(crate) error: Option<String>,
    /// Why it was not tried on this kernel.
    #[serde(default)]
    pub(crate) skipped: Option<String>,
}

impl Measurement {
    /// The name under which it stands in table and budget.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.object, self.program)
    }
}

/// How one kernel did.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The kernel's series.
    pub(crate) series: String,
    /// What was measured on it.
    pub(crate) measured: Vec<Measurement>,
    /// Why the measuring itself went wrong, if it did.
    pub(crate) trouble: Option<String>,
    /// What is wrong, one line each; empty when all is well.
    pub(crate) faults: Vec<String>,
    /// Why the kernel was not tried.
    pub(crate) skipped: Option<String>,
}

/// Verifies the agent's programs on these kernels, two at a time, against a budget.
///
/// # Errors
/// When a VM cannot be started. A refused program is a fault in the verdict.
pub(crate) fn run(
    setup: &Setup,
    agent: &Path,
    kernels: &[&Result<Kernel, MissingKernel>],
    budget: &Budget,
) -> Result<Vec<Verdict>> {
    let verdicts = two_at_a_time(kernels, |kernel| match kernel {
        Ok(kernel) => verify_on(setup, agent, kernel),
        Err(missing) => Ok(Verdict {
            series: missing.series.clone(),
            measured: Vec::new(),
            trouble: None,
            faults: Vec::new(),
            skipped: Some(missing.reason.clone()),
        }),
    });
    let mut verdicts = verdicts.into_iter().collect::<Result<Vec<_>>>()?;
    judge(&mut verdicts, budget);
    Ok(verdicts)
}

/// Finds the faults of each verdict anew.
pub(crate) fn judge(verdicts: &mut [Verdict], budget: &Budget) {
    for verdict in verdicts.iter_mut() {
        verdict.faults = budget.faults(&verdict.series, &verdict.measured);
        verdict.faults.extend(verdict.trouble.clone());
    }
}

/// Prints a table of all programs on all kernels.
pub(crate) fn print(verdicts: &[Verdict], budget: &Budget) {
    print!("{}", table::render(verdicts, budget));
}

fn verify_on(setup: &Setup, agent: &Path, kernel: &Kernel) -> Result<Verdict> {
    let folder = paths::target().join("test-logs").join(&kernel.series);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (lines, log) = (folder.join("verify.jsonl"), folder.join("verify.log"));
    for file in [&lines, &log] {
        fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let vm = Vm {
        timeout: TIMEOUT,
        share: vec![folder],
        ..Vm::new(kernel)?
    };
    let words = [agent.display().to_string(), "internal-verify".to_owned()];
    let shell = format!(
        "{} > {}",
        command_line(&words),
        command_line(&[lines.display().to_string()])
    );
    let ended = vm.run(setup, &shell, &Output::File(log.clone()))?;
    let measured = parse(&fs::read_to_string(&lines)?);

    let last_words = || {
        fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned()
    };
    let trouble = match ended {
        Ended::Exited(0) if measured.is_empty() => Some("the agent named no program".to_owned()),
        Ended::Exited(0) => None,
        // Its way to say that a program is refused, which is a fault of its own.
        Ended::Exited(1) if measured.iter().any(|program| program.error.is_some()) => None,
        Ended::Exited(code) => Some(format!(
            "the agent ended with exit code {code}: {}",
            last_words()
        )),
        Ended::TimedOut => Some(format!("not done after {} s", TIMEOUT.as_secs())),
        Ended::Died => Some(format!("the virtual machine died: {}", last_words())),
    };
    Ok(Verdict {
        series: kernel.series.clone(),
        measured,
        trouble,
        faults: Vec::new(),
        skipped: None,
    })
}

/// The measurements among the agent's lines; others, such as its log, are left out.
fn parse(text: &str) -> Vec<Measurement> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_measurement_are_left_out() {
        let text = "INFO starting\n\
            {\"object\":\"capture\",\"program\":\"a\",\"processed\":10,\"stack_bytes\":8,\"xlated_bytes\":80,\"states\":2}\n\
            {\"truncated\n\
            {\"object\":\"capture\",\"program\":\"b\",\"error\":\"refused\"}\n";
        let measured = parse(text);
        assert_eq!(measured.len(), 2);
        assert_eq!(
            (measured[0].name().as_str(), measured[0].processed),
            ("capture/a", Some(10))
        );
        assert_eq!(measured[1].error.as_deref(), Some("refused"));
    }
}
