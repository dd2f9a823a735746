//! The value of a `traceparent` header, W3C Trace Context level 2, section 3.2.
//!
//! Input: the bytes of one header value without the white space around it. Output: a [`TraceParent`], or nothing for a value that must be
//! ignored. It neither finds the header nor decides what to do with several of them.

/// Bytes of a version 00 value: `vv-tttttttttttttttttttttttttttttttt-pppppppppppppppp-ff`.
pub const LENGTH: usize = 55;

/// The version that [`format`] writes.
pub const VERSION: u8 = 0;

/// Bit of [`TraceParent::flags`]: the caller may have recorded its part (section 3.2.2.5.1).
pub const FLAG_SAMPLED: u8 = 1;

/// Bit of [`TraceParent::flags`]: at least the right-most seven bytes of the trace id are random (section 3.2.2.5.2).
pub const FLAG_RANDOM: u8 = 1 << 1;

/// The version that stands for "invalid" (section 3.2.2.1).
const VERSION_INVALID: u8 = 0xff;

/// A well-formed `traceparent`: neither id is all zero, the version is not ff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// Version of the header as received, 0 to 254.
    pub version: u8,
    /// Trace id, in the order of the wire.
    pub trace_id: [u8; 16],
    /// Id of the caller's span (`parent-id`), in the order of the wire.
    pub span_id: [u8; 8],
    /// Flags as received: [`FLAG_SAMPLED`], [`FLAG_RANDOM`], and six bits without a meaning in version 00.
    pub flags: u8,
}

impl TraceParent {
    /// Whether the caller says that it may have recorded its part.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & FLAG_SAMPLED != 0
    }
}

/// The context in a header value of any version.
///
/// A version 00 value has exactly [`LENGTH`] bytes. A later version may be longer when a `-` follows those (section 3.2.4: the known part is used).
#[must_use]
pub fn parse(value: &[u8]) -> Option<TraceParent> {
    let (known, rest) = value.split_first_chunk::<LENGTH>()?;
    let context = parse_fixed(known)?;
    match rest.first() {
        None => Some(context),
        Some(b'-') if context.version > VERSION => Some(context),
        Some(_) => None,
    }
}

/// The context in the first [`LENGTH`] bytes of a value, where the caller has checked what follows them.
///
/// Eight characters at a time, without a loop, a table or a branch before the last one: the verifier walks it once.
#[must_use]
#[inline(always)]
pub fn parse_fixed(value: &[u8; LENGTH]) -> Option<TraceParent> {
    let version = decode([value[0], value[1], b'0', b'0', b'0', b'0', b'0', b'0']);
    let trace = [
        decode(eight::<3>(value)),
        decode(eight::<11>(value)),
        decode(eight::<19>(value)),
        decode(eight::<27>(value)),
    ];
    let span = [decode(eight::<36>(value)), decode(eight::<44>(value))];
    let flags = decode([value[53], value[54], b'0', b'0', b'0', b'0', b'0', b'0']);

    let digits_wrong = version.wrong
        | trace[0].wrong
        | trace[1].wrong
        | trace[2].wrong
        | trace[3].wrong
        | span[0].wrong
        | span[1].wrong
        | flags.wrong;
    let dashes_wrong = (value[2] ^ b'-') | (value[35] ^ b'-') | (value[52] ^ b'-');
    let trace_bits = trace[0].bytes | trace[1].bytes | trace[2].bytes | trace[3].bytes;
    let span_bits = span[0].bytes | span[1].bytes;

    let [version, ..] = version.bytes.to_le_bytes();
    let [flags, ..] = flags.bytes.to_le_bytes();
    if (digits_wrong | u64::from(dashes_wrong)) != 0
        || version == VERSION_INVALID
        || trace_bits == 0
        || span_bits == 0
    {
        return None;
    }
    let [a, b, c, d] = trace.map(|part| part.bytes.to_le_bytes());
    let [e, f] = span.map(|part| part.bytes.to_le_bytes());
    Some(TraceParent {
        version,
        trace_id: [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ],
        span_id: [e[0], e[1], e[2], e[3], f[0], f[1], f[2], f[3]],
        flags,
    })
}

/// The value to send for a context, always in version 00: unknown flags are cleared, as section 3.2.2.5 asks of a sender.
#[must_use]
pub fn format(context: &TraceParent) -> [u8; LENGTH] {
    let mut value = [b'-'; LENGTH];
    put_hex(&mut value, 0, &[VERSION]);
    put_hex(&mut value, 3, &context.trace_id);
    put_hex(&mut value, 36, &context.span_id);
    put_hex(
        &mut value,
        53,
        &[context.flags & (FLAG_SAMPLED | FLAG_RANDOM)],
    );
    value
}

/// Eight hex digits as four bytes.
struct Decoded {
    /// The bytes, the first one lowest; meaningless where a digit was wrong.
    bytes: u32,
    /// Not zero when a character is no lower-case hex digit.
    wrong: u64,
}

/// One bit per byte of a word: its highest.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The same byte eight times.
const fn each(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

#[inline(always)]
fn eight<const AT: usize>(value: &[u8; LENGTH]) -> [u8; 8] {
    [
        value[AT],
        value[AT + 1],
        value[AT + 2],
        value[AT + 3],
        value[AT + 4],
        value[AT + 5],
        value[AT + 6],
        value[AT + 7],
    ]
}

/// Arithmetic on eight bytes in one word. For bytes below 0x80, adding `0x80 - n` sets the highest bit where the byte is at least `n`, and
/// never carries into the next byte.
#[inline(always)]
fn decode(digits: [u8; 8]) -> Decoded {
    let word = u64::from_le_bytes(digits);
    let low = word & !HIGH;
    let digit = (low + each(0x80 - b'0')) & !(low + each(0x80 - (b'9' + 1)));
    let letter = (low + each(0x80 - b'a')) & !(low + each(0x80 - (b'f' + 1)));
    let right = (digit | letter) & !word & HIGH;

    // A letter has bit 6 set and its low nibble counts from 1: 'a' & 15 = 1, plus 9 is 10.
    let nibbles = (low & each(0x0f)) + ((low >> 6) & each(1)) * 9;
    let pairs = ((nibbles << 4) | (nibbles >> 8)) & 0x00ff_00ff_00ff_00ff;
    let quads = (pairs | (pairs >> 8)) & 0x0000_ffff_0000_ffff;
    Decoded {
        bytes: ((quads | (quads >> 16)) & 0xffff_ffff) as u32,
        wrong: right ^ HIGH,
    }
}

fn put_hex(value: &mut [u8; LENGTH], at: usize, bytes: &[u8]) {
    let places = value.iter_mut().skip(at);
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    for (place, nibble) in places.zip(digits) {
        *place = nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Section 3.2.3, the first example.
    const EXAMPLE: &[u8; LENGTH] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(at: usize, byte: u8) -> [u8; LENGTH] {
        let mut value = *EXAMPLE;
        value[at] = byte;
        value
    }

    #[test]
    fn reads_the_examples_of_the_specification() {
        let sampled = TraceParent {
            version: 0,
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes(),
            span_id: 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes(),
            flags: 1,
        };
        assert_eq!(parse(EXAMPLE), Some(sampled));
        assert!(sampled.is_sampled());
        let unsampled = TraceParent {
            flags: 0,
            ..sampled
        };
        assert_eq!(parse(&with(54, b'0')), Some(unsampled));
        assert!(!unsampled.is_sampled());
    }

    #[test]
    fn ignores_what_the_specification_calls_invalid() {
        let cases: [&[u8]; 12] = [
            b"",
            b"00",
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like",
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
            b"0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ];
        for case in cases {
            assert_eq!(parse(case), None, "{}", case.escape_ascii());
        }
    }

    #[test]
    fn takes_the_known_part_of_a_later_version() {
        let cases: [&[u8]; 3] = [
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like",
        ];
        for case in cases {
            let context = parse(case).expect("a later version is read");
            assert_eq!(context.version, 0xcc);
            assert_eq!(&format(&context), EXAMPLE);
        }
    }

    #[test]
    fn writes_only_flags_that_it_understands() {
        let context = parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff");
        let context = context.expect("unknown flags are accepted");
        assert_eq!(context.flags, 0xff);
        assert!(format(&context).ends_with(b"-03"));
    }

    /// Every byte value at every place, against the grammar spelled out.
    #[test]
    fn judges_every_byte_at_every_place() {
        for at in 0..LENGTH {
            for byte in 0..=u8::MAX {
                let accepted = match at {
                    2 | 35 | 52 => byte == b'-',
                    _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
                };
                assert_eq!(
                    parse_fixed(&with(at, byte)).is_some(),
                    accepted,
                    "byte {byte:#x} at {at}"
                );
            }
        }
    }

    /// The grammar again, written for reading and not for the verifier.
    fn oracle(value: &[u8]) -> Option<TraceParent> {
        let text = core::str::from_utf8(value).ok()?;
        let hex = |part: &str| {
            part.bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let fields: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags, later @ ..] = fields.as_slice() else {
            return None;
        };
        let lengths = [version.len(), trace.len(), span.len(), flags.len()];
        if lengths != [2, 32, 16, 2] || ![version, trace, span, flags].into_iter().all(|p| hex(p)) {
            return None;
        }
        let version = u8::from_str_radix(version, 16).ok()?;
        let trace = u128::from_str_radix(trace, 16).ok()?;
        let span = u64::from_str_radix(span, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        let valid = version != 0xff && trace != 0 && span != 0 && (version > 0 || later.is_empty());
        valid.then(|| TraceParent {
            version,
            trace_id: trace.to_be_bytes(),
            span_id: span.to_be_bytes(),
            flags,
        })
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(trace in 1..u128::MAX, span in 1..u64::MAX, flags in 0..4_u8) {
            let context = TraceParent {
                version: 0,
                trace_id: trace.to_be_bytes(),
                span_id: span.to_be_bytes(),
                flags,
            };
            prop_assert_eq!(parse(&format(&context)), Some(context));
        }

        #[test]
        fn agrees_with_the_grammar_on_near_misses(
            version in "[0-9a-f]{2}|00|ff",
            trace in "[0-9a-f]{32}|[0-9a-fA-F]{31,33}|0{32}",
            span in "[0-9a-f]{16}|[0-9a-g]{16}|0{16}",
            flags in "[0-9a-f]{2}",
            tail in "|-|-[a-z]{0,9}|[a-z]{1,3}",
        ) {
            let value = format!("{version}-{trace}-{span}-{flags}{tail}");
            prop_assert_eq!(parse(value.as_bytes()), oracle(value.as_bytes()));
        }

        #[test]
        fn agrees_with_the_grammar_on_any_bytes(value in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(parse(&value), oracle(&value));
        }
    }
}
