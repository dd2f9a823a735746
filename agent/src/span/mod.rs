//! Our span: what the sinks export. Made from correlated exchanges; the names of attributes are those of the OpenTelemetry semantic
//! conventions, pinned in [`conventions`].

pub mod attributes;
pub mod clock;
pub mod conventions;
pub mod http;
pub(crate) mod protobuf;

use std::borrow::Cow;

use smallvec::SmallVec;

pub use self::attributes::{Attributes, Storage, Value};
use crate::process::Resource;

/// Role of a span in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// The process answered a request.
    Server,
    /// The process made a request.
    Client,
}

/// Outcome, as the semantic conventions define it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing went wrong as far as the wire tells.
    Unset,
    /// An error; `error.type` says which.
    Error,
}

/// Something that happened during a span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanEvent {
    /// When, nanoseconds since the Unix epoch.
    pub time_unix_ns: u64,
    /// What.
    pub name: &'static str,
    /// Details.
    pub attributes: Attributes,
}

/// The events of a span: nearly always the end of the request's head and the beginning of the response, which need no allocation.
pub type Events = SmallVec<[SpanEvent; 2]>;

/// Another span this one refers to without being its child.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Trace of the other span.
    pub trace_id: [u8; 16],
    /// Id of the other span.
    pub span_id: [u8; 8],
    /// Why there is a link (`undertrace.link.reason`).
    pub attributes: Attributes,
}

/// One span, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Trace id as on the wire; never all zero.
    pub trace_id: [u8; 16],
    /// Span id as on the wire; never all zero.
    pub span_id: [u8; 8],
    /// Parent, if there is one.
    pub parent_span_id: Option<[u8; 8]>,
    /// W3C trace flags (bit 0 sampled, bit 1 random).
    pub trace_flags: u8,
    /// Whether the parent is in another process (OTLP flags bits 8 and 9).
    pub parent_is_remote: bool,
    /// `tracestate` as received, for OTLP's `trace_state`.
    pub trace_state: Option<Box<str>>,
    /// Role.
    pub kind: SpanKind,
    /// Low-cardinality name.
    pub name: Cow<'static, str>,
    /// Nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// Nanoseconds since the Unix epoch; never before the start.
    pub end_unix_ns: u64,
    /// Outcome.
    pub status: Status,
    /// Attributes in export order.
    pub attributes: Attributes,
    /// Events in time order.
    pub events: Events,
    /// Links.
    pub links: Vec<Link>,
    /// The service it belongs to.
    pub resource: Resource,
}

impl Span {
    /// The value of an attribute.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<Value<'_>> {
        self.attributes.get(name)
    }
}
