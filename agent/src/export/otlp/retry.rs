//! When to try an export again: pure decisions, no clock and no randomness of its own.
//!
//! Source: OTLP specification 1.8, "Failures" of OTLP/gRPC and OTLP/HTTP.

use std::time::Duration;

use prost::Message;
use tonic::Code;

/// What became of one attempt to deliver a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it, except for `rejected` spans.
    Delivered {
        /// Spans refused in a partial success.
        rejected: u64,
        /// What the receiver said about it, may be empty.
        message: String,
    },
    /// It may work later, not before `after` when that is given.
    Retry {
        /// The pause that the receiver asked for.
        after: Option<Duration>,
        /// What failed, for the log.
        reason: String,
    },
    /// It will never work: the batch must be dropped.
    Refused {
        /// What failed, for the log.
        reason: String,
    },
}

/// Whether a gRPC status may go away. `RESOURCE_EXHAUSTED` only when the receiver says when ([`retry_info`]).
#[must_use]
pub const fn is_retryable_code(code: Code, has_retry_info: bool) -> bool {
    match code {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => has_retry_info,
        _ => false,
    }
}

/// Whether an HTTP status may go away: 429, 502, 503, 504.
#[must_use]
pub const fn is_retryable_status(status: u16) -> bool {
    matches!(status, 429 | 502..=504)
}

/// A `Retry-After` header in seconds. The form with a date is left out: it needs a clock, and receivers of OTLP send seconds.
#[must_use]
pub fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The delay in the `google.rpc.RetryInfo` among the details of a gRPC status (google/rpc/status.proto, error_details.proto).
#[must_use]
pub fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    Some(Duration::new(
        u64::try_from(delay.seconds).ok()?,
        u32::try_from(delay.nanos).ok()?.min(999_999_999),
    ))
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

#[derive(Clone, PartialEq, Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RpcDuration>,
}

#[derive(Clone, PartialEq, Message)]
struct RpcDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// How long to wait between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Before the second attempt.
    pub first: Duration,
    /// Never longer than this, unless the receiver asks for more.
    pub longest: Duration,
    /// After this much waiting in all a batch is given up.
    pub give_up_after: Duration,
}

impl Default for Policy {
    /// 0.5 s, doubling up to 10 s, for 5 minutes.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(10),
            give_up_after: Duration::from_secs(300),
        }
    }
}

/// The attempts at one batch.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: Policy,
    next: Duration,
    waited: Duration,
}

impl Backoff {
    /// Before the first attempt.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            next: policy.first,
            waited: Duration::ZERO,
        }
    }

    /// How long to wait after a failed attempt, or `None` when the batch is to be given up.
    ///
    /// `jitter` (0 to 1) spreads the senders of many hosts over the upper half of the interval. A pause the receiver asked for is kept
    /// as a minimum.
    pub fn wait(&mut self, asked: Option<Duration>, jitter: f64) -> Option<Duration> {
        let spread = self.next.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        let wait = asked.map_or(spread, |asked| asked.max(spread.min(self.policy.first)));
        self.next = (self.next * 2).min(self.policy.longest);
        self.waited = self.waited.saturating_add(wait);
        (self.waited <= self.policy.give_up_after).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_gives_up() {
        let mut backoff = Backoff::new(Policy {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(4),
            give_up_after: Duration::from_secs(12),
        });
        let waits: Vec<_> = std::iter::from_fn(|| backoff.wait(None, 1.0)).collect();
        assert_eq!(waits, [1, 2, 4, 4].map(Duration::from_secs));
    }

    #[test]
    fn jitter_stays_within_the_upper_half() {
        let policy = Policy::default();
        let low = Backoff::new(policy).wait(None, 0.0);
        let high = Backoff::new(policy).wait(None, 1.0);
        assert_eq!((low, high), (Some(policy.first / 2), Some(policy.first)));
    }

    #[test]
    fn keeps_the_pause_the_receiver_asked_for() {
        let mut backoff = Backoff::new(Policy::default());
        let asked = Duration::from_secs(20);
        assert_eq!(backoff.wait(Some(asked), 0.3), Some(asked));
        assert_eq!(backoff.wait(Some(Duration::from_secs(400)), 0.3), None);
    }

    #[test]
    fn reads_retry_info_and_survives_other_bytes() {
        let info = RetryInfo {
            retry_delay: Some(RpcDuration {
                seconds: 3,
                nanos: 500_000_000,
            }),
        };
        let status = RpcStatus {
            code: 8,
            message: "busy".to_owned(),
            details: vec![RpcAny {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                value: info.encode_to_vec(),
            }],
        };
        assert_eq!(
            retry_info(&status.encode_to_vec()),
            Some(Duration::from_millis(3500))
        );
        assert_eq!(retry_info(b""), None);
        assert_eq!(retry_info(b"\xff\xff\xff"), None);
    }

    #[test]
    fn knows_which_failures_may_go_away() {
        assert!(is_retryable_code(Code::Unavailable, false));
        assert!(!is_retryable_code(Code::ResourceExhausted, false));
        assert!(is_retryable_code(Code::ResourceExhausted, true));
        assert!(!is_retryable_code(Code::InvalidArgument, true));
        let retryable: Vec<u16> = (400..600).filter(|&s| is_retryable_status(s)).collect();
        assert_eq!(retryable, [429, 502, 503, 504]);
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
    }
}
