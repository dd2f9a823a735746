//! Spans as the structs of `opentelemetry-proto`: what the encoder's bytes must decode to.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource as OtlpResource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as OtlpSpan, SpanFlags, Status as OtlpStatus,
        span::{Event, Link as OtlpLink, SpanKind as OtlpKind},
        status::StatusCode,
    },
};

use crate::{
    process::Resource,
    span::{
        Attributes, Link, Span, SpanEvent, SpanKind, Status, Value,
        conventions::{SCHEMA_URL, SCOPE_NAME},
    },
};

/// One export request of these spans: grouped by Resource, Resources in order of first appearance, spans in the given order.
pub(crate) fn message(spans: &[Span]) -> ExportTraceServiceRequest {
    let mut groups: Vec<(Resource, Vec<OtlpSpan>)> = Vec::new();
    for span in spans {
        let resource = span.resource.clone();
        let group = groups
            .iter()
            .position(|(known, _)| *known == resource)
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
                key_value(
                    key.clone().into_owned(),
                    any_value::Value::StringValue(value.clone()),
                )
            })
            .collect(),
        ..OtlpResource::default()
    }
}

fn encode_span(span: &Span) -> OtlpSpan {
    let kind = match span.kind {
        SpanKind::Server => OtlpKind::Server,
        SpanKind::Client => OtlpKind::Client,
    };
    let code = match span.status {
        Status::Unset => StatusCode::Unset,
        Status::Error => StatusCode::Error,
    };
    let mut flags = SpanFlags::ContextHasIsRemoteMask as u32;
    if span.parent_is_remote {
        flags |= SpanFlags::ContextIsRemoteMask as u32;
    }
    OtlpSpan {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        trace_state: span.trace_state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: span
            .parent_span_id
            .map(|id| id.to_vec())
            .unwrap_or_default(),
        flags: u32::from(span.trace_flags) | flags,
        name: span.name.clone().into_owned(),
        kind: kind.into(),
        start_time_unix_nano: span.start_unix_ns,
        end_time_unix_nano: span.end_unix_ns,
        attributes: encode_attributes(&span.attributes),
        events: span.events.iter().map(encode_event).collect(),
        links: span.links.iter().map(encode_link).collect(),
        status: Some(OtlpStatus {
            message: String::new(),
            code: code.into(),
        }),
        ..OtlpSpan::default()
    }
}

fn encode_event(event: &SpanEvent) -> Event {
    Event {
        time_unix_nano: event.time_unix_ns,
        name: event.name.to_owned(),
        attributes: encode_attributes(&event.attributes),
        ..Event::default()
    }
}

fn encode_link(link: &Link) -> OtlpLink {
    OtlpLink {
        trace_id: link.trace_id.to_vec(),
        span_id: link.span_id.to_vec(),
        attributes: encode_attributes(&link.attributes),
        ..OtlpLink::default()
    }
}

fn encode_attributes(attributes: &Attributes) -> Vec<KeyValue> {
    attributes
        .iter()
        .map(|(name, value)| {
            let value = match value {
                Value::Text(text) => any_value::Value::StringValue(text.to_owned()),
                Value::Int(number) => any_value::Value::IntValue(number),
                Value::Bool(truth) => any_value::Value::BoolValue(truth),
            };
            key_value(name.to_owned(), value)
        })
        .collect()
}

fn key_value(key: String, value: any_value::Value) -> KeyValue {
    KeyValue {
        key,
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
