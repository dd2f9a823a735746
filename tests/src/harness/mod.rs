//! What scenarios are written with: the agent under test, a collector, workloads, raw clients, and queries on what arrived.

pub(crate) mod agent;
pub(crate) mod capture;
pub(crate) mod collector;
pub(crate) mod group;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod machines;
pub(crate) mod network;
pub(crate) mod origin;
pub(crate) mod process;
pub(crate) mod refusal;
pub(crate) mod requests;
pub(crate) mod scripted;
pub(crate) mod service;
mod statistics;
pub(crate) mod tls;
pub(crate) mod trace;

use std::{
    cell::Cell,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a scenario waits for anything that should happen soon; emulated machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The reason why a scenario cannot run here; returned as an error, reported as "skipped".
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// What the agent refuses on this kernel, after the refusal itself was proven; returned as an error, reported as "refused".
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// What one run of one scenario owns: a folder and ports.
#[derive(Debug)]
pub(crate) struct Context {
    folder: PathBuf,
    next_port: Cell<u16>,
}

impl Context {
    /// A fresh folder for the scenario of this name.
    ///
    /// # Errors
    /// When no folder can be made.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("undertrace-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            folder,
            next_port: Cell::new(18_000),
        })
    }

    /// The folder of this run; removed at its end.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A port that nothing listens on, below the range from which clients get theirs.
    ///
    /// # Panics
    /// When a thousand ports in a row are taken.
    pub(crate) fn port(&self) -> u16 {
        for _ in 0..1000 {
            let port = self.next_port.replace(self.next_port.get() + 1);
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
        panic!("no free port from 18000 on");
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits until `condition` gives a value.
///
/// # Errors
/// When `patience` has passed; the text of `what` says what was waited for.
pub(crate) fn wait_for<T>(
    what: impl Fn() -> String,
    patience: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {} s in vain: {}", patience.as_secs(), what());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `have` is at least `count`, or has not grown for `quiet`.
pub(crate) fn wait_for_quiet(have: impl Fn() -> usize, count: usize, quiet: Duration) {
    let mut seen = (have(), Instant::now());
    while seen.0 < count && seen.1.elapsed() < quiet {
        thread::sleep(Duration::from_millis(20));
        let now = have();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
    }
}

/// Fails unless both texts are the same, with a difference by lines.
///
/// # Panics
/// When they differ.
#[track_caller]
pub(crate) fn assert_text(what: &str, actual: &str, expected: &str) {
    let (actual, expected) = (actual.trim_end(), expected.trim_end());
    if actual == expected {
        return;
    }
    let mut text = format!("{what} differs (- expected, + actual):\n");
    let left: Vec<_> = expected.lines().collect();
    let right: Vec<_> = actual.lines().collect();
    let common = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
    for line in &left[..common] {
        text.push_str(&format!("  {line}\n"));
    }
    for line in left[common..].iter().take(40) {
        text.push_str(&format!("- {line}\n"));
    }
    for line in right[common..].iter().take(40) {
        text.push_str(&format!("+ {line}\n"));
    }
    panic!("{text}");
}

/// Whether the running kernel has a function of this name, or had when its symbols were written down (proc(5), kallsyms).
///
/// # Errors
/// When it does not tell.
pub(crate) fn kernel_has(function: &str) -> Result<bool> {
    let symbols = fs::read_to_string("/proc/kallsyms").context("the kernel lists no symbols")?;
    let mut names = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2));
    Ok(names.any(|name| name == function))
}

/// Whether the running kernel is of this release or a later one.
///
/// # Errors
/// When its release does not begin with two numbers.
pub(crate) fn kernel_is_at_least(major: u32, minor: u32) -> Result<bool> {
    let release = kernel_release();
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(second))) => Ok((first, second) >= (major, minor)),
        _ => bail!("no kernel release: {release}"),
    }
}

/// The running kernel's release, e.g. `6.12.107+deb13-amd64`.
pub(crate) fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}
