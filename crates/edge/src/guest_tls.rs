//! TLS towards a guest, for ports whose service speaks HTTPS itself (`httpsPorts`).
//!
//! The guest's certificate is not verified: it is self-signed as a rule, no name is
//! meant by it, and the way to a guest is the host's own link, on which nobody else
//! can be. What TLS is for here is that the service understands us.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::io;
use std::sync::{Arc, LazyLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// A connection to a guest's port, inside TLS or not.
pub(crate) type GuestStream = Either<TcpStream, TlsStream<TcpStream>>;

/// What is to be spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

static HTTP1: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| config(b"http/1.1"));
static HTTP2: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| config(b"h2"));

/// Shakes hands; the caller bounds the time. The server is told no name: services in
/// guests have one certificate, and it carries none of ours.
pub(crate) async fn connect(
    stream: TcpStream,
    protocol: Protocol,
) -> io::Result<TlsStream<TcpStream>> {
    let config = match protocol {
        Protocol::Http1 => &HTTP1,
        Protocol::Http2 => &HTTP2,
    };
    let nobody = ServerName::IpAddress(stream.peer_addr()?.ip().into());
    TlsConnector::from(Arc::clone(config))
        .connect(nobody, stream)
        .await
}

fn config(protocol: &[u8]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for every version that rustls speaks")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// Takes whatever certificate the guest shows.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
