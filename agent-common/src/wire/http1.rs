//! How an HTTP/1 message is framed (RFC 9112 section 6.3), and which phase its direction enters after the head.
//!
//! Input: a [`Head`], and for a response the kind of the request it answers. Output: [`Framing`]. It looks at no bytes.

use super::scan::{Head, HeadKind, MethodKind, head_flags};

/// Where a direction of a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The next byte begins a message.
    Start = 0,
    /// Inside a head.
    Head = 1,
    /// Inside a body whose end is known.
    Body = 2,
    /// Inside a chunked body whose lines are followed.
    Chunked = 3,
    /// Inside a response that ends with the connection.
    UntilClose = 4,
    /// No HTTP, or no HTTP any more.
    Opaque = 5,
    /// Not known: the next message is looked for at each change of direction.
    Turn = 6,
    /// Inside a chunked body whose lines are not followed any more: its last bytes decide.
    ChunkedLost = 7,
}

impl Phase {
    /// The phase with this number; unknown numbers are [`Phase::Opaque`].
    #[must_use]
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Start,
            1 => Self::Head,
            2 => Self::Body,
            3 => Self::Chunked,
            4 => Self::UntilClose,
            6 => Self::Turn,
            7 => Self::ChunkedLost,
            _ => Self::Opaque,
        }
    }
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Nothing,
    /// A body of [`Head::content_length`] bytes. (The number is no part of the variant: an older verifier refuses to copy what is not set.)
    Length,
    /// A chunked body.
    Chunked,
    /// Everything until the connection ends.
    UntilClose,
    /// An interim response (1xx): the head of another response.
    Interim,
    /// Another protocol, in both directions.
    Upgrade,
    /// The head contradicts itself, or the request it answers is not known.
    Unknown,
}

/// The framing of a request with this head.
#[must_use]
#[inline(always)]
pub fn request_framing(head: &Head) -> Framing {
    let flags = head.flags;
    if flags & head_flags::CHUNKED != 0 {
        Framing::Chunked
    } else if flags & (head_flags::ENCODING_OTHER | head_flags::LENGTH_BAD) != 0 {
        Framing::Unknown
    } else if flags & head_flags::LENGTH != 0 {
        Framing::Length
    } else {
        Framing::Nothing
    }
}

/// The framing of a response with this head, to a request of this method; `None` for a request that was not seen.
#[must_use]
#[inline(always)]
pub fn response_framing(head: &Head, request: Option<MethodKind>) -> Framing {
    let flags = head.flags;
    if head.status == 101 {
        return Framing::Upgrade;
    }
    if head.status < 200 {
        return Framing::Interim;
    }
    if head.status == 204 || head.status == 304 {
        return Framing::Nothing;
    }
    match request {
        None => return Framing::Unknown,
        Some(MethodKind::Head) => return Framing::Nothing,
        Some(MethodKind::Connect) if head.status < 300 => return Framing::Upgrade,
        Some(_) => {}
    }
    if flags & head_flags::CHUNKED != 0 {
        Framing::Chunked
    } else if flags & head_flags::ENCODING_OTHER != 0 {
        Framing::UntilClose
    } else if flags & head_flags::LENGTH_BAD != 0 {
        Framing::Unknown
    } else if flags & head_flags::LENGTH != 0 {
        Framing::Length
    } else {
        Framing::UntilClose
    }
}

/// Whether the last bytes of a stream end a chunked body without trailers: `0 CRLF CRLF` after a line end.
#[must_use]
#[inline(always)]
pub fn ends_chunked(tail: u64) -> bool {
    // The last eight bytes, the last one highest: "LF 0 CR LF CR LF" in the upper six.
    tail >> 16 == u64::from_le_bytes(*b"\n0\r\n\r\n\0\0")
}

/// The requests of a connection that have no final response yet, oldest first.
///
/// One CPU may read a request of a connection while another one sends a response: each of the two writes words of its own, but for [`Pending::clear`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pending {
    /// Four bits for each, in the place that its number gives: method, and whether it is hidden. Written with `begun`.
    kinds: u64,
    /// Requests that have begun; the count wraps.
    begun: u32,
    /// Requests that were answered, likewise.
    answered: u32,
}

impl Pending {
    /// Requests that can wait at one time.
    pub const LIMIT: u32 = 15;

    /// Stands for a request that user space does not hear of.
    const HIDDEN: u64 = 4;

    /// Where in `kinds` the request with this number stands.
    #[inline(always)]
    const fn shift(number: u32) -> u32 {
        (number & 15) * 4
    }

    /// Notes a request; false when there are too many.
    #[inline(always)]
    pub fn push(&mut self, method: u8) -> bool {
        if self.count() >= Self::LIMIT {
            return false;
        }
        let shift = Self::shift(self.begun);
        self.kinds = self.kinds & !(15 << shift) | (u64::from(method) & 3) << shift;
        self.begun = self.begun.wrapping_add(1);
        true
    }

    /// The newest request was not accepted, and something else is offered in its place.
    #[inline(always)]
    pub fn take_back(&mut self) {
        if self.count() != 0 {
            self.begun = self.begun.wrapping_sub(1);
        }
    }

    /// User space does not hear of the newest request.
    #[inline(always)]
    pub fn hide_newest(&mut self) {
        self.kinds |= Self::HIDDEN << Self::shift(self.begun.wrapping_sub(1));
    }

    /// The oldest request's method, if there is one.
    #[must_use]
    #[inline(always)]
    pub fn first(&self) -> Option<MethodKind> {
        if self.count() == 0 {
            return None;
        }
        Some(match self.kinds >> Self::shift(self.answered) & 3 {
            1 => MethodKind::Head,
            2 => MethodKind::Connect,
            _ => MethodKind::Other,
        })
    }

    /// Whether there is an oldest request, and user space does not hear of it.
    #[must_use]
    #[inline(always)]
    pub fn is_first_hidden(&self) -> bool {
        self.count() != 0 && self.kinds >> Self::shift(self.answered) & Self::HIDDEN != 0
    }

    /// The oldest request has its final response.
    #[inline(always)]
    pub fn pop(&mut self) {
        if self.count() != 0 {
            self.answered = self.answered.wrapping_add(1);
        }
    }

    /// All of them were answered, as far as anybody knows.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.answered = self.begun;
    }

    /// Whether one of those that wait is a CONNECT.
    #[must_use]
    #[inline(always)]
    pub fn has_connect(&self) -> bool {
        // The higher bit of a method is set for no other kind.
        self.waiting() & 0x2222_2222_2222_2222 != 0
    }

    /// How many of those that wait are hidden.
    #[must_use]
    #[inline(always)]
    pub fn hidden(&self) -> u32 {
        (self.waiting() & 0x4444_4444_4444_4444).count_ones()
    }

    /// The kinds of those that wait, in any order.
    #[inline(always)]
    fn waiting(&self) -> u64 {
        // At most 15, so that the shift is less than 64.
        let mask = (1 << Self::shift(self.count())) - 1;
        self.kinds.rotate_right(Self::shift(self.answered)) & mask
    }

    /// Requests that wait.
    #[must_use]
    #[inline(always)]
    pub fn count(&self) -> u32 {
        self.begun.wrapping_sub(self.answered)
    }
}

/// Whether a complete head is a request's.
#[must_use]
#[inline(always)]
pub fn is_request(head: &Head) -> bool {
    head.kind == HeadKind::Request as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, flags: u32) -> Head {
        Head {
            status,
            flags,
            content_length: 7,
            kind: HeadKind::Response as u8,
            ..Head::default()
        }
    }

    #[test]
    fn frames_responses_as_rfc_9112_says() {
        let get = Some(MethodKind::Other);
        let length = head_flags::LENGTH;
        assert_eq!(
            response_framing(&response(200, length), get),
            Framing::Length
        );
        assert_eq!(
            response_framing(&response(200, length | head_flags::CHUNKED), get),
            Framing::Chunked
        );
        assert_eq!(
            response_framing(&response(200, 0), get),
            Framing::UntilClose
        );
        assert_eq!(
            response_framing(&response(200, length), Some(MethodKind::Head)),
            Framing::Nothing
        );
        assert_eq!(
            response_framing(&response(304, length), get),
            Framing::Nothing
        );
        assert_eq!(response_framing(&response(204, 0), get), Framing::Nothing);
        assert_eq!(response_framing(&response(100, 0), get), Framing::Interim);
        assert_eq!(response_framing(&response(101, 0), get), Framing::Upgrade);
        assert_eq!(
            response_framing(&response(200, 0), Some(MethodKind::Connect)),
            Framing::Upgrade
        );
        assert_eq!(
            response_framing(&response(403, length), Some(MethodKind::Connect)),
            Framing::Length
        );
        assert_eq!(
            response_framing(&response(200, length), None),
            Framing::Unknown
        );
    }

    #[test]
    fn frames_requests_as_rfc_9112_says() {
        let with = |flags| {
            request_framing(&Head {
                flags,
                content_length: 9,
                ..Head::default()
            })
        };
        assert_eq!(with(0), Framing::Nothing);
        assert_eq!(with(head_flags::LENGTH), Framing::Length);
        assert_eq!(
            with(head_flags::LENGTH | head_flags::LENGTH_BAD),
            Framing::Unknown
        );
        assert_eq!(
            with(head_flags::LENGTH | head_flags::CHUNKED),
            Framing::Chunked
        );
        assert_eq!(with(head_flags::ENCODING_OTHER), Framing::Unknown);
    }

    #[test]
    fn knows_the_end_chunk_by_the_last_bytes() {
        let tail = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        assert!(ends_chunked(tail(
            b"c\r\n0\r\n\r\n".last_chunk().expect("eight bytes")
        )));
        assert!(!ends_chunked(tail(b"abc10\r\n\r")));
    }

    #[test]
    fn keeps_requests_in_order() {
        let mut pending = Pending::default();
        assert_eq!(pending.first(), None);
        assert!(pending.push(MethodKind::Head as u8));
        assert!(pending.push(MethodKind::Other as u8));
        assert!(!pending.has_connect());
        assert!(pending.push(MethodKind::Connect as u8));
        assert!(pending.has_connect());
        assert_eq!(pending.first(), Some(MethodKind::Head));
        pending.pop();
        assert_eq!(pending.first(), Some(MethodKind::Other));
        pending.pop();
        assert_eq!(pending.first(), Some(MethodKind::Connect));
        pending.pop();
        assert!(!pending.has_connect());
        assert_eq!((pending.first(), pending.count()), (None, 0));
        for _ in 0..Pending::LIMIT {
            assert!(pending.push(0));
        }
        assert!(!pending.push(0));
        pending.take_back();
        assert_eq!(pending.count(), Pending::LIMIT - 1);
        pending.clear();
        pending.take_back();
        assert_eq!((pending.first(), pending.count()), (None, 0));
    }

    /// Against a plain queue, far beyond the places that there are.
    #[test]
    fn knows_which_of_them_are_hidden() {
        let mut pending = Pending::default();
        let mut queue = std::collections::VecDeque::new();
        let mut random = 7_u32;
        for _ in 0..10_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (adds, method, hidden) = (random >> 31 == 1, random >> 29 & 3, random >> 28 & 1);
            if adds && queue.len() < Pending::LIMIT as usize {
                assert!(pending.push(method as u8));
                if hidden == 1 {
                    pending.hide_newest();
                }
                queue.push_back((method, hidden));
            } else {
                pending.pop();
                queue.pop_front();
            }
            let first = queue.front().map(|(method, _)| match method {
                1 => MethodKind::Head,
                2 => MethodKind::Connect,
                _ => MethodKind::Other,
            });
            assert_eq!(pending.first(), first);
            assert_eq!(pending.count() as usize, queue.len());
            let is_hidden = queue.front().is_some_and(|(_, hidden)| *hidden == 1);
            assert_eq!(pending.is_first_hidden(), is_hidden);
            let hidden: u32 = queue.iter().map(|(_, hidden)| hidden).sum();
            assert_eq!(pending.hidden(), hidden);
            let connect = queue.iter().any(|(method, _)| method & 2 != 0);
            assert_eq!(pending.has_connect(), connect);
        }
    }
}
