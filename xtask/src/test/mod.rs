//! `cargo xtask test`: everything that proves the project, with one closing line of passed, failed and skipped.
//!
//! In order: the tests of the workspace on this machine; every kernel program on every kernel of the matrix; the
//! scenarios of the tier in VMs, two at a time. Each host test, each verified kernel and each scenario on each kernel
//! counts once. A kernel that cannot be had is skipped with its reason; fewer than three is a failure.

use std::{fs, path::PathBuf, sync::Mutex, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Built, EBPF_DIR},
    paths, run,
    setup::{self, Kernel, MissingKernel, Scope, Setup, progress},
    verify::{self, Budget},
    vm::two_at_a_time,
    workloads,
};

mod host;
mod pair;
mod scenarios;
mod tally;

use scenarios::{Batch, Runner};
use tally::{Outcome, Tally};

/// Kernels of the matrix without which a run proves too little.
const MIN_KERNELS: usize = 3;

/// What to test.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// Every scenario at its real size instead of the core tier.
    pub(crate) full: bool,
    /// Only what has this in its name.
    pub(crate) only: Option<String>,
    /// Only these kernel series; all if empty.
    pub(crate) kernels: Vec<String>,
}

impl Selection {
    fn takes(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    }
}

/// Runs the tests and returns whether nothing failed.
///
/// # Errors
/// When setup fails or a VM cannot be started; a failing test is no error.
pub(crate) fn run(selection: &Selection) -> Result<bool> {
    let started = Instant::now();
    let mut tally = Tally::default();
    // Whatever goes wrong on the way, the summary closes the output and does not call it a success.
    let result = run_all(selection, &mut tally);
    if let Err(error) = &result {
        tally.add(
            "test",
            "could not go on",
            &Outcome::Failed(format!("{error:#}")),
            None,
        );
    }
    progress(
        "took",
        &format!(
            "{} s; logs in {}",
            started.elapsed().as_secs(),
            logs().display()
        ),
    );
    tally.print();
    Ok(tally.is_green())
}

/// Prints what [`run`] would run.
///
/// # Errors
/// When setup or the build fails.
pub(crate) fn list(selection: &Selection) -> Result<()> {
    let setup = setup::run(Scope::All)?;
    let (built, program) = build_all(&setup)?;
    for name in host::list(&built.ebpf_dir)?
        .iter()
        .filter(|name| selection.takes(name))
    {
        println!("{:>14}  {name}", "host");
    }
    let kernels = setup.choose(&selection.kernels)?;
    let series: Vec<&str> = kernels.iter().map(|kernel| series(kernel)).collect();
    for series in series.iter().filter(|_| selection.takes("verify")) {
        println!("{series:>14}  verify");
    }
    for batch in chosen_batches(&program, selection, &series)? {
        for name in &batch.names {
            println!("{:>14}  {name}", batch.series);
        }
    }
    Ok(())
}

fn run_all(selection: &Selection, tally: &mut Tally) -> Result<()> {
    let scope = if selection.full {
        Scope::Full
    } else {
        Scope::All
    };
    let setup = setup::run(scope)?;
    let kernels = setup.choose(&selection.kernels)?;
    fs::create_dir_all(logs()).context("cannot make the folder for logs")?;

    let (built, program) = build_all(&setup)?;
    if selection.full {
        workloads::build()?;
    }
    let mut chosen = run_host_tests(selection, &built, tally)?;

    let present = kernels.iter().filter(|kernel| kernel.is_ok()).count();
    if selection.kernels.is_empty() && present < MIN_KERNELS {
        let reason =
            format!("only {present} of the matrix can be had; at least {MIN_KERNELS} are needed");
        tally.add("kernels", "matrix", &Outcome::Failed(reason), None);
    }
    if selection.takes("verify") {
        chosen = true;
        verify_kernels(&setup, &built, &kernels, tally)?;
    }
    chosen |= run_scenarios(selection, &setup, &built, &program, &kernels, tally)?;
    if !chosen {
        bail!("nothing matches; see cargo xtask test --list");
    }
    Ok(())
}

fn build_all(setup: &Setup) -> Result<(Built, PathBuf)> {
    progress("build", "kernel programs, agent, tests");
    let ebpf_dir = build::kernel_programs(setup)?;
    // One cargo call for everything, tests included: what they share is built once and both cores stay busy.
    let mut command = run::cargo();
    command
        .current_dir(paths::workspace())
        .args(["build", "--quiet", "--bins", "--tests"])
        .env(EBPF_DIR, &ebpf_dir);
    run::streamed(&mut command)?;
    let bin = paths::target().join("debug");
    Ok((
        Built {
            ebpf_dir,
            agent: bin.join("undertrace"),
        },
        bin.join("scenarios"),
    ))
}

/// Returns whether the selection took any.
fn run_host_tests(selection: &Selection, built: &Built, tally: &mut Tally) -> Result<bool> {
    let started = Instant::now();
    let log = logs().join("host.log");
    let results = host::run(&built.ebpf_dir, selection.only.as_deref(), &log)?;
    tally.add_passed(results.passed);
    for name in &results.ignored {
        tally.add("host", name, &Outcome::Skipped("ignored".to_owned()), None);
    }
    for (name, output) in &results.failed {
        tally.add("host", name, &Outcome::Failed(output.clone()), None);
    }
    progress(
        "host",
        &format!(
            "{} passed, {} failed, {} s",
            results.passed,
            results.failed.len(),
            started.elapsed().as_secs()
        ),
    );
    Ok(results != host::HostResults::default())
}

fn verify_kernels(
    setup: &Setup,
    built: &Built,
    kernels: &[&Result<Kernel, MissingKernel>],
    tally: &mut Tally,
) -> Result<()> {
    let budget = Budget::load()?;
    let verdicts = verify::run(setup, &built.agent, kernels, &budget)?;
    for verdict in &verdicts {
        let outcome = match &verdict.skipped {
            Some(reason) => Outcome::Skipped(reason.clone()),
            None if verdict.faults.is_empty() => Outcome::Passed,
            None => Outcome::Failed(verdict.faults.join("\n")),
        };
        tally.add(&verdict.series, "verify", &outcome, None);
    }
    Ok(())
}

/// Returns whether the selection took any.
fn run_scenarios(
    selection: &Selection,
    setup: &Setup,
    built: &Built,
    program: &std::path::Path,
    kernels: &[&Result<Kernel, MissingKernel>],
    tally: &mut Tally,
) -> Result<bool> {
    let all: Vec<&str> = kernels.iter().map(|kernel| series(kernel)).collect();
    let batches = chosen_batches(program, selection, &all)?;
    let shared = Mutex::new(tally);
    let runner = Runner {
        setup,
        program,
        agent: &built.agent,
        full: selection.full,
    };
    let ended = two_at_a_time(&batches, |batch| -> Result<()> {
        let kernel = kernels
            .iter()
            .find(|kernel| series(kernel) == batch.series)
            .expect("batches name chosen kernels");
        let kernel = match kernel {
            Ok(kernel) => kernel,
            Err(missing) => {
                let mut tally = shared.lock().expect("no holder of the lock panics");
                for name in &batch.names {
                    tally.add(
                        &batch.series,
                        name,
                        &Outcome::Skipped(missing.reason.clone()),
                        None,
                    );
                }
                return Ok(());
            }
        };
        runner.run(kernel, batch, &|ran| {
            shared.lock().expect("no holder of the lock panics").add(
                &batch.series,
                &ran.name,
                &ran.outcome,
                ran.took,
            );
        })
    });
    ended.into_iter().collect::<Result<()>>()?;
    Ok(!batches.is_empty())
}

fn chosen_batches(
    program: &std::path::Path,
    selection: &Selection,
    kernels: &[&str],
) -> Result<Vec<Batch>> {
    let mut scenarios = scenarios::list(program, selection.full)?;
    scenarios.retain(|scenario| selection.takes(&scenario.name));
    Ok(scenarios::batches(&scenarios, kernels))
}

fn series(kernel: &Result<Kernel, MissingKernel>) -> &str {
    match kernel {
        Ok(kernel) => &kernel.series,
        Err(missing) => &missing.series,
    }
}

fn logs() -> PathBuf {
    paths::target().join("test-logs")
}
