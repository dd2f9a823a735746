//! Which processes and connections are traced.
//!
//! Input: selectors of the configuration, and processes. Output: a verdict for each process, the ports, and which
//! selectors matched nothing so far. It writes no map; the loader does.
//!
//! Process selectors (executable, process id, control group) are alternatives: a process is traced when one of them fits.
//! Ports narrow that down to connections with one of them at either end. No selector at all selects everything.

use std::{collections::HashMap, fmt, path::Path, str::FromStr};

use agent_common::abi::Verdict;

use crate::process::{
    glob::Glob,
    source::{RawProcess, StartTicks},
};

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First port, at least 1.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

/// A text that is no port and no range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no port (1 to 65535) and no range such as 8000-8099")]
pub struct PortError {
    /// The text.
    pub text: String,
}

impl FromStr for PortRange {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(PortError {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(to, "{}", self.first)
        } else {
            write!(to, "{}-{}", self.first, self.last)
        }
    }
}

/// What the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selectors {
    /// Only connections with one of these ports at either end.
    pub ports: Vec<PortRange>,
    /// Executables: a pattern with a slash for the whole path, else for the file name.
    pub exe: Vec<Glob>,
    /// Process ids: each stands for the first process that is seen with it, and for its forked children (workers) too, until those run
    /// another program.
    pub pids: Vec<u32>,
    /// Control groups: patterns for the path below the mount point; groups inside one that fits are meant too.
    pub cgroups: Vec<Glob>,
}

impl Selectors {
    /// Whether some process may be left out.
    #[must_use]
    pub fn narrow_processes(&self) -> bool {
        !(self.exe.is_empty() && self.pids.is_empty() && self.cgroups.is_empty())
    }

    /// One bit for each selected port, 64 to a word; none when ports do not matter.
    #[must_use]
    pub fn port_bits(&self) -> Option<Box<[u64; 1024]>> {
        let mut words = Box::new([0_u64; 1024]);
        for port in self.ports.iter().flat_map(|range| range.first..=range.last) {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        (!self.ports.is_empty()).then_some(words)
    }
}

/// What is done with a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// All its connections are traced.
    Selected,
    /// Its connections with a selected port are traced.
    ByPort,
    /// It is not traced.
    NotSelected,
    /// It is the agent: never traced, and its peers are told.
    Own,
}

impl From<Choice> for Verdict {
    /// The kernel looks at ports by itself, for every process that is not left out.
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Selected | Choice::ByPort => Self::Selected,
            Choice::NotSelected => Self::Ignored,
            Choice::Own => Self::Own,
        }
    }
}

/// Applies selectors to processes and remembers which of them ever matched.
#[derive(Debug)]
pub struct Selection {
    selectors: Selectors,
    own: u32,
    exe_matched: Vec<bool>,
    /// The start of the process that each id stands for; none while nobody had it.
    pid_starts: Vec<Option<StartTicks>>,
    cgroup_matched: Vec<bool>,
    port_matched: Vec<bool>,
    /// Processes selected by id.
    by_pid: HashMap<u32, Original>,
}

/// A process whose forked children are selected with it.
#[derive(Debug)]
struct Original {
    /// Who has the id later began later, also where nobody told that this one ended.
    start: StartTicks,
    /// The executable it had: children share it until they run another program.
    exe: Option<Box<Path>>,
}

impl Selection {
    /// A selection for the agent with process id `own`.
    #[must_use]
    pub fn new(selectors: Selectors, own: u32) -> Self {
        Self {
            own,
            exe_matched: vec![false; selectors.exe.len()],
            pid_starts: vec![None; selectors.pids.len()],
            cgroup_matched: vec![false; selectors.cgroups.len()],
            port_matched: vec![false; selectors.ports.len()],
            by_pid: HashMap::new(),
            selectors,
        }
    }

    /// Process id of the agent.
    #[must_use]
    pub fn own(&self) -> u32 {
        self.own
    }

    /// The selectors.
    #[must_use]
    pub fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// What is done with `process`. Parents are to be asked about before their children. `start_of` tells when the process began that has an id now;
    /// it is asked about a parent only, and only where one with its id was selected by it.
    pub fn choose(
        &mut self,
        process: &RawProcess,
        start_of: impl FnOnce(u32) -> Option<StartTicks>,
    ) -> Choice {
        if process.tgid == self.own {
            return Choice::Own;
        }
        if process.stat.kernel_thread {
            return Choice::NotSelected;
        }
        let wanted = if self.selectors.ports.is_empty() {
            Choice::Selected
        } else {
            Choice::ByPort
        };
        // Every selector is asked, also when an earlier one fits: each shall know whether it ever matched.
        let exe = process.exe.as_deref().map(Path::to_string_lossy);
        let exe = exe.is_some_and(|exe| {
            mark(&self.selectors.exe, &mut self.exe_matched, |glob| {
                glob.matches_path(&exe)
            })
        });
        let cgroup = &process.place.path;
        let cgroup = mark(&self.selectors.cgroups, &mut self.cgroup_matched, |glob| {
            in_group(glob, cgroup)
        });
        let pid = self.by_pid(process, start_of);
        if !self.selectors.narrow_processes() || exe || cgroup || pid {
            wanted
        } else {
            Choice::NotSelected
        }
    }

    /// Whether its id, or that of the parent it is a copy of, was asked for.
    fn by_pid(
        &mut self,
        process: &RawProcess,
        start_of: impl FnOnce(u32) -> Option<StartTicks>,
    ) -> bool {
        let start = process.stat.start;
        let mut named = false;
        for (pid, first) in self.selectors.pids.iter().zip(&mut self.pid_starts) {
            // Who has the id later is somebody else.
            named |= *pid == process.tgid && *first.get_or_insert(start) == start;
        }
        let parent = process.stat.parent;
        let copied = self.by_pid.get(&parent).is_some_and(|original| {
            original.exe.as_deref() == process.exe.as_deref()
                && start_of(parent) == Some(original.start)
        });
        if named || copied {
            let exe = process.exe.as_deref().map(Box::from);
            self.by_pid.insert(process.tgid, Original { start, exe });
        } else {
            self.by_pid.remove(&process.tgid);
        }
        named || copied
    }

    /// Forgets a process that ended.
    pub fn forget(&mut self, tgid: u32) {
        self.by_pid.remove(&tgid);
    }

    /// Notes that a traced connection has these ports.
    pub fn note_ports(&mut self, ports: [u16; 2]) {
        for (range, matched) in self.selectors.ports.iter().zip(&mut self.port_matched) {
            *matched |= ports
                .iter()
                .any(|port| (range.first..=range.last).contains(port));
        }
    }

    /// The selectors that matched nothing so far, as they are written on the command line.
    #[must_use]
    pub fn unmatched(&self) -> Vec<String> {
        let selectors = &self.selectors;
        let mut unmatched = Vec::new();
        unmatched.extend(unmatched_of("--exe", &selectors.exe, &self.exe_matched));
        let seen: Vec<bool> = self.pid_starts.iter().map(Option::is_some).collect();
        unmatched.extend(unmatched_of("--pid", &selectors.pids, &seen));
        unmatched.extend(unmatched_of(
            "--cgroup",
            &selectors.cgroups,
            &self.cgroup_matched,
        ));
        unmatched.extend(unmatched_of("--port", &selectors.ports, &self.port_matched));
        unmatched
    }
}

/// Whether one of `selectors` fits; each that does is marked.
fn mark<T>(selectors: &[T], matched: &mut [bool], fits: impl Fn(&T) -> bool) -> bool {
    let mut any = false;
    for (selector, matched) in selectors.iter().zip(matched) {
        let fits = fits(selector);
        *matched |= fits;
        any |= fits;
    }
    any
}

fn unmatched_of<'a, T: fmt::Display>(
    option: &'a str,
    selectors: &'a [T],
    matched: &'a [bool],
) -> impl Iterator<Item = String> + 'a {
    let unmatched = selectors
        .iter()
        .zip(matched)
        .filter(|(_, matched)| !**matched);
    unmatched.map(move |(selector, _)| format!("{option} {selector}"))
}

/// Whether `path` or a group around it fits; the pattern's own leading and trailing slash may be missing or there.
fn in_group(glob: &Glob, path: &str) -> bool {
    let ends = path
        .match_indices('/')
        .map(|(at, _)| at)
        .filter(|at| *at > 0)
        .chain([path.len()]);
    ends.map(|end| &path[..end]).any(|group| {
        let bare = group.trim_start_matches('/');
        glob.matches(group)
            || glob.matches(bare)
            || glob.matches(&format!("{group}/"))
            || glob.matches(&format!("{bare}/"))
    })
}

#[cfg(test)]
mod tests;
