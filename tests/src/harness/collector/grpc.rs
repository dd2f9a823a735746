//! The gRPC receiver: the generated services, dispatched by path.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    task::{Context, Poll},
};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tonic::{
    Code, Request, Response, Status,
    codegen::{BoxFuture, CompressionEncoding, Service, async_trait, http},
    metadata::KeyAndValueRef,
    transport::{Server, server::TcpIncoming},
};

use super::{Answer, Inbox};

/// Starts the receiver on a free port.
///
/// # Errors
/// When no port can be bound.
pub(super) fn serve(
    runtime: &tokio::runtime::Runtime,
    inbox: Inbox,
    address: Ipv4Addr,
) -> Result<SocketAddr> {
    let _guard = runtime.enter();
    let incoming = TcpIncoming::bind(SocketAddr::from((address, 0)))?;
    let address = incoming.local_addr()?;
    let dispatch = Dispatch {
        traces: TraceServiceServer::new(Receiver(inbox.clone()))
            .accept_compressed(CompressionEncoding::Gzip),
        metrics: MetricsServiceServer::new(Receiver(inbox))
            .accept_compressed(CompressionEncoding::Gzip),
    };
    runtime.spawn(Server::builder().serve_with_incoming(dispatch, incoming));
    Ok(address)
}

struct Receiver(Inbox);

#[async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let headers: Vec<(String, String)> = request
            .metadata()
            .iter()
            .filter_map(|pair| match pair {
                KeyAndValueRef::Ascii(key, value) => {
                    Some((key.to_string(), value.to_str().ok()?.to_owned()))
                }
                KeyAndValueRef::Binary(..) => None,
            })
            .collect();
        let gzip = headers
            .iter()
            .any(|(name, value)| name == "grpc-encoding" && value == "gzip");
        match self.0.traces(request.into_inner(), "grpc", gzip, headers) {
            Answer::Accept => Ok(Response::new(ExportTraceServiceResponse {
                partial_success: None,
            })),
            Answer::Partial { rejected } => Ok(Response::new(ExportTraceServiceResponse {
                partial_success: Some(ExportTracePartialSuccess {
                    rejected_spans: rejected,
                    error_message: "rejected by the test".into(),
                }),
            })),
            // The mapping of the OTLP specification, "OTLP/gRPC Throttling" and "Failures".
            Answer::Refuse {
                status,
                retry_after_seconds,
            } => Err(match status {
                429 => throttled(retry_after_seconds),
                503 => Status::new(Code::Unavailable, "refused by the test"),
                _ => Status::new(Code::InvalidArgument, "refused by the test"),
            }),
            Answer::Hang => std::future::pending().await,
        }
    }
}

/// RESOURCE_EXHAUSTED, which a client may only retry when the status carries `google.rpc.RetryInfo`.
fn throttled(seconds: Option<u32>) -> Status {
    let Some(seconds) = seconds else {
        return Status::new(Code::ResourceExhausted, "throttled by the test");
    };
    // google.rpc.Status { code: 8, details: [Any { type_url, value: RetryInfo { retry_delay: Duration { seconds } } }] }, by hand:
    // three nested messages of one field each.
    let field = |number: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).expect("these messages are short");
        let mut out = vec![number << 3 | 2, length];
        out.extend_from_slice(bytes);
        out
    };
    let seconds = u8::try_from(seconds.min(127)).expect("at most 127");
    let delay = [1 << 3, seconds];
    let info = field(1, &delay);
    let mut any = field(1, b"type.googleapis.com/google.rpc.RetryInfo");
    any.extend(field(2, &info));
    let mut status = vec![1 << 3, 8];
    status.extend(field(3, &any));
    Status::with_details(
        Code::ResourceExhausted,
        "throttled by the test",
        status.into(),
    )
}

#[async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.metrics(request.into_inner(), "grpc");
        Ok(Response::new(ExportMetricsServiceResponse {
            partial_success: None,
        }))
    }
}

/// Both services behind one port. tonic's own router is left out of the build.
#[derive(Clone)]
struct Dispatch {
    traces: TraceServiceServer<Receiver>,
    metrics: MetricsServiceServer<Receiver>,
}

impl Service<http::Request<tonic::body::Body>> for Dispatch {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        if request.uri().path().contains(".metrics.") {
            self.metrics.call(request)
        } else {
            // Answers "unimplemented" to every other path itself.
            self.traces.call(request)
        }
    }
}
