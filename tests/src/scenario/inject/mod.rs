//! Trace context written into requests: exactly the bytes that are due, and nothing where the kernel is not fit for it.
//!
//! What is sent and must arrive stands in [`wire`]. On a kernel that fails the agent's self-test the same requests prove the refusal: no socket is enrolled, no byte is added.

mod clients;
mod conversation;
pub(super) mod existing;
pub(super) mod hosts;
pub(super) mod limits;
pub(super) mod proofs;
mod queue;
pub(super) mod rights;
pub(super) mod state;
mod unsampled;
pub(super) mod wire;

use std::{
    io::{IoSlice, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::mpsc::Receiver,
    time::Duration,
};

use anyhow::{Result, bail, ensure};

use self::wire::{Written, cases, compare, recorder};
use super::Scenario;
use crate::harness::{
    Context, PATIENCE, Refused,
    agent::{Agent, Setup, Statistics},
    assert_text,
    collector::Collector,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("context_header_exact_bytes", |context| {
        exact_bytes(context, &[])
    }),
    Scenario::core("context_header_between_hosts", hosts::between_hosts),
    Scenario::full("context_header_of_unsampled", unsampled::flags),
    Scenario::full("safety_header_of_real_clients", clients::real_clients),
    Scenario::full("safety_header_narrow_send_queue", queue::narrow_send_queue),
    Scenario::full("safety_header_refused_by_self_test", |context| {
        let (injects, statistics) = run_cases(context, &["--fault", "self-test-fails"])?;
        ensure!(!injects, "the self-test failed, and headers are written");
        none_enrolled(&statistics)
    }),
    Scenario::full("safety_header_kill_minus_nine", clients::kill_minus_nine),
    Scenario::full("safety_header_twice_is_seen", |context| {
        is_seen(context, "inject-twice")
    }),
    Scenario::full("safety_header_late_is_seen", |context| {
        is_seen(context, "inject-late")
    }),
    Scenario::full("safety_header_loss_is_seen", |context| {
        is_seen(context, "inject-loss")
    }),
    Scenario::full("safety_header_of_another_send", of_another_send),
];

/// Why a scenario ends early on a kernel that fails the self-test.
const REFUSAL: &str = "no header is written on this kernel";

/// Whether the agent writes headers on this kernel.
pub(super) fn injects(agent: &Agent) -> Result<bool> {
    let output = agent.output();
    let refused = output.contains("no trace context is written into requests");
    let works = output.contains("trace context is written into requests on connections");
    ensure!(
        refused != works,
        "the agent does not say whether it writes headers:\n{output}"
    );
    for line in output.lines().filter(|_| refused) {
        if let Some((_, reason)) = line.split_once("reason=") {
            println!("refused: {reason}");
        }
    }
    Ok(works)
}

/// Sends every case on a connection of its own, and gives what each got, and whether headers are written.
fn run_cases(context: &mut Context, arguments: &[&str]) -> Result<(bool, Statistics)> {
    let (port, received) = recorder(context)?;
    let collector = Collector::start()?;
    let mut setup = Setup::grpc(&collector).port(port).arg("--inject");
    for argument in arguments {
        setup = setup.arg(*argument);
    }
    let agent = setup.start(context)?;
    let injects = injects(&agent)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let written = send_cases(address, &received, injects);
    let statistics = agent.stop()?;
    let written = written?;
    if injects {
        println!("injected: {}", written.len());
        let spans = collector.spans();
        for line in &written {
            let of_line = spans
                .clients()
                .filter(|span| span.span_id() == line.span_id);
            assert_eq!(
                of_line.only().trace_id(),
                line.trace_id,
                "the header names a span that was exported"
            );
        }
        assert_eq!(
            statistics.get("inject_inserted"),
            written.len() as u64,
            "{statistics}"
        );
        balance(&statistics);
    }
    Ok((injects, statistics))
}

/// Sends every case on a connection of its own to a recorder, and gives the lines that were written into them, which must be those that are due.
pub(super) fn send_cases(
    address: SocketAddr,
    received: &Receiver<Vec<u8>>,
    injects: bool,
) -> Result<Vec<Written>> {
    let mut written = Vec::new();
    let mut outcome = Ok(());
    for case in cases() {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        for send in &case.sends {
            if case.name == "one after the other" && send.as_slice() != case.sends[0].as_slice() {
                let mut answer = [0; 40];
                stream.read_exact(&mut answer)?;
            }
            // Several buffers, where there are many bytes.
            let parts: Vec<_> = send.chunks(9_000).map(IoSlice::new).collect();
            let mut sent = stream.write_vectored(&parts)?;
            while sent < send.len() {
                sent += stream.write(&send[sent..])?;
            }
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        let bytes = received.recv_timeout(PATIENCE)?;
        match compare(&case, &bytes, injects) {
            Ok(lines) => written.extend(lines),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome.map(|()| written)
}

/// Each request on an enrolled connection has one outcome.
pub(super) fn balance(statistics: &Statistics) {
    let outcomes = [
        "inserted",
        "rewritten",
        "own_context",
        "unproven",
        "split",
        "line_ends",
        "tunnel",
        "no_room",
        "beyond_limit",
        "unsent",
        "other_send",
        "changed",
        "refused",
    ];
    let sum: u64 = outcomes
        .iter()
        .map(|name| statistics.get(&format!("inject_{name}")))
        .sum();
    assert_eq!(sum, statistics.get("inject_requests"), "{statistics}");
    for name in ["unsent", "other_send", "changed", "refused", "no_room"] {
        assert_eq!(statistics.get(&format!("inject_{name}")), 0, "{statistics}");
    }
}

/// Ends a scenario on a kernel where no header is written, when that was so.
pub(super) fn refused(statistics: &Statistics) -> Result<()> {
    none_enrolled(statistics)?;
    Err(Refused(REFUSAL.to_owned()).into())
}

/// Nothing was looked at for a header, and no byte written.
pub(super) fn none_enrolled(statistics: &Statistics) -> Result<()> {
    for name in [
        "inject_sockets",
        "inject_requests",
        "inject_inserted",
        "inject_bytes",
    ] {
        ensure!(statistics.get(name) == 0, "{statistics}");
    }
    Ok(())
}

fn exact_bytes(context: &mut Context, arguments: &[&str]) -> Result<()> {
    let (injects, statistics) = run_cases(context, arguments)?;
    if !injects {
        return refused(&statistics);
    }
    let connections = cases().len() as u64;
    assert_eq!(
        statistics.get("inject_sockets"),
        connections,
        "{statistics}"
    );
    assert_eq!(statistics.get("inject_own_context"), 5, "{statistics}");
    assert_eq!(statistics.get("inject_line_ends"), 1, "{statistics}");
    assert_eq!(statistics.get("inject_split"), 1, "{statistics}");
    assert_eq!(statistics.get("inject_tunnel"), 1, "{statistics}");
    Ok(())
}

/// What is left from another send of the same thread and length is not written.
fn of_another_send(context: &mut Context) -> Result<()> {
    let (port, received) = recorder(context)?;
    let agent = Setup::bare()
        .port(port)
        .arg("--inject")
        .arg("--fault")
        .arg("inject-stale")
        .start(context)?;
    let injects = injects(&agent)?;
    let head = "GET /stale HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    for _ in 0..8 {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(head.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let bytes = received.recv_timeout(PATIENCE)?;
        assert_text("the request", &String::from_utf8_lossy(&bytes), head);
    }
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    assert_eq!(statistics.get("inject_requests"), 8, "{statistics}");
    assert_eq!(statistics.get("inject_other_send"), 8, "{statistics}");
    assert_eq!(statistics.get("inject_bytes"), 0, "{statistics}");
    Ok(())
}

/// A negative control: with the feature broken, the comparison of bytes fails.
fn is_seen(context: &mut Context, fault: &str) -> Result<()> {
    match run_cases(context, &["--fault", fault]) {
        Ok((false, statistics)) => refused(&statistics),
        Ok((true, _)) => bail!("{fault} was not seen"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(
                text.contains("differ") || text.contains("no line at"),
                "{text}"
            );
            Ok(())
        }
    }
}
