//! The sandbox's environment variables, as its agent tells them.

use crate::language;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

const LIMIT: Duration = Duration::from_secs(10);
/// More than any environment that a process could be started with.
const MAX_BYTES: usize = 4 << 20;
const TOKEN_HEADER: &str = "X-Access-Token";

/// The guest agent, seen from inside the sandbox. One connection to it is kept, also
/// in a snapshot's memory, where both of its ends are.
#[derive(Debug, Clone)]
pub struct Agent {
    address: SocketAddr,
    client: Client<HttpConnector, Empty<Bytes>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the sandbox's agent does not answer")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the sandbox's agent answers with status {0}")]
    Status(u16),
    #[error("the sandbox's agent did not answer in time")]
    Timeout,
    #[error("the sandbox's agent sends no variables")]
    Body(#[source] serde_json::Error),
}

impl Agent {
    /// The agent that listens there. Connects when it is first asked something.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(None)
            .pool_max_idle_per_host(1)
            .build_http();
        Self { address, client }
    }

    /// `GET /envs` with the token that the client sent.
    pub(crate) async fn variables(
        &self,
        token: Option<&str>,
    ) -> Result<BTreeMap<String, String>, Error> {
        tokio::time::timeout(LIMIT, self.ask(token))
            .await
            .map_err(|_| Error::Timeout)?
    }

    async fn ask(&self, token: Option<&str>) -> Result<BTreeMap<String, String>, Error> {
        let mut request = Request::get(format!("http://{}/envs", self.address));
        if let Some(token) = token {
            request = request.header(TOKEN_HEADER, token);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Error::Http(error.into()))?;
        let answer = self.client.request(request).await;
        let response = answer.map_err(|error| Error::Http(error.into()))?;
        let status = response.status();
        if !status.is_success() {
            return Err(Error::Status(status.as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await
            .map_err(Error::Http)?;
        let mut variables: BTreeMap<String, String> =
            serde_json::from_slice(&body.to_bytes()).map_err(Error::Body)?;
        variables.retain(|name, value| language::is_variable_name(name) && !value.contains('\0'));
        Ok(variables)
    }
}
