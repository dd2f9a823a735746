use proptest::prelude::*;

use super::*;

struct Block(Vec<u8>);

impl Bytes for Block {
    fn word(&self, index: u64) -> u64 {
        let index = usize::try_from(index & INDEX_MASK).expect("an index is small");
        self.0[index..]
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

struct Store([std::cell::Cell<u64>; Lines::WORDS]);

impl LineStore for Store {
    fn load(&self, index: usize) -> u64 {
        self.0[index].get()
    }

    fn store(&self, index: usize, value: u64) {
        self.0[index].set(value);
    }
}

/// All parts, as the kernel calls them.
fn scan(bytes: &Block, head: &mut Head, start: u64, end: u64) -> Outcome {
    let store = Store(std::array::from_fn(|_| std::cell::Cell::new(u64::MAX)));
    find_lines(bytes, head, &store, start, end, |line, newline| {
        note_line(bytes, &store, line, newline, false);
    });
    let words: [u64; Lines::WORDS] = std::array::from_fn(|index| store.load(index));
    let lines: Lines = zerocopy::transmute!(words);
    if lines.has_traceparent() {
        take_traceparent(bytes, head, &lines);
    }
    judge(bytes, head, &lines, start, end)
}

/// Scans `message` in pieces as the kernel does, and gives the head with the length of it, or why there is none.
fn scan_pieces(pieces: &[&[u8]]) -> (Head, Result<u64, Outcome>) {
    let mut head = Head::default();
    let mut carried = Vec::new();
    let mut before = 0u64;
    for piece in pieces {
        for block in piece.chunks(BLOCK as usize) {
            // What lies behind the block is left over from other messages.
            let mut bytes = vec![b'\n'; INDEX_MASK as usize + 65];
            let origin = CARRY as usize;
            bytes[origin - carried.len()..origin].copy_from_slice(&carried);
            bytes[origin..origin + block.len()].copy_from_slice(block);
            let end = CARRY + block.len() as u64;
            let bytes = Block(bytes);
            match scan(&bytes, &mut head, CARRY, end) {
                Outcome::End(index) => return (head, Ok(before + index - CARRY)),
                Outcome::More => {
                    let end = end as usize;
                    carried = bytes.0[end - head.carry as usize..end].to_vec();
                }
                other => return (head, Err(other)),
            }
            before += block.len() as u64;
        }
    }
    (head, Err(Outcome::More))
}

const REQUEST: &[u8] = b"POST /path?q=1 HTTP/1.1\r\nHost: a\r\nTraceParent:  00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nContent-LENGTH: 42 \r\nX-A: b\r\n\r\nGET / HTTP/1.1\r\n\r\n";
const REQUEST_HEAD: usize = REQUEST.len() - 18;

fn assert_is_request(head: &Head) {
    assert_eq!(head.kind, HeadKind::Request as u8);
    assert_eq!(
        head.flags,
        head_flags::TRACEPARENT | head_flags::LENGTH | head.flags & head_flags::METHOD_SEEN
    );
    assert_eq!(head.content_length, 42);
    let trace_id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    let (high, low) = trace_id.split_at(8);
    assert_eq!(head.trace_id[0].to_ne_bytes(), high);
    assert_eq!(head.trace_id[1].to_ne_bytes(), low);
    assert_eq!(
        head.span_id.to_ne_bytes(),
        0x00f0_67aa_0ba9_02b7_u64.to_be_bytes()
    );
    assert_eq!(head.trace_flags, 1);
    assert_eq!(head.length as usize, REQUEST_HEAD);
}

#[test]
fn finds_the_end_and_the_headers_of_a_request() {
    let (head, end) = scan_pieces(&[REQUEST]);
    assert_eq!(end, Ok(REQUEST_HEAD as u64));
    assert_is_request(&head);
}

#[test]
fn finds_the_same_when_cut_at_any_byte() {
    for cut in 1..REQUEST_HEAD {
        let (first, second) = REQUEST.split_at(cut);
        let (head, end) = scan_pieces(&[first, second]);
        assert_eq!(end, Ok(REQUEST_HEAD as u64), "cut at {cut}");
        assert_is_request(&head);
    }
    let bytes: Vec<&[u8]> = REQUEST.chunks(1).collect();
    let (head, end) = scan_pieces(&bytes);
    assert_eq!(end, Ok(REQUEST_HEAD as u64));
    assert_is_request(&head);
}

#[test]
fn reads_status_lines_and_transfer_encodings() {
    let cases: [(&[u8], u16, u32); 5] = [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            200,
            head_flags::CHUNKED,
        ),
        (b"HTTP/1.0 404\r\n\r\n", 404, 0),
        (
            b"HTTP/1.1 200 OK\ntransfer-encoding: gzip, CHUNKED \n\n",
            200,
            head_flags::CHUNKED,
        ),
        (
            b"HTTP/1.1 100 Continue\r\ntransfer-encoding: gzip\r\n\r\n",
            100,
            head_flags::ENCODING_OTHER,
        ),
        (
            b"\r\nHTTP/1.1 500 \r\ncontent-length: 1x\r\n\r\n",
            500,
            head_flags::LENGTH | head_flags::LENGTH_BAD,
        ),
    ];
    for (bytes, status, flags) in cases {
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let (head, end) = scan_pieces(&[first, second]);
            assert_eq!(
                end,
                Ok(bytes.len() as u64),
                "{} cut at {cut}",
                bytes.escape_ascii()
            );
            assert_eq!(
                (head.kind, head.status, head.flags),
                (HeadKind::Response as u8, status, flags),
                "{} cut at {cut}",
                bytes.escape_ascii()
            );
        }
    }
}

#[test]
fn tells_methods_that_change_the_framing() {
    for (method, kind) in [
        ("HEAD", MethodKind::Head),
        ("CONNECT", MethodKind::Connect),
        ("HEADER", MethodKind::Other),
        ("M-SEARCH", MethodKind::Other),
    ] {
        let text = format!("{method} * HTTP/1.1\r\n\r\n");
        let (head, end) = scan_pieces(&[text.as_bytes()]);
        assert_eq!((end, head.method), (Ok(text.len() as u64), kind as u8));
    }
}

#[test]
fn refuses_what_is_not_http() {
    let cases: [&[u8]; 9] = [
        b"\x16\x03\x01\x02\x00\x01",
        b"*1\r\n$4\r\nPING\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET key\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"HTTP/1.x 200 OK\r\n",
        b"HTTP/1.1 2000\r\nx\xff",
        b"GET  \r\n\r\n",
        b" GET / HTTP/1.1\r\n\r\n",
    ];
    for bytes in cases {
        let (head, end) = scan_pieces(&[bytes]);
        let refused = end == Err(Outcome::NotHttp)
            || (bytes.starts_with(b"HTTP/1.x") && end == Err(Outcome::NotHttp));
        assert!(
            refused || head.status == 200,
            "{}: {end:?}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn ignores_several_and_malformed_traceparents() {
    let one = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let (head, _) = scan_pieces(&[format!("GET / HTTP/1.1\r\n{one}{one}\r\n").as_bytes()]);
    assert_ne!(head.flags & head_flags::TRACEPARENT_TWICE, 0);
    for value in [
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    ] {
        let (head, _) =
            scan_pieces(&[format!("GET / HTTP/1.1\r\ntraceparent: {value}\r\n\r\n").as_bytes()]);
        assert_eq!(head.flags, head_flags::TRACEPARENT_BAD, "{value}");
    }
}

/// RFC 9110 section 5.5: white space around a value is no part of it; Trace Context section 3.2.2: version 00 has nothing behind the flags.
#[test]
fn takes_values_of_which_nothing_is_left_over() {
    const VALUE: &str = "-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const LENGTH_BAD: u32 = head_flags::LENGTH | head_flags::LENGTH_BAD;
    let cases = [
        (format!("traceparent:00{VALUE}"), head_flags::TRACEPARENT),
        (
            format!("traceparent: 00{VALUE} \t "),
            head_flags::TRACEPARENT,
        ),
        (
            format!("traceparent: 00{VALUE} x"),
            head_flags::TRACEPARENT_BAD,
        ),
        (
            format!("traceparent: 00{VALUE}\t,"),
            head_flags::TRACEPARENT_BAD,
        ),
        (
            format!("traceparent: 00{VALUE}-"),
            head_flags::TRACEPARENT_BAD,
        ),
        (
            format!("traceparent: 00{VALUE}\rx"),
            head_flags::TRACEPARENT_BAD,
        ),
        (format!("traceparent: 01{VALUE}-x"), head_flags::TRACEPARENT),
        (format!("traceparent: 01{VALUE} "), head_flags::TRACEPARENT),
        (
            format!("traceparent: 01{VALUE} -x"),
            head_flags::TRACEPARENT_BAD,
        ),
        ("content-length: 56\t ".to_owned(), head_flags::LENGTH),
        ("content-length: 5 6".to_owned(), LENGTH_BAD),
        ("content-length: 5\r6".to_owned(), LENGTH_BAD),
        ("content-length: ".to_owned(), LENGTH_BAD),
        ("transfer-encoding:chunked".to_owned(), head_flags::CHUNKED),
        (
            "transfer-encoding: gzip,chunked\t ".to_owned(),
            head_flags::CHUNKED,
        ),
        (
            "transfer-encoding: \tCHUNKED".to_owned(),
            head_flags::CHUNKED,
        ),
        (
            "transfer-encoding: gzip , \tChunked".to_owned(),
            head_flags::CHUNKED,
        ),
        (
            "transfer-encoding: xchunked".to_owned(),
            head_flags::ENCODING_OTHER,
        ),
        (
            "transfer-encoding: gzip chunked".to_owned(),
            head_flags::ENCODING_OTHER,
        ),
        (
            "transfer-encoding: :chunked".to_owned(),
            head_flags::ENCODING_OTHER,
        ),
        (
            "transfer-encoding: chunked,".to_owned(),
            head_flags::ENCODING_OTHER,
        ),
        (
            "transfer-encoding: chunked x".to_owned(),
            head_flags::ENCODING_OTHER,
        ),
        (
            "transfer-encoding: hunked".to_owned(),
            head_flags::ENCODING_OTHER,
        ),
    ];
    for (line, flags) in cases {
        for end in ["\r\n", "\n"] {
            let text = format!("GET / HTTP/1.1{end}{line}{end}{end}");
            for cut in 0..text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                let (head, found) = scan_pieces(&[first, second]);
                assert_eq!(found, Ok(text.len() as u64), "{text:?} cut at {cut}");
                let seen = head.flags & !head_flags::METHOD_SEEN;
                assert_eq!(seen, flags, "{text:?} cut at {cut}");
            }
        }
    }
}

#[test]
fn finds_a_traceparent_behind_long_lines_and_in_long_heads() {
    let mut text = format!("GET /{} HTTP/1.1\r\n", "x".repeat(5000));
    for line in 0..40 {
        text += &format!("cookie: {line}{}\r\n", "y".repeat(200));
    }
    text += "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n\r\n";
    for step in [text.len(), 1000, 129, 128, 127, 7] {
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
        let (head, end) = scan_pieces(&pieces);
        assert_eq!(end, Ok(text.len() as u64), "pieces of {step}");
        assert_eq!(
            head.flags & head_flags::TRACEPARENT,
            head_flags::TRACEPARENT,
            "pieces of {step}"
        );
    }
}

#[test]
fn refuses_more_lines_than_it_handles() {
    let text = "GET / HTTP/1.1\r\n".to_owned() + &"a\n".repeat(2000) + "\r\n";
    let (_, end) = scan_pieces(&[text.as_bytes()]);
    assert_eq!(end, Err(Outcome::TooManyLines));
}

fn any_header() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z-]{1,20}: ?[ -~]{0,150}",
        "[cC]ontent-[lL]ength:[ \t]{0,3}[0-9]{0,20}",
        "[cC]ontent-[lL]ength: [0-9]{1,3}[ \t]{0,3}[0-9x,]?",
        "[tT]ransfer-[eE]ncoding: ?(gzip,?[ \t]{0,3})?(chunked|Chunked|deflate)[ \t]{0,2}",
        "(traceparent|TraceParent): ?00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]",
    ]
}

proptest! {
    #[test]
    fn does_not_depend_on_where_bytes_are_cut(
        first in prop_oneof!["[A-Z]{1,8} /[!-~]{0,300} HTTP/1\\.[01]", "HTTP/1\\.1 [1-5][0-9]{2} [ -~]{0,20}"],
        headers in proptest::collection::vec(any_header(), 0..8),
        cuts in proptest::collection::vec(1usize..700, 0..8),
    ) {
        // A line that is longer than what is kept of it may be judged or not: such headers are left out.
        let mut text = first + "\r\n";
        for header in headers.iter().filter(|header| header.len() < 120) {
            text += header;
            text += "\r\n";
        }
        text += "\r\nbody";
        let (whole, whole_end) = scan_pieces(&[text.as_bytes()]);
        let mut rest = text.as_bytes();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        let (cut, cut_end) = scan_pieces(&pieces);
        prop_assert_eq!(whole_end, cut_end);
        if whole_end.is_ok() {
            let seen = head_flags::METHOD_SEEN;
            prop_assert_eq!(Head { flags: whole.flags | seen, ..whole }, Head { flags: cut.flags | seen, ..cut });
        }
    }

    #[test]
    fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..6000), cut in 0usize..6000) {
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        let (_, end) = scan_pieces(&[first, second]);
        if let Ok(end) = end {
            prop_assert!(end <= bytes.len() as u64);
        }
    }
}

#[test]
fn knows_of_a_traceparent_that_is_too_long_to_be_read() {
    let padding = " ".repeat(2 * CARRY as usize);
    let head = |name: &str| format!("GET / HTTP/1.1\r\n{name}:{padding}00-x\r\nA: b\r\n\r\n");
    let cut = |name: &str| {
        let text = head(name);
        let (first, second) = text.as_bytes().split_at(30 + CARRY as usize + name.len());
        let (head, end) = scan_pieces(&[first, second]);
        assert_eq!(end, Ok(text.len() as u64));
        head.flags
    };
    assert_eq!(cut("TraceParent"), head_flags::TRACEPARENT_CUT);
    assert_eq!(cut("traceparenx"), 0);
}

/// How many `tracestate` lines a block has, and the value of the one that is carried on; `None` where none is.
fn state_of(text: &str, with_state: bool) -> (u64, Option<String>) {
    let mut bytes = vec![b'\n'; INDEX_MASK as usize + 65];
    let origin = CARRY as usize;
    bytes[origin..origin + text.len()].copy_from_slice(text.as_bytes());
    let bytes = Block(bytes);
    let store = Store(std::array::from_fn(|_| std::cell::Cell::new(u64::MAX)));
    let end = CARRY + text.len() as u64;
    find_lines(
        &bytes,
        &Head::default(),
        &store,
        CARRY,
        end,
        |line, newline| {
            note_line(&bytes, &store, line, newline, with_state);
        },
    );
    let words: [u64; Lines::WORDS] = std::array::from_fn(|index| store.load(index));
    let lines: Lines = zerocopy::transmute!(words);
    let (at, length) = state_value(&bytes, &lines, end);
    let value = (lines.states() != 0 && length != u64::MAX).then(|| {
        let at = at as usize;
        String::from_utf8_lossy(&bytes.0[at..at + length as usize]).into_owned()
    });
    (lines.states(), value)
}

#[test]
fn finds_a_tracestate_where_it_is_looked_for() {
    let text =
        "GET / HTTP/1.1\r\ntracestates: x\r\nTraceState:\t a=1,b=2 \r\ntraceparent: x\r\n\r\n";
    assert_eq!(state_of(text, true), (1, Some("a=1,b=2".to_owned())));
    assert_eq!(state_of(text, false), (0, None));
}

#[test]
fn is_sure_of_a_tracestate_or_carries_none_on() {
    let with = |lines: &str| state_of(&format!("GET / HTTP/1.1\r\n{lines}\r\n"), true).1;
    let some = |value: &str| Some(value.to_owned());
    assert_eq!(with("tracestate: a=1\r\n"), some("a=1"));
    assert_eq!(with("tracestate:a\r\n"), some("a"));
    assert_eq!(with("tracestate: a=1\n"), some("a=1"));
    assert_eq!(with("tracestate:\r\n"), some(""));
    assert_eq!(with("tracestate: \t \r\n"), some(""));
    assert_eq!(
        with(&format!("tracestate:{}a=1\r\n", " ".repeat(16))),
        some("a=1")
    );
    // More lines than one, also where one is empty.
    assert_eq!(with("tracestate: a=1\r\ntracestate: b=2\r\n"), None);
    assert_eq!(with("tracestate: a=1\r\ntracestate:\r\n"), None);
    // The next line continues the value.
    assert_eq!(with("tracestate: a=1\r\n ,b=2\r\n"), None);
    assert_eq!(with("tracestate: a=1\r\n\t,b=2\r\n"), None);
    // More blanks than are taken off.
    let blanks = " ".repeat(17);
    assert_eq!(with(&format!("tracestate:{blanks}a=1\r\n")), None);
    assert_eq!(with(&format!("tracestate: a=1{blanks}\r\n")), None);
    // What follows is not in the block.
    assert_eq!(
        state_of("GET / HTTP/1.1\r\ntracestate: a=1\r\n", true),
        (1, None)
    );
}
