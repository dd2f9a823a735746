//! The head of a message, RFC 9112 sections 2 to 6.
//!
//! Input: all bytes of a head, its first line to its empty line. Output: what spans need of it; every other header value is dropped here.
//! Line ends may be a bare LF, obsolete folding is taken as part of the line before, and a line without a colon is passed over: the
//! message was exchanged, so the agent describes it instead of judging it.

use std::ops::Range;

use agent_common::wire::{
    traceparent::{self, TraceParent},
    tracestate,
};

/// Longest `user-agent` kept, bytes.
const USER_AGENT_LIMIT: usize = 512;

/// Longest `host` kept, bytes: a name of 253 and a port.
const HOST_LIMIT: usize = 260;

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

    /// Bytes of all its texts together.
    #[must_use]
    pub const fn text_len(&self) -> usize {
        self.text.len()
    }

    /// Bytes of memory behind it.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.text.capacity()
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
pub(super) fn parse_request(bytes: &[u8]) -> Option<RequestHead> {
    read_request(bytes, false)
}

/// The request head at the beginning of `bytes`, or nothing when it does not end there or the first line is no request line.
pub(super) fn parse_whole_request(bytes: &[u8]) -> Option<RequestHead> {
    read_request(bytes, true)
}

fn read_request(bytes: &[u8], must_end: bool) -> Option<RequestHead> {
    let (line, rest) = split_line(bytes);
    let (method, target, minor_version) = request_line(line)?;
    let (fields, behind) = Fields::read(rest, must_end)?;
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
    let (fields, behind) = Fields::read(rest, must_end)?;
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
    let space = line.iter().position(|byte| *byte == b' ')?;
    let (method, rest) = line.split_at(space);
    if method.is_empty()
        || method.len() > super::METHOD_LIMIT
        || !method.iter().all(|byte| is_token(*byte))
    {
        return None;
    }
    let (rest, version) = rest.split_last_chunk::<9>()?;
    let [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] = version else {
        return None;
    };
    let target = rest.get(1..)?;
    let usable = !target.is_empty() && !target.iter().any(|byte| matches!(byte, b' ' | 0));
    (usable && minor.is_ascii_digit()).then(|| (method, target, minor - b'0'))
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
pub(super) const fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'z' | b'|' | b'~')
        || byte.is_ascii_digit()
        || byte.is_ascii_uppercase()
}

/// Offset of the first LF.
pub(super) fn find_newline(bytes: &[u8]) -> Option<usize> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const NEWLINES: u64 = 0x0a0a_0a0a_0a0a_0a0a;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let other = u64::from_le_bytes(*word) ^ NEWLINES;
        // The lowest set bit belongs to the first byte that is zero; higher ones may be false.
        let zero = other.wrapping_sub(EACH) & !other & (EACH << 7);
        if zero != 0 {
            return Some(index * 8 + zero.trailing_zeros() as usize / 8);
        }
    }
    let tail = rest.iter().position(|byte| *byte == b'\n')?;
    Some(words.len() * 8 + tail)
}

/// The first line without its end, and what follows it.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match find_newline(bytes) {
        Some(newline) => split_at_newline(bytes, newline),
        None => (bytes, &[]),
    }
}

fn split_at_newline(bytes: &[u8], newline: usize) -> (&[u8], &[u8]) {
    let (line, rest) = bytes.split_at(newline);
    (
        line.strip_suffix(b"\r").unwrap_or(line),
        rest.get(1..).unwrap_or_default(),
    )
}

/// The parts as one text, and where each of them ends. What is no UTF-8 is replaced.
fn joined_text<const N: usize>(parts: [&[u8]; N]) -> (String, [u16; N]) {
    let mut text = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    // Replacement characters triple a head of 16 KiB at worst: 48 KiB and the limited rest stay below 64 KiB.
    let end = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let ends = parts.map(|part| {
        text.extend_from_slice(part);
        end(text.len())
    });
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

/// The fields of a head that somebody needs.
#[derive(Default)]
struct Fields<'a> {
    host: &'a [u8],
    user_agent: &'a [u8],
    trace_parent: &'a [u8],
    trace_parents: u32,
    trace_state: &'a [u8],
    trace_state_joined: Vec<u8>,
    framing: FramingFields,
    upgrade: bool,
}

impl<'a> Fields<'a> {
    /// The fields up to the empty line, and what is behind it; nothing when it is missing but must be there.
    fn read(mut rest: &'a [u8], must_end: bool) -> Option<(Self, &'a [u8])> {
        let mut fields = Self::default();
        while !rest.is_empty() {
            let (line, next) = match find_newline(rest) {
                Some(newline) => split_at_newline(rest, newline),
                None if must_end => return None,
                None => (rest, [].as_slice()),
            };
            rest = next;
            if line.is_empty() {
                return Some((fields, rest));
            }
            fields.line(line);
        }
        (!must_end).then_some((fields, rest))
    }

    fn line(&mut self, line: &'a [u8]) {
        // Most lines are told apart by their first letter; a folded line begins with white space and matches none.
        let Some(first) = line.first() else { return };
        match first | 0x20 {
            b'h' => {
                if let Some(value) = field(line, b"host") {
                    self.host = value.get(..HOST_LIMIT).unwrap_or(value);
                }
            }
            b'u' => {
                if let Some(value) = field(line, b"user-agent") {
                    self.user_agent = value.get(..USER_AGENT_LIMIT).unwrap_or(value);
                } else if field(line, b"upgrade").is_some() {
                    self.upgrade = true;
                }
            }
            b'c' => {
                if let Some(value) = field(line, b"content-length") {
                    self.framing.content_length(value);
                }
            }
            b't' => {
                if let Some(value) = field(line, b"transfer-encoding") {
                    self.framing.transfer_encoding(value);
                } else if let Some(value) = field(line, b"traceparent") {
                    self.trace_parent = value;
                    self.trace_parents += 1;
                } else if let Some(value) = field(line, b"tracestate") {
                    self.add_trace_state(value);
                }
            }
            _ => {}
        }
    }

    /// Several fields are one list, joined by commas in their order (W3C Trace Context section 3.3.1.1).
    fn add_trace_state(&mut self, value: &'a [u8]) {
        if self.trace_state.is_empty() {
            self.trace_state = value;
            return;
        }
        if self.trace_state_joined.is_empty() {
            self.trace_state_joined.extend_from_slice(self.trace_state);
        }
        self.trace_state_joined.push(b',');
        self.trace_state_joined.extend_from_slice(value);
    }

    /// Several `traceparent` fields are malformed input (section 3.2.2): none is used.
    fn trace_parent(&self) -> Option<TraceParent> {
        (self.trace_parents == 1)
            .then(|| traceparent::parse(self.trace_parent))
            .flatten()
    }
}

/// Value of the field `name` (lower case) when `line` is that field.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // What follows the name is looked at first: that tells most other names apart.
    if !matches!(line.get(name.len())?, b':' | b' ' | b'\t' | b'\x0c') {
        return None;
    }
    let (start, rest) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    // White space before the colon is forbidden and yet understood by many (RFC 9112 section 5.1).
    let rest = rest.trim_ascii_start().strip_prefix(b":")?;
    Some(rest.trim_ascii())
}

/// What `content-length` and `transfer-encoding` say together, RFC 9112 section 6.
#[derive(Default)]
struct FramingFields {
    length: Option<u64>,
    contradiction: bool,
    coding: Option<bool>,
}

impl FramingFields {
    fn content_length(&mut self, value: &[u8]) {
        for part in value.split(|byte| *byte == b',') {
            let number = number(part.trim_ascii());
            match (number, self.length) {
                (Some(number), None) => self.length = Some(number),
                (Some(number), Some(length)) if number == length => {}
                _ => self.contradiction = true,
            }
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        let last = value.rsplit(|byte| *byte == b',').next().unwrap_or(value);
        self.coding = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
    }

    fn value(&self) -> Framing {
        match (self.coding, self.length) {
            // Transfer-encoding overrides content-length (section 6.3, rule 3).
            (Some(true), _) => Framing::Chunked,
            (Some(false), _) => Framing::Coded,
            (None, _) if self.contradiction => Framing::Unknown,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::Absent,
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        let digit = (digit < 10).then_some(u64::from(digit))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Finds the end of a head over bytes cut anywhere: the first empty line after a line with text.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadEnd {
    line: Line,
}

#[derive(Clone, Copy, Debug)]
enum Line {
    Text,
    Fresh,
    CarriageReturn,
}

impl HeadEnd {
    /// At the first byte of a head.
    pub(super) const fn new() -> Self {
        Self { line: Line::Text }
    }

    /// Bytes of `bytes` up to and including the empty line, when it ends here. The first byte ever passed is the first of the first line.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match (self.line, byte) {
                (Line::Fresh | Line::CarriageReturn, b'\n') => return Some(at + 1),
                (Line::Fresh, b'\r') => {
                    self.line = Line::CarriageReturn;
                    at += 1;
                }
                _ => match bytes.get(at..).and_then(find_newline) {
                    Some(newline) => {
                        self.line = Line::Fresh;
                        at += newline + 1;
                    }
                    None => {
                        self.line = Line::Text;
                        return None;
                    }
                },
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(text: &str) -> RequestHead {
        parse_request(text.as_bytes()).expect("a request")
    }

    #[test]
    fn keeps_what_spans_need_and_nothing_else() {
        let head = request(concat!(
            "POST /a?b=c HTTP/1.1\r\nHost: shop:8080\r\nUser-Agent: curl/8.0\r\nAuthorization: secret\r\n",
            "Content-Length: 12\r\ntraceParent:  00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 \r\n",
            "tracestate: a=1\r\nTraceState: b=2\r\n\r\n",
        ));
        assert_eq!(head.method, Method::Post);
        assert_eq!(head.target(), "/a?b=c");
        assert_eq!(head.host(), "shop:8080");
        assert_eq!(head.user_agent(), "curl/8.0");
        assert_eq!(head.trace_state(), "a=1,b=2");
        assert_eq!(head.framing, Framing::Length(12));
        assert!(head.trace_parent.is_some_and(|parent| parent.is_sampled()));
        assert!(!head.text.contains("secret"));
    }

    #[test]
    fn takes_every_form_of_target_and_any_method() {
        for (line, target) in [
            ("GET http://u:p@h/x HTTP/1.1", "http://u:p@h/x"),
            ("OPTIONS * HTTP/1.1", "*"),
            ("CONNECT host:443 HTTP/1.1", "host:443"),
            ("M-SEARCH * HTTP/1.0", "*"),
        ] {
            let head = request(&format!("{line}\n\n"));
            assert_eq!(head.target(), target);
            assert!(line.starts_with(head.method_token()));
        }
    }

    #[test]
    fn refuses_what_is_no_first_line() {
        for line in [
            "GET /\r\n",
            "GET  HTTP/1.1\r\n",
            "GET / x HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
            "G(T / HTTP/1.1\r\n",
            " GET / HTTP/1.1\r\n",
            "",
        ] {
            assert_eq!(parse_request(line.as_bytes()), None, "{line:?}");
        }
        for line in [
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/2 200",
            "HTTP/1.1200 OK",
            "HTTP/1.1 099 X",
        ] {
            assert_eq!(parse_response(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn reads_framing_as_the_specification_says() {
        let framing = |fields: &str| request(&format!("PUT / HTTP/1.1\r\n{fields}\r\n")).framing;
        assert_eq!(framing(""), Framing::Absent);
        assert_eq!(framing("content-length : 5\r\n"), Framing::Length(5));
        assert_eq!(framing("Content-Length: 5, 5\r\n"), Framing::Length(5));
        assert_eq!(
            framing("Content-Length: 5\r\nContent-Length: 6\r\n"),
            Framing::Unknown
        );
        assert_eq!(framing("Content-Length: -1\r\n"), Framing::Unknown);
        assert_eq!(
            framing("Content-Length: 99999999999999999999\r\n"),
            Framing::Unknown
        );
        assert_eq!(
            framing("Transfer-Encoding: gzip, Chunked\r\nContent-Length: 5\r\n"),
            Framing::Chunked
        );
        assert_eq!(framing("Transfer-Encoding: gzip\r\n"), Framing::Coded);
        assert_eq!(framing("X: a\r\n Content-Length: 5\r\n"), Framing::Absent);
    }

    #[test]
    fn ignores_several_traceparents_altogether() {
        let one = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
        assert!(
            request(&format!("GET / HTTP/1.1\r\n{one}\r\n"))
                .trace_parent
                .is_some()
        );
        assert!(
            request(&format!("GET / HTTP/1.1\r\n{one}{one}\r\n"))
                .trace_parent
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn finds_newlines_like_a_plain_search(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(0x0b_u8), any::<u8>()], 0..40)) {
            prop_assert_eq!(find_newline(&bytes), bytes.iter().position(|byte| *byte == b'\n'));
        }

        #[test]
        fn finds_the_same_end_however_cut(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a')], 0..40),
            cut in 0usize..40,
        ) {
            let bytes = [b"G", &bytes[..]].concat();
            let whole = HeadEnd::new().find(&bytes);
            let (left, right) = bytes.split_at(cut.min(bytes.len()));
            let mut end = HeadEnd::new();
            let parts = end.find(left).or_else(|| end.find(right).map(|n| n + left.len()));
            prop_assert_eq!(whole, parts);
        }

        #[test]
        fn reads_a_whole_head_as_its_end_says(
            rest in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'a')], 0..40),
        ) {
            for line in ["GET / HTTP/1.1\n", "GET / HTTP/1.1\r\n"] {
                let bytes = [line.as_bytes(), &rest].concat();
                let end = HeadEnd::new().find(&bytes);
                let whole = parse_whole_request(&bytes);
                prop_assert_eq!(whole.as_ref().map(|head| head.length as usize), end);
                let cut = end.and_then(|end| parse_request(&bytes[..end]));
                prop_assert_eq!(whole, cut);
            }
        }

        #[test]
        fn agrees_with_httparse_on_what_it_accepts(
            method in "[A-Z]{1,8}", target in "[!-~]{1,30}", fields in "([A-Za-z-]{1,16}: [ -~]{0,20}\r\n){0,8}",
        ) {
            let text = format!("{method} {target} HTTP/1.1\r\n{fields}\r\n");
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut oracle = httparse::Request::new(&mut headers);
            if let Ok(httparse::Status::Complete(length)) = oracle.parse(text.as_bytes()) {
                prop_assert_eq!(HeadEnd::new().find(text.as_bytes()), Some(length));
                let head = request(&text);
                prop_assert_eq!(Some(head.method_token()), oracle.method);
                prop_assert_eq!(Some(head.target()), oracle.path);
            }
        }

        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_request(&bytes);
            let head = parse_request(&[b"GET / HTTP/1.1\n", &bytes[..]].concat());
            prop_assert!(head.is_some());
            let _ = parse_response(&bytes);
        }
    }
}
