//! Tests that need no kernel: `cargo test` of the workspace, counted one by one from its output.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, Result};

use crate::{build::EBPF_DIR, paths, run};

/// What the host's tests gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HostResults {
    /// Tests that passed.
    pub(super) passed: usize,
    /// Tests that failed, with what they printed.
    pub(super) failed: Vec<(String, String)>,
    /// Tests marked as ignored.
    pub(super) ignored: Vec<String>,
}

/// Runs the tests of the workspace's default members whose name contains `only`, and writes their output to `log`.
///
/// # Errors
/// When cargo cannot be run or the log not be written.
pub(super) fn run(ebpf_dir: &Path, only: Option<&str>, log: &Path) -> Result<HostResults> {
    let mut command = run::cargo();
    command
        .current_dir(paths::workspace())
        .args(["test", "--no-fail-fast", "--color", "never"]);
    // The same setting as for the agent's build, so that nothing is built twice.
    command.env(EBPF_DIR, ebpf_dir).env("RUST_BACKTRACE", "0");
    if let Some(only) = only {
        command.args(["--", only]);
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file.try_clone()?)
        .spawn()
        .context("cannot run cargo test")?;
    let mut file = file;
    let mut parser = Parser::default();
    for line in BufReader::new(child.stdout.take().expect("standard output is piped")).split(b'\n')
    {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(file, "{line}")?;
        parser.line(&line);
    }
    let status = child.wait()?;
    let mut results = parser.finish();
    if !status.success() && results.failed.is_empty() {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        results
            .failed
            .push(("cargo test".to_owned(), run::tail(&text, 30)));
    }
    Ok(results)
}

/// The names of the tests that [`run`] would run without a pattern.
///
/// # Errors
/// When cargo fails.
pub(super) fn list(ebpf_dir: &Path) -> Result<Vec<String>> {
    let mut command = run::cargo();
    command
        .current_dir(paths::workspace())
        .args(["test", "--quiet", "--", "--list"])
        .env(EBPF_DIR, ebpf_dir);
    let text = run::output(&mut command)?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

/// Reads the output of Rust's test harness, which is meant for people: `test NAME ... ok`, then after all of them
/// what failed tests printed, under a heading with the name, then the counts.
#[derive(Debug, Default)]
struct Parser {
    results: HostResults,
    /// Passed tests of the program whose output is being read, by their lines.
    passed_lines: usize,
    /// The failed test whose output is being read.
    printing: Option<usize>,
}

impl Parser {
    fn line(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.printing = self
                .results
                .failed
                .iter()
                .rposition(|(failed, _)| failed == name);
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.printing = None;
            // What a test's child process prints may tear its line apart; the count at the end is whole.
            let counted = counts
                .split([' ', ';'])
                .zip(counts.split([' ', ';']).skip(1));
            let passed = counted
                .filter(|(_, word)| *word == "passed")
                .find_map(|(count, _)| count.parse().ok());
            self.results.passed += passed.unwrap_or(self.passed_lines);
            self.passed_lines = 0;
        } else if line == "failures:" {
            self.printing = None;
        } else if let Some(index) = self.printing {
            let text = &mut self.results.failed[index].1;
            text.push_str(line);
            text.push('\n');
        } else if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            let name = name.trim_end_matches(" - should panic").to_owned();
            match outcome.split([' ', ',']).next() {
                Some("ok") => self.passed_lines += 1,
                Some("FAILED") => self.results.failed.push((name, String::new())),
                Some("ignored") => self.results.ignored.push(name),
                _ => {}
            }
        }
    }

    fn finish(mut self) -> HostResults {
        // A program that was ended in the middle printed no counts.
        self.results.passed += self.passed_lines;
        for (_, text) in &mut self.results.failed {
            *text = run::tail(text.trim(), 30);
        }
        self.results
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What `cargo test` of Rust 1.95 printed for a small crate with one test of each kind and a documentation test.
    const OUTPUT: &str = include_str!("cargo-test-output.txt");

    fn parse(text: &str) -> HostResults {
        let mut parser = Parser::default();
        text.lines().for_each(|line| parser.line(line));
        parser.finish()
    }

    #[test]
    fn counts_every_test_once_and_keeps_what_failures_print() {
        let results = parse(OUTPUT);
        assert_eq!(results.passed, 3);
        assert_eq!(results.ignored, ["tests::later"]);
        let [(name, text)] = &results.failed[..] else {
            panic!("one failure: {:?}", results.failed)
        };
        assert_eq!(name, "tests::subtracts");
        assert!(
            text.starts_with("thread 'tests::subtracts'") && text.contains("right: 2"),
            "{text}"
        );
    }

    #[test]
    fn torn_lines_and_aborted_programs_are_counted_right() {
        let torn = OUTPUT.replace("test tests::adds ... ok", "test tests::adds ... noise\nok");
        assert_eq!(parse(&torn).passed, 3);
        let aborted = OUTPUT
            .lines()
            .take_while(|line| *line != "failures:")
            .collect::<Vec<_>>()
            .join("\n");
        assert_eq!(parse(&aborted).passed, 2);
    }
}
