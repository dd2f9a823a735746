//! The daemon's own counters: one per place where a byte, an event, a message or a span can be lost or left out.
//!
//! The kernel's counters ([`agent_common::abi::Counter`]) are read beside them; together they are printed on exit and on SIGUSR1, and
//! exported as OTLP metrics.

pub mod log;
pub mod metrics;
pub mod report;
pub mod stats;

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        /// Counters of the daemon. Cumulative since start, shared by all stages, never reset.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: Count,)+ }

        impl Counters {
            /// Name and value of every counter, in the order of the pipeline.
            #[must_use]
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)+]
            }
        }
    };
}

/// A cumulative count.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Records read from the ring buffer.
    records;
    /// Records of sends and receives among them.
    segments_read;
    /// Decisions among them, inlined or as records of their own.
    decisions_read;
    /// Records whose kind is not known.
    records_unknown_kind;
    /// Records of another ABI version, too short, or with lengths that contradict each other.
    records_malformed;
    /// Connections followed.
    connections;
    /// Connections whose `Open` record was lost: no addresses.
    connections_without_open;
    /// Connections not followed because there were too many.
    connections_over_limit;
    /// Payload bytes parsed.
    stream_bytes;
    /// Bytes that passed and were not needed: bodies, and what is no HTTP.
    stream_passed_bytes;
    /// Bytes known to have passed whose content was wanted and not seen.
    stream_gap_bytes;
    /// Bytes of messages of unsampled traces of which the kernel told nothing, where something is told behind them.
    stream_hidden_bytes;
    /// Segments dropped because they came too late or twice.
    segments_stale;
    /// Retransmissions read from the kernel.
    retransmissions;
    /// Retransmissions that their exchange keeps: events of its span.
    retransmissions_attributed;
    /// Retransmissions of nothing that was open: their span was complete, or there is none.
    retransmissions_unattributed;
    /// Retransmissions beyond those that a span or a connection keeps.
    retransmissions_over_limit;
    /// Requests recognised.
    messages_request;
    /// Responses recognised.
    messages_response;
    /// Responses that belong to no request.
    responses_unpaired;
    /// Requests or responses given up because of a gap in their head.
    messages_lost_to_gap;
    /// Requests and responses given up because a limit of memory or size was reached.
    messages_over_limit;
    /// Decisions read from the kernel.
    decisions;
    /// Decisions joined to their message.
    decisions_joined;
    /// Decisions to which no message came.
    decisions_unobserved;
    /// Messages without a decision: their ids come from user space and are not propagated.
    messages_undecided;
    /// Same-kernel records deleted because nobody took them in time.
    handovers_expired;
    /// Parent links rejected after the fact; the span carries a link instead.
    links_rejected;
    /// Repeated requests without a link, because several attempts had failed.
    retries_ambiguous;
    /// Connections that could not be made; no request was sent, so they are no spans.
    connects_failed;
    /// Failed requests not remembered, so that a repetition of them has no link.
    retries_over_limit;
    /// Exchanges complete, one for each request.
    exchanges;
    /// Exchanges that a selector left out, or that are somebody's OTLP export.
    exchanges_excluded;
    /// Spans made.
    spans;
    /// Spans not exported because their trace is not sampled.
    spans_unsampled;
    /// Those of them that failed.
    spans_unsampled_failed;
    /// Spans dropped because the export queue was full.
    spans_dropped_queue;
    /// Spans dropped after the collector refused them or could not be reached in time.
    spans_dropped_export;
    /// Spans the collector rejected in a partial success.
    spans_rejected_partial;
    /// Spans delivered.
    spans_exported;
    /// Export requests that were tried again.
    export_retries;
    /// Connections older than the agent, towards networks that get headers, that made requests while headers are written.
    inject_older;
    /// Those of them that were put into the sockhash.
    inject_older_enrolled;
    /// Those that could not be put there; the others were never idle when they were looked at, or nobody wants them there (`--inject-existing`).
    inject_older_refused;
    /// Looks at one that was not idle, or for which the agent had no descriptor or memory left.
    inject_older_busy;
    /// Ends of connections older than the agent, towards such networks, that were not remembered because there were too many: those that make requests
    /// get no header.
    inject_older_over_limit;
    /// Self-tests that were repeated while headers are written, and passed.
    inject_proofs;
    /// Those that failed: no header is written any more.
    inject_proofs_failed;
    /// Those that could not be made: they say nothing, and are tried again an hour later.
    inject_proofs_not_made;
    /// Processes examined.
    processes;
    /// Processes that were gone before they could be examined.
    processes_vanished;
    /// Entries of the process table dropped because it was full.
    processes_over_limit;
}
