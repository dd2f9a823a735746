//! Which files have probes on their TLS library: those that a traced process has mapped.
//!
//! Input: processes that exist, run another program, are copied, end, or speak TLS that nobody sees. Output: probes, by [`Attached::probe`]. Files are read
//! on a thread of their own. A process is looked at when it is there for a moment, because its libraries are mapped after it has begun, and again when one
//! of its connections carries records of TLS outside of any probed call: it may have loaded its library meanwhile.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use tracing::{debug, warn};

use crate::{
    probe::{
        attach::Attached,
        library::{self, Probed},
    },
    process::{Proc, ProcSource as _, source::FileId},
    tls::{Probe, discovery::Discovery},
};

const MILLISECOND_NS: u64 = 1_000_000;

/// When a process that has begun to run a program is looked at.
const LOOKS_NS: [u64; 4] = [
    20 * MILLISECOND_NS,
    150 * MILLISECOND_NS,
    700 * MILLISECOND_NS,
    3_000 * MILLISECOND_NS,
];

/// A process that speaks TLS unseen is not looked at more often than this, and each time half as often again.
const AGAIN_NS: u64 = 100 * MILLISECOND_NS;

/// Most of these steps: after a quarter of an hour.
const MOST_STEPS: u32 = 13;

/// How long a file without processes keeps its probes: programs that run again and again are seen from their first call.
const LINGER_NS: u64 = 30_000 * MILLISECOND_NS;

/// How long the start waits for the processes that exist.
const START: Duration = Duration::from_secs(5);

/// Processes that are remembered for having spoken TLS unseen; beyond it all are forgotten.
const MAX_UNSEEN: usize = 4_096;

/// What the thread has found in a process.
struct Found {
    tgid: u32,
    files: Vec<(FileId, File, Vec<Probe>)>,
}

/// A file with probes, or one that the kernel let nobody probe.
struct Watched {
    _probed: Option<Probed>,
    processes: HashSet<u32>,
    /// Since when it has had no process.
    idle_ns: u64,
}

/// How often a process was looked at for TLS that nobody saw, and when it may be again.
#[derive(Clone, Copy, Default)]
struct Unseen {
    steps: u32,
    next_ns: u64,
}

/// The probes, and who needs them.
pub(super) struct TlsWatch {
    ask: Sender<u32>,
    found: Receiver<Found>,
    asked: u64,
    answered: u64,
    /// Processes to look at, by time.
    due: BTreeMap<(u64, u32), ()>,
    files: HashMap<FileId, Watched>,
    processes: HashMap<u32, Vec<FileId>>,
    unseen: HashMap<u32, Unseen>,
}

impl TlsWatch {
    /// Looks at processes through the `/proc` mounted at `proc`. Ends its thread when it is dropped.
    pub(super) fn new(proc: PathBuf) -> Self {
        let (ask, asked) = mpsc::channel();
        let (tell, found) = mpsc::channel();
        let look = move || {
            let mut discovery = Discovery::new(proc);
            for tgid in asked {
                if tell.send(look(&mut discovery, tgid)).is_err() {
                    break;
                }
            }
        };
        let spawned = thread::Builder::new().name("tls".to_owned()).spawn(look);
        if let Err(error) = spawned {
            warn!(%error, "TLS libraries are not looked for");
        }
        Self {
            ask,
            found,
            asked: 0,
            answered: 0,
            due: BTreeMap::new(),
            files: HashMap::new(),
            processes: HashMap::new(),
            unseen: HashMap::new(),
        }
    }

    /// Looks at the processes that exist, of which `is_traced` is true, and waits a while until that is done.
    pub(super) fn start(
        &mut self,
        source: &Proc,
        is_traced: impl Fn(u32) -> bool,
        attached: &mut Attached,
    ) {
        for tgid in source.tgids().into_iter().filter(|tgid| is_traced(*tgid)) {
            self.look(tgid);
        }
        let deadline = Instant::now() + START;
        while self.answered < self.asked {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(found) = self.found.recv_timeout(left) else {
                break;
            };
            self.take(found, attached, 0);
        }
    }

    /// A process runs a program.
    pub(super) fn runs(&mut self, tgid: u32, now_ns: u64) {
        self.leave(tgid, now_ns);
        self.unseen.remove(&tgid);
        for delay_ns in LOOKS_NS {
            self.due.insert((now_ns + delay_ns, tgid), ());
        }
    }

    /// A process is a copy of another one.
    pub(super) fn copied(&mut self, parent: u32, child: u32) {
        let Some(files) = self.processes.get(&parent).cloned() else {
            return;
        };
        for id in &files {
            if let Some(file) = self.files.get_mut(id) {
                file.processes.insert(child);
            }
        }
        self.processes.insert(child, files);
    }

    /// A process has ended.
    pub(super) fn ended(&mut self, tgid: u32, now_ns: u64) {
        self.leave(tgid, now_ns);
        self.unseen.remove(&tgid);
    }

    /// Records of TLS that no probed call brought forth.
    pub(super) fn unseen(&mut self, tgid: u32, now_ns: u64) {
        if self.unseen.len() >= MAX_UNSEEN {
            self.unseen.clear();
        }
        let unseen = self.unseen.entry(tgid).or_default();
        if now_ns < unseen.next_ns {
            return;
        }
        unseen.next_ns = now_ns + (AGAIN_NS << unseen.steps);
        unseen.steps = (unseen.steps + 1).min(MOST_STEPS);
        self.look(tgid);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now_ns: u64, attached: &mut Attached) {
        while let Some(((due_ns, tgid), ())) = self.due.first_key_value().map(|(k, v)| (*k, *v)) {
            if due_ns > now_ns {
                break;
            }
            self.due.remove(&(due_ns, tgid));
            self.look(tgid);
        }
        while let Ok(found) = self.found.try_recv() {
            self.take(found, attached, now_ns);
        }
        self.files.retain(|_, file| {
            !file.processes.is_empty() || now_ns.saturating_sub(file.idle_ns) < LINGER_NS
        });
    }

    fn look(&mut self, tgid: u32) {
        if self.ask.send(tgid).is_ok() {
            self.asked += 1;
        }
    }

    /// Probes the files of a process that have no probes yet.
    fn take(&mut self, found: Found, attached: &mut Attached, now_ns: u64) {
        self.answered += 1;
        for (id, file, probes) in found.files {
            let watched = self.files.entry(id).or_insert_with(|| {
                let probed = match attached.probe(&file, &probes) {
                    Ok(probed) => Some(probed),
                    Err(error) => {
                        warn!(%error, "a TLS library is not looked into");
                        None
                    }
                };
                debug!(
                    tgid = found.tgid,
                    programs = probed.as_ref().map_or(0, Probed::len),
                    "TLS library"
                );
                Watched {
                    _probed: probed,
                    processes: HashSet::new(),
                    idle_ns: now_ns,
                }
            });
            if watched.processes.insert(found.tgid) {
                self.processes.entry(found.tgid).or_default().push(id);
            }
        }
    }

    fn leave(&mut self, tgid: u32, now_ns: u64) {
        for id in self.processes.remove(&tgid).into_iter().flatten() {
            if let Some(file) = self.files.get_mut(&id) {
                file.processes.remove(&tgid);
                file.idle_ns = now_ns;
            }
        }
    }
}

/// The files of a process that can be looked into.
fn look(discovery: &mut Discovery, tgid: u32) -> Found {
    let mut files = Vec::new();
    discovery.look_with(tgid, |id, file, examined| {
        let mut probes = Vec::new();
        for finding in &examined.findings {
            if let Ok(found) = &finding.probes
                && library::can_see(found)
            {
                probes.extend(found.iter().cloned());
            }
        }
        if !probes.is_empty()
            && let Ok(file) = file.try_clone()
        {
            files.push((id, file, probes));
        }
    });
    Found { tgid, files }
}
