//! Requests of generated shapes: what is received is what was sent and exactly the lines that were due.

use anyhow::{Result, bail, ensure};

use super::{Lines, enrolled, refused, start};
use crate::harness::{
    Context,
    origin::{Reads, Recorder},
    requests::{compare::compare, due::Due, shapes::conversations},
};

/// The seed of all runs; a failure repeats.
const SEED: u64 = 0x5afe;

/// At least so many requests, in conversations one after the other.
pub(super) fn generated(context: &mut Context, requests: usize) -> Result<()> {
    let origin = Recorder::origin(context, Reads::Any)?;
    let (agent, collector, injects) = start(context, origin.port(), &[])?;
    let mut lines = Lines::default();
    let conversations = conversations(SEED, requests);
    for one in &conversations {
        let held = one.run(origin.port());
        let received = origin.received()?;
        let sent = one.bytes();
        let due = if injects {
            Due::of(&sent, Some(&one.ends()))
        } else {
            Due::default()
        };
        lines.add(&due, &sent, &received)?;
        held?;
    }
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    enrolled(&statistics, conversations.len());
    ensure!(lines.due.requests >= requests as u64, "too few requests");
    lines.settle(&statistics, &collector.spans())
}

/// A negative control: with the feature broken, the comparison of bytes fails.
pub(super) fn is_seen(context: &mut Context, fault: &str) -> Result<()> {
    let origin = Recorder::origin(context, Reads::Any)?;
    let (agent, _collector, injects) = start(context, origin.port(), &["--fault", fault])?;
    let mut compared = 0;
    for one in conversations(SEED, 30) {
        let sent = one.bytes();
        let due = Due::of(&sent, Some(&one.ends()));
        if due.lines.is_empty() {
            continue;
        }
        // The server or the client may stumble over what is damaged.
        let held = one.run(origin.port());
        let received = origin.received()?;
        let lines: &[usize] = if injects { &due.lines } else { &[] };
        match compare(&sent, lines, &received) {
            Ok(_) if injects => bail!("{fault} was not seen in {}", received.escape_ascii()),
            Ok(_) => held?,
            Err(error) => {
                ensure!(injects && error.to_string().contains("differ"), "{error}");
                compared += 1;
                // One is enough, and what follows may wait for answers that do not come.
                break;
            }
        }
    }
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}", statistics.get("inject_inserted"));
    ensure!(
        compared == 1 && statistics.get("inject_inserted") > 0,
        "{statistics}"
    );
    Ok(())
}
