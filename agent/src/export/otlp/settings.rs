//! Where and how OTLP is sent. Plain values; `config::otlp` reads them from the standard environment variables.

use std::{fmt, time::Duration};

/// How a request is put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf over HTTP/1.1.
    HttpProtobuf,
    /// JSON over HTTP/1.1.
    HttpJson,
}

impl Protocol {
    /// Names that [`Protocol::parse`] knows.
    pub const NAMES: &'static str = "grpc, http/protobuf, http/json";

    /// The protocol of this name, as in OTEL_EXPORTER_OTLP_PROTOCOL.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "grpc" => Self::Grpc,
            "http/protobuf" => Self::HttpProtobuf,
            "http/json" => Self::HttpJson,
            _ => return None,
        })
    }
}

/// PEM texts for TLS, read from the files that the environment names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates that the receiver's must be signed by; the public ones when there is none.
    pub certificate: Option<Vec<u8>>,
    /// Our own certificate chain, for receivers that ask for one.
    pub client_certificate: Option<Vec<u8>>,
    /// Its private key.
    pub client_key: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &self.certificate.is_some())
            .field("client_certificate", &self.client_certificate.is_some())
            .finish_non_exhaustive()
    }
}

/// One signal's receiver.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// gRPC: scheme, host and port. HTTP: the complete URL, path included.
    pub endpoint: String,
    /// How requests are put on the wire.
    pub protocol: Protocol,
    /// Whether requests are compressed with gzip.
    pub gzip: bool,
    /// Sent with every request; values may be secrets and are never logged.
    pub headers: Vec<(String, String)>,
    /// For one attempt, connecting included.
    pub timeout: Duration,
    /// Used when the endpoint's scheme is https.
    pub tls: Tls,
}

impl Settings {
    /// The endpoint without user name and password, for logs.
    #[must_use]
    pub fn public_endpoint(&self) -> String {
        let (scheme, rest) = match self.endpoint.split_once("://") {
            Some((scheme, rest)) => (format!("{scheme}://"), rest),
            None => (String::new(), self.endpoint.as_str()),
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        format!("{scheme}{host}{path}")
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.public_endpoint())
            .field("protocol", &self.protocol)
            .field("gzip", &self.gzip)
            .field("timeout", &self.timeout)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}
