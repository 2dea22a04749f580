//! Where requests for tenants may lead. A tenant names a registry, the registry names
//! token services and places to go on to, and the daemon that asks stands in the
//! host's own network: so each connection is resolved, checked and pinned here.
//!
//! Public addresses are open to all, over TLS. What is private, loopback, link-local
//! or a cloud's metadata, and what is plain HTTP, is reached only where the operator
//! listed it, and only on behalf of a registry that is listed itself: no other
//! registry leads there.

use crate::Registries;
use hearth_dial::{is_foreign, resolve};
use http::Uri;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use std::{
    collections::HashSet,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::net::TcpStream;

/// What the operator lists.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    /// `host[:port]` that may have any address.
    names: HashSet<String>,
    /// `host[:port]` that are spoken to without TLS.
    plain: HashSet<String>,
    ranges: Vec<IpNet>,
}

impl Listed {
    pub(crate) fn of(registries: &Registries) -> Self {
        let mut this = Self::default();
        for host in &registries.insecure {
            this.names.insert(host.clone());
            this.plain.insert(host.clone());
        }
        for mirror in &registries.mirrors {
            let host = mirror.location.split('/').next().unwrap_or_default();
            this.names.insert(host.to_owned());
        }
        for text in &registries.private {
            match text.parse::<IpNet>() {
                Ok(range) => this.ranges.push(range),
                Err(_) => drop(this.names.insert(text.clone())),
            }
        }
        let endpoint = registries.aws_endpoint.as_deref().unwrap_or_default();
        if let Some(authority) = endpoint.parse::<Uri>().ok().and_then(|uri| {
            let plain = uri.scheme_str() == Some("http");
            Some((plain, uri.authority()?.to_string()))
        }) {
            let (plain, authority) = authority;
            if plain {
                this.plain.insert(authority.clone());
            }
            this.names.insert(authority);
        }
        this
    }

    /// Whether a registry, as `host[:port]`, is listed by its name or its addresses.
    pub(crate) async fn has(&self, registry: &str) -> bool {
        if self.names.contains(registry) {
            return true;
        }
        if self.ranges.is_empty() {
            return false;
        }
        let Ok(uri) = format!("https://{registry}/").parse::<Uri>() else {
            return false;
        };
        let found = resolve(&uri).await.unwrap_or_default();
        !found.is_empty() && found.iter().all(|address| self.in_range(address.ip()))
    }

    fn in_range(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.ranges.iter().any(|range| range.contains(&address))
    }

    fn has_name(&self, uri: &Uri) -> bool {
        uri.authority()
            .is_some_and(|authority| self.names.contains(authority.as_str()))
    }
}

/// Connects to what a request's address names, if it may.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    listed: Arc<Listed>,
    /// Whether the request is for a registry that is listed itself.
    trusted: bool,
}

impl Dialer {
    pub(crate) fn new(listed: Arc<Listed>, trusted: bool) -> Self {
        Self { listed, trusted }
    }

    async fn dial(self, uri: Uri) -> io::Result<TokioIo<TcpStream>> {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let denied = |why: &str| {
            let why = format!("{authority} {why}");
            io::Error::new(io::ErrorKind::PermissionDenied, why)
        };
        let plain_too = self.trusted && self.listed.plain.contains(&authority);
        if uri.scheme_str() != Some("https") && !plain_too {
            return Err(denied(
                "is asked for without TLS, and is not in registries.insecure",
            ));
        }
        let any = self.trusted && self.listed.has_name(&uri);
        let may = |address| {
            let listed = any || (self.trusted && self.listed.in_range(address));
            listed || is_foreign(address)
        };
        let why = format!(
            "{authority} is at a private or local address, or this host's, and is not in \
             registries.private"
        );
        let stream = hearth_dial::connect(resolve(&uri).await?, may, &why).await?;
        Ok(TokioIo::new(stream))
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}
