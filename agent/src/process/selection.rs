//! Which processes and connections are traced.
//!
//! Input: selectors of the configuration, and processes. Output: a verdict for each process, the ports, and which
//! selectors matched nothing so far. It writes no map; the loader does.
//!
//! Process selectors (executable, process id, control group) are alternatives: a process is traced when one of them fits.
//! Ports narrow that down to connections with one of them at either end. No selector at all selects everything.

use std::{collections::HashMap, fmt, path::Path, str::FromStr};

use agent_common::abi::Verdict;

use super::{
    glob::{Glob, GlobError},
    source::RawProcess,
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
    /// Process ids; they stand for their forked children (workers) too, until those run another program.
    pub pids: Vec<u32>,
    /// Control groups: patterns for the path below the mount point; groups inside one that fits are meant too.
    pub cgroups: Vec<Glob>,
}

/// A selector that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {pattern:?} cannot be used: {source}")]
pub struct SelectorError {
    /// The option, `--exe` for instance.
    pub option: &'static str,
    /// Its value.
    pub pattern: String,
    /// What is wrong with it.
    #[source]
    pub source: GlobError,
}

impl Selectors {
    /// Selectors as the configuration has them.
    ///
    /// # Errors
    /// When a pattern cannot be used.
    pub fn new(
        ports: &[u16],
        exe: &[String],
        pids: &[u32],
        cgroups: &[String],
    ) -> Result<Self, SelectorError> {
        let globs = |option, patterns: &[String]| {
            let glob = |pattern: &String| {
                pattern.parse().map_err(|source| SelectorError {
                    option,
                    pattern: pattern.clone(),
                    source,
                })
            };
            patterns.iter().map(glob).collect::<Result<Vec<Glob>, _>>()
        };
        Ok(Self {
            ports: ports
                .iter()
                .map(|port| PortRange {
                    first: *port,
                    last: *port,
                })
                .collect(),
            exe: globs("--exe", exe)?,
            pids: pids.to_vec(),
            cgroups: globs("--cgroup", cgroups)?,
        })
    }

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
    pid_matched: Vec<bool>,
    cgroup_matched: Vec<bool>,
    port_matched: Vec<bool>,
    /// Processes selected by id, with the executable they had: forked children share both.
    by_pid: HashMap<u32, Option<Box<Path>>>,
}

impl Selection {
    /// A selection for the agent with process id `own`.
    #[must_use]
    pub fn new(selectors: Selectors, own: u32) -> Self {
        Self {
            own,
            exe_matched: vec![false; selectors.exe.len()],
            pid_matched: vec![false; selectors.pids.len()],
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

    /// What is done with `process`. Parents are to be asked about before their children.
    pub fn choose(&mut self, process: &RawProcess) -> Choice {
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
        let pid = self.by_pid(process);
        if !self.selectors.narrow_processes() || exe || cgroup || pid {
            wanted
        } else {
            Choice::NotSelected
        }
    }

    /// Whether its id, or that of the parent it is a copy of, was asked for.
    fn by_pid(&mut self, process: &RawProcess) -> bool {
        let named = mark(&self.selectors.pids, &mut self.pid_matched, |pid| {
            *pid == process.tgid
        });
        let copied = self
            .by_pid
            .get(&process.stat.parent)
            .is_some_and(|exe| exe.as_deref() == process.exe.as_deref());
        if named || copied {
            self.by_pid
                .insert(process.tgid, process.exe.as_deref().map(Box::from));
        } else {
            self.by_pid.remove(&process.tgid);
        }
        named || copied
    }

    /// Forgets a process that ended: its id may come round.
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
        unmatched.extend(unmatched_of("--pid", &selectors.pids, &self.pid_matched));
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
mod tests {
    use super::*;
    use crate::process::{
        cgroup::Place,
        source::{StartTicks, Stat},
    };

    fn process(tgid: u32, parent: u32, exe: &str, cgroup: &str) -> RawProcess {
        RawProcess {
            tgid,
            stat: Stat {
                comm: "x".into(),
                parent,
                kernel_thread: false,
                start: StartTicks::of_ns(0),
            },
            exe: Some(exe.into()),
            args: Vec::new(),
            variables: Vec::new(),
            place: Place::parse(&format!("0::{cgroup}\n")),
            container_name: None,
        }
    }

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts
            .iter()
            .map(|text| text.parse().expect("a valid pattern"))
            .collect()
    }

    fn ports(texts: &[&str]) -> Vec<PortRange> {
        texts
            .iter()
            .map(|text| text.parse().expect("a valid range"))
            .collect()
    }

    #[test]
    fn selects_everything_but_itself_and_the_kernel_when_nothing_is_asked() {
        let mut selection = Selection::new(Selectors::default(), 9);
        assert_eq!(
            selection.choose(&process(1, 0, "/bin/a", "/")),
            Choice::Selected
        );
        assert_eq!(
            selection.choose(&process(9, 0, "/bin/undertrace", "/")),
            Choice::Own
        );
        let mut thread = process(2, 0, "", "/");
        thread.stat.kernel_thread = true;
        assert_eq!(selection.choose(&thread), Choice::NotSelected);
        assert!(selection.unmatched().is_empty());
    }

    #[test]
    fn takes_process_selectors_as_alternatives() {
        let selectors = Selectors {
            exe: globs(&["nginx"]),
            pids: vec![7],
            cgroups: globs(&["/system.slice/shop.service"]),
            ..Selectors::default()
        };
        let mut selection = Selection::new(selectors, 9);
        assert_eq!(
            selection.choose(&process(1, 0, "/usr/sbin/nginx", "/")),
            Choice::Selected
        );
        assert_eq!(
            selection.choose(&process(7, 0, "/bin/a", "/")),
            Choice::Selected
        );
        assert_eq!(
            selection.choose(&process(
                3,
                0,
                "/bin/a",
                "/system.slice/shop.service/workers"
            )),
            Choice::Selected
        );
        assert_eq!(
            selection.choose(&process(4, 0, "/bin/a", "/system.slice/shop.service2")),
            Choice::NotSelected
        );
        assert!(selection.unmatched().is_empty());
    }

    #[test]
    fn narrows_the_selected_processes_to_ports() {
        let only_ports = Selectors {
            ports: ports(&["80", "8000-8099"]),
            ..Selectors::default()
        };
        let mut selection = Selection::new(only_ports.clone(), 9);
        assert_eq!(
            selection.choose(&process(1, 0, "/bin/a", "/")),
            Choice::ByPort
        );
        let mut both = Selection::new(
            Selectors {
                exe: globs(&["nginx"]),
                ..only_ports.clone()
            },
            9,
        );
        assert_eq!(
            both.choose(&process(1, 0, "/bin/a", "/")),
            Choice::NotSelected
        );
        assert_eq!(
            both.choose(&process(1, 0, "/usr/sbin/nginx", "/")),
            Choice::ByPort
        );
        let bits = only_ports.port_bits().expect("there are ports");
        let set = |port: u16| bits[usize::from(port / 64)] >> (port % 64) & 1 == 1;
        assert!(set(80) && set(8000) && set(8099) && !set(8100) && !set(79));
        assert_eq!(bits.iter().map(|word| word.count_ones()).sum::<u32>(), 101);
        assert_eq!(Selectors::default().port_bits(), None);
    }

    #[test]
    fn follows_a_process_id_to_its_workers_and_no_further() {
        let mut selection = Selection::new(
            Selectors {
                pids: vec![7],
                ..Selectors::default()
            },
            9,
        );
        assert_eq!(
            selection.choose(&process(7, 1, "/usr/sbin/nginx", "/")),
            Choice::Selected
        );
        assert_eq!(
            selection.choose(&process(8, 7, "/usr/sbin/nginx", "/")),
            Choice::Selected
        );
        assert_eq!(
            selection.choose(&process(8, 7, "/bin/logrotate", "/")),
            Choice::NotSelected,
            "it ran something else"
        );
        assert_eq!(
            selection.choose(&process(10, 8, "/bin/logrotate", "/")),
            Choice::NotSelected
        );
        selection.forget(7);
        assert_eq!(
            selection.choose(&process(11, 7, "/usr/sbin/nginx", "/")),
            Choice::NotSelected,
            "7 is somebody else now"
        );
    }

    #[test]
    fn tells_which_selectors_matched_nothing() {
        let selectors = Selectors {
            ports: ports(&["80", "8000-8099"]),
            exe: globs(&["nginx", "ngnix"]),
            pids: vec![7],
            cgroups: globs(&["/shop/*"]),
        };
        let mut selection = Selection::new(selectors, 9);
        selection.choose(&process(1, 0, "/usr/sbin/nginx", "/shop/cart"));
        selection.note_ports([41_000, 80]);
        assert_eq!(
            selection.unmatched(),
            ["--exe ngnix", "--pid 7", "--port 8000-8099"]
        );
    }

    #[test]
    fn takes_control_groups_with_and_without_slashes() {
        let fits =
            |pattern: &str, path: &str| in_group(&pattern.parse().expect("a valid pattern"), path);
        for pattern in ["/a/b", "a/b", "a/b/", "/a/*", "a", "/a/**", "**"] {
            assert!(fits(pattern, "/a/b"), "{pattern}");
        }
        for pattern in ["b", "/b", "/a/b/c", "ab"] {
            assert!(!fits(pattern, "/a/b"), "{pattern}");
        }
        assert!(fits("/", "/") && !fits("a", "/"));
    }

    #[test]
    fn takes_selectors_from_the_configuration() {
        let texts = |text: &str| vec![text.to_owned()];
        let selectors = Selectors::new(&[80], &texts("nginx"), &[7], &texts("/shop/*"));
        let expected = Selectors {
            ports: ports(&["80"]),
            exe: globs(&["nginx"]),
            pids: vec![7],
            cgroups: globs(&["/shop/*"]),
        };
        assert_eq!(selectors, Ok(expected));
        let error = Selectors::new(&[], &texts(""), &[], &[]).expect_err("nothing would match");
        assert_eq!(
            error.to_string(),
            "--exe \"\" cannot be used: the pattern is empty"
        );
    }

    #[test]
    fn reads_ports_and_ranges() {
        assert_eq!(
            "80".parse(),
            Ok(PortRange {
                first: 80,
                last: 80
            })
        );
        assert_eq!(
            "8000-8099".parse(),
            Ok(PortRange {
                first: 8000,
                last: 8099
            })
        );
        assert_eq!(
            "8000-8099"
                .parse::<PortRange>()
                .map(|range| range.to_string())
                .as_deref(),
            Ok("8000-8099")
        );
        for text in ["", "0", "65536", "90-80", "http", "80-", "-80", "80,81"] {
            assert_eq!(
                text.parse::<PortRange>(),
                Err(PortError { text: text.into() })
            );
        }
    }
}
