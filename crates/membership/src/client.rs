//! The client of the control plane's service for nodes.

use connectrpc::client::{ClientConfig, Http2Connection, SharedHttp2Connection};
use connectrpc::{CompressionRegistry, ConnectError, ErrorCode, Protocol};
use hearth_cluster::{Connect, Credentials, JoinToken, Member, Membership, authority_of};
use hearth_control::{Heard, NodeMode, NodeRegistration};
use hearth_node_proto::hearth::membership::v1 as proto;
use http::Uri;
use rustls::ClientConfig as TlsConfig;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// One call, the connection that it may have to make included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection may say nothing before it is asked whether it lives, and to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const MAX_WAITING_CALLS: usize = 16;

/// Why the control plane did not do what a node asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("{0:?} is no address of a control plane: it looks like https://HOST:5009")]
    Address(String),
    /// It was refused, and would be once more.
    #[error("the control plane refuses: {0}")]
    Refused(String),
    /// It cannot be reached, or did not answer; later it may.
    #[error("the control plane cannot be reached: {0}")]
    Unreachable(String),
    /// What it answered cannot be used.
    #[error("the control plane answered what cannot be used: {0}")]
    Malformed(&'static str),
    /// Certificates and keys.
    #[error(transparent)]
    Cluster(#[from] hearth_cluster::Error),
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        let text = error.message.clone().unwrap_or_default();
        match error.code {
            ErrorCode::Unauthenticated
            | ErrorCode::PermissionDenied
            | ErrorCode::AlreadyExists
            | ErrorCode::NotFound
            | ErrorCode::InvalidArgument
            | ErrorCode::Unimplemented => Self::Refused(text),
            _ => Self::Unreachable(text),
        }
    }
}

type Client = proto::MembershipServiceClient<SharedHttp2Connection>;

fn client(address: &str, tls: Arc<TlsConfig>) -> Client {
    // HTTP wants an authority; the certificate says who answers.
    let authority = Uri::from_static("http://control.hearth.internal");
    let connector = hearth_cluster::connector(Connect {
        address: address.to_owned(),
        member: Member::Control,
        // The authority is trusted for it: control planes come and go.
        key: None,
        tls,
    });
    let connection = Http2Connection::builder()
        .establishment_timeout(TIMEOUT)
        // A connection that a firewall has forgotten is found out before the lease is over.
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .lazy_with_connector(connector, authority.clone())
        .shared(MAX_WAITING_CALLS);
    let config = ClientConfig::new(authority)
        .with_protocol(Protocol::Grpc)
        .with_compression(CompressionRegistry::new())
        .with_default_timeout(TIMEOUT);
    Client::new(connection, config)
}

/// `HOST:PORT` of an address as it is typed.
fn host_and_port(url: &str) -> Result<String, Error> {
    let wrong = || Error::Address(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let bare = uri.path().trim_end_matches('/').is_empty() && uri.query().is_none();
    let (true, Some("https"), Some(host)) = (bare, uri.scheme_str(), uri.host()) else {
        return Err(wrong());
    };
    let port = uri.port_u16().unwrap_or(crate::DEFAULT_PORT);
    Ok(format!("{host}:{port}"))
}

/// Makes this machine a node of the cluster whose control plane is at `url`, as `node`.
/// Whoever answers there has to show the authority that the token names.
///
/// # Errors
/// [`Error`], with what to do.
pub async fn join(url: &str, token: &JoinToken, node: Uuid) -> Result<Membership, Error> {
    let control = host_and_port(url)?;
    let (key, request) = hearth_cluster::request()?;
    let client = client(&control, hearth_cluster::pinned(token.authority())?);
    let request = proto::JoinRequest {
        secret: token.secret(),
        node_id: node.to_string(),
        certificate_request: request,
        ..Default::default()
    };
    let answer = match client.join(request.clone()).await.map_err(Error::from) {
        // It may have been carried out, and only the answer got lost: it is good twice.
        Err(Error::Unreachable(_)) => client.join(request).await?,
        answer => answer?,
    };
    let answer = answer.into_owned();
    if authority_of(&answer.authority)? != token.authority() {
        return Err(Error::Malformed("another authority than the token's"));
    }
    let membership = Membership::new(control, answer.authority, answer.certificate, key);
    match membership.credentials()?.peer().member {
        Member::Node(id) if id == node => Ok(membership),
        _ => Err(Error::Malformed("a certificate for somebody else")),
    }
}

/// The control plane, as a node sees it.
pub struct ControlPlane {
    client: Client,
}

impl ControlPlane {
    /// At `HOST:PORT`, which need not be there yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(address: &str, credentials: &Arc<Credentials>) -> Result<Self, Error> {
        let tls = credentials.client_config()?;
        Ok(Self {
            client: client(address, tls),
        })
    }

    /// The next certificate (PEM) of the key that a request is for.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn renew(&self, request: String) -> Result<String, Error> {
        let request = proto::RenewRequest {
            certificate_request: request,
            ..Default::default()
        };
        let renewed = self.client.renew(request).await?.into_owned();
        Ok(renewed.certificate)
    }

    /// Makes this run of the node known; answers its generation, and how often to report.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn register(&self, node: &NodeRegistration) -> Result<(u64, Duration), Error> {
        let request = proto::AnnounceRequest {
            instance: node.instance.to_string(),
            name: node.name.clone(),
            address: node.address.clone(),
            labels: node.labels.clone().into_iter().collect(),
            version: node.version.clone(),
            revision: node.revision.clone(),
            ..Default::default()
        };
        let registered = self.client.announce(request).await?.into_owned();
        if registered.round_ms == 0 {
            return Err(Error::Malformed("no time between heartbeats"));
        }
        let round = Duration::from_millis(registered.round_ms.into());
        Ok((registered.generation, round))
    }

    /// Says how the node is.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn heartbeat(&self, generation: u64, report: String) -> Result<Heard, Error> {
        let request = proto::HeartbeatRequest {
            generation,
            report,
            ..Default::default()
        };
        let answer = self.client.heartbeat(request).await?.into_owned();
        match (answer.heard, answer.mode.as_str()) {
            (false, _) => Ok(Heard::Superseded),
            (true, "ready") => Ok(Heard::Yes(NodeMode::Ready)),
            (true, "draining") => Ok(Heard::Yes(NodeMode::Draining)),
            (true, "standby") => Ok(Heard::Yes(NodeMode::Standby)),
            (true, _) => Err(Error::Malformed("a mode that is not known here")),
        }
    }

    /// Says that this run of the node ends.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn leave(&self, generation: u64) -> Result<(), Error> {
        let request = proto::LeaveRequest {
            generation,
            ..Default::default()
        };
        self.client.leave(request).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_type_them() {
        for (url, expected) in [
            ("https://control", "control:5009"),
            ("https://control:6000/", "control:6000"),
            ("https://10.0.0.1:5009", "10.0.0.1:5009"),
            ("https://[fd00::1]", "[fd00::1]:5009"),
        ] {
            assert_eq!(host_and_port(url).expect(url), expected);
        }
        for url in [
            "",
            "control:5009",
            "http://control",
            "https://control/x",
            "https://a?b",
        ] {
            let error = host_and_port(url).expect_err(url).to_string();
            assert!(error.contains("https://HOST:5009"), "{error}");
        }
    }
}
