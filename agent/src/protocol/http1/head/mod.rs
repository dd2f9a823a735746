//! The head of a message, RFC 9112 sections 2 to 6: [`lines`] finds where it ends, [`fields`] reads the header fields.
//!
//! Input: all bytes of a head, its first line to its empty line. Output: what spans need of it; every other header value is dropped here.
//! Line ends may be a bare LF, obsolete folding is taken as part of the line before, and a line without a colon is passed over: the
//! message was exchanged, so the agent describes it instead of judging it.

mod fields;
mod lines;

use std::ops::Range;

use agent_common::wire::{
    propagator::Field,
    sampling,
    traceparent::{self, TraceParent},
    tracestate,
};

pub(super) use self::lines::{HeadEnd, find_newline};
use self::{fields::Fields, lines::split_line};

/// A method, RFC 9110 section 9.3 and RFC 5789.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// Any other method.
    Other = 0,
    /// CONNECT.
    Connect,
    /// DELETE.
    Delete,
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// OPTIONS.
    Options,
    /// PATCH.
    Patch,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// TRACE.
    Trace,
}

impl Method {
    /// The method of this token; methods are case-sensitive.
    #[must_use]
    pub fn from_token(token: &[u8]) -> Self {
        match token {
            b"GET" => Self::Get,
            b"POST" => Self::Post,
            b"HEAD" => Self::Head,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            b"CONNECT" => Self::Connect,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }

    /// Its token, `_OTHER` for the rest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "_OTHER",
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
        }
    }
}

/// How the end of a body is found, as the head's fields say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The fields say nothing.
    Absent,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding` whose last coding is chunked.
    Chunked,
    /// `transfer-encoding` whose last coding is another.
    Coded,
    /// Fields that contradict each other or cannot be read.
    Unknown,
}

/// A context in other headers than `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Trace id, in the order of the wire; one of 64 bits stands behind zeros.
    pub trace_id: [u8; 16],
    /// Id of the caller's span.
    pub span_id: [u8; 8],
    /// Whether the caller recorded its part; `None` where it leaves that to us.
    pub sampled: Option<bool>,
}

/// What is kept of a request's head. All text is one allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// x of HTTP/1.x.
    pub minor_version: u8,
    /// How the body is framed.
    pub framing: Framing,
    /// Bytes of the head, empty line included.
    pub length: u32,
    /// The context of its one well-formed `traceparent`.
    pub trace_parent: Option<TraceParent>,
    /// The context in other propagators' headers; nothing where there is any `traceparent`.
    pub carried: Option<Carried>,
    /// It asks to leave HTTP/1 (`upgrade`).
    pub upgrade: bool,
    text: String,
    method_end: u16,
    target_end: u16,
    host_end: u16,
    user_agent_end: u16,
}

impl RequestHead {
    /// The method as it was sent.
    #[must_use]
    pub fn method_token(&self) -> &str {
        self.part(0..self.method_end)
    }

    /// The request target as it was sent, any form.
    #[must_use]
    pub fn target(&self) -> &str {
        self.part(self.method_end..self.target_end)
    }

    /// Value of `host`, empty when there was none.
    #[must_use]
    pub fn host(&self) -> &str {
        self.part(self.target_end..self.host_end)
    }

    /// Value of `user-agent`, empty when there was none; cut after 512 bytes.
    #[must_use]
    pub fn user_agent(&self) -> &str {
        self.part(self.host_end..self.user_agent_end)
    }

    /// Value of `tracestate` to carry on, empty when there was none or it was malformed.
    #[must_use]
    pub fn trace_state(&self) -> &str {
        self.text
            .get(usize::from(self.user_agent_end)..)
            .unwrap_or_default()
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn footprint(&self) -> usize {
        size_of::<Self>() + self.text.capacity()
    }

    /// The context that it carries, in whichever header. `threshold` samples ([`sampling::is_sampled`]) where the caller leaves that to us.
    #[must_use]
    pub fn context(&self, threshold: u64) -> Option<TraceParent> {
        self.trace_parent.or_else(|| {
            let Carried {
                trace_id,
                span_id,
                sampled,
            } = self.carried?;
            let sampled = sampled.unwrap_or_else(|| sampling::is_sampled(&trace_id, threshold));
            Some(TraceParent {
                version: traceparent::VERSION,
                trace_id,
                span_id,
                flags: if sampled {
                    traceparent::FLAG_SAMPLED
                } else {
                    0
                },
            })
        })
    }

    fn part(&self, range: Range<u16>) -> &str {
        self.text
            .get(usize::from(range.start)..usize::from(range.end))
            .unwrap_or_default()
    }
}

/// What is kept of a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code, 100 to 999.
    pub status: u16,
    /// x of HTTP/1.x.
    pub minor_version: u8,
    /// How the body is framed.
    pub framing: Framing,
    /// Bytes of the head, empty line included.
    pub length: u32,
}

/// The request head in `bytes`, or nothing when the first line is no request line.
pub(super) fn parse_request(bytes: &[u8], propagators: &[Field]) -> Option<RequestHead> {
    read_request(bytes, propagators, false)
}

/// The request head at the beginning of `bytes`, or nothing when it does not end there or the first line is no request line.
pub(super) fn parse_whole_request(bytes: &[u8], propagators: &[Field]) -> Option<RequestHead> {
    read_request(bytes, propagators, true)
}

fn read_request(bytes: &[u8], propagators: &[Field], must_end: bool) -> Option<RequestHead> {
    let (line, rest) = split_line(bytes);
    let (method, target, minor_version) = request_line(line)?;
    let mut fields = Fields::of(propagators);
    let behind = fields.read(rest, must_end)?;
    let joined = fields.trace_state_joined.as_slice();
    let trace_state = if joined.is_empty() {
        fields.trace_state
    } else {
        joined
    };
    let (text, [method_end, target_end, host_end, user_agent_end, _]) = joined_text([
        method,
        target,
        fields.host,
        fields.user_agent,
        kept_trace_state(trace_state),
    ]);
    Some(RequestHead {
        method: Method::from_token(method),
        minor_version,
        framing: fields.framing.value(),
        length: length(bytes, behind),
        trace_parent: fields.trace_parent(),
        carried: fields.carried(),
        upgrade: fields.upgrade,
        text,
        method_end,
        target_end,
        host_end,
        user_agent_end,
    })
}

/// The response head in `bytes`, or nothing when the first line is no status line.
pub(super) fn parse_response(bytes: &[u8]) -> Option<ResponseHead> {
    read_response(bytes, false)
}

/// The response head at the beginning of `bytes`, or nothing when it does not end there or the first line is no status line.
pub(super) fn parse_whole_response(bytes: &[u8]) -> Option<ResponseHead> {
    read_response(bytes, true)
}

fn read_response(bytes: &[u8], must_end: bool) -> Option<ResponseHead> {
    let (line, rest) = split_line(bytes);
    let (status, minor_version) = status_line(line)?;
    let mut fields = Fields::of(&[]);
    let behind = fields.read(rest, must_end)?;
    Some(ResponseHead {
        status,
        minor_version,
        framing: fields.framing.value(),
        length: length(bytes, behind),
    })
}

fn length(bytes: &[u8], behind: &[u8]) -> u32 {
    u32::try_from(bytes.len() - behind.len()).unwrap_or(u32::MAX)
}

/// Method, target and minor version of a request line without its line end.
pub(super) fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let method_end = line.iter().position(|byte| !is_token(*byte))?;
    let (method, rest) = line.split_at(method_end);
    if method.is_empty() || method.len() > super::METHOD_LIMIT {
        return None;
    }
    let (minor, rest) = rest.split_last()?;
    let (rest, version) = rest.split_last_chunk::<8>()?;
    let (b' ', target) = rest.split_first()? else {
        return None;
    };
    let usable = version == b" HTTP/1."
        && minor.is_ascii_digit()
        && !target.is_empty()
        && memchr::memchr2(b' ', 0, target).is_none();
    usable.then(|| (method, target, minor - b'0'))
}

/// Status and minor version of a status line without its line end.
pub(super) fn status_line(line: &[u8]) -> Option<(u16, u8)> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [minor, b' ', digits @ ..] = rest else {
        return None;
    };
    let (code, reason) = digits.split_first_chunk::<3>()?;
    if !minor.is_ascii_digit()
        || !code.iter().all(u8::is_ascii_digit)
        || !matches!(reason.first(), None | Some(b' '))
    {
        return None;
    }
    let status = code
        .iter()
        .fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    (status >= 100).then(|| (status, minor - b'0'))
}

/// Whether a byte may stand in a token, RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// [`is_token`] of every byte.
static TOKEN: [bool; 256] = tokens();

const fn tokens() -> [bool; 256] {
    let mut token = [false; 256];
    let mut at = 0;
    while at < token.len() {
        let byte = at as u8;
        token[at] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        at += 1;
    }
    token
}

/// The parts as one text, and where each of them ends. What is no UTF-8 is replaced.
fn joined_text<const N: usize>(parts: [&[u8]; N]) -> (String, [u16; N]) {
    let mut text = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    let mut ends = [0; N];
    // Replacement characters triple a head of 16 KiB at worst: 48 KiB and the limited rest stay below 64 KiB.
    let end = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    for (part, at) in parts.iter().zip(&mut ends) {
        text.extend_from_slice(part);
        *at = end(text.len());
    }
    if let Ok(text) = String::from_utf8(text) {
        return (text, ends);
    }
    let mut text = String::new();
    let ends = parts.map(|part| {
        text.push_str(&String::from_utf8_lossy(part));
        end(text.len())
    });
    (text, ends)
}

/// What is carried on of a `tracestate`: nothing of one that is malformed.
fn kept_trace_state(value: &[u8]) -> &[u8] {
    if value.is_empty() {
        return value;
    }
    let kept = tracestate::kept(value).and_then(|range| value.get(range));
    kept.filter(|kept| std::str::from_utf8(kept).is_ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
