//! The cluster's authority as the control plane's port to it.

use hearth_cluster::{Authority, Member, key_of};
use hearth_control::{Error, NodeIssuer};
use std::sync::Arc;
use uuid::Uuid;

/// Certifies nodes with the cluster's authority.
#[derive(Debug)]
pub struct Issuer(Arc<Authority>);

impl Issuer {
    /// With this authority.
    #[must_use]
    pub fn new(authority: Arc<Authority>) -> Self {
        Self(authority)
    }
}

fn refusal(error: hearth_cluster::Error) -> Error {
    match error {
        hearth_cluster::Error::Request(why) => Error::invalid("certificate_request", why),
        other => Error::internal(other),
    }
}

impl NodeIssuer for Issuer {
    fn key(&self, request: &str) -> Result<String, Error> {
        Ok(key_of(request).map_err(refusal)?.to_string())
    }

    fn issue(&self, node: Uuid, request: &str) -> Result<String, Error> {
        let issued = self.0.issue(request, Member::Node(node)).map_err(refusal)?;
        Ok(issued.pem)
    }

    fn authority(&self) -> String {
        self.0.pem().to_owned()
    }
}
