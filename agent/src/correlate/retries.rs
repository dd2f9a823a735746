//! Requests that repeat one that failed.
//!
//! Input: client exchanges as they end. Output: the earlier attempt that an exchange repeats. Two candidates are none: a link to the wrong attempt would
//! be worse than no link.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use crate::{
    exchange::{Exchange, Failure, Previous},
    telemetry::Counters,
};

/// How long a failed request waits to be repeated.
const WAITS_NS: u64 = 60_000_000_000;

/// What repetitions have in common: trace and parent, so also the process; method, target, `host` and size of the body, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    trace_id: [u8; 16],
    parent: [u8; 8],
    request: u64,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    span_id: [u8; 8],
    end_ns: u64,
    resend_count: u32,
}

/// Failed requests that nobody has repeated yet.
#[derive(Debug)]
pub struct Retries {
    failed: HashMap<Key, Vec<Attempt>>,
    /// In the order in which they failed; entries that were repeated stay until it is their turn.
    order: VecDeque<(u64, Key)>,
    limit: usize,
}

impl Retries {
    /// Remembers up to `limit` failed requests.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            failed: HashMap::new(),
            order: VecDeque::new(),
            limit,
        }
    }

    /// Takes a client exchange that is over. Gives the attempt that it repeats, if there is exactly one.
    pub fn note(&mut self, exchange: &Exchange, counters: &Counters) -> Option<Previous> {
        let failed = is_worth_repeating(exchange);
        // Nearly all requests succeed, and nothing waits for them.
        if !failed && self.failed.is_empty() {
            return None;
        }
        let (key, span_id) = key(exchange)?;
        let previous = self.take(&key, exchange.request.start_ns, counters);
        if !failed {
            return previous;
        }
        if self.order.len() >= self.limit {
            counters.retries_over_limit.increment();
            return previous;
        }
        let attempt = Attempt {
            span_id,
            end_ns: exchange.end_ns(),
            resend_count: previous.map_or(0, |previous| previous.resend_count),
        };
        self.order.push_back((attempt.end_ns, key));
        self.failed.entry(key).or_default().push(attempt);
        previous
    }

    /// The only attempt that was over by then: it is repeated now, and not again.
    fn take(&mut self, key: &Key, start_ns: u64, counters: &Counters) -> Option<Previous> {
        let attempts = self.failed.get(key)?;
        let mut over = attempts.iter().filter(|attempt| attempt.end_ns <= start_ns);
        let attempt = over.next()?;
        if attempts.len() > 1 {
            counters.retries_ambiguous.increment();
            return None;
        }
        let previous = Previous {
            span_id: attempt.span_id,
            resend_count: attempt.resend_count + 1,
        };
        self.failed.remove(key);
        Some(previous)
    }

    /// Forgets what was not repeated in time.
    pub fn tick(&mut self, now_ns: u64) {
        while let Some((end_ns, key)) = self.order.front()
            && end_ns.saturating_add(WAITS_NS) < now_ns
        {
            if let Some(attempts) = self.failed.get_mut(key) {
                attempts.retain(|attempt| attempt.end_ns.saturating_add(WAITS_NS) >= now_ns);
                if attempts.is_empty() {
                    self.failed.remove(key);
                }
            }
            self.order.pop_front();
        }
    }
}

/// Failures that clients and proxies answer with another attempt: no complete answer, or one that says that another try may help (RFC 9110 sections
/// 15.5.9, 15.6.3 to 15.6.5; RFC 6585 section 4).
fn is_worth_repeating(exchange: &Exchange) -> bool {
    match (&exchange.failure, &exchange.response) {
        (Some((Failure::ResponseUnseen, _)), _) => false,
        (Some(_), _) => true,
        (None, Some(response)) => matches!(response.detail.status, 408 | 429 | 502 | 503 | 504),
        (None, None) => false,
    }
}

/// Key and span of a request whose parent is known.
fn key(exchange: &Exchange) -> Option<(Key, [u8; 8])> {
    let decision = &exchange.decided?.decision;
    if decision.parent_span_id == [0; 8] || exchange.rejected.is_some() {
        return None;
    }
    let head = &exchange.request.detail;
    let body_size = exchange.request_end.and_then(|end| end.body_size);
    // Without a random key: a recording gives the same links on every run.
    let mut hasher = DefaultHasher::new();
    (head.method_token(), head.target(), head.host(), body_size).hash(&mut hasher);
    let key = Key {
        trace_id: decision.trace_id,
        parent: decision.parent_span_id,
        request: hasher.finish(),
    };
    Some((key, decision.span_id))
}
