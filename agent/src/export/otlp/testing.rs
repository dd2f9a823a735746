//! Spans for tests.

use std::borrow::Cow;

use crate::{
    process::Resource,
    span::{Events, Span, SpanKind, Status, Value},
};

/// A Resource with only a name.
pub(crate) fn resource(name: &str) -> Resource {
    Resource::new(vec![(Cow::Borrowed("service.name"), name.to_owned())])
}

/// A server span of service `web`: trace 0101..., span id `id`, one second after the epoch, a millisecond long.
pub(crate) fn span(id: u8) -> Span {
    Span {
        trace_id: [1; 16],
        span_id: [0, 0, 0, 0, 0, 0, 0, id],
        parent_span_id: None,
        trace_flags: 1,
        parent_is_remote: false,
        trace_state: None,
        kind: SpanKind::Server,
        name: "GET".into(),
        start_unix_ns: 1_000_000_000,
        end_unix_ns: 1_001_000_000,
        status: Status::Unset,
        attributes: [
            ("http.request.method", Value::Text("GET")),
            ("url.path", Value::Text("/")),
            ("http.response.status_code", Value::Int(200)),
        ]
        .into_iter()
        .collect(),
        events: Events::new(),
        links: Vec::new(),
        resource: resource("web"),
    }
}
