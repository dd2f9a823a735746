use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use super::{collector::Collector, *};

/// An authority of its own, and what it signed.
struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Self { authority }
    }

    fn pem(&self) -> Vec<u8> {
        self.authority.pem().into_bytes()
    }

    /// Certificate and key for a name, both PEM.
    fn issue(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a valid name");
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.authority).expect("signed");
        (signed.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    /// A server for `localhost`; with `clients`, one that asks for a certificate they signed.
    fn acceptor(&self, clients: Option<&Self>) -> TlsAcceptor {
        super::super::install_crypto();
        let (certificate, key) = self.issue("localhost");
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(der(&clients.pem())).expect("a certificate");
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::from_pem_slice(&key).expect("a key");
        let mut config = builder
            .with_single_cert(vec![der(&certificate)], key)
            .expect("certificate and key fit");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config).into()
    }
}

fn der(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).expect("a certificate")
}

fn tls_settings(collector: &Collector, protocol: Protocol, tls: Tls) -> Settings {
    let plain = settings(&format!("localhost:{}", collector.address.port()), protocol);
    Settings {
        endpoint: plain.endpoint.replace("http://", "https://"),
        tls,
        ..plain
    }
}

#[tokio::test]
async fn delivers_over_tls_to_a_collector_it_was_told_to_trust() {
    let pki = Pki::new();
    for protocol in PROTOCOLS {
        let collector = Collector::start_at("127.0.0.1:0", Some(pki.acceptor(None))).await;
        let tls = Tls {
            certificate: Some(pki.pem()),
            ..Tls::default()
        };
        let mut exporter = Exporter::start(&tls_settings(&collector, protocol, tls));
        exporter.push(0..3);
        exporter.until_exported(3).await;
        exporter.finish().await;
    }
}

#[tokio::test]
async fn shows_its_own_certificate_to_a_collector_that_asks() {
    let (pki, clients) = (Pki::new(), Pki::new());
    for protocol in PROTOCOLS {
        let acceptor = pki.acceptor(Some(&clients));
        let collector = Collector::start_at("127.0.0.1:0", Some(acceptor)).await;
        let (certificate, key) = clients.issue("agent");
        let tls = Tls {
            certificate: Some(pki.pem()),
            client_certificate: Some(certificate),
            client_key: Some(key),
        };
        let mut exporter = Exporter::start(&tls_settings(&collector, protocol, tls));
        exporter.push(0..3);
        exporter.until_exported(3).await;
        exporter.finish().await;
    }
}

#[tokio::test]
async fn sends_nothing_to_a_collector_it_does_not_trust() {
    let (pki, other) = (Pki::new(), Pki::new());
    for protocol in PROTOCOLS {
        for certificate in [None, Some(other.pem())] {
            let collector = Collector::start_at("127.0.0.1:0", Some(pki.acceptor(None))).await;
            let tls = Tls {
                certificate,
                ..Tls::default()
            };
            let mut exporter = Exporter::start(&tls_settings(&collector, protocol, tls));
            exporter.push(0..3);
            until("delivery fails", || {
                exporter.counters.export_retries.get() > 0
            })
            .await;
            let counters = exporter.finish().await;
            assert_eq!(counters.spans_dropped_export.get(), 3);
            assert!(collector.received().is_empty(), "{protocol:?}");
        }
    }
}

#[test]
fn names_the_variable_for_a_certificate_that_is_not_trusted() {
    for is_http in [false, true] {
        let hint = |reason: &str| super::super::hint("https://collector:4317", is_http, reason);
        assert!(
            hint("invalid peer certificate: UnknownIssuer")
                .contains("OTEL_EXPORTER_OTLP_CERTIFICATE")
        );
        for reason in ["Expired", "certificate not valid for name \"collector\""] {
            let reason = format!("invalid peer certificate: {reason}");
            let hint = hint(&reason);
            assert!(hint.contains("host name"), "{hint}");
        }
        assert!(!hint("connection refused").contains("CERTIFICATE"));
    }
}
