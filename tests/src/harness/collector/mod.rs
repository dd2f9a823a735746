//! An OTLP receiver of our own on loopback: gRPC and HTTP/protobuf, with gzip. It keeps every span and can misbehave on demand.

mod grpc;
mod http;
mod metrics;

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};

pub(crate) use self::metrics::Reading;
use super::{
    trace::{Span, Spans},
    wait_for, wait_for_quiet,
};

/// How the collector answers one trace request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Takes all spans.
    Accept,
    /// Refuses the request and takes nothing: an HTTP status (gRPC gets the code that OTLP maps to it).
    Refuse {
        /// 429, 503, 400 ...
        status: u16,
        /// Value of `Retry-After`, or of gRPC's `RetryInfo`.
        retry_after_seconds: Option<u32>,
    },
    /// Answers success but says that this many spans were rejected; keeps none of them.
    Partial {
        /// Spans said to be rejected.
        rejected: i64,
    },
    /// Never answers.
    Hang,
}

/// One trace request as it arrived, whatever was answered.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    /// `grpc` or `http`.
    pub(crate) protocol: &'static str,
    /// Whether its body was compressed with gzip.
    pub(crate) gzip: bool,
    /// Headers or metadata, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// How many Resources it held.
    pub(crate) resources: usize,
    /// How many spans it held.
    pub(crate) spans: usize,
}

#[derive(Debug, Default)]
struct State {
    spans: Vec<Span>,
    deliveries: Vec<Delivery>,
    readings: Vec<Reading>,
    answers: VecDeque<Answer>,
    standing: Option<Answer>,
}

/// What both receivers share.
#[derive(Clone, Debug, Default)]
struct Inbox(Arc<Mutex<State>>);

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a trace request, and tells what to answer.
    fn traces(
        &self,
        request: ExportTraceServiceRequest,
        protocol: &'static str,
        gzip: bool,
        headers: Vec<(String, String)>,
    ) -> Answer {
        let mut state = self.lock();
        let answer = state
            .answers
            .pop_front()
            .or_else(|| state.standing.clone())
            .unwrap_or(Answer::Accept);
        let resources = request.resource_spans.len();
        let spans = Span::all_of(request);
        state.deliveries.push(Delivery {
            protocol,
            gzip,
            headers,
            resources,
            spans: spans.len(),
        });
        if answer == Answer::Accept {
            state.spans.extend(spans);
        }
        answer
    }

    /// Takes a metrics request.
    fn metrics(&self, request: ExportMetricsServiceRequest, protocol: &'static str) {
        let reading = Reading::of(request, protocol);
        self.lock().readings.push(reading);
    }
}

/// A running receiver. Ends with its handle's process.
#[derive(Debug)]
pub(crate) struct Collector {
    inbox: Inbox,
    grpc: SocketAddr,
    http: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    /// Starts both receivers on free ports of loopback.
    ///
    /// # Errors
    /// When no port can be bound.
    pub(crate) fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// Starts both receivers on free ports of this address.
    ///
    /// # Errors
    /// When no port can be bound.
    pub(crate) fn start_at(address: Ipv4Addr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let inbox = Inbox::default();
        let grpc = grpc::serve(&runtime, inbox.clone(), address)
            .context("cannot start the gRPC receiver")?;
        let http = http::serve(inbox.clone(), address).context("cannot start the HTTP receiver")?;
        Ok(Self {
            inbox,
            grpc,
            http,
            _runtime: runtime,
        })
    }

    /// Where the gRPC receiver listens.
    pub(crate) fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where the HTTP receiver listens.
    pub(crate) fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Value for `OTEL_EXPORTER_OTLP_ENDPOINT` with protocol `grpc`.
    pub(crate) fn grpc_endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Value for `OTEL_EXPORTER_OTLP_ENDPOINT` with protocol `http/protobuf`.
    pub(crate) fn http_endpoint(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Answers the next trace requests like this, one each, before it goes back to what it did.
    pub(crate) fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.inbox.lock().answers.extend(answers);
    }

    /// Answers every trace request like this from now on.
    pub(crate) fn answer_always(&self, answer: Answer) {
        self.inbox.lock().standing = Some(answer);
    }

    /// The spans taken so far.
    pub(crate) fn spans(&self) -> Spans {
        Spans(self.inbox.lock().spans.clone())
    }

    /// Every trace request so far.
    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        self.inbox.lock().deliveries.clone()
    }

    /// Every metrics request so far.
    pub(crate) fn readings(&self) -> Vec<Reading> {
        self.inbox.lock().readings.clone()
    }

    /// Waits until `count` spans have come, or none has for `quiet`: for what the kernel may keep from the agent.
    pub(crate) fn wait_for_quiet(&self, count: usize, quiet: Duration) {
        wait_for_quiet(|| self.inbox.lock().spans.len(), count, quiet);
    }

    /// Waits until at least `count` spans have come, and gives all that have.
    ///
    /// # Errors
    /// When they do not come in time; says what came.
    pub(crate) fn wait_for_spans(&self, count: usize, patience: Duration) -> Result<Spans> {
        wait_for(
            || {
                const SHOWN: usize = 60;
                let spans = self.spans();
                let tree = spans.render();
                let shown: Vec<_> = tree.lines().take(SHOWN).collect();
                format!(
                    "{count} spans; {} came, the first lines of their trees:\n{}",
                    spans.len(),
                    shown.join("\n")
                )
            },
            patience,
            || {
                let ready = self.inbox.lock().spans.len() >= count;
                ready.then(|| self.spans())
            },
        )
    }
}

#[cfg(test)]
mod tests;
