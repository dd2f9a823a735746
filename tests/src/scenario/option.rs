//! Trace context in a TCP option, between hosts that share nothing else: on every kernel, since no byte of a stream is touched.
//!
//! The options are read off the wire between the hosts, by code that knows the format from its description only.

use std::thread::{self, JoinHandle};

use anyhow::{Result, ensure};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{Agent, Setup, Statistics},
    assert_text,
    capture::{Capture, Segment},
    collector::Collector,
    group::Group,
    http::Connection,
    network::{self, Loss, Routed},
    process::{self, Program},
    service,
    trace::{Span, Spans, hex},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("context_option_between_hosts", between_hosts),
    Scenario::full("context_option_sent_again", sent_again),
    Scenario::full("context_option_sent_again_is_needed", sent_again_is_needed),
    Scenario::full("context_option_of_large_requests", large_requests),
    Scenario::full("context_option_tells_the_bit", tells_the_bit),
    Scenario::full("context_option_without_room", without_room),
    Scenario::full("context_option_malformed", malformed),
    Scenario::full("context_option_untrusted", untrusted),
    Scenario::full("context_option_elsewhere", elsewhere),
    Scenario::full("context_option_tables_full", tables_full),
    Scenario::full("context_option_same_kernel_first", same_kernel_first),
];

/// Kind of experimental options (RFC 4727).
const EXPERIMENTAL: u8 = 253;

/// Two hosts: nginx on the left one hands requests on to the threaded server on the right one.
struct Hosts {
    net: Routed,
    collector: Collector,
    first: u16,
    proxy: Program,
    server: Program,
    groups: [Group; 2],
    other: Context,
}

impl Hosts {
    fn new(context: &Context) -> Result<Self> {
        let net = Routed::new()?;
        let (first, last) = (context.port(), context.port());
        let server = service::routed_threads(context, &net, last)?;
        let backend = format!("10.77.2.2:{last}");
        let values = [
            ("BACKEND", backend.as_str()),
            ("KEEPALIVE", "keepalive 16;"),
            ("CONNECTION", ""),
        ];
        let proxy = service::nginx_in(context, Some(&net.client), "proxy.conf", first, &values)?;
        let groups = [host("left", &[&proxy])?, host("right", &[&server])?];
        Ok(Self {
            net,
            collector: Collector::start()?,
            first,
            proxy,
            server,
            groups,
            other: Context::new("other_host")?,
        })
    }

    /// An agent on each host, which share nothing.
    fn agents(&self, context: &Context, left: &[&str], right: &[&str]) -> Result<[Agent; 2]> {
        let start = |context: &Context, group: &str, arguments: &[&str]| {
            let setup = Setup::grpc(&self.collector)
                .arg("--fault")
                .arg("no-handover")
                .arg("--cgroup")
                .arg(path(group));
            let setup = arguments.iter().fold(setup, |setup, one| setup.arg(*one));
            setup.start(context)
        };
        let agents = [
            start(context, "left", left)?,
            start(&self.other, "right", right)?,
        ];
        for agent in &agents {
            let output = agent.output();
            ensure!(
                output.contains("trace context is carried in a TCP option"),
                "the agent does not say that it carries context:\n{output}"
            );
        }
        Ok(agents)
    }

    /// Requests of one client to nginx, one after the other on one connection.
    fn requests(&self, ids: impl Iterator<Item = usize> + Send) -> Result<()> {
        let address = self.address()?;
        network::inside(&self.net.client, || {
            let mut connection = Connection::open_to(address)?;
            for id in ids {
                assert_eq!(connection.get(&format!("/b/{id}"))?.status, 200);
            }
            Ok(())
        })
    }

    /// The same request while the caller does something else.
    fn request_meanwhile(&self, id: usize) -> Result<JoinHandle<Result<u16>>> {
        let (namespace, address) = (self.net.client.clone(), self.address()?);
        Ok(thread::spawn(move || {
            network::inside(&namespace, || {
                let mut connection = Connection::open_to(address)?;
                Ok(connection.get(&format!("/b/{id}"))?.status)
            })
        }))
    }

    fn address(&self) -> Result<std::net::SocketAddr> {
        Ok(format!("10.77.1.2:{}", self.first).parse()?)
    }

    /// Ends the services, so that no connection is open, and then the agents.
    fn stop(self, agents: [Agent; 2]) -> Result<([Statistics; 2], Spans)> {
        let Self {
            collector,
            proxy,
            server,
            groups,
            ..
        } = self;
        drop(proxy);
        drop(server);
        let [left, right] = agents;
        let statistics = [left.stop()?, right.stop()?];
        drop(groups);
        let left = &statistics[0];
        println!("{left}");
        println!("{}", statistics[1]);
        // Each request that should have got one is accounted for.
        assert_eq!(
            left.get("options_written") + left.get("options_no_room") + left.get("options_unsent"),
            left.get("option_requests"),
            "{left}"
        );
        Ok((statistics, collector.spans()))
    }
}

fn path(host: &str) -> String {
    format!("/{host}{}", std::process::id())
}

/// Moves services with their workers into the control group that stands for their host.
fn host(name: &str, services: &[&Program]) -> Result<Group> {
    let group = Group::make(&path(name))?;
    for service in services {
        group.take(service.pid())?;
        for worker in process::children_of(service.pid()) {
            group.take(worker)?;
        }
    }
    Ok(group)
}

/// Path of the request that a segment begins with.
fn path_of(segment: &Segment) -> Option<String> {
    let text = String::from_utf8_lossy(&segment.payload);
    let mut words = text.split(' ');
    let method = words.next()?;
    matches!(method, "GET" | "POST").then(|| words.next().unwrap_or_default().to_owned())
}

/// Segments that begin with a request: its path, and identifier, trace id and span id of the option there, in hexadecimal digits.
fn on_the_wire(segments: &[Segment]) -> Vec<(String, Option<String>)> {
    let mut seen = Vec::new();
    for segment in segments {
        let options = segment.options_of(EXPERIMENTAL);
        assert!(options.len() <= 1, "one option: {options:02x?}");
        let option = options.first().map(|option| {
            assert_eq!(option.len(), 26, "two bytes of identifier, two ids");
            format!(
                "{} {} {}",
                String::from_utf8_lossy(&option[..2]),
                hex(&option[2..18]),
                hex(&option[18..])
            )
        });
        let text = String::from_utf8_lossy(&segment.payload);
        assert!(
            !text.to_lowercase().contains("traceparent"),
            "no header is written:\n{text}"
        );
        match path_of(segment) {
            Some(path) => seen.push((path, option)),
            None => assert_eq!(option, None, "only a request's first segment:\n{text}"),
        }
    }
    seen
}

/// What an option has to say of a client's span, and whether it is sampled.
fn due(span: &Span, sampled: bool) -> String {
    let identifier = if sampled { "uT" } else { "ut" };
    format!("{identifier} {} {}", span.trace_id(), span.span_id())
}

/// One trace per request, joined across the wire.
fn joined(ids: impl Iterator<Item = usize>) -> String {
    ids.map(|id| {
        format!(
            "SERVER nginx GET /b/{id} 200\n\
             \x20 CLIENT nginx GET /b/{id} 200\n\
             \x20   SERVER threads GET /b/{id} 200\n"
        )
    })
    .collect()
}

/// Where the spans of servers say that their parents come from.
fn sources(spans: &Spans, service: &str) -> Vec<String> {
    let servers = spans.of(service).servers();
    let told = servers.0.iter();
    told.map(|span| span.get("undertrace.parent.source").to_owned())
        .collect()
}

const OPTION: &[&str] = &["--tcp-option"];

/// Each request that crosses brings its client's span in an option, and is joined by it.
fn between_hosts(context: &mut Context) -> Result<()> {
    const REQUESTS: usize = 5;
    let hosts = Hosts::new(context)?;
    let agents = hosts.agents(context, OPTION, OPTION)?;
    let wire = Capture::start(&hosts.net.router)?;
    hosts.requests(1..=REQUESTS)?;
    hosts.collector.wait_for_spans(REQUESTS * 3, PATIENCE)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    let ([left, right], spans) = hosts.stop(agents)?;
    assert_text("the traces", &spans.render(), &joined(1..=REQUESTS));
    let clients = spans.clients();
    let mut expected: Vec<_> = clients
        .0
        .iter()
        .map(|span| (span.path().to_owned(), Some(due(span, true))))
        .collect();
    expected.sort();
    let mut sorted = seen;
    sorted.sort();
    assert_eq!(sorted, expected, "the options on the wire");
    assert_eq!(sources(&spans, "threads"), ["option"; REQUESTS]);
    let count = REQUESTS as u64;
    assert_eq!(left.get("option_requests"), count, "{left}");
    assert_eq!(left.get("options_written"), count, "{left}");
    assert_eq!(left.get("option_segments"), count, "{left}");
    assert!(left.get("option_sockets") >= 1, "{left}");
    assert_eq!(right.get("options_received"), count, "{right}");
    assert_eq!(right.get("options_taken"), count, "{right}");
    for name in ["options_malformed", "options_untrusted", "options_unread"] {
        assert_eq!(right.get(name), 0, "{right}");
    }
    Ok(())
}

/// A request whose segment is lost: what is sent again carries the option, too. Gives where its server's parent came from.
fn lose_once(context: &Context, left: &[&str]) -> Result<(Vec<(String, Option<String>)>, Spans)> {
    let hosts = Hosts::new(context)?;
    let agents = hosts.agents(context, left, OPTION)?;
    hosts.requests(1..=1)?;
    let wire = Capture::start(&hosts.net.router)?;
    let loss = Loss::to_server(&hosts.net)?;
    let request = hosts.request_meanwhile(2)?;
    network::wait_for_retransmission(&hosts.net.client)?;
    drop(loss);
    assert_eq!(request.join().expect("the client does not panic")?, 200);
    hosts.collector.wait_for_spans(6, PATIENCE)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    ensure!(seen.len() >= 2, "the request was sent again: {seen:?}");
    let ([left, _], spans) = hosts.stop(agents)?;
    assert_eq!(left.get("options_written"), 2, "{left}");
    Ok((seen, spans))
}

fn sent_again(context: &mut Context) -> Result<()> {
    let (seen, spans) = lose_once(context, OPTION)?;
    assert_text("the traces", &spans.render(), &joined(1..=2));
    let client = spans.clients().filter(|span| span.path() == "/b/2");
    let expected = ("/b/2".to_owned(), Some(due(client.only(), true)));
    assert!(seen.iter().all(|one| *one == expected), "{seen:?}");
    Ok(())
}

/// The negative control: without the option in what is sent again, nothing arrives with the request.
fn sent_again_is_needed(context: &mut Context) -> Result<()> {
    let broken = ["--tcp-option", "--fault", "option-once"];
    let (seen, spans) = lose_once(context, &broken)?;
    let with = seen.iter().filter(|(_, option)| option.is_some()).count();
    assert_eq!(with, 1, "{seen:?}");
    let servers = spans.of("threads").servers();
    let lost = servers.filter(|span| span.path() == "/b/2");
    assert_eq!(lost.only().get("undertrace.parent.source"), "root");
    Ok(())
}

/// Requests longer than a segment, head and body in one send: their first segment carries the option, and all bytes arrive.
fn large_requests(context: &mut Context) -> Result<()> {
    let hosts = Hosts::new(context)?;
    let agents = hosts.agents(context, OPTION, OPTION)?;
    let wire = Capture::start(&hosts.net.router)?;
    let padding = ["x".repeat(1_300), "y".repeat(3_000), "z".repeat(7_000)];
    let address = hosts.address()?;
    network::inside(&hosts.net.client, || {
        let mut connection = Connection::open_to(address)?;
        for text in &padding {
            let path = format!("/b/1?{text}");
            assert_eq!(connection.get(&path)?.status, 200);
        }
        Ok(())
    })?;
    hosts
        .collector
        .wait_for_spans(padding.len() * 3, PATIENCE)?;
    let segments = wire.stop_segments()?;
    let ([left, right], spans) = hosts.stop(agents)?;
    let starts = segments.iter().filter(|one| path_of(one).is_some());
    for segment in starts {
        let options = segment.options_of(EXPERIMENTAL);
        assert_eq!(options.len(), 1, "{} bytes", segment.payload.len());
    }
    assert_eq!(sources(&spans, "threads"), ["option"; 3]);
    assert_eq!(left.get("options_written"), 3, "{left}");
    assert_eq!(right.get("options_taken"), 3, "{right}");
    Ok(())
}

/// A trace that the left host does not sample is not sampled by the right one, which would sample all of its own.
fn tells_the_bit(context: &mut Context) -> Result<()> {
    let hosts = Hosts::new(context)?;
    let none = ["--tcp-option", "--sampler", "always_off"];
    let agents = hosts.agents(context, &none, OPTION)?;
    let wire = Capture::start(&hosts.net.router)?;
    hosts.requests(1..=3)?;
    let seen = on_the_wire(&wire.stop_segments()?);
    let ([_, right], spans) = hosts.stop(agents)?;
    assert_eq!(seen.len(), 3, "{seen:?}");
    for (path, option) in &seen {
        let option = option.as_deref().unwrap_or_default();
        assert!(option.starts_with("ut "), "{path}: {option}");
    }
    assert_eq!(right.get("options_taken"), 3, "{right}");
    assert!(spans.is_empty(), "{}", spans.render());
    Ok(())
}

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

fn without_room(context: &mut Context) -> Result<()> {
    let cramped = ["--tcp-option", "--fault", "option-no-room"];
    let ([left, right], with) = apart(context, &cramped, OPTION)?;
    assert_eq!(with, 0);
    assert_eq!(left.get("option_requests"), 5, "{left}");
    assert_eq!(left.get("options_no_room"), 5, "{left}");
    assert_eq!(left.get("options_written"), 0, "{left}");
    assert_eq!(right.get("options_received"), 0, "{right}");
    Ok(())
}

fn malformed(context: &mut Context) -> Result<()> {
    let broken = ["--tcp-option", "--fault", "option-malformed"];
    let ([_, right], with) = apart(context, &broken, OPTION)?;
    assert_eq!(with, 5);
    assert_eq!(right.get("options_malformed"), 5, "{right}");
    assert_eq!(right.get("options_received"), 0, "{right}");
    Ok(())
}

/// What comes from a network that is not trusted is not taken.
fn untrusted(context: &mut Context) -> Result<()> {
    let elsewhere = ["--tcp-option", "--trust-context", "192.0.2.0/24"];
    let ([_, right], with) = apart(context, OPTION, &elsewhere)?;
    assert_eq!(with, 5);
    assert_eq!(right.get("options_untrusted"), 5, "{right}");
    assert_eq!(right.get("options_received"), 0, "{right}");
    Ok(())
}

/// Nothing is written towards a network that was not named.
fn elsewhere(context: &mut Context) -> Result<()> {
    let elsewhere = ["--tcp-option", "--inject-to", "192.0.2.0/24"];
    let ([left, _], with) = apart(context, &elsewhere, OPTION)?;
    assert_eq!(with, 0);
    assert!(left.get("option_sockets_untrusted") >= 1, "{left}");
    assert_eq!(left.get("option_requests"), 0, "{left}");
    Ok(())
}

/// Tables without room: what finds none is counted, and nothing else changes.
fn tables_full(context: &mut Context) -> Result<()> {
    let hosts = Hosts::new(context)?;
    let full = |fault: &'static str| ["--tcp-option", "--fault", fault];
    let agents = hosts.agents(context, &full("offers-full"), &full("brought-full"))?;
    // Each on a connection of its own to nginx, which keeps several to its server.
    let together: Vec<_> = (1..=6)
        .map(|id| hosts.request_meanwhile(id))
        .collect::<Result<_>>()?;
    for request in together {
        assert_eq!(request.join().expect("the client does not panic")?, 200);
    }
    hosts.collector.wait_for_spans(6 * 3, PATIENCE)?;
    let ([left, _], _) = hosts.stop(agents)?;
    println!("refused: {}", left.get("option_sockets_refused"));
    Ok(())
}

/// On one host, with one agent: the kernel's own record counts, and each request has one parent.
fn same_kernel_first(context: &mut Context) -> Result<()> {
    let hosts = Hosts::new(context)?;
    let agent = Setup::grpc(&hosts.collector)
        .arg("--tcp-option")
        .arg("--cgroup")
        .arg(format!("{},{}", path("left"), path("right")))
        .start(context)?;
    hosts.requests(1..=3)?;
    hosts.collector.wait_for_spans(9, PATIENCE)?;
    let spans = hosts.collector.spans();
    drop(hosts);
    let statistics = agent.stop()?;
    assert_text("the traces", &spans.render(), &joined(1..=3));
    assert_eq!(sources(&spans, "threads"), ["same_kernel"; 3]);
    assert_eq!(statistics.get("options_received"), 3, "{statistics}");
    assert_eq!(statistics.get("options_taken"), 0, "{statistics}");
    assert_eq!(statistics.get("options_unread"), 0, "{statistics}");
    Ok(())
}
