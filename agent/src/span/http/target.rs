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
    pub(super) scheme: &'static str,
    pub(super) host: &'a str,
    explicit_port: Option<u16>,
    /// The target itself names the server, which need not be the other end of the connection.
    absolute: bool,
    pub(super) path: Option<&'a str>,
    pub(super) query: Option<&'a str>,
}

impl<'a> Target<'a> {
    pub(super) fn new(head: &'a RequestHead) -> Self {
        let target = head.target();
        if head.method == Method::Connect {
            let (host, explicit_port) = authority(target);
            return Self {
                scheme: "http",
                host,
                explicit_port,
                absolute: true,
                path: None,
                query: None,
            };
        }
        let (scheme, rest) = match scheme(target) {
            Some((scheme, rest)) => (scheme, Some(rest)),
            None => ("http", None),
        };
        let (name, path) = match rest {
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let (name, path) = rest.split_at(end);
                (name.rsplit('@').next().unwrap_or(name), path)
            }
            None => (head.host(), target),
        };
        let (host, explicit_port) = authority(name);
        let (path, query) = match split(path, path.bytes().position(|byte| byte == b'?')) {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Self {
            scheme,
            host,
            explicit_port,
            absolute: rest.is_some(),
            path: Some(path),
            query,
        }
    }

    /// The server's port: as named, or its scheme's default where the target names a server, or the socket's.
    pub(super) fn port(&self, socket: u16) -> Option<u16> {
        match (self.explicit_port, self.absolute) {
            (Some(port), _) => Some(port),
            (None, true) if self.scheme == "https" => Some(443),
            (None, true) => Some(80),
            (None, false) => (socket != 0).then_some(socket),
        }
    }

    /// The URL without user info and with every query value replaced.
    pub(super) fn full(&self, endpoints: Option<&Endpoints>) -> String {
        let query = self.query.unwrap_or_default();
        let path = self.path.unwrap_or_default();
        let mut url = String::with_capacity(32 + self.host.len() + path.len() + query.len());
        url.push_str(self.scheme);
        url.push_str("://");
        let peer = endpoints.map_or("", |endpoints| endpoints.peer_address.as_str());
        let host = if self.host.is_empty() {
            peer
        } else {
            self.host
        };
        if host.contains(':') {
            let _ = write!(url, "[{host}]");
        } else {
            url.push_str(host);
        }
        let socket = endpoints.map_or(0, |endpoints| endpoints.peer_port);
        let default = if self.scheme == "https" { 443 } else { 80 };
        if let Some(port) = self.port(socket)
            && port != default
        {
            let _ = write!(url, ":{port}");
        }
        if path != "*" {
            url.push_str(path);
        }
        if self.query.is_some() {
            redact(query, &mut url);
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
