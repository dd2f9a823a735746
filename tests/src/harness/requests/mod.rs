//! HTTP/1 requests as bytes: where each lies in a stream, which of them are due a header line, and whether exactly those lines arrived.
//!
//! [`next`] reads one request, [`due`] says where lines belong, [`compare`] holds what arrived against what was sent, [`shapes`] makes requests of
//! every form. None of it asks the agent or shares code with it: what is expected comes from the bytes that were sent.

pub(crate) mod compare;
pub(crate) mod due;
pub(crate) mod shapes;

/// One request in a stream of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Offset behind its empty line.
    pub(crate) head_end: usize,
    /// Offset behind its last byte; of no use where the body is not complete.
    pub(crate) end: usize,
    /// Method.
    pub(crate) method: String,
    /// Target, as it stands in the first line.
    pub(crate) target: String,
    /// HTTP/1.1, not 1.0.
    pub(crate) is_1_1: bool,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// Its last two lines end with CRLF.
    pub(crate) ends_with_crlf: bool,
}

/// What begins at a place of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A request, to its last byte.
    Whole(Request),
    /// A request whose body is not complete.
    Head(Request),
    /// Nothing that is complete enough to tell.
    Part,
    /// No request of HTTP/1.
    NotHttp,
}

impl Request {
    /// The value of a header.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Its connection speaks something else once it is answered. That is a convention between the senders and the servers of the scenarios: they
    /// answer 101 to `/upgrade`, and 2xx to a CONNECT unless it is for the host `refused.test`.
    pub(crate) fn ends_http(&self) -> bool {
        if self.method == "CONNECT" {
            return !self.target.starts_with("refused.test");
        }
        self.target.starts_with("/upgrade")
    }

    /// It wants the connection to end with its answer.
    pub(crate) fn wants_close(&self) -> bool {
        let tokens = self.field("connection").unwrap_or_default();
        let has = |token: &str| {
            let mut all = tokens.split(',');
            all.any(|one| one.trim().eq_ignore_ascii_case(token))
        };
        has("close") || !self.is_1_1 && !has("keep-alive")
    }
}

/// The longest method.
const METHOD_LIMIT: usize = 32;

/// What begins at `from`.
pub(crate) fn next(bytes: &[u8], from: usize) -> Found {
    let rest = bytes.get(from..).unwrap_or_default();
    let Some(first_end) = rest.iter().position(|byte| *byte == b'\n') else {
        return if may_begin(rest) {
            Found::Part
        } else {
            Found::NotHttp
        };
    };
    let first = without_return(&rest[..first_end]);
    let Some((method, target, is_1_1)) = first_line(first) else {
        return Found::NotHttp;
    };
    let mut request = Request {
        method,
        target,
        is_1_1,
        ..Request::default()
    };
    let mut line = first_end + 1;
    let length = loop {
        let Some(length) = rest[line..].iter().position(|byte| *byte == b'\n') else {
            return Found::Part;
        };
        let text = without_return(&rest[line..line + length]);
        line += length + 1;
        if text.is_empty() {
            break line;
        }
        let text = String::from_utf8_lossy(text);
        let (name, value) = text.split_once(':').unwrap_or((&text, ""));
        let field = (name.to_ascii_lowercase(), value.trim().to_owned());
        request.fields.push(field);
    };
    request.head_end = from + length;
    request.ends_with_crlf = rest[..length].ends_with(b"\r\n\r\n");
    match body_end(&request, bytes) {
        Some(end) => {
            request.end = end;
            Found::Whole(request)
        }
        None => Found::Head(request),
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether a first line may begin like this.
fn may_begin(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == b' ');
    let method = &bytes[..end.unwrap_or(bytes.len())];
    let graphic = method.iter().all(u8::is_ascii_graphic);
    graphic && method.len() <= METHOD_LIMIT && end != Some(0)
}

fn first_line(line: &[u8]) -> Option<(String, String, bool)> {
    let line = std::str::from_utf8(line).ok()?;
    let (method, rest) = line.split_once(' ')?;
    let (target, version) = rest.rsplit_once(' ')?;
    let minor = version.strip_prefix("HTTP/1.")?;
    let known = may_begin(method.as_bytes()) && !method.is_empty() && !target.is_empty();
    let is_version = minor.len() == 1 && minor.as_bytes()[0].is_ascii_digit();
    (known && is_version).then(|| (method.to_owned(), target.to_owned(), minor != "0"))
}

/// Where the body ends (RFC 9112 section 6.3), if all of it is there.
fn body_end(request: &Request, bytes: &[u8]) -> Option<usize> {
    let coding = request.field("transfer-encoding").unwrap_or_default();
    if coding.eq_ignore_ascii_case("chunked") {
        return chunked_end(bytes, request.head_end);
    }
    let length = request.field("content-length");
    let length: usize = length.map_or(Some(0), |value| value.parse().ok())?;
    let end = request.head_end.checked_add(length)?;
    (end <= bytes.len()).then_some(end)
}

fn chunked_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let line = |at: usize| {
        let rest = bytes.get(at..)?;
        let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
        Some(&rest[..length])
    };
    loop {
        let text = String::from_utf8_lossy(line(at)?);
        let digits = text.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).ok()?;
        at += text.len() + 2;
        if size == 0 {
            // Trailers, to the empty line.
            loop {
                let length = line(at)?.len();
                at += length + 2;
                if length == 0 {
                    return Some(at);
                }
            }
        }
        at = at.checked_add(size + 2)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8], from: usize) -> Request {
        match next(bytes, from) {
            Found::Whole(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_are_found_one_behind_the_other() {
        let get = "GET /a?b HTTP/1.1\r\nHost: x\r\nTraceParent:  y \r\n\r\n";
        let post = "POST /p HTTP/1.0\r\nContent-Length: 5\r\n\r\nGET /";
        let chunked = "PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n";
        let bare = "GET /lf HTTP/1.1\nHost: a\n\n";
        let all = [get, post, chunked, bare].concat().into_bytes();
        let mut at = 0;
        for (text, target, crlf) in [
            (get, "/a?b", true),
            (post, "/p", true),
            (chunked, "/c", true),
            (bare, "/lf", false),
        ] {
            let request = whole(&all, at);
            assert_eq!(request.end, at + text.len());
            assert_eq!(
                (request.target.as_str(), request.ends_with_crlf),
                (target, crlf)
            );
            at = request.end;
        }
        assert_eq!(at, all.len());
        let first = whole(&all, 0);
        assert_eq!(first.field("traceparent"), Some("y"));
        assert_eq!(first.head_end, get.len());
        assert!(!first.wants_close());
        assert!(whole(&all, get.len()).wants_close(), "HTTP/1.0");
    }

    #[test]
    fn a_part_of_a_request_is_told_from_what_is_none() {
        for part in [
            "",
            "GE",
            "GET / HTTP/1.1\r",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ] {
            assert_eq!(next(part.as_bytes(), 0), Found::Part, "{part}");
        }
        for other in [&b"\x16\x03\x01"[..], b" x", b"PRI * HTTP/2.0\r\n\r\n"] {
            assert_eq!(next(other, 0), Found::NotHttp, "{}", other.escape_ascii());
        }
        for body in [
            "Content-Length: 2\r\n\r\nx",
            "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{body}");
            assert!(matches!(next(text.as_bytes(), 0), Found::Head(_)), "{body}");
        }
    }

    #[test]
    fn says_after_which_requests_no_http_follows() {
        let ends = |line: &str| whole(format!("{line} HTTP/1.1\r\n\r\n").as_bytes(), 0).ends_http();
        assert!(ends("CONNECT shop.test:80") && ends("GET /upgrade/echo"));
        assert!(!ends("CONNECT refused.test:80") && !ends("GET /size/upgrade"));
    }
}
