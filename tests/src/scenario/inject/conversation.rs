//! Several requests on each of several connections, and who is in a sockhash.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
};

use anyhow::{Result, ensure};
use aya::maps::{Map, MapData, SockHash, loaded_maps};

use super::wire::{Case, compare, position};
use crate::harness::{Context, PATIENCE};

/// Connections to a server that answers each request, and what it receives on each until it ends, in the order of their ends.
pub(super) struct Conversation {
    pub(super) port: u16,
    received: Receiver<Vec<u8>>,
    open: Vec<(TcpStream, Case)>,
}

impl Conversation {
    pub(super) fn new(context: &Context) -> Result<Self> {
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
    pub(super) fn connect(&mut self) -> Result<()> {
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
    pub(super) fn ask(&mut self, due: bool) -> Result<()> {
        self.ask_each(|_| due)
    }

    /// The same; a line is due on the connections for whose number `due` says so.
    pub(super) fn ask_each(&mut self, due: impl Fn(usize) -> bool) -> Result<()> {
        for (n, (stream, case)) in self.open.iter_mut().enumerate() {
            let number = case.sends.len();
            let request = format!("GET /{n}/{number} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let mut answer = [0; ANSWER.len()];
            stream.read_exact(&mut answer)?;
            ensure!(answer == ANSWER, "{}", answer.escape_ascii());
            let before: usize = case.sends.iter().map(Vec::len).sum();
            if due(n) {
                case.due.push(before + request.len() - 2);
            }
            case.sends.push(request.into());
        }
        Ok(())
    }

    /// Ends the connections one by one, and compares what the server received.
    pub(super) fn end(self, injects: bool) -> Result<()> {
        for (stream, case) in self.open {
            stream.shutdown(Shutdown::Write)?;
            compare(&case, &self.received.recv_timeout(PATIENCE)?, injects)?;
        }
        Ok(())
    }
}

/// What the server says to each request.
pub(super) const ANSWER: [u8; 40] = *b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What it says to one that asks for another protocol, of which it says nothing.
pub(super) const UPGRADED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

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
            let request = &all[answered..answered + at];
            answered += at + 4;
            if position(request, b"Upgrade: echo").is_some() {
                stream.write_all(UPGRADED)?;
            } else {
                stream.write_all(&ANSWER)?;
            }
        }
    }
}

/// Sockets in the sockhashes of all agents, as the kernel itself tells.
pub(super) fn enrolled() -> Result<usize> {
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
