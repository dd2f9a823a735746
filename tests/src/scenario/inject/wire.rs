//! What is sent, what must arrive, and a server that keeps what does.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
};

use anyhow::{Result, bail, ensure};

use crate::harness::Context;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Bytes of the line that is put in.
pub(super) const LINE: usize = 70;

/// One connection: what is sent, call by call, and where lines are due.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) sends: Vec<Vec<u8>>,
    /// Offsets in all that is sent.
    pub(super) due: Vec<usize>,
}

fn head(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n")
}

/// Cases whose lines are due at the end of each head of `heads`, which lie in the bytes one after the other from `from` on.
pub(super) fn cases() -> Vec<Case> {
    let one = |name, sends: Vec<Vec<u8>>| {
        let all = sends.concat();
        let end = position(&all, b"\r\n\r\n").expect("a head ends") + 2;
        Case {
            name,
            sends,
            due: vec![end],
        }
    };
    let none = |name, sends: Vec<Vec<u8>>| Case {
        name,
        sends,
        due: Vec::new(),
    };
    let mut all = vec![
        one("plain", vec![head("/plain", "").into()]),
        one(
            "no header at all",
            vec![b"GET /bare HTTP/1.1\r\n\r\n".into()],
        ),
    ];
    for length in [100, 1_000, 1_023, 1_024, 1_025, 4_096, 8_000, 15_900] {
        let padding = "y".repeat(length - head("/padded", "X: \r\n").len());
        let text = head("/padded", &format!("X: {padding}\r\n"));
        all.push(one("padded", vec![text.into()]));
    }
    let text = head("/pieces", "A: b\r\nC: d\r\n");
    all.push(one(
        "byte by byte",
        text.as_bytes()[..text.len() - 2]
            .iter()
            .map(|byte| vec![*byte])
            .chain([b"\r\n".to_vec()])
            .collect(),
    ));
    all.push(one(
        "line by line",
        text.split_inclusive('\n')
            .map(|line| line.as_bytes().to_vec())
            .collect(),
    ));
    for body in [1, 5_000, 300_000] {
        let head = format!("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n");
        // The body looks like a request.
        let content = head.repeat(body / head.len() + 1).into_bytes();
        let content = content[..body].to_vec();
        all.push(one(
            "head and body in one send",
            vec![[head.clone().into_bytes(), content.clone()].concat()],
        ));
        all.push(one("head, then body", vec![head.into_bytes(), content]));
    }
    all.push(one(
        "chunked",
        vec![
            b"POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"
                .into(),
            b"lo\r\n0\r\n\r\n".into(),
        ],
    ));
    let (first, second) = (head("/first", ""), head("/second", "D: e\r\n"));
    all.push(Case {
        name: "one after the other",
        sends: vec![first.clone().into(), second.clone().into()],
        due: vec![first.len() - 2, first.len() + second.len() - 2],
    });
    all.push(Case {
        name: "pipelined",
        sends: vec![format!("{first}{second}").into()],
        due: vec![first.len() - 2, first.len() + second.len() - 2],
    });
    let value = format!("00-{TRACE}-{PARENT}-01");
    for (name, lines) in [
        ("its own", format!("traceparent: {value}\r\n")),
        ("its own, other case", format!("TraceParent:{value}\r\n")),
        ("malformed", "traceparent: 00-x\r\n".to_owned()),
        ("empty", "traceparent:\r\n".to_owned()),
        (
            "twice",
            format!("traceparent: {value}\r\ntraceparent: {value}\r\n"),
        ),
    ] {
        all.push(none(name, vec![head("/own", &lines).into()]));
    }
    all.push(none(
        "bare line ends",
        vec![b"GET /lf HTTP/1.1\nHost: a\n\n".into()],
    ));
    all.push(none(
        "the empty line cut",
        vec![b"GET /cut HTTP/1.1\r\nHost: a\r\n\r".into(), b"\n".into()],
    ));
    all.push(none(
        "no HTTP",
        vec![b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".into()],
    ));
    all.push(none(
        "HTTP/2",
        vec![b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".into()],
    ));
    all.push(none(
        "CONNECT",
        vec![b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".into()],
    ));
    all
}

pub(super) fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// A server that keeps what arrives on each connection until it ends, and answers each head and nothing else.
pub(super) fn recorder(context: &Context) -> Result<(u16, Receiver<Vec<u8>>)> {
    let port = context.port();
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    Ok((port, recorder_on(listener)))
}

/// The same on a listener that is there.
pub(in crate::scenario) fn recorder_on(listener: TcpListener) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            // A connection that stays open holds no other one up.
            thread::spawn(move || sender.send(record(stream).unwrap_or_default()));
        }
    });
    receiver
}

fn record(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut answered = false;
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&chunk[..count]);
        if !answered && (position(&all, b"\r\n\r\n").is_some() || position(&all, b"\n\n").is_some())
        {
            answered = true;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        }
    }
}

/// What was written into a request.
pub(in crate::scenario) struct Written {
    pub(super) trace_id: String,
    pub(super) span_id: String,
}

/// Compares what arrived with what was sent; lines must be at the places that are due and nowhere else.
pub(super) fn compare(case: &Case, received: &[u8], injects: bool) -> Result<Vec<Written>> {
    let sent = case.sends.concat();
    let due: &[usize] = if injects { &case.due } else { &[] };
    let mut written = Vec::new();
    let (mut from, mut at) = (0, 0);
    for place in due {
        let before = &sent[from..*place];
        ensure!(
            received.get(at..at + before.len()) == Some(before),
            "{}: bytes before the line differ:\n{}",
            case.name,
            received.escape_ascii()
        );
        at += before.len();
        let line = received.get(at..at + LINE).map(String::from_utf8_lossy);
        let line = line.unwrap_or_default().into_owned();
        let value = line
            .strip_prefix("traceparent: 00-")
            .and_then(|rest| rest.strip_suffix("-03\r\n"))
            .and_then(|ids| ids.split_once('-'))
            .filter(|(trace_id, span_id)| trace_id.len() == 32 && span_id.len() == 16);
        let Some((trace_id, span_id)) = value else {
            bail!("{}: no line at {at}: {line:?}", case.name);
        };
        written.push(Written {
            trace_id: trace_id.to_owned(),
            span_id: span_id.to_owned(),
        });
        at += LINE;
        from = *place;
    }
    ensure!(
        received.get(at..) == Some(&sent[from..]),
        "{}: bytes differ, {} sent, {} received:\n{}",
        case.name,
        sent.len(),
        received.len(),
        received[..received.len().min(400)].escape_ascii()
    );
    Ok(written)
}
