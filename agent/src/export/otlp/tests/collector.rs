//! A collector in this process: OTLP over gRPC and HTTP on one port of loopback, with or without TLS. The gRPC framing is written by hand, so
//! that the client is not tested against its own library.

use std::{
    collections::VecDeque,
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Buf, Bytes};
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::ExportMetricsServiceRequest,
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

/// What the collector answers; what it was not told to answer is success.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Success, with that many spans rejected and a message.
    Partial(i64, &'static str),
    /// An HTTP status with these headers.
    Http(u16, Vec<(&'static str, String)>),
    /// A gRPC status with these details.
    Grpc(u32, Bytes),
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) request: ExportTraceServiceRequest,
    pub(super) at: Instant,
}

impl Received {
    /// The last byte of each span id.
    pub(super) fn ids(&self) -> Vec<u8> {
        let resources = self.request.resource_spans.iter();
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        let spans = scopes.flat_map(|scope| &scope.spans);
        spans.map(|span| span.span_id[7]).collect()
    }
}

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<VecDeque<Answer>>,
    received: Mutex<Vec<Received>>,
    metrics: Mutex<Vec<(HeaderMap, ExportMetricsServiceRequest)>>,
}

/// A running collector; it ends when dropped.
#[derive(Debug)]
pub(super) struct Collector {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    /// A collector on a free port.
    pub(super) async fn start() -> Self {
        Self::start_at("127.0.0.1:0", None).await
    }

    /// A collector at this address, with TLS if there is an acceptor.
    pub(super) async fn start_at(address: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(accept(listener, Arc::clone(&shared), tls));
        Self {
            address,
            shared,
            task,
        }
    }

    /// Tells the next answer; answers are given in this order.
    pub(super) fn answer(&self, answer: Answer) {
        lock(&self.shared.answers).push_back(answer);
    }

    /// Everything that arrived so far.
    pub(super) fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// Every export of metrics that arrived so far, with its headers.
    pub(super) fn metrics(&self) -> Vec<(HeaderMap, ExportMetricsServiceRequest)> {
        lock(&self.shared.metrics).clone()
    }
}

/// Waits for a condition; fails after ten seconds.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), holds).await;
    assert!(waited.is_ok(), "not within ten seconds: {what}");
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    // Connections end with this task, as those of a collector that is stopped.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        connections.spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                // A client that does not trust us ends the handshake.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, hyper::Error>(respond(request, &shared).await) }
    });
    let builder = Builder::new(TokioExecutor::new());
    // The client may go at any time.
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

async fn respond(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let body = body.unwrap_or_default();
    let is = |name: &str, value: &str| {
        let header = head.headers.get(name);
        header.is_some_and(|header| header.as_bytes().starts_with(value.as_bytes()))
    };
    let is_grpc = is("content-type", "application/grpc");
    let is_json = is("content-type", "application/json");
    let payload = if is_grpc {
        unframed(body, is("grpc-encoding", "gzip"))
    } else if is("content-encoding", "gzip") {
        decompressed(&body)
    } else {
        body
    };
    if head.uri.path().to_ascii_lowercase().contains("metrics") {
        let export = ExportMetricsServiceRequest::decode(payload).expect("an OTLP request");
        lock(&shared.metrics).push((head.headers, export));
        // Both responses are empty when all is well.
        let success = ExportTraceServiceResponse::default();
        return if is_grpc {
            framed(&success)
        } else {
            response(Bytes::new(), "application/x-protobuf")
        };
    }
    let export = if is_json {
        serde_json::from_slice(&payload).expect("OTLP JSON")
    } else {
        ExportTraceServiceRequest::decode(payload).expect("an OTLP request")
    };
    lock(&shared.received).push(Received {
        path: head.uri.path().to_owned(),
        headers: head.headers,
        request: export,
        at: Instant::now(),
    });
    let answer = lock(&shared.answers).pop_front();
    let partial_success = match &answer {
        Some(Answer::Partial(rejected_spans, message)) => Some(ExportTracePartialSuccess {
            rejected_spans: *rejected_spans,
            error_message: (*message).to_owned(),
        }),
        _ => None,
    };
    let success = ExportTraceServiceResponse { partial_success };
    match answer {
        Some(Answer::Http(status, headers)) => {
            let mut response = response(Bytes::new(), "text/plain");
            *response.status_mut() = status.try_into().expect("a status");
            for (name, value) in headers {
                let value = value.parse().expect("a header value");
                response.headers_mut().insert(name, value);
            }
            response
        }
        Some(Answer::Grpc(code, details)) => {
            let mut response = response(Bytes::new(), "application/grpc");
            let headers = response.headers_mut();
            headers.insert("grpc-status", code.into());
            headers.insert("grpc-message", HeaderValue::from_static("scripted"));
            let details = base64(&details).parse().expect("base64 is ASCII");
            headers.insert("grpc-status-details-bin", details);
            response
        }
        _ if is_grpc => framed(&success),
        _ if is_json => {
            let json = serde_json::to_vec(&success).expect("a message is JSON");
            response(json.into(), "application/json")
        }
        _ => response(success.encode_to_vec().into(), "application/x-protobuf"),
    }
}

fn response(body: Bytes, content_type: &'static str) -> Response<Body> {
    Response::builder()
        .header("content-type", content_type)
        .body(Full::new(body).boxed())
        .expect("the head is valid")
}

/// A gRPC response with one message and status 0 in its trailers.
fn framed(message: &ExportTraceServiceResponse) -> Response<Body> {
    let message = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
    frame.extend_from_slice(&message);
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static("grpc-status"), 0_u32.into());
    let body = Full::new(Bytes::from(frame)).with_trailers(async move { Some(Ok(trailers)) });
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body.boxed())
        .expect("the head is valid")
}

/// The message of a gRPC request: flag, length, bytes.
fn unframed(mut body: Bytes, is_gzip: bool) -> Bytes {
    let is_compressed = body.get_u8() == 1;
    let length = body.get_u32() as usize;
    assert_eq!(body.len(), length, "one message in a request");
    assert!(
        !is_compressed || is_gzip,
        "compressed with gzip, as announced"
    );
    if is_compressed {
        decompressed(&body)
    } else {
        body
    }
}

fn decompressed(bytes: &[u8]) -> Bytes {
    let mut plain = Vec::new();
    let read = GzDecoder::new(bytes).read_to_end(&mut plain);
    read.expect("valid gzip");
    plain.into()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..=group.len() {
            let digit = bits >> (18 - 6 * at) & 63;
            text.push(char::from(DIGITS[digit as usize]));
        }
    }
    text
}
