//! A recording of conversations that never took place: wrk and nginx on kept connections.

use agent_common::abi::{Decision, Direction, Role, Source};
use anyhow::Result;
use undertrace::{
    event::{
        ClockPair,
        recording::{Description, Recorder},
    },
    process::{ProcessFacts, Resource},
    testing::{PROCESS, SegmentExt as _, Socket},
};

/// Connections at one time.
const CONNECTIONS: u64 = 8;

/// Exchanges on each connection.
const EXCHANGES: u64 = 4_000;

/// Exchanges on all connections between two ticks: 10,000 a second.
const PER_TICK: u64 = 1_000;

/// What the clients ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Conversations {
    /// Always the same, as a load generator does.
    Repeated,
    /// Each time something else, with headers as a browser has them and a context of their own.
    Varied,
}

impl Conversations {
    fn request(self, number: u64) -> Vec<u8> {
        match self {
            Self::Repeated => b"GET / HTTP/1.1\r\nHost: 127.0.0.1:18080\r\n\r\n".to_vec(),
            Self::Varied => format!(
                "GET /items/{number}?page={} HTTP/1.1\r\nHost: shop.example:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) \
                 Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
                 Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n\
                 Cookie: session={number:032x}; theme=light\r\n\
                 traceparent: 00-0000000000000007{number:016x}-{number:016x}-01\r\n\r\n",
                number % 9
            )
            .into_bytes(),
        }
    }

    fn response(self, number: u64) -> Vec<u8> {
        let body = match self {
            Self::Repeated => "hello\n".to_owned(),
            Self::Varied => "x".repeat(usize::try_from(number % 200).unwrap_or(0)),
        };
        format!(
            "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
             Content-Type: text/plain\r\nContent-Length: {}\r\nConnection: keep-alive\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

/// The recording's bytes.
pub(crate) fn recording(conversations: Conversations) -> Result<Vec<u8>> {
    let mut recorder =
        Recorder::begin(Vec::new(), &Description::of_this_machine(Vec::new(), false))?;
    recorder.clock(ClockPair {
        monotonic_ns: 0,
        unix_ns: 1_700_000_000_000_000_000,
    })?;
    let resource = Resource::new(vec![
        ("service.name".into(), "nginx".to_owned()),
        ("process.pid".into(), "42".to_owned()),
    ]);
    recorder.process(&ProcessFacts {
        key: PROCESS,
        resource,
    })?;
    let mut sockets: Vec<Socket> = (1..=CONNECTIONS)
        .map(|id| Socket::open(id, Role::Server))
        .collect();
    let mut number = 0_u64;
    for _ in 0..EXCHANGES {
        for socket in &mut sockets {
            number += 1;
            socket
                .receive(&conversations.request(number))
                .starts()
                .decided(decision(number));
            socket.send(&conversations.response(number)).starts();
            for record in socket.records.drain(..) {
                recorder.record(&record.bytes())?;
            }
            if number.is_multiple_of(PER_TICK) {
                recorder.tick(socket.now_ns)?;
            }
        }
    }
    for socket in &mut sockets {
        socket.close(0);
        for record in socket.records.drain(..) {
            recorder.record(&record.bytes())?;
        }
    }
    Ok(recorder.finish()?)
}

/// A root's decision.
fn decision(number: u64) -> Decision {
    let mut trace_id = [7; 16];
    trace_id[8..].copy_from_slice(&number.to_be_bytes());
    Decision {
        trace_id,
        span_id: number.to_be_bytes(),
        source: Source::Root as u8,
        direction: Direction::Receive as u8,
        confidence: 100,
        trace_flags: 3,
        ..Decision::default()
    }
}
