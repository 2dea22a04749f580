//! Connections to members, and words for what goes wrong with them.

use crate::{Fingerprint, Member, Peer};
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

/// How long the other machine may take to answer, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to connect to, where, and what to show.
#[derive(Debug, Clone)]
pub struct Connect {
    /// `HOST:PORT`.
    pub address: String,
    /// Who has to be there.
    pub member: Member,
    /// The key that it has to show, where one was noted: a certificate for a key that was
    /// revoked since is good until it ends.
    pub key: Option<Fingerprint>,
    /// What is shown, and whom to trust.
    pub tls: Arc<ClientConfig>,
}

impl Connect {
    async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(self.tls);
        let stream = connector.connect(self.member.server_name(), stream).await?;
        if let Some(key) = self.key {
            let shown = stream.get_ref().1.peer_certificates();
            let shown = shown.and_then(<[_]>::first).map(Peer::of).transpose();
            if shown.map_err(io::Error::other)?.map(|peer| peer.key) != Some(key) {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "who answers there shows another key than the one that joined",
                ));
            }
        }
        Ok(TokioIo::new(stream))
    }
}

/// Makes connections for an HTTP/2 client. Each time anew: an address may be a name.
pub fn connector(
    to: Connect,
) -> impl Service<
    http::Uri,
    Response = TokioIo<TlsStream<TcpStream>>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send + 'static,
> + Send
+ 'static {
    tower::service_fn(move |_: http::Uri| {
        let to = to.clone();
        async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, to.connect()).await {
                Ok(connected) => connected.map_err(explained),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    })
}

/// The same error, with what to do about it where that can be told.
fn explained(error: io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|within| within.downcast_ref());
    match tls.and_then(explain) {
        Some(text) => io::Error::new(error.kind(), format!("{text} ({error})")),
        None => error,
    }
}

fn explain(error: &rustls::Error) -> Option<String> {
    use CertificateError as C;
    Some(match error {
        rustls::Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            let by = match error {
                rustls::Error::InvalidCertificate(C::NotValidYetContext { time, not_before }) => {
                    let seconds = not_before.as_secs().saturating_sub(time.as_secs());
                    format!(" by {seconds} s or more")
                }
                _ => String::new(),
            };
            format!(
                "this machine's clock is behind the control plane's{by}: set it, by NTP for \
                 example"
            )
        }
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "the other side's certificate is over, or this machine's clock is ahead: set it, by \
             NTP for example"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(C::UnknownIssuer) => {
            "the other side is not of this cluster: another authority has certified it".to_owned()
        }
        rustls::Error::InvalidCertificate(
            C::NotValidForName | C::NotValidForNameContext { .. },
        ) => "another member of the cluster answers at this address".to_owned(),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateExpired | AlertDescription::CertificateUnknown,
        ) => "the other side takes this machine's certificate for none that is good now: join \
              again, or set the clocks"
            .to_owned(),
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::DecryptError,
        ) => "the other side does not know the authority that certified this machine: join again"
            .to_owned(),
        rustls::Error::InvalidMessage(_) => {
            "no TLS is spoken at this address: is it that of cluster.listen?".to_owned()
        }
        _ => return None,
    })
}
