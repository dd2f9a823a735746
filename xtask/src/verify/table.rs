//! The table of `cargo xtask verify`: a row per program, a column per kernel.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Budget, Measurement, Verdict};

/// Renders the table and, below it, what is wrong.
pub(super) fn render(verdicts: &[Verdict], budget: &Budget) -> String {
    let mut rows: BTreeMap<String, Vec<Option<&Measurement>>> = BTreeMap::new();
    for (column, verdict) in verdicts.iter().enumerate() {
        for measurement in &verdict.measured {
            rows.entry(measurement.name())
                .or_insert_with(|| vec![None; verdicts.len()])[column] = Some(measurement);
        }
    }
    let width = rows
        .keys()
        .map(String::len)
        .max()
        .unwrap_or_default()
        .max(7);

    let mut text = String::new();
    if !rows.is_empty() {
        let _ = write!(text, "{:width$}", "program");
        for verdict in verdicts {
            let _ = write!(text, " {:>9}", verdict.series);
        }
        let _ = writeln!(text, " {:>9} {:>7} {:>9}", "limit", "stack", "size");
    }
    for (name, cells) in &rows {
        let _ = write!(text, "{name:width$}");
        for cell in cells {
            let _ = write!(text, " {:>9}", processed(*cell));
        }
        let most = |figure: fn(&Measurement) -> Option<u64>| {
            cells.iter().flatten().filter_map(|m| figure(m)).max()
        };
        let limit = budget.processed_limit(name);
        let _ = writeln!(
            text,
            " {:>9} {:>7} {:>9}",
            number(limit),
            number(most(|m| m.stack_bytes)),
            number(most(|m| m.xlated_bytes))
        );
    }
    if !rows.is_empty() {
        text.push_str("(processed instructions per kernel and their limit; bytes of stack and of program, the most of all kernels)\n");
    }
    for verdict in verdicts {
        if let Some(reason) = &verdict.skipped {
            let _ = writeln!(text, "{}: skipped: {reason}", verdict.series);
        }
        for fault in &verdict.faults {
            let _ = writeln!(text, "{}: {fault}", verdict.series);
        }
    }
    text
}

fn processed(cell: Option<&Measurement>) -> String {
    match cell {
        None => String::new(),
        Some(m) if m.error.is_some() => "REFUSED".to_owned(),
        Some(m) if m.skipped.is_some() => "-".to_owned(),
        Some(m) => number(m.processed),
    }
}

/// A number with its thousands apart.
fn number(value: Option<u64>) -> String {
    let Some(value) = value else {
        return String::new();
    };
    let digits = value.to_string();
    let mut text = String::new();
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
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(number(Some(7)), "7");
        assert_eq!(number(Some(999)), "999");
        assert_eq!(number(Some(1_000)), "1,000");
        assert_eq!(number(Some(1_234_567)), "1,234,567");
        assert_eq!(number(None), "");
    }

    #[test]
    fn rows_are_aligned_and_faults_stand_below() {
        let measurement = |program: &str, processed| Measurement {
            object: "capture".to_owned(),
            program: program.to_owned(),
            processed: Some(processed),
            stack_bytes: Some(312),
            xlated_bytes: Some(2304),
            ..Measurement::default()
        };
        let refused = Measurement {
            error: Some("no".to_owned()),
            ..measurement("send", 0)
        };
        let verdict = |series: &str, measured, faults: &[&str]| Verdict {
            series: series.to_owned(),
            measured,
            trouble: None,
            faults: faults.iter().map(|&fault| fault.to_owned()).collect(),
            skipped: None,
        };
        let verdicts = [
            verdict("5.10", vec![refused], &["capture/send is refused: no"]),
            verdict("6.12", vec![measurement("send", 12345)], &[]),
        ];
        let text = render(&verdicts, &Budget::default());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "program           5.10      6.12     limit   stack      size"
        );
        assert_eq!(
            lines[1],
            "capture/send   REFUSED    12,345               312     2,304"
        );
        assert_eq!(lines[3], "5.10: capture/send is refused: no");
    }
}
