//! A server of the Model Context Protocol (MCP) that gives an agent sandboxes: to run
//! commands in, to write files to and to read them from, and to serve ports.
//!
//! It is a client of the REST API and of the agents in the sandboxes like any other
//! ([`hearth_client`]), with the rights of its key. What it makes, it ends with the
//! session, unless [`Options::keep`] says otherwise.
//!
//! Tools and their arguments: `tools`. The protocol is that of `rmcp`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod options;
mod output;
mod sandboxes;
mod tools;

pub use options::Options;

use hearth_client::ControlClient;
use rmcp::ServiceExt as _;
use sandboxes::Sandboxes;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why a session did not take place, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side did not open the session as the protocol says.
    #[error("open a session of the Model Context Protocol")]
    Initialize(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The task of the session ended before the session did.
    #[error("serve the session")]
    Session(#[source] tokio::task::JoinError),
}

/// Serves one session, message by message, until the other side closes `input` or
/// `cancelled` completes; then ends the sandboxes that it made.
///
/// # Errors
/// [`Error`]; the sandboxes are ended in that case, too.
pub async fn serve(
    client: ControlClient,
    options: Options,
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin + 'static,
    cancelled: impl Future<Output = ()>,
) -> Result<(), Error> {
    let sandboxes = Arc::new(Sandboxes::new(client, options));
    let session = async {
        let running = tools::Server::new(Arc::clone(&sandboxes))
            .serve((input, output))
            .await
            .map_err(|error| Error::Initialize(Box::new(error)))?;
        running.waiting().await.map_err(Error::Session).map(drop)
    };
    let served = tokio::select! {
        served = session => served,
        () = cancelled => Ok(()),
    };
    sandboxes.end_own().await;
    served
}
