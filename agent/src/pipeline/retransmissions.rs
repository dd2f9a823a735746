//! Bytes that were sent again, until it is known whose they are.
//!
//! Input: records, and the exchanges of their connection. Output: each at its exchange, or in a counter.

use agent_common::abi::Retransmit;

use crate::{
    exchange::{Exchanges, Resent},
    protocol::Side,
    telemetry::Counters,
};

/// How long their message may take to become known: it is read when the process's next record tells what was accepted, or a question to the kernel.
const LATE_NS: u64 = 1_000_000_000;

/// Records of one connection whose message is not known yet.
#[derive(Debug, Default)]
pub(super) struct Retransmissions(Vec<Resent>);

impl Retransmissions {
    /// Records that wait at most.
    pub(super) const LIMIT: usize = 16;

    /// Takes a record.
    pub(super) fn push(&mut self, record: &Retransmit, counters: &Counters) {
        if self.0.len() >= Self::LIMIT {
            counters.retransmissions_over_limit.increment();
            return;
        }
        self.0.push(Resent {
            end: record.header.position,
            bytes: record.length,
            time_ns: record.header.time_ns,
        });
    }

    /// Gives what was passed on to the parser, up to `next`, to the exchanges it belongs to; `side` is what the process sends.
    pub(super) fn settle(
        &mut self,
        side: Side,
        next: u64,
        exchanges: &mut Exchanges,
        counters: &Counters,
    ) {
        self.0.retain(|resent| {
            let noted = resent.end <= next && exchanges.resend(side, *resent, counters);
            !noted
        });
    }

    /// Gives up what belongs to nothing that is open.
    pub(super) fn expire(&mut self, now_ns: u64, counters: &Counters) {
        let before = self.0.len();
        self.0
            .retain(|resent| resent.time_ns.saturating_add(LATE_NS) >= now_ns);
        counters
            .retransmissions_unattributed
            .add((before - self.0.len()) as u64);
    }

    /// Gives up everything.
    pub(super) fn give_up(&mut self, counters: &Counters) {
        counters
            .retransmissions_unattributed
            .add(self.0.len() as u64);
        self.0.clear();
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
