//! Counters for a person: an aligned table, printed at the end and on SIGUSR1. Zeros are left out, losses are marked.

use std::fmt::Write as _;

use super::stats::Snapshot;

/// Counters of which any value above zero means that something was not seen, not followed or not delivered.
const LOSSES: &[&str] = &[
    "ring_full",
    "sockets_full",
    "threads_full",
    "heads_full",
    "handovers_full",
    "forwards_full",
    "scratch_busy",
    "bodies_missing",
    "rules_full",
    "decisions_beyond_limit",
    "iterator_too_long",
    "kernel_read_failed",
    "programs_missed",
    "injections_full",
    "inject_states_full",
    "inject_other_send",
    "inject_changed",
    "inject_refused",
    "inject_older_over_limit",
    "inject_proofs_failed",
    "inject_proofs_not_made",
    "option_sockets_refused",
    "option_sockets_given_up",
    "option_sockets_failed",
    "option_sockets_paused",
    "option_peers_paused",
    "option_pauses",
    "options_full",
    "options_unread",
    "tls_sessions_full",
    "tls_ambiguous",
    "tls_calls_full",
    "tls_unproven",
    "records_unknown_kind",
    "records_malformed",
    "connections_without_open",
    "connections_over_limit",
    "messages_lost_to_gap",
    "messages_over_limit",
    "spans_dropped_queue",
    "spans_dropped_export",
    "spans_rejected_partial",
    "processes_over_limit",
];

/// The table, ending in a line end. With `color`, losses are red.
#[must_use]
pub fn report(snapshot: &Snapshot, color: bool) -> String {
    let sections = [
        ("kernel", &snapshot.kernel),
        ("agent", &snapshot.agent),
        ("now", &snapshot.gauges),
    ];
    let shown = |values: &[(&'static str, u64)]| -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        for &(name, value) in values.iter().filter(|(_, value)| *value > 0) {
            rows.push((name, grouped(value)));
        }
        rows
    };
    let rows: Vec<_> = sections
        .map(|(title, values)| (title, shown(values)))
        .into();
    let all = || rows.iter().flat_map(|(_, rows)| rows);
    let name_width = all().map(|(name, _)| name.len()).max().unwrap_or(0);
    let value_width = all().map(|(_, value)| value.len()).max().unwrap_or(0);

    let mut text = String::new();
    for (title, rows) in &rows {
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{title}");
        for (name, value) in rows {
            let row = format!("{name:name_width$}  {value:>value_width$}");
            let _ = match (LOSSES.contains(name), color) {
                (false, _) => writeln!(text, "  {row}"),
                (true, false) => writeln!(text, "! {row}"),
                (true, true) => writeln!(text, "\x1b[1;31m! {row}\x1b[0m"),
            };
        }
    }
    let zeros = snapshot
        .kernel
        .iter()
        .chain(&snapshot.agent)
        .filter(|(_, value)| *value == 0)
        .count();
    let _ = writeln!(text, "{zeros} more counters are zero");
    // While spans are under way the sums cannot hold.
    let balances = if snapshot.at_rest {
        snapshot.balances()
    } else {
        Vec::new()
    };
    for balance in balances.iter().filter(|balance| !balance.holds()) {
        let _ = writeln!(
            text,
            "! the books do not balance: {} {}, accounted for {}",
            grouped(balance.made),
            balance.what,
            grouped(balance.accounted)
        );
    }
    for discrepancy in &snapshot.discrepancies {
        let _ = writeln!(text, "! the books do not balance: {discrepancy}");
    }
    text
}

/// `1234567` as `1,234,567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use agent_common::abi::Counter;

    use super::*;
    use crate::telemetry::Counters;

    #[test]
    fn aligns_values_marks_losses_and_leaves_zeros_out() {
        let snapshot = Snapshot {
            kernel: vec![
                ("segments", 1_234_567),
                ("ring_full", 12),
                ("threads_full", 0),
            ],
            agent: vec![("spans", 7), ("spans_exported", 7)],
            gauges: vec![("resident_bytes", 20_000_000)],
            ..Snapshot::default()
        };
        let expected = "\
kernel
  segments         1,234,567
! ring_full               12
agent
  spans                    7
  spans_exported           7
now
  resident_bytes  20,000,000
1 more counters are zero
";
        assert_eq!(report(&snapshot, false), expected);
        let colored = report(&snapshot, true);
        assert_eq!(colored.matches("\x1b[1;31m").count(), 1);
    }

    #[test]
    fn says_when_the_books_do_not_balance() {
        let snapshot = Snapshot {
            agent: vec![("spans", 7), ("spans_exported", 5)],
            discrepancies: vec!["requests 2 is not 1".to_owned()],
            at_rest: true,
            ..Snapshot::default()
        };
        let text = report(&snapshot, false);
        assert!(
            text.contains("! the books do not balance: 7 spans, accounted for 5"),
            "{text}"
        );
        assert!(text.ends_with("! the books do not balance: requests 2 is not 1\n"));
        let under_way = Snapshot {
            at_rest: false,
            discrepancies: Vec::new(),
            ..snapshot
        };
        assert!(!report(&under_way, false).contains("balance"));
    }

    #[test]
    fn every_loss_is_a_counter() {
        let agent = Counters::default().snapshot();
        let known = |name: &str| {
            name == "programs_missed"
                || agent.iter().any(|(known, _)| *known == name)
                || Counter::ALL.iter().any(|counter| counter.name() == name)
        };
        for loss in LOSSES {
            assert!(known(loss), "{loss}");
        }
    }
}
