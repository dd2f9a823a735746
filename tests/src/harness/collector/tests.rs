use std::io::{Read as _, Write as _};

use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceResponse, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, span::SpanKind},
};
use prost::Message as _;
use tonic::{Code, codegen::CompressionEncoding};

use super::*;
use crate::harness::PATIENCE;

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.into())),
        }),
        ..KeyValue::default()
    }
}

fn request(path: &str) -> ExportTraceServiceRequest {
    let span = OtlpSpan {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        kind: SpanKind::Server.into(),
        attributes: vec![text("http.request.method", "GET"), text("url.path", path)],
        ..OtlpSpan::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", "shop")],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans: vec![span],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn post(collector: &Collector, request: &ExportTraceServiceRequest) -> (String, Vec<u8>) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder
        .write_all(&request.encode_to_vec())
        .expect("writing to memory");
    let body = encoder.finish().expect("writing to memory");
    let mut stream = std::net::TcpStream::connect(collector.http).expect("it listens");
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-protobuf\r\n\
         content-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(&[head.as_bytes(), &body].concat())
        .expect("it reads");
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("it is connected");
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("it answers and closes");
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("an answer has a head")
        + 4;
    (
        String::from_utf8_lossy(&answer[..end]).into_owned(),
        answer[end..].to_vec(),
    )
}

#[test]
fn http_takes_gzip_and_answers_as_told() {
    let collector = Collector::start().expect("loopback has free ports");
    collector.answer_next([
        Answer::Refuse {
            status: 429,
            retry_after_seconds: Some(7),
        },
        Answer::Partial { rejected: 1 },
    ]);
    let (head, _) = post(&collector, &request("/a"));
    assert!(
        head.starts_with("HTTP/1.1 429") && head.contains("retry-after: 7\r\n"),
        "{head}"
    );
    let (head, body) = post(&collector, &request("/b"));
    let partial = ExportTraceServiceResponse::decode(body.as_slice())
        .expect("protobuf")
        .partial_success;
    assert!(head.starts_with("HTTP/1.1 200") && partial.expect("partial").rejected_spans == 1);
    assert!(collector.spans().is_empty());
    post(&collector, &request("/c"));
    assert_eq!(collector.spans().render(), "SERVER shop GET /c -\n");
    let gzip: Vec<_> = collector
        .deliveries()
        .iter()
        .map(|d| (d.protocol, d.gzip, d.spans))
        .collect();
    assert_eq!(
        gzip,
        [("http", true, 1), ("http", true, 1), ("http", true, 1)]
    );
}

#[test]
fn grpc_takes_gzip_and_answers_as_told() {
    let collector = Collector::start().expect("loopback has free ports");
    collector.answer_next([
        Answer::Refuse {
            status: 429,
            retry_after_seconds: Some(3),
        },
        Answer::Refuse {
            status: 503,
            retry_after_seconds: None,
        },
    ]);
    let endpoint = collector.grpc_endpoint();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let codes = runtime.block_on(async {
        let mut client = TraceServiceClient::connect(endpoint)
            .await
            .expect("it listens")
            .send_compressed(CompressionEncoding::Gzip);
        let throttled = client
            .export(request("/a"))
            .await
            .expect_err("told to refuse");
        // RetryInfo with a delay of 3 s, as bytes on the wire (google/rpc/error_details.proto).
        assert!(
            throttled.details().ends_with(&[0x12, 4, 0x0a, 2, 0x08, 3]),
            "{:?}",
            throttled.details()
        );
        let down = client
            .export(request("/a"))
            .await
            .expect_err("told to refuse");
        client
            .export(request("/b"))
            .await
            .expect("nothing more was told");
        (throttled.code(), down.code())
    });
    assert_eq!(codes, (Code::ResourceExhausted, Code::Unavailable));
    let spans = collector
        .wait_for_spans(1, PATIENCE)
        .expect("one was taken");
    assert_eq!(spans.render(), "SERVER shop GET /b -\n");
    assert!(
        collector
            .deliveries()
            .iter()
            .all(|d| d.protocol == "grpc" && d.gzip)
    );
}
