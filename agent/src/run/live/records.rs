//! One record on its way: process table, kernel's verdicts, recording, and then the pipeline.
//!
//! Input: records of the ring buffer and what the loop adds (ticks, clocks, live positions). Output: the same as
//! [`Input`]s of the pipeline, each process told before its events.

use agent_common::abi::{PolicyKind, Verdict};
use tracing::warn;

use super::Inner;
use crate::{
    event::{Event, Input, clock, decode::decode_counted, recording::Recorder},
    process::{ProcessChange, ProcessKey},
    tls,
};

/// Processes whose facts the pipeline has; beyond it they are told again.
const MAX_TOLD: usize = 16_384;

impl Inner {
    /// Writes the verdicts on the processes that exist.
    pub(super) fn scan(&mut self) {
        for (tgid, verdict) in self.table.scan() {
            self.judge(tgid, verdict);
        }
        for (tgid, runtime) in self.table.scan_runtimes() {
            self.event_loops.note(tgid, runtime);
        }
        self.look_at_event_loops(clock::monotonic_ns());
        if self.sample_rules.are_wanted() {
            for (tgid, service) in self.table.scan_services() {
                self.sample_rules.note(tgid, &service);
            }
        }
    }

    pub(super) fn look_at_event_loops(&mut self, now_ns: u64) {
        let table = &self.table;
        self.event_loops.tick(now_ns, |tgid| table.dispatch(tgid));
    }

    /// One record of the ring buffer.
    pub(super) fn record(&mut self, record: &[u8]) {
        let Some(event) = decode_counted(record, &self.counters) else {
            self.write(|recorder| recorder.record(record));
            return;
        };
        self.follow(&event);
        self.write(|recorder| recorder.record(record));
        self.pipeline.push(&Input::Event(event));
    }

    /// Keeps the process table up to date, and tells the pipeline of processes before their events.
    fn follow(&mut self, event: &Event<'_>) {
        match *event {
            Event::Segment(segment, payload) => {
                self.tell(segment.pid_tgid, segment.process_start_ns);
                if segment.policy == PolicyKind::Detect as u8
                    && tls::begins_record(payload)
                    && let Some(tls) = &mut self.tls
                {
                    tls.unseen((segment.pid_tgid >> 32) as u32, segment.header.time_ns);
                }
            }
            Event::Decision(record) => self.tell(record.pid_tgid, record.process_start_ns),
            Event::Open(open) => {
                self.table
                    .selection()
                    .note_ports([open.local_port, open.peer_port]);
                self.tell(open.pid_tgid, open.process_start_ns);
            }
            Event::Exec(exec) => {
                let key = ProcessKey {
                    tgid: exec.tgid,
                    start_ns: exec.process_start_ns,
                };
                self.change(exec.into());
                self.event_loops.forget(exec.tgid);
                self.sample_rules.forget(exec.tgid);
                self.told.remove(&key);
                self.tell(u64::from(exec.tgid) << 32, exec.process_start_ns);
                if self.is_traced(exec.tgid)
                    && let Some(tls) = &mut self.tls
                {
                    tls.runs(exec.tgid, exec.header.time_ns);
                }
            }
            Event::Fork(fork) => {
                self.change(fork.into());
                self.event_loops.forked(fork.parent_tgid, fork.tgid);
                self.sample_rules.forked(fork.parent_tgid, fork.tgid);
                if let Some(tls) = &mut self.tls {
                    tls.copied(fork.parent_tgid, fork.tgid);
                }
            }
            Event::Exit(exit) => {
                self.change(exit.into());
                self.event_loops.forget(exit.tgid);
                self.sample_rules.forget(exit.tgid);
                if let Some(tls) = &mut self.tls {
                    tls.ended(exit.tgid, exit.header.time_ns);
                }
                self.told.remove(&ProcessKey {
                    tgid: exit.tgid,
                    start_ns: exit.process_start_ns,
                });
            }
            Event::Close(_)
            | Event::Release(_)
            | Event::MessageEnd(_)
            | Event::Retransmit(_)
            | Event::Await(_) => {}
        }
        if let Some(injection) = &mut self.injection {
            injection.follow(event, &self.counters);
        }
    }

    fn tell(&mut self, pid_tgid: u64, start_ns: u64) {
        let key = ProcessKey {
            tgid: (pid_tgid >> 32) as u32,
            start_ns,
        };
        if self.told.contains(&key) {
            return;
        }
        if self.told.len() >= MAX_TOLD {
            self.told.clear();
        }
        self.told.insert(key);
        if let Some(facts) = self.table.facts(key) {
            self.push(&Input::Process(&facts));
            let runtime = self.table.runtime(key);
            self.event_loops.note(key.tgid, runtime);
            let service = facts.resource.service_name();
            self.sample_rules.note(key.tgid, service);
        }
    }

    fn change(&mut self, change: ProcessChange) {
        if let Some((tgid, verdict)) = self.table.change(change) {
            self.judge(tgid, verdict);
        }
    }

    /// Whether the kernel's programs look at this process.
    fn is_traced(&mut self, tgid: u32) -> bool {
        let unknown = !self.table.selection().selectors().narrow_processes();
        match self.verdicts.get(tgid) {
            Ok(Verdict::Selected) => true,
            Ok(Verdict::Unknown) => unknown,
            _ => false,
        }
    }

    fn judge(&mut self, tgid: u32, verdict: Verdict) {
        if let Err(error) = self.verdicts.set(tgid, verdict) {
            warn!(tgid, %error, "cannot tell the kernel whether to trace a process");
        }
    }

    /// An input that is no record.
    pub(super) fn push(&mut self, input: &Input<'_>) {
        match input {
            Input::Process(facts) => self.write(|recorder| recorder.process(facts)),
            Input::Clock(pair) => self.write(|recorder| recorder.clock(*pair)),
            Input::Live(answers) => self.write(|recorder| recorder.live(answers)),
            Input::Tick(now_ns) => self.write(|recorder| recorder.tick(*now_ns)),
            Input::Event(_) => {}
        }
        self.pipeline.push(input);
    }

    /// Writes to the recording, if there is one. A recording that cannot be continued is ended; tracing goes on.
    fn write(
        &mut self,
        write: impl FnOnce(&mut Recorder) -> Result<(), crate::event::recording::RecordingError>,
    ) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = write(recorder)
        {
            warn!(%error, "the recording ends here");
            self.recorder = None;
        }
    }
}
