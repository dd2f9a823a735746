//! OTLP over HTTP, protobuf or JSON. Input: encoded export requests. Output: an [`Outcome`] for each. It does not retry.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use reqwest::{
    Certificate, Client, Identity, Response, Url,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};

use super::{
    ClientError, USER_AGENT,
    retry::{Outcome, is_retryable_status, retry_after},
    settings::{Protocol, Settings, Tls},
};

/// Responses are small; what is longer is not read.
const MAX_RESPONSE_BYTES: usize = 64 << 10;

/// A client of one receiver.
#[derive(Debug)]
pub struct HttpClient {
    client: Client,
    url: Url,
    json: bool,
    gzip: bool,
}

impl HttpClient {
    /// A client with these settings; nothing is sent yet.
    ///
    /// # Errors
    /// The endpoint is no URL, a header is no header, or a certificate cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        let url = Url::parse(&settings.endpoint).map_err(|source| ClientError::Endpoint {
            endpoint: settings.public_endpoint(),
            source: source.into(),
        })?;
        let client = client(settings)?;
        Ok(Self {
            client,
            url,
            json: settings.protocol == Protocol::HttpJson,
            gzip: settings.gzip,
        })
    }

    /// The body as [`HttpClient::send`] takes it: compressed, if that is configured.
    #[must_use]
    pub fn packed(&self, body: Bytes) -> Bytes {
        if self.gzip {
            compressed(&body).into()
        } else {
            body
        }
    }

    /// One attempt to deliver an encoded and packed `ExportTraceServiceRequest`.
    pub async fn send(&mut self, body: Bytes) -> Outcome {
        let content_type = if self.json {
            "application/json"
        } else {
            "application/x-protobuf"
        };
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, content_type)
            .body(body);
        if self.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        match request.send().await {
            Ok(response) => outcome_of(response).await,
            Err(error) => {
                let reason = super::error_chain(&error);
                if error.is_builder() {
                    Outcome::Refused { reason }
                } else {
                    Outcome::Retry {
                        after: None,
                        reason,
                    }
                }
            }
        }
    }
}

/// An HTTP client with the headers, the timeout and the certificates of these settings.
///
/// # Errors
/// A header is no header, or a certificate cannot be read.
pub fn client(settings: &Settings) -> Result<Client, ClientError> {
    super::install_crypto();
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(header_map(&settings.headers)?)
        .timeout(settings.timeout)
        .redirect(redirect::Policy::none());
    with_tls(builder, &settings.tls)
        .and_then(reqwest::ClientBuilder::build)
        .map_err(|source| ClientError::Tls {
            source: source.into(),
        })
}

async fn outcome_of(mut response: Response) -> Outcome {
    let status = response.status();
    if status.is_success() {
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        // A body that does not parse says nothing about the spans: the status did.
        let parsed = if is_json {
            serde_json::from_slice(&body).unwrap_or_default()
        } else {
            ExportTraceServiceResponse::decode(body.as_slice()).unwrap_or_default()
        };
        return super::delivered(parsed);
    }
    let reason = format!("HTTP status {status}");
    if is_retryable_status(status.as_u16()) {
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(retry_after);
        Outcome::Retry { after, reason }
    } else {
        Outcome::Refused { reason }
    }
}

fn compressed(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder
        .write_all(body)
        .and_then(|()| encoder.finish())
        .expect("writing to a Vec does not fail")
}

fn with_tls(
    mut builder: reqwest::ClientBuilder,
    tls: &Tls,
) -> Result<reqwest::ClientBuilder, reqwest::Error> {
    if let Some(pem) = &tls.certificate {
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(pem)?);
    }
    if let (Some(certificate), Some(key)) = (&tls.client_certificate, &tls.client_key) {
        let mut pem = certificate.clone();
        pem.push(b'\n');
        pem.extend_from_slice(key);
        builder = builder.identity(Identity::from_pem(&pem)?);
    }
    Ok(builder)
}

fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, ClientError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let invalid = || ClientError::Header { name: name.clone() };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| invalid())?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}
