//! What is written into the head of an outgoing HTTP/1.1 request, and where.
//!
//! Input: what the scan of the whole head has found ([`Request`]), and the context that the request was given. Output: a [`Choice`], and the
//! bytes of the header line. It moves no bytes: the program on the socket's send path does, after it has looked at them again.
//!
//! The line goes in front of the empty line, as the last header, in the send that holds that empty line: by then the whole head was seen, so a
//! request that carries a context of its own is known.

use super::{
    scan::{MethodKind, head_flags},
    state_line,
    traceparent::{FLAG_RANDOM, FLAG_SAMPLED},
};

/// Bytes of the line `traceparent: 00-...-...-ff CRLF`.
pub const LINE: u32 = 70;

/// Bytes of a `traceparent` value up to and with its parent id.
pub const VALUE: u32 = 52;

/// Where the parent id stands in a `traceparent` value.
pub const PARENT_AT: u32 = 36;

/// A place in an earlier send: it cannot be changed any more.
pub const GONE: u32 = u32::MAX;

/// `CRLF CRLF`, as it lies in memory.
pub const EMPTY_LINE: u32 = u32::from_le_bytes(*b"\r\n\r\n");

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// Nothing: a [`Reason`] says why.
    Nothing = 0,
    /// [`Choice::length`] bytes are put in at [`Choice::at`].
    Insert = 1,
    /// The parent id of the `traceparent` value at [`Choice::at`] is replaced.
    Rewrite = 2,
}

/// Why nothing is written into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// Something is.
    None = 0,
    /// It carries a context that is not the caller's, one that is malformed, or a `tracestate` alone.
    OwnContext = 1,
    /// That its first byte begins a message was taken from the bytes alone, and not from where the message before it ended.
    Unproven = 2,
    /// The place lies in an earlier send.
    Split = 3,
    /// Its empty line, or the line before it, does not end with CRLF.
    LineEnds = 4,
    /// It is a CONNECT, or stands behind one.
    Tunnel = 5,
}

/// A request whose whole head was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// [`head_flags`].
    pub flags: u32,
    /// The head's last four bytes, the first one lowest.
    pub ending: u32,
    /// Bytes of this send up to the end of the head.
    pub end: u32,
    /// Where in this send the `traceparent` value begins; [`GONE`] when it does not.
    pub value_at: u32,
    /// Bytes of the `tracestate` line that goes in behind the `traceparent`, 0 for none.
    pub state_line: u32,
    /// A [`MethodKind`].
    pub method: u8,
    /// Its first byte is where the message before it ended.
    pub proven: bool,
    /// Its `traceparent` is that of the request on whose behalf it is sent.
    pub forwarded: bool,
    /// A CONNECT before it was not answered.
    pub behind_connect: bool,
}

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What to do.
    pub action: Action,
    /// Why nothing is done.
    pub reason: Reason,
    /// Offset in the send: of the empty line, or of the `traceparent` value.
    pub at: u32,
    /// Bytes to put in.
    pub length: u32,
}

/// Decides what is written into a request. A request that names a context, in whatever form, never gets a second one. Nor does one with a `tracestate`
/// alone get a `traceparent`: without one it counts for nothing (Trace Context section 3.3), beside ours it would be taken for a part of our context.
#[must_use]
#[inline(always)]
pub fn choose(request: &Request) -> Choice {
    const CARRIED: u32 = head_flags::TRACEPARENT
        | head_flags::TRACEPARENT_BAD
        | head_flags::TRACEPARENT_TWICE
        | head_flags::TRACEPARENT_CUT;
    let carried = request.flags & CARRIED;
    if request.method == MethodKind::Connect as u8 || request.behind_connect {
        return nothing(Reason::Tunnel);
    }
    if !request.proven {
        return nothing(Reason::Unproven);
    }
    if carried != 0 {
        if carried != head_flags::TRACEPARENT || !request.forwarded {
            return nothing(Reason::OwnContext);
        }
        let behind = request.value_at.wrapping_add(VALUE);
        if request.value_at == GONE || behind > request.end || behind < VALUE {
            return nothing(Reason::Split);
        }
        return Choice {
            action: Action::Rewrite,
            reason: Reason::None,
            at: request.value_at,
            length: 0,
        };
    }
    if request.flags & head_flags::STATE_LOST != 0 {
        return nothing(Reason::OwnContext);
    }
    if request.ending != EMPTY_LINE {
        return nothing(Reason::LineEnds);
    }
    if request.end < 2 {
        return nothing(Reason::Split);
    }
    let state_line = if u64::from(request.state_line) > state_line::LONGEST {
        0
    } else {
        request.state_line
    };
    Choice {
        action: Action::Insert,
        reason: Reason::None,
        at: request.end - 2,
        length: LINE + state_line,
    }
}

#[inline(always)]
fn nothing(reason: Reason) -> Choice {
    Choice {
        action: Action::Nothing,
        reason,
        at: 0,
        length: 0,
    }
}

/// Where bytes are written, as the kernel has them in a packet and a test in an array. Words are little-endian and need no alignment.
pub trait Sink {
    /// Eight bytes.
    fn word(&mut self, at: usize, value: u64);
    /// Two bytes.
    fn half(&mut self, at: usize, value: u16);
    /// One byte.
    fn byte(&mut self, at: usize, value: u8);
}

/// Writes the [`LINE`] bytes of the header line, the flags as a sender of version 00 writes them.
#[inline(always)]
pub fn write_line<S: Sink>(sink: &mut S, trace_id: [u64; 2], span_id: u64, trace_flags: u8) {
    sink.word(0, u64::from_le_bytes(*b"tracepar"));
    sink.word(8, u64::from_le_bytes(*b"ent: 00-"));
    sink.word(16, hex(trace_id[0] as u32));
    sink.word(24, hex((trace_id[0] >> 32) as u32));
    sink.word(32, hex(trace_id[1] as u32));
    sink.word(40, hex((trace_id[1] >> 32) as u32));
    sink.byte(48, b'-');
    write_span_id(sink, 49, span_id);
    sink.byte(65, b'-');
    let flags = hex(u32::from(trace_flags & (FLAG_SAMPLED | FLAG_RANDOM)));
    sink.half(66, flags as u16);
    sink.half(68, u16::from_le_bytes(*b"\r\n"));
}

/// Writes the 16 digits of a span id.
#[inline(always)]
pub fn write_span_id<S: Sink>(sink: &mut S, at: usize, span_id: u64) {
    sink.word(at, hex(span_id as u32));
    sink.word(at + 8, hex((span_id >> 32) as u32));
}

/// Four bytes, the first one lowest, as eight lower-case hex digits, the first one lowest.
#[must_use]
#[inline(always)]
pub const fn hex(bytes: u32) -> u64 {
    let halves = (bytes as u64 | (bytes as u64) << 16) & 0x0000_ffff_0000_ffff;
    let spread = (halves | halves << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (spread >> 4 & 0x000f_000f_000f_000f) | (spread & 0x000f_000f_000f_000f) << 8;
    // A nibble of ten or more carries into bit 4 when six is added.
    let letters = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    nibbles + 0x3030_3030_3030_3030 + letters * 39
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::traceparent, *};

    struct Text([u8; LINE as usize]);

    impl Sink for Text {
        fn word(&mut self, at: usize, value: u64) {
            self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        fn half(&mut self, at: usize, value: u16) {
            self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        fn byte(&mut self, at: usize, value: u8) {
            self.0[at] = value;
        }
    }

    fn words(trace_id: [u8; 16]) -> [u64; 2] {
        let (first, second) = trace_id.split_at(8);
        [first, second].map(|half| u64::from_le_bytes(half.try_into().expect("eight bytes")))
    }

    const PLAIN: Request = Request {
        flags: 0,
        ending: EMPTY_LINE,
        end: 100,
        value_at: GONE,
        state_line: 0,
        method: MethodKind::Other as u8,
        proven: true,
        forwarded: false,
        behind_connect: false,
    };

    fn reason(request: Request) -> Reason {
        let choice = choose(&request);
        assert_eq!(choice.action, Action::Nothing);
        choice.reason
    }

    #[test]
    fn inserts_before_the_empty_line() {
        let choice = choose(&PLAIN);
        assert_eq!(
            (choice.action, choice.at, choice.length),
            (Action::Insert, 98, LINE)
        );
        let only_the_end = choose(&Request { end: 2, ..PLAIN });
        assert_eq!((only_the_end.action, only_the_end.at), (Action::Insert, 0));
    }

    #[test]
    fn takes_a_tracestate_along_when_it_is_short() {
        let length = |state_line| {
            choose(&Request {
                state_line,
                ..PLAIN
            })
            .length
        };
        assert_eq!(length(15), LINE + 15);
        assert_eq!(length(270), LINE + 270);
        assert_eq!(length(271), LINE);
    }

    #[test]
    fn leaves_a_request_alone_that_has_a_context() {
        for flags in [
            head_flags::TRACEPARENT,
            head_flags::TRACEPARENT_BAD,
            head_flags::TRACEPARENT_TWICE,
            head_flags::TRACEPARENT_CUT,
            head_flags::TRACEPARENT | head_flags::TRACEPARENT_CUT,
            head_flags::TRACEPARENT | head_flags::STATE_LOST,
            head_flags::STATE_LOST,
        ] {
            let value_at = 10;
            let own = Request {
                flags,
                value_at,
                ..PLAIN
            };
            assert_eq!(reason(own), Reason::OwnContext);
        }
    }

    #[test]
    fn rewrites_only_a_forwarded_context_that_lies_in_this_send() {
        let forwarded = Request {
            flags: head_flags::TRACEPARENT,
            forwarded: true,
            value_at: 10,
            ..PLAIN
        };
        for flags in [forwarded.flags, forwarded.flags | head_flags::STATE_LOST] {
            let choice = choose(&Request { flags, ..forwarded });
            assert_eq!((choice.action, choice.at), (Action::Rewrite, 10));
        }
        for value_at in [GONE, GONE - 3, 49, 100] {
            assert_eq!(
                reason(Request {
                    value_at,
                    ..forwarded
                }),
                Reason::Split
            );
        }
        let twice = forwarded.flags | head_flags::TRACEPARENT_CUT;
        assert_eq!(
            reason(Request {
                flags: twice,
                ..forwarded
            }),
            Reason::OwnContext
        );
    }

    #[test]
    fn writes_nothing_where_it_is_not_sure_of_a_head() {
        assert_eq!(
            reason(Request {
                proven: false,
                ..PLAIN
            }),
            Reason::Unproven
        );
        assert_eq!(reason(Request { end: 1, ..PLAIN }), Reason::Split);
        let bare = u32::from_le_bytes(*b"x\n\r\n");
        assert_eq!(
            reason(Request {
                ending: bare,
                ..PLAIN
            }),
            Reason::LineEnds
        );
        let connect = MethodKind::Connect as u8;
        assert_eq!(
            reason(Request {
                method: connect,
                ..PLAIN
            }),
            Reason::Tunnel
        );
        assert_eq!(
            reason(Request {
                behind_connect: true,
                ..PLAIN
            }),
            Reason::Tunnel
        );
    }

    proptest! {
        #[test]
        fn the_line_holds_the_value_that_a_receiver_reads(
            trace_id in prop::array::uniform16(1..=u8::MAX),
            span_id in prop::array::uniform8(1..=u8::MAX),
            flags: u8,
        ) {
            let mut text = Text([0; LINE as usize]);
            write_line(&mut text, words(trace_id), u64::from_le_bytes(span_id), flags);
            let value = text.0.strip_prefix(b"traceparent: ").expect("the name");
            let value = value.strip_suffix(b"\r\n").expect("the line's end");
            let read = traceparent::parse(value).expect("a well-formed value");
            prop_assert_eq!(read.trace_id, trace_id);
            prop_assert_eq!(read.span_id, span_id);
            prop_assert_eq!(read.flags, flags & 3);
            prop_assert_eq!(&traceparent::format(&read)[..], value);
        }

        #[test]
        fn hex_agrees_with_the_standard_library(bytes: [u8; 4]) {
            let digits = hex(u32::from_le_bytes(bytes)).to_le_bytes();
            let [a, b, c, d] = bytes;
            let expected = format!("{a:02x}{b:02x}{c:02x}{d:02x}");
            prop_assert_eq!(&digits[..], expected.as_bytes());
        }

        /// Whatever the head looks like: nothing is placed outside of it, and nothing is added to a request that has a context.
        #[test]
        fn stays_within_the_head(
            flags: u32, ending in prop::sample::select(vec![EMPTY_LINE, 0, u32::MAX]), end: u32, value_at: u32,
            state_line: u32, method in 0..3u8, proven: bool, forwarded: bool, behind_connect: bool,
        ) {
            let request = Request { flags, ending, end, value_at, state_line, method, proven, forwarded, behind_connect };
            let choice = choose(&request);
            match choice.action {
                Action::Nothing => prop_assert_ne!(choice.reason, Reason::None),
                Action::Insert => {
                    prop_assert_eq!(choice.at + 2, end);
                    prop_assert!((LINE..=LINE + state_line::LONGEST as u32).contains(&choice.length));
                    prop_assert_eq!(flags & (head_flags::ANY_TRACEPARENT | head_flags::STATE_LOST), 0);
                    prop_assert!(proven && !behind_connect);
                }
                Action::Rewrite => {
                    prop_assert!(u64::from(choice.at) + u64::from(VALUE) <= u64::from(end));
                    prop_assert!(forwarded && proven);
                }
            }
        }
    }
}
