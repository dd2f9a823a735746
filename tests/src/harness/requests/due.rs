//! Where header lines are due.
//!
//! Input: the bytes that were sent on a connection that got headers from its first byte on, and where its sends ended, as far as that is known.
//! Output: the places, and how many requests get none for which reason. The rules are those of the agent's promises (README, ARCHITECTURE
//! "Headers"), written down a second time.

use super::{Found, next};

/// Lines of one send.
const LINES_OF_A_SEND: usize = 4;

/// A place further inside its send gets no line.
const FURTHEST: usize = 32 << 10;

/// What the requests of one or more connections are due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Offsets of the empty lines in front of which a line belongs, of one connection.
    pub(crate) lines: Vec<usize>,
    /// How many lines that is, of all connections that were added up.
    pub(crate) inserted: u64,
    /// Requests whose head is complete.
    pub(crate) requests: u64,
    /// With a `traceparent` or a `tracestate` of their own, in whatever form.
    pub(crate) own_context: u64,
    /// Whose empty line does not lie in one send.
    pub(crate) split: u64,
    /// Whose last lines do not end with CRLF.
    pub(crate) line_ends: u64,
    /// CONNECT.
    pub(crate) tunnel: u64,
    /// Too many of one send, or too far inside it.
    pub(crate) beyond_limit: u64,
}

impl Due {
    /// Of the bytes of one connection. `sends` are the offsets at which its sends ended, in order; without them each head is taken for
    /// one that lies in a send of its own, as it does in what clients of libraries send.
    pub(crate) fn of(bytes: &[u8], sends: Option<&[usize]>) -> Self {
        let mut due = Self::default();
        let mut at = 0;
        let (mut current, mut used) = (usize::MAX, 0);
        while at < bytes.len() {
            let (request, is_whole) = match next(bytes, at) {
                Found::Whole(request) => (request, true),
                Found::Head(request) => (request, false),
                Found::Part | Found::NotHttp => break,
            };
            due.requests += 1;
            let place = request.head_end - 2;
            let send = sends.map(|ends| {
                let index = ends.partition_point(|end| *end < request.head_end);
                let start = index.checked_sub(1).map_or(0, |before| ends[before]);
                (index, start)
            });
            if let Some((index, _)) = send
                && index != current
            {
                (current, used) = (index, 0);
            }
            if request.method == "CONNECT" {
                due.tunnel += 1;
            } else if request.field("traceparent").is_some()
                || request.field("tracestate").is_some()
            {
                due.own_context += 1;
            } else if !request.ends_with_crlf {
                due.line_ends += 1;
            } else if send.is_some_and(|(_, start)| place < start) {
                due.split += 1;
            } else if send
                .is_some_and(|(_, start)| place - start > FURTHEST || used >= LINES_OF_A_SEND)
            {
                due.beyond_limit += 1;
            } else {
                used += 1;
                due.lines.push(place);
            }
            if !is_whole || request.ends_http() {
                break;
            }
            at = request.end;
        }
        due.inserted = due.lines.len() as u64;
        due
    }

    /// Adds another connection's numbers; its places are its own.
    pub(crate) fn add(&mut self, other: &Self) {
        self.inserted += other.inserted;
        self.requests += other.requests;
        self.own_context += other.own_context;
        self.split += other.split;
        self.line_ends += other.line_ends;
        self.tunnel += other.tunnel;
        self.beyond_limit += other.beyond_limit;
    }

    /// The agent's counters of what it did with requests, each with the value that is due.
    pub(crate) fn counters(&self) -> [(&'static str, u64); 7] {
        [
            ("inject_requests", self.requests),
            ("inject_inserted", self.inserted),
            ("inject_own_context", self.own_context),
            ("inject_split", self.split),
            ("inject_line_ends", self.line_ends),
            ("inject_tunnel", self.tunnel),
            ("inject_beyond_limit", self.beyond_limit),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn of(sends: &[&str]) -> Due {
        let mut ends = Vec::new();
        for send in sends {
            ends.push(ends.last().copied().unwrap_or_default() + send.len());
        }
        Due::of(sends.concat().as_bytes(), Some(&ends))
    }

    #[test]
    fn a_line_is_due_in_front_of_the_empty_line_of_each_plain_request() {
        let due = of(&[PLAIN, PLAIN]);
        assert_eq!(due.lines, [PLAIN.len() - 2, 2 * PLAIN.len() - 2]);
        assert_eq!(Due::of([PLAIN, PLAIN].concat().as_bytes(), None), due);
        let body = "POST / HTTP/1.1\r\nContent-Length: 28\r\n\r\n";
        let due = of(&[body, PLAIN, PLAIN]);
        assert_eq!(due.requests, 2, "a body that looks like a request is none");
    }

    #[test]
    fn what_is_due_none_is_counted_by_its_reason() {
        let own = "GET / HTTP/1.1\r\nTRACEPARENT: x\r\n\r\n";
        assert_eq!((of(&[own]).own_context, of(&[own]).inserted), (1, 0));
        let state = "GET / HTTP/1.1\r\nTraceState: x\r\n\r\n";
        assert_eq!((of(&[state]).own_context, of(&[state]).inserted), (1, 0));
        let near = "GET / HTTP/1.1\r\nX-Traceparent: x\r\nCookie: traceparent: y\r\n\r\n";
        assert_eq!(of(&[near]).inserted, 1);
        for bare in ["GET / HTTP/1.1\n\n", "GET / HTTP/1.1\r\nA: b\n\r\n"] {
            assert_eq!((of(&[bare]).line_ends, of(&[bare]).inserted), (1, 0));
        }
        let (most, last) = PLAIN.split_at(PLAIN.len() - 1);
        assert_eq!(
            (of(&[most, last]).split, of(&[most, last]).inserted),
            (1, 0)
        );
        let (most, last) = PLAIN.split_at(PLAIN.len() - 2);
        assert_eq!(of(&[most, last]).inserted, 1);
        let many = PLAIN.repeat(6);
        let due = of(&[&many, PLAIN]);
        assert_eq!((due.inserted, due.beyond_limit), (5, 2));
        let far = format!(
            "POST / HTTP/1.1\r\nContent-Length: {FURTHEST}\r\n\r\n{}{PLAIN}",
            "b".repeat(FURTHEST)
        );
        assert_eq!((of(&[&far]).inserted, of(&[&far]).beyond_limit), (1, 1));
    }

    #[test]
    fn nothing_is_due_behind_the_end_of_http() {
        let connect = "CONNECT shop.test:80 HTTP/1.1\r\n\r\n";
        let due = of(&[connect, PLAIN]);
        assert_eq!((due.requests, due.tunnel, due.inserted), (1, 1, 0));
        let refused = "CONNECT refused.test:80 HTTP/1.1\r\n\r\n";
        assert_eq!(of(&[refused, PLAIN]).inserted, 1);
        let upgrade = "GET /upgrade HTTP/1.1\r\nUpgrade: echo\r\n\r\n";
        assert_eq!(of(&[upgrade, PLAIN]).inserted, 1);
        assert_eq!(of(&["\u{16}\u{3}", PLAIN]).requests, 0);
    }
}
