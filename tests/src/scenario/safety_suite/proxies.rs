//! Proxies whose upstream requests get headers: answers from one byte to 50 MB come through whole, and the origin gets what it got before.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use super::{Run, same_with_and_without};
use crate::harness::{
    Context,
    http::{Connection, head_of},
    origin::{Reads, Recorder, answer, checksum, pattern},
    service,
};

/// How large the largest answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// 5 MB.
    Reduced,
    /// 50 MB.
    Full,
}

/// Bytes of answers through each proxy.
const SIZES: &[usize] = &[1, 100, 4_096, 65_536, 1_000_000];

const LARGE: usize = 5_000_000;

const LARGEST: usize = 50_000_000;

/// Bytes of request heads, which proxies take up to some 15 KiB.
const HEADS: &[usize] = &[100, 1_000, 4_096, 14_000];

/// nginx with and without sendfile, with upstream connections that are kept and that are not.
pub(super) fn nginx(context: &mut Context, size: Size) -> Result<()> {
    let origin = Recorder::origin(context, Reads::Any)?;
    let backend = origin.port().to_string();
    let front = context.port();
    let kept = ("keepalive 16;", "", "1.1");
    let closed = ("", "close", "1.0");
    let variants: &[(&str, (&str, &str, &str))] = match size {
        Size::Reduced => &[("on", kept), ("off", closed)],
        Size::Full => &[("on", kept), ("off", kept), ("on", closed), ("off", closed)],
    };
    same_with_and_without(context, origin.port(), || {
        let mut run = Run::default();
        for (sendfile, (keepalive, connection, version)) in variants {
            let values = [
                ("BACKEND", backend.as_str()),
                ("SENDFILE", sendfile),
                ("KEEPALIVE", keepalive),
                ("CONNECTION", connection),
                ("VERSION", version),
            ];
            let proxy = service::nginx(context, "suite.conf", front, &values)?;
            let largest = match size {
                Size::Full if !keepalive.is_empty() => LARGEST,
                _ => LARGE,
            };
            ask(front, largest, &mut run.told)?;
            drop(proxy);
            run.add(origin.ended()?);
        }
        Ok(run)
    })
}

/// Ways in which haproxy treats connections to the server, whether it moves answers by splice, and bytes of the largest one.
const HAPROXY: &[(&str, bool, usize)] = &[
    ("http-keep-alive", false, LARGE),
    ("http-server-close", false, LARGE),
    ("http-keep-alive", true, LARGEST),
];

/// haproxy, with upstream connections that are kept and that are not, with and without splice.
pub(super) fn haproxy(context: &mut Context) -> Result<()> {
    let program = service::program("haproxy")?;
    let origin = Recorder::origin(context, Reads::Any)?;
    let front = context.port();
    same_with_and_without(context, origin.port(), || {
        through_haproxy(context, &program, &origin, front)
    })
}

/// All ways of haproxy, one after the other.
fn through_haproxy(
    context: &Context,
    program: &Path,
    origin: &Recorder,
    front: u16,
) -> Result<Run> {
    let template = fs::read_to_string(service::workloads().join("haproxy.cfg"))?;
    let file = context.folder().join("haproxy.cfg");
    let mut run = Run::default();
    for (reuse, splices, largest) in HAPROXY {
        let splice = if *splices {
            "option splice-response"
        } else {
            ""
        };
        let text = template
            .replace("@REUSE@", reuse)
            .replace("@SPLICE@", splice)
            .replace("@PORT@", &front.to_string())
            .replace("@BACKEND@", &origin.port().to_string());
        fs::write(&file, text)?;
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(&file);
        let proxy = service::start(context, "haproxy", &mut command, front)?;
        // It listens before it has made all that it needs to work.
        Connection::open(front)?.get("/size/1")?;
        let before = pipes(proxy.pid())?;
        ask(front, *largest, &mut run.told)?;
        // It keeps the pipes that it has made.
        let after = pipes(proxy.pid())?;
        ensure!(
            (after > before) == *splices,
            "{reuse}: {before} ends of pipes before, {after} after"
        );
        drop(proxy);
        run.add(origin.ended()?);
    }
    Ok(run)
}

/// Ends of pipes that a process has open.
fn pipes(pid: u32) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let target = fs::read_link(entry?.path());
        let is_pipe = |target: PathBuf| target.to_string_lossy().starts_with("pipe:");
        count += usize::from(target.is_ok_and(is_pipe));
    }
    Ok(count)
}

/// Asks a proxy for answers of all sizes on one connection, and sends it heads and bodies; every byte of the answers must be right.
fn ask(port: u16, largest: usize, told: &mut String) -> Result<()> {
    let mut client = Connection::open(port)?;
    for size in SIZES.iter().chain([&largest]) {
        let response = client.get(&format!("/size/{size}"))?;
        ensure!(
            response.status == 200 && response.body == pattern(*size),
            "an answer of {size} bytes came as {} with {}",
            response.status,
            response.body.len()
        );
        writeln!(told, "{size} {}", checksum(&response.body))?;
    }
    let response = client.get("/chunked/30000")?;
    ensure!(
        response.body == pattern(30_000),
        "the chunked answer differs"
    );
    for length in HEADS {
        client.send(head_of(*length, "/head", "", "").as_bytes())?;
        let response = client.response("GET")?;
        ensure!(response.body == answer("/head", b""), "{}", response.text());
    }
    for length in [10, 200_000] {
        let body = pattern(length);
        client.send(
            format!("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
                .as_bytes(),
        )?;
        client.send(&body)?;
        let response = client.response("POST")?;
        ensure!(
            response.body == answer("/body", &body),
            "{}",
            response.text()
        );
        writeln!(told, "{}", response.text())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// As far as it is on this machine.
    #[test]
    fn haproxy_passes_everything_on_without_an_agent() {
        let Ok(program) = service::program("haproxy") else {
            return;
        };
        let context = Context::new("haproxy").expect("the temporary folder is writable");
        let origin = Recorder::origin(&context, Reads::Any).expect("a port is free");
        // Other tests take theirs from the same numbers on at the same time.
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let front = free.local_addr().expect("it is bound").port();
        drop(free);
        let runs = [(); 2].map(|()| {
            through_haproxy(&context, &program, &origin, front).expect("everything comes through")
        });
        // One connection where they are kept, one for each request where they are not.
        let (first, large, chunked, bodies) = (1, 1, 1, 2);
        let requests = first + SIZES.len() + large + chunked + HEADS.len() + bodies;
        assert_eq!(runs[0].connections, 1 + requests + 1);
        assert!(
            runs[0].received == runs[1].received,
            "the server got other bytes"
        );
        assert_eq!(runs[0].told, runs[1].told);
    }
}
