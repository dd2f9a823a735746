//! Every process that matters, and what is known of it.
//!
//! Input: a scan at start, then [`ProcessChange`]s of the kernel, and questions about the processes of events. Output:
//! [`ProcessFacts`], each read once per program that a process runs, and the verdicts that the kernel shall follow. Facts
//! of a recording go in through [`ProcessTable::insert`]. It has no clock: changes carry their time.
//!
//! Entries are kept under process id *and* start, so nobody inherits from a process that had the id before. Those of
//! ended processes stay for a while, because their last spans are still on the way.

mod change;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use agent_common::abi::Verdict;

pub use self::change::ProcessChange;
use crate::process::{
    dispatch::{self, Dispatch},
    host::Host,
    identity::{IdentityOptions, identify, inherit},
    resource::{ProcessFacts, ProcessKey, Resource},
    runtime::{Runtime, Runtimes},
    selection::{Choice, Selection},
    source::{ProcSource, RawProcess, StartTicks},
};
use crate::telemetry::Counters;

/// Processes that are kept at once, ended ones included: at about 1.5 KB each, 12 MB.
pub const MAX_PROCESSES: usize = 8192;
/// How long an ended process is kept, in nanoseconds.
pub const GRACE_NS: u64 = 10_000_000_000;

/// A process of the table: its id, and its start to the precision that all sources share.
type Place = (u32, StartTicks);

fn place_of(key: ProcessKey) -> Place {
    (key.tgid, StartTicks::of_ns(key.start_ns))
}

#[derive(Debug)]
enum Known {
    /// Nobody asked yet.
    Nothing,
    /// It was looked at.
    Facts(Resource, Runtime),
    /// It was gone when somebody asked.
    Vanished,
}

#[derive(Debug)]
struct Entry {
    known: Known,
    /// The process it is a copy of and the number of the program that it ran then; none after an exec.
    original: Option<(Place, u32)>,
    /// How many programs it has run since it was first seen.
    program: u32,
    /// What was decided about it; none while nobody had to.
    choice: Option<Choice>,
    ended: bool,
}

impl Entry {
    fn new() -> Self {
        Self {
            known: Known::Nothing,
            original: None,
            program: 0,
            choice: None,
            ended: false,
        }
    }
}

/// The processes of one machine, or of one recording.
pub struct ProcessTable<S> {
    source: S,
    host: Host,
    options: IdentityOptions,
    selection: Selection,
    runtimes: Runtimes,
    counters: Arc<Counters>,
    entries: HashMap<Place, Entry>,
    /// The start of the process that has an id now.
    current: HashMap<u32, StartTicks>,
    /// Ended processes in the order of their end.
    ended: VecDeque<(u64, Place)>,
    /// New processes to refuse before the file system is asked again which of the others are gone.
    patience: usize,
}

impl<S: ProcSource> ProcessTable<S> {
    /// An empty table.
    pub fn new(
        source: S,
        host: Host,
        options: IdentityOptions,
        selection: Selection,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            source,
            host,
            options,
            selection,
            runtimes: Runtimes::default(),
            counters,
            entries: HashMap::new(),
            current: HashMap::new(),
            ended: VecDeque::new(),
            patience: 0,
        }
    }

    /// Looks through the processes that exist and gives the verdicts that differ from the kernel's default.
    ///
    /// Without selectors on processes that is the agent's own verdict alone, and the others are not read at all before
    /// one of their connections is seen. To be called once the hooks are attached: what begins later is told by them.
    pub fn scan(&mut self) -> Vec<(u32, Verdict)> {
        if !self.selection.selectors().narrow_processes() {
            return vec![(self.selection.own(), Verdict::Own)];
        }
        let stats = self
            .source
            .tgids()
            .into_iter()
            .filter_map(|tgid| Some((self.source.stat(tgid)?.start, tgid)));
        let mut processes: Vec<_> = stats.collect();
        // Parents are older than their children.
        processes.sort_unstable();
        processes
            .into_iter()
            .filter_map(|(_, tgid)| self.examine(tgid))
            .collect()
    }

    /// The processes that exist now, each with the runtime in its image; nothing of them is kept.
    pub fn scan_runtimes(&mut self) -> Vec<(u32, Runtime)> {
        let (source, runtimes) = (&self.source, &mut self.runtimes);
        let of = |tgid| Some((tgid, runtimes.of(&source.image(tgid)?)));
        source.tgids().into_iter().filter_map(of).collect()
    }

    /// The processes that exist now, each with the name of its service; nothing of them is kept.
    pub fn scan_services(&self) -> Vec<(u32, String)> {
        let of = |tgid| {
            let process = self.source.process(tgid)?;
            let resource = self.identify(&process, Runtime::Other);
            (!process.stat.kernel_thread).then(|| (tgid, resource.service_name().to_owned()))
        };
        self.source.tgids().into_iter().filter_map(of).collect()
    }

    /// Takes over a change, and gives the verdict that the kernel shall follow from now on, where it is another.
    ///
    /// A process that runs a new program is looked at immediately: it may not live long.
    pub fn change(&mut self, change: ProcessChange) -> Option<(u32, Verdict)> {
        match change {
            ProcessChange::Fork { key, parent_tgid } => {
                let parent = (parent_tgid, *self.current.get(&parent_tgid)?);
                let (program, choice) = self
                    .entries
                    .get(&parent)
                    .map(|entry| (entry.program, entry.choice))?;
                let selected = choice.is_some_and(|choice| choice != Choice::NotSelected);
                if selected && self.is_another(parent) {
                    return None;
                }
                let entry = self.enter(place_of(key))?;
                (entry.original, entry.choice) = (Some((parent, program)), choice);
                // The kernel knows nothing of it yet: what the child says before this is not traced where processes are selected.
                choice.map(|choice| (key.tgid, choice.into()))
            }
            ProcessChange::Exec { key } => {
                let place = place_of(key);
                let entry = self.enter(place)?;
                (entry.known, entry.original, entry.program) =
                    (Known::Nothing, None, entry.program.wrapping_add(1));
                let process = self.read(place)?;
                let narrow = self.selection.selectors().narrow_processes();
                let choice = narrow.then(|| self.choose(&process));
                self.keep(place, &process, choice);
                choice.map(|choice| (key.tgid, choice.into()))
            }
            ProcessChange::Exit { key, time_ns } => {
                let place = place_of(key);
                let entry = self.entries.get_mut(&place).filter(|entry| !entry.ended)?;
                entry.ended = true;
                self.ended.push_back((time_ns, place));
                if self.current.get(&key.tgid) == Some(&place.1) {
                    self.current.remove(&key.tgid);
                    self.selection.forget(key.tgid);
                }
                None
            }
        }
    }

    /// What is known of a process, looked up now if nobody asked before; the facts carry the very key that was asked for.
    ///
    /// `None` when it was gone before anybody could look, and is not the copy of a process that is known.
    pub fn facts(&mut self, key: ProcessKey) -> Option<ProcessFacts> {
        self.ensure(key);
        let place = place_of(key);
        let resource = match self.entries.get(&place).map(|entry| &entry.known) {
            Some(Known::Facts(resource, _)) => resource.clone(),
            Some(Known::Nothing | Known::Vanished) => return None,
            // No room to keep it: looked at, and looked at again the next time.
            None => self.identify(&self.read(place)?, Runtime::Other),
        };
        Some(ProcessFacts { key, resource })
    }

    /// The runtime in the image of a process; [`Runtime::Other`] when it is not known.
    pub fn runtime(&mut self, key: ProcessKey) -> Runtime {
        self.ensure(key);
        match self.entries.get(&place_of(key)).map(|entry| &entry.known) {
            Some(Known::Facts(_, runtime)) => *runtime,
            _ => Runtime::Other,
        }
    }

    /// Where the event loop of a process tells whether it handles events; `None` while it does not wait for any.
    pub fn dispatch(&self, tgid: u32) -> Option<Dispatch> {
        dispatch::find(&self.source, tgid)
    }

    /// Takes facts from a recording.
    pub fn insert(&mut self, facts: ProcessFacts) {
        if let Some(entry) = self.enter(place_of(facts.key)) {
            entry.known = Known::Facts(facts.resource, Runtime::Other);
        }
    }

    /// Forgets processes that ended more than [`GRACE_NS`] before `now_ns`.
    pub fn expire(&mut self, now_ns: u64) {
        while let Some((time_ns, place)) = self.ended.front().copied() {
            if now_ns.saturating_sub(time_ns) < GRACE_NS {
                break;
            }
            self.ended.pop_front();
            self.entries.remove(&place);
        }
    }

    /// The selectors with what they matched.
    pub fn selection(&mut self) -> &mut Selection {
        &mut self.selection
    }

    /// Number of processes that are kept, ended ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no process is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is done with a process.
    fn choose(&mut self, process: &RawProcess) -> Choice {
        let source = &self.source;
        let start_of = |tgid| Some(source.stat(tgid)?.start);
        self.selection.choose(process, start_of)
    }

    /// Reads the process that has this id now, keeps what is found, and gives its verdict.
    fn examine(&mut self, tgid: u32) -> Option<(u32, Verdict)> {
        let process = self.source.process(tgid)?;
        let choice = self.choose(&process);
        let place = (tgid, process.stat.start);
        if !process.stat.kernel_thread && self.enter(place).is_some() {
            self.keep(place, &process, Some(choice));
        }
        Some((tgid, choice.into()))
    }

    /// Sees to it that the process was looked at, if it still can be.
    fn ensure(&mut self, key: ProcessKey) {
        let place = place_of(key);
        let Some(entry) = self.enter(place) else {
            return;
        };
        if !matches!(entry.known, Known::Nothing) {
            return;
        }
        let choice = entry.choice;
        if let Some(process) = self.read(place) {
            self.keep(place, &process, choice);
        } else {
            let known = self.inherited(key).unwrap_or(Known::Vanished);
            if matches!(known, Known::Vanished) {
                self.counters.processes_vanished.increment();
            }
            if let Some(entry) = self.entries.get_mut(&place) {
                entry.known = known;
            }
        }
    }

    /// Whether somebody else has a process's id now: its end, and the start of that one, were not told.
    fn is_another(&self, place: Place) -> bool {
        self.source
            .stat(place.0)
            .is_some_and(|stat| stat.start != place.1)
    }

    /// The process, if it still has its id.
    fn read(&self, place: Place) -> Option<RawProcess> {
        self.source
            .process(place.0)
            .filter(|process| process.stat.start == place.1)
    }

    /// What a process has from the one it is a copy of, provided that one runs the program that was copied.
    fn inherited(&self, copy: ProcessKey) -> Option<Known> {
        let (place, program) = self.entries.get(&place_of(copy))?.original?;
        let original = self
            .entries
            .get(&place)
            .filter(|entry| entry.program == program)?;
        let Known::Facts(resource, runtime) = &original.known else {
            return None;
        };
        let original_key = ProcessKey {
            tgid: place.0,
            start_ns: place.1.ns(),
        };
        Some(Known::Facts(
            inherit(resource, original_key, copy, &self.host),
            *runtime,
        ))
    }

    /// Makes a Resource of what was read.
    fn keep(&mut self, place: Place, process: &RawProcess, choice: Option<Choice>) {
        let image = self.source.image(place.0);
        let runtime = image.map_or(Runtime::Other, |image| self.runtimes.of(&image));
        let resource = self.identify(process, runtime);
        self.counters.processes.increment();
        if let Some(entry) = self.entries.get_mut(&place) {
            (entry.known, entry.choice) = (Known::Facts(resource, runtime), choice);
        }
    }

    fn identify(&self, process: &RawProcess, runtime: Runtime) -> Resource {
        identify(process, &self.host, runtime, self.options)
    }

    /// The entry of a process, made where there is none; `None` when there is no room.
    fn enter(&mut self, place: Place) -> Option<&mut Entry> {
        if !self.entries.contains_key(&place) {
            if self.entries.len() >= MAX_PROCESSES && !self.make_room() {
                self.counters.processes_over_limit.increment();
                return None;
            }
            // Whoever had the id before has ended, also when nobody told.
            let earlier = self.current.get(&place.0).copied();
            if earlier.is_none_or(|earlier| earlier < place.1) {
                self.current.insert(place.0, place.1);
                let earlier = earlier.map(|start| (place.0, start));
                if let Some(entry) = earlier
                    .and_then(|earlier| self.entries.get_mut(&earlier))
                    .filter(|entry| !entry.ended)
                {
                    entry.ended = true;
                    // Its time is not known: it goes with the oldest.
                    self.ended.extend(earlier.map(|earlier| (0, earlier)));
                }
            }
        }
        Some(self.entries.entry(place).or_insert_with(Entry::new))
    }

    /// Gives up the process that ended first, before its time; else those of which nobody told that they ended.
    fn make_room(&mut self) -> bool {
        if let Some((_, place)) = self.ended.pop_front() {
            self.entries.remove(&place);
            self.counters.processes_over_limit.increment();
        } else if let Some(patience) = self.patience.checked_sub(1) {
            self.patience = patience;
        } else {
            let source = &self.source;
            let current = &mut self.current;
            self.entries.retain(|place, _| {
                let lives = source
                    .stat(place.0)
                    .is_some_and(|stat| stat.start == place.1);
                if !lives && current.get(&place.0) == Some(&place.1) {
                    current.remove(&place.0);
                }
                lives
            });
            self.patience = MAX_PROCESSES / 8;
        }
        self.entries.len() < MAX_PROCESSES
    }
}

#[cfg(test)]
mod tests;
