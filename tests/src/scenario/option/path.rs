//! Paths on which options do not arrive: what it costs the first request, that it costs no other one, and that it is tried again.
//!
//! Client and server are the scenario itself, on both sides of a router, so that each end can do what a process or a network would.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Result, bail};
use rustix::net::sockopt;

use super::hosts::{EXPERIMENTAL, on_the_wire};
use crate::harness::{
    Context, PATIENCE,
    agent::{Agent, Setup, Statistics},
    capture::Capture,
    collector::Collector,
    network::{self, Routed},
    wait_for,
};

/// Both ends.
pub(super) struct Ends {
    pub(super) net: Routed,
    pub(super) address: SocketAddr,
    listener: TcpListener,
    collector: Collector,
}

/// How a request ends.
#[derive(Clone, Copy)]
enum End {
    /// The server reads it and answers.
    Answered,
    /// The server sends a reset, although it has not got a byte.
    Reset,
    /// The client closes the connection when it has waited for so long.
    Deadline(Duration),
}

impl Ends {
    pub(super) fn new(context: &Context) -> Result<Self> {
        let net = Routed::new()?;
        Self::at(net, SocketAddr::from(([10, 77, 2, 2], context.port())))
    }

    pub(super) fn at(net: Routed, address: SocketAddr) -> Result<Self> {
        let listener = network::inside(&net.server, || Ok(TcpListener::bind(address)?))?;
        Ok(Self {
            net,
            address,
            listener,
            collector: Collector::start()?,
        })
    }

    pub(super) fn agent(&self, context: &Context, arguments: &[&str]) -> Result<Agent> {
        let setup = Setup::grpc(&self.collector)
            .port(self.address.port())
            .arg("--tcp-option")
            .arg("--fault")
            .arg("no-handover");
        let setup = arguments.iter().fold(setup, |setup, one| setup.arg(*one));
        setup.start(context)
    }

    pub(super) fn connect(&self) -> Result<[TcpStream; 2]> {
        let client = network::inside(&self.net.client, || Ok(TcpStream::connect(self.address)?))?;
        let (server, _) = self.listener.accept()?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_nodelay(true)?;
        }
        Ok([client, server])
    }

    /// A request on a connection of its own.
    fn request(&self, agent: &Agent, path: &str, end: End) -> Result<()> {
        let [client, server] = self.connect()?;
        self.request_on(agent, client, server, path, end)
    }

    fn request_on(
        &self,
        agent: &Agent,
        mut client: TcpStream,
        mut server: TcpStream,
        path: &str,
        end: End,
    ) -> Result<()> {
        let before = count(agent, "option_requests")?;
        match end {
            End::Answered => exchange(&mut client, &mut server, path),
            End::Reset => {
                client.write_all(request(path).as_bytes())?;
                // Nothing else has got one meanwhile.
                assert_eq!(count(agent, "option_requests")?, before + 1);
                reset(client, server)
            }
            End::Deadline(time) => {
                client.write_all(request(path).as_bytes())?;
                client.set_read_timeout(Some(time))?;
                match client.read(&mut [0]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
                    other => bail!("not held up: {other:?}"),
                }
            }
        }
    }

    /// No parent comes from anywhere else; each request that should have got an option is accounted for.
    pub(super) fn stop(self, agent: Agent) -> Result<Statistics> {
        let statistics = agent.stop()?;
        println!("{statistics}");
        let get = |name: &str| statistics.get(name);
        assert_eq!(
            get("options_written") + get("options_no_room") + get("options_unsent"),
            get("option_requests"),
            "{statistics}"
        );
        Ok(statistics)
    }
}

/// The server ends a connection with a reset, and the client hears of it.
fn reset(mut client: TcpStream, server: TcpStream) -> Result<()> {
    sockopt::set_socket_linger(&server, Some(Duration::ZERO))?;
    drop(server);
    match client.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("no reset: {other:?}"),
    }
}

/// A request's head.
fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: there\r\n\r\n")
}

/// A request that is read and answered.
pub(super) fn exchange(client: &mut TcpStream, server: &mut TcpStream, path: &str) -> Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let request = request(path);
    client.write_all(request.as_bytes())?;
    let mut received = vec![0; request.len()];
    server.read_exact(&mut received)?;
    assert_eq!(received, request.as_bytes());
    server.write_all(ANSWER)?;
    let mut answer = vec![0; ANSWER.len()];
    client.read_exact(&mut answer)?;
    assert_eq!(answer, ANSWER);
    Ok(())
}

pub(super) fn count(agent: &Agent, name: &str) -> Result<u64> {
    Ok(agent.report()?.get(name).copied().unwrap_or(0))
}

/// Something answers segments with an option with a reset. A path that is known to pass them is given up after three connections in a row, and one that was
/// in use before does not count.
pub(super) fn answered_with_reset(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    let agent = ends.agent(context, &[])?;
    let [mut client, mut server] = ends.connect()?;
    exchange(&mut client, &mut server, "/b/0")?;
    ends.net.drop_option(EXPERIMENTAL)?;
    ends.request_on(&agent, client, server, "/b/1", End::Reset)?;
    assert_eq!(count(&agent, "option_sockets_failed")?, 0);
    for id in 2..=3 {
        ends.request(&agent, &format!("/b/{id}"), End::Reset)?;
    }
    assert_eq!(count(&agent, "option_peers_paused")?, 0);
    // Several that are under way when it is given up.
    let mut together = Vec::new();
    for id in 4..=8 {
        let [mut client, server] = ends.connect()?;
        client.write_all(request(&format!("/b/{id}")).as_bytes())?;
        together.push((client, server));
    }
    for (client, server) in together {
        reset(client, server)?;
    }
    given_up(&agent, 7)?;
    let statistics = unharmed(ends, agent, 9)?;
    assert_eq!(statistics.get("options_written"), 9, "{statistics}");
    // It says nothing of other peers.
    assert_eq!(statistics.get("option_pauses"), 0, "{statistics}");
    Ok(())
}

/// The same where nothing is known of the path: the first connection is enough.
pub(super) fn first_answered_with_reset(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    ends.net.drop_option(EXPERIMENTAL)?;
    let agent = ends.agent(context, &[])?;
    ends.request(&agent, "/b/1", End::Reset)?;
    given_up(&agent, 1)?;
    let statistics = unharmed(ends, agent, 2)?;
    assert_eq!(statistics.get("options_written"), 1, "{statistics}");
    Ok(())
}

/// A process that waits for less than three retransmissions, on a path that drops segments with an option: the first of its requests fails, and no other one.
pub(super) fn short_deadline(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    ends.net.drop_option(EXPERIMENTAL)?;
    let agent = ends.agent(context, &[])?;
    let deadline = End::Deadline(Duration::from_millis(150));
    ends.request(&agent, "/b/1", deadline)?;
    given_up(&agent, 1)?;
    let statistics = unharmed(ends, agent, 2)?;
    assert_eq!(statistics.get("option_sockets_given_up"), 0, "{statistics}");
    Ok(())
}

/// A process that does not wait at all, on a path that drops segments with an option: what its socket sends on its own tells that they do not arrive.
pub(super) fn left_to_the_kernel(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    ends.net.drop_option(EXPERIMENTAL)?;
    let agent = ends.agent(context, &[])?;
    let [mut client, server] = ends.connect()?;
    client.write_all(request("/b/1").as_bytes())?;
    drop(client);
    given_up(&agent, 0)?;
    drop(server);
    let statistics = unharmed(ends, agent, 2)?;
    assert_eq!(statistics.get("option_sockets_given_up"), 1, "{statistics}");
    assert_eq!(statistics.get("option_segments"), 3, "{statistics}");
    Ok(())
}

/// A process that ends its connections with a reset before anything was acknowledged says nothing of the path.
pub(super) fn own_abort(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    ends.net.drop_option(EXPERIMENTAL)?;
    let agent = ends.agent(context, &[])?;
    let [mut client, mut server] = ends.connect()?;
    sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
    client.write_all(request("/b/1").as_bytes())?;
    drop(client);
    match server.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => bail!("no reset: {other:?}"),
    }
    ends.net.drop_nothing()?;
    // At once: it does not hold up the next one either.
    ends.request(&agent, "/b/2", End::Answered)?;
    let statistics = ends.stop(agent)?;
    assert_eq!(statistics.get("option_sockets_failed"), 0, "{statistics}");
    assert_eq!(statistics.get("option_peers_paused"), 0, "{statistics}");
    assert_eq!(statistics.get("options_written"), 2, "{statistics}");
    assert_eq!(statistics.get("options_taken"), 1, "{statistics}");
    Ok(())
}

/// Something takes segments with an option, and answers them with a reset afterwards.
pub(super) fn taken_and_reset(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    let agent = ends.agent(context, &[])?;
    for id in 1..=3 {
        assert_eq!(count(&agent, "option_peers_paused")?, 0);
        ends.request(&agent, &format!("/b/{id}"), End::Reset)?;
    }
    given_up(&agent, 3)?;
    let statistics = unharmed(ends, agent, 4)?;
    assert_eq!(statistics.get("options_written"), 3, "{statistics}");
    Ok(())
}

/// That options arrive on this host says nothing of the paths to others: the first failure there spares all of which nothing is known.
pub(super) fn same_host(context: &mut Context) -> Result<()> {
    let mut ends = Ends::new(context)?;
    ends.net.drop_option(EXPERIMENTAL)?;
    let agent = ends.agent(context, &[])?;
    let far = ends.address;
    let near = SocketAddr::from(([127, 0, 0, 1], far.port()));
    let there = network::inside(&ends.net.client, || Ok(TcpListener::bind(near)?))?;
    let here = std::mem::replace(&mut ends.listener, there);
    ends.address = near;
    ends.request(&agent, "/b/1", End::Answered)?;
    (ends.listener, ends.address) = (here, far);
    ends.request(&agent, "/b/2", End::Reset)?;
    given_up(&agent, 1)?;
    let statistics = unharmed(ends, agent, 3)?;
    assert_eq!(statistics.get("options_written"), 2, "{statistics}");
    assert_eq!(statistics.get("option_pauses"), 1, "{statistics}");
    Ok(())
}

/// Requests that are made at one time, to a peer of which nothing is known, on a path that drops segments with an option: one of them waits.
pub(super) fn one_tries(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    ends.net.drop_option(EXPERIMENTAL)?;
    let agent = ends.agent(context, &[])?;
    let mut both = [ends.connect()?, ends.connect()?, ends.connect()?];
    both[0][0].write_all(request("/b/1").as_bytes())?;
    for [client, server] in &mut both[1..] {
        client.set_read_timeout(Some(Duration::from_secs(1)))?;
        exchange(client, server, "/b/2")?;
    }
    drop(both);
    let statistics = ends.stop(agent)?;
    assert_eq!(statistics.get("options_written"), 1, "{statistics}");
    assert_eq!(statistics.get("options_unsent"), 2, "{statistics}");
    Ok(())
}

/// Where nothing has passed yet, the failure at one peer spares all others of which nothing is known.
pub(super) fn spares_other_peers(context: &mut Context) -> Result<()> {
    let mut ends = Ends::new(context)?;
    ends.net.second_server()?;
    ends.net.drop_option(EXPERIMENTAL)?;
    let agent = ends.agent(context, &[])?;
    let deadline = End::Deadline(Duration::from_millis(150));
    ends.request(&agent, "/b/1", deadline)?;
    given_up(&agent, 1)?;
    let other = SocketAddr::from(([10, 77, 2, 3], ends.address.port()));
    ends.listener = network::inside(&ends.net.server, || Ok(TcpListener::bind(other)?))?;
    ends.address = other;
    let statistics = unharmed(ends, agent, 2)?;
    assert_eq!(statistics.get("option_pauses"), 1, "{statistics}");
    assert_eq!(statistics.get("options_written"), 1, "{statistics}");
    Ok(())
}

/// Where options pass to one peer, a failure at another one is that one's own, and nobody else's.
pub(super) fn each_peer_alone(context: &mut Context) -> Result<()> {
    let mut ends = Ends::new(context)?;
    ends.net.second_server()?;
    let agent = ends.agent(context, &[])?;
    ends.request(&agent, "/b/1", End::Answered)?;
    let first = ends.address;
    let other = SocketAddr::from(([10, 77, 2, 3], first.port()));
    let there = network::inside(&ends.net.server, || Ok(TcpListener::bind(other)?))?;
    let here = std::mem::replace(&mut ends.listener, there);
    ends.address = other;
    ends.net.drop_option(EXPERIMENTAL)?;
    ends.request(&agent, "/b/2", End::Reset)?;
    given_up(&agent, 1)?;
    ends.net.drop_nothing()?;
    ends.request(&agent, "/b/3", End::Answered)?;
    (ends.listener, ends.address) = (here, first);
    ends.request(&agent, "/b/4", End::Answered)?;
    let statistics = ends.stop(agent)?;
    assert_eq!(statistics.get("options_taken"), 2, "{statistics}");
    assert_eq!(statistics.get("option_sockets_paused"), 1, "{statistics}");
    assert_eq!(statistics.get("option_pauses"), 0, "{statistics}");
    Ok(())
}

/// When options pass again, they are written again: only sending had ended, for a while.
pub(super) fn tried_again(context: &mut Context) -> Result<()> {
    let ends = Ends::new(context)?;
    ends.net.drop_option(EXPERIMENTAL)?;
    let agent = ends.agent(context, &["--fault", "option-short-pause"])?;
    let deadline = End::Deadline(Duration::from_millis(150));
    ends.request(&agent, "/b/1", deadline)?;
    given_up(&agent, 1)?;
    ends.net.drop_nothing()?;
    let mut id = 1;
    wait_for(
        || "an option that is taken".to_owned(),
        PATIENCE,
        || {
            id += 1;
            let asked = ends.request(&agent, &format!("/b/{id}"), End::Answered);
            asked.expect("nothing is dropped");
            (count(&agent, "options_taken").ok()? == 1).then_some(())
        },
    )?;
    // Known to pass again: the next one carries it, too.
    ends.request(&agent, "/b/0", End::Answered)?;
    let statistics = ends.stop(agent)?;
    assert_eq!(statistics.get("options_taken"), 2, "{statistics}");
    assert!(statistics.get("option_sockets_paused") >= 1, "{statistics}");
    Ok(())
}

/// So many connections have failed, and the path is given up.
fn given_up(agent: &Agent, connections: u64) -> Result<()> {
    wait_for(
        || agent.output(),
        PATIENCE,
        || {
            let failed = count(agent, "option_sockets_failed").ok()?;
            let paused = count(agent, "option_peers_paused").ok()?;
            (failed == connections && paused == 1).then_some(())
        },
    )?;
    wait_for(
        || agent.output(),
        PATIENCE,
        || agent.output().contains(TOLD).then_some(()),
    )
}

/// What the agent says of it.
pub(super) const TOLD: &str = "no trace context is carried in a TCP option to some peers for now";

/// Requests that are made now come through without an option, and at once. `id` is one that was not there yet.
fn unharmed(ends: Ends, agent: Agent, id: usize) -> Result<Statistics> {
    const MORE: usize = 5;
    let wire = Capture::start(&ends.net.router)?;
    let mut expected = Vec::new();
    for id in id..id + MORE {
        let path = format!("/b/{id}");
        ends.request(&agent, &path, End::Answered)?;
        expected.push((path, None));
    }
    let seen: Vec<_> = on_the_wire(&wire.stop_segments()?);
    let seen: Vec<_> = seen
        .into_iter()
        .filter(|one| expected.contains(one))
        .collect();
    assert_eq!(seen, expected);
    let statistics = ends.stop(agent)?;
    assert_eq!(
        statistics.get("option_sockets_paused"),
        MORE as u64,
        "{statistics}"
    );
    assert_eq!(statistics.get("options_carried"), 1, "{statistics}");
    Ok(statistics)
}
