//! An OTLP receiver that costs as little as possible: bodies are kept as they came and decoded only when everything is over.
//!
//! It prints the port that it listens on, and when its standard input ends one line of JSON: spans and requests received.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use serde::{Deserialize, Serialize};

/// The longest body taken.
const MAX_BODY: usize = 64 << 20;

/// What was received.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Received {
    /// Spans in all requests.
    pub(crate) spans: u64,
    /// Export requests.
    pub(crate) requests: u64,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
}

type Bodies = Arc<Mutex<Vec<Vec<u8>>>>;

/// Serves until standard input ends.
///
/// # Errors
/// When it cannot listen, or a body is no OTLP.
pub(crate) fn run() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    println!("{}", listener.local_addr()?.port());
    let bodies = Bodies::default();
    let kept = Arc::clone(&bodies);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let bodies = Arc::clone(&kept);
            // A connection that breaks is the exporter's to repeat.
            thread::spawn(move || serve(&stream, &bodies));
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    let bodies = std::mem::take(
        &mut *bodies
            .lock()
            .expect("no thread panics while it holds the lock"),
    );
    let mut received = Received::default();
    for body in &bodies {
        let request =
            ExportTraceServiceRequest::decode(body.as_slice()).context("a body is no OTLP")?;
        let scopes = request
            .resource_spans
            .iter()
            .flat_map(|resource| &resource.scope_spans);
        received.spans += scopes.map(|scope| scope.spans.len() as u64).sum::<u64>();
        received.requests += 1;
        received.bytes += body.len() as u64;
    }
    println!("{}", serde_json::to_string(&received)?);
    Ok(())
}

fn serve(stream: &TcpStream, bodies: &Bodies) -> Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    loop {
        let mut length = 0;
        let mut traces = false;
        let mut line = String::new();
        for number in 0.. {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if number == 0 {
                traces = line.contains("/v1/traces");
            } else if let Some((name, value)) = line.split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse()?;
                }
            } else {
                break;
            }
        }
        ensure!(length <= MAX_BODY, "a body of {length} bytes");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if traces {
            bodies
                .lock()
                .expect("no thread panics while it holds the lock")
                .push(body);
        }
        let mut stream = stream;
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
        )?;
    }
}
