//! What time and the end of a connection do to it.
//!
//! Input: ticks, positions of the socket, its `Close`, or the word that nobody follows it any more. Output: gaps given up, requests without a
//! response and decisions without a message ended.

use agent_common::abi::{Close, CloseReason, Direction, LiveRequest, StreamState};

use super::{Tracked, feed, messages::kind};
use crate::{
    conn::{Hold, Stream},
    exchange::{Ending, Failure},
    pipeline::{
        core::{Core, nanoseconds},
        feed::{Feed, Speech},
    },
    span::http::Common,
};

/// How long a decision whose message was passed over is kept, should the message come after all.
const DECISION_LATE_NS: u64 = 1_000_000_000;

/// Ticks after which a connection that the kernel does not know any more counts as closed although its `Close` did not come.
const GONE_TICKS: u8 = 2;

/// errno values that name an outcome (include/uapi/asm-generic/errno.h).
const EPIPE: u32 = 32;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;

impl Tracked {
    /// The kernel answered where the socket stands.
    pub(in crate::pipeline) fn live(&mut self, answer: &LiveRequest) {
        if answer.found == 0 {
            self.gone_ticks = self.gone_ticks.max(1);
        } else {
            self.gone_ticks = 0;
            self.suspected = false;
            self.awaits_end &= answer.found & LiveRequest::IS_OPEN != 0;
            self.overdue = false;
            self.live = Some(Box::new([answer.received, answer.sent]));
        }
    }

    /// Time passed; false when the connection is gone and its `Close` was lost.
    pub(in crate::pipeline) fn tick(&mut self, core: &mut Core) -> bool {
        if self.gone_ticks > 0 {
            self.gone_ticks += 1;
            if self.gone_ticks > GONE_TICKS {
                return false;
            }
        }
        if !self.hold.is_empty() {
            self.hold.ticks += 1;
            if self.hold.ticks >= Hold::TICKS {
                self.retry_held(true, core);
            }
        }
        if let Some(states) = self.live.take() {
            self.apply_live(&states, core);
        }
        self.settle_lag(core);
        self.settle_resent(core);
        self.resent.expire(core.now_ns, &core.counters);
        self.expire(core);
        self.account(core);
        if !self.is_active() {
            // Thousands of connections may rest.
            self.common = Common::default();
            if let Speech::Parsed(parser, _) = &mut self.speech {
                parser.relax();
            }
        }
        true
    }

    /// No record came since these states were read, so that they tell where the streams rest.
    fn apply_live(&mut self, states: &[StreamState; 2], core: &mut Core) {
        let first = match self.speech {
            Speech::Parsed(_, requests) => requests,
            Speech::Unjudged | Speech::Unknown => Direction::Send,
        };
        for direction in [first, first.opposite()] {
            let state = &states[direction as usize];
            self.observe(direction, state, core);
            self.note(core);
            self.rest(direction, state, false, core);
        }
    }

    /// Bytes of which no record came within a tick are given up.
    fn settle_lag(&mut self, core: &mut Core) {
        let lags = self.connection.streams.iter().any(Stream::lags);
        if !lags || !self.hold.is_empty() {
            self.lag_ticks = 0;
            return;
        }
        self.lag_ticks += 1;
        if self.lag_ticks > 1 {
            self.lag_ticks = 0;
            self.settle_all(core);
        }
    }

    fn settle_all(&mut self, core: &mut Core) {
        for direction in [Direction::Receive, Direction::Send] {
            let mut feed = feed!(self, direction, core);
            self.connection.streams[direction as usize].give_up(u64::MAX, &mut feed);
            self.note(core);
        }
    }

    fn expire(&mut self, core: &mut Core) {
        let timeout_ns = nanoseconds(core.config.response_timeout);
        let before_ns = core.now_ns.saturating_sub(timeout_ns);
        if let Speech::Parsed(_, requests) = self.speech
            && before_ns > 0
        {
            let mut expired = std::mem::take(&mut core.finished);
            self.exchanges.expire(before_ns, core.now_ns, &mut expired);
            self.overdue |= !expired.is_empty();
            for mut exchange in expired.drain(..) {
                core.exchange(
                    &mut exchange,
                    kind(requests),
                    self.connection.endpoints.as_deref(),
                    &mut self.common,
                );
            }
            core.finished = expired;
        }
        let now_ns = core.now_ns;
        loop {
            let streams = &self.connection.streams;
            let given_up = self.decisions.give_up(|decided| {
                let decision = &decided.decision;
                let stream = &streams[usize::from(decision.direction & 1)];
                let passed = decision.position < stream.next();
                let limit_ns = if passed { DECISION_LATE_NS } else { timeout_ns };
                decided.time_ns.saturating_add(limit_ns) < now_ns
            });
            let Some(decided) = given_up else { break };
            self.unobserved(decided, core);
        }
    }

    /// Its last record: the final positions.
    pub(in crate::pipeline) fn close(&mut self, close: &Close, core: &mut Core) {
        self.retry_held(true, core);
        self.connection.dropped = self.connection.dropped.max(close.dropped);
        let reason = CloseReason::from_u8(close.reason);
        if matches!(reason, CloseReason::ConnectFailed) {
            core.counters.connects_failed.increment();
        }
        let failure = match reason {
            CloseReason::Closed if close.error == 0 => None,
            CloseReason::Encrypted => None,
            _ => Some(match close.error {
                ECONNRESET | EPIPE => Failure::ConnectionReset,
                ETIMEDOUT => Failure::ConnectionTimeout,
                _ => Failure::ConnectionError,
            }),
        };
        let ending = Ending {
            // A process that closes gives up what it waits for at that time, and not when the peer has answered its FIN.
            time_ns: match (close.closed_ns, failure) {
                (0, _) | (_, Some(_)) => close.header.time_ns,
                (closed_ns, None) => closed_ns,
            },
            failure,
        };
        let states = [close.received, close.sent];
        self.apply_live(&states, core);
        self.end(ending, core);
    }

    /// It is not followed any more: the connection is gone and nobody said how, or the agent ends (`failure`).
    pub(in crate::pipeline) fn abandon(&mut self, failure: Option<Failure>, core: &mut Core) {
        self.retry_held(true, core);
        // What was offered last was accepted, as far as anybody knows.
        let mut feed = feed!(self, Direction::Send, core);
        let sent = &mut self.connection.streams[Direction::Send as usize];
        sent.imply(&mut core.buffers, &mut feed);
        self.note(core);
        let last_ns = |stream: &Stream| stream.known().last_time_ns;
        let [received, sent] = &self.connection.streams;
        let ending = Ending {
            time_ns: last_ns(received).max(last_ns(sent)).max(core.now_ns),
            failure,
        };
        self.end(ending, core);
    }

    fn end(&mut self, ending: Ending, core: &mut Core) {
        self.settle_all(core);
        self.pass_extents(core);
        if let Speech::Parsed(parser, requests) = &mut self.speech {
            let requests = *requests;
            let streams = &self.connection.streams;
            let request = streams[requests as usize].known();
            let response = streams[requests.opposite() as usize].known();
            let in_order = ending.failure.is_none();
            parser.close(request, response, in_order, &mut core.items);
            self.note(core);
            self.settle_resent(core);
            self.exchanges.close(ending);
            self.finish_exchanges(requests, core);
        }
        core.passed(self.distance());
        self.resent.give_up(&core.counters);
        while let Some(decided) = self.decisions.give_up(|_| true) {
            self.unobserved(decided, core);
        }
        for stream in &mut self.connection.streams {
            stream.drop_pending(&mut core.buffers);
        }
        core.buffered -= self.buffered;
        self.buffered = 0;
    }
}
