//! Programs that scenarios start. Each is ended by its pid when its handle is dropped, with the process group it leads.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};

use super::{Context, wait_for};

/// A running program that leads a process group of its own.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Program {
    /// Starts a command; its output goes to `NAME.log` in the scenario's folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(context: &Context, name: &str, command: &mut Command) -> Result<Self> {
        let log = context.folder().join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            ended: None,
        })
    }

    /// Process id. Stays ours until [`Self::wait`] or drop, because nobody else reaps it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub(crate) fn output(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended.is_none())
    }

    /// Sends a signal to this process alone.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid().cast_signed()).context("a child has a positive pid")?;
        rustix::process::kill_process(pid, signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// Sends a signal to it and to all in its process group.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn signal_group(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid().cast_signed()).context("a child has a positive pid")?;
        rustix::process::kill_process_group(pid, signal)
            .with_context(|| format!("cannot signal {} and its group", self.name))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When `patience` has passed.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(
            || format!("{name} to end"),
            patience,
            || match self.is_running() {
                Ok(false) => self.ended,
                _ => None,
            },
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The leader is not reaped yet, so the group id cannot belong to anybody else.
        if self.ended.is_none() {
            if let Some(pid) = Pid::from_raw(self.pid().cast_signed()) {
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// Asks a process to end (SIGTERM).
///
/// # Errors
/// When it is gone.
pub(crate) fn terminate(pid: u32) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("a process has a positive id")?;
    rustix::process::kill_process(pid, Signal::TERM)
        .with_context(|| format!("cannot signal process {pid:?}"))
}

/// The children of a process, as /proc tells at this moment.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

/// The parent of a process: fourth field of its stat file, after the name in parentheses (proc(5)).
fn parent_of(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Whether somebody listens on this TCP port in the network namespace of a process. Reads /proc, so that no connection is made.
pub(crate) fn is_listening(pid: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().and_then(|address| address.rsplit_once(':'));
            // State 0A is TCP_LISTEN (include/net/tcp_states.h).
            local.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port))
                && fields.nth(1) == Some("0A")
        })
    })
}

/// Finds a program in `PATH` and in the folders for administrators.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    // Before PATH, because version managers put slow wrapper scripts there.
    [
        "/usr/bin",
        "/usr/sbin",
        "/bin",
        "/sbin",
        "/usr/local/bin",
        "/usr/local/sbin",
    ]
    .iter()
    .map(|folder| Path::new(folder).join(name))
    .chain(
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join(name)),
    )
    .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_listener_without_connecting() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        assert!(is_listening(std::process::id(), port));
        drop(listener);
        assert!(!is_listening(std::process::id(), port));
    }

    #[test]
    fn dropped_program_takes_its_children_along() {
        let context = Context::new("dropped_program").expect("the temporary folder is writable");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 100 & echo $!; wait"]);
        let program = Program::start(&context, "sh", &mut command).expect("there is a shell");
        let grandchild = wait_for(
            || "its pid".into(),
            super::super::PATIENCE,
            || program.output().trim().parse::<u32>().ok(),
        )
        .expect("the shell prints it");
        assert_eq!(parent_of(grandchild), Some(program.pid()));
        drop(program);
        // It is given another parent before it has ended.
        wait_for(
            || "the grandchild to end".into(),
            super::super::PATIENCE,
            || {
                let state = fs::read_to_string(format!("/proc/{grandchild}/stat"));
                state
                    .map_or(true, |state| state.contains(") Z "))
                    .then_some(())
            },
        )
        .expect("the group was signalled");
    }
}
