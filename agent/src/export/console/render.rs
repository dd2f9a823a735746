//! One trace as text: a head line, and a line for each span with its bar on the common time axis.

use std::fmt::Write as _;

use super::tree::{Line, lines};
use crate::span::{Span, SpanKind, Status, Value, conventions};

/// How traces are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns of a line.
    pub width: usize,
    /// Whether ANSI colours are used.
    pub color: bool,
}

/// Lines printed of one trace; the rest is a number.
const MAX_LINES: usize = 100;
/// Columns of the bars at most and at least; with less room there are none.
const BAR: std::ops::RangeInclusive<usize> = 10..=40;
/// Columns of a duration.
const DURATION_COLUMNS: usize = 8;
/// Columns that a who or a what never exceeds.
const MAX_TEXT: usize = 44;

/// The text of one trace, ending in an empty line.
#[must_use]
pub fn render(spans: &[Span], style: &Style) -> String {
    let (Some(start), Some(end)) = (
        spans.iter().map(|span| span.start_unix_ns).min(),
        spans.iter().map(|span| span.end_unix_ns).max(),
    ) else {
        return String::new();
    };
    let lines = lines(spans);
    let shown = &lines[..lines.len().min(MAX_LINES)];
    let rows: Vec<Row> = shown.iter().map(|line| row(line, spans)).collect();
    let columns = Columns::of(&rows, style.width);
    let paint = Paint(style.color);

    let mut text = head(spans, start, end, paint);
    for (row, line) in rows.iter().zip(shown) {
        let span = &spans[line.span];
        let bar = columns.bar.map(|width| bar(span, start, end, width));
        columns.write(&mut text, row, bar.as_deref(), span, paint);
    }
    if lines.len() > shown.len() {
        let _ = writeln!(text, "  ... and {} more spans", lines.len() - shown.len());
    }
    text.push('\n');
    text
}

fn head(spans: &[Span], start: u64, end: u64, paint: Paint) -> String {
    let mut id = String::with_capacity(32);
    for byte in spans[0].trace_id {
        let _ = write!(id, "{byte:02x}");
    }
    let mut services: Vec<&str> = spans
        .iter()
        .map(|span| span.resource.service_name())
        .collect();
    services.sort_unstable();
    services.dedup();
    let errors = spans
        .iter()
        .filter(|span| span.status == Status::Error)
        .count();
    let mut text = format!(
        "{} {id}  {}, {}, {}, {} UTC",
        paint.bold("trace"),
        counted(spans.len(), "span"),
        counted(services.len(), "service"),
        duration(end - start),
        time_of_day(start),
    );
    if errors > 0 {
        let _ = write!(text, ", {}", paint.error(&counted(errors, "error")));
    }
    text.push('\n');
    text
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// The texts of one line, before they are aligned.
struct Row {
    branch: String,
    who: String,
    what: String,
    status: String,
    duration: String,
    joined: String,
}

fn row(line: &Line, spans: &[Span]) -> Row {
    let span = &spans[line.span];
    let service = span.resource.service_name();
    let who = match span.kind {
        SpanKind::Server => clean(service),
        SpanKind::Client => {
            let peer = line.answered_by.map_or_else(
                || peer(span),
                |child| spans[child].resource.service_name().to_owned(),
            );
            format!("{} → {}", clean(service), clean(&peer))
        }
    };
    Row {
        branch: line.branch.clone(),
        who,
        what: clean(&what(span)),
        status: clean(&status(span)),
        duration: duration(span.end_unix_ns.saturating_sub(span.start_unix_ns)),
        joined: clean(&joined(span, line.parent_missing)),
    }
}

/// The name, and the path where the name does not hold it.
fn what(span: &Span) -> String {
    let path = text_of(span, conventions::URL_PATH)
        .or_else(|| text_of(span, conventions::URL_FULL).map(path_of));
    match path {
        Some(path) if !span.name.contains('/') => format!("{} {path}", span.name),
        _ => span.name.clone().into_owned(),
    }
}

/// The path of an absolute URL, or the whole when it is none.
fn path_of(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else {
        return url;
    };
    rest.find('/').map_or("/", |slash| &rest[slash..])
}

fn status(span: &Span) -> String {
    let code = match span.attribute(conventions::HTTP_RESPONSE_STATUS_CODE) {
        Some(Value::Int(code)) => code.to_string(),
        _ => text_of(span, conventions::ERROR_TYPE)
            .unwrap_or("-")
            .to_owned(),
    };
    match span.status {
        Status::Error => format!("{code} ✗"),
        Status::Unset => code,
    }
}

fn peer(span: &Span) -> String {
    let address = text_of(span, conventions::SERVER_ADDRESS).unwrap_or("?");
    match span.attribute(conventions::SERVER_PORT) {
        Some(Value::Int(port)) => format!("{address}:{port}"),
        _ => address.to_owned(),
    }
}

/// How the parent was found, as short as it can be said.
fn joined(span: &Span, parent_missing: bool) -> String {
    if span.parent_span_id.is_none() {
        return if span.links.is_empty() {
            String::new()
        } else {
            "parent refused".to_owned()
        };
    }
    let source = text_of(span, conventions::UNDERTRACE_PARENT_SOURCE);
    let method = text_of(span, conventions::UNDERTRACE_PARENT_METHOD);
    // The rule says more than the kind of source, where one was applied.
    let how = method
        .filter(|method| *method != "none")
        .or(source)
        .unwrap_or_default()
        .replace('_', " ");
    match (parent_missing, how.is_empty()) {
        (false, _) => how,
        (true, true) => "parent elsewhere".to_owned(),
        (true, false) => format!("{how}, parent elsewhere"),
    }
}

fn text_of<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match span.attribute(key) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

/// Text from the wire must not move the cursor or change colours: control characters are shown as `·`.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '·' } else { c })
        .collect()
}

/// Widths that the rows of a trace share.
struct Columns {
    who: usize,
    what: usize,
    status: usize,
    bar: Option<usize>,
    joined: usize,
}

impl Columns {
    fn of(rows: &[Row], width: usize) -> Self {
        let widest = |text: fn(&Row) -> usize| rows.iter().map(text).max().unwrap_or(0);
        let status = widest(|row| columns(&row.status));
        let joined = widest(|row| columns(&row.joined));
        let who = widest(|row| columns(&row.branch) + columns(&row.who));
        let what = widest(|row| columns(&row.what)).min(MAX_TEXT);
        // Two columns between fields, one before the line.
        let fixed = status + DURATION_COLUMNS + 8;
        let for_texts = width.saturating_sub(fixed).max(16);
        let (who, what) = if who + what <= for_texts {
            (who, what)
        } else {
            let what = what.min(for_texts / 2);
            (who.min(for_texts - what), what)
        };
        let left = for_texts.saturating_sub(who + what);
        let (joined, left) = if joined > 0 && left >= joined + 2 {
            (joined, left - joined - 2)
        } else {
            (0, left)
        };
        let bar = (left >= BAR.start() + 4).then(|| (left - 4).min(*BAR.end()));
        Self {
            who,
            what,
            status,
            bar,
            joined,
        }
    }

    fn write(&self, text: &mut String, row: &Row, bar: Option<&str>, span: &Span, paint: Paint) {
        let is_error = span.status == Status::Error;
        let who = fit(&row.who, self.who.saturating_sub(columns(&row.branch)));
        let mut line = format!(
            "  {}{}  {}  ",
            paint.dim(&row.branch),
            paint.service(&who, span.resource.service_name()),
            fit(&row.what, self.what),
        );
        let status = fit(&row.status, self.status);
        line.push_str(&if is_error {
            paint.error(&status)
        } else {
            status
        });
        let _ = write!(line, "  {:>DURATION_COLUMNS$}", row.duration);
        if let Some(bar) = bar {
            let bar = if is_error {
                paint.error(bar)
            } else {
                paint.service(bar, span.resource.service_name())
            };
            let _ = write!(line, "  {}{bar}{}", paint.dim("▕"), paint.dim("▏"));
        }
        if self.joined > 0 && !row.joined.is_empty() {
            let _ = write!(line, "  {}", paint.dim(&row.joined));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// A bar of `width` columns for the span's part of the time from `start` to `end`; never empty, never beyond the ends.
fn bar(span: &Span, start: u64, end: u64, width: usize) -> String {
    let total = u128::from(end.saturating_sub(start).max(1));
    let column = |time: u64| -> usize {
        let offset = u128::from(time.saturating_sub(start));
        usize::try_from(offset * width as u128 / total)
            .unwrap_or(width)
            .min(width)
    };
    let from = column(span.start_unix_ns).min(width - 1);
    let to = column(span.end_unix_ns).clamp(from + 1, width);
    let mut bar = " ".repeat(from);
    bar.push_str(&"█".repeat(to - from));
    bar.push_str(&" ".repeat(width - to));
    bar
}

/// Three significant digits and a unit: `0 µs`, `850 µs`, `12.4 ms`, `1.25 s`, `2 m 05 s`.
pub(super) fn duration(ns: u64) -> String {
    let scaled = |unit_ns: u64, unit: &str| {
        let value = ns as f64 / unit_ns as f64;
        let digits = match value {
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        format!("{value:.digits$} {unit}")
    };
    match ns {
        0..1_000_000 => format!("{} µs", ns / 1_000),
        1_000_000..1_000_000_000 => scaled(1_000_000, "ms"),
        1_000_000_000..100_000_000_000 => scaled(1_000_000_000, "s"),
        _ => {
            let seconds = ns / 1_000_000_000;
            format!("{} m {:02} s", seconds / 60, seconds % 60)
        }
    }
}

/// `HH:MM:SS.mmm` of a time since the epoch.
fn time_of_day(unix_ns: u64) -> String {
    let ms = unix_ns / 1_000_000;
    let seconds = ms / 1_000 % 86_400;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        ms % 1_000
    )
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

/// The text in exactly `width` columns: padded, or cut with `…`.
fn fit(text: &str, width: usize) -> String {
    let length = columns(text);
    if length <= width {
        return format!("{text}{}", " ".repeat(width - length));
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// ANSI colours, or nothing.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    /// Foreground colours of services: cyan, green, yellow, blue, magenta and their like; red is for errors.
    const SERVICES: [&'static str; 6] = ["36", "32", "33", "34", "35", "96"];

    fn code(self, text: &str, code: &str) -> String {
        if self.0 && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn bold(self, text: &str) -> String {
        self.code(text, "1")
    }

    fn dim(self, text: &str) -> String {
        self.code(text, "2")
    }

    fn error(self, text: &str) -> String {
        self.code(text, "1;31")
    }

    /// One colour for each service, the same in every run.
    fn service(self, text: &str, service: &str) -> String {
        let sum: usize = service.bytes().map(usize::from).sum();
        self.code(text, Self::SERVICES[sum % Self::SERVICES.len()])
    }
}
