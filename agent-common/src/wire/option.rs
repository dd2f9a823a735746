//! Trace context as a TCP option: an experimental one (kind 253, RFC 4727) with an identifier of two bytes (RFC 6994).
//!
//! Input: a context, or an option as it stands in a TCP header. Output: the option's bytes, or the context. 40 bytes of options less 12 for timestamps
//! leave 28, and that is how long it is: kind, length, identifier, trace id, span id. There is no room for flags: the identifier tells whether the trace is
//! sampled, and whether the sender has begun it although the request has a `traceparent`. No identifier is registered.

use super::decide::{Context, RESTARTED};
use super::traceparent::FLAG_SAMPLED;

/// Kind of the option.
pub const KIND: u8 = 253;

/// Its bytes.
pub const LENGTH: usize = 28;

/// Its words.
pub const WORDS: usize = LENGTH / 4;

/// Bytes from the kind to the identifier's end: what it is searched by.
pub const NAME: u8 = 4;

/// Identifiers: the second letter is a capital one where the trace is sampled, and another one where the request's own `traceparent` is of a trace that the
/// sender did not trust ([`RESTARTED`]).
pub const IDENTIFIERS: [[u8; 2]; 4] = [*b"ut", *b"uT", *b"ur", *b"uR"];

/// How often a request's option is written at most. Something on the path may drop segments with an option that it does not know: after the first
/// segment was sent as often in vain, it goes without, and so do all later ones of its connection.
pub const TIMES: u32 = 3;

/// An option's bytes, in memory in the order of the wire.
pub type Words = [u32; WORDS];

/// The option's first word.
#[must_use]
#[inline(always)]
pub const fn head(length: u8, identifier: [u8; 2]) -> u32 {
    u32::from_ne_bytes([KIND, length, identifier[0], identifier[1]])
}

/// The option of a context; of its flags, only whether it is sampled and [`RESTARTED`].
#[must_use]
#[inline(always)]
pub const fn encode(trace_id: [u64; 2], span_id: u64, flags: u64) -> Words {
    let letter = match (flags & RESTARTED != 0, flags & FLAG_SAMPLED as u64 != 0) {
        (false, false) => b't',
        (false, true) => b'T',
        (true, false) => b'r',
        (true, true) => b'R',
    };
    let identifier = [b'u', letter];
    let [a, b] = halves(trace_id[0]);
    let [c, d] = halves(trace_id[1]);
    let [e, f] = halves(span_id);
    [head(LENGTH as u8, identifier), a, b, c, d, e, f]
}

/// The context in an option; all zero where it is malformed: another option, another length, an id that is none.
#[must_use]
#[inline(always)]
pub const fn decode(option: &Words) -> Context {
    let [head_word, a, b, c, d, e, f] = *option;
    let [kind, length, first, letter] = head_word.to_ne_bytes();
    let named = kind == KIND
        && length == LENGTH as u8
        && first == b'u'
        && matches!(letter, b't' | b'T' | b'r' | b'R');
    let trace_id = [whole(a, b), whole(c, d)];
    let span_id = whole(e, f);
    if !named || trace_id[0] | trace_id[1] == 0 || span_id == 0 {
        return Context {
            trace_id: [0; 2],
            span_id: 0,
            flags: 0,
        };
    }
    Context {
        trace_id,
        span_id,
        flags: if matches!(letter, b'T' | b'R') {
            FLAG_SAMPLED as u64
        } else {
            0
        } | if matches!(letter, b'r' | b'R') {
            RESTARTED
        } else {
            0
        },
    }
}

/// Two words, in memory where the one was.
#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    let (low, high) = (word as u32, (word >> 32) as u32);
    if cfg!(target_endian = "little") {
        [low, high]
    } else {
        [high, low]
    }
}

#[inline(always)]
const fn whole(first: u32, second: u32) -> u64 {
    let (low, high) = if cfg!(target_endian = "little") {
        (first, second)
    } else {
        (second, first)
    };
    low as u64 | (high as u64) << 32
}

/// Whether a segment may carry the option of the request that begins with its first byte.
///
/// The kernel cuts a packet of several segments only when it leaves, and each piece gets the same options. A piece that begins with another request's first
/// byte would give that one this request's context, so all `payload` bytes must be the request's own (`own` of them are known to be) where they may be more
/// than one segment. `mss` is what fits into one with the options that every segment has.
#[must_use]
#[inline(always)]
pub const fn may_carry(payload: u32, own: u32, mss: u32) -> bool {
    /// All options there can be: a segment that is shorter by so much is one, whatever else it carries.
    const OPTIONS: u32 = 40;
    payload != 0 && (payload.saturating_add(OPTIONS) <= mss || payload <= own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: [u64; 2] = [
        u64::from_ne_bytes([1, 2, 3, 4, 5, 6, 7, 8]),
        u64::from_ne_bytes([9, 10, 11, 12, 13, 14, 15, 16]),
    ];
    const SPAN: u64 = u64::from_ne_bytes([21, 22, 23, 24, 25, 26, 27, 28]);

    fn bytes(words: Words) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn stands_on_the_wire_as_rfc_6994_wants_it() {
        let mut expected = *b"\xfd\x1cuT................\x15\x16\x17\x18\x19\x1a\x1b\x1c";
        for (byte, value) in expected[4..20].iter_mut().zip(1..) {
            *byte = value;
        }
        assert_eq!(bytes(encode(TRACE, SPAN, 1)), expected);
        expected[3] = b't';
        assert_eq!(bytes(encode(TRACE, SPAN, 0)), expected);
        expected[3] = b'R';
        assert_eq!(bytes(encode(TRACE, SPAN, RESTARTED | 1)), expected);
        expected[3] = b'r';
        assert_eq!(bytes(encode(TRACE, SPAN, RESTARTED)), expected);
        expected[3] = b't';
        // What there is no room for is left out.
        assert_eq!(bytes(encode(TRACE, SPAN, 2)), expected);
    }

    #[test]
    fn gives_back_what_was_put_in() {
        for flags in [0, 1, RESTARTED, RESTARTED | 1] {
            let context = Context {
                trace_id: TRACE,
                span_id: SPAN,
                flags,
            };
            assert_eq!(decode(&encode(TRACE, SPAN, flags)), context);
        }
    }

    #[test]
    fn takes_no_malformed_option() {
        let good = encode(TRACE, SPAN, 1);
        assert!(decode(&good).exists());
        let wrong_head = [
            u32::from_ne_bytes([254, 28, b'u', b'T']),
            u32::from_ne_bytes([253, 27, b'u', b'T']),
            u32::from_ne_bytes([253, 28, b'U', b'T']),
            u32::from_ne_bytes([253, 28, b'u', b'S']),
            0,
        ];
        for head in wrong_head {
            let mut option = good;
            option[0] = head;
            assert!(!decode(&option).exists(), "{head:08x}");
        }
        assert!(!decode(&encode([0; 2], SPAN, 1)).exists());
        assert!(!decode(&encode(TRACE, 0, 1)).exists());
        assert!(decode(&encode([0, 1], SPAN, 1)).exists());
    }

    #[test]
    fn several_segments_carry_it_only_when_all_are_of_one_request() {
        assert!(may_carry(1_408, 0, 1_448));
        assert!(!may_carry(1_409, 0, 1_448));
        assert!(may_carry(1_409, 1_409, 1_448));
        assert!(may_carry(60_000, 70_000, 1_448));
        assert!(!may_carry(60_000, 59_999, 1_448));
        assert!(!may_carry(u32::MAX, 0, 1_448));
        assert!(!may_carry(0, 10, 1_448));
    }
}
