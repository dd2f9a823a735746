//! `tracestate` beside the `traceparent` that is written.

use std::{io::Write as _, net::TcpStream};

use anyhow::{Result, bail, ensure};

use super::{LINE, balance, injects, position, recorder, refused};
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, service,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A request to a service that calls another one on its behalf.
struct Case {
    name: &'static str,
    sends: Vec<String>,
    /// The state that goes with the call.
    state: Option<String>,
    /// There was one that does not.
    dropped: bool,
}

fn cases() -> Vec<Case> {
    let request = |fields: &str| format!("GET /f/1 HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n");
    let parent = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n");
    let value = |length: usize| format!("a={}", "v".repeat(length - 2));
    let carried = |name, before: &str, state: &str, behind: &str| Case {
        name,
        sends: vec![request(&format!("{before}{state}{behind}\r\n{parent}"))],
        state: Some(state.to_owned()),
        dropped: false,
    };
    let not = |name, dropped, sends: Vec<String>| Case {
        name,
        sends,
        state: None,
        dropped,
    };
    let with = |state: &str| request(&format!("{parent}{state}"));
    let padding = format!("X: {}\r\n", "y".repeat(700));
    let cut = with("tracestate: a=1\r\n");
    let [inside, behind] = [cut.len() - 4, cut.len() - 2].map(|at| cut.split_at(at));
    vec![
        carried(
            "plain",
            "tracestate: ",
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "",
        ),
        carried(
            "blanks and letter case",
            "TraceState:\t ",
            "a=1, b=2",
            " \t",
        ),
        carried("one byte", "tracestate:", "a", ""),
        carried("the longest", "tracestate: ", &value(256), ""),
        carried(
            "in another block than the end",
            "tracestate: ",
            "a=1",
            &format!("\r\n{padding}{padding}Y: z"),
        ),
        Case {
            name: "its line cut by a read",
            sends: vec![inside.0.to_owned(), inside.1.to_owned()],
            state: Some("a=1".to_owned()),
            dropped: false,
        },
        not("none", false, vec![with("")]),
        not(
            "too long",
            true,
            vec![with(&format!("tracestate: {}\r\n", value(257)))],
        ),
        not(
            "two lines",
            true,
            vec![with("tracestate: a=1\r\ntracestate: b=2\r\n")],
        ),
        not(
            "a control character",
            true,
            vec![with("tracestate: a=\u{1}\r\n")],
        ),
        not(
            "cut by a read behind its line",
            true,
            vec![behind.0.to_owned(), behind.1.to_owned()],
        ),
    ]
}

pub(super) fn written_beside(context: &mut Context) -> Result<()> {
    let (backend, received) = recorder(context)?;
    let front = context.port();
    let address = format!("127.0.0.1:{backend}");
    let service = service::python(context, "threads.py", front, &["--backend", &address])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--inject")
        .arg("--pid")
        .arg(service.pid().to_string())
        .start(context)?;
    let injects = injects(&agent)?;
    let cases = cases();
    let mut states = 0;
    for case in &cases {
        let mut connection = Connection::open(front)?;
        for send in &case.sends {
            connection.send(send.as_bytes())?;
            connection.wait_until_read(front)?;
        }
        ensure!(connection.response("GET")?.status == 200, "{}", case.name);
        // The service calls from the thread of this connection, and ends its own with it.
        drop(connection);
        let call = received.recv_timeout(PATIENCE)?;
        check(case, &call, injects)?;
        states += u64::from(case.state.is_some());
    }
    // What comes without a `traceparent` belongs to no context.
    let mut stream = TcpStream::connect(("127.0.0.1", front))?;
    stream.write_all(
        b"GET /f/1 HTTP/1.1\r\nHost: a\r\ntracestate: a=1\r\nConnection: close\r\n\r\n",
    )?;
    let call = received.recv_timeout(PATIENCE)?;
    ensure!(
        position(&call, b"tracestate").is_none(),
        "{}",
        call.escape_ascii()
    );
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}, {states} with a state", cases.len() + 1);
    assert_eq!(
        statistics.get("inject_inserted"),
        cases.len() as u64 + 1,
        "{statistics}"
    );
    assert_eq!(statistics.get("inject_states"), states, "{statistics}");
    let dropped = cases.iter().filter(|case| case.dropped).count() as u64;
    assert_eq!(
        statistics.get("inject_states_dropped"),
        dropped,
        "{statistics}"
    );
    balance(&statistics);
    Ok(())
}

/// The call has the line of its context and behind it the one of its state, in front of its empty line, and nothing else of that kind.
fn check(case: &Case, call: &[u8], injects: bool) -> Result<()> {
    let text = String::from_utf8_lossy(call);
    let Some(head) = text.strip_suffix("\r\n\r\n") else {
        bail!("{}: no whole head: {text:?}", case.name);
    };
    let mut lines: Vec<&str> = head.split("\r\n").collect();
    if injects {
        if let Some(state) = &case.state {
            let line = lines.pop().unwrap_or_default();
            ensure!(
                line == format!("tracestate: {state}"),
                "{}: {text:?}",
                case.name
            );
        }
        let line = lines.pop().unwrap_or_default();
        let due = format!("traceparent: 00-{TRACE}-");
        ensure!(
            line.starts_with(&due) && line.ends_with("-01") && line.len() + 2 == LINE,
            "{}: {text:?}",
            case.name
        );
    }
    for line in lines {
        ensure!(!line.starts_with("trace"), "{}: {text:?}", case.name);
    }
    Ok(())
}
