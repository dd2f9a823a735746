//! Runs scenarios one after another, each in a process of its own, with a hard deadline.
//!
//! The runner makes itself the reaper of orphans ("child subreaper"), so whatever a scenario started ends up as a descendant of the
//! runner and is ended through its pid when the scenario is over, however it ended. Nothing is ever ended by name.

use std::{
    fs,
    io::Write as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::{
    harness::{Context, Refused, Skip, agent, machines, process},
    scenario::{self, Scenario},
};

/// How a scenario ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Every assertion held.
    Passed,
    /// An assertion failed, or the deadline passed.
    Failed,
    /// The agent rightly does not do here what the scenario is about; that nothing was done is what was asserted.
    Refused,
    /// It cannot run here; the reason says why.
    Skipped,
}

/// One line of the results file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The scenario.
    pub(crate) name: String,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Why, unless it passed; may span lines.
    pub(crate) reason: String,
    /// Wall-clock time it took.
    pub(crate) seconds: f64,
}

/// Runs the named scenarios; the exit code is 1 when any failed.
///
/// # Errors
/// When a name is unknown or the results cannot be written; a failing scenario is no error.
pub(crate) fn run_all(names: &[String], results: Option<&Path>) -> Result<ExitCode> {
    if names.is_empty() {
        bail!("nothing to run: name scenarios with --run, or see --list");
    }
    let chosen: Vec<&Scenario> = names
        .iter()
        .map(|name| scenario::find(name))
        .collect::<Result<_>>()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become the reaper of what scenarios leave behind")?;
    let mut failed = false;
    for scenario in chosen {
        let report = run_apart(scenario)?;
        failed |= report.outcome == Outcome::Failed;
        let word = match report.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Refused => "refused",
            Outcome::Skipped => "skipped",
        };
        println!("{word:7} {:5.1} s  {}", report.seconds, report.name);
        for line in report.reason.lines() {
            println!("            {line}");
        }
        if let Some(path) = results {
            let mut file = fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .with_context(|| format!("cannot write results to {}", path.display()))?;
            writeln!(file, "{}", serde_json::to_string(&report)?)?;
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Does the other half of the scenarios that another machine runs.
///
/// # Errors
/// When there is no other machine.
pub(crate) fn serve_first_machine() -> Result<ExitCode> {
    machines::serve(|name, first| {
        let scenario = scenario::find(name)?;
        let half = scenario
            .other_machine
            .with_context(|| format!("{name} needs no second machine"))?;
        let context = Context::new(name)?;
        half(&context, first).map_err(|error| {
            let log = agent::log_tail(context.folder());
            if log.is_empty() {
                error
            } else {
                anyhow::anyhow!("{error:#}\nthe agent's log ends:\n{log}")
            }
        })
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs one scenario in this process and writes its report: the inner half of [`run_all`].
pub(crate) fn run_here(name: &str, results: Option<&Path>) -> ExitCode {
    let started = Instant::now();
    let message = Arc::new(Mutex::new(None));
    let sink = Arc::clone(&message);
    panic::set_hook(Box::new(move |info| {
        let mut slot = sink
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        slot.get_or_insert_with(|| info.to_string());
    }));
    // A page that nobody touched cannot be read by kernel programs, and scenarios send constants of this program: all of it is fetched now.
    if let Err(error) = rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT) {
        println!("constants of the first sends may be unreadable: {error}");
    }
    let mut context = None;
    let ended = panic::catch_unwind(AssertUnwindSafe(|| {
        let scenario = scenario::find(name)?;
        (scenario.run)(context.insert(Context::new(scenario.name)?))
    }));
    let (outcome, reason) = match ended {
        Ok(Ok(())) => (Outcome::Passed, String::new()),
        Ok(Err(error)) => ended_early(&error),
        Err(_) => {
            let mut slot = message
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            (
                Outcome::Failed,
                slot.take()
                    .unwrap_or_else(|| "panicked without a message".into()),
            )
        }
    };
    let log = context
        .map(|context| agent::log_tail(context.folder()))
        .unwrap_or_default();
    let reason = match outcome {
        Outcome::Failed if !log.is_empty() => format!("{reason}\nthe agent's log ends:\n{log}"),
        _ => reason,
    };
    let report = Report {
        name: name.to_owned(),
        outcome,
        reason,
        seconds: started.elapsed().as_secs_f64(),
    };
    let text = serde_json::to_string(&report).unwrap_or_default();
    match results {
        Some(path) if fs::write(path, &text).is_ok() => {}
        _ => println!("{text}"),
    }
    if outcome == Outcome::Failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// What an error says of how the scenario ended.
fn ended_early(error: &anyhow::Error) -> (Outcome, String) {
    if let Some(skip) = error.downcast_ref::<Skip>() {
        (Outcome::Skipped, skip.0.clone())
    } else if let Some(refused) = error.downcast_ref::<Refused>() {
        (Outcome::Refused, refused.0.clone())
    } else {
        (Outcome::Failed, format!("{error:#}"))
    }
}

/// Starts a scenario as a process of its own, waits for it at most its deadline, and ends everything it left.
fn run_apart(scenario: &Scenario) -> Result<Report> {
    let started = Instant::now();
    let file = std::env::temp_dir().join(format!(
        "undertrace-{}-{}.json",
        std::process::id(),
        scenario.name
    ));
    let mut child = Command::new(std::env::current_exe().context("cannot find my own program")?)
        .args(["--one", scenario.name, "--results"])
        .arg(&file)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start a scenario")?;
    let deadline = started + Duration::from_secs(scenario.deadline_seconds);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    end_descendants();
    let text = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(&file);
    let failed = |reason: String| Report {
        name: scenario.name.to_owned(),
        outcome: Outcome::Failed,
        reason,
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok(match (status, serde_json::from_str::<Report>(&text)) {
        (None, _) => failed(format!(
            "not done after {} s: ended",
            scenario.deadline_seconds
        )),
        (Some(_), Ok(report)) => report,
        (Some(status), Err(_)) => failed(match status.signal() {
            Some(signal) => format!("ended by signal {signal} without a report"),
            None => format!("left without a report ({status})"),
        }),
    })
}

/// Ends and reaps every process that descends from this one. Ending a parent hands its children to us, so this goes on until none is left.
fn end_descendants() {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        for pid in process::children_of(std::process::id()) {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            // No child is left, or one cannot be ended: the next scenario would meet it as a used port.
            _ => return,
        }
    }
}
