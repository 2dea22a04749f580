//! The sandbox's environment variables, as its agent tells them.

use crate::language;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(10);
/// More than any environment that a process could be started with.
const MAX_BYTES: usize = 4 << 20;
const TOKEN_HEADER: &str = "X-Access-Token";

/// The guest agent, seen from inside the sandbox.
#[derive(Debug, Clone)]
pub struct Agent {
    pub address: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the sandbox's agent is not reached")]
    Connect(#[source] io::Error),
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
        let http = |error: hyper::Error| Error::Http(error.into());
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(Error::Connect)?;
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(http)?;
        let mut request = Request::get("/envs").header("Host", "localhost");
        if let Some(token) = token {
            request = request.header(TOKEN_HEADER, token);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Error::Http(error.into()))?;
        let answer = async {
            let response = client.send_request(request).await.map_err(http)?;
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
            variables
                .retain(|name, value| language::is_variable_name(name) && !value.contains('\0'));
            Ok(variables)
        };
        tokio::pin!(answer, connection);
        // The connection is driven only as long as its answer is wanted.
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Ok(()) => answer.as_mut().await,
                Err(error) => Err(http(error)),
            },
        }
    }
}
