//! What the collector received, flattened, and questions about it: trees as text, spans by attribute, links between spans.

use std::{collections::BTreeMap, fmt::Write as _};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{Span as OtlpSpan, span::SpanKind, status::StatusCode},
};

/// Size of a request's body, bytes.
pub(crate) const REQUEST_BODY: &str = "http.request.body.size";
/// Size of a response's body, bytes.
pub(crate) const RESPONSE_BODY: &str = "http.response.body.size";

/// One span with its service.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// The span as it came.
    pub(crate) otlp: OtlpSpan,
    /// Its attributes as text, by name.
    pub(crate) attributes: BTreeMap<String, String>,
    /// Its Resource's attributes as text, by name.
    pub(crate) resource: BTreeMap<String, String>,
}

impl Span {
    /// All spans of a request.
    pub(crate) fn all_of(request: ExportTraceServiceRequest) -> Vec<Self> {
        let mut spans = Vec::new();
        for part in request.resource_spans {
            let resource = as_text(&part.resource.unwrap_or_default().attributes);
            for otlp in part.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Self {
                    attributes: as_text(&otlp.attributes),
                    resource: resource.clone(),
                    otlp,
                });
            }
        }
        spans
    }

    /// An attribute as text; empty when absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// `service.name` of its Resource.
    pub(crate) fn service(&self) -> &str {
        self.resource
            .get("service.name")
            .map_or("?", String::as_str)
    }

    /// `url.path`, or the path within `url.full`.
    pub(crate) fn path(&self) -> &str {
        if let Some(path) = self.attributes.get("url.path") {
            return path;
        }
        let full = self.get("url.full");
        let rest = full.split_once("://").map_or(full, |(_, rest)| rest);
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        path.split('?').next().unwrap_or_default()
    }

    /// Whether it is a server's span.
    pub(crate) fn is_server(&self) -> bool {
        self.otlp.kind() == SpanKind::Server
    }

    /// Whether it is a client's span.
    pub(crate) fn is_client(&self) -> bool {
        self.otlp.kind() == SpanKind::Client
    }

    /// Whether its status is "error".
    pub(crate) fn is_error(&self) -> bool {
        self.otlp
            .status
            .as_ref()
            .is_some_and(|status| status.code() == StatusCode::Error)
    }

    /// Trace id in hexadecimal.
    pub(crate) fn trace_id(&self) -> String {
        hex(&self.otlp.trace_id)
    }

    /// Span id in hexadecimal.
    pub(crate) fn span_id(&self) -> String {
        hex(&self.otlp.span_id)
    }

    /// Parent's span id in hexadecimal, empty for none.
    pub(crate) fn parent_id(&self) -> String {
        hex(&self.otlp.parent_span_id)
    }

    /// `KIND service METHOD path status`: the line of a tree. The status is the HTTP status code, or else `error.type`, or else `-`.
    pub(crate) fn line(&self) -> String {
        let kind = match self.otlp.kind() {
            SpanKind::Server => "SERVER",
            SpanKind::Client => "CLIENT",
            _ => "OTHER",
        };
        let status = [
            self.get("http.response.status_code"),
            self.get("error.type"),
            "-",
        ];
        let status = status
            .iter()
            .find(|text| !text.is_empty())
            .expect("the last is not empty");
        format!(
            "{kind} {} {} {} {status}",
            self.service(),
            self.get("http.request.method"),
            self.path()
        )
    }
}

/// A set of spans.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(pub(crate) Vec<Span>);

impl Spans {
    /// The spans of a file of OTLP JSON lines.
    ///
    /// # Errors
    /// When a line is something else.
    pub(crate) fn of_json_lines(text: &str) -> anyhow::Result<Self> {
        let mut spans = Vec::new();
        for line in text.lines() {
            spans.extend(Span::all_of(serde_json::from_str(line)?));
        }
        Ok(Self(spans))
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those for which `keep` holds.
    pub(crate) fn filter(&self, keep: impl Fn(&Span) -> bool) -> Self {
        Self(self.0.iter().filter(|span| keep(span)).cloned().collect())
    }

    /// The servers' spans.
    pub(crate) fn servers(&self) -> Self {
        self.filter(Span::is_server)
    }

    /// The clients' spans.
    pub(crate) fn clients(&self) -> Self {
        self.filter(Span::is_client)
    }

    /// Those of one service.
    pub(crate) fn of(&self, service: &str) -> Self {
        self.filter(|span| span.service() == service)
    }

    /// In order of their start.
    pub(crate) fn by_start(&self) -> Vec<&Span> {
        let mut spans: Vec<_> = self.0.iter().collect();
        spans.sort_by_key(|span| span.otlp.start_time_unix_nano);
        spans
    }

    /// The only span there is.
    ///
    /// # Panics
    /// When there is another number of them.
    #[track_caller]
    pub(crate) fn only(&self) -> &Span {
        assert_eq!(
            self.len(),
            1,
            "exactly one span expected:\n{}",
            self.render()
        );
        &self.0[0]
    }

    /// The parent of a span, if it is in the set.
    pub(crate) fn parent_of(&self, span: &Span) -> Option<&Span> {
        if span.otlp.parent_span_id.is_empty() {
            return None;
        }
        self.0.iter().find(|other| {
            other.otlp.span_id == span.otlp.parent_span_id
                && other.otlp.trace_id == span.otlp.trace_id
        })
    }

    /// All traces as text, one line per span, children below their parent and two blanks to the right; a parent that is not in the set
    /// is shown as `(absent)`. Siblings and traces are ordered by their text, so that equal sets give equal texts.
    pub(crate) fn render(&self) -> String {
        let mut children: BTreeMap<(&[u8], &[u8]), Vec<&Span>> = BTreeMap::new();
        let mut roots = Vec::new();
        for span in &self.0 {
            if self.parent_of(span).is_some() {
                children
                    .entry((&span.otlp.trace_id, &span.otlp.parent_span_id))
                    .or_default()
                    .push(span);
            } else {
                roots.push(span);
            }
        }
        let mut texts: Vec<String> = roots
            .into_iter()
            .map(|span| {
                let absent = !span.otlp.parent_span_id.is_empty();
                let subtree = render_below(span, &children, usize::from(absent));
                if absent {
                    format!("(absent)\n{subtree}")
                } else {
                    subtree
                }
            })
            .collect();
        texts.sort();
        texts.concat()
    }
}

fn render_below(
    span: &Span,
    children: &BTreeMap<(&[u8], &[u8]), Vec<&Span>>,
    depth: usize,
) -> String {
    // A span that is its own ancestor would never be reached from a root; the bound keeps a bad trace from ending in a stack overflow.
    if depth > 64 {
        return "...\n".into();
    }
    let mut text = String::new();
    let _ = writeln!(text, "{:width$}{}", "", span.line(), width = depth * 2);
    let key = (span.otlp.trace_id.as_slice(), span.otlp.span_id.as_slice());
    let mut below: Vec<String> = children
        .get(&key)
        .into_iter()
        .flatten()
        .map(|child| render_below(child, children, depth + 1))
        .collect();
    below.sort();
    text + &below.concat()
}

/// Attributes as text, by name.
pub(super) fn as_text(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes
        .iter()
        .map(|pair| (pair.key.clone(), value_text(pair.value.as_ref())))
        .collect()
}

fn value_text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        Some(any_value::Value::ArrayValue(list)) => {
            let items: Vec<_> = list
                .values
                .iter()
                .map(|item| value_text(Some(item)))
                .collect();
            items.join(",")
        }
        other => format!("{other:?}"),
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u8, parent: u8, kind: SpanKind, path: &str) -> Span {
        let attributes = [
            ("http.request.method", "GET"),
            ("url.path", path),
            ("http.response.status_code", "200"),
        ];
        Span {
            otlp: OtlpSpan {
                trace_id: vec![7; 16],
                span_id: vec![id; 8],
                parent_span_id: if parent == 0 {
                    Vec::new()
                } else {
                    vec![parent; 8]
                },
                kind: kind.into(),
                ..OtlpSpan::default()
            },
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            resource: [("service.name".to_owned(), "shop".to_owned())].into(),
        }
    }

    #[test]
    fn renders_a_tree_independent_of_arrival() {
        let one = [
            span(1, 0, SpanKind::Server, "/"),
            span(2, 1, SpanKind::Client, "/b"),
            span(3, 1, SpanKind::Client, "/a"),
            span(4, 3, SpanKind::Server, "/a"),
        ];
        let mut other = one.clone();
        other.reverse();
        let expected = "SERVER shop GET / 200\n  CLIENT shop GET /a 200\n    SERVER shop GET /a 200\n  CLIENT shop GET /b 200\n";
        assert_eq!(Spans(one.into()).render(), expected);
        assert_eq!(Spans(other.into()).render(), expected);
    }

    #[test]
    fn shows_a_parent_that_did_not_come() {
        assert_eq!(
            Spans(vec![span(4, 3, SpanKind::Server, "/a")]).render(),
            "(absent)\n  SERVER shop GET /a 200\n"
        );
    }

    #[test]
    fn path_of_a_full_url() {
        let mut client = span(1, 0, SpanKind::Client, "/");
        client.attributes.remove("url.path");
        for (full, path) in [
            ("http://h:1/a/b?q=REDACTED", "/a/b"),
            ("http://h", ""),
            ("", ""),
        ] {
            client.attributes.insert("url.full".into(), full.into());
            assert_eq!(client.path(), path);
        }
    }
}
