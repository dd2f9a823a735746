//! What the parser found, and what the kernel knows of it.
//!
//! Input: items of the parser, decisions, what was sent again. Output: exchanges that are over, each with its decision, for the core.

use agent_common::abi::{Direction, Retransmit};

use super::Tracked;
use crate::{
    exchange::{Decided, Noted},
    pipeline::{
        core::Core,
        feed::{Speech, side_of},
    },
    protocol::Item,
    span::SpanKind,
};

impl Tracked {
    /// Takes a decision, before or after its message.
    pub(in crate::pipeline) fn decide(&mut self, decided: Decided, core: &mut Core) {
        let decision = &decided.decision;
        if decision.trace_id == [0; 16] {
            return;
        }
        let direction = Direction::from_u8(decision.direction);
        if let Speech::Parsed(_, requests) = self.speech
            && requests == direction
            && let Some(exchange) = self.exchanges.find_mut(decision.position, decision.stream)
        {
            if exchange.decided.is_none() {
                core.decision_read(&decided);
                exchange.rejected = core.joined(&decided, exchange.request.start_ns);
                exchange.decided = Some(decided);
                self.decisions.note_joined(direction, decision.position);
            }
            return;
        }
        if self.decisions.knows(decision) {
            return;
        }
        core.decision_read(&decided);
        if let Some(oldest) = self.decisions.push(decided) {
            self.unobserved(oldest, core);
        }
    }

    /// Takes a record of bytes that were sent again.
    pub(in crate::pipeline) fn retransmit(&mut self, record: &Retransmit, core: &Core) {
        self.resent.push(record, &core.counters);
        self.settle_resent(core);
    }

    /// Gives what was sent again to its exchange, where that is known.
    pub(super) fn settle_resent(&mut self, core: &Core) {
        if !self.resent.is_empty()
            && let Speech::Parsed(_, requests) = self.speech
        {
            let side = side_of(Direction::Send, requests);
            let next = self.connection.streams[Direction::Send as usize].next();
            self.resent
                .settle(side, next, &mut self.exchanges, &core.counters);
        }
    }

    /// Passes what the parser found on to the exchanges, and those that are over to the core.
    #[inline]
    pub(super) fn note(&mut self, core: &mut Core) {
        if !core.items.is_empty() {
            self.note_items(core);
        }
    }

    fn note_items(&mut self, core: &mut Core) {
        let mut items = std::mem::take(&mut core.items);
        for item in &items {
            let Speech::Parsed(_, requests) = self.speech else {
                continue;
            };
            if matches!(item, Item::NotThis) {
                self.speech = Speech::Unknown;
                continue;
            }
            let decisions = &mut self.decisions;
            let noted = self.exchanges.push(item, |request| {
                decisions.take(requests, request.position, request.stream)
            });
            let counters = &core.counters;
            match noted {
                Noted::Request => {
                    counters.messages_request.increment();
                    if let Some(exchange) = self.exchanges.newest_mut()
                        && let Some(decided) = &exchange.decided
                    {
                        exchange.rejected = core.joined(decided, exchange.request.start_ns);
                    }
                }
                Noted::Response => counters.messages_response.increment(),
                Noted::Unpaired => {
                    counters.messages_response.increment();
                    counters.responses_unpaired.increment();
                }
                Noted::Lost => counters.messages_lost_to_gap.increment(),
                Noted::OverLimit => counters.messages_over_limit.increment(),
                Noted::Nothing => {}
            }
            if self.exchanges.has_finished() {
                self.settle_resent(core);
                self.finish_exchanges(requests, core);
            }
        }
        items.clear();
        core.items = items;
        self.settle_resent(core);
    }

    pub(super) fn finish_exchanges(&mut self, requests: Direction, core: &mut Core) {
        let endpoints = self.connection.endpoints.as_deref();
        let common = &mut self.common;
        self.exchanges
            .finish(|exchange| core.exchange(exchange, kind(requests), endpoints, common));
    }

    pub(super) fn unobserved(&self, decided: Decided, core: &mut Core) {
        let direction = Direction::from_u8(decided.decision.direction);
        let known = self.connection.streams[direction as usize].known().position;
        let sent = known > decided.decision.position;
        core.unobserved(decided, sent, self.connection.endpoints.as_deref());
    }
}

pub(super) fn kind(requests: Direction) -> SpanKind {
    match requests {
        Direction::Receive => SpanKind::Server,
        Direction::Send => SpanKind::Client,
    }
}
