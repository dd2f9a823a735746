//! Headers where the kernel takes sends by parts.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use rustix::net::sockopt;

use super::{
    injects, refused,
    wire::{LINE, position},
};
use crate::harness::{Context, agent::Setup, collector::Collector};

/// Requests that fill a small send queue of a client that does not wait, towards a server that reads slowly: whatever the kernel takes of each send,
/// the process's bytes arrive once and in order, and whole lines between them.
pub(super) fn narrow_send_queue(context: &mut Context) -> Result<()> {
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
