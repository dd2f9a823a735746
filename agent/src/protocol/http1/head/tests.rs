use agent_common::wire::propagator;
use proptest::prelude::*;

use super::*;

fn request(text: &str) -> RequestHead {
    parse_request(text.as_bytes(), &[]).expect("a request")
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
        assert_eq!(parse_request(line.as_bytes(), &[]), None, "{line:?}");
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
            let whole = parse_whole_request(&bytes, &[]);
            prop_assert_eq!(whole.as_ref().map(|head| head.length as usize), end);
            let cut = end.and_then(|end| parse_request(&bytes[..end], &[]));
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
        let _ = parse_request(&bytes, &[]);
        let head = parse_request(&[b"GET / HTTP/1.1\n", &bytes[..]].concat(), &[]);
        prop_assert!(head.is_some());
        let _ = parse_response(&bytes);
    }
}

/// What the kernel reads of the same headers: `agent_common::wire::propagator` has the tests of every form.
#[test]
fn reads_other_propagators_where_there_is_no_traceparent() {
    let b3 = propagator::Field::new("b3", propagator::part::B3, 1).expect("a name that fits");
    let (trace, span) = ("80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1");
    let context = |fields: &str, threshold| {
        let text = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let head = parse_request(text.as_bytes(), &[b3]).expect("a request");
        head.context(threshold)
    };
    let ids = |flags| {
        Some(TraceParent {
            version: 0,
            trace_id: 0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7_u128.to_be_bytes(),
            span_id: 0xe457_b5a2_e4d8_6bd1_u64.to_be_bytes(),
            flags,
        })
    };
    let line = |sampled: &str| format!("B3: {trace}-{span}{sampled} \r\n");
    assert_eq!(context(&line("-1"), sampling::NEVER), ids(1));
    assert_eq!(context(&line("-0"), 0), ids(0));
    // The caller leaves it to us.
    assert_eq!(context(&line(""), 0), ids(1));
    assert_eq!(context(&line(""), sampling::NEVER), ids(0));
    // Any `traceparent` goes first, whatever its place.
    let other = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    for fields in [line("-1") + other, other.to_owned() + &line("-1")] {
        let found = context(&fields, 0).expect("a context");
        assert_eq!(found.span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    }
    assert_eq!(
        context(&(line("-1") + "traceparent: 00-1-2-01\r\n"), 0),
        None
    );
    assert_eq!(context(&line("-1").repeat(2), 0), None);
}
