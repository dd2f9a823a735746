//! The self-test while headers are written: what it does to connections when it passes again, and when it fails.

use anyhow::{Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{
    conversation::{Conversation, enrolled},
    existing::wait_for_counts,
    injects, refused,
};
use crate::{
    harness::{
        Context, PATIENCE,
        agent::{Agent, Setup},
        wait_for,
    },
    scenario::Scenario,
};

pub(in crate::scenario) const SCENARIOS: &[Scenario] = &[
    Scenario::full("safety_header_proven_again", proven_again),
    Scenario::full("safety_header_proof_fails_later", fails_later),
    Scenario::full("accounting_inject_proofs_not_made", not_made),
];

/// Connections that stay open.
const OPEN: usize = 3;

/// What the agent says when a self-test has failed while headers are written.
const STOPPED: &str = "no header is written any more";

/// What it says when one could not be made.
const NOT_MADE: &str = "the self-test of header injection could not be repeated";

/// An agent whose self-test is repeated when its counters are asked for, and connections with one request each; whether headers are written.
fn traced(context: &Context, faults: &[&str]) -> Result<(Conversation, Agent, bool)> {
    let mut conversation = Conversation::new(context)?;
    let mut setup = Setup::bare()
        .port(conversation.port)
        .arg("--inject")
        .arg("--fault")
        .arg("proof-on-report");
    for fault in faults {
        setup = setup.arg("--fault").arg(*fault);
    }
    let agent = setup.start(context)?;
    let injects = injects(&agent)?;
    for _ in 0..OPEN {
        conversation.connect()?;
    }
    conversation.ask(true)?;
    assert_eq!(enrolled()?, if injects { OPEN } else { 0 });
    Ok((conversation, agent, injects))
}

/// A repetition that passes disturbs nobody; and the end of the agent takes every socket out of the sockhash.
fn proven_again(context: &mut Context) -> Result<()> {
    let (mut conversation, agent, injects) = traced(context, &[])?;
    if injects {
        // Each look asks for one more.
        let proven = || {
            let report = agent.report().ok()?;
            report.get("inject_proofs").copied()
        };
        wait_for(|| agent.output(), PATIENCE, proven)?;
    }
    conversation.ask(true)?;
    let statistics = agent.stop()?;
    conversation.ask(false)?;
    conversation.end(injects)?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}", statistics.get("inject_inserted"));
    let open = OPEN as u64;
    for (name, expected) in [
        ("inject_inserted", 2 * open),
        ("inject_requests", 2 * open),
        ("inject_sockets", open),
        ("inject_let_go", open),
        ("inject_proofs_failed", 0),
        ("headers_written", 1),
    ] {
        assert_eq!(statistics.get(name), expected, "{name}\n{statistics}");
    }
    assert!(statistics.get("inject_proofs") > 0, "{statistics}");
    Ok(())
}

/// A repetition for which the agent has no file descriptor left says nothing about the kernel: it is counted and told, headers are written as before, and the
/// next one is made.
fn not_made(context: &mut Context) -> Result<()> {
    let (mut conversation, agent, injects) = traced(context, &[])?;
    let pid = Pid::from_raw(agent.pid().cast_signed());
    let none_left = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Nofile)
    };
    if injects {
        // What is open stays open (getrlimit(2)); SIGUSR1 needs nothing new.
        let before = prlimit(pid, Resource::Nofile, none_left)?;
        // Each look asks for one more.
        wait_for_counts(&agent, &[("inject_proofs_not_made", 1)])?;
        assert_eq!(enrolled()?, OPEN, "sockets were let go");
        conversation.ask(true)?;
        prlimit(pid, Resource::Nofile, before)?;
        wait_for_counts(&agent, &[("inject_proofs", 1)])?;
    }
    conversation.ask(true)?;
    let output = agent.output();
    let statistics = agent.stop()?;
    conversation.ask(false)?;
    conversation.end(injects)?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}", statistics.get("inject_inserted"));
    let told = |line: &&str| line.contains(NOT_MADE) && line.contains("WARN");
    let told = output.lines().filter(told).count() as u64;
    let not_made = statistics.get("inject_proofs_not_made");
    ensure!(not_made > 0 && told == not_made, "{told} times\n{output}");
    ensure!(!output.contains(STOPPED), "{output}");
    let open = OPEN as u64;
    for (name, expected) in [
        ("inject_inserted", 3 * open),
        ("inject_requests", 3 * open),
        ("inject_sockets", open),
        ("inject_let_go", open),
        ("inject_proofs_failed", 0),
        ("headers_written", 1),
    ] {
        assert_eq!(statistics.get(name), expected, "{name}\n{statistics}");
    }
    assert!(statistics.get("inject_proofs") > 0, "{statistics}");
    Ok(())
}

/// A repetition that fails ends the writing of headers, and nothing else: no socket stays enrolled, open connections go on, neither they nor new ones
/// get a header, spans are made, and the reason is told.
fn fails_later(context: &mut Context) -> Result<()> {
    let (mut conversation, agent, injects) = traced(context, &["repetition-broken"])?;
    agent.report()?;
    let told = || {
        let output = agent.output();
        let line = output.lines().find(|line| line.contains(STOPPED))?;
        Some(line.to_owned())
    };
    if injects {
        let line = wait_for(|| agent.output(), PATIENCE, told)?;
        let reason = "self-test: bytes differ: a header that was put in";
        ensure!(line.contains(reason) && line.contains("WARN"), "{line}");
        assert_eq!(enrolled()?, 0, "sockets stay");
    }
    conversation.connect()?;
    conversation.ask(false)?;
    assert_eq!(enrolled()?, 0, "a socket was enrolled later");
    conversation.ask(false)?;
    let statistics = agent.stop()?;
    conversation.end(injects)?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}", statistics.get("inject_inserted"));
    let open = OPEN as u64;
    for (name, expected) in [
        ("inject_proofs_failed", 1),
        ("inject_proofs", 0),
        ("headers_written", 0),
        ("inject_let_go", open),
        ("inject_sockets", open),
        ("inject_requests", open),
        ("inject_inserted", open),
        ("inject_unsent", 0),
        ("client_decisions", open + 2 * (open + 1)),
    ] {
        assert_eq!(statistics.get(name), expected, "{name}\n{statistics}");
    }
    Ok(())
}
