//! Two hosts that share nothing, and what passes between them.

use std::{
    net::SocketAddr,
    thread::{self, JoinHandle},
};

use anyhow::{Result, ensure};

use crate::harness::{
    Context,
    agent::{Agent, Setup, Statistics},
    capture::Segment,
    collector::Collector,
    group::Group,
    http::Connection,
    network::{self, Routed},
    process::{self, Program},
    service,
    trace::{Span, Spans, hex},
};

/// Kind of experimental options (RFC 4727).
pub(super) const EXPERIMENTAL: u8 = 253;

/// Two hosts: nginx on the left one hands requests on to the threaded server on the right one.
pub(super) struct Hosts {
    pub(super) net: Routed,
    pub(super) collector: Collector,
    pub(super) first: u16,
    pub(super) proxy: Program,
    pub(super) server: Program,
    pub(super) groups: [Group; 2],
    pub(super) other: Context,
}

impl Hosts {
    pub(super) fn new(context: &Context) -> Result<Self> {
        Self::with(context, "keepalive 16;", "")
    }

    /// nginx makes a connection for each request.
    pub(super) fn without_keepalive(context: &Context) -> Result<Self> {
        Self::with(context, "", "close")
    }

    pub(super) fn with(context: &Context, keepalive: &str, connection: &str) -> Result<Self> {
        let net = Routed::new()?;
        let (first, last) = (context.port(), context.port());
        let server = service::routed_threads(context, &net, last)?;
        let backend = format!("10.77.2.2:{last}");
        let values = [
            ("BACKEND", backend.as_str()),
            ("KEEPALIVE", keepalive),
            ("CONNECTION", connection),
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
    pub(super) fn agents(
        &self,
        context: &Context,
        left: &[&str],
        right: &[&str],
    ) -> Result<[Agent; 2]> {
        self.agents_of(context, left, ("right", right))
    }

    /// The same, where the second one traces another control group.
    pub(super) fn agents_of(
        &self,
        context: &Context,
        left: &[&str],
        (second, right): (&str, &[&str]),
    ) -> Result<[Agent; 2]> {
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
            start(&self.other, second, right)?,
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
    pub(super) fn requests(&self, ids: impl Iterator<Item = usize> + Send) -> Result<()> {
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
    pub(super) fn request_meanwhile(&self, id: usize) -> Result<JoinHandle<Result<u16>>> {
        let (namespace, address) = (self.net.client.clone(), self.address()?);
        Ok(thread::spawn(move || {
            network::inside(&namespace, || {
                let mut connection = Connection::open_to(address)?;
                Ok(connection.get(&format!("/b/{id}"))?.status)
            })
        }))
    }

    pub(super) fn address(&self) -> Result<SocketAddr> {
        Ok(format!("10.77.1.2:{}", self.first).parse()?)
    }

    /// Ends the services, so that no connection is open, and then the agents.
    pub(super) fn stop(self, agents: [Agent; 2]) -> Result<([Statistics; 2], Spans)> {
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

pub(super) fn path(host: &str) -> String {
    format!("/{host}{}", std::process::id())
}

/// Moves services with their workers into the control group that stands for their host.
pub(super) fn host(name: &str, services: &[&Program]) -> Result<Group> {
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
pub(super) fn path_of(segment: &Segment) -> Option<String> {
    let text = String::from_utf8_lossy(&segment.payload);
    let mut words = text.split(' ');
    let method = words.next()?;
    matches!(method, "GET" | "POST").then(|| words.next().unwrap_or_default().to_owned())
}

/// Segments that begin with a request: its path, and identifier, trace id and span id of the option there, in hexadecimal digits.
pub(in crate::scenario) fn on_the_wire(segments: &[Segment]) -> Vec<(String, Option<String>)> {
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
pub(in crate::scenario) fn due(span: &Span, sampled: bool) -> String {
    let identifier = if sampled { "uT" } else { "ut" };
    format!("{identifier} {} {}", span.trace_id(), span.span_id())
}

/// One trace per request, joined across the wire.
pub(super) fn joined(ids: impl Iterator<Item = usize>) -> String {
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
pub(super) fn sources(spans: &Spans, service: &str) -> Vec<String> {
    let servers = spans.of(service).servers();
    let told = servers.0.iter();
    told.map(|span| span.get("undertrace.parent.source").to_owned())
        .collect()
}

pub(super) const OPTION: &[&str] = &["--tcp-option"];
