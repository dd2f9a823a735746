//! Requests with a `tracestate`, the calls that a service makes for them, and how those must arrive.

pub(super) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";

/// Bytes of a block of the scanner, and of an unfinished line that it keeps for the next one.
const BLOCK: usize = 1024;
const KEPT: usize = 128;

/// A call without any context.
pub(super) const PLAIN: &str = "GET /call HTTP/1.1\r\nHost: b\r\n\r\n";

/// Requests on one connection, and the calls that the service makes for them.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// What comes in, read by read.
    pub(super) sends: Vec<Vec<u8>>,
    /// For each request, the call.
    pub(super) due: Vec<Due>,
    /// Requests whose state is not carried on.
    pub(super) dropped: u64,
    /// Calls that get none though there is one.
    pub(super) withheld: u64,
}

impl Case {
    pub(super) fn new(name: &'static str, request: Vec<u8>, due: Due) -> Self {
        Self {
            name,
            sends: vec![request],
            due: vec![due],
            dropped: 0,
            withheld: 0,
        }
    }
}

/// What of a `traceparent` is not known before the run.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Unknown {
    Nothing,
    Parent,
    TraceAndParent,
}

/// One call.
pub(super) struct Due {
    /// What the service sends.
    pub(super) sent: Vec<u8>,
    /// What must arrive where headers are written.
    pub(super) written: Vec<u8>,
    pub(super) unknown: Unknown,
    /// Lines `traceparent` and `tracestate` that are put in.
    pub(super) lines: u64,
    pub(super) states: u64,
}

impl Due {
    /// Each request of the call gets the context of the request it is made for, and this state, which may be empty.
    pub(super) fn child(call: &str, flags: &str, state: &str) -> Self {
        let state = match state {
            "" => String::new(),
            state => format!("tracestate: {state}\r\n"),
        };
        Self::with(call, &(parent(flags) + &state), Unknown::Parent)
    }

    /// Each request of the call begins a trace.
    pub(super) fn root(call: &str) -> Self {
        Self::with(call, &parent("03"), Unknown::TraceAndParent)
    }

    /// The call arrives as it was sent, but for a parent id that is replaced.
    fn forwarded(call: &str) -> Self {
        Self {
            unknown: Unknown::Parent,
            ..Self::unchanged(call)
        }
    }

    fn unchanged(call: &str) -> Self {
        Self {
            sent: call.into(),
            written: call.into(),
            unknown: Unknown::Nothing,
            lines: 0,
            states: 0,
        }
    }

    pub(super) fn with(call: &str, lines: &str, unknown: Unknown) -> Self {
        let requests = call.matches("\r\n\r\n").count() as u64;
        Self {
            sent: call.into(),
            written: call.replace("\r\n\r\n", &format!("\r\n{lines}\r\n")).into(),
            unknown,
            lines: requests,
            states: requests * lines.matches("tracestate").count() as u64,
        }
    }
}

/// The line of the context that comes in.
pub(super) fn parent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n")
}

/// The line of another one.
pub(super) fn other_context() -> String {
    format!("traceparent: 00-{OTHER_TRACE}-{PARENT}-01\r\n")
}

/// A request with these lines, for which the service sends this call.
pub(super) fn incoming(call: &str, lines: &[String]) -> Vec<u8> {
    incoming_in(&[&[call]], lines)
}

/// A request with these lines, for which the service makes these sends of these buffers.
fn incoming_in(sends: &[&[&str]], lines: &[String]) -> Vec<u8> {
    let buffer = |text: &&str| -> String { text.bytes().map(|b| format!("{b:02x}")).collect() };
    let send = |buffers: &&[&str]| -> String {
        let buffers: Vec<_> = buffers.iter().map(buffer).collect();
        buffers.join("+")
    };
    let path = sends.iter().map(send).collect::<Vec<_>>().join("-");
    let lines = lines.concat();
    format!("GET /{path} HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n").into_bytes()
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = values();
    all.extend(places());
    all.extend(calls());
    all.extend(pieces());
    all
}

/// Which values are carried on, and how.
fn values() -> Vec<Case> {
    let case = |name, line: String, state: &str, dropped| Case {
        dropped,
        ..Case::new(
            name,
            incoming(PLAIN, &[line, parent("01")]),
            Due::child(PLAIN, "01", state),
        )
    };
    let value = |length: usize| -> String {
        let bytes = b"a=1,b@c=!~ d".iter().cycle();
        // A blank at the end would be none of the value.
        let mut value: String = bytes
            .take(length - 1)
            .map(|byte| char::from(*byte))
            .collect();
        value.push('z');
        value
    };
    let mut all = Vec::new();
    for length in [1, 2, 3, 4, 11, 12, 13, 255, 256] {
        let value = value(length);
        all.push(case(
            "a length",
            format!("tracestate: {value}\r\n"),
            &value,
            0,
        ));
    }
    let specified = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
    for (name, line, state) in [
        (
            "of the specification",
            format!("tracestate: {specified}\r\n"),
            specified,
        ),
        (
            "blanks and letter case",
            "TraceState:\t a=1, b=2 \t\r\n".to_owned(),
            "a=1, b=2",
        ),
        ("no blank", "tracestate:a=1\r\n".to_owned(), "a=1"),
        ("a bare line end", "tracestate: a=1\n".to_owned(), "a=1"),
        ("empty", "tracestate:\r\n".to_owned(), ""),
        ("blanks alone", "tracestate: \t \r\n".to_owned(), ""),
        (
            "another header",
            "tracestates: a=1\r\nx-tracestate: b=2\r\n".to_owned(),
            "",
        ),
    ] {
        all.push(case(name, line, state, 0));
    }
    for (name, line) in [
        ("257 bytes", format!("tracestate: {}\r\n", value(257))),
        ("900 bytes", format!("tracestate: {}\r\n", value(900))),
        (
            "two lines",
            "tracestate: a=1\r\nX: y\r\ntracestate: b=2\r\n".to_owned(),
        ),
        (
            "two lines, one empty",
            "tracestate: a=1\r\ntracestate:\r\n".to_owned(),
        ),
        ("a folded line", "tracestate: a=1\r\n ,b=2\r\n".to_owned()),
        ("a control character", "tracestate: a=\u{1}\r\n".to_owned()),
        ("a tab", "tracestate: a=1,\tb=2\r\n".to_owned()),
        ("a carriage return", "tracestate: a=1\rX: y\r\n".to_owned()),
        ("DEL", "tracestate: a=\u{7f}\r\n".to_owned()),
        ("no ASCII", "tracestate: a=\u{e9}\r\n".to_owned()),
        (
            "many blanks",
            format!("tracestate:{}a=1\r\n", " ".repeat(17)),
        ),
    ] {
        all.push(case(name, line, "", 1));
    }
    all
}

/// Where in the request it stands, and beside which context.
fn places() -> Vec<Case> {
    let state = || "tracestate: a=1\r\n".to_owned();
    let mut all = Vec::new();
    for (flags, written) in [
        ("00", "00"),
        ("01", "01"),
        ("02", "02"),
        ("03", "03"),
        ("ff", "03"),
    ] {
        let request = incoming(PLAIN, &[parent(flags), state()]);
        all.push(Case::new(
            "flags",
            request,
            Due::child(PLAIN, written, "a=1"),
        ));
    }
    for context in ["", "traceparent: 00-x\r\n"] {
        let request = incoming(PLAIN, &[context.to_owned(), state()]);
        all.push(Case::new("no context", request, Due::root(PLAIN)));
    }
    let padding = format!("X: {}\r\n", "y".repeat(700));
    let request = incoming(PLAIN, &[state(), padding.clone(), padding, parent("01")]);
    all.push(Case::new(
        "in another block than the end",
        request,
        Due::child(PLAIN, "01", "a=1"),
    ));
    let long = format!("a={}", "v".repeat(240));
    for (name, before, carried) in [
        ("its line cut by a block", KEPT - 20, true),
        (
            "more of its line cut by a block than is kept",
            KEPT + 20,
            false,
        ),
    ] {
        let at = incoming(PLAIN, &[parent("01"), "X: \r\n".to_owned()]).len() - 2;
        let padding = format!("X: {}\r\n", "y".repeat(BLOCK - before - at));
        let line = format!("tracestate: {long}\r\n");
        let due = Due::child(PLAIN, "01", if carried { &long } else { "" });
        all.push(Case {
            dropped: u64::from(!carried),
            ..Case::new(name, incoming(PLAIN, &[parent("01"), padding, line]), due)
        });
    }
    let at = incoming(PLAIN, &[parent("01"), "X: \r\n".to_owned()]).len() - 2;
    let padding = format!("X: {}\r\n", "y".repeat(BLOCK - state().len() - at));
    all.push(Case {
        dropped: 1,
        ..Case::new(
            "a block that ends with its line",
            incoming(PLAIN, &[parent("01"), padding, state()]),
            Due::child(PLAIN, "01", ""),
        )
    });
    let empty = || "tracestate:\r\n".to_owned();
    let padding = format!("X: {}\r\n", "y".repeat(BLOCK));
    for (name, first, second) in [
        ("an empty one in an earlier block", empty(), state()),
        ("an empty one in a later block", state(), empty()),
    ] {
        let request = incoming(PLAIN, &[parent("01"), first, padding.clone(), second]);
        all.push(Case {
            dropped: 1,
            ..Case::new(name, request, Due::child(PLAIN, "01", ""))
        });
    }
    // With a line behind it: else its end would not be sure.
    let first = incoming(PLAIN, &[parent("01"), empty(), "X: y\r\n".to_owned()]);
    let first = first[..first.len() - 2].to_vec();
    all.push(Case {
        sends: vec![first, (state() + "\r\n").into()],
        dropped: 1,
        ..Case::new(
            "an empty one in an earlier read",
            Vec::new(),
            Due::child(PLAIN, "01", ""),
        )
    });
    let whole = incoming(PLAIN, &[parent("01"), state()]);
    for (name, behind, carried) in [
        ("its line cut by a read", 4, true),
        ("cut by a read behind its line", 2, false),
    ] {
        let (first, second) = whole.split_at(whole.len() - behind);
        let due = Due::child(PLAIN, "01", if carried { "a=1" } else { "" });
        all.push(Case {
            sends: vec![first.to_vec(), second.to_vec()],
            dropped: u64::from(!carried),
            ..Case::new(name, Vec::new(), due)
        });
    }
    // Which of two requests that came at one time a call is made for is not known.
    all.push(Case {
        due: vec![Due::root(PLAIN), Due::root(PLAIN)],
        ..Case::new("pipelined requests", whole.repeat(2), Due::root(PLAIN))
    });
    all
}

/// What the call has of its own.
fn calls() -> Vec<Case> {
    let case = |name, call: &str, due| {
        let request = incoming(call, &[parent("01"), "tracestate: a=1\r\n".to_owned()]);
        Case::new(name, request, due)
    };
    let with = |lines: &str| format!("GET /call HTTP/1.1\r\nHost: b\r\n{lines}\r\n");
    let forwarded = with(&(parent("01") + "tracestate: a=1\r\n"));
    let part = with(&parent("01"));
    let tunnel = "CONNECT b:80 HTTP/1.1\r\nHost: b\r\n\r\n";
    let own = with(&other_context());
    let own_state = with("TraceState: b=2\r\n");
    let padding = format!("X: {}\r\n", "y".repeat(BLOCK - KEPT - 100));
    let cut_state = with(&format!("{padding}tracestate: {}\r\n", "v".repeat(400)));
    let first = "GET /first HTTP/1.1\r\n\r\n";
    let pipelined = first.to_owned() + PLAIN;
    let parted = |call, state| Due::child(call, "01", state).written;
    vec![
        case("forwarded", &forwarded, Due::forwarded(&forwarded)),
        Case {
            withheld: 1,
            ..case("forwarded in part", &part, Due::forwarded(&part))
        },
        // What gets nothing is no loss of a state.
        case("a tunnel", tunnel, Due::unchanged(tunnel)),
        case("of another trace", &own, Due::unchanged(&own)),
        // Beside a `traceparent` of ours it would be taken for the state of our context.
        case("a state alone", &own_state, Due::unchanged(&own_state)),
        case("a state alone, cut", &cut_state, Due::unchanged(&cut_state)),
        // The state may be withheld yet, and where the second one begins must be known before.
        Case {
            withheld: 1,
            ..case(
                "pipelined calls",
                &pipelined,
                Due {
                    written: [parted(first, ""), parted(PLAIN, "a=1")].concat(),
                    states: 1,
                    ..Due::child(&pipelined, "01", "a=1")
                },
            )
        },
    ]
}

/// How the call is handed to the kernel.
fn pieces() -> Vec<Case> {
    let lines = [parent("01"), "tracestate: a=1,b=2\r\n".to_owned()];
    let case = |name, sends: &[&[&str]]| {
        let call = sends.concat().concat();
        let request = incoming_in(sends, &lines);
        Case::new(name, request, Due::child(&call, "01", "a=1,b=2"))
    };
    let long = format!(
        "GET /call HTTP/1.1\r\nHost: b\r\nX: {}\r\n\r\n",
        "y".repeat(5000)
    );
    let (start, rest) = long.split_at(700);
    let (most, end) = rest.split_at(rest.len() - 3);
    let (head, line) = PLAIN.split_at(PLAIN.len() - 2);
    let (head_and_one, line_and_one) = PLAIN.split_at(PLAIN.len() - 3);
    let (nearly, newline) = PLAIN.split_at(PLAIN.len() - 1);
    vec![
        case("the empty line alone", &[&[head], &[line]]),
        case(
            "the empty line and a byte",
            &[&[head_and_one], &[line_and_one]],
        ),
        case("more than a page", &[&[&long]]),
        case("several buffers", &[&[start, most, end]]),
        case("buffers, then the end", &[&[start, most], &[end]]),
        Case::new(
            "the empty line cut",
            incoming_in(&[&[nearly], &[newline]], &lines),
            Due::unchanged(PLAIN),
        ),
    ]
}
