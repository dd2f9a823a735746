//! The load generator: wrk with one thread and eight kept connections.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::process::batch;

/// Connections that wrk keeps.
const CONNECTIONS: u32 = 8;

/// Without `request` or `response` functions the script costs nothing per request.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("SUMMARY %d %d %d\n", summary.requests, summary.duration, e.connect + e.read + e.write + e.status))
end
"#;

/// What wrk did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Answers received.
    pub(crate) requests: u64,
    /// From the first connect to the end, guest nanoseconds.
    pub(crate) elapsed_ns: u64,
}

/// Requests `url` for about this long.
///
/// # Errors
/// When wrk fails, or an answer was not 200 or did not come.
pub(crate) fn run(url: &str, duration: Duration, folder: &Path) -> Result<Load> {
    let script = folder.join("summary.lua");
    fs::write(&script, SCRIPT)?;
    let output = batch("wrk")
        .args([
            "-t1",
            &format!("-c{CONNECTIONS}"),
            &format!("-d{}s", duration.as_secs()),
            "--timeout",
            "20s",
            "-s",
        ])
        .arg(&script)
        .arg(url)
        .output()
        .context("cannot run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text.lines().find_map(|line| line.strip_prefix("SUMMARY "));
    let summary = summary.with_context(|| {
        format!(
            "wrk gave no summary:\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let numbers: Vec<u64> = summary
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let &[requests, elapsed_us, errors] = numbers.as_slice() else {
        anyhow::bail!("wrk's summary is `{summary}`");
    };
    ensure!(
        requests > 0 && errors == 0,
        "{requests} requests and {errors} errors at {url}"
    );
    Ok(Load {
        requests,
        elapsed_ns: elapsed_us * 1000,
    })
}
