//! What keeps a header out of a request and is no defect: each reason counted once, and the bytes arrive as they were sent.

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
    process::Command,
    sync::mpsc::Receiver,
};

use anyhow::{Result, ensure};

use super::{
    injects, refused,
    wire::{Case, compare, recorder},
};
use crate::{
    harness::{
        Context, PATIENCE,
        agent::{Agent, Setup, Statistics},
        kernel_is_at_least, service,
    },
    scenario::Scenario,
};

pub(in crate::scenario) const SCENARIOS: &[Scenario] = &[
    Scenario::full("accounting_inject_untrusted", untrusted),
    Scenario::full("accounting_inject_sockets_refused", |context| {
        one_of_three(context, "sockhash-full", "inject_sockets_refused")
    }),
    Scenario::full("accounting_injections_full", |context| {
        one_of_three(context, "injections-full", "injections_full")
    }),
    Scenario::full("accounting_inject_beyond_limit", beyond_limit),
    Scenario::full("accounting_inject_unsent", unsent),
];

/// A recorder, and an agent that traces its port and writes headers, with these further arguments; whether it does.
fn traced(context: &Context, arguments: &[&str]) -> Result<(u16, Receiver<Vec<u8>>, Agent, bool)> {
    let (port, received) = recorder(context)?;
    let mut setup = Setup::bare().port(port).arg("--inject");
    for argument in arguments {
        setup = setup.arg(*argument);
    }
    let agent = setup.start(context)?;
    let injects = injects(&agent)?;
    Ok((port, received, agent, injects))
}

fn head(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n")
}

/// A request of one send, into which a line is due.
fn case(path: &str) -> Case {
    let head = head(path);
    Case {
        name: "one request",
        due: vec![head.len() - 2],
        sends: vec![head.into()],
    }
}

/// Sends one request on each of three connections that are all open, and compares what arrives: a line is in the first `written` of them.
fn three_connections(port: u16, received: &Receiver<Vec<u8>>, written: usize) -> Result<()> {
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(TcpStream::connect(("127.0.0.1", port))?);
    }
    for (n, stream) in open.iter_mut().enumerate() {
        let case = case(&format!("/{n}"));
        stream.write_all(&case.sends[0])?;
        stream.shutdown(Shutdown::Write)?;
        compare(&case, &received.recv_timeout(PATIENCE)?, n < written)?;
    }
    Ok(())
}

/// The values of these counters.
fn assert_counts(statistics: &Statistics, expected: &[(&str, u64)]) {
    for (name, value) in expected {
        assert_eq!(statistics.get(name), *value, "{name}\n{statistics}");
    }
}

/// Their peer is in none of the networks that get headers.
fn untrusted(context: &mut Context) -> Result<()> {
    let (port, received, agent, injects) = traced(context, &["--inject-to", "127.0.0.2/32"])?;
    three_connections(port, &received, 0)?;
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    let expected = [
        ("inject_untrusted", 3),
        ("inject_sockets", 0),
        ("inject_requests", 0),
        ("inject_bytes", 0),
        ("client_decisions", 3),
    ];
    assert_counts(&statistics, &expected);
    Ok(())
}

/// A table has room for one connection: the others are traced like those of a kernel that takes no headers.
fn one_of_three(context: &mut Context, fault: &str, counter: &str) -> Result<()> {
    let (port, received, agent, injects) = traced(context, &["--fault", fault])?;
    three_connections(port, &received, usize::from(injects))?;
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    let expected = [
        (counter, 2),
        ("inject_sockets", 1),
        ("inject_requests", 1),
        ("inject_inserted", 1),
        ("client_decisions", 3),
    ];
    assert_counts(&statistics, &expected);
    Ok(())
}

/// Of six requests in one send four get a line; and one does not that begins behind 32 KiB of its send.
fn beyond_limit(context: &mut Context) -> Result<()> {
    const WRITTEN: usize = 4;
    let (port, received, agent, injects) = traced(context, &[])?;
    let heads: Vec<String> = (1..=6).map(|n| head(&format!("/pipelined/{n}"))).collect();
    let mut ends: Vec<usize> = Vec::new();
    for head in &heads {
        ends.push(ends.last().copied().unwrap_or_default() + head.len());
    }
    let body = "b".repeat(33_000);
    let first = format!(
        "POST /far HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let cases = [
        Case {
            name: "many in one send",
            sends: vec![heads.concat().into()],
            due: ends[..WRITTEN].iter().map(|end| end - 2).collect(),
        },
        Case {
            name: "far inside a send",
            sends: vec![format!("{first}{body}{}", head("/behind")).into()],
            due: vec![first.len() - 2],
        },
    ];
    for case in &cases {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        let sent = stream.write(&case.sends[0])?;
        ensure!(sent == case.sends[0].len(), "{}: {sent} bytes", case.name);
        stream.shutdown(Shutdown::Write)?;
        compare(case, &received.recv_timeout(PATIENCE)?, injects)?;
    }
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    let expected = [
        ("inject_beyond_limit", 3),
        ("inject_inserted", 5),
        ("inject_requests", 8),
        ("inject_sockets", 2),
    ];
    assert_counts(&statistics, &expected);
    Ok(())
}

/// Sends a request whose body ends in memory that is not there any more, ends that connection, and sends another request on the next one.
const HALF_GONE: &str = r#"
import errno, mmap, os, socket, sys
address = ("127.0.0.1", int(sys.argv[1]))
memory = os.memfd_create("gone")
os.ftruncate(memory, 4096)
gone = mmap.mmap(memory, 4096)
os.ftruncate(memory, 0)
connection = socket.create_connection(address)
head = b"POST /unsent HTTP/1.1\r\nHost: a\r\nContent-Length: 24096\r\n\r\n"
try:
    print(connection.sendmsg([head + b"b" * 20000, gone]))
except OSError as error:
    print(errno.errorcode[error.errno])
connection.close()
connection = socket.create_connection(address)
connection.sendall(sys.argv[2].encode())
connection.shutdown(socket.SHUT_WR)
while connection.recv(1000):
    pass
"#;

/// The kernel gives a send up before it comes to the program that writes: the header that was meant for it is withdrawn, and goes nowhere else.
fn unsent(context: &mut Context) -> Result<()> {
    let (port, received, agent, injects) = traced(context, &[])?;
    let python = service::program("python3")?;
    let output = Command::new(python)
        .args(["-c", HALF_GONE, &port.to_string(), &head("/sent")])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let first = received.recv_timeout(PATIENCE)?;
    compare(&case("/sent"), &received.recv_timeout(PATIENCE)?, injects)?;
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    // On 7.2 a socket in a sockhash is told that nothing was taken, one outside EFAULT as before (README).
    let answer = if kernel_is_at_least(7, 0)? {
        "0"
    } else {
        "EFAULT"
    };
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!((told.trim(), first.len()), (answer, 0));
    let expected = [
        ("inject_unsent", 1),
        ("inject_inserted", 1),
        ("inject_requests", 2),
        ("inject_sockets", 2),
    ];
    assert_counts(&statistics, &expected);
    Ok(())
}
