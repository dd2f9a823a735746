//! Programs that a segment starts, and what the kernel says of their time and memory.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// A command that preempts nobody when it is woken (SCHED_BATCH).
///
/// Service and load generator share one processor. Where each wakes the other, the scheduler may switch between them at every message or at every few, by
/// how dear the one is beside the other, and the switches that a dearer service then brings would be taken for a cost of what made it dearer. Real load
/// comes from elsewhere.
pub(crate) fn batch(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--batch", "0"]).arg(program);
    command
}

/// A running program that leads a process group of its own, which is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    /// The process; [`Program`] reaps it.
    pub(crate) child: Child,
}

impl Program {
    /// Starts a command whose output goes to a file.
    ///
    /// # Errors
    /// When it cannot be started or the file cannot be made.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        Self::spawn(command)
    }

    /// Starts a command as it is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { child })
    }

    /// Process id; stays this program's until it is waited for or dropped.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGINT and waits.
    ///
    /// # Errors
    /// When it has not ended by itself after `patience`.
    pub(crate) fn interrupt(&mut self, patience: Duration) -> Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let child = &mut self.child;
        wait_for("the end of a program", patience, || {
            Ok(child.try_wait()?.map(|_| ()))
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may end between the two calls; it is not reaped, so its number is still its own.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// A program that lives until its standard input ends.
#[derive(Debug)]
pub(crate) struct Piped {
    /// The process.
    pub(crate) program: Program,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Piped {
    /// Starts a command.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut program = Program::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = program
            .child
            .stdin
            .take()
            .context("standard input is piped")?;
        let output = BufReader::new(
            program
                .child
                .stdout
                .take()
                .context("standard output is piped")?,
        );
        Ok(Self {
            program,
            input,
            output,
        })
    }

    /// The next line that it prints, without its end; empty when it has ended.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Ends it; what it printed meanwhile.
    ///
    /// # Errors
    /// When its output is no text.
    pub(crate) fn end(self) -> Result<String> {
        let Self {
            mut program,
            input,
            mut output,
        } = self;
        drop(input);
        let mut text = String::new();
        output.read_to_string(&mut text)?;
        program.child.wait()?;
        Ok(text)
    }
}

/// Asks again and again until there is an answer, without sleeping: while this machine waits for its host's file system its time would
/// leap from one sleep's end to the next, and patience would be over at once.
///
/// # Errors
/// When asking fails, or there is no answer by the deadline.
pub(crate) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}", patience.as_secs());
        }
        thread::yield_now();
    }
}

/// Time that all threads of a process have run so far, nanoseconds (first field of `/proc/PID/task/TID/schedstat`).
///
/// # Errors
/// When the process is gone.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the look.
        if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
            total += text
                .split_whitespace()
                .next()
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    Ok(total)
}

/// Context switches and interrupts of the whole machine so far (`ctxt` and `intr` of `/proc/stat`).
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn switches() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let first = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        number.with_context(|| format!("no {name} in /proc/stat"))
    };
    Ok((first("ctxt ")?, first("intr ")?))
}

/// Resident memory of a process without the maps of kernel programs that it has mapped, KiB.
///
/// # Errors
/// When the process is gone.
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut is_map = false;
    let mut total = 0;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.contains(' '))
        else {
            // The first line of a mapping: addresses, rights, offset, device, inode, name.
            is_map = line.ends_with("bpf-map") || line.ends_with("[perf_event]");
            continue;
        };
        if name == "Rss" && !is_map {
            total += value
                .trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .unwrap_or(0);
        }
    }
    Ok(total)
}
