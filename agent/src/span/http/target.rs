//! A request target taken apart, and put together as a URL.
//!
//! Input: a request's head. Output: scheme, host, port, path and query, and the URL without user info and query values.

use std::fmt::Write;

use crate::{
    conn::Endpoints,
    protocol::http1::{Method, RequestHead},
};

/// What stands in place of a query value.
const REDACTED: &str = "REDACTED";

/// A request target with the `host` field, taken apart (RFC 9112 section 3.2 and 3.3).
pub(super) struct Target<'a> {
    pub(super) server: Server<'a>,
    pub(super) path: Option<&'a str>,
    pub(super) query: Option<&'a str>,
}

/// The server as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Server<'a> {
    pub(super) scheme: &'static str,
    /// Host and port as they stand there, without user info; empty when there is none.
    pub(super) authority: &'a str,
    /// The target itself names the server, which need not be the other end of the connection.
    pub(super) absolute: bool,
}

impl<'a> Target<'a> {
    /// `tls`: it was not sent in plaintext.
    pub(super) fn new(head: &'a RequestHead, tls: bool) -> Self {
        let own = if tls { "https" } else { "http" };
        let target = head.target();
        if head.method == Method::Connect {
            return Self {
                server: Server {
                    scheme: own,
                    authority: target,
                    absolute: true,
                },
                path: None,
                query: None,
            };
        }
        let (scheme, rest) = match scheme(target) {
            Some((scheme, rest)) => (scheme, Some(rest)),
            None => (own, None),
        };
        let (authority, path) = match rest {
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let (name, path) = rest.split_at(end);
                (name.rsplit('@').next().unwrap_or(name), path)
            }
            None => (head.host(), target),
        };
        let (path, query) = match split(path, memchr::memchr(b'?', path.as_bytes())) {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Self {
            server: Server {
                scheme,
                authority,
                absolute: rest.is_some(),
            },
            path: Some(path),
            query,
        }
    }

    /// Appends the URL behind the server's name, every query value replaced.
    pub(super) fn push_rest(&self, url: &mut String) {
        let path = self.path.unwrap_or_default();
        if path != "*" {
            url.push_str(path);
        }
        if let Some(query) = self.query {
            redact(query, url);
        }
    }
}

impl<'a> Server<'a> {
    /// Its name, empty when the request has none, and its port: as named, or its scheme's default where the target names a server, or the
    /// socket's.
    pub(super) fn place(&self, socket: u16) -> (&'a str, Option<u16>) {
        let (host, explicit) = authority(self.authority);
        let port = match (explicit, self.absolute) {
            (Some(port), _) => Some(port),
            (None, true) if self.scheme == "https" => Some(443),
            (None, true) => Some(80),
            (None, false) => (socket != 0).then_some(socket),
        };
        (host, port)
    }

    /// The URL up to the path.
    pub(super) fn url(&self, endpoints: Option<&Endpoints>) -> String {
        let (peer, socket) = endpoints.map_or(("", 0), |endpoints| {
            (endpoints.peer_address.as_str(), endpoints.peer_port)
        });
        let (host, port) = self.place(socket);
        let host = if host.is_empty() { peer } else { host };
        let mut url = format!("{}://", self.scheme);
        if host.contains(':') {
            let _ = write!(url, "[{host}]");
        } else {
            url.push_str(host);
        }
        let default = if self.scheme == "https" { 443 } else { 80 };
        if let Some(port) = port
            && port != default
        {
            let _ = write!(url, ":{port}");
        }
        url
    }
}

/// An absolute-form target's scheme, and what follows `://`.
fn scheme(target: &str) -> Option<(&'static str, &str)> {
    // Nearly every target is a path.
    if target.starts_with('/') {
        return None;
    }
    let (scheme, rest) = target.split_once("://")?;
    if scheme.eq_ignore_ascii_case("http") {
        Some(("http", rest))
    } else if scheme.eq_ignore_ascii_case("https") {
        Some(("https", rest))
    } else {
        None
    }
}

/// The text before and behind the ASCII character at this place. The searchers of `str` cost more than the few bytes that they look through here.
fn split(text: &str, at: Option<usize>) -> Option<(&str, &str)> {
    let at = at?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Host and port of an authority without user info; brackets of an IPv6 address are taken off.
fn authority(authority: &str) -> (&str, Option<u16>) {
    if let Some(rest) = authority.strip_prefix('[')
        && let Some((host, port)) = rest.split_once(']')
    {
        return (
            host,
            port.strip_prefix(':').and_then(|port| port.parse().ok()),
        );
    }
    match split(authority, authority.bytes().rposition(|byte| byte == b':')) {
        Some((host, port)) => (host, port.parse().ok()),
        None => (authority, None),
    }
}

/// Appends a query whose values are replaced; a parameter without `=` is all value.
fn redact(query: &str, url: &mut String) {
    let mut separator = '?';
    for parameter in query.split('&') {
        url.push(separator);
        separator = '&';
        match parameter.split_once('=') {
            Some((key, _)) => {
                url.push_str(key);
                url.push('=');
                url.push_str(REDACTED);
            }
            None if parameter.is_empty() => {}
            None => url.push_str(REDACTED),
        }
    }
}
