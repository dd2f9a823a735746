//! Trace context written into requests: exactly the bytes that are due, and nothing where the kernel is not fit for it.
//!
//! What is sent and must arrive stands in [`wire`]. On a kernel that fails the agent's self-test the same requests prove the refusal: no socket is enrolled, no byte is added.

pub(super) mod limits;
mod wire;

use std::{
    collections::BTreeMap,
    io::{IoSlice, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::sockopt;

use self::wire::{Case, LINE, cases, compare, position, recorder};
use super::Scenario;
use crate::harness::{
    Context, PATIENCE, Refused,
    agent::{Agent, Setup, Statistics},
    assert_text,
    collector::Collector,
    http::Connection,
    network::{self, Routed},
    service,
    trace::Spans,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("context_header_exact_bytes", |context| {
        exact_bytes(context, &[])
    }),
    Scenario::core("context_header_between_hosts", between_hosts),
    Scenario::full("safety_header_of_real_clients", real_clients),
    Scenario::full("safety_header_narrow_send_queue", narrow_send_queue),
    Scenario::full("safety_header_refused_by_self_test", |context| {
        let (injects, statistics) = run_cases(context, &["--fault", "self-test-fails"])?;
        ensure!(!injects, "the self-test failed, and headers are written");
        none_enrolled(&statistics)
    }),
    Scenario::full("safety_header_kill_minus_nine", kill_minus_nine),
    Scenario::full("safety_header_twice_is_seen", |context| {
        is_seen(context, "inject-twice")
    }),
    Scenario::full("safety_header_late_is_seen", |context| {
        is_seen(context, "inject-late")
    }),
    Scenario::full("safety_header_loss_is_seen", |context| {
        is_seen(context, "inject-loss")
    }),
    Scenario::full("safety_header_of_another_send", of_another_send),
];

/// Why a scenario ends early on a kernel that fails the self-test.
const REFUSAL: &str = "no header is written on this kernel";

/// Whether the agent writes headers on this kernel.
pub(super) fn injects(agent: &Agent) -> Result<bool> {
    let output = agent.output();
    let refused = output.contains("no trace context is written into requests");
    let works = output.contains("trace context is written into requests on connections");
    ensure!(
        refused != works,
        "the agent does not say whether it writes headers:\n{output}"
    );
    for line in output.lines().filter(|_| refused) {
        if let Some((_, reason)) = line.split_once("reason=") {
            println!("refused: {reason}");
        }
    }
    Ok(works)
}

/// Sends every case on a connection of its own, and gives what each got, and whether headers are written.
fn run_cases(context: &mut Context, arguments: &[&str]) -> Result<(bool, Statistics)> {
    let (port, received) = recorder(context)?;
    let collector = Collector::start()?;
    let mut setup = Setup::grpc(&collector).port(port).arg("--inject");
    for argument in arguments {
        setup = setup.arg(*argument);
    }
    let agent = setup.start(context)?;
    let injects = injects(&agent)?;
    let mut written = Vec::new();
    let mut outcome = Ok(());
    for case in cases() {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        for send in &case.sends {
            if case.name == "one after the other" && send.as_slice() != case.sends[0].as_slice() {
                let mut answer = [0; 40];
                stream.read_exact(&mut answer)?;
            }
            // Several buffers, where there are many bytes.
            let parts: Vec<_> = send.chunks(9_000).map(IoSlice::new).collect();
            let mut sent = stream.write_vectored(&parts)?;
            while sent < send.len() {
                sent += stream.write(&send[sent..])?;
            }
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        let bytes = received.recv_timeout(PATIENCE)?;
        match compare(&case, &bytes, injects) {
            Ok(lines) => written.extend(lines),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    let statistics = agent.stop()?;
    outcome?;
    if injects {
        println!("injected: {}", written.len());
        let spans = collector.spans();
        for line in &written {
            let of_line = spans
                .clients()
                .filter(|span| span.span_id() == line.span_id);
            assert_eq!(
                of_line.only().trace_id(),
                line.trace_id,
                "the header names a span that was exported"
            );
        }
        assert_eq!(
            statistics.get("inject_inserted"),
            written.len() as u64,
            "{statistics}"
        );
        balance(&statistics);
    }
    Ok((injects, statistics))
}

/// Each request on an enrolled connection has one outcome.
fn balance(statistics: &Statistics) {
    let outcomes = [
        "inserted",
        "rewritten",
        "own_context",
        "unproven",
        "split",
        "line_ends",
        "tunnel",
        "no_room",
        "beyond_limit",
        "unsent",
        "other_send",
        "changed",
        "refused",
    ];
    let sum: u64 = outcomes
        .iter()
        .map(|name| statistics.get(&format!("inject_{name}")))
        .sum();
    assert_eq!(sum, statistics.get("inject_requests"), "{statistics}");
    for name in ["unsent", "other_send", "changed", "refused", "no_room"] {
        assert_eq!(statistics.get(&format!("inject_{name}")), 0, "{statistics}");
    }
}

/// Ends a scenario on a kernel where no header is written, when that was so.
fn refused(statistics: &Statistics) -> Result<()> {
    none_enrolled(statistics)?;
    Err(Refused(REFUSAL.to_owned()).into())
}

/// Nothing was looked at for a header, and no byte written.
fn none_enrolled(statistics: &Statistics) -> Result<()> {
    for name in [
        "inject_sockets",
        "inject_requests",
        "inject_inserted",
        "inject_bytes",
    ] {
        ensure!(statistics.get(name) == 0, "{statistics}");
    }
    Ok(())
}

fn exact_bytes(context: &mut Context, arguments: &[&str]) -> Result<()> {
    let (injects, statistics) = run_cases(context, arguments)?;
    if !injects {
        return refused(&statistics);
    }
    let connections = cases().len() as u64;
    assert_eq!(
        statistics.get("inject_sockets"),
        connections,
        "{statistics}"
    );
    assert_eq!(statistics.get("inject_own_context"), 5, "{statistics}");
    assert_eq!(statistics.get("inject_line_ends"), 1, "{statistics}");
    assert_eq!(statistics.get("inject_split"), 1, "{statistics}");
    assert_eq!(statistics.get("inject_tunnel"), 1, "{statistics}");
    Ok(())
}

/// What is left from another send of the same thread and length is not written.
fn of_another_send(context: &mut Context) -> Result<()> {
    let (port, received) = recorder(context)?;
    let agent = Setup::bare()
        .port(port)
        .arg("--inject")
        .arg("--fault")
        .arg("inject-stale")
        .start(context)?;
    let injects = injects(&agent)?;
    let head = "GET /stale HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    for _ in 0..8 {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(head.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let bytes = received.recv_timeout(PATIENCE)?;
        assert_text("the request", &String::from_utf8_lossy(&bytes), head);
    }
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    assert_eq!(statistics.get("inject_requests"), 8, "{statistics}");
    assert_eq!(statistics.get("inject_other_send"), 8, "{statistics}");
    assert_eq!(statistics.get("inject_bytes"), 0, "{statistics}");
    Ok(())
}

/// A negative control: with the feature broken, the comparison of bytes fails.
fn is_seen(context: &mut Context, fault: &str) -> Result<()> {
    match run_cases(context, &["--fault", fault]) {
        Ok((false, statistics)) => refused(&statistics),
        Ok((true, _)) => bail!("{fault} was not seen"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(
                text.contains("differ") || text.contains("no line at"),
                "{text}"
            );
            Ok(())
        }
    }
}

/// Two hosts with an agent each, which share nothing: a chain of four services is one trace, joined by headers; nginx forwards what it got, and
/// that is rewritten.
fn between_hosts(context: &mut Context) -> Result<()> {
    let net = Routed::new()?;
    let mut other = Context::new("other_host")?;
    let ports: Vec<u16> = (0..4).map(|_| context.port()).collect();
    let near = |port: u16| format!("10.77.1.2:{port}");
    let far = |port: u16| format!("10.77.2.2:{port}");
    let last = service::python_in(
        context,
        Some(&net.server),
        "threads.py",
        ports[3],
        &["--host", "0.0.0.0"],
        &[],
    )?;
    let proxy = |host: &str, at: usize, backend: &str| {
        let values = [
            ("BACKEND", backend),
            ("KEEPALIVE", "keepalive 16;"),
            ("CONNECTION", ""),
        ];
        service::nginx_in(context, Some(host), "proxy.conf", ports[at], &values)
    };
    let third = proxy(&net.server, 2, &far(ports[3]))?;
    let second = proxy(&net.client, 1, &far(ports[2]))?;
    let first = proxy(&net.client, 0, &near(ports[1]))?;
    let collector = Collector::start()?;
    let agent = |context: &Context, pids: [u32; 2]| {
        Setup::grpc(&collector)
            .arg("--inject")
            .arg("--fault")
            .arg("no-handover")
            .arg("--pid")
            .arg(format!("{},{}", pids[0], pids[1]))
            .start(context)
    };
    let left = agent(context, [first.pid(), second.pid()])?;
    let right = agent(&mut other, [third.pid(), last.pid()])?;
    let injects = injects(&left)?;
    network::inside(&net.client, || {
        let address = format!("10.77.1.2:{}", ports[0]).parse()?;
        let mut connection = Connection::open_to(address)?;
        for id in 1..=5 {
            assert_eq!(connection.get(&format!("/b/{id}"))?.status, 200);
        }
        Ok(())
    })?;
    collector.wait_for_spans(5 * 7, PATIENCE)?;
    let statistics = [left.stop()?, right.stop()?];
    let spans = collector.spans();
    if !injects {
        joined_by_nothing(&spans)?;
        none_enrolled(&statistics[0])?;
        return refused(&statistics[1]);
    }
    let expected: String = (1..=5)
        .map(|id| {
            format!(
                "SERVER nginx GET /b/{id} 200\n\
                 \x20 CLIENT nginx GET /b/{id} 200\n\
                 \x20   SERVER nginx GET /b/{id} 200\n\
                 \x20     CLIENT nginx GET /b/{id} 200\n\
                 \x20       SERVER nginx GET /b/{id} 200\n\
                 \x20         CLIENT nginx GET /b/{id} 200\n\
                 \x20           SERVER threads GET /b/{id} 200\n"
            )
        })
        .collect();
    assert_text("the traces", &spans.render(), &expected);
    let sum = |name: &str| statistics.iter().map(|one| one.get(name)).sum::<u64>();
    println!(
        "injected: {} and {} rewritten",
        sum("inject_inserted"),
        sum("inject_rewritten")
    );
    assert_eq!((sum("inject_inserted"), sum("inject_rewritten")), (5, 10));
    assert_eq!(sum("handovers_found"), 0);
    for statistics in &statistics {
        balance(statistics);
    }
    Ok(())
}

/// Without headers each side of a connection begins a trace, except where nginx hands the whole request on inside one process.
fn joined_by_nothing(spans: &Spans) -> Result<()> {
    let mut traces: BTreeMap<String, usize> = BTreeMap::new();
    for span in &spans.0 {
        *traces.entry(span.trace_id()).or_default() += 1;
    }
    ensure!(traces.len() == 5 * 4, "{}", spans.render());
    Ok(())
}

/// Requests that fill a small send queue of a client that does not wait, towards a server that reads slowly: whatever the kernel takes of each send,
/// the process's bytes arrive once and in order, and whole lines between them.
fn narrow_send_queue(context: &mut Context) -> Result<()> {
    const REQUESTS: usize = 14;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    sockopt::set_socket_recv_buffer_size(&listener, 4096)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(port)
        .arg("--inject")
        .start(context)?;
    let injects = injects(&agent)?;
    let mut lines = 0;
    for (round, buffer) in [4_096, 8_192, 16_384, 40_000, 100_000]
        .into_iter()
        .enumerate()
    {
        let mut client = TcpStream::connect(("127.0.0.1", port))?;
        let (mut server, _) = listener.accept()?;
        sockopt::set_socket_send_buffer_size(&client, buffer)?;
        client.set_nonblocking(true)?;
        let reading = thread::spawn(move || -> std::io::Result<Vec<u8>> {
            let mut all = Vec::new();
            let mut part = [0; 700];
            loop {
                match server.read(&mut part)? {
                    0 => return Ok(all),
                    count => all.extend_from_slice(&part[..count]),
                }
                thread::sleep(Duration::from_micros(300));
            }
        });
        let request = |n: usize| {
            let body = "b".repeat(500 * (n % 5) + 3_000 * (round % 3));
            let padding = "p".repeat(200 * n);
            format!(
                "POST /{round}/{n} HTTP/1.1\r\nP: {padding}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let sent: String = (0..REQUESTS).map(request).collect();
        for n in 0..REQUESTS {
            let request = request(n);
            let mut rest = request.as_bytes();
            while !rest.is_empty() {
                match client.write(rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => bail!(
                        "{error} after {} of {}",
                        request.len() - rest.len(),
                        request.len()
                    ),
                }
            }
        }
        client.shutdown(std::net::Shutdown::Write)?;
        let received = reading.join().expect("it does not panic")?;
        let (bytes, count) = without_lines(&received);
        lines += count;
        ensure!(
            bytes == sent.as_bytes(),
            "bytes differ with a queue of {buffer}: {} sent, {} received, {count} lines",
            sent.len(),
            bytes.len()
        );
    }
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    println!(
        "injected: {lines}, no room for {}",
        statistics.get("inject_no_room")
    );
    assert_eq!(statistics.get("inject_inserted"), lines, "{statistics}");
    assert!(
        lines > 0 && statistics.get("inject_no_room") > 0,
        "{statistics}"
    );
    Ok(())
}

/// The bytes without the lines that were put in, and how many those are.
fn without_lines(received: &[u8]) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    let (mut rest, mut count) = (received, 0);
    while let Some(at) = position(rest, b"\r\ntraceparent: 00-") {
        bytes.extend_from_slice(&rest[..at + 2]);
        rest = rest.get(at + 2 + LINE..).unwrap_or_default();
        count += 1;
    }
    bytes.extend_from_slice(rest);
    (bytes, count)
}

/// What clients of several languages send arrives as without the agent, with one line more.
fn real_clients(context: &mut Context) -> Result<()> {
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
fn kill_minus_nine(context: &mut Context) -> Result<()> {
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
