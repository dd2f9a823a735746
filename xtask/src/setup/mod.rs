//! `cargo xtask setup`: finds or installs all that building and testing need.
//!
//! It changes nothing outside the cache folder but the Debian packages that it names. What is there already costs a
//! look at a few files. A kernel that cannot be had is reported and left out; everything else is an error.

use std::{
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result};

use crate::paths;

pub(crate) mod apt;
pub(crate) mod kernels;
pub(crate) mod packages;
pub(crate) mod rust_src;
pub(crate) mod sources;
pub(crate) mod tools;
pub(crate) mod versions;

pub(crate) use kernels::Kernel;
pub(crate) use rust_src::RustSource;
use versions::{FULL_RUNS, HostPackage, KernelPin, versions};

/// What setup found or installed.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The cache folder.
    pub(crate) cache: PathBuf,
    /// The linker for kernel programs.
    pub(crate) bpf_linker: PathBuf,
    /// The source of core.
    pub(crate) rust_source: RustSource,
    /// Each kernel of the matrix, oldest first, or why it cannot be had.
    pub(crate) kernels: Vec<Result<Kernel, MissingKernel>>,
}

/// A kernel that could not be had.
#[derive(Clone, Debug)]
pub(crate) struct MissingKernel {
    /// Its series, such as `6.12`.
    pub(crate) series: String,
    /// Why, in one line.
    pub(crate) reason: String,
}

impl Setup {
    /// The kernel of a series.
    ///
    /// # Errors
    /// When the series is no part of the matrix, or its kernel cannot be had.
    pub(crate) fn kernel(&self, series: &str) -> Result<&Kernel> {
        self.find(series)?
            .as_ref()
            .map_err(|missing| anyhow::anyhow!("kernel {series} cannot be had: {}", missing.reason))
    }

    /// The kernels of these series in their order, or the whole matrix if none is named.
    ///
    /// # Errors
    /// When a series is no part of the matrix.
    pub(crate) fn choose(&self, series: &[String]) -> Result<Vec<&Result<Kernel, MissingKernel>>> {
        if series.is_empty() {
            return Ok(self.kernels.iter().collect());
        }
        series.iter().map(|series| self.find(series)).collect()
    }

    fn find(&self, series: &str) -> Result<&Result<Kernel, MissingKernel>> {
        let names: Vec<&str> = versions()
            .kernels
            .iter()
            .map(|pin| pin.series.as_str())
            .collect();
        let index = names
            .iter()
            .position(|name| *name == series)
            .with_context(|| {
                format!(
                    "no kernel `{series}` in the matrix; there are {}",
                    names.join(", ")
                )
            })?;
        Ok(&self.kernels[index])
    }
}

/// Which parts to set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// What building needs.
    Build,
    /// What building and one kernel's VM need.
    Vm(&'a str),
    /// What the demonstration in one kernel's VM needs.
    Demo(&'a str),
    /// Everything but what only full runs of the tests need.
    All,
    /// Everything.
    Full,
}

/// Sets up a part or everything, and prints a line for each thing that had to be fetched.
///
/// # Errors
/// When something other than a kernel cannot be had.
pub(crate) fn run(scope: Scope<'_>) -> Result<Setup> {
    let cache = paths::cache()?;
    std::fs::create_dir_all(&cache)
        .with_context(|| format!("cannot make the cache folder {}", cache.display()))?;
    let table = versions();

    if scope != Scope::Build {
        let wanted = |package: &&HostPackage| match scope {
            Scope::Full => true,
            Scope::All | Scope::Demo(_) => package.purpose != FULL_RUNS,
            Scope::Build | Scope::Vm(_) => package.purpose.starts_with("virtual machines"),
        };
        let missing: Vec<_> = packages::missing(&table.host_packages)
            .into_iter()
            .filter(wanted)
            .collect();
        if !missing.is_empty() {
            let names: Vec<&str> = missing
                .iter()
                .map(|package| package.package.as_str())
                .collect();
            progress("packages", &format!("installing {}", names.join(" ")));
            packages::install(&missing)?;
        }
    }

    // bpf-linker takes a minute of both cores, kernels wait for the network: side by side.
    let kernels = thread::scope(|threads| -> Result<_> {
        let linker = threads.spawn(|| ensure_bpf_linker(&cache));
        let fetched = fetch_kernels(&cache, scope);
        linker.join().expect("ensure_bpf_linker does not panic")?;
        Ok(fetched)
    })?;
    let rust_source = match rust_src::cached(&cache)? {
        Some(found) => found,
        None => {
            progress("rust-src", "fetching the source of core");
            rust_src::fetch(&cache, &table.rust_src)?
        }
    };
    if scope != Scope::Build && !tools::has_virtme_ng(&cache, table) {
        progress(
            "virtme-ng",
            &format!("fetching {}", table.virtme_ng.version),
        );
        tools::install_virtme_ng(&cache, table)?;
    }
    Ok(Setup {
        bpf_linker: tools::bpf_linker(&cache, table),
        rust_source,
        kernels,
        cache,
    })
}

/// Prints what is there, one aligned line each.
pub(crate) fn print(setup: &Setup) {
    let table = versions();
    let core = match &setup.rust_source {
        RustSource::Toolchain => "in the toolchain".to_owned(),
        RustSource::Cache(dir) => dir.display().to_string(),
    };
    progress("cache", &setup.cache.display().to_string());
    progress("bpf-linker", &table.bpf_linker);
    progress("rust-src", &core);
    progress("virtme-ng", &table.virtme_ng.version);
    for kernel in &setup.kernels {
        match kernel {
            Ok(kernel) => progress(&format!("kernel {}", kernel.series), &kernel.describe()),
            Err(missing) => progress(
                &format!("kernel {}", missing.series),
                &format!("missing: {}", missing.reason),
            ),
        }
    }
}

fn ensure_bpf_linker(cache: &Path) -> Result<()> {
    let table = versions();
    if !tools::bpf_linker(cache, table).is_file() {
        progress(
            "bpf-linker",
            &format!("building {}, about a minute", table.bpf_linker),
        );
        tools::install_bpf_linker(cache, table)?;
    }
    Ok(())
}

fn fetch_kernels(cache: &Path, scope: Scope<'_>) -> Vec<Result<Kernel, MissingKernel>> {
    let fetch = |pin: &KernelPin| {
        if let Some(kernel) = kernels::cached(cache, pin) {
            return Ok(kernel);
        }
        let wanted = match scope {
            Scope::Build => false,
            Scope::Vm(series) | Scope::Demo(series) => series == pin.series,
            Scope::All | Scope::Full => true,
        };
        let missing = |reason| MissingKernel {
            series: pin.series.clone(),
            reason,
        };
        if !wanted {
            return Err(missing("not fetched yet: cargo xtask setup".to_owned()));
        }
        progress(
            &format!("kernel {}", pin.series),
            &format!("fetching {}", pin.release),
        );
        kernels::fetch(cache, pin).map_err(|error| {
            // The outermost context is the way by hand; the innermost cause says what is wrong.
            let cause = error.root_cause().to_string();
            let cause = cause.lines().next().unwrap_or_default();
            let mut reason = error.to_string();
            if reason != cause {
                reason = format!("{cause}; {reason}");
            }
            progress(
                &format!("kernel {}", pin.series),
                &format!("cannot be had: {reason}"),
            );
            missing(reason)
        })
    };
    versions().kernels.iter().map(fetch).collect()
}

/// Prints a progress line: what, and what is done with it.
pub(crate) fn progress(what: &str, doing: &str) {
    eprintln!("{what:>14}  {doing}");
}
