//! One sandbox's agent, reached through the edge by routing headers.

use crate::{Error, Result};
use connectrpc::client::full_body;
use hearth_agent_client::transport::{HttpPool, token_value};
use hearth_agent_client::{AGENT_PORT, AgentClient};
use hearth_ids::SandboxId;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use std::ops::Deref;
use std::time::Duration;

const SANDBOX_ID: HeaderName = HeaderName::from_static("e2b-sandbox-id");
const SANDBOX_PORT: HeaderName = HeaderName::from_static("e2b-sandbox-port");

/// Speaks to one sandbox: everything that an [`AgentClient`] does. Clones share the
/// connections.
#[derive(Clone)]
pub struct SandboxClient {
    agent: AgentClient,
    id: SandboxId,
}

impl SandboxClient {
    pub(crate) fn new(
        pool: HttpPool,
        base: &Uri,
        id: SandboxId,
        access_token: Option<&str>,
        timeout: Duration,
    ) -> Result<Self> {
        let mut headers = HeaderMap::new();
        let id_value =
            HeaderValue::from_str(id.as_str()).map_err(|_| Error::HeaderValue("the sandbox ID"))?;
        headers.insert(SANDBOX_ID, id_value);
        headers.insert(SANDBOX_PORT, HeaderValue::from(AGENT_PORT));
        let token = access_token.map(token_value).transpose()?;
        Ok(Self {
            agent: AgentClient::new(pool, base.clone(), headers, token, timeout),
            id,
        })
    }

    /// The sandbox that this client talks to.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Posts JSON to a port of the sandbox; answers with the whole body, of at most
    /// `limit` bytes.
    ///
    /// # Errors
    /// When it is refused, does not come in time or is longer.
    pub async fn post_json(
        &self,
        port: u16,
        path: &str,
        body: &serde_json::Value,
        limit: usize,
    ) -> Result<bytes::Bytes> {
        let body = full_body(body.to_string().into());
        let mut request = self.agent.request(Method::POST, path, body)?;
        let headers = request.headers_mut();
        headers.insert(SANDBOX_PORT, HeaderValue::from(port));
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json);
        self.agent.exchange(request, limit).await
    }
}

impl Deref for SandboxClient {
    type Target = AgentClient;

    fn deref(&self) -> &AgentClient {
        &self.agent
    }
}
