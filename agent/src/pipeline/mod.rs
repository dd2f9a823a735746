//! Composes the stages: the only place that knows all of them.
//!
//! Input: [`Input`]s in the order in which the live agent or a recording gives them. Output: sampled [`Span`]s. No I/O, no clock, no order that
//! depends on anything but the input: the same inputs and the same seed give the same spans, byte for byte.

mod books;
mod config;
mod core;
mod extents;
mod feed;
mod retransmissions;
#[cfg(test)]
mod tests;
mod track;

use std::{collections::VecDeque, sync::Arc};

use agent_common::abi::{self, LiveRequest, SlotKind};

pub use self::config::PipelineConfig;
use self::{core::Core, track::Tracked};
use crate::{
    conn::{Connection, Table, process_key},
    event::{Event, Input},
    exchange::{Decided, Failure},
    process::ProcessKey,
    span::Span,
    telemetry::Counters,
};

/// Closed connections that are remembered, so that a late record does not bring one back.
const CLOSED_REMEMBERED: usize = 256;

/// How long a process's facts outlive it, and how long after its end its connections are expected to be closed.
const EXITED_NS: u64 = 5_000_000_000;

/// Ticks within which every connection is asked for that rests (see [`PipelineConfig::asks_resting`]): a minute.
const ASK_TICKS: u32 = 600;

/// Events in, spans out.
#[derive(Debug)]
pub struct Pipeline {
    connections: Table<Tracked>,
    /// Slot and id of connections that have something open, in the order in which they began to.
    active: Vec<(u32, u64)>,
    /// The same vector's storage, while the other one is walked.
    spare: Vec<(u32, u64)>,
    closed: VecDeque<u64>,
    exited: VecDeque<(u64, ProcessKey)>,
    /// The slot behind the last one that was asked for because it rests.
    asked_to: u32,
    core: Core,
}

impl Pipeline {
    /// A pipeline that has seen nothing.
    #[must_use]
    pub fn new(config: PipelineConfig, counters: Arc<Counters>) -> Self {
        Self {
            connections: Table::new(config.connections),
            active: Vec::new(),
            spare: Vec::new(),
            closed: VecDeque::new(),
            exited: VecDeque::new(),
            asked_to: 0,
            core: Core::new(config, counters),
        }
    }

    /// Takes the next input.
    pub fn push(&mut self, input: &Input<'_>) {
        match input {
            Input::Event(event) => self.event(event),
            Input::Process(facts) => self.core.learn(facts),
            Input::Clock(pair) => self.core.clocks.set(*pair),
            Input::Live(answers) => self.live(answers),
            Input::Tick(now_ns) => self.tick(*now_ns),
        }
    }

    /// Moves the spans that are complete and sampled to `out`.
    pub fn drain_spans(&mut self, out: &mut Vec<Span>) {
        self.core.hand_out(out);
    }

    /// The connections whose position somebody should read now, because a message on them may have ended without a record of it.
    /// `socket` and `connection` are set; the answers come back as [`Input::Live`].
    pub fn live_requests(&self, out: &mut Vec<LiveRequest>) {
        for (slot, id) in &self.active {
            let Some(tracked) = self.connections.get(*slot) else {
                continue;
            };
            if tracked.id() == *id && tracked.wants_position() {
                out.push(LiveRequest {
                    socket: tracked.socket(),
                    connection: *id,
                    found: tracked.given_up(),
                    ..LiveRequest::default()
                });
            }
        }
    }

    /// Nobody answers [`Pipeline::live_requests`] any more.
    pub const fn stop_asking(&mut self) {
        self.core.config.asks_resting = false;
    }

    /// Ends everything that is open: for the end of a recording and of the agent. Requests that wait for a response become spans that say that
    /// it was not seen, not spans with an error.
    pub fn finish(&mut self) {
        for slot in self.connections.slots() {
            let Some(id) = self.connections.get(slot).map(Tracked::id) else {
                continue;
            };
            if let Some(mut tracked) = self.connections.remove(id) {
                tracked.abandon(Some(Failure::ResponseUnseen), &mut self.core);
            }
        }
        self.active.clear();
        self.core.stop_waiting();
    }

    /// Whether the books balance; one line for each sum that does not.
    ///
    /// Bytes, messages and decisions that came in equal those that are open, those that became spans, and the losses by reason.
    #[must_use]
    pub fn balance(&self) -> Vec<String> {
        let mut open = books::Open::default();
        for tracked in self.connections.iter() {
            open.exchanges += tracked.open_exchanges();
            open.decisions += tracked.open_decisions();
            open.resent += tracked.open_retransmissions();
            open.distance = open.distance.wrapping_add(tracked.distance());
            open.lag = open.lag.wrapping_add(tracked.lag());
        }
        self.core.balance(open)
    }

    /// Bytes buffered now, over all connections.
    #[must_use]
    pub const fn buffered(&self) -> usize {
        self.core.buffered
    }

    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Segment(segment, payload) => self.segment(segment, payload),
            Event::Decision(record) => self.decision(record),
            Event::Open(open) => self.open(open),
            Event::Close(close) => self.close(close),
            Event::Exit(exit) => {
                let key = ProcessKey {
                    tgid: exit.tgid,
                    start_ns: exit.process_start_ns,
                };
                self.exited.push_back((exit.header.time_ns, key));
            }
            Event::MessageEnd(end) => self.message_end(end),
            Event::Retransmit(record) => self.retransmit(record),
            Event::Await(header) => self.await_end(header.connection),
            Event::Exec(_) | Event::Fork(_) | Event::Release(_) => {}
        }
    }

    fn message_end(&mut self, end: &abi::MessageEnd) {
        if let Some(slot) = self.connections.find(end.header.connection)
            && let Some(tracked) = self.connections.get_mut(slot)
        {
            tracked.message_end(end, &mut self.core);
            Self::list(slot, tracked, &mut self.active);
        }
    }

    fn open(&mut self, open: &abi::Open) {
        let id = open.header.connection;
        if let Some(slot) = self.connections.find(id) {
            if let Some(tracked) = self.connections.get_mut(slot) {
                tracked.open(open);
            }
        } else if !self.closed.contains(&id) {
            self.insert(Connection::opened(open));
        }
    }

    fn segment(&mut self, segment: &abi::Segment, payload: &[u8]) {
        let process = process_key(segment.pid_tgid, segment.process_start_ns);
        let decided = (segment.slot == SlotKind::Decision as u8).then_some(Decided {
            decision: segment.decision,
            time_ns: segment.header.time_ns,
            process,
        });
        let Some(slot) = self.slot_of(segment.header.connection, process) else {
            self.core.counters.segments_stale.increment();
            if decided.is_some() {
                self.core.decision_without_connection();
            }
            return;
        };
        let Some(tracked) = self.connections.get_mut(slot) else {
            return;
        };
        if let Some(decided) = decided {
            tracked.decide(decided, &mut self.core);
        }
        tracked.segment(segment, payload, &mut self.core);
        Self::list(slot, tracked, &mut self.active);
    }

    fn decision(&mut self, record: &abi::DecisionRecord) {
        let process = process_key(record.pid_tgid, record.process_start_ns);
        let Some(slot) = self.slot_of(record.header.connection, process) else {
            self.core.decision_without_connection();
            return;
        };
        let Some(tracked) = self.connections.get_mut(slot) else {
            return;
        };
        let decided = Decided {
            decision: record.decision,
            time_ns: record.header.time_ns,
            process,
        };
        tracked.decide(decided, &mut self.core);
        Self::list(slot, tracked, &mut self.active);
    }

    /// The kernel cannot see the end of something on this connection, of which it tells nothing: it will when it is asked for positions.
    fn await_end(&mut self, connection: u64) {
        if let Some(slot) = self.connections.find(connection)
            && let Some(tracked) = self.connections.get_mut(slot)
        {
            tracked.awaits_end = true;
            Self::list(slot, tracked, &mut self.active);
        }
    }

    fn retransmit(&mut self, record: &abi::Retransmit) {
        let counters = &self.core.counters;
        counters.retransmissions.increment();
        let slot = self.connections.find(record.header.connection);
        let found = slot.and_then(|slot| Some((slot, self.connections.get_mut(slot)?)));
        let Some((slot, tracked)) = found else {
            counters.retransmissions_unattributed.increment();
            return;
        };
        tracked.retransmit(record, &self.core);
        Self::list(slot, tracked, &mut self.active);
    }

    fn close(&mut self, close: &abi::Close) {
        let id = close.header.connection;
        if let Some(mut tracked) = self.connections.remove(id) {
            tracked.close(close, &mut self.core);
            self.remember_closed(id);
        }
    }

    fn live(&mut self, answers: &[LiveRequest]) {
        for answer in answers {
            let slot = self.connections.find(answer.connection);
            if let Some(tracked) = slot.and_then(|slot| self.connections.get_mut(slot)) {
                tracked.live(answer);
            }
        }
    }

    fn tick(&mut self, now_ns: u64) {
        self.core.tick(now_ns);
        self.suspect_connections_of_the_exited(now_ns);
        if self.core.config.asks_resting {
            self.ask_resting();
        }
        let mut active = std::mem::take(&mut self.active);
        self.active = std::mem::take(&mut self.spare);
        for (slot, id) in active.drain(..) {
            let Some(tracked) = self.connections.get_mut(slot) else {
                continue;
            };
            if tracked.id() != id {
                continue;
            }
            tracked.listed = false;
            if tracked.tick(&mut self.core) {
                Self::list(slot, tracked, &mut self.active);
            } else if let Some(mut tracked) = self.connections.remove(id) {
                tracked.abandon(None, &mut self.core);
                self.remember_closed(id);
            }
        }
        self.spare = active;
    }

    /// A connection outlives its process only where another one inherited it: the others' `Close` was lost. The kernel is asked.
    fn suspect_connections_of_the_exited(&mut self, now_ns: u64) {
        let mut gone = Vec::new();
        while let Some((time_ns, key)) = self.exited.front().copied()
            && time_ns.saturating_add(EXITED_NS) < now_ns
        {
            self.exited.pop_front();
            self.core.forget(key);
            gone.push(key);
        }
        if gone.is_empty() {
            return;
        }
        gone.sort_unstable();
        for slot in self.connections.slots() {
            if let Some(tracked) = self.connections.get_mut(slot)
                && gone.binary_search(&tracked.process()).is_ok()
            {
                tracked.suspected = true;
                Self::list(slot, tracked, &mut self.active);
            }
        }
    }

    /// Has some of the connections asked for that nobody would ask for otherwise: all of them within [`ASK_TICKS`].
    fn ask_resting(&mut self) {
        let slots = self.connections.slots();
        let first = if self.asked_to < slots.end {
            self.asked_to
        } else {
            slots.start
        };
        self.asked_to = slots.end.min(first + slots.end / ASK_TICKS + 1);
        for slot in first..self.asked_to {
            if let Some(tracked) = self.connections.get_mut(slot)
                && tracked.may_serve()
            {
                tracked.suspected = true;
                Self::list(slot, tracked, &mut self.active);
            }
        }
    }

    /// The slot of a connection; one whose `Open` was lost is taken in as it is.
    fn slot_of(&mut self, id: u64, process: ProcessKey) -> Option<u32> {
        if let Some(slot) = self.connections.find(id) {
            return Some(slot);
        }
        if self.closed.contains(&id) {
            return None;
        }
        self.core.counters.connections_without_open.increment();
        self.insert(Connection::unopened(id, process))
    }

    fn insert(&mut self, connection: Connection) -> Option<u32> {
        let slot = self
            .connections
            .insert(connection.id, Tracked::new(connection));
        let counters = &self.core.counters;
        if slot.is_some() {
            counters.connections.increment();
        } else {
            counters.connections_over_limit.increment();
        }
        slot
    }

    fn list(slot: u32, tracked: &mut Tracked, active: &mut Vec<(u32, u64)>) {
        if !tracked.listed && tracked.is_active() {
            tracked.listed = true;
            active.push((slot, tracked.id()));
        }
    }

    fn remember_closed(&mut self, id: u64) {
        if self.closed.len() >= CLOSED_REMEMBERED {
            self.closed.pop_front();
        }
        self.closed.push_back(id);
    }
}
