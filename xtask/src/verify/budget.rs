//! What each kernel program may cost: the committed file `xtask/verify-budget.json`.
//!
//! It holds, for each program and kernel series, the figures of the day on which it was written. A figure may grow by
//! a tenth before it counts as over budget, so that another point release of a kernel is no failure.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Measurement, Verdict};
use crate::paths;

/// Figures of all programs on all kernels.
#[derive(Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Budget {
    /// By program, then by kernel series.
    programs: BTreeMap<String, BTreeMap<String, Figures>>,
}

/// What one program costs on one kernel.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
struct Figures {
    /// Instructions that the verifier processed.
    processed: u64,
    /// Bytes of stack.
    stack_bytes: u64,
    /// Bytes after the verifier's rewriting.
    xlated_bytes: u64,
}

impl Budget {
    /// Reads the committed budget.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub(crate) fn load() -> Result<Self> {
        let path = path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Writes the budget.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self) -> Result<()> {
        let path = path();
        fs::write(&path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Takes over what was measured. Kernels that were not measured keep their figures; programs that exist nowhere
    /// any more leave.
    pub(crate) fn update(&mut self, verdicts: &[Verdict]) {
        for verdict in verdicts.iter().filter(|verdict| verdict.skipped.is_none()) {
            for kernels in self.programs.values_mut() {
                kernels.remove(&verdict.series);
            }
            for measurement in &verdict.measured {
                if let Some(figures) = figures(measurement) {
                    let kernels = self.programs.entry(measurement.name()).or_default();
                    kernels.insert(verdict.series.clone(), figures);
                }
            }
        }
        self.programs.retain(|_, kernels| !kernels.is_empty());
    }

    /// What is wrong with the measurements of one kernel: refused, over budget, or without one.
    pub(crate) fn faults(&self, series: &str, measured: &[Measurement]) -> Vec<String> {
        let mut faults = Vec::new();
        for measurement in measured
            .iter()
            .filter(|measurement| measurement.skipped.is_none())
        {
            let name = measurement.name();
            if let Some(error) = &measurement.error {
                let last = error.lines().last().unwrap_or_default();
                faults.push(format!("{name} is refused: {last}"));
                continue;
            }
            let Some(now) = figures(measurement) else {
                faults.push(format!("{name} has no figures"));
                continue;
            };
            let Some(then) = self
                .programs
                .get(&name)
                .and_then(|kernels| kernels.get(series))
            else {
                faults.push(format!("{name} has no budget: cargo xtask verify --update"));
                continue;
            };
            for (what, now, then) in [
                ("processed instructions", now.processed, then.processed),
                ("bytes of stack", now.stack_bytes, then.stack_bytes),
                ("bytes of program", now.xlated_bytes, then.xlated_bytes),
            ] {
                if now > limit(then) {
                    faults.push(format!(
                        "{name} is over budget: {now} {what}, at most {}",
                        limit(then)
                    ));
                }
            }
        }
        faults
    }

    /// The most instructions that the verifier may process for a program, over all kernels.
    pub(crate) fn processed_limit(&self, name: &str) -> Option<u64> {
        self.programs
            .get(name)?
            .values()
            .map(|figures| limit(figures.processed))
            .max()
    }
}

/// What a figure may grow to: a tenth more, rounded up.
fn limit(figure: u64) -> u64 {
    figure + figure.div_ceil(10)
}

fn figures(measurement: &Measurement) -> Option<Figures> {
    if measurement.error.is_some() || measurement.skipped.is_some() {
        return None;
    }
    Some(Figures {
        processed: measurement.processed?,
        stack_bytes: measurement.stack_bytes?,
        xlated_bytes: measurement.xlated_bytes?,
    })
}

fn path() -> PathBuf {
    paths::workspace().join("xtask/verify-budget.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(program: &str, processed: u64) -> Measurement {
        Measurement {
            object: "capture".to_owned(),
            program: program.to_owned(),
            processed: Some(processed),
            stack_bytes: Some(100),
            xlated_bytes: Some(800),
            ..Measurement::default()
        }
    }

    fn verdict(series: &str, measured: Vec<Measurement>) -> Verdict {
        Verdict {
            series: series.to_owned(),
            measured,
            trouble: None,
            faults: Vec::new(),
            skipped: None,
        }
    }

    fn budget_of(series: &str, processed: u64) -> Budget {
        let mut budget = Budget::default();
        budget.update(&[verdict(series, vec![measured("send", processed)])]);
        budget
    }

    #[test]
    fn a_tenth_more_is_within_budget_and_beyond_is_not() {
        let budget = budget_of("6.12", 1000);
        assert_eq!(
            budget.faults("6.12", &[measured("send", 1100)]),
            Vec::<String>::new()
        );
        assert_eq!(
            budget.faults("6.12", &[measured("send", 1101)]),
            ["capture/send is over budget: 1101 processed instructions, at most 1100"]
        );
    }

    #[test]
    fn refused_and_unknown_programs_are_faults_and_skipped_ones_are_not() {
        let budget = budget_of("6.12", 1000);
        let refused = Measurement {
            error: Some("0: r1\nR3 unbounded".to_owned()),
            ..measured("send", 0)
        };
        assert_eq!(
            budget.faults("6.12", &[refused]),
            ["capture/send is refused: R3 unbounded"]
        );
        let skipped = Measurement {
            skipped: Some("no hook".to_owned()),
            ..measured("splice", 0)
        };
        assert!(budget.faults("6.12", &[skipped]).is_empty());
        assert_eq!(
            budget.faults("5.10", &[measured("send", 1)]),
            ["capture/send has no budget: cargo xtask verify --update"]
        );
    }

    #[test]
    fn a_program_without_figures_is_a_fault() {
        let silent = Measurement {
            processed: None,
            ..measured("send", 0)
        };
        assert_eq!(
            budget_of("6.12", 1000).faults("6.12", &[silent]),
            ["capture/send has no figures"]
        );
    }

    #[test]
    fn update_keeps_other_kernels_and_drops_programs_that_are_gone() {
        let mut budget = budget_of("6.12", 1000);
        budget.update(&[verdict(
            "5.10",
            vec![measured("send", 2000), measured("old", 1)],
        )]);
        budget.update(&[verdict("5.10", vec![measured("send", 2100)])]);
        assert_eq!(budget.processed_limit("capture/send"), Some(2310));
        assert_eq!(budget.processed_limit("capture/old"), None);
        assert!(budget.faults("6.12", &[measured("send", 1000)]).is_empty());
    }

    #[test]
    fn update_leaves_a_skipped_kernel_alone() {
        let mut budget = budget_of("6.12", 1000);
        budget.update(&[Verdict {
            skipped: Some("gone".to_owned()),
            ..verdict("6.12", Vec::new())
        }]);
        assert!(budget.faults("6.12", &[measured("send", 1000)]).is_empty());
    }

    #[test]
    fn the_committed_budget_parses() {
        Budget::load().expect("xtask/verify-budget.json parses");
    }
}
