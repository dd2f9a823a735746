//! The HTTP/protobuf receiver: one thread per connection, just enough HTTP/1.1 for an OTLP exporter.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::{
    metrics::v1::ExportMetricsServiceRequest,
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use prost::Message as _;

use super::{Answer, Inbox};

/// Largest body that is taken, compressed or not.
const MAX_BODY: u64 = 64 << 20;

/// Starts the receiver on a free port.
///
/// # Errors
/// When no port can be bound.
pub(super) fn serve(inbox: Inbox, address: Ipv4Addr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((address, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let inbox = inbox.clone();
            thread::spawn(move || {
                // A client that goes away or sends nonsense ends its connection; the scenario sees what is missing.
                let _ = connection(stream, &inbox);
            });
        }
    });
    Ok(address)
}

struct Head {
    path: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

fn connection(mut stream: TcpStream, inbox: &Inbox) -> Result<()> {
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer)? {
        let length: usize = head
            .header("content-length")
            .context("no content-length")?
            .parse()?;
        if u64::try_from(length)? > MAX_BODY {
            bail!("body too large");
        }
        while buffer.len() < length {
            if read_more(&mut stream, &mut buffer)? == 0 {
                bail!("body ends early");
            }
        }
        let body: Vec<u8> = buffer.drain(..length).collect();
        let gzip = head.header("content-encoding") == Some("gzip");
        let body = if gzip { inflate(&body)? } else { body };
        if head.header("content-type") != Some("application/x-protobuf") {
            respond(&mut stream, 415, None, &[])?;
        } else if head.path == "/v1/traces" {
            let request = ExportTraceServiceRequest::decode(body.as_slice())?;
            match inbox.traces(request, "http", gzip, head.headers) {
                Answer::Accept => respond(&mut stream, 200, None, &[])?,
                Answer::Refuse {
                    status,
                    retry_after_seconds,
                } => {
                    respond(&mut stream, status, retry_after_seconds, &[])?;
                }
                Answer::Partial { rejected } => {
                    let answer = ExportTraceServiceResponse {
                        partial_success: Some(ExportTracePartialSuccess {
                            rejected_spans: rejected,
                            error_message: "rejected by the test".into(),
                        }),
                    };
                    respond(&mut stream, 200, None, &answer.encode_to_vec())?;
                }
                // Waits for the client to lose patience.
                Answer::Hang => while read_more(&mut stream, &mut buffer)? > 0 {},
            }
        } else if head.path == "/v1/metrics" {
            let request = ExportMetricsServiceRequest::decode(body.as_slice())?;
            inbox.metrics(request, "http");
            respond(&mut stream, 200, None, &[])?;
        } else {
            respond(&mut stream, 404, None, &[])?;
        }
    }
    Ok(())
}

fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Head>> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        if let httparse::Status::Complete(length) = request.parse(buffer)? {
            let head = Head {
                path: request.path.unwrap_or_default().to_owned(),
                headers: request
                    .headers
                    .iter()
                    .map(|h| {
                        (
                            h.name.to_ascii_lowercase(),
                            String::from_utf8_lossy(h.value).into_owned(),
                        )
                    })
                    .collect(),
            };
            buffer.drain(..length);
            return Ok(Some(head));
        }
        if buffer.len() > 64 << 10 {
            bail!("head too large");
        }
        if read_more(stream, buffer)? == 0 {
            return Ok(None);
        }
    }
}

fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<usize> {
    let mut chunk = [0; 16 << 10];
    let count = stream.read(&mut chunk)?;
    buffer.extend_from_slice(&chunk[..count]);
    Ok(count)
}

fn inflate(body: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    GzDecoder::new(body).take(MAX_BODY).read_to_end(&mut out)?;
    Ok(out)
}

fn respond(
    stream: &mut TcpStream,
    status: u16,
    retry_after: Option<u32>,
    body: &[u8],
) -> Result<()> {
    let retry = retry_after
        .map(|s| format!("retry-after: {s}\r\n"))
        .unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status} Test\r\ncontent-type: application/x-protobuf\r\n{retry}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    Ok(())
}
