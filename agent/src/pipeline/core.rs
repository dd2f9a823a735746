//! What all connections share: the way from a finished exchange to a span.

use std::{borrow::Cow, collections::VecDeque, sync::Arc};

use agent_common::abi::{Direction, Source, decision_flags};

use super::{
    PipelineConfig,
    books::{self, Tally},
};
use crate::{
    conn::{Buffers, Endpoints, IdMap},
    correlate::{Context, Ids, Parents, Retries, Thresholds, Verdict},
    exchange::{Decided, Exchange},
    process::{ProcessFacts, ProcessKey, Resource},
    protocol::{Item, http1::Method},
    sample,
    span::{
        self, Span, SpanKind,
        clock::Clocks,
        conventions,
        http::{Common, Maker},
    },
    telemetry::Counters,
};

/// Something that becomes a span as soon as its process is known.
#[derive(Debug)]
enum Subject {
    Exchange(Box<Exchange>),
    Unobserved(Decided),
}

#[derive(Debug)]
struct Waiting {
    subject: Subject,
    kind: SpanKind,
    endpoints: Option<Box<Endpoints>>,
    process: ProcessKey,
    since_ns: u64,
}

/// Shared state of the stages behind the connections.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: PipelineConfig,
    pub(super) counters: Arc<Counters>,
    pub(super) buffers: Buffers,
    /// Storage for items, empty between calls.
    pub(super) items: Vec<Item>,
    /// Storage for finished exchanges, empty between calls.
    pub(super) finished: Vec<Exchange>,
    /// Bytes buffered over all connections.
    pub(super) buffered: usize,
    pub(super) clocks: Clocks,
    pub(super) parents: Parents,
    retries: Retries,
    /// The time of the last tick.
    pub(super) now_ns: u64,
    ids: Ids,
    processes: IdMap<ProcessKey, Resource>,
    waiting: VecDeque<Waiting>,
    maker: Maker,
    ready: Vec<Span>,
    tally: Tally,
}

impl Core {
    pub(super) fn new(config: PipelineConfig, counters: Arc<Counters>) -> Self {
        Self {
            ids: Ids::new(config.seed),
            parents: Parents::new(config.parents),
            retries: Retries::new(config.retries),
            counters,
            buffers: Buffers::default(),
            items: Vec::new(),
            finished: Vec::new(),
            buffered: 0,
            clocks: Clocks::default(),
            now_ns: 0,
            processes: IdMap::default(),
            waiting: VecDeque::new(),
            maker: Maker::default(),
            ready: Vec::new(),
            tally: Tally::default(),
            config,
        }
    }

    /// Facts of a process came: what waited for them goes on.
    pub(super) fn learn(&mut self, facts: &ProcessFacts) {
        self.processes.insert(facts.key, facts.resource.clone());
        if !self
            .waiting
            .iter()
            .any(|waiting| waiting.process == facts.key)
        {
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.process == facts.key {
                self.resolve(&waiting, &facts.resource);
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }

    /// A process ended some time ago.
    pub(super) fn forget(&mut self, key: ProcessKey) {
        self.processes.remove(&key);
    }

    pub(super) fn tick(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        self.parents.tick(self.now_ns);
        self.retries.tick(self.now_ns);
        self.clocks.tick(self.now_ns);
        let wait_ns = nanoseconds(self.config.facts_wait);
        while let Some(waiting) = self.waiting.front()
            && waiting.since_ns.saturating_add(wait_ns) <= self.now_ns
        {
            self.resolve_front();
        }
    }

    /// Nobody will tell more of processes.
    pub(super) fn stop_waiting(&mut self) {
        while !self.waiting.is_empty() {
            self.resolve_front();
        }
    }

    fn resolve_front(&mut self) {
        if let Some(waiting) = self.waiting.pop_front() {
            let resource = fallback(waiting.process);
            self.resolve(&waiting, &resource);
        }
    }

    pub(super) fn hand_out(&mut self, out: &mut Vec<Span>) {
        self.tally.handed_out += self.ready.len() as u64;
        if self.ready.is_empty() {
            return;
        }
        if out.is_empty() {
            std::mem::swap(out, &mut self.ready);
            // The next spans are about as many.
            self.ready.reserve(out.len());
        } else {
            out.append(&mut self.ready);
        }
    }

    /// A connection is over, on which so many bytes passed.
    pub(super) fn passed(&mut self, bytes: u64) {
        self.tally.distance = self.tally.distance.wrapping_add(bytes);
    }

    /// A decision was read for the first time.
    pub(super) fn decision_read(&mut self, decided: &Decided) {
        self.counters.decisions.increment();
        if decided.decision.direction == Direction::Receive as u8 {
            self.parents.open(decided.decision.span_id);
        }
    }

    /// A decision of a connection that is not followed.
    pub(super) fn decision_without_connection(&mut self) {
        self.counters.decisions.increment();
        self.counters.decisions_unobserved.increment();
    }

    /// A decision was joined to a request that began at `start_ns`: whether its parent is plausible.
    pub(super) fn joined(&mut self, decided: &Decided, start_ns: u64) -> Option<&'static str> {
        self.counters.decisions_joined.increment();
        let decision = &decided.decision;
        if decision.source != Source::Causal as u8 || decision.parent_span_id == [0; 8] {
            return None;
        }
        self.parents
            .judge(decision.parent_span_id, start_ns)
            .reason()
    }

    /// An exchange is over.
    pub(super) fn exchange(
        &mut self,
        exchange: &mut Exchange,
        kind: SpanKind,
        endpoints: Option<&Endpoints>,
        common: &mut Common,
    ) {
        self.counters.exchanges.increment();
        if let Some(decided) = &exchange.decided
            && kind == SpanKind::Server
        {
            let span_id = decided.decision.span_id;
            self.parents.answer(span_id, exchange.end_ns(), self.now_ns);
        }
        if exchange.decided.is_none() {
            self.counters.messages_undecided.increment();
        }
        if self.excludes(exchange) {
            self.counters.exchanges_excluded.increment();
            return;
        }
        if kind == SpanKind::Client {
            exchange.previous = self.retries.note(exchange, &self.counters);
        }
        let process = exchange.request.process;
        match self.processes.get(&process).cloned() {
            Some(resource) => self.make_span(exchange, kind, endpoints, &resource, common),
            None => self.waiting.push_back(Waiting {
                subject: Subject::Exchange(Box::new(exchange.clone())),
                kind,
                endpoints: endpoints.cloned().map(Box::new),
                process,
                since_ns: self.now_ns,
            }),
        }
    }

    /// No message came for a decision. `sent`: its bytes may have reached somebody.
    pub(super) fn unobserved(
        &mut self,
        decided: Decided,
        sent: bool,
        endpoints: Option<&Endpoints>,
    ) {
        self.counters.decisions_unobserved.increment();
        let received = decided.decision.direction == Direction::Receive as u8;
        if received {
            let span_id = decided.decision.span_id;
            self.parents.answer(span_id, decided.time_ns, self.now_ns);
        }
        let known = decided.has(decision_flags::PROPAGATED) && (sent || received);
        if !known || decided.has(decision_flags::UNTRACED) {
            return;
        }
        self.tally.unobserved_spans += 1;
        let waiting = Waiting {
            subject: Subject::Unobserved(decided),
            kind: if received {
                SpanKind::Server
            } else {
                SpanKind::Client
            },
            endpoints: endpoints.cloned().map(Box::new),
            process: decided.process,
            since_ns: self.now_ns,
        };
        match self.processes.get(&decided.process).cloned() {
            Some(resource) => self.resolve(&waiting, &resource),
            None => self.waiting.push_back(waiting),
        }
    }

    pub(super) fn balance(&self, mut open: books::Open) -> Vec<String> {
        open.waiting = self.waiting.len();
        open.ready = self.ready.len();
        books::discrepancies(&self.counters, self.tally, open)
    }

    fn excludes(&self, exchange: &Exchange) -> bool {
        let untraced = exchange
            .decided
            .is_some_and(|decided| decided.has(decision_flags::UNTRACED));
        let head = &exchange.request.detail;
        untraced
            || !self.config.trace_otlp_exports
                && sample::is_otlp_export(head.method == Method::Post, head.target())
    }

    fn resolve(&mut self, waiting: &Waiting, resource: &Resource) {
        let endpoints = waiting.endpoints.as_deref();
        match &waiting.subject {
            Subject::Exchange(exchange) => {
                let mut common = Common::default();
                self.make_span(exchange, waiting.kind, endpoints, resource, &mut common);
            }
            Subject::Unobserved(decided) => {
                let context = Context::of(decided, None);
                let clock = self.clocks.of(&context.trace_id);
                let time_unix_ns = clock.to_unix_ns(decided.time_ns);
                if self.keeps(&context) {
                    self.ready.push(span::http::unobserved(
                        &context,
                        waiting.kind,
                        endpoints,
                        time_unix_ns,
                        resource,
                    ));
                }
            }
        }
    }

    fn make_span(
        &mut self,
        exchange: &Exchange,
        kind: SpanKind,
        endpoints: Option<&Endpoints>,
        resource: &Resource,
        common: &mut Common,
    ) {
        let context = match &exchange.decided {
            Some(decided) => {
                let rejected = exchange
                    .rejected
                    .or_else(|| self.rejected_late(exchange, decided));
                let mut context = Context::of(decided, rejected);
                if decided.has(decision_flags::UNTRUSTED) {
                    let threshold = self.config.sampling_threshold;
                    context.untrusted = exchange.request.detail.context(threshold);
                }
                context
            }
            None => {
                let trusted = kind != SpanKind::Server
                    || endpoints.is_none_or(|ends| ends.has_peer_in(&self.config.trusted));
                let general = self.config.sampling_threshold;
                let own = self.config.service_rules.threshold(resource.service_name());
                let thresholds = Thresholds {
                    left_to_us: general,
                    root: own.unwrap_or(general),
                };
                Context::undecided(exchange, &mut self.ids, thresholds, trusted)
            }
        };
        let clock = self.clocks.of(&context.trace_id);
        if self.keeps(&context) {
            // Parents of unsampled ones may have been hidden by the kernel.
            if context.rejected.is_some() {
                self.counters.links_rejected.increment();
            }
            let parts = span::http::Parts {
                exchange,
                kind,
                endpoints,
                context: &context,
                clock,
                resource,
                record_query: self.config.record_query,
            };
            let span = span::http::span(&parts, common, &mut self.maker);
            self.ready.push(span);
        } else if span::http::has_failed(exchange, kind) {
            self.counters.spans_unsampled_failed.increment();
        }
    }

    /// The parent's end may have become known only after the request was seen.
    fn rejected_late(&self, exchange: &Exchange, decided: &Decided) -> Option<&'static str> {
        let decision = &decided.decision;
        let answered = decision.source == Source::Causal as u8
            && self
                .parents
                .was_answered(decision.parent_span_id, exchange.request.start_ns);
        answered
            .then_some(Verdict::Answered)
            .and_then(Verdict::reason)
    }

    /// Counts a span; whether it need be made, because its trace is sampled.
    fn keeps(&self, context: &Context) -> bool {
        self.counters.spans.increment();
        sample::keeps(context.flags, &self.counters)
    }
}

/// A Resource for a process of which nothing is known.
fn fallback(process: ProcessKey) -> Resource {
    Resource::new(vec![
        (
            Cow::Borrowed(conventions::SERVICE_NAME),
            "unknown_service".to_owned(),
        ),
        (
            Cow::Borrowed(conventions::PROCESS_PID),
            process.tgid.to_string(),
        ),
    ])
}

pub(super) fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
