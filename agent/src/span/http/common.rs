//! What most spans of a connection have in common: the attributes of the network and of the origin, and the URL up to the path.
//!
//! Input: the server as a request names it, the connection's ends, the span's context. Output: attributes, made anew where they differ from those of
//! the span before, and copied otherwise.

use agent_common::abi::{Method as Rule, Source};

use super::{
    number,
    target::{Server, Target},
};
use crate::{
    conn::{Endpoints, Transport},
    correlate::Context,
    span::{Attributes, SpanKind, conventions as name},
};

/// What the last span of a connection had. It is valid as long as the ends of the connection are the same.
#[derive(Debug, Default)]
pub struct Common(Option<Box<Known>>);

#[derive(Debug)]
struct Known {
    network_key: NetworkKey,
    network: Attributes,
    /// Of clients: the URL up to the path, and behind it that of the last request.
    url: String,
    url_prefix: usize,
    origin_key: OriginKey,
    origin: Attributes,
}

/// What the attributes of the network depend on.
#[derive(Debug)]
struct NetworkKey {
    kind: SpanKind,
    minor_version: u8,
    absolute: bool,
    scheme: &'static str,
    authority: Box<str>,
}

impl NetworkKey {
    fn new(kind: SpanKind, minor_version: u8, server: Server<'_>) -> Self {
        Self {
            kind,
            minor_version,
            absolute: server.absolute,
            scheme: server.scheme,
            authority: server.authority.into(),
        }
    }

    fn is_for(&self, kind: SpanKind, minor_version: u8, server: Server<'_>) -> bool {
        let Server {
            scheme,
            authority,
            absolute,
        } = server;
        self.kind == kind
            && self.minor_version == minor_version
            && self.absolute == absolute
            && self.scheme == scheme
            && *self.authority == *authority
    }
}

/// What the attributes of the origin depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OriginKey {
    source: Source,
    method: Rule,
    confidence: u8,
    propagated: bool,
}

impl OriginKey {
    fn of(context: &Context) -> Self {
        Self {
            source: context.source,
            method: context.method,
            confidence: context.confidence,
            propagated: context.propagated,
        }
    }
}

/// The common attributes of one span.
pub(super) struct Shared<'a>(&'a mut Known);

impl Common {
    /// What a span with this target and context has.
    pub(super) fn of(
        &mut self,
        kind: SpanKind,
        minor_version: u8,
        server: Server<'_>,
        endpoints: Option<&Endpoints>,
        context: &Context,
    ) -> Shared<'_> {
        let origin_key = OriginKey::of(context);
        let make = || {
            let url = match kind {
                SpanKind::Client => server.url(endpoints),
                SpanKind::Server => String::new(),
            };
            Known {
                network_key: NetworkKey::new(kind, minor_version, server),
                network: network(kind, minor_version, server, endpoints),
                url_prefix: url.len(),
                url,
                origin_key,
                origin: origin(origin_key),
            }
        };
        let known = self.0.get_or_insert_with(|| Box::new(make()));
        if !known.network_key.is_for(kind, minor_version, server) {
            **known = make();
        } else if known.origin_key != origin_key {
            known.origin_key = origin_key;
            known.origin = origin(origin_key);
        }
        Shared(known)
    }
}

impl Shared<'_> {
    /// The URL without user info and with every query value replaced.
    pub(super) fn url(&mut self, target: &Target<'_>) -> &str {
        self.0.url.truncate(self.0.url_prefix);
        target.push_rest(&mut self.0.url);
        &self.0.url
    }

    /// Attributes of the network.
    pub(super) fn network(&self) -> &Attributes {
        &self.0.network
    }

    /// Where the parent comes from.
    pub(super) fn origin(&self) -> &Attributes {
        &self.0.origin
    }
}

fn network(
    kind: SpanKind,
    minor_version: u8,
    server: Server<'_>,
    endpoints: Option<&Endpoints>,
) -> Attributes {
    let mut attributes = Attributes::default();
    if let Some(endpoints) = endpoints {
        ends(endpoints, kind, Some(server), &mut attributes);
        attributes.push(name::NETWORK_TRANSPORT, endpoints.transport.name());
    } else {
        let (host, _) = server.place(0);
        if !host.is_empty() {
            attributes.push(name::SERVER_ADDRESS, host);
        }
    }
    attributes.push(name::NETWORK_PROTOCOL_NAME, "http");
    let version = if minor_version == 0 { "1.0" } else { "1.1" };
    attributes.push(name::NETWORK_PROTOCOL_VERSION, version);
    if endpoints.is_some_and(|endpoints| endpoints.tls) {
        attributes.push(name::TLS_ESTABLISHED, true);
        attributes.push(name::TLS_PROTOCOL_NAME, "tls");
    }
    attributes
}

/// Server and client as the conventions see them. The server's name is what the client called it; its port, where the client did not say
/// one, is the socket's.
pub(super) fn ends(
    endpoints: &Endpoints,
    kind: SpanKind,
    named: Option<Server<'_>>,
    attributes: &mut Attributes,
) {
    let local = (endpoints.local_address.as_str(), endpoints.local_port);
    let peer = (endpoints.peer_address.as_str(), endpoints.peer_port);
    let (server, client) = match kind {
        SpanKind::Server => (local, peer),
        SpanKind::Client => (peer, local),
    };
    let (host, port) = named.map_or(("", None), |named| named.place(server.1));
    let address = if host.is_empty() { server.0 } else { host };
    if !address.is_empty() {
        attributes.push(name::SERVER_ADDRESS, address);
    }
    let port = port.unwrap_or(server.1);
    if port != 0 {
        number(attributes, name::SERVER_PORT, u64::from(port));
    }
    if endpoints.transport == Transport::Unix {
        return;
    }
    attributes.push(name::CLIENT_ADDRESS, client.0);
    number(attributes, name::CLIENT_PORT, u64::from(client.1));
    attributes.push(name::NETWORK_PEER_ADDRESS, peer.0);
    number(attributes, name::NETWORK_PEER_PORT, u64::from(peer.1));
}

/// Where the parent of a span with this context comes from.
pub(super) fn origin_of(context: &Context) -> Attributes {
    origin(OriginKey::of(context))
}

fn origin(key: OriginKey) -> Attributes {
    let source = match key.source {
        Source::Root => "root",
        Source::Header => "header",
        Source::SameKernel => "same_kernel",
        Source::Option => "option",
        Source::Causal => "causal",
    };
    let rule = match key.method {
        Rule::None => "none",
        Rule::Forwarded => "forwarded",
        Rule::SameContext => "same_context",
        Rule::Descendant => "descendant",
        Rule::Connect => "connect",
        Rule::LastRead => "last_read",
        Rule::OnlyOpen => "only_open",
        Rule::Runtime => "runtime",
    };
    let mut attributes = Attributes::default();
    attributes.push(name::UNDERTRACE_PARENT_SOURCE, source);
    attributes.push(name::UNDERTRACE_PARENT_METHOD, rule);
    number(
        &mut attributes,
        name::UNDERTRACE_PARENT_CONFIDENCE,
        u64::from(key.confidence),
    );
    if !key.propagated {
        attributes.push(name::UNDERTRACE_PROPAGATED, false);
    }
    attributes
}
