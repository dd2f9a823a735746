//! That an option harms nobody.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Result, ensure};

use super::{
    super::inject::{send_cases, wire::recorder_on},
    hosts::{EXPERIMENTAL, Hosts, OPTION, on_the_wire, path, sources},
};
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    capture::Capture,
    collector::Collector,
    network::{self, Routed},
    wait_for,
};

/// Requests of every shape, over a path with small segments: not a byte is another one, and each request is accounted for.
pub(super) fn exact_bytes(context: &mut Context) -> Result<()> {
    let net = Routed::new()?;
    let address = SocketAddr::from(([10, 77, 2, 2], context.port()));
    let listener = network::inside(&net.server, || Ok(TcpListener::bind(address)?))?;
    let received = recorder_on(listener);
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(address.port())
        .arg("--tcp-option")
        .arg("--fault")
        .arg("no-handover")
        .start(context)?;
    let received = std::sync::Mutex::new(received);
    network::inside(&net.client, || {
        let received = received.lock().expect("nobody else locks it");
        send_cases(address, &received, false).map(drop)
    })?;
    let statistics = agent.stop()?;
    println!("{statistics}");
    let get = |name: &str| statistics.get(name);
    assert_eq!(
        get("options_written") + get("options_no_room") + get("options_unsent"),
        get("option_requests"),
        "{statistics}"
    );
    assert_eq!(get("options_no_room"), 0, "{statistics}");
    // Heads in several sends (their first bytes have left before the last ones are there), and the second one of a send.
    assert_eq!(get("options_unsent"), 4, "{statistics}");
    assert_eq!(
        get("options_received"),
        get("options_written"),
        "{statistics}"
    );
    assert_eq!(get("options_taken"), get("options_written"), "{statistics}");
    Ok(())
}

/// Something between the hosts drops every segment with an option that it does not know: requests wait for it, and arrive. After three connections the
/// agent stops for good.
pub(super) fn dropped_on_the_way(context: &mut Context) -> Result<()> {
    let hosts = Hosts::without_keepalive(context)?;
    hosts.net.drop_option(EXPERIMENTAL)?;
    let agents = hosts.agents(context, OPTION, OPTION)?;
    for id in 1..=3 {
        hosts.requests(id..=id)?;
    }
    wait_for(
        || agents[0].output(),
        PATIENCE,
        || agents[0].output().contains(ENDED).then_some(()),
    )?;
    let wire = Capture::start(&hosts.net.router)?;
    hosts.requests(4..=4)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    assert_eq!(seen, [("/b/4".to_owned(), None)]);
    hosts.collector.wait_for_spans(4 * 3, PATIENCE)?;
    let ([left, right], spans) = hosts.stop(agents)?;
    assert_eq!(sources(&spans, "threads"), ["root"; 4]);
    assert_eq!(left.get("option_sockets_given_up"), 3, "{left}");
    // Each request's was sent three times with it.
    assert_eq!(left.get("option_segments"), 9, "{left}");
    assert_eq!(left.get("options_carried"), 0, "{left}");
    assert_eq!(right.get("options_received"), 0, "{right}");
    assert_eq!(right.get("options_carried"), 1, "{right}");
    Ok(())
}

/// What the agent says when it ends the carrying.
const ENDED: &str = "no trace context is carried in a TCP option any more";

/// Where the self-test fails nothing is carried, it says why, and spans are made as before.
pub(super) fn refused_by_self_test(context: &mut Context) -> Result<()> {
    let hosts = Hosts::new(context)?;
    let agent = Setup::grpc(&hosts.collector)
        .arg("--tcp-option")
        .arg("--fault")
        .arg("self-test-fails")
        .arg("--cgroup")
        .arg(path("left"))
        .start(context)?;
    let wire = Capture::start(&hosts.net.router)?;
    hosts.requests(1..=3)?;
    hosts.collector.wait_for_spans(6, PATIENCE)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.iter().all(|(_, option)| option.is_none()), "{seen:?}");
    let output = agent.output();
    let told = "no trace context is carried in a TCP option reason=self-test: made to fail";
    ensure!(output.contains(told), "{output}");
    let statistics = agent.stop()?;
    for name in ["option_sockets", "option_requests", "options_carried"] {
        assert_eq!(statistics.get(name), 0, "{statistics}");
    }
    Ok(())
}
