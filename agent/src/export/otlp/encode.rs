//! Our spans to OTLP messages: spans of many Resources in one request. The one encoder of gRPC, HTTP and the JSON lines file.

use std::borrow::Cow;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource as OtlpResource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as OtlpSpan, Status as OtlpStatus,
        span::{Event, Link as OtlpLink, SpanKind as OtlpKind},
        status::StatusCode,
    },
};

use crate::{
    process::Resource,
    span::{
        Link, Span, SpanEvent, SpanKind, Status, Value,
        conventions::{SCHEMA_URL, SCOPE_NAME},
    },
};

/// Bit 8 of OTLP's `flags`: bit 9 tells whether the parent is remote (trace.proto, `SpanFlags`).
const HAS_IS_REMOTE: u32 = 1 << 8;
/// Bit 9 of OTLP's `flags`: the parent is in another process.
const IS_REMOTE: u32 = 1 << 9;

/// One export request of these spans: grouped by Resource, Resources in order of first appearance, spans in the given order.
#[must_use]
pub fn export_request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let mut groups: Vec<(Resource, Vec<OtlpSpan>)> = Vec::new();
    for span in spans {
        let resource = span.resource.clone();
        let group = groups
            .iter()
            .position(|(known, _)| known.same_handle(&resource) || *known == resource)
            .unwrap_or_else(|| {
                groups.push((resource, Vec::new()));
                groups.len() - 1
            });
        groups[group].1.push(encode_span(span));
    }
    ExportTraceServiceRequest {
        resource_spans: groups
            .into_iter()
            .map(|(resource, spans)| ResourceSpans {
                resource: Some(encode_resource(&resource)),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: SCOPE_NAME.to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    spans,
                    schema_url: SCHEMA_URL.to_owned(),
                }],
                schema_url: SCHEMA_URL.to_owned(),
            })
            .collect(),
    }
}

fn encode_resource(resource: &Resource) -> OtlpResource {
    OtlpResource {
        attributes: resource
            .attributes()
            .iter()
            .map(|(key, value)| {
                key_value(key.clone(), any_value::Value::StringValue(value.clone()))
            })
            .collect(),
        ..OtlpResource::default()
    }
}

fn encode_span(span: Span) -> OtlpSpan {
    let kind = match span.kind {
        SpanKind::Server => OtlpKind::Server,
        SpanKind::Client => OtlpKind::Client,
    };
    let code = match span.status {
        Status::Unset => StatusCode::Unset,
        Status::Error => StatusCode::Error,
    };
    let remote = if span.parent_is_remote { IS_REMOTE } else { 0 };
    OtlpSpan {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        trace_state: span.trace_state.map(String::from).unwrap_or_default(),
        parent_span_id: span
            .parent_span_id
            .map(|id| id.to_vec())
            .unwrap_or_default(),
        flags: u32::from(span.trace_flags) | HAS_IS_REMOTE | remote,
        name: span.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: span.start_unix_ns,
        end_time_unix_nano: span.end_unix_ns,
        attributes: encode_attributes(span.attributes),
        events: span.events.into_iter().map(encode_event).collect(),
        links: span.links.into_iter().map(encode_link).collect(),
        status: Some(OtlpStatus {
            message: String::new(),
            code: code.into(),
        }),
        ..OtlpSpan::default()
    }
}

fn encode_event(event: SpanEvent) -> Event {
    Event {
        time_unix_nano: event.time_unix_ns,
        name: event.name.to_owned(),
        attributes: encode_attributes(event.attributes),
        ..Event::default()
    }
}

fn encode_link(link: Link) -> OtlpLink {
    OtlpLink {
        trace_id: link.trace_id.to_vec(),
        span_id: link.span_id.to_vec(),
        attributes: encode_attributes(link.attributes),
        ..OtlpLink::default()
    }
}

fn encode_attributes(attributes: Vec<(Cow<'static, str>, Value)>) -> Vec<KeyValue> {
    attributes
        .into_iter()
        .map(|(key, value)| {
            let value = match value {
                Value::Text(text) => any_value::Value::StringValue(text.into_owned()),
                Value::Int(number) => any_value::Value::IntValue(number),
                Value::Bool(truth) => any_value::Value::BoolValue(truth),
            };
            key_value(key, value)
        })
        .collect()
}

fn key_value(key: Cow<'static, str>, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.into_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::otlp::testing::{resource, span};

    #[test]
    fn groups_spans_by_resource_in_order_of_appearance() {
        let of = |id, name: &str| Span {
            resource: resource(name),
            ..span(id)
        };
        let request = export_request(vec![of(1, "web"), of(2, "db"), of(3, "web")]);
        let groups: Vec<(String, Vec<u8>)> = request
            .resource_spans
            .iter()
            .map(|group| {
                let name = group
                    .resource
                    .as_ref()
                    .and_then(|resource| resource.attributes[0].value.clone())
                    .and_then(|value| value.value);
                let Some(any_value::Value::StringValue(name)) = name else {
                    panic!("the first attribute is text");
                };
                let ids = group.scope_spans[0]
                    .spans
                    .iter()
                    .map(|span| span.span_id[7]);
                (name, ids.collect())
            })
            .collect();
        assert_eq!(
            groups,
            [("web".to_owned(), vec![1, 3]), ("db".to_owned(), vec![2])]
        );
        assert_eq!(request.resource_spans[0].schema_url, SCHEMA_URL);
        assert_eq!(
            request.resource_spans[0].scope_spans[0].schema_url,
            SCHEMA_URL
        );
    }

    #[test]
    fn carries_flags_parent_and_trace_state() {
        let mut child = span(1);
        child.parent_span_id = Some([7; 8]);
        child.parent_is_remote = true;
        child.trace_flags = 3;
        child.trace_state = Some("vendor=1".into());
        child.status = Status::Error;
        let encoded = encode_span(child);
        assert_eq!(encoded.flags, 0x303);
        assert_eq!(encoded.parent_span_id, [7; 8]);
        assert_eq!(encoded.trace_state, "vendor=1");
        assert_eq!(encoded.status.map(|status| status.code), Some(2));
        assert_eq!(encode_span(span(2)).flags, 0x101);
        assert!(encode_span(span(2)).parent_span_id.is_empty());
    }
}
