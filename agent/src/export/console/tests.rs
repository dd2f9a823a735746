use std::sync::{Mutex, PoisonError};

use super::*;
use crate::{
    export::otlp::testing::{resource, span},
    span::{SpanKind, Status, Value},
};

const PLAIN: Style = Style {
    width: 120,
    color: false,
};

/// A span of `service` from `start` to `end` milliseconds after 22:00:00 UTC of the first day.
fn timed(id: u8, parent: u8, service: &str, kind: SpanKind, start: u64, end: u64) -> Span {
    let at = |ms: u64| (79_200_000 + ms) * 1_000_000;
    Span {
        parent_span_id: (parent > 0).then_some([0, 0, 0, 0, 0, 0, 0, parent]),
        kind,
        start_unix_ns: at(start),
        end_unix_ns: at(end),
        resource: resource(service),
        ..span(id)
    }
}

fn set<'a>(span: &mut Span, name: &str, value: impl Into<Value<'a>>) {
    unset(span, name);
    span.attributes.push(name, value);
}

fn unset(span: &mut Span, name: &str) {
    let others = span.attributes.iter().filter(|(known, _)| *known != name);
    span.attributes = others.collect();
}

/// nginx calls shop, which calls stock (not traced) and fails.
fn shop() -> Vec<Span> {
    let mut edge = timed(1, 0, "nginx", SpanKind::Server, 0, 100);
    let mut proxied = timed(2, 1, "nginx", SpanKind::Client, 10, 95);
    let mut shop = timed(3, 2, "shop", SpanKind::Server, 15, 90);
    let mut stock = timed(4, 3, "shop", SpanKind::Client, 40, 80);
    for span in [&mut edge, &mut proxied, &mut shop] {
        set(span, "url.path", "/cart");
    }
    set(&mut proxied, "undertrace.parent.method", "same_context");
    set(&mut shop, "undertrace.parent.source", "same_kernel");
    set(&mut shop, "undertrace.parent.method", "none");
    set(&mut stock, "undertrace.parent.method", "same_context");
    unset(&mut stock, "url.path");
    set(&mut stock, "url.full", "http://stock:8000/items/7");
    set(&mut stock, "server.address", "stock");
    set(&mut stock, "server.port", 8000_i64);
    set(&mut stock, "http.response.status_code", 503_i64);
    stock.status = Status::Error;
    // Arrival is by end, not by start.
    vec![stock, shop, proxied, edge]
}

#[test]
fn draws_a_trace_as_an_aligned_tree() {
    let expected = "\
trace 01010101010101010101010101010101  4 spans, 2 services, 100 ms, 22:00:00.000 UTC, 1 error
  nginx                    GET /cart     200      100 ms  ▕████████████████████████████████████████▏
  └ nginx → shop           GET /cart     200     85.0 ms  ▕    ██████████████████████████████████  ▏  same context
    └ shop                 GET /cart     200     75.0 ms  ▕      ██████████████████████████████    ▏  same kernel
      └ shop → stock:8000  GET /items/7  503 ✗   40.0 ms  ▕                ████████████████        ▏  same context

";
    assert_eq!(render(&shop(), &PLAIN), expected);
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for width in 60..200 {
        for line in render(
            &shop(),
            &Style {
                width,
                color: false,
            },
        )
        .lines()
        .skip(1)
        {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn colours_surround_the_same_text() {
    let colored = render(
        &shop(),
        &Style {
            color: true,
            ..PLAIN
        },
    );
    let mut plain = String::new();
    let mut rest = colored.as_str();
    while let Some(escape) = rest.find('\x1b') {
        plain.push_str(&rest[..escape]);
        let end = rest[escape..].find('m').expect("a colour code ends in m");
        rest = &rest[escape + end + 1..];
    }
    plain.push_str(rest);
    assert_ne!(colored, plain);
    assert_eq!(plain, render(&shop(), &PLAIN));
}

#[test]
fn shows_control_characters_of_the_wire_as_dots() {
    let mut span = span(1);
    set(&mut span, "url.path", "/\x1b[2J\nfake");
    let text = render(&[span], &PLAIN);
    assert!(text.contains("GET /·[2J·fake"), "{text}");
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn every_span_has_one_line_even_if_parents_form_a_cycle() {
    let spans = vec![
        timed(1, 2, "a", SpanKind::Server, 0, 10),
        timed(2, 1, "b", SpanKind::Server, 5, 10),
        timed(3, 3, "c", SpanKind::Server, 6, 10),
        timed(4, 9, "d", SpanKind::Server, 7, 10),
    ];
    let text = render(&spans, &PLAIN);
    let services: Vec<&str> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().find(|word| *word != "└"))
        .collect();
    assert_eq!(services, ["c", "d", "a", "b"]);
    assert!(text.contains("parent elsewhere"));
}

#[test]
fn a_long_trace_says_what_it_leaves_out() {
    let text = render(&(0..150).map(span).collect::<Vec<_>>(), &PLAIN);
    assert!(text.ends_with("  ... and 50 more spans\n\n"), "{text}");
    assert_eq!(text.lines().count(), 1 + 100 + 1 + 1);
}

#[test]
fn durations_have_three_digits_and_a_unit() {
    let texts = [
        0,
        850_000,
        1_000_000,
        12_440_000,
        999_600_000,
        1_250_000_000,
        125_000_000_000,
    ];
    assert_eq!(
        texts.map(render::duration),
        [
            "0 µs", "850 µs", "1.00 ms", "12.4 ms", "1000 ms", "1.25 s", "2 m 05 s"
        ]
    );
}

/// What a sink wrote.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn traces(&self) -> usize {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).matches("trace ").count()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sink() -> (ConsoleSink, Written, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    let written = Written::default();
    let sink = ConsoleSink::direct(Box::new(written.clone()), PLAIN, &counters);
    (sink, written, counters)
}

const MS: u64 = 1_000_000;

#[test]
fn prints_a_trace_once_its_root_ended_and_nothing_came_for_a_moment() {
    let (mut sink, written, counters) = sink();
    let mut spans = shop();
    let root = spans.pop().expect("four spans");
    sink.tick(1_000 * MS);
    sink.push(spans);
    sink.tick(1_900 * MS);
    assert_eq!(written.traces(), 0, "the root has not ended");
    sink.push(vec![root]);
    sink.tick(2_500 * MS);
    assert_eq!(written.traces(), 0, "a late span may come");
    sink.tick(2_600 * MS);
    assert_eq!(written.traces(), 1);
    assert_eq!(counters.spans_exported.get(), 4);
}

#[test]
fn prints_a_trace_whose_root_is_elsewhere_after_longer_silence() {
    let (mut sink, written, _) = sink();
    sink.push(vec![timed(1, 9, "web", SpanKind::Server, 0, 1)]);
    sink.tick(1_999 * MS);
    assert_eq!(written.traces(), 0);
    sink.tick(2_000 * MS);
    assert_eq!(written.traces(), 1);
}

#[test]
fn holds_a_bounded_number_of_traces() {
    let (mut sink, written, counters) = sink();
    for id in 0..(MAX_TRACES + 5) {
        sink.tick(id as u64);
        let mut span = span(1);
        span.trace_id[..8].copy_from_slice(&(id as u64).to_be_bytes());
        sink.push(vec![span]);
    }
    assert_eq!((sink.traces.len(), written.traces()), (MAX_TRACES, 5));
    sink.finish();
    assert_eq!(counters.spans_exported.get(), (MAX_TRACES + 5) as u64);
}
