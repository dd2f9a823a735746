//! The committed figures: `xtask/bench-baseline.json`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::figures::Figures;
use crate::paths;

/// A figure may always grow by this part of itself: another build of the compiler or of the kernel moves it.
const TOLERANCE: f64 = 0.05;

/// Runs and records per request beyond this are another number of them; below, they belong to connections.
const COUNT_TOLERANCE: f64 = 0.02;

/// Figures that the agent is held to.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// Kernel series that they were measured on.
    kernel: String,
    /// By service.
    services: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Instructions added per request, or per second where there are no requests.
    added: f64,
    /// Runs of kernel programs at sends and receives.
    runs: f64,
    /// Ring-buffer records.
    records: f64,
}

/// What a comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// One line per service.
    pub(super) notes: Vec<String>,
    /// What is worse than it may be.
    pub(super) faults: Vec<String>,
}

impl Baseline {
    /// Reads the committed figures.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub(super) fn load() -> Result<Self> {
        let path = path();
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}: `cargo xtask bench --update` writes it",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Reads the committed figures if they are of this kernel, or begins anew.
    ///
    /// # Errors
    /// When the file is damaged.
    pub(super) fn load_or_empty(kernel: &str) -> Result<Self> {
        let empty = Self {
            kernel: kernel.to_owned(),
            services: BTreeMap::new(),
        };
        if !path().exists() {
            return Ok(empty);
        }
        let found = Self::load()?;
        Ok(if found.kernel == kernel { found } else { empty })
    }

    /// Writes the figures.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn save(&self) -> Result<()> {
        let path = path();
        fs::write(&path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// # Errors
    /// When the figures are of another kernel.
    pub(super) fn is_for(&self, kernel: &str) -> Result<()> {
        ensure!(
            self.kernel == kernel,
            "the committed figures are of kernel {}, not of {kernel}",
            self.kernel
        );
        Ok(())
    }

    /// These figures with those of the measured services replaced.
    pub(super) fn updated(mut self, figures: &[Figures]) -> Self {
        for figures in figures {
            if let Some(entry) = Entry::of(figures) {
                self.services.insert(figures.service.clone(), entry);
            }
        }
        self
    }

    /// Compares: instructions within five percent or twice the spread of the rounds, counts exactly.
    pub(super) fn compare(&self, figures: &[Figures]) -> Comparison {
        let mut comparison = Comparison::default();
        for figures in figures {
            let (Some(now), Some(agent)) = (Entry::of(figures), &figures.agent) else {
                continue;
            };
            let service = &figures.service;
            let Some(then) = self.services.get(service) else {
                comparison.faults.push(format!(
                    "{service}: no committed figures; `cargo xtask bench --update` adds them"
                ));
                continue;
            };
            let allowed = (then.added * TOLERANCE).max(2.0 * agent.added.spread);
            let line = format!(
                "{service}: {:.0} instructions added, committed are {:.0} ± {allowed:.0}",
                now.added, then.added
            );
            if now.added > then.added + allowed {
                comparison.faults.push(line);
            } else if now.added < then.added - allowed {
                comparison.notes.push(format!(
                    "{line}: better, `cargo xtask bench --update` keeps it so"
                ));
            } else {
                comparison.notes.push(line);
            }
            for (what, now, then) in [
                ("program runs", now.runs, then.runs),
                ("records", now.records, then.records),
            ] {
                if (now - then).abs() > COUNT_TOLERANCE {
                    comparison.faults.push(format!(
                        "{service}: {now:.2} {what}, committed are {then:.2}"
                    ));
                }
            }
        }
        comparison
    }
}

impl Entry {
    fn of(figures: &Figures) -> Option<Self> {
        let agent = figures.agent.as_ref()?;
        // A sum of nothing is -0.
        let hundredths = |value: f64| (value * 100.0).round() / 100.0 + 0.0;
        Some(Self {
            added: agent.added.value.round(),
            runs: hundredths(agent.data_runs),
            records: hundredths(agent.records),
        })
    }
}

fn path() -> PathBuf {
    paths::workspace().join("xtask/bench-baseline.json")
}

#[cfg(test)]
mod tests {
    use super::{
        super::figures::{AgentFigures, Median},
        *,
    };

    fn figures(added: f64, spread: f64, runs: f64) -> Vec<Figures> {
        let agent = AgentFigures {
            added: Median {
                value: added,
                spread,
            },
            data_runs: runs,
            records: 2.0,
            ..AgentFigures::default()
        };
        vec![Figures {
            service: "nginx".to_owned(),
            agent: Some(agent),
            ..Figures::default()
        }]
    }

    fn baseline() -> Baseline {
        Baseline {
            kernel: "6.12".to_owned(),
            services: BTreeMap::new(),
        }
        .updated(&figures(10_000.0, 0.0, 4.0))
    }

    #[test]
    fn allows_the_larger_of_five_percent_and_twice_the_spread() {
        let faults = |added, spread| {
            baseline()
                .compare(&figures(added, spread, 4.0))
                .faults
                .len()
        };
        assert_eq!(faults(10_500.0, 100.0), 0);
        assert_eq!(faults(10_501.0, 100.0), 1);
        assert_eq!(faults(10_800.0, 400.0), 0);
        assert_eq!(faults(10_801.0, 400.0), 1);
        assert_eq!(faults(5_000.0, 0.0), 0, "cheaper is no fault");
    }

    #[test]
    fn another_run_per_request_is_a_fault() {
        assert_eq!(
            baseline().compare(&figures(10_000.0, 0.0, 4.01)).faults,
            Vec::<String>::new()
        );
        assert_eq!(
            baseline().compare(&figures(10_000.0, 0.0, 4.25)).faults,
            ["nginx: 4.25 program runs, committed are 4.00"]
        );
        assert_eq!(
            baseline()
                .compare(&figures(10_000.0, 0.0, 3.0))
                .faults
                .len(),
            1,
            "fewer must be committed too"
        );
    }

    #[test]
    fn a_service_without_committed_figures_is_a_fault() {
        let mut unknown = figures(1.0, 0.0, 1.0);
        unknown[0].service = "other".to_owned();
        assert_eq!(baseline().compare(&unknown).faults.len(), 1);
    }
}
