//! OTLP: spans to a collector. Input: complete spans. Output: export requests, many Resources in one.
//!
//! [`OtlpSink`] queues without waiting; a task on the runtime takes batches, encodes each once and sends it until it is delivered, refused
//! or given up. What a receiver that is down costs is one full queue, and a counter that moves.

pub mod encode;
pub mod grpc;
pub mod http;
pub mod retry;
pub mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use tokio::{runtime::Handle, sync::watch, task::JoinHandle};
use tracing::{info, warn};

use self::{
    encode::Encoder,
    grpc::GrpcClient,
    http::HttpClient,
    retry::{Backoff, Outcome, Policy},
    settings::{Protocol, Settings},
};
use super::{
    Sink,
    queue::{Batch, Limits, Queue},
};
use crate::{span::Span, telemetry::Counters};

/// Names us to receivers.
const USER_AGENT: &str = concat!("undertrace/", env!("CARGO_PKG_VERSION"));

/// Longest pause between attempts once the end began.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Settings that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The endpoint is no URL that can be connected to.
    #[error("{endpoint:?} is no usable OTLP endpoint, which looks like http://HOST:4317")]
    Endpoint {
        /// As configured, without user name and password.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A header has a name or value that HTTP does not allow.
    #[error("the OTLP header {name:?} is not a valid header")]
    Header {
        /// Its name; the value may be a secret.
        name: String,
    },
    /// A certificate or key does not parse.
    #[error("the OTLP certificates cannot be used")]
    Tls {
        /// What is wrong with them.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Spans to a collector.
#[derive(Debug)]
pub struct OtlpSink {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
}

/// The other end of an [`OtlpSink`]: what sends, and what waits for it at the end.
#[derive(Debug)]
pub struct OtlpWorker {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    in_flight: Arc<AtomicU64>,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Starts a worker on `runtime` and gives the sink that feeds it.
///
/// # Errors
/// The settings cannot work, whatever the network does.
pub fn start(
    settings: &Settings,
    limits: Limits,
    policy: Policy,
    counters: &Arc<Counters>,
    runtime: &Handle,
) -> Result<(OtlpSink, OtlpWorker), ClientError> {
    let client = {
        let _context = runtime.enter();
        Client::new(settings)?
    };
    let queue = Arc::new(Queue::new(limits));
    let in_flight = Arc::new(AtomicU64::new(0));
    let (closing, closing_seen) = watch::channel(false);
    let delivery = Delivery {
        queue: Arc::clone(&queue),
        client,
        encoder: Encoder::default(),
        json: settings.protocol == Protocol::HttpJson,
        endpoint: settings.public_endpoint(),
        policy,
        counters: Arc::clone(counters),
        in_flight: Arc::clone(&in_flight),
        closing: closing_seen,
        failing: false,
        random: RandomState::new(),
    };
    let task = runtime.spawn(delivery.run());
    let sink = OtlpSink {
        queue: Arc::clone(&queue),
        counters: Arc::clone(counters),
    };
    let worker = OtlpWorker {
        queue,
        counters: Arc::clone(counters),
        in_flight,
        closing,
        task,
    };
    Ok((sink, worker))
}

impl Sink for OtlpSink {
    fn push(&mut self, spans: Vec<Span>) {
        let dropped = self.queue.push(spans);
        self.counters.spans_dropped_queue.add(dropped as u64);
    }

    fn tick(&mut self, _now_ns: u64) {}

    fn finish(&mut self) {
        self.queue.close();
    }
}

impl OtlpWorker {
    /// Spans that wait or are being sent.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.queue.len() as u64 + self.in_flight.load(Ordering::Relaxed)
    }

    /// A function that tells [`OtlpWorker::pending`] for as long as anybody asks.
    pub fn pending_gauge(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let (queue, in_flight) = (Arc::clone(&self.queue), Arc::clone(&self.in_flight));
        move || queue.len() as u64 + in_flight.load(Ordering::Relaxed)
    }

    /// Sends what is queued, for at most `deadline`; what is left then is counted as dropped.
    pub async fn shut_down(mut self, deadline: Duration) {
        self.queue.close();
        self.closing.send_replace(true);
        if tokio::time::timeout(deadline, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
            // An abort takes effect at the task's next await: only then are the figures final.
            let _ = (&mut self.task).await;
        }
        let left = self.pending();
        if left > 0 {
            warn!(spans = left, "spans could not be delivered before the end");
            self.counters.spans_dropped_export.add(left);
        }
    }
}

#[derive(Debug)]
enum Client {
    Grpc(Box<GrpcClient>),
    Http(HttpClient),
}

impl Client {
    fn new(settings: &Settings) -> Result<Self, ClientError> {
        Ok(match settings.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(GrpcClient::new(settings)?)),
            Protocol::HttpProtobuf | Protocol::HttpJson => Self::Http(HttpClient::new(settings)?),
        })
    }

    /// The body as it is sent; gRPC compresses when it frames.
    fn packed(&self, body: Bytes) -> Bytes {
        match self {
            Self::Grpc(_) => body,
            Self::Http(client) => client.packed(body),
        }
    }

    async fn send(&mut self, body: Bytes) -> Outcome {
        match self {
            Self::Grpc(client) => client.send(body).await,
            Self::Http(client) => client.send(body).await,
        }
    }
}

/// The task that empties the queue.
struct Delivery {
    queue: Arc<Queue>,
    client: Client,
    encoder: Encoder,
    json: bool,
    endpoint: String,
    policy: Policy,
    counters: Arc<Counters>,
    in_flight: Arc<AtomicU64>,
    closing: watch::Receiver<bool>,
    /// The last attempt failed: said once, and once more when it works again.
    failing: bool,
    random: RandomState,
}

impl Delivery {
    async fn run(mut self) {
        let queue = Arc::clone(&self.queue);
        while let Some(spans) = queue.next_batch().await {
            let count = spans.len() as u64;
            self.in_flight.store(count, Ordering::Relaxed);
            self.deliver(spans, count).await;
            self.in_flight.store(0, Ordering::Relaxed);
        }
    }

    async fn deliver(&mut self, spans: Batch, count: u64) {
        let body = self.encode(&spans);
        drop(spans);
        let mut backoff = Backoff::new(self.policy);
        loop {
            // Once the end began, a receiver that failed before gets one more chance, not the whole deadline.
            let last_chance = self.failing;
            match self.client.send(body.clone()).await {
                Outcome::Delivered { rejected, message } => {
                    self.note_delivery(count, rejected, &message);
                    return;
                }
                Outcome::Refused { reason } => {
                    warn!(
                        endpoint = self.endpoint,
                        reason,
                        spans = count,
                        "the collector refused spans"
                    );
                    self.counters.spans_dropped_export.add(count);
                    return;
                }
                Outcome::Retry { after, reason } => {
                    self.note_failure(&reason);
                    let wait = backoff.wait(after, self.jitter());
                    let is_over = last_chance && *self.closing.borrow();
                    let Some(wait) = wait.filter(|_| !is_over) else {
                        self.counters.spans_dropped_export.add(count);
                        return;
                    };
                    self.pause(wait).await;
                    self.counters.export_retries.increment();
                }
            }
        }
    }

    /// The body of a request: encoded and compressed once, however often it is sent.
    fn encode(&mut self, spans: &Batch) -> Bytes {
        let body = if self.json {
            serde_json::to_vec(&self.encoder.message(spans.iter()))
                .expect("OTLP messages have string keys only")
                .into()
        } else {
            self.encoder.encode(spans.iter())
        };
        self.client.packed(body)
    }

    /// Waits, but not past the moment when the end begins.
    async fn pause(&mut self, wait: Duration) {
        let is_closing = *self.closing.borrow();
        if is_closing {
            tokio::time::sleep(wait.min(LAST_PAUSE)).await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = self.closing.changed() => {}
            }
        }
    }

    fn note_delivery(&mut self, count: u64, rejected: u64, message: &str) {
        let rejected = rejected.min(count);
        self.counters.spans_rejected_partial.add(rejected);
        self.counters.spans_exported.add(count - rejected);
        if rejected > 0 || !message.is_empty() {
            warn!(
                endpoint = self.endpoint,
                rejected, message, "the collector answered with a partial success"
            );
        }
        if std::mem::take(&mut self.failing) {
            info!(endpoint = self.endpoint, "the collector takes spans again");
        }
    }

    fn note_failure(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            warn!(
                endpoint = self.endpoint,
                reason,
                hint = hint(&self.endpoint, self.client.is_http(), reason),
                "cannot deliver spans; will keep trying, and drop what the queue cannot hold"
            );
        }
    }

    /// 0 to 1, from the random keys of a fresh hasher: enough to keep hosts apart.
    fn jitter(&self) -> f64 {
        let random = self.random.hash_one(self.counters.export_retries.get());
        (random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Client {
    const fn is_http(&self) -> bool {
        matches!(self, Self::Http(_))
    }
}

/// The next step for somebody whose collector cannot be reached.
fn hint(endpoint: &str, is_http: bool, reason: &str) -> &'static str {
    // Words of rustls, `Error::InvalidCertificate`.
    if reason.contains("invalid peer certificate") && !reason.contains("UnknownIssuer") {
        return "the collector's certificate must be valid now, and for the endpoint's host name";
    }
    if reason.contains("invalid peer certificate") {
        return "OTEL_EXPORTER_OTLP_CERTIFICATE names the authorities that are trusted, or else the public ones are";
    }
    match (
        is_http,
        endpoint.contains(":4317"),
        endpoint.contains(":4318"),
    ) {
        (true, true, _) => "port 4317 usually speaks gRPC: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
        (false, _, true) => {
            "port 4318 usually speaks HTTP: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
        }
        _ => "check that the collector runs, and OTEL_EXPORTER_OTLP_ENDPOINT",
    }
}

/// What an answer says about the batch.
fn delivered(response: ExportTraceServiceResponse) -> Outcome {
    let partial = response.partial_success.unwrap_or_default();
    Outcome::Delivered {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
        message: partial.error_message,
    }
}

/// Makes ring the process's implementation of cryptography, once.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that somebody installed one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// An error and its causes in one line, without repeating what a cause's text contains already.
fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
