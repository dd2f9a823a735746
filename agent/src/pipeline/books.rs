//! Promise 3: what came in equals what went out plus what is open plus the losses by reason.

use crate::telemetry::Counters;

/// What is under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Open {
    /// Requests whose exchange is not over.
    pub(super) exchanges: usize,
    /// Decisions whose message has not come.
    pub(super) decisions: usize,
    /// Exchanges that wait for the facts of their process.
    pub(super) waiting: usize,
    /// Spans that nobody has taken.
    pub(super) ready: usize,
    /// Retransmissions whose message is not known yet.
    pub(super) resent: usize,
    /// Bytes that passed on connections that are open.
    pub(super) distance: u64,
    /// Of those, the ones of which no parser was told yet.
    pub(super) lag: u64,
}

/// Sums that no public counter holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Spans of decisions whose message was not seen.
    pub(super) unobserved_spans: u64,
    /// Unobserved spans and exchanges that wait for facts, by what they were counted as already.
    pub(super) handed_out: u64,
    /// Bytes that passed on connections that are over, by the positions that the kernel told.
    pub(super) distance: u64,
}

/// One line for each sum that does not hold. Sums wrap around as the counters do: positions of a damaged recording may be any numbers.
pub(super) fn discrepancies(counters: &Counters, tally: Tally, open: Open) -> Vec<String> {
    let mut lines = Vec::new();
    let mut check = |name: &str, left: u64, parts: &[(&str, u64)]| {
        let right = parts
            .iter()
            .fold(0_u64, |sum, (_, value)| sum.wrapping_add(*value));
        if left != right {
            let parts: Vec<String> = parts
                .iter()
                .map(|(part, value)| format!("{part} {value}"))
                .collect();
            lines.push(format!(
                "{name} {left} is not {right}: {}",
                parts.join(" + ")
            ));
        }
    };
    check(
        "bytes that passed",
        tally.distance.wrapping_add(open.distance),
        &[
            ("parsed", counters.stream_bytes.get()),
            ("passed over", counters.stream_passed_bytes.get()),
            ("gaps", counters.stream_gap_bytes.get()),
            ("hidden", counters.stream_hidden_bytes.get()),
            ("not told yet", open.lag),
        ],
    );
    check(
        "requests",
        counters.messages_request.get(),
        &[
            ("exchanges", counters.exchanges.get()),
            ("open", open.exchanges as u64),
        ],
    );
    check(
        "exchanges and unobserved decisions",
        counters.exchanges.get() + tally.unobserved_spans,
        &[
            ("spans", counters.spans.get()),
            ("excluded", counters.exchanges_excluded.get()),
            ("waiting for their process", open.waiting as u64),
        ],
    );
    check(
        "spans",
        counters.spans.get(),
        &[
            ("unsampled", counters.spans_unsampled.get()),
            ("handed out", tally.handed_out),
            ("ready", open.ready as u64),
        ],
    );
    check(
        "decisions",
        counters.decisions.get(),
        &[
            ("joined", counters.decisions_joined.get()),
            ("unobserved", counters.decisions_unobserved.get()),
            ("open", open.decisions as u64),
        ],
    );
    check(
        "retransmissions",
        counters.retransmissions.get(),
        &[
            ("attributed", counters.retransmissions_attributed.get()),
            ("unattributed", counters.retransmissions_unattributed.get()),
            ("over limit", counters.retransmissions_over_limit.get()),
            ("open", open.resent as u64),
        ],
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_which_no_parser_was_told_are_found() {
        let counters = Counters::default();
        counters.stream_bytes.add(70);
        counters.stream_passed_bytes.add(20);
        counters.stream_gap_bytes.add(4);
        counters.stream_hidden_bytes.add(2);
        let tally = Tally {
            distance: 92,
            ..Tally::default()
        };
        let lines = |distance, lag| {
            let open = Open {
                distance,
                lag,
                ..Open::default()
            };
            discrepancies(&counters, tally, open)
        };
        assert_eq!(lines(10, 6), Vec::<String>::new());
        assert_eq!(
            lines(10, 5),
            [
                "bytes that passed 102 is not 101: parsed 70 + passed over 20 + gaps 4 + hidden 2 + not told yet 5"
            ]
        );
        assert_eq!(lines(11, 6).len(), 1);
    }
}
