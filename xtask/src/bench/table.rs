//! The table of `cargo xtask bench`.

use std::fmt::Write as _;

use super::figures::{Figures, Median};

/// Programs that the list below the table names for each service.
const PROGRAMS: usize = 8;

/// Renders the table, and below it where the instructions of kernel programs go.
pub(super) fn render(figures: &[Figures]) -> String {
    let mut rows = vec![
        [
            "service",
            "throughput",
            "bare",
            "empty pair",
            "added",
            "unsampled",
            "injecting",
            "programs",
            "agent",
            "other",
            "runs",
            "records",
            "spans",
            "cpu",
            "resident",
            "maps",
            "code",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(figures.iter().map(row));
    let mut text = align(&rows);
    text.push_str(concat!(
        "Guest instructions per request (idle: per second), median of the rounds ± their spread. Added in all = in kernel programs + in the\n",
        "agent's process + other (trampolines, waking, switching); unsampled: added where no trace is kept, and its part of that;\n",
        "injecting: added where headers are written. Throughput with the agent over without; spans received of expected.\n",
    ));
    for figures in figures {
        let Some(agent) = &figures.agent else {
            continue;
        };
        if agent.programs.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "\n{}: kernel programs, runs × instructions",
            figures.service
        );
        let rows: Vec<Vec<String>> = agent
            .programs
            .iter()
            .take(PROGRAMS)
            .map(|(name, runs, each)| {
                vec![
                    format!("  {name}"),
                    format!("{runs:.2}"),
                    format!("× {}", number(*each)),
                    format!("= {}", number(runs * each)),
                ]
            })
            .collect();
        text.push_str(&align(&rows));
    }
    text
}

fn row(figures: &Figures) -> Vec<String> {
    let median = |median: Option<Median>| {
        median.map_or_else(
            || "-".to_owned(),
            |m| format!("{} ± {}", number(m.value), number(m.spread)),
        )
    };
    let mut cells = vec![
        figures.service.clone(),
        figures
            .ratio
            .map_or_else(|| "-".to_owned(), |ratio| format!("{:.3}", ratio.value)),
        figures
            .bare
            .map_or_else(|| "-".to_owned(), |bare| number(bare.value)),
        median(figures.empty),
    ];
    let Some(agent) = &figures.agent else {
        cells.resize(17, "-".to_owned());
        return cells;
    };
    // Without requests there is nothing to compare with: what is added is the agent's process, programs come on top.
    let other = figures
        .bare
        .map(|_| agent.added.value - agent.in_programs - agent.in_agent.value);
    cells.extend([
        median(Some(agent.added)),
        figures.unsampled.map_or_else(
            || "-".to_owned(),
            |unsampled| {
                let part = unsampled.value / agent.added.value * 100.0;
                format!("{} ({part:.0} %)", median(Some(unsampled)))
            },
        ),
        median(figures.injecting),
        number(agent.in_programs),
        number(agent.in_agent.value),
        other.map_or_else(|| "-".to_owned(), number),
        format!("{:.2}", agent.runs),
        format!("{:.2}", agent.records),
        if agent.spans == agent.spans_expected {
            "exact".to_owned()
        } else {
            format!("{} of {}", agent.spans, agent.spans_expected)
        },
        format!("{:.1} %", agent.cpu_percent.value),
        format!("{:.1} MB", agent.resident_kib as f64 * 1024.0 / 1e6),
        format!("{:.1} MB", agent.map_bytes as f64 / 1e6),
        format!("{:.0} kB", agent.program_bytes as f64 / 1e3),
    ]);
    cells
}

/// Columns two blanks apart, the first to the left, the others to the right.
pub(super) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let _ = write!(text, "{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// A whole number with its thousands apart.
pub(super) fn number(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    if value <= -0.5 {
        text.push('-');
    }
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
    use super::{super::figures::AgentFigures, *};

    #[test]
    fn thousands_are_apart() {
        assert_eq!(
            [0.0, -0.2, 999.4, 1_000.0, -1_234_567.0].map(number),
            ["0", "0", "999", "1,000", "-1,234,567"]
        );
    }

    #[test]
    fn columns_are_aligned() {
        let median = |value, spread| Median { value, spread };
        let nginx = Figures {
            service: "nginx".to_owned(),
            bare: Some(median(41_000.0, 3.0)),
            empty: Some(median(750.0, 20.0)),
            ratio: Some(median(0.81, 0.0)),
            unsampled: Some(median(2_090.0, 9.0)),
            injecting: Some(median(9_900.0, 7.0)),
            agent: Some(AgentFigures {
                added: median(9_500.0, 120.0),
                in_programs: 4_000.0,
                in_agent: median(4_500.0, 0.0),
                runs: 4.0,
                records: 2.0,
                spans: 7,
                spans_expected: 7,
                programs: vec![("inet_sendmsg_en".to_owned(), 2.0, 1_500.0)],
                ..AgentFigures::default()
            }),
        };
        let limit = Figures {
            service: "proxy".to_owned(),
            agent: None,
            ..nginx.clone()
        };
        let text = render(&[nginx, limit]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].chars().count(), lines[1].chars().count(), "{text}");
        assert_eq!(lines[1].chars().count(), lines[2].chars().count(), "{text}");
        assert!(
            lines[1].contains("9,500 ± 120  2,090 ± 9 (22 %)  9,900 ± 7")
                && lines[1].contains("exact"),
            "{text}"
        );
        assert!(
            text.contains("inet_sendmsg_en  2.00  × 1,500  = 3,000"),
            "{text}"
        );
    }
}
