//! The whole way from a sink to a collector, over real sockets.

mod collector;
mod encode;
mod own_metrics;
mod reference;
mod tls;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;
use tokio::runtime::Handle;

use self::collector::{Answer, Collector, Received, until};
use super::{
    OtlpSink, OtlpWorker,
    retry::Policy,
    settings::{Protocol, Settings, Tls},
    testing::{resource, span},
};
use crate::{
    export::{Sink, queue::Limits},
    span::Span,
    telemetry::Counters,
};

const PROTOCOLS: [Protocol; 3] = [Protocol::Grpc, Protocol::HttpProtobuf, Protocol::HttpJson];

fn settings(address: &str, protocol: Protocol) -> Settings {
    let path = if protocol == Protocol::Grpc {
        ""
    } else {
        "/v1/traces"
    };
    Settings {
        endpoint: format!("http://{address}{path}"),
        protocol,
        gzip: false,
        headers: Vec::new(),
        timeout: Duration::from_secs(5),
        tls: Tls::default(),
    }
}

/// Batches leave at once, retries follow quickly.
fn limits() -> Limits {
    Limits {
        delay: Duration::ZERO,
        ..Limits::default()
    }
}

fn policy() -> Policy {
    Policy {
        first: Duration::from_millis(2),
        longest: Duration::from_millis(20),
        give_up_after: Duration::from_secs(60),
    }
}

struct Exporter {
    sink: OtlpSink,
    worker: OtlpWorker,
    counters: Arc<Counters>,
}

impl Exporter {
    fn start(settings: &Settings) -> Self {
        Self::start_with(settings, limits(), policy())
    }

    fn start_with(settings: &Settings, limits: Limits, policy: Policy) -> Self {
        let counters = Arc::new(Counters::default());
        let started = super::start(settings, limits, policy, &counters, &Handle::current());
        let (sink, worker) = started.expect("the settings are valid");
        Self {
            sink,
            worker,
            counters,
        }
    }

    fn push(&mut self, ids: std::ops::Range<u8>) {
        let spans: Vec<Span> = ids.map(span).collect();
        self.counters.spans.add(spans.len() as u64);
        self.sink.push(spans);
    }

    async fn until_exported(&self, count: u64) {
        until("spans are exported", || {
            self.counters.spans_exported.get() == count
        })
        .await;
    }

    /// Every span that went in is accounted for.
    async fn finish(self) -> Arc<Counters> {
        self.worker.shut_down(Duration::from_secs(10)).await;
        let counters = self.counters;
        assert_eq!(
            counters.spans.get(),
            counters.spans_exported.get()
                + counters.spans_dropped_queue.get()
                + counters.spans_dropped_export.get()
                + counters.spans_rejected_partial.get()
        );
        counters
    }
}

#[tokio::test]
async fn delivers_spans_of_many_resources_in_one_request() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let settings = settings(&collector.address.to_string(), protocol);
        let mut exporter = Exporter::start(&settings);
        let other = Span {
            resource: resource("db"),
            ..span(2)
        };
        let spans = vec![span(1), other, span(3)];
        let expected = reference::message(&spans);
        exporter.counters.spans.add(3);
        exporter.sink.push(spans);
        exporter.until_exported(3).await;
        exporter.finish().await;

        let received = collector.received();
        assert_eq!(received.len(), 1, "{protocol:?}");
        assert_eq!(received[0].request, expected, "{protocol:?}");
        let path = match protocol {
            Protocol::Grpc => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            _ => "/v1/traces",
        };
        assert_eq!(received[0].path, path);
    }
}

#[tokio::test]
async fn compresses_and_sends_headers() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let mut settings = settings(&collector.address.to_string(), protocol);
        settings.gzip = true;
        settings.headers = vec![("Api-Key".to_owned(), "a b,".to_owned())];
        let mut exporter = Exporter::start(&settings);
        exporter.push(0..100);
        exporter.until_exported(100).await;
        exporter.finish().await;

        let received = collector.received();
        assert_eq!(received[0].ids(), (0..100).collect::<Vec<u8>>());
        let header = |name: &str| received[0].headers.get(name).cloned();
        assert_eq!(header("api-key"), Some("a b,".parse().expect("valid")));
        let encoding = match protocol {
            Protocol::Grpc => "grpc-encoding",
            _ => "content-encoding",
        };
        assert_eq!(header(encoding), Some("gzip".parse().expect("valid")));
    }
}

#[tokio::test]
async fn counts_what_a_partial_success_rejects() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        collector.answer(Answer::Partial(2, "too old"));
        let settings = settings(&collector.address.to_string(), protocol);
        let mut exporter = Exporter::start(&settings);
        exporter.push(0..5);
        exporter.until_exported(3).await;
        let counters = exporter.finish().await;
        assert_eq!(counters.spans_rejected_partial.get(), 2, "{protocol:?}");
        assert_eq!(collector.received().len(), 1, "a partial success is final");
    }
}

/// Statuses that may go away, and the one that must be final, for each protocol.
fn failures(protocol: Protocol) -> (Vec<Answer>, Answer) {
    let http = |status| Answer::Http(status, Vec::new());
    let grpc = |code| Answer::Grpc(code, Bytes::new());
    match protocol {
        // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS; INVALID_ARGUMENT
        Protocol::Grpc => ([1, 4, 10, 11, 14, 15].map(grpc).into(), grpc(3)),
        _ => ([429, 502, 503, 504].map(http).into(), http(400)),
    }
}

#[tokio::test]
async fn tries_again_what_may_go_away() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let (retryable, _) = failures(protocol);
        let attempts = retryable.len() + 1;
        for answer in retryable {
            collector.answer(answer);
        }
        let settings = settings(&collector.address.to_string(), protocol);
        let mut exporter = Exporter::start(&settings);
        exporter.push(0..3);
        exporter.until_exported(3).await;
        let counters = exporter.finish().await;

        let received = collector.received();
        assert_eq!(received.len(), attempts, "{protocol:?}");
        assert!(
            received
                .windows(2)
                .all(|two| two[0].request == two[1].request)
        );
        assert_eq!(counters.export_retries.get(), attempts as u64 - 1);
    }
}

#[tokio::test]
async fn drops_and_counts_what_is_refused() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let (_, refused) = failures(protocol);
        collector.answer(refused);
        let settings = settings(&collector.address.to_string(), protocol);
        let mut exporter = Exporter::start(&settings);
        exporter.push(0..3);
        until("the batch is refused", || {
            exporter.counters.spans_dropped_export.get() == 3
        })
        .await;
        exporter.push(3..5);
        exporter.until_exported(2).await;
        exporter.finish().await;
        assert_eq!(collector.received().len(), 2, "{protocol:?}");
    }
}

#[tokio::test]
async fn waits_as_long_as_the_receiver_asks() {
    // google.rpc.Status { details: [Any { RetryInfo { retry_delay: 1 s } }] }, RESOURCE_EXHAUSTED
    let any = [
        b"\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04".as_slice(),
        b"\x0a\x02\x08\x01",
    ]
    .concat();
    let mut details = vec![0x1a, u8::try_from(any.len()).expect("short")];
    details.extend_from_slice(&any);
    for (protocol, answer) in [
        (Protocol::Grpc, Answer::Grpc(8, details.into())),
        (
            Protocol::HttpProtobuf,
            Answer::Http(429, vec![("retry-after", "1".to_owned())]),
        ),
        (
            Protocol::HttpProtobuf,
            Answer::Http(503, vec![("retry-after", "1".to_owned())]),
        ),
    ] {
        let collector = Collector::start().await;
        collector.answer(answer);
        let settings = settings(&collector.address.to_string(), protocol);
        let mut exporter = Exporter::start(&settings);
        exporter.push(0..1);
        exporter.until_exported(1).await;
        exporter.finish().await;
        let received = collector.received();
        assert_eq!(received.len(), 2);
        let waited = received[1].at - received[0].at;
        assert!(waited >= Duration::from_secs(1), "{protocol:?}: {waited:?}");
    }
}

#[tokio::test]
async fn an_exhausted_receiver_that_names_no_time_is_final() {
    let collector = Collector::start().await;
    collector.answer(Answer::Grpc(8, Bytes::new()));
    let settings = settings(&collector.address.to_string(), Protocol::Grpc);
    let mut exporter = Exporter::start(&settings);
    exporter.push(0..2);
    until("the batch is refused", || {
        exporter.counters.spans_dropped_export.get() == 2
    })
    .await;
    exporter.finish().await;
}

#[tokio::test]
async fn survives_a_collector_that_is_down_and_comes_back() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let address = collector.address.to_string();
        let mut exporter = Exporter::start_with(
            &settings(&address, protocol),
            Limits {
                spans: 50,
                batch_spans: 10,
                ..limits()
            },
            policy(),
        );
        exporter.push(0..1);
        exporter.until_exported(1).await;

        drop(collector);
        until("the collector is gone", || {
            std::net::TcpStream::connect(&address).is_err()
        })
        .await;
        exporter.push(1..11);
        until("delivery fails", || {
            exporter.counters.export_retries.get() > 0
        })
        .await;
        exporter.push(11..111);
        let pending = exporter.worker.pending();
        assert!(pending <= 60, "memory is bounded: {pending} spans");
        assert_eq!(exporter.counters.spans_dropped_queue.get(), 50);

        let collector = Collector::start_at(&address, None).await;
        exporter.until_exported(61).await;
        let counters = exporter.finish().await;
        assert_eq!(counters.spans_dropped_export.get(), 0);
        let ids: Vec<u8> = collector
            .received()
            .iter()
            .flat_map(Received::ids)
            .collect();
        assert_eq!(ids, (1..61).collect::<Vec<u8>>(), "{protocol:?}");
    }
}

#[tokio::test]
async fn gives_a_batch_up_in_the_end() {
    let exporter_settings = settings("127.0.0.1:9", Protocol::HttpProtobuf);
    let policy = Policy {
        give_up_after: Duration::from_millis(20),
        ..policy()
    };
    let mut exporter = Exporter::start_with(&exporter_settings, limits(), policy);
    exporter.push(0..4);
    until("the batch is given up", || {
        exporter.counters.spans_dropped_export.get() == 4
    })
    .await;
    exporter.finish().await;
}

#[tokio::test]
async fn the_end_is_quick_and_counted_when_the_collector_is_down() {
    for protocol in PROTOCOLS {
        let patient = Policy {
            first: Duration::from_secs(3600),
            longest: Duration::from_secs(3600),
            give_up_after: Duration::from_secs(86_400),
        };
        let mut exporter =
            Exporter::start_with(&settings("127.0.0.1:9", protocol), limits(), patient);
        exporter.push(0..4);
        until("the batch is on its way", || exporter.worker.pending() == 4).await;
        // Would wait an hour for the second attempt; the end takes one more and stops.
        let counters = exporter.finish().await;
        assert_eq!(counters.spans_dropped_export.get(), 4, "{protocol:?}");
    }
}

#[tokio::test]
async fn flushes_what_is_queued_at_the_end() {
    let collector = Collector::start().await;
    let settings = settings(&collector.address.to_string(), Protocol::Grpc);
    let limits = Limits {
        delay: Duration::from_secs(3600),
        ..Limits::default()
    };
    let mut exporter = Exporter::start_with(&settings, limits, policy());
    exporter.push(0..7);
    let counters = exporter.finish().await;
    assert_eq!(counters.spans_exported.get(), 7);
    assert_eq!(collector.received().len(), 1);
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_left_after_the_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    for protocol in PROTOCOLS {
        let mut slow = settings(&address, protocol);
        slow.timeout = Duration::from_millis(50);
        let mut exporter = Exporter::start(&slow);
        exporter.push(0..1);
        until("a second attempt", || {
            exporter.counters.export_retries.get() > 0
        })
        .await;
        exporter.worker.task.abort();
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_the_start() {
    let counters = Arc::new(Counters::default());
    let error = |settings: &Settings| {
        super::start(settings, limits(), policy(), &counters, &Handle::current())
            .expect_err("the settings are not valid")
            .to_string()
    };
    let mut header = settings("127.0.0.1:1", Protocol::Grpc);
    header.headers = vec![("näme".to_owned(), "secret".to_owned())];
    assert_eq!(
        error(&header),
        "the OTLP header \"näme\" is not a valid header"
    );
    let mut certificate = settings("127.0.0.1:1", Protocol::HttpProtobuf);
    certificate.tls.client_certificate = Some(b"not PEM".to_vec());
    certificate.tls.client_key = Some(b"not PEM".to_vec());
    assert_eq!(error(&certificate), "the OTLP certificates cannot be used");
    let mut endpoint = settings("127.0.0.1:1", Protocol::Grpc);
    endpoint.endpoint = "http://:::".to_owned();
    assert_eq!(
        error(&endpoint),
        "\"http://:::\" is no usable OTLP endpoint, which looks like http://HOST:4317"
    );
}

#[test]
fn logs_show_no_password() {
    let mut secret = settings("", Protocol::HttpProtobuf);
    for (endpoint, public) in [
        (
            "https://me:hunter2@c:4318/v1/traces",
            "https://c:4318/v1/traces",
        ),
        ("http://c/a@b", "http://c/a@b"),
        ("http://c", "http://c"),
    ] {
        secret.endpoint = endpoint.to_owned();
        assert_eq!(secret.public_endpoint(), public);
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}

#[test]
fn estimates_no_span_below_its_encoded_size() {
    let mut large = span(1);
    for index in 0..50_i64 {
        let key = format!("undertrace.attribute.{index}");
        large.attributes.push(&key, index);
    }
    for span in [span(1), large] {
        let estimated = crate::export::queue::estimated_bytes(&span);
        let encoded = reference::message(&[span]);
        assert!(estimated >= encoded.resource_spans[0].scope_spans[0].spans[0].encoded_len());
    }
}
