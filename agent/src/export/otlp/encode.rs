//! Our spans to the bytes of OTLP export requests: spans of many Resources in one. The one encoder of gRPC, HTTP, and, by way of the decoded
//! message, JSON.
//!
//! Input: a batch of spans. Output: `ExportTraceServiceRequest` (trace_service.proto, trace.proto), byte for byte what prost makes of the same
//! message. It is written directly because the structs of `opentelemetry-proto` cost an allocation for each text and prost a walk over everything
//! for each nested length.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;

use crate::{
    conn::IdMap,
    process::Resource,
    span::{
        Attributes, Link, Span, SpanEvent, SpanKind, Status, Value,
        attributes::push_key_value,
        conventions::{SCHEMA_URL, SCOPE_NAME},
        protobuf::{fixed64, length_delimited, push_bytes, push_fixed64, push_message, variable},
    },
};

/// Bit 8 of OTLP's `flags`: bit 9 tells whether the parent is remote (trace.proto, `SpanFlags`).
const HAS_IS_REMOTE: u32 = 1 << 8;
/// Bit 9 of OTLP's `flags`: the parent is in another process.
const IS_REMOTE: u32 = 1 << 9;

/// Resources remembered at the beginning of a batch at most.
const KNOWN_LIMIT: usize = 1_024;

/// Makes export requests; keeps its storage and the Resources that it has encoded.
#[derive(Debug, Default)]
pub struct Encoder {
    /// By handle.
    known: IdMap<u64, Known>,
    /// The last request: its storage is used again when nobody sends it any more.
    last: Bytes,
}

#[derive(Debug)]
struct Known {
    /// Keeps the handle from being given to another Resource.
    _resource: Resource,
    /// `ResourceSpans.resource`.
    encoded: Arc<[u8]>,
}

/// The spans of a batch in the order in which they leave, each with the number of its group.
struct Grouped<'a> {
    spans: Vec<(usize, &'a Span)>,
    /// By group: `ResourceSpans.resource`.
    resources: Vec<Arc<[u8]>>,
}

impl Encoder {
    /// The bytes of one export request of these spans: grouped by Resource, Resources in order of first appearance, spans in the given order.
    pub fn encode<'a>(&mut self, spans: impl IntoIterator<Item = &'a Span>) -> Bytes {
        let grouped = self.group(spans);
        let mut out = self.storage();
        for members in grouped
            .spans
            .chunk_by(|(left, _), (right, _)| left == right)
        {
            // ExportTraceServiceRequest.resource_spans
            push_message::<3>(&mut out, length_delimited(1), |out| {
                if let Some((group, _)) = members.first() {
                    out.extend_from_slice(&grouped.resources[*group]);
                }
                // ResourceSpans.scope_spans
                push_message::<3>(out, length_delimited(2), |out| push_scope(out, members));
                // ResourceSpans.schema_url
                push_bytes(out, length_delimited(3), SCHEMA_URL.as_bytes());
            });
        }
        self.last = out.into();
        self.last.clone()
    }

    /// An empty buffer: that of the last request, unless it is still in use.
    fn storage(&mut self) -> Vec<u8> {
        let mut last = std::mem::take(&mut self.last);
        last.clear();
        last.into()
    }

    /// The message that [`Encoder::encode`] encodes, for those who write it in another form.
    ///
    /// # Panics
    /// Never: the encoder writes what prost reads.
    pub fn message<'a>(
        &mut self,
        spans: impl IntoIterator<Item = &'a Span>,
    ) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest::decode(self.encode(spans))
            .expect("the encoder writes what prost reads")
    }

    /// Resources that are remembered.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.known.len()
    }

    /// Handles are compared first; Resources with different handles and the same content are one group nevertheless.
    fn group<'a>(&mut self, spans: impl IntoIterator<Item = &'a Span>) -> Grouped<'a> {
        if self.known.len() > KNOWN_LIMIT {
            self.known.clear();
        }
        let mut grouped = Grouped {
            spans: Vec::new(),
            resources: Vec::new(),
        };
        let mut by_handle = IdMap::<u64, usize>::default();
        let mut by_content = HashMap::<Arc<[u8]>, usize>::new();
        let mut last = None;
        for span in spans {
            let handle = span.resource.handle();
            let group = match last {
                Some((known, group)) if known == handle => group,
                _ => *by_handle.entry(handle).or_insert_with(|| {
                    let encoded = self.resource(&span.resource);
                    *by_content.entry(encoded).or_insert_with_key(|encoded| {
                        grouped.resources.push(Arc::clone(encoded));
                        grouped.resources.len() - 1
                    })
                }),
            };
            last = Some((handle, group));
            grouped.spans.push((group, span));
        }
        grouped.spans.sort_by_key(|(group, _)| *group);
        grouped
    }

    /// `ResourceSpans.resource`, encoded when it is first seen.
    fn resource(&mut self, resource: &Resource) -> Arc<[u8]> {
        let known = self.known.entry(resource.handle()).or_insert_with(|| {
            let mut out = Vec::new();
            push_message::<2>(&mut out, length_delimited(1), |out| {
                for (name, value) in resource.attributes() {
                    // Resource.attributes
                    push_key_value(out, length_delimited(1), name, Value::Text(value));
                }
            });
            Known {
                _resource: resource.clone(),
                encoded: out.into(),
            }
        });
        Arc::clone(&known.encoded)
    }
}

/// The fields of a `ScopeSpans`.
fn push_scope(out: &mut Vec<u8>, spans: &[(usize, &Span)]) {
    // ScopeSpans.scope, an InstrumentationScope
    push_message::<1>(out, length_delimited(1), |out| {
        push_bytes(out, length_delimited(1), SCOPE_NAME.as_bytes());
        push_bytes(
            out,
            length_delimited(2),
            env!("CARGO_PKG_VERSION").as_bytes(),
        );
    });
    for (_, span) in spans {
        // ScopeSpans.spans
        push_message::<2>(out, length_delimited(2), |out| push_span(out, span));
    }
    // ScopeSpans.schema_url
    push_bytes(out, length_delimited(3), SCHEMA_URL.as_bytes());
}

/// The fields of a `Span`, in the order of their numbers.
fn push_span(out: &mut Vec<u8>, span: &Span) {
    push_id(out, length_delimited(1), &span.trace_id);
    push_id(out, length_delimited(2), &span.span_id);
    if let Some(trace_state) = &span.trace_state {
        push_bytes(out, length_delimited(3), trace_state.as_bytes());
    }
    if let Some(parent) = &span.parent_span_id {
        push_id(out, length_delimited(4), parent);
    }
    push_bytes(out, length_delimited(5), span.name.as_bytes());
    let kind = match span.kind {
        SpanKind::Server => 2,
        SpanKind::Client => 3,
    };
    out.extend_from_slice(&[variable(6), kind]);
    push_fixed64(out, fixed64(7), span.start_unix_ns);
    push_fixed64(out, fixed64(8), span.end_unix_ns);
    // Field 9.
    out.extend_from_slice(span.attributes.encoded());
    for event in &span.events {
        push_event(out, event);
    }
    for link in &span.links {
        push_message::<1>(out, length_delimited(13), |out| push_link(out, link));
    }
    // Field 15, a Status, whose field 3 is the code: unset is 0, an error 2.
    match span.status {
        Status::Unset => out.extend_from_slice(&[length_delimited(15), 0]),
        Status::Error => out.extend_from_slice(&[length_delimited(15), 2, variable(3), 2]),
    }
    let remote = if span.parent_is_remote { IS_REMOTE } else { 0 };
    let flags = u32::from(span.trace_flags) | HAS_IS_REMOTE | remote;
    let [a, b, c, d] = flags.to_le_bytes();
    // Field 16 of four bytes: the only key that takes two.
    out.extend_from_slice(&[0x85, 0x01, a, b, c, d]);
}

/// Appends a field of so many bytes: one look at the capacity, and no call.
#[inline]
fn push_id<const N: usize>(out: &mut Vec<u8>, key: u8, id: &[u8; N]) {
    out.extend_from_slice(&[key, N as u8]);
    out.extend_from_slice(id);
}

/// `Span.events`.
const EVENTS: u8 = length_delimited(11);

fn push_event(out: &mut Vec<u8>, event: &SpanEvent) {
    let name = event.name.as_bytes();
    // Nearly every event is a time and a name.
    if event.attributes.is_empty() && event.time_unix_ns != 0 && (1..0x70).contains(&name.len()) {
        let [a, b, c, d, e, f, g, h] = event.time_unix_ns.to_le_bytes();
        let length = name.len() as u8;
        out.extend_from_slice(&[
            EVENTS,
            11 + length,
            fixed64(1),
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            length_delimited(2),
            length,
        ]);
        out.extend_from_slice(name);
        return;
    }
    push_message::<1>(out, EVENTS, |out| {
        push_fixed64(out, fixed64(1), event.time_unix_ns);
        push_bytes(out, length_delimited(2), name);
        push_attributes(out, length_delimited(3), &event.attributes);
    });
}

fn push_link(out: &mut Vec<u8>, link: &Link) {
    push_bytes(out, length_delimited(1), &link.trace_id);
    push_bytes(out, length_delimited(2), &link.span_id);
    push_attributes(out, length_delimited(4), &link.attributes);
}

/// Attributes of something that is no span: under another key.
fn push_attributes(out: &mut Vec<u8>, key: u8, attributes: &Attributes) {
    for (name, value) in attributes.iter() {
        push_key_value(out, key, name, value);
    }
}
