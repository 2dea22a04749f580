//! Nodes that run elsewhere: joining, and what each tells from then on.
//!
//! ```text
//!  operator ─▶ token ─▶ machine ─join─▶ identity + certificate ─▶ register ─▶ heartbeats
//!                                          │ every call: is it still who may?
//!                                          └─ revoked, or another key ─▶ refused
//! ```
//!
//! Who calls is proved by TLS before anything here runs; whether that one may still call is
//! asked of the store at each call, so that a revocation holds at once and in every process.

use super::LocalNode;
use crate::error::{Error, Kind};
use chrono::{DateTime, SecondsFormat, Utc};
use hearth_store::{NodeIdentity, NodeMode, NodeRegistration, NodeRun, Store, TokenUse};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How often a node reports, and for how long after a report it is believed to be there.
const ROUND: Duration = LocalNode::ROUND;
const LEASE: Duration = Duration::from_secs(LocalNode::ROUND.as_secs() * 4);
/// What a node may say of itself.
const MAX_NAME_BYTES: usize = 255;
const MAX_LABELS: usize = 64;
const MAX_LABEL_BYTES: usize = 255;
const MAX_REPORT_BYTES: usize = 256 * 1024;

/// Certifies the keys of nodes.
pub trait NodeIssuer: Send + Sync {
    /// The digest of the key in a request for a certificate (PKCS #10 in PEM), in hex, once
    /// it is proved that whoever made it has the key.
    ///
    /// # Errors
    /// `Invalid`, why it cannot be used.
    fn key(&self, request: &str) -> Result<String, Error>;
    /// A certificate (PEM) that a node has the key of a request.
    ///
    /// # Errors
    /// `Invalid`, why it cannot be used.
    fn issue(&self, node: Uuid, request: &str) -> Result<String, Error>;
    /// The authority's own certificate, in PEM.
    fn authority(&self) -> String;
}

/// A node that calls, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallingNode {
    /// Which.
    pub id: Uuid,
    /// Digest of its public key, in hex.
    pub key: String,
}

/// What a node is told that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is; this is what an operator wants of it.
    Yes(NodeMode),
    /// Another run of it is heard in its place, or it was removed.
    Superseded,
}

/// The control plane's side of membership.
pub struct Members {
    store: Arc<dyn Store>,
    issuer: Box<dyn NodeIssuer>,
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn refused(kind: Kind, why: impl Into<String>) -> Error {
    Error::new(kind, why).never_retry()
}

impl Members {
    /// How often a node is to report.
    pub const ROUND: Duration = ROUND;

    /// Of the nodes that a store knows.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, issuer: impl NodeIssuer + 'static) -> Self {
        Self {
            store,
            issuer: Box::new(issuer),
        }
    }

    /// The authority's certificate, in PEM.
    #[must_use]
    pub fn authority(&self) -> String {
        self.issuer.authority()
    }

    /// Makes a machine a node, for the token of this digest; answers its certificate.
    ///
    /// # Errors
    /// `Unauthenticated` for a token that is not good, `Conflict` for an id that another
    /// machine has, `Invalid` for a request that cannot be used. The token is good still
    /// after the latter two.
    pub async fn join(&self, digest: &str, node: Uuid, request: &str) -> Result<String, Error> {
        let key = self.issuer.key(request)?;
        let denied = |why: String| Err(refused(Kind::Unauthenticated, why));
        let again = "`hearth node token` on the control plane prints a new one";
        match self.store.node_token_use(digest, node, &key).await? {
            TokenUse::Admitted(identity) => {
                tracing::info!(node = %identity.node, key = identity.key, "a node has joined");
                self.issuer.issue(node, request)
            }
            TokenUse::Unknown => denied(format!("The token is not known here: {again}")),
            TokenUse::Expired(at) => {
                denied(format!("The token was good until {}: {again}", moment(at)))
            }
            TokenUse::Used => denied(format!(
                "The token has been used, and each is good once: {again}"
            )),
            TokenUse::Taken => Err(refused(
                Kind::Conflict,
                format!(
                    "A node {node} is there already, with another key. If this machine was \
                     copied from that one, delete keys/node in its state directory and join \
                     again; if it takes that one's place, stop Hearth there first, or revoke \
                     the node with `hearth node revoke`"
                ),
            )),
        }
    }

    /// Whether a node may still call.
    async fn admit(&self, node: &CallingNode) -> Result<(), Error> {
        let id = node.id;
        let again = "join again with a new token, `hearth node token`";
        let why = match self.store.node_identity(id).await? {
            None => format!("Node {id} has never joined here: {again}"),
            Some(NodeIdentity {
                revoked_at: Some(at),
                ..
            }) => format!("Node {id} was revoked at {}: {again}", moment(at)),
            Some(known) if known.key != node.key => format!(
                "Another machine has joined as node {id} at {}: this one is that node no more. \
                 Where it is to be one of its own, delete keys/node in its state directory and \
                 {again}",
                moment(known.joined_at)
            ),
            Some(_) => return Ok(()),
        };
        Err(refused(Kind::Forbidden, why))
    }

    /// Certifies a node's key anew.
    ///
    /// # Errors
    /// `Forbidden` of one that may not call, `Invalid` for another key than its own.
    pub async fn renew(&self, node: &CallingNode, request: &str) -> Result<String, Error> {
        self.admit(node).await?;
        if self.issuer.key(request)? != node.key {
            return Err(refused(
                Kind::Invalid,
                "A certificate is renewed for the key that it was for; another key needs a token",
            ));
        }
        self.issuer.issue(node.id, request)
    }

    /// Makes a run of a node known; answers its generation.
    ///
    /// # Errors
    /// `Forbidden` of one that may not call, `Invalid`.
    pub async fn register(
        &self,
        node: &CallingNode,
        registration: NodeRegistration,
    ) -> Result<u64, Error> {
        self.admit(node).await?;
        check(&registration)?;
        let registration = NodeRegistration {
            id: node.id,
            ..registration
        };
        let registered = self.store.node_register(registration, LEASE).await?;
        tracing::info!(
            node = %registered.id, name = registered.name, address = registered.address,
            generation = registered.generation, "a node has registered"
        );
        Ok(registered.generation)
    }

    /// Notes how a node is.
    ///
    /// # Errors
    /// `Forbidden` of one that may not call, `Invalid`.
    pub async fn heartbeat(
        &self,
        node: &CallingNode,
        generation: u64,
        report: &str,
    ) -> Result<Heard, Error> {
        self.admit(node).await?;
        if report.len() > MAX_REPORT_BYTES {
            return Err(Error::invalid("report", "is too long"));
        }
        let run = NodeRun {
            id: node.id,
            generation,
        };
        let heard = self.store.node_heartbeat(run, report, LEASE).await?;
        Ok(heard.map_or(Heard::Superseded, |record| Heard::Yes(record.mode)))
    }

    /// Notes that a run of a node ends.
    ///
    /// # Errors
    /// `Forbidden` of one that may not call.
    pub async fn leave(&self, node: &CallingNode, generation: u64) -> Result<(), Error> {
        self.admit(node).await?;
        let run = NodeRun {
            id: node.id,
            generation,
        };
        Ok(self.store.node_leave(run).await?)
    }
}

/// Refuses what would not fit into lists.
fn check(registration: &NodeRegistration) -> Result<(), Error> {
    let short = |text: &str| !text.is_empty() && text.len() <= MAX_NAME_BYTES;
    if !short(&registration.name) {
        return Err(Error::invalid("name", "must have 1 to 255 bytes"));
    }
    let port = registration
        .address
        .rsplit_once(':')
        .and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
    if !short(&registration.address) || port.is_none_or(|port| port == 0) {
        return Err(Error::invalid("address", "must be HOST:PORT"));
    }
    let labels = &registration.labels;
    let fits = |text: &String| text.len() <= MAX_LABEL_BYTES;
    if labels.len() > MAX_LABELS || !labels.iter().all(|(name, value)| fits(name) && fits(value)) {
        return Err(Error::invalid(
            "labels",
            "must be 64 at most, of 255 bytes each",
        ));
    }
    if registration.version.len() > MAX_NAME_BYTES || registration.revision.len() > MAX_NAME_BYTES {
        return Err(Error::invalid("version", "is too long"));
    }
    Ok(())
}
