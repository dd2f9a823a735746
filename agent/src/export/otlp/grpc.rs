//! OTLP over gRPC. Input: encoded export requests. Output: an [`Outcome`] for each. It does not retry and does not encode: a batch is
//! encoded once and sent as often as needed.

use bytes::{BufMut, Bytes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    ClientError, USER_AGENT,
    retry::{Outcome, is_retryable_code, retry_info},
    settings::{Settings, Tls},
};

/// The method that takes spans (trace_service.proto).
const EXPORT: PathAndQuery =
    PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");

/// A client of one receiver; connects when first used, and again when the connection is lost.
#[derive(Debug)]
pub struct GrpcClient {
    grpc: Grpc<Channel>,
    metadata: MetadataMap,
    timeout: std::time::Duration,
}

impl GrpcClient {
    /// A client with these settings. Must be called within a tokio runtime; nothing is sent yet.
    ///
    /// # Errors
    /// The endpoint is no URL, a header is no header, or a certificate cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        let mut grpc = Grpc::new(channel(settings)?).accept_compressed(CompressionEncoding::Gzip);
        if settings.gzip {
            grpc = grpc.send_compressed(CompressionEncoding::Gzip);
        }
        Ok(Self {
            grpc,
            metadata: metadata(&settings.headers)?,
            timeout: settings.timeout,
        })
    }

    /// One attempt to deliver an encoded `ExportTraceServiceRequest`.
    pub async fn send(&mut self, body: Bytes) -> Outcome {
        let attempt = async {
            self.grpc
                .ready()
                .await
                .map_err(|error| Status::unavailable(super::error_chain(&error)))?;
            let mut request = Request::new(body);
            *request.metadata_mut() = self.metadata.clone();
            self.grpc.unary(request, EXPORT, EncodedCodec).await
        };
        match tokio::time::timeout(self.timeout, attempt).await {
            Ok(Ok(response)) => super::delivered(response.into_inner()),
            Ok(Err(status)) => outcome_of(&status),
            Err(_) => Outcome::Retry {
                after: None,
                reason: format!("no answer within {:?}", self.timeout),
            },
        }
    }
}

/// A channel to the endpoint of these settings; connects when first used. Must be called within a tokio runtime.
///
/// # Errors
/// The endpoint is no URL, or a certificate cannot be read.
pub fn channel(settings: &Settings) -> Result<Channel, ClientError> {
    let invalid_endpoint = |source: tonic::transport::Error| ClientError::Endpoint {
        endpoint: settings.public_endpoint(),
        source: source.into(),
    };
    let mut endpoint = Endpoint::from_shared(settings.endpoint.clone())
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(invalid_endpoint)?
        .connect_timeout(settings.timeout);
    if settings.endpoint.starts_with("https://") {
        super::install_crypto();
        endpoint = endpoint
            .tls_config(tls_config(&settings.tls))
            .map_err(|source| ClientError::Tls {
                source: source.into(),
            })?;
    }
    Ok(endpoint.connect_lazy())
}

fn outcome_of(status: &Status) -> Outcome {
    let after = retry_info(status.details());
    let reason = match std::error::Error::source(status) {
        Some(source) => super::error_chain(source),
        None => format!("{:?}: {}", status.code(), status.message()),
    };
    if is_retryable_code(status.code(), after.is_some()) {
        Outcome::Retry { after, reason }
    } else {
        Outcome::Refused { reason }
    }
}

fn tls_config(tls: &Tls) -> ClientTlsConfig {
    let mut config = ClientTlsConfig::new();
    config = match &tls.certificate {
        Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
        None => config.with_enabled_roots(),
    };
    if let (Some(certificate), Some(key)) = (&tls.client_certificate, &tls.client_key) {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    config
}

/// Headers as gRPC metadata.
///
/// # Errors
/// A name or value is not allowed.
pub fn metadata(headers: &[(String, String)]) -> Result<MetadataMap, ClientError> {
    let mut metadata = MetadataMap::new();
    for (name, value) in headers {
        let invalid = || ClientError::Header { name: name.clone() };
        let key: MetadataKey<Ascii> = name.to_ascii_lowercase().parse().map_err(|_| invalid())?;
        let value: MetadataValue<Ascii> = value.parse().map_err(|_| invalid())?;
        metadata.insert(key, value);
    }
    Ok(metadata)
}

/// Sends bytes that are a message already, reads the typed response.
#[derive(Clone, Copy, Debug)]
struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        ExportTraceServiceResponse::decode(buffer)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
