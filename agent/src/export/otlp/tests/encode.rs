//! The bytes of export requests.

use opentelemetry_proto::tonic::common::v1::any_value;
use proptest::{collection::vec, prelude::*, sample::select};
use prost::Message as _;

use super::reference;
use crate::{
    export::otlp::{
        encode::Encoder,
        testing::{resource, span},
    },
    process::Resource,
    span::{Attributes, Link, Span, SpanEvent, SpanKind, Status, Value, conventions::SCHEMA_URL},
};

#[test]
fn groups_spans_by_resource_in_order_of_appearance() {
    let of = |id, name: &str| Span {
        resource: resource(name),
        ..span(id)
    };
    let request = Encoder::default().message(&[of(1, "web"), of(2, "db"), of(3, "web")]);
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
    let request = Encoder::default().message(&[child, span(2)]);
    let [encoded, plain] = request.resource_spans[0].scope_spans[0].spans.as_slice() else {
        panic!("two spans of one Resource");
    };
    assert_eq!(encoded.flags, 0x303);
    assert_eq!(encoded.parent_span_id, [7; 8]);
    assert_eq!(encoded.trace_state, "vendor=1");
    assert_eq!(encoded.status.as_ref().map(|status| status.code), Some(2));
    assert_eq!(plain.flags, 0x101);
    assert!(plain.parent_span_id.is_empty());
}

/// Texts whose lengths take one, two and three bytes, and none.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "\\PC{0,40}",
        1 => select(vec![0, 1, 120, 127, 128, 16_383, 16_384, 20_000]).prop_map(|n| "x".repeat(n)),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let number = (any::<i64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift);
    let value = (texts(), number, any::<bool>(), 0..3_u8);
    vec((texts(), value), 0..6).prop_map(|list| {
        let mut attributes = Attributes::default();
        for (name, (text, number, truth, kind)) in &list {
            let value = match kind {
                0 => Value::Text(text),
                1 => Value::Int(*number),
                _ => Value::Bool(*truth),
            };
            attributes.push(name, value);
        }
        attributes
    })
}

prop_compose! {
    fn events()(
        time_unix_ns in any::<u64>(),
        name in select(vec!["", "undertrace.request.head_complete"]),
        attributes in attributes(),
    ) -> SpanEvent {
        SpanEvent { time_unix_ns, name, attributes }
    }
}

prop_compose! {
    fn links()(trace_id: [u8; 16], span_id: [u8; 8], attributes in attributes()) -> Link {
        Link { trace_id, span_id, attributes }
    }
}

prop_compose! {
    /// Spans of these Resources.
    fn spans_of(resources: Vec<Resource>)(
        (trace_id, span_id, parent_span_id) in any::<([u8; 16], [u8; 8], Option<[u8; 8]>)>(),
        (trace_flags, parent_is_remote, is_client, is_error) in any::<(u8, bool, bool, bool)>(),
        (start_unix_ns, end_unix_ns) in prop_oneof![Just((0, 0)), any::<(u64, u64)>()],
        (trace_state, name) in (prop::option::of(texts()), texts()),
        attributes in attributes(),
        (events, links) in (vec(events(), 0..3), vec(links(), 0..3)),
        resource in select(resources),
    ) -> Span {
        Span {
            trace_id,
            span_id,
            parent_span_id,
            trace_flags,
            parent_is_remote,
            trace_state: trace_state.map(String::into_boxed_str),
            kind: if is_client { SpanKind::Client } else { SpanKind::Server },
            name: name.into(),
            start_unix_ns,
            end_unix_ns,
            status: if is_error { Status::Error } else { Status::Unset },
            attributes,
            events: events.into(),
            links,
            resource,
        }
    }
}

/// Batches of spans of several Resources, some of which have the same content under different handles.
fn batches() -> impl Strategy<Value = Vec<Span>> {
    let resource = vec(("[a-z.]{0,20}", texts()), 0..4)
        .prop_map(|list| Resource::new(list.into_iter().map(|(k, v)| (k.into(), v)).collect()));
    vec(resource, 1..8).prop_flat_map(|mut resources| {
        let again = Resource::new(resources[0].attributes().to_vec());
        resources.push(again);
        vec(spans_of(resources), 0..30)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn writes_what_prost_writes(batches in vec(batches(), 1..3)) {
        let mut encoder = Encoder::default();
        for spans in batches {
            let expected = reference::message(&spans);
            let bytes = encoder.encode(&spans);
            prop_assert_eq!(encoder.message(&spans), expected.clone());
            prop_assert!(bytes == expected.encode_to_vec());
        }
    }
}

#[test]
fn keeps_few_resources_of_those_that_are_gone() {
    let mut encoder = Encoder::default();
    for _ in 0..40 {
        let spans: Vec<Span> = (0..100)
            .map(|id| Span {
                resource: resource(&format!("service-{id}")),
                ..span(id)
            })
            .collect();
        assert_eq!(encoder.message(&spans).resource_spans.len(), 100);
        assert!(encoder.known() < 1_200);
    }
}
