//! Templates: looking, building, naming, deleting.

use crate::control::ControlClient;
use crate::{Error, Result};
use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{ClientBody, full_body};
use futures::TryStreamExt as _;
use hearth_agent_client::transport;
use hearth_wire::{
    AliasInfo, AssignTemplateTags, AssignedTemplateTags, DeleteTemplateTags, FilesUpload,
    NewTemplateBuild, RequestedTemplate, StartTemplateBuild, Template, TemplateBuildInfo,
    TemplateTag, TemplateWithBuilds,
};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use http_body::Frame;
use http_body_util::StreamBody;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// An archive may take this long on its way.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

impl ControlClient {
    /// The team's own templates, newest first.
    pub async fn template_list(&self) -> Result<Vec<Template>> {
        self.get("/templates").await
    }

    /// The templates that every team has, newest first.
    pub async fn template_list_default(&self) -> Result<Vec<Template>> {
        self.get("/default-templates").await
    }

    /// A template, by id or name, with its newest builds; an error with status 404
    /// when there is none.
    pub async fn template(&self, reference: &str) -> Result<TemplateWithBuilds> {
        self.get(&path(reference)).await
    }

    /// What a name stands for, with or without a tag; `None` when the team can use
    /// nothing of that name.
    pub async fn template_alias(&self, reference: &str) -> Result<Option<AliasInfo>> {
        let path = format!("/templates/aliases/{}", segment(reference));
        match self.get(&path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if matches!(error.status(), Some(400 | 403 | 404)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a template or a snapshot, by id or name. False when there was none.
    pub async fn template_delete(&self, reference: &str) -> Result<bool> {
        let request = self.request(Method::DELETE, &path(reference), full_body(Bytes::new()))?;
        match self.call(request).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Registers a build; it begins with [`Self::template_build_start`].
    pub async fn template_build_register(
        &self,
        new: &NewTemplateBuild,
    ) -> Result<RequestedTemplate> {
        self.exchange(Method::POST, "/v3/templates", new).await
    }

    /// Whether an archive of COPY sources is there, and where it goes.
    pub async fn template_files(&self, template_id: &str, hash: &str) -> Result<FilesUpload> {
        let path = format!("{}/files/{}", path(template_id), segment(hash));
        self.get(&path).await
    }

    /// Sends an archive of `length` bytes to where [`Self::template_files`] said.
    pub async fn template_upload(
        &self,
        upload: &FilesUpload,
        archive: tokio::fs::File,
        length: u64,
    ) -> Result<()> {
        let url = upload.url.as_deref().unwrap_or_default();
        let uri: Uri = url
            .parse()
            .ok()
            .filter(|uri: &Uri| uri.scheme_str() == Some("http"))
            .ok_or_else(|| Error::protocol(format!("{url:?} is no address for an upload")))?;
        let frames = ReaderStream::with_capacity(archive, 256 << 10)
            .map_ok(Frame::data)
            .map_err(|error| ConnectError::internal(format!("read the archive: {error}")));
        let mut request: Request<ClientBody> =
            Request::new(http_body_util::BodyExt::boxed(StreamBody::new(frames)));
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = uri;
        // Known, so that the server takes it for exact and nothing is chunked.
        request.headers_mut().insert(CONTENT_LENGTH, length.into());
        for (name, value) in upload.headers.iter().flatten() {
            let invalid = || Error::protocol(format!("the upload's header {name} is invalid"));
            let name = HeaderName::try_from(name).map_err(|_| invalid())?;
            let value = HeaderValue::try_from(value).map_err(|_| invalid())?;
            request.headers_mut().insert(name, value);
        }
        let response = transport::send(&self.pool, request, UPLOAD_TIMEOUT).await?;
        transport::accept(response, self.timeout).await.map(drop)
    }

    /// Begins a registered build.
    pub async fn template_build_start(
        &self,
        template_id: &str,
        build_id: &str,
        start: &StartTemplateBuild,
    ) -> Result<()> {
        let path = format!("/v2{}", build_path(template_id, build_id));
        let request = self.json(Method::POST, &path, start)?;
        self.call(request).await.map(drop)
    }

    /// How a build does, with at most 100 entries of its log from `offset` on.
    pub async fn template_build_status(
        &self,
        template_id: &str,
        build_id: &str,
        offset: usize,
    ) -> Result<TemplateBuildInfo> {
        let path = build_path(template_id, build_id);
        self.get(&format!("{path}/status?logsOffset={offset}&limit=100"))
            .await
    }

    /// Gives a build up. Fine when it has ended.
    pub async fn template_build_cancel(&self, template_id: &str, build_id: &str) -> Result<()> {
        let path = build_path(template_id, build_id);
        let request = self.request(Method::DELETE, &path, full_body(Bytes::new()))?;
        self.call(request).await.map(drop)
    }

    /// A template's tags, by name.
    pub async fn template_tags(&self, reference: &str) -> Result<Vec<TemplateTag>> {
        self.get(&format!("{}/tags", path(reference))).await
    }

    /// Gives tags to the build that `target`, `name[:tag]`, names.
    pub async fn template_tags_assign(
        &self,
        target: &str,
        tags: &[String],
    ) -> Result<AssignedTemplateTags> {
        let body = AssignTemplateTags {
            target: target.to_owned(),
            tags: tags.to_vec(),
        };
        self.exchange(Method::POST, "/templates/tags", &body).await
    }

    /// Takes tags away: all, or none when one does not exist.
    pub async fn template_tags_delete(&self, name: &str, tags: &[String]) -> Result<()> {
        let body = DeleteTemplateTags {
            name: name.to_owned(),
            tags: tags.to_vec(),
        };
        let request = self.json(Method::DELETE, "/templates/tags", &body)?;
        self.call(request).await.map(drop)
    }

    pub(crate) async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = self.request(Method::GET, path, full_body(Bytes::new()))?;
        let response = self.call(request).await?;
        self.decode(response).await
    }
}

/// A name with a namespace or a tag is one segment of the path.
fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn path(reference: &str) -> String {
    format!("/templates/{}", segment(reference))
}

fn build_path(template_id: &str, build_id: &str) -> String {
    format!("{}/builds/{}", path(template_id), segment(build_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_one_segment() {
        assert_eq!(path("team/x:v1"), "/templates/team%2Fx%3Av1");
        let base = hearth_agent_client::transport::parse_base("http://h").expect("valid");
        assert!(hearth_agent_client::transport::join(&base, &path("a b?c")).is_ok());
    }
}
