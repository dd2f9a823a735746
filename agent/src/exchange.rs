//! Pairs requests with responses, in order.
//!
//! Input: the [`Item`]s of one connection and its end. Output: [`Exchange`]s, each exactly once, complete or with what went wrong. It knows
//! neither ids nor names of attributes.

use std::collections::VecDeque;

use agent_common::abi::Decision;

use crate::{
    process::ProcessKey,
    protocol::{End, Item, Request, Response, Side},
    telemetry::Counters,
};

/// Interim responses remembered of one exchange.
const INTERIM_LIMIT: usize = 8;

/// Retransmissions remembered of one exchange; the others are only counted.
const RESENT_LIMIT: usize = 16;

/// A decision with when and for whom it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The decision.
    pub decision: Decision,
    /// CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// Whose message it is.
    pub process: ProcessKey,
}

impl Decided {
    /// Whether a flag of [`agent_common::abi::decision_flags`] is set.
    #[must_use]
    pub const fn has(&self, flag: u8) -> bool {
        self.decision.decision_flags & flag != 0
    }
}

/// Why an exchange has no complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The connection was reset.
    ConnectionReset,
    /// The connection timed out.
    ConnectionTimeout,
    /// The connection ended with another socket error.
    ConnectionError,
    /// The connection was closed in order before the response began.
    ConnectionClosed,
    /// The connection was closed before the request was complete.
    RequestTruncated,
    /// The connection was closed in the middle of the response.
    ResponseTruncated,
    /// No response came for as long as the agent waits.
    NoResponse,
    /// A response may have come, but was not seen: the agent's loss, not the application's.
    ResponseUnseen,
}

impl Failure {
    /// Value of `error.type`; none where nothing is known to have failed.
    #[must_use]
    pub const fn error_type(self) -> Option<&'static str> {
        Some(match self {
            Self::ConnectionReset => "connection_reset",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionError => "connection_error",
            Self::ConnectionClosed => "connection_closed",
            Self::RequestTruncated => "request_truncated",
            Self::ResponseTruncated => "response_truncated",
            Self::NoResponse => "no_response",
            Self::ResponseUnseen => return None,
        })
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// What that means for a request without a complete response; none for a close in order.
    pub failure: Option<Failure>,
}

/// The attempt that a request repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Its span, in the same trace.
    pub span_id: [u8; 8],
    /// Which repetition the later one is, from 1.
    pub resend_count: u32,
}

/// Bytes of a message that TCP sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resent {
    /// Position behind the last one.
    pub end: u64,
    /// How many.
    pub bytes: u32,
    /// CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
}

/// A request with its response.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// The request.
    pub request: Request,
    /// Its end.
    pub request_end: Option<End>,
    /// The final response.
    pub response: Option<Response>,
    /// Its end.
    pub response_end: Option<End>,
    /// Interim responses: status and when the head was complete.
    pub interim: Vec<(u16, u64)>,
    /// What the kernel decided of the request.
    pub decided: Option<Decided>,
    /// The kernel's parent was implausible already when the request was seen.
    pub rejected: Option<&'static str>,
    /// The failed attempt that it repeats.
    pub previous: Option<Previous>,
    /// What TCP sent again of the message that the process sends, in the order in which it was noted.
    pub resent: Vec<Resent>,
    /// How often TCP did, those not in `resent` included.
    pub resent_count: u32,
    /// What went wrong, and when that was known.
    pub failure: Option<(Failure, u64)>,
    request_lost: bool,
    reported: bool,
}

impl Exchange {
    fn new(request: Request, decided: Option<Decided>) -> Self {
        Self {
            request,
            request_end: None,
            response: None,
            response_end: None,
            interim: Vec::new(),
            decided,
            rejected: None,
            previous: None,
            resent: Vec::new(),
            resent_count: 0,
            failure: None,
            request_lost: false,
            reported: false,
        }
    }

    /// When it was over, CLOCK_MONOTONIC nanoseconds.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        let end = match (self.failure, self.response_end) {
            (Some((_, time_ns)), _) => time_ns,
            (None, Some(end)) => end.time_ns,
            (None, None) => self.request.head_end_ns,
        };
        end.max(self.request.start_ns)
    }

    /// Positions of the first byte of a message, and behind its last one where its end is known.
    fn range(&self, side: Side) -> Option<(u64, Option<u64>)> {
        let (start, end) = match side {
            Side::Request => (self.request.position, self.request_end),
            Side::Response => (self.response?.position, self.response_end),
        };
        Some((start, end.map(|end| start.saturating_add(end.wire_size))))
    }

    fn is_done(&self) -> bool {
        let answered = self.response_end.is_some_and(|end| end.complete);
        self.failure.is_some() || answered && (self.request_end.is_some() || self.request_lost)
    }
}

/// What an item meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// A request began: it is the newest.
    Request,
    /// A response, interim or final.
    Response,
    /// A response that belongs to no request.
    Unpaired,
    /// A message was lost.
    Lost,
    /// A message was given up by a limit.
    OverLimit,
    /// Nothing that is counted.
    Nothing,
}

/// The open exchanges of one connection, oldest first.
#[derive(Debug, Default)]
pub struct Exchanges {
    queue: VecDeque<Exchange>,
    /// Of those, the ones that were given out already and wait for a late response.
    reported: usize,
}

impl Exchanges {
    /// Takes an item. `decided` is asked for the decision of a request.
    pub fn push(
        &mut self,
        item: &Item,
        decided: impl FnOnce(&Request) -> Option<Decided>,
    ) -> Noted {
        match *item {
            Item::Request(ref request) => {
                let decided = decided(request);
                self.queue
                    .push_back(Exchange::new(request.clone(), decided));
                Noted::Request
            }
            Item::RequestEnd(end) => {
                if let Some(exchange) = self.queue.back_mut()
                    && exchange.request_end.is_none()
                {
                    exchange.request_end = Some(end);
                }
                Noted::Nothing
            }
            Item::Response(response) => {
                let Some(exchange) = self.unanswered() else {
                    return Noted::Unpaired;
                };
                if !response.interim {
                    exchange.response = Some(response);
                } else if exchange.interim.len() < INTERIM_LIMIT {
                    let interim = (response.detail.status, response.head_end_ns);
                    exchange.interim.push(interim);
                }
                Noted::Response
            }
            Item::ResponseEnd(end) => {
                let answered = self
                    .queue
                    .iter_mut()
                    .find(|exchange| exchange.response_end.is_none());
                if let Some(exchange) = answered
                    && exchange.response.is_some()
                {
                    exchange.response_end = Some(end);
                }
                Noted::Nothing
            }
            Item::Unpaired => Noted::Unpaired,
            Item::Lost(side) => {
                self.lose(side);
                Noted::Lost
            }
            Item::OverLimit(side) => {
                self.lose(side);
                Noted::OverLimit
            }
            Item::Left | Item::NotThis => Noted::Nothing,
        }
    }

    /// Whether the oldest exchange is over.
    #[must_use]
    #[inline]
    pub fn has_finished(&self) -> bool {
        self.queue.front().is_some_and(Exchange::is_done)
    }

    /// Hands out the exchanges that are over, oldest first, each where it lies: they are too large to be moved about.
    pub fn finish(&mut self, mut each: impl FnMut(&mut Exchange)) {
        while let Some(exchange) = self.queue.front_mut()
            && exchange.is_done()
        {
            if exchange.reported {
                self.reported -= 1;
            } else {
                each(exchange);
            }
            self.queue.pop_front();
        }
    }

    /// Requests that nobody answered since `before_ns`: each once. A late response is still taken off the queue in its turn.
    pub fn expire(&mut self, before_ns: u64, now_ns: u64, expired: &mut Vec<Exchange>) {
        for exchange in &mut self.queue {
            let silent = exchange.response.is_none() && exchange.request.start_ns < before_ns;
            if silent && !exchange.reported {
                exchange.reported = true;
                self.reported += 1;
                let mut copy = exchange.clone();
                copy.failure = Some((Failure::NoResponse, now_ns));
                expired.push(copy);
            }
        }
    }

    /// The connection is over: every exchange is, one way or the other. The parser's last items were pushed before.
    pub fn close(&mut self, ending: Ending) {
        for exchange in &mut self.queue {
            let request_complete = exchange.request_end.is_some_and(|end| end.complete);
            let failure = match (ending.failure, exchange.response, exchange.response_end) {
                (_, _, Some(end)) if end.complete => {
                    exchange.request_lost = true;
                    continue;
                }
                (Some(failure), _, _) => failure,
                (None, Some(_), _) => Failure::ResponseTruncated,
                (None, None, _) if !request_complete && !exchange.request_lost => {
                    Failure::RequestTruncated
                }
                (None, None, _) => Failure::ConnectionClosed,
            };
            exchange.failure = Some((failure, ending.time_ns));
        }
    }

    /// The open exchange whose request begins at this position.
    pub fn find_mut(&mut self, position: u64, stream: u32) -> Option<&mut Exchange> {
        self.queue.iter_mut().rev().find(|exchange| {
            exchange.request.position == position && exchange.request.stream == stream
        })
    }

    /// Notes bytes that were sent again at the exchange whose message has the last of them, and counts it; false when there is none.
    pub fn resend(&mut self, side: Side, resent: Resent, counters: &Counters) -> bool {
        let mut newest_first = self.queue.iter_mut().rev();
        let begun = newest_first.find(|exchange| {
            let range = exchange.range(side);
            range.is_some_and(|(start, _)| start < resent.end)
        });
        let Some(exchange) = begun.filter(|exchange| {
            let end = exchange.range(side).and_then(|(_, end)| end);
            !exchange.reported && end.is_none_or(|end| resent.end <= end)
        }) else {
            return false;
        };
        exchange.resent_count = exchange.resent_count.saturating_add(1);
        if exchange.resent.len() < RESENT_LIMIT {
            exchange.resent.push(resent);
            counters.retransmissions_attributed.increment();
        } else {
            counters.retransmissions_over_limit.increment();
        }
        true
    }

    /// The newest request.
    pub fn newest_mut(&mut self) -> Option<&mut Exchange> {
        self.queue.back_mut()
    }

    /// Whether a request waits for its final response.
    #[must_use]
    pub fn awaits_response(&self) -> bool {
        self.queue
            .iter()
            .any(|exchange| exchange.response.is_none())
    }

    /// Exchanges that have not been given out.
    #[must_use]
    pub fn open(&self) -> usize {
        self.queue.len() - self.reported
    }

    /// Whether there is none, not even one that waits for a late response.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of memory behind the open exchanges.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.queue
            .iter()
            .map(|exchange| {
                size_of::<Exchange>()
                    + exchange.request.detail.footprint()
                    + size_of_val(exchange.resent.as_slice())
            })
            .sum()
    }

    fn unanswered(&mut self) -> Option<&mut Exchange> {
        self.queue
            .iter_mut()
            .find(|exchange| exchange.response.is_none())
    }

    /// After a loss nothing can be paired any more: what is open ends here, but for a response that is followed to its end.
    fn lose(&mut self, side: Side) {
        for exchange in &mut self.queue {
            if exchange.failure.is_some() {
                continue;
            }
            let followed = side == Side::Request && exchange.response.is_some();
            if followed || exchange.response_end.is_some() {
                exchange.request_lost |= exchange.request_end.is_none();
            } else {
                let known = exchange.response.map(|response| response.head_end_ns);
                let end_ns = known.unwrap_or(exchange.request.head_end_ns);
                exchange.failure = Some((Failure::ResponseUnseen, end_ns));
            }
        }
    }
}
