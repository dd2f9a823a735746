//! `undertrace doctor --processes`: which libraries of TLS the processes of this machine have, and which of them could not be seen inside.
//!
//! Input: a `/proc`. Output: a [`Processes`], as text for a person or as JSON. Files that processes have mapped are read; nothing is attached,
//! and nothing is needed from the kernel.

mod text;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use serde::{Serialize, Serializer};

use crate::{
    process::{Proc, ProcSource as _, mapped},
    tls::{
        Exit, Probe,
        discovery::{Discovery, Located, Look},
    },
};

/// Everything that is found out.
#[derive(Clone, Debug, Serialize)]
pub struct Processes {
    /// Version of the agent.
    pub version: &'static str,
    /// The processes that were there, by their ids; threads of the kernel are none.
    pub processes: Vec<Process>,
    /// How many files were looked into: each once, whoever has mapped it.
    pub files: u64,
    /// How long all of it took.
    pub milliseconds: u64,
}

/// One process.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Path of its program; none where it may not be read.
    #[serde(serialize_with = "lossy_option")]
    pub program: Option<PathBuf>,
    /// Name of its first thread.
    pub name: String,
    /// The libraries that it has.
    pub libraries: Vec<Library>,
    /// Files that it has mapped and of which nothing is known, because they could not be opened.
    #[serde(serialize_with = "lossy_list")]
    pub unopened: Vec<PathBuf>,
    /// Why it was not looked at.
    pub error: Option<String>,
}

/// A library of TLS in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    /// Its name.
    pub library: &'static str,
    /// Its version, as far as it tells.
    pub version: Option<String>,
    /// The file that holds it, as the process saw its path.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Whether that is the program itself.
    pub built_in: bool,
    /// The file's build id.
    pub build_id: Option<String>,
    /// Why it cannot be seen inside; none where it can.
    pub reason: Option<String>,
    /// The functions that have to be probed for it.
    pub probes: Vec<Place>,
}

/// A function that has to be probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its name.
    pub function: &'static str,
    /// Where it is in the file.
    pub offset: u64,
    /// Its return instructions in the file, where the kernel cannot tell that it returns.
    pub returns: Vec<u64>,
}

/// Paths are any bytes, JSON is UTF-8: what is none is replaced.
fn lossy<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

fn lossy_option<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => lossy(path, to),
        None => to.serialize_none(),
    }
}

fn lossy_list<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

/// Writes the report on the processes of the `/proc` mounted at `proc`.
///
/// # Errors
/// When the output cannot be written.
pub fn run(proc: &Path, json: bool, out: &mut impl Write) -> std::io::Result<()> {
    let mut tgids = Proc::new(proc).tgids();
    tgids.sort_unstable();
    let report = examine(proc, &tgids);
    if json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        return writeln!(out);
    }
    text::write(&report, out)
}

/// Looks at these processes.
fn examine(proc: &Path, tgids: &[u32]) -> Processes {
    let begin = Instant::now();
    let mut discovery = Discovery::new(proc);
    let source = Proc::new(proc);
    let look = |tgid: &u32| {
        let name = source.stat(*tgid)?.comm;
        let program = mapped::program(proc, *tgid);
        let nothing = |error: String| (Vec::new(), Vec::new(), Some(error));
        let (libraries, unopened, error) = match discovery.look(*tgid) {
            Look::Gone => return None,
            Look::Denied => nothing("may not be looked at: run as root".to_owned()),
            Look::Unreadable(error) => nothing(error.to_string()),
            Look::Seen {
                libraries,
                unopened,
            } => (libraries, unopened, None),
        };
        Some(Process {
            pid: *tgid,
            program,
            name,
            libraries: libraries.into_iter().map(Library::from).collect(),
            unopened,
            error,
        })
    };
    let processes = tgids.iter().filter_map(look).collect();
    Processes {
        version: env!("CARGO_PKG_VERSION"),
        processes,
        files: discovery.examined(),
        milliseconds: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

impl From<Located> for Library {
    fn from(located: Located) -> Self {
        let (probes, reason) = match located.finding.probes {
            Ok(probes) => (probes.iter().map(Place::from).collect(), None),
            Err(reason) => (Vec::new(), Some(reason.to_string())),
        };
        Self {
            library: located.finding.library,
            version: located.finding.version,
            path: located.path,
            built_in: located.built_in,
            build_id: located.build_id,
            reason,
            probes,
        }
    }
}

impl From<&Probe> for Place {
    fn from(probe: &Probe) -> Self {
        Self {
            function: probe.function,
            offset: probe.entry,
            returns: match &probe.exit {
                Exit::Instructions(places) => places.clone(),
                Exit::None | Exit::Return => Vec::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
