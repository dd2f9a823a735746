//! That an option harms nobody.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
};

use anyhow::{Result, ensure};

use super::{
    super::inject::{send_cases, wire::recorder_on},
    hosts::{EXPERIMENTAL, Hosts, OPTION, on_the_wire, path, sources},
    path::{Ends, TOLD, count, exchange},
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
    // Connections that are closed as soon as their requests are sent say nothing against the path.
    assert_eq!(get("option_sockets_failed"), 0, "{statistics}");
    assert_eq!(get("option_peers_paused"), 0, "{statistics}");
    Ok(())
}

/// Something between the hosts drops every segment with an option that it does not know: one request waits for it, and arrives. The others go without, and
/// what the other host sends is still taken.
pub(super) fn dropped_on_the_way(context: &mut Context) -> Result<()> {
    let hosts = Hosts::without_keepalive(context)?;
    hosts.net.drop_option(EXPERIMENTAL)?;
    let agents = hosts.agents(context, OPTION, OPTION)?;
    hosts.requests(1..=1)?;
    wait_for(
        || agents[0].output(),
        PATIENCE,
        || agents[0].output().contains(TOLD).then_some(()),
    )?;
    let wire = Capture::start(&hosts.net.router)?;
    hosts.requests(2..=4)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    let expected: Vec<_> = (2..=4).map(|id| (format!("/b/{id}"), None)).collect();
    assert_eq!(seen, expected);
    hosts.collector.wait_for_spans(4 * 3, PATIENCE)?;
    let ([left, right], spans) = hosts.stop(agents)?;
    assert_eq!(sources(&spans, "threads"), ["root"; 4]);
    assert_eq!(left.get("option_sockets_given_up"), 1, "{left}");
    assert_eq!(left.get("option_peers_paused"), 1, "{left}");
    assert_eq!(left.get("option_sockets_paused"), 3, "{left}");
    assert_eq!(left.get("option_sockets_failed"), 0, "{left}");
    // It was sent three times with it.
    assert_eq!(left.get("option_segments"), 3, "{left}");
    assert_eq!(left.get("options_carried"), 1, "{left}");
    assert_eq!(right.get("options_received"), 0, "{right}");
    assert_eq!(right.get("options_carried"), 1, "{right}");
    Ok(())
}

/// An agent that is killed leaves the wish for callbacks on sockets: they go on without options, and the next agent carries on connections made from then on.
pub(super) fn kill_minus_nine(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    let agent = ends.agent(context, &[])?;
    let [mut client, mut server] = ends.connect()?;
    exchange(&mut client, &mut server, "/b/1")?;
    assert_eq!(count(&agent, "options_taken")?, 1);
    agent.kill_hard()?;
    let wire = Capture::start(&ends.net.router)?;
    exchange(&mut client, &mut server, "/b/2")?;
    let [mut other, mut there] = ends.connect()?;
    exchange(&mut other, &mut there, "/b/3")?;
    let agent = ends.agent(context, &[])?;
    exchange(&mut client, &mut server, "/b/4")?;
    exchange(&mut other, &mut there, "/b/5")?;
    let [mut newest, mut there] = ends.connect()?;
    exchange(&mut newest, &mut there, "/b/6")?;
    assert_eq!(count(&agent, "options_taken")?, 1);
    let seen = on_the_wire(&wire.stop_segments()?);
    let with: Vec<_> = seen
        .iter()
        .map(|(path, option)| (path.as_str(), option.is_some()))
        .collect();
    let without = |path| (path, false);
    assert_eq!(
        with,
        [
            without("/b/2"),
            without("/b/3"),
            without("/b/4"),
            without("/b/5"),
            ("/b/6", true)
        ]
    );
    ends.stop(agent).map(drop)
}

/// A connection that speaks no HTTP runs the callbacks for its first segments only.
pub(super) fn quiet(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    let agent = ends.agent(context, &[])?;
    let [mut client, mut server] = ends.connect()?;
    let mut byte = [0];
    for _ in 0..100 {
        client.write_all(b"?")?;
        server.read_exact(&mut byte)?;
        server.write_all(b"!")?;
        client.read_exact(&mut byte)?;
    }
    assert_eq!(count(&agent, "option_sockets_quiet")?, 1);
    // Another one is not affected.
    let [mut client, mut server] = ends.connect()?;
    exchange(&mut client, &mut server, "/b/1")?;
    let statistics = ends.stop(agent)?;
    assert_eq!(statistics.get("options_taken"), 1, "{statistics}");
    assert_eq!(statistics.get("option_sockets_quiet"), 1, "{statistics}");
    Ok(())
}

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
