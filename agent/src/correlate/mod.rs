//! Joins the kernel's decisions to the messages they were made for.
//!
//! Input: decisions, inlined or as records of their own, before or after their message; exchanges. Output: the [`Context`] of each exchange.
//! A decision is final: what user space may do is to join it to the message at exactly its position, to reject its parent when that proves
//! wrong, to count a decision without a message, and to give ids to a message without a decision.

mod ids;
mod parents;
mod retries;

use agent_common::{
    abi::{Decision, Direction, Method, Source, decision_flags},
    wire::{
        sampling,
        traceparent::{self, TraceParent},
    },
};

pub use self::{
    ids::Ids,
    parents::{Parents, Verdict},
    retries::Retries,
};
use crate::exchange::{Decided, Exchange};

/// Decisions of one connection whose messages have not come, in order of arrival.
#[derive(Debug, Default)]
pub struct Decisions {
    waiting: Vec<Decided>,
    /// For each direction, behind the last position that was joined.
    joined: [u64; 2],
}

impl Decisions {
    /// Decisions that wait on one connection at most: four times what one segment can bring.
    pub const LIMIT: usize = 32;

    /// Whether this decision is here, or was joined already.
    #[must_use]
    pub fn knows(&self, decision: &Decision) -> bool {
        let joined = self.joined[usize::from(decision.direction & 1)];
        decision.stream == 0 && decision.position < joined
            || self.waiting.iter().any(|waiting| {
                let known = &waiting.decision;
                known.position == decision.position
                    && known.direction == decision.direction
                    && known.stream == decision.stream
            })
    }

    /// Keeps a decision; gives back the oldest when there are too many.
    pub fn push(&mut self, decided: Decided) -> Option<Decided> {
        let oldest = (self.waiting.len() >= Self::LIMIT).then(|| self.waiting.remove(0));
        self.waiting.push(decided);
        oldest
    }

    /// The decision for the message at exactly this place.
    pub fn take(&mut self, direction: Direction, position: u64, stream: u32) -> Option<Decided> {
        let at = self.waiting.iter().position(|waiting| {
            let decision = &waiting.decision;
            decision.position == position
                && decision.direction == direction as u8
                && decision.stream == stream
        })?;
        self.note_joined(direction, position);
        Some(self.waiting.remove(at))
    }

    /// A decision for this place was joined.
    pub fn note_joined(&mut self, direction: Direction, position: u64) {
        let joined = &mut self.joined[direction as usize];
        *joined = (*joined).max(position.saturating_add(1));
    }

    /// The next decision that `is_over` says no message will come for.
    pub fn give_up(&mut self, is_over: impl Fn(&Decided) -> bool) -> Option<Decided> {
        let at = self.waiting.iter().position(is_over)?;
        Some(self.waiting.remove(at))
    }

    /// Decisions that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Thresholds of [`sampling::is_sampled`] for messages that the kernel did not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Where the caller leaves the choice to us: the same for all services, which must decide alike.
    pub left_to_us: u64,
    /// Where a trace begins.
    pub root: u64,
}

/// What a span is in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Trace.
    pub trace_id: [u8; 16],
    /// This span.
    pub span_id: [u8; 8],
    /// Its parent.
    pub parent: Option<[u8; 8]>,
    /// The parent is a span of another process.
    pub parent_is_remote: bool,
    /// W3C trace flags.
    pub flags: u8,
    /// How the parent was found.
    pub source: Source,
    /// The rule of causality that found it.
    pub method: Method,
    /// Percent.
    pub confidence: u8,
    /// The receiver can know this context.
    pub propagated: bool,
    /// A parent that was rejected, and why.
    pub rejected: Option<([u8; 8], &'static str)>,
    /// The request's `traceparent`, where its peer is not trusted with one.
    pub untrusted: Option<TraceParent>,
}

impl Context {
    /// The context that a decision says, its parent rejected for a reason or not.
    #[must_use]
    pub fn of(decided: &Decided, rejected: Option<&'static str>) -> Self {
        let decision = &decided.decision;
        let source = Source::from_u8(decision.source).unwrap_or(Source::Root);
        let parent = (decision.parent_span_id != [0; 8]).then_some(decision.parent_span_id);
        let rejected = rejected.and_then(|reason| parent.map(|parent| (parent, reason)));
        Self {
            trace_id: decision.trace_id,
            span_id: decision.span_id,
            parent: parent.filter(|_| rejected.is_none()),
            parent_is_remote: source != Source::Causal,
            flags: decision.trace_flags,
            source,
            method: Method::from_u8(decision.method).unwrap_or(Method::None),
            confidence: decision.confidence,
            propagated: decided.has(decision_flags::PROPAGATED),
            rejected,
            untrusted: None,
        }
    }

    /// The context of an exchange that the kernel did not decide: the request's own header is its parent where it is `trusted`, else it begins
    /// a trace, sampled when its id says so by the threshold.
    #[must_use]
    pub fn undecided(
        exchange: &Exchange,
        ids: &mut Ids,
        thresholds: Thresholds,
        trusted: bool,
    ) -> Self {
        let span_id = ids.span_id();
        let header = exchange.request.detail.context(thresholds.left_to_us);
        let mut context = Self {
            trace_id: [0; 16],
            span_id,
            parent: None,
            parent_is_remote: true,
            flags: traceparent::FLAG_RANDOM,
            source: Source::Root,
            method: Method::None,
            confidence: 100,
            propagated: false,
            rejected: None,
            untrusted: header.filter(|_| !trusted),
        };
        if let Some(header) = header
            && trusted
        {
            context.trace_id = header.trace_id;
            context.parent = Some(header.span_id);
            context.flags = header.flags & (traceparent::FLAG_SAMPLED | traceparent::FLAG_RANDOM);
            context.source = Source::Header;
        } else {
            context.trace_id = ids.trace_id();
            if sampling::is_sampled(&context.trace_id, thresholds.root) {
                context.flags |= traceparent::FLAG_SAMPLED;
            }
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ProcessKey;

    fn decided(position: u64) -> Decided {
        Decided {
            decision: Decision {
                position,
                trace_id: [1; 16],
                span_id: [2; 8],
                parent_span_id: [3; 8],
                direction: Direction::Send as u8,
                source: Source::Causal as u8,
                ..Decision::default()
            },
            time_ns: 0,
            process: ProcessKey {
                tgid: 1,
                start_ns: 1,
            },
        }
    }

    #[test]
    fn joins_exactly_its_place_and_only_once() {
        let mut decisions = Decisions::default();
        assert!(!decisions.knows(&decided(10).decision));
        assert_eq!(decisions.push(decided(10)), None);
        assert!(decisions.knows(&decided(10).decision));
        assert_eq!(decisions.take(Direction::Send, 11, 0), None);
        assert_eq!(decisions.take(Direction::Receive, 10, 0), None);
        assert_eq!(decisions.take(Direction::Send, 10, 1), None);
        assert_eq!(decisions.take(Direction::Send, 10, 0), Some(decided(10)));
        assert!(decisions.knows(&decided(10).decision));
        assert!(!decisions.knows(&decided(11).decision));
    }

    #[test]
    fn gives_back_the_oldest_beyond_its_limit() {
        let mut decisions = Decisions::default();
        for position in 0..Decisions::LIMIT as u64 {
            assert_eq!(decisions.push(decided(position)), None);
        }
        assert_eq!(decisions.push(decided(99)), Some(decided(0)));
        assert_eq!(decisions.len(), Decisions::LIMIT);
    }

    #[test]
    fn keeps_the_trace_when_a_parent_is_rejected() {
        let context = Context::of(&decided(0), Some("parent_answered"));
        assert_eq!(context.trace_id, [1; 16]);
        assert_eq!(context.parent, None);
        assert_eq!(context.rejected, Some(([3; 8], "parent_answered")));
        assert_eq!(Context::of(&decided(0), None).parent, Some([3; 8]));
    }
}
