//! Scenarios in VMs: which there are, which share a boot, and what became of each.
//!
//! The program `scenarios` of the crate `tests` lists them on the host and runs them inside. A boot that dies counts
//! against the scenario that was running; what comes after it goes into another boot.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{pair, tally::Outcome};
use crate::{
    paths, run,
    setup::{Kernel, Setup},
    vm::{Ended, Output, Vm, command_line},
    workloads,
};

/// Boots after which the rest of a batch is given up.
const MAX_BOOTS: usize = 4;

/// Lines of a boot's log that a failure shows.
const LOG_LINES: usize = 25;

/// A scenario as `scenarios --list --json` describes it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Scenario {
    /// Its name, beginning with its area.
    pub(super) name: String,
    /// Its tier, `core` or `full`.
    pub(super) tier: String,
    /// Virtual processors that it needs.
    pub(super) cpus: u32,
    /// Machines that it needs, on one wire: 1 or 2.
    pub(super) machines: u32,
    /// Kernel series that it is meant for; all if absent.
    #[serde(default)]
    pub(super) kernels: Option<Vec<String>>,
    /// Further words for the kernel's command line.
    #[serde(default)]
    pub(super) append: Option<String>,
}

/// Scenarios that share a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Kernel series.
    pub(super) series: String,
    /// Virtual processors.
    pub(super) cpus: u32,
    /// Machines, on one wire: 1 or 2.
    pub(super) machines: u32,
    /// Further words for the kernel's command line.
    pub(super) append: Option<String>,
    /// Names, in the order in which they run.
    pub(super) names: Vec<String>,
}

/// What became of one scenario.
#[derive(Debug)]
pub(super) struct Ran {
    /// Its name.
    pub(super) name: String,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// How long it took, if it came to an end.
    pub(super) took: Option<Duration>,
}

/// The scenarios of a tier.
///
/// # Errors
/// When the program cannot be run or prints something else.
pub(super) fn list(program: &Path, full: bool) -> Result<Vec<Scenario>> {
    let tier = if full { "full" } else { "core" };
    let text = run::output(Command::new(program).args(["--list", "--json", "--tier", tier]))?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no scenario: {line}")))
        .collect()
}

/// Puts scenarios into as few boots as possible on each kernel; the largest batches come first.
pub(super) fn batches(scenarios: &[Scenario], kernels: &[&str]) -> Vec<Batch> {
    let mut grouped: BTreeMap<(usize, u32, u32, Option<&str>), Vec<String>> = BTreeMap::new();
    for scenario in scenarios {
        for (index, series) in kernels.iter().enumerate() {
            if scenario
                .kernels
                .as_ref()
                .is_none_or(|wanted| wanted.iter().any(|k| k == series))
            {
                let key = (
                    index,
                    scenario.cpus,
                    scenario.machines,
                    scenario.append.as_deref().filter(|words| !words.is_empty()),
                );
                grouped.entry(key).or_default().push(scenario.name.clone());
            }
        }
    }
    let mut batches: Vec<Batch> = grouped
        .into_iter()
        .map(|((index, cpus, machines, append), names)| Batch {
            series: kernels[index].to_owned(),
            cpus,
            machines,
            append: append.map(str::to_owned),
            names,
        })
        .collect();
    // Two run at a time: a long one must not be left for the end.
    batches.sort_by_key(|batch| std::cmp::Reverse(batch.names.len()));
    batches
}

/// What runs a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runner<'a> {
    /// The tools.
    pub(super) setup: &'a Setup,
    /// The program `scenarios`.
    pub(super) program: &'a Path,
    /// The agent that it starts.
    pub(super) agent: &'a Path,
    /// Whether scenarios have their real size.
    pub(super) full: bool,
}

impl Runner<'_> {
    /// Runs a batch in one boot, or in several if the machine dies; hands over each result as soon as it is there.
    ///
    /// # Errors
    /// When a VM cannot be started or its folder not be made.
    pub(super) fn run(
        &self,
        kernel: &Kernel,
        batch: &Batch,
        report: &(dyn Fn(&Ran) + Sync),
    ) -> Result<()> {
        let folder = paths::target()
            .join("test-logs")
            .join(&batch.series)
            .join(batch.folder());
        run::remove_dir(&folder)?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut waiting = batch.names.clone();
        for boot in 1..=MAX_BOOTS {
            let log = folder.join(format!("boot-{boot}.log"));
            let results = folder.join(format!("results-{boot}.jsonl"));
            fs::write(&results, "")?;
            let vm = self.machine(kernel, batch, &folder, waiting.len())?;
            let shell = command(self.program, &waiting, &results);
            let ended = while_following(
                &results,
                || self.boot(&vm, batch, &shell, &log),
                |ran| {
                    waiting.retain(|name| *name != ran.name);
                    report(ran);
                },
            )?;
            if waiting.is_empty() {
                return Ok(());
            }
            let why = match ended {
                Ended::Exited(code) => {
                    format!("the scenarios ended with exit code {code} before it had a result")
                }
                Ended::TimedOut => {
                    format!(
                        "the virtual machine was ended after {} s",
                        vm.timeout.as_secs()
                    )
                }
                Ended::Died => "the virtual machine died".to_owned(),
            };
            let tail = run::tail(&fs::read_to_string(&log).unwrap_or_default(), LOG_LINES);
            let reason = format!("{why}; the end of {}:\n{tail}", log.display());
            report(&failed(waiting.remove(0), reason));
            if waiting.is_empty() {
                return Ok(());
            }
        }
        for name in waiting {
            let reason = format!("not run: the virtual machine ended early {MAX_BOOTS} times");
            report(&failed(name, reason));
        }
        Ok(())
    }

    /// Runs the machine, and a second one beside it where the batch needs two.
    fn boot(&self, vm: &Vm<'_>, batch: &Batch, shell: &str, log: &Path) -> Result<Ended> {
        let output = Output::File(log.to_owned());
        if batch.machines == 1 {
            return vm.run(self.setup, shell, &output);
        }
        let other = command_line(&[
            self.program.display().to_string(),
            "--other-machine".to_owned(),
        ]);
        let beside = Output::File(log.with_extension("other.log"));
        pair::run(self.setup, vm, [(shell, &output), (&other, &beside)])
    }

    fn machine<'k>(
        &self,
        kernel: &'k Kernel,
        batch: &Batch,
        folder: &Path,
        scenarios: usize,
    ) -> Result<Vm<'k>> {
        // Boot and a first start of everything, then a generous share for each; a scenario has its own, tighter limit.
        let each = if self.full { 300 } else { 150 };
        let append = batch.append.as_deref().unwrap_or_default();
        Ok(Vm {
            cpus: batch.cpus,
            timeout: Duration::from_secs(180 + each * scenarios as u64),
            append: append.split_whitespace().map(str::to_owned).collect(),
            share: vec![folder.to_owned()],
            env: vec![
                (
                    "UNDERTRACE_BIN".to_owned(),
                    self.agent.display().to_string(),
                ),
                ("UNDERTRACE_KERNEL".to_owned(), batch.series.clone()),
                (
                    "UNDERTRACE_WORKLOADS".to_owned(),
                    workloads::folder().display().to_string(),
                ),
            ],
            ..Vm::new(kernel)?
        })
    }
}

fn failed(name: String, reason: String) -> Ran {
    Ran {
        name,
        outcome: Outcome::Failed(reason),
        took: None,
    }
}

/// Does `work` on a thread of its own and meanwhile hands over each report that appears in the file.
fn while_following<T: Send>(
    results: &Path,
    work: impl FnOnce() -> T + Send,
    mut report: impl FnMut(&Ran),
) -> T {
    let mut seen = 0;
    let mut hand_over = || {
        let text = fs::read_to_string(results).unwrap_or_default();
        // A line without its end is still being written.
        let whole = text.rfind('\n').map_or(0, |end| end + 1).max(seen);
        read_reports(&text[seen..whole])
            .iter()
            .for_each(&mut report);
        seen = whole;
    };
    let result = thread::scope(|threads| {
        let worker = threads.spawn(work);
        while !worker.is_finished() {
            hand_over();
            thread::sleep(Duration::from_millis(200));
        }
        worker.join()
    });
    hand_over();
    match result {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Batch {
    /// A name for the folder of its logs.
    fn folder(&self) -> PathBuf {
        let append: String = self
            .append
            .iter()
            .flat_map(|words| words.chars())
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let mut name = "scenarios".to_owned();
        if self.machines > 1 {
            name.push_str(&format!("-{}-machines", self.machines));
        }
        if self.cpus > 1 || !append.is_empty() {
            name.push_str(&format!("-{}-cpus", self.cpus));
        }
        if !append.is_empty() {
            name.push_str(&format!("-{append}"));
        }
        name.into()
    }
}

fn command(program: &Path, names: &[String], results: &Path) -> String {
    let mut words = vec![program.display().to_string(), "--run".to_owned()];
    words.extend(names.iter().cloned());
    words.extend(["--results".to_owned(), results.display().to_string()]);
    command_line(&words)
}

/// The reports in a text, one line of JSON each.
fn read_reports(text: &str) -> Vec<Ran> {
    #[derive(Deserialize)]
    struct Report {
        name: String,
        outcome: String,
        #[serde(default)]
        reason: Option<String>,
        seconds: f64,
    }
    let reports = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Report>(line).ok());
    reports
        .map(|report| {
            let reason = report.reason.unwrap_or_default();
            let outcome = match report.outcome.as_str() {
                "passed" => Outcome::Passed,
                "refused" => Outcome::Refused(reason),
                "skipped" => Outcome::Skipped(reason),
                _ => Outcome::Failed(reason),
            };
            Ran {
                name: report.name,
                outcome,
                took: Duration::try_from_secs_f64(report.seconds).ok(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str, cpus: u32, kernels: Option<&[&str]>, append: Option<&str>) -> Scenario {
        Scenario {
            name: name.to_owned(),
            tier: "core".to_owned(),
            cpus,
            machines: 1,
            kernels: kernels.map(|kernels| kernels.iter().map(|&k| k.to_owned()).collect()),
            append: append.map(str::to_owned),
        }
    }

    #[test]
    fn scenarios_share_a_boot_unless_they_need_another_machine() {
        let scenarios = [
            scenario("http1_a", 1, None, None),
            scenario("http1_b", 1, None, Some("")),
            scenario("safety_race", 2, Some(&["6.12"]), None),
            scenario("safety_preempt", 1, Some(&["6.12"]), Some("preempt=full")),
            Scenario {
                machines: 2,
                ..scenario("context_c", 1, Some(&["6.12"]), None)
            },
        ];
        let found = batches(&scenarios, &["5.10", "6.12"]);
        let brief: Vec<_> = found
            .iter()
            .map(|b| {
                (
                    b.series.as_str(),
                    b.cpus,
                    b.machines,
                    b.append.as_deref(),
                    b.names.len(),
                )
            })
            .collect();
        assert_eq!(
            brief,
            [
                ("5.10", 1, 1, None, 2),
                ("6.12", 1, 1, None, 2),
                ("6.12", 1, 1, Some("preempt=full"), 1),
                ("6.12", 1, 2, None, 1),
                ("6.12", 2, 1, None, 1),
            ]
        );
        assert_eq!(found[0].names, ["http1_a", "http1_b"]);
        assert_eq!(
            found[2].folder(),
            Path::new("scenarios-1-cpus-preempt-full")
        );
        assert_eq!(found[3].folder(), Path::new("scenarios-2-machines"));
    }

    #[test]
    fn a_scenario_for_absent_kernels_is_in_no_batch() {
        assert!(batches(&[scenario("a", 1, Some(&["7.2"]), None)], &["5.10"]).is_empty());
    }

    #[test]
    fn reports_are_handed_over_once_and_whole() {
        let file = std::env::temp_dir().join(format!("xtask-results-{}.jsonl", std::process::id()));
        let line = |name: &str, outcome: &str| {
            format!(
                "{{\"name\":\"{name}\",\"outcome\":\"{outcome}\",\"reason\":\"why\",\"seconds\":1.5}}\n"
            )
        };
        fs::write(&file, line("a", "passed")).expect("the folder for temporary files is writable");
        let mut seen = Vec::new();
        while_following(
            &file,
            || {
                let more = [
                    line("a", "passed"),
                    line("b", "failed"),
                    line("c", "skipped"),
                    line("r", "refused"),
                    "{\"name\":\"d".to_owned(),
                ];
                fs::write(&file, more.concat()).expect("the file is writable");
            },
            |ran| seen.push((ran.name.clone(), ran.outcome.clone())),
        );
        fs::remove_file(&file).expect("the file is there");
        assert_eq!(
            seen,
            [
                ("a".to_owned(), Outcome::Passed),
                ("b".to_owned(), Outcome::Failed("why".to_owned())),
                ("c".to_owned(), Outcome::Skipped("why".to_owned())),
                ("r".to_owned(), Outcome::Refused("why".to_owned())),
            ]
        );
    }

    #[test]
    fn listed_scenarios_parse() {
        let line = r#"{"name":"http1_keepalive","tier":"core","cpus":1,"machines":1,"kernels":null,"append":null}"#;
        assert_eq!(
            serde_json::from_str::<Scenario>(line).expect("it is what the list prints"),
            scenario("http1_keepalive", 1, None, None)
        );
    }
}
