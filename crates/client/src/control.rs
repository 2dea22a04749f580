//! The control plane's REST API.

use crate::{Error, Result, SandboxClient};
use connectrpc::client::{ClientBody, full_body};
use hearth_agent_client::transport::{self, HttpPool, MAX_BODY_BYTES, join, parse_base};
use hearth_ids::SandboxId;
use hearth_wire::{
    ConnectSandbox, ForkResult, ForkSandbox, ListedSandbox, LogLevel, NewSandbox, PauseSandbox,
    RollbackSandbox, Sandbox, SandboxDetail, SandboxLogEntry, SandboxLogsV2, SandboxState,
    SnapshotInfo, SnapshotSandbox, TimeoutSandbox,
};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Speaks to the API with one key. Clones share the connections.
#[derive(Clone)]
pub struct ControlClient {
    pub(crate) pool: HttpPool,
    base: Uri,
    sandbox_base: Uri,
    api_key: HeaderValue,
    pub(crate) timeout: Duration,
}

/// Which sandboxes to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// All states when empty.
    pub states: Vec<SandboxState>,
    /// Only sandboxes with all of these.
    pub metadata: Vec<(String, String)>,
    /// Sandboxes per page, at most 100.
    pub limit: Option<u32>,
    /// Continues after the page that gave this token.
    pub next_token: Option<String>,
}

/// Which entries of a log to read.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Milliseconds since 1970: where to begin, both ways including that time.
    pub cursor: Option<i64>,
    /// From the cursor to newer entries; without, to older ones.
    pub forward: bool,
    /// Entries, at most 1000.
    pub limit: Option<u32>,
    /// The least level.
    pub level: Option<LogLevel>,
    /// Only entries with this text.
    pub search: Option<String>,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The page's entries, in the API's order.
    pub items: Vec<T>,
    /// Asks for the page after this one; `None` on the last.
    pub next_token: Option<String>,
}

impl ControlClient {
    /// `base_url` is the API's address, `http://host[:port]`.
    pub fn new(base_url: &str, api_key: &str) -> Result<Self> {
        let base = parse_base(base_url)?;
        let mut api_key =
            HeaderValue::from_str(api_key).map_err(|_| Error::HeaderValue("the API key"))?;
        api_key.set_sensitive(true);
        Ok(Self {
            pool: transport::pool(),
            sandbox_base: base.clone(),
            base,
            api_key,
            timeout: REQUEST_TIMEOUT,
        })
    }

    /// Sends the sandboxes' traffic to another base URL than the API's. Its host must
    /// be one on which the edge routes by headers.
    pub fn with_sandbox_url(mut self, url: &str) -> Result<Self> {
        self.sandbox_base = parse_base(url)?;
        Ok(self)
    }

    /// Sets how long each call may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether the API answers and takes work.
    pub async fn health(&self) -> Result<()> {
        let request = self.request(Method::GET, "/health", full_body(Vec::new().into()))?;
        self.call(request).await.map(drop)
    }

    /// Creates a sandbox (second generation of the call).
    pub async fn sandbox_create(&self, new: &NewSandbox) -> Result<Sandbox> {
        self.exchange(Method::POST, "/v2/sandboxes", new).await
    }

    /// One page of the team's sandboxes.
    pub async fn sandbox_list(&self, query: &ListQuery) -> Result<Page<ListedSandbox>> {
        let path = format!("/v2/sandboxes{}", query.encode());
        let request = self.request(Method::GET, &path, full_body(Vec::new().into()))?;
        let response = self.call(request).await?;
        let next_token = response
            .headers()
            .get("x-next-token")
            .and_then(|token| token.to_str().ok())
            .filter(|token| !token.is_empty())
            .map(str::to_owned);
        Ok(Page {
            items: self.decode(response).await?,
            next_token,
        })
    }

    /// All of the team's sandboxes that match, over all pages.
    pub async fn sandbox_list_all(&self, query: &ListQuery) -> Result<Vec<ListedSandbox>> {
        let mut query = query.clone();
        let mut all = Vec::new();
        loop {
            let page = self.sandbox_list(&query).await?;
            all.extend(page.items);
            if page.next_token.is_none() || page.next_token == query.next_token {
                return Ok(all);
            }
            query.next_token = page.next_token;
        }
    }

    /// One sandbox; an error with status 404 when there is none.
    pub async fn sandbox(&self, id: &SandboxId) -> Result<SandboxDetail> {
        let path = format!("/sandboxes/{id}");
        let request = self.request(Method::GET, &path, full_body(Vec::new().into()))?;
        let response = self.call(request).await?;
        self.decode(response).await
    }

    /// Ends a sandbox. False when there was none.
    pub async fn sandbox_kill(&self, id: &SandboxId) -> Result<bool> {
        let path = format!("/sandboxes/{id}");
        let request = self.request(Method::DELETE, &path, full_body(Vec::new().into()))?;
        match self.call(request).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Entries of a sandbox's log, in the order that was asked for. The log outlives the
    /// sandbox for a while.
    pub async fn sandbox_logs(
        &self,
        id: &SandboxId,
        query: &LogQuery,
    ) -> Result<Vec<SandboxLogEntry>> {
        let path = format!("/v2/sandboxes/{id}/logs?{}", query.encode());
        let request = self.request(Method::GET, &path, full_body(Vec::new().into()))?;
        let response = self.call(request).await?;
        let logs: SandboxLogsV2 = self.decode(response).await?;
        Ok(logs.logs)
    }

    /// Sets how long a sandbox lives from now, in whole seconds.
    pub async fn sandbox_set_timeout(&self, id: &SandboxId, timeout: Duration) -> Result<()> {
        let body = TimeoutSandbox {
            timeout: seconds(timeout),
        };
        let path = format!("/sandboxes/{id}/timeout");
        let request = self.json(Method::POST, &path, &body)?;
        self.call(request).await.map(drop)
    }

    /// Connects to a sandbox, resuming it when it is paused, and lets it live for
    /// `timeout` at least.
    pub async fn sandbox_connect(
        &self,
        id: &SandboxId,
        timeout: Option<Duration>,
    ) -> Result<Sandbox> {
        let body = ConnectSandbox {
            timeout: timeout.map(seconds),
            memory: None,
        };
        let path = format!("/v2/sandboxes/{id}/connect");
        self.exchange(Method::POST, &path, &body).await
    }

    /// Stops a sandbox and keeps its state, its memory included where `memory` is
    /// set. False when it is paused already.
    pub async fn sandbox_pause(&self, id: &SandboxId, memory: bool) -> Result<bool> {
        let body = PauseSandbox {
            memory: Some(memory),
            require_healthy_guest: None,
        };
        let request = self.json(Method::POST, &format!("/sandboxes/{id}/pause"), &body)?;
        match self.call(request).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Keeps the state of a running sandbox as something to make sandboxes from.
    pub async fn sandbox_snapshot(
        &self,
        id: &SandboxId,
        name: Option<&str>,
    ) -> Result<SnapshotInfo> {
        let body = SnapshotSandbox {
            name: name.map(str::to_owned),
            memory: None,
        };
        let path = format!("/sandboxes/{id}/snapshots");
        self.exchange(Method::POST, &path, &body).await
    }

    /// Makes copies of a running sandbox; each succeeds or fails by itself.
    pub async fn sandbox_fork(
        &self,
        id: &SandboxId,
        count: u32,
        timeout: Duration,
    ) -> Result<Vec<ForkResult>> {
        let body = ForkSandbox {
            timeout: Some(seconds(timeout)),
            count: Some(i64::from(count)),
        };
        let path = format!("/sandboxes/{id}/fork");
        self.exchange(Method::POST, &path, &body).await
    }

    /// Puts a running sandbox back to one of its snapshots.
    pub async fn sandbox_rollback(&self, id: &SandboxId, snapshot: &str) -> Result<Sandbox> {
        let body = RollbackSandbox {
            snapshot_id: snapshot.to_owned(),
        };
        let path = format!("/sandboxes/{id}/rollback");
        self.exchange(Method::POST, &path, &body).await
    }

    /// A client for the agent of a sandbox that create or connect answered.
    pub fn sandbox_client(&self, sandbox: &Sandbox) -> Result<SandboxClient> {
        let id = SandboxId::parse_client(&sandbox.sandbox_id)?;
        SandboxClient::new(
            self.pool.clone(),
            &self.sandbox_base,
            id,
            sandbox.envd_access_token.as_deref(),
            self.timeout,
        )
    }

    pub(crate) async fn exchange<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T> {
        let request = self.json(method, path, body)?;
        let response = self.call(request).await?;
        self.decode(response).await
    }

    pub(crate) fn json<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<Request<ClientBody>> {
        let body = serde_json::to_vec(body).map_err(|error| Error::protocol(error.to_string()))?;
        let mut request = self.request(method, path, full_body(body.into()))?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        Ok(request)
    }

    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        body: ClientBody,
    ) -> Result<Request<ClientBody>> {
        let uri = join(&self.base, path)?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request
            .headers_mut()
            .insert("x-api-key", self.api_key.clone());
        Ok(request)
    }

    pub(crate) async fn call(&self, request: Request<ClientBody>) -> Result<Response<Incoming>> {
        let response = transport::send(&self.pool, request, self.timeout).await?;
        transport::accept(response, self.timeout).await
    }

    pub(crate) async fn decode<T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
    ) -> Result<T> {
        if response.status() == StatusCode::NO_CONTENT {
            return Err(Error::protocol("no content where some was expected"));
        }
        let body = transport::read(response, MAX_BODY_BYTES, self.timeout).await?;
        serde_json::from_slice(&body).map_err(|error| Error::protocol(error.to_string()))
    }
}

impl ListQuery {
    fn encode(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.states.is_empty() {
            let names: Vec<&str> = self.states.iter().copied().map(state_name).collect();
            query.append_pair("state", &names.join(","));
        }
        if !self.metadata.is_empty() {
            // The API decodes the query, parses the value as a query of its own, and
            // decodes each name and value of that once more.
            let encode = |text: &String| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let pairs = self
                .metadata
                .iter()
                .map(|(name, value)| (encode(name), encode(value)));
            let inner = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(pairs)
                .finish();
            query.append_pair("metadata", &inner);
        }
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        if let Some(token) = &self.next_token {
            query.append_pair("nextToken", token);
        }
        let query = query.finish();
        if query.is_empty() {
            query
        } else {
            format!("?{query}")
        }
    }
}

impl LogQuery {
    fn encode(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair(
            "direction",
            if self.forward { "forward" } else { "backward" },
        );
        if let Some(cursor) = self.cursor {
            query.append_pair("cursor", &cursor.to_string());
        }
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        if let Some(level) = self.level {
            query.append_pair("level", level.as_str());
        }
        if let Some(search) = &self.search {
            query.append_pair("search", search);
        }
        query.finish()
    }
}

fn state_name(state: SandboxState) -> &'static str {
    match state {
        SandboxState::Running => "running",
        SandboxState::Paused => "paused",
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        for good in ["http://localhost:3000", "http://127.0.0.1", "http://h:1/p/"] {
            assert!(ControlClient::new(good, "e2b_0").is_ok(), "{good}");
        }
        let bad = ControlClient::new("https://x", "e2b_0");
        assert!(matches!(bad, Err(Error::BaseUrl(_))));
    }

    #[test]
    fn queries() {
        assert_eq!(ListQuery::default().encode(), "");
        let query = ListQuery {
            states: vec![SandboxState::Running, SandboxState::Paused],
            metadata: vec![("a b".to_owned(), "c&d".to_owned())],
            limit: Some(5),
            next_token: None,
        };
        assert_eq!(
            query.encode(),
            "?state=running%2Cpaused&metadata=a%252520b%3Dc%252526d&limit=5"
        );
        assert_eq!(LogQuery::default().encode(), "direction=backward");
        let query = LogQuery {
            cursor: Some(7),
            forward: true,
            limit: Some(2),
            level: Some(LogLevel::Warn),
            search: Some("a b".to_owned()),
        };
        assert_eq!(
            query.encode(),
            "direction=forward&cursor=7&limit=2&level=warn&search=a+b"
        );
    }
}
