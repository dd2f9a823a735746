use proptest::prelude::*;

use super::*;
use crate::wire::scan::{BLOCK, INDEX_MASK};

const TRACE: u128 = 0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7;
const SPAN: u64 = 0xe457_b5a2_e4d8_6bd1;

/// All propagators, one header of one's own pair with an underscore in its name.
fn table() -> Table {
    let fields = [
        ("b3", part::B3, 1),
        ("X-B3-TraceId", part::TRACE_ID, 2),
        ("X-B3-SpanId", part::SPAN_ID, 2),
        ("X-B3-Sampled", part::SAMPLED, 2),
        ("X-B3-Flags", part::DEBUG, 2),
        ("uber-trace-id", part::JAEGER, 3),
        ("X_Trace_Id", part::TRACE_ID, 4),
        ("X-Parent-Span-ID", part::SPAN_ID, 4),
    ];
    let mut table = Table::default();
    for (place, (name, part, rank)) in table.iter_mut().zip(fields) {
        *place = Field::new(name, part, rank).expect("a name that fits");
    }
    table
}

/// Trace id, span id and sampling decision of a complete context.
type Carried = Option<(u128, u64, Option<bool>)>;

fn carried(head: &Head) -> Carried {
    let [high, low] = head.trace_id.map(u64::from_be);
    is_complete(head).then(|| {
        (
            u128::from(high) << 64 | u128::from(low),
            u64::from_be(head.span_id),
            is_sampled(head),
        )
    })
}

/// As user space reads it: header by header.
fn by_headers(headers: &[(&str, &str)]) -> Carried {
    let mut head = Head::default();
    for (name, value) in headers {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        read(&table(), name, value, &mut head);
    }
    carried(&head)
}

struct Block(Vec<u8>);

impl Bytes for Block {
    fn word(&self, index: u64) -> u64 {
        let index = usize::try_from(index & INDEX_MASK).expect("an index is small");
        self.0[index..]
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

struct Places([std::cell::Cell<u64>; PLACES]);

impl LineStore for Places {
    fn load(&self, index: usize) -> u64 {
        self.0[index].get()
    }

    fn store(&self, index: usize, value: u64) {
        self.0[index].set(value);
    }
}

/// As the kernel reads it: `pieces` block by block, the unfinished line before the next one.
fn by_blocks(pieces: &[&[u8]]) -> Carried {
    let table = table();
    let mut head = Head::default();
    let mut line = Vec::new();
    for block in pieces.iter().flat_map(|piece| piece.chunks(BLOCK as usize)) {
        let mut bytes = vec![b'\n'; INDEX_MASK as usize + 65];
        let origin = CARRY as usize;
        let kept = line.len().min(origin);
        bytes[origin - kept..origin].copy_from_slice(&line[line.len() - kept..]);
        bytes[origin..origin + block.len()].copy_from_slice(block);
        let bytes = Block(bytes);
        let places = Places(std::array::from_fn(|_| std::cell::Cell::new(u64::MAX)));
        head.carry = kept as u32;
        head.flags &= !head_flags::CUT_LINE;
        if line.len() > origin {
            head.flags |= head_flags::CUT_LINE;
        }
        let end = CARRY + block.len() as u64;
        assert!(find(
            &bytes,
            &head,
            |index| table[index],
            &places,
            CARRY,
            end
        ));
        for (index, field) in table.iter().enumerate() {
            let (at, count) = (places.load(index * 2), places.load(index * 2 + 1));
            take(&bytes, &mut head, field, at, count, |at| digits(&bytes, at));
        }
        line.extend_from_slice(block);
        if let Some(newline) = line.iter().rposition(|byte| *byte == b'\n') {
            line.drain(..=newline);
        }
    }
    carried(&head)
}

fn text(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = b"GET /b3 HTTP/1.1\r\nHost: a\r\n".to_vec();
    for (name, value) in headers {
        text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    text
}

#[track_caller]
fn assert_reads(headers: &[(&str, &str)], expected: Carried) {
    assert_eq!(by_headers(headers), expected, "header by header");
    assert_eq!(by_blocks(&[&text(headers)]), expected, "in a block");
}

/// openzipkin/b3-propagation: "Single Header", with ids of 128 and of 64 bits.
#[test]
fn reads_b3_in_one_header() {
    let b3 = |value, expected| assert_reads(&[("b3", value)], expected);
    let (low, span) = (u128::from(TRACE as u64), SPAN);
    b3(
        "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90",
        Some((TRACE, span, Some(true))),
    );
    b3(
        "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0",
        Some((TRACE, span, Some(false))),
    );
    b3(
        "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d",
        Some((TRACE, span, Some(true))),
    );
    b3("64fe8b2a57d3eff7-e457b5a2e4d86bd1", Some((low, span, None)));
    for malformed in [
        "0",
        "1",
        "",
        "80f198ee56343ba864fe8b2a57d3eff7",
        "80f198ee56343ba864fe8b2a57d3eff7-",
        "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd",
        "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd12",
        "80f198ee56343ba864fe8b2a57d3eff70-e457b5a2e4d86bd1",
        "80f198ee56343ba864fe8b2a57d3ef-e457b5a2e4d86bd1-1",
        "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-2",
        "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-11",
        "80f198ee56343ba864fe8b2a57d3eff7:e457b5a2e4d86bd1-1",
        "00000000000000000000000000000000-e457b5a2e4d86bd1-1",
        "80f198ee56343ba864fe8b2a57d3eff7-0000000000000000-1",
    ] {
        b3(malformed, None);
    }
}

#[test]
fn reads_b3_in_several_headers() {
    let (trace, span) = ("80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1");
    let ids = [("X-B3-TraceId", trace), ("X-B3-SpanId", span)];
    assert_reads(&ids, Some((TRACE, SPAN, None)));
    let with = |name, value| [ids[1], (name, value), ids[0]];
    for (value, sampled) in [
        ("1", true),
        ("0", false),
        ("true", true),
        ("False", false),
        ("d", true),
    ] {
        assert_reads(
            &with("x-b3-sampled", value),
            Some((TRACE, SPAN, Some(sampled))),
        );
    }
    assert_reads(&with("X-B3-Flags", "1"), Some((TRACE, SPAN, Some(true))));
    assert_reads(&with("X-B3-Flags", "0"), Some((TRACE, SPAN, None)));
    assert_reads(&with("X-B3-Sampled", "yes"), None);
    assert_reads(&with("X-B3-TraceId", trace), None);
    assert_reads(&ids[..1], None);
    assert_reads(&[("X-B3-Sampled", "1")], None);
}

/// Jaeger: leading zeros may be missing, and the colons may be encoded.
#[test]
fn reads_what_jaeger_sends() {
    let jaeger = |value, expected| assert_reads(&[("uber-trace-id", value)], expected);
    jaeger(
        "80f198ee56343ba864fe8b2a57d3eff7:e457b5a2e4d86bd1:0:1",
        Some((TRACE, SPAN, Some(true))),
    );
    jaeger(
        "80f198ee56343ba864fe8b2a57d3eff7%3Ae457b5a2e4d86bd1%3a0%3A00",
        Some((TRACE, SPAN, Some(false))),
    );
    jaeger("1f:2:1:3", Some((0x1f, 2, Some(true))));
    jaeger("1f:2::2", Some((0x1f, 2, Some(false))));
    for malformed in [
        "",
        "1f",
        "1f:2",
        "1f:2:0",
        "1f:2:0:",
        "1f:2:0:111",
        "1f:2:0:1:1",
        "0:2:0:1",
        "1f:0:0:1",
        ":2:0:1",
        "180f198ee56343ba864fe8b2a57d3eff7:2:0:1",
        "1f:1e457b5a2e4d86bd1:0:1",
        "1f-2-0-1",
    ] {
        jaeger(malformed, None);
    }
}

#[test]
fn reads_a_pair_of_ones_own() {
    assert_reads(
        &[
            ("x_trace_id", "80F198EE56343BA864FE8B2A57D3EFF7"),
            ("X-PARENT-SPAN-ID", "E457B5A2E4D86BD1"),
        ],
        Some((TRACE, SPAN, None)),
    );
    assert_reads(&[("X-Parent-Span-ID", "e457b5a2e4d86bd1")], None);
    assert_reads(
        &[
            ("X_Trace_Id", "4f9a0d1e-80f1-98ee-5634-3ba864fe8b2a"),
            ("X-Parent-Span-ID", "e457b5a2e4d86bd1"),
        ],
        None,
    );
}

#[test]
fn takes_the_first_propagator_that_is_there_in_whichever_order() {
    let b3 = ("b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1-1");
    let jaeger = ("uber-trace-id", "1f:2:0:0");
    let expected = Some((u128::from(TRACE as u64), SPAN, Some(true)));
    assert_reads(&[b3, jaeger], expected);
    assert_reads(&[jaeger, b3], expected);
    // One that is malformed is there as well: what another one says may belong to another trace.
    assert_reads(&[("b3", "?"), jaeger], None);
    assert_reads(&[jaeger, ("b3", "?")], None);
}

#[test]
fn leaves_a_request_alone_that_has_any_traceparent() {
    let table = table();
    for flag in [
        head_flags::TRACEPARENT,
        head_flags::TRACEPARENT_BAD,
        head_flags::TRACEPARENT_TWICE,
        head_flags::TRACEPARENT_CUT,
    ] {
        let mut head = Head {
            flags: flag,
            trace_id: [1, 2],
            span_id: 3,
            ..Head::default()
        };
        let before = head;
        read(&table, b"uber-trace-id", b"1f:2:0:1", &mut head);
        assert_eq!(head, before);
        // Seen later, it outranks what was there before.
        let mut head = Head::default();
        read(&table, b"uber-trace-id", b"1f:2:0:1", &mut head);
        assert!(is_complete(&head));
        head.flags |= flag;
        assert!(!is_complete(&head));
    }
}

/// The caller's decision has no id of which a second one would show.
#[test]
fn takes_nothing_where_a_header_is_there_twice() {
    let ids = [
        ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
        ("x-b3-spanid", "e457b5a2e4d86bd1"),
    ];
    for (name, value) in [("x-b3-sampled", "1"), ("x-b3-flags", "1")] {
        let once = [ids[0], ids[1], (name, value)];
        assert_reads(&once, Some((TRACE, SPAN, Some(true))));
        let twice = [ids[0], (name, value), ids[1], (name, value)];
        assert_reads(&twice, None);
        let text = text(&twice);
        for cut in 0..text.len() {
            let (first, second) = text.split_at(cut);
            assert_eq!(by_blocks(&[first, second]), None, "{name} cut at {cut}");
        }
    }
    // Debug is a decision of its own and contradicts no other header.
    let both = [ids[0], ids[1], ("x-b3-sampled", "1"), ("x-b3-flags", "1")];
    assert_reads(&both, Some((TRACE, SPAN, Some(true))));
}

/// 200 lines of four bytes: no head has as many in one block.
#[test]
fn says_when_a_block_has_more_lines_than_it_looks_at() {
    let found = |lines: usize| {
        let text = "b3:\n".repeat(lines);
        let mut bytes = vec![b'\n'; INDEX_MASK as usize + 65];
        let origin = CARRY as usize;
        bytes[origin..origin + text.len()].copy_from_slice(text.as_bytes());
        let places = Places(std::array::from_fn(|_| std::cell::Cell::new(u64::MAX)));
        let table = table();
        let end = CARRY + text.len() as u64;
        let head = Head::default();
        let all = find(
            &Block(bytes),
            &head,
            |index| table[index],
            &places,
            CARRY,
            end,
        );
        all.then(|| places.load(1))
    };
    assert_eq!(found(3), Some(3));
    assert_eq!(found(64), Some(64));
    assert_eq!(found(200), None);
}

#[test]
fn knows_fields_by_their_whole_name() {
    let field = Field::new("X-Trace-Id", part::TRACE_ID, 1).expect("a name that fits");
    assert!(field.is_named(b"x-trace-id"));
    for other in ["x-trace-i", "x-trace-id2", "x-trace-ie", ""] {
        assert!(!field.is_named(other.as_bytes()), "{other}");
    }
    assert!(!Field::default().is_named(b""));
    assert_eq!(Field::new("", part::B3, 1), None);
    assert_eq!(Field::new(&"x".repeat(NAME_LIMIT + 1), part::B3, 1), None);
    assert!(Field::new(&"x".repeat(NAME_LIMIT), part::B3, 1).is_some());
}

/// Header names and values, mostly of propagators, mostly well-formed.
fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop_oneof![
        Just("b3"),
        Just("X-B3-TraceId"),
        Just("x-b3-spanid"),
        Just("X-B3-Sampled"),
        Just("x-b3-flags"),
        Just("Uber-Trace-Id"),
        Just("X_Trace_Id"),
        Just("x-parent-span-id"),
        Just("b3x"),
        Just("cookie"),
    ];
    let value = prop_oneof![
        "[0-9a-f]{32}",
        "[0-9a-fA-F]{16}",
        "[01d]",
        "[0-9a-f]{32}-[0-9a-f]{16}(-[01d])?",
        "[0-9a-f]{1,32}:[0-9a-f]{1,16}:0:[0-3]",
        "[ -~]{0,40}",
        "[a-z]{60,90}",
    ];
    prop::collection::vec(
        (
            name.prop_map(str::to_owned),
            value.prop_map(|value| value.trim().to_owned()),
        ),
        0..6,
    )
}

proptest! {
    /// The kernel, which sees blocks cut anywhere, and user space, which sees headers, agree: on lines that the kernel keeps, at least.
    #[test]
    fn blocks_cut_anywhere_say_what_headers_say(
        headers in headers(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let text = text(&headers);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut rest = text.as_slice();
        for cut in cuts.iter().rev() {
            let (before, piece) = rest.split_at(*cut);
            pieces.insert(0, piece);
            rest = before;
        }
        pieces.insert(0, rest);
        prop_assert_eq!(by_blocks(&pieces), by_headers(&headers));
    }

    #[test]
    fn any_bytes_give_a_head(name in prop::collection::vec(any::<u8>(), 0..24), value in prop::collection::vec(any::<u8>(), 0..160)) {
        let mut head = Head::default();
        read(&table(), &name, &value, &mut head);
        read(&table(), b"b3", &value, &mut head);
        prop_assert!(carried(&head).is_none_or(|(trace, span, _)| trace != 0 && span != 0));
    }

    #[test]
    fn digits_are_a_number(text in "[0-9a-fA-F]{0,32}", behind in "[g-z]{0,2}") {
        let value = [text.as_bytes(), behind.as_bytes()].concat();
        let found = digits(&Value(&value), 0);
        prop_assert_eq!(found.count, text.len() as u64);
        let number = u128::from(found.high) << 64 | u128::from(found.low);
        prop_assert_eq!(number, u128::from_str_radix(&text, 16).unwrap_or(0));
    }
}
