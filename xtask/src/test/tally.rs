//! Counts results, prints a line for each, and the closing summary.

use std::{collections::BTreeMap, time::Duration};

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every assertion held.
    Passed,
    /// Something is wrong: why, and where to look; may span lines.
    Failed(String),
    /// It could not run: why.
    Skipped(String),
}

/// Results so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: BTreeMap<String, Vec<String>>,
    skips: usize,
}

impl Tally {
    /// Counts tests that passed and print no line each.
    pub(crate) fn add_passed(&mut self, count: usize) {
        self.passed += count;
    }

    /// Counts one test and prints its line.
    pub(crate) fn add(
        &mut self,
        area: &str,
        name: &str,
        outcome: &Outcome,
        took: Option<Duration>,
    ) {
        let time = took
            .map(|took| format!("{:6.1} s", took.as_secs_f64()))
            .unwrap_or_default();
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                line(area, "passed", &time, name);
            }
            Outcome::Failed(reason) => {
                self.failed.push(format!("{area} {name}"));
                line(area, "FAILED", &time, name);
                for text in reason.lines() {
                    println!("{:35}{text}", "");
                }
            }
            Outcome::Skipped(reason) => {
                self.skips += 1;
                self.skipped
                    .entry(reason.clone())
                    .or_default()
                    .push(format!("{area} {name}"));
                line(area, "skipped", &time, &format!("{name}: {reason}"));
            }
        }
    }

    /// Whether nothing failed.
    pub(crate) fn is_green(&self) -> bool {
        self.failed.is_empty()
    }

    /// Prints what failed and was skipped, then the summary alone on the last line.
    pub(crate) fn print(&self) {
        if !self.failed.is_empty() {
            println!("\nfailed:");
            for name in &self.failed {
                println!("  {name}");
            }
        }
        if !self.skipped.is_empty() {
            println!("\nskipped:");
            for (reason, names) in &self.skipped {
                println!("  {reason}: {}", names.join(", "));
            }
        }
        println!("\n{}", self.summary());
    }

    /// The closing line.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skips
        )
    }
}

fn line(area: &str, word: &str, time: &str, name: &str) {
    println!("{area:>14}  {word:7} {time:>8}  {name}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_counts_each_result_once() {
        let mut tally = Tally::default();
        tally.add_passed(3);
        tally.add(
            "6.12",
            "http1_a",
            &Outcome::Passed,
            Some(Duration::from_secs(2)),
        );
        tally.add(
            "6.12",
            "http1_b",
            &Outcome::Skipped("no node".to_owned()),
            None,
        );
        tally.add(
            "5.10",
            "http1_b",
            &Outcome::Skipped("no node".to_owned()),
            None,
        );
        assert!(tally.is_green());
        assert_eq!(tally.summary(), "4 passed, 0 failed, 2 skipped");
        tally.add(
            "5.10",
            "http1_a",
            &Outcome::Failed("two spans".to_owned()),
            None,
        );
        assert!(!tally.is_green());
        assert_eq!(tally.summary(), "4 passed, 1 failed, 2 skipped");
    }
}
