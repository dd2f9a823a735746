//! The span of an HTTP exchange, as the semantic conventions for HTTP name things.
//!
//! Query values and user info never stand in a URL: a key tells which parameter was used, its value belongs to the user.

mod common;
mod target;

use std::borrow::Cow;

pub use self::common::Common;
use self::{
    common::{Shared, ends, origin_of},
    target::Target,
};
use super::{
    Attributes, Events, Link, Span, SpanEvent, SpanKind, Status, Storage, conventions as name,
};
use crate::{
    conn::Endpoints,
    correlate::Context,
    event::ClockPair,
    exchange::{Exchange, Failure, Previous},
    process::Resource,
    protocol::http1::{Method, RequestHead},
};

/// What is kept from one span to the next, whichever connections they are of.
#[derive(Debug, Default)]
pub struct Maker {
    /// Attributes of the span that is being made.
    attributes: Attributes,
    storage: Storage,
}

/// Everything a span is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The exchange.
    pub exchange: &'a Exchange,
    /// Server for a request that was received, client for one that was sent.
    pub kind: SpanKind,
    /// The connection's ends, where known.
    pub endpoints: Option<&'a Endpoints>,
    /// Its place in the trace.
    pub context: &'a Context,
    /// The mapping of times for its trace.
    pub clock: ClockPair,
    /// The service.
    pub resource: &'a Resource,
    /// Export `url.query` as it is.
    pub record_query: bool,
}

/// The span of an exchange. `common` is kept between the spans of one connection, `maker` between all.
#[must_use]
pub fn span(parts: &Parts<'_>, common: &mut Common, maker: &mut Maker) -> Span {
    let Parts {
        exchange,
        kind,
        endpoints,
        context,
        clock,
        ..
    } = *parts;
    let head = &exchange.request.detail;
    let attributes = &mut maker.attributes;
    attributes.clear();
    let tls = endpoints.is_some_and(|endpoints| endpoints.tls);
    let target = Target::new(head, tls);
    let mut shared = common.of(kind, head.minor_version, target.server, endpoints, context);
    let name = request(parts, &target, &mut shared, attributes);
    attributes.append(shared.network());
    let status = outcome(exchange, kind, attributes);
    sizes(exchange, attributes);
    attributes.append(shared.origin());
    let attributes = maker.storage.keep(attributes);

    let start_unix_ns = clock.to_unix_ns(exchange.request.start_ns);
    Span {
        trace_id: context.trace_id,
        span_id: context.span_id,
        parent_span_id: context.parent,
        trace_flags: context.flags,
        parent_is_remote: context.parent.is_some() && context.parent_is_remote,
        trace_state: trace_state(head, context),
        kind,
        name: Cow::Borrowed(name),
        start_unix_ns,
        end_unix_ns: clock.to_unix_ns(exchange.end_ns()).max(start_unix_ns),
        status,
        attributes,
        events: events(exchange, kind, clock),
        links: links(context, exchange.previous),
        resource: parts.resource.clone(),
    }
}

/// A span for a decision whose message was not seen, although its receiver knows the id: without it, the receiver's parent would be missing.
#[must_use]
pub fn unobserved(
    context: &Context,
    kind: SpanKind,
    endpoints: Option<&Endpoints>,
    time_unix_ns: u64,
    resource: &Resource,
) -> Span {
    let mut attributes = Attributes::default();
    if let Some(endpoints) = endpoints {
        ends(endpoints, kind, None, &mut attributes);
        attributes.push(name::NETWORK_TRANSPORT, endpoints.transport.name());
    }
    attributes.push(name::ERROR_TYPE, name::ERROR_UNOBSERVED);
    attributes.append(&origin_of(context));
    Span {
        trace_id: context.trace_id,
        span_id: context.span_id,
        parent_span_id: context.parent,
        trace_flags: context.flags,
        parent_is_remote: context.parent.is_some() && context.parent_is_remote,
        trace_state: None,
        kind,
        name: Cow::Borrowed("HTTP"),
        start_unix_ns: time_unix_ns,
        end_unix_ns: time_unix_ns,
        status: Status::Error,
        attributes,
        events: Events::new(),
        links: links(context, None),
        resource: resource.clone(),
    }
}

#[inline(always)]
fn number(attributes: &mut Attributes, name: &str, value: u64) {
    attributes.push(name, i64::try_from(value).unwrap_or(i64::MAX));
}

/// Method and URL; gives the span's name.
fn request(
    parts: &Parts<'_>,
    target: &Target<'_>,
    shared: &mut Shared<'_>,
    attributes: &mut Attributes,
) -> &'static str {
    let head = &parts.exchange.request.detail;
    attributes.push(name::HTTP_REQUEST_METHOD, head.method.name());
    if head.method == Method::Other {
        attributes.push(name::HTTP_REQUEST_METHOD_ORIGINAL, head.method_token());
    }
    attributes.push(name::URL_SCHEME, target.server.scheme);
    if let Some(path) = target.path {
        attributes.push(name::URL_PATH, path);
    }
    if parts.record_query
        && let Some(query) = target.query
    {
        attributes.push(name::URL_QUERY, query);
    }
    if parts.kind == SpanKind::Client {
        attributes.push(name::URL_FULL, shared.url(target));
    }
    if !head.user_agent().is_empty() {
        attributes.push(name::USER_AGENT_ORIGINAL, head.user_agent());
    }
    if let Some(previous) = parts.exchange.previous {
        number(
            attributes,
            name::HTTP_REQUEST_RESEND_COUNT,
            u64::from(previous.resend_count),
        );
    }
    match head.method {
        Method::Other => "HTTP",
        method => method.name(),
    }
}

fn outcome(exchange: &Exchange, kind: SpanKind, attributes: &mut Attributes) -> Status {
    let code = exchange.response.map(|response| response.detail.status);
    if let Some(code) = code {
        number(attributes, name::HTTP_RESPONSE_STATUS_CODE, u64::from(code));
    }
    match exchange.failure {
        Some((Failure::ResponseUnseen, _)) => {
            attributes.push(name::UNDERTRACE_RESPONSE_UNSEEN, true);
        }
        Some((failure, _)) => {
            if let Some(error) = failure.error_type() {
                attributes.push(name::ERROR_TYPE, error);
            }
            return Status::Error;
        }
        None => {}
    }
    match code {
        Some(code) if is_error(code, kind) => {
            attributes.push(name::ERROR_TYPE, code.to_string().as_str());
            Status::Error
        }
        _ => Status::Unset,
    }
}

/// Whether a status code is an error at this end (OpenTelemetry semantic conventions, "HTTP spans", span status).
fn is_error(code: u16, kind: SpanKind) -> bool {
    let limit = match kind {
        SpanKind::Server => 500,
        SpanKind::Client => 400,
    };
    code >= limit
}

/// Whether the span of this exchange says that it failed.
#[must_use]
pub fn has_failed(exchange: &Exchange, kind: SpanKind) -> bool {
    match exchange.failure {
        Some((Failure::ResponseUnseen, _)) | None => exchange
            .response
            .is_some_and(|response| is_error(response.detail.status, kind)),
        Some(_) => true,
    }
}

fn sizes(exchange: &Exchange, attributes: &mut Attributes) {
    if let Some(end) = exchange.request_end {
        if let Some(size) = end.body_size {
            number(attributes, name::HTTP_REQUEST_BODY_SIZE, size);
        }
        number(
            attributes,
            name::UNDERTRACE_REQUEST_WIRE_SIZE,
            end.wire_size,
        );
    }
    if let Some(end) = exchange.response_end {
        if let Some(size) = end.body_size {
            number(attributes, name::HTTP_RESPONSE_BODY_SIZE, size);
        }
        number(
            attributes,
            name::UNDERTRACE_RESPONSE_WIRE_SIZE,
            end.wire_size,
        );
    }
    if exchange.resent_count > 0 {
        number(
            attributes,
            name::UNDERTRACE_RETRANSMISSION_COUNT,
            u64::from(exchange.resent_count),
        );
    }
}

/// The request's own `tracestate`, if it belongs to this trace.
fn trace_state(head: &RequestHead, context: &Context) -> Option<Box<str>> {
    let parent = head.trace_parent?;
    let carried = parent.trace_id == context.trace_id && !head.trace_state().is_empty();
    carried.then(|| head.trace_state().into())
}

fn events(exchange: &Exchange, kind: SpanKind, clock: ClockPair) -> Events {
    let mut events = Events::new();
    let mut event = |time_ns: u64, name: &'static str, attributes: Attributes| {
        events.push(SpanEvent {
            time_unix_ns: clock.to_unix_ns(time_ns),
            name,
            attributes,
        });
    };
    event(
        exchange.request.head_end_ns,
        name::EVENT_REQUEST_HEAD,
        Attributes::default(),
    );
    for (status, time_ns) in &exchange.interim {
        let mut attributes = Attributes::default();
        number(
            &mut attributes,
            name::HTTP_RESPONSE_STATUS_CODE,
            u64::from(*status),
        );
        event(*time_ns, name::EVENT_INTERIM_RESPONSE, attributes);
    }
    if let Some(response) = &exchange.response {
        event(
            response.start_ns,
            name::EVENT_RESPONSE_FIRST_BYTE,
            Attributes::default(),
        );
    }
    let resent = match kind {
        SpanKind::Client => name::EVENT_REQUEST_RETRANSMISSION,
        SpanKind::Server => name::EVENT_RESPONSE_RETRANSMISSION,
    };
    for part in &exchange.resent {
        let mut attributes = Attributes::default();
        number(
            &mut attributes,
            name::UNDERTRACE_RETRANSMISSION_BYTES,
            u64::from(part.bytes),
        );
        event(part.time_ns, resent, attributes);
    }
    events.sort_by_key(|event| event.time_unix_ns);
    events
}

fn links(context: &Context, previous: Option<Previous>) -> Vec<Link> {
    if context.rejected.is_none() && context.untrusted.is_none() && previous.is_none() {
        return Vec::new();
    }
    let rejected = context
        .rejected
        .map(|(span_id, reason)| (context.trace_id, span_id, reason));
    let untrusted = context
        .untrusted
        .map(|header| (header.trace_id, header.span_id, "untrusted"));
    let previous = previous.map(|attempt| (context.trace_id, attempt.span_id, "previous_attempt"));
    let links = rejected.into_iter().chain(untrusted).chain(previous);
    links
        .map(|(trace_id, span_id, reason)| {
            let mut attributes = Attributes::default();
            attributes.push(name::UNDERTRACE_LINK_REASON, reason);
            Link {
                trace_id,
                span_id,
                attributes,
            }
        })
        .collect()
}
