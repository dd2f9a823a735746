//! The self-test while headers are written: what it does to connections when it passes again, and when it fails.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
};

use anyhow::{Result, ensure};
use aya::maps::{Map, MapData, SockHash, loaded_maps};

use super::{
    injects, refused,
    wire::{Case, compare, position},
};
use crate::{
    harness::{
        Context, PATIENCE,
        agent::{Agent, Setup},
        wait_for,
    },
    scenario::Scenario,
};

pub(in crate::scenario) const SCENARIOS: &[Scenario] = &[
    Scenario::full("safety_header_proven_again", proven_again),
    Scenario::full("safety_header_proof_fails_later", fails_later),
];

/// Connections that stay open.
const OPEN: usize = 3;

/// What the agent says when a self-test has failed while headers are written.
const STOPPED: &str = "no header is written any more";

/// Connections to a server that answers each request, and what it receives on each until it ends, in the order of their ends.
struct Conversation {
    port: u16,
    received: Receiver<Vec<u8>>,
    open: Vec<(TcpStream, Case)>,
}

impl Conversation {
    fn new(context: &Context) -> Result<Self> {
        let port = context.port();
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let (sender, received) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || sender.send(answer(stream).unwrap_or_default()));
            }
        });
        Ok(Self {
            port,
            received,
            open: Vec::new(),
        })
    }

    /// One connection more.
    fn connect(&mut self) -> Result<()> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let case = Case {
            name: "one of several requests",
            sends: Vec::new(),
            due: Vec::new(),
        };
        self.open.push((stream, case));
        Ok(())
    }

    /// A request on each connection, and its answer; into all of these a line is due, or into none.
    fn ask(&mut self, due: bool) -> Result<()> {
        for (n, (stream, case)) in self.open.iter_mut().enumerate() {
            let number = case.sends.len();
            let request = format!("GET /{n}/{number} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let mut answer = [0; ANSWER.len()];
            stream.read_exact(&mut answer)?;
            ensure!(answer == ANSWER, "{}", answer.escape_ascii());
            let before: usize = case.sends.iter().map(Vec::len).sum();
            if due {
                case.due.push(before + request.len() - 2);
            }
            case.sends.push(request.into());
        }
        Ok(())
    }

    /// Ends the connections one by one, and compares what the server received.
    fn end(self, injects: bool) -> Result<()> {
        for (stream, case) in self.open {
            stream.shutdown(Shutdown::Write)?;
            compare(&case, &self.received.recv_timeout(PATIENCE)?, injects)?;
        }
        Ok(())
    }
}

const ANSWER: [u8; 40] = *b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn answer(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let (mut all, mut answered) = (Vec::new(), 0);
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&chunk[..count]);
        while let Some(at) = position(&all[answered..], b"\r\n\r\n") {
            answered += at + 4;
            stream.write_all(&ANSWER)?;
        }
    }
}

/// Sockets in the sockhashes of all agents, as the kernel itself tells.
fn enrolled() -> Result<usize> {
    let mut sockets = 0;
    for map in loaded_maps() {
        let map = map?;
        if map.name_as_str() != Some("ENROLLED") {
            continue;
        }
        // It may be gone by now.
        let Ok(data) = MapData::from_id(map.id()) else {
            continue;
        };
        let map: SockHash<MapData, u64> = Map::from_map_data(data)?.try_into()?;
        sockets += map.keys().count();
    }
    Ok(sockets)
}

/// An agent whose self-test is repeated when its counters are asked for, and connections with one request each; whether headers are written.
fn traced(context: &Context, faults: &[&str]) -> Result<(Conversation, Agent, bool)> {
    let mut conversation = Conversation::new(context)?;
    let mut setup = Setup::bare()
        .port(conversation.port)
        .arg("--inject")
        .arg("--fault")
        .arg("proof-on-report");
    for fault in faults {
        setup = setup.arg("--fault").arg(*fault);
    }
    let agent = setup.start(context)?;
    let injects = injects(&agent)?;
    for _ in 0..OPEN {
        conversation.connect()?;
    }
    conversation.ask(true)?;
    assert_eq!(enrolled()?, if injects { OPEN } else { 0 });
    Ok((conversation, agent, injects))
}

/// A repetition that passes disturbs nobody; and the end of the agent takes every socket out of the sockhash.
fn proven_again(context: &mut Context) -> Result<()> {
    let (mut conversation, agent, injects) = traced(context, &[])?;
    if injects {
        // Each look asks for one more.
        let proven = || {
            let report = agent.report().ok()?;
            report.get("inject_proofs").copied()
        };
        wait_for(|| agent.output(), PATIENCE, proven)?;
    }
    conversation.ask(true)?;
    let statistics = agent.stop()?;
    conversation.ask(false)?;
    conversation.end(injects)?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}", statistics.get("inject_inserted"));
    let open = OPEN as u64;
    for (name, expected) in [
        ("inject_inserted", 2 * open),
        ("inject_requests", 2 * open),
        ("inject_sockets", open),
        ("inject_let_go", open),
        ("inject_proofs_failed", 0),
        ("headers_written", 1),
    ] {
        assert_eq!(statistics.get(name), expected, "{name}\n{statistics}");
    }
    assert!(statistics.get("inject_proofs") > 0, "{statistics}");
    Ok(())
}

/// A repetition that fails ends the writing of headers, and nothing else: no socket stays enrolled, open connections go on, neither they nor new ones
/// get a header, spans are made, and the reason is told.
fn fails_later(context: &mut Context) -> Result<()> {
    let (mut conversation, agent, injects) = traced(context, &["repetition-broken"])?;
    agent.report()?;
    let told = || {
        let output = agent.output();
        let line = output.lines().find(|line| line.contains(STOPPED))?;
        Some(line.to_owned())
    };
    if injects {
        let line = wait_for(|| agent.output(), PATIENCE, told)?;
        let reason = "self-test: bytes differ: a header that was put in";
        ensure!(line.contains(reason) && line.contains("WARN"), "{line}");
        assert_eq!(enrolled()?, 0, "sockets stay");
    }
    conversation.connect()?;
    conversation.ask(false)?;
    assert_eq!(enrolled()?, 0, "a socket was enrolled later");
    conversation.ask(false)?;
    let statistics = agent.stop()?;
    conversation.end(injects)?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}", statistics.get("inject_inserted"));
    let open = OPEN as u64;
    for (name, expected) in [
        ("inject_proofs_failed", 1),
        ("inject_proofs", 0),
        ("headers_written", 0),
        ("inject_let_go", open),
        ("inject_sockets", open),
        ("inject_requests", open),
        ("inject_inserted", open),
        ("inject_unsent", 0),
        ("client_decisions", open + 2 * (open + 1)),
    ] {
        assert_eq!(statistics.get(name), expected, "{name}\n{statistics}");
    }
    Ok(())
}
