//! `cargo xtask bench scale`: what the agent holds with many connections and processes, and that it loses nothing.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// Counters that move when something is lost, left out or given up; the kernel's as `kernel.NAME`.
const LOSSES: [&str; 29] = [
    "kernel.ring_full",
    "kernel.sockets_full",
    "kernel.threads_full",
    "kernel.heads_full",
    "kernel.handovers_full",
    "kernel.forwards_full",
    "kernel.scratch_busy",
    "kernel.bodies_missing",
    "kernel.programs_missed",
    "kernel.chunk_framing_lost",
    "kernel.unreadable_bytes",
    "kernel.decisions_beyond_limit",
    "kernel.heads_unseen",
    "kernel.iterator_too_long",
    "kernel.kernel_read_failed",
    "records_malformed",
    "records_unknown_kind",
    "connections_without_open",
    "connections_over_limit",
    "stream_gap_bytes",
    "responses_unpaired",
    "messages_lost_to_gap",
    "messages_over_limit",
    "messages_undecided",
    "decisions_unobserved",
    "spans_dropped_queue",
    "spans_dropped_export",
    "spans_rejected_partial",
    "processes_over_limit",
];

/// What `loadlab scale` found. What a field means stands there, in `tests/src/bin/loadlab/scale.rs`.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    processes: u32,
    idle_connections: u32,
    new_connections: u64,
    seconds: f64,
    served: u64,
    spans: u64,
    resident_kib: [u64; 3],
    map_bytes: [u64; 3],
    agent_ns: u64,
    counters: BTreeMap<String, u64>,
}

impl Found {
    /// Reads the program's result.
    ///
    /// # Errors
    /// When it is something else.
    pub(super) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("the result of `loadlab scale` is not understood")
    }

    /// What must not be: lost spans, counters of loss that moved.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.spans != self.served {
            faults.push(format!(
                "{} spans for {} requests served",
                self.spans, self.served
            ));
        }
        let moved = LOSSES
            .iter()
            .filter_map(|&name| Some((name, *self.counters.get(name)?)));
        faults.extend(
            moved
                .filter(|(_, value)| *value != 0)
                .map(|(name, value)| format!("{name} is {value}")),
        );
        faults
    }

    /// A few lines for a person.
    pub(super) fn render(&self) -> String {
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let rate = self.new_connections as f64 / self.seconds;
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} processes, {} idle connections, then {} new ones at {rate:.0} a second",
            self.processes, self.idle_connections, self.new_connections
        );
        let _ = writeln!(
            text,
            "              {:>10}  {:>10}  {:>10}",
            "ready", "idle", "after"
        );
        for (name, values) in [
            ("resident", self.resident_kib.map(|kib| kib * 1024)),
            ("maps", self.map_bytes),
        ] {
            let [ready, idle, after] = values.map(megabytes);
            let _ = writeln!(text, "  {name:<10}  {ready:>10}  {idle:>10}  {after:>10}");
        }
        let _ = writeln!(
            text,
            "  agent       {:>8.1} % of the processor during the new connections",
            self.agent_ns as f64 / self.seconds / 1e7
        );
        let exact = if self.spans == self.served {
            "exact"
        } else {
            "NOT EXACT"
        };
        let _ = writeln!(
            text,
            "  spans       {} of {}, {exact}",
            self.spans, self.served
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(spans: u64, counters: &str) -> Found {
        let text = format!(
            r#"{{"processes":5,"idle_connections":10,"new_connections":20,"seconds":2.0,"served":30,"spans":{spans},
            "resident_kib":[1000,2000,3000],"map_bytes":[1,2,3000000],"agent_ns":200000000,"counters":{counters}}}"#
        );
        Found::parse(&text).expect("well formed")
    }

    #[test]
    fn lost_spans_and_moved_counters_are_faults() {
        assert_eq!(
            found(30, r#"{"spans":30,"kernel.segments":60}"#).faults(),
            Vec::<String>::new()
        );
        assert_eq!(
            found(29, r#"{"kernel.sockets_full":1}"#).faults(),
            [
                "29 spans for 30 requests served",
                "kernel.sockets_full is 1"
            ]
        );
    }

    #[test]
    fn units_are_right() {
        let text = found(30, "{}").render();
        assert!(text.contains("20 new ones at 10 a second"), "{text}");
        assert!(
            text.contains("3.1 MB") && text.contains("3.0 MB") && text.contains("10.0 %"),
            "{text}"
        );
    }
}
