//! Headers in what real clients send, and clients that outlive the agent.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{
    balance, injects, refused,
    wire::{Case, compare, position, recorder},
};
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, service,
};

/// What clients of several languages send arrives as without the agent, with one line more.
pub(super) fn real_clients(context: &mut Context) -> Result<()> {
    let (port, received) = recorder(context)?;
    let url = format!("http://127.0.0.1:{port}/shop?a=b");
    let python = format!(
        "import http.client; c = http.client.HTTPConnection('127.0.0.1', {port}); c.request('POST', '/py', body=b'x' * 70000, headers={{'X-Long': 'y' * 3000}}); print(c.getresponse().read())"
    );
    let node = format!("fetch('{url}').then(r => r.text()).then(() => process.exit(0))");
    let clients: Vec<(&str, Vec<&str>)> = vec![
        ("curl", vec!["-sS", "-m", "20", &url]),
        ("curl", vec!["-sS", "-m", "20", "-d", "name=value", &url]),
        ("python3", vec!["-c", &python]),
        ("node", vec!["-e", &node]),
    ];
    let run = |(program, arguments): &(&str, Vec<&str>)| -> Result<Vec<u8>> {
        let output = Command::new(service::program(program)?)
            .args(arguments)
            .output()?;
        ensure!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(received.recv_timeout(PATIENCE)?)
    };
    let without: Vec<Vec<u8>> = clients.iter().map(run).collect::<Result<_>>()?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .arg("--inject")
        .start(context)?;
    let injects = injects(&agent)?;
    for (client, sent) in clients.iter().zip(&without) {
        let bytes = run(client)?;
        let end = position(sent, b"\r\n\r\n").context("a head ends")? + 2;
        let case = Case {
            name: "a real client",
            sends: vec![sent.clone()],
            due: vec![end],
        };
        compare(&case, &bytes, injects)?;
    }
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}", statistics.get("inject_inserted"));
    assert_eq!(
        statistics.get("inject_inserted"),
        clients.len() as u64,
        "{statistics}"
    );
    balance(&statistics);
    Ok(())
}

/// The agent is killed while enrolled connections are at work: they go on, and what they send arrives as it is.
pub(super) fn kill_minus_nine(context: &mut Context) -> Result<()> {
    let port = context.port();
    let _python = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .arg("--inject")
        .start(context)?;
    let mut connections = Vec::new();
    for _ in 0..10 {
        connections.push(Connection::open(port)?);
    }
    let mut ask = |round: usize| -> Result<()> {
        for (n, connection) in connections.iter_mut().enumerate() {
            let response = connection.get(&format!("/size/{}", 1_000 * round + n))?;
            assert_eq!(
                (response.status, response.body.len()),
                (200, 1_000 * round + n)
            );
        }
        Ok(())
    };
    ask(1)?;
    agent.kill_hard()?;
    ask(2)?;
    let again = Setup::grpc(&collector)
        .port(port)
        .arg("--inject")
        .start(context)?;
    ask(3)?;
    again.stop()?;
    ask(4)
}
