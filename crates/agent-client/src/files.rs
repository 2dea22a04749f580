//! Whole files, read and written through the agent's `/files`.

use crate::{AgentClient, Result, transport};
use bytes::Bytes;
use connectrpc::client::full_body;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderValue};

impl AgentClient {
    /// Reads a file of at most `limit` bytes. Relative paths start at the default
    /// user's home.
    pub async fn file_read(&self, path: &str, limit: usize) -> Result<Bytes> {
        let request = self.request(Method::GET, &files(path), full_body(Bytes::new()))?;
        let response = transport::send(&self.pool, request, self.timeout).await?;
        let response = transport::accept(response, self.timeout).await?;
        transport::read(response, limit, self.timeout).await
    }

    /// Writes a file, replacing it, and makes the directories above it.
    pub async fn file_write(&self, path: &str, content: impl Into<Bytes>) -> Result<()> {
        let mut request = self.request(Method::POST, &files(path), full_body(content.into()))?;
        let kind = HeaderValue::from_static("application/octet-stream");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        let response = transport::send(&self.pool, request, self.timeout).await?;
        transport::accept(response, self.timeout).await.map(drop)
    }
}

fn files(path: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("path", path)
        .finish();
    format!("/files?{query}")
}
