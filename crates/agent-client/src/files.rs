//! Files, read and written through the agent's `/files`: whole in memory, or streamed.

use crate::{AgentClient, Error, Result, transport};
use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{ClientBody, full_body};
use futures::TryStreamExt;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Bytes of a streamed upload that are read at once.
const CHUNK_BYTES: usize = 256 << 10;

impl AgentClient {
    /// Reads a file of at most `limit` bytes. Relative paths start at the default
    /// user's home.
    pub async fn file_read(&self, path: &str, limit: usize) -> Result<Bytes> {
        let request = self.request(Method::GET, &files(path, None), full_body(Bytes::new()))?;
        let response = transport::send(&self.pool, request, self.timeout).await?;
        let response = transport::accept(response, self.timeout).await?;
        transport::read(response, limit, self.timeout).await
    }

    /// Writes a file, replacing it, and makes the directories above it.
    pub async fn file_write(&self, path: &str, content: impl Into<Bytes>) -> Result<()> {
        self.post_file(path, None, full_body(content.into())).await
    }

    /// Copies a file of any length out of the guest, as `user` or else the default user;
    /// returns its length in bytes.
    ///
    /// # Errors
    /// When there is none, it cannot be read, the stream breaks off, or
    /// [`Error::Sink`] when `into` takes no more.
    pub async fn file_download(
        &self,
        path: &str,
        user: Option<&str>,
        into: &mut (impl AsyncWrite + Unpin),
    ) -> Result<u64> {
        let request = self.request(Method::GET, &files(path, user), full_body(Bytes::new()))?;
        let response = transport::send(&self.pool, request, self.timeout).await?;
        let mut body = transport::accept(response, self.timeout).await?.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::Transport(error.into()))?;
            if let Ok(data) = frame.into_data() {
                into.write_all(&data).await.map_err(Error::Sink)?;
                length += data.len() as u64;
            }
        }
        into.flush().await.map_err(Error::Sink)?;
        Ok(length)
    }

    /// Writes a file of any length as `user` or else the default user, replacing it, and
    /// makes the directories above it. The client's time limit is for all of it.
    ///
    /// # Errors
    /// When the agent refuses, or the connection or `from` breaks off.
    pub async fn file_upload(
        &self,
        from: impl AsyncRead + Send + Sync + 'static,
        path: &str,
        user: Option<&str>,
    ) -> Result<()> {
        let stream = tokio_util::io::ReaderStream::with_capacity(from, CHUNK_BYTES)
            .map_ok(Frame::data)
            .map_err(|error| ConnectError::internal(format!("read what is sent: {error}")));
        let body = StreamBody::new(stream);
        self.post_file(path, user, ClientBody::new(body)).await
    }

    async fn post_file(&self, path: &str, user: Option<&str>, body: ClientBody) -> Result<()> {
        let mut request = self.request(Method::POST, &files(path, user), body)?;
        let kind = HeaderValue::from_static("application/octet-stream");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        let response = transport::send(&self.pool, request, self.timeout).await?;
        transport::accept(response, self.timeout).await.map(drop)
    }
}

fn files(path: &str, user: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("path", path);
    if let Some(user) = user {
        query.append_pair("username", user);
    }
    format!("/files?{}", query.finish())
}
