//! Headers of requests that are not sampled: they say so, and nothing is told of the requests.

use std::{collections::BTreeSet, io::Write as _, sync::mpsc::channel};

use anyhow::{Context as _, Result};

use super::{injects, refused};
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, scripted::Scripted,
};

const REQUESTS: u64 = 5;

/// Both ends are traced; what arrives is read by the server itself.
pub(super) fn flags(context: &mut Context) -> Result<()> {
    let (sender, received) = channel();
    let server = Scripted::start(context, move |stream, head| {
        let _ = sender.send(head.to_owned());
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
    })?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(server.port())
        .arg("--inject")
        .env("OTEL_TRACES_SAMPLER", "always_off")
        .start(context)?;
    let injects = injects(&agent)?;
    // The accept() that waited while the agent started is not seen to return.
    drop(Connection::open(server.port())?);
    let mut connection = Connection::open(server.port())?;
    let mut traces = BTreeSet::new();
    for n in 0..REQUESTS {
        assert_eq!(connection.get(&format!("/u/{n}"))?.status, 204);
        let head = received.recv_timeout(PATIENCE)?;
        let lines = head.lines();
        let values: Vec<&str> = lines
            .filter_map(|line| line.strip_prefix("traceparent: "))
            .collect();
        assert_eq!(values.len(), usize::from(injects), "{head}");
        for value in values {
            let (rest, flags) = value.rsplit_once('-').context("four fields")?;
            let flags = u8::from_str_radix(flags, 16)?;
            assert_eq!(flags & 1, 0, "{head}");
            assert!(traces.insert(rest.to_owned()), "{head}");
        }
    }
    let statistics = agent.stop()?;
    assert_eq!(collector.spans().len(), 0);
    assert_eq!(
        statistics.get("requests_hidden"),
        2 * REQUESTS,
        "{statistics}"
    );
    if !injects {
        return refused(&statistics);
    }
    assert_eq!(statistics.get("inject_inserted"), REQUESTS, "{statistics}");
    Ok(())
}
