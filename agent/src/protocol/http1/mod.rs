//! HTTP/1.0 and HTTP/1.1 (RFC 9112), over bytes cut anywhere and with bodies that are only counted.
//!
//! It follows the framing of both sides, because a response's depends on its request. It does not decode bodies, and keeps of a head only
//! what [`RequestHead`] and [`ResponseHead`] name.

mod chunked;
mod half;
mod head;
mod parser;
mod repeated;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::head::{Framing, Method, RequestHead, ResponseHead};
use super::{Parser, ParserConfig, Protocol, Recognition, Side};

/// The registry's entry.
pub struct Http1;

/// Longest method token that is waited for when a first line is cut.
const METHOD_LIMIT: usize = 32;

impl Protocol for Http1 {
    fn name(&self) -> &'static str {
        "http"
    }

    fn recognise(&self, bytes: &[u8]) -> Recognition {
        if starts_alike(bytes, b"HTTP/1.") && bytes.len() > 1 {
            return if bytes.len() < 7 {
                Recognition::Maybe(Side::Response)
            } else {
                Recognition::Yes(Side::Response)
            };
        }
        if let Some(newline) = head::find_newline(bytes) {
            let line = bytes.get(..newline).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            return match head::request_line(line) {
                Some(_) => Recognition::Yes(Side::Request),
                None => Recognition::No,
            };
        }
        if may_be_request(bytes) {
            Recognition::Maybe(Side::Request)
        } else {
            Recognition::No
        }
    }

    fn parser(&self, at_start: bool, config: &ParserConfig) -> Box<dyn Parser> {
        let propagators = Arc::clone(&config.propagators);
        Box::new(parser::Http1Parser::new(at_start, propagators))
    }
}

/// Whether the shorter of both begins the longer.
fn starts_alike(bytes: &[u8], expected: &[u8]) -> bool {
    let length = bytes.len().min(expected.len());
    bytes.get(..length) == expected.get(..length)
}

/// Whether bytes without a line end may begin a request line.
fn may_be_request(bytes: &[u8]) -> bool {
    let method = bytes
        .iter()
        .take_while(|byte| head::is_token(**byte))
        .count();
    match bytes.get(method) {
        None => method <= METHOD_LIMIT,
        Some(b' ') => {
            let target = bytes.get(method + 1..).unwrap_or_default();
            method > 0 && method <= METHOD_LIMIT && !matches!(target.first(), Some(b' ' | 0))
        }
        Some(_) => false,
    }
}

/// Whether bytes without a line end may begin a status line.
fn may_be_response(bytes: &[u8]) -> bool {
    starts_alike(bytes, b"HTTP/1.")
}
