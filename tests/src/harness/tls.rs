//! TLS in front of a collector: authorities of a scenario's own, and a gate that takes TLS off what arrives.
//!
//! Input: connections of an exporter. Output: the same bytes in plaintext to the collector, for those whose handshake succeeded.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use super::collector::Collector;

/// Who signs certificates. Each has a name of its own, as real ones have: one that is not trusted is not known at all.
#[derive(Debug)]
pub(crate) struct Authority {
    name: &'static str,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// An authority of this name.
    ///
    /// # Errors
    /// When no key can be made.
    pub(crate) fn new(name: &'static str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { name, issuer })
    }

    /// Writes its certificate into this folder, for whoever shall trust it; gives the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> Result<PathBuf> {
        write(folder, &format!("{}.pem", self.name), &self.issuer.pem())
    }

    /// Writes a certificate that it signed for this name, and its key, into this folder; gives both files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write_issued(&self, folder: &Path, name: &str) -> Result<[PathBuf; 2]> {
        let (certificate, key) = self.issue(&CertificateParams::new(vec![name.to_owned()])?)?;
        Ok([
            write(folder, &format!("{name}.pem"), &certificate)?,
            write(folder, &format!("{name}.key.pem"), &key)?,
        ])
    }

    /// A certificate and its key, both PEM.
    fn issue(&self, params: &CertificateParams) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn certificate(&self) -> Result<CertificateDer<'static>> {
        certificate(&self.issuer.pem())
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).context("no certificate")
}

/// Takes TLS off, in front of one receiver of a collector. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    seen: Arc<Seen>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Debug, Default)]
struct Seen {
    entered: AtomicUsize,
    turned_away: AtomicUsize,
}

impl Gate {
    /// A gate before the collector's receiver for this protocol (`grpc`, `http/protobuf`), with a certificate for 127.0.0.1 that `authority` signed. With
    /// `clients`, only who shows a certificate which those signed gets in.
    ///
    /// # Errors
    /// When no port can be bound.
    pub(crate) fn start(
        collector: &Collector,
        protocol: &str,
        authority: &Authority,
        clients: Option<&Authority>,
    ) -> Result<Self> {
        let (receiver, application) = if protocol == "grpc" {
            (collector.grpc_address(), "h2")
        } else {
            (collector.http_address(), "http/1.1")
        };
        let acceptor = acceptor(authority, clients, application)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen::default());
        runtime.spawn(serve(listener, acceptor, receiver, Arc::clone(&seen)));
        Ok(Self {
            address,
            seen,
            _runtime: runtime,
        })
    }

    /// Value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Connections that got in.
    pub(crate) fn entered(&self) -> usize {
        self.seen.entered.load(Ordering::SeqCst)
    }

    /// Connections whose handshake failed, on whichever side.
    pub(crate) fn turned_away(&self) -> usize {
        self.seen.turned_away.load(Ordering::SeqCst)
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    receiver: SocketAddr,
    seen: Arc<Seen>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let Ok(mut outside) = acceptor.accept(stream).await else {
                seen.turned_away.fetch_add(1, Ordering::SeqCst);
                return;
            };
            seen.entered.fetch_add(1, Ordering::SeqCst);
            if let Ok(mut inside) = TcpStream::connect(receiver).await {
                // An end that goes away without a word of TLS ends the connection all the same.
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
    }
}

fn acceptor(
    authority: &Authority,
    clients: Option<&Authority>,
    application: &str,
) -> Result<TlsAcceptor> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.certificate()?)?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut params = CertificateParams::new(Vec::new())?;
    let loopback = SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    params.subject_alt_names.push(loopback);
    let (chain, key) = authority.issue(&params)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("no key")?;
    let mut config = builder.with_single_cert(vec![certificate(&chain)?], key)?;
    config.alpn_protocols = vec![application.as_bytes().to_vec()];
    Ok(Arc::new(config).into())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::{TlsConnector, rustls::ClientConfig};

    use super::*;

    /// An export without spans through the gate; the first line of the answer.
    async fn export(
        gate: &Gate,
        trusted: &Authority,
        own: Option<&[PathBuf; 2]>,
    ) -> std::io::Result<String> {
        let mut roots = RootCertStore::empty();
        let certificate = trusted.certificate().expect("an authority has one");
        roots.add(certificate).expect("it is one");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows them")
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some([certificate, key]) => {
                let certificate = CertificateDer::from_pem_file(certificate).expect("written");
                let key = PrivateKeyDer::from_pem_file(key).expect("written");
                builder
                    .with_client_auth_cert(vec![certificate], key)
                    .expect("they fit")
            }
        };
        let stream = TcpStream::connect(gate.address).await?;
        let name = std::net::Ipv4Addr::LOCALHOST.into();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await?;
        let head = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    #[test]
    fn lets_in_who_trusts_it_and_is_trusted() {
        let folder = std::env::temp_dir().join(format!("undertrace-gate-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let [authority, clients] =
            ["collectors", "agents"].map(|name| Authority::new(name).expect("keys can be made"));
        let own = clients.write_issued(&folder, "agent").expect("written");
        let collector = Collector::start().expect("free ports");
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let start = |clients| Gate::start(&collector, "http/protobuf", &authority, clients);
        let plain = start(None).expect("a free port");
        let asking = start(Some(&clients)).expect("a free port");
        let ask = |gate, trusted, own| runtime.block_on(export(gate, trusted, own));
        for answer in [
            ask(&plain, &authority, None),
            ask(&asking, &authority, Some(&own)),
        ] {
            assert_eq!(answer.expect("it gets in"), "HTTP/1.1 200 Te");
        }
        assert_eq!(collector.deliveries().len(), 2);
        let stranger = ask(&plain, &clients, None).expect_err("not trusted");
        assert!(
            stranger
                .to_string()
                .contains("invalid peer certificate: UnknownIssuer"),
            "{stranger}"
        );
        ask(&asking, &authority, None).expect_err("shows nothing");
        for gate in [&plain, &asking] {
            let turned_away = || (gate.turned_away() == 1).then_some(());
            super::super::wait_for(|| "a refusal".into(), super::super::PATIENCE, turned_away)
                .expect("it is counted");
            assert_eq!(gate.entered(), 1);
        }
        assert_eq!(collector.deliveries().len(), 2);
        let _ = std::fs::remove_dir_all(&folder);
    }
}
