//! Where no option is written, none is taken, or none finds room: each is counted, and nothing else changes.

use std::process::Command;

use anyhow::Result;
use rustix::process::Signal;

use super::hosts::{Hosts, OPTION, on_the_wire, sources};
use crate::harness::{
    Context, PATIENCE, Skip,
    agent::{Setup, Statistics},
    capture::Capture,
    collector::Collector,
    service, wait_for,
};

/// Nothing is written, each request is counted, and both sides begin traces of their own.
fn apart(context: &Context, left: &[&str], right: &[&str]) -> Result<([Statistics; 2], usize)> {
    const REQUESTS: usize = 5;
    let hosts = Hosts::new(context)?;
    let agents = hosts.agents(context, left, right)?;
    let wire = Capture::start(&hosts.net.router)?;
    hosts.requests(1..=REQUESTS)?;
    hosts.collector.wait_for_spans(REQUESTS * 3, PATIENCE)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    assert_eq!(seen.len(), REQUESTS, "{seen:?}");
    let (statistics, spans) = hosts.stop(agents)?;
    assert_eq!(sources(&spans, "threads"), ["root"; REQUESTS]);
    assert_eq!(statistics[1].get("options_taken"), 0);
    let with = seen.iter().filter(|(_, option)| option.is_some()).count();
    Ok((statistics, with))
}

pub(super) fn without_room(context: &mut Context) -> Result<()> {
    let cramped = ["--tcp-option", "--fault", "option-no-room"];
    let ([left, right], with) = apart(context, &cramped, OPTION)?;
    assert_eq!(with, 0);
    assert_eq!(left.get("option_requests"), 5, "{left}");
    assert_eq!(left.get("options_no_room"), 5, "{left}");
    assert_eq!(left.get("options_written"), 0, "{left}");
    assert_eq!(right.get("options_received"), 0, "{right}");
    Ok(())
}

/// Segments are signed: 20 bytes of their options, which leave no room. Both ends hear what was said, each request is counted.
pub(super) fn beside_signatures(context: &mut Context) -> Result<()> {
    let port = context.port();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .arg("--tcp-option")
        .start(context)?;
    let output = Command::new(service::program("python3")?)
        .arg(service::workloads().join("signed.py"))
        .args([port.to_string(), "3".to_owned()])
        .output()?;
    let (said, failed) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if failed.contains("Protocol not available") {
        return Err(Skip("this kernel has no signed segments".to_owned()).into());
    }
    assert_eq!(said, "3 answered\n", "{failed}");
    let statistics = agent.stop()?;
    assert_eq!(statistics.get("option_requests"), 3, "{statistics}");
    assert_eq!(statistics.get("options_no_room"), 3, "{statistics}");
    assert_eq!(statistics.get("option_segments"), 0, "{statistics}");
    Ok(())
}

pub(super) fn malformed(context: &mut Context) -> Result<()> {
    let broken = ["--tcp-option", "--fault", "option-malformed"];
    let ([_, right], with) = apart(context, &broken, OPTION)?;
    assert_eq!(with, 5);
    assert_eq!(right.get("options_malformed"), 5, "{right}");
    assert_eq!(right.get("options_received"), 0, "{right}");
    Ok(())
}

/// What comes from a network that is not trusted is not taken.
pub(super) fn untrusted(context: &mut Context) -> Result<()> {
    let elsewhere = ["--tcp-option", "--trust-context", "192.0.2.0/24"];
    let ([_, right], with) = apart(context, OPTION, &elsewhere)?;
    assert_eq!(with, 5);
    assert_eq!(right.get("options_untrusted"), 5, "{right}");
    assert_eq!(right.get("options_received"), 0, "{right}");
    Ok(())
}

/// Nothing is written towards a network that was not named.
pub(super) fn elsewhere(context: &mut Context) -> Result<()> {
    let elsewhere = ["--tcp-option", "--inject-to", "192.0.2.0/24"];
    let ([left, _], with) = apart(context, &elsewhere, OPTION)?;
    assert_eq!(with, 0);
    assert!(left.get("option_sockets_untrusted") >= 1, "{left}");
    assert_eq!(left.get("option_requests"), 0, "{left}");
    Ok(())
}

/// Two connections at a time, and tables with room for one: what finds none is counted, and its request is not joined.
pub(super) fn tables_full(context: &mut Context) -> Result<()> {
    let full = |fault: &'static str| ["--tcp-option", "--fault", fault];
    let [left, _] = two_connections(context, &full("offers-full"), OPTION)?;
    assert_eq!(left.get("option_sockets"), 1, "{left}");
    assert_eq!(left.get("option_sockets_refused"), 1, "{left}");
    assert_eq!(left.get("option_requests"), 2, "{left}");
    let [left, right] = two_connections(context, OPTION, &full("brought-full"))?;
    assert_eq!(left.get("options_written"), 3, "{left}");
    assert_eq!(right.get("options_received"), 2, "{right}");
    assert_eq!(right.get("options_full"), 1, "{right}");
    Ok(())
}

/// A request on a connection that is kept, then one on it and one on a second connection at the same time.
fn two_connections(context: &Context, left: &[&str], right: &[&str]) -> Result<[Statistics; 2]> {
    let hosts = Hosts::new(context)?;
    let agents = hosts.agents(context, left, right)?;
    hosts.requests(1..=1)?;
    // The server stands still until both calls are on their way.
    hosts.server.signal(Signal::STOP)?;
    let together = [hosts.request_meanwhile(2)?, hosts.request_meanwhile(3)?];
    let decided = || agents[0].report().ok()?.get("client_decisions").copied();
    wait_for(
        || format!("three calls decided: {:?}", decided()),
        PATIENCE,
        || (decided() == Some(3)).then_some(()),
    )?;
    hosts.server.signal(Signal::CONT)?;
    for request in together {
        assert_eq!(request.join().expect("the client does not panic")?, 200);
    }
    hosts.collector.wait_for_spans(3 * 3, PATIENCE)?;
    let (statistics, spans) = hosts.stop(agents)?;
    let joined = sources(&spans, "threads");
    let by = |source: &str| joined.iter().filter(|one| *one == source).count();
    assert_eq!((by("option"), by("root")), (2, 1), "{joined:?}");
    Ok(statistics)
}

/// Options for a process that is not traced: nobody takes them, and each is counted, those of the last four when the connection is over.
pub(super) fn unread(context: &mut Context) -> Result<()> {
    const REQUESTS: usize = 7;
    let hosts = Hosts::new(context)?;
    let agents = hosts.agents_of(context, OPTION, ("nobody", OPTION))?;
    hosts.requests(1..=REQUESTS)?;
    hosts.collector.wait_for_spans(REQUESTS * 2, PATIENCE)?;
    let ([left, right], spans) = hosts.stop(agents)?;
    assert!(spans.of("threads").is_empty(), "{}", spans.render());
    assert_eq!(left.get("options_written"), 7, "{left}");
    assert_eq!(right.get("options_received"), 7, "{right}");
    assert_eq!(right.get("options_unread"), 7, "{right}");
    assert_eq!(right.get("options_taken"), 0, "{right}");
    Ok(())
}
