//! Counts results, prints a line for each, and the closing summary.

use std::{collections::BTreeMap, time::Duration};

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every assertion held.
    Passed,
    /// Something is wrong: why, and where to look; may span lines.
    Failed(String),
    /// The kernel is not fit for what it is about, and the agent was seen to leave it alone: why.
    Refused(String),
    /// It could not run: why.
    Skipped(String),
}

/// Results so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: Vec<String>,
    refused: Reasons,
    skipped: Reasons,
}

/// Tests by the reason that they share.
#[derive(Debug, Default)]
struct Reasons(BTreeMap<String, Vec<String>>);

impl Reasons {
    fn add(&mut self, reason: &str, area: &str, name: &str) {
        let names = self.0.entry(reason.to_owned()).or_default();
        names.push(format!("{area} {name}"));
    }

    fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    fn print(&self, title: &str) {
        if !self.0.is_empty() {
            println!("\n{title}:");
        }
        for (reason, names) in &self.0 {
            println!("  {reason}: {}", names.join(", "));
        }
    }
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
            Outcome::Refused(reason) => {
                self.refused.add(reason, area, name);
                line(area, "refused", &time, &format!("{name}: {reason}"));
            }
            Outcome::Skipped(reason) => {
                self.skipped.add(reason, area, name);
                line(area, "skipped", &time, &format!("{name}: {reason}"));
            }
        }
    }

    /// Whether nothing failed.
    pub(crate) fn is_green(&self) -> bool {
        self.failed.is_empty()
    }

    /// Prints what failed, was refused and was skipped, then the summary alone on the last line.
    pub(crate) fn print(&self) {
        if !self.failed.is_empty() {
            println!("\nfailed:");
            for name in &self.failed {
                println!("  {name}");
            }
        }
        self.refused
            .print("refused by the agent on these kernels, which was proven");
        self.skipped.print("skipped");
        println!("\n{}", self.summary());
    }

    /// The closing line; what was refused is named only where there is any.
    pub(crate) fn summary(&self) -> String {
        let refused = match self.refused.count() {
            0 => String::new(),
            count => format!(", {count} refused"),
        };
        format!(
            "{} passed, {} failed{refused}, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.count()
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
        tally.add(
            "6.12",
            "context_c",
            &Outcome::Refused("the self-test fails".to_owned()),
            None,
        );
        assert_eq!(
            tally.summary(),
            "4 passed, 1 failed, 1 refused, 2 skipped",
            "a refusal is no success"
        );
    }
}
